//! Dead letters by their kind: sending a whole kind round again, and forgetting some for good.
//!
//! Invariant: only a job that is failed when its row is locked is purged, and with it everything about it. Its id is kept,
//! so that whoever waits for it ends as with a parent that failed, now or later.

use ffpool_schema::api::{PurgeReport, PurgeRequest, RedriveReport};
use ffpool_schema::id::JobId;
use ffpool_schema::lifecycle::{Input, Step};
use serde_json::json;
use uuid::Uuid;

use super::{ControlError, Evidence, Happening, Ledger, Verdict};

/// Dead letters of one kind that one request sends round again.
const REDRIVEN_MAX: i64 = 10_000;

impl Ledger {
    /// Sends all dead letters of a kind round again.
    ///
    /// # Errors
    /// When the ledger cannot be asked; then some may have been sent.
    pub async fn redrive_kind(
        &self,
        fingerprint: &str,
        who: &str,
        reason: Option<&str>,
    ) -> Result<RedriveReport, ControlError> {
        let jobs: Vec<JobId> = self
            .bounded(async {
                let client = self.pool().get().await?;
                let statement = client.prepare_cached(OF_KIND).await?;
                let rows = client.query(&statement, &[&fingerprint, &REDRIVEN_MAX]).await?;
                rows.iter().map(|row| Ok(JobId(row.try_get(0)?))).collect()
            })
            .await?;
        let evidence = Evidence { by: Some(who.to_owned()), reason: reason.map(str::to_owned), ..Evidence::default() };
        let happenings = jobs
            .iter()
            .map(|job| Happening { evidence: evidence.clone(), ..Happening::new(*job, Input::Redrive) })
            .collect();
        let mut report = RedriveReport { redriven: Vec::new(), refused: std::collections::BTreeMap::new() };
        for (job, verdict) in jobs.into_iter().zip(self.apply_all(happenings).await) {
            let refusal = match verdict {
                Ok(Verdict::Decided(decided)) => match decided.step {
                    Step::Move(_) => None,
                    Step::Stale(_) => Some("nothing is to be done".to_owned()),
                    Step::Refuse(refusal) => Some(refusal.to_string()),
                },
                Ok(Verdict::Unknown | Verdict::Skipped) => Some("there is no such job".to_owned()),
                Err(error) => Some(error.to_string()),
            };
            match refusal {
                None => report.redriven.push(job),
                Some(refusal) => {
                    report.refused.insert(job.to_string(), refusal);
                }
            }
        }
        let detail = json!({ "reason": reason, "jobs": report.redriven.len() });
        self.audit(who, "redrive", fingerprint, detail).await;
        Ok(report)
    }

    /// Deletes dead letters with their attempts, history and logs: those of `request.ids`, and those of its kind.
    ///
    /// # Errors
    /// When the ledger cannot be asked.
    pub async fn purge(&self, request: &PurgeRequest, who: &str) -> Result<PurgeReport, ControlError> {
        let purged: i64 = self
            .bounded(async {
                let client = self.inner.writers.get().await?;
                let statement = client.prepare_cached(PURGE).await?;
                let ids: Vec<Uuid> = request.ids.iter().map(|id| id.0).collect();
                Ok(client.query_one(&statement, &[&ids, &request.fingerprint]).await?.try_get(0)?)
            })
            .await?;
        let target = request.fingerprint.clone().unwrap_or_else(|| "dead letters".to_owned());
        let detail = json!({ "reason": request.reason, "ids": request.ids, "purged": purged });
        self.audit(who, "purge", &target, detail).await;
        Ok(PurgeReport { purged })
    }
}

const OF_KIND: &str = "SELECT id FROM job WHERE state = 'failed' AND dead_fingerprint = $1 AND part_of IS NULL \
     ORDER BY number LIMIT $2";

// The rows are locked in the order of their ids, as everywhere.
const PURGE: &str = "WITH held AS ( \
        SELECT id FROM job WHERE state = 'failed' AND (id = ANY ($1::uuid[]) OR (dead_fingerprint = $2 AND part_of IS NULL)) \
        ORDER BY id FOR UPDATE), \
     parts AS (SELECT id FROM job WHERE part_of IN (SELECT id FROM held) \
                                         AND state IN ('completed', 'failed', 'cancelled', 'rejected')), \
     gone AS (SELECT id FROM held UNION SELECT id FROM parts), \
     jobs AS (DELETE FROM job WHERE id IN (SELECT id FROM gone) RETURNING id), \
     attempts AS (DELETE FROM attempt WHERE job IN (SELECT id FROM gone)), \
     events AS (DELETE FROM event WHERE job IN (SELECT id FROM gone)), \
     lines AS (DELETE FROM log_line WHERE job IN (SELECT id FROM gone)), \
     told AS (INSERT INTO purged (id) SELECT id FROM held ON CONFLICT DO NOTHING) \
     SELECT count(*) FROM held";
