//! What the broker brings: copies of published jobs, events of attempts, dead letters, unroutable messages.
//!
//! Invariants:
//! * a message is acknowledged after what it says is committed, never before;
//! * a message that cannot be understood is kept as a stray and acknowledged: it never holds up the others.

use std::time::{Duration, SystemTime};

use ffpool_broker::{AmqpLink, Batch, BatchConsumer, Incoming, Settled};
use ffpool_runtime::traces::Context;
use ffpool_schema::chunk::{CHUNKS_MAX, Piece};
use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::id::JobId;
use ffpool_schema::job::{Pool, Priority, Queue};
use ffpool_schema::lifecycle::Input;
use ffpool_schema::message::{Event, Outcome, fingerprint};
use ffpool_schema::metrics as names;
use ffpool_schema::parse::{self, Fault, Received};
use ffpool_schema::thumbnail::Thumbnail;
use ffpool_schema::topology::{
    DEAD_QUEUE, EVENTS_QUEUE, LEDGER_QUEUE, RETURNED, TRACEPARENT_HEADER, Topology, UNROUTABLE_QUEUE, WorkQueue,
    exchange,
};
use metrics::counter;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use uuid::Uuid;

use crate::ledger::{ApplyError, Evidence, Happening, Ledger, NewJob, Origin, Stray, Unavailable, Verdict, Via};

/// Messages taken together at most.
const MAX_BATCH: usize = 200;
/// How long a busy queue's batch is filled.
const MAX_WAIT: Duration = Duration::from_millis(5);
/// Chunks of one job at most: older workers make up to twice as many as they mean to, of sources of many short scenes.
const PIECES_MAX: usize = 2 * CHUNKS_MAX;
/// Between attempts while Postgres is away.
const RETRY: Duration = Duration::from_millis(500);

/// One of the dispatcher's queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Copies of published jobs.
    Tap,
    /// Ends of attempts.
    Events,
    /// Messages that the broker gave up on.
    Dead,
    /// Messages under keys that nobody bound.
    Unroutable,
}

impl Source {
    /// Every source.
    pub(crate) const ALL: [Source; 4] = [Source::Tap, Source::Events, Source::Dead, Source::Unroutable];

    fn queue(self) -> &'static str {
        match self {
            Source::Tap => LEDGER_QUEUE,
            Source::Events => EVENTS_QUEUE,
            Source::Dead => DEAD_QUEUE,
            Source::Unroutable => UNROUTABLE_QUEUE,
        }
    }
}

/// What a message means for the ledger.
enum Meaning {
    /// Something happened to a job.
    Happened(Box<Happening>, Incoming),
    /// A job arrived that has no id.
    Anonymous(Box<NewJob>, Incoming),
    /// Nobody knows.
    Stray(Incoming, String),
}

/// Consumes one queue.
pub(crate) struct Intake {
    pub(crate) ledger: Ledger,
    pub(crate) source: Source,
    pub(crate) pools: Vec<Pool>,
}

impl Intake {
    /// Works until `stop`; a batch in hand then is finished.
    pub(crate) async fn run(self, link: AmqpLink, stop: CancellationToken) {
        let mut consumer = BatchConsumer::open(link, self.source.queue(), MAX_BATCH, MAX_WAIT)
            .declaring(Topology::for_pools(&self.pools));
        loop {
            let batch = tokio::select! {
                batch = consumer.next_batch() => batch,
                () = stop.cancelled() => return,
            };
            tokio::select! {
                () = self.digest(batch) => {}
                // Postgres is away: the messages stay with the broker.
                () = late(&stop) => return,
            }
        }
    }

