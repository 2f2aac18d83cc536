//! The outbox of callbacks. A row is made by the transaction that ends a job (see the migration); whoever sets out to send
//! it moves its time ahead, so that somebody else does it if this one dies.
//!
//! Invariant: a callback is done with only by [`Ledger::settle_callback`], together with the record of its last try.

use std::collections::HashMap;
use std::time::Duration;

use ffpool_schema::api::{CallbackTryView, CallbackView};
use ffpool_schema::id::JobId;
use ffpool_schema::lifecycle::State;
use ffpool_schema::location::redact;
use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::batch::{clean, integer, natural};
use super::read::{ReadError, named};
use super::{Ledger, Unavailable};

/// After this time somebody else may send a callback that a dispatcher has set out to send: longer than one try with its
/// record takes.
const CLAIM_MS: i64 = 30_000;
/// Rows that are looked at for what can be sent.
const LOOKED_AT: i64 = 2_000;
/// Callbacks of one job that are shown, the last ones.
const SHOWN: i64 = 20;
/// Tries of one callback that are shown, the last ones.
const SHOWN_TRIES: i64 = 50;

/// A callback to send.
#[derive(Debug, Clone, PartialEq)]
pub struct PendingCallback {
    /// The delivery.
    pub id: Uuid,
    /// The job.
    pub job: JobId,
    /// How it ended.
    pub state: State,
    /// When.
    pub ended_at: Timestamp,
    /// Where to.
    pub url: String,
    /// Whose job it is.
    pub tenant: Option<String>,
    /// The number of this try, from 1.
    pub tries: u32,
    /// How long ago the job ended.
    pub age: Duration,
}

impl PendingCallback {
    /// Host and port, as they stand in the address.
    #[must_use]
    pub fn host(&self) -> String {
        self.url.split('/').nth(2).unwrap_or_default().to_owned()
    }
}

/// What became of one try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TryRecord {
    /// How long it took.
    pub took: Duration,
    /// The HTTP status, where there was an answer.
    pub status: Option<u16>,
    /// Why it did not succeed.
    pub error: Option<String>,
    /// What follows.
    pub outcome: TryOutcome,
}

/// What follows from a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TryOutcome {
    /// It is done.
    Delivered,
    /// It is sent again.
    Again {
        /// After so long.
        wait: Duration,
    },
    /// It is not sent again.
    GivenUp,
}

impl Ledger {
    /// Sets out to send what is due: `room` at most, and no more than `per_host` to one host with those that are under way
    /// to it already.
    ///
    /// # Errors
    /// When Postgres does not take it.
    pub async fn claim_callbacks(
        &self,
        room: usize,
        per_host: usize,
        under_way: &HashMap<String, usize>,
    ) -> Result<Vec<PendingCallback>, Unavailable> {
        let limit = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let (hosts, counts): (Vec<&str>, Vec<i64>) =
            under_way.iter().map(|(host, count)| (host.as_str(), limit(*count))).unzip();
        self.bounded(async {
            let client = self.inner.writers.get().await?;
            let statement = client.prepare_cached(CLAIM).await?;
            let rows = client
                .query(&statement, &[&limit(room), &limit(per_host), &hosts, &counts, &LOOKED_AT, &CLAIM_MS])
                .await?;
            rows.iter().map(pending).collect()
        })
        .await
    }

    /// Records a try and what follows from it.
    ///
    /// # Errors
    /// When Postgres does not take it; then it is sent once more.
    pub async fn settle_callback(&self, pending: &PendingCallback, record: &TryRecord) -> Result<(), Unavailable> {
        let (outcome, again_ms) = match record.outcome {
            TryOutcome::Delivered => (Some("delivered"), None),
            TryOutcome::GivenUp => (Some("given_up"), None),
            TryOutcome::Again { wait } => (None, Some(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX))),
        };
        let took_ms = i64::try_from(record.took.as_millis()).unwrap_or(i64::MAX);
        let error = record.error.as_deref().map(clean);
        self.bounded(async {
            let client = self.inner.writers.get().await?;
            let statement = client.prepare_cached(SETTLE).await?;
            client
                .execute(
                    &statement,
                    &[
                        &pending.id,
                        &integer(pending.tries),
                        &took_ms,
                        &record.status.map(i32::from),
                        &error,
                        &outcome,
                        &again_ms,
                    ],
                )
                .await?;
            Ok(())
        })
        .await
    }

    /// Callbacks that have not been delivered and not been given up.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn count_callbacks(&self) -> Result<i64, Unavailable> {
        self.bounded(async {
            let client = self.pool().get().await?;
            let statement = client.prepare_cached("SELECT count(*) FROM callback WHERE done_at IS NULL").await?;
            Ok(client.query_one(&statement, &[]).await?.try_get(0)?)
        })
        .await
    }
}

