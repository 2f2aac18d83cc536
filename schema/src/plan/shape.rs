//! The picture as it comes out: its size, its rate, its colours.
//!
//! Invariant: sizes are those of the upright picture, and even where it is encoded.

use super::{Refusal, Request, video};
use crate::encode::{Deinterlace, Fit, Fps, Hdr, PixelFormat, Resolution, Treatment, VideoEncode};
use crate::message::VideoProbe;
use crate::probe::Colors;

/// Rate of sources that do not tell theirs, for the distance of key frames.
pub(crate) const USUAL_FPS: f64 = 30.0;

pub(super) struct Shape {
    pub(super) width: u32,
    pub(super) height: u32,
    /// The rate asked for.
    pub(super) fps: Option<Fps>,
    pub(super) source_fps: Option<f64>,
    pub(super) sample_aspect: (u32, u32),
    /// Colours that the output keeps, where they are not the usual ones.
    pub(super) colors: Option<Colors>,
    /// Whether a high dynamic range is mapped to a usual one.
    pub(super) is_mapped: bool,
    /// Whether fields become frames.
    pub(super) is_deinterlaced: bool,
}

impl Shape {
    /// A picture of this size and a usual rate.
    pub(super) fn plain(width: u32, height: u32, fps: Option<Fps>) -> Shape {
        Shape {
            width,
            height,
            fps,
            source_fps: None,
            sample_aspect: (1, 1),
            colors: None,
            is_mapped: false,
            is_deinterlaced: false,
        }
    }

    /// The picture that a request makes; `None` where it makes none.
    pub(super) fn of(request: &Request<'_>) -> Result<Option<Shape>, Refusal> {
        let wish = &request.encode.video;
        if wish.treatment == Treatment::Drop {
            return Ok(None);
        }
        let Some((_, probed)) = request.source else {
            let size = wish.size.unwrap_or(Resolution { width: 1280, height: 720 });
            return Ok(Some(Shape::plain(size.width, size.height, Some(wish.fps.unwrap_or(Fps::whole(30))))));
        };
        let source = probed.probe.video.as_ref().ok_or(Refusal::Input("the input has no video stream"))?;
        if wish.treatment == Treatment::Copy {
            let plain = Shape::plain(source.width, source.height, None);
            return Ok(Some(Shape { source_fps: source.fps, ..plain }));
        }
        let (is_mapped, colors) = dynamic_range(request, wish, &probed.colors)?;
        let (width, height) = size(wish, source, probed.sample_aspect)?;
        Ok(Some(Shape {
            width,
            height,
            fps: wish.fps,
            source_fps: source.fps,
            sample_aspect: probed.sample_aspect,
            colors,
            is_mapped,
            is_deinterlaced: is_deinterlaced(request, wish, probed.is_interlaced)?,
        }))
    }

    pub(super) fn rate(&self) -> f64 {
        self.fps.map(Fps::as_f64).or(self.source_fps.and_then(known_fps)).unwrap_or(USUAL_FPS)
    }
}

/// A source's frames per second, where that is a rate that can be.
pub(crate) fn known_fps(fps: f64) -> Option<f64> {
    (1.0..=Fps::MAX).contains(&fps).then_some(fps)
}

/// Width and height of the upright source, or of the part of it that is taken.
pub(super) fn taken(wish: &VideoEncode, source: &VideoProbe) -> Result<(u32, u32), Refusal> {
    // FFmpeg turns a rotated picture upright before it filters it.
    let is_sideways = source.rotation.is_some_and(|degrees| degrees.rem_euclid(180) == 90);
    let (width, height) = if is_sideways { (source.height, source.width) } else { (source.width, source.height) };
    let Some(crop) = wish.crop else { return Ok((width, height)) };
    if crop.x + crop.width > width || crop.y + crop.height > height {
        return Err(Refusal::job(
            "crop",
            "out_of_range",
            format!("{crop} does not lie in the source, which is {width}x{height}"),
        ));
    }
    Ok((crop.width, crop.height))
}

