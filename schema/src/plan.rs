//! From an encode, what its source is and what a worker can do to FFmpeg's exact arguments and to what must come out.
//!
//! Invariant: pure; every argument is written here, a number, a name from a closed set, or a path behind `file:`. Nothing a
//! user wrote can become an option, a filter or a protocol.
//! Source: FFmpeg 5.1 and 9.0 measured: threads must be bounded before the first `-i` and for the output; without
//! `-xerror` a cut-off source ends in a short file and exit code 0.

mod arguments;
mod audio;
mod chunk;
pub mod estimate;
mod expected;
mod filters;
pub mod ladder;
pub mod live;
mod loudness;
pub mod package;
pub mod pictures;
pub mod quality;
mod rate;
pub mod search;
mod shape;
mod speed;
mod streams;
mod thumbnail;
pub mod together;
mod trial;
mod video;

use std::ffi::OsString;
use std::path::Path;

use crate::device::Device;
use crate::encode::{Encode, Encoder, SubtitleMode, Treatment, VideoEncode};
use crate::parse::Fault;
use crate::probe::Probed;

use arguments::{Arguments, COMMON};
pub use arguments::{READ_ONLY_FILES, READ_PRESENTATIONS, file_argument};
pub use chunk::{Row, Sound, chunk, chunk_key, chunk_list, sound, sound_alone, sound_key, stitch, taken};
pub use expected::{Expected, ExpectedAudio, ExpectedVideo, SourceFrames, sound_packet_secs};
pub use filters::planar;
pub use loudness::{Heard, Measured};
pub use pictures::Schedule;
pub(crate) use rate::{VP8_QUALITY_RATE, usual_buffer, usual_peak};
use shape::Shape;
pub(crate) use shape::{USUAL_FPS, known_fps};
pub(crate) use speed::vpx_pace;
use streams::{Chosen, Inputs};
pub use thumbnail::{Frame, thumbnail_arguments};
pub use trial::{
    common_trial_arguments, decode_arguments, packet_arguments, presentation_decode_arguments,
    presentation_packet_arguments, source_decode_arguments, source_packet_arguments, taken_decode_arguments,
    trial_arguments,
};
pub(crate) use video::gop;

/// Seconds of the source that are decoded and thrown away before a start in the middle: a seek by key frame alone is not
/// exact in every container.
const PREROLL_SECS: f64 = 10.0;

/// What to plan for.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The encode.
    pub encode: &'a Encode,
    /// The encoder, one that works here; absent where the video is not encoded.
    pub encoder: Option<Encoder>,
    /// The device that encodes; absent: the first of the encoder's family, or none.
    pub device: Option<Device>,
    /// The source file and what is in it; absent where the source is generated.
    pub source: Option<(&'a Path, &'a Probed)>,
    /// The file to write.
    pub output: &'a Path,
    /// Which output of its job it is, from 0: what it keeps for itself between runs has names of its own.
    pub number: usize,
    /// Threads that each part of the tool may start.
    pub threads: u32,
    /// What the worker can do, see [`crate::message::Ability::features`].
    pub features: &'a [String],
    /// The source's loudness, once the plan's first step has measured it.
    pub loudness: Option<Measured>,
}

impl Request<'_> {
    fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|known| known == feature)
    }

    /// The file into which subtitles are taken before they are burnt in.
    fn subtitles_file(&self) -> String {
        format!("{}.ass", self.own("subtitles"))
    }

    /// Where two passes keep what the first one found.
    fn pass_file(&self) -> String {
        self.own("passes")
    }

    fn own(&self, name: &str) -> String {
        if self.number == 0 { name.to_owned() } else { format!("{name}-{}", self.number) }
    }
}

/// What to run, in this order, and what must come out.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The runs. The last one makes the output.
    pub steps: Vec<Step>,
    /// What the output must be.
    pub expected: Expected,
}

impl Plan {
    /// Arguments of the run that makes the output.
    ///
    /// # Panics
    /// Never: a plan has a last step.
    #[must_use]
    pub fn arguments(&self) -> &[OsString] {
        &self.steps.last().expect("a plan has a last step").arguments
    }
}

