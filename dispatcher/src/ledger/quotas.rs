//! Quotas of tenants: what they may have running and waiting at a time, and how fast their jobs may come.
//!
//! A batch that records or starts jobs of limited tenants locks their rows, after those of the jobs, and counts; so the same room
//! is never given twice, by whichever dispatcher. What there is no room for is held back: it waits as a delayed job in the ledger,
//! and the leader lets it go, one by one, when there is room.
//!
//! Invariant: what is held back is a row that says so; the leader finds it there, whoever held it back.

mod tally;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use deadpool_postgres::ClientWrapper;
use ffpool_schema::id::JobId;
use ffpool_schema::lifecycle::{Input, State};
use serde_json::json;
use tokio_postgres::{Error, Row};

pub(super) use tally::{Held, Start, Tallies};
use tally::{Kept, Quota, Tally, Use};

use super::anonymous::Locked;
use super::audit::Entry;
use super::{Actor, ControlError, Happening, Ledger, OnlyIf, Unavailable};
use crate::limits::Rate;

/// Jobs of one tenant that are let go in one turn.
const LET_GO_MAX: i64 = 200;

/// What a job takes at least: one percent of a core.
const LEAST_CORES: f64 = 0.01;

/// The rates of tenants that have one: this dispatcher's copy for its API, read again every second.
#[derive(Default)]
pub(super) struct TenantRates(Mutex<HashMap<String, Rate>>);

/// Why a tenant may hand in no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FullTenant {
    /// As many of its jobs wait as may.
    Queued {
        /// Waiting.
        waiting: i64,
        /// So many may wait.
        max_queued: i64,
    },
    /// What its jobs published takes as much as it may.
    Stored {
        /// In bytes.
        stored: i64,
        /// In MiB.
        max_storage_mb: i64,
    },
}

/// Cores that a job takes of its tenant's: what it is limited to, or one, as on a worker.
macro_rules! job_cores {
    () => {
        "CASE WHEN tenant IS NULL THEN 1 \
              ELSE coalesce((spec -> 'resource_limits' ->> 'max_cpu_percent')::float8 / 100, 1) END::float8"
    };
}
pub(super) use job_cores;

/// How urgent a job is, the smaller the more: in the order in which workers look at the queues.
macro_rules! job_urgency {
    () => {
        "(3 * array_position(ARRAY['live', 'default', 'batch'], queue) + array_position(ARRAY['high', 'medium', 'low'], priority))"
    };
}
pub(super) use job_urgency;

/// Locks those of the tenants that are limited, and counts what they have. Runs inside a transaction of the caller's.
pub(super) async fn lock(client: &ClientWrapper, tenants: &BTreeSet<&str>) -> Result<Tallies, Error> {
    let mut tallies = Tallies::default();
    if tenants.is_empty() {
        return Ok(tallies);
    }
    let names: Vec<&str> = tenants.iter().copied().collect();
    for row in client.query(&client.prepare_cached(LOCK).await?, &[&names]).await? {
        let tally = Tally { quota: quota(&row)?, ..Tally::default() };
        tallies.0.insert(row.try_get("name")?, tally);
    }
    if tallies.0.is_empty() {
        return Ok(tallies);
    }
    // After the lock, in a statement of its own: it sees what whoever held it before has committed.
    let limited: Vec<&str> = tallies.0.keys().map(String::as_str).collect();
    let counts: Vec<bool> = tallies.0.values().map(|tally| tally.quota.max_queued.is_some()).collect();
    let max_cores: Vec<Option<f64>> = tallies.0.values().map(|tally| tally.quota.max_cores).collect();
    let rows = client.query(&client.prepare_cached(COUNT).await?, &[&limited, &counts, &max_cores]).await?;
    for row in &rows {
        if let Some(tally) = tallies.0.get_mut(row.try_get::<_, &str>("name")?) {
            *tally = Tally::new(std::mem::take(&mut tally.quota), used(row)?);
        }
    }
    Ok(tallies)
}

