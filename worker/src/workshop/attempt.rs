//! One attempt as a pipe of named steps: ends, room, fetch, probe, plan, encode, verify, stage, consent, publish.
//!
//! Invariant: nothing is published without the ledger's consent, which is asked when all the proof is in hand; after it is
//! given, the attempt publishes and is not stopped any more. Every way out goes through [`Attempt::close`].

mod ends;

use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ffpool_schema::encode::Encode;
use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::job::{Engine, Queue};
use ffpool_schema::message::{
    Artifact, CommitReply, Grant, LogLine, Manifest, Outcome, Phase, Probe, Progress, Proof, SourceIdentity, Usage,
};
use ffpool_schema::parse::Fault;
use ffpool_schema::plan::{self, Expected, Measured, Plan, Purpose, Refusal, Request};
use ffpool_schema::probe::{self, Probed};
use jiff::Timestamp;
use tokio::time::Instant;

use ends::{Ends, Input, Ready};

use super::{Consent, Ended, Orders, Reports, Shop, Stop};
use crate::classify::{self, Exit};
use crate::machine::group::Group;
use crate::packets::Packets;
use crate::progress::{Block, Blocks, Meter};
use crate::publish::PublishError;
use crate::roots;
use crate::tool::{self, Answer, EndedBy, Finished, Invocation, Listener, ToolUser, Watch};
use crate::verify;

/// Percent shown between the encode's end and the publication.
const NEARLY: f64 = 99.9;
/// How much less than its header says a whole source may hold, in seconds: a frame at the slowest usual rate.
const SOURCE_TOLERANCE_SECS: f64 = 0.2;

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
        return Ended { outcome, usage };
    }
    let mut attempt = Attempt {
        shop,
        grant,
        reporter: Reporter { grant, shop, reports, seq: AtomicU64::new(0), lines: AtomicU64::new(0) },
        orders,
        started,
        frozen_for: Duration::ZERO,
        scratch: None,
        group: None,
        usage: Usage::default(),
    };
    let outcome = match attempt.carry_out(consent.as_ref()).await {
        Ok(manifest) => Some(Outcome::Finished { manifest: Some(Box::new(manifest)) }),
        Err(End::Report(outcome)) => Some(*outcome),
        Err(End::Silent) => None,
    };
    let usage = attempt.close().await;
    Ended { outcome, usage }
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
    scratch: Option<Scratch>,
    group: Option<Group>,
    /// What is known apart from the group.
    usage: Usage,
}

/// What an encode made, proven.
struct Made {
    file: PathBuf,
    arguments: Vec<OsString>,
    /// The runs before it.
    steps: Vec<Vec<OsString>>,
    probed: Probed,
    proof: Proof,
}

/// A run of FFmpeg that went well.
struct Ran {
    last: Option<Block>,
    log: Vec<String>,
}

/// Which part of the whole work a run is, as fractions of it.
#[derive(Debug, Clone, Copy)]
struct Part {
    before: f64,
    share: f64,
}

impl Part {
    const WHOLE: Part = Part { before: 0.0, share: 1.0 };

    /// Percent of the whole, from percent of the run.
    fn of_whole(self, percent: f64) -> f64 {
        self.before * 100.0 + percent * self.share
    }
}

impl<'a> Attempt<'a> {
    async fn carry_out(&mut self, consent: &dyn Consent) -> Result<Manifest, End> {
        let encode = self.encode()?;
        self.reporter.phase(Phase::Prepare, None);
        let Ends { input, output } = self.ends(encode)?;
        if let Some(manifest) = self.published_before(&output).await {
            ask(&self.orders, consent).await?;
            return Ok(manifest);
        }
        let user = self.user(input.as_ref().and_then(Input::file))?;
        self.make_room(user)?;
        let source = match input {
            Some(input) => {
                let (path, identity) = self.bring(input).await?;
                self.usage.input_bytes = Some(identity.size_bytes);
                let probed = self.probe(&path, user).await?;
                Some((path, probed, identity))
            }
            None => None,
        };
        let read = source.as_ref().map(|(path, probed, _)| (path.as_path(), probed));
        let made = self.encode_source(encode, read, user).await?;
        let ready = self.stage(&made.file, output).await?;
        self.reporter.phase(Phase::Commit, Some(NEARLY));
        if let Err(end) = ask(&self.orders, consent).await {
            ready.discard().await;
            return Err(end);
        }
        let source = source.map(|(_, probed, identity)| (identity, probed.probe));
        let manifest = self.manifest(&ready, made, source);
        self.make_visible(ready, manifest).await
    }

