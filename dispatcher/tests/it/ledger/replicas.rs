//! Several dispatchers side by side.

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
    drop(alive);
    scene
        .until_count("SELECT count(*) FROM job WHERE state = 'queued' AND attempt = 1 AND published_at IS NOT NULL", 41)
        .await;
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
