//! What goes in parts: sent beforehand, and put together on a condition in the way that each store has for it.
//!
//! | store | how it is put together |
//! |---|---|
//! | S3 | the completion of the upload, by a request of our own: the library knows no condition |
//! | Azure | Put Block List, which names the blocks; a commit by whomever throws away blocks that it does not name |
//! | Google | under a staged name, then copied on the condition, because an upload in parts has none there |
//! | any, with `conditional = false` | as above, but on no condition; Google's like S3's |
//!
//! Google's copy stays in its bucket and storage class, so it moves no bytes and needs no repetition for what is large.
//!
//! Invariant: nothing of it is seen under the output's name before it is all there and the condition holds; what was sent is what
//! was verified.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ffpool_schema::failure::Cause;
use ffpool_schema::location::{ObjectAddress, Use};
use ffpool_schema::message::hex;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use object_store::aws::AmazonS3;
use object_store::azure::MicrosoftAzure;
use object_store::gcp::GoogleCloudStorage;
use object_store::multipart::PartId;
use object_store::signer::{Method, SignedUrlOptions, Signer};
use object_store::{Extensions, ObjectStore, PutMultipartOptions, PutOptions, PutPayload};
use reqwest::StatusCode;
use reqwest::header::{IF_MATCH, IF_NONE_MATCH};
use sha2::{Digest, Sha256};

use super::super::bucket::{Client, Guarantee, Mark, Object, There, is_bucket};
use super::super::trouble::Trouble;
use super::super::wire::{AsBlockList, AsCopyOf};
use super::{Condition, Unwritten, changed, read_part, staged};

/// The smallest part of what goes in parts, in bytes.
const PART: u64 = 8 << 20;
/// A store takes 10 000 parts.
const PARTS: u64 = 9_000;
/// Parts on the way at a time.
const AT_ONCE: usize = 3;
/// Tries of a request whose answer is lost.
const TRIES: u32 = 4;
/// For the answer to the last request of an upload: the store puts the parts together meanwhile.
const ANSWER: Duration = Duration::from_secs(300);
/// As much of that answer is read, in bytes.
const ANSWER_BYTES: usize = 64 << 10;
/// A shorter part of a signed address is no secret: a date, a number of seconds, the name of a way to sign.
const SECRET: usize = 17;
/// How long the signature of that request holds.
const SIGNED: Duration = Duration::from_secs(900);
/// For what is left to do when the output is visible.
const TIDY_WITHIN: Duration = Duration::from_secs(60);

/// A file that is sent in parts.
pub(super) struct Parts {
    /// Where they are put together: under the output's name, or a staged one.
    at: Object,
    /// The store's name of the upload; Azure has none.
    id: String,
    /// In order. Empty where the store threw them away.
    sent: Vec<PartId>,
    content_type: &'static str,
    file: PathBuf,
    size_bytes: u64,
    /// The store has put them together, so there is no upload any more.
    is_together: bool,
}

/// How parts are put together.
enum Ending<'a> {
    Asked(&'a AmazonS3),
    BlockList(&'a MicrosoftAzure),
    Staged(&'a GoogleCloudStorage),
    Plain,
}

impl Ending<'_> {
    fn of(object: &Object) -> Ending<'_> {
        match (&object.client, object.guarantee) {
            (Client::S3(store), Guarantee::Conditional) => Ending::Asked(store),
            (Client::Gs(store), Guarantee::Conditional) => Ending::Staged(store),
            (Client::Az(store), Guarantee::Conditional | Guarantee::BestEffort) => Ending::BlockList(store),
            (Client::S3(_) | Client::Gs(_), Guarantee::BestEffort) => Ending::Plain,
        }
    }
}

impl Parts {
    /// Begins an upload for an object.
    ///
    /// # Errors
    /// When the store does not take it.
    pub(super) async fn begin(object: &Object, mark: &Mark, content_type: &'static str) -> Result<Parts, Trouble> {
        let at = match Ending::of(object) {
            Ending::Staged(_) => {
                staged::sweep(object, mark).await;
                staged::at(object, mark)
            }
            Ending::Asked(_) | Ending::BlockList(_) | Ending::Plain => object.clone(),
        };
        let begun = match &at.client {
            // The list of blocks brings the attributes.
            Client::Az(_) => at.client.parts().create_multipart(&at.key).await,
            Client::S3(_) | Client::Gs(_) => {
                let attributes = mark.attributes(content_type);
                let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
                at.client.parts().create_multipart_opts(&at.key, options).await
            }
        };
        let id = begun.map_err(|error| object.trouble("begin to upload to", Use::Output, &error))?;
        Ok(Parts { at, id, sent: Vec::new(), content_type, file: PathBuf::new(), size_bytes: 0, is_together: false })
    }

