//! Carries one delivery from the hand-over to its acknowledgement: claim, run, report, acknowledge.
//!
//! Invariant: a delivery is acknowledged only when somebody else answers for the job: its end is on record, or the
//! ledger took custody, or the ledger said that the delivery is not needed. In every other case it is handed back.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ffpool_broker::{Delivery, Request, RequestError, Settled, Signals, Subscription};
use ffpool_runtime::metrics::exemplify;
use ffpool_runtime::traces::{Context, Span};
use ffpool_schema::encode::Source;
use ffpool_schema::job::{Engine, JobSpec, Queue};
use ffpool_schema::message::{
    ClaimRequest, CommitReply, DropReason, Event, Grant, HoldScope, JobAnswer, LogLine, Outcome, Progress, Sender,
    TakeOver, Usage,
};
use ffpool_schema::{id::JobId, metrics as names, subjects};
use futures_util::FutureExt;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{Instrument, debug, info, info_span, warn};
use uuid::Uuid;

use crate::attempts::{Already, Attempts, Entry};
use crate::claims::{Claim, Claims};
use crate::control;
use crate::drain::{Drain, Stage};
use crate::events::Events;
use crate::ledger::Ledger;
use crate::offers::Reservation;
use crate::preempt::{Need, Place, Preemption};
use crate::service::Links;
use crate::slots::Slot;
use crate::spans;
use crate::workshop::{Consent, Ended, Reports, Stop, Workshop};

/// After the worker began to drain, a claim that is under way may still be answered for so long: a grant that nobody
/// hears costs the job a lost lease.
const CLAIM_GRACE: Duration = Duration::from_secs(3);
/// A delivery is held back for so long at most, whatever the ledger says: it takes a slot meanwhile.
const HOLD_MAX: Duration = Duration::from_secs(10);
/// Before a claim is repeated because the ledger has yet to read how the attempt ended.
const RECLAIM: Duration = Duration::from_millis(200);
/// Between two progress signals of one attempt in the same phase.
const PROGRESS_PAUSE: Duration = Duration::from_millis(500);
/// Log lines on their way from the tool; more are dropped, the log file has them all.
const LOG_LINES: usize = 256;
/// Longest that the report of an attempt waits for its last lines to be sent.
const LOG_TAIL: Duration = Duration::from_millis(500);

/// A live attempt that was handed back feeds its sinks for so long at most, if no next attempt wants them.
const LINGER: Duration = Duration::from_secs(10);
/// Longest that the next attempt waits until it has let go of them: its tool is ended politely.
const LET_GO: Duration = Duration::from_secs(15);
/// For NATS to know who can be asked.
const HEARD: Duration = Duration::from_secs(1);

/// Under this name the lines of the tools are in the worker's own log, at the level `debug`.
const TOOL_LOG: &str = "ffpool_worker::tool_log";

/// What all slots of a worker share to carry deliveries.
pub struct Carrier {
    /// Who the worker is.
    pub me: Sender,
    /// The tool side.
    pub workshop: Workshop,
    /// The registry.
    pub attempts: Attempts,
    /// Claims deliveries.
    pub claims: Claims,
    /// Answers everything else.
    pub ledger: Ledger,
    /// Where work comes from.
    pub(crate) links: Arc<Links>,
    /// For progress, logs and commands.
    pub signals: Signals,
    /// For ends of attempts.
    pub events: Events,
    /// Whether the worker stops.
    pub drain: Drain,
    /// A delivery held longer passes into the ledger's custody.
    pub custody_after: Duration,
    /// Who makes room for live jobs.
    pub preemption: Preemption,
    /// When a heartbeat was last sent.
    pub beaten: watch::Receiver<Instant>,
    /// A live attempt ends when no heartbeat was sent for so long.
    pub live_fence: Duration,
    /// Whether an attempt takes the whole worker, because it cannot be held to its limits.
    pub one_at_a_time: bool,
    /// Processor time of all ended attempts; the counter made of it has whole seconds.
    pub cpu_ms: AtomicU64,
}

/// What the worker knows of the lease of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lease {
    /// Begun without an answer, which is still asked for.
    Asked,
    /// Granted.
    Held,
    /// Not granted after all: the delivery is not needed.
    Dropped,
    /// Not granted after all: the delivery goes back after so long.
    HeldBack(Duration, HoldScope),
}

