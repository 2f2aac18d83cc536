//! The life of a job as one pure function: [`step`] takes what the ledger knows and what happened, and answers what to do.
//!
//! Invariants, each enumerated by a test over every cell:
//! * `attempt` only grows; an end is left only by a redrive;
//! * at most one attempt of a job holds the lease, and only a consented attempt completes it;
//! * every change that leaves nobody responsible for the job asks the ledger to publish it again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::failure::{Cause, RetryPolicy};
use crate::message::{DropReason, Sender};

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits for other jobs.
    Blocked,
    /// Waits for its time: a retry, or `not_before`.
    Delayed,
    /// Waits for a worker.
    Queued,
    /// An attempt holds the lease.
    Running,
    /// An attempt holds the lease and is being ended.
    Cancelling,
    /// End: the output is published and proven.
    Completed,
    /// End: parked after its last failure. Can be redriven.
    Failed,
    /// End: somebody cancelled it.
    Cancelled,
    /// End: it was never valid.
    Rejected,
}

impl State {
    /// Every state.
    pub const ALL: [State; 9] = [
        State::Blocked,
        State::Delayed,
        State::Queued,
        State::Running,
        State::Cancelling,
        State::Completed,
        State::Failed,
        State::Cancelled,
        State::Rejected,
    ];

    /// The name as it stands in columns, labels and answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            State::Blocked => "blocked",
            State::Delayed => "delayed",
            State::Queued => "queued",
            State::Running => "running",
            State::Cancelling => "cancelling",
            State::Completed => "completed",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
            State::Rejected => "rejected",
        }
    }

    /// Whether nothing more happens by itself.
    #[must_use]
    pub fn is_end(self) -> bool {
        match self {
            State::Completed | State::Failed | State::Cancelled | State::Rejected => true,
            State::Blocked | State::Delayed | State::Queued | State::Running | State::Cancelling => false,
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for State {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<State, UnknownState> {
        State::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| UnknownState(crate::id::excerpt(text)))
    }
}

/// A text that names no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no state: one of blocked, delayed, queued, running, cancelling, completed, failed, cancelled, rejected is expected"
)]
pub struct UnknownState(String);

/// Who will give the job back if its worker dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Custody {
    /// The broker holds an unacknowledged delivery; the ledger's lease is the second net.
    Broker,
    /// The delivery is gone; only the ledger can publish the job again.
    Ledger,
}

impl Custody {
    /// The name as it stands in columns.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Custody::Broker => "broker",
            Custody::Ledger => "ledger",
        }
    }
}

/// Whether the ledger looks for a worker for a job, because the one that had its delivery could not run it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Placing {
    /// It does not: the broker's queues distribute the job.
    #[default]
    No,
    /// It does.
    Wanted,
    /// It has offered the job to a worker, which keeps room for it or was not heard yet.
    Offered(Sender),
}

/// What the ledger knows of a job, as far as decisions depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Where it is.
    pub state: State,
    /// Number of the last attempt; 0 before the first.
    pub attempt: u32,
    /// Attempts that counted against the budget.
    pub failures: u32,
    /// The budget.
    pub max_retries: u32,
    /// Attempts whose worker was lost, since the last redrive.
    pub losses: u32,
    /// Losses after which the job is parked, because it may be what kills the workers.
    pub loss_limit: u32,
    /// Who holds the lease, in `Running` and `Cancelling`.
    pub owner: Option<Sender>,
    /// The last attempt that may publish, or may have published.
    pub consent: Option<u32>,
    /// The cause of the last failure.
    pub last_cause: Option<Cause>,
    /// Whether somebody has paused it.
    pub paused: bool,
    /// Whether somebody wants it to end with what it has.
    pub finishing: bool,
    /// Whether a worker is looked for, while it is `Delayed`.
    pub placing: Placing,
}

