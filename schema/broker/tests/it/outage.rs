//! The broker dies, breaks a queue or raises an alarm; every link goes on by itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ffpool_broker::{BatchConsumer, Intake, PublishError, Settled};
use ffpool_schema::job::Pool;
use ffpool_schema::topology::WorkQueue;
use ffpool_stack::Stack;

use crate::{Place, message, soon, until};

const JOBS: usize = 300;

#[tokio::test(flavor = "multi_thread")]
async fn all_links_go_on_after_a_kill_of_the_broker_and_after_an_alarm() {
    let start = || Stack::builder().nats(false).postgres(false).start().map(Arc::new).map_err(|error| error.report());
    let stack = tokio::task::spawn_blocking(start).await.expect("no panic").expect("a private broker");
    let place = Place::on(&stack.rabbit, "outage").await;
    let intake = Intake::new(place.link.clone(), WorkQueue::of_pool(&Pool::cpu()), 4);
    let mut ledger = BatchConsumer::open(place.link.clone(), "jobs.ledger", 50, Duration::from_millis(20));

    let publish = async {
        for number in 0..JOBS {
            if number == JOBS / 3 {
                let stack = stack.clone();
                let outage = move || {
                    stack.rabbit.kill();
                    stack.rabbit.restart().map_err(|error| error.report())
                };
                tokio::spawn(async move { tokio::task::spawn_blocking(outage).await });
            }
            // Unknown whether it is stored: the same id again, as every caller must.
            until("the broker confirms again", || async {
                let job = message("jobs.default", "high", &number.to_string());
                match place.publisher.publish_within(job, Duration::from_secs(10)).await {
                    Ok(()) => Ok(()),
                    Err(error) if error.is_transient() => Err(error),
                    Err(error) => panic!("{error:?}"),
                }
            })
            .await;
            // The kill has to fall among the publishes.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let work = async {
        let mut done = BTreeSet::new();
        while done.len() < JOBS {
            let delivery = intake.next().await;
            let id = delivery.message_id.clone().expect("an id");
            if delivery.ack().await == Settled::Done {
                done.insert(id);
            }
        }
    };
    let tap = async {
        let mut seen = BTreeSet::new();
        while seen.len() < JOBS {
            let batch = ledger.next_batch().await;
            let ids: Vec<String> = batch.messages.iter().filter_map(|message| message.message_id.clone()).collect();
            if batch.ack().await == Settled::Done {
                seen.extend(ids);
            }
        }
    };
    soon("every job is worked off and in the ledger", async { tokio::join!(publish, work, tap) }).await;
    assert!(place.link.generation() >= 2, "the broker was killed under the link");

    let alarm = |watermark: &'static str| {
        let stack = stack.clone();
        tokio::task::spawn_blocking(move || stack.rabbit.ctl(["set_vm_memory_high_watermark", watermark]).map(drop))
    };
    alarm("0.00001").await.expect("rabbitmqctl").expect("raise the alarm");
    until("publishers are held back", || async {
        let job = message("jobs.batch", "low", "blocked");
        match place.publisher.publish_within(job, Duration::from_millis(500)).await {
            Err(PublishError::Blocked { .. }) => Ok(()),
            other => Err(other.err().map(|error| error.to_string())),
        }
    })
    .await;
    alarm("0.6").await.expect("rabbitmqctl").expect("end the alarm");
    until("publishers are let go", || async {
        let job = message("jobs.batch", "low", "free");
        place.publisher.publish_within(job, Duration::from_secs(2)).await.map_err(|error| error.to_string())
    })
    .await;
    let delivery = soon("a job after the alarm", intake.next()).await;
    assert_eq!(delivery.ack().await, Settled::Done);
    intake.close().await;
    place.link.close().await;
    place.publisher.close().await;
    tokio::task::spawn_blocking(move || drop(stack)).await.expect("the stack ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_a_crash_broke_leaves_the_others_served() {
    let start = || Stack::builder().nats(false).postgres(false).start().map(Arc::new).map_err(|error| error.report());
    let stack = tokio::task::spawn_blocking(start).await.expect("no panic").expect("a private broker");
    let place = Place::on(&stack.rabbit, "broken").await;
    // Declared less than half a second before a crash, a quorum queue is broken or gone for good.
    let broken = WorkQueue::of_pool(&"gpu".parse::<Pool>().expect("a pool")).remove(0);
    let connection = lapin::Connection::connect(&place.url, lapin::ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let durable = lapin::options::QueueDeclareOptions { durable: true, ..Default::default() };
    let mut arguments = lapin::types::FieldTable::default();
    arguments.insert("x-queue-type".into(), lapin::types::AMQPValue::LongString("quorum".into()));
    channel.queue_declare(broken.name().into(), durable, arguments).await.unwrap();
    let outage = {
        let stack = stack.clone();
        move || {
            stack.rabbit.kill();
            stack.rabbit.restart().map_err(|error| error.report())
        }
    };
    tokio::task::spawn_blocking(outage).await.expect("no panic").expect("restart");
    until("the link is back", || async {
        if place.link.generation() >= 2 { Ok(()) } else { Err(place.link.generation()) }
    })
    .await;

    let mut queues = WorkQueue::of_pool(&Pool::cpu());
    queues.insert(0, broken);
    let intake = Intake::new(place.link.clone(), queues, 1);
    for number in 0..5 {
        let job = message("jobs.batch", "low", &number.to_string());
        until("the job is stored", || async { place.publisher.publish(job.clone()).await.map_err(|e| e.to_string()) })
            .await;
        let delivery = soon("the job", intake.next()).await;
        let _ = delivery.ack().await;
        // Idle in between, so that consumers are armed.
        assert!(tokio::time::timeout(Duration::from_millis(300), intake.next()).await.is_err());
    }
    println!("connections needed beside a broken queue: {}", place.link.generation());
    intake.close().await;
    tokio::task::spawn_blocking(move || drop(stack)).await.expect("the stack ends");
}
