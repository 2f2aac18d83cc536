//! Pausing and resuming: one job, or a whole queue.

use crate::by;
use ffpool_schema::job::Queue;
use ffpool_schema::lifecycle::State;
use ffpool_schema::message::{DropReason, HoldScope};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_is_frozen_thawed_and_can_be_cancelled_while_it_is_frozen() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&[]).await;
    let worker = Worker::new(&scene, "w");
    let _alive = worker.live();
    let (id, body) = job();
    let grant = worker.run(&delivery(Some(id), &body)).await;
    let mut orders = scene.signals.subscribe::<JobCommand>(&subjects::control_job(id)).await.unwrap();
    let mut order = async || tokio::time::timeout(BOUND, orders.next()).await.expect("the worker is told").unwrap();

    assert_eq!(dispatcher.ledger().pause(id, &by("test")).await.unwrap(), State::Running);
    // At once, and again until the worker says that it has done it.
    for _ in 0..2 {
        assert_eq!(order().await, JobCommand::Pause { attempt: 1 });
    }
    worker.frozen.lock().unwrap().insert(id);
    scene.until_column(id, "paused AND frozen_since IS NOT NULL", "true").await;
    assert_eq!(scene.column(id, "reason").await.as_deref(), Some("paused by test"));

    assert_eq!(dispatcher.ledger().resume(id, &by("test")).await.unwrap(), State::Running);
    let mut thaws = 0;
    while thaws < 2 {
        match order().await {
            JobCommand::Resume { attempt: 1 } => thaws += 1,
            // One that was on its way when the worker froze the job.
            JobCommand::Pause { attempt: 1 } if thaws == 0 => {}
            other => panic!("{other:?}"),
        }
    }
    worker.frozen.lock().unwrap().clear();
    scene.until_column(id, "NOT paused AND frozen_since IS NULL", "true").await;

    dispatcher.ledger().pause(id, &by("test")).await.unwrap();
    worker.frozen.lock().unwrap().insert(id);
    scene.until_column(id, "frozen_since IS NOT NULL", "true").await;
    assert_eq!(dispatcher.ledger().cancel(id, &by("test")).await.unwrap(), State::Cancelling);
    while order().await != (JobCommand::Cancel { attempt: 1 }) {}
    worker.forget(id);
    scene.report(&worker, &grant, Outcome::Cancelled).await;
    scene.until_column(id, "state", "cancelled").await;
    scene.until_column(id, "NOT paused AND frozen_since IS NULL", "true").await;
    let audited = "SELECT string_agg(action, ' ' ORDER BY id) FROM audit WHERE actor = 'test'";
    let audited: String = scene.sql.query_one(audited, &[]).await.unwrap().get(0);
    assert_eq!(audited, "pause resume pause cancel");
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_job_that_runs_is_told_to_end_with_what_it_has_in_every_attempt_until_it_is_completed() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&[]).await;
    let worker = Worker::new(&scene, "w");
    let _alive = worker.live();
    let (plain, body) = job();
    worker.run(&delivery(Some(plain), &body)).await;
    let refused = dispatcher.ledger().finish(plain, &by("test")).await.unwrap_err();
    assert!(refused.to_string().contains("only a live job"), "{refused}");

    let id = JobId(Uuid::now_v7());
    let body = br#"{"scenario": "720p-h264", "input": "rtmp://in.example/live/key"}"#.to_vec();
    let run = async || {
        let able = |request: &mut ClaimRequest| {
            let features = ["live", "live-rtmp"].map(str::to_owned);
            request.ability.as_mut().unwrap().features.extend(features);
        };
        match worker.claim_as(&delivery(Some(id), &body), able).await {
            ClaimReply::Run(grant) => *grant,
            other => panic!("the claim was not granted: {other:?}"),
        }
    };
    let grant = run().await;
    let mut orders = scene.signals.subscribe::<JobCommand>(&subjects::control_job(id)).await.unwrap();
    let mut order = async || tokio::time::timeout(BOUND, orders.next()).await.expect("the worker is told").unwrap();
    for _ in 0..2 {
        assert_eq!(dispatcher.ledger().finish(id, &by("test")).await.unwrap(), State::Running);
        assert_eq!(order().await, JobCommand::Finish { attempt: 1 });
    }
    // The wish outlives the attempt that was told.
    scene.report(&worker, &grant, Outcome::Released { reason: "a test".to_owned() }).await;
    scene.until_column(id, "state", "queued").await;
    let refused = dispatcher.ledger().finish(id, &by("test")).await.unwrap_err();
    assert!(refused.to_string().contains("only a live job that runs"), "{refused}");
    let grant = run().await;
    while order().await != (JobCommand::Finish { attempt: 2 }) {}
    assert_eq!(worker.ask(subjects::COMMIT, &grant).await, CommitReply::Granted);
    scene.report(&worker, &grant, Outcome::Finished { manifest: None }).await;
    scene.until_column(id, "state", "completed").await;
    scene.until_column(id, "NOT finishing", "true").await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_job_that_waits_is_dropped_at_its_claim_and_published_when_it_is_resumed() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&[]).await;
    let worker = Worker::new(&scene, "w");
    let (id, body) = job();
    scene.publish("jobs.default", "medium", Some(id), &body).await;
    scene.until_column(id, "state", "queued").await;
    assert_eq!(scene.take("jobs.default.medium").await.message_id, Some(id.to_string()));

    assert_eq!(dispatcher.ledger().pause(id, &by("test")).await.unwrap(), State::Queued);
    let dropped = worker.claim(&delivery(Some(id), &body)).await;
    assert_eq!(dropped, ClaimReply::Drop { job: Some(id), reason: DropReason::Superseded });
    assert_eq!(scene.column(id, "state || attempt").await.as_deref(), Some("queued0"));
    assert_eq!(dispatcher.ledger().resume(id, &by("test")).await.unwrap(), State::Queued);
    assert_eq!(scene.take("jobs.default.medium").await.message_id, Some(id.to_string()));
    assert_eq!(worker.run(&delivery(Some(id), &body)).await.attempt, 1);
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_queue_grants_nothing_on_any_dispatcher_and_loses_nothing() {
    let scene = Scene::new().await;
    let (first, second) = (scene.dispatcher(&LONG_LEASE).await, scene.dispatcher(&LONG_LEASE).await);
    let worker = Worker::new(&scene, "w");
    let (running, running_body) = job();
    worker.run(&delivery(Some(running), &running_body)).await;

    first.ledger().pause_queue(Queue::Default, &by("test"), Some("maintenance")).await.unwrap();
    assert_eq!(first.ledger().queue_is_paused(Queue::Default).as_deref(), Some("paused by test: maintenance"));
    until("the other dispatcher knows it", async || {
        second.ledger().queue_is_paused(Queue::Default).map(drop).ok_or_else(|| "not paused there".to_owned())
    })
    .await;
    // Whichever of the two answers.
    for _ in 0..4 {
        let (id, body) = job();
        scene.publish("jobs.default", "medium", Some(id), &body).await;
        let reply = worker.claim(&delivery(Some(id), &body)).await;
        let ClaimReply::Hold { retry_after_ms: 2_000, scope: HoldScope::Queue, reason } = reply else {
            panic!("{reply:?}");
        };
        assert!(reason.contains("maintenance"), "{reason}");
    }
    scene.until_count("SELECT count(*) FROM job WHERE state = 'queued' AND attempt = 0", 4).await;
    // What was granted before the pause is granted again, if its answer was lost.
    assert_eq!(worker.run(&delivery(Some(running), &running_body)).await.attempt, 1);
    let live = Worker::new(&scene, "live");
    let (id, body) = job_with(|spec| spec.queue = Queue::Live);
    let work = WorkQueue { queue: Queue::Live, ..medium() };
    live.run(&DeliveredJob { work, ..delivery(Some(id), &body) }).await;

    let paused = second.ledger().queues_paused().await.unwrap();
    assert_eq!(paused.iter().map(|(queue, _, _)| *queue).collect::<Vec<_>>(), [Queue::Default]);
    second.ledger().resume_queue(Queue::Default, &by("test")).await.unwrap();
    let (id, body) = job();
    until("both grant again", async || match worker.claim(&delivery(Some(id), &body)).await {
        ClaimReply::Run(_) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    first.stop().await;
    second.stop().await;
}
