//! One look at the ledger for all streams of a dispatcher.
//!
//! Invariant: how often the ledger is asked depends on time alone, however many come; how much, on the different jobs, realms
//! and keys of those who follow. Nobody follows: nothing is asked, and only what was just seen is remembered, for who comes next. Of all together there is a bound here; of one key
//! and one tenant, for every kind of stream, in `followers`.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ffpool_schema::api::{FleetView, JobView, QueueView};
use ffpool_schema::metrics::HTTP_RATE_LIMITED;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::api::App;
use crate::api::problem::{Answer, ApiError};
use crate::api::queues;
use crate::ledger::Realm;
use crate::ledger::keys::Caller;
use crate::ledger::read::ReadError;

/// Streams of one dispatcher.
const STREAMS_MAX: usize = 512;
/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Somebody new is looked for at once, but never sooner than this after the look before, nor than [`RESTS`] times as long as that took: a
/// slow ledger has a rest, and who comes meanwhile is looked for together.
const APART: Duration = Duration::from_millis(50);
const RESTS: u32 = 2;
/// Between two looks at the workers and the queues, and so how old what is told of them may be. A realm of which nothing so new is known
/// is looked at with the next look.
const SUMS: Duration = Duration::from_secs(2);
/// Between two looks at the keys.
const KEYS: Duration = Duration::from_secs(3);
/// Jobs asked for in one query.
const BATCH: usize = 1000;
/// When too many follow: worth another try then.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// What waits and runs in a realm.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct QueuesSeen {
    pub(super) queues: Vec<QueueView>,
    pub(super) newest: i64,
}

/// What is known, and who wants to know it.
#[derive(Default)]
struct Known {
    streams: usize,
    /// How many streams want each.
    keys: HashMap<Option<Uuid>, usize>,
    realms: HashMap<Option<String>, usize>,
    wanted: HashMap<Uuid, usize>,
    /// Keys that open nothing any more.
    shut_out: Vec<Uuid>,
    jobs: HashMap<Uuid, Arc<JobView>>,
    fleet: Option<Seen<FleetView>>,
    queues: HashMap<Option<String>, Seen<Arc<QueuesSeen>>>,
}

impl Known {
    /// Forgets what nobody wants and what is too old for whoever comes at `now`.
    fn forget(&mut self, now: Instant) {
        let realms = &self.realms;
        self.queues.retain(|realm, seen| realms.contains_key(realm) || seen.is_new(now));
        self.fleet.take_if(|seen| realms.is_empty() && !seen.is_new(now));
    }
}

/// What was seen at an instant.
struct Seen<T> {
    at: Instant,
    what: T,
}

impl<T> Seen<T> {
    fn now(what: T) -> Seen<T> {
        Seen { at: Instant::now(), what }
    }

    fn is_new(&self, now: Instant) -> bool {
        now < self.at + SUMS
    }
}

/// When what was looked at last. Owned by the one task that looks.
struct Pace {
    all: Instant,
    took: Duration,
    sums: Option<Instant>,
    keys: Option<Instant>,
}

impl Pace {
    fn new(now: Instant) -> Pace {
        Pace { all: now, took: Duration::ZERO, sums: None, keys: None }
    }

    /// When it is looked for somebody who came at `now`.
    fn soon(&self, now: Instant) -> Instant {
        now.max(self.all + APART.max(self.took * RESTS).min(LOOK))
    }

    /// Whether a look at `now` is one at the workers and the queues too, and whether at the keys.
    fn due(&mut self, now: Instant) -> (bool, bool) {
        let is_due = |last: &mut Option<Instant>, every: Duration| {
            let is_due = last.is_none_or(|last| last + every <= now);
            if is_due {
                *last = Some(now);
            }
            is_due
        };
        (is_due(&mut self.sums, SUMS), is_due(&mut self.keys, KEYS))
    }
}

/// What all streams of a dispatcher know.
#[derive(Default)]
pub(crate) struct Hub {
    known: Mutex<Known>,
    /// Somebody came.
    came: Notify,
    /// Somebody has looked, or has seen the workers.
    looked: Notify,
}

impl Hub {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets somebody follow, if there is room.
    pub(super) fn admit(self: &Arc<Self>, caller: &Caller, jobs: Vec<Uuid>) -> Answer<Guest> {
        let mut known = self.known();
        if known.streams >= STREAMS_MAX {
            metrics::counter!(HTTP_RATE_LIMITED, "by" => "all_streams").increment(1);
            let detail =
                format!("{STREAMS_MAX} streams are open, as many as one dispatcher serves; ask another, or later");
            return Err(ApiError::too_many(detail, TRY_AGAIN));
        }
        let realm = caller.tenant().map(str::to_owned);
        known.forget(Instant::now());
        known.streams += 1;
        add(&mut known.keys, caller.key);
        add(&mut known.realms, realm.clone());
        jobs.iter().for_each(|job| add(&mut known.wanted, *job));
        drop(known);
        self.came.notify_one();
        Ok(Guest { hub: self.clone(), key: caller.key, realm, jobs })
    }

