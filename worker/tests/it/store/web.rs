//! A web server that answers each request as the test says, down to how the connection ends.

#![expect(unsafe_code, reason = "how much of an answer was taken only an ioctl tells")]

use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::pool::BOUND;

/// What a client asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    pub path: String,
    pub range: Option<usize>,
    pub if_range: Option<String>,
    /// How often this path was asked for before.
    pub before: usize,
}

/// What it gets.
pub struct Answer {
    pub status: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// So much of the body is sent.
    pub sent: usize,
    /// Whether the connection is reset then, instead of closed.
    pub reset: bool,
}

impl Answer {
    pub fn new(status: &'static str, headers: &[(&'static str, &str)], body: &[u8]) -> Answer {
        let mut headers: Vec<(&'static str, String)> =
            headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        headers.push(("content-length", body.len().to_string()));
        Answer { status, headers, body: body.to_vec(), sent: body.len(), reset: false }
    }

    /// The whole, or the rest of it where the client has the same version.
    pub fn ranged(asked: &Asked, etag: &str, body: &[u8]) -> Answer {
        let etag_header = [("etag", etag)];
        match asked.range {
            Some(from) if asked.if_range.as_deref() == Some(etag) => {
                let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
                Answer::new("206 Partial Content", &[("etag", etag), ("content-range", &range)], &body[from..])
            }
            Some(_) | None => Answer::new("200 OK", &etag_header, body),
        }
    }

    /// Breaks off after so many bytes.
    pub fn cut(mut self, sent: usize, reset: bool) -> Answer {
        self.sent = sent.min(self.body.len());
        self.reset = reset;
        self
    }
}

pub struct Web {
    pub address: SocketAddr,
    pub asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Drop for Web {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Web {
    pub async fn start(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (asked.clone(), Arc::new(answer));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, log.clone(), answer.clone()));
            }
        });
        Web { address, asked, task }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// How often this path was asked for.
    pub fn asked_for(&self, path: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| asked.path == path).count()
    }

    pub fn times(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

async fn serve(mut stream: TcpStream, log: Arc<Mutex<Vec<Asked>>>, answer: Arc<impl Fn(&Asked) -> Answer>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte).await {
            Ok(1) if head.len() < 16_384 => head.push(byte[0]),
            _ => return,
        }
        if !head[0].is_ascii_uppercase() {
            // It speaks TLS, and is answered in clear.
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            // Closed with something unread, it would be a reset.
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut head).await;
            return;
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let Some(path) = head.split_whitespace().nth(1).map(str::to_owned) else { return };
    let header = |wanted: &str| {
        head.lines().skip(1).find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then(|| value.trim().to_owned())
        })
    };
    let range = header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let answer = {
        let mut log = log.lock().unwrap();
        let before = log.iter().filter(|asked| asked.path == path).count();
        log.push(Asked { path, range, if_range: header("if-range"), before });
        answer(log.last().unwrap())
    };
    let mut text = format!("HTTP/1.1 {}\r\nconnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.write_all(&answer.body[..answer.sent]).await;
    let _ = stream.flush().await;
    if answer.reset {
        // What was sent must arrive before the reset does, which throws away the rest.
        until_sent(&stream).await;
        stream.set_zero_linger().unwrap();
    }
}

/// Waits until the other side has all that was written, but not for ever: it may have gone.
async fn until_sent(stream: &TcpStream) {
    let end = Instant::now() + BOUND;
    while unsent(stream) > 0 && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Bytes that were written and that the other side has not acknowledged.
fn unsent(stream: &TcpStream) -> nix::libc::c_int {
    let mut left = 0;
    // SAFETY: the socket is open for as long as `stream` is borrowed, and TIOCOUTQ writes one int.
    let asked = unsafe { nix::libc::ioctl(stream.as_raw_fd(), nix::libc::TIOCOUTQ, &raw mut left) };
    if asked == 0 { left } else { 0 }
}
