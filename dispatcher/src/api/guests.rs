//! Who is connected to the API: a bound on all, a share for each address, and an end for whoever only holds a place.
//!
//! Invariants: never more than `Limits::connections` at a time; a connection whose request is being answered is never ended to
//! make room, one that waits is, the one that has waited longest first.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ffpool_runtime::guard::Cidr;
use ffpool_schema::metrics::{API_CONNECTIONS, API_CONNECTIONS_CUT};
use tokio_util::sync::CancellationToken;

use crate::limits::{Limit, Origin, RateLimits};

/// How many may be connected, and for how long without asking for anything.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// All together.
    pub connections: usize,
    /// From one address; an IPv6 network of 64 bits counts as one. Behind a proxy that is named: requests under way.
    pub per_address: usize,
    /// TLS handshakes under way, all together.
    pub handshakes: usize,
    /// TLS handshakes under way from one address.
    pub handshakes_per_address: usize,
    /// TLS handshakes of one address in a time.
    pub handshake_rate: Limit,
    /// From the connection to the end of the TLS handshake.
    pub handshake: Duration,
    /// For the line and the headers of a request, from their first byte; and from the handshake to the end of the first ones.
    pub header: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// Without a byte of the answer taken.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 8192,
            per_address: 1024,
            handshakes: 256,
            handshakes_per_address: 32,
            handshake_rate: RateLimits::default().address,
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(10),
            // Longer than a poll every minute, so that those keep their connection.
            idle: Duration::from_secs(75),
            stall: Duration::from_secs(20),
        }
    }
}

/// What a connection is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not yet past its handshake.
    Opening,
    /// Has begun to ask, or never asked.
    Asking,
    /// A request of its is being answered.
    Busy,
    /// Waits to ask again.
    Idle,
}

/// What a connection is at and since when, told by its reader and its handlers.
#[derive(Debug)]
pub(crate) struct Activity {
    began: Instant,
    /// Milliseconds since `began`, times four, plus the phase.
    state: AtomicU64,
}

impl Activity {
    fn new(now: Instant) -> Activity {
        Activity { began: now, state: AtomicU64::new(Phase::Opening as u64) }
    }

    fn enter(&self, phase: Phase) {
        self.state.store(self.code(phase), Ordering::Relaxed);
    }

    fn code(&self, phase: Phase) -> u64 {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX / 8);
        millis * 4 + phase as u64
    }

    /// Its handshake is over.
    pub(crate) fn opened(&self) {
        self.enter(Phase::Asking);
    }

    /// Something was read from it.
    pub(crate) fn heard(&self) {
        let idle = self.state.load(Ordering::Relaxed);
        if phase_of(idle) == Phase::Idle {
            // Lost to a request that begins meanwhile, which is then what it is at.
            let _ = self.state.compare_exchange(idle, self.code(Phase::Asking), Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// A request of its is being answered until this is dropped.
    pub(crate) fn busy(self: &Arc<Activity>) -> Busy {
        self.enter(Phase::Busy);
        Busy(self.clone())
    }

    fn phase(&self) -> (Phase, Instant) {
        let state = self.state.load(Ordering::Relaxed);
        (phase_of(state), self.began + Duration::from_millis(state / 4))
    }
}

fn phase_of(state: u64) -> Phase {
    [Phase::Opening, Phase::Asking, Phase::Busy, Phase::Idle][usize::from((state % 4) as u8)]
}

/// A request that is being answered.
pub(crate) struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.enter(Phase::Idle);
    }
}

/// Why a connection is ended, as the metric tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// There are as many as there may be.
    Full,
    /// Its address has its share.
    Share,
    /// Its handshake failed or took too long.
    Handshake,
    /// Its address begins handshakes too often.
    HandshakeRate,
    /// As many handshakes are under way as may be, of its address or of all.
    Handshakes,
    /// It spoke plain HTTP where TLS is spoken.
    Plain,
    /// It asks, or takes the answer, too slowly.
    Slow,
    /// It asked nothing for too long.
    Idle,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Reason::Full => "full",
            Reason::Share => "share",
            Reason::Handshake => "handshake",
            Reason::HandshakeRate => "handshake_rate",
            Reason::Handshakes => "handshakes",
            Reason::Plain => "plain",
            Reason::Slow => "slow",
            Reason::Idle => "idle",
        }
    }

    /// Counts a connection that ends for this reason.
    pub(crate) fn count(self) {
        metrics::counter!(API_CONNECTIONS_CUT, "reason" => self.as_str()).increment(1);
    }
}

