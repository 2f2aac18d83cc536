//! What workers and dispatchers say to each other. All of it is JSON on the wire and frozen by golden files.
//!
//! A signal (NATS) may be lost and carries enough state for the next one to heal it; an event (RabbitMQ, durable) is
//! delivered at least once and may repeat: [`crate::lifecycle`] calls a repeat stale.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::encode::Encode;
use crate::failure::Failure;
use crate::id::{Incarnation, JobId, WorkerId};
use crate::job::{JobSpec, Pool, Queue};
use crate::parse::Fault;
use crate::topology::WorkQueue;

/// Largest job body that is read, in bytes. A larger one is rejected without being parsed.
pub const MAX_BODY_BYTES: usize = 256 * 1024;

/// Who speaks: a worker in one of its lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sender {
    /// The worker.
    pub worker: WorkerId,
    /// Which life of it.
    pub incarnation: Incarnation,
}

/// One message as the broker handed it over, for whoever has to decide about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeliveredJob {
    /// The work queue in which it waited.
    pub work: WorkQueue,
    /// The AMQP `message_id`, if the client set one.
    pub message_id: Option<String>,
    /// The AMQP `content_type`, if the client set one.
    pub content_type: Option<String>,
    /// The body, base64 on the wire. Empty when `body_len` is over [`MAX_BODY_BYTES`].
    #[serde(with = "base64_bytes")]
    pub body: Vec<u8>,
    /// Length of the body in bytes.
    pub body_len: usize,
    /// Hex sha256 that stands for a message without an id, see [`fingerprint`].
    pub fingerprint: String,
    /// Whether the broker delivered it before.
    pub redelivered: bool,
    /// Returns that the broker counted.
    pub delivery_count: u64,
    /// W3C trace context of the publisher.
    pub traceparent: Option<String>,
}

/// What stands for a message without an id: sha256 over queue name and body. Two equal bodies are two jobs but either
/// copy may stand for either job, so a fingerprint with a count is enough.
#[must_use]
pub fn fingerprint(work: &WorkQueue, body: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    hash.update(work.name().as_bytes());
    hash.update([0]);
    hash.update(body);
    hex(&hash.finalize())
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a worker can run at most, with nothing else running.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ability {
    /// Processor time in percent of one core.
    pub cpu_percent: u32,
    /// Memory in MiB.
    pub memory_mb: u64,
    /// Scratch space in MiB.
    pub disk_mb: u64,
    /// Encoders that passed a real one-frame encode, by FFmpeg's names.
    pub encoders: Vec<String>,
    /// Whether the worker runs the `noop` engine.
    pub noop: bool,
    /// Whether each attempt gets a cgroup of its own with limits that hold.
    pub cgroups: bool,
    /// Where it fetches inputs from and puts outputs to besides files: schemes such as `https`, or buckets such as
    /// `s3://media`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stores: Vec<String>,
    /// What else it can do: [`Encode::FEATURE`], and filters by FFmpeg's names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
}

impl Ability {
    /// Whether it has a feature.
    #[must_use]
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|known| known == feature)
    }
}

/// Worker to dispatcher ([`crate::subjects::CLAIM`]): may I run this delivery?
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClaimRequest {
    /// Who asks.
    pub from: Sender,
    /// What was delivered.
    pub delivery: DeliveredJob,
    /// What the worker can run. `None`: as in its last heartbeat.
    pub ability: Option<Ability>,
    /// Whether nothing else runs on the worker: only then it may be given a job that must run alone.
    pub idle: bool,
    /// The attempt was started already because no dispatcher answered in time; this is its number.
    pub running_unanswered: Option<u32>,
}

/// Worker to dispatcher ([`crate::subjects::TAKE`]): there is room now for the job that I was offered. May I run it?
/// Answered with a [`ClaimReply`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TakeRequest {
    /// Who asks.
    pub from: Sender,
    /// The job.
    pub job: JobId,
    /// Its queue, of which somebody may have paused everything.
    pub queue: Queue,
    /// What the worker can run.
    pub ability: Ability,
    /// Whether nothing else runs on the worker.
    pub idle: bool,
}

/// Dispatcher to worker: the answer to a claim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
#[must_use]
pub enum ClaimReply {
    /// Run it under this lease.
    Run(Box<Grant>),
    /// Acknowledge the delivery and forget it.
    Drop {
        /// The job, where there is one.
        job: Option<JobId>,
        /// Why.
        reason: DropReason,
    },
    /// Hand the delivery back and do not take it again for a while.
    Hold {
        /// How long, in milliseconds.
        retry_after_ms: u64,
        /// What is held back.
        scope: HoldScope,
        /// Why, in words.
        reason: String,
    },
}

