//! Runs of the tools within one attempt: under its limits, its orders and its clock, counted and judged.
//!
//! Invariant: a run that was ended from outside, or did not go well, ends the attempt with its cause; nothing is started
//! while the attempt stands still.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::job::Queue;
use ffpool_schema::live::Live;
use ffpool_schema::message::Phase;
use ffpool_schema::probe::{self, Probed};
use tokio::time::Instant;

use super::encode::{read_probe, unreadable};
use super::report::{Follower, Part};
use super::{Attempt, End, Orders};
use crate::cage::Needs;
use crate::classify::{self, Exit};
use crate::progress::{Block, Blocks, Meter};
use crate::tool::{self, Answer, EndedBy, Finished, Invocation, Listener, ToolUser, Watch};

/// A run of FFmpeg that went well.
pub(super) struct Ran {
    pub(super) last: Option<Block>,
    pub(super) log: Vec<String>,
}

impl Attempt<'_> {
    /// What ffprobe finds in somebody else's file, where the worker takes as much.
    pub(super) async fn probe_source(&mut self, file: &Path, user: ToolUser) -> Result<Probed, End> {
        let probed = self.probe(file, user).await?;
        self.shop.settings.bounds.judge(&probed).map_or(Ok(probed), |failure| Err(End::failed(failure)))
    }

    /// What ffprobe finds in a file.
    pub(super) async fn probe(&mut self, file: &Path, user: ToolUser) -> Result<Probed, End> {
        let mut answer = Answer::default();
        let arguments = self.shop.settings.bounds.applied(probe::arguments(file));
        self.run_ffprobe(&arguments, user, &mut answer).await?;
        let mut probed = read_probe(&answer)?;
        self.look_for_mastering(&mut probed, file, user).await?;
        Ok(probed)
    }

    /// Looks at the first frame of a picture of high range whose file does not say on which display it was mastered.
    pub(super) async fn look_for_mastering(
        &mut self,
        probed: &mut Probed,
        file: &Path,
        user: ToolUser,
    ) -> Result<(), End> {
        if !probed.is_hdr_unsaid() {
            return Ok(());
        }
        let mut answer = Answer::default();
        let arguments = self.shop.settings.bounds.applied(probe::frame_arguments(file));
        self.run_ffprobe(&arguments, user, &mut answer).await?;
        probe::add_frame(probed, &answer.text).map_err(unreadable)
    }

    pub(super) async fn run_ffprobe(
        &mut self,
        arguments: &[OsString],
        user: ToolUser,
        listener: &mut impl Listener,
    ) -> Result<(), End> {
        self.stand_still().await;
        let invocation = self.invocation(&self.shop.ffprobe, arguments, user);
        let finished = tool::run(&self.shop.quarters.launcher, invocation, self.watch(None), listener).await;
        let finished = self.account(finished, "ffprobe")?;
        for line in &finished.log {
            self.reporter.log(line);
        }
        self.check(&finished, "ffprobe")?;
        let Some((cause, line)) = classify::passed_bound(&finished.log) else { return Ok(()) };
        let mut failure = Failure::new(cause, "the input is more than this worker takes");
        failure.evidence = Some(self.reporter.clean(line));
        Err(End::failed(failure))
    }

    /// Runs FFmpeg to a good end.
    pub(super) async fn run_ffmpeg(
        &mut self,
        arguments: &[OsString],
        user: ToolUser,
        phase: Phase,
        duration_secs: Option<f64>,
        part: Part,
    ) -> Result<Ran, End> {
        let stall_after = self.silence_bound();
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
        let finished =
            tool::run(&self.shop.quarters.launcher, invocation, self.watch(Some(stall_after)), &mut follower).await;
        let last = follower.last;
        let finished = self.account(finished, "ffmpeg")?;
        self.check(&finished, "ffmpeg")?;
        Ok(Ran { last, log: finished.log })
    }

    pub(super) fn invocation<'i>(
        &'i self,
        program: &'i Path,
        arguments: &'i [OsString],
        user: ToolUser,
    ) -> Invocation<'i> {
        Invocation {
            program,
            arguments,
            directory: self.scratch_path(),
            user,
            group: self.group.as_ref(),
            file_bytes: self.file_bytes(),
            open_files: self.shop.settings.bounds.max_open_files,
            nice: 0,
            cage: &self.shop.quarters.cage,
            needs: Needs { reads: &self.reads, network: self.reach.as_ref(), devices: self.uses_device },
        }
    }

    pub(super) fn watch(&self, stall_after: Option<Duration>) -> Watch {
        Watch {
            stop: self.orders.stop.clone(),
            freeze: self.orders.freeze.clone(),
            deadline: self.deadline(),
            stall_after,
            grace: self.shop.settings.stop_grace,
            disk: Some((self.scratch_path().to_owned(), self.disk_bytes())),
        }
    }

    /// Whether it goes to the network by itself.
    pub(super) fn is_live(&self) -> bool {
        self.grant.encode.as_ref().is_some_and(|encode| encode.live.is_some())
    }

    /// When its time is over, as long as it does not stand still any more.
    pub(super) fn deadline(&self) -> Instant {
        self.started + Duration::from_secs(self.timeout_secs()) + self.frozen_for
    }

    /// Wall time of the attempt in seconds. A live job that names none ends otherwise.
    fn timeout_secs(&self) -> u64 {
        let limits = &self.grant.spec.resource_limits;
        if self.is_live() { limits.timeout_sec.unwrap_or(Live::TIMEOUT_SEC) } else { limits.timeout_sec() }
    }

    /// Silence after which a tool has stalled.
    pub(super) fn silence_bound(&self) -> Duration {
        let usual = match self.grant.spec.queue {
            Queue::Live => self.shop.settings.live_stall_after,
            Queue::Default | Queue::Batch => self.shop.settings.stall_after,
        };
        self.grant.spec.resource_limits.stall_sec.map_or(usual, Duration::from_secs)
    }

    /// Starts nothing while the attempt is frozen, unless it is told to end.
    pub(super) async fn stand_still(&mut self) {
        let Orders { mut stop, mut freeze, .. } = self.orders.clone();
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

    pub(super) fn disk_bytes(&self) -> u64 {
        let wished = self.grant.spec.resource_limits.disk_mb().saturating_mul(1024 * 1024);
        self.shop.settings.bounds.scratch_bytes(wished)
    }

    /// Bytes that no file may exceed.
    pub(super) fn file_bytes(&self) -> u64 {
        self.disk_bytes().min(self.shop.settings.bounds.output_bytes())
    }

    pub(super) fn scratch_path(&self) -> &Path {
        self.scratch.as_ref().map_or(&self.shop.scratch, |scratch| &scratch.path)
    }

    /// A new file for the tools to read. Nothing lies there yet: the tools may have been turned against us, and have left a
    /// link to a file that only we can write.
    pub(super) fn create_in_scratch(&self, name: &Path) -> std::io::Result<File> {
        OpenOptions::new().write(true).create_new(true).mode(0o644).open(self.scratch_path().join(name))
    }

    /// Counts what a run used, and ends the attempt where the run was ended from outside.
    pub(super) fn account(&mut self, finished: std::io::Result<Finished>, name: &str) -> Result<Finished, End> {
        let finished = finished.map_err(|error| match self.orders.stop.borrow().clone() {
            Some(order) => order.into(),
            None => End::failure(Cause::Platform, format!("{name} cannot be run: {error}")),
        })?;
        self.count(&finished);
        self.ended_outside(&finished, name)?;
        Ok(finished)
    }

    /// Counts what a run used.
    pub(super) fn count(&mut self, finished: &Finished) {
        self.frozen_for += finished.frozen_for;
        self.usage.cpu_ms += finished.cpu_ms;
        self.usage.peak_memory_bytes = self.usage.peak_memory_bytes.max(finished.peak_memory_bytes);
    }

    /// Ends the attempt where a run was ended from outside.
    pub(super) fn ended_outside(&self, finished: &Finished, name: &str) -> Result<(), End> {
        let (cause, message) = match &finished.ended_by {
            EndedBy::Itself => return Ok(()),
            EndedBy::Stop(order) => return Err(order.clone().into()),
            EndedBy::Timeout => (Cause::Timeout, format!("the attempt took longer than {} s", self.timeout_secs())),
            EndedBy::Stall => (Cause::Stall, format!("{name} made no progress for too long")),
            EndedBy::Disk(bytes) => (
                Cause::ScratchLimit,
                format!("the attempt wrote {} MiB, its limit is {} MiB", bytes >> 20, self.disk_bytes() >> 20),
            ),
        };
        let mut failure = Failure::new(cause, message);
        failure.evidence = finished.log.last().map(|line| self.reporter.clean(line));
        failure.exit_code = finished.status.code();
        failure.signal = finished.signal();
        Err(End::failed(failure))
    }

    /// Ends the attempt where a run that nobody ended did not go well.
    pub(super) fn check(&self, finished: &Finished, name: &str) -> Result<(), End> {
        let oom_kills = self.group.as_ref().map_or(0, |group| group.usage().oom_kills);
        if finished.is_success() && oom_kills == 0 {
            return Ok(());
        }
        let exit = Exit { code: finished.status.code(), signal: finished.signal(), oom_kills };
        Err(End::failed(self.of_bounds(classify::classify(name, exit, &finished.log), finished.refused_forks)))
    }

    /// The failure of a run whose reason is that it ran into a bound of the attempt's own, said to be that.
    pub(super) fn of_bounds(&self, failure: Failure, refused_forks: u64) -> Failure {
        if is_of_a_large_file(&failure) {
            let mib = self.file_bytes() >> 20;
            let (cause, message) = if self.file_bytes() < self.disk_bytes() {
                (Cause::OutputTooLarge, format!("an output has more than {mib} MiB, which FFPOOL_MAX_OUTPUT_MB allows"))
            } else {
                (Cause::ScratchLimit, format!("the attempt wrote more than its limit of {mib} MiB"))
            };
            return Failure { cause, message, ..failure };
        }
        if refused_forks > 0 && is_of_want_of_processes(&failure) {
            let most = self.shop.settings.bounds.max_processes;
            let message =
                format!("the attempt has {most} processes and threads, and was refused more {refused_forks} times");
            return Failure { cause: Cause::Processes, message, ..failure };
        }
        failure
    }
}