    fn encode(&self) -> Result<&'a Encode, End> {
        match self.grant.spec.engine {
            Engine::Auto | Engine::Ffmpeg | Engine::Noop => {}
            Engine::Gstreamer => {
                return Err(End::rejected("engine", "unsupported", "gstreamer is not available in this worker"));
            }
        }
        if !self.grant.spec.outputs.is_empty() {
            return Err(End::rejected(
                "outputs",
                "unsupported",
                "several outputs of one job are not available in this worker",
            ));
        }
        let missing = || End::failure(Cause::Platform, "the ledger granted the attempt without its encode");
        self.grant.encode.as_ref().ok_or_else(missing)
    }

    /// As whom the tools run: the workshop's user, or whoever may read the input.
    fn user(&self, input: Option<&Path>) -> Result<ToolUser, End> {
        let (ToolUser::Switch { uid, gid }, Some(input)) = (self.shop.user, input) else {
            return Ok(self.shop.user);
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

    /// What ffprobe finds in a source.
    async fn probe(&mut self, file: &Path, user: ToolUser) -> Result<Probed, End> {
        let mut answer = Answer::default();
        self.run_ffprobe(&probe::arguments(file), user, &mut answer).await?;
        read_probe(&answer)
    }

    async fn run_ffprobe(
        &mut self,
        arguments: &[OsString],
        user: ToolUser,
        listener: &mut impl Listener,
    ) -> Result<(), End> {
        self.stand_still().await;
        let invocation = self.invocation(&self.shop.ffprobe, arguments, user);
        let finished = tool::run(&self.shop.launcher, invocation, self.watch(None), listener).await;
        let finished = self.account(finished, "ffprobe")?;
        for line in &finished.log {
            self.reporter.log(line);
        }
        self.check(&finished, "ffprobe")
    }

    async fn encode_source(
        &mut self,
        encode: &Encode,
        source: Option<(&Path, &Probed)>,
        user: ToolUser,
    ) -> Result<Made, End> {
        let encoder = self.shop.encoder(&encode.video).map_err(|(wish, is_hardware)| {
            let cause = if is_hardware { Cause::Device } else { Cause::Platform };
            End::failure(cause, format!("this worker has no working encoder for {wish}"))
        })?;
        // By name: the working directory is the scratch, whose parents the tool's user need not be able to enter.
        let name = PathBuf::from(format!("encode.{}", encode.container));
        let request = Request {
            encode,
            encoder,
            source,
            output: &name,
            threads: self.shop.threads(&self.grant.spec),
            features: &self.shop.features,
            loudness: None,
        };
        let plan = self.carry_out_plan(request, user).await?;
        self.reporter.phase(Phase::Verify, Some(NEARLY));
        let file = self.scratch_path().join(&name);
        let verified = self.verify(&file, &name, &plan.expected, user, request.threads).await;
        let (probed, proof) = match verified {
            Err(end) => return Err(self.blame(end, source, user).await),
            Ok(verified) => verified,
        };
        let mut steps: Vec<Vec<OsString>> = plan.steps.into_iter().map(|step| step.arguments).collect();
        let arguments = steps.pop().unwrap_or_default();
        Ok(Made { file, arguments, steps, probed, proof })
    }

    /// Runs every step of the plan that a request makes.
    async fn carry_out_plan(&mut self, mut request: Request<'_>, user: ToolUser) -> Result<Plan, End> {
        let mut plan = plan::plan(&request).map_err(refused)?;
        let total: f64 = plan.steps.iter().map(|step| step.purpose.weight()).sum();
        let duration = plan.expected.duration_secs;
        let mut before = 0.0;
        for number in 0..plan.steps.len() {
            let step = plan.steps[number].clone();
            let part = Part { before: before / total, share: step.purpose.weight() / total };
            let ran = self.run_ffmpeg(&step.arguments, user, Phase::Encode, duration, part).await?;
            before += step.purpose.weight();
            if step.purpose == Purpose::Loudness {
                let found = Measured::parse(ran.log.iter().map(String::as_str)).ok_or_else(|| {
                    End::failure(Cause::ConfigBad, "the audio is silent: it cannot be brought to a loudness")
                })?;
                request.loudness = Some(found);
                plan = plan::plan(&request).map_err(refused)?;
            }
        }
        Ok(plan)
    }

    /// Whose fault it is that an output is too short: a source that holds less than its header says gives one without
    /// any error of the tool's.
    async fn blame(&mut self, end: End, source: Option<(&Path, &Probed)>, user: ToolUser) -> End {
        let is_unproven = matches!(&end, End::Report(outcome)
            if matches!(&**outcome, Outcome::Failed { failure } if failure.cause == Cause::VerifyFailed));
        let Some((path, probed)) = source.filter(|_| is_unproven) else { return end };
        let claimed = probed.video_end.or_else(|| probed.audio_ends.iter().flatten().copied().reduce(f64::max));
        let Some(claimed) = claimed else { return end };
        let mut packets = Packets::default();
        if let Err(other) = self.run_ffprobe(&plan::packet_arguments(path), user, &mut packets).await {
            return other;
        }
        let (streams, _) = packets.finish(&probed.streams);
        let kind = if probed.video_end.is_some() { "video" } else { "audio" };
        let there = streams.iter().filter(|stream| stream.kind == kind).filter_map(|stream| stream.end_secs);
        match there.reduce(f64::max) {
            Some(there) if claimed - there > SOURCE_TOLERANCE_SECS => {
                let message = format!("the input is cut off: it says {claimed:.3} s and holds {there:.3} s");
                End::failure(Cause::InputBad, message)
            }
            Some(_) | None => end,
        }
    }

    /// Probes the output against the plan, reads all its packets, then decodes it to its end.
    async fn verify(
        &mut self,
        file: &Path,
        name: &Path,
        expected: &Expected,
        user: ToolUser,
        threads: u32,
    ) -> Result<(Probed, Proof), End> {
        if !file.is_file() {
            return Err(unproven("ffmpeg reported success and wrote no file".to_owned()));
        }
        // Whatever the tools say against the file, the one that made it said that all went well.
        let mut answer = Answer::default();
        let arguments = probe::output_arguments(name, expected.container);
        self.run_ffprobe(&arguments, user, &mut answer).await.map_err(as_verify)?;
        let mut probed = read_probe(&answer)?;
        let differences = verify::differences(expected, &probed);
        if !differences.is_empty() {
            return Err(unproven(differences.join("; ")));
        }
        let is_picture = expected.video.as_ref().is_some_and(|video| video.is_picture);
        let mut packets = Packets::default();
        if !is_picture {
            let arguments = plan::packet_arguments(name);
            self.run_ffprobe(&arguments, user, &mut packets).await.map_err(as_verify)?;
        }
        let (streams, faults) = packets.finish(&probed.streams);
        if !faults.is_empty() {
            return Err(unproven(faults.join("; ")));
        }
        let decode = plan::decode_arguments(name, expected, threads);
        let duration = expected.duration_secs;
        let ran = self.run_ffmpeg(&decode, user, Phase::Verify, duration, Part::WHOLE).await.map_err(as_verify)?;
        let lufs = Measured::parse(ran.log.iter().map(String::as_str)).map(|found| found.lufs);
        let frames = ran.last.and_then(|block| block.frame);
        let proof = Proof { streams: if is_picture { Vec::new() } else { streams }, frames, lufs };
        let differences = verify::proof_differences(expected, &proof);
        if !differences.is_empty() {
            return Err(unproven(differences.join("; ")));
        }
        if is_picture && frames != Some(1) {
            return Err(unproven(format!("it has {} frames instead of 1", frames.unwrap_or(0))));
        }
        let wish = expected.video.as_ref().and_then(|video| video.bitrate);
        if let (Some(wish), Some(rate)) = (wish, verify::settled_bitrate(&proof))
            && rate < wish as f64 * 0.9
        {
            self.reporter.log(&format!("[ffpool] the video needed {rate:.0} of {wish} bits per second"));
        }
        if let Some(video) = &mut probed.probe.video {
            video.frames = frames;
        }
        Ok((probed, proof))
    }

    /// Runs FFmpeg to a good end.
    async fn run_ffmpeg(
        &mut self,
        arguments: &[OsString],
        user: ToolUser,
        phase: Phase,
        duration_secs: Option<f64>,
        part: Part,
    ) -> Result<Ran, End> {
        let usual = match self.grant.spec.queue {
            Queue::Live => self.shop.settings.live_stall_after,
            Queue::Default | Queue::Batch => self.shop.settings.stall_after,
        };
        let stall_after = self.grant.spec.resource_limits.stall_sec.map_or(usual, Duration::from_secs);
        self.stand_still().await;
        let mut follower = Follower {
            reporter: &self.reporter,
            phase,
            part,
            started: Instant::now(),
            blocks: Blocks::default(),
            meter: Meter::new(duration_secs),
            last: None,
        };
        let invocation = self.invocation(&self.shop.ffmpeg, arguments, user);
        let finished = tool::run(&self.shop.launcher, invocation, self.watch(Some(stall_after)), &mut follower).await;
        let last = follower.last;
        let finished = self.account(finished, "ffmpeg")?;
        self.check(&finished, "ffmpeg")?;
        Ok(Ran { last, log: finished.log })
    }

    fn invocation<'i>(&'i self, program: &'i Path, arguments: &'i [OsString], user: ToolUser) -> Invocation<'i> {
        Invocation {
            program,
            arguments,
            directory: self.scratch_path(),
            user,
            group: self.group.as_ref(),
            file_bytes: self.disk_bytes(),
        }
    }

    fn watch(&self, stall_after: Option<Duration>) -> Watch {
        Watch {
            stop: self.orders.stop.clone(),
            freeze: self.orders.freeze.clone(),
            deadline: self.deadline(),
            stall_after,
            grace: self.shop.settings.stop_grace,
            disk: Some((self.scratch_path().to_owned(), self.disk_bytes())),
        }
    }

    /// When its time is over, as long as it does not stand still any more.
    fn deadline(&self) -> Instant {
        self.started + Duration::from_secs(self.grant.spec.resource_limits.timeout_sec()) + self.frozen_for
    }

    /// Starts nothing while the attempt is frozen, unless it is told to end.
    async fn stand_still(&mut self) {
        let Orders { mut stop, mut freeze } = self.orders.clone();
        if !freeze.borrow().holds() {
            return;
        }
        let since = Instant::now();
        tokio::select! {
            _ = freeze.wait_for(|freeze| !freeze.holds()) => {}
            Ok(_) = stop.wait_for(Option::is_some) => {}
        }
        self.frozen_for += since.elapsed();
    }

    fn disk_bytes(&self) -> u64 {
        self.grant.spec.resource_limits.disk_mb().saturating_mul(1024 * 1024)
    }

    fn scratch_path(&self) -> &Path {
        self.scratch.as_ref().map_or(&self.shop.scratch, |scratch| &scratch.path)
    }

    /// Counts what a run used, and ends the attempt where the run was ended from outside.
    fn account(&mut self, finished: std::io::Result<Finished>, name: &str) -> Result<Finished, End> {
        let finished = finished.map_err(|error| match self.orders.stop.borrow().clone() {
            Some(order) => order.into(),
            None => End::failure(Cause::Platform, format!("{name} cannot be run: {error}")),
        })?;
        self.frozen_for += finished.frozen_for;
        self.usage.cpu_ms += finished.cpu_ms;
        self.usage.peak_memory_bytes = self.usage.peak_memory_bytes.max(finished.peak_memory_bytes);
        let limits = &self.grant.spec.resource_limits;
        let (cause, message) = match &finished.ended_by {
            EndedBy::Itself => return Ok(finished),
            EndedBy::Stop(order) => return Err(order.clone().into()),
            EndedBy::Timeout => (Cause::Timeout, format!("the attempt took longer than {} s", limits.timeout_sec())),
            EndedBy::Stall => (Cause::Stall, format!("{name} made no progress for too long")),
            EndedBy::Disk(bytes) => (
                Cause::DiskFull,
                format!("the attempt wrote {} MiB, its limit is {} MiB", bytes / (1024 * 1024), limits.disk_mb()),
            ),
        };
        let mut failure = Failure::new(cause, message);
        failure.evidence = finished.log.last().map(|line| classify::clean(line));
        failure.exit_code = finished.status.code();
        failure.signal = finished.signal();
        Err(End::failed(failure))
    }

    /// Ends the attempt where a run that nobody ended did not go well.
    fn check(&self, finished: &Finished, name: &str) -> Result<(), End> {
        let oom_kills = self.group.as_ref().map_or(0, |group| group.usage().oom_kills);
        if finished.is_success() && oom_kills == 0 {
            return Ok(());
        }
        let exit = Exit { code: finished.status.code(), signal: finished.signal(), oom_kills };
        Err(End::failed(classify::classify(name, exit, &finished.log)))
    }

    /// The proof of what was made.
    fn manifest(&self, ready: &Ready, made: Made, source: Option<(SourceIdentity, Probe)>) -> Manifest {
        let (url, size_bytes, sha256) = ready.describe();
        let (source, source_probe) = source.unzip();
        Manifest {
            job: self.grant.job,
            attempt: self.grant.attempt,
            worker: self.shop.settings.worker.clone(),
            at: Timestamp::now(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            tool: self.shop.tool_version.clone(),
            arguments: words(&made.arguments),
            steps: made.steps.iter().map(|step| words(step)).collect(),
            prober: Some(self.shop.prober_version.clone()),
            source_probe,
            artifacts: vec![Artifact { url, size_bytes, sha256, probe: made.probed.probe, proof: Some(made.proof) }],
            source,
            usage: self.used(),
        }
    }

    /// What the attempt has used so far.
    fn used(&self) -> Usage {
        let mut usage = Usage { wall_ms: millis(self.started), ..self.usage.clone() };
        if let Some(group) = &self.group {
            let counted = group.usage();
            usage.cpu_ms = counted.cpu_us / 1000;
            usage.peak_memory_bytes = counted.peak_memory_bytes.or(usage.peak_memory_bytes);
        }
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

fn read_probe(answer: &Answer) -> Result<Probed, End> {
    probe::parse(&answer.text)
        .map_err(|error| End::failure(Cause::Unknown, format!("ffprobe's answer cannot be read: {error}")))
}

/// A job that cannot be made of this source is rejected; a source that is not what it should be is a bad input.
fn refused(refusal: Refusal) -> End {
    match refusal {
        Refusal::Input(why) => End::failure(Cause::InputBad, why),
        Refusal::Job(fault) => End::Report(Box::new(Outcome::Rejected { faults: vec![fault] })),
    }
}

fn unproven(evidence: String) -> End {
    let mut failure = Failure::new(Cause::VerifyFailed, "the output is not what was asked for");
    failure.evidence = Some(evidence);
    End::failed(failure)
}

fn words(arguments: &[OsString]) -> Vec<String> {
    arguments.iter().map(|argument| argument.to_string_lossy().into_owned()).collect()
}

/// A failure of the tools that look at a finished output is the output's, unless they were stopped or died of the machine.
fn as_verify(end: End) -> End {
    let End::Report(outcome) = end else { return end };
    match *outcome {
        Outcome::Failed { mut failure }
            if matches!(failure.cause, Cause::InputBad | Cause::InputMissing | Cause::ConfigBad | Cause::Unknown) =>
        {
            failure.message = format!("the output does not stand the test: {}", failure.message);
            failure.cause = Cause::VerifyFailed;
            End::failed(failure)
        }
        other @ (Outcome::Finished { .. }
        | Outcome::Failed { .. }
        | Outcome::Rejected { .. }
        | Outcome::Released { .. }
        | Outcome::Cancelled) => End::Report(Box::new(other)),
    }
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
        std::fs::create_dir(&path)?;
        let scratch = Scratch { path };
        std::fs::set_permissions(&scratch.path, std::fs::Permissions::from_mode(0o700))?;
        match user {
            ToolUser::Own => {}
            ToolUser::Switch { uid, gid } => std::os::unix::fs::chown(&scratch.path, Some(uid), Some(gid))?,
        }
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot delete scratch");
        }
    }
}

