//! Load on a private pool while everything in it dies in turn, and the proof that nothing was lost or doubled.
//!
//! A round goes through every fault in an order that the seed gives, then the next round begins. After the load the run
//! waits until every job has ended, and lets [`crate::audit`] judge.

mod cloud;
mod fault;
mod figures;
pub(crate) mod load;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ffpool_stack::Stack;
use tokio::sync::watch;

use crate::audit::{self, AuditArgs};
use crate::pool::{Pool, PoolSettings};
use cloud::Cloud;
pub use fault::Fault;
use fault::{Dice, Injected, Return, Times, inject};
pub use figures::{Custody, FaultFigures, Waste};

/// How often it is looked whether a part has ended by itself.
const WATCH: Duration = Duration::from_millis(100);
/// How long a fault waits for an encode that it can hurt.
const VICTIM_WAIT: Duration = Duration::from_secs(5);

/// What is done to the pool.
#[derive(Debug, Clone, clap::Args)]
pub struct ChaosArgs {
    /// Minutes of load and faults. The first round of faults is always done to its end.
    #[arg(long, default_value_t = 3.0)]
    pub minutes: f64,
    /// Gives the order of the faults, their victims and how long they last.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Which faults, separated by commas. Default: all.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub faults: Vec<Fault>,
    /// No-op jobs per second, whatever becomes of the pool.
    #[arg(long, default_value_t = 20.0)]
    pub jobs_per_second: f64,
    /// Encodes of one to three seconds, per second.
    #[arg(long, default_value_t = 0.7)]
    pub encodes_per_second: f64,
    /// Seconds of film in each encode. Default: 20, 40 and 60 in turn.
    #[arg(long, value_name = "SECS")]
    pub encode_length: Option<f64>,
    /// What each encode may use of a processor, in per cent.
    #[arg(long, value_name = "PERCENT", default_value_t = 50)]
    pub encode_cpu_percent: u32,
    /// Workers.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub workers: u32,
    /// Attempts that each worker runs at once.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub slots: u32,
    /// Dispatchers.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub dispatchers: u32,
    /// Acknowledgement timeout of RabbitMQ, in seconds. Default: a week.
    #[arg(long, value_name = "SECS")]
    pub ack_timeout_secs: Option<u64>,
    /// Seconds from one fault to the next. A fault that lasts longer delays the next.
    #[arg(long, value_name = "SECS", default_value_t = 5.0)]
    pub interval: f64,
    /// Do not wait until RabbitMQ or Postgres is back before the next fault.
    #[arg(long)]
    pub overlap: bool,
    /// Lease of the attempts, in seconds.
    #[arg(long, value_name = "SECS", default_value_t = 5)]
    pub lease_secs: u32,
    /// Seconds that a killed server stays away. Default: up to 4, as the seed says.
    #[arg(long, value_name = "SECS")]
    pub outage_secs: Option<u64>,
    /// Seconds after the load in which every job must end and everything be cleaned up.
    #[arg(long, value_name = "SECS", default_value_t = 300)]
    pub settle_secs: u64,
    /// Keep the publisher's record here. Default: it goes with the pool.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ChaosReport {
    /// The seed.
    pub seed: u64,
    /// How long the load lasted, in seconds.
    pub load_seconds: f64,
    /// How long it took until the audit had nothing to say any more, in seconds.
    pub settle_seconds: f64,
    /// Jobs that were due and not sent, because too many waited for their confirm.
    pub left_out: usize,
    /// What each kind of fault cost.
    pub faults: Vec<FaultFigures>,
    /// Work that was thrown away.
    pub waste: Waste,
    /// What the ledger took over from the broker.
    pub custody: Custody,
    /// What the audit found.
    pub audit: audit::Report,
    /// Whatever else is wrong: a good job that did not complete, a part that ended by itself.
    pub wrong: Vec<String>,
}

impl Default for ChaosArgs {
    /// As on the command line without any flag.
    fn default() -> ChaosArgs {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: ChaosArgs,
        }
        <Line as clap::Parser>::parse_from(["chaos"]).args
    }
}

impl ChaosReport {
    /// Whether nothing was lost, doubled or stuck, and nothing else is wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.audit.is_clean() && self.wrong.is_empty()
    }
}

