//! Recurring jobs: the leader makes each one when its time has come.
//!
//! Invariant: one job for a due time, however many dispatchers there are and whenever they die. The job's id is derived from
//! the schedule and the due time. The due time is noted, then the job is recorded, and only then is the schedule moved on:
//! who comes second finds the job there, and moves on from a due time that nobody has moved on from, however late it is.

mod cron;

use std::collections::BTreeSet;
use std::time::Duration;

use ffpool_schema::api::{Missed, Overlap};
use ffpool_schema::id::JobId;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::ledger::read::JobRef;
use crate::ledger::{Due, DueRun, Leadership, Ledger, Realm, RunOutcome, SubmitError, Submitter, Unavailable};
pub(crate) use cron::{Recurrence, values_at};

/// How often due times are looked at.
const SWEEP: Duration = Duration::from_secs(1);
/// A due time that is older was missed: no dispatcher was there.
const GRACE_SECS: i64 = 60;
/// Label of the jobs that a schedule makes.
pub(crate) const LABEL: &str = "schedule";

/// What is to be done at an instant about a schedule that is due.
#[derive(Debug, PartialEq, Eq)]
struct Decision {
    /// The last due time up to now.
    due: Timestamp,
    /// Whether its job is to be made; if not, it was missed.
    run: bool,
    /// Due times before it that are past too.
    passed: usize,
    /// The next due time.
    next: Option<Timestamp>,
}

fn decide(recurrence: &Recurrence, first: Timestamp, now: Timestamp, missed: Missed) -> Decision {
    let (mut due, mut passed) = (first, 0);
    let mut next = recurrence.after(due);
    while let Some(later) = next.filter(|later| *later <= now) {
        (due, passed) = (later, passed + 1);
        next = recurrence.after(due);
    }
    let is_late = now.as_second() - due.as_second() > GRACE_SECS;
    Decision { due, run: !is_late || missed == Missed::One, passed, next }
}

/// Makes the jobs of schedules while this dispatcher leads.
pub(crate) async fn follow(ledger: Ledger, leadership: Leadership, stop: CancellationToken) {
    let mut tick = tokio::time::interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Valid to the dispatcher that recorded them, and not to this one: they stay due, for one that can read them. Owned by
    // this loop, and bounded as schedules are.
    let mut unreadable: BTreeSet<Uuid> = BTreeSet::new();
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        if !leadership.is_held() {
            continue;
        }
        match ledger.due_schedules(&unreadable).await {
            Ok(due) => {
                for one in due {
                    let recurrence = match Recurrence::new(&one.cron, &one.zone) {
                        Ok(recurrence) => recurrence,
                        Err(reason) => {
                            warn!(
                                schedule = one.name,
                                reason, "this dispatcher cannot read a schedule: it is left to others"
                            );
                            unreadable.insert(one.id);
                            continue;
                        }
                    };
                    if let Err(error) = advance(&ledger, &one, &recurrence).await {
                        debug!(%error, schedule = one.name, "a schedule was not moved on, trying again");
                    }
                }
            }
            Err(error) => debug!(%error, "schedules were not looked at"),
        }
    }
}

async fn advance(ledger: &Ledger, one: &Due, recurrence: &Recurrence) -> Result<(), Unavailable> {
    if let Some(run) = made_before(ledger, one).await? {
        info!(schedule = one.name, due = %run.due, "a schedule's job was recorded by one who did not move it on");
        let next = recurrence.after(run.due);
        return ledger.move_schedule(one, &run, next).await;
    }
    let decision = decide(recurrence, one.due, one.now, one.missed);
    let passed = (decision.passed > 0)
        .then(|| format!("{} earlier due times passed while no dispatcher was there", decision.passed));
    let run = |outcome, job, detail: Option<String>| DueRun {
        due: decision.due,
        outcome,
        job,
        detail: detail.or_else(|| passed.clone()),
    };
    let run = if !decision.run {
        run(RunOutcome::Missed, None, None)
    } else if let (Overlap::Skip, Some(still)) = (one.overlap, &one.still_running) {
        run(RunOutcome::Skipped, None, Some(format!("job {still} has not ended")))
    } else {
        let id = id_for(one, decision.due);
        if !ledger.note_making(one, decision.due).await? {
            debug!(schedule = one.name, "somebody else has moved the schedule on");
            return Ok(());
        }
        match make(ledger, one, recurrence, id, decision.due).await? {
            Ok(()) => run(RunOutcome::Submitted, Some(id), None),
            Err(reason) => {
                warn!(schedule = one.name, reason, "a schedule's job is not valid");
                run(RunOutcome::Refused, None, Some(reason))
            }
        }
    };
    info!(schedule = one.name, due = %run.due, outcome = run.outcome.as_str(), "a schedule was due");
    ledger.move_schedule(one, &run, decision.next).await
}

