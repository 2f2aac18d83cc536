//! Finds a worker for jobs that the one with their delivery could not run: they are too large for it, need what it has
//! not, or must run alone while it is busy.
//!
//! The leader offers such a job to a worker that could run it. The worker takes no more until it has the room, and then
//! takes the job from the ledger. Where nobody takes an offer, the job is published again after a pause, as ever.
//!
//! Invariant: an offer is on record before it is made, and has a time after which the job is published again: whoever
//! dies, the job goes on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ffpool_broker::{RequestError, Signals};
use ffpool_schema::id::{JobId, WorkerId};
use ffpool_schema::lifecycle::{Input, Step};
use ffpool_schema::message::{Sender, WorkerAnswer, WorkerCommand};
use ffpool_schema::{scenario, subjects};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::fleet::Fleet;
use crate::ledger::{Evidence, Happening, Leadership, Ledger, Verdict, Wanted};

/// How often jobs are looked for that want a worker.
const LOOK: Duration = Duration::from_millis(250);
/// A worker answers an offer out of its memory.
const ANSWER: Duration = Duration::from_secs(1);
/// A worker that declined a job is not asked about it again for so long. Meanwhile others may have it.
const DECLINED_FOR: Duration = Duration::from_secs(10);

/// Offers jobs to workers, as the leader.
pub(crate) struct Placement {
    pub(crate) ledger: Ledger,
    pub(crate) signals: Signals,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) leadership: Leadership,
}

/// What became of an offer.
enum Offered {
    Accepted,
    Declined,
    /// The job wants no worker any more, or the ledger is away.
    Moot,
}

/// What the leader remembers of its offers. Forgotten with the lead.
#[derive(Default)]
struct Memory {
    declined: HashMap<(JobId, WorkerId), Instant>,
    /// Heartbeats tell of it soon after.
    accepted: HashMap<WorkerId, Instant>,
}

impl Memory {
    fn forget_what_is_old(&mut self) {
        self.declined.retain(|_, at| at.elapsed() < DECLINED_FOR);
        self.accepted.retain(|_, at| at.elapsed() < DECLINED_FOR);
    }

    /// Whether the worker declined the job, or accepted another one since it was heard.
    fn passes_over(&self, job: JobId, worker: &WorkerId, heard: Instant) -> bool {
        self.accepted.get(worker).is_some_and(|at| *at >= heard) || self.declined.contains_key(&(job, worker.clone()))
    }
}

impl Placement {
    /// Works until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut memory = Memory::default();
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return,
            }
            if !self.leadership.is_held() {
                memory = Memory::default();
                continue;
            }
            memory.forget_what_is_old();
            tokio::select! {
                () = self.place_all(&mut memory) => {}
                // An offer that is cut off here runs out.
                () = stop.cancelled() => return,
            }
        }
    }

    async fn place_all(&self, memory: &mut Memory) {
        match self.ledger.wanted().await {
            Ok(wanted) => {
                for wanted in wanted {
                    self.place(&wanted, memory).await;
                }
            }
            Err(error) => debug!(%error, "jobs that want a worker were not looked for"),
        }
    }

    async fn place(&self, wanted: &Wanted, memory: &mut Memory) {
        if self.ledger.queue_is_paused(wanted.spec.queue).is_some() {
            return;
        }
        let Ok(encode) = scenario::resolve(&wanted.spec) else { return };
        for (worker, heard) in self.fleet.able(&wanted.spec, encode.as_ref(), wanted.alone) {
            if memory.passes_over(wanted.job, &worker.worker, heard) {
                continue;
            }
            match self.offer(wanted, &worker).await {
                Offered::Accepted => {
                    memory.accepted.insert(worker.worker, Instant::now());
                    return;
                }
                Offered::Declined => {
                    memory.declined.insert((wanted.job, worker.worker), Instant::now());
                }
                Offered::Moot => return,
            }
        }
    }

    async fn offer(&self, wanted: &Wanted, to: &Sender) -> Offered {
        if !self.note(wanted.job, Input::Offer { to: to.clone() }, None).await {
            return Offered::Moot;
        }
        let Wanted { job, ref spec, alone } = *wanted;
        let offer = WorkerCommand::Offer { job, alone, spec: Box::new(spec.clone()) };
        let subject = subjects::control_worker(&to.worker);
        let answer = self.signals.request::<_, WorkerAnswer>(&subject, &offer, ANSWER).await;
        let declined = match answer {
            Ok(answer) if answer.yes && answer.from == *to => {
                let slots = answer.slots.map_or_else(|| "there is room".to_owned(), until_free);
                info!(%job, worker = %to.worker, slots = answer.slots, "a worker keeps room for a job that others could not run");
                let reason = format!("offered to worker {}, which waits until {slots}", to.worker);
                self.note(job, Input::OfferAccepted { by: to.clone() }, Some(reason)).await;
                return Offered::Accepted;
            }
            Ok(answer) if answer.from == *to => answer.reason.unwrap_or_else(|| "it gave no reason".to_owned()),
            Ok(_) => "it was started anew meanwhile".to_owned(),
            Err(RequestError::NoResponders { .. }) => "it is gone".to_owned(),
            // It may have accepted: then its next heartbeat names the job, and it is told to forget it.
            Err(error @ (RequestError::Timeout { .. } | RequestError::Decode { .. } | RequestError::Link { .. })) => {
                error.to_string()
            }
        };
        debug!(%job, worker = %to.worker, declined, "an offer was declined");
        let reason = Some(format!("worker {} declined it: {declined}", to.worker));
        self.note(job, Input::OfferDeclined { by: to.clone() }, reason).await;
        Offered::Declined
    }

    /// Records what became of an offer. Answers whether the job was as it was believed to be.
    async fn note(&self, job: JobId, input: Input, reason: Option<String>) -> bool {
        let happening =
            Happening { evidence: Evidence { reason, ..Evidence::default() }, ..Happening::new(job, input) };
        match self.ledger.apply(happening).await {
            Ok(Verdict::Decided(decided)) => matches!(decided.step, Step::Move(_)),
            Ok(Verdict::Unknown | Verdict::Skipped) => false,
            Err(error) => {
                debug!(%job, %error, "an offer was not recorded");
                false
            }
        }
    }
}

fn until_free(slots: u32) -> String {
    if slots == 1 { "1 slot is free".to_owned() } else { format!("{slots} slots are free") }
}
