//! Declaring the topology and reading depths.

use ffpool_broker::{BrokerError, declare_topology, definitions_in, queue_depth};
use ffpool_schema::job::Pool;
use ffpool_schema::topology::Topology;
use ffpool_stack::Stack;

use crate::Place;

#[tokio::test(flavor = "multi_thread")]
async fn the_topology_is_declared_twice_and_equals_the_definitions_file() {
    let rabbit = &Stack::shared().rabbit;
    let place = Place::bare(rabbit.new_vhost(), "definitions").await;
    let topology = Topology::for_pools(&["gpu".parse::<Pool>().expect("a pool")]);

    let version = place.link.server_version().expect("the probe reads the version");
    assert_eq!(version, rabbit.version());
    let file = format!("{}/definitions.json", env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(&file, definitions_in(&topology, &version, &place.vhost()).to_string()).expect("write definitions");
    tokio::task::spawn_blocking(move || rabbit.ctl(["import_definitions", &file]).map_err(|error| error.report()))
        .await
        .expect("rabbitmqctl")
        .expect("import the definitions");

    // Were one argument different, the broker would refuse with 406.
    declare_topology(&place.link, &topology).await.expect("equal to what was imported");
    declare_topology(&place.link, &topology).await.expect("a second time");

    let names: Vec<String> = topology.queues.iter().map(|queue| queue.name.clone()).collect();
    let depths = queue_depth(&place.link, &names).await.expect("depths");
    assert_eq!(depths.len(), 4 + 2 * 18);
    assert!(depths.iter().all(|depth| depth.as_ref().is_some_and(|depth| depth.ready == 0)), "{depths:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_of_another_kind_is_named_with_what_to_do() {
    let place = Place::bare(Stack::shared().rabbit.new_vhost(), "inequivalent").await;
    let connection = lapin::Connection::connect(&place.url, lapin::ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let durable = lapin::options::QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare("jobs.ledger".into(), durable, lapin::types::FieldTable::default()).await.unwrap();

    let refused = declare_topology(&place.link, &Topology::for_pools(&[])).await.unwrap_err();
    assert!(matches!(refused, BrokerError::Inequivalent { .. }), "{refused:?}");
    let text = refused.to_string();
    assert!(text.contains("queue jobs.ledger") && text.contains("delete"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_queue_has_no_depth_and_spoils_no_other() {
    let place = Place::new("depths").await;
    place.publish("jobs.live", "high", "one").await;
    let names = ["jobs.live.high", "jobs.absent", "jobs.batch.low"].map(String::from);
    let depths = queue_depth(&place.link, &names).await.expect("depths");
    assert_eq!(depths[0].as_ref().map(|depth| depth.ready), Some(1));
    assert_eq!(depths[1], None);
    assert_eq!(depths[2].as_ref().map(|depth| depth.ready), Some(0));
}
