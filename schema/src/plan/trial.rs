//! Runs that look at something instead of making it: a trial of an encoder, a full decode, a list of packets.
//!
//! Invariant: they write nothing.

use std::ffi::OsString;
use std::path::Path;

use super::arguments::{Arguments, COMMON, READ_ONLY_FILES, READ_PRESENTATIONS, file_argument};
use super::shape::Shape;
use super::streams::{self, Chosen};
use super::{Expected, Refusal, Request, filters, head, loudness, trim, video};
use crate::device::Device;
use crate::encode::{
    AudioChoice, Deinterlace, Encoder, Fit, Hdr, PictureFormat, PixelFormat, RateControl, Treatment, VideoEncode,
};

/// Arguments of a full decode of a finished file, every error fatal. Where a loudness was asked for, it is measured too.
#[must_use]
pub fn decode_arguments(file: &Path, expected: &Expected, threads: u32) -> Vec<OsString> {
    let mut arguments = Arguments::default();
    arguments.all(COMMON);
    let is_heard = expected.audio.iter().any(|audio| audio.loudness.is_some());
    if is_heard {
        arguments.all(["-loglevel", "level+info"]);
    }
    arguments.pair("-threads", threads);
    arguments.pair("-filter_threads", threads);
    match PictureFormat::of(expected.container) {
        Some(format) => arguments.pair("-f", format.demuxer()),
        None if expected.container.is_streamed() => arguments.all(READ_PRESENTATIONS),
        None => arguments.all(READ_ONLY_FILES),
    }
    arguments.list.extend(["-i".into(), file_argument(file)]);
    if expected.video.is_some() {
        arguments.all(["-map", "0:V:0"]);
    }
    if !expected.audio.is_empty() {
        arguments.all(["-map", "0:a"]);
    }
    if is_heard {
        arguments.pair("-af", loudness::CHECK);
    }
    arguments.all(["-fps_mode", "passthrough", "-f", "null", "-"]);
    arguments.list
}

/// Arguments of a full decode of what is taken of a source, every error fatal: its video, and these audio streams.
#[must_use]
pub fn source_decode_arguments(file: &Path, audio: usize, threads: u32) -> Vec<OsString> {
    let mut arguments = Arguments::default();
    arguments.all(COMMON);
    arguments.pair("-threads", threads);
    arguments.all(READ_ONLY_FILES);
    arguments.list.extend(["-i".into(), file_argument(file)]);
    arguments.all(["-map", "0:V:0"]);
    for number in 0..audio {
        arguments.pair("-map", format!("0:a:{number}"));
    }
    arguments.all(["-fps_mode", "passthrough", "-f", "null", "-"]);
    arguments.list
}

/// Arguments that decode what an output takes of its source's video, every error fatal, and count its frames. Its other streams are
/// read too, because what begins first sets the clock of some formats.
///
/// # Errors
/// When the source does not have what is asked for.
pub fn taken_decode_arguments(request: &Request<'_>) -> Result<Vec<OsString>, Refusal> {
    let chosen = Chosen::of(request)?;
    let mut arguments = head(request);
    let left = streams::inputs_of_one(request, Shape::of(request)?.as_ref(), &mut arguments);
    arguments.all(["-map", "0:V:0"]);
    for number in &chosen.audio {
        arguments.pair("-map", format!("0:a:{number}"));
    }
    if request.encode.audio.codec == AudioChoice::Copy {
        arguments.all(["-c:a", "copy"]);
    }
    trim(request, left, &mut arguments);
    arguments.all(["-fps_mode", "passthrough", "-f", "null", "-"]);
    Ok(arguments.list)
}

/// ffprobe's arguments for one line for each packet of a source: its stream, its times, and whether its frame is shown.
#[must_use]
pub fn source_packet_arguments(file: &Path) -> Vec<OsString> {
    entries(file, READ_ONLY_FILES, "packet=stream_index,pts_time,dts_time,duration_time,flags")
}

/// ffprobe's arguments for one line for each packet: its stream, its times, its size.
#[must_use]
pub fn packet_arguments(file: &Path) -> Vec<OsString> {
    packets(file, READ_ONLY_FILES)
}

