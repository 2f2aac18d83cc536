//! Puts a worker together, keeps it going, and takes it apart again.
//!
//! A free slot pulls, whoever has a delivery carries it ([`crate::carrier`]), and a stop goes through the stages of
//! [`crate::drain`].
//!
//! Invariant: a slot is taken before a delivery is, so the worker never holds more deliveries than it has slots; every
//! task started here has ended, and its deliveries are settled or given back, when [`Worker::finished`] returns.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use ffpool_broker::{AmqpConfig, AmqpLink, BrokerError, Delivery, Intake, Publisher, Signals, declare_topology};
use ffpool_runtime::metrics::Exposition;
use ffpool_runtime::settings::chain;
use ffpool_runtime::tls::{LinkCertificates, Server, warn_of_plain_links};
use ffpool_schema::encode::Encoder;
use ffpool_schema::id::Incarnation;
use ffpool_schema::job::{Pool, Queue};
use ffpool_schema::message::{Ability, Capacity, Sender};
use ffpool_schema::parse::Fault;
use ffpool_schema::topology::{Topology, WorkQueue};
use ffpool_schema::{metrics as names, scenario};
use tokio::sync::{OnceCell, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::attempts::Attempts;
use crate::cage::Layer;
use crate::carrier::Carrier;
use crate::claims::Claims;
use crate::control::{self, Commanded};
use crate::drain::{Drain, Stage};
use crate::events::Events;
use crate::fitness::Fitness;
use crate::heartbeat::{Heart, Presence, Pulse};
use crate::http;
use crate::ledger::Ledger;
use crate::liveness::{Liveness, TURN};
use crate::machine::usage::InUse;
use crate::notice::leave::Leaving;
use crate::offers::{Offer, Offers, Reservation};
use crate::preempt::Preemption;
use crate::settings::{Settings, host};
use crate::slots::{Slot, Slots};
use crate::space::Space;
use crate::workshop::{OpenError, Site, Stop, Workshop};

/// How often the limits of the worker's cgroup are read again.
const READ_CAPACITY: Duration = Duration::from_secs(2);
/// How often what an earlier life left beside outputs is looked for, if it could not be deleted at the start.
const SWEEP: Duration = Duration::from_secs(3600);
/// How long a start waits for a server before it says that it waits.
const SAY_WAITING: Duration = Duration::from_secs(5);
/// Before the topology is declared again after a failure.
const DECLARE_AGAIN: Duration = Duration::from_secs(2);
/// Beside the grace of the tools, time for attempts that were told to stop to be reported and acknowledged.
const RELEASE: Duration = Duration::from_secs(20);
/// How often a worker looks whether it is full and could make room for a live job.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(250);
/// Deliveries in hand at most, whatever the slots become while the worker runs.
const INTAKE_MIN: u32 = 64;

/// Why a worker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The tool side.
    #[error("set up the tools")]
    Workshop(#[from] OpenError),
    /// The NATS address.
    #[error("set up the links")]
    Links(#[from] BrokerError),
    /// The address for metrics.
    #[error("listen on {address} for metrics and health")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Finish {
    /// Everything that ran here is on record.
    Clean,
    /// So many attempts could not be reported in time; their leases will lapse.
    Unreported(usize),
}

/// A worker at work.
pub struct Worker {
    /// Its stop.
    pub drain: Drain,
    /// Who it is.
    pub me: Sender,
    /// Where it serves metrics and health.
    pub http_addr: SocketAddr,
    serving: JoinHandle<Finish>,
}

impl Worker {
    /// Starts a worker. It waits for its servers in the background, for ever if need be.
    ///
    /// # Errors
    /// What is wrong with this machine or the settings.
    pub async fn start(settings: &Settings, exposition: Exposition) -> Result<Worker, StartError> {
        let me = Sender { worker: settings.worker_id.clone(), incarnation: Incarnation(Uuid::now_v7()) };
        let signals = Signals::open(&settings.nats_url, &format!("{} signals", me.worker)).await?;
        let presence = Presence { me: me.clone(), host: host(), pools: settings.pools.clone() };
        // Whoever announces itself takes the place of the earlier life of its name: only who has the site may.
        let site = Site::take(settings.workshop()).await?;
        let opening = async {
            let workshop = site.open().await?;
            let listen = |source| StartError::Listen { address: settings.metrics_addr, source };
            let listener = tokio::net::TcpListener::bind(settings.metrics_addr).await.map_err(listen)?;
            let http_addr = listener.local_addr().map_err(listen)?;
            Ok::<_, StartError>((workshop, listener, http_addr))
        };
        let ((workshop, listener, http_addr), first_seq) = presence.announced_while(&signals, opening).await?;
        let links: [(&str, Server, &str); 2] = [
            ("FFPOOL_AMQP_URL", Server::Amqp, &settings.amqp_url),
            ("FFPOOL_NATS_URL", Server::Nats, &settings.nats_url),
        ];
        warn_of_plain_links(&links);
        let certificates = LinkCertificates::read(&links);
        let amqp = |part| AmqpConfig::new(&settings.amqp_url, format!("{} {part}", me.worker));
        let link = AmqpLink::open(amqp("intake"));
        let events = Events::new(Publisher::open(amqp("events")));

        let one_at_a_time = workshop.without_limits();
        if let Some(why) = &one_at_a_time {
            warn!(why, "attempts get no cgroups, so their limits do not hold: one encode at a time");
        }
        let room = Room { workshop: workshop.clone(), one_delivery: one_at_a_time.is_some() && !settings.allow_noop };
        let capacity = watch::Sender::new(room.read());
        let ability = watch::Sender::new(workshop.ability());
        let slots = Slots::new(capacity.borrow().slots);
        let (attempts, drain) = (Attempts::default(), Drain::default());
        let (offers, accepted) = Offers::new();
        let pulse = Pulse {
            presence,
            ability: ability.subscribe(),
            capacity: capacity.subscribe(),
            slots: slots.clone(),
            attempts: attempts.clone(),
            drain: drain.clone(),
            offers: offers.clone(),
            first_seq,
            beaten: watch::Sender::new(Instant::now()),
        };
        let beaten = pulse.beaten.subscribe();
        let heart = Heart::start(&settings.nats_url, pulse)?;
        info!(worker = %me.worker, incarnation = %me.incarnation, slots = slots.total(), %http_addr, "the worker starts");

        let stop_grace = Duration::from_secs(settings.stop_grace_secs);
        let leaving = Leaving::start((&settings.eviction).into(), attempts.clone(), drain.clone(), stop_grace);
        let ledger = Ledger::new(signals.clone(), me.clone());
        let links =
            Arc::new(Links { amqp: link, nats: signals.clone(), intake: OnceCell::new(), live: OnceCell::new() });
        let carrier = Arc::new(Carrier {
            me: me.clone(),
            claims: Claims::new(ledger.clone(), me.clone(), ability.subscribe()),
            workshop,
            attempts,
            ledger,
            links: links.clone(),
            signals,
            events,
            drain: drain.clone(),
            custody_after: Duration::from_secs(settings.custody_after_secs),
            preemption: Preemption::default(),
            beaten,
            live_fence: Duration::from_secs(settings.live_fence_secs),
            one_at_a_time: one_at_a_time.is_some(),
            cpu_ms: AtomicU64::new(0),
        });
        let space = Space::new(capacity.subscribe(), settings.min_disk_mb);
        let service = Service {
            fitness: Fitness { space, software: carrier.workshop.software().clone() },
            liveness: Liveness::new(),
            carrier,
            links,
            slots,
            pools: settings.pools.clone(),
            preempts: settings.preempt,
            ageing: settings.ageing(),
            offers,
            room,
            capacity,
            ability,
            in_time: settings.drain(),
            release: stop_grace + RELEASE,
        };
        let serving = tokio::spawn(service.run(heart, leaving, listener, exposition, accepted, certificates));
        Ok(Worker { drain, me, http_addr, serving })
    }

    /// Waits for the end, which comes after a drain.
    ///
    /// # Panics
    /// When the worker did.
    pub async fn finished(self) -> Finish {
        self.serving.await.expect("the service catches what its tasks do")
    }
}

/// The connections, as far as several parts look at them.
pub(crate) struct Links {
    pub(crate) amqp: AmqpLink,
    pub(crate) nats: Signals,
    /// Set once the topology is declared.
    pub(crate) intake: OnceCell<Intake>,
    /// The same for the live work queues alone, where live jobs have room made for them.
    pub(crate) live: OnceCell<Intake>,
}

impl Links {
    /// Asks for nothing of `queue` for a while, so that its backlog does not stand before other queues.
    pub(crate) fn hold(&self, queue: Queue, pause: Duration) {
        for intake in [&self.intake, &self.live].into_iter().filter_map(OnceCell::get) {
            intake.hold(queue, pause);
        }
    }
}

/// The room of this worker.
#[derive(Clone)]
struct Room {
    workshop: Workshop,
    /// Whether it is room for one delivery, whatever the machine has.
    one_delivery: bool,
}

impl Room {
    fn read(&self) -> Capacity {
        let capacity = self.workshop.capacity();
        let slots = if self.one_delivery { 1 } else { capacity.slots.max(1) };
        Capacity { slots, ..capacity }
    }
}

struct Service {
    carrier: Arc<Carrier>,
    links: Arc<Links>,
    slots: Slots,
    pools: Vec<Pool>,
    /// Whether live jobs have room made for them.
    preempts: bool,
    /// What lifts a queue that is passed over.
    ageing: Option<Duration>,
    offers: Offers,
    room: Room,
    capacity: watch::Sender<Capacity>,
    /// What can be run, as last looked at.
    ability: watch::Sender<Ability>,
    /// Whether work can be taken.
    fitness: Fitness,
    /// Whether the loop that takes work goes round.
    liveness: Liveness,
    /// Time for what runs after a stop signal.
    in_time: Duration,
    /// Time for what was told to stop.
    release: Duration,
}

impl Service {
    async fn run(
        self,
        heart: Heart,
        leaving: Leaving,
        listener: tokio::net::TcpListener,
        exposition: Exposition,
        accepted: mpsc::Receiver<Reservation>,
        certificates: LinkCertificates,
    ) -> Finish {
        let service = Arc::new(self);
        let readiness = http::Health {
            links: service.links.clone(),
            slots: service.slots.clone(),
            drain: service.carrier.drain.clone(),
            fitness: service.fitness.clone(),
            liveness: service.liveness.clone(),
            attempts: service.carrier.attempts.clone(),
            exposition,
        };
        let mut helpers = JoinSet::new();
        helpers.spawn(http::keep_told(readiness.clone()));
        helpers.spawn(http::serve(listener, readiness));
        helpers.spawn(service.clone().keep_topology());
        helpers.spawn(service.clone().keep_capacity());
        helpers.spawn(service.clone().keep_swept());
        helpers.spawn(service.clone().keep_energy());
        helpers.spawn(service.clone().keep_devices());
        helpers.spawn(service.clone().keep_software());
        helpers.spawn(certificates.watch());
        helpers.spawn(service.clone().obey());

        let mut carried = service.pull_until_drained(accepted).await;
        let finish = service.finish(&mut carried).await;
        heart.stop().await;
        service.carrier.events.close().await;
        service.links.amqp.close().await;
        leaving.end(finish == Finish::Clean).await;
        helpers.shutdown().await;
        finish
    }

    async fn keep_devices(self: Arc<Self>) {
        self.carrier.workshop.tend_devices().await;
    }

    async fn keep_software(self: Arc<Self>) {
        // Nobody waits for work while there is trouble: that is not to be taken for a full worker, or it would never be over.
        let load = || (self.slots.used() >= self.slots.total(), self.slots.used() == 0);
        self.fitness.software.tend(load).await;
    }

    async fn obey(self: Arc<Self>) {
        let Carrier { signals, attempts, me, drain, .. } = &*self.carrier;
        let commanded = Commanded { me, attempts, drain, offers: &self.offers };
        control::obey_worker(signals, commanded, |offer| self.consider(offer)).await;
    }

    /// Keeps room for an offered job, if it could run here and room will come. Answers how many slots it needs.
    fn consider(&self, offer: Offer) -> Result<u32, String> {
        if self.carrier.drain.stage() != Stage::Serving {
            return Err("it drains".to_owned());
        }
        if let Some(trouble) = self.fitness.trouble() {
            return Err(trouble);
        }
        if self.carrier.attempts.some_paused() {
            return Err("a job that runs there is paused, so room may not come".to_owned());
        }
        let told =
            |faults: Vec<Fault>| faults.iter().map(|fault| fault.message.as_str()).collect::<Vec<_>>().join("; ");
        let encode = scenario::resolve(&offer.spec).map_err(told)?;
        scenario::fits(&offer.spec, encode.as_ref(), &self.carrier.workshop.ability()).map_err(told)?;
        let slots = self.carrier.slots_for(&offer.spec, offer.alone).min(self.slots.total()).max(1);
        self.offers.keep(offer, slots)
    }

    /// Takes no more until there is room for an offered job, then runs it.
    async fn keep_room(&self, reservation: Reservation) {
        let job = reservation.offer.job;
        info!(%job, slots = reservation.slots, "keeps room for a job that others could not run");
        let some_paused = async {
            while !self.carrier.attempts.some_paused() {
                sleep(LOOK_FOR_ROOM).await;
            }
        };
        let mut slot = self.slots.none();
        let given_up = tokio::select! {
            biased;
            () = self.carrier.drain.reached(Stage::Finishing) => "the worker drains",
            () = reservation.withdrawn() => "the offer was withdrawn",
            () = self.fitness.fails() => "the scratch is short of room, or the tools do not work",
            () = slot.hold(reservation.slots) => return self.carrier.carry_offered(reservation, slot).await,
            () = some_paused => "a job that runs here was paused",
        };
        info!(%job, why = given_up, "keeps no more room for a job");
    }

    /// Carries deliveries until the worker drains. Answers what is still under way then.
    async fn pull_until_drained(self: &Arc<Self>, mut accepted: mpsc::Receiver<Reservation>) -> JoinSet<()> {
        let mut carried = JoinSet::new();
        let drain = &self.carrier.drain;
        let Some(()) = until(drain, self.wait_for_servers()).await else { return carried };
        let mut urgent = std::pin::pin!(self.next_urgent());
        let mut turns = interval(TURN);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.liveness.turn();
            tokio::select! {
                biased;
                () = drain.reached(Stage::Finishing) => break,
                Some(ended) = carried.join_next() => notice_panic(ended),
                Some(reservation) = accepted.recv() => {
                    let service = self.clone();
                    carried.spawn(async move { service.keep_room(reservation).await });
                }
                slot = self.room_for_one() => {
                    let service = self.clone();
                    carried.spawn(async move { service.pull(slot).await });
                }
                delivery = &mut urgent => {
                    let service = self.clone();
                    carried.spawn(async move { service.carrier.carry(delivery, service.slots.none()).await });
                    urgent.set(self.next_urgent());
                }
                _ = turns.tick() => {}
            }
        }
        self.liveness.end();
        for intake in [&self.links.intake, &self.links.live].into_iter().filter_map(OnceCell::get) {
            intake.close().await;
        }
        carried
    }

    /// The next live delivery that comes while the worker is full and could make room for it. Cancel-safe.
    async fn next_urgent(&self) -> Delivery {
        let Some(live) = self.links.live.get() else { return pending().await };
        let until_crowded = async |crowded: bool| {
            while self.is_crowded() != crowded {
                sleep(LOOK_FOR_ROOM).await;
            }
        };
        loop {
            until_crowded(true).await;
            tokio::select! {
                delivery = live.next() => return delivery,
                () = until_crowded(false) => {}
            }
        }
    }

    /// Whether nobody would take a live job, and somebody could make room for one. One at a time is frozen: it queues.
    fn is_crowded(&self) -> bool {
        self.slots.full()
            && !self.slots.contended()
            && self.fitness.trouble().is_none()
            && self.carrier.preemption.prepare()
    }

    /// A slot to pull a delivery with, once the scratch has room for what it may write and the tools work. Cancel-safe.
    async fn room_for_one(&self) -> Slot {
        self.fitness.holds().await;
        self.slots.take().await
    }

    /// Waits for one delivery and carries it. Gives the slot back when it is needed elsewhere.
    async fn pull(&self, mut slot: Slot) {
        let intake = self.links.intake.get().expect("pulling begins when the intake is there");
        let drain = &self.carrier.drain;
        let delivery = tokio::select! {
            biased;
            delivery = intake.next() => delivery,
            () = drain.reached(Stage::Finishing) => return,
            () = self.slots.recalled() => return,
            () = self.fitness.fails() => return,
        };
        slot.occupy();
        if drain.stage() == Stage::Serving {
            self.carrier.carry(delivery, slot).await;
        } else {
            // Lost is as good: then the broker has it already.
            let _ = delivery.release().await;
        }
    }

    /// Waits until what runs has ended, or has been handed back.
    async fn finish(&self, carried: &mut JoinSet<()>) -> Finish {
        let drain = &self.carrier.drain;
        let time_is_up = async {
            drain.reached(Stage::FinishingInTime).await;
            sleep(self.in_time).await;
        };
        let all_ended = tokio::select! {
            () = join_all(carried) => true,
            () = time_is_up => false,
            () = drain.reached(Stage::Releasing) => false,
        };
        if !all_ended {
            drain.advance(Stage::Releasing, "the time for running attempts is over");
            self.carrier.attempts.release_all(Stop::DRAIN);
            if timeout(self.release, join_all(carried)).await.is_err() {
                let left = carried.len();
                error!(left, "attempts could not be reported in time; their leases will lapse");
                carried.shutdown().await;
                return Finish::Unreported(left);
            }
        }
        info!("the worker stops, everything that ran here is on record");
        Finish::Clean
    }

    /// Waits for both servers and the topology, then opens the intake.
    async fn wait_for_servers(&self) {
        let Links { amqp, nats, intake, live } = &*self.links;
        while let Err(error) = amqp.connected(SAY_WAITING).await {
            warn!(error = chain(&error), "waiting for RabbitMQ");
        }
        let connected = async {
            while !nats.is_up() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let mut connected = std::pin::pin!(connected);
        while timeout(SAY_WAITING, &mut connected).await.is_err() {
            warn!("waiting for NATS");
        }
        self.declare().await;
        let queues: Vec<WorkQueue> = self.pools.iter().flat_map(WorkQueue::of_pool).collect();
        // The slots decide; this is the second net, with room for them to grow.
        let deliveries = u16::try_from(self.slots.total().saturating_mul(2).max(INTAKE_MIN)).unwrap_or(u16::MAX);
        let all = Intake::new(amqp.clone(), queues, deliveries);
        all.set_ageing(self.ageing);
        let opened = intake.set(all);
        assert!(opened.is_ok(), "only this function opens the intake, once");
        if self.preempts {
            let queues =
                self.pools.iter().flat_map(WorkQueue::of_pool).filter(|work| work.queue == Queue::Live).collect();
            let opened = live.set(Intake::new(amqp.clone(), queues, 1));
            assert!(opened.is_ok(), "only this function opens the intake, once");
        }
        info!(broker = amqp.server_version(), nats = nats.server().map(|server| server.version), "taking work");
    }

    /// Declares the topology, as often as it takes.
    async fn declare(&self) {
        let topology = Topology::for_pools(&self.pools);
        loop {
            match declare_topology(&self.links.amqp, &topology).await {
                Ok(()) => return,
                Err(error @ BrokerError::Forbidden { .. }) => {
                    info!(error = chain(&error), "the topology is left to the dispatcher to declare");
                    return;
                }
                Err(error @ BrokerError::Inequivalent { .. }) => error!(error = chain(&error), "declare the topology"),
                Err(error) => warn!(error = chain(&error), "declare the topology"),
            }
            sleep(DECLARE_AGAIN).await;
        }
    }

    /// Declares the topology anew on each new connection, for the broker may have been set up afresh, and when a work queue
    /// turns out to be missing, for somebody may have deleted it.
    async fn keep_topology(self: Arc<Self>) {
        let mut state = self.links.amqp.watch();
        let mut declared_on = None;
        loop {
            let seen = state.borrow_and_update().clone();
            if self.links.intake.get().is_some() {
                let known = declared_on.replace(seen.generation);
                if seen.up && known.is_some_and(|known| known != seen.generation) {
                    self.declare().await;
                }
            }
            let missing = async {
                loop {
                    match self.links.intake.get() {
                        Some(intake) => break intake.missing().await,
                        None => sleep(DECLARE_AGAIN).await,
                    }
                }
            };
            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                () = missing => {
                    self.declare().await;
                    // Somebody who deletes it again and again, or a right to declare that we lack, is not asked without end.
                    sleep(DECLARE_AGAIN).await;
                }
            }
        }
    }

    /// Follows the limits of the worker's cgroup, and keeps the gauges.
    async fn keep_capacity(self: Arc<Self>) {
        loop {
            let room = self.room.clone();
            // Reads files, among them a file system's free space, which can hang on a network disk.
            if let Ok((capacity, in_use)) =
                tokio::task::spawn_blocking(move || (room.read(), room.workshop.in_use())).await
            {
                let before = self.slots.total();
                if capacity.slots != before {
                    info!(before, slots = capacity.slots, "the room of this worker changed");
                    self.slots.resize(capacity.slots);
                }
                self.show(&capacity);
                show_in_use(&in_use);
                self.capacity.send_replace(capacity);
            }
            // After the room, of which it is made: this reads no files.
            let standing = self.fitness.software.standing();
            self.ability.send_replace(self.carrier.workshop.ability());
            tokio::select! {
                () = sleep(READ_CAPACITY) => {}
                () = self.fitness.software.differs_from(&standing) => {}
            }
        }
    }

    /// Looks again and again for what an earlier life left on a media root that was away.
    async fn keep_swept(self: Arc<Self>) {
        loop {
            sleep(SWEEP).await;
            let workshop = self.carrier.workshop.clone();
            if tokio::task::spawn_blocking(move || workshop.sweep_parts()).await.is_err() {
                error!("the sweep of parts ended by a panic; please report it");
            }
        }
    }

    /// Follows the energy counters over the whole of long attempts.
    async fn keep_energy(self: Arc<Self>) {
        self.carrier.workshop.follow_energy().await;
    }

    fn show(&self, capacity: &Capacity) {
        metrics::gauge!(names::WORKER_SLOTS).set(f64::from(capacity.slots));
        metrics::gauge!(names::WORKER_SLOTS_USED).set(f64::from(self.slots.used()));
        metrics::gauge!(names::WORKER_CPU_PERCENT).set(f64::from(capacity.cpu_percent));
        // Mebibytes of any real machine are far below 2^52.
        let bytes = |mb: u64| mb as f64 * 1024.0 * 1024.0;
        metrics::gauge!(names::WORKER_MEMORY_BYTES).set(bytes(capacity.memory_mb));
        metrics::gauge!(names::WORKER_SCRATCH_BYTES).set(bytes(capacity.disk_mb));
        metrics::gauge!(names::WORKER_SCRATCH_FLOOR_BYTES).set(bytes(self.fitness.space.floor_mb()));
        let layers = self.carrier.workshop.sandbox();
        for layer in Layer::ALL {
            metrics::gauge!(names::WORKER_SANDBOX, "layer" => layer.as_str())
                .set(f64::from(u8::from(layers.contains(&layer))));
        }
        self.show_state();
    }

    fn show_state(&self) {
        let silence = self.carrier.beaten.borrow().elapsed();
        metrics::gauge!(names::WORKER_HEARTBEAT_AGE_SECONDS).set(silence.as_secs_f64());
        let ability = self.ability.borrow();
        for encoder in Encoder::ALL {
            let is_offered = ability.encoders.iter().any(|offered| offered == encoder.as_str());
            metrics::gauge!(names::WORKER_ENCODER, "encoder" => encoder.as_str()).set(f64::from(u8::from(is_offered)));
        }
        let ready = self.carrier.drain.stage() == Stage::Serving;
        metrics::gauge!(names::WORKER_STATE, "state" => "ready").set(f64::from(u8::from(ready)));
        metrics::gauge!(names::WORKER_STATE, "state" => "draining").set(f64::from(u8::from(!ready)));
        for (server, up) in [("amqp", self.links.amqp.is_up()), ("nats", self.links.nats.is_up())] {
            metrics::gauge!(names::LINK_UP, "server" => server).set(f64::from(u8::from(up)));
        }
        let generation = self.links.amqp.watch().borrow().generation;
        for (server, connections) in [("amqp", generation), ("nats", self.links.nats.connections())] {
            metrics::counter!(names::LINK_CONNECTIONS, "server" => server).absolute(connections);
        }
    }
}

/// A counter counts in whole seconds.
fn show_in_use(in_use: &InUse) {
    if let Some(cpu_us) = in_use.cpu_us {
        metrics::counter!(names::WORKER_IN_USE_CPU_SECONDS).absolute(cpu_us / 1_000_000);
    }
    if let Some(bytes) = in_use.memory_bytes {
        // Bytes of any real machine are far below 2^52.
        metrics::gauge!(names::WORKER_IN_USE_MEMORY_BYTES).set(bytes as f64);
    }
}

/// Runs `work`, unless the worker drains first.
async fn until<T>(drain: &Drain, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = drain.reached(Stage::Finishing) => None,
        done = work => Some(done),
    }
}

async fn join_all(carried: &mut JoinSet<()>) {
    while let Some(ended) = carried.join_next().await {
        notice_panic(ended);
    }
}

/// A task that panicked dropped its delivery, so the broker gives it to somebody else.
fn notice_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        error!(%error, "an attempt's task ended by a panic; please report it");
    }
}
