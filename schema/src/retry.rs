//! How long a failed job waits before its next attempt: exponential backoff with full jitter above a floor.

use std::time::Duration;

/// The shape of the backoff.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// Wait after the first failure, before jitter.
    pub base: Duration,
    /// Growth per failure, 1 or more.
    pub factor: f64,
    /// Longest wait, before jitter.
    pub cap: Duration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff { base: Duration::from_secs(5), factor: 2.0, cap: Duration::from_secs(300) }
    }
}

impl Backoff {
    /// The wait after `failures` failures (1 or more). `random` in 0..1 spreads it over the upper half, so that jobs that
    /// failed together do not come back together.
    #[must_use]
    pub fn after(&self, failures: u32, random: f64) -> Duration {
        let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let whole = (self.base.as_secs_f64() * self.factor.max(1.0).powi(exponent)).min(self.cap.as_secs_f64());
        Duration::from_secs_f64(whole * (0.5 + 0.5 * random.clamp(0.0, 1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_the_cap_and_never_falls_under_half() {
        let backoff = Backoff::default();
        assert_eq!(backoff.after(1, 1.0), Duration::from_secs(5));
        assert_eq!(backoff.after(3, 1.0), Duration::from_secs(20));
        assert_eq!(backoff.after(3, 0.0), Duration::from_secs(10));
        assert_eq!(backoff.after(u32::MAX, 1.0), Duration::from_secs(300));
    }
}
