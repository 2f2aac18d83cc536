//! What each page of the dashboard asks when it is opened. A test holds it against the pages' scripts. Pure.

use super::facts::Facts;
use super::questions::{Question, Until, Who, replaced};

/// A page: its path in the description, as it is opened, and what it asks then.
struct Page {
    path: &'static str,
    opened: &'static str,
    asks: &'static [&'static str],
}

const fn row(path: &'static str, opened: &'static str, asks: &'static [&'static str]) -> Page {
    Page { path, opened, asks }
}

/// Who is logged in: every page asks it first. The live stream is open on every page too.
const ALWAYS: [&str; 2] = ["/v1/session", "/v1/events"];

const PAGES: &[Page] = &[
    row("/", "/", &["/v1/throughput", "/v1/failures?hours=24", "/v1/cost?by=queue&since={day}"]),
    row("/login", "/login", &[]),
    row("/jobs", "/jobs", &["/v1/jobs?limit=50"]),
    row(
        "/jobs/{id}",
        "/jobs/{running}",
        &[
            "/v1/jobs/{running}",
            "/v1/jobs/{running}/explain",
            "/v1/jobs/{running}/log?lines=500",
            "/v1/jobs/{running}/progress",
        ],
    ),
    row("/workers", "/workers", &["/v1/workers?limit=100&status=starting&status=ready&status=draining"]),
    row(
        "/workers/{id}",
        "/workers/{busy_worker}",
        &["/v1/workers/{busy_worker}", "/v1/jobs?status=running&worker={busy_worker}&limit=100"],
    ),
    row("/dead-letters", "/dead-letters", &["/v1/dead-letters/groups", "/v1/dead-letters?limit=50"]),
    row("/scenarios", "/scenarios", &["/v1/scenarios", "/v1/templates"]),
    row("/submit", "/submit", &["/v1/scenarios", "/v1/schema/job"]),
    row("/cost", "/cost", &["/v1/cost?by=queue&since={month}"]),
    row("/keys", "/keys", &["/v1/keys"]),
    row("/tenants", "/tenants", &["/v1/tenants"]),
    row("/audit", "/audit", &["/v1/audit?limit=50"]),
];

/// The questions of a page, in a session as the browser has: the page itself, and all that it asks, at once. `None` for a page
/// that is not known here.
pub(super) fn page(path: &str, facts: &Facts) -> Option<Vec<Question>> {
    let Page { opened, asks, .. } = PAGES.iter().find(|page| page.path == path)?;
    let opened = replaced(opened, facts);
    let asks = asks.iter().chain(&ALWAYS[..1]).map(|ask| (replaced(ask, facts), Until::End));
    let asks: Vec<(String, Until)> = asks.chain([(ALWAYS[1].to_owned(), Until::FirstEvent)]).collect();
    Some(vec![
        Question { who: Who::Session, path: opened.clone(), paths: vec![(opened.clone(), Until::End)] },
        Question { who: Who::Session, path: format!("{opened} asks {} at once", asks.len()), paths: asks },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The scripts of the pages, by their names; but for the one with `ask` itself.
    fn scripts() -> Vec<(String, String)> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../dispatcher/web");
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.ends_with(".js") && name != "api.js" {
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
        found
    }

    /// A route as a script or a row above names it, whatever stands for its parts and without its query.
    fn route(text: &str) -> String {
        let path = text.split(['?', '`', '\'']).next().unwrap_or_default();
        let parts = path.split('/').map(|part| if part.contains('{') { "*" } else { part });
        parts.collect::<Vec<_>>().join("/")
    }

    #[test]
    fn every_question_of_the_pages_scripts_is_among_those_that_are_asked() {
        let asked: Vec<String> = PAGES.iter().flat_map(|page| page.asks).chain(&ALWAYS).map(|ask| route(ask)).collect();
        let mut found = 0;
        for (script, text) in scripts() {
            for start in ["ask('", "ask(`", "ask(path`"] {
                for rest in text.split(start).skip(1) {
                    let named = route(rest);
                    assert!(asked.contains(&named), "{script} asks {named}; say in PAGES on which page");
                    found += 1;
                }
            }
        }
        assert!(found > 20, "only {found} questions were found in the scripts");
    }
}
