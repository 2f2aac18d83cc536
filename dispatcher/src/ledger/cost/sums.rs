//! Sums of what attempts used, read from those that are kept. Pure: it makes the question.
//!
//! Invariant: what an attempt used is in exactly one arm: the sum of a day or of an hour, a change that is not added yet, the rest of
//! the hour in which the report begins, or the attempts that nobody has booked yet.

use jiff::Timestamp;

const HOUR_SECS: i64 = 3_600;
const DAY_SECS: i64 = 24 * HOUR_SECS;

/// What is added up for a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Arms {
    /// From here on the sums of hours, up to the first day.
    pub(super) first_hour: Timestamp,
    /// From here on the sums of days.
    pub(super) first_day: Timestamp,
    /// Whether it begins within an hour, of whose jobs the later ones count.
    begins_within: bool,
    /// Whether there are attempts that are not booked yet.
    has_unbooked: bool,
}

impl Arms {
    /// For a report that goes back to `since`.
    pub(super) fn since(since: Timestamp, has_unbooked: bool) -> Arms {
        let first_hour = next_step(since, HOUR_SECS);
        Arms {
            first_hour,
            first_day: next_step(first_hour, DAY_SECS),
            begins_within: first_hour != since,
            has_unbooked,
        }
    }
}

/// Where the first step of that length begins at that instant or after it.
fn next_step(at: Timestamp, step_secs: i64) -> Timestamp {
    let second = at.as_second();
    let begin = second.div_euclid(step_secs) * step_secs;
    match Timestamp::from_second(begin) {
        Ok(begin) if begin == at => at,
        // Beyond all that can be recorded.
        _ => Timestamp::from_second(begin + step_secs).unwrap_or(Timestamp::MAX),
    }
}

/// What is summed up of each arm.
const COLUMNS: &str = "tenant, queue, scenario, currency, jobs, attempts, measured, metered, priced, cost, cpu_ms, byte_ms, wall_ms, joules";

/// The attempts `a` one by one, each booked to the job `j`; `$is_counted` says whether it is the one by which that is counted. As the
/// trigger `note_cost` sums them up.
macro_rules! one_by_one {
    ($is_counted:literal) => {
        concat!(
            "SELECT coalesce(j.tenant, ''), j.queue, j.scenario, CASE WHEN a.cost IS NULL THEN '' ELSE coalesce(a.currency, '') END, \
                    (",
            $is_counted,
            ")::integer, 1, (a.usage IS NOT NULL)::integer, (a.usage ->> 'energy_joules' IS NOT NULL)::integer, \
                    (a.usage IS NOT NULL AND a.cost IS NOT NULL)::integer, coalesce(a.cost::numeric, 0), \
                    coalesce((a.usage ->> 'cpu_ms')::numeric, 0), \
                    coalesce((a.usage ->> 'peak_memory_bytes')::numeric * (a.usage ->> 'wall_ms')::numeric, 0), \
                    coalesce((a.usage ->> 'wall_ms')::numeric, 0), coalesce((a.usage ->> 'energy_joules')::numeric, 0) "
        )
    };
}

/// The jobs of the rest of the hour in which the report begins.
const WITHIN: &str = concat!(
    one_by_one!("maker.id = j.id AND row_number() OVER (PARTITION BY a.job ORDER BY a.attempt) = 1"),
    "FROM (SELECT id, tenant, queue, scenario FROM job \
           WHERE created_at >= $1 AND created_at < $2 AND part_of IS NULL) AS j \
          CROSS JOIN LATERAL (SELECT j.id UNION ALL SELECT part.id FROM job AS part WHERE part.part_of = j.id) AS maker \
          JOIN attempt AS a ON a.job = maker.id \
     WHERE a.ended_at IS NOT NULL"
);

/// Attempts that had ended before there were sums and are not booked yet. One that has ended since then may have counted the job.
const UNBOOKED: &str = concat!(
    one_by_one!(
        "maker.id = j.id AND row_number() OVER (PARTITION BY a.job ORDER BY a.attempt) = 1 \
         AND NOT EXISTS (SELECT FROM attempt AS other WHERE other.job = a.job AND other.booked_job)"
    ),
    "FROM (SELECT id AS whole, id FROM job WHERE created_at >= $2 AND part_of IS NULL \
           UNION ALL SELECT whole.id, part.id FROM job AS whole JOIN job AS part ON part.part_of = whole.id \
           WHERE whole.created_at >= $2) AS maker \
          JOIN job AS j ON j.id = maker.whole JOIN attempt AS a ON a.job = maker.id \
     WHERE a.job > $7 AND a.ended_at IS NOT NULL AND a.booked_hour IS NULL"
);

