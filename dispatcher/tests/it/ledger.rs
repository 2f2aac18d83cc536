//! The ledger and its loops over real servers: whole dispatchers, and workers that do as they are told.

mod callbacks;
mod chunks;
mod claims;
mod costs;
mod disk;
mod ends;
mod families;
mod intake;
mod manager;
mod outages;
mod pauses;
mod placing;
mod quotas;
mod rebuild;
mod replicas;
mod retention;
mod roles;
mod schedules;
mod secured;
mod thumbnails;
mod turns;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Parser as _;
use ffpool_broker::{AmqpConfig, AmqpLink, BatchConsumer, Incoming, Outgoing, PublishError, Publisher, Signals};
use ffpool_dispatcher::Dispatcher;
use ffpool_dispatcher::settings::Settings;
use ffpool_schema::id::{Incarnation, JobId};
use ffpool_schema::job::{JobSpec, Queue};
use ffpool_schema::message::{
    Ability, Capacity, ClaimReply, ClaimRequest, CommitReply, CommitRequest, DeliveredJob, Event, Grant, Heartbeat,
    JobCommand, Outcome, Phase, Progress, RunningAttempt, Sender, TakeRequest, Usage, WorkerAnswer, WorkerCommand,
    WorkerState, fingerprint, revision,
};
use ffpool_schema::subjects;
use ffpool_schema::topology::{EVENTS_EXCHANGE, WorkQueue};
use ffpool_stack::Stack;
use jiff::Timestamp;
use tokio_postgres::NoTls;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

/// Longest wait for a fact; the machine may be busy.
const BOUND: Duration = Duration::from_secs(60);
/// A lease that is short for a test and still long for a busy machine.
const LEASE_SECS: &str = "3";

/// A place of its own for one test: a vhost, a database and a NATS server, whose subjects cannot be divided.
struct Scene {
    amqp_url: String,
    database_url: String,
    nats: Stack,
    signals: Signals,
    publisher: Publisher,
    link: AmqpLink,
    sql: tokio_postgres::Client,
}

/// For tests whose workers send no heartbeats: a machine may be so slow that a lease lapses between two lines.
const LONG_LEASE: [&str; 2] = ["--lease-secs", "600"];

impl Scene {
    async fn new() -> Scene {
        let stack = tokio::task::block_in_place(Stack::shared);
        let (amqp, database) =
            tokio::task::block_in_place(|| (stack.rabbit.new_vhost(), stack.postgres.new_database()));
        Scene::on(amqp, database).await
    }

    async fn on(amqp_url: String, database_url: String) -> Scene {
        ffpool_runtime::install_crypto();
        let nats = tokio::task::block_in_place(|| Stack::builder().rabbit(false).postgres(false).start()).unwrap();
        let signals = Signals::open(&nats.nats.url(), "test").await.unwrap();
        let publisher = Publisher::open(AmqpConfig::new(&amqp_url, "test-publish"));
        let link = AmqpLink::open(AmqpConfig::new(&amqp_url, "test"));
        link.connected(BOUND).await.unwrap();
        let (sql, connection) = tokio_postgres::connect(&database_url, NoTls).await.unwrap();
        tokio::spawn(connection);
        Scene { amqp_url, database_url, nats, signals, publisher, link, sql }
    }

    /// A dispatcher with these flags besides those that make it part of the scene.
    async fn dispatcher(&self, flags: &[&str]) -> Dispatcher {
        let nats = self.nats.nats.url();
        let mut arguments = vec![
            "ffpool-dispatcher",
            "--amqp-url",
            &self.amqp_url,
            "--nats-url",
            &nats,
            "--database-url",
            &self.database_url,
            "--api-addr",
            "127.0.0.1:0",
            "--api-tls",
            "off",
            "--bootstrap-key",
            "a-key-for-tests-only",
        ];
        arguments.extend(flags);
        Dispatcher::start(&Settings::parse_from(arguments), None).await.unwrap()
    }

    /// Publishes a job as a client does.
    async fn publish(&self, exchange: &str, key: &str, id: Option<JobId>, body: &[u8]) {
        self.publish_as(None, exchange, key, id, body).await.unwrap();
    }

