//! How fast the pool is when the jobs cost nothing: throughput end to end, and the latency of an idle pool.
//!
//! Every job goes through the whole protocol: durable publish with confirm, tap, claim, consent, durable event,
//! acknowledgement. A job counts when its row in the ledger says `completed`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ffpool::AmqpProducer;
use ffpool_schema::job::{Engine, JobSpec, Queue};
use ffpool_schema::parse::Encoding;
use ffpool_stack::Stack;
use hdrhistogram::Histogram;
use tokio::sync::Semaphore;

use crate::pool::{Pool, PoolSettings};
use crate::raw;

/// Between two probes: long enough for a worker to have become idle.
const IDLE: Duration = Duration::from_millis(100);

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
pub struct BaselineArgs {
    /// Jobs of the throughput run.
    #[arg(long, default_value_t = 10_000)]
    pub jobs: usize,
    /// Jobs of the latency run, one at a time on an idle pool.
    #[arg(long, default_value_t = 300)]
    pub probes: usize,
    /// Slots of the worker.
    #[arg(long, default_value_t = 128)]
    pub slots: u32,
    /// Publishes that may wait for their confirm.
    #[arg(long, default_value_t = 256)]
    pub window: usize,
}

/// The figures of one run.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Figures {
    /// Version of the broker.
    pub broker: String,
    /// No-op jobs per second end to end.
    pub jobs_per_second: f64,
    /// Messages per second of the broker's client alone.
    pub raw_messages_per_second: f64,
    /// The first as a share of the second.
    pub ratio: f64,
    /// Publish to start on an idle pool, in milliseconds.
    pub start_p50_ms: f64,
    /// The same, 99 in 100 are faster.
    pub start_p99_ms: f64,
    /// Publish to `completed` in the ledger on an idle pool, in milliseconds.
    pub done_p50_ms: f64,
    /// The same, 99 in 100 are faster.
    pub done_p99_ms: f64,
}

/// Measures on a private stack.
///
/// # Errors
/// When a part fails, or a job is lost or doubled.
pub async fn run(args: &BaselineArgs) -> anyhow::Result<Figures> {
    let stack = tokio::task::spawn_blocking(Stack::start).await?.context("start the servers")?;
    // The pool wants its servers for the life of the process, and this process ends with the measurement.
    let stack: &'static Stack = Box::leak(Box::new(stack));
    let slots = args.slots.to_string();
    let worker = [("FFPOOL_ALLOW_NOOP", "true"), ("FFPOOL_SLOTS", slots.as_str()), ("FFPOOL_CGROUPS", "off")];
    let settings = PoolSettings::one_worker(&worker).dispatcher("FFPOOL_LOG", "warn");
    let pool = Pool::start(stack, settings).await?;
    let mut spec = JobSpec::new("custom-input");
    spec.engine = Engine::Noop;
    spec.queue = Queue::Default;
    let producer = Arc::new(AmqpProducer::open(pool.amqp_url.clone()));

    warm_up(&producer, &pool, &spec, args.window).await?;
    let (start, done) = latency(&producer, &pool, &spec, args.probes).await?;
    let jobs_per_second = throughput(&producer, &pool, &spec, args.jobs, args.window).await?;
    drop(pool);
    let body = serde_json::to_vec(&spec)?;
    let raw_messages_per_second = raw::messages_per_second(&stack.rabbit.new_vhost(), args.jobs, &body).await?;
    let millis = |histogram: &Histogram<u64>, quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Figures {
        broker: stack.rabbit.version().to_owned(),
        jobs_per_second,
        raw_messages_per_second,
        ratio: jobs_per_second / raw_messages_per_second,
        start_p50_ms: millis(&start, 0.5),
        start_p99_ms: millis(&start, 0.99),
        done_p50_ms: millis(&done, 0.5),
        done_p99_ms: millis(&done, 0.99),
    })
}

async fn warm_up(producer: &Arc<AmqpProducer>, pool: &Pool, spec: &JobSpec, window: usize) -> anyhow::Result<()> {
    throughput(producer, pool, spec, 500, window).await.map(drop)
}

