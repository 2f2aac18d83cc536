//! The pipeline of one run of a live job: one source, one encode, one sink or recording.
//!
//! Invariant: elements that carry media in and out have names, by which the bus tells what failed. The only words that a user
//! wrote any part of are addresses of [`LiveAddress`]: it takes no blank, quote, bracket or backslash behind a host, and
//! the parser of `gst-launch-1.0` gives a meaning inside a word to nothing else.
//! Source: GStreamer 1.22 measured: without `auto-reconnect=false` SRT's elements hide that the other side was away; what a
//! muxer hands on is blocked until the sink behind it has taken the last.

use std::net::IpAddr;
use std::path::Path;

use super::pipeline::{Pipeline, Shaped, picture, shape, sound_caps, tone, video_source};
use super::{Value, audio_encoder, encoders, source};
use crate::encode::{Encode, Fps, Resolution, Source};
use crate::live::{LiveAddress, Protocol};
use crate::plan::live::{LiveRequest, LiveSource};
use crate::plan::{Refusal, USUAL_FPS, gop, known_fps};
use crate::probe::Probed;

/// The element that media come from.
pub const LIVE_SOURCE: &str = "source";
/// The element that media go to over the network.
pub const LIVE_SINK: &str = "sink";
/// The element that says what has come, packet by packet.
pub const ARRIVAL: &str = "arrival";
/// The element that a live source's sound comes to first.
pub const SOUND: &str = "sound";
/// How much longer than usual a muxer waits for a stream that is late, in nanoseconds.
const PATIENCE_NS: u64 = 1_000_000_000;
/// Packets of MPEG-TS in what is sent at once.
const TS_PACKETS: u64 = 7;
/// Seconds that a server may take to answer at most.
const ANSWER_SECS: u64 = 5;

/// How a protocol is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Speech {
    /// The feature of a worker that has all of its elements, with all of their properties.
    pub feature: &'static str,
    /// Its elements: source, demuxer, muxer, sink.
    pub elements: [&'static str; 4],
    /// What pipelines set of each, beside names. Elements of older versions lack some.
    pub properties: [&'static [&'static str]; 4],
}

/// How a protocol is spoken; `None`: it is not.
#[must_use]
pub fn speech(protocol: Protocol) -> Option<Speech> {
    match protocol {
        Protocol::Rtmp => Some(Speech {
            feature: "gstreamer-rtmp",
            elements: ["rtmp2src", "flvdemux", "flvmux", "rtmp2sink"],
            properties: [
                &["location", "timeout", "idle-timeout"],
                &[],
                &["latency", "streamable"],
                &["location", "timeout", "sync"],
            ],
        }),
        Protocol::Srt => Some(Speech {
            feature: "gstreamer-srt",
            elements: ["srtsrc", "tsdemux", "mpegtsmux", "srtsink"],
            properties: [
                &["uri", "auto-reconnect"],
                &[],
                &["latency", "alignment"],
                &["uri", "auto-reconnect", "sync"],
            ],
        }),
        Protocol::Rtmps | Protocol::Hls | Protocol::HlsTls => None,
    }
}

/// The pipeline of a run that [`super::refusals`] has nothing against. `probed` is what a file holds that is published; the
/// length of a generated source is the run's own.
///
/// # Errors
/// When the file is of a kind that GStreamer's engine does not read.
pub fn live_pipeline(request: &LiveRequest<'_>, probed: Option<&Probed>) -> Result<Pipeline, Refusal> {
    let encode = request.encode;
    let mut pipeline = Pipeline::live();
    match request.source {
        LiveSource::Live(address, ip, _) => live_source(&mut pipeline, request, address, ip),
        LiveSource::File(_) => {
            let probed = probed.ok_or(Refusal::Input("the input was not looked at"))?;
            video_source(&mut pipeline, probed, request.threads)?;
            pipeline.then("clocksync", &[]);
        }
        LiveSource::Generated => {
            let size = encode.video.size.unwrap_or(Resolution { width: 1280, height: 720 });
            picture(&mut pipeline, encode, (size.width, size.height), generated_secs(request), true);
        }
    }
    let shaped = Shaped {
        size: encode.video.size.map(|size| (size.width, size.height)),
        aspect: encode.video.size.map(|_| (1, 1)),
    };
    shape(&mut pipeline, encode, shaped, request.threads);
    let gop = u64::from(gop(&encode.video, fps(encode, probed)));
    encoders::video(&mut pipeline, &encode.video, gop, u64::from(request.threads));
    let Some(end) = End::of(request) else { return Err(Refusal::Input("the job has no output")) };
    if end.is_ts() {
        // Whoever comes in the middle needs what decoders begin with.
        pipeline.then("h264parse", &[("config-interval", Value::Word("-1"))]);
    }
    pipeline.queue();
    end.finish(&mut pipeline, request);
    if has_sound(request, probed) {
        sound(&mut pipeline, request, probed)?;
        encoders::audio(&mut pipeline, &encode.audio);
        pipeline.queue();
        pipeline.end_in_pad("mux.");
    }
    Ok(pipeline)
}

/// A live source is not looked at before: it has the sound that the job makes of it.
fn has_sound(request: &LiveRequest<'_>, probed: Option<&Probed>) -> bool {
    let is_there = match request.source {
        LiveSource::File(_) => probed.is_some_and(|probed| !probed.audio.is_empty()),
        LiveSource::Live(..) | LiveSource::Generated => true,
    };
    is_there && audio_encoder(request.encode.audio.codec).is_some()
}

