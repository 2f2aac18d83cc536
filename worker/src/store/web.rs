//! Inputs of web servers, fetched by a client that goes only where it may.
//!
//! Invariant: a connection is made only to an address that [`guard`](ffpool_runtime::guard) allowed, and a host's name is resolved
//! once for the whole fetch, so what was judged is what is connected to. Every redirect is judged like the first address.
//! Neither proxies of the environment nor cookies nor automatic redirects take part.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ffpool_schema::failure::Cause;
use ffpool_schema::location::redact;
use ffpool_schema::message::hex;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED, LOCATION, RANGE,
    RETRY_AFTER,
};
use reqwest::{Client, Response, StatusCode, Url, redirect};
use tokio::time::timeout;

use super::fetch::Opened;
use super::trouble::Trouble;
use ffpool_runtime::guard::{Cidr, is_allowed};

/// Redirects that are followed.
const REDIRECTS: u32 = 5;
/// For a host's name.
const RESOLVE: Duration = Duration::from_secs(5);
/// For the connection with its TLS.
const CONNECT: Duration = Duration::from_secs(10);
/// For the head of an answer.
const ANSWER: Duration = Duration::from_secs(60);

/// What turns a host's name into addresses.
type Lookup = fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;

/// The system's own.
fn by_system(host: String, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
    Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
}

/// One resource of a web server.
pub struct WebOrigin {
    url: Url,
    allowed: Arc<[Cidr]>,
    lookup: Lookup,
    /// By host and port: the client that connects to the addresses judged for it, and to no others.
    clients: HashMap<(String, u16), Client>,
}

impl fmt::Debug for WebOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebOrigin({})", redact(self.url.as_str()))
    }
}

impl WebOrigin {
    /// The resource at an address.
    ///
    /// # Errors
    /// When it is no address.
    pub fn new(url: &str, allowed: Arc<[Cidr]>) -> Result<WebOrigin, Trouble> {
        let url = Url::parse(url)
            .map_err(|error| Trouble::lasting(Cause::ConfigBad, format!("the input's address is none: {error}")))?;
        Ok(WebOrigin { url, allowed, lookup: by_system, clients: HashMap::new() })
    }

    /// Asks for everything from a byte on, provided it is still of `version`; otherwise for the whole.
    pub(super) async fn open(&mut self, from: u64, version: Option<&str>) -> Result<Opened, Trouble> {
        let mut url = self.url.clone();
        for _ in 0..=REDIRECTS {
            let response = self.ask(&url, from, version).await?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return answered(response, from, version);
            }
            url = redirected(&url, response.headers())?;
        }
        Err(Trouble::lasting(Cause::Policy, format!("the input's server redirects more than {REDIRECTS} times")))
    }

    async fn ask(&mut self, url: &Url, from: u64, version: Option<&str>) -> Result<Response, Trouble> {
        let mut request = self.client(url).await?.get(url.clone()).header(ACCEPT_ENCODING, "identity");
        if let (Some(version), true) = (version, from > 0) {
            request = request.header(RANGE, format!("bytes={from}-")).header(IF_RANGE, version);
        }
        match timeout(ANSWER, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Trouble::of_exchange("fetch the input", &error.without_url())),
            Err(_) => Err(Trouble::passing(Cause::NetTransient, "the input's server does not answer")),
        }
    }

    /// The client for a host: its name is resolved and judged when it is first met.
    async fn client(&mut self, url: &Url) -> Result<Client, Trouble> {
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(Trouble::lasting(Cause::ConfigBad, "the input's address names no host"));
        };
        let key = (host.to_owned(), port);
        if let Some(client) = self.clients.get(&key) {
            return Ok(client.clone());
        }
        let addresses = judged_by(self.lookup, host, port, &self.allowed).await?;
        let client = client(host, &addresses)
            .build()
            .map_err(|error| Trouble::lasting(Cause::Platform, "an HTTP client cannot be made").because(&error))?;
        self.clients.insert(key, client.clone());
        Ok(client)
    }
}