/// What a worker does not take for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldScope {
    /// This delivery.
    Delivery,
    /// Anything of its queue (`live`, `default` or `batch`): somebody has paused it.
    Queue,
}

/// The right to run one attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// The job.
    pub job: JobId,
    /// The attempt that this grant is for. It fences.
    pub attempt: u32,
    /// The lease ends after so many milliseconds without a heartbeat that names the attempt.
    pub lease_ms: u64,
    /// The job in canonical form, with limits as this attempt may use them.
    pub spec: JobSpec,
    /// The encode that the job resolves to. `None` for the `noop` engine.
    pub encode: Option<Encode>,
    /// Whether nothing else may run on the worker meanwhile: the job may be what kills its workers.
    pub alone: bool,
    /// W3C trace context to continue.
    pub traceparent: Option<String>,
}

/// Why a delivery is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// The job was cancelled.
    Cancelled,
    /// The job has ended otherwise.
    Finished,
    /// A later attempt exists, or waits for its time: the ledger will publish it again.
    Superseded,
    /// Its owner is alive. The ledger has taken over the duty to publish the job again.
    OwnerAlive,
    /// The job is not valid, and recorded as rejected.
    Rejected,
    /// The job cannot run here; the ledger will place it.
    Unfit,
}

impl DropReason {
    /// The name as it stands in labels and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            DropReason::Cancelled => "cancelled",
            DropReason::Finished => "finished",
            DropReason::Superseded => "superseded",
            DropReason::OwnerAlive => "owner_alive",
            DropReason::Rejected => "rejected",
            DropReason::Unfit => "unfit",
        }
    }
}

/// Worker to dispatcher ([`crate::subjects::COMMIT`]): may I publish this attempt's output?
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommitRequest {
    /// Who asks.
    pub from: Sender,
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: u32,
}

/// Worker to dispatcher ([`crate::subjects::CUSTODY`]): will the ledger answer for this attempt, so that I may acknowledge
/// its delivery? Answered with a [`CommitReply`].
pub type CustodyRequest = CommitRequest;

/// Dispatcher to worker: the answer to a commit request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
#[must_use]
pub enum CommitReply {
    /// Publish.
    Granted,
    /// Publish nothing: kill, clean, forget.
    Refused {
        /// Why, in words.
        reason: String,
    },
}

/// What an attempt is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Getting ready: scratch, input, cgroup.
    Prepare,
    /// The tool runs.
    Encode,
    /// The output is probed and decoded.
    Verify,
    /// Asking for the right to publish, and publishing.
    Commit,
}

/// How far an attempt is. Percent stays under 100 until the job is completed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: u32,
    /// The worker.
    pub worker: WorkerId,
    /// Counts up within the attempt, so that a late signal is recognised.
    pub seq: u64,
    /// What it is doing.
    pub phase: Phase,
    /// 0 to 99.9; `None` when the length of the source is unknown.
    pub percent: Option<f64>,
    /// Frames written.
    pub frame: Option<u64>,
    /// Frames per second.
    pub fps: Option<f64>,
    /// Seconds of media per second of wall time.
    pub speed: Option<f64>,
    /// Media time written, in microseconds.
    pub out_time_us: Option<i64>,
    /// Bytes written.
    pub size_bytes: Option<u64>,
    /// Seconds left, by the smoothed speed.
    pub eta_secs: Option<f64>,
}

/// One line of a tool's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogLine {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: u32,
    /// Counts up within the attempt.
    pub seq: u64,
    /// The line, secrets taken out.
    pub line: String,
}

/// A lease that a heartbeat renews.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunningAttempt {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: u32,
    /// How far it is; absent before the first report.
    pub progress: Option<Progress>,
    /// Whether it is frozen, by a pause or to make room for a live job.
    pub frozen: bool,
}

/// What a worker may take and has taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Capacity {
    /// Room for so many unit jobs.
    pub slots: u32,
    /// Slots in use.
    pub used: u32,
    /// Processor time in percent of one core, from the worker's cgroup.
    pub cpu_percent: u32,
    /// Memory in MiB, from the worker's cgroup.
    pub memory_mb: u64,
    /// Scratch space in MiB.
    pub disk_mb: u64,
}

/// Whether a worker takes work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// Takes work.
    Ready,
    /// Takes no more, finishes what it has.
    Draining,
    /// Has stopped: its last heartbeat.
    Stopped,
    /// Fell silent; said by the ledger, never by a worker.
    Lost,
}

impl WorkerState {
    /// The name as it stands in columns and labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            WorkerState::Ready => "ready",
            WorkerState::Draining => "draining",
            WorkerState::Stopped => "stopped",
            WorkerState::Lost => "lost",
        }
    }
}

