//! Live jobs by GStreamer: what both engines do is held to the same expectations, side by side.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ffpool_schema::encode::AudioChoice;
use ffpool_schema::failure::Cause;
use ffpool_schema::job::{Engine, JobSpec};
use ffpool_schema::live::SourceEnd;
use ffpool_schema::message::{CommitReply, Manifest, Outcome, Usage};
use ffpool_stack::Rtmp;
use ffpool_worker::workshop::{Consent, Freeze, Stop};
use tokio::sync::Semaphore;

use super::sources::{Publisher, clip_secs, packet_times};
use super::{said, server, spec, until_media};
use crate::tool::bench::{Bench, Ledger, Running, failure, manifest, until};

const BOTH: [Engine; 2] = [Engine::Ffmpeg, Engine::Gstreamer];

async fn bench() -> Bench {
    let bench = Bench::with(|settings, _| {
        settings.stores.fetch_allow = vec!["127.0.0.0/8".parse().unwrap()];
        settings.gstreamer = Some("gst-launch-1.0".into());
    })
    .await;
    for feature in ["gstreamer-rtmp", "gstreamer-srt"] {
        assert!(bench.workshop.ability().has(feature), "these tests need the Debian package gstreamer1.0-plugins-bad");
    }
    bench
}

fn by(engine: Engine, bench: &Bench, input: Option<String>, output: String) -> JobSpec {
    let mut spec = spec(bench);
    (spec.engine, spec.input, spec.output) = (engine, input, Some(output));
    spec.parameters.reconnect_sec = Some(30);
    spec
}

/// Until a sink is up, `losses` losses behind it.
async fn until_up(running: &Running, what: &str, after: f64) {
    until(what, || match running.progress.borrow().as_ref() {
        Some(progress)
            if progress.live.as_ref().is_some_and(|live| live.is_up && live.sinks_down == 0)
                && progress.out_time_us.is_some_and(|us| us as f64 >= after * 1e6) =>
        {
            Ok(())
        }
        other => Err(format!("{other:?}; ended: {}", running.ended.is_finished())),
    })
    .await;
}

fn media_secs(running: &Running) -> f64 {
    running.progress.borrow().as_ref().and_then(|progress| progress.out_time_us).unwrap_or(0) as f64 / 1e6
}

