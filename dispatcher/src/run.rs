//! One dispatcher as a set of tasks: started in order, stopped in order.
//!
//! Two handles for two stops: `intake` ends what brings work in; when that has finished what it had in hand, `work` ends
//! the rest. Dropping a [`Dispatcher`] ends everything on the spot, as a crash would.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use ffpool_broker::{AmqpConfig, AmqpLink, BrokerError, Publisher, Signals, declare_topology};
use ffpool_runtime::metrics::Exposition;
use ffpool_runtime::tls::{LinkCertificates, Server, warn_of_plain_links};
use ffpool_schema::topology::Topology;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::api::{self, App};
use crate::callbacks::Courier;
use crate::claims::Desk;
use crate::control;
use crate::families;
use crate::fleet::Fleet;
use crate::gauges::Gauges;
use crate::heartbeats::{self, Hearing, Renewer};
use crate::intake::{Intake, Source};
use crate::ledger::{Leadership, Ledger, Unavailable};
use crate::metrics_endpoint;
use crate::outbox::Postman;
use crate::placement::Placement;
use crate::scaling::Scaling;
use crate::schedules;
use crate::settings::Settings;
use crate::timers::Timers;
use crate::vitals::{self, Vitals};

/// For each of the two parts of a stop.
const STOP: Duration = Duration::from_secs(10);
/// Between attempts to reach a server at the start, after which the log says again what is waited for.
const WAIT: Duration = Duration::from_secs(5);
/// For the ledger to say who publishes for whom.
const LEARN: Duration = Duration::from_secs(60);
/// Between two tries at what is not ready.
const AGAIN: Duration = Duration::from_secs(1);
/// One look at heartbeats is drawn; those that come meanwhile are left out, as curves may have gaps.
const CURVES_AT_ONCE: usize = 1;

/// A running dispatcher.
pub struct Dispatcher {
    api_addr: SocketAddr,
    ledger: Ledger,
    leadership: Leadership,
    amqp: AmqpLink,
    intake: CancellationToken,
    work: CancellationToken,
    /// Brings work in. Ends at `intake`.
    bringers: JoinSet<()>,
    /// Everything else. Ends at `work`.
    workers: JoinSet<()>,
}

