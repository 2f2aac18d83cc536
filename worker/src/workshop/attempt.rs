//! One attempt as a pipe of named steps: ends, room, fetch, probe, plan, encode, verify, thumbnail, stage, consent, publish.
//!
//! Invariant: nothing is published without the ledger's consent, which is asked when all the proof is in hand; after it is
//! given, the attempt publishes and is not stopped any more. Every way out goes through [`Attempt::close`].

mod chunks;
mod device;
mod encode;
mod ends;
mod gstreamer;
mod input;
mod live;
mod package;
mod pictures;
mod quality;
mod report;
mod thumbnail;
mod tools;

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use ffpool_schema::encode::Encode;
use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::job::Engine;
use ffpool_schema::live::hide;
use ffpool_schema::message::{
    Artifact, CommitReply, EngineChoice, Grant, Manifest, Outcome, Phase, Probe, SourceIdentity, Usage,
};
use ffpool_schema::parse::Fault;
use ffpool_schema::plan::ladder::{self, Outputs};
use ffpool_schema::thumbnail::Thumbnail;
use jiff::Timestamp;
use tokio::time::Instant;

use encode::{Made, Proven, Recipe, refused_for};
use ends::{Ends, Input, Ready, discard};
use report::Reporter;

use super::{Consent, Ended, Orders, Reports, Shop, Stop};
use crate::cage::Layer;
use crate::cage::egress::Reach;
use crate::machine::energy::{Meter, Reading};
use crate::machine::group::Group;
use crate::publish::PublishError;
use crate::roots;
use crate::spans::Phases;
use crate::tool::ToolUser;

/// Percent shown between the encode's end and the publication.
const NEARLY: f64 = 99.9;

/// An attempt that ends before it has published.
enum End {
    /// With something to report.
    Report(Box<Outcome>),
    /// Abandoned, or lost to a later attempt.
    Silent,
}

impl End {
    fn failed(failure: Failure) -> End {
        End::Report(Box::new(Outcome::Failed { failure }))
    }

    fn failure(cause: Cause, message: impl Into<String>) -> End {
        End::failed(Failure::new(cause, message))
    }

    fn rejected(path: &str, code: &str, message: &str) -> End {
        End::faulty(Fault::new(path, code, message))
    }

    fn faulty(fault: Fault) -> End {
        End::Report(Box::new(Outcome::Rejected { faults: vec![fault] }))
    }

    fn is_cancelled(&self) -> bool {
        matches!(self, End::Report(outcome) if matches!(**outcome, Outcome::Cancelled))
    }

    /// Whether an output did not stand its proof.
    fn is_unproven(&self) -> bool {
        matches!(self, End::Report(outcome)
            if matches!(&**outcome, Outcome::Failed { failure } if failure.cause == Cause::VerifyFailed))
    }

    /// A failure of one output, said to be its.
    fn said_of(self, output: Option<&str>) -> End {
        let (End::Report(outcome), Some(name)) = (&self, output) else { return self };
        let Outcome::Failed { failure } = &**outcome else { return self };
        let message = format!("{name}: {}", failure.message);
        End::failed(Failure { message, ..failure.clone() })
    }
}

impl From<Stop> for End {
    fn from(stop: Stop) -> End {
        match stop {
            Stop::Cancel => End::Report(Box::new(Outcome::Cancelled)),
            Stop::Abandon => End::Silent,
            Stop::Release(reason) => End::Report(Box::new(Outcome::Released { reason })),
        }
    }
}

impl From<roots::PathProblem> for End {
    fn from(problem: roots::PathProblem) -> End {
        End::Report(Box::new(problem.into()))
    }
}

/// Carries out one attempt.
pub(super) async fn run(
    shop: &Arc<Shop>,
    grant: &Grant,
    reports: Reports,
    orders: Orders,
    consent: Arc<dyn Consent>,
) -> Ended {
    let started = Instant::now();
    if grant.spec.engine == Engine::Noop {
        let outcome = noop(shop, &orders, consent.as_ref()).await;
        let usage = Usage { wall_ms: millis(started), ..Usage::default() };
        return Ended { outcome, usage, thumbnail: None };
    }
    let mut attempt = Attempt {
        shop,
        grant,
        reporter: Reporter {
            grant,
            shop,
            reports,
            seq: AtomicU64::new(0),
            lines: AtomicU64::new(0),
            phases: Phases::of(grant),
            secrets: live::secrets(grant),
        },
        orders,
        started,
        frozen_for: Duration::ZERO,
        metered: shop.meter.as_ref().and_then(Meter::read),
        scratch: None,
        group: None,
        usage: Usage::default(),
        reads: Vec::new(),
        reach: None,
        uses_device: false,
        engine: None,
        thumbnail: None,
    };
    let outcome = match attempt.carry_out(consent.as_ref()).await {
        Ok(manifest) => Some(Outcome::Finished { manifest: manifest.map(Box::new) }),
        Err(End::Report(outcome)) => Some(*outcome),
        Err(End::Silent) => None,
    };
    let is_finished = matches!(outcome, Some(Outcome::Finished { .. }));
    let thumbnail = attempt.thumbnail.take().filter(|_| is_finished);
    let usage = attempt.close().await;
    Ended { outcome, usage, thumbnail }
}

