//! A typed encode: what a job resolves to, with nothing left that a user wrote as free text except paths.
//!
//! Invariant: every value that can become an argument of a tool is an enum, a number or a member of an allow-list.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::job::HardwarePolicy;
use crate::live::{Live, LiveAddress};
use crate::location::redact;

pub use ladder::{Ladder, Rung};
pub use options::{Channels, Crop, Deinterlace, Fit, Hdr, Keep, Loudness, Profile, Streams, SubtitleMode, Treatment};
pub use pictures::{Grid, Pace, PictureFormat, Pictures};
pub use quality::{Aim, Metric, Metrics, QualityTarget, QualityWish};

/// Video codecs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VideoCodec {
    /// H.264, AVC.
    H264,
    /// H.265, HEVC.
    H265,
    /// VP8.
    Vp8,
    /// VP9.
    Vp9,
    /// AV1.
    Av1,
}

impl VideoCodec {
    /// Every codec.
    pub const ALL: [VideoCodec; 5] =
        [VideoCodec::H264, VideoCodec::H265, VideoCodec::Vp8, VideoCodec::Vp9, VideoCodec::Av1];

    /// The name in scenarios.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            VideoCodec::H264 => "h264",
            VideoCodec::H265 => "h265",
            VideoCodec::Vp8 => "vp8",
            VideoCodec::Vp9 => "vp9",
            VideoCodec::Av1 => "av1",
        }
    }

    /// The name FFmpeg's prober gives it.
    #[must_use]
    pub fn probe_name(self) -> &'static str {
        match self {
            VideoCodec::H265 => "hevc",
            VideoCodec::H264 | VideoCodec::Vp8 | VideoCodec::Vp9 | VideoCodec::Av1 => self.as_str(),
        }
    }

    /// Software encoders for it, the preferred one first.
    #[must_use]
    pub fn encoders(self) -> &'static [Encoder] {
        match self {
            VideoCodec::H264 => &[Encoder::Libx264],
            VideoCodec::H265 => &[Encoder::Libx265],
            VideoCodec::Vp8 => &[Encoder::Libvpx],
            VideoCodec::Vp9 => &[Encoder::LibvpxVp9],
            VideoCodec::Av1 => &[Encoder::Libsvtav1, Encoder::LibaomAv1],
        }
    }

    /// Hardware encoders for it, the preferred one first.
    #[must_use]
    pub fn hardware_encoders(self) -> &'static [Encoder] {
        match self {
            VideoCodec::H264 => &[Encoder::H264Nvenc, Encoder::H264Qsv, Encoder::H264Vaapi, Encoder::H264Videotoolbox],
            VideoCodec::H265 => &[Encoder::HevcNvenc, Encoder::HevcQsv, Encoder::HevcVaapi, Encoder::HevcVideotoolbox],
            VideoCodec::Vp8 | VideoCodec::Vp9 => &[],
            VideoCodec::Av1 => &[Encoder::Av1Nvenc, Encoder::Av1Qsv, Encoder::Av1Vaapi],
        }
    }
}

macro_rules! encoders {
    ($($variant:ident = $name:literal, $codec:ident, $hardware:literal;)*) => {
        /// Video encoders, by FFmpeg's names.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "each variant is the encoder's own name")]
        pub enum Encoder { $($variant),* }

        impl Encoder {
            /// Every encoder.
            pub const ALL: &'static [Encoder] = &[$(Encoder::$variant),*];

            /// FFmpeg's name.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Encoder::$variant => $name),* }
            }

            /// What it makes.
            #[must_use]
            pub fn codec(self) -> VideoCodec {
                match self { $(Encoder::$variant => VideoCodec::$codec),* }
            }

            /// Whether it needs a device.
            #[must_use]
            pub fn is_hardware(self) -> bool {
                match self { $(Encoder::$variant => $hardware),* }
            }
        }
    };
}

