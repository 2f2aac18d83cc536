//! Tenants: what one of them does is to the others as if it were not there.

use std::collections::BTreeSet;

use ffpool_dispatcher::ledger::keys::{NewKey, Role};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Api, answer, problem, text_of};

/// A text that stands in everything of the tenant acme's and nowhere else.
const CANARY: &str = "canary-of-acme";

/// What acme has: a failed job, a running one, one that others wait for, a schedule, a key.
struct Acme {
    parent: Uuid,
    failed: Uuid,
    running: Uuid,
    number: i64,
    key_prefix: String,
    worker: String,
}

impl Api {
    async fn tenant(&self, name: &str) {
        answer(self.post("/v1/tenants").json(&json!({"name": name})), 201).await;
    }

    async fn tenant_key(&self, tenant: &str, role: Role) -> String {
        self.mint(&NewKey::of(format!("{tenant}-{role}"), role).of_tenant(tenant)).await
    }

    /// Two tenants, acme with something of every kind.
    async fn furnish(&self) -> Acme {
        self.tenant("acme").await;
        self.tenant("other").await;
        let failed = self.insert_job("failed").await;
        let failure = json!({"cause": "oom", "message": CANARY, "evidence": CANARY, "exit_code": null, "signal": null});
        let labels = json!({ "show": CANARY });
        let of_acme = format!(
            "tenant = 'acme', labels = '{labels}', reason = '{CANARY}', spec = '{{\"scenario\": \"720p-h264\"}}'"
        );
        let dead = format!(
            "{of_acme}, failure = '{failure}', dead_fingerprint = '{CANARY}', last_cause = 'oom', ended_at = now()"
        );
        self.update_job(failed, &dead).await;
        let parent = self.insert_job("failed").await;
        self.update_job(parent, &of_acme).await;
        let worker = format!("w-{}", Uuid::now_v7().simple());
        self.insert_worker(&worker).await;
        let running = self.insert_job("running").await;
        self.update_job(running, &format!("{of_acme}, attempt = 1, owner_worker = '{worker}', started_at = now()"))
            .await;
        self.sql.execute("UPDATE worker SET running = ARRAY[$1::uuid]", &[&running]).await.unwrap();
        for (job, outcome) in [(failed, Some("failed")), (running, None)] {
            let sql = "INSERT INTO attempt (job, attempt, worker, incarnation, ended_at, outcome, usage) VALUES ($1, 1, $2, $1, \
                       CASE WHEN $3::text IS NULL THEN NULL ELSE now() END, $3, '{\"cpu_ms\": 7200000, \"wall_ms\": 3600000}')";
            self.sql.execute(sql, &[&job, &CANARY, &outcome]).await.unwrap();
            let line = "INSERT INTO log_line (job, attempt, seq, line) VALUES ($1, 1, 1, $2)";
            self.sql.execute(line, &[&job, &CANARY]).await.unwrap();
            self.insert_thumbnail(job, CANARY.as_bytes()).await;
        }
        let operator = self.tenant_key("acme", Role::Operator).await;
        let schedule =
            json!({"name": CANARY, "cron": "0 3 1 1 *", "job": {"scenario": "720p-h264", "labels": {"show": CANARY}}});
        let made = answer(self.request("POST", "/v1/schedules").bearer_auth(&operator).json(&schedule), 201).await;
        assert_eq!(made["tenant"], "acme", "{made}");
        let key = json!({"name": CANARY, "role": "viewer", "tenant": "acme"});
        let key_prefix = answer(self.post("/v1/keys").json(&key), 201).await["prefix"].as_str().unwrap().to_owned();
        let row = self.sql.query_one("SELECT number FROM job WHERE id = $1", &[&failed]).await.unwrap();
        Acme { parent, failed, running, number: row.get(0), key_prefix, worker }
    }

    /// Everything that stands in the ledger about acme, as one text.
    async fn all_of_acme(&self) -> String {
        let sql = "SELECT coalesce(string_agg(line, E'\\n' ORDER BY line), '') FROM ( \
                SELECT job::text FROM job WHERE tenant = 'acme' \
                UNION ALL SELECT e::text FROM event AS e JOIN job ON job.id = e.job WHERE tenant = 'acme' \
                UNION ALL SELECT a::text FROM attempt AS a JOIN job ON job.id = a.job WHERE tenant = 'acme' \
                UNION ALL SELECT t::text FROM thumbnail AS t JOIN job ON job.id = t.job WHERE tenant = 'acme' \
                UNION ALL SELECT s::text FROM schedule AS s WHERE tenant = 'acme' \
                UNION ALL SELECT k::text FROM api_key AS k WHERE tenant = 'acme' \
                UNION ALL SELECT t::text FROM tenant AS t WHERE name = 'acme' \
                UNION ALL SELECT q::text FROM queue_pause AS q \
                UNION ALL SELECT a::text FROM audit AS a WHERE tenant = 'acme') AS everything(line)";
        self.sql.query_one(sql, &[]).await.unwrap().get(0)
    }
}