fn fps(encode: &Encode, probed: Option<&Probed>) -> f64 {
    let own = || probed?.probe.video.as_ref()?.fps.and_then(known_fps);
    encode.video.fps.map(Fps::as_f64).or_else(own).unwrap_or(USUAL_FPS)
}

fn generated_secs(request: &LiveRequest<'_>) -> f64 {
    match (request.secs, &request.encode.source) {
        (Some(secs), _) => secs,
        (None, Source::Generated { duration_secs }) => *duration_secs,
        (None, Source::File { .. } | Source::Remote { .. } | Source::Live { .. }) => crate::scenario::GENERATED_SECS,
    }
}

fn answer_secs(request: &LiveRequest<'_>) -> Value {
    // Before the stall, which would blame the source.
    Value::Number((request.silence_secs / 4).clamp(1, ANSWER_SECS))
}

fn live_source(pipeline: &mut Pipeline, request: &LiveRequest<'_>, address: &LiveAddress, ip: Option<IpAddr>) {
    let Some(Speech { elements: [element, demuxer, ..], .. }) = speech(address.protocol) else { return };
    let mut properties = vec![("name", Value::Word(LIVE_SOURCE))];
    properties.extend(reached(address, ip));
    if address.protocol == Protocol::Rtmp {
        properties.push(("timeout", answer_secs(request)));
        properties.push(("idle-timeout", Value::Number(request.silence_secs)));
    }
    pipeline.begin(element, &properties);
    pipeline.then(demuxer, &[("name", Value::Word("demux"))]);
    pipeline.from("demux.");
    let [parser, decoder] = source::LIVE_VIDEO;
    pipeline.then(parser, &[]);
    pipeline.then("identity", &[("name", Value::Word(ARRIVAL)), ("silent", Value::Word("false"))]);
    pipeline.queue();
    pipeline.then(decoder, &[("max-threads", Value::Number(u64::from(request.threads)))]);
}

/// What tells an element where to go.
fn reached(address: &LiveAddress, ip: Option<IpAddr>) -> Vec<(&'static str, Value)> {
    match address.protocol {
        Protocol::Srt => vec![
            ("uri", Value::Made(address.srt_uri(ip))),
            // It would hide that the other side was away.
            ("auto-reconnect", Value::Word("false")),
        ],
        Protocol::Rtmp | Protocol::Rtmps | Protocol::Hls | Protocol::HlsTls => {
            vec![("location", Value::Made(address.dialled(ip)))]
        }
    }
}

/// Where a run's media go.
enum End<'a> {
    Sink(&'a LiveAddress, Option<IpAddr>, Speech),
    Recording(&'a Path),
}

impl<'a> End<'a> {
    fn of(request: &LiveRequest<'a>) -> Option<End<'a>> {
        match (request.recording, request.sinks.first()) {
            (Some(recording), _) => Some(End::Recording(recording)),
            (None, Some((sink, ip))) => Some(End::Sink(sink, *ip, speech(sink.protocol)?)),
            (None, None) => None,
        }
    }

    fn is_ts(&self) -> bool {
        match self {
            End::Recording(_) => true,
            End::Sink(sink, ..) => sink.protocol == Protocol::Srt,
        }
    }

    /// Muxer, what tells that media were taken, and the end.
    fn finish(&self, pipeline: &mut Pipeline, request: &LiveRequest<'_>) {
        let muxer = match self {
            End::Recording(_) => "mpegtsmux",
            End::Sink(_, _, Speech { elements: [_, _, muxer, _], .. }) => muxer,
        };
        let mut properties = vec![("name", Value::Word("mux")), ("latency", Value::Number(PATIENCE_NS))];
        properties.push(if self.is_ts() {
            ("alignment", Value::Number(TS_PACKETS))
        } else {
            ("streamable", Value::Word("true"))
        });
        pipeline.then(muxer, &properties);
        pipeline.then("identity", &[("name", Value::Word(super::PROGRESS)), ("silent", Value::Word("false"))]);
        match self {
            End::Recording(path) => {
                let location = ("location", Value::Made(path.display().to_string()));
                // What was written is there, however the run ends.
                pipeline.then("filesink", &[location, ("buffer-mode", Value::Word("unbuffered"))]);
            }
            End::Sink(sink, ip, Speech { elements: [_, _, _, element], .. }) => {
                let mut properties = vec![("name", Value::Word(LIVE_SINK))];
                properties.extend(reached(sink, *ip));
                if sink.protocol == Protocol::Rtmp {
                    properties.push(("timeout", answer_secs(request)));
                }
                // Media come at their own speed already.
                properties.push(("sync", Value::Word("false")));
                pipeline.then(element, &properties);
            }
        }
    }
}

fn sound(pipeline: &mut Pipeline, request: &LiveRequest<'_>, probed: Option<&Probed>) -> Result<(), Refusal> {
    match (request.source, probed) {
        (LiveSource::Generated, _) | (LiveSource::File(_), None) => {
            tone(pipeline, generated_secs(request), true);
        }
        (LiveSource::File(_), Some(probed)) => {
            super::pipeline::audio_source(pipeline, probed, Some("clocksync"))?;
        }
        (LiveSource::Live(..), _) => {
            let [parser, decoder] = source::LIVE_AUDIO;
            pipeline.from("demux.");
            pipeline.then(parser, &[("name", Value::Word(SOUND))]);
            pipeline.queue();
            pipeline.then(decoder, &[]);
        }
    }
    sound_caps(pipeline, &request.encode.audio);
    Ok(())
}
