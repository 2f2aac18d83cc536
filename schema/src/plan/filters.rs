//! The picture's way through FFmpeg's filters.
//!
//! Invariant: filters of this list only, with numbers and closed sets as their values. Order: fields to frames, cut,
//! square pixels, dynamic range, size, rate, subtitles, pixel format.

use super::shape::Shape;
use super::streams::Chosen;
use super::video::is_vaapi;
use super::{Refusal, Request, Schedule, pictures};
use crate::chunk::{Cut, Micros, Span};
use crate::encode::{Encoder, Fit, Fps, PixelFormat, SubtitleMode, Treatment};
use crate::probe::Colors;

pub(super) fn filters(request: &Request<'_>, shape: &Shape, chosen: &Chosen) -> Result<String, Refusal> {
    chain(request, shape, chosen, None)
}

/// The same for the frames that become pictures. `from`: the second of what is read at which the first is taken.
pub(super) fn of_pictures(
    request: &Request<'_>,
    shape: &Shape,
    schedule: &Schedule,
    from: f64,
) -> Result<String, Refusal> {
    chain(request, shape, &Chosen::default(), Some(vec![schedule.filter(from)]))
}

/// The same for the frames of one chunk, which are taken out before anything is done to them that another frame does not
/// take part in. `zero`: what the tool's clock counts from by the source's, where it is not the source's own.
pub(super) fn of_chunk(
    request: &Request<'_>,
    shape: &Shape,
    cut: &Cut,
    zero: Option<Micros>,
) -> Result<String, Refusal> {
    let mut filters = taken(cut, shape, zero);
    filters.push(again(request, cut));
    chain(request, shape, &Chosen::default(), Some(filters))
}

/// `taken`: filters that take frames out, where not all are taken.
fn chain(request: &Request<'_>, shape: &Shape, chosen: &Chosen, taken: Option<Vec<String>>) -> Result<String, Refusal> {
    let wish = &request.encode.video;
    let is_all = taken.is_none();
    let mut filters = before(request, shape, taken.unwrap_or_default());
    size(request, shape, &mut filters);
    if let Some(fps) = shape.fps.filter(|_| wish.treatment == Treatment::Encode && is_all) {
        filters.push(format!("fps={fps}"));
    }
    if request.encode.subtitles == SubtitleMode::Burn && !chosen.subtitles.is_empty() {
        if !request.has("subtitles") {
            return Err(Refusal::job(
                "subtitles",
                "unsupported",
                "FFmpeg here has no libass to burn subtitles in with",
            ));
        }
        filters.push(format!("subtitles=f={}", request.subtitles_file()));
    }
    filters.push(match (wish.treatment, request.encoder) {
        (Treatment::Encode, Some(encoder)) => pixels(encoder, wish.pixel_format),
        (Treatment::Encode | Treatment::Copy | Treatment::Drop | Treatment::Picture, _) => {
            format!("format={}", pictures::made(request.encode).pixels())
        }
    });
    Ok(filters.join(","))
}

/// What is done with the picture at the source's own size.
pub(super) fn before_size(request: &Request<'_>, shape: &Shape) -> Vec<String> {
    before(request, shape, Vec::new())
}

fn before(request: &Request<'_>, shape: &Shape, taken: Vec<String>) -> Vec<String> {
    let mut filters = Vec::new();
    if shape.is_deinterlaced {
        filters.push("bwdif=mode=send_frame:parity=auto:deint=all".to_owned());
    }
    filters.extend(taken);
    if let Some(crop) = request.encode.video.crop {
        filters.push(format!("crop={}:{}:{}:{}", crop.width, crop.height, crop.x, crop.y));
    }
    if shape.is_mapped {
        filters.push(mapped(request.source.map(|(_, probed)| &probed.colors)));
    }
    filters
}

/// Lets the frames of a chunk begin at 0, or as late as they are. Those of a presentation that are the source's lie where their
/// rate puts them: rounded to the source's clock, one with which a segment begins could come before its time.
fn again(request: &Request<'_>, cut: &Cut) -> String {
    let rate = request.source.and_then(|(_, probed)| probed.rate);
    match (&cut.span, cut.late, rate.filter(|_| request.encode.segments.is_some())) {
        (Span::Time { .. }, None, Some(Fps { num, den })) => format!("settb={den}/{num},setpts=N"),
        (_, Some(late), _) => format!("setpts=PTS-STARTPTS+{late}/TB"),
        (_, None, _) => "setpts=PTS-STARTPTS".to_owned(),
    }
}

