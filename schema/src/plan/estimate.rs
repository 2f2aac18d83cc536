//! What a plan will cost: time, memory, disk, size; each with the basis on which it is said.
//!
//! Invariant: pure; a guess is called one. The table of speeds was measured on one core of a 2020s server with FFmpeg 5.1
//! and a synthetic 720p picture; real pictures and machines differ by a factor of two either way.

use serde::Serialize;

mod live;

use super::shape::is_deep;
use super::together::Refused;
use super::{Plan, Purpose, Request, Schedule};
use crate::encode::{Encoder, RateControl, Treatment, VideoEncode};

pub use live::{LiveEstimate, Situation, live};

/// Decoding, in megapixels a second and core.
const DECODE_SPEED: f64 = 150.0;
/// Copying, in megabytes a second.
const COPY_SPEED: f64 = 200.0;
/// Audio, in times its own length.
const AUDIO_SPEED: f64 = 60.0;
/// One picture, in bytes for a pixel.
const PICTURE_BYTES: f64 = 0.4;
/// Frames of the source that are in memory while pictures are taken of it.
const PICTURE_FRAMES: f64 = 16.0;
/// Sheets that are in memory while they are laid out and encoded.
const SHEET_COPIES: f64 = 3.0;
/// What the tool takes before its first frame, in MiB.
const BASE_MB: f64 = 60.0;

/// What a plan will cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// Wall time in seconds, where the length is known.
    pub wall_secs: Option<f64>,
    /// Memory in MiB.
    pub memory_mb: u64,
    /// Size of the output in bytes, where the length is known.
    pub size_bytes: Option<u64>,
    /// Scratch space in MiB, where the length is known.
    pub disk_mb: Option<u64>,
    /// On what each of them stands, in words.
    pub basis: Vec<String>,
}

/// What a plan will cost on so many cores.
#[must_use]
pub fn estimate(request: &Request<'_>, plan: &Plan, cores: u32) -> Estimate {
    let mut basis = Vec::new();
    let pixels = frame_pixels(plan);
    let rate = plan.expected.video.as_ref().map_or(0.0, |video| video.fps.unwrap_or_else(|| source_fps(request)));
    let is_picture = plan.expected.video.as_ref().is_some_and(|video| video.is_picture);
    let pictures = plan.expected.pictures.as_ref();
    let secs = plan.expected.duration_secs.or(is_picture.then_some(0.0)).or(pictures.and_then(|set| set.secs));
    let megapixels = secs.map(|secs| pixels * rate * secs / 1e6);
    if let Some(set) = pictures {
        return of_pictures(request, plan, cores, secs, set);
    }
    let wall_secs = secs.zip(megapixels).map(|(secs, total)| wall(request, plan, cores, secs, total, &mut basis));
    let size_bytes = secs.map(|secs| size(request, plan, pixels, pixels * rate, secs, &mut basis));
    let memory_mb = memory(&request.encode.video, request.encoder, request.threads, pixels, &mut basis);
    Estimate {
        wall_secs,
        memory_mb,
        size_bytes,
        // The output stands in the scratch once, and beside its destination until it is renamed.
        disk_mb: size_bytes.map(|bytes| (bytes * 2).div_ceil(1024 * 1024).max(1)),
        basis,
    }
}

