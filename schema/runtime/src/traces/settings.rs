//! Settings of traces, and the exporter that they describe.
//!
//! Invariant: what a setting says is checked when the process starts, and no message holds a header or a password.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::tonic_types::metadata::MetadataMap;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig};
use opentelemetry_otlp::{
    ExporterBuildError, RetryPolicy, SpanExporter as Otlp, WithExportConfig as _, WithHttpConfig as _,
    WithTonicConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanExporter as _;
use reqwest::header::{HeaderMap, HeaderName};
use tokio::runtime::Runtime;

use super::export::Exporter;
use crate::settings::{chain, mask};
use crate::tls;

/// For one try to send a batch.
const TRY: Duration = Duration::from_secs(5);

/// How the collector is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// OTLP over HTTP, protobuf: port 4318.
    Http,
    /// OTLP over gRPC: port 4317.
    Grpc,
}

/// Settings of traces.
#[derive(Debug, Clone, clap::Args)]
pub struct TraceArgs {
    /// Base address of an OTLP collector, such as `http://localhost:4318`. Absent: no traces are exported.
    #[arg(long, env = "FFPOOL_OTLP_ENDPOINT", global = true, value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// How the collector is spoken to: `http` (protobuf, usually port 4318) or `grpc` (usually port 4317).
    #[arg(
        long,
        env = "FFPOOL_OTLP_PROTOCOL",
        value_enum,
        default_value = "http",
        global = true,
        value_name = "PROTOCOL"
    )]
    pub otlp_protocol: Protocol,
    /// Headers for the collector, such as `authorization=Bearer abc,x-tenant=media`.
    #[arg(long, env = "FFPOOL_OTLP_HEADERS", hide_env_values = true, global = true, value_name = "NAME=VALUE,...")]
    pub otlp_headers: Option<String>,
    /// Certificates of the authority that signed the collector's. Absent: those that the system trusts.
    #[arg(long, env = "FFPOOL_OTLP_CA_FILE", global = true, value_name = "FILE")]
    pub otlp_ca_file: Option<PathBuf>,
    /// Share of new traces that are exported, 0 to 1. A trace begun elsewhere follows its parent's decision.
    #[arg(long, env = "FFPOOL_TRACE_RATIO", default_value_t = 1.0, value_parser = ratio, global = true, value_name = "SHARE")]
    pub trace_ratio: f64,
    /// Whether traces of what fails are exported though they are not in the share.
    #[arg(
        long, env = "FFPOOL_TRACE_ERRORS", default_value_t = true, action = clap::ArgAction::Set, global = true,
        value_name = "BOOL"
    )]
    pub trace_errors: bool,
}

impl Default for TraceArgs {
    /// No traces.
    fn default() -> TraceArgs {
        TraceArgs {
            otlp_endpoint: None,
            otlp_protocol: Protocol::Http,
            otlp_headers: None,
            otlp_ca_file: None,
            trace_ratio: 1.0,
            trace_errors: true,
        }
    }
}

fn ratio(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "a number from 0 to 1 is expected".to_owned())?;
    if (0.0..=1.0).contains(&number) { Ok(number) } else { Err("a number from 0 to 1 is expected".to_owned()) }
}

/// Why traces cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The address is none.
    #[error(
        "FFPOOL_OTLP_ENDPOINT `{endpoint}` is no address of a collector: http://HOST:PORT or https://HOST:PORT is expected"
    )]
    Endpoint {
        /// What was given.
        endpoint: String,
    },
    /// A header is none.
    #[error(
        "FFPOOL_OTLP_HEADERS: entry {number} is no header: NAME=VALUE is expected, entries are separated by commas"
    )]
    Header {
        /// Which, counted from 1. What it says may be a secret.
        number: usize,
    },
    /// An authority without TLS.
    #[error(
        "FFPOOL_OTLP_CA_FILE is set, but the collector's address does not begin with https://: say https://, or leave the file out"
    )]
    PlainWithAuthority,
    /// The authority's file.
    #[error("FFPOOL_OTLP_CA_FILE")]
    Authority(#[from] tls::TlsError),
    /// The client cannot be built.
    #[error("set up the export of traces to {endpoint}: {reason}")]
    Client {
        /// Where to.
        endpoint: String,
        /// Why not.
        reason: String,
    },
}

