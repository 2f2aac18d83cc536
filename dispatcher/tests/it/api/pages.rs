//! Lists, details and logs, read from rows that are written past the ledger.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::Api;

fn numbers(page: &Value) -> Vec<i64> {
    page["items"].as_array().unwrap().iter().map(|job| job["number"].as_i64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_neither_repeat_nor_skip_while_jobs_arrive() {
    let api = Api::start().await;
    for _ in 0..25 {
        api.insert_job("queued").await;
    }
    let mut seen = Vec::new();
    let mut path = "/v1/jobs?limit=10".to_owned();
    loop {
        let page = api.show(&path).await;
        seen.extend(numbers(&page));
        api.insert_job("queued").await;
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/jobs?limit=10&cursor={next}");
    }
    assert_eq!(seen, (1..=25).rev().collect::<Vec<i64>>());
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), 25);
    // A page that is exactly full and the last has no next one.
    assert_eq!(api.show("/v1/jobs?limit=28").await["next"], Value::Null);
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_filter_selects_what_it_names() {
    let api = Api::start().await;
    let plain = api.insert_job("queued").await;
    let special = api.insert_job("running").await;
    api.update_job(
        special,
        "queue = 'live', priority = 'high', owner_worker = 'w-1', labels = '{\"show\": \"x\", \"part\": \"a:b\"}', \
         tenant = 'acme', created_at = now() + interval '1 day'",
    )
    .await;
    let since = jiff::Timestamp::now() + jiff::Span::new().hours(12);
    for filter in [
        "status=running".to_owned(),
        "queue=live".to_owned(),
        "priority=high".to_owned(),
        "worker=w-1".to_owned(),
        "label=show:x".to_owned(),
        "label=show:x&label=part:a:b".to_owned(),
        "tenant=acme".to_owned(),
        format!("since={since}"),
        format!("status=running&queue=live&priority=high&worker=w-1&label=show:x&tenant=acme&since={since}&limit=1"),
    ] {
        let page = api.show(&format!("/v1/jobs?{filter}")).await;
        assert_eq!(numbers(&page), [2], "{filter}");
    }
    assert_eq!(numbers(&api.show("/v1/jobs?label=show:y").await), [] as [i64; 0]);
    assert_eq!(numbers(&api.show("/v1/jobs?status=queued").await), [1]);
    assert_eq!(api.show("/v1/jobs?status=queued").await["items"][0]["id"], json!(plain));
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_tells_its_attempts_its_events_and_its_log() {
    let api = Api::start().await;
    let job = api.insert_job("running").await;
    api.update_job(
        job,
        "attempt = 2, failures = 1, owner_worker = 'w-2', custody = 'ledger', started_at = now(), \
         failure = '{\"cause\": \"oom\", \"message\": \"it was killed\", \"evidence\": null, \"exit_code\": null, \"signal\": 9}'",
    )
    .await;
    api.sql
        .batch_execute(&format!(
            "INSERT INTO attempt (job, attempt, worker, incarnation, ended_at, outcome, failure) VALUES \
             ('{job}', 1, 'w-1', gen_random_uuid(), now(), 'failed', \
              '{{\"cause\": \"oom\", \"message\": \"it was killed\", \"evidence\": null, \"exit_code\": null, \"signal\": 9}}'), \
             ('{job}', 2, 'w-2', gen_random_uuid(), NULL, NULL, NULL); \
             INSERT INTO event (job, kind, state, attempt, detail) VALUES \
             ('{job}', 'claim', 'running', 1, '{{\"worker\": \"w-1\"}}'), ('{job}', 'failed', 'delayed', 1, '{{}}'); \
             INSERT INTO log_line (job, attempt, seq, line) VALUES \
             ('{job}', 1, 1, 'one'), ('{job}', 1, 2, 'two'), ('{job}', 2, 1, 'three')"
        ))
        .await
        .unwrap();

    let shown = api.show(&format!("/v1/jobs/{job}")).await;
    assert_eq!(shown["attempts"][0]["failure"]["cause"], "oom");
    assert_eq!(shown["attempts"][1]["worker"], "w-2");
    assert_eq!(shown["events"][0]["detail"]["worker"], "w-1");
    assert_eq!(shown["events"][1]["state"], "delayed");
    let detail: ffpool_schema::api::JobDetail =
        serde_json::from_value(shown).expect("clients read it with the same type");
    assert_eq!(detail.job.attempt, 2);

    let lines = async |query: &str| -> Vec<String> {
        let lines = api.show(&format!("/v1/jobs/{job}/log{query}")).await;
        lines.as_array().unwrap().iter().map(|line| line["line"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(lines("").await, ["one", "two", "three"]);
    assert_eq!(lines("?lines=2").await, ["two", "three"]);
    assert_eq!(lines("?attempt=1").await, ["one", "two"]);

    let told = api.show(&format!("/v1/jobs/{job}/explain")).await["sentences"].to_string();
    assert!(told.contains("Attempt 2 runs on worker w-2") && told.contains("Cause 4001 (oom)"), "{told}");
    api.stop().await;
}
