//! The worker's process: settings, logs, signals, exit code.

use std::process::ExitCode;

use anyhow::Context;
use ffpool_runtime::{install_crypto, metrics, settings, stop, telemetry};
use ffpool_schema::metrics::Process;
use ffpool_worker::drain::{Drain, Stage};
use ffpool_worker::service::{Finish, Worker};
use ffpool_worker::settings::Settings;
use tokio::sync::watch;
use tracing::error;

/// Tools of a worker that is not root run as its user: they are not to read its environment, where its passwords are.
fn close_to_its_own_user() {
    if !nix::unistd::Uid::effective().is_root()
        && let Err(error) = nix::sys::prctl::set_dumpable(false)
    {
        eprintln!("warning: tools may be able to read this worker's environment: {error}");
    }
}

fn main() -> ExitCode {
    let settings: Settings = settings::parse("worker");
    close_to_its_own_user();
    install_crypto();
    let telemetry = match telemetry::init("ffpool-worker", &settings.telemetry) {
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
        Ok(Finish::Clean) => ExitCode::SUCCESS,
        Ok(Finish::Unreported(_)) => ExitCode::FAILURE,
        Err(error) => {
            error!("the worker cannot run: {error:#}");
            ExitCode::FAILURE
        }
    };
    telemetry.shut_down();
    code
}

async fn run(settings: &Settings) -> anyhow::Result<Finish> {
    let signals = stop::signals().context("listen for stop signals")?;
    let exposition = metrics::install(Process::Worker, env!("CARGO_PKG_VERSION")).context("set up metrics")?;
    let worker = Worker::start(settings, exposition).await?;
    tokio::spawn(obey(signals, worker.drain.clone()));
    Ok(worker.finished().await)
}

/// The first signal drains, the second hands back at once, the third does not even wait for that.
async fn obey(mut signals: watch::Receiver<u32>, drain: Drain) {
    stop::reached(&mut signals, 1).await;
    drain.advance(Stage::FinishingInTime, "stop signal");
    stop::reached(&mut signals, 2).await;
    drain.advance(Stage::Releasing, "second stop signal");
    stop::reached(&mut signals, 3).await;
    error!("third stop signal: leaving attempts unreported, their leases will lapse");
    std::process::exit(1);
}
