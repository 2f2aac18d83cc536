//! What streams are made with: codecs, FFmpeg's encoders, pixel formats.
//!
//! Invariant: an encoder makes one codec; what a job may name is one of these lists.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ValueError;

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
            VideoCodec::Vp8 => &[Encoder::Vp8Vaapi],
            VideoCodec::Vp9 => &[Encoder::Vp9Qsv, Encoder::Vp9Vaapi],
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
    Vp9Qsv = "vp9_qsv", Vp9, true;
    Av1Qsv = "av1_qsv", Av1, true;
    H264Vaapi = "h264_vaapi", H264, true;
    HevcVaapi = "hevc_vaapi", H265, true;
    Vp8Vaapi = "vp8_vaapi", Vp8, true;
    Vp9Vaapi = "vp9_vaapi", Vp9, true;
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
