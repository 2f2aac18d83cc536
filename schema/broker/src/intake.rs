//! Where a worker's work comes from: the best job of all its queues for each free slot, and never one more.
//!
//! One task owns the search. It looks at the depths by passive declare (never `basic.get` at a queue unseen: a broken
//! one closes the whole connection), fetches from the best queues on a channel per delivery, and shares one look among
//! all slots that wait. When everything is empty it arms consumers and waits.
//!
//! Invariant: every message in hand is in a [`Delivery`] that holds one of `capacity` slots, or is on its way back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ffpool_schema::job::Queue;
use ffpool_schema::topology::WorkQueue;
use futures_util::future::join_all;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::arms::{Arms, Arrival};
use crate::channels::{AmqpChannel, ChannelPool};
use crate::deadline::CLOSE;
use crate::delivery::Delivery;
use crate::error::BrokerError;
use crate::ladder::{FRESH, Ladder};
use crate::link::AmqpLink;

/// After a failed look or fetch.
const PAUSE: Duration = Duration::from_millis(250);
/// So long after the last work the intake goes on looking before it arms consumers: arming and disarming nine quorum
/// queues costs the broker far more than a look.
const SETTLE: Duration = Duration::from_millis(30);
/// How often armed consumers are checked against the depths. Also the pace of [`Intake::last_proof`] when idle.
const VERIFY: Duration = Duration::from_secs(5);
/// The same while some queue has no consumer and only a look finds its messages.
const VERIFY_UNARMED: Duration = Duration::from_millis(500);
/// After a check that found messages ready: they may be on their way to us.
const VERIFY_AGAIN: Duration = Duration::from_millis(50);
/// Armed consumers are renewed after this: one that is dead although the broker counts it may have been given a message
/// (see `batch.rs`), and only the end of its channel gives that back.
const RENEW: Duration = Duration::from_secs(60);
/// So many checks in a row may find messages that no consumer was given.
const VERIFY_FAILED_MAX: u32 = 2;

/// No hold is longer: an instant cannot be moved for ever.
const HOLD_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// The source of deliveries of one worker.
pub struct Intake {
    waiters: mpsc::Sender<Waiter>,
    slots: Arc<Semaphore>,
    ageing: watch::Sender<Option<Duration>>,
    holds: watch::Sender<Holds>,
    shared: Arc<Shared>,
    search: Mutex<Option<JoinHandle<()>>>,
}

/// Until when nothing is taken from a queue.
type Holds = BTreeMap<Queue, Instant>;

struct Shared {
    /// A waiter may have gone away.
    nudge: Notify,
    stop: CancellationToken,
    /// A queue was found missing.
    missing: Notify,
    /// Written by the search only.
    proof: Mutex<Option<Instant>>,
}

/// A free slot that waits for a delivery.
struct Waiter {
    slot: OwnedSemaphorePermit,
    reply: oneshot::Sender<Delivery>,
}

/// Tells the search that a waiter may have gone away.
struct Leaving<'a>(&'a Shared);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.nudge.notify_one();
    }
}

impl Intake {
    /// Starts to serve the slots of one worker from `queues`, best first. At most `capacity` deliveries are in hand at
    /// any time. Must be called inside a Tokio runtime.
    #[must_use]
    pub fn new(link: AmqpLink, queues: Vec<WorkQueue>, capacity: u16) -> Intake {
        let capacity = capacity.max(1);
        // Every waiter holds a slot, so there are never more of them than slots.
        let (waiters, incoming) = mpsc::channel(usize::from(capacity));
        let shared = Arc::new(Shared {
            nudge: Notify::new(),
            stop: CancellationToken::new(),
            missing: Notify::new(),
            proof: Mutex::new(None),
        });
        let ageing = watch::Sender::new(None);
        let holds = watch::Sender::new(Holds::new());
        let search = Search {
            state: link.watch(),
            pool: Arc::new(ChannelPool::new(link, capacity)),
            ladder: Ladder::new(queues),
            ageing: ageing.subscribe(),
            holds: holds.subscribe(),
            incoming,
            waiters: VecDeque::new(),
            fetches: JoinSet::new(),
            arms: None,
            verify_every: VERIFY,
            cautious: false,
            looking: None,
            paused_until: None,
            worked_at: None,
            shared: shared.clone(),
        };
        Intake {
            waiters,
            slots: Arc::new(Semaphore::new(usize::from(capacity))),
            ageing,
            holds,
            shared,
            search: Mutex::new(Some(tokio::spawn(search.run()))),
        }
    }

