//! What the ledger tells: jobs, workers, queues and logs, as the API answers them.
//!
//! Invariant: nothing here changes a job, and no read outlives [`READ_BOUND`], whatever state Postgres is in.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{PoolError, Transaction};
use ffpool_runtime::traces::{self, JobTrace};
use ffpool_schema::api::{
    Amount, AttemptView, AuditView, ChunksView, DeadLetterGroup, EventView, JobDetail, JobView, Searched, Submitted,
};
use ffpool_schema::failure::Cause;
use ffpool_schema::id::{JobId, WorkerId};
use ffpool_schema::job::{JobSpec, Priority, Queue};
use ffpool_schema::lifecycle::State;
use ffpool_schema::location::redact;
use ffpool_schema::message::LogLine;
use ffpool_schema::topology::WorkQueue;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, Json, ToSql};
use tokio_postgres::{IsolationLevel, Row};
use uuid::Uuid;

use super::batch::in_chunks;
use super::record::is_alone;
use super::search::{LOOKED_MAX, ids_from, small};
use super::{Ledger, Realm};

/// Longest that one read takes. The pool's wait (3 s) and the statement timeout (5 s) normally end it before; this one
/// also holds when the server is frozen and says nothing.
pub const READ_BOUND: Duration = Duration::from_secs(8);
/// Attempts and events of one job that are shown at most, the last ones.
const HISTORY_MAX: i64 = 1000;
/// Parents of one job that are named at most.
const PARENTS_MAX: i64 = 100;
/// Kinds of dead letters that are shown at most, the most frequent.
const KINDS_MAX: i64 = 1000;

pub(super) const JOB_COLUMNS: &str = "id, number, state, queue, priority, pool, scenario, tenant, labels, attempt, failures, \
     max_retries, owner_worker, custody, created_at, CASE WHEN held_by IS NULL THEN publish_due END AS publish_due, started_at, ended_at, progress, failure, reason, faults, \
     paused, frozen_since, deadline, part_of, chunks, traceparent, \
     (SELECT array_agg(parent) FROM dependency WHERE child = job.id AND (job.chunks IS NULL OR NOT EXISTS \
         (SELECT FROM job AS part WHERE part.id = dependency.parent AND part.part_of = dependency.child))) AS parents, \
     CASE WHEN chunks IS NOT NULL THEN (SELECT jsonb_build_object( \
         'missing', count(*) FILTER (WHERE part.state <> 'completed'), \
         'running', count(*) FILTER (WHERE part.state IN ('running', 'cancelling')), \
         'percent', coalesce(sum((part.progress ->> 'percent')::float8) FILTER (WHERE part.state = 'running'), 0)) \
         FROM dependency JOIN job AS part ON part.id = dependency.parent AND part.part_of = dependency.child \
         WHERE dependency.child = job.id) END AS parts";

