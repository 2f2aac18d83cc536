//! Numbers and times as people read them.

use ffpool_schema::api::ChunksView;
use ffpool_schema::message::{Phase, Progress};
use jiff::Timestamp;

/// `8s`, `3m 05s`, `2h 07m`, `3d 04h`.
pub(crate) fn duration(secs: f64) -> String {
    if !secs.is_finite() || secs < 0.0 {
        return "-".to_owned();
    }
    let whole = secs.round() as u64;
    match whole {
        0 if secs >= 0.001 => format!("{:.0}ms", secs * 1000.0),
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m {:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h {:02}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d {:02}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// Seconds from `start` to `end`.
pub(crate) fn seconds_between(start: Timestamp, end: Timestamp) -> f64 {
    end.duration_since(start).as_secs_f64()
}

/// How long before `now`: `3m 05s ago`. A clock that is a little ahead makes `0s ago`.
pub(crate) fn ago(then: Timestamp, now: Timestamp) -> String {
    format!("{} ago", duration(seconds_between(then, now).max(0.0).floor()))
}

/// `2026-11-25 18:30:02` in the machine's own time zone.
pub(crate) fn clock(at: Timestamp) -> String {
    at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Energy in joules, or in watt hours where there are many.
pub(crate) fn energy(joules: f64) -> String {
    const JOULES_PER_WH: f64 = 3600.0;
    if joules < 10.0 * JOULES_PER_WH { format!("{joules:.0} J") } else { format!("{:.1} Wh", joules / JOULES_PER_WH) }
}

/// `512 B`, `1.4 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// The name of a phase as it is shown.
pub(crate) fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Prepare => "prepare",
        Phase::Encode => "encode",
        Phase::Verify => "verify",
        Phase::Commit => "commit",
    }
}

/// How far the chunks of a job are.
pub(crate) fn chunks(chunks: &ChunksView) -> String {
    let ChunksView { done, running, total, percent } = chunks;
    format!("{percent:.1}%  {done} of {total} made, {running} being made")
}

/// ` 42.0%`, or blanks while the length of the source is unknown.
pub(crate) fn percent(progress: &Progress) -> String {
    progress.percent.map_or_else(|| "    -%".to_owned(), |percent| format!("{percent:>5.1}%"))
}

/// Phase, rate, speed, time left and frame.
pub(crate) fn progress(progress: &Progress) -> String {
    let rates = rates(progress);
    let separator = if rates.is_empty() { "" } else { "  " };
    format!("{}{separator}{rates}", phase(progress.phase))
}

/// Rate, speed, time left and frame: as much of it as is known, the most telling first, in case the line is cut.
pub(crate) fn rates(progress: &Progress) -> String {
    // Outside the encode the numbers are those of another tool run, and would look like a fall back to the start.
    if progress.phase != Phase::Encode {
        return String::new();
    }
    let mut parts = Vec::new();
    if let Some(fps) = progress.fps {
        parts.push(format!("{fps:.1} fps"));
    }
    if let Some(speed) = progress.speed {
        parts.push(format!("{speed:.2}x"));
    }
    if let Some(eta) = progress.eta_secs {
        parts.push(format!("ETA {}", duration(eta)));
    } else if let Some(us) = progress.out_time_us.filter(|_| progress.percent.is_none()) {
        parts.push(format!("at {}", duration(us as f64 / 1e6)));
    }
    if let Some(frame) = progress.frame {
        parts.push(format!("frame {frame}"));
    }
    parts.join("  ")
}

/// `name=value` of everything that a JSON object says.
pub(crate) fn facts(said: &serde_json::Value) -> String {
    let value = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match said {
        serde_json::Value::Null => String::new(),
        serde_json::Value::Object(facts) => {
            let told = facts.iter().filter(|(_, fact)| !fact.is_null());
            let told: Vec<String> = told.map(|(name, fact)| format!("{name}={}", value(fact))).collect();
            told.join(" ")
        }
        other => other.to_string(),
    }
}

/// A text cut to `width` characters.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ffpool_schema::id::JobId;

    #[test]
    fn durations_read_as_people_write_them() {
        let shown: Vec<String> =
            [0.0, 0.25, 8.4, 185.0, 7620.0, 273_600.0, f64::NAN, -1.0].into_iter().map(duration).collect();
        assert_eq!(shown, ["0s", "250ms", "8s", "3m 05s", "2h 07m", "3d 04h", "-", "-"]);
    }

    #[test]
    fn a_clock_that_runs_ahead_shows_no_negative_age() {
        let now = Timestamp::from_second(1000).unwrap();
        assert_eq!(ago(Timestamp::from_second(1002).unwrap(), now), "0s ago");
        assert_eq!(ago(Timestamp::from_second(910).unwrap(), now), "1m 30s ago");
    }

    #[test]
    fn sizes_change_unit_before_four_digits() {
        let shown: Vec<String> = [0, 1023, 1024, 1_048_575, 1_468_006, u64::MAX].into_iter().map(bytes).collect();
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "1.4 MiB", "16384.0 PiB"]);
    }

    #[test]
    fn progress_shows_what_is_known_and_nothing_else() {
        let mut known = Progress {
            job: JobId(uuid::Uuid::nil()),
            attempt: 1,
            worker: "w1".parse().unwrap(),
            seq: 1,
            phase: Phase::Encode,
            percent: Some(41.96),
            frame: Some(1234),
            fps: Some(59.94),
            speed: Some(1.5),
            out_time_us: Some(20_000_000),
            size_bytes: None,
            eta_secs: Some(75.2),
            live: None,
        };
        assert_eq!(percent(&known), " 42.0%");
        assert_eq!(progress(&known), "encode  59.9 fps  1.50x  ETA 1m 15s  frame 1234");
        known.percent = None;
        known.eta_secs = None;
        known.frame = None;
        assert_eq!(percent(&known), "    -%");
        assert_eq!(progress(&known), "encode  59.9 fps  1.50x  at 20s");
        known.phase = Phase::Verify;
        assert_eq!(progress(&known), "verify");
    }

    #[test]
    fn a_cut_text_says_that_it_was_cut() {
        assert_eq!((cut("abcdef", 6), cut("abcdefg", 6)), ("abcdef".to_owned(), "abcde…".to_owned()));
    }
}
