//! Leases and workers, as heartbeats renew them and silence ends them.
//!
//! Invariant: a lease is renewed only for the attempt that holds it, in the life of the worker that holds it.

use std::collections::BTreeMap;

use ffpool_schema::id::{JobId, WorkerId};
use ffpool_schema::lifecycle::{Input, Tell};
use ffpool_schema::message::{Heartbeat, RunningAttempt, Sender};
use uuid::Uuid;

use super::batch::{integer, json, natural};
use super::record::OFFER_MS;
use super::{Happening, Ledger, OnlyIf, TellOwner, Unavailable};

/// Leases ended by one sweep.
const LAPSES_MAX: i64 = 500;

/// The last heartbeat of each worker since the renewal before.
#[derive(Debug, Default)]
pub struct Beats {
    last: BTreeMap<String, Heartbeat>,
}

impl Beats {
    /// Takes a heartbeat; only the newest of a worker counts, because each tells everything.
    pub fn take(&mut self, beat: Heartbeat) {
        let worker = beat.from.worker.as_str().to_owned();
        match self.last.get(&worker) {
            Some(last) if last.from == beat.from && last.seq > beat.seq => {}
            Some(_) | None => {
                self.last.insert(worker, beat);
            }
        }
    }

    /// The newest of each worker.
    pub(super) fn each(&self) -> impl Iterator<Item = &Heartbeat> {
        self.last.values()
    }

    /// Whether there is nothing to renew.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.last.is_empty()
    }
}

/// The attempts that heartbeats name, one vector a column.
#[derive(Default)]
struct Named<'a> {
    jobs: Vec<Uuid>,
    attempts: Vec<i32>,
    workers: Vec<&'a str>,
    lives: Vec<Uuid>,
    progress: Vec<Option<String>>,
    frozen: Vec<bool>,
}

impl<'a> Named<'a> {
    fn push(&mut self, beat: &'a Heartbeat, running: &RunningAttempt) {
        self.jobs.push(running.job.0);
        self.attempts.push(integer(running.attempt));
        self.workers.push(beat.from.worker.as_str());
        self.lives.push(beat.from.incarnation.0);
        self.progress.push(running.progress.as_ref().map(json));
        self.frozen.push(running.frozen);
    }
}

/// What heartbeats name and is no longer so.
#[derive(Debug, Default)]
pub struct Outdated {
    /// Attempts whose worker does not know yet that they have ended.
    pub ended: Vec<TellOwner>,
    /// Jobs that are not offered, with the worker that keeps room for them.
    pub not_offered: Vec<(JobId, WorkerId)>,
}

