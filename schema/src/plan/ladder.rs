//! From a job's encode and its source to the outputs that it makes: the rungs of a ladder are chosen here.
//!
//! Invariant: pure; the rungs of a source are always among those that [`possible`] names before it is known, so that their
//! addresses can be told, compared and looked at without it.

use std::path::PathBuf;

use super::{Refusal, shape};
use crate::encode::{AudioChoice, Bitrate, Container, Encode, Fps, Keep, Ladder, Resolution, Rung, VideoCodec};
use crate::probe::Probed;

/// The usual rungs with their rates in H.264 up to 30 frames a second, largest first.
const USUAL: [(Resolution, u64); 7] = [
    (Resolution { width: 3840, height: 2160 }, 14_000_000),
    (Resolution { width: 2560, height: 1440 }, 9_000_000),
    (Resolution { width: 1920, height: 1080 }, 5_000_000),
    (Resolution { width: 1280, height: 720 }, 2_500_000),
    (Resolution { width: 854, height: 480 }, 1_000_000),
    (Resolution { width: 640, height: 360 }, 600_000),
    (Resolution { width: 426, height: 240 }, 300_000),
];
/// Above this rate frames are many: they take half as much again.
const FAST_FPS: f64 = 33.0;
const FAST_FACTOR: f64 = 1.5;
/// The least that a rung gets, in bits per second.
const LEAST: f64 = 100_000.0;
/// Rates that are worked out are whole multiples of this.
const STEP: f64 = 10_000.0;

/// An output that a job makes.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// What it is called in manifests: a rung by its name, another by the field of the job that asks for it. `None` where
    /// the job has one output.
    pub name: Option<String>,
    /// Which of the job's outputs asks for it, 0 for its own.
    pub number: usize,
    /// The rung that it is.
    pub rung: Option<String>,
    /// What it is, with no ladder and no others.
    pub encode: Encode,
    /// The renditions that it is made of, where it is a presentation for streaming. The first has the sound of all. Of a set of
    /// pictures: one file with all of them.
    pub renditions: Vec<Rendition>,
}

/// One rendition of a presentation, made into a file of its own first.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendition {
    /// Its name: a rung's, or `main`.
    pub name: String,
    /// What it is.
    pub encode: Encode,
}

impl Output {
    /// The name of its file in the scratch, `place` being its place among the outputs.
    #[must_use]
    pub fn file_name(&self, place: usize) -> PathBuf {
        let end = self.encode.container.extension();
        PathBuf::from(if place == 0 { format!("encode.{end}") } else { format!("encode-{place}.{end}") })
    }
}

/// What a job makes of its source, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Outputs {
    /// The outputs, in the order of the job.
    pub list: Vec<Output>,
    /// Why the ladder is as it is, one sentence a rung.
    pub reasons: Vec<String>,
}

/// The outputs of a job, from its source. Without one they are of what is generated.
///
/// # Errors
/// When the source has no picture of which there could be rungs.
pub fn outputs(encode: &Encode, source: Option<&Probed>) -> Result<Outputs, Refusal> {
    let mut reasons = Vec::new();
    let own = match &encode.ladder {
        None => vec![single(encode, 0)],
        Some(ladder) => {
            let picture = Picture::of(encode, source)?;
            match ladder {
                Ladder::Auto => picture.chosen(encode, &mut reasons),
                Ladder::Rungs(rungs) => rungs.iter().map(|rung| picture.asked(encode, *rung, &mut reasons)).collect(),
            }
        }
    };
    let own = match (encode.segments, encode.pictures) {
        (Some(_), _) => vec![streamed(encode, own, 0)],
        (None, Some(_)) => vec![pictured(encode, 0)],
        (None, None) => own,
    };
    let mut list = named(encode, own);
    for output in &mut list {
        cut_evenly(output, source);
    }
    Ok(Outputs { list, reasons })
}