fn quota(row: &Row) -> Result<Quota, Error> {
    let rate: Option<f64> = row.try_get("requests_per_sec")?;
    Ok(Quota {
        max_running: row.try_get("max_running")?,
        max_cores: row.try_get("max_cpu_cores")?,
        max_queued: row.try_get("max_queued")?,
        max_stored: row.try_get::<_, Option<i64>>("max_storage_mb")?.map(bytes),
        rate: rate.map(Rate::per_sec),
    })
}

fn used(row: &Row) -> Result<Use, Error> {
    Ok(Use {
        running: row.try_get("running")?,
        cores: row.try_get("cores")?,
        let_go: row.try_get("let_go")?,
        let_go_cores: row.try_get("let_go_cores")?,
        kept: kept(row)?,
        waiting: row.try_get("waiting")?,
        stored: row.try_get("stored")?,
        ahead_secs: row.try_get("ahead_secs")?,
        paces: row.try_get("paces")?,
    })
}

fn bytes(mib: i64) -> i64 {
    mib.saturating_mul(1 << 20)
}

fn kept(row: &Row) -> Result<Option<Kept>, Error> {
    let Some(number) = row.try_get("kept_number")? else { return Ok(None) };
    Ok(Some(Kept {
        number,
        urgency: row.try_get("kept_urgency")?,
        cores: row.try_get("kept_cores")?,
        held_secs: row.try_get("kept_secs")?,
    }))
}

/// Writes down what the jobs that came were charged.
pub(super) async fn write_paces(client: &ClientWrapper, tallies: &mut Tallies) -> Result<(), Error> {
    let paced = || tallies.0.iter().filter(|(_, tally)| tally.is_paced_anew);
    let names: Vec<&str> = paced().map(|(name, _)| name.as_str()).collect();
    if names.is_empty() {
        return Ok(());
    }
    let ahead: Vec<f64> = paced().map(|(_, tally)| tally.used.ahead_secs).collect();
    client.execute(&client.prepare_cached(PACE).await?, &[&names, &ahead]).await?;
    tallies.0.values_mut().for_each(|tally| tally.is_paced_anew = false);
    Ok(())
}

impl Ledger {
    /// How many requests a tenant may send, where it has a rate of its own.
    pub(crate) fn tenant_rate(&self, tenant: &str) -> Option<Rate> {
        let rates = self.inner.tenant_rates.0.lock().unwrap_or_else(PoisonError::into_inner);
        rates.get(tenant).copied()
    }

    /// Reads the rates of tenants again.
    pub(super) async fn read_tenant_rates(&self) -> Result<(), Unavailable> {
        let rates = self.bounded(async {
            let client = self.pool().get().await?;
            let rows = client.query(&client.prepare_cached(RATES).await?, &[]).await?;
            let read = |row: &Row| Ok((row.try_get(0)?, Rate::per_sec(row.try_get(1)?)));
            rows.iter().map(read).collect::<Result<HashMap<String, Rate>, Unavailable>>()
        });
        let rates = rates.await?;
        *self.inner.tenant_rates.0.lock().unwrap_or_else(PoisonError::into_inner) = rates;
        Ok(())
    }

