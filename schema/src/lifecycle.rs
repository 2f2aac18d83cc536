//! The life of a job as one pure function: [`step`] takes what the ledger knows and what happened, and answers what to do.
//!
//! Invariants, each enumerated by a test over every cell:
//! * `attempt` only grows; an end is left only by a redrive;
//! * at most one attempt of a job holds the lease, and only a consented attempt completes it;
//! * every change that leaves nobody responsible for the job asks the ledger to publish it again.

mod answer;
mod facts;
mod input;

use crate::failure::{Cause, RetryPolicy};
use crate::message::{DropReason, Sender};

pub use answer::{Change, End, Publish, Refusal, Stale, Step, Tell};
pub use facts::{Custody, Facts, Placing, State, UnknownState};
pub use input::Input;

/// Decides what an input does to a job.
pub fn step(facts: &Facts, input: &Input) -> Step {
    match input {
        Input::Arrive => Step::Stale(Stale::Repeat),
        Input::Claim { from, owner_dead, running_unanswered } => claim(facts, from, *owner_dead, *running_unanswered),
        Input::Take { from } => take(facts, from),
        Input::Offer { to } => match placing(facts) {
            Ok(_) => {
                let offered = Change { placing: Some(Placing::Offered(to.clone())), ..Change::to(State::Delayed) };
                Step::Move(offered.publish(Publish::AfterOffer))
            }
            Err(stale) => Step::Stale(stale),
        },
        Input::OfferAccepted { by } => match placing(facts) {
            Ok(Placing::Offered(to)) if to == by => Step::Move(Change::to(State::Delayed).publish(Publish::AfterOffer)),
            Ok(Placing::No | Placing::Wanted | Placing::Offered(_)) => Step::Stale(Stale::Repeat),
            Err(stale) => Step::Stale(stale),
        },
        Input::OfferDeclined { by } => match placing(facts) {
            Ok(Placing::Offered(to)) if to == by => {
                let again = Change { placing: Some(Placing::Wanted), ..Change::to(State::Delayed) };
                Step::Move(again.publish(Publish::AfterPlacementPause))
            }
            Ok(Placing::No | Placing::Wanted | Placing::Offered(_)) => Step::Stale(Stale::Repeat),
            Err(stale) => Step::Stale(stale),
        },
        Input::TakeCustody { from, attempt } => match holder(facts, from, *attempt) {
            Ok(()) => Step::Move(Change::to(facts.state).custody(Custody::Ledger)),
            Err(refusal) => Step::Refuse(refusal),
        },
        Input::Commit { from, attempt } => commit(facts, from, *attempt),
        Input::Finished { attempt } => finished(facts, *attempt),
        Input::Failed { attempt, cause } => report(facts, *attempt, |facts| failed(facts, *cause)),
        Input::Rejected { attempt } => report(facts, *attempt, |_| Change::to(State::Rejected).end(End::Rejected)),
        Input::Released { attempt } => {
            report(facts, *attempt, |_| Change::to(State::Queued).end(End::Released).publish(Publish::First))
        }
        Input::Split { attempt } => report(facts, *attempt, |_| Change::to(State::Blocked).end(End::Split)),
        Input::CancelDone { attempt } => report(facts, *attempt, |_| {
            // The command was given and then overtaken, for example by a redrive: nobody wants it ended any more.
            Change::to(State::Queued).end(End::Released).publish(Publish::First)
        }),
        Input::Lapse { attempt } => report(facts, *attempt, lost),
        Input::Due => match facts.state {
            State::Delayed => Step::Move(Change::to(State::Queued).publish(Publish::Now)),
            State::Blocked
            | State::Queued
            | State::Running
            | State::Cancelling
            | State::Completed
            | State::Failed
            | State::Cancelled
            | State::Rejected => Step::Stale(Stale::Repeat),
        },
        Input::ParentsDone => match facts.state {
            // It was split: its time had come before, and it has waited.
            State::Blocked if facts.attempt > 0 => Step::Move(Change::to(State::Queued).publish(Publish::First)),
            // Not straight to the queue: it may have a time to wait for besides. The timer publishes it.
            State::Blocked => Step::Move(Change::to(State::Delayed).publish(Publish::WhenDue)),
            State::Delayed | State::Queued | State::Running | State::Cancelling => Step::Stale(Stale::Repeat),
            State::Completed | State::Failed | State::Cancelled | State::Rejected => {
                Step::Stale(Stale::Ended(facts.state))
            }
        },
        Input::ParentFailed { skip } => match facts.state {
            State::Blocked if *skip => Step::Move(Change::to(State::Cancelled)),
            State::Blocked => Step::Move(Change::to(State::Failed)),
            State::Delayed | State::Queued | State::Running | State::Cancelling => Step::Stale(Stale::Repeat),
            State::Completed | State::Failed | State::Cancelled | State::Rejected => {
                Step::Stale(Stale::Ended(facts.state))
            }
        },
        Input::DeadlinePassed => match facts.state {
            State::Blocked | State::Delayed | State::Queued => Step::Move(Change::to(State::Failed)),
            State::Running if facts.consent == Some(facts.attempt) => Step::Stale(Stale::Repeat),
            State::Running => Step::Move(Change { tell: Some(Tell::Cancel), ..Change::to(State::Cancelling) }),
            State::Cancelling => Step::Stale(Stale::Cancelling),
            State::Completed | State::Failed | State::Cancelled | State::Rejected => {
                Step::Stale(Stale::Ended(facts.state))
            }
        },
        Input::Pause => pause(facts),
        Input::Resume => resume(facts),
        Input::Cancel => cancel(facts),
        Input::Finish => finish(facts),
        Input::Redrive => match facts.state {
            State::Failed | State::Cancelled => {
                let fresh = Change { reset_counts: true, pause: Some(false), ..Change::to(State::Queued) };
                Step::Move(fresh.publish(Publish::Now))
            }
            State::Completed | State::Rejected => Step::Refuse(Refusal::NotRedrivable),
            State::Blocked | State::Delayed | State::Queued | State::Running | State::Cancelling => {
                Step::Refuse(Refusal::NotEnded)
            }
        },
        Input::HoldBack => {
            let held = Change { placing: Some(Placing::No), ..Change::to(State::Delayed) };
            let held = || Step::Move(held.publish(Publish::WhenRoom).drop(DropReason::Superseded));
            match facts.state {
                State::Queued => held(),
                // It was offered, and is asked for.
                State::Delayed if facts.placing != Placing::No => held(),
                State::Blocked | State::Delayed => Step::Stale(Stale::NotYet),
                State::Running | State::Cancelling => Step::Stale(Stale::Repeat),
                State::Completed | State::Failed | State::Cancelled | State::Rejected => {
                    Step::Stale(Stale::Ended(facts.state))
                }
            }
        }
        Input::LetGo => match facts.state {
            // Its turn had come before.
            State::Delayed => Step::Move(Change::to(State::Queued).publish(Publish::First)),
            State::Blocked | State::Queued | State::Running | State::Cancelling => Step::Stale(Stale::Repeat),
            State::Completed | State::Failed | State::Cancelled | State::Rejected => {
                Step::Stale(Stale::Ended(facts.state))
            }
        },
        Input::Unfit | Input::NeverFits => match facts.state {
            State::Queued if *input == Input::NeverFits => {
                Step::Move(Change::to(State::Rejected).drop(DropReason::Rejected))
            }
            State::Queued => {
                let wanted = Change { placing: Some(Placing::Wanted), ..Change::to(State::Delayed) };
                Step::Move(wanted.publish(Publish::AfterPlacementPause).drop(DropReason::Unfit))
            }
            State::Blocked | State::Delayed => Step::Stale(Stale::NotYet),
            State::Running | State::Cancelling => Step::Stale(Stale::Repeat),
            State::Completed | State::Failed | State::Cancelled | State::Rejected => {
                Step::Stale(Stale::Ended(facts.state))
            }
        },
        Input::DeliveryLimit => match facts.state {
            State::Queued => Step::Move(Change::to(State::Failed)),
            State::Running | State::Cancelling => Step::Move(Change::to(facts.state).custody(Custody::Ledger)),
            State::Blocked | State::Delayed => Step::Stale(Stale::NotYet),
            State::Completed | State::Failed | State::Cancelled | State::Rejected => {
                Step::Stale(Stale::Ended(facts.state))
            }
        },
    }
}

