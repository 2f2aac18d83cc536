//! What ffprobe finds in a file.
//!
//! Invariant: a cover picture is no video; what the prober does not say is absent, never zero, and so is what no file can be.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::encode::{Container, Fps, PictureFormat};
use crate::message::{AudioProbe, Probe, VideoProbe};
use crate::plan::{READ_ONLY_FILES, READ_PRESENTATIONS, file_argument};

/// By how much of itself a rate is another one.
const FAR: f64 = 0.1;
/// The longest length and the farthest time that are taken for true: thirty years.
const MOST_SECS: f64 = 1e9;

/// A probed file: what goes into a manifest, and what planning needs besides.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Probed {
    /// For the record.
    pub probe: Probe,
    /// The rate by which FFmpeg counts the frames of its video.
    pub rate: Option<Fps>,
    /// Frames that its container counts in the video, where it does.
    pub frames: Option<u64>,
    /// Shape of a pixel: width and height.
    pub sample_aspect: (u32, u32),
    /// Bits per second of the video stream alone, where the container tells.
    pub video_bitrate: Option<u64>,
    /// Bits per second of the audio stream alone, where the container tells.
    pub audio_bitrate: Option<u64>,
    /// Size of the file in bytes.
    pub size_bytes: Option<u64>,
    /// The first time of any stream by the file's own clock, in seconds.
    pub start_secs: Option<f64>,
    /// When each stream begins by the same clock, in the file's order.
    pub starts: Vec<Option<f64>>,
    /// Audio streams, in the file's order.
    pub audio: Vec<AudioProbe>,
    /// Codecs of the subtitle streams, in the file's order.
    pub subtitles: Vec<String>,
    /// Kind and codec of every stream, in the file's order.
    pub streams: Vec<(String, String)>,
    /// When the video ends, in seconds of the file.
    pub video_end: Option<f64>,
    /// When each audio stream ends, in seconds of the file.
    pub audio_ends: Vec<Option<f64>>,
    /// Chapters.
    pub chapters: usize,
    /// The picture's colours.
    pub colors: Colors,
    /// Whether the picture is made of fields.
    pub is_interlaced: bool,
}

impl Probed {
    /// Whether its range is high and the file itself does not say on which display it was mastered.
    #[must_use]
    pub fn is_hdr_unsaid(&self) -> bool {
        self.colors.is_hdr() && self.colors.mastering.is_none()
    }
}

/// What the numbers of a picture mean, by FFmpeg's names. Members of closed sets: what is not known is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Colors {
    /// Primaries, such as `bt2020`.
    pub primaries: Option<&'static str>,
    /// Transfer, such as `smpte2084`.
    pub transfer: Option<&'static str>,
    /// Matrix, such as `bt2020nc`.
    pub matrix: Option<&'static str>,
    /// The display on which it was mastered.
    pub mastering: Option<Mastering>,
    /// Brightest pixel and brightest frame, in candela per square metre.
    pub light: Option<(u32, u32)>,
}

impl Colors {
    /// Whether the range is high: PQ or HLG.
    #[must_use]
    pub fn is_hdr(&self) -> bool {
        self.is_pq() || self.transfer == Some("arib-std-b67")
    }

    /// Whether the numbers stand for light itself, up to 10,000 candela per square metre.
    #[must_use]
    pub fn is_pq(&self) -> bool {
        self.transfer == Some("smpte2084")
    }
}

/// The display on which a picture was mastered (SMPTE ST 2086).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Mastering {
    /// Red, green, blue and white point, as x and y.
    pub points: [(f64, f64); 4],
    /// Darkest and brightest, in candela per square metre.
    pub luminance: (f64, f64),
}

impl Mastering {
    /// Whether it is the same display: codecs count in steps of their own, the coarsest of them AV1's of 1/65,536 and of 1/256 and
    /// 1/16,384 candela per square metre.
    #[must_use]
    pub fn is_same(&self, other: &Mastering) -> bool {
        let is_near = |a: f64, b: f64, step: f64| (a - b).abs() <= step;
        let points = self.points.iter().zip(&other.points);
        points.into_iter().all(|(a, b)| is_near(a.0, b.0, 1e-4) && is_near(a.1, b.1, 1e-4))
            && is_near(self.luminance.0, other.luminance.0, 2e-4)
            && is_near(self.luminance.1, other.luminance.1, 0.01)
    }
}

impl fmt::Display for Mastering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, (x, y)) in ["red", "green", "blue", "white"].into_iter().zip(self.points) {
            write!(f, "{name} ({x:.4}, {y:.4}), ")?;
        }
        write!(f, "{:.4} to {:.0} cd/m2", self.luminance.0, self.luminance.1)
    }
}