/// Why the ledger could not tell. Many may wait for one answer, so it can be told to each of them.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// No connection to Postgres.
    #[error("connect to the ledger")]
    Connect(#[source] Arc<PoolError>),
    /// Postgres refused or lost the query.
    #[error("query the ledger")]
    Query(#[source] Arc<tokio_postgres::Error>),
    /// Postgres ended the query at its statement timeout: too many rows had to be looked at.
    #[error("a query of the ledger took too long")]
    TooSlow,
    /// Postgres is silent.
    #[error("the ledger did not answer within {} s", READ_BOUND.as_secs())]
    Silent,
    /// A row that this version does not understand.
    #[error("read column `{column}` of the ledger: {problem}")]
    Row {
        /// The column.
        column: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl From<tokio_postgres::Error> for ReadError {
    fn from(error: tokio_postgres::Error) -> ReadError {
        match error.code() {
            Some(&SqlState::QUERY_CANCELED) => ReadError::TooSlow,
            _ => ReadError::Query(Arc::new(error)),
        }
    }
}

impl From<PoolError> for ReadError {
    fn from(error: PoolError) -> ReadError {
        ReadError::Connect(Arc::new(error))
    }
}

/// Which job is meant: by its id or by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobRef {
    /// By id.
    Id(JobId),
    /// By number.
    Number(i64),
}

/// Which jobs are listed. Absent means all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobFilter {
    /// Whose jobs may be seen.
    pub realm: Realm,
    /// In this state.
    pub state: Option<State>,
    /// In this queue.
    pub queue: Option<Queue>,
    /// Of this priority.
    pub priority: Option<Priority>,
    /// Run by this worker now, or last.
    pub worker: Option<WorkerId>,
    /// With all of these labels.
    pub labels: Vec<(String, String)>,
    /// Of this tenant.
    pub tenant: Option<String>,
    /// Recorded at or after.
    pub since: Option<Timestamp>,
    /// That failed by this cause at some time.
    pub cause: Option<Cause>,
    /// Dead letters by this cause.
    pub parked_by: Option<Cause>,
    /// With this in their addresses or labels, or at the beginning of their id.
    pub search: Option<String>,
    /// That make chunks of this job. Absent: none that makes a chunk.
    pub part_of: Option<JobId>,
    /// Dead letters of this kind.
    pub fingerprint: Option<String>,
    /// With a number below: where the page before ended.
    pub before: Option<i64>,
    /// So many at most.
    pub limit: u16,
}

/// One page of jobs.
#[derive(Debug, Clone, Default)]
pub struct Listed {
    /// The rows, newest first.
    pub jobs: Vec<JobView>,
    /// More follow below this number.
    pub next: Option<i64>,
    /// How far was looked, where a text was searched for.
    pub searched: Option<Searched>,
}

/// What a job's next attempt depends on besides its row as the API shows it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Circumstances {
    /// The jobs it waits for that have not completed, those that are recorded first.
    pub missing: Vec<Parent>,
    /// Workers that were lost while they ran it, since it was last sent round.
    pub losses: u32,
    /// Whether its next attempt runs without another job beside it, because of these losses.
    pub is_alone: bool,
    /// Memory of its next attempt in MiB, when the last ran out of it.
    pub raised_memory_mb: Option<i64>,
    /// Whether its next attempt uses software because the device failed.
    pub fell_back: bool,
    /// Whether a worker was offered it, and keeps room for it or was not heard yet.
    pub is_offered: bool,
    /// Whether the quota of its tenant holds it back.
    pub is_held: bool,
    /// Where it is queued and tenants take turns: all that wait there, the next first.
    pub turns: Vec<TenantTurn>,
}

/// A tenant whose jobs wait in one work queue with those of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantTurn {
    /// Its name.
    pub tenant: String,
    /// Its share.
    pub weight: i32,
    /// Jobs of that queue that run for it, as the leader counted them when it last looked, a moment ago.
    pub running: i64,
}

/// A job that was submitted before, as a repeat is compared with it.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// What its submission was answered with, and its present state.
    pub submitted: Submitted,
    /// Whose it is.
    pub tenant: Option<String>,
    /// Its canonical form; absent when it could not be read.
    pub spec: Option<JobSpec>,
    /// Its body.
    pub body: Vec<u8>,
}

/// A job that another waits for.
#[derive(Debug, Clone, PartialEq)]
pub struct Parent {
    /// Its id.
    pub id: JobId,
    /// Its number and state; absent when it is not recorded.
    pub known: Option<(i64, State)>,
}

/// Jobs that have not ended, of one work queue.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueCount {
    /// The work queue.
    pub work: WorkQueue,
    /// In state `queued`.
    pub queued: i64,
    /// In state `running` or `cancelling`.
    pub running: i64,
    /// In state `delayed` or `blocked`.
    pub delayed: i64,
    /// When the oldest queued job was recorded.
    pub oldest: Option<Timestamp>,
}

