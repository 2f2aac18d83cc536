//! One job's row as a batch holds it, and what a decision makes of it. Pure: no clock, no randomness, no database.
//!
//! Invariant: what is decided here and what is written are the same: a batch writes each touched record as it stands
//! after its last input, and the rows of history in the order in which they came about.

use std::time::{Duration, Instant};

use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::id::JobId;
use ffpool_schema::job::JobSpec;
use ffpool_schema::lifecycle::{
    Change, Custody, End, Facts, Input, Placing, Publish, Refusal, Stale, State, Step, Tell, step,
};
use ffpool_schema::message::{Manifest, Sender, Usage};
use ffpool_schema::parse::Fault;
use ffpool_schema::retry::Backoff;
use serde_json::{Value, json};

use super::families::Relative;
use super::fresh::NewJob;
use super::kind;

/// After this time somebody else may publish a job that a dispatcher has set out to publish.
pub(super) const PUBLISH_CLAIM_MS: i64 = 10_000;
/// Pause before a job that did not fit one worker is published again, if no worker was found for it meanwhile.
pub(super) const PLACEMENT_PAUSE_MS: i64 = 2_000;
/// A worker that was offered a job says in every heartbeat that it keeps room for it. After so long without, the job is
/// published again: ten heartbeats, for the worker may be starting an encode on a busy machine, and little beside the
/// wait for room.
pub(super) const OFFER_MS: i64 = 10_000;
/// A job that has lost so many workers runs alone from then on: it may be what kills them.
pub(crate) const ALONE_AFTER: u32 = 2;

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
}

