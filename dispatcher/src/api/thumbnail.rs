//! The small picture of what a job made.
//!
//! Its bytes come from a worker, and what is on it from strangers' media.
//!
//! Invariant: it is sent as a JPEG that may do nothing, to whoever may see its job, and asked for again each time.

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use ffpool_schema::api::JobView;
use ffpool_schema::lifecycle::State as JobState;

use crate::api::App;
use crate::api::problem::{Answer, ApiError, Kind};
use crate::api::reference::JobPath;
use crate::ledger::keys::Caller;
use crate::web;

/// What goes with every one. `nosniff` goes with every answer of the API.
const HEADERS: [(&str, &str); 4] = [
    // Whoever keeps it asks each time whether it may still be seen, and is answered with 304.
    ("cache-control", "private, no-cache"),
    ("content-security-policy", "default-src 'none'; sandbox"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
];

/// `GET /v1/jobs/{id}/thumbnail`
pub(crate) async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    job: JobPath,
    asked: HeaderMap,
) -> Answer<Response> {
    let known = app.ledger.job_summary(caller.realm(), job.0).await?.ok_or_else(|| job.not_found())?;
    let jpeg = app.ledger.thumbnail(known.id).await?.ok_or_else(|| none(&known))?;
    let etag = web::etag(&jpeg);
    let mut response = if web::has(&asked, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, HeaderValue::from_static("image/jpeg"))], Body::from(jpeg)).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, etag);
    headers.extend(HEADERS.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))));
    Ok(response)
}

/// Why a job has none, as far as the ledger knows.
fn none(job: &JobView) -> ApiError {
    let why = match job.state {
        JobState::Completed => {
            "nothing of what it made can be seen, its worker made none (FFPOOL_THUMBNAILS, or an older version; the job's log may say \
             why), or its files were forgotten"
        }
        JobState::Blocked | JobState::Delayed | JobState::Queued | JobState::Running | JobState::Cancelling => {
            "there is one when it has completed"
        }
        JobState::Failed | JobState::Cancelled | JobState::Rejected => "it made nothing",
    };
    ApiError::new(Kind::NotFound, format!("job {} ({}) has no thumbnail: {why}", job.number, job.state))
}
