//! Why an attempt failed: a closed set of causes with stable codes, and what each means for the job.
//!
//! The order of decision is the worker's (we ended it, then the kernel, then the tool's words, then its exit code); the
//! patterns and their order come from measurements of FFmpeg 5.1 and 9.0. Whether to try again is decided here, once.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A cause of failure. The number is stable: it is what people search for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The input does not exist.
    InputMissing,
    /// The input's server refuses us.
    InputAuth,
    /// The input is damaged or no media.
    InputBad,
    /// The input is larger than the attempt may store.
    InputTooLarge,
    /// The input's server ends before the length it named.
    InputTruncated,
    /// The input changes while it is fetched.
    InputChanged,
    /// What was fetched is not what its server's checksum says.
    InputChecksum,
    /// The live source did not come, or went away for longer than it may.
    SourceGone,
    /// A picture of the input has more pixels than the worker takes.
    InputPixels,
    /// The input has more streams than the worker takes.
    InputStreams,
    /// The input lasts longer than the worker takes.
    InputTooLong,
    /// The playlists of the source are too many, nested too deep or too large.
    InputPlaylists,
    /// The input has another size or another checksum than the job says.
    InputMismatch,
    /// The encode cannot be done as configured.
    ConfigBad,
    /// A rule of the pool forbids it.
    Policy,
    /// The output's store refuses us.
    OutputAuth,
    /// The output's bucket does not exist.
    OutputMissing,
    /// No live sink takes what is sent to it.
    SinkRefused,
    /// What is made is larger than the worker lets an output be.
    OutputTooLarge,
    /// The attempt wrote more than its limit for scratch and output.
    ScratchLimit,
    /// The network failed.
    NetTransient,
    /// Reading or writing failed on this machine.
    IoTransient,
    /// A host's name does not resolve.
    Dns,
    /// A server's certificate or its TLS is not accepted.
    Tls,
    /// The attempt's memory limit killed it.
    Oom,
    /// A disk or quota is full.
    DiskFull,
    /// Files, processes or memory of the machine ran out.
    Resource,
    /// The encoder fell behind a live source, which did not wait.
    EncoderSlow,
    /// The tool opened more files than the worker lets it.
    OpenFiles,
    /// The tool started more processes and threads than the worker lets it.
    Processes,
    /// A hardware encoder failed.
    Device,
    /// The tool crashed.
    Crash,
    /// Something outside killed the tool.
    Killed,
    /// It took longer than `timeout_sec`.
    Timeout,
    /// It made no progress for too long.
    Stall,
    /// Its deadline passed.
    Deadline,
    /// A job it depends on has ended without completing.
    ParentFailed,
    /// The tool succeeded but its output is not what was asked for.
    VerifyFailed,
    /// The output is what was asked for, and does not reach the quality that the job demands.
    QualityMissed,
    /// The worker fell silent.
    WorkerLost,
    /// The broker gave up delivering the message.
    DeliveryLimit,
    /// The worker could not prepare or publish.
    Platform,
    /// Nothing known fits. So is read what a newer worker says and this version does not know.
    #[serde(other)]
    Unknown,
}

/// Who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// Whoever made the input.
    Input,
    /// Whoever wrote the job.
    Request,
    /// A device.
    Device,
    /// The network.
    Network,
    /// The pool.
    Platform,
    /// The operator.
    Operator,
}