impl Carrier {
    /// Carries `delivery`, with `slot` to run it in.
    pub async fn carry(&self, delivery: Delivery, mut slot: Slot) {
        loop {
            let claim = tokio::select! {
                // A grant that is there is taken: the ledger believes that the job runs here.
                biased;
                claim = self.claims.claim(&delivery, self.attempts.count() == 0) => claim,
                () = self.drained_for(CLAIM_GRACE) => return hand_back(delivery, Stop::DRAIN).await,
            };
            let (mut grant, request) = match claim {
                Claim::Granted(grant) => (grant, None),
                Claim::Provisional(grant, request) => (grant, Some(request)),
                Claim::Drop(reason) => return forget(delivery, reason).await,
                Claim::Hold { pause, scope, reason } => return self.hold_back(delivery, pause, scope, &reason).await,
            };
            let (job, attempt) = (grant.job, grant.attempt);
            let progress = watch::Sender::new(None);
            let already = match self.attempts.begin(job, attempt, request.is_none(), progress.subscribe()) {
                Ok(entry) => {
                    let run = spans::begin_run(&mut grant, Some(&delivery), request.is_some());
                    let span = log_span(&grant, run.context());
                    let place = self.preemption.place(job, attempt);
                    let lease = watch::Sender::new(Lease::Held);
                    let errand = Errand { carrier: self, grant, run, entry, place, lease, hand_back: Mutex::default() };
                    return errand.run(Some(delivery), &mut slot, progress, request).instrument(span).await;
                }
                Err(already) => already,
            };
            // The same job came again, after its channel was lost or because it was published twice.
            let absorbed = match already {
                Already::Running => tokio::select! {
                    reply = self.ledger.custody(job, attempt) => reply == CommitReply::Granted,
                    () = self.drain.reached(Stage::Finishing) => false,
                },
                Already::Ended => false,
            };
            if absorbed {
                info!(%job, attempt, "the job runs here already: its second delivery passes into the ledger's custody");
                return acknowledge(delivery).await;
            }
            sleep(RECLAIM).await;
        }
    }

    /// Runs a job that this worker was offered, now that `slot` has room for it: without a delivery, in the ledger's custody.
    pub(crate) async fn carry_offered(&self, reservation: Reservation, mut slot: Slot) {
        let job = reservation.offer.job;
        // No withdrawal is heeded from here on: the ledger's answer says the same, and may be a grant.
        let claim = tokio::select! {
            biased;
            claim = self.claims.take(&reservation.offer, self.attempts.count() == 0) => claim,
            () = self.drained_for(CLAIM_GRACE) => return info!(%job, "the worker drains and gives up the room that it kept"),
        };
        let mut grant = match claim {
            Claim::Granted(grant) => grant,
            Claim::Drop(reason) => {
                return info!(%job, reason = reason.as_str(), "the job that room was kept for is not needed");
            }
            Claim::Hold { reason, .. } => return info!(%job, reason, "the job that room was kept for is held back"),
            Claim::Provisional(..) => return,
        };
        let attempt = grant.attempt;
        let progress = watch::Sender::new(None);
        let Ok(entry) = self.attempts.begin(job, attempt, true, progress.subscribe()) else {
            return debug!(%job, attempt, "the job that was offered runs here already");
        };
        drop(reservation);
        let run = spans::begin_run(&mut grant, None, false);
        let span = log_span(&grant, run.context());
        let place = self.preemption.place(job, attempt);
        place.in_custody();
        let lease = watch::Sender::new(Lease::Held);
        let errand = Errand { carrier: self, grant, run, entry, place, lease, hand_back: Mutex::default() };
        errand.run(None, &mut slot, progress, None).instrument(span).await;
    }

    /// The slots that a job takes, as far as the worker has them.
    pub(crate) fn slots_for(&self, spec: &JobSpec, alone: bool) -> u32 {
        let noop = spec.engine == Engine::Noop;
        if alone || (self.one_at_a_time && !noop) { u32::MAX } else { self.workshop.units(spec) }
    }

    /// Gives a delivery back, and sees to it that it does not come again at once: a single one is kept for a while, of a
    /// paused queue nothing more is asked for.
    async fn hold_back(&self, delivery: Delivery, pause: Duration, scope: HoldScope, reason: &str) {
        debug!(queue = %delivery.work.name(), reason, "held back");
        match scope {
            HoldScope::Queue => {
                self.links.hold(delivery.work.queue, pause);
                return hand_back(delivery, reason).await;
            }
            HoldScope::Delivery => {}
        }
        tokio::select! {
            () = sleep(pause.min(HOLD_MAX)) => {}
            () = self.drain.reached(Stage::Finishing) => {}
        }
        hand_back(delivery, reason).await;
    }