impl Ledger {
    /// One job of a realm with its history.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn job(&self, realm: &Realm, job: JobRef) -> Result<Option<JobDetail>, ReadError> {
        bounded(async {
            let mut client = self.pool().get().await?;
            // One snapshot, so that the row and its history agree.
            let snapshot = client
                .build_transaction()
                .isolation_level(IsolationLevel::RepeatableRead)
                .read_only(true)
                .start()
                .await?;
            let condition = key_condition(&job);
            let sql = format!(
                "SELECT {JOB_COLUMNS}, spec, manifest, EXISTS (SELECT FROM thumbnail WHERE thumbnail.job = job.id) AS has_thumbnail \
                 FROM job WHERE {} AND {IN_REALM}",
                condition.0
            );
            let statement = snapshot.prepare_cached(&sql).await?;
            let Some(row) = snapshot.query_opt(&statement, &[condition.1, &realm.tenant()]).await? else {
                return Ok(None);
            };
            let mut view = job_view(&row)?;
            let attempts = snapshot.prepare_cached(ATTEMPTS).await?;
            let events = snapshot.prepare_cached(EVENTS).await?;
            let attempts = snapshot.query(&attempts, &[&view.id.0, &HISTORY_MAX]).await?;
            let events = snapshot.query(&events, &[&view.id.0, &HISTORY_MAX]).await?;
            let callbacks = super::callbacks::of_job(&*snapshot, view.id).await?;
            super::cost::fill_in(&snapshot, std::slice::from_mut(&mut view), self.prices()).await?;
            let trace = trace(&row)?;
            let attempts = attempts.iter().rev().map(|row| attempt_view(row, &trace));
            let attempts: Vec<AttemptView> = attempts.collect::<Result<_, _>>()?;
            Ok(Some(JobDetail {
                callbacks,
                spec: json(&row, "spec")?.map(without_secrets),
                manifest: json(&row, "manifest")?,
                attempts,
                events: events.iter().rev().map(event_view).collect::<Result<_, _>>()?,
                trace_url: None,
                has_thumbnail: row.try_get("has_thumbnail")?,
                job: view,
            }))
        })
        .await
    }

    /// One job of a realm without its history: cheap enough to ask twice a second.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn job_summary(&self, realm: &Realm, job: JobRef) -> Result<Option<JobView>, ReadError> {
        bounded(async {
            let client = self.pool().get().await?;
            let condition = key_condition(&job);
            let sql = format!("SELECT {JOB_COLUMNS} FROM job WHERE {} AND {IN_REALM}", condition.0);
            let statement = client.prepare_cached(&sql).await?;
            let row = client.query_opt(&statement, &[condition.1, &realm.tenant()]).await?;
            row.as_ref().map(job_view).transpose()
        })
        .await
    }

    /// What a job's next attempt depends on.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn circumstances(&self, job: JobId) -> Result<Circumstances, ReadError> {
        bounded(async {
            let client = self.pool().get().await?;
            let parents = client.query(&client.prepare_cached(MISSING).await?, &[&job.0, &PARENTS_MAX]).await?;
            let missing = parents.iter().map(parent).collect::<Result<_, ReadError>>()?;
            let row = client.query_opt(&client.prepare_cached(LESSONS).await?, &[&job.0]).await?;
            let Some(row) = row else { return Ok(Circumstances { missing, ..Circumstances::default() }) };
            let losses = count(&row, "losses")?;
            let turns = client.query(&client.prepare_cached(TURNS).await?, &[&job.0]).await?;
            Ok(Circumstances {
                turns: turns.iter().map(tenant_turn).collect::<Result<_, _>>()?,
                missing,
                losses,
                is_alone: is_alone(losses, row.try_get("in_chunks")?),
                raised_memory_mb: row.try_get("raised_memory_mb")?,
                fell_back: row.try_get("fell_back")?,
                is_offered: row.try_get("is_offered")?,
                is_held: row.try_get("is_held")?,
            })
        })
        .await
    }

    /// What a repeat of a submission is compared with: the job, its canonical form and its body.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn submitted(&self, job: JobId) -> Result<Option<Recorded>, ReadError> {
        bounded(async {
            let client = self.pool().get().await?;
            let row = client.query_opt(&client.prepare_cached(SUBMITTED).await?, &[&job.0]).await?;
            row.map(|row| {
                let submitted = Submitted { id: job, number: row.try_get("number")?, state: named(&row, "state")? };
                Ok(Recorded {
                    submitted,
                    tenant: row.try_get("tenant")?,
                    spec: json(&row, "spec")?,
                    body: row.try_get("body")?,
                })
            })
            .transpose()
        })
        .await
    }

    /// One page of jobs, newest first.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn jobs(&self, filter: &JobFilter) -> Result<Listed, ReadError> {
        bounded(async {
            let mut client = self.pool().get().await?;
            // One snapshot, so that how far was looked is said of the same jobs.
            let snapshot = client
                .build_transaction()
                .isolation_level(IsolationLevel::RepeatableRead)
                .read_only(true)
                .start()
                .await?;
            let mut listed = list(&snapshot, filter).await?;
            super::cost::fill_in(&snapshot, &mut listed.jobs, self.prices()).await?;
            Ok(listed)
        })
        .await
    }

    /// One page of failed jobs, newest first.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn dead_letters(&self, filter: &JobFilter) -> Result<Listed, ReadError> {
        let (state, parked_by) = (Some(State::Failed), filter.cause);
        self.jobs(&JobFilter { state, parked_by, cause: None, ..filter.clone() }).await
    }

    /// The kinds of a realm's dead letters, the most frequent first.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn dead_letter_groups(&self, realm: &Realm) -> Result<Vec<DeadLetterGroup>, ReadError> {
        bounded(async {
            let client = self.pool().get().await?;
            let rows = client.query(&client.prepare_cached(KINDS).await?, &[&KINDS_MAX, &realm.tenant()]).await?;
            rows.iter()
                .map(|row| {
                    Ok(DeadLetterGroup {
                        fingerprint: row.try_get("fingerprint")?,
                        cause: row.try_get("cause")?,
                        example: row.try_get("example")?,
                        example_job: JobId(row.try_get("example_job")?),
                        count: row.try_get("count")?,
                        first: row.try_get("first")?,
                        last: row.try_get("last")?,
                    })
                })
                .collect()
        })
        .await
    }

    /// Entries of the audit that concern a realm, with their numbers, newest first, and whether more follow; those below `before`, if given.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn audit_entries(
        &self,
        realm: &Realm,
        before: Option<i64>,
        limit: u16,
    ) -> Result<(Vec<(i64, AuditView)>, bool), ReadError> {
        bounded(async {
            let client = self.pool().get().await?;
            // One more than asked for tells whether there is a next page.
            let wanted = i64::from(limit) + 1;
            let rows = client.query(&client.prepare_cached(AUDIT).await?, &[&before, &wanted, &realm.tenant()]).await?;
            let limit = usize::from(limit);
            let entries = rows.iter().take(limit).map(audit_view).collect::<Result<_, _>>()?;
            Ok((entries, rows.len() > limit))
        })
        .await
    }

    /// The last `lines` lines of a job's tool, first to last; of all attempts, or of one.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn log(&self, job: JobId, attempt: Option<u32>, lines: u16) -> Result<Vec<LogLine>, ReadError> {
        bounded(async {
            let client = self.pool().get().await?;
            let statement = client.prepare_cached(LOG).await?;
            let attempt = attempt.map(|attempt| i32::try_from(attempt).unwrap_or(i32::MAX));
            let rows = client.query(&statement, &[&job.0, &attempt, &i64::from(lines)]).await?;
            rows.iter()
                .rev()
                .map(|row| {
                    Ok(LogLine {
                        job,
                        attempt: count(row, "attempt")?,
                        seq: u64::try_from(row.try_get::<_, i64>("seq")?).unwrap_or(0),
                        line: row.try_get("line")?,
                    })
                })
                .collect()
        })
        .await
    }

    /// What waits and runs of a realm, by work queue; queues without a job are absent.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn queues(&self, realm: &Realm) -> Result<Vec<QueueCount>, ReadError> {
        bounded(async {
            let client = self.pool().get().await?;
            let rows = client.query(&client.prepare_cached(QUEUES).await?, &[&realm.tenant()]).await?;
            rows.iter()
                .map(|row| {
                    Ok(QueueCount {
                        work: WorkQueue {
                            queue: named(row, "queue")?,
                            priority: named(row, "priority")?,
                            pool: named(row, "pool")?,
                        },
                        queued: row.try_get("queued")?,
                        running: row.try_get("running")?,
                        delayed: row.try_get("delayed")?,
                        oldest: row.try_get("oldest")?,
                    })
                })
                .collect()
        })
        .await
    }
}