impl Ledger {
    /// Renews the leases and the offers that `beats` name, and records the workers. Answers what of it is no longer so.
    ///
    /// # Errors
    /// When Postgres does not take it.
    pub async fn renew(&self, beats: &Beats) -> Result<Outdated, Unavailable> {
        // Leases first: they end by silence, offers are made again.
        let ended = self.renew_leases(beats).await?;
        let not_offered = self.renew_offers(beats).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "offers were not renewed");
            Vec::new()
        });
        Ok(Outdated { ended, not_offered })
    }

    async fn renew_offers(&self, beats: &Beats) -> Result<Vec<(JobId, WorkerId)>, Unavailable> {
        let named: Vec<(JobId, &Sender)> =
            beats.last.values().filter_map(|beat| Some((beat.reserved?, &beat.from))).collect();
        if named.is_empty() {
            return Ok(Vec::new());
        }
        self.bounded(async {
            let client = self.inner.writers.get().await?;
            let statement = client.prepare_cached(RENEW_OFFERS).await?;
            let jobs: Vec<Uuid> = named.iter().map(|(job, _)| job.0).collect();
            let workers: Vec<&str> = named.iter().map(|(_, from)| from.worker.as_str()).collect();
            let lives: Vec<Uuid> = named.iter().map(|(_, from)| from.incarnation.0).collect();
            let rows = client.query(&statement, &[&jobs, &workers, &lives, &OFFER_MS]).await?;
            let renewed: Vec<(JobId, String)> = rows
                .iter()
                .map(|row| Ok((JobId(row.try_get(0)?), row.try_get(1)?)))
                .collect::<Result<_, Unavailable>>()?;
            let is_renewed = |job: &JobId, from: &Sender| {
                renewed.iter().any(|(offered, worker)| offered == job && worker == from.worker.as_str())
            };
            let outdated = named.iter().filter(|(job, from)| !is_renewed(job, from));
            Ok(outdated.map(|(job, from)| (*job, from.worker.clone())).collect())
        })
        .await
    }

    async fn renew_leases(&self, beats: &Beats) -> Result<Vec<TellOwner>, Unavailable> {
        self.bounded(async {
            let client = self.inner.writers.get().await?;
            self.record_workers(&client, beats).await?;
            let mut named = Named::default();
            for beat in beats.last.values() {
                for running in &beat.running {
                    named.push(beat, running);
                }
            }
            if named.jobs.is_empty() {
                return Ok(Vec::new());
            }
            let statement = client.prepare_cached(RENEW).await?;
            let lease_ms = i64::try_from(self.policy().lease.as_millis()).unwrap_or(i64::MAX);
            let Named { jobs, attempts, workers, lives, progress, frozen } = &named;
            let renewed =
                client.query(&statement, &[jobs, attempts, workers, lives, progress, &lease_ms, frozen]).await?;
            if renewed.len() == named.jobs.len() {
                return Ok(Vec::new());
            }
            let statement = client.prepare_cached(ENDED_UNKNOWN).await?;
            let ended = client.query(&statement, &[jobs, attempts, workers, lives]).await?;
            ended
                .iter()
                .map(|row| {
                    let attempt = natural(row.try_get(1)?);
                    Ok(TellOwner { job: JobId(row.try_get(0)?), attempt, tell: Tell::Abandon })
                })
                .collect()
        })
        .await
    }

    async fn record_workers(
        &self,
        client: &deadpool_postgres::ClientWrapper,
        beats: &Beats,
    ) -> Result<(), Unavailable> {
        if beats.is_empty() {
            return Ok(());
        }
        let beats: Vec<&Heartbeat> = beats.last.values().collect();
        let statement = client.prepare_cached(RECORD_WORKERS).await?;
        let ids: Vec<&str> = beats.iter().map(|beat| beat.from.worker.as_str()).collect();
        let lives: Vec<Uuid> = beats.iter().map(|beat| beat.from.incarnation.0).collect();
        let seqs: Vec<i64> = beats.iter().map(|beat| i64::try_from(beat.seq).unwrap_or(i64::MAX)).collect();
        let hosts: Vec<&str> = beats.iter().map(|beat| beat.host.as_str()).collect();
        let versions: Vec<&str> = beats.iter().map(|beat| beat.version.as_str()).collect();
        let states: Vec<&str> = beats.iter().map(|beat| beat.state.as_str()).collect();
        let pools: Vec<String> = beats.iter().map(|beat| json(&beat.pools)).collect();
        let capacities: Vec<String> = beats.iter().map(|beat| json(&beat.capacity)).collect();
        let abilities: Vec<String> = beats.iter().map(|beat| json(&beat.ability)).collect();
        let running: Vec<String> = beats
            .iter()
            .map(|beat| json(&beat.running.iter().map(|running| running.job).collect::<Vec<_>>()))
            .collect();
        client
            .execute(
                &statement,
                &[&ids, &lives, &seqs, &hosts, &versions, &states, &pools, &capacities, &abilities, &running],
            )
            .await?;
        Ok(())
    }

    /// Ends the leases that have run out. Answers how many happenings were decided.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn lapse_overdue(&self) -> Result<usize, Unavailable> {
        let overdue: Vec<Happening> = self
            .bounded(async {
                let client = self.pool().get().await?;
                let statement = client.prepare_cached(OVERDUE).await?;
                let rows = client.query(&statement, &[&LAPSES_MAX]).await?;
                rows.iter()
                    .map(|row| {
                        let input = Input::Lapse { attempt: natural(row.try_get(1)?) };
                        let lapse = Happening::new(JobId(row.try_get(0)?), input);
                        Ok(Happening { only_if: OnlyIf::LeaseIsOver, ..lapse })
                    })
                    .collect()
            })
            .await?;
        let count = overdue.len();
        for lapse in &overdue {
            tracing::warn!(job = %lapse.job, input = ?lapse.input, "a lease has run out");
        }
        self.apply_all(overdue).await;
        Ok(count)
    }

    /// Marks workers that fell silent. Answers their ids.
    ///
    /// # Errors
    /// When Postgres does not take it.
    pub async fn mark_lost_workers(&self) -> Result<Vec<String>, Unavailable> {
        self.bounded(async {
            let client = self.inner.writers.get().await?;
            let statement = client.prepare_cached(MARK_LOST).await?;
            let lease_ms = i64::try_from(self.policy().lease.as_millis()).unwrap_or(i64::MAX);
            let rows = client.query(&statement, &[&lease_ms]).await?;
            rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
        })
        .await
    }

    /// How many workers are in each state.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn count_workers(&self) -> Result<Vec<(String, i64)>, Unavailable> {
        self.bounded(async {
            let client = self.pool().get().await?;
            let statement = client.prepare_cached("SELECT state, count(*) FROM worker GROUP BY state").await?;
            let rows = client.query(&statement, &[]).await?;
            rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
        })
        .await
    }
}

