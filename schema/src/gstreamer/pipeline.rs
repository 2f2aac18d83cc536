//! The pipeline of one encode.
//!
//! Invariant: what must come out is FFmpeg's plan for the same request, so that one proof serves both engines.

use std::ffi::OsString;

use super::{PROGRESS, SOURCE, Value, audio_encoder, encoders, muxer, source};
use crate::encode::{AudioChoice, Container, Encode, Fit, Fps, Source};
use crate::plan::{ExpectedVideo, Plan, Refusal, Request, USUAL_FPS, gop, known_fps};
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
    words: Vec<String>,
    elements: Vec<&'static str>,
}

impl Pipeline {
    /// Arguments of `gst-launch-1.0`. A pipeline that crashes is to end: by itself the tool would wait for a debugger.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        std::iter::once("--no-fault".to_owned()).chain(self.words.iter().cloned()).map(OsString::from).collect()
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
    fn end_in_pad(&mut self, pad: &'static str) {
        self.words.extend(["!".to_owned(), pad.to_owned()]);
    }

    /// Goes on from a pad of an element that stands elsewhere.
    fn from(&mut self, pad: &'static str) {
        self.words.push(pad.to_owned());
    }

    fn queue(&mut self) {
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
    let mut pipeline = Pipeline::default();
    match probed {
        Some(probed) => video_source(&mut pipeline, encode, probed, request.threads)?,
        None => picture(&mut pipeline, encode, video),
    }
    let report =
        [("name", Value::Word(PROGRESS)), ("update-freq", Value::Number(1)), ("do-query", Value::Word("false"))];
    pipeline.then("progressreport", &report);
    shape(&mut pipeline, encode, video, probed, request.threads);
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

fn video_source(pipeline: &mut Pipeline, encode: &Encode, probed: &Probed, threads: u32) -> Result<(), Refusal> {
    source::check(encode, probed)?;
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

/// A generated picture.
fn picture(pipeline: &mut Pipeline, encode: &Encode, video: &ExpectedVideo) {
    let fps = encode.video.fps.unwrap_or(Fps::whole(30));
    let frames = (generated_secs(encode) * fps.as_f64()).round().max(1.0) as u64;
    pipeline.begin("videotestsrc", &[("num-buffers", Value::Number(frames)), ("pattern", Value::Word("smpte"))]);
    let Fps { num, den } = fps;
    pipeline.caps(format!("video/x-raw,width={},height={},framerate={num}/{den}", video.width, video.height));
}

fn generated_secs(encode: &Encode) -> f64 {
    match encode.source {
        Source::Generated { duration_secs } => duration_secs,
        Source::File { .. } | Source::Remote { .. } | Source::Live { .. } => 0.0,
    }
}

fn shape(pipeline: &mut Pipeline, encode: &Encode, video: &ExpectedVideo, probed: Option<&Probed>, threads: u32) {
    let wish = &encode.video;
    let (width, height) = (video.width, video.height);
    let threads = Value::Number(u64::from(threads));
    pipeline.then("videoconvert", &[("n-threads", threads.clone())]);
    let is_sized = wish.size.is_some();
    if is_sized && wish.fit == Fit::Crop {
        pipeline.then("aspectratiocrop", &[("aspect-ratio", Value::Made(format!("{width}/{height}")))]);
    }
    let bars = if is_sized && wish.fit == Fit::Pad { "true" } else { "false" };
    let scale = [("method", Value::Word("catrom")), ("add-borders", Value::Word(bars)), ("n-threads", threads)];
    pipeline.then("videoscale", &scale);
    // A size is one of square pixels; without one they stay what they are.
    let (wide, high) = probed.filter(|_| !is_sized).map_or((1, 1), |probed| probed.sample_aspect);
    let mut caps = format!("video/x-raw,format=I420,width={width},height={height},pixel-aspect-ratio={wide}/{high}");
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
        Some(probed) => {
            let codec = probed.audio.first().map_or("unknown", |audio| audio.codec.as_str());
            let decoder = source::audio_decoder(codec)?;
            pipeline.from("demux.audio_0");
            pipeline.queue();
            for (element, properties) in decoder.elements(1) {
                pipeline.then(element, &properties);
            }
        }
        None => tone(pipeline, encode),
    }
    pipeline.then("audioconvert", &[]);
    pipeline.then("audioresample", &[]);
    let audio = &encode.audio;
    let mut caps = "audio/x-raw".to_owned();
    if let Some(channels) = audio.channels {
        caps += &format!(",channels={}", channels.count());
    }
    let own = (audio.codec == AudioChoice::Opus).then_some(48_000);
    if let Some(rate) = own.or(audio.sample_rate) {
        caps += &format!(",rate={rate}");
    }
    pipeline.caps(caps);
    Ok(())
}

/// A generated tone, as loud as FFmpeg's.
fn tone(pipeline: &mut Pipeline, encode: &Encode) {
    let (rate, samples) = TONE;
    let buffers = (generated_secs(encode) * f64::from(rate) / f64::from(samples)).round().max(1.0) as u64;
    let tone = [
        ("num-buffers", Value::Number(buffers)),
        ("samplesperbuffer", Value::Number(u64::from(samples))),
        ("freq", Value::Number(440)),
    ];
    pipeline.begin("audiotestsrc", &tone);
    pipeline.caps(format!("audio/x-raw,rate={rate},channels=1"));
    pipeline.then("volume", &[("volume", Value::Word("0.125"))]);
}
