//! Jobs that are there: listing, showing, explaining, cancelling, finishing, pausing, sending round again, forgetting
//! their files.

use axum::extract::State;
use axum::http::Uri;
use axum::{Extension, Json};
use ffpool_schema::api::{Accepted, Explanation, JobDetail, JobView, Page, ProgressCurve};
use ffpool_schema::lifecycle::State as JobState;
use ffpool_schema::message::LogLine;
use jiff::Timestamp;

use crate::api::explain::{self, Surroundings};
use crate::api::problem::Answer;
use crate::api::query::{self, Query};
use crate::api::reference::JobPath;
use crate::api::{App, queues};
use crate::ledger::keys::Caller;
use crate::ledger::workers::Room;

/// Lines of a log that is asked for without a number.
const LOG_LINES: u16 = 1000;

/// `GET /v1/jobs`
pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Answer<Json<Page<JobView>>> {
    let filter = Query::read(&uri, query::JOBS)?.job_filter(caller.realm())?;
    Ok(Json(query::page(app.ledger.jobs(&filter).await?)))
}

/// `GET /v1/jobs/{id}`
pub(crate) async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    job: JobPath,
) -> Answer<Json<JobDetail>> {
    let mut detail = app.ledger.job(caller.realm(), job.0).await?.ok_or_else(|| job.not_found())?;
    // With what the operators look at traces is no tenant's business.
    if let (Some(url), Some(trace), None) = (&app.trace_url, &detail.job.trace_id, caller.tenant()) {
        detail.trace_url = Some(url.of(trace));
    }
    Ok(Json(detail))
}

/// `GET /v1/jobs/{id}/log`
pub(crate) async fn log(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    job: JobPath,
    uri: Uri,
) -> Answer<Json<Vec<LogLine>>> {
    let query = Query::read(&uri, query::LOG)?;
    let attempt = query.integer("attempt")?;
    let lines = query.integer("lines")?.and_then(|lines| u16::try_from(lines).ok()).unwrap_or(LOG_LINES);
    let known = app.ledger.job_summary(caller.realm(), job.0).await?.ok_or_else(|| job.not_found())?;
    Ok(Json(app.ledger.log(known.id, attempt, lines).await?))
}

/// `GET /v1/jobs/{id}/progress`
pub(crate) async fn progress(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    job: JobPath,
) -> Answer<Json<Vec<ProgressCurve>>> {
    let known = app.ledger.job_summary(caller.realm(), job.0).await?.ok_or_else(|| job.not_found())?;
    Ok(Json(app.ledger.curves(known.id).await?))
}

/// `GET /v1/jobs/{id}/explain`
pub(crate) async fn explain(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    job: JobPath,
) -> Answer<Json<Explanation>> {
    let detail = app.ledger.job(caller.realm(), job.0).await?.ok_or_else(|| job.not_found())?;
    let has_ended = detail.job.state.is_end();
    let surroundings = Surroundings {
        room: if has_ended { Room::default() } else { app.ledger.room_of(&detail.job.pool).await? },
        queue_pause: if has_ended { None } else { queue_pause(&app, &detail.job.queue).await? },
        circumstances: app.ledger.circumstances(detail.job.id).await?,
        sees_all: caller.realm().tenant().is_none(),
    };
    Ok(Json(Explanation {
        id: detail.job.id,
        number: detail.job.number,
        state: detail.job.state,
        sentences: explain::sentences(&detail, &surroundings, Timestamp::now()),
    }))
}

/// Since when a queue is paused, and by whom and why in words.
async fn queue_pause(app: &App, name: &str) -> Answer<Option<(Timestamp, String)>> {
    let paused = queues::paused_queues(app).await?;
    Ok(paused.into_iter().find(|(queue, _, _)| queue.as_str() == name).map(|(_, since, words)| (since, words)))
}

/// `POST /v1/jobs/{id}/cancel`
pub(crate) async fn cancel(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    job: JobPath,
) -> Answer<Json<Accepted>> {
    let state = app.ledger.cancel(job.id(&app, &caller).await?, &caller.actor).await?;
    let message = match state {
        JobState::Cancelling => "The worker that runs it is told to end it.",
        JobState::Cancelled => "It will not run.",
        JobState::Blocked
        | JobState::Delayed
        | JobState::Queued
        | JobState::Running
        | JobState::Completed
        | JobState::Failed
        | JobState::Rejected => "It was not cancelled.",
    };
    Ok(Json(Accepted { state: state.to_string(), message: message.to_owned() }))
}

/// `POST /v1/jobs/{id}/finish`
pub(crate) async fn finish(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    job: JobPath,
) -> Answer<Json<Accepted>> {
    let state = app.ledger.finish(job.id(&app, &caller).await?, &caller.actor).await?;
    let message = "The worker that runs it is told to end it and to keep what there is.";
    Ok(Json(Accepted { state: state.to_string(), message: message.to_owned() }))
}

/// `POST /v1/jobs/{id}/pause`
pub(crate) async fn pause(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    job: JobPath,
) -> Answer<Json<Accepted>> {
    let state = app.ledger.pause(job.id(&app, &caller).await?, &caller.actor).await?;
    let message = match state {
        JobState::Running => "The worker that runs it is told to freeze it where it is.",
        JobState::Blocked | JobState::Delayed | JobState::Queued => "It does not start before it is resumed.",
        JobState::Cancelling | JobState::Completed | JobState::Failed | JobState::Cancelled | JobState::Rejected => {
            "It was not paused."
        }
    };
    Ok(Json(Accepted { state: state.to_string(), message: message.to_owned() }))
}

/// `POST /v1/jobs/{id}/resume`
pub(crate) async fn resume(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    job: JobPath,
) -> Answer<Json<Accepted>> {
    let state = app.ledger.resume(job.id(&app, &caller).await?, &caller.actor).await?;
    let message = match state {
        JobState::Running => "The worker that runs it is told to let it go on.",
        JobState::Blocked | JobState::Delayed | JobState::Queued => "It starts when its turn comes.",
        JobState::Cancelling | JobState::Completed | JobState::Failed | JobState::Cancelled | JobState::Rejected => {
            "It was not paused."
        }
    };
    Ok(Json(Accepted { state: state.to_string(), message: message.to_owned() }))
}

/// `POST /v1/jobs/{id}/retry`
pub(crate) async fn retry(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    job: JobPath,
) -> Answer<Json<Accepted>> {
    let state = app.ledger.redrive(job.id(&app, &caller).await?, &caller.actor, None).await?;
    Ok(Json(Accepted { state: state.to_string(), message: "It is sent round again with a fresh budget.".to_owned() }))
}

/// `POST /v1/jobs/{id}/forget`
pub(crate) async fn forget(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    job: JobPath,
) -> Answer<Json<Accepted>> {
    let (state, bytes) = app.ledger.forget_files(job.id(&app, &caller).await?, &caller.actor).await?;
    let message = match bytes {
        0 => "None of its files counted against its tenant's storage.".to_owned(),
        bytes => format!("Its files ({bytes} bytes) count no more against its tenant's storage."),
    };
    Ok(Json(Accepted { state: state.to_string(), message }))
}
