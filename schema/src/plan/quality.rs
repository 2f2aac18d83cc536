//! How near an encoded picture is to its source: the runs that measure it, and what they say.
//!
//! The source goes through every filter of the encode but the change of size; the picture is cut out of its bars and
//! brought to the source's size (a picture that fills its frame and is cut is held against the source in that frame). Frames are paired by their times, the output's a little late, so that a container that
//! rounds times pairs a frame with its own and not with the one before.
//!
//! Invariant: pure; what is measured is what was taken of the source, frame by frame, in the output's pixel format.
//! Source: FFmpeg 5.1 and 7.0 measured. Some containers get their first frame twice where the sound begins earlier:
//! whether this one did is measured first, on its beginning.

use std::ffi::OsString;

use super::arguments::{Arguments, READ_ONLY_FILES, file_argument};
use super::filters::{self, planar};
use super::shape::{self, Shape};
use super::{Refusal, Request, head, streams};
use crate::encode::{Fit, Metric};
use crate::message::{PsnrScores, VmafScores};

/// How late the output's frames are made, in frames.
const LATE_FRAMES: f64 = 0.4;
/// How much of the beginning tells whether the first frame stands there twice, in frames.
const BEGINNING_FRAMES: u32 = 40;
/// The names under which the two suppositions about the beginning are measured.
const BEGINNINGS: [&str; 2] = ["psnr@even", "psnr@shifted"];
/// The model of VMAF: every build with the library has it in itself.
const VMAF_MODEL: &str = "vmaf_v0.6.1";
/// What PSNR is said to be where nothing differs.
const PSNR_SAME: f64 = 100.0;
/// The best VMAF.
const VMAF_MOST: f64 = 100.0;

/// The file that VMAF's score of each frame is written to.
pub const VMAF_FILE: &str = "vmaf.csv";

/// What is held against what.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Filters of the output.
    output: String,
    /// Filters of the source.
    source: String,
    /// Frames per second, or the usual rate where it is not known.
    rate: f64,
    /// Size at which both are held against each other.
    pub size: (u32, u32),
}

impl Comparison {
    /// How the output of an encode is held against its source.
    ///
    /// # Errors
    /// When there is no plan for the encode either, or no picture in it.
    pub fn of(request: &Request<'_>) -> Result<Comparison, Refusal> {
        let shape = Shape::of(request)?.ok_or(Refusal::Input("there is no picture to measure"))?;
        let (mut source, (width, height)) = source_filters(request, &shape)?;
        let size = ((width & !1).max(2), (height & !1).max(2));
        if size != (width, height) {
            source.push(format!("scale={}:{}", size.0, size.1));
        }
        if let Some(fps) = shape.fps {
            source.push(format!("fps={fps}"));
        }
        let mut output = Vec::new();
        let inner = picture_area(request, &shape, (width, height));
        if inner != (shape.width, shape.height) {
            let (wide, high) = inner;
            output.push(format!("crop={wide}:{high}:(iw-{wide})/2:(ih-{high})/2"));
        }
        if inner != size {
            output.push(format!("scale={}:{}:flags=bicubic", size.0, size.1));
        }
        Ok(Comparison { output: joined(&output), source: joined(&source), rate: shape.rate(), size })
    }

    fn graph(&self, request: &Request<'_>, left: f64, is_shifted: bool) -> [String; 2] {
        let format = planar(request.encode.video.pixel_format);
        let frame = 1.0 / self.rate;
        let (late, shift) = (LATE_FRAMES * frame, if is_shifted { frame } else { 0.0 });
        let Comparison { output, source, .. } = self;
        let cut = cut(request, left);
        [
            format!("[0:V:0]{output}format={format},settb=1/90000,setpts=PTS-STARTPTS+{late:.6}/TB"),
            format!("[1:V:0]{source}{cut}format={format},settb=1/90000,setpts=PTS-STARTPTS+{shift:.6}/TB"),
        ]
    }
}

/// Filters as the beginning of a chain.
fn joined(filters: &[String]) -> String {
    filters.iter().map(|filter| format!("{filter},")).collect()
}

/// The part of what is read that is taken, cut where FFmpeg cuts the output: after the filters.
fn cut(request: &Request<'_>, left: f64) -> String {
    let end = request.encode.duration_secs.filter(|_| request.source.is_some()).map(|secs| left + secs);
    match end {
        Some(end) => format!("trim=start={left}:end={end},"),
        None if left > 0.0 => format!("trim=start={left},"),
        None => String::new(),
    }
}

