//! The first step of a connection: plain HTTP is told where it is, TLS is spoken, and who shows what.
//!
//! Invariants:
//! * nothing is answered here but that the API speaks TLS;
//! * handshakes have a rate for each address and a number under way, for each address and for all, because each costs us a
//!   signature and a stranger nothing; one too many costs us neither a signature nor a byte.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ffpool_runtime::guard::Cidr;
use ffpool_runtime::tls::ServerTls;
use ffpool_schema::metrics::API_HANDSHAKES;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::App;
use super::access::Whose;
use super::certificates::{ClientCertificate, refused_because};
use super::client_roles::ClientRoles;
use super::guests::{Limits, Reason};
use super::problem::{ApiError, Kind};
use super::refusals::Refused;
use crate::limits::{Buckets, Limit, Origin};

/// For a client that is refused to read why.
const LINGER: Duration = Duration::from_secs(1);
/// Addresses whose rate is remembered: a few megabytes.
const ROOM: usize = 50_000;

/// What became of a handshake, as the metric tells it.
const DONE: &str = "done";
const FAILED: &str = "failed";
const REFUSED: &str = "refused";

/// The handshakes of one API.
pub(super) struct Handshakes {
    limits: Limits,
    /// Connections of these are for many clients: neither rate nor number of one address is theirs.
    proxies: Arc<[Cidr]>,
    began: Instant,
    state: Mutex<State>,
}

struct State {
    rates: Buckets<Origin>,
    next: u64,
    /// The one that began first is first.
    under_way: BTreeMap<u64, (Option<Origin>, CancellationToken)>,
    shares: HashMap<Origin, usize>,
}

/// A handshake that is under way until this is dropped.
struct Turn<'a> {
    number: u64,
    all: &'a Handshakes,
}

impl Handshakes {
    pub(super) fn new(limits: Limits, proxies: Arc<[Cidr]>) -> Handshakes {
        let state = State { rates: Buckets::new(ROOM), next: 0, under_way: BTreeMap::new(), shares: HashMap::new() };
        Handshakes { limits, proxies, began: Instant::now(), state: Mutex::new(state) }
    }

    /// Begins one for a connection that `cut` ends. When all turns are taken, the one that has had its turn for longest is
    /// ended: an honest one takes milliseconds.
    fn begin(&self, address: IpAddr, cut: &CancellationToken) -> Result<Turn<'_>, Reason> {
        let is_proxy = self.proxies.iter().any(|range| range.contains(address.to_canonical()));
        let origin = (!is_proxy).then(|| Origin::of(address));
        let mut state = self.locked();
        if let Some(origin) = origin {
            if state.shares.get(&origin).is_some_and(|count| *count >= self.limits.handshakes_per_address) {
                return Err(Reason::Handshakes);
            }
            if let Limit(Some(rate)) = self.limits.handshake_rate {
                state.rates.take(origin, rate, self.began.elapsed()).map_err(|_| Reason::HandshakeRate)?;
            }
            *state.shares.entry(origin).or_default() += 1;
        }
        if state.under_way.len() >= self.limits.handshakes
            && let Some((oldest, _)) = state.under_way.first_key_value()
        {
            let oldest = *oldest;
            if let Some(cut) = state.leave(oldest) {
                Reason::Handshakes.count();
                cut.cancel();
            }
        }
        let number = state.next;
        state.next += 1;
        state.under_way.insert(number, (origin, cut.clone()));
        Ok(Turn { number, all: self })
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn leave(&mut self, number: u64) -> Option<CancellationToken> {
        let (origin, cut) = self.under_way.remove(&number)?;
        if let Some(origin) = origin
            && let Some(count) = self.shares.get_mut(&origin)
        {
            *count -= 1;
            if *count == 0 {
                self.shares.remove(&origin);
            }
        }
        Some(cut)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.all.locked().leave(self.number);
    }
}

/// A connection that is secured, and the certificate that its client showed, where one has to be shown.
pub(super) type Secured = (TlsStream<TcpStream>, Option<Arc<ClientCertificate>>);

/// Whose connection it is and who ends it.
pub(super) struct Arrival<'a> {
    pub(super) address: SocketAddr,
    pub(super) cut: &'a CancellationToken,
}

