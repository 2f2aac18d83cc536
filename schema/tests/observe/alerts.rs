//! The alert rules of `compose/prometheus`: each names metrics that exist, leads to its runbook, fires and stays silent.

use std::collections::BTreeSet;

use crate::promql::{compose, promtool, unknown_names};

/// One rule, as far as these tests look at it.
struct Rule {
    name: String,
    query: String,
    runbook: String,
}

fn read(file: &str) -> String {
    let path = compose().join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rules, read by the form that the file keeps: a key and its value on one line.
fn rules() -> Vec<Rule> {
    let text = read("prometheus/rules.yaml");
    text.split("- alert: ")
        .skip(1)
        .map(|rule| {
            let value = |key: &str| {
                let found = rule.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(": "));
                found.unwrap_or_default().trim_matches('\'').replace("''", "'")
            };
            let name = rule.lines().next().unwrap_or_default().to_owned();
            Rule { name, query: value("expr"), runbook: value("runbook_url") }
        })
        .collect()
}

#[test]
fn every_alert_names_metrics_and_labels_that_exist() {
    let rules = rules();
    assert!(rules.len() > 40, "the rules are read wrongly: {}", rules.len());
    for rule in rules {
        assert_eq!(unknown_names(&rule.query), [] as [String; 0], "{}: {}", rule.name, rule.query);
    }
}

#[test]
fn every_alert_leads_to_its_section_of_the_runbooks_and_every_section_belongs_to_one() {
    let page = read("../docs/runbooks.md");
    let sections: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let rules = rules();
    let names: BTreeSet<&str> = rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names.len(), rules.len(), "a name stands twice");
    assert_eq!(names, sections);
    for rule in &rules {
        assert_eq!(rule.runbook, format!("docs/runbooks.md#{}", rule.name.to_lowercase()));
    }
}

#[test]
fn every_alert_is_fired_and_kept_silent_and_prometheus_accepts_the_rules() {
    let tests = read("prometheus/rules.test.yaml") + &read("prometheus/rules.slow.test.yaml");
    for rule in rules() {
        for (word, value) in [("fires", 1), ("stays silent", 0)] {
            let name = format!("- name: {} {word}\n", rule.name);
            let one = tests.split_once(&name).map(|(_, rest)| rest.split("- name: ").next().unwrap_or_default());
            let one = one.unwrap_or_else(|| panic!("no test says that {} {word}", rule.name));
            let asked = format!("alertname=\"{}\", alertstate=\"firing\"", rule.name);
            assert!(one.contains(&asked) && one.contains(&format!("[{{value: {value}}}]")), "{name}{one}");
        }
    }
    promtool(&["check", "config", "prometheus.yaml"]);
    promtool(&["test", "rules", "rules.test.yaml", "rules.slow.test.yaml"]);
}
