//! What a decision leaves for people to read: the reason of a job's state, its failure, the details of its history.
//!
//! Invariant: every input has its words; what ended a job without a report still gets a cause and a cure.

use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::lifecycle::{Change, End, Input, State};
use serde_json::{Value, json};

use super::{Evidence, Record};

/// Sets what a person reads as the reason of the job's state.
pub(super) fn explain(record: &mut Record, input: &Input, evidence: &Evidence, change: &Change) {
    let writes = &mut record.writes;
    writes.failure = evidence.failure.clone().or(writes.failure.take());
    if !evidence.faults.is_empty() {
        writes.faults = Some(evidence.faults.clone());
    }
    if let Some(manifest) = &evidence.manifest {
        writes.manifest = Some(manifest.clone());
    }
    let owner = record.facts.owner.as_ref().map_or_else(|| "?".to_owned(), |owner| owner.worker.to_string());
    let by = evidence.by.as_deref();
    record.reason = match input {
        Input::Arrive | Input::TakeCustody { .. } | Input::Commit { .. } | Input::Due | Input::ParentsDone => {
            record.reason.take()
        }
        // That it is paused says the row, and who did it the history.
        Input::Pause | Input::Resume if record.held.is_some() => record.reason.take(),
        Input::Resume | Input::LetGo => None,
        Input::Pause => Some(match by {
            Some(by) => format!("paused by {by}"),
            None => "paused".to_owned(),
        }),
        Input::ParentFailed { .. } => evidence.reason.clone(),
        Input::DeadlinePassed if change.to == State::Cancelling => {
            Some("deadline: it passed while the job ran".to_owned())
        }
        Input::DeadlinePassed => Some("deadline: it passed before the job could run".to_owned()),
        Input::Claim { .. } | Input::Take { .. } if change.begin || change.to.is_end() => None,
        Input::Claim { .. } | Input::Take { .. } => record.reason.take(),
        Input::Offer { to } => Some(format!("offered to worker {}", to.worker)),
        Input::OfferAccepted { .. } | Input::OfferDeclined { .. } => evidence.reason.clone().or(record.reason.take()),
        Input::Finished { .. } => None,
        Input::Failed { .. } => {
            evidence.failure.as_ref().map(|failure| format!("{}: {}", failure.cause, failure.message))
        }
        Input::Rejected { .. } => {
            Some(evidence.reason.clone().unwrap_or_else(|| format!("worker {owner} found that it cannot run")))
        }
        Input::Released { .. } => Some(match &evidence.reason {
            Some(reason) => format!("worker {owner} handed it back: {reason}"),
            None => format!("worker {owner} handed it back"),
        }),
        Input::CancelDone { .. } => record.reason.take(),
        Input::Split { .. } => Some(match evidence.pieces.first() {
            Some(piece) => format!("waits for {} of its {} chunks", evidence.pieces.len(), piece.total),
            None => "waits for its chunks".to_owned(),
        }),
        Input::Lapse { attempt } => Some(format!("worker {owner} fell silent in attempt {attempt}")),
        Input::Cancel => Some(match by {
            Some(by) => format!("cancelled by {by}"),
            None => "cancelled".to_owned(),
        }),
        Input::Finish => Some(match by {
            Some(by) => format!("ends with what it has, as {by} wants it"),
            None => "ends with what it has".to_owned(),
        }),
        Input::Redrive => Some(match (by, &evidence.reason) {
            (Some(by), Some(reason)) => format!("sent round again by {by}: {reason}"),
            (Some(by), None) => format!("sent round again by {by}"),
            (None, Some(reason)) => format!("sent round again: {reason}"),
            (None, None) => "sent round again".to_owned(),
        }),
        Input::HoldBack | Input::Unfit | Input::NeverFits | Input::DeliveryLimit => evidence.reason.clone(),
    };
    if change.to != State::Failed || matches!(input, Input::Failed { .. }) {
        return;
    }
    // Parked without a report of its own: what ended it is still a failure with a cause and a cure.
    let told = |otherwise: &str| evidence.reason.clone().unwrap_or_else(|| otherwise.to_owned());
    let failure = if let (Input::ParentFailed { .. }, Some(failure)) = (input, &evidence.failure) {
        // Of its own chunk: what is wrong with that is wrong with the job.
        failure.clone()
    } else if *input == Input::DeliveryLimit {
        Failure::new(Cause::DeliveryLimit, told("the broker gave up delivering its message"))
    } else if *input == Input::DeadlinePassed {
        Failure::new(Cause::Deadline, "its deadline passed before it could run")
    } else if matches!(input, Input::ParentFailed { .. }) {
        Failure::new(Cause::ParentFailed, told("a job that it depends on has ended without completing"))
    } else {
        let lost = record.facts.losses;
        Failure::new(
            Cause::WorkerLost,
            format!(
                "{lost} workers were lost while they ran it, the last was {owner}; the limit is {}",
                record.facts.loss_limit
            ),
        )
    };
    record.facts.last_cause = Some(failure.cause);
    record.writes.failure = Some(failure);
}

