//! The small picture of what a job made, as it is shown.

use ffpool_dispatcher::ledger::keys::{NewKey, Role};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Api, answer, problem};

const JPEG: &[u8] = include_bytes!("thumbnail.jpg");

impl Api {
    /// Gives a job a picture.
    pub(super) async fn insert_thumbnail(&self, job: Uuid, jpeg: &[u8]) {
        let sql = "INSERT INTO thumbnail (job, attempt, jpeg) VALUES ($1, 1, $2)";
        self.sql.execute(sql, &[&job, &jpeg]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_is_shown_as_a_picture_alone_and_asked_for_again_each_time() {
    let api = Api::start().await;
    let job = api.insert_job("completed").await;
    let path = format!("/v1/jobs/{job}/thumbnail");
    assert_eq!(api.show(&format!("/v1/jobs/{job}")).await["has_thumbnail"], Value::Null);
    assert!(problem(api.get(&path), 404).await.contains("job 1 (completed) has no thumbnail: "));
    api.insert_thumbnail(job, JPEG).await;

    assert_eq!(api.show(&format!("/v1/jobs/{job}")).await["has_thumbnail"], true);
    let shown = api.get(&path).send().await.unwrap();
    assert_eq!(shown.status(), 200);
    let headers = shown.headers().clone();
    for (name, value) in [
        ("content-type", "image/jpeg"),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "default-src 'none'; sandbox"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cache-control", "private, no-cache"),
    ] {
        assert_eq!(headers[name], value);
    }
    assert_eq!(shown.bytes().await.unwrap(), JPEG);
    let tag = headers["etag"].to_str().unwrap();
    let again = api.get("/v1/jobs/1/thumbnail").header("if-none-match", tag).send().await.unwrap();
    assert_eq!((again.status().as_u16(), again.headers()["etag"].to_str().unwrap()), (304, tag));
    assert_eq!(again.headers()["cache-control"], "private, no-cache");
    assert_eq!(again.bytes().await.unwrap().len(), 0);
    let other = api.get(&path).header("if-none-match", "\"another\"").send().await.unwrap();
    assert_eq!(other.status(), 200);
    // Whoever has it and may see the job no more is told no more.
    problem(api.request("GET", &path).header("if-none-match", tag), 401).await;
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_a_picture_says_why_and_that_of_another_tenant_is_not_there() {
    let api = Api::start().await;
    for (state, why) in [("running", "when it has completed"), ("failed", "it made nothing")] {
        let job = api.insert_job(state).await;
        let told = problem(api.get(&format!("/v1/jobs/{job}/thumbnail")), 404).await;
        assert!(told.contains(state) && told.contains(why), "{told}");
    }
    for tenant in ["acme", "other"] {
        answer(api.post("/v1/tenants").json(&json!({ "name": tenant })), 201).await;
    }
    let job = api.insert_job("completed").await;
    api.update_job(job, "tenant = 'acme'").await;
    api.insert_thumbnail(job, JPEG).await;
    let path = format!("/v1/jobs/{job}/thumbnail");
    let [own, other] = [
        api.mint(&NewKey::of("own", Role::Viewer).of_tenant("acme")).await,
        api.mint(&NewKey::of("other", Role::Admin).of_tenant("other")).await,
    ];
    assert_eq!(api.request("GET", &path).bearer_auth(&own).send().await.unwrap().status(), 200);
    let told = problem(api.request("GET", &path).bearer_auth(&other), 404).await;
    assert!(told.starts_with("no job has the id"), "{told}");
    api.stop().await;
}