const SUBMITTED: &str = "SELECT number, state, tenant, spec, body FROM job WHERE id = $1";

const MISSING: &str = "SELECT dependency.parent, job.number, job.state FROM dependency \
     JOIN job AS child ON child.id = dependency.child \
     LEFT JOIN job ON job.id = dependency.parent AND (child.tenant IS NULL OR job.tenant = child.tenant) \
     WHERE dependency.child = $1 AND job.state IS DISTINCT FROM 'completed' \
           AND job.part_of IS DISTINCT FROM dependency.child ORDER BY job.number LIMIT $2";

const LESSONS: &str = concat!(
    "SELECT losses, raised_memory_mb, fell_back, offered_worker IS NOT NULL AS is_offered, \
            held_by IS NOT NULL AND state = 'delayed' AS is_held, ",
    in_chunks!(),
    " FROM job WHERE id = $1"
);

// What the leader wrote a moment ago, and counted then: where it writes no more, nobody takes turns.
const TURNS: &str = "SELECT t.tenant, t.weight, coalesce(t.running, 0) AS running \
     FROM job JOIN tenant_turn AS t ON (t.queue, t.priority, t.pool) = (job.queue, job.priority, job.pool) \
     WHERE job.id = $1 AND job.state = 'queued' AND job.tenant IS NOT NULL AND t.waits \
           AND t.looked_at > now() - interval '5 seconds' \
     ORDER BY t.had, t.tenant";

