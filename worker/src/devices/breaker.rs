//! When an encoder that fails is not offered any more, and when it is tried again.
//!
//! Invariant: pure; time comes in as an argument. After a rest one good trial closes it, one bad trial begins the next rest.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// When an encoder rests, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// After so many failures
    pub failures: u32,
    /// within this time,
    pub window: Duration,
    /// it rests for this one.
    pub rest: Duration,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { failures: 3, window: Duration::from_secs(600), rest: Duration::from_secs(300) }
    }
}

/// The failures of one encoder on one device.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    failures: VecDeque<Instant>,
    rests_until: Option<Instant>,
}

impl Breaker {
    pub(super) fn is_resting(&self) -> bool {
        self.rests_until.is_some()
    }

    /// Whether its rest is over and a trial decides.
    pub(super) fn wants_trial(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now >= until)
    }

    /// Counts a failure. Answers whether a rest begins with it.
    pub(super) fn failed(&mut self, now: Instant, policy: Policy) -> bool {
        if self.is_resting() {
            return false;
        }
        self.failures.push_back(now);
        while self.failures.front().is_some_and(|at| now.duration_since(*at) > policy.window) {
            self.failures.pop_front();
        }
        let is_enough = self.failures.len() >= policy.failures as usize;
        if is_enough {
            self.rest(now, policy);
        }
        is_enough
    }

    /// One that went well shows that the device is there.
    pub(super) fn succeeded(&mut self) {
        self.failures.clear();
    }

    /// Takes the outcome of the trial after a rest.
    pub(super) fn tried(&mut self, works: bool, now: Instant, policy: Policy) {
        if works {
            self.rests_until = None;
        } else {
            self.rest(now, policy);
        }
    }

    fn rest(&mut self, now: Instant, policy: Policy) {
        self.failures.clear();
        self.rests_until = Some(now + policy.rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy { failures: 3, window: Duration::from_secs(100), rest: Duration::from_secs(50) };

    #[test]
    fn enough_failures_within_the_window_begin_a_rest_and_a_trial_ends_it() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut breaker = Breaker::default();
        assert!(!breaker.failed(at(0), POLICY) && !breaker.failed(at(90), POLICY));
        assert!(!breaker.failed(at(110), POLICY), "the first is forgotten");
        assert!(breaker.failed(at(111), POLICY) && breaker.is_resting());
        assert!(!breaker.failed(at(112), POLICY), "what ran on fails without beginning the rest anew");
        assert!(!breaker.wants_trial(at(160)) && breaker.wants_trial(at(161)));
        breaker.tried(false, at(162), POLICY);
        assert!(breaker.is_resting() && !breaker.wants_trial(at(211)) && breaker.wants_trial(at(212)));
        breaker.tried(true, at(213), POLICY);
        assert!(!breaker.is_resting() && !breaker.failed(at(214), POLICY));
    }

    #[test]
    fn one_that_goes_well_forgives_what_failed_before() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        breaker.failed(now, POLICY);
        breaker.failed(now, POLICY);
        breaker.succeeded();
        assert!(!breaker.failed(now, POLICY));
    }
}
