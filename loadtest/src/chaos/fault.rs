//! What can be done to a pool: each fault by name, with its victim chosen by the seed.
//!
//! Invariant: whatever is taken away is given back. A worker and a dispatcher are started again at once and not waited for;
//! RabbitMQ and Postgres come back in the background, and whoever injects decides whether to wait.

use std::time::Duration;

use anyhow::Context as _;
use ffpool_stack::Stack;
use jiff::Timestamp;
use nix::sys::signal::{Signal, kill};
use tokio::task::JoinHandle;

use super::cloud::Cloud;
use super::figures::{self, Running};
use crate::pool::{Part, Pool};
use crate::processes;

const POLL: Duration = Duration::from_millis(50);
/// How long a drained worker may take: its drain time, the tools' grace, and a busy machine.
const DRAIN_BOUND: Duration = Duration::from_secs(60);

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// SIGKILL to a worker, which is started again under its name at once or soon.
    WorkerKill,
    /// SIGSTOP to a worker and all its tools for longer than the lease, then SIGCONT.
    WorkerFreeze,
    /// SIGTERM to a worker that may not finish what it runs; it must exit with 0.
    WorkerDrain,
    /// The machine of a worker is announced to be taken away in 30 s; the worker must be gone by then, with 0.
    #[value(name = "evict-30")]
    #[serde(rename = "evict-30")]
    Evict30,
    /// The same with 120 s.
    #[value(name = "evict-120")]
    #[serde(rename = "evict-120")]
    Evict120,
    /// SIGKILL to an FFmpeg.
    ToolKill,
    /// SIGKILL to a dispatcher, which is started again soon.
    DispatcherKill,
    /// SIGSTOP to a dispatcher for some seconds.
    DispatcherFreeze,
    /// SIGKILL to RabbitMQ, which comes back after some seconds.
    RabbitKill,
    /// RabbitMQ restarted in good order.
    RabbitRestart,
    /// SIGKILL to NATS, which comes back after some seconds.
    NatsKill,
    /// NATS silent with open sockets for some seconds.
    NatsPause,
    /// SIGKILL to Postgres, which comes back after some seconds.
    PostgresKill,
    /// Postgres restarted in good order.
    PostgresRestart,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 14] = [
        Fault::WorkerKill,
        Fault::WorkerFreeze,
        Fault::WorkerDrain,
        Fault::Evict30,
        Fault::Evict120,
        Fault::ToolKill,
        Fault::DispatcherKill,
        Fault::DispatcherFreeze,
        Fault::RabbitKill,
        Fault::RabbitRestart,
        Fault::NatsKill,
        Fault::NatsPause,
        Fault::PostgresKill,
        Fault::PostgresRestart,
    ];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Fault::WorkerKill => "worker-kill",
            Fault::WorkerFreeze => "worker-freeze",
            Fault::WorkerDrain => "worker-drain",
            Fault::Evict30 => "evict-30",
            Fault::Evict120 => "evict-120",
            Fault::ToolKill => "tool-kill",
            Fault::DispatcherKill => "dispatcher-kill",
            Fault::DispatcherFreeze => "dispatcher-freeze",
            Fault::RabbitKill => "rabbit-kill",
            Fault::RabbitRestart => "rabbit-restart",
            Fault::NatsKill => "nats-kill",
            Fault::NatsPause => "nats-pause",
            Fault::PostgresKill => "postgres-kill",
            Fault::PostgresRestart => "postgres-restart",
        }
    }

    /// Whether an attempt that it meets may count as a failure of its job. Only a tool that dies by itself looks like one:
    /// nobody can tell that it was not the job's doing.
    pub(super) fn may_fail(self) -> bool {
        match self {
            Fault::ToolKill => true,
            Fault::WorkerKill
            | Fault::WorkerFreeze
            | Fault::WorkerDrain
            | Fault::Evict30
            | Fault::Evict120
            | Fault::DispatcherKill
            | Fault::DispatcherFreeze
            | Fault::RabbitKill
            | Fault::RabbitRestart
            | Fault::NatsKill
            | Fault::NatsPause
            | Fault::PostgresKill
            | Fault::PostgresRestart => false,
        }
    }
}

/// Numbers from a seed: SplitMix64, written out so that a seed means the same faults in every version.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.next() % count.max(1) as u64).expect("a remainder of a usize is one")
    }

    /// Between two lengths of time.
    fn between(&mut self, least: f64, most: f64) -> Duration {
        Duration::from_secs_f64(least + (most - least) * (self.below(1_001) as f64 / 1_000.0))
    }

    pub(super) fn shuffle<T>(&mut self, all: &mut [T]) {
        for place in (1..all.len()).rev() {
            all.swap(place, self.below(place + 1));
        }
    }
}

