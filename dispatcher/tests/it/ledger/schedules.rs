//! Recurring jobs: one for each due time, whoever leads and whoever dies.

use crate::by;
use ffpool_dispatcher::ledger::Realm;
use ffpool_schema::api::{Missed, Overlap, ScheduleRequest};
use serde_json::{Value, json};

use super::*;

fn request(name: &str, cron: &str, missed: Missed, overlap: Overlap) -> ScheduleRequest {
    let job = json!({"scenario": "480p30-h264", "engine": "noop", "output": "/media/out/{date}.mp4"});
    ScheduleRequest {
        name: name.into(),
        cron: cron.into(),
        zone: "UTC".into(),
        job: job.as_object().unwrap().clone(),
        missed,
        overlap,
        paused: false,
    }
}

/// Every first of January at midnight: never due while a test runs, unless the test says so.
const YEARLY: &str = "0 0 1 1 *";

impl Scene {
    async fn set_schedule(&self, name: &str, assignments: &str) {
        let sql = format!("UPDATE schedule SET {assignments} WHERE name = $1");
        assert_eq!(self.sql.execute(&sql, &[&name]).await.unwrap(), 1);
    }

    async fn until_run(&self, name: &str, outcome: &str) {
        let sql = format!(
            "SELECT count(*) FROM schedule_run JOIN schedule ON id = schedule WHERE name = '{name}' AND outcome = '{outcome}'"
        );
        self.until_count(&sql, 1).await;
    }