impl Dispatcher {
    /// Waits for the three servers, prepares them and starts to work. Without an `exposition` no metrics are served.
    ///
    /// # Errors
    /// When a setting, an address or what stands on a server cannot be used.
    pub async fn start(settings: &Settings, exposition: Option<Exposition>) -> anyhow::Result<Dispatcher> {
        let links: [(&str, Server, &str); 3] = [
            ("FFPOOL_AMQP_URL", Server::Amqp, &settings.amqp_url),
            ("FFPOOL_NATS_URL", Server::Nats, &settings.nats_url),
            ("FFPOOL_DATABASE_URL", Server::Postgres, &settings.database_url),
        ];
        // Of the link to Postgres the ledger warns itself.
        warn_of_plain_links(&links[..2]);
        let certificates = LinkCertificates::read(&links);
        let api = bind(settings.api.api_addr, "the API").await?;
        let metrics = match &exposition {
            Some(_) => Some(bind(settings.metrics_addr, "the metrics").await?),
            None => None,
        };
        let api_addr = api.local_addr().context("read the API's own address")?;
        let door = settings.api.door(api_addr).context("secure the API")?;

        let amqp = AmqpLink::open(AmqpConfig::new(&settings.amqp_url, "ffpool-dispatcher"));
        let publisher = Publisher::open(AmqpConfig::new(&settings.amqp_url, "ffpool-dispatcher-publish"));
        let signals = Signals::open(&settings.nats_url, "ffpool-dispatcher").await.context("FFPOOL_NATS_URL")?;
        let ledger = Ledger::open(&settings.ledger()?).await?;
        install_keys(&ledger, settings.bootstrap_key.as_deref()).await?;
        prepare_broker(&amqp, settings).await?;
        until_signals_are_up(&signals).await;

        let (intake, work) = (CancellationToken::new(), CancellationToken::new());
        let (leadership, standing) = ledger.stand_for_leader(work.clone());
        let fleet = Arc::new(Fleet::new());
        let hearing = Hearing::default();
        let serves = watch::Sender::new(false);
        let vitals = Vitals::new(hearing.clone(), serves.subscribe());
        let mut bringers = JoinSet::new();
        let mut workers = JoinSet::new();

        workers.spawn(AbortOnDrop(standing).joined());
        let stop = work.clone();
        workers.spawn(async move {
            stop.run_until_cancelled(certificates.watch()).await;
        });
        // Before the first message is read.
        learn_publishers(&ledger).await.context("read who publishes for which tenant")?;
        workers.spawn(ledger.clone().watch_queues(work.clone()));
        workers.spawn(control::pass_on(signals.clone(), ledger.tells(), work.clone()));
        let postman =
            Postman { ledger: ledger.clone(), publisher, leadership: leadership.clone(), fleet: fleet.clone() };
        workers.spawn(postman.run(work.clone()));
        let placement = Placement {
            ledger: ledger.clone(),
            signals: signals.clone(),
            fleet: fleet.clone(),
            leadership: leadership.clone(),
        };
        workers.spawn(placement.run(work.clone()));
        let families = families::follow(ledger.clone(), leadership.clone(), settings.parent_failure, work.clone());
        workers.spawn(families);
        let (curves, beats) = mpsc::channel(CURVES_AT_ONCE);
        workers.spawn(heartbeats::draw_curves(ledger.clone(), beats, work.clone()));
        let renewer = Renewer {
            ledger: ledger.clone(),
            signals: signals.clone(),
            fleet: fleet.clone(),
            leadership: leadership.clone(),
            hearing: hearing.clone(),
            curves,
        };
        let stop = work.clone();
        workers.spawn(async move { report("heartbeats", renewer.run(stop).await) });
        let log = heartbeats::keep_log(ledger.clone(), signals.clone(), work.clone());
        workers.spawn(async move { report("log lines", log.await) });
        let courier = Courier { ledger: ledger.clone(), leadership: leadership.clone(), rules: settings.callbacks()? };
        workers.spawn(courier.run(work.clone()));
        workers.spawn(schedules::follow(ledger.clone(), leadership.clone(), work.clone()));
        let scaling = Scaling::new(ledger.clone(), settings.scale.targets());
        let gauges = Gauges {
            ledger: ledger.clone(),
            signals: signals.clone(),
            amqp: amqp.clone(),
            leadership: leadership.clone(),
            hearing: hearing.clone(),
            fleet: fleet.clone(),
            pools: settings.pools.clone(),
            scaling: scaling.clone(),
        };
        let timers = Timers {
            ledger: ledger.clone(),
            signals: signals.clone(),
            amqp: amqp.clone(),
            leadership: leadership.clone(),
            hearing,
            fleet: fleet.clone(),
            retention: settings.retention(),
        };
        workers.spawn(timers.run(work.clone()));
        workers.spawn(gauges.run(work.clone()));
        for source in Source::ALL {
            let one = Intake { ledger: ledger.clone(), source, pools: settings.pools.clone() };
            bringers.spawn(one.run(amqp.clone(), intake.clone()));
        }
        let desk = Desk { ledger: ledger.clone(), signals: signals.clone(), fleet, unfit: settings.unfit, serves };
        let stop = intake.clone();
        bringers.spawn(async move { report("claims", Arc::new(desk).serve(stop).await) });
        let app = App::new(ledger.clone(), amqp.clone(), signals)
            .with_vitals(vitals.clone())
            .with_scaling(scaling)
            .with_trace_url(settings.api.trace_url.clone())
            .with_limits(settings.throttle());
        workers.spawn(vitals::keep_told(app.clone(), vitals, intake.clone(), work.clone()));
        workers.spawn(api::keep_refusals_told(app.clone(), work.clone()));
        if let (Some(exposition), Some(listener)) = (exposition, metrics) {
            workers.spawn(metrics_endpoint::serve(listener, exposition, app.clone(), work.clone()));
        }
        let served = api::serve_through(door, api, app, intake.clone().cancelled_owned());
        bringers.spawn(async move { report("the API", served.await.map_err(anyhow::Error::from)) });

        info!(api = %api_addr, "the dispatcher works");
        Ok(Dispatcher { api_addr, ledger, leadership, amqp, intake, work, bringers, workers })
    }