impl Happening {
    /// `input` to `job`, with nothing more known.
    #[must_use]
    pub fn new(job: JobId, input: Input) -> Happening {
        Happening { job, input, only_if: OnlyIf::Always, evidence: Evidence::default(), record: None, expires: None }
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
    pub(super) facts: Facts,
    pub(super) custody: Option<Custody>,
    pub(super) tapped: bool,
    pub(super) reason: Option<String>,
    pub(super) traceparent: Option<String>,
    /// The job in canonical form, as JSON. Only read for claims.
    pub(super) spec: Option<String>,
    pub(super) lease_is_over: bool,
    pub(super) is_due: bool,
    pub(super) deadline_is_over: bool,
    pub(super) raised_memory_mb: Option<u64>,
    pub(super) fell_back: bool,
    pub(super) age_secs: f64,
    pub(super) run_secs: Option<f64>,
    pub(super) writes: Writes,
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
    pub(super) effects: Effects,
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
    Stale(&'static str),
    Lapsed,
    Absorbed,
    Waited { queue: String, secs: f64 },
    Ran { queue: String, secs: f64 },
}

/// Decides what `happening` does to `record`, and notes what is to be written. `random` is in 0..1.
pub(super) fn decide(
    record: &mut Record,
    happening: &Happening,
    policy: &Policy,
    random: f64,
    plan: &mut Plan,
) -> Verdict {
    let mut input = happening.input.clone();
    record.facts.loss_limit = policy.loss_limit;
    match &happening.only_if {
        OnlyIf::Always => {}
        OnlyIf::LeaseIsOver if record.lease_is_over => {}
        OnlyIf::IsDue if record.is_due => {}
        OnlyIf::DeadlineIsOver if record.deadline_is_over => {}
        OnlyIf::LeaseIsOver | OnlyIf::IsDue | OnlyIf::DeadlineIsOver => return Verdict::Skipped,
        OnlyIf::OwnerDead { owner, attempt } => {
            if let Input::Claim { owner_dead, .. } = &mut input {
                *owner_dead = record.facts.owner.as_ref() == Some(owner) && record.facts.attempt == *attempt;
            }
        }
    }
    let turned = turn(record, &input, &happening.evidence);
    let (input, happening) = match &turned {
        Some(turned) => (turned.input.clone(), turned),
        None => (input, happening),
    };
    let step = step(&record.facts, &input);
    match &step {
        Step::Move(change) => apply(record, &input, happening, change, policy, random, plan),
        Step::Stale(stale) => {
            if input == Input::Arrive && !record.tapped {
                record.tapped = true;
                record.writes.touched = true;
            }
            if *stale != Stale::Repeat || input != Input::Arrive {
                plan.effects.counts.push(Count::Stale(input.name()));
            }
        }
        Step::Refuse(Refusal::NoConsent) => {
            tracing::error!(job = %record.id, attempt = record.facts.attempt, by = ?happening.evidence.by, "an attempt reports an output that it had no right to publish");
        }
        Step::Refuse(
            Refusal::Ended
            | Refusal::NotEnded
            | Refusal::NotRedrivable
            | Refusal::Publishing
            | Refusal::NotOwner
            | Refusal::Cancelling,
        ) => {}
    }
    let wants_spec = matches!(&step, Step::Move(change) if change.begin || change.grant_again);
    let spec = record.spec.as_deref().filter(|_| wants_spec);
    Verdict::Decided(Box::new(Decided {
        job: record.id,
        number: record.number,
        step,
        state: record.facts.state,
        attempt: record.facts.attempt,
        spec: spec.map(|text| serde_json::from_str(text).map_err(|error| error.to_string())),
        traceparent: record.traceparent.clone().filter(|_| wants_spec),
        lessons: Lessons {
            raised_memory_mb: record.raised_memory_mb,
            fell_back: record.fell_back,
            alone: record.facts.losses >= ALONE_AFTER,
        },
    }))
}

/// What a claim becomes that may not be granted: the job is useless by now, or must run alone and the claimer is busy.
fn turn(record: &Record, input: &Input, evidence: &Evidence) -> Option<Happening> {
    let facts = &record.facts;
    let (from, owner_dead, running_unanswered) = match input {
        Input::Claim { from, owner_dead, running_unanswered } => (from, owner_dead, running_unanswered),
        Input::Take { from } => (from, &false, &None),
        _ => return None,
    };
    let begins = match facts.state {
        State::Queued => !facts.paused,
        State::Delayed => !facts.paused && matches!(input, Input::Take { .. }),
        State::Running => *owner_dead && facts.owner.as_ref() != Some(from),
        State::Blocked | State::Cancelling | State::Completed | State::Failed | State::Cancelled | State::Rejected => {
            false
        }
    };
    if !begins {
        return None;
    }
    let turned = |input: Input, reason: Option<String>| {
        Some(Happening { evidence: Evidence { reason, ..Evidence::default() }, ..Happening::new(record.id, input) })
    };
    if record.deadline_is_over && facts.state != State::Running {
        return turned(Input::DeadlinePassed, None);
    }
    if !evidence.busy || running_unanswered.is_some() {
        return None;
    }
    let losses = facts.losses + u32::from(facts.state == State::Running);
    if losses < ALONE_AFTER {
        None
    } else if facts.state == State::Delayed {
        turned(Input::OfferDeclined { by: from.clone() }, None)
    } else if facts.state == State::Queued {
        turned(
            Input::Unfit,
            Some(format!("{losses} workers were lost while they ran it: waits for one that runs nothing else")),
        )
    } else {
        turned(Input::Lapse { attempt: facts.attempt }, None)
    }
}

fn apply(
    record: &mut Record,
    input: &Input,
    happening: &Happening,
    change: &Change,
    policy: &Policy,
    random: f64,
    plan: &mut Plan,
) {
    let evidence = &happening.evidence;
    let about = attempt_of(input).unwrap_or(record.facts.attempt);
    record.writes.touched = true;
    end_attempt(record, input, evidence, change, plan);
    count(record, input, change, plan);
    explain(record, input, evidence, change, policy);
    learn(record, input, change);
    if change.begin {
        begin(record, input, plan);
    }
    if change.grant_again {
        record.writes.renew_lease = true;
        record.lease_is_over = false;
    }
    if change.consent {
        record.facts.consent = Some(record.facts.attempt);
    }
    if let Some(custody) = change.custody {
        record.custody = Some(custody);
    }
    if change.to != State::Delayed {
        record.facts.placing = Placing::No;
    } else if let Some(placing) = &change.placing {
        record.facts.placing = placing.clone();
    }
    if change.drop == Some(ffpool_schema::message::DropReason::OwnerAlive) {
        plan.effects.counts.push(Count::Absorbed);
    }
    if let Some(tell) = change.tell {
        plan.effects.tell.push(TellOwner { job: record.id, attempt: record.facts.attempt, tell });
    }
    let was = std::mem::replace(&mut record.facts.state, change.to);
    place_in_outbox(record, change, policy, random, plan);
    if change.to.is_end() && !was.is_end() {
        record.custody = None;
        record.facts.paused = false;
        plan.effects.families.push(Relative::Ended(record.id));
        record.writes.clear_progress = true;
        plan.effects.counts.push(Count::Ended { state: change.to, queue: record.queue.clone() });
        if let (State::Completed, Some(secs)) = (change.to, record.run_secs) {
            plan.effects.counts.push(Count::Ran { queue: record.queue.clone(), secs });
        }
    }
    let attempt = if change.begin { record.facts.attempt } else { about };
    plan.events.push(EventRow {
        job: record.id,
        kind: input.name(),
        state: change.to,
        attempt,
        detail: detail(record, input, evidence, change),
    });
}

/// Writes down how the attempt ended, and that of an older one which turns out to have published after all.
fn end_attempt(record: &Record, input: &Input, evidence: &Evidence, change: &Change, plan: &mut Plan) {
    let reported = attempt_of(input);
    let mut ended = |attempt: u32, end: End| {
        let own = reported == Some(attempt);
        plan.ended.push(EndedRow {
            job: record.id,
            attempt,
            end,
            failure: evidence.failure.clone().filter(|_| own),
            usage: evidence.usage.clone().filter(|_| own),
        });
        plan.effects.counts.push(Count::AttemptEnded(end));
    };
    if let Some(end) = change.end {
        ended(record.facts.attempt, end);
    }
    if let Input::Finished { attempt } = input
        && *attempt != record.facts.attempt
    {
        ended(*attempt, End::Finished);
    }
}

fn count(record: &mut Record, input: &Input, change: &Change, plan: &mut Plan) {
    let facts = &mut record.facts;
    if change.end == Some(End::Lapsed) {
        facts.losses = facts.losses.saturating_add(1);
        if matches!(input, Input::Lapse { .. }) {
            plan.effects.counts.push(Count::Lapsed);
        }
    }
    if let Input::Failed { cause, .. } = input {
        plan.effects.counts.push(Count::Failed(*cause));
        if change.count_failure {
            facts.failures = facts.failures.saturating_add(1);
            facts.last_cause = Some(*cause);
        }
    }
    if let Some(paused) = change.pause {
        facts.paused = paused;
    }
    if change.reset_counts {
        facts.failures = 0;
        facts.losses = 0;
        facts.last_cause = None;
    }
}

/// Sets what a person reads as the reason of the job's state.
fn explain(record: &mut Record, input: &Input, evidence: &Evidence, change: &Change, policy: &Policy) {
    let writes = &mut record.writes;
    writes.failure = evidence.failure.clone().or(writes.failure.take());
    if !evidence.faults.is_empty() {
        writes.faults = Some(evidence.faults.clone());
    }
    if let Some(manifest) = &evidence.manifest {
        writes.manifest = Some(manifest.clone());
    }
    let owner = record.facts.owner.as_ref().map_or_else(|| "?".to_owned(), |owner| owner.worker.to_string());
    let by = evidence.by.as_deref();
    record.reason = match input {
        Input::Arrive | Input::TakeCustody { .. } | Input::Commit { .. } | Input::Due | Input::ParentsDone => {
            record.reason.take()
        }
        Input::Resume => None,
        Input::Pause => Some(match by {
            Some(by) => format!("paused by {by}"),
            None => "paused".to_owned(),
        }),
        Input::ParentFailed { .. } => evidence.reason.clone(),
        Input::DeadlinePassed if change.to == State::Cancelling => {
            Some("deadline: it passed while the job ran".to_owned())
        }
        Input::DeadlinePassed => Some("deadline: it passed before the job could run".to_owned()),
        Input::Claim { .. } | Input::Take { .. } if change.begin || change.to.is_end() => None,
        Input::Claim { .. } | Input::Take { .. } => record.reason.take(),
        Input::Offer { to } => Some(format!("offered to worker {}", to.worker)),
        Input::OfferAccepted { .. } | Input::OfferDeclined { .. } => evidence.reason.clone().or(record.reason.take()),
        Input::Finished { .. } => None,
        Input::Failed { .. } => {
            evidence.failure.as_ref().map(|failure| format!("{}: {}", failure.cause, failure.message))
        }
        Input::Rejected { .. } => {
            Some(evidence.reason.clone().unwrap_or_else(|| format!("worker {owner} found that it cannot run")))
        }
        Input::Released { .. } => Some(match &evidence.reason {
            Some(reason) => format!("worker {owner} handed it back: {reason}"),
            None => format!("worker {owner} handed it back"),
        }),
        Input::CancelDone { .. } => record.reason.take(),
        Input::Lapse { attempt } => Some(format!("worker {owner} fell silent in attempt {attempt}")),
        Input::Cancel => Some(match by {
            Some(by) => format!("cancelled by {by}"),
            None => "cancelled".to_owned(),
        }),
        Input::Redrive => Some(match (by, &evidence.reason) {
            (Some(by), Some(reason)) => format!("sent round again by {by}: {reason}"),
            (Some(by), None) => format!("sent round again by {by}"),
            (None, Some(reason)) => format!("sent round again: {reason}"),
            (None, None) => "sent round again".to_owned(),
        }),
        Input::Unfit | Input::NeverFits | Input::DeliveryLimit => evidence.reason.clone(),
    };
    if change.to != State::Failed || matches!(input, Input::Failed { .. }) {
        return;
    }
    // Parked without a report of its own: what ended it is still a failure with a cause and a cure.
    let told = |otherwise: &str| evidence.reason.clone().unwrap_or_else(|| otherwise.to_owned());
    let failure = if *input == Input::DeliveryLimit {
        Failure::new(Cause::DeliveryLimit, told("the broker gave up delivering its message"))
    } else if *input == Input::DeadlinePassed {
        Failure::new(Cause::Deadline, "its deadline passed before it could run")
    } else if matches!(input, Input::ParentFailed { .. }) {
        Failure::new(Cause::ParentFailed, told("a job that it depends on has ended without completing"))
    } else {
        let lost = record.facts.losses;
        Failure::new(
            Cause::WorkerLost,
            format!(
                "{lost} workers were lost while they ran it, the last was {owner}; the limit is {}",
                policy.loss_limit
            ),
        )
    };
    record.facts.last_cause = Some(failure.cause);
    record.writes.failure = Some(failure);
}

/// Notes what follows from how the job failed: for its next attempt, and for those who look through dead letters.
fn learn(record: &mut Record, input: &Input, change: &Change) {
    record.writes.lesson = match input {
        Input::Failed { cause: Cause::Oom, .. } => Some(Lesson::MoreMemory),
        Input::Failed { cause: Cause::Device, .. } => Some(Lesson::FallBack),
        Input::Redrive => Some(Lesson::Forget),
        _ => record.writes.lesson,
    };
    if change.to != State::Failed {
        return;
    }
    // What the ledger says in its own words names jobs and workers, and is no evidence.
    let (cause, evidence) = match (&record.writes.failure, input) {
        (Some(failure), Input::Failed { .. }) => {
            (failure.cause, failure.evidence.as_ref().unwrap_or(&failure.message).as_str())
        }
        (Some(failure), _) => (failure.cause, ""),
        (None, _) => (record.facts.last_cause.unwrap_or(Cause::Unknown), ""),
    };
    record.writes.kind = Some(kind::of(cause, evidence));
}

fn begin(record: &mut Record, input: &Input, plan: &mut Plan) {
    let (Input::Claim { from, .. } | Input::Take { from }) = input else { return };
    record.facts.attempt += 1;
    record.facts.owner = Some(from.clone());
    record.lease_is_over = false;
    record.run_secs = Some(0.0);
    record.writes.begun = true;
    record.writes.renew_lease = true;
    record.writes.clear_progress = true;
    plan.begun.push(BegunRow { job: record.id, attempt: record.facts.attempt, owner: from.clone() });
    if record.facts.attempt == 1 {
        plan.effects.counts.push(Count::Waited { queue: record.queue.clone(), secs: record.age_secs });
    }
}

fn place_in_outbox(record: &mut Record, change: &Change, policy: &Policy, random: f64, plan: &mut Plan) {
    let outbox = match change.publish {
        Some(Publish::Now) => {
            plan.effects.publish.push(record.id);
            Some(Outbox::Enter(PUBLISH_CLAIM_MS))
        }
        Some(Publish::First) => {
            plan.effects.publish.push(record.id);
            Some(Outbox::EnterFirst)
        }
        Some(Publish::AfterBackoff) => {
            let wait = policy.backoff.after(record.facts.failures, random);
            Some(Outbox::Enter(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)))
        }
        Some(Publish::AfterPlacementPause) => Some(Outbox::Enter(PLACEMENT_PAUSE_MS)),
        Some(Publish::AfterOffer) => Some(Outbox::Enter(OFFER_MS)),
        Some(Publish::WhenDue) => Some(Outbox::EnterWhenDue),
        // A claim proves that the job's message is out; an ended job has nothing to publish.
        None if change.begin || change.to.is_end() => Some(Outbox::Leave),
        None => None,
    };
    if let Some(outbox) = outbox {
        record.writes.outbox = Some(outbox);
        record.is_due = false;
    }
}

/// The attempt that an input is about, where it names one.
fn attempt_of(input: &Input) -> Option<u32> {
    match input {
        Input::TakeCustody { attempt, .. }
        | Input::Commit { attempt, .. }
        | Input::Finished { attempt }
        | Input::Failed { attempt, .. }
        | Input::Rejected { attempt }
        | Input::Released { attempt }
        | Input::CancelDone { attempt }
        | Input::Lapse { attempt } => Some(*attempt),
        Input::Arrive
        | Input::Claim { .. }
        | Input::Take { .. }
        | Input::Offer { .. }
        | Input::OfferAccepted { .. }
        | Input::OfferDeclined { .. }
        | Input::Due
        | Input::ParentsDone
        | Input::ParentFailed { .. }
        | Input::DeadlinePassed
        | Input::Pause
        | Input::Resume
        | Input::Cancel
        | Input::Redrive
        | Input::Unfit
        | Input::NeverFits
        | Input::DeliveryLimit => None,
    }
}

/// What an event's row tells besides its kind.
fn detail(record: &Record, input: &Input, evidence: &Evidence, change: &Change) -> Value {
    let mut detail = serde_json::Map::new();
    let mut put = |key: &str, value: Value| {
        detail.insert(key.to_owned(), value);
    };
    match input {
        Input::Claim { from, .. }
        | Input::Take { from }
        | Input::Offer { to: from }
        | Input::OfferAccepted { by: from }
        | Input::OfferDeclined { by: from }
        | Input::TakeCustody { from, .. }
        | Input::Commit { from, .. } => {
            put("worker", json!(from.worker));
        }
        Input::Lapse { .. } => put("worker", json!(record.facts.owner.as_ref().map(|owner| &owner.worker))),
        Input::Failed { cause, .. } => put("cause", json!(cause)),
        Input::Arrive
        | Input::Finished { .. }
        | Input::Rejected { .. }
        | Input::Released { .. }
        | Input::CancelDone { .. }
        | Input::Due
        | Input::ParentsDone
        | Input::ParentFailed { .. }
        | Input::DeadlinePassed
        | Input::Pause
        | Input::Resume
        | Input::Cancel
        | Input::Redrive
        | Input::Unfit
        | Input::NeverFits
        | Input::DeliveryLimit => {}
    }
    if let Some(failure) = &evidence.failure {
        put("message", json!(failure.message));
    }
    if let Some(reason) = &evidence.reason {
        put("reason", json!(reason));
    }
    if let Some(by) = &evidence.by {
        put("by", json!(by));
    }
    if !evidence.faults.is_empty() {
        put("faults", json!(evidence.faults));
    }
    if let Some(drop) = change.drop {
        put("answer", json!(drop));
    }
    if change.grant_again {
        put("answer", json!("granted_again"));
    }
    if change.end == Some(End::Lapsed) && !matches!(input, Input::Lapse { .. }) {
        put("ended", json!("lapsed"));
    }
    Value::Object(detail)
}

#[cfg(test)]
mod tests {
    use ffpool_schema::id::Incarnation;
    use uuid::Uuid;

