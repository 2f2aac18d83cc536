//! What an operator does: pausing, dead letters by kind, the audit.

use std::process::Stdio;

use ffpool::{Client, ClientConfig, WorkerFilter};
use ffpool_schema::message::WorkerState;
use serde_json::{Value, json};

use crate::scripted::{Answer, Asked, Scripted};
use crate::{ffpool, in_async, json, run, stderr, stdout};

const ID: &str = "01920f3a-7c1e-7d2a-8a6e-3f0c5b1d9e42";
const AT: &str = "2026-11-25T18:00:00Z";

fn api() -> Scripted {
    Scripted::start(|asked, _| {
        let entry = |target: &str| json!({"at": AT, "who": "anna", "action": "drain", "target": target, "detail": {"reason": "moving"}});
        Some(match asked.line.as_str() {
            "POST /v1/jobs/17/pause" => Answer::json(&json!({"state": "running", "message": "It is frozen."})),
            "POST /v1/jobs/17/resume" => Answer::json(&json!({"state": "running", "message": "It goes on."})),
            "POST /v1/jobs/18/pause" => Answer::problem(409, "/problems/conflict", "the job has ended already"),
            "POST /v1/queues/batch/pause" => Answer::json(&json!({"state": "paused", "message": "It waits."})),
            "POST /v1/queues/batch/resume" => Answer::json(&json!({"state": "open", "message": "It goes on."})),
            "GET /v1/queues" => Answer::json(&json!([{
                "name": "jobs.batch.low", "queue": "batch", "priority": "low", "pool": "cpu", "ready": 0,
                "paused": true, "queued": 0, "running": 0, "delayed": 0, "oldest": null,
            }])),
            "GET /v1/dead-letters/groups" => Answer::json(&json!([{
                "fingerprint": "k-oom", "cause": "oom", "example": "it used more than 64 MiB", "example_job": ID,
                "count": 12, "first": AT, "last": AT,
            }])),
            "POST /v1/dead-letters/redrive" => Answer::json(&json!({"redriven": [ID], "refused": {}})),
            "POST /v1/dead-letters/purge" => Answer::json(&json!({"purged": 12})),
            "POST /v1/keys" | "POST /v1/keys/app/rotate" => Answer::json(&json!({
                "key": "ffp_0123456789_secret", "name": "app", "prefix": "0123456789", "role": "submitter",
                "scopes": ["submit"], "tenant": "acme", "state": "valid", "created_at": AT,
            })),
            "GET /v1/failures?hours=168" => Answer::json(&json!({"hours": 168, "since": AT, "causes": [{
                "cause": "oom", "attempts": 12, "retried": 9, "dead": 3, "last": AT, "cure": "Raise resource_limits.max_memory_mb.",
            }]})),
            "GET /v1/jobs?cause=oom&search=clip+17&limit=50" => {
                Answer::json(&json!({"items": [], "next": "p2", "searched": {"back_to": AT, "is_all": false}}))
            }
            "GET /v1/jobs?cause=oom&search=clip+17&limit=50&cursor=p2" => {
                Answer::json(&json!({"items": [], "next": null, "searched": {"back_to": null, "is_all": true}}))
            }
            "GET /v1/keys" => Answer::json(&json!([{
                "name": "app", "prefix": "0123456789", "role": "submitter", "scopes": ["submit"], "tenant": "acme",
                "state": "expired", "created_at": AT, "expires_at": AT,
            }])),
            "POST /v1/keys/app/revoke" => Answer::json(&json!({"state": "revoked", "message": "It opens nothing."})),
            "POST /v1/tenants" | "POST /v1/tenants/acme/set" | "POST /v1/tenants/acme/disable" => {
                Answer::json(&json!({
                    "name": "acme", "weight": 2, "max_queued": null, "max_running": 3, "max_cpu_cores": 2.5,
                    "max_storage_mb": null, "requests_per_sec": null, "amqp_user": "acme", "disabled_at": null,
                    "created_at": AT,
                }))
            }
            "GET /v1/audit?limit=1" => Answer::json(&json!({"items": [entry("worker-1")], "next": "p2"})),
            "GET /v1/audit?limit=1&cursor=p2" => Answer::json(&json!({"items": [entry("worker-2")], "next": null})),
            other => Answer::problem(404, "/problems/not-found", other),
        })
    })
}

fn said(asked: &[Asked], line: &str) -> Value {
    let found = asked.iter().find(|asked| asked.line == line).unwrap_or_else(|| panic!("{line} is not in {asked:?}"));
    serde_json::from_str(&found.body).unwrap()
}

