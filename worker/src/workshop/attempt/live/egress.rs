//! The way of a live attempt to web servers: a proxy on the loopback that goes only where a worker may.
//!
//! Invariant: a connection is made only to an address that was judged for this request, whatever a playlist or a
//! redirect names; one request is served for each connection, which ends with its client, and all end with the attempt. The tool
//! speaks plain HTTP to the proxy and nothing else: FFmpeg needs its own `httpproxy://` for `https` through a proxy, and a playlist
//! could name that. So the proxy speaks TLS itself, to the hosts that were named with `https`, and playlists and redirects come in
//! with such addresses in clear. What came by TLS leads to nothing without it.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::{Client, Response, header};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use ffpool_schema::failure::Cause;

use crate::store::trouble::Trouble;
use crate::workshop::Shop;

/// The longest head of a request.
const HEAD_BYTES: usize = 16 * 1024;
/// For the head of a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// For a whole playlist.
const PLAYLIST_PATIENCE: Duration = Duration::from_secs(30);
/// Connections at a time. A playlist has a few streams.
const MOST: usize = 32;
/// Hosts that are known to be spoken to by TLS. A playlist has a few.
const MOST_HOSTS: usize = 1000;
/// The largest playlist that is read.
const PLAYLIST_BYTES: usize = 4 << 20;
/// A playlist that was not read for so long counts no more: some servers put a token into the path, and every reading of theirs
/// is another address. Playlists that lead to playlists are too many long before.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// What TLS is called in addresses.
const TLS: &str = "https://";
/// What its absence is called.
const PLAIN: &str = "http://";
const BAD_GATEWAY: &[u8] = b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\n";
/// What a playlist begins with.
const PLAYLIST: &[u8] = b"#EXTM3U";
/// After a connection that could not be taken.
const AGAIN: Duration = Duration::from_millis(100);

/// A proxy. Dropping it ends it with all its connections.
pub(super) struct Egress {
    pub(super) port: u16,
    way: Arc<Way>,
    serving: JoinHandle<()>,
}

/// What the connections of a proxy share.
struct Way {
    shop: Arc<Shop>,
    /// Hosts and ports that TLS is spoken to.
    secure: Mutex<BTreeSet<(String, u16)>>,
    playlists: Mutex<Playlists>,
    /// Why the last request that came to nothing did.
    trouble: Mutex<Option<Trouble>>,
    /// Clients for hosts, each for the addresses that it goes to.
    clients: Mutex<HashMap<Place, (Vec<SocketAddr>, Client)>>,
}

/// A host, its port, and whether it is spoken to by TLS.
type Place = (String, u16, bool);

impl Drop for Egress {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Egress {
    /// A way to web servers; to `secure` by TLS.
    pub(super) async fn open(shop: Arc<Shop>, secure: Option<(String, u16)>) -> io::Result<Egress> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let way = Arc::new(Way {
            shop,
            secure: Mutex::new(secure.into_iter().collect()),
            playlists: Mutex::default(),
            trouble: Mutex::default(),
            clients: Mutex::default(),
        });
        Ok(Egress { port, way: way.clone(), serving: tokio::spawn(serve(listener, way)) })
    }

    /// A run begins: what was said of and counted for an earlier one is over.
    pub(super) fn begin(&self) {
        let _ = self.trouble();
        self.way.playlists.lock().unwrap_or_else(PoisonError::into_inner).read.clear();
    }

