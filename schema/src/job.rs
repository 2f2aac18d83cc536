//! The job as a client writes it: one type for JSON and MessagePack.
//!
//! This is the canonical form. [`crate::parse`] accepts the other spellings of a job, reports every fault at once and
//! produces this form; nothing else reads a client's bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::chunk::Piece;
use crate::encode::{
    AudioChoice, Bitrate, Channels, CodecChoice, Container, Crop, Deinterlace, Fit, Fps, Hdr, Keep, Ladder, Metrics,
    OutputMode, PictureFormat, PixelFormat, Profile, QualityTarget, Resolution, SegmentType, Streams, SubtitleMode,
};
use crate::id::JobId;
use crate::live::SourceEnd;
use crate::parse::Fault;
use crate::topology::RETURNED;

/// One of the three queues. Order of choice: live, default, batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Queue {
    /// Somebody is watching.
    Live,
    /// Ordinary work.
    #[default]
    Default,
    /// Whenever there is room.
    Batch,
}

impl Queue {
    /// All queues, first served first.
    pub const ALL: [Queue; 3] = [Queue::Live, Queue::Default, Queue::Batch];

    /// Weight in the score that orders the work queues: 10, 5, 1.
    #[must_use]
    pub fn weight(self) -> u32 {
        match self {
            Queue::Live => 10,
            Queue::Default => 5,
            Queue::Batch => 1,
        }
    }

    /// The name as it stands in exchanges, columns and labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Queue::Live => "live",
            Queue::Default => "default",
            Queue::Batch => "batch",
        }
    }
}

/// How urgent a job is inside its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// First.
    High,
    /// The default.
    #[default]
    Medium,
    /// Last.
    Low,
}

impl Priority {
    /// All priorities, first served first.
    pub const ALL: [Priority; 3] = [Priority::High, Priority::Medium, Priority::Low];

    /// 3, 2 or 1: the second part of the score.
    #[must_use]
    pub fn level(self) -> u32 {
        match self {
            Priority::High => 3,
            Priority::Medium => 2,
            Priority::Low => 1,
        }
    }

    /// The name as it stands in routing keys, columns and labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Priority::High => "high",
            Priority::Medium => "medium",
            Priority::Low => "low",
        }
    }
}

/// Which engine runs the encode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// The worker chooses.
    #[default]
    Auto,
    /// FFmpeg.
    Ffmpeg,
    /// GStreamer.
    Gstreamer,
    /// Runs nothing but goes through the whole protocol: for measuring. Refused unless the worker allows it.
    Noop,
}

impl Engine {
    /// The name as it stands in labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Engine::Auto => "auto",
            Engine::Ffmpeg => "ffmpeg",
            Engine::Gstreamer => "gstreamer",
            Engine::Noop => "noop",
        }
    }
}

/// Whether a device encodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HardwarePolicy {
    /// Hardware or nothing.
    Require,
    /// Hardware; software for the same codec once the device has failed, or where a worker has none.
    Prefer,
    /// Never hardware: naming a hardware encoder is a contradiction.
    Forbid,
}

/// What the original called classification: kept with the job, changes nothing about the encode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Classification {
    /// Real work.
    Production,
    /// A trial.
    Test,
    /// A measurement.
    Benchmark,
    /// A search for a fault.
    Debug,
}

/// What the original called confidence: kept with the job, changes nothing about the encode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// Not stated.
    Auto,
    /// High.
    High,
    /// Medium.
    Medium,
    /// Low.
    Low,
}

/// Whether a long encode is made in chunks, each kept until the whole is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Checkpoint {
    /// Where the source is longer than the worker's setting and can be cut.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Whatever the length; refused where it cannot be.
    Require,
}

macro_rules! text_enum {
    ($type:ty, $what:literal, $all:expr) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = UnknownName;

            fn from_str(text: &str) -> Result<Self, UnknownName> {
                $all.into_iter().find(|known| known.as_str() == text).ok_or_else(|| UnknownName {
                    what: $what,
                    given: crate::id::excerpt(text),
                    known: $all.iter().map(|known| known.as_str()).collect::<Vec<_>>().join(", "),
                })
            }
        }
    };
}

pub(crate) use text_enum;

text_enum!(Queue, "queue", Queue::ALL);
text_enum!(Priority, "priority", Priority::ALL);
text_enum!(Engine, "engine", [Engine::Auto, Engine::Ffmpeg, Engine::Gstreamer, Engine::Noop]);