/// Makes a connection secure; `None`: it is over.
pub(super) async fn secure(
    app: &App,
    handshakes: &Handshakes,
    (tls, roles): (&ServerTls, &ClientRoles),
    mut socket: TcpStream,
    Arrival { address, cut }: Arrival<'_>,
) -> Option<Secured> {
    match speaks_plain(&socket).await {
        Ok(false) => {}
        Ok(true) => {
            Reason::Plain.count();
            refuse_plain(&mut socket).await;
            return None;
        }
        Err(error) => {
            debug!(%address, %error, "a connection ended before it asked");
            return None;
        }
    }
    let turn = match handshakes.begin(address.ip(), cut) {
        Ok(turn) => turn,
        Err(reason) => {
            reason.count();
            count(REFUSED);
            return None;
        }
    };
    let accepted = TlsAcceptor::from(tls.config()).accept(socket).into_fallible().await;
    drop(turn);
    match accepted {
        Ok(stream) => {
            count(DONE);
            let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let certificate = tls.asks_for_certificates().then(|| Arc::new(ClientCertificate::new(tls, roles, shown)));
            Some((stream, certificate))
        }
        Err((error, mut socket)) => {
            Reason::Handshake.count();
            count(FAILED);
            debug!(%address, %error, "a TLS handshake failed");
            let why = error.get_ref().and_then(|source| source.downcast_ref()).and_then(refused_because);
            if let Some(reason) = why {
                let (whose, route) = (Whose::Handshake, "TLS handshake".to_owned());
                let note = Refused { whose, address: address.ip(), route, status: None, reason: &reason };
                app.refusals.note(&app.ledger, note).await;
            }
            linger(&mut socket).await;
            None
        }
    }
}

fn count(outcome: &'static str) {
    metrics::counter!(API_HANDSHAKES, "outcome" => outcome).increment(1);
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
    let detail =
        "this API speaks TLS: ask it with https://, and give the client its certificate authority (docs/tls.md)";
    let body = ApiError::new(Kind::BadRequest, detail).body();
    let head = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    // Whoever is gone needs no answer.
    if socket.write_all(&[head.as_bytes(), &body].concat()).await.is_ok() {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn handshakes(limits: Limits) -> Handshakes {
        Handshakes::new(limits, ["10.9.0.0/16".parse().unwrap()].into())
    }

    #[test]
    fn an_address_has_a_number_and_a_rate_of_handshakes_and_takes_no_other_s() {
        let limits =
            Limits { handshakes_per_address: 2, handshake_rate: "0.001/5".parse().unwrap(), ..Limits::default() };
        let all = handshakes(limits);
        let cut = CancellationToken::new();
        let first = all.begin(ip("10.0.0.1"), &cut).unwrap();
        let _second = all.begin(ip("::ffff:10.0.0.1"), &cut).unwrap();
        assert_eq!(all.begin(ip("10.0.0.1"), &cut).err(), Some(Reason::Handshakes));
        drop(first);
        for _ in 0..3 {
            drop(all.begin(ip("10.0.0.1"), &cut).unwrap());
        }
        assert_eq!(all.begin(ip("10.0.0.1"), &cut).err(), Some(Reason::HandshakeRate));
        drop(all.begin(ip("10.0.0.2"), &cut).unwrap());
        let proxied: Vec<_> = (0..20).map(|_| all.begin(ip("10.9.0.1"), &cut).unwrap()).collect();
        drop(proxied);
    }

    #[test]
    fn when_all_turns_are_taken_the_one_that_takes_longest_ends() {
        let all = handshakes(Limits { handshakes: 2, ..Limits::default() });
        let cuts = [(); 3].map(|()| CancellationToken::new());
        let turns = [0, 1, 2].map(|number| all.begin(ip(&format!("10.0.0.{number}")), &cuts[number]).unwrap());
        assert_eq!([0, 1, 2].map(|number: usize| cuts[number].is_cancelled()), [true, false, false]);
        drop(turns);
        let state = all.locked();
        assert!(state.under_way.is_empty() && state.shares.is_empty());
    }
}
