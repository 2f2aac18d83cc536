//! What failed, counted by cause over a span of time.
//!
//! Invariant: counted are rows that the transactions wrote which ended attempts and jobs ([`super::record`]); a job that is removed takes
//! its own with it.

use ffpool_schema::api::CauseCount;
use ffpool_schema::failure::Cause;
use jiff::Timestamp;
use tokio_postgres::Row;

use super::read::{ReadError, bounded};
use super::{Ledger, Realm};

impl Ledger {
    /// What failed in a realm since then, by cause, the most frequent first.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn failures_since(&self, realm: &Realm, since: Timestamp) -> Result<Vec<CauseCount>, ReadError> {
        bounded(async {
            let client = self.pool().get().await?;
            let rows = client.query(&client.prepare_cached(BY_CAUSE).await?, &[&since, &realm.tenant()]).await?;
            rows.iter().map(cause_count).collect()
        })
        .await
    }
}

fn cause_count(row: &Row) -> Result<CauseCount, ReadError> {
    let cause: String = row.try_get("cause")?;
    // Another version may know more of them.
    let known = Cause::ALL.into_iter().find(|known| known.as_str() == cause).unwrap_or(Cause::Unknown);
    Ok(CauseCount {
        cause,
        attempts: row.try_get("attempts")?,
        retried: row.try_get("retried")?,
        dead: row.try_get("dead")?,
        last: row.try_get("last")?,
        cure: known.cure().to_owned(),
    })
}

// By the index `failure_at` alone.
const BY_CAUSE: &str = "SELECT cause, count(attempt) AS attempts, count(*) FILTER (WHERE retried) AS retried, \
            count(*) FILTER (WHERE dead) AS dead, max(at) AS last \
     FROM failure WHERE at >= $1 AND ($2::text IS NULL OR tenant = $2) GROUP BY cause ORDER BY count(*) DESC, cause";
