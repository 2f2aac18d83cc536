//! Brings an input into the attempt's scratch: whole, once, and known by its sha256.
//!
//! Invariant: the file holds the bytes of one version of the input, in order. After a cut the rest is asked for, and taken
//! only when it is of the same version; otherwise everything is fetched anew. Every way to go on for ever has a bound:
//! tries without a new byte, versions seen, bytes, the attempt's time. What is not what the job says that its input is ends the
//! fetch as soon as that shows: at the head of the answer, where the server tells enough.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use ffpool_schema::failure::Cause;
use ffpool_schema::message::hex;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::bucket::ObjectOrigin;
use super::stated::Stated;
use super::trouble::Trouble;
use super::web::WebOrigin;
use crate::roots::io_cause;
use crate::workshop::{Orders, Stop};

/// Tries in a row that bring nothing new.
const TRIES: u32 = 6;
/// Versions of the input that are begun.
const VERSIONS: u32 = 3;
/// The first pause between two tries; it doubles.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest pause, whatever the server asks for.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Silence within a body after which the rest is asked for anew.
const SILENCE: Duration = Duration::from_secs(30);

/// Where an input comes from.
#[derive(Debug)]
pub enum Origin {
    /// A web server.
    Web(WebOrigin),
    /// An object store.
    Object(ObjectOrigin),
}

/// An input that begins to arrive.
pub struct Opened {
    /// The first byte that `body` brings: the one that was asked for, or 0.
    pub from: u64,
    /// Length of the whole, where the server says.
    pub total: Option<u64>,
    /// The version, where the server says: good for asking for the rest of the same.
    pub version: Option<String>,
    /// The entity tag, for the record.
    pub etag: Option<String>,
    /// When it was last changed.
    pub modified: Option<Timestamp>,
    /// Hex sha256 of the whole, where the server promises one.
    pub sha256: Option<String>,
    /// The bytes.
    pub body: BoxStream<'static, Result<Bytes, Trouble>>,
}

impl Origin {
    async fn open(&mut self, from: u64, version: Option<&str>) -> Result<Opened, Trouble> {
        match self {
            Origin::Web(origin) => origin.open(from, version).await,
            Origin::Object(origin) => origin.open(from, version).await,
        }
    }
}

/// What was fetched.
#[derive(Debug, Clone, PartialEq)]
pub struct Fetched {
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its hex sha256.
    pub sha256: String,
    /// The entity tag of its version.
    pub etag: Option<String>,
    /// When it was last changed.
    pub modified: Option<Timestamp>,
}

/// Why nothing was fetched.
#[derive(Debug)]
pub enum FetchEnd {
    /// The attempt is to end.
    Stopped(Stop),
    /// It failed.
    Failed(Trouble),
}

impl From<Trouble> for FetchEnd {
    fn from(trouble: Trouble) -> FetchEnd {
        FetchEnd::Failed(trouble)
    }
}

/// What a fetch may use.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes.
    pub bytes: u64,
    /// The attempt's time is over then. It does not run while the attempt stands still.
    pub until: Instant,
}

/// Fetches `origin` into a new file; it must be as it is `stated`. `said` hears of the bytes so far and the length, where it is
/// known.
///
/// Returns how long the attempt stood still besides.
pub async fn fetch(
    origin: &mut Origin,
    to: &Path,
    stated: &Stated,
    bounds: Bounds,
    orders: &Orders,
    said: &mut (dyn FnMut(u64, Option<u64>) + Send),
) -> (Result<Fetched, FetchEnd>, Duration) {
    let mut fetch = Fetch { stated, bounds, orders: orders.clone(), frozen_for: Duration::ZERO, said };
    let fetched = fetch.run(origin, to).await;
    (fetched, fetch.frozen_for)
}

struct Fetch<'a> {
    stated: &'a Stated,
    bounds: Bounds,
    orders: Orders,
    frozen_for: Duration,
    said: &'a mut (dyn FnMut(u64, Option<u64>) + Send),
}

