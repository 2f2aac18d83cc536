//! Making the ledger's rows agree with the history of events, and making a ledger that comes from a backup fit to be used.
//!
//! Invariants: events are never changed. Nothing is done while a dispatcher leads. After [`Ledger::adopt_restored`] no attempt that
//! the lost ledger granted can be taken for one that this ledger grants.

use std::fmt;

use ffpool_schema::id::JobId;
use ffpool_schema::lifecycle::Input;
use tokio_postgres::Client;
use tracing::info;

use super::batch::natural;
use super::{Evidence, Happening, Ledger, Unavailable, connect};

/// Attempts by which all jobs of a restored ledger are ahead: more than a job has between two backups.
pub const AHEAD: u32 = 1_000;
/// Attempts given back in one round.
const GIVEN_BACK_AT_ONCE: i64 = 1_000;
/// Statements of a rebuild that go through all jobs or all of the history; each is told when it begins.
const REBUILD_STEPS: u32 = 5;
/// Jobs that are named where row and history differ.
const NAMED_MAX: i64 = 20;

/// What of the ledger disagreed with its history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Attempts that the history tells of and that had no row.
    pub attempts_made: u64,
    /// Attempts that had ended by the history alone.
    pub attempts_ended: u64,
    /// Jobs whose row said another state than their last event.
    pub jobs_set: u64,
    /// Some of these, with both states.
    pub named: Vec<Differing>,
    /// Jobs that have events and no row: their bodies are not part of the history, so they cannot be made again.
    pub jobs_without_row: i64,
}

/// A job whose row and history differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differing {
    /// The job.
    pub job: JobId,
    /// The state of its row.
    pub row: String,
    /// The state after its last event.
    pub history: String,
}

/// What was done to a ledger that comes from a backup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Adopted {
    /// Attempts that ran when the backup was made and were given back, free of charge.
    pub given_back: u64,
    /// Jobs that may have run meanwhile, whose attempts are now numbered ahead of what the lost ledger granted.
    pub lifted: u64,
    /// Jobs that are published again, because their messages may be gone.
    pub published: u64,
}

impl fmt::Display for Rebuilt {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rebuilt { attempts_made, attempts_ended, jobs_set, named, jobs_without_row } = self;
        writeln!(to, "attempts without a row:               {attempts_made}")?;
        writeln!(to, "attempts whose end was missing:       {attempts_ended}")?;
        writeln!(to, "jobs in another state than by events: {jobs_set}")?;
        for Differing { job, row, history } in named {
            writeln!(to, "  {job}: {row}, by its events {history}")?;
        }
        writeln!(to, "jobs with events and no row:          {jobs_without_row}")
    }
}

impl fmt::Display for Adopted {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Adopted { given_back, lifted, published } = self;
        writeln!(to, "attempts given back:                  {given_back}")?;
        writeln!(to, "jobs numbered ahead:                  {lifted}")?;
        writeln!(to, "jobs published again at the start:    {published}")
    }
}

impl Ledger {
    /// Makes attempts and the states of jobs agree with the events. With `dry_run` it only tells what differs.
    ///
    /// What an attempt used and its failure are no part of the history; an attempt that is made anew has neither.
    ///
    /// # Errors
    /// When a dispatcher leads, or Postgres does not take it; then nothing is changed.
    pub async fn rebuild(&self, dry_run: bool) -> anyhow::Result<Rebuilt> {
        self.ensure_nobody_leads().await?;
        let mut client = self.connect_for_long().await?;
        let transaction = client.transaction().await?;
        // Claims, which any dispatcher answers, wait until this is done.
        transaction.batch_execute("LOCK TABLE job, attempt IN EXCLUSIVE MODE").await?;
        let step = |number: u32, doing: &str| info!("step {number} of {REBUILD_STEPS}: {doing}");
        step(1, "comparing the states of jobs with their last events");
        let rows = transaction.query(DIFFERING, &[&NAMED_MAX]).await?;
        let named = rows
            .iter()
            .map(|row| Ok(Differing { job: JobId(row.try_get(0)?), row: row.try_get(1)?, history: row.try_get(2)? }));
        let named = named.collect::<Result<Vec<_>, tokio_postgres::Error>>()?;
        step(2, "looking for attempts that have no row");
        let attempts_made = transaction.execute(MAKE_ATTEMPTS, &[]).await?;
        step(3, "looking for attempts that have ended by their events alone");
        let attempts_ended = transaction.execute(END_ATTEMPTS, &[]).await?;
        step(4, "setting jobs to the state of their last events");
        let jobs_set = transaction.execute(SET_JOBS, &[]).await?;
        step(5, "looking for events of jobs that have no row");
        let jobs_without_row = transaction.query_one(WITHOUT_ROW, &[]).await?.try_get(0)?;
        let rebuilt = Rebuilt { attempts_made, attempts_ended, jobs_set, named, jobs_without_row };
        if dry_run {
            transaction.rollback().await?;
        } else {
            transaction.commit().await?;
        }
        Ok(rebuilt)
    }

