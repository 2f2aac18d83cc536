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
    history: Mutex<Option<(Instant, History)>>,
}

/// Every pool that has workers or jobs, and when it was read.
struct Reading {
    pools: BTreeMap<Pool, Situation>,
    at: Timestamp,
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
        // One that knows every kind that waits serves for long.
        if let Some((read, history)) = known
            && (read.elapsed() < FRESH || read.elapsed() < HISTORY_FRESH && knows(&history, pools))
        {
            return Ok(history);
        }
        let history = self.ledger.scale_history(&scenarios(pools)).await?;
        *self.history.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), history.clone()));
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

/// Whether a job is known of every kind that waits.
fn knows(history: &History, pools: &BTreeMap<Pool, Situation>) -> bool {
    let mut waiting = pools.values().flat_map(|situation| &situation.waiting);
    waiting.all(|waiting| history.expect(&waiting.kind).samples > 0)
}
