//! How much one address, key or tenant may ask of us: rates with a burst, counted in bounded memory. Pure.
//!
//! Invariant: time comes in as an argument, and no table here grows beyond its room, however many strangers there are.

mod buckets;
mod origin;
mod until;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

pub(crate) use buckets::Buckets;
pub use origin::ProxyHeader;
pub(crate) use origin::{Origin, client_address};
pub(crate) use until::Until;

/// So many a second for ever, and so many at once after a rest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// A second.
    per_sec: f64,
    /// At once.
    burst: u32,
}

impl Rate {
    /// The least and the most that may be set.
    const PER_SEC: (f64, f64) = (0.001, 1_000_000.0);
    /// Without a burst of its own, a rate allows so many seconds' worth at once.
    const BURST_SECS: f64 = 2.0;

    /// `per_sec` a second, within what may be set, and twice as many at once.
    #[must_use]
    pub fn per_sec(per_sec: f64) -> Rate {
        let (least, most) = Rate::PER_SEC;
        let per_sec = if per_sec.is_finite() { per_sec.clamp(least, most) } else { most };
        // Within u32: the most is a million.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and two million")]
        let burst = (per_sec * Rate::BURST_SECS).ceil().max(1.0) as u32;
        Rate { per_sec, burst }
    }

    /// How long one takes to come back.
    pub(crate) fn interval(self) -> Duration {
        Duration::from_secs_f64(1.0 / self.per_sec)
    }

    /// How long all take to come back.
    pub(crate) fn span(self) -> Duration {
        self.interval().saturating_mul(self.burst)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} a second, {} at once", self.per_sec, self.burst)
    }
}

/// A rate as a setting: `<a second>`, `<a second>/<at once>`, or `off`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit(pub Option<Rate>);

impl Limit {
    /// No limit.
    pub const OFF: Limit = Limit(None);
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Limit, String> {
        let error = || {
            format!(
                "`{text}` is no rate: `<a second>/<at once>` such as 100/200 is expected (0.001 to 1000000 a second), or `off`"
            )
        };
        if text == "off" {
            return Ok(Limit::OFF);
        }
        let (per_sec, burst) = match text.split_once('/') {
            Some((per_sec, burst)) => (per_sec, Some(burst)),
            None => (text, None),
        };
        let per_sec: f64 = per_sec.parse().map_err(|_| error())?;
        let (least, most) = Rate::PER_SEC;
        if !(least..=most).contains(&per_sec) {
            return Err(error());
        }
        let rate = Rate::per_sec(per_sec);
        let burst = burst.map_or(Ok(rate.burst), |burst| burst.parse().map_err(|_| error()))?;
        if burst == 0 { Err(error()) } else { Ok(Limit(Some(Rate { burst, ..rate }))) }
    }
}

/// The limits of the API.
#[derive(Debug, Clone, Copy)]
pub struct RateLimits {
    /// Of one address.
    pub address: Limit,
    /// Of one key.
    pub key: Limit,
    /// Of all keys of one tenant that has no rate of its own.
    pub tenant: Limit,
    /// Keys that are not known, of one address.
    pub failed: Limit,
}

impl RateLimits {
    /// No limits.
    pub const OFF: RateLimits =
        RateLimits { address: Limit::OFF, key: Limit::OFF, tenant: Limit::OFF, failed: Limit::OFF };
}

impl Default for RateLimits {
    fn default() -> RateLimits {
        let rate = |per_sec, burst| Limit(Some(Rate { per_sec, burst }));
        RateLimits { address: rate(100.0, 200), key: rate(100.0, 200), tenant: rate(100.0, 200), failed: rate(5.0, 50) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_read_whole_or_not_at_all() {
        let read = |text: &str| text.parse::<Limit>();
        assert_eq!(read("100/200"), Ok(Limit(Some(Rate { per_sec: 100.0, burst: 200 }))));
        assert_eq!(read("2.5"), Ok(Limit(Some(Rate { per_sec: 2.5, burst: 5 }))));
        assert_eq!(read("0.1/1"), Ok(Limit(Some(Rate { per_sec: 0.1, burst: 1 }))));
        assert_eq!(read("off"), Ok(Limit::OFF));
        for wrong in ["", "0", "0/5", "-1", "NaN", "inf", "1e9", "5/0", "5/-1", "5/", "/5", "5/1/1", "many"] {
            let said = read(wrong).unwrap_err();
            assert!(said.contains("100/200"), "{wrong}: {said}");
        }
    }

    #[test]
    fn what_a_table_says_becomes_a_rate_that_can_be_kept() {
        assert_eq!(Rate::per_sec(0.0).burst, 1);
        assert_eq!(Rate::per_sec(f64::NAN), Rate::per_sec(1e9));
        assert_eq!(Rate::per_sec(50.0), Rate { per_sec: 50.0, burst: 100 });
    }
}
