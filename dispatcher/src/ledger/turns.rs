//! Turns of tenants whose jobs wait in one work queue: the leader publishes the next jobs again, to the twin of the queue, which
//! workers look at first. Their first messages are dropped when they are reached.
//!
//! Invariants:
//! * nothing is held back: what has no turn waits where it was, and a worker that finds the twin empty takes it from there;
//! * where no two tenants wait, nothing is read but one index, and nothing is written.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};

use deadpool_postgres::ClientWrapper;
use ffpool_schema::id::JobId;
use ffpool_schema::turns::{self, Account};
use tokio_postgres::Row;
use uuid::Uuid;

use super::anonymous::Locked;
use super::quotas::job_cores;
use super::record::{Effects, PUBLISH_CLAIM_MS};
use super::{Ledger, Unavailable};

/// Tenants of work queues that are looked at in one turn.
const PARTIES_MAX: i64 = 5_000;
/// What ran is charged for so many seconds at most after the leader's last look: nobody pays for a leader that was away.
const LOOK_MAX_SECS: f64 = 5.0;

/// Whether rows of the last contest are left.
#[derive(Debug)]
pub(super) struct Contests(AtomicBool);

impl Default for Contests {
    /// Of a leader before this one.
    fn default() -> Contests {
        Contests(AtomicBool::new(true))
    }
}

/// A work queue: its queue, priority and pool.
type Place = (String, String, String);

/// A tenant in a contest.
#[derive(Debug)]
struct Party {
    place: Place,
    tenant: String,
    account: Account,
    /// Whether it waits, and has room for another job.
    waits: bool,
    /// Whether it waited at the last look.
    waited: bool,
    /// Whether it has been charged before.
    is_known: bool,
    /// Jobs that were dealt a turn and have not started: now, and after the last look.
    ahead: i64,
    was_ahead: i64,
    /// What its jobs used since the last look, beyond what their starts cost.
    used: f64,
    /// Its jobs of the work queue that run, as it is told to whoever asks why one waits.
    running: i64,
    /// Its next jobs and their cores.
    next: VecDeque<(JobId, f64)>,
}

impl Ledger {
    /// Deals turns where jobs of several tenants wait for the same workers. Answers how many.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn deal_turns(&self) -> Result<usize, Unavailable> {
        let dealt = self.bounded(self.try_deal()).await?;
        let count = dealt.len();
        self.inner.outlets.release(Effects { publish: dealt, ..Effects::default() });
        Ok(count)
    }

    async fn try_deal(&self) -> Result<Vec<JobId>, Unavailable> {
        let contests = {
            let client = self.pool().get().await?;
            contests(&client.query(&client.prepare_cached(WAITING).await?, &[&PARTIES_MAX]).await?)?
        };
        if contests.is_empty() {
            if self.inner.contests.0.swap(false, Ordering::Relaxed) {
                self.inner.writers.get().await?.execute("DELETE FROM tenant_turn", &[]).await?;
            }
            return Ok(Vec::new());
        }
        self.inner.contests.0.store(true, Ordering::Relaxed);
        let locked = Locked::begin(&self.inner.writers, &[]).await?;
        let mut parties = read_parties(locked.client(), &contests).await?;
        let dealt = deal(locked.client(), &mut parties).await?;
        write_parties(locked.client(), &parties).await?;
        locked.commit().await?;
        Ok(dealt)
    }
}

/// The tenants of work queues in which more than one waits.
fn contests(rows: &[Row]) -> Result<BTreeMap<Place, BTreeSet<String>>, Unavailable> {
    let mut places: BTreeMap<Place, BTreeSet<String>> = BTreeMap::new();
    for row in rows {
        let place = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        places.entry(place).or_default().insert(row.try_get(3)?);
    }
    places.retain(|_, tenants| tenants.len() > 1);
    Ok(places)
}

