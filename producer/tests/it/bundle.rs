//! The support bundle: what is in it, what is not, and what it says of what could not be had.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use flate2::read::GzDecoder;
use serde_json::{Value, json};

use crate::scripted::{Answer, Scripted};
use crate::{ffpool, json as parsed, run, stderr};

fn unpack(path: &Path) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(GzDecoder::new(std::fs::File::open(path).unwrap()));
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        (entry.path().unwrap().to_string_lossy().into_owned(), text)
    });
    entries.collect()
}

#[test]
fn a_bundle_has_what_helps_and_no_secret_and_says_what_could_not_be_had() {
    let api = Scripted::start(|asked, _| {
        Some(match asked.line.as_str() {
            "GET /v1/queues" => Answer::json(&json!([])),
            "GET /v1/jobs/17/log?lines=1000" => Answer::json(&json!([{
                "job": "01920f3a-7c1e-7d2a-8a6e-3f0c5b1d9e42", "attempt": 1, "seq": 1,
                "line": "rtmp://live.example/app/planted-stream: I/O error; ffp_aaaaaaaaaa_planted-key",
            }])),
            other => Answer::problem(403, "/problems/forbidden", other),
        })
    });
    let folder = tempfile::tempdir().unwrap();
    let (bundle, log) = (folder.path().join("b.tar.gz"), folder.path().join("worker.log"));
    std::fs::write(&log, "connect amqp://worker:planted-pass@mq/v\nPUT https://s3.example/a?sig=planted-sig\n")
        .unwrap();
    let arguments = ["support-bundle", "--job", "17", "--ffmpeg", "true", "--log-file", log.to_str().unwrap()];
    let make = |code| {
        let mut command = ffpool(&arguments);
        command.args([
            "--to",
            bundle.to_str().unwrap(),
            "--output",
            "json",
            "--metrics",
            "http://u:planted-metrics@127.0.0.1:1/metrics",
        ]);
        command.env("FFPOOL_API_URL", &api.url).env("FFPOOL_API_KEY", "ffp_bbbbbbbbbb_planted-own");
        run(
            code,
            command
                .env("AWS_SECRET_ACCESS_KEY", "planted-aws")
                .env("FFPOOL_DATABASE_URL", "host=127.0.0.1 port=1 password=planted-sql"),
        )
    };
    let said = parsed(&make(0));
    assert!(!said.to_string().contains("planted"), "{said}");
    let files = unpack(&bundle);
    assert_eq!(std::fs::metadata(&bundle).unwrap().permissions().mode() & 0o777, 0o600);
    for (name, text) in &files {
        assert!(!text.contains("planted"), "{name}: {text}");
    }
    let file = |name: &str| &files[&format!("ffpool-support/{name}")];
    assert_eq!(file("logs/1-worker.log"), "connect amqp://***@mq/v\nPUT https://s3.example/a?***\n");
    assert!(file("jobs/17/log.json").contains("rtmp://live.example/app/***"), "{}", file("jobs/17/log.json"));
    assert!(file("settings.toml").contains("api_key = \"***\""), "{}", file("settings.toml"));
    let doctor: Value = serde_json::from_str(file("doctor.json")).unwrap();
    assert!(doctor["checks"].as_array().is_some_and(|checks| checks.len() > 3), "{doctor}");
    let summary: Value = serde_json::from_str(file("summary.json")).unwrap();
    assert_eq!(summary["missing"], said["missing"]);
    let missing: Vec<&str> =
        summary["missing"].as_array().unwrap().iter().map(|missing| missing["what"].as_str().unwrap()).collect();
    for what in ["api/workers.json", "jobs/17/job.json", "http://***@127.0.0.1:1/metrics"] {
        assert!(missing.contains(&what), "{what} could not be had: {missing:?}");
    }
    let refused = make(2);
    assert!(stderr(&refused).contains("--to"), "nothing is written over: {}", stderr(&refused));
}
