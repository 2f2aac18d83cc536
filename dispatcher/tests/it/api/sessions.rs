//! Sessions of the dashboard and its live stream, asked for as a browser does.

use ffpool_dispatcher::ledger::keys::{NewKey, Role};
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Api, answer, problem, within_bound};

/// A session as a browser has it.
struct Session {
    cookie: String,
    csrf: String,
}

impl Session {
    async fn begin(api: &Api, key: &str) -> Session {
        let response = api.request("POST", "/v1/session").bearer_auth(key).send().await.unwrap();
        assert_eq!(response.status(), 201);
        let set = response.headers()["set-cookie"].to_str().unwrap().to_owned();
        for attribute in
            ["__Host-ffpool=", "; Path=/", "; Secure", "; HttpOnly", "; SameSite=Strict", "; Max-Age=43200"]
        {
            assert!(set.contains(attribute), "{set}");
        }
        let view: Value = response.json().await.unwrap();
        Session { cookie: set.split(';').next().unwrap().to_owned(), csrf: view["csrf"].as_str().unwrap().to_owned() }
    }

    fn get(&self, api: &Api, path: &str) -> RequestBuilder {
        api.request("GET", path).header("cookie", &self.cookie).header("sec-fetch-site", "same-origin")
    }

    fn post(&self, api: &Api, path: &str) -> RequestBuilder {
        let request = api.request("POST", path).header("cookie", &self.cookie).header("x-ffpool-csrf", &self.csrf);
        request.header("origin", &api.base).header("sec-fetch-site", "same-origin")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_may_what_its_key_may_from_our_own_pages_alone_and_ends_with_it() {
    let api = Api::start().await;
    let operator = api.mint(&NewKey::of("operator", Role::Operator)).await;
    let session = Session::begin(&api, &operator).await;
    let job = api.insert_job("queued").await;

    let view = answer(session.get(&api, "/v1/session"), 200).await;
    assert_eq!((&view["name"], &view["rights"]), (&json!("operator"), &json!(["read", "submit", "control"])), "{view}");
    assert_eq!(view["csrf"], json!(session.csrf));
    answer(session.post(&api, &format!("/v1/jobs/{job}/pause")), 200).await;
    assert!(problem(session.get(&api, "/v1/audit"), 403).await.contains("role admin"));

    // What another site has the browser send changes nothing.
    let cancel = format!("/v1/jobs/{job}/cancel");
    let by_cookie = || api.request("POST", &cancel).header("cookie", &session.cookie);
    for forged in [
        by_cookie(),
        by_cookie().header("x-ffpool-csrf", "0".repeat(64)),
        by_cookie().header("x-ffpool-csrf", &session.csrf).header("origin", "https://evil.example"),
        by_cookie().header("x-ffpool-csrf", &session.csrf).header("sec-fetch-site", "cross-site"),
        by_cookie().header("x-ffpool-csrf", &session.csrf).header("sec-fetch-site", "same-site"),
    ] {
        problem(forged, 403).await;
    }
    assert_eq!(api.show(&format!("/v1/jobs/{job}")).await["state"], "queued");
    // A session makes no other session, and a key needs no token.
    problem(session.post(&api, "/v1/session"), 400).await;
    answer(api.post(&cancel), 200).await;

    // Only a hash of its secret is kept.
    let secret = session.cookie.split('=').nth(1).unwrap();
    let rows = api
        .sql
        .query("SELECT s::text FROM web_session AS s UNION ALL SELECT a::text FROM audit AS a", &[])
        .await
        .unwrap();
    assert!(rows.iter().all(|row| !row.get::<_, String>(0).contains(secret)));

    // It ends when its user says so, when its key is revoked, and by itself.
    let other = Session::begin(&api, &operator).await;
    answer(other.post(&api, "/v1/session/end"), 200).await;
    assert!(problem(other.get(&api, "/v1/jobs"), 401).await.contains("log in again"));
    // Its cookie would go before a client certificate for as long as the browser has it.
    let refused = other.get(&api, "/v1/jobs").send().await.unwrap();
    let set = refused.headers()["set-cookie"].to_str().unwrap();
    assert_eq!(set, "__Host-ffpool=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Strict");
    let by_key = other.get(&api, "/v1/jobs").bearer_auth("no-such-key").send().await.unwrap();
    assert_eq!((by_key.status().as_u16(), by_key.headers().get("set-cookie")), (401, None), "the key was refused");
    for ended in ["used_at = now() - interval '3 hours'", "expires_at = now()", "key_hash = '\\x00'"] {
        let idle = Session::begin(&api, &operator).await;
        answer(idle.get(&api, "/v1/jobs"), 200).await;
        let newest =
            format!("UPDATE web_session SET {ended} WHERE created_at = (SELECT max(created_at) FROM web_session)");
        assert_eq!(api.sql.execute(&newest, &[]).await.unwrap(), 1);
        problem(idle.get(&api, "/v1/jobs"), 401).await;
    }
    answer(session.get(&api, "/v1/jobs"), 200).await;
    answer(api.post("/v1/keys/operator/revoke"), 200).await;
    let refused = problem(session.get(&api, "/v1/jobs"), 401).await;
    assert!(refused.contains("was revoked"), "{refused}");
    let by_key = problem(api.request("GET", "/v1/jobs").bearer_auth(&operator), 401).await;
    assert_eq!(refused, by_key, "a session stands for whom its key stands for");

    let audit = api.show("/v1/audit?limit=100").await;
    let did = |action: &str| {
        audit["items"].as_array().unwrap().iter().any(|entry| entry["action"] == action && entry["who"] == "operator")
    };
    assert!(did("log_in") && did("log_out") && did("refused"), "{audit}");
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_tells_of_the_jobs_and_queues_of_its_realm_and_ends_with_its_key() {
    let api = Api::start().await;
    for name in ["acme", "other"] {
        answer(api.post("/v1/tenants").json(&json!({"name": name})), 201).await;
    }
    let own = api.insert_job("queued").await;
    api.update_job(own, "tenant = 'acme'").await;
    let theirs = api.insert_job("queued").await;
    api.update_job(theirs, "tenant = 'other', scenario = 'secret-of-other'").await;
    let key = api.mint(&NewKey::of("acme-viewer", Role::Viewer).of_tenant("acme")).await;

    assert!(problem(api.get("/v1/events?jobs=7"), 400).await.contains("parameter `jobs`"));
    problem(api.request("GET", &format!("/v1/events?log={theirs}")).bearer_auth(&key), 404).await;
    let path = format!("/v1/events?jobs={own},{theirs},{}", Uuid::now_v7());
    let mut stream = api.request("GET", &path).bearer_auth(&key).send().await.unwrap();
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    let reading = async {
        let mut is_running = false;
        while let Some(chunk) = stream.chunk().await.unwrap() {
            text.push_str(&String::from_utf8_lossy(&chunk));
            if !is_running
                && text.contains("event: job")
                && text.contains("event: queues")
                && text.contains("event: fleet")
            {
                is_running = true;
                api.update_job(own, "state = 'running', attempt = 1, owner_worker = 'w-1', started_at = now()").await;
            }
            if is_running && text.contains("\"state\":\"running\"") {
                // Nothing more is told to a key that is revoked.
                let _ = api.post("/v1/keys/acme-viewer/revoke").send().await.unwrap();
            }
        }
    };
    within_bound("the stream ends with its key", reading).await;
    assert!(text.contains(&own.to_string()) && text.contains("\"newest\":1"), "{text}");
    assert!(!text.contains(&theirs.to_string()) && !text.contains("secret-of-other"), "{text}");
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_is_counted_step_by_step_and_a_job_is_checked_without_being_recorded() {
    let api = Api::start().await;
    for state in ["completed", "completed", "failed"] {
        let job = api.insert_job(state).await;
        api.update_job(job, "ended_at = now() - interval '5 minutes'").await;
    }
    let told = api.show("/v1/throughput?hours=2").await;
    let points = told["points"].as_array().unwrap();
    let sum = |key: &str| points.iter().map(|point| point[key].as_i64().unwrap()).sum::<i64>();
    assert!((60..=61).contains(&points.len()) && told["step_secs"] == 120, "{told}");
    assert_eq!((sum("completed"), sum("failed"), sum("cancelled")), (2, 1, 0), "{told}");
    let jobs = api.sql.query_one("SELECT count(*) FROM job", &[]).await.unwrap().get::<_, i64>(0);
    let good = json!({"scenario": "720p30-h264", "input": "https://host/in.mov?X-Amz-Signature=hidden", "output": "/media/out.mp4"});
    let checked = answer(api.post("/v1/jobs/check").json(&good), 200).await;
    assert_eq!(checked["spec"]["scenario"], "720p30-h264");
    assert!(!checked.to_string().contains("hidden"), "{checked}");
    let bad = answer(api.post("/v1/jobs/check").json(&json!({"scenario": "no-such", "queue": "fast"})), 422).await;
    assert_eq!(bad["faults"].as_array().unwrap().len(), 2, "{bad}");
    assert_eq!(api.sql.query_one("SELECT count(*) FROM job", &[]).await.unwrap().get::<_, i64>(0), jobs);
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_one_file_with_a_policy_and_is_not_sent_twice() {
    let api = Api::start().await;
    for path in ["/", "/jobs", "/jobs/17", "/login", "/audit"] {
        let page = api.request("GET", path).send().await.unwrap();
        let headers = page.headers().clone();
        assert_eq!(headers["content-type"], "text/html; charset=utf-8", "{path}");
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["referrer-policy"], "no-referrer");
        let again = api.request("GET", path).header("if-none-match", &headers["etag"]).send().await.unwrap();
        assert_eq!((again.status().as_u16(), again.text().await.unwrap()), (304, String::new()));
    }
    let packed = api.request("GET", "/assets/app.js").header("accept-encoding", "gzip").send().await.unwrap();
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    assert!(problem(api.request("GET", "/assets/nothing.js"), 404).await.contains("another version"));
    api.stop().await;
}
