//! The many objects of a presentation: put under keys that no other attempt has, and deleted when nothing names them.
//!
//! Invariant: they are all there before the object that names them; what cannot be deleted stays, and nothing names it.

use std::path::{Path, PathBuf};

use ffpool_schema::id::JobId;
use ffpool_schema::message::ArtifactFile;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::bucket::{Mark, Object};
use super::trouble::Trouble;
use super::upload::Upload;
use crate::publish::{self, PublishError, Published};

/// Objects on the way at a time.
const AT_ONCE: usize = 4;

/// Why an object was not put.
#[derive(Debug)]
pub enum Unsent {
    /// The file cannot be read.
    File(PublishError),
    /// The store does not take it.
    Store(Trouble),
}

/// Puts files of a scratch beside an object.
///
/// # Errors
/// When one cannot be read or put: then some may be there.
pub async fn send(
    object: &Object,
    scratch: &Path,
    names: &[PathBuf],
    job: JobId,
    attempt: u32,
) -> Result<Vec<ArtifactFile>, Unsent> {
    let sent = names.iter().cloned().map(|name| send_one(object.clone(), scratch.join(&name), name, job, attempt));
    stream::iter(sent.collect::<Vec<_>>()).buffered(AT_ONCE).try_collect().await
}

async fn send_one(
    object: Object,
    file: PathBuf,
    name: PathBuf,
    job: JobId,
    attempt: u32,
) -> Result<ArtifactFile, Unsent> {
    let path = name.to_string_lossy().into_owned();
    let (size_bytes, sha256) = measure(file.clone()).await?;
    let mark = Mark { job, attempt, sha256: sha256.clone() };
    let beside = object.beside(&path).map_err(Unsent::Store)?;
    let mut upload = Upload::begin(beside, &file, size_bytes, mark).await.map_err(Unsent::Store)?;
    if let Err(trouble) = upload.send(&file, size_bytes, &|_| {}).await {
        upload.abort().await;
        return Err(Unsent::Store(trouble));
    }
    match upload.commit().await.map_err(Unsent::Store)? {
        Published::Done | Published::Lost => Ok(ArtifactFile { path, size_bytes, sha256 }),
    }
}

async fn measure(file: PathBuf) -> Result<(u64, String), Unsent> {
    let measured = tokio::task::spawn_blocking(move || publish::measure(&file, &|| false)).await;
    measured.unwrap_or(Err(PublishError::Stopped)).map_err(Unsent::File)
}

/// Deletes objects beside another, as far as it can.
pub async fn delete(object: &Object, paths: Vec<String>) {
    let delete_one = async |path: String| {
        let deleted = match object.beside(&path) {
            Ok(beside) => beside.delete().await,
            Err(trouble) => Err(trouble),
        };
        if let Err(trouble) = deleted {
            tracing::warn!(object = %object.address(), path, evidence = trouble.evidence, "an object that nothing names stays");
        }
    };
    stream::iter(paths).for_each_concurrent(AT_ONCE, delete_one).await;
}

/// Whether every file of an artifact is there, as an attempt put it.
pub async fn is_whole(object: &Object, files: &[ArtifactFile]) -> bool {
    let looks = files.iter().map(|file| is_there(object.clone(), file.clone())).collect::<Vec<_>>();
    stream::iter(looks).buffered(AT_ONCE).all(std::future::ready).await
}

async fn is_there(object: Object, file: ArtifactFile) -> bool {
    let Ok(beside) = object.beside(&file.path) else { return false };
    let Ok(Some(there)) = beside.look().await else { return false };
    there.size_bytes == file.size_bytes && there.mark.is_some_and(|mark| mark.sha256 == file.sha256)
}
