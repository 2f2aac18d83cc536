//! What one file decodes to beside another.
//!
//! Invariant: both are decoded to their ends by the same tool, frame by frame, none left out or doubled.

use std::fmt;
use std::path::Path;

use anyhow::Context as _;

use crate::tool::said;

/// One file beside another.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Likeness {
    /// Frames of each.
    pub frames: [usize; 2],
    /// Whether all frames have the same times in the same order.
    pub are_times_equal: bool,
    /// Frames in a row that decode to the same picture at the same place.
    pub same_pictures: usize,
    /// Whether the sound decodes to the same samples.
    pub is_sound_equal: bool,
    /// How far apart the same frame of sound is at most, in milliseconds, counted from the first picture.
    pub drift_ms: f64,
    /// How much larger the second is, as a share of the first.
    pub size: f64,
}

impl Likeness {
    /// What must not differ, and does.
    #[must_use]
    pub fn differences(&self) -> Vec<String> {
        let [first, second] = self.frames;
        let mut differences = Vec::new();
        if first != second || first == 0 {
            differences.push(format!("{second} frames instead of {first}"));
        }
        if !self.are_times_equal {
            differences.push("frames are shown at other times".to_owned());
        }
        if !self.is_sound_equal {
            differences.push("the sound has other samples".to_owned());
        }
        if self.drift_ms > 0.0 {
            differences.push(format!("the sound is {} ms off", self.drift_ms));
        }
        differences
    }
}

impl fmt::Display for Likeness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = self.frames;
        let times = if self.are_times_equal { "equal" } else { "OTHER" };
        let drift = if self.is_sound_equal { format!("{} ms", self.drift_ms) } else { "OTHER".to_owned() };
        let pictures = format!("{} same", self.same_pictures);
        let size = format!("{:+.2} %", self.size * 100.0);
        write!(f, "{second:>5} of {first:>4} {times:>7} {pictures:>10} {drift:>9} {size:>8}")
    }
}

/// A frame of picture or sound: its time in seconds, and the hash of what it decodes to.
type Frame = (f64, String);

/// Sets `other` beside `one`.
///
/// # Errors
/// When one of them cannot be decoded to its end.
pub fn compare(ffmpeg: &Path, one: &Path, other: &Path) -> anyhow::Result<Likeness> {
    let [picture, sound] = decode(ffmpeg, one)?;
    let [other_picture, other_sound] = decode(ffmpeg, other)?;
    let start = |frames: &[Frame]| frames.first().map_or(0.0, |frame| frame.0);
    let (zero, other_zero) = (start(&picture), start(&other_picture));
    let late = |((time, _), (other_time, _)): (&Frame, &Frame)| ((time - zero) - (other_time - other_zero)).abs();
    let hashes = |frames: &[Frame]| frames.iter().map(|frame| frame.1.clone()).collect::<Vec<_>>();
    let size = |file: &Path| anyhow::Ok(std::fs::metadata(file)?.len() as f64);
    Ok(Likeness {
        frames: [picture.len(), other_picture.len()],
        are_times_equal: picture.iter().map(|frame| frame.0).eq(other_picture.iter().map(|frame| frame.0)),
        same_pictures: picture.iter().zip(&other_picture).filter(|(one, other)| one.1 == other.1).count(),
        is_sound_equal: !sound.is_empty() && hashes(&sound) == hashes(&other_sound),
        // The container counts in milliseconds, and seconds in floats: what is below a microsecond is no drift.
        drift_ms: (sound.iter().zip(&other_sound).map(late).fold(0.0, f64::max) * 1e6).round() / 1e3,
        size: size(other)? / size(one)? - 1.0,
    })
}

/// Every frame of the first picture and of the first sound.
fn decode(ffmpeg: &Path, file: &Path) -> anyhow::Result<[Vec<Frame>; 2]> {
    let file = file.display().to_string();
    let inputs = ["-nostdin", "-v", "error", "-i", &file, "-map", "0:v:0", "-map", "0:a:0"];
    let said =
        said(ffmpeg, &[&inputs[..], &["-fps_mode", "passthrough", "-f", "framemd5", "-"]].concat(), Path::new("."))?;
    let mut streams = [Vec::new(), Vec::new()];
    for (number, frames) in streams.iter_mut().enumerate() {
        let (prefix, number) = (format!("#tb {number}: "), number.to_string());
        let unit = said.lines().find_map(|line| line.strip_prefix(&prefix)).and_then(fraction);
        let unit = unit.with_context(|| format!("{file}: no clock of stream {number}"))?;
        let fields = said.lines().map(|line| line.split(',').map(str::trim).collect::<Vec<_>>());
        for fields in fields.filter(|fields| fields.len() == 6 && fields[0] == number) {
            frames.push((fields[2].parse::<f64>()? * unit, fields[5].to_owned()));
        }
    }
    Ok(streams)
}

fn fraction(text: &str) -> Option<f64> {
    let (over, under) = text.trim().split_once('/')?;
    Some(over.parse::<f64>().ok()? / under.parse::<f64>().ok()?)
}