    use super::*;

    fn policy() -> Policy {
        Policy { lease: Duration::from_secs(5), backoff: Backoff::default(), loss_limit: 2 }
    }

    fn sender(name: &str) -> Sender {
        Sender { worker: name.parse().expect("a plain name"), incarnation: Incarnation(Uuid::nil()) }
    }

    fn queued() -> Record {
        Record {
            id: JobId(Uuid::nil()),
            number: 1,
            queue: "default".into(),
            facts: Facts {
                state: State::Queued,
                attempt: 0,
                failures: 0,
                max_retries: 3,
                losses: 0,
                loss_limit: 0,
                owner: None,
                consent: None,
                last_cause: None,
                paused: false,
                placing: Placing::No,
            },
            custody: Some(Custody::Broker),
            tapped: true,
            reason: None,
            traceparent: None,
            spec: None,
            lease_is_over: false,
            is_due: false,
            deadline_is_over: false,
            raised_memory_mb: None,
            fell_back: false,
            age_secs: 1.0,
            run_secs: None,
            writes: Writes::default(),
        }
    }

    fn claim(from: &str) -> Input {
        Input::Claim { from: sender(from), owner_dead: false, running_unanswered: None }
    }

    fn take(record: &mut Record, plan: &mut Plan, input: Input) -> Verdict {
        decide(record, &Happening::new(record.id, input), &policy(), 0.5, plan)
    }