    /// Makes a ledger that comes from a backup fit to be used: what ran is given back, what waits is published again, and no
    /// attempt that the lost ledger granted after the backup can commit or report in place of one that is granted from now on.
    ///
    /// A job that ended after the backup runs again and replaces what it made; that is the price of an old backup.
    ///
    /// # Errors
    /// When a dispatcher leads, or Postgres does not take it; then it is to be called again.
    pub async fn adopt_restored(&self) -> anyhow::Result<Adopted> {
        self.ensure_nobody_leads().await?;
        let mut given_back = 0;
        loop {
            let running = self.running_attempts().await?;
            if running.is_empty() {
                break;
            }
            let reason = Some("the ledger was restored from a backup".to_owned());
            let evidence = Evidence { reason, ..Evidence::default() };
            let happenings = running
                .into_iter()
                .map(|(job, attempt)| Happening {
                    evidence: evidence.clone(),
                    ..Happening::new(job, Input::Released { attempt })
                })
                .collect();
            for verdict in self.apply_all(happenings).await {
                verdict?;
                given_back += 1;
            }
            info!("{given_back} attempts are given back");
        }
        info!("numbering the attempts of jobs ahead, and marking what waits to be published");
        let mut client = self.connect_for_long().await?;
        let transaction = client.transaction().await?;
        let lifted = transaction.execute(LIFT, &[&i32::try_from(AHEAD).unwrap_or(i32::MAX)]).await?;
        let published = transaction.execute(PUBLISH_ALL, &[]).await?;
        transaction.commit().await?;
        Ok(Adopted { given_back, lifted, published })
    }

    /// A connection for statements that go through all jobs or all of the history, however long that takes.
    async fn connect_for_long(&self) -> Result<Client, tokio_postgres::Error> {
        let client = connect::connect(&self.inner.connection).await?;
        client.batch_execute("SET statement_timeout = 0").await?;
        Ok(client)
    }

    async fn running_attempts(&self) -> Result<Vec<(JobId, u32)>, Unavailable> {
        self.bounded(async {
            let client = self.pool().get().await?;
            let rows = client.query(RUNNING, &[&GIVEN_BACK_AT_ONCE]).await?;
            rows.iter().map(|row| Ok((JobId(row.try_get(0)?), natural(row.try_get(1)?)))).collect()
        })
        .await
    }

    async fn ensure_nobody_leads(&self) -> anyhow::Result<()> {
        let leads =
            self.leader_exists().await.map_err(|why| anyhow::anyhow!("ask whether a dispatcher runs: {why}"))?;
        anyhow::ensure!(!leads, "a dispatcher runs on this ledger: stop all dispatchers first, then try again");
        Ok(())
    }
}

// The order of a job's events is that of their numbers: they are written under the lock of its row. What a claim was answered
// besides a grant stands in `answer`. An event that ended an attempt by the way says so in `ended`: a claim names the attempt that it
// began, and ended the one before.
macro_rules! ends {
    () => {
        "SELECT DISTINCT ON (job, attempt) job, attempt, at, outcome FROM ( \
            SELECT job, attempt, at, seq, CASE kind WHEN 'cancel_done' THEN 'cancelled' WHEN 'lapse' THEN 'lapsed' \
                                                    WHEN 'split' THEN 'released' ELSE kind END AS outcome \
            FROM event WHERE kind IN ('finished', 'failed', 'rejected', 'released', 'split', 'cancel_done', 'lapse') \
            UNION ALL \
            SELECT job, CASE WHEN kind IN ('claim', 'take') THEN attempt - 1 ELSE attempt END, at, seq, detail ->> 'ended' \
            FROM event WHERE detail ? 'ended') AS told \
         WHERE attempt > 0 ORDER BY job, attempt, seq"
    };
}

