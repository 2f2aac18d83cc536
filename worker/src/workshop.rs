//! Where attempts are carried out: the worker's tools, its room, and [`Workshop::run`], which takes one granted attempt
//! from its paths to its published and proven output.
//!
//! Invariant: whatever ends an attempt, when `run` returns no process, cgroup or scratch file of it is left, and its
//! output is either published whole or not at all.

mod attempt;

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use ffpool_schema::capacity::Workload;
use ffpool_schema::capacity::{self, Room};
use ffpool_schema::encode::{Encoder, Treatment, VideoEncode};
use ffpool_schema::id::WorkerId;
use ffpool_schema::job::{Engine, JobSpec};
use ffpool_schema::live::Live;
use ffpool_schema::message::{Ability, Capacity, CommitReply, Grant, LogLine, Outcome, Progress, Usage};
use ffpool_schema::plan;
use ffpool_schema::thumbnail::Thumbnail;
use tokio::sync::{mpsc, watch};

use crate::bounds::Bounds;
pub use crate::cage::SandboxMode;
use crate::cage::{Cage, CageError, Layer};
use crate::chunks::ChunkArgs;
use crate::devices::{DeviceSettings, Devices};
use crate::encoders::{self, EncodersError};
use crate::gstreamer::Gstreamer;
use crate::machine::energy::{self, Meter};
use crate::machine::group::{GroupLimits, Groups};
use crate::machine::room::read_room;
use crate::machine::usage::{InUse, InUseMeter};
use crate::publish::Notes;
use crate::quarters::Quarters;
use crate::roots::Roots;
use crate::software::{Software, Tools, Trials};
use crate::store::Stores;
use crate::store::settings::StoreArgs;
use crate::tool::{Launcher, ToolUser};

/// How long a reading of the machine's limits serves before they are read again.
const ROOM_FRESH: Duration = Duration::from_secs(1);
/// How often energy counters are read: the fastest begin again after some minutes.
const FOLLOW_ENERGY: Duration = Duration::from_secs(30);
/// How long an earlier life of this worker may take to let go of its scratch.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// How a workshop is set up.
#[derive(Debug, Clone)]
pub struct WorkshopSettings {
    /// Directories under which inputs and outputs lie. The first takes outputs that name no path.
    pub media_roots: Vec<PathBuf>,
    /// Directory for what attempts write before it is proven.
    pub scratch: PathBuf,
    /// The ffmpeg program, by path or by a name on `PATH`.
    pub ffmpeg: PathBuf,
    /// The ffprobe program, by path or by a name on `PATH`.
    pub ffprobe: PathBuf,
    /// The gst-launch-1.0 program, by path or by a name on `PATH`. `None`: GStreamer is not offered.
    pub gstreamer: Option<PathBuf>,
    /// Whether the `noop` engine runs.
    pub allow_noop: bool,
    /// What the jobs are bound by.
    pub workload: Workload,
    /// Factor on the slots.
    pub oversubscription: f64,
    /// Slots, instead of what the machine's limits give.
    pub slots: Option<u32>,
    /// Whether attempts get cgroups.
    pub cgroups: CgroupMode,
    /// Whether the tools run behind bars.
    pub sandbox: SandboxMode,
    /// What the tools read besides what every program does.
    pub sandbox_reads: Vec<PathBuf>,
    /// User and group of the tools. `None`: the worker's own, or `nobody` when that is root.
    pub tool_user: Option<(u32, u32)>,
    /// Silence of a tool after which the attempt has stalled, unless its job says otherwise.
    pub stall_after: Duration,
    /// The same for live jobs.
    pub live_stall_after: Duration,
    /// How much of a live recording may be lost with a worker.
    pub live_piece: Duration,
    /// Time between asking a tool to stop and killing it.
    pub stop_grace: Duration,
    /// This worker.
    pub worker: WorkerId,
    /// Cgroup under which the attempts' cgroups are made, by its path within the hierarchy. `None`: the worker's own.
    pub cgroup_parent: Option<PathBuf>,
    /// Where the kernel shows the energy counters of the processors.
    pub powercap: PathBuf,
    /// Remote inputs and outputs.
    pub stores: StoreArgs,
    /// Time between two trials of FFmpeg and its software encoders.
    pub encoder_check: Duration,
    /// Devices that encode.
    pub devices: DeviceSettings,
    /// Every so many-th frame of an output is measured, where a job asks for its quality.
    pub quality_every: u32,
    /// Whether a small picture is made of what is published.
    pub thumbnails: bool,
    /// Long encodes in chunks.
    pub chunks: ChunkArgs,
    /// What is taken of one job at most.
    pub bounds: Bounds,
}

