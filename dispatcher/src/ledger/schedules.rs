//! Schedules and what became of their due times.
//!
//! Invariant: a schedule leaves a due time in one statement, together with the record of what became of it, and only if it is
//! still there: two leaders cannot move it twice.

use std::collections::BTreeSet;

use ffpool_schema::api::{Missed, Overlap, ScheduleRequest, ScheduleRunView, ScheduleView, Submitted};
use ffpool_schema::id::JobId;
use ffpool_schema::parse::{Fault, Received};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::audit::Entry;
use super::batch::{clean, json as written};
use super::{Actor, Ledger, Realm, SubmitError, Submitter, Unavailable};
use crate::schedules::{Recurrence, body};

/// Schedules that are moved on in one sweep.
const SWEEP_MAX: i64 = 100;
/// Due times that are shown, to come and past.
const SHOWN: usize = 5;
const SHOWN_RUNS: i64 = 20;
/// Schedules that a tenant may have, and so may the pool: each is a row that every list shows.
const MAX_SCHEDULES: i64 = 1_000;
/// Schedules that are listed at most, by name.
const SCHEDULES_SHOWN: i64 = 20_000;
/// What became of a due time is kept for so many days.
const KEPT_DAYS: i32 = 400;

/// A schedule whose time has come.
#[derive(Debug, Clone)]
pub struct Due {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// When.
    pub cron: String,
    /// Where.
    pub zone: String,
    /// The job, with placeholders.
    pub job: Value,
    /// Whose it is, and its jobs.
    pub realm: Realm,
    /// What becomes of missed due times.
    pub missed: Missed,
    /// What happens while its last job has not ended.
    pub overlap: Overlap,
    /// The due time.
    pub due: Timestamp,
    /// The due time whose job somebody set out to record, and who did not move the schedule on.
    pub making: Option<Timestamp>,
    /// The ledger's clock.
    pub now: Timestamp,
    /// The number of its last job, if that has not ended.
    pub still_running: Option<i64>,
}

/// What became of a due time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueRun {
    /// The due time.
    pub due: Timestamp,
    /// What became of it.
    pub outcome: RunOutcome,
    /// The job that was made.
    pub job: Option<JobId>,
    /// More, in words.
    pub detail: Option<String>,
}

/// What becomes of a due time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunOutcome {
    /// Its job was made.
    Submitted,
    /// The last job had not ended.
    Skipped,
    /// No dispatcher was there.
    Missed,
    /// Its job was not valid.
    Refused,
}

impl RunOutcome {
    /// The name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            RunOutcome::Submitted => "submitted",
            RunOutcome::Skipped => "skipped",
            RunOutcome::Missed => "missed",
            RunOutcome::Refused => "refused",
        }
    }
}

/// Why a schedule was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// There is one of this name.
    #[error("there is a schedule of this name already; remove it first, or choose another name")]
    Exists,
    /// There is none of this name.
    #[error("there is no schedule of this name")]
    NotFound,
    /// There are too many.
    #[error("there are {MAX_SCHEDULES} schedules already; remove one first")]
    Full,
    /// It is not valid; nothing was recorded.
    #[error("the schedule is not valid")]
    Invalid(Vec<Fault>),
    /// It is unknown whether it happened.
    #[error("the ledger is unavailable: {0}")]
    Unavailable(String),
}

impl From<Unavailable> for ScheduleError {
    fn from(error: Unavailable) -> ScheduleError {
        ScheduleError::Unavailable(error.0)
    }
}

impl From<SubmitError> for ScheduleError {
    fn from(error: SubmitError) -> ScheduleError {
        match error {
            SubmitError::Invalid(faults) => ScheduleError::Invalid(faults),
            SubmitError::Unavailable(reason) => ScheduleError::Unavailable(reason),
        }
    }
}

impl Ledger {
    /// Records a schedule.
    ///
    /// # Errors
    /// See [`ScheduleError`].
    pub async fn add_schedule(&self, request: &ScheduleRequest, who: &Actor) -> Result<ScheduleView, ScheduleError> {
        let now = Timestamp::now();
        let recurrence = self.check_schedule(request, &who.realm, now).map_err(ScheduleError::Invalid)?;
        let next = recurrence.after(now);
        let job = written(&request.job);
        let tenant = who.realm.tenant();
        let added: Result<u64, ScheduleError> = self
            .bounded(async {
                let client = self.inner.writers.get().await?;
                let statement = client.prepare_cached(ADD).await?;
                let added = client
                    .execute(
                        &statement,
                        &[
                            &request.name,
                            &request.cron,
                            &request.zone,
                            &job,
                            &request.missed.as_str(),
                            &request.overlap.as_str(),
                            &request.paused,
                            &clean(&who.name),
                            &next,
                            &MAX_SCHEDULES,
                            &tenant,
                        ],
                    )
                    .await;
                match added {
                    Ok(rows) => Ok(Ok(rows)),
                    Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => Ok(Err(ScheduleError::Exists)),
                    Err(error) => Err(error.into()),
                }
            })
            .await?;
        if added? == 0 {
            return Err(ScheduleError::Full);
        }
        let after = json!({"cron": request.cron, "zone": request.zone});
        self.audit(who, Entry::new("add_schedule", &request.name).detail(after.clone()).after(after)).await;
        self.schedule(&who.realm, &request.name).await
    }

