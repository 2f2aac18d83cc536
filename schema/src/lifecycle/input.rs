//! What can happen to a job.
//!
//! Invariant: closed; whoever adds an input decides about it in every state.

use crate::failure::Cause;
use crate::message::Sender;

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
    /// Its turn has come, and its tenant may have no more for now.
    HoldBack,
    /// There is room for it again.
    LetGo,
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
            Input::HoldBack => "hold_back",
            Input::LetGo => "let_go",
            Input::Unfit => "unfit",
            Input::NeverFits => "never_fits",
            Input::DeliveryLimit => "delivery_limit",
        }
    }
}
