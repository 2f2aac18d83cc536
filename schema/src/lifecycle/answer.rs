//! What is to be done about what happened to a job: a change, or nothing and why.
//!
//! Invariant: a change says everything that the ledger writes and tells; who reads it decides nothing.

use super::{Custody, Placing, State};
use serde::{Deserialize, Serialize};

use crate::message::DropReason;

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
    pub(super) fn to(state: State) -> Change {
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

    pub(super) fn end(self, end: End) -> Change {
        Change { end: Some(end), ..self }
    }

    pub(super) fn publish(self, publish: Publish) -> Change {
        Change { publish: Some(publish), custody: Some(Custody::Ledger), ..self }
    }

    pub(super) fn custody(self, custody: Custody) -> Change {
        Change { custody: Some(custody), ..self }
    }

    pub(super) fn drop(self, reason: DropReason) -> Change {
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
    /// When its tenant has room for it; the ledger looks for that.
    WhenRoom,
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
