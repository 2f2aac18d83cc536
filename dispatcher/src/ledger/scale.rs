//! What the advice on the number of workers is made of, read from the ledger.
//!
//! Invariant: nothing here changes anything; work and workers are of one snapshot, so that no job is missing between them.

use std::collections::{BTreeMap, BTreeSet};

use ffpool_schema::advice::{Arriving, Expected, History, Kind, Line, Place, Running, Situation, Waiting};
use ffpool_schema::job::{Pool, Queue, ResourceLimits};
use ffpool_schema::message::WorkerState;
use tokio_postgres::{IsolationLevel, Row};

use super::Ledger;
use super::read::{ReadError, bounded, named};

/// What is added to the scenario of jobs that make chunks, which take less time than wholes.
macro_rules! of_chunks {
    () => {
        " (chunk)"
    };
}
pub(crate) const OF_CHUNKS: &str = of_chunks!();
/// Of each scenario so many jobs say how long such jobs take, wholes and chunks apart, the last that completed.
const SAMPLES_MAX: i64 = 300;
/// None that completed longer ago, in seconds: what the pool was then says little of now.
const BACK_SECS: f64 = 604_800.0;
/// Over so many seconds it is counted how many jobs arrive.
pub(crate) const ARRIVALS_SECS: f64 = 600.0;

impl Ledger {
    /// Every pool that has workers or jobs, without its history.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(crate) async fn scale_situations(&self) -> Result<BTreeMap<Pool, Situation>, ReadError> {
        let paused: Vec<Queue> =
            Queue::ALL.into_iter().filter(|queue| self.queue_is_paused(*queue).is_some()).collect();
        bounded(async {
            let mut client = self.pool().get().await?;
            let snapshot = client
                .build_transaction()
                .isolation_level(IsolationLevel::RepeatableRead)
                .read_only(true)
                .start()
                .await?;
            let mut pools = Pools { found: BTreeMap::new(), paused };
            for sql in [WAITING, WAITING_UNSIZED] {
                for row in snapshot.query(&snapshot.prepare_cached(sql).await?, &[]).await? {
                    pools.take_waiting(&row)?;
                }
            }
            for row in snapshot.query(&snapshot.prepare_cached(RUNNING).await?, &[]).await? {
                let owner: Option<&str> = row.try_get("owner_worker")?;
                let running = Running {
                    line: line(&row)?,
                    kind: kind(&row)?,
                    worker: owner.and_then(|owner| owner.parse().ok()),
                    elapsed_secs: row.try_get("elapsed")?,
                    eta_secs: row.try_get("eta")?,
                };
                pools.of(named(&row, "pool")?).running.push(running);
            }
            for row in snapshot.query(&snapshot.prepare_cached(ARRIVING).await?, &[&ARRIVALS_SECS]).await? {
                let (line, kind, per_sec) = (line(&row)?, kind(&row)?, row.try_get("per_sec")?);
                pools.of(named(&row, "pool")?).arriving.push(Arriving { line, kind, per_sec });
            }
            for row in snapshot.query(&snapshot.prepare_cached(WORKERS).await?, &[]).await? {
                pools.take_worker(&row)?;
            }
            for row in snapshot.query(&snapshot.prepare_cached(LAST_SEEN).await?, &[]).await? {
                let slots: i32 = row.try_get("slots")?;
                pools.of(named(&row, "pool")?).last_slots = u32::try_from(slots).ok();
            }
            Ok(pools.found)
        })
        .await
    }

    /// How long jobs of these scenarios ran: by the last that completed of each, within a week.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(crate) async fn scale_history(&self, scenarios: &BTreeSet<&str>) -> Result<History, ReadError> {
        let scenarios: Vec<&str> = scenarios.iter().copied().collect();
        bounded(async {
            let client = self.pool().get().await?;
            let mut history = BTreeMap::new();
            for row in
                client.query(&client.prepare_cached(HISTORY).await?, &[&scenarios, &SAMPLES_MAX, &BACK_SECS]).await?
            {
                let expected = Expected {
                    mean_secs: row.try_get("mean")?,
                    median_secs: row.try_get("median")?,
                    p90_secs: row.try_get("p90")?,
                    samples: u64::try_from(row.try_get::<_, i64>("samples")?).unwrap_or(0),
                };
                // Wishes that come to the same units are of one kind: what is known best speaks for it.
                let known = history.entry(kind(&row)?).or_insert(expected);
                if known.samples < expected.samples {
                    *known = expected;
                }
            }
            Ok(History(history))
        })
        .await
    }
}

/// What was found of each pool.
struct Pools {
    found: BTreeMap<Pool, Situation>,
    paused: Vec<Queue>,
}

impl Pools {
    fn of(&mut self, pool: Pool) -> &mut Situation {
        let paused = &self.paused;
        self.found
            .entry(pool)
            .or_insert_with_key(|pool| Situation { paused: paused.clone(), ..Situation::empty(pool.clone()) })
    }

    fn take_waiting(&mut self, row: &Row) -> Result<(), ReadError> {
        let jobs = u64::try_from(row.try_get::<_, i64>("jobs")?).unwrap_or(0);
        let (line, kind, oldest_secs) = (line(row)?, kind(row)?, row.try_get("oldest")?);
        self.of(named(row, "pool")?).waiting.push(Waiting { line, kind, jobs, oldest_secs });
        Ok(())
    }