    /// Commits what a batch says, then acknowledges it.
    async fn digest(&self, mut batch: Batch) {
        let messages = batch.take_messages();
        let received = SystemTime::now();
        let mut happenings = Vec::with_capacity(messages.len());
        let mut origins = Vec::with_capacity(messages.len());
        let mut anonymous = Vec::new();
        let mut strays = Vec::new();
        for message in messages {
            match self.read(message).await {
                Meaning::Happened(happening, message) => {
                    let via = self.heard(&happening.input, &message, received);
                    happenings.push(Happening { via, ..*happening });
                    origins.push(message);
                }
                Meaning::Anonymous(new, message) => anonymous.push((*new, message.redelivered)),
                Meaning::Stray(message, error) => strays.push(self.stray(message, error)),
            }
        }
        for (verdict, message) in self.ledger.apply_all(happenings).await.into_iter().zip(origins) {
            match verdict {
                Ok(Verdict::Decided(_) | Verdict::Skipped) => {}
                Ok(Verdict::Unknown) => strays.push(self.stray(message, "the ledger has no such job".to_owned())),
                Err(ApplyError::Refused(reason)) => strays.push(self.stray(message, reason)),
                Err(ApplyError::Expired | ApplyError::Closed) => {
                    // Not committed: the broker brings the whole batch again, and what was committed is stale then.
                    let _ = batch.release().await;
                    return;
                }
            }
        }
        self.record_anonymous(anonymous, &mut strays).await;
        self.keep(strays).await;
        // After the commit: if we die between the two, a repeat is stale, a loss is not.
        if batch.ack().await == Settled::Lost {
            debug!(queue = self.source.queue(), "a batch was not acknowledged and comes again");
        }
    }

    /// Who publishes an event has a span of its own for that; a copy from the tap carries the context of the job.
    fn heard(&self, input: &Input, message: &Incoming, received: SystemTime) -> Via {
        let from = message.headers.get(TRACEPARENT_HEADER).filter(|_| *input != Input::Arrive);
        Via::Queue { name: self.source.queue(), received, from: from.and_then(|text| Context::parse(text)) }
    }

    async fn read(&self, message: Incoming) -> Meaning {
        match self.source {
            Source::Tap => read_copy(message, &self.ledger),
            Source::Events => read_event(message),
            Source::Dead => self.read_dead(message).await,
            Source::Unroutable => self.read_unroutable(message),
        }
    }

    async fn read_dead(&self, message: Incoming) -> Meaning {
        let Some(work) = message.first_death_queue().and_then(work_queue_named) else {
            return Meaning::Stray(message, "a dead letter of no work queue".to_owned());
        };
        let why = message.first_death_reason().unwrap_or("unknown").to_owned();
        let mut record = new_job(Origin::DeadLetter, &message, &work, &self.ledger);
        let job = match id_of(&record, &message, &work) {
            Some(id) => id,
            None => {
                let print = fingerprint(&work, &message.body);
                record.fingerprint = Some(print);
                self.find_anonymous(&record).await.unwrap_or_else(|| JobId(Uuid::now_v7()))
            }
        };
        warn!(%job, queue = %work.name(), why, "a job's message was dead-lettered");
        let reason = Some(format!("the broker gave up delivering its message from {} ({why})", work.name()));
        let evidence = Evidence { reason, ..Evidence::default() };
        let happening =
            Happening { evidence, record: Some(Box::new(record)), ..Happening::new(job, Input::DeliveryLimit) };
        Meaning::Happened(Box::new(happening), message)
    }

    fn read_unroutable(&self, message: Incoming) -> Meaning {
        let queue = message.exchange.strip_prefix("jobs.").and_then(|name| name.parse::<Queue>().ok());
        let Some(queue) = queue else {
            return Meaning::Stray(message, "an unroutable message of no job exchange".to_owned());
        };
        let work = WorkQueue { queue, priority: Priority::default(), pool: Pool::cpu() };
        let mut record = new_job(Origin::Unroutable, &message, &work, &self.ledger);
        let id = parse::claimed_id(&received(&message, &work));
        record.spec = Err(vec![self.unknown_key(queue, &message.routing_key)]);
        match id {
            Some(id) => arrival(id, record, message),
            None => {
                // Apart from the fingerprints of jobs that wait in a queue.
                record.fingerprint = Some(format!("unroutable {}", fingerprint(&work, &message.body)));
                Meaning::Anonymous(Box::new(record), message)
            }
        }
    }

    fn unknown_key(&self, queue: Queue, key: &str) -> Fault {
        let mut known: Vec<String> = Priority::ALL.iter().map(|priority| format!("`{priority}`")).collect();
        known.push("the empty key (medium)".to_owned());
        for pool in self.pools.iter().filter(|pool| !pool.is_cpu()) {
            known.extend(Priority::ALL.iter().map(|priority| format!("`{priority}.{pool}`")));
        }
        let key: String = key.chars().take(100).collect();
        Fault::new(
            "routing_key",
            "unroutable",
            format!("no queue is bound to {} under `{key}`; known keys: {}", exchange(queue), known.join(", ")),
        )
    }

