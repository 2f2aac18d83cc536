//! Several dispatchers side by side.

use ffpool_broker::Subscription;
use ffpool_dispatcher::ledger::{Ledger, LedgerSettings, Policy};
use ffpool_schema::lifecycle::State;
use ffpool_schema::retry::Backoff;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn two_dispatchers_answer_both_and_one_leads_whoever_dies() {
    let scene = Scene::new().await;
    let first = scene.dispatcher(&["--lease-secs", LEASE_SECS]).await;
    until("the first leads", async || first.leads().then_some(()).ok_or("not yet".into())).await;
    let second = scene.dispatcher(&["--lease-secs", LEASE_SECS]).await;
    assert!(!second.leads());

    let worker = Worker::new(&scene, "w");
    let alive = worker.live();
    let mut jobs = Vec::new();
    for _ in 0..40 {
        let (id, body) = job();
        worker.run(&delivery(Some(id), &body)).await;
        jobs.push((id, body));
    }
    scene.until_count("SELECT count(*) FROM progress_curve", 40).await;

    // As by a crash, not by a stop.
    drop(first);
    until("the second leads", async || second.leads().then_some(()).ok_or("not yet".into())).await;
    let (id, body) = job();
    worker.run(&delivery(Some(id), &body)).await;
    // The new leader renews, and ends what falls silent.
    scene
        .until_count(
            "SELECT count(*) FROM job WHERE state = 'running' AND lease_until > now() + interval '1 second'",
            41,
        )
        .await;
    // It goes on with what the other drew.
    let drawn = "SELECT count(*) FROM progress_curve WHERE cardinality(at_secs) >= 2 AND percent[1] <= percent[2] AND fps[1] = 25";
    scene.until_count(drawn, 41).await;
    drop(alive);
    scene
        .until_count("SELECT count(*) FROM job WHERE state = 'queued' AND attempt = 1 AND published_at IS NOT NULL", 41)
        .await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_whose_dispatcher_died_before_it_told_the_worker_is_told_by_another_or_by_the_next() {
    let scene = Scene::new().await;
    let worker = Worker::new(&scene, "w");
    let _alive = worker.live();
    // Accepts the cancel and is gone: nobody listens to what it would tell.
    let accept = async |job: JobId| {
        let policy = Policy { lease: Duration::from_secs(5), backoff: Backoff::default(), loss_limit: 3 };
        let settings = LedgerSettings {
            database_url: scene.database_url.clone(),
            migration_url: None,
            amqp_tenants: Default::default(),
            policy,
            catalog: Arc::default(),
            secrets: Arc::default(),
            prices: Default::default(),
        };
        let dead = Ledger::open(&settings).await.unwrap();
        assert_eq!(dead.cancel(job, &crate::by("test")).await.unwrap(), State::Cancelling);
    };
    let heed = async |grant: Grant, orders: &mut Subscription<JobCommand>| {
        let order = tokio::time::timeout(BOUND, orders.next()).await.expect("the worker is told").unwrap();
        assert_eq!(order, JobCommand::Cancel { attempt: 1 });
        worker.forget(grant.job);
        scene.report(&worker, &grant, Outcome::Cancelled).await;
        scene.until_column(grant.job, "state", "cancelled").await;
    };
    let first = scene.dispatcher(&[]).await;
    let mut grants = Vec::new();
    for _ in 0..2 {
        let (id, body) = job();
        let grant = worker.run(&delivery(Some(id), &body)).await;
        let orders = scene.signals.subscribe::<JobCommand>(&subjects::control_job(id)).await.unwrap();
        grants.push((grant, orders));
    }
    // Another replica is there.
    let (grant, mut orders) = grants.pop().unwrap();
    accept(grant.job).await;
    heed(grant, &mut orders).await;

    // None is there, until one starts.
    drop(first);
    let (grant, mut orders) = grants.pop().unwrap();
    accept(grant.job).await;
    let second = scene.dispatcher(&[]).await;
    heed(grant, &mut orders).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_dispatcher_gives_up_the_lead_at_once_and_loses_nothing() {
    let scene = Scene::new().await;
    let first = scene.dispatcher(&[]).await;
    until("the first leads", async || first.leads().then_some(()).ok_or("not yet".into())).await;
    let second = scene.dispatcher(&[]).await;
    let mut ids = Vec::new();
    for _ in 0..200 {
        let (id, body) = job();
        scene.publish("jobs.default", "medium", Some(id), &body).await;
        ids.push(id);
    }
    first.stop().await;
    until("the second leads", async || second.leads().then_some(()).ok_or("not yet".into())).await;
    scene.until_count("SELECT count(*) FROM job WHERE state = 'queued'", 200).await;
    second.stop().await;
}
