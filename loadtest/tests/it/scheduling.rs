//! Who runs when: never over capacity, and the best job first.

use ffpool_loadtest::pool::PoolSettings;
use ffpool_schema::api::JobDetail;
use ffpool_schema::job::{Priority, Queue};
use ffpool_schema::lifecycle::State;
use jiff::Timestamp;

use crate::support::{BOUND, SMALL, pool, quick, run};

/// The most attempts that ran at one time, from their own begin and end.
fn most_at_once(details: &[JobDetail]) -> usize {
    let spans: Vec<(Timestamp, Timestamp)> = details
        .iter()
        .flat_map(|detail| &detail.attempts)
        .map(|attempt| (attempt.started_at, attempt.ended_at.expect("every attempt has ended")))
        .collect();
    spans
        .iter()
        .map(|(begin, _)| spans.iter().filter(|(from, to)| from <= begin && begin < to).count())
        .max()
        .unwrap_or(0)
}

#[test]
fn eight_jobs_on_two_slots_never_run_more_than_two_at_once_and_a_live_job_is_next() {
    run(async {
        let pool = pool(PoolSettings::one_worker(SMALL)).await?;
        let mut batch = Vec::new();
        for number in 0..8 {
            let mut spec = quick(&pool.media.join(format!("batch-{number}.mp4")).display().to_string());
            spec.queue = Queue::Batch;
            spec.parameters.duration = Some(4.0);
            batch.push(pool.client.submit(&spec).await?.id);
        }
        pool.until(batch[0], BOUND, |view| view.state != State::Queued).await?;
        let mut spec = quick(&pool.media.join("live.mp4").display().to_string());
        spec.queue = Queue::Live;
        spec.priority = Priority::High;
        let submitted_at = Timestamp::now();
        let live = pool.client.submit(&spec).await?.id;
        let live = pool.until_ended(live, BOUND).await?;
        assert_eq!(live.job.state, State::Completed, "{live:#?}");

        let mut details = vec![live];
        for id in batch {
            let end = std::time::Instant::now() + BOUND;
            loop {
                let workers = pool.client.workers().await?;
                assert!(workers.iter().all(|worker| worker.capacity.used <= 2), "{workers:#?}");
                let detail = pool.client.job(id).await?;
                if detail.job.state.is_end() {
                    assert_eq!(detail.job.state, State::Completed, "{detail:#?}");
                    details.push(detail);
                    break;
                }
                assert!(std::time::Instant::now() < end, "{detail:#?}\n{}", pool.logs());
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
        assert!(most_at_once(&details) <= 2, "{details:#?}");
        let live_began = details[0].attempts[0].started_at;
        // At most the slot that was being filled while the live job was published may have gone to another.
        let overtook = details[1..]
            .iter()
            .map(|detail| detail.attempts[0].started_at)
            .filter(|began| *began > submitted_at && *began < live_began)
            .count();
        assert!(overtook <= 1, "{overtook} batch jobs began between the live job's publication and its start");
        Ok(())
    });
}

#[test]
fn a_job_waits_for_its_time() {
    run(async {
        let pool = pool(PoolSettings::one_worker(SMALL)).await?;
        let mut spec = quick(&pool.media.join("later.mp4").display().to_string());
        let due = Timestamp::now() + jiff::SignedDuration::from_secs(3);
        spec.not_before = Some(due);
        let submitted = pool.client.submit(&spec).await?;
        assert_eq!(submitted.state, State::Delayed);
        let detail = pool.until_ended(submitted.id, BOUND).await?;
        assert_eq!(detail.job.state, State::Completed, "{detail:#?}");
        assert!(detail.attempts[0].started_at >= due, "{detail:#?}");
        Ok(())
    });
}
