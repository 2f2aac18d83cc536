//! Where the names of a run have moved to while it ran: looked up anew when its tool wants to go to an address that is not known.
//!
//! Invariant: a name is looked up by one call at a time and with nothing locked, so that a slow name server holds up nobody
//! who goes to an address that is known; whoever wants another one meanwhile takes the answer of the look-up that is on its way.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::plain;

/// How soon the names of a run are looked up again.
const LOOK_UP_AFTER: Duration = Duration::from_secs(5);
/// How long a look-up may take. The library that asks name servers gives up about then.
const LOOK_UP_WITHIN: Duration = Duration::from_secs(20);
/// Addresses of one run that names moved to. Those before are forgotten when there are more.
const KEPT: usize = 256;

/// Looks names up again and judges what they stand for: the addresses that may be gone to now. Blocks.
pub(super) type Again = Arc<dyn Fn() -> Vec<SocketAddr> + Send + Sync>;

/// Waits on a thread of no runtime for what is found on one: nothing where that takes longer than a look-up may, or
/// the runtime has ended. To run it here instead would panic, or never end, where the runtime has.
pub(super) fn found_on(
    runtime: &Handle,
    look_up: impl Future<Output = Vec<SocketAddr>> + Send + 'static,
) -> Vec<SocketAddr> {
    found_within(LOOK_UP_WITHIN, runtime, look_up)
}

fn found_within(
    bound: Duration,
    runtime: &Handle,
    look_up: impl Future<Output = Vec<SocketAddr>> + Send + 'static,
) -> Vec<SocketAddr> {
    let (tells, told) = mpsc::sync_channel(1);
    // A runtime that has ended, or ends meanwhile, drops the task, and the end that tells with it.
    let task = runtime.spawn(async move {
        let _ = tells.send(look_up.await);
    });
    let found = told.recv_timeout(bound).unwrap_or_default();
    task.abort();
    found
}

/// What names have moved to. Shared by all calls of a run.
#[derive(Default)]
pub(super) struct Moved {
    known: Mutex<Known>,
    /// A look-up has ended.
    ended: Condvar,
}

#[derive(Default)]
struct Known {
    to: Vec<SocketAddr>,
    asked: Option<Instant>,
    /// Some call looks up now.
    is_asking: bool,
}

impl Known {
    fn wants_look_up(&self, now: Instant) -> bool {
        !self.is_asking && self.asked.is_none_or(|asked| now.duration_since(asked) >= LOOK_UP_AFTER)
    }

    fn learn(&mut self, found: Vec<SocketAddr>) {
        let found = found.into_iter().map(plain);
        let fresh: Vec<_> = found.filter(|address| !self.to.contains(address)).collect();
        if self.to.len() + fresh.len() > KEPT {
            self.to.clear();
        }
        self.to.extend(fresh.into_iter().take(KEPT));
    }
}

impl Moved {
    /// Whether a name stands for the address now. The same is not asked for again and again.
    pub(super) fn has(&self, address: SocketAddr, again: &Again, now: Instant) -> bool {
        let mut known = self.lock();
        if !known.to.contains(&address) && known.wants_look_up(now) {
            known.asked = Some(now);
            known.is_asking = true;
            drop(known);
            let flight = Flight(self);
            let found = again();
            self.lock().learn(found);
            drop(flight);
            known = self.lock();
        }
        let waits = |known: &mut Known| known.is_asking && !known.to.contains(&address);
        let known = self.ended.wait_while(known, waits).unwrap_or_else(PoisonError::into_inner);
        known.to.contains(&address)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A look-up on its way. However it ends, those that wait for it go on.
struct Flight<'m>(&'m Moved);

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.lock().is_asking = false;
        self.0.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::new(192, 0, 2, last), 443))
    }

    #[test]
    fn names_that_moved_are_looked_up_again_but_not_for_every_call() {
        let asked = Arc::new(AtomicU8::new(0));
        let counted = asked.clone();
        let again: Again = Arc::new(move || vec![address(counted.fetch_add(1, Ordering::Relaxed))]);
        let (moved, began) = (Moved::default(), Instant::now());
        let at = |secs| began + Duration::from_secs(secs);
        assert!(moved.has(address(0), &again, at(0)) && moved.has(address(0), &again, at(9)));
        assert!(!moved.has(address(1), &again, at(1)), "asked a moment ago");
        assert!(moved.has(address(1), &again, at(9)) && moved.has(address(0), &again, at(9)));
        assert!(!moved.has(address(9), &again, at(99)));
        assert_eq!(asked.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn while_a_name_is_looked_up_who_is_known_goes_on_and_others_share_the_answer() {
        let now = Instant::now();
        let moved = Arc::new(Moved::default());
        let first: Again = Arc::new(|| vec![address(1)]);
        assert!(moved.has(address(1), &first, now));
        // Both ends of the look-up meet this test.
        let meets = Arc::new(Barrier::new(2));
        let (asks, asked) = (meets.clone(), Arc::new(AtomicU8::new(0)));
        let counted = asked.clone();
        let slow: Again = Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            asks.wait();
            asks.wait();
            vec![address(2)]
        });
        let later = now + LOOK_UP_AFTER;
        let calls = |last: u8| {
            let (moved, slow) = (moved.clone(), slow.clone());
            std::thread::spawn(move || moved.has(address(last), &slow, later))
        };
        let asking = calls(2);
        meets.wait();
        assert!(moved.has(address(1), &slow, later), "who is known waits for nobody");
        assert!(!moved.lock().wants_look_up(later + LOOK_UP_AFTER), "however long it takes");
        let others = [calls(2), calls(3)];
        meets.wait();
        assert_eq!(others.map(|call| call.join().unwrap()), [true, false]);
        assert!(asking.join().unwrap());
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_look_up_that_breaks_holds_up_nobody() {
        let (moved, now) = (Arc::new(Moved::default()), Instant::now());
        let (broken, whole): (Again, Again) = (Arc::new(|| panic!("on purpose")), Arc::new(|| vec![address(1)]));
        let asking = moved.clone();
        assert!(std::thread::spawn(move || asking.has(address(1), &broken, now)).join().is_err());
        assert!(moved.has(address(1), &whole, now + LOOK_UP_AFTER));
    }

    #[test]
    fn what_is_found_on_a_runtime_is_waited_for_within_a_bound_and_not_beyond_its_end() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        assert_eq!(found_on(&handle, async { vec![address(1)] }), [address(1)]);
        assert_eq!(found_within(Duration::from_millis(1), &handle, std::future::pending()), []);
        // It ends while somebody waits.
        let (begins, begun) = mpsc::channel();
        let waiting = std::thread::spawn(move || {
            let never = async move {
                begins.send(()).unwrap();
                tokio::time::sleep(Duration::from_secs(3600)).await;
                vec![address(1)]
            };
            let began = Instant::now();
            (found_within(Duration::from_secs(600), &handle, never), began.elapsed(), handle)
        });
        begun.recv().unwrap();
        runtime.shutdown_background();
        let (found, waited, handle) = waiting.join().unwrap();
        assert!(found.is_empty() && waited < Duration::from_secs(60), "{waited:?}");
        assert_eq!(found_on(&handle, async { vec![address(1)] }), []);
    }
}
