//! What the leader looks for now and then: jobs whose message is missing, commands to repeat, months to come, counts.

use std::time::Duration;

use ffpool_schema::id::JobId;
use ffpool_schema::job::Pool;
use ffpool_schema::lifecycle::{Input, Tell};
use ffpool_schema::topology::WorkQueue;

use super::batch::natural;
use super::{Happening, Ledger, OnlyIf, TellOwner, Unavailable};

/// A job that came without an id has waited for at least so long before its message counts as missing: by then it has been
/// delivered again if it still exists, and the copy that the ledger publishes is not taken for a second job.
const ANONYMOUS_MISSING: Duration = Duration::from_secs(30);
/// Jobs that are published again in one sweep.
const RESCUED_MAX: i64 = 500;
/// A year and more: a job that names a parent older than this names it by mistake.
const PURGED_KEPT_DAYS: i32 = 400;
/// Commands repeated in one sweep.
const TELLS_MAX: i64 = 1_000;
/// Jobs whose deadline has passed that are ended in one sweep.
const DEADLINES_MAX: i64 = 500;

impl Ledger {
    /// What owners have been told and have not done yet: to end an attempt, to end it with what it has, to freeze it, to thaw it.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn unheeded(&self) -> Result<Vec<TellOwner>, Unavailable> {
        self.bounded(async {
            let client = self.pool().get().await?;
            let statement = client.prepare_cached(UNHEEDED).await?;
            let rows = client.query(&statement, &[&TELLS_MAX]).await?;
            rows.iter()
                .map(|row| {
                    let tell = match row.try_get::<_, &str>(2)? {
                        "cancel" => Tell::Cancel,
                        "pause" => Tell::Pause,
                        "finish" => Tell::Finish,
                        "resume" => Tell::Resume,
                        other => return Err(Unavailable::because(format!("the ledger tells `{other}`"))),
                    };
                    Ok(TellOwner { job: JobId(row.try_get(0)?), attempt: natural(row.try_get(1)?), tell })
                })
                .collect()
        })
        .await
    }

    /// Ends jobs whose deadline has passed: those that wait, and those that run and do not publish yet.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn end_overdue(&self) -> Result<usize, Unavailable> {
        let overdue: Vec<Happening> = self
            .bounded(async {
                let client = self.pool().get().await?;
                let statement = client.prepare_cached(DEADLINE_OVER).await?;
                let rows = client.query(&statement, &[&DEADLINES_MAX]).await?;
                rows.iter()
                    .map(|row| {
                        let passed = Happening::new(JobId(row.try_get(0)?), Input::DeadlinePassed);
                        Ok(Happening { only_if: OnlyIf::DeadlineIsOver, ..passed })
                    })
                    .collect()
            })
            .await?;
        let count = overdue.len();
        self.apply_all(overdue).await;
        Ok(count)
    }

    /// The work queues in which jobs have waited for `age` since they were published last, by the ledger.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn queues_with_old_jobs(&self, age: Duration) -> Result<Vec<WorkQueue>, Unavailable> {
        self.bounded(async {
            let client = self.pool().get().await?;
            let statement = client.prepare_cached(OLD_QUEUES).await?;
            let rows = client.query(&statement, &[&millis(age)]).await?;
            let mut queues = Vec::with_capacity(rows.len());
            for row in &rows {
                let pool: String = row.try_get(2)?;
                let parsed =
                    (row.try_get::<_, &str>(0)?.parse(), row.try_get::<_, &str>(1)?.parse(), Pool::try_from(pool));
                if let (Ok(queue), Ok(priority), Ok(pool)) = parsed {
                    queues.push(WorkQueue { queue, priority, pool });
                }
            }
            Ok(queues)
        })
        .await
    }

    /// Puts the jobs that have waited for `age` in these queues into the outbox. Answers how many. Each time that a job is
    /// published again its next turn takes twice as long.
    ///
    /// # Errors
    /// When Postgres does not take it.
    pub async fn rescue(&self, works: &[WorkQueue], age: Duration) -> Result<u64, Unavailable> {
        self.bounded(async {
            let client = self.inner.writers.get().await?;
            let statement = client.prepare_cached(RESCUE).await?;
            let queues: Vec<&str> = works.iter().map(|work| work.queue.as_str()).collect();
            let priorities: Vec<&str> = works.iter().map(|work| work.priority.as_str()).collect();
            let pools: Vec<&str> = works.iter().map(|work| work.pool.as_str()).collect();
            Ok(client
                .execute(
                    &statement,
                    &[&queues, &priorities, &pools, &millis(age), &RESCUED_MAX, &(age >= ANONYMOUS_MISSING)],
                )
                .await?)
        })
        .await
    }

    /// Makes the partitions of the months to come. Answers how many were missing.
    ///
    /// # Errors
    /// When Postgres does not take it.
    pub async fn make_months(&self) -> Result<i32, Unavailable> {
        self.bounded(async {
            let client = self.inner.writers.get().await?;
            let row = client.query_one("SELECT make_event_months(2)", &[]).await?;
            Ok(row.try_get(0)?)
        })
        .await
    }

    /// Forgets jobs that were purged so long ago that nobody names them as a parent any more.
    ///
    /// # Errors
    /// When Postgres does not take it.
    pub async fn forget_purged(&self) -> Result<u64, Unavailable> {
        self.bounded(async {
            let client = self.inner.writers.get().await?;
            Ok(client.execute(FORGET_PURGED, &[&PURGED_KEPT_DAYS]).await?)
        })
        .await
    }

    /// The jobs that have not ended, by state, queue, priority and pool.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn count_open_jobs(&self) -> Result<Vec<OpenJobs>, Unavailable> {
        self.bounded(async {
            let client = self.pool().get().await?;
            let statement = client.prepare_cached(COUNT_OPEN).await?;
            let rows = client.query(&statement, &[]).await?;
            let group = |row: &tokio_postgres::Row| {
                Ok(OpenJobs {
                    state: row.try_get("state")?,
                    queue: row.try_get("queue")?,
                    priority: row.try_get("priority")?,
                    pool: row.try_get("pool")?,
                    count: row.try_get("count")?,
                    oldest_secs: row.try_get("oldest")?,
                })
            };
            rows.iter().map(group).collect()
        })
        .await
    }
}