    /// The next delivery, the best that can be had; waits for ever. Call it once per free slot, concurrently.
    ///
    /// Cancel-safe: dropping the future neither loses nor keeps a message.
    pub async fn next(&self) -> Delivery {
        loop {
            let Ok(slot) = self.slots.clone().acquire_owned().await else { return std::future::pending().await };
            let (reply, answer) = oneshot::channel();
            let _leaving = Leaving(&self.shared);
            if self.waiters.send(Waiter { slot, reply }).await.is_err() {
                // The intake was closed: there is no next delivery.
                return std::future::pending().await;
            }
            if let Ok(delivery) = answer.await {
                return delivery;
            }
        }
    }

    /// Lifts queues that are passed over: each `interval` of waiting adds 10 to a queue's score (`batch.low` has 11,
    /// `live.high` 103). Its wait counts from when this intake last took of it. `None`, the default, serves strictly by
    /// score.
    pub fn set_ageing(&self, interval: Option<Duration>) {
        self.ageing.send_replace(interval);
    }

    /// Takes nothing from the work queues of `queue` for so long: they are neither picked nor armed, and what is on its way
    /// from them goes back. Deliveries already handed out by [`Intake::next`] stay with their holders.
    ///
    /// The last call counts: another one moves the end, and zero ends the hold.
    pub fn hold(&self, queue: Queue, for_: Duration) {
        self.holds.send_modify(|holds| {
            holds.insert(queue, Instant::now() + for_.min(HOLD_MAX));
        });
    }

    /// When the intake last proved that it can take work: it saw the depths of all queues it needed to.
    /// Only kept up while somebody waits in [`Intake::next`].
    #[must_use]
    pub fn last_proof(&self) -> Option<Instant> {
        *self.shared.proof.lock().expect("no holder panics")
    }

    /// Resolves when a queue was found missing since the last call, for whoever may declare it again. For one waiter.
    pub async fn missing(&self) {
        self.shared.missing.notified().await;
    }

