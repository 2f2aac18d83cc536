//! What ended long ago is forgotten, and nothing else.

use ffpool_dispatcher::ledger::{FORGOTTEN_AT_ONCE, Forgotten, Keep, Ledger, Retention};
use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::message::{DropReason, HoldScope};

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

async fn forget(ledger: &Ledger, retention: Retention) -> (i64, bool) {
    let Forgotten { jobs, has_more } = ledger.forget_ended(retention).await.unwrap();
    (jobs, has_more)
}

async fn rows_about(scene: &Scene, job: JobId) -> i64 {
    let id = job.0;
    scene
        .count(&format!(
            "SELECT (SELECT count(*) FROM job WHERE id = '{id}') + (SELECT count(*) FROM attempt WHERE job = '{id}') \
             + (SELECT count(*) FROM event WHERE job = '{id}') + (SELECT count(*) FROM progress_curve WHERE job = '{id}')"
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
    let curves =
        "INSERT INTO progress_curve SELECT job, attempt, 1, '{0}', '{0}', '{NULL}' FROM attempt ON CONFLICT DO NOTHING";
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
    scene.sql.execute(curves, &[]).await.unwrap();

    assert_eq!(forget(ledger, SHORT).await, (1, false), "no more can go now");
    assert_eq!(rows_about(&scene, old.0).await, 0);
    for (kept, why) in [(&fresh, "it ended today"), (&telling, "its end is still being told"), (&dead, "it is dead")] {
        assert!(rows_about(&scene, kept.0).await >= 4, "{why}: it is kept with all about it");
    }
    scene.sql.execute("UPDATE callback SET done_at = now()", &[]).await.unwrap();
    assert_eq!(forget(ledger, SHORT).await, (1, false), "now its end has been told");
    let all = Retention { dead: Keep::Days(1), ..SHORT };
    assert_eq!(forget(ledger, all).await, (1, false), "dead letters have their own time");
    assert_eq!(forget(ledger, all).await, (0, false));

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
async fn an_old_message_of_a_forgotten_job_starts_nothing_and_the_job_may_be_handed_in_again() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    let worker = Worker::new(&scene, "w");
    let (old, again) = (job(), job());
    for job in [&old, &again] {
        end_long_ago(&scene, &worker, job, Outcome::Finished { manifest: None }, "completed").await;
    }
    assert_eq!(forget(dispatcher.ledger(), SHORT).await, (2, false));

    for (id, body) in [&old, &again] {
        // A claim may be faster than the tap, so the first one waits for it.
        let reply = worker.claim(&delivery(Some(*id), body)).await;
        assert!(matches!(reply, ClaimReply::Hold { scope: HoldScope::Delivery, .. }), "{reply:?}");
        assert_eq!(rows_about(&scene, *id).await, 0, "nothing is recorded");
    }
    let reply = worker.claim(&redelivery(Some(old.0), &old.1)).await;
    assert_eq!(reply, ClaimReply::Drop { job: Some(old.0), reason: DropReason::Finished });
    assert_eq!(rows_about(&scene, old.0).await, 0);

    scene.publish("jobs.default", "medium", Some(again.0), &again.1).await;
    scene.until_column(again.0, "state", "queued").await;
    let grant = worker.run(&redelivery(Some(again.0), &again.1)).await;
    assert_eq!((grant.job, grant.attempt), (again.0, 1), "a new job under the same id");
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_many_chunks_is_forgotten_by_itself_and_the_rest_after_it() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    let worker = Worker::new(&scene, "w");
    let jobs: [(JobId, Vec<u8>); 3] = std::array::from_fn(|_| job());
    for (hours, job) in (50..53).rev().zip(&jobs) {
        end_long_ago(&scene, &worker, job, Outcome::Finished { manifest: None }, "completed").await;
        let sql = format!("UPDATE job SET ended_at = now() - interval '{hours} hours' WHERE id = $1");
        scene.sql.execute(&sql, &[&job.0.0]).await.unwrap();
    }
    let many = format!("UPDATE job SET splits = 1, chunks = {FORGOTTEN_AT_ONCE} WHERE id = $1");
    scene.sql.execute(&many, &[&jobs[1].0.0]).await.unwrap();
    let left = async || {
        let mut left = Vec::new();
        for (id, _) in &jobs {
            left.push(rows_about(&scene, *id).await > 0);
        }
        left
    };
    assert_eq!(forget(dispatcher.ledger(), SHORT).await, (1, true));
    assert_eq!(left().await, [false, true, true], "the oldest, because the next would be too much beside it");
    assert_eq!(forget(dispatcher.ledger(), SHORT).await, (1, true));
    assert_eq!(left().await, [false, false, true]);
    assert_eq!(forget(dispatcher.ledger(), SHORT).await, (1, false));
    assert_eq!(forget(dispatcher.ledger(), SHORT).await, (0, false));
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
    // Whoever has the history in hands for longer than a moment goes first.
    let gone = async |left| {
        until("a month is dropped", async || {
            ledger.forget_remains(all).await.unwrap();
            let count = scene.count(months).await;
            if count == left { Ok(()) } else { Err(format!("{count} months")) }
        })
        .await;
    };
    gone(1).await;
    ledger.forget_remains(all).await.unwrap();
    assert_eq!(scene.count(months).await, 1, "a month that has events is kept");
    assert_eq!(scene.count("SELECT count(*) FROM stray").await, 0);
    scene.sql.execute("UPDATE job SET state = 'cancelled', ended_at = now() WHERE id = $1", &[&id.0]).await.unwrap();
    scene.sql.execute("DELETE FROM event WHERE at < '2021-01-01'", &[]).await.unwrap();
    gone(0).await;
    assert_eq!(scene.count("SELECT count(*) FROM worker").await, 0);
    let present = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'event'::regclass";
    assert!(scene.count(present).await >= 4, "this month, those to come and the rest stay");
    dispatcher.stop().await;
}