struct Place {
    /// `None`: a proxy's, whose connections are for many clients.
    share: Option<Origin>,
    activity: Arc<Activity>,
    cut: CancellationToken,
}

#[derive(Default)]
struct Room {
    next: u64,
    places: HashMap<u64, Place>,
    /// Connections of each address, and requests under way of each client of a proxy.
    shares: HashMap<Origin, usize>,
}

impl Room {
    fn leave(&mut self, number: u64) -> Option<Place> {
        let place = self.places.remove(&number)?;
        if let Some(share) = place.share {
            self.give_back(share);
        }
        Some(place)
    }

    fn give_back(&mut self, share: Origin) {
        if let Some(count) = self.shares.get_mut(&share) {
            *count -= 1;
            if *count == 0 {
                self.shares.remove(&share);
            }
        }
    }

    /// Ends the one that has waited longest, of those that `share` has or of all. Whether there is room then.
    fn make_room(&mut self, share: Option<Origin>, reason: Reason) -> bool {
        let waiting = self.places.iter().filter(|(_, place)| share.is_none() || place.share == share);
        let waiting = waiting.filter_map(|(number, place)| {
            let (phase, since) = place.activity.phase();
            (phase != Phase::Busy).then_some((since, *number))
        });
        let Some((_, longest)) = waiting.min() else { return false };
        self.end(longest, reason);
        true
    }

    fn end(&mut self, number: u64, reason: Reason) {
        if let Some(place) = self.leave(number) {
            reason.count();
            place.cut.cancel();
        }
    }
}

/// Everybody who is connected. Clones share it.
#[derive(Clone)]
pub(crate) struct Guests {
    limits: Limits,
    /// Proxies whose word for their clients' addresses is taken.
    proxies: Arc<[Cidr]>,
    room: Arc<Mutex<Room>>,
}

/// A connection's place; dropping it gives the place back.
pub(crate) struct Guest {
    number: u64,
    room: Arc<Mutex<Room>>,
    /// What it is at.
    pub(crate) activity: Arc<Activity>,
    /// Cancelled when it must go.
    pub(crate) cut: CancellationToken,
}

/// A request of a proxy's client that is under way; dropping it ends that.
pub(crate) struct Visit {
    share: Origin,
    room: Arc<Mutex<Room>>,
}

impl Drop for Visit {
    fn drop(&mut self) {
        locked(&self.room).give_back(self.share);
    }
}

impl Guests {
    pub(crate) fn new(limits: Limits, proxies: Arc<[Cidr]>) -> Guests {
        Guests { limits, proxies, room: Arc::default() }
    }

    /// Whether connections from `address` are a proxy's, which is named.
    pub(crate) fn is_proxy(&self, address: IpAddr) -> bool {
        self.proxies.iter().any(|range| range.contains(address.to_canonical()))
    }

    /// Counts a request that a proxy passed on as its client's; `None`: as many of this client are under way as one address may
    /// have connections.
    pub(crate) fn visit(&self, client: IpAddr) -> Option<Visit> {
        let share = Origin::of(client);
        let mut room = locked(&self.room);
        let count = room.shares.entry(share).or_default();
        if *count >= self.limits.per_address {
            return None;
        }
        *count += 1;
        Some(Visit { share, room: self.room.clone() })
    }

    /// A place for a connection from `address`, if need be that of one which only waits.
    pub(crate) fn admit(&self, address: IpAddr) -> Result<Guest, Reason> {
        let share = (!self.is_proxy(address)).then(|| Origin::of(address));
        let mut room = locked(&self.room);
        let taken = share.and_then(|share| room.shares.get(&share)).copied().unwrap_or(0);
        if taken >= self.limits.per_address && !room.make_room(share, Reason::Share) {
            return Err(Reason::Share);
        }
        if room.places.len() >= self.limits.connections && !room.make_room(None, Reason::Full) {
            return Err(Reason::Full);
        }
        let (activity, cut) = (Arc::new(Activity::new(Instant::now())), CancellationToken::new());
        let number = room.next;
        room.next += 1;
        if let Some(share) = share {
            *room.shares.entry(share).or_default() += 1;
        }
        room.places.insert(number, Place { share, activity: activity.clone(), cut: cut.clone() });
        tell(&room);
        Ok(Guest { number, room: self.room.clone(), activity, cut })
    }

