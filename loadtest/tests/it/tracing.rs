//! Traces as a collector gets them: one for each job, whole, from its publisher to its commit, by both protocols.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ffpool_loadtest::pool::PoolSettings;
use ffpool_schema::id::JobId;
use ffpool_schema::job::JobSpec;
use ffpool_schema::lifecycle::State;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};

use crate::collector::{Collector, HEADER, Seen};
use crate::support::{BOUND, encoding, long, pool, quick, run};

/// The span of each publisher.
const PUBLISHER: &str = "00f067aa0ba902b7";
const BY_AMQP: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const BY_HTTP: &str = "0af7651916cd43dd8448eb211c80319c";

/// Kinds of spans, as OTLP numbers them.
const INTERNAL: i32 = 1;
const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const PRODUCER: i32 = 4;
const CONSUMER: i32 = 5;

/// Every span of a job that is published over AMQP and succeeds: who makes it, its kind, and what it stands below.
const WHOLE: &[(&str, &str, i32, &str)] = &[
    ("job", "ffpool-dispatcher", INTERNAL, "publisher"),
    ("process jobs.ledger", "ffpool-dispatcher", CONSUMER, "job"),
    ("ledger arrive", "ffpool-dispatcher", CLIENT, "process jobs.ledger"),
    ("wait", "ffpool-dispatcher", INTERNAL, "job"),
    ("attempt", "ffpool-dispatcher", INTERNAL, "job"),
    ("claim", "ffpool-dispatcher", SERVER, "attempt"),
    ("ledger claim", "ffpool-dispatcher", CLIENT, "claim"),
    ("process jobs.default.medium", "ffpool-worker", CONSUMER, "attempt"),
    ("prepare", "ffpool-worker", INTERNAL, "process jobs.default.medium"),
    ("encode", "ffpool-worker", INTERNAL, "process jobs.default.medium"),
    ("verify", "ffpool-worker", INTERNAL, "process jobs.default.medium"),
    ("publish", "ffpool-worker", INTERNAL, "process jobs.default.medium"),
    ("commit", "ffpool-worker", CLIENT, "process jobs.default.medium"),
    ("ledger commit", "ffpool-dispatcher", CLIENT, "attempt"),
    ("publish jobs.events", "ffpool-worker", PRODUCER, "process jobs.default.medium"),
    ("process jobs.events", "ffpool-dispatcher", CONSUMER, "publish jobs.events"),
    ("ledger finished", "ffpool-dispatcher", CLIENT, "process jobs.events"),
];

/// What is told of a job that is handed in over HTTP, is not in the share, and fails at once.
const FAILED: &[&str] = &[
    "POST /v1/jobs",
    "job",
    "publish jobs.default.medium",
    "wait",
    "attempt",
    "claim",
    "process jobs.default.medium",
    "prepare",
    "publish jobs.events",
    "process jobs.events",
    "ledger failed",
];