    async fn jobs_of(&self, name: &str) -> i64 {
        self.count(&format!("SELECT count(*) FROM job WHERE labels ->> 'schedule' = '{name}'")).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_due_time_makes_one_job_however_many_dispatchers_there_are_and_whenever_they_die() {
    let scene = Scene::new().await;
    let (first, second) = (scene.dispatcher(&[]).await, scene.dispatcher(&[]).await);
    let yearly = request("yearly", YEARLY, Missed::One, Overlap::Allow);
    let made = first.ledger().add_schedule(&yearly, &by("test")).await.unwrap();
    assert_eq!(made.next.len(), 5);
    scene.set_schedule("yearly", "next_due = '2024-01-01T00:00:00Z'").await;
    scene.until_run("yearly", "submitted").await;
    let dated = "SELECT count(*) FROM job WHERE labels ->> 'schedule' = 'yearly' AND spec ->> 'output' = \
                 '/media/out/' || extract(year FROM now() AT TIME ZONE 'UTC') || '-01-01.mp4'";
    assert_eq!(scene.count(dated).await, 1, "one for all that were missed, with the last one's date");

    // As if the leader had died after it recorded the job and before it moved on; and then the other one too.
    let again = "next_due = (SELECT max(due) FROM schedule_run WHERE schedule = schedule.id), last_job = NULL";
    let moved_on = "SELECT count(*) FROM schedule WHERE name = 'yearly' AND next_due > now()";
    scene.set_schedule("yearly", again).await;
    scene.until_count(moved_on, 1).await;
    drop(first);
    scene.set_schedule("yearly", again).await;
    scene.until_count(moved_on, 1).await;
    assert_eq!(scene.jobs_of("yearly").await, 1);

    // The next leader comes only after another due time: the job that is there has its place in the record, and counts as
    // the last one.
    let late = request("late", YEARLY, Missed::One, Overlap::Skip);
    second.ledger().add_schedule(&late, &by("test")).await.unwrap();
    scene.set_schedule("late", "next_due = date_trunc('hour', now()) - interval '3 hours'").await;
    scene.until_run("late", "submitted").await;
    let dead = "DELETE FROM schedule_run WHERE schedule = (SELECT id FROM schedule WHERE name = 'late')";
    let due = "(SELECT max(due) FROM schedule_run WHERE schedule = schedule.id)";
    scene
        .set_schedule(
            "late",
            &format!("next_due = {due}, making = {due}, last_job = NULL, cron = '0 * * * *', paused = true"),
        )
        .await;
    assert_eq!(scene.sql.execute(dead, &[]).await.unwrap(), 1);
    scene.set_schedule("late", "paused = false").await;
    scene.until_run("late", "submitted").await;
    scene.until_run("late", "skipped").await;
    assert_eq!(scene.jobs_of("late").await, 1);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missed_overlaps_is_paused_or_not_valid_makes_no_job_and_is_told() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&[]).await;
    let ledger = dispatcher.ledger();
    for (name, cron, missed) in [
        ("on-time", "* * * * *", Missed::Skip),
        ("late", YEARLY, Missed::Skip),
        ("slow", YEARLY, Missed::One),
        ("broken", YEARLY, Missed::One),
        ("paused", YEARLY, Missed::One),
    ] {
        ledger.add_schedule(&request(name, cron, missed, Overlap::Skip), &by("test")).await.unwrap();
    }
    ledger.pause_schedule(&Realm::Pool, "paused", true, &by("test")).await.unwrap();
    scene.set_schedule("broken", r#"job = '{"scenario": "gone"}'"#).await;
    scene
        .sql
        .execute("UPDATE schedule SET next_due = '2024-01-01T00:00:00Z' WHERE name <> 'on-time'", &[])
        .await
        .unwrap();
    scene.set_schedule("on-time", "next_due = date_trunc('minute', now())").await;
    for (name, outcome) in [("on-time", "submitted"), ("late", "missed"), ("slow", "submitted"), ("broken", "refused")]
    {
        scene.until_run(name, outcome).await;
    }
    // Its job waits still.
    scene.set_schedule("slow", "cron = '0 0 2 1 *', next_due = '2024-01-02T00:00:00Z'").await;
    scene.until_run("slow", "skipped").await;
    let told = ledger.schedule(&Realm::Pool, "slow").await.unwrap();
    assert!(told.runs[0].detail.as_ref().unwrap().contains("has not ended"), "{told:?}");
    let told = ledger.schedule(&Realm::Pool, "broken").await.unwrap();
    assert!(told.runs[0].detail.as_ref().unwrap().contains("`gone` is no scenario"), "{told:?}");
    for (name, jobs) in [("on-time", 1), ("late", 0), ("slow", 1), ("broken", 0), ("paused", 0)] {
        assert_eq!(scene.jobs_of(name).await, jobs, "{name}");
    }
    let resumed = ledger.pause_schedule(&Realm::Pool, "paused", false, &by("test")).await.unwrap();
    assert!(resumed.next[0] > Timestamp::now(), "what passed in the pause is not made up for");
    let job = ledger.run_schedule(&Realm::Pool, "paused", &by("test")).await.unwrap();
    scene.until_column(job.id, "state", "queued").await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_is_checked_with_a_job_of_it_before_it_is_taken() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&[]).await;
    let post = async |path: &str, body: &Value| {
        let url = format!("http://{}/v1/schedules{path}", dispatcher.api_addr());
        let request = reqwest::Client::new().post(url).bearer_auth("a-key-for-tests-only").json(body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), serde_json::from_str::<Value>(&answer.text().await.unwrap()).unwrap())
    };
    let good = serde_json::to_value(request("nightly", "30 2 * * *", Missed::Skip, Overlap::Skip)).unwrap();
    assert_eq!(post("", &good).await.0, 201);
    assert_eq!(post("", &good).await.0, 409);
    let mut wrong = good.clone();
    wrong["name"] = json!("a name");
    wrong["job"] = json!({"scenario": "480p30-h264", "id": Uuid::now_v7(), "output": "/media/{data}.mp4"});
    let (status, problem) = post("", &wrong).await;
    let paths: Vec<&str> =
        problem["faults"].as_array().unwrap().iter().map(|fault| fault["path"].as_str().unwrap()).collect();
    assert_eq!((status, paths), (422, vec!["name", "job.id", "job"]), "{problem}");
    wrong["cron"] = json!("30 2 * *");
    assert!(post("", &wrong).await.1.to_string().contains("five fields are expected"));
    wrong["job"] = json!({"scenario": "480p30-h264", "parameters": {"crf": 99}});
    wrong["cron"] = good["cron"].clone();
    assert!(post("", &wrong).await.1.to_string().contains("job.parameters.crf"));

    assert_eq!(post("/nightly/run", &json!({})).await.0, 201);
    assert_eq!(post("/nightly/remove", &json!({})).await.1["state"], "removed");
    assert_eq!(post("/nightly/pause", &json!({})).await.0, 404);
    dispatcher.stop().await;
}