/// What to do about a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryPolicy {
    /// Try again after a while, while the budget lasts.
    Backoff,
    /// Try again once, then no more.
    Once,
    /// Never: the same will happen again.
    Never,
    /// At once and free of charge: the attempt is not to blame.
    Free,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Cause; 43] = [
        Cause::InputMissing,
        Cause::InputAuth,
        Cause::InputBad,
        Cause::InputTooLarge,
        Cause::InputTruncated,
        Cause::InputChanged,
        Cause::InputChecksum,
        Cause::SourceGone,
        Cause::InputPixels,
        Cause::InputStreams,
        Cause::InputTooLong,
        Cause::InputPlaylists,
        Cause::InputMismatch,
        Cause::ConfigBad,
        Cause::Policy,
        Cause::OutputAuth,
        Cause::OutputMissing,
        Cause::SinkRefused,
        Cause::OutputTooLarge,
        Cause::ScratchLimit,
        Cause::NetTransient,
        Cause::IoTransient,
        Cause::Dns,
        Cause::Tls,
        Cause::Oom,
        Cause::DiskFull,
        Cause::Resource,
        Cause::EncoderSlow,
        Cause::OpenFiles,
        Cause::Processes,
        Cause::Device,
        Cause::Crash,
        Cause::Killed,
        Cause::Timeout,
        Cause::Stall,
        Cause::Deadline,
        Cause::ParentFailed,
        Cause::VerifyFailed,
        Cause::QualityMissed,
        Cause::WorkerLost,
        Cause::DeliveryLimit,
        Cause::Platform,
        Cause::Unknown,
    ];

    /// The stable number.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Cause::InputMissing => 1001,
            Cause::InputAuth => 1002,
            Cause::InputBad => 1003,
            Cause::InputTooLarge => 1004,
            Cause::InputTruncated => 1005,
            Cause::InputChanged => 1006,
            Cause::InputChecksum => 1007,
            Cause::SourceGone => 1008,
            Cause::InputPixels => 1009,
            Cause::InputStreams => 1010,
            Cause::InputTooLong => 1011,
            Cause::InputPlaylists => 1012,
            Cause::InputMismatch => 1013,
            Cause::ConfigBad => 2001,
            Cause::Policy => 2002,
            Cause::OutputAuth => 2003,
            Cause::OutputMissing => 2004,
            Cause::SinkRefused => 2005,
            Cause::OutputTooLarge => 2006,
            Cause::ScratchLimit => 2007,
            Cause::NetTransient => 3001,
            Cause::IoTransient => 3002,
            Cause::Dns => 3003,
            Cause::Tls => 3004,
            Cause::Oom => 4001,
            Cause::DiskFull => 4002,
            Cause::Resource => 4003,
            Cause::EncoderSlow => 4004,
            Cause::OpenFiles => 4005,
            Cause::Processes => 4006,
            Cause::Device => 5001,
            Cause::Crash => 6001,
            Cause::Killed => 6002,
            Cause::Timeout => 7001,
            Cause::Stall => 7002,
            Cause::Deadline => 7003,
            Cause::ParentFailed => 7004,
            Cause::VerifyFailed => 8001,
            Cause::QualityMissed => 8002,
            Cause::WorkerLost => 9001,
            Cause::DeliveryLimit => 9002,
            Cause::Platform => 9003,
            Cause::Unknown => 9999,
        }
    }

    /// The name as it stands in columns and labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::InputMissing => "input_missing",
            Cause::InputAuth => "input_auth",
            Cause::InputBad => "input_bad",
            Cause::InputTooLarge => "input_too_large",
            Cause::InputTruncated => "input_truncated",
            Cause::InputChanged => "input_changed",
            Cause::InputChecksum => "input_checksum",
            Cause::SourceGone => "source_gone",
            Cause::InputPixels => "input_pixels",
            Cause::InputStreams => "input_streams",
            Cause::InputTooLong => "input_too_long",
            Cause::InputPlaylists => "input_playlists",
            Cause::InputMismatch => "input_mismatch",
            Cause::ConfigBad => "config_bad",
            Cause::Policy => "policy",
            Cause::OutputAuth => "output_auth",
            Cause::OutputMissing => "output_missing",
            Cause::SinkRefused => "sink_refused",
            Cause::OutputTooLarge => "output_too_large",
            Cause::ScratchLimit => "scratch_limit",
            Cause::NetTransient => "net_transient",
            Cause::IoTransient => "io_transient",
            Cause::Dns => "dns",
            Cause::Tls => "tls",
            Cause::Oom => "oom",
            Cause::DiskFull => "disk_full",
            Cause::Resource => "resource",
            Cause::EncoderSlow => "encoder_slow",
            Cause::OpenFiles => "open_files",
            Cause::Processes => "processes",
            Cause::Device => "device",
            Cause::Crash => "crash",
            Cause::Killed => "killed",
            Cause::Timeout => "timeout",
            Cause::Stall => "stall",
            Cause::Deadline => "deadline",
            Cause::ParentFailed => "parent_failed",
            Cause::VerifyFailed => "verify_failed",
            Cause::QualityMissed => "quality_missed",
            Cause::WorkerLost => "worker_lost",
            Cause::DeliveryLimit => "delivery_limit",
            Cause::Platform => "platform",
            Cause::Unknown => "unknown",
        }
    }

    /// Who has to act.
    #[must_use]
    pub fn blame(self) -> Blame {
        match self {
            Cause::InputMissing
            | Cause::InputAuth
            | Cause::InputBad
            | Cause::InputTruncated
            | Cause::InputChanged
            | Cause::InputChecksum
            | Cause::InputPixels
            | Cause::InputStreams
            | Cause::InputTooLong
            | Cause::InputPlaylists
            | Cause::InputMismatch
            | Cause::SourceGone => Blame::Input,
            Cause::InputTooLarge
            | Cause::OutputMissing
            | Cause::OutputTooLarge
            | Cause::ScratchLimit
            | Cause::SinkRefused
            | Cause::ConfigBad
            | Cause::Policy
            | Cause::Oom
            | Cause::Timeout
            | Cause::Deadline
            | Cause::ParentFailed
            | Cause::QualityMissed => Blame::Request,
            Cause::NetTransient | Cause::Dns | Cause::Tls => Blame::Network,
            Cause::Device => Blame::Device,
            Cause::DiskFull
            | Cause::Resource
            | Cause::EncoderSlow
            | Cause::OpenFiles
            | Cause::Processes
            | Cause::OutputAuth => Blame::Operator,
            Cause::IoTransient
            | Cause::Crash
            | Cause::Killed
            | Cause::Stall
            | Cause::VerifyFailed
            | Cause::WorkerLost
            | Cause::DeliveryLimit
            | Cause::Platform
            | Cause::Unknown => Blame::Platform,
        }
    }

    /// Whether to try again.
    #[must_use]
    pub fn policy(self) -> RetryPolicy {
        match self {
            Cause::InputAuth
            | Cause::InputBad
            | Cause::InputTooLarge
            | Cause::InputPixels
            | Cause::InputStreams
            | Cause::InputTooLong
            | Cause::InputPlaylists
            | Cause::OutputMissing
            | Cause::OutputTooLarge
            | Cause::ScratchLimit
            | Cause::ConfigBad
            | Cause::Policy
            | Cause::Timeout
            | Cause::Deadline
            | Cause::ParentFailed
            | Cause::QualityMissed
            | Cause::DeliveryLimit => RetryPolicy::Never,
            Cause::InputMissing
            | Cause::Oom
            | Cause::Unknown
            | Cause::VerifyFailed
            | Cause::InputChecksum
            | Cause::InputMismatch
            | Cause::OutputAuth
            | Cause::OpenFiles
            | Cause::Processes
            | Cause::Tls => RetryPolicy::Once,
            Cause::NetTransient
            | Cause::Dns
            | Cause::InputTruncated
            | Cause::InputChanged
            | Cause::IoTransient
            | Cause::DiskFull
            | Cause::Resource
            | Cause::EncoderSlow
            | Cause::SourceGone
            | Cause::SinkRefused
            | Cause::Device
            | Cause::Crash
            | Cause::Killed
            | Cause::Stall
            | Cause::Platform => RetryPolicy::Backoff,
            Cause::WorkerLost => RetryPolicy::Free,
        }
    }

    /// What to do about it, in one sentence.
    #[must_use]
    pub fn cure(self) -> &'static str {
        match self {
            Cause::InputMissing => "Check the input's address, or publish the job after the input is in place.",
            Cause::InputAuth => "Give the worker the right to read the input, or renew its signed address.",
            Cause::InputBad => "Replace the input: it is damaged, cut short or not a media file.",
            Cause::InputTooLarge => "Raise resource_limits.max_disk_mb: input and output must fit under it.",
            Cause::InputTruncated => "Look at the input's server: it promises more bytes than it sends.",
            Cause::InputChanged => "Publish the job after the input is written, or give the input a name of its own.",
            Cause::InputChecksum => "Upload the input again: it is not what its checksum says.",
            Cause::SourceGone => "Start the publisher, or raise parameters.reconnect_sec so that the job waits longer.",
            Cause::InputPixels => "Make the picture smaller, or have the operator raise FFPOOL_MAX_PIXELS.",
            Cause::InputStreams => "Leave streams out of the input, or have the operator raise FFPOOL_MAX_STREAMS.",
            Cause::InputTooLong => "Cut the input, or have the operator raise FFPOOL_MAX_DURATION_SECS.",
            Cause::InputPlaylists => {
                "Look at what the playlists lead to, or have the operator raise FFPOOL_MAX_PLAYLISTS."
            }
            Cause::InputMismatch => {
                "Put the input in place that the job means, or correct its input_sha256 and input_size_bytes."
            }
            Cause::ConfigBad => "Change the parameters: the tool cannot encode what they ask for.",
            Cause::Policy => "Use only what the pool allows, or ask its operator to allow more.",
            Cause::OutputAuth => "Give the worker's credentials the right to read and write the output's bucket.",
            Cause::OutputMissing => "Create the bucket, or correct its name in the job.",
            Cause::SinkRefused => "Check the sink's address and key, and that nobody else publishes under it.",
            Cause::OutputTooLarge => "Ask for fewer bits or a part, or have the operator raise FFPOOL_MAX_OUTPUT_MB.",
            Cause::ScratchLimit => "Raise resource_limits.max_disk_mb, or ask for fewer bits or a part.",
            Cause::NetTransient => "Nothing, unless it stays: then look at the network between worker and input.",
            Cause::IoTransient => "Nothing, unless it stays: then look at the worker's disks and mounts.",
            Cause::Dns => "Correct the host's name in the address, or look at the worker's name servers.",
            Cause::Tls => "Renew the server's certificate, or have the worker's machine trust who signed it.",
            Cause::Oom => "Raise resource_limits.max_memory_mb.",
            Cause::DiskFull => "Free space on the disk named in the evidence, or have the job run where there is more.",
            Cause::Resource => "Look at the worker: it ran out of memory, files or processes.",
            Cause::EncoderSlow => "Choose a faster preset, a smaller size or a worker with more cores.",
            Cause::OpenFiles => "Find out what the tool opens so many of, or raise FFPOOL_MAX_OPEN_FILES.",
            Cause::Processes => "Find out what the tool starts so many of, or raise FFPOOL_MAX_PROCESSES.",
            Cause::Device => "Look at the device and its driver, or allow a software encoder.",
            Cause::Crash => "Keep the input and report it: the tool crashed on it.",
            Cause::Killed => "Find out who killed the tool: the kernel's log on the worker tells.",
            Cause::Timeout => "Raise resource_limits.timeout_sec, or choose a faster preset.",
            Cause::Stall => "Look at the input: the tool waits for it, or loops.",
            Cause::Deadline => "Publish earlier, in a queue served sooner, or with a later deadline.",
            Cause::ParentFailed => "Look at the parent named in the message; redrive it, then this job.",
            Cause::VerifyFailed => "Compare the evidence with the job: the tool made something else.",
            Cause::QualityMissed => {
                "Give more bits (lower crf, higher bitrate), a slower preset or a larger size, or ask for less."
            }
            Cause::WorkerLost => "Nothing, unless it stays: then look at the worker named in the attempt.",
            Cause::DeliveryLimit => "Find out which workers died on it, then redrive it.",
            Cause::Platform => "Look at the evidence: the worker could not prepare or publish.",
            Cause::Unknown => "Look at the log: nothing in it is known.",
        }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One failure, as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// Which.
    pub cause: Cause,
    /// What happened, in one sentence.
    pub message: String,
    /// The tool's line that decided it, secrets taken out.
    pub evidence: Option<String>,
    /// The tool's exit code, where it exited.
    pub exit_code: Option<i32>,
    /// The signal that ended the tool, where one did.
    pub signal: Option<i32>,
}

impl Failure {
    /// A failure without evidence of a tool.
    #[must_use]
    pub fn new(cause: Cause, message: impl Into<String>) -> Failure {
        Failure { cause, message: message.into(), evidence: None, exit_code: None, signal: None }
    }
}
