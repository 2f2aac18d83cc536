//! What workers and dispatchers say to each other. All of it is JSON on the wire and frozen by golden files.
//!
//! A signal (NATS) may be lost and carries enough state for the next one to heal it; an event (RabbitMQ, durable) is
//! delivered at least once and may repeat: [`crate::lifecycle`] calls a repeat stale.

mod report;
mod signal;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::device::DeviceState;
use crate::encode::Encode;
use crate::gstreamer::Installation;
use crate::id::{Incarnation, JobId, WorkerId};
use crate::job::{JobSpec, Queue};
use crate::topology::WorkQueue;

pub use report::{
    Artifact, ArtifactFile, AudioProbe, ChunkProof, CrfSearch, CrfTrial, EngineChoice, Event, LiveGap, LiveReport,
    LiveSink, Manifest, Outcome, PicturesProof, Probe, Proof, PsnrScores, Quality, RenditionProof, SourceIdentity,
    StreamProof, Usage, VideoProbe, VmafScores,
};
pub use signal::{
    Capacity, Heartbeat, JobAnswer, JobCommand, LiveProgress, LogLine, Phase, Progress, RunningAttempt, TakeOver,
    WorkerAnswer, WorkerCommand, WorkerState, revision,
};

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
    /// The AMQP `user_id`, which the broker checks against the publisher's connection; empty if the message has none. Workers of
    /// before do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
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
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Ability {
    /// Processor time in percent of one core.
    pub cpu_percent: u32,
    /// Memory in MiB.
    pub memory_mb: u64,
    /// Scratch space in MiB.
    pub disk_mb: u64,
    /// Encoders that passed a real one-frame encode, by FFmpeg's names.
    pub encoders: Vec<String>,
    /// Software encoders that did so since the worker started, and failed the last time. They are tried again and again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<LostEncoder>,
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
    /// Its devices that encode.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceState>,
    /// GStreamer, where it works. What it encodes is among the features.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gstreamer: Option<Installation>,
    /// What keeps its tools from the rest of the machine: of `landlock`, `seccomp`, `network` and `egress` those
    /// that work there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sandbox: Vec<String>,
}

impl Ability {
    /// Whether it has a feature.
    #[must_use]
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|known| known == feature)
    }

    /// The same with the encoders that rest or are lost now, and will be tried again.
    #[must_use]
    pub fn rested(&self) -> Ability {
        let mut rested = self.clone();
        rested.encoders.extend(self.lost.iter().map(|lost| lost.encoder.clone()));
        rested.encoders.extend(self.devices.iter().flat_map(|device| device.resting.iter().cloned()));
        rested
    }
}

/// An encoder that a worker had and does not have now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LostEncoder {
    /// FFmpeg's name.
    pub encoder: String,
    /// What the last trial said.
    pub why: String,
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
    /// How often the job was split into chunks since it was last sent round. Absent: the ledger does not split jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub splits: Option<u32>,
    /// Whether a split may name the sound as a chunk of its own, see [`crate::chunk::Piece::is_sound`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sound_apart: bool,
    /// Features that some chunks need of a worker, and that the ledger looks for before it gives them away. What needs another
    /// one is not split.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub minds: Vec<String>,
}

impl Grant {
    /// Whether chunks that need this feature go only to workers that have it.
    #[must_use]
    pub fn minds(&self, feature: &str) -> bool {
        self.minds.iter().any(|known| known == feature)
    }
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