/// The engine that runs nothing: consent and a report, for measuring.
async fn noop(shop: &Shop, orders: &Orders, consent: &dyn Consent) -> Option<Outcome> {
    if !shop.settings.allow_noop {
        let fault = Fault::new("engine", "unsupported", "this worker does not run `noop` jobs");
        return Some(Outcome::Rejected { faults: vec![fault] });
    }
    match ask(orders, consent).await {
        Ok(()) => Some(Outcome::Finished { manifest: None }),
        Err(End::Report(outcome)) => Some(*outcome),
        Err(End::Silent) => None,
    }
}

/// Asks for the right to publish, unless a stop comes first. A frozen attempt asks when it is thawed.
async fn ask(orders: &Orders, consent: &dyn Consent) -> Result<(), End> {
    let mut freeze = orders.freeze.clone();
    let mut stop = orders.stop.clone();
    let ordered = async {
        match stop.wait_for(Option::is_some).await.map(|order| order.clone()) {
            Ok(Some(order)) => order,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    };
    let asked = async {
        // Without a sender nobody freezes any more.
        let _ = freeze.wait_for(|freeze| !freeze.holds()).await;
        consent.ask().await
    };
    tokio::select! {
        biased;
        order = ordered => Err(order.into()),
        reply = asked => match reply {
            CommitReply::Granted => Ok(()),
            CommitReply::Refused { reason } => {
                tracing::info!(reason, "the ledger refuses the commit");
                Err(End::Silent)
            }
        },
    }
}

struct Attempt<'a> {
    shop: &'a Arc<Shop>,
    grant: &'a Grant,
    reporter: Reporter<'a>,
    orders: Orders,
    started: Instant,
    /// How long it has stood still; its time does not run meanwhile.
    frozen_for: Duration,
    /// What the machine had taken when it began.
    metered: Option<Reading>,
    scratch: Option<Scratch>,
    group: Option<Group>,
    /// What is known apart from the group.
    usage: Usage,
    /// Files that its tools read outside its scratch.
    reads: Vec<PathBuf>,
    /// Where on the network its tool may go now.
    reach: Option<Reach>,
    /// Whether it encodes on a device.
    uses_device: bool,
    /// What encodes, once it is chosen.
    engine: Option<EngineChoice>,
    /// A small picture of what it made, once it is proven.
    thumbnail: Option<Thumbnail>,
}

impl<'a> Attempt<'a> {
    /// Answers with the manifest of what is published; `None` for a chunk that is not needed as it was asked for.
    async fn carry_out(&mut self, consent: &dyn Consent) -> Result<Option<Manifest>, End> {
        let encode = self.encode()?;
        let engine = self.choose_engine(encode)?;
        let is_gstreamer = engine.engine == Engine::Gstreamer;
        if is_gstreamer {
            self.reporter.log(&format!("[ffpool] gstreamer encodes: {}", engine.reason));
        }
        self.engine = Some(engine);
        self.reporter.phase(Phase::Prepare, None);
        if let Some(live) = &encode.live {
            return self.carry_out_live(encode, live, consent).await.map(Some);
        }
        let Ends { input, outputs } = self.ends(encode)?;
        let piece = self.grant.spec.piece.as_deref();
        // What lies there is the whole's; a chunk is found by its own name.
        if piece.is_none()
            && let Some(manifest) = self.published_before(&outputs).await
        {
            ask(&self.orders, consent).await?;
            return Ok(Some(manifest));
        }
        let user = self.user(input.as_ref().and_then(Input::file))?;
        self.make_room(user)?;
        let source = match input {
            Some(input) => {
                let (path, identity) = self.bring(input).await?;
                self.usage.input_bytes = Some(identity.size_bytes);
                let probed = self.probe_source(&path, user).await?;
                Some((path, probed, identity))
            }
            None => None,
        };
        match (piece, &source) {
            (Some(piece), Some(source)) => {
                return self.carry_out_piece(piece, encode, &outputs, source, user, consent).await;
            }
            (Some(_), None) => {
                return Err(End::failure(Cause::Platform, "the ledger granted a chunk of a job without a source"));
            }
            (None, _) => {}
        }
        let parts = if is_gstreamer { None } else { self.parts(encode, &outputs, source.as_ref(), user).await? };
        let read = source.as_ref().map(|(path, probed, _)| (path.as_path(), probed));
        let Outputs { list, reasons } = ladder::outputs(encode, read.map(|(_, probed)| probed))
            .map_err(|refusal| refused_for(&self.grant.spec, 0, refusal))?;
        for reason in reasons {
            self.reporter.log(&format!("[ffpool] {reason}"));
        }
        let made = match (&parts, read) {
            (Some(parts), Some(read)) => self.stitch(&list, read, user, parts).await,
            (None, _) | (_, None) if is_gstreamer => self.make_by_gstreamer(&list, read, user).await,
            (None, _) | (_, None) => self.make(&list, read, user, Recipe::Whole).await,
        };
        let made = match &source {
            Some((path, _, identity)) => unchanged(made, path, identity)?,
            None => made?,
        };
        let containers = list.iter().map(|output| output.encode.container);
        self.make_thumbnail(made.outputs.iter().zip(containers), user).await;
        let ready = self.stage_all(&made.outputs, outputs).await?;
        self.reporter.phase(Phase::Commit, Some(NEARLY));
        if let Err(end) = ask(&self.orders, consent).await {
            discard(ready).await;
            return Err(end);
        }
        let source = source.map(|(_, probed, identity)| (identity, probed.probe));
        let manifest = self.manifest(&ready, made, source);
        let manifest = self.make_visible(ready, manifest).await?;
        if let Some(parts) = parts {
            self.forget_parts(parts).await;
        }
        Ok(Some(manifest))
    }

