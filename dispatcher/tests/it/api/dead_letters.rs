//! Dead letters: by kind, sent round again, and done away with.

use serde_json::json;
use uuid::Uuid;

use super::{Api, answer, problem};

impl Api {
    /// A dead letter of the kind `fingerprint`, written past the ledger.
    async fn insert_dead_letter(&self, fingerprint: &str, cause: &str, message: &str) -> Uuid {
        let id = self.insert_job("failed").await;
        let failure = json!({"cause": cause, "message": message, "evidence": null, "exit_code": null, "signal": null});
        let assignments = format!(
            "spec = '{{\"scenario\": \"720p-h264\"}}', failures = 4, ended_at = now(), dead_fingerprint = '{fingerprint}', \
             last_cause = '{cause}', failure = '{failure}'"
        );
        self.update_job(id, &assignments).await;
        id
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_counted_by_kind_and_listed_by_kind() {
    let api = Api::start().await;
    let missing = api.insert_dead_letter("k-missing", "input_missing", "there is no /media/1.mov").await;
    api.insert_dead_letter("k-oom", "oom", "it used more than 64 MiB").await;
    let newest = api.insert_dead_letter("k-oom", "oom", "it used more than 128 MiB").await;
    let sent_again = api.insert_dead_letter("k-missing", "input_missing", "there is no /media/2.mov").await;
    api.update_job(sent_again, "state = 'queued'").await;

    let groups = api.show("/v1/dead-letters/groups").await;
    let brief: Vec<_> =
        groups.as_array().unwrap().iter().map(|group| (&group["fingerprint"], &group["count"])).collect();
    assert_eq!(brief, [(&json!("k-oom"), &json!(2)), (&json!("k-missing"), &json!(1))], "{groups}");
    let group: ffpool_schema::api::DeadLetterGroup = serde_json::from_value(groups[0].clone()).unwrap();
    assert_eq!((group.cause.as_str(), group.example.as_str()), ("oom", "it used more than 128 MiB"));
    assert_eq!(group.example_job.0, newest);
    assert!(group.first <= group.last, "{groups}");

    let listed = api.show("/v1/dead-letters?fingerprint=k-missing").await;
    let ids: Vec<_> = listed["items"].as_array().unwrap().iter().map(|job| &job["id"]).collect();
    assert_eq!(ids, [&json!(missing)], "{listed}");
    assert!(problem(api.get("/v1/jobs?fingerprint=k-oom"), 400).await.contains("`fingerprint`"));
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_sent_round_again_and_the_rest_says_why_not() {
    let api = Api::start().await;
    let failed = api.insert_job("failed").await;
    api.update_job(failed, "spec = '{\"scenario\": \"720p-h264\"}', failures = 4, ended_at = now()").await;
    let queued = api.insert_job("queued").await;
    let missing = Uuid::now_v7();

    let listed = api.show("/v1/dead-letters").await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert_eq!(listed["items"][0]["id"], json!(failed));

    let request = json!({"ids": [failed, queued, missing], "reason": "disk replaced"});
    let report = answer(api.post("/v1/dead-letters/redrive").json(&request), 200).await;
    assert_eq!(report["redriven"], json!([failed]));
    assert!(report["refused"][queued.to_string()].as_str().unwrap().contains("not ended"), "{report}");
    assert!(report["refused"][missing.to_string()].as_str().unwrap().contains("no such job"), "{report}");

    let job = api.show(&format!("/v1/jobs/{failed}")).await;
    assert_eq!((&job["state"], &job["failures"]), (&json!("queued"), &json!(0)), "{job}");
    assert!(problem(api.post("/v1/dead-letters/redrive").json(&json!({"ids": []})), 400).await.contains("`ids`"));
    assert!(problem(api.post("/v1/dead-letters/redrive").body("ids"), 400).await.contains("`body`"));
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_kind_is_sent_round_again() {
    let api = Api::start().await;
    let first = api.insert_dead_letter("k-oom", "oom", "it used more than 64 MiB").await;
    let second = api.insert_dead_letter("k-oom", "oom", "it used more than 65 MiB").await;
    let other = api.insert_dead_letter("k-stall", "stall", "it made no progress").await;

    let request = json!({"fingerprint": "k-oom", "ids": [first], "reason": "more memory"});
    let report = answer(api.post("/v1/dead-letters/redrive").json(&request), 200).await;
    assert_eq!(report, json!({"redriven": [first, second], "refused": {}}));
    let left = api.show("/v1/dead-letters").await;
    assert_eq!((&left["items"][0]["id"], left["items"].as_array().unwrap().len()), (&json!(other), 1));
    let told = api.show(&format!("/v1/jobs/{second}/explain")).await["sentences"].to_string();
    assert!(told.contains("sent round again by test-admin") && told.contains("more memory"), "{told}");
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_takes_dead_letters_only_and_leaves_the_reason() {
    let api = Api::start().await;
    let of_kind = api.insert_dead_letter("k-oom", "oom", "it used more than 64 MiB").await;
    let named = api.insert_dead_letter("k-stall", "stall", "it made no progress").await;
    let kept = api.insert_dead_letter("k-stall", "stall", "it made no progress").await;
    let queued = api.insert_job("queued").await;
    api.update_job(of_kind, "tenant = 'acme'").await;
    let purge = |request: serde_json::Value| api.post("/v1/dead-letters/purge").json(&request);

    assert!(problem(purge(json!({"ids": [named]})), 400).await.contains("reason"));
    assert!(problem(purge(json!({"ids": [named], "reason": " "})), 400).await.contains("`reason`"));
    assert!(problem(purge(json!({"reason": "all"})), 400).await.contains("`ids`"));

    let request = json!({"fingerprint": "k-oom", "ids": [named, queued], "reason": "test jobs"});
    assert_eq!(answer(purge(request), 200).await["purged"], 2);
    for gone in [of_kind, named] {
        problem(api.get(&format!("/v1/jobs/{gone}")), 404).await;
    }
    for left in [kept, queued] {
        api.show(&format!("/v1/jobs/{left}")).await;
    }
    // The tenant finds in its audit what was done to its own, and nothing of others.
    let audit = api.show("/v1/audit").await;
    for (entry, tenant) in audit["items"].as_array().unwrap().iter().zip([json!(null), json!("acme")]) {
        assert_eq!((&entry["who"], &entry["action"]), (&json!("test-admin"), &json!("purge")), "{entry}");
        assert_eq!(
            (&entry["detail"]["reason"], &entry["detail"]["purged"]),
            (&json!("test jobs"), &json!(1)),
            "{entry}"
        );
        assert_eq!((&entry["tenant"], entry["detail"]["ids"].is_null()), (&tenant, tenant != json!(null)), "{entry}");
    }
    api.stop().await;
}
