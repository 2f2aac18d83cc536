//! What a confirm means, and what each failure says.

use std::sync::{Arc, Mutex};

use futures_util::future::join_all;

use ffpool_broker::{AmqpConfig, AmqpLink, BrokerError, PublishError};

use crate::{Place, message, ready};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_lands_in_its_work_queue_and_in_the_ledger_tap() {
    let place = Place::new("tap").await;
    place.publish("jobs.live", "high", "a").await;
    place.publish("jobs.default", "", "b").await;
    assert_eq!(ready(&place, "jobs.live.high").await, 1);
    assert_eq!(ready(&place, "jobs.default.medium").await, 1, "the empty key means medium");
    assert_eq!(ready(&place, "jobs.ledger").await, 2);
    assert_eq!(ready(&place, "jobs.unroutable").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_is_confirmed_and_kept_as_unroutable() {
    let place = Place::new("unroutable").await;
    place.publish("jobs.live", "urgent", "a").await;
    assert_eq!(ready(&place, "jobs.unroutable").await, 1);
    assert_eq!(ready(&place, "jobs.ledger").await, 0, "the tap hears only the keys of work queues");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_publish_fails_alone() {
    let place = Place::new("failing").await;
    let publishes = (0..60).map(|number| {
        let (exchange, key) = match number % 3 {
            0 => ("jobs.batch", "low"),
            1 => ("jobs.nonsense", "low"),
            _ => ("", "no such queue"),
        };
        place.publisher.publish(message(exchange, key, &number.to_string()))
    });
    for (number, outcome) in join_all(publishes).await.into_iter().enumerate() {
        match (number % 3, outcome) {
            (0, Ok(())) => {}
            (1, Err(PublishError::Rejected { reply, .. })) => {
                assert!(reply.contains("no exchange 'jobs.nonsense'"), "{reply}");
            }
            (2, Err(PublishError::Unroutable { key, .. })) => assert_eq!(key, "no such queue"),
            (_, outcome) => panic!("publish {number}: {outcome:?}"),
        }
    }
    assert_eq!(ready(&place, "jobs.batch.low").await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_amqp_cannot_carry_is_refused_before_it_is_sent() {
    let place = Place::new("names").await;
    let refused = place.publisher.publish(message("jobs.live", &"k".repeat(256), "a")).await.unwrap_err();
    assert!(matches!(&refused, PublishError::Rejected { .. }), "{refused:?}");
    assert!(!refused.is_transient());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_cannot_connect_says_why() {
    let link = AmqpLink::open(AmqpConfig::new("amqp://guest:wrong@127.0.0.1:9/%2f", "nowhere"));
    let refused = crate::until("the first attempt fails", || async {
        let down = link.connected(std::time::Duration::from_millis(50)).await.unwrap_err();
        if matches!(&down, BrokerError::Down { last_error: Some(_) }) { Ok(down) } else { Err(down) }
    });
    let text = refused.await.to_string();
    assert!(text.contains("refused") && !text.contains("wrong"), "{text}");
    link.close().await;
    assert!(!link.is_up());
}

/// What was logged, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no holder panics").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// All tasks of one thread, so that its subscriber hears what the client library logs in them.
#[tokio::test(flavor = "current_thread")]
async fn a_good_bye_is_no_error_to_anybody() {
    let log = Log::default();
    let writer = log.clone();
    let heard = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_ansi(false);
    let _guard = tracing::subscriber::set_default(heard.with_writer(move || writer.clone()).finish());
    for _ in 0..5 {
        let place = Place::new("good-bye").await;
        let publishes =
            (0..40).map(|number| place.publisher.publish(message("jobs.batch", "low", &number.to_string())));
        for outcome in join_all(publishes).await {
            outcome.expect("publish");
        }
        // Forty lanes lie idle on the one connection, and channels of the other were dropped a moment ago.
        assert_eq!(ready(&place, "jobs.batch.low").await, 40);
        place.publisher.close().await;
        place.link.close().await;
    }
    let logged = log.0.lock().expect("no holder panics").clone();
    assert_eq!(String::from_utf8_lossy(&logged), "");
}
