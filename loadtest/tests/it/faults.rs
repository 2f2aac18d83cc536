//! What dies: the job survives it, is done once, and its record tells the story.

use std::time::Duration;

use ffpool_loadtest::pool::{Pool, PoolSettings};
use ffpool_schema::lifecycle::State;
use ffpool_stack::Stack;
use jiff::Timestamp;
use nix::sys::signal::Signal;

use crate::support::{BOUND, SMALL, encoding, files, long, medium, pool, quick, run};

#[test]
fn a_killed_worker_costs_nothing_but_the_time_of_one_attempt() {
    run(async {
        let mut pool = pool(PoolSettings::one_worker(SMALL).worker(SMALL)).await?;
        let output = pool.media.join("killed.mp4");
        let id = pool.client.submit(&medium(&output.display().to_string())).await?.id;
        let running = pool.until(id, BOUND, encoding).await?;
        let owner = running.job.worker.expect("a running job has a worker");
        let victim = usize::from(owner.as_str().ends_with("-1"));
        pool.workers[victim].kill();

        let detail = pool.until_ended(id, BOUND).await?;
        assert_eq!(detail.job.state, State::Completed, "{detail:#?}\n{}", pool.logs());
        assert_eq!(detail.job.failures, 0, "a lost worker is no failure of the job: {detail:#?}");
        let story: Vec<_> = detail.attempts.iter().map(|attempt| attempt.outcome.as_deref()).collect();
        assert_eq!(story, [Some("lapsed"), Some("finished")], "{detail:#?}");
        assert_ne!(detail.attempts[1].worker, owner);
        assert_eq!(files(&pool.media).len(), 2, "the artifact and its manifest: {:?}", files(&pool.media));
        Ok(())
    });
}

/// The broker goes on serving the consumers of an idle worker that stands still, until it misses its heartbeats: 20 s and
/// more. The bound tells that nobody waited for that.
#[test]
fn a_frozen_idle_worker_swallows_no_job() {
    const BEFORE_THE_BROKER_NOTICES: Duration = Duration::from_secs(15);
    run(async {
        let pool = pool(PoolSettings::one_worker(SMALL).worker(SMALL)).await?;
        pool.workers[0].signal(Signal::SIGSTOP);
        for number in 0..4 {
            let output = pool.media.join(format!("{number}.mp4"));
            let submitted = Timestamp::now();
            let id = pool.client.submit(&quick(&output.display().to_string())).await?.id;
            let detail = pool.until_ended(id, BOUND).await?;
            assert_eq!(detail.job.state, State::Completed, "{detail:#?}");
            let waited = detail.attempts[0].started_at.duration_since(submitted);
            assert!(waited.unsigned_abs() < BEFORE_THE_BROKER_NOTICES, "{detail:#?}");
        }
        pool.workers[0].signal(Signal::SIGCONT);
        // What it held is claimed now, and none of it runs.
        let last = pool.client.submit(&quick(&pool.media.join("last.mp4").display().to_string())).await?.id;
        assert_eq!(pool.until_ended(last, BOUND).await?.job.state, State::Completed);
        assert_eq!(files(&pool.media).len(), 10, "artifacts and manifests: {:?}", files(&pool.media));
        Ok(())
    });
}

#[test]
fn a_cancel_ends_the_tool_and_leaves_nothing() {
    run(async {
        let pool = pool(PoolSettings::one_worker(SMALL)).await?;
        let id = pool.client.submit(&long(&pool.media.join("never.mp4").display().to_string())).await?.id;
        pool.until(id, BOUND, encoding).await?;
        pool.client.cancel(id).await?;
        let detail = pool.until_ended(id, BOUND).await?;
        assert_eq!(detail.job.state, State::Cancelled, "{detail:#?}");
        assert_eq!(files(&pool.media), [] as [std::path::PathBuf; 0]);
        // The slot is free again.
        let next = pool.client.submit(&quick(&pool.media.join("next.mp4").display().to_string())).await?.id;
        assert_eq!(pool.until_ended(next, BOUND).await?.job.state, State::Completed);
        Ok(())
    });
}

