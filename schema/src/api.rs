//! What the HTTP API answers: one set of types for the dispatcher that writes them and the clients that read them.

mod access;
mod live;

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::cost::{Hours, Prices};
use crate::failure::Failure;
use crate::id::{JobId, WorkerId};
use crate::job::JobSpec;
use crate::lifecycle::State;
use crate::message::{Ability, Capacity, Manifest, Progress, Usage, WorkerState};
use crate::parse::Fault;

pub use access::{
    KeyRequest, KeyState, KeyView, NewKeyView, RotateRequest, TenantChange, TenantLimits, TenantRequest, TenantView,
};

pub use live::{FleetView, LiveEvent, ProgressCurve, ProgressPoint, SessionView, Throughput, ThroughputPoint};

/// Answer to `POST /v1/jobs/check`: the job would be taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Checked {
    /// The job in canonical form, as it would be recorded; what is secret in its addresses is left out.
    pub spec: JobSpec,
}

/// Answer to `POST /v1/jobs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Submitted {
    /// The job's id.
    pub id: JobId,
    /// The human number.
    pub number: i64,
    /// Its state right after recording.
    pub state: State,
}

/// One job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobView {
    /// Its id.
    pub id: JobId,
    /// A small number for people, unique in the ledger.
    pub number: i64,
    /// Its state.
    pub state: State,
    /// The queue, as in the job.
    pub queue: String,
    /// The priority, as in the job.
    pub priority: String,
    /// The pool, as in the job.
    pub pool: String,
    /// The scenario; empty when the body could not be read.
    pub scenario: String,
    /// The tenant.
    pub tenant: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Number of the last attempt; 0 before the first.
    pub attempt: u32,
    /// Attempts that counted against the budget.
    pub failures: u32,
    /// The budget.
    pub max_retries: u32,
    /// Who runs it, or ran it last.
    pub worker: Option<WorkerId>,
    /// Who would give it back: `broker` or `ledger`.
    pub custody: Option<String>,
    /// When it was recorded.
    pub created_at: Timestamp,
    /// When it is published again, in `delayed`.
    pub due_at: Option<Timestamp>,
    /// When its last attempt began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Whether somebody has paused it.
    pub paused: bool,
    /// Since when its tool is frozen, while it runs: by a pause, or to make room for a live job.
    pub frozen_since: Option<Timestamp>,
    /// Useless after this instant.
    pub deadline: Option<Timestamp>,
    /// The jobs it waits for.
    #[serde(default)]
    pub depends_on: Vec<JobId>,
    /// How far it is, while it runs.
    pub progress: Option<Progress>,
    /// The job whose chunk it makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part_of: Option<JobId>,
    /// How far its chunks are, while they are made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunks: Option<ChunksView>,
    /// The last failure.
    pub failure: Option<Failure>,
    /// Why it is what it is, in words: a hold, a refusal, a release.
    pub reason: Option<String>,
    /// Everything wrong with a rejected job.
    #[serde(default)]
    pub faults: Vec<Fault>,
    /// What its attempts and those of its chunks cost; absent where none ended with prices in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<JobCost>,
    /// Energy in joules of the same attempts, as far as workers could read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_joules: Option<f64>,
    /// The trace that it belongs to: in every line of the logs about it, and at the collector where traces are exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

/// How far the chunks of a job are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChunksView {
    /// Chunks that are made.
    pub done: u32,
    /// Chunks that are being made.
    pub running: u32,
    /// All of them.
    pub total: u32,
    /// Percent of the work on all of them that is done.
    pub percent: f64,
}

