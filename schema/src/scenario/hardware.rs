//! Wishes about devices: `hw` with what only software encoders do.
//!
//! Invariant: a job that requires a device asks for nothing that no device does; one that only prefers a device and asks for
//! such a thing is made in software.

use super::wishes::{Wishes, is_deep};
use crate::encode::{CodecChoice, PixelFormat, VideoCodec};
use crate::job::{HardwarePolicy, Parameters};

/// What devices cannot do, of what is asked for: the field, and what would do.
fn beyond(p: &Parameters, codec: VideoCodec) -> Vec<(&'static str, String)> {
    let mut beyond = Vec::new();
    for (field, is_given) in [
        ("tune", p.tune.is_some()),
        ("profile", p.profile.is_some()),
        ("passes", p.passes == Some(2)),
        ("target_vmaf", p.target_vmaf.is_some()),
        ("target_psnr", p.target_psnr.is_some()),
        ("target_ssim", p.target_ssim.is_some()),
    ] {
        if is_given {
            beyond.push((field, format!("no device has `{field}`")));
        }
    }
    if let Some(
        format @ (PixelFormat::Yuv422p | PixelFormat::Yuv444p | PixelFormat::Yuv422p10le | PixelFormat::Yuv444p10le),
    ) = p.pixel_format
    {
        beyond.push(("pixel_format", format!("devices make yuv420p and yuv420p10le, not {format}")));
    } else if codec == VideoCodec::H264 && p.pixel_format.is_some_and(is_deep) {
        beyond.push(("pixel_format", "devices make H.264 in 8 bits".to_owned()));
    }
    beyond
}

/// Whether a device is to be chosen; an encoder that is named needs no choice.
pub(super) fn policy(p: &Parameters, codec: CodecChoice) -> Option<HardwarePolicy> {
    match (codec, p.hw) {
        (CodecChoice::Codec(codec), Some(HardwarePolicy::Prefer)) => {
            beyond(p, codec).is_empty().then_some(HardwarePolicy::Prefer)
        }
        (CodecChoice::Codec(_), Some(HardwarePolicy::Require)) => Some(HardwarePolicy::Require),
        (CodecChoice::Codec(_), Some(HardwarePolicy::Forbid) | None)
        | (CodecChoice::Encoder(_) | CodecChoice::Copy | CodecChoice::None | CodecChoice::Picture, _) => None,
    }
}

pub(super) fn check(wishes: &mut Wishes<'_>, codec: CodecChoice) {
    if wishes.p.hw != Some(HardwarePolicy::Require) {
        return;
    }
    match codec {
        CodecChoice::Codec(codec) => {
            let spends = wishes.spends(codec);
            if !codec.hardware_encoders().iter().any(|encoder| spends.is_kept_by(*encoder)) {
                let (field, cure) = if wishes.is_ladder {
                    ("crf", "leave it out for rungs with an average rate")
                } else {
                    ("maxrate", "give `bitrate` instead of `crf`")
                };
                let message =
                    format!("no device bounds the constant quality of {}: {cure}, or leave out `hw`", codec.as_str());
                wishes.fault(field, "unsupported", message);
            }
            for (field, why) in beyond(wishes.p, codec) {
                wishes.fault(field, "unsupported", format!("{why}: leave it out, or `hw`"));
            }
        }
        CodecChoice::Encoder(encoder) if !encoder.is_hardware() => {
            let message = format!("`require` and the software encoder {encoder} exclude each other");
            wishes.fault("hw", "contradiction", message);
        }
        CodecChoice::Encoder(_) | CodecChoice::Copy | CodecChoice::None | CodecChoice::Picture => {}
    }
}
