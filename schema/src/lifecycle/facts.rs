//! How a job stands: its state, and what else the ledger knows that decides about it.
//!
//! Invariant: pure; states have the same names in the ledger, in messages and on the page.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::failure::Cause;
use crate::message::Sender;

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
