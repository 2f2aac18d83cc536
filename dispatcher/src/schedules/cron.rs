//! When a schedule is due: a cron expression in a time zone.
//!
//! Invariant: due times only grow. Where the clocks go forward, a fixed time that does not exist that day is due at the first
//! instant after the gap; where they go back, a fixed time that comes twice is due the first time only. What recurs by `*` or
//! `/` in hours or minutes follows the clock on the wall: it is skipped in the gap and due in both passes.

use std::collections::BTreeMap;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _, Zoned};

/// A cron expression in a time zone.
#[derive(Debug, Clone)]
pub(crate) struct Recurrence {
    cron: Cron,
    zone: TimeZone,
}

impl Recurrence {
    /// Reads both.
    ///
    /// # Errors
    /// What is wrong with them, and what is expected.
    pub(crate) fn new(cron: &str, zone: &str) -> Result<Recurrence, String> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let parsed = parser.parse(cron).map_err(|error| {
            format!("`{cron}` is no cron expression ({error}): five fields are expected, minute, hour, day, month and day of the week, such as `30 2 * * mon-fri`")
        })?;
        let zone = TimeZone::get(zone).map_err(|_| {
            format!("`{zone}` is no time zone known here: a name such as Europe/Berlin or UTC is expected")
        })?;
        Ok(Recurrence { cron: parsed, zone })
    }

    /// The first due time after an instant. `None` when there is none, as on a 30th of February.
    pub(crate) fn after(&self, instant: Timestamp) -> Option<Timestamp> {
        let start: Zoned = instant.to_zoned(self.zone.clone());
        let next = self.cron.find_next_occurrence(&start, false).ok()?.timestamp();
        (next > instant).then_some(next)
    }

    /// The next `count` due times.
    pub(crate) fn next(&self, from: Timestamp, count: usize) -> Vec<Timestamp> {
        std::iter::successors(self.after(from), |due| self.after(*due)).take(count).collect()
    }
}

/// What placeholders stand for at a due time, in the schedule's zone.
pub(crate) fn values_at(name: &str, recurrence: &Recurrence, due: Timestamp) -> BTreeMap<String, String> {
    let local = due.to_zoned(recurrence.zone.clone());
    let yesterday = local.date().checked_sub(1.day()).unwrap_or(local.date());
    [
        ("date", local.strftime("%Y-%m-%d").to_string()),
        ("yesterday", yesterday.to_string()),
        ("time", local.strftime("%H%M").to_string()),
        ("year", local.strftime("%Y").to_string()),
        ("month", local.strftime("%m").to_string()),
        ("day", local.strftime("%d").to_string()),
        ("hour", local.strftime("%H").to_string()),
        ("minute", local.strftime("%M").to_string()),
        ("unix", due.as_second().to_string()),
        ("schedule", name.to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(cron: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
        let next = Recurrence::new(cron, zone).unwrap().next(from.parse().unwrap(), count);
        next.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_fixed_time_keeps_its_clock_over_the_seasons() {
        let found = due("0 8 * * *", "Europe/Berlin", "2026-10-24T00:00:00Z", 3);
        assert_eq!(found, ["2026-10-24T06:00:00Z", "2026-10-25T07:00:00Z", "2026-10-26T07:00:00Z"]);
    }

    #[test]
    fn a_time_that_does_not_exist_is_due_right_after_the_gap() {
        // 02:00 becomes 03:00 on 29 March 2026, which is 01:00 UTC.
        let found = due("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2);
        assert_eq!(found, ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
        let found = due("*/30 * * * *", "Europe/Berlin", "2026-03-29T00:20:00Z", 3);
        assert_eq!(found, ["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"]);
    }

    #[test]
    fn a_time_that_comes_twice_is_due_once() {
        // 03:00 becomes 02:00 on 25 October 2026, at 01:00 UTC: 02:30 is 00:30 and again 01:30.
        let found = due("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2);
        assert_eq!(found, ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
        let found = due("30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", 3);
        assert_eq!(found, ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"]);
    }

    #[test]
    fn what_cannot_be_meant_says_what_is_expected() {
        for wrong in ["", "x", "* * * *", "0 * * * * *", "60 * * * *", "* * 32 * *"] {
            assert!(Recurrence::new(wrong, "UTC").unwrap_err().contains("five fields"), "{wrong}");
        }
        assert!(Recurrence::new("0 0 * * *", "Berlin").unwrap_err().contains("Europe/Berlin"));
        assert_eq!(due("0 0 30 2 *", "UTC", "2026-01-01T00:00:00Z", 1), Vec::<String>::new());
    }
}
