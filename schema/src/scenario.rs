//! Scenarios: names for encodes, and how a job's scenario and parameters become one typed [`Encode`].
//!
//! Invariant: a job that passes [`check`] resolves, and what it resolves to is what will be proven; what this version
//! cannot do is a fault with a reason, never something else that runs instead.

pub mod containers;
mod engine;
mod hardware;
mod live;
pub mod outputs;
mod pictures;
mod quality;
mod wishes;

use crate::callback;
use crate::chunk::{self, Piece};
use crate::encode::{
    AudioChoice, AudioEncode, Bitrate, CodecChoice, Container, Encode, Encoder, Fit, Fps, Grid, Ladder, Loudness,
    OutputMode, PixelFormat, RateControl, Resolution, SegmentType, Segments, Source, Treatment, VideoCodec,
    VideoEncode,
};
use crate::job::{Checkpoint, Engine, HardwarePolicy, JobSpec, Parameters, ResourceLimits};
use crate::location::{Location, Use};
use crate::message::Ability;
use crate::parse::Fault;

pub use engine::{choose_engine, why_ffmpeg};
pub use live::is_live;

/// Length of a generated source that does not say, in seconds.
pub const GENERATED_SECS: f64 = 10.0;
/// What stands for the rates of rungs until they are known.
const RUNG_BITS: u64 = 1_000_000;
/// Longest generated source, in seconds.
pub const GENERATED_MAX_SECS: f64 = 86_400.0;

/// What a scenario's name stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scenario {
    /// Frame size; absent: the source's.
    pub size: Option<Resolution>,
    /// Frame rate; absent: the source's.
    pub fps: Option<Fps>,
    /// Codec, or one encoder.
    pub codec: CodecChoice,
    /// Audio; absent: what suits the container.
    pub audio: Option<AudioChoice>,
    /// Whether it makes renditions in several sizes.
    pub is_ladder: bool,
    /// The set of pictures that it makes, where it makes more than one.
    pub set: Option<PictureSet>,
}

/// How the pictures of a set lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PictureSet {
    /// Each in a file of its own.
    Files,
    /// Many in a sheet.
    Sheets,
}

/// A scenario with a name of its own.
#[derive(Debug, Clone, Copy)]
pub struct Named {
    /// The name.
    pub name: &'static str,
    /// What it is, in words.
    pub description: &'static str,
    size: Option<Resolution>,
    fps: Option<Fps>,
    codec: CodecChoice,
    audio: Option<AudioChoice>,
    is_ladder: bool,
    set: Option<PictureSet>,
}

/// A scenario that keeps the source's size and rate.
const fn as_source(name: &'static str, description: &'static str, codec: CodecChoice) -> Named {
    Named { name, description, size: None, fps: None, codec, audio: None, is_ladder: false, set: None }
}

/// A scenario that makes renditions.
const fn ladder(name: &'static str, description: &'static str, codec: VideoCodec) -> Named {
    Named { is_ladder: true, ..as_source(name, description, CodecChoice::Codec(codec)) }
}

/// A scenario without video.
const fn audio_only(name: &'static str, description: &'static str, audio: AudioChoice) -> Named {
    Named { audio: Some(audio), ..as_source(name, description, CodecChoice::None) }
}

/// A scenario that makes many pictures.
const fn pictures(name: &'static str, description: &'static str, set: PictureSet) -> Named {
    Named { set: Some(set), ..as_source(name, description, CodecChoice::Picture) }
}

const FULL_HD: Option<Resolution> = Some(Resolution { width: 1920, height: 1080 });

