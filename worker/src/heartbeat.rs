//! Says every second that the worker lives, and which leases it holds.
//!
//! Invariant: heartbeats have a thread, a runtime and a NATS connection to themselves, so that nothing the worker does
//! for its jobs can hold one up; the last one says `stopped`. While the worker finds out what it can do it has no jobs, so those
//! that say `starting` need none of that.

#![expect(unsafe_code, reason = "a thread has no priority in the standard library")]

use std::time::Duration;

use ffpool_broker::{BrokerError, Signals};
use ffpool_schema::job::Pool;
use ffpool_schema::message::{Ability, Capacity, Heartbeat, Sender, WorkerState, revision};
use ffpool_schema::{metrics as names, subjects};
use jiff::Timestamp;
use nix::libc;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::attempts::Attempts;
use crate::drain::{Drain, Stage};
use crate::offers::Offers;
use crate::slots::Slots;

/// Between two heartbeats. A lease lapses after several times this.
pub const PERIOD: Duration = Duration::from_secs(1);
/// Between two heartbeats when attempts begin one after the other.
const GAP: Duration = Duration::from_millis(500);
/// How often a connection that is down is looked at, to beat as soon as it stands.
const LOOK: Duration = Duration::from_millis(20);
/// The last heartbeat may take so long to leave.
const LAST: Duration = Duration::from_secs(1);
/// How the kernel prefers the thread to the tools, where we may ask for it.
const NICE: libc::c_int = -10;

/// What a worker says of itself as long as it lives.
pub struct Presence {
    /// Who it is.
    pub me: Sender,
    /// Host name.
    pub host: String,
    /// The pools served.
    pub pools: Vec<Pool>,
}

impl Presence {
    /// Says every second that the worker starts, until `opening` is over: what came of that, and how many heartbeats it took.
    /// A worker that does not start says at once that it has stopped.
    pub async fn announced_while<T, E>(
        &self,
        signals: &Signals,
        opening: impl Future<Output = Result<T, E>>,
    ) -> Result<(T, u64), E> {
        let subject = subjects::heartbeat(&self.me.worker);
        let mut seq = 0;
        let announcing = async {
            loop {
                let heartbeat = self.heartbeat(seq, WorkerState::Starting);
                seq += 1;
                let sent = send(signals, &subject, &heartbeat).await;
                if sent {
                    tokio::time::sleep(PERIOD).await;
                } else {
                    tokio::time::sleep(LOOK).await;
                    connected(signals).await;
                }
            }
        };
        let opened = tokio::select! {
            opened = opening => opened,
            never = announcing => never,
        };
        if opened.is_err() && seq > 0 {
            send(signals, &subject, &self.heartbeat(seq, WorkerState::Stopped)).await;
            let _ = signals.flush(LAST).await;
        }
        opened.map(|opened| (opened, seq))
    }

    /// One that names neither room nor abilities nor leases.
    fn heartbeat(&self, seq: u64, state: WorkerState) -> Heartbeat {
        Heartbeat {
            from: self.me.clone(),
            seq,
            at: Timestamp::now(),
            host: self.host.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            pools: self.pools.clone(),
            state,
            capacity: Capacity::default(),
            ability: Ability::default(),
            running: Vec::new(),
            revision: revision::CURRENT,
            reserved: None,
        }
    }
}

/// What heartbeats are made of.
pub struct Pulse {
    /// Who speaks.
    pub presence: Presence,
    /// What the worker can run, as last looked at.
    pub ability: watch::Receiver<Ability>,
    /// Room as last read; `used` is filled in here.
    pub capacity: watch::Receiver<Capacity>,
    /// Slots in use.
    pub slots: Slots,
    /// The leases.
    pub attempts: Attempts,
    /// The state.
    pub drain: Drain,
    /// What it keeps room for.
    pub offers: Offers,
    /// How many were sent while the worker started.
    pub first_seq: u64,
    /// When a heartbeat was last sent.
    pub beaten: watch::Sender<Instant>,
}

