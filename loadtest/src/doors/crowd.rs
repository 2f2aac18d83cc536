//! Connections that only hold a place: some ask once a minute, some send a request a byte at a time.
//!
//! Invariant: each is a task that comes again when it is shown out, and ends with the [`Crowd`].

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ffpool_runtime::tls::client_config;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// So many of one address: below what one may have.
const PER_ADDRESS: usize = 500;
/// Handshakes that are under way at the same time: a crowd comes faster than it is let in, and not all at once.
const AT_ONCE: usize = 32;
/// An idle client asks again so often: as one that polls every minute, so that it is not shown out as one that is gone.
const POLL: Duration = Duration::from_secs(60);
/// A slow client sends a byte so often.
const DRIP: Duration = Duration::from_secs(1);
/// Whoever was turned away comes again after this.
const PAUSE: Duration = Duration::from_millis(200);
/// Most of the crowd stands after this, or the machine cannot bear it.
const GATHER: Duration = Duration::from_secs(600);
/// How often is told how it goes.
const TELL: Duration = Duration::from_secs(10);
/// What an idle client asks before it waits.
const QUESTION: &[u8] = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// What a slow client never comes to the end of.
const DRAWL: &[u8] =
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// What a member of the crowd does once it is in.
#[derive(Debug, Clone, Copy)]
enum Manner {
    Idle,
    Slow,
}

#[derive(Default)]
struct Count {
    idle: AtomicUsize,
    slow: AtomicUsize,
    came_again: AtomicUsize,
}

impl Count {
    fn of(&self, manner: Manner) -> &AtomicUsize {
        match manner {
            Manner::Idle => &self.idle,
            Manner::Slow => &self.slow,
        }
    }
}

/// All who only hold a place.
pub(super) struct Crowd {
    count: Arc<Count>,
    /// Aborted when this is dropped.
    _members: JoinSet<()>,
}

impl Crowd {
    /// Brings them in, and waits until nearly all stand: slow ones are shown out all the time, and come again.
    pub(super) async fn gather(api: SocketAddr, ca: &Path, idle: usize, slow: usize) -> anyhow::Result<Crowd> {
        let mut config = client_config(Some(ca), None)?;
        // Each makes a whole handshake, as strangers do.
        config.resumption = Resumption::disabled();
        let entry = Arc::new(Entry { api, config: Arc::new(config), turn: Semaphore::new(AT_ONCE) });
        let count = Arc::new(Count::default());
        let mut members = JoinSet::new();
        let manners = std::iter::repeat_n(Manner::Idle, idle).chain(std::iter::repeat_n(Manner::Slow, slow));
        for (number, manner) in manners.enumerate() {
            members.spawn(stay(entry.clone(), address_of(number, idle + slow)?, manner, count.clone()));
        }
        let crowd = Crowd { count, _members: members };
        crowd.until_it_stands(idle, slow).await?;
        Ok(crowd)
    }

    async fn until_it_stands(&self, idle: usize, slow: usize) -> anyhow::Result<()> {
        let (end, mut best) = (Instant::now() + GATHER, (0, Instant::now()));
        let mut told = Instant::now();
        loop {
            let (idle_now, slow_now, came_again) = self.size();
            let now = idle_now + slow_now;
            if now > best.0 {
                best = (now, Instant::now());
            }
            // With fewer places than guests it stands when it grows no more.
            let is_full = best.1.elapsed() > Duration::from_secs(15) && now > 0;
            if (idle_now == idle && slow_now * 10 >= slow * 9) || is_full {
                return Ok(());
            }
            if Instant::now() > end {
                bail!(
                    "the crowd does not stand within {GATHER:?}: {idle_now} of {idle} idle, {slow_now} of {slow} slow, \
                     {came_again} came again"
                );
            }
            if told.elapsed() > TELL {
                told = Instant::now();
                eprintln!(
                    "{idle_now} of {idle} idle, {slow_now} of {slow} slow connections stand; {came_again} came again"
                );
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// How many wait, how many are slow, and how often one came again.
    pub(super) fn size(&self) -> (usize, usize, usize) {
        let count = &self.count;
        let now = |number: &AtomicUsize| number.load(Ordering::Relaxed);
        (now(&count.idle), now(&count.slow), now(&count.came_again))
    }
}

/// Addresses of loopback, none of them one that is measured; those who come one after the other come from different ones, so that
/// no address makes handshakes faster than it may.
fn address_of(number: usize, all: usize) -> anyhow::Result<Ipv4Addr> {
    let addresses = all.div_ceil(PER_ADDRESS).max(1);
    let own = u16::try_from(number % addresses).context("fewer connections than that are possible")?;
    let [high, low] = own.to_be_bytes();
    Ok(Ipv4Addr::new(127, 1, high, low))
}

/// The way in.
struct Entry {
    api: SocketAddr,
    config: Arc<ClientConfig>,
    turn: Semaphore,
}

impl Entry {
    async fn connect(&self, from: Ipv4Addr) -> anyhow::Result<TlsStream<TcpStream>> {
        let _turn = self.turn.acquire().await?;
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddrV4::new(from, 0).into())?;
        let stream = socket.connect(self.api).await?;
        let name = ServerName::try_from("localhost")?;
        Ok(TlsConnector::from(self.config.clone()).connect(name, stream).await?)
    }
}

async fn stay(entry: Arc<Entry>, from: Ipv4Addr, manner: Manner, count: Arc<Count>) {
    loop {
        if let Ok(stream) = entry.connect(from).await {
            // Whoever is shown out has an error or an end; both are what was to be seen.
            let _ = hold(stream, manner, count.of(manner)).await;
        }
        count.came_again.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PAUSE).await;
    }
}

/// A place that is counted while it is held.
struct Held<'a>(&'a AtomicUsize);

impl<'a> Held<'a> {
    fn take(count: &'a AtomicUsize) -> Held<'a> {
        count.fetch_add(1, Ordering::Relaxed);
        Held(count)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Holds a place until the API takes it back.
async fn hold(mut stream: TlsStream<TcpStream>, manner: Manner, count: &AtomicUsize) -> std::io::Result<()> {
    let mut answer = [0; 512];
    match manner {
        Manner::Idle => {
            let mut held = None;
            loop {
                stream.write_all(QUESTION).await?;
                stream.flush().await?;
                // An answer may come in parts; none comes unasked.
                while let Ok(told) = tokio::time::timeout(POLL, stream.read(&mut answer)).await {
                    if told? == 0 {
                        return Ok(());
                    }
                    held.get_or_insert_with(|| Held::take(count));
                }
            }
        }
        Manner::Slow => {
            let _held = Held::take(count);
            for byte in DRAWL {
                stream.write_all(&[*byte]).await?;
                stream.flush().await?;
                if let Ok(told) = tokio::time::timeout(DRIP, stream.read(&mut answer)).await {
                    told?;
                    break;
                }
            }
        }
    }
    Ok(())
}
