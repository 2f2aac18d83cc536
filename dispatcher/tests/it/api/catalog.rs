//! Scenarios and templates of the operator's: what is recorded has only what is built in.

use ffpool_schema::catalog::{Catalog, CatalogFile};
use serde_json::json;
use uuid::Uuid;

use super::{Api, answer, problem};

fn house() -> Catalog {
    let file: CatalogFile = serde_json::from_value(json!({
        "scenarios": {"house": {"extends": "1080p30-h264", "parameters": {"crf": 20}}},
        "templates": {"news": {"required": ["title"], "job": {"scenario": "house", "labels": {"show": "{title}"}}}},
    }))
    .unwrap();
    Catalog::new(&file).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_a_template_is_recorded_as_what_will_run_and_told_as_what_was_asked() {
    let api = Api::start_with(house()).await;
    let scenarios = api.show("/v1/scenarios").await;
    let shown = scenarios.as_array().unwrap().iter().find(|each| each["name"] == "house").unwrap();
    assert_eq!((&shown["source"], &shown["base"]), (&json!("file"), &json!("1080p30-h264")));
    assert_eq!(api.show("/v1/templates").await[0]["required"], json!(["title"]));

    let id = Uuid::now_v7();
    let body = json!({"id": id, "template": "news", "set": {"title": "7", "parameters.preset": "fast"}});
    let submit = || api.post("/v1/jobs").json(&body);
    let submitted = answer(submit(), 201).await;
    let job = api.show(&format!("/v1/jobs/{id}")).await;
    assert_eq!((&job["scenario"], &job["spec"]["scenario"]), (&json!("house"), &json!("1080p30-h264")));
    assert_eq!(job["spec"]["parameters"], json!({"crf": 20, "preset": "fast"}));
    assert_eq!(job["labels"], json!({"show": "7"}));
    assert_eq!(answer(submit(), 200).await["number"], submitted["number"], "a repeat makes no second job");

    let faults = api.post("/v1/jobs").json(&json!({"template": "news"})).send().await.unwrap();
    let problem_of: serde_json::Value = faults.json().await.unwrap();
    assert_eq!((&problem_of["status"], &problem_of["faults"][0]["path"]), (&json!(422), &json!("set.title")));
    problem(api.post("/v1/jobs").json(&json!({"template": "other"})), 422).await;
    api.stop().await;
}
