//! The way of a live attempt to web servers: a proxy on the loopback that goes only where a worker may.
//!
//! Invariant: a connection is made only to an address that was judged for this request, whatever a playlist or a
//! redirect names; one request is served for each connection, and all end with the attempt. The tool speaks plain HTTP to the
//! proxy and nothing else: FFmpeg needs its own `httpproxy://` for `https` through a proxy, and a playlist could name that. So the
//! proxy speaks TLS itself, to the hosts that were named with `https`, and playlists come in with such addresses in clear.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Response, header};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::store::trouble::Trouble;
use crate::workshop::Shop;

/// The longest head of a request.
const HEAD_BYTES: usize = 16 * 1024;
/// For the head of a request, and for a connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at a time. A playlist has a few streams.
const MOST: usize = 32;
/// Hosts that are known to be spoken to by TLS. A playlist has a few.
const MOST_HOSTS: usize = 1000;
/// The largest playlist that is read.
const PLAYLIST_BYTES: usize = 4 << 20;
/// What TLS is called in addresses.
const TLS: &str = "https://";
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
    /// Why the last request that came to nothing did.
    trouble: Mutex<Option<Trouble>>,
}

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
        let way = Arc::new(Way { shop, secure: Mutex::new(secure.into_iter().collect()), trouble: Mutex::default() });
        Ok(Egress { port, way: way.clone(), serving: tokio::spawn(serve(listener, way)) })
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
            if let Err(error) = pass(client, &way).await {
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
    /// What is sent on to the host.
    head: String,
    /// The part of it that is wanted.
    range: Option<String>,
}

async fn pass(mut client: TcpStream, way: &Way) -> io::Result<()> {
    let (head, rest) = timeout(PATIENCE, read_head(&mut client)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let Some(wanted) = wanted(&head) else {
        return client.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
    };
    let addresses = match way.shop.stores.reach(&wanted.host, wanted.port).await {
        Ok(addresses) => addresses,
        Err(trouble) => {
            tracing::warn!(host = wanted.host, cause = %trouble.cause, "a live source leads to where it may not");
            way.note(trouble);
            return client.write_all(b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n").await;
        }
    };
    if way.is_secure(&wanted) {
        return match way.get(&wanted, &addresses).await {
            Ok(response) => answer(client, way, response).await,
            Err(trouble) => {
                tracing::debug!(host = wanted.host, cause = %trouble.cause, "a web server of a live attempt is no good");
                way.note(trouble);
                client.write_all(b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\n").await
            }
        };
    }
    let mut server = match connect(&addresses).await {
        Ok(server) => server,
        Err(error) => {
            client.write_all(b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\n").await?;
            return Err(error);
        }
    };
    server.write_all(wanted.head.as_bytes()).await?;
    server.write_all(&rest).await?;
    copy_bidirectional(&mut client, &mut server).await.map(|_| ())
}

impl Way {
    fn note(&self, trouble: Trouble) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(trouble);
    }

    fn is_secure(&self, wanted: &Wanted) -> bool {
        let secure = self.secure.lock().unwrap_or_else(PoisonError::into_inner);
        secure.contains(&(wanted.host.clone(), wanted.port))
    }

    /// Asks a host by TLS.
    async fn get(&self, wanted: &Wanted, addresses: &[SocketAddr]) -> Result<Response, Trouble> {
        let client = self.shop.stores.live_client(&wanted.host, addresses)?;
        let mut request = client.get(format!("{TLS}{}:{}{}", bracketed(&wanted.host), wanted.port, wanted.path));
        if let Some(range) = &wanted.range {
            request = request.header(header::RANGE, range);
        }
        request.send().await.map_err(|error| Trouble::of_exchange("the source's server", &error))
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
        match authority(place, Some(443)).filter(|_| secure.len() < MOST_HOSTS) {
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

/// Gives an answer to the tool, a playlist with its addresses in clear.
async fn answer(mut client: TcpStream, way: &Way, mut response: Response) -> io::Result<()> {
    let status = response.status();
    let mut head = format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or("-"));
    let is_playlist = {
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
        let path = response.url().path().to_ascii_lowercase();
        kind.to_ascii_lowercase().contains("mpegurl") || path.ends_with(".m3u8")
    };
    for name in [header::CONTENT_TYPE, header::CONTENT_RANGE, header::LOCATION] {
        if let Some(value) = response.headers().get(&name).and_then(|value| value.to_str().ok()) {
            head += &format!("{name}: {}\r\n", way.in_clear(value));
        }
    }
    let next = async |response: &mut Response| response.chunk().await.map_err(io::Error::other);
    let first = next(&mut response).await?.unwrap_or_default();
    if is_playlist || first.starts_with(PLAYLIST) {
        let mut bytes = first.to_vec();
        while let Some(more) = next(&mut response).await? {
            bytes.extend_from_slice(&more);
            if bytes.len() > PLAYLIST_BYTES {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        let text = way.in_clear(&String::from_utf8_lossy(&bytes));
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

async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    timeout(PATIENCE, TcpStream::connect(addresses)).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// The head of a request, and what came after it.
async fn read_head(client: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            let head = String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData)?;
            return Ok((head, rest));
        }
        if bytes.len() >= HEAD_BYTES || client.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

/// Reads a request for a resource by its whole address, which becomes one of its own server. No tunnel is made.
fn wanted(head: &str) -> Option<Wanted> {
    let (line, fields) = head.split_once("\r\n")?;
    let mut words = line.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let rest = target.strip_prefix("http://").filter(|_| method == "GET")?;
    let (place, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (host, port) = authority(place, Some(80))?;
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let mut head = format!("{method} {path} {version}\r\n");
    let mut range = None;
    for field in fields.split("\r\n").filter(|field| !field.is_empty()) {
        let (name, value) = field.split_once(':').unwrap_or((field, ""));
        let name = name.to_ascii_lowercase();
        if name == "range" {
            range = Some(value.trim().to_owned());
        }
        if !matches!(name.as_str(), "connection" | "proxy-connection" | "proxy-authorization") {
            head += &format!("{field}\r\n");
        }
    }
    // What comes next on this connection would go to the same server unasked.
    head += "Connection: close\r\n\r\n";
    Some(Wanted { host, port, path, head, range })
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
        let head = "GET /a/b.ts?x=1 HTTP/1.1\r\nHost: h:81\r\nRange: bytes=0-\r\nConnection: close\r\n\r\n".to_owned();
        let (path, range) = ("/a/b.ts?x=1".to_owned(), Some("bytes=0-".to_owned()));
        assert_eq!(wanted(get), Some(Wanted { host: "h".into(), port: 81, path, head, range }));
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
}