fn says(failure: &Failure, what: &str) -> bool {
    failure.evidence.as_ref().is_some_and(|line| line.to_ascii_lowercase().contains(what))
}

/// Whether a tool failed because one file may not grow any more. A disk that is full is another matter.
fn is_of_a_large_file(failure: &Failure) -> bool {
    failure.signal == Some(nix::libc::SIGXFSZ) || (failure.cause == Cause::DiskFull && says(failure, "file too large"))
}

/// Whether a tool that was refused a process may have failed by that: other causes have reasons of their own.
fn is_of_want_of_processes(failure: &Failure) -> bool {
    matches!(failure.cause, Cause::Resource | Cause::Unknown | Cause::Crash | Cause::ConfigBad)
        // What the kernel says to whoever it refuses one.
        || (failure.cause == Cause::IoTransient && says(failure, "resource temporarily unavailable"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(cause: Cause, evidence: &str) -> Failure {
        Failure { evidence: Some(evidence.to_owned()), ..Failure::new(cause, "ffmpeg exited with code 1") }
    }

    #[test]
    fn a_full_disk_is_no_file_that_is_too_large() {
        assert!(!is_of_a_large_file(&failed(Cause::DiskFull, "[error] a.mp4: No space left on device")));
        assert!(!is_of_a_large_file(&failed(Cause::DiskFull, "[error] a.mp4: Disk quota exceeded")));
        assert!(is_of_a_large_file(&failed(Cause::DiskFull, "[error] a.mp4: File too large")));
        let killed = Failure { signal: Some(nix::libc::SIGXFSZ), ..Failure::new(Cause::DiskFull, "") };
        assert!(is_of_a_large_file(&killed));
    }

    #[test]
    fn a_refused_process_explains_no_failure_that_has_a_reason_of_its_own() {
        for cause in [Cause::Oom, Cause::InputBad, Cause::NetTransient, Cause::DiskFull, Cause::Policy] {
            assert!(!is_of_want_of_processes(&failed(cause, "[error] x")), "{cause}");
        }
        for cause in [Cause::Resource, Cause::Unknown, Cause::Crash, Cause::ConfigBad] {
            assert!(is_of_want_of_processes(&failed(cause, "[error] x")), "{cause}");
        }
        assert!(is_of_want_of_processes(&failed(Cause::IoTransient, "fork: Resource temporarily unavailable")));
        assert!(!is_of_want_of_processes(&failed(Cause::IoTransient, "[error] a.mp4: Input/output error")));
    }
}