/// One job with its history: answer to `GET /v1/jobs/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobDetail {
    /// The job.
    #[serde(flatten)]
    pub job: JobView,
    /// The job in canonical form; absent when it could not be read.
    pub spec: Option<JobSpec>,
    /// Every attempt, first to last.
    pub attempts: Vec<AttemptView>,
    /// Everything that happened, first to last.
    pub events: Vec<EventView>,
    /// The proof, when completed.
    pub manifest: Option<Manifest>,
    /// What was told to its callback address, first to last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub callbacks: Vec<CallbackView>,
    /// Where its trace can be looked at, where the dispatcher knows; not told to keys of tenants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_url: Option<String>,
    /// Whether `GET /v1/jobs/{id}/thumbnail` has a picture of what it made.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_thumbnail: bool,
}

/// What a job's attempts cost together, as far as they were measured, by the prices that were in force when each ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobCost {
    /// How much.
    pub amount: f64,
    /// In which currency.
    pub currency: String,
    /// Attempts that have ended and of which nobody told what they used.
    pub unmeasured: u32,
    /// Attempts that were measured and ended when there were no prices, or prices in another currency.
    #[serde(default)]
    pub unpriced: u32,
}

/// An amount of money.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Amount {
    /// How much.
    pub amount: f64,
    /// In which currency.
    pub currency: String,
}

/// One end of a job that is told to its callback address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CallbackView {
    /// The delivery's id, as the receiver sees it.
    pub id: Uuid,
    /// How the job ended.
    pub state: State,
    /// Where to, without what may be secret in it.
    pub url: String,
    /// When the job ended.
    pub ended_at: Timestamp,
    /// When it is sent next, until it is done.
    pub due_at: Option<Timestamp>,
    /// `delivered` or `given_up`, once it is done.
    pub outcome: Option<String>,
    /// When it was.
    pub done_at: Option<Timestamp>,
    /// Its tries, first to last.
    pub tries: Vec<CallbackTryView>,
}

/// One try to deliver a callback.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CallbackTryView {
    /// Its number, from 1.
    pub number: u32,
    /// When it ended.
    pub at: Timestamp,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// The HTTP status, where there was an answer.
    pub status: Option<u16>,
    /// Why it did not succeed.
    pub error: Option<String>,
}

/// One attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AttemptView {
    /// Its number.
    pub attempt: u32,
    /// Who ran it.
    pub worker: WorkerId,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How it ended: finished, failed, rejected, released, split, cancelled, lapsed.
    pub outcome: Option<String>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// What it used.
    pub usage: Option<Usage>,
    /// What that cost by the prices that were in force when it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Amount>,
    /// Its span in the job's trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span_id: Option<String>,
}

/// One thing that happened to a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EventView {
    /// When, by the ledger's clock.
    pub at: Timestamp,
    /// What: the input's name, such as `claim`.
    pub kind: String,
    /// The state after it.
    pub state: State,
    /// The attempt it was about.
    pub attempt: u32,
    /// More, such as the worker or the reason.
    pub detail: serde_json::Value,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Page<T> {
    /// The rows, newest first; workers by name.
    pub items: Vec<T>,
    /// Give it as `cursor` to get the next page; absent on the last.
    pub next: Option<String>,
    /// How far was looked, where a text was searched for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub searched: Option<Searched>,
}

/// How far a search has looked, this page and those before it together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Searched {
    /// Jobs that were recorded at this instant or later; absent where all were looked at.
    pub back_to: Option<Timestamp>,
    /// Whether no job is left that was not looked at. Where some are, `next` goes on with them, also on a page without rows.
    pub is_all: bool,
}

// Generic, so that whoever only passes on what it said of its room and of what it can run may leave both as they came.
/// One worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "WorkerView")]
pub struct WorkerView<C = Capacity, A = Ability> {
    /// Its id.
    pub id: WorkerId,
    /// Its host.
    pub host: String,
    /// Its version.
    pub version: String,
    /// Its state; `lost` when it fell silent.
    pub state: WorkerState,
    /// The pools it serves.
    pub pools: Vec<String>,
    /// Room.
    pub capacity: C,
    /// What it can run.
    pub ability: A,
    /// The jobs it runs.
    pub running: Vec<JobId>,
    /// Its first heartbeat.
    pub first_seen: Timestamp,
    /// Its last heartbeat, by the ledger's clock.
    pub last_seen: Timestamp,
}