/// The filters of the encode before the change of size, and the size that is left.
fn source_filters(request: &Request<'_>, shape: &Shape) -> Result<(Vec<String>, (u32, u32)), Refusal> {
    let wish = &request.encode.video;
    let mut filters = filters::before_size(request, shape);
    let Some((_, probed)) = request.source else {
        let size = wish.crop.map_or((shape.width, shape.height), |crop| (crop.width, crop.height));
        return Ok((filters, size));
    };
    let video = probed.probe.video.as_ref().ok_or(Refusal::Input("the input has no video stream"))?;
    let (mut width, mut height) = shape::taken(wish, video)?;
    if wish.size.is_none() {
        return Ok((filters, (width, height)));
    }
    let (wide, high) = shape.sample_aspect;
    if (wide, high) != (1, 1) && wish.fit != Fit::Stretch {
        width = even(f64::from(width) * f64::from(wide) / f64::from(high));
        filters.push(format!("scale={width}:{height}"));
    }
    if wish.fit == Fit::Crop {
        // What falls outside the frame is not in the output, and what is left rarely begins at a whole pixel of the source.
        filters.extend(filters::filled(shape));
        (width, height) = (shape.width, shape.height);
    }
    Ok((filters, (width, height)))
}

/// The part of the output that is picture and not bars.
fn picture_area(request: &Request<'_>, shape: &Shape, shown: (u32, u32)) -> (u32, u32) {
    let wish = &request.encode.video;
    match wish.fit {
        Fit::Pad if wish.size.is_some() && request.source.is_some() => {
            let (wide, high) = inside(shown, (shape.width, shape.height));
            // As FFmpeg rounds it: down to an even number.
            let down = |side: f64| ((side + 0.5).floor() as u32 & !1).max(2);
            (down(wide), down(high))
        }
        Fit::Pad | Fit::Inside | Fit::Crop | Fit::Stretch => (shape.width, shape.height),
    }
}

/// The largest frame of a shape that lies in another.
fn inside((wide, high): (u32, u32), (most_wide, most_high): (u32, u32)) -> (f64, f64) {
    let (wide, high) = (f64::from(wide), f64::from(high));
    let (most_wide, most_high) = (f64::from(most_wide), f64::from(most_high));
    let factor = (most_wide / wide).min(most_high / high);
    (wide * factor, high * factor)
}

fn even(side: f64) -> u32 {
    ((side / 2.0).floor() as u32 * 2).max(2)
}

/// What every run begins with: the output, then the source. Answers what of the source is read before what is taken.
fn inputs(request: &Request<'_>) -> Result<(Arguments, f64), Refusal> {
    let shape = Shape::of(request)?;
    let mut arguments = head(request);
    // What is measured is said as information.
    arguments.all(["-loglevel", "level+info"]);
    arguments.all(READ_ONLY_FILES);
    arguments.list.extend(["-i".into(), file_argument(request.output)]);
    let left = streams::inputs_of_one(request, shape.as_ref(), &mut arguments);
    Ok((arguments, left))
}

/// The run that tells whether the output's first frame stands there twice, see [`is_shifted`].
///
/// # Errors
/// As [`Comparison::of`].
pub fn beginning_arguments(request: &Request<'_>, comparison: &Comparison) -> Result<Vec<OsString>, Refusal> {
    let (mut arguments, left) = inputs(request)?;
    let [output, even] = comparison.graph(request, left, false);
    let few = format!("trim=end_frame={BEGINNING_FRAMES}");
    let [first, second] = BEGINNINGS;
    let shift = 1.0 / comparison.rate;
    let graph = format!(
        "{output},{few},split[a][b];{even},{few},split[c][d];[d]setpts=PTS+{shift:.6}/TB[e];\
         [a][c]{first}=shortest=1[x];[b][e]{second}=shortest=1[y]"
    );
    arguments.pair("-filter_complex", graph);
    arguments.all(["-map", "[x]", "-map", "[y]", "-f", "null", "-"]);
    Ok(arguments.list)
}

/// Whether the output's first frame stands there twice, from the log of that run. Pictures without motion fit both ways.
#[must_use]
pub fn is_shifted<'a>(log: impl Iterator<Item = &'a str> + Clone) -> bool {
    let [even, shifted] = BEGINNINGS.map(|name| log.clone().filter_map(|line| psnr_line(line, name)).last());
    matches!((even, shifted), (Some(even), Some(shifted)) if shifted.mean > even.mean + 1.0)
}

