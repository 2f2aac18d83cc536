//! Scenarios: names for encodes, and how a job's scenario and parameters become one typed [`Encode`].
//!
//! Invariant: a job that passes [`check`] resolves, and what it resolves to is what will be proven; what this version
//! cannot do is a fault with a reason, never something else that runs instead.

mod checks;
pub mod containers;
mod engine;
mod fits;
mod hardware;
mod live;
mod named;
pub mod outputs;
mod pictures;
mod quality;
mod wishes;

use crate::encode::{
    AudioChoice, AudioEncode, Bitrate, CodecChoice, Container, Encode, Fit, Fps, Grid, Ladder, Loudness, PixelFormat,
    RateControl, Resolution, SegmentType, Segments, Source, Treatment, VideoCodec, VideoEncode,
};
use crate::job::{Engine, JobSpec, Parameters};
use crate::location::{Location, Use};
use crate::parse::Fault;
use crate::percent;

use checks::{Checks, check_ordinary};
pub use checks::{check, presets};
pub use engine::{choose_engine, why as why_engine};
pub use fits::fits;
use fits::{lacks_encoder, lacks_store};
pub use live::is_live;
pub use named::{NAMED, Named, PictureSet, Scenario};

/// Length of a generated source that does not say, in seconds.
pub const GENERATED_SECS: f64 = 10.0;
/// What stands for the rates of rungs until they are known.
const RUNG_BITS: u64 = 1_000_000;
/// Longest generated source, in seconds.
pub const GENERATED_MAX_SECS: f64 = 86_400.0;

/// The absolute path that an address names: an absolute path, or a `file://` address of this host, percent-decoded.
#[must_use]
pub fn path_of(address: &str) -> Option<String> {
    if address.starts_with('/') {
        return Some(address.to_owned());
    }
    let rest = address.strip_prefix("file://")?;
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if !path.starts_with('/') {
        return None;
    }
    percent::strictly_decoded(path)
}

/// The encode of a job that passed [`check`]. `None` for the `noop` engine.
///
/// # Errors
/// The faults that [`check`] would have found.
pub fn resolve(spec: &JobSpec) -> Result<Option<Encode>, Vec<Fault>> {
    let mut faults = Vec::new();
    check(spec, &mut faults);
    if !faults.is_empty() {
        return Err(faults);
    }
    if spec.engine == Engine::Noop {
        return Ok(None);
    }
    if live::is_live(spec) {
        return live::resolve(spec).map(Some);
    }
    let mut encode = resolve_one(spec)?;
    encode.others = spec.outputs.iter().map(|output| resolve_one(&spec.of_output(output))).collect::<Result<_, _>>()?;
    Ok(Some(encode))
}

/// The encode of a job's own output.
fn resolve_one(spec: &JobSpec) -> Result<Encode, Vec<Fault>> {
    encode_of(spec).ok_or_else(|| unknown(spec))
}

fn unknown(spec: &JobSpec) -> Vec<Fault> {
    vec![Fault::new("scenario", "unknown_scenario", format!("`{}` is no scenario", spec.scenario))]
}

/// What a job's own output encodes, whether it makes sense or not. `None` where its scenario is none.
fn encode_of(spec: &JobSpec) -> Option<Encode> {
    let scenario = Scenario::find(&spec.scenario)?;
    let p = &spec.parameters;
    let codec = p.codec.unwrap_or(scenario.codec);
    let source = match spec.input.as_deref().and_then(|address| Location::parse(address, Use::Input).ok()) {
        Some(Location::File(path)) => Source::File { path },
        Some(Location::Web(url)) => Source::Remote { url },
        Some(Location::Object(object)) => Source::Remote { url: object.to_string() },
        Some(Location::Live(live)) => Source::Live { url: live.url() },
        None => Source::Generated { duration_secs: p.duration.unwrap_or(GENERATED_SECS) },
    };
    let generated = matches!(source, Source::Generated { .. });
    let size = p.resolution.or(scenario.size).or_else(|| generated.then_some(wishes::GENERATED_SIZE));
    let fps = p.fps.or(scenario.fps).or_else(|| generated.then_some(Fps::whole(30)));
    let output = spec.output.as_deref().and_then(|address| Location::parse(address, Use::Output).ok());
    let container = container(spec, &scenario);
    let ladder = p.ladder.clone().or(scenario.is_ladder.then_some(Ladder::Auto));
    let mut video = video(p, codec, size, fps);
    if scenario.set == Some(PictureSet::Sheets) && p.resolution.is_none() {
        video.size = Some(Grid::TILE);
        video.fit = p.fit.unwrap_or(Fit::Inside);
    }
    if let Some(ladder) = &ladder {
        // What is chosen from the source keeps its shape.
        video.fit = p.fit.unwrap_or(if *ladder == Ladder::Auto { Fit::Inside } else { Fit::Pad });
        video.rate = rung_rate(p, video.codec);
    }
    Some(Encode {
        source,
        output: output.map(|output| output.to_string()),
        container,
        video,
        audio: AudioEncode {
            codec: audio(spec, &scenario, container),
            bitrate: p.audio_bitrate.unwrap_or(Bitrate(128_000)),
            channels: p.audio_channels,
            sample_rate: p.sample_rate,
            loudness: p.loudness.map(|lufs| Loudness { lufs, peak_dbtp: p.true_peak.unwrap_or(-1.0) }),
            streams: p.audio_streams.unwrap_or_default(),
        },
        duration_secs: p.duration.or_else(|| p.end.map(|end| end - p.start.unwrap_or(0.0))),
        start_secs: p.start.filter(|start| *start > 0.0),
        subtitles: p.subtitles.unwrap_or_default(),
        subtitle_streams: p.subtitle_streams.unwrap_or_default(),
        metadata: p.metadata.unwrap_or_default(),
        chapters: p.chapters.unwrap_or_default(),
        quality: quality::wish(p),
        segments: container.is_streamed().then(|| Segments {
            kind: p.segment_type.unwrap_or(match (container, codec.codec()) {
                (Container::Hls, Some(VideoCodec::H264)) => SegmentType::Ts,
                _ => SegmentType::Fmp4,
            }),
            secs: p.segment_seconds.unwrap_or(Segments::SECS),
        }),
        pictures: pictures::wish(p, &scenario),
        ladder,
        others: Vec::new(),
        live: None,
    })
}