impl fmt::Display for ChaosReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {}, {:.0} s of load, settled after {:.1} s, {} jobs not sent for want of confirms",
            self.seed, self.load_seconds, self.settle_seconds, self.left_out
        )?;
        writeln!(
            f,
            "{:18} {:>5} {:>8} {:>12} {:>7} {:>6} {:>20}",
            "fault", "times", "running", "interrupted", "failed", "alone", "restart p50 / p99"
        )?;
        for figures in &self.faults {
            let restart = match (figures.restart_p50_ms, figures.restart_p99_ms) {
                (Some(p50), Some(p99)) => format!("{:.2} s / {:.2} s", p50 / 1e3, p99 / 1e3),
                _ => "-".to_owned(),
            };
            writeln!(
                f,
                "{:18} {:>5} {:>8} {:>12} {:>7} {:>6} {restart:>20}",
                figures.fault.name(),
                figures.injected,
                figures.running,
                figures.interrupted,
                figures.failed,
                figures.alone
            )?;
        }
        let slowest = |figures: &FaultFigures| Some((figures.fault.name(), figures.slowest.clone()?));
        for (fault, story) in self.faults.iter().filter_map(slowest) {
            writeln!(f, "slowest after {fault}: {story}")?;
        }
        writeln!(
            f,
            "thrown away: {} attempts; {:.1} CPU s in those that could tell, {:.1} s of wall time in {} that could not",
            self.waste.attempts, self.waste.cpu_seconds, self.waste.unreported_wall_seconds, self.waste.unreported
        )?;
        writeln!(
            f,
            "longest attempt {:.1} s; {} deliveries passed into the ledger's custody",
            self.custody.longest_attempt_seconds, self.custody.taken
        )?;
        write!(f, "{}", self.audit)?;
        self.wrong.iter().try_for_each(|wrong| writeln!(f, "wrong     {wrong}"))
    }
}

/// Runs load and faults on a private stack. Must be called from a runtime's `block_on`: the processes of the pool end with
/// the thread that started them.
///
/// # Errors
/// When the stack or the pool does not start, or a server does not come back.
pub async fn run(args: &ChaosArgs) -> anyhow::Result<ChaosReport> {
    let mut servers = Stack::builder();
    if let Some(secs) = args.ack_timeout_secs {
        servers = servers.consumer_timeout(Duration::from_secs(secs));
    }
    let stack = tokio::task::spawn_blocking(|| servers.start()).await?.context("start the servers")?;
    // The pool wants its servers for the life of the process; the stack's watchdog ends them with it.
    let stack: &'static Stack = Box::leak(Box::new(stack));
    let clouds = futures_util::future::try_join_all((0..args.workers).map(|_| Cloud::start())).await?;
    let mut pool = start(stack, &clouds, args).await?;
    let audit = AuditArgs {
        record: args.record.clone().unwrap_or_else(|| pool.directory().join("record.jsonl")),
        database_url: pool.database_url.clone(),
        media_roots: vec![pool.media.clone()],
        scratch: (0..pool.workers.len()).map(|number| pool.scratch(number)).collect(),
        exclusive: true,
        settle_secs: args.settle_secs,
    };
    let (stop, stopped) = watch::channel(false);
    let rate = load::Rate {
        jobs: args.jobs_per_second,
        encodes: args.encodes_per_second,
        length: args.encode_length,
        cpu_percent: args.encode_cpu_percent,
    };
    let load = tokio::spawn(load::run(pool.amqp_url.clone(), pool.media.clone(), audit.record.clone(), rate, stopped));
    let begin = Instant::now();
    let mut wrong = Vec::new();
    let injected = faults(args, &mut pool, stack, &clouds, begin, &mut wrong).await?;
    let load_seconds = begin.elapsed().as_secs_f64();
    stop.send_replace(true);
    let settling = Instant::now();
    let sent = load.await??;
    let judged = tokio::task::spawn_blocking({
        let audit = audit.clone();
        move || audit::run(&audit)
    });
    let judged = watching(&mut pool, &mut wrong, judged).await???;
    let settle_seconds = settling.elapsed().as_secs_f64();
    wrong.extend(injected.iter().filter_map(|one| one.wrong.clone()));
    wrong.extend(figures::unhappy(&pool.database_url).await?);
    let faults = figures::faults(&pool.database_url, &injected).await?;
    for figures in faults.iter().filter(|figures| figures.failed > 0 && !figures.fault.may_fail()) {
        wrong.push(format!("{} counted {} failures", figures.fault.name(), figures.failed));
    }
    if !judged.is_clean() || !wrong.is_empty() {
        eprintln!("{}", pool.logs());
    }
    let report = ChaosReport {
        seed: args.seed,
        load_seconds,
        settle_seconds,
        left_out: sent.left_out,
        faults,
        waste: figures::waste(&pool.database_url).await?,
        custody: figures::custody(&pool.database_url).await?,
        audit: judged,
        wrong,
    };
    drop(pool);
    tokio::task::block_in_place(|| {
        stack.rabbit.kill();
        stack.nats.stop();
        stack.postgres.stop();
    });
    Ok(report)
}

