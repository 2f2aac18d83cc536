//! The durable report of how an attempt ended, with what it used and the proof of what it made.
//!
//! Invariant: it is delivered at least once and may repeat, under the same id.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Sender;
use crate::chunk::Piece;
use crate::encode::{Metric, PictureFormat};
use crate::failure::{Cause, Failure};
use crate::id::{JobId, WorkerId};
use crate::job::Engine;
use crate::parse::Fault;

/// Worker to ledger, durable ([`crate::topology::EVENTS_EXCHANGE`]): how an attempt ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Names this report; a repeat has the same.
    pub id: Uuid,
    /// Who reports.
    pub from: Sender,
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: u32,
    /// The worker's clock.
    pub at: Timestamp,
    /// What the attempt used.
    pub usage: Option<Usage>,
    /// A small picture of what it made, where that can be seen: see [`crate::thumbnail::Thumbnail::written`]. A text, because a wrong
    /// one must not lose the report. Workers of before send none, and dispatchers of before do not look at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thumbnail: Option<String>,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Event {
    /// The routing key on the events exchange, such as `attempt.finished`.
    #[must_use]
    pub fn routing_key(&self) -> String {
        format!("attempt.{}", self.outcome.name())
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The output is published and proven. `None` only for the `noop` engine, and for a chunk that is not needed as it was
    /// asked for.
    Finished {
        /// The proof.
        manifest: Option<Box<Manifest>>,
    },
    /// It failed.
    Failed {
        /// Why.
        failure: Failure,
    },
    /// The job can never run as it is written, found before the tool started.
    Rejected {
        /// What is wrong with it.
        faults: Vec<Fault>,
    },
    /// Handed back unfinished, free of charge.
    Released {
        /// Why, in words.
        reason: String,
    },
    /// Ended because the job was cancelled.
    Cancelled,
    /// The job is to be made in chunks: these are to be made first, by jobs of their own; then an attempt puts them
    /// together. Only where the grant says that the ledger does so, see [`super::Grant::splits`].
    Split {
        /// The chunks that are missing.
        pieces: Vec<Piece>,
    },
}

impl Outcome {
    /// The name as it stands in routing keys, columns and labels.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Finished { .. } => "finished",
            Outcome::Failed { .. } => "failed",
            Outcome::Rejected { .. } => "rejected",
            Outcome::Released { .. } => "released",
            Outcome::Cancelled => "cancelled",
            Outcome::Split { .. } => "split",
        }
    }
}

/// What an attempt used.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Usage {
    /// Wall time in milliseconds.
    pub wall_ms: u64,
    /// Processor time in milliseconds.
    pub cpu_ms: u64,
    /// Largest memory in bytes, where the kernel tells.
    pub peak_memory_bytes: Option<u64>,
    /// Bytes of input.
    pub input_bytes: Option<u64>,
    /// Bytes of output.
    pub output_bytes: Option<u64>,
    /// Energy in joules: its part of what the processors took while it ran. Absent where the worker cannot read that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_joules: Option<f64>,
}

/// The proof that goes with an output, stored in the ledger and beside the file as `<output>.ffpool.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Manifest {
    /// The job.
    pub job: JobId,
    /// The attempt that made it.
    pub attempt: u32,
    /// The worker.
    pub worker: WorkerId,
    /// When it was verified, by the worker's clock.
    pub at: Timestamp,
    /// Version of ffpool.
    pub version: String,
    /// The tool's first version line.
    pub tool: String,
    /// The exact argument list, paths as given to the tool.
    pub arguments: Vec<String>,
    /// Argument lists of the runs before it: measurements, first passes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Vec<String>>,
    /// What the tool says of its version that read source and output to their ends, where another encoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checker: Option<String>,
    /// The engine that encoded, and why it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineChoice>,
    /// What kept the tools from the rest of the machine: of `landlock`, `seccomp`, `network` and `egress` those
    /// that stood.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sandbox: Vec<String>,
    /// The device that encoded, such as `nvenc:0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Why software encoded, where a device was preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<String>,
    /// The prober's first version line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prober: Option<String>,
    /// The files.
    pub artifacts: Vec<Artifact>,
    /// What was read.
    pub source: Option<SourceIdentity>,
    /// What probing found in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_probe: Option<Probe>,
    /// The chunks it was put together from, in their order. The last of [`Manifest::steps`] made the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chunks: Vec<ChunkProof>,
    /// What it cost.
    pub usage: Usage,
    /// How a live job went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveReport>,
}