    /// A worker of several pools is one in each.
    fn take_worker(&mut self, row: &Row) -> Result<(), ReadError> {
        let count = |column: &str| Ok::<_, ReadError>(u32::try_from(row.try_get::<_, i32>(column)?).unwrap_or(0));
        let place = Place {
            worker: named(row, "id")?,
            draining: row.try_get::<_, &str>("state")? == WorkerState::Draining.as_str(),
            slots: count("slots")?,
            used: count("used")?,
        };
        for pool in row.try_get::<_, Vec<String>>("pools")? {
            if let Ok(pool) = pool.parse() {
                self.of(pool).workers.push(place.clone());
            }
        }
        Ok(())
    }
}

fn line(row: &Row) -> Result<Line, ReadError> {
    Ok(Line { queue: named(row, "queue")?, priority: named(row, "priority")? })
}

fn kind(row: &Row) -> Result<Kind, ReadError> {
    let scenario = row.try_get("kind")?;
    if let Some(units) = row.try_get::<_, Option<i32>>("units")? {
        return Ok(Kind { scenario, units: u32::try_from(units).unwrap_or(1) });
    }
    let wish = |column: &str| row.try_get::<_, Option<f64>>(column);
    let limits = ResourceLimits {
        max_cpu_percent: wish("cpu")?.map(|percent| percent as u32),
        max_memory_mb: wish("memory")?.map(|mb| mb as u64),
        max_disk_mb: wish("disk")?.map(|mb| mb as u64),
        ..ResourceLimits::default()
    };
    let noop: bool = row.try_get("noop")?;
    Ok(Kind { scenario, units: if noop { 1 } else { limits.units() } })
}

macro_rules! scenario_column {
    () => {
        concat!("CASE WHEN part_of IS NULL THEN scenario ELSE scenario || '", of_chunks!(), "' END AS kind, units")
    };
}

/// What jobs are told apart by: `kind`, `units`, and of those from before there was that column what they ask for.
macro_rules! kind_columns {
    () => {
        concat!(
            scenario_column!(),
            ", CASE WHEN units IS NULL THEN (spec #>> '{resource_limits,max_cpu_percent}')::float8 END AS cpu, \
             CASE WHEN units IS NULL THEN (spec #>> '{resource_limits,max_memory_mb}')::float8 END AS memory, \
             CASE WHEN units IS NULL THEN (spec #>> '{resource_limits,max_disk_mb}')::float8 END AS disk, \
             units IS NULL AND coalesce(spec ->> 'engine' = 'noop', false) AS noop"
        )
    };
}

/// What waits for a worker. The predicates of the partial indexes, word for word. What is delayed waits for a time, a quota or
/// somebody, and no worker would start it; but for a job that no worker here could run.
macro_rules! waiting {
    () => {
        ", count(*) AS jobs, greatest(extract(epoch FROM now() - min(state_since)), 0)::float8 AS oldest \
         FROM job WHERE state IN ('blocked', 'delayed', 'queued') AND (state = 'queued' OR state = 'delayed' AND wants_worker) \
               AND NOT paused"
    };
}

// Of the index `job_demand` alone: no column that is not in it.
const WAITING: &str = concat!(
    "SELECT queue, priority, pool, ",
    scenario_column!(),
    waiting!(),
    " AND units IS NOT NULL GROUP BY 1, 2, 3, 4, 5"
);

const WAITING_UNSIZED: &str = concat!(
    "SELECT queue, priority, pool, ",
    kind_columns!(),
    waiting!(),
    " AND units IS NULL GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9"
);

const RUNNING: &str = concat!(
    "SELECT queue, priority, pool, ",
    kind_columns!(),
    ", owner_worker, greatest(extract(epoch FROM now() - coalesce(started_at, now())), 0)::float8 AS elapsed, \
     (progress ->> 'eta_secs')::float8 AS eta FROM job WHERE state IN ('running', 'cancelling')"
);

// What still waits is counted as waiting.
const ARRIVING: &str = concat!(
    "SELECT queue, priority, pool, ",
    kind_columns!(),
    ", count(*)::float8 / $1 AS per_sec FROM job \
     WHERE created_at > now() - make_interval(secs => $1) AND started_at IS NOT NULL \
           AND state NOT IN ('blocked', 'delayed', 'queued') GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9"
);

const WORKERS: &str = "SELECT id, state, pools, (capacity ->> 'slots')::integer AS slots, \
            greatest((capacity ->> 'used')::integer, cardinality(running)) AS used \
     FROM worker WHERE state IN ('ready', 'draining')";

const LAST_SEEN: &str = "SELECT DISTINCT ON (pool) pool, (capacity ->> 'slots')::integer AS slots \
     FROM worker, unnest(pools) AS pool ORDER BY pool, last_seen DESC";

// The time of a whole that was made of chunks is that of putting them together. Found scenario by scenario at the end of the index
// `job_ran`.
const HISTORY: &str = concat!(
    "SELECT kind, units, cpu, memory, disk, noop, avg(secs)::float8 AS mean, count(*) AS samples, \
            percentile_cont(0.5) WITHIN GROUP (ORDER BY secs) AS median, \
            percentile_cont(0.9) WITHIN GROUP (ORDER BY secs) AS p90 \
     FROM unnest($1::text[]) AS asked(name) CROSS JOIN (VALUES (true), (false)) AS whole(is_whole) \
          CROSS JOIN LATERAL (SELECT ",
    kind_columns!(),
    ", greatest(extract(epoch FROM ended_at - started_at), 0)::float8 AS secs \
            FROM job WHERE scenario = asked.name AND (part_of IS NULL) = whole.is_whole AND state = 'completed' AND chunks IS NULL \
                  AND started_at IS NOT NULL AND ended_at > now() - make_interval(secs => $3) \
            ORDER BY ended_at DESC LIMIT $2) AS ran \
     GROUP BY 1, 2, 3, 4, 5, 6"
);
