//! The video encoder's arguments.
//!
//! Invariant: every encoder closes its groups of pictures and gets a distance between key frames.

use super::arguments::Arguments;
use super::shape::Shape;
use super::{Request, expected, pictures, rate, speed};
use crate::device::{Device, Family};
use crate::encode::{Encoder, Pictures, Segments, VideoEncode};
use crate::probe::{Colors, Mastering};

/// Time between key frames where the job does not say.
const GOP_SECS: f64 = 2.0;

pub(super) fn is_vaapi(encoder: Encoder) -> bool {
    encoder.family() == Some(Family::Vaapi)
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
    let hdr = hdr(encoder, shape);
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
    match encoder.family() {
        // Without it a key frame that is asked for, where a segment begins, is one that later frames may look past.
        Some(Family::Nvenc) => arguments.pair("-forced-idr", 1),
        Some(Family::Qsv) => arguments.pair("-forced_idr", 1),
        Some(Family::Vaapi | Family::Videotoolbox) | None => {}
    }
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

/// Whether an encoder writes down on which display a picture was mastered, and how bright it gets.
pub(super) fn tells_mastering(encoder: Encoder) -> bool {
    matches!(encoder, Encoder::Libx265 | Encoder::Libsvtav1)
}

/// Mastering display and light levels, as more of the encoder's parameters: FFmpeg 5.1 hands them to none by itself.
fn hdr(encoder: Encoder, shape: &Shape) -> String {
    let Some(colors) = shape.colors.as_ref().filter(|colors| colors.is_hdr()) else { return String::new() };
    match encoder {
        Encoder::Libx265 => x265_hdr(colors),
        Encoder::Libsvtav1 => svt_hdr(colors),
        _ => String::new(),
    }
}

fn x265_hdr(colors: &Colors) -> String {
    let mut parameters = String::from(if colors.is_pq() { ":hdr10=1:repeat-headers=1" } else { ":repeat-headers=1" });
    if let Some(Mastering { points, luminance }) = colors.mastering {
        // Points are counted in 1/50,000 and light in 1/10,000.
        let point = |(x, y): (f64, f64)| format!("({:.0},{:.0})", x * 50_000.0, y * 50_000.0);
        let light = [luminance.1, luminance.0].map(|light| format!("{:.0}", light * 10_000.0));
        parameters += &format!(":master-display={}", display(points.map(point), &light));
    }
    if let Some((content, average)) = colors.light {
        parameters += &format!(":max-cll={content},{average}");
    }
    parameters
}

fn svt_hdr(colors: &Colors) -> String {
    let mut parameters = String::new();
    if let Some(Mastering { points, luminance }) = colors.mastering {
        let point = |(x, y): (f64, f64)| format!("({x:.5},{y:.5})");
        let light = [luminance.1, luminance.0].map(|light| format!("{light:.4}"));
        parameters += &format!(":mastering-display={}", display(points.map(point), &light));
    }
    if let Some((content, average)) = colors.light {
        parameters += &format!(":content-light={content},{average}");
    }
    parameters
}

/// The notation that both share. `points`: red, green, blue and white; `light`: brightest and darkest.
fn display([red, green, blue, white]: [String; 4], light: &[String; 2]) -> String {
    format!("G{green}B{blue}R{red}WP{white}L({})", light.join(","))
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
