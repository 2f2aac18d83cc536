//! The way into the API: connections are taken, secured and bounded before a request is read.
//!
//! Invariants:
//! * where TLS is asked for, nothing is answered without it; where client certificates are, no request without one that is
//!   good at that time;
//! * whoever connects holds a place for a bounded time only, unless a request of theirs is being answered.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderValue, Request, header};
use axum::response::{IntoResponse as _, Response};
use ffpool_runtime::tls::ServerTls;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::access::Whose;
use super::certificates::ClientCertificate;
use super::client_roles::ClientRoles;
use super::guests::{Activity, Guest, Guests, Limits, Visit};
use super::handshake::{Arrival, Handshakes, secure};
use super::problem::{ApiError, Kind};
use super::refusals::Refused;
use super::wire::{Answering, Wire};
use super::{App, throttle};

/// Requests that are under way when the API stops get so long to end; then their connections are cut. Shorter than what
/// the process gives its parts, so that the API ends by itself.
const STOP_GRACE: Duration = Duration::from_secs(8);
/// How often is looked for connections that only hold a place.
const SWEEP: Duration = Duration::from_secs(1);
/// How often is looked for new certificates, and for new roles of clients'.
const LOOK: Duration = Duration::from_secs(5);
/// After a failure to take a connection, such as being out of files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
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
    app: App,
    router: Router,
    guests: Guests,
    handshakes: Handshakes,
}

/// Takes connections until `stop` is over, then lets the requests under way end. The closing of `app` is cancelled at the stop.
pub(super) async fn receive(
    door: Door,
    listener: TcpListener,
    app: App,
    router: Router,
    stop: impl Future<Output = ()> + Send,
) -> std::io::Result<()> {
    let proxies = app.throttle.trusted_proxies();
    let guests = Guests::new(door.limits, proxies.clone());
    let handshakes = Handshakes::new(door.limits, proxies);
    let mut keepers = JoinSet::new();
    if let Some(tls) = door.tls.clone() {
        keepers.spawn(tls.watch(LOOK));
        keepers.spawn(door.roles.clone().watch(LOOK));
    }
    let closing = app.closing.clone();
    let house = Arc::new(House { door, app, router, guests: guests.clone(), handshakes });
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
                tracing::error!(
                    ?ended,
                    "certificates and what clients' ones may do are not read again any more: start the dispatcher anew \
                     before the certificates end"
                );
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
        () = open(&house, socket, address, &guest) => {}
    }
}

async fn open(house: &Arc<House>, socket: TcpStream, address: SocketAddr, guest: &Guest) {
    let Some(tls) = &house.door.tls else {
        return speak(house, socket, address, &guest.activity, None).await;
    };
    let arrival = Arrival { address, cut: &guest.cut };
    let secured = secure(&house.app, &house.handshakes, (tls, &house.door.roles), socket, arrival).await;
    if let Some((stream, certificate)) = secured {
        speak(house, stream, address, &guest.activity, certificate).await;
    }
}

async fn speak<S>(
    house: &Arc<House>,
    stream: S,
    address: SocketAddr,
    activity: &Arc<Activity>,
    certificate: Option<Arc<ClientCertificate>>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    activity.opened();
    let service = service_fn(|request: Request<Incoming>| {
        let busy = activity.busy();
        let answer = answer(house.clone(), address, certificate.clone(), request.map(Body::new));
        async move {
            let (answer, visit) = answer.await;
            Ok::<_, Infallible>(answer.map(|body| Answering::new(body, busy, visit)))
        }
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
        () = house.app.closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%address, %error, "a connection ended early");
    }
}

/// Answers one request, if whoever sends it may still ask; and what counts it while it is answered.
async fn answer(
    house: Arc<House>,
    address: SocketAddr,
    certificate: Option<Arc<ClientCertificate>>,
    mut request: Request<Body>,
) -> (Response, Option<Visit>) {
    request.extensions_mut().insert(ConnectInfo(address));
    if let Some(certificate) = certificate {
        if let Some(reason) = certificate.refusal() {
            let route = format!("{} {}", request.method(), request.uri().path());
            return (turn_away(&house.app, address, route, &certificate, &reason).await, None);
        }
        request.extensions_mut().insert(certificate);
    }
    // What comes by a proxy that is named counts for who sent it, not for the proxy.
    let mut visit = None;
    if house.guests.is_proxy(address.ip()) {
        let client = house.app.throttle.address_of(&request);
        visit = house.guests.visit(client);
        if visit.is_none() {
            return (throttle::too_many_at_once(house.door.limits.per_address).into_response(), None);
        }
    }
    let answer = TowerToHyperService::new(house.router.clone()).call(request).await;
    (answer.unwrap_or_else(|never| match never {}), visit)
}

/// A certificate that was good when the connection was made and is so no more: the client is told, and the connection ends.
async fn turn_away(
    app: &App,
    address: SocketAddr,
    route: String,
    certificate: &ClientCertificate,
    reason: &str,
) -> Response {
    let detail = format!("{reason}: connect again with a certificate that is in force");
    let refused = ApiError::new(Kind::Forbidden, detail);
    let note = Refused {
        whose: Whose::Certificate(certificate.standing().0),
        address: address.ip(),
        route,
        status: Some(refused.status()),
        reason: refused.detail(),
    };
    app.refusals.note(&app.ledger, note).await;
    let mut answer = refused.into_response();
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}
