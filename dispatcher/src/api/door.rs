//! The way into the API: connections are taken, secured and bounded before a request is read.
//!
//! Invariants:
//! * where TLS is asked for, nothing is answered without it; where client certificates are, nothing without a verified one;
//! * whoever connects holds a place for a bounded time only, unless a request of theirs is being answered.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use ffpool_runtime::tls::ServerTls;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::certificates::{ClientCertificate, ClientRoles};
use super::guests::{Activity, Guest, Guests, Limits, Reason};
use super::wire::{Answering, Wire};

/// Requests that are under way when the API stops get so long to end; then their connections are cut. Shorter than what
/// the process gives its parts, so that the API ends by itself.
const STOP_GRACE: Duration = Duration::from_secs(8);
/// How often is looked for connections that only hold a place.
const SWEEP: Duration = Duration::from_secs(1);
/// How often is looked for new certificates.
const LOOK: Duration = Duration::from_secs(5);
/// After a failure to take a connection, such as being out of files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// For a client that is refused to read why.
const LINGER: Duration = Duration::from_secs(1);
/// Largest line and headers of a request.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Who gets in, and how.
#[derive(Clone)]
pub struct Door {
    /// `None`: plain HTTP.
    pub tls: Option<ServerTls>,
    /// What client certificates may do.
    pub roles: ClientRoles,
    /// How many may come, and for how long.
    pub limits: Limits,
}

impl Door {
    /// Without TLS. Whoever sees the network sees the keys.
    #[must_use]
    pub fn plain() -> Door {
        Door { tls: None, roles: ClientRoles::default(), limits: Limits::default() }
    }
}

/// Where all connections of one API lead.
struct House {
    door: Door,
    router: Router,
    closing: CancellationToken,
}

/// Takes connections until `stop` is over, then lets the requests under way end. `closing` is cancelled at the stop.
pub(super) async fn receive(
    door: Door,
    listener: TcpListener,
    router: Router,
    closing: CancellationToken,
    stop: impl Future<Output = ()> + Send,
) -> std::io::Result<()> {
    let guests = Guests::new(door.limits);
    let mut keepers = JoinSet::new();
    if let Some(tls) = door.tls.clone() {
        keepers.spawn(tls.watch(LOOK));
    }
    let house = Arc::new(House { door, router, closing: closing.clone() });
    let mut connections = JoinSet::new();
    let mut sweep = tokio::time::interval(SWEEP);
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((socket, address)) => match guests.admit(address.ip()) {
                    Ok(guest) => drop(connections.spawn(host(house.clone(), socket, address, guest))),
                    Err(reason) => reason.count(),
                },
                Err(error) => {
                    // A client that gave up before it was taken is its own affair.
                    if !matches!(error.kind(), std::io::ErrorKind::ConnectionAborted | std::io::ErrorKind::ConnectionReset) {
                        warn!(%error, "the API cannot take a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            },
            _ = sweep.tick() => guests.sweep(Instant::now()),
            Some(_) = connections.join_next() => {}
            // It looks for ever, until it is dropped with this function.
            Some(ended) = keepers.join_next() => {
                tracing::error!(?ended, "certificates are not looked at any more: start the dispatcher again before they end");
            }
        }
    }
    drop(listener);
    closing.cancel();
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_GRACE, all).await.is_err() {
        warn!("requests were under way for {STOP_GRACE:?} after the stop; their connections are cut");
    }
    Ok(())
}

/// One connection, until it ends or has to.
async fn host(house: Arc<House>, socket: TcpStream, address: SocketAddr, guest: Guest) {
    if let Err(error) = socket.set_nodelay(true) {
        debug!(%error, "a connection keeps its send delay");
    }
    tokio::select! {
        () = guest.cut.cancelled() => debug!(%address, "a connection was cut"),
        () = secure(&house, socket, address, &guest.activity) => {}
    }
}

async fn secure(house: &House, mut socket: TcpStream, address: SocketAddr, activity: &Arc<Activity>) {
    let Some(tls) = &house.door.tls else {
        return speak(house, socket, address, activity, None).await;
    };
    match speaks_plain(&socket).await {
        Ok(false) => {}
        Ok(true) => {
            Reason::Plain.count();
            refuse_plain(&mut socket).await;
            return;
        }
        Err(error) => return debug!(%address, %error, "a connection ended before it asked"),
    }
    match TlsAcceptor::from(tls.config()).accept(socket).into_fallible().await {
        Ok(stream) => {
            let certificate = tls.asks_for_certificates().then(|| {
                let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                Arc::new(house.door.roles.certificate(shown))
            });
            speak(house, stream, address, activity, certificate).await;
        }
        Err((error, mut socket)) => {
            Reason::Handshake.count();
            debug!(%address, %error, "a TLS handshake failed");
            linger(&mut socket).await;
        }
    }
}

/// Whether a client begins with anything else than a TLS handshake.
async fn speaks_plain(socket: &TcpStream) -> std::io::Result<bool> {
    /// The type of a record that belongs to a handshake (RFC 8446, 5.1).
    const HANDSHAKE: u8 = 22;
    let mut first = [0; 1];
    match socket.peek(&mut first).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(first[0] != HANDSHAKE),
    }
}

async fn refuse_plain(socket: &mut TcpStream) {
    let body = r#"{"type":"/problems/bad-request","title":"Bad request","status":400,"detail":"this API speaks TLS: ask it with https://, and give the client its certificate authority (docs/tls.md)"}"#;
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    // Whoever is gone needs no answer.
    if socket.write_all(answer.as_bytes()).await.is_ok() {
        linger(socket).await;
    }
}

/// Lets a refused client read what it was told: closing with its bytes unread would take the answer back.
async fn linger(socket: &mut TcpStream) {
    let drain = async {
        let mut rest = [0; 1024];
        let _ = socket.shutdown().await;
        while matches!(socket.read(&mut rest).await, Ok(1..)) {}
    };
    let _ = tokio::time::timeout(LINGER, drain).await;
}

async fn speak<S>(
    house: &House,
    stream: S,
    address: SocketAddr,
    activity: &Arc<Activity>,
    certificate: Option<Arc<ClientCertificate>>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    activity.opened();
    let service = service_fn(|mut request: Request<Incoming>| {
        let busy = activity.busy();
        request.extensions_mut().insert(ConnectInfo(address));
        if let Some(certificate) = &certificate {
            request.extensions_mut().insert(certificate.clone());
        }
        let answer = TowerToHyperService::new(house.router.clone()).call(request.map(Body::new));
        async move { Ok::<_, Infallible>(answer.await?.map(|body| Answering::new(body, busy))) }
    });
    let wire = Wire::new(stream, activity.clone(), house.door.limits.stall);
    // Times are kept by `Guests` and `Wire`, which tell a client that is slow from one that waits.
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(wire), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = house.closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%address, %error, "a connection ended early");
    }
}