/// Answer to `GET /v1/workers`: a page where one is asked for, else all of them at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "WorkersAnswer")]
pub enum WorkersAnswer<W = WorkerView> {
    /// Where `limit` or `cursor` was given.
    Page(Page<W>),
    /// By name; of very many those that were seen last. For clients that know no pages.
    All(Vec<W>),
}

/// One work queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct QueueView {
    /// The broker's name of it.
    pub name: String,
    /// Queue.
    pub queue: String,
    /// Priority.
    pub priority: String,
    /// Pool.
    pub pool: String,
    /// Messages ready in the broker; absent when the broker could not be asked.
    pub ready: Option<u64>,
    /// Whether somebody has paused its queue.
    pub paused: bool,
    /// Jobs in state `queued`, by the ledger.
    pub queued: i64,
    /// Jobs in state `running` or `cancelling`.
    pub running: i64,
    /// Jobs in state `delayed` or `blocked`.
    pub delayed: i64,
    /// When the oldest queued job was recorded.
    pub oldest: Option<Timestamp>,
}

/// Body of `POST /v1/queues/{queue}/pause`; may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PauseRequest {
    /// Why; it is shown to whoever asks why a job waits.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Dead letters of one kind: answer to `GET /v1/dead-letters/groups`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetterGroup {
    /// Names the kind: the same cause with the same evidence, numbers and paths left out.
    pub fingerprint: String,
    /// The cause.
    pub cause: String,
    /// What happened to one of them, in words.
    pub example: String,
    /// One of them.
    pub example_job: JobId,
    /// How many.
    pub count: i64,
    /// The first.
    pub first: Timestamp,
    /// The last.
    pub last: Timestamp,
}

/// What failed lately: answer to `GET /v1/failures`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailureReport {
    /// Over so many hours.
    pub hours: u32,
    /// Since when, therefore.
    pub since: Timestamp,
    /// By cause, the most frequent first.
    pub causes: Vec<CauseCount>,
}

/// What failed by one cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CauseCount {
    /// The cause.
    pub cause: String,
    /// Attempts that failed by it, those of chunks among them; of `worker_lost` those that ended with their worker's silence.
    pub attempts: i64,
    /// Attempts of these that another attempt followed on.
    pub retried: i64,
    /// Jobs that became dead letters by it, by a last attempt or, as by their deadline, without one.
    pub dead: i64,
    /// The last of all these.
    pub last: Timestamp,
    /// What to do about it, in one sentence.
    pub cure: String,
}

/// Body of `POST /v1/dead-letters/purge`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PurgeRequest {
    /// These jobs.
    #[serde(default)]
    pub ids: Vec<JobId>,
    /// All dead letters of this kind.
    #[serde(default)]
    pub fingerprint: Option<String>,
    /// Why; it goes into the audit.
    pub reason: String,
}

/// Answer to `POST /v1/dead-letters/purge`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PurgeReport {
    /// Dead letters that are gone with their history.
    pub purged: i64,
    /// Dead letters that are still there, because jobs that make their chunks have yet to end: ask again.
    #[serde(default)]
    pub left: i64,
}

/// One entry of the audit: answer to `GET /v1/audit`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditView {
    /// When.
    pub at: Timestamp,
    /// Whose key.
    pub who: String,
    /// What, such as `redrive`.
    pub action: String,
    /// On what: a job's id, a worker, a queue.
    pub target: String,
    /// More, such as the reason.
    pub detail: serde_json::Value,
    /// Whose thing it was; absent where it is the whole pool's, or that of several tenants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Where the request came from; absent for what was done beside the API, and for what the pool's operators did where a
    /// tenant asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What it was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<serde_json::Value>,
    /// What it was afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<serde_json::Value>,
}

