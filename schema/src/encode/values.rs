//! Numbers and names that a job writes as text, and how such text is read.
//!
//! Invariant: what is read is within its bounds or a member of its list; anything else is a [`ValueError`] that says what is
//! expected. The two macros here make the text form of every such type of an encode.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
