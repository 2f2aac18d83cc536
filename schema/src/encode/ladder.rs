//! A ladder: renditions of one source in several sizes, chosen from the source or written down.
//!
//! Invariant: names of rungs are different, and short and plain enough to be part of an address.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Bitrate, Resolution, ValueError};

/// Renditions of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ladder {
    /// Chosen from the source: usual sizes at or below its own, at rates that do not exceed its own.
    Auto,
    /// These, the first one first.
    Rungs(Vec<Rung>),
}

/// A rendition that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rung {
    /// Its frame.
    pub size: Resolution,
    /// Its average; absent: what is usual for the size.
    pub bitrate: Option<Bitrate>,
}

impl Ladder {
    /// The most rungs that may be written down.
    pub const MOST: usize = 12;
}

impl Rung {
    /// Its name, `720p` or `854x600`.
    #[must_use]
    pub fn name(&self) -> String {
        let usual = Resolution::NAMED.into_iter().find(|(name, width, height)| {
            name.ends_with('p') && (*width, *height) == (self.size.width, self.size.height)
        });
        usual.map_or_else(|| self.size.to_string(), |(name, ..)| name.to_owned())
    }
}

impl fmt::Display for Ladder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ladder::Rungs(rungs) = self else { return f.write_str("auto") };
        for (index, rung) in rungs.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}", rung.name())?;
            if let Some(bitrate) = rung.bitrate {
                write!(f, ":{bitrate}")?;
            }
        }
        Ok(())
    }
}

impl FromStr for Ladder {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Ladder, ValueError> {
        if text == "auto" {
            return Ok(Ladder::Auto);
        }
        let mut rungs: Vec<Rung> = Vec::new();
        for part in text.split(',') {
            let (size, bitrate) = match part.trim().split_once(':') {
                Some((size, bitrate)) => (size, Some(bitrate.parse()?)),
                None => (part.trim(), None),
            };
            let rung = Rung { size: size.parse()?, bitrate };
            if rungs.iter().any(|other| other.size == rung.size) {
                return Err(ValueError::new(text, "a ladder: it has two rungs of one size"));
            }
            rungs.push(rung);
        }
        if rungs.len() > Ladder::MOST {
            return Err(ValueError::new(text, format!("a ladder: it has more than {} rungs", Ladder::MOST)));
        }
        Ok(Ladder::Rungs(rungs))
    }
}

text_form!(Ladder, serde_json::json!({"type": "string", "examples": ["auto", "1080p:5000k,720p:2500k,854x480:1000k"]}));
