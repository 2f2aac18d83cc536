//! Brings a proven file to its object: sent before the ledger's consent, made visible after it.
//!
//! Invariant: until [`Upload::commit`] nobody sees anything, and what was sent is taken back by [`Upload::abort`], and by
//! itself where something drops it, as far as the process lives. A commit
//! replaces only what it has looked at (If-Match), or nothing (If-None-Match), and never an object that a later attempt of
//! the same job has put. Where a store cannot compare, the look comes right before the write; see [`Guarantee`].

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use ffpool_schema::failure::Cause;
use ffpool_schema::location::{ObjectAddress, Use};
use ffpool_schema::message::hex;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::multipart::{MultipartStore, PartId};
use object_store::signer::{Method, SignedUrlOptions, Signer};
use object_store::{MultipartUpload, PutMode, PutMultipartOptions, PutOptions, PutPayload, UpdateVersion};
use reqwest::StatusCode;
use reqwest::header::{IF_MATCH, IF_NONE_MATCH};
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::bucket::{Client, Guarantee, Mark, Object, There};
use super::trouble::Trouble;
use crate::publish::Published;
use crate::roots::io_cause;

/// The smallest part of what goes in parts, in bytes.
const PART: u64 = 8 << 20;
/// A store takes 10 000 parts.
const PARTS: u64 = 9_000;
/// Parts on the way at a time.
const AT_ONCE: usize = 3;
/// Looks at an object that others keep writing.
const LOOKS: u32 = 5;
/// Tries of a request whose answer is lost.
const TRIES: u32 = 4;
/// For the answer to the last request of an upload: the store puts the parts together meanwhile.
const ANSWER: Duration = Duration::from_secs(300);
/// As much of that answer is read, in bytes.
const ANSWER_BYTES: usize = 64 << 10;
/// For all tries to make an object visible. The ledger's consent stands meanwhile, and nobody can stop us.
const COMMIT_WITHIN: Duration = Duration::from_secs(1_200);
/// How long the signature of that request holds.
const SIGNED: Duration = Duration::from_secs(900);

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
    S3 { id: String, parts: Vec<PartId> },
    /// The same, of a store whose library ends the upload.
    Parts(Box<dyn MultipartUpload>),
}

/// What a write asks of what is there.
enum Condition {
    Nothing,
    /// This, and no other version.
    Still(There),
}

/// Why a write did not happen.
enum Unwritten {
    /// Something else is there than was looked at.
    Conflict,
    Trouble(Trouble),
}

/// The most that goes in one piece, in bytes. More where a store writes nothing else conditionally.
#[must_use]
pub fn in_one_piece(guarantee: Guarantee) -> u64 {
    match guarantee {
        Guarantee::Conditional | Guarantee::BestEffort => 16 << 20,
        Guarantee::ConditionalInOnePiece => 64 << 20,
    }
}

impl From<Trouble> for Unwritten {
    fn from(trouble: Trouble) -> Unwritten {
        Unwritten::Trouble(trouble)
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
        if size_bytes <= in_one_piece(object.guarantee) {
            let content = read_part(file, 0, size_bytes).await?;
            if hex(&Sha256::digest(&content)) != mark.sha256 {
                return Err(changed());
            }
            return Ok(Upload::small(object, content, content_type, mark));
        }
        let options =
            PutMultipartOptions { attributes: mark.attributes(content_type), ..PutMultipartOptions::default() };
        let begun = match &object.client {
            Client::S3(store) => {
                store.create_multipart_opts(&object.key, options).await.map(|id| Body::S3 { id, parts: Vec::new() })
            }
            Client::Gs(_) | Client::Az(_) => {
                object.client.store().put_multipart_opts(&object.key, options).await.map(Body::Parts)
            }
        };
        let body = begun.map_err(|error| object.trouble("begin to upload to", Use::Output, &error))?;
        Ok(Upload { object, mark, body, is_settled: false })
    }

