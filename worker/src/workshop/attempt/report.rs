//! What an attempt says while it runs: progress and lines of the tools' logs, numbered.
//!
//! Invariant: reporting never waits; a slow reader loses lines, never an encode.

use std::sync::atomic::{AtomicU64, Ordering};

use ffpool_schema::live::hide;
use ffpool_schema::message::{Grant, LogLine, Phase, Progress};
use tokio::time::Instant;

use super::{NEARLY, Reports, Shop};
use crate::classify;
use crate::progress::{Block, Blocks, Meter};
use crate::spans::Phases;
use crate::tool::Listener;

/// Which part of the whole work a run is, as fractions of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) before: f64,
    pub(super) share: f64,
}

impl Part {
    pub(super) const WHOLE: Part = Part { before: 0.0, share: 1.0 };

    /// Percent of the whole, from percent of the run.
    pub(super) fn of_whole(self, percent: f64) -> f64 {
        self.before * 100.0 + percent * self.share
    }
}

/// Sends progress and log lines, numbered.
pub(super) struct Reporter<'a> {
    pub(super) grant: &'a Grant,
    pub(super) shop: &'a Shop,
    pub(super) reports: Reports,
    /// Both count what was sent. Shared, so that a tool's listener can report while the attempt is looked at.
    pub(super) seq: AtomicU64,
    pub(super) lines: AtomicU64,
    /// For the trace of the job.
    pub(super) phases: Phases,
    /// Stream keys and the like, which are in no line that leaves.
    pub(super) secrets: Vec<String>,
}

impl Reporter<'_> {
    pub(super) fn phase(&self, phase: Phase, percent: Option<f64>) {
        let blank = self.blank(phase);
        self.send(Progress { percent, ..blank });
    }

    pub(super) fn blank(&self, phase: Phase) -> Progress {
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
            live: None,
        }
    }

    pub(super) fn send(&self, progress: Progress) {
        self.phases.enter(progress.phase);
        let seq = self.seq.fetch_add(1, Ordering::Relaxed) + 1;
        self.reports.progress.send_replace(Some(Progress { seq, ..progress }));
    }

    /// A line fit to be shown.
    pub(super) fn clean(&self, line: &str) -> String {
        hide(&classify::clean(line), &self.secrets)
    }

    pub(super) fn log(&self, line: &str) {
        let seq = self.lines.fetch_add(1, Ordering::Relaxed) + 1;
        let line = LogLine { job: self.grant.job, attempt: self.grant.attempt, seq, line: self.clean(line) };
        // A full channel loses a line; the end of the log is kept apart.
        let _ = self.reports.log.try_send(line);
    }
}

/// Follows a run of FFmpeg.
pub(super) struct Follower<'a, 'r> {
    pub(super) reporter: &'r Reporter<'a>,
    pub(super) phase: Phase,
    pub(super) part: Part,
    pub(super) started: Instant,
    pub(super) blocks: Blocks,
    pub(super) meter: Meter,
    pub(super) last: Option<Block>,
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