impl TraceArgs {
    /// The exporter that is described; `None` when there is to be none.
    pub(super) fn exporter(&self, service: &'static str) -> Result<Option<Exporter>, TraceError> {
        let Some(endpoint) = self.otlp_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty()) else {
            return Ok(None);
        };
        let endpoint = endpoint.trim_end_matches('/');
        let place = mask("otlp_endpoint", endpoint);
        let is_secure = endpoint.starts_with("https://");
        let rest = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
        if rest.is_none_or(|host| host.is_empty() || host.starts_with('/')) {
            return Err(TraceError::Endpoint { endpoint: place });
        }
        if self.otlp_ca_file.is_some() && !is_secure {
            return Err(TraceError::PlainWithAuthority);
        }
        let failed =
            |error: &dyn std::error::Error| TraceError::Client { endpoint: place.clone(), reason: chain(error) };
        // The clients refuse to exist without a provider, even for plain HTTP.
        crate::install_crypto();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| failed(&error))?;
        let headers = self.headers()?;
        let mut otlp = match self.otlp_protocol {
            Protocol::Http => self.http(endpoint, headers, is_secure, &place)?,
            Protocol::Grpc => self.grpc(endpoint, headers, is_secure, &runtime, &place)?,
        };
        otlp.set_resource(&resource(service));
        let exporter = Exporter::start(otlp, runtime, place.clone()).map_err(|error| failed(&error))?;
        Ok(Some(exporter))
    }

    fn headers(&self) -> Result<Vec<(String, String)>, TraceError> {
        let text = self.otlp_headers.as_deref().unwrap_or_default();
        let entries = text.split(',').enumerate().filter(|(_, entry)| !entry.trim().is_empty());
        let header = |(index, entry): (usize, &str)| {
            let refused = TraceError::Header { number: index + 1 };
            let Some((name, value)) = entry.split_once('=') else { return Err(refused) };
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().to_owned());
            let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            let is_value = !value.is_empty() && value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            if is_name && is_value { Ok((name, value)) } else { Err(refused) }
        };
        entries.map(header).collect()
    }

    fn http(
        &self,
        endpoint: &str,
        headers: Vec<(String, String)>,
        is_secure: bool,
        place: &str,
    ) -> Result<Otlp, TraceError> {
        let client = reqwest::Client::builder().timeout(TRY).redirect(reqwest::redirect::Policy::none());
        let client = if is_secure {
            client.tls_backend_preconfigured(tls::client_config(self.otlp_ca_file.as_deref(), None)?)
        } else {
            client
        };
        let failed = |reason: String| TraceError::Client { endpoint: place.to_owned(), reason };
        let client = client.build().map_err(|error| failed(chain(&error)))?;
        Otlp::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(format!("{endpoint}/v1/traces"))
            .with_headers(headers.into_iter().collect::<HashMap<_, _>>())
            .with_timeout(super::export::PATIENCE)
            .with_retry_policy(retries())
            .build()
            .map_err(|error| failed(said(&error)))
    }

    fn grpc(
        &self,
        endpoint: &str,
        headers: Vec<(String, String)>,
        is_secure: bool,
        runtime: &Runtime,
        place: &str,
    ) -> Result<Otlp, TraceError> {
        let failed = |reason: String| TraceError::Client { endpoint: place.to_owned(), reason };
        let mut metadata = HeaderMap::new();
        for (index, (name, value)) in headers.into_iter().enumerate() {
            let refused = || TraceError::Header { number: index + 1 };
            let name: HeaderName = name.parse().map_err(|_| refused())?;
            metadata.insert(name, value.parse().map_err(|_| refused())?);
        }
        let builder = Otlp::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_metadata(MetadataMap::from_headers(metadata))
            .with_timeout(super::export::PATIENCE)
            .with_retry_policy(retries());
        let builder = if is_secure {
            let trust = match &self.otlp_ca_file {
                Some(path) => {
                    // Checked as every other file of certificates.
                    tls::client_config(Some(path), None)?;
                    let pem =
                        std::fs::read(path).map_err(|source| tls::TlsError::Read { path: path.clone(), source })?;
                    ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
                }
                None => ClientTlsConfig::new().with_enabled_roots(),
            };
            builder.with_tls_config(trust)
        } else {
            builder
        };
        let _within = runtime.enter();
        builder.build().map_err(|error| failed(said(&error)))
    }
}

fn retries() -> RetryPolicy {
    RetryPolicy::recommended()
        .with_max_retries(6)
        .with_initial_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(5))
}

fn said(error: &ExporterBuildError) -> String {
    chain(error)
}

/// What all spans of this process have in common.
fn resource(service: &'static str) -> Resource {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Resource::builder()
        .with_service_name(service)
        .with_attributes([
            KeyValue::new("service.namespace", "ffpool"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", format!("{}:{}", host.trim(), std::process::id())),
            KeyValue::new("host.name", host.trim().to_owned()),
            KeyValue::new("process.pid", i64::from(std::process::id())),
        ])
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(args: &TraceArgs) -> String {
        chain(&args.exporter("ffpool-test").err().expect("it cannot be used"))
    }

    fn to(endpoint: &str) -> TraceArgs {
        TraceArgs { otlp_endpoint: Some(endpoint.into()), ..TraceArgs::default() }
    }

    #[test]
    fn a_setting_that_cannot_be_used_is_named_without_its_secrets() {
        assert!(refusal(&to("localhost:4318")).contains("http://HOST:PORT"));
        assert!(refusal(&to("http:///v1")).contains("is no address"));
        let headers = TraceArgs { otlp_headers: Some("a=1,Bearer s3cret".into()), ..to("http://h:1") };
        let said = refusal(&headers);
        assert!(said.contains("entry 2") && !said.contains("s3cret"), "{said}");
        let authority = TraceArgs { otlp_ca_file: Some("/no/ca.pem".into()), ..to("http://h:1") };
        assert!(refusal(&authority).contains("https://"));
        for otlp_protocol in [Protocol::Http, Protocol::Grpc] {
            let authority = TraceArgs { otlp_ca_file: Some("/no/ca.pem".into()), otlp_protocol, ..to("https://h:1") };
            assert!(refusal(&authority).contains("/no/ca.pem"), "{otlp_protocol:?}");
        }
        assert!(TraceArgs::default().exporter("x").expect("nothing is set").is_none());
        assert!(ratio("1.5").is_err() && ratio("x").is_err() && ratio("NaN").is_err() && ratio("0.25") == Ok(0.25));
    }

    #[test]
    fn a_collector_that_nobody_hears_costs_nothing_but_spans() {
        for otlp_protocol in [Protocol::Http, Protocol::Grpc] {
            let args = TraceArgs { otlp_protocol, ..to("http://127.0.0.1:9") };
            let exporter = args.exporter("ffpool-test").expect("the settings are valid").expect("one is set");
            exporter.shut_down();
        }
    }
}
