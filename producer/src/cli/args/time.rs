//! A time on the command line, such as `90s`, `2h`, `3d` or `1h 30m`.
//!
//! Invariant: every flag that takes a time reads it here; a day has 24 hours, and what says none (`1y`, `3`, a date) is refused.

use std::ops::RangeInclusive;
use std::time::Duration;

use jiff::{SignedDuration, Span, SpanRelativeTo};

/// The time that a text says, forwards or back.
pub(crate) fn signed(text: &str) -> Option<SignedDuration> {
    text.parse::<Span>().ok()?.to_duration(SpanRelativeTo::days_are_24_hours()).ok()
}

/// The time that a text says, within bounds; else what is expected.
pub(crate) fn within(text: &str, bounds: RangeInclusive<Duration>, expected: &str) -> Result<Duration, String> {
    let time = signed(text).and_then(|time| Duration::try_from(time).ok());
    time.filter(|time| bounds.contains(time)).ok_or_else(|| expected.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit_and_stays_within_its_bounds() {
        let read = |text: &str| within(text, Duration::from_millis(500)..=Duration::from_secs(7 * 86_400), "a time");
        for (text, secs) in [
            ("500ms", 0.5),
            ("2s", 2.0),
            ("0.5s", 0.5),
            ("1h 30m", 5400.0),
            ("1h30m", 5400.0),
            ("7d", 604_800.0),
            ("1w", 604_800.0),
            ("PT2H", 7200.0),
        ] {
            assert_eq!(read(text), Ok(Duration::from_secs_f64(secs)), "{text}");
        }
        for wrong in ["", "2", "soon", "499ms", "8d", "-1h", "1y", "1mo", "2027-03-01", "2h tomorrow", "99999999999h"] {
            assert_eq!(read(wrong), Err("a time".to_owned()), "{wrong}");
        }
    }
}