impl Manifest {
    /// What all its files take, those of presentations among them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let files = |artifact: &Artifact| artifact.files.iter().map(|file| file.size_bytes).sum::<u64>();
        self.artifacts.iter().map(|artifact| artifact.size_bytes.saturating_add(files(artifact))).sum()
    }
}

/// How a live job went.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LiveReport {
    /// Runs of the tool that carried media.
    pub runs: u32,
    /// Seconds from the first media to the last.
    pub secs: f64,
    /// When nothing came, in order.
    pub gaps: Vec<LiveGap>,
    /// How each live output fared.
    pub sinks: Vec<LiveSink>,
}

/// A time in which a live source was away.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LiveGap {
    /// Seconds from the first media to its beginning.
    pub at_secs: f64,
    /// Its length in seconds.
    pub secs: f64,
    /// By which run's end it came.
    pub cause: Cause,
}

/// How a live output fared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LiveSink {
    /// Its address, secrets taken out.
    pub url: String,
    /// Whether it took what was sent to it at the end.
    pub is_up: bool,
    /// How often it went away, or was not there at first.
    pub losses: u32,
    /// What the tool said of it last, secrets taken out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
}

/// A chunk that is part of an output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChunkProof {
    /// Its name: sha256 over source, cut, arguments and tool.
    pub key: String,
    /// The job that made it.
    pub job: JobId,
    /// Who made it.
    pub worker: WorkerId,
    /// Frames that decoded, every error fatal. 0: it is the sound.
    pub frames: u64,
    /// Hex sha256 of the file.
    pub sha256: String,
    /// The output or rendition that the file is for, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

/// An engine, and why it was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EngineChoice {
    /// The engine.
    pub engine: Engine,
    /// Why, in words.
    pub reason: String,
}

/// A file a job produced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Artifact {
    /// Which output of its job it is, such as `output` or `outputs[0]`. Absent where the job has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it is.
    pub url: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its hex sha256.
    pub sha256: String,
    /// What probing found.
    pub probe: Probe,
    /// What reading every packet and decoding every frame found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// How near the picture is to its source, where the job asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
    /// The other files of a presentation, by their paths beside it. Size and sha256 above are those of the file at `url`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<ArtifactFile>,
    /// The renditions of a presentation. What stands above of packets, frames and quality is the first one's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub renditions: Vec<RenditionProof>,
    /// What pictures there are, where it is a set of them. The file at `url` is the track that names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pictures: Option<PicturesProof>,
}

/// A set of pictures, as it was proven.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PicturesProof {
    /// Pictures.
    pub count: u64,
    /// Files that they are in: as many, or fewer sheets.
    pub files: u64,
    /// What the files are: `jpg`, `png`, `webp`.
    pub format: PictureFormat,
    /// Width of each picture in pixels.
    pub width: u32,
    /// Height of each.
    pub height: u32,
    /// Pictures in a row of a sheet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<u32>,
    /// Rows of a sheet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u32>,
    /// When the first frame that was taken is shown, in seconds.
    pub first_secs: f64,
    /// The same of the last.
    pub last_secs: f64,
    /// When the track ends, in seconds.
    pub end_secs: f64,
}

/// A file of a presentation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ArtifactFile {
    /// Its path, seen from the file at the artifact's `url`.
    pub path: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its hex sha256.
    pub sha256: String,
}

/// A rendition of a presentation, as it was proven.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RenditionProof {
    /// Its name.
    pub name: String,
    /// What probing found.
    pub probe: Probe,
    /// What reading every packet and decoding every frame found, before it was cut and after.
    pub proof: Proof,
    /// How near the picture is to its source, where the job asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
}

/// How near a picture is to its source, measured on the finished file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Quality {
    /// Frames that were measured.
    pub frames: u64,
    /// Every so many-th frame was.
    pub every: u32,
    /// Size at which both were held against each other: the source's, of what is taken of it.
    pub width: u32,
    /// See `width`.
    pub height: u32,
    /// VMAF.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmaf: Option<VmafScores>,
    /// PSNR in dB over all planes. 100 where no pixel differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub psnr: Option<PsnrScores>,
    /// Mean SSIM over all planes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssim: Option<f64>,
    /// How the CRF was found, where it was sought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<CrfSearch>,
}