const ATTEMPTS: &str = "SELECT attempt, worker, started_at, ended_at, outcome, failure, usage, cost, currency FROM attempt \
     WHERE job = $1 ORDER BY attempt DESC LIMIT $2";

const EVENTS: &str =
    "SELECT at, kind, state, attempt, detail FROM event WHERE job = $1 ORDER BY at DESC, seq DESC LIMIT $2";

const LOG: &str = "SELECT attempt, seq, line FROM log_line WHERE job = $1 AND ($2::integer IS NULL OR attempt = $2) \
     ORDER BY attempt DESC, seq DESC LIMIT $3";

// A dead letter is grouped by its fingerprint; the newest of a kind stands for it.
const KINDS: &str = "WITH kind AS ( \
        SELECT dead_fingerprint AS fingerprint, count(*) AS count, max(number) AS example, \
               min(coalesce(ended_at, state_since)) AS first, max(coalesce(ended_at, state_since)) AS last \
        FROM job WHERE state = 'failed' AND dead_fingerprint IS NOT NULL AND part_of IS NULL \
              AND ($2::text IS NULL OR tenant = $2) \
        GROUP BY dead_fingerprint ORDER BY count(*) DESC, max(number) DESC LIMIT $1) \
     SELECT kind.fingerprint, kind.count, kind.first, kind.last, job.id AS example_job, \
            coalesce(job.failure ->> 'cause', job.last_cause, 'unknown') AS cause, \
            coalesce(job.failure ->> 'message', job.reason, '') AS example \
     FROM kind JOIN job ON job.number = kind.example ORDER BY kind.count DESC, kind.example DESC";

// From where the pool's operators work is no tenant's business.
const AUDIT: &str = "SELECT id, at, actor, action, subject, detail, tenant, before, after, \
            CASE WHEN $3::text IS NULL OR actor_tenant = $3 THEN address END AS address \
     FROM audit WHERE ($1::bigint IS NULL OR id < $1) AND ($3::text IS NULL OR tenant = $3) ORDER BY id DESC LIMIT $2";

// Two arms with the predicates of the two partial indexes, word for word.
const QUEUES: &str = "SELECT queue, priority, pool, sum(queued)::bigint AS queued, sum(running)::bigint AS running, \
            sum(delayed)::bigint AS delayed, min(oldest) AS oldest \
     FROM (SELECT queue, priority, pool, \
                  count(*) FILTER (WHERE state = 'queued') AS queued, 0::bigint AS running, \
                  count(*) FILTER (WHERE state <> 'queued') AS delayed, \
                  min(created_at) FILTER (WHERE state = 'queued') AS oldest \
           FROM job WHERE state IN ('blocked', 'delayed', 'queued') AND ($1::text IS NULL OR tenant = $1) \
           GROUP BY queue, priority, pool \
           UNION ALL \
           SELECT queue, priority, pool, 0, count(*), 0, NULL \
           FROM job WHERE state IN ('running', 'cancelling') AND ($1::text IS NULL OR tenant = $1) \
           GROUP BY queue, priority, pool) AS counted \
     GROUP BY queue, priority, pool";

/// Ends a conversation with Postgres after [`READ_BOUND`].
pub(super) async fn bounded<T>(read: impl Future<Output = Result<T, ReadError>>) -> Result<T, ReadError> {
    tokio::time::timeout(READ_BOUND, read).await.unwrap_or(Err(ReadError::Silent))
}

fn tenant_turn(row: &Row) -> Result<TenantTurn, ReadError> {
    let (tenant, weight, running) = (row.try_get("tenant")?, row.try_get("weight")?, row.try_get("running")?);
    Ok(TenantTurn { tenant, weight, running })
}

/// Of a job by its key: whether it is in the realm of `$2`.
const IN_REALM: &str = "($2::text IS NULL OR tenant = $2)";

fn key_condition(job: &JobRef) -> (&'static str, &(dyn ToSql + Sync)) {
    match job {
        JobRef::Id(id) => ("id = $1", &id.0),
        JobRef::Number(number) => ("number = $1", number),
    }
}

struct Query {
    sql: String,
    values: Vec<Box<dyn ToSql + Sync + Send>>,
}

