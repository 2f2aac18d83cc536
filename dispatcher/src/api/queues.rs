//! Work queues: what the ledger counts, beside what the broker holds.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use ffpool_schema::api::QueueView;
use ffpool_schema::job::Pool;
use ffpool_schema::topology::WorkQueue;

use crate::api::App;
use crate::api::problem::Answer;
use crate::ledger::read::QueueCount;

/// The broker's counts are a supplement: without them by then, the answer goes without them.
const BROKER_BOUND: Duration = Duration::from_secs(3);

/// `GET /v1/queues`
pub(crate) async fn list(State(app): State<App>) -> Answer<Json<Vec<QueueView>>> {
    let counts = app.ledger.queues().await?;
    let pools = app.ledger.workers().await?.into_iter().flat_map(|worker| worker.pools);
    let queues = queues_of(pools, &counts);
    let ready = ready_messages(&app, &queues).await;
    Ok(Json(queues.into_iter().map(|work| view(work, &counts, &ready)).collect()))
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
    let names: Vec<String> = queues.iter().map(WorkQueue::name).collect();
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

fn view(work: WorkQueue, counts: &[QueueCount], ready: &BTreeMap<String, u64>) -> QueueView {
    let name = work.name();
    let count = counts.iter().find(|count| count.work == work);
    QueueView {
        ready: ready.get(&name).copied(),
        paused: false,
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
