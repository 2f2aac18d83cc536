//! GStreamer's pipelines for files and live media: which elements they are made of, which of them a worker must have, and what they do not
//! do.
//!
//! Invariant: pure; an element, a property's name and a word come from this module, everything else is a number or an address
//! of [`crate::live::LiveAddress`]. Files have fixed names in the attempt's scratch: no path becomes part of a pipeline's
//! description.
//! Source: GStreamer 1.22 measured. Demuxer and decoders are named after the probe and never guessed by GStreamer, because a
//! guess may be a playlist, which reads other addresses.

mod encoders;
mod live;
mod pipeline;
mod refusals;
mod source;

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::encode::{AudioChoice, Container, Encode, Encoder, Source, VideoCodec};
use crate::live::LiveAddress;

pub use live::{ARRIVAL, LIVE_SINK, LIVE_SOURCE, SOUND, Speech, live_pipeline, speech};
pub use pipeline::{Pipeline, pipeline};
pub use refusals::{refusals, unsupported};

/// The name of the source in the attempt's scratch.
pub const SOURCE: &str = "source";
/// The element that says how far the pipeline is.
pub const PROGRESS: &str = "progress";

/// GStreamer on a worker.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Installation {
    /// The first line that it says of its version.
    pub version: String,
    /// Elements that pipelines may need and that are not there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

impl Installation {
    /// Whether an element is known not to be there.
    #[must_use]
    pub fn lacks(&self, element: &str) -> bool {
        self.missing.iter().any(|missing| missing == element)
    }
}

const BASE: &str = "gstreamer1.0-plugins-base";
const GOOD: &str = "gstreamer1.0-plugins-good";
const BAD: &str = "gstreamer1.0-plugins-bad";
const UGLY: &str = "gstreamer1.0-plugins-ugly";
const LIBAV: &str = "gstreamer1.0-libav";

/// Every element that a pipeline may have beyond the core's, with Debian's package of it.
pub const ELEMENTS: [(&str, &str); 53] = [
    ("audioconvert", BASE),
    ("audioresample", BASE),
    ("audiotestsrc", BASE),
    ("opusdec", BASE),
    ("opusenc", BASE),
    ("videoconvert", BASE),
    ("videorate", BASE),
    ("videoscale", BASE),
    ("videotestsrc", BASE),
    ("volume", BASE),
    ("vorbisdec", BASE),
    ("aacparse", GOOD),
    ("ac3parse", GOOD),
    ("aspectratiocrop", GOOD),
    ("flacdec", GOOD),
    ("flacparse", GOOD),
    ("flvdemux", GOOD),
    ("flvmux", GOOD),
    ("lamemp3enc", GOOD),
    ("matroskademux", GOOD),
    ("matroskamux", GOOD),
    ("mp4mux", GOOD),
    ("mpegaudioparse", GOOD),
    ("mpg123audiodec", GOOD),
    ("progressreport", GOOD),
    ("qtdemux", GOOD),
    ("qtmux", GOOD),
    ("vp8dec", GOOD),
    ("vp8enc", GOOD),
    ("vp9dec", GOOD),
    ("vp9enc", GOOD),
    ("webmmux", GOOD),
    ("av1dec", BAD),
    ("av1parse", BAD),
    ("h264parse", BAD),
    ("h265parse", BAD),
    ("mpeg4videoparse", BAD),
    ("mpegtsmux", BAD),
    ("mpegvideoparse", BAD),
    ("rtmp2sink", BAD),
    ("rtmp2src", BAD),
    ("srtsink", BAD),
    ("srtsrc", BAD),
    ("tsdemux", BAD),
    ("x265enc", BAD),
    ("x264enc", UGLY),
    ("avdec_aac", LIBAV),
    ("avdec_ac3", LIBAV),
    ("avdec_h264", LIBAV),
    ("avdec_h265", LIBAV),
    ("avdec_mpeg2video", LIBAV),
    ("avdec_mpeg4", LIBAV),
    ("avenc_aac", LIBAV),
];

/// Debian's package of an element.
#[must_use]
pub fn package(element: &str) -> &'static str {
    ELEMENTS.iter().find(|(known, _)| *known == element).map_or("libgstreamer1.0-0", |(_, package)| package)
}

/// What a worker lacks where this element is missing, and how it gets it.
#[must_use]
pub fn missing(element: &str) -> String {
    format!("GStreamer there lacks the element `{element}`: install {} there", package(element))
}

/// The encoder of a codec, and the feature of a worker on which it works; `None`: there is none.
#[must_use]
pub fn video_encoder(codec: VideoCodec) -> Option<(&'static str, &'static str)> {
    match codec {
        VideoCodec::H264 => Some(("x264enc", "gstreamer-h264")),
        VideoCodec::H265 => Some(("x265enc", "gstreamer-h265")),
        VideoCodec::Vp8 => Some(("vp8enc", "gstreamer-vp8")),
        VideoCodec::Vp9 => Some(("vp9enc", "gstreamer-vp9")),
        VideoCodec::Av1 => None,
    }
}

