//! The dispatcher's side: batches are settled whole, and consuming goes on by itself.

use std::collections::BTreeSet;
use std::time::Duration;

use ffpool_broker::{BatchConsumer, Settled, declare_topology, queue_depth};
use ffpool_schema::topology::Topology;
use ffpool_stack::Stack;

use crate::{Place, soon, until};

fn consumer(place: &Place, queue: &str) -> BatchConsumer {
    BatchConsumer::open(place.link.clone(), queue, 10, Duration::from_millis(50))
}

async fn nothing_left(place: &Place, queue: &str) {
    // Closing the consumer's channel would give back whatever was not acknowledged.
    let names = [queue.to_owned()];
    until("the queue is empty", || async {
        let depth = queue_depth(&place.link, &names).await.expect("depth").remove(0).expect("the queue");
        if depth.ready == 0 && depth.consumers == 0 { Ok(()) } else { Err(depth) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_bring_every_message_once_in_order() {
    let place = Place::new("batches").await;
    for number in 0..25 {
        place.publish("jobs.live", "low", &format!("{number:02}")).await;
    }
    let mut consumer = consumer(&place, "jobs.ledger");
    let mut ids = Vec::new();
    while ids.len() < 25 {
        let batch = soon("a batch", consumer.next_batch()).await;
        assert!((1..=10).contains(&batch.messages.len()));
        ids.extend(batch.messages.iter().map(|message| message.message_id.clone().unwrap()));
        assert_eq!(batch.ack().await, Settled::Done);
    }
    assert_eq!(ids, (0..25).map(|number| format!("{number:02}")).collect::<Vec<_>>());
    drop(consumer);
    nothing_left(&place, "jobs.ledger").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settling_a_later_batch_leaves_an_earlier_one_alone() {
    let place = Place::new("two batches").await;
    for number in 0..20 {
        place.publish("jobs.live", "low", &number.to_string()).await;
    }
    let mut consumer = consumer(&place, "jobs.ledger");
    let first = soon("the first batch", consumer.next_batch()).await;
    let second = soon("the second batch", consumer.next_batch()).await;
    let (in_first, in_second) = (first.messages.len(), second.messages.len());
    assert_eq!(second.ack().await, Settled::Done);
    drop(first);
    let mut again = 0;
    while again < 20 - in_second {
        let batch = soon("what the dropped batch held", consumer.next_batch()).await;
        again += batch.messages.len();
        assert!(again > in_first || batch.messages.iter().all(|message| message.redelivered));
        assert_eq!(batch.ack().await, Settled::Done);
    }
    assert_eq!(again, 20 - in_second);
    drop(consumer);
    nothing_left(&place, "jobs.ledger").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_released_batch_comes_again() {
    let place = Place::new("released").await;
    place.publish("jobs.live", "low", "a").await;
    let mut consumer = consumer(&place, "jobs.ledger");
    let batch = soon("a batch", consumer.next_batch()).await;
    assert!(!batch.messages[0].redelivered);
    assert_eq!(batch.release().await, Settled::Done);
    let batch = soon("the batch again", consumer.next_batch()).await;
    assert!(batch.messages[0].redelivered);
    assert_eq!(batch.ack().await, Settled::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_says_where_it_died() {
    let place = Place::new("dead").await;
    place.publish("jobs.batch", "low", "a").await;
    let queues = ffpool_schema::topology::WorkQueue::of_pool(&ffpool_schema::job::Pool::cpu());
    let intake = ffpool_broker::Intake::new(place.link.clone(), queues, 1);
    let delivery = soon("the job", intake.next()).await;
    assert_eq!(delivery.dead_letter().await, Settled::Done);

    let mut dead = consumer(&place, "jobs.dead");
    let batch = soon("the dead letter", dead.next_batch()).await;
    let letter = &batch.messages[0];
    assert_eq!(letter.first_death_queue(), Some("jobs.batch.low"));
    assert_eq!(letter.first_death_reason(), Some("rejected"));
    assert_eq!((letter.deaths[0].exchange.as_str(), letter.deaths[0].routing_keys[0].as_str()), ("jobs.batch", "low"));
    assert_eq!(letter.headers.get("traceparent").map(String::as_str), Some("00-1-2-03"));
    assert_eq!(letter.body, b"body of a");
    assert_eq!(batch.ack().await, Settled::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_outlives_the_deletion_of_its_queue() {
    let place = Place::new("deleted").await;
    let mut consumer = consumer(&place, "jobs.ledger");
    place.publish("jobs.live", "low", "before").await;
    let batch = soon("a batch", consumer.next_batch()).await;
    assert_eq!(batch.ack().await, Settled::Done);

    let vhost = place.vhost();
    let consuming = tokio::spawn(async move {
        let batch = consumer.next_batch().await;
        let ids: BTreeSet<_> = batch.messages.iter().filter_map(|message| message.message_id.clone()).collect();
        (batch.ack().await, ids)
    });
    let delete = move || Stack::shared().rabbit.ctl(["delete_queue", "-p", &vhost, "jobs.ledger"]).map(drop);
    tokio::task::spawn_blocking(delete).await.expect("rabbitmqctl").expect("delete the queue");
    declare_topology(&place.link, &Topology::for_pools(&[])).await.expect("declare it again");
    place.publish("jobs.live", "low", "after").await;
    let (settled, ids) = soon("the consumer goes on", consuming).await.expect("no panic");
    assert_eq!((settled, ids), (Settled::Done, BTreeSet::from(["after".to_owned()])));
}