/// VMAF over all measured frames.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VmafScores {
    /// The model.
    pub model: String,
    /// Mean.
    pub mean: f64,
    /// Harmonic mean, which bad frames pull down more.
    pub harmonic_mean: f64,
    /// One frame in a hundred is worse.
    pub p1: f64,
    /// One in twenty is.
    pub p5: f64,
    /// The worst frame.
    pub min: f64,
}

/// PSNR over all measured frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PsnrScores {
    /// Of the mean square error of all frames.
    pub mean: f64,
    /// Of the worst frame.
    pub min: f64,
}

/// A search for the highest CRF that reaches a score on samples of the source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CrfSearch {
    /// The measure.
    pub metric: Metric,
    /// The mean score that was sought.
    pub aim: f64,
    /// The CRF that was taken.
    pub crf: u8,
    /// Samples that each CRF was tried on.
    pub samples: u32,
    /// What was tried, in order.
    pub trials: Vec<CrfTrial>,
}

/// One CRF that was tried.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CrfTrial {
    /// The CRF.
    pub crf: u8,
    /// The mean score of the samples.
    pub score: f64,
}

/// What reading every packet of an output and decoding it to its end found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Proof {
    /// Each stream, in the file's order.
    pub streams: Vec<StreamProof>,
    /// Frames of video that decoded, every error fatal.
    pub frames: Option<u64>,
    /// Measured loudness in LUFS, where the job asks for one.
    pub lufs: Option<f64>,
    /// Measured true peak in dBTP, where the job asks for a loudness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_dbtp: Option<f64>,
    /// Frames that were taken of the source, where its rate is kept: those that decoded, without the repeated, with the left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_frames: Option<u64>,
    /// Frames that the tool repeated to keep a rate, where it tells of this output alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeated: Option<u64>,
    /// Frames that it left out to keep a rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<u64>,
}

/// What the packets of one stream are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StreamProof {
    /// `video`, `audio`, `subtitle` or another of FFmpeg's kinds.
    pub kind: String,
    /// FFmpeg's codec name.
    pub codec: String,
    /// Packets.
    pub packets: u64,
    /// Bytes of all packets.
    pub bytes: u64,
    /// Time of the first, in seconds.
    pub first_secs: Option<f64>,
    /// End of the last, in seconds.
    pub end_secs: Option<f64>,
}

/// The source as it was when it was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SourceIdentity {
    /// Where it was, secrets taken out.
    pub url: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its modification time.
    pub modified: Option<Timestamp>,
    /// Hex sha256 of what was fetched. Absent for files, which are read in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The version that its server named, by the entity tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

/// What probing a file found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Probe {
    /// FFmpeg's format names, such as `mov,mp4,m4a,3gp,3g2,mj2`.
    pub format: String,
    /// Length in seconds.
    pub duration_secs: Option<f64>,
    /// Bits per second over all.
    pub bitrate: Option<u64>,
    /// The first video stream.
    pub video: Option<VideoProbe>,
    /// The first audio stream.
    pub audio: Option<AudioProbe>,
    /// All streams counted.
    pub streams: u32,
}

/// What probing a video stream found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VideoProbe {
    /// FFmpeg's codec name, such as `h264`.
    pub codec: String,
    /// Profile, such as `High`.
    pub profile: Option<String>,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Average frames per second.
    pub fps: Option<f64>,
    /// Pixel format.
    pub pixel_format: Option<String>,
    /// Length in seconds.
    pub duration_secs: Option<f64>,
    /// Frames that decoded, where counted.
    pub frames: Option<u64>,
    /// Rotation in degrees to apply on display.
    pub rotation: Option<i32>,
}

/// What probing an audio stream found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AudioProbe {
    /// FFmpeg's codec name, such as `aac`.
    pub codec: String,
    /// Channels.
    pub channels: Option<u32>,
    /// Samples per second.
    pub sample_rate: Option<u32>,
    /// Length in seconds.
    pub duration_secs: Option<f64>,
}
