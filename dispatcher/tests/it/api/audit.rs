//! The audit, page by page.

use serde_json::Value;

use super::Api;

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