/// An output that a job may come to, before its source is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Possible {
    /// What is called what, and goes where. Of a rung that is chosen from the source nothing else is known.
    pub output: Output,
    /// Whether it is made whatever the source is.
    pub is_sure: bool,
}

/// Every output that a job may come to.
#[must_use]
pub fn possible(encode: &Encode) -> Vec<Possible> {
    let ladder = encode.ladder.as_ref().filter(|_| encode.segments.is_none());
    let own: Vec<Output> = match ladder {
        None => vec![single(encode, 0)],
        Some(ladder) => rungs(ladder).into_iter().map(|rung| rung_of(encode, rung)).collect(),
    };
    let is_open = ladder == Some(&Ladder::Auto);
    let possible = |output: Output| Possible { is_sure: !is_open || output.number > 0, output };
    named(encode, own).into_iter().map(possible).collect()
}

/// What is known of the source's picture.
struct Picture {
    width: f64,
    height: f64,
    fps: f64,
    /// Its own rate as one of the codec that is made, where it is known.
    most: Option<f64>,
}

impl Picture {
    fn of(encode: &Encode, source: Option<&Probed>) -> Result<Picture, Refusal> {
        let wish = &encode.video;
        let fps = |own: Option<f64>| wish.fps.map(Fps::as_f64).or(own).unwrap_or(30.0);
        let Some(probed) = source else {
            let size = wish.size.unwrap_or(Resolution { width: 1280, height: 720 });
            let (width, height) = (f64::from(size.width), f64::from(size.height));
            return Ok(Picture { width, height, fps: fps(None), most: None });
        };
        let video = probed.probe.video.as_ref().ok_or(Refusal::Input("the input has no video stream"))?;
        let (width, height) = shape::taken(wish, video)?;
        if width == 0 || height == 0 {
            return Err(Refusal::Input("the input's video has no size"));
        }
        let (wide, high) = probed.sample_aspect;
        let own = probed.video_bitrate.or(probed.probe.bitrate).filter(|rate| *rate > 0);
        Ok(Picture {
            width: f64::from(width) * f64::from(wide) / f64::from(high.max(1)),
            height: f64::from(height),
            fps: fps(video.fps),
            most: own.map(|rate| rate as f64 / thrift_of(&video.codec) * thrift(wish.codec)),
        })
    }

    /// The rungs at or below it, largest first: at least the smallest.
    fn chosen(&self, encode: &Encode, reasons: &mut Vec<String>) -> Vec<Output> {
        let fits = |size: Resolution| {
            let (width, height) = (f64::from(size.width), f64::from(size.height));
            (width / self.width).min(height / self.height) <= 1.0
        };
        let sizes = USUAL.map(|(size, _)| (Rung { size, bitrate: None }, self.turned(size)));
        let count = sizes.iter().filter(|(_, turned)| fits(*turned)).count();
        let (above, below) = sizes.split_at((sizes.len() - count).min(sizes.len() - 1));
        for (rung, _) in above {
            let (width, height) = (self.width.round(), self.height.round());
            reasons.push(format!("{}: left out, larger than the source, which is {width}x{height}", rung.name()));
        }
        let top = below.first().map_or(0.0, |(rung, _)| self.usual(rung.size, encode.video.codec));
        let factor = self.most.filter(|_| top > 0.0).map_or(1.0, |most| (most / top).min(1.0));
        let mut list = Vec::new();
        for (rung, turned) in below {
            let bitrate = stepped(self.usual(rung.size, encode.video.codec) * factor);
            let mut output = rung_of(encode, *rung);
            output.encode.video.size = fits(*turned).then_some(*turned);
            output.encode.video.rate = output.encode.video.rate.of_rung(bitrate);
            reasons.push(format!("{}: {}", rung.name(), self.why(bitrate, factor, fits(*turned))));
            list.push(output);
        }
        list
    }