    /// Sends a file. `said` hears of the bytes that arrived.
    ///
    /// # Errors
    /// When it cannot be read or sent, or has another sha256 than its mark says.
    pub(super) async fn send(
        &mut self,
        file: &Path,
        size_bytes: u64,
        mark: &Mark,
        said: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), Trouble> {
        (self.file, self.size_bytes) = (file.to_owned(), size_bytes);
        let part_bytes = size_bytes.div_ceil(PARTS).max(PART).next_multiple_of(1 << 20);
        let (mut sent, mut hash, mut read, mut arrived) = (Vec::new(), Sha256::new(), 0, 0);
        let mut on_the_way: FuturesOrdered<BoxFuture<'_, Result<(PartId, u64), Trouble>>> = FuturesOrdered::new();
        for index in 0.. {
            // Read one after the other, for the hash.
            if read < size_bytes {
                let content = read_part(file, read, part_bytes.min(size_bytes - read)).await?;
                hash.update(&content);
                read += content.len() as u64;
                on_the_way.push_back(Box::pin(put(&self.at, &self.id, index, content)));
                if on_the_way.len() < AT_ONCE {
                    continue;
                }
            }
            let Some(part) = on_the_way.next().await else { break };
            let (part, length) = part?;
            sent.push(part);
            arrived += length;
            said(arrived);
        }
        drop(on_the_way);
        if hex(&hash.finalize()) != mark.sha256 {
            return Err(changed());
        }
        self.sent = sent;
        Ok(())
    }

    /// Makes it visible as the object that it was begun for.
    pub(super) async fn write(&mut self, object: &Object, mark: &Mark, condition: &Condition) -> Result<(), Unwritten> {
        match Ending::of(object) {
            Ending::Asked(store) => complete(store, object, &self.id, &self.sent, condition).await?,
            Ending::BlockList(store) => return self.put_block_list(store, object, mark, condition).await,
            Ending::Staged(store) => {
                self.put_together(mark).await?;
                return self.copy_to(store, object, condition).await;
            }
            Ending::Plain => {
                let ended = object.client.parts().complete_multipart(&object.key, &self.id, self.sent.clone()).await;
                ended.map_err(|error| Unwritten::of(object, &error))?;
            }
        }
        self.is_together = true;
        Ok(())
    }

    async fn put_block_list(
        &mut self,
        store: &MicrosoftAzure,
        object: &Object,
        mark: &Mark,
        condition: &Condition,
    ) -> Result<(), Unwritten> {
        if self.sent.is_empty() {
            let file = self.file.clone();
            self.send(&file, self.size_bytes, mark, &|_| {}).await?;
        }
        let mode = condition.mode(object.guarantee);
        let attributes = mark.attributes(self.content_type);
        let extensions = marked(AsBlockList(store.credentials().clone()));
        let options = PutOptions { mode, attributes, extensions, ..PutOptions::default() };
        match store.put_opts(&object.key, block_list(&self.sent).into(), options).await {
            Ok(_) => {
                self.is_together = true;
                Ok(())
            }
            // Something was written there since, and the store has thrown our blocks away. The next look says whether we
            // lost, or were it ourselves; else they are sent anew.
            Err(error) if says(&error, "InvalidBlockList") => {
                self.sent.clear();
                Err(Unwritten::Conflict)
            }
            Err(error) => Err(Unwritten::of(object, &error)),
        }
    }

    /// Puts the parts together under the staged name.
    async fn put_together(&mut self, mark: &Mark) -> Result<(), Trouble> {
        if self.is_together {
            return Ok(());
        }
        let ended = self.at.client.parts().complete_multipart(&self.at.key, &self.id, self.sent.clone()).await;
        if let Err(error) = ended {
            // It may have been done, and its answer lost: then the upload is gone, and a repetition fails.
            let there = self.at.look().await?.and_then(|there| there.mark);
            if there.as_ref() != Some(mark) {
                return Err(gone_or(&self.at, &error));
            }
        }
        self.is_together = true;
        Ok(())
    }

    async fn copy_to(
        &self,
        store: &GoogleCloudStorage,
        object: &Object,
        condition: &Condition,
    ) -> Result<(), Unwritten> {
        let (mode, extensions) = (condition.mode(object.guarantee), marked(AsCopyOf::new(&self.at.address)));
        let options = PutOptions { mode, extensions, ..PutOptions::default() };
        match store.put_opts(&object.key, PutPayload::new(), options).await {
            Ok(_) => Ok(()),
            Err(error @ object_store::Error::NotFound { .. }) => Err(gone_or(&self.at, &error).into()),
            Err(error) => Err(Unwritten::of(object, &error)),
        }
    }

