//! What an encode goes into: containers, and how presentations are cut.
//!
//! Invariant: each container has one muxer and one way for the names of its files to end.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Fps, ValueError};

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

    /// These in whole frames, of which one may begin late: a segment begins with a frame. Cut at the length that was asked for, one
    /// would have a frame less than the others now and then, and what cuts at a length from where the last one began would not end it.
    /// Source: FFmpeg 5.1 measured, DASH at 30000/1001 frames per second in segments of 4 s: the ninth has 6 s.
    #[must_use]
    pub fn at(self, fps: Fps) -> Segments {
        Segments { secs: self.frames(fps) as f64 * f64::from(fps.den) / f64::from(fps.num), ..self }
    }

    /// Frames in a segment at this rate.
    #[must_use]
    pub fn frames(self, fps: Fps) -> u64 {
        (self.secs * fps.as_f64() - OVER_FRAMES).ceil().max(1.0) as u64
    }
}

/// What a length in seconds may be over a number of frames and still be that: what is lost in writing it as a fraction.
const OVER_FRAMES: f64 = 1e-3;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_have_whole_frames_and_are_no_shorter_than_asked_for() {
        let at = |secs: f64, num, den| {
            let fps = Fps { num, den };
            let segments = Segments { kind: SegmentType::Ts, secs };
            (segments.frames(fps), segments.at(fps).secs)
        };
        assert_eq!([at(4.0, 25, 1), at(1.5, 25, 1), at(1.0, 1, 2)], [(100, 4.0), (38, 1.52), (1, 2.0)]);
        assert_eq!([at(4.0, 30_000, 1001), at(4.004, 30_000, 1001)], [(120, 4.004); 2]);
    }
}
