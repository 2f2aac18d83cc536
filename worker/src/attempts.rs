//! The attempts that run here: what the heartbeat names, what commands reach, and what a redelivery is checked against.
//!
//! Invariant: an attempt enters at most once in the life of the worker, as far as the memory of ended ones reaches; it
//! leaves only when nothing more is to be said for it, so its lease is renewed until its end is on record.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use ffpool_schema::id::JobId;
use ffpool_schema::message::{Progress, RunningAttempt};
use tokio::sync::{Notify, watch};

use crate::workshop::{Freeze, Orders, Stop};

/// So many ended attempts are remembered: enough for half a minute of the shortest jobs, a few megabytes.
const REMEMBERED: usize = 65_536;

/// The registry of running attempts. Clones share it.
#[derive(Clone, Default)]
pub struct Attempts {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Never held across an await.
    books: Mutex<Books>,
    /// Told when an attempt begins, becomes leased, freezes or thaws: the next heartbeat has news.
    news: Notify,
}

#[derive(Default)]
struct Books {
    running: BTreeMap<(JobId, u32), Running>,
    /// Ended attempts, to recognise a grant that repeats one whose end the ledger has not read yet.
    ended: HashSet<(JobId, u32)>,
    /// The same in order of time, to forget the oldest.
    order: VecDeque<(JobId, u32)>,
}

struct Running {
    leased: bool,
    progress: watch::Receiver<Option<Progress>>,
    stop: watch::Sender<Option<Stop>>,
    finish: watch::Sender<bool>,
    freeze: watch::Sender<Freeze>,
}

/// Why an attempt cannot begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Already {
    /// It runs here.
    Running,
    /// It ran here and its end is reported.
    Ended,
}

impl Attempts {
    /// Enters an attempt. Without a lease the heartbeat does not name it yet.
    ///
    /// # Errors
    /// When it is, or was, here already.
    pub fn begin(
        &self,
        job: JobId,
        attempt: u32,
        leased: bool,
        progress: watch::Receiver<Option<Progress>>,
    ) -> Result<Entry, Already> {
        let (stop, freeze) = (watch::Sender::new(None), watch::Sender::new(Freeze::default()));
        let finish = watch::Sender::new(false);
        let mut books = self.books();
        if books.running.contains_key(&(job, attempt)) {
            return Err(Already::Running);
        }
        if books.ended.contains(&(job, attempt)) {
            return Err(Already::Ended);
        }
        let running = Running { leased, progress, stop: stop.clone(), finish: finish.clone(), freeze: freeze.clone() };
        books.running.insert((job, attempt), running);
        drop(books);
        if leased {
            self.shared.news.notify_one();
        }
        Ok(Entry { attempts: self.clone(), job, attempt, stop, finish, freeze })
    }

    /// Whether it runs here.
    #[must_use]
    pub fn runs(&self, job: JobId, attempt: u32) -> bool {
        self.books().running.contains_key(&(job, attempt))
    }

    /// Whether one of them is frozen because its job is paused: it keeps its room for as long as somebody likes.
    #[must_use]
    pub fn some_paused(&self) -> bool {
        self.books().running.values().any(|running| running.freeze.borrow().paused)
    }

    /// How many run here.
    #[must_use]
    pub fn count(&self) -> usize {
        self.books().running.len()
    }

    /// The leases to renew, with progress.
    #[must_use]
    pub fn leases(&self) -> Vec<RunningAttempt> {
        self.listed(|running| running.leased)
    }

    /// All that runs here, with or without a lease, with progress.
    #[must_use]
    pub fn running(&self) -> Vec<RunningAttempt> {
        self.listed(|_| true)
    }

    fn listed(&self, wanted: impl Fn(&Running) -> bool) -> Vec<RunningAttempt> {
        let books = self.books();
        let listed = books.running.iter().filter(|(_, running)| wanted(running));
        listed
            .map(|(&(job, attempt), running)| RunningAttempt {
                job,
                attempt,
                progress: running.progress.borrow().clone(),
                frozen: running.freeze.borrow().holds(),
            })
            .collect()
    }

    /// Resolves when an attempt began, became leased, froze or thawed since the last call. For one waiter.
    pub async fn news(&self) {
        self.shared.news.notified().await;
    }

