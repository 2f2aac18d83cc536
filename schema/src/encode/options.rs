//! The values of an encode beyond codec, size and rate: fit, crop, streams, sound, subtitles.
//!
//! Invariant: each is a closed set or numbers within named bounds; no text of a user's is kept.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{PixelFormat, ValueError, VideoCodec};

/// What is done with the video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Treatment {
    /// It is encoded.
    #[default]
    Encode,
    /// Its packets are taken as they are.
    Copy,
    /// It is left out.
    Drop,
    /// One frame of it becomes a picture.
    Picture,
}

named_values!(
    /// How the source's shape becomes the frame's: with bars, as large as fits, cut, or stretched.
    #[derive(Default)]
    Fit, "a fit", {
        #[default] Pad = "pad",
        Inside = "fit",
        Crop = "crop",
        Stretch = "stretch",
    }
);

named_values!(
    /// Whether fields become frames: `auto` where the prober says that the source is interlaced.
    #[derive(Default)]
    Deinterlace, "a way to deinterlace", {
        #[default] Off = "off",
        Auto = "auto",
        On = "on",
    }
);

named_values!(
    /// What is done with a source of high dynamic range: `auto` keeps it in 10 bits and maps it to SDR in 8.
    #[derive(Default)]
    Hdr, "a way with HDR", {
        #[default] Auto = "auto",
        Keep = "keep",
        Tonemap = "tonemap",
    }
);

named_values!(
    /// What is done with subtitles.
    #[derive(Default)]
    SubtitleMode, "a way with subtitles", {
        #[default] Drop = "drop",
        Copy = "copy",
        Convert = "convert",
        Burn = "burn",
    }
);

named_values!(
    /// Whether something of the source stays.
    #[derive(Default)]
    Keep, "an answer", {
        #[default] Keep = "keep",
        Drop = "drop",
    }
);

named_values!(
    /// Audio channels.
    Channels, "a number of channels", {
        Mono = "mono",
        Stereo = "stereo",
        Surround51 = "5.1",
        Surround71 = "7.1",
    }
);

impl Channels {
    /// How many.
    #[must_use]
    pub fn count(self) -> u32 {
        match self {
            Channels::Mono => 1,
            Channels::Stereo => 2,
            Channels::Surround51 => 6,
            Channels::Surround71 => 8,
        }
    }
}

named_values!(
    /// Profiles of H.264 and H.265. The other codecs have one for each pixel format.
    Profile, "a profile", {
        Baseline = "baseline",
        Main = "main",
        High = "high",
        High10 = "high10",
        High422 = "high422",
        High444 = "high444",
        Main10 = "main10",
        Main422x10 = "main422-10",
        Main444x8 = "main444-8",
        Main444x10 = "main444-10",
    }
);

impl Profile {
    /// The profiles of a codec, the least first.
    #[must_use]
    pub fn of(codec: VideoCodec) -> &'static [Profile] {
        use Profile::{Baseline, High, High10, High422, High444, Main, Main10, Main422x10, Main444x8, Main444x10};
        match codec {
            VideoCodec::H264 => &[Baseline, Main, High, High10, High422, High444],
            VideoCodec::H265 => &[Main, Main10, Main422x10, Main444x8, Main444x10],
            VideoCodec::Vp8 | VideoCodec::Vp9 | VideoCodec::Av1 => &[],
        }
    }

    /// The pixel formats that it is for, the usual first.
    #[must_use]
    pub fn pixel_formats(self) -> &'static [PixelFormat] {
        use PixelFormat::{P010le, Yuv420p, Yuv420p10le, Yuv422p, Yuv422p10le, Yuv444p, Yuv444p10le};
        match self {
            Profile::Baseline | Profile::Main | Profile::High => &[Yuv420p],
            Profile::High10 | Profile::Main10 => &[Yuv420p10le, P010le],
            Profile::High422 => &[Yuv422p, Yuv422p10le],
            Profile::High444 => &[Yuv444p, Yuv444p10le],
            Profile::Main422x10 => &[Yuv422p10le],
            Profile::Main444x8 => &[Yuv444p],
            Profile::Main444x10 => &[Yuv444p10le],
        }
    }

    /// The names that FFmpeg's prober gives to a stream that this profile's decoder takes. Encoders of H.264 name the
    /// least profile that holds what they used.
    #[must_use]
    pub fn probe_names(self) -> &'static [&'static str] {
        const H264: &[&str] = &[
            "Constrained Baseline",
            "Baseline",
            "Main",
            "Constrained High",
            "High",
            "High 10",
            "High 4:2:2",
            "High 4:4:4 Predictive",
        ];
        match self {
            Profile::Baseline => &H264[..2],
            // H.265 calls its own one by the same name.
            Profile::Main => &H264[..3],
            Profile::High => &H264[..5],
            Profile::High10 => &H264[..6],
            Profile::High422 => &H264[..7],
            Profile::High444 => H264,
            Profile::Main10 => &["Main 10"],
            Profile::Main422x10 | Profile::Main444x8 | Profile::Main444x10 => &["Rext"],
        }
    }
}

