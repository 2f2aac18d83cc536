//! What a dispatcher shows of itself and, while it leads, of the ledger and the broker.
//!
//! Invariant: what only the leader knows falls to zero with the lead, and what is no longer there falls to zero too, so that a
//! sum over dispatchers is right. A question that fails leaves the last answer standing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ffpool_broker::{AmqpLink, Signals, queue_depth};
use ffpool_schema::advice::Wishes;
use ffpool_schema::job::{Pool, Priority, Queue};
use ffpool_schema::lifecycle::State;
use ffpool_schema::message::WorkerState;
use ffpool_schema::metrics as names;
use ffpool_schema::topology::{DEAD_QUEUE, EVENTS_QUEUE, LEDGER_QUEUE, UNROUTABLE_QUEUE, WorkQueue};
use metrics::{counter, gauge};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::fleet::Fleet;
use crate::heartbeats::Hearing;
use crate::ledger::{Leadership, Ledger, OpenJobs, Unavailable};
use crate::scaling::Scaling;

/// How often jobs, workers, links and queues are counted.
const COUNT: Duration = Duration::from_secs(5);
/// How often Postgres is asked how large it is: it looks at every file.
const SIZE: Duration = Duration::from_secs(60);
/// Where jobs of a pool are counted that is none of the operator's: what a job says names no series.
const OTHER_POOL: &str = "other";

/// The gauges of one dispatcher.
pub(crate) struct Gauges {
    pub(crate) ledger: Ledger,
    pub(crate) signals: Signals,
    pub(crate) amqp: AmqpLink,
    pub(crate) leadership: Leadership,
    pub(crate) hearing: Hearing,
    pub(crate) fleet: Arc<Fleet>,
    /// The operator's pools.
    pub(crate) pools: Vec<Pool>,
    pub(crate) scaling: Arc<Scaling>,
}

impl Gauges {
    /// Keeps them until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let works: Vec<WorkQueue> = self.pools.iter().flat_map(WorkQueue::of_pool).collect();
        tokio::join!(
            async {
                let mut tick = ticker(COUNT);
                while next(&mut tick, &stop).await {
                    self.show_this_dispatcher();
                    self.show_ledger().await;
                    self.show_advice().await;
                }
            },
            async {
                let mut tick = ticker(COUNT);
                while next(&mut tick, &stop).await {
                    self.show_queues(&works).await;
                }
            },
            async {
                let mut tick = ticker(SIZE);
                while next(&mut tick, &stop).await {
                    self.show_size().await;
                }
            },
        );
    }

    fn show_this_dispatcher(&self) {
        let flag = |is_so: bool| f64::from(u8::from(is_so));
        gauge!(names::LINK_UP, "server" => "amqp").set(flag(self.amqp.is_up()));
        gauge!(names::LINK_UP, "server" => "nats").set(flag(self.signals.is_up()));
        let generation = self.amqp.watch().borrow().generation;
        for (server, connections) in [("amqp", generation), ("nats", self.signals.connections())] {
            counter!(names::LINK_CONNECTIONS, "server" => server).absolute(connections);
        }
        let hears = self.leadership.is_held() && self.hearing.is_unbroken_for(Duration::ZERO);
        gauge!(names::HEARING).set(flag(hears));
        gauge!(names::HEARTBEAT_AGE_SECONDS).set(self.fleet.longest_silence().as_secs_f64());
        for queue in Queue::ALL {
            let is_paused = self.ledger.queue_is_paused(queue).is_some();
            gauge!(names::QUEUE_PAUSED, "queue" => queue.as_str()).set(flag(is_paused));
        }
        let load = self.ledger.load();
        gauge!(names::LEDGER_WAITING).set(load.waiting as f64);
        gauge!(names::LEDGER_STUCK).set(load.stuck as f64);
        for (purpose, connections) in [("read", load.readers), ("write", load.writers)] {
            let shown = |state: &'static str, count: usize| {
                gauge!(names::POSTGRES_CONNECTIONS, "use" => purpose, "state" => state).set(count as f64);
            };
            shown("used", connections.used);
            shown("idle", connections.idle);
            gauge!(names::POSTGRES_CONNECTIONS_MAX, "use" => purpose).set(connections.max as f64);
            gauge!(names::POSTGRES_WAITING, "use" => purpose).set(connections.waiting as f64);
        }
    }

    async fn show_ledger(&self) {
        let leads = self.leadership.is_held();
        let counted = if leads { self.count().await } else { Ok(Counted::default()) };
        let postgres = counted.is_ok() && (leads || self.ledger.health().await.postgres.is_ok());
        gauge!(names::LINK_UP, "server" => "postgres").set(f64::from(u8::from(postgres)));
        match counted {
            Ok(counted) => {
                show_jobs(&counted.jobs, &self.pools);
                show_workers(&counted.workers);
                #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
                gauge!(names::CALLBACKS_WAITING).set(counted.callbacks as f64);
            }
            Err(error) => debug!(%error, "jobs and workers were not counted"),
        }
    }

    async fn show_advice(&self) {
        for pool in &self.pools {
            let advised = match self.leadership.is_held() {
                true => {
                    let advice = self.scaling.advise_one(pool, &Wishes::of(self.scaling.targets)).await;
                    advice.map(|it| (it.desired_workers, it.ready_workers))
                }
                false => Ok((0, 0)),
            };
            match advised {
                Ok((desired, ready)) => {
                    gauge!(names::SCALE_DESIRED_WORKERS, "pool" => pool.to_string()).set(f64::from(desired));
                    gauge!(names::SCALE_READY_WORKERS, "pool" => pool.to_string()).set(f64::from(ready));
                }
                Err(error) => debug!(%error, %pool, "nobody could say how many workers the pool needs"),
            }
        }
    }

    async fn count(&self) -> Result<Counted, Unavailable> {
        Ok(Counted {
            jobs: self.ledger.count_open_jobs().await?,
            workers: self.ledger.count_workers().await?,
            callbacks: self.ledger.count_callbacks().await?,
        })
    }

    async fn show_queues(&self, works: &[WorkQueue]) {
        let services = [LEDGER_QUEUE, EVENTS_QUEUE, DEAD_QUEUE, UNROUTABLE_QUEUE];
        // A work queue's name, where it and its twin are counted.
        let mut shown: Vec<(String, String)> = services.map(|name| (name.to_owned(), name.to_owned())).into();
        for work in works {
            shown.extend([work.name(), work.returned_name()].map(|name| (work.name(), name)));
        }
        let mut ready: BTreeMap<&str, u64> = shown.iter().map(|(queue, _)| (queue.as_str(), 0)).collect();
        if self.leadership.is_held() {
            let asked: Vec<String> = shown.iter().map(|(_, name)| name.clone()).collect();
            let depths = match queue_depth(&self.amqp, &asked).await {
                Ok(depths) => depths,
                Err(error) => {
                    debug!(error = %ffpool_runtime::settings::chain(&error), "queues were not counted");
                    return;
                }
            };
            for ((queue, _), depth) in shown.iter().zip(depths) {
                *ready.entry(queue).or_default() += depth.map_or(0, |depth| u64::from(depth.ready));
            }
        }
        for (queue, count) in ready {
            #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
            gauge!(names::BROKER_MESSAGES, "queue" => queue.to_owned()).set(count as f64);
        }
    }

    async fn show_size(&self) {
        let size = if self.leadership.is_held() { self.ledger.database_bytes().await } else { Ok(0) };
        match size {
            #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
            Ok(bytes) => gauge!(names::DATABASE_BYTES).set(bytes as f64),
            Err(error) => debug!(%error, "Postgres did not tell its size"),
        }
    }
}