    /// The same, saying who publishes it.
    async fn publish_as(
        &self,
        user: Option<&str>,
        exchange: &str,
        key: &str,
        id: Option<JobId>,
        body: &[u8],
    ) -> Result<(), PublishError> {
        let message = Outgoing {
            exchange: exchange.into(),
            routing_key: key.into(),
            body: body.to_vec(),
            content_type: "application/json".into(),
            message_id: id.map(|id| id.to_string()),
            headers: BTreeMap::new(),
            message_type: None,
            user_id: user.map(str::to_owned),
        };
        self.publisher.publish(message).await
    }

    /// Reports how an attempt ended, as a worker does.
    async fn report(&self, worker: &Worker, grant: &Grant, outcome: Outcome) {
        self.report_used(worker, grant, outcome, None).await;
    }

    /// The same with what the attempt used.
    async fn report_used(&self, worker: &Worker, grant: &Grant, outcome: Outcome, usage: Option<Usage>) {
        let event = Event { usage, ..ended(worker, grant, outcome) };
        self.publish(EVENTS_EXCHANGE, &event.routing_key(), None, &serde_json::to_vec(&event).unwrap()).await;
    }

    /// The same with a picture of what it made.
    async fn report_seen(&self, worker: &Worker, grant: &Grant, outcome: Outcome, thumbnail: Option<String>) {
        let event = Event { thumbnail, ..ended(worker, grant, outcome) };
        self.publish(EVENTS_EXCHANGE, &event.routing_key(), None, &serde_json::to_vec(&event).unwrap()).await;
    }

    /// One column of a job's row as text.
    async fn column(&self, job: JobId, column: &str) -> Option<String> {
        let sql = format!("SELECT ({column})::text FROM job WHERE id = $1");
        self.sql.query_opt(&sql, &[&job.0]).await.unwrap().and_then(|row| row.get(0))
    }