/// A part of a frame, in pixels. Even numbers, as 4:2:0 has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crop {
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
    /// Pixels left of it.
    pub x: u32,
    /// Pixels above it.
    pub y: u32,
}

impl fmt::Display for Crop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}+{}+{}", self.width, self.height, self.x, self.y)
    }
}

impl FromStr for Crop {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Crop, ValueError> {
        let error = || {
            ValueError::new(
                text,
                "a part of a frame: <width>x<height>+<left>+<top> is expected, even numbers up to 16384, such as \
                 1280x536+0+92",
            )
        };
        let mut parts = text.split('+');
        let (size, x, y) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(size), Some(x), Some(y), None) => (size, x, y),
            _ => return Err(error()),
        };
        let size = super::Resolution::from_str(size).map_err(|_| error())?;
        let offset = |text: &str| text.parse::<u32>().ok().filter(|at| *at <= 16384 && at.is_multiple_of(2));
        let (x, y) = (offset(x).ok_or_else(error)?, offset(y).ok_or_else(error)?);
        Ok(Crop { width: size.width, height: size.height, x, y })
    }
}

text_form!(Crop, serde_json::json!({"type": "string", "examples": ["1280x536+0+92"]}));

/// Streams of one kind, counted from 0 in the source's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Streams {
    /// The first, where there is one.
    #[default]
    First,
    /// Every one.
    All,
    /// These and no other: bit n is stream n. Each must exist.
    Chosen(u32),
}

impl Streams {
    /// The largest number of a stream.
    pub const MAX: u32 = 31;

    /// Which of `count` streams are taken.
    ///
    /// # Errors
    /// The number of a stream that is chosen and does not exist.
    pub fn of(self, count: usize) -> Result<Vec<usize>, u32> {
        match self {
            Streams::First => Ok((0..count.min(1)).collect()),
            Streams::All => Ok((0..count).collect()),
            Streams::Chosen(mask) => {
                let chosen = (0..=Streams::MAX).filter(|number| mask & (1 << number) != 0);
                chosen.map(|number| if (number as usize) < count { Ok(number as usize) } else { Err(number) }).collect()
            }
        }
    }
}

impl fmt::Display for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Streams::First => f.write_str("first"),
            Streams::All => f.write_str("all"),
            Streams::Chosen(mask) => {
                let numbers: Vec<String> = (0..=Streams::MAX)
                    .filter(|number| mask & (1 << number) != 0)
                    .map(|number| number.to_string())
                    .collect();
                f.write_str(&numbers.join(","))
            }
        }
    }
}

impl FromStr for Streams {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Streams, ValueError> {
        match text {
            "first" => return Ok(Streams::First),
            "all" => return Ok(Streams::All),
            _ => {}
        }
        let error = || {
            ValueError::new(
                text,
                "a choice of streams: `first`, `all`, or numbers from 0 to 31 such as 0,2 are expected",
            )
        };
        let mut mask = 0;
        for part in text.split(',') {
            let number: u32 = part.trim().parse().map_err(|_| error())?;
            if number > Streams::MAX {
                return Err(error());
            }
            mask |= 1 << number;
        }
        Ok(Streams::Chosen(mask))
    }
}

text_form!(Streams, serde_json::json!({"type": ["string", "integer"], "examples": ["first", "all", "0,2", 1]}));

/// A loudness after EBU R 128.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Loudness {
    /// Integrated loudness in LUFS.
    pub lufs: f64,
    /// The highest true peak, in dBTP.
    pub peak_dbtp: f64,
}
