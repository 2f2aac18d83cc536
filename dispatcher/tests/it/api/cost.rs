//! What jobs used and cost.

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
    let attempt = async |job: usize, number: i32, ended: bool, usage: Option<&serde_json::Value>| {
        let sql = "INSERT INTO attempt (job, attempt, worker, incarnation, ended_at, outcome, usage) \
                   VALUES ($1, $2, 'w', gen_random_uuid(), CASE WHEN $3 THEN now() END, 'finished', $4)";
        api.sql.execute(sql, &[&jobs[job], &number, &ended, &usage]).await.unwrap();
    };
    attempt(0, 1, true, None).await;
    attempt(0, 2, true, Some(&used)).await;
    attempt(1, 1, true, Some(&used)).await;
    attempt(2, 1, false, None).await;
    attempt(2, 2, true, Some(&used)).await;
    attempt(3, 1, true, Some(&used)).await;

    let report = api.show("/v1/cost?by=label:show").await;
    let news = &report["rows"][0];
    assert_eq!(
        (&news["key"], &news["jobs"], &news["attempts"], &news["unmeasured"]),
        (&json!("news"), &json!(2), &json!(4), &json!(1))
    );
    let number = |value: &serde_json::Value| (value.as_f64().unwrap() * 1e6).round() / 1e6;
    assert_eq!([&news["core_hours"], &news["gb_hours"], &news["worker_hours"]].map(number), [6.0, 6.0, 1.5]);
    // The API of the tests asks 0.5 for a core hour and nothing for the rest.
    assert_eq!(number(&news["cost"]), 3.0);
    assert_eq!((&report["rows"][1]["key"], &report["rows"][1]["attempts"]), (&json!(null), &json!(1)));
    assert_eq!(report["prices"]["core_hour"], 0.5);
    assert_eq!(api.show("/v1/cost").await["rows"][0]["key"], "acme");
    for by in ["queue", "scenario", "worker"] {
        assert_eq!(api.show(&format!("/v1/cost?by={by}")).await["rows"].as_array().unwrap().len(), 1, "{by}");
    }
    assert_eq!(api.show("/v1/cost?since=2999-01-01T00:00:00Z").await["rows"], json!([]));
    assert!(problem(api.get("/v1/cost?by=colour"), 400).await.contains("label:<name>"));

    let job = api.show(&format!("/v1/jobs/{}", jobs[0])).await;
    assert_eq!((number(&job["cost"]["amount"]), &job["cost"]["unmeasured"]), (2.0, &json!(1)));
    api.stop().await;
}
