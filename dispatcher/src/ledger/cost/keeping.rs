//! The sums of what attempts used, kept: what has changed is added to them, and attempts from before there were sums are booked.
//!
//! Invariant: nobody waits for it, and no report depends on how far it is: what is not added yet is added by whoever reads.

use uuid::Uuid;

use super::super::{Ledger, Unavailable};

/// Changes that are added in one transaction.
const CHANGES_AT_ONCE: i64 = 10_000;
/// Jobs whose attempts are booked in one transaction: so long their rows are held.
const BOOKED_AT_ONCE: i64 = 500;

impl Ledger {
    /// Adds some of the changes to the sums of costs. Answers whether there are more.
    ///
    /// # Errors
    /// When Postgres does not take it.
    pub async fn sum_up_costs(&self) -> Result<bool, Unavailable> {
        self.bounded(async {
            let client = self.inner.writers.get().await?;
            let added: i64 =
                client.query_one(&client.prepare_cached(ADD).await?, &[&CHANGES_AT_ONCE]).await?.try_get(0)?;
            Ok(added >= CHANGES_AT_ONCE)
        })
        .await
    }

    /// Books the attempts of some jobs that had ended before there were sums. Answers whether there are more.
    ///
    /// # Errors
    /// When Postgres does not take it.
    pub async fn book_costs(&self) -> Result<bool, Unavailable> {
        self.bounded(async {
            let mut client = self.inner.writers.get().await?;
            let after: Option<Uuid> = client.query_one(CURSOR, &[]).await?.try_get(0)?;
            if after.is_none() {
                return Ok(false);
            }
            let transaction = client.transaction().await?;
            let after: Option<Uuid> = transaction.query_one(HOLD_CURSOR, &[]).await?.try_get(0)?;
            let Some(after) = after else { return Ok(false) };
            let next = transaction.query(NEXT, &[&after, &BOOKED_AT_ONCE]).await?;
            let jobs = next.iter().map(|row| row.try_get(0)).collect::<Result<Vec<Uuid>, _>>()?;
            if !jobs.is_empty() {
                // As whoever ends an attempt: what counts a job is decided by one at a time.
                transaction.execute(LOCK, &[&jobs]).await?;
                transaction.execute(BOOK, &[&jobs]).await?;
            }
            transaction.execute(SET_CURSOR, &[&jobs.last()]).await?;
            transaction.commit().await?;
            Ok(!jobs.is_empty())
        })
        .await
    }

    /// Forgets the sums of nothing: those of jobs that are all gone.
    ///
    /// # Errors
    /// When Postgres does not take it.
    pub(in crate::ledger) async fn forget_empty_costs(&self) -> Result<(), Unavailable> {
        self.bounded(async {
            self.inner.writers.get().await?.execute(FORGET_EMPTY, &[]).await?;
            Ok(())
        })
        .await
    }
}

// Rows of changes are never written anew, so a place stands for its row. Sums are locked in one order.
const ADD: &str = "WITH gone AS (DELETE FROM cost_change WHERE ctid = ANY (ARRAY(SELECT ctid FROM cost_change LIMIT $1)) RETURNING *), \
     added AS (INSERT INTO cost_sum (span, at, tenant, queue, scenario, currency, jobs, attempts, measured, metered, priced, \
                                     cost, cpu_ms, byte_ms, wall_ms, joules) \
        SELECT span, date_trunc(span, at, 'UTC'), tenant, queue, scenario, currency, sum(jobs), sum(attempts), sum(measured), \
               sum(metered), sum(priced), sum(cost), sum(cpu_ms), sum(byte_ms), sum(wall_ms), sum(joules) \
        FROM gone CROSS JOIN (VALUES ('hour'), ('day')) AS spans (span) GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6 \
        ON CONFLICT (span, at, tenant, queue, scenario, currency) DO UPDATE SET \
            jobs = cost_sum.jobs + excluded.jobs, attempts = cost_sum.attempts + excluded.attempts, \
            measured = cost_sum.measured + excluded.measured, metered = cost_sum.metered + excluded.metered, \
            priced = cost_sum.priced + excluded.priced, cost = cost_sum.cost + excluded.cost, \
            cpu_ms = cost_sum.cpu_ms + excluded.cpu_ms, byte_ms = cost_sum.byte_ms + excluded.byte_ms, \
            wall_ms = cost_sum.wall_ms + excluded.wall_ms, joules = cost_sum.joules + excluded.joules) \
     SELECT count(*) FROM gone";

pub(super) const CURSOR: &str = "SELECT (SELECT after FROM cost_booking)";

const HOLD_CURSOR: &str = "SELECT after FROM cost_booking FOR UPDATE";

const NEXT: &str = "SELECT job FROM attempt WHERE job > $1 GROUP BY job ORDER BY job LIMIT $2";

const LOCK: &str = "SELECT FROM job WHERE id = ANY ($1::uuid[]) ORDER BY id FOR NO KEY UPDATE";

// The trigger books them.
const BOOK: &str = "UPDATE attempt SET ended_at = ended_at \
     WHERE job = ANY ($1::uuid[]) AND ended_at IS NOT NULL AND booked_hour IS NULL";

const SET_CURSOR: &str = "UPDATE cost_booking SET after = $1";

// All of it: what is added and what is taken away again may come in any order.
const FORGET_EMPTY: &str = "DELETE FROM cost_sum USING ( \
        SELECT span, at, tenant, queue, scenario, currency FROM cost_sum \
        WHERE attempts = 0 AND jobs = 0 AND measured = 0 AND metered = 0 AND priced = 0 \
          AND cost = 0 AND cpu_ms = 0 AND byte_ms = 0 AND wall_ms = 0 AND joules = 0 FOR UPDATE SKIP LOCKED) AS empty \
     WHERE (cost_sum.span, cost_sum.at, cost_sum.tenant, cost_sum.queue, cost_sum.scenario, cost_sum.currency) \
         = (empty.span, empty.at, empty.tenant, empty.queue, empty.scenario, empty.currency)";
