//! The pipeline of one encode.
//!
//! Invariant: what must come out is FFmpeg's plan for the same request, so that one proof serves both engines.

use std::ffi::OsString;

use super::{PROGRESS, SOURCE, Value, audio_encoder, encoders, muxer, source};
use crate::encode::{AudioChoice, AudioEncode, Container, Encode, Fit, Fps, Source};
use crate::plan::{Plan, Refusal, Request, USUAL_FPS, gop, known_fps};
use crate::probe::Probed;

/// The rate of a generated tone, and samples in each of its buffers.
const TONE: (u32, u32) = (48_000, 480);
/// What waits between two elements, in packets that are not decoded: as much as a badly interleaved source makes wait.
const QUEUE_BYTES: u64 = 32 * 1024 * 1024;
/// What the muxer keeps of a file whose index goes to its front.
const FRONT: &str = "mux.data";

/// A pipeline as `gst-launch-1.0` takes it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pipeline {
    /// The tool's own options.
    options: &'static [&'static str],
    words: Vec<String>,
    elements: Vec<&'static str>,
}

/// A pipeline that crashes is to end: by itself the tool would wait for a debugger.
const OPTIONS: &[&str] = &["--no-fault"];
/// One that runs until it is told otherwise ends in good order then, and says what goes by.
const LIVE_OPTIONS: &[&str] = &["--no-fault", "--eos-on-shutdown", "--verbose"];

impl Pipeline {
    fn of_files() -> Pipeline {
        Pipeline { options: OPTIONS, ..Pipeline::default() }
    }

    pub(super) fn live() -> Pipeline {
        Pipeline { options: LIVE_OPTIONS, ..Pipeline::default() }
    }

    /// Arguments of `gst-launch-1.0`.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        self.options.iter().copied().chain(self.words.iter().map(String::as_str)).map(OsString::from).collect()
    }

    /// The elements that it is made of.
    #[must_use]
    pub fn elements(&self) -> &[&'static str] {
        &self.elements
    }

    pub(super) fn begin(&mut self, element: &'static str, properties: &[(&str, Value)]) {
        self.elements.push(element);
        self.words.push(element.to_owned());
        self.words.extend(properties.iter().map(|(name, value)| format!("{name}={value}")));
    }

    pub(super) fn then(&mut self, element: &'static str, properties: &[(&str, Value)]) {
        self.words.push("!".to_owned());
        self.begin(element, properties);
    }

    pub(super) fn caps(&mut self, caps: String) {
        self.words.extend(["!".to_owned(), caps]);
    }

    /// Ends in a pad of an element that stands elsewhere.
    pub(super) fn end_in_pad(&mut self, pad: &'static str) {
        self.words.extend(["!".to_owned(), pad.to_owned()]);
    }

    /// Goes on from a pad of an element that stands elsewhere.
    pub(super) fn from(&mut self, pad: &'static str) {
        self.words.push(pad.to_owned());
    }

    pub(super) fn queue(&mut self) {
        let bounds = [
            ("max-size-buffers", Value::Number(0)),
            ("max-size-time", Value::Number(0)),
            ("max-size-bytes", Value::Number(QUEUE_BYTES)),
        ];
        self.then("queue", &bounds);
    }
}