const MAKE_ATTEMPTS: &str = concat!(
    "WITH begun AS (SELECT DISTINCT ON (job, attempt) job, attempt, at, detail ->> 'worker' AS worker FROM event \
                    WHERE kind IN ('claim', 'take') AND state = 'running' AND attempt > 0 AND NOT detail ? 'answer' \
                    ORDER BY job, attempt, seq), \
          ended AS (",
    ends!(),
    ") INSERT INTO attempt (job, attempt, worker, incarnation, started_at, ended_at, outcome) \
     SELECT b.job, b.attempt, coalesce(b.worker, ''), '00000000-0000-0000-0000-000000000000', b.at, e.at, e.outcome \
     FROM begun AS b JOIN job ON job.id = b.job LEFT JOIN ended AS e ON e.job = b.job AND e.attempt = b.attempt \
     ON CONFLICT DO NOTHING"
);

const END_ATTEMPTS: &str = concat!(
    "WITH ended AS (",
    ends!(),
    ") UPDATE attempt SET ended_at = ended.at, outcome = ended.outcome FROM ended \
     WHERE attempt.job = ended.job AND attempt.attempt = ended.attempt AND attempt.ended_at IS NULL"
);

macro_rules! differing {
    () => {
        "SELECT j.id, j.state AS row_state, last.state, last.attempt, last.at FROM job AS j CROSS JOIN LATERAL \
            (SELECT state, attempt, at FROM event WHERE event.job = j.id ORDER BY seq DESC LIMIT 1) AS last \
         WHERE j.state <> last.state"
    };
}

const DIFFERING: &str = concat!("SELECT id, row_state, state FROM (", differing!(), ") AS d ORDER BY id LIMIT $1");

// A job that is running by its history has no lease that anybody renews: it lapses at once. One that waits is published again.
const SET_JOBS: &str = concat!(
    "UPDATE job SET state = d.state, attempt = greatest(job.attempt, d.attempt), state_since = d.at, \
        ended_at = CASE WHEN d.state IN ('completed', 'failed', 'cancelled', 'rejected') \
                        THEN coalesce(job.ended_at, d.at) END, \
        lease_until = CASE WHEN d.state IN ('running', 'cancelling') THEN now() END, \
        publish_due = CASE WHEN d.state IN ('queued', 'delayed') THEN coalesce(job.publish_due, now()) END, \
        custody = CASE WHEN d.state IN ('completed', 'failed', 'cancelled', 'rejected') THEN NULL ELSE 'ledger' END \
     FROM (",
    differing!(),
    ") AS d WHERE job.id = d.id"
);

const WITHOUT_ROW: &str = "SELECT count(*) FROM (SELECT DISTINCT job FROM event \
     WHERE NOT EXISTS (SELECT FROM job WHERE job.id = event.job)) AS lost";

const RUNNING: &str = "SELECT id, attempt FROM job WHERE state IN ('running', 'cancelling') ORDER BY id LIMIT $1";

// A job that failed or was cancelled may have been sent round again after the backup.
const LIFT: &str = "UPDATE job SET attempt = attempt + $1 WHERE state NOT IN ('completed', 'rejected')";

// One that came without an id and was never published by the ledger has its message in RabbitMQ still, as a rule, and a copy would run
// as a job of its own. Where the message is lost, it is found missing later and published then.
const PUBLISH_ALL: &str = "UPDATE job SET publish_due = now(), custody = 'ledger' \
     WHERE state IN ('blocked', 'delayed', 'queued') AND state = 'queued' AND publish_due IS NULL \
           AND (fingerprint IS NULL OR published_at IS NOT NULL)";
