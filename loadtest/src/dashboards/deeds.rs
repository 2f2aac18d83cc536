//! What is done to jobs and workers while the load runs: each thing that a panel tells of happens at least once.
//!
//! Invariant: what is done is waited for, so that whatever a panel does not show has happened all the same.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use ffpool_schema::api::{JobDetail, JobView, PauseRequest, RedriveRequest};
use ffpool_schema::id::JobId;
use ffpool_schema::job::{JobSpec, Queue};
use ffpool_schema::lifecycle::State;
use ffpool_stack::Rtmp;
use jiff::{SignedDuration, Timestamp};
use nix::sys::signal::{Signal, kill};
use tokio::task::AbortHandle;

use super::prometheus::Prometheus;
use crate::doors;
use crate::pool::Pool;
use crate::processes;

/// For anything that is waited for, on a busy machine.
const BOUND: Duration = Duration::from_secs(240);
/// Between two looks: the steady load is what is to be seen, and not who waits.
const PAUSE: Duration = Duration::from_millis(250);
/// Requests of one address before it has used up what it may (200 at once, 100 a second) even if each takes some milliseconds.
const FLOOD: usize = 2_000;

/// Takes callbacks and counts them.
pub(super) struct Receiver {
    url: String,
    heard: Arc<AtomicU64>,
    server: AbortHandle,
}

impl Receiver {
    pub(super) async fn open() -> anyhow::Result<Receiver> {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}/ended", listener.local_addr()?);
        let heard = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&heard);
        let count = move || {
            counter.fetch_add(1, Ordering::Relaxed);
            std::future::ready(StatusCode::NO_CONTENT)
        };
        let app = Router::new().route("/ended", post(count));
        let server = tokio::spawn(async move { axum::serve(listener, app).await }).abort_handle();
        Ok(Receiver { url, heard, server })
    }

    pub(super) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Does everything, one after the other. Must be called on the thread that the pool's processes belong to.
pub(super) async fn all(pool: &mut Pool, prometheus: &Prometheus, receiver: &Receiver) -> anyhow::Result<()> {
    pool.client.pause_queue(Queue::Batch, &PauseRequest::default()).await?;
    waits(pool).await.context("jobs that wait")?;
    fails(pool, receiver).await.context("a job that fails")?;
    is_turned_away(pool).await.context("requests that are too many")?;
    pool.client.resume_queue(Queue::Batch).await?;
    is_killed(pool).await.context("a tool that is killed")?;
    is_cancelled(pool).await.context("a job that is cancelled")?;
    is_live(pool).await.context("a live job")?;
    is_drained(pool, prometheus).await.context("a worker that is drained")?;
    is_lost(pool, prometheus).await.context("a worker that is lost")
}

/// An encode of a second or so on half a core.
fn encode(pool: &Pool, name: &str) -> JobSpec {
    let mut spec = JobSpec::new("240p15-h264");
    spec.output = Some(pool.media.join(name).display().to_string());
    spec.parameters.duration = Some(30.0);
    spec.parameters.preset = Some("ultrafast".into());
    spec.resource_limits.max_cpu_percent = Some(50);
    spec
}

/// One that lasts until somebody ends it, and goes before the steady load.
fn endless(pool: &Pool, name: &str) -> JobSpec {
    let mut spec = encode(pool, name);
    spec.queue = Queue::Live;
    spec.parameters.duration = Some(36_000.0);
    spec
}

async fn until(pool: &Pool, job: JobId, wanted: impl FnMut(&JobView) -> bool) -> anyhow::Result<JobDetail> {
    pool.until_every(PAUSE, job, BOUND, wanted).await
}

/// Waits until the tool of a job writes, and gives the number of its worker.
async fn until_encoding(pool: &Pool, job: JobId) -> anyhow::Result<usize> {
    let has_begun = |view: &JobView| view.progress.as_ref().is_some_and(|it| it.out_time_us.is_some_and(|us| us > 0));
    let worker = until(pool, job, has_begun).await?.job.worker.context("a running job has a worker")?;
    let number = (0..pool.workers.len()).find(|number| pool.worker_id(*number) == worker.as_str());
    number.with_context(|| format!("{worker} is none of the pool's"))
}

async fn until_state(pool: &Pool, job: JobId, wanted: State) -> anyhow::Result<()> {
    let detail = until(pool, job, |view| view.state == wanted || view.state.is_end()).await?;
    ensure!(detail.job.state == wanted, "job {job} is {} and not {wanted}: {:#?}", detail.job.state, detail.attempts);
    Ok(())
}