    #[test]
    fn several_happenings_of_one_batch_are_decided_in_their_order() {
        let (mut record, mut plan) = (queued(), Plan::default());
        take(&mut record, &mut plan, claim("w"));
        take(&mut record, &mut plan, Input::Commit { from: sender("w"), attempt: 1 });
        take(&mut record, &mut plan, Input::Finished { attempt: 1 });
        take(&mut record, &mut plan, Input::Finished { attempt: 1 });
        assert_eq!(record.facts.state, State::Completed);
        assert_eq!(plan.begun.len(), 1);
        assert_eq!(plan.ended.iter().map(|row| row.end).collect::<Vec<_>>(), [End::Finished]);
        let kinds: Vec<_> = plan.events.iter().map(|event| (event.kind, event.state)).collect();
        assert_eq!(kinds, [("claim", State::Running), ("commit", State::Running), ("finished", State::Completed)]);
        assert_eq!(record.writes.outbox, Some(Outbox::Leave));
    }

    #[test]
    fn the_last_loss_parks_the_job_with_a_cause_and_the_one_before_publishes_it() {
        let (mut record, mut plan) = (queued(), Plan::default());
        take(&mut record, &mut plan, claim("first"));
        take(&mut record, &mut plan, Input::Lapse { attempt: 1 });
        assert_eq!(record.facts.state, State::Queued);
        assert_eq!(record.writes.outbox, Some(Outbox::EnterFirst));
        assert_eq!(plan.effects.publish, [record.id]);
        take(&mut record, &mut plan, claim("second"));
        take(&mut record, &mut plan, Input::Lapse { attempt: 2 });
        assert_eq!(record.facts.state, State::Failed);
        let failure = record.writes.failure.expect("a parked job says why");
        assert_eq!(failure.cause, Cause::WorkerLost);
        assert!(failure.message.contains("second"), "{}", failure.message);
        assert_eq!(record.writes.outbox, Some(Outbox::Leave));
    }