    /// Where the API listens.
    #[must_use]
    pub fn api_addr(&self) -> SocketAddr {
        self.api_addr
    }

    /// The ledger.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Whether this dispatcher runs the timers.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.leadership.is_held()
    }

    /// Ends only when a task ends that should not: then the dispatcher is of no more use.
    pub async fn failed(&mut self) -> anyhow::Error {
        let ended = tokio::select! {
            Some(ended) = self.bringers.join_next() => ended,
            Some(ended) = self.workers.join_next() => ended,
        };
        match ended {
            Ok(()) => anyhow::anyhow!("a part of the dispatcher ended; the log says why"),
            Err(error) => anyhow::anyhow!("a part of the dispatcher failed: {error}"),
        }
    }

    /// Takes no more, finishes what is in hand, gives up the lead and closes the links.
    pub async fn stop(mut self) {
        self.intake.cancel();
        join("intake", &mut self.bringers).await;
        self.work.cancel();
        join("work", &mut self.workers).await;
        self.amqp.close().await;
        info!("the dispatcher has stopped");
    }
}

async fn bind(addr: SocketAddr, what: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).await.with_context(|| format!("listen on {addr} for {what}"))
}

async fn install_keys(ledger: &Ledger, bootstrap: Option<&str>) -> anyhow::Result<()> {
    if let Some(minted) = ledger.install_keys(bootstrap).await.context("prepare the API's keys")? {
        // The only time that anybody sees it.
        eprintln!("The first key of the API, an administrator's. Keep it, it is not shown again:\n{}", minted.text());
    }
    Ok(())
}

/// Learns who publishes for which tenant. Tries again for a while: on a machine where everything starts at once a connection may
/// take longer than one is waited for.
async fn learn_publishers(ledger: &Ledger) -> Result<(), Unavailable> {
    let until = tokio::time::Instant::now() + LEARN;
    loop {
        match ledger.read_publishers().await {
            Err(error) if tokio::time::Instant::now() < until => {
                warn!(%error, "waiting for the ledger");
                tokio::time::sleep(AGAIN).await;
            }
            learnt => return learnt,
        }
    }
}

/// Waits for RabbitMQ and declares what must exist there. An object of other properties is a matter for a person.
async fn prepare_broker(amqp: &AmqpLink, settings: &Settings) -> anyhow::Result<()> {
    let topology = Topology::for_pools(&settings.pools);
    loop {
        if let Err(error) = amqp.connected(WAIT).await {
            warn!(error = %ffpool_runtime::settings::chain(&error), "waiting for RabbitMQ");
            continue;
        }
        match declare_topology(amqp, &topology).await {
            Ok(()) => return Ok(()),
            Err(
                error @ (BrokerError::Url { .. } | BrokerError::Inequivalent { .. } | BrokerError::Forbidden { .. }),
            ) => {
                return Err(error).context("declare queues and exchanges on RabbitMQ");
            }
            Err(error) => {
                warn!(error = %ffpool_runtime::settings::chain(&error), "RabbitMQ is not ready, trying again");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// Waits for NATS for a while only: without it no worker can claim, but jobs are recorded all the same.
async fn until_signals_are_up(signals: &Signals) {
    let bound = tokio::time::Instant::now() + WAIT;
    while !signals.is_up() {
        if tokio::time::Instant::now() > bound {
            warn!("NATS does not answer yet; jobs are recorded, but no worker can claim one");
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn report(part: &str, ended: anyhow::Result<()>) {
    if let Err(error) = ended {
        error!("{part}: {error:#}");
    }
}

async fn join(part: &str, tasks: &mut JoinSet<()>) {
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP, all).await.is_err() {
        warn!(part, left = tasks.len(), "not everything stopped within {STOP:?}; what is left is done again by others");
        tasks.shutdown().await;
    }
}

/// A task that ends with whoever waits for it.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl AbortOnDrop {
    async fn joined(mut self) {
        // A panic in it is reported by the runtime; either way it has ended.
        let _ = (&mut self.0).await;
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