/// What happened to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A publication of a job that the ledger has already.
    Arrive,
    /// A worker has a delivery of it and wants to run it.
    Claim {
        /// Who.
        from: Sender,
        /// Whether the owner was asked and is known to be dead.
        owner_dead: bool,
        /// The worker runs this attempt already, begun while no dispatcher answered.
        running_unanswered: Option<u32>,
    },
    /// A worker that was offered the job has room for it now and wants to run it, without a delivery.
    Take {
        /// Who.
        from: Sender,
    },
    /// The leader has chosen a worker for it.
    Offer {
        /// Which.
        to: Sender,
    },
    /// The worker keeps room for it.
    OfferAccepted {
        /// Which.
        by: Sender,
    },
    /// The worker keeps no room for it, or no more.
    OfferDeclined {
        /// Which.
        by: Sender,
    },
    /// The owner wants to acknowledge its delivery and asks the ledger to answer for the job from now on.
    TakeCustody {
        /// Who.
        from: Sender,
        /// Which attempt.
        attempt: u32,
    },
    /// The owner wants to publish its output.
    Commit {
        /// Who.
        from: Sender,
        /// Which attempt.
        attempt: u32,
    },
    /// An attempt reports that its output is published.
    Finished {
        /// Which attempt.
        attempt: u32,
    },
    /// An attempt reports a failure.
    Failed {
        /// Which attempt.
        attempt: u32,
        /// Why.
        cause: Cause,
    },
    /// An attempt reports that the job can never run as written.
    Rejected {
        /// Which attempt.
        attempt: u32,
    },
    /// An attempt was handed back unfinished.
    Released {
        /// Which attempt.
        attempt: u32,
    },
    /// An attempt reports that the job is to be made in chunks, by jobs of their own for which it waits.
    Split {
        /// Which attempt.
        attempt: u32,
    },
    /// An attempt reports that it was ended on our command.
    CancelDone {
        /// Which attempt.
        attempt: u32,
    },
    /// The lease of an attempt ended by silence.
    Lapse {
        /// Which attempt.
        attempt: u32,
    },
    /// Its time has come.
    Due,
    /// Every job it waited for has completed.
    ParentsDone,
    /// A job it waits for has ended otherwise; children are skipped or failed with it.
    ParentFailed {
        /// Whether the child counts as cancelled instead of failed.
        skip: bool,
    },
    /// It has become useless.
    DeadlinePassed,
    /// Somebody pauses it.
    Pause,
    /// Somebody lets it go on.
    Resume,
    /// Somebody cancels it.
    Cancel,
    /// Somebody wants a live job to end with what it has.
    Finish,
    /// Somebody sends it round again.
    Redrive,
    /// It does not fit the worker that has its delivery, but may fit another.
    Unfit,
    /// It fits no worker, and the pool does not let such jobs wait.
    NeverFits,
    /// The broker gave up delivering its message.
    DeliveryLimit,
}

impl Input {
    /// The name as it stands in logs and in the printed table.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Input::Arrive => "arrive",
            Input::Claim { .. } => "claim",
            Input::Take { .. } => "take",
            Input::Offer { .. } => "offer",
            Input::OfferAccepted { .. } => "offer_accepted",
            Input::OfferDeclined { .. } => "offer_declined",
            Input::TakeCustody { .. } => "take_custody",
            Input::Commit { .. } => "commit",
            Input::Finished { .. } => "finished",
            Input::Failed { .. } => "failed",
            Input::Rejected { .. } => "rejected",
            Input::Released { .. } => "released",
            Input::CancelDone { .. } => "cancel_done",
            Input::Split { .. } => "split",
            Input::Lapse { .. } => "lapse",
            Input::Due => "due",
            Input::ParentsDone => "parents_done",
            Input::ParentFailed { .. } => "parent_failed",
            Input::DeadlinePassed => "deadline_passed",
            Input::Pause => "pause",
            Input::Resume => "resume",
            Input::Cancel => "cancel",
            Input::Finish => "finish",
            Input::Redrive => "redrive",
            Input::Unfit => "unfit",
            Input::NeverFits => "never_fits",
            Input::DeliveryLimit => "delivery_limit",
        }
    }
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// Change the job so.
    Move(Change),
    /// Late or repeated: acknowledge and count.
    Stale(Stale),
    /// Somebody's mistake, or too late: say so.
    Refuse(Refusal),
}

/// How a job changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Where it goes.
    pub to: State,
    /// How the current attempt ends, if it ends.
    pub end: Option<End>,
    /// Whether the next attempt begins, owned by the claimer.
    pub begin: bool,
    /// Whether the current attempt is granted again to its owner: a claim whose answer was lost.
    pub grant_again: bool,
    /// Whether this failure counts against the budget.
    pub count_failure: bool,
    /// Whether failures and losses start again from zero.
    pub reset_counts: bool,
    /// Whether the job is paused from now on, if that changes.
    pub pause: Option<bool>,
    /// Whether it is to end with what it has from now on.
    pub finish: bool,
    /// Whether a worker is looked for from now on, if that changes. Nobody is looked for in any state but `Delayed`.
    pub placing: Option<Placing>,
    /// Whether the current attempt may publish from now on.
    pub consent: bool,
    /// Whether the ledger publishes the job, and when.
    pub publish: Option<Publish>,
    /// Who answers for the job from now on, if that changes.
    pub custody: Option<Custody>,
    /// What the owner of the current attempt must be told.
    pub tell: Option<Tell>,
    /// What to answer to a claim that is not granted although the job changed.
    pub drop: Option<DropReason>,
}