encoders! {
    Libx264 = "libx264", H264, false;
    Libx265 = "libx265", H265, false;
    Libvpx = "libvpx", Vp8, false;
    LibvpxVp9 = "libvpx-vp9", Vp9, false;
    Libsvtav1 = "libsvtav1", Av1, false;
    LibaomAv1 = "libaom-av1", Av1, false;
    H264Nvenc = "h264_nvenc", H264, true;
    HevcNvenc = "hevc_nvenc", H265, true;
    Av1Nvenc = "av1_nvenc", Av1, true;
    H264Qsv = "h264_qsv", H264, true;
    HevcQsv = "hevc_qsv", H265, true;
    Av1Qsv = "av1_qsv", Av1, true;
    H264Vaapi = "h264_vaapi", H264, true;
    HevcVaapi = "hevc_vaapi", H265, true;
    Av1Vaapi = "av1_vaapi", Av1, true;
    H264Videotoolbox = "h264_videotoolbox", H264, true;
    HevcVideotoolbox = "hevc_videotoolbox", H265, true;
}

impl fmt::Display for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Encoder {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Encoder, ValueError> {
        Encoder::ALL
            .iter()
            .copied()
            .find(|encoder| encoder.as_str() == text)
            .ok_or_else(|| ValueError::new(text, "a known encoder such as libx264"))
    }
}

/// A text that is not of the expected form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not {expected}")]
pub struct ValueError {
    given: String,
    expected: String,
}

impl ValueError {
    pub(crate) fn new(given: &str, expected: impl Into<String>) -> ValueError {
        ValueError { given: crate::id::excerpt(given), expected: expected.into() }
    }
}

macro_rules! text_form {
    ($type:ty, $schema:expr) => {
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = serde_json::Value::deserialize(deserializer)?;
                let text = match value {
                    serde_json::Value::String(text) => text,
                    serde_json::Value::Number(number) => number.to_string(),
                    other => {
                        return Err(serde::de::Error::custom(ValueError::new(&other.to_string(), "text or a number")));
                    }
                };
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let schema: serde_json::Value = $schema;
                schemars::Schema::try_from(schema).expect("a literal object is a schema")
            }
        }
    };
}

text_form!(Encoder, serde_json::json!({"type": "string"}));

/// A codec, or one encoder by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodecChoice {
    /// Any encoder of this codec.
    Codec(VideoCodec),
    /// This encoder.
    Encoder(Encoder),
    /// The source's packets as they are.
    Copy,
    /// No video.
    None,
    /// Pictures: one, or a set. Only scenarios say so.
    Picture,
}

impl CodecChoice {
    /// The codec it encodes to, if it encodes.
    #[must_use]
    pub fn codec(self) -> Option<VideoCodec> {
        match self {
            CodecChoice::Codec(codec) => Some(codec),
            CodecChoice::Encoder(encoder) => Some(encoder.codec()),
            CodecChoice::Copy | CodecChoice::None | CodecChoice::Picture => None,
        }
    }
}

impl fmt::Display for CodecChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CodecChoice::Codec(codec) => f.write_str(codec.as_str()),
            CodecChoice::Encoder(encoder) => f.write_str(encoder.as_str()),
            CodecChoice::Copy => f.write_str("copy"),
            CodecChoice::None => f.write_str("none"),
            CodecChoice::Picture => f.write_str("picture"),
        }
    }
}

impl FromStr for CodecChoice {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<CodecChoice, ValueError> {
        let lower = text.to_ascii_lowercase();
        match lower.as_str() {
            "copy" => return Ok(CodecChoice::Copy),
            "none" => return Ok(CodecChoice::None),
            _ => {}
        }
        let codec = match lower.as_str() {
            "hevc" => Some(VideoCodec::H265),
            "avc" => Some(VideoCodec::H264),
            other => VideoCodec::ALL.into_iter().find(|codec| codec.as_str() == other),
        };
        match (codec, lower.parse::<Encoder>()) {
            (Some(codec), _) => Ok(CodecChoice::Codec(codec)),
            (None, Ok(encoder)) => Ok(CodecChoice::Encoder(encoder)),
            (None, Err(_)) => {
                let known: Vec<&str> = VideoCodec::ALL
                    .iter()
                    .map(|codec| codec.as_str())
                    .chain(["copy", "none"])
                    .chain(Encoder::ALL.iter().map(|encoder| encoder.as_str()))
                    .collect();
                Err(ValueError::new(text, format!("a codec or encoder: one of {} is expected", known.join(", "))))
            }
        }
    }
}