    fn why(&self, bitrate: Bitrate, factor: f64, fits: bool) -> String {
        let size = if fits { "at or below the source's size" } else { "the smallest, at the source's own size" };
        let rate = match (factor < 1.0, self.fps > FAST_FPS) {
            (true, _) => format!("the usual rate times {factor:.2}, because the source has no more to give"),
            (false, true) => format!("the usual rate for {:.0} frames a second", self.fps),
            (false, false) => "the usual rate".to_owned(),
        };
        format!("{size}, {bitrate} bits per second: {rate}")
    }

    fn asked(&self, encode: &Encode, rung: Rung, reasons: &mut Vec<String>) -> Output {
        let mut output = rung_of(encode, rung);
        let usual = || stepped(self.usual(rung.size, encode.video.codec));
        let bitrate = rung.bitrate.unwrap_or_else(usual);
        output.encode.video.rate = output.encode.video.rate.of_rung(bitrate);
        let why = if rung.bitrate.is_some() { "asked for" } else { "the usual rate" };
        reasons.push(format!("{}: asked for, {bitrate} bits per second: {why}", rung.name()));
        output
    }

    /// A usual size as this picture lies: upright for one that is higher than wide.
    fn turned(&self, size: Resolution) -> Resolution {
        if self.height > self.width { Resolution { width: size.height, height: size.width } } else { size }
    }

    /// What a size usually gets: that of the next usual size, in the codec that is made.
    fn usual(&self, size: Resolution, codec: VideoCodec) -> f64 {
        let pixels = |size: Resolution| u64::from(size.width) * u64::from(size.height);
        let above = USUAL.iter().rev().find(|(usual, _)| pixels(*usual) >= pixels(size));
        let (_, rate) = above.unwrap_or(&USUAL[0]);
        let fast = if self.fps > FAST_FPS { FAST_FACTOR } else { 1.0 };
        *rate as f64 * thrift(codec) * fast
    }
}

fn stepped(rate: f64) -> Bitrate {
    Bitrate(((rate / STEP).round() * STEP).max(LEAST) as u64)
}

/// What a codec needs against H.264 for the same picture, roughly.
fn thrift(codec: VideoCodec) -> f64 {
    match codec {
        VideoCodec::H264 | VideoCodec::Vp8 => 1.0,
        VideoCodec::H265 | VideoCodec::Vp9 => 0.65,
        VideoCodec::Av1 => 0.5,
    }
}

/// The same of a source's codec. Older ones need twice as much.
fn thrift_of(codec: &str) -> f64 {
    VideoCodec::ALL.into_iter().find(|known| known.probe_name() == codec).map_or(2.0, thrift)
}

/// Every file that is encoded for these outputs, in order: the renditions of a presentation one by one, each as an output.
#[must_use]
pub fn files(outputs: &[Output]) -> Vec<Output> {
    let of = |output: &Output| match output.renditions.as_slice() {
        [] => vec![output.clone()],
        renditions => {
            let file = |rendition: &Rendition| Output {
                // Pictures are the output itself, in another form.
                name: if output.encode.pictures.is_some() { output.name.clone() } else { Some(rendition.name.clone()) },
                rung: Some(rendition.name.clone()),
                encode: Encode { output: output.encode.output.clone(), ..rendition.encode.clone() },
                renditions: Vec::new(),
                ..*output
            };
            renditions.iter().map(file).collect()
        }
    };
    outputs.iter().flat_map(of).collect()
}

/// The rungs that a ladder may come to.
#[must_use]
pub fn rungs(ladder: &Ladder) -> Vec<Rung> {
    match ladder {
        Ladder::Auto => USUAL.map(|(size, _)| Rung { size, bitrate: None }).into(),
        Ladder::Rungs(rungs) => rungs.clone(),
    }
}

/// An address with the name and the height of a rung in it.
#[must_use]
pub fn address(pattern: &str, rung: Rung) -> String {
    pattern.replace("{name}", &rung.name()).replace("{height}", &rung.size.height.to_string())
}

/// Whether an address has a place for what tells rungs apart.
#[must_use]
pub fn is_pattern(address: &str) -> bool {
    address.contains("{name}") || address.contains("{height}")
}

