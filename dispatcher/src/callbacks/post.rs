//! One try of one callback: a POST to an address that was judged.
//!
//! Invariant: the host's name is resolved here, every address that it has is judged, and the connection goes to these and no
//! others; no redirect is followed, no proxy asked, and of the answer nothing is read but its status.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ffpool_runtime::guard::{Cidr, is_allowed};
use ffpool_runtime::settings::chain;
use ffpool_schema::callback::{DELIVERY_HEADER, EVENT_HEADER, SIGNATURE_HEADER, TRY_HEADER, event_of};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Url, redirect};
use tokio::time::timeout;

use crate::ledger::PendingCallback;

/// For a host's name.
const RESOLVE: Duration = Duration::from_secs(3);
/// For the connection with its TLS.
const CONNECT: Duration = Duration::from_secs(4);
/// For the whole try.
pub(super) const TRY: Duration = Duration::from_secs(10);

/// Why a try did not succeed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) reason: String,
    /// The HTTP status, where there was an answer.
    pub(super) status: Option<u16>,
    /// Whether another try is of no use.
    pub(super) is_final: bool,
}

impl Failure {
    pub(super) fn passing(reason: impl Into<String>) -> Failure {
        Failure { reason: reason.into(), status: None, is_final: false }
    }

    pub(super) fn lasting(reason: impl Into<String>) -> Failure {
        Failure { reason: reason.into(), status: None, is_final: true }
    }
}

/// Sends it. The status, when that is of success.
pub(super) async fn post(
    pending: &PendingCallback,
    body: Vec<u8>,
    signature: &str,
    allowed: &[Cidr],
) -> Result<u16, Failure> {
    let url = Url::parse(&pending.url).map_err(|error| Failure::lasting(format!("the address is none: {error}")))?;
    let tried = async {
        let client = client(&url, allowed).await?;
        let request = client
            .post(url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(SIGNATURE_HEADER, signature)
            .header(DELIVERY_HEADER, pending.id.to_string())
            .header(EVENT_HEADER, event_of(pending.state))
            .header(TRY_HEADER, pending.tries.to_string())
            .body(body);
        let answer = request.send().await.map_err(|error| Failure::passing(chain(&error.without_url())))?;
        // Dropping the answer ends the connection: however much its server would send, nobody reads it.
        Ok(answer.status())
    };
    let status = match timeout(TRY, tried).await {
        Ok(status) => status?,
        Err(_) => return Err(Failure::passing(format!("no answer within {} s", TRY.as_secs()))),
    };
    if status.is_success() {
        return Ok(status.as_u16());
    }
    let reason = match status.as_u16() {
        301..=399 => "the receiver redirects, which is not followed",
        410 => "the receiver wants it no more",
        _ => "the receiver did not take it",
    };
    // Gone means for ever (RFC 9110, 15.5.11); all else may be repaired.
    Err(Failure { reason: reason.to_owned(), status: Some(status.as_u16()), is_final: status.as_u16() == 410 })
}

async fn client(url: &Url, allowed: &[Cidr]) -> Result<Client, Failure> {
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return Err(Failure::lasting("the address names no host"));
    };
    let addresses = resolve(host, port).await?;
    if let Some(refused) = addresses.iter().find(|address| !is_allowed(address.ip(), allowed)) {
        // The address itself is for the operator only: it tells of the network inside.
        tracing::warn!(host, address = %refused.ip(), "a callback's host is at an address that is not public");
        let reason = format!(
            "`{host}` is at an address that is not public; the operator can allow it with FFPOOL_CALLBACK_ALLOW"
        );
        // What a name stands for may change, and an answer of a resolver may be wrong once.
        let is_final = host_address(host).is_some();
        return Err(Failure { reason, status: None, is_final });
    }
    let mut builder = Client::builder()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT)
        .timeout(TRY)
        .user_agent(concat!("ffpool/", env!("CARGO_PKG_VERSION")))
        .resolve_to_addrs(host, &addresses);
    if url.scheme() == "http" {
        // Otherwise the client refuses to exist on a machine without the system's certificates.
        builder = builder.tls_certs_only([]);
    }
    builder.build().map_err(|error| Failure::passing(format!("an HTTP client cannot be made: {}", chain(&error))))
}

/// The address that a host is, if it is no name. The library has turned every odd spelling of an IPv4 address into the
/// usual one.
fn host_address(host: &str) -> Option<IpAddr> {
    host.trim_matches(['[', ']']).parse().ok()
}

/// Every address of a host.
async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, Failure> {
    if let Some(address) = host_address(host) {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let unresolved = || Failure::passing(format!("the name `{host}` does not resolve"));
    match timeout(RESOLVE, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(found)) => {
            let addresses: Vec<SocketAddr> = found.collect();
            if addresses.is_empty() { Err(unresolved()) } else { Ok(addresses) }
        }
        Ok(Err(_)) | Err(_) => Err(unresolved()),
    }
}
