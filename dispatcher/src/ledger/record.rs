//! One job's row as a batch holds it, and what a decision makes of it. Pure: no clock, no randomness, no database.
//!
//! Invariant: what is decided here and what is written are the same: a batch writes each touched record as it stands
//! after its last input, and the rows of history in the order in which they came about.

mod decide;
mod words;

pub(super) use decide::decide;

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use ffpool_schema::chunk::Piece;
use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::id::JobId;
use ffpool_schema::job::JobSpec;
use ffpool_schema::lifecycle::{Custody, End, Facts, Input, State, Step, Tell};
use ffpool_schema::message::{Manifest, Sender, Usage};
use ffpool_schema::parse::Fault;
use ffpool_schema::retry::Backoff;
use ffpool_schema::thumbnail::Thumbnail;
use serde_json::Value;

use super::families::Relative;
use super::fresh::NewJob;
use super::quotas::{Held, Start, Tallies};
use super::tales::{Tale, Via};

/// After this time somebody else may publish a job that a dispatcher has set out to publish.
pub(super) const PUBLISH_CLAIM_MS: i64 = 10_000;
/// The leader looks several times a second for room for a job that is held back. An older version, which does not know of it,
/// publishes the job after so long.
pub(super) const HELD_MS: i64 = 60_000;
/// Pause before a job that did not fit one worker is published again, if no worker was found for it meanwhile.
pub(super) const PLACEMENT_PAUSE_MS: i64 = 2_000;
/// A worker that was offered a job says in every heartbeat that it keeps room for it. After so long without, the job is
/// published again: ten heartbeats, for the worker may be starting an encode on a busy machine, and little beside the
/// wait for room.
pub(super) const OFFER_MS: i64 = 10_000;
/// A job that has lost so many workers runs alone from then on: it may be what kills them.
const ALONE_AFTER: u32 = 2;
/// How many times the lost workers of a job a chunk may cost, and the whole that is put together from chunks: an encode in chunks
/// is to outlast machines that are taken away all the time, and one that is unlucky would end it.
pub(super) const LOSSES_OF_CHUNKS: u32 = 4;

/// Whether a job that has lost so many workers runs alone.
pub(super) fn is_alone(losses: u32, in_chunks: bool) -> bool {
    losses >= if in_chunks { ALONE_AFTER * LOSSES_OF_CHUNKS } else { ALONE_AFTER }
}

/// What decisions depend on besides the job.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Length of a lease.
    pub lease: Duration,
    /// Wait after failures.
    pub backoff: Backoff,
    /// Lost workers after which a job is parked.
    pub loss_limit: u32,
}

/// Something that happened to a job, with what is to be recorded of it.
#[derive(Debug, Clone)]
pub struct Happening {
    /// The job.
    pub job: JobId,
    /// What happened.
    pub input: Input,
    /// Only under this condition, looked at when the job's row is locked.
    pub only_if: OnlyIf,
    /// What is known about it.
    pub evidence: Evidence,
    /// The job itself, recorded first if the ledger does not have it.
    pub record: Option<Box<NewJob>>,
    /// Nobody waits for the answer after this instant: not decided then, unless it was begun.
    pub expires: Option<Instant>,
    /// How the ledger heard of it.
    pub via: Via,
}

impl Happening {
    /// `input` to `job`, with nothing more known.
    #[must_use]
    pub fn new(job: JobId, input: Input) -> Happening {
        Happening {
            job,
            input,
            only_if: OnlyIf::Always,
            evidence: Evidence::default(),
            record: None,
            expires: None,
            via: Via::Own,
        }
    }
}

/// A condition that is looked at under the lock of the job's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnlyIf {
    /// No condition.
    Always,
    /// The lease has run out: it may have been renewed since it was seen.
    LeaseIsOver,
    /// Its time has come.
    IsDue,
    /// It is held back for its tenant's sake.
    IsHeld,
    /// Its deadline has passed: a redrive may have lifted it.
    DeadlineIsOver,
    /// The owner is dead, as long as it is still this one in this attempt. Says nothing otherwise, and the claim is
    /// decided as if nobody had been asked.
    OwnerDead {
        /// Who was asked.
        owner: Sender,
        /// About which attempt.
        attempt: u32,
    },
}

