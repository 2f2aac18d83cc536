//! Recurring jobs.

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::{Extension, Json};
use ffpool_schema::api::{Accepted, ScheduleRequest, ScheduleView, Submitted};
use ffpool_schema::location::redact_within;

use crate::api::problem::{Answer, ApiError, Kind};
use crate::api::query::{self, Query};
use crate::api::reference::NamePath;
use crate::api::{App, body};
use crate::ledger::keys::Caller;
use crate::ledger::{Realm, ScheduleError};

impl From<ScheduleError> for ApiError {
    fn from(error: ScheduleError) -> ApiError {
        match error {
            ScheduleError::Exists | ScheduleError::Full => ApiError::new(Kind::Conflict, error.to_string()),
            ScheduleError::NotFound => ApiError::new(
                Kind::NotFound,
                "there is no schedule of this name; GET /v1/schedules lists what there is",
            ),
            ScheduleError::Invalid(faults) => ApiError::invalid_job(faults),
            ScheduleError::Unavailable(_) => ApiError::new(Kind::Unavailable, error.to_string()),
        }
    }
}

/// A schedule as it is shown: what a job names may hold a signature or the key of a live stream.
fn shown(mut view: ScheduleView) -> ScheduleView {
    view.job.values_mut().for_each(redact_within);
    view
}

/// Whose schedule a route means: the key's tenant's, or what a key of the pool asks for.
fn owner(caller: &Caller, uri: &Uri) -> Answer<Realm> {
    let query = Query::read(uri, query::SCHEDULE)?;
    let asked = query.text("tenant").map(|tenant| Realm::Tenant(tenant.to_owned()));
    match (caller.realm(), asked) {
        (Realm::Pool, asked) => Ok(asked.unwrap_or_default()),
        (own @ Realm::Tenant(_), None) => Ok(own.clone()),
        (own @ Realm::Tenant(_), Some(asked)) if asked == *own => Ok(asked),
        (Realm::Tenant(_), Some(_)) => Err(ScheduleError::NotFound.into()),
    }
}

/// `GET /v1/schedules`
pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Answer<Json<Vec<ScheduleView>>> {
    Ok(Json(app.ledger.schedules(caller.realm()).await?.into_iter().map(shown).collect()))
}

/// `POST /v1/schedules`
pub(crate) async fn add(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Body,
) -> Answer<(StatusCode, Json<ScheduleView>)> {
    let request: ScheduleRequest = body::read_json(request).await?;
    Ok((StatusCode::CREATED, Json(shown(app.ledger.add_schedule(&request, &caller.actor).await?))))
}

/// `GET /v1/schedules/{name}`
pub(crate) async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    NamePath(name): NamePath,
    uri: Uri,
) -> Answer<Json<ScheduleView>> {
    Ok(Json(shown(app.ledger.schedule(&owner(&caller, &uri)?, &name).await?)))
}

/// `POST /v1/schedules/{name}/remove`
pub(crate) async fn remove(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    NamePath(name): NamePath,
    uri: Uri,
) -> Answer<Json<Accepted>> {
    app.ledger.remove_schedule(&owner(&caller, &uri)?, &name, &caller.actor).await?;
    Ok(Json(Accepted {
        state: "removed".to_owned(),
        message: "It makes no more jobs; those that it made stay.".to_owned(),
    }))
}

/// `POST /v1/schedules/{name}/pause`
pub(crate) async fn pause(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    NamePath(name): NamePath,
    uri: Uri,
) -> Answer<Json<ScheduleView>> {
    Ok(Json(shown(app.ledger.pause_schedule(&owner(&caller, &uri)?, &name, true, &caller.actor).await?)))
}

/// `POST /v1/schedules/{name}/resume`
pub(crate) async fn resume(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    NamePath(name): NamePath,
    uri: Uri,
) -> Answer<Json<ScheduleView>> {
    Ok(Json(shown(app.ledger.pause_schedule(&owner(&caller, &uri)?, &name, false, &caller.actor).await?)))
}

/// `POST /v1/schedules/{name}/run`
pub(crate) async fn run(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    NamePath(name): NamePath,
    uri: Uri,
) -> Answer<(StatusCode, Json<Submitted>)> {
    Ok((StatusCode::CREATED, Json(app.ledger.run_schedule(&owner(&caller, &uri)?, &name, &caller.actor).await?)))
}