fn single(encode: &Encode, number: usize) -> Output {
    let encode = Encode { ladder: None, others: Vec::new(), ..encode.clone() };
    Output { name: None, number, rung: None, encode, renditions: Vec::new() }
}

/// A presentation of these.
fn streamed(encode: &Encode, made: Vec<Output>, number: usize) -> Output {
    let rendition = |(place, made): (usize, Output)| {
        let mut encode = made.encode;
        encode.output = None;
        encode.container = Container::Mp4;
        encode.metadata = Keep::Drop;
        encode.chapters = Keep::Drop;
        if place > 0 {
            encode.audio.codec = AudioChoice::None;
        }
        Rendition { name: made.rung.unwrap_or_else(|| "main".to_owned()), encode }
    };
    let renditions = made.into_iter().enumerate().map(rendition).collect();
    Output { renditions, ..single(encode, number) }
}

/// Has its segments begin with a frame each, where the rate of its frames is known.
fn cut_evenly(output: &mut Output, source: Option<&Probed>) {
    let rate = output.encode.video.fps.or(source.and_then(|probed| probed.rate));
    let Some((segments, rate)) = output.encode.segments.zip(rate) else { return };
    let segments = Some(segments.at(rate));
    output.encode.segments = segments;
    for rendition in &mut output.renditions {
        rendition.encode.segments = segments;
    }
}

/// A set of pictures, from one file that has them one after the other with their times.
fn pictured(encode: &Encode, number: usize) -> Output {
    let output = single(encode, number);
    let mut encode = output.encode.clone();
    encode.output = None;
    encode.container = Container::Mkv;
    encode.audio.codec = AudioChoice::None;
    encode.metadata = Keep::Drop;
    encode.chapters = Keep::Drop;
    Output { renditions: vec![Rendition { name: "pictures".to_owned(), encode }], ..output }
}

/// With the others, and each with its name.
fn named(encode: &Encode, own: Vec<Output>) -> Vec<Output> {
    let others = (1..).zip(&encode.others).map(|(number, other)| match (other.segments, other.pictures) {
        (Some(_), _) => streamed(other, vec![single(other, number)], number),
        (None, Some(_)) => pictured(other, number),
        (None, None) => single(other, number),
    });
    let mut list: Vec<Output> = own.into_iter().chain(others).collect();
    let is_one = list.len() == 1;
    for output in &mut list {
        output.name = match (&output.rung, output.number.checked_sub(1)) {
            (Some(rung), _) => Some(rung.clone()),
            (None, Some(index)) => Some(format!("outputs[{index}]")),
            (None, None) => (!is_one).then(|| "output".to_owned()),
        };
    }
    list
}

