//! Reads out of a query which metrics and labels it names, and holds them against the table; Prometheus' own tool does the rest.

use std::path::{Path, PathBuf};
use std::process::Command;

use ffpool_schema::metrics::{ALL, Metric};

/// What others show: Prometheus of its scrapes and alerts, node_exporter, dcgm-exporter.
const OTHERS: &[&str] = &[
    "up",
    "ALERTS",
    "node_filesystem_avail_bytes",
    "node_filesystem_size_bytes",
    "node_rapl_package_joules_total",
    "DCGM_FI_DEV_POWER_USAGE",
];
/// Labels that a scrape adds, and those of what others show.
const ADDED: &[&str] =
    &["job", "instance", "le", "alertname", "alertstate", "severity", "fstype", "mountpoint", "index", "gpu"];
/// Words before a list of labels.
const GROUPINGS: &[&str] = &["by", "without", "on", "ignoring", "group_left", "group_right"];

/// A word of a query, with what follows it.
struct Word<'a> {
    text: &'a str,
    rest: &'a str,
}

fn words(query: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut quoted = None;
    let mut began = None;
    for (at, c) in query.char_indices().chain([(query.len(), ' ')]) {
        let is_part = quoted.is_none() && (c.is_ascii_alphanumeric() || c == '_' || c == ':');
        match (is_part, began) {
            (true, None) => began = Some(at),
            (false, Some(from)) => {
                words.push(Word { text: &query[from..at], rest: query[at..].trim_start() });
                began = None;
            }
            (true, Some(_)) | (false, None) => {}
        }
        match quoted {
            Some(quote) if c == quote => quoted = None,
            None if c == '"' || c == '\'' => quoted = Some(c),
            Some(_) | None => {}
        }
    }
    words
}

/// The names between the bracket that `text` begins with and its partner, as far as `is_name` lets them.
fn listed(text: &str, close: char, is_name: impl Fn(&Word) -> bool) -> Vec<&str> {
    let end = text.find(close).expect("a bracket that was opened is closed");
    words(&text[1..end]).into_iter().filter(|word| is_name(word)).map(|word| word.text).collect()
}

/// What a query names that does not exist, in words.
pub fn unknown_names(query: &str) -> Vec<String> {
    let mut named: Vec<&Metric> = Vec::new();
    let mut faults = Vec::new();
    let words = words(query);
    for word in &words {
        let metric = ALL.iter().find(|metric| metric.series().any(|series| series == word.text));
        let is_selector = word.rest.starts_with('{') || word.text.starts_with("ffpool");
        if metric.is_none() && is_selector && !OTHERS.contains(&word.text) {
            faults.push(format!("metric `{}`", word.text));
        }
        let Some(metric) = metric else { continue };
        named.push(metric);
        if word.rest.starts_with('{') {
            let is_label = |word: &Word| word.rest.starts_with(['=', '!']);
            for label in listed(word.rest, '}', is_label) {
                if !metric.labels.contains(&label) && !ADDED.contains(&label) {
                    faults.push(format!("label `{label}` of `{}`", metric.name));
                }
            }
        }
    }
    for word in words.iter().filter(|word| GROUPINGS.contains(&word.text) && word.rest.starts_with('(')) {
        for label in listed(word.rest, ')', |_| true) {
            if !ADDED.contains(&label) && !named.iter().any(|metric| metric.labels.contains(&label)) {
                faults.push(format!("label `{label}` of a group"));
            }
        }
    }
    faults
}

/// `compose/` of this repository.
pub fn compose() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../compose")
}

/// Runs Prometheus' own tool, which must agree; what it says.
pub fn promtool(arguments: &[&str]) -> String {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(compose().join("prometheus"))
        .output()
        .unwrap_or_else(|error| panic!("promtool cannot be run ({error}): apt-get install prometheus"));
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    said
}

#[test]
fn a_query_that_names_what_is_not_there_is_found_out() {
    let faults = |query| unknown_names(query).join(", ");
    let good = r#"sum by (queue) (rate(ffpool_jobs_ended_total{state="failed", job=~"x{}"}[5m])) / up{job="a"}"#;
    assert_eq!(faults(good), "");
    assert_eq!(faults("ffpool_jobs_total"), "metric `ffpool_jobs_total`");
    assert_eq!(faults(r#"jobs_total{a="b"}"#), "metric `jobs_total`");
    assert_eq!(
        faults("ffpool_claim_seconds > 1"),
        "metric `ffpool_claim_seconds`",
        "a histogram has no series of its own name"
    );
    assert_eq!(faults(r#"ffpool_jobs{status="x"}"#), "label `status` of `ffpool_jobs`");
    assert_eq!(faults("sum by (node) (ffpool_jobs)"), "label `node` of a group");
}
