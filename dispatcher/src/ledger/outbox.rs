//! The outbox: jobs that the ledger has to publish, and what became of it.
//!
//! A job that is to be published has a time in `publish_due`. Whoever sets out to publish it moves the time ahead by
//! [`PUBLISH_CLAIM_MS`], so that somebody else does it if this one dies; after the broker's confirm the time is cleared,
//! unless it changed in between. So a job is published at least once, and a copy too many is absorbed by its claim.

use ffpool_schema::id::JobId;
use ffpool_schema::job::Pool;
use ffpool_schema::lifecycle::Input;
use ffpool_schema::topology::WorkQueue;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_postgres::Row;
use uuid::Uuid;

use super::batch::natural;
use super::record::PUBLISH_CLAIM_MS;
use super::{Happening, Ledger, OnlyIf, Unavailable};

/// Jobs taken by one sweep.
const SWEEP_MAX: i64 = 500;
/// Pause before a job that could not be published is tried again, in milliseconds.
const AGAIN_MS: i64 = 1_000;

/// A job to publish.
#[derive(Debug, Clone)]
pub struct ToPublish {
    /// The job.
    pub job: JobId,
    /// The number that its next attempt will have.
    pub next_attempt: u32,
    /// Where it goes.
    pub work: WorkQueue,
    /// Whether it was handed back, and goes before what waits there.
    pub returned: bool,
    /// The body as the client sent it.
    pub body: Vec<u8>,
    /// Its content type.
    pub content_type: String,
    /// The trace it belongs to.
    pub traceparent: Option<String>,
    /// The value of `publish_due` that stands for this publication.
    token: Timestamp,
}

/// What became of one publication.
#[derive(Debug, Clone, Copy)]
pub struct Published {
    job: JobId,
    token: Timestamp,
    confirmed: bool,
}

impl ToPublish {
    /// The outcome of this publication.
    #[must_use]
    pub fn outcome(&self, confirmed: bool) -> Published {
        Published { job: self.job, token: self.token, confirmed }
    }
}

impl Ledger {
    /// The ids of jobs that this process has set out to publish. Can be taken once.
    ///
    /// # Panics
    /// When it was taken before.
    #[must_use]
    pub fn take_outbox(&self) -> mpsc::Receiver<JobId> {
        let mut slot = self.inner.to_publish.lock().expect("no holder panics");
        slot.take().expect("one task publishes")
    }

    /// Reads jobs that this process has set out to publish.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn load_outbox(&self, jobs: &[JobId]) -> Result<Vec<ToPublish>, Unavailable> {
        self.bounded(async {
            let client = self.inner.writers.get().await?;
            let statement = client.prepare_cached(LOAD).await?;
            let ids: Vec<Uuid> = jobs.iter().map(|job| job.0).collect();
            let rows = client.query(&statement, &[&ids]).await?;
            rows.iter().map(to_publish).collect()
        })
        .await
    }

    /// Sets out to publish what is overdue: after a retry's wait, or because whoever set out to do it is gone.
    ///
    /// # Errors
    /// When Postgres does not take it.
    pub async fn claim_overdue_outbox(&self) -> Result<Vec<ToPublish>, Unavailable> {
        self.bounded(async {
            let client = self.inner.writers.get().await?;
            let statement = client.prepare_cached(CLAIM).await?;
            let rows = client.query(&statement, &[&SWEEP_MAX, &PUBLISH_CLAIM_MS]).await?;
            rows.iter().map(to_publish).collect()
        })
        .await
    }

    /// Records what became of publications.
    ///
    /// # Errors
    /// When Postgres does not take it; then the jobs are published once more.
    pub async fn settle_outbox(&self, published: &[Published]) -> Result<(), Unavailable> {
        self.bounded(async {
            let client = self.inner.writers.get().await?;
            let statement = client.prepare_cached(SETTLE).await?;
            let ids: Vec<Uuid> = published.iter().map(|one| one.job.0).collect();
            let tokens: Vec<Timestamp> = published.iter().map(|one| one.token).collect();
            let confirmed: Vec<bool> = published.iter().map(|one| one.confirmed).collect();
            client.execute(&statement, &[&ids, &tokens, &confirmed, &AGAIN_MS]).await?;
            Ok(())
        })
        .await
    }

    /// Moves delayed jobs whose time has come into their queue. Answers how many were due.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn wake_due(&self) -> Result<usize, Unavailable> {
        let due: Vec<Happening> = self
            .bounded(async {
                let client = self.pool().get().await?;
                let statement = client.prepare_cached(DUE).await?;
                let rows = client.query(&statement, &[&SWEEP_MAX]).await?;
                rows.iter()
                    .map(|row| {
                        Ok(Happening { only_if: OnlyIf::IsDue, ..Happening::new(JobId(row.try_get(0)?), Input::Due) })
                    })
                    .collect()
            })
            .await?;
        let count = due.len();
        self.apply_all(due).await;
        Ok(count)
    }
}

fn to_publish(row: &Row) -> Result<ToPublish, Unavailable> {
    let pool: String = row.try_get("pool")?;
    let bad = |what: &str| Unavailable(format!("a job's row has no valid {what}"));
    Ok(ToPublish {
        job: JobId(row.try_get("id")?),
        next_attempt: natural(row.try_get("attempt")?) + 1,
        work: WorkQueue {
            queue: row.try_get::<_, &str>("queue")?.parse().map_err(|_| bad("queue"))?,
            priority: row.try_get::<_, &str>("priority")?.parse().map_err(|_| bad("priority"))?,
            pool: Pool::try_from(pool).map_err(|_| bad("pool"))?,
        },
        returned: row.try_get("returned")?,
        body: row.try_get("body")?,
        content_type: row.try_get("content_type")?,
        traceparent: row.try_get("traceparent")?,
        token: row.try_get("publish_due")?,
    })
}

const LOAD: &str = "SELECT id, attempt, queue, priority, pool, returned, body, content_type, traceparent, publish_due FROM job \
     WHERE id = ANY ($1::uuid[]) AND state = 'queued' AND publish_due IS NOT NULL";

const CLAIM: &str = "UPDATE job SET publish_due = now() + $2::bigint * interval '1 millisecond' \
     WHERE id IN (SELECT id FROM job WHERE publish_due IS NOT NULL AND publish_due <= now() AND state = 'queued' \
                  ORDER BY publish_due LIMIT $1 FOR UPDATE SKIP LOCKED) \
     RETURNING id, attempt, queue, priority, pool, returned, body, content_type, traceparent, publish_due";

const SETTLE: &str = "WITH outcome AS ( \
        SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::boolean[]) AS u(id, token, confirmed)), \
     held AS ( \
        SELECT j.id, o.confirmed FROM job AS j JOIN outcome AS o ON o.id = j.id AND o.token = j.publish_due \
        ORDER BY j.id FOR UPDATE OF j) \
     UPDATE job AS j SET \
        publish_due = CASE WHEN h.confirmed THEN NULL ELSE now() + $4::bigint * interval '1 millisecond' END, \
        published_at = CASE WHEN h.confirmed THEN now() ELSE j.published_at END, \
        custody = CASE WHEN h.confirmed THEN 'broker' ELSE j.custody END \
     FROM held AS h WHERE j.id = h.id";

// What is held back for its tenant's sake has no time of its own.
const DUE: &str = "SELECT id FROM job WHERE publish_due IS NOT NULL AND publish_due <= now() AND state = 'delayed' \
           AND held_by IS NULL \
     ORDER BY publish_due LIMIT $1";
