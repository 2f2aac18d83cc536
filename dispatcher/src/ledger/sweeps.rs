//! What the leader looks for now and then: jobs whose message is missing, commands to repeat, months to come, counts.

use ffpool_schema::id::JobId;
use ffpool_schema::job::Pool;
use ffpool_schema::lifecycle::Tell;
use ffpool_schema::topology::WorkQueue;

use super::batch::natural;
use super::{Ledger, TellOwner, Unavailable};

/// A job that waits longer than this in a queue that the broker calls empty has lost its message.
const MESSAGE_MISSING_MS: i64 = 30_000;
/// Jobs of one queue that are published again in one sweep.
const RESCUED_MAX: i64 = 500;
/// Commands repeated in one sweep.
const CANCELS_MAX: i64 = 1_000;

impl Ledger {
    /// The attempts that are being cancelled.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn cancelling(&self) -> Result<Vec<TellOwner>, Unavailable> {
        self.bounded(async {
            let client = self.pool().get().await?;
            let statement = client.prepare_cached(CANCELLING).await?;
            let rows = client.query(&statement, &[&CANCELS_MAX]).await?;
            rows.iter()
                .map(|row| {
                    let attempt = natural(row.try_get(1)?);
                    Ok(TellOwner { job: JobId(row.try_get(0)?), attempt, tell: Tell::Cancel })
                })
                .collect()
        })
        .await
    }

    /// The work queues in which jobs have waited for long, by the ledger.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn queues_with_old_jobs(&self) -> Result<Vec<WorkQueue>, Unavailable> {
        self.bounded(async {
            let client = self.pool().get().await?;
            let statement = client.prepare_cached(OLD_QUEUES).await?;
            let rows = client.query(&statement, &[&MESSAGE_MISSING_MS]).await?;
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

    /// Puts the jobs that have waited for long in `work` into the outbox. Answers how many.
    ///
    /// # Errors
    /// When Postgres does not take it.
    pub async fn rescue(&self, work: &WorkQueue) -> Result<u64, Unavailable> {
        self.bounded(async {
            let client = self.inner.writers.get().await?;
            let statement = client.prepare_cached(RESCUE).await?;
            let (queue, priority, pool) = (work.queue.as_str(), work.priority.as_str(), work.pool.as_str());
            Ok(client.execute(&statement, &[&queue, &priority, &pool, &MESSAGE_MISSING_MS, &RESCUED_MAX]).await?)
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

    /// How many jobs that have not ended are in each state and queue.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn count_open_jobs(&self) -> Result<Vec<(String, String, i64)>, Unavailable> {
        self.bounded(async {
            let client = self.pool().get().await?;
            let statement = client.prepare_cached(COUNT_OPEN).await?;
            let rows = client.query(&statement, &[]).await?;
            rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).collect()
        })
        .await
    }
}

const CANCELLING: &str = "SELECT id, attempt FROM job \
     WHERE state IN ('running', 'cancelling') AND state = 'cancelling' LIMIT $1";

const OLD_QUEUES: &str = "SELECT DISTINCT queue, priority, pool FROM job \
     WHERE state IN ('blocked', 'delayed', 'queued') AND state = 'queued' AND publish_due IS NULL \
           AND greatest(state_since, published_at) < now() - $1::bigint * interval '1 millisecond'";

const RESCUE: &str = "UPDATE job SET publish_due = now(), custody = 'ledger' \
     WHERE id IN (SELECT id FROM job \
                  WHERE state IN ('blocked', 'delayed', 'queued') AND state = 'queued' AND publish_due IS NULL \
                        AND queue = $1 AND priority = $2 AND pool = $3 \
                        AND greatest(state_since, published_at) < now() - $4::bigint * interval '1 millisecond' \
                  ORDER BY number LIMIT $5 FOR UPDATE SKIP LOCKED)";

const COUNT_OPEN: &str = "SELECT state, queue, count(*) FROM job \
     WHERE state IN ('blocked', 'delayed', 'queued') GROUP BY state, queue \
     UNION ALL \
     SELECT state, queue, count(*) FROM job WHERE state IN ('running', 'cancelling') GROUP BY state, queue";