#[test]
fn every_job_has_one_trace_from_its_publisher_to_its_end() {
    run(async {
        let collector = Collector::start().await?;
        let (grpc, http) = (format!("https://{}", collector.grpc), format!("https://{}", collector.http));
        let authority = collector.authority().display().to_string();
        let headers = format!("{}={}", HEADER.0, HEADER.1);
        let to_http = [
            ("FFPOOL_SLOTS", "1"),
            ("FFPOOL_OTLP_ENDPOINT", &http),
            ("FFPOOL_OTLP_CA_FILE", &authority),
            ("FFPOOL_OTLP_HEADERS", &headers),
        ];
        let mut settings = PoolSettings::one_worker(&[&to_http[..], &[("FFPOOL_TRACE_RATIO", "0")]].concat());
        let to_grpc = [
            ("FFPOOL_OTLP_ENDPOINT", grpc.as_str()),
            ("FFPOOL_OTLP_PROTOCOL", "grpc"),
            ("FFPOOL_OTLP_CA_FILE", &authority),
            ("FFPOOL_OTLP_HEADERS", &headers),
            ("FFPOOL_TRACE_RATIO", "0"),
        ];
        for (name, value) in to_grpc {
            settings = settings.dispatcher(name, value);
        }
        let mut pool = pool(settings).await?;
        let output = |name: &str| pool.media.join(name).display().to_string();
        let (good, twice) = (quick(&output("amqp.mp4")), long(&output("http.mp4")));
        let (unseen, mut bad) = (quick(&output("unseen.mp4")), quick(&output("bad.mp4")));
        bad.input = Some(output("absent.mp4"));
        bad.max_retries = 0;

        // Neither in the share nor a failure.
        let unseen = pool.client.submit(&unseen).await?.id;
        pool.until_ended(unseen, BOUND).await?;

        publish(&pool.amqp_url, &good, &format!("00-{BY_AMQP}-{PUBLISHER}-01")).await?;
        let names: Vec<&str> = WHOLE.iter().map(|(name, ..)| *name).collect();
        let whole = collector.until(BY_AMQP, &names).await;
        check_whole(&whole);
        let expected = format!("# {{trace_id=\"{BY_AMQP}\"");
        for (part, series) in
            [(&pool.dispatchers[0], "ffpool_queue_wait_seconds"), (&pool.workers[0], "ffpool_worker_attempt_seconds")]
        {
            let text = open_metrics(part.metrics).await?;
            let has_it = text.lines().any(|line| line.starts_with(series) && line.contains(&expected));
            assert!(has_it && text.ends_with("# EOF\n"), "no exemplar of {series}: {text}");
        }

        // Not in the share, but a failure.
        let failed = pool.client.submit(&bad).await?.id;
        let spans = collector.until(&own_trace(failed), FAILED).await;
        let by_name = one_of_each(&spans);
        for name in ["job", "attempt", "process jobs.default.medium"] {
            assert!(by_name[name].failed, "{:#?}", by_name[name]);
            assert_eq!(by_name[name].attributes["error.type"], "input_missing");
        }
        assert_eq!(by_name["job"].parent, by_name["POST /v1/jobs"].id, "the request that handed it in");
        assert_eq!(by_name["POST /v1/jobs"].parent, "");

        // Its first worker is killed.
        let traceparent = format!("00-{BY_HTTP}-{PUBLISHER}-01");
        let (submitted, _) = pool.client.submit_within(&twice, Some(&traceparent)).await?;
        pool.until(submitted.id, BOUND, encoding).await?;
        pool.restart_worker(0).await?;
        pool.until(submitted.id, BOUND, |view| view.attempt == 2 && view.state == State::Running).await?;
        pool.client.cancel(submitted.id).await?;
        let detail = pool.until_ended(submitted.id, BOUND).await?;
        assert_eq!((detail.job.state, detail.job.attempt), (State::Cancelled, 2), "{detail:#?}\n{}", pool.logs());
        collector.until(BY_HTTP, &["job", "publish jobs.default.medium", "process jobs.events"]).await;
        check_second_attempt(&collector, BY_HTTP).await;

        let unseen = collector.heard.of(&own_trace(unseen));
        assert!(unseen.is_empty(), "what is not in the share and ended well is not told: {unseen:#?}");
        Ok(())
    });
}

/// As any client of AMQP would.
async fn publish(url: &str, spec: &JobSpec, traceparent: &str) -> anyhow::Result<()> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut headers = FieldTable::default();
    headers.insert("traceparent".into(), AMQPValue::LongString(traceparent.into()));
    let properties = BasicProperties::default().with_headers(headers).with_delivery_mode(2);
    let body = serde_json::to_vec(spec)?;
    let options = BasicPublishOptions::default();
    channel.basic_publish("jobs.default".into(), "medium".into(), options, &body, properties).await?.await?;
    connection.close(200, "done".into()).await?;
    Ok(())
}

