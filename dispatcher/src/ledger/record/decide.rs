//! What an input does to a record: the step of the life cycle, applied.
//!
//! Invariant: a decision changes the record and the plan of the batch alike, so the next input of the batch meets what
//! will be written.

use ffpool_runtime::traces;
use ffpool_schema::chunk;
use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::job::JobSpec;
use ffpool_schema::lifecycle::{Change, End, Input, Placing, Publish, Refusal, Stale, State, Step, step};
use ffpool_schema::parse::Fault;
use ffpool_schema::scenario;

use super::super::families::Relative;
use super::super::fresh::NewJob;
use super::super::kind;
use super::super::quotas::{Held, Tallies};
use super::super::tales::{Tale, What};
use super::words::{attempt_of, detail, explain};
use super::{
    BegunRow, Count, Decided, EndedRow, EventRow, Evidence, FailureRow, HELD_MS, Happening, LOSSES_OF_CHUNKS, Lesson,
    Lessons, OFFER_MS, OnlyIf, Outbox, PLACEMENT_PAUSE_MS, PUBLISH_CLAIM_MS, Plan, Policy, Record, TellOwner, Verdict,
    is_alone,
};

/// Decides what `happening` does to `record`, and notes what is to be written. `random` is in 0..1.
pub(in crate::ledger) fn decide(
    record: &mut Record,
    happening: &Happening,
    policy: &Policy,
    random: f64,
    plan: &mut Plan,
) -> Verdict {
    let before = record.facts.state;
    let mut input = happening.input.clone();
    record.facts.loss_limit = policy.loss_limit * if record.in_chunks { LOSSES_OF_CHUNKS } else { 1 };
    match &happening.only_if {
        OnlyIf::Always => {}
        OnlyIf::LeaseIsOver if record.lease_is_over => {}
        OnlyIf::IsDue if record.is_due => {}
        OnlyIf::IsHeld if record.held.is_some() => {}
        OnlyIf::DeadlineIsOver if record.deadline_is_over => {}
        OnlyIf::LeaseIsOver | OnlyIf::IsDue | OnlyIf::IsHeld | OnlyIf::DeadlineIsOver => return Verdict::Skipped,
        OnlyIf::OwnerDead { owner, attempt } => {
            if let Input::Claim { owner_dead, .. } = &mut input {
                *owner_dead = record.facts.owner.as_ref() == Some(owner) && record.facts.attempt == *attempt;
            }
        }
    }
    if runs_already(record, &input) {
        record.facts.state = State::Queued;
    }
    let turned = turn(record, &input, &happening.evidence, &plan.tallies)
        .or_else(|| unsplittable(record, &input, &happening.evidence));
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
            | Refusal::NothingToFinish
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
        before,
        state: record.facts.state,
        attempt: record.facts.attempt,
        spec: spec.map(|text| serde_json::from_str(text).map_err(|error| error.to_string())),
        traceparent: record.traceparent.clone(),
        lessons: Lessons {
            raised_memory_mb: record.raised_memory_mb,
            fell_back: record.fell_back,
            alone: is_alone(record.facts.losses, record.in_chunks),
        },
        splits: record.splits,
    }))
}

/// Whether a job that is held back runs at the claimer, who began it while no dispatcher answered: what runs goes on.
fn runs_already(record: &Record, input: &Input) -> bool {
    let facts = &record.facts;
    record.held.is_some()
        && facts.state == State::Delayed
        && !facts.paused
        && matches!(input, Input::Claim { running_unanswered: Some(running), .. } if *running == facts.attempt + 1)
}

