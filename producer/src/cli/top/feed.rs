//! Asks the API for what `top` shows, and tells it what to do.
//!
//! Invariant: one round of questions at a time, the next one an interval after it; an API that says when to ask again is obeyed.

use std::time::Duration;

use ffpool::{ApiError, Client, JobFilter, JobName, WorkerFilter};
use ffpool_schema::api::{Accepted, PauseRequest};
use ffpool_schema::message::WorkerState;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use super::app::{Action, Event, Listed, Snapshot, Want};
use super::keys;

/// Jobs that are listed at most.
const JOBS_MAX: u32 = 200;
/// Workers that are listed at most.
const WORKERS_MAX: u32 = 500;
/// Lines of a log that are kept.
const LOG_LINES: u16 = 500;

/// One look at everything.
pub(crate) async fn look(client: &Client, want: &Want) -> Result<Snapshot, ApiError> {
    let queues = client.queues().await?;
    let workers = client.workers_page(&shown_workers()).await?;
    let filter = JobFilter { limit: Some(JOBS_MAX), ..JobFilter::default() };
    let page = match want.listed {
        Listed::Running | Listed::Waiting => {
            client.jobs(&JobFilter { status: Some(want.listed.state()), ..filter }).await?
        }
        Listed::Failed => client.dead_letters(&filter).await?,
    };
    Ok(Snapshot {
        at: Timestamp::now(),
        queues,
        more_workers: workers.next.is_some(),
        workers: workers.items,
        listed: want.listed,
        more: page.next.is_some(),
        jobs: page.items,
    })
}

/// Those that have not stopped, by name, as many as anybody goes through.
fn shown_workers() -> WorkerFilter {
    let status = vec![WorkerState::Starting, WorkerState::Ready, WorkerState::Draining, WorkerState::Lost];
    WorkerFilter { status, limit: Some(WORKERS_MAX), ..WorkerFilter::default() }
}

/// Looks again and again at what is wanted, until nobody listens.
pub(crate) async fn follow(
    client: Client,
    mut want: watch::Receiver<Want>,
    news: mpsc::Sender<Event>,
    interval: Duration,
) {
    loop {
        let wanted = want.borrow_and_update().clone();
        let asked = round(&client, &wanted, &news).await;
        let told = asked.as_ref().err().and_then(ApiError::retry_after).unwrap_or_default();
        if let Err(error) = asked
            && news.send(Event::Lost(lost(&error))).await.is_err()
        {
            return;
        }
        tokio::select! {
            is_wanted = pause(told, interval, &mut want) => if !is_wanted { return },
            () = news.closed() => return,
        }
    }
}

/// Until the next round: an interval, or less where something else is wanted; but what the API told is slept out whatever is
/// wanted. Whether anything is wanted still.
async fn pause(told: Duration, interval: Duration, want: &mut watch::Receiver<Want>) -> bool {
    tokio::time::sleep(told).await;
    tokio::select! {
        () = tokio::time::sleep(interval.saturating_sub(told)) => true,
        changed = want.changed() => changed.is_ok(),
    }
}

async fn round(client: &Client, want: &Want, news: &mpsc::Sender<Event>) -> Result<(), ApiError> {
    let snapshot = look(client, want).await?;
    // Nobody listens any more: the next look at it ends the task.
    let _ = news.send(Event::Seen(Box::new(snapshot))).await;
    if let Some(job) = want.log {
        let lines = client.log(job, None, Some(LOG_LINES)).await?;
        let lines = lines.into_iter().map(|line| line.line).collect();
        let _ = news.send(Event::Log(job, lines)).await;
    }
    Ok(())
}

fn lost(error: &ApiError) -> String {
    match error {
        ApiError::Unreachable { reason, .. } => format!("no answer ({reason}); trying again"),
        ApiError::Setup { .. } | ApiError::Problem(_) | ApiError::Strange { .. } => error.to_string(),
    }
}

/// Does what was decided, and says what came of it.
pub(crate) async fn act(client: &Client, action: &Action) -> Result<String, String> {
    let why = Some("paused in ffpool top".to_owned());
    let accepted: Result<Accepted, ApiError> = match action {
        Action::Cancel(job) => client.cancel(JobName::Number(*job)).await,
        Action::Pause(job) => client.pause(JobName::Number(*job)).await,
        Action::Resume(job) => client.resume(JobName::Number(*job)).await,
        Action::Retry(job) => client.retry(JobName::Number(*job)).await,
        Action::Drain(worker) => client.drain(worker).await,
        Action::PauseQueue(queue) => client.pause_queue(*queue, &PauseRequest { reason: why }).await,
        Action::ResumeQueue(queue) => client.resume_queue(*queue).await,
    };
    accepted.map(|accepted| keys::told(action, &accepted.state, &accepted.message)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_the_api_told_is_slept_out_whatever_is_wanted() {
        let (interval, told) = (Duration::from_secs(2), Duration::from_secs(30));
        let (want, mut wanted) = watch::channel(Want::default());
        let lasts = async |told: Duration, wanted: &mut watch::Receiver<Want>| {
            let began = Instant::now();
            assert!(pause(told, interval, wanted).await);
            began.elapsed().as_secs()
        };
        assert_eq!(lasts(Duration::ZERO, &mut wanted).await, 2);
        assert_eq!(lasts(told, &mut wanted).await, 30);
        want.send_replace(Want { listed: Listed::Failed, log: None });
        assert_eq!(lasts(told, &mut wanted).await, 30, "a key makes it no shorter");
        want.send_replace(Want::default());
        assert_eq!(lasts(Duration::ZERO, &mut wanted).await, 0, "where the API told nothing, a key does");
        drop(want);
        assert!(!pause(Duration::ZERO, interval, &mut wanted).await);
    }
}
