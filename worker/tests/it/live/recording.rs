//! Recordings that outlive the attempt that made them: another goes on, and what is published holds what all recorded.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ffpool_schema::failure::Cause;
use ffpool_schema::job::JobSpec;
use ffpool_schema::message::{CommitReply, Grant, LiveReport, Outcome, Progress, Usage};
use ffpool_stack::Rtmp;
use ffpool_worker::workshop::{Consent, Stop};
use tokio::sync::{Semaphore, watch};

use super::sources::{Publisher, packet_times};
use super::{said, server, until_media};
use crate::tool::bench::{Bench, Ledger, Running, failure, manifest, until};

/// A worker that carries out what it records twice a second.
async fn bench() -> Bench {
    Bench::with(|settings, _| {
        settings.stores.fetch_allow = vec!["127.0.0.0/8".parse().unwrap()];
        settings.live_piece = Duration::from_millis(500);
    })
    .await
}

/// A job that records what is published as `in`.
fn spec(bench: &Bench, server: &Rtmp) -> JobSpec {
    let mut spec = super::spec(bench);
    spec.input = Some(server.url("in"));
    spec.output = Some(bench.media("rec/recording.mp4").display().to_string());
    spec.parameters.gop = Some(13);
    spec
}

/// The attempt after another at the same job.
fn next(grant: &Grant) -> Grant {
    Grant { attempt: grant.attempt + 1, ..grant.clone() }
}

/// The pieces of an attempt.
fn pieces(bench: &Bench, grant: &Grant) -> Vec<PathBuf> {
    let directory = bench.media("rec/.ffpool-chunks").join(grant.job.0.simple().to_string());
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let prefix = format!("{:06}-", grant.attempt);
    let is_piece = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix));
    let mut pieces: Vec<PathBuf> = entries.filter(is_piece).collect();
    pieces.sort();
    pieces
}

async fn until_kept(bench: &Bench, grant: &Grant, least: usize) {
    until("pieces of a recording", || {
        let there = pieces(bench, grant);
        if there.len() >= least { Ok(()) } else { Err(format!("{there:?}")) }
    })
    .await;
}

/// How many pieces of the first run count, as the index of a later attempt says.
fn counted(bench: &Bench, grant: &Grant) -> usize {
    let directory = bench.media("rec/.ffpool-chunks").join(grant.job.0.simple().to_string());
    let text = std::fs::read(directory.join(format!("{:06}.json", grant.attempt))).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&text).unwrap();
    usize::try_from(index["runs"][0]["pieces"].as_u64().unwrap()).unwrap()
}

/// Frames of so many pieces that an attempt has kept.
fn frames_kept(bench: &Bench, grant: &Grant, count: usize) -> usize {
    let whole = bench.dir.path().join("kept.ts");
    let bytes: Vec<u8> =
        pieces(bench, grant).iter().take(count).flat_map(|piece| std::fs::read(piece).unwrap()).collect();
    std::fs::write(&whole, bytes).unwrap();
    packet_times(&whole).len()
}

/// How many frames lie before each jump, and how long it is. Times only grow.
fn jumps(file: &Path, least_secs: f64) -> (usize, Vec<(usize, f64)>) {
    let times = packet_times(file);
    assert!(times.windows(2).all(|pair| pair[1] > pair[0]), "{times:?}");
    let apart = times.windows(2).map(|pair| pair[1] - pair[0]).enumerate();
    let jumps = apart.filter(|(_, secs)| *secs > least_secs).map(|(index, secs)| (index + 1, secs)).collect();
    (times.len(), jumps)
}

/// Only the recording and its manifest lie there.
fn assert_nothing_is_left(bench: &Bench, expected: &[&str]) {
    let entries = std::fs::read_dir(bench.media("rec")).unwrap().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, expected);
    bench.assert_clean();
}

fn secs_told(running: &Running) -> f64 {
    last_told(&running.progress)
}

