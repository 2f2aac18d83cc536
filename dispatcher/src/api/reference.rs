//! The job, worker or queue that a path names.
//!
//! Invariant: the whole segment is read or the request is refused; `7abc` is never job 7.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use ffpool_schema::id::{JobId, WorkerId};
use ffpool_schema::job::Queue;

use crate::api::App;
use crate::api::problem::{Answer, ApiError, Kind};
use crate::ledger::keys::Caller;
use crate::ledger::read::JobRef;

/// A job by its id or its number.
pub(crate) struct JobPath(pub(crate) JobRef);

/// A worker by its name.
pub(crate) struct WorkerPath(pub(crate) WorkerId);

/// A queue by its name.
pub(crate) struct QueuePath(pub(crate) Queue);

/// A schedule, key or tenant by its name.
pub(crate) struct NamePath(pub(crate) String);

impl FromRequestParts<App> for NamePath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Answer<NamePath> {
        segment(parts, app).await.map(NamePath)
    }
}

impl FromRequestParts<App> for JobPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Answer<JobPath> {
        job_ref(&segment(parts, app).await?).map(JobPath)
    }
}

impl FromRequestParts<App> for WorkerPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Answer<WorkerPath> {
        let text = segment(parts, app).await?;
        text.parse().map(WorkerPath).map_err(|error| ApiError::bad_parameter("id", error))
    }
}

impl FromRequestParts<App> for QueuePath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Answer<QueuePath> {
        let text = segment(parts, app).await?;
        text.parse().map(QueuePath).map_err(|_| {
            let known = Queue::ALL.map(Queue::as_str).join(", ");
            ApiError::new(Kind::NotFound, format!("there is no such queue; there are {known}"))
        })
    }
}

impl JobPath {
    /// The job's id, asked of the ledger where the path has its number. The ledger looks whose it is when it is changed.
    pub(crate) async fn id(&self, app: &App, caller: &Caller) -> Answer<JobId> {
        match self.0 {
            JobRef::Id(id) => Ok(id),
            JobRef::Number(_) => {
                Ok(app.ledger.job_summary(caller.realm(), self.0).await?.ok_or_else(|| self.not_found())?.id)
            }
        }
    }

    /// The problem that there is no such job.
    pub(crate) fn not_found(&self) -> ApiError {
        let name = match self.0 {
            JobRef::Id(id) => format!("the id {id}"),
            JobRef::Number(number) => format!("the number {number}"),
        };
        ApiError::new(Kind::NotFound, format!("no job has {name}; GET /v1/jobs lists what there is"))
    }
}

async fn segment(parts: &mut Parts, app: &App) -> Answer<String> {
    let Path(text) = Path::<String>::from_request_parts(parts, app)
        .await
        .map_err(|_| ApiError::bad_parameter("id", "it is not valid UTF-8"))?;
    Ok(text)
}

fn job_ref(text: &str) -> Answer<JobRef> {
    // 18 digits always fit an i64; no UUID has fewer than 32 characters.
    if (1..=18).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let number = text.parse().map_err(|_| ApiError::bad_parameter("id", "the number of a job is expected"))?;
        return Ok(JobRef::Number(number));
    }
    text.parse().map(JobRef::Id).map_err(|error| ApiError::bad_parameter("id", format!("{error}, or a job's number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_named_by_the_whole_segment_or_not_at_all() {
        assert_eq!(job_ref("7").unwrap(), JobRef::Number(7));
        assert!(matches!(job_ref("01920f3a-7c1e-7d2a-8a6e-3f0c5b1d9e42").unwrap(), JobRef::Id(_)));
        for text in ["7abc", "+7", "-7", " 7", "7 ", "7.0", "1e3", "9999999999999999999", "", "01920f3a-7c1e-7d2a-8a6e"]
        {
            let error = job_ref(text).unwrap_err();
            assert_eq!(error.status(), 400, "{text}");
            assert!(error.detail().starts_with("parameter `id`"), "{text}: {}", error.detail());
        }
    }
}
