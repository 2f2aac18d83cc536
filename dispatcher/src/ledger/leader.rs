//! Which dispatcher runs the timers: the one that holds an advisory lock of Postgres.
//!
//! Trust window: Postgres ends a session that is silent for [`SESSION_IDLE_MS`] and with it the lock; the holder speaks
//! every [`BEAT`] and believes itself leader for [`TRUST`] after it last spoke. As `TRUST < SESSION_IDLE_MS`, a leader
//! that is frozen or cut off has stopped to believe it before another one begins. Even two leaders would do no harm:
//! whatever a timer does is decided under the lock of the job's row.

use std::time::{Duration, Instant};

use ffpool_schema::metrics as names;
use tokio::sync::watch;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Ledger, connect};

/// Of the leader's lock. The number is arbitrary.
const LEADER_LOCK: i64 = 0x6666_706f_6f6c_6c31;
/// Between signs of life.
const BEAT: Duration = Duration::from_millis(500);
/// See the head of this file.
const TRUST: Duration = Duration::from_secs(3);
/// See the head of this file.
const SESSION_IDLE_MS: u32 = 4_500;
/// For one question on the leader's connection.
const ANSWER: Duration = Duration::from_secs(2);

/// Whether this dispatcher is the leader.
#[derive(Clone)]
pub struct Leadership {
    /// When the lock was last proven. Owned by the task of [`Ledger::stand_for_leader`].
    proven: watch::Receiver<Option<Instant>>,
}

impl Leadership {
    /// Whether this dispatcher is the leader now.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.proven.borrow().is_some_and(|at| at.elapsed() < TRUST)
    }
}

impl Ledger {
    /// Tries to become and stay the leader until `stop`; then gives the lock back at once.
    pub fn stand_for_leader(&self, stop: CancellationToken) -> (Leadership, tokio::task::JoinHandle<()>) {
        let (proof, proven) = watch::channel(None);
        let ledger = self.clone();
        metrics::gauge!(names::LEADER).set(0.0);
        let task = tokio::spawn(async move {
            while !stop.is_cancelled() {
                let term = ledger.one_term(&proof, &stop).await;
                let was_leader = proof.send_replace(None).is_some();
                metrics::gauge!(names::LEADER).set(0.0);
                if let Err(reason) = term {
                    if was_leader {
                        warn!(%reason, "no longer the leader");
                    }
                    tokio::select! {
                        () = tokio::time::sleep(BEAT) => {}
                        () = stop.cancelled() => {}
                    }
                }
            }
        });
        (Leadership { proven }, task)
    }

    /// Waits for the lock and holds it. `Ok` at `stop`, `Err` when the connection fails.
    async fn one_term(&self, proof: &watch::Sender<Option<Instant>>, stop: &CancellationToken) -> Result<(), String> {
        let client = bounded(connect::connect(&self.inner.connection)).await?;
        let settings = format!("SET idle_session_timeout = {SESSION_IDLE_MS}");
        bounded(client.batch_execute(&settings)).await?;
        loop {
            let asked = Instant::now();
            if proof.borrow().is_some() {
                bounded(client.batch_execute("SELECT 1")).await?;
                proof.send_replace(Some(asked));
            } else if try_lock(&client).await? {
                info!("this dispatcher is the leader");
                metrics::gauge!(names::LEADER).set(1.0);
                proof.send_replace(Some(asked));
            }
            tokio::select! {
                () = tokio::time::sleep(BEAT) => {}
                // Dropping the client ends the session, which frees the lock.
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Whether some dispatcher is the leader.
    pub(super) async fn leader_exists(&self) -> Result<bool, String> {
        let chain = |error: &dyn std::error::Error| ffpool_runtime::settings::chain(error);
        let client = self.pool().get().await.map_err(|error| chain(&error))?;
        let statement = client.prepare_cached(LOCK_IS_HELD).await.map_err(|error| chain(&error))?;
        let row = client.query_one(&statement, &[&LEADER_LOCK]).await.map_err(|error| chain(&error))?;
        row.try_get(0).map_err(|error| chain(&error))
    }
}

async fn try_lock(client: &Client) -> Result<bool, String> {
    let row = bounded(client.query_one("SELECT pg_try_advisory_lock($1)", &[&LEADER_LOCK])).await?;
    row.try_get(0).map_err(|error| error.to_string())
}

async fn bounded<T>(answer: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, String> {
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(ffpool_runtime::settings::chain(&error)),
        Err(_) => Err(format!("Postgres did not answer within {ANSWER:?}")),
    }
}

// A lock by one bigint is listed with its halves in classid and objid.
const LOCK_IS_HELD: &str = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted \
     AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
     AND objsubid = 1 AND classid::bigint = ($1::bigint >> 32) AND objid::bigint = ($1::bigint & 4294967295))";