    /// Looks for those who follow, until `stop`.
    pub(crate) async fn look(self: Arc<Self>, app: App, stop: CancellationToken) {
        let mut pace = Pace::new(Instant::now());
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.until_the_next(&pace) => {}
            }
            let began = Instant::now();
            let (sums, keys) = pace.due(began);
            // First and by itself: a question that fails for others must not keep a stream open that is to end.
            if keys {
                note(self.look_at_keys(&app).await);
            }
            note(self.look_at_pool(&app, sums).await);
            self.looked.notify_waiters();
            pace.all = Instant::now();
            pace.took = pace.all - began;
        }
    }

    async fn until_the_next(&self, pace: &Pace) {
        let next = if self.known().streams == 0 { None } else { Some(pace.all + LOOK) };
        tokio::select! {
            () = self.came.notified() => sleep_until(pace.soon(Instant::now())).await,
            () = until_or_never(next) => {}
        }
    }

    async fn look_at_keys(&self, app: &App) -> Result<(), ReadError> {
        let keys: Vec<Uuid> = self.known().keys.keys().copied().flatten().collect();
        for key in keys {
            if app.ledger.key_opens(key).await? {
                continue;
            }
            let mut known = self.known();
            // Its last stream may have ended meanwhile, and nobody would forget it then.
            if known.keys.contains_key(&Some(key)) && !known.shut_out.contains(&key) {
                known.shut_out.push(key);
            }
        }
        Ok(())
    }

    async fn look_at_pool(&self, app: &App, sums: bool) -> Result<(), ReadError> {
        let (jobs, realms) = {
            let known = self.known();
            let is_due = |realm: &&Option<String>| sums || !known.queues.contains_key(*realm);
            let realms: Vec<Option<String>> = known.realms.keys().filter(is_due).cloned().collect();
            (known.wanted.keys().copied().collect::<Vec<Uuid>>(), realms)
        };
        for batch in jobs.chunks(BATCH) {
            let found = app.ledger.jobs_by_id(batch).await?;
            let mut known = self.known();
            for job in found.into_iter().filter(|job| known.wanted.contains_key(&job.id.0)).collect::<Vec<_>>() {
                known.jobs.insert(job.id.0, Arc::new(job));
            }
        }
        if !realms.is_empty() {
            let fleet = app.ledger.fleet().await?;
            self.known().fleet = Some(Seen::now(fleet));
            // Who has just come hears of the workers while jobs are counted, which may be very many.
            self.looked.notify_waiters();
        }
        for tenant in realms {
            let realm = Realm::of(tenant.clone());
            let newest = app.ledger.newest_job(&realm).await?;
            let queues = queues::of_ledger(app, &realm).await?;
            let mut known = self.known();
            if known.realms.contains_key(&tenant) {
                known.queues.insert(tenant, Seen::now(Arc::new(QueuesSeen { queues, newest })));
            }
        }
        Ok(())
    }
}

fn note(looked: Result<(), ReadError>) {
    if let Err(error) = looked {
        tracing::debug!(error = &error as &dyn std::error::Error, "the ledger was not looked at for those who follow");
    }
}

