//! What tools print: probes, progress, packets, measurements, errors; and plans that are made of a probe.
//!
//! Invariant: a number that is kept can be counted with and written down: it is finite.

use std::path::Path;
use std::time::Duration;

use ffpool_schema::job::JobSpec;
use ffpool_schema::message::Probe;
use ffpool_schema::plan::{Measured, Request, plan, quality};
use ffpool_schema::probe::{self, Probed};
use ffpool_schema::scenario::resolve;

use super::{parts, text, tool};

#[allow(dead_code)]
#[path = "../../../worker/src/live/flow.rs"]
mod flow;
#[allow(dead_code)]
#[path = "../../../worker/src/packets.rs"]
mod packets;
#[allow(dead_code)]
#[path = "../../../worker/src/progress.rs"]
mod progress;

/// A probe; then, after a zero, that of a first frame. What is found is planned with.
pub fn probe(data: &[u8]) {
    let (file, frame) = parts(data);
    let Ok(mut probed) = probe::parse(&text(file)) else { return };
    let _ = probe::add_frame(&mut probed, &text(frame));
    is_finite(&probed);
    for (scenario, output, parameters) in [
        ("1080p30-h264", "/out.mp4", "{}"),
        (
            "720p30-h264",
            "/out.mkv",
            r#"{"fit": "pad", "crop": "128x128+2+2", "start": 1.5, "end": 9, "loudness": -23}"#,
        ),
        (
            "source-h265",
            "/out.mp4",
            r#"{"passes": 2, "audio_streams": "all", "subtitles": "copy", "deinterlace": "auto"}"#,
        ),
        ("ladder-h264", "/{name}.mp4", "{}"),
        ("copy", "/out.mkv", "{}"),
        ("thumbnails", "/out.vtt", "{}"),
        ("sprites", "/out.vtt", "{}"),
    ] {
        let mut spec = JobSpec::new(scenario);
        spec.input = Some("/in.mp4".to_owned());
        spec.output = Some(output.to_owned());
        spec.parameters = serde_json::from_str(parameters).unwrap_or_default();
        let Ok(Some(encode)) = resolve(&spec) else { continue };
        let request = Request {
            encode: &encode,
            encoder: encode.video.candidates().first().copied(),
            device: None,
            source: Some((Path::new("/in.mp4"), &probed)),
            output: Path::new("/out.mp4"),
            number: 0,
            threads: 2,
            features: &[],
            loudness: None,
        };
        let _ = plan(&request);
    }
}

fn is_finite(probed: &Probed) {
    let Probe { duration_secs, video, audio, .. } = &probed.probe;
    let numbers = [*duration_secs, probed.start_secs, probed.video_end]
        .into_iter()
        .chain(probed.starts.iter().copied())
        .chain(probed.audio_ends.iter().copied())
        .chain(video.iter().flat_map(|video| [video.duration_secs, video.fps]))
        .chain(audio.iter().map(|audio| audio.duration_secs));
    assert!(numbers.flatten().all(f64::is_finite), "{probed:?}");
}

/// Lines of a tool: each is shown to every reader of lines, and the whole to every reader of logs.
pub fn output(data: &[u8]) {
    let text = text(data);
    let mut blocks = progress::Blocks::default();
    let mut meter = progress::Meter::new(Some(10.0));
    let (mut packets, mut flow) = (packets::Packets::default(), flow::Flow::default());
    for (number, line) in text.lines().enumerate() {
        let now = Duration::from_millis(number as u64 * 100);
        if let Some(block) = blocks.line(line) {
            let estimate = meter.observe(&block, now);
            assert!(estimate.percent.is_none_or(|percent| (0.0..100.0).contains(&percent)), "{estimate:?}");
            let others = [estimate.speed, estimate.eta_secs, block.fps];
            assert!(others.into_iter().flatten().all(f64::is_finite), "{estimate:?} {block:?}");
        }
        tool::Listener::output(&mut packets, line);
        assert!(flow.line(line, now).is_none_or(f64::is_finite), "{line}");
    }
    let streams = vec![("video".to_owned(), "h264".to_owned()); 4];
    let (proofs, faults) = packets.finish(&streams);
    let ends = proofs.iter().flat_map(|proof| [proof.first_secs, proof.end_secs]).flatten();
    assert!(ends.into_iter().all(f64::is_finite) && faults.len() <= 4, "{proofs:?}");
    if let Some(Measured { lufs, peak_dbtp, range_lu, gate_lufs, offset_lu }) = Measured::parse(text.lines()) {
        assert!([lufs, peak_dbtp, range_lu, gate_lufs, offset_lu].into_iter().all(f64::is_finite));
    }
    assert!(quality::psnr(text.lines()).is_none_or(|found| found.mean.is_finite() && found.min.is_finite()));
    assert!(quality::ssim(text.lines()).is_none_or(f64::is_finite));
    let _ = quality::is_shifted(text.lines());
    if let Some((found, _)) = quality::vmaf(text.lines().map(str::to_owned)) {
        let numbers = [found.mean, found.harmonic_mean, found.p1, found.p5, found.min];
        assert!(numbers.into_iter().all(f64::is_finite), "{found:?}");
    }
}
