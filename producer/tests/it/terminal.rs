//! What a person or a script sees of the program: output, exit codes, settings.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use ffpool_schema::api::{JobDetail, JobView, StreamEvent};
use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::id::JobId;
use ffpool_schema::lifecycle::State;
use ffpool_schema::message::{Phase, Progress};
use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::scripted::{Answer, Scripted};
use crate::{ffpool, json, run, stderr, stdout};

const ID: &str = "01920f3a-7c1e-7d2a-8a6e-3f0c5b1d9e42";

/// A job as the API shows it.
pub(crate) fn job(state: State) -> JobDetail {
    let at = Timestamp::from_second(1_700_000_000).unwrap();
    JobDetail {
        job: JobView {
            paused: false,
            frozen_since: None,
            deadline: None,
            depends_on: Vec::new(),
            id: ID.parse::<JobId>().unwrap(),
            number: 17,
            state,
            queue: "default".into(),
            priority: "medium".into(),
            pool: "cpu".into(),
            scenario: "720p30-h264".into(),
            tenant: None,
            labels: Default::default(),
            attempt: 1,
            failures: 0,
            max_retries: 3,
            worker: Some("w1".parse().unwrap()),
            custody: None,
            created_at: at,
            due_at: None,
            started_at: Some(at),
            ended_at: state.is_end().then_some(at),
            progress: None,
            part_of: None,
            chunks: None,
            failure: (state == State::Failed).then(|| Failure::new(Cause::Oom, "it used more than 64 MiB")),
            reason: None,
            faults: Vec::new(),
            cost: None,
            energy_joules: None,
            trace_id: None,
        },
        spec: None,
        attempts: Vec::new(),
        events: Vec::new(),
        manifest: None,
        callbacks: Vec::new(),
        trace_url: None,
        has_thumbnail: false,
    }
}

fn event(state: State) -> StreamEvent {
    StreamEvent::Job(Box::new(job(state).job))
}

fn progress(percent: f64) -> StreamEvent {
    StreamEvent::Progress(Progress {
        job: ID.parse().unwrap(),
        attempt: 1,
        worker: "w1".parse().unwrap(),
        seq: 1,
        phase: Phase::Encode,
        percent: Some(percent),
        frame: Some(100),
        fps: Some(50.0),
        speed: Some(2.0),
        out_time_us: None,
        size_bytes: None,
        eta_secs: Some(4.0),
        live: None,
    })
}

/// An API that knows one job, which ends as `end`; its stream breaks once on the way.
fn api_with(end: State) -> Scripted {
    let shown = format!("GET /v1/jobs/{ID}");
    let events = format!("{shown}/events");
    Scripted::start(move |asked, before| {
        Some(match asked.line.as_str() {
            "POST /v1/jobs" => Answer::json(&json!({"id": ID, "number": 17, "state": "queued"})),
            "GET /v1/jobs/17" => Answer::json(&job(State::Running)),
            line if line == shown => Answer::json(&job(end)),
            line if line == events && before == 0 => Answer::events(&[&event(State::Running), &progress(42.0)]),
            line if line == events => Answer::events(&[&event(end)]),
            other => Answer::problem(404, "/problems/not-found", other),
        })
    })
}

#[test]
fn a_watched_job_is_followed_over_a_broken_stream_and_its_end_is_the_exit_code() {
    for (end, code) in [(State::Completed, 0), (State::Failed, 3), (State::Rejected, 4), (State::Cancelled, 5)] {
        let api = api_with(end);
        let arguments =
            ["--api-url", &api.url, "submit", "-s", "720p30-h264", "--id", ID, "--watch", "--output", "json"];
        let output = run(code, &mut ffpool(&arguments));
        assert_eq!(json(&output)["state"], end.as_str());
        let said = stderr(&output);
        assert!(said.contains("#17 running"), "{said}");
        assert!(said.contains("connecting again"), "{said}");
    }
}