fn packets(file: &Path, how: [&str; 4]) -> Vec<OsString> {
    entries(file, how, "packet=stream_index,pts_time,dts_time,duration_time,size")
}

fn entries(file: &Path, how: [&str; 4], which: &str) -> Vec<OsString> {
    let mut arguments = Arguments::default();
    arguments.all(["-hide_banner", "-loglevel", "level+error"]);
    arguments.all(how);
    arguments.all(["-show_entries", which]);
    arguments.all(["-of", "compact=p=0", "-i"]);
    arguments.list.push(file_argument(file));
    arguments.list
}

/// Arguments of a full decode of one stream of a presentation, `v:0` or `a:0`, every error fatal.
#[must_use]
pub fn presentation_decode_arguments(file: &Path, kind: char, number: usize, threads: u32) -> Vec<OsString> {
    let mut arguments = Arguments::default();
    arguments.all(COMMON);
    arguments.pair("-threads", threads);
    arguments.all(READ_PRESENTATIONS);
    arguments.list.extend(["-i".into(), file_argument(file)]);
    arguments.pair("-map", format!("0:{kind}:{number}"));
    arguments.all(["-fps_mode", "passthrough", "-f", "null", "-"]);
    arguments.list
}

/// The same as [`packet_arguments`], of one stream of a presentation. FFmpeg 5.1 loses a packet where it reads several of DASH.
#[must_use]
pub fn presentation_packet_arguments(file: &Path, kind: char, number: usize) -> Vec<OsString> {
    let mut arguments = vec!["-select_streams".into(), format!("{kind}:{number}").into()];
    arguments.extend(packets(file, READ_PRESENTATIONS));
    arguments
}

/// Arguments that encode one frame with an encoder, on this device where it needs one, and keep nothing.
#[must_use]
pub fn trial_arguments(encoder: Encoder, device: Option<Device>) -> Vec<OsString> {
    let mut arguments = Arguments::default();
    arguments.all(TRIAL);
    video::open_device(encoder, device, &mut arguments);
    arguments.all(TRIAL_SOURCE);
    one_frame(encoder, device, &mut arguments);
    arguments.list
}

/// Arguments of one run that encodes one frame with each of these encoders, none of which needs a device, and keeps nothing. It fails
/// where one of them does.
#[must_use]
pub fn common_trial_arguments(encoders: &[Encoder]) -> Vec<OsString> {
    let mut arguments = Arguments::default();
    arguments.all(TRIAL);
    arguments.all(TRIAL_SOURCE);
    for encoder in encoders {
        one_frame(*encoder, None, &mut arguments);
    }
    arguments.list
}

const TRIAL: [&str; 4] = ["-nostdin", "-hide_banner", "-loglevel", "error"];
const TRIAL_SOURCE: [&str; 4] = ["-f", "lavfi", "-i", "testsrc2=size=256x256:rate=30"];

/// An output of one frame that is thrown away.
fn one_frame(encoder: Encoder, device: Option<Device>, arguments: &mut Arguments) {
    let rate = RateControl::Crf { crf: 30, maxrate: None, bufsize: None };
    let trial = VideoEncode {
        codec: encoder.codec(),
        encoder: Some(encoder),
        size: None,
        fps: None,
        pixel_format: PixelFormat::Yuv420p,
        rate,
        preset: Some("ultrafast".to_owned()),
        tune: None,
        gop: None,
        treatment: Treatment::Encode,
        two_pass: false,
        profile: None,
        fit: Fit::Pad,
        crop: None,
        deinterlace: Deinterlace::Off,
        hdr: Hdr::Auto,
        hw: None,
    };
    let shape = Shape::plain(256, 256, None);
    arguments.all(["-frames:v", "1"]);
    arguments.pair("-vf", filters::pixels(encoder, PixelFormat::Yuv420p));
    video::video(&trial, encoder, &shape, 1, None, arguments);
    video::choose_device(encoder, device, arguments);
    arguments.all(["-f", "null", "-"]);
}
