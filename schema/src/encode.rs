//! A typed encode: what a job resolves to, with nothing left that a user wrote as free text except paths.
//!
//! Invariant: every value that can become an argument of a tool is an enum, a number or a member of an allow-list. What a
//! value is stands in the modules below: `values` reads text, `codec`, `container` and `options` are the choices.

use serde::{Deserialize, Serialize};

use crate::device::Family;
use crate::job::HardwarePolicy;
use crate::live::{Live, LiveAddress};
use crate::location::redact;

// Its macros are for the modules after it.
#[macro_use]
mod values;

mod codec;
mod container;
mod ladder;
mod options;
mod pictures;
mod quality;

pub use codec::{AudioChoice, CodecChoice, Encoder, PixelFormat, VideoCodec};
pub use container::{Container, OutputMode, SegmentType, Segments};
pub use ladder::{Ladder, Rung};
pub use options::{Channels, Crop, Deinterlace, Fit, Hdr, Keep, Loudness, Profile, Streams, SubtitleMode, Treatment};
pub use pictures::{Grid, Pace, PictureFormat, Pictures};
pub use quality::{Aim, Metric, Metrics, QualityTarget, QualityWish};
pub use values::{Bitrate, Fps, Resolution, ValueError};

/// How the encoder spends bits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum RateControl {
    /// Constant quality.
    Crf {
        /// 0 is best.
        crf: u8,
        /// Peak rate, for a capped CRF.
        maxrate: Option<Bitrate>,
        /// Buffer size.
        bufsize: Option<Bitrate>,
    },
    /// Average bit rate.
    Bitrate {
        /// Bits per second.
        bitrate: Bitrate,
        /// Peak rate.
        maxrate: Option<Bitrate>,
        /// Buffer size.
        bufsize: Option<Bitrate>,
    },
}

impl RateControl {
    /// Whether an encoder keeps to the bounds that this sets. One that would not is not asked.
    #[must_use]
    pub fn is_kept_by(self, encoder: Encoder) -> bool {
        match self {
            // It keeps to an average by itself, and its older versions know neither a peak nor a buffer.
            RateControl::Bitrate { maxrate, bufsize, .. } => {
                encoder != Encoder::Libsvtav1 || (maxrate.is_none() && bufsize.is_none())
            }
            RateControl::Crf { maxrate: Some(_), .. } => encoder.family().is_none_or(|family| family == Family::Nvenc),
            RateControl::Crf { maxrate: None, .. } => true,
        }
    }

    /// How a rung of a ladder that is asked for in this way spends bits: an average of this, or at constant quality no more.
    #[must_use]
    pub fn of_rung(self, bitrate: Bitrate) -> RateControl {
        match self {
            RateControl::Crf { crf, .. } => RateControl::Crf { crf, maxrate: Some(bitrate), bufsize: None },
            RateControl::Bitrate { .. } => RateControl::Bitrate { bitrate, maxrate: None, bufsize: None },
        }
    }
}

/// The video half of an encode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VideoEncode {
    /// The codec.
    pub codec: VideoCodec,
    /// The encoder that was asked for by name; absent: the worker's first for the codec.
    pub encoder: Option<Encoder>,
    /// Frame size. Absent: the source's.
    pub size: Option<Resolution>,
    /// Frame rate. Absent: the source's.
    pub fps: Option<Fps>,
    /// Pixel format.
    pub pixel_format: PixelFormat,
    /// Rate control.
    pub rate: RateControl,
    /// Speed preset, from the encoder's allow-list.
    pub preset: Option<String>,
    /// Tuning, from the encoder's allow-list.
    pub tune: Option<String>,
    /// Frames between key frames; absent: two seconds.
    pub gop: Option<u32>,
    /// What is done with the video. Everything else here holds for an encode, the size for a picture too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub treatment: Treatment,
    /// Whether the encoder goes over the source twice.
    #[serde(default, skip_serializing_if = "is_default")]
    pub two_pass: bool,
    /// The profile that a decoder needs at most.
    #[serde(default, skip_serializing_if = "is_default")]
    pub profile: Option<Profile>,
    /// How the source's shape becomes the frame's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub fit: Fit,
    /// The part of the upright source that is taken.
    #[serde(default, skip_serializing_if = "is_default")]
    pub crop: Option<Crop>,
    /// Whether fields become frames.
    #[serde(default, skip_serializing_if = "is_default")]
    pub deinterlace: Deinterlace,
    /// What is done with a high dynamic range.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hdr: Hdr,
    /// Whether a device encodes, where no encoder is named. Absent: none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hw: Option<HardwarePolicy>,
}