/// Jobs in the same state, queue, priority and pool.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenJobs {
    /// The state.
    pub state: String,
    /// The queue.
    pub queue: String,
    /// The priority.
    pub priority: String,
    /// The pool.
    pub pool: String,
    /// How many.
    pub count: i64,
    /// For how many seconds that one is queued which is queued for longest; `None` where none is, but for paused ones.
    pub oldest_secs: Option<f64>,
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

// A frozen job that nobody has paused may make room for a live one: only for a while after a resumption is it told.
// A paused job finishes when it is resumed: a lost resume goes before a finish.
const UNHEEDED: &str = "SELECT id, attempt, tell FROM ( \
        SELECT id, attempt, CASE WHEN state = 'cancelling' THEN 'cancel' \
                                 WHEN paused AND frozen_since IS NULL THEN 'pause' \
                                 WHEN NOT paused AND frozen_since IS NOT NULL \
                                      AND EXISTS (SELECT FROM event WHERE event.job = job.id AND event.kind = 'resume' \
                                                  AND event.at > now() - interval '30 seconds') THEN 'resume' \
                                 WHEN finishing AND consent IS DISTINCT FROM attempt THEN 'finish' END AS tell \
        FROM job WHERE state IN ('running', 'cancelling')) AS told WHERE tell IS NOT NULL LIMIT $1";

const DEADLINE_OVER: &str = "SELECT id FROM job \
     WHERE deadline IS NOT NULL AND state IN ('blocked', 'delayed', 'queued', 'running') AND deadline <= now() \
           AND NOT (state = 'running' AND consent IS NOT DISTINCT FROM attempt) \
     ORDER BY deadline LIMIT $1";

const OLD_QUEUES: &str = "SELECT DISTINCT queue, priority, pool FROM job \
     WHERE state IN ('blocked', 'delayed', 'queued') AND state = 'queued' AND publish_due IS NULL \
           AND NOT paused AND NOT EXISTS (SELECT FROM queue_pause WHERE queue_pause.queue = job.queue) \
           AND greatest(state_since, published_at) < now() - $1::bigint * interval '1 millisecond'";

const RESCUE: &str = "UPDATE job SET publish_due = now(), custody = 'ledger' \
     WHERE id IN (SELECT id FROM job \
                  WHERE state IN ('blocked', 'delayed', 'queued') AND state = 'queued' AND publish_due IS NULL \
                        AND NOT paused AND NOT EXISTS (SELECT FROM queue_pause WHERE queue_pause.queue = job.queue) \
                        AND (queue, priority, pool) IN (SELECT * FROM unnest($1::text[], $2::text[], $3::text[])) \
                        AND greatest(state_since, published_at) \
                            + greatest($4::bigint * interval '1 millisecond', published_at - state_since) < now() \
                        AND ($6 OR fingerprint IS NULL OR published_at IS NOT NULL) \
                  ORDER BY number LIMIT $5 FOR UPDATE SKIP LOCKED)";

const FORGET_PURGED: &str = "DELETE FROM purged WHERE at < now() - make_interval(days => $1) \
     AND NOT EXISTS (SELECT FROM dependency WHERE dependency.parent = purged.id)";

// Two arms with the predicates of the two partial indexes, word for word.
const COUNT_OPEN: &str = "SELECT state, queue, priority, pool, count(*) AS count, \
            extract(epoch FROM now() - min(state_since) FILTER (WHERE state = 'queued' AND NOT paused))::float8 AS oldest \
     FROM job WHERE state IN ('blocked', 'delayed', 'queued') GROUP BY state, queue, priority, pool \
     UNION ALL \
     SELECT state, queue, priority, pool, count(*), NULL FROM job WHERE state IN ('running', 'cancelling') \
     GROUP BY state, queue, priority, pool";
