//! What the dashboard hears: who is logged in, what ended lately, and the live stream.
//!
//! Invariant: every event of the stream carries a whole present state, so that one that is left out is healed by the next.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{JobView, QueueView};
use crate::access::{Right, Role};
use crate::message::{LogLine, Progress};

/// Answer to `GET /v1/session` and `POST /v1/session`: who asks, and what they may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SessionView {
    /// The key's name.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Every right that it has.
    pub rights: Vec<Right>,
    /// The tenant that it is bound to; absent: none.
    pub tenant: Option<String>,
    /// Version of the dispatcher.
    pub version: String,
    /// What a request by cookie that changes something carries in the header `X-FFPool-CSRF`; absent for a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csrf: Option<String>,
    /// Seconds after its last use at which the session ends; absent for a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_secs: Option<u64>,
    /// Seconds after its begin at which it ends in any case; absent for a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_secs: Option<u64>,
}

/// Answer to `GET /v1/throughput`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Throughput {
    /// Length of a step in seconds.
    pub step_secs: u32,
    /// Every step, oldest first; the last one is not over.
    pub points: Vec<ThroughputPoint>,
}

/// Jobs that ended in one step of time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ThroughputPoint {
    /// When it began.
    pub at: Timestamp,
    /// Completed.
    pub completed: i64,
    /// Failed for the last time.
    pub failed: i64,
    /// Cancelled.
    pub cancelled: i64,
    /// Refused, because they cannot run as they are written.
    pub rejected: i64,
}

/// The workers together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FleetView {
    /// How many are in each state.
    pub workers: BTreeMap<String, i64>,
    /// Slots of those that take work or finish it.
    pub slots: i64,
    /// Of these in use.
    pub used: i64,
}

/// How far an attempt was while it ran: one of the answer to `GET /v1/jobs/{id}/progress`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProgressCurve {
    /// The attempt's number.
    pub attempt: u32,
    /// How long it lasted, or has lasted until now.
    pub lasted_secs: f64,
    /// Between two points, about.
    pub step_secs: f64,
    /// 120 at most, first to last.
    pub points: Vec<ProgressPoint>,
}

/// How far an attempt was at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ProgressPoint {
    /// Since it began.
    pub at_secs: f64,
    /// Percent of the work; absent where the length of the source is unknown.
    pub percent: Option<f64>,
    /// Frames per second.
    pub fps: Option<f64>,
}

/// One event of `GET /v1/events` (server-sent events). The name of the SSE event is the tag.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LiveEvent {
    /// The workers, at the start and when they change.
    Fleet(FleetView),
    /// What waits and runs, at the start and when it changes. The broker's counts are left out.
    Queues {
        /// Queues that are not empty.
        queues: Vec<QueueView>,
        /// Number of the newest job that may be seen.
        newest: i64,
    },
    /// A job that was asked for, at the start and when it changes.
    Job(Box<JobView>),
    /// How far a job that was asked for is, four times a second at most.
    Progress(Progress),
    /// A line of the tool of the job whose log was asked for.
    Log(LogLine),
}

impl LiveEvent {
    /// The name of the SSE event.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            LiveEvent::Fleet(_) => "fleet",
            LiveEvent::Queues { .. } => "queues",
            LiveEvent::Job(_) => "job",
            LiveEvent::Progress(_) => "progress",
            LiveEvent::Log(_) => "log",
        }
    }
}
