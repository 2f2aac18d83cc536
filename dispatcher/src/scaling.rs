//! How many workers each pool needs, by what the ledger holds: read at most every few seconds, however many ask.
//!
//! Invariant: one reading at a time, and the longer one takes the rarer they are: asking often costs Postgres a tenth of a
//! connection at most.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ffpool_schema::advice::{self, History, PoolAdvice, Situation, WaitTargets, Wishes};
use ffpool_schema::job::Pool;
use jiff::Timestamp;
use tokio::sync::Mutex;
use tracing::debug;

use crate::ledger::Ledger;
use crate::ledger::read::ReadError;

/// A reading is as good as new for so long.
const FRESH: Duration = Duration::from_secs(2);
/// How long jobs take changes slowly, and counting it means to look at many of them.
const HISTORY_FRESH: Duration = Duration::from_secs(60);
/// A reading that took long is kept for so many times as long.
const REST: u32 = 10;
/// How far back it is looked for jobs that completed, in seconds, until enough are found of every kind that waits.
const BACK_SECS: [f64; 3] = [3_600.0, 86_400.0, 604_800.0];
/// So many are enough.
const ENOUGH: u64 = 20;

/// The ledger as the advice needs it. Clones of its `Arc` share one reading.
pub(crate) struct Scaling {
    ledger: Ledger,
    /// How long jobs may wait where nobody says otherwise.
    pub(crate) targets: WaitTargets,
    /// Whoever holds the lock reads; the others wait for the same reading.
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    pools: Option<Reading<BTreeMap<Pool, Situation>>>,
    history: Option<Reading<History>>,
}

struct Reading<T> {
    value: T,
    at: Timestamp,
    read: Instant,
    /// For how long it is as good as new.
    fresh: Duration,
}

impl<T> Reading<T> {
    fn new(value: T, began: Instant, fresh: Duration) -> Reading<T> {
        let fresh = fresh.max(began.elapsed() * REST);
        Reading { value, at: Timestamp::now(), read: Instant::now(), fresh }
    }

    fn is_fresh(&self) -> bool {
        self.read.elapsed() < self.fresh
    }
}

impl Scaling {
    pub(crate) fn new(ledger: Ledger, targets: WaitTargets) -> Arc<Scaling> {
        Arc::new(Scaling { ledger, targets, kept: Mutex::default() })
    }

    /// What one pool needs, also one in which nothing is.
    pub(crate) async fn advise_one(&self, pool: &Pool, wishes: &Wishes) -> Result<PoolAdvice, ReadError> {
        let kept = self.read().await?;
        let (pools, at) = kept.pools();
        let nothing = Situation::empty(pool.clone());
        Ok(advice::advise(pools.get(pool).unwrap_or(&nothing), wishes, at))
    }

    /// What every pool needs that has workers or jobs.
    pub(crate) async fn advise_all(&self, wishes: &Wishes) -> Result<Vec<PoolAdvice>, ReadError> {
        let kept = self.read().await?;
        let (pools, at) = kept.pools();
        Ok(pools.values().map(|situation| advice::advise(situation, wishes, at)).collect())
    }

    async fn read(&self) -> Result<tokio::sync::MutexGuard<'_, Kept>, ReadError> {
        let mut kept = self.kept.lock().await;
        if kept.pools.as_ref().is_some_and(Reading::is_fresh) {
            return Ok(kept);
        }
        let began = Instant::now();
        let mut pools = self.ledger.scale_situations().await?;
        if !kept.history.as_ref().is_some_and(|reading| serves(reading, &pools)) {
            let began = Instant::now();
            let history = self.history(&pools).await?;
            kept.history = Some(Reading::new(history, began, FRESH));
        }
        let history = kept.history.as_ref().map(|reading| reading.value.clone()).unwrap_or_default();
        pools.values_mut().for_each(|situation| situation.history = history.clone());
        kept.pools = Some(Reading::new(pools, began, FRESH));
        Ok(kept)
    }

    async fn history(&self, pools: &BTreeMap<Pool, Situation>) -> Result<History, ReadError> {
        let mut found = History::default();
        for back in BACK_SECS {
            match self.ledger.scale_history(back).await {
                Ok(history) => found = history,
                // What a shorter time told is better than nothing.
                Err(ReadError::TooSlow) if back > BACK_SECS[0] => {
                    debug!(back, "Postgres cannot look so far back for durations in time");
                    break;
                }
                Err(error) => return Err(error),
            }
            if knows(&found, pools, ENOUGH) {
                break;
            }
        }
        Ok(found)
    }
}

/// Whether so many jobs are known of every kind that waits.
fn knows(history: &History, pools: &BTreeMap<Pool, Situation>, samples: u64) -> bool {
    let mut waiting = pools.values().flat_map(|situation| &situation.waiting);
    waiting.all(|waiting| history.expect(&waiting.kind).samples >= samples)
}

/// One that knows every kind that waits serves for long.
fn serves(reading: &Reading<History>, pools: &BTreeMap<Pool, Situation>) -> bool {
    reading.is_fresh() || reading.read.elapsed() < HISTORY_FRESH && knows(&reading.value, pools, 1)
}

impl Kept {
    /// The pools, and when they were read.
    fn pools(&self) -> (&BTreeMap<Pool, Situation>, Timestamp) {
        let reading = self.pools.as_ref().expect("it was read before it was handed out");
        (&reading.value, reading.at)
    }
}
