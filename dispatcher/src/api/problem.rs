//! Every error of the API as RFC 9457 problem JSON.
//!
//! Invariant: `kind` and status come from one closed table, and `detail` says what to do about it.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ffpool_schema::api::Problem;
use ffpool_schema::parse::Fault;

use crate::ledger::read::ReadError;
use crate::ledger::{ControlError, SubmitError};

/// Media type of an RFC 9457 body.
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// A client should ask again after so many seconds: an outage of the ledger is noticed and healed in about this time.
const RETRY_AFTER_SECS: &str = "5";

/// What kind of problem it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    BadRequest,
    Unauthenticated,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    Conflict,
    TooLarge,
    InvalidJob,
    TooManyRequests,
    OverQuota,
    Internal,
    Unavailable,
}

impl Kind {
    /// Every kind, in order of status.
    #[cfg(test)]
    pub(crate) const ALL: [Kind; 13] = [
        Kind::BadRequest,
        Kind::Unauthenticated,
        Kind::Forbidden,
        Kind::NotFound,
        Kind::MethodNotAllowed,
        Kind::RequestTimeout,
        Kind::Conflict,
        Kind::TooLarge,
        Kind::InvalidJob,
        Kind::TooManyRequests,
        Kind::OverQuota,
        Kind::Internal,
        Kind::Unavailable,
    ];

    /// Stable name, status and title.
    pub(crate) fn entry(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Kind::BadRequest => ("/problems/bad-request", StatusCode::BAD_REQUEST, "The request is malformed"),
            Kind::Unauthenticated => {
                ("/problems/unauthenticated", StatusCode::UNAUTHORIZED, "A valid API key is needed")
            }
            Kind::Forbidden => ("/problems/forbidden", StatusCode::FORBIDDEN, "The key lacks the right"),
            Kind::NotFound => ("/problems/not-found", StatusCode::NOT_FOUND, "There is no such thing"),
            Kind::MethodNotAllowed => {
                ("/problems/method-not-allowed", StatusCode::METHOD_NOT_ALLOWED, "The path does not take this method")
            }
            Kind::RequestTimeout => {
                ("/problems/request-timeout", StatusCode::REQUEST_TIMEOUT, "The request took too long to arrive")
            }
            Kind::Conflict => ("/problems/conflict", StatusCode::CONFLICT, "The present state does not allow it"),
            Kind::TooLarge => ("/problems/too-large", StatusCode::PAYLOAD_TOO_LARGE, "The body is too large"),
            Kind::InvalidJob => ("/problems/invalid-job", StatusCode::UNPROCESSABLE_ENTITY, "The job is not valid"),
            Kind::TooManyRequests => {
                ("/problems/too-many-requests", StatusCode::TOO_MANY_REQUESTS, "More was asked than is allowed")
            }
            Kind::OverQuota => {
                ("/problems/over-quota", StatusCode::TOO_MANY_REQUESTS, "The tenant has as much as it may")
            }
            Kind::Internal => ("/problems/internal", StatusCode::INTERNAL_SERVER_ERROR, "The dispatcher is at fault"),
            Kind::Unavailable => {
                ("/problems/unavailable", StatusCode::SERVICE_UNAVAILABLE, "A part of the pool does not answer")
            }
        }
    }
}

/// An error on its way to the client.
#[derive(Debug)]
pub(crate) struct ApiError {
    problem: Box<Problem>,
    status: StatusCode,
    header: Option<(HeaderName, HeaderValue)>,
}

/// What a handler answers.
pub(crate) type Answer<T> = Result<T, ApiError>;