fn claim(facts: &Facts, from: &Sender, owner_dead: bool, running_unanswered: Option<u32>) -> Step {
    match facts.state {
        State::Blocked | State::Delayed => Step::Stale(Stale::NotYet),
        State::Queued if facts.paused => Step::Stale(Stale::Paused),
        State::Queued => match running_unanswered {
            Some(running) if running != facts.attempt + 1 => Step::Stale(Stale::OldAttempt),
            Some(_) | None => Step::Move(Change { begin: true, ..Change::to(State::Running).custody(Custody::Broker) }),
        },
        State::Running if facts.owner.as_ref() == Some(from) => match running_unanswered {
            Some(running) if running != facts.attempt => Step::Stale(Stale::OldAttempt),
            Some(_) | None => Step::Move(Change { grant_again: true, ..Change::to(State::Running) }),
        },
        // The claimer holds a delivery, so the job passes straight to it; were the job parked, that copy would be dropped.
        State::Running if owner_dead => {
            let change = lost(facts);
            if change.to == State::Queued && running_unanswered.is_none() {
                Step::Move(Change {
                    begin: true,
                    ..Change::to(State::Running).end(End::Lapsed).custody(Custody::Broker)
                })
            } else if change.to == State::Queued {
                Step::Move(change.drop(DropReason::Superseded))
            } else {
                Step::Move(change.drop(DropReason::Finished))
            }
        }
        State::Running => Step::Move(Change::to(State::Running).custody(Custody::Ledger).drop(DropReason::OwnerAlive)),
        State::Cancelling if owner_dead => {
            Step::Move(Change::to(State::Cancelled).end(End::Cancelled).drop(DropReason::Cancelled))
        }
        State::Cancelling => Step::Stale(Stale::Cancelling),
        State::Completed | State::Failed | State::Cancelled | State::Rejected => Step::Stale(Stale::Ended(facts.state)),
    }
}