/// The thread that beats. Dropping it ends the heartbeats without a last word, as a crash would.
pub struct Heart {
    stop: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Heart {
    /// Starts to beat.
    ///
    /// # Errors
    /// When the NATS URL cannot be used.
    ///
    /// # Panics
    /// When the system has no thread left.
    pub fn start(nats_url: &str, pulse: Pulse) -> Result<Heart, BrokerError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime needs an epoll descriptor, and the process has just started");
        let (stop, stopped) = oneshot::channel();
        let (name, url) = (format!("{} heartbeat", pulse.presence.me.worker), nats_url.to_owned());
        let (opened, ready) = std::sync::mpsc::channel();
        let beat = move || {
            prefer_this_thread();
            runtime.block_on(async move {
                match Signals::open(&url, &name).await {
                    Ok(signals) => {
                        let _ = opened.send(Ok(()));
                        pulse.beat(&signals, stopped).await;
                    }
                    Err(error) => {
                        let _ = opened.send(Err(error));
                    }
                }
            });
        };
        let thread = std::thread::Builder::new().name("heartbeat".into()).spawn(beat).expect("a thread can be started");
        ready.recv().expect("the thread answers before it ends")?;
        Ok(Heart { stop, thread })
    }

    /// Sends the last heartbeat and ends the thread.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            warn!("the heartbeat thread panicked");
        }
    }
}

impl Pulse {
    async fn beat(&self, signals: &Signals, mut stopped: oneshot::Receiver<()>) {
        let subject = subjects::heartbeat(&self.presence.me.worker);
        for seq in self.first_seq.. {
            let began = Instant::now();
            let sent = self.send(signals, &subject, &self.heartbeat(seq, self.state())).await;
            let news = async {
                tokio::time::sleep(GAP).await;
                self.attempts.news().await;
            };
            tokio::select! {
                // Dropped without a word: the worker is gone.
                last = &mut stopped => {
                    if last.is_ok() {
                        self.last(signals, &subject, seq + 1).await;
                    }
                    return;
                }
                () = tokio::time::sleep_until(began + PERIOD) => {}
                () = news => {}
                () = connected(signals), if !sent => {}
            }
        }
    }

    async fn send(&self, signals: &Signals, subject: &str, heartbeat: &Heartbeat) -> bool {
        let sent = send(signals, subject, heartbeat).await;
        if sent {
            self.beaten.send_replace(Instant::now());
        }
        sent
    }

    async fn last(&self, signals: &Signals, subject: &str, seq: u64) {
        self.send(signals, subject, &self.heartbeat(seq, WorkerState::Stopped)).await;
        if let Err(error) = signals.flush(LAST).await {
            info!(%error, "the last heartbeat may be lost; the ledger will find out by the silence");
        }
    }

    fn state(&self) -> WorkerState {
        match self.drain.stage() {
            Stage::Serving => WorkerState::Ready,
            Stage::Finishing | Stage::FinishingInTime | Stage::Releasing => WorkerState::Draining,
        }
    }

    fn heartbeat(&self, seq: u64, state: WorkerState) -> Heartbeat {
        let mut capacity = self.capacity.borrow().clone();
        capacity.used = self.slots.used();
        Heartbeat {
            capacity,
            ability: self.ability.borrow().clone(),
            running: self.attempts.leases(),
            reserved: self.offers.reserved(),
            ..self.presence.heartbeat(seq, state)
        }
    }
}

/// Sends one, if there is a connection.
async fn send(signals: &Signals, subject: &str, heartbeat: &Heartbeat) -> bool {
    let sent = signals.publish(subject, heartbeat).await;
    let outcome = if sent.is_ok() { "sent" } else { "failed" };
    metrics::counter!(names::WORKER_HEARTBEATS, "outcome" => outcome).increment(1);
    if let Err(error) = &sent {
        debug!(%error, "a heartbeat was not sent");
    }
    sent.is_ok()
}

async fn connected(signals: &Signals) {
    while !signals.is_up() {
        tokio::time::sleep(LOOK).await;
    }
}

/// Lets the thread run before the tools when the processors are busy.
fn prefer_this_thread() {
    // SAFETY: two plain system calls without pointers; the id is that of this thread.
    let refused = unsafe { libc::setpriority(libc::PRIO_PROCESS, libc::gettid().cast_unsigned(), NICE) } != 0;
    if refused {
        debug!("no right to prefer the heartbeat thread; it competes with the tools as an equal");
    }
}
