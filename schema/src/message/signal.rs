//! Signals over NATS: what attempts do, what workers are and can, what they are told.
//!
//! Invariant: any of them may be lost; each carries enough for the next one to heal it.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Ability, Sender};
use crate::id::{JobId, WorkerId};
use crate::job::{JobSpec, Pool};

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
    /// How a live encode keeps up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveProgress>,
}

/// How a live encode keeps up.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LiveProgress {
    /// Which run of the tool it is, from 1.
    pub run: u32,
    /// Whether media come in now.
    pub is_up: bool,
    /// Frames that were left out to keep the rate.
    pub dropped: u64,
    /// Frames that were written twice to keep the rate.
    pub duplicated: u64,
    /// Sinks that do not take what is sent to them.
    pub sinks_down: u32,
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
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// Is there, and finds out what it can run: its room and its abilities are not known yet.
    Starting,
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
    /// All of them.
    pub const ALL: [WorkerState; 5] =
        [WorkerState::Starting, WorkerState::Ready, WorkerState::Draining, WorkerState::Stopped, WorkerState::Lost];

    /// The state of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<WorkerState> {
        WorkerState::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// The name as it stands in columns and labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            WorkerState::Starting => "starting",
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
    /// Keep room for this job, take no more until it is there, and then ask for the job by a [`TakeRequest`](super::TakeRequest).
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
    /// End this attempt of a live job with what it has, as if its time were over.
    Finish {
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

/// Worker to worker ([`crate::subjects::hand_over`]), request/reply: attempts before this one are to let go of the job's sinks.
/// The answer is a [`JobAnswer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeOver {
    /// Who asks.
    pub from: Sender,
    /// The attempt that takes them.
    pub attempt: u32,
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
