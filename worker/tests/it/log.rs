//! What a tool wrote, as it arrives on NATS.

use ffpool_schema::id::JobId;
use ffpool_schema::message::LogLine;
use ffpool_schema::subjects;
use ffpool_worker::drain::Stage;
use ffpool_worker::service::Finish;

use crate::pool::{BOUND, Pool};

#[tokio::test(flavor = "multi_thread")]
async fn the_last_lines_of_a_tool_that_fails_at_once_arrive() {
    let pool = Pool::new("log").await;
    let worker = pool.start(&["--slots=1"]).await;
    let input = pool.media().join("bad.mov");
    std::fs::write(&input, "this is no media file").unwrap();
    let job = JobId(uuid::Uuid::now_v7());
    let mut lines = pool.signals.subscribe::<LogLine>(&subjects::log(job)).await.unwrap();

    let body = format!(r#"{{"scenario": "480p30-h264", "input": "{}"}}"#, input.display());
    pool.publish_as(job, &body, None).await;
    let mut seen = Vec::new();
    let is_last = |line: &LogLine| line.line.contains("Invalid data found");
    while !seen.last().is_some_and(is_last) {
        let line = tokio::time::timeout(BOUND, lines.next()).await;
        seen.push(line.unwrap_or_else(|_| panic!("the last line did not arrive; seen: {seen:?}")).unwrap());
    }
    pool.until_ends(&[(job, 1, "failed")]).await;
    worker.drain.advance(Stage::FinishingInTime, "the test is over");
    assert_eq!(worker.finished().await, Finish::Clean);
}
