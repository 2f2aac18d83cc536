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

    let outage = async {
        until("some jobs to be recorded", async || {
            let recorded = scene.count("SELECT count(*) FROM job").await;
            if recorded > 10 { Ok(()) } else { Err(recorded.to_string()) }
        })
        .await;
        tokio::task::block_in_place(|| stack.postgres.kill());
        // Longer than a lease.
        tokio::time::sleep(Duration::from_secs(5)).await;
        tokio::task::block_in_place(|| stack.postgres.restart()).unwrap();
    };
    let publishing = async {
        for _ in 0..JOBS {
            let (id, body) = job();
            scene.publish("jobs.default", "medium", Some(id), &body).await;
        }
    };
    tokio::join!(outage, publishing);

    scene.reconnect().await;
    scene.until_count("SELECT count(*) FROM job WHERE state = 'queued'", JOBS).await;
    scene.goes_on(&worker, &grant, 1).await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_primary_of_postgres_dies_and_its_standby_takes_over() {
    const JOBS: usize = 300;
    const BEFORE: usize = 20;
    // Postgres of its own: the outage is for this test only.
    let stack = tokio::task::block_in_place(|| Stack::builder().rabbit(false).nats(false).start()).unwrap();
    let primary = &stack.postgres;
    let (amqp, database, standby) = tokio::task::block_in_place(|| {
        (Stack::shared().rabbit.new_vhost(), primary.new_database(), primary.standby().unwrap())
    });
    // The standby first, which is of no use as long as it is one.
    let both = format!("{},{}", standby.address(), primary.address());
    let url = format!("{}?target_session_attrs=read-write", database.replace(&primary.address(), &both));
    let mut scene = Scene::on(amqp, url).await;
    let dispatchers =
        [scene.dispatcher(&["--lease-secs", LEASE_SECS]).await, scene.dispatcher(&["--lease-secs", LEASE_SECS]).await];
    let worker = Worker::new(&scene, "w");
    let _alive = worker.live();
    let (kept, body) = job();
    let grant = worker.run(&delivery(Some(kept), &body)).await;

    let promoted = CancellationToken::new();
    let outage = async {
        let recorded = until("the first jobs are recorded", async || {
            let rows = scene.sql.query("SELECT id FROM job", &[]).await.unwrap();
            if rows.len() > BEFORE { Ok(rows) } else { Err(rows.len().to_string()) }
        })
        .await;
        tokio::task::block_in_place(|| primary.kill());
        tokio::task::block_in_place(|| standby.promote()).unwrap();
        promoted.cancel();
        recorded.iter().map(|row| row.get::<_, Uuid>(0)).collect::<Vec<_>>()
    };
    let publishing = async {
        let mut published = Vec::new();
        while published.len() < JOBS || !promoted.is_cancelled() {
            let (id, body) = job();
            scene.publish("jobs.default", "medium", Some(id), &body).await;
            published.push(id.0);
        }
        published
    };
    let (recorded, published) = tokio::join!(outage, publishing);

    scene.reconnect().await;
    let sql = "SELECT count(*) FROM job WHERE id = ANY($1)";
    let kept_rows: i64 = scene.sql.query_one(sql, &[&recorded]).await.unwrap().get(0);
    assert_eq!(usize::try_from(kept_rows).unwrap(), recorded.len(), "what was committed is on the standby");
    until("every published job waits", async || {
        let sql = "SELECT count(*) FROM job WHERE state = 'queued' AND id = ANY($1)";
        let found: i64 = scene.sql.query_one(sql, &[&published]).await.unwrap().get(0);
        if usize::try_from(found).unwrap() == published.len() {
            Ok(())
        } else {
            Err(format!("{found} of {}", published.len()))
        }
    })
    .await;
    until("one leads", async || {
        let leads: Vec<bool> = dispatchers.iter().map(Dispatcher::leads).collect();
        if leads.iter().filter(|leads| **leads).count() == 1 { Ok(()) } else { Err(format!("{leads:?}")) }
    })
    .await;

    let (id, body) = job();
    worker.run(&delivery(Some(id), &body)).await;
    scene.goes_on(&worker, &grant, 2).await;
    for dispatcher in dispatchers {
        dispatcher.stop().await;
    }
    // What was killed left its shared memory behind, which its next life takes over and gives back.
    tokio::task::block_in_place(|| primary.restart()).unwrap();
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
