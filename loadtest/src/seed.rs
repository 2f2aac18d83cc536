//! Fills a ledger as a month of work would: jobs in every state with their attempts, history and logs, workers that hold
//! leases, tenants, keys, schedules, an audit.
//!
//! It is written in sets, by SQL that stands beside this file, through the real tables: every constraint, partition and trigger
//! is in force. What becomes of a job follows from its number alone, so that two ledgers of one size are alike.
//!
//! Invariant: what was written is looked through afterwards (`check`), and a ledger with a contradiction is refused.

mod size;
mod template;

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use ffpool_stack::Stack;
use postgres::{Client, NoTls};

use crate::pool;
pub use size::Size;

/// Jobs that are written in one transaction: some seconds of work, so that it is seen to go on.
const BATCH: u64 = 20_000;
/// Jobs for each worker: some four of them run, and no worker may be given more than it has slots.
const JOBS_PER_WORKER: u64 = 200;

/// What is written and where.
#[derive(Debug, Clone, clap::Args)]
pub struct SeedArgs {
    /// How much.
    #[command(flatten)]
    pub size: Size,
    /// Where servers of its own keep what is written (`ffpool-loadtest pages --root` measures there).
    #[arg(long, required_unless_present = "into", conflicts_with = "into")]
    pub root: Option<PathBuf>,
    /// Write into this ledger: a new database, or one filled before. Its owner's account is needed.
    #[arg(long, value_name = "DATABASE_URL")]
    pub into: Option<String>,
}

/// What was written.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Seeded {
    /// Jobs of the ledger by state.
    pub jobs: Vec<(String, i64)>,
    /// Attempts.
    pub attempts: i64,
    /// Entries of the history.
    pub events: i64,
    /// Workers.
    pub workers: i64,
    /// Tenants.
    pub tenants: i64,
    /// The whole database.
    pub bytes: i64,
    /// How long it took.
    pub seconds: f64,
}

impl fmt::Display for Seeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (state, count) in &self.jobs {
            writeln!(f, "jobs {state:<12} {count:>10}")?;
        }
        for (what, count) in
            [("attempts", self.attempts), ("events", self.events), ("workers", self.workers), ("tenants", self.tenants)]
        {
            writeln!(f, "{what:<17} {count:>10}")?;
        }
        writeln!(f, "size {:>22} MB\ntook {:>22.0} s", self.bytes / 1_000_000, self.seconds)
    }
}

/// Fills the ledger that the arguments name.
///
/// # Errors
/// When the servers do not run, Postgres refuses something, or what was written contradicts itself.
pub fn run(args: &SeedArgs) -> anyhow::Result<Seeded> {
    let told = |done: u64| eprintln!("{done} of {} jobs are written", args.size.jobs);
    match (&args.into, &args.root) {
        (Some(url), _) => {
            refuse_foreign(url)?;
            migrate(url)?;
            fill(url, &args.size, told)
        }
        (None, Some(root)) => {
            let stack = Stack::builder().rabbit(false).nats(false).root(root.clone()).start()?;
            let url = stack.postgres.url();
            migrate(&url)?;
            fill(&url, &args.size, told)
        }
        (None, None) => bail!("say with --root where servers keep it, or with --into which ledger is filled"),
    }
}

/// Makes the tables of this version.
///
/// # Errors
/// When the ledger cannot be reached, or a migration fails.
pub fn migrate(url: &str) -> anyhow::Result<()> {
    pool::migrate(url, url)
}

/// Refuses a ledger in which others work, before anything is written to it. Their jobs would be dated ahead with the seeded ones,
/// and a dispatcher that is measured there would publish them to a broker of its own.
///
/// # Errors
/// When it is one, or cannot be reached.
pub fn refuse_foreign(url: &str) -> anyhow::Result<()> {
    let mut client = Client::connect(url, NoTls).context("connect to the ledger")?;
    let is_there = |client: &mut Client, sql: &str| Ok::<bool, postgres::Error>(client.query_one(sql, &[])?.get(0));
    // A new database has no tables yet.
    if !is_there(&mut client, "SELECT to_regclass('job') IS NOT NULL AND to_regclass('worker') IS NOT NULL")? {
        return Ok(());
    }
    let is_foreign = is_there(
        &mut client,
        "SELECT EXISTS (SELECT FROM worker WHERE id NOT LIKE 'seed-%') \
             OR (EXISTS (SELECT FROM job) AND NOT EXISTS (SELECT FROM worker WHERE id LIKE 'seed-%'))",
    )?;
    ensure!(!is_foreign, "this ledger has work of its own, which would be held back: give a new database");
    Ok(())
}

