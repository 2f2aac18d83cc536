//! How many workers a pool needs now, so that what waits starts within the wait target of its queue.
//!
//! A slot starts jobs of `d` seconds now, after `d`, after `2d`: within `w` seconds `w / d` of them, rounded down, and one more. So
//! that is what each of them needs of a slot. A line (a queue and a priority) waits for every better one; the line that needs
//! most decides.
//!
//! Invariant: pure; of workers of one size, more work never asks for fewer, and no busy worker counts as one that can go.

mod demand;
mod fleet;
mod situation;
mod words;

#[cfg(test)]
mod tests;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::WorkerId;
use crate::job::Queue;

pub use situation::{Arriving, Expected, History, Kind, Line, Place, Running, Situation, Waiting};

/// How long a job of each queue may wait for its start, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitTargets {
    /// Of queue `live`.
    pub live: u32,
    /// Of queue `default`.
    pub default: u32,
    /// Of queue `batch`.
    pub batch: u32,
}

impl Default for WaitTargets {
    fn default() -> WaitTargets {
        WaitTargets { live: 5, default: 300, batch: 3600 }
    }
}

impl WaitTargets {
    /// The target of a queue; a second at least.
    #[must_use]
    pub fn of(&self, queue: Queue) -> f64 {
        let secs = match queue {
            Queue::Live => self.live,
            Queue::Default => self.default,
            Queue::Batch => self.batch,
        };
        f64::from(secs.max(1))
    }
}

/// What whoever asks says about the answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Never fewer workers than these.
    pub min: u32,
    /// No more workers than these, but for those that are busy.
    pub max: Option<u32>,
    /// Slots of a worker that would be added. Absent: as those that are there.
    pub slots: Option<u32>,
    /// How long jobs may wait.
    pub targets: WaitTargets,
}

impl Wishes {
    /// No bounds and no size: only how long jobs may wait.
    #[must_use]
    pub fn of(targets: WaitTargets) -> Wishes {
        Wishes { targets, ..Wishes::default() }
    }
}

/// Answer to `GET /v1/scale`: of one pool where one is asked for, else of all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum ScaleAnswer {
    /// Of one.
    Pool(Box<PoolAdvice>),
    /// Of every pool that has workers or jobs.
    Pools {
        /// By name.
        pools: Vec<PoolAdvice>,
    },
}

/// How many workers one pool needs, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PoolAdvice {
    /// The pool.
    pub pool: String,
    /// How many workers there should be: what is needed within the bounds, and never fewer than are busy.
    pub desired_workers: u32,
    /// How many the work alone needs, without bounds.
    pub needed_workers: u32,
    /// How many the jobs that arrive now would need if nothing waited.
    pub steady_workers: u32,
    /// Workers that take work.
    pub ready_workers: u32,
    /// Of these, workers that run something.
    pub busy_workers: u32,
    /// Workers that finish what they run and take no more; counted nowhere else.
    pub draining_workers: u32,
    /// How many are missing.
    pub missing_workers: u32,
    /// How many may go now; each of them is idle.
    pub surplus_workers: u32,
    /// Slots that the work needs.
    pub needed_slots: f64,
    /// Slots of the workers that take work.
    pub ready_slots: u32,
    /// Slots of a worker as it was reckoned with.
    pub slots_per_worker: u32,
    /// Slots that the largest waiting job takes: a worker should have no fewer.
    pub largest_job_slots: u32,
    /// The bounds that were asked for.
    pub min_workers: u32,
    /// The same, upwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_workers: Option<u32>,
    /// What waits, the line that is served first at the top.
    pub lines: Vec<LineAdvice>,
    /// In which order workers would go with the least loss: idle ones first. The first `surplus_workers` of them may go now.
    pub first_to_go: Vec<Candidate>,
    /// Why, one sentence each.
    pub reasons: Vec<String>,
    /// When the ledger was asked.
    pub observed_at: Timestamp,
}

/// One queue and priority of a pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LineAdvice {
    /// Queue.
    pub queue: String,
    /// Priority.
    pub priority: String,
    /// Jobs that wait for a worker.
    pub waiting: u64,
    /// Jobs that run.
    pub running: u64,
    /// Jobs that arrive in a minute, of those that have started.
    pub arriving_per_min: f64,
    /// How long the first of them has waited, in seconds.
    pub oldest_secs: f64,
    /// How long a job may wait, in seconds.
    pub target_secs: f64,
    /// How long one of them runs on average, in seconds.
    pub expected_secs: f64,
    /// How long nine of ten run at most, in seconds.
    pub p90_secs: f64,
    /// Slots with which this line and all better ones meet this line's target.
    pub needed_slots: f64,
    /// Whether somebody has paused its queue: what waits in it is not counted.
    pub paused: bool,
}

/// A worker that could go, and what it would cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Candidate {
    /// The worker.
    pub worker: WorkerId,
    /// Its slots.
    pub slots: u32,
    /// Whether it runs nothing.
    pub idle: bool,
    /// Work that would be done again, in seconds of slots.
    pub lost_secs: f64,
}

/// Workers named in one answer at most.
const CANDIDATES_MAX: usize = 100;

/// What a pool needs.
#[must_use]
pub fn advise(situation: &Situation, wishes: &Wishes, observed_at: Timestamp) -> PoolAdvice {
    let size = fleet::size(situation, wishes);
    let demand = demand::of(situation, &wishes.targets, size);
    let fleet = fleet::of(situation, &demand, size);
    let bounded = fleet.wanted.max(wishes.min).min(wishes.max.unwrap_or(u32::MAX));
    let desired = bounded.max(fleet.busy);
    let mut first_to_go = fleet.first_to_go.clone();
    first_to_go.truncate(CANDIDATES_MAX);
    PoolAdvice {
        pool: situation.pool.to_string(),
        desired_workers: desired,
        needed_workers: fleet.needed,
        steady_workers: fleet::workers_of(demand.steady, size),
        ready_workers: fleet.ready,
        busy_workers: fleet.busy,
        draining_workers: fleet.draining,
        missing_workers: desired.saturating_sub(fleet.ready),
        surplus_workers: fleet.ready.saturating_sub(desired),
        needed_slots: round(demand.slots),
        ready_slots: fleet.slots,
        slots_per_worker: size,
        largest_job_slots: demand.largest,
        min_workers: wishes.min,
        max_workers: wishes.max,
        reasons: words::reasons(situation, wishes, &demand, &fleet, size, desired),
        lines: demand.lines,
        first_to_go,
        observed_at,
    }
}

/// To hundredths, so that an answer can be read.
fn round(value: f64) -> f64 {
    // Adding zero makes a plain zero of the negative one that an empty sum is.
    (value * 100.0).round() / 100.0 + 0.0
}
