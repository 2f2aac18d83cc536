//! Pausing jobs and queues.

use serde_json::json;

use super::{Api, answer, problem};

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_job_is_paused_and_let_go_on() {
    let api = Api::start().await;
    let job = answer(api.post("/v1/jobs").json(&json!({"scenario": "720p-h264"})), 201).await;
    let path = format!("/v1/jobs/{}", job["number"]);

    // Any number of times, as a client does that got no answer.
    for _ in 0..2 {
        assert_eq!(answer(api.post(&format!("{path}/pause")), 200).await["state"], "queued");
    }
    assert_eq!(api.show(&path).await["paused"], true);
    let told = api.show(&format!("{path}/explain")).await["sentences"].to_string();
    assert!(told.contains("paused by test-admin") && told.contains("It is paused: it does not start"), "{told}");
    for _ in 0..2 {
        assert_eq!(answer(api.post(&format!("{path}/resume")), 200).await["state"], "queued");
    }
    assert_eq!(api.show(&path).await["paused"], false);

    let ended = api.insert_job("completed").await;
    assert!(problem(api.post(&format!("/v1/jobs/{ended}/pause")), 409).await.contains("ended already"));
    problem(api.post("/v1/jobs/99/pause"), 404).await;
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_queue_says_so_until_it_goes_on() {
    let api = Api::start().await;
    let job = answer(api.post("/v1/jobs").json(&json!({"scenario": "720p-h264", "queue": "batch"})), 201).await;
    let paused = async || -> Vec<String> {
        let queues = api.show("/v1/queues").await;
        let paused = queues.as_array().unwrap().iter().filter(|queue| queue["paused"] == true);
        paused.map(|queue| queue["name"].as_str().unwrap().to_owned()).collect()
    };
    assert!(paused().await.is_empty());
    answer(api.post("/v1/queues/batch/pause"), 200).await;
    let reason = json!({"reason": "the archive is full"});
    assert_eq!(answer(api.post("/v1/queues/batch/pause").json(&reason), 200).await["state"], "paused");
    assert_eq!(paused().await, ["jobs.batch.high", "jobs.batch.medium", "jobs.batch.low"]);
    let told = api.show(&format!("/v1/jobs/{}/explain", job["number"])).await["sentences"].to_string();
    assert!(told.contains("`batch`") && told.contains("paused by test-admin: the archive is full"), "{told}");

    assert_eq!(answer(api.post("/v1/queues/batch/resume"), 200).await["state"], "open");
    answer(api.post("/v1/queues/batch/resume"), 200).await;
    assert!(paused().await.is_empty());

    assert!(problem(api.post("/v1/queues/fast/pause"), 404).await.contains("live, default, batch"));
    assert!(problem(api.post("/v1/queues/live/pause").body("{\"why\": 1}"), 400).await.contains("`body`"));
    api.stop().await;
}
