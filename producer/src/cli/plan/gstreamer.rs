//! What a worker would run for a job of GStreamer's engine.
//!
//! Invariant: made by the same functions as a worker's; GStreamer itself is not needed here.

use std::ffi::OsString;
use std::path::Path;

use ffpool_schema::encode::Encode;
use ffpool_schema::gstreamer;
use ffpool_schema::plan::{self, Refusal, Request};

use super::Run;

/// The runs of a worker, in order.
pub(super) fn runs(request: &Request<'_>, source: Option<&Path>) -> Result<Vec<Run>, Refusal> {
    let planned = plan::plan(request)?;
    let pipeline = gstreamer::pipeline(request, &planned)?;
    let sounds = planned.expected.audio.len();
    let reading = source.map(|path| plan::source_decode_arguments(path, sounds, request.threads));
    let reading = reading.map(|arguments| Run::of("read the source to its end", "ffmpeg", &arguments));
    let encode: Vec<OsString> = pipeline.arguments();
    Ok(reading.into_iter().chain([Run::of("encode", "gst-launch-1.0", &encode)]).collect())
}

/// The element that encodes the video.
pub(super) fn encoder(encode: &Encode) -> Option<&'static str> {
    gstreamer::video_encoder(encode.video.codec).map(|(element, _)| element)
}

/// What a worker must have, in words.
pub(super) fn needs(encode: &Encode) -> String {
    let mut named: Vec<&str> = Vec::new();
    let elements = gstreamer::encoders(encode).into_iter().map(|(element, _)| element);
    let elements = elements
        .chain(gstreamer::file_muxer(encode))
        .chain(gstreamer::speeches(encode).into_iter().flat_map(|speech| speech.elements));
    for element in elements {
        if !named.contains(&element) {
            named.push(element);
        }
    }
    let elements: Vec<String> =
        named.iter().map(|element| format!("{element} ({})", gstreamer::package(element))).collect();
    format!("a worker must have GStreamer with {}, and what reads the source", elements.join(", "))
}