    /// Whether a tenant has as much as it may, before another job is handed in.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn tenant_is_full(&self, tenant: &str) -> Result<Option<FullTenant>, Unavailable> {
        self.bounded(async {
            let client = self.pool().get().await?;
            let statement = client.prepare_cached(FULL).await?;
            let Some(row) = client.query_opt(&statement, &[&tenant]).await? else { return Ok(None) };
            let (max_storage_mb, stored): (Option<i64>, i64) = (row.try_get("max_storage_mb")?, row.try_get("stored")?);
            if let Some(max_storage_mb) = max_storage_mb.filter(|max| stored >= bytes(*max)) {
                return Ok(Some(FullTenant::Stored { stored, max_storage_mb }));
            }
            let (max_queued, waiting): (Option<i64>, i64) = (row.try_get("max_queued")?, row.try_get("waiting")?);
            let full = max_queued.filter(|max| waiting >= *max);
            Ok(full.map(|max_queued| FullTenant::Queued { waiting, max_queued }))
        })
        .await
    }

    /// Sums up what the files of tenants take. Nobody waits for it: what is not summed up counts as well.
    ///
    /// # Errors
    /// When Postgres does not take it.
    pub async fn sum_up_stored(&self) -> Result<(), Unavailable> {
        self.bounded(async {
            let client = self.inner.writers.get().await?;
            client.execute(&client.prepare_cached(SUM_UP).await?, &[]).await?;
            Ok(())
        })
        .await
    }

    /// Lets the files of a job count no more against its tenant's storage: they are gone, or somebody else's. Answers how many bytes.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn forget_files(&self, job: JobId, who: &Actor) -> Result<(State, i64), ControlError> {
        let forgotten = self.bounded(async {
            let client = self.inner.writers.get().await?;
            let row = client.query_opt(&client.prepare_cached(FORGET_FILES).await?, &[&job.0]).await?;
            row.map(|row| {
                let state = row.try_get::<_, &str>("state")?.parse();
                let state = state.map_err(|_| Unavailable::because("a job's row has no valid state"))?;
                Ok((state, row.try_get::<_, i64>("bytes")?))
            })
            .transpose()
        });
        let (state, bytes) = forgotten.await?.ok_or(ControlError::NotFound)?;
        self.audit(who, Entry::of_job("forget_files", job).before(json!({ "stored_bytes": bytes }))).await;
        Ok((state, bytes))
    }

    /// Lets go the jobs held back for which there is room. Answers how many.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn let_go(&self) -> Result<usize, Unavailable> {
        let mut count = 0;
        for (tenant, held) in self.bounded(self.who_is_held_back()).await? {
            // A tenant at a time: nobody else's jobs wait while its row is locked.
            let going = self.bounded(self.choose_to_let_go(&tenant, &held)).await?;
            count += going.len();
            self.apply_all(going).await;
        }
        Ok(count)
    }

    /// Tenants of which jobs are held back, and why.
    async fn who_is_held_back(&self) -> Result<BTreeMap<String, Vec<Held>>, Unavailable> {
        let client = self.pool().get().await?;
        let mut held: BTreeMap<String, Vec<Held>> = BTreeMap::new();
        for row in client.query(&client.prepare_cached(HELD).await?, &[]).await? {
            if let Some(by) = Held::named(row.try_get("held_by")?) {
                held.entry(row.try_get("tenant")?).or_default().push(by);
            }
        }
        Ok(held)
    }

    async fn choose_to_let_go(&self, tenant: &str, held: &[Held]) -> Result<Vec<Happening>, Unavailable> {
        let locked = Locked::begin(&self.inner.writers, &[]).await?;
        let going = choose_to_let_go(locked.client(), tenant, held).await?;
        locked.commit().await?;
        Ok(going)
    }
}

/// What of a tenant's is held back and has room. Runs inside a transaction of the caller's.
async fn choose_to_let_go(client: &ClientWrapper, tenant: &str, held: &[Held]) -> Result<Vec<Happening>, Error> {
    let mut tallies = lock(client, &BTreeSet::from([tenant])).await?;
    let mut going = Vec::new();
    for by in held {
        // Without room for the least, all that is held back need not be sorted.
        if tallies.0.get(tenant).is_some_and(|tally| !tally.clone().let_go(*by, LEAST_CORES)) {
            continue;
        }
        let max_cores = tallies.0.get(tenant).and_then(|tally| tally.quota.max_cores);
        let candidates = client.prepare_cached(CANDIDATES).await?;
        let rows = client.query(&candidates, &[&tenant, &by.as_str(), &max_cores, &LET_GO_MAX]).await?;
        for row in &rows {
            let cores = row.try_get("cores")?;
            // One that is not limited any more, or is gone, holds nothing back.
            if !tallies.0.get_mut(tenant).is_none_or(|tally| tally.let_go(*by, cores)) {
                break;
            }
            let input = if *by == Held::Running { Input::LetGo } else { Input::Due };
            let job = JobId(row.try_get("id")?);
            going.push(Happening { only_if: OnlyIf::IsHeld, ..Happening::new(job, input) });
        }
    }
    write_paces(client, &mut tallies).await?;
    Ok(going)
}

