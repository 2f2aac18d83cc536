//! Jobs published straight to a real RabbitMQ.

use std::time::Duration;

use ffpool_broker::{AmqpConfig, AmqpLink, BatchConsumer, Incoming, declare_topology};
use ffpool_schema::parse::{Received, parse};
use ffpool_schema::topology::{LEDGER_QUEUE, Topology};
use ffpool_stack::{Stack, free_port};

use crate::{ffpool, in_async, json, run, stderr};

const BOUND: Duration = Duration::from_secs(60);

#[test]
fn a_job_published_in_either_encoding_reaches_the_ledgers_queue_as_it_was_written() {
    let url = Stack::shared().rabbit.new_vhost();
    in_async(async {
        let link = AmqpLink::open(AmqpConfig::new(url.clone(), "test"));
        link.connected(BOUND).await.unwrap();
        declare_topology(&link, &Topology::for_pools(&[])).await.unwrap();
        link.close().await;
    });
    for (flags, content_type) in
        [(&["--amqp"][..], "application/json"), (&["--amqp", "--msgpack"], "application/msgpack")]
    {
        let job = ["submit", "-s", "720p30-h264", "-q", "live", "-p", "high", "-l", "show=x", "--output", "json"];
        let mut command = ffpool(&[&job, flags].concat());
        let output = run(
            0,
            command
                .env("FFPOOL_AMQP_URL", &url)
                .env("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        );
        let id = json(&output)[0]["id"].as_str().unwrap().to_owned();

        let copy = in_async(ledger_copy(&url));
        assert_eq!((copy.exchange.as_str(), copy.routing_key.as_str()), ("jobs.live", "high"));
        assert_eq!(copy.message_id.as_deref(), Some(id.as_str()));
        assert_eq!(copy.content_type.as_deref(), Some(content_type));
        assert_eq!(copy.headers["traceparent"], "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        let received = Received {
            body: &copy.body,
            content_type: copy.content_type.as_deref(),
            message_id: copy.message_id.as_deref(),
            ..Received::default()
        };
        let spec = parse(&received).unwrap();
        assert_eq!((spec.scenario.as_str(), spec.labels["show"].as_str()), ("720p30-h264", "x"));
    }
}

#[test]
fn a_list_goes_straight_to_the_broker_under_the_same_ids_each_time() {
    let url = Stack::shared().rabbit.new_vhost();
    in_async(async {
        let link = AmqpLink::open(AmqpConfig::new(url.clone(), "test"));
        link.connected(BOUND).await.unwrap();
        declare_topology(&link, &Topology::for_pools(&[])).await.unwrap();
        link.close().await;
    });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.csv");
    std::fs::write(&path, "scenario;queue\n720p30-h264;batch\n").unwrap();
    let path = path.to_str().unwrap();
    let mut command =
        ffpool(&["batch", path, "--delimiter", ";", "--amqp", "--msgpack", "--output", "json", "--amqp-url", &url]);
    let ids: Vec<String> = (0..2)
        .map(|_| {
            let sent = json(&run(0, &mut command))["submitted"][0].clone();
            let copy = in_async(ledger_copy(&url));
            assert_eq!(
                (copy.exchange.as_str(), copy.content_type.as_deref()),
                ("jobs.batch", Some("application/msgpack"))
            );
            assert_eq!(copy.message_id.as_deref(), sent["id"].as_str());
            assert_eq!(sent.get("already"), None, "RabbitMQ cannot know");
            copy.message_id.unwrap()
        })
        .collect();
    assert_eq!(ids[0], ids[1]);
}

async fn ledger_copy(url: &str) -> Incoming {
    let link = AmqpLink::open(AmqpConfig::new(url, "test"));
    link.connected(BOUND).await.unwrap();
    let mut consumer = BatchConsumer::open(link, LEDGER_QUEUE, 1, Duration::ZERO);
    let mut batch = tokio::time::timeout(BOUND, consumer.next_batch()).await.expect("the ledger's queue has a copy");
    let copy = batch.messages.remove(0);
    let _ = batch.ack().await;
    copy
}

#[test]
fn publishing_without_the_exchanges_says_who_declares_them() {
    let url = Stack::shared().rabbit.new_vhost();
    let output = run(1, &mut ffpool(&["submit", "-s", "720p30-h264", "--amqp", "--amqp-url", &url]));
    let said = stderr(&output);
    assert!(said.contains("was not published") && said.contains("Start a dispatcher"), "{said}");
}

#[test]
fn a_broker_that_is_away_is_told_and_its_password_is_not() {
    let url = format!("amqp://guest:hidden@127.0.0.1:{}/%2f", free_port());
    let output = run(6, &mut ffpool(&["submit", "-s", "720p30-h264", "--amqp", "--amqp-url", &url]));
    let said = stderr(&output);
    assert!(said.contains("no connection to the AMQP broker") && said.contains("FFPOOL_AMQP_URL"), "{said}");
    assert!(!said.contains("hidden"), "{said}");
}

#[test]
fn the_topology_is_printed_as_a_file_that_names_every_queue() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_ffpool"))
        .args(["topology", "--pool", "gpu", "--broker-version", "4.0.5"])
        .output()
        .expect("the program was built with its tests");
    assert!(output.status.success(), "{output:?}");
    let file: serde_json::Value = serde_json::from_slice(&output.stdout).expect("the file is JSON");
    let names: Vec<&str> =
        file["queues"].as_array().unwrap().iter().map(|queue| queue["name"].as_str().unwrap()).collect();
    for name in ["jobs.live.high", "jobs.batch.low.gpu", "jobs.ledger", "jobs.events", "jobs.dead", "jobs.unroutable"] {
        assert!(names.contains(&name), "{name} is missing from {names:?}");
    }
}
