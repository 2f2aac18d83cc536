//! A live job passes from one attempt to the next: the second one is ready before the first one lets go of the sink.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ffpool_schema::message::{CommitReply, Outcome, Progress, Usage};
use ffpool_worker::workshop::{Consent, Stop};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::sources::Publisher;
use super::{bench, server, spec, until_media};
use crate::tool::bench::{manifest, until};

/// What lies between two attempts at one job: the first waits until it is wanted, the second until the first has ended.
struct Between {
    is_handed_back: AtomicBool,
    wanted: Semaphore,
    is_free: Semaphore,
    /// What the second says of itself, and since when it runs.
    second: OnceLock<(watch::Receiver<Option<Progress>>, Instant)>,
    /// Whether it had media when it asked for the sink, or had waited for some as long as it may.
    asked_in_time: AtomicBool,
}

/// How long an attempt waits for media before it asks for the sinks.
const PREPARES: Duration = Duration::from_secs(5);
/// What is heard of the tool is reported in the same breath: this is for a machine that stops in the middle of it.
const BREATH: Duration = Duration::from_millis(250);

impl Consent for Between {
    fn ask(&self) -> Pin<Box<dyn Future<Output = CommitReply> + Send + '_>> {
        Box::pin(std::future::ready(CommitReply::Granted))
    }

    fn hand_over(&self, reason: &str, _usage: Usage) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        assert_eq!(reason, "a notice");
        self.is_handed_back.store(true, Ordering::SeqCst);
        Box::pin(async { self.wanted.acquire().await.unwrap().forget() })
    }

    fn take_over(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            let (mut said, since) = self.second.get().expect("the second attempt runs").clone();
            let has_waited = since.elapsed() >= PREPARES;
            let has_media = |said: &Option<Progress>| {
                said.as_ref().is_some_and(|said| said.out_time_us.is_some_and(|micros| micros > 0))
            };
            let had_media = timeout(BREATH, said.wait_for(has_media)).await.is_ok();
            self.asked_in_time.store(had_media || has_waited, Ordering::SeqCst);
            self.wanted.add_permits(1);
            self.is_free.acquire().await.unwrap().forget();
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_attempt_has_media_before_the_one_that_is_handed_back_lets_go_of_the_sink() {
    let (bench, server) = (bench().await, server());
    let _publisher = Publisher::to(&server.url("in"));
    let between = Arc::new(Between {
        is_handed_back: AtomicBool::new(false),
        wanted: Semaphore::new(0),
        is_free: Semaphore::new(0),
        second: OnceLock::new(),
        asked_in_time: AtomicBool::new(false),
    });
    let mut spec = spec(&bench);
    spec.input = Some(server.url("in"));
    spec.output = Some(server.url("out"));
    spec.outputs = vec![super::sink(bench.media("live.m3u8").display().to_string())];
    spec.parameters.gop = Some(13);
    let first = bench.grant(&spec);
    let mut watched = spec.clone();
    (watched.scenario, watched.parameters.preset, watched.parameters.gop) = ("copy".to_owned(), None, None);
    watched.input = Some(server.url("out"));
    watched.output = Some(bench.media("watched.mkv").display().to_string());
    watched.outputs = Vec::new();
    watched.parameters.reconnect_sec = Some(8);
    spec.parameters.duration = Some(5.0);
    let mut second = bench.grant(&spec);
    (second.job, second.attempt) = (first.job, 2);

    let old = bench.start_among(&first, between.clone());
    let playlist = bench.media("live.m3u8");
    let carried = |attempt: u32| {
        let text = std::fs::read_to_string(&playlist).unwrap_or_default();
        if text.contains(&format!("{}-{attempt}-", first.job.0.simple())) { Ok(()) } else { Err(text) }
    };
    until("a segment of the first attempt", || carried(1)).await;
    let watching = bench.start(&bench.grant(&watched), crate::tool::bench::Ledger::Grants);
    until_media(&watching, 1, 0.5).await;
    old.stop.send_replace(Some(Stop::Release("a notice".to_owned())));
    until(
        "the hand-over",
        || {
            if between.is_handed_back.load(Ordering::SeqCst) { Ok(()) } else { Err("none".to_owned()) }
        },
    )
    .await;
    let new = bench.start_among(&second, between.clone());
    between.second.set((new.progress.clone(), Instant::now())).expect("it is started once");
    until_media(&new, 1, 0.1).await;
    let ended = old.ended.await.unwrap();
    assert!(matches!(&ended.outcome, Some(Outcome::Released { reason }) if reason == "a notice"), "{ended:?}");
    between.is_free.add_permits(1);
    let ended = new.ended.await.unwrap();
    let report = manifest(&ended).live.as_ref().unwrap();
    assert!(report.sinks[0].is_up, "{report:?}");
    // What the old one carried out is gone on with.
    for attempt in [1, 2] {
        carried(attempt).unwrap();
    }
    let playlist = std::fs::read_to_string(&playlist).unwrap();
    assert!(playlist.contains("#EXT-X-DISCONTINUITY\n"), "{playlist}");
    let ended = watching.ended.await.unwrap();
    let seen = manifest(&ended).live.as_ref().unwrap();
    println!("who watched the sink saw {:?}", seen.gaps);
    assert!(between.asked_in_time.load(Ordering::SeqCst), "the sink was asked for before there was anything to send");
    // Without the next attempt the old one would feed the sink for 10 s more, and nobody after it.
    let away: f64 = seen.gaps.iter().map(|gap| gap.secs).sum();
    assert!(seen.secs > 3.0 && away < 8.0, "{seen:?}");
    bench.assert_clean();
}
