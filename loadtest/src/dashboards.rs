//! Every query of every dashboard and alert, asked of a real Prometheus that has watched a pool under a mixed load.
//!
//! Invariant: a query that comes back empty is wrong, unless what it names is shown by nothing on this machine and stands in
//! `exceptions` with the reason; what stands there and is shown all the same has to be as full as the others.

mod deeds;
mod exceptions;
mod prometheus;
mod queries;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ffpool_stack::Stack;
use tokio::sync::watch;

use crate::chaos::load::{self, Rate};
use crate::pool::{Pool, PoolSettings};
use deeds::Receiver;
use exceptions::{Exception, NEVER_HERE};
use prometheus::{Prometheus, Reading};
use queries::{Query, selectors};

/// How often Prometheus looks, and how often it evaluates the rules.
const SCRAPE_SECS: u32 = 2;
/// Jobs that are sent all the while: no-op jobs and encodes a second, and seconds of film in each of these.
const RATE: Rate = Rate { jobs: 2.0, encodes: 0.2, length: Some(10.0), cpu_percent: 50 };

/// What is run.
#[derive(Debug, Clone, clap::Args)]
pub struct DashboardsArgs {
    /// Seconds of load.
    #[arg(long, default_value_t = 120)]
    pub secs: u64,
    /// The folder with `grafana/dashboards` and `prometheus/rules.yaml`.
    #[arg(long, value_name = "DIR", default_value = "compose")]
    pub compose: PathBuf,
}

/// What became of the queries.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    /// Seconds of load.
    pub secs: f64,
    /// Jobs that the load sent, besides those of which something is made.
    pub jobs: usize,
    /// Dashboards.
    pub dashboards: usize,
    /// Their queries.
    pub queries: usize,
    /// Queries whose every value is 0.
    pub flat: Vec<String>,
    /// Alerts.
    pub alerts: usize,
    /// Selectors of series in the alerts.
    pub selectors: usize,
    /// Queries that are empty as they must be here, and why.
    pub excepted: Vec<(String, String)>,
    /// What is not as it should be.
    pub wrong: Vec<String>,
}

impl Report {
    /// Whether no query was empty without a reason.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.wrong.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { secs, jobs, dashboards, queries, alerts, selectors, .. } = self;
        writeln!(f, "{secs:.0} s of load, {jobs} jobs and what was done to others")?;
        writeln!(f, "{queries} queries of {dashboards} dashboards, {selectors} selectors of {alerts} alerts")?;
        for (query, why) in &self.excepted {
            writeln!(f, "empty as it must be here, {why}: {query}")?;
        }
        for query in &self.flat {
            writeln!(f, "nothing but 0: {query}")?;
        }
        for wrong in &self.wrong {
            writeln!(f, "WRONG: {wrong}")?;
        }
        Ok(())
    }
}

/// Runs the load on a private stack and asks every query.
///
/// # Errors
/// When a part does not run, or something that the load does to a job does not come about.
pub async fn run(args: &DashboardsArgs) -> anyhow::Result<Report> {
    let queries = queries::of_dashboards(&args.compose.join("grafana/dashboards"))?;
    let stack = tokio::task::spawn_blocking(Stack::start).await?.context("start the servers")?;
    // The pool wants its servers for the life of the process, and this process ends with the check.
    let stack: &'static Stack = Box::leak(Box::new(stack));
    let mut pool = Pool::start(stack, settings()).await?;
    pool.add_dispatcher().await?;
    let prometheus = Prometheus::start(&pool, &rules(&args.compose)?).await?;
    let (began, jobs) = load_all(args, &mut pool, &prometheus).await?;
    let mut report = Report {
        secs: began.elapsed().as_secs_f64(),
        jobs,
        dashboards: queries.dashboards,
        queries: queries.all.len(),
        flat: Vec::new(),
        alerts: 0,
        selectors: 0,
        excepted: Vec::new(),
        wrong: Vec::new(),
    };
    let judge = Judge { prometheus: &prometheus, secs: began.elapsed().as_secs() };
    for query in &queries.all {
        judge.query(query, &mut report).await?;
    }
    judge.alerts(&mut report).await?;
    judge.exceptions(&queries.all, &mut report).await?;
    Ok(report)
}

/// Two workers, and a dispatcher with prices, callbacks and TLS.
fn settings() -> PoolSettings {
    let worker = [
        ("FFPOOL_SLOTS", "3"),
        ("FFPOOL_ALLOW_NOOP", "true"),
        ("FFPOOL_DRAIN_SECS", "1"),
        ("FFPOOL_FETCH_ALLOW", "127.0.0.0/8"),
    ];
    PoolSettings::one_worker(&worker)
        .worker(&worker)
        .with_tls()
        .dispatcher("FFPOOL_PRICE_CORE_HOUR", "0.04")
        .dispatcher("FFPOOL_CALLBACK_SECRET", "check:a-secret-of-the-check")
        .dispatcher("FFPOOL_CALLBACK_ALLOW", "127.0.0.0/8")
}

fn rules(compose: &Path) -> anyhow::Result<PathBuf> {
    let path = compose.join("prometheus/rules.yaml");
    path.canonicalize().with_context(|| format!("{} is not there", path.display()))
}

