//! Brings a proven file to its object: sent before the ledger's consent, made visible after it.
//!
//! Invariant: until [`Upload::commit`] nobody sees anything, and what was sent is taken back by [`Upload::abort`], and by
//! itself where something drops it, as far as the process lives. A commit
//! replaces only what it has looked at (If-Match), or nothing (If-None-Match), and never an object that a later attempt of
//! the same job has put. Where a store cannot compare, the look comes right before the write; see [`Guarantee`].

mod parts;
mod staged;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use ffpool_schema::failure::Cause;
use ffpool_schema::location::{Scheme, Use};
use ffpool_schema::message::hex;
use object_store::{PutMode, PutOptions, PutPayload, UpdateVersion};
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::bucket::{Guarantee, Mark, Object, There};
use super::trouble::Trouble;
use crate::publish::Published;
use crate::roots::io_cause;
use parts::Parts;

/// Looks at an object that others keep writing.
const LOOKS: u32 = 8;
/// For all tries to make an object visible. The ledger's consent stands meanwhile, and nobody can stop us.
const COMMIT_WITHIN: Duration = Duration::from_secs(1_200);

/// A file on its way to an object.
#[must_use]
pub struct Upload {
    object: Object,
    mark: Mark,
    body: Body,
    /// It was made visible or taken back.
    is_settled: bool,
}

enum Body {
    /// Not sent yet.
    Whole(Bytes, &'static str),
    /// Sent in parts.
    Parts(Parts),
}

/// What a write asks of what is there.
enum Condition {
    Nothing,
    /// This, and no other version.
    Still(There),
}

impl Condition {
    /// As the store's library wants to hear it.
    fn mode(&self, guarantee: Guarantee) -> PutMode {
        match (guarantee, self) {
            (Guarantee::BestEffort, _) => PutMode::Overwrite,
            (Guarantee::Conditional, Condition::Nothing) => PutMode::Create,
            (Guarantee::Conditional, Condition::Still(there)) => {
                PutMode::Update(UpdateVersion { e_tag: there.etag.clone(), version: there.version.clone() })
            }
        }
    }
}

/// Why a write did not happen.
enum Unwritten {
    /// Something else is there than was looked at.
    Conflict,
    Trouble(Trouble),
}

/// The most that goes in one piece, in bytes. More where a store takes what goes in parts by a way round.
#[must_use]
pub fn in_one_piece(scheme: Scheme) -> u64 {
    match scheme {
        Scheme::S3 | Scheme::Az => 16 << 20,
        Scheme::Gs => 64 << 20,
        Scheme::File | Scheme::Http | Scheme::Https => 0,
    }
}

impl From<Trouble> for Unwritten {
    fn from(trouble: Trouble) -> Unwritten {
        Unwritten::Trouble(trouble)
    }
}

impl Unwritten {
    fn of(object: &Object, error: &object_store::Error) -> Unwritten {
        match error {
            object_store::Error::AlreadyExists { .. }
            | object_store::Error::Precondition { .. }
            | object_store::Error::NotModified { .. } => Unwritten::Conflict,
            error => object.trouble("write", Use::Output, error).into(),
        }
    }
}

impl Upload {
    /// Something small.
    pub fn small(object: Object, content: Bytes, content_type: &'static str, mark: Mark) -> Upload {
        Upload { object, mark, body: Body::Whole(content, content_type), is_settled: false }
    }

    /// Begins to bring a file. Nothing is sent yet; from here on it has to be committed or aborted.
    ///
    /// # Errors
    /// When it cannot be read, or the store does not take it.
    pub async fn begin(object: Object, file: &Path, size_bytes: u64, mark: Mark) -> Result<Upload, Trouble> {
        let content_type = content_type(file);
        if size_bytes <= in_one_piece(object.address.scheme) {
            let content = read_part(file, 0, size_bytes).await?;
            if hex(&Sha256::digest(&content)) != mark.sha256 {
                return Err(changed());
            }
            return Ok(Upload::small(object, content, content_type, mark));
        }
        let body = Body::Parts(Parts::begin(&object, &mark, content_type).await?);
        Ok(Upload { object, mark, body, is_settled: false })
    }

    /// Sends the file that it was begun with, unless it goes in one piece. `said` hears of the bytes that arrived. The file is
    /// to stay until the commit: a store may ask for it again.
    ///
    /// # Errors
    /// When it cannot be read or sent, or is not what was verified.
    pub async fn send(
        &mut self,
        file: &Path,
        size_bytes: u64,
        said: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), Trouble> {
        match &mut self.body {
            Body::Whole(..) => Ok(()),
            Body::Parts(parts) => parts.send(file, size_bytes, &self.mark, said).await,
        }
    }

