//! `doctor` against real servers in every stage of readiness, and against nothing.

use std::time::Duration;

use ffpool_broker::{AmqpConfig, AmqpLink, declare_topology};
use ffpool_schema::migrations;
use ffpool_schema::topology::Topology;
use ffpool_stack::{Stack, free_port};
use serde_json::{Value, json};

use crate::scripted::{Answer, Scripted};
use crate::{ffpool, in_async, json, run, stdout};

const BOUND: Duration = Duration::from_secs(60);

fn status(report: &Value, name: &str) -> String {
    let checks = report["checks"].as_array().unwrap();
    let check =
        checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no check {name} in {report:#}"));
    assert_eq!(check["status"] == "ok", check["remedy"].is_null(), "what is not ok has a remedy: {check:#}");
    check["status"].as_str().unwrap().to_owned()
}

#[test]
fn an_empty_stack_fails_by_what_it_lacks_and_a_complete_one_passes() {
    let stack = Stack::shared();
    let (amqp, database) = (stack.rabbit.new_vhost(), stack.postgres.new_database());
    let api = Scripted::start(|asked, _| {
        Some(match asked.line.as_str() {
            "GET /health" => Answer::json(&json!({})),
            "GET /ready" => Answer::json(&json!({"ready": true, "parts": {"broker": "ok"}})),
            _ => Answer::json(&json!({"items": [], "next": null})),
        })
    });
    let doctor = |code| {
        let mut command = ffpool(&["doctor", "--output", "json"]);
        command.env("FFPOOL_API_URL", &api.url).env("FFPOOL_NATS_URL", stack.nats.url());
        json(&run(code, command.env("FFPOOL_AMQP_URL", &amqp).env("FFPOOL_DATABASE_URL", &database)))
    };

    let empty = doctor(1);
    for (name, expected) in [("rabbitmq", "ok"), ("nats", "ok"), ("postgres", "ok"), ("api", "ok"), ("api key", "ok")] {
        assert_eq!(status(&empty, name), expected, "{name}: {empty:#}");
    }
    for name in ["topology", "work queues", "ledger"] {
        assert_eq!(status(&empty, name), "fail", "{name}: {empty:#}");
    }
    assert_eq!(status(&empty, "workers"), "warn");

    in_async(async {
        let link = AmqpLink::open(AmqpConfig::new(amqp.clone(), "test"));
        link.connected(BOUND).await.unwrap();
        declare_topology(&link, &Topology::for_pools(&[])).await.unwrap();
        link.close().await;
    });
    // The table in which the dispatcher's migrations are noted, one row each.
    let mut client = postgres::Client::connect(&database, postgres::NoTls).unwrap();
    client.batch_execute("CREATE TABLE refinery_schema_history (version int4)").unwrap();
    for version in 1..=migrations::ALL.len() {
        client.execute("INSERT INTO refinery_schema_history VALUES ($1)", &[&i32::try_from(version).unwrap()]).unwrap();
    }

    let complete = doctor(0);
    for name in ["topology", "work queues", "ledger", "ack timeout", "clock of postgres"] {
        assert_eq!(status(&complete, name), "ok", "{name}: {complete:#}");
    }
}

#[test]
fn with_nothing_listening_every_server_fails_with_its_remedy() {
    let place = format!("127.0.0.1:{}", free_port());
    let mut command = ffpool(&["doctor"]);
    command
        .env("FFPOOL_API_URL", format!("http://{place}"))
        .env("FFPOOL_AMQP_URL", format!("amqp://guest:hidden@{place}/%2f"))
        .env("FFPOOL_NATS_URL", format!("nats://user:hidden@{place}"))
        .env("FFPOOL_DATABASE_URL", format!("postgres://user:hidden@{place}/ledger"));
    let said = stdout(&run(1, &mut command));
    for name in ["rabbitmq", "nats", "postgres", "api"] {
        let line = said.lines().find(|line| line.starts_with(&format!("fail  {name}")));
        assert!(line.is_some(), "{name} does not fail in:\n{said}");
    }
    for package in ["rabbitmq-server", "nats-server", "postgresql"] {
        assert!(said.contains(package), "{package} is not named in:\n{said}");
    }
    assert!(!said.contains("hidden"), "{said}");
}

#[test]
fn what_a_worker_needs_is_a_failure_only_where_one_is_to_run() {
    let look = |flags: &[&str]| {
        let mut command = ffpool(&[&["doctor", "--output", "json", "--ffmpeg", "/nonexistent/ffmpeg"], flags].concat());
        json(&run(1, command.env("FFPOOL_API_URL", "http://127.0.0.1:1")))
    };
    assert_eq!(status(&look(&[]), "ffmpeg"), "warn");
    assert_eq!(status(&look(&["--worker"]), "ffmpeg"), "fail");
    assert_eq!(status(&look(&[]), "rabbitmq"), "warn", "an address that is not set is said, and no failure");
}
