//! The dispatcher's process: settings, logs, signals, exit code.

use std::process::ExitCode;

use anyhow::Context as _;
use ffpool_dispatcher::Dispatcher;
use ffpool_dispatcher::health_command;
use ffpool_dispatcher::ledger::Ledger;
use ffpool_dispatcher::settings::{Command, Settings};
use ffpool_runtime::{install_crypto, metrics, settings, stop, telemetry};
use ffpool_schema::metrics::Process;
use tokio::sync::watch;
use tracing::error;

fn main() -> ExitCode {
    let settings: Settings = settings::parse("dispatcher");
    install_crypto();
    let telemetry = match telemetry::init("ffpool-dispatcher", &settings.telemetry) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("error: {}", settings::chain(&error));
            return ExitCode::from(2);
        }
    };
    let ran = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the async runtime")
        .and_then(|runtime| runtime.block_on(run(&settings)));
    let code = match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("the dispatcher cannot run: {error:#}");
            ExitCode::from(settings::exit_code(&error))
        }
    };
    telemetry.shut_down();
    code
}

async fn run(settings: &Settings) -> anyhow::Result<()> {
    match &settings.command {
        Some(Command::Keys(command)) => {
            let ledger = Ledger::open(&settings.ledger()?).await?;
            print!("{}", command.run(&ledger).await?);
            return Ok(());
        }
        Some(Command::Health) => {
            print!("{}", health_command::ask(settings).await?);
            return Ok(());
        }
        Some(Command::Migrate) => return Ledger::migrate(&settings.ledger()?).await,
        Some(Command::Rebuild { dry_run, restored }) => {
            let ledger = Ledger::open(&settings.ledger()?).await?;
            print!("{}", ledger.rebuild(*dry_run).await?);
            if *restored {
                print!("{}", ledger.adopt_restored().await?);
            }
            return Ok(());
        }
        None => {}
    }
    let mut signals = stop::signals().context("listen for stop signals")?;
    tokio::spawn(leave_at_second(signals.clone()));
    let exposition = metrics::install(Process::Dispatcher, env!("CARGO_PKG_VERSION")).context("set up metrics")?;
    let mut dispatcher = tokio::select! {
        started = Dispatcher::start(settings, Some(exposition)) => started?,
        () = stop::reached(&mut signals, 1) => return Ok(()),
    };
    tokio::select! {
        () = stop::reached(&mut signals, 1) => {
            dispatcher.stop().await;
            Ok(())
        }
        failure = dispatcher.failed() => Err(failure),
    }
}

/// Nothing is lost by it: what is not committed comes again.
async fn leave_at_second(mut signals: watch::Receiver<u32>) {
    stop::reached(&mut signals, 2).await;
    error!("second stop signal: leaving on the spot");
    std::process::exit(1);
}