/// A name outside a closed set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is no {what}: one of {known} is expected")]
pub struct UnknownName {
    pub(crate) what: &'static str,
    pub(crate) given: String,
    pub(crate) known: String,
}

/// Which kind of worker may run a job: `cpu`, `gpu`, or a name of the operator's. Lower-case letters, digits and `-`, at
/// most 32; not `returned`, which is part of queue names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct Pool(String);

impl Pool {
    /// The pool of ordinary workers.
    #[must_use]
    pub fn cpu() -> Pool {
        Pool("cpu".into())
    }

    /// Whether this is the pool of ordinary workers, whose queues carry no pool in their names.
    #[must_use]
    pub fn is_cpu(&self) -> bool {
        self.0 == "cpu"
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Pool {
    fn default() -> Pool {
        Pool::cpu()
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Pool> for String {
    fn from(pool: Pool) -> String {
        pool.0
    }
}

impl TryFrom<String> for Pool {
    type Error = PoolError;

    // A pool becomes part of queue names and NATS subjects: no dots, no wildcards.
    fn try_from(text: String) -> Result<Pool, PoolError> {
        let fits = (1..=32).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if text == RETURNED {
            Err(PoolError::Reserved)
        } else if fits {
            Ok(Pool(text))
        } else {
            Err(PoolError::Malformed { given: crate::id::excerpt(&text) })
        }
    }
}

impl FromStr for Pool {
    type Err = PoolError;

    fn from_str(text: &str) -> Result<Pool, PoolError> {
        Pool::try_from(text.to_owned())
    }
}

/// A text that is no pool name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Not a name.
    #[error("`{given}` is no pool: 1 to 32 lower-case letters, digits or `-` are expected")]
    Malformed {
        /// What was given, shortened.
        given: String,
    },
    /// Taken.
    #[error(
        "`{RETURNED}` cannot be a pool: queues of that name hold the jobs that were handed back; choose another name"
    )]
    Reserved,
}

/// A SHA-256 in lower-case hexadecimal. It is read in either case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(extend("pattern" = "^[0-9A-Fa-f]{64}$"))]
pub struct Sha256Sum(String);

impl Sha256Sum {
    /// Hexadecimal digits of one.
    const DIGITS: usize = 64;

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Sha256Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Sha256Sum> for String {
    fn from(sum: Sha256Sum) -> String {
        sum.0
    }
}

impl TryFrom<String> for Sha256Sum {
    type Error = Sha256SumError;

    fn try_from(text: String) -> Result<Sha256Sum, Sha256SumError> {
        if let Some(other) = text.chars().find(|digit| !digit.is_ascii_hexdigit()) {
            return Err(Sha256SumError::NoDigit { other });
        }
        if text.len() != Sha256Sum::DIGITS {
            return Err(Sha256SumError::Length { digits: text.len() });
        }
        Ok(Sha256Sum(text.to_ascii_lowercase()))
    }
}

impl FromStr for Sha256Sum {
    type Err = Sha256SumError;

    fn from_str(text: &str) -> Result<Sha256Sum, Sha256SumError> {
        Sha256Sum::try_from(text.to_owned())
    }
}

/// A text that is no SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Sha256SumError {
    /// Another character than a digit.
    #[error("{other:?} is no hexadecimal digit: a SHA-256 is written as 64 of them, as `sha256sum` prints it")]
    NoDigit {
        /// The first of them.
        other: char,
    },
    /// More or fewer digits.
    #[error("{digits} hexadecimal digits are no SHA-256: it has 64, as `sha256sum` prints it")]
    Length {
        /// How many there are.
        digits: usize,
    },
}

/// What one attempt may use. Absent fields take the defaults below.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourceLimits {
    /// Processor time in percent of one core: 200 is two cores. Default: all cores of the worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cpu_percent: Option<u32>,
    /// Memory in MiB. Default 2048.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory_mb: Option<u64>,
    /// Scratch and output together, in MiB. Default 5000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_disk_mb: Option<u64>,
    /// Wall time of one attempt in seconds, without the time in which it is paused. Default 3600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_sec: Option<u64>,
    /// Seconds without progress after which an attempt is ended. Default: the worker's setting for the queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_sec: Option<u64>,
}

impl ResourceLimits {
    /// Memory of a job that does not say, in MiB.
    pub const MEMORY_MB: u64 = 2048;
    /// Disk of a job that does not say, in MiB.
    pub const DISK_MB: u64 = 5000;
    /// Wall time of a job that does not say, in seconds.
    pub const TIMEOUT_SEC: u64 = 3600;