text_form!(CodecChoice, serde_json::json!({"type": "string", "examples": ["h264", "libx265", "copy", "none"]}));

/// A bit rate in bits per second, or a size in bits. Written as a number or as `6M`, `2500k`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bitrate(pub u64);

impl Bitrate {
    /// The largest that is taken: 1 Gbit/s.
    pub const MAX: u64 = 1_000_000_000;
}

impl fmt::Display for Bitrate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for Bitrate {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Bitrate, ValueError> {
        let error =
            || ValueError::new(text, "a bit rate: a positive number up to 1000M is expected, such as 6M or 2500k");
        let trimmed = text.trim();
        let (digits, unit) = match trimmed.chars().last() {
            Some('k' | 'K') => (&trimmed[..trimmed.len() - 1], 1e3),
            Some('m' | 'M') => (&trimmed[..trimmed.len() - 1], 1e6),
            Some('g' | 'G') => (&trimmed[..trimmed.len() - 1], 1e9),
            _ => (trimmed, 1.0),
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(error());
        }
        let bits = digits.parse::<f64>().map_err(|_| error())? * unit;
        if (1.0..=Bitrate::MAX as f64).contains(&bits) { Ok(Bitrate(bits.round() as u64)) } else { Err(error()) }
    }
}

text_form!(Bitrate, serde_json::json!({"type": ["string", "integer"], "examples": ["6M", "2500k", 2500000]}));

/// Frames per second as a fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fps {
    /// Numerator.
    pub num: u32,
    /// Denominator, never 0.
    pub den: u32,
}

impl Fps {
    /// The largest that is taken.
    pub const MAX: f64 = 1000.0;

    /// Whole frames per second.
    #[must_use]
    pub fn whole(num: u32) -> Fps {
        Fps { num, den: 1 }
    }

    /// As a number.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        f64::from(self.num) / f64::from(self.den)
    }
}

impl fmt::Display for Fps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.den == 1 { write!(f, "{}", self.num) } else { write!(f, "{}/{}", self.num, self.den) }
    }
}

impl FromStr for Fps {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Fps, ValueError> {
        let error =
            || ValueError::new(text, "a frame rate: a number over 0 up to 1000, or a fraction such as 30000/1001");
        let fps = match text.split_once('/') {
            Some((num, den)) => Fps { num: num.parse().map_err(|_| error())?, den: den.parse().map_err(|_| error())? },
            None => {
                let value: f64 = text.parse().map_err(|_| error())?;
                let near_ntsc = |whole: f64| (value - whole * 1000.0 / 1001.0).abs() < 0.005;
                if !value.is_finite() || value <= 0.0 || value > Fps::MAX {
                    return Err(error());
                }
                match [24.0, 30.0, 60.0, 120.0].into_iter().find(|&whole| near_ntsc(whole)) {
                    Some(whole) => Fps { num: whole as u32 * 1000, den: 1001 },
                    None if value.fract() == 0.0 => Fps::whole(value as u32),
                    None => Fps { num: (value * 1000.0).round() as u32, den: 1000 },
                }
            }
        };
        if fps.den == 0 || fps.num == 0 || fps.as_f64() > Fps::MAX { Err(error()) } else { Ok(fps) }
    }
}

text_form!(Fps, serde_json::json!({"type": ["string", "number"], "examples": [30, "30000/1001"]}));

/// A frame size in pixels. Even, 16 to 16384 a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolution {
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
}