impl WorkshopSettings {
    /// Which frames of an output are measured where nothing is set.
    pub const QUALITY_EVERY: u32 = 5;
    /// Seconds between two trials of the software encoders, where nothing is set.
    pub const ENCODER_CHECK_SECS: u64 = 3600;
    /// Seconds of a live recording that may be lost with a worker, where nothing is set.
    pub const LIVE_PIECE_SECS: u64 = 5;

    /// Usual settings for a worker with these roots and this scratch.
    #[must_use]
    pub fn new(worker: WorkerId, media_roots: Vec<PathBuf>, scratch: PathBuf) -> WorkshopSettings {
        WorkshopSettings {
            media_roots,
            scratch,
            ffmpeg: "ffmpeg".into(),
            ffprobe: "ffprobe".into(),
            gstreamer: None,
            allow_noop: false,
            workload: Workload::Cpu,
            oversubscription: 1.0,
            slots: None,
            cgroups: CgroupMode::Auto,
            sandbox: SandboxMode::Best,
            sandbox_reads: Vec::new(),
            tool_user: None,
            stall_after: Duration::from_secs(30 * 60),
            live_stall_after: Duration::from_secs(Live::FED_STALL_SEC),
            live_piece: Duration::from_secs(WorkshopSettings::LIVE_PIECE_SECS),
            stop_grace: Duration::from_secs(10),
            worker,
            cgroup_parent: None,
            powercap: energy::POWERCAP.into(),
            stores: StoreArgs::default(),
            encoder_check: Duration::from_secs(WorkshopSettings::ENCODER_CHECK_SECS),
            devices: DeviceSettings::default(),
            quality_every: WorkshopSettings::QUALITY_EVERY,
            thumbnails: true,
            chunks: ChunkArgs::default(),
            bounds: Bounds::default(),
        }
    }
}

/// Whether attempts get cgroups of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CgroupMode {
    /// Where the kernel and our rights allow it.
    #[default]
    Auto,
    /// Or the workshop does not open.
    Require,
    /// Never.
    Off,
}

/// Where an attempt reports while it runs. Both ways are best effort: a slow reader never holds up an encode.
#[derive(Debug)]
pub struct Reports {
    /// The latest progress.
    pub progress: watch::Sender<Option<Progress>>,
    /// Lines of the tools' logs.
    pub log: mpsc::Sender<LogLine>,
}

/// Why an attempt is to end before it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The job is cancelled.
    Cancel,
    /// The lease is lost: kill at once, report nothing.
    Abandon,
    /// Hand the attempt back, for this reason.
    Release(String),
}

impl Stop {
    /// What [`Stop::Release`] says when the worker stops.
    pub const DRAIN: &str = "the worker drains";
    /// The same of a live attempt that fences itself.
    pub const FENCE: &str = "its lease could not be renewed";
}

/// Why an attempt is to stand still, its processes stopped where they are. It goes on when no reason is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Freeze {
    /// Somebody has paused the job.
    pub paused: bool,
    /// It makes room for a live job.
    pub preempted: bool,
}

impl Freeze {
    /// Whether there is a reason.
    #[must_use]
    pub fn holds(self) -> bool {
        self.paused || self.preempted
    }
}

/// What an attempt is told while it runs.
#[derive(Debug, Clone)]
pub struct Orders {
    /// Whether it is to end before it is done.
    pub stop: watch::Receiver<Option<Stop>>,
    /// Whether it is to end with what it has, where it is live; any other attempt does not heed it.
    pub finish: watch::Receiver<bool>,
    /// Whether it is to stand still. A stop holds for a frozen attempt too, and at once.
    pub freeze: watch::Receiver<Freeze>,
}

