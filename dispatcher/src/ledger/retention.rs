//! What is not kept for ever: jobs that ended long ago, months without events, workers that are gone.
//!
//! Invariants: only what has ended is forgotten, and nothing that is still to be told to somebody. The audit is never
//! touched.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use uuid::Uuid;

use super::removal::remove_locked;
use super::{Ledger, Unavailable};

/// Jobs that are forgotten in one transaction, those that made chunks counted too: others wait for their rows no longer than that
/// takes. One whose chunks alone are more goes all the same, by itself.
pub const FORGOTTEN_AT_ONCE: i64 = 500;
/// For one such transaction: nobody waits for it, and a slow disk makes it long, not wrong.
const FORGETTING: Duration = Duration::from_secs(60);
/// For each of its statements, by the server: none goes on for long when nobody listens any more.
const FORGETTING_STATEMENT: &str = "SET LOCAL statement_timeout = '30s'";
/// A worker that said goodbye or fell silent so long ago does not come back: spot machines never do.
const WORKERS_KEPT_DAYS: i32 = 7;

/// How long something is kept after its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// For so many days, 1 or more.
    Days(u32),
    /// Until somebody purges it.
    Forever,
}

impl Keep {
    /// In days; `None` for ever.
    fn days(self) -> Option<i32> {
        match self {
            Keep::Days(days) => Some(i32::try_from(days).unwrap_or(i32::MAX)),
            Keep::Forever => None,
        }
    }
}

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Keep, String> {
        /// A hundred years. Postgres' times reach further.
        const MOST: u32 = 36_500;
        match text {
            "forever" => Ok(Keep::Forever),
            _ => match text.parse() {
                Ok(days @ 1..=MOST) => Ok(Keep::Days(days)),
                Ok(_) | Err(_) => Err(format!("days from 1 to {MOST} are expected, or `forever`")),
            },
        }
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Keep::Days(days) => write!(to, "{days}"),
            Keep::Forever => to.write_str("forever"),
        }
    }
}

/// How long what has ended is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Jobs that completed, were cancelled or were rejected.
    pub ended: Keep,
    /// Jobs that failed, and messages that nobody understood.
    pub dead: Keep,
}

impl Retention {
    /// How long the longest kept is kept; `None` for ever.
    fn longest_days(self) -> Option<i32> {
        Some(self.ended.days()?.max(self.dead.days()?))
    }
}

/// What one round of forgetting did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Jobs that are gone, without those that made their chunks.
    pub jobs: i64,
    /// Whether a transaction was full, so that another round finds more.
    pub has_more: bool,
}

impl Ledger {
    /// Forgets some of the jobs that ended longer ago than they are kept, the oldest first.
    ///
    /// # Errors
    /// When Postgres does not take it; then some may be forgotten.
    pub async fn forget_ended(&self, retention: Retention) -> Result<Forgotten, Unavailable> {
        let mut forgotten = Forgotten::default();
        for (keep, lock) in [(retention.ended, LOCK_ENDED), (retention.dead, LOCK_DEAD)] {
            if let Some(days) = keep.days() {
                let late = |_| Unavailable::because(format!("Postgres did not answer within {FORGETTING:?}"));
                let Forgotten { jobs, has_more } =
                    tokio::time::timeout(FORGETTING, self.forget(lock, days)).await.map_err(late)??;
                forgotten.jobs += jobs;
                forgotten.has_more |= has_more;
            }
        }
        Ok(forgotten)
    }

    async fn forget(&self, lock: &str, days: i32) -> Result<Forgotten, Unavailable> {
        let mut client = self.inner.writers.get().await?;
        let transaction = client.transaction().await?;
        transaction.batch_execute(FORGETTING_STATEMENT).await?;
        let rows = transaction.query(&transaction.prepare_cached(lock).await?, &[&days, &FORGOTTEN_AT_ONCE]).await?;
        let held = rows.iter().map(|row| row.try_get("id")).collect::<Result<Vec<Uuid>, _>>()?;
        let is_full = rows.first().map(|row| row.try_get("is_full")).transpose()?.unwrap_or(false);
        let removed = remove_locked(&transaction, &held).await?;
        transaction.commit().await?;
        // Where all that was chosen had to stay, another round would choose the same.
        Ok(Forgotten { jobs: removed.gone, has_more: is_full && removed.gone > 0 })
    }

