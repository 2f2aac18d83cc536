//! Live jobs: what makes one, where each of its outputs goes, and what it cannot ask for.
//!
//! Invariant: a live job without its live outputs is an ordinary one, and is checked and resolved as such; what is said
//! here is only what its being live adds. One encode serves all its outputs.

use super::Scenario;
use crate::encode::{
    AudioChoice, CodecChoice, Container, Deinterlace, Encode, Fit, Hdr, OutputMode, SubtitleMode, VideoCodec,
};
use crate::job::{JobSpec, Parameters};
use crate::live::{Live, LiveAddress, Protocol, SourceEnd};
use crate::location::{Location, Use};
use crate::parse::Fault;

/// The most sinks that one job may send to.
const MOST_SINKS: usize = 16;
/// How far ahead a preset must be so that an ordinary machine encodes in time.
const PRESET: &str = "veryfast";

/// Where the outputs of a live job go.
#[derive(Default)]
struct Ends {
    /// Each with the field that names it.
    sinks: Vec<(String, LiveAddress)>,
    playlist: Option<String>,
    presentation: Option<String>,
    recording: Option<String>,
}

/// Whether its source or one of its outputs is live.
#[must_use]
pub fn is_live(spec: &JobSpec) -> bool {
    let is_sink = |address: &str| LiveAddress::is_named_by(address, Use::Output);
    spec.input.as_deref().is_some_and(|address| LiveAddress::is_named_by(address, Use::Input))
        || spec.output.as_deref().is_some_and(is_sink)
        || spec.outputs.iter().any(|output| is_sink(&output.url))
}

/// What only live jobs can ask for.
pub(super) fn none_of_it(spec: &JobSpec, faults: &mut Vec<Fault>) {
    let p = &spec.parameters;
    for (field, is_given) in [
        ("reconnect_sec", p.reconnect_sec.is_some()),
        ("restarts", p.restarts.is_some()),
        ("source_end", p.source_end.is_some()),
    ] {
        if is_given {
            let message = format!("`{field}` has no meaning: neither the input nor an output is live");
            faults.push(Fault::new(format!("parameters.{field}"), "contradiction", message));
        }
    }
}

/// Adds everything that is wrong with a live job.
pub(super) fn check(spec: &JobSpec, faults: &mut Vec<Fault>) {
    let ends = Ends::of(spec, faults);
    super::check_ordinary(&ends.recorded(spec), faults);
    let mut checks = Checks { spec, p: &spec.parameters, faults };
    checks.outputs(&ends);
    checks.policy();
    checks.times();
    if let Some(scenario) = Scenario::find(&spec.scenario) {
        checks.media(&scenario, &ends);
    }
}

/// The encode of a live job that passed [`check`].
pub(super) fn resolve(spec: &JobSpec) -> Result<Encode, Vec<Fault>> {
    encode_of(spec).ok_or_else(|| super::unknown(spec))
}

/// What a live job encodes, whether it makes sense or not. `None` where its scenario is none.
pub(super) fn encode_of(spec: &JobSpec) -> Option<Encode> {
    let ends = Ends::of(spec, &mut Vec::new());
    let mut encode = super::encode_of(&ends.recorded(spec))?;
    let p = &spec.parameters;
    let has_presets = matches!(encode.video.codec, VideoCodec::H264 | VideoCodec::H265)
        && encode.video.encoder.is_none_or(|encoder| !encoder.is_hardware());
    if has_presets {
        encode.video.preset.get_or_insert_with(|| PRESET.to_owned());
    }
    encode.live = Some(Live {
        sinks: ends.sinks.iter().map(|(_, sink)| sink.url()).collect(),
        record: ends.is_recorded(),
        playlist: ends.playlist,
        presentation: ends.presentation,
        reconnect_secs: p.reconnect_sec.unwrap_or(Live::RECONNECT_SECS),
        restarts: p.restarts.unwrap_or(Live::RESTARTS),
        source_end: p.source_end.unwrap_or(if p.duration.is_some() { SourceEnd::Fail } else { SourceEnd::Finish }),
    });
    Some(encode)
}

impl Ends {
    fn of(spec: &JobSpec, faults: &mut Vec<Fault>) -> Ends {
        let mut ends = Ends::default();
        let own = spec.output.iter().map(|address| ("output".to_owned(), address));
        let others = spec.outputs.iter().enumerate();
        let others = others.map(|(number, output)| (format!("outputs[{number}].url"), &output.url));
        for (field, address) in own.chain(others) {
            match Location::parse(address, Use::Output) {
                Ok(location) => ends.add(field, address, location, faults),
                Err(bad) => faults.push(Fault::new(field, bad.code, bad.message)),
            }
        }
        ends
    }