    /// Resolves when the worker drains since `grace`.
    async fn drained_for(&self, grace: Duration) {
        self.drain.reached(Stage::Finishing).await;
        sleep(grace).await;
    }
}

/// One attempt on its way.
struct Errand<'a> {
    carrier: &'a Carrier,
    grant: Box<Grant>,
    /// Its part of the job's trace.
    run: Span,
    entry: Entry,
    place: Place,
    /// Written by this errand only.
    lease: watch::Sender<Lease>,
    /// Never held across an await.
    hand_back: Mutex<HandBack>,
}

/// How far an attempt is handed back while it runs.
#[derive(Default)]
enum HandBack {
    /// It is not.
    #[default]
    No,
    /// Its end is on record. The next attempt is answered when it feeds its sinks no more.
    Reported(Option<Box<Request<TakeOver>>>),
}

/// What an attempt that hands itself back says.
struct HandingBack {
    reason: String,
    usage: Usage,
    /// Told when it is to end.
    over: oneshot::Sender<()>,
}

impl Errand<'_> {
    async fn run(
        self,
        mut held: Option<Delivery>,
        slot: &mut Slot,
        progress: watch::Sender<Option<Progress>>,
        unanswered: Option<Box<ClaimRequest>>,
    ) {
        let unanswered = unanswered.as_deref();
        if unanswered.is_some() {
            warn!("no dispatcher answers: the attempt begins without a lease");
            self.lease.send_replace(Lease::Asked);
        } else {
            self.carrier.attempts.abandon_before(self.grant.job, self.grant.attempt);
        }
        // Entered before this look, so that whoever releases all after it finds the attempt.
        if self.carrier.drain.stage() == Stage::Releasing {
            self.entry.stop(Stop::Release(Stop::DRAIN.into()));
        }
        let (log, mut lines) = mpsc::channel(LOG_LINES);
        let (handing, handings) = mpsc::channel(1);
        let tending = async {
            tokio::join!(
                self.confirm(unanswered),
                self.fence(),
                self.leave_early(),
                self.hand_over(handings),
                self.keep_custody(&mut held),
                self.forward_progress(progress.subscribe()),
                self.forward_log(&mut lines),
                control::obey_job(&self.carrier.signals, &self.carrier.attempts, &self.carrier.me, self.grant.job),
            );
            pending().await
        };
        let ended = tokio::select! {
            ended = self.work(slot, Reports { progress: progress.clone(), log }, handing) => ended,
            ended = tending => ended,
        };
        self.let_go().await;
        // What the tool said last is what says why it failed.
        lines.close();
        let _ = timeout(LOG_TAIL, self.forward_log(&mut lines)).await;
        self.settle(held, ended, unanswered).await;
    }

    /// Waits for room, then runs the tool.
    async fn work(&self, slot: &mut Slot, reports: Reports, handing: mpsc::Sender<HandingBack>) -> Ended {
        let workshop = &self.carrier.workshop;
        let noop = self.grant.encode.is_none();
        let units = self.carrier.slots_for(&self.grant.spec, self.grant.alone);
        let need = Need {
            units,
            memory_mb: if noop { 0 } else { self.grant.spec.resource_limits.memory_mb() },
            yields: self.grant.spec.queue == Queue::Batch && !noop && !self.grant.alone,
        };
        let mut stop = self.entry.stop_signal();
        let stopped = tokio::select! {
            () = self.find_room(slot, need) => None,
            stop = stop.wait_for(Option::is_some) => stop.ok().and_then(|stop| stop.clone()),
        };
        if let Some(stop) = stopped {
            let outcome = match stop {
                Stop::Cancel => Some(Outcome::Cancelled),
                Stop::Release(reason) => Some(Outcome::Released { reason }),
                Stop::Abandon => None,
            };
            return Ended { outcome, usage: Usage::default(), thumbnail: None };
        }
        if !noop {
            info!(scenario = self.grant.spec.scenario, "the attempt begins");
        }
        let consent = Arc::new(AskOthers {
            me: self.carrier.me.clone(),
            ledger: self.carrier.ledger.clone(),
            signals: self.carrier.signals.clone(),
            handing,
            job: self.grant.job,
            attempt: self.grant.attempt,
            run: self.run.context(),
            lease: self.lease.subscribe(),
        });
        let orders = self.entry.orders();
        let asked = self.place.begin(need, orders.freeze.clone());
        tokio::select! {
            ended = workshop.run(&self.grant, reports, orders, consent) => ended,
            never = self.give_way(slot, units, asked) => match never {},
        }
    }

    /// Waits for room. A live job that came to a full worker has room made for it, where that is possible.
    async fn find_room(&self, slot: &mut Slot, need: Need) {
        if slot.is_empty() && slot.hold(need.units).now_or_never().is_none() {
            let total_mb = self.carrier.workshop.ability().memory_mb;
            if let Some(room) = self.carrier.preemption.make_room(need, total_mb).await {
                *slot = room;
            }
        }
        slot.hold(need.units).await;
    }

    /// Freezes the attempt when a live job needs its room, and thaws it when there is room again.
    async fn give_way(
        &self,
        slot: &mut Slot,
        units: u32,
        mut asked: mpsc::Receiver<oneshot::Sender<Slot>>,
    ) -> Infallible {
        while let Some(room) = asked.recv().await {
            info!("the attempt is frozen to make room for a live job");
            metrics::counter!(names::WORKER_PREEMPTIONS).increment(1);
            self.entry.preempt(true);
            // If nobody takes the room, it is free.
            let _ = room.send(slot.cede());
            slot.hold(units).await;
            self.entry.preempt(false);
            info!("there is room again: the attempt is thawed");
        }
        pending().await
    }

    /// Repeats the claim of an attempt that began without an answer, until there is one.
    async fn confirm(&self, unanswered: Option<&ClaimRequest>) {
        let Some(request) = unanswered else { return };
        if *self.lease.borrow() != Lease::Asked {
            return;
        }
        let lease = match self.carrier.claims.confirm(request).await {
            Claim::Granted(grant) if grant.attempt == self.grant.attempt => {
                info!("a dispatcher answers again: the attempt has its lease");
                self.carrier.attempts.abandon_before(self.grant.job, self.grant.attempt);
                self.entry.leased();
                Lease::Held
            }
            Claim::Hold { pause, scope, reason } => {
                info!(reason, "the attempt that began without a lease gets none");
                Lease::HeldBack(pause, scope)
            }
            Claim::Drop(reason) => {
                info!(reason = reason.as_str(), "the attempt that began without a lease gets none");
                Lease::Dropped
            }
            // A grant of another number is not ours to run; its lease lapses.
            Claim::Granted(_) | Claim::Provisional(..) => Lease::Dropped,
        };
        if lease != Lease::Held {
            self.entry.stop(Stop::Abandon);
        }
        self.lease.send_replace(lease);
    }

    /// Whether it reads or feeds a live stream.
    fn is_live(&self) -> bool {
        self.grant.encode.as_ref().is_some_and(|encode| encode.live.is_some())
    }

    /// Hands back a live attempt that has no end as soon as the worker leaves: no time that it is given would do, and
    /// the sooner it ends here, the shorter nobody runs it.
    async fn leave_early(&self) {
        let is_endless = self
            .grant
            .encode
            .as_ref()
            .is_some_and(|encode| matches!(encode.source, Source::Live { .. }) && encode.duration_secs.is_none());
        if !is_endless {
            return;
        }
        self.carrier.drain.reached(Stage::Finishing).await;
        self.entry.stop(Stop::Release(Stop::DRAIN.into()));
    }

    /// Hands back an attempt whose tool goes on for a moment: the next one begins while this one still feeds the sinks.
    ///
    /// Invariant: whoever comes next is heard before the end is on record, and the end is on record before the lease is no
    /// longer renewed.
    async fn hand_over(&self, mut handings: mpsc::Receiver<HandingBack>) {
        let Some(HandingBack { reason, usage, over }) = handings.recv().await else { return };
        let may_linger = *self.lease.borrow() == Lease::Held && self.carrier.drain.stage() != Stage::Releasing;
        let asks = if may_linger {
            let subject = subjects::hand_over(self.grant.job);
            self.listen(&subject).await
        } else {
            None
        };
        if let Some(mut asks) = asks {
            let reported_and_asked = async {
                let event = self.event(Outcome::Released { reason }, usage);
                self.carrier.events.report(&event, self.run.context()).await;
                *self.hand_back() = HandBack::Reported(None);
                self.entry.handed_back();
                info!("handed back: it goes on until the next attempt takes over");
                let wanted = async {
                    loop {
                        match asks.next_request().await {
                            Some(request) if request.value.attempt > self.grant.attempt => return request,
                            Some(_) => {}
                            None => pending().await,
                        }
                    }
                };
                if let Ok(request) = timeout(LINGER, wanted).await {
                    *self.hand_back() = HandBack::Reported(Some(Box::new(request)));
                }
            };
            tokio::select! {
                () = reported_and_asked => {}
                () = self.carrier.drain.reached(Stage::Releasing) => {}
            }
        }
        let _ = over.send(());
    }

    /// Hears who wants the sinks, from now on: whoever comes next may ask as soon as the end is on record.
    async fn listen(&self, subject: &str) -> Option<Subscription<Request<TakeOver>>> {
        let heard = async {
            let asks = self.carrier.signals.serve(subject, self.carrier.me.worker.as_str()).await?;
            self.carrier.signals.round_trip(HEARD).await.map(|()| asks)
        };
        match heard.await {
            Ok(asks) => Some(asks),
            Err(error) => {
                debug!(%error, "nothing is handed over: nobody could ask for the sinks");
                None
            }
        }
    }

    /// Tells the next attempt, where it waits, that the sinks are its own.
    async fn let_go(&self) {
        let asked = match &mut *self.hand_back() {
            HandBack::No => None,
            HandBack::Reported(asked) => asked.take(),
        };
        if let Some(asked) = asked {
            let answer = JobAnswer { from: self.carrier.me.clone(), accepted: true, reason: None };
            if let Err(error) = asked.answer(&answer).await {
                debug!(%error, "the next attempt is not told that the sinks are free");
            }
        }
    }

    fn hand_back(&self) -> std::sync::MutexGuard<'_, HandBack> {
        self.hand_back.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn event(&self, outcome: Outcome, usage: Usage) -> Event {
        Event {
            id: Uuid::now_v7(),
            from: self.carrier.me.clone(),
            job: self.grant.job,
            attempt: self.grant.attempt,
            at: Timestamp::now(),
            usage: Some(usage),
            thumbnail: None,
            outcome,
        }
    }

    /// Ends a live attempt whose lease has not been renewed for too long. What others make twice for a while is told apart
    /// when they ask to publish; a live output would be sent twice.
    async fn fence(&self) {
        match self.grant.spec.queue {
            Queue::Live => {}
            Queue::Default | Queue::Batch if self.is_live() => {}
            Queue::Default | Queue::Batch => return,
        }
        // Before there is a lease, nobody else has the job.
        if self.lease.subscribe().wait_for(|&lease| lease == Lease::Held).await.is_err() {
            return;
        }
        let (mut beaten, granted) = (self.carrier.beaten.clone(), Instant::now());
        loop {
            let renewed = (*beaten.borrow_and_update()).max(granted);
            tokio::select! {
                // The beat first: where this task stood still for a while, the lease was renewed all the same.
                biased;
                // Without a heart the worker is at its end.
                beat = beaten.changed() => if beat.is_err() { return },
                () = sleep_until(renewed + self.carrier.live_fence) => {
                    warn!("the lease of a live attempt cannot be renewed: it ends");
                    return self.entry.stop(Stop::Release(Stop::FENCE.into()));
                }
            }
        }
    }

    /// Hands the delivery's duty to the ledger before the broker's acknowledgement timeout can bite, or when its
    /// channel is lost and the broker gives the job to somebody else.
    async fn keep_custody(&self, held: &mut Option<Delivery>) {
        let Some(delivery) = held.as_ref() else { return };
        tokio::select! {
            () = sleep(self.carrier.custody_after) => {}
            () = self.place.custody_wanted() => {}
            () = delivery.lost() => info!("the delivery's channel is lost, the attempt goes on"),
        }
        if self.lease.subscribe().wait_for(|&lease| lease == Lease::Held).await.is_err() {
            return;
        }
        match self.carrier.ledger.custody(self.grant.job, self.grant.attempt).await {
            CommitReply::Granted => {
                debug!("the delivery passes into the ledger's custody");
                if let Some(delivery) = held.take() {
                    acknowledge(delivery).await;
                }
                self.place.in_custody();
            }
            CommitReply::Refused { reason } => {
                warn!(reason, "the ledger takes no custody: the lease is lost");
                self.entry.stop(Stop::Abandon);
            }
        }
    }

    /// Sends progress at once when the phase changes, else at a moderate pace.
    async fn forward_progress(&self, mut reports: watch::Receiver<Option<Progress>>) {
        let subject = subjects::progress(self.grant.job);
        let mut sent: Option<(Instant, Progress)> = None;
        while reports.changed().await.is_ok() {
            if let Some((at, last)) = &sent {
                let new_phase = |now: &Option<Progress>| now.as_ref().is_some_and(|now| now.phase != last.phase);
                tokio::select! {
                    () = sleep_until(*at + PROGRESS_PAUSE) => {}
                    changed = reports.wait_for(new_phase) => if changed.is_err() { return },
                }
            }
            let Some(progress) = reports.borrow_and_update().clone() else { continue };
            // Lost is fine: the heartbeat carries the same.
            let _ = self.carrier.signals.publish(&subject, &progress).await;
            sent = Some((Instant::now(), progress));
        }
    }

    async fn forward_log(&self, lines: &mut mpsc::Receiver<LogLine>) {
        let subject = subjects::log(self.grant.job);
        while let Some(line) = lines.recv().await {
            debug!(target: TOOL_LOG, seq = line.seq, line = line.line);
            // Best effort by definition.
            let _ = self.carrier.signals.publish(&subject, &line).await;
        }
    }

    /// The attempt is over here: finds out whether it had a lease, then ends the delivery accordingly.
    async fn settle(self, held: Option<Delivery>, ended: Ended, unanswered: Option<&ClaimRequest>) {
        tokio::select! {
            biased;
            () = self.confirm(unanswered) => {}
            () = async {
                self.carrier.drain.reached(Stage::Releasing).await;
                sleep(CLAIM_GRACE).await;
            } => {}
        }
        let lease = *self.lease.borrow();
        match (lease, held) {
            (Lease::Held, held) => self.conclude(held, ended).await,
            (Lease::Dropped, Some(delivery)) => acknowledge(delivery).await,
            (Lease::HeldBack(pause, scope), Some(delivery)) => {
                self.carrier.hold_back(delivery, pause, scope, "the ledger holds the job back").await;
            }
            (Lease::Asked, Some(delivery)) => hand_back(delivery, "no dispatcher answered").await,
            (Lease::Dropped | Lease::HeldBack(..) | Lease::Asked, None) => {}
        }
    }

    /// Ends an attempt that held its lease.
    ///
    /// Invariant: the report is on record before the delivery is acknowledged, and the lease is renewed until then. If
    /// we die between the two, the redelivery is stale and nothing is lost. An attempt without an outcome lost its
    /// lease: whoever took it answers for the job, and there is nothing to report.
    async fn conclude(self, held: Option<Delivery>, ended: Ended) {
        self.count(&ended);
        let is_reported = matches!(*self.hand_back(), HandBack::Reported(_));
        let Ended { outcome, usage, thumbnail } = ended;
        let thumbnail = thumbnail.map(|thumbnail| thumbnail.written());
        let event = outcome.map(|outcome| Event { thumbnail, ..self.event(outcome, usage) });
        match &event {
            Some(_) | None if is_reported => info!("the attempt that was handed back has let go"),
            Some(event) => {
                self.carrier.events.report(event, self.run.context()).await;
                log_end(event);
            }
            None => info!("the attempt is abandoned"),
        }
        self.entry.ended();
        if let Some(delivery) = held {
            acknowledge(delivery).await;
        }
        spans::end_run(self.run, event.as_ref().map(|event| &event.outcome));
    }

    fn count(&self, ended: &Ended) {
        let outcome = ended.outcome.as_ref().map_or("abandoned", Outcome::name);
        metrics::counter!(names::WORKER_ATTEMPTS, "outcome" => outcome).increment(1);
        if let Some(Outcome::Released { reason }) = &ended.outcome {
            let reason = match reason.as_str() {
                Stop::DRAIN => "drain",
                Stop::FENCE => "lease",
                // Its words are those of the provider's notice.
                _ => "eviction",
            };
            metrics::counter!(names::WORKER_RELEASED, "reason" => reason).increment(1);
        }
        let wall = Duration::from_millis(ended.usage.wall_ms);
        metrics::histogram!(names::WORKER_ATTEMPT_SECONDS, "outcome" => outcome).record(wall);
        let (name, labels) = (names::WORKER_ATTEMPT_SECONDS, [("outcome", outcome)]);
        exemplify(name, &labels, wall.as_secs_f64(), self.run.context());
        let before = self.carrier.cpu_ms.fetch_add(ended.usage.cpu_ms, Ordering::Relaxed);
        let whole_seconds = (before + ended.usage.cpu_ms) / 1000 - before / 1000;
        metrics::counter!(names::WORKER_CPU_SECONDS).increment(whole_seconds);
        if matches!(ended.outcome, Some(Outcome::Finished { .. })) {
            metrics::counter!(names::WORKER_INPUT_BYTES).increment(ended.usage.input_bytes.unwrap_or(0));
            metrics::counter!(names::WORKER_OUTPUT_BYTES).increment(ended.usage.output_bytes.unwrap_or(0));
        }
    }
}

