//! Presets, tunings and threads in each encoder's own words.
//!
//! Invariant: a preset is mapped to a value that the encoder has; every encoder's own threads are bounded.

use super::arguments::Arguments;
use super::video::Pass;
use crate::encode::{Encoder, VideoEncode};

/// The fastest of libvpx, in real time only.
const VPX_REALTIME: u8 = 8;

/// `pass`: which of two. `extra`: more of the parameters of x265 or SVT-AV1, each behind a colon.
pub(super) fn speed(
    video: &VideoEncode,
    encoder: Encoder,
    threads: u32,
    pass: Option<&Pass>,
    extra: &str,
    arguments: &mut Arguments,
) {
    let preset = video.preset.as_deref();
    match encoder {
        Encoder::Libx264 | Encoder::Libx265 => {
            arguments.pair("-preset", preset.unwrap_or("medium"));
            if let Some(tune) = &video.tune {
                arguments.pair("-tune", tune);
            }
            if encoder == Encoder::Libx265 {
                // Its own pool of threads knows nothing of ours. What a chunk begins with must stand by itself.
                let passes = pass.map(|pass| format!(":pass={}:stats={}", pass.number, pass.file)).unwrap_or_default();
                let parameters = format!("pools={threads}:log-level=warning:open-gop=0{passes}{extra}");
                arguments.pair("-x265-params", parameters);
            }
        }
        Encoder::Libvpx | Encoder::LibvpxVp9 => {
            // In real time it takes no notes for a second pass.
            let (is_realtime, speed) = vpx_pace(preset, pass.is_none());
            arguments.pair("-deadline", if is_realtime { "realtime" } else { "good" });
            arguments.pair("-cpu-used", speed);
            if encoder == Encoder::LibvpxVp9 {
                arguments.pair("-row-mt", 1);
            }
        }
        Encoder::Libsvtav1 => {
            arguments.pair("-preset", svt_preset(preset));
            arguments.pair("-svtav1-params", format!("lp={threads}{extra}"));
        }
        Encoder::LibaomAv1 => {
            arguments.pair("-cpu-used", aom_speed(preset));
            arguments.pair("-row-mt", 1);
        }
        Encoder::H264Nvenc | Encoder::HevcNvenc | Encoder::Av1Nvenc => {
            arguments.pair("-preset", nvenc_preset(preset));
        }
        Encoder::H264Qsv | Encoder::HevcQsv | Encoder::Vp9Qsv | Encoder::Av1Qsv => {
            arguments.pair("-preset", qsv_preset(preset));
        }
        // They have none that every driver knows.
        Encoder::H264Vaapi
        | Encoder::HevcVaapi
        | Encoder::Vp8Vaapi
        | Encoder::Vp9Vaapi
        | Encoder::Av1Vaapi
        | Encoder::H264Videotoolbox
        | Encoder::HevcVideotoolbox => {}
    }
}

/// Whether libvpx works in real time, and its speed. `may_hurry`: whether it may.
pub(crate) fn vpx_pace(preset: Option<&str>, may_hurry: bool) -> (bool, u8) {
    let is_realtime = preset == Some("ultrafast") && may_hurry;
    (is_realtime, if is_realtime { VPX_REALTIME } else { vpx_speed(preset) })
}

/// libvpx's speed for a preset.
fn vpx_speed(preset: Option<&str>) -> u8 {
    match preset {
        Some("placebo" | "veryslow") => 0,
        Some("slower" | "slow") => 1,
        Some("fast") => 3,
        Some("faster") => 4,
        Some("veryfast" | "superfast" | "ultrafast") => 5,
        Some(_) | None => 2,
    }
}

fn svt_preset(preset: Option<&str>) -> u8 {
    match preset {
        Some("placebo") => 1,
        Some("veryslow") => 3,
        Some("slower") => 4,
        Some("slow") => 6,
        Some("fast") => 9,
        Some("faster") => 10,
        Some("veryfast") => 11,
        Some("superfast" | "ultrafast") => 12,
        Some(_) | None => 8,
    }
}

fn aom_speed(preset: Option<&str>) -> u8 {
    match preset {
        Some("placebo") => 0,
        Some("veryslow") => 1,
        Some("slower") => 2,
        Some("slow") => 3,
        Some("fast") => 5,
        Some("faster" | "veryfast") => 6,
        Some("superfast" | "ultrafast") => 8,
        Some(_) | None => 4,
    }
}

/// From `veryfast` to `veryslow` they have the same names.
fn qsv_preset(preset: Option<&str>) -> &str {
    match preset {
        None => "medium",
        Some("ultrafast" | "superfast") => "veryfast",
        Some("placebo") => "veryslow",
        Some(named) => named,
    }
}

fn nvenc_preset(preset: Option<&str>) -> &str {
    match preset {
        Some("ultrafast" | "superfast") => "p1",
        Some("veryfast") => "p2",
        Some("faster" | "fast") => "p3",
        Some("slow") => "p5",
        Some("slower") => "p6",
        Some("veryslow" | "placebo") => "p7",
        Some(own @ ("p1" | "p2" | "p3" | "p4" | "p5" | "p6" | "p7")) => own,
        Some(_) | None => "p4",
    }
}
