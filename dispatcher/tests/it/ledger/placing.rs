//! What the next attempt of a job gets after a failure, jobs that come too late, and kinds of dead letters.

use ffpool_schema::api::PurgeRequest;
use ffpool_schema::encode::{CodecChoice, Encoder, VideoCodec};
use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::job::{Engine, HardwarePolicy};
use ffpool_schema::lifecycle::State;
use ffpool_schema::message::DropReason;

use super::*;

const FAST: &[&str] = &["--backoff-base-secs", "0.2", "--backoff-factor", "1"];

fn on_nvidia(spec: &mut JobSpec) {
    spec.engine = Engine::Ffmpeg;
    spec.parameters.codec = Some(CodecChoice::Encoder(Encoder::H264Nvenc));
    spec.parameters.preset = Some("p4".into());
    spec.parameters.hw = Some(HardwarePolicy::Prefer);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_doubled_after_running_out_of_it_and_a_failed_device_is_left_for_software() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(FAST).await;
    let worker = Worker::new(&scene, "w");
    for (asked, then) in [(1_000, 2_000), (6_000, 8_192)] {
        let (id, body) = job_with(|spec| spec.resource_limits.max_memory_mb = Some(asked));
        let grant = worker.run(&delivery(Some(id), &body)).await;
        assert_eq!(grant.spec.resource_limits.max_memory_mb, Some(asked));
        let failure = Failure::new(Cause::Oom, "out of memory");
        scene.report(&worker, &grant, Outcome::Failed { failure }).await;
        scene.take("jobs.default.medium").await;
        let grant = worker.run(&delivery(Some(id), &body)).await;
        assert_eq!(grant.spec.resource_limits.max_memory_mb, Some(then), "capped by what the worker has");
    }

    let with_device = |request: &mut ClaimRequest| {
        let encoders = vec!["libx264".into(), "h264_nvenc".into()];
        request.ability = Some(Ability { encoders, ..ability() });
    };
    let granted = |reply: ClaimReply| match reply {
        ClaimReply::Run(grant) => *grant,
        other => panic!("not granted: {other:?}"),
    };
    let (id, body) = job_with(on_nvidia);
    let grant = granted(worker.claim_as(&delivery(Some(id), &body), with_device).await);
    assert_eq!(grant.encode.as_ref().unwrap().video.encoder, Some(Encoder::H264Nvenc));
    let failure = Failure::new(Cause::Device, "no capable device");
    scene.report(&worker, &grant, Outcome::Failed { failure }).await;
    scene.take("jobs.default.medium").await;
    let grant = granted(worker.claim_as(&delivery(Some(id), &body), with_device).await);
    let video = grant.encode.unwrap().video;
    assert_eq!((video.encoder, video.codec, video.preset), (None, VideoCodec::H264, None));

    // Where the device is only preferred and not there, software runs at once.
    let (id, body) = job_with(on_nvidia);
    let grant = worker.run(&delivery(Some(id), &body)).await;
    assert_eq!(grant.encode.unwrap().video.encoder, None);
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_lost_two_workers_runs_alone_and_is_parked_when_it_loses_the_third() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&["--lease-secs", "600"]).await;
    let (id, body) = job();
    let busy = |request: &mut ClaimRequest| request.idle = false;
    let first = Worker::new(&scene, "first").run(&delivery(Some(id), &body)).await;
    assert!(!first.alone);
    assert!(!Worker::new(&scene, "second").run(&redelivery(Some(id), &body)).await.alone);
    // The owner is dead: the second loss. Whoever runs other jobs does not get it.
    let third = Worker::new(&scene, "third");
    let dropped = third.claim_as(&redelivery(Some(id), &body), busy).await;
    assert_eq!(dropped, ClaimReply::Drop { job: Some(id), reason: DropReason::Superseded });
    scene.take("jobs.default.medium.returned").await;
    let dropped = third.claim_as(&delivery(Some(id), &body), busy).await;
    assert_eq!(dropped, ClaimReply::Drop { job: Some(id), reason: DropReason::Unfit });
    assert!(scene.column(id, "reason").await.unwrap().contains("nothing else"));
    scene.take("jobs.default.medium").await;
    let grant = third.run(&delivery(Some(id), &body)).await;
    assert!(grant.alone && grant.attempt == 3, "{grant:?}");

    let parked = Worker::new(&scene, "fourth").claim(&redelivery(Some(id), &body)).await;
    assert_eq!(parked, ClaimReply::Drop { job: Some(id), reason: DropReason::Finished });
    assert_eq!(scene.column(id, "state").await.as_deref(), Some("failed"));
    assert_eq!(scene.column(id, "last_cause").await.as_deref(), Some("worker_lost"));
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_a_job_that_waits_and_one_that_runs_and_is_looked_at_before_a_grant() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&[]).await;
    let worker = Worker::new(&scene, "w");
    let _alive = worker.live();
    let soon = |secs| move |spec: &mut JobSpec| spec.deadline = Some(Timestamp::now() + Duration::from_secs(secs));

    // Nobody has looked at it yet when it is claimed.
    let (late, body) = job_with(|spec| spec.deadline = Some(Timestamp::now() - Duration::from_secs(60)));
    let dropped = worker.claim(&delivery(Some(late), &body)).await;
    assert_eq!(dropped, ClaimReply::Drop { job: Some(late), reason: DropReason::Finished });
    assert_eq!(scene.column(late, "state || attempt || last_cause").await.as_deref(), Some("failed0deadline"));

    let (waiting, body) = job_with(soon(2));
    scene.publish("jobs.default", "medium", Some(waiting), &body).await;
    scene.until_column(waiting, "state", "failed").await;
    // Whoever sends it round again wants it to run.
    assert_eq!(dispatcher.ledger().redrive(waiting, "test", None).await.unwrap(), State::Queued);
    assert_eq!(worker.run(&delivery(Some(waiting), &body)).await.attempt, 1);

    let (running, body) = job_with(soon(20));
    let mut orders = scene.signals.subscribe::<JobCommand>(&subjects::control_job(running)).await.unwrap();
    let grant = worker.run(&delivery(Some(running), &body)).await;
    let order = tokio::time::timeout(BOUND, orders.next()).await.expect("the worker is told").unwrap();
    assert_eq!(order, JobCommand::Cancel { attempt: 1 });
    worker.forget(running);
    scene.report(&worker, &grant, Outcome::Cancelled).await;
    scene.until_column(running, "state", "cancelled").await;
    assert!(scene.column(running, "reason").await.unwrap().starts_with("deadline"));
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_one_kind_are_redriven_and_purged_together() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&[]).await;
    let worker = Worker::new(&scene, "w");
    let fail = async |evidence: &str| {
        let (id, body) = job();
        let grant = worker.run(&delivery(Some(id), &body)).await;
        let failure =
            Failure { evidence: Some(evidence.into()), ..Failure::new(Cause::InputBad, "the input is damaged") };
        scene.report(&worker, &grant, Outcome::Failed { failure }).await;
        scene.until_column(id, "state", "failed").await;
        (id, scene.column(id, "dead_fingerprint").await.unwrap())
    };
    let (first, kind) = fail("/srv/a.mp4: Invalid data found at 17").await;
    let (second, same) = fail("/srv/b.mp4: Invalid data found at 4711").await;
    let (third, other) = fail("/srv/b.mp4: moov atom not found").await;
    assert_eq!(kind, same);
    assert_ne!(kind, other);

    let report = dispatcher.ledger().redrive_kind(&kind, "test", Some("replaced")).await.unwrap();
    assert_eq!((report.redriven, report.refused.len()), (vec![first, second], 0));
    assert_eq!(scene.column(first, "dead_fingerprint IS NULL AND state = 'queued'").await.as_deref(), Some("true"));

    // Only dead letters can be purged.
    let request = PurgeRequest { ids: vec![first], fingerprint: Some(other), reason: "test".into() };
    assert_eq!(dispatcher.ledger().purge(&request, "test").await.unwrap().purged, 1);
    assert_eq!(scene.column(third, "state").await, None);
    assert_eq!(scene.column(first, "state").await.as_deref(), Some("queued"));
    assert!(scene.history(third).await.is_empty() && scene.outcomes(third).await.is_empty());
    scene.until_count("SELECT count(*) FROM audit WHERE action IN ('redrive', 'purge') AND actor = 'test'", 2).await;
    dispatcher.stop().await;
}