const LOCK: &str = "SELECT name, max_queued, max_running, max_cpu_cores, max_storage_mb, requests_per_sec FROM tenant \
     WHERE name = ANY ($1::text[]) \
           AND (max_queued IS NOT NULL OR max_running IS NOT NULL OR max_cpu_cores IS NOT NULL \
                OR max_storage_mb IS NOT NULL OR requests_per_sec IS NOT NULL) \
     ORDER BY name FOR NO KEY UPDATE";

/// Waiting jobs of a tenant that count: not chunks, which the ledger makes, and not what is held back before the queue.
macro_rules! waiting {
    ($tenant:literal, $states:literal) => {
        concat!(
            "(SELECT count(*) FROM job WHERE tenant = ",
            $tenant,
            " AND state IN (",
            $states,
            ") AND part_of IS NULL AND (held_by IS NULL OR held_by = 'running'))"
        )
    };
}

/// Whether the job's time has come, if it has one.
macro_rules! has_come {
    () => {
        "coalesce((spec ->> 'not_before')::timestamptz <= now(), true)"
    };
}

/// What a tenant's jobs published, with the changes that are not summed up yet.
macro_rules! stored {
    () => {
        "(tenant.stored_bytes \
          + coalesce((SELECT sum(bytes) FROM stored_change WHERE stored_change.tenant = tenant.name), 0)::bigint)"
    };
}

// What was let go long ago and waits in a queue that nobody serves keeps no room from the others. Nor do jobs that wait for
// others, which may be the very ones that are held back.
const COUNT: &str = concat!(
    "SELECT t.name, runs.running, runs.cores, gone.let_go, gone.let_go_cores, \
            kept.number AS kept_number, kept.urgency AS kept_urgency, kept.cores AS kept_cores, kept.secs AS kept_secs, \
            CASE WHEN t.counts THEN ",
    waiting!("t.name", "'delayed', 'queued'"),
    " ELSE 0 END AS waiting, \
            coalesce(extract(epoch FROM tenant.paced_until - clock_timestamp()), 0)::float8 AS ahead_secs, ",
    stored!(),
    " AS stored, \
            EXISTS (SELECT FROM job WHERE tenant = t.name AND held_by = 'rate' AND ",
    has_come!(),
    ") AS paces \
     FROM unnest($1::text[], $2::boolean[], $3::float8[]) AS t(name, counts, max_cores) JOIN tenant ON tenant.name = t.name \
          CROSS JOIN LATERAL (SELECT count(*) AS running, coalesce(sum(",
    job_cores!(),
    "), 0) AS cores FROM job WHERE tenant = t.name AND state IN ('running', 'cancelling')) AS runs \
          CROSS JOIN LATERAL (SELECT count(*) AS let_go, coalesce(sum(",
    job_cores!(),
    "), 0) AS let_go_cores FROM job \
                              WHERE tenant = t.name AND held_at IS NOT NULL AND state = 'queued' AND NOT paused \
                                    AND (publish_due IS NOT NULL OR published_at > now() - interval '30 seconds')) AS gone \
          LEFT JOIN LATERAL (SELECT number, extract(epoch FROM now() - held_at)::float8 AS secs, ",
    job_urgency!(),
    " AS urgency, ",
    job_cores!(),
    " AS cores FROM job \
                              WHERE tenant = t.name AND held_by = 'running' AND state = 'delayed' AND NOT paused \
                                    AND NOT EXISTS (SELECT FROM queue_pause WHERE queue_pause.queue = job.queue) \
                                    AND (t.max_cores IS NULL OR ",
    job_cores!(),
    " <= t.max_cores + 1e-6) ORDER BY number LIMIT 1) AS kept ON true"
);