/// What has arrived of one version.
struct Part {
    file: File,
    hash: Sha256,
    length: u64,
    total: Option<u64>,
    version: Option<String>,
    etag: Option<String>,
    modified: Option<Timestamp>,
    promised: Option<String>,
}

impl Fetch<'_> {
    async fn run(&mut self, origin: &mut Origin, to: &Path) -> Result<Fetched, FetchEnd> {
        let mut part = Part::create(to).await.map_err(unwritten)?;
        let (mut tries, mut versions, mut furthest) = (0, 0, 0);
        loop {
            let trouble = match self.go_on(origin, &mut part).await {
                Ok(()) => return Ok(part.finish(self.stated).await?),
                Err(FetchEnd::Failed(trouble)) if trouble.is_passing => trouble,
                Err(end) => return Err(end),
            };
            if trouble.cause == Cause::InputChanged {
                versions += 1;
                part.clear().await.map_err(unwritten)?;
                if versions >= VERSIONS {
                    return Err(FetchEnd::Failed(trouble));
                }
            }
            tries = if part.length > furthest { 1 } else { tries + 1 };
            furthest = furthest.max(part.length);
            if tries >= TRIES {
                return Err(FetchEnd::Failed(trouble));
            }
            tracing::debug!(tries, bytes = part.length, cause = %trouble.cause, "the fetch was cut, going on");
            let pause = trouble.pause.unwrap_or(PAUSE * 2u32.pow(tries - 1)).min(PAUSE_MAX);
            self.unless_ended(sleep_until(Instant::now() + pause)).await?;
        }
    }

    /// Fetches from where the part ends to the input's end.
    async fn go_on(&mut self, origin: &mut Origin, part: &mut Part) -> Result<(), FetchEnd> {
        if part.has_all() && part.version.is_some() {
            return Ok(());
        }
        let version = part.version.clone();
        // Without a version nobody can say that the rest belongs to what is here.
        let from = if version.is_some() { part.length } else { 0 };
        let opened = self.unless_ended(origin.open(from, version.as_deref())).await??;
        // Before the body, which may be long.
        opened.total.map_or(Ok(()), |total| self.stated.check_size(total))?;
        if let Some(promised) = &opened.sha256 {
            self.stated.check_sha256(promised, "the sha256 that its server promises")?;
        }
        if opened.total.is_some_and(|total| total > self.bounds.bytes) {
            return Err(self.too_large(opened.total).into());
        }
        let mut body = part.adopt(opened).await?;
        loop {
            self.stand_still().await?;
            let next = self.unless_ended(timeout(SILENCE, body.next())).await?;
            let silent = |_| Trouble::passing(Cause::NetTransient, "the input's server fell silent");
            let Some(chunk) = next.map_err(silent)?.transpose()? else { break };
            if part.length + chunk.len() as u64 > self.bounds.bytes {
                return Err(self.too_large(part.total).into());
            }
            self.stated.check_part(part.length + chunk.len() as u64)?;
            part.append(&chunk).await.map_err(unwritten)?;
            (self.said)(part.length, part.total);
        }
        if part.total.is_some() && !part.has_all() {
            let message = "the server ended before the length it named";
            return Err(Trouble::passing(Cause::InputTruncated, message).into());
        }
        Ok(())
    }

    fn too_large(&self, total: Option<u64>) -> Trouble {
        let mib = |bytes: u64| bytes.div_ceil(1024 * 1024);
        let is = total.map_or("is larger than".to_owned(), |total| format!("has {} MiB, more than", mib(total)));
        Trouble::lasting(
            Cause::InputTooLarge,
            format!("the input {is} the {} MiB that the attempt may store", mib(self.bounds.bytes)),
        )
    }

    /// Waits for `work` unless the attempt is told to end, or its time is over.
    async fn unless_ended<T>(&mut self, work: impl Future<Output = T>) -> Result<T, FetchEnd> {
        let until = self.bounds.until + self.frozen_for;
        tokio::select! {
            biased;
            stop = stopped(&mut self.orders.stop) => Err(FetchEnd::Stopped(stop)),
            done = timeout_at(until, work) => {
                let over = "the attempt's time was over before its input was here";
                done.map_err(|_| Trouble::lasting(Cause::Timeout, over).into())
            }
        }
    }

    /// Reads nothing while the attempt is frozen.
    async fn stand_still(&mut self) -> Result<(), FetchEnd> {
        if !self.orders.freeze.borrow().holds() {
            return Ok(());
        }
        let since = Instant::now();
        let mut freeze = self.orders.freeze.clone();
        tokio::select! {
            _ = freeze.wait_for(|freeze| !freeze.holds()) => {}
            _ = stopped(&mut self.orders.stop) => {}
        }
        self.frozen_for += since.elapsed();
        Ok(())
    }
}

