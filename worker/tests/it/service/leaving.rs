//! What becomes of jobs when their worker drains.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_hands_back_what_does_not_fit_and_takes_no_more() {
    let pool = Pool::new("drain").await;
    let worker = pool.start(&["--slots=1"]).await;
    let job = pool.publish(ENDLESS).await;
    until_running(&pool, job).await;
    let waiting = pool.publish(NOOP).await;

    let ping = WorkerCommand::Ping { job, attempt: 1 };
    let subject = subjects::control_worker(&pool.worker);
    let answer: WorkerAnswer = pool.signals.request(&subject, &ping, Duration::from_secs(10)).await.unwrap();
    assert_eq!((answer.from, answer.yes), (worker.me.clone(), true));
    let drain = WorkerCommand::Drain;
    let answer: WorkerAnswer = pool.signals.request(&subject, &drain, Duration::from_secs(10)).await.unwrap();
    assert!(answer.yes);
    until("a heartbeat that says so", async || {
        let last = pool.dispatcher.heartbeats().pop().unwrap();
        // Asked to by a dispatcher, it finishes what runs, however long that takes.
        if last.state == WorkerState::Draining && last.running.len() == 1 { Ok(()) } else { Err(last) }
    })
    .await;

    assert_eq!(stop(worker).await, Finish::Clean);
    pool.until_ends(&[(job, 1, "released")]).await;
    assert!(matches!(&pool.events()[0].outcome, Outcome::Released { reason } if reason.contains("drain")));
    assert_eq!(pool.ready().await, 1, "{waiting} waits for somebody else");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_hands_back_a_live_job_at_once_and_lets_others_finish() {
    let pool = Pool::new("leave").await;
    let worker = pool.start(&["--slots=2", "--fetch-allow=127.0.0.0/8"]).await;
    // Nobody publishes there: it waits for its source.
    let live = pool.publish(LIVE).await;
    let other = pool.publish(ENDLESS).await;
    until_running(&pool, live).await;
    until_running(&pool, other).await;
    let subject = subjects::control_worker(&pool.worker);
    let drain = WorkerCommand::Drain;
    let answer: WorkerAnswer = pool.signals.request(&subject, &drain, Duration::from_secs(10)).await.unwrap();
    assert!(answer.yes);
    pool.until_ends(&[(live, 1, "released")]).await;
    until_running(&pool, other).await;
    assert_eq!(stop(worker).await, Finish::Clean);
    pool.until_ends(&[(live, 1, "released"), (other, 1, "released")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_attempt_asks_the_one_before_for_its_sinks_and_lets_go_of_them_when_the_next_one_asks() {
    let pool = Pool::new("handover").await;
    let server = Rtmp::start().unwrap_or_else(|error| panic!("the RTMP server for the tests: {}", error.report()));
    let _publisher = Publisher::to(&server.url("in"));
    pool.dispatcher.on_claim(|_| Say::Run(2));
    let worker = pool.start(&["--slots=2", "--fetch-allow=127.0.0.0/8"]).await;
    let job = JobId(uuid::Uuid::now_v7());
    let subject = subjects::hand_over(job);
    let mut before = pool.signals.serve::<TakeOver>(&subject, "before").await.unwrap();
    pool.signals.round_trip(BOUND).await.unwrap();
    let body = format!(
        r#"{{"scenario": "360p25-h264", "input": "{}", "output": "{}", "parameters": {{"preset": "ultrafast"}}}}"#,
        server.url("in"),
        server.url("out")
    );
    pool.publish_as(job, &body, None).await;
    let asked = tokio::time::timeout(BOUND, before.next_request()).await.expect("a question").unwrap();
    assert_eq!((asked.value.attempt, &asked.value.from.worker), (2, &pool.worker));
    drop(before);
    let answer = JobAnswer { from: asked.value.from.clone(), accepted: true, reason: None };
    asked.answer(&answer).await.unwrap();
    until("what is published", async || if server.has_published("out") { Ok(()) } else { Err("nothing") }).await;

    let scratch = pool.scratch().join(pool.worker.as_str()).join(format!("{job}.2"));
    assert!(scratch.exists());
    // The next attempt asks until somebody answers: nobody does before the end is on record.
    let take = TakeOver { from: asked.value.from.clone(), attempt: 3 };
    let asking = until("an answer", async || pool.signals.request::<_, JobAnswer>(&subject, &take, BOUND).await);
    let (answer, ()) = tokio::join!(asking, async { worker.drain.advance(Stage::Finishing, "a notice") });
    assert!(answer.accepted);
    assert!(!scratch.exists(), "it is answered when the tool has ended");
    pool.until_ends(&[(job, 2, "released")]).await;
    assert_eq!(stop(worker).await, Finish::Clean);
    pool.until_ends(&[(job, 2, "released")]).await;
}