    /// A schedule whose every job is valid: its name, its times, and a job as it would be made now.
    fn check_schedule(
        &self,
        request: &ScheduleRequest,
        realm: &Realm,
        now: Timestamp,
    ) -> Result<Recurrence, Vec<Fault>> {
        let mut faults = Vec::new();
        if !ffpool_schema::catalog::is_name(&request.name) {
            let message = "1 to 64 letters, digits, `-` or `_` are expected, the first no sign";
            faults.push(Fault::new("name", "bad_value", message));
        }
        for (field, code, message) in [
            ("id", "contradiction", "an id is of one job: a schedule makes many, and derives their ids"),
            ("not_before", "contradiction", "the schedule says when: one instant for all its jobs makes no sense"),
            ("deadline", "contradiction", "one instant for all jobs of a schedule makes no sense"),
        ] {
            if request.job.contains_key(field) {
                faults.push(Fault::new(format!("job.{field}"), code, message));
            }
        }
        let recurrence = match Recurrence::new(&request.cron, &request.zone) {
            Ok(recurrence) => recurrence,
            Err(message) => {
                faults.push(Fault::new("cron", "bad_value", message));
                return Err(faults);
            }
        };
        if recurrence.after(now).is_none() {
            faults.push(Fault::new("cron", "never", format!("`{}` is never due", request.cron)));
        }
        let job = Value::Object(request.job.clone());
        match body(&request.name, &job, &recurrence, JobId(Uuid::nil()), now) {
            Err(message) => faults.push(Fault::new("job", "bad_value", message)),
            Ok(body) => {
                let read = self.read_in(realm, &Received { body: &body, ..Received::default() });
                let inside = |fault: Fault| Fault { path: format!("job.{}", fault.path), ..fault };
                faults.extend(read.err().into_iter().flatten().map(inside));
            }
        }
        if faults.is_empty() { Ok(recurrence) } else { Err(faults) }
    }

    /// Every schedule of a realm, by name.
    ///
    /// # Errors
    /// See [`ScheduleError`].
    pub async fn schedules(&self, realm: &Realm) -> Result<Vec<ScheduleView>, ScheduleError> {
        let rows = self.bounded(async {
            let client = self.pool().get().await?;
            let statement = client.prepare_cached(LIST).await?;
            let rows = client.query(&statement, &[&SCHEDULES_SHOWN, &realm.tenant()]).await?;
            rows.iter().map(view).collect::<Result<Vec<_>, Unavailable>>()
        });
        Ok(rows.await?)
    }

    /// One schedule with what became of its last due times: a tenant's own, or to the pool one that is no tenant's.
    ///
    /// # Errors
    /// See [`ScheduleError`].
    pub async fn schedule(&self, realm: &Realm, name: &str) -> Result<ScheduleView, ScheduleError> {
        let found = self.bounded(async {
            let client = self.pool().get().await?;
            let statement = client.prepare_cached(SHOW).await?;
            let Some(row) = client.query_opt(&statement, &[&name, &realm.tenant()]).await? else {
                return Ok(None);
            };
            let mut found = view(&row)?;
            let statement = client.prepare_cached(RUNS).await?;
            let rows = client.query(&statement, &[&row.try_get::<_, Uuid>("id")?, &SHOWN_RUNS]).await?;
            found.runs = rows.iter().map(run_view).collect::<Result<_, Unavailable>>()?;
            Ok(Some(found))
        });
        found.await?.ok_or(ScheduleError::NotFound)
    }

    /// Does away with a schedule of `owner`'s. Its jobs stay.
    ///
    /// # Errors
    /// See [`ScheduleError`].
    pub async fn remove_schedule(&self, owner: &Realm, name: &str, who: &Actor) -> Result<(), ScheduleError> {
        let before = self.schedule(owner, name).await?;
        let removed = self.bounded(async {
            let client = self.inner.writers.get().await?;
            let statement = client.prepare_cached(REMOVE).await?;
            Ok(client.execute(&statement, &[&name, &owner.tenant()]).await?)
        });
        if removed.await? == 0 {
            return Err(ScheduleError::NotFound);
        }
        let before = json!({"cron": before.cron, "zone": before.zone, "paused": before.paused});
        self.audit(who, Entry::new("remove_schedule", name).of_tenant(owner.tenant()).before(before)).await;
        Ok(())
    }