    /// Sends the file that it was begun with, unless it goes in one piece. `said` hears of the bytes that arrived.
    ///
    /// # Errors
    /// When it cannot be read or sent.
    pub async fn send(
        &mut self,
        file: &Path,
        size_bytes: u64,
        said: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), Trouble> {
        let part_bytes = size_bytes.div_ceil(PARTS).max(PART).next_multiple_of(1 << 20);
        match &mut self.body {
            Body::Whole(..) => {}
            Body::S3 { id, parts } => *parts = send_parts(&self.object, file, size_bytes, part_bytes, id, said).await?,
            Body::Parts(parts) => {
                let mut from = 0;
                while from < size_bytes {
                    let content = read_part(file, from, part_bytes.min(size_bytes - from)).await?;
                    from += content.len() as u64;
                    let sent = parts.put_part(content.into()).await;
                    sent.map_err(|error| self.object.trouble("upload to", Use::Output, &error))?;
                    said(from);
                }
            }
        }
        Ok(())
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
            Ok(Published::Done) => self.is_settled = true,
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
        let object = self.object.clone();
        let failed = |error: object_store::Error| match error {
            object_store::Error::AlreadyExists { .. }
            | object_store::Error::Precondition { .. }
            | object_store::Error::NotModified { .. } => Unwritten::Conflict,
            error => object.trouble("write", Use::Output, &error).into(),
        };
        match &mut self.body {
            Body::Whole(content, content_type) => {
                let mode = match (object.guarantee, condition) {
                    (Guarantee::BestEffort, _) => PutMode::Overwrite,
                    (_, Condition::Nothing) => PutMode::Create,
                    (_, Condition::Still(there)) => {
                        PutMode::Update(UpdateVersion { e_tag: there.etag.clone(), version: there.version.clone() })
                    }
                };
                let attributes = self.mark.attributes(content_type);
                let options = PutOptions { mode, attributes, ..PutOptions::default() };
                let payload = PutPayload::from_bytes(content.clone());
                object.client.store().put_opts(&object.key, payload, options).await.map_err(failed)?;
                Ok(())
            }
            Body::S3 { id, parts } => match (&object.client, object.guarantee) {
                (Client::S3(store), Guarantee::BestEffort) => {
                    store.complete_multipart(&object.key, id, parts.clone()).await.map_err(failed)?;
                    Ok(())
                }
                (Client::S3(_) | Client::Gs(_) | Client::Az(_), _) => complete(&object, id, parts, condition).await,
            },
            Body::Parts(parts) => {
                parts.complete().await.map_err(failed)?;
                Ok(())
            }
        }
    }