#[test]
fn a_drained_worker_hands_its_job_over_free_of_charge_and_exits_with_0() {
    run(async {
        let drains = [SMALL, &[("FFPOOL_DRAIN_SECS", "0")]].concat();
        let mut pool = pool(PoolSettings::one_worker(&drains).worker(&drains)).await?;
        let id = pool.client.submit(&medium(&pool.media.join("drained.mp4").display().to_string())).await?.id;
        let running = pool.until(id, BOUND, encoding).await?;
        let owner = running.job.worker.expect("a running job has a worker");
        let number = usize::from(owner.as_str().ends_with("-1"));
        pool.workers[number].signal(Signal::SIGTERM);
        let part = &mut pool.workers[number];
        let status = tokio::task::block_in_place(|| part.wait(BOUND))?;
        assert_eq!(status.code(), Some(0), "{}", pool.workers[number].log_tail());

        let detail = pool.until_ended(id, BOUND).await?;
        assert_eq!(detail.job.state, State::Completed, "{detail:#?}");
        assert_eq!(detail.job.failures, 0, "{detail:#?}");
        assert_eq!(detail.attempts[0].outcome.as_deref(), Some("released"), "{detail:#?}");
        Ok(())
    });
}

#[test]
fn two_dispatchers_share_the_work_and_one_is_enough() {
    run(async {
        let mut pool = pool(PoolSettings::one_worker(SMALL)).await?;
        let second = pool.add_dispatcher().await?;
        let first = pool.client.submit(&medium(&pool.media.join("first.mp4").display().to_string())).await?.id;
        pool.until(first, BOUND, encoding).await?;
        pool.dispatchers[0].kill();
        pool.client = ffpool::Client::open(ffpool::ClientConfig::new(second).key(pool.key.clone()))?;
        let next = pool.client.submit(&quick(&pool.media.join("next.mp4").display().to_string())).await?.id;
        for id in [first, next] {
            let detail = pool.until_ended(id, BOUND).await?;
            assert_eq!(detail.job.state, State::Completed, "{detail:#?}\n{}", pool.logs());
            assert_eq!(detail.attempts.len(), 1, "the encode went on: {detail:#?}");
        }
        Ok(())
    });
}

/// Needs servers of its own: it kills them.
#[test]
fn an_encode_goes_on_while_the_broker_the_ledger_and_nats_are_killed_and_come_back() {
    run(async {
        let stack = tokio::task::spawn_blocking(Stack::start).await??;
        // Pools borrow their servers for ever; the watchdog of the stack ends them with this process.
        let stack: &'static Stack = Box::leak(Box::new(stack));
        let pool = Pool::start(stack, PoolSettings::one_worker(SMALL)).await?;
        let id = pool.client.submit(&medium(&pool.media.join("through.mp4").display().to_string())).await?.id;
        pool.until(id, BOUND, encoding).await?;
        tokio::task::block_in_place(|| -> anyhow::Result<()> {
            stack.rabbit.kill();
            stack.rabbit.restart()?;
            stack.postgres.kill();
            stack.postgres.restart()?;
            pool.nats().kill();
            pool.nats().restart()?;
            Ok(())
        })?;
        let detail = pool.until_ended(id, 2 * BOUND).await?;
        assert_eq!(detail.job.state, State::Completed, "{detail:#?}\n{}", pool.logs());
        assert_eq!(detail.attempts.len(), 1, "the encode was not begun again: {detail:#?}\n{}", pool.logs());
        let next = pool.client.submit(&quick(&pool.media.join("after.mp4").display().to_string())).await?.id;
        let detail = pool.until_ended(next, BOUND.max(Duration::from_secs(120))).await?;
        assert_eq!(detail.job.state, State::Completed, "{detail:#?}\n{}", pool.logs());
        Ok(())
    });
}
