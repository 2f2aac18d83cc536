//! What ended long ago is forgotten, and nothing else.

use ffpool_dispatcher::ledger::{FORGOTTEN_AT_ONCE, Keep, Retention};
use ffpool_schema::failure::{Cause, Failure};

use super::*;

const SHORT: Retention = Retention { ended: Keep::Days(1), dead: Keep::Forever };

/// Runs a job to its end, which it then had two days ago.
async fn end_long_ago(scene: &Scene, worker: &Worker, body: &(JobId, Vec<u8>), outcome: Outcome, state: &str) {
    let grant = worker.run(&delivery(Some(body.0), &body.1)).await;
    if state == "completed" {
        assert_eq!(worker.ask(subjects::COMMIT, &grant).await, CommitReply::Granted);
    }
    scene.report(worker, &grant, outcome).await;
    scene.until_column(body.0, "state", state).await;
    let sql = "UPDATE job SET ended_at = now() - interval '2 days' WHERE id = $1";
    scene.sql.execute(sql, &[&body.0.0]).await.unwrap();
}

async fn rows_about(scene: &Scene, job: JobId) -> i64 {
    let id = job.0;
    scene
        .count(&format!(
            "SELECT (SELECT count(*) FROM job WHERE id = '{id}') + (SELECT count(*) FROM attempt WHERE job = '{id}') \
             + (SELECT count(*) FROM event WHERE job = '{id}')"
        ))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_long_ago_is_forgotten_and_nothing_else_and_its_children_learn_how_it_ended() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    let ledger = dispatcher.ledger();
    let worker = Worker::new(&scene, "w");
    let finished = || Outcome::Finished { manifest: None };
    let failed = || Outcome::Failed { failure: Failure::new(Cause::InputBad, "the input is damaged") };
    let [old, fresh, telling, dead, running] = std::array::from_fn(|_| job());
    end_long_ago(&scene, &worker, &old, finished(), "completed").await;
    end_long_ago(&scene, &worker, &telling, finished(), "completed").await;
    end_long_ago(&scene, &worker, &dead, failed(), "failed").await;
    end_long_ago(&scene, &worker, &fresh, finished(), "completed").await;
    scene.sql.execute("UPDATE job SET ended_at = now() WHERE id = $1", &[&fresh.0.0]).await.unwrap();
    let untold =
        "INSERT INTO callback (job, state, url, due) VALUES ($1, 'completed', 'https://x.example', 'infinity')";
    scene.sql.execute(untold, &[&telling.0.0]).await.unwrap();
    let grant = worker.run(&delivery(Some(running.0), &running.1)).await;

    assert_eq!(ledger.forget_ended(SHORT).await.unwrap(), 1, "fewer than {FORGOTTEN_AT_ONCE}: no more can go now");
    assert_eq!(rows_about(&scene, old.0).await, 0);
    for (kept, why) in [(&fresh, "it ended today"), (&telling, "its end is still being told"), (&dead, "it is dead")] {
        assert!(rows_about(&scene, kept.0).await >= 3, "{why}: it is kept with all about it");
    }
    scene.sql.execute("UPDATE callback SET done_at = now()", &[]).await.unwrap();
    assert_eq!(ledger.forget_ended(SHORT).await.unwrap(), 1, "now its end has been told");
    let all = Retention { dead: Keep::Days(1), ..SHORT };
    assert_eq!(ledger.forget_ended(all).await.unwrap(), 1, "dead letters have their own time");
    assert_eq!(ledger.forget_ended(all).await.unwrap(), 0);

    let child_of = |parent: JobId| job_with(|spec| spec.depends_on = vec![parent]);
    let (happy, happy_body) = child_of(old.0);
    let (unhappy, unhappy_body) = child_of(dead.0);
    scene.publish("jobs.default", "medium", Some(happy), &happy_body).await;
    scene.publish("jobs.default", "medium", Some(unhappy), &unhappy_body).await;
    scene.until_column(happy, "state", "queued").await;
    scene.until_column(unhappy, "state", "failed").await;

    // What ran meanwhile ends as ever.
    assert_eq!(worker.ask(subjects::COMMIT, &grant).await, CommitReply::Granted);
    scene.report(&worker, &grant, finished()).await;
    scene.until_column(running.0, "state", "completed").await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_month_goes_when_its_time_is_over_and_no_event_is_left_and_a_worker_when_nothing_is_its() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    let ledger = dispatcher.ledger();
    scene
        .sql
        .batch_execute(
            "CREATE TABLE event_2020_01 PARTITION OF event FOR VALUES FROM ('2020-01-01Z') TO ('2020-02-01Z'); \
             CREATE TABLE event_2020_02 PARTITION OF event FOR VALUES FROM ('2020-02-01Z') TO ('2020-03-01Z'); \
             INSERT INTO event (at, job, kind, state, attempt) \
                VALUES ('2020-02-02Z', gen_random_uuid(), 'recorded', 'queued', 0); \
             INSERT INTO stray (at, source, body, error) VALUES ('2020-02-02Z', 'jobs.ledger', '', 'x')",
        )
        .await
        .unwrap();
    let worker = Worker::new(&scene, "gone");
    let (id, body) = job();
    worker.run(&delivery(Some(id), &body)).await;
    scene.until_column(id, "state", "running").await;
    worker.beat(1).await;
    scene.until_count("SELECT count(*) FROM worker WHERE id = 'gone'", 1).await;
    let lost = "UPDATE worker SET state = 'lost', last_seen = now() - interval '8 days'";
    scene.sql.execute(lost, &[]).await.unwrap();

    let months = "SELECT count(*) FROM pg_class WHERE relname IN ('event_2020_01', 'event_2020_02')";
    ledger.forget_remains(SHORT).await.unwrap();
    assert_eq!(scene.count(months).await, 2, "dead letters, and so their events, are kept for ever");
    assert_eq!(scene.count("SELECT count(*) FROM stray").await, 1);
    assert_eq!(scene.count("SELECT count(*) FROM worker").await, 1, "a job is still its");
    let all = Retention { dead: Keep::Days(1), ..SHORT };
    ledger.forget_remains(all).await.unwrap();
    assert_eq!(scene.count(months).await, 1, "a month that has events is kept");
    assert_eq!(scene.count("SELECT count(*) FROM stray").await, 0);
    scene.sql.execute("UPDATE job SET state = 'cancelled', ended_at = now() WHERE id = $1", &[&id.0]).await.unwrap();
    scene.sql.execute("DELETE FROM event WHERE at < '2021-01-01'", &[]).await.unwrap();
    ledger.forget_remains(all).await.unwrap();
    assert_eq!(scene.count(months).await, 0);
    assert_eq!(scene.count("SELECT count(*) FROM worker").await, 0);
    let present = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'event'::regclass";
    assert!(scene.count(present).await >= 4, "this month, those to come and the rest stay");
    dispatcher.stop().await;
}
