//! Until when something matters, by key, in bounded room.
//!
//! Invariant: never more keys than there is room for. What no longer matters goes first, then what matters for the shortest
//! time: so whoever brings many keys pushes out those that are nearest to being forgotten anyway.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// When a table is full, at least this part of it is made free at a time, so that the search is paid by many insertions.
const FREED_PART: usize = 8;

/// Times by key. All times are since one instant of the caller's.
#[derive(Debug)]
pub(crate) struct Until<K> {
    times: HashMap<K, Duration>,
    room: usize,
}

impl<K: Eq + Hash> Until<K> {
    /// For `room` keys at most.
    pub(crate) fn new(room: usize) -> Until<K> {
        Until { times: HashMap::new(), room: room.max(FREED_PART) }
    }

    /// Until when the key matters. The time may be over.
    pub(crate) fn get(&self, key: &K) -> Option<Duration> {
        self.times.get(key).copied()
    }

    /// Has the key matter until then.
    pub(crate) fn set(&mut self, key: K, until: Duration, now: Duration) {
        if self.times.len() >= self.room && !self.times.contains_key(&key) {
            self.make_room(now);
        }
        self.times.insert(key, until);
    }

    /// Forgets the key.
    pub(crate) fn remove(&mut self, key: &K) {
        self.times.remove(key);
    }

    fn make_room(&mut self, now: Duration) {
        self.times.retain(|_, until| *until > now);
        let most = self.room - self.room / FREED_PART;
        let Some(excess) = self.times.len().checked_sub(most).filter(|excess| *excess > 0) else { return };
        let mut all: Vec<Duration> = self.times.values().copied().collect();
        let (_, last_out, _) = all.select_nth_unstable(excess - 1);
        let last_out = *last_out;
        // Those of the same time go too: more room than was needed does no harm.
        self.times.retain(|_, until| *until > last_out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_full_table_forgets_what_is_over_and_then_what_is_over_soonest() {
        let mut table = Until::new(16);
        for key in 0..16 {
            table.set(key, secs(key), secs(0));
        }
        table.set(100, secs(100), secs(8));
        assert_eq!(table.get(&8), None, "it was over");
        assert_eq!(table.get(&9), Some(secs(9)));
        assert_eq!(table.times.len(), 8);
        for key in 200..208 {
            table.set(key, secs(key), secs(8));
        }
        table.set(300, secs(300), secs(8));
        assert_eq!((table.get(&9), table.get(&10), table.get(&11)), (None, None, Some(secs(11))));
        assert_eq!(table.get(&100), Some(secs(100)));
    }

    #[test]
    fn however_many_keys_come_there_are_never_more_than_there_is_room_for() {
        let mut table = Until::new(1000);
        for key in 0..20_000_u64 {
            // All matter for ever, half of them for equally long.
            table.set(key, secs(1_000_000 + key % 2 * key), secs(0));
            assert!(table.times.len() <= 1000, "{}", table.times.len());
        }
        assert!(table.get(&19_999).is_some());
    }
}