/// Everybody who waits there, or did: a tenant that has nothing to wait for at the moment may still have jobs that run.
async fn read_parties(
    client: &ClientWrapper,
    contests: &BTreeMap<Place, BTreeSet<String>>,
) -> Result<Vec<Party>, Unavailable> {
    let mut everybody = contests.clone();
    for row in client.query(&client.prepare_cached(KNOWN).await?, &[]).await? {
        let place: Place = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        if let Some(tenants) = everybody.get_mut(&place) {
            tenants.insert(row.try_get(3)?);
        }
    }
    let all = || everybody.iter().flat_map(|(place, tenants)| tenants.iter().map(move |tenant| (place, tenant)));
    let queues: Vec<&str> = all().map(|(place, _)| place.0.as_str()).collect();
    let priorities: Vec<&str> = all().map(|(place, _)| place.1.as_str()).collect();
    let pools: Vec<&str> = all().map(|(place, _)| place.2.as_str()).collect();
    let tenants: Vec<&str> = all().map(|(_, tenant)| tenant.as_str()).collect();
    let statement = client.prepare_cached(PARTIES).await?;
    let rows = client.query(&statement, &[&queues, &priorities, &pools, &tenants, &LOOK_MAX_SECS]).await?;
    rows.iter().map(|row| party(row, contests)).collect()
}

fn party(row: &Row, contests: &BTreeMap<Place, BTreeSet<String>>) -> Result<Party, Unavailable> {
    let place: Place = (row.try_get("queue")?, row.try_get("priority")?, row.try_get("pool")?);
    let tenant: String = row.try_get("tenant")?;
    let is_there = contests.get(&place).is_some_and(|tenants| tenants.contains(&tenant));
    let had: Option<f64> = row.try_get("had")?;
    Ok(Party {
        waits: is_there && !row.try_get::<_, bool>("is_full")?,
        account: Account { weight: row.try_get::<_, i32>("weight")?.unsigned_abs(), had: had.unwrap_or(0.0) },
        is_known: had.is_some(),
        waited: row.try_get("waited")?,
        ahead: row.try_get("ahead")?,
        was_ahead: row.try_get("was_ahead")?,
        used: row.try_get("used")?,
        running: row.try_get("running")?,
        next: VecDeque::new(),
        place,
        tenant,
    })
}

/// Deals the turns of each work queue and marks the jobs that have them, in the order in which they are to be published.
async fn deal(client: &ClientWrapper, parties: &mut [Party]) -> Result<Vec<JobId>, Unavailable> {
    let mut missing = Vec::with_capacity(parties.len());
    for contest in parties.chunk_by_mut(|a, b| a.place == b.place) {
        let count = settle(contest);
        missing.extend(contest.iter().map(|party| if party.waits { count } else { 0 }));
    }
    read_next(client, parties, &missing).await?;
    let mut dealt = Vec::new();
    let mut at = 0;
    for contest in parties.chunk_by_mut(|a, b| a.place == b.place) {
        let count = contest.iter().zip(&missing[at..]).map(|(_, count)| *count).max().unwrap_or(0);
        at += contest.len();
        dealt.extend(hand_out(contest, usize::try_from(count).unwrap_or(0)));
    }
    if dealt.is_empty() {
        return Ok(dealt);
    }
    let ids: Vec<Uuid> = dealt.iter().map(|job: &JobId| job.0).collect();
    let given = client.query(&client.prepare_cached(GIVE).await?, &[&ids, &PUBLISH_CLAIM_MS]).await?;
    let given = given.iter().map(|row| row.try_get(0).map(JobId)).collect::<Result<BTreeSet<JobId>, _>>()?;
    // One that somebody else holds at the moment is being claimed, or changed.
    dealt.retain(|job| given.contains(job));
    Ok(dealt)
}

/// Charges what was used in a work queue, lets newcomers in, and answers how many turns are missing there.
fn settle(contest: &mut [Party]) -> i64 {
    for party in contest.iter_mut() {
        party.account.charge(party.used);
    }
    let waited: Vec<f64> =
        contest.iter().filter(|party| party.waits && party.waited).map(|party| party.account.had).collect();
    for party in contest.iter_mut().filter(|party| party.waits && !party.waited) {
        let known = party.is_known.then_some(party.account.had);
        party.account.had = turns::begin_at(known, waited.iter().copied());
    }
    if contest.iter().filter(|party| party.waits).count() < 2 {
        return 0;
    }
    let used: i64 = contest.iter().map(|party| (party.was_ahead - party.ahead).max(0)).sum();
    let ahead = turns::ahead(usize::try_from(used).unwrap_or(0));
    let there: i64 = contest.iter().map(|party| party.ahead).sum();
    i64::try_from(ahead).unwrap_or(i64::MAX).saturating_sub(there).max(0)
}

