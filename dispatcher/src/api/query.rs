//! Query strings, read strictly: an unknown, repeated or unreadable parameter is refused by name with what is allowed.
//!
//! Invariant: each route's parameters stand in one list, from which both the reading and `/openapi.json` are made.

use std::str::FromStr;

use axum::extract::Query as Pairs;
use axum::http::Uri;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ffpool_schema::api::{JobView, Page};
use ffpool_schema::failure::Cause;
use ffpool_schema::id::WorkerId;
use ffpool_schema::job::{Priority, Queue};
use ffpool_schema::lifecycle::State;
use ffpool_schema::message::WorkerState;
use serde_json::{Value, json};

use crate::api::problem::{Answer, ApiError};
use crate::ledger::Realm;
use crate::ledger::read::{JobFilter, Listed};
use crate::ledger::workers::WorkerFilter;

/// Rows of a page that does not say.
const LIMIT_DEFAULT: u16 = 50;
/// Labels that one query may ask for: a job has no more.
const LABELS_MAX: usize = 32;

/// Characters of a text that is searched for.
const SEARCH_MAX: usize = 200;

/// One parameter that a route takes.
#[derive(Debug)]
pub(crate) struct Parameter {
    pub(crate) name: &'static str,
    pub(crate) meaning: &'static str,
    pub(crate) shape: Shape,
}