    /// Forgets messages that nobody understood, workers that are gone, sums of nothing, and the first month in which no event is left.
    ///
    /// # Errors
    /// When Postgres does not take it; then some may be forgotten.
    pub async fn forget_remains(&self, retention: Retention) -> Result<(), Unavailable> {
        let costs = self.forget_empty_costs().await;
        let others = self.bounded(async {
            let client = self.inner.writers.get().await?;
            client.execute(FORGET_WORKERS, &[&WORKERS_KEPT_DAYS]).await?;
            if let Some(days) = retention.dead.days() {
                client.execute(FORGET_STRAYS, &[&days]).await?;
            }
            if let Some(days) = retention.longest_days() {
                client.execute("SELECT drop_event_months(make_interval(days => $1))", &[&days]).await?;
            }
            Ok(())
        });
        others.await.and(costs)
    }
}

// `$of_index` is the predicate of an index on ends, word for word. A job whose end is still being told stays. As many go as are one
// transaction's together with the jobs that made their chunks, and the oldest in any case. Only these are locked, each found by
// its id, if nobody has sent it round again meanwhile. Nobody is waited for: a row in somebody's hands goes another time.
macro_rules! lock_old {
    ($of_index:literal) => {
        concat!(
            "WITH oldest AS MATERIALIZED ( \
                SELECT id, ended_at, 1 + coalesce(chunks, 0) * greatest(splits, 1) AS jobs FROM job WHERE ",
            $of_index,
            " AND ended_at < now() - make_interval(days => $1) \
                      AND NOT EXISTS (SELECT FROM callback WHERE callback.job = job.id AND done_at IS NULL) \
                ORDER BY ended_at LIMIT $2), \
             summed AS (SELECT id AS old, ended_at AS at, jobs, sum(jobs) OVER (ORDER BY ended_at, id) AS with_older, \
                               sum(jobs) OVER () >= $2 AS is_full FROM oldest) \
             SELECT id, is_full FROM summed JOIN job ON id = old \
             WHERE (with_older <= $2 OR with_older = jobs) AND job.ended_at IS NOT DISTINCT FROM at \
             FOR UPDATE OF job SKIP LOCKED"
        )
    };
}

const LOCK_ENDED: &str = lock_old!("part_of IS NULL AND state IN ('completed', 'cancelled', 'rejected')");
const LOCK_DEAD: &str = lock_old!("part_of IS NULL AND state = 'failed'");

const FORGET_WORKERS: &str = "DELETE FROM worker WHERE state IN ('stopped', 'lost') AND last_seen < now() - make_interval(days => $1) \
     AND NOT EXISTS (SELECT FROM job WHERE job.state IN ('running', 'cancelling') AND job.owner_worker = worker.id)";

const FORGET_STRAYS: &str = "DELETE FROM stray WHERE at < now() - make_interval(days => $1)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_read_and_nothing_else() {
        assert_eq!("90".parse(), Ok(Keep::Days(90)));
        assert_eq!("forever".parse(), Ok(Keep::Forever));
        for bad in ["0", "-1", "1.5", "90d", "", "never", "36501"] {
            let said = bad.parse::<Keep>().unwrap_err();
            assert!(said.contains("`forever`"), "{bad}: {said}");
        }
    }

    #[test]
    fn events_are_kept_as_long_as_what_is_kept_longest() {
        let retention = |ended, dead| Retention { ended, dead }.longest_days();
        assert_eq!(retention(Keep::Days(90), Keep::Days(30)), Some(90));
        assert_eq!(retention(Keep::Days(30), Keep::Days(90)), Some(90));
        assert_eq!(retention(Keep::Days(30), Keep::Forever), None);
        assert_eq!(retention(Keep::Forever, Keep::Days(90)), None);
    }
}
