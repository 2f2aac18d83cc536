//! Signs of life: heartbeats renew leases, and this dispatcher's own echo proves that it hears them.
//!
//! Every dispatcher hears every heartbeat, and the leader writes them down: so a dispatcher that is frozen cannot swallow
//! the heartbeats of others. Silence counts as a worker's silence only while the leader itself hears and writes without
//! a gap: its own echo came back over NATS and what came with it was committed, see [`Hearing`].
//!
//! Invariant: an outage of NATS, of Postgres or of this process never ends a lease.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ffpool_broker::{Signals, Subscription};
use ffpool_schema::message::{Heartbeat, LogLine};
use ffpool_schema::{metrics as names, subjects};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::control;
use crate::fleet::Fleet;
use crate::ledger::{Beats, Leadership, Ledger, Outdated};

/// How often renewals are written.
const WRITE: Duration = Duration::from_millis(250);
/// A longer time without a proof is a gap.
const GAP: Duration = Duration::from_millis(1_500);
/// Log lines written together at most.
const LOG_BATCH: usize = 500;
/// How long log lines are collected.
const LOG_WAIT: Duration = Duration::from_millis(250);

/// Since when the leader has heard and written heartbeats without a gap.
#[derive(Clone, Default)]
pub(crate) struct Hearing {
    /// First and last proof without a gap between. Written by the task of [`Renewer::run`].
    proven: Arc<Mutex<Option<(Instant, Instant)>>>,
    /// When that task last went round.
    turned: Arc<Mutex<Option<Instant>>>,
}

impl Hearing {
    /// Whether heartbeats have been heard and written without a gap for `span`, up to now.
    pub(crate) fn is_unbroken_for(&self, span: Duration) -> bool {
        let proven = self.proven.lock().expect("no holder panics");
        proven.is_some_and(|(first, last)| last.elapsed() < GAP && last.duration_since(first) >= span)
    }

    /// What was heard up to `heard` is written.
    fn prove(&self, heard: Instant) {
        let mut proven = self.proven.lock().expect("no holder panics");
        *proven = Some(match *proven {
            Some((first, last)) if heard.saturating_duration_since(last) < GAP => (first, heard),
            Some(_) | None => (heard, heard),
        });
    }

    /// When the task that hears them last went round, once it has begun.
    pub(crate) fn last_turn(&self) -> Option<Instant> {
        *self.turned.lock().expect("no holder panics")
    }

    fn turn(&self) {
        *self.turned.lock().expect("no holder panics") = Some(Instant::now());
    }

    fn forget(&self) {
        *self.proven.lock().expect("no holder panics") = None;
    }
}

/// Hears heartbeats and renews leases.
pub(crate) struct Renewer {
    pub(crate) ledger: Ledger,
    pub(crate) signals: Signals,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) leadership: Leadership,
    pub(crate) hearing: Hearing,
    /// Takes heartbeats whose leases are renewed, to draw the curves of their attempts: [`draw_curves`].
    pub(crate) curves: mpsc::Sender<Beats>,
}

impl Renewer {
    /// Works until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let echo_subject = subjects::echo(Uuid::now_v7());
        let mut heartbeats: Subscription<Heartbeat> = self.signals.subscribe(subjects::HEARTBEATS).await?;
        let mut echoes: Subscription<u64> = self.signals.subscribe(&echo_subject).await?;
        let mut tick = tokio::time::interval(WRITE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beats = Beats::default();
        let mut heard = None;
        let mut said = false;
        for seq in 0_u64.. {
            self.hearing.turn();
            // Collects until the next tick.
            loop {
                tokio::select! {
                    beat = heartbeats.next() => match beat {
                        Some(beat) => {
                            metrics::counter!(names::HEARTBEATS_HEARD).increment(1);
                            self.fleet.hear(&beat);
                            beats.take(beat);
                        }
                        None => return Ok(()),
                    },
                    echo = echoes.next() => match echo {
                        Some(_) => heard = Some(Instant::now()),
                        None => return Ok(()),
                    },
                    _ = tick.tick() => break,
                    () = stop.cancelled() => return Ok(()),
                }
            }
            if let Err(error) = self.signals.publish(&echo_subject, &seq).await {
                debug!(%error, "the own echo was not sent");
            }
            if !self.leadership.is_held() {
                beats = Beats::default();
                self.hearing.forget();
                continue;
            }
            match self.ledger.renew(&beats).await {
                Ok(Outdated { ended, not_offered }) => {
                    // Nobody waits for curves: while some are drawn these are left out, and each worker tells again within a second.
                    let _ = self.curves.try_send(std::mem::take(&mut beats));
                    if let Some(heard) = heard.take() {
                        self.hearing.prove(heard);
                    }
                    for tell in ended {
                        info!(job = %tell.job, attempt = tell.attempt, "a worker still runs an attempt that has ended");
                        control::send(&self.signals, &tell).await;
                    }
                    for (job, worker) in not_offered {
                        control::withdraw(&self.signals, job, &worker).await;
                    }
                    said = false;
                }
                // The beats are kept: the next ones of the same workers replace them.
                Err(error) if !said => {
                    warn!(%error, "leases are not renewed, so none will end");
                    said = true;
                }
                Err(_) => {}
            }
        }
        Ok(())
    }
}

/// Draws the curves of attempts until `stop`, best effort.
pub(crate) async fn draw_curves(ledger: Ledger, mut beats: mpsc::Receiver<Beats>, stop: CancellationToken) {
    while let Some(Some(beats)) = stop.run_until_cancelled(beats.recv()).await {
        if let Err(error) = ledger.draw(&beats).await {
            debug!(%error, "curves were not drawn");
        }
    }
}

/// Writes the tools' log lines down until `stop`, best effort.
pub(crate) async fn keep_log(ledger: Ledger, signals: Signals, stop: CancellationToken) -> anyhow::Result<()> {
    let mut lines: Subscription<LogLine> = signals.queue_subscribe(subjects::LOGS, subjects::DISPATCHERS).await?;
    loop {
        let first = tokio::select! {
            line = lines.next() => line,
            () = stop.cancelled() => None,
        };
        let Some(first) = first else { return Ok(()) };
        let mut batch = vec![first];
        let until = tokio::time::Instant::now() + LOG_WAIT;
        while batch.len() < LOG_BATCH
            && let Ok(Some(line)) = tokio::time::timeout_at(until, lines.next()).await
        {
            batch.push(line);
        }
        if let Err(error) = ledger.append_log(&batch).await {
            warn!(%error, lines = batch.len(), "log lines of tools were lost");
        }
    }
}
