//! What jobs used, summed up.
//!
//! Invariant: only what workers have measured is counted; attempts without are told beside it.

use ffpool_schema::api::{CostRow, JobCost};
use ffpool_schema::cost::{Hours, Prices};
use ffpool_schema::id::JobId;
use jiff::Timestamp;
use tokio_postgres::Row;

use super::Ledger;
use super::read::{ReadError, bounded};

/// Sums that are told at most, the largest.
const ROWS_MAX: i64 = 1_000;

/// By what costs are summed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CostBy {
    /// By tenant.
    Tenant,
    /// By queue.
    Queue,
    /// By scenario.
    Scenario,
    /// By the worker of each attempt.
    Worker,
    /// By the value of this label.
    Label(String),
}

impl CostBy {
    /// From `tenant`, `queue`, `scenario`, `worker` or `label:<name>`.
    #[must_use]
    pub fn of(text: &str) -> Option<CostBy> {
        match text {
            "tenant" => Some(CostBy::Tenant),
            "queue" => Some(CostBy::Queue),
            "scenario" => Some(CostBy::Scenario),
            "worker" => Some(CostBy::Worker),
            _ => text.strip_prefix("label:").filter(|name| !name.is_empty()).map(|name| CostBy::Label(name.to_owned())),
        }
    }

    fn expression(&self) -> &'static str {
        match self {
            CostBy::Tenant => "j.tenant",
            CostBy::Queue => "j.queue",
            CostBy::Scenario => "j.scenario",
            CostBy::Worker => "a.worker",
            CostBy::Label(_) => "j.labels ->> $3",
        }
    }
}

impl Ledger {
    /// What the jobs recorded since then used and cost.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn costs(&self, by: &CostBy, since: Timestamp) -> Result<Vec<CostRow>, ReadError> {
        let label = match by {
            CostBy::Label(name) => Some(name.as_str()),
            CostBy::Tenant | CostBy::Queue | CostBy::Scenario | CostBy::Worker => None,
        };
        // What makes a chunk is booked to the job whose chunk it is.
        let sql = format!(
            "SELECT {} AS key, count(DISTINCT j.id) AS jobs, count(*) AS attempts, {USED} \
             FROM job AS maker JOIN attempt AS a ON a.job = maker.id \
                  JOIN job AS j ON j.id = coalesce(maker.part_of, maker.id) \
             WHERE j.created_at >= $1 AND a.ended_at IS NOT NULL AND ($3::text IS NULL OR true) \
             GROUP BY 1 ORDER BY core_hours DESC, key LIMIT $2",
            by.expression()
        );
        bounded(async {
            let client = self.pool().get().await?;
            let rows = client.query(&client.prepare_cached(&sql).await?, &[&since, &ROWS_MAX, &label]).await?;
            rows.iter()
                .map(|row| {
                    let used = used(row)?;
                    Ok(CostRow {
                        key: row.try_get("key")?,
                        jobs: row.try_get("jobs")?,
                        attempts: row.try_get("attempts")?,
                        unmeasured: row.try_get("unmeasured")?,
                        used,
                        cost: self.prices().of(&used),
                    })
                })
                .collect()
        })
        .await
    }
}

/// What a job and those that make its chunks cost so far. `None` without prices.
pub(super) async fn of_job(
    client: &impl tokio_postgres::GenericClient,
    job: JobId,
    prices: &Prices,
) -> Result<Option<JobCost>, ReadError> {
    let sql = format!(
        "SELECT {USED} FROM attempt AS a WHERE a.ended_at IS NOT NULL \
         AND a.job = ANY (ARRAY (SELECT $1::uuid UNION ALL SELECT id FROM job WHERE part_of = $1))"
    );
    let row = client.query_one(&sql, &[&job.0]).await?;
    let unmeasured: i64 = row.try_get("unmeasured")?;
    Ok(prices.of(&used(&row)?).map(|amount| JobCost {
        amount,
        currency: prices.currency.clone(),
        unmeasured: u32::try_from(unmeasured).unwrap_or(u32::MAX),
    }))
}

/// What these attempts `a` used: attempts that nobody measured, and hours.
const USED: &str = "count(*) FILTER (WHERE a.usage IS NULL) AS unmeasured, \
     coalesce(sum((a.usage ->> 'cpu_ms')::float8), 0) / 3.6e6 AS core_hours, \
     coalesce(sum((a.usage ->> 'peak_memory_bytes')::float8 * (a.usage ->> 'wall_ms')::float8), 0) / 3.6e15 AS gb_hours, \
     coalesce(sum((a.usage ->> 'wall_ms')::float8), 0) / 3.6e6 AS worker_hours";

fn used(row: &Row) -> Result<Hours, tokio_postgres::Error> {
    Ok(Hours {
        core_hours: row.try_get("core_hours")?,
        gb_hours: row.try_get("gb_hours")?,
        worker_hours: row.try_get("worker_hours")?,
    })
}