    /// Why the last request that came to nothing did, once.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.way.trouble.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

async fn serve(listener: TcpListener, way: Arc<Way>) {
    let room = Arc::new(Semaphore::new(MOST));
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            // Too many open files, or a client that is gone already: the next may do.
            Err(error) => {
                tracing::warn!(%error, "the proxy of a live attempt takes no connection");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        let way = way.clone();
        connections.spawn(async move {
            let _permit = permit;
            let (reader, writer) = client.into_split();
            if let Err(error) = pass(reader, writer, &way).await {
                tracing::debug!(%error, "a request of a live attempt came to nothing");
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// What a client wants.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    host: String,
    port: u16,
    path: String,
    /// The part of it that is wanted.
    range: Option<String>,
}

async fn pass(mut reader: OwnedReadHalf, mut client: OwnedWriteHalf, way: &Way) -> io::Result<()> {
    let head = timeout(PATIENCE, read_head(&mut reader)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let Some(wanted) = wanted(&head) else {
        return client.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
    };
    tokio::select! {
        served = fetch(client, way, &wanted) => served,
        // Whoever asked has given up: a server that is silent would hold the place for ever.
        () = is_gone(reader) => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

/// Until a client that has asked ends its connection.
async fn is_gone(mut reader: OwnedReadHalf) {
    let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
}

async fn fetch(mut client: OwnedWriteHalf, way: &Way, wanted: &Wanted) -> io::Result<()> {
    let addresses = match way.shop.stores.reach(&wanted.host, wanted.port).await {
        Ok(addresses) => addresses,
        Err(trouble) => {
            tracing::warn!(host = wanted.host, cause = %trouble.cause, "a live source leads to where it may not");
            way.note(trouble);
            return client.write_all(b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n").await;
        }
    };
    let is_secure = way.is_secure(wanted);
    let response = way.get(wanted, is_secure, &addresses).await.and_then(|response| {
        if is_secure && leads_out(&response) { Err(leads_from_tls(&wanted.host)) } else { Ok(response) }
    });
    match response {
        Ok(response) => answer(client, way, is_secure, response).await,
        Err(trouble) => {
            tracing::debug!(host = wanted.host, cause = %trouble.cause, "a web server of a live attempt is no good");
            // Of a server without TLS the tool says enough itself.
            if is_secure {
                way.note(trouble);
            }
            client.write_all(BAD_GATEWAY).await
        }
    }
}

/// Whether an answer leads to an address without TLS.
fn leads_out(response: &Response) -> bool {
    response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()).is_some_and(is_plain)
}

fn is_plain(address: &str) -> bool {
    address.get(..PLAIN.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(PLAIN))
}

/// Whether a playlist names an address without TLS.
fn names_plain(playlist: &str) -> bool {
    playlist.lines().any(|line| is_plain(line.trim()) || line.split("URI=\"").skip(1).any(is_plain))
}

fn leads_from_tls(host: &str) -> Trouble {
    Trouble::lasting(
        Cause::Policy,
        format!("{host} leads from https to http, where nothing is held against a certificate"),
    )
}

/// Playlists that the run has read lately, without what is behind `?`, and when.
#[derive(Default)]
struct Playlists {
    read: HashMap<String, Instant>,
}

impl Playlists {
    /// Counts a playlist that is read now; answers whether it is none too many.
    fn count(&mut self, address: String, most: usize, now: Instant) -> bool {
        self.read.retain(|_, at| now.saturating_duration_since(*at) < FORGOTTEN_AFTER);
        if self.read.len() >= most && !self.read.contains_key(&address) {
            return false;
        }
        self.read.insert(address, now);
        true
    }
}

impl Way {
    fn note(&self, trouble: Trouble) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(trouble);
    }

    /// Counts a playlist; one that is too many is refused. Playlists that lead to playlists end so, however deep they lie.
    fn count(&self, playlist: &reqwest::Url) -> Result<(), Trouble> {
        let most = self.shop.settings.bounds.max_playlists as usize;
        let mut playlists = self.playlists.lock().unwrap_or_else(PoisonError::into_inner);
        let mut address = playlist.clone();
        address.set_query(None);
        if !playlists.count(address.into(), most, Instant::now()) {
            let message = format!("the source leads to more than {most} playlists (FFPOOL_MAX_PLAYLISTS)");
            return Err(Trouble::lasting(Cause::InputPlaylists, message));
        }
        Ok(())
    }

    fn is_secure(&self, wanted: &Wanted) -> bool {
        let secure = self.secure.lock().unwrap_or_else(PoisonError::into_inner);
        secure.contains(&(wanted.host.clone(), wanted.port))
    }

    /// Asks a host.
    async fn get(&self, wanted: &Wanted, is_secure: bool, addresses: &[SocketAddr]) -> Result<Response, Trouble> {
        let client = self.client((wanted.host.clone(), wanted.port, is_secure), addresses)?;
        let scheme = if is_secure { TLS } else { PLAIN };
        let mut request = client.get(format!("{scheme}{}:{}{}", bracketed(&wanted.host), wanted.port, wanted.path));
        if let Some(range) = &wanted.range {
            request = request.header(header::RANGE, range);
        }
        request.send().await.map_err(|error| Trouble::of_exchange("the source's server", &error))
    }

    /// The client for a host: one that was made before, if it goes to the addresses that were judged just now.
    fn client(&self, place: Place, addresses: &[SocketAddr]) -> Result<Client, Trouble> {
        let mut judged = addresses.to_vec();
        judged.sort_unstable();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = clients.get(&place).filter(|(goes_to, _)| *goes_to == judged) {
            return Ok(client.clone());
        }
        if clients.len() >= MOST_HOSTS {
            clients.clear();
        }
        let client = self.shop.stores.live_client(&place.0, place.2, addresses)?;
        clients.insert(place, (judged, client.clone()));
        Ok(client)
    }

    fn in_clear(&self, text: &str) -> String {
        in_clear(text, &mut self.secure.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A text with the addresses of TLS in clear; their hosts are remembered.
fn in_clear(text: &str, secure: &mut BTreeSet<(String, u16)>) -> String {
    let (mut clear, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once(TLS) {
        let is_over = |c: char| matches!(c, '/' | '?' | '#' | '"' | '\'' | ',') || c.is_whitespace();
        let (place, tail) = after.split_at(after.find(is_over).unwrap_or(after.len()));
        clear += before;
        match authority(place, Some(443)).filter(|place| secure.len() < MOST_HOSTS || secure.contains(place)) {
            Some((host, port)) => {
                clear += &format!("http://{}:{port}", bracketed(&host));
                secure.insert((host, port));
            }
            // The tool does not speak it.
            None => clear += &format!("{TLS}{place}"),
        }
        rest = tail;
    }
    clear + rest
}

/// A text that came by TLS with the scheme said in addresses that leave it out: the tool would take its own, which is plain.
fn with_scheme(text: &str) -> String {
    let whole = |line: &str| {
        let line = line.replace("URI=\"//", "URI=\"https://");
        if line.starts_with("//") { format!("https:{line}") } else { line }
    };
    text.split_inclusive('\n').map(whole).collect()
}

/// Gives an answer to the tool, a playlist with its addresses in clear.
async fn answer(mut client: OwnedWriteHalf, way: &Way, is_secure: bool, mut response: Response) -> io::Result<()> {
    let clear = |text: &str| way.in_clear(&if is_secure { with_scheme(text) } else { text.to_owned() });
    let status = response.status();
    let mut head = format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or("-"));
    let is_playlist = {
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
        let path = response.url().path().to_ascii_lowercase();
        kind.to_ascii_lowercase().contains("mpegurl") || path.ends_with(".m3u8")
    };
    for name in [header::CONTENT_TYPE, header::CONTENT_RANGE, header::LOCATION] {
        if let Some(value) = response.headers().get(&name).and_then(|value| value.to_str().ok()) {
            head += &format!("{name}: {}\r\n", clear(value));
        }
    }
    let next = async |response: &mut Response| response.chunk().await.map_err(io::Error::other);
    let first = next(&mut response).await?.unwrap_or_default();
    if is_playlist || first.starts_with(PLAYLIST) {
        if let Err(trouble) = way.count(response.url()) {
            way.note(trouble);
            return client.write_all(BAD_GATEWAY).await;
        }
        let mut bytes = first.to_vec();
        let rest = async {
            while let Some(more) = next(&mut response).await? {
                bytes.extend_from_slice(&more);
                if bytes.len() > PLAYLIST_BYTES {
                    let message = format!("a playlist of the source is larger than {} MiB", PLAYLIST_BYTES >> 20);
                    way.note(Trouble::lasting(Cause::InputPlaylists, message));
                    return Err(io::Error::from(io::ErrorKind::InvalidData));
                }
            }
            Ok(())
        };
        timeout(PLAYLIST_PATIENCE, rest).await.map_err(|_| io::ErrorKind::TimedOut)??;
        let text = String::from_utf8_lossy(&bytes);
        if is_secure && names_plain(&text) {
            way.note(leads_from_tls(response.url().host_str().unwrap_or_default()));
            return client.write_all(BAD_GATEWAY).await;
        }
        let text = clear(&text);
        let head = format!("{head}Content-Length: {}\r\nConnection: close\r\n\r\n", text.len());
        client.write_all(head.as_bytes()).await?;
        return client.write_all(text.as_bytes()).await;
    }
    if let Some(length) = response.content_length() {
        head += &format!("Content-Length: {length}\r\n");
    }
    client.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).await?;
    client.write_all(&first).await?;
    while let Some(more) = next(&mut response).await? {
        client.write_all(&more).await?;
    }
    Ok(())
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// The head of a request. What comes after it on the connection is not looked at.
async fn read_head(client: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            bytes.truncate(end + 4);
            return String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into());
        }
        if bytes.len() >= HEAD_BYTES || client.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

/// Reads a request for a resource by its whole address. No tunnel is made.
fn wanted(head: &str) -> Option<Wanted> {
    let (line, fields) = head.split_once("\r\n")?;
    let mut words = line.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let rest = target.strip_prefix("http://").filter(|_| method == "GET")?;
    let (place, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (host, port) = authority(place, Some(80))?;
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let range = fields
        .split("\r\n")
        .filter_map(|field| field.split_once(':'))
        .find_map(|(name, value)| name.eq_ignore_ascii_case("range").then(|| value.trim().to_owned()));
    version.starts_with("HTTP/").then_some(Wanted { host, port, path, range })
}

fn authority(text: &str, usual: Option<u16>) -> Option<(String, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port.parse().ok()?)),
        Some(_) | None => (text, usual),
    };
    let host = host.trim_matches(['[', ']']);
    (!host.is_empty() && !host.contains('@')).then_some((host.to_owned(), port?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_become_requests_of_their_server_and_there_are_no_tunnels() {
        let get =
            "GET http://h:81/a/b.ts?x=1 HTTP/1.1\r\nHost: h:81\r\nRange: bytes=0-\r\nConnection: keep-alive\r\n\r\n";
        let (path, range) = ("/a/b.ts?x=1".to_owned(), Some("bytes=0-".to_owned()));
        assert_eq!(wanted(get), Some(Wanted { host: "h".into(), port: 81, path, range }));
        assert_eq!(wanted("GET http://[2001:db8::1] HTTP/1.1\r\n\r\n").unwrap().host, "2001:db8::1");
        assert_eq!(wanted("GET http://h HTTP/1.1\r\n\r\n").unwrap().port, 80);
        for wrong in [
            "GET /a HTTP/1.1\r\n\r\n",
            "CONNECT h:443 HTTP/1.1\r\n\r\n",
            "GET https://h/ HTTP/1.1\r\n\r\n",
            "GET httpproxy://h/ HTTP/1.1\r\n\r\n",
            "GET http://u@h/ HTTP/1.1\r\n\r\n",
            "x",
        ] {
            assert_eq!(wanted(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn addresses_of_tls_come_in_clear_and_their_hosts_are_remembered() {
        let mut secure = BTreeSet::new();
        let text = "#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI=\"https://keys.example:8443/k?a=1\"\na.ts\n\
                    https://[2001:db8::1]/b.ts\nhttp://plain.example/c.ts\nhttpproxy://10.0.0.1/x\nhttps://u@h/d.ts\n";
        let clear = "#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI=\"http://keys.example:8443/k?a=1\"\na.ts\n\
                     http://[2001:db8::1]:443/b.ts\nhttp://plain.example/c.ts\nhttpproxy://10.0.0.1/x\nhttps://u@h/d.ts\n";
        assert_eq!(in_clear(text, &mut secure), clear);
        let hosts = [("2001:db8::1".to_owned(), 443), ("keys.example".to_owned(), 8443)];
        assert_eq!(secure, BTreeSet::from(hosts));
    }

    #[test]
    fn what_came_by_tls_says_the_scheme_of_addresses_that_leave_it_out() {
        let text = "#EXTM3U\n#EXT-X-MAP:URI=\"//cdn.example/i.mp4\"\n//cdn.example/a.ts\n/b.ts\nc//d.ts\n";
        let whole = "#EXTM3U\n#EXT-X-MAP:URI=\"https://cdn.example/i.mp4\"\nhttps://cdn.example/a.ts\n/b.ts\nc//d.ts\n";
        assert_eq!(with_scheme(text), whole);
        assert!(!names_plain(text) && !names_plain(whole));
        for plain in ["#EXTM3U\nHTTP://a/b.ts\n", "#EXT-X-KEY:METHOD=AES-128,URI=\"http://a/k\"\n"] {
            assert!(names_plain(plain), "{plain}");
        }
    }

    #[test]
    fn playlists_count_together_for_a_minute_and_those_with_a_token_in_the_path_go_on_for_ever() {
        let (mut playlists, began) = (Playlists::default(), Instant::now());
        let read = |playlists: &mut Playlists, number: u64, secs: u64| {
            playlists.count(format!("http://h/{number}/a.m3u8"), 20, began + Duration::from_secs(secs))
        };
        assert!((0..1000).all(|number| read(&mut playlists, number, number * 6)));
        let mut playlists = Playlists::default();
        assert_eq!((0..100).filter(|number| read(&mut playlists, *number, 1)).count(), 20);
        assert!(read(&mut playlists, 7, 2) && !read(&mut playlists, 20, 60) && read(&mut playlists, 20, 61));
    }

    #[test]
    fn hosts_that_are_known_come_in_clear_however_many_there_are() {
        let mut secure: BTreeSet<_> = (0..MOST_HOSTS).map(|number| (format!("h{number}"), 443)).collect();
        assert_eq!(in_clear("https://h7/a https://new/b", &mut secure), "http://h7:443/a https://new/b");
    }
}
