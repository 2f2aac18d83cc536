//! What is wrong with a job's wishes taken together: values out of range, wishes that exclude each other, streams that
//! do not go into the container.
//!
//! Invariant: pure; each fault names the field to change and says what would do.

use super::containers::{self, takes_audio, takes_video};
use super::{Scenario, container, hardware, pictures, quality};
use crate::encode::{
    AudioChoice, Bitrate, CodecChoice, Container, Encoder, Hdr, Keep, PictureFormat, PixelFormat, Profile, RateControl,
    Resolution, SegmentType, Streams, SubtitleMode, VideoCodec,
};
use crate::job::{JobSpec, Parameters};
use crate::parse::Fault;
use crate::plan::ladder;

/// Rates of samples that encoders take.
const SAMPLE_RATES: [u32; 11] = [8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000];

/// Adds what is wrong with the wishes of a job whose scenario is known.
pub(super) fn check(spec: &JobSpec, scenario: &Scenario, faults: &mut Vec<Fault>) {
    let is_ladder = scenario.is_ladder || spec.parameters.ladder.is_some();
    let mut wishes = Wishes { spec, is_ladder, p: &spec.parameters, faults };
    let codec = spec.parameters.codec.unwrap_or(scenario.codec);
    let container = container(spec, scenario);
    wishes.times();
    wishes.ladder(scenario, codec);
    wishes.left_over(scenario, codec);
    if codec.codec().is_some() {
        wishes.rate(codec);
        wishes.profile(codec);
        wishes.picture(scenario);
    }
    wishes.container(scenario, codec, container);
    wishes.segments(codec, container);
    pictures::check(&mut wishes, scenario, codec);
    let audio = super::audio(spec, scenario, container);
    wishes.audio(audio, container);
    wishes.subtitles(codec, container);
    quality::check(&mut wishes, scenario);
    hardware::check(&mut wishes, codec);
    if codec == CodecChoice::None && audio == AudioChoice::None {
        wishes.fault("audio_codec", "contradiction", "no video and no audio: nothing is left to make");
    }
}

/// The wishes of one job, and what is wrong with them.
pub(super) struct Wishes<'a> {
    spec: &'a JobSpec,
    pub(super) is_ladder: bool,
    pub(super) p: &'a Parameters,
    faults: &'a mut Vec<Fault>,
}