/// A route of the description.
struct Described {
    method: String,
    path: String,
    takes_body: bool,
    open: bool,
}

fn described(description: &Value) -> Vec<Described> {
    let mut routes = Vec::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            routes.push(Described {
                method: method.to_ascii_uppercase(),
                path: path.clone(),
                takes_body: operation["requestBody"]["required"] == true,
                open: operation["security"].as_array().unwrap().is_empty(),
            });
        }
    }
    routes
}

/// Bodies that reach for what is acme's. A route that is new and needs a body must be added here.
fn bodies(path: &str, acme: &Acme) -> Vec<Value> {
    let job = json!({"scenario": "720p-h264"});
    match path {
        "/v1/jobs" | "/v1/jobs/check" => vec![
            json!({"scenario": "720p-h264", "tenant": "acme"}),
            json!({"scenario": "720p-h264", "id": acme.failed}),
            json!({"scenario": "720p-h264", "depends_on": [acme.parent]}),
        ],
        "/v1/dead-letters/redrive" => vec![json!({"ids": [acme.failed]}), json!({"fingerprint": CANARY})],
        "/v1/dead-letters/purge" => {
            vec![json!({"ids": [acme.failed], "reason": "x"}), json!({"fingerprint": CANARY, "reason": "x"})]
        }
        "/v1/schedules" => vec![
            json!({"name": "own", "cron": "0 4 1 1 *", "job": job}),
            json!({"name": "theirs", "cron": "0 4 1 1 *", "job": {"scenario": "720p-h264", "tenant": "acme"}}),
        ],
        "/v1/keys" => vec![json!({"name": "x", "role": "viewer", "tenant": "acme"})],
        "/v1/tenants" => vec![json!({"name": "acme"}), json!({"name": "third"})],
        "/v1/tenants/{name}/set" => vec![json!({"weight": 7})],
        other => panic!("the route {other} takes a body: say here how it could reach another tenant's things"),
    }
}

