//! Outages of a server: nothing is lost, and nobody pays for it.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_postgres_restarts_in_the_middle() {
    const JOBS: i64 = 300;
    // A stack of its own: the outage is for this test only.
    let stack = tokio::task::block_in_place(|| Stack::builder().nats(false).start()).unwrap();
    let (amqp, database) = tokio::task::block_in_place(|| (stack.rabbit.new_vhost(), stack.postgres.new_database()));
    let mut scene = Scene::on(amqp, database).await;
    let dispatcher = scene.dispatcher(&["--lease-secs", LEASE_SECS]).await;
    let worker = Worker::new(&scene, "w");
    let _alive = worker.live();
    let (kept, body) = job();
    let grant = worker.run(&delivery(Some(kept), &body)).await;

    let stop = CancellationToken::new();
    let outage = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        tokio::task::block_in_place(|| stack.postgres.kill());
        // Longer than a lease.
        tokio::time::sleep(Duration::from_secs(5)).await;
        tokio::task::block_in_place(|| stack.postgres.restart()).unwrap();
        stop.cancel();
    };
    let publishing = async {
        for _ in 0..JOBS {
            let (id, body) = job();
            scene.publish("jobs.default", "medium", Some(id), &body).await;
        }
    };
    tokio::join!(outage, publishing);

    let (sql, connection) = tokio_postgres::connect(&scene.database_url, NoTls).await.unwrap();
    tokio::spawn(connection);
    scene.sql = sql;
    scene.until_count("SELECT count(*) FROM job WHERE state = 'queued'", JOBS).await;
    // Its lease ran out while nobody could renew it, and that is not its worker's fault.
    scene
        .until_count(
            "SELECT count(*) FROM job WHERE state = 'running' AND lease_until > now() + interval '1 second'",
            1,
        )
        .await;
    assert_eq!(worker.ask(subjects::COMMIT, &grant).await, CommitReply::Granted);
    scene.report(&worker, &grant, Outcome::Finished { manifest: None }).await;
    scene.until_column(kept, "state || attempt", "completed1").await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_nats_ends_no_lease() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&["--lease-secs", LEASE_SECS]).await;
    let worker = Worker::new(&scene, "w");
    let _alive = worker.live();
    let (id, body) = job();
    worker.run(&delivery(Some(id), &body)).await;
    scene.until_count("SELECT count(*) FROM worker WHERE state = 'ready'", 1).await;

    tokio::task::block_in_place(|| scene.nats.nats.kill());
    scene
        .until_count(
            "SELECT count(*) FROM job WHERE state = 'running' AND lease_until < now() - interval '2 seconds'",
            1,
        )
        .await;
    tokio::task::block_in_place(|| scene.nats.nats.restart()).unwrap();
    scene
        .until_count(
            "SELECT count(*) FROM job WHERE state = 'running' AND lease_until > now() + interval '1 second'",
            1,
        )
        .await;
    assert_eq!(scene.column(id, "state || attempt").await.as_deref(), Some("running1"));
    dispatcher.stop().await;
}
