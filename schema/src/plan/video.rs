//! The video encoder's arguments.
//!
//! Invariant: every encoder closes its groups of pictures and gets a distance between key frames.

use super::arguments::Arguments;
use super::shape::Shape;
use super::{Request, expected, pictures, rate, speed};
use crate::device::{Device, Family};
use crate::encode::{Encoder, Pictures, Segments, VideoEncode};
use crate::probe::Mastering;

/// Time between key frames where the job does not say.
const GOP_SECS: f64 = 2.0;

pub(super) fn is_vaapi(encoder: Encoder) -> bool {
    matches!(encoder, Encoder::H264Vaapi | Encoder::HevcVaapi | Encoder::Av1Vaapi)
}

/// One of two passes.
pub(super) struct Pass {
    /// 1 or 2.
    pub(super) number: u8,
    /// Where the first keeps what it found.
    pub(super) file: String,
}

/// Options before the inputs that open the device of an encoder which does not open it by itself.
pub(super) fn open_device(encoder: Encoder, device: Option<Device>, arguments: &mut Arguments) {
    let Some(Device { family, number }) = device.or_else(|| Device::first_of(encoder)) else { return };
    match family {
        Family::Vaapi => arguments.pair("-vaapi_device", format!("/dev/dri/renderD{number}")),
        Family::Qsv => {
            arguments.pair("-init_hw_device", format!("qsv=device,child_device=/dev/dri/renderD{number}"));
        }
        Family::Nvenc | Family::Videotoolbox => {}
    }
}

/// Options of the encoder that say on which device it runs.
pub(super) fn choose_device(encoder: Encoder, device: Option<Device>, arguments: &mut Arguments) {
    match device {
        Some(Device { family: Family::Nvenc, number }) if encoder.family() == Some(Family::Nvenc) => {
            arguments.pair("-gpu", number);
        }
        Some(_) | None => {}
    }
}

/// `pass`: which of two passes, where there are two.
pub(super) fn video(
    video: &VideoEncode,
    encoder: Encoder,
    shape: &Shape,
    threads: u32,
    pass: Option<&Pass>,
    arguments: &mut Arguments,
) {
    arguments.pair("-c:v", encoder);
    let hdr = if encoder == Encoder::Libx265 { x265_hdr(shape) } else { String::new() };
    speed::speed(video, encoder, threads, pass, &hdr, arguments);
    if let Some(profile) = video.profile {
        arguments.pair("-profile:v", profile);
    }
    rate::rate(video.rate, encoder, arguments);
    if let Some(pass) = pass.filter(|_| encoder != Encoder::Libx265) {
        arguments.pair("-pass", pass.number);
        arguments.pair("-passlogfile", &pass.file);
    }
    arguments.pair("-g", gop(video, shape.rate()));
    colors(shape, arguments);
    arguments.pair("-threads", threads);
}

/// Puts a key frame where a segment is to begin, so that all renditions are cut at the same times: segments are counted from the
/// first frame, which may come later than the sound. A millionth is for what is lost in the sum.
pub(super) fn segments(segments: Option<Segments>, arguments: &mut Arguments) {
    let Some(Segments { secs, .. }) = segments else { return };
    let key = format!("expr:if(n_forced,gte(t+0.000001,ld(0)+n_forced*{secs}),st(0,t)+10)");
    arguments.pair("-force_key_frames", key);
}

/// Frames between key frames at most, at so many frames per second.
pub(crate) fn gop(video: &VideoEncode, fps: f64) -> u32 {
    video.gop.unwrap_or_else(|| (fps * GOP_SECS).round().max(1.0) as u32)
}

/// What the numbers of the picture mean, where it is not what every player assumes.
fn colors(shape: &Shape, arguments: &mut Arguments) {
    let Some(colors) = &shape.colors else { return };
    for (option, value) in
        [("-color_primaries", colors.primaries), ("-color_trc", colors.transfer), ("-colorspace", colors.matrix)]
    {
        if let Some(value) = value {
            arguments.pair(option, value);
        }
    }
}

/// Mastering display and light levels: FFmpeg 5.1 hands neither to x265 by itself.
fn x265_hdr(shape: &Shape) -> String {
    let Some(colors) = shape.colors.as_ref().filter(|colors| colors.is_hdr()) else { return String::new() };
    let mut parameters = String::from(":hdr10=1:repeat-headers=1");
    if let Some(Mastering { points, luminance }) = colors.mastering {
        // x265 counts points in 1/50,000 and light in 1/10,000.
        let point = |(x, y): (f64, f64)| format!("({:.0},{:.0})", x * 50_000.0, y * 50_000.0);
        let [red, green, blue, white] = points.map(point);
        let (darkest, brightest) = (luminance.0 * 10_000.0, luminance.1 * 10_000.0);
        parameters += &format!(":master-display=G{green}B{blue}R{red}WP{white}L({brightest:.0},{darkest:.0})");
    }
    if let Some((content, average)) = colors.light {
        parameters += &format!(":max-cll={content},{average}");
    }
    parameters
}

/// One picture, or many one after the other.
pub(super) fn picture(request: &Request<'_>, arguments: &mut Arguments) {
    let format = pictures::made(request.encode);
    pictures::encoder(format, arguments);
    if request.encode.pictures.is_some() {
        // Their own times, as exact as a track can tell them.
        arguments.all(["-fps_mode", "passthrough", "-enc_time_base", "1/1000"]);
        if matches!(expected::pictured_secs(request), Ok(None)) {
            // A source that does not say how long it is ends here, and is told that it has too many.
            arguments.pair("-frames:v", Pictures::MOST + 1);
        }
    }
    arguments.pair("-threads", request.threads);
}
