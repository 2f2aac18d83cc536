//! `top` as people see it: on a terminal of its own, and as one printed picture.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::scripted::{Answer, Scripted};
use crate::{ffpool, json, run, stderr, stdout};

const BOUND: Duration = Duration::from_secs(60);
const ID: &str = "01920f3a-7c1e-7d2a-8a6e-3f0c5b1d9e42";
const AT: &str = "2026-11-25T18:00:00Z";

fn job() -> Value {
    json!({
        "id": ID, "number": 17, "state": "running", "queue": "live", "priority": "high", "pool": "cpu",
        "scenario": "1080p30-h264", "tenant": null, "labels": {"show": "news"}, "attempt": 1, "failures": 0,
        "max_retries": 3, "worker": "encode-1", "custody": "broker", "created_at": AT, "due_at": null, "started_at": AT,
        "ended_at": null, "paused": false, "frozen_since": null, "deadline": null, "failure": null, "reason": null,
        "progress": {"job": ID, "attempt": 1, "worker": "encode-1", "seq": 7, "phase": "encode", "percent": 42.0,
            "frame": 1260, "fps": 59.9, "speed": 2.0, "out_time_us": null, "size_bytes": null, "eta_secs": 29.0},
    })
}

fn api() -> Scripted {
    Scripted::start(|asked, _| {
        let path = asked.line.split('?').next().unwrap_or_default();
        Some(match path {
            "GET /v1/queues" => Answer::json(&json!([{
                "name": "jobs.live.high", "queue": "live", "priority": "high", "pool": "cpu", "ready": 0,
                "paused": false, "queued": 2, "running": 1, "delayed": 0, "oldest": AT,
            }])),
            "GET /v1/workers" => Answer::json(&json!([{
                "id": "encode-1", "host": "h", "version": "0.1.0", "state": "ready", "pools": ["cpu"],
                "capacity": {"slots": 4, "used": 1, "cpu_percent": 400, "memory_mb": 8192, "disk_mb": 9000},
                "ability": {"cpu_percent": 400, "memory_mb": 8192, "disk_mb": 9000, "encoders": [], "noop": false, "cgroups": true},
                "running": [ID], "first_seen": AT, "last_seen": AT,
            }])),
            "GET /v1/jobs" => Answer::json(&json!({"items": [job()], "next": null})),
            "POST /v1/jobs/17/cancel" | "POST /v1/jobs/17/pause" | "POST /v1/workers/encode-1/drain" => {
                Answer::json(&json!({"state": "cancelling", "message": "It is told to end."}))
            }
            path if path.ends_with("/log") => Answer::json(&json!([])),
            other => Answer::problem(404, "/problems/not-found", other),
        })
    })
}

/// A terminal of 80 by 24 with the program in it, made by `script`.
struct Terminal {
    script: Child,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Notes what `stty` says before and after, the program's id, and how it ended, in files of the folder.
    fn open(folder: &Path, url: &str) -> Terminal {
        let program = env!("CARGO_BIN_EXE_ffpool");
        let session = format!(
            "stty rows 24 cols 80; stty -a > before; \
             {program} top --api-url {url} < /dev/tty & echo $! > pid; wait $!; echo $? > code; stty -a > after"
        );
        let mut script = Command::new("script")
            .args(["--quiet", "--command", &session, "/dev/null"])
            .current_dir(folder)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs([("TERM", "xterm-256color"), ("SHELL", "/bin/sh"), ("HOME", "/nonexistent")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("script cannot be run ({error}): apt-get install bsdutils"));
        let written = Arc::new(Mutex::new(Vec::new()));
        let (mut out, kept) = (script.stdout.take().unwrap(), Arc::clone(&written));
        std::thread::spawn(move || {
            let mut some = [0; 4096];
            while let Ok(read @ 1..) = out.read(&mut some) {
                kept.lock().unwrap().extend_from_slice(&some[..read]);
            }
        });
        Terminal { script, written }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.written.lock().unwrap()).into_owned()
    }

    fn until_shown(&self, word: &str) {
        until(&format!("`{word}` is shown"), || if self.shown().contains(word) { Ok(()) } else { Err(self.shown()) });
    }

    fn press(&mut self, keys: &str) {
        let stdin = self.script.stdin.as_mut().unwrap();
        stdin.write_all(keys.as_bytes()).and_then(|()| stdin.flush()).expect("the terminal takes keys");
    }

