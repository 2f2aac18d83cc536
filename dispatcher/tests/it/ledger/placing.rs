//! What the next attempt of a job gets after a failure, jobs that come too late, and kinds of dead letters.

use crate::by;
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

    // The same where the worker chooses the device.
    let (id, body) = job_with(|spec| {
        spec.engine = Engine::Ffmpeg;
        spec.parameters.hw = Some(HardwarePolicy::Prefer);
    });
    let grant = granted(worker.claim_as(&delivery(Some(id), &body), with_device).await);
    assert_eq!(grant.encode.as_ref().unwrap().video.hw, Some(HardwarePolicy::Prefer));
    let failure = Failure::new(Cause::Device, "no capable device");
    scene.report(&worker, &grant, Outcome::Failed { failure }).await;
    scene.take("jobs.default.medium").await;
    let grant = granted(worker.claim_as(&delivery(Some(id), &body), with_device).await);
    assert_eq!(grant.encode.unwrap().video.hw, None);

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
    scene.take("jobs.default.medium.returned").await;
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
    assert_eq!(dispatcher.ledger().redrive(waiting, &by("test"), None).await.unwrap(), State::Queued);
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

    let report = dispatcher.ledger().redrive_kind(&kind, &by("test"), Some("replaced")).await.unwrap();
    assert_eq!((report.redriven, report.refused.len()), (vec![first, second], 0));
    assert_eq!(scene.column(first, "dead_fingerprint IS NULL AND state = 'queued'").await.as_deref(), Some("true"));

    // Only dead letters can be purged.
    let request = PurgeRequest { ids: vec![first], fingerprint: Some(other), reason: "test".into() };
    assert_eq!(dispatcher.ledger().purge(&request, &by("test")).await.unwrap().purged, 1);
    assert_eq!(scene.column(third, "state").await, None);
    assert_eq!(scene.column(first, "state").await.as_deref(), Some("queued"));
    assert!(scene.history(third).await.is_empty() && scene.outcomes(third).await.is_empty());
    scene.until_count("SELECT count(*) FROM audit WHERE action IN ('redrive', 'purge') AND actor = 'test'", 2).await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fits_another_is_offered_to_it_and_taken_without_a_delivery() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&[]).await;
    let small = Worker::new(&scene, "small");
    let large = Worker { takes_offers: true, ..Worker::new(&scene, "large") };
    let old = Worker { revision: 2, takes_offers: true, ..Worker::new(&scene, "old") };
    let alive = large.live();
    let _others = [small.live(), old.live()];
    scene.until_count("SELECT count(*) FROM worker WHERE state = 'ready'", 3).await;
    let tiny = Ability { memory_mb: 512, ..ability() };
    let (id, body) = job_with(|spec| spec.resource_limits.max_memory_mb = Some(4096));
    let refused = small.claim_as(&delivery(Some(id), &body), |request| request.ability = Some(tiny.clone())).await;
    assert_eq!(refused, ClaimReply::Drop { job: Some(id), reason: DropReason::Unfit });

    assert_eq!(large.until_offered().await, (id, false));
    scene.until_column(id, "reason", "offered to worker large, which waits until 4 slots are free").await;
    assert!(old.offered.lock().unwrap().is_none(), "a worker of an old version is asked nothing");
    // Named in heartbeats, the offer stands for longer than it would by itself.
    scene.until_column(id, "now() - state_since > interval '12 seconds'", "true").await;
    assert_eq!(scene.column(id, "state").await.as_deref(), Some("delayed"));
    assert_eq!(small.take(id).await, ClaimReply::Drop { job: Some(id), reason: DropReason::Superseded });
    let ClaimReply::Run(grant) = large.take(id).await else { panic!("it was offered to it") };
    assert_eq!((grant.job, grant.attempt, grant.spec.resource_limits.max_memory_mb), (id, 1, Some(4096)));
    assert_eq!(scene.column(id, "state || ' ' || custody").await.as_deref(), Some("running ledger"));
    assert_eq!(large.take(id).await, ClaimReply::Run(grant.clone()), "a lost answer is given again");
    // What it still says in its heartbeat is not so any more: it is told.
    until("the worker is told", async || match *large.offered.lock().unwrap() {
        None => Ok(()),
        kept => Err(format!("{kept:?}")),
    })
    .await;
    scene.report(&large, &grant, Outcome::Finished { manifest: None }).await;
    drop(alive);
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_ends_with_its_worker_with_a_cancel_and_where_nobody_takes_it() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&[]).await;
    let small = Worker::new(&scene, "small");
    let _small = small.live();
    let large = Worker { takes_offers: true, ..Worker::new(&scene, "large") };
    let alive = large.live();
    scene.until_count("SELECT count(*) FROM worker WHERE state = 'ready'", 2).await;
    let tiny = Ability { memory_mb: 512, ..ability() };
    let misplace = async |id: JobId| {
        let (_, body) = job_with(|spec| {
            spec.id = Some(id);
            spec.resource_limits.max_memory_mb = Some(4096);
        });
        let reply = small.claim_as(&delivery(Some(id), &body), |request| request.ability = Some(tiny.clone())).await;
        assert_eq!(reply, ClaimReply::Drop { job: Some(id), reason: DropReason::Unfit });
    };
    // On a busy machine the job may be published before it is offered; then it is misplaced again, as in a pool.
    let until_offered = async |id: JobId| {
        misplace(id).await;
        until("an offer", async || {
            if scene.column(id, "state").await.as_deref() == Some("queued") {
                misplace(id).await;
            }
            let offered = *large.offered.lock().unwrap();
            if offered == Some((id, false)) { Ok(()) } else { Err(format!("{offered:?}")) }
        })
        .await;
    };
    let until_published = async |id: JobId| {
        while scene.take("jobs.default.medium").await.message_id != Some(id.to_string()) {}
    };
    let [cancelled, lost, declined] = [1, 2, 3].map(|_| JobId(Uuid::now_v7()));

    until_offered(cancelled).await;
    dispatcher.ledger().cancel(cancelled, &by("test")).await.unwrap();
    until("the room is given up", async || match *large.offered.lock().unwrap() {
        None => Ok(()),
        kept => Err(format!("{kept:?}")),
    })
    .await;

    until_offered(lost).await;
    drop(alive);
    until_published(lost).await;
    assert_eq!(scene.column(lost, "attempt").await.as_deref(), Some("0"));

    let decliner = Worker::new(&scene, "decliner");
    let _decliner = decliner.live();
    scene.until_count("SELECT count(*) FROM worker WHERE id = 'decliner' AND state = 'ready'", 1).await;
    misplace(declined).await;
    until("the offer is declined", async || {
        if scene.column(declined, "state").await.as_deref() == Some("queued") {
            misplace(declined).await;
        }
        let history = scene.history(declined).await;
        if history.contains(&"offer_declined".to_owned()) { Ok(()) } else { Err(format!("{history:?}")) }
    })
    .await;
    until_published(declined).await;
    dispatcher.stop().await;
}
