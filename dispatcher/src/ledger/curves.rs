//! How far attempts were while they ran: a curve for each, made by the leader of what heartbeats say.
//!
//! Invariant: a curve has [`MOST`] points at most, however long the attempt runs: when it is full every other point goes and the
//! next ones come half as often. No lease depends on it.

use ffpool_schema::api::{ProgressCurve, ProgressPoint};
use ffpool_schema::id::JobId;
use ffpool_schema::message::Progress;
use tokio_postgres::Row;
use uuid::Uuid;

use super::batch::integer;
use super::leases::Beats;
use super::read::{ReadError, bounded};
use super::{Ledger, Unavailable};

/// Points of one curve: as many as a page can show.
const MOST: usize = 120;
/// Seconds between the first points; heartbeats come as often.
const FIRST_STEP_SECS: f32 = 1.0;
/// A point may come by so much of a step too early: heartbeats are not that even.
const EARLY: f32 = 0.1;
/// Curves that are shown of one job, the newest.
const SHOWN: i64 = 20;

/// One attempt's curve, as the ledger has it.
#[derive(Debug, Clone, PartialEq)]
struct Curve {
    step_secs: f32,
    at_secs: Vec<f32>,
    percent: Vec<Option<f32>>,
    fps: Vec<Option<f32>>,
}

impl Curve {
    fn new() -> Curve {
        Curve { step_secs: FIRST_STEP_SECS, at_secs: Vec::new(), percent: Vec::new(), fps: Vec::new() }
    }

    fn add(&mut self, at_secs: f32, percent: Option<f32>, fps: Option<f32>) {
        if self.at_secs.len() >= MOST {
            every_other(&mut self.at_secs);
            every_other(&mut self.percent);
            every_other(&mut self.fps);
            self.step_secs *= 2.0;
        }
        self.at_secs.push(at_secs);
        self.percent.push(percent);
        self.fps.push(fps);
    }

    fn of_row(row: &Row) -> Result<Curve, tokio_postgres::Error> {
        Ok(Curve {
            step_secs: row.try_get("step_secs")?,
            at_secs: row.try_get("at_secs")?,
            percent: row.try_get("percent")?,
            fps: row.try_get("fps")?,
        })
    }

    fn points(&self) -> Vec<ProgressPoint> {
        let values = self.percent.iter().zip(&self.fps);
        let points = self.at_secs.iter().zip(values).map(|(at_secs, (percent, fps))| ProgressPoint {
            at_secs: tenths(*at_secs),
            percent: percent.map(tenths),
            fps: fps.map(tenths),
        });
        points.collect()
    }
}

/// The first and every second one after it.
fn every_other<T>(values: &mut Vec<T>) {
    let mut number = 0_usize;
    values.retain(|_| {
        number += 1;
        !number.is_multiple_of(2)
    });
}

/// What is kept with fewer digits than it is shown with is shown without those that nobody measured.
fn tenths(value: f32) -> f64 {
    (f64::from(value) * 10.0).round() / 10.0
}

/// What heartbeats say of attempts that can tell how far they are, one vector a column.
#[derive(Default)]
struct Told {
    jobs: Vec<Uuid>,
    attempts: Vec<i32>,
    workers: Vec<String>,
    lives: Vec<Uuid>,
    percent: Vec<Option<f32>>,
    fps: Vec<Option<f32>>,
}

impl Told {
    fn by(beats: &Beats) -> Told {
        let mut told = Told::default();
        for beat in beats.each() {
            for running in beat.running.iter().filter(|running| !running.frozen) {
                let Some(Progress { percent, fps, .. }) = &running.progress else { continue };
                if percent.is_none() && fps.is_none() {
                    continue;
                }
                told.jobs.push(running.job.0);
                told.attempts.push(integer(running.attempt));
                told.workers.push(beat.from.worker.to_string());
                told.lives.push(beat.from.incarnation.0);
                told.percent.push(percent.map(shortened));
                told.fps.push(fps.map(shortened));
            }
        }
        told
    }
}

/// Curves as they are to be kept, one vector a column. Arrays as Postgres writes them, for those of several rows are of several
/// lengths.
#[derive(Default)]
struct Drawn {
    jobs: Vec<Uuid>,
    attempts: Vec<i32>,
    steps: Vec<f32>,
    at_secs: Vec<String>,
    percent: Vec<String>,
    fps: Vec<String>,
}

impl Drawn {
    fn push(&mut self, job: Uuid, attempt: i32, curve: &Curve) {
        self.jobs.push(job);
        self.attempts.push(attempt);
        self.steps.push(curve.step_secs);
        self.at_secs.push(array(curve.at_secs.iter().copied().map(Some)));
        self.percent.push(array(curve.percent.iter().copied()));
        self.fps.push(array(curve.fps.iter().copied()));
    }
}

fn array(values: impl Iterator<Item = Option<f32>>) -> String {
    let written: Vec<String> = values.map(|value| value.map_or("NULL".to_owned(), |value| value.to_string())).collect();
    format!("{{{}}}", written.join(","))
}

#[expect(clippy::cast_possible_truncation, reason = "a curve needs three digits")]
fn shortened(value: f64) -> f32 {
    value as f32
}