/// Deals turns in a work queue. Answers whose jobs go next.
fn hand_out(contest: &mut [Party], count: usize) -> Vec<JobId> {
    let mut accounts: Vec<Account> = contest.iter().map(|party| party.account).collect();
    let waiting: Vec<Vec<f64>> =
        contest.iter().map(|party| party.next.iter().map(|(_, cores)| *cores).collect()).collect();
    let turns = turns::deal(&mut accounts, &waiting, count);
    for (party, account) in contest.iter_mut().zip(accounts) {
        party.account = account;
    }
    let mut next = |who: usize| {
        contest[who].ahead += 1;
        contest[who].next.pop_front().map(|(job, _)| job)
    };
    turns.into_iter().filter_map(&mut next).collect()
}

async fn read_next(client: &ClientWrapper, parties: &mut [Party], counts: &[i64]) -> Result<(), Unavailable> {
    if counts.iter().all(|count| *count == 0) {
        return Ok(());
    }
    let (queues, priorities, pools, tenants) = columns(parties);
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 5] = [&queues, &priorities, &pools, &tenants, &counts];
    let rows = client.query(&client.prepare_cached(NEXT).await?, &values).await?;
    for row in &rows {
        let at: i64 = row.try_get("at")?;
        let party = usize::try_from(at - 1).ok().and_then(|at| parties.get_mut(at));
        if let Some(party) = party {
            party.next.push_back((JobId(row.try_get("id")?), row.try_get("cores")?));
        }
    }
    Ok(())
}

async fn write_parties(client: &ClientWrapper, parties: &[Party]) -> Result<(), Unavailable> {
    let (queues, priorities, pools, tenants) = columns(parties);
    let had: Vec<f64> = parties.iter().map(|party| party.account.had).collect();
    let weights: Vec<i32> = parties.iter().map(|party| i32::try_from(party.account.weight).unwrap_or(1)).collect();
    let waits: Vec<bool> = parties.iter().map(|party| party.waits).collect();
    let ahead: Vec<i64> = parties.iter().map(|party| party.ahead).collect();
    let running: Vec<i64> = parties.iter().map(|party| party.running).collect();
    client.execute(&client.prepare_cached(FORGET).await?, &[&queues, &priorities, &pools]).await?;
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 9] =
        [&queues, &priorities, &pools, &tenants, &had, &weights, &waits, &ahead, &running];
    client.execute(&client.prepare_cached(WRITE).await?, &values).await?;
    Ok(())
}

type Columns<'p> = (Vec<&'p str>, Vec<&'p str>, Vec<&'p str>, Vec<&'p str>);

fn columns(parties: &[Party]) -> Columns<'_> {
    (
        parties.iter().map(|party| party.place.0.as_str()).collect(),
        parties.iter().map(|party| party.place.1.as_str()).collect(),
        parties.iter().map(|party| party.place.2.as_str()).collect(),
        parties.iter().map(|party| party.tenant.as_str()).collect(),
    )
}

/// The predicate of the index `job_turns`, word for word.
macro_rules! waits {
    () => {
        "tenant IS NOT NULL AND state = 'queued' AND fingerprint IS NULL AND NOT paused"
    };
}

/// A turn that was dealt long ago and was not taken is void: its message may be lost. The job waits in its queue all the same.
macro_rules! dealt_lately {
    () => {
        "turn_at > now() - interval '10 minutes'"
    };
}

// From one tenant's first job to the next tenant's.
const WAITING: &str = concat!(
    "WITH RECURSIVE party AS ( \
        (SELECT queue, priority, pool, tenant FROM job WHERE ",
    waits!(),
    " ORDER BY queue, priority, pool, tenant LIMIT 1) \
        UNION ALL \
        SELECT next.* FROM party CROSS JOIN LATERAL ( \
            SELECT queue, priority, pool, tenant FROM job WHERE ",
    waits!(),
    " AND (queue, priority, pool, tenant) > (party.queue, party.priority, party.pool, party.tenant) \
            ORDER BY queue, priority, pool, tenant LIMIT 1) AS next) \
     SELECT queue, priority, pool, tenant FROM party \
     WHERE NOT EXISTS (SELECT FROM queue_pause WHERE queue_pause.queue = party.queue) LIMIT $1"
);

const KNOWN: &str = "SELECT queue, priority, pool, tenant FROM tenant_turn";

