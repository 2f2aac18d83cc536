//! What many who look at the pool are told from one look at the ledger: jobs by their ids, the workers together, what ended.
//!
//! Invariant: the work of a look does not grow with how many look, and nothing here changes anything.

use std::collections::BTreeMap;

use ffpool_schema::api::{FleetView, JobView, ThroughputPoint};
use jiff::Timestamp;
use uuid::Uuid;

use super::read::{JOB_COLUMNS, ReadError, bounded, job_view};
use super::{Ledger, Realm};

impl Ledger {
    /// The jobs of these ids that are there, whosever they are: the caller looks at their tenants.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(crate) async fn jobs_by_id(&self, ids: &[Uuid]) -> Result<Vec<JobView>, ReadError> {
        bounded(async {
            let client = self.pool().get().await?;
            let sql = format!("SELECT {JOB_COLUMNS} FROM job WHERE id = ANY ($1)");
            let statement = client.prepare_cached(&sql).await?;
            client.query(&statement, &[&ids]).await?.iter().map(job_view).collect()
        })
        .await
    }

    /// The workers together. Those that stopped or were lost more than a day ago do not count.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(crate) async fn fleet(&self) -> Result<FleetView, ReadError> {
        bounded(async {
            let client = self.pool().get().await?;
            let mut fleet = FleetView { workers: BTreeMap::new(), slots: 0, used: 0 };
            for row in client.query(&client.prepare_cached(FLEET).await?, &[]).await? {
                fleet.workers.insert(row.try_get("state")?, row.try_get("workers")?);
                fleet.slots += row.try_get::<_, i64>("slots")?;
                fleet.used += row.try_get::<_, i64>("used")?;
            }
            Ok(fleet)
        })
        .await
    }

    /// Number of the newest job of a realm that lists show, which is none that makes a chunk; 0 where there is none.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(crate) async fn newest_job(&self, realm: &Realm) -> Result<i64, ReadError> {
        bounded(async {
            let client = self.pool().get().await?;
            // Apart, so that each goes down its own index.
            let row = match realm.tenant() {
                None => client.query_one(&client.prepare_cached(NEWEST).await?, &[]).await?,
                Some(tenant) => client.query_one(&client.prepare_cached(NEWEST_OF_TENANT).await?, &[&tenant]).await?,
            };
            Ok(row.try_get(0)?)
        })
        .await
    }

    /// Jobs of a realm that ended since `from`, by steps of `step_secs` from there to now; chunks do not count.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(crate) async fn ended_since(
        &self,
        realm: &Realm,
        from: Timestamp,
        step_secs: u32,
    ) -> Result<Vec<ThroughputPoint>, ReadError> {
        bounded(async {
            let client = self.pool().get().await?;
            let statement = client.prepare_cached(ENDED).await?;
            let rows = client.query(&statement, &[&from, &f64::from(step_secs), &realm.tenant()]).await?;
            rows.iter()
                .map(|row| {
                    Ok(ThroughputPoint {
                        at: row.try_get("at")?,
                        completed: row.try_get("completed")?,
                        failed: row.try_get("failed")?,
                        cancelled: row.try_get("cancelled")?,
                        rejected: row.try_get("rejected")?,
                    })
                })
                .collect()
        })
        .await
    }
}

const FLEET: &str = "SELECT state, count(*) AS workers, \
            coalesce(sum((capacity ->> 'slots')::bigint) FILTER (WHERE state IN ('ready', 'draining')), 0)::bigint AS slots, \
            coalesce(sum((capacity ->> 'used')::bigint) FILTER (WHERE state IN ('ready', 'draining')), 0)::bigint AS used \
     FROM worker WHERE last_seen > now() - interval '1 day' GROUP BY state";

// By the index down to the first that is no chunk: past those of the last jobs that were split at most.
const NEWEST: &str = "SELECT coalesce((SELECT number FROM job WHERE part_of IS NULL ORDER BY number DESC LIMIT 1), 0)";
const NEWEST_OF_TENANT: &str =
    "SELECT coalesce((SELECT number FROM job WHERE tenant = $1 AND part_of IS NULL ORDER BY number DESC LIMIT 1), 0)";

// Two arms with the predicates of two partial indexes, word for word, and no column that is not in them. Counted first and joined to
// the steps afterwards: a step in which nothing ended is there too.
const ENDED: &str = "WITH counted AS ( \
        SELECT floor(extract(epoch FROM ended_at - $1) / $2::float8)::int AS step, \
               count(*) FILTER (WHERE state = 'completed') AS completed, \
               count(*) FILTER (WHERE state = 'failed') AS failed, \
               count(*) FILTER (WHERE state = 'cancelled') AS cancelled, \
               count(*) FILTER (WHERE state = 'rejected') AS rejected \
        FROM (SELECT ended_at, state, tenant FROM job \
              WHERE part_of IS NULL AND state IN ('completed', 'cancelled', 'rejected') AND ended_at >= $1 \
              UNION ALL SELECT ended_at, 'failed', tenant FROM job \
              WHERE part_of IS NULL AND state = 'failed' AND ended_at >= $1) AS ended \
        WHERE $3::text IS NULL OR tenant = $3 GROUP BY 1) \
     SELECT $1::timestamptz + step * $2::float8 * interval '1 second' AS at, \
            coalesce(completed, 0) AS completed, coalesce(failed, 0) AS failed, \
            coalesce(cancelled, 0) AS cancelled, coalesce(rejected, 0) AS rejected \
     FROM generate_series(0, floor(extract(epoch FROM now() - $1::timestamptz) / $2::float8)::int) AS step \
     LEFT JOIN counted USING (step) ORDER BY step";
