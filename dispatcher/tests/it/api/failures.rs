//! What failed, by cause: counted, and the jobs and dead letters that a cause leads to.

use ffpool_dispatcher::ledger::keys::{NewKey, Role};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Api, answer, problem};

impl Api {
    /// A failure of a job so many hours ago, written past the ledger.
    pub(super) async fn insert_failure(&self, job: Uuid, attempt: Option<i32>, cause: &str, became: &str, hours: i32) {
        let sql = "INSERT INTO failure (at, job, number, attempt, tenant, cause, retried, dead) \
                   SELECT now() - make_interval(hours => $4), id, number, $2, tenant, $3, $5 = 'retried', $5 = 'dead' \
                   FROM job WHERE id = $1";
        assert_eq!(self.sql.execute(sql, &[&job, &attempt, &cause, &hours, &became]).await.unwrap(), 1);
    }
}

fn counts(report: &Value) -> Vec<(String, i64, i64, i64)> {
    let number = |row: &Value, key: &str| row[key].as_i64().unwrap();
    let rows = report["causes"].as_array().unwrap().iter();
    rows.map(|row| {
        let cause = row["cause"].as_str().unwrap().to_owned();
        (cause, number(row, "attempts"), number(row, "retried"), number(row, "dead"))
    })
    .collect()
}

fn numbers(page: &Value) -> Vec<i64> {
    page["items"].as_array().unwrap().iter().map(|job| job["number"].as_i64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_counted_by_cause_over_a_span_and_lead_to_their_jobs_and_dead_letters() {
    let api = Api::start().await;
    answer(api.post("/v1/tenants").json(&json!({"name": "acme"})), 201).await;
    let parked = api.insert_job("failed").await;
    api.update_job(parked, "last_cause = 'oom', dead_fingerprint = 'k', ended_at = now()").await;
    let waits = api.insert_job("delayed").await;
    let late = api.insert_job("failed").await;
    api.update_job(late, "last_cause = 'deadline', dead_fingerprint = 'd', ended_at = now(), tenant = 'acme'").await;
    api.insert_failure(parked, Some(1), "oom", "retried", 0).await;
    api.insert_failure(parked, Some(2), "oom", "dead", 0).await;
    api.insert_failure(waits, Some(1), "oom", "retried", 30).await;
    api.insert_failure(waits, Some(2), "worker_lost", "retried", 2).await;
    api.insert_failure(late, None, "deadline", "dead", 0).await;

    let row = |cause: &str, attempts, retried, dead| (cause.to_owned(), attempts, retried, dead);
    let day = api.show("/v1/failures").await;
    let expected = [row("oom", 2, 1, 1), row("deadline", 0, 0, 1), row("worker_lost", 1, 1, 0)];
    assert_eq!((counts(&day), &day["hours"]), (expected.to_vec(), &json!(24)), "{day}");
    assert!(day["causes"][0]["cure"].as_str().unwrap().contains("max_memory_mb"), "{day}");
    let hour = api.show("/v1/failures?hours=1").await;
    assert_eq!(counts(&hour), [row("oom", 2, 1, 1), row("deadline", 0, 0, 1)], "{hour}");
    assert_eq!(counts(&api.show("/v1/failures?hours=48").await)[0], row("oom", 3, 2, 1));
    for query in ["hours=0", "hours=721", "hours=soon"] {
        assert!(problem(api.get(&format!("/v1/failures?{query}")), 400).await.contains("from 1 to 720"), "{query}");
    }

    // A tenant sees its own, and nothing of others.
    let viewer = api.mint(&NewKey::of("acme-viewer", Role::Viewer).of_tenant("acme")).await;
    let own = async |path: &str| answer(api.request("GET", path).bearer_auth(&viewer), 200).await;
    assert_eq!(counts(&own("/v1/failures?hours=720").await), [row("deadline", 0, 0, 1)]);
    assert_eq!(numbers(&own("/v1/jobs?cause=oom").await), [] as [i64; 0]);
    assert_eq!(numbers(&own("/v1/jobs?cause=deadline").await), [3]);

    // What failed at some time, each job once; and what is parked.
    assert_eq!(numbers(&api.show("/v1/jobs?cause=oom").await), [2, 1]);
    let first = api.show("/v1/jobs?cause=oom&limit=1").await;
    let second = api.show(&format!("/v1/jobs?cause=oom&limit=1&cursor={}", first["next"].as_str().unwrap())).await;
    assert_eq!((numbers(&first), numbers(&second), &second["next"]), (vec![2], vec![1], &json!(null)));
    assert_eq!(numbers(&api.show("/v1/jobs?cause=worker_lost&status=delayed").await), [2]);
    assert_eq!(numbers(&api.show("/v1/dead-letters?cause=oom").await), [1]);
    assert_eq!(numbers(&api.show("/v1/dead-letters?cause=worker_lost").await), [] as [i64; 0]);
    assert!(problem(api.get("/v1/jobs?cause=hunger"), 400).await.contains("worker_lost"));

    // What is purged is counted no more.
    answer(api.post("/v1/dead-letters/purge").json(&json!({"ids": [parked], "reason": "a test job"})), 200).await;
    assert_eq!(counts(&api.show("/v1/failures").await), [row("deadline", 0, 0, 1), row("worker_lost", 1, 1, 0)]);
    api.stop().await;
}