    fn stray(&self, message: Incoming, error: String) -> Stray {
        warn!(queue = self.source.queue(), message_id = ?message.message_id, %error, "a message was not understood, keeping it as a stray");
        counter!(names::STALE_INPUTS, "input" => "stray").increment(1);
        Stray { source: self.source.queue(), message_id: message.message_id, body: message.body, error }
    }

    async fn record_anonymous(&self, arrivals: Vec<(NewJob, bool)>, strays: &mut Vec<Stray>) {
        if arrivals.is_empty() {
            return;
        }
        let Err(reason) = self.try_record(&arrivals).await else { return };
        warn!(%reason, jobs = arrivals.len(), "jobs without an id were refused, recording them one by one");
        for arrival in arrivals {
            let one = [arrival];
            if let Err(reason) = self.try_record(&one).await {
                let [(new, _)] = one;
                let body = new.body;
                strays.push(self.stray(Incoming { body, ..Incoming::default() }, reason));
            }
        }
    }

    /// `Err` when the ledger cannot record them at all; waits while it is away.
    async fn try_record(&self, arrivals: &[(NewJob, bool)]) -> Result<(), String> {
        loop {
            match self.ledger.record_anonymous(arrivals).await {
                Ok(()) => return Ok(()),
                Err(ApplyError::Refused(reason)) => return Err(reason),
                Err(ApplyError::Expired | ApplyError::Closed) => tokio::time::sleep(RETRY).await,
            }
        }
    }

    /// Waits while the ledger is away: the messages wait with the broker.
    async fn keep(&self, strays: Vec<Stray>) {
        while !strays.is_empty() {
            match self.ledger.keep_strays(&strays).await {
                Ok(()) => return,
                Err(error) => self.wait_for_ledger(&error).await,
            }
        }
    }

    /// Waits while the ledger is away, as [`Intake::keep`].
    async fn find_anonymous(&self, new: &NewJob) -> Option<JobId> {
        loop {
            match self.ledger.find_anonymous(new).await {
                Ok(found) => return found,
                Err(error) => self.wait_for_ledger(&error).await,
            }
        }
    }

    async fn wait_for_ledger(&self, error: &Unavailable) {
        debug!(%error, queue = self.source.queue(), "waiting for the ledger");
        tokio::time::sleep(RETRY).await;
    }
}

/// A batch in hand at the stop gets a little time to be committed.
async fn late(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
}

fn read_copy(message: Incoming, ledger: &Ledger) -> Meaning {
    let Some(work) = work_queue_of(&message.exchange, &message.routing_key) else {
        return Meaning::Stray(message, "a copy of no job exchange".to_owned());
    };
    let mut record = new_job(Origin::Tap, &message, &work, ledger);
    match id_of(&record, &message, &work) {
        Some(id) => arrival(id, record, message),
        None => {
            record.fingerprint = Some(fingerprint(&work, &message.body));
            Meaning::Anonymous(Box::new(record), message)
        }
    }
}

fn read_event(message: Incoming) -> Meaning {
    let event: Event = match serde_json::from_slice(&message.body) {
        Ok(event) => event,
        Err(error) => return Meaning::Stray(message, format!("no event: {error}")),
    };
    let (job, attempt) = (event.job, event.attempt);
    let thumbnail = event.thumbnail.as_deref().and_then(|text| thumbnail(text, &event));
    let by = Some(event.from.worker.to_string());
    let evidence = Evidence { usage: event.usage, by, thumbnail, ..Evidence::default() };
    let (input, evidence) = match event.outcome {
        Outcome::Finished { manifest } => (Input::Finished { attempt }, Evidence { manifest, ..evidence }),
        Outcome::Failed { failure } => {
            (Input::Failed { attempt, cause: failure.cause }, Evidence { failure: Some(failure), ..evidence })
        }
        Outcome::Rejected { faults } => (Input::Rejected { attempt }, Evidence { faults, ..evidence }),
        Outcome::Released { reason } => (Input::Released { attempt }, Evidence { reason: Some(reason), ..evidence }),
        Outcome::Cancelled => (Input::CancelDone { attempt }, evidence),
        Outcome::Split { pieces } if are_of(&pieces, job) => {
            (Input::Split { attempt }, Evidence { pieces, ..evidence })
        }
        Outcome::Split { pieces } => {
            let message = format!("the worker split the job into {} chunks that are not its own", pieces.len());
            let failure = Failure::new(Cause::Platform, message);
            (Input::Failed { attempt, cause: failure.cause }, Evidence { failure: Some(failure), ..evidence })
        }
    };
    Meaning::Happened(Box::new(Happening { evidence, ..Happening::new(job, input) }), message)
}