/// A client for a host at addresses that were judged. It follows nothing by itself.
pub(super) fn client(host: &str, addresses: &[SocketAddr]) -> reqwest::ClientBuilder {
    Client::builder()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT)
        .user_agent(concat!("ffpool/", env!("CARGO_PKG_VERSION")))
        .resolve_to_addrs(host, addresses)
}

/// Every address of a host, all of which may be gone to.
pub(super) async fn judged(host: &str, port: u16, allowed: &[Cidr]) -> Result<Vec<SocketAddr>, Trouble> {
    judged_by(by_system, host, port, allowed).await
}

async fn judged_by(lookup: Lookup, host: &str, port: u16, allowed: &[Cidr]) -> Result<Vec<SocketAddr>, Trouble> {
    let addresses = resolve(lookup, host, port).await?;
    let Some(refused) = addresses.iter().find(|address| !is_allowed(address.ip(), allowed)) else {
        return Ok(addresses);
    };
    // The address itself is for the operator only: it tells of the network inside.
    tracing::warn!(host, address = %refused.ip(), "a host that a job names is at an address that is not public");
    Err(Trouble::lasting(
        Cause::Policy,
        format!("`{host}` is at an address that is not public; the operator can allow it with FFPOOL_FETCH_ALLOW"),
    ))
}

/// Every address of a host.
async fn resolve(lookup: Lookup, host: &str, port: u16) -> Result<Vec<SocketAddr>, Trouble> {
    // The library has turned every odd spelling of an IPv4 address into the usual one.
    if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let unresolved = || Trouble::passing(Cause::Dns, format!("the name `{host}` does not resolve"));
    match timeout(RESOLVE, lookup(host.to_owned(), port)).await {
        Ok(Ok(addresses)) if addresses.is_empty() => Err(unresolved()),
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(error)) => Err(unresolved().because(&error)),
        Err(_) => Err(unresolved()),
    }
}

/// Where an answer sends us.
fn redirected(from: &Url, headers: &HeaderMap) -> Result<Url, Trouble> {
    let refuse = |why: &str| Err(Trouble::lasting(Cause::Policy, format!("the input's server redirects {why}")));
    let Some(Ok(to)) = headers.get(LOCATION).and_then(|to| to.to_str().ok()).map(|to| from.join(to)) else {
        return refuse("without an address");
    };
    match (from.scheme(), to.scheme()) {
        ("http" | "https", "https") | ("http", "http") => {}
        ("https", "http") => return refuse("from https to http"),
        _ => return refuse("to what is neither http nor https"),
    }
    if !to.username().is_empty() || to.password().is_some() {
        return refuse("to an address with a user or password");
    }
    Ok(to)
}

/// What an answer means, and its body where it has one for us.
fn answered(response: Response, asked: u64, of: Option<&str>) -> Result<Opened, Trouble> {
    let status = response.status();
    let from = match status {
        StatusCode::OK => 0,
        StatusCode::PARTIAL_CONTENT if asked > 0 => asked,
        _ => return Err(refusal(status, response.headers())),
    };
    let headers = response.headers();
    if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(Trouble::lasting(Cause::InputBad, "the input's server sends it compressed though told not to"));
    }
    let total = match from {
        0 => response.content_length(),
        _ => Some(rest_of(headers, from)?),
    };
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (etag, changed) = (text(ETAG), text(LAST_MODIFIED));
    let modified = changed.as_deref().and_then(http_date);
    // A weak tag says that two versions mean the same, not that their bytes are the same.
    let named = etag.clone().filter(|tag| !tag.starts_with("W/")).or(changed);
    // The rest is of the version that was asked for, or there would be no rest; so its date need not stand there again (RFC
    // 9110, 15.3.7).
    let asked_for = of.filter(|_| from > 0 && etag.is_none()).map(str::to_owned);
    Ok(Opened {
        from,
        total,
        version: named.or(asked_for),
        etag,
        modified,
        sha256: promised(headers),
        body: response
            .bytes_stream()
            .map(|chunk| chunk.map_err(|error| Trouble::of_exchange("fetch the input", &error.without_url())))
            .boxed(),
    })
}