fn size(wish: &VideoEncode, source: &VideoProbe, (wide, high): (u32, u32)) -> Result<(u32, u32), Refusal> {
    let (width, height) = taken(wish, source)?;
    if width == 0 || height == 0 {
        return Err(Refusal::Input("the input's video has no size"));
    }
    let Some(size) = wish.size else {
        let is_picture = wish.treatment == Treatment::Picture;
        return Ok(if is_picture { (width, height) } else { ((width & !1).max(2), (height & !1).max(2)) });
    };
    match wish.fit {
        Fit::Pad | Fit::Crop | Fit::Stretch => Ok((size.width, size.height)),
        Fit::Inside => {
            let shown = f64::from(width) * f64::from(wide) / f64::from(high);
            let factor = (f64::from(size.width) / shown).min(f64::from(size.height) / f64::from(height));
            let even = |side: f64, most: u32| ((side / 2.0).round() as u32 * 2).clamp(2, most);
            Ok((even(shown * factor, size.width), even(f64::from(height) * factor, size.height)))
        }
    }
}

pub(super) fn is_deep(format: PixelFormat) -> bool {
    match format {
        PixelFormat::Yuv420p | PixelFormat::Yuv422p | PixelFormat::Yuv444p => false,
        PixelFormat::Yuv420p10le | PixelFormat::Yuv422p10le | PixelFormat::Yuv444p10le | PixelFormat::P010le => true,
    }
}

/// Whether a high dynamic range is mapped, and the colours that are kept.
fn dynamic_range(
    request: &Request<'_>,
    wish: &VideoEncode,
    colors: &Colors,
) -> Result<(bool, Option<Colors>), Refusal> {
    if !colors.is_hdr() {
        return match wish.hdr {
            Hdr::Keep => Err(Refusal::job("hdr", "contradiction", "the source has no HDR to keep: leave `hdr` out")),
            Hdr::Auto | Hdr::Tonemap => Ok((false, None)),
        };
    }
    let is_deep = is_deep(wish.pixel_format) && wish.treatment == Treatment::Encode;
    match wish.hdr {
        Hdr::Auto | Hdr::Keep if is_deep => Ok((false, Some(kept(request, wish, colors)?))),
        Hdr::Keep => Err(Refusal::job("hdr", "contradiction", "HDR cannot be kept in 8 bits: ask for yuv420p10le")),
        Hdr::Auto | Hdr::Tonemap => {
            if !request.has("zscale") || !request.has("tonemap") {
                return Err(Refusal::job(
                    "hdr",
                    "unsupported",
                    "the source is HDR, and FFmpeg here has no zscale and tonemap to map it to SDR: ask for \
                     `pixel_format` yuv420p10le to keep it",
                ));
            }
            Ok((true, None))
        }
    }
}

/// What the output can tell of the source's colours.
fn kept(request: &Request<'_>, wish: &VideoEncode, colors: &Colors) -> Result<Colors, Refusal> {
    let bare = Colors { mastering: None, light: None, ..colors.clone() };
    match request.encoder {
        Some(encoder) if video::tells_mastering(encoder) => Ok(colors.clone()),
        Some(encoder) if wish.hdr == Hdr::Keep && bare != *colors => {
            let message = format!(
                "the source says on which display it was mastered or how bright it gets, and {encoder} does not pass it \
                 on: take libx265 or libsvtav1, or `auto` to keep the colours alone"
            );
            Err(Refusal::job("hdr", "unsupported", message))
        }
        Some(_) | None => Ok(bare),
    }
}

fn is_deinterlaced(request: &Request<'_>, wish: &VideoEncode, is_interlaced: bool) -> Result<bool, Refusal> {
    let is_wanted = match wish.deinterlace {
        Deinterlace::Off => false,
        Deinterlace::Auto => is_interlaced,
        Deinterlace::On => true,
    };
    if is_wanted && !request.has("bwdif") {
        return Err(Refusal::job("deinterlace", "unsupported", "FFmpeg here has no filter bwdif to deinterlace with"));
    }
    Ok(is_wanted)
}
