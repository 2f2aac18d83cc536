//! The worker's questions to the ledger, asked over NATS of whichever dispatcher listens.
//!
//! Invariant: a question is repeated until it is answered, so every question may be dropped and asked again; asking
//! twice never changes more than asking once.

use std::time::Duration;

use ffpool_broker::{RequestError, Signals};
use ffpool_schema::id::JobId;
use ffpool_schema::message::{
    ClaimReply, ClaimRequest, CommitReply, CommitRequest, CustodyRequest, Sender, TakeRequest,
};
use ffpool_schema::subjects;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::{debug, warn};

/// How long a dispatcher may think. It may have to ask a job's owner and to wait for a transaction first.
const ANSWER: Duration = Duration::from_secs(3);
/// Between two questions when nobody listens or the connection is down.
const PAUSE: Duration = Duration::from_millis(150);
/// After an answer that cannot be read: another version answers, and will until somebody upgrades one side.
const PAUSE_UNREADABLE: Duration = Duration::from_secs(2);

/// Whoever answers for the ledger.
#[derive(Clone)]
pub struct Ledger {
    signals: Signals,
    /// Who asks.
    me: Sender,
}

impl Ledger {
    /// Asks on `signals`, as `me`.
    #[must_use]
    pub fn new(signals: Signals, me: Sender) -> Ledger {
        Ledger { signals, me }
    }

    /// Asks for the right to run a delivery.
    pub async fn claim(&self, request: &ClaimRequest) -> ClaimReply {
        self.ask(subjects::CLAIM, request).await
    }

    /// Asks for the right to run a job that was offered.
    pub async fn take(&self, request: &TakeRequest) -> ClaimReply {
        self.ask(subjects::TAKE, request).await
    }

    /// Asks for the right to publish an attempt's output.
    pub async fn commit(&self, job: JobId, attempt: u32) -> CommitReply {
        self.ask(subjects::COMMIT, &CommitRequest { from: self.me.clone(), job, attempt }).await
    }

    /// Asks the ledger to answer for an attempt, so that its delivery may be acknowledged before its end.
    pub async fn custody(&self, job: JobId, attempt: u32) -> CommitReply {
        self.ask(subjects::CUSTODY, &CustodyRequest { from: self.me.clone(), job, attempt }).await
    }

    async fn ask<Q: Serialize, A: DeserializeOwned>(&self, subject: &str, question: &Q) -> A {
        loop {
            let error = match self.signals.request(subject, question, ANSWER).await {
                Ok(answer) => return answer,
                Err(error) => error,
            };
            match error {
                RequestError::Timeout { .. } => debug!(%error, "asking again"),
                RequestError::NoResponders { .. } | RequestError::Link { .. } => {
                    debug!(%error, "asking again");
                    tokio::time::sleep(jittered(PAUSE)).await;
                }
                RequestError::Decode { .. } => {
                    warn!(%error, "a dispatcher's answer cannot be read: is it of another version?");
                    tokio::time::sleep(jittered(PAUSE_UNREADABLE)).await;
                }
            }
        }
    }
}

/// Half to one and a half times `pause`, so that many workers do not ask in step.
pub(crate) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + rand::random::<f64>())
}