const PRIMARIES: &[&str] =
    &["bt709", "bt470m", "bt470bg", "smpte170m", "smpte240m", "film", "bt2020", "smpte431", "smpte432"];
const TRANSFERS: &[&str] =
    &["bt709", "smpte170m", "smpte240m", "linear", "bt2020-10", "bt2020-12", "smpte2084", "arib-std-b67"];
const MATRICES: &[&str] = &["bt709", "fcc", "bt470bg", "smpte170m", "smpte240m", "bt2020nc", "bt2020c"];

/// ffprobe's arguments for a source.
#[must_use]
pub fn arguments(file: &Path) -> Vec<OsString> {
    let mut arguments = questions();
    arguments.extend(READ_ONLY_FILES.map(OsString::from));
    arguments.extend(["-i".into(), file_argument(file)]);
    arguments
}

/// ffprobe's arguments for an output of ours. Pictures are read as what they are: their names look like patterns.
#[must_use]
pub fn output_arguments(file: &Path, container: Container) -> Vec<OsString> {
    let Some(format) = PictureFormat::of(container) else {
        if !container.is_streamed() {
            return arguments(file);
        }
        let mut arguments = questions();
        arguments.extend(READ_PRESENTATIONS.map(OsString::from));
        arguments.extend(["-i".into(), file_argument(file)]);
        return arguments;
    };
    let demuxer = format.demuxer();
    let mut arguments = questions();
    arguments.extend(["-f", demuxer, "-i"].map(OsString::from));
    arguments.push(file_argument(file));
    arguments
}

/// ffprobe's arguments for a source on a web server, by its whole address. `silence_us`: after so many microseconds without a
/// byte it gives up.
#[must_use]
pub fn web_arguments(url: &str, silence_us: u64) -> Vec<OsString> {
    let mut arguments = questions();
    arguments.extend(of_the_web(url, silence_us));
    arguments
}

/// What is read of the web: media alone, which lead nowhere else.
fn of_the_web(url: &str, silence_us: u64) -> Vec<OsString> {
    let [_, _, formats, kinds] = READ_ONLY_FILES;
    let silence = silence_us.to_string();
    ["-protocol_whitelist", "http,https,httpproxy,tcp,tls", formats, kinds, "-rw_timeout", &silence, "-i", url]
        .map(OsString::from)
        .into()
}

fn questions() -> Vec<OsString> {
    ["-hide_banner", "-loglevel", "level+error", "-of", "json", "-show_format", "-show_streams", "-show_chapters"]
        .map(Into::into)
        .into()
}

/// ffprobe's arguments for the first frame of a source, where [`Probed::is_hdr_unsaid`]: H.265 may carry its mastering
/// display in the stream alone.
#[must_use]
pub fn frame_arguments(file: &Path) -> Vec<OsString> {
    let mut arguments = first_frame();
    arguments.extend(READ_ONLY_FILES.map(OsString::from));
    arguments.extend(["-i".into(), file_argument(file)]);
    arguments
}

/// The same for a source on a web server.
#[must_use]
pub fn web_frame_arguments(url: &str, silence_us: u64) -> Vec<OsString> {
    let mut arguments = first_frame();
    arguments.extend(of_the_web(url, silence_us));
    arguments
}

fn first_frame() -> Vec<OsString> {
    let questions = ["-hide_banner", "-loglevel", "level+error", "-of", "json", "-show_frames"];
    let frame = ["-select_streams", "V:0", "-read_intervals", "%+#1"];
    questions.into_iter().chain(frame).map(Into::into).collect()
}

/// Adds what the first frame says to what the file says.
///
/// # Errors
/// When it is not the JSON that ffprobe writes.
pub fn add_frame(probed: &mut Probed, json: &str) -> Result<(), serde_json::Error> {
    let raw: RawFrames = serde_json::from_str(json)?;
    let side = || raw.frames.iter().flat_map(|frame| &frame.side_data_list);
    let colors = &mut probed.colors;
    colors.mastering = colors.mastering.or_else(|| side().find_map(SideData::mastering));
    colors.light = colors.light.or_else(|| side().find_map(SideData::light));
    Ok(())
}