    /// Takes back what was sent. Azure forgets blocks by itself.
    pub(super) async fn abort(&mut self) {
        let is_staged = matches!(Ending::of(&self.at), Ending::Staged(_));
        let aborted = match self.is_together {
            true => Ok(()),
            false => self.at.client.parts().abort_multipart(&self.at.key, &self.id).await,
        };
        // An upload that is gone was put together, whether we heard of it or not.
        let is_together = self.is_together || matches!(aborted, Err(object_store::Error::NotFound { .. }));
        let cleared = match aborted {
            _ if is_together && is_staged => self.at.delete().await,
            _ if is_together => Ok(()),
            aborted => aborted.map_err(|error| self.at.trouble("abort the upload to", Use::Output, &error)),
        };
        if let Err(trouble) = cleared {
            tracing::warn!(object = %self.at.address(), evidence = trouble.evidence, "parts of an upload may be left");
        }
    }

    /// Clears away what the store does not need any more, now that the output is visible.
    pub(super) async fn tidy(&mut self) {
        let is_staged = matches!(Ending::of(&self.at), Ending::Staged(_));
        // An output that stood there already, of this same attempt, has not ended this upload.
        if (is_staged || !self.is_together) && tokio::time::timeout(TIDY_WITHIN, self.abort()).await.is_err() {
            tracing::warn!(object = %self.at.address(), "parts of an upload may be left: the store does not answer");
        }
    }
}

/// Sends one part: its name, and how long it is.
async fn put(at: &Object, id: &String, index: usize, content: Bytes) -> Result<(PartId, u64), Trouble> {
    let length = content.len() as u64;
    let part = at.client.parts().put_part(&at.key, id, index, content.into()).await;
    Ok((part.map_err(|error| at.trouble("upload to", Use::Output, &error))?, length))
}

fn marked<T: Clone + Send + Sync + 'static>(mark: T) -> Extensions {
    let mut extensions = Extensions::new();
    extensions.insert(mark);
    extensions
}

/// What it means that what was sent is not there any more.
fn gone_or(at: &Object, error: &object_store::Error) -> Trouble {
    match error {
        object_store::Error::NotFound { source, .. } if !is_bucket(source.as_ref()) => {
            let message = format!(
                "write {}: what was sent is gone; a later attempt or a rule of the store deletes it",
                at.address()
            );
            Trouble::passing(Cause::NetTransient, message).because(error)
        }
        error => at.trouble("write", Use::Output, error),
    }
}

/// Whether a store's answer bears a code.
fn says(error: &object_store::Error, code: &str) -> bool {
    let element = format!("<Code>{code}</Code>");
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if error.to_string().contains(&element) {
            return true;
        }
        next = error.source();
    }
    false
}

/// The blocks of a blob, as Azure wants them: those that its library has put, whose ids it encodes.
fn block_list(parts: &[PartId]) -> String {
    let blocks = parts.iter().map(|part| format!("<Uncommitted>{}</Uncommitted>", STANDARD.encode(&part.content_id)));
    format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{}</BlockList>", blocks.collect::<String>())
}

/// Ends a multipart upload on a condition: the library ends one without.
async fn complete(
    store: &AmazonS3,
    object: &Object,
    id: &str,
    parts: &[PartId],
    condition: &Condition,
) -> Result<(), Unwritten> {
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
            Ok((status, body)) => (status, without_signature(body, url.query().unwrap_or_default())),
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

/// A page of somebody in between may repeat the address that was asked for, in whatever form.
fn without_signature(body: String, query: &str) -> String {
    let signed =
        query.split('&').filter_map(|pair| pair.split_once('=')).filter(|(name, _)| name.starts_with("X-Amz-"));
    signed.fold(body, |body, (_, value)| if value.len() < SECRET { body } else { body.replace(value, "***") })
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

#[cfg(test)]
mod tests {
    use ffpool_schema::location::Scheme;

    use super::*;

    #[test]
    fn the_list_of_blocks_names_them_in_order_by_their_encoded_ids() {
        let parts = ["b", "a"].map(|id| PartId { content_id: id.to_owned() });
        let list = block_list(&parts);
        assert!(
            list.ends_with("<BlockList><Uncommitted>Yg==</Uncommitted><Uncommitted>YQ==</Uncommitted></BlockList>")
        );
    }

    #[test]
    fn a_page_that_repeats_the_signed_address_shows_no_signature() {
        let query = "uploadId=1&X-Amz-Date=20260101T000000Z&X-Amz-Signature=0123456789abcdef0123456789abcdef";
        let shown = without_signature(format!("<h1>502</h1> POST /b/k?{}", query.replace('&', "&amp;")), query);
        assert!(shown.contains("POST /b/k?uploadId=1") && shown.ends_with("X-Amz-Signature=***"), "{shown}");
    }

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