    fn add(&mut self, field: String, address: &str, location: Location, faults: &mut Vec<Fault>) {
        let name = location.name().to_ascii_lowercase();
        let (slot, what) = match location {
            Location::Live(sink) => {
                if self.sinks.iter().any(|(_, other)| *other == sink) {
                    let message = "another output has the same address: a server takes one publisher for a key";
                    faults.push(Fault::new(field.clone(), "contradiction", message));
                }
                return self.sinks.push((field, sink));
            }
            Location::File(path) if name.ends_with(".m3u8") => {
                let is_taken = self.playlist.replace(path).is_some();
                (is_taken, "an HLS playlist")
            }
            Location::File(path) if name.ends_with(".mpd") => {
                let is_taken = self.presentation.replace(path).is_some();
                (is_taken, "a DASH presentation")
            }
            Location::Object(_) | Location::Web(_) if name.ends_with(".m3u8") || name.ends_with(".mpd") => {
                let message = "a live playlist or presentation is a file below a media root, not an object";
                return faults.push(Fault::new(field, "unsupported", message));
            }
            Location::File(_) | Location::Object(_) | Location::Web(_) => {
                (self.recording.replace(address.to_owned()).is_some(), "a recording")
            }
        };
        if slot {
            let message = format!("a live job has {what} at most once: publish a second job");
            faults.push(Fault::new(field, "unsupported", message));
        }
    }

    /// Without any output a live source is recorded.
    fn is_recorded(&self) -> bool {
        self.recording.is_some() || (self.sinks.is_empty() && self.playlist.is_none() && self.presentation.is_none())
    }

    /// The job with its recording as its only output.
    fn recorded(&self, spec: &JobSpec) -> JobSpec {
        let parameters = Parameters {
            output_mode: None,
            reconnect_sec: None,
            restarts: None,
            source_end: None,
            ..spec.parameters.clone()
        };
        JobSpec { output: self.recording.clone(), outputs: Vec::new(), parameters, ..spec.clone() }
    }
}

struct Checks<'a> {
    spec: &'a JobSpec,
    p: &'a Parameters,
    faults: &'a mut Vec<Fault>,
}