/// Publishes `count` jobs as fast as confirms allow and waits until the ledger has completed them all.
async fn throughput(
    producer: &Arc<AmqpProducer>,
    pool: &Pool,
    spec: &JobSpec,
    count: usize,
    window: usize,
) -> anyhow::Result<f64> {
    let mut ledger = Ledger::open(pool).await?;
    let before = ledger.completed().await?;
    let permits = Arc::new(Semaphore::new(window));
    let mut publishes = tokio::task::JoinSet::new();
    let begin = Instant::now();
    for _ in 0..count {
        let permit = Arc::clone(&permits).acquire_owned().await?;
        let (producer, spec) = (Arc::clone(producer), spec.clone());
        publishes.spawn(async move {
            let published = producer.publish(&spec, Encoding::Json, None).await;
            drop(permit);
            published
        });
    }
    while let Some(published) = publishes.join_next().await {
        published??;
    }
    let bound = Duration::from_secs(60) + Duration::from_millis(20) * u32::try_from(count)?;
    loop {
        let completed = ledger.completed().await? - before;
        if completed >= i64::try_from(count)? {
            let rate = count as f64 / begin.elapsed().as_secs_f64();
            let rows = ledger.rows().await?;
            if completed != i64::try_from(count)? || rows != ledger.completed().await? {
                bail!("{count} jobs were published, {completed} completed, {rows} rows stand in the ledger");
            }
            return Ok(rate);
        }
        if begin.elapsed() > bound {
            bail!("only {completed} of {count} jobs completed within {bound:?}\n{}", pool.logs());
        }
        // Counting reads the whole table: done too often it would be what is measured.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Publishes one job at a time on an idle pool. The start is the ledger's time of the attempt's beginning; all run on
/// one machine, so there is one clock.
async fn latency(
    producer: &Arc<AmqpProducer>,
    pool: &Pool,
    spec: &JobSpec,
    count: usize,
) -> anyhow::Result<(Histogram<u64>, Histogram<u64>)> {
    let mut start = Histogram::new(3)?;
    let mut done = Histogram::new(3)?;
    let mut ledger = Ledger::open(pool).await?;
    for _ in 0..count {
        let begin = jiff::Timestamp::now();
        let job = producer.publish(spec, Encoding::Json, None).await?;
        let end = Instant::now() + Duration::from_secs(30);
        let (started, ended) = loop {
            if let Some(times) = ledger.times(job.0).await? {
                break times;
            }
            if Instant::now() > end {
                bail!("job {job} has not completed within 30 s\n{}", pool.logs());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        let micros = |at: jiff::Timestamp| u64::try_from((at.as_microsecond() - begin.as_microsecond()).max(1));
        start.record(micros(started)?)?;
        done.record(micros(ended)?)?;
        // The worker must be idle again before the next: its consumers are armed 30 ms after its last work.
        tokio::time::sleep(IDLE).await;
    }
    Ok((start, done))
}

/// The ledger as it is: counted in the database itself, not in what the API says of it.
struct Ledger {
    /// `None` only while it is dropped.
    client: Option<Arc<std::sync::Mutex<postgres::Client>>>,
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // The blocking client waits for its own runtime, which is not allowed inside another.
        let client = self.client.take();
        std::thread::spawn(move || drop(client));
    }
}

impl Ledger {
    async fn open(pool: &Pool) -> anyhow::Result<Ledger> {
        let url = pool.database_url.clone();
        let client = tokio::task::spawn_blocking(move || postgres::Client::connect(&url, postgres::NoTls)).await??;
        Ok(Ledger { client: Some(Arc::new(std::sync::Mutex::new(client))) })
    }

    async fn with<T: Send + 'static>(
        &mut self,
        ask: impl FnOnce(&mut postgres::Client) -> Result<T, postgres::Error> + Send + 'static,
    ) -> anyhow::Result<T> {
        let client = self.client.clone().expect("only a drop takes it");
        let answer = tokio::task::spawn_blocking(move || {
            let mut client = client.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            ask(&mut client)
        });
        Ok(answer.await??)
    }

    async fn completed(&mut self) -> anyhow::Result<i64> {
        self.with(|client| Ok(client.query_one("SELECT count(*) FROM job WHERE state = 'completed'", &[])?.get(0)))
            .await
    }

    async fn rows(&mut self) -> anyhow::Result<i64> {
        self.with(|client| Ok(client.query_one("SELECT count(*) FROM job", &[])?.get(0))).await
    }

    /// When a completed job was started and when it ended.
    async fn times(&mut self, job: uuid::Uuid) -> anyhow::Result<Option<(jiff::Timestamp, jiff::Timestamp)>> {
        let query = "SELECT started_at, ended_at FROM job WHERE id = $1 AND state = 'completed'";
        self.with(move |client| Ok(client.query_opt(query, &[&job])?.map(|row| (row.get(0), row.get(1))))).await
    }
}
