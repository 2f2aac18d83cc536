//! The client's connection, with what comes from the broker passed through [`Shallow`], in clear or out of TLS.
//!
//! Invariant: the client reads no byte that has not passed.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_util::Stream;
use futures_util::io::{AsyncRead, AsyncWrite};
use lapin::tcp::{AMQPUriTcpExt as _, AsyncTcpStream, OwnedTLSConfig};
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};

use crate::shallow::Shallow;

/// Connects to a broker.
pub(crate) async fn connect(
    uri: AMQPUri,
    properties: ConnectionProperties,
    tls: OwnedTLSConfig,
) -> lapin::Result<Connection> {
    let runtime = Runtime::new(RuntimeParts::new(Tokio::current(), Guarded(Tokio::current())));
    let plain = Runtime::tokio_current();
    let stream = async move |uri: AMQPUri, _: Runtime<RuntimeParts<Tokio, Guarded>>| {
        let opened = uri.connect_with_config_async(tls.as_ref(), &plain).await;
        opened
            .map(|stream| AsyncTcpStream::Plain(Passed { stream, shallow: Shallow::new() }))
            .map_err(lapin::Error::from)
    };
    Connection::connector(uri, runtime, stream, properties).await
}

type Socket = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// A connection whose bytes pass.
pub(crate) struct Passed {
    stream: Socket,
    shallow: Shallow,
}

impl AsyncRead for Passed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Poll::Ready(Ok(count)) = &read {
            self.shallow.pass(&mut buffer[..*count]);
        }
        read
    }
}

impl AsyncWrite for Passed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

/// Tokio's clock, and streams that pass. What opens a stream is [`connect`]: the client has no other way to one.
#[derive(Debug, Clone)]
pub(crate) struct Guarded(Tokio);

impl Reactor for Guarded {
    type TcpStream = Passed;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: io::Read + io::Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Passed, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(&self, address: SocketAddr) -> impl Future<Output = io::Result<Passed>> + Send + 'static {
        let opening = self.0.tcp_connect_addr(address);
        async move { Ok(Passed { stream: AsyncTcpStream::Plain(opening.await?), shallow: Shallow::new() }) }
    }
}