#[test]
fn jobs_and_queues_are_paused_and_resumed_and_shown_as_paused() {
    let api = api();
    let ask = |code: i32, arguments: &[&str]| run(code, ffpool(arguments).env("FFPOOL_API_URL", &api.url));
    assert!(stdout(&ask(0, &["jobs", "pause", "17"])).contains("job 17: running. It is frozen."));
    assert!(stdout(&ask(0, &["jobs", "resume", "17"])).contains("It goes on."));
    assert!(stderr(&ask(8, &["jobs", "pause", "18"])).contains("ended already"));

    assert!(stdout(&ask(0, &["queues", "pause", "batch", "--reason", "full"])).contains("queue batch: paused."));
    assert!(stdout(&ask(0, &["queues", "resume", "batch"])).contains("queue batch: open."));
    // A paused queue is shown although nothing waits in it.
    let shown = stdout(&ask(0, &["queues"]));
    assert!(shown.contains("jobs.batch.low") && shown.contains("paused"), "{shown}");
    assert_eq!(said(&api.asked(), "POST /v1/queues/batch/pause"), json!({"reason": "full"}));
    ask(2, &["queues", "pause", "fast"]);
}

#[test]
fn dead_letters_are_handled_by_kind_and_purged_only_by_who_means_it() {
    let api = api();
    let ask = |code: i32, arguments: &[&str]| {
        run(code, ffpool(arguments).env("FFPOOL_API_URL", &api.url).stdin(Stdio::null()))
    };
    let groups = stdout(&ask(0, &["dead", "list", "--groups"]));
    for word in ["k-oom", "12", "oom", ID, "it used more than 64 MiB"] {
        assert!(groups.contains(word), "{word} is missing in:\n{groups}");
    }
    assert!(
        stdout(&ask(0, &["dead", "redrive", "--group", "k-oom", "--reason", "memory"])).contains("1 sent round again")
    );
    let expected = json!({"ids": [], "fingerprint": "k-oom", "reason": "memory"});
    assert_eq!(said(&api.asked(), "POST /v1/dead-letters/redrive"), expected);
    ask(2, &["dead", "redrive"]);

    let purge = ["dead", "purge", ID, "--group", "k-oom", "--reason", "test jobs"];
    let refused = stderr(&ask(2, &purge));
    assert!(
        refused.contains("1 dead letter and every dead letter of the kind k-oom") && refused.contains("--yes"),
        "{refused}"
    );
    assert!(api.asked().iter().all(|asked| !asked.line.ends_with("/purge")), "nothing is purged unasked");
    assert!(stdout(&ask(0, &[purge.as_slice(), &["--yes"]].concat())).contains("12 purged"));
    let expected = json!({"ids": [ID], "fingerprint": "k-oom", "reason": "test jobs"});
    assert_eq!(said(&api.asked(), "POST /v1/dead-letters/purge"), expected);
    ask(2, &["dead", "purge", ID, "--yes"]);
}

#[test]
fn a_dispatcher_of_before_without_pages_and_single_workers_is_understood() {
    let worker = |id: &str| {
        json!({"id": id, "host": "h", "version": "0.1.0", "state": "ready", "pools": ["cpu"],
            "capacity": {"slots": 4, "used": 1, "cpu_percent": 400, "memory_mb": 8192, "disk_mb": 9000},
            "ability": {"cpu_percent": 400, "memory_mb": 8192, "disk_mb": 9000, "encoders": [], "noop": false, "cgroups": true},
            "running": [], "first_seen": AT, "last_seen": AT})
    };
    let api = Scripted::start(move |asked, _| {
        let unknown = "parameter `limit`: unknown here; none is allowed";
        let unreadable = "parameter `name`: `` cannot be read; text that is not empty is expected";
        Some(match asked.line.as_str() {
            "GET /v1/workers" => Answer::json(&json!([worker("encode-1"), worker("encode-2")])),
            line if line.contains("name=&") => Answer::problem(400, "/problems/bad-request", unreadable),
            line if line.starts_with("GET /v1/workers?") => Answer::problem(400, "/problems/bad-request", unknown),
            other => Answer::problem(404, "/problems/not-found", other),
        })
    });
    let ask = |code: i32, arguments: &[&str]| run(code, ffpool(arguments).env("FFPOOL_API_URL", &api.url));
    let shown = stdout(&ask(0, &["workers", "list"]));
    assert!(shown.contains("encode-1") && shown.contains("encode-2"), "{shown}");
    let shown = stdout(&ask(0, &["workers", "show", "encode-2"]));
    assert!(shown.contains("encode-2") && !shown.contains("encode-1"), "{shown}");
    assert!(stderr(&ask(8, &["workers", "show", "encode-3"])).contains("there is no worker encode-3"));

    // What such a dispatcher does not choose is chosen here.
    let page = |filter: WorkerFilter| {
        let client = Client::open(ClientConfig::new(&api.url)).unwrap();
        let page = in_async(client.workers_page(&filter));
        page.map(|page| page.items.iter().map(|worker| worker.id.to_string()).collect::<Vec<_>>())
    };
    let named = |name: &str| WorkerFilter { name: Some(name.into()), ..WorkerFilter::default() };
    assert_eq!(page(named("CODE-2")).unwrap(), ["encode-2"]);
    assert_eq!(page(named("cpu")).unwrap(), ["encode-1", "encode-2"]);
    let lost = WorkerFilter { status: vec![WorkerState::Lost], ..WorkerFilter::default() };
    assert_eq!(page(lost).unwrap(), [] as [&str; 0]);
    // Any other refusal stays one, and within a list there is no beginning anew.
    page(named("")).unwrap_err();
    page(WorkerFilter { cursor: Some("p2".into()), ..WorkerFilter::default() }).unwrap_err();
}

