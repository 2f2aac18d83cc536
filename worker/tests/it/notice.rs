//! Eviction notices: each provider's protocol against a server that insists on it, and a worker that leaves in time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use axum::Json;
use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use clap::Parser;
use ffpool_schema::message::{CommitReply, Outcome, Phase, WorkerState};
use ffpool_worker::notice::{Eviction, EvictionArgs, Kind, Lookout, Notice, Provider};
use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::pool::{BOUND, Pool, until};

const TOKEN: &str = "/latest/api/token";
const ACTION: &str = "/latest/meta-data/spot/instance-action";
const REBALANCE: &str = "/latest/meta-data/events/recommendations/rebalance";
const PREEMPTED: &str = "/computeMetadata/v1/instance/preempted";
const MAINTENANCE: &str = "/computeMetadata/v1/instance/maintenance-event";
const EVENTS: &str = "/metadata/scheduledevents";
const NAME: &str = "/metadata/instance/compute/name";
const TTL_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";

/// What the service does instead of answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Garbage,
    Flood,
    Status(u16),
    Silence,
}

/// What the service knows and has seen.
struct Books {
    trouble: Option<Trouble>,
    /// Questions, by path.
    asked: BTreeMap<String, u32>,
    /// Questions that broke the protocol.
    refused: u32,
    ttl_secs: u64,
    /// Tokens given out; only the last one is good, if any.
    tokens: u32,
    token_is_good: bool,
    action: Option<String>,
    rebalance: Option<String>,
    preempted: String,
    maintenance: String,
    is_google: bool,
    events: Value,
    name: Option<String>,
    acknowledged: Vec<Value>,
}

/// The metadata services of all three providers at one address.
#[derive(Clone)]
struct Cloud {
    books: Arc<Mutex<Books>>,
    /// Told of every change of a value of Google's.
    changed: Arc<watch::Sender<()>>,
    url: String,
}