async fn until_or_never(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// One more wants it.
fn add<K: Hash + Eq>(wanted: &mut HashMap<K, usize>, what: K) {
    *wanted.entry(what).or_default() += 1;
}

/// One less wants it. Whether nobody does any more.
fn take<K: Hash + Eq>(wanted: &mut HashMap<K, usize>, what: &K) -> bool {
    let Some(count) = wanted.get_mut(what) else { return true };
    *count -= 1;
    if *count > 0 {
        return false;
    }
    wanted.remove(what);
    true
}

/// A place of somebody who follows. Dropping it gives the place back.
pub(super) struct Guest {
    hub: Arc<Hub>,
    key: Option<Uuid>,
    realm: Option<String>,
    jobs: Vec<Uuid>,
}

impl Guest {
    pub(super) fn is_shut_out(&self) -> bool {
        self.key.is_some_and(|key| self.hub.known().shut_out.contains(&key))
    }

    /// Until more is known: the workers, or all.
    pub(super) async fn looked(&self) {
        self.hub.looked.notified().await;
    }

    pub(super) fn fleet(&self) -> Option<FleetView> {
        self.hub.known().fleet.as_ref().map(|seen| seen.what.clone())
    }

    pub(super) fn queues(&self) -> Option<Arc<QueuesSeen>> {
        self.hub.known().queues.get(&self.realm).map(|seen| seen.what.clone())
    }

    pub(super) fn job(&self, id: Uuid) -> Option<Arc<JobView>> {
        self.hub.known().jobs.get(&id).cloned()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut known = self.hub.known();
        let known = &mut *known;
        known.streams = known.streams.saturating_sub(1);
        if take(&mut known.keys, &self.key) {
            known.shut_out.retain(|key| Some(*key) != self.key);
        }
        take(&mut known.realms, &self.realm);
        for job in &self.jobs {
            if take(&mut known.wanted, job) {
                known.jobs.remove(job);
            }
        }
        known.forget(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ffpool_schema::access::{Permit, Role};

    use super::*;
    use crate::ledger::Actor;

    fn caller(key: u128, tenant: Option<&str>) -> Caller {
        let realm = Realm::of(tenant.map(str::to_owned));
        let actor = Actor { name: "app".to_owned(), realm, address: None };
        Caller { key: Some(Uuid::from_u128(key)), actor, permit: Permit::of(Role::Viewer) }
    }

    #[test]
    fn what_nobody_wants_any_more_is_forgotten_and_places_come_back() {
        let hub = Arc::new(Hub::default());
        let job = Uuid::from_u128(9);
        let one = hub.admit(&caller(1, None), vec![job]).unwrap();
        let two = hub.admit(&caller(2, Some("acme")), vec![job]).unwrap();
        let counts = || {
            let known = hub.known();
            (known.streams, known.wanted[&job], known.realms.len())
        };
        assert_eq!(counts(), (2, 2, 2));
        drop(one);
        assert_eq!(counts(), (1, 1, 1));
        drop(two);
        let known = hub.known();
        assert_eq!(known.streams, 0);
        assert!(known.keys.is_empty() && known.realms.is_empty() && known.wanted.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_soon_after_others_hears_what_they_heard_and_later_nothing_old() {
        let hub = Arc::new(Hub::default());
        let seen = |newest| Arc::new(QueuesSeen { queues: Vec::new(), newest });
        let see = |newest| {
            let mut known = hub.known();
            known.queues.insert(None, Seen::now(seen(newest)));
            known.fleet = Some(Seen::now(FleetView { workers: BTreeMap::new(), slots: newest, used: 0 }));
        };
        let told = |guest: &Guest| (guest.queues().map(|queues| queues.newest), guest.fleet().map(|fleet| fleet.slots));
        let first = hub.admit(&caller(1, None), Vec::new()).unwrap();
        see(7);
        drop(first);
        let soon = hub.admit(&caller(1, None), Vec::new()).unwrap();
        let other = hub.admit(&caller(2, Some("acme")), Vec::new()).unwrap();
        assert_eq!((told(&soon), told(&other)), ((Some(7), Some(7)), (None, Some(7))), "each its own realm");
        tokio::time::advance(SUMS).await;
        assert_eq!(told(&soon), (Some(7), Some(7)), "until the next look");
        drop((soon, other));
        let later = hub.admit(&caller(1, None), Vec::new()).unwrap();
        assert_eq!(told(&later), (None, None));
        assert!(hub.known().queues.is_empty());
    }

    #[test]
    fn however_many_come_the_ledger_is_looked_at_within_a_bound_and_has_a_rest() {
        let begin = Instant::now();
        let mut pace = Pace::new(begin);
        let later = begin + Duration::from_secs(60);
        assert_eq!(pace.soon(later), later, "after a silence nobody waits");
        // Somebody comes at every moment for ten seconds, and no look takes any time.
        let (mut now, mut looks, mut sums, mut keys) = (later, 0, 0, 0);
        loop {
            now = pace.soon(now);
            if now >= later + Duration::from_secs(10) {
                break;
            }
            let (with_sums, with_keys) = pace.due(now);
            (looks, sums, keys) = (looks + 1, sums + u32::from(with_sums), keys + u32::from(with_keys));
            pace.all = now;
        }
        assert_eq!((looks, sums, keys), (200, 5, 4), "twenty a second, and the rest as if nobody came");
        pace.took = Duration::from_millis(200);
        assert_eq!(pace.soon(pace.all), pace.all + Duration::from_millis(400));
        pace.took = Duration::from_secs(5);
        assert_eq!(pace.soon(pace.all), pace.all + LOOK, "whoever comes delays nobody");
    }

    #[test]
    fn all_together_hold_no_more_streams_than_there_may_be() {
        let hub = Arc::new(Hub::default());
        let mut guests: Vec<Guest> =
            (0..STREAMS_MAX).map(|_| hub.admit(&caller(1, None), Vec::new()).unwrap()).collect();
        assert_eq!(hub.admit(&caller(2, None), Vec::new()).err().unwrap().status(), 429);
        guests.pop();
        assert!(hub.admit(&caller(2, None), Vec::new()).is_ok());
    }
}