// Tenants are locked in the order of their names, as everywhere. The changes of a tenant that has no row wait for it, as one.
const SUM_UP: &str = "WITH gone AS (DELETE FROM stored_change \
              WHERE EXISTS (SELECT FROM tenant WHERE tenant.name = stored_change.tenant) \
                    OR stored_change.tenant IN (SELECT more.tenant FROM stored_change AS more \
                                                GROUP BY more.tenant HAVING count(*) > 1) \
              RETURNING tenant, bytes), \
     sums AS (SELECT tenant, sum(bytes)::bigint AS bytes FROM gone GROUP BY tenant), \
     locked AS (SELECT name FROM tenant WHERE name IN (SELECT sums.tenant FROM sums) ORDER BY name FOR NO KEY UPDATE), \
     waiting AS (INSERT INTO stored_change (tenant, bytes) SELECT sums.tenant, sums.bytes FROM sums \
                 WHERE sums.bytes <> 0 AND NOT EXISTS (SELECT FROM locked WHERE locked.name = sums.tenant)) \
     UPDATE tenant SET stored_bytes = stored_bytes + sums.bytes FROM sums JOIN locked ON locked.name = sums.tenant \
     WHERE tenant.name = sums.tenant";

// What was made is gone, and so goes the picture of it.
const FORGET_FILES: &str = "WITH known AS (SELECT id, coalesce(stored_bytes, 0) AS bytes FROM job WHERE id = $1 FOR UPDATE), \
     thumbnails AS (DELETE FROM thumbnail WHERE job IN (SELECT id FROM known)) \
     UPDATE job SET stored_bytes = NULL FROM known WHERE job.id = known.id RETURNING job.state, known.bytes";

const RATES: &str = "SELECT name, requests_per_sec FROM tenant WHERE requests_per_sec IS NOT NULL";

const PACE: &str = "UPDATE tenant SET paced_until = clock_timestamp() + u.ahead * interval '1 second' \
     FROM unnest($1::text[], $2::float8[]) AS u(name, ahead) WHERE tenant.name = u.name";

const FULL: &str = concat!(
    "SELECT max_queued, CASE WHEN max_queued IS NULL THEN 0 ELSE ",
    waiting!("$1::text", "'blocked', 'delayed', 'queued'"),
    " END AS waiting, max_storage_mb, ",
    stored!(),
    " AS stored FROM tenant WHERE name = $1 AND (max_queued IS NOT NULL OR max_storage_mb IS NOT NULL)"
);

const HELD: &str = "SELECT DISTINCT tenant, held_by FROM job \
     WHERE held_by IS NOT NULL AND state = 'delayed' AND tenant IS NOT NULL ORDER BY tenant, held_by";

// In the order in which workers look at the queues. One that takes more cores than its tenant may have in all is in nobody's way.
const CANDIDATES: &str = concat!(
    "SELECT id, ",
    job_cores!(),
    " AS cores FROM job \
     WHERE tenant = $1 AND held_by = $2 AND state = 'delayed' AND NOT paused \
           AND NOT EXISTS (SELECT FROM queue_pause WHERE queue_pause.queue = job.queue) \
           AND (held_by = 'running' OR ",
    has_come!(),
    ") AND ($3::float8 IS NULL OR held_by <> 'running' OR ",
    job_cores!(),
    " <= $3 + 1e-6) \
     ORDER BY ",
    job_urgency!(),
    ", number LIMIT $4"
);