// What a start costs is charged at once, so what a job runs counts from its second second on.
const PARTIES: &str = concat!(
    "WITH party AS (SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS u(queue, priority, pool, tenant)), \
     runs AS ( \
        SELECT j.queue, j.priority, j.pool, j.tenant, count(*) AS running, \
               sum(j.cores * greatest(0, least($5::float8, extract(epoch FROM clock_timestamp() - t.looked_at)::float8, j.ran - 1))) \
                   FILTER (WHERE j.frozen_since IS NULL AND t.tenant IS NOT NULL) AS used \
        FROM (SELECT queue, priority, pool, tenant, frozen_since, extract(epoch FROM clock_timestamp() - started_at)::float8 AS ran, ",
    job_cores!(),
    " AS cores FROM job WHERE state IN ('running', 'cancelling') AND tenant IS NOT NULL) AS j \
             LEFT JOIN tenant_turn AS t ON (t.queue, t.priority, t.pool, t.tenant) = (j.queue, j.priority, j.pool, j.tenant) \
        GROUP BY j.queue, j.priority, j.pool, j.tenant) \
     SELECT p.queue, p.priority, p.pool, p.tenant, t.had, coalesce(t.waits, false) AS waited, coalesce(t.ahead, 0) AS was_ahead, \
            coalesce(tenant.weight, 1) AS weight, coalesce(runs.used, 0)::float8 AS used, coalesce(runs.running, 0) AS running, \
            (SELECT count(*) FROM job WHERE turn_at IS NOT NULL AND state = 'queued' AND NOT paused AND queue = p.queue \
                    AND priority = p.priority AND pool = p.pool AND tenant = p.tenant AND ",
    dealt_lately!(),
    ") AS ahead, \
            EXISTS (SELECT FROM job WHERE tenant = p.tenant AND held_by = 'running' AND state = 'delayed') AS is_full \
     FROM party AS p LEFT JOIN tenant_turn AS t USING (queue, priority, pool, tenant) \
          LEFT JOIN runs USING (queue, priority, pool, tenant) LEFT JOIN tenant ON tenant.name = p.tenant \
     ORDER BY p.queue, p.priority, p.pool, p.tenant"
);

const NEXT: &str = concat!(
    "SELECT p.at, next.id, next.cores \
     FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[]) WITH ORDINALITY AS p(queue, priority, pool, tenant, most, at) \
          CROSS JOIN LATERAL ( \
        SELECT id, number, ",
    job_cores!(),
    " AS cores FROM job WHERE ",
    waits!(),
    " AND queue = p.queue AND priority = p.priority AND pool = p.pool AND tenant = p.tenant \
          AND publish_due IS NULL AND (turn_at IS NULL OR NOT ",
    dealt_lately!(),
    ") ORDER BY number LIMIT p.most) AS next \
     ORDER BY p.at, next.number"
);

const GIVE: &str = "UPDATE job SET turn_at = now(), publish_due = now() + $2::bigint * interval '1 millisecond', \
            custody = 'ledger', returned = true \
     WHERE id IN (SELECT id FROM job WHERE id = ANY ($1::uuid[]) AND state = 'queued' AND NOT paused AND publish_due IS NULL \
                  ORDER BY id FOR UPDATE SKIP LOCKED) \
     RETURNING id";

// Contests that have ended.
const FORGET: &str = "DELETE FROM tenant_turn \
     WHERE NOT EXISTS (SELECT FROM unnest($1::text[], $2::text[], $3::text[]) AS u(queue, priority, pool) \
                       WHERE (u.queue, u.priority, u.pool) = (tenant_turn.queue, tenant_turn.priority, tenant_turn.pool)) \
           AND looked_at < now() - interval '10 seconds'";

const WRITE: &str = "INSERT INTO tenant_turn (queue, priority, pool, tenant, had, weight, waits, ahead, running, looked_at) \
     SELECT u.*, clock_timestamp() FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::float8[], $6::integer[], \
                                               $7::boolean[], $8::bigint[], $9::bigint[]) AS u \
     ON CONFLICT (queue, priority, pool, tenant) DO UPDATE SET had = excluded.had, weight = excluded.weight, \
        waits = excluded.waits, ahead = excluded.ahead, running = excluded.running, looked_at = excluded.looked_at";
