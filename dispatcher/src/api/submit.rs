//! `POST /v1/jobs`: handing in a job.
//!
//! Invariant: one id, one job. A repeat of a request never makes a second job and never changes the first.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use ffpool_runtime::traces::Asked;
use ffpool_schema::api::{Checked, Submitted};
use ffpool_schema::id::JobId;
use ffpool_schema::job::JobSpec;
use ffpool_schema::parse::Received;

use crate::api::problem::{Answer, ApiError, Kind};
use crate::api::{App, body};
use crate::ledger::keys::Caller;
use crate::ledger::read::without_secrets;
use crate::ledger::{FullTenant, Realm, SubmitError, Submitter};

/// Before a job over its tenant's quota is submitted again.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// `POST /v1/jobs`
pub(crate) async fn submit(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Extension(asked): Extension<Asked>,
    headers: HeaderMap,
    request: Body,
) -> Answer<Response> {
    let body = body::read(request).await?;
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let received = Received { body: &body, content_type, ..Received::default() };
    let spec = app.ledger.read_in(caller.realm(), &received).map_err(ApiError::invalid_job)?.spec;
    if let Some(id) = spec.id
        && let Some(recorded) = recorded(&app, caller.realm(), id, &spec, &body).await?
    {
        return Ok((StatusCode::OK, location(&recorded), Json(recorded)).into_response());
    }
    refuse_one_too_many(&app, spec.tenant.as_deref()).await?;
    let submitter = Submitter { realm: caller.realm().clone(), asked: Some(asked) };
    let submitted = app.ledger.submit(&body, content_type, &submitter).await?;
    if let Some(id) = spec.id {
        // Another request with the same id may have been recorded since we looked: ours counts only if it was the same.
        recorded(&app, caller.realm(), id, &spec, &body).await?;
    }
    let trace = Extension(asked.context(submitted.id));
    Ok((StatusCode::CREATED, trace, location(&submitted), Json(submitted)).into_response())
}

/// `POST /v1/jobs/check`
pub(crate) async fn check(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    request: Body,
) -> Answer<Json<Checked>> {
    let body = body::read(request).await?;
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let received = Received { body: &body, content_type, ..Received::default() };
    let spec = app.ledger.read_in(caller.realm(), &received).map_err(ApiError::invalid_job)?.spec;
    Ok(Json(Checked { spec: without_secrets(spec) }))
}

/// Refuses a job whose tenant has as much as it may. One that gets past because others come at the same time is held back.
async fn refuse_one_too_many(app: &App, tenant: Option<&str>) -> Answer<()> {
    let Some(tenant) = tenant else { return Ok(()) };
    let full = app.ledger.tenant_is_full(tenant).await.map_err(SubmitError::from)?;
    let detail = match full {
        None => return Ok(()),
        Some(FullTenant::Queued { waiting, max_queued }) => format!(
            "tenant `{tenant}` has {waiting} jobs waiting and may have {max_queued}; nothing was recorded. Submit it again when some \
             have started, or have the quota raised"
        ),
        Some(FullTenant::Stored { stored, max_storage_mb }) => format!(
            "what jobs of tenant `{tenant}` published takes {} MiB and may take {max_storage_mb}; nothing was recorded. Have files \
             removed and forgotten (`ffpool jobs forget`), or the quota raised",
            stored >> 20
        ),
    };
    Err(ApiError::over_quota(detail, TRY_AGAIN))
}

/// The job with the id of `spec`, if there is one; a conflict, if it is another job. The same body is the same job, also
/// when the operator has changed the scenario that it names meanwhile.
async fn recorded(app: &App, realm: &Realm, id: JobId, spec: &JobSpec, body: &[u8]) -> Answer<Option<Submitted>> {
    let Some(found) = app.ledger.submitted(id).await? else { return Ok(None) };
    if !realm.holds(found.tenant.as_deref()) {
        // All that somebody else hears of a job that is not theirs: two jobs cannot have one id.
        return Err(ApiError::new(Kind::Conflict, format!("the id {id} is taken; choose another one")));
    }
    let same_tenant = found.tenant == spec.tenant;
    let is_same = same_tenant
        && (found.body == body || found.spec.is_some_and(|recorded| JobSpec { id: Some(id), ..recorded } == *spec));
    if is_same {
        return Ok(Some(found.submitted));
    }
    let number = found.submitted.number;
    let detail = format!("job {number} has the id {id} already, and says something else; choose another id");
    Err(ApiError::new(Kind::Conflict, detail))
}

fn location(job: &Submitted) -> [(header::HeaderName, HeaderValue); 1] {
    let path = format!("/v1/jobs/{}", job.id);
    [(header::LOCATION, HeaderValue::try_from(path).expect("a UUID is plain text"))]
}