/// Asks the ledger for its consent to publish, once the attempt has its lease, and the attempts before and after for the sinks.
struct AskOthers {
    me: Sender,
    ledger: Ledger,
    signals: Signals,
    handing: mpsc::Sender<HandingBack>,
    job: JobId,
    attempt: u32,
    run: Context,
    lease: watch::Receiver<Lease>,
}

impl Consent for AskOthers {
    fn ask(&self) -> Pin<Box<dyn Future<Output = CommitReply> + Send + '_>> {
        Box::pin(async {
            let mut span = spans::ask_to_commit(self.run);
            let mut lease = self.lease.clone();
            let answered = pin!(lease.wait_for(|&lease| lease != Lease::Asked));
            let reply = match answered.await.map(|lease| *lease) {
                Ok(Lease::Held) => self.ledger.commit(self.job, self.attempt).await,
                Ok(Lease::Asked | Lease::Dropped | Lease::HeldBack(..)) | Err(_) => {
                    CommitReply::Refused { reason: "the attempt has no lease".into() }
                }
            };
            if let CommitReply::Refused { reason } = &reply {
                span.fail(reason.clone());
            }
            reply
        })
    }

    fn hand_over(&self, reason: &str, usage: Usage) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let reason = reason.to_owned();
        Box::pin(async {
            let (over, is_over) = oneshot::channel();
            if self.handing.send(HandingBack { reason, usage, over }).await.is_ok() {
                // Nobody who could tell is left: it ends as well.
                let _ = is_over.await;
            }
        })
    }

    fn take_over(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            let question = TakeOver { from: self.me.clone(), attempt: self.attempt };
            match self.signals.request::<_, JobAnswer>(&subjects::hand_over(self.job), &question, LET_GO).await {
                Ok(answer) => info!(worker = %answer.from.worker, "the attempt before has let go of the sinks"),
                Err(RequestError::NoResponders { .. }) => debug!("no attempt before this one feeds the sinks"),
                Err(error) => warn!(%error, "the attempt before does not say that it has let go of the sinks"),
            }
        })
    }
}