    /// Pauses a schedule of `owner`'s, or lets it go on. Due times that pass meanwhile are not missed: nobody wanted them.
    ///
    /// # Errors
    /// See [`ScheduleError`].
    pub async fn pause_schedule(
        &self,
        owner: &Realm,
        name: &str,
        paused: bool,
        who: &Actor,
    ) -> Result<ScheduleView, ScheduleError> {
        let found = self.schedule(owner, name).await?;
        let recurrence = Recurrence::new(&found.cron, &found.zone)
            .map_err(|message| ScheduleError::Invalid(vec![Fault::new("cron", "bad_value", message)]))?;
        let next = recurrence.after(Timestamp::now());
        let changed = self.bounded(async {
            let client = self.inner.writers.get().await?;
            let statement = client.prepare_cached(PAUSE).await?;
            Ok(client.execute(&statement, &[&name, &paused, &next, &owner.tenant()]).await?)
        });
        changed.await?;
        let entry = Entry::new(if paused { "pause_schedule" } else { "resume_schedule" }, name);
        let entry = entry.of_tenant(owner.tenant());
        self.audit(who, entry.before(json!({"paused": found.paused})).after(json!({"paused": paused}))).await;
        self.schedule(owner, name).await
    }

    /// Makes the job of a schedule of `owner`'s now, besides its due times.
    ///
    /// # Errors
    /// See [`ScheduleError`].
    pub async fn run_schedule(&self, owner: &Realm, name: &str, who: &Actor) -> Result<Submitted, ScheduleError> {
        let found = self.schedule(owner, name).await?;
        let invalid = |message: String| ScheduleError::Invalid(vec![Fault::new("job", "bad_value", message)]);
        let recurrence = Recurrence::new(&found.cron, &found.zone).map_err(invalid)?;
        let id = JobId(Uuid::now_v7());
        let submitter = Submitter { realm: owner.clone(), asked: None };
        let body = body(name, &Value::Object(found.job), &recurrence, id, Timestamp::now()).map_err(invalid)?;
        let submitted = self.submit(&body, Some("application/json"), &submitter).await?;
        let noted = self.bounded(async {
            let client = self.inner.writers.get().await?;
            let statement = client.prepare_cached(NOTE_JOB).await?;
            Ok(client.execute(&statement, &[&name, &id.0, &owner.tenant()]).await?)
        });
        // The job is recorded: who is told of a failure would make it again.
        if let Err(error) = noted.await {
            tracing::warn!(%error, schedule = name, "the schedule's last job is not noted");
        }
        self.audit(
            who,
            Entry::new("run_schedule", name).of_tenant(owner.tenant()).detail(json!({"job": submitted.id})),
        )
        .await;
        Ok(submitted)
    }

    /// The schedules whose time has come, but for those that are left to others.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn due_schedules(&self, but: &BTreeSet<Uuid>) -> Result<Vec<Due>, Unavailable> {
        let but: Vec<Uuid> = but.iter().copied().collect();
        self.bounded(async {
            let client = self.pool().get().await?;
            let statement = client.prepare_cached(DUE).await?;
            let rows = client.query(&statement, &[&SWEEP_MAX, &but]).await?;
            rows.iter().map(due).collect()
        })
        .await
    }

    /// Notes for which due time a job is about to be recorded. `false`: the schedule stands elsewhere by now, and nothing may
    /// be recorded for it.
    ///
    /// # Errors
    /// When Postgres does not take it; then nothing may be recorded.
    pub async fn note_making(&self, of: &Due, due: Timestamp) -> Result<bool, Unavailable> {
        self.bounded(async {
            let client = self.inner.writers.get().await?;
            let statement =
                client.prepare_cached("UPDATE schedule SET making = $3 WHERE id = $1 AND next_due = $2").await?;
            Ok(client.execute(&statement, &[&of.id, &of.due, &due]).await? == 1)
        })
        .await
    }

    /// Moves a schedule on from a due time, if it still stands there.
    ///
    /// # Errors
    /// When Postgres does not take it; then it is done again.
    pub async fn move_schedule(&self, from: &Due, run: &DueRun, next: Option<Timestamp>) -> Result<(), Unavailable> {
        self.bounded(async {
            let client = self.inner.writers.get().await?;
            let statement = client.prepare_cached(MOVE).await?;
            let (job, detail) = (run.job.map(|job| job.0), run.detail.as_deref().map(clean));
            let outcome = run.outcome.as_str();
            client
                .execute(&statement, &[&from.id, &from.due, &next, &run.due, &outcome, &job, &detail, &KEPT_DAYS])
                .await?;
            Ok(())
        })
        .await
    }
}