/// The named scenarios. Every `<size>[fps]-<codec>` works besides, such as `720p30-h264`.
pub const NAMED: [Named; 17] = [
    as_source("custom-input", "H.264 at the source's size and rate", CodecChoice::Codec(VideoCodec::H264)),
    Named {
        name: "test-1080p",
        description: "H.264, 1920x1080, 30 frames per second",
        size: FULL_HD,
        fps: Some(Fps { num: 30, den: 1 }),
        codec: CodecChoice::Codec(VideoCodec::H264),
        audio: None,
        is_ladder: false,
        set: None,
    },
    Named {
        name: "live-stream",
        description: "H.264, 1920x1080, 30 frames per second",
        size: FULL_HD,
        fps: Some(Fps { num: 30, den: 1 }),
        codec: CodecChoice::Codec(VideoCodec::H264),
        audio: None,
        is_ladder: false,
        set: None,
    },
    as_source("source-h265", "H.265 at the source's size and rate", CodecChoice::Codec(VideoCodec::H265)),
    as_source("source-vp9", "VP9 at the source's size and rate", CodecChoice::Codec(VideoCodec::Vp9)),
    as_source("source-av1", "AV1 at the source's size and rate", CodecChoice::Codec(VideoCodec::Av1)),
    Named {
        name: "copy",
        description: "the source's video and audio as they are, in another container",
        size: None,
        fps: None,
        codec: CodecChoice::Copy,
        audio: Some(AudioChoice::Copy),
        is_ladder: false,
        set: None,
    },
    ladder("ladder-h264", "renditions in H.264 in the usual sizes up to the source's", VideoCodec::H264),
    ladder("ladder-h265", "the same in H.265", VideoCodec::H265),
    ladder("ladder-vp9", "the same in VP9", VideoCodec::Vp9),
    ladder("ladder-av1", "the same in AV1", VideoCodec::Av1),
    audio_only("audio-aac", "the audio alone as AAC, in m4a", AudioChoice::Aac),
    audio_only("audio-opus", "the audio alone as Opus, in webm", AudioChoice::Opus),
    audio_only("audio-mp3", "the audio alone as MP3", AudioChoice::Mp3),
    as_source("thumbnail", "one picture of the source at the time `start`, as jpg, png or webp", CodecChoice::Picture),
    pictures("thumbnails", "pictures at an interval with a WebVTT track of their times", PictureSet::Files),
    pictures("sprites", "the same, small and many to a sheet", PictureSet::Sheets),
];

impl Scenario {
    /// What `name` stands for.
    #[must_use]
    pub fn find(name: &str) -> Option<Scenario> {
        if let Some(named) = NAMED.iter().find(|named| named.name == name) {
            let Named { size, fps, codec, audio, is_ladder, set, .. } = *named;
            return Some(Scenario { size, fps, codec, audio, is_ladder, set });
        }
        let (frame, codec) = name.split_once('-')?;
        let codec: CodecChoice = codec.parse().ok()?;
        let lower = frame.to_ascii_lowercase();
        // The longest size that the name begins with, so that `1080p60` is 1080p and 60.
        let (size_name, width, height) = Resolution::NAMED
            .into_iter()
            .filter(|(size, _, _)| lower.starts_with(size))
            .max_by_key(|(size, _, _)| size.len())?;
        let rest = &lower[size_name.len()..];
        let fps =
            if rest.is_empty() { None } else { Some(rest.parse::<u32>().ok().filter(|fps| (1..=1000).contains(fps))?) };
        // A size says that something is encoded.
        codec.codec()?;
        let size = Some(Resolution { width, height });
        Some(Scenario { size, fps: fps.map(Fps::whole), codec, audio: None, is_ladder: false, set: None })
    }
}

/// Adds everything that is wrong with a job whose fields are well formed.
pub fn check(spec: &JobSpec, faults: &mut Vec<Fault>) {
    if live::is_live(spec) {
        live::check(spec, faults);
    } else {
        live::none_of_it(spec, faults);
        check_ordinary(spec, faults);
    }
    engine::check(spec, faults);
}

/// The same for a job whose outputs are files.
fn check_ordinary(spec: &JobSpec, faults: &mut Vec<Fault>) {
    let mut checks = Checks { faults };
    checks.limits(spec);
    checks.output_mode(spec);
    checks.labels(spec);
    checks.parents(spec);
    checks.faults.extend(spec.callback_url.as_deref().and_then(callback::check_url));
    checks.chunks(spec);
    if spec.engine != Engine::Noop || !spec.scenario.is_empty() {
        checks.encode(spec);
        outputs::check(spec, faults);
    }
}

struct Checks<'f> {
    faults: &'f mut Vec<Fault>,
}