/// What several outputs of one source will cost that are made together: the work and the files of all of them, and what
/// the tool takes by itself once.
///
/// # Errors
/// When one of them cannot be made.
pub fn together(requests: &[Request<'_>], cores: u32) -> Result<Estimate, Refused> {
    let mut all: Option<Estimate> = None;
    for (output, request) in requests.iter().enumerate() {
        let plan = super::plan(request).map_err(|refusal| Refused { output, refusal })?;
        let Estimate { wall_secs, memory_mb, size_bytes, disk_mb, mut basis } = estimate(request, &plan, cores);
        if requests.len() > 1 {
            basis = basis.into_iter().map(|line| format!("output {}: {line}", output + 1)).collect();
        }
        all = Some(match all {
            None => Estimate { wall_secs, memory_mb, size_bytes, disk_mb, basis },
            Some(before) => Estimate {
                wall_secs: before.wall_secs.zip(wall_secs).map(|(a, b)| a + b),
                memory_mb: before.memory_mb + memory_mb.saturating_sub(BASE_MB as u64),
                size_bytes: before.size_bytes.zip(size_bytes).map(|(a, b)| a + b),
                disk_mb: before.disk_mb.zip(disk_mb).map(|(a, b)| a + b),
                basis: [before.basis, basis].concat(),
            },
        });
    }
    let nothing = Estimate { wall_secs: None, memory_mb: 0, size_bytes: None, disk_mb: None, basis: Vec::new() };
    Ok(all.unwrap_or(nothing))
}

/// A set of pictures: the whole source is decoded, and what is made of it is little.
fn of_pictures(request: &Request<'_>, plan: &Plan, cores: u32, secs: Option<f64>, set: &Schedule) -> Estimate {
    let source = request.source.and_then(|(_, probed)| probed.probe.video.as_ref());
    let seen = source.map_or(frame_pixels(plan), |video| f64::from(video.width) * f64::from(video.height));
    let speed = DECODE_SPEED * f64::from(cores.max(1)).powf(0.9);
    let most = set.most.filter(|_| set.secs.is_some());
    let size_bytes = most.map(|most| (most as f64 * frame_pixels(plan) * PICTURE_BYTES) as u64);
    // A sheet is laid out, encoded, and decoded again, in four bytes a pixel at most.
    let sheet = set.grid.map_or(0.0, |grid| f64::from(grid.columns) * f64::from(grid.rows) * frame_pixels(plan));
    let memory_mb = (BASE_MB + (PICTURE_FRAMES * seen * 1.5 + SHEET_COPIES * sheet * 4.0) / 1e6) as u64;
    let basis = vec![
        format!("time: the source decoded at {DECODE_SPEED} megapixels a second and core, then 0.5 s for the rest"),
        format!("size: {PICTURE_BYTES} bytes for a pixel of every picture"),
        format!("memory: {BASE_MB} MiB, {PICTURE_FRAMES} frames of the source and {SHEET_COPIES} sheets"),
    ];
    Estimate {
        wall_secs: secs.map(|secs| seen * source_fps(request) * secs / 1e6 / speed + 0.5),
        memory_mb,
        size_bytes,
        // Once in the file that keeps their times, once as files, once beside the destination.
        disk_mb: size_bytes.map(|bytes| (bytes * 3).div_ceil(1024 * 1024).max(1)),
        basis,
    }
}

fn frame_pixels(plan: &Plan) -> f64 {
    plan.expected.video.as_ref().map_or(0.0, |video| f64::from(video.width) * f64::from(video.height))
}

fn source_fps(request: &Request<'_>) -> f64 {
    request.source.and_then(|(_, probed)| probed.probe.video.as_ref()?.fps).unwrap_or(30.0)
}

fn wall(request: &Request<'_>, plan: &Plan, cores: u32, secs: f64, megapixels: f64, basis: &mut Vec<String>) -> f64 {
    // The last cores help less than the first.
    let cores = f64::from(cores.max(1)).powf(0.9);
    let source_bytes = request.source.and_then(|(_, probed)| probed.size_bytes).unwrap_or(0);
    let encode = match (request.encode.video.treatment, request.encoder) {
        (Treatment::Encode, Some(encoder)) => {
            let speed = speed(encoder, request.encode.video.preset.as_deref());
            basis.push(format!(
                "time: {megapixels:.0} megapixels at {speed:.1} a second and core for {encoder} ({}), {cores:.1} effective cores",
                request.encode.video.preset.as_deref().unwrap_or("medium")
            ));
            megapixels / (speed * cores)
        }
        (Treatment::Copy | Treatment::Encode, _) => {
            basis.push(format!("time: {source_bytes} bytes copied at {COPY_SPEED} MB a second"));
            source_bytes as f64 / 1e6 / COPY_SPEED
        }
        (Treatment::Drop | Treatment::Picture, _) => {
            basis.push(format!("time: audio at {AUDIO_SPEED} times its length"));
            secs / AUDIO_SPEED
        }
    };
    let runs: f64 = plan.steps.iter().map(|step| step.purpose.weight()).sum();
    let verify = megapixels / (DECODE_SPEED * cores) + secs / (AUDIO_SPEED * 4.0);
    basis.push(format!(
        "time: {runs:.1} runs' worth of work, then a full decode of {verify:.1} s, then 0.5 s for the rest"
    ));
    encode * runs.max(Purpose::Encode.weight()) + verify + 0.5
}

fn size(request: &Request<'_>, plan: &Plan, pixels: f64, pixel_rate: f64, secs: f64, basis: &mut Vec<String>) -> u64 {
    let video = match request.encode.video.treatment {
        Treatment::Encode => encoded_bits(&request.encode.video, request.encoder, pixel_rate, basis),
        Treatment::Copy => {
            basis.push("size: the source's own".to_owned());
            request.source.and_then(|(_, probed)| probed.video_bitrate.or(probed.probe.bitrate)).unwrap_or(0) as f64
        }
        Treatment::Picture => {
            basis.push(format!("size: {PICTURE_BYTES} bytes for a pixel"));
            return (pixels * PICTURE_BYTES) as u64;
        }
        Treatment::Drop => 0.0,
    };
    let audio = plan.expected.audio.len() as f64 * request.encode.audio.bitrate.0 as f64;
    ((video + audio) * secs / 8.0 * 1.01) as u64
}

/// Bits a second of an encoded picture.
fn encoded_bits(video: &VideoEncode, encoder: Option<Encoder>, pixel_rate: f64, basis: &mut Vec<String>) -> f64 {
    match video.rate {
        RateControl::Bitrate { bitrate, .. } => {
            basis.push(format!("size: the video's {bitrate} bits per second"));
            bitrate.0 as f64
        }
        RateControl::Crf { crf, maxrate, .. } => {
            let guess = pixel_rate * bits_per_pixel(encoder, crf);
            basis.push(format!(
                "size: {:.3} bits per pixel at crf {crf}, a guess for films; simple pictures take a tenth of it",
                bits_per_pixel(encoder, crf)
            ));
            maxrate.map_or(guess, |maxrate| guess.min(maxrate.0 as f64))
        }
    }
}

/// Bits for a pixel of a film. Each 6 steps of CRF halve it.
fn bits_per_pixel(encoder: Option<Encoder>, crf: u8) -> f64 {
    let (usual, at) = match encoder {
        Some(
            Encoder::Libx265 | Encoder::HevcNvenc | Encoder::HevcQsv | Encoder::HevcVaapi | Encoder::HevcVideotoolbox,
        ) => (28.0, 0.05),
        Some(Encoder::Libvpx | Encoder::Vp8Vaapi) => (10.0, 0.12),
        Some(Encoder::LibvpxVp9 | Encoder::Vp9Qsv | Encoder::Vp9Vaapi) => (31.0, 0.055),
        Some(Encoder::Libsvtav1 | Encoder::LibaomAv1 | Encoder::Av1Nvenc | Encoder::Av1Qsv | Encoder::Av1Vaapi) => {
            (35.0, 0.04)
        }
        Some(
            Encoder::Libx264 | Encoder::H264Nvenc | Encoder::H264Qsv | Encoder::H264Vaapi | Encoder::H264Videotoolbox,
        )
        | None => (23.0, 0.1),
    };
    at * 2f64.powf((usual - f64::from(crf)) / 6.0)
}

fn memory(video: &VideoEncode, encoder: Option<Encoder>, threads: u32, pixels: f64, basis: &mut Vec<String>) -> u64 {
    // Three planes make a sample and a half for each pixel, in one byte or two.
    let is_deep = is_deep(video.pixel_format);
    let frame_mb = pixels * if is_deep { 3.0 } else { 1.5 } / 1e6;
    let frames = match encoder {
        // Measured at 1080p, medium: 441 MB with one thread, 544 with four, 830 with sixteen.
        Some(Encoder::Libx264) => 120.0 + 8.0 * f64::from(threads),
        Some(Encoder::Libx265) => 160.0 + 10.0 * f64::from(threads),
        Some(Encoder::Libsvtav1) => 250.0,
        Some(Encoder::LibaomAv1) => 120.0,
        Some(Encoder::Libvpx | Encoder::LibvpxVp9) => 60.0,
        Some(_) | None => 16.0,
    };
    basis.push(format!(
        "memory: {BASE_MB} MiB and {frames:.0} frames of {frame_mb:.1} MB in look-ahead and {threads} threads"
    ));
    (BASE_MB + frames * frame_mb) as u64
}

/// Megapixels a second and core.
fn speed(encoder: Encoder, preset: Option<&str>) -> f64 {
    let step = match preset {
        Some("ultrafast" | "p1") => 0,
        Some("superfast") => 1,
        Some("veryfast" | "p2") => 2,
        Some("faster") => 3,
        Some("fast" | "p3") => 4,
        Some("slow" | "p5") => 6,
        Some("slower" | "p6") => 7,
        Some("veryslow" | "p7") => 8,
        Some("placebo") => 9,
        Some(_) | None => 5,
    };
    let table: [f64; 10] = match encoder {
        Encoder::Libx264 => [130.0, 90.0, 60.0, 40.0, 32.0, 25.0, 13.0, 6.0, 3.5, 1.0],
        Encoder::Libx265 => [28.0, 20.0, 12.0, 10.0, 8.0, 6.0, 2.2, 0.8, 0.5, 0.2],
        Encoder::Libvpx => [90.0, 40.0, 40.0, 25.0, 18.0, 12.0, 6.0, 6.0, 2.5, 2.5],
        Encoder::LibvpxVp9 => [60.0, 20.0, 20.0, 12.0, 8.0, 5.0, 2.5, 2.5, 1.0, 1.0],
        Encoder::Libsvtav1 => [60.0, 60.0, 45.0, 35.0, 25.0, 18.0, 8.0, 2.0, 1.0, 0.3],
        Encoder::LibaomAv1 => [12.0, 12.0, 4.0, 4.0, 2.5, 1.5, 0.8, 0.5, 0.25, 0.1],
        // A device does it; what is left is to hand it the frames.
        Encoder::H264Nvenc
        | Encoder::HevcNvenc
        | Encoder::Av1Nvenc
        | Encoder::H264Qsv
        | Encoder::HevcQsv
        | Encoder::Vp9Qsv
        | Encoder::Av1Qsv
        | Encoder::H264Vaapi
        | Encoder::HevcVaapi
        | Encoder::Vp8Vaapi
        | Encoder::Vp9Vaapi
        | Encoder::Av1Vaapi
        | Encoder::H264Videotoolbox
        | Encoder::HevcVideotoolbox => [150.0; 10],
    };
    table[step]
}
