//! The pool of publishing connections: many tasks over few of them, and none used again that is broken.

use std::sync::Arc;
use std::time::Duration;

use ffpool_broker::{AmqpConfig, BrokerError, PublishError, PublishPool};
use ffpool_stack::Stack;
use futures_util::future::join_all;

use crate::{BOUND, Place, message, ready, until};

const SIZE: u16 = 4;

fn pool(place: &Place) -> PublishPool {
    PublishPool::open(AmqpConfig::new(&place.url, "a pool"), SIZE).expect("the URL is good")
}

/// Publishes so many jobs at once, each of which has to be confirmed.
async fn publish(pool: &PublishPool, jobs: u32) {
    let publishes = (0..jobs).map(|number| pool.publish(message("jobs.batch", "low", &number.to_string())));
    for outcome in join_all(publishes).await {
        outcome.expect("publish");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tasks_publish_over_few_connections_and_a_failing_publish_fails_alone() {
    let place = Place::new("pool").await;
    let pool = pool(&place);
    let publishes = (0..200).map(|number| {
        let (exchange, key) = match number % 10 {
            3 => ("jobs.nonsense", "low"),
            7 => ("", "no such queue"),
            _ => ("jobs.batch", "low"),
        };
        pool.publish(message(exchange, key, &number.to_string()))
    });
    for (number, outcome) in join_all(publishes).await.into_iter().enumerate() {
        match (number % 10, outcome) {
            (3, Err(PublishError::Rejected { reply, .. })) => {
                assert!(reply.contains("no exchange 'jobs.nonsense'"), "{reply}");
            }
            (7, Err(PublishError::Unroutable { key, .. })) => assert_eq!(key, "no such queue"),
            (3 | 7, outcome) => panic!("publish {number}: {outcome:?}"),
            (_, outcome) => outcome.unwrap_or_else(|error| panic!("publish {number}: {error:?}")),
        }
    }
    assert_eq!(ready(&place, "jobs.batch.low").await, 160);

    let (vhost, rabbit) = (place.vhost(), &Stack::shared().rabbit);
    let list = move || rabbit.ctl(["list_connections", "vhost"]).expect("list_connections");
    let listed = tokio::task::spawn_blocking(list).await.expect("rabbitmqctl");
    let pooled = listed.lines().filter(|line| line.trim() == vhost).count() - 2;
    assert_eq!(pooled, usize::from(SIZE), "beside the link and the publisher of the test:\n{listed}");

    pool.close().await;
    let refused = pool.publish(message("jobs.batch", "low", "late")).await.unwrap_err();
    assert!(matches!(&refused, PublishError::NotSent { .. }), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_outlives_a_kill_of_the_broker_and_an_alarm() {
    let start = || Stack::builder().nats(false).postgres(false).start().map(Arc::new).map_err(|error| error.report());
    let stack = tokio::task::spawn_blocking(start).await.expect("no panic").expect("a private broker");
    let place = Place::on(&stack.rabbit, "pool outage").await;
    let pool = pool(&place);
    publish(&pool, 20).await;

    let kill = {
        let stack = stack.clone();
        move || stack.rabbit.kill()
    };
    tokio::task::spawn_blocking(kill).await.expect("kill the broker");
    let refused = pool.publish_within(message("jobs.batch", "low", "away"), Duration::from_secs(1)).await.unwrap_err();
    assert!(refused.is_transient(), "{refused:?}");

    // What is asked for while the broker starts waits for it; the lent connections of before are all broken.
    let restart = {
        let stack = stack.clone();
        move || stack.rabbit.restart().map_err(|error| error.report())
    };
    let patient = until("a publish that waits for the broker", || async {
        // A queue that has no leader yet refuses.
        let message = message("jobs.batch", "low", "patient");
        pool.publish_within(message, BOUND).await.map_err(|error| error.to_string())
    });
    let (restarted, ()) = tokio::join!(tokio::task::spawn_blocking(restart), patient);
    restarted.expect("no panic").expect("restart");
    publish(&pool, 20).await;
    place.link.connected(BOUND).await.expect("the link of the test is back");
    until("all are stored", || async {
        match ready(&place, "jobs.batch.low").await {
            41.. => Ok(()),
            stored => Err(stored),
        }
    })
    .await;

    let alarm = |watermark: &'static str| {
        let stack = stack.clone();
        tokio::task::spawn_blocking(move || stack.rabbit.ctl(["set_vm_memory_high_watermark", watermark]).map(drop))
    };
    alarm("0.00001").await.expect("rabbitmqctl").expect("raise the alarm");
    until("publishes are held back", || async {
        match pool.publish_within(message("jobs.batch", "low", "blocked"), Duration::from_millis(500)).await {
            Err(PublishError::Blocked { .. }) => Ok(()),
            other => Err(other.err().map(|error| error.to_string())),
        }
    })
    .await;
    alarm("0.6").await.expect("rabbitmqctl").expect("end the alarm");
    publish(&pool, 20).await;
    pool.close().await;
    place.link.close().await;
    place.publisher.close().await;
    tokio::task::spawn_blocking(move || drop(stack)).await.expect("the stack ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_cannot_connect_says_why_and_takes_no_certificate_files() {
    let nowhere = AmqpConfig::new("amqp://guest:wrong@127.0.0.1:9/%2f", "nowhere");
    let nowhere = PublishPool::open(nowhere, SIZE).expect("the URL is good");
    let outcome = nowhere.publish_within(message("jobs.batch", "low", "a"), Duration::from_secs(1)).await;
    let Err(PublishError::NotSent { source, .. }) = outcome else { panic!("{outcome:?}") };
    let BrokerError::Amqp { source, .. } = *source else { panic!("{source:?}") };
    assert!(source.to_string().contains("refused"), "{source}");
    assert!(nowhere.connected(Duration::from_millis(100)).await.is_err());

    let file = format!("{}/authority.pem", env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(&file, "not read before the first connection").expect("write a file");
    let url = format!("amqps://broker/%2f?cacertfile={file}");
    let refused = PublishPool::open(AmqpConfig::new(url, "a pool"), SIZE).err().expect("certificate files");
    assert!(refused.to_string().contains("certificate"), "{refused}");
}