/// The callbacks of a job with their tries, first to last.
pub(super) async fn of_job(
    client: &impl tokio_postgres::GenericClient,
    job: JobId,
) -> Result<Vec<CallbackView>, ReadError> {
    let rows = client.query(OF_JOB, &[&job.0, &SHOWN]).await?;
    let mut callbacks = rows.iter().rev().map(view).collect::<Result<Vec<_>, ReadError>>()?;
    for callback in &mut callbacks {
        let rows = client.query(TRIES, &[&callback.id, &SHOWN_TRIES]).await?;
        callback.tries = rows.iter().rev().map(try_view).collect::<Result<_, ReadError>>()?;
    }
    Ok(callbacks)
}

fn pending(row: &Row) -> Result<PendingCallback, Unavailable> {
    let state: &str = row.try_get("state")?;
    Ok(PendingCallback {
        id: row.try_get("id")?,
        job: JobId(row.try_get("job")?),
        state: state.parse().map_err(|_| Unavailable("a callback's row has no valid state".to_owned()))?,
        ended_at: row.try_get("created_at")?,
        url: row.try_get("url")?,
        tenant: row.try_get("tenant")?,
        tries: natural(row.try_get("tries")?),
        age: Duration::try_from_secs_f64(row.try_get("age_secs")?).unwrap_or_default(),
    })
}

fn view(row: &Row) -> Result<CallbackView, ReadError> {
    let outcome: Option<String> = row.try_get("outcome")?;
    Ok(CallbackView {
        id: row.try_get("id")?,
        state: named(row, "state")?,
        url: redact(row.try_get("url")?),
        ended_at: row.try_get("created_at")?,
        due_at: if outcome.is_none() { Some(row.try_get("due")?) } else { None },
        outcome,
        done_at: row.try_get("done_at")?,
        tries: Vec::new(),
    })
}

fn try_view(row: &Row) -> Result<CallbackTryView, ReadError> {
    let took_ms: i64 = row.try_get("took_ms")?;
    let status: Option<i32> = row.try_get("status")?;
    Ok(CallbackTryView {
        number: natural(row.try_get("try")?),
        at: row.try_get("at")?,
        took_ms: u64::try_from(took_ms).unwrap_or_default(),
        status: status.and_then(|status| u16::try_from(status).ok()),
        error: row.try_get("error")?,
    })
}

// The condition is looked at again in the update: another leader may have set out meanwhile.
const CLAIM: &str = "WITH under_way AS (SELECT * FROM unnest($3::text[], $4::bigint[]) AS u (host, count)), \
     due AS ( \
        SELECT id, due, split_part(url, '/', 3) AS host FROM callback \
        WHERE done_at IS NULL AND due <= now() \
          AND split_part(url, '/', 3) NOT IN (SELECT host FROM under_way WHERE count >= $2) ORDER BY due LIMIT $5), \
     placed AS ( \
        SELECT id, due, coalesce(count, 0) + row_number() OVER (PARTITION BY host ORDER BY due) AS place \
        FROM due LEFT JOIN under_way USING (host)) \
     UPDATE callback AS c SET tries = c.tries + 1, due = now() + $6::bigint * interval '1 millisecond' \
     WHERE c.id IN (SELECT id FROM placed WHERE place <= $2 ORDER BY due LIMIT $1) AND c.done_at IS NULL AND c.due <= now() \
     RETURNING c.id, c.job, c.state, c.created_at, c.url, c.tenant, c.tries, \
               extract(epoch FROM now() - c.created_at)::float8 AS age_secs";

const SETTLE: &str = "WITH settled AS ( \
        UPDATE callback SET outcome = $6, done_at = CASE WHEN $6::text IS NULL THEN NULL ELSE now() END, \
               due = CASE WHEN $7::bigint IS NULL THEN due ELSE now() + $7 * interval '1 millisecond' END \
        WHERE id = $1 AND done_at IS NULL RETURNING id, job, url), \
     told AS ( \
        INSERT INTO event (job, kind, state, attempt, detail) \
        SELECT job.id, 'callback_given_up', job.state, job.attempt, \
               jsonb_build_object('delivery', settled.id, 'tries', $2::integer, 'status', $4::integer, 'error', $5::text) \
        FROM settled JOIN job ON job.id = settled.job WHERE $6 = 'given_up') \
     INSERT INTO callback_try (callback, try, took_ms, status, error) \
     SELECT id, $2, $3, $4, $5 FROM settled ON CONFLICT DO NOTHING";

const OF_JOB: &str = "SELECT id, state, url, created_at, due, outcome, done_at FROM callback WHERE job = $1 \
     ORDER BY created_at DESC LIMIT $2";

const TRIES: &str = "SELECT try, at, took_ms, status, error FROM callback_try WHERE callback = $1 \
     ORDER BY try DESC LIMIT $2";
