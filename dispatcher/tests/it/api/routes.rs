//! The route table as clients meet it.

use ffpool_dispatcher::ledger::keys::{NewKey, Role};
use serde_json::Value;

use super::{Api, problem, text_of};

/// Every route of the description: a path that exists by form, whether it is open, and whom it is for.
pub(super) fn described_routes(description: &Value) -> Vec<(String, String, bool, String)> {
    let mut routes = Vec::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let open = operation["security"].as_array().unwrap().is_empty();
            let least = operation["description"].as_str().unwrap().to_owned();
            let path =
                path.replace("{id}", "1").replace("{queue}", "live").replace("{name}", "none").replace("{key}", "none");
            let path = path.replace("{file}", "app.js");
            routes.push((method.to_ascii_uppercase(), path, open, least));
        }
    }
    routes
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_of_the_description_is_served_behind_its_right() {
    let api = Api::start().await;
    let viewer = api.mint(&NewKey::of("viewer", Role::Viewer)).await;
    let submitter = api.mint(&NewKey::of("submitter", Role::Submitter)).await;
    let operator = api.mint(&NewKey::of("operator", Role::Operator)).await;
    let description = api.show("/openapi.json").await;
    assert_eq!(description["openapi"], "3.1.0");

    let routes = described_routes(&description);
    assert!(routes.len() >= 25, "{routes:?}");
    for (method, path, open, least) in routes {
        let request = || api.request(&method, &path);
        if open {
            let status = request().send().await.unwrap().status();
            assert!(status == 200 || status == 503, "{path}: {status}");
            continue;
        }
        problem(request(), 401).await;
        problem(request().bearer_auth("ffp_0000000000_00"), 401).await;
        if method == "POST" && !least.contains("the role viewer") {
            let detail = problem(request().bearer_auth(&viewer), 403).await;
            assert!(detail.contains("use a key of the role"), "{detail}");
            if !least.contains("the role submitter") {
                problem(request().bearer_auth(&submitter), 403).await;
            }
        }
        if least.contains("the role admin") {
            problem(request().bearer_auth(&operator), 403).await;
        }
        let allowed = request().header("X-API-Key", &api.admin).send().await.unwrap();
        let status = allowed.status().as_u16();
        let text = text_of(allowed).await;
        assert!(!matches!(status, 401 | 403 | 405 | 500 | 503), "{method} {path}: {status} {text}");
        assert!(!text.contains("there is no route"), "{method} {path}: {text}");
    }
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_route_takes_is_a_problem_that_says_so() {
    let api = Api::start().await;
    assert!(problem(api.get("/v1/nothing"), 404).await.contains("/v1/nothing"));
    assert!(problem(api.post("/v1/jobs/1/nothing"), 404).await.contains("no route"));

    problem(api.request("DELETE", "/v1/jobs"), 405).await;
    let wrong_method = api.request("DELETE", "/v1/jobs").send().await.unwrap();
    let allow = wrong_method.headers()["allow"].to_str().unwrap();
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");

    assert!(problem(api.get("/v1/jobs/7abc"), 400).await.contains("parameter `id`"));
    assert!(problem(api.get("/v1/jobs?status=done"), 400).await.contains("parameter `status`"));
    assert!(problem(api.get("/v1/jobs/1/log?lines=0"), 400).await.contains("parameter `lines`"));
    assert!(problem(api.get("/v1/jobs/1"), 404).await.contains("the number 1"));
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_finds_out_how_to_write_a_job() {
    let api = Api::start().await;
    let schema = api.show("/v1/schema/job").await;
    assert!(schema["properties"]["scenario"].is_object(), "{schema}");
    assert!(schema["$defs"]["Parameters"]["properties"]["frame_rate"].is_object(), "every spelling: {schema}");
    let scenarios = api.show("/v1/scenarios").await;
    let names: Vec<&str> = scenarios.as_array().unwrap().iter().map(|each| each["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"custom-input") && names.contains(&"<size>[fps]-<codec>"), "{names:?}");
    assert_eq!(api.request("GET", "/health").send().await.unwrap().text().await.unwrap(), "ok");
    api.stop().await;
}