/// What a rung is called, its size and where it goes. Its rate is set when it is known.
fn rung_of(encode: &Encode, rung: Rung) -> Output {
    let mut encode = Encode { ladder: None, others: Vec::new(), ..encode.clone() };
    encode.output = encode.output.map(|pattern| address(&pattern, rung));
    encode.video.size = Some(rung.size);
    Output { name: None, number: 0, rung: Some(rung.name()), encode, renditions: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{Fit, RateControl};
    use crate::job::{JobSpec, Parameters};
    use crate::message::{Probe, VideoProbe};
    use crate::scenario::resolve;

    fn source(codec: &str, width: u32, height: u32, fps: f64, bits: u64) -> Probed {
        let video = VideoProbe { codec: codec.to_owned(), width, height, fps: Some(fps), ..VideoProbe::default() };
        let probe = Probe { video: Some(video), ..Probe::default() };
        Probed { probe, sample_aspect: (1, 1), video_bitrate: (bits > 0).then_some(bits), ..Probed::default() }
    }

    fn encode(parameters: Parameters) -> Encode {
        let mut spec = JobSpec::new("ladder-h264");
        spec.input = Some("/m/in.mkv".to_owned());
        spec.output = Some("/m/{name}/out-{height}.mp4".to_owned());
        spec.parameters = parameters;
        resolve(&spec).unwrap().unwrap()
    }

    /// Each rung as `name WxH rate`.
    fn rungs(encode: &Encode, source: &Probed) -> Vec<String> {
        let made = outputs(encode, Some(source)).unwrap().list;
        let describe = |output: Output| {
            let size = output.encode.video.size.map_or("source".to_owned(), |size| size.to_string());
            let rate = match output.encode.video.rate {
                RateControl::Bitrate { bitrate, .. } => format!("{}k", bitrate.0 / 1000),
                RateControl::Crf { crf, maxrate, .. } => format!("crf {crf} up to {}k", maxrate.unwrap().0 / 1000),
            };
            format!("{} {size} {rate}", output.name.unwrap())
        };
        made.into_iter().map(describe).collect()
    }

    #[test]
    fn rungs_lie_at_or_below_the_source() {
        let auto = encode(Parameters::default());
        let hd = source("h264", 1920, 1080, 25.0, 20_000_000);
        let usual = [
            "1080p 1920x1080 5000k",
            "720p 1280x720 2500k",
            "480p 854x480 1000k",
            "360p 640x360 600k",
            "240p 426x240 300k",
        ];
        assert_eq!(rungs(&auto, &hd), usual);
        // Wide films reach a rung by their width, upright ones by their height.
        assert_eq!(rungs(&auto, &source("h264", 1920, 800, 25.0, 0)).len(), 5);
        let upright = rungs(&auto, &source("h264", 1080, 1920, 60.0, 0));
        assert_eq!(upright[0], "1080p 1080x1920 7500k");
        // Less than the smallest is one rung at its own size.
        assert_eq!(rungs(&auto, &source("h264", 320, 180, 25.0, 0)), ["240p source 300k"]);
        // A source without bits to give gives no more to its rungs; a thriftier codec counts for what it holds.
        assert_eq!(
            rungs(&auto, &source("h264", 1280, 720, 25.0, 1_250_000))[..2],
            ["720p 1280x720 1250k", "480p 854x480 500k"]
        );
        assert_eq!(rungs(&auto, &source("hevc", 1280, 720, 25.0, 1_300_000))[0], "720p 1280x720 2000k");
        assert_eq!(auto.video.fit, Fit::Inside);
    }

    #[test]
    fn rungs_that_are_written_down_are_made_as_they_stand() {
        let ladder = Some("1080p:5000k,854x400:900k,240p".parse().unwrap());
        let asked = encode(Parameters { ladder, crf: Some(21), ..Parameters::default() });
        let made = rungs(&asked, &source("h264", 640, 360, 25.0, 0));
        assert_eq!(
            made,
            [
                "1080p 1920x1080 crf 21 up to 5000k",
                "854x400 854x400 crf 21 up to 900k",
                "240p 426x240 crf 21 up to 300k"
            ]
        );
        assert_eq!(asked.video.fit, Fit::Pad);
        for wrong in ["", "1080p,1080p:2M", "1080p:fast", "auto,720p", "huge:1M"] {
            assert!(wrong.parse::<Ladder>().is_err(), "{wrong}");
        }
        let text = "1080p:5000000,854x400:900000,240p";
        assert_eq!(text.parse::<Ladder>().unwrap().to_string(), text);
    }

    #[test]
    fn what_a_job_may_come_to_is_known_before_its_source() {
        let auto = encode(Parameters::default());
        let possible = possible(&auto);
        let made = outputs(&auto, Some(&source("h264", 1280, 720, 25.0, 0))).unwrap();
        for output in &made.list {
            let known = possible.iter().find(|known| known.output.name == output.name).unwrap();
            assert!(!known.is_sure && known.output.encode.output == output.encode.output);
        }
        assert_eq!(made.list[0].encode.output.as_deref(), Some("/m/720p/out-720.mp4"));
        assert_eq!(made.reasons.len(), 7, "every rung has its reason: {:?}", made.reasons);
    }
}
