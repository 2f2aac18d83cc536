//! What the advice is made of: the work of one pool and its workers, as the ledger knows them.

use std::collections::BTreeMap;

use crate::id::WorkerId;
use crate::job::{Pool, Priority, Queue};
use crate::topology::WorkQueue;

/// What a job is reckoned with of whose kind nothing has completed yet, in seconds.
const ASSUMED_SECS: f64 = 300.0;

/// Which of a pool's work queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Line {
    /// Queue.
    pub queue: Queue,
    /// Priority.
    pub priority: Priority,
}

impl Line {
    /// Every line, the one that is served first at the top.
    #[must_use]
    pub fn all() -> Vec<Line> {
        let of = |work: WorkQueue| Line { queue: work.queue, priority: work.priority };
        WorkQueue::of_pool(&Pool::cpu()).into_iter().map(of).collect()
    }
}

/// Jobs that take about as long as each other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// Their scenario.
    pub scenario: String,
    /// Slots that each of them takes where a worker has as many.
    pub units: u32,
}

/// Jobs that wait for a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    /// Where.
    pub line: Line,
    /// What they are.
    pub kind: Kind,
    /// How many.
    pub jobs: u64,
    /// How long the first of them has waited, in seconds.
    pub oldest_secs: f64,
}

/// A job that runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Running {
    /// From where it came.
    pub line: Line,
    /// What it is.
    pub kind: Kind,
    /// Who runs it.
    pub worker: Option<WorkerId>,
    /// For how long already, in seconds.
    pub elapsed_secs: f64,
    /// For how long still, by its own progress.
    pub eta_secs: Option<f64>,
}

/// Jobs that were recorded lately and have started.
#[derive(Debug, Clone, PartialEq)]
pub struct Arriving {
    /// Where.
    pub line: Line,
    /// What they are.
    pub kind: Kind,
    /// How many in a second.
    pub per_sec: f64,
}

/// A worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// Which.
    pub worker: WorkerId,
    /// Whether it takes no more work.
    pub draining: bool,
    /// Its slots.
    pub slots: u32,
    /// Slots that it says are in use.
    pub used: u32,
}

/// How long jobs of a kind ran that completed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expected {
    /// The mean, in seconds: what many of them take together.
    pub mean_secs: f64,
    /// Half of them took no longer.
    pub median_secs: f64,
    /// Nine of ten took no longer.
    pub p90_secs: f64,
    /// How many there are.
    pub samples: u64,
}

impl Expected {
    /// What is assumed where nothing is known.
    pub const ASSUMED: Expected =
        Expected { mean_secs: ASSUMED_SECS, median_secs: ASSUMED_SECS, p90_secs: ASSUMED_SECS, samples: 0 };
}

/// How long jobs ran, by kind.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History(pub BTreeMap<Kind, Expected>);

impl History {
    /// What a job of this kind is reckoned with: as those of its kind; where none completed, as those of its scenario, whatever
    /// their size; else what is assumed.
    #[must_use]
    pub fn expect(&self, kind: &Kind) -> Expected {
        if let Some(known) = self.0.get(kind) {
            return *known;
        }
        let alike = self.0.iter().filter(|(other, _)| other.scenario == kind.scenario);
        alike.map(|(_, known)| *known).max_by_key(|known| known.samples).unwrap_or(Expected::ASSUMED)
    }
}

/// One pool, now.
#[derive(Debug, Clone, PartialEq)]
pub struct Situation {
    /// Which.
    pub pool: Pool,
    /// What waits.
    pub waiting: Vec<Waiting>,
    /// What runs.
    pub running: Vec<Running>,
    /// What arrives.
    pub arriving: Vec<Arriving>,
    /// Who is there.
    pub workers: Vec<Place>,
    /// Slots of the worker of this pool that was seen last, if none is there now.
    pub last_slots: Option<u32>,
    /// How long jobs take.
    pub history: History,
    /// Queues that somebody has paused.
    pub paused: Vec<Queue>,
}

impl Situation {
    /// A pool in which nothing is.
    #[must_use]
    pub fn empty(pool: Pool) -> Situation {
        Situation {
            pool,
            waiting: Vec::new(),
            running: Vec::new(),
            arriving: Vec::new(),
            workers: Vec::new(),
            last_slots: None,
            history: History::default(),
            paused: Vec::new(),
        }
    }

    /// The same with how long each running job still takes reckoned once, for whoever is asked more than once.
    #[must_use]
    pub fn reckoned(mut self) -> Situation {
        for running in &mut self.running {
            running.eta_secs = Some(running.remaining_secs(&self.history));
        }
        self
    }

    /// What waits for a worker and not for somebody's word.
    pub(super) fn startable(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.iter().filter(|waiting| waiting.jobs > 0 && !self.paused.contains(&waiting.line.queue))
    }
}

impl Running {
    /// For how long still, in seconds: by its progress; else by what its kind takes; one that has taken longer than nine of ten
    /// is reckoned with a tenth of that.
    pub(super) fn remaining_secs(&self, history: &History) -> f64 {
        if let Some(eta) = self.eta_secs.filter(|eta| eta.is_finite()) {
            return eta.max(0.0);
        }
        let Expected { mean_secs, p90_secs, .. } = history.expect(&self.kind);
        let left = [mean_secs, p90_secs].into_iter().map(|secs| secs - self.elapsed_secs).find(|left| *left > 0.0);
        left.unwrap_or(p90_secs / 10.0)
    }
}
