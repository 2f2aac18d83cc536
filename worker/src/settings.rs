//! The worker's settings, as flags, `FFPOOL_*` variables or keys of the settings file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use ffpool_runtime::settings::FileArgs;
use ffpool_runtime::telemetry::TelemetryArgs;
use ffpool_schema::device::DeviceLimit;
use ffpool_schema::id::WorkerId;
use ffpool_schema::job::{Pool, ResourceLimits};
use ffpool_schema::live::Live;

use crate::bounds::Bounds;
use crate::chunks::ChunkArgs;
use crate::devices::{DeviceSettings, Policy};
use crate::machine::energy;
use crate::notice::EvictionArgs;
use crate::store::settings::StoreArgs;
use crate::workshop::{CgroupMode, SandboxMode, Workload, WorkshopSettings};

/// Runs encodes of a media pool: takes jobs from RabbitMQ as long as it has room, runs each in a cgroup of its own,
/// proves the output and reports to the ledger.
///
/// It stops on SIGTERM or SIGINT: it takes no more work, finishes what it can within `--drain-secs`, hands back the
/// rest free of charge and exits with 0. A second signal hands everything back at once; a third exits on the spot.
/// Exit codes: 0 stopped as asked, 1 could not start or could not hand everything back, 2 wrong settings.
#[derive(Debug, Clone, Parser)]
#[command(name = "ffpool-worker", version)]
pub struct Settings {
    /// Settings file.
    #[command(flatten)]
    pub file: FileArgs,
    /// Logs and traces.
    #[command(flatten)]
    pub telemetry: TelemetryArgs,

    /// RabbitMQ, `amqp://user:password@host:port/vhost` or `amqps://…`.
    #[arg(long, env = "FFPOOL_AMQP_URL", hide_env_values = true, value_name = "URL")]
    pub amqp_url: String,
    /// NATS, `nats://host:port` or `tls://…`; several servers with commas.
    #[arg(long, env = "FFPOOL_NATS_URL", hide_env_values = true, value_name = "URL")]
    pub nats_url: String,
    /// Directories under which inputs and outputs lie, separated by colons. The first takes outputs without an address.
    #[arg(long, env = "FFPOOL_MEDIA_ROOTS", value_name = "DIRS", value_delimiter = ':', required = true)]
    pub media_roots: Vec<PathBuf>,
    /// Directory for what attempts write before it is proven. On the disk of the media roots, publishing is a rename.
    #[arg(long, env = "FFPOOL_SCRATCH", value_name = "DIR", default_value = "/var/tmp/ffpool")]
    pub scratch: PathBuf,
    /// Free scratch space in MiB below which the worker takes no more work. Default: what a job may write that does not say.
    #[arg(long, env = "FFPOOL_MIN_DISK_MB", value_name = "MIB", default_value_t = ResourceLimits::DISK_MB)]
    pub min_disk_mb: u64,
    /// Address of `/metrics`, `/health` and `/ready`.
    #[arg(long, env = "FFPOOL_METRICS_ADDR", value_name = "ADDR", default_value = "127.0.0.1:9091")]
    pub metrics_addr: SocketAddr,
    /// Name of this worker, unique in the pool and the same after a restart. Default: the host's name.
    #[arg(long, env = "FFPOOL_WORKER_ID", value_name = "NAME", default_value_t = host_id(), hide_default_value = true)]
    pub worker_id: WorkerId,
    /// Pools it serves, separated by commas.
    #[arg(long, env = "FFPOOL_POOLS", value_name = "POOLS", value_delimiter = ',', default_value = "cpu")]
    pub pools: Vec<Pool>,