impl Cloud {
    async fn start() -> Cloud {
        ffpool_runtime::install_crypto();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let books = Books {
            trouble: None,
            asked: BTreeMap::new(),
            refused: 0,
            ttl_secs: 21_600,
            tokens: 0,
            token_is_good: false,
            action: None,
            rebalance: None,
            preempted: "FALSE".into(),
            maintenance: "NONE".into(),
            is_google: true,
            events: json!([]),
            name: None,
            acknowledged: Vec::new(),
        };
        let cloud = Cloud {
            books: Arc::new(Mutex::new(books)),
            changed: Arc::new(watch::Sender::new(())),
            url: format!("http://{}", listener.local_addr().unwrap()),
        };
        let routes = Router::new()
            .route(TOKEN, put(give_token))
            .route(
                ACTION,
                get(async |State(cloud), headers| with_token(&cloud, &headers, |books| books.action.clone())),
            )
            .route(
                REBALANCE,
                get(async |State(cloud), headers| with_token(&cloud, &headers, |books| books.rebalance.clone())),
            )
            .route(
                PREEMPTED,
                get(async |State(cloud), Query(query), headers| {
                    long_poll(cloud, query, headers, |books| books.preempted.clone()).await
                }),
            )
            .route(
                MAINTENANCE,
                get(async |State(cloud), Query(query), headers| {
                    long_poll(cloud, query, headers, |books| books.maintenance.clone()).await
                }),
            )
            .route(EVENTS, get(events).post(acknowledge))
            .route(NAME, get(name))
            .layer(from_fn_with_state(cloud.clone(), count_and_trouble))
            .with_state(cloud.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        cloud
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    fn tell(&self, change: impl FnOnce(&mut Books)) {
        change(&mut self.books());
        self.changed.send_replace(());
    }

    fn asked(&self, path: &str) -> u32 {
        self.books().asked.get(path).copied().unwrap_or(0)
    }

    /// Tokens given out, and questions refused.
    fn tokens_and_refused(&self) -> (u32, u32) {
        let books = self.books();
        (books.tokens, books.refused)
    }

    /// Waits until `path` was asked for `more` times from now on.
    async fn until_asked(&self, path: &str, more: u32) {
        let before = self.asked(path);
        until("questions", async || {
            let asked = self.asked(path);
            if asked >= before + more { Ok(()) } else { Err((before, asked)) }
        })
        .await;
    }

    fn lookout(&self, flags: &[&str]) -> Lookout {
        let url = format!("--eviction-url={}", self.url);
        let flags = ["worker", "--eviction-poll-secs=1", &url].into_iter().chain(flags.iter().copied());
        Lookout::start(Eviction::from(&Args::parse_from(flags).eviction))
    }
}

#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    eviction: EvictionArgs,
}

async fn count_and_trouble(State(cloud): State<Cloud>, request: Request, next: Next) -> Response {
    let trouble = {
        let mut books = cloud.books();
        *books.asked.entry(request.uri().path().to_owned()).or_default() += 1;
        books.trouble
    };
    match trouble {
        None => next.run(request).await,
        Some(Trouble::Garbage) => "<html>TRUE { \u{0} terminate</html>".into_response(),
        Some(Trouble::Flood) => " ".repeat(1024 * 1024).into_response(),
        Some(Trouble::Status(status)) => StatusCode::from_u16(status).unwrap().into_response(),
        Some(Trouble::Silence) => std::future::pending().await,
    }
}

fn refuse(cloud: &Cloud, status: StatusCode) -> Response {
    cloud.books().refused += 1;
    status.into_response()
}

async fn give_token(State(cloud): State<Cloud>, headers: HeaderMap) -> Response {
    let asked = headers.get(TTL_HEADER).and_then(|ttl| ttl.to_str().ok()).and_then(|ttl| ttl.parse::<u64>().ok());
    if !asked.is_some_and(|ttl| (1..=21_600).contains(&ttl)) {
        return refuse(&cloud, StatusCode::BAD_REQUEST);
    }
    let mut books = cloud.books();
    books.tokens += 1;
    books.token_is_good = true;
    ([(TTL_HEADER, books.ttl_secs.to_string())], format!("token-{}==", books.tokens)).into_response()
}

fn with_token(cloud: &Cloud, headers: &HeaderMap, value: impl Fn(&Books) -> Option<String>) -> Response {
    let token = headers.get("x-aws-ec2-metadata-token").and_then(|token| token.to_str().ok());
    let answer = {
        let books = cloud.books();
        let is_good = books.token_is_good && token == Some(&format!("token-{}==", books.tokens));
        is_good.then(|| value(&books))
    };
    match answer {
        None => refuse(cloud, StatusCode::UNAUTHORIZED),
        Some(None) => StatusCode::NOT_FOUND.into_response(),
        Some(Some(text)) => text.into_response(),
    }
}

async fn long_poll(
    cloud: Cloud,
    query: BTreeMap<String, String>,
    headers: HeaderMap,
    value: fn(&Books) -> String,
) -> Response {
    if headers.get("metadata-flavor").is_none_or(|flavor| flavor != "Google") {
        return refuse(&cloud, StatusCode::FORBIDDEN);
    }
    let etag_of = |value: &str| format!("{:016x}", value.len());
    if query.get("wait_for_change").is_some_and(|wait| wait == "true") {
        let mut changes = cloud.changed.subscribe();
        let wait = Duration::from_secs(query["timeout_sec"].parse().unwrap());
        let changed = changes.wait_for(|()| etag_of(&value(&cloud.books())) != query["last_etag"]);
        let _ = timeout(wait, changed).await;
    }
    let (value, is_google) = {
        let books = cloud.books();
        (value(&books), books.is_google)
    };
    let mut response = ([("etag", etag_of(&value))], value).into_response();
    if is_google {
        response.headers_mut().insert("metadata-flavor", "Google".parse().unwrap());
    }
    response
}

fn is_azures(headers: &HeaderMap, query: &BTreeMap<String, String>) -> bool {
    headers.get("metadata").is_some_and(|value| value == "true") && query.contains_key("api-version")
}

async fn events(
    State(cloud): State<Cloud>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    if !is_azures(&headers, &query) {
        return refuse(&cloud, StatusCode::BAD_REQUEST);
    }
    Json(json!({"DocumentIncarnation": 1, "Events": cloud.books().events})).into_response()
}

async fn acknowledge(
    State(cloud): State<Cloud>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    if !is_azures(&headers, &query) {
        return refuse(&cloud, StatusCode::BAD_REQUEST);
    }
    cloud.books().acknowledged.push(body);
    StatusCode::OK.into_response()
}

async fn name(
    State(cloud): State<Cloud>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    if !is_azures(&headers, &query) {
        return refuse(&cloud, StatusCode::BAD_REQUEST);
    }
    let name = cloud.books().name.clone();
    name.map_or_else(|| StatusCode::INTERNAL_SERVER_ERROR.into_response(), IntoResponse::into_response)
}

async fn next(lookout: &mut Lookout) -> Notice {
    timeout(BOUND, lookout.next()).await.expect("a notice")
}

/// That nothing has been announced so far.
async fn assert_quiet(lookout: &mut Lookout) {
    if let Ok(notice) = timeout(Duration::ZERO, lookout.next()).await {
        panic!("{notice:?}");
    }
}

fn in_secs(secs: i64) -> Timestamp {
    Timestamp::now() + SignedDuration::from_secs(secs)
}

/// That `notice` gives at most `secs` seconds from now, and the rest of them less what the test took.
fn assert_deadline(notice: &Notice, secs: i64) {
    let Kind::Evict { deadline } = notice.kind else { panic!("{notice:?}") };
    assert!(deadline <= in_secs(secs) && deadline > in_secs(secs - 60), "{notice:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_is_asked_with_a_token_that_is_replaced_when_it_is_refused_or_grows_old() {
    let cloud = Cloud::start().await;
    let mut lookout = cloud.lookout(&["--eviction=aws"]);
    cloud.until_asked(REBALANCE, 3).await;
    assert_eq!(cloud.tokens_and_refused(), (1, 0), "one token serves many questions");
    assert_quiet(&mut lookout).await;

    cloud.tell(|books| {
        books.token_is_good = false;
        books.rebalance = Some(r#"{"noticeTime": "2026-03-01T08:22:00Z"}"#.into());
    });
    let notice = next(&mut lookout).await;
    assert_eq!((notice.provider, notice.kind), (Provider::Aws, Kind::Rebalance));
    assert_eq!(cloud.tokens_and_refused(), (2, 1), "refused once, then a new token");
    cloud.tell(|books| (books.token_is_good, books.ttl_secs) = (false, 1));

    cloud.until_asked(ACTION, 3).await;
    until("a token is renewed before its end", async || match cloud.tokens_and_refused() {
        (tokens, 2) if tokens > 4 => Ok(()),
        seen => Err(seen),
    })
    .await;

    let time: Timestamp = in_secs(90).round(jiff::Unit::Second).unwrap();
    cloud.tell(|books| books.action = Some(format!(r#"{{"action": "terminate", "time": "{time}"}}"#)));
    let notice = loop {
        match next(&mut lookout).await {
            Notice { kind: Kind::Rebalance, .. } => {}
            notice => break notice,
        }
    };
    assert_eq!(notice.kind, Kind::Evict { deadline: time });
    assert!(notice.evidence.contains("terminate"), "{notice}");
    lookout.end(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn google_is_waited_for_by_long_polls_and_believed_only_with_its_header() {
    let cloud = Cloud::start().await;
    let mut lookout = cloud.lookout(&["--eviction=gcp"]);
    // The first answer comes at once and brings the etag; the second question waits.
    cloud.until_asked(PREEMPTED, 2 - cloud.asked(PREEMPTED)).await;
    cloud.until_asked(MAINTENANCE, 2 - cloud.asked(MAINTENANCE)).await;
    assert_quiet(&mut lookout).await;

    cloud.tell(|books| books.maintenance = "MIGRATE_ON_HOST_MAINTENANCE".into());
    cloud.until_asked(MAINTENANCE, 1).await;
    assert_quiet(&mut lookout).await;
    cloud.tell(|books| books.maintenance = "TERMINATE_ON_HOST_MAINTENANCE".into());
    let notice = next(&mut lookout).await;
    assert!(notice.evidence.contains("TERMINATE_ON_HOST_MAINTENANCE"), "{notice}");
    assert_deadline(&notice, 60);
    assert_eq!(cloud.asked(PREEMPTED), 2, "the other question still waits");

    cloud.tell(|books| {
        books.is_google = false;
        books.preempted = "TRUE".into();
    });
    cloud.until_asked(PREEMPTED, 2).await;
    assert_quiet(&mut lookout).await;
    cloud.tell(|books| books.is_google = true);
    let notice = next(&mut lookout).await;
    assert_eq!(notice.provider, Provider::Gcp);
    assert_deadline(&notice, 30);
    assert_eq!(cloud.books().refused, 0);
    lookout.end(true).await;
}

fn azure_event(id: &str, kind: &str, machine: &str, not_before: &str) -> Value {
    json!({"EventId": id, "EventType": kind, "ResourceType": "VirtualMachine", "Resources": [machine],
        "EventStatus": "Scheduled", "NotBefore": not_before, "Description": "", "EventSource": "Platform",
        "DurationInSeconds": -1})
}

#[tokio::test(flavor = "multi_thread")]
async fn azure_tells_of_other_machines_too_and_is_told_when_ours_may_go() {
    let cloud = Cloud::start().await;
    cloud.tell(|books| {
        books.name = Some("set_1".into());
        books.events = json!([
            azure_event("A", "Preempt", "set_2", "Mon, 19 Sep 2022 18:29:47 GMT"),
            azure_event("B", "Freeze", "set_1", "Mon, 19 Sep 2022 18:29:47 GMT"),
            azure_event("C", "Preempt", "set_1", "rubbish"),
        ]);
    });
    let mut lookout = cloud.lookout(&["--eviction=azure"]);
    cloud.until_asked(EVENTS, 2).await;
    assert_quiet(&mut lookout).await;
    for kind in ["Terminate", "Reboot", "Redeploy", "Preempt"] {
        cloud.tell(|books| {
            let of_another = azure_event("A", "Preempt", "set_2", "Mon, 19 Sep 2022 18:29:47 GMT");
            books.events = json!([of_another, azure_event(kind, kind, "set_1", "Thu, 19 Sep 2222 18:29:47 GMT")]);
        });
        let notice = loop {
            let notice = next(&mut lookout).await;
            if notice.evidence.contains(kind) {
                break notice;
            }
        };
        assert_eq!(notice.kind, Kind::Evict { deadline: "2222-09-19T18:29:47Z".parse().unwrap() }, "{notice}");
    }
    lookout.end(true).await;
    let start_requests = json!({"StartRequests": [{"EventId": "Preempt"}]});
    assert_eq!(cloud.books().acknowledged, [start_requests]);

    // Without a name every event may be ours; one that has begun leaves no time, and needs no word any more.
    cloud.tell(|books| {
        books.name = None;
        books.events = json!([azure_event("D", "Preempt", "set_2", "")]);
    });
    let mut lookout = cloud.lookout(&["--eviction=azure"]);
    assert_deadline(&next(&mut lookout).await, 0);
    lookout.end(true).await;
    // Whoever does not want it says nothing, and neither does a worker that could not hand back everything.
    cloud.tell(|books| books.events = json!([azure_event("E", "Preempt", "set_2", "Thu, 19 Sep 2222 18:29:47 GMT")]));
    for (flag, may_go) in [("--eviction-acknowledge=false", true), ("--eviction-acknowledge", false)] {
        let mut lookout = cloud.lookout(&["--eviction=azure", flag]);
        next(&mut lookout).await;
        lookout.end(may_go).await;
    }
    let books = cloud.books();
    assert_eq!((books.acknowledged.len(), books.refused), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_of_the_service_is_no_notice_and_hides_none_that_comes_after() {
    let troubles = [Trouble::Garbage, Trouble::Flood, Trouble::Status(500), Trouble::Status(302), Trouble::Status(404)];
    join_all(troubles.map(is_outlived)).await;
}

async fn is_outlived(trouble: Trouble) {
    let cloud = Cloud::start().await;
    cloud.tell(|books| books.trouble = Some(trouble));
    let mut lookout = cloud.lookout(&["--eviction=aws,gcp,azure"]);
    for path in [TOKEN, PREEMPTED, MAINTENANCE, EVENTS] {
        cloud.until_asked(path, 3_u32.saturating_sub(cloud.asked(path))).await;
    }
    assert_quiet(&mut lookout).await;
    cloud.tell(|books| {
        books.trouble = None;
        books.action = Some(format!(r#"{{"action": "stop", "time": "{}"}}"#, in_secs(60)));
        books.preempted = "TRUE".into();
        books.events = json!([azure_event("F", "Preempt", "set_2", "")]);
    });
    let mut missing = Provider::ALL.to_vec();
    while !missing.is_empty() {
        let notice = next(&mut lookout).await;
        missing.retain(|provider| *provider != notice.provider);
    }
    lookout.end(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_never_answers_is_asked_again_and_delays_nobody() {
    let cloud = Cloud::start().await;
    cloud.tell(|books| books.trouble = Some(Trouble::Silence));
    let mut lookout = cloud.lookout(&["--eviction=aws"]);
    cloud.until_asked(TOKEN, 2).await;
    assert_quiet(&mut lookout).await;
    cloud.tell(|books| {
        books.trouble = None;
        books.action = Some(format!(r#"{{"action": "terminate", "time": "{}"}}"#, in_secs(60)));
    });
    assert_deadline(&next(&mut lookout).await, 60);
    cloud.tell(|books| books.trouble = Some(Trouble::Silence));
    timeout(BOUND, lookout.end(true)).await.expect("a farewell has a bound");
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_listens_to_whoever_answers_at_the_given_address() {
    let cloud = Cloud::start().await;
    cloud.tell(|books| books.action = Some(format!(r#"{{"action": "terminate", "time": "{}"}}"#, in_secs(60))));
    let mut lookout = cloud.lookout(&[]);
    assert_eq!(next(&mut lookout).await.provider, Provider::Aws);
    lookout.end(false).await;

    cloud.tell(|books| books.trouble = Some(Trouble::Silence));
    let lookout = cloud.lookout(&[]);
    cloud.until_asked(NAME, 1).await;
    lookout.end(false).await;
    let mut none = cloud.lookout(&["--eviction=off"]);
    assert_quiet(&mut none).await;
    none.end(true).await;
}

/// A worker's process that hears of evictions from `cloud` only.
struct Process {
    child: Child,
    scratch: PathBuf,
}

impl Process {
    fn start(pool: &Pool, cloud: &Cloud, eviction: &str) -> Process {
        let url = format!("--eviction-url={}", cloud.url);
        let flags = pool.flags(&["--slots=2", "--stop-grace-secs=5", "--eviction-poll-secs=1", &url]);
        let flags = flags.iter().map(|flag| if flag == "--eviction=off" { eviction.to_owned() } else { flag.clone() });
        let flags: Vec<String> = flags.collect();
        let scratch = flags.iter().find_map(|flag| flag.strip_prefix("--scratch=")).unwrap().into();
        let child = Command::new(env!("CARGO_BIN_EXE_ffpool-worker"))
            .args(&flags[1..])
            // A proxy would be asked for the metadata of its own machine.
            .env("http_proxy", "http://127.0.0.1:9")
            .stderr(Stdio::null())
            .spawn()
            .expect("cargo built the program");
        Process { child, scratch }
    }

    async fn exit(&mut self) -> ExitStatus {
        until("the exit", async || self.child.try_wait().unwrap().ok_or("still running")).await
    }

    fn assert_nothing_left(&self, pool: &Pool) {
        let own = self.scratch.join(pool.worker.as_str());
        let left: Vec<_> = std::fs::read_dir(own).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["lock"]);
        let inside =
            |process: &Path| std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(&self.scratch));
        let processes: Vec<PathBuf> = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!processes.iter().any(|process| inside(process)), "a tool still runs");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until the only attempt is in `phase`.
async fn until_phase(pool: &Pool, phase: Phase) {
    until("an attempt in its phase", async || {
        let last = pool.dispatcher.heartbeats().pop();
        let progress =
            last.as_ref().and_then(|beat| beat.running.first()).and_then(|running| running.progress.as_ref());
        if progress.is_some_and(|progress| progress.phase == phase) { Ok(()) } else { Err(last) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_of_30_seconds_releases_a_long_attempt_and_the_worker_is_gone_before_the_deadline() {
    let (pool, cloud) = (Pool::new("evict30").await, Cloud::start().await);
    let mut process = Process::start(&pool, &cloud, "--eviction=gcp");
    let long = r#"{"scenario": "480p30-h264", "parameters": {"duration": 86400, "preset": "ultrafast"},
        "resource_limits": {"max_cpu_percent": 50, "timeout_sec": 3600, "max_memory_mb": 512, "max_disk_mb": 2000}}"#;
    let job = pool.publish(long).await;
    until_phase(&pool, Phase::Encode).await;

    let noticed = Instant::now();
    cloud.tell(|books| books.preempted = "TRUE".into());
    let status = process.exit().await;
    assert!(noticed.elapsed() < Duration::from_secs(30), "{:?}", noticed.elapsed());
    assert_eq!(status.code(), Some(0));
    pool.until_ends(&[(job, 1, "released")]).await;
    let reason = match &pool.events()[0].outcome {
        Outcome::Released { reason } => reason.clone(),
        other => panic!("{other:?}"),
    };
    assert!(reason.contains("eviction notice from gcp") && reason.contains("preempted"), "{reason}");
    assert_eq!(pool.ready().await, 0);
    process.assert_nothing_left(&pool);
    until("the last heartbeat", async || {
        let last = pool.dispatcher.heartbeats().pop().unwrap();
        if last.state == WorkerState::Stopped { Ok(()) } else { Err(last) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_of_120_seconds_lets_an_attempt_that_is_nearly_done_finish() {
    let (pool, cloud) = (Pool::new("evict120").await, Cloud::start().await);
    // Its consent waits until the worker has heard the notice.
    let draining = watch::Sender::new(false);
    let gate = draining.subscribe();
    pool.dispatcher.on_commit(move |_| gate.borrow().then_some(CommitReply::Granted));
    let mut process = Process::start(&pool, &cloud, "--eviction=aws");
    let short = r#"{"scenario": "480p30-h264", "parameters": {"duration": 2, "preset": "ultrafast"}}"#;
    let job = pool.publish(short).await;
    until_phase(&pool, Phase::Commit).await;

    let noticed = Instant::now();
    cloud.tell(|books| books.action = Some(format!(r#"{{"action": "terminate", "time": "{}"}}"#, in_secs(120))));
    until("heartbeats of a draining worker that keeps its attempt", async || {
        let beats = pool.dispatcher.heartbeats();
        let kept = beats.iter().filter(|beat| beat.state == WorkerState::Draining && beat.running.len() == 1).count();
        if kept >= 3 { Ok(()) } else { Err(beats.last().cloned()) }
    })
    .await;
    let waiting = pool.publish(r#"{"scenario": "480p30-h264", "engine": "noop"}"#).await;
    draining.send_replace(true);
    let status = process.exit().await;
    assert!(noticed.elapsed() < Duration::from_secs(120), "{:?}", noticed.elapsed());
    assert_eq!(status.code(), Some(0));
    pool.until_ends(&[(job, 1, "finished")]).await;
    assert_eq!(pool.ready().await, 1, "{waiting} waits for somebody else");
    process.assert_nothing_left(&pool);
}
