//! What goes into which container, by the names of FFmpeg's prober: the same table for encodes and for copies.
//!
//! Invariant: what is said to fit, FFmpeg 5.1 to 9.0 writes and reads back as the same codec.

use crate::encode::{AudioChoice, Container, VideoCodec};

/// Whether a container takes a video codec.
#[must_use]
pub fn takes_video(container: Container, codec: &str) -> bool {
    match container {
        Container::Mkv => true,
        Container::Mp4 => matches!(codec, "h264" | "hevc" | "vp9" | "av1" | "mpeg4" | "mpeg2video" | "mjpeg"),
        Container::Mov => {
            matches!(codec, "h264" | "hevc" | "mpeg4" | "mpeg2video" | "mjpeg" | "prores" | "dnxhd")
        }
        Container::Webm => matches!(codec, "vp8" | "vp9" | "av1"),
        Container::Ts => matches!(codec, "h264" | "hevc" | "mpeg2video" | "mpeg1video" | "mpeg4"),
        Container::Hls => matches!(codec, "h264" | "hevc"),
        Container::Dash => matches!(codec, "h264" | "hevc" | "vp9"),
        Container::M4a | Container::Mp3 | Container::Jpg | Container::Png | Container::Webp | Container::Vtt => false,
    }
}

/// Whether a container takes an audio codec.
#[must_use]
pub fn takes_audio(container: Container, codec: &str) -> bool {
    match container {
        Container::Mkv => true,
        Container::Mp4 => matches!(codec, "aac" | "mp3" | "opus" | "ac3" | "eac3" | "alac" | "flac"),
        Container::Mov => matches!(codec, "aac" | "mp3" | "ac3" | "eac3" | "alac") || codec.starts_with("pcm_"),
        Container::Webm => matches!(codec, "opus" | "vorbis"),
        Container::Ts => matches!(codec, "aac" | "mp3" | "mp2" | "ac3" | "eac3"),
        Container::M4a => matches!(codec, "aac" | "alac"),
        Container::Mp3 => codec == "mp3",
        Container::Hls | Container::Dash => codec == "aac",
        Container::Jpg | Container::Png | Container::Webp | Container::Vtt => false,
    }
}

/// Whether a container takes a kind of subtitles as it is.
#[must_use]
pub fn takes_subtitles(container: Container, codec: &str) -> bool {
    match container {
        Container::Mkv => {
            matches!(codec, "subrip" | "ass" | "ssa" | "webvtt" | "hdmv_pgs_subtitle" | "dvd_subtitle" | "dvb_subtitle")
        }
        Container::Mp4 | Container::Mov => codec == "mov_text",
        Container::Webm => codec == "webvtt",
        Container::Ts => matches!(codec, "dvb_subtitle" | "dvb_teletext"),
        Container::M4a
        | Container::Mp3
        | Container::Jpg
        | Container::Png
        | Container::Webp
        | Container::Vtt
        | Container::Hls
        | Container::Dash => false,
    }
}

/// What text subtitles become in a container: the prober's name, which is the encoder's too but for `subrip`.
#[must_use]
pub fn text_subtitles(container: Container) -> Option<&'static str> {
    match container {
        Container::Mp4 | Container::Mov => Some("mov_text"),
        Container::Mkv => Some("subrip"),
        Container::Webm => Some("webvtt"),
        Container::Ts
        | Container::M4a
        | Container::Mp3
        | Container::Jpg
        | Container::Png
        | Container::Webp
        | Container::Vtt
        | Container::Hls
        | Container::Dash => None,
    }
}

/// Whether subtitles are text. Pictures of text cannot become text again.
#[must_use]
pub fn is_text(subtitles: &str) -> bool {
    matches!(subtitles, "subrip" | "srt" | "ass" | "ssa" | "webvtt" | "mov_text" | "text" | "subviewer" | "microdvd")
}

/// The audio codec of a container's outputs that do not say.
#[must_use]
pub fn default_audio(container: Container) -> AudioChoice {
    match container {
        Container::Webm => AudioChoice::Opus,
        Container::Mp3 => AudioChoice::Mp3,
        Container::Jpg | Container::Png | Container::Webp | Container::Vtt => AudioChoice::None,
        Container::Mp4
        | Container::Mov
        | Container::Mkv
        | Container::Ts
        | Container::M4a
        | Container::Hls
        | Container::Dash => AudioChoice::Aac,
    }
}

/// What to do instead of putting `what` into a container that does not take it.
#[must_use]
pub fn cure(fits: impl Fn(Container) -> bool, container: Container) -> String {
    let others: Vec<&str> = Container::ALL.iter().filter(|other| fits(**other)).map(|other| other.as_str()).collect();
    let codecs: Vec<&str> = VideoCodec::ALL
        .into_iter()
        .filter(|codec| takes_video(container, codec.probe_name()))
        .map(VideoCodec::as_str)
        .collect();
    match (others.is_empty(), codecs.is_empty()) {
        (true, true) => "choose another container".to_owned(),
        (false, true) => format!("it goes into {}", others.join(", ")),
        (true, false) => format!("{container} takes {}", codecs.join(", ")),
        (false, false) => format!("it goes into {}; {container} takes {}", others.join(", "), codecs.join(", ")),
    }
}
