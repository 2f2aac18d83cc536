//! What is asked: every GET route of a dispatcher's description of itself, with each of its parameters. Pure.
//!
//! Invariant: a route, a part of a path or a parameter without a sample is told as missing, never left out.

use std::fmt;

use serde_json::Value;

use super::dashboard;
use super::facts::Facts;

/// As whom something is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Who {
    /// An administrator of the pool, by key.
    Key,
    /// The same in a browser, by the cookie of a session.
    Session,
    /// An administrator of one tenant, by key.
    Tenant,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Who::Key => "key",
            Who::Session => "session",
            Who::Tenant => "tenant",
        })
    }
}

/// How much of an answer is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// All of it.
    End,
    /// The first event of a stream.
    FirstEvent,
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) who: Who,
    /// For a page all that it asks, else the path with its query.
    pub(super) path: String,
    /// What is asked at the same time: of a page all its questions.
    pub(super) paths: Vec<(String, Until)>,
}

impl Question {
    pub(super) fn one(who: Who, path: String, until: Until) -> Question {
        Question { who, paths: vec![(path.clone(), until)], path }
    }
}

/// Filters that the dashboard's own links put together.
const TOGETHER: [(&str, &str); 7] = [
    ("/v1/jobs", "status=queued&queue=live&priority=high"),
    ("/v1/jobs", "status=queued&queue=batch&priority=low"),
    ("/v1/jobs", "status=running&worker={busy_worker}&limit=100"),
    ("/v1/jobs", "status=failed&queue=live&since={day}"),
    ("/v1/jobs", "cause=worker_lost&since={day}"),
    ("/v1/jobs", "search=show%3As-1&status=failed"),
    ("/v1/jobs", "search=nothing-has-this&queue=live"),
];

/// Every question about what the description describes, the files of the dashboard apart; or what there is no sample for.
pub(super) fn all(description: &Value, facts: &Facts) -> Result<Vec<Question>, Vec<String>> {
    let (mut questions, mut missing) = (Vec::new(), Vec::new());
    let none = serde_json::Map::new();
    let Some(paths) = description["paths"].as_object() else {
        return Err(vec!["a description without `paths`".to_owned()]);
    };
    for (path, methods) in paths {
        let operation = &methods["get"];
        if operation.is_null() || path.starts_with("/assets/") {
            continue;
        }
        let content = operation["responses"]["200"]["content"].as_object().unwrap_or(&none);
        if content.contains_key("text/html") {
            match dashboard::page(path, facts) {
                Some(page) => questions.extend(page),
                None => missing.push(format!("the page {path}")),
            }
            continue;
        }
        let until = if content.contains_key("text/event-stream") { Until::FirstEvent } else { Until::End };
        let is_pools = operation["description"].as_str().unwrap_or_default().contains("bound to no tenant");
        let names = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
        match samples(path, names, facts) {
            Ok(paths) => questions.extend(paths.into_iter().flat_map(|path| {
                let whose = if is_pools { &[Who::Key][..] } else { &[Who::Key, Who::Tenant][..] };
                whose.iter().map(move |who| Question::one(*who, path.clone(), until))
            })),
            Err(lacks) => missing.extend(lacks),
        }
    }
    if missing.is_empty() { Ok(questions) } else { Err(missing) }
}

/// Paths with queries: the route as it is, with each value of each parameter, and with those that go together.
fn samples(route: &str, parameters: &[Value], facts: &Facts) -> Result<Vec<String>, Vec<String>> {
    let bases = filled(route, facts);
    let Some(first) = bases.first() else { return Err(vec![format!("the path {route}")]) };
    let (mut paths, mut missing) = (bases.clone(), Vec::new());
    for parameter in parameters.iter().filter(|parameter| parameter["in"] == "query") {
        let name = parameter["name"].as_str().unwrap_or_default();
        let values = values(route, name, &parameter["schema"], facts);
        if values.is_empty() {
            missing.push(format!("the parameter `{name}` of {route}"));
        }
        paths.extend(values.into_iter().map(|value| format!("{first}?{name}={}", encoded(&value))));
    }
    let together = TOGETHER.iter().filter(|(of, _)| *of == route);
    paths.extend(together.map(|(_, query)| format!("{first}?{}", replaced(query, facts))));
    if missing.is_empty() { Ok(paths) } else { Err(missing) }
}

