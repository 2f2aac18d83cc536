//! A worker's workshop without a pool around it: jobs are carried out as a worker does it, and nobody is asked for consent.
//!
//! Invariant: it lives in a directory of its own and leaves nothing behind.

use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use ffpool_schema::encode::Encode;
use ffpool_schema::id::JobId;
use ffpool_schema::job::{JobSpec, ResourceLimits};
use ffpool_schema::message::{Ability, CommitReply, Grant, Manifest, Outcome};
use ffpool_worker::workshop::{Consent, Freeze, Orders, Reports, Workshop, WorkshopSettings};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

/// Lines of the tools' logs that may wait to be thrown away.
const LOG_LINES: usize = 1024;
/// How long one job may take.
const TIMEOUT_SECS: u64 = 3600;

pub(crate) struct Workbench {
    workshop: Workshop,
    dir: tempfile::TempDir,
    /// The tool's first version line.
    pub(crate) tool: String,
}

impl Workbench {
    /// `name` is for the worker's name.
    pub(crate) async fn open(name: &str, ffmpeg: &Path) -> anyhow::Result<Workbench> {
        let dir = tempfile::tempdir()?;
        // The tools' user must be able to enter.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
        let media = dir.path().join("media");
        std::fs::create_dir(&media)?;
        let worker = format!("{name}-{}", Uuid::new_v4().simple()).parse()?;
        let mut settings = WorkshopSettings::new(worker, vec![media], dir.path().join("scratch"));
        settings.ffmpeg = ffmpeg.to_owned();
        settings.gstreamer = Some("gst-launch-1.0".into());
        let workshop = Workshop::open(settings).await?;
        let tool = ffpool_worker::encoders::version(ffmpeg).await?;
        Ok(Workbench { workshop, dir, tool })
    }

    /// The one media root.
    pub(crate) fn media(&self) -> PathBuf {
        self.dir.path().join("media")
    }

    pub(crate) fn ability(&self) -> Ability {
        self.workshop.ability()
    }

    /// A job with the limits of this machine: its own are about where it runs, not about the output.
    pub(crate) fn unlimited(&self, spec: &JobSpec) -> JobSpec {
        let mut spec = spec.clone();
        let ability = self.workshop.ability();
        spec.resource_limits = ResourceLimits {
            max_memory_mb: Some(ability.memory_mb),
            // A small machine takes long for the largest of them.
            timeout_sec: Some(TIMEOUT_SECS),
            ..ResourceLimits::default()
        };
        spec
    }

    /// What came of a job, or how else it ended.
    pub(crate) async fn carry_out(&self, spec: &JobSpec, encode: Encode) -> Result<Manifest, String> {
        let grant = Grant {
            job: JobId(Uuid::new_v4()),
            attempt: 1,
            lease_ms: 5000,
            spec: self.unlimited(spec),
            encode: Some(encode),
            alone: false,
            traceparent: None,
            splits: None,
            sound_apart: false,
            minds: Vec::new(),
        };
        let (progress, _progress) = watch::channel(None);
        let (log, mut lines) = mpsc::channel(LOG_LINES);
        let (_stop, stop) = watch::channel(None);
        let (_finish, finish) = watch::channel(false);
        let (_freeze, freeze) = watch::channel(Freeze::default());
        let drain = tokio::spawn(async move { while lines.recv().await.is_some() {} });
        let orders = Orders { stop, finish, freeze };
        let ended = self.workshop.run(&grant, Reports { progress, log }, orders, Arc::new(Granted)).await;
        drain.abort();
        match ended.outcome {
            Some(Outcome::Finished { manifest: Some(manifest) }) => Ok(*manifest),
            other => Err(format!("{other:?}")),
        }
    }
}

/// Everybody may publish: there is no ledger.
struct Granted;

impl Consent for Granted {
    fn ask(&self) -> Pin<Box<dyn Future<Output = CommitReply> + Send + '_>> {
        Box::pin(std::future::ready(CommitReply::Granted))
    }
}
