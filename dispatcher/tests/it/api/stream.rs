//! Following a job.

use ffpool_schema::api::StreamEvent;
use ffpool_schema::id::JobId;
use ffpool_schema::lifecycle::State;
use ffpool_schema::message::{Phase, Progress};
use ffpool_schema::subjects;

use super::{Api, stream_text, within_bound};

fn progress(job: JobId, seq: u64) -> Progress {
    Progress {
        job,
        attempt: 1,
        worker: "w-1".parse().unwrap(),
        seq,
        phase: Phase::Encode,
        percent: Some(50.0),
        frame: None,
        fps: None,
        speed: None,
        out_time_us: None,
        size_bytes: None,
        eta_secs: None,
        live: None,
    }
}

/// The events of a stream's text, checked for their names.
fn events(text: &str) -> Vec<StreamEvent> {
    let fields = |block: &str, field: &str| {
        block.lines().find_map(|line| line.strip_prefix(field).map(|value| value.trim().to_owned()))
    };
    text.split("\n\n")
        .filter_map(|block| Some((fields(block, "event:")?, fields(block, "data:")?)))
        .map(|(name, data)| {
            let event: StreamEvent = serde_json::from_str(&data).unwrap();
            let expected = match &event {
                StreamEvent::Job(_) => "job",
                StreamEvent::Progress(_) => "progress",
            };
            assert_eq!(name, expected);
            event
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_sees_each_change_the_progress_and_then_the_end() {
    let api = Api::start().await;
    let id = api.insert_job("queued").await;
    let response = api.get(&format!("/v1/jobs/{id}/events")).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let reading = tokio::spawn(stream_text(response));

    api.update_job(id, "state = 'running', attempt = 1, owner_worker = 'w-1', started_at = now()").await;
    // The subscription may be slower than the answer; a signal before it is lost, as signals are.
    let publishing = async {
        for seq in 1.. {
            api.signals.publish(&subjects::progress(JobId(id)), &progress(JobId(id), seq)).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            if seq == 40 {
                api.update_job(id, "state = 'completed', ended_at = now()").await;
            }
            if reading.is_finished() {
                return;
            }
        }
    };
    within_bound("the stream ends after the end state", publishing).await;

    let events = events(&reading.await.unwrap());
    let states: Vec<State> = events
        .iter()
        .filter_map(|event| match event {
            StreamEvent::Job(job) => Some(job.state),
            StreamEvent::Progress(_) => None,
        })
        .collect();
    assert_eq!((states.first(), states.last()), (Some(&State::Queued), Some(&State::Completed)), "{states:?}");
    assert!(events.iter().any(|event| matches!(event, StreamEvent::Progress(_))), "{events:?}");
    assert!(matches!(events.last(), Some(StreamEvent::Job(_))), "{events:?}");
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_does_not_hold_up_the_stop() {
    let api = Api::start().await;
    let id = api.insert_job("queued").await;
    let response = api.get(&format!("/v1/jobs/{id}/events")).send().await.unwrap();
    let reading = tokio::spawn(stream_text(response));
    api.stop().await;
    assert_eq!(events(&reading.await.unwrap()).len(), 1);
}