    /// Ends whoever has waited too long.
    pub(crate) fn sweep(&self, now: Instant) {
        let limits = self.limits;
        let mut room = locked(&self.room);
        let late: Vec<(u64, Reason)> = room
            .places
            .iter()
            .filter_map(|(number, place)| {
                let (phase, since) = place.activity.phase();
                let waited = now.saturating_duration_since(since);
                let reason = match phase {
                    Phase::Opening => (waited > limits.handshake).then_some(Reason::Handshake),
                    Phase::Asking => (waited > limits.header).then_some(Reason::Slow),
                    Phase::Busy => None,
                    Phase::Idle => (waited > limits.idle).then_some(Reason::Idle),
                };
                reason.map(|reason| (*number, reason))
            })
            .collect();
        for (number, reason) in late {
            room.end(number, reason);
        }
        tell(&room);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut room = locked(&self.room);
        room.leave(self.number);
        tell(&room);
    }
}

fn tell(room: &Room) {
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 connections")]
    metrics::gauge!(API_CONNECTIONS).set(room.places.len() as f64);
}

fn locked(room: &Mutex<Room>) -> MutexGuard<'_, Room> {
    room.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn small() -> Limits {
        Limits { connections: 3, per_address: 2, ..Limits::default() }
    }

    #[test]
    fn who_waits_makes_room_and_who_is_answered_does_not() {
        let guests = Guests::new(small(), [].into());
        let first = guests.admit(ip("10.0.0.1")).unwrap();
        let second = guests.admit(ip("::ffff:10.0.0.1")).unwrap();
        let answered = first.activity.busy();
        let third = guests.admit(ip("10.0.0.1")).unwrap();
        assert!(second.cut.is_cancelled() && !first.cut.is_cancelled(), "the share is full: its one that waits goes");
        let _answered_too = third.activity.busy();
        assert_eq!(guests.admit(ip("10.0.0.1")).err(), Some(Reason::Share));

        let other = guests.admit(ip("10.0.0.2")).unwrap();
        let _another = guests.admit(ip("10.0.0.3")).unwrap();
        assert!(other.cut.is_cancelled(), "all is full: the one that has waited longest goes");
        drop(answered);
        assert!(guests.admit(ip("10.0.0.1")).is_ok() && first.cut.is_cancelled());
    }

    #[test]
    fn a_place_is_given_back_once() {
        let guests = Guests::new(small(), [].into());
        for _ in 0..10 {
            let _guest = guests.admit(ip("2001:db8::1")).unwrap();
            let _neighbour = guests.admit(ip("2001:db8::2")).unwrap();
            assert_eq!(locked(&guests.room).shares.len(), 1, "one network");
        }
        let room = locked(&guests.room);
        assert!(room.places.is_empty() && room.shares.is_empty());
    }

    #[test]
    fn behind_a_proxy_each_client_has_its_share_and_the_proxy_none() {
        let guests = Guests::new(Limits { connections: 9, ..small() }, ["10.9.0.0/16".parse().unwrap()].into());
        let proxy: Vec<_> = (0..5).map(|_| guests.admit(ip("10.9.0.1")).unwrap()).collect();
        assert!(proxy.iter().all(|guest| !guest.cut.is_cancelled()));
        let visits = [(); 2].map(|()| guests.visit(ip("203.0.113.1")).unwrap());
        assert!(guests.visit(ip("203.0.113.1")).is_none() && guests.visit(ip("203.0.113.2")).is_some());
        drop(visits);
        assert!(guests.visit(ip("203.0.113.1")).is_some());
        drop(proxy);
        assert!(locked(&guests.room).shares.is_empty());
    }

    #[test]
    fn each_phase_has_its_time() {
        let guests = Guests::new(Limits { connections: 9, per_address: 9, ..Limits::default() }, [].into());
        let [opening, asking, busy, idle, woken] = [(); 5].map(|()| guests.admit(ip("10.0.0.1")).unwrap());
        for opened in [&asking, &busy, &idle, &woken] {
            opened.activity.opened();
        }
        let _answered = busy.activity.busy();
        drop(idle.activity.busy());
        drop(woken.activity.busy());
        woken.activity.heard();
        let cut = || [&opening, &asking, &busy, &idle, &woken].map(|guest| guest.cut.is_cancelled());
        let now = Instant::now();
        guests.sweep(now + Duration::from_secs(9));
        assert_eq!(cut(), [false; 5]);
        guests.sweep(now + Duration::from_secs(12));
        assert_eq!(cut(), [true, true, false, false, true]);
        guests.sweep(now + Duration::from_secs(90));
        assert_eq!(cut(), [true, true, false, true, true]);
    }
}
