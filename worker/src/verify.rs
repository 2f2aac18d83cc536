//! Whether an output is what was asked for.
//!
//! Invariant: pure; every difference is named, with what was expected and what is there.

use ffpool_schema::encode::Container;

use crate::plan::Expected;
use crate::probe::Probed;

/// How far a frame rate may be off.
const FPS_TOLERANCE: f64 = 0.01;
/// How exact a length is at best, in seconds: sound comes in packets.
const DURATION_TOLERANCE_SECS: f64 = 0.1;
/// How far an average bit rate may be over what was asked for.
const BITRATE_TOLERANCE: f64 = 0.1;
/// Shorter outputs do not settle to their average.
const BITRATE_MIN_SECS: f64 = 5.0;

/// Every way in which an output differs from what was planned. Empty: it is right.
#[must_use]
pub fn differences(expected: &Expected, found: &Probed) -> Vec<String> {
    let Some(video) = &found.probe.video else {
        return vec!["it has no video".to_owned()];
    };
    let mut differences = Vec::new();
    let mut differ = |what: &str, expected: String, found: String| {
        differences.push(format!("{what} is {found} instead of {expected}"));
    };
    if video.codec != expected.codec.probe_name() {
        differ("the codec", expected.codec.probe_name().to_owned(), video.codec.clone());
    }
    if (video.width, video.height) != (expected.width, expected.height) {
        differ(
            "the size",
            format!("{}x{}", expected.width, expected.height),
            format!("{}x{}", video.width, video.height),
        );
    }
    if let Some(wish) = expected.fps
        && !video.fps.is_some_and(|fps| (fps - wish).abs() <= wish * FPS_TOLERANCE)
    {
        differ(
            "the frame rate",
            format!("{wish:.3}"),
            video.fps.map_or("unknown".to_owned(), |fps| format!("{fps:.3}")),
        );
    }
    let pixels = video.pixel_format.as_deref().unwrap_or("unknown");
    // The `j` says full range, which is no other format.
    if pixels.replacen("yuvj", "yuv", 1) != expected.pixel_format {
        differ("the pixel format", expected.pixel_format.to_owned(), pixels.to_owned());
    }
    if !found.probe.format.split(',').any(|name| name == format_name(expected.container)) {
        differ("the container", format_name(expected.container).to_owned(), found.probe.format.clone());
    }
    if let (Some(wish), found) = (expected.duration_secs, found.probe.duration_secs) {
        let tolerance = expected.frame_secs.max(DURATION_TOLERANCE_SECS);
        if !found.is_some_and(|secs| (secs - wish).abs() <= tolerance) {
            differ(
                "the length",
                format!("{wish:.3} s"),
                found.map_or("unknown".to_owned(), |secs| format!("{secs:.3} s")),
            );
        }
    }
    let audio = found.probe.audio.as_ref().map(|audio| audio.codec.as_str());
    if audio != expected.audio.as_deref() {
        differ("the audio", expected.audio.clone().unwrap_or("none".to_owned()), audio.unwrap_or("none").to_owned());
    }
    if let (Some(wish), Some(rate)) = (expected.bitrate, settled_bitrate(found)) {
        // Under it is no fault: a simple picture needs no more, and no encoder can spend bits on nothing.
        if rate > wish as f64 * (1.0 + BITRATE_TOLERANCE) {
            differ("the video bit rate", format!("{wish}"), format!("{rate:.0}"));
        }
    }
    differences
}

/// The video's average rate, where the output is long enough to have one.
#[must_use]
pub fn settled_bitrate(found: &Probed) -> Option<f64> {
    let secs = found.probe.duration_secs.filter(|secs| *secs > BITRATE_MIN_SECS)?;
    match found.video_bitrate {
        Some(rate) => Some(rate as f64),
        // Without a rate of its own: the whole, less the sound.
        None => Some(found.size_bytes? as f64 * 8.0 / secs - found.audio_bitrate.unwrap_or(0) as f64),
    }
}

/// A name that FFmpeg's prober gives such a container.
fn format_name(container: Container) -> &'static str {
    match container {
        Container::Mp4 => "mp4",
        Container::Mov => "mov",
        Container::Mkv => "matroska",
        Container::Webm => "webm",
        Container::Ts => "mpegts",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ffpool_schema::encode::VideoCodec;
    use ffpool_schema::message::{AudioProbe, Probe, VideoProbe};

    fn expected() -> Expected {
        Expected {
            codec: VideoCodec::H265,
            width: 640,
            height: 360,
            fps: Some(30.0),
            pixel_format: "yuv420p",
            duration_secs: Some(10.0),
            frame_secs: 1.0 / 30.0,
            audio: Some("aac".to_owned()),
            bitrate: Some(1_000_000),
            container: Container::Mp4,
        }
    }

    fn found() -> Probed {
        Probed {
            probe: Probe {
                format: "mov,mp4,m4a,3gp,3g2,mj2".to_owned(),
                duration_secs: Some(10.05),
                video: Some(VideoProbe {
                    codec: "hevc".to_owned(),
                    width: 640,
                    height: 360,
                    fps: Some(29.97),
                    pixel_format: Some("yuvj420p".to_owned()),
                    ..VideoProbe::default()
                }),
                audio: Some(AudioProbe { codec: "aac".to_owned(), ..AudioProbe::default() }),
                ..Probe::default()
            },
            video_bitrate: Some(1_050_000),
            ..Probed::default()
        }
    }

    #[test]
    fn what_was_asked_for_passes() {
        assert_eq!(differences(&expected(), &found()), Vec::<String>::new());
    }

    #[test]
    fn every_difference_is_named() {
        let mut wrong = found();
        let video = wrong.probe.video.as_mut().unwrap();
        video.codec = "h264".to_owned();
        video.width = 320;
        video.fps = Some(25.0);
        video.pixel_format = Some("yuv444p".to_owned());
        wrong.probe.duration_secs = Some(9.0);
        wrong.probe.audio = None;
        wrong.probe.format = "matroska,webm".to_owned();
        wrong.video_bitrate = Some(1_200_000);
        let differences = differences(&expected(), &wrong);
        for what in ["codec", "size", "frame rate", "pixel format", "container", "length", "audio", "bit rate"] {
            assert!(differences.iter().any(|line| line.contains(what)), "{what}: {differences:?}");
        }
        assert_eq!(differences.len(), 8);
    }

    #[test]
    fn a_rate_is_asked_only_of_what_is_long_enough_and_may_be_lower() {
        let mut short = found();
        short.video_bitrate = Some(2_000_000);
        short.probe.duration_secs = Some(4.95);
        let wish = Expected { duration_secs: Some(5.0), ..expected() };
        assert_eq!(differences(&wish, &short), Vec::<String>::new());
        let simple = Probed { video_bitrate: Some(10_000), ..found() };
        assert_eq!(differences(&expected(), &simple), Vec::<String>::new());
    }
}
