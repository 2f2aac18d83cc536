//! A set of pictures of one source: how many, in which format, and whether they lie in sheets.
//!
//! Invariant: everything is a number within named bounds or a member of a closed set.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Container, Resolution, ValueError};

named_values!(
    /// Formats of pictures.
    PictureFormat, "a format of pictures", {
        Jpg = "jpg",
        Png = "png",
        Webp = "webp",
    }
);

impl PictureFormat {
    /// FFmpeg's encoder.
    #[must_use]
    pub fn encoder(self) -> &'static str {
        match self {
            PictureFormat::Jpg => "mjpeg",
            PictureFormat::Png => "png",
            PictureFormat::Webp => "libwebp",
        }
    }

    /// The codec's name in FFmpeg's prober.
    #[must_use]
    pub fn codec(self) -> &'static str {
        match self {
            PictureFormat::Jpg => "mjpeg",
            PictureFormat::Png => "png",
            PictureFormat::Webp => "webp",
        }
    }

    /// FFmpeg's demuxer of a file that is one picture: by its name alone it would be a pattern of many.
    #[must_use]
    pub fn demuxer(self) -> &'static str {
        match self {
            PictureFormat::Jpg => "jpeg_pipe",
            PictureFormat::Png => "png_pipe",
            PictureFormat::Webp => "webp_pipe",
        }
    }

    /// The pixels that are encoded.
    #[must_use]
    pub fn pixels(self) -> &'static str {
        match self {
            PictureFormat::Jpg => "yuvj420p",
            PictureFormat::Png => "rgb24",
            PictureFormat::Webp => "yuv420p",
        }
    }

    /// The format of a container that is one picture.
    #[must_use]
    pub fn of(container: Container) -> Option<PictureFormat> {
        match container {
            Container::Jpg => Some(PictureFormat::Jpg),
            Container::Png => Some(PictureFormat::Png),
            Container::Webp => Some(PictureFormat::Webp),
            Container::Mp4
            | Container::Mov
            | Container::Mkv
            | Container::Webm
            | Container::Ts
            | Container::M4a
            | Container::Mp3
            | Container::Vtt
            | Container::Hls
            | Container::Dash => None,
        }
    }
}

/// When pictures are taken.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// Every so many seconds, from the beginning.
    Every(f64),
    /// So many over the whole length, each in the beginning of its share.
    Count(u32),
}

/// How pictures lie in a sheet: from left to right, then from top to bottom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grid {
    /// Pictures in a row.
    pub columns: u32,
    /// Rows.
    pub rows: u32,
}

impl Grid {
    /// The grid of sheets that do not say.
    pub const USUAL: Grid = Grid { columns: 10, rows: 10 };
    /// The most columns, and the most rows.
    pub const MOST: u32 = 100;
    /// The longest side of a sheet in pixels: WebP has no longer ones, and browsers show no larger ones reliably.
    pub const MOST_PIXELS: u32 = 16_383;
    /// The frame into which the pictures of sheets go that do not say.
    pub const TILE: Resolution = Resolution { width: 160, height: 90 };

    /// Pictures in a full sheet.
    #[must_use]
    pub fn tiles(self) -> u32 {
        self.columns * self.rows
    }
}

/// A set of pictures.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Pictures {
    /// When they are taken.
    pub pace: Pace,
    /// What the files are.
    pub format: PictureFormat,
    /// How they lie in sheets; absent: each is a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grid: Option<Grid>,
}

impl Pictures {
    /// Seconds from one picture to the next where the job does not say.
    pub const EVERY_SECS: f64 = 10.0;
    /// The shortest time from one picture to the next, in seconds.
    pub const LEAST_SECS: f64 = 0.1;
    /// The longest.
    pub const MOST_SECS: f64 = 86_400.0;
    /// The most pictures of a set.
    pub const MOST: u32 = 10_000;
}