/// Worker to dispatchers ([`crate::subjects::heartbeat`]), every second: I live, and these are my leases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Who speaks.
    pub from: Sender,
    /// Counts up within the incarnation.
    pub seq: u64,
    /// The worker's clock. For display: leases use the ledger's clock.
    pub at: Timestamp,
    /// Host name.
    pub host: String,
    /// Version of the worker.
    pub version: String,
    /// The pools it serves.
    pub pools: Vec<Pool>,
    /// Whether it takes work.
    pub state: WorkerState,
    /// Room.
    pub capacity: Capacity,
    /// What it can run.
    pub ability: Ability,
    /// Every attempt it runs.
    pub running: Vec<RunningAttempt>,
    /// What it understands, see [`revision`].
    #[serde(default = "revision::first", skip_serializing_if = "revision::is_first")]
    pub revision: u32,
    /// The job that it was offered and keeps room for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserved: Option<JobId>,
}

pub mod revision {
    //! What a worker understands beyond the first version of the protocol, so that a newer dispatcher asks no more of it.

    /// Serves the twins of its work queues, see [`crate::topology::WorkQueue::returned_name`].
    pub const SERVES_TWINS: u32 = 2;
    /// Understands [`WorkerCommand::Offer`](super::WorkerCommand::Offer), and names what it keeps room for in its heartbeats.
    pub const TAKES_OFFERS: u32 = 3;
    /// The revision that this version speaks.
    pub const CURRENT: u32 = TAKES_OFFERS;

    pub(super) fn first() -> u32 {
        1
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    pub(super) fn is_first(revision: &u32) -> bool {
        *revision == first()
    }
}

/// Dispatcher to one worker ([`crate::subjects::control_worker`]), request/reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum WorkerCommand {
    /// Take no more work, finish what runs, stop.
    Drain,
    /// Are you alive, and do you run this attempt?
    Ping {
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: u32,
    },
    /// Keep room for this job, take no more until it is there, and then ask for the job by a [`TakeRequest`].
    Offer {
        /// The job.
        job: JobId,
        /// Whether it needs the whole worker.
        alone: bool,
        /// The job in canonical form: says how much room it needs.
        spec: Box<JobSpec>,
    },
    /// Keep no room for this job any more: it has ended, waits for something else, or runs elsewhere.
    Withdraw {
        /// The job.
        job: JobId,
    },
}

/// A worker's answer to a [`WorkerCommand`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerAnswer {
    /// Who answers.
    pub from: Sender,
    /// For `Ping`: whether it runs the attempt. For `Drain`: whether it drains now. For `Offer`: whether it keeps room. For
    /// `Withdraw`: whether it kept room until now.
    pub yes: bool,
    /// Why an offer is declined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How many slots it keeps for an offer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
}

impl WorkerAnswer {
    /// Yes or no, and nothing else to say.
    #[must_use]
    pub fn new(from: Sender, yes: bool) -> WorkerAnswer {
        WorkerAnswer { from, yes, reason: None, slots: None }
    }
}

/// Dispatcher to whoever runs a job ([`crate::subjects::control_job`]), request/reply. Every command may repeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum JobCommand {
    /// End this attempt: the job is cancelled.
    Cancel {
        /// The attempt.
        attempt: u32,
    },
    /// This attempt has lost its lease: kill it, clean up, report nothing.
    Abandon {
        /// The attempt.
        attempt: u32,
    },
    /// Freeze the process tree of this attempt.
    Pause {
        /// The attempt.
        attempt: u32,
    },
    /// Thaw it.
    Resume {
        /// The attempt.
        attempt: u32,
    },
}

/// A worker's answer to a [`JobCommand`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobAnswer {
    /// Who answers.
    pub from: Sender,
    /// Whether the command is being carried out.
    pub accepted: bool,
    /// Why not, in words.
    pub reason: Option<String>,
}

/// Worker to ledger, durable ([`crate::topology::EVENTS_EXCHANGE`]): how an attempt ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Names this report; a repeat has the same.
    pub id: Uuid,
    /// Who reports.
    pub from: Sender,
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: u32,
    /// The worker's clock.
    pub at: Timestamp,
    /// What the attempt used.
    pub usage: Option<Usage>,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Event {
    /// The routing key on the events exchange, such as `attempt.finished`.
    #[must_use]
    pub fn routing_key(&self) -> String {
        format!("attempt.{}", self.outcome.name())
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The output is published and proven. `None` only for the `noop` engine.
    Finished {
        /// The proof.
        manifest: Option<Box<Manifest>>,
    },
    /// It failed.
    Failed {
        /// Why.
        failure: Failure,
    },
    /// The job can never run as it is written, found before the tool started.
    Rejected {
        /// What is wrong with it.
        faults: Vec<Fault>,
    },
    /// Handed back unfinished, free of charge.
    Released {
        /// Why, in words.
        reason: String,
    },
    /// Ended because the job was cancelled.
    Cancelled,
}

impl Outcome {
    /// The name as it stands in routing keys, columns and labels.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Finished { .. } => "finished",
            Outcome::Failed { .. } => "failed",
            Outcome::Rejected { .. } => "rejected",
            Outcome::Released { .. } => "released",
            Outcome::Cancelled => "cancelled",
        }
    }
}