/// Takes the frames of a chunk out of a source that is read by its own clock.
fn taken(cut: &Cut, shape: &Shape, zero: Option<Micros>) -> Vec<String> {
    let mut filters: Vec<String> = zero.map(|zero| format!("setpts=PTS+({zero})/TB")).into_iter().collect();
    let bounds = match &cut.span {
        Span::Time { from, to } => [from.map(|secs| format!("start={secs}")), to.map(|secs| format!("end={secs}"))],
        Span::Frame { zero, from, to } => {
            // The output's frames are counted from where the output begins, whatever chunk they are in.
            filters.push(format!("setpts=round(PTS-({zero})/TB)"));
            filters.extend(shape.fps.map(|fps| format!("fps={fps}")));
            [from.map(|frame| format!("start_pts={frame}")), to.map(|frame| format!("end_pts={frame}"))]
        }
    };
    let bounds: Vec<String> = bounds.into_iter().flatten().collect();
    if !bounds.is_empty() {
        filters.push(format!("trim={}", bounds.join(":")));
    }
    filters
}

fn size(request: &Request<'_>, shape: &Shape, filters: &mut Vec<String>) {
    let (width, height) = (shape.width, shape.height);
    let wish = &request.encode.video;
    if wish.size.is_none() {
        if wish.treatment != Treatment::Picture {
            filters.push("scale=trunc(iw/2)*2:trunc(ih/2)*2".to_owned());
        }
        return;
    }
    if shape.sample_aspect != (1, 1) && wish.fit != Fit::Stretch {
        // Square pixels first: the fit below looks at pixels only.
        filters.push("scale=trunc(iw*sar/2)*2:ih".to_owned());
    }
    match wish.fit {
        Fit::Pad => {
            filters.push(format!("scale={width}:{height}:force_original_aspect_ratio=decrease:force_divisible_by=2"));
            filters.push(format!("pad={width}:{height}:(ow-iw)/2:(oh-ih)/2"));
        }
        Fit::Inside | Fit::Stretch => filters.push(format!("scale={width}:{height}")),
        Fit::Crop => filters.extend(filled(shape)),
    }
    filters.push("setsar=1".to_owned());
}

/// Fills the frame and cuts what is outside.
pub(super) fn filled(shape: &Shape) -> [String; 2] {
    let Shape { width, height, .. } = shape;
    [
        format!("scale={width}:{height}:force_original_aspect_ratio=increase:force_divisible_by=2"),
        format!("crop={width}:{height}"),
    ]
}

/// From PQ or HLG to BT.709 (Hable's curve, over linear light of 100 cd/m2).
pub(super) fn mapped(colors: Option<&Colors>) -> String {
    let transfer = colors.and_then(|colors| colors.transfer).unwrap_or("smpte2084");
    let primaries = colors.and_then(|colors| colors.primaries).unwrap_or("bt2020");
    let matrix = colors.and_then(|colors| colors.matrix).unwrap_or("bt2020nc");
    format!(
        "zscale=tin={transfer}:pin={primaries}:min={matrix}:t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,\
         tonemap=tonemap=hable:desat=0,zscale=t=bt709:m=bt709:r=limited"
    )
}

pub(super) fn pixels(encoder: Encoder, format: PixelFormat) -> String {
    if !encoder.is_hardware() {
        return format!("format={}", planar(format));
    }
    let format = if format == PixelFormat::Yuv420p { "nv12" } else { "p010le" };
    if is_vaapi(encoder) { format!("format={format},hwupload") } else { format!("format={format}") }
}

/// What decoders give back: the interleaved formats exist only on the way into hardware.
#[must_use]
pub fn planar(format: PixelFormat) -> PixelFormat {
    match format {
        PixelFormat::P010le => PixelFormat::Yuv420p10le,
        PixelFormat::Yuv420p
        | PixelFormat::Yuv422p
        | PixelFormat::Yuv444p
        | PixelFormat::Yuv420p10le
        | PixelFormat::Yuv422p10le
        | PixelFormat::Yuv444p10le => format,
    }
}
