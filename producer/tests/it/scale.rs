//! How many workers there should be, as a person and as a program reads it.

use serde_json::{Value, json};

use crate::scripted::{Answer, Scripted};
use crate::{ffpool, json, run, stdout};

fn advice() -> Value {
    json!({
        "pool": "cpu", "desired_workers": 7, "needed_workers": 7, "steady_workers": 0, "ready_workers": 2,
        "busy_workers": 1, "draining_workers": 1, "missing_workers": 5, "surplus_workers": 0, "needed_slots": 108.0,
        "ready_slots": 32, "slots_per_worker": 16, "largest_job_slots": 2, "min_workers": 1, "max_workers": 20,
        "lines": [{
            "queue": "default", "priority": "medium", "waiting": 100, "running": 8, "arriving_per_min": 1.5,
            "oldest_secs": 12.0, "target_secs": 7200.0, "expected_secs": 240.0, "p90_secs": 360.0,
            "needed_slots": 108.0, "paused": false,
        }],
        "first_to_go": [
            {"worker": "w2", "slots": 16, "idle": true, "lost_secs": 0.0},
            {"worker": "w1", "slots": 16, "idle": false, "lost_secs": 1496.0},
        ],
        "reasons": ["108 slots are needed; 2 workers that take work have 32."],
        "observed_at": "2026-11-26T18:00:00Z",
    })
}

#[test]
fn the_advice_is_told_with_its_reasons_and_asked_for_as_was_wished() {
    let api = Scripted::start(|asked, _| {
        Some(match asked.line.as_str() {
            "GET /v1/scale" => Answer::json(&json!({"pools": [advice()]})),
            "GET /v1/scale?pool=cpu&min=1&max=20&slots=16&wait_default=7200" => Answer::json(&advice()),
            other => Answer::problem(400, "/problems/bad-request", other),
        })
    });
    let ask = |code: i32, arguments: &[&str]| {
        run(code, ffpool(&[&["scale-advice"], arguments].concat()).env("FFPOOL_API_URL", &api.url))
    };
    let shown = stdout(&ask(0, &[]));
    for words in [
        "Pool cpu: 7 workers of 16 slots, 5 more than the 2 that take work; 1 draining, not counted",
        "default/medium",
        "4m 00s (6m 00s)",
        "- 108 slots are needed",
        "- First to go: w2 (idle), w1 (loses 24m 56s).",
    ] {
        assert!(shown.contains(words), "{words} is missing in:\n{shown}");
    }
    let wishes =
        ["--pool", "cpu", "--min", "1", "--max", "20", "--slots", "16", "--wait", "default=2h", "--output", "json"];
    // What an autoscaler reads stands at the top.
    assert_eq!(json(&ask(0, &wishes))["desired_workers"], 7);
    ask(2, &["--wait", "default"]);
    ask(2, &["--pool", "no/pool"]);
}
