//! How attempts and jobs end, and what comes after.

use crate::by;
use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::lifecycle::State;
use ffpool_schema::message::DropReason;
use ffpool_schema::topology::ATTEMPT_HEADER;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_attempt_completes_the_job_once() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&[]).await;
    let worker = Worker::new(&scene, "w");
    let (id, body) = job();
    let grant = worker.run(&delivery(Some(id), &body)).await;
    assert_eq!(worker.ask(subjects::CUSTODY, &grant).await, CommitReply::Granted);
    assert_eq!(scene.column(id, "custody").await.as_deref(), Some("ledger"));
    assert_eq!(worker.ask(subjects::COMMIT, &grant).await, CommitReply::Granted);
    for _ in 0..2 {
        scene.report(&worker, &grant, Outcome::Finished { manifest: None }).await;
    }
    scene.until_column(id, "state", "completed").await;
    assert_eq!(scene.outcomes(id).await, [Some("finished".to_owned())]);
    assert_eq!(scene.history(id).await, ["recorded", "claim", "take_custody", "commit", "finished"]);

    let other = Worker::new(&scene, "other");
    let late = other.claim(&redelivery(Some(id), &body)).await;
    assert_eq!(late, ClaimReply::Drop { job: Some(id), reason: DropReason::Finished });
    let refused = other.ask(subjects::COMMIT, &grant).await;
    assert!(matches!(refused, CommitReply::Refused { .. }), "{refused:?}");
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_attempt_comes_back_after_its_wait_until_the_budget_is_spent() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&["--backoff-base-secs", "0.5", "--backoff-factor", "1"]).await;
    let worker = Worker::new(&scene, "w");
    let (id, body) = job_with(|spec| spec.max_retries = 1);
    let failure = || Failure::new(Cause::NetTransient, "the network was away");

    let grant = worker.run(&delivery(Some(id), &body)).await;
    scene.report(&worker, &grant, Outcome::Failed { failure: failure() }).await;
    let again = scene.take("jobs.default.medium").await;
    assert_eq!(again.message_id, Some(id.to_string()));
    assert_eq!(again.headers.get(ATTEMPT_HEADER).map(String::as_str), Some("2"));
    assert_eq!((&again.body, again.content_type.as_deref()), (&body, Some("application/json")));
    scene.until_column(id, "publish_due IS NULL AND state = 'queued'", "true").await;

    let grant = worker.run(&delivery(Some(id), &body)).await;
    assert_eq!(grant.attempt, 2);
    scene.report(&worker, &grant, Outcome::Failed { failure: failure() }).await;
    scene.until_column(id, "state", "failed").await;
    assert_eq!(scene.column(id, "failures").await.as_deref(), Some("2"));
    assert_eq!(scene.column(id, "failure->>'cause'").await.as_deref(), Some("net_transient"));

    let failed = "SELECT count(*) FROM failure WHERE cause = 'net_transient' AND";
    assert_eq!(scene.count(&format!("{failed} attempt = 1 AND retried AND NOT dead")).await, 1);
    assert_eq!(scene.count(&format!("{failed} attempt = 2 AND dead AND NOT retried")).await, 1);

    // Handed back is not failed: it comes back at once and costs nothing.
    assert_eq!(dispatcher.ledger().redrive(id, &by("test"), None).await.unwrap(), State::Queued);
    scene.take("jobs.default.medium").await;
    let grant = worker.run(&delivery(Some(id), &body)).await;
    scene.report(&worker, &grant, Outcome::Released { reason: "drain".into() }).await;
    let again = scene.take("jobs.default.medium.returned").await;
    assert_eq!(again.headers.get(ATTEMPT_HEADER).map(String::as_str), Some("4"));
    assert_eq!(scene.column(id, "failures").await.as_deref(), Some("0"));
    assert_eq!(scene.count("SELECT count(*) FROM failure").await, 2);
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_a_lease_and_the_job_goes_to_another() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&["--lease-secs", LEASE_SECS]).await;
    let (silent, steady) = (Worker::new(&scene, "silent"), Worker::new(&scene, "steady"));
    let _steady = steady.live();
    let alive = silent.live();
    let (lost, body) = job();
    let (kept, kept_body) = job();
    silent.run(&delivery(Some(lost), &body)).await;
    steady.run(&delivery(Some(kept), &kept_body)).await;
    scene.until_count("SELECT count(*) FROM worker WHERE state = 'ready'", 2).await;

    let mut orders = scene.signals.subscribe::<JobCommand>(&subjects::control_job(lost)).await.unwrap();
    drop(alive);
    let again = scene.take("jobs.default.medium.returned").await;
    assert_eq!(again.message_id, Some(lost.to_string()));
    assert_eq!(scene.outcomes(lost).await, [Some("lapsed".to_owned())]);
    let noted = "SELECT count(*) FROM failure WHERE cause = 'worker_lost' AND attempt = 1 AND retried";
    assert_eq!(scene.count(noted).await, 1);
    scene.until_count("SELECT count(*) FROM worker WHERE id = 'silent' AND state = 'lost'", 1).await;
    let grant = steady.run(&delivery(Some(lost), &body)).await;
    assert_eq!(grant.attempt, 2);

    // It wakes up and still believes that it runs the first attempt.
    let _awake = silent.live();
    let order = tokio::time::timeout(BOUND, orders.next()).await.expect("it is told").unwrap();
    assert_eq!(order, JobCommand::Abandon { attempt: 1 });
    assert_eq!(scene.column(kept, "state || attempt").await.as_deref(), Some("running1"));
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_ends_when_its_worker_has_ended_it() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&[]).await;
    let worker = Worker::new(&scene, "w");
    let _alive = worker.live();
    let (waiting, waiting_body) = job();
    scene.publish("jobs.default", "medium", Some(waiting), &waiting_body).await;
    scene.until_column(waiting, "state", "queued").await;
    assert_eq!(dispatcher.ledger().cancel(waiting, &by("test")).await.unwrap(), State::Cancelled);
    let late = worker.claim(&delivery(Some(waiting), &waiting_body)).await;
    assert_eq!(late, ClaimReply::Drop { job: Some(waiting), reason: DropReason::Cancelled });

    let (running, body) = job();
    let grant = worker.run(&delivery(Some(running), &body)).await;
    let mut orders = scene.signals.subscribe::<JobCommand>(&subjects::control_job(running)).await.unwrap();
    assert_eq!(dispatcher.ledger().cancel(running, &by("test")).await.unwrap(), State::Cancelling);
    // At once, and again until it is done.
    for _ in 0..2 {
        let order = tokio::time::timeout(BOUND, orders.next()).await.expect("the worker is told").unwrap();
        assert_eq!(order, JobCommand::Cancel { attempt: 1 });
    }
    let refused = worker.ask(subjects::COMMIT, &grant).await;
    assert!(matches!(refused, CommitReply::Refused { .. }), "{refused:?}");
    worker.forget(running);
    scene.report(&worker, &grant, Outcome::Cancelled).await;
    scene.until_column(running, "state", "cancelled").await;
    assert_eq!(scene.column(running, "reason").await.as_deref(), Some("cancelled by test"));
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_from_the_api_is_published_and_one_that_lost_its_message_again() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&[]).await;
    let (id, body) = job_with(|spec| spec.queue = "live".parse().unwrap());
    let submitter = ffpool_dispatcher::ledger::Submitter::default();
    let submitted = dispatcher.ledger().submit(&body, Some("application/json"), &submitter).await.unwrap();
    assert_eq!((submitted.id, submitted.state), (id, State::Queued));
    let message = scene.take("jobs.live.medium").await;
    assert_eq!((message.message_id, message.body), (Some(id.to_string()), body));
    scene.until_column(id, "publish_due IS NULL AND published_at IS NOT NULL", "true").await;

    // The message is gone, as after a broker that lost its disk. The ledger notices when the job has waited for long.
    scene
        .sql
        .execute(
            "UPDATE job SET published_at = now() - interval '1 hour', state_since = now() - interval '1 hour'",
            &[],
        )
        .await
        .unwrap();
    let message = scene.take("jobs.live.medium").await;
    assert_eq!(message.message_id, Some(id.to_string()));
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_handed_back_waits_in_the_twin_unless_a_worker_is_there_that_passes_twins_over() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&[]).await;
    let worker = Worker::new(&scene, "new");
    let old = Worker { revision: 1, ..Worker::new(&scene, "old") };
    let _alive = worker.live();
    let (id, body) = job();
    let (first, twin) = ("jobs.default.medium", "jobs.default.medium.returned");
    for queue in [twin, first] {
        let _old = (queue == first).then(|| old.live());
        scene.until_count("SELECT count(*) FROM worker", if queue == first { 2 } else { 1 }).await;
        let grant = worker.run(&delivery(Some(id), &body)).await;
        scene.report(&worker, &grant, Outcome::Released { reason: "drain".into() }).await;
        assert_eq!(scene.take(queue).await.message_id, Some(id.to_string()));
    }
    // A message that vanished is replaced where it was.
    assert_eq!(scene.column(id, "returned").await.as_deref(), Some("true"));
    worker.run(&delivery(Some(id), &body)).await;
    assert_eq!(scene.column(id, "returned").await.as_deref(), Some("false"));
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_costs_what_was_asked_when_it_ended_whatever_is_asked_later() {
    let scene = Scene::new().await;
    let worker = Worker::new(&scene, "w");
    let used = Usage { wall_ms: 1000, cpu_ms: 7_200_000, energy_joules: Some(3_600_000.0), ..Usage::default() };
    let mut jobs = Vec::new();
    for prices in [&["--price-core-hour", "0.5", "--price-kwh", "0.25"][..], &["--price-core-hour", "4"], &[]] {
        // This worker has no heartbeat, and whatever the machine does meanwhile it is to keep its lease.
        let dispatcher = scene.dispatcher(&[&LONG_LEASE[..], prices].concat()).await;
        let (id, body) = job();
        let grant = worker.run(&delivery(Some(id), &body)).await;
        assert_eq!(worker.ask(subjects::COMMIT, &grant).await, CommitReply::Granted);
        for _ in 0..2 {
            let finished = Outcome::Finished { manifest: None };
            scene.report_used(&worker, &grant, finished, Some(used.clone())).await;
        }
        scene.until_column(id, "state", "completed").await;
        jobs.push(id);
        dispatcher.stop().await;
    }
    let mut costs = Vec::new();
    for id in jobs {
        let sql = "SELECT concat(cost, ' ', currency, ' ', usage ->> 'energy_joules') FROM attempt WHERE job = $1";
        costs.push(scene.sql.query_one(sql, &[&id.0]).await.unwrap().get::<_, String>(0));
    }
    assert_eq!(costs, ["1.25 EUR 3600000.0", "8 EUR 3600000.0", "  3600000.0"]);
}