/// A route's path with things that are there; empty where nothing is known for one of its parts.
fn filled(route: &str, facts: &Facts) -> Vec<String> {
    if !route.contains('{') {
        return vec![route.to_owned()];
    }
    let known: Vec<(&str, &String)> = match route {
        "/v1/jobs/{id}/thumbnail" => vec![("{id}", &facts.pictured)],
        _ if route.starts_with("/v1/jobs/{id}") => facts.job_in.values().map(|id| ("{id}", id)).collect(),
        _ if route.starts_with("/v1/workers/{id}") => vec![("{id}", &facts.busy_worker)],
        _ if route.starts_with("/v1/tenants/{name}") => vec![("{name}", &facts.tenant)],
        _ if route.starts_with("/v1/schedules/{name}") => vec![("{name}", &facts.schedule)],
        _ => Vec::new(),
    };
    known.into_iter().map(|(part, value)| route.replace(part, value)).filter(|path| !path.contains('{')).collect()
}

/// Values of a parameter that find something.
fn values(route: &str, name: &str, schema: &Value, facts: &Facts) -> Vec<String> {
    // A frequent cause, one of a twelfth as many, and one that there is not: all forty would tell no more.
    if name == "cause" {
        return ["worker_lost", "oom", "dns"].map(str::to_owned).to_vec();
    }
    if let Some(allowed) = schema["enum"].as_array().or(schema["items"]["enum"].as_array()) {
        return allowed.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    }
    let one = |value: &str| vec![value.to_owned()];
    match name {
        "cursor" => facts.cursors.get(route).map(|cursors| cursors.to_vec()).unwrap_or_default(),
        "worker" => one(&facts.busy_worker),
        // Nearly all jobs have the first, one in four hundred has the second, none the third.
        "label" => ["env:prod", "show:s-1", "show:none"].map(str::to_owned).to_vec(),
        "tenant" => one(&facts.tenant),
        "since" => [HOUR, DAY, MONTH].map(ago).to_vec(),
        "part_of" => one(&facts.whole),
        "fingerprint" => one(&facts.fingerprint),
        "limit" => one("500"),
        "by" => ["tenant", "queue", "scenario", "worker", "label:show"].map(str::to_owned).to_vec(),
        "hours" if route == "/v1/failures" => ["1", "24", "168", "720"].map(str::to_owned).to_vec(),
        // In all of them, in one of them far back, in none, and by the beginning of an id.
        "search" => {
            let id = facts.job_in.values().next().map(|id| id.chars().take(13).collect());
            ["MEDIA/in", "/in/17.mov", "nothing-has-this"].map(str::to_owned).into_iter().chain(id).collect()
        }
        "hours" => ["1", "48"].map(str::to_owned).to_vec(),
        "pool" => ["cpu", "gpu"].map(str::to_owned).to_vec(),
        "min" | "attempt" => one("1"),
        "max" | "lines" => one("5000"),
        "slots" => one("16"),
        "wait_live" | "wait_default" | "wait_batch" => one("600"),
        "jobs" => vec![facts.running.join(",")],
        "log" => facts.running.first().cloned().into_iter().collect(),
        // Part of the name of a tenth of them, and of none.
        "name" => ["-0001", "nobody"].map(str::to_owned).to_vec(),
        _ => Vec::new(),
    }
}

const HOUR: i64 = 3_600;
pub(super) const DAY: i64 = 86_400;
const MONTH: i64 = 30 * DAY;

