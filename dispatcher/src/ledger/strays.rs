//! What hangs on the ledger's side: messages that nobody understands, and the tools' log lines.

use ffpool_schema::message::LogLine;
use uuid::Uuid;

use super::batch::{clean, integer};
use super::{Ledger, Unavailable};

/// So much of a stray's body is kept, in bytes.
const STRAY_BYTES: usize = 64 * 1024;
/// Lines of a tool's log that are kept for each job, the last ones.
const LOG_LINES_MAX: i64 = 2_000;
/// Old lines are looked for whenever a line's number is a multiple of this.
const LOG_TRIM_EVERY: u64 = 256;

/// A message on a service queue that could not be understood.
#[derive(Debug, Clone)]
pub struct Stray {
    /// The queue it came from.
    pub source: &'static str,
    /// Its id, where it had one.
    pub message_id: Option<String>,
    /// Its body.
    pub body: Vec<u8>,
    /// Why it was not understood.
    pub error: String,
}

impl Ledger {
    /// Keeps messages that were not understood, so that they can be acknowledged and nothing vanishes.
    ///
    /// # Errors
    /// When Postgres does not take it.
    pub async fn keep_strays(&self, strays: &[Stray]) -> Result<(), Unavailable> {
        self.bounded(async {
            let client = self.inner.writers.get().await?;
            let statement = client.prepare_cached(KEEP_STRAYS).await?;
            let sources: Vec<&str> = strays.iter().map(|stray| stray.source).collect();
            let ids: Vec<Option<String>> = strays.iter().map(|stray| stray.message_id.as_deref().map(clean)).collect();
            let bodies: Vec<&[u8]> =
                strays.iter().map(|stray| &stray.body[..stray.body.len().min(STRAY_BYTES)]).collect();
            let errors: Vec<String> = strays.iter().map(|stray| clean(&stray.error)).collect();
            client.execute(&statement, &[&sources, &ids, &bodies, &errors]).await?;
            Ok(())
        })
        .await
    }

    /// Appends log lines, and forgets the oldest of jobs that have many.
    ///
    /// # Errors
    /// When Postgres does not take it; the lines are lost then, as they may be.
    pub async fn append_log(&self, lines: &[LogLine]) -> Result<(), Unavailable> {
        self.bounded(async {
            let client = self.inner.writers.get().await?;
            let statement = client.prepare_cached(APPEND_LOG).await?;
            let jobs: Vec<Uuid> = lines.iter().map(|line| line.job.0).collect();
            let attempts: Vec<i32> = lines.iter().map(|line| integer(line.attempt)).collect();
            let seqs: Vec<i64> = lines.iter().map(|line| i64::try_from(line.seq).unwrap_or(i64::MAX)).collect();
            let texts: Vec<String> = lines.iter().map(|line| clean(&line.line)).collect();
            client.execute(&statement, &[&jobs, &attempts, &seqs, &texts]).await?;
            let long: Vec<Uuid> =
                lines.iter().filter(|line| line.seq % LOG_TRIM_EVERY == 0).map(|line| line.job.0).collect();
            if !long.is_empty() {
                let statement = client.prepare_cached(TRIM_LOG).await?;
                client.execute(&statement, &[&long, &LOG_LINES_MAX]).await?;
            }
            Ok(())
        })
        .await
    }
}

const KEEP_STRAYS: &str = "INSERT INTO stray (source, message_id, body, error) \
     SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::text[])";

// A line of a job that does not exist is kept too: the line may overtake the job.
const APPEND_LOG: &str = "INSERT INTO log_line (job, attempt, seq, line) \
     SELECT * FROM unnest($1::uuid[], $2::integer[], $3::bigint[], $4::text[]) ON CONFLICT DO NOTHING";

const TRIM_LOG: &str = "DELETE FROM log_line AS l USING (SELECT DISTINCT job FROM unnest($1::uuid[]) AS u(job)) AS u \
     WHERE l.job = u.job AND (l.attempt, l.seq) <= ( \
        SELECT o.attempt, o.seq FROM log_line AS o WHERE o.job = u.job \
        ORDER BY o.attempt DESC, o.seq DESC OFFSET $2 LIMIT 1)";
