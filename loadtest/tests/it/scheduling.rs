//! Who runs when: never over capacity, and the best job first.

use ffpool_loadtest::pool::{Pool, PoolSettings};
use ffpool_schema::api::{JobDetail, JobView, WorkerView};
use ffpool_schema::id::{JobId, WorkerId};
use ffpool_schema::job::{JobSpec, Priority, Queue};
use ffpool_schema::lifecycle::State;
use ffpool_stack::Stack;
use jiff::Timestamp;
use nix::sys::signal::Signal;

use crate::support::{BOUND, SMALL, encoding, long, medium, pool, quick, run};

/// The most deliveries of one work queue that somebody holds, by the broker's own count. The counts of two queues are of
/// different moments, up to 5 s apart, and cannot be added.
fn held(pool: &Pool) -> anyhow::Result<u64> {
    let vhost = pool.amqp_url.rsplit('/').next().unwrap_or_default().replace("%2f", "/");
    let arguments = ["list_queues", "-q", "--no-table-headers", "-p", &vhost, "name", "messages_unacknowledged"];
    let listing = Stack::shared().rabbit.ctl(arguments)?;
    let counts = listing.lines().filter_map(|line| {
        let (name, count) = line.split_once('\t')?;
        let is_work = ["jobs.live.", "jobs.default.", "jobs.batch."].iter().any(|prefix| name.starts_with(prefix));
        is_work.then(|| count.trim().parse::<u64>().ok()).flatten()
    });
    Ok(counts.max().unwrap_or(0))
}

