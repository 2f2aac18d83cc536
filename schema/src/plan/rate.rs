//! How the encoder spends bits, in each encoder's own words.
//!
//! Invariant: an average is bounded by a peak where the encoder knows one, so that it is met.

use super::arguments::Arguments;
use crate::encode::{Bitrate, Encoder, RateControl};

/// VP8 has no unbounded constant quality: this is its bound.
pub(crate) const VP8_QUALITY_RATE: u64 = 50_000_000;

/// The peak of an average, in bits per second, where the job names none.
pub(crate) fn usual_peak(average: Bitrate) -> u64 {
    average.0 * 3 / 2
}

/// The buffer of an average or a peak where the job names none: two seconds of it.
pub(crate) fn usual_buffer(rate: Bitrate) -> Bitrate {
    Bitrate(rate.0 * 2)
}

pub(super) fn rate(rate: RateControl, encoder: Encoder, arguments: &mut Arguments) {
    match rate {
        RateControl::Bitrate { bitrate, maxrate, bufsize } => {
            arguments.pair("-b:v", bitrate);
            // It is not asked for bounds: `RateControl::is_kept_by`.
            if encoder == Encoder::Libsvtav1 {
                return;
            }
            // Measured: these two stay up to 30 % under an average with room above it, and meet a constant rate.
            let is_lazy = matches!(encoder, Encoder::LibvpxVp9 | Encoder::LibaomAv1);
            let peak = match maxrate {
                Some(maxrate) => maxrate.0.max(bitrate.0),
                None if is_lazy => bitrate.0,
                None => usual_peak(bitrate),
            };
            if is_lazy && peak == bitrate.0 {
                arguments.pair("-minrate", bitrate);
            }
            arguments.pair("-maxrate", peak);
            arguments.pair("-bufsize", bufsize.unwrap_or(usual_buffer(bitrate)));
        }
        RateControl::Crf { crf, maxrate, bufsize } => {
            quality(crf, maxrate, encoder, arguments);
            if let Some(maxrate) = maxrate {
                arguments.pair("-maxrate", maxrate);
                arguments.pair("-bufsize", bufsize.unwrap_or(usual_buffer(maxrate)));
            }
        }
    }
}

/// The worst quality of NVENC and Quick Sync.
const DEVICE_QUALITY_MOST: u8 = 51;

/// A CRF from 0 to 63 on a scale from 1 to `most`.
fn scaled(crf: u8, most: u32) -> u32 {
    (u32::from(crf.min(63)) * most / 63).max(1)
}

fn constant_quantiser(index: u32, arguments: &mut Arguments) {
    arguments.pair("-rc_mode", "CQP");
    arguments.pair("-global_quality", index);
}

fn quality(crf: u8, maxrate: Option<Bitrate>, encoder: Encoder, arguments: &mut Arguments) {
    match encoder {
        Encoder::Libx264 | Encoder::Libx265 | Encoder::Libsvtav1 => arguments.pair("-crf", crf),
        Encoder::LibvpxVp9 | Encoder::LibaomAv1 => {
            arguments.pair("-crf", crf);
            // They take no peak without an average, and with one stay at this quality as long as it lasts.
            arguments.pair("-b:v", maxrate.map_or(0, |maxrate| maxrate.0));
        }
        Encoder::Libvpx => {
            // 4 is its best.
            arguments.pair("-crf", crf.max(4));
            arguments.pair("-b:v", maxrate.map_or(VP8_QUALITY_RATE, |maxrate| maxrate.0));
        }
        Encoder::H264Nvenc | Encoder::HevcNvenc | Encoder::Av1Nvenc => {
            arguments.pair("-rc", "vbr");
            // 0 leaves the quality to it. AV1 has no more than the others.
            arguments.pair("-cq", crf.clamp(1, DEVICE_QUALITY_MOST));
            arguments.pair("-b:v", 0);
        }
        // Intelligent constant quality, from 1 to 51 whatever the codec.
        Encoder::H264Qsv | Encoder::HevcQsv => arguments.pair("-global_quality", crf.max(1)),
        Encoder::Vp9Qsv | Encoder::Av1Qsv => {
            arguments.pair("-global_quality", scaled(crf, u32::from(DEVICE_QUALITY_MOST)));
        }
        // Where the driver has no intelligent constant quality FFmpeg takes a constant quantiser, on the same scale.
        Encoder::H264Vaapi | Encoder::HevcVaapi => arguments.pair("-global_quality", crf.max(1)),
        // Here the two have scales of their own: one is named, and has the codec's own quantisers.
        Encoder::Vp8Vaapi => constant_quantiser(scaled(crf, 127), arguments),
        Encoder::Vp9Vaapi | Encoder::Av1Vaapi => constant_quantiser(scaled(crf, 255), arguments),
        Encoder::H264Videotoolbox | Encoder::HevcVideotoolbox => {
            // Its scale runs the other way, from 1 to 100.
            arguments.pair("-q:v", (100 - u32::from(crf.min(51)) * 2).max(1));
        }
    }
}