    #[test]
    fn an_older_attempt_that_published_completes_the_job_and_ends_the_present_one() {
        let (mut record, mut plan) = (queued(), Plan::default());
        take(&mut record, &mut plan, claim("old"));
        take(&mut record, &mut plan, Input::Commit { from: sender("old"), attempt: 1 });
        take(&mut record, &mut plan, Input::Lapse { attempt: 1 });
        take(&mut record, &mut plan, claim("new"));
        take(&mut record, &mut plan, Input::Finished { attempt: 1 });
        assert_eq!(record.facts.state, State::Completed);
        let ends: Vec<_> = plan.ended.iter().map(|row| (row.attempt, row.end)).collect();
        assert_eq!(ends, [(1, End::Lapsed), (2, End::Lapsed), (1, End::Finished)]);
        assert_eq!(plan.effects.tell, [TellOwner { job: record.id, attempt: 2, tell: Tell::Abandon }]);
    }

    #[test]
    fn a_dead_owner_counts_only_while_it_is_still_the_owner() {
        let (mut record, mut plan) = (queued(), Plan::default());
        take(&mut record, &mut plan, claim("owner"));
        let asked = |attempt| OnlyIf::OwnerDead { owner: sender("owner"), attempt };
        let late = Happening { only_if: asked(7), ..Happening::new(record.id, claim("heir")) };
        decide(&mut record, &late, &policy(), 0.5, &mut plan);
        assert_eq!((record.facts.attempt, record.custody), (1, Some(Custody::Ledger)));
        let timely = Happening { only_if: asked(1), ..Happening::new(record.id, claim("heir")) };
        decide(&mut record, &timely, &policy(), 0.5, &mut plan);
        assert_eq!((record.facts.attempt, record.facts.owner.clone()), (2, Some(sender("heir"))));
    }

    #[test]
    fn a_renewed_lease_does_not_lapse() {
        let (mut record, mut plan) = (queued(), Plan::default());
        take(&mut record, &mut plan, claim("w"));
        let lapse =
            Happening { only_if: OnlyIf::LeaseIsOver, ..Happening::new(record.id, Input::Lapse { attempt: 1 }) };
        let verdict = decide(&mut record, &lapse, &policy(), 0.5, &mut plan);
        assert!(matches!(verdict, Verdict::Skipped), "{verdict:?}");
        assert_eq!(record.facts.state, State::Running);
    }
}
