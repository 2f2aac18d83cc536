//! Taking jobs out of the ledger for good: how, for whoever decides which.
//!
//! Invariant: a job goes with everything about it and about the jobs that made its chunks, all of which have ended, or it
//! stays. Its id is kept with how it had ended, so that whoever waits for it, now or later, learns the same as before.

use deadpool_postgres::Transaction;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::Unavailable;

/// What became of the jobs that were to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Removed {
    /// Jobs that are gone, without those that made their chunks.
    pub(super) gone: i64,
    /// Jobs that stay, because some of their chunks have not ended or are in somebody's hands.
    pub(super) left: i64,
}

/// Removes the jobs whose rows `lock` selects and locks, in the transaction given.
///
/// # Errors
/// When Postgres does not take it; then the transaction is to be dropped.
pub(super) async fn remove(
    transaction: &Transaction<'_>,
    lock: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Removed, Unavailable> {
    let statement = transaction.prepare_cached(lock).await?;
    let rows = transaction.query(&statement, parameters).await?;
    let held = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<Uuid>, _>>()?;
    remove_locked(transaction, &held).await
}

/// Removes the jobs `held`, whose rows are locked in the transaction given.
///
/// # Errors
/// When Postgres does not take it; then the transaction is to be dropped.
pub(super) async fn remove_locked(transaction: &Transaction<'_>, held: &[Uuid]) -> Result<Removed, Unavailable> {
    if held.is_empty() {
        return Ok(Removed { gone: 0, left: 0 });
    }
    // Another statement, which sees what was committed until the rows were locked: all the chunks that there will be.
    let statement = transaction.prepare_cached(REMOVE).await?;
    let gone: i64 = transaction.query_one(&statement, &[&held]).await?.try_get(0)?;
    Ok(Removed { gone, left: i64::try_from(held.len()).unwrap_or(i64::MAX) - gone })
}

// The ids of chunks' jobs lie before and behind those of their wholes: here nobody waits for a row, so that no circle closes. A
// job goes with all its chunks' jobs or not at all. The messages of those may still lie in a queue: their ids are kept too.
const REMOVE: &str = "WITH parts AS MATERIALIZED ( \
        SELECT id, part_of FROM job WHERE part_of = ANY ($1::uuid[]) \
               AND state IN ('completed', 'failed', 'cancelled', 'rejected') FOR UPDATE SKIP LOCKED), \
     have AS (SELECT part_of, count(*) AS parts FROM job WHERE part_of = ANY ($1::uuid[]) GROUP BY part_of), \
     taken AS (SELECT part_of, count(*) AS parts FROM parts GROUP BY part_of), \
     whole AS (SELECT held.id FROM unnest($1::uuid[]) AS held(id) \
                    LEFT JOIN have ON have.part_of = held.id LEFT JOIN taken ON taken.part_of = held.id \
               WHERE have.parts IS NOT DISTINCT FROM taken.parts), \
     gone AS (SELECT id FROM whole UNION SELECT id FROM parts WHERE part_of IN (SELECT id FROM whole)), \
     jobs AS (DELETE FROM job WHERE id IN (SELECT id FROM gone) RETURNING id, number, tenant, state), \
     texts AS (DELETE FROM job_text WHERE number IN (SELECT number FROM jobs)), \
     failures AS (DELETE FROM failure WHERE job IN (SELECT id FROM gone)), \
     attempts AS (DELETE FROM attempt WHERE job IN (SELECT id FROM gone)), \
     events AS (DELETE FROM event WHERE job IN (SELECT id FROM gone)), \
     lines AS (DELETE FROM log_line WHERE job IN (SELECT id FROM gone)), \
     curves AS (DELETE FROM progress_curve WHERE job IN (SELECT id FROM gone)), \
     thumbnails AS (DELETE FROM thumbnail WHERE job IN (SELECT id FROM gone)), \
     told AS (INSERT INTO purged (id, tenant, state) SELECT id, tenant, state FROM jobs \
              ON CONFLICT (id) DO UPDATE SET at = now(), tenant = excluded.tenant, state = excluded.state) \
     SELECT count(*) FROM whole";