/// A fault as it happened.
#[derive(Debug, Clone)]
pub(super) struct Injected {
    pub(super) fault: Fault,
    pub(super) at: Timestamp,
    /// The attempts that ran on the victim when it struck.
    pub(super) hit: Vec<Running>,
    /// What is wrong already, such as a drain that did not end with 0.
    pub(super) wrong: Option<String>,
}

/// How long things last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) lease: Duration,
    /// How long a killed server stays away; absent, the dice say.
    pub(super) outage: Option<Duration>,
    /// How long a fault waits for an encode that it can hurt.
    pub(super) victim: Duration,
}

/// A server on its way back.
pub(super) type Return = JoinHandle<anyhow::Result<()>>;

/// Does it to the pool. Must be called on the thread that the pool's processes belong to.
pub(super) async fn inject(
    fault: Fault,
    pool: &mut Pool,
    stack: &'static Stack,
    clouds: &[Cloud],
    times: Times,
    dice: &mut Dice,
) -> anyhow::Result<(Injected, Option<Return>)> {
    let lease = times.lease;
    let number = match fault {
        Fault::WorkerKill
        | Fault::WorkerFreeze
        | Fault::WorkerDrain
        | Fault::Evict30
        | Fault::Evict120
        | Fault::ToolKill => worker(pool, times.victim, dice).await?,
        Fault::DispatcherKill | Fault::DispatcherFreeze => dice.below(pool.dispatchers.len()),
        Fault::RabbitKill
        | Fault::RabbitRestart
        | Fault::NatsKill
        | Fault::NatsPause
        | Fault::PostgresKill
        | Fault::PostgresRestart => 0,
    };
    let victim = pool.worker_id(number);
    let mut hit = match fault {
        Fault::WorkerKill | Fault::WorkerFreeze | Fault::WorkerDrain | Fault::Evict30 | Fault::Evict120 => {
            let mut running = figures::running(&pool.database_url).await?;
            running.retain(|attempt| attempt.worker == victim);
            running
        }
        Fault::ToolKill => Vec::new(),
        Fault::DispatcherKill
        | Fault::DispatcherFreeze
        | Fault::RabbitKill
        | Fault::RabbitRestart
        | Fault::NatsKill
        | Fault::NatsPause
        | Fault::PostgresKill
        | Fault::PostgresRestart => figures::running(&pool.database_url).await?,
    };
    let at = Timestamp::now();
    let (mut wrong, mut returns) = (None, None);
    match fault {
        Fault::WorkerKill => {
            pool.workers[number].kill();
            // At once, or late enough that another has taken over.
            tokio::time::sleep(if dice.below(2) == 0 { Duration::ZERO } else { dice.between(0.5, 3.0) }).await;
            pool.respawn_worker(number)?;
        }
        Fault::WorkerFreeze => freeze(&pool.workers[number], lease + dice.between(2.0, 4.0)).await,
        Fault::WorkerDrain => {
            pool.workers[number].signal(Signal::SIGTERM);
            wrong = drained(&mut pool.workers[number], DRAIN_BOUND).await;
            pool.respawn_worker(number)?;
        }
        Fault::Evict30 => wrong = evict(pool, clouds, number, Duration::from_secs(30)).await?,
        Fault::Evict120 => wrong = evict(pool, clouds, number, Duration::from_secs(120)).await?,
        Fault::ToolKill => hit = kill_tool(pool, number, times.victim).await?,
        Fault::DispatcherKill => {
            pool.dispatchers[number].kill();
            tokio::time::sleep(dice.between(0.0, 2.0)).await;
            pool.respawn_dispatcher(number)?;
        }
        Fault::DispatcherFreeze => {
            let time = dice.between(2.0, lease.as_secs_f64() + 3.0);
            freeze(&pool.dispatchers[number], time).await;
        }
        Fault::RabbitKill => {
            tokio::task::block_in_place(|| stack.rabbit.kill());
            let outage = times.outage.unwrap_or(dice.between(0.0, 4.0));
            returns = Some(comes_back(outage, || Ok(stack.rabbit.restart()?)));
        }
        Fault::RabbitRestart => returns = Some(comes_back(Duration::ZERO, || Ok(stack.rabbit.restart()?))),
        Fault::NatsKill => {
            tokio::task::block_in_place(|| pool.nats().kill());
            tokio::time::sleep(times.outage.unwrap_or(dice.between(0.0, 4.0))).await;
            tokio::task::block_in_place(|| pool.nats().restart())?;
        }
        Fault::NatsPause => {
            tokio::task::block_in_place(|| pool.nats().pause());
            tokio::time::sleep(dice.between(1.0, lease.as_secs_f64() + 3.0)).await;
            tokio::task::block_in_place(|| pool.nats().resume());
        }
        Fault::PostgresKill => {
            tokio::task::block_in_place(|| stack.postgres.kill());
            let outage = times.outage.unwrap_or(dice.between(0.0, 4.0));
            returns = Some(comes_back(outage, || Ok(stack.postgres.restart()?)));
        }
        Fault::PostgresRestart => returns = Some(comes_back(Duration::ZERO, || Ok(stack.postgres.restart()?))),
    }
    Ok((Injected { fault, at, hit, wrong }, returns))
}

