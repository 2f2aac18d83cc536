//! Servers that are away.

use super::*;

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