impl VideoEncode {
    /// The encoders that may make it, the preferred one first.
    #[must_use]
    pub fn candidates(&self) -> Vec<Encoder> {
        if let Some(encoder) = self.encoder {
            return vec![encoder];
        }
        let (hardware, software) = (self.codec.hardware_encoders(), self.codec.encoders());
        let mut candidates = match self.hw {
            Some(HardwarePolicy::Require) => hardware.to_vec(),
            Some(HardwarePolicy::Prefer) => [hardware, software].concat(),
            Some(HardwarePolicy::Forbid) | None => software.to_vec(),
        };
        candidates.retain(|encoder| self.rate.is_kept_by(*encoder));
        candidates
    }
}

/// The audio half of an encode.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AudioEncode {
    /// What to do.
    pub codec: AudioChoice,
    /// Bits per second.
    pub bitrate: Bitrate,
    /// Channels; absent: the source's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub channels: Option<Channels>,
    /// Samples per second; absent: the source's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sample_rate: Option<u32>,
    /// The loudness it is brought to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub loudness: Option<Loudness>,
    /// Which of the source's audio streams.
    #[serde(default, skip_serializing_if = "is_default")]
    pub streams: Streams,
}

/// Where the pictures come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Source {
    /// A file under a media root, by its absolute path.
    File {
        /// The path, not yet checked against the worker's roots.
        path: String,
    },
    /// Something that the worker fetches first.
    Remote {
        /// Its address, a [`crate::location::Location`]. It may hold a signature.
        url: String,
    },
    /// A live stream that the tool reads itself.
    Live {
        /// Its address, a [`crate::live::LiveAddress`], whole. It may hold a key.
        url: String,
    },
    /// A generated test picture and tone.
    Generated {
        /// Its length in seconds.
        duration_secs: f64,
    },
}

/// A whole encode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Encode {
    /// Where the pictures come from.
    pub source: Source,
    /// The destination's absolute path, or the address of an object; absent: the worker chooses a name under its first
    /// media root.
    pub output: Option<String>,
    /// The container.
    pub container: Container,
    /// Video.
    pub video: VideoEncode,
    /// Audio; used where the source has any.
    pub audio: AudioEncode,
    /// Seconds of output at most.
    pub duration_secs: Option<f64>,
    /// Seconds of the source before the first that is taken. For a picture: its time.
    #[serde(default, skip_serializing_if = "is_default")]
    pub start_secs: Option<f64>,
    /// What is done with subtitles.
    #[serde(default, skip_serializing_if = "is_default")]
    pub subtitles: SubtitleMode,
    /// Which of the source's subtitle streams.
    #[serde(default, skip_serializing_if = "is_default")]
    pub subtitle_streams: Streams,
    /// Whether titles and tags of the source are kept.
    #[serde(default, skip_serializing_if = "is_default")]
    pub metadata: Keep,
    /// Whether chapters of the source are kept.
    #[serde(default, skip_serializing_if = "is_default")]
    pub chapters: Keep,
    /// What is measured of the finished picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<QualityWish>,
    /// How it is cut into segments, where its container is one for streaming.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segments: Option<Segments>,
    /// What pictures there are, where its container is a track of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pictures: Option<Pictures>,
    /// Renditions instead of one output. Each gets a size and a rate of its own: of the rate here it only counts whether it is
    /// an average or a constant quality. `{name}` and `{height}` in the output's address become each rung's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ladder: Option<Ladder>,
    /// More outputs of the same source, in the order of the job's `outputs`. They have none themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Encode>,
    /// Where it goes live, and how it goes on; absent: it is a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Live>,
}

impl Encode {
    /// The feature of a worker that makes presentations for streaming.
    pub const SEGMENTS_FEATURE: &'static str = "segments";
    /// The feature of a worker that makes sets of pictures, and pictures in WebP.
    pub const PICTURES_FEATURE: &'static str = "pictures";
    /// The feature of a worker that makes more than one output of a job. One without it would make the first alone.
    pub const OUTPUTS_FEATURE: &'static str = "outputs";

