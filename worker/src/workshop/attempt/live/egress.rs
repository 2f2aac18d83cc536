//! The way of a live attempt to web servers: a proxy on the loopback that goes only where a worker may.
//!
//! Invariant: a connection is made only to an address that was judged for this request, whatever a playlist or a
//! redirect names, except by FFmpeg's own `httpproxy://`, which a tunnel to `https` needs; one request is served for each connection, and all end with the attempt.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::workshop::Shop;

/// The longest head of a request.
const HEAD_BYTES: usize = 16 * 1024;
/// For the head of a request, and for a connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at a time. A playlist has a few streams.
const MOST: usize = 32;
/// After a connection that could not be taken.
const AGAIN: Duration = Duration::from_millis(100);

/// A proxy. Dropping it ends it with all its connections.
pub(super) struct Egress {
    pub(super) port: u16,
    serving: JoinHandle<()>,
}

impl Drop for Egress {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Egress {
    pub(super) async fn open(shop: Arc<Shop>) -> io::Result<Egress> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        Ok(Egress { port, serving: tokio::spawn(serve(listener, shop)) })
    }
}

async fn serve(listener: TcpListener, shop: Arc<Shop>) {
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
        let shop = shop.clone();
        connections.spawn(async move {
            let _permit = permit;
            if let Err(error) = pass(client, &shop).await {
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
    /// What is sent on first; absent: the client has a tunnel.
    head: Option<String>,
}

async fn pass(mut client: TcpStream, shop: &Shop) -> io::Result<()> {
    let (head, rest) = timeout(PATIENCE, read_head(&mut client)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let Some(wanted) = wanted(&head) else {
        return client.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
    };
    let addresses = match shop.stores.reach(&wanted.host, wanted.port).await {
        Ok(addresses) => addresses,
        Err(trouble) => {
            tracing::warn!(host = wanted.host, cause = %trouble.cause, "a live source leads to where it may not");
            return client.write_all(b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n").await;
        }
    };
    let mut server = match connect(&addresses).await {
        Ok(server) => server,
        Err(error) => {
            client.write_all(b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\n").await?;
            return Err(error);
        }
    };
    match wanted.head {
        Some(head) => server.write_all(head.as_bytes()).await?,
        None => client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?,
    }
    server.write_all(&rest).await?;
    copy_bidirectional(&mut client, &mut server).await.map(|_| ())
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

/// Reads a request for a tunnel, or one for a resource by its whole address, which becomes one of its own server.
fn wanted(head: &str) -> Option<Wanted> {
    let (line, fields) = head.split_once("\r\n")?;
    let mut words = line.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    if method == "CONNECT" {
        let (host, port) = authority(target, None)?;
        return Some(Wanted { host, port, head: None });
    }
    let rest = target.strip_prefix("http://")?;
    let (place, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (host, port) = authority(place, Some(80))?;
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let mut head = format!("{method} {path} {version}\r\n");
    for field in fields.split("\r\n").filter(|field| !field.is_empty()) {
        let name = field.split(':').next().unwrap_or_default().to_ascii_lowercase();
        if !matches!(name.as_str(), "connection" | "proxy-connection" | "proxy-authorization") {
            head += &format!("{field}\r\n");
        }
    }
    // What comes next on this connection would go to the same server unasked.
    head += "Connection: close\r\n\r\n";
    Some(Wanted { host, port, head: Some(head) })
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
    fn requests_become_requests_of_their_server_and_tunnels_stay_tunnels() {
        let get = "GET http://h:81/a/b.ts?x=1 HTTP/1.1\r\nHost: h:81\r\nConnection: keep-alive\r\n\r\n";
        let expected = "GET /a/b.ts?x=1 HTTP/1.1\r\nHost: h:81\r\nConnection: close\r\n\r\n";
        assert_eq!(wanted(get), Some(Wanted { host: "h".into(), port: 81, head: Some(expected.into()) }));
        let tunnel = wanted("CONNECT [2001:db8::1]:443 HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!((tunnel.host.as_str(), tunnel.port, tunnel.head), ("2001:db8::1", 443, None));
        assert_eq!(wanted("GET http://h HTTP/1.1\r\n\r\n").unwrap().port, 80);
        for wrong in ["GET /a HTTP/1.1\r\n\r\n", "CONNECT h HTTP/1.1\r\n\r\n", "GET http://u@h/ HTTP/1.1\r\n\r\n", "x"]
        {
            assert_eq!(wanted(wrong), None, "{wrong}");
        }
    }
}
