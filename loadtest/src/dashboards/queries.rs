//! The queries of the dashboards as Grafana would ask them, and what series a query selects. Pure but for reading the files.

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

/// What Grafana puts in for `$__rate_interval` where Prometheus scrapes every 15 s: four times that.
const RATE_INTERVAL: &str = "1m";
/// How a query looks at the week before.
const OFFSET: &str = " offset 1w";
/// Metrics of others that the alerts name.
const OTHERS: &[&str] = &["up", "ALERTS"];
const OTHER_EXPORTERS: &[&str] = &["node_", "DCGM_"];

/// One query of a panel.
#[derive(Debug)]
pub(super) struct Query {
    board: String,
    panel: String,
    /// With its variables filled in.
    pub(super) text: String,
    /// Whether it is asked for its value now.
    pub(super) is_instant: bool,
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} / {}: {}", self.board, self.panel, self.text)
    }
}

/// The queries of all dashboards.
#[derive(Debug)]
pub(super) struct Queries {
    pub(super) dashboards: usize,
    pub(super) all: Vec<Query>,
}

/// Reads every dashboard of a folder.
pub(super) fn of_dashboards(folder: &Path) -> anyhow::Result<Queries> {
    let mut queries = Queries { dashboards: 0, all: Vec::new() };
    let files = std::fs::read_dir(folder).with_context(|| format!("look for dashboards in {}", folder.display()))?;
    for file in files {
        let path = file?.path();
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let board: Value = serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?;
        let of_board = of_board(&board).with_context(|| format!("{} is no dashboard", path.display()))?;
        ensure!(!of_board.is_empty(), "{} asks nothing", path.display());
        queries.dashboards += 1;
        queries.all.extend(of_board);
    }
    ensure!(queries.dashboards > 0, "no dashboards in {}", folder.display());
    Ok(queries)
}

fn of_board(board: &Value) -> anyhow::Result<Vec<Query>> {
    let text = |value: &Value, what: &str| value.as_str().map(ToOwned::to_owned).with_context(|| format!("no {what}"));
    let from = text(&board["time"]["from"], "time")?;
    let range = from.strip_prefix("now-").with_context(|| format!("it looks back to {from}"))?;
    let mut found = Vec::new();
    for panel in board["panels"].as_array().context("no panels")? {
        for target in panel["targets"].as_array().context("a panel without queries")? {
            let asked = text(&target["expr"], "query")?;
            found.push(Query {
                board: text(&board["title"], "title")?,
                panel: text(&panel["title"], "title of a panel")?,
                text: filled_in(&asked, range)?,
                is_instant: target["instant"].as_bool().unwrap_or(false),
            });
        }
    }
    Ok(found)
}

fn filled_in(query: &str, range: &str) -> anyhow::Result<String> {
    let filled = query.replace("$__rate_interval", RATE_INTERVAL).replace("$__range", range);
    if filled.contains('$') {
        bail!("a variable that nobody fills in: {query}");
    }
    Ok(filled)
}

/// The same query of now, if it looks at the week before.
pub(super) fn without_offset(query: &str) -> Option<String> {
    query.contains(OFFSET).then(|| query.replace(OFFSET, ""))
}

/// What a query selects: the names of metrics with their conditions, each once.
pub(super) fn selectors(query: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut rest = query;
    while let Some(begin) = rest.find(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '"') {
        rest = &rest[begin..];
        if let Some(quoted) = rest.strip_prefix('"') {
            rest = quoted.split_once('"').map_or("", |(_, after)| after);
            continue;
        }
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let conditions = if rest[end..].starts_with('{') { bracket(&rest[end..]) } else { 0 };
        let name = &rest[..end];
        let is_metric = name.starts_with("ffpool_") || OTHERS.contains(&name);
        if is_metric || OTHER_EXPORTERS.iter().any(|prefix| name.starts_with(prefix)) {
            let selector = rest[..end + conditions].to_owned();
            if !found.contains(&selector) {
                found.push(selector);
            }
        }
        rest = &rest[end + conditions..];
    }
    found
}

/// The length of what stands in curly brackets, with them; a bracket within quotes closes none.
fn bracket(text: &str) -> usize {
    let mut is_quoted = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' => is_quoted = !is_quoted,
            '}' if !is_quoted => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_query_is_asked_as_grafana_asks_it() {
        let target = json!({"expr": "rate(a[$__rate_interval]) / increase(b[$__range])", "instant": true});
        let panel = |target: &Value| json!({"title": "cost", "targets": [target]});
        let board = json!({"title": "ffpool", "time": {"from": "now-7d"}, "panels": [panel(&target)]});
        let found = of_board(&board).unwrap();
        assert_eq!(found[0].to_string(), "ffpool / cost: rate(a[1m]) / increase(b[7d])");
        assert!(found[0].is_instant);
        let unknown =
            json!({"title": "x", "time": {"from": "now-6h"}, "panels": [panel(&json!({"expr": "a{b=\"$c\"}"}))]});
        assert!(of_board(&unknown).unwrap_err().to_string().contains("nobody fills in"));
    }

    #[test]
    fn selectors_are_the_metrics_of_a_query_with_their_conditions() {
        let query = r#"sum by (by) (rate(ffpool_a_total{route!~".*/({events}|up)"}[5m] offset 1w)) > 2 and on() up{job="x"} == 1 unless ffpool_b"#;
        assert_eq!(selectors(query), [r#"ffpool_a_total{route!~".*/({events}|up)"}"#, r#"up{job="x"}"#, "ffpool_b"]);
        assert_eq!(without_offset("a[1h] offset 1w").as_deref(), Some("a[1h]"));
        assert_eq!(without_offset("a[1h]"), None);
    }
}
