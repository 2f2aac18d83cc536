//! Who did what, from where, for whoever asks later.
//!
//! Invariant: what happened stays done: an entry that cannot be written is said in the log with all that it would tell.
//! Postgres refuses to change or remove entries.

use ffpool_schema::id::JobId;
use serde_json::{Value, json};
use uuid::Uuid;

use super::actor::Actor;
use super::batch::{clean, json as written};
use super::{Ledger, Unavailable};

/// One entry of the audit, without who did it.
#[derive(Debug, Clone)]
pub struct Entry {
    action: &'static str,
    target: String,
    job: Option<Uuid>,
    tenant: Option<String>,
    detail: Value,
    before: Option<Value>,
    after: Option<Value>,
}

impl Entry {
    /// `action` was done to `target`: a worker, a queue, a key.
    #[must_use]
    pub fn new(action: &'static str, target: impl Into<String>) -> Entry {
        let target = target.into();
        Entry { action, target, job: None, tenant: None, detail: json!({}), before: None, after: None }
    }

    /// `action` was done to a job, and concerns its tenant.
    #[must_use]
    pub fn of_job(action: &'static str, job: JobId) -> Entry {
        Entry { job: Some(job.0), ..Entry::new(action, job.to_string()) }
    }

    /// Whom it concerns; without it the tenant of whoever did it.
    #[must_use]
    pub fn of_tenant(self, tenant: Option<&str>) -> Entry {
        Entry { tenant: tenant.map(str::to_owned), ..self }
    }

    /// More, such as the reason.
    #[must_use]
    pub fn detail(self, detail: Value) -> Entry {
        Entry { detail, ..self }
    }

    /// What it was before.
    #[must_use]
    pub fn before(self, before: Value) -> Entry {
        Entry { before: Some(before), ..self }
    }

    /// What it is now.
    #[must_use]
    pub fn after(self, after: Value) -> Entry {
        Entry { after: Some(after), ..self }
    }
}

impl Ledger {
    /// Writes down what `actor` did.
    pub async fn audit(&self, actor: &Actor, entry: Entry) {
        let address = actor.address.map(|address| address.to_string());
        let written: Result<(), Unavailable> = self
            .bounded(async {
                let client = self.inner.writers.get().await?;
                let statement = client.prepare_cached(WRITE).await?;
                client
                    .execute(
                        &statement,
                        &[
                            &clean(&actor.name),
                            &entry.action,
                            &clean(&entry.target),
                            &written(&entry.detail),
                            &actor.realm.tenant(),
                            &entry.tenant,
                            &entry.job,
                            &address,
                            &entry.before.as_ref().map(written),
                            &entry.after.as_ref().map(written),
                        ],
                    )
                    .await?;
                Ok(())
            })
            .await;
        if let Err(error) = written {
            tracing::error!(%error, who = actor.name, ?address, ?entry, "an entry of the audit was not written");
        }
    }
}

const WRITE: &str = "INSERT INTO audit (actor, action, subject, detail, actor_tenant, tenant, address, before, after) \
     VALUES ($1, $2, $3, $4::text::jsonb, $5, coalesce($6, (SELECT tenant FROM job WHERE id = $7), $5), $8, \
             $9::text::jsonb, $10::text::jsonb)";