    /// Attempts that may run at a time. Default: what the limits of this worker's own cgroup allow.
    #[arg(long, env = "FFPOOL_SLOTS", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub slots: Option<u32>,
    /// What the jobs are bound by: cpu leaves the most room beside the encodes, io the least.
    #[arg(long, env = "FFPOOL_WORKLOAD", value_enum, default_value = "cpu")]
    pub workload: WorkloadArg,
    /// Factor on the number of slots; over 1 when jobs use less than they ask for.
    #[arg(long, env = "FFPOOL_OVERSUBSCRIPTION", value_name = "FACTOR", default_value_t = 1.0, value_parser = factor)]
    pub oversubscription: f64,
    /// Whether each attempt gets a cgroup: auto where possible (else one job at a time), require or do not start, off.
    #[arg(long, env = "FFPOOL_CGROUPS", value_enum, default_value = "auto")]
    pub cgroups: CgroupsArg,
    /// Cgroup directory under which those of the attempts are made. Default: below the worker's own.
    #[arg(long, env = "FFPOOL_CGROUP_PARENT", value_name = "DIR")]
    pub cgroup_parent: Option<PathBuf>,
    /// Whether the tools run behind bars (Landlock, seccomp, no network): best where the kernel has them, require or do not
    /// start, off.
    #[arg(long, env = "FFPOOL_SANDBOX", value_enum, default_value = "best")]
    pub sandbox: SandboxArg,
    /// Files and directories that the tools read besides the system's, their inputs and their scratch, with commas: libraries
    /// in unusual places.
    #[arg(long, env = "FFPOOL_SANDBOX_READ", value_name = "PATHS", value_delimiter = ',')]
    pub sandbox_read: Vec<PathBuf>,
    /// User and group of the tools, as numbers `1000:1000`. Default: `nobody` when the worker is root, else its own.
    #[arg(long, env = "FFPOOL_TOOL_USER", value_name = "UID:GID", value_parser = user_and_group)]
    pub tool_user: Option<(u32, u32)>,
    /// Where the kernel shows the energy counters of the processors (powercap). Without rights to read them no energy is told.
    #[arg(long, env = "FFPOOL_POWERCAP", value_name = "DIR", default_value = energy::POWERCAP)]
    pub powercap: PathBuf,
    /// The ffmpeg program, by path or by a name on PATH.
    #[arg(long, env = "FFPOOL_FFMPEG", value_name = "PROGRAM", default_value = "ffmpeg")]
    pub ffmpeg: PathBuf,
    /// The ffprobe program, by path or by a name on PATH.
    #[arg(long, env = "FFPOOL_FFPROBE", value_name = "PROGRAM", default_value = "ffprobe")]
    pub ffprobe: PathBuf,
    /// The gst-launch-1.0 program, by path or by a name on PATH. `off`: jobs of the GStreamer engine are not taken.
    #[arg(long, env = "FFPOOL_GSTREAMER", value_name = "PROGRAM", default_value = "gst-launch-1.0")]
    pub gstreamer: PathBuf,
    /// Seconds between two trials of FFmpeg and its software encoders.
    #[arg(long, env = "FFPOOL_ENCODER_CHECK_SECS", value_name = "SECONDS", default_value_t = WorkshopSettings::ENCODER_CHECK_SECS, value_parser = clap::value_parser!(u64).range(1..))]
    pub encoder_check_secs: u64,
    /// Devices that encode and how many encodes each may run at a time, with commas: `nvenc:0=3,vaapi:128=2`. Default: those that
    /// this machine has, with 8 each (VideoToolbox: 4).
    #[arg(long, env = "FFPOOL_DEVICES", value_name = "DEVICES", value_delimiter = ',')]
    pub devices: Option<Vec<DeviceLimit>>,
    /// Seconds between two trials of a device that does nothing.
    #[arg(long, env = "FFPOOL_DEVICE_CHECK_SECS", value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..))]
    pub device_check_secs: u64,
    /// Failures of a device after which its encoder is not offered for a while.
    #[arg(long, env = "FFPOOL_DEVICE_FAILURES", value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub device_failures: u32,
    /// Seconds within which these failures count.
    #[arg(long, env = "FFPOOL_DEVICE_WINDOW_SECS", value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    pub device_window_secs: u64,
    /// Seconds for which the encoder is not offered. Then a trial decides.
    #[arg(long, env = "FFPOOL_DEVICE_REST_SECS", value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    pub device_rest_secs: u64,
    /// Measure every so many-th frame where a job asks for the quality of its output. Short outputs are measured whole.
    #[arg(long, env = "FFPOOL_QUALITY_EVERY", value_name = "FRAMES", default_value_t = WorkshopSettings::QUALITY_EVERY, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub quality_every: u32,
    /// Whether a small picture of what a job made goes to the ledger with the report of its end, for the job's page: 320 pixels on the
    /// longer side, 32 KiB at most.
    #[arg(long, env = "FFPOOL_THUMBNAILS", value_enum, default_value = "on")]
    pub thumbnails: ThumbnailsArg,
    /// Accept jobs of the `noop` engine, which run nothing and serve measurements.
    #[arg(long, env = "FFPOOL_ALLOW_NOOP", value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub allow_noop: bool,