impl Resolution {
    /// The sizes that scenarios name, with their 16:9 frames.
    pub const NAMED: [(&'static str, u32, u32); 10] = [
        ("240p", 426, 240),
        ("360p", 640, 360),
        ("480p", 854, 480),
        ("540p", 960, 540),
        ("720p", 1280, 720),
        ("1080p", 1920, 1080),
        ("1440p", 2560, 1440),
        ("2160p", 3840, 2160),
        ("4k", 3840, 2160),
        ("8k", 7680, 4320),
    ];

    /// The frame of a named size; the name in any case.
    #[must_use]
    pub fn named(name: &str) -> Option<Resolution> {
        let lower = name.to_ascii_lowercase();
        Resolution::NAMED
            .into_iter()
            .find(|(known, _, _)| *known == lower)
            .map(|(_, width, height)| Resolution { width, height })
    }

    /// A size, if encoders can make it.
    ///
    /// # Errors
    /// When a side is odd or outside 16 to 16384.
    pub fn new(width: u32, height: u32) -> Result<Resolution, ValueError> {
        let fits = |side: u32| (16..=16384).contains(&side) && side.is_multiple_of(2);
        if fits(width) && fits(height) {
            Ok(Resolution { width, height })
        } else {
            Err(ValueError::new(
                &format!("{width}x{height}"),
                "a frame size: even numbers from 16 to 16384 are expected",
            ))
        }
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

impl FromStr for Resolution {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Resolution, ValueError> {
        if let Some(named) = Resolution::named(text) {
            return Ok(named);
        }
        let error = || ValueError::new(text, "a frame size such as 1920x1080 or 1080p");
        let (width, height) = text.split_once(['x', 'X']).ok_or_else(error)?;
        Resolution::new(width.parse().map_err(|_| error())?, height.parse().map_err(|_| error())?)
    }
}

text_form!(Resolution, serde_json::json!({"type": "string", "examples": ["1920x1080", "1080p"]}));

macro_rules! named_values {
    ($(#[$doc:meta])* $type:ident, $what:literal, { $($(#[$mark:meta])* $variant:ident = $name:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[expect(missing_docs, reason = "each variant is the value's own name")]
        pub enum $type { $($(#[$mark])* $variant),* }

        impl $type {
            /// Every value.
            pub const ALL: &'static [$type] = &[$($type::$variant),*];

            /// The value as it is written.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $($type::$variant => $name),* }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = ValueError;

            fn from_str(text: &str) -> Result<$type, ValueError> {
                $type::ALL.iter().copied().find(|known| known.as_str() == text).ok_or_else(|| {
                    let known: Vec<&str> = $type::ALL.iter().map(|known| known.as_str()).collect();
                    ValueError::new(text, format!("{}: one of {} is expected", $what, known.join(", ")))
                })
            }
        }

        text_form!($type, serde_json::json!({"type": "string", "enum": [$($name),*]}));
    };
}

named_values!(
    /// Pixel formats that outputs may have.
    PixelFormat, "a pixel format", {
        Yuv420p = "yuv420p",
        Yuv422p = "yuv422p",
        Yuv444p = "yuv444p",
        Yuv420p10le = "yuv420p10le",
        Yuv422p10le = "yuv422p10le",
        Yuv444p10le = "yuv444p10le",
        P010le = "p010le",
    }
);

named_values!(
    /// What to do with the audio.
    AudioChoice, "an audio codec", {
        Aac = "aac",
        Opus = "opus",
        Mp3 = "mp3",
        Copy = "copy",
        None = "none",
    }
);

named_values!(
    /// Where an encode goes.
    OutputMode, "an output mode", {
        File = "file",
        Rtmp = "rtmp",
        Stream = "stream",
    }
);

named_values!(
    /// Container formats, by the extension of their files.
    Container, "a container", {
        Mp4 = "mp4",
        Mov = "mov",
        Mkv = "mkv",
        Webm = "webm",
        Ts = "ts",
        M4a = "m4a",
        Mp3 = "mp3",
        Jpg = "jpg",
        Png = "png",
        Webp = "webp",
        Vtt = "vtt",
        Hls = "hls",
        Dash = "dash",
    }
);

named_values!(
    /// What the segments of a presentation are.
    SegmentType, "a kind of segments", {
        Ts = "ts",
        Fmp4 = "fmp4",
    }
);

/// How a presentation is cut.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Segments {
    /// What they are.
    pub kind: SegmentType,
    /// How long each is, but the last, in seconds. It begins with a key frame.
    pub secs: f64,
}

impl Segments {
    /// The length of segments where the job does not say, in seconds.
    pub const SECS: f64 = 6.0;
}

impl Container {
    /// FFmpeg's muxer.
    #[must_use]
    pub fn muxer(self) -> &'static str {
        match self {
            Container::Mp4 => "mp4",
            Container::Mov => "mov",
            Container::Mkv => "matroska",
            Container::Webm => "webm",
            Container::Ts => "mpegts",
            Container::M4a => "ipod",
            Container::Mp3 => "mp3",
            Container::Jpg | Container::Png | Container::Webp => "image2",
            Container::Vtt => "webvtt",
            Container::Hls => "hls",
            Container::Dash => "dash",
        }
    }

    /// How the name of its file ends.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Container::Hls => "m3u8",
            Container::Dash => "mpd",
            Container::Mp4
            | Container::Mov
            | Container::Mkv
            | Container::Webm
            | Container::Ts
            | Container::M4a
            | Container::Mp3
            | Container::Jpg
            | Container::Png
            | Container::Webp
            | Container::Vtt => self.as_str(),
        }
    }

    /// Whether it is a presentation of many files for streaming.
    #[must_use]
    pub fn is_streamed(self) -> bool {
        matches!(self, Container::Hls | Container::Dash)
    }

    /// The container by a path's extension.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Container> {
        let name = path.rsplit('/').next()?;
        let (_, extension) = name.rsplit_once('.')?;
        let extension = extension.to_ascii_lowercase();
        match extension.as_str() {
            "m4v" => Some(Container::Mp4),
            "jpeg" => Some(Container::Jpg),
            "m3u8" => Some(Container::Hls),
            "mpd" => Some(Container::Dash),
            "hls" | "dash" => None,
            other => other.parse().ok(),
        }
    }
}

mod ladder;
mod options;
mod pictures;
mod quality;

/// How the encoder spends bits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum RateControl {
    /// Constant quality.
    Crf {
        /// 0 is best.
        crf: u8,
        /// Peak rate, for a capped CRF.
        maxrate: Option<Bitrate>,
        /// Buffer size.
        bufsize: Option<Bitrate>,
    },
    /// Average bit rate.
    Bitrate {
        /// Bits per second.
        bitrate: Bitrate,
        /// Peak rate.
        maxrate: Option<Bitrate>,
        /// Buffer size.
        bufsize: Option<Bitrate>,
    },
}

/// The video half of an encode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VideoEncode {
    /// The codec.
    pub codec: VideoCodec,
    /// The encoder that was asked for by name; absent: the worker's first for the codec.
    pub encoder: Option<Encoder>,
    /// Frame size. Absent: the source's.
    pub size: Option<Resolution>,
    /// Frame rate. Absent: the source's.
    pub fps: Option<Fps>,
    /// Pixel format.
    pub pixel_format: PixelFormat,
    /// Rate control.
    pub rate: RateControl,
    /// Speed preset, from the encoder's allow-list.
    pub preset: Option<String>,
    /// Tuning, from the encoder's allow-list.
    pub tune: Option<String>,
    /// Frames between key frames; absent: two seconds.
    pub gop: Option<u32>,
    /// What is done with the video. Everything else here holds for an encode, the size for a picture too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub treatment: Treatment,
    /// Whether the encoder goes over the source twice.
    #[serde(default, skip_serializing_if = "is_default")]
    pub two_pass: bool,
    /// The profile that a decoder needs at most.
    #[serde(default, skip_serializing_if = "is_default")]
    pub profile: Option<Profile>,
    /// How the source's shape becomes the frame's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub fit: Fit,
    /// The part of the upright source that is taken.
    #[serde(default, skip_serializing_if = "is_default")]
    pub crop: Option<Crop>,
    /// Whether fields become frames.
    #[serde(default, skip_serializing_if = "is_default")]
    pub deinterlace: Deinterlace,
    /// What is done with a high dynamic range.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hdr: Hdr,
    /// Whether a device encodes, where no encoder is named. Absent: none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hw: Option<HardwarePolicy>,
}

