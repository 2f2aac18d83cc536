//! The encoders, in each element's own words.
//!
//! Invariant: what bounds a rate is said, because the elements' own defaults bound it where nobody asked: `x264enc` keeps a
//! constant quality under 2048 kbit/s, `x265enc` tunes for SSIM, `vp9enc` holds 25 frames back and loses the last of them where
//! they are large (GStreamer 1.22 measured).

use super::pipeline::Pipeline;
use super::{Value, video_encoder};
use crate::encode::{AudioChoice, AudioEncode, Bitrate, Profile, RateControl, VideoCodec, VideoEncode};
use crate::plan::{VP8_QUALITY_RATE, usual_buffer, usual_peak, vpx_pace};

/// What `x264enc` may save up of an average: it is full at the beginning, and a short output is to keep to its average.
const AVERAGE_BUFFER_MS: u64 = 500;

/// `gop`: frames between key frames at most.
pub(super) fn video(pipeline: &mut Pipeline, wish: &VideoEncode, gop: u64, threads: u64) {
    match wish.codec {
        VideoCodec::H264 => x264(pipeline, wish, gop, threads),
        VideoCodec::H265 => x265(pipeline, wish, gop, threads),
        VideoCodec::Vp8 | VideoCodec::Vp9 => vpx(pipeline, wish, gop, threads),
        // Refused before.
        VideoCodec::Av1 => {}
    }
}

/// The preset, by the name that the elements know too.
fn preset(wish: &VideoEncode) -> Value {
    let known =
        ["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo"];
    let asked = wish.preset.as_deref();
    Value::Word(known.into_iter().find(|name| asked == Some(*name)).unwrap_or("medium"))
}

fn kilobits(bits: u64) -> u64 {
    (bits / 1000).max(1)
}

/// How long a peak rate fills its buffer.
pub(super) fn buffer_ms(peak: Bitrate, bufsize: Option<Bitrate>) -> u64 {
    bufsize.unwrap_or(usual_buffer(peak)).0.saturating_mul(1000) / peak.0.max(1)
}

fn x264(pipeline: &mut Pipeline, wish: &VideoEncode, gop: u64, threads: u64) {
    let mut properties =
        vec![("speed-preset", preset(wish)), ("key-int-max", Value::Number(gop)), ("threads", Value::Number(threads))];
    match wish.rate {
        RateControl::Crf { crf, maxrate, bufsize } => {
            properties.extend([("pass", Value::Word("qual")), ("quantizer", Value::Number(u64::from(crf)))]);
            match maxrate {
                Some(peak) => properties.extend([
                    ("bitrate", Value::Number(kilobits(peak.0))),
                    ("vbv-buf-capacity", Value::Number(buffer_ms(peak, bufsize))),
                ]),
                // Without a buffer there is no bound.
                None => properties.push(("vbv-buf-capacity", Value::Number(0))),
            }
        }
        RateControl::Bitrate { bitrate, .. } => properties.extend([
            ("pass", Value::Word("cbr")),
            ("bitrate", Value::Number(kilobits(bitrate.0))),
            ("vbv-buf-capacity", Value::Number(AVERAGE_BUFFER_MS)),
        ]),
    }
    match wish.tune.as_deref() {
        Some("film") => properties.push(("psy-tune", Value::Word("film"))),
        Some("animation") => properties.push(("psy-tune", Value::Word("animation"))),
        Some("grain") => properties.push(("psy-tune", Value::Word("grain"))),
        Some("psnr") => properties.push(("psy-tune", Value::Word("psnr"))),
        Some("ssim") => properties.push(("psy-tune", Value::Word("ssim"))),
        Some("stillimage") => properties.push(("tune", Value::Word("stillimage"))),
        Some("fastdecode") => properties.push(("tune", Value::Word("fastdecode"))),
        Some("zerolatency") => properties.push(("tune", Value::Word("zerolatency"))),
        Some(_) | None => {}
    }
    pipeline.then("x264enc", &properties);
    let profile = match wish.profile {
        Some(Profile::Baseline) => Some("constrained-baseline"),
        Some(Profile::Main) => Some("main"),
        // High is what it makes by itself; the others are refused before.
        Some(
            Profile::High
            | Profile::High10
            | Profile::High422
            | Profile::High444
            | Profile::Main10
            | Profile::Main422x10
            | Profile::Main444x8
            | Profile::Main444x10,
        )
        | None => None,
    };
    if let Some(profile) = profile {
        pipeline.caps(format!("video/x-h264,profile={profile}"));
    }
    pipeline.then("h264parse", &[]);
}

