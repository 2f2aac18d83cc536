//! What the API says while a server is away.

use ffpool_stack::Stack;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Api, answer, problem, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_ledger_is_a_503_and_never_a_hang() {
    let stack = tokio::task::spawn_blocking(|| Stack::builder().rabbit(false).start().unwrap()).await.unwrap();
    let api = Api::start_on(&stack.rabbit.url(), &stack.nats.url(), &stack.postgres.new_database()).await;
    answer(api.get("/v1/jobs"), 200).await;

    stack.postgres.pause();
    assert!(problem(api.get("/v1/jobs"), 503).await.contains("ledger"));
    problem(api.post("/v1/jobs").json(&json!({"scenario": "720p-h264"})), 503).await;
    assert_eq!(api.request("GET", "/health").send().await.unwrap().status(), 200);
    let parts = answer(api.request("GET", "/ready"), 503).await["parts"].clone();
    for away in ["broker", "postgres", "leader"] {
        assert_ne!(parts[away], "ok", "{parts}");
    }

    stack.postgres.resume();
    until("the API answers again", async || {
        let response = api.get("/v1/jobs").send().await.unwrap();
        if response.status() == 200 { Ok(()) } else { Err(response.text().await.unwrap()) }
    })
    .await;
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_takes_too_long_is_told_from_an_outage() {
    let api = Api::start().await;
    api.sql.batch_execute("BEGIN; LOCK TABLE job IN ACCESS EXCLUSIVE MODE").await.unwrap();
    assert!(problem(api.get("/v1/jobs"), 503).await.contains("Narrow it"));
    api.sql.batch_execute("ROLLBACK").await.unwrap();
    answer(api.get("/v1/jobs"), 200).await;
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_ready_when_every_part_works_and_a_leader_is_known() {
    let api = Api::start().await;
    assert_ne!(answer(api.request("GET", "/ready"), 503).await["parts"]["leader"], "ok");
    let stop = CancellationToken::new();
    let (_leadership, leading) = api.ledger.stand_for_leader(stop.clone());
    until("it is ready", async || {
        let response = api.request("GET", "/ready").send().await.unwrap();
        if response.status() == 200 { Ok(()) } else { Err(response.text().await.unwrap()) }
    })
    .await;
    stop.cancel();
    leading.await.unwrap();
    api.stop().await;
}
