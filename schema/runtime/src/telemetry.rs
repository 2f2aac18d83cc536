//! Sets up the logs and the traces of a process.
//!
//! Invariant: a collector that is away neither blocks nor stops the process; spans are dropped instead.

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::logs::{self, LogFormat};
use crate::traces::{self, TraceArgs, TraceError};

/// Settings of logs and traces, part of every process's settings.
#[derive(Debug, Clone, clap::Args)]
pub struct TelemetryArgs {
    /// What is logged: a level, or directives such as `info,ffpool_worker=debug`.
    #[arg(long, env = "FFPOOL_LOG", default_value = "info", global = true)]
    pub log: String,
    /// How logs look. `auto`: to journald with fields where systemd has set that up, else text.
    #[arg(long, env = "FFPOOL_LOG_FORMAT", value_enum, default_value = "auto", global = true)]
    pub log_format: LogFormat,
    /// Traces.
    #[command(flatten)]
    pub traces: TraceArgs,
}

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter cannot be read.
    #[error(
        "FFPOOL_LOG `{filter}` is no log filter; a level such as `info`, or `info,ffpool_worker=debug`, is expected"
    )]
    Filter {
        /// What was given.
        filter: String,
        /// Why it cannot be read.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Nobody takes logs at journald's socket.
    #[error("FFPOOL_LOG_FORMAT=journald, but journald does not listen; say text or json where systemd does not run")]
    Journald(#[source] std::io::Error),
    /// The exporter cannot be built.
    #[error(transparent)]
    Traces(#[from] TraceError),
    /// Somebody installed a subscriber before.
    #[error("install the log subscriber")]
    Install(#[from] tracing_subscriber::util::TryInitError),
}

/// Stands for what was set up; [`Telemetry::shut_down`] sends what is left.
#[must_use]
pub struct Telemetry(());

impl Telemetry {
    /// Sends the spans that are left. Blocks for a few seconds at most.
    pub fn shut_down(self) {
        traces::shut_down();
    }
}

/// Sets up logs and traces of a process that calls itself `service`.
///
/// # Errors
/// When a setting cannot be used.
pub fn init(service: &'static str, args: &TelemetryArgs) -> Result<Telemetry, TelemetryError> {
    // Libraries are quiet: a link that breaks is logged by our own supervisor, once.
    let filter = format!(
        "{},lapin=off,async_nats=error,tokio_postgres=warn,postgres=warn,refinery_core=warn,tonic=off,h2=off",
        args.log
    );
    let filter =
        EnvFilter::try_new(&filter).map_err(|source| TelemetryError::Filter { filter: args.log.clone(), source })?;
    let format = logs::layer(service, args.log_format).map_err(TelemetryError::Journald)?;
    tracing_subscriber::registry().with(format.with_filter(filter)).try_init()?;
    traces::start(service, &args.traces)?;
    Ok(Telemetry(()))
}
