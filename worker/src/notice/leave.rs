//! Obeys notices: stops the intake, keeps what fits before the deadline, hands back the rest.
//!
//! Invariant: a deadline only comes nearer, and when nothing may run any more everything has been told to stop. How the
//! worker ends after that is the drain's affair.

use std::time::Duration;

use ffpool_schema::metrics as names;
use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use super::fit::{self, Need, Verdict};
use super::{Eviction, Kind, Lookout, Notice};
use crate::attempts::Attempts;
use crate::drain::{Drain, Stage};
use crate::workshop::Stop;

/// Before the deadline everything is over: reports are on record, the worker has signed off.
const RESERVE: Duration = Duration::from_secs(5);
/// Between two looks at what runs.
const LOOK: Duration = Duration::from_secs(1);
/// An attempt that has not said how long it takes may do so for so long after the notice.
const SAYS_WITHIN: Duration = Duration::from_secs(5);

/// Watches for notices and obeys them, as long as the worker lives.
pub struct Leaving {
    task: JoinHandle<()>,
    end: tokio::sync::oneshot::Sender<bool>,
}

impl Leaving {
    /// Begins to watch. An attempt that is told to stop may take `stop_grace`.
    #[must_use]
    pub fn start(eviction: Eviction, attempts: Attempts, drain: Drain, stop_grace: Duration) -> Leaving {
        let (end, ended) = tokio::sync::oneshot::channel();
        let heeds_rebalance = eviction.heeds_rebalance;
        let task = tokio::spawn(async move {
            let mut lookout = Lookout::start(eviction);
            let mut departure = Departure {
                attempts,
                drain,
                heeds_rebalance,
                reserve: RESERVE + stop_grace,
                seen: Vec::new(),
                due: None,
            };
            let may_go = tokio::select! {
                may_go = ended => may_go.unwrap_or(false),
                () = departure.heed(&mut lookout) => false,
            };
            lookout.end(may_go).await;
        });
        Leaving { task, end }
    }

    /// Ends the watch after the worker has drained. `may_go`: the provider need not wait for this machine any longer.
    pub async fn end(self, may_go: bool) {
        // The task ends only after this word.
        let _ = self.end.send(may_go);
        if let Err(error) = self.task.await {
            warn!(%error, "the watch for eviction notices ended by a panic; please report it");
        }
    }
}

/// The way out, as far as notices show it.
struct Departure {
    attempts: Attempts,
    drain: Drain,
    heeds_rebalance: bool,
    /// Before the deadline, for stopping tools, reporting and leaving.
    reserve: Duration,
    /// Each notice is told once.
    seen: Vec<Notice>,
    due: Option<Due>,
}

/// When the machine goes.
struct Due {
    deadline: Timestamp,
    reason: String,
    /// Time is counted from here, so that a clock that jumps meanwhile does not matter.
    noticed: (Timestamp, Instant),
}

impl Due {
    fn now(&self) -> Timestamp {
        let (at, since) = &self.noticed;
        let passed = SignedDuration::try_from(since.elapsed()).unwrap_or(SignedDuration::MAX);
        at.saturating_add(passed).unwrap_or(Timestamp::MAX)
    }
}

impl Departure {
    async fn heed(&mut self, lookout: &mut Lookout) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                notice = lookout.next() => self.hear(notice),
                _ = looks.tick(), if self.due.is_some() => {}
            }
            if let Some(due) = &self.due {
                self.sort(due);
            }
        }
    }

    fn hear(&mut self, notice: Notice) {
        // The deadline may be of the moment, the words are of the notice.
        if self.seen.iter().any(|seen| (seen.provider, &seen.evidence) == (notice.provider, &notice.evidence)) {
            return;
        }
        metrics::counter!(names::WORKER_EVICTIONS, "provider" => notice.provider.as_str()).increment(1);
        let reason = notice.to_string();
        match notice.kind {
            Kind::Rebalance if !self.heeds_rebalance => info!("{reason}; not heeded by setting"),
            Kind::Rebalance => {
                warn!("{reason}; taking no more work");
                self.drain.advance(Stage::Finishing, &reason);
            }
            Kind::Evict { deadline } => {
                let noticed = (Timestamp::now(), Instant::now());
                warn!(%deadline, running = self.attempts.count(), "{reason}");
                if self.due.as_ref().is_none_or(|due| deadline < due.deadline) {
                    self.due = Some(Due { deadline, reason: reason.clone(), noticed });
                }
                // First, so that what does not end in time is handed back for the notice, and a live job not for the drain.
                if let Some(due) = &self.due {
                    self.sort(due);
                }
                self.drain.advance(Stage::Finishing, &reason);
            }
        }
        self.seen.push(notice);
    }

    /// Hands back what does not end in time; everything, when the time is over.
    fn sort(&self, due: &Due) {
        let now = due.now();
        if fit::time_left(due.deadline, now, self.reserve).is_zero() {
            self.attempts.release_all(&due.reason);
            self.drain.advance(Stage::Releasing, &due.reason);
            return;
        }
        for running in self.attempts.running() {
            let need = match fit::need(running.progress.as_ref()) {
                Need::Unknown if due.noticed.1.elapsed() < SAYS_WITHIN => Need::Little,
                need @ (Need::Unknown | Need::About(_) | Need::Little) => need,
            };
            match fit::fits(need, due.deadline, now, self.reserve) {
                Verdict::Keep => {}
                Verdict::Release => {
                    // Told again each second until it is gone; only the first time counts.
                    let _ = self.attempts.stop(running.job, running.attempt, Stop::Release(due.reason.clone()));
                }
            }
        }
    }
}
