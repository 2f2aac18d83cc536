//! A pool of one worker for a test: a vhost of its own, and a scripted dispatcher that answers it and writes down all
//! it hears. Tests share the NATS server, so the dispatcher listens to its own worker only.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use clap::Parser;
use ffpool_broker::{AmqpConfig, AmqpLink, BatchConsumer, Outgoing, Publisher, Signals, declare_topology, queue_depth};
use ffpool_runtime::metrics::Exposition;
use ffpool_schema::id::{JobId, WorkerId};
use ffpool_schema::job::{Engine, JobSpec};
use ffpool_schema::message::{
    ClaimReply, ClaimRequest, CommitReply, CommitRequest, DropReason, Event, Grant, Heartbeat, HoldScope, TakeRequest,
};
use ffpool_schema::metrics::Process;
use ffpool_schema::parse::{Received, parse};
use ffpool_schema::topology::{ATTEMPT_HEADER, EVENTS_QUEUE, Topology, WorkQueue};
use ffpool_schema::{scenario, subjects};
use ffpool_stack::{Nats, Rabbit, Stack};
use ffpool_worker::service::Worker;
use ffpool_worker::settings::Settings;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::task::JoinSet;
use uuid::Uuid;

/// No fact that these tests wait for takes longer, however slow the machine.
pub const BOUND: Duration = Duration::from_secs(60);

static EXPOSITION: LazyLock<Exposition> = LazyLock::new(|| {
    ffpool_runtime::metrics::install(Process::Worker, "test").expect("the first recorder of this process")
});

/// What the scripted dispatcher says to a claim.
#[derive(Debug, Clone, Copy)]
pub enum Say {
    Run(u32),
    /// With nothing beside it.
    RunAlone(u32),
    Drop(DropReason),
    Hold(u64),
    /// The whole queue.
    HoldQueue(u64),
    Nothing,
}

type Script<Q, A> = Mutex<Box<dyn Fn(&Q) -> A + Send>>;

/// What the scripted dispatcher says, and what it heard.
pub struct Dispatcher {
    to_claim: Script<ClaimRequest, Say>,
    /// `None`: no answer.
    to_commit: Script<CommitRequest, Option<CommitReply>>,
    to_custody: Script<CommitRequest, Option<CommitReply>>,
    claims: Mutex<Vec<ClaimRequest>>,
    commits: Mutex<Vec<CommitRequest>>,
    custodies: Mutex<Vec<CommitRequest>>,
    takes: Mutex<Vec<TakeRequest>>,
    heartbeats: Mutex<Vec<Heartbeat>>,
}

impl Dispatcher {
    /// Grants everything.
    fn new() -> Dispatcher {
        Dispatcher {
            to_claim: Mutex::new(Box::new(|_| Say::Run(1))),
            to_commit: Mutex::new(Box::new(|_| Some(CommitReply::Granted))),
            to_custody: Mutex::new(Box::new(|_| Some(CommitReply::Granted))),
            claims: Mutex::default(),
            commits: Mutex::default(),
            custodies: Mutex::default(),
            takes: Mutex::default(),
            heartbeats: Mutex::default(),
        }
    }

    pub fn on_claim(&self, say: impl Fn(&ClaimRequest) -> Say + Send + 'static) {
        *self.to_claim.lock().unwrap() = Box::new(say);
    }

    pub fn on_commit(&self, say: impl Fn(&CommitRequest) -> Option<CommitReply> + Send + 'static) {
        *self.to_commit.lock().unwrap() = Box::new(say);
    }

    pub fn claims(&self) -> Vec<ClaimRequest> {
        self.claims.lock().unwrap().clone()
    }

    pub fn commits(&self) -> Vec<CommitRequest> {
        self.commits.lock().unwrap().clone()
    }

    pub fn custodies(&self) -> Vec<CommitRequest> {
        self.custodies.lock().unwrap().clone()
    }

    pub fn takes(&self) -> Vec<TakeRequest> {
        self.takes.lock().unwrap().clone()
    }

    pub fn heartbeats(&self) -> Vec<Heartbeat> {
        self.heartbeats.lock().unwrap().clone()
    }

    fn hear_claim(&self, request: &ClaimRequest) -> Option<ClaimReply> {
        self.claims.lock().unwrap().push(request.clone());
        match (*self.to_claim.lock().unwrap())(request) {
            Say::Run(attempt) => Some(ClaimReply::Run(Box::new(grant(request, attempt)))),
            Say::RunAlone(attempt) => Some(ClaimReply::Run(Box::new(Grant { alone: true, ..grant(request, attempt) }))),
            Say::Drop(reason) => Some(ClaimReply::Drop { job: None, reason }),
            Say::Hold(retry_after_ms) => {
                Some(ClaimReply::Hold { retry_after_ms, scope: HoldScope::Delivery, reason: "test".into() })
            }
            Say::HoldQueue(retry_after_ms) => {
                Some(ClaimReply::Hold { retry_after_ms, scope: HoldScope::Queue, reason: "paused".into() })
            }
            Say::Nothing => None,
        }
    }