/// What a scraper gets that takes OpenMetrics.
async fn open_metrics(address: SocketAddr) -> anyhow::Result<String> {
    let request = reqwest::Client::new().get(format!("http://{address}/metrics"));
    let request = request.header("accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
    Ok(request.send().await?.error_for_status()?.text().await?)
}

/// The trace of a job that came without one.
fn own_trace(job: JobId) -> String {
    job.to_string().replace('-', "")
}

fn one_of_each(spans: &[Seen]) -> BTreeMap<&str, &Seen> {
    let by_name: BTreeMap<&str, &Seen> = spans.iter().map(|span| (span.name.as_str(), span)).collect();
    assert_eq!(by_name.len(), spans.len(), "one span of each name is expected: {spans:#?}");
    by_name
}

fn check_whole(spans: &[Seen]) {
    let by_name = one_of_each(spans);
    for (name, service, kind, parent) in WHOLE {
        let span = by_name[name];
        assert_eq!((span.service.as_str(), span.kind), (*service, *kind), "{name}");
        let parent = by_name.get(parent).map_or(PUBLISHER, |parent| parent.id.as_str());
        assert_eq!(span.parent, parent, "what {name} stands below: {spans:#?}");
        assert!(span.start <= span.end && !span.failed, "{span:#?}");
        let by = if *service == "ffpool-worker" { "http" } else { "grpc" };
        assert_eq!(span.by, by, "{name}");
    }
    assert_eq!(spans.len(), WHOLE.len(), "no others: {spans:#?}");

    // No gap: the job waits from its recording to its claim and is attempted from then to its end, to the microsecond in which
    // Postgres counts.
    let (job, wait, attempt) = (by_name["job"], by_name["wait"], by_name["attempt"]);
    for (one, other) in [(job.start, wait.start), (wait.end, attempt.start), (attempt.end, job.end)] {
        assert!(one.abs_diff(other) <= 2_000, "{one} and {other}: {spans:#?}");
    }
    let phases = ["prepare", "encode", "verify", "publish"].map(|name| by_name[name]);
    for pair in phases.windows(2) {
        assert!(pair[0].end <= pair[1].start, "{pair:#?}");
    }
    let text = format!("{spans:?}");
    for secret in ["ffmpeg", "amqp.mp4", "SELECT", "UPDATE", "password"] {
        assert!(!text.contains(secret), "{secret} is in {text}");
    }
}

async fn check_second_attempt(collector: &Collector, trace: &str) {
    let end = Instant::now() + BOUND;
    let attempts = loop {
        let spans = collector.heard.of(trace);
        let mut attempts: Vec<Seen> = spans.iter().filter(|span| span.name == "attempt").cloned().collect();
        attempts.sort_by_key(|span| span.start);
        if attempts.len() == 2 {
            break attempts;
        }
        assert!(Instant::now() < end, "two attempts are expected: {spans:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let [first, second] = &attempts[..] else { unreachable!("two were counted") };
    assert_eq!(first.attributes["ffpool.outcome"], "lapsed", "told by the ledger: its worker is dead");
    assert!(first.failed && !second.failed);
    assert!(first.links.is_empty());
    assert_eq!(second.links, [first.id.as_str()], "{second:#?}");
    let spans = collector.heard.of(trace);
    let jobs: Vec<&Seen> = spans.iter().filter(|span| span.name == "job").collect();
    assert_eq!(jobs.len(), 1, "{spans:#?}");
    assert!(attempts.iter().all(|attempt| attempt.parent == jobs[0].id));
    let request = spans.iter().find(|span| span.name == "POST /v1/jobs").expect("it was handed in by HTTP");
    assert_eq!((jobs[0].parent.as_str(), request.parent.as_str()), (request.id.as_str(), PUBLISHER));
    let waits = spans.iter().filter(|span| span.name == "wait").count();
    assert_eq!(waits, 2, "one for each attempt: {spans:#?}");
    assert!(spans.len() < 40, "{} spans: {spans:#?}", spans.len());
}

#[test]
fn the_page_about_traces_lists_every_span() {
    let page = include_str!("../../../docs/tracing.md");
    for (name, service, kind, _) in WHOLE {
        let (_, made_by) = service.split_once('-').expect("services are called ffpool-something");
        let kind = match *kind {
            INTERNAL => "internal",
            SERVER => "server",
            CLIENT => "client",
            PRODUCER => "producer",
            CONSUMER => "consumer",
            other => panic!("{name} has the kind {other}"),
        };
        let row = format!("| `{name}` | {made_by} | {kind} |");
        assert!(page.contains(&row), "docs/tracing.md lacks the row {row}");
    }
    assert!(page.contains(&format!("has these {}", WHOLE.len())), "docs/tracing.md says how many spans there are");
}
