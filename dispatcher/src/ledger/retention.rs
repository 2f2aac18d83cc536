//! What is not kept for ever: jobs that ended long ago, months without events, workers that are gone.
//!
//! Invariants: only what has ended is forgotten, and nothing that is still to be told to somebody. The audit is never
//! touched.

use std::fmt;
use std::str::FromStr;

use super::removal::{Removed, remove};
use super::{Ledger, Unavailable};

/// Jobs that are forgotten in one transaction: others wait for their rows no longer than that takes.
pub const FORGOTTEN_AT_ONCE: i64 = 500;
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

impl Ledger {
    /// Forgets some of the jobs that ended longer ago than they are kept, the oldest first. Answers how many; fewer than
    /// [`FORGOTTEN_AT_ONCE`] when no more are left that can go now.
    ///
    /// # Errors
    /// When Postgres does not take it.
    pub async fn forget_ended(&self, retention: Retention) -> Result<i64, Unavailable> {
        let mut gone = 0;
        for (keep, lock) in [(retention.ended, LOCK_ENDED), (retention.dead, LOCK_DEAD)] {
            if let Some(days) = keep.days() {
                gone += self.bounded(self.forget(lock, days, FORGOTTEN_AT_ONCE - gone)).await?.gone;
            }
        }
        Ok(gone)
    }

    async fn forget(&self, lock: &str, days: i32, most: i64) -> Result<Removed, Unavailable> {
        let mut client = self.inner.writers.get().await?;
        let transaction = client.transaction().await?;
        let removed = remove(&transaction, lock, &[&days, &most]).await?;
        transaction.commit().await?;
        Ok(removed)
    }

    /// Forgets messages that nobody understood, workers that are gone, and months in which no event is left.
    ///
    /// # Errors
    /// When Postgres does not take it; then some may be forgotten.
    pub async fn forget_remains(&self, retention: Retention) -> Result<(), Unavailable> {
        self.bounded(async {
            let client = self.inner.writers.get().await?;
            client.execute(FORGET_WORKERS, &[&WORKERS_KEPT_DAYS]).await?;
            if let Some(days) = retention.dead.days() {
                client.execute(FORGET_STRAYS, &[&days]).await?;
            }
            if let Some(days) = retention.longest_days() {
                client.execute("SELECT drop_event_months(make_interval(days => $1))", &[&days]).await?;
            }
            Ok(())
        })
        .await
    }
}

// The predicates of the index on ends, word for word, and then what is wanted of them. A job whose end is still being told
// stays. Nobody is waited for: a row in somebody's hands goes another time.
macro_rules! lock_old {
    ($states:literal) => {
        concat!(
            "SELECT id FROM job WHERE part_of IS NULL AND state IN ('completed', 'failed', 'cancelled', 'rejected') \
                    AND state IN (",
            $states,
            ") AND ended_at < now() - make_interval(days => $1) \
                    AND NOT EXISTS (SELECT FROM callback WHERE callback.job = job.id AND done_at IS NULL) \
             ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED"
        )
    };
}

const LOCK_ENDED: &str = lock_old!("'completed', 'cancelled', 'rejected'");
const LOCK_DEAD: &str = lock_old!("'failed'");

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