    /// Takes no more work: cancels what is armed and hands back what is on its way. Deliveries in hand stay valid.
    pub async fn close(&self) {
        self.shared.stop.cancel();
        let search = self.search.lock().expect("no holder panics").take();
        if let Some(search) = search {
            let _ = search.await;
        }
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

/// The task that owns the search.
struct Search {
    pool: Arc<ChannelPool>,
    state: watch::Receiver<crate::link::LinkState>,
    ladder: Ladder,
    ageing: watch::Receiver<Option<Duration>>,
    holds: watch::Receiver<Holds>,
    incoming: mpsc::Receiver<Waiter>,
    /// Slots without a fetch under way.
    waiters: VecDeque<Waiter>,
    fetches: JoinSet<Fetched>,
    arms: Option<Arms>,
    verify_every: Duration,
    /// The last arming ended with the connection: arm one by one, to find the queue that did it.
    cautious: bool,
    /// The channel for looks.
    looking: Option<AmqpChannel>,
    paused_until: Option<Instant>,
    worked_at: Option<Instant>,
    shared: Arc<Shared>,
}

/// How a fetch ended.
enum Fetched {
    /// A message came and the waiter has it.
    Handed { rung: usize, remaining: u32 },
    /// A message came and the waiter is gone.
    Stray { rung: usize, remaining: u32, delivery: Box<Delivery> },
    /// Somebody else was faster.
    Empty { rung: usize, waiter: Waiter },
    /// The queue was held meanwhile, and the message went back.
    Held { waiter: Waiter },
    /// The broker or the link failed.
    Failed { waiter: Waiter, error: BrokerError },
}

impl Search {
    async fn run(mut self) {
        while !self.shared.stop.is_cancelled() {
            let wake_at = self.advance().await;
            self.wait(wake_at.into_iter().chain(self.ladder.next_hold_end()).min()).await;
        }
        self.finish().await;
    }

    /// Does what can be done now. Answers when to come back even if nothing happens.
    async fn advance(&mut self) -> Option<Instant> {
        self.waiters.retain(|waiter| !waiter.reply.is_closed());
        self.ladder.set_ageing(*self.ageing.borrow_and_update());
        self.drop_what_is_stale();

        // Armed are the queues that were free before; the harvest gives back what a held one brought.
        if self.heed_holds() || self.waiters.is_empty() {
            self.harvest().await;
        }
        if self.waiters.is_empty() {
            return None;
        }
        if let Some(paused_until) = self.paused_until {
            if Instant::now() < paused_until {
                return Some(paused_until);
            }
            self.paused_until = None;
        }
        if !self.pool.link().is_up() {
            return None;
        }
        if self.arms.is_some() {
            return self.verify().await;
        }
        self.serve().await
    }

    /// Waits for anything that could change what to do.
    async fn wait(&mut self, wake_at: Option<Instant>) {
        let armed = self.arms.is_some();
        let arrival = async {
            match &mut self.arms {
                Some(arms) => arms.arrival().await,
                None => std::future::pending().await,
            }
        };
        let wake = async {
            match wake_at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.shared.stop.cancelled() => {}
            waiter = self.incoming.recv() => match waiter {
                Some(waiter) => self.waiters.push_back(waiter),
                None => self.shared.stop.cancel(),
            },
            Some(fetched) = self.fetches.join_next(), if !self.fetches.is_empty() => self.absorb(fetched).await,
            arrival = arrival, if armed => match arrival {
                Arrival::Message => self.harvest().await,
                // Dropping the arms closes their channels, so that nothing stays assigned to a consumer that ended.
                Arrival::Ended => {
                    self.arms = None;
                    self.pause();
                }
            },
            () = self.shared.nudge.notified() => {}
            _ = self.ageing.changed() => {}
            _ = self.holds.changed() => {}
            _ = self.state.changed() => {}
            () = wake => {}
        }
    }

    /// Fetches for as many waiters as there is work; with no work at all, arms consumers.
    async fn serve(&mut self) -> Option<Instant> {
        if !self.ladder.is_fresh(Instant::now()) && !self.look().await {
            return self.paused_until;
        }
        while !self.waiters.is_empty() {
            let Some(rung) = self.ladder.pick(Instant::now()) else { break };
            let waiter = self.waiters.pop_front().expect("the loop condition");
            let (work, queue) = (self.ladder.rung(rung).work.clone(), self.ladder.rung(rung).name.clone());
            self.fetches.spawn(fetch(self.pool.clone(), self.holds.clone(), rung, work, queue, waiter));
        }
        if self.waiters.is_empty() {
            return None;
        }
        let settled = self.worked_at.is_none_or(|at| at.elapsed() >= SETTLE);
        if self.ladder.is_empty(Instant::now()) && self.fetches.is_empty() && settled {
            self.arm().await
        } else {
            Some(Instant::now() + FRESH)
        }
    }

    /// Looks at the depths, best queues first, until there is enough for all waiters. Answers whether it worked.
    async fn look(&mut self) -> bool {
        let now = Instant::now();
        let enough = u32::try_from(self.waiters.len()).unwrap_or(u32::MAX);
        self.ladder.begin_scan(now);
        for group in self.ladder.groups(now) {
            if self.ladder.known_ready() >= enough {
                break;
            }
            if let Err(error) = self.look_at(&group, now).await {
                debug!(%error, "cannot look at the work queues");
                self.ladder.forget();
                self.pause();
                return false;
            }
        }
        *self.shared.proof.lock().expect("no holder panics") = Some(Instant::now());
        true
    }

    /// Looks at some queues in one volley, and if that fails one by one, to find out which of them is missing.
    async fn look_at(&mut self, rungs: &[usize], now: Instant) -> Result<(), BrokerError> {
        let channel = self.looking_channel().await?;
        let counts = join_all(rungs.iter().map(|&at| channel.count(&self.ladder.rung(at).name))).await;
        if let Ok(counts) = counts.into_iter().collect::<Result<Vec<_>, _>>() {
            for (&at, (ready, _)) in rungs.iter().zip(counts) {
                self.ladder.observe(at, ready, now);
            }
            self.looking = Some(channel);
            return Ok(());
        }
        for &at in rungs {
            let channel = self.looking_channel().await?;
            match channel.count(&self.ladder.rung(at).name).await {
                Ok((ready, _)) => {
                    self.ladder.observe(at, ready, now);
                    self.looking = Some(channel);
                }
                Err(error) if error.is_missing() => {
                    self.shared.missing.notify_one();
                    if self.ladder.observe_missing(at, now) {
                        warn!(queue = %self.ladder.rung(at).name, "a work queue does not exist, serving the others");
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn looking_channel(&mut self) -> Result<AmqpChannel, BrokerError> {
        match self.looking.take() {
            Some(channel) if channel.is_open() => Ok(channel),
            Some(_) | None => self.pool.take().await,
        }
    }

    /// Starts consumers on all queues that can be consumed; the others are looked at more often.
    async fn arm(&mut self) -> Option<Instant> {
        let armable = self.ladder.armable(Instant::now());
        let queues: Vec<(usize, String)> =
            armable.into_iter().map(|at| (at, self.ladder.rung(at).name.clone())).collect();
        let (arms, failed) = Arms::open(&self.pool, &queues, self.cautious).await;
        let now = Instant::now();
        if !self.pool.link().is_up() {
            // A queue without a leader may end the connection that consumes it. Which one is only seen one by one.
            if self.cautious
                && let Some((rung, error)) = failed.last()
            {
                self.unarm(*rung, error, now);
            }
            self.cautious = true;
            self.pause();
            return self.paused_until;
        }
        self.cautious = false;
        for (rung, error) in &failed {
            if error.is_missing() {
                self.shared.missing.notify_one();
                self.ladder.observe_missing(*rung, now);
            } else {
                self.unarm(*rung, error, now);
            }
        }
        if arms.is_empty() {
            return Some(now + VERIFY_UNARMED);
        }
        let arms = self.arms.insert(arms);
        self.verify_every =
            if self.ladder.armable(now).len() < self.ladder.present(now).len() { VERIFY_UNARMED } else { VERIFY };
        arms.verify_at = now + self.verify_every;
        Some(arms.verify_at)
    }

    fn unarm(&mut self, rung: usize, error: &BrokerError, now: Instant) {
        warn!(queue = %self.ladder.rung(rung).name, %error, "a work queue cannot be consumed, only looking at it");
        self.ladder.observe_broken(rung, now);
    }

    /// The net under armed consumers: if messages lie ready again and again, the consumers do not work.
    async fn verify(&mut self) -> Option<Instant> {
        let due = self.arms.as_ref()?.verify_at;
        if Instant::now() < due {
            return Some(due);
        }
        if !self.look().await {
            return self.paused_until;
        }
        let waiting = self.ladder.known_ready() > 0;
        let arms = self.arms.as_mut()?;
        arms.idle_while_ready = if waiting { arms.idle_while_ready + 1 } else { 0 };
        if arms.armed_at.elapsed() >= RENEW {
            // Dropped, not disarmed: the end of the channels is the point.
            self.arms = None;
            self.ladder.forget();
            return Some(Instant::now());
        }
        if arms.idle_while_ready < VERIFY_FAILED_MAX {
            arms.verify_at = Instant::now() + if waiting { VERIFY_AGAIN } else { self.verify_every };
            return Some(arms.verify_at);
        }
        warn!("messages are ready but the armed consumers get none, looking for work anew");
        self.harvest().await;
        Some(Instant::now())
    }

    /// Disarms; the waiters get the best of what arrived, the rest goes back.
    async fn harvest(&mut self) {
        let Some(arms) = self.arms.take() else { return };
        let mut disarmed = arms.disarm(self.pool.prefetch()).await;
        self.ladder.forget();
        self.heed_holds();
        let mut order: Vec<usize> = disarmed.iter().map(|arm| arm.rung).collect();
        self.ladder.sort(&mut order, Instant::now());
        disarmed.sort_by_key(|arm| order.iter().position(|&rung| rung == arm.rung));
        for arm in disarmed {
            let mut brought = arm.brought;
            let Some(message) = brought.pop() else {
                self.pool.give(arm.channel);
                continue;
            };
            if !brought.is_empty() {
                // Prefetch 1 forbids it. One channel cannot be two deliveries' own, so all go back with the channel.
                warn!(queue = %self.ladder.rung(arm.rung).name, "a consumer brought more than its prefetch");
                continue;
            }
            let work = self.ladder.rung(arm.rung).work.clone();
            self.worked_at = Some(Instant::now());
            self.hand(Delivery::new(work, message, arm.channel, self.pool.clone())).await;
        }
    }

    /// Gives a delivery to the first waiter that is still there, else back to the broker; a held queue's goes back.
    async fn hand(&mut self, mut delivery: Delivery) {
        while !self.ladder.is_held(delivery.work.queue)
            && let Some(waiter) = self.waiters.pop_front()
        {
            delivery.occupy(waiter.slot);
            match waiter.reply.send(delivery) {
                Ok(()) => return,
                Err(back) => delivery = back,
            }
            drop(delivery.vacate());
        }
        // Lost is fine too: then the broker has it already.
        let _ = delivery.release().await;
    }

    async fn absorb(&mut self, fetched: Result<Fetched, tokio::task::JoinError>) {
        match fetched {
            Ok(Fetched::Handed { rung, remaining }) => {
                self.worked_at = Some(Instant::now());
                self.ladder.lower(rung, remaining);
            }
            Ok(Fetched::Stray { rung, remaining, mut delivery }) => {
                self.ladder.lower(rung, remaining);
                drop(delivery.vacate());
                self.hand(*delivery).await;
            }
            Ok(Fetched::Empty { rung, waiter }) => {
                self.ladder.lower(rung, 0);
                self.waiters.push_front(waiter);
            }
            Ok(Fetched::Held { waiter }) => self.waiters.push_front(waiter),
            Ok(Fetched::Failed { waiter, error }) => {
                debug!(%error, "cannot fetch work");
                self.waiters.push_front(waiter);
                self.ladder.forget();
                self.pause();
            }
            Err(error) => warn!(%error, "a fetch ended without an answer; its waiter asks again"),
        }
    }

    /// Takes in the holds as they are now. Answers whether any began or ended.
    fn heed_holds(&mut self) -> bool {
        let holds = self.holds.borrow_and_update().clone();
        self.ladder.set_holds(holds, Instant::now())
    }

    fn pause(&mut self) {
        self.paused_until = Some(Instant::now() + PAUSE);
    }

    /// Forgets what belongs to a connection that is gone.
    fn drop_what_is_stale(&mut self) {
        let generation = self.state.borrow_and_update().generation;
        let up = self.pool.link().is_up();
        if self.arms.as_ref().is_some_and(|arms| !up || arms.generation != generation) {
            self.arms = None;
        }
        if !up {
            self.ladder.forget();
        }
    }

    /// Ends the search: whatever is on its way goes back.
    async fn finish(mut self) {
        self.waiters.clear();
        self.incoming.close();
        self.harvest().await;
        let fetches = async {
            while let Some(fetched) = self.fetches.join_next().await {
                if let Ok(Fetched::Stray { delivery, .. }) = fetched {
                    let _ = delivery.release().await;
                }
            }
        };
        // What is still under way after that is dropped with its channel.
        let _ = tokio::time::timeout(CLOSE, fetches).await;
    }
}

/// Fetches one message for one waiter, on a channel that becomes the delivery's own.
async fn fetch(
    pool: Arc<ChannelPool>,
    holds: watch::Receiver<Holds>,
    rung: usize,
    work: WorkQueue,
    queue: String,
    waiter: Waiter,
) -> Fetched {
    let attempt = async {
        let channel = pool.take().await?;
        let message = channel.get(&queue).await?;
        Ok((channel, message))
    };
    let (channel, message) = match attempt.await {
        Ok(got) => got,
        Err(error) => return Fetched::Failed { waiter, error },
    };
    let Some(message) = message else {
        pool.give(channel);
        return Fetched::Empty { rung, waiter };
    };
    let remaining = message.message_count;
    let held = holds.borrow().get(&work.queue).is_some_and(|until| *until > Instant::now());
    let mut delivery = Delivery::new(work, message.delivery, channel, pool);
    if held {
        // Lost is fine too: then the broker has it already.
        let _ = delivery.release().await;
        return Fetched::Held { waiter };
    }
    delivery.occupy(waiter.slot);
    match waiter.reply.send(delivery) {
        Ok(()) => Fetched::Handed { rung, remaining },
        Err(delivery) => Fetched::Stray { rung, remaining, delivery: Box::new(delivery) },
    }
}