/// What a claim becomes that may not be granted: the job is useless by now, cannot be read by this version, or must run alone
/// and the claimer is busy, or is one more than its tenant may have.
fn turn(record: &Record, input: &Input, evidence: &Evidence, tallies: &Tallies) -> Option<Happening> {
    let facts = &record.facts;
    // It fits its claimer as little as any: it was one too many when it came, and waits for that first.
    if *input == Input::Unfit && !facts.paused {
        return held_since_it_came(record)
            .map(|reason| Evidence { reason: Some(reason), ..Evidence::default() })
            .map(|evidence| Happening { evidence, ..Happening::new(record.id, Input::HoldBack) });
    }
    let (from, owner_dead, running_unanswered) = match input {
        Input::Claim { from, owner_dead, running_unanswered } => (from, owner_dead, running_unanswered),
        Input::Take { from } => (from, &false, &None),
        Input::Arrive
        | Input::TakeCustody { .. }
        | Input::Commit { .. }
        | Input::Finished { .. }
        | Input::Failed { .. }
        | Input::Rejected { .. }
        | Input::Released { .. }
        | Input::CancelDone { .. }
        | Input::Split { .. }
        | Input::Lapse { .. }
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
        | Input::Finish
        | Input::Redrive
        | Input::HoldBack
        | Input::LetGo
        | Input::Unfit
        | Input::NeverFits
        | Input::DeliveryLimit => return None,
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
    // To one that runs already nothing else can happen; whoever runs it is told when the grant cannot be written.
    if running_unanswered.is_some() {
        return None;
    }
    let losses = facts.losses + u32::from(facts.state == State::Running);
    let why = match unreadable(record) {
        Some(what) => {
            format!("recorded by a version of the dispatcher that knows more: waits for one that can read it: {what}")
        }
        None if evidence.busy && is_alone(losses, record.in_chunks) => {
            format!("{losses} workers were lost while they ran it: waits for one that runs nothing else")
        }
        // An attempt that passes to another worker is no more than ran before.
        None if facts.state == State::Running => return None,
        None => return over_quota(record, tallies).and_then(|why| turned(Input::HoldBack, Some(why))),
    };
    if facts.state == State::Delayed {
        turned(Input::OfferDeclined { by: from.clone() }, None)
    } else if facts.state == State::Queued {
        turned(Input::Unfit, Some(why))
    } else {
        turned(Input::Lapse { attempt: facts.attempt }, None)
    }
}

/// Why the job's tenant may not have it run now.
fn over_quota(record: &Record, tallies: &Tallies) -> Option<String> {
    held_since_it_came(record).or_else(|| tallies.refuses_start(record.tenant.as_deref(), &record.start()))
}

/// Why it was recorded as one too many, if its message had to be waited for, because it came without an id.
fn held_since_it_came(record: &Record) -> Option<String> {
    let is_held =
        record.facts.state == State::Queued && matches!(record.held, Some(Held::Queued | Held::Rate | Held::Storage));
    is_held.then(|| record.reason.clone().unwrap_or_else(|| "held back by the quota of its tenant".to_owned()))
}

/// What of a recorded job this version does not know: it was valid for the one that recorded it, and is not ended for that.
fn unreadable(record: &Record) -> Option<String> {
    let text = record.spec.as_deref()?;
    match serde_json::from_str::<JobSpec>(text) {
        // Serde names every field that it would know.
        Err(error) => error.to_string().split(", expected").next().map(str::to_owned),
        // What is no more valid by this version's rules is no matter of another version: it is rejected with its faults.
        Ok(spec) => scenario::resolve(&spec)
            .err()
            .and_then(|faults| faults.into_iter().find(Fault::is_of_another_version).map(|fault| fault.message)),
    }
}

/// What a split becomes of a job that this version cannot read, nobody could make its chunks and it would wait for ever; and
/// of one whose chunks together are too much for a transaction.
fn unsplittable(record: &Record, input: &Input, evidence: &Evidence) -> Option<Happening> {
    let Input::Split { attempt } = input else { return None };
    let whole = whole(record);
    // As the worker measures it, which splits nothing that is too large: Postgres spells it with blanks.
    let body_bytes = whole.as_ref().and_then(|spec| serde_json::to_vec(spec).ok()).map_or(0, |body| body.len());
    let outputs = evidence.pieces.iter().map(|piece| 1 + piece.others.len()).max().unwrap_or(1);
    let failure = match (whole, chunk::too_large(body_bytes, evidence.pieces.len(), outputs)) {
        (Some(_), None) => return None,
        (None, _) => Failure::new(Cause::Platform, "the ledger cannot read the job that was split into chunks"),
        (Some(_), Some(why)) => {
            Failure::new(Cause::ConfigBad, format!("it cannot be made in chunks: {why}; or say `checkpoint: off`"))
        }
    };
    let input = Input::Failed { attempt: *attempt, cause: failure.cause };
    let evidence = Evidence { failure: Some(failure), ..Evidence::default() };
    Some(Happening { evidence, ..Happening::new(record.id, input) })
}

fn whole(record: &Record) -> Option<JobSpec> {
    serde_json::from_str(record.spec.as_deref()?).ok()
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
    explain(record, input, evidence, change);
    note_failure(record, input, change, plan);
    learn(record, input, change);
    split(record, evidence, change, plan);
    if let (Input::Finished { attempt }, State::Completed, Some(thumbnail)) = (input, change.to, &evidence.thumbnail) {
        plan.thumbnails.insert(record.id, (*attempt, thumbnail.clone()));
    }
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
    if change.finish {
        record.facts.finishing = true;
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
    tally(record, was, change, plan);
    place_in_outbox(record, change, policy, random, plan);
    if record.chunks.is_some() && (change.pause.is_some() || change.to.is_end()) {
        plan.effects.families.push(Relative::Whole(record.id));
    }
    if change.to.is_end() && !was.is_end() {
        record.custody = None;
        record.facts.paused = false;
        record.facts.finishing = false;
        plan.effects.families.push(Relative::Ended(record.id));
        record.writes.clear_progress = true;
        plan.effects.counts.push(Count::Ended { state: change.to, queue: record.queue.clone() });
        let cause = evidence.failure.as_ref().map(|failure| failure.cause);
        plan.effects
            .tales
            .push(Tale::ended(record, cause.or(record.facts.last_cause.filter(|_| change.to == State::Failed))));
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

/// Counts what the job's tenant has from now on, and whether the job is held back.
fn tally(record: &mut Record, was: State, change: &Change, plan: &mut Plan) {
    record.held = match (change.to, change.publish) {
        (State::Delayed, Some(Publish::WhenRoom)) => {
            let held = record.held.unwrap_or(Held::Running);
            plan.effects.counts.push(Count::Held(held));
            Some(held)
        }
        // It is paused or goes on meanwhile.
        (State::Delayed | State::Queued, None) if change.to == was => record.held,
        _ => None,
    };
    let runs = |state| matches!(state, State::Running | State::Cancelling);
    let tenant = record.tenant.as_deref();
    match (runs(was), runs(change.to)) {
        (false, true) => {
            plan.tallies.started(tenant, &record.start());
            record.is_let_go = false;
        }
        (true, false) => plan.tallies.ended(tenant, record.cores),
        (true, true) | (false, false) => {}
    }
}

/// Writes down how the attempt ended, and that of an older one which turns out to have published after all.
fn end_attempt(record: &Record, input: &Input, evidence: &Evidence, change: &Change, plan: &mut Plan) {
    let reported = attempt_of(input);
    let mut ended = |attempt: u32, end: End| {
        let own = reported == Some(attempt);
        let usage = evidence.usage.clone().filter(|_| own);
        if let Some(usage) = usage.clone() {
            plan.effects.counts.push(Count::Used { end, usage });
        }
        let failure = evidence.failure.clone().filter(|_| own);
        plan.ended.push(EndedRow { job: record.id, attempt, end, failure, usage });
        plan.effects.counts.push(Count::AttemptEnded(end));
    };
    if let Some(end) = change.end {
        ended(record.facts.attempt, end);
        plan.effects.tales.push(Tale::of(
            record,
            What::AttemptEnded {
                attempt: record.facts.attempt,
                queue: record.queue.clone(),
                end,
                run_secs: record.run_secs.unwrap_or_default(),
                cause: evidence.failure.as_ref().map(|failure| failure.cause).filter(|_| end == End::Failed),
                worker: record.facts.owner.as_ref().map(|owner| owner.worker.to_string()),
            },
        ));
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
    plan.effects.counts.extend(tried_again(input, change).map(Count::Retried));
    if let Some(paused) = change.pause {
        facts.paused = paused;
    }
    if change.reset_counts {
        facts.failures = 0;
        facts.losses = 0;
        facts.last_cause = None;
        // A replica of an older version ends a job without it.
        facts.finishing = false;
    }
}

/// Why another attempt follows on one that failed or fell silent; `None` where none does.
fn tried_again(input: &Input, change: &Change) -> Option<Cause> {
    let goes_on = match change.to {
        State::Blocked | State::Delayed | State::Queued | State::Running => true,
        State::Cancelling | State::Completed | State::Failed | State::Cancelled | State::Rejected => false,
    };
    let cause = match (input, change.end) {
        (Input::Failed { cause, .. }, _) => Some(*cause),
        // Its lease ended, or another worker took it from one that is dead.
        (_, Some(End::Lapsed)) => Some(Cause::WorkerLost),
        (_, _) => None,
    };
    cause.filter(|_| goes_on)
}

/// Notes that an attempt failed, or that the job did without one.
fn note_failure(record: &Record, input: &Input, change: &Change, plan: &mut Plan) {
    let parked = change.to == State::Failed;
    let (attempt, cause) = match (input, change.end) {
        (Input::Failed { cause, .. }, Some(End::Failed)) => (Some(record.facts.attempt), *cause),
        // An older attempt turned out to have published: nobody was lost.
        (Input::Finished { .. }, _) => return,
        (_, Some(End::Lapsed)) => (Some(record.facts.attempt), Cause::WorkerLost),
        (_, _) if parked => (None, record.facts.last_cause.unwrap_or(Cause::Unknown)),
        (_, _) => return,
    };
    plan.failures.push(FailureRow {
        job: record.id,
        number: record.number,
        tenant: record.tenant.clone(),
        attempt,
        cause,
        retried: tried_again(input, change).is_some(),
        parked,
    });
}

/// Notes what follows from how the job failed: for its next attempt, and for those who look through dead letters.
fn learn(record: &mut Record, input: &Input, change: &Change) {
    record.writes.lesson = match input {
        Input::Failed { cause: Cause::Oom, .. } => Some(Lesson::MoreMemory),
        Input::Failed { cause: Cause::Device, .. } => Some(Lesson::FallBack),
        Input::Redrive => {
            record.splits = 0;
            Some(Lesson::Forget)
        }
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

/// Makes the jobs that make the chunks of a job that was split.
fn split(record: &mut Record, evidence: &Evidence, change: &Change, plan: &mut Plan) {
    if change.end != Some(End::Split) {
        return;
    }
    let Some(mut whole) = whole(record) else { return };
    if let Some(raised) = record.raised_memory_mb {
        whole.resource_limits.max_memory_mb = Some(raised);
    }
    let mut pieces = evidence.pieces.clone();
    // The longest first, so that none is left when all others are done. The first and the last may not say.
    pieces.sort_by_key(|piece| (std::cmp::Reverse(piece.cut.frames.unwrap_or(u64::MAX)), piece.number));
    let total = pieces.iter().map(|piece| piece.total).max().unwrap_or_default();
    (record.chunks, record.writes.chunks) = (Some(total), Some(total));
    record.splits += 1;
    let attempt = record.facts.attempt;
    let traceparent = traces::for_part(record.id, record.traceparent.as_deref());
    plan.pieces.extend(pieces.into_iter().map(|piece| {
        let id = piece.id(attempt);
        (id, NewJob::of_piece(id, &whole, piece, traceparent.clone()))
    }));
}

fn begin(record: &mut Record, input: &Input, plan: &mut Plan) {
    let (Input::Claim { from, .. } | Input::Take { from }) = input else { return };
    record.facts.attempt += 1;
    let what = What::Began {
        attempt: record.facts.attempt,
        queue: record.queue.clone(),
        idle_secs: record.idle_secs.unwrap_or(record.age_secs),
        queued_secs: record.since_secs,
    };
    plan.effects.tales.push(Tale::of(record, what));
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
        Some(Publish::WhenRoom) => Some(Outbox::Enter(HELD_MS)),
        // A claim proves that the job's message is out; an ended job has nothing to publish.
        None if change.begin || change.to.is_end() => Some(Outbox::Leave),
        None => None,
    };
    if let Some(outbox) = outbox {
        record.writes.outbox = Some(outbox);
        record.is_due = false;
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use ffpool_schema::id::{Incarnation, JobId};
    use ffpool_schema::lifecycle::{Custody, Facts, Tell};
    use ffpool_schema::message::Sender;
    use ffpool_schema::retry::Backoff;
    use ffpool_schema::thumbnail::Thumbnail;
    use uuid::Uuid;

    use super::super::Writes;
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
            tenant: None,
            cores: 1.0,
            urgency: 8,
            is_let_go: false,
            held: None,
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
                finishing: false,
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
            chunks: None,
            splits: 0,
            in_chunks: false,
            created_at: SystemTime::UNIX_EPOCH,
            since_secs: 0.0,
            idle_secs: None,
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
    fn a_thumbnail_is_kept_with_the_end_that_it_came_with_and_with_no_other() {
        let jpeg = b"\xff\xd8\xff\xe0\0\x04JF\xff\xc0\0\x11\x08\0\xb4\x01\x40\x03\xff\xd9".to_vec();
        let thumbnail = Some(Thumbnail::of(jpeg).unwrap());
        let (mut record, mut plan) = (queued(), Plan::default());
        let told = |record: &mut Record, plan: &mut Plan, input: Input| {
            let evidence = Evidence { thumbnail: thumbnail.clone(), ..Evidence::default() };
            decide(record, &Happening { evidence, ..Happening::new(record.id, input) }, &policy(), 0.5, plan)
        };
        take(&mut record, &mut plan, claim("w"));
        let _ = told(&mut record, &mut plan, Input::Released { attempt: 1 });
        assert!(plan.thumbnails.is_empty(), "nothing was made");
        take(&mut record, &mut plan, claim("w"));
        let _ = told(&mut record, &mut plan, Input::Finished { attempt: 2 });
        assert!(plan.thumbnails.is_empty(), "without consent nothing was published");
        take(&mut record, &mut plan, Input::Commit { from: sender("w"), attempt: 2 });
        let _ = told(&mut record, &mut plan, Input::Finished { attempt: 2 });
        let _ = told(&mut record, &mut plan, Input::Finished { attempt: 2 });
        assert_eq!(plan.thumbnails.len(), 1);
        assert_eq!(plan.thumbnails[&record.id].0, 2);
    }

    #[test]
    fn one_too_many_that_fits_no_worker_stays_held_back_and_says_why_after_a_pause() {
        let reason = "tenant a has 2 jobs waiting and may have 2 (max_queued)".to_owned();
        let held = Record { held: Some(Held::Queued), reason: Some(reason.clone()), ..queued() };
        let (mut record, mut plan) = (held, Plan::default());
        take(&mut record, &mut plan, Input::Unfit);
        assert_eq!((record.facts.state, record.held), (State::Delayed, Some(Held::Queued)));
        for input in [Input::Pause, Input::Resume] {
            take(&mut record, &mut plan, input);
            assert_eq!((record.held, record.reason.as_ref()), (Some(Held::Queued), Some(&reason)));
        }
        let (mut other, mut plan) = (queued(), Plan::default());
        take(&mut other, &mut plan, Input::Unfit);
        assert_eq!(
            (other.facts.state, other.held),
            (State::Delayed, None),
            "without a quota it looks for another worker"
        );
    }

    #[test]
    fn a_chunk_outlasts_more_lost_workers_than_a_job() {
        let (mut record, mut plan) = (Record { in_chunks: true, ..queued() }, Plan::default());
        let most = policy().loss_limit * LOSSES_OF_CHUNKS;
        for attempt in 1..=most {
            assert_eq!(record.facts.state, State::Queued, "before attempt {attempt}");
            take(&mut record, &mut plan, claim("w"));
            take(&mut record, &mut plan, Input::Lapse { attempt });
        }
        assert_eq!(record.facts.state, State::Failed);
        let failure = record.writes.failure.expect("a parked job says why");
        assert!(failure.message.ends_with(&format!("the limit is {most}")), "{}", failure.message);
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
    fn what_failed_is_noted_with_what_became_of_it_and_what_succeeded_in_the_end_is_not() {
        let (mut record, mut plan) = (queued(), Plan::default());
        take(&mut record, &mut plan, claim("w"));
        take(&mut record, &mut plan, Input::Failed { attempt: 1, cause: Cause::Crash });
        record.facts.state = State::Queued;
        take(&mut record, &mut plan, claim("w"));
        take(&mut record, &mut plan, Input::Lapse { attempt: 2 });
        take(&mut record, &mut plan, Input::DeadlinePassed);
        let told = |row: &FailureRow| (row.attempt, row.cause, row.retried, row.parked);
        let noted: Vec<_> = plan.failures.iter().map(told).collect();
        let expected = [
            (Some(1), Cause::Crash, true, false),
            (Some(2), Cause::WorkerLost, true, false),
            (None, Cause::Deadline, false, true),
        ];
        assert_eq!((record.facts.state, noted), (State::Failed, expected.to_vec()));

        // An older attempt had published: the one that was ended for it did not fail.
        let (mut record, mut plan) = (queued(), Plan::default());
        take(&mut record, &mut plan, claim("old"));
        take(&mut record, &mut plan, Input::Commit { from: sender("old"), attempt: 1 });
        take(&mut record, &mut plan, Input::Lapse { attempt: 1 });
        take(&mut record, &mut plan, claim("new"));
        take(&mut record, &mut plan, Input::Finished { attempt: 1 });
        assert_eq!(plan.failures.iter().map(told).collect::<Vec<_>>(), [(Some(1), Cause::WorkerLost, true, false)]);
    }

    #[test]
    fn a_retry_is_counted_by_its_cause_and_an_attempt_that_ends_its_job_is_none() {
        let (mut record, mut plan) = (queued(), Plan::default());
        let mut attempt = |record: &mut Record, ends: &dyn Fn(u32) -> Input| {
            record.facts.state = State::Queued;
            take(record, &mut plan, claim("w"));
            let number = record.facts.attempt;
            take(record, &mut plan, ends(number));
            let counts = std::mem::take(&mut plan.effects.counts).into_iter();
            let retried = counts.filter_map(|count| if let Count::Retried(cause) = count { Some(cause) } else { None });
            (record.facts.state, retried.collect::<Vec<_>>())
        };
        let failed = |cause| move |attempt| Input::Failed { attempt, cause };
        assert_eq!(attempt(&mut record, &failed(Cause::Crash)), (State::Delayed, vec![Cause::Crash]));
        // A cause that is tried once more, and not twice.
        assert_eq!(attempt(&mut record, &failed(Cause::InputMissing)), (State::Delayed, vec![Cause::InputMissing]));
        assert_eq!(attempt(&mut record, &failed(Cause::InputMissing)), (State::Failed, vec![]));
        // The policy of these tests allows one loss.
        let lapse = |attempt| Input::Lapse { attempt };
        assert_eq!(attempt(&mut record, &lapse), (State::Queued, vec![Cause::WorkerLost]));
        assert_eq!(attempt(&mut record, &lapse), (State::Failed, vec![]));
        let mut other = queued();
        let released = |attempt| Input::Released { attempt };
        assert_eq!(attempt(&mut other, &released), (State::Queued, vec![]), "handed back is no retry");
        let heir = |_| Input::Claim { from: sender("heir"), owner_dead: true, running_unanswered: None };
        assert_eq!(attempt(&mut other, &heir), (State::Running, vec![Cause::WorkerLost]), "taken from the dead");
        // While it is cancelled every end is the end of the job.
        let cancelled = attempt(&mut other, &|_| Input::Cancel);
        assert_eq!(cancelled, (State::Cancelling, vec![]));
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
