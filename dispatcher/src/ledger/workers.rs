//! What the ledger tells of workers: a page of them, one of them, and what they have to offer together.
//!
//! Invariant: how much is answered does not grow with the number of workers, but for [`Ledger::workers`], which is for clients that
//! know no pages.

use std::collections::HashSet;

use ffpool_schema::api::WorkerView;
use ffpool_schema::id::{JobId, WorkerId};
use ffpool_schema::message::WorkerState;
use serde_json::value::RawValue;
use tokio_postgres::Row;
use uuid::Uuid;

use super::read::{ReadError, bounded, named, required};
use super::{Ledger, Realm};

/// Workers that are shown at once where no page is asked for, the last seen.
const AT_ONCE_MAX: i64 = 1000;

/// A worker with its room and abilities in JSON as they were stored: a heartbeat, of which they are, was read before it was written.
pub type StoredWorker = WorkerView<Box<RawValue>, Box<RawValue>>;

/// Which workers are listed. Empty or absent means all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WorkerFilter {
    /// Of the jobs that they run those of this realm are told.
    pub realm: Realm,
    /// In one of these states.
    pub states: Vec<WorkerState>,
    /// With this, in small letters, in their name, host or one of their pools.
    pub name: Option<String>,
    /// After this one: where the page before ended.
    pub after: Option<WorkerId>,
    /// So many at most.
    pub limit: u16,
}

/// What the ready workers of a pool have to offer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Room {
    /// Workers.
    pub(crate) workers: i64,
    /// Their slots.
    pub(crate) slots: i64,
    /// Of these in use.
    pub(crate) used: i64,
}

impl Ledger {
    /// One page of workers, by name, and whether more follow.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn workers_page(&self, filter: &WorkerFilter) -> Result<(Vec<StoredWorker>, bool), ReadError> {
        let limit = usize::from(filter.limit);
        // One more than asked for tells whether there is a next page.
        let mut workers = self.listed(PAGE, filter, i64::from(filter.limit) + 1).await?;
        let more = workers.len() > limit;
        workers.truncate(limit);
        Ok((workers, more))
    }

    /// All workers at once, by name; of very many those that were seen last.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn workers(&self, filter: &WorkerFilter) -> Result<Vec<StoredWorker>, ReadError> {
        let whole = WorkerFilter { realm: Realm::Pool, ..filter.clone() };
        let (mut workers, own) =
            tokio::try_join!(self.listed(AT_ONCE, &whole, AT_ONCE_MAX), self.running_of(&filter.realm))?;
        if let Some(own) = own {
            for worker in &mut workers {
                worker.running.retain(|job| own.contains(&job.0));
            }
        }
        workers.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(workers)
    }

    async fn listed(&self, sql: &str, filter: &WorkerFilter, most: i64) -> Result<Vec<StoredWorker>, ReadError> {
        let WorkerFilter { realm, states, name, after, limit: _ } = filter;
        let states: Option<Vec<&str>> =
            (!states.is_empty()).then(|| states.iter().map(|state| state.as_str()).collect());
        let after = after.as_ref().map(WorkerId::as_str);
        bounded(async {
            let client = self.pool().get().await?;
            let statement = client.prepare_cached(sql).await?;
            let rows = client.query(&statement, &[&most, &realm.tenant(), &states, name, &after]).await?;
            rows.iter().map(worker_view).collect()
        })
        .await
    }

    /// The running jobs of a tenant; `None`: everybody's. To look each worker's jobs up one by one would take longer.
    async fn running_of(&self, realm: &Realm) -> Result<Option<HashSet<Uuid>>, ReadError> {
        let Some(tenant) = realm.tenant() else { return Ok(None) };
        bounded(async {
            let client = self.pool().get().await?;
            let rows = client.query(&client.prepare_cached(RUNNING).await?, &[&tenant]).await?;
            rows.iter().map(|row| Ok(row.try_get(0)?)).collect::<Result<_, ReadError>>().map(Some)
        })
        .await
    }

    /// One worker.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn worker(&self, realm: &Realm, worker: &WorkerId) -> Result<Option<StoredWorker>, ReadError> {
        bounded(async {
            let client = self.pool().get().await?;
            let statement = client.prepare_cached(ONE).await?;
            let row = client.query_opt(&statement, &[&worker.as_str(), &realm.tenant()]).await?;
            row.as_ref().map(worker_view).transpose()
        })
        .await
    }

    /// Every pool that a worker serves or served.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(crate) async fn pools_served(&self) -> Result<Vec<String>, ReadError> {
        bounded(async {
            let client = self.pool().get().await?;
            let rows = client.query(&client.prepare_cached(POOLS).await?, &[]).await?;
            rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
        })
        .await
    }

    /// What the ready workers of a pool have to offer.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(crate) async fn room_of(&self, pool: &str) -> Result<Room, ReadError> {
        bounded(async {
            let client = self.pool().get().await?;
            let row = client.query_one(&client.prepare_cached(ROOM).await?, &[&pool]).await?;
            Ok(Room { workers: row.try_get("workers")?, slots: row.try_get("slots")?, used: row.try_get("used")? })
        })
        .await
    }
}