#[test]
fn without_a_terminal_progress_comes_as_lines_and_the_outcome_says_what_to_do() {
    let api = api_with(State::Failed);
    let output = run(3, &mut ffpool(&["--api-url", &api.url, "jobs", "watch", "#17"]));
    let outcome = stdout(&output);
    for word in ["job #17 failed", "oom (4001)", "it used more than 64 MiB", "Raise resource_limits.max_memory_mb."] {
        assert!(outcome.contains(word), "{word} is missing in:\n{outcome}");
    }
}

#[test]
fn a_submitted_job_carries_its_id_and_the_key() {
    let api = api_with(State::Completed);
    let mut command = ffpool(&["submit", "-", "--queue", "live", "--output", "json"]);
    command.env("FFPOOL_API_URL", &api.url).env("FFPOOL_API_KEY", "secret");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(br#"{"scenario": "480p30-h264"}"#).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(json(&output)[0]["number"], 17);

    let asked = &api.asked()[0];
    assert!(asked.headers.contains(&("authorization".into(), "Bearer secret".into())), "{asked:?}");
    let body: serde_json::Value = serde_json::from_str(&asked.body).unwrap();
    assert_eq!((&body["scenario"], &body["queue"]), (&json!("480p30-h264"), &json!("live")));
    assert!(body["id"].is_string(), "{body}");
}

#[test]
fn what_the_api_refuses_is_told_with_the_next_step_and_its_own_code() {
    let api = Scripted::start(|asked, _| {
        Some(match asked.line.as_str() {
            "GET /v1/workers?limit=500" => Answer::problem(401, "/problems/unauthenticated", "this key is not known"),
            "GET /v1/queues" => Answer::problem(403, "/problems/forbidden", "this key may not look"),
            "POST /v1/jobs/17/cancel" => Answer::problem(409, "/problems/conflict", "it has ended"),
            "GET /v1/jobs/18" => Answer::problem(404, "/problems/not-found", "no job has the number 18"),
            "POST /v1/jobs" => {
                let fault = json!({"path": "tenant", "code": "bad_value", "message": "no such tenant"});
                let problem = json!({"type": "/problems/invalid-job", "title": "t", "status": 422, "detail": "d", "faults": [fault]});
                Answer(422, "application/problem+json", problem.to_string())
            }
            "GET /v1/scenarios" => Answer(200, "text/html", "<html>a proxy</html>".into()),
            _ => Answer::problem(503, "/problems/unavailable", "the ledger is away"),
        })
    });
    let cases: [(i32, &[&str], &str, &str); 7] = [
        (7, &["workers", "list"], "this key is not known", "FFPOOL_API_KEY"),
        (7, &["queues"], "may not look", "a key with this right"),
        (8, &["jobs", "cancel", "17"], "it has ended", "jobs show"),
        (8, &["jobs", "show", "18"], "no job has the number 18", "jobs list"),
        (4, &["submit", "-s", "720p30-h264"], "tenant: no such tenant", "submit it again"),
        (1, &["scenarios"], "a proxy", "--api-url"),
        (6, &["jobs", "list"], "the ledger is away", "doctor"),
    ];
    for (code, arguments, what, next) in cases {
        let output = run(code, ffpool(arguments).env("FFPOOL_API_URL", &api.url).env("FFPOOL_OUTPUT", "json"));
        let said = stderr(&output);
        assert!(said.contains(what) && said.contains(next), "{arguments:?}: {said}");
        assert_eq!(stdout(&output), "", "{arguments:?}: an error is no result");
    }
}

#[test]
fn a_list_of_every_page_is_one_document() {
    let api = Scripted::start(|asked, _| {
        let next = if asked.line.contains("cursor") { None } else { Some("p2") };
        Some(Answer::json(&json!({"items": [job(State::Queued).job], "next": next})))
    });
    let arguments =
        ["--api-url", &api.url, "jobs", "list", "--all", "--status", "queued", "-l", "a=b", "--output", "json"];
    let output = run(0, &mut ffpool(&arguments));
    assert_eq!(json(&output)["items"].as_array().map(Vec::len), Some(2));
    let lines: Vec<String> = api.asked().into_iter().map(|asked| asked.line).collect();
    let first = "GET /v1/jobs?status=queued&label=a%3Ab&limit=50";
    assert_eq!(lines, [first.to_owned(), format!("{first}&cursor=p2")]);
}

#[test]
fn ctrl_c_ends_the_watching_and_says_how_to_end_the_job() {
    let shown = format!("GET /v1/jobs/{ID}");
    let api = Scripted::start(move |asked, before| match asked.line.as_str() {
        "GET /v1/jobs/17" => Some(Answer::json(&job(State::Running))),
        line if line == shown => Some(Answer::json(&job(State::Running))),
        _ if before == 0 => Some(Answer::events(&[&event(State::Running)])),
        _ => None,
    });
    let mut command = ffpool(&["--api-url", &api.url, "jobs", "watch", "17"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    // Both lines come from the loop that listens for Ctrl-C, whatever it waits for by then.
    let seen: Vec<String> = said.by_ref().take(2).collect();
    assert!(seen[0].contains("#17 running"), "{seen:?}");
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let rest: String = said.collect();
    assert!(rest.contains("the job goes on") && rest.contains("ffpool jobs cancel"), "{rest}");
}

#[test]
fn a_flag_wins_over_a_variable_and_a_variable_over_the_file_and_secrets_are_masked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ffpool.toml");
    std::fs::write(
        &file,
        "api_url = \"http://file:1\"\nnats_url = \"nats://file:2\"\n[client]\napi_key = \"hidden\"\n",
    )
    .unwrap();
    let mut command = ffpool(&["--config", file.to_str().unwrap(), "--nats-url", "nats://flag:3", "--print-config"]);
    command.env("FFPOOL_API_URL", "http://variable:4").env("FFPOOL_AMQP_URL", "amqp://user:hidden@host/v");
    let shown = stdout(&run(0, &mut command));
    for line in [
        "api_url = \"http://variable:4\"  # environment",
        "nats_url = \"nats://flag:3\"  # flag",
        "api_key = \"***\"  # file",
        "amqp_url = \"amqp://user:***@host/v\"  # environment",
    ] {
        assert!(shown.contains(line), "{line} is missing in:\n{shown}");
    }
    assert!(!shown.contains("hidden"), "{shown}");
}

#[test]
fn the_users_own_file_is_found() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(home.path().join(".config/ffpool")).unwrap();
    std::fs::write(home.path().join(".config/ffpool/config.toml"), "api_url = \"http://own:1\"\n").unwrap();
    let shown = stdout(&run(0, ffpool(&["--print-config"]).env("HOME", home.path())));
    assert!(shown.contains("api_url = \"http://own:1\"  # file"), "{shown}");

    std::fs::write(home.path().join(".config/ffpool/config.toml"), "api_ulr = \"http://own:1\"\n").unwrap();
    let said = stderr(&run(2, ffpool(&["queues"]).env("HOME", home.path())));
    assert!(said.contains("api_ulr"), "{said}");
}

#[test]
fn mistakes_on_the_command_line_end_with_code_2() {
    let cases: [&[&str]; 6] = [
        &[],
        &["submit", "-s"],
        &["jobs", "show", "7abc"],
        &["submit", "/nonexistent/job.json"],
        &["submit", "-s", "720p30-h264", "--msgpack"],
        &["submit", "-s", "720p30-h264", "--amqp"],
    ];
    for arguments in cases {
        let output = run(2, &mut ffpool(arguments));
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_dry_run_prints_the_canonical_job_and_needs_no_server() {
    let arguments = ["submit", "-s", "1080p30-h264", "--param", "duration_seconds=2", "--dry-run"];
    let output = run(0, ffpool(&arguments).env("FFPOOL_API_URL", "http://127.0.0.1:1"));
    assert_eq!(json(&output)["parameters"]["duration"], 2.0);
    let schema = json(&run(0, &mut ffpool(&["schema"])));
    assert!(schema["properties"]["scenario"].is_object(), "{schema}");
    let script = stdout(&run(0, &mut ffpool(&["completions", "bash"])));
    assert!(script.contains("ffpool"), "{script}");
}

#[test]
fn a_template_is_filled_in_here_as_the_dispatcher_would_and_sent_with_the_scenario_that_was_asked_for() {
    let api = Scripted::start(|asked, _| {
        Some(match asked.line.as_str() {
            "GET /v1/scenarios" => Answer::json(&json!([
                {"name": "copy", "description": "as it is"},
                {"name": "house", "description": "ours", "source": "file", "extends": "1080p30-h264", "base": "1080p30-h264",
                 "parameters": {"crf": 20}},
            ])),
            "GET /v1/templates" => Answer::json(&json!([
                {"name": "news", "description": "clips", "extends": null, "required": ["title"], "defaults": {"tune": "film"},
                 "job": {"scenario": "house", "labels": {"show": "{title}"}, "parameters": {"tune": "{tune}"}}},
            ])),
            "POST /v1/jobs" => Answer::json(&json!({"id": ID, "number": 1, "state": "queued"})),
            other => Answer::problem(404, "/problems/not-found", other),
        })
    });
    let ask = |code: i32, arguments: &[&str]| run(code, ffpool(arguments).env("FFPOOL_API_URL", &api.url));
    let news = ["submit", "--template", "news", "--set", "title=007", "--set", "parameters.preset=fast", "-q", "live"];
    ask(0, &news);
    let sent = api.asked().into_iter().find(|asked| asked.line == "POST /v1/jobs").unwrap();
    let sent: serde_json::Value = serde_json::from_str(&sent.body).unwrap();
    assert_eq!(
        (&sent["scenario"], &sent["labels"]["show"], &sent["queue"]),
        (&json!("house"), &json!("007"), &json!("live"))
    );
    assert_eq!(sent["parameters"], json!({"preset": "fast", "tune": "film"}));
    let shown = json(&ask(0, &[&news[..], &["--dry-run"]].concat()));
    assert_eq!(
        (&shown["scenario"], &shown["parameters"]["crf"]),
        (&json!("1080p30-h264"), &json!(20)),
        "what would run"
    );

    assert!(stderr(&ask(4, &["submit", "--template", "news"])).contains("set.title: the template needs a value"));
    assert!(stderr(&ask(4, &["submit", "--template", "other"])).contains("`other` is no template: news"));
    let table = stdout(&ask(0, &["scenarios"]));
    assert!(table.contains("built in") && table.contains("scenario file, like 1080p30-h264"), "{table}");
    let table = stdout(&ask(0, &["templates"]));
    assert!(table.contains("title tune=film"), "{table}");
}

#[test]
fn a_scenario_file_is_checked_and_used_without_the_pool() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("s.toml");
    let path = file.to_str().unwrap();
    std::fs::write(&file, "[scenarios.a]\nextends = 'b'\n[scenarios.b]\nextends = 'x'\n").unwrap();
    let said = stderr(&run(2, &mut ffpool(&["scenarios", "--check", path])));
    assert!(said.contains("scenarios.a.extends: `x` is no scenario") && said.contains("scenarios.b.extends"), "{said}");
    std::fs::write(&file, "[scenarios.a]\nextends = '720p30-h264'\nparameters = { crf = 20 }\n").unwrap();
    assert!(stdout(&run(0, &mut ffpool(&["scenarios", "--check", path]))).contains("crf=20"));
    let arguments = ["submit", "-s", "a", "--dry-run", "--scenario-file", path];
    assert_eq!(json(&run(0, &mut ffpool(&arguments)))["parameters"]["crf"], 20);
}