impl Checks<'_> {
    fn fault(&mut self, path: &str, code: &str, message: impl Into<String>) {
        self.faults.push(Fault::new(path, code, message));
    }

    fn range<T: PartialOrd + Copy + std::fmt::Display>(
        &mut self,
        path: &str,
        value: Option<T>,
        low: T,
        high: T,
        unit: &str,
    ) {
        if let Some(value) = value.filter(|value| !(low..=high).contains(value)) {
            self.fault(path, "out_of_range", format!("{value} is not between {low} and {high} {unit}"));
        }
    }

    fn limits(&mut self, spec: &JobSpec) {
        let limits = &spec.resource_limits;
        self.range("resource_limits.max_cpu_percent", limits.max_cpu_percent, 1, 100_000, "percent of one core");
        self.range("resource_limits.max_memory_mb", limits.max_memory_mb, 16, 16 * 1024 * 1024, "MiB");
        self.range("resource_limits.max_disk_mb", limits.max_disk_mb, 1, 1024 * 1024 * 1024, "MiB");
        self.range("resource_limits.timeout_sec", limits.timeout_sec, 1, 30 * 86_400, "seconds");
        self.range("resource_limits.stall_sec", limits.stall_sec, 1, 30 * 86_400, "seconds");
        self.range("max_retries", Some(spec.max_retries), 0, 100, "retries");
    }

    fn output_mode(&mut self, spec: &JobSpec) {
        match spec.parameters.output_mode {
            None | Some(OutputMode::File) => {}
            Some(mode @ (OutputMode::Rtmp | OutputMode::Stream)) => {
                self.fault(
                    "parameters.output_mode",
                    "unsupported",
                    format!("`{mode}` needs a live output: an rtmp://, rtmps:// or srt:// address"),
                );
            }
        }
    }

    /// Whether a job that insists on chunks can have them, as far as the job alone tells.
    fn chunks(&mut self, spec: &JobSpec) {
        if spec.checkpoint != Checkpoint::Require {
            return;
        }
        let why = match encode_of(spec) {
            Some(_) if live::is_live(spec) => Some("its source is live"),
            Some(_) if spec.engine == Engine::Gstreamer => Some("GStreamer's engine makes none"),
            Some(encode) => chunk::unfit(&encode),
            None => (spec.engine == Engine::Noop).then_some("its engine encodes nothing"),
        };
        if let Some(why) = why {
            let cure = "use `auto` to have it encoded whole";
            self.fault(
                "checkpoint",
                "unsupported",
                format!("`require`: the job cannot be made in chunks: {why}; {cure}"),
            );
        }
    }

    /// Whether the parents exist and make no circle only the ledger can tell.
    fn parents(&mut self, spec: &JobSpec) {
        const MOST: usize = 64;
        if spec.depends_on.len() > MOST {
            self.fault("depends_on", "too_many", format!("{} parents: {MOST} at most", spec.depends_on.len()));
        }
        if spec.id.is_some_and(|id| spec.depends_on.contains(&id)) {
            self.fault("depends_on", "cycle", "a job cannot wait for itself");
        }
        if let (Some(deadline), Some(not_before)) = (spec.deadline, spec.not_before)
            && deadline <= not_before
        {
            self.fault("deadline", "contradiction", "the deadline is not after `not_before`: the job could never run");
        }
    }

    fn labels(&mut self, spec: &JobSpec) {
        if spec.labels.len() > 32 {
            self.fault("labels", "too_many", format!("{} labels: 32 at most", spec.labels.len()));
        }
        for (name, value) in &spec.labels {
            if name.is_empty() || name.len() > 64 || value.len() > 256 {
                let shown = crate::id::excerpt(name);
                self.fault(
                    &format!("labels.{shown}"),
                    "out_of_range",
                    "a label's name has 1 to 64 bytes, its value 256 at most",
                );
            }
        }
        if spec.tenant.as_ref().is_some_and(|tenant| tenant.is_empty() || tenant.len() > 64) {
            self.fault("tenant", "out_of_range", "a tenant's name has 1 to 64 bytes");
        }
    }

    fn encode(&mut self, spec: &JobSpec) {
        let p = &spec.parameters;
        if let Some(duration) = p.duration.filter(|duration| !(*duration > 0.0 && duration.is_finite())) {
            self.fault(
                "parameters.duration",
                "out_of_range",
                format!("{duration} is not a length: seconds over 0 are expected"),
            );
        }
        if spec.input.is_none() && p.duration.is_some_and(|duration| duration > GENERATED_MAX_SECS) {
            self.fault(
                "parameters.duration",
                "out_of_range",
                format!("a generated source has {GENERATED_MAX_SECS} seconds at most"),
            );
        }
        self.range("parameters.gop", p.gop, 1, 100_000, "frames");
        if p.crf.is_some() && p.bitrate.is_some() {
            self.fault(
                "parameters.crf",
                "contradiction",
                "`crf` and `bitrate` exclude each other: give one, or `crf` with `maxrate` and `bufsize`",
            );
        }
        self.address("input", spec.input.as_deref(), Use::Input);
        self.address("output", spec.output.as_deref(), Use::Output);
        // Whether two files are one only their host can tell.
        let object = |address: &Option<String>| match Location::parse(address.as_deref()?, Use::Input) {
            Ok(Location::Object(object)) => Some(object),
            Ok(Location::File(_) | Location::Web(_) | Location::Live(_)) | Err(_) => None,
        };
        if object(&spec.output).is_some_and(|output| object(&spec.input) == Some(output)) {
            self.fault("output", "same_as_input", "the output would replace the input: give it another name");
        }
        let Some(scenario) = Scenario::find(&spec.scenario) else {
            if !spec.scenario.is_empty() {
                self.fault(
                    "scenario",
                    "unknown_scenario",
                    format!(
                        "`{}` is no scenario: <size>[fps]-<codec> such as 1080p60-h264 is expected, or one of {}",
                        crate::id::excerpt(&spec.scenario),
                        NAMED.map(|named| named.name).join(", ")
                    ),
                );
            }
            return;
        };
        let codec = p.codec.unwrap_or(scenario.codec);
        self.codec_limits(spec, codec);
        if let Some(output) = spec.output.as_deref().and_then(|address| Location::parse(address, Use::Output).ok())
            && Container::of_path(output.name()).is_none()
            && p.container.is_none()
        {
            self.fault(
                "output",
                "unknown_container",
                format!(
                    "`{}` does not end in a known container: one of {} is expected, or `container`",
                    crate::id::excerpt(output.name()),
                    Container::ALL.iter().map(|container| container.as_str()).collect::<Vec<_>>().join(", ")
                ),
            );
        }
        wishes::check(spec, &scenario, self.faults);
    }

    fn address(&mut self, path: &str, address: Option<&str>, purpose: Use) {
        if let Some(Err(bad)) = address.map(|address| Location::parse(address, purpose)) {
            self.fault(path, bad.code, bad.message);
        }
    }

    fn codec_limits(&mut self, spec: &JobSpec, codec: CodecChoice) {
        let p = &spec.parameters;
        let Some(made) = codec.codec() else { return };
        let max_crf = match made {
            VideoCodec::H264 | VideoCodec::H265 => 51,
            VideoCodec::Vp8 | VideoCodec::Vp9 | VideoCodec::Av1 => 63,
        };
        self.range("parameters.crf", p.crf, 0, max_crf, "for this codec");
        if let (CodecChoice::Encoder(encoder), Some(HardwarePolicy::Forbid)) = (codec, p.hw)
            && encoder.is_hardware()
        {
            self.fault(
                "parameters.hw",
                "contradiction",
                format!("`forbid` and the hardware encoder {encoder} exclude each other"),
            );
        }
        if let Some(preset) = &p.preset {
            let allowed = presets(codec);
            if !allowed.contains(&preset.as_str()) {
                self.fault(
                    "parameters.preset",
                    "unknown_preset",
                    format!(
                        "`{}` is no preset of {codec}: one of {} is expected",
                        crate::id::excerpt(preset),
                        allowed.join(", ")
                    ),
                );
            }
        }
        if let Some(tune) = &p.tune {
            let allowed = tunes(codec);
            if !allowed.contains(&tune.as_str()) {
                let expected = if allowed.is_empty() {
                    "none can be chosen".to_owned()
                } else {
                    format!("one of {} is expected", allowed.join(", "))
                };
                self.fault(
                    "parameters.tune",
                    "unknown_tune",
                    format!("`{}` is no tuning of {codec}: {expected}", crate::id::excerpt(tune)),
                );
            }
        }
        if let Some(format) = p.pixel_format {
            let allowed = pixel_formats(codec);
            if !allowed.contains(&format) {
                let names: Vec<&str> = allowed.iter().map(|format| format.as_str()).collect();
                self.fault(
                    "parameters.pixel_format",
                    "unsupported",
                    format!("{codec} does not make {format}: one of {} is expected", names.join(", ")),
                );
            }
        }
    }
}