/// The attempt that an input is about, where it names one.
pub(super) fn attempt_of(input: &Input) -> Option<u32> {
    match input {
        Input::TakeCustody { attempt, .. }
        | Input::Commit { attempt, .. }
        | Input::Finished { attempt }
        | Input::Failed { attempt, .. }
        | Input::Rejected { attempt }
        | Input::Released { attempt }
        | Input::CancelDone { attempt }
        | Input::Split { attempt }
        | Input::Lapse { attempt } => Some(*attempt),
        Input::Arrive
        | Input::Claim { .. }
        | Input::Take { .. }
        | Input::Offer { .. }
        | Input::OfferAccepted { .. }
        | Input::OfferDeclined { .. }
        | Input::Due
        | Input::ParentsDone
        | Input::ParentFailed { .. }
        | Input::DeadlinePassed
        | Input::Pause
        | Input::Resume
        | Input::Cancel
        | Input::Finish
        | Input::Redrive
        | Input::HoldBack
        | Input::LetGo
        | Input::Unfit
        | Input::NeverFits
        | Input::DeliveryLimit => None,
    }
}

/// What an event's row tells besides its kind.
pub(super) fn detail(record: &Record, input: &Input, evidence: &Evidence, change: &Change) -> Value {
    let mut detail = serde_json::Map::new();
    let mut put = |key: &str, value: Value| {
        detail.insert(key.to_owned(), value);
    };
    match input {
        Input::Claim { from, .. }
        | Input::Take { from }
        | Input::Offer { to: from }
        | Input::OfferAccepted { by: from }
        | Input::OfferDeclined { by: from }
        | Input::TakeCustody { from, .. }
        | Input::Commit { from, .. } => {
            put("worker", json!(from.worker));
        }
        Input::Lapse { .. } => put("worker", json!(record.facts.owner.as_ref().map(|owner| &owner.worker))),
        Input::Failed { cause, .. } => put("cause", json!(cause)),
        Input::Split { .. } => {
            put("missing", json!(evidence.pieces.len()));
            put("chunks", json!(evidence.pieces.first().map(|piece| piece.total)));
        }
        Input::Arrive
        | Input::Finished { .. }
        | Input::Rejected { .. }
        | Input::Released { .. }
        | Input::CancelDone { .. }
        | Input::Due
        | Input::ParentsDone
        | Input::ParentFailed { .. }
        | Input::DeadlinePassed
        | Input::Pause
        | Input::Resume
        | Input::Cancel
        | Input::Finish
        | Input::Redrive
        | Input::HoldBack
        | Input::LetGo
        | Input::Unfit
        | Input::NeverFits
        | Input::DeliveryLimit => {}
    }
    if let Some(failure) = &evidence.failure {
        put("message", json!(failure.message));
    }
    if let Some(reason) = &evidence.reason {
        put("reason", json!(reason));
    }
    if let Some(by) = &evidence.by {
        put("by", json!(by));
    }
    if !evidence.faults.is_empty() {
        put("faults", json!(evidence.faults));
    }
    if let Some(drop) = change.drop {
        put("answer", json!(drop));
    }
    if change.grant_again {
        put("answer", json!("granted_again"));
    }
    if change.end == Some(End::Lapsed) && !matches!(input, Input::Lapse { .. }) {
        put("ended", json!("lapsed"));
    }
    Value::Object(detail)
}