fn video(p: &Parameters, codec: CodecChoice, size: Option<Resolution>, fps: Option<Fps>) -> VideoEncode {
    // What is not encoded still has to name a codec on the wire.
    let made = codec.codec().unwrap_or(VideoCodec::H264);
    let two_pass = p.passes == Some(2);
    VideoEncode {
        codec: made,
        encoder: match codec {
            CodecChoice::Encoder(encoder) => Some(encoder),
            // A wish for two passes is one for an encoder that has them.
            CodecChoice::Codec(codec) if two_pass => {
                codec.encoders().iter().copied().find(|encoder| wishes::has_two_passes(*encoder))
            }
            CodecChoice::Codec(_) | CodecChoice::Copy | CodecChoice::None | CodecChoice::Picture => None,
        },
        size,
        fps,
        pixel_format: pixel_format(p),
        rate: rate_control(p, made),
        preset: p.preset.clone(),
        tune: p.tune.clone(),
        gop: p.gop,
        treatment: match codec {
            CodecChoice::Codec(_) | CodecChoice::Encoder(_) => Treatment::Encode,
            CodecChoice::Copy => Treatment::Copy,
            CodecChoice::None => Treatment::Drop,
            CodecChoice::Picture => Treatment::Picture,
        },
        two_pass,
        profile: p.profile,
        fit: p.fit.unwrap_or_default(),
        crop: p.crop,
        deinterlace: p.deinterlace.unwrap_or_default(),
        hdr: p.hdr.unwrap_or_default(),
        hw: hardware::policy(p, codec),
    }
}

/// The pixel format asked for, by itself or by a profile.
fn pixel_format(p: &Parameters) -> PixelFormat {
    let usual = p.profile.and_then(|profile| profile.pixel_formats().first().copied());
    p.pixel_format.or(usual).unwrap_or(PixelFormat::Yuv420p)
}

/// The container that an output's name says.
fn output_container(address: &str) -> Option<Container> {
    Container::of_path(Location::parse(address, Use::Output).ok()?.name())
}

/// The container of a job.
fn container(spec: &JobSpec, scenario: &Scenario) -> Container {
    let named = spec.output.as_deref().and_then(output_container);
    let usual = || match spec.parameters.codec.unwrap_or(scenario.codec) {
        CodecChoice::Copy => Container::Mkv,
        CodecChoice::Picture if scenario.set.is_some() => Container::Vtt,
        CodecChoice::Picture => Container::Jpg,
        CodecChoice::None => match spec.parameters.audio_codec.or(scenario.audio) {
            Some(AudioChoice::Mp3) => Container::Mp3,
            Some(AudioChoice::Opus) => Container::Webm,
            Some(AudioChoice::Copy) => Container::Mkv,
            Some(AudioChoice::Aac | AudioChoice::None) | None => Container::M4a,
        },
        CodecChoice::Codec(codec) => usual_container(codec),
        CodecChoice::Encoder(encoder) => usual_container(encoder.codec()),
    };
    spec.parameters.container.or(named).unwrap_or_else(usual)
}

fn usual_container(codec: VideoCodec) -> Container {
    match codec {
        VideoCodec::Vp8 | VideoCodec::Vp9 => Container::Webm,
        VideoCodec::H264 | VideoCodec::H265 | VideoCodec::Av1 => Container::Mp4,
    }
}

/// What a job does with the audio.
fn audio(spec: &JobSpec, scenario: &Scenario, container: Container) -> AudioChoice {
    let is_copy = spec.parameters.codec == Some(CodecChoice::Copy);
    let by_scenario = scenario.audio.or(is_copy.then_some(AudioChoice::Copy));
    spec.parameters.audio_codec.or(by_scenario).unwrap_or_else(|| containers::default_audio(container))
}

/// How each rung of a ladder spends bits, but for how many: that is known when its size is.
fn rung_rate(p: &Parameters, codec: VideoCodec) -> RateControl {
    match p.crf {
        None => RateControl::Bitrate { bitrate: Bitrate(RUNG_BITS), maxrate: None, bufsize: None },
        Some(_) => rate_control(p, codec),
    }
}

fn rate_control(p: &Parameters, codec: VideoCodec) -> RateControl {
    match p.bitrate {
        Some(bitrate) => RateControl::Bitrate { bitrate, maxrate: p.maxrate, bufsize: p.bufsize },
        None => {
            let usual = match codec {
                VideoCodec::H264 => 23,
                VideoCodec::H265 => 28,
                VideoCodec::Vp8 => 10,
                VideoCodec::Vp9 => 31,
                VideoCodec::Av1 => 35,
            };
            RateControl::Crf { crf: p.crf.unwrap_or(usual), maxrate: p.maxrate, bufsize: p.bufsize }
        }
    }
}