fn view(row: &Row) -> Result<ScheduleView, Unavailable> {
    let (cron, zone): (String, String) = (row.try_get("cron")?, row.try_get("zone")?);
    let paused: bool = row.try_get("paused")?;
    let next_due: Option<Timestamp> = row.try_get("next_due")?;
    let mut next: Vec<Timestamp> = next_due.into_iter().filter(|_| !paused).collect();
    if let (Some(first), Ok(recurrence)) = (next.first().copied(), Recurrence::new(&cron, &zone)) {
        next.extend(recurrence.next(first, SHOWN - 1));
    }
    let Json(job) = row.try_get::<_, Json<serde_json::Map<String, Value>>>("job")?;
    Ok(ScheduleView {
        name: row.try_get("name")?,
        cron,
        zone,
        job,
        missed: Missed::of(row.try_get("missed")?).unwrap_or_default(),
        overlap: Overlap::of(row.try_get("overlap")?).unwrap_or_default(),
        paused,
        created_by: row.try_get("created_by")?,
        created_at: row.try_get("created_at")?,
        next,
        last_job: row.try_get::<_, Option<Uuid>>("last_job")?.map(JobId),
        tenant: row.try_get("tenant")?,
        runs: Vec::new(),
    })
}

fn run_view(row: &Row) -> Result<ScheduleRunView, Unavailable> {
    Ok(ScheduleRunView {
        due: row.try_get("due")?,
        at: row.try_get("at")?,
        outcome: row.try_get("outcome")?,
        job: row.try_get::<_, Option<Uuid>>("job")?.map(JobId),
        detail: row.try_get("detail")?,
    })
}

fn due(row: &Row) -> Result<Due, Unavailable> {
    let Json(job) = row.try_get::<_, Json<Value>>("job")?;
    Ok(Due {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        cron: row.try_get("cron")?,
        zone: row.try_get("zone")?,
        job,
        realm: Realm::of(row.try_get("tenant")?),
        missed: Missed::of(row.try_get("missed")?).unwrap_or_default(),
        overlap: Overlap::of(row.try_get("overlap")?).unwrap_or_default(),
        due: row.try_get("next_due")?,
        making: row.try_get("making")?,
        now: row.try_get("now")?,
        still_running: row.try_get("still_running")?,
    })
}

const ADD: &str = "INSERT INTO schedule (name, cron, zone, job, missed, overlap, paused, created_by, next_due, tenant) \
     SELECT $1, $2, $3, $4::text::jsonb, $5, $6, $7, $8, $9, $11 \
     WHERE (SELECT count(*) FROM schedule WHERE tenant IS NOT DISTINCT FROM $11) < $10";

const LIST: &str = "SELECT id, name, cron, zone, job, missed, overlap, paused, created_by, created_at, next_due, last_job, tenant \
     FROM schedule WHERE $2::text IS NULL OR tenant = $2 ORDER BY name, tenant LIMIT $1";

const SHOW: &str = "SELECT id, name, cron, zone, job, missed, overlap, paused, created_by, created_at, next_due, last_job, tenant \
     FROM schedule WHERE name = $1 AND tenant IS NOT DISTINCT FROM $2";

const RUNS: &str =
    "SELECT due, at, outcome, job, detail FROM schedule_run WHERE schedule = $1 ORDER BY due DESC LIMIT $2";

const PAUSE: &str = "UPDATE schedule SET next_due = CASE WHEN paused AND NOT $2 THEN $3 ELSE next_due END, paused = $2 \
     WHERE name = $1 AND tenant IS NOT DISTINCT FROM $4";

const REMOVE: &str = "DELETE FROM schedule WHERE name = $1 AND tenant IS NOT DISTINCT FROM $2";

const NOTE_JOB: &str = "UPDATE schedule SET last_job = $2 WHERE name = $1 AND tenant IS NOT DISTINCT FROM $3";

const DUE: &str = "SELECT s.id, s.name, s.cron, s.zone, s.job, s.tenant, s.missed, s.overlap, s.next_due, s.making, now() AS now, \
            (SELECT j.number FROM job AS j WHERE j.id = s.last_job \
                AND j.state NOT IN ('completed', 'failed', 'cancelled', 'rejected')) AS still_running \
     FROM schedule AS s WHERE s.next_due <= now() AND NOT s.paused AND s.id <> ALL ($2::uuid[]) ORDER BY s.next_due LIMIT $1";

const MOVE: &str = "WITH moved AS ( \
        UPDATE schedule SET next_due = $3, making = NULL, last_job = coalesce($6, last_job) \
        WHERE id = $1 AND next_due = $2 RETURNING id), \
     forgotten AS ( \
        DELETE FROM schedule_run WHERE schedule IN (SELECT id FROM moved) AND due < now() - make_interval(days => $8)) \
     INSERT INTO schedule_run (schedule, due, outcome, job, detail) SELECT id, $4, $5, $6, $7 FROM moved \
     ON CONFLICT DO NOTHING";