/// The run that measures an output against its source, every so many-th frame.
///
/// # Errors
/// As [`Comparison::of`].
pub fn quality_arguments(
    request: &Request<'_>,
    comparison: &Comparison,
    metrics: &[Metric],
    every: u32,
    is_shifted: bool,
) -> Result<Vec<OsString>, Refusal> {
    let (mut arguments, left) = inputs(request)?;
    let [output, source] = comparison.graph(request, left, is_shifted);
    let labels = |side: char| (0..metrics.len()).map(|number| format!("[{side}{number}]")).collect::<String>();
    let count = metrics.len();
    let mut graph = format!("{output},split={count}{};{source},split={count}{}", labels('d'), labels('r'));
    for (number, metric) in metrics.iter().enumerate() {
        // VMAF looks at motion between neighbours: it leaves frames out by itself.
        let thinned = match metric {
            Metric::Psnr | Metric::Ssim if every > 1 => {
                format!("[d{number}]select=not(mod(n\\,{every}))[s{number}];[s{number}]")
            }
            Metric::Vmaf | Metric::Psnr | Metric::Ssim => format!("[d{number}]"),
        };
        let filter = match metric {
            Metric::Vmaf => format!(
                "libvmaf=model=version={VMAF_MODEL}:n_subsample={every}:n_threads={}:log_fmt=csv:log_path={VMAF_FILE}:shortest=1",
                request.threads
            ),
            Metric::Psnr => "psnr@whole=shortest=1".to_owned(),
            Metric::Ssim => "ssim@whole=shortest=1".to_owned(),
        };
        graph += &format!(";{thinned}[r{number}]{filter}[o{number}]");
    }
    arguments.pair("-filter_complex", graph);
    for number in 0..count {
        arguments.pair("-map", format!("[o{number}]"));
    }
    arguments.all(["-fps_mode", "passthrough", "-f", "null", "-"]);
    Ok(arguments.list)
}

/// PSNR from the log of a measuring run.
#[must_use]
pub fn psnr<'a>(log: impl Iterator<Item = &'a str>) -> Option<PsnrScores> {
    log.filter_map(|line| psnr_line(line, "psnr@whole")).last()
}

/// Mean SSIM from the log of a measuring run.
#[must_use]
pub fn ssim<'a>(log: impl Iterator<Item = &'a str>) -> Option<f64> {
    let lines = log.filter(|line| line.contains("ssim@whole") && line.contains("SSIM "));
    lines.filter_map(|line| number(line, "All:").filter(|value| value.is_finite())).last()
}

fn psnr_line(line: &str, filter: &str) -> Option<PsnrScores> {
    if !line.contains(filter) || !line.contains("PSNR ") {
        return None;
    }
    let bounded = |value: f64| value.min(PSNR_SAME);
    Some(PsnrScores { mean: bounded(number(line, "average:")?), min: bounded(number(line, "min:")?) })
}

/// The number after a name in a line. FFmpeg writes `inf` where nothing differs.
fn number(line: &str, name: &str) -> Option<f64> {
    let word = line.split_once(name)?.1.split_whitespace().next()?;
    word.parse::<f64>().ok().filter(|value| *value >= 0.0)
}

/// VMAF from the lines of [`VMAF_FILE`], with the number of frames that it was measured of.
#[must_use]
pub fn vmaf(mut lines: impl Iterator<Item = String>) -> Option<(VmafScores, u64)> {
    let header = lines.next()?;
    let column = header.split(',').position(|name| name.trim() == "vmaf")?;
    let mut scores: Vec<f64> = lines
        .filter_map(|line| line.split(',').nth(column)?.trim().parse::<f64>().ok())
        // A score that is none would make the mean one that no record can hold.
        .filter(|score| (0.0..=VMAF_MOST).contains(score))
        .collect();
    scores.sort_by(f64::total_cmp);
    let count = scores.len() as f64;
    let min = *scores.first()?;
    let mean = scores.iter().sum::<f64>() / count;
    // As the library pools it: one is added, so that a frame of 0 does not make the whole 0.
    let harmonic_mean = count / scores.iter().map(|score| 1.0 / (score + 1.0)).sum::<f64>() - 1.0;
    let percentile = |share: f64| scores[((count * share).floor() as usize).min(scores.len() - 1)];
    let (p1, p5) = (percentile(0.01), percentile(0.05));
    let frames = scores.len() as u64;
    Some((VmafScores { model: VMAF_MODEL.to_owned(), mean, harmonic_mean, p1, p5, min }, frames))
}