#[test]
fn the_audit_is_shown_to_its_end() {
    let api = api();
    let ask = |arguments: &[&str]| run(0, ffpool(arguments).env("FFPOOL_API_URL", &api.url));
    let shown = stdout(&ask(&["audit", "--all", "--limit", "1"]));
    for word in ["anna", "drain", "worker-1", "worker-2", "reason=moving"] {
        assert!(shown.contains(word), "{word} is missing in:\n{shown}");
    }
    assert_eq!(json(&ask(&["audit", "-n", "1", "--output", "json"]))["next"], "p2");
}

#[test]
fn a_schedule_is_made_shown_on_its_own_clock_and_changed() {
    let view = |paused: bool| {
        json!({"name": "nightly", "cron": "30 2 * * *", "zone": "Europe/Berlin", "job": {"scenario": "480p30-h264"},
            "missed": "one", "overlap": "skip", "paused": paused, "created_by": "anna", "created_at": AT,
            "next": if paused { json!([]) } else { json!(["2026-11-26T01:30:00Z"]) }, "last_job": ID,
            "runs": [{"due": "2026-11-25T01:30:00Z", "at": AT, "outcome": "skipped", "job": null, "detail": "job 7 has not ended"}]})
    };
    let api = Scripted::start(move |asked, _| {
        Some(match asked.line.as_str() {
            "POST /v1/schedules" => Answer(201, "application/json", view(false).to_string()),
            "GET /v1/schedules" => Answer::json(&json!([view(false)])),
            "GET /v1/schedules/nightly" | "POST /v1/schedules/nightly/resume" => Answer::json(&view(false)),
            "POST /v1/schedules/nightly/pause" => Answer::json(&view(true)),
            "POST /v1/schedules/nightly/run" => Answer::json(&json!({"id": ID, "number": 8, "state": "queued"})),
            "POST /v1/schedules/nightly/remove" => Answer::json(&json!({"state": "removed", "message": "It is gone."})),
            other => Answer::problem(404, "/problems/not-found", other),
        })
    });
    let ask = |code: i32, arguments: &[&str]| {
        stdout(&run(code, ffpool(&[&["schedule"], arguments].concat()).env("FFPOOL_API_URL", &api.url)))
    };
    let add =
        ["add", "nightly", "--cron", "30 2 * * *", "--zone", "Europe/Berlin", "--missed", "one", "-s", "480p30-h264"];
    let shown = ask(0, &[&add[..], &["--to", "/media/{date}.mp4", "-q", "batch"]].concat());
    assert!(shown.contains("2026-11-26 02:30 CET"), "{shown}");
    let expected = json!({"name": "nightly", "cron": "30 2 * * *", "zone": "Europe/Berlin", "missed": "one", "overlap": "skip",
        "paused": false, "job": {"scenario": "480p30-h264", "output": "/media/{date}.mp4", "queue": "batch"}});
    assert_eq!(said(&api.asked(), "POST /v1/schedules"), expected);
    assert!(ask(0, &["list"]).contains("nightly"));
    let shown = ask(0, &["show", "nightly"]);
    assert!(shown.contains("skipped") && shown.contains("job 7 has not ended"), "{shown}");
    assert!(ask(0, &["pause", "nightly"]).contains("paused"));
    assert!(ask(0, &["resume", "nightly"]).contains("2026-11-26 02:30 CET"));
    assert!(ask(0, &["run-now", "nightly"]).contains("job #8"));
    assert!(ask(0, &["rm", "nightly"]).contains("removed"));
    ask(8, &["show", "other"]);
    ask(2, &["show", "no/name"]);
}

