//! The worker's side: order, capacity, waking, and that no message is lost or kept.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ffpool_broker::{Delivery, Intake, Settled, queue_depth};
use ffpool_schema::job::{Pool, Queue};
use ffpool_schema::topology::WorkQueue;
use ffpool_stack::Stack;
use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::{Place, soon, until};

fn work_queues() -> Vec<WorkQueue> {
    WorkQueue::of_pool(&Pool::cpu())
}

fn names() -> Vec<String> {
    work_queues().iter().flat_map(|work| [work.name(), work.returned_name()]).collect()
}

fn intake(place: &Place, capacity: u16) -> Intake {
    Intake::new(place.link.clone(), work_queues(), capacity)
}

fn id(delivery: &Delivery) -> String {
    delivery.message_id.clone().expect("every message here has an id")
}

/// Puts messages `<queue> <n>` into all nine queues, the worst first, each queue's in order.
async fn fill(place: &Place, each: u32) {
    for work in work_queues().into_iter().rev() {
        let name = work.name();
        for number in 0..each {
            let (exchange, key) = (format!("jobs.{}", work.queue), work.priority.to_string());
            place.publish(&exchange, &key, &format!("{name} {number}")).await;
        }
    }
}

/// Waits until the intake has consumers on all its queues.
async fn armed(place: &Place) {
    until("consumers are armed", || async {
        let depths = queue_depth(&place.link, &names()).await.expect("depths");
        let consumers: Vec<u32> =
            depths.iter().map(|depth| depth.as_ref().map_or(0, |depth| depth.consumers)).collect();
        if consumers.iter().all(|&count| count == 1) { Ok(()) } else { Err(consumers) }
    })
    .await;
}

/// Works off `expected` messages with all slots at once; answers how often each was acknowledged.
async fn work_off(intake: &Intake, slots: usize, expected: usize) -> BTreeMap<String, u32> {
    let mut done = BTreeMap::new();
    let mut next: FuturesUnordered<_> = (0..slots).map(|_| intake.next()).collect();
    while done.len() < expected {
        let delivery =
            soon(&format!("delivery after {} of {expected}", done.len()), next.next()).await.expect("a slot");
        let id = id(&delivery);
        assert_eq!(delivery.ack().await, Settled::Done, "{id}");
        *done.entry(id).or_insert(0) += 1;
        next.push(intake.next());
    }
    done
}

/// How many messages are in hand: each unsettled get of a quorum queue counts as one of its consumers.
async fn in_hand(place: &Place) -> u32 {
    let depths = queue_depth(&place.link, &names()).await.expect("depths");
    depths.iter().flatten().map(|depth| depth.consumers).sum()
}