/// What is known about a happening.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// Why an attempt failed.
    pub failure: Option<Failure>,
    /// What is wrong with the job.
    pub faults: Vec<Fault>,
    /// The proof of the output.
    pub manifest: Option<Box<Manifest>>,
    /// What the attempt used.
    pub usage: Option<Usage>,
    /// Why, in words.
    pub reason: Option<String>,
    /// Who did it, where that is a person or a worker.
    pub by: Option<String>,
    /// Whether the claimer runs other jobs.
    pub busy: bool,
    /// The chunks that are to be made first.
    pub pieces: Vec<Piece>,
    /// A small picture of the output.
    pub thumbnail: Option<Thumbnail>,
}

/// What became of a happening.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// The ledger has no such job.
    Unknown,
    /// Its condition did not hold.
    Skipped,
    /// It was decided.
    Decided(Box<Decided>),
}

/// A decision and the job after it.
#[derive(Debug, Clone)]
pub struct Decided {
    /// The job.
    pub job: JobId,
    /// Its number.
    pub number: i64,
    /// The decision.
    pub step: Step,
    /// The state before it.
    pub before: State,
    /// The state after it.
    pub state: State,
    /// The last attempt's number after it.
    pub attempt: u32,
    /// The job in canonical form; only after a claim.
    pub spec: Option<Result<JobSpec, String>>,
    /// The trace it belongs to.
    pub traceparent: Option<String>,
    /// What its failures have changed about its next attempt.
    pub lessons: Lessons,
    /// How often it was split into chunks since it was last sent round.
    pub splits: u32,
}

/// What a job's failures have changed about its next attempt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lessons {
    /// Memory in MiB, since an attempt ran out of it.
    pub raised_memory_mb: Option<u64>,
    /// Software instead of the device that failed.
    pub fell_back: bool,
    /// Nothing else beside it.
    pub alone: bool,
}

/// A job's row, locked.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) id: JobId,
    pub(super) number: i64,
    pub(super) queue: String,
    pub(super) tenant: Option<String>,
    /// Cores that it takes of its tenant's.
    pub(super) cores: f64,
    /// The smaller, the more urgent.
    pub(super) urgency: i32,
    /// Whether it was held back at its turn, and has been let go.
    pub(super) is_let_go: bool,
    /// Why its tenant's quota holds it back.
    pub(super) held: Option<Held>,
    pub(super) facts: Facts,
    pub(super) custody: Option<Custody>,
    pub(super) tapped: bool,
    pub(super) reason: Option<String>,
    pub(super) traceparent: Option<String>,
    /// The job in canonical form, as JSON. Only read for claims and splits.
    pub(super) spec: Option<String>,
    pub(super) lease_is_over: bool,
    pub(super) is_due: bool,
    pub(super) deadline_is_over: bool,
    pub(super) raised_memory_mb: Option<u64>,
    pub(super) fell_back: bool,
    /// Chunks that it was split into, if it was.
    pub(super) chunks: Option<u32>,
    pub(super) splits: u32,
    /// Whether it makes a chunk of another job, or is put together from its own.
    pub(super) in_chunks: bool,
    /// By Postgres' clock.
    pub(super) created_at: SystemTime,
    pub(super) age_secs: f64,
    /// Since it is in its present state.
    pub(super) since_secs: f64,
    /// Since its last attempt ended; only read for claims, where it had one.
    pub(super) idle_secs: Option<f64>,
    pub(super) run_secs: Option<f64>,
    pub(super) writes: Writes,
}

impl Record {
    /// What its start would take of its tenant's.
    pub(super) fn start(&self) -> Start {
        Start { number: self.number, urgency: self.urgency, cores: self.cores, is_let_go: self.is_let_go }
    }
}

