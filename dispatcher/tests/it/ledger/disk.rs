//! A full disk under Postgres: nothing is acknowledged that is not recorded, and everything goes on when there is room.
//!
//! This mounts a small file system in memory, for which it needs to be root.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use ffpool_stack::SmallDisk;

use super::*;

/// Room for Postgres and what the test does before the disk is filled.
const OPTIONS: &str = "size=256m,mode=755";

/// Writes until not one byte more fits.
fn fill(path: &Path) {
    let mut ballast = File::create(path).unwrap();
    let block = vec![1; 1 << 20];
    // The last write is a short one, and the one after it fails.
    loop {
        match ballast.write(&block) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => return,
            Err(error) => panic!("write the ballast: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_disk_of_postgres_is_full() {
    const JOBS: i64 = 1_000;
    // Before the stack, so that it is unmounted after it.
    let at = tempfile::tempdir().unwrap();
    let _disk = SmallDisk::mount(at.path(), OPTIONS);
    let root = at.path().to_owned();
    let stack = tokio::task::block_in_place(|| Stack::builder().rabbit(false).nats(false).root(root).start()).unwrap();
    let (amqp, database) =
        tokio::task::block_in_place(|| (Stack::shared().rabbit.new_vhost(), stack.postgres.new_database()));
    let mut scene = Scene::on(amqp, database).await;
    let dispatcher = scene.dispatcher(&["--lease-secs", LEASE_SECS]).await;
    let worker = Worker::new(&scene, "w");
    let _alive = worker.live();
    let (kept, body) = job();
    let grant = worker.run(&delivery(Some(kept), &body)).await;
    let postgres_says = async || {
        let url = format!("http://{}/ready", dispatcher.api_addr());
        let answer: serde_json::Value = reqwest::get(url).await.unwrap().json().await.unwrap();
        answer["parts"]["postgres"].as_str().unwrap().to_owned()
    };
    until("it is ready", async || match postgres_says().await {
        says if says == "ok" => Ok(()),
        says => Err(says),
    })
    .await;

    let ballast = at.path().join("ballast");
    fill(&ballast);
    for _ in 0..JOBS {
        let (id, body) = job();
        scene.publish("jobs.default", "medium", Some(id), &body).await;
    }
    until("readiness that tells of Postgres, which still answers", async || {
        let says = postgres_says().await;
        if says.contains("does not take what is written") { Ok(()) } else { Err(says) }
    })
    .await;
    assert!(scene.count("SELECT count(*) FROM job WHERE state = 'queued'").await < JOBS, "the disk was not full");
    // Its log needs a new file now, for which there is no room either.
    until("Postgres goes down with its disk", async || {
        let next_file = "SELECT pg_logical_emit_message(false, 'test', ''); SELECT pg_switch_wal()";
        match scene.sql.batch_execute(next_file).await {
            Err(_) if scene.sql.is_closed() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_ne!(postgres_says().await, "ok");

    std::fs::remove_file(&ballast).unwrap();
    tokio::task::block_in_place(|| stack.postgres.restart()).unwrap();
    scene.reconnect().await;
    scene.until_count("SELECT count(*) FROM job WHERE state = 'queued'", JOBS).await;
    scene.goes_on(&worker, &grant, 1).await;
    until("it is ready again", async || match postgres_says().await {
        says if says == "ok" => Ok(()),
        says => Err(says),
    })
    .await;
    dispatcher.stop().await;
}