async fn start(stack: &'static Stack, clouds: &[Cloud], args: &ChaosArgs) -> anyhow::Result<Pool> {
    let slots = args.slots.to_string();
    let worker = |settings: PoolSettings, cloud: &Cloud| {
        settings.worker(&[
            ("FFPOOL_ALLOW_NOOP", "true"),
            ("FFPOOL_SLOTS", &slots),
            // A drained worker is not to finish what it runs: it is to hand it back.
            ("FFPOOL_DRAIN_SECS", "0"),
            ("FFPOOL_STOP_GRACE_SECS", "2"),
            ("FFPOOL_EVICTION", "azure"),
            ("FFPOOL_EVICTION_URL", &cloud.url()),
        ])
    };
    let settings = clouds
        .iter()
        .fold(PoolSettings::default(), worker)
        .dispatcher("FFPOOL_LEASE_SECS", &args.lease_secs.to_string())
        .dispatcher("FFPOOL_BACKOFF_BASE_SECS", "0.5")
        .dispatcher("FFPOOL_BACKOFF_CAP_SECS", "2")
        // Here it is never the job that kills its workers.
        .dispatcher("FFPOOL_LOSS_LIMIT", "1000");
    let mut pool = Pool::start(stack, settings).await?;
    for _ in 1..args.dispatchers {
        pool.add_dispatcher().await?;
    }
    Ok(pool)
}

/// Injects round after round until the time is over.
async fn faults(
    args: &ChaosArgs,
    pool: &mut Pool,
    stack: &'static Stack,
    clouds: &[Cloud],
    begin: Instant,
    wrong: &mut Vec<String>,
) -> anyhow::Result<Vec<Injected>> {
    let mut dice = Dice::new(args.seed);
    let kinds = if args.faults.is_empty() { Fault::ALL.to_vec() } else { args.faults.clone() };
    let (time, interval) = (Duration::from_secs_f64(args.minutes * 60.0), Duration::from_secs_f64(args.interval));
    let times = Times {
        lease: Duration::from_secs(args.lease_secs.into()),
        outage: args.outage_secs.map(Duration::from_secs),
        victim: if args.encodes_per_second > 0.0 { VICTIM_WAIT } else { Duration::ZERO },
    };
    let mut injected = Vec::new();
    let mut away: BTreeMap<Fault, Return> = BTreeMap::new();
    watching(pool, wrong, tokio::time::sleep(interval)).await?;
    loop {
        let mut round = kinds.clone();
        dice.shuffle(&mut round);
        for fault in round {
            if begin.elapsed() > time && injected.len() >= kinds.len() {
                for back in std::mem::take(&mut away).into_values() {
                    watching(pool, wrong, back).await???;
                }
                return Ok(injected);
            }
            if away.get(&fault).is_some_and(|back| !back.is_finished()) {
                // It cannot be killed before it lives. Another takes its turn.
                watching(pool, wrong, tokio::time::sleep(WATCH)).await?;
                continue;
            }
            if let Some(back) = away.remove(&fault) {
                back.await??;
            }
            let next = Instant::now() + interval;
            let (one, back) = inject(fault, pool, stack, clouds, times, &mut dice).await?;
            match back {
                Some(back) if args.overlap => drop(away.insert(fault, back)),
                Some(back) => watching(pool, wrong, back).await???,
                None => {}
            }
            let (at, lasted) = (begin.elapsed().as_secs_f64(), (next - interval).elapsed().as_secs_f64());
            eprintln!("{at:7.1} s  {:18} lasted {lasted:4.1} s, met {} encodes", fault.name(), one.hit.len());
            injected.push(one);
            watching(pool, wrong, tokio::time::sleep_until(next.into())).await?;
        }
    }
}

/// Waits, and meanwhile starts again whatever ended by itself, as a service manager would. That it ended is told.
async fn watching<T>(pool: &mut Pool, wrong: &mut Vec<String>, until: impl Future<Output = T>) -> anyhow::Result<T> {
    let mut until = std::pin::pin!(until);
    loop {
        for number in 0..pool.workers.len() {
            if let Some(status) = pool.workers[number].ended() {
                wrong.push(format!("worker {number} ended by itself: {status}\n{}", pool.workers[number].log_tail()));
                pool.respawn_worker(number)?;
            }
        }
        for number in 0..pool.dispatchers.len() {
            if let Some(status) = pool.dispatchers[number].ended() {
                let log = pool.dispatchers[number].log_tail();
                wrong.push(format!("dispatcher {number} ended by itself: {status}\n{log}"));
                pool.respawn_dispatcher(number)?;
            }
        }
        tokio::select! {
            done = &mut until => return Ok(done),
            () = tokio::time::sleep(WATCH) => {}
        }
    }
}