    fn encode(&self) -> Result<&'a Encode, End> {
        let missing = || End::failure(Cause::Platform, "the ledger granted the attempt without its encode");
        self.grant.encode.as_ref().ok_or_else(missing)
    }

    /// As whom the tools run: the workshop's user, or whoever may read the input.
    fn user(&self, input: Option<&Path>) -> Result<ToolUser, End> {
        let (ToolUser::Switch { uid, gid }, Some(input)) = (self.shop.quarters.user, input) else {
            return Ok(self.shop.quarters.user);
        };
        let owner = std::fs::metadata(input).ok().map(|metadata| (metadata.uid(), metadata.gid()));
        // Root without capabilities is an ordinary reader: the last resort.
        let mut candidates = [Some((uid, gid)), owner, Some((0, 0))].into_iter().flatten();
        let Some((chosen, group)) = candidates.find(|(uid, gid)| roots::is_readable_by(input, *uid, *gid)) else {
            return Err(End::failure(
                Cause::Policy,
                format!(
                    "{} is readable neither by the tools' user nor by its owner: give it read rights",
                    input.display()
                ),
            ));
        };
        if chosen != uid {
            tracing::warn!(
                job = %self.grant.job, attempt = self.grant.attempt, uid = chosen,
                "the tools' user cannot read the input: running them as another user"
            );
        }
        Ok(ToolUser::Switch { uid: chosen, gid: group })
    }

    fn make_room(&mut self, user: ToolUser) -> Result<(), End> {
        let name = format!("{}.{}", self.grant.job, self.grant.attempt);
        let scratch = Scratch::create(self.shop.scratch.join(&name), user)
            .map_err(|error| End::failure(roots::io_cause(&error), format!("scratch cannot be made: {error}")))?;
        self.scratch = Some(scratch);
        if let Ok(groups) = &self.shop.groups {
            let group = groups.create(&name, &self.shop.group_limits(&self.grant.spec)).map_err(|error| {
                End::failure(Cause::Platform, format!("the attempt's cgroup cannot be made: {error}"))
            })?;
            self.group = Some(group);
        }
        Ok(())
    }

    /// The proof of what was made.
    fn manifest(&self, ready: &[Ready], made: Made, source: Option<(SourceIdentity, Probe)>) -> Manifest {
        let artifacts = ready.iter().zip(made.outputs).map(|(ready, proven)| {
            let (url, size_bytes, sha256) = ready.describe();
            let (files, probe) = (ready.files().to_vec(), proven.probed.probe);
            let Proven { name, proof, quality, renditions, pictures, .. } = proven;
            let proof = Some(proof);
            Artifact { name, url, size_bytes, sha256, probe, proof, quality, files, renditions, pictures }
        });
        let artifacts = artifacts.collect();
        let bare = self.bare_manifest(&made.arguments, &made.steps, source);
        let (tool, checker) = match made.tool {
            Some(tool) => (tool, Some(bare.tool)),
            None => (bare.tool, None),
        };
        let Made { chunks, device, fallback, .. } = made;
        Manifest { artifacts, chunks, device, fallback, tool, checker, ..bare }
    }

    /// The same of what is no file.
    fn bare_manifest(
        &self,
        arguments: &[OsString],
        steps: &[Vec<OsString>],
        source: Option<(SourceIdentity, Probe)>,
    ) -> Manifest {
        let (source, source_probe) = source.unzip();
        let words = |list: &[OsString]| words(list).iter().map(|word| hide(word, &self.reporter.secrets)).collect();
        let tools = self.shop.software.tools();
        Manifest {
            job: self.grant.job,
            attempt: self.grant.attempt,
            worker: self.shop.settings.worker.clone(),
            at: Timestamp::now(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            tool: tools.version.clone(),
            arguments: words(arguments),
            steps: steps.iter().map(|step| words(step)).collect(),
            prober: Some(tools.prober.clone()),
            checker: None,
            engine: self.engine.clone(),
            sandbox: self.layers().map(|layer| layer.as_str().to_owned()).collect(),
            device: None,
            fallback: None,
            source_probe,
            artifacts: Vec::new(),
            source,
            chunks: Vec::new(),
            usage: self.used(),
            live: None,
        }
    }

    /// The layers around its tools. A live one on a device may go further than others: see [`crate::cage::Cage::bars`].
    fn layers(&self) -> impl Iterator<Item = Layer> {
        let is_asked = !self.uses_device;
        self.shop.quarters.cage.around(self.is_live()).filter(move |layer| is_asked || *layer != Layer::Egress)
    }

    /// What the attempt has used so far.
    fn used(&self) -> Usage {
        let mut usage = Usage { wall_ms: millis(self.started), ..self.usage.clone() };
        if let Some(group) = &self.group {
            let counted = group.usage();
            usage.cpu_ms = counted.cpu_us / 1000;
            usage.peak_memory_bytes = counted.peak_memory_bytes.or(usage.peak_memory_bytes);
        }
        let now = self.shop.meter.as_ref().and_then(Meter::read);
        usage.energy_joules = now
            .zip(self.metered)
            .and_then(|(now, before)| now.joules_since(&before, Duration::from_millis(usage.cpu_ms).as_secs_f64()));
        usage
    }

    /// Leaves nothing behind.
    async fn close(mut self) -> Usage {
        let usage = self.used();
        if let Some(group) = self.group.take()
            && let Err(error) = group.end().await
        {
            tracing::error!(job = %self.grant.job, attempt = self.grant.attempt, %error, "the attempt's cgroup stays");
        }
        drop(self.scratch.take());
        usage
    }
}

