//! The table of metrics: named as Prometheus wants it, bounded, and printed into `docs/metrics.md`, so that the page cannot
//! drift from the code.

use std::collections::BTreeSet;

use ffpool_schema::metrics::{ALL, Kind, Metric, Process, Shown};

const BEGIN: &str = "<!-- table: made by schema/tests/observe/table.rs; FFPOOL_BLESS=1 rewrites it -->\n";
const END: &str = "<!-- end of table -->";

fn page() -> String {
    std::fs::read_to_string(path()).expect("docs/metrics.md is part of the repository")
}

fn path() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md")
}

fn rows(process: Process) -> String {
    let mut text = String::from("| metric | type | unit | labels | shown | meaning |\n|---|---|---|---|---|---|\n");
    for metric in ALL.iter().filter(|metric| metric.process() == process) {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        text.push_str(&format!(
            "| `{}` | {} | {} | {} | {} | {} |\n",
            metric.name,
            metric.kind.as_str(),
            metric.unit().unwrap_or("-"),
            if labels.is_empty() { "-".to_owned() } else { labels.join(", ") },
            metric.shown.as_str(),
            metric.help
        ));
    }
    text
}

fn table() -> String {
    let parts = [(Process::Both, "Every process"), (Process::Dispatcher, "Dispatchers"), (Process::Worker, "Workers")];
    parts.map(|(process, title)| format!("\n### {title}\n\n{}", rows(process))).concat() + "\n"
}

/// Rewrites the table when `FFPOOL_BLESS=1`; otherwise fails when the page and the code differ.
#[test]
fn the_page_shows_the_table_that_the_code_has() {
    let page = page();
    let (head, rest) = page.split_once(BEGIN).expect("the page has the mark where the table begins");
    let (old, tail) = rest.split_once(END).expect("the page has the mark where the table ends");
    if std::env::var_os("FFPOOL_BLESS").is_some() {
        std::fs::write(path(), format!("{head}{BEGIN}{}{END}{tail}", table())).expect("the page can be written");
    } else {
        assert_eq!(old, table(), "docs/metrics.md is out of date: FFPOOL_BLESS=1 cargo test -p ffpool-schema");
    }
}

#[test]
fn the_page_names_no_metric_that_is_not_in_the_table() {
    let known: BTreeSet<String> =
        ALL.iter().flat_map(Metric::series).chain(ALL.iter().map(|m| m.name.to_owned())).collect();
    let page = page();
    let words = page.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let unknown: BTreeSet<&str> = words.filter(|word| word.starts_with("ffpool_") && !known.contains(*word)).collect();
    assert!(unknown.is_empty(), "named in docs/metrics.md, and no metric: {unknown:?}");
}

#[test]
fn names_are_unique_and_say_what_prometheus_expects_of_them() {
    let mut names = BTreeSet::new();
    for metric in ALL {
        assert!(names.insert(metric.name), "{} stands twice", metric.name);
        assert!(metric.name.starts_with("ffpool_"), "{}", metric.name);
        assert_eq!(
            metric.kind == Kind::Counter,
            metric.name.ends_with("_total"),
            "{}: only counters are totals",
            metric.name
        );
        assert!(metric.help.ends_with('.'), "{}: {}", metric.name, metric.help);
        assert!(!metric.help.contains(['|', '\n']), "{}: its help does not fit into a table", metric.name);
    }
}

#[test]
fn no_label_grows_with_the_work() {
    // The ids and the words of whoever submits are not among them, nor a worker's name, which is the scraper's to add.
    const UNBOUNDED: &[&str] =
        &["job", "attempt", "tenant", "key", "worker", "input", "output", "path", "host", "address"];
    // What a message said: a name of one of the life cycle's inputs.
    const NAMES_OF_INPUTS: &str = "ffpool_stale_inputs_total";
    for metric in ALL.iter().filter(|metric| metric.name != NAMES_OF_INPUTS) {
        let bad: Vec<&&str> = metric.labels.iter().filter(|label| UNBOUNDED.contains(label)).collect();
        assert!(bad.is_empty(), "{} has a series for each {bad:?}", metric.name);
    }
}

#[test]
fn a_counter_that_is_always_shown_has_labels_of_which_all_values_are_known() {
    for metric in ALL.iter().filter(|metric| metric.kind == Kind::Counter && metric.shown == Shown::Always) {
        let sets = metric.label_sets();
        // A link's counter is set to what the link counts, and shown with it.
        assert!(!sets.is_empty() || metric.labels == ["server"], "{}: {:?}", metric.name, metric.labels);
        assert_eq!(sets.iter().collect::<BTreeSet<_>>().len(), sets.len(), "{}: a value stands twice", metric.name);
    }
    let ended = ALL.iter().find(|metric| metric.name == "ffpool_jobs_ended_total").unwrap();
    assert!(ended.label_sets().contains(&vec![("state", "failed"), ("queue", "live")]));
    assert_eq!(ended.label_sets().len(), 4 * 3);
}
