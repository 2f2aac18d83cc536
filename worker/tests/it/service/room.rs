//! Whose turn it is, and whether there is room.

use super::*;

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