    /// Processor time of one unit, in percent of one core.
    pub const UNIT_CPU_PERCENT: u32 = 100;

    /// Slots that a job takes where a worker has as many: as many units as its largest wish.
    #[must_use]
    pub fn units(&self) -> u32 {
        let processor = self.max_cpu_percent.map_or(1, |percent| percent.div_ceil(Self::UNIT_CPU_PERCENT));
        let memory = self.memory_mb().div_ceil(Self::MEMORY_MB);
        let disk = self.disk_mb().div_ceil(Self::DISK_MB);
        u32::try_from(u64::from(processor).max(memory).max(disk)).unwrap_or(u32::MAX).max(1)
    }

    /// Memory in force, in MiB.
    #[must_use]
    pub fn memory_mb(&self) -> u64 {
        self.max_memory_mb.unwrap_or(Self::MEMORY_MB)
    }

    /// Disk in force, in MiB.
    #[must_use]
    pub fn disk_mb(&self) -> u64 {
        self.max_disk_mb.unwrap_or(Self::DISK_MB)
    }

    /// Wall time in force, in seconds.
    #[must_use]
    pub fn timeout_sec(&self) -> u64 {
        self.timeout_sec.unwrap_or(Self::TIMEOUT_SEC)
    }
}

/// What differs from the scenario.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// A codec (`h264`, `h265`, `vp8`, `vp9`, `av1`), one encoder by name (`libx264`, `h264_nvenc`), `copy` or `none`. Also spelled `encoder`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codec: Option<CodecChoice>,
    /// Video bit rate in bits per second: a number, or text such as `6M` or `2500k`. Not together with `crf`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bitrate: Option<Bitrate>,
    /// Peak video bit rate over one buffer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maxrate: Option<Bitrate>,
    /// Size of the rate-control buffer, in bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bufsize: Option<Bitrate>,
    /// Constant quality: 0 (best) to 51, or to 63 for VP8, VP9 and AV1. Not together with `bitrate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crf: Option<u8>,
    /// The encoder's speed preset, such as `fast`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// The encoder's tuning, such as `film`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tune: Option<String>,
    /// Frames between key frames at most. Default: two seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gop: Option<u32>,
    /// Seconds of output. For a file: cut after so much. For a generated source: its length (default 10). Also spelled `duration_seconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<f64>,
    /// Frame size: `1920x1080` or `1080p`. Also spelled `resolution_width` with `resolution_height`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution: Option<Resolution>,
    /// Frames per second: a number, or a fraction such as `30000/1001`. Also spelled `frame_rate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fps: Option<Fps>,
    /// Whether a device encodes: `require`, `prefer` (software where none can), `forbid`. Default: `require` where a hardware encoder is named, else `forbid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hw: Option<HardwarePolicy>,
    /// Pixel format, such as `yuv420p10le`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pixel_format: Option<PixelFormat>,
    /// `aac`, `opus`, `mp3`, `copy` or `none`. Default: what fits the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio_codec: Option<AudioChoice>,
    /// Audio bit rate. Default `128k`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio_bitrate: Option<Bitrate>,
    /// The container. Default: what the output's extension says, else what suits the codec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// 1, or 2: the encoder goes over the source twice and meets `bitrate` better. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passes: Option<u8>,
    /// The profile of H.264 or H.265 that must do for a decoder. Default: what the pixel format needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// How the source's shape becomes the frame's: `pad` (default, with bars), `fit` (as large as fits into it), `crop` (fills it), `stretch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fit: Option<Fit>,
    /// The part of the upright source that is taken, `<width>x<height>+<left>+<top>` in pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<Crop>,
    /// `off` (default), `on`, or `auto`: where the source says that it is interlaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deinterlace: Option<Deinterlace>,
    /// High dynamic range: `keep` it, `tonemap` it to SDR, or `auto` (default): keep it in 10 bits, map it in 8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hdr: Option<Hdr>,
    /// Seconds of the source to leave out before the first. For a picture: its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<f64>,
    /// Second of the source at which the output ends. Not together with `duration`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<f64>,
    /// `mono`, `stereo`, `5.1` or `7.1`. Default: the source's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio_channels: Option<Channels>,
    /// Audio samples per second. Default: the source's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_rate: Option<u32>,
    /// Integrated loudness in LUFS to bring the audio to (EBU R 128, measured first): -70 to -5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loudness: Option<f64>,
    /// The highest true peak in dBTP with `loudness`: -9 to 0, default -1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub true_peak: Option<f64>,
    /// Which audio streams: `first` (default), `all`, or numbers such as `0,2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio_streams: Option<Streams>,
    /// `drop` (default), `copy`, `convert` to what the container takes, or `burn` into the picture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subtitles: Option<SubtitleMode>,
    /// Which subtitle streams: `first` (default), `all`, or numbers such as `0,2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subtitle_streams: Option<Streams>,
    /// Titles and tags of the source: `keep` (default) or `drop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Keep>,
    /// Chapters of the source: `keep` (default) or `drop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chapters: Option<Keep>,
    /// What to measure of the finished picture against its source: `vmaf`, `psnr`, `ssim`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Metrics>,
    /// Mean scores that the output must reach, such as `{"vmaf": 93}`; else the job fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality_target: Option<QualityTarget>,
    /// The mean VMAF for which the highest CRF is sought on samples of the source. Instead of `crf` and `bitrate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_vmaf: Option<f64>,
    /// The same by PSNR, in dB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_psnr: Option<f64>,
    /// The same by SSIM, up to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ssim: Option<f64>,
    /// What the segments of `hls` are: `ts` or `fmp4`. Default: `ts` for H.264, else `fmp4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment_type: Option<SegmentType>,
    /// Length of the segments of `hls` and `dash` in seconds. Default 6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment_seconds: Option<f64>,
    /// `thumbnails`, `sprites`: seconds from one picture to the next, 0.1 to 86400. Default 10. Not together with `picture_count`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_sec: Option<f64>,
    /// `thumbnails`, `sprites`: so many pictures, evenly over the whole length. Instead of `every_sec`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture_count: Option<u32>,
    /// `thumbnails`, `sprites`: `jpg` (default), `png` or `webp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture_format: Option<PictureFormat>,
    /// `sprites`: pictures in a row of a sheet. Default 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<u32>,
    /// `sprites`: rows of a sheet. Default 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u32>,
    /// Renditions in several sizes instead of one output: `auto`, chosen from the source, or a list such as
    /// `1080p:5000k,720p:2500k`. The output's address has `{name}` (`720p`) or `{height}` (`720`) in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ladder: Option<Ladder>,
    /// Where the encode goes: `file` (default), `rtmp` or `stream`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_mode: Option<OutputMode>,
    /// Live: seconds that the source, or all sinks, may be away in one piece. 0: not at all. Default 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconnect_sec: Option<u64>,
    /// Live: how often the tool is started again at most, in one attempt. Default 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarts: Option<u32>,
    /// Live: what it means when the source stays away: `finish` (default without `duration`) or `fail` (default with it).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_end: Option<SourceEnd>,
}

