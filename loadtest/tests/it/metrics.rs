//! What a dispatcher and a worker that work really show: valid, complete, and nothing that is not in the table.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ffpool_loadtest::pool::{Part, Pool, PoolSettings, binary_path, free_address};
use ffpool_runtime::tls::{Authority, Wanted, write_over};
use ffpool_schema::job::JobSpec;
use ffpool_schema::lifecycle::State;
use ffpool_schema::metrics::{self as names, ALL, Kind, Metric, Process, Shown};
use ffpool_stack::{Stack, Tls};

use crate::support::{BOUND, SMALL, pool, quick, run};

/// What one job that succeeds and one that fails make happen, at a dispatcher with prices.
const MADE_TO_HAPPEN: &[&str] = &[
    names::JOBS_RECORDED,
    names::JOBS_ENDED,
    names::ATTEMPTS_ENDED,
    names::FAILURES,
    names::RETRIES,
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
    names::WORKER_IN_USE_CPU_SECONDS,
    names::WORKER_IN_USE_MEMORY_BYTES,
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
            counts_the_retry(&pool);
            tells_its_health(&pool);
        });
        Ok(())
    });
}

/// A process of the test's own.
struct Own(Child);

impl Own {
    fn start(binary: &str, log: &Path, variables: &[(&str, String)]) -> Own {
        let log = std::fs::File::create(log).unwrap();
        // Ends with the thread of its test at the latest.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(binary_path(binary).unwrap());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(variables.iter().map(|(name, value)| (*name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Own(command.spawn().expect("setpriv is of the Debian package util-linux"))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn dispatchers_and_workers_show_when_the_certificates_of_their_links_end() {
    ffpool_runtime::install_crypto();
    let folder = tempfile::tempdir().unwrap();
    // The tools run as an unprivileged user and must reach their scratch.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let (authority, _) = Authority::open_or_create(&folder.path().join("ca"), "ours").unwrap();
    let issue = |days: u64| {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let life = Duration::from_secs(days * 24 * 3600);
        let wanted = Wanted { common_name: "link".to_owned(), names, is_server: true, is_client: true, life };
        authority.issue(&wanted).unwrap()
    };
    let client = |days: u64| {
        let (issued, path) = (issue(days), folder.path().join(format!("{days}.pem")));
        write_over(&path, &format!("{}{}", issued.certificate, issued.key), true).unwrap();
        path.display().to_string()
    };
    let (server, ca) = (issue(365), authority.path().display().to_string());
    let tls = Tls {
        authority: std::fs::read_to_string(authority.path()).unwrap(),
        certificate: server.certificate,
        key: server.key,
    };
    let stack = Stack::builder().tls(tls).start().unwrap();
    let query = |days| format!("cacertfile={ca}&certfile={0}&keyfile={0}", client(days));
    let amqp = format!("amqps://guest:guest@{}/%2f?{}", stack.rabbit.tls_address(), query(40));
    let nats = format!("{}?{}", stack.nats.url(), query(50));
    let database = format!("{}?sslmode=verify-full&sslrootcert={ca}&sslcert={}", stack.postgres.url(), client(60));
    let mine = |name: &str| folder.path().join(name).display().to_string();
    let (of_dispatcher, of_worker) = (free_address(), free_address());
    let links = |metrics: SocketAddr| {
        [
            ("FFPOOL_AMQP_URL", amqp.clone()),
            ("FFPOOL_NATS_URL", nats.clone()),
            ("FFPOOL_METRICS_ADDR", metrics.to_string()),
            ("HOME", mine("home")),
        ]
    };
    let dispatcher = [
        ("FFPOOL_DATABASE_URL", database),
        ("FFPOOL_API_ADDR", free_address().to_string()),
        ("FFPOOL_API_TLS", "off".to_owned()),
        ("FFPOOL_STATE_DIR", mine("state")),
    ];
    let worker = [
        ("FFPOOL_WORKER_ID", format!("links-{}", std::process::id())),
        ("FFPOOL_MEDIA_ROOTS", folder.path().display().to_string()),
        ("FFPOOL_SCRATCH", mine("scratch")),
        ("FFPOOL_GSTREAMER", "off".to_owned()),
    ];
    let (its_log, their_log) = (folder.path().join("dispatcher.log"), folder.path().join("worker.log"));
    let _dispatcher =
        Own::start("ffpool-dispatcher", &its_log, &[links(of_dispatcher).as_slice(), &dispatcher].concat());
    let _worker = Own::start("ffpool-worker", &their_log, &[links(of_worker).as_slice(), &worker].concat());
    let own = [("amqp", 40), ("nats", 50), ("postgres", 60)];
    for (address, log, servers) in [(of_dispatcher, &its_log, &own[..]), (of_worker, &their_log, &own[..2])] {
        let end = Instant::now() + BOUND;
        let missing = |shown: &[Sample]| {
            let is_shown = |name: &str, label: &str, value: &str, good: &dyn Fn(f64) -> bool| {
                shown.iter().any(|one| one.series == name && one.labels[label] == value && good(one.value))
            };
            let lacks = |(server, days): &(&str, i32)| {
                let days_left = |value: f64| (value / 86400.0).round();
                let ends = names::CERTIFICATE_EXPIRES_SECONDS;
                // The link stands, so the certificates are the ones that it goes by.
                !(is_shown(names::LINK_UP, "server", server, &|up| up == 1.0)
                    && is_shown(ends, "certificate", server, &|left| days_left(left) == f64::from(*days))
                    && is_shown(ends, "certificate", &format!("{server}-ca"), &|left| days_left(left) > 365.0))
            };
            servers.iter().copied().filter(lacks).collect::<Vec<_>>()
        };
        let shown = loop {
            let text = try_scrape(address).unwrap_or_default();
            let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
            let shown: Vec<Sample> = lines.map(sample).collect();
            let missing = missing(&shown);
            if missing.is_empty() {
                break shown;
            }
            let log = || std::fs::read_to_string(log).unwrap_or_default();
            assert!(Instant::now() < end, "of {missing:?} something is not shown:\n{text}\n{}", log());
            std::thread::sleep(Duration::from_millis(100));
        };
        let ends = shown.iter().filter(|one| one.series == names::CERTIFICATE_EXPIRES_SECONDS);
        assert_eq!(ends.count(), 2 * servers.len(), "each of a link, and no other");
    }
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

/// An input that is missing is tried for once more: of two failures one is a retry.
fn counts_the_retry(pool: &Pool) {
    let end = Instant::now() + BOUND;
    loop {
        let text = scrape(pool.dispatchers[0].metrics);
        let samples = text.lines().filter(|line| line.contains("cause=\"input_missing\"")).map(sample);
        let counted: BTreeMap<String, f64> = samples.map(|one| (one.series, one.value)).collect();
        let expected = [(names::FAILURES, 2.0), (names::RETRIES, 1.0)].map(|(name, count)| (name.to_owned(), count));
        if counted == BTreeMap::from(expected) {
            return;
        }
        assert!(Instant::now() < end, "{counted:?}");
        std::thread::sleep(Duration::from_millis(50));
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
    try_scrape(address).expect("the metrics are served")
}

/// `None` where nobody listens.
fn try_scrape(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(BOUND)).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the metrics are text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer of HTTP");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    Some(body.to_owned())
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
