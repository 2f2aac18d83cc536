//! How many workers there should be, by what stands in the ledger.

use ffpool_dispatcher::ledger::keys::{NewKey, Role};
use serde_json::{Value, json};

use super::{Api, answer, problem};

impl Api {
    /// A job of two units that completed after so many seconds.
    async fn insert_completed(&self, secs: u32) {
        let job = self.insert_job("completed").await;
        let took = format!(
            "{SIZE}, started_at = now() - make_interval(secs => {secs}), ended_at = now(), created_at = now() - interval '2 hours'"
        );
        self.update_job(job, &took).await;
    }

    /// The advice for `query`, once it is fulfilled: a reading serves for a while.
    async fn advised(&self, query: &str, fact: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        super::until(fact, async || {
            let advice = self.show(&format!("/v1/scale{query}")).await;
            if is_so(&advice) { Ok(advice) } else { Err(advice.to_string()) }
        })
        .await
    }
}

const SIZE: &str = "spec = '{\"scenario\": \"720p-h264\", \"resource_limits\": {\"max_cpu_percent\": 150}}'";

#[tokio::test(flavor = "multi_thread")]
async fn the_advice_counts_what_waits_by_what_such_jobs_took_and_lets_no_busy_worker_go() {
    let api = Api::start().await;
    // Nothing is there: the minimum, in a pool that nobody has heard of too.
    let nothing = api.show("/v1/scale?pool=gpu&min=2").await;
    assert_eq!((&nothing["desired_workers"], &nothing["ready_workers"]), (&json!(2), &json!(0)), "{nothing}");
    assert_eq!(api.show("/v1/scale").await["pools"], json!([]));

    for secs in [80, 100, 120] {
        api.insert_completed(secs).await;
    }
    let mut waiting = Vec::new();
    for _ in 0..12 {
        let job = api.insert_job("queued").await;
        // However slow this machine is, they have come just now.
        api.update_job(job, &format!("{SIZE}, state_since = now() + interval '1 day'")).await;
        waiting.push(job);
    }
    // None of these asks for a worker.
    for (state, how) in [
        ("queued", "paused = true"),
        ("delayed", "publish_due = now() + interval '1 day'"),
        ("blocked", "pool = 'cpu'"),
    ] {
        let job = api.insert_job(state).await;
        api.update_job(job, how).await;
    }
    // Of two slots each: one works, one is idle, one drains.
    for (worker, state, used) in [("busy", "ready", 1), ("idle", "ready", 0), ("leaving", "draining", 1)] {
        api.insert_worker(worker).await;
        let sql = "UPDATE worker SET state = $2, capacity = jsonb_set(capacity, '{used}', to_jsonb($3::integer)) WHERE id = $1";
        api.sql.execute(sql, &[&worker, &state, &used]).await.unwrap();
    }
    let running = api.insert_job("running").await;
    let owned = format!(
        "{SIZE}, owner_worker = 'busy', started_at = now() - interval '30 seconds', created_at = now() - interval '3 hours'"
    );
    api.update_job(running, &owned).await;

    // A worker runs one at a time, of 100 s: it starts four of them within 300 s. The one that runs is in the way for a quarter.
    let advice = api
        .advised("?pool=cpu", "all of it is counted", |advice| {
            advice["lines"][0]["waiting"] == 12 && advice["lines"][0]["running"] == 1 && advice["ready_workers"] == 2
        })
        .await;
    assert_eq!((&advice["pool"], &advice["desired_workers"]), (&json!("cpu"), &json!(4)), "{advice:#}");
    let line = &advice["lines"][0];
    assert_eq!([&line["queue"], &line["priority"]], ["default", "medium"], "{advice:#}");
    assert_eq!(
        [&line["running"], &line["expected_secs"], &line["target_secs"]].map(Value::as_f64),
        [1.0, 100.0, 300.0].map(Some)
    );
    let workers = [&advice["ready_workers"], &advice["busy_workers"], &advice["draining_workers"]].map(Value::as_u64);
    assert_eq!(workers, [2, 1, 1].map(Some), "{advice:#}");
    assert_eq!(advice["missing_workers"], 2, "{advice:#}");
    let first: Vec<&Value> = advice["first_to_go"].as_array().unwrap().iter().map(|each| &each["worker"]).collect();
    assert_eq!(first, ["idle", "busy"], "{advice:#}");

    // Bounds, a size and a target of whoever asks.
    assert_eq!(api.show("/v1/scale?pool=cpu&max=3").await["desired_workers"], 3);
    assert_eq!(api.show("/v1/scale?pool=cpu&wait_default=1&slots=4").await["desired_workers"], 8);
    assert_eq!(api.show("/v1/scale").await["pools"][0]["desired_workers"], 4);

    // Nothing waits any more: the idle worker may go, the busy one never.
    for job in waiting {
        api.update_job(job, "state = 'cancelled'").await;
    }
    let advice = api.advised("?pool=cpu&max=0", "nothing waits", |advice| advice["lines"][0]["waiting"] == 0).await;
    assert_eq!((&advice["desired_workers"], &advice["surplus_workers"]), (&json!(1), &json!(1)), "{advice:#}");
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_advice_is_for_whoever_may_look_at_the_whole_pool() {
    let api = Api::start().await;
    let viewer = api.mint(&NewKey::of("autoscaler", Role::Viewer)).await;
    answer(api.request("GET", "/v1/scale?pool=cpu").bearer_auth(&viewer), 200).await;
    for (query, said) in [
        ("pool=no/pool", "parameter `pool`"),
        ("min=3&max=2", "parameter `max`"),
        ("slots=0", "parameter `slots`"),
        ("wait_live=0", "parameter `wait_live`"),
        ("wait=5", "wait_live"),
    ] {
        let detail = problem(api.get(&format!("/v1/scale?{query}")), 400).await;
        assert!(detail.contains(said), "{query}: {detail}");
    }
    // A pool that a job names, and no worker serves.
    let job = api.insert_job("queued").await;
    api.update_job(job, "pool = 'gpu'").await;
    let advice = api.advised("?pool=gpu", "the job is counted", |advice| advice["desired_workers"] == 1).await;
    let reasons = advice["reasons"].to_string();
    assert!(reasons.contains("No worker of this pool was ever seen"), "{reasons}");
    assert!(reasons.contains("300 s a job is assumed"), "{reasons}");
    api.stop().await;
}