    /// Waits for the end, and holds the terminal to be as it was before. Gives the program's exit code.
    fn left_as_it_was(mut self, folder: &Path) -> String {
        until("the session has ended", || match self.script.try_wait() {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}\n{}", self.shown())),
        });
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("the session noted it");
        assert_eq!(read("before"), read("after"), "the terminal's modes");
        let shown = self.shown();
        let at = |what: &str| shown.rfind(what).unwrap_or_else(|| panic!("{what:?} is missing in {shown:?}"));
        assert!(at("\u{1b}[?1049h") < at("\u{1b}[?1049l"), "the other screen is left");
        assert!(at("\u{1b}[?25l") < at("\u{1b}[?25h"), "the cursor is shown again");
        read("code").trim().to_owned()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // With the terminal, what runs in it is told to end. One that has ended already is no matter.
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

fn until<T>(fact: &str, mut check: impl FnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        match check() {
            Ok(value) => return value,
            Err(last) if began.elapsed() > BOUND => panic!("not within {BOUND:?}: {fact}; last seen: {last}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn until_asked(api: &Scripted, line: &str) {
    until(&format!("{line} was asked"), || {
        let lines: Vec<String> = api.asked().into_iter().map(|asked| asked.line).collect();
        if lines.iter().any(|asked| asked == line) { Ok(()) } else { Err(format!("{lines:?}")) }
    });
}

#[test]
fn on_a_terminal_keys_act_and_what_ends_work_is_asked_about() {
    let (api, folder) = (api(), tempfile::tempdir().unwrap());
    let mut terminal = Terminal::open(folder.path(), &api.url);
    terminal.until_shown("1080p30-h264");
    // A no between them, so that the first answer is none.
    terminal.press("cncyp");
    until_asked(&api, "POST /v1/jobs/17/cancel");
    until_asked(&api, "POST /v1/jobs/17/pause");
    terminal.press("\t\tdy\r");
    until_asked(&api, "POST /v1/workers/encode-1/drain");
    until_asked(&api, &format!("GET /v1/jobs/{ID}/log?lines=500"));
    terminal.press("q");
    assert_eq!(terminal.left_as_it_was(folder.path()), "0");
    let cancels = api.asked().iter().filter(|asked| asked.line.ends_with("/cancel")).count();
    assert_eq!(cancels, 1, "a no is no yes");
}

#[test]
fn a_signal_ends_it_and_leaves_the_terminal_as_it_was() {
    let (api, folder) = (api(), tempfile::tempdir().unwrap());
    let terminal = Terminal::open(folder.path(), &api.url);
    terminal.until_shown("1080p30-h264");
    let pid = std::fs::read_to_string(folder.path().join("pid")).unwrap();
    kill(Pid::from_raw(pid.trim().parse().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(terminal.left_as_it_was(folder.path()), "0");
}

#[test]
fn where_there_is_no_terminal_one_picture_is_printed_or_it_is_said_how() {
    let api = api();
    let ask = |code: i32, arguments: &[&str]| {
        run(code, ffpool(arguments).env("FFPOOL_API_URL", &api.url).env("LC_ALL", "C").stdin(Stdio::null()))
    };
    let said = stderr(&ask(2, &["top"]));
    assert!(said.contains("needs a terminal") && said.contains("--once"), "{said}");
    let shown = stdout(&ask(0, &["top", "--once"]));
    for words in
        ["1 worker  1/4 slots  1 run  2 wait", "live.high", "encode-1", "#17", "42.0%", "60 fps", "2.00x", "29s"]
    {
        assert!(shown.contains(words), "{words} is missing in:\n{shown}");
    }
    assert!(shown.is_ascii(), "no locale, no special characters: {shown}");
    assert!(!stdout(&ask(0, &["top", "--once", "--filter", "show=other"])).contains("#17"));
    assert_eq!(json(&ask(0, &["top", "--once", "--output", "json"]))["jobs"][0]["number"], 17);

    let said = stderr(&run(6, ffpool(&["top", "--once"]).env("FFPOOL_API_URL", "http://127.0.0.1:1")));
    assert!(said.contains("no answer from the API") && said.contains("FFPOOL_API_URL"), "{said}");
}
