//! The life of deliveries in a worker: claimed, run, reported, acknowledged, in every weather.

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
    assert_eq!((beats[0].state, beats[0].capacity.slots), (WorkerState::Ready, 4));
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

/// More jobs than a slot runs between two looks at the queue.
const BACKLOG: u32 = 200;

/// Keeps live jobs waiting until `enough` says that it has seen what it wants to.
async fn with_endless_live_work(pool: &Pool, enough: impl AsyncFn() -> bool) {
    until("what was waited for under endless live work", async || {
        while pool.ready().await < BACKLOG {
            for _ in 0..BACKLOG {
                pool.publish_to("live", JobId(uuid::Uuid::now_v7()), NOOP, None).await;
            }
        }
        if enough().await { Ok(()) } else { Err(pool.ends().len()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_job_gets_its_turn_under_endless_live_work_with_ageing_and_never_without() {
    let (ageing, strict) = (Pool::new("ageing").await, Pool::new("strict").await);
    let (aged, passed_over) = (JobId(uuid::Uuid::now_v7()), JobId(uuid::Uuid::now_v7()));
    for (pool, batch) in [(&ageing, aged), (&strict, passed_over)] {
        for _ in 0..BACKLOG {
            pool.publish_to("live", JobId(uuid::Uuid::now_v7()), NOOP, None).await;
        }
        pool.publish_to("batch", batch, NOOP, None).await;
    }
    let workers =
        [ageing.start(&["--slots=1", "--ageing-secs=1"]).await, strict.start(&["--slots=1", "--ageing-secs=0"]).await];
    let has_run = AtomicBool::new(false);
    tokio::join!(
        with_endless_live_work(&ageing, async || {
            let ended = ageing.ends().contains_key(&(aged, 1));
            has_run.store(ended, Ordering::SeqCst);
            ended
        }),
        with_endless_live_work(&strict, async || has_run.load(Ordering::SeqCst)),
    );
    assert!(!strict.ends().contains_key(&(passed_over, 1)), "strict order has no room for batch");
    for worker in workers {
        assert_eq!(stop(worker).await, Finish::Clean);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_two_slots_never_has_more_than_two_of_eight_jobs() {
    let pool = Pool::new("capacity").await;
    let open = gate_commits(&pool);
    let mut jobs = BTreeSet::new();
    for _ in 0..8 {
        jobs.insert(pool.publish(NOOP).await);
    }
    let worker = pool.start(&["--slots=2"]).await;
    until("two jobs in hand", async || {
        let commits = pool.dispatcher.commits().len();
        if commits >= 2 { Ok(()) } else { Err(commits) }
    })
    .await;
    // Both slots wait for consent. Were a third delivery taken, its claim would come within milliseconds.
    until("three more heartbeats", async || {
        let beats = pool.dispatcher.heartbeats();
        let full = beats.iter().filter(|beat| beat.capacity.used == 2).count();
        if full >= 3 { Ok(()) } else { Err(beats.last().cloned()) }
    })
    .await;
    assert_eq!(pool.dispatcher.claims().len(), 2);
    assert_eq!(pool.ready().await, 6);

    open.store(true, Ordering::SeqCst);
    until("eight ends", async || {
        let ends = pool.ends();
        if ends.len() == 8 { Ok(()) } else { Err(ends) }
    })
    .await;
    let finished: BTreeSet<JobId> = pool.events().iter().map(|event| event.job).collect();
    assert_eq!((finished, pool.events().len()), (jobs, 8));
    let beats = pool.dispatcher.heartbeats();
    assert!(beats.iter().all(|beat| beat.running.len() <= 2 && beat.capacity.used <= 2), "{beats:?}");
    assert_eq!(stop(worker).await, Finish::Clean);
    assert_eq!(pool.ready().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_must_run_alone_waits_for_the_others_and_keeps_everybody_out() {
    let pool = Pool::new("alone").await;
    let open = gate_commits(&pool);
    let alone = JobId(uuid::Uuid::now_v7());
    pool.dispatcher.on_claim(move |claim| {
        if claim.delivery.message_id == Some(alone.to_string()) { Say::RunAlone(3) } else { Say::Run(1) }
    });
    let worker = pool.start(&["--slots=3"]).await;
    let first = pool.publish(NOOP).await;
    until_running(&pool, first).await;
    pool.publish_as(alone, NOOP, Some(3)).await;
    until_running(&pool, alone).await;
    // It queues for all the room from here on, so nobody else is let in.
    let last = pool.publish(NOOP).await;
    let beats = pool.dispatcher.heartbeats().len();
    until("three more heartbeats", async || {
        let now = pool.dispatcher.heartbeats().len();
        if now >= beats + 3 { Ok(()) } else { Err(now) }
    })
    .await;
    let commits: BTreeSet<JobId> = pool.dispatcher.commits().iter().map(|commit| commit.job).collect();
    assert_eq!(commits, BTreeSet::from([first]), "the one that must run alone has not begun");
    let claims: Vec<(Option<String>, bool)> =
        pool.dispatcher.claims().into_iter().map(|claim| (claim.delivery.message_id, claim.idle)).collect();
    assert_eq!(claims, [(Some(first.to_string()), true), (Some(alone.to_string()), false)]);

    open.store(true, Ordering::SeqCst);
    pool.until_ends(&[(first, 1, "finished"), (alone, 3, "finished"), (last, 1, "finished")]).await;
    let granted: Vec<JobId> = pool.events().iter().map(|event| event.job).collect();
    assert_eq!(granted, [first, alone, last], "one after the other");
    assert_eq!(stop(worker).await, Finish::Clean);
    assert_eq!(pool.ready().await, 0);
}

/// Offers a job that runs nothing.
async fn offer(pool: &Pool, job: JobId, alone: bool) -> WorkerAnswer {
    let spec = Box::new(JobSpec { engine: Engine::Noop, ..JobSpec::new("480p30-h264") });
    let subject = subjects::control_worker(&pool.worker);
    let offer = WorkerCommand::Offer { job, alone, spec };
    pool.signals.request(&subject, &offer, Duration::from_secs(10)).await.unwrap()
}

async fn until_reserved(pool: &Pool, job: Option<JobId>) {
    until("a heartbeat that names what room is kept for", async || {
        let last = pool.dispatcher.heartbeats().last().map(|beat| beat.reserved);
        if last == Some(job) { Ok(()) } else { Err(last) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_keeps_room_for_an_offered_job_and_runs_it_without_a_delivery() {
    let pool = Pool::new("offered").await;
    let open = gate_commits(&pool);
    let worker = pool.start(&["--slots=3"]).await;
    let first = pool.publish(NOOP).await;
    until_running(&pool, first).await;

    let [withdrawn, offered, another] = [1, 2, 3].map(|_| JobId(uuid::Uuid::now_v7()));
    assert_eq!(offer(&pool, withdrawn, true).await.slots, Some(3));
    until_reserved(&pool, Some(withdrawn)).await;
    let withdraw = WorkerCommand::Withdraw { job: withdrawn };
    pool.signals.publish(&subjects::control_worker(&pool.worker), &withdraw).await.unwrap();
    until_reserved(&pool, None).await;

    let answer = offer(&pool, offered, true).await;
    assert_eq!((answer.yes, answer.slots), (true, Some(3)));
    assert_eq!(offer(&pool, offered, true).await.slots, Some(3), "a repeat is answered the same");
    let declined = offer(&pool, another, false).await;
    assert!(!declined.yes && declined.reason.as_ref().unwrap().contains("keeps room"), "{declined:?}");
    until_reserved(&pool, Some(offered)).await;
    // Two slots are free, and nobody is let in any more.
    let last = pool.publish(NOOP).await;
    let beats = pool.dispatcher.heartbeats().len();
    until("three more heartbeats", async || {
        let now = pool.dispatcher.heartbeats().len();
        if now >= beats + 3 { Ok(()) } else { Err(now) }
    })
    .await;
    assert_eq!((pool.dispatcher.claims().len(), pool.ready().await), (1, 1));
    assert!(pool.dispatcher.takes().is_empty(), "there is no room yet");

    open.store(true, Ordering::SeqCst);
    pool.until_ends(&[(first, 1, "finished"), (offered, 1, "finished"), (last, 1, "finished")]).await;
    let order: Vec<JobId> = pool.events().iter().map(|event| event.job).collect();
    assert_eq!(order, [first, offered, last], "one after the other");
    let takes = pool.dispatcher.takes();
    assert!(matches!(&takes[..], [take] if take.job == offered && take.idle), "{takes:?}");
    until_reserved(&pool, None).await;
    assert!(pool.dispatcher.custodies().is_empty(), "there is no delivery to hand over");

    worker.drain.advance(Stage::Finishing, "test");
    let drains = offer(&pool, another, false).await;
    assert!(!drains.yes, "{drains:?}");
    assert_eq!(stop(worker).await, Finish::Clean);
    assert_eq!(pool.ready().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backlog_of_a_paused_queue_does_not_stand_before_other_queues() {
    let pool = Pool::new("paused").await;
    let resumed = Arc::new(AtomicBool::new(false));
    let runs = resumed.clone();
    pool.dispatcher.on_claim(move |claim| match claim.delivery.work.queue {
        Queue::Default if !runs.load(Ordering::SeqCst) => Say::HoldQueue(3000),
        Queue::Live | Queue::Default | Queue::Batch => Say::Run(1),
    });
    let mut paused = Vec::new();
    for _ in 0..20 {
        paused.push(pool.publish(NOOP).await);
    }
    let worker = pool.start(&["--slots=1"]).await;
    let mut batch = Vec::new();
    for _ in 0..5 {
        let job = JobId(uuid::Uuid::now_v7());
        pool.publish_to("batch", job, NOOP, None).await;
        batch.push((job, 1, "finished"));
    }
    pool.until_ends(&batch).await;
    let asked = pool.dispatcher.claims().iter().filter(|claim| claim.delivery.work.queue == Queue::Default).count();
    println!("the paused queue was asked for {asked} times");
    assert!(asked < 20, "each of its jobs was tried: {asked}");

    resumed.store(true, Ordering::SeqCst);
    let all: Vec<_> = batch.into_iter().chain(paused.into_iter().map(|job| (job, 1, "finished"))).collect();
    pool.until_ends(&all).await;
    assert_eq!(stop(worker).await, Finish::Clean);
    assert_eq!(pool.ready().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_delivery_of_a_running_job_passes_into_custody_and_starts_nothing() {
    let pool = Pool::new("twice").await;
    let open = gate_commits(&pool);
    let worker = pool.start(&["--slots=4"]).await;
    let job = pool.publish(NOOP).await;
    until_running(&pool, job).await;

    pool.publish_as(job, NOOP, None).await;
    until("custody", async || {
        let custodies = pool.dispatcher.custodies();
        if custodies.iter().any(|custody| custody.job == job && custody.attempt == 1) { Ok(()) } else { Err(custodies) }
    })
    .await;
    open.store(true, Ordering::SeqCst);
    pool.until_ends(&[(job, 1, "finished")]).await;
    assert_eq!(stop(worker).await, Finish::Clean);
    assert_eq!(pool.ready().await, 0);
    assert_eq!(pool.ends().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_neither_restarts_nor_loses_what_runs() {
    let pool = Pool::new("link").await;
    let open = gate_commits(&pool);
    let worker = pool.start(&["--slots=4"]).await;
    let job = pool.publish(NOOP).await;
    until_running(&pool, job).await;

    let vhost = pool.vhost();
    let close = move || Stack::shared().rabbit.ctl(["close_all_connections", "-p", &vhost, "test"]).unwrap();
    tokio::task::spawn_blocking(close).await.unwrap();
    until("the redelivery", async || {
        let claims = pool.dispatcher.claims();
        let again = claims.iter().any(|claim| claim.delivery.redelivered);
        // Once for the delivery that is lost, once for the one that came instead.
        let custodies = pool.dispatcher.custodies().len();
        if again && custodies >= 2 { Ok(()) } else { Err((claims.len(), custodies)) }
    })
    .await;
    open.store(true, Ordering::SeqCst);
    pool.until_ends(&[(job, 1, "finished")]).await;
    assert_eq!(stop(worker).await, Finish::Clean);
    assert_eq!(pool.ready().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_work_queue_that_is_deleted_under_a_worker_is_there_again_and_jobs_flow() {
    let pool = Pool::new("deleted").await;
    let open = gate_commits(&pool);
    let worker = pool.start(&["--slots=2"]).await;
    // One in hand, whose delivery ends with its queue, and a slot that waits.
    let held = pool.publish(NOOP).await;
    until_running(&pool, held).await;
    let queue = "jobs.default.medium";
    let vhost = pool.vhost();
    let delete = move || Stack::shared().rabbit.ctl(["delete_queue", "-p", &vhost, queue]).unwrap();
    tokio::task::spawn_blocking(delete).await.unwrap();
    until("the queue to be there again", async || {
        let depths = pool.depths(&[queue]).await;
        if depths[0].is_some() { Ok(()) } else { Err(depths) }
    })
    .await;
    open.store(true, Ordering::SeqCst);
    // What comes between the queue and its binding is for the dispatcher, which is not there.
    let mut published = BTreeSet::from([held]);
    until("the held job and one of the new queue to finish", async || {
        published.insert(pool.publish(NOOP).await);
        let ends = pool.ends();
        let done = ends.contains_key(&(held, 1)) && ends.len() > 1;
        if done { Ok(()) } else { Err((ends, pool.depths(&[queue]).await)) }
    })
    .await;
    assert!(pool.ends().iter().all(|((job, _), ends)| published.contains(job) && ends == &["finished"]));
    assert_eq!(stop(worker).await, Finish::Clean);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_held_for_long_passes_into_custody_before_the_end() {
    let pool = Pool::new("custody").await;
    let open = gate_commits(&pool);
    let worker = pool.start(&["--slots=1", "--custody-after-secs=0"]).await;
    let job = pool.publish(NOOP).await;
    until("custody", async || {
        let custodies = pool.dispatcher.custodies();
        if custodies.is_empty() { Err(custodies) } else { Ok(()) }
    })
    .await;
    open.store(true, Ordering::SeqCst);
    pool.until_ends(&[(job, 1, "finished")]).await;
    assert_eq!(stop(worker).await, Finish::Clean);
    assert_eq!(pool.ready().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_reaches_the_tool() {
    let pool = Pool::new("cancel").await;
    let worker = pool.start(&["--slots=2"]).await;
    let job = pool.publish(ENDLESS).await;
    until_running(&pool, job).await;

    let subject = subjects::control_job(job);
    let ask = async |command: JobCommand| {
        until("an answer to the command", async || {
            pool.signals.request::<_, JobAnswer>(&subject, &command, Duration::from_secs(5)).await
        })
        .await
    };
    let wrong = ask(JobCommand::Cancel { attempt: 2 }).await;
    assert!(!wrong.accepted && wrong.reason.is_some(), "{wrong:?}");
    let right = ask(JobCommand::Cancel { attempt: 1 }).await;
    assert!(right.accepted, "{right:?}");
    pool.until_ends(&[(job, 1, "cancelled")]).await;
    assert_eq!(stop(worker).await, Finish::Clean);
    assert_eq!(pool.ready().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_reaches_a_frozen_tool_while_the_worker_drains() {
    let pool = Pool::new("cancel-drain").await;
    let worker = pool.start(&["--slots=2"]).await;
    let (job, frozen) = (pool.publish(ENDLESS).await, pool.publish(ENDLESS).await);
    for job in [job, frozen] {
        until_running(&pool, job).await;
    }
    let tell = async |job: JobId, command: JobCommand| {
        let subject = subjects::control_job(job);
        let answer = until("an answer to the command", async || {
            pool.signals.request::<_, JobAnswer>(&subject, &command, Duration::from_secs(5)).await
        })
        .await;
        assert!(answer.accepted, "{answer:?}");
    };
    tell(frozen, JobCommand::Pause { attempt: 1 }).await;
    until("a heartbeat that says that it is frozen", async || {
        let last = pool.dispatcher.heartbeats().pop().unwrap();
        if last.running.iter().any(|running| running.frozen) { Ok(()) } else { Err(last) }
    })
    .await;
    // Asked to by a dispatcher, it would finish both, however long that takes.
    worker.drain.advance(Stage::Finishing, "test");
    for job in [frozen, job] {
        let told = std::time::Instant::now();
        tell(job, JobCommand::Cancel { attempt: 1 }).await;
        until("the report", async || {
            let ends = pool.ends();
            if ends.contains_key(&(job, 1)) { Ok(()) } else { Err(ends) }
        })
        .await;
        println!("reported {:?} after the cancel", told.elapsed());
    }
    pool.until_ends(&[(job, 1, "cancelled"), (frozen, 1, "cancelled")]).await;
    assert_eq!(worker.finished().await, Finish::Clean);
    assert_eq!(pool.ready().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_job_stands_still_says_so_and_can_be_resumed_and_cancelled() {
    let pool = Pool::new("pause").await;
    let worker = pool.start(&["--slots=2"]).await;
    let job = pool.publish(ENDLESS).await;
    until_running(&pool, job).await;
    let subject = subjects::control_job(job);
    let tell = async |command: JobCommand| {
        let answer = until("an answer to the command", async || {
            pool.signals.request::<_, JobAnswer>(&subject, &command, Duration::from_secs(5)).await
        })
        .await;
        assert!(answer.accepted, "{answer:?}");
    };
    let until_frozen = async |frozen: bool| {
        until("a heartbeat that says whether it is frozen", async || {
            let last = pool.dispatcher.heartbeats().pop().unwrap();
            if last.running.iter().any(|running| running.frozen == frozen) { Ok(()) } else { Err(last) }
        })
        .await;
    };
    tell(JobCommand::Pause { attempt: 1 }).await;
    tell(JobCommand::Pause { attempt: 1 }).await;
    until_frozen(true).await;
    tell(JobCommand::Resume { attempt: 1 }).await;
    until_frozen(false).await;
    tell(JobCommand::Pause { attempt: 1 }).await;
    until_frozen(true).await;
    tell(JobCommand::Cancel { attempt: 1 }).await;
    pool.until_ends(&[(job, 1, "cancelled")]).await;
    assert_eq!(stop(worker).await, Finish::Clean);
    assert_eq!(pool.ready().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_job_on_a_full_worker_freezes_a_batch_attempt_and_the_batch_attempt_goes_on_after_it() {
    let pool = Pool::new("preempt").await;
    let worker = pool.start(&["--slots=1"]).await;
    let (batch, live) = (JobId(uuid::Uuid::now_v7()), JobId(uuid::Uuid::now_v7()));
    pool.publish_to("batch", batch, ENDLESS, None).await;
    until("custody of the batch attempt", async || {
        let custodies = pool.dispatcher.custodies();
        if custodies.iter().any(|custody| custody.job == batch) { Ok(()) } else { Err(custodies) }
    })
    .await;
    let published = std::time::Instant::now();
    pool.publish_to("live", live, ENDLESS, None).await;
    let frozen_and_beside = |frozen: bool, beside: bool| {
        let last = pool.dispatcher.heartbeats().pop().unwrap();
        let batch_is = last.running.iter().any(|running| running.job == batch && running.frozen == frozen);
        let encodes = |job: JobId| last.running.iter().any(|running| running.job == job && running.progress.is_some());
        if batch_is && encodes(live) == beside { Ok(()) } else { Err(Box::new(last)) }
    };
    until("the live job beside the frozen one", async || frozen_and_beside(true, true)).await;
    println!("the live job encodes {:?} after it was published", published.elapsed());

    let cancel = JobCommand::Cancel { attempt: 1 };
    let subject = subjects::control_job(live);
    until("the live job to be cancelled", async || {
        pool.signals.request::<_, JobAnswer>(&subject, &cancel, Duration::from_secs(5)).await
    })
    .await;
    pool.until_ends(&[(live, 1, "cancelled")]).await;
    until("the batch attempt to be thawed", async || frozen_and_beside(false, false)).await;
    assert!(pool.dispatcher.heartbeats().iter().all(|beat| beat.capacity.used <= 1));
    assert_eq!(stop(worker).await, Finish::Clean);
    pool.until_ends(&[(live, 1, "cancelled"), (batch, 1, "released")]).await;
    assert_eq!(pool.ready().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_lease_ends_the_attempt_without_a_report() {
    let pool = Pool::new("abandon").await;
    let worker = pool.start(&["--slots=2"]).await;
    let job = pool.publish(ENDLESS).await;
    until_running(&pool, job).await;
    let subject = subjects::control_job(job);
    until("the command is accepted", async || {
        let command = JobCommand::Abandon { attempt: 1 };
        pool.signals.request::<_, JobAnswer>(&subject, &command, Duration::from_secs(5)).await
    })
    .await;
    until("nothing runs", async || {
        let last = pool.dispatcher.heartbeats().pop().unwrap();
        if last.running.is_empty() && last.capacity.used == 0 { Ok(()) } else { Err(last) }
    })
    .await;
    assert_eq!(stop(worker).await, Finish::Clean);
    assert_eq!(pool.ready().await, 0);
    assert_eq!(pool.events().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_hands_back_what_does_not_fit_and_takes_no_more() {
    let pool = Pool::new("drain").await;
    let worker = pool.start(&["--slots=1"]).await;
    let job = pool.publish(ENDLESS).await;
    until_running(&pool, job).await;
    let waiting = pool.publish(NOOP).await;

    let ping = WorkerCommand::Ping { job, attempt: 1 };
    let subject = subjects::control_worker(&pool.worker);
    let answer: WorkerAnswer = pool.signals.request(&subject, &ping, Duration::from_secs(10)).await.unwrap();
    assert_eq!((answer.from, answer.yes), (worker.me.clone(), true));
    let drain = WorkerCommand::Drain;
    let answer: WorkerAnswer = pool.signals.request(&subject, &drain, Duration::from_secs(10)).await.unwrap();
    assert!(answer.yes);
    until("a heartbeat that says so", async || {
        let last = pool.dispatcher.heartbeats().pop().unwrap();
        // Asked to by a dispatcher, it finishes what runs, however long that takes.
        if last.state == WorkerState::Draining && last.running.len() == 1 { Ok(()) } else { Err(last) }
    })
    .await;

    assert_eq!(stop(worker).await, Finish::Clean);
    pool.until_ends(&[(job, 1, "released")]).await;
    assert!(matches!(&pool.events()[0].outcome, Outcome::Released { reason } if reason.contains("drain")));
    assert_eq!(pool.ready().await, 1, "{waiting} waits for somebody else");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_hands_back_a_live_job_at_once_and_lets_others_finish() {
    let pool = Pool::new("leave").await;
    let worker = pool.start(&["--slots=2", "--fetch-allow=127.0.0.0/8"]).await;
    // Nobody publishes there: it waits for its source.
    let live = pool.publish(LIVE).await;
    let other = pool.publish(ENDLESS).await;
    until_running(&pool, live).await;
    until_running(&pool, other).await;
    let subject = subjects::control_worker(&pool.worker);
    let drain = WorkerCommand::Drain;
    let answer: WorkerAnswer = pool.signals.request(&subject, &drain, Duration::from_secs(10)).await.unwrap();
    assert!(answer.yes);
    pool.until_ends(&[(live, 1, "released")]).await;
    until_running(&pool, other).await;
    assert_eq!(stop(worker).await, Finish::Clean);
    pool.until_ends(&[(live, 1, "released"), (other, 1, "released")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_attempt_asks_the_one_before_for_its_sinks_and_lets_go_of_them_when_the_next_one_asks() {
    let pool = Pool::new("handover").await;
    let server = Rtmp::start().unwrap_or_else(|error| panic!("the RTMP server for the tests: {}", error.report()));
    let _publisher = Publisher::to(&server.url("in"));
    pool.dispatcher.on_claim(|_| Say::Run(2));
    let worker = pool.start(&["--slots=2", "--fetch-allow=127.0.0.0/8"]).await;
    let job = JobId(uuid::Uuid::now_v7());
    let subject = subjects::hand_over(job);
    let mut before = pool.signals.serve::<TakeOver>(&subject, "before").await.unwrap();
    pool.signals.round_trip(BOUND).await.unwrap();
    let body = format!(
        r#"{{"scenario": "360p25-h264", "input": "{}", "output": "{}", "parameters": {{"preset": "ultrafast"}}}}"#,
        server.url("in"),
        server.url("out")
    );
    pool.publish_as(job, &body, None).await;
    let asked = tokio::time::timeout(BOUND, before.next_request()).await.expect("a question").unwrap();
    assert_eq!((asked.value.attempt, &asked.value.from.worker), (2, &pool.worker));
    drop(before);
    let answer = JobAnswer { from: asked.value.from.clone(), accepted: true, reason: None };
    asked.answer(&answer).await.unwrap();
    until("what is published", async || if server.has_published("out") { Ok(()) } else { Err("nothing") }).await;

    let scratch = pool.scratch().join(pool.worker.as_str()).join(format!("{job}.2"));
    assert!(scratch.exists());
    // The next attempt asks until somebody answers: nobody does before the end is on record.
    let take = TakeOver { from: asked.value.from.clone(), attempt: 3 };
    let asking = until("an answer", async || pool.signals.request::<_, JobAnswer>(&subject, &take, BOUND).await);
    let (answer, ()) = tokio::join!(asking, async { worker.drain.advance(Stage::Finishing, "a notice") });
    assert!(answer.accepted);
    assert!(!scratch.exists(), "it is answered when the tool has ended");
    pool.until_ends(&[(job, 2, "released")]).await;
    assert_eq!(stop(worker).await, Finish::Clean);
    pool.until_ends(&[(job, 2, "released")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_dispatcher_a_first_delivery_begins_but_publishes_nothing_before_the_answer() {
    let pool = Pool::new("unanswered").await;
    let answering = Arc::new(AtomicBool::new(false));
    let refused = JobId(uuid::Uuid::now_v7());
    let answers = answering.clone();
    pool.dispatcher.on_claim(move |claim| {
        if !answers.load(Ordering::SeqCst) {
            Say::Nothing
        } else if claim.delivery.message_id == Some(refused.to_string()) {
            Say::Drop(DropReason::Superseded)
        } else {
            Say::Run(3)
        }
    });
    let worker = pool.start(&["--slots=4"]).await;
    let job = JobId(uuid::Uuid::now_v7());
    pool.publish_as(job, NOOP, Some(3)).await;
    pool.publish_as(refused, NOOP, None).await;
    until("the repeated claims", async || {
        let claims = pool.dispatcher.claims();
        let begun: BTreeSet<u32> = claims.iter().filter_map(|claim| claim.running_unanswered).collect();
        if begun == BTreeSet::from([1, 3]) { Ok(()) } else { Err(begun) }
    })
    .await;
    assert!(pool.dispatcher.commits().is_empty() && pool.events().is_empty());
    assert!(pool.dispatcher.heartbeats().iter().all(|beat| beat.running.is_empty()), "there is no lease to renew");

    answering.store(true, Ordering::SeqCst);
    pool.until_ends(&[(job, 3, "finished")]).await;
    assert_eq!(stop(worker).await, Finish::Clean);
    assert_eq!(pool.ready().await, 0);
    assert_eq!(pool.dispatcher.commits().iter().filter(|commit| commit.job == refused).count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_cannot_be_reported_is_reported_when_the_broker_is_back() {
    let stack = tokio::task::spawn_blocking(|| Stack::builder().postgres(false).start().unwrap()).await.unwrap();
    let stack = Arc::new(stack);
    let pool = Pool::on(&stack.rabbit, &stack.nats, "outage").await;
    let open = gate_commits(&pool);
    let worker = pool.start(&["--slots=1"]).await;
    let job = pool.publish(NOOP).await;
    until_running(&pool, job).await;

    let killed = stack.clone();
    tokio::task::spawn_blocking(move || killed.rabbit.kill()).await.unwrap();
    let committed = pool.dispatcher.commits().len();
    open.store(true, Ordering::SeqCst);
    until("a commit that is granted", async || {
        let commits = pool.dispatcher.commits().len();
        if commits > committed { Ok(()) } else { Err(commits) }
    })
    .await;
    let beats = pool.dispatcher.heartbeats().len();
    until("the lease is still renewed", async || {
        let all = pool.dispatcher.heartbeats();
        if all.len() >= beats + 3 && all.last().unwrap().running.len() == 1 { Ok(()) } else { Err(all.len()) }
    })
    .await;
    assert!(pool.events().is_empty());

    let restarted = stack.clone();
    tokio::task::spawn_blocking(move || restarted.rabbit.restart().unwrap()).await.unwrap();
    pool.until_ends(&[(job, 1, "finished")]).await;
    // The redelivery: the ledger, which has read the end, says that it is not needed.
    pool.dispatcher.on_claim(|_| Say::Drop(DropReason::Finished));
    until("the queue is empty", async || {
        let (ready, running) = (pool.ready().await, pool.dispatcher.heartbeats().pop().unwrap().capacity.used);
        if (ready, running) == (0, 0) { Ok(()) } else { Err((ready, running)) }
    })
    .await;
    assert_eq!(stop(worker).await, Finish::Clean);
    assert_eq!(pool.ready().await, 0);
    assert_eq!(pool.ends().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_nats_delays_the_consent_and_ends_nothing() {
    let stack = tokio::task::spawn_blocking(|| Stack::builder().postgres(false).start().unwrap()).await.unwrap();
    let stack = Arc::new(stack);
    let pool = Pool::on(&stack.rabbit, &stack.nats, "silence").await;
    let open = gate_commits(&pool);
    let worker = pool.start(&["--slots=1"]).await;
    let job = pool.publish(NOOP).await;
    until_running(&pool, job).await;

    let killed = stack.clone();
    tokio::task::spawn_blocking(move || killed.nats.kill()).await.unwrap();
    open.store(true, Ordering::SeqCst);
    let beats = pool.dispatcher.heartbeats().len();
    let restarted = stack.clone();
    tokio::task::spawn_blocking(move || restarted.nats.restart().unwrap()).await.unwrap();
    pool.until_ends(&[(job, 1, "finished")]).await;
    until("heartbeats again", async || {
        let now = pool.dispatcher.heartbeats().len();
        if now > beats { Ok(()) } else { Err(now) }
    })
    .await;
    assert_eq!(pool.dispatcher.claims().len(), 1, "the attempt was claimed once");
    assert_eq!(stop(worker).await, Finish::Clean);
    assert_eq!(pool.ready().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_attempt_ends_itself_when_its_lease_cannot_be_renewed_and_others_go_on() {
    let stack = tokio::task::spawn_blocking(|| Stack::builder().postgres(false).start().unwrap()).await.unwrap();
    let stack = Arc::new(stack);
    let pool = Pool::on(&stack.rabbit, &stack.nats, "fence").await;
    let worker = pool.start(&["--slots=2", "--live-fence-secs=2"]).await;
    let (live, other) = (JobId(uuid::Uuid::now_v7()), pool.publish(ENDLESS).await);
    pool.publish_to("live", live, ENDLESS, None).await;
    until_running(&pool, live).await;
    until_running(&pool, other).await;

    let killed = stack.clone();
    tokio::task::spawn_blocking(move || killed.nats.kill()).await.unwrap();
    pool.until_ends(&[(live, 1, "released")]).await;
    let restarted = stack.clone();
    tokio::task::spawn_blocking(move || restarted.nats.restart().unwrap()).await.unwrap();
    until_running(&pool, other).await;
    assert_eq!(pool.ends().len(), 1);
    assert_eq!(stop(worker).await, Finish::Clean);
    pool.until_ends(&[(live, 1, "released"), (other, 1, "released")]).await;
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