/// Paths of a route that name what is acme's, each with the same path for what nobody has.
fn paths(route: &Described, acme: &Acme) -> Vec<(String, String)> {
    let pairs: Vec<(&str, String, String)> = match route.path.as_str() {
        // Pages and files of the dashboard are the same for everybody.
        "/jobs/{id}" => vec![("{id}", acme.failed.to_string(), "1".to_owned())],
        "/workers/{id}" => vec![("{id}", acme.worker.clone(), "nobody".to_owned())],
        "/assets/{file}" => vec![("{file}", "app.js".to_owned(), "nothing.js".to_owned())],
        "/v1/events" => vec![
            ("", String::new(), String::new()),
            (
                "events",
                format!("events?jobs={},{}", acme.failed, acme.running),
                format!("events?jobs={}", Uuid::now_v7()),
            ),
            ("events", format!("events?log={}", acme.running), format!("events?log={}", Uuid::now_v7())),
        ],
        "/v1/jobs/check" => vec![("", String::new(), String::new())],
        path if path.starts_with("/v1/jobs/") => vec![
            ("{id}", acme.failed.to_string(), Uuid::now_v7().to_string()),
            ("{id}", acme.running.to_string(), Uuid::now_v7().to_string()),
            ("{id}", acme.number.to_string(), "999999".to_owned()),
        ],
        path if path.starts_with("/v1/workers/") => vec![("{id}", acme.worker.clone(), "nobody".to_owned())],
        path if path.starts_with("/v1/queues/") => vec![("{queue}", "default".to_owned(), "default".to_owned())],
        path if path.starts_with("/v1/schedules/") => vec![("{name}", CANARY.to_owned(), "nobodys".to_owned())],
        path if path.starts_with("/v1/tenants/") => vec![("{name}", "acme".to_owned(), "nobody".to_owned())],
        path if path.starts_with("/v1/keys/") => vec![
            ("{key}", acme.key_prefix.clone(), "0123456789".to_owned()),
            ("{key}", CANARY.to_owned(), "nobodys".to_owned()),
        ],
        path if path.contains('{') => panic!("the route {path} names something: say here what acme has of it"),
        _ => vec![("", String::new(), String::new())],
    };
    pairs
        .into_iter()
        .map(|(name, theirs, nobodys)| {
            if name.is_empty() {
                (route.path.clone(), route.path.clone())
            } else {
                (route.path.replace(name, &theirs), route.path.replace(name, &nobodys))
            }
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_role_of_another_tenant_sees_or_changes_anything_on_any_route() {
    let api = Api::start().await;
    let acme = api.furnish().await;
    let description = api.show("/openapi.json").await;
    let before = api.all_of_acme().await;
    assert!(before.contains(CANARY));
    let secrets = [CANARY.to_owned(), acme.failed.to_string(), acme.running.to_string(), acme.key_prefix.clone()];

    for role in Role::ALL {
        let key = api.tenant_key("other", role).await;
        for route in described(&description) {
            let bodies = if route.takes_body { bodies(&route.path, &acme) } else { vec![Value::Null] };
            for (theirs, nobodys) in paths(&route, &acme) {
                for body in &bodies {
                    let ask = async |path: &str| {
                        let mut request = api.request(&route.method, path).bearer_auth(&key);
                        if !body.is_null() {
                            request = request.json(body);
                        }
                        let response = request.send().await.unwrap();
                        (response.status().as_u16(), text_of(response).await)
                    };
                    let (status, text) = ask(&theirs).await;
                    let asked = format!("{role}: {} {theirs} {body}: {status} {text}", route.method);
                    // What it said itself may be said back.
                    let said = format!("{theirs} {body}");
                    if route.path == "/v1/audit" && status == 200 {
                        // The paths of its own refused requests stand there, and nothing of anybody else's.
                        let audit: Value = serde_json::from_str(&text).unwrap();
                        let is_own = |entry: &Value| entry["tenant"] == "other";
                        assert!(audit["items"].as_array().unwrap().iter().all(is_own), "{asked}");
                        continue;
                    }
                    for secret in secrets.iter().filter(|secret| !said.contains(*secret)) {
                        assert!(!text.contains(secret.as_str()), "{asked}");
                    }
                    if theirs == nobodys || route.open {
                        continue;
                    }
                    if status == 200 && matches!(route.path.as_str(), "/v1/events" | "/v1/workers/{id}") {
                        // They tell of what may be seen; that nothing of acme's is in it was looked at above. Workers are the
                        // pool's.
                        continue;
                    }
                    assert!(matches!(status, 403 | 404), "{asked}");
                    let (nobodys_status, nobodys_text) = ask(&nobodys).await;
                    let name = |path: &str| path.split(['/', '=']).nth(3).unwrap().to_owned();
                    let same = text == nobodys_text.replace(&name(&nobodys), &name(&theirs));
                    assert!(status == nobodys_status && same, "{asked}; nobody's: {nobodys_status} {nobodys_text}");
                }
            }
        }
    }
    assert_eq!(before, api.all_of_acme().await, "nothing of acme's is changed");
    // What was asked for acme's sake made nothing for acme, and what `other` may do it did for itself.
    let tenants = api.sql.query("SELECT DISTINCT tenant FROM job WHERE created_at > now() - interval '1 hour'", &[]);
    let tenants: BTreeSet<Option<String>> = tenants.await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(tenants, BTreeSet::from([Some("acme".to_owned()), Some("other".to_owned())]));
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sees_and_changes_what_is_its_own() {
    let api = Api::start().await;
    let acme = api.furnish().await;
    let stranger = api.insert_job("failed").await;
    api.update_job(stranger, "dead_fingerprint = 'kind', spec = '{\"scenario\": \"720p-h264\"}', ended_at = now()")
        .await;
    let admin = api.tenant_key("acme", Role::Admin).await;
    let ask = |method: &str, path: &str| api.request(method, path).bearer_auth(&admin);
    let shown = async |path: &str| answer(ask("GET", path), 200).await;

    let jobs = shown("/v1/jobs").await;
    let ids: BTreeSet<&str> = jobs["items"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap()).collect();
    let own = [acme.parent, acme.failed, acme.running].map(|id| id.to_string());
    assert_eq!(ids, own.iter().map(String::as_str).collect());
    // Its trace has its own id; where the operators look at traces, they alone are told.
    let seen = shown(&format!("/v1/jobs/{}", acme.failed)).await;
    let all = api.show(&format!("/v1/jobs/{}", acme.failed)).await;
    let trace = acme.failed.simple().to_string();
    assert_eq!((&seen["trace_id"], &seen["trace_url"]), (&json!(trace), &Value::Null), "{seen}");
    assert_eq!(all["trace_url"], super::TRACE_URL.replace("{trace_id}", &trace));
    assert_eq!(seen["attempts"][0]["span_id"].as_str().unwrap().len(), 16, "{seen}");
    assert_eq!(shown("/v1/jobs?tenant=other").await["items"], json!([]));
    assert_eq!(shown("/v1/dead-letters/groups").await[0]["count"], 1);
    assert_eq!(shown("/v1/workers").await[0]["running"], json!([acme.running]));
    assert_eq!(shown("/v1/cost?by=queue").await["rows"][0]["jobs"], 1);
    assert_eq!(shown(&format!("/v1/jobs/{}/log", acme.failed)).await[0]["line"], CANARY);
    let picture = ask("GET", &format!("/v1/jobs/{}/thumbnail", acme.failed)).send().await.unwrap();
    assert_eq!(picture.text().await.unwrap(), CANARY);
    let running: i64 =
        shown("/v1/queues").await.as_array().unwrap().iter().map(|queue| queue["running"].as_i64().unwrap()).sum();
    assert_eq!(running, 1);
    assert_eq!(shown("/v1/tenants").await[0]["name"], "acme");
    assert_eq!(shown("/v1/tenants").await.as_array().unwrap().len(), 1);

    let job = answer(ask("POST", "/v1/jobs").json(&json!({"scenario": "720p-h264"})), 201).await;
    assert_eq!(shown(&format!("/v1/jobs/{}", job["number"])).await["tenant"], "acme");
    let refused = answer(ask("POST", "/v1/jobs").json(&json!({"scenario": "720p-h264", "tenant": "other"})), 422).await;
    assert_eq!(refused["faults"][0]["path"], "tenant", "{refused}");
    let report = answer(
        ask("POST", "/v1/dead-letters/purge").json(&json!({"ids": [acme.failed, stranger], "reason": "x"})),
        200,
    );
    assert_eq!(report.await["purged"], 1);
    api.show(&format!("/v1/jobs/{stranger}")).await;
    answer(ask("POST", &format!("/v1/jobs/{}/cancel", job["id"].as_str().unwrap())), 200).await;
    // What the pool's operator does to it, it is told; from where, it is not.
    answer(api.post(&format!("/v1/jobs/{}/retry", job["id"].as_str().unwrap())), 200).await;
    let audit = shown("/v1/audit").await;
    let entries = audit["items"].as_array().unwrap();
    assert!(entries.iter().all(|entry| entry["tenant"] == "acme"), "{audit}");
    assert_eq!((&entries[0]["who"], &entries[0]["address"]), (&json!("test-admin"), &Value::Null), "{audit}");
    assert_eq!((&entries[1]["action"], &entries[1]["address"]), (&json!("cancel"), &json!("127.0.0.1")), "{audit}");

    // Names are each tenant's own.
    let other = api.tenant_key("other", Role::Admin).await;
    let schedule = json!({"name": CANARY, "cron": "0 4 1 1 *", "job": {"scenario": "720p-h264"}});
    let made = answer(api.request("POST", "/v1/schedules").bearer_auth(&other).json(&schedule), 201).await;
    assert_eq!((&made["tenant"], &made["cron"]), (&json!("other"), &json!("0 4 1 1 *")), "{made}");
    answer(api.request("POST", "/v1/keys").bearer_auth(&other).json(&json!({"name": CANARY, "role": "viewer"})), 201)
        .await;
    assert!(problem(api.post(&format!("/v1/keys/{CANARY}/revoke")), 409).await.contains(&acme.key_prefix));

    // Its admin makes keys of its own alone.
    let made = answer(ask("POST", "/v1/keys").json(&json!({"name": "app", "role": "submitter"})), 201).await;
    assert_eq!(made["tenant"], "acme");
    let path = format!("/v1/schedules/{CANARY}");
    assert_eq!(shown(&path).await["tenant"], "acme");
    problem(api.get(&path), 404).await;
    assert_eq!(api.show(&format!("{path}?tenant=acme")).await["tenant"], "acme");
    let run = answer(ask("POST", &format!("{path}/run")), 201).await;
    assert_eq!(shown(&format!("/v1/jobs/{}", run["number"])).await["tenant"], "acme");
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_opens_nothing_opens_nothing_on_any_route_and_is_written_down() {
    let api = Api::start().await;
    api.tenant("closed").await;
    let admin = |name: &str| NewKey::of(name, Role::Admin);
    let expired = api.mint(&admin("expired")).await;
    api.sql.execute("UPDATE api_key SET expires_at = now() WHERE name = 'expired'", &[]).await.unwrap();
    let revoked = api.mint(&admin("revoked")).await;
    answer(api.post("/v1/keys/revoked/revoke"), 200).await;
    let of_closed = api.mint(&admin("of-closed").of_tenant("closed")).await;
    answer(api.request("GET", "/v1/jobs").bearer_auth(&of_closed), 200).await;
    answer(api.post("/v1/tenants/closed/disable"), 200).await;
    let unknown = format!("ffp_0123456789_{}", "0".repeat(64));
    let keys = [
        (&expired, "expired", "has expired"),
        (&revoked, "revoked", "was revoked"),
        (&of_closed, "of-closed", "is disabled"),
        (&unknown, "an unknown key", "not known"),
    ];
    let mut refused = 0;
    for route in described(&api.show("/openapi.json").await).iter().filter(|route| !route.open) {
        let path = route.path.replace(['{', '}'], "");
        for (key, _, told) in keys {
            let detail = problem(api.request(&route.method, &path).bearer_auth(key), 401).await;
            assert!(detail.contains(told), "{path}: {detail}");
            refused += 1;
        }
    }
    assert!(refused > 100);
    let audit = api.show("/v1/audit?limit=500").await;
    let entries: Vec<&Value> =
        audit["items"].as_array().unwrap().iter().filter(|entry| entry["action"] == "refused").collect();
    for (_, who, told) in keys {
        let entry = entries.iter().find(|entry| entry["who"] == who).unwrap_or_else(|| panic!("{who}: {audit}"));
        assert!(entry["detail"]["reason"].as_str().unwrap().contains(told), "{entry}");
        assert_eq!((&entry["detail"]["status"], &entry["address"]), (&json!(401), &json!("127.0.0.1")), "{entry}");
    }
    // One entry for each source and minute, however often it knocks. The test may see the turn of some minutes.
    assert!(entries.len() < refused / 2, "{} entries of {refused} refusals", entries.len());

    answer(api.post("/v1/tenants/closed/enable"), 200).await;
    answer(api.request("GET", "/v1/jobs").bearer_auth(&of_closed), 200).await;
    for change in ["UPDATE audit SET actor = 'x'", "DELETE FROM audit", "TRUNCATE audit"] {
        let refused = api.sql.execute(change, &[]).await.unwrap_err();
        assert!(refused.as_db_error().unwrap().message().contains("only grows"), "{change}: {refused}");
    }
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_made_and_changed_by_the_pools_admin_and_named_by_jobs_that_know_it() {
    let api = Api::start().await;
    let limits = json!({"name": "acme", "set": {"weight": 3, "max_queued": 10, "amqp_user": "acme-producer"}});
    let made = answer(api.post("/v1/tenants").json(&limits), 201).await;
    assert_eq!((&made["weight"], &made["max_queued"], &made["max_running"]), (&json!(3), &json!(10), &Value::Null));
    problem(api.post("/v1/tenants").json(&limits), 409).await;
    let change = json!({"max_queued": null, "max_cpu_cores": 2.5});
    let set = answer(api.post("/v1/tenants/acme/set").json(&change), 200).await;
    assert_eq!((&set["weight"], &set["max_queued"], &set["max_cpu_cores"]), (&json!(3), &Value::Null, &json!(2.5)));
    let entry = &api.show("/v1/audit").await["items"][0];
    assert_eq!((&entry["before"]["max_queued"], &entry["after"]["max_queued"]), (&json!(10), &Value::Null), "{entry}");
    let user = json!({"name": "second", "set": {"amqp_user": "acme-producer"}});
    assert!(problem(api.post("/v1/tenants").json(&user), 409).await.contains("another tenant's"));
    problem(api.post("/v1/tenants").json(&json!({"name": "a b"})), 400).await;
    problem(api.post("/v1/tenants/nobody/set").json(&change), 404).await;

    let submit = |tenant: &str| api.post("/v1/jobs").json(&json!({"scenario": "720p-h264", "tenant": tenant}));
    let job = answer(submit("acme"), 201).await;
    let refused = answer(submit("acne"), 422).await;
    assert!(refused["faults"][0]["message"].as_str().unwrap().contains("no tenant `acne`"), "{refused}");
    answer(api.post("/v1/tenants/acme/disable"), 200).await;
    assert_eq!(answer(submit("acme"), 422).await["faults"][0]["code"], "disabled");
    answer(api.post("/v1/tenants/acme/enable"), 200).await;
    let stranger = api.insert_job("queued").await;
    let waits = json!({"scenario": "720p-h264", "tenant": "acme", "depends_on": [job["id"], stranger]});
    assert_eq!(answer(api.post("/v1/jobs").json(&waits), 422).await["faults"][0]["path"], "depends_on");
    api.stop().await;
}