/// One more output of the same source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExtraOutput {
    /// Where it goes.
    pub url: String,
    /// What it is.
    pub scenario: String,
    /// What differs from its scenario. Nothing of the job's own parameters holds for it, except the part of the source that
    /// is taken (`start`, `end`, `duration`) where it names none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub parameters: Parameters,
}

fn is_default(parameters: &Parameters) -> bool {
    *parameters == Parameters::default()
}

fn default_retries() -> u32 {
    JobSpec::MAX_RETRIES
}

/// A job: which encode is wanted, from where, to where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// The job's id. Absent: the ledger mints one, and publishing the same body twice makes two jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<JobId>,
    /// A declared encode, `<size>[fps]-<codec>` such as `1080p60-h264`, or a name from the scenario list.
    pub scenario: String,
    /// Which engine runs it.
    #[serde(default)]
    pub engine: Engine,
    /// The queue. It must agree with the exchange to which the job is published.
    #[serde(default)]
    pub queue: Queue,
    /// The priority. It must agree with the routing key.
    #[serde(default)]
    pub priority: Priority,
    /// The kind of worker. It must agree with the routing key.
    #[serde(default)]
    pub pool: Pool,
    /// The source: an absolute path under a worker's media roots, or an address by `file`, `http(s)`, `s3`, `gs`, `az`, or of a live
    /// source by `rtmp(s)`, `srt`. Absent: a test source is generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// The SHA-256 that the input must have, in hexadecimal. With any other the job fails, and nothing is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_sha256: Option<Sha256Sum>,
    /// The size that the input must have, in bytes. With any other the job fails, before the input is fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_size_bytes: Option<u64>,
    /// The destination: an absolute path under a worker's media roots, or an address by `file`, `s3`, `gs`, `az`, or of a live sink
    /// by `rtmp(s)`, `srt`. Absent: `<first media root>/ffpool/<job id>.<container>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// More outputs of the same source, besides the job's own. All are made in one decode and published together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<ExtraOutput>,
    /// What differs from the scenario.
    #[serde(default)]
    pub parameters: Parameters,
    /// What one attempt may use.
    #[serde(default)]
    pub resource_limits: ResourceLimits,
    /// Failed attempts that are tried again. Drains, evictions and lost machines are not counted.
    #[serde(default = "default_retries")]
    pub max_retries: u32,
    /// Not before this instant (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Useless after this instant (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// Jobs that must complete first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<JobId>,
    /// The submitter's own names, for search.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whose job it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// An `http(s)` address that is told of the job's end by a signed POST.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback_url: Option<String>,
    /// `auto` (default): a long encode is made in chunks, which several workers share and a later attempt uses again. `off`:
    /// never; `require`: whatever its length, and refused where it cannot be.
    #[serde(default)]
    pub checkpoint: Checkpoint,
    /// The chunk of another job that this one makes. Written by the ledger alone: it is no field of a client's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub piece: Option<Box<Piece>>,
    /// Kept with the job, changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Confidence>,
    /// Kept with the job, changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classification: Option<Classification>,
}

