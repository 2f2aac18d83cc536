//! What a running attempt is told: cancel, pause, make room, lose the lease.

use super::*;

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