/// What the leader counts in the ledger.
#[derive(Default)]
struct Counted {
    jobs: Vec<OpenJobs>,
    workers: Vec<(String, i64)>,
    callbacks: i64,
}

/// Sets every series, so that one without rows falls to zero.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
fn show_jobs(open: &[OpenJobs], pools: &[Pool]) {
    let known: BTreeSet<&str> = pools.iter().map(Pool::as_str).collect();
    let mut counts: BTreeMap<(&str, &str, &str, &str), i64> = BTreeMap::new();
    for state in State::ALL.into_iter().filter(|state| !state.is_end()) {
        for queue in Queue::ALL {
            for priority in Priority::ALL {
                for pool in known.iter().copied().chain([OTHER_POOL]) {
                    counts.insert((state.as_str(), queue.as_str(), priority.as_str(), pool), 0);
                }
            }
        }
    }
    for group in open {
        let pool = known.get(group.pool.as_str()).copied().unwrap_or(OTHER_POOL);
        *counts.entry((&group.state, &group.queue, &group.priority, pool)).or_default() += group.count;
    }
    for ((state, queue, priority, pool), count) in counts {
        let labels = [("state", state), ("queue", queue), ("priority", priority), ("pool", pool)]
            .map(|(label, value)| metrics::Label::new(label, value.to_owned()));
        gauge!(names::JOBS, labels.to_vec()).set(count as f64);
    }
    for queue in Queue::ALL {
        let of_queue = open.iter().filter(|group| group.queue == queue.as_str());
        let oldest = of_queue.filter_map(|group| group.oldest_secs).fold(0.0, f64::max);
        gauge!(names::OLDEST_WAITING_SECONDS, "queue" => queue.as_str()).set(oldest);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
fn show_workers(counts: &[(String, i64)]) {
    for state in WorkerState::ALL {
        let count = counts.iter().find(|(s, _)| s == state.as_str()).map_or(0, |(_, count)| *count);
        gauge!(names::WORKERS, "state" => state.as_str()).set(count as f64);
    }
}

fn ticker(period: Duration) -> Interval {
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

/// False at `stop`.
async fn next(tick: &mut Interval, stop: &CancellationToken) -> bool {
    tokio::select! {
        _ = tick.tick() => true,
        () = stop.cancelled() => false,
    }
}