fn words(arguments: &[OsString]) -> Vec<String> {
    arguments.iter().map(|argument| argument.to_string_lossy().into_owned()).collect()
}

/// What came of an encode, unless a file that was read in place was changed meanwhile: then nothing that was read of it
/// can be relied on.
fn unchanged(made: Result<Made, End>, path: &Path, before: &SourceIdentity) -> Result<Made, End> {
    // What was fetched has a name in the scratch.
    let is_in_place = path.is_absolute();
    let is_stopped = match &made {
        Ok(_) => false,
        Err(End::Silent) => true,
        Err(End::Report(outcome)) => !matches!(**outcome, Outcome::Failed { .. }),
    };
    let now = identify(path);
    if is_stopped || !is_in_place || (now.size_bytes, now.modified) == (before.size_bytes, before.modified) {
        return made;
    }
    let (before, now) = (before.size_bytes, now.size_bytes);
    Err(End::failure(
        Cause::InputChanged,
        format!("the input was changed while it was read: from {before} to {now} bytes"),
    ))
}

fn unpublished(error: &PublishError) -> End {
    let cause = match error {
        PublishError::Io { source, .. } => roots::io_cause(source),
        PublishError::NoPlainFile { .. } => Cause::VerifyFailed,
        PublishError::Stopped => Cause::Platform,
    };
    End::failure(cause, error.to_string())
}

/// Runs what blocks on a thread that may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, End> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| End::failure(Cause::Platform, format!("a thread of the worker ended: {error}")))
}

fn identify(input: &Path) -> SourceIdentity {
    let metadata = std::fs::metadata(input).ok();
    SourceIdentity {
        url: file_url(input),
        size_bytes: metadata.as_ref().map_or(0, std::fs::Metadata::len),
        modified: metadata.and_then(|metadata| Timestamp::try_from(metadata.modified().ok()?).ok()),
        sha256: None,
        etag: None,
    }
}

/// A path as a `file://` address.
fn file_url(path: &Path) -> String {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt;
    let mut url = String::from("file://");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => url.push(char::from(*byte)),
            byte => {
                let _ = write!(url, "%{byte:02X}");
            }
        }
    }
    url
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The attempt's own directory. Dropping it deletes it with all that is in it.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn create(path: PathBuf, user: ToolUser) -> std::io::Result<Scratch> {
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let scratch = Scratch { path };
        make_directory(&scratch.path, user)?;
        Ok(scratch)
    }
}

/// Makes a directory for a tool to write into.
fn make_directory(path: &Path, user: ToolUser) -> std::io::Result<()> {
    std::fs::create_dir(path)?;
    user.give(path)
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot delete scratch");
        }
    }
}