/// Fills the ledger at `url`, tells how many jobs are written from time to time, and looks through what is there then.
///
/// # Errors
/// When there are too few workers, Postgres refuses something, or what was written contradicts itself.
pub fn fill(url: &str, size: &Size, mut told: impl FnMut(u64)) -> anyhow::Result<Seeded> {
    let began = Instant::now();
    let mut client = Client::connect(url, NoTls).context("connect to the ledger that is to be filled")?;
    ensure_room(&mut client, size)?;
    for (name, value) in size.settings().into_iter().chain(template::settings()?) {
        client.execute("SELECT set_config('seed.' || $1, $2, false)", &[&name, &value])?;
    }
    in_one(&mut client, include_str!("seed/start.sql")).context("write tenants and workers")?;
    let mut low = 1;
    while low <= size.jobs {
        let high = (low + BATCH - 1).min(size.jobs);
        for (name, value) in [("low", low), ("high", high)] {
            client.execute("SELECT set_config('seed.' || $1, $2, false)", &[&name, &value.to_string()])?;
        }
        in_one(&mut client, include_str!("seed/batch.sql")).with_context(|| format!("write jobs {low} to {high}"))?;
        told(high);
        low = high + 1;
    }
    in_one(&mut client, include_str!("seed/finish.sql")).context("join the jobs")?;
    // As autovacuum would have done over time.
    client.batch_execute("VACUUM (ANALYZE)").context("vacuum the ledger")?;
    check(&mut client)?;
    count(&mut client, began.elapsed())
}

/// Refuses more jobs than the workers have slots for: that would be found out only when all is written.
fn ensure_room(client: &mut Client, size: &Size) -> anyhow::Result<()> {
    let there: i64 = client.query_one("SELECT count(*) FROM job", &[]).context("count the jobs of the ledger")?.get(0);
    let jobs = there.unsigned_abs() + size.jobs;
    let needed = jobs.div_ceil(JOBS_PER_WORKER);
    ensure!(
        needed <= u64::from(size.workers),
        "{jobs} jobs need at least {needed} workers (--workers): more would run than there are slots"
    );
    Ok(())
}

/// All of it or nothing.
fn in_one(client: &mut Client, sql: &str) -> Result<(), postgres::Error> {
    let mut transaction = client.transaction()?;
    transaction.batch_execute(sql)?;
    transaction.commit()
}

/// Dates ahead what heartbeats would renew, for a ledger that was filled a while ago.
///
/// # Errors
/// When Postgres refuses it.
pub fn revive(url: &str) -> anyhow::Result<()> {
    let mut client = Client::connect(url, NoTls).context("connect to the ledger")?;
    in_one(&mut client, include_str!("seed/revive.sql")).context("date leases ahead")?;
    client.batch_execute("VACUUM (ANALYZE) job, worker").context("vacuum the ledger")
}

/// Refuses a ledger that contradicts itself.
fn check(client: &mut Client) -> anyhow::Result<()> {
    let rows = client.query(include_str!("seed/check.sql"), &[]).context("look through what was written")?;
    let broken: Vec<String> = rows
        .iter()
        .map(|row| (row.get::<_, String>(0), row.get::<_, i64>(1)))
        .filter(|(_, count)| *count > 0)
        .map(|(what, count)| format!("{count} {what}"))
        .collect();
    ensure!(broken.is_empty(), "the ledger contradicts itself: {}", broken.join("; "));
    Ok(())
}

fn count(client: &mut Client, took: Duration) -> anyhow::Result<Seeded> {
    let jobs = client.query("SELECT state, count(*) FROM job GROUP BY state ORDER BY count(*) DESC", &[])?;
    let mut number = |sql: &str| Ok::<i64, postgres::Error>(client.query_one(sql, &[])?.get(0));
    Ok(Seeded {
        jobs: jobs.iter().map(|row| (row.get(0), row.get(1))).collect(),
        attempts: number("SELECT count(*) FROM attempt")?,
        events: number("SELECT count(*) FROM event")?,
        workers: number("SELECT count(*) FROM worker")?,
        tenants: number("SELECT count(*) FROM tenant")?,
        bytes: number("SELECT pg_database_size(current_database())")?,
        seconds: took.as_secs_f64(),
    })
}
