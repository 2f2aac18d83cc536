//! Lists of jobs: all or nothing, at a rate, and never twice.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::scripted::{Answer, Scripted};
use crate::{ffpool, json, run, stderr, stdout};

/// Records jobs by id like the dispatcher: 201 for a new one, 200 for a repeat; `refuse` answers first.
fn api(refuse: impl Fn(&Value, usize) -> Option<Answer> + Send + Sync + 'static) -> Scripted {
    let recorded = Mutex::new(HashMap::<String, Value>::new());
    Scripted::start(move |asked, before| {
        if asked.line.starts_with("GET ") {
            return Some(Answer::json(&json!([])));
        }
        let job: Value = serde_json::from_str(&asked.body).unwrap();
        if let Some(answer) = refuse(&job, before) {
            return Some(answer);
        }
        let mut recorded = recorded.lock().unwrap();
        let number = recorded.len() + 1;
        let id = job["id"].as_str().expect("every job of a list has an id").to_owned();
        let submitted = json!({"id": id, "number": number, "state": "queued"});
        let is_new = recorded.insert(id, job).is_none();
        Some(Answer(if is_new { 201 } else { 200 }, "application/json", submitted.to_string()))
    })
}

/// The jobs that were sent.
fn sent(api: &Scripted) -> Vec<Value> {
    let posts = api.asked().into_iter().filter(|asked| asked.line == "POST /v1/jobs");
    posts.map(|asked| serde_json::from_str(&asked.body).unwrap()).collect()
}

fn list(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn batch(api: &Scripted, code: i32, path: &Path, flags: &[&str]) -> std::process::Output {
    let arguments = [&["batch", path.to_str().unwrap()], flags].concat();
    run(code, ffpool(&arguments).env("FFPOOL_API_URL", &api.url))
}

#[test]
fn a_list_is_sent_over_an_outage_and_running_it_again_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = list(
        dir.path(),
        "jobs.csv",
        "scenario,input,parameters.crf,labels.show\n480p30-h264,/m/a.mp4,20,7\n480p30-h264,/m/b.mp4,,\n",
    );
    let api = api(|_, before| (before == 0).then(|| Answer::problem(503, "/problems/unavailable", "a moment")));
    let report = json(&batch(&api, 0, &path, &["--output", "json", "--queue", "batch"]));
    assert_eq!((&report["total"], &report["unsent"]), (&json!(2), &json!(0)));
    let lines: Vec<(&Value, &Value)> =
        report["submitted"].as_array().unwrap().iter().map(|sent| (&sent["line"], &sent["already"])).collect();
    assert_eq!(lines, [(&json!(2), &json!(false)), (&json!(3), &json!(false))]);
    let sent = sent(&api);
    let first = sent.iter().find(|job| job["input"] == "/m/a.mp4").unwrap();
    assert_eq!((&first["parameters"]["crf"], &first["labels"]["show"]), (&json!(20), &json!("7")));
    assert_eq!(first["queue"], "batch");

    // One line more, and in another order: one job more.
    let text = "input,scenario,parameters.crf,labels.show\n/m/c.mp4,480p30-h264,,\n/m/b.mp4,480p30-h264,,\n/m/a.mp4,480p30-h264,20,7\n";
    let path = list(dir.path(), "more.csv", text);
    let said = stdout(&batch(&api, 0, &path, &["--queue", "batch"]));
    assert!(said.contains("3 of 3 jobs submitted, 2 of them were there already"), "{said}");
}

#[test]
fn one_wrong_line_keeps_the_whole_list_back_unless_it_may_be_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let text = "{\"scenario\": \"480p30-h264\"}\n{\"scenario\": \"x\"}\n{\"scenario\": \"480p30-h264\", \"tenant\": \"shut\"}\n";
    let path = list(dir.path(), "jobs.ndjson", text);
    let api = api(|job, _| {
        let problem = json!({"type": "/problems/invalid-job", "title": "x", "status": 422, "detail": "x",
            "faults": [{"path": "tenant", "code": "unknown", "message": "no such tenant"}]});
        (job["tenant"] == "shut").then(|| Answer(422, "application/problem+json", problem.to_string()))
    });
    let said = stderr(&batch(&api, 4, &path, &[]));
    assert!(said.contains("1 of 3 jobs") && said.contains("line 2: scenario: `x` is no scenario"), "{said}");
    assert!(sent(&api).is_empty(), "nothing was sent");
    let shown = batch(&api, 4, &path, &["--dry-run", "--skip-invalid", "--output", "json"]);
    assert_eq!(json(&shown).as_array().unwrap().len(), 2);
    assert!(sent(&api).is_empty(), "nothing was sent");

    let report = json(&batch(&api, 4, &path, &["--skip-invalid", "--output", "json"]));
    let invalid: Vec<&Value> = report["invalid"].as_array().unwrap().iter().map(|job| &job["line"]).collect();
    assert_eq!(invalid, [2, 3], "what only the dispatcher finds is left out too");
    assert_eq!(report["submitted"].as_array().unwrap().len(), 1);

    // Without leave to go on, what the dispatcher finds ends the run, and says where.
    let path = list(dir.path(), "refused.ndjson", "{\"scenario\": \"480p30-h264\", \"tenant\": \"shut\"}\n");
    let said = stderr(&batch(&api, 4, &path, &[]));
    assert!(
        said.contains("line 1: ") && said.contains("no such tenant") && said.contains("run the same command"),
        "{said}"
    );
}

#[test]
fn a_list_is_sent_whole_at_a_rate() {
    let dir = tempfile::tempdir().unwrap();
    let path = list(dir.path(), "jobs.json", &json!(vec![json!({"scenario": "480p30-h264"}); 6]).to_string());
    let api = api(|_, _| None);
    batch(&api, 0, &path, &["--rate", "200/s"]);
    assert_eq!(sent(&api).len(), 6);
}

#[test]
fn a_list_that_is_none_is_told_before_anything_else() {
    let dir = tempfile::tempdir().unwrap();
    let api = api(|_, _| None);
    for (name, text, word) in [
        ("a.json", "{}", "a JSON list of jobs is expected"),
        ("b.json", "[", "no JSON"),
        ("c.csv", "scenario,scenario\nx,y\n", "stands twice"),
        ("d.csv", "scenario\n", "holds no job"),
        ("e.ndjson", "\n", "holds no job"),
    ] {
        let said = stderr(&batch(&api, 2, &list(dir.path(), name, text), &[]));
        assert!(said.contains(word), "{said}");
    }
    batch(&api, 2, &list(dir.path(), "f.json", "[]"), &["--rate", "20"]);
    assert!(sent(&api).is_empty());
}