/// The pipeline of an encode that [`super::refusals`] has nothing against. `plan` is FFmpeg's for the same request: what must
/// come out.
///
/// # Errors
/// When the source is of a kind that GStreamer's engine does not read.
pub fn pipeline(request: &Request<'_>, plan: &Plan) -> Result<Pipeline, Refusal> {
    let encode = request.encode;
    let video = plan.expected.video.as_ref().ok_or(Refusal::Input("the input has no video stream"))?;
    let has_audio = !plan.expected.audio.is_empty() && audio_encoder(encode.audio.codec).is_some();
    let probed = match (&encode.source, request.source) {
        (Source::Generated { .. }, _) | (_, None) => None,
        (_, Some((_, probed))) => Some(probed),
    };
    let mut pipeline = Pipeline::of_files();
    match probed {
        Some(probed) => {
            source::check_chapters(encode, probed)?;
            video_source(&mut pipeline, probed, request.threads)?;
        }
        None => picture(&mut pipeline, encode, (video.width, video.height), generated_secs(encode), false),
    }
    let report =
        [("name", Value::Word(PROGRESS)), ("update-freq", Value::Number(1)), ("do-query", Value::Word("false"))];
    pipeline.then("progressreport", &report);
    let is_sized = encode.video.size.is_some();
    // A size is one of square pixels; without one they stay what they are.
    let aspect = probed.filter(|_| !is_sized).map_or((1, 1), |probed| probed.sample_aspect);
    let shaped = Shaped { size: Some((video.width, video.height)), aspect: Some(aspect) };
    shape(&mut pipeline, encode, shaped, request.threads);
    let rate = video.fps.or_else(|| source_fps(probed)).unwrap_or(USUAL_FPS);
    let gop = u64::from(gop(&encode.video, rate));
    encoders::video(&mut pipeline, &encode.video, gop, u64::from(request.threads));
    pipeline.queue();
    mux(&mut pipeline, encode.container);
    pipeline.then("filesink", &[("location", Value::Made(request.output.display().to_string()))]);
    if has_audio {
        sound(&mut pipeline, encode, probed)?;
        encoders::audio(&mut pipeline, &encode.audio);
        pipeline.queue();
        pipeline.end_in_pad("mux.");
    }
    Ok(pipeline)
}

fn source_fps(probed: Option<&Probed>) -> Option<f64> {
    probed?.probe.video.as_ref()?.fps.and_then(known_fps)
}

pub(super) fn video_source(pipeline: &mut Pipeline, probed: &Probed, threads: u32) -> Result<(), Refusal> {
    source::check(probed)?;
    let video = probed.probe.video.as_ref().ok_or(Refusal::Input("the input has no video stream"))?;
    pipeline.begin("filesrc", &[("location", Value::Word(SOURCE))]);
    pipeline.then(source::demuxer(probed)?, &[("name", Value::Word("demux"))]);
    pipeline.from("demux.video_0");
    pipeline.queue();
    for (element, properties) in source::video_decoder(&video.codec)?.elements(threads) {
        pipeline.then(element, &properties);
    }
    Ok(())
}

/// A generated picture; live: as fast as it plays.
pub(super) fn picture(pipeline: &mut Pipeline, encode: &Encode, size: (u32, u32), secs: f64, is_live: bool) {
    let fps = encode.video.fps.unwrap_or(Fps::whole(30));
    let frames = (secs * fps.as_f64()).round().max(1.0) as u64;
    let properties = [("num-buffers", Value::Number(frames)), ("pattern", Value::Word("smpte"))];
    pipeline.begin("videotestsrc", &with_pace(&properties, is_live));
    let (Fps { num, den }, (width, height)) = (fps, size);
    pipeline.caps(format!("video/x-raw,width={width},height={height},framerate={num}/{den}"));
}