fn x265(pipeline: &mut Pipeline, wish: &VideoEncode, gop: u64, threads: u64) {
    let mut options = format!("pools={threads}:open-gop=0");
    let mut properties = vec![("speed-preset", preset(wish)), ("key-int-max", Value::Number(gop))];
    let mut bound = |peak: u64, bufsize: Option<Bitrate>, of: Bitrate| {
        let buffer = kilobits(bufsize.unwrap_or(usual_buffer(of)).0);
        options += &format!(":vbv-maxrate={}:vbv-bufsize={buffer}", kilobits(peak));
    };
    match wish.rate {
        RateControl::Crf { crf, maxrate, bufsize } => {
            if let Some(peak) = maxrate {
                bound(peak.0, bufsize, peak);
            }
            options += &format!(":crf={crf}");
        }
        RateControl::Bitrate { bitrate, maxrate, bufsize } => {
            bound(maxrate.map_or(usual_peak(bitrate), |peak| peak.0), bufsize, bitrate);
            properties.push(("bitrate", Value::Number(kilobits(bitrate.0))));
        }
    }
    let tune = ["psnr", "ssim", "grain", "zerolatency", "fastdecode", "animation"];
    let tune = tune.into_iter().find(|name| wish.tune.as_deref() == Some(*name));
    // Its name for none of them has a blank.
    properties.push(("tune", tune.map_or(Value::Number(0), Value::Word)));
    properties.push(("option-string", Value::Made(options)));
    pipeline.then("x265enc", &properties);
    pipeline.then("h265parse", &[]);
}

fn vpx(pipeline: &mut Pipeline, wish: &VideoEncode, gop: u64, threads: u64) {
    let is_vp9 = wish.codec == VideoCodec::Vp9;
    let (is_realtime, speed) = vpx_pace(wish.preset.as_deref(), true);
    let mut properties = vec![
        ("deadline", Value::Number(if is_realtime { 1 } else { 1_000_000 })),
        ("cpu-used", Value::Number(u64::from(speed))),
        ("threads", Value::Number(threads)),
        ("keyframe-max-dist", Value::Number(gop)),
        ("lag-in-frames", Value::Number(0)),
    ];
    match wish.rate {
        RateControl::Crf { crf, .. } => properties.extend([
            ("end-usage", Value::Word("cq")),
            // 4 is VP8's best.
            ("cq-level", Value::Number(u64::from(crf.max(4)))),
            ("target-bitrate", Value::Number(VP8_QUALITY_RATE)),
        ]),
        RateControl::Bitrate { bitrate, .. } => {
            properties.extend([("end-usage", Value::Word("cbr")), ("target-bitrate", Value::Number(bitrate.0))]);
        }
    }
    if is_vp9 {
        properties.push(("row-mt", Value::Word("true")));
    }
    if let Some((element, _)) = video_encoder(wish.codec) {
        pipeline.then(element, &properties);
    }
}

pub(super) fn audio(pipeline: &mut Pipeline, wish: &AudioEncode) {
    let rate = Value::Number(wish.bitrate.0);
    match wish.codec {
        AudioChoice::Aac => {
            pipeline.then("avenc_aac", &[("bitrate", rate)]);
            pipeline.then("aacparse", &[]);
        }
        AudioChoice::Opus => pipeline.then("opusenc", &[("bitrate", rate)]),
        AudioChoice::Mp3 => {
            let properties = [
                ("target", Value::Word("bitrate")),
                ("bitrate", Value::Number(kilobits(wish.bitrate.0))),
                ("cbr", Value::Word("true")),
            ];
            pipeline.then("lamemp3enc", &properties);
            pipeline.then("mpegaudioparse", &[]);
        }
        AudioChoice::Copy | AudioChoice::None => {}
    }
}