/// Body of `POST /v1/dead-letters/redrive`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedriveRequest {
    /// The jobs to send round again.
    #[serde(default)]
    pub ids: Vec<JobId>,
    /// All dead letters of this kind, see [`DeadLetterGroup`].
    #[serde(default)]
    pub fingerprint: Option<String>,
    /// Why; it goes into the history.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Answer to `POST /v1/dead-letters/redrive`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RedriveReport {
    /// Sent round again.
    pub redriven: Vec<JobId>,
    /// Not, and why.
    pub refused: BTreeMap<String, String>,
}

/// Answer to cancel, retry and drain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Accepted {
    /// The state afterwards.
    pub state: String,
    /// More, in words.
    pub message: String,
}

/// Answer to `GET /ready`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Readiness {
    /// Whether everything needed works.
    pub ready: bool,
    /// Each part and what it says: `ok`, or what is wrong.
    pub parts: BTreeMap<String, String>,
}

/// One event of `GET /v1/jobs/{id}/events` (server-sent events). The name of the SSE event is the tag.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamEvent {
    /// The job, whenever it changed, and once at the start.
    Job(Box<JobView>),
    /// How far it is.
    Progress(Progress),
}

/// Answer to `GET /v1/jobs/{id}/explain`: why the job is what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// The job.
    pub id: JobId,
    /// Its number.
    pub number: i64,
    /// Its state.
    pub state: State,
    /// One sentence each: the present first, then what led to it.
    pub sentences: Vec<String>,
}

/// One scenario of `GET /v1/scenarios`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScenarioView {
    /// Its name.
    pub name: String,
    /// What it is, in words.
    pub description: String,
    /// Where it comes from.
    #[serde(default)]
    pub source: ScenarioSource,
    /// The scenario that it was declared to be like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extends: Option<String>,
    /// The built-in scenario at its root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Every parameter that differs from that.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub parameters: serde_json::Map<String, serde_json::Value>,
    /// Its resource limits.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub resource_limits: serde_json::Map<String, serde_json::Value>,
}

/// Where a scenario comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScenarioSource {
    /// Every ffpool has it.
    #[default]
    BuiltIn,
    /// The operator's scenario file.
    File,
}

impl ScenarioSource {
    /// In words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ScenarioSource::BuiltIn => "built in",
            ScenarioSource::File => "scenario file",
        }
    }
}

impl ScenarioView {
    /// A scenario that every ffpool has.
    #[must_use]
    pub fn built_in(name: impl Into<String>, description: impl Into<String>) -> ScenarioView {
        ScenarioView {
            name: name.into(),
            description: description.into(),
            source: ScenarioSource::BuiltIn,
            extends: None,
            base: None,
            parameters: serde_json::Map::new(),
            resource_limits: serde_json::Map::new(),
        }
    }
}

/// One template of `GET /v1/templates`, with what it has of its parents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TemplateView {
    /// Its name.
    pub name: String,
    /// What it is for, in words.
    pub description: String,
    /// The template that it was declared to be like.
    pub extends: Option<String>,
    /// Variables that must be given.
    pub required: Vec<String>,
    /// Variables that may be given, and their values when they are not.
    pub defaults: BTreeMap<String, String>,
    /// The job, with `{variable}` in its texts.
    pub job: serde_json::Map<String, serde_json::Value>,
}

/// What becomes of a due time that passed while no dispatcher was there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// Nothing.
    #[default]
    Skip,
    /// One job is made for all that were missed, with the last one's date.
    One,
}

impl Missed {
    /// The name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Missed::Skip => "skip",
            Missed::One => "one",
        }
    }

    /// By its name.
    #[must_use]
    pub fn of(name: &str) -> Option<Missed> {
        [Missed::Skip, Missed::One].into_iter().find(|missed| missed.as_str() == name)
    }
}

/// What happens at a due time while the schedule's last job has not ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// No job is made.
    #[default]
    Skip,
    /// A job is made all the same.
    Allow,
}