impl Query {
    /// As the client takes them.
    fn values(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.values.iter().map(|value| &**value as &(dyn ToSql + Sync)).collect()
    }

    /// Adds `AND <left> $n`.
    fn and(&mut self, left: &str, value: impl ToSql + Sync + Send + 'static) {
        self.values.push(Box::new(value));
        self.sql.push_str(&format!(" AND {left} ${}", self.values.len()));
    }
}

/// One page of a list.
async fn list(snapshot: &Transaction<'_>, filter: &JobFilter) -> Result<Listed, ReadError> {
    let Some(text) = &filter.search else { return ask(snapshot, list_query(filter, None), filter.limit).await };
    if let Some((low, high)) = ids_from(text) {
        let found = ask(snapshot, list_query(filter, Some(&Sought::Ids(low, high))), filter.limit).await?;
        if !found.jobs.is_empty() {
            return Ok(Listed { searched: Some(Searched { back_to: None, is_all: true }), ..found });
        }
    }
    let found = ask(snapshot, list_query(filter, Some(&Sought::Text(text.clone()))), filter.limit).await?;
    if found.next.is_some() {
        let back_to = found.jobs.last().map(|last| last.created_at);
        return Ok(Listed { searched: Some(Searched { back_to, is_all: false }), ..found });
    }
    let mut end = Query { sql: "SELECT number FROM job_text WHERE true".to_owned(), values: Vec::new() };
    within(&mut end, filter);
    end.sql.push_str(&format!(" ORDER BY number DESC OFFSET {} LIMIT 1", LOOKED_MAX - 1));
    let sql =
        format!("SELECT last.number, job.created_at FROM ({}) AS last JOIN job ON job.number = last.number", end.sql);
    let last = snapshot.query_opt(&sql, &end.values()).await?;
    let last: Option<(i64, Timestamp)> =
        last.map(|row| Ok::<_, ReadError>((row.try_get(0)?, row.try_get(1)?))).transpose()?;
    // Who asks for what was recorded since some instant need not look behind it.
    let last = last.filter(|(_, at)| filter.since.is_none_or(|since| since <= *at));
    let searched = Searched { back_to: last.map(|(_, at)| at), is_all: last.is_none() };
    Ok(Listed { next: last.map(|(number, _)| number), searched: Some(searched), ..found })
}

async fn ask(snapshot: &Transaction<'_>, query: Query, limit: u16) -> Result<Listed, ReadError> {
    let limit = usize::from(limit);
    let rows = snapshot.query(&query.sql, &query.values()).await?;
    let jobs = rows.iter().take(limit).map(job_view).collect::<Result<Vec<_>, _>>()?;
    let next = jobs.last().map(|last| last.number).filter(|_| rows.len() > limit);
    Ok(Listed { jobs, next, searched: None })
}

/// What is searched for in one query.
enum Sought {
    /// Ids from the first to the last.
    Ids(Uuid, Uuid),
    /// A text, in the newest [`LOOKED_MAX`] jobs of the page.
    Text(String),
}

/// Narrows rows of `job_text` to those that a page may have.
fn within(query: &mut Query, filter: &JobFilter) {
    if let Some(own) = filter.realm.tenant() {
        query.and("tenant =", own.to_owned());
    }
    if let Some(before) = filter.before {
        query.and("number <", before);
    }
}

/// The jobs that are looked at: all of them, or those that a text or a cause leads to, newest first.
fn sources(filter: &JobFilter, sought: Option<&Sought>) -> Query {
    let mut query = Query { sql: "job".to_owned(), values: Vec::new() };
    if let Some(cause) = filter.cause {
        query.sql.push_str(" JOIN (SELECT DISTINCT number AS failed FROM failure WHERE true");
        query.and("cause =", cause.as_str());
        if let Some(before) = filter.before {
            query.and("number <", before);
        }
        query.sql.push_str(" ORDER BY number DESC) AS failures ON job.number = failures.failed");
    }
    if let Some(Sought::Text(text)) = sought {
        query.sql.push_str(" JOIN (SELECT number AS found FROM (SELECT number, text FROM job_text WHERE true");
        within(&mut query, filter);
        query.values.push(Box::new(small(text)));
        // Without a pattern: nothing of what is searched for has a meaning of its own.
        query.sql.push_str(&format!(
            " ORDER BY number DESC LIMIT {LOOKED_MAX}) AS looked WHERE strpos(text, ${}::text) > 0) AS texts \
             ON job.number = texts.found",
            query.values.len()
        ));
    }
    query
}

