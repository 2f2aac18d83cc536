//! Room for a live job on a full worker: which batch attempt stands still for it.
//!
//! Invariant: only an attempt whose delivery has passed into the ledger's custody gives its room away, so a worker never
//! holds more deliveries than it has slots. Whoever gave it away queues for room at once, before anybody who pulls.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ffpool_schema::id::JobId;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tracing::info;

use crate::slots::Slot;
use crate::workshop::Freeze;

/// An attempt is asked to make room only when it has run for so long: most of the shortest are over by then.
const SETTLED: Duration = Duration::from_millis(500);

/// The attempts of a worker, as far as they can make room. Clones share them.
#[derive(Clone, Default)]
pub struct Preemption {
    /// Never held across an await.
    books: Arc<Mutex<BTreeMap<(JobId, u32), Running>>>,
}

struct Running {
    began: Instant,
    units: u32,
    memory_mb: u64,
    /// Whether it may be frozen for a live job.
    yields: bool,
    in_custody: bool,
    freeze: watch::Receiver<Freeze>,
    custody: Arc<Notify>,
    asks: mpsc::Sender<oneshot::Sender<Slot>>,
}

/// What an attempt needs, and whether it gives way.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    /// Slots.
    pub units: u32,
    /// Its memory limit in MiB.
    pub memory_mb: u64,
    /// Whether it may be frozen for a live job.
    pub yields: bool,
}

/// The place of one attempt; dropping it gives it up.
pub struct Place {
    preemption: Preemption,
    key: (JobId, u32),
    custody: Arc<Notify>,
    in_custody: watch::Sender<bool>,
}

impl Preemption {
    /// A place for an attempt that has yet to begin.
    #[must_use]
    pub fn place(&self, job: JobId, attempt: u32) -> Place {
        let (custody, in_custody) = (Arc::default(), watch::Sender::new(false));
        Place { preemption: self.clone(), key: (job, attempt), custody, in_custody }
    }

    /// Whether somebody could make room now. If not, sees to it that somebody can soon.
    #[must_use]
    pub fn prepare(&self) -> bool {
        let books = self.books();
        if cheapest(&books, |running| running.in_custody).is_some() {
            return true;
        }
        if let Some(key) = cheapest(&books, |_| true) {
            books[&key].custody.notify_one();
        }
        false
    }

    /// Freezes the cheapest attempt that is large enough, if both fit into `total_mb` of memory with all that runs. Answers
    /// with its room.
    pub async fn make_room(&self, need: Need, total_mb: u64) -> Option<Slot> {
        let (reply, room) = oneshot::channel();
        let asks = {
            let books = self.books();
            let taken: u64 = books.values().map(|running| running.memory_mb).sum();
            if taken.saturating_add(need.memory_mb) > total_mb {
                info!(taken, wanted = need.memory_mb, total_mb, "no memory to freeze an attempt for a live job");
                return None;
            }
            let key = cheapest(&books, |running| running.in_custody && running.units >= need.units)?;
            info!(job = %key.0, attempt = key.1, "frozen for a live job");
            books[&key].asks.clone()
        };
        asks.send(reply).await.ok()?;
        room.await.ok()
    }

    fn books(&self) -> MutexGuard<'_, BTreeMap<(JobId, u32), Running>> {
        self.books.lock().expect("no holder panics")
    }
}

/// The one that began last has least to lose.
fn cheapest(books: &BTreeMap<(JobId, u32), Running>, fits: impl Fn(&Running) -> bool) -> Option<(JobId, u32)> {
    let able = |running: &Running| {
        running.yields && running.began.elapsed() >= SETTLED && !running.freeze.borrow().holds() && fits(running)
    };
    books.iter().filter(|(_, running)| able(running)).max_by_key(|(_, running)| running.began).map(|(&key, _)| key)
}

impl Place {
    /// The attempt begins. Answers with the requests to give its room away.
    #[must_use]
    pub fn begin(&self, need: Need, freeze: watch::Receiver<Freeze>) -> mpsc::Receiver<oneshot::Sender<Slot>> {
        let (asks, asked) = mpsc::channel(1);
        let running = Running {
            began: Instant::now(),
            units: need.units,
            memory_mb: need.memory_mb,
            yields: need.yields,
            in_custody: *self.in_custody.borrow(),
            freeze,
            custody: self.custody.clone(),
            asks,
        };
        self.preemption.books().insert(self.key, running);
        asked
    }

    /// Resolves when the attempt's delivery is to pass into the ledger's custody, so that it can make room.
    pub async fn custody_wanted(&self) {
        self.custody.notified().await;
    }

    /// The attempt's delivery has passed into the ledger's custody.
    pub fn in_custody(&self) {
        self.in_custody.send_replace(true);
        if let Some(running) = self.preemption.books().get_mut(&self.key) {
            running.in_custody = true;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.preemption.books().remove(&self.key);
    }
}