impl VideoEncode {
    /// The encoders that may make it, the preferred one first.
    #[must_use]
    pub fn candidates(&self) -> Vec<Encoder> {
        if let Some(encoder) = self.encoder {
            return vec![encoder];
        }
        let (hardware, software) = (self.codec.hardware_encoders(), self.codec.encoders());
        match self.hw {
            Some(HardwarePolicy::Require) => hardware.to_vec(),
            Some(HardwarePolicy::Prefer) => [hardware, software].concat(),
            Some(HardwarePolicy::Forbid) | None => software.to_vec(),
        }
    }
}

/// The audio half of an encode.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AudioEncode {
    /// What to do.
    pub codec: AudioChoice,
    /// Bits per second.
    pub bitrate: Bitrate,
    /// Channels; absent: the source's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub channels: Option<Channels>,
    /// Samples per second; absent: the source's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sample_rate: Option<u32>,
    /// The loudness it is brought to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub loudness: Option<Loudness>,
    /// Which of the source's audio streams.
    #[serde(default, skip_serializing_if = "is_default")]
    pub streams: Streams,
}

/// Where the pictures come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Source {
    /// A file under a media root, by its absolute path.
    File {
        /// The path, not yet checked against the worker's roots.
        path: String,
    },
    /// Something that the worker fetches first.
    Remote {
        /// Its address, a [`crate::location::Location`]. It may hold a signature.
        url: String,
    },
    /// A live stream that the tool reads itself.
    Live {
        /// Its address, a [`crate::live::LiveAddress`], whole. It may hold a key.
        url: String,
    },
    /// A generated test picture and tone.
    Generated {
        /// Its length in seconds.
        duration_secs: f64,
    },
}