fn list_query(filter: &JobFilter, sought: Option<&Sought>) -> Query {
    let JobFilter {
        realm,
        state,
        queue,
        priority,
        worker,
        labels,
        tenant,
        since,
        part_of,
        fingerprint,
        before,
        limit,
        ..
    } = filter;
    let mut query = sources(filter, sought);
    query.sql = format!("SELECT {JOB_COLUMNS} FROM {} WHERE true", query.sql);
    if let Some(Sought::Ids(low, high)) = sought {
        query.and("job.id >=", *low);
        query.and("job.id <=", *high);
    }
    if let Some(own) = realm.tenant() {
        query.and("job.tenant =", own.to_owned());
    }
    if let Some(state) = state {
        // As a literal, so that the planner sees which partial index applies. The names are a closed set of plain words.
        query.sql.push_str(&format!(" AND state = '{state}'"));
    }
    match part_of {
        Some(whole) => query.and("part_of =", whole.0),
        None => query.sql.push_str(" AND part_of IS NULL"),
    }
    if let Some(queue) = queue {
        query.and("queue =", queue.as_str());
    }
    if let Some(priority) = priority {
        query.and("priority =", priority.as_str());
    }
    if let Some(worker) = worker {
        query.and("owner_worker =", worker.to_string());
    }
    if !labels.is_empty() {
        let wanted: serde_json::Map<String, serde_json::Value> =
            labels.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
        // Spelled out for the partial index on labels.
        query.sql.push_str(" AND labels <> '{}'::jsonb");
        query.and("labels @>", Json(wanted));
    }
    if let Some(tenant) = tenant {
        query.and("tenant =", tenant.clone());
    }
    if let Some(since) = since {
        query.and("created_at >=", *since);
    }
    if let Some(fingerprint) = fingerprint {
        query.and("dead_fingerprint =", fingerprint.clone());
    }
    if let Some(parked_by) = filter.parked_by {
        query.and("last_cause =", parked_by.as_str());
    }
    if let Some(before) = before {
        query.and("number <", *before);
    }
    // One more than asked for tells whether there is a next page.
    query.sql.push_str(&format!(" ORDER BY number DESC LIMIT {}", u32::from(*limit) + 1));
    query
}

pub(super) fn job_view(row: &Row) -> Result<JobView, ReadError> {
    let state: State = named(row, "state")?;
    let running = matches!(state, State::Running | State::Cancelling);
    let delayed = state == State::Delayed;
    Ok(JobView {
        id: JobId(row.try_get("id")?),
        number: row.try_get("number")?,
        state,
        queue: row.try_get("queue")?,
        priority: row.try_get("priority")?,
        pool: row.try_get("pool")?,
        scenario: row.try_get("scenario")?,
        tenant: row.try_get("tenant")?,
        labels: json(row, "labels")?.unwrap_or_default(),
        attempt: count(row, "attempt")?,
        failures: count(row, "failures")?,
        max_retries: count(row, "max_retries")?,
        worker: named_opt(row, "owner_worker")?,
        custody: row.try_get("custody")?,
        created_at: row.try_get("created_at")?,
        due_at: if delayed { row.try_get("publish_due")? } else { None },
        started_at: row.try_get("started_at")?,
        ended_at: row.try_get("ended_at")?,
        paused: row.try_get("paused")?,
        frozen_since: if running { row.try_get("frozen_since")? } else { None },
        deadline: row.try_get("deadline")?,
        depends_on: parents(row)?,
        progress: if running { json(row, "progress")? } else { None },
        part_of: row.try_get::<_, Option<Uuid>>("part_of")?.map(JobId),
        chunks: chunks(row)?,
        failure: json(row, "failure")?,
        reason: row.try_get("reason")?,
        faults: json(row, "faults")?.unwrap_or_default(),
        cost: None,
        energy_joules: None,
        trace_id: Some(trace(row)?.root().trace_id()),
    })
}

/// The trace of the job in a row.
fn trace(row: &Row) -> Result<JobTrace, ReadError> {
    Ok(traces::of_job(JobId(row.try_get("id")?), row.try_get("traceparent")?))
}

/// Chunks whose jobs a job waits for, as they are now.
#[derive(serde::Deserialize)]
struct Parts {
    missing: u32,
    running: u32,
    /// Percent of each chunk that is being made, added up.
    percent: f64,
}