// The rows are locked in the order of their ids, as everywhere.
const RENEW: &str = "WITH named AS ( \
        SELECT * FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::uuid[], $5::text[], $7::boolean[]) \
                      AS u(job, attempt, worker, life, progress, frozen)), \
     held AS ( \
        SELECT j.id, n.progress, n.frozen FROM job AS j JOIN named AS n ON n.job = j.id \
        WHERE j.state IN ('running', 'cancelling') AND j.attempt = n.attempt \
              AND j.owner_worker = n.worker AND j.owner_incarnation = n.life \
        ORDER BY j.id FOR UPDATE OF j) \
     UPDATE job AS j SET lease_until = now() + $6::bigint * interval '1 millisecond', \
                         progress = coalesce(h.progress::jsonb, j.progress), \
                         frozen_since = CASE WHEN h.frozen THEN coalesce(j.frozen_since, now()) END \
     FROM held AS h WHERE j.id = h.id RETURNING j.id";

const RENEW_OFFERS: &str = "WITH named AS (SELECT * FROM unnest($1::uuid[], $2::text[], $3::uuid[]) AS u(job, worker, life)), \
     held AS ( \
        SELECT j.id FROM job AS j JOIN named AS n ON n.job = j.id \
        WHERE j.state = 'delayed' AND NOT j.paused AND j.offered_worker = n.worker AND j.offered_incarnation = n.life \
        ORDER BY j.id FOR UPDATE OF j) \
     UPDATE job AS j SET publish_due = now() + $4::bigint * interval '1 millisecond' FROM held AS h \
     WHERE j.id = h.id RETURNING j.id, j.offered_worker";

const ENDED_UNKNOWN: &str = "SELECT a.job, a.attempt FROM attempt AS a \
     JOIN unnest($1::uuid[], $2::integer[], $3::text[], $4::uuid[]) AS u(job, attempt, worker, life) \
          ON a.job = u.job AND a.attempt = u.attempt AND a.worker = u.worker AND a.incarnation = u.life \
     WHERE a.outcome IN ('lapsed', 'cancelled')";

const RECORD_WORKERS: &str = "INSERT INTO worker \
        (id, incarnation, seq, host, version, state, pools, capacity, ability, running) \
     SELECT u.id, u.life, u.seq, u.host, u.version, u.state, \
            ARRAY(SELECT jsonb_array_elements_text(u.pools::jsonb)), u.capacity::jsonb, u.ability::jsonb, \
            ARRAY(SELECT jsonb_array_elements_text(u.running::jsonb)::uuid) \
     FROM unnest($1::text[], $2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], \
                 $9::text[], $10::text[]) \
          AS u(id, life, seq, host, version, state, pools, capacity, ability, running) \
     ORDER BY u.id \
     ON CONFLICT (id) DO UPDATE SET incarnation = excluded.incarnation, seq = excluded.seq, host = excluded.host, \
        version = excluded.version, state = excluded.state, pools = excluded.pools, capacity = excluded.capacity, \
        ability = excluded.ability, running = excluded.running, last_seen = now() \
     WHERE worker.incarnation <> excluded.incarnation OR worker.seq < excluded.seq";

const OVERDUE: &str = "SELECT id, attempt FROM job \
     WHERE state IN ('running', 'cancelling') AND lease_until < now() LIMIT $1";

const MARK_LOST: &str = "UPDATE worker SET state = 'lost' \
     WHERE state IN ('starting', 'ready', 'draining') AND last_seen < now() - $1::bigint * interval '1 millisecond' RETURNING id";