impl JobSpec {
    /// The most that `outputs` may name.
    pub const MAX_OUTPUTS: usize = 16;
    /// Retries of a job that does not say.
    pub const MAX_RETRIES: u32 = 3;
    /// The largest size of an input that a job may state, in bytes: what the largest `max_disk_mb` has room for.
    pub const MAX_INPUT_BYTES: u64 = 1 << 50;
    /// The feature of a worker that holds an input against what the job says of it. One without it would take any.
    pub const CHECKS_INPUT: &'static str = "checks-input";

    /// A job of `scenario` with every other field at its default.
    #[must_use]
    pub fn new(scenario: &str) -> JobSpec {
        JobSpec {
            id: None,
            scenario: scenario.to_owned(),
            engine: Engine::Auto,
            queue: Queue::Default,
            priority: Priority::Medium,
            pool: Pool::cpu(),
            input: None,
            input_sha256: None,
            input_size_bytes: None,
            output: None,
            outputs: Vec::new(),
            parameters: Parameters::default(),
            resource_limits: ResourceLimits::default(),
            max_retries: JobSpec::MAX_RETRIES,
            not_before: None,
            deadline: None,
            depends_on: Vec::new(),
            labels: BTreeMap::new(),
            tenant: None,
            callback_url: None,
            checkpoint: Checkpoint::Auto,
            piece: None,
            confidence: None,
            classification: None,
        }
    }

    /// Slots that it takes of a worker that has as many.
    #[must_use]
    pub fn units(&self) -> u32 {
        if self.engine == Engine::Noop { 1 } else { self.resource_limits.units() }
    }

    /// One of its `outputs` as a job of its own: the same source, and the same part of it unless it names another. One
    /// picture is of the beginning of that part.
    #[must_use]
    pub fn of_output(&self, output: &ExtraOutput) -> JobSpec {
        let mut parameters = output.parameters.clone();
        if [parameters.start, parameters.end, parameters.duration] == [None; 3] {
            let Parameters { start, end, duration, .. } = self.parameters;
            parameters = if self.input.is_some() && makes_one_picture(&output.scenario) {
                Parameters { start, ..parameters }
            } else {
                Parameters { start, end, duration, ..parameters }
            };
        }
        JobSpec {
            scenario: output.scenario.clone(),
            output: Some(output.url.clone()),
            outputs: Vec::new(),
            parameters,
            ..self.clone()
        }
    }

    /// A fault that was found in the job's output of this number, from 0, as one of the job.
    #[must_use]
    pub fn fault_of_output(&self, number: usize, fault: Fault) -> Fault {
        match number.checked_sub(1).and_then(|index| Some((index, self.outputs.get(index)?))) {
            Some((index, output)) => crate::scenario::outputs::fault_of(index, output, fault),
            None => fault,
        }
    }

    /// The work queue in which the job waits.
    #[must_use]
    pub fn work_queue(&self) -> crate::topology::WorkQueue {
        crate::topology::WorkQueue { queue: self.queue, priority: self.priority, pool: self.pool.clone() }
    }
}

fn makes_one_picture(scenario: &str) -> bool {
    let found = crate::scenario::Scenario::find(scenario);
    found.is_some_and(|found| found.codec == crate::encode::CodecChoice::Picture && found.set.is_none())
}