    /// A tool that makes no progress for so many seconds has stalled, unless its job says otherwise (`stall_sec`).
    #[arg(long, env = "FFPOOL_STALL_SECS", value_name = "SECONDS", default_value_t = 1800)]
    pub stall_secs: u64,
    /// The same for jobs of the queue `live`, and for a file or picture that is published live; a live source has 15 s.
    #[arg(long, env = "FFPOOL_LIVE_STALL_SECS", value_name = "SECONDS", default_value_t = Live::FED_STALL_SEC)]
    pub live_stall_secs: u64,
    /// Seconds between asking a tool to stop and killing it.
    #[arg(long, env = "FFPOOL_STOP_GRACE_SECS", value_name = "SECONDS", default_value_t = 10)]
    pub stop_grace_secs: u64,
    /// Seconds that running attempts are given after SIGTERM. Keep it half a minute under the time after which whoever
    /// stops the worker kills it. A drain through the API has no limit.
    #[arg(long, env = "FFPOOL_DRAIN_SECS", value_name = "SECONDS", default_value_t = 90)]
    pub drain_secs: u64,
    /// Seconds after which the message of a running job is acknowledged, the ledger answering for the job from then on.
    /// Must stay under the broker's acknowledgement timeout (30 minutes by default).
    #[arg(long, env = "FFPOOL_CUSTODY_AFTER_SECS", value_name = "SECONDS", default_value_t = 300)]
    pub custody_after_secs: u64,
    /// Freeze a batch attempt for a live job that finds no free slot. It goes on when there is room again.
    #[arg(long, env = "FFPOOL_PREEMPT", value_name = "BOOL", num_args = 0..=1, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub preempt: bool,
    /// Seconds of waiting that lift a queue by one step: `default` is 4 steps over `batch`, `live` 5 over `default`. So no
    /// queue starves, however much work the better ones have. The order within a queue gives way after one step. 0: never,
    /// the best goes first however long the others wait.
    #[arg(long, env = "FFPOOL_AGEING_SECS", value_name = "SECONDS", default_value_t = 600)]
    pub ageing_secs: u64,
    /// A live attempt ends by itself when no heartbeat could be sent for so many seconds: by then its lease has lapsed and
    /// the job runs elsewhere. Others go on, and ask before they publish. Keep it at the dispatchers' lease.
    #[arg(long, env = "FFPOOL_LIVE_FENCE_SECS", value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub live_fence_secs: u64,
    /// What is recorded live is carried to where another worker finds it every so many seconds: at most so much of it is
    /// lost when this one dies.
    #[arg(long, env = "FFPOOL_LIVE_PIECE_SECS", value_name = "SECONDS", default_value_t = WorkshopSettings::LIVE_PIECE_SECS, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub live_piece_secs: u64,

    /// Remote inputs and outputs.
    #[command(flatten)]
    pub remote: StoreArgs,
    /// Long encodes in chunks.
    #[command(flatten)]
    pub chunks: ChunkArgs,
    /// What is taken of one job at most.
    #[command(flatten)]
    pub bounds: Bounds,
    /// Eviction notices of the cloud.
    #[command(flatten)]
    pub eviction: EvictionArgs,
}

/// What the jobs are bound by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WorkloadArg {
    /// Encoding.
    Cpu,
    /// Some of both.
    Mixed,
    /// Reading and writing.
    Io,
}

/// Whether the tools run behind bars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SandboxArg {
    /// Behind all that the kernel gives.
    Best,
    /// Or the worker does not start.
    Require,
    /// As far as the user's rights reach.
    Off,
}

/// Whether small pictures of outputs are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ThumbnailsArg {
    /// Of every output that can be seen.
    On,
    /// Of none.
    Off,
}

/// Whether each attempt gets a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CgroupsArg {
    /// Where possible.
    Auto,
    /// Or the worker does not start.
    Require,
    /// Never.
    Off,
}

