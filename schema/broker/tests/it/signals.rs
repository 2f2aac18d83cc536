//! NATS: questions, subscriptions, and what a lost connection does to them.

use std::time::Duration;

use ffpool_broker::{RequestError, SignalError, Signals};
use ffpool_stack::Stack;
use serde_json::{Value, json};

use crate::{BOUND, soon, until};

async fn signals(name: &str) -> Signals {
    connected(&Stack::shared().nats.url(), name).await
}

async fn connected(url: &str, name: &str) -> Signals {
    let signals = Signals::open(url, name).await.expect("open");
    until("NATS is up", || async { if signals.is_up() { Ok(()) } else { Err("down") } }).await;
    signals
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_round_trip_the_server_knows_what_was_subscribed() {
    let (asker, server) = (signals("asker").await, signals("round").await);
    for subject in ["it.round.1", "it.round.2", "it.round.3"] {
        let mut questions = server.serve::<u64>(subject, "servers").await.expect("serve");
        server.round_trip(BOUND).await.expect("the server is there");
        tokio::spawn(async move {
            while let Some(question) = questions.next_request().await {
                question.answer(&question.value).await.expect("answer");
            }
        });
        assert_eq!(asker.request::<_, u64>(subject, &7, BOUND).await.expect("it is served"), 7);
    }
    let nowhere = Signals::open("nats://127.0.0.1:1", "nowhere").await.expect("open");
    let error = nowhere.round_trip(Duration::from_secs(1)).await;
    assert!(matches!(error, Err(SignalError::Link { .. })), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_answered_by_whoever_serves_it() {
    let (asker, server) = (signals("asker").await, signals("server").await);
    let nobody = asker.request::<_, Value>("it.ask.served", &json!(1), BOUND).await;
    assert!(matches!(nobody, Err(RequestError::NoResponders { .. })), "{nobody:?}");

    let mut questions = server.serve::<u64>("it.ask.*", "servers").await.expect("serve");
    let serving = tokio::spawn(async move {
        while let Some(question) = questions.next_request().await {
            if question.subject == "it.ask.silent" {
                continue;
            }
            question.answer(&json!({"twice": question.value * 2})).await.expect("answer");
        }
    });
    let answer = until("the server is subscribed", || async {
        asker.request::<_, Value>("it.ask.served", &21, BOUND).await.map_err(|error| error.to_string())
    });
    assert_eq!(answer.await, json!({"twice": 42}));

    let silent = asker.request::<_, Value>("it.ask.silent", &1, Duration::from_millis(200)).await;
    assert!(matches!(silent, Err(RequestError::Timeout { .. })), "{silent:?}");
    let other = asker.request::<_, String>("it.ask.served", &1, BOUND).await;
    assert!(matches!(other, Err(RequestError::Decode { .. })), "{other:?}");
    let skipped = asker.request::<_, Value>("it.ask.served", "no number", Duration::from_millis(200)).await;
    assert!(matches!(skipped, Err(RequestError::Timeout { .. })), "{skipped:?}");
    until("it is counted", || async { if server.undecodable() == 1 { Ok(()) } else { Err(server.undecodable()) } })
        .await;
    serving.abort();
}

/// Publishes what cannot be read and then a number, again and again: a subscription takes a while to be in place.
async fn publish_for_ever(signals: Signals) {
    for number in 0u64.. {
        // While the server is away a signal is refused, not kept.
        let _ = signals.publish("it.numbers.one", "no number").await;
        let _ = signals.publish("it.numbers.one", &number).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_skips_what_it_cannot_read_and_goes_on_after_a_restart() {
    let start = || Stack::builder().rabbit(false).postgres(false).start().map_err(|error| error.report());
    let stack = tokio::task::spawn_blocking(start).await.expect("no panic").expect("a private NATS server");
    let url = stack.nats.url();
    let (here, there) = (connected(&url, "here").await, connected(&url, "there").await);
    let server = here.server().expect("it is connected");
    assert!(server.version == stack.nats.version() && server.max_payload >= 1024 * 1024, "{server:?}");
    let mut numbers = here.subscribe::<u64>("it.numbers.*").await.expect("subscribe");
    here.round_trip(BOUND).await.expect("the subscription stands");
    let publishing = tokio::spawn(publish_for_ever(there.clone()));
    let (subject, before) = soon("a number", numbers.next_on()).await.expect("the subscription stands");
    assert_eq!(subject, "it.numbers.one");
    assert!(here.undecodable() > 0);

    let stack = tokio::task::spawn_blocking(move || {
        stack.nats.kill();
        stack
    });
    let stack = stack.await.expect("kill NATS");
    until("the loss is noticed", || async { if there.is_up() { Err("up") } else { Ok(()) } }).await;
    let refused = there.publish("it.numbers.one", &0).await;
    assert!(matches!(refused, Err(SignalError::Link { .. })), "{refused:?}");
    let refused = there.request::<_, Value>("it.ask.served", &0, BOUND).await;
    assert!(matches!(refused, Err(RequestError::Link { .. })), "{refused:?}");

    let restart = move || stack.nats.restart().map(|()| stack).map_err(|error| error.report());
    let stack = tokio::task::spawn_blocking(restart).await.expect("no panic").expect("restart NATS");
    let mut last = before;
    until("publishers are back", || async { if there.is_up() { Ok(()) } else { Err("down") } }).await;
    let back = soon("a number after the restart", async {
        loop {
            let now = numbers.next().await.expect("the subscription stands");
            // A gap: what was published while the server was away is gone, and nothing old comes late.
            if now > last + 1 {
                return now;
            }
            last = now;
        }
    });
    assert!(back.await > before);
    publishing.abort();
    tokio::task::spawn_blocking(move || drop(stack)).await.expect("the stack ends");
}