/// The question for these arms. `$1` to `$3` are when the report begins, its first hour and its first day, `$4` how many sums are told at
/// most, `$5` the currency, `$6` whose jobs count, `$7` after which job attempts may not be booked.
pub(super) fn sql(key: &str, arms: &Arms) -> String {
    let mut all = vec![
        format!("SELECT {COLUMNS} FROM cost_sum WHERE span = 'day' AND at >= $3"),
        format!("SELECT {COLUMNS} FROM cost_sum WHERE span = 'hour' AND at >= $2 AND at < $3"),
        format!("SELECT {COLUMNS} FROM cost_change WHERE at >= $2"),
    ];
    if arms.begins_within {
        all.push(WITHIN.to_owned());
    }
    if arms.has_unbooked {
        all.push(UNBOOKED.to_owned());
    }
    format!(
        "SELECT {key} AS key, sum(jobs)::bigint AS jobs, sum(attempts)::bigint AS attempts, \
                sum(attempts - measured)::bigint AS unmeasured, sum(measured - metered)::bigint AS unmetered, \
                (sum(measured) - coalesce(sum(priced) FILTER (WHERE currency = $5), 0))::bigint AS unpriced, \
                CASE WHEN sum(priced) FILTER (WHERE currency = $5) > 0 \
                     THEN (sum(cost) FILTER (WHERE currency = $5))::float8 END AS cost, \
                CASE WHEN sum(metered) > 0 THEN sum(joules)::float8 / 3.6e6 END AS kwh, \
                sum(cpu_ms)::float8 / 3.6e6 AS core_hours, sum(byte_ms)::float8 / 3.6e15 AS gb_hours, \
                sum(wall_ms)::float8 / 3.6e6 AS worker_hours \
         FROM ({}) AS summed ({COLUMNS}) \
         WHERE ($6::text IS NULL OR tenant = $6) AND $1::timestamptz IS NOT NULL AND ($7::uuid IS NULL OR true) \
         GROUP BY 1 HAVING sum(attempts) > 0 ORDER BY core_hours DESC, key LIMIT $4",
        all.join(" UNION ALL ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arms(since: &str) -> (String, String, bool) {
        let Arms { first_hour, first_day, begins_within, has_unbooked: _ } = Arms::since(since.parse().unwrap(), false);
        (first_hour.to_string(), first_day.to_string(), begins_within)
    }

    fn expected(first_hour: &str, first_day: &str, begins_within: bool) -> (String, String, bool) {
        (first_hour.to_owned(), first_day.to_owned(), begins_within)
    }

    #[test]
    fn a_report_is_of_whole_days_the_hours_before_them_and_the_rest_of_the_hour_in_which_it_begins() {
        let day = "2026-12-02T00:00:00Z";
        assert_eq!(arms("2026-12-01T10:20:00Z"), expected("2026-12-01T11:00:00Z", day, true));
        assert_eq!(arms("2026-12-01T10:00:00.000001Z"), expected("2026-12-01T11:00:00Z", day, true));
        assert_eq!(arms("2026-12-01T10:00:00Z"), expected("2026-12-01T10:00:00Z", day, false));
        assert_eq!(arms("2026-12-01T23:59:59Z"), expected(day, day, true));
        assert_eq!(arms(day), expected(day, day, false));
        assert_eq!(arms("1969-12-31T22:30:00Z"), expected("1969-12-31T23:00:00Z", "1970-01-01T00:00:00Z", true));
    }

    #[test]
    fn only_the_arms_that_have_something_are_asked() {
        let asked = |since: &str, has_unbooked| sql("queue", &Arms::since(since.parse().unwrap(), has_unbooked));
        let all = asked("2026-12-01T10:20:00Z", true);
        assert!(all.contains(WITHIN) && all.contains(UNBOOKED), "{all}");
        let few = asked("2026-12-01T10:00:00Z", false);
        assert!(!few.contains("FROM attempt") && !few.contains("FROM job"), "{few}");
    }
}
