//! Claims: who may run what, whichever message comes first.

use std::collections::BTreeSet;

use ffpool_schema::device::DeviceState;
use ffpool_schema::encode::Encode;
use ffpool_schema::job::{Engine, HardwarePolicy};
use ffpool_schema::message::{DropReason, LostEncoder};
use futures_util::future::join_all;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_overtakes_the_tap_makes_the_row_and_the_tap_finds_it() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&[]).await;
    let worker = Worker::new(&scene, "w");
    let (id, body) = job();

    let grant = worker.run(&delivery(Some(id), &body)).await;
    assert_eq!((grant.job, grant.attempt, grant.spec.id), (id, 1, Some(id)));
    assert_eq!(scene.column(id, "tapped").await.as_deref(), Some("false"));
    scene.publish("jobs.default", "medium", Some(id), &body).await;
    scene.until_column(id, "tapped", "true").await;
    assert_eq!(scene.column(id, "state || attempt").await.as_deref(), Some("running1"));
    assert_eq!(scene.history(id).await, ["recorded", "claim"]);

    // The answer was lost: the same worker gets the same attempt, another gets none.
    assert_eq!(worker.run(&delivery(Some(id), &body)).await.attempt, 1);
    let other = Worker::new(&scene, "other").claim(&delivery(Some(id), &body)).await;
    assert_eq!(other, ClaimReply::Drop { job: Some(id), reason: DropReason::OwnerAlive });
    assert_eq!(scene.column(id, "custody").await.as_deref(), Some("ledger"));
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_bodies_without_an_id_are_as_many_jobs_each_claimed_once() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&[]).await;
    let body = serde_json::to_vec(&serde_json::json!({"scenario": "720p30-h264", "engine": "noop"})).unwrap();

    // Claims before, beside and after the taps of five copies.
    let workers: Vec<Worker> = (0..5).map(|n| Worker::new(&scene, &format!("w{n}"))).collect();
    let first = workers[0].run(&delivery(None, &body)).await;
    for _ in 0..5 {
        scene.publish("jobs.default", "medium", None, &body).await;
    }
    let copy = delivery(None, &body);
    let rest = join_all(workers[1..].iter().map(|worker| worker.run(&copy))).await;
    let jobs: BTreeSet<JobId> = rest.iter().chain([&first]).map(|grant| grant.job).collect();
    assert_eq!(jobs.len(), 5, "each claim has a job of its own");
    scene.until_count("SELECT count(*) FROM job WHERE tapped", 5).await;
    assert_eq!(scene.count("SELECT count(*) FROM job").await, 5);

    // A copy comes back although its worker lives: nobody runs it twice.
    let _alive: Vec<_> = workers.iter().map(Worker::live).collect();
    let stranger = Worker::new(&scene, "stranger");
    until("the workers answer", async || match stranger.claim(&redelivery(None, &body)).await {
        ClaimReply::Drop { reason: DropReason::OwnerAlive, .. } => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(scene.count("SELECT count(*) FROM job").await, 5);
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_claims_at_once_are_decided_in_few_transactions() {
    const JOBS: usize = 500;
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    let worker = Worker::new(&scene, "w");
    let jobs: Vec<(JobId, Vec<u8>)> = (0..JOBS).map(|_| job()).collect();

    let grants = join_all(jobs.iter().map(async |(id, body)| worker.run(&delivery(Some(*id), body)).await)).await;
    assert!(grants.iter().all(|grant| grant.attempt == 1));
    assert_eq!(scene.count("SELECT count(*) FROM job WHERE state = 'running'").await, 500);
    // A transaction has one time: it stands in all the rows that it wrote.
    let transactions = scene.count("SELECT count(DISTINCT started_at) FROM attempt").await;
    assert!(transactions < 250, "{transactions} transactions for {JOBS} claims");
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redelivery_passes_on_the_job_of_a_dead_worker_at_once() {
    let scene = Scene::new().await;
    // A lease so long that only the question to the owner can end it.
    let dispatcher = scene.dispatcher(&["--lease-secs", "600"]).await;
    let (id, body) = job();
    let dead = Worker::new(&scene, "dead");
    dead.run(&delivery(Some(id), &body)).await;
    let grant = Worker::new(&scene, "heir").run(&redelivery(Some(id), &body)).await;
    assert_eq!(grant.attempt, 2);
    assert_eq!(scene.outcomes(id).await, [Some("lapsed".to_owned()), None]);

    // A restarted worker of the same name is another life.
    let (id, body) = job();
    let before = Worker::new(&scene, "restarted");
    before.run(&delivery(Some(id), &body)).await;
    let after = Worker::new(&scene, "restarted");
    let _alive = after.live();
    assert_eq!(after.run(&redelivery(Some(id), &body)).await.attempt, 2);

    // Without an id too.
    let body = b"{\"scenario\": \"720p30-h264\", \"engine\": \"noop\"}";
    let first = dead.run(&delivery(None, body)).await;
    let second = Worker::new(&scene, "heir").run(&redelivery(None, body)).await;
    assert_eq!((second.job, second.attempt), (first.job, 2));
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fits_nobody_is_rejected_and_one_that_fits_another_waits_for_it() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&[]).await;
    let (small, large) = (Worker::new(&scene, "small"), Worker::new(&scene, "large"));
    let _alive = [small.live(), large.live()];
    scene.until_count("SELECT count(*) FROM worker WHERE state = 'ready'", 2).await;
    let tiny = Ability { memory_mb: 512, stores: Vec::new(), ..ability() };
    let claim = async |id: JobId, body: &[u8]| {
        small.claim_as(&delivery(Some(id), body), |request| request.ability = Some(tiny.clone())).await
    };

    let (id, body) = job_with(|spec| spec.resource_limits.max_memory_mb = Some(4096));
    assert_eq!(claim(id, &body).await, ClaimReply::Drop { job: Some(id), reason: DropReason::Unfit });
    let again = scene.take("jobs.default.medium").await;
    assert_eq!(again.message_id, Some(id.to_string()));
    assert_eq!(large.run(&delivery(Some(id), &body)).await.attempt, 1);

    // One of them reaches the store.
    let (id, body) = job_with(|spec| spec.output = Some("s3://media/out.mp4".into()));
    assert_eq!(claim(id, &body).await, ClaimReply::Drop { job: Some(id), reason: DropReason::Unfit });
    scene.take("jobs.default.medium").await;
    assert_eq!(large.run(&delivery(Some(id), &body)).await.attempt, 1);

    // Nobody has so much. While the dispatcher does not know everybody yet, the job waits.
    let (id, body) = job_with(|spec| spec.resource_limits.max_memory_mb = Some(1_000_000));
    until("the job is rejected", async || match claim(id, &body).await {
        ClaimReply::Drop { reason: DropReason::Rejected, .. } => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(scene.column(id, "state").await.as_deref(), Some("rejected"));
    assert!(scene.column(id, "faults").await.unwrap().contains("max_memory_mb"));
    // A device that failed too often is there again after a while: its jobs wait.
    let (id, body) = job_with(|spec| {
        spec.engine = Engine::Ffmpeg;
        spec.parameters.hw = Some(HardwarePolicy::Require);
    });
    let resting = DeviceState {
        device: "nvenc:0".into(),
        sessions: 1,
        used: 0,
        encoders: Vec::new(),
        resting: vec!["h264_nvenc".into()],
    };
    let sick = Ability { devices: vec![resting], features: vec![Encode::CHOOSES_DEVICE.into()], ..ability() };
    let reply = small.claim_as(&delivery(Some(id), &body), |request| request.ability = Some(sick.clone())).await;
    assert_eq!(reply, ClaimReply::Drop { job: Some(id), reason: DropReason::Unfit });
    let waits = "waits for an encoder that failed and is tried again";
    assert!(scene.column(id, "reason").await.unwrap().starts_with(waits));
    // So do those of an encoder that a worker has lost.
    let (id, body) = job_with(|spec| {
        spec.engine = Engine::Ffmpeg;
        spec.parameters.codec = "libx265".parse().ok();
    });
    let lost = vec![LostEncoder { encoder: "libx265".into(), why: "Unknown encoder".into() }];
    let sick = Ability { lost, ..ability() };
    let reply = small.claim_as(&delivery(Some(id), &body), |request| request.ability = Some(sick.clone())).await;
    assert_eq!(reply, ClaimReply::Drop { job: Some(id), reason: DropReason::Unfit });
    assert!(scene.column(id, "reason").await.unwrap().starts_with(waits));
    let (id, body) = job_with(|spec| spec.output = Some("gs://media/out.mp4".into()));
    assert_eq!(claim(id, &body).await, ClaimReply::Drop { job: Some(id), reason: DropReason::Rejected });
    assert!(scene.column(id, "faults").await.unwrap().contains("no worker here serves gs://media/out.mp4"));
    dispatcher.stop().await;
}
