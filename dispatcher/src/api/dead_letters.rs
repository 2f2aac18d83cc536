//! Dead letters: jobs parked after their last failure.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::State;
use axum::http::Uri;
use axum::{Extension, Json};
use ffpool_schema::api::{DeadLetterGroup, JobView, Page, PurgeReport, PurgeRequest, RedriveReport, RedriveRequest};
use ffpool_schema::id::JobId;

use crate::api::problem::{Answer, ApiError};
use crate::api::query::{self, Query};
use crate::api::{App, body};
use crate::ledger::ControlError;
use crate::ledger::keys::Caller;

/// Jobs that one request may name.
const IDS_MAX: usize = 1000;

/// `GET /v1/dead-letters`
pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Answer<Json<Page<JobView>>> {
    let filter = Query::read(&uri, query::DEAD_LETTERS)?.job_filter(caller.realm())?;
    Ok(Json(query::page(app.ledger.dead_letters(&filter).await?)))
}

/// `GET /v1/dead-letters/groups`
pub(crate) async fn groups(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Answer<Json<Vec<DeadLetterGroup>>> {
    Ok(Json(app.ledger.dead_letter_groups(caller.realm()).await?))
}

/// `POST /v1/dead-letters/redrive`
pub(crate) async fn redrive(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Body,
) -> Answer<Json<RedriveReport>> {
    let request: RedriveRequest = body::read_json(request).await?;
    named_within_bounds(&request.ids, request.fingerprint.as_deref())?;
    let mut report = match &request.fingerprint {
        Some(kind) => app.ledger.redrive_kind(kind, &caller.actor, request.reason.as_deref()).await?,
        None => RedriveReport { redriven: Vec::new(), refused: BTreeMap::new() },
    };
    for id in request.ids {
        if report.redriven.contains(&id) {
            continue;
        }
        match app.ledger.redrive(id, &caller.actor, request.reason.as_deref()).await {
            Ok(_) => report.redriven.push(id),
            Err(ControlError::NotFound) => {
                report.refused.insert(id.to_string(), "there is no such job".to_owned());
            }
            Err(ControlError::Refused(refusal)) => {
                report.refused.insert(id.to_string(), refusal.to_string());
            }
            Err(unavailable @ ControlError::Unavailable(_)) => return Err(unavailable.into()),
        }
    }
    Ok(Json(report))
}

/// `POST /v1/dead-letters/purge`
pub(crate) async fn purge(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Body,
) -> Answer<Json<PurgeReport>> {
    let request: PurgeRequest = body::read_json(request).await?;
    named_within_bounds(&request.ids, request.fingerprint.as_deref())?;
    if request.reason.trim().is_empty() {
        return Err(ApiError::bad_parameter("reason", "say why: the audit is all that is left of them"));
    }
    Ok(Json(app.ledger.purge(&request, &caller.actor).await?))
}

/// A request names jobs, or a kind, or both.
fn named_within_bounds(ids: &[JobId], fingerprint: Option<&str>) -> Answer<()> {
    let least = usize::from(fingerprint.is_none());
    if (least..=IDS_MAX).contains(&ids.len()) {
        return Ok(());
    }
    Err(ApiError::bad_parameter("ids", format!("1 to {IDS_MAX} ids are expected, or a `fingerprint`")))
}