/// Reads ffprobe's answer.
///
/// # Errors
/// When it is not the JSON that ffprobe writes.
pub fn parse(json: &str) -> Result<Probed, serde_json::Error> {
    let raw: Raw = serde_json::from_str(json)?;
    let of_kind = |kind: &'static str| raw.streams.iter().filter(move |stream| stream.codec_type == kind);
    let video = of_kind("video").find(|stream| stream.disposition.attached_pic == 0);
    let audio: Vec<AudioProbe> = of_kind("audio").map(audio_probe).collect();
    Ok(Probed {
        probe: Probe {
            format: raw.format.format_name.clone(),
            duration_secs: seconds(raw.format.duration.as_deref()),
            bitrate: raw.format.bit_rate.as_deref().and_then(|text| text.parse().ok()),
            video: video.map(video_probe),
            audio: audio.first().cloned(),
            streams: u32::try_from(raw.streams.len()).unwrap_or(u32::MAX),
        },
        rate: video.and_then(frame_rate),
        frames: video.and_then(|video| video.nb_frames.as_deref()?.parse().ok()).filter(|frames| *frames > 0),
        sample_aspect: video.and_then(|video| ratio(video.sample_aspect_ratio.as_deref()?, ':')).unwrap_or((1, 1)),
        video_bitrate: video.and_then(|video| video.bit_rate.as_deref()?.parse().ok()),
        audio_bitrate: of_kind("audio").next().and_then(|audio| audio.bit_rate.as_deref()?.parse().ok()),
        size_bytes: raw.format.size.as_deref().and_then(|text| text.parse().ok()),
        start_secs: time(raw.format.start_time.as_deref()),
        starts: raw.streams.iter().map(|stream| time(stream.start_time.as_deref())).collect(),
        audio,
        streams: raw
            .streams
            .iter()
            .map(|stream| (stream.codec_type.clone(), stream.codec_name.clone().unwrap_or_default()))
            .collect(),
        video_end: video.and_then(RawStream::end),
        audio_ends: of_kind("audio").map(RawStream::end).collect(),
        subtitles: of_kind("subtitle").map(|stream| stream.codec_name.clone().unwrap_or_default()).collect(),
        chapters: raw.chapters.len(),
        colors: video.map(colors).unwrap_or_default(),
        is_interlaced: video
            .is_some_and(|video| matches!(video.field_order.as_deref(), Some("tt" | "bb" | "tb" | "bt"))),
    })
}

