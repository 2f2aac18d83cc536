//! Token buckets, one for each key, as the generic cell rate algorithm keeps them: one time each, no timer.
//!
//! A bucket is the time at which it will be full again. Each token taken puts that time off by one interval; it may lie ahead
//! by as long as the whole burst takes. A bucket that is full need not be remembered. Source: ITU-T I.371, annex A.
//!
//! Invariant: within any time no more tokens are taken than the burst and what that time brings, unless the table was full and
//! the bucket was forgotten.

use std::hash::Hash;
use std::time::Duration;

use super::{Rate, Until};

/// Buckets by key. All times are since one instant of the caller's.
#[derive(Debug)]
pub(crate) struct Buckets<K>(Until<K>);

impl<K: Eq + Hash> Buckets<K> {
    /// For `room` keys at most.
    pub(crate) fn new(room: usize) -> Buckets<K> {
        Buckets(Until::new(room))
    }

    /// Takes a token, or says how long it is until there is one.
    pub(crate) fn take(&mut self, key: K, rate: Rate, now: Duration) -> Result<(), Duration> {
        let full_at = self.full_at(&key, rate, now);
        let ahead = full_at + rate.interval() - now;
        if ahead > rate.span() {
            if self.0.get(&key).is_some_and(|kept| kept > full_at) {
                self.0.set(key, full_at, now);
            }
            return Err(ahead - rate.span());
        }
        self.0.set(key, full_at + rate.interval(), now);
        Ok(())
    }

    /// How long it is until there is a token; `None`: there is one.
    pub(crate) fn wait(&self, key: &K, rate: Rate, now: Duration) -> Option<Duration> {
        let ahead = self.full_at(key, rate, now) + rate.interval() - now;
        ahead.checked_sub(rate.span()).filter(|wait| !wait.is_zero())
    }

    fn full_at(&self, key: &K, rate: Rate, now: Duration) -> Duration {
        // A rate that was changed meanwhile may have left it further ahead than the present one ever would.
        self.0.get(key).map_or(now, |full_at| full_at.clamp(now, now + rate.span()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_sec: 100.0, burst: 200 };

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn taken(buckets: &mut Buckets<u32>, key: u32, tries: u32, rate: Rate, now: Duration) -> u32 {
        (0..tries).map(|_| u32::from(buckets.take(key, rate, now).is_ok())).sum()
    }

    #[test]
    fn the_burst_is_given_at_once_and_then_only_what_time_brings() {
        let mut buckets = Buckets::new(10);
        assert_eq!(taken(&mut buckets, 1, 500, RATE, millis(0)), 200);
        assert_eq!(taken(&mut buckets, 2, 1, RATE, millis(0)), 1, "another key is unharmed");
        assert_eq!(buckets.take(1, RATE, millis(0)), Err(millis(10)));
        assert_eq!(buckets.wait(&1, RATE, millis(4)), Some(millis(6)));
        assert_eq!(buckets.wait(&1, RATE, millis(10)), None);
        assert_eq!(taken(&mut buckets, 1, 500, RATE, millis(1_000)), 100);
        assert_eq!(taken(&mut buckets, 1, 500, RATE, millis(60_000)), 200, "no more than the burst is saved up");
    }

    #[test]
    fn however_requests_are_spread_no_more_pass_than_the_burst_and_the_rate() {
        let (mut random, mut now, mut passed) = (1_u64, Duration::ZERO, 0_u32);
        let mut buckets = Buckets::new(10);
        for _ in 0..50_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            now += Duration::from_micros(random >> 33 & 0x3fff);
            passed += u32::from(buckets.take(1, RATE, now).is_ok());
            let most = f64::from(RATE.burst) + RATE.per_sec * now.as_secs_f64();
            assert!(f64::from(passed) <= most + 1e-6, "{passed} of {most} at {now:?}");
        }
        assert!(f64::from(passed) > 0.99 * RATE.per_sec * now.as_secs_f64(), "{passed} in {now:?}");
    }

    #[test]
    fn a_rate_that_is_raised_counts_at_once() {
        let slow = Rate { per_sec: 0.001, burst: 10 };
        let mut buckets = Buckets::new(10);
        assert_eq!(taken(&mut buckets, 1, 20, slow, millis(0)), 10);
        assert_eq!(buckets.take(1, RATE, millis(0)), Err(millis(10)));
        assert_eq!(taken(&mut buckets, 1, 20, RATE, millis(100)), 10);
    }
}
