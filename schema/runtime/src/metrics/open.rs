//! OpenMetrics out of Prometheus' text format, with exemplars: which trace was the last to fall into a bucket.
//!
//! Invariants:
//! * both formats say the same of every series; exemplars are in addition;
//! * one exemplar for each bucket that was ever met, so memory is bounded by the series themselves.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::traces::Context;

/// What a client says that understands OpenMetrics.
const MEDIA_TYPE: &str = "application/openmetrics-text";

/// Prometheus' text format, as `Content-Type`.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// OpenMetrics, as `Content-Type`.
pub const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether whoever sends this `Accept` takes OpenMetrics.
pub(crate) fn is_accepted(accept: Option<&str>) -> bool {
    let is_it = |range: &str| {
        let mut parts = range.split(';').map(str::trim);
        let is_named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(MEDIA_TYPE));
        let is_refused = |part: &str| part.strip_prefix("q=").is_some_and(|q| q.parse::<f64>().is_ok_and(|q| q <= 0.0));
        is_named && !parts.any(is_refused)
    };
    accept.is_some_and(|accept| accept.split(',').any(is_it))
}

#[derive(Debug, Clone)]
struct Exemplar {
    trace: Context,
    value: f64,
    at: SystemTime,
}

/// The last trace of each bucket.
#[derive(Debug, Default)]
pub(crate) struct Exemplars {
    /// By the series without its bucket, as it is rendered, and the bucket's bound. Never held across an await.
    last: Mutex<HashMap<(String, u64), Exemplar>>,
}

impl Exemplars {
    /// Notes that `trace` met the histogram of this series with this value. `buckets` are its upper bounds in order.
    pub(crate) fn note(&self, series: String, buckets: &[f64], value: f64, trace: Context) {
        let bound = buckets.iter().copied().find(|bound| value <= *bound).unwrap_or(f64::INFINITY);
        let exemplar = Exemplar { trace, value, at: SystemTime::now() };
        self.last.lock().unwrap_or_else(PoisonError::into_inner).insert((series, bound.to_bits()), exemplar);
    }

    fn of(&self, series: &str, bound: &str) -> Option<String> {
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let Exemplar { trace, value, at } = last.get(&(series.to_owned(), bound.to_bits()))?;
        let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        Some(format!(" # {{trace_id=\"{}\",span_id=\"{}\"}} {value} {at:.3}", trace.trace_id(), trace.span_id()))
    }
}

/// A series of a histogram as the text format has it, without a bucket.
pub(crate) fn series(name: &str, labels: &[(&'static str, &str)]) -> String {
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    format!("{name}{{{}}}", labels.join(","))
}

/// The same in OpenMetrics.
pub(crate) fn open(text: &str, exemplars: &Exemplars) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    let counters: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")?.strip_suffix("_total"))
        .collect();
    // A family is called as its samples, but for the suffix of a counter's.
    let family = |name: &str| match name.strip_suffix("_total") {
        Some(stem) if counters.contains(&stem) => stem.to_owned(),
        Some(_) | None => name.to_owned(),
    };
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            let _ = writeln!(out, "# HELP {} {}", family(name), help.replace('"', "\\\""));
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let _ = writeln!(out, "# TYPE {} {kind}", family(name));
        } else if line.starts_with('#') {
            // A comment of other formats.
        } else {
            let exemplar = bucket(line).and_then(|(series, bound)| exemplars.of(&series, bound));
            let _ = writeln!(out, "{line}{}", exemplar.unwrap_or_default());
        }
    }
    out.push_str("# EOF\n");
    out
}

/// The series and the bound of a bucket's line: `name_bucket{a="b",le="0.5"} 3` is of `name{a="b"}`.
fn bucket(line: &str) -> Option<(String, &str)> {
    let (head, _) = line.rsplit_once(' ')?;
    let (name, labels) = head.strip_suffix('}')?.split_once('{')?;
    let name = name.strip_suffix("_bucket")?;
    let (labels, bound) = labels.rsplit_once("le=\"")?;
    Some((format!("{name}{{{}}}", labels.trim_end_matches(',')), bound.strip_suffix('"')?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_text_format_becomes_open_metrics_with_the_last_trace_of_each_bucket() {
        let exemplars = Exemplars::default();
        let trace = Context::parse(TRACE).expect("well formed");
        for (queue, value) in [("live", 0.2), ("live", 0.4), ("batch", 99.0)] {
            exemplars.note(series("ffpool_wait_seconds", &[("queue", queue)]), &[0.1, 0.5], value, trace);
        }
        exemplars.note(series("ffpool_claim_seconds", &[]), &[0.1, 0.5], 0.1, trace);
        let text = "# HELP ffpool_jobs_total Jobs, \"all\".\n# TYPE ffpool_jobs_total counter\nffpool_jobs_total{queue=\"live\"} 3\n\n\
                    # TYPE ffpool_wait_seconds histogram\n\
                    ffpool_wait_seconds_bucket{queue=\"live\",le=\"0.1\"} 0\n\
                    ffpool_wait_seconds_bucket{queue=\"live\",le=\"0.5\"} 2\n\
                    ffpool_wait_seconds_bucket{queue=\"live\",le=\"+Inf\"} 2\n\
                    ffpool_wait_seconds_bucket{queue=\"batch\",le=\"+Inf\"} 1\n\
                    ffpool_wait_seconds_sum{queue=\"live\"} 0.6\n\n\
                    # TYPE ffpool_claim_seconds histogram\nffpool_claim_seconds_bucket{le=\"0.1\"} 1\n";
        let opened = open(text, &exemplars);
        let lines: Vec<&str> = opened.lines().collect();
        assert_eq!(
            lines[..3],
            [
                "# HELP ffpool_jobs Jobs, \\\"all\\\".",
                "# TYPE ffpool_jobs counter",
                "ffpool_jobs_total{queue=\"live\"} 3",
            ]
        );
        let with: Vec<&str> =
            lines.iter().filter_map(|line| line.split_once(" # {").map(|(before, _)| before)).collect();
        assert_eq!(
            with,
            [
                "ffpool_wait_seconds_bucket{queue=\"live\",le=\"0.5\"} 2",
                "ffpool_wait_seconds_bucket{queue=\"batch\",le=\"+Inf\"} 1",
                "ffpool_claim_seconds_bucket{le=\"0.1\"} 1",
            ]
        );
        let last = " # {trace_id=\"4bf92f3577b34da6a3ce929d0e0e4736\",span_id=\"00f067aa0ba902b7\"} 0.4 ";
        assert!(opened.contains(last), "{opened}");
        assert!(opened.ends_with("# EOF\n") && !opened.contains("\n\n"), "{opened}");
    }

    #[test]
    fn only_who_asks_for_it_gets_open_metrics() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert!(is_accepted(Some(prometheus)));
        // With native histograms switched on it would rather have protobuf, which is not served (docs/metrics.md says why).
        let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,";
        assert!(is_accepted(Some(&format!("{protobuf}{prometheus}"))));
        for other in [None, Some("*/*"), Some("text/plain"), Some("application/openmetrics-text;q=0"), Some("")] {
            assert!(!is_accepted(other), "{other:?}");
        }
    }
}