/// What of a record is to be written besides its facts.
#[derive(Debug, Default)]
pub(super) struct Writes {
    pub(super) touched: bool,
    pub(super) begun: bool,
    pub(super) renew_lease: bool,
    pub(super) clear_progress: bool,
    pub(super) outbox: Option<Outbox>,
    pub(super) failure: Option<Failure>,
    pub(super) faults: Option<Vec<Fault>>,
    pub(super) manifest: Option<Box<Manifest>>,
    /// The kind of dead letter that it has become.
    pub(super) kind: Option<String>,
    /// What its next attempt is to do otherwise.
    pub(super) lesson: Option<Lesson>,
    /// Chunks that it has been split into.
    pub(super) chunks: Option<u32>,
}

/// What a job's next attempt is to do otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lesson {
    /// Take twice the memory.
    MoreMemory,
    /// Use software, where the job allows it.
    FallBack,
    /// Begin as if nothing had happened; a deadline that has passed is lifted.
    Forget,
}

impl Lesson {
    /// The name as the update knows it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Lesson::MoreMemory => "more_memory",
            Lesson::FallBack => "fall_back",
            Lesson::Forget => "forget",
        }
    }
}

/// What happens to a job's place in the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outbox {
    /// Nothing is to be published any more.
    Leave,
    /// To be published after so many milliseconds.
    Enter(i64),
    /// To be published at once, to the twin of its work queue.
    EnterFirst,
    /// To be published at the job's `not_before`, or at once.
    EnterWhenDue,
}

/// What a batch writes besides the records.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) events: Vec<EventRow>,
    pub(super) begun: Vec<BegunRow>,
    pub(super) ended: Vec<EndedRow>,
    pub(super) failures: Vec<FailureRow>,
    /// Of jobs that have completed, by the attempt that did it. One a job: a statement cannot write a row twice.
    pub(super) thumbnails: BTreeMap<JobId, (u32, Thumbnail)>,
    /// Jobs that make chunks, to be recorded, longest first.
    pub(super) pieces: Vec<(JobId, NewJob)>,
    pub(super) effects: Effects,
    /// What the tenants of the batch have and may have, as far as they are limited.
    pub(super) tallies: Tallies,
}

#[derive(Debug)]
pub(super) struct EventRow {
    pub(super) job: JobId,
    pub(super) kind: &'static str,
    pub(super) state: State,
    pub(super) attempt: u32,
    pub(super) detail: Value,
}

#[derive(Debug)]
pub(super) struct BegunRow {
    pub(super) job: JobId,
    pub(super) attempt: u32,
    pub(super) owner: Sender,
}

#[derive(Debug)]
pub(super) struct EndedRow {
    pub(super) job: JobId,
    pub(super) attempt: u32,
    pub(super) end: End,
    pub(super) failure: Option<Failure>,
    pub(super) usage: Option<Usage>,
}

/// An attempt that failed or whose worker was lost, or a job that became a dead letter by something else.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FailureRow {
    pub(super) job: JobId,
    /// The job's.
    pub(super) number: i64,
    pub(super) tenant: Option<String>,
    /// `None` where no attempt failed.
    pub(super) attempt: Option<u32>,
    pub(super) cause: Cause,
    /// Whether another attempt follows.
    pub(super) retried: bool,
    /// Whether the job has failed by it.
    pub(super) parked: bool,
}

/// What follows from a batch once it is committed.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// To be published at once by this process.
    pub(super) publish: Vec<JobId>,
    /// After which children are to be looked at.
    pub(super) families: Vec<Relative>,
    /// To be told to owners.
    pub(super) tell: Vec<TellOwner>,
    /// To be counted.
    pub(super) counts: Vec<Count>,
    /// To be told in the traces of jobs.
    pub(super) tales: Vec<Tale>,
}

/// A command to whoever runs an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TellOwner {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: u32,
    /// What.
    pub tell: Tell,
}

/// Something for the metrics.
#[derive(Debug)]
pub(super) enum Count {
    Recorded { queue: String },
    Ended { state: State, queue: String },
    AttemptEnded(End),
    Failed(Cause),
    Retried(Cause),
    Stale(&'static str),
    Lapsed,
    Absorbed,
    Held(Held),
    Waited { queue: String, secs: f64 },
    Ran { queue: String, secs: f64 },
    Used { end: End, usage: Usage },
}