#[test]
fn eight_jobs_on_two_slots_never_run_more_than_two_at_once_and_a_live_job_is_next() {
    run(async {
        // Else a batch job that has run for a while stands still for the live one, which runs as a third.
        let worker = [SMALL, &[("FFPOOL_PREEMPT", "false")]].concat();
        let pool = pool(PoolSettings::one_worker(&worker)).await?;
        let mut batch = Vec::new();
        for number in 0..8 {
            let mut spec = quick(&pool.media.join(format!("batch-{number}.mp4")).display().to_string());
            spec.queue = Queue::Batch;
            spec.parameters.duration = Some(4.0);
            batch.push(pool.client.submit(&spec).await?.id);
        }
        pool.until(batch[0], BOUND, |view| view.state != State::Queued).await?;
        let mut spec = quick(&pool.media.join("live.mp4").display().to_string());
        spec.queue = Queue::Live;
        spec.priority = Priority::High;
        let live = pool.client.submit(&spec).await?.id;
        until_published(&pool, live).await?;
        let published_at = Timestamp::now();
        let live = pool.until_ended(live, BOUND).await?;
        assert_eq!(live.job.state, State::Completed, "{live:#?}");

        let mut details = vec![live];
        for id in batch {
            let end = std::time::Instant::now() + BOUND;
            loop {
                let workers = pool.client.workers().await?;
                let over = |worker: &WorkerView| worker.capacity.used > 2 || worker.running.len() > 2;
                assert!(!workers.iter().any(over), "{workers:#?}");
                let held = tokio::task::block_in_place(|| held(&pool))?;
                assert!(held <= 2, "{held} deliveries of one queue are held by a worker with two slots");
                let detail = pool.client.job(id).await?;
                if detail.job.state.is_end() {
                    assert_eq!(detail.job.state, State::Completed, "{detail:#?}");
                    details.push(detail);
                    break;
                }
                assert!(std::time::Instant::now() < end, "{detail:#?}\n{}", pool.logs());
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
        let live_began = details[0].attempts[0].started_at;
        // The slots that were being filled while the live job was published may have gone to others.
        let overtook = details[1..]
            .iter()
            .map(|detail| detail.attempts[0].started_at)
            .filter(|began| *began > published_at && *began < live_began)
            .count();
        assert!(
            overtook <= 2,
            "{overtook} batch jobs began between the live job's publication and its start: {details:#?}"
        );
        Ok(())
    });
}

#[test]
fn what_a_drained_worker_hands_back_is_the_next_of_its_queue_and_a_live_job_goes_before_it() {
    run(async {
        let one_slot = [("FFPOOL_SLOTS", "1"), ("FFPOOL_DRAIN_SECS", "0")];
        let pool = pool(PoolSettings::one_worker(&one_slot).worker(&one_slot)).await?;
        let batch = |name: &str, spec: fn(&str) -> JobSpec| {
            let mut spec = spec(&pool.media.join(name).display().to_string());
            (spec.queue, spec.priority) = (Queue::Batch, Priority::Low);
            spec
        };
        let drained = pool.client.submit(&batch("drained.mp4", medium)).await?.id;
        let owner = pool.until(drained, BOUND, encoding).await?.job.worker.expect("a running job has a worker");
        let blocking = pool.client.submit(&batch("blocking.mp4", long)).await?.id;
        pool.until(blocking, BOUND, encoding).await?;
        let mut backlog = Vec::new();
        for number in 0..3 {
            backlog.push(pool.client.submit(&batch(&format!("waiting-{number}.mp4"), quick)).await?.id);
        }
        let number = usize::from(owner.as_str().ends_with("-1"));
        pool.workers[number].signal(Signal::SIGTERM);
        until_ready(&pool, "jobs.batch.low", 4).await?;

        let mut live = quick(&pool.media.join("live.mp4").display().to_string());
        live.queue = Queue::Live;
        live.priority = Priority::Low;
        let live = pool.client.submit(&live).await?.id;
        until_published(&pool, live).await?;
        // Whether it is frozen to make room, or ended: the slot goes to the live job first.
        pool.client.cancel(blocking).await?;
        let mut began = Vec::new();
        for id in [live, drained].into_iter().chain(backlog) {
            let detail = pool.until_ended(id, BOUND).await?;
            assert_eq!(detail.job.state, State::Completed, "{detail:#?}");
            began.push(detail.attempts.last().expect("it ran").started_at);
        }
        assert!(began.is_sorted(), "live, drained, backlog began at {began:#?}");
        Ok(())
    });
}

/// Waits until a job that was submitted is with the broker.
async fn until_published(pool: &Pool, job: JobId) -> anyhow::Result<()> {
    let is_published = |view: &JobView| view.custody.as_deref() == Some("broker") || view.state != State::Queued;
    pool.until(job, BOUND, is_published).await.map(drop)
}

/// Waits until so many messages lie ready in a work queue and its twin.
async fn until_ready(pool: &Pool, queue: &str, expected: u64) -> anyhow::Result<()> {
    let end = std::time::Instant::now() + BOUND;
    loop {
        let queues = pool.client.queues().await?;
        let ready = queues.iter().find(|view| view.name == queue).and_then(|view| view.ready);
        if ready == Some(expected) {
            return Ok(());
        }
        assert!(std::time::Instant::now() < end, "{queue}: {ready:?} of {expected}\n{}", pool.logs());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[test]
fn a_job_waits_for_its_time() {
    run(async {
        let pool = pool(PoolSettings::one_worker(SMALL)).await?;
        let mut spec = quick(&pool.media.join("later.mp4").display().to_string());
        let due = Timestamp::now() + jiff::SignedDuration::from_secs(3);
        spec.not_before = Some(due);
        let submitted = pool.client.submit(&spec).await?;
        assert_eq!(submitted.state, State::Delayed);
        let detail = pool.until_ended(submitted.id, BOUND).await?;
        assert_eq!(detail.job.state, State::Completed, "{detail:#?}");
        assert!(detail.attempts[0].started_at >= due, "{detail:#?}");
        Ok(())
    });
}

/// Always has some short jobs waiting, until dropped.
struct SmallJobs(tokio::task::JoinHandle<()>);

impl SmallJobs {
    fn keep(pool: &Pool, queue: Queue, of_pool: &'static str) -> SmallJobs {
        let (client, media) = (pool.client.clone(), pool.media.clone());
        SmallJobs(tokio::spawn(async move {
            for number in 0_u64.. {
                while client.queues().await.is_ok_and(|queues| {
                    let ours = queues.iter().filter(|view| view.queue == queue.as_str() && view.pool == of_pool);
                    ours.map(|view| view.queued).sum::<i64>() >= 3
                }) {
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
                let mut spec = quick(&media.join(format!("small-{number}.mp4")).display().to_string());
                (spec.queue, spec.priority, spec.pool) = (queue, Priority::High, of_pool.parse().expect("a pool"));
                // Of equal length two would begin and end together, and leave the worker idle in between.
                spec.parameters.duration = Some(if number % 2 == 0 { 2.0 } else { 5.0 });
                // What is refused while a part is away is only one job less.
                let _ = client.submit(&spec).await;
            }
        }))
    }
}

impl Drop for SmallJobs {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn kinds(detail: &JobDetail) -> Vec<&str> {
    detail.events.iter().map(|event| event.kind.as_str()).collect()
}

#[test]
fn a_job_that_does_not_fit_an_idle_worker_runs_on_a_busy_one_that_it_fits() {
    run(async {
        // The first worker's tool has no encoder for it.
        let directory = tempfile::tempdir()?;
        let tool = directory.path().join("ffmpeg-without-x265");
        std::fs::write(&tool, "#!/bin/sh\ncase \"$*\" in *libx265*) exit 1 ;; esac\nexec ffmpeg \"$@\"\n")?;
        for path in [directory.path(), &tool] {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        }
        let tool = tool.display().to_string();
        let unfit = [("FFPOOL_SLOTS", "2"), ("FFPOOL_FFMPEG", tool.as_str())];
        let fit = [("FFPOOL_SLOTS", "2"), ("FFPOOL_POOLS", "cpu,small")];
        let settings = PoolSettings::one_worker(&unfit).worker(&fit).dispatcher("FFPOOL_POOLS", "small");
        let pool = pool(settings).await?;
        // They go before the large job at the worker that takes both.
        let _small = SmallJobs::keep(&pool, Queue::Live, "small");
        until_busy(&pool, &pool.worker_id(1)).await?;

        let mut large = quick(&pool.media.join("large.mp4").display().to_string());
        large.scenario = "240p15-h265".into();
        large.resource_limits.max_cpu_percent = Some(200);
        let large = pool.client.submit(&large).await?.id;
        let detail = pool.until_ended(large, BOUND).await?;
        assert_eq!(detail.job.state, State::Completed, "{detail:#?}");
        assert_eq!(detail.job.worker.as_ref().map(WorkerId::as_str), Some(pool.worker_id(1).as_str()));
        for kind in ["unfit", "offer", "take"] {
            assert!(kinds(&detail).contains(&kind), "no {kind}: {detail:#?}");
        }
        until_busy(&pool, &pool.worker_id(1)).await
    });
}

#[test]
fn a_job_that_must_run_alone_runs_on_a_pool_that_is_never_idle() {
    run(async {
        // Ageing lets the job have its turn among better ones, while the worker is busy with them.
        let worker = [("FFPOOL_SLOTS", "2"), ("FFPOOL_AGEING_SECS", "1")];
        let mut pool = pool(PoolSettings::one_worker(&worker)).await?;
        let id = pool.client.submit(&medium(&pool.media.join("alone.mp4").display().to_string())).await?.id;
        for loss in 1..=2 {
            pool.until(id, BOUND, |view| view.attempt == loss && encoding(view)).await?;
            if loss == 2 {
                break;
            }
            pool.respawn_worker(0)?;
        }
        let small = SmallJobs::keep(&pool, Queue::Live, "cpu");
        until_ready(&pool, "jobs.live.high", 3).await?;
        pool.respawn_worker(0)?;
        let detail = pool.until_ended(id, BOUND).await?;
        drop(small);
        assert_eq!((detail.job.state, detail.job.attempt), (State::Completed, 3), "{detail:#?}");
        for kind in ["unfit", "offer", "take"] {
            assert!(kinds(&detail).contains(&kind), "no {kind}: {detail:#?}");
        }
        Ok(())
    });
}

/// Waits until a worker runs something.
async fn until_busy(pool: &Pool, id: &str) -> anyhow::Result<()> {
    let end = std::time::Instant::now() + BOUND;
    loop {
        let workers = pool.client.workers().await?;
        let worker = workers.iter().find(|worker| worker.id.as_str() == id);
        if worker.is_some_and(|worker| worker.capacity.used > 0) {
            return Ok(());
        }
        assert!(std::time::Instant::now() < end, "{worker:#?}\n{}", pool.logs());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
