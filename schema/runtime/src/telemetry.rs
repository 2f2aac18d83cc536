//! Logs to standard error as text or JSON, and traces to an OTLP collector where one is set.
//!
//! Invariant: a collector that is away neither blocks nor stops the process; spans are dropped instead.

use std::collections::HashMap;

use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Settings of logs and traces, part of every process's settings.
#[derive(Debug, Clone, clap::Args)]
pub struct TelemetryArgs {
    /// What is logged: a level, or directives such as `info,ffpool_worker=debug`.
    #[arg(long, env = "FFPOOL_LOG", default_value = "info", global = true)]
    pub log: String,
    /// How logs look.
    #[arg(long, env = "FFPOOL_LOG_FORMAT", value_enum, default_value = "text", global = true)]
    pub log_format: LogFormat,
    /// Base address of an OTLP/HTTP collector, such as `http://localhost:4318`. Absent: no traces are exported.
    #[arg(long, env = "FFPOOL_OTLP_ENDPOINT", global = true)]
    pub otlp_endpoint: Option<String>,
    /// Share of new traces that are exported, 0 to 1. A trace begun elsewhere follows its parent's decision.
    #[arg(long, env = "FFPOOL_TRACE_RATIO", default_value_t = 1.0, global = true)]
    pub trace_ratio: f64,
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
    /// The exporter cannot be built.
    #[error("set up the export of traces to {endpoint}")]
    Exporter {
        /// Where to.
        endpoint: String,
        /// Why.
        #[source]
        source: opentelemetry_otlp::ExporterBuildError,
    },
    /// Somebody installed a subscriber before.
    #[error("install the log subscriber")]
    Install(#[from] tracing_subscriber::util::TryInitError),
}

/// Keeps the exporter alive; [`Telemetry::shut_down`] sends what is left.
#[must_use]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Sends the spans that are left. Blocks for a few seconds at most.
    pub fn shut_down(self) {
        if let Some(provider) = self.provider
            && let Err(error) = provider.shutdown()
        {
            tracing::warn!(%error, "some traces were not exported");
        }
    }
}

/// Sets up logs and traces of a process that calls itself `service`.
///
/// # Errors
/// When a setting cannot be used.
pub fn init(service: &'static str, args: &TelemetryArgs) -> Result<Telemetry, TelemetryError> {
    // Libraries are quiet: a link that breaks is logged by our own supervisor, once.
    let filter =
        format!("{},lapin=off,async_nats=error,tokio_postgres=warn,postgres=warn,refinery_core=warn", args.log);
    let filter =
        EnvFilter::try_new(&filter).map_err(|source| TelemetryError::Filter { filter: args.log.clone(), source })?;
    let format = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let format = match args.log_format {
        LogFormat::Text => format.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
        LogFormat::Json => format.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed(),
    };
    let provider =
        args.otlp_endpoint.as_deref().map(|endpoint| exporter(service, endpoint, args.trace_ratio)).transpose()?;
    let traces = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer(service))
            .with_filter(tracing_subscriber::filter::filter_fn(|meta| meta.target().starts_with("ffpool")))
    });
    tracing_subscriber::registry().with(format.with_filter(filter)).with(traces).try_init()?;
    Ok(Telemetry { provider })
}

fn exporter(service: &'static str, endpoint: &str, ratio: f64) -> Result<SdkTracerProvider, TelemetryError> {
    // The exporter's client refuses to exist without a provider, even for plain HTTP.
    crate::install_crypto();
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .with_timeout(std::time::Duration::from_secs(5))
        .build()
        .map_err(|source| TelemetryError::Exporter { endpoint: endpoint.to_owned(), source })?;
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio.clamp(0.0, 1.0)))))
        .with_resource(Resource::builder().with_service_name(service).build())
        .build())
}

/// Makes `span` a child of the trace that `traceparent` (W3C) names. Without an exporter, or with a text that is no
/// trace context, nothing changes.
pub fn continue_trace(span: &Span, traceparent: Option<&str>) {
    if let Some(traceparent) = traceparent {
        let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
        let context = TraceContextPropagator::new().extract(&carrier);
        // Fails only when no exporter is set up, and then there is no trace to continue.
        let _ = span.set_parent(context);
    }
}

/// The W3C trace context of `span`, to hand on; `received` when no traces are exported, so that it passes through.
#[must_use]
pub fn traceparent(span: &Span, received: Option<&str>) -> Option<String> {
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&span.context(), &mut carrier);
    carrier.remove("traceparent").or_else(|| received.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test for the process: a subscriber can be installed only once.
    #[test]
    fn a_span_continues_the_trace_that_it_was_given() {
        let args = TelemetryArgs {
            log: "info".into(),
            log_format: LogFormat::Text,
            // Nobody listens: an exporter that cannot send must not matter.
            otlp_endpoint: Some("http://127.0.0.1:9".into()),
            trace_ratio: 1.0,
        };
        let telemetry = init("ffpool-test", &args).expect("these settings are valid");
        let received = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let span = tracing::info_span!("attempt");
        continue_trace(&span, Some(received));
        let handed_on = traceparent(&span, None).expect("traces are exported");
        assert_eq!(handed_on[..35], received[..35], "the same trace");
        assert_ne!(handed_on, received, "another span of it");
        drop(span);
        drop(telemetry);
    }
}
