//! Asks a real dispatcher on a large ledger for everything that lists or shows: every GET route with each of its filters and
//! on pages far in, and every page of the dashboard with what it loads. Says how long the answers took.
//!
//! What is asked is made from the dispatcher's own description of itself (`/openapi.json`, printed from its table of routes): a
//! route or a parameter for which there is no sample here is an error, so none is forgotten.

mod asker;
mod dashboard;
mod facts;
mod questions;
mod walk;

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use ffpool_schema::access::Role;
use ffpool_schema::api::KeyRequest;
use ffpool_stack::Stack;

use crate::pool::{Pool, PoolSettings};
use crate::seed::{self, Size};
use crate::waits::{WANTED, Waits};
use asker::Asker;
use facts::Facts;
use questions::Who;
pub use walk::{Walked, walk};

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
pub struct PagesArgs {
    /// How large a ledger is made where `--root` names none.
    #[command(flatten)]
    pub size: Size,
    /// Servers whose ledger `ffpool-loadtest seed --root` has filled.
    #[arg(long)]
    pub root: Option<PathBuf>,
    /// A ledger that is there and that `ffpool-loadtest seed --into` has filled. Its owner's account is needed.
    #[arg(long, value_name = "DATABASE_URL", conflicts_with = "root")]
    pub ledger: Option<String>,
    /// How often each question is asked: once in each round of all of them, so that what a dispatcher keeps for a moment has grown
    /// old when it is asked again.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub asks: u32,
    /// Connections that ask at the same time.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub connections: u8,
    /// Ask only what has this in its path.
    #[arg(long)]
    pub only: Option<String>,
}

/// What was measured.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    /// Jobs in the ledger.
    pub jobs: i64,
    /// Workers in it.
    pub workers: i64,
    /// Connections that asked.
    pub connections: u8,
    /// Each question, the slowest first.
    pub rows: Vec<Row>,
}

/// One question.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Row {
    /// As whom it was asked.
    pub who: Who,
    /// What was asked.
    pub path: String,
    /// How long the answers took.
    pub waits: Waits,
}

impl Report {
    /// Whether every question was answered each time, and nineteen of twenty times within a tenth of a second.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.rows.iter().all(|row| row.waits.are_fine())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { jobs, workers, connections, rows } = self;
        writeln!(f, "{jobs} jobs, {workers} workers; {connections} connections ask")?;
        writeln!(
            f,
            "{:<8} {:>5} {:>6} {:>9} {:>9} {:>9}  question",
            "as", "asked", "failed", "p50 ms", "p95 ms", "max ms"
        )?;
        for Row { who, path, waits } in rows {
            let Waits { asked, failed, p50_ms, p95_ms, max_ms } = waits;
            let mark = if waits.are_fine() { "" } else { "  <-- too slow" };
            writeln!(f, "{who:<8} {asked:>5} {failed:>6} {p50_ms:>9.1} {p95_ms:>9.1} {max_ms:>9.1}  {path}{mark}")?;
        }
        let slow = rows.iter().filter(|row| !row.waits.are_fine()).count();
        writeln!(f, "{} questions; {slow} not answered within {} ms at p95", rows.len(), WANTED.as_millis())
    }
}

/// Measures on servers of its own.
///
/// # Errors
/// When the servers do not run, or there is no sample for a route.
pub async fn run(args: &PagesArgs) -> anyhow::Result<Report> {
    let wanted = args.clone();
    let (stack, database) = tokio::task::spawn_blocking(move || prepare(&wanted)).await??;
    // The pool wants its servers for the life of the process, and this process ends with the measurement.
    let stack: &'static Stack = Box::leak(Box::new(stack));
    ask(&start(stack, &database).await?, args).await
}

/// Servers and the ledger on them.
fn prepare(args: &PagesArgs) -> anyhow::Result<(Stack, String)> {
    if let Some(root) = &args.root {
        let stack = Stack::builder().root(root.clone()).start().context("start the servers")?;
        let database = stack.postgres.url();
        seed::migrate(&database)?;
        seed::revive(&database)?;
        return Ok((stack, database));
    }
    if let Some(ledger) = &args.ledger {
        let stack = Stack::builder().postgres(false).start().context("start the servers")?;
        seed::refuse_foreign(ledger)?;
        seed::migrate(ledger)?;
        seed::revive(ledger)?;
        return Ok((stack, ledger.clone()));
    }
    let stack = Stack::start().context("start the servers")?;
    let database = stack.postgres.new_database();
    seed::migrate(&database)?;
    seed::fill(&database, &args.size, |done| eprintln!("{done} of {} jobs are written", args.size.jobs))?;
    Ok((stack, database))
}

/// Measures on a pool that [`start`] has started.
///
/// # Errors
/// When there is no sample for a route, or nothing is left to be asked.
pub async fn ask(pool: &Pool, args: &PagesArgs) -> anyhow::Result<Report> {
    let facts = Facts::read(&pool.database_url).await?;
    let asker = Asker::open(pool, &tenant_key(pool, &facts).await?).await?;
    let mut questions = asker.questions(&facts).await?;
    if let Some(only) = &args.only {
        questions.retain(|question| question.path.contains(only.as_str()));
        ensure!(!questions.is_empty(), "no question has `{only}` in its path (--only)");
    }
    let mut rows = asker.ask_all(&questions, args.asks, args.connections).await?;
    rows.sort_by(|a, b| b.waits.p95_ms.total_cmp(&a.waits.p95_ms));
    Ok(Report { jobs: facts.jobs, workers: facts.workers, connections: args.connections, rows })
}

/// A dispatcher on a ledger that was filled, without limits on how much it is asked: those are measured elsewhere.
///
/// # Errors
/// When it does not become ready.
pub async fn start(stack: &'static Stack, database: &str) -> anyhow::Result<Pool> {
    let mut settings = PoolSettings::default().with_tls().on(database);
    for (name, value) in [
        ("FFPOOL_RATE_ADDRESS", "off"),
        ("FFPOOL_RATE_KEY", "off"),
        ("FFPOOL_RATE_TENANT", "off"),
        ("FFPOOL_RATE_HANDSHAKE", "off"),
        ("FFPOOL_PRICE_CORE_HOUR", "0.04"),
        ("FFPOOL_CURRENCY", "EUR"),
    ] {
        settings = settings.dispatcher(name, value);
    }
    Pool::start(stack, settings).await
}

/// A key of an administrator of the tenant whose jobs are asked for.
async fn tenant_key(pool: &Pool, facts: &Facts) -> anyhow::Result<String> {
    let name = format!("pages-{}", uuid::Uuid::new_v4().as_simple());
    let tenant = Some(facts.tenant.clone());
    let request = KeyRequest { name, role: Role::Admin, scopes: None, tenant, expires_at: None };
    Ok(pool.client.create_key(&request).await?.key)
}
