//! The load under the faults, and under dashboards: jobs at a steady rate, whatever becomes of the pool, and a record of what
//! was promised.
//!
//! Invariant: a line stands in the record before its job is sent, and another after its confirm; so the record never
//! promises less than the broker did.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ffpool::AmqpProducer;
use ffpool_schema::id::JobId;
use ffpool_schema::job::{Engine, JobSpec, Priority, Queue};
use ffpool_schema::parse::Encoding;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::audit::Published;

/// Publishes that may wait for their confirm. What is due beyond it is left out and counted: a client has a limit too.
const OUTSTANDING: usize = 2_000;
/// How long a job is sent again, under its own id, after the load has ended.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(250);
/// Failures that a job may have: many tools are killed here, and none of that is the job's fault.
const MAX_RETRIES: u32 = 50;

/// How much is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    /// No-op jobs per second.
    pub(crate) jobs: f64,
    /// Encodes per second.
    pub(crate) encodes: f64,
    /// Seconds of film in each; absent, 20, 40 and 60 in turn.
    pub(crate) length: Option<f64>,
    /// What each may use of a processor, in per cent.
    pub(crate) cpu_percent: u32,
}

/// What came of the load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) confirmed: usize,
    /// Sent, and never confirmed.
    pub(crate) doubtful: usize,
    /// Due and not sent, because too many waited for their confirm.
    pub(crate) left_out: usize,
}

/// The publisher's record on disk.
struct Record(Mutex<File>);

impl Record {
    fn write(&self, published: &Published) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(published)?;
        line.push(b'\n');
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line).context("write the publisher's record")
    }
}

/// Sends jobs of all queues and priorities until `stop` says so, and then waits for the confirms that are missing.
pub(crate) async fn run(
    amqp_url: String,
    media: PathBuf,
    record: PathBuf,
    rate: Rate,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<Sent> {
    let record = Arc::new(Record(Mutex::new(File::create(&record)?)));
    let producer = Arc::new(AmqpProducer::open(amqp_url));
    let permits = Arc::new(Semaphore::new(OUTSTANDING));
    let (mut jobs, mut sent) = (JoinSet::new(), Sent::default());
    let begin = Instant::now();
    let (mut noops, mut encodes) = (0_u32, 0_u32);
    while !*stop.borrow() {
        let elapsed = begin.elapsed().as_secs_f64();
        let mut due = Vec::new();
        while f64::from(noops) < rate.jobs * elapsed {
            due.push(noop(noops));
            noops += 1;
        }
        while f64::from(encodes) < rate.encodes * elapsed {
            due.push(encode(encodes, rate, &media));
            encodes += 1;
        }
        for spec in due {
            match Arc::clone(&permits).try_acquire_owned() {
                Ok(permit) => {
                    let (producer, record, stop) = (Arc::clone(&producer), Arc::clone(&record), stop.clone());
                    jobs.spawn(async move {
                        let confirmed = publish(&producer, &record, &spec, stop).await;
                        drop(permit);
                        confirmed
                    });
                }
                Err(_) => sent.left_out += 1,
            }
        }
        while let Some(confirmed) = jobs.try_join_next() {
            count(&mut sent, confirmed??);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    while let Some(confirmed) = jobs.join_next().await {
        count(&mut sent, confirmed??);
    }
    producer.close().await;
    Ok(sent)
}

fn count(sent: &mut Sent, confirmed: bool) {
    if confirmed { sent.confirmed += 1 } else { sent.doubtful += 1 }
}

/// Sends one job until it is confirmed, always under the same id.
async fn publish(
    producer: &AmqpProducer,
    record: &Record,
    spec: &JobSpec,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<bool> {
    let id = spec.id.context("a job of the load has an id")?;
    let output = spec.output.as_ref().map(PathBuf::from);
    record.write(&Published { id, confirmed: false, output: output.clone() })?;
    let mut give_up = None;
    loop {
        if producer.publish(spec, Encoding::Json, None).await.is_ok() {
            record.write(&Published { id, confirmed: true, output })?;
            return Ok(true);
        }
        if *stop.borrow() && Instant::now() > *give_up.get_or_insert_with(|| Instant::now() + PATIENCE) {
            return Ok(false);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn spec(number: u32, scenario: &str) -> JobSpec {
    let mut spec = JobSpec::new(scenario);
    spec.id = Some(JobId(Uuid::now_v7()));
    spec.queue = [Queue::Live, Queue::Default, Queue::Batch][number as usize % 3];
    spec.priority = [Priority::High, Priority::Medium, Priority::Low][number as usize / 3 % 3];
    spec.max_retries = MAX_RETRIES;
    spec
}

fn noop(number: u32) -> JobSpec {
    let mut spec = spec(number, "custom-input");
    spec.engine = Engine::Noop;
    spec
}

/// An encode, by default of one to three seconds on half a core, so that several run side by side on a small machine.
fn encode(number: u32, rate: Rate, media: &Path) -> JobSpec {
    let mut spec = spec(number, "240p15-h264");
    spec.parameters.duration = Some(rate.length.unwrap_or(f64::from(20 + number % 3 * 20)));
    spec.parameters.preset = Some("ultrafast".into());
    spec.resource_limits.max_cpu_percent = Some(rate.cpu_percent);
    let name = format!("{}.mp4", spec.id.map(|id| id.to_string()).unwrap_or_default());
    spec.output = Some(media.join(name).display().to_string());
    spec
}
