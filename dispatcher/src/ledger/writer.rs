//! The group-committing writer: takes whatever is waiting, decides and commits it in one transaction, answers each.
//!
//! Invariants:
//! * a happening is answered only after its transaction is committed, and never lost by a failing connection: the batch
//!   is done again until Postgres says what became of it;
//! * happenings of one job go to one writer, so they are decided in the order in which they came;
//! * a happening that Postgres refuses fails alone: its batch is split.

use std::time::{Duration, Instant, SystemTime};

use deadpool_postgres::{Object, Pool};
use ffpool_schema::cost::Prices;
use ffpool_schema::metrics as names;
use futures_util::future::try_join;
use metrics::counter;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, warn};

use super::batch::{self, Decisions};
use super::effects::Outlets;
use super::record::{Effects, Happening, Policy, Verdict};
use super::tales::{self, Transaction};

/// Happenings decided in one transaction at most. Larger ones gain nothing and make everybody in them wait.
const MAX_BATCH: usize = 200;
/// Happenings that may wait for a writer. A full queue holds back whoever brings more.
pub(super) const MAX_WAITING: usize = 4_000;
/// Longest that one transaction may take before its connection is given up.
const TRANSACTION: Duration = Duration::from_secs(15);
/// Between attempts while Postgres is away.
const RETRY: Duration = Duration::from_millis(200);

/// A happening and who waits for its verdict.
pub(super) struct Ask {
    pub(super) happening: Happening,
    pub(super) answer: oneshot::Sender<Result<Verdict, ApplyError>>,
}

/// Why a happening was not decided.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ApplyError {
    /// It was not begun in time.
    #[error("the ledger did not get to it in time")]
    Expired,
    /// Postgres does not take it, whatever it is together with.
    #[error("the ledger cannot record it: {0}")]
    Refused(String),
    /// The ledger is closed.
    #[error("the ledger is closed")]
    Closed,
}

/// What a failed transaction means for its batch.
enum Trouble {
    /// Nothing is wrong with the batch: do it again.
    Again(String),
    /// Postgres refuses something in it.
    Refused(String),
}

/// One writer. Ends when everybody who could ask is gone.
pub(super) struct Writer {
    pub(super) pool: Pool,
    pub(super) policy: Policy,
    /// What attempts cost that end.
    pub(super) prices: Prices,
    pub(super) outlets: Outlets,
    /// Held over batches, so that its statements stay prepared. Owned by this task.
    pub(super) connection: Option<Object>,
    /// Why the present batch has failed more than once. Owned by this task.
    pub(super) trouble: watch::Sender<Option<String>>,
}

impl Writer {
    pub(super) async fn run(mut self, mut asks: mpsc::Receiver<Ask>) {
        let mut waiting = Vec::with_capacity(MAX_BATCH);
        while asks.recv_many(&mut waiting, MAX_BATCH).await > 0 {
            let batch = std::mem::replace(&mut waiting, Vec::with_capacity(MAX_BATCH));
            self.settle(batch).await;
        }
    }

    /// Decides a batch and answers everybody in it.
    async fn settle(&mut self, batch: Vec<Ask>) {
        let mut batch = refuse_expired(batch);
        if batch.is_empty() {
            return;
        }
        let outcome = self.commit_until_known(&batch).await;
        self.trouble.send_replace(None);
        match outcome {
            Ok(verdicts) => answer(batch, verdicts),
            Err(reason) if batch.len() == 1 => {
                error!(job = %batch[0].happening.job, input = batch[0].happening.input.name(), %reason, "the ledger cannot record this");
                counter!(names::LEDGER_REFUSED).increment(1);
                let ask = batch.remove(0);
                // Nobody waits any more: then there is nobody to tell.
                let _ = ask.answer.send(Err(ApplyError::Refused(reason)));
            }
            Err(reason) => {
                warn!(%reason, happenings = batch.len(), "a batch was refused, deciding its happenings one by one");
                for ask in batch {
                    Box::pin(self.settle(vec![ask])).await;
                }
            }
        }
    }

