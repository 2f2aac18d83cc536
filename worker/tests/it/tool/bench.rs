//! A workshop in a directory of its own, and the ways to give it attempts.

use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ffpool_schema::failure::Failure;
use ffpool_schema::id::{JobId, WorkerId};
use ffpool_schema::job::JobSpec;
use ffpool_schema::message::{CommitReply, Grant, LogLine, Manifest, Outcome, Progress};
use ffpool_schema::scenario;
use ffpool_worker::workshop::{Consent, Ended, Freeze, Orders, Reports, Stop, Workshop, WorkshopSettings};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;

/// How long anything is waited for.
const BOUND: Duration = Duration::from_secs(60);

/// Polls until `check` says yes.
pub async fn until(what: &str, mut check: impl FnMut() -> Result<(), String>) {
    let end = Instant::now() + BOUND;
    loop {
        match check() {
            Ok(()) => return,
            Err(state) => assert!(Instant::now() < end, "waited {BOUND:?} for {what}; last seen: {state}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs FFmpeg to make a test file.
pub fn ffmpeg(arguments: &[&str]) {
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-hide_banner", "-loglevel", "error", "-y"])
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("these tests need the Debian package ffmpeg: {error}"));
    assert!(output.status.success(), "ffmpeg {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The ledger, as far as an attempt asks it.
pub enum Ledger {
    Grants,
    Refuses,
    /// Grants, when the energy counter in this file has gone on to so many microjoules.
    Counts {
        counter: PathBuf,
        uj: u64,
    },
}

impl Consent for Ledger {
    fn ask(&self) -> Pin<Box<dyn Future<Output = CommitReply> + Send + '_>> {
        Box::pin(std::future::ready(match self {
            Ledger::Grants => CommitReply::Granted,
            Ledger::Refuses => CommitReply::Refused { reason: "a test".to_owned() },
            Ledger::Counts { counter, uj } => {
                std::fs::write(counter, uj.to_string()).unwrap();
                CommitReply::Granted
            }
        }))
    }
}

/// An attempt that is being carried out.
pub struct Running {
    pub ended: JoinHandle<Ended>,
    pub progress: watch::Receiver<Option<Progress>>,
    pub log: mpsc::Receiver<LogLine>,
    pub stop: watch::Sender<Option<Stop>>,
    pub finish: watch::Sender<bool>,
    pub freeze: watch::Sender<Freeze>,
}

pub struct Bench {
    pub dir: tempfile::TempDir,
    pub settings: WorkshopSettings,
    pub workshop: Workshop,
}

impl Bench {
    pub async fn open() -> Bench {
        Bench::with(|_, _| {}).await
    }

    /// A workshop whose settings `adjust` changes; the directory is for files it needs.
    pub async fn with(adjust: impl FnOnce(&mut WorkshopSettings, &Path)) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        // The tools' user must be able to enter.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let media = dir.path().join("media");
        std::fs::create_dir(&media).unwrap();
        let worker = WorkerId::try_from(format!("test-{}", Uuid::new_v4().simple())).unwrap();
        let mut settings = WorkshopSettings::new(worker, vec![media], dir.path().join("scratch"));
        settings.stop_grace = Duration::from_millis(500);
        adjust(&mut settings, dir.path());
        let workshop =
            Workshop::open(settings.clone()).await.unwrap_or_else(|error| panic!("open the workshop: {error}"));
        Bench { dir, settings, workshop }
    }

    pub fn media(&self, name: &str) -> PathBuf {
        self.dir.path().join("media").join(name)
    }

    /// A short clip with picture and sound among the media.
    pub fn clip(&self, name: &str, options: &[&str]) -> String {
        let path = self.media(name).display().to_string();
        let mut arguments = vec![
            "-f",
            "lavfi",
            "-i",
            "testsrc2=size=320x180:rate=25:duration=2",
            "-f",
            "lavfi",
            "-i",
            "sine=frequency=300:duration=2",
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-pix_fmt",
            "yuv420p",
            "-c:a",
            "aac",
        ];
        arguments.extend(options);
        let target = format!("file:{path}");
        arguments.push(&target);
        ffmpeg(&arguments);
        path
    }

    pub fn spec(&self, scenario: &str) -> JobSpec {
        let mut spec = JobSpec::new(scenario);
        spec.parameters.preset = Some("ultrafast".to_owned());
        spec
    }

    pub fn grant(&self, spec: &JobSpec) -> Grant {
        Grant {
            alone: false,
            job: JobId(Uuid::new_v4()),
            attempt: 1,
            lease_ms: 5000,
            spec: spec.clone(),
            encode: scenario::resolve(spec).unwrap_or_else(|faults| panic!("the test's job is not valid: {faults:?}")),
            traceparent: None,
            splits: None,
            sound_apart: false,
            minds: Vec::new(),
        }
    }

    pub fn start(&self, grant: &Grant, ledger: Ledger) -> Running {
        self.start_among(grant, Arc::new(ledger))
    }

    /// The same beside other attempts, which it reaches by `consent`.
    pub fn start_among(&self, grant: &Grant, consent: Arc<dyn Consent>) -> Running {
        let (progress_in, progress) = watch::channel(None);
        let (log_in, log) = mpsc::channel(4096);
        let (stop, stop_out) = watch::channel(None);
        let (finish, finish_out) = watch::channel(false);
        let (freeze, freeze_out) = watch::channel(Freeze::default());
        let orders = Orders { stop: stop_out, finish: finish_out, freeze: freeze_out };
        let (workshop, grant) = (self.workshop.clone(), grant.clone());
        let reports = Reports { progress: progress_in, log: log_in };
        let ended = tokio::spawn(async move { workshop.run(&grant, reports, orders, consent).await });
        Running { ended, progress, log, stop, finish, freeze }
    }

    pub async fn run(&self, grant: &Grant) -> Ended {
        self.start(grant, Ledger::Grants).ended.await.unwrap()
    }

    pub async fn run_spec(&self, spec: &JobSpec) -> Ended {
        self.run(&self.grant(spec)).await
    }

    /// Every process that works inside the scratch.
    pub fn processes(&self) -> Vec<String> {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        entries
            .filter(|entry| {
                std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&self.settings.scratch))
            })
            .map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default().replace('\0', " "))
            .collect()
    }

    /// Processor time of every process that works inside the scratch, in ticks.
    pub fn cpu_ticks(&self) -> u64 {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let inside = entries.filter(|entry| {
            std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(&self.settings.scratch))
        });
        let stats = inside.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
        stats
            .map(|stat| {
                let fields = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
                fields.map(|ticks| ticks.parse::<u64>().unwrap()).sum::<u64>()
            })
            .sum()
    }

    /// Directories of this worker's attempts: scratch and cgroups.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let worker = self.settings.worker.as_str();
        let mut found = directories(&self.settings.scratch.join(worker));
        let mut queue = vec![PathBuf::from("/sys/fs/cgroup")];
        while let Some(directory) = queue.pop() {
            for child in directories(&directory) {
                if directory.ends_with(Path::new("ffpool").join(worker)) {
                    found.push(child);
                } else {
                    queue.push(child);
                }
            }
        }
        found
    }

    pub fn assert_clean(&self) {
        assert_eq!(self.processes(), Vec::<String>::new(), "processes are left");
        assert_eq!(self.leftovers(), Vec::<PathBuf>::new(), "directories are left");
    }

    pub fn media_names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join("media")).unwrap().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn directories(parent: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

/// A program among the test's files that stands in for FFmpeg: `encode` runs instead of an encode, anything else is passed
/// on to the real one.
pub fn stand_in(dir: &Path, encode: &str) -> PathBuf {
    let real =
        ffpool_worker::encoders::find_program(Path::new("ffmpeg")).expect("these tests need the Debian package ffmpeg");
    let path = dir.join("stand-in");
    let text =
        format!("#!/bin/sh\ncase \"$*\" in *-progress*) ;; *) exec {} \"$@\" ;; esac\n{encode}\n", real.display());
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

pub fn manifest(ended: &Ended) -> &Manifest {
    match &ended.outcome {
        Some(Outcome::Finished { manifest: Some(manifest) }) => manifest,
        other => panic!("not finished: {other:?}"),
    }
}

pub fn failure(ended: &Ended) -> &Failure {
    match &ended.outcome {
        Some(Outcome::Failed { failure }) => failure,
        other => panic!("not failed: {other:?}"),
    }
}

/// The only fault of a rejected attempt, as `path code`.
pub fn fault(ended: &Ended) -> String {
    match &ended.outcome {
        Some(Outcome::Rejected { faults }) if faults.len() == 1 => format!("{} {}", faults[0].path, faults[0].code),
        other => panic!("not rejected for one reason: {other:?}"),
    }
}