impl Checks<'_> {
    fn fault(&mut self, path: &str, code: &str, message: impl Into<String>) {
        self.faults.push(Fault::new(path, code, message));
    }

    fn unsupported(&mut self, field: &str, message: impl Into<String>) {
        self.fault(&format!("parameters.{field}"), "unsupported", message);
    }

    fn outputs(&mut self, ends: &Ends) {
        if ends.sinks.len() > MOST_SINKS {
            self.fault("outputs", "too_many", format!("{} live outputs: {MOST_SINKS} at most", ends.sinks.len()));
        }
        for (number, output) in self.spec.outputs.iter().enumerate() {
            if output.scenario != self.spec.scenario {
                let message = format!(
                    "one encode serves all outputs of a live job: `{}` is expected here too, or a second job",
                    self.spec.scenario
                );
                self.fault(&format!("outputs[{number}].scenario"), "unsupported", message);
            }
            if output.parameters != Parameters::default() {
                let message = "one encode serves all outputs of a live job: its parameters are the job's";
                self.fault(&format!("outputs[{number}].parameters"), "unsupported", message);
            }
        }
        let is_sent = !ends.sinks.is_empty();
        match self.p.output_mode {
            Some(OutputMode::Rtmp) if !ends.sinks.iter().any(|(_, sink)| is_rtmp(sink)) => {
                self.fault(
                    "parameters.output_mode",
                    "contradiction",
                    "`rtmp` and no output that is an rtmp:// address",
                );
            }
            Some(OutputMode::Stream) if !is_sent => {
                self.fault("parameters.output_mode", "contradiction", "`stream` and no live output");
            }
            Some(OutputMode::File) if is_sent => {
                self.fault("parameters.output_mode", "contradiction", "`file` and a live output: leave one out");
            }
            None | Some(OutputMode::File | OutputMode::Rtmp | OutputMode::Stream) => {}
        }
    }

    fn policy(&mut self) {
        const DAY: u64 = 86_400;
        if let Some(secs) = self.p.reconnect_sec.filter(|secs| *secs > DAY) {
            let message = format!("{secs} is not between 0 and {DAY} seconds");
            self.fault("parameters.reconnect_sec", "out_of_range", message);
        }
        if let Some(restarts) = self.p.restarts.filter(|restarts| *restarts > 10_000) {
            let message = format!("{restarts} is not between 0 and 10000 restarts");
            self.fault("parameters.restarts", "out_of_range", message);
        }
    }

    fn times(&mut self) {
        let is_live = self.spec.input.as_deref().is_some_and(|input| LiveAddress::is_named_by(input, Use::Input));
        for (field, is_given) in [("start", self.p.start.is_some()), ("end", self.p.end.is_some())] {
            if is_given {
                let cure = if is_live { "give `duration`" } else { "cut the file with a job of its own first" };
                self.unsupported(field, format!("a live job begins when it runs: {cure}"));
            }
        }
        if !is_live && self.p.source_end.is_some() {
            let message = "the source is no live one: its end is the end of the job";
            self.fault("parameters.source_end", "contradiction", message);
        }
    }

    /// What goes through live containers, and what can be done to a source that was not looked at before.
    fn media(&mut self, scenario: &Scenario, ends: &Ends) {
        let codec = self.p.codec.unwrap_or(scenario.codec);
        if scenario.is_ladder || self.p.ladder.is_some() {
            self.fault("scenario", "unsupported", "a live job makes one rendition: publish one for each");
        }
        match codec {
            CodecChoice::Copy => {}
            CodecChoice::Codec(_) | CodecChoice::Encoder(_) => match codec.codec() {
                Some(VideoCodec::H264) | None => {}
                Some(VideoCodec::H265) => {
                    if let Some((field, _)) = ends.sinks.iter().find(|(_, sink)| is_rtmp(sink)) {
                        let message = "RTMP carries H.264: name another codec, or send it by SRT or HLS";
                        self.fault(field, "unsupported", message);
                    }
                }
                Some(VideoCodec::Vp8 | VideoCodec::Vp9 | VideoCodec::Av1) => {
                    self.unsupported("codec", format!("{codec} does not go live: h264, h265 or copy is expected"));
                }
            },
            CodecChoice::None | CodecChoice::Picture => {
                self.fault("scenario", "unsupported", "a live job has video: h264, h265 or copy is expected");
            }
        }
        let container = super::container(&ends.recorded(self.spec), scenario);
        match super::audio(self.spec, scenario, container) {
            AudioChoice::Aac | AudioChoice::Copy | AudioChoice::None => {}
            other @ (AudioChoice::Opus | AudioChoice::Mp3) => {
                self.unsupported("audio_codec", format!("{other} does not go live: aac, copy or none is expected"));
            }
        }
        if !ends.is_recorded() && container.is_streamed() {
            self.unsupported(
                "container",
                format!("live {container} is asked for by a path that ends in .m3u8 or .mpd"),
            );
        }
        if ends.is_recorded() {
            match container {
                Container::Mp4 | Container::Mov | Container::Mkv | Container::Ts => {}
                other => self.unsupported("container", format!("a recording is mp4, mov, mkv or ts, not {other}")),
            }
        }
        self.before_it_is_seen();
    }

    fn before_it_is_seen(&mut self) {
        let p = self.p;
        for (field, is_given) in [
            ("passes", p.passes == Some(2)),
            ("loudness", p.loudness.is_some()),
            ("deinterlace", p.deinterlace == Some(Deinterlace::Auto)),
            ("hdr", matches!(p.hdr, Some(Hdr::Keep | Hdr::Tonemap))),
            ("quality", p.quality.is_some()),
            ("quality_target", p.quality_target.is_some()),
            ("target_vmaf", p.target_vmaf.is_some()),
            ("target_psnr", p.target_psnr.is_some()),
            ("target_ssim", p.target_ssim.is_some()),
            ("fit", p.fit == Some(Fit::Inside)),
            ("audio_streams", !super::wishes::is_one(p.audio_streams)),
            ("subtitles", p.subtitles.is_some_and(|mode| mode != SubtitleMode::Drop)),
        ] {
            if is_given {
                let message = "the source of a live job is not looked at before: leave it out";
                self.unsupported(field, message);
            }
        }
    }
}

fn is_rtmp(sink: &LiveAddress) -> bool {
    matches!(sink.protocol, Protocol::Rtmp | Protocol::Rtmps)
}
