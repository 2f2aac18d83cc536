//! How many workers each pool needs, by what the ledger holds: read at most every few seconds, however many ask.
//!
//! Invariant: one reading at a time, and the longer one of many jobs takes the rarer they are: see [`Kept`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ffpool_schema::advice::{self, History, PoolAdvice, Situation, WaitTargets, Wishes};
use ffpool_schema::job::Pool;
use jiff::Timestamp;

use crate::kept::{Kept, Rules};
use crate::ledger::Ledger;
use crate::ledger::read::ReadError;
use crate::ledger::scale::OF_CHUNKS;

/// A reading is as good as new for so long.
const FRESH: Duration = Duration::from_secs(2);
/// So long after that one of many jobs or workers is used while the next is read.
const STALE: Duration = Duration::from_secs(20);
/// Jobs and workers that are many.
const MANY: u64 = 10_000;
/// How long jobs take changes slowly.
const HISTORY_FRESH: Duration = Duration::from_secs(60);
/// The ledger as the advice needs it. Clones of its `Arc` share one reading.
pub(crate) struct Scaling {
    ledger: Ledger,
    /// How long jobs may wait where nobody says otherwise.
    pub(crate) targets: WaitTargets,
    kept: Arc<Kept<Reading>>,
    /// Written by whoever reads.
    history: Mutex<Option<Known>>,
}

/// Every pool that has workers or jobs, and when it was read.
struct Reading {
    pools: BTreeMap<Pool, Situation>,
    at: Timestamp,
}

/// How long jobs took.
#[derive(Clone)]
struct Known {
    read: Instant,
    /// It tells of these scenarios, where a job of theirs has completed.
    scenarios: BTreeSet<String>,
    history: History,
}

impl Known {
    /// Whether it serves for these pools still: of every scenario it was asked, and of every kind that waits it knows one.
    fn serves(&self, pools: &BTreeMap<Pool, Situation>) -> bool {
        let mut waiting = pools.values().flat_map(|situation| &situation.waiting);
        scenarios(pools).into_iter().all(|scenario| self.scenarios.contains(scenario))
            && waiting.all(|waiting| self.history.expect(&waiting.kind).samples > 0)
    }
}

impl Scaling {
    pub(crate) fn new(ledger: Ledger, targets: WaitTargets) -> Arc<Scaling> {
        let kept = Kept::new(Rules { fresh: FRESH, is_large, stale: STALE });
        Arc::new(Scaling { ledger, targets, kept, history: Mutex::default() })
    }

    /// What one pool needs, also one in which nothing is.
    pub(crate) async fn advise_one(self: &Arc<Self>, pool: &Pool, wishes: &Wishes) -> Result<PoolAdvice, ReadError> {
        let reading = self.read().await?;
        let nothing = Situation::empty(pool.clone());
        Ok(advice::advise(reading.pools.get(pool).unwrap_or(&nothing), wishes, reading.at))
    }

    /// What every pool needs that has workers or jobs.
    pub(crate) async fn advise_all(self: &Arc<Self>, wishes: &Wishes) -> Result<Vec<PoolAdvice>, ReadError> {
        let reading = self.read().await?;
        Ok(reading.pools.values().map(|situation| advice::advise(situation, wishes, reading.at)).collect())
    }

    async fn read(self: &Arc<Self>) -> Result<Arc<Reading>, ReadError> {
        let scaling = self.clone();
        self.kept.clone().get(|| async move { scaling.read_anew().await }).await
    }

    async fn read_anew(&self) -> Result<Reading, ReadError> {
        let at = Timestamp::now();
        let pools = self.ledger.scale_situations().await?;
        let history = self.history(&pools).await?;
        let reckoned = |(pool, situation): (Pool, Situation)| {
            (pool, Situation { history: history.clone(), ..situation }.reckoned())
        };
        Ok(Reading { pools: pools.into_iter().map(reckoned).collect(), at })
    }

    async fn history(&self, pools: &BTreeMap<Pool, Situation>) -> Result<History, ReadError> {
        let known = self.history.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(known) = known
            && known.read.elapsed() < HISTORY_FRESH
            && known.serves(pools)
        {
            return Ok(known.history);
        }
        let asked = scenarios(pools);
        let history = self.ledger.scale_history(&asked).await?;
        let scenarios = asked.into_iter().map(str::to_owned).collect();
        *self.history.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Known { read: Instant::now(), scenarios, history: history.clone() });
        Ok(history)
    }
}

fn is_large(reading: &Reading) -> bool {
    let of = |situation: &Situation| {
        let waiting: u64 = situation.waiting.iter().map(|waiting| waiting.jobs).sum();
        waiting + (situation.running.len() + situation.workers.len()) as u64
    };
    reading.pools.values().map(of).sum::<u64>() > MANY
}

/// The scenarios of all that waits, runs or arrives.
fn scenarios(pools: &BTreeMap<Pool, Situation>) -> BTreeSet<&str> {
    let kinds = pools.values().flat_map(|situation| {
        let waiting = situation.waiting.iter().map(|waiting| &waiting.kind);
        let running = situation.running.iter().map(|running| &running.kind);
        waiting.chain(running).chain(situation.arriving.iter().map(|arriving| &arriving.kind))
    });
    kinds.map(|kind| kind.scenario.strip_suffix(OF_CHUNKS).unwrap_or(&kind.scenario)).collect()
}

#[cfg(test)]
mod tests {
    use ffpool_schema::advice::{Expected, Kind, Line, Running, Waiting};
    use ffpool_schema::job::{Priority, Queue};

    use super::*;

    fn kind(scenario: &str) -> Kind {
        Kind { scenario: scenario.to_owned(), units: 1 }
    }

    fn pools(waits: &[&str], runs: &[&str]) -> BTreeMap<Pool, Situation> {
        let line = Line { queue: Queue::Default, priority: Priority::Medium };
        let waiting = waits.iter().map(|name| Waiting { line, kind: kind(name), jobs: 1, oldest_secs: 1.0 });
        let running =
            runs.iter().map(|name| Running { line, kind: kind(name), worker: None, elapsed_secs: 1.0, eta_secs: None });
        let situation =
            Situation { waiting: waiting.collect(), running: running.collect(), ..Situation::empty(Pool::default()) };
        BTreeMap::from([(Pool::default(), situation)])
    }

    #[test]
    fn what_is_known_of_durations_serves_only_for_what_was_asked_of() {
        let expected = Expected { mean_secs: 9.0, median_secs: 9.0, p90_secs: 9.0, samples: 3 };
        let known = Known {
            read: Instant::now(),
            scenarios: ["fast", "slow"].map(str::to_owned).into(),
            history: History(BTreeMap::from([(kind("fast"), expected)])),
        };
        assert!(known.serves(&pools(&["fast"], &["slow"])));
        assert!(known.serves(&pools(&[], &["fast (chunk)"])), "a chunk is of its whole's scenario");
        assert!(!known.serves(&pools(&["slow"], &[])), "none completed then; one may have by now");
        assert!(!known.serves(&pools(&["fast"], &["new"])), "nobody asked of it");
    }
}