/// One run of FFmpeg.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What it is for.
    pub purpose: Purpose,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Measures the loudness of the source; the plan is made again with what it said.
    Loudness,
    /// Takes the subtitles out that the encode burns in.
    Subtitles,
    /// The first of two passes.
    FirstPass,
    /// Makes the output.
    Encode,
}

impl Purpose {
    /// In a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Purpose::Loudness => "measure loudness",
            Purpose::Subtitles => "take out subtitles",
            Purpose::FirstPass => "first pass",
            Purpose::Encode => "encode",
        }
    }

    /// Its part of the whole work, roughly, against 1 for an encode.
    #[must_use]
    pub fn weight(self) -> f64 {
        match self {
            Purpose::Loudness | Purpose::Subtitles => 0.1,
            Purpose::FirstPass => 0.5,
            Purpose::Encode => 1.0,
        }
    }
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The source has nothing of what is asked for.
    #[error("{0}")]
    Input(&'static str),
    /// The job asks for what cannot be made of this source here.
    #[error("{0}")]
    Job(Fault),
}

impl Refusal {
    fn job(field: &str, code: &str, message: impl Into<String>) -> Refusal {
        Refusal::Job(Fault::new(format!("parameters.{field}"), code, message))
    }
}

/// The encoder for a video: the first of those that may make it that `has` names. `None` where there is none,
/// or where the video is not encoded.
#[must_use]
pub fn choose_encoder(video: &VideoEncode, has: impl Fn(Encoder) -> bool) -> Option<Encoder> {
    if video.treatment != Treatment::Encode {
        return None;
    }
    video.candidates().into_iter().find(|encoder| has(*encoder))
}

/// The plan of an encode.
///
/// # Errors
/// When the source does not have what is asked for, or what is asked for does not go with it.
pub fn plan(request: &Request<'_>) -> Result<Plan, Refusal> {
    let whole = Whole::of(request)?;
    let mut steps = whole.before();
    if request.encode.video.two_pass {
        steps.push(Step { purpose: Purpose::FirstPass, arguments: run(&[&whole], Some(1))? });
    }
    let pass = request.encode.video.two_pass.then_some(2);
    steps.push(Step { purpose: Purpose::Encode, arguments: run(&[&whole], pass)? });
    Ok(Plan { steps, expected: whole.expected })
}

/// One run that makes the outputs of these, or the first pass of one.
fn run(made: &[&Whole<'_>], pass: Option<u8>) -> Result<Vec<OsString>, Refusal> {
    let Some(first) = made.first() else { return Ok(Vec::new()) };
    let mut arguments = head(first.request);
    let mut opened = Vec::new();
    for Request { encoder, device, .. } in made.iter().map(|whole| whole.request) {
        let Some((encoder, family)) = encoder.and_then(|encoder| Some((encoder, encoder.family()?))) else { continue };
        // One run has one device of each family.
        if !opened.contains(&family) {
            video::open_device(encoder, *device, &mut arguments);
            opened.push(family);
        }
    }
    let input = streams::inputs(made, &mut arguments);
    for whole in made {
        whole.output(&input, pass, &mut arguments)?;
    }
    Ok(arguments.list)
}

/// Everything that an output of a run is made of.
struct Whole<'a> {
    request: &'a Request<'a>,
    shape: Option<Shape>,
    chosen: Chosen,
    expected: Expected,
}