/// Sends progress and log lines, numbered.
struct Reporter<'a> {
    grant: &'a Grant,
    shop: &'a Shop,
    reports: Reports,
    /// Both count what was sent. Shared, so that a tool's listener can report while the attempt is looked at.
    seq: AtomicU64,
    lines: AtomicU64,
}

impl Reporter<'_> {
    fn phase(&self, phase: Phase, percent: Option<f64>) {
        let blank = self.blank(phase);
        self.send(Progress { percent, ..blank });
    }

    fn blank(&self, phase: Phase) -> Progress {
        Progress {
            job: self.grant.job,
            attempt: self.grant.attempt,
            worker: self.shop.settings.worker.clone(),
            seq: 0,
            phase,
            percent: None,
            frame: None,
            fps: None,
            speed: None,
            out_time_us: None,
            size_bytes: None,
            eta_secs: None,
        }
    }

    fn send(&self, progress: Progress) {
        let seq = self.seq.fetch_add(1, Ordering::Relaxed) + 1;
        self.reports.progress.send_replace(Some(Progress { seq, ..progress }));
    }

    fn log(&self, line: &str) {
        let seq = self.lines.fetch_add(1, Ordering::Relaxed) + 1;
        let line = LogLine { job: self.grant.job, attempt: self.grant.attempt, seq, line: classify::clean(line) };
        // A full channel loses a line; the end of the log is kept apart.
        let _ = self.reports.log.try_send(line);
    }
}

