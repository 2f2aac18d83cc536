//! Small pictures of what jobs made: kept with the end that they came with, gone with the job.
//!
//! Invariant: what is kept was looked at where the report was read ([`Thumbnail`]); a job has one at most.

use std::collections::BTreeMap;

use deadpool_postgres::ClientWrapper;
use ffpool_schema::id::JobId;
use ffpool_schema::thumbnail::Thumbnail;
use tokio_postgres::Error;
use uuid::Uuid;

use super::Ledger;
use super::batch::integer;
use super::read::{ReadError, bounded};

/// Keeps those of jobs that complete in this transaction, each with the attempt that made it.
pub(super) async fn write(client: &ClientWrapper, thumbnails: &BTreeMap<JobId, (u32, Thumbnail)>) -> Result<(), Error> {
    if thumbnails.is_empty() {
        return Ok(());
    }
    let statement = client.prepare_cached(KEEP).await?;
    let jobs: Vec<Uuid> = thumbnails.keys().map(|job| job.0).collect();
    let attempts: Vec<i32> = thumbnails.values().map(|(attempt, _)| integer(*attempt)).collect();
    let pictures: Vec<&[u8]> = thumbnails.values().map(|(_, thumbnail)| thumbnail.jpeg()).collect();
    client.execute(&statement, &[&jobs, &attempts, &pictures]).await?;
    Ok(())
}

impl Ledger {
    /// The JPEG of a job, if it has one.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(crate) async fn thumbnail(&self, job: JobId) -> Result<Option<Vec<u8>>, ReadError> {
        bounded(async {
            let client = self.pool().get().await?;
            let row = client.query_opt(&client.prepare_cached(SHOW).await?, &[&job.0]).await?;
            Ok(row.map(|row| row.try_get("jpeg")).transpose()?)
        })
        .await
    }
}

// A job that was forgotten left none. Should one complete twice, what it made last is there to be seen.
pub(super) const KEEP: &str = "INSERT INTO thumbnail (job, attempt, jpeg) \
     SELECT job, attempt, jpeg FROM unnest($1::uuid[], $2::integer[], $3::bytea[]) AS made(job, attempt, jpeg) \
     ON CONFLICT (job) DO UPDATE SET attempt = excluded.attempt, at = now(), jpeg = excluded.jpeg";

const SHOW: &str = "SELECT jpeg FROM thumbnail WHERE job = $1";