/// The worker holds no delivery, so the ledger answers for the job from the start.
fn take(facts: &Facts, from: &Sender) -> Step {
    let begin = || Step::Move(Change { begin: true, ..Change::to(State::Running).custody(Custody::Ledger) });
    match facts.state {
        State::Blocked => Step::Stale(Stale::NotYet),
        State::Delayed | State::Queued if facts.paused => Step::Stale(Stale::Paused),
        State::Delayed if facts.placing == Placing::Offered(from.clone()) => begin(),
        // It waits for its time, or somebody else was found.
        State::Delayed => Step::Stale(Stale::NotYet),
        // The offer has run out and the job's message is out: whoever comes first has it.
        State::Queued => begin(),
        State::Running if facts.owner.as_ref() == Some(from) => {
            Step::Move(Change { grant_again: true, ..Change::to(State::Running) })
        }
        State::Running => Step::Stale(Stale::OldAttempt),
        State::Cancelling => Step::Stale(Stale::Cancelling),
        State::Completed | State::Failed | State::Cancelled | State::Rejected => Step::Stale(Stale::Ended(facts.state)),
    }
}

/// Whom the ledger looks for, if it does.
fn placing(facts: &Facts) -> Result<&Placing, Stale> {
    match facts.state {
        State::Delayed if facts.paused => Err(Stale::Paused),
        State::Delayed if facts.placing == Placing::No => Err(Stale::NotYet),
        State::Delayed => Ok(&facts.placing),
        State::Blocked => Err(Stale::NotYet),
        State::Queued | State::Running | State::Cancelling => Err(Stale::Repeat),
        State::Completed | State::Failed | State::Cancelled | State::Rejected => Err(Stale::Ended(facts.state)),
    }
}

fn holder(facts: &Facts, from: &Sender, attempt: u32) -> Result<(), Refusal> {
    match facts.state {
        State::Running | State::Cancelling => {
            if facts.owner.as_ref() == Some(from) && facts.attempt == attempt {
                Ok(())
            } else {
                Err(Refusal::NotOwner)
            }
        }
        State::Blocked | State::Delayed | State::Queued => Err(Refusal::NotOwner),
        State::Completed | State::Failed | State::Cancelled | State::Rejected => Err(Refusal::Ended),
    }
}

fn commit(facts: &Facts, from: &Sender, attempt: u32) -> Step {
    match (holder(facts, from, attempt), facts.state) {
        (Err(refusal), _) => Step::Refuse(refusal),
        (Ok(()), State::Cancelling) => Step::Refuse(Refusal::Cancelling),
        (Ok(()), _) => Step::Move(Change { consent: true, ..Change::to(State::Running) }),
    }
}

fn finished(facts: &Facts, attempt: u32) -> Step {
    if facts.state.is_end() {
        return Step::Stale(Stale::Ended(facts.state));
    }
    // Consent outlives the lease: what a consented attempt published stands in its place, so the job is done, whoever
    // runs it again by now.
    if facts.consent != Some(attempt) {
        return if attempt < facts.attempt { Step::Stale(Stale::OldAttempt) } else { Step::Refuse(Refusal::NoConsent) };
    }
    let done = Change::to(State::Completed);
    match facts.state {
        State::Running | State::Cancelling if facts.attempt == attempt => Step::Move(done.end(End::Finished)),
        State::Running | State::Cancelling => Step::Move(Change { tell: Some(Tell::Abandon), ..done.end(End::Lapsed) }),
        State::Blocked | State::Delayed | State::Queued => Step::Move(done),
        State::Completed | State::Failed | State::Cancelled | State::Rejected => Step::Stale(Stale::Ended(facts.state)),
    }
}