    fn hear_commit(&self, request: &CommitRequest) -> Option<CommitReply> {
        self.commits.lock().unwrap().push(request.clone());
        (*self.to_commit.lock().unwrap())(request)
    }

    /// Grants attempt 1 of a job that runs nothing.
    fn hear_take(&self, request: &TakeRequest) -> Option<ClaimReply> {
        self.takes.lock().unwrap().push(request.clone());
        let spec = JobSpec { id: Some(request.job), engine: Engine::Noop, ..JobSpec::new("480p30-h264") };
        let alone = request.idle;
        let grant = Grant {
            job: request.job,
            attempt: 1,
            lease_ms: 5000,
            spec,
            encode: None,
            alone,
            traceparent: None,
            splits: None,
            sound_apart: false,
            minds: Vec::new(),
        };
        Some(ClaimReply::Run(Box::new(grant)))
    }

    fn hear_custody(&self, request: &CommitRequest) -> Option<CommitReply> {
        self.custodies.lock().unwrap().push(request.clone());
        (*self.to_custody.lock().unwrap())(request)
    }
}

fn grant(request: &ClaimRequest, attempt: u32) -> Grant {
    let delivery = &request.delivery;
    let received = Received {
        body: &delivery.body,
        content_type: delivery.content_type.as_deref(),
        message_id: delivery.message_id.as_deref(),
        work: Some(&delivery.work),
        catalog: None,
    };
    let spec = parse(&received).unwrap();
    let encode = scenario::resolve(&spec).unwrap();
    Grant {
        job: spec.id.unwrap(),
        attempt,
        lease_ms: 5000,
        spec,
        encode,
        alone: false,
        traceparent: None,
        splits: None,
        sound_apart: false,
        minds: Vec::new(),
    }
}

/// One worker's surroundings.
pub struct Pool {
    pub signals: Signals,
    pub dispatcher: Arc<Dispatcher>,
    pub worker: WorkerId,
    link: AmqpLink,
    publisher: Publisher,
    amqp_url: String,
    nats_url: String,
    /// Media roots and scratch.
    place: TempDir,
    events: Arc<Mutex<Vec<Event>>>,
    /// The dispatcher's ears.
    ears: JoinSet<()>,
}

impl Pool {
    pub async fn new(name: &str) -> Pool {
        let stack = tokio::task::spawn_blocking(Stack::shared).await.unwrap();
        Pool::on(&stack.rabbit, &stack.nats, name).await
    }