/// Seconds of the recording that an attempt told of last, while it recorded or after.
fn last_told(progress: &watch::Receiver<Option<Progress>>) -> f64 {
    progress.borrow().as_ref().and_then(|progress| progress.out_time_us).unwrap_or(0) as f64 / 1e6
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_of_a_lost_and_a_released_attempt_is_published_by_a_later_one_that_finds_no_source() {
    let (bench, server) = (bench().await, server());
    let publisher = Publisher::to(&server.url("in"));
    let mut spec = spec(&bench, &server);
    (spec.parameters.reconnect_sec, spec.parameters.crf) = (Some(1), Some(1));
    let first = bench.grant(&spec);
    let lost = bench.start(&first, Ledger::Grants);
    until_kept(&bench, &first, 2).await;
    lost.stop.send_replace(Some(Stop::Abandon));
    assert_eq!(lost.ended.await.unwrap().outcome, None);

    let second = next(&first);
    let released = bench.start(&second, Ledger::Grants);
    until_media(&released, 2, 1.0).await;
    // A piece may get its name after the end of its attempt, and counts only if the next one has seen it.
    let before = frames_kept(&bench, &first, counted(&bench, &second));
    // More than half a mebibyte, for the disk below.
    let kept = || [&first, &second].into_iter().flat_map(|grant| pieces(&bench, grant));
    until("something to run out of disk with", || {
        let bytes: u64 = kept().map(|piece| piece.metadata().unwrap().len()).sum();
        if bytes > 600 << 10 { Ok(()) } else { Err(bytes.to_string()) }
    })
    .await;
    released.stop.send_replace(Some(Stop::Release("a notice".to_owned())));
    let told = released.progress.clone();
    let ended = released.ended.await.unwrap();
    assert!(matches!(ended.outcome, Some(Outcome::Released { .. })), "{ended:?}");
    let after = frames_kept(&bench, &second, usize::MAX);
    drop(publisher);

    let mut third = next(&second);
    third.spec.resource_limits.max_disk_mb = Some(1);
    let ended = bench.run(&third).await;
    assert_eq!(failure(&ended).cause, Cause::ScratchLimit, "{ended:?}");

    // Whatever an attempt fails of, the next one has it all.
    let mut fourth = bench.start(&Grant { spec: second.spec.clone(), ..next(&third) }, Ledger::Grants);
    let ended = (&mut fourth.ended).await.unwrap();
    let lines = said(&mut fourth);
    let made = manifest(&ended);
    let live: &LiveReport = made.live.as_ref().unwrap();
    assert_eq!((live.runs, live.gaps.len(), live.gaps[0].cause), (2, 1, Cause::WorkerLost), "{live:?}\n{lines}");
    assert!(!made.steps[0].is_empty() && !lines.contains("cannot be kept"), "{:?}\n{lines}", made.steps);
    let (frames, jumps) = jumps(&bench.media("rec/recording.mp4"), 0.1);
    assert_eq!((frames, jumps.len(), jumps[0].0), (before + after, 1, before), "{jumps:?} {live:?}\n{lines}");
    assert!((jumps[0].1 - live.gaps[0].secs).abs() < 0.15, "{jumps:?} {live:?}");
    // Whoever was asked to end has kept all that it had.
    assert!((live.secs - last_told(&told)).abs() < 0.3, "{} of {} s", live.secs, last_told(&told));
    assert_nothing_is_left(&bench, &["recording.mp4", "recording.mp4.ffpool.json"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_ends_and_is_published_before_its_disk_would_not_hold_it_twice() {
    let (bench, server) = (bench().await, server());
    let _publisher = Publisher::to(&server.url("in"));
    let mut spec = spec(&bench, &server);
    (spec.parameters.crf, spec.resource_limits.max_disk_mb) = (Some(1), Some(4));
    let mut running = bench.start(&bench.grant(&spec), Ledger::Grants);
    let ended = (&mut running.ended).await.unwrap();
    let bytes = manifest(&ended).artifacts[0].size_bytes;
    assert!((256 << 10..2 << 20).contains(&bytes), "{bytes}");
    assert!(said(&mut running).contains("the recording ends with what it has"));
    assert_nothing_is_left(&bench, &["recording.mp4", "recording.mp4.ffpool.json"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_discards_what_all_attempts_recorded() {
    let (bench, server) = (bench().await, server());
    let _publisher = Publisher::to(&server.url("in"));
    let first = bench.grant(&spec(&bench, &server));
    let lost = bench.start(&first, Ledger::Grants);
    until_kept(&bench, &first, 1).await;
    lost.stop.send_replace(Some(Stop::Abandon));
    assert_eq!(lost.ended.await.unwrap().outcome, None);
    let mut second = bench.start(&next(&first), Ledger::Grants);
    let mut lines = String::new();
    until("the next attempt", || {
        lines += &said(&mut second);
        if lines.contains("goes on with a recording of ") { Ok(()) } else { Err(lines.clone()) }
    })
    .await;
    second.stop.send_replace(Some(Stop::Cancel));
    assert_eq!(second.ended.await.unwrap().outcome, Some(Outcome::Cancelled));
    assert_nothing_is_left(&bench, &[]);
}

/// Between two attempts that record at once: the first ends when the test says so, and the second is told so then.
struct Meeting {
    is_handed_back: Semaphore,
    is_over: Semaphore,
    is_asked: Semaphore,
    has_let_go: Semaphore,
}

impl Meeting {
    fn new() -> Arc<Meeting> {
        let [is_handed_back, is_over, is_asked, has_let_go] = std::array::from_fn(|_| Semaphore::new(0));
        Arc::new(Meeting { is_handed_back, is_over, is_asked, has_let_go })
    }
}

impl Consent for Meeting {
    fn ask(&self) -> Pin<Box<dyn Future<Output = CommitReply> + Send + '_>> {
        Box::pin(std::future::ready(CommitReply::Granted))
    }

    fn hand_over(&self, _: &str, _: Usage) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.is_handed_back.add_permits(1);
        Box::pin(async { self.is_over.acquire().await.unwrap().forget() })
    }

    fn take_over(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.is_asked.add_permits(1);
        Box::pin(async { self.has_let_go.acquire().await.unwrap().forget() })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_ends_at_once_waits_for_what_the_one_before_still_records() {
    let (bench, server) = (bench().await, server());
    let _publisher = Publisher::to(&server.url("in"));
    let first = bench.grant(&spec(&bench, &server));
    let meeting = Meeting::new();
    let old = bench.start_among(&first, meeting.clone());
    until_media(&old, 1, 1.0).await;
    old.stop.send_replace(Some(Stop::Release("a notice".to_owned())));
    meeting.is_handed_back.acquire().await.unwrap().forget();
    let new = bench.start_among(&next(&first), meeting.clone());
    new.finish.send_replace(true);
    meeting.is_asked.acquire().await.unwrap().forget();
    let asked = secs_told(&old);
    until_media(&old, 1, asked + 1.5).await;
    let told = old.progress.clone();
    meeting.is_over.add_permits(1);
    let ended = old.ended.await.unwrap();
    assert!(matches!(ended.outcome, Some(Outcome::Released { .. })), "{ended:?}");
    meeting.has_let_go.add_permits(1);
    let ended = new.ended.await.unwrap();
    let live = manifest(&ended).live.as_ref().unwrap();
    assert!(live.secs > last_told(&told) - 0.3, "{live:?}, told of {} s", last_told(&told));
    assert_nothing_is_left(&bench, &["recording.mp4", "recording.mp4.ffpool.json"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_attempts_that_record_at_once_while_one_is_handed_over_make_one_recording_without_a_gap() {
    let (bench, server) = (bench().await, server());
    let _publisher = Publisher::to(&server.url("in"));
    let first = bench.grant(&spec(&bench, &server));
    let meeting = Meeting::new();
    // Nobody waits for the other here.
    meeting.has_let_go.add_permits(1);
    let old = bench.start_among(&first, meeting.clone());
    until_media(&old, 1, 1.0).await;
    old.stop.send_replace(Some(Stop::Release("a notice".to_owned())));
    meeting.is_handed_back.acquire().await.unwrap().forget();
    let handed_back = secs_told(&old);
    // Long enough to be missed, if it were.
    until_media(&old, 1, handed_back + 1.5).await;
    let new = bench.start_among(&next(&first), meeting.clone());
    until_media(&new, 2, 0.0).await;
    // Both record for a while.
    let begun = secs_told(&new);
    until_media(&new, 2, begun + 1.5).await;
    meeting.is_over.add_permits(1);
    let ended = old.ended.await.unwrap();
    assert!(matches!(ended.outcome, Some(Outcome::Released { .. })), "{ended:?}");
    until_media(&new, 2, begun + 2.0).await;
    let mut progress = new.progress.clone();
    let told = tokio::spawn(async move {
        let mut most = 0.0_f64;
        while progress.changed().await.is_ok() {
            most = most.max(last_told(&progress));
        }
        most
    });
    new.finish.send_replace(true);
    let ended = new.ended.await.unwrap();
    let live = manifest(&ended).live.as_ref().unwrap();
    let (frames, jumps) = jumps(&bench.media("rec/recording.mp4"), 0.1);
    assert_eq!(live.runs, 2, "{live:?}");
    let missing: f64 = jumps.iter().map(|(_, secs)| secs).sum();
    assert!(missing < 1.0, "{jumps:?} {live:?}");
    // What was taken from both would make it longer than the clock says.
    let told = told.await.unwrap();
    assert!((live.secs - told).abs() < 0.8, "{live:?} of {told} s");
    assert!((frames as f64 - (live.secs - missing) * 25.0).abs() < 12.0, "{frames} frames in {live:?}, {jumps:?}");
    assert_nothing_is_left(&bench, &["recording.mp4", "recording.mp4.ffpool.json"]);
}