/// A job blocked by another one, one for later, and one whose deadline passes while it waits for that.
async fn waits(pool: &Pool) -> anyhow::Result<()> {
    let parent = pool.client.submit(&encode(pool, "parent.mp4")).await?.id;
    let mut child = encode(pool, "child.mp4");
    child.depends_on = vec![parent];
    let mut later = encode(pool, "later.mp4");
    later.not_before = Some(Timestamp::now() + SignedDuration::from_secs(10));
    let child = pool.client.submit(&child).await?;
    let later = pool.client.submit(&later).await?;
    let mut late = encode(pool, "late.mp4");
    late.depends_on = vec![later.id];
    late.deadline = Some(Timestamp::now() + SignedDuration::from_secs(5));
    let late = pool.client.submit(&late).await?;
    ensure!((child.state, later.state) == (State::Blocked, State::Delayed), "{child:?} {later:?}");
    until_state(pool, late.id, State::Failed).await?;
    until_state(pool, later.id, State::Completed).await?;
    until_state(pool, child.id, State::Completed).await
}

/// A dead letter that is sent round again, and whose ends are told.
async fn fails(pool: &Pool, receiver: &Receiver) -> anyhow::Result<()> {
    let mut spec = encode(pool, "never.mp4");
    spec.input = Some(pool.media.join("absent.mp4").display().to_string());
    spec.callback_url = Some(receiver.url.clone());
    let job = pool.client.submit(&spec).await?.id;
    let first = until(pool, job, |view| view.state == State::Failed).await?.job.attempt;
    let request = RedriveRequest { ids: vec![job], fingerprint: None, reason: Some("once more".into()) };
    let report = pool.client.redrive(&request).await?;
    ensure!(report.redriven == [job], "{report:?}");
    until(pool, job, |view| view.attempt > first && view.state == State::Failed).await.map(drop)
}

/// More requests than one address may send.
async fn is_turned_away(pool: &Pool) -> anyhow::Result<()> {
    let ca = pool.api_ca.clone().context("the API speaks TLS")?;
    let client = doors::client(&ca, Ipv4Addr::new(127, 0, 0, 3), true)?;
    let key = doors::viewer(pool, "flood").await?;
    let url = format!("{}/v1/scenarios", pool.api_url);
    for _ in 0..FLOOD {
        let answer = client.get(&url).bearer_auth(&key).send().await?;
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            return Ok(());
        }
    }
    bail!("{FLOOD} requests of one address passed")
}

/// An attempt fails by a tool that dies, and the next one completes the job.
async fn is_killed(pool: &Pool) -> anyhow::Result<()> {
    let mut spec = encode(pool, "killed.mp4");
    // Long enough to be met while it runs.
    spec.parameters.duration = Some(900.0);
    let job = pool.client.submit(&spec).await?.id;
    let worker = until_encoding(pool, job).await?;
    let attempt = format!("{job}.1");
    let tools = processes::tools_inside(&pool.scratch(worker));
    let tool = tools.iter().find(|tool| tool.program == "ffmpeg" && tool.attempt == attempt);
    let tool = tool.with_context(|| format!("no tool of {attempt} among {tools:?}"))?;
    kill(tool.pid, Signal::SIGKILL)?;
    let ended = until(pool, job, |view| view.state.is_end()).await?;
    ensure!((ended.job.state, ended.job.failures) == (State::Completed, 1), "{:#?}", ended.attempts);
    Ok(())
}

async fn is_cancelled(pool: &Pool) -> anyhow::Result<()> {
    let job = pool.client.submit(&endless(pool, "cancelled.mp4")).await?.id;
    until_encoding(pool, job).await?;
    pool.client.cancel(job).await?;
    until_state(pool, job, State::Cancelled).await
}

/// A picture that is published to a server of live media.
async fn is_live(pool: &Pool) -> anyhow::Result<()> {
    let server = tokio::task::spawn_blocking(Rtmp::start).await?.context("start the RTMP server")?;
    let mut spec = JobSpec::new("240p15-h264");
    spec.queue = Queue::Live;
    spec.output = Some(server.url("show"));
    spec.parameters.preset = Some("ultrafast".into());
    spec.parameters.duration = Some(5.0);
    let job = pool.client.submit(&spec).await?.id;
    until_state(pool, job, State::Completed).await
}

/// A worker is asked to stop while it encodes; another one goes on with its job.
async fn is_drained(pool: &mut Pool, prometheus: &Prometheus) -> anyhow::Result<()> {
    let job = pool.client.submit(&endless(pool, "drained.mp4")).await?.id;
    let worker = until_encoding(pool, job).await?;
    pool.workers[worker].signal(Signal::SIGTERM);
    until(pool, job, |view| view.attempt == 2).await?;
    let status = pool.workers[worker].wait(BOUND)?;
    ensure!(status.success(), "a drained worker ended with {status}\n{}", pool.workers[worker].log_tail());
    pool.client.cancel(job).await?;
    pool.restart_worker(worker).await?;
    prometheus.follow(pool).await
}

/// A worker is killed while it encodes, and stays away until its lease has lapsed.
async fn is_lost(pool: &mut Pool, prometheus: &Prometheus) -> anyhow::Result<()> {
    let job = pool.client.submit(&endless(pool, "lost.mp4")).await?.id;
    let worker = until_encoding(pool, job).await?;
    pool.workers[worker].kill();
    until(pool, job, |view| view.attempt == 2).await?;
    pool.client.cancel(job).await?;
    pool.restart_worker(worker).await?;
    prometheus.follow(pool).await
}