/// What an attempt used.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Wall time in milliseconds.
    pub wall_ms: u64,
    /// Processor time in milliseconds.
    pub cpu_ms: u64,
    /// Largest memory in bytes, where the kernel tells.
    pub peak_memory_bytes: Option<u64>,
    /// Bytes of input.
    pub input_bytes: Option<u64>,
    /// Bytes of output.
    pub output_bytes: Option<u64>,
}

/// The proof that goes with an output, stored in the ledger and beside the file as `<output>.ffpool.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Manifest {
    /// The job.
    pub job: JobId,
    /// The attempt that made it.
    pub attempt: u32,
    /// The worker.
    pub worker: WorkerId,
    /// When it was verified, by the worker's clock.
    pub at: Timestamp,
    /// Version of ffpool.
    pub version: String,
    /// The tool's first version line.
    pub tool: String,
    /// The exact argument list, paths as given to the tool.
    pub arguments: Vec<String>,
    /// Argument lists of the runs before it: measurements, first passes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Vec<String>>,
    /// The prober's first version line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prober: Option<String>,
    /// The files.
    pub artifacts: Vec<Artifact>,
    /// What was read.
    pub source: Option<SourceIdentity>,
    /// What probing found in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_probe: Option<Probe>,
    /// What it cost.
    pub usage: Usage,
}

/// A file a job produced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Artifact {
    /// Where it is.
    pub url: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its hex sha256.
    pub sha256: String,
    /// What probing found.
    pub probe: Probe,
    /// What reading every packet and decoding every frame found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
}

/// What reading every packet of an output and decoding it to its end found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Proof {
    /// Each stream, in the file's order.
    pub streams: Vec<StreamProof>,
    /// Frames of video that decoded, every error fatal.
    pub frames: Option<u64>,
    /// Measured loudness in LUFS, where the job asks for one.
    pub lufs: Option<f64>,
}

/// What the packets of one stream are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StreamProof {
    /// `video`, `audio`, `subtitle` or another of FFmpeg's kinds.
    pub kind: String,
    /// FFmpeg's codec name.
    pub codec: String,
    /// Packets.
    pub packets: u64,
    /// Bytes of all packets.
    pub bytes: u64,
    /// Time of the first, in seconds.
    pub first_secs: Option<f64>,
    /// End of the last, in seconds.
    pub end_secs: Option<f64>,
}

/// The source as it was when it was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SourceIdentity {
    /// Where it was, secrets taken out.
    pub url: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its modification time.
    pub modified: Option<Timestamp>,
    /// Hex sha256 of what was fetched. Absent for files, which are read in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The version that its server named, by the entity tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

/// What probing a file found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Probe {
    /// FFmpeg's format names, such as `mov,mp4,m4a,3gp,3g2,mj2`.
    pub format: String,
    /// Length in seconds.
    pub duration_secs: Option<f64>,
    /// Bits per second over all.
    pub bitrate: Option<u64>,
    /// The first video stream.
    pub video: Option<VideoProbe>,
    /// The first audio stream.
    pub audio: Option<AudioProbe>,
    /// All streams counted.
    pub streams: u32,
}

/// What probing a video stream found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VideoProbe {
    /// FFmpeg's codec name, such as `h264`.
    pub codec: String,
    /// Profile, such as `High`.
    pub profile: Option<String>,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Average frames per second.
    pub fps: Option<f64>,
    /// Pixel format.
    pub pixel_format: Option<String>,
    /// Length in seconds.
    pub duration_secs: Option<f64>,
    /// Frames that decoded, where counted.
    pub frames: Option<u64>,
    /// Rotation in degrees to apply on display.
    pub rotation: Option<i32>,
}

/// What probing an audio stream found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AudioProbe {
    /// FFmpeg's codec name, such as `aac`.
    pub codec: String,
    /// Channels.
    pub channels: Option<u32>,
    /// Samples per second.
    pub sample_rate: Option<u32>,
    /// Length in seconds.
    pub duration_secs: Option<f64>,
}

/// Extra facts for a log line or an event, in a stable order.
pub type Facts = BTreeMap<String, serde_json::Value>;

mod base64_bytes {
    //! Bytes as base64 text.

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        STANDARD.decode(text.as_bytes()).map_err(de::Error::custom)
    }
}