/// The steady load, and everything else that happens to jobs, one after the other and then until the time is over. Says when
/// it began, and how many jobs were sent.
async fn load_all(args: &DashboardsArgs, pool: &mut Pool, prometheus: &Prometheus) -> anyhow::Result<(Instant, usize)> {
    let receiver = Receiver::open().await?;
    let (stop, stopped) = watch::channel(false);
    let began = Instant::now();
    let record = pool.directory().join("published");
    let load = tokio::spawn(load::run(pool.amqp_url.clone(), pool.media.clone(), record, RATE, stopped));
    deeds::all(pool, prometheus, &receiver).await?;
    tokio::time::sleep(Duration::from_secs(args.secs).saturating_sub(began.elapsed())).await;
    stop.send_replace(true);
    let sent = load.await??;
    ensure!(sent.doubtful == 0 && sent.left_out == 0, "the broker did not take the load: {sent:?}");
    ensure!(receiver.heard() > 0, "no callback came\n{}", pool.logs());
    Ok((began, sent.confirmed))
}

/// Asks and judges.
struct Judge<'a> {
    prometheus: &'a Prometheus,
    /// How long there has been load.
    secs: u64,
}

impl Judge<'_> {
    /// A panel of numbers shows the last value, every other one the values of its whole time.
    async fn ask(&self, query: &Query, text: &str) -> anyhow::Result<Reading> {
        if query.is_instant { self.prometheus.now(text).await } else { self.prometheus.range(text, self.secs).await }
    }

    async fn query(&self, query: &Query, report: &mut Report) -> anyhow::Result<()> {
        let reading = self.ask(query, &query.text).await?;
        if reading.is_empty() {
            match self.excuse(query).await? {
                Some(why) => report.excepted.push((query.to_string(), why)),
                None => report.wrong.push(format!("empty: {query}")),
            }
        } else if reading.is_flat() {
            report.flat.push(query.to_string());
        }
        Ok(())
    }

    /// Why a query may be empty here.
    async fn excuse(&self, query: &Query) -> anyhow::Result<Option<String>> {
        if let Some(exception) = exceptions::of(&query.text) {
            return Ok(self.is_shown_by_nobody(exception).await?.then(|| exception.why.to_owned()));
        }
        let Some(now) = queries::without_offset(&query.text) else { return Ok(None) };
        let is_there_now = !self.ask(query, &now).await?.is_empty();
        Ok(is_there_now.then(|| "nothing here is a week old".to_owned()))
    }

    async fn is_shown_by_nobody(&self, exception: &Exception) -> anyhow::Result<bool> {
        let all = format!("{{__name__=~\"{}(_bucket|_sum|_count)?\"}}", exception.metric);
        Ok(self.prometheus.range(&all, self.secs).await?.is_empty())
    }

    /// Whether Prometheus evaluates every rule, and whether there is something to be seen by each of its selectors.
    async fn alerts(&self, report: &mut Report) -> anyhow::Result<()> {
        let alerts = self.prometheus.alerts().await?;
        report.alerts = alerts.len();
        for alert in alerts {
            if alert.health != "ok" {
                report.wrong.push(format!("{}: its rule is {}: {}", alert.name, alert.health, alert.error));
            }
            let selectors = selectors(&alert.query);
            ensure!(!selectors.is_empty(), "{} selects nothing: {}", alert.name, alert.query);
            report.selectors += selectors.len();
            for selector in selectors {
                let shown = format!("alert {}: {selector}", alert.name);
                if !self.prometheus.range(&selector, self.secs).await?.is_empty() {
                    continue;
                }
                let never = NEVER_HERE.iter().find(|never| never.selector == selector);
                let why = match (exceptions::of(&selector), never) {
                    (Some(exception), _) => self.is_shown_by_nobody(exception).await?.then_some(exception.why),
                    (None, Some(never)) => {
                        let of_the_name = selector.split('{').next().unwrap_or_default();
                        let is_shown = !self.prometheus.range(of_the_name, self.secs).await?.is_empty();
                        is_shown.then_some(never.why)
                    }
                    (None, None) => None,
                };
                match why {
                    Some(why) => report.excepted.push((shown, why.to_owned())),
                    None => report.wrong.push(format!("empty: {shown}")),
                }
            }
        }
        Ok(())
    }

    /// An exception that nothing needs hides what will be wrong one day.
    async fn exceptions(&self, queries: &[Query], report: &mut Report) -> anyhow::Result<()> {
        let alerts = self.prometheus.alerts().await?;
        let asked: Vec<&str> = queries
            .iter()
            .map(|query| query.text.as_str())
            .chain(alerts.iter().map(|alert| alert.query.as_str()))
            .collect();
        let needless = exceptions::needless(&asked);
        report.wrong.extend(needless.into_iter().map(|metric| format!("no query needs the exception of {metric}")));
        let selected: Vec<String> = alerts.iter().flat_map(|alert| selectors(&alert.query)).collect();
        let needless = exceptions::needless_never(&selected);
        report.wrong.extend(needless.into_iter().map(|selector| format!("no alert has the selector {selector}")));
        Ok(())
    }
}
