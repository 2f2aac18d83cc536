//! Who did what through the API, for whoever asks later.
//!
//! Invariant: what happened stays done: an entry that cannot be written is said in the log with all that it would tell.

use serde_json::Value;

use super::batch::{clean, json};
use super::{Ledger, Unavailable};

impl Ledger {
    /// Writes down that `who` did `action` to `target`: a job, a worker, a queue, a key.
    pub async fn audit(&self, who: &str, action: &str, target: &str, detail: Value) {
        let written: Result<(), Unavailable> = self
            .bounded(async {
                let client = self.inner.writers.get().await?;
                let statement = client.prepare_cached(WRITE).await?;
                client.execute(&statement, &[&clean(who), &action, &clean(target), &json(&detail)]).await?;
                Ok(())
            })
            .await;
        if let Err(error) = written {
            tracing::error!(%error, who, action, target, %detail, "an entry of the audit was not written");
        }
    }
}

const WRITE: &str = "INSERT INTO audit (actor, action, subject, detail) VALUES ($1, $2, $3, $4::text::jsonb)";
