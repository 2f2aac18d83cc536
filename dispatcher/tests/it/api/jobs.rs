//! Handing in jobs and controlling them.

use ffpool_schema::message::MAX_BODY_BYTES;
use serde_json::json;
use uuid::Uuid;

use super::{Api, answer, problem};

#[tokio::test(flavor = "multi_thread")]
async fn one_id_is_one_job_however_often_it_is_handed_in() {
    let api = Api::start().await;
    let id = Uuid::now_v7();
    let job = json!({"id": id, "scenario": "720p30-h264", "parameters": {"duration": 1.5}, "labels": {"show": "x"}});
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    let created = api.post("/v1/jobs").json(&job).header("traceparent", traceparent).send().await.unwrap();
    assert_eq!(created.status(), 201);
    assert_eq!(created.headers()["location"], format!("/v1/jobs/{id}"));
    let created: serde_json::Value = created.json().await.unwrap();
    assert_eq!(created["state"], "queued");

    let again = answer(api.post("/v1/jobs").json(&job), 200).await;
    assert_eq!(again["number"], created["number"]);
    // The same job in another spelling is the same job.
    let spelled =
        json!({"labels": {"show": "x"}, "parameters": {"duration_seconds": 1.5}, "scenario": "720p30-h264", "id": id});
    answer(api.post("/v1/jobs").json(&spelled), 200).await;

    let other = json!({"id": id, "scenario": "1080p-h264"});
    assert!(problem(api.post("/v1/jobs").json(&other), 409).await.contains(&id.to_string()));

    let stored = api.sql.query_one("SELECT count(*) OVER (), traceparent FROM job", &[]).await.unwrap();
    assert_eq!(stored.get::<_, i64>(0), 1);
    assert_eq!(stored.get::<_, Option<&str>>(1), Some(traceparent));

    let by_number = api.show(&format!("/v1/jobs/{}", created["number"])).await;
    assert_eq!(by_number["id"], json!(id));
    assert_eq!(by_number["spec"]["scenario"], "720p30-h264");

    let signed = json!({"scenario": "720p-h264", "input": "https://host/a.mp4?signature=hunter2"});
    let created = answer(api.post("/v1/jobs").json(&signed), 201).await;
    let shown = api.show(&format!("/v1/jobs/{}", created["number"])).await;
    assert_eq!(shown["spec"]["input"], "https://host/a.mp4?***");
    assert!(!shown.to_string().contains("hunter2"), "{shown}");
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_encodings_are_taken_and_a_bad_body_is_refused_with_every_fault() {
    let api = Api::start().await;
    // {"scenario": "720p-h264"} in MessagePack.
    let packed = [b"\x81\xa8scenario".as_slice(), b"\xa9720p-h264".as_slice()].concat();
    let request = api.post("/v1/jobs").header("content-type", "application/msgpack").body(packed);
    answer(request, 201).await;

    let bad = json!({"scenario": "nonsense", "parameters": {"duration": -1}, "colour": "red"});
    let refused = answer(api.post("/v1/jobs").json(&bad), 422).await;
    let faults: Vec<&str> =
        refused["faults"].as_array().unwrap().iter().map(|fault| fault["path"].as_str().unwrap()).collect();
    for path in ["scenario", "parameters.duration", "colour"] {
        assert!(faults.contains(&path), "{refused}");
    }
    for (body, content_type) in
        [("{", "application/json"), ("{}", "text/html"), ("[]", "application/json"), ("\u{1}", "application/msgpack")]
    {
        problem(api.post("/v1/jobs").header("content-type", content_type).body(body), 422).await;
    }
    for length in [MAX_BODY_BYTES + 1, 10 * 1024 * 1024] {
        let detail = problem(api.post("/v1/jobs").body(vec![b' '; length]), 413).await;
        assert!(detail.contains("262144 bytes"), "{detail}");
    }
    let jobs = api.show("/v1/jobs").await;
    assert_eq!(jobs["items"].as_array().unwrap().len(), 1, "{jobs}");
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_cancelled_and_sent_round_again_by_name() {
    let api = Api::start().await;
    let job = answer(api.post("/v1/jobs").json(&json!({"scenario": "720p-h264"})), 201).await;
    let path = format!("/v1/jobs/{}", job["number"]);

    assert!(problem(api.post(&format!("{path}/retry")), 409).await.contains("not ended"));
    assert_eq!(answer(api.post(&format!("{path}/cancel")), 200).await["state"], "cancelled");
    assert!(problem(api.post(&format!("{path}/cancel")), 409).await.contains("ended already"));
    let explained = api.show(&format!("{path}/explain")).await;
    let told = explained["sentences"].to_string();
    assert!(told.contains("cancelled by test-admin"), "{told}");

    assert_eq!(answer(api.post(&format!("{path}/retry")), 200).await["state"], "queued");
    let told = api.show(&format!("{path}/explain")).await["sentences"].to_string();
    assert!(told.contains("sent round again by test-admin") && told.contains("No worker of pool `cpu`"), "{told}");

    problem(api.post("/v1/jobs/99/cancel"), 404).await;
    problem(api.post(&format!("/v1/jobs/{}/cancel", Uuid::nil())), 404).await;
    api.stop().await;
}