/// The instant so many seconds ago.
pub(super) fn ago(secs: i64) -> String {
    (jiff::Timestamp::now() - jiff::SignedDuration::from_secs(secs)).to_string()
}

/// The full hour in which the instant so many seconds ago lies: from there on the dashboard asks, as there are sums of hours.
fn hour_begun(secs: i64) -> String {
    let hour = (jiff::Timestamp::now().as_second() - secs).div_euclid(HOUR) * HOUR;
    jiff::Timestamp::from_second(hour).expect("an hour of this age is an instant").to_string()
}

/// A text with the names of things in it.
pub(super) fn replaced(text: &str, facts: &Facts) -> String {
    text.replace("{busy_worker}", &facts.busy_worker)
        .replace("{day}", &hour_begun(DAY))
        .replace("{month}", &hour_begun(MONTH))
        .replace("{running}", facts.running.first().map_or("", String::as_str))
        .replace("{jobs}", &facts.running.join(","))
        .replace("{fingerprint}", &facts.fingerprint)
}

/// As it stands in a query.
fn encoded(value: &str) -> String {
    value.replace('+', "%2B").replace(' ', "%20")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn facts() -> Facts {
        let mut facts = Facts { busy_worker: "w-1".into(), running: vec!["j".into()], ..Facts::default() };
        facts.job_in.insert("queued".into(), "j".into());
        facts.cursors.insert("/v1/jobs", ["bjQy".into(), "bjc".into()]);
        facts
    }

    fn description(path: &str, parameters: &Value) -> Value {
        let content = json!({"application/json": {}});
        json!({"paths": {path: {"get": {"parameters": parameters, "responses": {"200": {"content": content}}}}}})
    }

    fn asked(path: &str, parameters: &Value) -> Result<Vec<String>, Vec<String>> {
        let found = all(&description(path, parameters), &facts())?;
        Ok(found.into_iter().filter(|question| question.who == Who::Key).map(|question| question.path).collect())
    }

    #[test]
    fn a_route_is_asked_with_every_value_of_every_parameter() {
        let of = |name: &str, schema: Value| json!({"name": name, "in": "query", "schema": schema});
        let parameters = json!([
            of("queue", json!({"type": "string", "enum": ["live", "batch"]})),
            of("status", json!({"type": "array", "items": {"enum": ["ready"]}})),
            of("cursor", json!({"type": "string"})),
        ]);
        let found = asked("/v1/jobs", &parameters).unwrap();
        for path in
            ["/v1/jobs", "/v1/jobs?queue=live", "/v1/jobs?queue=batch", "/v1/jobs?status=ready", "/v1/jobs?cursor=bjc"]
        {
            assert!(found.iter().any(|known| known == path), "{path}: {found:?}");
        }
        assert!(found.contains(&"/v1/jobs?status=running&worker=w-1&limit=100".to_owned()), "{found:?}");
        assert_eq!(asked("/v1/jobs/{id}/explain", &json!([])).unwrap(), ["/v1/jobs/j/explain"]);
    }

    #[test]
    fn what_has_no_sample_is_missing_by_name() {
        let unknown = json!([{"name": "colour", "in": "query", "schema": {"type": "string"}}]);
        assert_eq!(asked("/v1/jobs", &unknown).unwrap_err(), ["the parameter `colour` of /v1/jobs"]);
        assert_eq!(asked("/v1/hats/{hat}", &json!([])).unwrap_err(), ["the path /v1/hats/{hat}"]);
        let mut page = description("/hats", &json!([]));
        page["paths"]["/hats"]["get"]["responses"]["200"]["content"] = json!({"text/html": {}});
        assert_eq!(all(&page, &facts()).unwrap_err(), ["the page /hats"]);
        assert_eq!(all(&json!({}), &facts()).unwrap_err(), ["a description without `paths`"]);
    }
}