/// The length of the whole, from an answer that brings its end from `from` on.
fn rest_of(headers: &HeaderMap, from: u64) -> Result<u64, Trouble> {
    let parse = || {
        let (range, total) =
            headers.get(CONTENT_RANGE)?.to_str().ok()?.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last, total): (u64, u64, u64) =
            (first.trim().parse().ok()?, last.trim().parse().ok()?, total.trim().parse().ok()?);
        (first == from && last.checked_add(1) == Some(total)).then_some(total)
    };
    parse().ok_or_else(|| {
        Trouble::passing(Cause::InputChanged, "the input's server answers with another part than asked for")
    })
}

/// What a status without a body for us means.
fn refusal(status: StatusCode, headers: &HeaderMap) -> Trouble {
    let message = format!("the input's server answers {status}");
    match status.as_u16() {
        401 | 403 | 407 | 451 => Trouble::lasting(Cause::InputAuth, message),
        // The rest that was asked for is not there any more.
        412 | 416 => Trouble::passing(Cause::InputChanged, message),
        408 | 425 | 429 | 500..=599 => {
            let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
            Trouble { pause: seconds.map(Duration::from_secs), ..Trouble::passing(Cause::NetTransient, message) }
        }
        400..=499 => Trouble::lasting(Cause::InputMissing, message),
        _ => Trouble::lasting(Cause::InputBad, message),
    }
}

/// The sha256 of the whole that a server promises, as hex: RFC 9530, its predecessor, or S3's own header.
fn promised(headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let listed = |list: &str| {
        list.split(',').find_map(|item| {
            let (name, value) = item.trim().split_once('=')?;
            name.eq_ignore_ascii_case("sha-256").then(|| value.trim_matches(':').to_owned())
        })
    };
    let encoded = text("repr-digest")
        .and_then(listed)
        .or_else(|| text("digest").and_then(listed))
        .or_else(|| text("x-amz-checksum-sha256").map(str::to_owned))?;
    STANDARD.decode(encoded).ok().filter(|hash| hash.len() == 32).map(|hash| hex(&hash))
}

