//! The life of deliveries in a worker: claimed, run, reported, acknowledged, in every weather.

mod custody;
mod leaving;
mod orders;
mod outages;
mod room;
mod tools;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use ffpool_schema::id::JobId;
use ffpool_schema::job::{Engine, JobSpec, Queue};
use ffpool_schema::message::{
    CommitReply, DropReason, JobAnswer, JobCommand, Outcome, TakeOver, WorkerAnswer, WorkerCommand, WorkerState,
};
use ffpool_schema::subjects;
use ffpool_stack::{Rtmp, Stack};
use ffpool_worker::drain::Stage;
use ffpool_worker::service::{Finish, Worker};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::live::sources::Publisher;
use crate::pool::{BOUND, Pool, Say, until};

pub const NOOP: &str = r#"{"scenario": "480p30-h264", "engine": "noop"}"#;
/// Longer than any test: it ends because somebody ends it.
pub const ENDLESS: &str = r#"{"scenario": "480p30-h264", "parameters": {"duration": 86400, "preset": "ultrafast"},
    "resource_limits": {"max_cpu_percent": 50, "timeout_sec": 3600, "max_memory_mb": 512, "max_disk_mb": 2000}}"#;

/// Waits for its source for ever.
const LIVE: &str = r#"{"scenario": "480p30-h264", "input": "rtmp://127.0.0.1:9/live/key",
    "parameters": {"reconnect_sec": 86400, "restarts": 10000}}"#;

async fn stop(worker: Worker) -> Finish {
    worker.drain.advance(Stage::FinishingInTime, "the test is over");
    worker.finished().await
}

pub async fn until_running(pool: &Pool, job: JobId) {
    until("a heartbeat that names the job", async || {
        let beats = pool.dispatcher.heartbeats();
        let named = beats.last().is_some_and(|beat| beat.running.iter().any(|running| running.job == job));
        if named { Ok(()) } else { Err(beats.last().cloned()) }
    })
    .await;
}

/// Holds back the answers to commits, so that a `noop` attempt lasts until `open` is set.
fn gate_commits(pool: &Pool) -> Arc<AtomicBool> {
    let open = Arc::new(AtomicBool::new(false));
    let gate = open.clone();
    pool.dispatcher.on_commit(move |_| gate.load(Ordering::SeqCst).then_some(CommitReply::Granted));
    open
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_claimed_run_reported_and_then_acknowledged() {
    let pool = Pool::new("flow").await;
    let worker = pool.start(&["--slots=4"]).await;
    let job = pool.publish(NOOP).await;
    pool.until_ends(&[(job, 1, "finished")]).await;

    let claims = pool.dispatcher.claims();
    assert_eq!(claims.len(), 1, "{claims:?}");
    assert_eq!(claims[0].from, worker.me);
    assert_eq!(claims[0].delivery.message_id, Some(job.to_string()));
    assert_eq!(claims[0].delivery.body, NOOP.as_bytes());
    assert!(!claims[0].delivery.redelivered && claims[0].running_unanswered.is_none());
    let event = &pool.events()[0];
    assert_eq!(event.from, worker.me);
    assert!(event.usage.is_some());

    assert_eq!(stop(worker).await, Finish::Clean);
    assert_eq!(pool.ready().await, 0);
    until("the last heartbeat", async || {
        let beats = pool.dispatcher.heartbeats();
        let states: Vec<WorkerState> = beats.iter().map(|beat| beat.state).collect();
        if states.last() == Some(&WorkerState::Stopped) { Ok(()) } else { Err(states) }
    })
    .await;
    let beats = pool.dispatcher.heartbeats();
    let mut said: Vec<(WorkerState, u32)> = beats.iter().map(|beat| (beat.state, beat.capacity.slots)).collect();
    said.dedup();
    assert_eq!(
        said[..2],
        [(WorkerState::Starting, 0), (WorkerState::Ready, 4)],
        "it is there before it knows its room"
    );
    assert!(beats.windows(2).all(|pair| pair[0].seq < pair[1].seq));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_ledger_drops_is_gone_and_what_it_holds_back_comes_again() {
    let pool = Pool::new("verdicts").await;
    let (dropped, held) = (JobId(uuid::Uuid::now_v7()), JobId(uuid::Uuid::now_v7()));
    let asked = AtomicU32::new(0);
    pool.dispatcher.on_claim(move |claim| {
        if claim.delivery.message_id == Some(dropped.to_string()) {
            Say::Drop(DropReason::Cancelled)
        } else if asked.fetch_add(1, Ordering::SeqCst) < 2 {
            Say::Hold(50)
        } else {
            Say::Run(1)
        }
    });
    let worker = pool.start(&["--slots=4"]).await;
    pool.publish_as(dropped, NOOP, None).await;
    pool.publish_as(held, NOOP, None).await;
    pool.until_ends(&[(held, 1, "finished")]).await;

    let id = held.to_string();
    let claims = pool.dispatcher.claims();
    let of_held: Vec<bool> = claims
        .iter()
        .filter(|claim| claim.delivery.message_id.as_ref() == Some(&id))
        .map(|claim| claim.delivery.redelivered)
        .collect();
    assert_eq!(of_held, [false, true, true]);
    assert_eq!(claims.len(), 4, "the dropped one is asked about once: {claims:?}");
    assert_eq!(stop(worker).await, Finish::Clean);
    assert_eq!(pool.ready().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_serves_health_and_metrics_and_ends_well_on_a_signal() {
    let pool = Pool::new("process").await;
    let program = env!("CARGO_BIN_EXE_ffpool-worker");
    let flags = pool.flags(&["--slots=3", "--log-format=json"]);
    let command = Command::new(program).args(&flags[1..]).stderr(Stdio::piped()).spawn();
    let mut child = KilledOnDrop(command.expect("cargo built the program"));
    let lines = BufReader::new(child.0.stderr.take().unwrap()).lines();
    let starts = lines.map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap());
    let mut starts = starts.filter(|line| line.get("http_addr").is_some());
    let address: SocketAddr = starts.next().unwrap()["http_addr"].as_str().unwrap().parse().unwrap();
    // The child must not block on a full pipe.
    let drained = std::thread::spawn(move || starts.count());

    until("ready", async || {
        let answer = get(address, "/ready");
        if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(answer) }
    })
    .await;
    assert!(get(address, "/health").starts_with("HTTP/1.1 200"));
    until("the metrics", async || {
        let metrics = get(address, "/metrics");
        let expected =
            ["ffpool_worker_slots 3", "ffpool_link_up{server=\"nats\"} 1", "# HELP ffpool_worker_heartbeats_total"];
        if expected.iter().all(|line| metrics.contains(line)) { Ok(()) } else { Err(metrics) }
    })
    .await;

    kill(Pid::from_raw(i32::try_from(child.0.id()).unwrap()), Signal::SIGTERM).unwrap();
    let status = until("the exit", async || child.0.try_wait().unwrap().ok_or("still running")).await;
    assert!(status.success(), "{status}");
    drained.join().unwrap();
    until("the last heartbeat", async || {
        let last = pool.dispatcher.heartbeats().pop();
        if last.as_ref().is_some_and(|beat| beat.state == WorkerState::Stopped) { Ok(()) } else { Err(last) }
    })
    .await;
}

pub struct KilledOnDrop(pub Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        // Fails when it has ended already, as it should have.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
