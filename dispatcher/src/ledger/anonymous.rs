//! Messages without an id. Two equal bodies are two jobs, but either copy may stand for either job, so they are matched
//! by fingerprint and counted.
//!
//! Invariant: every copy that was published makes one job, whether its claim or its tap comes first. Copies that the
//! ledger itself published carry an id and never come here, so only jobs it has not published are matched. Two
//! decisions about one fingerprint never run at the same time: each holds an advisory lock on it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use deadpool_postgres::{Object, Pool};
use ffpool_schema::id::{Incarnation, JobId, WorkerId};
use ffpool_schema::lifecycle::{Input, State};
use ffpool_schema::message::Sender;
use uuid::Uuid;

use super::batch::{self, natural};
use super::fresh::NewJob;
use super::quotas::{self, Held};
use super::record::{Count, Effects};
use super::tales::{self, Tale, Transaction, Via, What};
use super::writer::{discard, is_about_the_data};
use super::{ApplyError, Decided, Evidence, Happening, Ledger, OnlyIf, Unavailable, Verdict};

/// Between attempts while Postgres is away.
const RETRY: Duration = Duration::from_millis(200);
/// Longest that one transaction may take.
const TRANSACTION: Duration = Duration::from_secs(10);
/// Running jobs of one fingerprint whose owners are asked at most.
const OWNERS_MAX: i64 = 32;

/// A claim of a delivery without an id.
#[derive(Debug, Clone)]
pub struct AnonymousClaim {
    /// What is to happen to the job that is found: a claim, or that it does not fit.
    pub input: Input,
    /// What is known about it.
    pub evidence: Evidence,
    /// Whether the broker delivered it before.
    pub redelivered: bool,
    /// The job, for the case that there is none yet. Its fingerprint is set.
    pub record: Box<NewJob>,
    /// Whether the claimer says who published it, or it does not matter: without it, only the tap can record the job.
    pub may_record: bool,
    /// When it was asked.
    pub asked: SystemTime,
    /// What the owners answered, once they were asked.
    pub owners: Option<Vec<OwnedAttempt>>,
    /// Nobody waits for the answer after this instant.
    pub expires: Instant,
}

/// An attempt and whether its owner is dead.
#[derive(Debug, Clone)]
pub struct OwnedAttempt {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: u32,
    /// Who runs it.
    pub owner: Sender,
    /// Whether the owner was asked and is known to be dead.
    pub is_dead: bool,
}

/// What became of an anonymous claim.
#[derive(Debug)]
pub enum AnonymousVerdict {
    /// It was decided.
    Decided(Box<Decided>),
    /// These must be asked first, and then the claim comes again.
    AskOwners(Vec<OwnedAttempt>),
    /// The ledger has no such job yet, and the claim may not record it.
    Unrecorded,
}

/// Which job a claim is about.
enum Choice {
    Job(JobId, OnlyIf),
    New,
    AskOwners(Vec<OwnedAttempt>),
}

