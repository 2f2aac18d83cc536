//! The small picture of what a job made: kept with the report that it came with, gone with the job or with its files.

use ffpool_dispatcher::ledger::{Keep, Retention};
use ffpool_schema::thumbnail::Thumbnail;

use super::*;
use crate::by;

const JPEG: &[u8] = include_bytes!("../api/thumbnail.jpg");

async fn kept(scene: &Scene, job: JobId) -> Option<(i32, Vec<u8>)> {
    let row = scene.sql.query_opt("SELECT attempt, jpeg FROM thumbnail WHERE job = $1", &[&job.0]).await.unwrap();
    row.map(|row| (row.get(0), row.get(1)))
}

/// Runs a job to its end, which is reported with this picture.
async fn finish(scene: &Scene, worker: &Worker, thumbnail: Option<String>) -> JobId {
    let (id, body) = job();
    let grant = worker.run(&delivery(Some(id), &body)).await;
    assert_eq!(worker.ask(subjects::COMMIT, &grant).await, CommitReply::Granted);
    scene.report_seen(worker, &grant, Outcome::Finished { manifest: None }, thumbnail).await;
    scene.until_column(id, "state", "completed").await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_is_kept_with_the_report_and_goes_with_the_job_or_its_files() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    let (ledger, worker) = (dispatcher.ledger(), Worker::new(&scene, "w"));
    let picture = Thumbnail::of(JPEG.to_vec()).unwrap().written();
    let [old, forgotten, stays] = [
        finish(&scene, &worker, Some(picture.clone())).await,
        finish(&scene, &worker, Some(picture.clone())).await,
        finish(&scene, &worker, Some(picture.clone())).await,
    ];
    for id in [old, forgotten, stays] {
        assert_eq!(kept(&scene, id).await, Some((1, JPEG.to_vec())));
    }

    let (_, bytes) = ledger.forget_files(forgotten, &by("operator")).await.unwrap();
    assert_eq!((bytes, kept(&scene, forgotten).await), (0, None));
    let long_ago = "UPDATE job SET ended_at = now() - interval '2 days' WHERE id = $1";
    scene.sql.execute(long_ago, &[&old.0]).await.unwrap();
    let retention = Retention { ended: Keep::Days(1), dead: Keep::Forever };
    assert_eq!(ledger.forget_ended(retention).await.unwrap().jobs, 1);
    assert_eq!(kept(&scene, old).await, None);
    assert!(kept(&scene, stays).await.is_some());

    // The report of an attempt that is not finished has none, whatever it says, and its job keeps none.
    let (id, body) = job();
    let grant = worker.run(&delivery(Some(id), &body)).await;
    let released = Outcome::Released { reason: "it drains".to_owned() };
    scene.report_seen(&worker, &grant, released, Some(picture)).await;
    scene.until_column(id, "state", "queued").await;
    assert_eq!(kept(&scene, id).await, None);
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_counts_without_what_is_no_picture() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    let worker = Worker::new(&scene, "w");
    let encoded = |bytes: &[u8]| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(bytes)
    };
    let large = [JPEG, &vec![0; 40_000], b"\xff\xd9"].concat();
    for wrong in [
        Some("<script>alert(1)</script>".to_owned()),
        Some(encoded(b"<html><script>alert(1)</script></html>")),
        Some(encoded(&large)),
        Some(encoded(&JPEG[..JPEG.len() / 2])),
        // A worker of before.
        None,
    ] {
        let id = finish(&scene, &worker, wrong.clone()).await;
        assert_eq!(kept(&scene, id).await, None, "{wrong:?}");
    }
    assert_eq!(scene.count("SELECT count(*) FROM stray").await, 0);
    dispatcher.stop().await;
}