fn colors(stream: &RawStream) -> Colors {
    let known = |text: &Option<String>, names: &[&'static str]| {
        names.iter().copied().find(|name| text.as_deref() == Some(*name))
    };
    Colors {
        primaries: known(&stream.color_primaries, PRIMARIES),
        transfer: known(&stream.color_transfer, TRANSFERS),
        matrix: known(&stream.color_space, MATRICES),
        mastering: stream.side_data_list.iter().find_map(SideData::mastering),
        light: stream.side_data_list.iter().find_map(SideData::light),
    }
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

/// The rate that fits all times of a stream, unless it is far from the average, as where it counts fields.
fn frame_rate(stream: &RawStream) -> Option<Fps> {
    let rate = |text: &Option<String>| {
        let (num, den) = ratio(text.as_deref()?, '/')?;
        Some(Fps { num, den }).filter(|fps| fps.as_f64() <= Fps::MAX)
    };
    let (fits, average) = (rate(&stream.r_frame_rate), rate(&stream.avg_frame_rate));
    let is_near = |fits: &Fps| average.is_none_or(|fps| (fps.as_f64() / fits.as_f64() - 1.0).abs() <= FAR);
    fits.filter(is_near).or(average)
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
    #[serde(default)]
    chapters: Vec<serde::de::IgnoredAny>,
    format: RawFormat,
}

#[derive(Deserialize)]
struct RawFrames {
    #[serde(default)]
    frames: Vec<RawFrame>,
}

#[derive(Deserialize)]
struct RawFrame {
    #[serde(default)]
    side_data_list: Vec<SideData>,
}

#[derive(Deserialize)]
struct RawFormat {
    format_name: String,
    start_time: Option<String>,
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
    field_order: Option<String>,
    color_primaries: Option<String>,
    color_transfer: Option<String>,
    color_space: Option<String>,
    sample_aspect_ratio: Option<String>,
    avg_frame_rate: Option<String>,
    r_frame_rate: Option<String>,
    nb_frames: Option<String>,
    start_time: Option<String>,
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

#[derive(Default, Deserialize)]
struct SideData {
    rotation: Option<f64>,
    max_content: Option<u32>,
    max_average: Option<u32>,
    red_x: Option<String>,
    red_y: Option<String>,
    green_x: Option<String>,
    green_y: Option<String>,
    blue_x: Option<String>,
    blue_y: Option<String>,
    white_point_x: Option<String>,
    white_point_y: Option<String>,
    min_luminance: Option<String>,
    max_luminance: Option<String>,
}

impl SideData {
    fn light(&self) -> Option<(u32, u32)> {
        Some((self.max_content?, self.max_average?))
    }

    fn mastering(&self) -> Option<Mastering> {
        let point = |x: &Option<String>, y: &Option<String>| Some((fraction(x)?, fraction(y)?));
        Some(Mastering {
            points: [
                point(&self.red_x, &self.red_y)?,
                point(&self.green_x, &self.green_y)?,
                point(&self.blue_x, &self.blue_y)?,
                point(&self.white_point_x, &self.white_point_y)?,
            ],
            luminance: (fraction(&self.min_luminance)?, fraction(&self.max_luminance)?),
        })
    }
}

/// `34000/50000` as a number.
fn fraction(text: &Option<String>) -> Option<f64> {
    let (num, den) = text.as_deref()?.split_once('/')?;
    let value = num.parse::<f64>().ok()? / den.parse::<f64>().ok()?;
    (value.is_finite() && value >= 0.0).then_some(value)
}

impl RawStream {
    fn duration_secs(&self) -> Option<f64> {
        seconds(self.duration.as_deref()).or_else(|| clock(self.tags.duration.as_deref()?))
    }

    /// Matroska's own length counts from the file's beginning, the others' from the stream's.
    fn end(&self) -> Option<f64> {
        let start = time(self.start_time.as_deref()).unwrap_or(0.0);
        let own = seconds(self.duration.as_deref()).map(|secs| start + secs);
        own.or_else(|| clock(self.tags.duration.as_deref()?))
    }

    fn rotation(&self) -> Option<i32> {
        let side = self.side_data_list.iter().find_map(|data| data.rotation).map(|degrees| degrees.round() as i32);
        side.or_else(|| self.tags.rotate.as_deref()?.parse().ok())
    }
}

/// A time of a file's own clock. A number that is no time, as `inf`, is not said.
fn time(text: Option<&str>) -> Option<f64> {
    text?.parse::<f64>().ok().filter(|secs| (-MOST_SECS..=MOST_SECS).contains(secs))
}

fn seconds(text: Option<&str>) -> Option<f64> {
    time(text).filter(|secs| *secs >= 0.0)
}

/// `00:00:08.320000000` in seconds.
fn clock(text: &str) -> Option<f64> {
    let secs = text.split(':').try_fold(0.0, |total, part| Some(total * 60.0 + part.trim().parse::<f64>().ok()?));
    secs.filter(|secs| (0.0..=MOST_SECS).contains(secs))
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
                 "duration": "1.60", "nb_frames": "48", "bit_rate": "14000000", "side_data_list": [{"rotation": -90}]},
                {"codec_type": "audio", "codec_name": "aac", "channels": 2, "sample_rate": "48000",
                 "tags": {"DURATION": "00:01:01.500000000"}}],
               "format": {"format_name": "mov,mp4", "duration": "1.62", "size": "2940000", "bit_rate": "14500000"}}"#,
        )
        .unwrap();
        let video = probed.probe.video.unwrap();
        assert_eq!((video.codec.as_str(), video.width, video.rotation), ("h264", 1920, Some(-90)));
        assert!((video.fps.unwrap() - 29.97).abs() < 0.01);
        assert_eq!((probed.rate, probed.frames), (Some(Fps::whole(30)), Some(48)), "the rate fits every time");
        assert_eq!(probed.probe.audio.unwrap().duration_secs, Some(61.5));
        assert_eq!((probed.sample_aspect, probed.video_bitrate, probed.probe.streams), ((4, 3), Some(14_000_000), 3));
    }

    #[test]
    fn the_first_frame_may_say_what_the_file_does_not() {
        let mut probed = parse(
            r#"{"streams": [{"codec_type": "video", "codec_name": "hevc", "color_transfer": "smpte2084", "color_primaries": "x"}],
                "format": {"format_name": "mov,mp4"}}"#,
        )
        .unwrap();
        assert!(probed.is_hdr_unsaid() && probed.colors.primaries.is_none());
        add_frame(
            &mut probed,
            r#"{"frames": [{"side_data_list": [
                {"side_data_type": "Mastering display metadata", "red_x": "34000/50000", "red_y": "16000/50000",
                 "green_x": "13250/50000", "green_y": "34500/50000", "blue_x": "7500/50000", "blue_y": "3000/50000",
                 "white_point_x": "15635/50000", "white_point_y": "16450/50000", "min_luminance": "1/10000",
                 "max_luminance": "10000000/10000"},
                {"side_data_type": "Content light level metadata", "max_content": 1000, "max_average": 400}]}]}"#,
        )
        .unwrap();
        let mastering = probed.colors.mastering.unwrap();
        assert_eq!((mastering.points[0], mastering.luminance.1), ((0.68, 0.32), 1000.0));
        assert_eq!((probed.colors.light, probed.is_hdr_unsaid()), (Some((1000, 400)), false));
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