/// A whole encode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Encode {
    /// Where the pictures come from.
    pub source: Source,
    /// The destination's absolute path, or the address of an object; absent: the worker chooses a name under its first
    /// media root.
    pub output: Option<String>,
    /// The container.
    pub container: Container,
    /// Video.
    pub video: VideoEncode,
    /// Audio; used where the source has any.
    pub audio: AudioEncode,
    /// Seconds of output at most.
    pub duration_secs: Option<f64>,
    /// Seconds of the source before the first that is taken. For a picture: its time.
    #[serde(default, skip_serializing_if = "is_default")]
    pub start_secs: Option<f64>,
    /// What is done with subtitles.
    #[serde(default, skip_serializing_if = "is_default")]
    pub subtitles: SubtitleMode,
    /// Which of the source's subtitle streams.
    #[serde(default, skip_serializing_if = "is_default")]
    pub subtitle_streams: Streams,
    /// Whether titles and tags of the source are kept.
    #[serde(default, skip_serializing_if = "is_default")]
    pub metadata: Keep,
    /// Whether chapters of the source are kept.
    #[serde(default, skip_serializing_if = "is_default")]
    pub chapters: Keep,
    /// What is measured of the finished picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<QualityWish>,
    /// How it is cut into segments, where its container is one for streaming.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segments: Option<Segments>,
    /// What pictures there are, where its container is a track of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pictures: Option<Pictures>,
    /// Renditions instead of one output. Each gets a size and a rate of its own: of the rate here it only counts whether it is
    /// an average or a constant quality. `{name}` and `{height}` in the output's address become each rung's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ladder: Option<Ladder>,
    /// More outputs of the same source, in the order of the job's `outputs`. They have none themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Encode>,
    /// Where it goes live, and how it goes on; absent: it is a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Live>,
}

impl Encode {
    /// The feature of a worker that makes presentations for streaming.
    pub const SEGMENTS_FEATURE: &'static str = "segments";
    /// The feature of a worker that makes sets of pictures, and pictures in WebP.
    pub const PICTURES_FEATURE: &'static str = "pictures";
    /// The feature of a worker that makes more than one output of a job. One without it would make the first alone.
    pub const OUTPUTS_FEATURE: &'static str = "outputs";

