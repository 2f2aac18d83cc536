//! Live jobs against a real server of live media: sources come and go, sinks refuse, and each says so in its own way.

mod engines;
mod handover;
mod recording;
pub mod sources;
mod tls;

use std::path::Path;
use std::time::{Duration, Instant};

use ffpool_schema::failure::Cause;
use ffpool_schema::job::{ExtraOutput, JobSpec, Parameters, Queue};
use ffpool_schema::message::{Manifest, Outcome};
use ffpool_stack::Rtmp;
use ffpool_worker::live::mpd::{self, Period, Presentation, Told};
use ffpool_worker::workshop::Stop;
use jiff::{SignedDuration, Timestamp};

use crate::tool::bench::{Bench, Ledger, Running, failure, manifest, stand_in, until};
use sources::{Publisher, clip_secs, packet_times};

/// A worker that may go to this machine.
async fn bench() -> Bench {
    Bench::with(|settings, _| settings.stores.fetch_allow = vec!["127.0.0.0/8".parse().unwrap()]).await
}

fn server() -> Rtmp {
    Rtmp::start().unwrap_or_else(|error| panic!("the RTMP server for the tests: {}", error.report()))
}

/// A live job of a small picture.
fn spec(bench: &Bench) -> JobSpec {
    let mut spec = bench.spec("custom-input");
    spec.queue = Queue::Live;
    spec.parameters.preset = Some("ultrafast".to_owned());
    spec
}

fn sink(url: String) -> ExtraOutput {
    ExtraOutput { url, scenario: "custom-input".to_owned(), parameters: Parameters::default() }
}

async fn until_media(running: &Running, run: u32, secs: f64) {
    until("media of a run", || match running.progress.borrow().as_ref() {
        Some(progress)
            if progress.live.as_ref().is_some_and(|live| live.run >= run && live.is_up)
                && progress.out_time_us.is_some_and(|us| us as f64 >= secs * 1e6) =>
        {
            Ok(())
        }
        other => Err(format!("{other:?}; ended: {}", running.ended.is_finished())),
    })
    .await;
}

/// What an MPD says. Every file that it names lies beside it.
fn presentation(mpd: &Path) -> (String, Told) {
    let text = std::fs::read_to_string(mpd).unwrap();
    let told = mpd::read(&text).unwrap_or_else(|| panic!("{text}"));
    let files = Presentation { begins: Timestamp::UNIX_EPOCH, periods: told.periods.clone() }.files();
    let missing: Vec<&String> = files.iter().filter(|name| !mpd.with_file_name(name).is_file()).collect();
    assert!(missing.is_empty() && !files.is_empty(), "{missing:?} of {text}");
    (text, told)
}

