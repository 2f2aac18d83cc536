//! `ffpool-loadtest`: measures the pool on a private stack.

use clap::{Parser, Subcommand};
use ffpool_loadtest::baseline::{self, BaselineArgs};

/// Load for ffpool, on private servers that are gone afterwards.
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
}

fn main() -> anyhow::Result<()> {
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
        }
    }
    Ok(())
}
