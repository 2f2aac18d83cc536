//! What ffprobe finds in a file.
//!
//! Invariant: a cover picture is no video; what the prober does not say is absent, never zero.

use std::ffi::OsString;
use std::path::Path;

use ffpool_schema::message::{AudioProbe, Probe, VideoProbe};
use serde::Deserialize;

use crate::plan::{READ_ONLY_FILES, file_argument};

/// A probed file: what goes into a manifest, and what planning needs besides.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Probed {
    /// For the record.
    pub probe: Probe,
    /// Shape of a pixel: width and height.
    pub sample_aspect: (u32, u32),
    /// Bits per second of the video stream alone, where the container tells.
    pub video_bitrate: Option<u64>,
    /// Bits per second of the audio stream alone, where the container tells.
    pub audio_bitrate: Option<u64>,
    /// Size of the file in bytes.
    pub size_bytes: Option<u64>,
}

/// ffprobe's arguments for a file.
#[must_use]
pub fn arguments(file: &Path) -> Vec<OsString> {
    let mut arguments: Vec<OsString> =
        ["-hide_banner", "-loglevel", "level+error", "-of", "json", "-show_format", "-show_streams"]
            .map(Into::into)
            .into();
    arguments.extend(READ_ONLY_FILES.map(OsString::from));
    arguments.extend(["-i".into(), file_argument(file)]);
    arguments
}

/// Reads ffprobe's answer.
///
/// # Errors
/// When it is not the JSON that ffprobe writes.
pub fn parse(json: &str) -> Result<Probed, serde_json::Error> {
    let raw: Raw = serde_json::from_str(json)?;
    let video = raw.streams.iter().find(|stream| stream.codec_type == "video" && stream.disposition.attached_pic == 0);
    let audio = raw.streams.iter().find(|stream| stream.codec_type == "audio");
    Ok(Probed {
        probe: Probe {
            format: raw.format.format_name.clone(),
            duration_secs: seconds(raw.format.duration.as_deref()),
            bitrate: raw.format.bit_rate.as_deref().and_then(|text| text.parse().ok()),
            video: video.map(video_probe),
            audio: audio.map(audio_probe),
            streams: u32::try_from(raw.streams.len()).unwrap_or(u32::MAX),
        },
        sample_aspect: video.and_then(|video| ratio(video.sample_aspect_ratio.as_deref()?, ':')).unwrap_or((1, 1)),
        video_bitrate: video.and_then(|video| video.bit_rate.as_deref()?.parse().ok()),
        audio_bitrate: audio.and_then(|audio| audio.bit_rate.as_deref()?.parse().ok()),
        size_bytes: raw.format.size.as_deref().and_then(|text| text.parse().ok()),
    })
}

fn video_probe(stream: &RawStream) -> VideoProbe {
    let rate = |text: Option<&str>| ratio(text?, '/').map(|(num, den)| f64::from(num) / f64::from(den));
    VideoProbe {
        codec: stream.codec_name.clone().unwrap_or_default(),
        profile: stream.profile.clone(),
        width: stream.width.unwrap_or(0),
        height: stream.height.unwrap_or(0),
        fps: rate(stream.avg_frame_rate.as_deref()).or_else(|| rate(stream.r_frame_rate.as_deref())),
        pixel_format: stream.pix_fmt.clone(),
        duration_secs: stream.duration_secs(),
        frames: None,
        rotation: stream.rotation(),
    }
}

fn audio_probe(stream: &RawStream) -> AudioProbe {
    AudioProbe {
        codec: stream.codec_name.clone().unwrap_or_default(),
        channels: stream.channels,
        sample_rate: stream.sample_rate.as_deref().and_then(|text| text.parse().ok()),
        duration_secs: stream.duration_secs(),
    }
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    streams: Vec<RawStream>,
    format: RawFormat,
}

#[derive(Deserialize)]
struct RawFormat {
    format_name: String,
    duration: Option<String>,
    size: Option<String>,
    bit_rate: Option<String>,
}

