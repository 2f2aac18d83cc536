//! Jobs for which a worker is looked for, as the leader reads them.

use ffpool_schema::id::JobId;
use ffpool_schema::job::JobSpec;

use super::batch::{in_chunks, natural};
use super::record::is_alone;
use super::{Ledger, Unavailable};

/// Jobs that are read at a time, those first that are published again next: so each has its turn before its pause is over,
/// however many there are that nobody can run.
const WANTED_MAX: i64 = 100;

/// A job for which a worker is looked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The job.
    pub job: JobId,
    /// Its canonical form.
    pub spec: JobSpec,
    /// Whether it needs a whole worker.
    pub alone: bool,
}

impl Ledger {
    /// The jobs that could not run where they were delivered and are not offered to anybody.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn wanted(&self) -> Result<Vec<Wanted>, Unavailable> {
        self.bounded(async {
            let client = self.inner.writers.get().await?;
            let statement = client.prepare_cached(WANTED).await?;
            let rows = client.query(&statement, &[&WANTED_MAX]).await?;
            let mut wanted = Vec::with_capacity(rows.len());
            for row in &rows {
                let alone = is_alone(natural(row.try_get(2)?), row.try_get(3)?);
                // Recorded by another version of this program, which knew what this one does not: its claim says so.
                if let Ok(spec) = serde_json::from_str(row.try_get::<_, &str>(1)?) {
                    wanted.push(Wanted { job: JobId(row.try_get(0)?), spec, alone });
                }
            }
            Ok(wanted)
        })
        .await
    }
}

const WANTED: &str = concat!(
    "SELECT id, spec::text, losses, ",
    in_chunks!(),
    " FROM job \
     WHERE wants_worker AND state = 'delayed' AND offered_worker IS NULL AND NOT paused AND spec IS NOT NULL \
     ORDER BY publish_due, number LIMIT $1"
);
