//! The NATS subjects of ffpool. Core NATS may drop a signal, so nothing durable depends on one arriving.

use uuid::Uuid;

use crate::id::{JobId, WorkerId};
use crate::job::Pool;

/// Request/reply: a worker asks for the right to run a delivery. Queue group [`DISPATCHERS`].
pub const CLAIM: &str = "ffpool.v1.claim";
/// Request/reply: a worker that keeps room for a job asks for the right to run it without a delivery. Answered like a claim.
/// Queue group [`DISPATCHERS`].
pub const TAKE: &str = "ffpool.v1.take";
/// Request/reply: a worker asks for the right to publish an attempt's output. Queue group [`DISPATCHERS`].
pub const COMMIT: &str = "ffpool.v1.commit";
/// Request/reply: an owner hands its delivery's duty to the ledger before it acknowledges. Queue group [`DISPATCHERS`].
pub const CUSTODY: &str = "ffpool.v1.custody";
/// All heartbeats. Every dispatcher hears all of them, without a queue group, and the leader writes them down: one that is
/// frozen must not swallow the heartbeats of others.
pub const HEARTBEATS: &str = "ffpool.v1.hb.*";
/// All log lines. Dispatchers subscribe in the queue group [`DISPATCHERS`].
pub const LOGS: &str = "ffpool.v1.log.*";
/// All progress signals.
pub const PROGRESS: &str = "ffpool.v1.progress.*";
/// Control of all workers.
pub const CONTROL_OF_WORKERS: &str = "ffpool.v1.ctl.worker.*";
/// Control of the workers that run jobs.
pub const CONTROL_OF_JOBS: &str = "ffpool.v1.ctl.job.*";
/// All requests of [`hand_over`].
pub const HAND_OVERS: &str = "ffpool.v1.handover.*";
/// What dispatchers say to themselves: see [`echo`].
pub const ECHOES: &str = "ffpool.v1.echo.*";
/// The queue group of the dispatchers.
pub const DISPATCHERS: &str = "dispatchers";

/// Heartbeats of one worker.
#[must_use]
pub fn heartbeat(worker: &WorkerId) -> String {
    format!("ffpool.v1.hb.{worker}")
}

/// Progress of one job.
#[must_use]
pub fn progress(job: JobId) -> String {
    format!("ffpool.v1.progress.{job}")
}

/// Log lines of one job's tool, best effort.
#[must_use]
pub fn log(job: JobId) -> String {
    format!("ffpool.v1.log.{job}")
}

/// Control of one worker.
#[must_use]
pub fn control_worker(worker: &WorkerId) -> String {
    format!("ffpool.v1.ctl.worker.{worker}")
}

/// Control of the worker that runs one job.
#[must_use]
pub fn control_job(job: JobId) -> String {
    format!("ffpool.v1.ctl.job.{job}")
}

/// Request/reply between workers: the next attempt at a live job asks the one before it to let go of its sinks. Served only by an
/// attempt that was handed back and still feeds them, and answered when it feeds them no more.
#[must_use]
pub fn hand_over(job: JobId) -> String {
    format!("ffpool.v1.handover.{job}")
}

/// What one dispatcher says to itself, to learn whether it still hears.
#[must_use]
pub fn echo(dispatcher: Uuid) -> String {
    format!("ffpool.v1.echo.{dispatcher}")
}

/// Hint that work arrived for `pool`. Idle workers subscribe in a queue group named after the pool.
#[must_use]
pub fn work(pool: &Pool) -> String {
    format!("ffpool.v1.work.{pool}")
}

/// Where answers to a connection come in, as a prefix. By the login, so that a server can keep one account from hearing
/// another's answers; a login that is none or cannot be part of a subject shares the usual prefix.
#[must_use]
pub fn inbox(login: Option<&str>) -> String {
    const USUAL: &str = "_INBOX";
    let fits =
        |login: &&str| !login.is_empty() && login.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    login.filter(fits).map_or_else(|| USUAL.to_owned(), |login| format!("{USUAL}.{login}"))
}