fn said(running: &mut Running) -> String {
    let mut lines = String::new();
    while let Ok(line) = running.log.try_recv() {
        lines += &line.line;
        lines.push('\n');
    }
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_out_past_a_dead_sink_and_comes_in_as_a_recording_of_the_length_asked_for() {
    let (bench, server) = (bench().await, server());
    let mut out = spec(&bench);
    let thrice = "[0:v]loop=3:50[v];[1:a]aloop=3:88200[a]";
    out.input = Some(bench.clip("clip.mp4", &["-filter_complex", thrice, "-map", "[v]", "-map", "[a]"]));
    out.parameters.gop = Some(10);
    out.output = Some(server.url("s3cretkey"));
    out.outputs = vec![sink("rtmp://127.0.0.1:9/live/d3adkey".to_owned())];
    let mut record = spec(&bench);
    record.input = Some(server.url("s3cretkey"));
    record.output = Some(bench.media("recording.mp4").display().to_string());
    record.parameters.duration = Some(2.0);

    let mut sending = bench.start(&bench.grant(&out), Ledger::Grants);
    let recorded = bench.run(&bench.grant(&record)).await;
    assert!(recorded.thumbnail.is_some(), "a recording can be seen");
    let recorded = manifest(&recorded);
    let video = recorded.artifacts[0].probe.video.as_ref().unwrap();
    assert_eq!((video.codec.as_str(), video.width, video.height), ("h264", 320, 180));
    let secs = recorded.artifacts[0].probe.duration_secs.unwrap();
    assert!((secs - 2.0).abs() < 0.15, "{secs}");
    assert_eq!(recorded.live.as_ref().unwrap().gaps, []);

    let lines = {
        let ended = (&mut sending.ended).await.unwrap();
        assert_eq!(ended.thumbnail, None, "it leaves nothing that could be seen");
        let sent = manifest(&ended);
        assert_eq!(sent.artifacts, []);
        let sinks = &sent.live.as_ref().unwrap().sinks;
        assert_eq!(
            (sinks[0].is_up, sinks[0].losses, sinks[1].is_up, sinks[1].losses),
            (true, 0, false, 1),
            "{sinks:?}"
        );
        serde_json::to_string(sent).unwrap() + &said(&mut sending)
    };
    assert!(lines.contains("sink_refused") && lines.contains("Connection refused"), "{lines}");
    for secret in ["s3cretkey", "d3adkey"] {
        assert!(!lines.contains(secret), "{lines}");
    }
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_goes_on_over_two_restarts_of_the_server_with_gaps_as_long_as_it_was_away() {
    let (bench, server) = (bench().await, server());
    let publisher = Publisher::to(&server.url("key"));
    let mut spec = spec(&bench);
    spec.input = Some(server.url("key"));
    spec.output = Some(bench.media("recording.mp4").display().to_string());
    spec.outputs = vec![
        sink(bench.media("live.m3u8").display().to_string()),
        sink(bench.media("dash/live.mpd").display().to_string()),
    ];
    spec.parameters.reconnect_sec = Some(8);
    let mut running = bench.start(&bench.grant(&spec), Ledger::Grants);
    let mut outages = Vec::new();
    let mut secs = 1.5;
    let mut began = None;
    for run in [1, 2, 3] {
        until_media(&running, run, secs).await;
        let now = Instant::now();
        let media = running.progress.borrow().as_ref().unwrap().out_time_us.unwrap() as f64 / 1e6;
        began.get_or_insert_with(|| now - Duration::from_secs_f64(media));
        if run == 3 {
            break;
        }
        server.kill();
        let away = Instant::now();
        // The publisher comes back within a second, and with it the first key frame.
        std::thread::sleep(Duration::from_millis(700));
        server.restart().unwrap();
        outages.push((away, Instant::now()));
        secs = media + 3.0;
    }
    let end = Instant::now();
    drop(publisher);
    // Nobody comes any more: the end of the source is the end of the job.
    let ended = (&mut running.ended).await.unwrap();
    let made: &Manifest = manifest(&ended);
    let live = made.live.as_ref().unwrap();
    assert_eq!((live.gaps.len(), live.runs), (2, 3), "{live:?}\n{}", said(&mut running));
    for (gap, (away, back)) in live.gaps.iter().zip(&outages) {
        assert_eq!(gap.cause, Cause::SourceGone);
        let at = (*away - began.unwrap()).as_secs_f64();
        // Roughly: the clock of this test was set by progress that a busy machine tells late.
        assert!((gap.at_secs - at).abs() < 2.5, "{gap:?} began at {at}");
        let least = (*back - *away).as_secs_f64() - 0.3;
        assert!((least..least + 20.0).contains(&gap.secs), "{gap:?} of {least}");
    }
    // What the file says is what the clock said, and nothing else is missing or doubled.
    let file = bench.media("recording.mp4");
    let times = packet_times(&file);
    let jumps: Vec<(f64, f64)> =
        times.windows(2).filter(|pair| pair[1] - pair[0] > 0.1).map(|pair| (pair[0], pair[1] - pair[0])).collect();
    assert_eq!(jumps.len(), 2, "{jumps:?}");
    for (gap, (at, secs)) in live.gaps.iter().zip(&jumps) {
        assert!((gap.at_secs - at).abs() < 0.15 && (gap.secs - secs).abs() < 0.15, "{gap:?} {at} {secs}");
    }
    assert!(times.windows(2).all(|pair| pair[1] > pair[0]), "{times:?}");
    let playlist = std::fs::read_to_string(bench.media("live.m3u8")).unwrap();
    assert_eq!(playlist.matches("#EXT-X-DISCONTINUITY\n").count(), 2, "{playlist}");
    assert!(playlist.ends_with("#EXT-X-ENDLIST\n"), "{playlist}");
    let (text, told) = presentation(&bench.media("dash/live.mpd"));
    assert!(text.contains("type=\"static\""), "{text}");
    let picture = |period: &Period| {
        let track = &period.tracks[0];
        let ticks: u64 = track.segments.iter().map(|segment| segment.ticks).sum();
        ticks as f64 / track.timescale as f64
    };
    let secs: Vec<f64> = told.periods.iter().map(picture).collect();
    let gaps: f64 = live.gaps.iter().map(|gap| gap.secs).sum();
    assert_eq!(secs.len(), 3, "one period for each run: {text}");
    assert!((secs.iter().sum::<f64>() - (live.secs - gaps)).abs() < 1.0, "{secs:?} {live:?}");
    for (number, pair) in told.periods.windows(2).enumerate() {
        let end = pair[0].start_ms as f64 / 1e3 + secs[number];
        assert!(pair[1].start_ms as f64 / 1e3 > end - 0.1, "{text}");
    }
    let whole = clip_secs(&file);
    assert!((whole - (end - began.unwrap()).as_secs_f64()).abs() < 3.0, "{whole} {:?}", end - began.unwrap());
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_source_a_refused_sink_a_silent_source_and_a_forbidden_host_have_causes_of_their_own() {
    let (bench, server) = (bench().await, server());
    let job = |input: Option<String>, output: Option<String>| {
        let mut spec = spec(&bench);
        (spec.input, spec.output) = (input, output);
        spec.parameters.reconnect_sec = Some(1);
        spec.resource_limits.stall_sec = Some(3);
        spec
    };
    let absent = job(Some(server.url("nobody")), None);
    let mut refused = job(None, Some("rtmp://127.0.0.1:9/live/key".to_owned()));
    refused.scenario = "240p25-h264".to_owned();
    refused.parameters.duration = Some(60.0);
    let forbidden = job(Some("rtmp://169.254.169.254/live/key".to_owned()), None);
    let publisher = Publisher::to(&server.url("silent"));
    let mut silent = job(Some(server.url("silent")), None);
    silent.parameters.source_end = Some(ffpool_schema::live::SourceEnd::Fail);
    silent.resource_limits.stall_sec = Some(6);
    let running = bench.start(&bench.grant(&silent), Ledger::Grants);
    until_media(&running, 1, 0.5).await;
    let (absent, refused, forbidden) =
        tokio::join!(bench.run_spec(&absent), bench.run_spec(&refused), bench.run_spec(&forbidden),);
    assert_eq!(failure(&absent).cause, Cause::SourceGone, "{absent:?}");
    assert_eq!(failure(&refused).cause, Cause::SinkRefused, "{refused:?}");
    assert!(failure(&refused).evidence.as_ref().unwrap().contains("Connection refused"), "{refused:?}");
    assert_eq!(failure(&forbidden).cause, Cause::Policy, "{forbidden:?}");
    publisher.pause();
    let ended = running.ended.await.unwrap();
    assert_eq!(failure(&ended).cause, Cause::Stall, "{ended:?}");
    bench.assert_clean();
}

/// Tells of media at half the pace of the clock for eighteen seconds, as an encoder that is too slow; then its source has enough of it.
const SLOW: &str = "i=0; while [ $i -lt 45 ]; do i=$((i+1)); sleep 0.4; \
     printf 'frame=%d\\nout_time_us=%d\\nprogress=continue\\n' $i $((i * 200000)); done; \
     echo '[error] Connection reset by peer' >&2; exit 1";

#[tokio::test(flavor = "multi_thread")]
async fn an_encoder_that_falls_behind_is_told_of_and_is_the_cause_when_its_source_leaves_it() {
    let bench = Bench::with(|settings, dir| {
        settings.stores.fetch_allow = vec!["127.0.0.0/8".parse().unwrap()];
        settings.ffmpeg = stand_in(dir, SLOW);
    })
    .await;
    let mut spec = spec(&bench);
    spec.input = Some("rtmp://127.0.0.1:9/live/fast".to_owned());
    spec.parameters.restarts = Some(0);
    spec.parameters.source_end = Some(ffpool_schema::live::SourceEnd::Fail);
    let mut running = bench.start(&bench.grant(&spec), Ledger::Grants);
    let ended = (&mut running.ended).await.unwrap();
    assert_eq!(failure(&ended).cause, Cause::EncoderSlow, "{ended:?}");
    let lines = said(&mut running);
    assert_eq!(lines.matches("[ffpool] encoder_slow: the encode falls behind").count(), 1, "{lines}");
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_ends_in_time_to_be_published_before_its_deadline() {
    let (bench, server) = (bench().await, server());
    let publisher = Publisher::to(&server.url("long"));
    let mut spec = spec(&bench);
    spec.input = Some(server.url("long"));
    spec.output = Some(bench.media("recording.mp4").display().to_string());
    let deadline = Timestamp::now() + SignedDuration::from_secs(16);
    spec.deadline = Some(deadline);
    let ended = bench.run_spec(&spec).await;
    let (secs, left) =
        (manifest(&ended).artifacts[0].probe.duration_secs.unwrap(), deadline.duration_since(Timestamp::now()));
    // Ten seconds and a tenth of the recording are kept back for the proof.
    assert!((1.0..6.5).contains(&secs) && left.is_positive(), "{secs} s, and {left} before the deadline");
    drop(publisher);
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn srt_comes_in_and_goes_out_by_hls_that_is_pulled_again_and_a_cancel_keeps_nothing_and_a_finish_all() {
    let (bench, server) = (bench().await, server());
    let (publisher, address) = Publisher::by_srt();
    let mut relay = spec(&bench);
    relay.input = Some(address);
    relay.output = Some(server.url("relay"));
    relay.outputs = vec![
        sink(bench.media("hls/live.m3u8").display().to_string()),
        sink(bench.media("dash/live.mpd").display().to_string()),
    ];
    relay.parameters.gop = Some(25);
    let relay = bench.start(&bench.grant(&relay), Ledger::Grants);
    let mut record = spec(&bench);
    record.scenario = "copy".to_owned();
    record.parameters.preset = None;
    record.input = Some(server.playlist("relay"));
    record.output = Some(bench.media("pulled.mkv").display().to_string());
    record.parameters.duration = Some(2.0);
    let mut kept = record.clone();
    kept.output = Some(bench.media("kept.mkv").display().to_string());
    kept.parameters.duration = None;
    let mut finished = kept.clone();
    finished.output = Some(bench.media("finished.mkv").display().to_string());
    let kept = bench.start(&bench.grant(&kept), Ledger::Grants);
    let finished = bench.start(&bench.grant(&finished), Ledger::Grants);
    let pulled = bench.run(&bench.grant(&record)).await;
    let secs = manifest(&pulled).artifacts[0].probe.duration_secs.unwrap();
    assert!((secs - 2.0).abs() < 0.3, "{secs}");
    until_media(&kept, 1, 0.5).await;
    kept.stop.send_replace(Some(Stop::Cancel));
    assert_eq!(kept.ended.await.unwrap().outcome, Some(Outcome::Cancelled));
    assert!(!bench.media("kept.mkv").exists());
    until_media(&finished, 1, 0.5).await;
    finished.finish.send_replace(true);
    let ended = finished.ended.await.unwrap();
    let secs = manifest(&ended).artifacts[0].probe.duration_secs.unwrap();
    assert!(secs > 0.4 && bench.media("finished.mkv").exists(), "{secs}");

    let mpd = bench.media("dash/live.mpd");
    until("a presentation", || if mpd.exists() { Ok(()) } else { Err("none".to_owned()) }).await;
    let (text, told) = presentation(&mpd);
    assert!(text.contains("type=\"dynamic\"") && told.begins.is_some(), "{text}");
    until_media(&relay, 1, 8.0).await;
    relay.finish.send_replace(true);
    let ended = relay.ended.await.unwrap();
    assert_eq!(manifest(&ended).artifacts, []);
    drop(publisher);
    let playlist = std::fs::read_to_string(bench.media("hls/live.m3u8")).unwrap();
    assert!(playlist.ends_with("#EXT-X-ENDLIST\n") && !playlist.contains("DISCONTINUITY"), "{playlist}");
    presentation(&mpd);
    for made in [bench.media("hls/live.m3u8"), mpd] {
        let (secs, times) = (clip_secs(&made), packet_times(&made));
        assert!(secs > 6.0 && times.windows(2).all(|pair| pair[1] > pair[0]), "{}: {secs}", made.display());
        // Of a presentation FFmpeg tells the length in whole seconds.
        let frames = (times[times.len() - 1] - times[0]) * 25.0 + 1.0;
        assert!((times.len() as f64 - frames).abs() < 3.0, "{}: {} of {frames}", made.display(), times.len());
    }
    bench.assert_clean();
}