fn http_date(text: &str) -> Option<Timestamp> {
    rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::fetch::Origin;
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    /// Answers with a name's good address the first time, and with one inside ever after.
    fn changing(_: String, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let address = if LOOKUPS.fetch_add(1, Ordering::SeqCst) == 0 { GOOD } else { INSIDE };
        Box::pin(std::future::ready(Ok(vec![SocketAddr::from((address, port))])))
    }

    static LOOKUPS: AtomicUsize = AtomicUsize::new(0);
    const GOOD: [u8; 4] = [127, 0, 0, 1];
    const INSIDE: [u8; 4] = [127, 0, 0, 2];

    #[tokio::test]
    async fn a_name_whose_address_changes_leads_nowhere_else() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let good = tokio::net::TcpListener::bind((std::net::Ipv4Addr::from(GOOD), 0)).await.unwrap();
        let port = good.local_addr().unwrap().port();
        let inside = tokio::net::TcpListener::bind((std::net::Ipv4Addr::from(INSIDE), port)).await.unwrap();
        let serving = tokio::spawn(async move {
            // A redirect to the name itself, a whole, the rest of it: each on a connection of its own, so that there is every
            // reason to look the name up again.
            for answer in ["302 Found\r\nlocation: /b", "200 OK", "206 Partial Content\r\ncontent-range: bytes 2-4/5"] {
                let (mut client, _) = good.accept().await.unwrap();
                let mut head = [0; 4096];
                assert!(client.read(&mut head).await.unwrap() > 0);
                let body = if answer.starts_with("206") { "cde" } else { "abcde" };
                let head = format!("HTTP/1.1 {answer}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                client.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            }
        });
        let allowed: Arc<[Cidr]> = ["127.0.0.1".parse().unwrap()].into();
        let origin = || {
            let url = format!("http://rebinds.example:{port}/a");
            WebOrigin { lookup: changing, ..WebOrigin::new(&url, allowed.clone()).unwrap() }
        };
        let mut fetch = origin();
        assert_eq!(fetch.open(0, None).await.map(|opened| opened.total).ok(), Some(Some(5)));
        assert_eq!(fetch.open(2, Some("1")).await.map(|opened| opened.from).ok(), Some(2));
        assert_eq!(LOOKUPS.load(Ordering::SeqCst), 1, "a name is looked up once for a fetch");
        serving.await.unwrap();

        assert_eq!(origin().open(0, None).await.err().map(|trouble| trouble.cause), Some(Cause::Policy));
        assert_eq!(LOOKUPS.load(Ordering::SeqCst), 2);
        let visited = inside.into_std().unwrap().accept();
        let nobody = visited.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        assert!(nobody, "somebody was sent inside: {visited:?}");
    }

    #[test]
    fn a_part_is_taken_only_where_it_ends_with_the_whole() {
        for (range, expected) in [
            ("bytes 5-9/10", Some(10)),
            ("bytes 4-9/10", None),
            ("bytes 5-8/10", None),
            ("bytes 5-9/*", None),
            ("items 5-9/10", None),
            ("bytes 5-18446744073709551615/0", None),
        ] {
            assert_eq!(rest_of(&headers(&[("content-range", range)]), 5).ok(), expected, "{range}");
        }
    }

    #[test]
    fn promises_are_read_in_every_form() {
        let empty = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for (name, value) in [
            ("repr-digest", format!("md5=:x:, sha-256=:{empty}:")),
            ("digest", format!("SHA-256={empty}")),
            ("x-amz-checksum-sha256", empty.to_owned()),
        ] {
            assert_eq!(promised(&headers(&[(name, &value)])).as_deref(), Some(hex), "{name}");
        }
        // S3's checksum of a multipart upload is one of checksums.
        assert_eq!(promised(&headers(&[("x-amz-checksum-sha256", &format!("{empty}-3"))])), None);
    }

    #[test]
    fn a_redirect_never_leaves_tls_nor_the_web() {
        let from = Url::parse("https://h/a").unwrap();
        let to = |location: &str| redirected(&from, &headers(&[("location", location)])).map(String::from).ok();
        assert_eq!(to("/b?c=1").as_deref(), Some("https://h/b?c=1"));
        assert_eq!(to("//other/b").as_deref(), Some("https://other/b"));
        for refused in ["http://h/a", "file:///etc/passwd", "ftp://h/a", "https://u:p@h/a"] {
            assert_eq!(to(refused), None, "{refused}");
        }
    }

    #[test]
    fn a_signature_shows_nowhere() {
        let origin = Origin::Web(WebOrigin::new("https://h/a.mp4?sig=hunter2", Arc::new([])).unwrap());
        let shown = format!("{origin:?}");
        assert!(shown.contains("https://h/a.mp4?***") && !shown.contains("hunter2"), "{shown}");
        let trouble = WebOrigin::new("https://[hunter2/a?sig=hunter2", Arc::new([])).unwrap_err();
        assert!(!format!("{trouble:?}").contains("hunter2"), "{trouble:?}");
    }

    #[test]
    fn a_status_has_one_meaning() {
        for (status, cause, is_passing) in [
            (403, Cause::InputAuth, false),
            (404, Cause::InputMissing, false),
            (416, Cause::InputChanged, true),
            (429, Cause::NetTransient, true),
            (503, Cause::NetTransient, true),
            (204, Cause::InputBad, false),
        ] {
            let trouble = refusal(StatusCode::from_u16(status).unwrap(), &headers(&[("retry-after", "7")]));
            assert_eq!((trouble.cause, trouble.is_passing), (cause, is_passing), "{status}");
            assert_eq!(trouble.pause.is_some(), matches!(status, 429 | 503));
        }
    }
}