    /// Makes it visible under its name, unless a later attempt of the job was faster.
    ///
    /// # Errors
    /// When it cannot be written; what was sent is taken back.
    pub async fn commit(mut self) -> Result<Published, Trouble> {
        let committed = tokio::time::timeout(COMMIT_WITHIN, self.try_commit()).await.unwrap_or_else(|_| {
            Err(Trouble::passing(
                Cause::NetTransient,
                format!("{}: the store does not end the write", self.object.address()),
            ))
        });
        match committed {
            Ok(Published::Done) => {
                self.is_settled = true;
                if let Body::Parts(parts) = &mut self.body {
                    parts.tidy().await;
                }
            }
            Ok(Published::Lost) | Err(_) => self.abort().await,
        }
        committed
    }

    async fn try_commit(&mut self) -> Result<Published, Trouble> {
        for _ in 0..LOOKS {
            let there = self.object.look().await?;
            if let Some(mark) =
                there.as_ref().and_then(|there| there.mark.as_ref()).filter(|mark| mark.job == self.mark.job)
            {
                if mark.attempt > self.mark.attempt {
                    return Ok(Published::Lost);
                }
                // The store had written it, and its answer was lost.
                if *mark == self.mark {
                    return Ok(Published::Done);
                }
            }
            let condition = there.map_or(Condition::Nothing, Condition::Still);
            match self.write(&condition).await {
                Ok(()) => return Ok(Published::Done),
                Err(Unwritten::Conflict) => {}
                Err(Unwritten::Trouble(trouble)) => {
                    // It may have been carried out, and its answer lost: then the store knows nothing of the upload any
                    // more, and says so in one of many ways.
                    let there = self.object.look().await.ok().flatten();
                    let is_ours = there.and_then(|there| there.mark).is_some_and(|mark| mark == self.mark);
                    return if is_ours { Ok(Published::Done) } else { Err(trouble) };
                }
            }
        }
        Err(Trouble::passing(Cause::NetTransient, format!("{}: others keep writing there", self.object.address())))
    }

    async fn write(&mut self, condition: &Condition) -> Result<(), Unwritten> {
        let (object, mark) = (&self.object, &self.mark);
        match &mut self.body {
            Body::Whole(content, content_type) => {
                let mode = condition.mode(object.guarantee);
                let options = PutOptions { mode, attributes: mark.attributes(content_type), ..PutOptions::default() };
                let payload = PutPayload::from_bytes(content.clone());
                let put = object.client.store().put_opts(&object.key, payload, options).await;
                put.map(|_| ()).map_err(|error| Unwritten::of(object, &error))
            }
            Body::Parts(parts) => parts.write(object, mark, condition).await,
        }
    }

    /// Takes back what was sent.
    pub async fn abort(&mut self) {
        self.is_settled = true;
        if let Body::Parts(parts) = &mut self.body {
            parts.abort().await;
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.is_settled || matches!(self.body, Body::Whole(..)) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let body = std::mem::replace(&mut self.body, Body::Whole(Bytes::new(), ""));
        let mut left = Upload { object: self.object.clone(), mark: self.mark.clone(), body, is_settled: true };
        // Nobody joins it: whoever would has dropped the upload. A store clears away what a process that ends leaves.
        runtime.spawn(async move { left.abort().await });
    }
}

async fn read_part(file: &Path, from: u64, length: u64) -> Result<Bytes, Trouble> {
    // The tool may have been turned against us, and have left a link to something that only we can read.
    let mut file = File::options().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(file).await.map_err(unread)?;
    file.seek(std::io::SeekFrom::Start(from)).await.map_err(unread)?;
    let mut content = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    file.take(length).read_to_end(&mut content).await.map_err(unread)?;
    if content.len() as u64 != length {
        return Err(changed());
    }
    Ok(content.into())
}

fn changed() -> Trouble {
    Trouble::lasting(Cause::VerifyFailed, "the output changed after it was verified")
}

fn unread(error: std::io::Error) -> Trouble {
    Trouble::lasting(io_cause(&error), format!("the output cannot be read from scratch: {error}"))
}

/// The type under which an output is served.
fn content_type(file: &Path) -> &'static str {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("mp4" | "m4v") => "video/mp4",
        Some("m4s") => "video/iso.segment",
        Some("m3u8") => "application/vnd.apple.mpegurl",
        Some("mpd") => "application/dash+xml",
        Some("mov") => "video/quicktime",
        Some("mkv") => "video/x-matroska",
        Some("webm") => "video/webm",
        Some("ts") => "video/mp2t",
        Some("mp3") => "audio/mpeg",
        Some("m4a") => "audio/mp4",
        Some("opus" | "ogg") => "audio/ogg",
        Some("flac") => "audio/flac",
        Some("wav") => "audio/wav",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("png") => "image/png",
        Some("webp") => "image/webp",
        _ => "application/octet-stream",
    }
}