    /// Stops an attempt, unless a stronger reason was given before. Answers whether it runs here.
    #[must_use]
    pub fn stop(&self, job: JobId, attempt: u32, why: Stop) -> bool {
        let books = self.books();
        let running = books.running.get(&(job, attempt));
        running.map(|running| stop(&running.stop, why)).is_some()
    }

    /// Freezes an attempt because its job is paused, or ends that. Answers whether it runs here.
    #[must_use]
    pub fn pause(&self, job: JobId, attempt: u32, paused: bool) -> bool {
        let books = self.books();
        let Some(running) = books.running.get(&(job, attempt)) else { return false };
        let changed = running.freeze.send_if_modified(|freeze| std::mem::replace(&mut freeze.paused, paused) != paused);
        drop(books);
        if changed {
            self.shared.news.notify_one();
        }
        true
    }

    /// Tells an attempt to end with what it has. Answers whether it runs here.
    #[must_use]
    pub fn finish(&self, job: JobId, attempt: u32) -> bool {
        let books = self.books();
        let running = books.running.get(&(job, attempt));
        running.map(|running| running.finish.send_replace(true)).is_some()
    }

    /// Stops every earlier attempt of `job`: a later one was granted, so their leases are lost.
    pub fn abandon_before(&self, job: JobId, attempt: u32) {
        for running in self.books().running.range((job, 0)..(job, attempt)).map(|(_, running)| running) {
            stop(&running.stop, Stop::Abandon);
        }
    }

    /// Stops every attempt.
    pub fn release_all(&self, reason: &str) {
        for running in self.books().running.values() {
            stop(&running.stop, Stop::Release(reason.to_owned()));
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.shared.books.lock().expect("no holder panics")
    }
}

/// One running attempt in the registry; dropping it takes the attempt out.
pub struct Entry {
    attempts: Attempts,
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: u32,
    stop: watch::Sender<Option<Stop>>,
    finish: watch::Sender<bool>,
    freeze: watch::Sender<Freeze>,
}

impl Entry {
    /// Where the attempt hears that it must stop.
    #[must_use]
    pub fn stop_signal(&self) -> watch::Receiver<Option<Stop>> {
        self.stop.subscribe()
    }

    /// Where the attempt hears everything that it is told.
    #[must_use]
    pub fn orders(&self) -> Orders {
        Orders { stop: self.stop.subscribe(), finish: self.finish.subscribe(), freeze: self.freeze.subscribe() }
    }

    /// Stops the attempt, unless a stronger reason was given before.
    pub fn stop(&self, why: Stop) {
        stop(&self.stop, why);
    }

    /// Freezes the attempt to make room for a live job, or ends that.
    pub fn preempt(&self, preempted: bool) {
        self.freeze.send_modify(|freeze| freeze.preempted = preempted);
        self.attempts.shared.news.notify_one();
    }

    /// The ledger granted the attempt, so the heartbeat names it from now on.
    pub fn leased(&self) {
        if let Some(running) = self.attempts.books().running.get_mut(&(self.job, self.attempt)) {
            running.leased = true;
        }
        self.attempts.shared.news.notify_one();
    }

    /// The attempt is handed back, and feeds its sinks for a moment longer: nothing renews its lease, and no command to it
    /// is heard any more.
    pub fn handed_back(&self) {
        self.forget(self.attempts.books());
    }

    /// Takes the attempt out and remembers that it ended.
    pub fn ended(self) {
        self.forget(self.attempts.books());
    }