/// What a parameter's value looks like.
#[derive(Debug)]
pub(crate) enum Shape {
    Text,
    OneOf(fn() -> Vec<&'static str>),
    /// The same; may be given several times.
    AnyOf(fn() -> Vec<&'static str>),
    Integer {
        low: u32,
        high: u32,
    },
    Instant,
    /// A part of a text.
    Search,
    /// `name:value`; may be given several times.
    Label,
    Cursor,
}

impl Shape {
    fn allowed(&self) -> String {
        match self {
            Shape::Text => "text that is not empty is expected".to_owned(),
            Shape::OneOf(names) | Shape::AnyOf(names) => format!("one of {} is expected", names().join(", ")),
            Shape::Integer { low, high } => format!("a whole number from {low} to {high} is expected"),
            Shape::Instant => "an instant of RFC 3339 is expected, such as 2026-12-01T00:00:00Z".to_owned(),
            Shape::Search => format!("text of 1 to {SEARCH_MAX} characters is expected"),
            Shape::Label => "name:value is expected, such as show:x".to_owned(),
            Shape::Cursor => "the value of `next` of the page before is expected".to_owned(),
        }
    }

    /// The JSON Schema of a value.
    pub(crate) fn schema(&self) -> Value {
        match self {
            Shape::Text | Shape::Cursor => json!({"type": "string", "minLength": 1}),
            Shape::OneOf(names) => json!({"type": "string", "enum": names()}),
            Shape::AnyOf(names) => json!({"type": "array", "items": {"type": "string", "enum": names()}}),
            Shape::Integer { low, high } => json!({"type": "integer", "minimum": low, "maximum": high}),
            Shape::Instant => json!({"type": "string", "format": "date-time"}),
            Shape::Search => json!({"type": "string", "minLength": 1, "maxLength": SEARCH_MAX}),
            Shape::Label => json!({"type": "array", "items": {"type": "string", "pattern": "^[^:]+:.*$"}}),
        }
    }
}

const fn parameter(name: &'static str, shape: Shape, meaning: &'static str) -> Parameter {
    Parameter { name, meaning, shape }
}

/// Parameters of the lists of jobs.
pub(crate) const JOBS: &[Parameter] = &[
    parameter("status", Shape::OneOf(|| State::ALL.map(State::as_str).to_vec()), "Only jobs in this state."),
    QUEUE,
    PRIORITY,
    WORKER,
    LABEL,
    TENANT,
    SINCE,
    CAUSE,
    SEARCH,
    parameter(
        "part_of",
        Shape::Text,
        "Only the jobs that make chunks of this job, by its id. Without it none of these.",
    ),
    LIMIT,
    CURSOR,
];

/// Parameters of the list of dead letters: those of jobs, whose state is given.
pub(crate) const DEAD_LETTERS: &[Parameter] =
    &[QUEUE, PRIORITY, WORKER, LABEL, TENANT, SINCE, CAUSE_OF_DEATH, SEARCH, FINGERPRINT, LIMIT, CURSOR];

/// Parameters of the list of workers.
pub(crate) const WORKERS: &[Parameter] = &[
    parameter(
        "status",
        Shape::AnyOf(|| WorkerState::ALL.map(WorkerState::as_str).to_vec()),
        "Only workers in this state; given several times, in any of them.",
    ),
    parameter("name", Shape::Text, "Only workers whose name, host or one of whose pools has this in it."),
    parameter("limit", Shape::Integer { low: 1, high: 500 }, "Rows of one page. With it the answer is a page."),
    CURSOR,
];

/// Parameters of the audit.
pub(crate) const AUDIT: &[Parameter] = &[LIMIT, CURSOR];

/// Parameters of a route for one schedule.
pub(crate) const SCHEDULE: &[Parameter] =
    &[parameter("tenant", Shape::Text, "Whose schedule. Default: the key's tenant, or the pool.")];

/// Parameters of the costs.
pub(crate) const COST: &[Parameter] = &[
    parameter("by", Shape::Text, "By what: `tenant` (default), `queue`, `scenario`, `worker` or `label:<name>`."),
    parameter("since", Shape::Instant, "Only jobs recorded at this instant or later. Default: 30 days ago."),
];

/// Parameters of the advice on the number of workers.
pub(crate) const SCALE: &[Parameter] = &[
    parameter("pool", Shape::Text, "Only this pool; its advice is then the whole answer. Default: all pools."),
    parameter("min", COUNT, "Never fewer workers than these. Default 0."),
    parameter("max", COUNT, "No more workers than these, but for those that are busy. Default: no limit."),
    parameter(
        "slots",
        Shape::Integer { low: 1, high: 100_000 },
        "Slots of a worker that would be added. Default: as those that are there have.",
    ),
    parameter(
        "wait_live",
        WAIT,
        "How long jobs of queue `live` may wait, in seconds. Default: the dispatcher's setting.",
    ),
    parameter("wait_default", WAIT, "The same of queue `default`."),
    parameter("wait_batch", WAIT, "The same of queue `batch`."),
];
const COUNT: Shape = Shape::Integer { low: 0, high: 1_000_000 };
const WAIT: Shape = Shape::Integer { low: 1, high: 604_800 };
/// Parameters of the live stream.
pub(crate) const EVENTS: &[Parameter] = &[
    parameter("jobs", Shape::Text, "Ids of up to 100 jobs to follow, with commas between them."),
    parameter("log", Shape::Text, "Id of a job whose tool's lines are told as they come."),
];

/// Parameters of the throughput.
pub(crate) const THROUGHPUT: &[Parameter] =
    &[parameter("hours", Shape::Integer { low: 1, high: 48 }, "The last so many hours, in 60 steps. Default 1.")];

/// Parameters of the failures.
pub(crate) const FAILURES: &[Parameter] =
    &[parameter("hours", Shape::Integer { low: 1, high: 720 }, "What failed in the last so many hours. Default 24.")];

/// Parameters of a job's log.
pub(crate) const LOG: &[Parameter] = &[
    parameter("attempt", Shape::Integer { low: 1, high: i32::MAX as u32 }, "Only lines of this attempt."),
    parameter("lines", Shape::Integer { low: 1, high: 5000 }, "So many lines at most, the last ones. Default 1000."),
];

const QUEUE: Parameter =
    parameter("queue", Shape::OneOf(|| Queue::ALL.map(Queue::as_str).to_vec()), "Only jobs of this queue.");
const PRIORITY: Parameter =
    parameter("priority", Shape::OneOf(|| Priority::ALL.map(Priority::as_str).to_vec()), "Only jobs of this priority.");
const WORKER: Parameter = parameter("worker", Shape::Text, "Only jobs that this worker runs, or ran last.");
const LABEL: Parameter =
    parameter("label", Shape::Label, "Only jobs with this label; given several times, with all of them.");
const TENANT: Parameter = parameter("tenant", Shape::Text, "Only jobs of this tenant.");
const SINCE: Parameter = parameter("since", Shape::Instant, "Only jobs recorded at this instant or later.");
const CAUSES: Shape = Shape::OneOf(|| Cause::ALL.map(Cause::as_str).to_vec());
const CAUSE: Parameter =
    parameter("cause", CAUSES, "Only jobs that failed by this cause, be it in one attempt only. See /v1/failures.");
const CAUSE_OF_DEATH: Parameter = parameter("cause", CAUSES, "Only dead letters by this cause.");
const SEARCH: Parameter = parameter(
    "search",
    Shape::Search,
    "Only jobs with this text in an address of their input or outputs or in a label, in small or large letters, or with an id that begins \
     with it (8 digits and more). A page looks through 25,000 jobs at most, newest first: `searched` says how far, `next` goes on.",
);
const FINGERPRINT: Parameter =
    parameter("fingerprint", Shape::Text, "Only dead letters of this kind, see /v1/dead-letters/groups.");
const LIMIT: Parameter = parameter("limit", Shape::Integer { low: 1, high: 500 }, "Rows of one page. Default 50.");
const CURSOR: Parameter = parameter("cursor", Shape::Cursor, "Where the page begins: `next` of the page before.");

/// A query string whose names are all known.
pub(crate) struct Query {
    allowed: &'static [Parameter],
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Reads the query of `uri`, of which `allowed` may be part.
    pub(crate) fn read(uri: &Uri, allowed: &'static [Parameter]) -> Answer<Query> {
        let Pairs(pairs) = Pairs::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|_| ApiError::bad_parameter(uri.query().unwrap_or_default(), "the query is not form-encoded"))?;
        for (index, (name, _)) in pairs.iter().enumerate() {
            let known = allowed.iter().find(|known| known.name == name).ok_or_else(|| {
                let names: Vec<&str> = allowed.iter().map(|known| known.name).collect();
                let expected =
                    if names.is_empty() { "none is".to_owned() } else { format!("{} are", names.join(", ")) };
                ApiError::bad_parameter(name, format!("unknown here; {expected} allowed"))
            })?;
            let repeats = matches!(known.shape, Shape::Label | Shape::AnyOf(_));
            if !repeats && pairs[..index].iter().any(|(before, _)| before == name) {
                return Err(ApiError::bad_parameter(name, "given twice; once is allowed"));
            }
        }
        Ok(Query { allowed, pairs })
    }

    fn values<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> {
        self.pairs.iter().filter(move |(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    fn value<T>(&self, name: &str, read: impl Fn(&str) -> Option<T>) -> Answer<Option<T>> {
        self.values(name).next().map(|text| read(text).ok_or_else(|| self.refused(name, text))).transpose()
    }

    fn parsed<T: FromStr>(&self, name: &str) -> Answer<Option<T>> {
        self.value(name, |text| text.parse().ok())
    }

    /// A whole number within the bounds of its parameter.
    pub(crate) fn integer(&self, name: &str) -> Answer<Option<u32>> {
        let shape = self.allowed.iter().find(|known| known.name == name).map(|known| &known.shape);
        self.value(name, |text| {
            let Some(Shape::Integer { low, high }) = shape else { return None };
            // `parse` would take a sign.
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|number| digits && (low..=high).contains(&number))
        })
    }

    fn refused(&self, name: &str, text: &str) -> ApiError {
        let allowed = self.allowed.iter().find(|known| known.name == name).map(|known| known.shape.allowed());
        let shown: String = text.chars().take(80).collect();
        ApiError::bad_parameter(name, format!("`{shown}` cannot be read; {}", allowed.unwrap_or_default()))
    }

    /// A text as it was given.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(given, _)| given == name).map(|(_, text)| text.as_str())
    }

    /// The instant `since`.
    pub(crate) fn since(&self) -> Answer<Option<jiff::Timestamp>> {
        self.parsed("since")
    }

    /// What a list of a realm's jobs is asked for.
    pub(crate) fn job_filter(&self, realm: &Realm) -> Answer<JobFilter> {
        let labels = self
            .values("label")
            .map(|text| label(text).ok_or_else(|| self.refused("label", text)))
            .collect::<Answer<Vec<_>>>()?;
        if labels.len() > LABELS_MAX {
            return Err(ApiError::bad_parameter(
                "label",
                format!("given {} times; {LABELS_MAX} are allowed", labels.len()),
            ));
        }
        Ok(JobFilter {
            realm: realm.clone(),
            state: self.parsed("status")?,
            queue: self.parsed("queue")?,
            priority: self.parsed("priority")?,
            worker: self.parsed("worker")?,
            labels,
            tenant: self.value("tenant", |text| (!text.is_empty()).then(|| text.to_owned()))?,
            since: self.parsed("since")?,
            cause: self.value("cause", cause)?,
            parked_by: None,
            search: self.search()?,
            part_of: self.value("part_of", |text| text.parse().ok())?,
            fingerprint: self.value("fingerprint", |text| (!text.is_empty()).then(|| text.to_owned()))?,
            before: self.before()?,
            limit: self.limit()?,
        })
    }

    /// What is searched for. Jobs of chunks have no text to be found by.
    fn search(&self) -> Answer<Option<String>> {
        let read = |text: &str| {
            let text = text.trim();
            let is_fine = (1..=SEARCH_MAX).contains(&text.chars().count()) && !text.contains('\0');
            is_fine.then(|| text.to_owned())
        };
        let search = self.value("search", read)?;
        if search.is_some() && self.text("part_of").is_some() {
            return Err(ApiError::bad_parameter(
                "search",
                "cannot be given with `part_of`: chunks are found by their whole alone",
            ));
        }
        Ok(search)
    }

    /// What the list of workers is asked for.
    pub(crate) fn worker_filter(&self, realm: &Realm) -> Answer<WorkerFilter> {
        let states = self.values("status");
        let states = states
            .map(|text| WorkerState::named(text).ok_or_else(|| self.refused("status", text)))
            .collect::<Answer<_>>()?;
        Ok(WorkerFilter {
            realm: realm.clone(),
            states,
            name: self.value("name", |text| (!text.is_empty()).then(|| text.to_lowercase()))?,
            after: self.value("cursor", read_worker_cursor)?,
            limit: self.limit()?,
        })
    }

    /// Whether a page is asked for, where all at once is an answer too.
    pub(crate) fn wants_page(&self) -> bool {
        self.text("limit").or(self.text("cursor")).is_some()
    }

    /// Where the page before ended.
    pub(crate) fn before(&self) -> Answer<Option<i64>> {
        self.value("cursor", read_cursor)
    }

    /// Rows of one page.
    pub(crate) fn limit(&self) -> Answer<u16> {
        let limit = self.integer("limit")?.and_then(|limit| u16::try_from(limit).ok());
        Ok(limit.unwrap_or(LIMIT_DEFAULT))
    }
}

fn cause(text: &str) -> Option<Cause> {
    Cause::ALL.into_iter().find(|cause| cause.as_str() == text)
}

fn label(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once(':')?;
    (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
}

/// A page of jobs, with the cursor to the next one.
pub(crate) fn page(listed: Listed) -> Page<JobView> {
    let Listed { jobs, next, searched } = listed;
    Page { items: jobs, next: next.map(cursor), searched }
}

/// What a client gives to have the rows below `number`.
// Opaque, so that clients do not depend on what it is made of; the letter leaves room for another kind.
pub(crate) fn cursor(number: i64) -> String {
    URL_SAFE_NO_PAD.encode(format!("n{number}"))
}

fn read_cursor(text: &str) -> Option<i64> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let number = std::str::from_utf8(&bytes).ok()?.strip_prefix('n')?.parse().ok()?;
    // What we did not write ourselves is no cursor, even if it could be read as one.
    (cursor(number) == text && number > 0).then_some(number)
}

/// What a client gives to have the workers after this one.
pub(crate) fn worker_cursor(worker: &WorkerId) -> String {
    URL_SAFE_NO_PAD.encode(format!("w{worker}"))
}

fn read_worker_cursor(text: &str) -> Option<WorkerId> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let worker: WorkerId = std::str::from_utf8(&bytes).ok()?.strip_prefix('w')?.parse().ok()?;
    (worker_cursor(&worker) == text).then_some(worker)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(query: &str) -> Answer<JobFilter> {
        let uri: Uri = format!("/v1/jobs?{query}").parse().unwrap();
        Query::read(&uri, JOBS)?.job_filter(&Realm::Pool)
    }

    #[test]
    fn every_parameter_of_the_list_reaches_the_filter() {
        let wanted = filter(
            "status=queued&queue=live&priority=high&worker=w-1&label=show:x&label=a%3Ab:c%20d&tenant=acme\
             &since=2026-12-01T00:00:00Z&limit=7&cursor=bjQy",
        )
        .unwrap();
        assert_eq!(wanted.state, Some(State::Queued));
        assert_eq!(wanted.queue, Some(Queue::Live));
        assert_eq!(wanted.priority, Some(Priority::High));
        assert_eq!(wanted.worker, Some("w-1".parse().unwrap()));
        assert_eq!(wanted.labels, [("show".into(), "x".into()), ("a".into(), "b:c d".into())]);
        assert_eq!(wanted.tenant.as_deref(), Some("acme"));
        assert_eq!(wanted.since, Some("2026-12-01T00:00:00Z".parse().unwrap()));
        assert_eq!((wanted.limit, wanted.before), (7, Some(42)));
        assert_eq!(filter("").unwrap(), JobFilter { limit: LIMIT_DEFAULT, ..JobFilter::default() });
    }

    #[test]
    fn a_bad_query_is_refused_with_the_parameter_and_what_is_allowed() {
        for (query, name, expected) in [
            ("status=done", "status", "completed"),
            ("stauts=queued", "stauts", "status"),
            ("status=queued&status=failed", "status", "once"),
            ("queue=fast", "queue", "live, default, batch"),
            ("limit=0", "limit", "from 1 to 500"),
            ("limit=501", "limit", "from 1 to 500"),
            ("limit=%2B5", "limit", "from 1 to 500"),
            ("limit=", "limit", "from 1 to 500"),
            ("since=yesterday", "since", "RFC 3339"),
            ("label=show", "label", "name:value"),
            ("worker=a.b", "worker", "expected"),
            ("tenant=", "tenant", "not empty"),
            ("cursor=42", "cursor", "next"),
            ("cursor=bi00Mg", "cursor", "next"),
        ] {
            let error = filter(query).unwrap_err();
            assert_eq!(error.status(), 400, "{query}");
            assert!(error.detail().starts_with(&format!("parameter `{name}`")), "{query}: {}", error.detail());
            assert!(error.detail().contains(expected), "{query}: {}", error.detail());
        }
    }

    #[test]
    fn workers_are_asked_for_in_any_of_several_states() {
        let read = |query: &str| {
            let uri: Uri = format!("/v1/workers?{query}").parse().unwrap();
            Query::read(&uri, WORKERS).and_then(|query| Ok((query.worker_filter(&Realm::Pool)?, query.wants_page())))
        };
        let (wanted, pages) = read("status=ready&status=lost&name=GPU&cursor=d3ctMQ").unwrap();
        assert_eq!((wanted.states, wanted.name), (vec![WorkerState::Ready, WorkerState::Lost], Some("gpu".to_owned())));
        assert_eq!((wanted.after, pages), (Some("w-1".parse().unwrap()), true));
        assert!(!read("status=ready").unwrap().1);
        assert!(read("status=here").unwrap_err().detail().contains("starting, ready, draining, stopped, lost"));
        assert!(read("cursor=bjQy").unwrap_err().detail().contains("next"));
    }

    #[test]
    fn a_cursor_survives_the_round_trip() {
        for number in [1, 42, i64::MAX] {
            assert_eq!(read_cursor(&cursor(number)), Some(number));
            assert_eq!(read_worker_cursor(&cursor(number)), None, "one of another list");
        }
        let worker: WorkerId = "encode-1".parse().unwrap();
        assert_eq!(read_worker_cursor(&worker_cursor(&worker)), Some(worker));
        assert_eq!(read_cursor(&worker_cursor(&"encode-1".parse().unwrap())), None);
    }
}
