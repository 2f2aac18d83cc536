//! A watched folder: what is ready becomes a job, once, and what is not is left.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ffpool_schema::lifecycle::State;
use serde_json::{Value, json};

use crate::scripted::{Answer, Scripted};
use crate::terminal::job;
use crate::{ffpool, run, stderr, stdout};

const BOUND: Duration = Duration::from_secs(60);

/// Takes jobs by id like the dispatcher; each has completed when it is asked for.
fn api() -> (Scripted, Arc<Mutex<HashMap<String, Value>>>) {
    let jobs = Arc::new(Mutex::new(HashMap::<String, Value>::new()));
    let recorded = jobs.clone();
    let api = Scripted::start(move |asked, _| {
        if let Some(id) = asked.line.strip_prefix("GET /v1/jobs/") {
            assert!(recorded.lock().unwrap().contains_key(id));
            return Some(Answer::json(&job(State::Completed)));
        }
        let job: Value = serde_json::from_str(&asked.body).unwrap();
        let id = job["id"].as_str().unwrap().to_owned();
        let mut recorded = recorded.lock().unwrap();
        let submitted = json!({"id": id, "number": recorded.len() + 1, "state": "queued"}).to_string();
        let is_new = recorded.insert(id, job).is_none();
        Some(Answer(if is_new { 201 } else { 200 }, "application/json", submitted))
    });
    (api, jobs)
}

/// Ends with the test.
struct Watcher(Child);

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until(fact: &str, check: impl Fn() -> Result<(), String>) {
    let began = Instant::now();
    while let Err(last) = check() {
        assert!(began.elapsed() < BOUND, "not within {BOUND:?}: {fact}; last seen: {last}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_is_in_a_folder_becomes_jobs_once_and_again_only_when_it_has_changed() {
    let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (api, jobs) = api();
    fs::create_dir(dir.path().join("sub")).unwrap();
    for name in ["a.mov", ".hidden.mov", "b.mov.part", "sub/c.mov", "d.txt"] {
        fs::write(dir.path().join(name), "x").unwrap();
    }
    let to = format!("{}/{{path}}.mp4", out.path().display());
    let watch = |code: i32, flags: &[&str]| {
        let place = dir.path().to_str().unwrap();
        let fixed = ["watch", place, "-s", "480p30-h264", "--settle", "0.2", "--rescan", "0.2", "--once", "-r"];
        let arguments = [&fixed[..], &["--only", "*.mov"], flags].concat();
        run(code, ffpool(&arguments).env("FFPOOL_API_URL", &api.url))
    };
    let said = stdout(&watch(0, &["--to", &to]));
    assert!(said.contains("a.mov: job #") && said.contains("sub/c.mov: job #") && !said.contains("already"), "{said}");
    let outputs = || {
        let mut found: Vec<String> =
            jobs.lock().unwrap().values().map(|job| job["output"].as_str().unwrap().to_owned()).collect();
        found.sort();
        found
    };
    let place = out.path().display();
    assert_eq!(outputs(), [format!("{place}/a.mp4"), format!("{place}/sub/c.mp4")]);

    // A restart: the same two. Then one of them changes.
    assert_eq!(stdout(&watch(0, &["--to", &to])).matches("(there already)").count(), 2);
    fs::write(dir.path().join("a.mov"), "xy").unwrap();
    let said = stdout(&watch(0, &["--to", &to]));
    assert_eq!((said.matches("(there already)").count(), jobs.lock().unwrap().len()), (1, 3), "{said}");
    // Reached otherwise by the workers, and another name: other jobs.
    watch(0, &["--to", "s3://bucket/out/{stem}.mp4", "--as", "s3://bucket/in", "--run", "2"]);
    assert!(jobs.lock().unwrap().values().any(|job| job["input"] == "s3://bucket/in/sub/c.mov"));

    // What could never be is told before the first file.
    let inside = format!("{}/out/{{stem}}.mp4", dir.path().display());
    assert!(stderr(&watch(2, &["--to", &inside])).contains("in the watched folder"));
    assert!(stderr(&watch(4, &["--to", "/m/{colour}.mp4"])).contains("`{colour}` stands for nothing"));
    assert!(stderr(&watch(2, &["--to", &to, "-i", "/m/a.mov"])).contains("--input is the watched file"));
    assert!(stderr(&watch(2, &["--to", &to, "--ignore", "["])).contains("error parsing glob"));
}

#[test]
fn a_file_is_taken_when_its_writer_has_let_go_and_moved_when_its_job_has_completed() {
    let dir = tempfile::tempdir().unwrap();
    let (inbox, done) = (dir.path().join("in"), dir.path().join("done"));
    fs::create_dir(&inbox).unwrap();
    let (api, jobs) = api();
    let to = format!("{}/{{stem}}.mp4", dir.path().join("out").display());
    let mut command = ffpool(&["watch", inbox.to_str().unwrap(), "-s", "480p30-h264", "--to", &to]);
    command.args(["--settle", "0.3", "--rescan", "0.3", "--done-dir", done.to_str().unwrap()]);
    command.env("FFPOOL_API_URL", &api.url).stdout(Stdio::null()).stderr(Stdio::null());
    let _watcher = Watcher(command.spawn().unwrap());

    let growing = inbox.join("growing.mov");
    let mut writer = OpenOptions::new().create(true).append(true).open(&growing).unwrap();
    writer.write_all(b"x").unwrap();
    writer.sync_all().unwrap();
    // The watcher works meanwhile: another file, written later, is taken and moved.
    fs::write(inbox.join("whole.mov"), "x").unwrap();
    until("the whole file is moved", || if done.join("whole.mov").exists() { Ok(()) } else { Err("not there".into()) });
    assert_eq!(jobs.lock().unwrap().len(), 1, "a file that is being written is left");
    assert!(growing.exists() && !inbox.join("whole.mov").exists());
    writer.write_all(b"y").unwrap();
    drop(writer);
    until("the other is moved", || if done.join("growing.mov").exists() { Ok(()) } else { Err("not there".into()) });
    assert_eq!(jobs.lock().unwrap().len(), 2);

    // The name is taken: nothing is replaced.
    fs::write(inbox.join("whole.mov"), "other").unwrap();
    until("it is moved under another name", || {
        if done.join("2-whole.mov").exists() { Ok(()) } else { Err("not there".into()) }
    });
    assert_eq!(fs::read(done.join("whole.mov")).unwrap(), b"x");
}
