//! Workers: who is there, and asking one to take no more work.

use std::time::Duration;

use axum::extract::State;
use axum::http::Uri;
use axum::{Extension, Json};
use ffpool_broker::RequestError;
use ffpool_schema::api::{Accepted, Page, WorkersAnswer};
use ffpool_schema::id::WorkerId;
use ffpool_schema::message::{WorkerAnswer, WorkerCommand, WorkerState};
use ffpool_schema::subjects;

use crate::api::App;
use crate::api::problem::{Answer, ApiError, Kind};
use crate::api::query::{self, Query};
use crate::api::reference::WorkerPath;
use crate::ledger::Entry;
use crate::ledger::keys::Caller;
use crate::ledger::workers::StoredWorker;

/// A worker answers a command at once; one that needs longer is as good as absent.
const ANSWER_BOUND: Duration = Duration::from_secs(3);

/// `GET /v1/workers`
pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Answer<Json<WorkersAnswer<StoredWorker>>> {
    let query = Query::read(&uri, query::WORKERS)?;
    let filter = query.worker_filter(caller.realm())?;
    if !query.wants_page() {
        return Ok(Json(WorkersAnswer::All(app.ledger.workers(&filter).await?)));
    }
    let (items, more) = app.ledger.workers_page(&filter).await?;
    let next = items.last().filter(|_| more).map(|last| query::worker_cursor(&last.id));
    Ok(Json(WorkersAnswer::Page(Page { items, next, searched: None })))
}

/// `GET /v1/workers/{id}`
pub(crate) async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    WorkerPath(worker): WorkerPath,
) -> Answer<Json<StoredWorker>> {
    Ok(Json(known(&app, &caller, &worker).await?))
}

async fn known(app: &App, caller: &Caller, worker: &WorkerId) -> Answer<StoredWorker> {
    app.ledger
        .worker(caller.realm(), worker)
        .await?
        .ok_or_else(|| ApiError::new(Kind::NotFound, format!("no worker is named {worker}; GET /v1/workers lists all")))
}

/// `POST /v1/workers/{id}/drain`
pub(crate) async fn drain(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    WorkerPath(worker): WorkerPath,
) -> Answer<Json<Accepted>> {
    known(&app, &caller, &worker).await?;
    let asked = app.signals.request(&subjects::control_worker(&worker), &WorkerCommand::Drain, ANSWER_BOUND).await;
    let answer: WorkerAnswer = asked.map_err(|error| match error {
        RequestError::NoResponders { .. } => ApiError::new(
            Kind::Conflict,
            format!("the worker {worker} is not connected, so there is nothing to drain; its jobs go to others by themselves"),
        ),
        RequestError::Timeout { .. } | RequestError::Decode { .. } | RequestError::Link { .. } => {
            tracing::warn!(%worker, %error, "a worker did not answer the order to drain");
            ApiError::new(
                Kind::Unavailable,
                format!("the worker {worker} did not answer over NATS; repeat the request, it may be given any number of times"),
            )
        }
    })?;
    if !answer.yes {
        return Err(ApiError::new(Kind::Conflict, format!("the worker {worker} refused to drain; its log says why")));
    }
    app.ledger.audit(&caller.actor, Entry::new("drain", worker.to_string())).await;
    tracing::info!(%worker, by = caller.actor.name, "worker drains");
    Ok(Json(Accepted {
        state: WorkerState::Draining.as_str().to_owned(),
        message: "It takes no more work, finishes what it has and stops.".to_owned(),
    }))
}