/// Closes the intake; then nothing is ready and nothing is in hand.
async fn all_done(place: &Place, intake: &Intake) {
    intake.close().await;
    until("nothing is left", || async {
        let depths = queue_depth(&place.link, &names()).await.expect("depths");
        let left: u32 = depths.iter().flatten().map(|depth| depth.ready + depth.consumers).sum();
        if left == 0 { Ok(()) } else { Err(depths) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_is_served_by_score_and_never_more_than_capacity_is_held() {
    let place = Place::new("order").await;
    fill(&place, 3).await;
    let intake = intake(&place, 2);
    let mut taken = Vec::new();
    let mut held: Option<Delivery> = None;
    for round in 0..27 {
        let delivery = soon("a delivery", intake.next()).await;
        taken.push((delivery.work.score(), id(&delivery)));
        if let Some(earlier) = held.replace(delivery) {
            if round % 13 == 1 {
                // Two are in hand: a third call has to wait, and the broker counts two.
                assert!(tokio::time::timeout(Duration::from_millis(300), intake.next()).await.is_err());
                assert_eq!(in_hand(&place).await, 2);
                // The node's own listing lags by up to five seconds, each queue's by a time of its own: for so long a queue
                // that has been left may still be counted beside the one that is served.
                until("the broker lists two in hand", || async {
                    let listed = place.unacknowledged().await;
                    if listed == 2 { Ok(()) } else { Err(listed) }
                })
                .await;
            }
            assert_eq!(earlier.ack().await, Settled::Done);
        }
    }
    let mut by_score = taken.clone();
    by_score.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
    assert_eq!(taken, by_score, "best score first, then first in, first out");
    assert_eq!(taken[0].1, "jobs.live.high 0");
    assert_eq!(taken[26].1, "jobs.batch.low 2");
    assert!(intake.last_proof().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_handed_back_is_served_before_its_queue_and_after_every_better_one() {
    let place = Place::new("returned").await;
    fill(&place, 1).await;
    for name in ["jobs.batch.low", "jobs.default.high"] {
        place.publish("", &format!("{name}.returned"), &format!("{name} again")).await;
    }
    let intake = intake(&place, 1);
    let mut taken = Vec::new();
    for _ in 0..11 {
        let delivery = soon("a delivery", intake.next()).await;
        taken.push(id(&delivery));
        assert_eq!(delivery.ack().await, Settled::Done);
    }
    let expected = work_queues().into_iter().flat_map(|work| {
        let again = ["jobs.batch.low", "jobs.default.high"].contains(&work.name().as_str());
        again.then(|| format!("{} again", work.name())).into_iter().chain([format!("{} 0", work.name())])
    });
    assert_eq!(taken, expected.collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_intake_is_woken_by_a_message() {
    let place = Place::new("wake").await;
    let intake = intake(&place, 1);
    let mut waits = Vec::new();
    for number in 0..20 {
        let next = intake.next();
        tokio::pin!(next);
        tokio::select! {
            _ = &mut next => panic!("nothing was published"),
            () = armed(&place) => {}
        }
        let start = Instant::now();
        // What is handed back wakes it as well.
        let (exchange, key) = if number % 2 == 0 { ("jobs.batch", "low") } else { ("", "jobs.batch.low.returned") };
        place.publish(exchange, key, &number.to_string()).await;
        let delivery = soon("the wake", next).await;
        waits.push(start.elapsed());
        assert!(!delivery.redelivered);
        assert_eq!(delivery.ack().await, Settled::Done);
    }
    waits.sort();
    println!("publish to delivery of an idle intake: p50 {:?}, worst {:?}", waits[10], waits[19]);
    assert!(waits[10] < Duration::from_secs(2), "{waits:?}");
}

/// Waits until just these queue classes have an armed consumer on each of their work queues and twins.
async fn armed_only(place: &Place, classes: &[Queue]) {
    until("consumers are armed on what is not held", || async {
        let depths = queue_depth(&place.link, &names()).await.expect("depths");
        // Each queue and its twin.
        let wrong = work_queues().iter().zip(depths.chunks(2)).any(|(work, both)| {
            let expected = u32::from(classes.contains(&work.queue));
            both.iter().any(|depth| depth.as_ref().is_none_or(|depth| depth.consumers != expected))
        });
        if wrong { Err(depths) } else { Ok(()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_queue_is_neither_picked_nor_armed_until_its_hold_ends() {
    let place = Place::new("held").await;
    let intake = intake(&place, 1);
    intake.hold(Queue::Live, Duration::from_secs(3600));
    place.publish("jobs.live", "high", "live").await;
    place.publish("jobs.batch", "low", "batch").await;
    let delivery = soon("the job that is not held", intake.next()).await;
    assert_eq!(id(&delivery), "batch");
    assert_eq!(delivery.ack().await, Settled::Done);

    // Idle with the best job in sight: the other queues are armed.
    let next = intake.next();
    tokio::pin!(next);
    tokio::select! {
        _ = &mut next => panic!("only the held queue has a job"),
        () = armed_only(&place, &[Queue::Default, Queue::Batch]) => {}
    }
    // A hold takes an armed consumer away, and its end, reached or called, arms the queue again.
    intake.hold(Queue::Batch, Duration::from_secs(3600));
    tokio::select! {
        _ = &mut next => panic!("only the held queue has a job"),
        () = armed_only(&place, &[Queue::Default]) => {}
    }
    intake.hold(Queue::Batch, Duration::ZERO);
    tokio::select! {
        _ = &mut next => panic!("only the held queue has a job"),
        () = armed_only(&place, &[Queue::Default, Queue::Batch]) => {}
    }
    let until = Instant::now() + Duration::from_millis(300);
    intake.hold(Queue::Live, Duration::from_millis(300));
    let delivery = soon("the job after its hold", next).await;
    assert!(Instant::now() >= until, "the hold was cut short");
    assert_eq!((id(&delivery).as_str(), delivery.redelivered), ("live", false));
    assert_eq!(delivery.ack().await, Settled::Done);
    all_done(&place, &intake).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn holds_that_race_with_arrivals_lose_nothing_and_hold() {
    let place = Place::new("held races").await;
    let intake = intake(&place, 2);
    let mut done = BTreeMap::new();
    let mut handed_back = 0;
    for number in 0..30 {
        let next = intake.next();
        tokio::pin!(next);
        tokio::select! {
            _ = &mut next => panic!("nothing was published"),
            () = armed(&place) => {}
        }
        // The job may be on its way when the hold begins: then it goes back, or its waiter has it already.
        let name = number.to_string();
        let publish = place.publish("jobs.default", "medium", &name);
        let hold = async {
            tokio::time::sleep(Duration::from_micros(number * 300)).await;
            intake.hold(Queue::Default, Duration::from_millis(50));
        };
        let ((), (), delivery) = tokio::join!(publish, hold, async { soon("the job", next).await });
        handed_back += u32::from(delivery.redelivered);
        *done.entry(id(&delivery)).or_insert(0) += 1;
        assert_eq!(delivery.ack().await, Settled::Done);
        intake.hold(Queue::Default, Duration::ZERO);
    }
    println!("{handed_back} of 30 jobs met a hold on their way and went back");
    assert_eq!(done.len(), 30);
    assert!(done.values().all(|&times| times == 1), "{done:?}");
    all_done(&place, &intake).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_into_an_idle_intake_loses_nothing() {
    let place = Place::new("burst").await;
    let intake = intake(&place, 4);
    let first = intake.next();
    tokio::pin!(first);
    tokio::select! {
        _ = &mut first => panic!("nothing was published"),
        () = armed(&place) => {}
    }
    fill(&place, 10).await;
    let first = soon("the first", first).await;
    let first_id = id(&first);
    assert_eq!(first.ack().await, Settled::Done);
    let mut done = work_off(&intake, 4, 89).await;
    *done.entry(first_id).or_insert(0) += 1;
    assert_eq!(done.len(), 90);
    assert!(done.values().all(|&times| times == 1), "{done:?}");
    all_done(&place, &intake).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_waits_neither_lose_nor_keep_a_message() {
    let place = Place::new("dropped").await;
    let intake = intake(&place, 3);
    let feed = async {
        for number in 0..150u64 {
            place.publish("jobs.default", "medium", &format!("{number}")).await;
            // Idle moments and backlogs alternate.
            tokio::time::sleep(Duration::from_millis(number % 7)).await;
        }
    };
    let mut done: BTreeMap<String, u32> = BTreeMap::new();
    let mut cancelled = 0u32;
    let take = async {
        while done.len() < 150 {
            let patience = Duration::from_micros(u64::from(cancelled % 40) * 150);
            let waits = (0..3).map(|_| tokio::time::timeout(patience, intake.next()));
            for outcome in join_all(waits).await {
                match outcome {
                    Ok(delivery) => {
                        let id = id(&delivery);
                        if delivery.ack().await == Settled::Done {
                            *done.entry(id).or_insert(0) += 1;
                        }
                    }
                    Err(_) => cancelled += 1,
                }
            }
        }
    };
    soon("all arrive", async { tokio::join!(feed, take) }).await;
    assert!(cancelled >= 300, "only {cancelled} waits were dropped");
    assert!(done.values().all(|&times| times == 1), "{done:?}");
    all_done(&place, &intake).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_handed_back_comes_again_first() {
    let place = Place::new("handed back").await;
    for number in 0..3 {
        place.publish("jobs.live", "high", &number.to_string()).await;
    }
    let intake = intake(&place, 1);
    let delivery = soon("the first", intake.next()).await;
    assert_eq!((id(&delivery).as_str(), delivery.delivery_count), ("0", 0));
    assert_eq!(delivery.release().await, Settled::Done);
    let delivery = soon("the first again", intake.next()).await;
    assert_eq!((id(&delivery).as_str(), delivery.redelivered), ("0", true));
    drop(delivery);
    // A dropped delivery gives its slot back at once, its message with the end of its channel.
    let mut ids = Vec::new();
    while ids.len() < 3 {
        let delivery = soon("the rest", intake.next()).await;
        ids.push(id(&delivery));
        assert_eq!(delivery.ack().await, Settled::Done);
    }
    ids.sort();
    assert_eq!(ids, ["0", "1", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_after_the_connection_was_killed_says_lost() {
    let place = Place::new("killed").await;
    place.publish("jobs.live", "high", "a").await;
    let intake = intake(&place, 1);
    let delivery = soon("the job", intake.next()).await;
    assert!(!delivery.is_lost());
    let generation = place.link.generation();

    let vhost = place.vhost();
    let close =
        move || Stack::shared().rabbit.ctl(["close_all_connections", "-p", &vhost, "killed by a test"]).map(drop);
    tokio::task::spawn_blocking(close).await.expect("rabbitmqctl").expect("close the connections");
    soon("the delivery notices", delivery.lost()).await;
    assert!(delivery.is_lost());
    assert_eq!(delivery.ack().await, Settled::Lost);

    let again = soon("the job again", intake.next()).await;
    assert!(again.redelivered && again.delivery_count > 0);
    assert!(place.link.generation() > generation);
    assert_eq!(again.ack().await, Settled::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_work_queue_that_is_missing_leaves_the_others_served() {
    let place = Place::new("missing").await;
    let mut queues = work_queues();
    queues.extend(WorkQueue::of_pool(&"gpu".parse().expect("a pool")));
    queues.sort_by_key(|work| std::cmp::Reverse(work.score()));
    let intake = Intake::new(place.link.clone(), queues, 1);
    place.publish("jobs.batch", "low", "a").await;
    assert_eq!(soon("the job", intake.next()).await.ack().await, Settled::Done);

    let topology = ffpool_schema::topology::Topology::for_pools(&["gpu".parse().expect("a pool")]);
    ffpool_broker::declare_topology(&place.link, &topology).await.expect("declare the pool");
    place.publish("jobs.live", "high.gpu", "b").await;
    assert_eq!(id(&soon("the job of the new pool", intake.next()).await), "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_short_jobs_share_few_channels() {
    let place = Place::new("many").await;
    fill(&place, 60).await;
    let intake = intake(&place, 8);
    let start = Instant::now();
    let done = work_off(&intake, 8, 540).await;
    let rate = 540.0 / start.elapsed().as_secs_f64();
    println!("an intake of 8 slots took and acknowledged {rate:.0} jobs/s");
    assert!(done.values().all(|&times| times == 1));
    place.publisher.close().await;
    let list = || Stack::shared().rabbit.ctl(["list_channels", "vhost", "prefetch_count"]).expect("list_channels");
    let listed = tokio::task::spawn_blocking(list).await.expect("rabbitmqctl");
    let ours = |line: &&str| line.split_whitespace().next() == Some(place.vhost().as_str());
    let channels = listed.lines().filter(ours).count();
    assert!((1..=24).contains(&channels), "{channels} channels for 540 jobs on 8 slots:\n{listed}");
}
