//! What jobs used, summed up.
//!
//! Invariant: only what workers have measured is counted; attempts without are told beside it. What an attempt cost was settled
//! when it ended: no change of prices changes it. Every sum is exact as of the instant that it says.

mod keeping;
mod sums;

use std::time::Duration;

use ffpool_schema::api::{CostRow, JobCost, JobView};
use ffpool_schema::cost::{Hours, Prices};
use ffpool_schema::id::JobId;
use jiff::Timestamp;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::{IsolationLevel, Row};
use uuid::Uuid;

use super::read::{ReadError, bounded};
use super::{Ledger, Realm};
use sums::Arms;

/// Sums that are told at most, the largest.
const ROWS_MAX: i64 = 1_000;
/// For a look at every attempt: a million of them take 2 to 8 s of a machine with nothing else to do (docs/performance.md), and who asks need
/// not wait for its end.
const WALK: Duration = Duration::from_secs(130);
/// Those who may look at every attempt or wait for their turn. It is one at a time: several would keep all others from the connections, and
/// each other from the disk.
const WALKS_MAX: usize = 8;
/// By one process: starting others takes longer than adding up some thousand sums, and a look at every attempt, which somebody waits for
/// once in minutes at most, leaves the other processors to everybody else.
const ALONE: &str = "SET LOCAL max_parallel_workers_per_gather = 0";
/// The same as [`WALK`], by the server.
const WALK_STATEMENT: &str = "SET LOCAL statement_timeout = '120s'";

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

    /// How it is summed up.
    fn way(&self) -> Way<'_> {
        match self {
            CostBy::Tenant => Way::Kept("nullif(tenant, '')"),
            CostBy::Queue => Way::Kept("queue"),
            CostBy::Scenario => Way::Kept("scenario"),
            CostBy::Worker => Way::Walked { key: "a.worker", label: None },
            CostBy::Label(name) => Way::Walked { key: "j.labels ->> $3", label: Some(name) },
        }
    }

    /// Whether every attempt is looked at for it: there is a sum for each tenant, queue and scenario, but workers and labels are too many.
    #[must_use]
    pub fn is_walked(&self) -> bool {
        match self.way() {
            Way::Kept(_) => false,
            Way::Walked { .. } => true,
        }
    }
}

enum Way<'b> {
    /// From the sums that are kept, by this column of theirs.
    Kept(&'static str),
    /// From the attempts themselves, by this of the job `j` and the attempt `a`.
    Walked { key: &'static str, label: Option<&'b str> },
}

/// What some jobs used and cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Summed {
    /// The largest sums, the most processor time first.
    pub rows: Vec<CostRow>,
    /// What had ended by then is in them, or a little more.
    pub as_of: Timestamp,
}

/// Looks at every attempt, one at a time.
pub(super) struct Walks {
    turn: Semaphore,
    /// Of all who have the turn or wait for it.
    places: Semaphore,
}

impl Default for Walks {
    fn default() -> Walks {
        Walks { turn: Semaphore::new(1), places: Semaphore::new(WALKS_MAX) }
    }
}

impl Walks {
    /// Waits for the turn, which lasts until the answer is dropped.
    async fn turn(&self) -> Result<[SemaphorePermit<'_>; 2], ReadError> {
        let place = self.places.try_acquire().map_err(|_| ReadError::TooSlow)?;
        let turn = self.turn.acquire().await.map_err(|_| ReadError::TooSlow)?;
        Ok([place, turn])
    }
}

impl Ledger {
    /// What the jobs of a realm that were recorded since then used and cost. By workers and labels it may take minutes.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn costs(&self, realm: &Realm, by: &CostBy, since: Timestamp) -> Result<Summed, ReadError> {
        let as_of = Timestamp::now();
        let rows = match by.way() {
            Way::Kept(key) => {
                // Attempts that nobody has booked yet are looked at one by one.
                let _turn = match bounded(self.are_costs_unbooked()).await? {
                    true => Some(self.inner.cost_walks.turn().await?),
                    false => None,
                };
                bounded(self.kept_costs(realm, key, since)).await?
            }
            Way::Walked { key, label } => self.walked_costs(realm, key, label, since).await?,
        };
        Ok(Summed { rows, as_of })
    }

    /// From the attempts themselves.
    async fn walked_costs(
        &self,
        realm: &Realm,
        key: &str,
        label: Option<&str>,
        since: Timestamp,
    ) -> Result<Vec<CostRow>, ReadError> {
        // What makes a chunk is booked to the job whose chunk it is.
        let sql = format!(
            "SELECT {key} AS key, count(DISTINCT j.id) AS jobs, count(*) AS attempts, {USED} \
             FROM ({BOOKED}) AS booked JOIN job AS j ON j.id = booked.whole JOIN attempt AS a ON a.job = booked.maker \
             WHERE a.ended_at IS NOT NULL AND ($3::text IS NULL OR true) \
             GROUP BY 1 ORDER BY core_hours DESC, key LIMIT $2"
        );
        let _turn = self.inner.cost_walks.turn().await?;
        let walk = async {
            let mut client = self.pool().get().await?;
            let transaction = client.build_transaction().read_only(true).start().await?;
            transaction.batch_execute(WALK_STATEMENT).await?;
            transaction.batch_execute(ALONE).await?;
            let statement = transaction.prepare_cached(&sql).await?;
            let currency = &self.prices().currency;
            let rows = transaction.query(&statement, &[&since, &ROWS_MAX, &label, currency, &realm.tenant()]).await?;
            rows.iter().map(cost_row).collect()
        };
        tokio::time::timeout(WALK, walk).await.unwrap_or(Err(ReadError::TooSlow))
    }

    async fn are_costs_unbooked(&self) -> Result<bool, ReadError> {
        let after: Option<Uuid> = self.pool().get().await?.query_one(keeping::CURSOR, &[]).await?.try_get(0)?;
        Ok(after.is_some())
    }

    /// From the sums that are kept, and what is not in them yet.
    async fn kept_costs(&self, realm: &Realm, key: &str, since: Timestamp) -> Result<Vec<CostRow>, ReadError> {
        let mut client = self.pool().get().await?;
        // One snapshot, so that nothing is in two of the arms, or in none.
        let snapshot =
            client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true).start().await?;
        let unbooked: Option<Uuid> = snapshot.query_one(keeping::CURSOR, &[]).await?.try_get(0)?;
        if unbooked.is_none() {
            snapshot.batch_execute(ALONE).await?;
        }
        let arms = Arms::since(since, unbooked.is_some());
        let statement = snapshot.prepare_cached(&sums::sql(key, &arms)).await?;
        let (tenant, currency) = (realm.tenant(), &self.prices().currency);
        let (hours, days) = (&arms.first_hour, &arms.first_day);
        let rows = snapshot.query(&statement, &[&since, hours, days, &ROWS_MAX, currency, &tenant, &unbooked]).await?;
        rows.iter().map(cost_row).collect()
    }
}