impl Part {
    async fn create(path: &Path) -> io::Result<Part> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path).await?;
        Ok(Part {
            file,
            hash: Sha256::new(),
            length: 0,
            total: None,
            version: None,
            etag: None,
            modified: None,
            promised: None,
        })
    }

    fn has_all(&self) -> bool {
        self.total == Some(self.length)
    }

    /// Throws away what is here.
    async fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0).await?;
        self.file.rewind().await?;
        self.hash = Sha256::new();
        (self.length, self.total, self.version) = (0, None, None);
        Ok(())
    }

    /// Takes note of what begins to arrive, and makes room for it where it begins anew.
    async fn adopt(&mut self, opened: Opened) -> Result<BoxStream<'static, Result<Bytes, Trouble>>, FetchEnd> {
        let is_other = self.version.is_some() && self.version != opened.version;
        let is_other_length = self.total.is_some() && opened.total.is_some() && self.total != opened.total;
        if is_other || (self.version.is_some() && is_other_length) {
            return Err(Trouble::passing(Cause::InputChanged, "the input changed while it was fetched").into());
        }
        if opened.from != self.length {
            self.clear().await.map_err(unwritten)?;
        }
        if opened.sha256.is_some() || opened.from == 0 {
            self.promised = opened.sha256;
        }
        (self.total, self.version) = (opened.total, opened.version);
        // The rest of an input need not say again of what it is the rest.
        let is_rest = opened.from > 0;
        self.etag = opened.etag.or(self.etag.take().filter(|_| is_rest));
        self.modified = opened.modified.or(self.modified.filter(|_| is_rest));
        Ok(opened.body)
    }

    async fn append(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.file.write_all(chunk).await?;
        self.hash.update(chunk);
        self.length += chunk.len() as u64;
        Ok(())
    }

    async fn finish(mut self, stated: &Stated) -> Result<Fetched, Trouble> {
        self.file.flush().await.map_err(unwritten)?;
        let sha256 = hex(&self.hash.finalize());
        if let Some(promised) = self.promised.filter(|promised| *promised != sha256) {
            let mut trouble = Trouble::lasting(Cause::InputChecksum, "what was fetched is not what its checksum says");
            trouble.evidence = Some(format!("sha256 {sha256}, promised {promised}"));
            return Err(trouble);
        }
        stated.check_size(self.length)?;
        stated.check_sha256(&sha256, "the sha256 of what was fetched")?;
        Ok(Fetched { size_bytes: self.length, sha256, etag: self.etag, modified: self.modified })
    }
}

/// Waits until the attempt is told to end.
pub(crate) async fn stopped(stop: &mut watch::Receiver<Option<Stop>>) -> Stop {
    match stop.wait_for(Option::is_some).await.map(|stop| stop.clone()) {
        Ok(Some(stop)) => stop,
        // Without a sender nobody tells any more.
        Ok(None) | Err(_) => std::future::pending().await,
    }
}

fn unwritten(error: io::Error) -> Trouble {
    Trouble::lasting(io_cause(&error), format!("the input cannot be written to scratch: {error}"))
}