/// Follows a run of FFmpeg.
struct Follower<'a, 'r> {
    reporter: &'r Reporter<'a>,
    phase: Phase,
    part: Part,
    started: Instant,
    blocks: Blocks,
    meter: Meter,
    last: Option<Block>,
}

impl Listener for Follower<'_, '_> {
    fn output(&mut self, line: &str) -> bool {
        let Some(block) = self.blocks.line(line) else { return false };
        let estimate = self.meter.observe(&block, self.started.elapsed());
        let blank = self.reporter.blank(self.phase);
        // The decode that verifies goes through the whole length again; to the outside the attempt is nearly done.
        let progress = match self.phase {
            Phase::Prepare | Phase::Encode => Progress {
                percent: estimate.percent.map(|percent| self.part.of_whole(percent)),
                frame: block.frame,
                fps: block.fps,
                speed: estimate.speed,
                out_time_us: block.out_time_us,
                size_bytes: block.total_size,
                eta_secs: estimate.eta_secs,
                ..blank
            },
            Phase::Verify | Phase::Commit => {
                Progress { percent: Some(NEARLY), frame: block.frame, fps: block.fps, speed: estimate.speed, ..blank }
            }
        };
        self.reporter.send(progress);
        self.last = Some(block);
        estimate.has_advanced
    }

    fn log(&mut self, line: &str) {
        self.reporter.log(line);
    }
}
