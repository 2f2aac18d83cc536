//! Dead letters by their kind: sending a whole kind round again, and forgetting some for good.
//!
//! Invariant: only a job that is failed when its row is locked is purged, and with it everything about it and about the jobs
//! that made its chunks, all of which have ended. Its id is kept, so that whoever waits for it ends as with a parent that
//! failed, now or later.

use ffpool_schema::api::{PurgeReport, PurgeRequest, RedriveReport};
use ffpool_schema::id::JobId;
use ffpool_schema::lifecycle::{Input, Step};
use serde_json::json;
use uuid::Uuid;

use super::audit::Entry;
use super::families::Relative;
use super::removal::{Removed, remove};
use super::{Actor, ControlError, Evidence, Happening, Ledger, Unavailable, Verdict};

/// Dead letters of one kind that one request sends round again.
const REDRIVEN_MAX: i64 = 10_000;
/// Dead letters that one request deletes.
const PURGED_MAX: i64 = 10_000;

impl Ledger {
    /// Sends all dead letters of a kind in the realm of `who` round again.
    ///
    /// # Errors
    /// When the ledger cannot be asked; then some may have been sent.
    pub async fn redrive_kind(
        &self,
        fingerprint: &str,
        who: &Actor,
        reason: Option<&str>,
    ) -> Result<RedriveReport, ControlError> {
        let jobs: Vec<JobId> = self
            .bounded(async {
                let client = self.pool().get().await?;
                let statement = client.prepare_cached(OF_KIND).await?;
                let rows = client.query(&statement, &[&fingerprint, &REDRIVEN_MAX, &who.realm.tenant()]).await?;
                rows.iter().map(|row| Ok(JobId(row.try_get(0)?))).collect()
            })
            .await?;
        let evidence =
            Evidence { by: Some(who.name.clone()), reason: reason.map(str::to_owned), ..Evidence::default() };
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
        let redriven: Vec<Uuid> = report.redriven.iter().map(|job| job.0).collect();
        let concerned = self.bounded(self.count_by_tenant(OWNERS, &redriven)).await?;
        for (tenant, jobs) in told_apart(who, concerned) {
            let entry = Entry::new("redrive", fingerprint).of_tenant(tenant.as_deref());
            self.audit(who, entry.detail(json!({ "reason": reason, "jobs": jobs }))).await;
        }
        Ok(report)
    }

    async fn count_by_tenant(&self, sql: &str, jobs: &[Uuid]) -> Result<Vec<(Option<String>, i64)>, Unavailable> {
        let client = self.inner.writers.get().await?;
        let rows = client.query(&client.prepare_cached(sql).await?, &[&jobs]).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }

    /// Deletes dead letters with their attempts, history and logs: those of `request.ids`, and the oldest of its kind. One
    /// whose chunks are still being ended is left, and so is whatever is outside the realm of `who`.
    ///
    /// # Errors
    /// When the ledger cannot be asked.
    pub async fn purge(&self, request: &PurgeRequest, who: &Actor) -> Result<PurgeReport, ControlError> {
        let ids: Vec<Uuid> = request.ids.iter().map(|id| id.0).collect();
        let found: Vec<Uuid> = self
            .bounded(async {
                let client = self.pool().get().await?;
                let statement = client.prepare_cached(FAILED).await?;
                let rows =
                    client.query(&statement, &[&ids, &request.fingerprint, &PURGED_MAX, &who.realm.tenant()]).await?;
                rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
            })
            .await?;
        // Whoever makes their chunks is told now, and not only by the leader.
        let wholes: Vec<Relative> = found.iter().map(|id| Relative::Whole(JobId(*id))).collect();
        self.settle_families(&wholes, false).await?;
        let report = self.bounded(self.delete(&found)).await?;
        let PurgeReport { purged, left } = report;
        let target = request.fingerprint.clone().unwrap_or_else(|| "dead letters".to_owned());
        let concerned = self.bounded(self.count_by_tenant(PURGED_OWNERS, &found)).await?;
        for (tenant, jobs) in told_apart(who, concerned) {
            // What else was asked for is for the pool's own eyes.
            let mut detail = json!({ "reason": request.reason, "purged": jobs });
            if tenant.as_deref() == who.realm.tenant() {
                detail["ids"] = json!(request.ids);
                detail["left"] = json!(left);
            }
            self.audit(who, Entry::new("purge", &target).of_tenant(tenant.as_deref()).detail(detail)).await;
        }
        Ok(PurgeReport { purged, left })
    }

    /// Deletes those of these jobs that are failed, with their chunks' jobs.
    async fn delete(&self, jobs: &[Uuid]) -> Result<PurgeReport, Unavailable> {
        let mut client = self.inner.writers.get().await?;
        let transaction = client.transaction().await?;
        let Removed { gone, left } = remove(&transaction, LOCK_FAILED, &[&jobs]).await?;
        transaction.commit().await?;
        Ok(PurgeReport { purged: gone, left })
    }
}

/// Entries of the audit on what was done to `concerned`: one for each tenant, which finds it among its own, and the last for the pool,
/// also if it has none of these jobs. A tenant that did it has one.
fn told_apart(who: &Actor, mut concerned: Vec<(Option<String>, i64)>) -> Vec<(Option<String>, i64)> {
    let own = who.realm.tenant();
    if concerned.iter().all(|(tenant, _)| tenant.as_deref() != own) {
        concerned.push((own.map(str::to_owned), 0));
    }
    concerned
}

const OWNERS: &str = "SELECT tenant, count(*) FROM job WHERE id = ANY ($1::uuid[]) GROUP BY tenant ORDER BY tenant";

const PURGED_OWNERS: &str =
    "SELECT tenant, count(*) FROM purged WHERE id = ANY ($1::uuid[]) GROUP BY tenant ORDER BY tenant";

const OF_KIND: &str = "SELECT id FROM job WHERE state = 'failed' AND dead_fingerprint = $1 AND part_of IS NULL \
           AND ($3::text IS NULL OR tenant = $3) \
     ORDER BY number LIMIT $2";

const FAILED: &str = "SELECT id FROM job \
     WHERE state = 'failed' AND (id = ANY ($1::uuid[]) OR (dead_fingerprint = $2 AND part_of IS NULL)) \
           AND ($4::text IS NULL OR tenant = $4) \
     ORDER BY number LIMIT $3";

// The rows are locked in the order of their ids, as everywhere.
const LOCK_FAILED: &str = "SELECT id FROM job WHERE state = 'failed' AND id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE";