fn chunks(row: &Row) -> Result<Option<ChunksView>, ReadError> {
    let (total, parts): (Option<i32>, Option<Parts>) = (row.try_get("chunks")?, json(row, "parts")?);
    Ok(total.zip(parts).map(|(total, parts)| {
        let total = u32::try_from(total).unwrap_or(0);
        let done = total.saturating_sub(parts.missing);
        let percent = (f64::from(done) * 100.0 + parts.percent) / f64::from(total.max(1));
        ChunksView { done, running: parts.running, total, percent }
    }))
}

fn parents(row: &Row) -> Result<Vec<JobId>, ReadError> {
    let ids: Option<Vec<uuid::Uuid>> = row.try_get("parents")?;
    Ok(ids.unwrap_or_default().into_iter().map(JobId).collect())
}

fn attempt_view(row: &Row, trace: &JobTrace) -> Result<AttemptView, ReadError> {
    let attempt = count(row, "attempt")?;
    Ok(AttemptView {
        attempt,
        worker: named(row, "worker")?,
        started_at: row.try_get("started_at")?,
        ended_at: row.try_get("ended_at")?,
        outcome: row.try_get("outcome")?,
        failure: json(row, "failure")?,
        usage: json(row, "usage")?,
        cost: row
            .try_get::<_, Option<f64>>("cost")?
            .zip(row.try_get("currency")?)
            .map(|(amount, currency)| Amount { amount, currency }),
        span_id: Some(trace.attempt(attempt).span_id()),
    })
}

fn event_view(row: &Row) -> Result<EventView, ReadError> {
    Ok(EventView {
        at: row.try_get("at")?,
        kind: row.try_get("kind")?,
        state: named(row, "state")?,
        attempt: count(row, "attempt")?,
        detail: row.try_get("detail")?,
    })
}

fn parent(row: &Row) -> Result<Parent, ReadError> {
    let number: Option<i64> = row.try_get("number")?;
    let known = number.map(|number| Ok::<_, ReadError>((number, named(row, "state")?))).transpose()?;
    Ok(Parent { id: JobId(row.try_get("parent")?), known })
}

fn audit_view(row: &Row) -> Result<(i64, AuditView), ReadError> {
    let view = AuditView {
        at: row.try_get("at")?,
        who: row.try_get("actor")?,
        action: row.try_get("action")?,
        target: row.try_get("subject")?,
        detail: row.try_get("detail")?,
        tenant: row.try_get("tenant")?,
        address: row.try_get("address")?,
        before: row.try_get("before")?,
        after: row.try_get("after")?,
    };
    Ok((row.try_get("id")?, view))
}

fn count(row: &Row, column: &'static str) -> Result<u32, ReadError> {
    let value: i32 = row.try_get(column)?;
    u32::try_from(value).map_err(|_| ReadError::Row { column, problem: format!("{value} is negative") })
}

/// A column whose text names one of a closed set.
pub(super) fn named<T>(row: &Row, column: &'static str) -> Result<T, ReadError>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    parse_name(row.try_get(column)?, column)
}

fn named_opt<T>(row: &Row, column: &'static str) -> Result<Option<T>, ReadError>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    row.try_get::<_, Option<&str>>(column)?.map(|text| parse_name(text, column)).transpose()
}

fn parse_name<T>(text: &str, column: &'static str) -> Result<T, ReadError>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    text.parse().map_err(|error: T::Err| ReadError::Row { column, problem: error.to_string() })
}

/// The job as it is shown: a signed address and the key of a live stream are as good as a password.
pub(crate) fn without_secrets(mut spec: JobSpec) -> JobSpec {
    for output in &mut spec.outputs {
        output.url = redact(&output.url);
    }
    let shown = |address: Option<String>| address.map(|address| redact(&address));
    let (input, output, callback_url) = (shown(spec.input), shown(spec.output), shown(spec.callback_url));
    JobSpec { input, output, callback_url, ..spec }
}

fn json<T: DeserializeOwned>(row: &Row, column: &'static str) -> Result<Option<T>, ReadError>
where
    for<'a> Json<T>: FromSql<'a>,
{
    Ok(row.try_get::<_, Option<Json<T>>>(column)?.map(|Json(value)| value))
}

pub(super) fn required<T: DeserializeOwned>(row: &Row, column: &'static str) -> Result<T, ReadError>
where
    for<'a> Json<T>: FromSql<'a>,
{
    json(row, column)?.ok_or_else(|| ReadError::Row { column, problem: "it is null".to_owned() })
}
