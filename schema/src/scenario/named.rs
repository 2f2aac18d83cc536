//! The names of scenarios: a list, and sizes with codecs.
//!
//! Invariant: pure; a name stands for the same in every version that knows it.

use crate::encode::{AudioChoice, CodecChoice, Fps, Resolution, VideoCodec};

/// What a scenario's name stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scenario {
    /// Frame size; absent: the source's.
    pub size: Option<Resolution>,
    /// Frame rate; absent: the source's.
    pub fps: Option<Fps>,
    /// Codec, or one encoder.
    pub codec: CodecChoice,
    /// Audio; absent: what suits the container.
    pub audio: Option<AudioChoice>,
    /// Whether it makes renditions in several sizes.
    pub is_ladder: bool,
    /// The set of pictures that it makes, where it makes more than one.
    pub set: Option<PictureSet>,
}

/// How the pictures of a set lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PictureSet {
    /// Each in a file of its own.
    Files,
    /// Many in a sheet.
    Sheets,
}

/// A scenario with a name of its own.
#[derive(Debug, Clone, Copy)]
pub struct Named {
    /// The name.
    pub name: &'static str,
    /// What it is, in words.
    pub description: &'static str,
    size: Option<Resolution>,
    fps: Option<Fps>,
    codec: CodecChoice,
    audio: Option<AudioChoice>,
    is_ladder: bool,
    set: Option<PictureSet>,
}

/// A scenario that keeps the source's size and rate.
const fn as_source(name: &'static str, description: &'static str, codec: CodecChoice) -> Named {
    Named { name, description, size: None, fps: None, codec, audio: None, is_ladder: false, set: None }
}

/// A scenario that makes renditions.
const fn ladder(name: &'static str, description: &'static str, codec: VideoCodec) -> Named {
    Named { is_ladder: true, ..as_source(name, description, CodecChoice::Codec(codec)) }
}

/// A scenario without video.
const fn audio_only(name: &'static str, description: &'static str, audio: AudioChoice) -> Named {
    Named { audio: Some(audio), ..as_source(name, description, CodecChoice::None) }
}

/// A scenario that makes many pictures.
const fn pictures(name: &'static str, description: &'static str, set: PictureSet) -> Named {
    Named { set: Some(set), ..as_source(name, description, CodecChoice::Picture) }
}

const FULL_HD: Option<Resolution> = Some(Resolution { width: 1920, height: 1080 });

/// The named scenarios. Every `<size>[fps]-<codec>` works besides, such as `720p30-h264`.
pub const NAMED: [Named; 17] = [
    as_source("custom-input", "H.264 at the source's size and rate", CodecChoice::Codec(VideoCodec::H264)),
    Named {
        name: "test-1080p",
        description: "H.264, 1920x1080, 30 frames per second",
        size: FULL_HD,
        fps: Some(Fps { num: 30, den: 1 }),
        codec: CodecChoice::Codec(VideoCodec::H264),
        audio: None,
        is_ladder: false,
        set: None,
    },
    Named {
        name: "live-stream",
        description: "H.264, 1920x1080, 30 frames per second",
        size: FULL_HD,
        fps: Some(Fps { num: 30, den: 1 }),
        codec: CodecChoice::Codec(VideoCodec::H264),
        audio: None,
        is_ladder: false,
        set: None,
    },
    as_source("source-h265", "H.265 at the source's size and rate", CodecChoice::Codec(VideoCodec::H265)),
    as_source("source-vp9", "VP9 at the source's size and rate", CodecChoice::Codec(VideoCodec::Vp9)),
    as_source("source-av1", "AV1 at the source's size and rate", CodecChoice::Codec(VideoCodec::Av1)),
    Named {
        name: "copy",
        description: "the source's video and audio as they are, in another container",
        size: None,
        fps: None,
        codec: CodecChoice::Copy,
        audio: Some(AudioChoice::Copy),
        is_ladder: false,
        set: None,
    },
    ladder("ladder-h264", "renditions in H.264 in the usual sizes up to the source's", VideoCodec::H264),
    ladder("ladder-h265", "the same in H.265", VideoCodec::H265),
    ladder("ladder-vp9", "the same in VP9", VideoCodec::Vp9),
    ladder("ladder-av1", "the same in AV1", VideoCodec::Av1),
    audio_only("audio-aac", "the audio alone as AAC, in m4a", AudioChoice::Aac),
    audio_only("audio-opus", "the audio alone as Opus, in webm", AudioChoice::Opus),
    audio_only("audio-mp3", "the audio alone as MP3", AudioChoice::Mp3),
    as_source("thumbnail", "one picture of the source at the time `start`, as jpg, png or webp", CodecChoice::Picture),
    pictures("thumbnails", "pictures at an interval with a WebVTT track of their times", PictureSet::Files),
    pictures("sprites", "the same, small and many to a sheet", PictureSet::Sheets),
];

impl Scenario {
    /// What `name` stands for.
    #[must_use]
    pub fn find(name: &str) -> Option<Scenario> {
        if let Some(named) = NAMED.iter().find(|named| named.name == name) {
            let Named { size, fps, codec, audio, is_ladder, set, .. } = *named;
            return Some(Scenario { size, fps, codec, audio, is_ladder, set });
        }
        let (frame, codec) = name.split_once('-')?;
        let codec: CodecChoice = codec.parse().ok()?;
        let lower = frame.to_ascii_lowercase();
        // The longest size that the name begins with, so that `1080p60` is 1080p and 60.
        let (size_name, width, height) = Resolution::NAMED
            .into_iter()
            .filter(|(size, _, _)| lower.starts_with(size))
            .max_by_key(|(size, _, _)| size.len())?;
        let rest = &lower[size_name.len()..];
        let fps =
            if rest.is_empty() { None } else { Some(rest.parse::<u32>().ok().filter(|fps| (1..=1000).contains(fps))?) };
        // A size says that something is encoded.
        codec.codec()?;
        let size = Some(Resolution { width, height });
        Some(Scenario { size, fps: fps.map(Fps::whole), codec, audio: None, is_ladder: false, set: None })
    }
}