#[test]
fn costs_are_shown_with_what_was_not_measured() {
    let api = Scripted::start(|asked, _| {
        let row = |key: Option<&str>, cost: f64| json!({"key": key, "jobs": 2, "attempts": 3, "unmeasured": 1, "core_hours": 4.0, "gb_hours": 1.5, "worker_hours": 1.0, "cost": cost});
        Some(match asked.line.split('?').next() {
            Some("GET /v1/cost") if asked.line.contains("by=label%3Ashow") => Answer::json(&json!({
                "by": "label:show", "since": AT, "as_of": AT, "prices": {"core_hour": 0.5, "gb_hour": null, "worker_hour": null, "currency": "EUR"},
                "rows": [row(Some("news"), 2.0), row(None, 0.25)],
            })),
            _ => Answer::problem(400, "/problems/bad-request", "parameter `by`"),
        })
    });
    let ask = |code: i32, arguments: &[&str]| run(code, ffpool(arguments).env("FFPOOL_API_URL", &api.url));
    let shown = stdout(&ask(0, &["cost", "--by", "label:show", "--since", "7d"]));
    for word in ["SHOW", "COST IN EUR", "news", "2.0000", "0.2500", "UNMEASURED", "As of "] {
        assert!(shown.contains(word), "{word} is missing in:\n{shown}");
    }
    assert_eq!(json(&ask(0, &["cost", "--by", "label:show", "--output", "json"]))["rows"][0]["core_hours"], 4.0);
    ask(2, &["cost", "--by", "colour"]);
}

#[test]
fn failures_are_counted_by_cause_and_a_search_says_how_far_it_looked_and_goes_on_to_the_oldest() {
    let api = api();
    let ask = |code: i32, arguments: &[&str]| run(code, ffpool(arguments).env("FFPOOL_API_URL", &api.url));
    let told = stdout(&ask(0, &["failures", "--hours", "168"]));
    assert!(told.contains("oom    12        9        3") && told.contains("Raise resource_limits"), "{told}");
    let search = ["jobs", "list", "--search", "clip 17", "--cause", "oom"];
    let told = stdout(&ask(0, &search));
    assert!(told.starts_with("No job fits.\nSearched back to 2026-11-2") && told.contains("--cursor p2"), "{told}");
    assert_eq!(stdout(&ask(0, &[&search[..], &["--all"]].concat())).trim(), "No job fits.");
    assert!(stderr(&ask(2, &["jobs", "list", "--cause", "hunger"])).contains("worker_lost"));
}

#[test]
fn keys_are_made_rotated_and_revoked_and_a_new_one_is_all_that_is_printed() {
    let api = api();
    let ask = |code: i32, arguments: &[&str]| run(code, ffpool(arguments).env("FFPOOL_API_URL", &api.url));
    let create = ["keys", "create", "app", "--role", "submitter", "--scopes", "submit", "--tenant", "acme"];
    let made = ask(0, &[&create[..], &["--expires", "2099-03-01"]].concat());
    assert_eq!(stdout(&made), "ffp_0123456789_secret\n");
    assert!(stderr(&made).contains("nobody can show it again"));
    let request = json!({
        "name": "app", "role": "submitter", "scopes": ["submit"], "tenant": "acme", "expires_at": "2099-03-01T00:00:00Z",
    });
    assert_eq!(said(&api.asked(), "POST /v1/keys"), request);
    let made = ask(0, &["keys", "rotate", "app", "--overlap", "2h", "--output", "json"]);
    assert_eq!(json(&made)["key"], "ffp_0123456789_secret");
    assert_eq!(said(&api.asked(), "POST /v1/keys/app/rotate"), json!({"overlap_secs": 7200}));
    let listed = stdout(&ask(0, &["keys", "list"]));
    assert!(
        listed.contains("submitter (submit)") && listed.contains("expired") && listed.contains("0123456789"),
        "{listed}"
    );
    assert!(stdout(&ask(0, &["keys", "revoke", "app"])).contains("key app: revoked."));
    ask(2, &["keys", "create", "app", "--role", "root"]);
    ask(2, &["keys", "create", "app", "--role", "viewer", "--scopes", "all"]);
    ask(2, &["keys", "create", "app", "--role", "viewer", "--expires", "soon"]);
}

#[test]
fn a_tenants_limits_are_set_taken_away_and_left_alone() {
    let api = api();
    let ask = |code: i32, arguments: &[&str]| run(code, ffpool(arguments).env("FFPOOL_API_URL", &api.url));
    let made = stdout(&ask(0, &["tenants", "create", "acme", "--weight", "2", "--amqp-user", "acme"]));
    assert!(made.contains("open") && made.contains("no limit"), "{made}");
    let request = json!({"name": "acme", "set": {"weight": 2, "amqp_user": "acme"}});
    assert_eq!(said(&api.asked(), "POST /v1/tenants"), request);
    ask(0, &["tenants", "set", "acme", "--max-queued", "none", "--max-running", "3", "--max-cpu-cores", "2.5"]);
    let change = json!({"max_queued": null, "max_running": 3, "max_cpu_cores": 2.5});
    assert_eq!(said(&api.asked(), "POST /v1/tenants/acme/set"), change);
    ask(0, &["tenants", "disable", "acme"]);
    ask(2, &["tenants", "set", "acme", "--max-queued", "many"]);
}