/// What [`worker_view`] reads, with the jobs of the tenant `$2` or of everybody.
macro_rules! worker_columns {
    () => {
        "SELECT id, host, version, state, pools, capacity, ability, first_seen, last_seen, \
                CASE WHEN $2::text IS NULL THEN running \
                     ELSE ARRAY(SELECT job.id FROM job WHERE job.id = ANY (worker.running) AND job.tenant = $2) \
                END AS running \
         FROM worker"
    };
}

/// Which of them: in the states `$3`, with `$4` in a name, after `$5`.
macro_rules! listed {
    () => {
        " WHERE ($3::text[] IS NULL OR state = ANY ($3)) AND ($5::text IS NULL OR id > $5) \
                AND ($4::text IS NULL OR strpos(lower(id), $4) > 0 OR strpos(lower(host), $4) > 0 \
                     OR strpos(lower(array_to_string(pools, ' ')), $4) > 0)"
    };
}

const PAGE: &str = concat!(worker_columns!(), listed!(), " ORDER BY id LIMIT $1");

/// By their places, so that not all that is told of each is sorted.
const AT_ONCE: &str = concat!(
    worker_columns!(),
    " WHERE ctid = ANY (ARRAY(SELECT ctid FROM worker",
    listed!(),
    " ORDER BY last_seen DESC LIMIT $1))"
);

/// With the predicate of `job_running`.
const RUNNING: &str = "SELECT id FROM job WHERE tenant = $1 AND state IN ('running', 'cancelling')";

const ONE: &str = concat!(worker_columns!(), " WHERE id = $1");

const POOLS: &str = "SELECT DISTINCT unnest(pools) FROM worker";

const ROOM: &str = "SELECT count(*) AS workers, coalesce(sum(slots), 0)::bigint AS slots, \
            coalesce(sum(least(used, slots)), 0)::bigint AS used \
     FROM (SELECT (capacity ->> 'slots')::bigint AS slots, (capacity ->> 'used')::bigint AS used \
           FROM worker WHERE state = 'ready' AND $1 = ANY (pools)) AS ready";

fn worker_view(row: &Row) -> Result<StoredWorker, ReadError> {
    Ok(WorkerView {
        id: named(row, "id")?,
        host: row.try_get("host")?,
        version: row.try_get("version")?,
        state: worker_state(row)?,
        pools: row.try_get("pools")?,
        capacity: required(row, "capacity")?,
        ability: required(row, "ability")?,
        running: row.try_get::<_, Vec<Uuid>>("running")?.into_iter().map(JobId).collect(),
        first_seen: row.try_get("first_seen")?,
        last_seen: row.try_get("last_seen")?,
    })
}

fn worker_state(row: &Row) -> Result<WorkerState, ReadError> {
    let text: &str = row.try_get("state")?;
    WorkerState::named(text)
        .ok_or_else(|| ReadError::Row { column: "state", problem: format!("`{text}` is no state of a worker") })
}