impl Overlap {
    /// The name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Overlap::Skip => "skip",
            Overlap::Allow => "allow",
        }
    }

    /// By its name.
    #[must_use]
    pub fn of(name: &str) -> Option<Overlap> {
        [Overlap::Skip, Overlap::Allow].into_iter().find(|overlap| overlap.as_str() == name)
    }
}

fn utc() -> String {
    "UTC".to_owned()
}

/// Body of `POST /v1/schedules`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleRequest {
    /// Its name.
    pub name: String,
    /// When: minute, hour, day, month and day of the week, such as `30 2 * * mon-fri`.
    pub cron: String,
    /// The IANA time zone in which that is meant.
    #[serde(default = "utc")]
    pub zone: String,
    /// The job, without an id; its texts may have placeholders such as `{date}`.
    pub job: serde_json::Map<String, serde_json::Value>,
    /// What becomes of missed due times.
    #[serde(default)]
    pub missed: Missed,
    /// What happens while the last job has not ended.
    #[serde(default)]
    pub overlap: Overlap,
    /// Whether it waits to be resumed.
    #[serde(default)]
    pub paused: bool,
}

/// One schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScheduleView {
    /// Its name.
    pub name: String,
    /// When.
    pub cron: String,
    /// The time zone in which that is meant.
    pub zone: String,
    /// The job, with placeholders.
    pub job: serde_json::Map<String, serde_json::Value>,
    /// What becomes of missed due times.
    pub missed: Missed,
    /// What happens while the last job has not ended.
    pub overlap: Overlap,
    /// Whether it makes no jobs until somebody resumes it.
    pub paused: bool,
    /// Whose key made it.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
    /// The next due times; none while it is paused.
    pub next: Vec<Timestamp>,
    /// The last job that it made.
    pub last_job: Option<JobId>,
    /// Whose it is, and its jobs; absent: the pool's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// What became of its last due times, newest first; only where one schedule is shown.
    #[serde(default)]
    pub runs: Vec<ScheduleRunView>,
}

/// What became of one due time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScheduleRunView {
    /// The due time.
    pub due: Timestamp,
    /// When it was decided.
    pub at: Timestamp,
    /// `submitted`, `skipped` (its last job had not ended), `missed` or `refused` (its job was not valid).
    pub outcome: String,
    /// The job that was made.
    pub job: Option<JobId>,
    /// More, in words.
    pub detail: Option<String>,
}

/// Answer to `GET /v1/cost`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CostReport {
    /// By what it is summed up.
    pub by: String,
    /// Jobs recorded at this instant or later.
    pub since: Timestamp,
    /// What had ended at this instant is summed up. It lies some minutes back where a sum over very many attempts is given once more;
    /// absent where a dispatcher of before does not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
    /// The prices in force now. Sums are of what attempts cost by those that were in force when they ended.
    pub prices: Prices,
    /// The sums, the most processor time first.
    pub rows: Vec<CostRow>,
}

/// What the attempts of some jobs used and cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CostRow {
    /// Of what; absent for jobs without.
    pub key: Option<String>,
    /// Jobs.
    pub jobs: i64,
    /// Attempts that have ended.
    pub attempts: i64,
    /// Of these, attempts of which nobody told what they used, as those of lost workers.
    pub unmeasured: i64,
    /// What the others used.
    #[serde(flatten)]
    pub used: Hours,
    /// Attempts that were measured, but whose worker could not read energy.
    #[serde(default)]
    pub unmetered: i64,
    /// Attempts that were measured and ended when there were no prices, or prices in another currency.
    #[serde(default)]
    pub unpriced: i64,
    /// What the others cost; absent where there are none.
    pub cost: Option<f64>,
}

/// An error, RFC 9457 (`application/problem+json`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error, JsonSchema)]
#[error("{title}: {detail}")]
pub struct Problem {
    /// A stable name for the kind of problem, such as `/problems/invalid-job`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened and what to do.
    pub detail: String,
    /// Everything wrong with a job.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
    /// When the same may be asked again, in milliseconds: `Retry-After` as exactly as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}
