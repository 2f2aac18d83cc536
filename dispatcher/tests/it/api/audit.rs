//! The audit, page by page.

use ffpool_dispatcher::api::KeyCommand;
use ffpool_dispatcher::ledger::keys::{NewKey, Role};
use serde_json::{Value, json};

use super::{Api, answer};

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_comes_newest_first_and_in_pages() {
    let api = Api::start().await;
    for number in 1..=5 {
        let sql = "INSERT INTO audit (actor, action, subject, detail) VALUES ('anna', 'drain', $1, '{\"reason\": \"moving\"}')";
        api.sql.execute(sql, &[&format!("worker-{number}")]).await.unwrap();
    }
    let targets = |page: &Value| -> Vec<String> {
        page["items"].as_array().unwrap().iter().map(|entry| entry["target"].as_str().unwrap().to_owned()).collect()
    };
    let first = api.show("/v1/audit?limit=3").await;
    assert_eq!(targets(&first), ["worker-5", "worker-4", "worker-3"], "{first}");
    assert_eq!(first["items"][0]["who"], "anna");
    assert_eq!(first["items"][0]["detail"]["reason"], "moving");
    let next = first["next"].as_str().unwrap();
    let second = api.show(&format!("/v1/audit?limit=3&cursor={next}")).await;
    assert_eq!(targets(&second)[..2], ["worker-2", "worker-1"], "{second}");
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_by_a_person_is_in_the_audit() {
    let api = Api::start().await;
    KeyCommand::Create { name: "anna".into(), role: Role::Operator, scopes: None, tenant: None, expires: None }
        .run(&api.ledger)
        .await
        .unwrap();
    KeyCommand::Revoke { name: "anna".into() }.run(&api.ledger).await.unwrap();
    let key = api.mint(&NewKey::of("ben", Role::Operator)).await;
    let post = |path: &str| api.request("POST", path).bearer_auth(&key);
    let job = answer(api.post("/v1/jobs").json(&json!({"scenario": "720p-h264"})), 201).await;
    let path = format!("/v1/jobs/{}", job["number"]);
    for action in ["pause", "resume", "cancel", "retry"] {
        answer(post(&format!("{path}/{action}")), 200).await;
    }
    answer(post("/v1/queues/live/pause").json(&json!({"reason": "tests"})), 200).await;
    answer(post("/v1/queues/live/resume"), 200).await;

    let audit = api.show("/v1/audit").await;
    let entries = audit["items"].as_array().unwrap().iter().rev().filter(|entry| entry["who"] != "setup");
    let told: Vec<(&str, &str, &str)> = entries
        .map(|entry| {
            let text = |name: &str| entry[name].as_str().unwrap();
            (text("who"), text("action"), text("target"))
        })
        .collect();
    let id = job["id"].as_str().unwrap();
    let console = "ffpool-dispatcher keys";
    assert_eq!(
        told,
        [
            (console, "create_key", "anna"),
            (console, "revoke_key", "anna"),
            ("ben", "pause", id),
            ("ben", "resume", id),
            ("ben", "cancel", id),
            ("ben", "redrive", id),
            ("ben", "pause_queue", "live"),
            ("ben", "resume_queue", "live"),
        ]
    );
    assert_eq!(audit["items"][1]["detail"]["reason"], "tests", "{audit}");
    let cancelled = &audit["items"][3];
    assert_eq!((&cancelled["before"]["state"], &cancelled["after"]["state"]), (&json!("queued"), &json!("cancelled")));
    assert_eq!(cancelled["address"], "127.0.0.1", "{cancelled}");
    api.stop().await;
}
