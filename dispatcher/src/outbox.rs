//! Publishes what the ledger has to publish: retries, jobs of dead workers, jobs from the API.
//!
//! Invariant: a job leaves the outbox only after the broker's confirm.

use std::sync::Arc;
use std::time::Duration;

use ffpool_broker::{Outgoing, Publisher};
use ffpool_runtime::traces::{self, Kind, Span};
use ffpool_schema::id::JobId;
use ffpool_schema::metrics as names;
use ffpool_schema::topology::{ATTEMPT_HEADER, TRACEPARENT_HEADER};
use futures_util::StreamExt as _;
use futures_util::stream;
use metrics::counter;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::fleet::Fleet;
use crate::ledger::{Leadership, Ledger, Published, ToPublish};

/// Jobs published together at most.
const BATCH: usize = 200;
/// Publications in flight.
const IN_FLIGHT: usize = 64;
/// From the publish to its confirm. Shorter than the time after which somebody else takes the job.
const CONFIRM: Duration = Duration::from_secs(8);
/// How often the leader looks for what is overdue.
const SWEEP: Duration = Duration::from_millis(200);
/// Attempts to record what became of publications; then they are published once more.
const SETTLE_TRIES: u32 = 3;

/// Publishes for this dispatcher, and as the leader for those that are gone.
pub(crate) struct Postman {
    pub(crate) ledger: Ledger,
    pub(crate) publisher: Publisher,
    pub(crate) leadership: Leadership,
    pub(crate) fleet: Arc<Fleet>,
}

impl Postman {
    /// Works until `stop`, then publishes what is in hand and closes the publisher.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut fresh = self.ledger.take_outbox();
        let mut tick = tokio::time::interval(SWEEP);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut jobs = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                count = fresh.recv_many(&mut jobs, BATCH) => {
                    if count == 0 {
                        break;
                    }
                    self.publish_fresh(&mut jobs).await;
                }
                _ = tick.tick() => {
                    if self.leadership.is_held() {
                        self.sweep().await;
                    }
                }
                () = stop.cancelled() => break,
            }
        }
        self.finish(&mut fresh).await;
        self.publisher.close().await;
    }

    async fn publish_fresh(&self, jobs: &mut Vec<JobId>) {
        match self.ledger.load_outbox(jobs).await {
            Ok(loaded) => self.publish(loaded).await,
            Err(error) => debug!(%error, jobs = jobs.len(), "left to the sweep"),
        }
        jobs.clear();
    }

    async fn sweep(&self) {
        if let Err(error) = self.ledger.wake_due().await {
            debug!(%error, "delayed jobs were not looked for");
        }
        match self.ledger.claim_overdue_outbox().await {
            Ok(overdue) if !overdue.is_empty() => self.publish(overdue).await,
            Ok(_) => {}
            Err(error) => debug!(%error, "the outbox was not looked at"),
        }
    }

    /// What was committed before the stop is published if that is quick; the next leader finds the rest.
    async fn finish(&self, fresh: &mut mpsc::Receiver<JobId>) {
        let mut jobs = Vec::new();
        while jobs.len() < BATCH
            && let Ok(job) = fresh.try_recv()
        {
            jobs.push(job);
        }
        if !jobs.is_empty() {
            self.publish_fresh(&mut jobs).await;
        }
    }

    async fn publish(&self, jobs: Vec<ToPublish>) {
        let outcomes: Vec<Published> =
            stream::iter(jobs).map(|job| self.publish_one(job)).buffer_unordered(IN_FLIGHT).collect().await;
        for attempt in 1..=SETTLE_TRIES {
            match self.ledger.settle_outbox(&outcomes).await {
                Ok(()) => return,
                Err(error) => {
                    warn!(%error, attempt, jobs = outcomes.len(), "published jobs are not recorded as such; they may be published once more");
                }
            }
        }
    }

    /// What was handed back goes to the twin of its queue, as long as every worker there serves twins.
    fn queue_for(&self, job: &ToPublish) -> String {
        if job.returned && self.fleet.all_serve_twins(&job.work.pool) {
            job.work.returned_name()
        } else {
            job.work.name()
        }
    }

    async fn publish_one(&self, job: ToPublish) -> Published {
        let mut headers = std::collections::BTreeMap::from([(ATTEMPT_HEADER.to_owned(), job.next_attempt.to_string())]);
        if let Some(traceparent) = &job.traceparent {
            headers.insert(TRACEPARENT_HEADER.to_owned(), traceparent.clone());
        }
        let queue = self.queue_for(&job);
        let message = Outgoing {
            exchange: String::new(),
            routing_key: queue.clone(),
            body: job.body.clone(),
            content_type: job.content_type.clone(),
            message_id: Some(job.job.to_string()),
            headers,
            message_type: None,
            // Nobody asks: it is on record, and does not pass the tap.
            user_id: None,
        };
        let trace = traces::of_job(job.job, job.traceparent.as_deref());
        let mut span = Span::below(trace.root_of(job.next_attempt), format!("publish {queue}"))
            .kind(Kind::Producer)
            .with("messaging.system", "rabbitmq")
            .with("messaging.operation.type", "send")
            .with("messaging.operation.name", "publish")
            .with("messaging.destination.name", queue.clone())
            .with("messaging.message.id", job.job.to_string())
            .with("messaging.message.body.size", i64::try_from(job.body.len()).unwrap_or(i64::MAX))
            .with("ffpool.job.id", job.job.to_string())
            .with("ffpool.job.attempt", i64::from(job.next_attempt));
        let published = self.publisher.publish_within(message, CONFIRM).await;
        if published.is_err() {
            span.fail("the broker has not confirmed it");
        }
        span.end();
        let outcome = if published.is_ok() { "confirmed" } else { "failed" };
        counter!(names::PUBLISHED, "outcome" => outcome).increment(1);
        if let Err(error) = &published {
            warn!(job = %job.job, queue, error = %ffpool_runtime::settings::chain(error), "a job was not published, trying again");
        }
        job.outcome(published.is_ok())
    }
}
