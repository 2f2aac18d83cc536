//! What jobs used and cost.

use jiff::Timestamp;
use serde_json::json;

use super::{Api, problem};

#[tokio::test(flavor = "multi_thread")]
async fn costs_are_summed_up_of_what_was_measured_and_the_rest_is_counted_apart() {
    let api = Api::start().await;
    // Two jobs of one show and one of none; one attempt was lost with its worker, one still runs.
    let mut jobs = Vec::new();
    for state in ["completed", "completed", "failed", "completed"] {
        jobs.push(api.insert_job(state).await);
    }
    // The last makes a chunk of the first, whose labels it does not bear.
    api.update_job(jobs[3], &format!("part_of = '{}'", jobs[0])).await;
    for job in &jobs[..2] {
        api.update_job(*job, "labels = '{\"show\": \"news\"}', tenant = 'acme'").await;
    }
    let used = json!({"wall_ms": 1_800_000, "cpu_ms": 7_200_000, "peak_memory_bytes": 4_000_000_000_u64,
        "input_bytes": null, "output_bytes": null});
    let metered = json!({"wall_ms": 1_800_000, "cpu_ms": 7_200_000, "peak_memory_bytes": 4_000_000_000_u64,
        "input_bytes": null, "output_bytes": null, "energy_joules": 36_000.0});
    let attempt = async |job: usize, number: i32, ended: bool, usage: Option<&serde_json::Value>| {
        let sql = "INSERT INTO attempt (job, attempt, worker, incarnation, ended_at, outcome, usage, cost, currency) \
                   VALUES ($1, $2, 'w', gen_random_uuid(), CASE WHEN $3 THEN now() END, 'finished', $4, $5, $6)";
        // What was in force when it ended, not what the API of the tests asks now, which is 0.5 for a core hour.
        let cost = usage.map(|_| 0.75);
        let currency = cost.map(|_| if job == 2 { "USD" } else { "EUR" });
        api.sql.execute(sql, &[&jobs[job], &number, &ended, &usage, &cost, &currency]).await.unwrap();
    };
    attempt(0, 1, true, None).await;
    attempt(0, 2, true, Some(&used)).await;
    attempt(1, 1, true, Some(&metered)).await;
    attempt(2, 1, false, None).await;
    attempt(2, 2, true, Some(&used)).await;
    attempt(3, 1, true, Some(&metered)).await;

    let report = api.show("/v1/cost?by=label:show").await;
    let news = &report["rows"][0];
    assert_eq!(
        (&news["key"], &news["jobs"], &news["attempts"], &news["unmeasured"]),
        (&json!("news"), &json!(2), &json!(4), &json!(1))
    );
    let number = |value: &serde_json::Value| (value.as_f64().unwrap() * 1e6).round() / 1e6;
    assert_eq!([&news["core_hours"], &news["gb_hours"], &news["worker_hours"]].map(number), [6.0, 6.0, 1.5]);
    assert_eq!([&news["cost"], &news["kwh"]].map(number), [2.25, 0.02]);
    assert_eq!((&news["unpriced"], &news["unmetered"]), (&json!(0), &json!(1)));
    let other = &report["rows"][1];
    assert_eq!((&other["key"], &other["attempts"]), (&json!(null), &json!(1)));
    // Another currency is not added up, and no energy is not none.
    assert_eq!((&other["cost"], &other["unpriced"], other.get("kwh")), (&json!(null), &json!(1), None));
    assert_eq!(report["prices"]["core_hour"], 0.5);
    assert_eq!(api.show("/v1/cost").await["rows"][0]["key"], "acme");
    for by in ["queue", "scenario", "worker"] {
        assert_eq!(api.show(&format!("/v1/cost?by={by}")).await["rows"].as_array().unwrap().len(), 1, "{by}");
    }
    assert_eq!(api.show("/v1/cost?since=2999-01-01T00:00:00Z").await["rows"], json!([]));
    assert!(problem(api.get("/v1/cost?by=colour"), 400).await.contains("label:<name>"));

    let job = api.show(&format!("/v1/jobs/{}", jobs[0])).await;
    assert_eq!((number(&job["cost"]["amount"]), &job["cost"]["unmeasured"]), (1.5, &json!(1)));
    assert_eq!((number(&job["energy_joules"]), number(&job["attempts"][1]["cost"]["amount"])), (36_000.0, 0.75));
    let listed = api.show("/v1/jobs?tenant=acme").await;
    let costs: Vec<f64> =
        listed["items"].as_array().unwrap().iter().map(|job| number(&job["cost"]["amount"])).collect();
    assert_eq!(costs, [0.75, 1.5], "{listed}");
    let other = api.show(&format!("/v1/jobs/{}", jobs[2])).await;
    assert_eq!((other.get("cost"), &other["attempts"][1]["cost"]["currency"]), (None, &json!("USD")));
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_takes_longer_than_clients_wait_is_made_all_the_same_for_who_asks_again() {
    let api = Api::start().await;
    let job = api.insert_job("completed").await;
    let ended = "INSERT INTO attempt (job, attempt, worker, incarnation, ended_at, outcome) \
                 VALUES ($1, 1, 'w', gen_random_uuid(), now(), 'finished')";
    api.sql.execute(ended, &[&job]).await.unwrap();
    // As long as somebody holds the table, nobody can look at every attempt.
    api.sql.batch_execute("BEGIN; LOCK TABLE attempt IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let asked = "/v1/cost?by=worker&since=2020-01-01T00:00:00Z";
    assert!(problem(api.get(asked), 503).await.contains("Ask the same again"));
    let refused = Timestamp::now();
    api.sql.batch_execute("ROLLBACK").await.unwrap();
    let report = api.show(asked).await;
    let as_of: Timestamp = report["as_of"].as_str().unwrap().parse().unwrap();
    assert!(as_of < refused, "the one that was begun for the first who asked: {report}, refused at {refused}");
    assert_eq!((&report["rows"][0]["key"], &report["rows"][0]["attempts"]), (&json!("w"), &json!(1)));
    api.stop().await;
}