const X26X_PRESETS: &[&str] =
    &["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo"];

/// The presets of an encoder. VP8, VP9 and AV1 take the x264 names too, mapped to their speeds by the worker.
#[must_use]
pub fn presets(codec: CodecChoice) -> &'static [&'static str] {
    match codec {
        CodecChoice::Encoder(Encoder::H264Nvenc | Encoder::HevcNvenc | Encoder::Av1Nvenc) => {
            &["p1", "p2", "p3", "p4", "p5", "p6", "p7", "slow", "medium", "fast"]
        }
        CodecChoice::Encoder(_) | CodecChoice::Codec(_) => X26X_PRESETS,
        CodecChoice::Copy | CodecChoice::None | CodecChoice::Picture => &[],
    }
}

fn tunes(codec: CodecChoice) -> &'static [&'static str] {
    match codec {
        CodecChoice::Codec(VideoCodec::H264) | CodecChoice::Encoder(Encoder::Libx264) => {
            &["film", "animation", "grain", "stillimage", "fastdecode", "zerolatency", "psnr", "ssim"]
        }
        CodecChoice::Codec(VideoCodec::H265) | CodecChoice::Encoder(Encoder::Libx265) => {
            &["animation", "grain", "fastdecode", "zerolatency", "psnr", "ssim"]
        }
        CodecChoice::Codec(VideoCodec::Vp8 | VideoCodec::Vp9 | VideoCodec::Av1)
        | CodecChoice::Encoder(_)
        | CodecChoice::Copy
        | CodecChoice::None
        | CodecChoice::Picture => &[],
    }
}