fn tool_of(manifest: &Manifest, engine: Engine) {
    let choice = manifest.engine.as_ref().unwrap();
    assert_eq!(choice.engine, engine, "{choice:?}");
    let name = if engine == Engine::Gstreamer { "gst-launch-1.0 version" } else { "ffmpeg version" };
    assert!(manifest.tool.starts_with(name), "{}", manifest.tool);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_engines_record_and_publish_over_a_restart_of_the_server() {
    let (bench, server) = (bench().await, server());
    let publisher = Publisher::to(&server.url("in"));
    let name = |engine: Engine| engine.as_str();
    // Letters that separate elements, properties and lists elsewhere.
    let key = |engine: Engine| format!("s3cret!x=1,y;{}", name(engine));
    let mut recordings = Vec::new();
    let mut sendings = Vec::new();
    for engine in BOTH {
        let file = bench.media(&format!("{}.mp4", name(engine)));
        let record = by(engine, &bench, Some(server.url("in")), file.display().to_string());
        recordings.push((engine, file, bench.start(&bench.grant(&record), Ledger::Grants)));
        let mut send = by(engine, &bench, None, server.url(&key(engine)));
        send.scenario = "240p25-h264".to_owned();
        send.parameters.duration = Some(600.0);
        sendings.push((engine, bench.start(&bench.grant(&send), Ledger::Grants)));
    }
    for (_, _, running) in &recordings {
        until_media(running, 1, 1.5).await;
    }
    for (engine, running) in &sendings {
        until_up(running, "the first media at the sink", 0.5).await;
        until("the publisher at the server", || {
            if server.has_published(&key(*engine)) { Ok(()) } else { Err(key(*engine)) }
        })
        .await;
    }
    let before: Vec<f64> = recordings.iter().map(|(_, _, running)| media_secs(running)).collect();
    server.kill();
    let away = Instant::now();
    std::thread::sleep(Duration::from_millis(700));
    server.restart().unwrap();
    let least = away.elapsed().as_secs_f64() - 0.3;
    for ((_, _, running), before) in recordings.iter().zip(&before) {
        until_media(running, 2, before + 2.5).await;
        running.finish.send_replace(true);
    }
    for (_, running) in &sendings {
        // It was told that the sink was away, and that it is back.
        until_up(running, "media at the sink again", media_secs(running) + 1.0).await;
    }
    for ((engine, file, mut running), before) in recordings.into_iter().zip(before) {
        let ended = (&mut running.ended).await.unwrap();
        let made = manifest(&ended);
        tool_of(made, engine);
        let probe = &made.artifacts[0].probe;
        let video = probe.video.as_ref().unwrap();
        assert_eq!((video.codec.as_str(), video.width, video.height), ("h264", 320, 180), "{engine:?}");
        assert_eq!(probe.audio.as_ref().unwrap().codec, "aac", "{engine:?}");
        let live = made.live.as_ref().unwrap();
        let lines = said(&mut running);
        assert_eq!((live.gaps.len(), live.runs), (1, 2), "{engine:?} {live:?}\n{lines}");
        let gap = &live.gaps[0];
        assert_eq!(gap.cause, Cause::SourceGone, "{engine:?}\n{lines}");
        // What was told before the server was killed is in it, and little more.
        assert!((before - 0.5..before + 2.5).contains(&gap.at_secs), "{engine:?} {gap:?} {before}");
        assert!((least..least + 20.0).contains(&gap.secs), "{engine:?} {gap:?} of {least}");
        let times = packet_times(&file);
        let jumps: Vec<(f64, f64)> =
            times.windows(2).filter(|pair| pair[1] - pair[0] > 0.1).map(|pair| (pair[0], pair[1] - pair[0])).collect();
        assert_eq!(jumps.len(), 1, "{engine:?} {jumps:?}");
        assert!(
            (gap.at_secs - jumps[0].0).abs() < 0.3 && (gap.secs - jumps[0].1).abs() < 0.3,
            "{engine:?} {gap:?} {jumps:?}"
        );
        assert!(times.windows(2).all(|pair| pair[1] > pair[0]), "{engine:?} {times:?}");
        assert!((clip_secs(&file) - live.secs).abs() < 0.3, "{engine:?} {live:?}");
    }
    for (engine, mut running) in sendings {
        running.finish.send_replace(true);
        let ended = (&mut running.ended).await.unwrap();
        let sent = manifest(&ended);
        tool_of(sent, engine);
        let (sinks, lines) = (&sent.live.as_ref().unwrap().sinks, said(&mut running));
        assert_eq!((sinks.len(), sinks[0].is_up, sinks[0].losses), (1, true, 1), "{engine:?} {sinks:?}\n{lines}");
        assert!(lines.contains("sink_refused") && lines.contains("takes again"), "{engine:?}\n{lines}");
        let all = serde_json::to_string(sent).unwrap() + &lines;
        assert!(!all.contains("s3cret"), "{engine:?}\n{all}");
    }
    drop(publisher);
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn both_engines_tell_source_and_sink_apart_and_pass_srt_on() {
    let (bench, server) = (bench().await, server());
    let file = bench.clip("clip.mp4", &[]);
    let of = |engine| ends_are_told_apart(engine, &bench, &server, &file);
    tokio::join!(of(Engine::Ffmpeg), of(Engine::Gstreamer));
    bench.assert_clean();
}

async fn ends_are_told_apart(engine: Engine, bench: &Bench, server: &Rtmp, file: &str) {
    let name = engine.as_str();
    let job = |input: Option<String>, output: String| {
        let mut spec = by(engine, bench, input, output);
        spec.parameters.reconnect_sec = Some(1);
        spec
    };
    let recording = |which: &str| bench.media(&format!("{which}-{name}.mkv")).display().to_string();
    let absent = job(Some(server.url("nobody")), recording("absent"));
    let mut refused = job(None, "rtmp://127.0.0.1:9/live/key".to_owned());
    refused.parameters.duration = Some(60.0);
    let mut deaf = job(None, format!("srt://127.0.0.1:{}", ffpool_stack::free_port()));
    deaf.parameters.duration = Some(60.0);
    let forbidden = job(Some("rtmp://169.254.169.254/live/key".to_owned()), recording("forbidden"));
    let (publisher, address) = Publisher::by_srt();
    let lasting = |input: String, output: String| by(engine, bench, Some(input), output);
    let mut relay = lasting(address, server.url(&format!("relay-{name}")));
    relay.parameters.gop = Some(13);
    let mut pulled = lasting(server.url(&format!("relay-{name}")), recording("pulled"));
    pulled.parameters.duration = Some(1.5);
    let played = lasting(file.to_owned(), server.url(&format!("played-{name}")));
    let relay = bench.start(&bench.grant(&relay), Ledger::Grants);
    let (absent, refused, deaf, forbidden, pulled, played) = tokio::join!(
        bench.run_spec(&absent),
        bench.run_spec(&refused),
        bench.run_spec(&deaf),
        bench.run_spec(&forbidden),
        bench.run_spec(&pulled),
        bench.run_spec(&played),
    );
    assert_eq!(failure(&absent).cause, Cause::SourceGone, "{name} {absent:?}");
    assert_eq!(failure(&refused).cause, Cause::SinkRefused, "{name} {refused:?}");
    assert!(failure(&refused).evidence.is_some(), "{name} {refused:?}");
    assert_eq!(failure(&deaf).cause, Cause::SinkRefused, "{name} {deaf:?}");
    assert_eq!(failure(&forbidden).cause, Cause::Policy, "{name} {forbidden:?}");
    let secs = manifest(&pulled).artifacts[0].probe.duration_secs.unwrap();
    assert!((secs - 1.5).abs() < 0.3, "{name} {secs}");
    // The clip has two seconds, and is not sent faster than it plays.
    assert!(manifest(&played).live.as_ref().unwrap().sinks[0].is_up, "{name} {played:?}");
    assert!(played.usage.wall_ms > 1500, "{name}: {:?}", played.usage);
    relay.stop.send_replace(Some(Stop::Cancel));
    assert_eq!(relay.ended.await.unwrap().outcome, Some(Outcome::Cancelled), "{name}");
    drop(publisher);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_whose_source_falls_silent_or_has_no_sound_says_which() {
    let (bench, server) = (bench().await, server());
    let publisher = Publisher::to(&server.url("silent"));
    let mut mute = by(Engine::Gstreamer, &bench, None, server.url("mute"));
    (mute.scenario, mute.parameters.duration) = ("240p25-h264".to_owned(), Some(600.0));
    (mute.parameters.audio_codec, mute.parameters.gop) = (Some(AudioChoice::None), Some(13));
    let mute = bench.start(&bench.grant(&mute), Ledger::Grants);
    let record = |key: &str, name: &str| {
        let mut spec = by(Engine::Gstreamer, &bench, Some(server.url(key)), bench.media(name).display().to_string());
        spec.parameters.source_end = Some(SourceEnd::Fail);
        spec.resource_limits.stall_sec = Some(6);
        spec
    };
    until_up(&mute, "a picture without sound", 0.5).await;
    let waiting = bench.start(&bench.grant(&record("mute", "waiting.mp4")), Ledger::Grants);
    let mut pictures = record("mute", "pictures.mkv");
    (pictures.parameters.audio_codec, pictures.parameters.duration) = (Some(AudioChoice::None), Some(1.0));
    let mut silent = record("silent", "silent.mp4");
    silent.parameters.reconnect_sec = Some(0);
    let silent = bench.start(&bench.grant(&silent), Ledger::Grants);
    let pictures = bench.run_spec(&pictures).await;
    assert_eq!(manifest(&pictures).artifacts[0].probe.audio, None);
    until_media(&silent, 1, 0.5).await;
    publisher.pause();
    let ended = silent.ended.await.unwrap();
    assert_eq!(failure(&ended).cause, Cause::Stall, "{ended:?}");
    let ended = waiting.ended.await.unwrap();
    assert_eq!(failure(&ended).cause, Cause::InputBad, "{ended:?}");
    assert!(failure(&ended).message.contains("`audio_codec: none`"), "{ended:?}");
    mute.stop.send_replace(Some(Stop::Cancel));
    assert_eq!(mute.ended.await.unwrap().outcome, Some(Outcome::Cancelled));
    bench.assert_clean();
}

/// What lies between two attempts at one job: the first goes on until it is wanted, the second waits until it has ended.
struct Between {
    wanted: Semaphore,
    is_free: Semaphore,
}

impl Consent for Between {
    fn ask(&self) -> Pin<Box<dyn Future<Output = CommitReply> + Send + '_>> {
        Box::pin(std::future::ready(CommitReply::Granted))
    }

    fn hand_over(&self, _reason: &str, _usage: Usage) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async { self.wanted.acquire().await.unwrap().forget() })
    }

    fn take_over(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            self.wanted.add_permits(1);
            self.is_free.acquire().await.unwrap().forget();
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_takes_its_sink_from_the_attempt_before_it_starts() {
    let (bench, server) = (bench().await, server());
    let between = Arc::new(Between { wanted: Semaphore::new(0), is_free: Semaphore::new(0) });
    let mut spec = by(Engine::Gstreamer, &bench, None, server.url("out"));
    (spec.scenario, spec.parameters.duration) = ("240p25-h264".to_owned(), Some(600.0));
    let first = bench.grant(&spec);
    let mut second = bench.grant(&spec);
    (second.job, second.attempt) = (first.job, 2);
    let old = bench.start_among(&first, between.clone());
    until_up(&old, "the first attempt at the sink", 0.5).await;
    old.stop.send_replace(Some(Stop::Release("a notice".to_owned())));
    let new = bench.start_among(&second, between.clone());
    let ended = old.ended.await.unwrap();
    assert!(matches!(&ended.outcome, Some(Outcome::Released { reason }) if reason == "a notice"), "{ended:?}");
    let running = bench.processes();
    assert!(running.iter().all(|line| !line.contains("gst-launch-1.0")), "{running:?}");
    between.is_free.add_permits(1);
    until_up(&new, "the second attempt at the sink", 0.5).await;
    new.finish.send_replace(true);
    let ended = new.ended.await.unwrap();
    let sinks = &manifest(&ended).live.as_ref().unwrap().sinks;
    assert_eq!((sinks[0].is_up, sinks[0].losses), (true, 0), "{sinks:?}");
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_whose_source_or_sink_cannot_be_found_leaves_the_sink_to_the_attempt_before_it() {
    let bench = bench().await;
    let sink = "rtmp://127.0.0.1:9/live/key";
    for (input, output, cause) in [
        (Some("rtmp://169.254.169.254/live/key"), sink, Cause::Policy),
        (Some("rtmp://nobody.invalid/live/key"), sink, Cause::Dns),
        (None, "rtmp://nobody.invalid/live/key", Cause::SinkRefused),
    ] {
        let between = Arc::new(Between { wanted: Semaphore::new(0), is_free: Semaphore::new(1) });
        let mut spec = by(Engine::Gstreamer, &bench, input.map(str::to_owned), output.to_owned());
        spec.parameters.reconnect_sec = Some(0);
        if input.is_none() {
            (spec.scenario, spec.parameters.duration) = ("240p25-h264".to_owned(), Some(600.0));
        }
        let mut second = bench.grant(&spec);
        second.attempt = 2;
        let ended = bench.start_among(&second, between.clone()).ended.await.unwrap();
        let failure = failure(&ended);
        assert_eq!(failure.cause, cause, "{ended:?}");
        let evidence = failure.evidence.as_deref().unwrap_or_default();
        assert!(cause != Cause::SinkRefused || evidence.contains("nobody.invalid"), "{ended:?}");
        assert_eq!(between.wanted.available_permits(), 0, "the sink was asked for: {ended:?}");
    }
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_longer_than_a_sink_may_be_away_is_not_held_against_it() {
    let (bench, server) = (bench().await, server());
    server.kill();
    let mut spec = by(Engine::Gstreamer, &bench, None, server.url("out"));
    (spec.scenario, spec.parameters.duration) = ("240p25-h264".to_owned(), Some(600.0));
    spec.parameters.reconnect_sec = Some(4);
    let mut running = bench.start(&bench.grant(&spec), Ledger::Grants);
    let mut lines = String::new();
    until("the loss of the sink", || {
        lines += &said(&mut running);
        if lines.contains("sink_refused") { Ok(()) } else { Err(lines.clone()) }
    })
    .await;
    running.freeze.send_replace(Freeze { paused: true, preempted: false });
    tokio::time::sleep(Duration::from_secs(5)).await;
    server.restart().unwrap();
    running.freeze.send_replace(Freeze::default());
    until_up(&running, "media at the sink", 0.5).await;
    running.finish.send_replace(true);
    let ended = (&mut running.ended).await.unwrap();
    let sinks = &manifest(&ended).live.as_ref().unwrap().sinks;
    assert_eq!((sinks[0].is_up, sinks[0].losses), (true, 1), "{sinks:?}");
    bench.assert_clean();
}