    /// The feature of a worker that knows every field. One without it would leave out what it does not know.
    pub const FEATURE: &'static str = "encodes-2";
    /// The feature of a worker that chooses a device by itself. One without it would encode in software.
    pub const CHOOSES_DEVICE: &'static str = "chooses-device";

    /// Features beyond its video encoder that a worker must have for it, by the names in
    /// [`crate::message::Ability::features`].
    #[must_use]
    pub fn needs(&self) -> Vec<&'static str> {
        let mut needs = Vec::new();
        let VideoEncode { treatment, two_pass, profile, fit, crop, deinterlace, hdr, .. } = &self.video;
        let AudioEncode { channels, sample_rate, loudness, streams, .. } = &self.audio;
        let is_plain = is_default(treatment)
            && is_default(two_pass)
            && is_default(profile)
            && is_default(fit)
            && is_default(crop)
            && is_default(deinterlace)
            && is_default(hdr)
            && is_default(channels)
            && is_default(sample_rate)
            && is_default(loudness)
            && is_default(streams)
            && is_default(&self.start_secs)
            && is_default(&self.subtitles)
            && is_default(&self.subtitle_streams)
            && is_default(&self.metadata)
            && is_default(&self.chapters)
            && matches!(
                self.container,
                Container::Mp4 | Container::Mov | Container::Mkv | Container::Webm | Container::Ts
            );
        if !is_plain {
            needs.push(Encode::FEATURE);
        }
        if self.video.hw == Some(HardwarePolicy::Require) {
            needs.push(Encode::CHOOSES_DEVICE);
        }
        if *deinterlace == Deinterlace::On {
            needs.push("bwdif");
        }
        if *hdr == Hdr::Tonemap {
            needs.extend(["zscale", "tonemap"]);
        }
        if loudness.is_some() {
            needs.push("loudnorm");
        }
        if self.subtitles == SubtitleMode::Burn {
            needs.push("subtitles");
        }
        needs.extend(self.quality.iter().flat_map(|quality| &quality.metrics).map(|metric| metric.filter()));
        if self.segments.is_some() {
            needs.push(Encode::SEGMENTS_FEATURE);
        }
        if self.pictures.is_some() || self.container == Container::Webp {
            needs.push(Encode::PICTURES_FEATURE);
        }
        let is_webp = self.pictures.as_ref().is_some_and(|pictures| pictures.format == PictureFormat::Webp);
        if is_webp || self.container == Container::Webp {
            needs.push(PictureFormat::Webp.encoder());
        }
        if !self.others.is_empty() || self.ladder.is_some() {
            needs.push(Encode::OUTPUTS_FEATURE);
        }
        needs.extend(self.live_needs());
        needs
    }

    /// The encoders that may make its video, the preferred one first. What a rung of a ladder takes at most is known later; that it
    /// is bounded is known now.
    #[must_use]
    pub fn candidates(&self) -> Vec<Encoder> {
        let mut candidates = self.video.candidates();
        if self.ladder.is_some() {
            let spends = self.video.rate.of_rung(Bitrate(0));
            candidates.retain(|encoder| spends.is_kept_by(*encoder));
        }
        candidates
    }

    /// The same with the secrets of its addresses taken out, to be shown.
    #[must_use]
    pub fn shown(&self) -> Encode {
        let mut shown = self.clone();
        match &mut shown.source {
            Source::Remote { url } | Source::Live { url } => *url = redact(url),
            Source::File { .. } | Source::Generated { .. } => {}
        }
        for sink in shown.live.iter_mut().flat_map(|live| &mut live.sinks) {
            *sink = redact(sink);
        }
        shown
    }

    /// The protocols of its live source and sinks, by the features of a worker that speaks them.
    fn live_needs(&self) -> Vec<&'static str> {
        let source = match &self.source {
            Source::Live { url } => Some(url),
            Source::File { .. } | Source::Remote { .. } | Source::Generated { .. } => None,
        };
        let sinks = self.live.iter().flat_map(|live| &live.sinks);
        let addresses = source.into_iter().chain(sinks).filter_map(|url| LiveAddress::parse(url).ok());
        let mut needs: Vec<&'static str> = addresses.map(|address| address.protocol.feature()).collect();
        needs.extend(self.live.is_some().then_some(Live::FEATURE));
        let is_dash = self.live.as_ref().is_some_and(|live| live.presentation.is_some());
        needs.extend(is_dash.then_some(Live::DASH_FEATURE));
        needs.sort_unstable();
        needs.dedup();
        needs
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
