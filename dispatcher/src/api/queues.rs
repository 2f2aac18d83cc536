//! Work queues: what the ledger counts, beside what the broker holds; pausing a queue and letting it go on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::{Extension, Json};
use ffpool_schema::api::{Accepted, PauseRequest, QueueView};
use ffpool_schema::job::{Pool, Queue};
use ffpool_schema::topology::WorkQueue;
use jiff::Timestamp;

use crate::api::problem::{Answer, ApiError};
use crate::api::reference::QueuePath;
use crate::api::{App, body};
use crate::kept::{KeptByQuestion, Rules};
use crate::ledger::keys::Caller;
use crate::ledger::read::{QueueCount, ReadError};
use crate::ledger::{ControlError, Realm};

/// The broker's counts are a supplement: without them by then, the answer goes without them.
const BROKER_BOUND: Duration = Duration::from_secs(3);

/// So long after that one of many jobs is given while the next is made.
const STALE: Duration = Duration::from_secs(10);
/// Jobs that are many.
const MANY: i64 = 10_000;

/// What waits and runs of each realm.
pub(crate) type Kept = KeptByQuestion<Option<String>, Vec<QueueCount>>;

/// How long it is kept: not at all, but for what counts many jobs.
pub(crate) fn kept() -> Arc<Kept> {
    KeptByQuestion::new(|| Rules {
        fresh: Duration::ZERO,
        is_large: |counts| counts.iter().map(|count| count.queued + count.running + count.delayed).sum::<i64>() > MANY,
        stale: STALE,
    })
}

async fn counted(app: &App, realm: &Realm) -> Result<Arc<Vec<QueueCount>>, ReadError> {
    let (ledger, whose) = (app.ledger.clone(), realm.clone());
    app.queues.of(realm.tenant().map(str::to_owned)).get(|| async move { ledger.queues(&whose).await }).await
}

/// `GET /v1/queues`
pub(crate) async fn list(State(app): State<App>, Extension(caller): Extension<Caller>) -> Answer<Json<Vec<QueueView>>> {
    let served = async { Ok::<_, ApiError>(app.ledger.pools_served().await?) };
    let counting = async { Ok::<_, ApiError>(counted(&app, caller.realm()).await?) };
    let (counts, served, paused) = tokio::try_join!(counting, served, paused_queues(&app))?;
    let queues = queues_of(served.into_iter(), &counts);
    // The broker counts everybody's messages: no matter for a tenant.
    let ready = match caller.tenant() {
        None => ready_messages(&app, &queues).await,
        Some(_) => BTreeMap::new(),
    };
    let paused: Vec<Queue> = paused.into_iter().map(|(queue, _, _)| queue).collect();
    Ok(Json(queues.into_iter().map(|work| view(work, &counts, &ready, &paused)).collect()))
}

/// The queues of a realm that are not empty or are paused, by the ledger alone.
pub(crate) async fn of_ledger(app: &App, realm: &Realm) -> Result<Vec<QueueView>, ReadError> {
    let counts = counted(app, realm).await?;
    let paused: Vec<Queue> =
        Queue::ALL.into_iter().filter(|queue| app.ledger.queue_is_paused(*queue).is_some()).collect();
    let queues = queues_of(std::iter::empty(), &counts);
    let views = queues.into_iter().map(|work| view(work, &counts, &BTreeMap::new(), &paused));
    Ok(views.filter(|view| view.queued + view.running + view.delayed > 0 || view.paused).collect())
}

/// The paused queues, since when, and by whom and why in words.
pub(crate) async fn paused_queues(app: &App) -> Answer<Vec<(Queue, Timestamp, String)>> {
    Ok(app.ledger.queues_paused().await.map_err(ControlError::from)?)
}

/// `POST /v1/queues/{queue}/pause`
pub(crate) async fn pause(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    QueuePath(queue): QueuePath,
    request: Body,
) -> Answer<Json<Accepted>> {
    let request: PauseRequest = body::read_json_or_default(request).await?;
    app.ledger.pause_queue(queue, &caller.actor, request.reason.as_deref()).await?;
    let message = "Nothing more of it is started; what runs goes on.";
    Ok(Json(Accepted { state: "paused".to_owned(), message: message.to_owned() }))
}

/// `POST /v1/queues/{queue}/resume`
pub(crate) async fn resume(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    QueuePath(queue): QueuePath,
) -> Answer<Json<Accepted>> {
    app.ledger.resume_queue(queue, &caller.actor).await?;
    Ok(Json(Accepted { state: "open".to_owned(), message: "Its jobs start when their turn comes.".to_owned() }))
}

/// The queues of every pool that has a worker or a job, best served first within a pool.
fn queues_of(served: impl Iterator<Item = String>, counts: &[QueueCount]) -> Vec<WorkQueue> {
    let mut pools: Vec<Pool> = served.filter_map(|name| name.parse().ok()).collect();
    pools.extend(counts.iter().map(|count| count.work.pool.clone()));
    pools.push(Pool::cpu());
    pools.sort();
    pools.dedup();
    pools.iter().flat_map(WorkQueue::of_pool).collect()
}

async fn ready_messages(app: &App, queues: &[WorkQueue]) -> BTreeMap<String, u64> {
    let names: Vec<String> = queues.iter().flat_map(|work| [work.name(), work.returned_name()]).collect();
    match tokio::time::timeout(BROKER_BOUND, ffpool_broker::queue_depth(&app.amqp, &names)).await {
        Ok(Ok(depths)) => depths.into_iter().flatten().map(|depth| (depth.name, u64::from(depth.ready))).collect(),
        Ok(Err(error)) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "the broker's queues cannot be counted");
            BTreeMap::new()
        }
        Err(_) => {
            tracing::warn!("the broker's queues were not counted within {BROKER_BOUND:?}");
            BTreeMap::new()
        }
    }
}

fn view(work: WorkQueue, counts: &[QueueCount], ready: &BTreeMap<String, u64>, paused: &[Queue]) -> QueueView {
    let name = work.name();
    let count = counts.iter().find(|count| count.work == work);
    QueueView {
        // A twin that is not there holds nothing.
        ready: ready.get(&name).map(|count| count + ready.get(&work.returned_name()).copied().unwrap_or(0)),
        paused: paused.contains(&work.queue),
        name,
        queue: work.queue.to_string(),
        priority: work.priority.to_string(),
        pool: work.pool.to_string(),
        queued: count.map_or(0, |count| count.queued),
        running: count.map_or(0, |count| count.running),
        delayed: count.map_or(0, |count| count.delayed),
        oldest: count.and_then(|count| count.oldest),
    }
}