#[derive(Deserialize)]
struct RawStream {
    #[serde(default)]
    codec_type: String,
    codec_name: Option<String>,
    profile: Option<String>,
    width: Option<u32>,
    height: Option<u32>,
    pix_fmt: Option<String>,
    sample_aspect_ratio: Option<String>,
    avg_frame_rate: Option<String>,
    r_frame_rate: Option<String>,
    duration: Option<String>,
    bit_rate: Option<String>,
    channels: Option<u32>,
    sample_rate: Option<String>,
    #[serde(default)]
    disposition: Disposition,
    #[serde(default)]
    tags: Tags,
    #[serde(default)]
    side_data_list: Vec<SideData>,
}

#[derive(Default, Deserialize)]
struct Disposition {
    #[serde(default)]
    attached_pic: u32,
}

#[derive(Default, Deserialize)]
struct Tags {
    /// Where Matroska keeps a stream's length.
    #[serde(rename = "DURATION")]
    duration: Option<String>,
    /// Where old versions keep the rotation.
    rotate: Option<String>,
}

#[derive(Deserialize)]
struct SideData {
    rotation: Option<f64>,
}

impl RawStream {
    fn duration_secs(&self) -> Option<f64> {
        seconds(self.duration.as_deref()).or_else(|| clock(self.tags.duration.as_deref()?))
    }

    fn rotation(&self) -> Option<i32> {
        let side = self.side_data_list.iter().find_map(|data| data.rotation).map(|degrees| degrees.round() as i32);
        side.or_else(|| self.tags.rotate.as_deref()?.parse().ok())
    }
}

fn seconds(text: Option<&str>) -> Option<f64> {
    text?.parse::<f64>().ok().filter(|secs| secs.is_finite() && *secs >= 0.0)
}

/// `00:00:08.320000000` in seconds.
fn clock(text: &str) -> Option<f64> {
    text.split(':').try_fold(0.0, |total, part| Some(total * 60.0 + part.trim().parse::<f64>().ok()?))
}

/// Two positive numbers.
fn ratio(text: &str, separator: char) -> Option<(u32, u32)> {
    let (first, second) = text.split_once(separator)?;
    let pair = (first.parse().ok()?, second.parse().ok()?);
    (pair.0 > 0 && pair.1 > 0).then_some(pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phone_clip_is_read() {
        let probed = parse(
            r#"{"streams": [
                {"codec_type": "video", "codec_name": "mjpeg", "width": 1, "height": 1, "disposition": {"attached_pic": 1}},
                {"codec_type": "video", "codec_name": "h264", "profile": "High", "width": 1920, "height": 1080,
                 "pix_fmt": "yuv420p", "sample_aspect_ratio": "4:3", "avg_frame_rate": "30000/1001", "r_frame_rate": "30/1",
                 "duration": "1.60", "bit_rate": "14000000", "side_data_list": [{"rotation": -90}]},
                {"codec_type": "audio", "codec_name": "aac", "channels": 2, "sample_rate": "48000",
                 "tags": {"DURATION": "00:01:01.500000000"}}],
               "format": {"format_name": "mov,mp4", "duration": "1.62", "size": "2940000", "bit_rate": "14500000"}}"#,
        )
        .unwrap();
        let video = probed.probe.video.unwrap();
        assert_eq!((video.codec.as_str(), video.width, video.rotation), ("h264", 1920, Some(-90)));
        assert!((video.fps.unwrap() - 29.97).abs() < 0.01);
        assert_eq!(probed.probe.audio.unwrap().duration_secs, Some(61.5));
        assert_eq!((probed.sample_aspect, probed.video_bitrate, probed.probe.streams), ((4, 3), Some(14_000_000), 3));
    }

    #[test]
    fn what_is_not_said_is_absent() {
        let probed = parse(
            r#"{"streams": [{"codec_type": "video", "codec_name": "vp8", "avg_frame_rate": "0/0", "sample_aspect_ratio": "0:1"}],
                "format": {"format_name": "matroska,webm", "duration": "N/A"}}"#,
        )
        .unwrap();
        assert_eq!(probed.probe.duration_secs, None);
        assert_eq!(probed.sample_aspect, (1, 1));
        assert_eq!(probed.probe.video.unwrap().fps, None);
        assert!(parse("{}").is_err());
    }
}