/// A report that ends the current attempt; while the job is being cancelled every end is the end of the job.
fn report(facts: &Facts, attempt: u32, change: impl FnOnce(&Facts) -> Change) -> Step {
    match facts.state {
        State::Running | State::Cancelling if facts.attempt != attempt => Step::Stale(Stale::OldAttempt),
        State::Running => Step::Move(change(facts)),
        State::Cancelling => Step::Move(Change::to(State::Cancelled).end(End::Cancelled)),
        State::Blocked | State::Delayed | State::Queued => Step::Stale(Stale::OldAttempt),
        State::Completed | State::Failed | State::Cancelled | State::Rejected => Step::Stale(Stale::Ended(facts.state)),
    }
}

fn failed(facts: &Facts, cause: Cause) -> Change {
    let within_budget = facts.failures < facts.max_retries;
    let again = match cause.policy() {
        RetryPolicy::Never => false,
        RetryPolicy::Once => within_budget && facts.last_cause != Some(cause),
        RetryPolicy::Backoff => within_budget,
        RetryPolicy::Free => return lost(facts),
    };
    let to = if again { State::Delayed } else { State::Failed };
    let change = Change { count_failure: true, ..Change::to(to).end(End::Failed) };
    if again { change.publish(Publish::AfterBackoff) } else { change }
}

fn lost(facts: &Facts) -> Change {
    if facts.losses + 1 >= facts.loss_limit {
        Change::to(State::Failed).end(End::Lapsed)
    } else {
        Change::to(State::Queued).end(End::Lapsed).publish(Publish::First)
    }
}

/// A job that waits keeps its place in the ledger but is not granted; one that runs is frozen where it is.
fn pause(facts: &Facts) -> Step {
    let paused = |state| Change { pause: Some(true), ..Change::to(state) };
    match facts.state {
        State::Completed | State::Failed | State::Cancelled | State::Rejected => Step::Refuse(Refusal::Ended),
        State::Cancelling => Step::Refuse(Refusal::Cancelling),
        State::Running if facts.consent == Some(facts.attempt) => Step::Refuse(Refusal::Publishing),
        State::Blocked | State::Delayed | State::Queued | State::Running if facts.paused => Step::Stale(Stale::Repeat),
        State::Running => Step::Move(Change { tell: Some(Tell::Pause), ..paused(State::Running) }),
        State::Queued => Step::Move(paused(State::Queued)),
        State::Blocked | State::Delayed => Step::Move(paused(facts.state)),
    }
}

fn resume(facts: &Facts) -> Step {
    let resumed = |state| Change { pause: Some(false), ..Change::to(state) };
    match facts.state {
        State::Completed | State::Failed | State::Cancelled | State::Rejected => Step::Refuse(Refusal::Ended),
        State::Cancelling => Step::Refuse(Refusal::Cancelling),
        State::Blocked | State::Delayed | State::Queued | State::Running if !facts.paused => Step::Stale(Stale::Repeat),
        State::Running => Step::Move(Change { tell: Some(Tell::Resume), ..resumed(State::Running) }),
        // Its message was dropped while it was paused, or is claimed once more than needed.
        State::Queued => Step::Move(resumed(State::Queued).publish(Publish::Now)),
        State::Blocked | State::Delayed => Step::Move(resumed(facts.state)),
    }
}

/// A live job that runs ends with what it has. One that waits has nothing. Whether it is live is known to who asks.
fn finish(facts: &Facts) -> Step {
    match facts.state {
        State::Running if facts.finishing || facts.consent == Some(facts.attempt) => Step::Stale(Stale::Repeat),
        State::Running => Step::Move(Change { tell: Some(Tell::Finish), finish: true, ..Change::to(State::Running) }),
        State::Blocked | State::Delayed | State::Queued => Step::Refuse(Refusal::NothingToFinish),
        State::Cancelling => Step::Refuse(Refusal::Cancelling),
        State::Completed | State::Failed | State::Cancelled | State::Rejected => Step::Refuse(Refusal::Ended),
    }
}

fn cancel(facts: &Facts) -> Step {
    match facts.state {
        State::Blocked | State::Delayed | State::Queued => Step::Move(Change::to(State::Cancelled)),
        State::Running if facts.consent == Some(facts.attempt) => Step::Refuse(Refusal::Publishing),
        State::Running => Step::Move(Change { tell: Some(Tell::Cancel), ..Change::to(State::Cancelling) }),
        State::Cancelling => Step::Stale(Stale::Repeat),
        State::Completed | State::Failed | State::Cancelled | State::Rejected => Step::Refuse(Refusal::Ended),
    }
}