fn comes_back(outage: Duration, restart: impl FnOnce() -> anyhow::Result<()> + Send + 'static) -> Return {
    tokio::spawn(async move {
        tokio::time::sleep(outage).await;
        tokio::task::spawn_blocking(restart).await?
    })
}

/// Announces the end of a worker's machine and sees that the worker has left by then.
async fn evict(pool: &mut Pool, clouds: &[Cloud], number: usize, notice: Duration) -> anyhow::Result<Option<String>> {
    clouds[number].announce(notice);
    let wrong = drained(&mut pool.workers[number], notice).await;
    clouds[number].forget();
    pool.respawn_worker(number)?;
    Ok(wrong)
}

/// A worker that runs the first attempt of something, if there is one soon; else one that runs anything; else any. A job
/// that loses worker after worker is run alone and parked in the end, and that is another story.
async fn worker(pool: &Pool, wait: Duration, dice: &mut Dice) -> anyhow::Result<usize> {
    let end = tokio::time::Instant::now() + wait;
    let first = dice.below(pool.workers.len());
    let mut second_choice = first;
    while tokio::time::Instant::now() < end {
        let running = figures::running(&pool.database_url).await?;
        let in_turn = || (0..pool.workers.len()).map(|step| (first + step) % pool.workers.len());
        let runs = |number: usize, wanted: fn(&Running) -> bool| {
            running.iter().any(|attempt| attempt.worker == pool.worker_id(number) && wanted(attempt))
        };
        if let Some(number) = in_turn().find(|number| runs(*number, |attempt| attempt.attempt == 1)) {
            return Ok(number);
        }
        second_choice = in_turn().find(|number| runs(*number, |_| true)).unwrap_or(second_choice);
        tokio::time::sleep(POLL).await;
    }
    Ok(second_choice)
}

/// Parents first on the way down, so that nobody misses a child; children first on the way up.
async fn freeze(part: &Part, time: Duration) {
    let _ = kill(part.pid(), Signal::SIGSTOP);
    let family = processes::family(part.pid());
    for pid in &family {
        let _ = kill(*pid, Signal::SIGSTOP);
    }
    tokio::time::sleep(time).await;
    for pid in family.iter().rev() {
        let _ = kill(*pid, Signal::SIGCONT);
    }
}

/// What is wrong if a worker does not end with 0 within `bound`.
async fn drained(part: &mut Part, bound: Duration) -> Option<String> {
    let end = tokio::time::Instant::now() + bound;
    loop {
        match part.ended() {
            Some(status) if status.success() => return None,
            Some(status) => return Some(format!("drained {} ended with {status}", part.name())),
            None if tokio::time::Instant::now() > end => {
                return Some(format!("drained {} has not ended within {bound:?}", part.name()));
            }
            None => tokio::time::sleep(POLL).await,
        }
    }
}

/// Kills one FFmpeg of the worker; an attempt without one yet may get one soon.
async fn kill_tool(pool: &Pool, number: usize, wait: Duration) -> anyhow::Result<Vec<Running>> {
    let end = tokio::time::Instant::now() + wait;
    while tokio::time::Instant::now() < end {
        let tools = processes::tools_inside(&pool.scratch(number));
        if let Some(tool) = tools.iter().find(|tool| tool.program.starts_with("ffmpeg")) {
            let (job, attempt) = processes::attempt_name(&tool.attempt).context("a tool has its attempt's name")?;
            let running = figures::running(&pool.database_url).await?;
            let is_it = |running: &Running| (running.job, running.attempt) == (job.0, attempt);
            if kill(tool.pid, Signal::SIGKILL).is_ok() {
                return Ok(running.into_iter().filter(is_it).collect());
            }
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(Vec::new())
}