impl Ledger {
    /// Decides a claim of a delivery without an id.
    ///
    /// # Errors
    /// When it expires, or Postgres refuses it.
    pub async fn claim_anonymous(&self, claim: &AnonymousClaim) -> Result<AnonymousVerdict, ApplyError> {
        loop {
            match self.try_claim(claim).await {
                Ok((effects, verdict)) => {
                    self.inner.outlets.release(effects);
                    return Ok(verdict);
                }
                Err(SideTrouble::Refused(reason)) => return Err(ApplyError::Refused(reason)),
                Err(SideTrouble::Again(reason)) => {
                    tracing::debug!(%reason, "a claim without an id is decided again");
                    if claim.expires <= Instant::now() {
                        return Err(ApplyError::Expired);
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn try_claim(&self, claim: &AnonymousClaim) -> Result<(Effects, AnonymousVerdict), SideTrouble> {
        let began = SystemTime::now();
        timely(async {
            let locked = Locked::begin(&self.inner.writers, claim.record.fingerprint.as_slice()).await?;
            let happening = match choose(locked.client(), claim).await? {
                Choice::AskOwners(owners) => return Ok((Effects::default(), AnonymousVerdict::AskOwners(owners))),
                Choice::Job(job, only_if) => of_claim(claim, job, only_if, None),
                Choice::New if !claim.may_record => return Ok((Effects::default(), AnonymousVerdict::Unrecorded)),
                Choice::New => of_claim(claim, JobId(Uuid::now_v7()), OnlyIf::Always, Some(claim.record.clone())),
            };
            let (mut effects, verdict) = self.decide_anonymous(locked.client(), &happening).await?;
            locked.commit().await?;
            let decided = [(&happening, &verdict)];
            tales::tell(std::mem::take(&mut effects.tales), decided, Transaction::since(began, 1));
            match verdict {
                Verdict::Decided(decided) => Ok((effects, AnonymousVerdict::Decided(decided))),
                Verdict::Unknown | Verdict::Skipped => unreachable!(
                    "the job was locked or has just been recorded, and the claim has no condition that skips it"
                ),
            }
        })
        .await
    }

    async fn decide_anonymous(
        &self,
        client: &Object,
        happening: &Happening,
    ) -> Result<(Effects, Verdict), tokio_postgres::Error> {
        let decisions = batch::decide_all(client, &[happening], self.policy()).await?;
        decisions.write(client, self.policy(), self.prices()).await?;
        let (effects, mut verdicts) = decisions.take();
        Ok((effects, verdicts.remove(0)))
    }

    /// Records jobs without an id from the tap. `redelivered` ones may have been recorded before.
    ///
    /// # Errors
    /// [`ApplyError::Expired`] when they may be brought again.
    pub async fn record_anonymous(&self, arrivals: &[(NewJob, bool)]) -> Result<(), ApplyError> {
        let mut fingerprints: Vec<String> = arrivals.iter().filter_map(|(new, _)| new.fingerprint.clone()).collect();
        fingerprints.sort();
        fingerprints.dedup();
        let began = SystemTime::now();
        let recorded = timely(async {
            let locked = Locked::begin(&self.inner.writers, &fingerprints).await?;
            let (mut missing, mut tales) = (BTreeMap::new(), Vec::new());
            for (new, redelivered) in arrivals {
                match find(locked.client(), new, *redelivered).await? {
                    Found::Missing => {
                        missing.insert(JobId(Uuid::now_v7()), new);
                    }
                    Found::Tapped(tale) => tales.push(tale),
                    Found::Recent => {}
                }
            }
            let mut effects = insert(locked.client(), &missing).await?;
            locked.commit().await?;
            tales.append(&mut effects.tales);
            tales::tell(tales, [], Transaction::since(began, arrivals.len()));
            Ok(effects)
        })
        .await;
        match recorded {
            Ok(effects) => {
                self.inner.outlets.release(effects);
                Ok(())
            }
            Err(SideTrouble::Refused(reason)) => Err(ApplyError::Refused(reason)),
            Err(SideTrouble::Again(reason)) => {
                tracing::debug!(%reason, "jobs without an id were not recorded");
                Err(ApplyError::Expired)
            }
        }
    }

    /// The oldest waiting job of a message without an id.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn find_anonymous(&self, new: &NewJob) -> Result<Option<JobId>, Unavailable> {
        self.bounded(async {
            let client = self.inner.writers.get().await?;
            let statement = client.prepare_cached(WAITING).await?;
            let row = client.query_opt(&statement, &[&new.fingerprint, &new.owner()]).await?;
            row.map(|row| Ok(JobId(row.try_get(0)?))).transpose()
        })
        .await
    }
}

/// Why a transaction outside the writers came to nothing.
pub(super) enum SideTrouble {
    Again(String),
    Refused(String),
}

impl From<SideTrouble> for Unavailable {
    fn from(trouble: SideTrouble) -> Unavailable {
        let (SideTrouble::Again(reason) | SideTrouble::Refused(reason)) = trouble;
        Unavailable(reason)
    }
}

impl From<deadpool_postgres::PoolError> for SideTrouble {
    fn from(error: deadpool_postgres::PoolError) -> SideTrouble {
        SideTrouble::Again(ffpool_runtime::settings::chain(&error))
    }
}

impl From<tokio_postgres::Error> for SideTrouble {
    fn from(error: tokio_postgres::Error) -> SideTrouble {
        let reason = ffpool_runtime::settings::chain(&error);
        if is_about_the_data(&error) { SideTrouble::Refused(reason) } else { SideTrouble::Again(reason) }
    }
}

/// Ends a transaction after [`TRANSACTION`].
async fn timely<T>(work: impl Future<Output = Result<T, SideTrouble>>) -> Result<T, SideTrouble> {
    let late = || Err(SideTrouble::Again(format!("Postgres did not answer within {TRANSACTION:?}")));
    tokio::time::timeout(TRANSACTION, work).await.unwrap_or_else(|_| late())
}

/// A transaction that holds the locks of some fingerprints, or of none. Dropped without a commit, its connection ends.
pub(super) struct Locked {
    client: Option<Object>,
}

impl Locked {
    /// `fingerprints` are sorted, so that two transactions never wait for each other in a circle.
    pub(super) async fn begin(pool: &Pool, fingerprints: &[String]) -> Result<Locked, SideTrouble> {
        let locked = Locked { client: Some(pool.get().await?) };
        locked.client().batch_execute("BEGIN").await?;
        let statement = locked.client().prepare_cached(LOCK_FINGERPRINT).await?;
        for fingerprint in fingerprints {
            locked.client().execute(&statement, &[fingerprint]).await?;
        }
        Ok(locked)
    }

    pub(super) fn client(&self) -> &Object {
        self.client.as_ref().expect("only a commit takes it, and consumes this")
    }

    pub(super) async fn commit(mut self) -> Result<(), SideTrouble> {
        self.client().batch_execute("COMMIT").await?;
        drop(self.client.take());
        Ok(())
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            discard(client);
        }
    }
}

/// Finds the job that a claim is about.
async fn choose(client: &Object, claim: &AnonymousClaim) -> Result<Choice, tokio_postgres::Error> {
    let fingerprint = &claim.record.fingerprint;
    if claim.record.spec.is_err() {
        return rejected(client, fingerprint.as_deref()).await;
    }
    let statement = client.prepare_cached(WAITING_LOCKED).await?;
    if let Some(row) = client.query_opt(&statement, &[fingerprint, &claim.record.owner()]).await? {
        return Ok(Choice::Job(JobId(row.try_get(0)?), OnlyIf::Always));
    }
    if !claim.redelivered {
        // It may have been rejected for who published it.
        return if claim.may_record { Ok(Choice::New) } else { rejected(client, fingerprint.as_deref()).await };
    }
    let running = running(client, claim).await?;
    match &claim.owners {
        None if !running.is_empty() => return Ok(Choice::AskOwners(running)),
        Some(asked) => {
            let dead = asked.iter().find(|asked| {
                asked.is_dead && running.iter().any(|now| now.job == asked.job && now.attempt == asked.attempt)
            });
            if let Some(OwnedAttempt { job, attempt, owner, .. }) = dead {
                let only_if = OnlyIf::OwnerDead { owner: owner.clone(), attempt: *attempt };
                return Ok(Choice::Job(*job, only_if));
            }
        }
        None => {}
    }
    // The copy belongs to one of these; the decision on it says that its owner lives, or how it ended.
    let statement = client.prepare_cached(ANY).await?;
    let any = client.query_opt(&statement, &[fingerprint]).await?;
    any.map_or(Ok(Choice::New), |row| Ok(Choice::Job(JobId(row.try_get(0)?), OnlyIf::Always)))
}

/// The job of this fingerprint that was rejected, or a new one.
async fn rejected(client: &Object, fingerprint: Option<&str>) -> Result<Choice, tokio_postgres::Error> {
    let statement = client.prepare_cached(REJECTED).await?;
    let known = client.query_opt(&statement, &[&fingerprint]).await?;
    known.map_or(Ok(Choice::New), |row| Ok(Choice::Job(JobId(row.try_get(0)?), OnlyIf::Always)))
}

/// The running attempts that a redelivered copy may belong to.
async fn running(client: &Object, claim: &AnonymousClaim) -> Result<Vec<OwnedAttempt>, tokio_postgres::Error> {
    let statement = client.prepare_cached(RUNNING).await?;
    let rows = client.query(&statement, &[&claim.record.fingerprint, &OWNERS_MAX]).await?;
    let mut running = Vec::with_capacity(rows.len());
    for row in rows {
        let worker: String = row.try_get("owner_worker")?;
        let Ok(worker) = WorkerId::try_from(worker) else { continue };
        running.push(OwnedAttempt {
            job: JobId(row.try_get("id")?),
            attempt: natural(row.try_get("attempt")?),
            owner: Sender { worker, incarnation: Incarnation(row.try_get("owner_incarnation")?) },
            is_dead: false,
        });
    }
    Ok(running)
}

/// The happening that a claim is, for the job that was found.
fn of_claim(claim: &AnonymousClaim, job: JobId, only_if: OnlyIf, record: Option<Box<NewJob>>) -> Happening {
    let (evidence, via) = (claim.evidence.clone(), Via::Claim(claim.asked));
    Happening { only_if, record, evidence, via, ..Happening::new(job, claim.input.clone()) }
}

/// What the ledger has of an arrival.
enum Found {
    /// A claim that overtook it has made its job.
    Tapped(Tale),
    /// An earlier delivery of it has.
    Recent,
    /// Nothing.
    Missing,
}

async fn find(client: &Object, new: &NewJob, redelivered: bool) -> Result<Found, tokio_postgres::Error> {
    let statement = client.prepare_cached(MARK_TAPPED).await?;
    if let Some(row) = client.query_opt(&statement, &[&new.fingerprint, &new.owner(), &new.spec.is_err()]).await? {
        let (job, traceparent) = (JobId(row.try_get(0)?), row.try_get(1)?);
        return Ok(Found::Tapped(Tale { job, traceparent, now: SystemTime::now(), what: What::Tapped }));
    }
    if !redelivered {
        return Ok(Found::Missing);
    }
    // It was committed before and its acknowledgement was lost, or it was not: a job too many would be an encode too
    // many, while a job too few is recorded by its claim.
    let statement = client.prepare_cached(RECENT).await?;
    let recent = client.query_opt(&statement, &[&new.fingerprint]).await?;
    Ok(recent.map_or(Found::Missing, |_| Found::Recent))
}

async fn insert(client: &Object, jobs: &BTreeMap<JobId, &NewJob>) -> Result<Effects, tokio_postgres::Error> {
    let mut effects = Effects::default();
    if jobs.is_empty() {
        return Ok(effects);
    }
    let mut events = Vec::new();
    let tenants = jobs.values().filter_map(|new| new.tenant()).collect();
    let mut tallies = quotas::lock(client, &tenants).await?;
    for row in batch::insert_jobs(client, jobs, &mut tallies).await? {
        let id = JobId(row.try_get("id")?);
        let state: State = row.try_get::<_, &str>("state")?.parse().expect("we wrote it");
        batch::note_recorded_row(id, state, jobs[&id], &mut events);
        effects.families.extend(batch::relative_of(id, state));
        effects.counts.push(Count::Recorded { queue: row.try_get("queue")? });
        let held = row.try_get::<_, Option<&str>>("held_by")?.and_then(Held::named);
        if let Some(held) = held.filter(|_| state == State::Delayed) {
            effects.counts.push(Count::Held(held));
        }
        let (traceparent, now): (Option<String>, _) = (row.try_get("traceparent")?, row.try_get("created_at")?);
        let tale = |what| Tale { job: id, traceparent: traceparent.clone(), now, what };
        effects.tales.push(tale(What::Tapped));
        if state.is_end() {
            effects.counts.push(Count::Ended { state, queue: row.try_get("queue")? });
            let queue = row.try_get("queue")?;
            effects.tales.push(tale(What::Ended { state, attempts: 0, queue, age_secs: 0.0, cause: None }));
        }
    }
    batch::write_events(client, &events).await?;
    Ok(effects)
}

const LOCK_FINGERPRINT: &str = "SELECT pg_advisory_xact_lock(hashtextextended($1::text, 0))";

// Copies of one tenant's stand for each other first. Those of two change places only while its binding changes.
const WAITING: &str = "SELECT id FROM job WHERE fingerprint = $1 AND state = 'queued' \
     AND publish_due IS NULL AND published_at IS NULL ORDER BY tenant IS DISTINCT FROM $2, paused, number LIMIT 1";

const WAITING_LOCKED: &str = "SELECT id FROM job WHERE fingerprint = $1 AND state = 'queued' \
     AND publish_due IS NULL AND published_at IS NULL ORDER BY tenant IS DISTINCT FROM $2, paused, number LIMIT 1 FOR UPDATE SKIP LOCKED";

const REJECTED: &str = "SELECT id FROM job WHERE fingerprint = $1 AND state = 'rejected' ORDER BY number DESC LIMIT 1";

const RUNNING: &str = "SELECT id, attempt, owner_worker, owner_incarnation FROM job \
     WHERE fingerprint = $1 AND state IN ('running', 'cancelling') AND custody = 'broker' AND published_at IS NULL \
           AND owner_worker IS NOT NULL AND owner_incarnation IS NOT NULL \
     ORDER BY number LIMIT $2";

// Unfinished ones first, and of those the ones that the broker answers for.
const ANY: &str = "SELECT id FROM job WHERE fingerprint = $1 \
     ORDER BY state IN ('completed', 'failed', 'cancelled', 'rejected'), custody IS DISTINCT FROM 'broker', number DESC \
     LIMIT 1";

const MARK_TAPPED: &str = "UPDATE job SET tapped = true WHERE id = \
     (SELECT id FROM job WHERE fingerprint = $1 AND NOT tapped AND (NOT $3::boolean OR state = 'rejected') \
      ORDER BY tenant IS DISTINCT FROM $2, number LIMIT 1) RETURNING id, traceparent";

const RECENT: &str = "SELECT FROM job WHERE fingerprint = $1 \
     AND (state NOT IN ('completed', 'failed', 'cancelled', 'rejected') OR created_at > now() - interval '10 minutes') \
     LIMIT 1";