    /// Takes back what was sent.
    pub async fn abort(&mut self) {
        self.is_settled = true;
        let aborted = match &mut self.body {
            Body::Whole(..) => Ok(()),
            Body::S3 { id, .. } => match &self.object.client {
                Client::S3(store) => store.abort_multipart(&self.object.key, id).await,
                Client::Gs(_) | Client::Az(_) => Ok(()),
            },
            Body::Parts(parts) => parts.abort().await,
        };
        if let Err(error) = aborted {
            let trouble = self.object.trouble("abort the upload to", Use::Output, &error);
            tracing::warn!(object = %self.object.address(), evidence = trouble.evidence, "parts of an upload may be left");
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

async fn send_parts(
    object: &Object,
    file: &Path,
    size_bytes: u64,
    part_bytes: u64,
    id: &String,
    said: &(dyn Fn(u64) + Send + Sync),
) -> Result<Vec<PartId>, Trouble> {
    let Client::S3(store) = &object.client else { return Ok(Vec::new()) };
    let starts = (0..size_bytes.div_ceil(part_bytes)).map(|index| index * part_bytes);
    let sent = std::sync::atomic::AtomicU64::new(0);
    let (store, sent) = (&store, &sent);
    stream::iter(starts.enumerate())
        .map(|(index, from)| async move {
            let content = read_part(file, from, part_bytes.min(size_bytes - from)).await?;
            let length = content.len() as u64;
            let part = store
                .put_part(&object.key, id, index, content.into())
                .await
                .map_err(|error| object.trouble("upload to", Use::Output, &error))?;
            said(sent.fetch_add(length, std::sync::atomic::Ordering::Relaxed) + length);
            Ok(part)
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await
}

/// Ends a multipart upload on a condition: the library ends one without.
async fn complete(object: &Object, id: &str, parts: &[PartId], condition: &Condition) -> Result<(), Unwritten> {
    let Client::S3(store) = &object.client else { return Ok(()) };
    let query = SignedUrlOptions::default().with_query([("uploadId", id)]);
    let mut trouble = None;
    for attempt in 0..TRIES {
        if attempt > 0 {
            tokio::time::sleep(Duration::from_millis(500) * 2u32.pow(attempt)).await;
        }
        let url = store
            .signed_url_opts(Method::POST, &object.key, SIGNED, &query)
            .await
            .map_err(|error| object.trouble("sign a request for", Use::Output, &error))?;
        let request = object.http.post(url.as_str()).timeout(ANSWER).body(completion(parts));
        let request = match condition {
            Condition::Nothing => request.header(IF_NONE_MATCH, "*"),
            Condition::Still(There { etag: Some(etag), .. }) => request.header(IF_MATCH, etag),
            Condition::Still(There { etag: None, .. }) => {
                let message = format!(
                    "{}: the store names no version of what is there, so nothing can be replaced on a condition; set `conditional = false` in its profile",
                    object.address
                );
                return Err(Trouble::lasting(Cause::ConfigBad, message).into());
            }
        };
        let said = match answer(request).await {
            Ok(said) => said,
            Err(error) => {
                let mut lost = Trouble::of_exchange(&format!("write {}", object.address), &error.without_url());
                lost.cause = if lost.cause == Cause::InputTruncated { Cause::NetTransient } else { lost.cause };
                trouble = Some(lost);
                continue;
            }
        };
        match completed(&object.address, said.0, &said.1) {
            Err(Unwritten::Trouble(passing)) if passing.is_passing && passing.pause.is_some() => {
                trouble = Some(passing)
            }
            ended => return ended,
        }
    }
    Err(Unwritten::Trouble(trouble.unwrap_or_else(|| {
        Trouble::passing(Cause::NetTransient, format!("{}: the store does not answer", object.address))
    })))
}

/// Sends the request and reads the answer to its end: one that is cut off says nothing.
async fn answer(request: reqwest::RequestBuilder) -> reqwest::Result<(StatusCode, String)> {
    let mut response = request.send().await?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk[..chunk.len().min(ANSWER_BYTES - body.len())]);
    }
    Ok((response.status(), String::from_utf8_lossy(&body).into_owned()))
}

/// What the answer to the end of an upload means. A trouble with a pause is worth another try of the same request.
fn completed(address: &ObjectAddress, status: StatusCode, body: &str) -> Result<(), Unwritten> {
    let says = |code: &str| body.contains(&format!("<Code>{code}</Code>"));
    let trouble = |cause, is_passing, pause| {
        let message = format!("write {address}: the store answers {status}");
        let evidence = Some(body.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(400).collect());
        Err(Unwritten::Trouble(Trouble { evidence, is_passing, pause, ..Trouble::lasting(cause, message) }))
    };
    match status.as_u16() {
        // Past its first byte a store cannot change its status any more: it says in the body how it went.
        200 if body.contains("CompleteMultipartUploadResult") => Ok(()),
        412 => Err(Unwritten::Conflict),
        200 if says("PreconditionFailed") => Err(Unwritten::Conflict),
        401 | 403 => trouble(Cause::OutputAuth, false, None),
        // The upload is gone: completed by a request whose answer was lost, or cleared away.
        404 => trouble(if says("NoSuchBucket") { Cause::OutputMissing } else { Cause::NetTransient }, true, None),
        // A write beside ours won; the whole upload would have to be sent anew.
        409 => trouble(Cause::NetTransient, true, None),
        200 | 429 | 500..=599 => trouble(Cause::NetTransient, true, Some(Duration::ZERO)),
        _ => trouble(Cause::Platform, false, None),
    }
}

/// The list of parts, as S3 wants it.
fn completion(parts: &[PartId]) -> String {
    let mut xml = String::from("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for (index, part) in parts.iter().enumerate() {
        let etag = part.content_id.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
        xml.push_str(&format!("<Part><PartNumber>{}</PartNumber><ETag>{etag}</ETag></Part>", index + 1));
    }
    xml.push_str("</CompleteMultipartUpload>");
    xml
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

#[cfg(test)]
mod tests {
    use ffpool_schema::location::Scheme;

    use super::*;

    #[test]
    fn only_a_store_that_says_so_has_completed_an_upload() {
        let address = ObjectAddress { scheme: Scheme::S3, bucket: "media".to_owned(), key: "a.mp4".to_owned() };
        let says = |status: u16, body: &str| completed(&address, StatusCode::from_u16(status).unwrap(), body);
        let done = "<?xml version=\"1.0\"?>  <CompleteMultipartUploadResult xmlns=\"x\"><ETag>1</ETag></CompleteMultipartUploadResult>";
        assert!(says(200, done).is_ok());
        assert!(matches!(says(200, "<Error><Code>PreconditionFailed</Code></Error>"), Err(Unwritten::Conflict)));
        // Cut off, or a page of somebody in between.
        for body in
            ["", "<?xml version=\"1.0\"?>    ", "<html>welcome</html>", "<Error><Code>InternalError</Code></Error>"]
        {
            let Err(Unwritten::Trouble(trouble)) = says(200, body) else { panic!("{body}") };
            assert!(trouble.is_passing && trouble.pause.is_some(), "{body}: to be asked again");
        }
    }
}