/// The same for audio.
#[must_use]
pub fn audio_encoder(codec: AudioChoice) -> Option<(&'static str, &'static str)> {
    match codec {
        AudioChoice::Aac => Some(("avenc_aac", "gstreamer-aac")),
        AudioChoice::Opus => Some(("opusenc", "gstreamer-opus")),
        AudioChoice::Mp3 => Some(("lamemp3enc", "gstreamer-mp3")),
        AudioChoice::Copy | AudioChoice::None => None,
    }
}

/// The muxer of a container; `None`: there is none.
#[must_use]
pub fn muxer(container: Container) -> Option<&'static str> {
    match container {
        Container::Mp4 => Some("mp4mux"),
        Container::Mov => Some("qtmux"),
        Container::Mkv => Some("matroskamux"),
        Container::Webm => Some("webmmux"),
        Container::Ts => Some("mpegtsmux"),
        Container::M4a
        | Container::Mp3
        | Container::Jpg
        | Container::Png
        | Container::Webp
        | Container::Vtt
        | Container::Hls
        | Container::Dash => None,
    }
}

/// The encoders that a worker must have to run an encode with GStreamer: the element, and the feature.
#[must_use]
pub fn encoders(encode: &Encode) -> Vec<(&'static str, &'static str)> {
    [video_encoder(encode.video.codec), audio_encoder(encode.audio.codec)].into_iter().flatten().collect()
}

/// How live media of an encode travel, each protocol once; those that are not spoken are left out.
#[must_use]
pub fn speeches(encode: &Encode) -> Vec<Speech> {
    let source = match &encode.source {
        Source::Live { url } => Some(url),
        Source::File { .. } | Source::Remote { .. } | Source::Generated { .. } => None,
    };
    let addresses = source.into_iter().chain(encode.live.iter().flat_map(|live| &live.sinks));
    let protocols = addresses.filter_map(|url| LiveAddress::parse(url).ok()).map(|address| address.protocol);
    let mut speeches: Vec<Speech> = protocols.filter_map(speech).collect();
    speeches.dedup();
    speeches
}

/// The muxer of an encode's file; a live recording is made of pieces.
#[must_use]
pub fn file_muxer(encode: &Encode) -> Option<&'static str> {
    match &encode.live {
        Some(live) => live.record.then_some("mpegtsmux"),
        None => muxer(encode.container),
    }
}

/// FFmpeg's encoder of the same library, by which the outcome is described.
#[must_use]
pub fn twin(codec: VideoCodec) -> Option<Encoder> {
    video_encoder(codec).and_then(|_| codec.encoders().first().copied())
}

/// Pipelines that encode a moment and keep nothing, each with the feature that it proves. Where all of them run as one, all
/// features are proven at once.
#[must_use]
pub fn trials() -> Vec<(&'static str, Vec<&'static str>)> {
    let video = |encoder: &[&'static str], muxer: &'static str| {
        let mut words = vec!["videotestsrc", "num-buffers=1", "!"];
        words.extend(["video/x-raw,format=I420,width=64,height=64,framerate=30/1", "!", "videoconvert", "!"]);
        words.extend(["videoscale", "!", "videorate", "!", "progressreport", "silent=true", "do-query=false", "!"]);
        words.extend(encoder);
        words.extend(["!", muxer, "!", "fakesink"]);
        words
    };
    let audio = |encoder: &[&'static str]| {
        let mut words = vec!["audiotestsrc", "num-buffers=4", "!", "audioconvert", "!", "audioresample", "!"];
        words.extend(["audio/x-raw,rate=48000,channels=2", "!", "volume", "!"]);
        words.extend(encoder);
        words.extend(["!", "fakesink"]);
        words
    };
    let of_video = |codec, encoder: &[&'static str], muxer| Some((video_encoder(codec)?.1, video(encoder, muxer)));
    let of_audio = |codec, encoder: &[&'static str]| Some((audio_encoder(codec)?.1, audio(encoder)));
    let all = [
        of_video(VideoCodec::H264, &["x264enc", "speed-preset=ultrafast", "!", "h264parse"], "mp4mux"),
        of_video(VideoCodec::H265, &["x265enc", "speed-preset=ultrafast", "!", "h265parse"], "matroskamux"),
        of_video(VideoCodec::Vp8, &["vp8enc", "deadline=1"], "webmmux"),
        of_video(VideoCodec::Vp9, &["vp9enc", "deadline=1"], "webmmux"),
        of_audio(AudioChoice::Aac, &["avenc_aac", "!", "aacparse"]),
        of_audio(AudioChoice::Opus, &["opusenc"]),
        of_audio(AudioChoice::Mp3, &["lamemp3enc", "!", "mpegaudioparse"]),
    ];
    all.into_iter().flatten().collect()
}

/// A value of a property.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Number(u64),
    Word(&'static str),
    /// Made of numbers and words of this module, or an address of [`LiveAddress`].
    Made(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(number) => write!(f, "{number}"),
            Value::Word(word) => f.write_str(word),
            Value::Made(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests;