/// What every line of the log about an attempt carries.
fn log_span(grant: &Grant, run: Context) -> tracing::Span {
    let (job, attempt, queue) = (grant.job, grant.attempt, grant.spec.queue);
    info_span!("attempt", %job, attempt, %queue, trace_id = run.trace_id(), span_id = run.span_id())
}

async fn acknowledge(delivery: Delivery) {
    match delivery.ack().await {
        Settled::Done => {}
        Settled::Lost => debug!("the acknowledgement came too late; the redelivery will be dropped as stale"),
    }
}

async fn hand_back(delivery: Delivery, reason: &str) {
    debug!(queue = %delivery.work.name(), reason, "handed back");
    // Lost is as good: then the broker has it already.
    let _ = delivery.release().await;
}

async fn forget(delivery: Delivery, reason: DropReason) {
    debug!(queue = %delivery.work.name(), message_id = ?delivery.message_id, reason = reason.as_str(), "not needed");
    acknowledge(delivery).await;
}

fn log_end(event: &Event) {
    let outcome = event.outcome.name();
    match &event.outcome {
        Outcome::Finished { .. } | Outcome::Cancelled | Outcome::Split { .. } => info!(outcome, "the attempt ended"),
        Outcome::Failed { failure } => {
            info!(outcome, cause = %failure.cause, message = failure.message, evidence = failure.evidence, "the attempt ended");
        }
        Outcome::Rejected { faults } => info!(outcome, faults = faults.len(), "the attempt ended"),
        Outcome::Released { reason } => info!(outcome, reason, "the attempt ended"),
    }
}
