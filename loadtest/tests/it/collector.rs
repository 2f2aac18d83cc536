//! A collector of traces within a test: it hears OTLP by gRPC and by HTTP, over TLS, and keeps what it hears.
//!
//! Invariant: it reads what comes with the protocol's own definitions, not with the exporter's code.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::post;
use ffpool_runtime::tls::{Authority, Wanted};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as SpanStatus;
use prost::Message as _;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::support::BOUND;

/// A header that exporters are to send, and its value.
pub const HEADER: (&str, &str) = ("x-scope", "media");

/// A span as it was heard.
#[derive(Debug, Clone)]
pub struct Seen {
    pub service: String,
    pub by: &'static str,
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub name: String,
    pub kind: i32,
    pub start: u64,
    pub end: u64,
    pub attributes: BTreeMap<String, String>,
    pub links: Vec<String>,
    pub failed: bool,
}

/// What was heard.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<Vec<Seen>>>);

/// Where it listens.
pub struct Collector {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    pub heard: Heard,
    folder: tempfile::TempDir,
}

impl Collector {
    /// Listens on the runtime that calls, as long as that lives.
    pub async fn start() -> anyhow::Result<Collector> {
        let heard = Heard::default();
        let (grpc, http) = (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
        let folder = tempfile::tempdir()?;
        let tls = acceptor(folder.path())?;
        let collector = Collector {
            grpc: secured(tls.clone(), grpc.local_addr()?).await?,
            http: secured(tls, http.local_addr()?).await?,
            heard: heard.clone(),
            folder,
        };
        let service = TraceServiceServer::new(heard.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(grpc)));
        let take = move |headers: HeaderMap, body: Bytes| async move {
            let request = ExportTraceServiceRequest::decode(body).expect("OTLP over HTTP is protobuf");
            let given = headers.get(HEADER.0).and_then(|value| value.to_str().ok());
            heard.take(request, "http", given);
            let answer = ExportTraceServiceResponse::default().encode_to_vec();
            (StatusCode::OK, [(header::CONTENT_TYPE, "application/x-protobuf")], answer).into_response()
        };
        let router = Router::new().route("/v1/traces", post(take));
        tokio::spawn(async move { axum::serve(http, router).await });
        Ok(collector)
    }

    /// The certificate of the authority that signed its own, which no system trusts.
    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The spans of a trace, as soon as it has one of every name in `names`.
    pub async fn until(&self, trace: &str, names: &[&str]) -> Vec<Seen> {
        let end = Instant::now() + BOUND;
        loop {
            let spans = self.heard.of(trace);
            let missing: Vec<_> = names.iter().filter(|name| !spans.iter().any(|span| span.name == **name)).collect();
            if missing.is_empty() {
                return spans;
            }
            let seen: Vec<_> = spans.iter().map(|span| (&span.service, &span.name)).collect();
            assert!(Instant::now() < end, "trace {trace} has no {missing:?}; it has {seen:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Of a server for 127.0.0.1 that speaks HTTP/2 and HTTP/1.1.
fn acceptor(folder: &Path) -> anyhow::Result<TlsAcceptor> {
    ffpool_runtime::install_crypto();
    let (authority, _) = Authority::open_or_create(folder, "the collector's")?;
    let issued = authority.issue(&Wanted {
        common_name: "collector".to_owned(),
        names: vec!["127.0.0.1".to_owned()],
        is_server: true,
        is_client: false,
        life: Duration::from_secs(3600),
    })?;
    let chain = CertificateDer::pem_slice_iter(issued.certificate.as_bytes()).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes())?;
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Takes TLS off what comes, and hands it on, as a proxy before a collector does.
async fn secured(tls: TlsAcceptor, to: SocketAddr) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                // Who does not trust it goes away, and is heard of nowhere.
                let (mut client, mut server) = (tls.accept(stream).await?, TcpStream::connect(to).await?);
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    Ok(address)
}

impl Heard {
    /// The spans of a trace so far.
    pub fn of(&self, trace: &str) -> Vec<Seen> {
        self.0.lock().unwrap().iter().filter(|span| span.trace == trace).cloned().collect()
    }

    fn take(&self, request: ExportTraceServiceRequest, by: &'static str, header: Option<&str>) {
        assert_eq!(header, Some(HEADER.1), "the exporter sends the headers that it is given");
        let mut heard = self.0.lock().unwrap();
        for of_process in request.resource_spans {
            let resource = attributes(of_process.resource.unwrap_or_default().attributes);
            let service = resource.get("service.name").cloned().unwrap_or_default();
            for span in of_process.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                heard.push(Seen {
                    service: service.clone(),
                    by,
                    trace: hexadecimal(&span.trace_id),
                    id: hexadecimal(&span.span_id),
                    parent: hexadecimal(&span.parent_span_id),
                    name: span.name,
                    kind: span.kind,
                    start: span.start_time_unix_nano,
                    end: span.end_time_unix_nano,
                    attributes: attributes(span.attributes),
                    links: span.links.iter().map(|link| hexadecimal(&link.span_id)).collect(),
                    failed: span.status.is_some_and(|status| status.code == SpanStatus::Error as i32),
                });
            }
        }
    }
}

#[tonic::async_trait]
impl TraceService for Heard {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let given = request.metadata().get(HEADER.0).and_then(|value| value.to_str().ok()).map(str::to_owned);
        self.take(request.into_inner(), "grpc", given.as_deref());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn attributes(list: Vec<KeyValue>) -> BTreeMap<String, String> {
    list.into_iter().map(|entry| (entry.key, text(entry.value))).collect()
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(truth)) => truth.to_string(),
        other => format!("{other:?}"),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