    pub async fn on(rabbit: &Rabbit, nats: &Nats, name: &str) -> Pool {
        ffpool_runtime::install_crypto();
        let worker: WorkerId = format!("{name}-{}", std::process::id()).parse().unwrap();
        let (amqp_url, nats_url) = (rabbit.new_vhost(), nats.url());
        let link = AmqpLink::open(AmqpConfig::new(&amqp_url, name));
        link.connected(BOUND).await.unwrap();
        declare_topology(&link, &Topology::for_pools(&[])).await.unwrap();
        let publisher = Publisher::open(AmqpConfig::new(&amqp_url, name));
        let signals = Signals::open(&nats_url, name).await.unwrap();
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("media")).unwrap();
        let mut pool = Pool {
            signals,
            dispatcher: Arc::new(Dispatcher::new()),
            worker,
            link,
            publisher,
            amqp_url,
            nats_url,
            place,
            events: Arc::default(),
            ears: JoinSet::new(),
        };
        pool.listen().await;
        pool
    }

    /// Starts the dispatcher's ears. Each test hears every question, and answers those of its own worker.
    async fn listen(&mut self) {
        until("connect to NATS", async || if self.signals.is_up() { Ok(()) } else { Err("down") }).await;
        self.answer(subjects::CLAIM, |claim: &ClaimRequest| &claim.from.worker, Dispatcher::hear_claim).await;
        self.answer(subjects::COMMIT, |commit: &CommitRequest| &commit.from.worker, Dispatcher::hear_commit).await;
        self.answer(subjects::TAKE, |take: &TakeRequest| &take.from.worker, Dispatcher::hear_take).await;
        self.answer(subjects::CUSTODY, |custody: &CommitRequest| &custody.from.worker, Dispatcher::hear_custody).await;
        let mut beats = self.signals.subscribe::<Heartbeat>(&subjects::heartbeat(&self.worker)).await.unwrap();
        let dispatcher = self.dispatcher.clone();
        self.ears.spawn(async move {
            while let Some(beat) = beats.next().await {
                dispatcher.heartbeats.lock().unwrap().push(beat);
            }
        });
        let (mut consumer, events) =
            (BatchConsumer::open(self.link.clone(), EVENTS_QUEUE, 10, Duration::ZERO), self.events.clone());
        self.ears.spawn(async move {
            loop {
                let batch = consumer.next_batch().await;
                let read = batch.messages.iter().map(|message| serde_json::from_slice::<Event>(&message.body).unwrap());
                events.lock().unwrap().extend(read);
                let _ = batch.ack().await;
            }
        });
    }

    /// Answers the questions of this pool's worker on `subject`.
    async fn answer<Q, A>(&mut self, subject: &str, asker: fn(&Q) -> &WorkerId, hear: fn(&Dispatcher, &Q) -> Option<A>)
    where
        Q: DeserializeOwned + Send + Sync + 'static,
        A: Serialize + Send + Sync + 'static,
    {
        let mut questions = self.signals.serve::<Q>(subject, self.worker.as_str()).await.unwrap();
        let (dispatcher, worker) = (self.dispatcher.clone(), self.worker.clone());
        self.ears.spawn(async move {
            while let Some(question) = questions.next_request().await {
                let ours = *asker(&question.value) == worker;
                if let Some(answer) = ours.then(|| hear(&dispatcher, &question.value)).flatten() {
                    question.answer(&answer).await.unwrap();
                }
            }
        });
    }

    /// The scratch of the worker.
    pub fn scratch(&self) -> PathBuf {
        self.place.path().join("scratch")
    }

    /// The media root.
    pub fn media(&self) -> PathBuf {
        self.place.path().join("media")
    }

    /// The settings of the worker, as flags.
    pub fn flags(&self, more: &[&str]) -> Vec<String> {
        let place = self.place.path().display();
        let mut flags = vec![
            "ffpool-worker".to_owned(),
            format!("--amqp-url={}", self.amqp_url),
            format!("--nats-url={}", self.nats_url),
            format!("--media-roots={place}/media"),
            format!("--scratch={place}/scratch"),
            format!("--worker-id={}", self.worker),
            "--metrics-addr=127.0.0.1:0".into(),
            "--allow-noop".into(),
            "--drain-secs=0".into(),
            "--eviction=off".into(),
            // A look through its plugins at each start.
            "--gstreamer=off".into(),
        ];
        flags.extend(more.iter().map(ToString::to_string));
        flags
    }

    /// Starts the worker inside the test's process.
    pub async fn start(&self, more: &[&str]) -> Worker {
        let settings = Settings::parse_from(self.flags(more));
        Worker::start(&settings, EXPOSITION.clone()).await.unwrap()
    }

    /// Publishes a job as a client would.
    pub async fn publish(&self, body: &str) -> JobId {
        let job = JobId(Uuid::now_v7());
        self.publish_as(job, body, None).await;
        job
    }

    pub async fn publish_as(&self, job: JobId, body: &str, attempt: Option<u32>) {
        self.publish_to("default", job, body, attempt).await;
    }

    pub async fn publish_to(&self, queue: &str, job: JobId, body: &str, attempt: Option<u32>) {
        let message = Outgoing {
            exchange: format!("jobs.{queue}"),
            routing_key: "medium".into(),
            body: body.as_bytes().to_vec(),
            content_type: "application/json".into(),
            message_id: Some(job.to_string()),
            headers: attempt.map(|attempt| (ATTEMPT_HEADER.to_owned(), attempt.to_string())).into_iter().collect(),
            message_type: None,
            user_id: None,
        };
        self.publisher.publish(message).await.unwrap();
    }

    pub fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    /// The ends reported so far, by job and attempt.
    pub fn ends(&self) -> BTreeMap<(JobId, u32), Vec<&'static str>> {
        let mut ends: BTreeMap<(JobId, u32), Vec<&'static str>> = BTreeMap::new();
        for event in self.events() {
            ends.entry((event.job, event.attempt)).or_default().push(event.outcome.name());
        }
        ends
    }

    /// Waits until exactly these ends are reported.
    pub async fn until_ends(&self, expected: &[(JobId, u32, &'static str)]) {
        let expected = expected.iter().map(|&(job, attempt, outcome)| ((job, attempt), vec![outcome])).collect();
        until("the ends of the attempts", async || {
            let ends = self.ends();
            if ends == expected { Ok(()) } else { Err(ends) }
        })
        .await;
    }

    /// Messages ready in queues; `None` for one that is not there.
    pub async fn depths(&self, queues: &[&str]) -> Vec<Option<u32>> {
        let queues: Vec<String> = queues.iter().map(|queue| (*queue).to_owned()).collect();
        let depths = queue_depth(&self.link, &queues).await.unwrap();
        depths.iter().map(|depth| depth.as_ref().map(|depth| depth.ready)).collect()
    }

    /// Messages that wait in the work queues. When the worker is gone, none is in its hand any more.
    pub async fn ready(&self) -> u32 {
        let queues: Vec<String> = WorkQueue::of_pool(&Default::default()).iter().map(WorkQueue::name).collect();
        let depths = queue_depth(&self.link, &queues).await.unwrap();
        depths.iter().map(|depth| depth.as_ref().unwrap().ready).sum()
    }

    /// The vhost, as `rabbitmqctl` takes it.
    pub fn vhost(&self) -> String {
        self.amqp_url.rsplit_once('/').unwrap().1.to_owned()
    }
}

/// Waits until `check` answers with a value; otherwise fails with the last state it saw.
pub async fn until<T, S: Debug>(what: &str, mut check: impl AsyncFnMut() -> Result<T, S>) -> T {
    let start = Instant::now();
    loop {
        match check().await {
            Ok(value) => return value,
            Err(state) if start.elapsed() > BOUND => panic!("{what}: not within {BOUND:?}, last seen: {state:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
