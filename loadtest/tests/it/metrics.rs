//! What a dispatcher and a worker that work really show: valid, complete, and nothing that is not in the table.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ffpool_loadtest::pool::{Part, Pool, PoolSettings, binary_path, free_address};
use ffpool_schema::job::JobSpec;
use ffpool_schema::lifecycle::State;
use ffpool_schema::metrics::{self as names, ALL, Kind, Metric, Process, Shown};

use crate::support::{BOUND, SMALL, pool, quick, run};

/// What one job that succeeds and one that fails make happen, at a dispatcher with prices.
const MADE_TO_HAPPEN: &[&str] = &[
    names::JOBS_RECORDED,
    names::JOBS_ENDED,
    names::ATTEMPTS_ENDED,
    names::FAILURES,
    names::CLAIMS,
    names::CLAIM_SECONDS,
    names::LEDGER_BATCH_SIZE,
    names::LEDGER_BATCH_SECONDS,
    names::QUEUE_WAIT_SECONDS,
    names::JOB_RUN_SECONDS,
    names::ATTEMPT_CPU_SECONDS,
    names::ATTEMPT_COST,
    names::PUBLISHED,
    names::HTTP_REQUESTS,
    names::HTTP_SECONDS,
    names::WORKER_ATTEMPTS,
    names::WORKER_ATTEMPT_SECONDS,
];

/// One line of an exposition.
struct Sample {
    series: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

#[test]
fn everything_that_is_shown_is_in_the_table_and_everything_of_the_table_is_shown() {
    run(async {
        let settings = PoolSettings::one_worker(SMALL).dispatcher("FFPOOL_PRICE_CORE_HOUR", "0.04");
        let pool = pool(settings).await?;
        let good = pool.client.submit(&quick(&pool.media.join("good.mp4").display().to_string())).await?.id;
        let mut bad: JobSpec = quick(&pool.media.join("bad.mp4").display().to_string());
        bad.input = Some(pool.media.join("absent.mp4").display().to_string());
        let bad = pool.client.submit(&bad).await?.id;
        for (job, end) in [(good, State::Completed), (bad, State::Failed)] {
            let detail = pool.until_ended(job, BOUND).await?;
            assert_eq!(detail.job.state, end, "{detail:#?}\n{}", pool.logs());
        }
        tokio::task::block_in_place(|| {
            hold(&pool, &pool.dispatchers[0], Process::Dispatcher);
            hold(&pool, &pool.workers[0], Process::Worker);
            tells_its_health(&pool);
        });
        Ok(())
    });
}

/// `ffpool-dispatcher health`, with the settings of the dispatcher that runs and with those of one that does not.
fn tells_its_health(pool: &Pool) {
    let asked = |api: &str| {
        let mut command = Command::new(binary_path("ffpool-dispatcher").unwrap());
        command.arg("health").env_clear().env("FFPOOL_API_ADDR", api);
        command.env("FFPOOL_METRICS_ADDR", pool.dispatchers[0].metrics.to_string());
        for (name, url) in [
            ("FFPOOL_AMQP_URL", &pool.amqp_url),
            ("FFPOOL_NATS_URL", &pool.nats_url),
            ("FFPOOL_DATABASE_URL", &pool.database_url),
        ] {
            command.env(name, url);
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), said)
    };
    let (code, said) = asked(pool.api_url.trim_start_matches("http://"));
    assert!(code == Some(0) && said.contains("postgres: ok"), "{code:?} {said}");
    let (code, said) = asked(&free_address().to_string());
    assert!(code == Some(1) && said.contains("the API does not listen"), "{code:?} {said}");
}

/// Holds what a part shows against the table.
fn hold(pool: &Pool, part: &Part, process: Process) {
    let expected: BTreeSet<&str> = ALL
        .iter()
        .filter(|metric| [process, Process::Both].contains(&metric.process()))
        .filter(|metric| metric.shown != Shown::Once || MADE_TO_HAPPEN.contains(&metric.name))
        .map(|metric| metric.name)
        .collect();
    let text = until_shown(pool, part, &expected);
    lint(&text);
    let types: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    for sample in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(sample) {
        let metric = metric_of(&sample.series).unwrap_or_else(|| panic!("`{}` is not in the table", sample.series));
        assert!([process, Process::Both].contains(&metric.process()), "{process:?} shows {}", metric.name);
        assert_eq!(types.get(metric.name), Some(&metric.kind.as_str()), "{}", metric.name);
        let labels: BTreeSet<&str> = sample.labels.keys().map(String::as_str).filter(|label| *label != "le").collect();
        assert_eq!(labels, metric.labels.iter().copied().collect(), "{}", metric.name);
        for (label, values) in metric.labels.iter().zip(metric.values) {
            let value = sample.labels[*label].as_str();
            let is_known = values.is_none_or(|values| values().contains(&value));
            assert!(is_known, "{}: schema/src/metrics/sets.rs lacks {label}=\"{value}\"", metric.name);
        }
        assert!(sample.value.is_finite(), "{} is {}", sample.series, sample.value);
    }
}

fn until_shown(pool: &Pool, part: &Part, expected: &BTreeSet<&str>) -> String {
    let end = Instant::now() + BOUND;
    loop {
        let text = scrape(part.metrics);
        let shown: BTreeSet<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let missing: Vec<&&str> = expected.difference(&shown).collect();
        if missing.is_empty() {
            return text;
        }
        assert!(Instant::now() < end, "{} does not show {missing:?}; it shows\n{text}\n{}", part.name(), pool.logs());
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn metric_of(series: &str) -> Option<&'static Metric> {
    ALL.iter().find(|metric| {
        metric.name == series && metric.kind != Kind::Histogram || metric.series().any(|name| name == series)
    })
}

/// Reads `name{label="value",…} number`; no value of ours holds a quote or a comma.
fn sample(line: &str) -> Sample {
    let (head, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
    let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
    let (series, labels) = head.split_once('{').unwrap_or((head, "}"));
    let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
    let labels = labels.map(|label| {
        let (name, value) = label.split_once('=').unwrap_or_else(|| panic!("no label: {line}"));
        (name.to_owned(), value.trim_matches('"').to_owned())
    });
    Sample { series: series.to_owned(), labels: labels.collect(), value }
}

fn scrape(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).expect("the metrics are served");
    stream.set_read_timeout(Some(BOUND)).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the metrics are text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer of HTTP");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_owned()
}

/// Lets Prometheus' own tool judge an exposition.
fn lint(text: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("promtool cannot be run ({error}): apt-get install prometheus"));
    promtool.stdin.take().expect("it is piped").write_all(text.as_bytes()).expect("promtool reads it all");
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool: {}\n{text}", String::from_utf8_lossy(&said));
}