impl Ledger {
    /// Adds to the curves of the attempts that `beats` name what is due.
    ///
    /// # Errors
    /// When Postgres does not take it; then some points are missing.
    pub(crate) async fn draw(&self, beats: &Beats) -> Result<(), Unavailable> {
        let Told { jobs, attempts, workers, lives, percent, fps } = Told::by(beats);
        if jobs.is_empty() {
            return Ok(());
        }
        self.bounded(async {
            let client = self.inner.writers.get().await?;
            let statement = client.prepare_cached(DUE).await?;
            let early = 1.0 - EARLY;
            let due = client.query(&statement, &[&jobs, &attempts, &workers, &lives, &percent, &fps, &early]).await?;
            let mut drawn = Drawn::default();
            for row in &due {
                let is_new = row.try_get::<_, Option<f32>>("step_secs")?.is_none();
                let mut curve = if is_new { Curve::new() } else { Curve::of_row(row)? };
                curve.add(row.try_get("now_secs")?, row.try_get("now_percent")?, row.try_get("now_fps")?);
                drawn.push(row.try_get("job")?, row.try_get("attempt")?, &curve);
            }
            let Drawn { jobs, attempts, steps, at_secs, percent, fps } = &drawn;
            if !jobs.is_empty() {
                let keep = client.prepare_cached(KEEP).await?;
                client.execute(&keep, &[jobs, attempts, steps, at_secs, percent, fps]).await?;
            }
            Ok(())
        })
        .await
    }

    /// The curves of a job's newest attempts, first to last.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(crate) async fn curves(&self, job: JobId) -> Result<Vec<ProgressCurve>, ReadError> {
        bounded(async {
            let client = self.pool().get().await?;
            let rows = client.query(&client.prepare_cached(CURVES).await?, &[&job.0, &SHOWN]).await?;
            let curve = |row: &Row| {
                let curve = Curve::of_row(row)?;
                let attempt: i32 = row.try_get("attempt")?;
                Ok(ProgressCurve {
                    attempt: u32::try_from(attempt).unwrap_or(0),
                    lasted_secs: row.try_get("lasted_secs")?,
                    step_secs: tenths(curve.step_secs),
                    points: curve.points(),
                })
            };
            rows.iter().rev().map(curve).collect()
        })
        .await
    }
}

const DUE: &str = "SELECT told.job, told.attempt, told.percent AS now_percent, told.fps AS now_fps, now_secs, \
            curve.step_secs, curve.at_secs, curve.percent, curve.fps \
     FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::uuid[], $5::real[], $6::real[]) \
          AS told(job, attempt, worker, life, percent, fps) \
     JOIN job ON job.id = told.job AND job.state = 'running' AND job.attempt = told.attempt \
                 AND job.owner_worker = told.worker AND job.owner_incarnation = told.life \
     CROSS JOIN LATERAL (SELECT extract(epoch FROM now() - job.started_at)::real AS now_secs) AS age \
     LEFT JOIN progress_curve AS curve ON curve.job = told.job AND curve.attempt = told.attempt \
     WHERE curve.job IS NULL OR now_secs >= curve.at_secs[cardinality(curve.at_secs)] + curve.step_secs * $7::real";

const KEEP: &str = "INSERT INTO progress_curve (job, attempt, step_secs, at_secs, percent, fps) \
     SELECT job, attempt, step_secs, at_secs::real[], percent::real[], fps::real[] \
     FROM unnest($1::uuid[], $2::integer[], $3::real[], $4::text[], $5::text[], $6::text[]) \
          AS drawn(job, attempt, step_secs, at_secs, percent, fps) \
     WHERE EXISTS (SELECT FROM job WHERE job.id = drawn.job AND job.state = 'running' AND job.attempt = drawn.attempt) \
     ON CONFLICT (job, attempt) DO UPDATE SET step_secs = excluded.step_secs, at_secs = excluded.at_secs, \
        percent = excluded.percent, fps = excluded.fps";

const CURVES: &str = "SELECT curve.attempt, curve.step_secs, curve.at_secs, curve.percent, curve.fps, \
            extract(epoch FROM coalesce(attempt.ended_at, now()) - attempt.started_at)::float8 AS lasted_secs \
     FROM progress_curve AS curve JOIN attempt ON attempt.job = curve.job AND attempt.attempt = curve.attempt \
     WHERE curve.job = $1 ORDER BY curve.attempt DESC LIMIT $2";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_stays_bounded_and_even_however_long_an_attempt_runs() {
        let mut curve = Curve::new();
        let mut last = f32::NEG_INFINITY;
        for second in 0..100_000_u32 {
            #[expect(clippy::cast_precision_loss, reason = "far below 2^24")]
            let at = second as f32;
            // As `DUE` asks for, of heartbeats that are even.
            if at >= last + curve.step_secs {
                curve.add(at, Some(at / 1000.0), None);
                last = at;
            }
            assert!(curve.at_secs.len() <= MOST);
        }
        assert_eq!((curve.percent.len(), curve.fps.len()), (curve.at_secs.len(), curve.at_secs.len()));
        assert!(curve.at_secs.len() > MOST / 2, "{} points are left", curve.at_secs.len());
        assert_eq!(curve.at_secs[0], 0.0, "the beginning is kept");
        for pair in curve.at_secs.windows(2) {
            assert_eq!(pair[1] - pair[0], curve.step_secs, "every other point of an even curve leaves an even one");
        }
        assert_eq!(array([Some(0.5), None].into_iter()), "{0.5,NULL}");
        assert_eq!(curve.points()[1].percent, curve.percent[1].map(tenths));
    }
}
