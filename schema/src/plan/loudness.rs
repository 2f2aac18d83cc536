//! Loudness after EBU R 128 in two passes: measured first, then corrected by one gain where the peaks allow it.
//!
//! Invariant: what is put into the second pass are the numbers of the first, read as numbers.

use std::ffi::OsString;

use serde::Deserialize;

use super::streams::{Chosen, audio_source};
use super::{Refusal, Request};
use crate::encode::Loudness;

/// The range that is asked for where the source has a smaller one, in LU.
const RANGE_LU: f64 = 11.0;

/// What the first pass found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Integrated loudness in LUFS.
    pub lufs: f64,
    /// Highest true peak in dBTP.
    pub peak_dbtp: f64,
    /// Loudness range in LU.
    pub range_lu: f64,
    /// Threshold of the gate in LUFS.
    pub gate_lufs: f64,
    /// What is left to correct, in LU.
    pub offset_lu: f64,
}

impl Measured {
    /// Reads it from the tool's log: the last object in it. `None`: it holds none, or the source is silent.
    #[must_use]
    pub fn parse<'a>(log: impl DoubleEndedIterator<Item = &'a str>) -> Option<Measured> {
        let mut lines: Vec<&str> = Vec::new();
        let mut is_inside = false;
        for line in log.rev() {
            let line = line.trim();
            match line {
                "}" => is_inside = true,
                "{" if is_inside => {
                    lines.push(line);
                    break;
                }
                _ => {}
            }
            // The object's first line carries the filter's name before the brace in some versions.
            if is_inside {
                let is_first = line.ends_with('{');
                lines.push(if is_first { "{" } else { line });
                if is_first {
                    break;
                }
            }
        }
        lines.reverse();
        let raw: Raw = serde_json::from_str(&lines.join("\n")).ok()?;
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|value| value.is_finite());
        Some(Measured {
            lufs: number(&raw.input_i)?,
            peak_dbtp: number(&raw.input_tp)?,
            range_lu: number(&raw.input_lra)?,
            gate_lufs: number(&raw.input_thresh)?,
            offset_lu: number(&raw.target_offset)?,
        })
    }
}

#[derive(Deserialize)]
struct Raw {
    input_i: String,
    input_tp: String,
    input_lra: String,
    input_thresh: String,
    target_offset: String,
}

/// The run that measures.
pub(super) fn measurement(request: &Request<'_>, chosen: &Chosen) -> Vec<OsString> {
    let wish = request.encode.audio.loudness.unwrap_or(Loudness { lufs: -23.0, peak_dbtp: -1.0 });
    audio_source(request, chosen, &format!("{}:print_format=json", target(wish, RANGE_LU)))
}

/// The filter that measures a finished output: by another meter than the one that corrected it, and in a third of its time.
pub(super) const CHECK: &str = "ebur128=peak=true:framelog=verbose";

/// What the full decode of an output heard.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heard {
    /// Integrated loudness in LUFS.
    pub lufs: f64,
    /// Highest true peak in dBTP.
    pub peak_dbtp: f64,
}

impl Heard {
    /// Reads it from the tool's log: the last summary in it. `None`: it holds none, or one of silence.
    #[must_use]
    pub fn parse<'a>(log: impl DoubleEndedIterator<Item = &'a str>) -> Option<Heard> {
        let (mut lufs, mut peak_dbtp) = (None, None);
        // From its end: each stands once in a summary.
        for line in log.rev() {
            let value = |name: &str, unit: &str| {
                let number = line.trim().strip_prefix(name)?.trim().strip_suffix(unit)?.trim().parse::<f64>().ok()?;
                number.is_finite().then_some(number)
            };
            peak_dbtp = peak_dbtp.or_else(|| value("Peak:", "dBFS"));
            lufs = lufs.or_else(|| value("I:", "LUFS"));
            if line.trim_end().ends_with("Summary:") {
                break;
            }
        }
        Some(Heard { lufs: lufs?, peak_dbtp: peak_dbtp? })
    }
}

fn target(wish: Loudness, range: f64) -> String {
    format!("loudnorm=I={}:TP={}:LRA={range}", wish.lufs, wish.peak_dbtp)
}

/// The filter that corrects. Before the measurement it stands for itself, without numbers: a plan to look at.
pub(super) fn correction(request: &Request<'_>) -> Result<String, Refusal> {
    let Some(wish) = request.encode.audio.loudness else { return Ok(String::new()) };
    if !request.has("loudnorm") {
        return Err(Refusal::job("loudness", "unsupported", "FFmpeg here has no filter loudnorm"));
    }
    let Some(found) = request.loudness else { return Ok(target(wish, RANGE_LU)) };
    // A range above the source's own keeps the filter from compressing it: then one gain does it all.
    let range = found.range_lu.ceil().clamp(RANGE_LU, 50.0);
    Ok(format!(
        "{}:measured_I={}:measured_TP={}:measured_LRA={}:measured_thresh={}:offset={}:linear=true",
        target(wish, range),
        found.lufs,
        found.peak_dbtp,
        found.range_lu,
        found.gate_lufs,
        found.offset_lu
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUMMARY: &str = "[Parsed_ebur128_0 @ 0x562f] [info] Summary:\n\n  Integrated loudness:\n    I:         -21.9 LUFS\n\
        \x20   Threshold: -31.8 LUFS\n\n  Loudness range:\n    LRA:         0.0 LU\n    Threshold: -41.8 LUFS\n\n\
        \x20 True peak:\n    Peak:      -12.8 dBFS";

    #[test]
    fn the_last_summary_of_a_decode_is_read() {
        let before = SUMMARY.replace("-21.9", "-5.0").replace("-12.8", "1.0");
        let log = format!("{before}\n[info] video:115kB\n{SUMMARY}\n");
        assert_eq!(Heard::parse(log.lines()), Some(Heard { lufs: -21.9, peak_dbtp: -12.8 }));
        for (number, silent) in [("-12.8", "-inf"), ("-21.9", "nan"), ("Peak:", "Peek:")] {
            assert_eq!(Heard::parse(SUMMARY.replace(number, silent).lines()), None, "{silent}");
        }
        assert_eq!(Heard::parse("I: -3.0 LUFS".lines()), None);
    }
}
