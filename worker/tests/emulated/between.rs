//! Stands between a worker and an emulator, and has a mishap happen at the request that makes an output visible.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// What happens.
pub enum Mishap {
    /// Something else, before the store hears of the request.
    Before(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// The store does what it is asked, and its answer does not arrive.
    AnswerLost,
}

/// A way to a server over plain HTTP. It ends with the test's process.
pub struct Between {
    /// Where it listens.
    pub address: String,
    mishap: Arc<Mutex<Option<Mishap>>>,
}

impl Between {
    /// Hands on to `server`. The mishap comes at the next PUT whose head has `marker`.
    pub async fn start(server: &str, marker: &'static str) -> Between {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (mishap, server) = (Arc::<Mutex<Option<Mishap>>>::default(), server.parse::<SocketAddr>().unwrap());
        let next = mishap.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(server).await.unwrap();
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                let is_mute = Arc::new(AtomicBool::new(false));
                tokio::spawn(ask(from_client, to_server, marker, next.clone(), is_mute.clone()));
                tokio::spawn(answer(from_server, to_client, is_mute));
            }
        });
        Between { address, mishap }
    }

    /// What happens next.
    pub fn next(&self, mishap: Mishap) {
        self.mishap.lock().unwrap().replace(mishap);
    }

    /// Whether it has.
    pub fn has_happened(&self) -> bool {
        self.mishap.lock().unwrap().is_none()
    }
}

async fn ask(
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    marker: &str,
    next: Arc<Mutex<Option<Mishap>>>,
    is_mute: Arc<AtomicBool>,
) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(length @ 1..) = client.read(&mut piece).await {
        let piece = &piece[..length];
        // A client waits for an answer before it asks again, so a head begins a piece.
        let is_it = piece.starts_with(b"PUT ") && piece.windows(marker.len()).any(|part| part == marker.as_bytes());
        let mishap = if is_it { next.lock().unwrap().take() } else { None };
        match mishap {
            Some(Mishap::Before(happen)) => happen.await,
            Some(Mishap::AnswerLost) => is_mute.store(true, Ordering::SeqCst),
            None => {}
        }
        if server.write_all(piece).await.is_err() {
            break;
        }
    }
}

async fn answer(mut server: OwnedReadHalf, mut client: OwnedWriteHalf, is_mute: Arc<AtomicBool>) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(length @ 1..) = server.read(&mut piece).await {
        if is_mute.load(Ordering::SeqCst) || client.write_all(&piece[..length]).await.is_err() {
            break;
        }
    }
}