fn with_pace(properties: &[(&'static str, Value)], is_live: bool) -> Vec<(&'static str, Value)> {
    let pace = is_live.then_some(("is-live", Value::Word("true")));
    properties.iter().cloned().chain(pace).collect()
}

fn generated_secs(encode: &Encode) -> f64 {
    match encode.source {
        Source::Generated { duration_secs } => duration_secs,
        Source::File { .. } | Source::Remote { .. } | Source::Live { .. } => 0.0,
    }
}

/// What a picture must be. What is absent stays as it comes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shaped {
    pub(super) size: Option<(u32, u32)>,
    /// Of its pixels.
    pub(super) aspect: Option<(u32, u32)>,
}

pub(super) fn shape(pipeline: &mut Pipeline, encode: &Encode, shaped: Shaped, threads: u32) {
    let wish = &encode.video;
    let threads = Value::Number(u64::from(threads));
    pipeline.then("videoconvert", &[("n-threads", threads.clone())]);
    let sized = shaped.size.filter(|_| wish.size.is_some());
    if let Some((width, height)) = sized.filter(|_| wish.fit == Fit::Crop) {
        pipeline.then("aspectratiocrop", &[("aspect-ratio", Value::Made(format!("{width}/{height}")))]);
    }
    let bars = if sized.is_some() && wish.fit == Fit::Pad { "true" } else { "false" };
    let scale = [("method", Value::Word("catrom")), ("add-borders", Value::Word(bars)), ("n-threads", threads)];
    pipeline.then("videoscale", &scale);
    let mut caps = "video/x-raw,format=I420".to_owned();
    if let Some((width, height)) = shaped.size {
        caps += &format!(",width={width},height={height}");
    }
    if let Some((wide, high)) = shaped.aspect {
        caps += &format!(",pixel-aspect-ratio={wide}/{high}");
    }
    if let Some(Fps { num, den }) = wish.fps {
        pipeline.then("videorate", &[]);
        caps += &format!(",framerate={num}/{den}");
    }
    pipeline.caps(caps);
}

fn mux(pipeline: &mut Pipeline, container: Container) {
    let Some(element) = muxer(container) else { return };
    let mut properties = vec![("name", Value::Word("mux"))];
    if matches!(container, Container::Mp4 | Container::Mov) {
        // Elsewhere than in the scratch it would be under no limit.
        properties.extend([("faststart", Value::Word("true")), ("faststart-file", Value::Word(FRONT))]);
    }
    pipeline.then(element, &properties);
}

/// The sound as the encoder takes it.
fn sound(pipeline: &mut Pipeline, encode: &Encode, probed: Option<&Probed>) -> Result<(), Refusal> {
    match probed {
        Some(probed) => audio_source(pipeline, probed, None)?,
        None => tone(pipeline, generated_secs(encode), false),
    }
    sound_caps(pipeline, &encode.audio);
    Ok(())
}

/// The sound of a file; `pace`: what holds it to its own speed.
pub(super) fn audio_source(
    pipeline: &mut Pipeline,
    probed: &Probed,
    pace: Option<&'static str>,
) -> Result<(), Refusal> {
    let codec = probed.audio.first().map_or("unknown", |audio| audio.codec.as_str());
    let decoder = source::audio_decoder(codec)?;
    pipeline.from("demux.audio_0");
    pipeline.queue();
    if let Some(element) = pace {
        pipeline.then(element, &[]);
    }
    for (element, properties) in decoder.elements(1) {
        pipeline.then(element, &properties);
    }
    Ok(())
}

/// What the sound must be.
pub(super) fn sound_caps(pipeline: &mut Pipeline, audio: &AudioEncode) {
    pipeline.then("audioconvert", &[]);
    pipeline.then("audioresample", &[]);
    let mut caps = "audio/x-raw".to_owned();
    if let Some(channels) = audio.channels {
        caps += &format!(",channels={}", channels.count());
    }
    let own = (audio.codec == AudioChoice::Opus).then_some(48_000);
    if let Some(rate) = own.or(audio.sample_rate) {
        caps += &format!(",rate={rate}");
    }
    pipeline.caps(caps);
}

/// A generated tone, as loud as FFmpeg's; live: as fast as it plays.
pub(super) fn tone(pipeline: &mut Pipeline, secs: f64, is_live: bool) {
    let (rate, samples) = TONE;
    let buffers = (secs * f64::from(rate) / f64::from(samples)).round().max(1.0) as u64;
    let tone = [
        ("num-buffers", Value::Number(buffers)),
        ("samplesperbuffer", Value::Number(u64::from(samples))),
        ("freq", Value::Number(440)),
    ];
    pipeline.begin("audiotestsrc", &with_pace(&tone, is_live));
    pipeline.caps(format!("audio/x-raw,rate={rate},channels=1"));
    pipeline.then("volume", &[("volume", Value::Word("0.125"))]);
}
