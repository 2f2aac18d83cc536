//! When something ends: after a time from now, or at a date. Pure: the present comes in as an argument.

use std::str::FromStr;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// When something ends, as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// So long from now.
    After(SignedDuration),
    /// Then.
    At(Timestamp),
}

impl Expiry {
    /// The instant, seen from `now`; a time that leads out of the calendar ends with it.
    #[must_use]
    pub fn from(self, now: Timestamp) -> Timestamp {
        match self {
            Expiry::After(time) => now.checked_add(time).unwrap_or(Timestamp::MAX),
            Expiry::At(at) => at,
        }
    }
}

/// A text that says no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a time such as 90d, 12h or 30m, a date such as 2027-03-01 (its first instant in UTC), or an instant such as 2027-03-01T12:00:00Z is expected"
)]
pub struct NoExpiry;

impl FromStr for Expiry {
    type Err = NoExpiry;

    fn from_str(text: &str) -> Result<Expiry, NoExpiry> {
        if let Ok(at) = text.parse::<Timestamp>() {
            return Ok(Expiry::At(at));
        }
        // Whole texts only: the calendar's parser would leave out what follows a date.
        if text.len() == "2027-03-01".len()
            && let Ok(date) = text.parse::<Date>()
        {
            let start = date.to_zoned(TimeZone::UTC).map_err(|_| NoExpiry)?;
            return Ok(Expiry::At(start.timestamp()));
        }
        let split = text.find(|sign: char| !sign.is_ascii_digit()).ok_or(NoExpiry)?;
        let (count, unit) = text.split_at(split);
        let unit_secs: i64 = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            "w" => 604_800,
            _ => return Err(NoExpiry),
        };
        let count: i64 = count.parse().map_err(|_| NoExpiry)?;
        let secs = count.checked_mul(unit_secs).filter(|secs| *secs > 0).ok_or(NoExpiry)?;
        Ok(Expiry::After(SignedDuration::from_secs(secs)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_from_now_and_a_date_are_both_read_and_nothing_else() {
        let now: Timestamp = "2026-12-01T00:00:00Z".parse().unwrap();
        let end = |text: &str| text.parse::<Expiry>().unwrap().from(now).to_string();
        assert_eq!(end("90d"), "2027-03-01T00:00:00Z");
        assert_eq!(end("12h"), "2026-12-01T12:00:00Z");
        assert_eq!(end("2w"), "2026-12-15T00:00:00Z");
        assert_eq!(end("2027-03-01"), "2027-03-01T00:00:00Z");
        assert_eq!(end("2027-03-01T10:00:00+02:00"), "2027-03-01T08:00:00Z");
        for bad in ["", "d", "90", "0d", "-1d", "1y", "1d1h", "soon", "2027-13-01", "99999999999999999999d"] {
            assert_eq!(bad.parse::<Expiry>(), Err(NoExpiry), "{bad}");
        }
        assert_eq!("999999999999d".parse::<Expiry>().unwrap().from(now), Timestamp::MAX);
    }
}