/// The run of a due time that somebody noted and made a job for, and did not move the schedule on from.
async fn made_before(ledger: &Ledger, one: &Due) -> Result<Option<DueRun>, Unavailable> {
    let Some(due) = one.making else { return Ok(None) };
    let id = id_for(one, due);
    let found =
        ledger.job(&Realm::Pool, JobRef::Id(id)).await.map_err(|error| Unavailable::because(error.to_string()))?;
    Ok(found.map(|_| DueRun { due, outcome: RunOutcome::Submitted, job: Some(id), detail: None }))
}

/// The id of the job for a due time.
fn id_for(one: &Due, due: Timestamp) -> JobId {
    JobId::derived("schedule", &[one.id.as_bytes(), &due.as_second().to_be_bytes()])
}

/// Records the job; the inner error says why it is not valid.
async fn make(
    ledger: &Ledger,
    one: &Due,
    recurrence: &Recurrence,
    id: JobId,
    due: Timestamp,
) -> Result<Result<(), String>, Unavailable> {
    let body = match body(&one.name, &one.job, recurrence, id, due) {
        Ok(body) => body,
        Err(reason) => return Ok(Err(reason)),
    };
    let submitter = Submitter { realm: one.realm.clone(), asked: None };
    match ledger.submit(&body, Some("application/json"), &submitter).await {
        Ok(_) => Ok(Ok(())),
        Err(SubmitError::Invalid(faults)) => {
            Ok(Err(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))
        }
        Err(SubmitError::Unavailable(reason)) => Err(Unavailable::because(reason)),
    }
}

/// The body of the job for a due time: placeholders filled in, with its id and the schedule's label.
pub(crate) fn body(
    name: &str,
    job: &Value,
    recurrence: &Recurrence,
    id: JobId,
    due: Timestamp,
) -> Result<Vec<u8>, String> {
    let values = values_at(name, recurrence, due);
    let fields = job.as_object().cloned().unwrap_or_default();
    let mut fields = ffpool_schema::catalog::filled(&fields, &values)
        .map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
    fields.insert("id".to_owned(), json!(id));
    let labels = fields.entry("labels").or_insert_with(|| json!({}));
    if let Value::Object(labels) = labels {
        labels.entry(LABEL).or_insert_with(|| json!(name));
    }
    Ok(Value::Object(fields).to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn hourly() -> Recurrence {
        Recurrence::new("0 * * * *", "UTC").unwrap()
    }

    #[test]
    fn a_due_time_runs_and_the_next_follows() {
        let decision = decide(&hourly(), at("2026-11-26T01:00:00Z"), at("2026-11-26T01:00:02Z"), Missed::Skip);
        let next = Some(at("2026-11-26T02:00:00Z"));
        assert_eq!(decision, Decision { due: at("2026-11-26T01:00:00Z"), run: true, passed: 0, next });
    }

    #[test]
    fn after_an_outage_one_is_made_or_none_and_never_all() {
        let (first, now) = (at("2026-11-26T01:00:00Z"), at("2026-11-26T05:30:00Z"));
        let expected =
            |run| Decision { due: at("2026-11-26T05:00:00Z"), run, passed: 4, next: Some(at("2026-11-26T06:00:00Z")) };
        assert_eq!(decide(&hourly(), first, now, Missed::Skip), expected(false));
        assert_eq!(decide(&hourly(), first, now, Missed::One), expected(true));
        // The last one is still on time.
        let soon = decide(&hourly(), first, at("2026-11-26T05:00:30Z"), Missed::Skip);
        assert_eq!((soon.run, soon.passed), (true, 4));
    }

    #[test]
    fn the_job_has_the_due_times_date_its_id_and_its_label() {
        let job = json!({"scenario": "480p30-h264", "output": "/out/{date}/{hour}.mp4", "labels": {"day": "{date}"}});
        let berlin = Recurrence::new("30 0 * * *", "Europe/Berlin").unwrap();
        let id = JobId::derived("x", &[]);
        let body = body("nightly", &job, &berlin, id, at("2026-11-25T23:30:00Z")).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["output"], "/out/2026-11-26/00.mp4", "in the schedule's own zone");
        assert_eq!((&body["labels"], &body["id"]), (&json!({"day": "2026-11-26", "schedule": "nightly"}), &json!(id)));
    }
}