impl Settings {
    /// Time for running attempts after a stop signal.
    #[must_use]
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_secs)
    }

    /// What lifts a queue that is passed over by one step; `None` is strict order.
    #[must_use]
    pub fn ageing(&self) -> Option<Duration> {
        (self.ageing_secs > 0).then(|| Duration::from_secs(self.ageing_secs))
    }

    /// The part that the workshop needs.
    #[must_use]
    pub fn workshop(&self) -> WorkshopSettings {
        WorkshopSettings {
            media_roots: self.media_roots.clone(),
            scratch: self.scratch.clone(),
            ffmpeg: self.ffmpeg.clone(),
            ffprobe: self.ffprobe.clone(),
            gstreamer: (self.gstreamer != Path::new("off")).then(|| self.gstreamer.clone()),
            allow_noop: self.allow_noop,
            workload: match self.workload {
                WorkloadArg::Cpu => Workload::Cpu,
                WorkloadArg::Mixed => Workload::Mixed,
                WorkloadArg::Io => Workload::Io,
            },
            oversubscription: self.oversubscription,
            slots: self.slots,
            cgroups: match self.cgroups {
                CgroupsArg::Auto => CgroupMode::Auto,
                CgroupsArg::Require => CgroupMode::Require,
                CgroupsArg::Off => CgroupMode::Off,
            },
            sandbox: match self.sandbox {
                SandboxArg::Best => SandboxMode::Best,
                SandboxArg::Require => SandboxMode::Require,
                SandboxArg::Off => SandboxMode::Off,
            },
            sandbox_reads: self.sandbox_read.clone(),
            tool_user: self.tool_user,
            stall_after: Duration::from_secs(self.stall_secs),
            live_stall_after: Duration::from_secs(self.live_stall_secs),
            live_piece: Duration::from_secs(self.live_piece_secs),
            stop_grace: Duration::from_secs(self.stop_grace_secs),
            worker: self.worker_id.clone(),
            cgroup_parent: self.cgroup_parent.clone(),
            powercap: self.powercap.clone(),
            stores: self.remote.clone(),
            encoder_check: Duration::from_secs(self.encoder_check_secs),
            devices: DeviceSettings {
                devices: self.devices.clone(),
                check_every: Duration::from_secs(self.device_check_secs),
                policy: Policy {
                    failures: self.device_failures,
                    window: Duration::from_secs(self.device_window_secs),
                    rest: Duration::from_secs(self.device_rest_secs),
                },
            },
            quality_every: self.quality_every,
            thumbnails: match self.thumbnails {
                ThumbnailsArg::On => true,
                ThumbnailsArg::Off => false,
            },
            chunks: self.chunks.clone(),
            bounds: self.bounds.clone(),
        }
    }
}

/// The name of this machine, or `unknown`.
#[must_use]
pub fn host() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "unknown".into())
}

/// The host's name as far as it can be a worker's.
fn host_id() -> WorkerId {
    worker_id_of(&host())
}

fn worker_id_of(host: &str) -> WorkerId {
    let fits = |character: char| if character.is_ascii_alphanumeric() || character == '_' { character } else { '-' };
    let name: String = host.chars().map(fits).take(64).collect();
    let name = if name.is_empty() { "unknown".to_owned() } else { name };
    name.parse().expect("1 to 64 letters, digits, `-` and `_` are left")
}

fn factor(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "a number is expected".to_owned())?;
    if (0.1..=10.0).contains(&number) { Ok(number) } else { Err("0.1 to 10 is expected".into()) }
}

fn user_and_group(text: &str) -> Result<(u32, u32), String> {
    let parsed = text.split_once(':').and_then(|(user, group)| Some((user.parse().ok()?, group.parse().ok()?)));
    parsed.ok_or_else(|| "two numbers such as 1000:1000 are expected".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &[&str]) -> Result<Settings, String> {
        let mut arguments = vec!["ffpool-worker", "--amqp-url=amqp://h", "--nats-url=nats://h", "--media-roots=/a:/b"];
        arguments.extend(more);
        Settings::try_parse_from(arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn three_addresses_are_enough() {
        let settings = parse(&[]).unwrap();
        assert_eq!(settings.media_roots, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(settings.pools, [Pool::cpu()]);
        assert!(!settings.allow_noop);
    }

    #[test]
    fn a_switch_is_set_alone_or_with_a_value() {
        assert!(parse(&["--allow-noop"]).unwrap().allow_noop);
        assert!(!parse(&["--allow-noop=false"]).unwrap().allow_noop);
        assert!(parse(&[]).unwrap().workshop().thumbnails);
        assert!(!parse(&["--thumbnails=off"]).unwrap().workshop().thumbnails);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in [
            "--slots=0",
            "--oversubscription=0",
            "--pools=GPU",
            "--tool-user=root",
            "--worker-id=a.b",
            "--devices=cuda:0",
            "--thumbnails=yes",
        ] {
            assert!(parse(&[wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn any_host_name_makes_a_worker_id() {
        assert_eq!(worker_id_of("node-1.example.org").as_str(), "node-1-example-org");
        assert_eq!(worker_id_of("").as_str(), "unknown");
        assert_eq!(worker_id_of(&"ä".repeat(100)).as_str().len(), 64);
    }
}