fn cost_row(row: &Row) -> Result<CostRow, ReadError> {
    Ok(CostRow {
        key: row.try_get("key")?,
        jobs: row.try_get("jobs")?,
        attempts: row.try_get("attempts")?,
        unmeasured: row.try_get("unmeasured")?,
        used: used(row)?,
        unmetered: row.try_get("unmetered")?,
        unpriced: row.try_get("unpriced")?,
        cost: row.try_get("cost")?,
    })
}

/// What each of these jobs and those that make its chunks cost and took so far.
pub(super) async fn fill_in(
    client: &impl deadpool_postgres::GenericClient,
    jobs: &mut [JobView],
    prices: &Prices,
) -> Result<(), ReadError> {
    let ids: Vec<Uuid> = jobs.iter().map(|job| job.id.0).collect();
    let statement = client.prepare_cached(OF_JOBS).await?;
    let rows = client.query(&statement, &[&ids, &prices.currency]).await?;
    for row in rows {
        let id = JobId(row.try_get("whole")?);
        let Some(job) = jobs.iter_mut().find(|job| job.id == id) else { continue };
        let count =
            |column: &str| Ok::<_, ReadError>(u32::try_from(row.try_get::<_, i64>(column)?).unwrap_or(u32::MAX));
        let amount: Option<f64> = row.try_get("cost")?;
        job.energy_joules = row.try_get("energy_joules")?;
        job.cost = match amount {
            None => None,
            Some(amount) => Some(JobCost {
                amount,
                currency: prices.currency.clone(),
                unmeasured: count("unmeasured")?,
                unpriced: count("unpriced")?,
            }),
        };
    }
    Ok(())
}

const OF_JOBS: &str = "WITH maker AS ( \
        SELECT id AS whole, id AS job FROM unnest($1::uuid[]) AS asked(id) \
        UNION ALL SELECT part_of, id FROM job WHERE part_of = ANY ($1)) \
     SELECT maker.whole, count(*) FILTER (WHERE a.usage IS NULL) AS unmeasured, \
            count(*) FILTER (WHERE a.usage IS NOT NULL AND (a.cost IS NULL OR a.currency <> $2)) AS unpriced, \
            sum(a.cost) FILTER (WHERE a.currency = $2) AS cost, \
            sum((a.usage ->> 'energy_joules')::float8) AS energy_joules \
     FROM maker JOIN attempt AS a ON a.job = maker.job WHERE a.ended_at IS NOT NULL GROUP BY maker.whole";

/// The jobs of the tenant `$5`, or of all, recorded since `$1`, each with those whose attempts are booked to it: itself, and those that make its chunks. Two arms,
/// so that each is found by an index.
const BOOKED: &str = "SELECT id AS whole, id AS maker FROM job \
         WHERE created_at >= $1 AND part_of IS NULL AND ($5::text IS NULL OR tenant = $5) \
     UNION ALL SELECT whole.id, part.id FROM job AS part JOIN job AS whole ON whole.id = part.part_of \
     WHERE part.part_of IS NOT NULL AND whole.created_at >= $1 AND ($5::text IS NULL OR whole.tenant = $5)";

/// What these attempts `a` used and cost: attempts of which something is not known, hours, energy, and the cost in the
/// currency `$4`.
const USED: &str = "count(*) FILTER (WHERE a.usage IS NULL) AS unmeasured, \
     count(*) FILTER (WHERE a.usage IS NOT NULL AND a.usage ->> 'energy_joules' IS NULL) AS unmetered, \
     count(*) FILTER (WHERE a.usage IS NOT NULL AND (a.cost IS NULL OR a.currency <> $4)) AS unpriced, \
     sum(a.cost) FILTER (WHERE a.currency = $4) AS cost, \
     sum((a.usage ->> 'energy_joules')::float8) / 3.6e6 AS kwh, \
     coalesce(sum((a.usage ->> 'cpu_ms')::float8), 0) / 3.6e6 AS core_hours, \
     coalesce(sum((a.usage ->> 'peak_memory_bytes')::float8 * (a.usage ->> 'wall_ms')::float8), 0) / 3.6e15 AS gb_hours, \
     coalesce(sum((a.usage ->> 'wall_ms')::float8), 0) / 3.6e6 AS worker_hours";

fn used(row: &Row) -> Result<Hours, tokio_postgres::Error> {
    Ok(Hours {
        core_hours: row.try_get("core_hours")?,
        gb_hours: row.try_get("gb_hours")?,
        worker_hours: row.try_get("worker_hours")?,
        kwh: row.try_get("kwh")?,
    })
}