fn pixel_formats(codec: CodecChoice) -> &'static [PixelFormat] {
    use PixelFormat::{P010le, Yuv420p, Yuv420p10le, Yuv422p, Yuv422p10le, Yuv444p, Yuv444p10le};
    match codec {
        CodecChoice::Encoder(encoder) if encoder.is_hardware() => &[Yuv420p, P010le],
        CodecChoice::Encoder(Encoder::Libsvtav1) | CodecChoice::Codec(VideoCodec::Av1) => &[Yuv420p, Yuv420p10le],
        CodecChoice::Codec(VideoCodec::Vp8) | CodecChoice::Encoder(Encoder::Libvpx) => &[Yuv420p],
        CodecChoice::Copy | CodecChoice::None | CodecChoice::Picture => &[],
        CodecChoice::Codec(_) | CodecChoice::Encoder(_) => {
            &[Yuv420p, Yuv422p, Yuv444p, Yuv420p10le, Yuv422p10le, Yuv444p10le]
        }
    }
}

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
    let mut bytes = Vec::with_capacity(path.len());
    let mut left = path.as_bytes();
    while let [first, tail @ ..] = left {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            left = &tail[2..];
        } else {
            bytes.push(*first);
            left = tail;
        }
    }
    String::from_utf8(bytes).ok()
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
    encode_of(spec)
        .ok_or_else(|| vec![Fault::new("scenario", "unknown_scenario", format!("`{}` is no scenario", spec.scenario))])
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
        if p.crf.is_none() {
            video.rate = RateControl::Bitrate { bitrate: Bitrate(RUNG_BITS), maxrate: None, bufsize: None };
        }
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
        CodecChoice::Codec(VideoCodec::Vp8 | VideoCodec::Vp9)
        | CodecChoice::Encoder(Encoder::Libvpx | Encoder::LibvpxVp9) => Container::Webm,
        CodecChoice::Codec(VideoCodec::H264 | VideoCodec::H265 | VideoCodec::Av1) | CodecChoice::Encoder(_) => {
            Container::Mp4
        }
    };
    spec.parameters.container.or(named).unwrap_or_else(usual)
}