    /// The feature of a worker that knows every field. One without it would leave out what it does not know.
    pub const FEATURE: &'static str = "encodes-2";
    /// The feature of a worker that chooses a device by itself. One without it would encode in software.
    pub const CHOOSES_DEVICE: &'static str = "chooses-device";

    /// Features beyond its video encoder that a worker must have for it, by the names in
    /// [`crate::message::Ability::features`].
    #[must_use]
    pub fn needs(&self) -> Vec<&'static str> {
        let mut needs = Vec::new();
        let VideoEncode { treatment, two_pass, profile, fit, crop, deinterlace, hdr, .. } = &self.video;
        let AudioEncode { channels, sample_rate, loudness, streams, .. } = &self.audio;
        let is_plain = is_default(treatment)
            && is_default(two_pass)
            && is_default(profile)
            && is_default(fit)
            && is_default(crop)
            && is_default(deinterlace)
            && is_default(hdr)
            && is_default(channels)
            && is_default(sample_rate)
            && is_default(loudness)
            && is_default(streams)
            && is_default(&self.start_secs)
            && is_default(&self.subtitles)
            && is_default(&self.subtitle_streams)
            && is_default(&self.metadata)
            && is_default(&self.chapters)
            && matches!(
                self.container,
                Container::Mp4 | Container::Mov | Container::Mkv | Container::Webm | Container::Ts
            );
        if !is_plain {
            needs.push(Encode::FEATURE);
        }
        if self.video.hw == Some(HardwarePolicy::Require) {
            needs.push(Encode::CHOOSES_DEVICE);
        }
        if *deinterlace == Deinterlace::On {
            needs.push("bwdif");
        }
        if *hdr == Hdr::Tonemap {
            needs.extend(["zscale", "tonemap"]);
        }
        if loudness.is_some() {
            needs.push("loudnorm");
        }
        if self.subtitles == SubtitleMode::Burn {
            needs.push("subtitles");
        }
        needs.extend(self.quality.iter().flat_map(|quality| &quality.metrics).map(|metric| metric.filter()));
        if self.segments.is_some() {
            needs.push(Encode::SEGMENTS_FEATURE);
        }
        if self.pictures.is_some() || self.container == Container::Webp {
            needs.push(Encode::PICTURES_FEATURE);
        }
        let is_webp = self.pictures.as_ref().is_some_and(|pictures| pictures.format == PictureFormat::Webp);
        if is_webp || self.container == Container::Webp {
            needs.push(PictureFormat::Webp.encoder());
        }
        if !self.others.is_empty() || self.ladder.is_some() {
            needs.push(Encode::OUTPUTS_FEATURE);
        }
        needs.extend(self.live_needs());
        needs
    }

    /// The same with the secrets of its addresses taken out, to be shown.
    #[must_use]
    pub fn shown(&self) -> Encode {
        let mut shown = self.clone();
        match &mut shown.source {
            Source::Remote { url } | Source::Live { url } => *url = redact(url),
            Source::File { .. } | Source::Generated { .. } => {}
        }
        for sink in shown.live.iter_mut().flat_map(|live| &mut live.sinks) {
            *sink = redact(sink);
        }
        shown
    }

    /// The protocols of its live source and sinks, by the features of a worker that speaks them.
    fn live_needs(&self) -> Vec<&'static str> {
        let source = match &self.source {
            Source::Live { url } => Some(url),
            Source::File { .. } | Source::Remote { .. } | Source::Generated { .. } => None,
        };
        let sinks = self.live.iter().flat_map(|live| &live.sinks);
        let addresses = source.into_iter().chain(sinks).filter_map(|url| LiveAddress::parse(url).ok());
        let mut needs: Vec<&'static str> = addresses.map(|address| address.protocol.feature()).collect();
        needs.extend(self.live.is_some().then_some(Live::FEATURE));
        let is_dash = self.live.as_ref().is_some_and(|live| live.presentation.is_some());
        needs.extend(is_dash.then_some(Live::DASH_FEATURE));
        needs.sort_unstable();
        needs.dedup();
        needs
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
