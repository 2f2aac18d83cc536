//! Dead letters: jobs parked after their last failure.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::State;
use axum::http::Uri;
use axum::{Extension, Json};
use ffpool_schema::api::{DeadLetterGroup, JobView, Page, RedriveReport, RedriveRequest};

use crate::api::problem::{Answer, ApiError};
use crate::api::query::{self, Query};
use crate::api::{App, body};
use crate::ledger::ControlError;
use crate::ledger::keys::Caller;

/// Jobs that one request may send round again.
const REDRIVEN_MAX: usize = 1000;

/// `GET /v1/dead-letters`
pub(crate) async fn list(State(app): State<App>, uri: Uri) -> Answer<Json<Page<JobView>>> {
    let filter = Query::read(&uri, query::DEAD_LETTERS)?.job_filter()?;
    Ok(Json(query::page(app.ledger.dead_letters(&filter).await?)))
}

/// `GET /v1/dead-letters/groups`
pub(crate) async fn groups(State(app): State<App>) -> Answer<Json<Vec<DeadLetterGroup>>> {
    Ok(Json(app.ledger.dead_letter_groups().await?))
}

/// `POST /v1/dead-letters/redrive`
pub(crate) async fn redrive(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Body,
) -> Answer<Json<RedriveReport>> {
    let request: RedriveRequest = body::read_json(request).await?;
    if !(1..=REDRIVEN_MAX).contains(&request.ids.len()) {
        return Err(ApiError::bad_parameter("ids", format!("1 to {REDRIVEN_MAX} ids are expected")));
    }
    let mut report = RedriveReport { redriven: Vec::new(), refused: BTreeMap::new() };
    for id in request.ids {
        match app.ledger.redrive(id, &caller.name, request.reason.as_deref()).await {
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