    /// `Err` only when Postgres refuses the batch itself.
    async fn commit_until_known(&mut self, batch: &[Ask]) -> Result<Vec<Verdict>, String> {
        let happenings: Vec<&Happening> = batch.iter().map(|ask| &ask.happening).collect();
        let mut said = false;
        loop {
            let (began, at) = (Instant::now(), SystemTime::now());
            match self.commit(&happenings).await {
                Ok((mut effects, verdicts)) => {
                    self.outlets.batch(batch.len(), began.elapsed());
                    let tales = std::mem::take(&mut effects.tales);
                    let decided = happenings.iter().copied().zip(&verdicts);
                    tales::tell(tales, decided, Transaction::since(at, batch.len()));
                    self.outlets.release(effects);
                    return Ok(verdicts);
                }
                Err(Trouble::Refused(reason)) => return Err(reason),
                Err(Trouble::Again(reason)) => {
                    counter!(names::LEDGER_RETRIES).increment(1);
                    if said {
                        self.trouble.send_replace(Some(reason));
                    } else {
                        warn!(%reason, happenings = batch.len(), "the ledger did not take a batch, doing it again");
                        said = true;
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn commit(&mut self, happenings: &[&Happening]) -> Result<(Effects, Vec<Verdict>), Trouble> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => fresh_connection(&self.pool).await?,
        };
        let done =
            tokio::time::timeout(TRANSACTION, transact(&connection, happenings, (&self.policy, &self.prices))).await;
        match done {
            Ok(Ok(decided)) => {
                self.connection = Some(connection);
                Ok(decided)
            }
            Ok(Err(error)) => {
                discard(connection);
                Err(judge(&error))
            }
            Err(_) => {
                discard(connection);
                Err(Trouble::Again(format!("no answer within {TRANSACTION:?}")))
            }
        }
    }
}

/// A connection with the batch's statements prepared.
async fn fresh_connection(pool: &Pool) -> Result<Object, Trouble> {
    let again = |error: &dyn std::error::Error| Trouble::Again(ffpool_runtime::settings::chain(error));
    let connection = pool.get().await.map_err(|error| again(&error))?;
    if let Err(error) = batch::prepare(&connection).await {
        discard(connection);
        return Err(again(&error));
    }
    Ok(connection)
}

/// One transaction: BEGIN goes out with the first statement and COMMIT with the last ones.
async fn transact(
    connection: &Object,
    happenings: &[&Happening],
    (policy, prices): (&Policy, &Prices),
) -> Result<(Effects, Vec<Verdict>), tokio_postgres::Error> {
    let (_, decisions): (_, Decisions) =
        try_join(connection.batch_execute("BEGIN"), batch::decide_all(connection, happenings, policy)).await?;
    // A statement that fails makes the COMMIT after it a rollback, and this the statement's error.
    try_join(decisions.write(connection, policy, prices), connection.batch_execute("COMMIT")).await?;
    Ok(decisions.take())
}

/// Ends a connection instead of giving it back: it may be inside a transaction.
pub(super) fn discard(connection: Object) {
    drop(Object::take(connection));
}

/// What an error of Postgres means for the batch.
fn judge(error: &tokio_postgres::Error) -> Trouble {
    let reason = ffpool_runtime::settings::chain(error);
    if is_about_the_data(error) { Trouble::Refused(reason) } else { Trouble::Again(reason) }
}

/// Whether the same statement with the same data fails again: SQLSTATE classes 22 (data) and 23 (constraints), and what
/// the client could not encode.
pub(super) fn is_about_the_data(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => ["22", "23", "54"].iter().any(|class| code.code().starts_with(class)),
        None => false,
    }
}

fn refuse_expired(batch: Vec<Ask>) -> Vec<Ask> {
    let now = Instant::now();
    let (expired, rest): (Vec<Ask>, Vec<Ask>) =
        batch.into_iter().partition(|ask| ask.happening.expires.is_some_and(|at| at <= now));
    for ask in expired {
        // Whoever asked has given up by then.
        let _ = ask.answer.send(Err(ApplyError::Expired));
    }
    rest
}

fn answer(batch: Vec<Ask>, verdicts: Vec<Verdict>) {
    for (ask, verdict) in batch.into_iter().zip(verdicts) {
        // Nobody may be waiting any more, which changes nothing: it is committed.
        let _ = ask.answer.send(Ok(verdict));
    }
}