/// What a job does with the audio.
fn audio(spec: &JobSpec, scenario: &Scenario, container: Container) -> AudioChoice {
    let is_copy = spec.parameters.codec == Some(CodecChoice::Copy);
    let by_scenario = scenario.audio.or(is_copy.then_some(AudioChoice::Copy));
    spec.parameters.audio_codec.or(by_scenario).unwrap_or_else(|| containers::default_audio(container))
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

/// Whether a worker could run a job with nothing else running.
///
/// # Errors
/// Everything that it lacks, as faults of the job.
pub fn fits(spec: &JobSpec, encode: Option<&Encode>, ability: &Ability) -> Result<(), Vec<Fault>> {
    let mut faults = Vec::new();
    let limits: &ResourceLimits = &spec.resource_limits;
    let mut need = |path: &str, message: String| faults.push(Fault::new(path, "no_worker_fits", message));
    if let Some(cpu) = limits.max_cpu_percent.filter(|cpu| *cpu > ability.cpu_percent) {
        need(
            "resource_limits.max_cpu_percent",
            format!("{cpu} % of a core is more than the {} % a worker has", ability.cpu_percent),
        );
    }
    // A job that does not say is run with what there is: only a wish can be too large.
    if let Some(memory) = limits.max_memory_mb.filter(|memory| *memory > ability.memory_mb) {
        need(
            "resource_limits.max_memory_mb",
            format!("{memory} MiB is more than the {} MiB a worker has", ability.memory_mb),
        );
    }
    if let Some(disk) = limits.max_disk_mb.filter(|disk| *disk > ability.disk_mb) {
        need(
            "resource_limits.max_disk_mb",
            format!("{disk} MiB is more than the {} MiB a worker has", ability.disk_mb),
        );
    }
    let input = spec.input.as_deref().and_then(|address| Location::parse(address, Use::Input).ok());
    if let Some(location) = input.filter(|location| !location.is_served_by(&ability.stores)) {
        need("input", format!("no worker here serves {location}"));
    }
    if (spec.piece.is_some() || spec.checkpoint == Checkpoint::Require) && !ability.has(Piece::FEATURE) {
        need("checkpoint", "no worker here makes chunks".to_owned());
    }
    if spec.piece.as_ref().is_some_and(|piece| piece.is_sound) && !ability.has(Piece::SOUND_FEATURE) {
        need("checkpoint", "no worker here makes the sound apart from chunks".to_owned());
    }
    match encode {
        None if !ability.noop => {
            need("engine", "no worker here runs `noop` jobs: start one with them allowed".to_owned())
        }
        None => faults.extend(lacks_store(spec, ability)),
        Some(encode) => faults.extend(choose_engine(spec, encode, ability).err().into_iter().flatten()),
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// Whether a worker does not reach where an output goes.
fn lacks_store(spec: &JobSpec, ability: &Ability) -> Option<Fault> {
    let location = Location::parse(spec.output.as_deref()?, Use::Output).ok()?;
    let message = || format!("no worker here serves {location}");
    (!location.is_served_by(&ability.stores)).then(|| Fault::new("output", "no_worker_fits", message()))
}

fn lacks_encoder(spec: &JobSpec, encode: &Encode, ability: &Ability) -> Option<String> {
    let has = |encoder: &Encoder| ability.encoders.iter().any(|name| name == encoder.as_str());
    if encode.video.candidates().iter().any(has) {
        return None;
    }
    let codec = encode.video.codec;
    match encode.video.encoder {
        Some(_) if spec.parameters.hw == Some(HardwarePolicy::Prefer) && codec.encoders().iter().any(has) => None,
        Some(encoder) => Some(format!("no worker here has a working encoder {encoder}")),
        None if encode.video.hw == Some(HardwarePolicy::Require) => {
            Some(format!("no worker here has a device that encodes {}: allow software with `prefer`", codec.as_str()))
        }
        None => Some(format!("no worker here has a working encoder for {}", codec.as_str())),
    }
}