impl Wishes<'_> {
    pub(super) fn fault(&mut self, field: &str, code: &str, message: impl Into<String>) {
        self.faults.push(Fault::new(format!("parameters.{field}"), code, message));
    }

    /// Faults for every one of these fields that is given.
    pub(super) fn none_of(&mut self, fields: &[(&str, bool)], because: &str) {
        for (field, _) in fields.iter().filter(|(_, is_given)| *is_given) {
            self.fault(field, "contradiction", format!("`{field}` has no meaning: {because}"));
        }
    }

    /// How bits are spent: by each rung, where there are rungs.
    pub(super) fn spends(&self, codec: VideoCodec) -> RateControl {
        if self.is_ladder {
            let rate = super::rung_rate(self.p, codec);
            rate.of_rung(Bitrate(super::RUNG_BITS))
        } else {
            super::rate_control(self.p, codec)
        }
    }

    fn times(&mut self) {
        let p = self.p;
        let is_time = |secs: f64| secs.is_finite() && (0.0..=1e7).contains(&secs);
        for (field, value) in [("start", p.start), ("end", p.end)] {
            if let Some(secs) = value.filter(|secs| !is_time(*secs)) {
                self.fault(
                    field,
                    "out_of_range",
                    format!("{secs} is no time in a source: seconds from 0 are expected"),
                );
            }
        }
        if let Some(end) = p.end {
            if p.duration.is_some() {
                self.fault("end", "contradiction", "`end` and `duration` exclude each other: give one");
            }
            if end <= p.start.unwrap_or(0.0) {
                self.fault("end", "contradiction", "the end is not after the start: nothing would be left");
            }
        }
        if self.spec.input.is_none() && (p.start.is_some() || p.end.is_some()) {
            self.fault("start", "contradiction", "a generated source has no part to leave out: use `duration`");
        }
    }

    /// What a ladder leaves open for others to say.
    fn ladder(&mut self, scenario: &Scenario, codec: CodecChoice) {
        let p = self.p;
        if !self.is_ladder {
            return;
        }
        if codec.codec().is_none() {
            self.fault("ladder", "contradiction", "the rungs of a ladder are encoded: name a codec");
            return;
        }
        let because = "each rung of a ladder has its own, such as `ladder`: `1080p:5000k,720p:2500k`";
        self.none_of(
            &[
                ("resolution", p.resolution.is_some()),
                ("bitrate", p.bitrate.is_some()),
                ("maxrate", p.maxrate.is_some()),
                ("bufsize", p.bufsize.is_some()),
                ("target_vmaf", p.target_vmaf.is_some()),
                ("target_psnr", p.target_psnr.is_some()),
                ("target_ssim", p.target_ssim.is_some()),
            ],
            because,
        );
        if scenario.size.is_some() {
            self.fault("ladder", "contradiction", "the scenario names one size: use `ladder-h264` or `custom-input`");
        }
        let is_streamed = super::container(self.spec, scenario).is_streamed();
        if !is_streamed && self.spec.output.as_deref().is_some_and(|output| !ladder::is_pattern(output)) {
            let message = "a ladder makes several outputs: put {name} (720p) or {height} (720) into the address";
            self.faults.push(Fault::new("output", "no_place_for_rungs", message));
        }
    }

    /// How a presentation is cut, and what it has no place for.
    fn segments(&mut self, codec: CodecChoice, container: Container) {
        let p = self.p;
        if !container.is_streamed() {
            self.none_of(
                &[("segment_type", p.segment_type.is_some()), ("segment_seconds", p.segment_seconds.is_some())],
                "only `hls` and `dash` have segments",
            );
            return;
        }
        if let Some(secs) = p.segment_seconds.filter(|secs| !(1.0..=60.0).contains(secs)) {
            self.fault("segment_seconds", "out_of_range", format!("{secs} is not between 1 and 60 seconds"));
        }
        if p.segment_type == Some(SegmentType::Ts) {
            if container == Container::Dash {
                self.fault("segment_type", "unsupported", "the segments of `dash` are `fmp4`");
            } else if codec.codec() == Some(VideoCodec::H265) {
                self.fault("segment_type", "unsupported", "H.265 in HLS has `fmp4` segments");
            }
        }
        if p.audio_codec == Some(AudioChoice::Copy) {
            self.fault("audio_codec", "unsupported", format!("the sound of {container} is encoded: use aac"));
        }
        if !is_one(p.audio_streams) {
            self.fault("audio_streams", "unsupported", format!("{container} gets one audio stream: choose it"));
        }
        self.none_of(
            &[("metadata", p.metadata == Some(Keep::Keep)), ("chapters", p.chapters == Some(Keep::Keep))],
            "a presentation for streaming has no place for it",
        );
        let Some(output) = &self.spec.output else { return };
        if super::output_container(output) != Some(container) {
            let message = format!("the address of {container} ends in .{}", container.extension());
            self.faults.push(Fault::new("output", "unknown_container", message));
        }
        if self.is_ladder && ladder::is_pattern(output) {
            let message = format!("one {container} holds all rungs: leave {{name}} and {{height}} out of its address");
            self.faults.push(Fault::new("output", "contradiction", message));
        }
    }

    /// Wishes about a video that is not encoded.
    fn left_over(&mut self, scenario: &Scenario, codec: CodecChoice) {
        let p = self.p;
        let because = match codec {
            CodecChoice::Codec(_) | CodecChoice::Encoder(_) => return,
            CodecChoice::Copy => "the video is copied as it is; to change it, name a codec",
            CodecChoice::None => "there is no video in the output",
            CodecChoice::Picture if scenario.set.is_some() => "the output is pictures",
            CodecChoice::Picture => "the output is one picture",
        };
        self.none_of(
            &[
                ("bitrate", p.bitrate.is_some()),
                ("maxrate", p.maxrate.is_some()),
                ("bufsize", p.bufsize.is_some()),
                ("crf", p.crf.is_some()),
                ("preset", p.preset.is_some()),
                ("tune", p.tune.is_some()),
                ("gop", p.gop.is_some()),
                ("passes", p.passes.is_some()),
                ("profile", p.profile.is_some()),
                ("pixel_format", p.pixel_format.is_some()),
                ("fps", p.fps.is_some()),
                ("hw", p.hw.is_some()),
            ],
            because,
        );
        if codec != CodecChoice::Picture {
            self.none_of(
                &[
                    ("resolution", p.resolution.is_some()),
                    ("fit", p.fit.is_some()),
                    ("crop", p.crop.is_some()),
                    ("deinterlace", p.deinterlace.is_some()),
                    ("hdr", p.hdr.is_some()),
                ],
                because,
            );
            if scenario.size.is_some() {
                self.fault(
                    "codec",
                    "contradiction",
                    format!(
                        "`{codec}` cannot make the size that the scenario names: use the scenario `copy` or `audio-aac`"
                    ),
                );
            }
        }
        if codec == CodecChoice::Picture {
            let is_one = scenario.set.is_none();
            self.none_of(
                &[
                    ("duration", is_one && p.duration.is_some() && self.spec.input.is_some()),
                    ("end", is_one && p.end.is_some()),
                ],
                because,
            );
            if p.hdr == Some(Hdr::Keep) {
                self.fault("hdr", "unsupported", "a picture has 8 bits: HDR cannot be kept in it");
            }
        }
        if codec == CodecChoice::Copy && p.start.is_some_and(|start| start > 0.0) {
            self.fault(
                "start",
                "unsupported",
                "copied video can begin at a key frame only, not at any time: name a codec to encode it",
            );
        }
        if self.spec.input.is_none() && codec == CodecChoice::Copy {
            self.fault("codec", "contradiction", "a generated source is raw and cannot be copied: name a codec");
        }
    }

    fn rate(&mut self, codec: CodecChoice) {
        let p = self.p;
        if let (Some(bitrate), Some(maxrate)) = (p.bitrate, p.maxrate)
            && maxrate < bitrate
        {
            self.fault("maxrate", "contradiction", format!("a peak of {maxrate} is under the average of {bitrate}"));
        }
        if p.bufsize.is_some() && p.maxrate.is_none() && p.bitrate.is_none() {
            self.fault("bufsize", "contradiction", "a buffer bounds a rate: give `maxrate` or `bitrate` too");
        }
        if let CodecChoice::Encoder(encoder) = codec
            && !self.spends(encoder.codec()).is_kept_by(encoder)
        {
            let (field, message) = if self.is_ladder {
                let message = format!(
                    "{encoder} bounds no constant quality, and each rung has a bound: leave `crf` out for rungs with an average \
                     rate, or name another encoder"
                );
                ("crf", message)
            } else if p.bitrate.is_some() {
                let message = format!(
                    "{encoder} keeps to an average, and to no bounds of it: leave it out, or take the codec `av1`"
                );
                (if p.maxrate.is_some() { "maxrate" } else { "bufsize" }, message)
            } else {
                ("maxrate", format!("{encoder} bounds no constant quality: give `bitrate` instead of `crf`"))
            };
            self.fault(field, "unsupported", message);
        }
        match p.passes {
            None | Some(1) => {}
            Some(2) => {
                // Rungs have rates, unless they are asked for by quality.
                let is_rated = p.bitrate.is_some() || (self.is_ladder && p.crf.is_none());
                if !is_rated {
                    self.fault("passes", "contradiction", "two passes spread a bit rate: give `bitrate`");
                }
                if let CodecChoice::Encoder(encoder) = codec
                    && !has_two_passes(encoder)
                {
                    self.fault("passes", "unsupported", format!("{encoder} has one pass only"));
                }
            }
            Some(other) => self.fault("passes", "out_of_range", format!("{other} passes: 1 or 2 are expected")),
        }
    }

    fn profile(&mut self, codec: CodecChoice) {
        let Some(profile) = self.p.profile else { return };
        let Some(made) = codec.codec() else { return };
        let known = Profile::of(made);
        let is_hardware = matches!(codec, CodecChoice::Encoder(encoder) if encoder.is_hardware());
        if is_hardware || !known.contains(&profile) {
            let names: Vec<&str> = known.iter().map(|profile| profile.as_str()).collect();
            let expected = match (is_hardware, names.is_empty()) {
                (true, _) => "hardware encoders choose theirs".to_owned(),
                (false, true) => "its profile follows from the pixel format".to_owned(),
                (false, false) => format!("one of {} is expected", names.join(", ")),
            };
            self.fault("profile", "unsupported", format!("`{profile}` cannot be chosen for {codec}: {expected}"));
            return;
        }
        if let Some(format) = self.p.pixel_format.filter(|format| !profile.pixel_formats().contains(format)) {
            let names: Vec<&str> = profile.pixel_formats().iter().map(|format| format.as_str()).collect();
            self.fault(
                "profile",
                "contradiction",
                format!("`{profile}` is not for {format}: it is for {}", names.join(", ")),
            );
        }
        if made == VideoCodec::H264 && self.p.crf == Some(0) && profile != Profile::High444 {
            self.fault("profile", "contradiction", "H.264 with `crf` 0 is lossless, which needs `high444`");
        }
    }

    fn picture(&mut self, scenario: &Scenario) {
        let p = self.p;
        if p.fit.is_some() && p.resolution.or(scenario.size).is_none() && !self.is_ladder {
            self.fault("fit", "contradiction", "`fit` says how the source gets to a size: give `resolution` too");
        }
        let format = super::pixel_format(p);
        if p.hdr == Some(Hdr::Keep) && !is_deep(format) {
            self.fault("hdr", "contradiction", format!("HDR cannot be kept in {format}: ask for yuv420p10le"));
        }
    }

    fn container(&mut self, scenario: &Scenario, codec: CodecChoice, container: Container) {
        let named = self.spec.output.as_deref().and_then(super::output_container);
        if let (Some(wish), Some(named)) = (self.p.container, named)
            && wish != named
        {
            self.fault("container", "contradiction", format!("the output's name says {named}: give one, or the same"));
        }
        let path = if self.p.container.is_some() || named.is_none() { "parameters.container" } else { "output" };
        let (fits, what, others): (bool, String, String) = match codec {
            CodecChoice::Codec(_) | CodecChoice::Encoder(_) => {
                let Some(made) = codec.codec() else { return };
                let fits = |container| takes_video(container, made.probe_name());
                (fits(container), made.as_str().to_owned(), containers::cure(fits, container))
            }
            CodecChoice::Picture if scenario.set.is_some() => {
                let cure = "its address ends in .vtt, the track that names the pictures";
                (container == Container::Vtt, "a set of pictures".to_owned(), cure.to_owned())
            }
            CodecChoice::Picture => {
                let cure = if container == Container::Vtt {
                    "the scenarios `thumbnails` and `sprites` make sets of pictures"
                } else {
                    "it goes into jpg, png, webp"
                };
                (PictureFormat::of(container).is_some(), "a picture".to_owned(), cure.to_owned())
            }
            CodecChoice::Copy => {
                let fits = !container.is_streamed()
                    && !is_pictures(container)
                    && !matches!(container, Container::M4a | Container::Mp3);
                (fits, "copied video".to_owned(), "it goes into mp4, mov, mkv, webm, ts".to_owned())
            }
            CodecChoice::None => {
                let fits = !container.is_streamed() && !is_pictures(container);
                (fits, "audio".to_owned(), "it goes into m4a, mp3, mp4, mov, mkv, webm, ts".to_owned())
            }
        };
        if !fits {
            self.faults.push(Fault::new(path, "unsupported", format!("{what} does not go into {container}: {others}")));
        }
    }

    fn audio(&mut self, audio: AudioChoice, container: Container) {
        let p = self.p;
        let name = match audio {
            AudioChoice::Aac => "aac",
            AudioChoice::Opus => "opus",
            AudioChoice::Mp3 => "mp3",
            AudioChoice::Copy | AudioChoice::None => {
                let because = if audio == AudioChoice::Copy {
                    "the audio is copied as it is; to change it, name an audio codec"
                } else {
                    "there is no audio in the output"
                };
                self.none_of(
                    &[
                        ("audio_bitrate", p.audio_bitrate.is_some()),
                        ("audio_channels", p.audio_channels.is_some()),
                        ("sample_rate", p.sample_rate.is_some()),
                        ("loudness", p.loudness.is_some()),
                        ("true_peak", p.true_peak.is_some()),
                        ("audio_streams", p.audio_streams.is_some() && audio == AudioChoice::None),
                    ],
                    because,
                );
                return;
            }
        };
        if !takes_audio(container, name) {
            let fits = |container: &&Container| takes_audio(**container, name);
            let others: Vec<&str> = Container::ALL.iter().filter(fits).map(|container| container.as_str()).collect();
            self.fault(
                "audio_codec",
                "unsupported",
                format!(
                    "{audio} does not go into {container}: it goes into {}; {container} takes {}",
                    others.join(", "),
                    containers::default_audio(container)
                ),
            );
        }
        self.sound(audio);
    }

    /// Rates, channels and loudness of audio that is encoded.
    fn sound(&mut self, audio: AudioChoice) {
        let p = self.p;
        let most: u64 = if audio == AudioChoice::Mp3 { 320_000 } else { 510_000 };
        if let Some(rate) = p.audio_bitrate.filter(|rate| !(6_000..=most).contains(&rate.0)) {
            self.fault("audio_bitrate", "out_of_range", format!("{rate} is not between 6000 and {most} for {audio}"));
        }
        let rates: &[u32] = match audio {
            AudioChoice::Opus => &[48_000],
            AudioChoice::Mp3 => &SAMPLE_RATES[..9],
            AudioChoice::Aac | AudioChoice::Copy | AudioChoice::None => &SAMPLE_RATES,
        };
        if let Some(rate) = p.sample_rate.filter(|rate| !rates.contains(rate)) {
            let known: Vec<String> = rates.iter().map(u32::to_string).collect();
            self.fault("sample_rate", "out_of_range", format!("{rate} is no rate of {audio}: {}", known.join(", ")));
        }
        if let Some(channels) = p.audio_channels.filter(|channels| audio == AudioChoice::Mp3 && channels.count() > 2) {
            self.fault("audio_channels", "unsupported", format!("mp3 has no {channels}: use stereo, aac or opus"));
        }
        if let Some(lufs) = p.loudness.filter(|lufs| !(-70.0..=-5.0).contains(lufs)) {
            self.fault("loudness", "out_of_range", format!("{lufs} is not between -70 and -5 LUFS"));
        }
        if let Some(peak) = p.true_peak.filter(|peak| !(-9.0..=0.0).contains(peak)) {
            self.fault("true_peak", "out_of_range", format!("{peak} is not between -9 and 0 dBTP"));
        }
        if p.true_peak.is_some() && p.loudness.is_none() {
            self.fault("true_peak", "contradiction", "`true_peak` bounds a change of loudness: give `loudness` too");
        }
        if p.loudness.is_some() && !is_one(p.audio_streams) {
            self.fault("loudness", "unsupported", "one audio stream can be measured: choose one with `audio_streams`");
        }
    }

    fn subtitles(&mut self, codec: CodecChoice, container: Container) {
        let p = self.p;
        let mode = p.subtitles.unwrap_or_default();
        match mode {
            SubtitleMode::Drop => {
                self.none_of(&[("subtitle_streams", p.subtitle_streams.is_some())], "subtitles are dropped");
                return;
            }
            SubtitleMode::Copy => {
                if container.is_streamed()
                    || is_pictures(container)
                    || matches!(container, Container::M4a | Container::Mp3)
                {
                    self.fault("subtitles", "unsupported", format!("{container} takes no subtitles"));
                }
            }
            SubtitleMode::Convert => {
                if containers::text_subtitles(container).is_none() {
                    self.fault(
                        "subtitles",
                        "unsupported",
                        format!("{container} takes no text subtitles: use mp4, mov, mkv or webm, or `burn`"),
                    );
                }
            }
            SubtitleMode::Burn => {
                if codec.codec().is_none() {
                    self.fault(
                        "subtitles",
                        "contradiction",
                        "subtitles are burnt into video that is encoded: name a codec",
                    );
                }
                if !is_one(p.subtitle_streams) {
                    self.fault("subtitle_streams", "contradiction", "one stream of subtitles can be burnt in");
                }
            }
        }
        if self.spec.input.is_none() {
            self.fault("subtitles", "contradiction", "a generated source has no subtitles");
        }
    }
}

/// Whether a container is a picture, or a track of pictures.
fn is_pictures(container: Container) -> bool {
    container == Container::Vtt || PictureFormat::of(container).is_some()
}

pub(super) fn is_one(streams: Option<Streams>) -> bool {
    match streams.unwrap_or_default() {
        Streams::First => true,
        Streams::All => false,
        Streams::Chosen(mask) => mask.count_ones() == 1,
    }
}

/// Whether a pixel format has more than 8 bits.
pub(super) fn is_deep(format: PixelFormat) -> bool {
    match format {
        PixelFormat::Yuv420p | PixelFormat::Yuv422p | PixelFormat::Yuv444p => false,
        PixelFormat::Yuv420p10le | PixelFormat::Yuv422p10le | PixelFormat::Yuv444p10le | PixelFormat::P010le => true,
    }
}

/// Whether an encoder can go over the source twice.
pub(super) fn has_two_passes(encoder: Encoder) -> bool {
    matches!(encoder, Encoder::Libx264 | Encoder::Libx265 | Encoder::Libvpx | Encoder::LibvpxVp9 | Encoder::LibaomAv1)
}

/// The size of a generated source that does not say.
pub(super) const GENERATED_SIZE: Resolution = Resolution { width: 1280, height: 720 };