/// What an attempt asks of others: the ledger for the right to publish, and its neighbours among the attempts at its job.
pub trait Consent: Send + Sync {
    /// The answer; waits until a dispatcher has given one.
    fn ask(&self) -> Pin<Box<dyn Future<Output = CommitReply> + Send + '_>>;

    /// Hands the attempt back while it still feeds its sinks, or records. Resolves when the next attempt is ready, or does
    /// not come in time. The attempt then ends, and is not reported again. By default at once: it ends and is reported as any other.
    fn hand_over(&self, _reason: &str, _usage: Usage) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }

    /// Asks the attempt before this one to let go of the job's sinks, and its recording. Resolves when it has, is not there, or does not answer.
    fn take_over(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Ended {
    /// What to report; `None`: the attempt was abandoned, or lost to a later one, and nothing is to be reported.
    pub outcome: Option<Outcome>,
    /// What it used.
    pub usage: Usage,
    /// A small picture of what it published.
    pub thumbnail: Option<Thumbnail>,
}

/// Why a workshop did not open.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its message")]
pub enum OpenError {
    #[error("media roots: {0}")]
    Roots(#[from] crate::roots::RootsError),
    #[error("object stores: {0}")]
    Stores(#[from] crate::store::profiles::StoresError),
    #[error("scratch {}: {source}", path.display())]
    Scratch { path: PathBuf, source: std::io::Error },
    #[error("scratch {}: another worker named {worker} uses it; give each worker a name or a scratch of its own", path.display())]
    ScratchInUse { path: PathBuf, worker: WorkerId },
    #[error("{name} not found: install the Debian package ffmpeg, or set its path")]
    ToolMissing { name: String },
    #[error("{} does not run: {message}", path.display())]
    ToolBroken { path: PathBuf, message: String },
    #[error("no user `nobody` for the tools: set tool_user to an unprivileged user")]
    NoToolUser,
    #[error("cgroups are required, but {why}")]
    Cgroups { why: String },
    #[error("sandbox: {0}")]
    Sandbox(#[from] CageError),
    #[error("encoders: {0}")]
    Encoders(#[from] EncodersError),
    #[error("read this machine's limits: {0}")]
    Limits(std::io::Error),
    #[error("start the thread that starts tools: {0}")]
    Launcher(std::io::Error),
}

/// The tools and the room of one worker. Clones share them.
#[derive(Clone)]
pub struct Workshop {
    shop: Arc<Shop>,
}

struct Shop {
    settings: WorkshopSettings,
    roots: Roots,
    stores: Stores,
    /// `<scratch>/<worker>`: everything in it is ours.
    scratch: PathBuf,
    ffmpeg: PathBuf,
    ffprobe: PathBuf,
    /// What FFmpeg is and can do, but on devices.
    software: Software,
    /// As whom the tools run, behind what, and who starts them.
    quarters: Quarters,
    groups: Result<Groups, String>,
    /// Hardware encoders, and the devices that they run on.
    devices: Devices,
    /// GStreamer, where it works.
    gstreamer: Option<Gstreamer>,
    /// What this machine's processors take; `None`: it cannot be read.
    meter: Option<Meter>,
    /// What this worker uses.
    in_use: InUseMeter,
    /// What lies beside outputs.
    notes: Notes,
    /// The last reading of the machine's limits. Never held across an await.
    room: Mutex<(Instant, Room)>,
    /// Held for life: it says that this worker is alive.
    _lock: std::fs::File,
}

impl fmt::Debug for Workshop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workshop").field("scratch", &self.shop.scratch).finish_non_exhaustive()
    }
}

/// Where a worker works, its own alone: nothing of an earlier life runs or lies there any more. What the tools can do is not
/// known yet.
pub struct Site {
    settings: WorkshopSettings,
    roots: Roots,
    stores: Stores,
    ffmpeg: PathBuf,
    ffprobe: PathBuf,
    user: ToolUser,
    scratch: PathBuf,
    groups: Result<Groups, String>,
    notes: Notes,
    launcher: Arc<Launcher>,
    lock: std::fs::File,
}

impl Site {
    /// Checks roots, scratch, tools and cgroup rights, and clears away what an earlier life of this worker left.
    ///
    /// # Errors
    /// What is missing, and what to do about it.
    pub async fn take(settings: WorkshopSettings) -> Result<Site, OpenError> {
        let roots = Roots::open(&settings.media_roots)?;
        let stores = Stores::open(&settings.stores)?;
        stores.say_which().await;
        let ffmpeg = encoders::find_program(&settings.ffmpeg)
            .ok_or_else(|| OpenError::ToolMissing { name: settings.ffmpeg.display().to_string() })?;
        let ffprobe = encoders::find_program(&settings.ffprobe)
            .ok_or_else(|| OpenError::ToolMissing { name: settings.ffprobe.display().to_string() })?;
        let user = ToolUser::choose(settings.tool_user).ok_or(OpenError::NoToolUser)?;
        if user == ToolUser::Own && settings.tool_user.is_some() {
            tracing::warn!("tool_user is set, but only root can run tools as another user: they run as this one");
        }
        let (scratch, lock) = open_scratch(&settings.scratch, &settings.worker).await?;
        let groups = match settings.cgroups {
            CgroupMode::Off => Err("cgroups are switched off".to_owned()),
            CgroupMode::Auto | CgroupMode::Require => {
                Groups::open(Path::new("/"), settings.worker.as_str(), settings.cgroup_parent.as_deref())
            }
        };
        if let (CgroupMode::Require, Err(why)) = (settings.cgroups, &groups) {
            return Err(OpenError::Cgroups { why: why.clone() });
        }
        if let Ok(groups) = &groups {
            groups.sweep().await;
        }
        let fail = |source| OpenError::Scratch { path: scratch.clone(), source };
        sweep_scratch(&scratch).await.map_err(fail)?;
        let notes = Notes::open(&scratch).map_err(fail)?;
        notes.follow();
        let launcher = Arc::new(Launcher::start().map_err(OpenError::Launcher)?);
        Ok(Site { settings, roots, stores, ffmpeg, ffprobe, user, scratch, groups, notes, launcher, lock })
    }

    /// Finds out what the tools can do here: tries every layer of the sandbox and every encoder.
    ///
    /// # Errors
    /// What does not work, and what to do about it.
    pub async fn open(self) -> Result<Workshop, OpenError> {
        let Site { settings, roots, stores, ffmpeg, ffprobe, user, scratch, groups, notes, launcher, lock } = self;
        let tool_version = encoders::version(&ffmpeg)
            .await
            .map_err(|error| OpenError::ToolBroken { path: ffmpeg.clone(), message: error.to_string() })?;
        let prober_version = encoders::version(&ffprobe)
            .await
            .map_err(|error| OpenError::ToolBroken { path: ffprobe.clone(), message: error.to_string() })?;
        let cage = {
            let (mode, tool, reads) = (settings.sandbox, ffprobe.clone(), settings.sandbox_reads.clone());
            let scratch = scratch.clone();
            let opened = tokio::task::spawn_blocking(move || Cage::open(mode, &tool, user, &reads, &scratch)).await;
            opened.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?
        };
        let open_files = settings.bounds.max_open_files;
        let quarters = Quarters { user, cage, launcher, scratch: scratch.clone(), open_files, trial_nice: 0 };
        let by_ffmpeg = async {
            let listed = encoders::listed(&ffmpeg).await?;
            let encoders = encoders::working(&ffmpeg, &quarters, &listed.video).await?;
            let devices = Devices::open(&ffmpeg, quarters.clone(), &listed.video, settings.devices.clone()).await;
            Ok::<_, EncodersError>((listed.clone(), encoders, devices, encoders::features(&ffmpeg, &listed).await?))
        };
        let by_gstreamer = async {
            match &settings.gstreamer {
                Some(program) => Gstreamer::open(program, &scratch, &quarters).await,
                None => None,
            }
        };
        let (by_ffmpeg, gstreamer) = tokio::join!(by_ffmpeg, by_gstreamer);
        let (listed, encoders, devices, features) = by_ffmpeg?;
        let by_gstreamer = gstreamer.iter().flat_map(|gstreamer| &gstreamer.features);
        let by_gstreamer = by_gstreamer.map(|feature| (*feature).to_owned()).collect();
        let trials = Trials {
            ffmpeg: ffmpeg.clone(),
            ffprobe: ffprobe.clone(),
            quarters: quarters.clone(),
            every: settings.encoder_check,
        };
        let found = Tools { version: tool_version, prober: prober_version, encoders, features, listed };
        let software = Software::open(trials, found, by_gstreamer);
        let room = read_room(Path::new("/"), &scratch).map_err(OpenError::Limits)?;
        let meter = Meter::open(&settings.powercap, Path::new(energy::STAT));
        if let Err(why) = &meter {
            tracing::info!(why, "the energy of attempts is not told");
        }
        let in_use = InUseMeter::open(Path::new("/"), groups.as_ref().ok());
        Ok(Workshop {
            shop: Arc::new(Shop {
                roots,
                stores,
                scratch,
                ffmpeg,
                ffprobe,
                software,
                quarters,
                groups,
                devices,
                gstreamer,
                meter: meter.ok(),
                in_use,
                notes,
                room: Mutex::new((Instant::now(), room)),
                _lock: lock,
                settings,
            }),
        })
    }
}

impl Workshop {
    /// Takes a site and opens there.
    ///
    /// # Errors
    /// What is missing, and what to do about it.
    pub async fn open(settings: WorkshopSettings) -> Result<Workshop, OpenError> {
        Site::take(settings).await?.open().await
    }

    /// What this worker can run with nothing else running.
    #[must_use]
    pub fn ability(&self) -> Ability {
        self.shop.ability()
    }

    /// Room of this worker as its limits are now; `used` is 0.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        let room = self.shop.room();
        Capacity {
            slots: self.shop.slots(&room),
            used: 0,
            cpu_percent: room.cpu_percent,
            memory_mb: room.memory_mb,
            disk_mb: room.disk_mb,
        }
    }

    /// What this worker uses now. Blocks for a few small files.
    #[must_use]
    pub fn in_use(&self) -> InUse {
        self.shop.in_use.read()
    }

    /// The layers of the sandbox that stand around its tools.
    #[must_use]
    pub fn sandbox(&self) -> &[Layer] {
        self.shop.quarters.cage.layers()
    }

    /// Slots that a job takes: never more than the worker has.
    #[must_use]
    pub fn units(&self, spec: &JobSpec) -> u32 {
        if spec.engine == Engine::Noop {
            return 1;
        }
        capacity::units(&spec.resource_limits, self.shop.slots(&self.shop.room()))
    }

    /// Deletes what an earlier life left beside outputs and could not be deleted before. Blocks.
    pub fn sweep_parts(&self) {
        self.shop.notes.follow();
    }

    /// Reads the energy counters again and again, so that none begins again twice between two readings, until it is dropped.
    pub async fn follow_energy(&self) {
        let Some(meter) = &self.shop.meter else { return };
        loop {
            tokio::time::sleep(FOLLOW_ENERGY).await;
            let _ = meter.read();
        }
    }

    /// FFmpeg and its software encoders.
    #[must_use]
    pub fn software(&self) -> &Software {
        &self.shop.software
    }

    /// Tries devices again that rest or do nothing, until it is dropped.
    pub async fn tend_devices(&self) {
        self.shop.devices.tend().await;
    }

    /// Why attempts get no cgroups. Then limits do not hold and one job at a time must run.
    #[must_use]
    pub fn without_limits(&self) -> Option<String> {
        self.shop.groups.as_ref().err().cloned()
    }

    /// Carries out one attempt: from its paths to its published and proven output.
    pub async fn run(&self, grant: &Grant, reports: Reports, orders: Orders, consent: Arc<dyn Consent>) -> Ended {
        let tools = self.shop.software.standing();
        let ended = attempt::run(&self.shop, grant, reports, orders, consent).await;
        match ended.outcome {
            Some(Outcome::Failed { failure }) => {
                let failure = self.shop.software.judge(failure, &tools).await;
                Ended { outcome: Some(Outcome::Failed { failure }), ..ended }
            }
            other => Ended { outcome: other, ..ended },
        }
    }
}

impl Shop {
    fn room(&self) -> Room {
        let mut cached = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        if cached.0.elapsed() >= ROOM_FRESH {
            match read_room(Path::new("/"), &self.scratch) {
                Ok(room) => *cached = (Instant::now(), room),
                // The last reading stays in force: a worker must not lose its room to one failed read.
                Err(error) => {
                    tracing::warn!(%error, "cannot read this machine's limits");
                    cached.0 = Instant::now();
                }
            }
        }
        cached.1.clone()
    }

    /// What this worker can run with nothing else running.
    fn ability(&self) -> Ability {
        let room = self.room();
        let software = self.software.standing();
        Ability {
            cpu_percent: room.cpu_percent,
            memory_mb: room.memory_mb,
            disk_mb: room.disk_mb,
            encoders: self.encoders().iter().map(|encoder| encoder.as_str().to_owned()).collect(),
            lost: software.lost,
            noop: self.settings.allow_noop,
            cgroups: self.groups.is_ok(),
            features: software.tools.features.clone(),
            stores: self.stores.served(),
            devices: self.devices.states(),
            gstreamer: self.gstreamer.as_ref().map(|gstreamer| gstreamer.installation.clone()),
            sandbox: self.quarters.cage.layers().iter().map(|layer| layer.as_str().to_owned()).collect(),
        }
    }

    /// Every encoder that works now, in the schema's order.
    fn encoders(&self) -> Vec<Encoder> {
        let mut encoders = [self.software.tools().encoders.clone(), self.devices.encoders()].concat();
        encoders.sort_unstable();
        encoders
    }

    fn slots(&self, room: &Room) -> u32 {
        match self.settings.slots {
            Some(slots) => slots.max(1),
            None => capacity::slots(room, self.settings.workload, self.settings.oversubscription),
        }
    }

    /// The encoder for a video, where it is encoded: the one asked for, else the worker's first for the codec.
    ///
    /// # Errors
    /// The name of what was asked for, and whether a device would make it.
    fn encoder(&self, video: &VideoEncode) -> Result<Option<Encoder>, (&'static str, bool)> {
        if video.treatment != Treatment::Encode {
            return Ok(None);
        }
        let there = self.encoders();
        let found = plan::choose_encoder(video, |encoder| there.contains(&encoder));
        let wish = || video.encoder.map_or(video.codec.as_str(), |encoder| encoder.as_str());
        let needs_device = video.candidates().iter().all(|encoder| encoder.is_hardware());
        found.map(Some).ok_or_else(|| (wish(), needs_device))
    }

    /// Threads that a tool may start for this job.
    fn threads(&self, spec: &JobSpec) -> u32 {
        let percent = self.room().cpu_percent;
        spec.resource_limits.max_cpu_percent.unwrap_or(percent).min(percent).div_ceil(100).clamp(1, 64)
    }

    fn group_limits(&self, spec: &JobSpec) -> GroupLimits {
        let limits = &spec.resource_limits;
        GroupLimits {
            cpu_percent: limits.max_cpu_percent,
            // A job that does not say is run with what there is.
            memory_bytes: limits.memory_mb().min(self.room().memory_mb).max(1) * 1024 * 1024,
            pids: self.settings.bounds.max_processes,
        }
    }
}

/// Makes the worker's own part of the scratch and locks it, waiting for an earlier life that is just ending.
async fn open_scratch(parent: &Path, worker: &WorkerId) -> Result<(PathBuf, std::fs::File), OpenError> {
    let fail = |source| OpenError::Scratch { path: parent.join(worker.as_str()), source };
    std::fs::create_dir_all(parent.join(worker.as_str())).map_err(fail)?;
    // The kernel names working directories by their real paths.
    let scratch = std::fs::canonicalize(parent.join(worker.as_str())).map_err(fail)?;
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(scratch.join("lock"))
        .map_err(fail)?;
    let until = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok((scratch, file)),
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(OpenError::ScratchInUse { path: scratch, worker: worker.clone() });
            }
            Err(std::fs::TryLockError::Error(source)) => return Err(fail(source)),
        }
    }
}

/// Kills what still runs inside the scratch and deletes what lies there. Only the holder of the lock may.
async fn sweep_scratch(scratch: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(scratch)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            tracing::info!(path = %entry.path().display(), "deleting scratch that an earlier life left");
            crate::tool::kill_inside(&entry.path()).await;
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