    /// Waits until a column of a job's row has a value.
    async fn until_column(&self, job: JobId, column: &str, expected: &str) {
        until(&format!("{column} of {job} is {expected}"), async || {
            let found = self.column(job, column).await;
            if found.as_deref() == Some(expected) { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }

    /// The one number that a query gives.
    async fn count(&self, sql: &str) -> i64 {
        self.sql.query_one(sql, &[]).await.unwrap().get(0)
    }

    async fn until_count(&self, sql: &str, expected: i64) {
        until(&format!("{expected} = {sql}"), async || {
            let found = self.count(sql).await;
            if found == expected { Ok(()) } else { Err(found.to_string()) }
        })
        .await;
    }

    /// Connects to Postgres again, which was away.
    async fn reconnect(&mut self) {
        let (sql, connection) = tokio_postgres::connect(&self.database_url, NoTls).await.unwrap();
        tokio::spawn(connection);
        self.sql = sql;
    }

    /// After an outage: all `running` attempts hold leases again, because that nobody could renew them was no fault of their
    /// workers, and `grant`, a first attempt, completes its job.
    async fn goes_on(&self, worker: &Worker, grant: &Grant, running: i64) {
        let leased = "SELECT count(*) FROM job WHERE state = 'running' AND lease_until > now() + interval '1 second'";
        self.until_count(leased, running).await;
        assert_eq!(worker.ask(subjects::COMMIT, grant).await, CommitReply::Granted);
        self.report(worker, grant, Outcome::Finished { manifest: None }).await;
        self.until_column(grant.job, "state || attempt", "completed1").await;
    }

    /// How the attempts of a job ended, first to last.
    async fn outcomes(&self, job: JobId) -> Vec<Option<String>> {
        let sql = "SELECT outcome FROM attempt WHERE job = $1 ORDER BY attempt";
        self.sql.query(sql, &[&job.0]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// What happened to a job, in order.
    async fn history(&self, job: JobId) -> Vec<String> {
        let sql = "SELECT kind FROM event WHERE job = $1 ORDER BY at, seq";
        self.sql.query(sql, &[&job.0]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// The next message of a queue, acknowledged.
    async fn take(&self, queue: &str) -> Incoming {
        let mut consumer = BatchConsumer::open(self.link.clone(), queue, 1, Duration::ZERO);
        let mut batch = tokio::time::timeout(BOUND, consumer.next_batch())
            .await
            .unwrap_or_else(|_| panic!("no message in {queue} within {BOUND:?}"));
        let message = batch.take_messages().remove(0);
        let _ = batch.ack().await;
        message
    }
}

/// The report of how an attempt ended.
fn ended(worker: &Worker, grant: &Grant, outcome: Outcome) -> Event {
    Event {
        id: Uuid::now_v7(),
        from: worker.sender.clone(),
        job: grant.job,
        attempt: grant.attempt,
        at: Timestamp::now(),
        usage: None,
        thumbnail: None,
        outcome,
    }
}

/// A worker as far as the dispatcher can see: it claims, beats and answers, and encodes nothing.
#[derive(Clone)]
struct Worker {
    sender: Sender,
    signals: Signals,
    /// What it runs, named in its heartbeats.
    running: Arc<Mutex<HashMap<JobId, u32>>>,
    /// What of it is frozen.
    frozen: Arc<Mutex<HashSet<JobId>>>,
    /// What it understands.
    revision: u32,
    /// Whether it accepts offers.
    takes_offers: bool,
    /// The job that it keeps room for, and whether that runs alone.
    offered: Arc<Mutex<Option<(JobId, bool)>>>,
}

impl Worker {
    fn new(scene: &Scene, name: &str) -> Worker {
        let sender = Sender { worker: name.parse().unwrap(), incarnation: Incarnation(Uuid::now_v7()) };
        Worker {
            sender,
            signals: scene.signals.clone(),
            running: Arc::default(),
            frozen: Arc::default(),
            revision: revision::CURRENT,
            takes_offers: false,
            offered: Arc::default(),
        }
    }

    /// Claims a delivery; asks again while nobody answers, as workers do.
    async fn claim(&self, delivery: &DeliveredJob) -> ClaimReply {
        self.claim_as(delivery, |_| {}).await
    }

    /// Claims a delivery with something else in the request than usual.
    async fn claim_as(&self, delivery: &DeliveredJob, change: impl FnOnce(&mut ClaimRequest)) -> ClaimReply {
        let mut request = ClaimRequest {
            idle: true,
            from: self.sender.clone(),
            delivery: delivery.clone(),
            ability: Some(ability()),
            running_unanswered: None,
        };
        change(&mut request);
        let reply = until("a claim is answered", async || {
            let within = Duration::from_secs(5);
            self.signals.request::<_, ClaimReply>(subjects::CLAIM, &request, within).await.map_err(|e| e.to_string())
        })
        .await;
        if let ClaimReply::Run(grant) = &reply {
            self.running.lock().unwrap().insert(grant.job, grant.attempt);
        }
        reply
    }

    /// Claims a delivery that must be granted.
    async fn run(&self, delivery: &DeliveredJob) -> Grant {
        match self.claim(delivery).await {
            ClaimReply::Run(grant) => *grant,
            other => panic!("the claim was not granted: {other:?}"),
        }
    }

    async fn ask(&self, subject: &str, grant: &Grant) -> CommitReply {
        let request = CommitRequest { from: self.sender.clone(), job: grant.job, attempt: grant.attempt };
        until("an owner is answered", async || {
            let within = Duration::from_secs(5);
            self.signals.request::<_, CommitReply>(subject, &request, within).await.map_err(|e| e.to_string())
        })
        .await
    }

    /// Beats, and answers to its name, until the handle is dropped.
    fn live(&self) -> AbortOnDropHandle<()> {
        let worker = self.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            let subject = subjects::control_worker(&worker.sender.worker);
            let mut questions = worker.signals.serve::<WorkerCommand>(&subject, "self").await.unwrap();
            let mut tick = tokio::time::interval(Duration::from_millis(300));
            for seq in 0.. {
                tokio::select! {
                    _ = tick.tick() => worker.beat(seq).await,
                    question = questions.next_request() => {
                        let question = question.unwrap();
                        let answer = worker.answer(&question.value);
                        let _ = question.answer(&answer).await;
                    }
                }
            }
        }))
    }

    fn answer(&self, command: &WorkerCommand) -> WorkerAnswer {
        let answer = |yes| WorkerAnswer::new(self.sender.clone(), yes);
        match command {
            WorkerCommand::Drain => answer(true),
            WorkerCommand::Ping { job, attempt } => answer(self.running.lock().unwrap().get(job) == Some(attempt)),
            WorkerCommand::Offer { job, alone, .. } if self.takes_offers => {
                self.offered.lock().unwrap().replace((*job, *alone));
                WorkerAnswer { slots: Some(4), ..answer(true) }
            }
            WorkerCommand::Offer { .. } => WorkerAnswer { reason: Some("not today".into()), ..answer(false) },
            WorkerCommand::Withdraw { job } => {
                let mut offered = self.offered.lock().unwrap();
                answer(offered.take_if(|(kept, _)| kept == job).is_some())
            }
        }
    }

    /// Asks for the job that it was offered.
    async fn take(&self, job: JobId) -> ClaimReply {
        let request =
            TakeRequest { from: self.sender.clone(), job, queue: Queue::Default, ability: ability(), idle: true };
        self.signals.request(subjects::TAKE, &request, BOUND).await.expect("an answer")
    }

    /// Waits until it is offered a job, and answers which and whether alone.
    async fn until_offered(&self) -> (JobId, bool) {
        until("an offer", async || self.offered.lock().unwrap().ok_or_else(|| "none".to_owned())).await
    }

    async fn beat(&self, seq: u64) {
        let running = self.running.lock().unwrap().clone();
        let frozen = self.frozen.lock().unwrap().clone();
        let beat = Heartbeat {
            from: self.sender.clone(),
            seq,
            at: Timestamp::now(),
            host: "test".into(),
            version: "0".into(),
            pools: vec!["cpu".parse().unwrap()],
            state: WorkerState::Ready,
            capacity: Capacity { slots: 4, used: 0, cpu_percent: 400, memory_mb: 8192, disk_mb: 50_000 },
            ability: ability(),
            running: running
                .into_iter()
                .map(|(job, attempt)| RunningAttempt {
                    job,
                    attempt,
                    progress: Some(self.progress(job, attempt, seq)),
                    frozen: frozen.contains(&job),
                })
                .collect(),
            revision: self.revision,
            reserved: self.offered.lock().unwrap().map(|(job, _)| job),
        };
        // A signal may be lost; the next one says the same.
        let _ = self.signals.publish(&subjects::heartbeat(&self.sender.worker), &beat).await;
    }

    /// How far it is: the further, the longer it beats.
    #[expect(clippy::cast_precision_loss, reason = "few heartbeats")]
    fn progress(&self, job: JobId, attempt: u32, seq: u64) -> Progress {
        Progress {
            job,
            attempt,
            worker: self.sender.worker.clone(),
            seq,
            phase: Phase::Encode,
            percent: Some((seq as f64 / 10.0).min(99.9)),
            frame: None,
            fps: Some(25.0),
            speed: None,
            out_time_us: None,
            size_bytes: None,
            eta_secs: None,
            live: None,
        }
    }

    fn forget(&self, job: JobId) {
        self.running.lock().unwrap().remove(&job);
    }
}

fn ability() -> Ability {
    Ability {
        cpu_percent: 400,
        memory_mb: 8192,
        disk_mb: 50_000,
        encoders: vec!["libx264".into()],
        noop: true,
        cgroups: true,
        stores: vec!["s3://media".into()],
        features: vec![ffpool_schema::chunk::Piece::FEATURE.into()],
        devices: Vec::new(),
        sandbox: Vec::new(),
        gstreamer: None,
        lost: Vec::new(),
    }
}

/// A job that runs nothing, for a fresh id.
fn job() -> (JobId, Vec<u8>) {
    job_with(|_| {})
}

fn job_with(change: impl FnOnce(&mut JobSpec)) -> (JobId, Vec<u8>) {
    let id = JobId(Uuid::now_v7());
    let mut spec = JobSpec::new("720p30-h264");
    spec.engine = ffpool_schema::job::Engine::Noop;
    spec.id = Some(id);
    change(&mut spec);
    (id, serde_json::to_vec(&spec).unwrap())
}

fn medium() -> WorkQueue {
    JobSpec::new("x").work_queue()
}

/// A first delivery out of `jobs.default.medium`.
fn delivery(id: Option<JobId>, body: &[u8]) -> DeliveredJob {
    DeliveredJob {
        work: medium(),
        message_id: id.map(|id| id.to_string()),
        content_type: Some("application/json".into()),
        body: body.to_vec(),
        body_len: body.len(),
        fingerprint: fingerprint(&medium(), body),
        redelivered: false,
        delivery_count: 0,
        traceparent: None,
        user_id: Some(String::new()),
    }
}

fn redelivery(id: Option<JobId>, body: &[u8]) -> DeliveredJob {
    DeliveredJob { redelivered: true, delivery_count: 1, ..delivery(id, body) }
}

/// Waits for a fact and says what was seen last when it does not come.
async fn until<T>(fact: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let bound = Instant::now() + BOUND;
    loop {
        match look().await {
            Ok(value) => return value,
            Err(seen) if Instant::now() > bound => panic!("not within {BOUND:?}: {fact}; last seen: {seen}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
