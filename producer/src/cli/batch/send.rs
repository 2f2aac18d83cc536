//! Sends the jobs of a list, several at once, at a rate.
//!
//! Invariant: a job is told as sent only when the API has recorded it or the broker has confirmed it. A doubtful answer
//! is asked again under the same id.

use std::time::{Duration, Instant};

use ffpool::{AmqpProducer, ApiError, Client};
use ffpool_schema::api::Submitted;
use ffpool_schema::lifecycle::State;
use ffpool_schema::parse::{Encoding, Fault};
use futures_util::{Stream, StreamExt, stream};

use super::Sent;
use super::checked::Entry;
use super::rate::{Pace, Rate};
use crate::cli::Context;
use crate::cli::exit::Trouble;
use crate::cli::submit;

/// Requests that wait for their answer: the ledger commits in groups, so one at a time would wait for each.
const IN_FLIGHT: usize = 16;
/// Between two tries of one job while the API is away.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Tries of one job, so that a restart of a dispatcher does not end a long list.
const TRIES: u32 = 30;
/// So long one job is tried against a limit of the API.
const PATIENCE: Duration = Duration::from_secs(600);

/// A job that was not sent for certain.
pub(super) struct Failed {
    pub(super) line: u64,
    /// What the API finds wrong with it, if that is why.
    pub(super) faults: Vec<Fault>,
    pub(super) trouble: Trouble,
}

fn faults(error: &ApiError) -> Vec<Fault> {
    match error {
        ApiError::Problem(problem) => problem.faults.clone(),
        ApiError::Setup { .. } | ApiError::Unreachable { .. } | ApiError::Strange { .. } => Vec::new(),
    }
}

/// Where the jobs go.
pub(super) enum Sender {
    Api(Client),
    Broker(Box<AmqpProducer>, Encoding),
}

impl Sender {
    pub(super) async fn open(context: &Context, amqp: bool, msgpack: bool) -> Result<Sender, Trouble> {
        if !amqp {
            return Ok(Sender::Api(context.client()?));
        }
        let encoding = if msgpack { Encoding::MessagePack } else { Encoding::Json };
        Ok(Sender::Broker(Box::new(submit::producer(context).await?), encoding))
    }

    pub(super) async fn close(&self) {
        match self {
            Sender::Api(_) => {}
            Sender::Broker(producer, _) => producer.close().await,
        }
    }

    async fn send(&self, entry: &Entry) -> Result<Sent, Failed> {
        let failed = |faults: Vec<Fault>, mut trouble: Trouble| {
            trouble.what = format!("line {}: {}", entry.line, trouble.what);
            let next = trouble.next.map(|next| format!("{next}\n     ")).unwrap_or_default();
            trouble.next = Some(format!("{next}Then run the same command again: no job is made twice."));
            Failed { line: entry.line, faults, trouble }
        };
        let sent = match self {
            Sender::Api(client) => {
                let (job, is_new) =
                    persistently(client, entry).await.map_err(|error| failed(faults(&error), error.into()))?;
                Sent { line: entry.line, job, already: Some(!is_new) }
            }
            Sender::Broker(producer, encoding) => {
                let handing = submit::Handing::to_broker(&entry.asked);
                let published = producer.publish(&entry.asked, *encoding, handing.traceparent.as_deref()).await;
                published.map_err(|error| failed(Vec::new(), error.into()))?;
                // The ledger gives the number when the job's copy reaches it.
                let job = Submitted { id: entry.id, number: 0, state: State::Queued };
                Sent { line: entry.line, job, already: None }
            }
        };
        Ok(sent)
    }
}

/// The answers in the order of the list. The first that is an error should be the last that is asked for.
pub(super) fn answers<'s>(
    sender: &'s Sender,
    entries: &'s [Entry],
    rate: Option<Rate>,
) -> impl Stream<Item = Result<Sent, Failed>> + 's {
    let paced = stream::unfold((Pace::new(rate), entries.iter()), |(mut pace, mut rest)| async move {
        let entry = rest.next()?;
        pace.turn().await;
        Some((entry, (pace, rest)))
    });
    paced.map(move |entry| sender.send(entry)).buffered(IN_FLIGHT)
}

async fn persistently(client: &Client, entry: &Entry) -> Result<(Submitted, bool), ApiError> {
    let began = Instant::now();
    let mut tries = 1;
    loop {
        match client.submit_once(&entry.asked).await {
            // We are only too fast: it costs no try.
            Err(error) if error.retry_after().is_some() && began.elapsed() < PATIENCE => {
                let wait = error.retry_after().unwrap_or(AGAIN_AFTER);
                tokio::time::sleep(wait + apart(entry)).await;
            }
            Err(error) if error.is_transient() && tries < TRIES => {
                tries += 1;
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            answer => return answer,
        }
    }
}

/// Up to a quarter of a second, another for each job: those that wait for the same limit do not all come back at once.
fn apart(entry: &Entry) -> Duration {
    Duration::from_millis(entry.id.0.as_bytes()[15].into())
}
