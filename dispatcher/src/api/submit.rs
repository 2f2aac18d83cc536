//! `POST /v1/jobs`: handing in a job.
//!
//! Invariant: one id, one job. A repeat of a request never makes a second job and never changes the first.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ffpool_schema::api::Submitted;
use ffpool_schema::id::JobId;
use ffpool_schema::job::JobSpec;
use ffpool_schema::parse::Received;

use crate::api::problem::{Answer, ApiError, Kind};
use crate::api::{App, body, observe};
use crate::ledger::Submitter;

/// `POST /v1/jobs`
pub(crate) async fn submit(State(app): State<App>, headers: HeaderMap, request: Body) -> Answer<Response> {
    let body = body::read(request).await?;
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let received = Received { body: &body, content_type, ..Received::default() };
    let spec = app.ledger.read(&received).map_err(ApiError::invalid_job)?.spec;
    if let Some(id) = spec.id
        && let Some(recorded) = recorded(&app, id, &spec, &body).await?
    {
        return Ok((StatusCode::OK, location(&recorded), Json(recorded)).into_response());
    }
    let submitter = Submitter { tenant: None, traceparent: observe::traceparent_to_hand_on(&headers) };
    let submitted = app.ledger.submit(&body, content_type, &submitter).await?;
    if let Some(id) = spec.id {
        // Another request with the same id may have been recorded since we looked: ours counts only if it was the same.
        recorded(&app, id, &spec, &body).await?;
    }
    Ok((StatusCode::CREATED, location(&submitted), Json(submitted)).into_response())
}

/// The job with the id of `spec`, if there is one; a conflict, if it is another job. The same body is the same job, also
/// when the operator has changed the scenario that it names meanwhile.
async fn recorded(app: &App, id: JobId, spec: &JobSpec, body: &[u8]) -> Answer<Option<Submitted>> {
    let Some((recorded, recorded_spec, recorded_body)) = app.ledger.submitted(id).await? else { return Ok(None) };
    let is_same =
        recorded_body == body || recorded_spec.is_some_and(|recorded| JobSpec { id: Some(id), ..recorded } == *spec);
    if is_same {
        return Ok(Some(recorded));
    }
    Err(ApiError::new(
        Kind::Conflict,
        format!("job {} has the id {id} already, and says something else; choose another id", recorded.number),
    ))
}

fn location(job: &Submitted) -> [(header::HeaderName, HeaderValue); 1] {
    let path = format!("/v1/jobs/{}", job.id);
    [(header::LOCATION, HeaderValue::try_from(path).expect("a UUID is plain text"))]
}