/// The picture that comes with a report. A worker is believed that it is of its output, and not that it is a picture; the report counts
/// without it.
fn thumbnail(text: &str, event: &Event) -> Option<Thumbnail> {
    let (job, attempt, worker) = (event.job, event.attempt, &event.from.worker);
    Thumbnail::read(text).inspect_err(|error| warn!(%job, attempt, %worker, %error, "a thumbnail is not kept")).ok()
}

/// Whether these are chunks of the job, as many as a job may have. A job that waited for none would wait for ever.
fn are_of(pieces: &[Piece], job: JobId) -> bool {
    (1..=PIECES_MAX).contains(&pieces.len()) && pieces.iter().all(|piece| piece.of == job)
}

fn arrival(id: JobId, record: NewJob, message: Incoming) -> Meaning {
    let happening = Happening { record: Some(Box::new(record)), ..Happening::new(id, Input::Arrive) };
    Meaning::Happened(Box::new(happening), message)
}

fn received<'a>(message: &'a Incoming, work: &'a WorkQueue) -> Received<'a> {
    Received {
        body: &message.body,
        content_type: message.content_type.as_deref(),
        message_id: message.message_id.as_deref(),
        work: Some(work),
        catalog: None,
    }
}

fn new_job(origin: Origin, message: &Incoming, work: &WorkQueue, ledger: &Ledger) -> NewJob {
    let traceparent = message.headers.get(TRACEPARENT_HEADER).cloned();
    NewJob::read(ledger, origin, &received(message, work), work.clone(), traceparent)
        .published_by(ledger, message.user_id.as_deref())
}

/// The id of a job, or the one that an unreadable message claims to have.
fn id_of(record: &NewJob, message: &Incoming, work: &WorkQueue) -> Option<JobId> {
    match &record.spec {
        Ok(spec) => spec.id,
        Err(_) => parse::claimed_id(&received(message, work)),
    }
}

/// The work queue behind a job exchange and a routing key.
fn work_queue_of(exchange: &str, key: &str) -> Option<WorkQueue> {
    let queue = exchange.strip_prefix("jobs.")?.parse().ok()?;
    let key = if key.is_empty() { "medium" } else { key };
    let (priority, pool) = key.split_once('.').map_or((key, None), |(priority, pool)| (priority, Some(pool)));
    let pool = pool.map_or(Ok(Pool::cpu()), str::parse).ok()?;
    Some(WorkQueue { queue, priority: priority.parse().ok()?, pool })
}

/// The work queue of a name such as `jobs.batch.low.gpu`, or of its twin's, `jobs.batch.low.gpu.returned`.
fn work_queue_named(name: &str) -> Option<WorkQueue> {
    let (queue, key) = name.strip_prefix("jobs.")?.split_once('.')?;
    let key = key.rsplit_once('.').filter(|(_, last)| *last == RETURNED).map_or(key, |(key, _)| key);
    work_queue_of(&format!("jobs.{queue}"), key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_work_queue_is_found_by_its_keys_and_its_name() {
        for pool in [Pool::cpu(), "gpu".parse().expect("gpu is a pool")] {
            for work in WorkQueue::of_pool(&pool) {
                assert_eq!(work_queue_named(&work.name()), Some(work.clone()));
                assert_eq!(work_queue_named(&work.returned_name()), Some(work.clone()));
                for key in work.routing_keys() {
                    assert_eq!(work_queue_of(&exchange(work.queue), &key), Some(work.clone()), "key {key:?}");
                }
            }
        }
        assert_eq!(work_queue_named("jobs.events"), None);
        assert_eq!(work_queue_of("jobs.live", "urgent"), None);
        assert_eq!(work_queue_of("", "jobs.ledger"), None);
    }
}
