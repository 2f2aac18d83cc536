//! What is wrong with a job whose fields are well formed: every fault at once, each at its field.
//!
//! Invariant: a job without a fault resolves; one that this version cannot do has a fault, never something else that runs.

use super::{GENERATED_MAX_SECS, NAMED, Scenario, encode_of, engine, live, outputs, wishes};
use crate::callback;
use crate::chunk::{self};
use crate::encode::{CodecChoice, Container, Encoder, OutputMode, PixelFormat, VideoCodec};
use crate::job::{Checkpoint, Engine, HardwarePolicy, JobSpec};
use crate::location::{Location, Use};
use crate::parse::Fault;

/// Adds everything that is wrong with a job whose fields are well formed.
pub fn check(spec: &JobSpec, faults: &mut Vec<Fault>) {
    if live::is_live(spec) {
        live::check(spec, faults);
    } else {
        live::none_of_it(spec, faults);
        check_ordinary(spec, faults);
    }
    stated_input(spec, faults);
    engine::check(spec, faults);
}

/// The same for a job whose outputs are files.
pub(super) fn check_ordinary(spec: &JobSpec, faults: &mut Vec<Fault>) {
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

/// What a job says that its input is.
fn stated_input(spec: &JobSpec, faults: &mut Vec<Fault>) {
    const FIELDS: [&str; 2] = ["input_sha256", "input_size_bytes"];
    let location = spec.input.as_deref().map(|address| Location::parse(address, Use::Input));
    // An input that cannot be read has its own fault.
    let is_unread = faults.iter().any(|fault| matches!(fault.path.as_str(), "input" | "parameters.input"));
    let why = match &location {
        None if is_unread => None,
        None => Some("says what the input is, and the job has none: give `input`, or leave this out"),
        Some(Ok(Location::Live(_))) => Some("has no meaning: a live source has neither a size nor a checksum"),
        Some(Ok(Location::File(_) | Location::Object(_) | Location::Web(_)) | Err(_)) => None,
    };
    let given = [spec.input_sha256.is_some(), spec.input_size_bytes.is_some()];
    let given = FIELDS.into_iter().zip(given).filter_map(|(field, is_given)| is_given.then_some(field));
    faults.extend(given.filter_map(|field| Some(Fault::new(field, "contradiction", format!("`{field}` {}", why?)))));

    let Some(bytes) = spec.input_size_bytes else { return };
    let most = JobSpec::MAX_INPUT_BYTES;
    let disk_mb = spec.resource_limits.disk_mb();
    let is_fetched = matches!(location, Some(Ok(Location::Object(_) | Location::Web(_))));
    let message = if !(1..=most).contains(&bytes) {
        format!("{bytes} is not between 1 and {most} bytes")
    } else if is_fetched && bytes > disk_mb.saturating_mul(1 << 20) {
        format!(
            "{bytes} bytes are more than the {disk_mb} MiB that an attempt may store, into which the input is fetched: raise \
             resource_limits.max_disk_mb"
        )
    } else {
        return;
    };
    faults.push(Fault::new("input_size_bytes", "out_of_range", message));
}

pub(super) struct Checks<'f> {
    pub(super) faults: &'f mut Vec<Fault>,
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

    pub(super) fn output_mode(&mut self, spec: &JobSpec) {
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
            Some(encode) => {
                let others = spec.outputs.iter().filter_map(|output| encode_of(&spec.of_output(output)));
                std::iter::once(encode).chain(others).find_map(|encode| chunk::unfit(&encode))
            }
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

    pub(super) fn encode(&mut self, spec: &JobSpec) {
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
        CodecChoice::Encoder(Encoder::Vp8Vaapi) => &[Yuv420p],
        CodecChoice::Encoder(encoder) if encoder.is_hardware() => &[Yuv420p, P010le],
        CodecChoice::Encoder(Encoder::Libsvtav1) | CodecChoice::Codec(VideoCodec::Av1) => &[Yuv420p, Yuv420p10le],
        CodecChoice::Codec(VideoCodec::Vp8) | CodecChoice::Encoder(Encoder::Libvpx) => &[Yuv420p],
        CodecChoice::Copy | CodecChoice::None | CodecChoice::Picture => &[],
        CodecChoice::Codec(_) | CodecChoice::Encoder(_) => {
            &[Yuv420p, Yuv422p, Yuv444p, Yuv420p10le, Yuv422p10le, Yuv444p10le]
        }
    }
}