    fn forget(&self, mut books: MutexGuard<'_, Books>) {
        let key = (self.job, self.attempt);
        books.running.remove(&key);
        if books.ended.insert(key) {
            books.order.push_back(key);
        }
        if books.order.len() > REMEMBERED {
            let oldest = books.order.pop_front();
            oldest.map(|oldest| books.ended.remove(&oldest));
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.attempts.books().running.remove(&(self.job, self.attempt));
    }
}

/// A lost lease outranks a cancel, a cancel a release, and of releases the fence all others; the same again changes nothing.
fn stop(sender: &watch::Sender<Option<Stop>>, why: Stop) {
    let rank = |stop: &Stop| match stop {
        Stop::Release(reason) if reason == Stop::FENCE => 2,
        Stop::Release(_) => 1,
        Stop::Cancel => 3,
        Stop::Abandon => 4,
    };
    sender.send_if_modified(|now| {
        let stronger = now.as_ref().is_none_or(|now| rank(now) < rank(&why));
        if stronger {
            *now = Some(why);
        }
        stronger
    });
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn begin(attempts: &Attempts, job: JobId, attempt: u32, leased: bool) -> Result<Entry, Already> {
        attempts.begin(job, attempt, leased, watch::Sender::new(None).subscribe())
    }

    #[test]
    fn a_redelivery_finds_the_attempt_that_runs_and_the_one_that_ended() {
        let (attempts, job) = (Attempts::default(), JobId(Uuid::from_u128(1)));
        let entry = begin(&attempts, job, 1, true).unwrap();
        assert_eq!(begin(&attempts, job, 1, true).err(), Some(Already::Running));
        entry.ended();
        assert_eq!(attempts.count(), 0);
        assert_eq!(begin(&attempts, job, 1, true).err(), Some(Already::Ended));
        let given_back = begin(&attempts, job, 2, true).unwrap();
        drop(given_back);
        assert!(begin(&attempts, job, 2, true).is_ok());
    }

    #[test]
    fn an_attempt_that_hands_itself_back_is_fenced_all_the_same() {
        let (attempts, job) = (Attempts::default(), JobId(Uuid::from_u128(1)));
        let entry = begin(&attempts, job, 1, true).unwrap();
        let told = entry.orders().stop;
        for (stop, stands) in [
            (Stop::Release(Stop::DRAIN.into()), Stop::Release(Stop::DRAIN.into())),
            (Stop::Release(Stop::FENCE.into()), Stop::Release(Stop::FENCE.into())),
            (Stop::Release(Stop::DRAIN.into()), Stop::Release(Stop::FENCE.into())),
            (Stop::Cancel, Stop::Cancel),
        ] {
            entry.stop(stop);
            assert_eq!(*told.borrow(), Some(stands));
        }
    }

    #[test]
    fn only_leased_attempts_are_named_in_heartbeats() {
        let (attempts, job) = (Attempts::default(), JobId(Uuid::from_u128(1)));
        let entry = begin(&attempts, job, 1, false).unwrap();
        assert!(attempts.runs(job, 1) && attempts.leases().is_empty());
        entry.leased();
        assert_eq!(attempts.leases().len(), 1);
    }

    #[test]
    fn a_later_grant_abandons_earlier_attempts_of_the_same_job_only() {
        let attempts = Attempts::default();
        let (job, other) = (JobId(Uuid::from_u128(1)), JobId(Uuid::from_u128(2)));
        let (old, new) = (begin(&attempts, job, 1, true).unwrap(), begin(&attempts, job, 2, true).unwrap());
        let unrelated = begin(&attempts, other, 1, true).unwrap();
        attempts.abandon_before(job, 2);
        assert!(matches!(*old.stop_signal().borrow(), Some(Stop::Abandon)));
        assert!(new.stop_signal().borrow().is_none() && unrelated.stop_signal().borrow().is_none());
    }

    #[test]
    fn an_attempt_that_is_handed_back_is_renewed_and_told_no_more() {
        let (attempts, job) = (Attempts::default(), JobId(Uuid::from_u128(1)));
        let entry = begin(&attempts, job, 1, true).unwrap();
        entry.handed_back();
        assert!(attempts.leases().is_empty() && !attempts.stop(job, 1, Stop::Abandon));
        assert!(entry.stop_signal().borrow().is_none());
        assert_eq!(begin(&attempts, job, 1, true).err(), Some(Already::Ended));
        let next = begin(&attempts, job, 2, true).unwrap();
        entry.ended();
        assert!(attempts.runs(job, 2));
        next.ended();
    }

    #[test]
    fn a_stronger_reason_to_stop_wins_whatever_the_order() {
        let (attempts, job) = (Attempts::default(), JobId(Uuid::from_u128(1)));
        let entry = begin(&attempts, job, 1, true).unwrap();
        attempts.release_all("drain");
        entry.stop(Stop::Cancel);
        attempts.release_all("drain");
        assert!(matches!(*entry.stop_signal().borrow(), Some(Stop::Cancel)));
        entry.stop(Stop::Abandon);
        entry.stop(Stop::Cancel);
        assert!(matches!(*entry.stop_signal().borrow(), Some(Stop::Abandon)));
    }
}