impl<'a> Whole<'a> {
    fn of(request: &'a Request<'a>) -> Result<Whole<'a>, Refusal> {
        let lacking = request.encode.quality.iter().flat_map(|quality| &quality.metrics);
        if let Some(metric) = lacking.copied().find(|metric| !request.has(metric.filter())) {
            let filter = metric.filter();
            let message = format!("{metric} cannot be measured here: FFmpeg has no filter {filter}");
            return Err(Refusal::job("quality", "unsupported", message));
        }
        let chosen = Chosen::of(request)?;
        let shape = Shape::of(request)?;
        let expected = expected::expected(request, shape.as_ref(), &chosen)?;
        Ok(Whole { request, shape, chosen, expected })
    }

    /// What must be known or at hand before it is made.
    fn before(&self) -> Vec<Step> {
        let Whole { request, chosen, expected, .. } = self;
        let mut steps = Vec::new();
        if request.encode.audio.loudness.is_some() && !expected.audio.is_empty() {
            steps.push(Step { purpose: Purpose::Loudness, arguments: loudness::measurement(request, chosen) });
        }
        if request.encode.subtitles == SubtitleMode::Burn && !chosen.subtitles.is_empty() {
            steps.push(Step { purpose: Purpose::Subtitles, arguments: streams::extraction(request, chosen) });
        }
        steps
    }

    /// One output of a run: everything that stands between the inputs, or the output before, and the end of its file.
    fn output(&self, input: &Inputs, pass: Option<u8>, arguments: &mut Arguments) -> Result<(), Refusal> {
        let request = self.request;
        let trimmed = input.left(request);
        if let Some(shape) = &self.shape {
            arguments.all(["-map", "0:V:0"]);
            self.video(shape, pass, trimmed, arguments)?;
        }
        if pass == Some(1) {
            trim(request, trimmed, arguments);
            arguments.all(["-an", "-sn", "-dn", "-f", "null", "-"]);
            return Ok(());
        }
        audio::audio(request, &self.chosen, &self.expected, input, arguments)?;
        streams::rest(request, &self.chosen, arguments);
        trim(request, trimmed, arguments);
        streams::output(request, arguments);
        if self.expected.pictures.is_some() && request.source.is_some() {
            // Pictures may be far apart: that the source is being read shows in what is written nowhere.
            arguments.all(["-map", "0:V:0", "-c", "copy"]);
            if let Some(secs) = request.encode.duration_secs {
                arguments.pair("-t", trimmed + secs);
            }
            arguments.all(["-f", "null", "-"]);
        }
        debug_assert!(self.shape.is_some() || request.encode.video.treatment != Treatment::Encode);
        Ok(())
    }

    /// `from`: the second of what is read at which the output begins.
    fn video(&self, shape: &Shape, pass: Option<u8>, from: f64, arguments: &mut Arguments) -> Result<(), Refusal> {
        let request = self.request;
        match (request.encode.video.treatment, request.encoder) {
            (Treatment::Copy, _) => arguments.pair("-c:v", "copy"),
            (Treatment::Picture, _) => {
                arguments.pair(
                    "-vf",
                    match &self.expected.pictures {
                        Some(schedule) => filters::of_pictures(request, shape, schedule, from)?,
                        None => filters::filters(request, shape, &self.chosen)?,
                    },
                );
                video::picture(request, arguments);
            }
            (Treatment::Encode, Some(encoder)) => {
                arguments.pair("-vf", filters::filters(request, shape, &self.chosen)?);
                let passes = pass.map(|number| video::Pass { number, file: request.pass_file() });
                video::video(&request.encode.video, encoder, shape, request.threads, passes.as_ref(), arguments);
                video::choose_device(encoder, request.device, arguments);
                video::segments(request.encode.segments, arguments);
            }
            (Treatment::Encode, None) | (Treatment::Drop, _) => {}
        }
        Ok(())
    }
}

/// What every run begins with.
fn head(request: &Request<'_>) -> Arguments {
    let mut arguments = Arguments::default();
    arguments.all(COMMON);
    arguments.pair("-threads", request.threads);
    arguments.pair("-filter_threads", request.threads);
    arguments.pair("-filter_complex_threads", request.threads);
    arguments
}

/// Start and length of what is written; `start` counts from where reading begins.
fn trim(request: &Request<'_>, start: f64, arguments: &mut Arguments) {
    if start > 0.0 {
        arguments.pair("-ss", start);
    }
    if request.encode.video.treatment == Treatment::Picture && request.encode.pictures.is_none() {
        arguments.all(["-frames:v", "1"]);
    } else if let (Some(secs), Some(_)) = (request.encode.duration_secs, request.source) {
        arguments.pair("-t", secs);
    }
}

#[cfg(test)]
mod tests;