impl ApiError {
    /// A problem of `kind`; `detail` says what happened and what to do.
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> ApiError {
        let (name, status, title) = kind.entry();
        let header = match kind {
            Kind::Unauthenticated => {
                Some((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"ffpool\"")))
            }
            Kind::Unavailable => Some((header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECS))),
            Kind::BadRequest
            | Kind::Forbidden
            | Kind::NotFound
            | Kind::MethodNotAllowed
            | Kind::RequestTimeout
            | Kind::Conflict
            | Kind::TooLarge
            | Kind::InvalidJob
            | Kind::TooManyRequests
            | Kind::OverQuota
            | Kind::Internal => None,
        };
        let problem = Problem {
            kind: name.to_owned(),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            faults: Vec::new(),
            retry_after_ms: None,
        };
        ApiError { problem: Box::new(problem), status, header }
    }

    /// More was asked than is allowed; in `wait` it may be asked again.
    pub(crate) fn too_many(detail: impl Into<String>, wait: Duration) -> ApiError {
        ApiError::again_in(Kind::TooManyRequests, detail, wait)
    }

    /// The tenant has as much as it may; after `wait` it is worth another try.
    pub(crate) fn over_quota(detail: impl Into<String>, wait: Duration) -> ApiError {
        ApiError::again_in(Kind::OverQuota, detail, wait)
    }

    fn again_in(kind: Kind, detail: impl Into<String>, wait: Duration) -> ApiError {
        let mut error = ApiError::new(kind, detail);
        // Whole seconds, never too few.
        let secs = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        error.header = Some((header::RETRY_AFTER, HeaderValue::from(secs.max(1))));
        error.problem.retry_after_ms = Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1));
        error
    }

    /// A parameter that cannot be read.
    pub(crate) fn bad_parameter(name: &str, allowed: impl std::fmt::Display) -> ApiError {
        ApiError::new(Kind::BadRequest, format!("parameter `{name}`: {allowed}"))
    }

    /// A job with faults.
    pub(crate) fn invalid_job(faults: Vec<Fault>) -> ApiError {
        let detail = match faults.len() {
            1 => "1 fault, see `faults`; nothing was recorded. Correct it and submit the job again.".to_owned(),
            count => {
                format!("{count} faults, see `faults`; nothing was recorded. Correct them and submit the job again.")
            }
        };
        let mut error = ApiError::new(Kind::InvalidJob, detail);
        error.problem.faults = faults;
        error
    }

    /// Whether it refuses the caller, and not the request.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
    }

    /// The status.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// The body of the answer.
    pub(crate) fn body(&self) -> Vec<u8> {
        serde_json::to_vec(&self.problem).expect("a problem is plain data")
    }

    /// The text for people.
    pub(crate) fn detail(&self) -> &str {
        &self.problem.detail
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> ApiError {
        match error {
            ReadError::Connect(_) | ReadError::Query(_) | ReadError::Silent => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the ledger cannot be read");
                ApiError::new(
                    Kind::Unavailable,
                    "the ledger (Postgres) does not answer, so nothing was done; running jobs go on. \
                     Repeat the request after the time in Retry-After.",
                )
            }
            ReadError::TooSlow => ApiError::new(
                Kind::Unavailable,
                "the ledger (Postgres) needs too long for this question. Narrow it with `status`, `tenant`, `label` or \
                 `since`, or ask again when it has less to do.",
            ),
            ReadError::Row { .. } => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the ledger holds what this version cannot read"
                );
                ApiError::new(
                    Kind::Internal,
                    "the ledger holds what this version cannot read; the dispatcher's log names it. \
                     Run one version of the dispatcher on one database.",
                )
            }
        }
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> ApiError {
        match error {
            SubmitError::Invalid(faults) => ApiError::invalid_job(faults),
            SubmitError::Unavailable(reason) => {
                tracing::warn!(reason, "a job was not recorded in time");
                ApiError::new(
                    Kind::Unavailable,
                    "the ledger (Postgres) did not say in time that the job is recorded. Repeat the request with the same \
                     `id`; one without an id may have been recorded.",
                )
            }
        }
    }
}

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> ApiError {
        match error {
            ControlError::NotFound => {
                ApiError::new(Kind::NotFound, "there is no such job; GET /v1/jobs lists what there is")
            }
            ControlError::Refused(refusal) => {
                ApiError::new(Kind::Conflict, format!("{refusal}; GET /v1/jobs/{{id}}/explain says how it stands"))
            }
            ControlError::Unavailable(reason) => {
                tracing::warn!(reason, "a job was not changed in time");
                ApiError::new(
                    Kind::Unavailable,
                    "the ledger (Postgres) did not say in time that it is done. Repeat the request: what is done already \
                     is not done again.",
                )
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, PROBLEM_JSON);
        let body = self.body();
        headers.extend(self.header);
        (self.status, headers, body).into_response()
    }
}