impl Change {
    fn to(state: State) -> Change {
        Change {
            to: state,
            end: None,
            begin: false,
            grant_again: false,
            count_failure: false,
            reset_counts: false,
            pause: None,
            finish: false,
            placing: None,
            consent: false,
            publish: None,
            custody: None,
            tell: None,
            drop: None,
        }
    }

    fn end(self, end: End) -> Change {
        Change { end: Some(end), ..self }
    }

    fn publish(self, publish: Publish) -> Change {
        Change { publish: Some(publish), custody: Some(Custody::Ledger), ..self }
    }

    fn custody(self, custody: Custody) -> Change {
        Change { custody: Some(custody), ..self }
    }

    fn drop(self, reason: DropReason) -> Change {
        Change { drop: Some(reason), ..self }
    }
}

/// How an attempt ended, as it stands in its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Published.
    Finished,
    /// Failed.
    Failed,
    /// Found that the job can never run.
    Rejected,
    /// Handed back.
    Released,
    /// Found that the job is to be made in chunks.
    Split,
    /// Cancelled.
    Cancelled,
    /// Fell silent, or its worker is known to be dead.
    Lapsed,
}

impl End {
    /// The name as it stands in columns.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            End::Finished => "finished",
            End::Failed => "failed",
            End::Rejected => "rejected",
            End::Released => "released",
            End::Split => "split",
            End::Cancelled => "cancelled",
            End::Lapsed => "lapsed",
        }
    }
}

/// When the ledger publishes a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Publish {
    /// At once.
    Now,
    /// At once and before what waits in its queue, because an attempt was handed back or lost: it has waited before.
    First,
    /// After the backoff for its failures, see [`crate::retry`].
    AfterBackoff,
    /// After a pause, unless a worker is found before: the one that had the job's delivery could not run it.
    AfterPlacementPause,
    /// When the worker that was offered the job has not been heard of for too long.
    AfterOffer,
    /// At its `not_before`, or at once where it has none.
    WhenDue,
}

/// What the owner of an attempt must be told. Repeated until the attempt is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tell {
    /// The job is cancelled.
    Cancel,
    /// The job is to end with what it has.
    Finish,
    /// The lease is lost.
    Abandon,
    /// Freeze.
    Pause,
    /// Thaw.
    Resume,
}

/// Why an input changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stale {
    /// The same was said before.
    Repeat,
    /// The job has ended.
    Ended(State),
    /// The attempt is not the current one.
    OldAttempt,
    /// The ledger will publish the job itself when its time has come.
    NotYet,
    /// The job is being cancelled.
    Cancelling,
    /// Somebody has paused the job; its resumption publishes it.
    Paused,
}

impl Stale {
    /// The answer to a claim that is stale for this reason.
    #[must_use]
    pub fn drop_reason(self) -> DropReason {
        match self {
            Stale::Ended(State::Cancelled) | Stale::Cancelling => DropReason::Cancelled,
            Stale::Ended(State::Rejected) => DropReason::Rejected,
            Stale::Ended(_) => DropReason::Finished,
            Stale::Repeat | Stale::OldAttempt | Stale::NotYet | Stale::Paused => DropReason::Superseded,
        }
    }
}

/// Why an input is refused. The text is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The job has ended.
    #[error("the job has ended already")]
    Ended,
    /// The job has not ended.
    #[error("the job has not ended: only a failed or cancelled job can be sent round again")]
    NotEnded,
    /// A completed or rejected job is not sent round again.
    #[error("only a failed or cancelled job can be sent round again")]
    NotRedrivable,
    /// The output is being published.
    #[error("too late: the output is being published")]
    Publishing,
    /// The lease belongs to another attempt or worker.
    #[error("the lease of this attempt is lost")]
    NotOwner,
    /// The job is being cancelled.
    #[error("the job is being cancelled")]
    Cancelling,
    /// There is no live job that could end with what it has.
    #[error("only a live job that runs can end with what it has: cancel it instead")]
    NothingToFinish,
    /// The attempt never asked for consent, or was refused.
    #[error("the attempt had no right to publish")]
    NoConsent,
}

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
