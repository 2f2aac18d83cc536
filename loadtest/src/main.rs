//! `ffpool-loadtest`: measures the pool and proves it.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ffpool_loadtest::audit::{self, AuditArgs};
use ffpool_loadtest::baseline::{self, BaselineArgs};
use ffpool_loadtest::cage::{self, CageArgs};
use ffpool_loadtest::chaos::{self, ChaosArgs};
use ffpool_loadtest::chunks::{self, ChunksArgs};
use ffpool_loadtest::dashboards::{self, DashboardsArgs};
use ffpool_loadtest::doors::{self, DoorsArgs};
use ffpool_loadtest::ladder::{self, LadderArgs};
use ffpool_loadtest::live::{self, LiveArgs};
use ffpool_loadtest::matrix::{self, MatrixArgs};
use ffpool_loadtest::overhead::{self, OverheadArgs};
use ffpool_loadtest::pages::{self, PagesArgs};
use ffpool_loadtest::seed::{self, SeedArgs};

/// Load and faults for ffpool on private servers that are gone afterwards, and the audit of any pool.
///
/// Exit codes: 0 as it should be, 1 something was lost, doubled, stuck or otherwise wrong, or it could not run.
#[derive(Debug, Parser)]
#[command(name = "ffpool-loadtest", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// Print the figures as JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// No-op jobs end to end, the latency of an idle pool, and the broker's own limit beside them.
    Baseline(BaselineArgs),
    /// Everything dies in turn under load; then the audit, and what each fault cost.
    Chaos(ChaosArgs),
    /// Proves from a publisher's record, the ledger, the files and this machine that nothing was lost or doubled.
    Audit(AuditArgs),
    /// Every kind of job of the original system: made and probed, or refused before anything runs.
    Matrix(MatrixArgs),
    /// What it saves to make the outputs of a ladder in one job.
    Ladder(LadderArgs),
    /// Live jobs against nginx with its RTMP module, which is restarted twice: how fast they start, and what is recorded.
    Live(LiveArgs),
    /// A long encode in chunks beside the same encode whole, and again while workers are killed.
    Chunks(ChunksArgs),
    /// An encode through the pool beside the same encode by hand.
    Overhead(OverheadArgs),
    /// Thousands of idle and slow connections to the API over TLS, and a flood of one address: what all others wait.
    Doors(DoorsArgs),
    /// Every query of the dashboards and alerts, asked of a Prometheus that watched a pool under two minutes of mixed load.
    Dashboards(DashboardsArgs),
    /// Fills a ledger with a million jobs and thousands of workers, as a month of work would.
    Seed(SeedArgs),
    /// Every list, every route that shows something and every page of the dashboard on such a ledger: how long answers take.
    Pages(PagesArgs),
    /// Starts and encodes in the sandbox beside the same without it, in pairs.
    Cage(CageArgs),
}

fn main() -> anyhow::Result<ExitCode> {
    ffpool_runtime::install_crypto();
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match args.command {
        Command::Baseline(settings) => {
            let figures = runtime.block_on(baseline::run(&settings))?;
            if args.json {
                println!("{}", serde_json::to_string_pretty(&figures)?);
            } else {
                println!("broker                     RabbitMQ {}", figures.broker);
                println!("no-op jobs, end to end     {:8.0} /s", figures.jobs_per_second);
                println!("broker's client alone      {:8.0} /s", figures.raw_messages_per_second);
                println!("ratio                      {:8.2}", figures.ratio);
                println!(
                    "publish to start, idle     {:8.1} ms p50  {:8.1} ms p99",
                    figures.start_p50_ms, figures.start_p99_ms
                );
                println!(
                    "publish to completed       {:8.1} ms p50  {:8.1} ms p99",
                    figures.done_p50_ms, figures.done_p99_ms
                );
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Chaos(settings) => {
            let report = runtime.block_on(chaos::run(&settings))?;
            show(&report, args.json)?;
            Ok(exit_code(report.is_clean()))
        }
        Command::Matrix(settings) => {
            let report = runtime.block_on(matrix::run(&settings))?;
            show(&report, args.json)?;
            Ok(exit_code(report.is_clean()))
        }
        Command::Ladder(settings) => {
            show(&runtime.block_on(ladder::run(&settings))?, args.json)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Live(settings) => {
            let report = runtime.block_on(live::run(&settings))?;
            show(&report, args.json)?;
            Ok(exit_code(report.is_clean()))
        }
        Command::Chunks(settings) => {
            let report = runtime.block_on(chunks::run(&settings))?;
            show(&report, args.json)?;
            Ok(exit_code(report.broken().is_empty()))
        }
        Command::Overhead(settings) => {
            let report = runtime.block_on(overhead::run(&settings))?;
            show(&report, args.json)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Cage(settings) => {
            let report = runtime.block_on(cage::run(&settings))?;
            show(&report, args.json)?;
            Ok(exit_code(report.is_clean()))
        }
        Command::Doors(settings) => {
            let report = runtime.block_on(doors::run(&settings))?;
            show(&report, args.json)?;
            Ok(exit_code(report.is_clean()))
        }
        Command::Dashboards(settings) => {
            let report = runtime.block_on(dashboards::run(&settings))?;
            show(&report, args.json)?;
            Ok(exit_code(report.is_clean()))
        }
        Command::Seed(settings) => {
            show(&seed::run(&settings)?, args.json)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Pages(settings) => {
            let report = runtime.block_on(pages::run(&settings))?;
            show(&report, args.json)?;
            Ok(exit_code(report.is_clean()))
        }
        Command::Audit(settings) => {
            let report = audit::run(&settings)?;
            show(&report, args.json)?;
            Ok(exit_code(report.is_clean()))
        }
    }
}

fn show<T: serde::Serialize + std::fmt::Display>(report: &T, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(report)?)
    } else {
        print!("{report}")
    }
    Ok(())
}

fn exit_code(clean: bool) -> ExitCode {
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
