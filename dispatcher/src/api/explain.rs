//! Why a job is what it is, in sentences made from its record. Pure: the time comes in.
//!
//! Invariant: nothing is guessed; each sentence says what a row of the ledger says.

use ffpool_schema::api::{AttemptView, EventView, JobDetail, JobView, WorkerView};
use ffpool_schema::failure::{Blame, Failure, RetryPolicy};
use ffpool_schema::lifecycle::State;
use ffpool_schema::message::{Phase, Progress, WorkerState};
use jiff::Timestamp;

/// The present first, then each attempt's end and each control from outside, first to last.
pub(crate) fn sentences(detail: &JobDetail, workers: &[WorkerView], now: Timestamp) -> Vec<String> {
    let mut sentences = present(detail, workers, now);
    let attempts = detail.attempts.iter().filter_map(|attempt| Some((attempt.ended_at?, attempt_ended(attempt)?)));
    let controls = detail.events.iter().filter_map(|event| Some((event.at, control(event)?)));
    let mut past: Vec<(Timestamp, String)> = attempts.chain(controls).collect();
    past.sort_by_key(|(at, _)| *at);
    sentences.extend(past.into_iter().map(|(_, sentence)| sentence));
    sentences
}

fn present(detail: &JobDetail, workers: &[WorkerView], now: Timestamp) -> Vec<String> {
    let job = &detail.job;
    match job.state {
        State::Blocked => vec!["It waits for the jobs it depends on to complete.".to_owned()],
        State::Delayed => vec![delayed(job, now)],
        State::Queued => vec![queued(job, now), room(job, workers)],
        State::Running => vec![running(job, now)],
        State::Cancelling => vec![format!(
            "It is being cancelled: {} was told to end attempt {}, and has not reported it yet.",
            worker_name(job),
            job.attempt
        )],
        State::Completed => vec![completed(detail)],
        State::Failed => failed(job),
        State::Cancelled => vec![format!("It was cancelled at {} and will not run{}.", ended_at(job), because(job))],
        State::Rejected => rejected(job),
    }
}

fn delayed(job: &JobView, now: Timestamp) -> String {
    let when = match job.due_at {
        Some(due) if due > now => format!("until {due}, which is in {}", span(now, due)),
        Some(due) => format!("for its turn to be published again; its time came at {due}"),
        None => "for its time".to_owned(),
    };
    let why = match &job.failure {
        Some(failure) if job.failures > 0 => {
            format!(
                ": the pause after failure {} ({}), of which {} are forgiven",
                job.failures, failure.cause, job.max_retries
            )
        }
        Some(_) | None => because(job),
    };
    format!("It waits {when}{why}.")
}

fn queued(job: &JobView, now: Timestamp) -> String {
    let again = if job.attempt > 0 { format!(" for attempt {}", job.attempt + 1) } else { String::new() };
    format!(
        "It waits{again} in queue `{}` with priority `{}` for a worker of pool `{}`; it was recorded {} ago{}.",
        job.queue,
        job.priority,
        job.pool,
        span(job.created_at, now),
        because(job)
    )
}

/// What the pool's workers have to offer: the usual reason for waiting.
fn room(job: &JobView, workers: &[WorkerView]) -> String {
    let ready: Vec<&WorkerView> = workers
        .iter()
        .filter(|worker| worker.state == WorkerState::Ready && worker.pools.contains(&job.pool))
        .collect();
    if ready.is_empty() {
        return format!("No worker of pool `{}` is ready: start one, or submit the job to another pool.", job.pool);
    }
    let slots: u32 = ready.iter().map(|worker| worker.capacity.slots).sum();
    let used: u32 = ready.iter().map(|worker| worker.capacity.used.min(worker.capacity.slots)).sum();
    let workers = if ready.len() == 1 { "1 worker".to_owned() } else { format!("{} workers", ready.len()) };
    if used >= slots {
        format!(
            "All {slots} slots of {workers} are in use: it is taken when one becomes free and nothing more urgent waits."
        )
    } else {
        format!("{} of {slots} slots of {workers} are free: it should be taken within a moment.", slots - used)
    }
}

fn running(job: &JobView, now: Timestamp) -> String {
    let since = job.started_at.map_or_else(String::new, |started| format!(" for {}", span(started, now)));
    let progress = job.progress.as_ref().map_or_else(String::new, |progress| format!("; {}", how_far(progress)));
    let custody = match job.custody.as_deref() {
        Some("ledger") => ". If that worker dies, the ledger gives the job to another",
        _ => "",
    };
    format!("Attempt {} runs on {}{since}{progress}{custody}.", job.attempt, worker_name(job))
}

fn how_far(progress: &Progress) -> String {
    let phase = match progress.phase {
        Phase::Prepare => "it gets ready",
        Phase::Encode => "it encodes",
        Phase::Verify => "its output is being verified",
        Phase::Commit => "its output is being published",
    };
    let percent = progress.percent.map_or_else(String::new, |percent| format!(", {percent:.1} % done"));
    let left = progress.eta_secs.map_or_else(String::new, |left| format!(", about {left:.0} s left"));
    format!("{phase}{percent}{left}")
}

fn completed(detail: &JobDetail) -> String {
    let job = &detail.job;
    let files = detail.manifest.as_ref().map_or_else(String::new, |manifest| {
        let urls: Vec<&str> = manifest.artifacts.iter().map(|artifact| artifact.url.as_str()).collect();
        format!("; proven and published: {}", urls.join(", "))
    });
    format!("It completed at {} in attempt {} on {}{files}.", ended_at(job), job.attempt, worker_name(job))
}

fn failed(job: &JobView) -> Vec<String> {
    let Some(failure) = &job.failure else {
        return vec![format!("It was parked as failed at {}{}.", ended_at(job), because(job))];
    };
    let why = match failure.cause.policy() {
        RetryPolicy::Never => "the same would happen again".to_owned(),
        RetryPolicy::Once if job.failures <= job.max_retries => "it happened a second time".to_owned(),
        RetryPolicy::Once | RetryPolicy::Backoff => {
            format!("failure {} was one more than the {} that are forgiven", job.failures, job.max_retries)
        }
        RetryPolicy::Free => "too many workers were lost while they ran it".to_owned(),
    };
    vec![
        format!("It was parked as failed at {}, because {why}.", ended_at(job)),
        told(failure),
        format!("{} The {} has to act; then retry the job.", failure.cause.cure(), blamed(failure.cause.blame())),
    ]
}

fn rejected(job: &JobView) -> Vec<String> {
    let mut sentences = vec![format!("It was refused and never ran{}.", because(job))];
    sentences.extend(job.faults.iter().map(|fault| format!("Fault in `{}`: {}.", fault.path, fault.message)));
    sentences.push("A refused job cannot be retried: correct it and submit it as a new one.".to_owned());
    sentences
}

fn attempt_ended(attempt: &AttemptView) -> Option<String> {
    let ran = span(attempt.started_at, attempt.ended_at?);
    let AttemptView { attempt: number, worker, failure, .. } = attempt;
    let head = format!("Attempt {number} on worker {worker} ended after {ran}");
    Some(match (attempt.outcome.as_deref()?, failure) {
        ("failed", Some(failure)) => {
            let cost =
                if failure.cause.policy() == RetryPolicy::Free { "It cost nothing" } else { "It counts as a failure" };
            format!("{head}. {} {cost}.", told(failure))
        }
        ("lapsed", _) => format!("{head}, because the worker fell silent; it cost no failure."),
        ("released", _) => format!("{head}: it was handed back unfinished; it cost no failure."),
        (outcome, _) => format!("{head}: {outcome}."),
    })
}

/// What people did, and what the placing of the job came to.
fn control(event: &EventView) -> Option<String> {
    let text = |key: &str| event.detail.get(key).and_then(serde_json::Value::as_str);
    let by = text("by").map_or_else(String::new, |by| format!(" by {by}"));
    let why = text("reason").map_or_else(String::new, |reason| format!(": {reason}"));
    match event.kind.as_str() {
        "cancel" => Some(format!("A cancel was asked for{by} at {}{why}.", event.at)),
        "redrive" => Some(format!("It was sent round again{by} at {}{why}.", event.at)),
        "unfit" => Some(format!("At {} it did not fit the worker that received it{why}.", event.at)),
        "never_fits" => Some(format!("At {} no worker was known that could ever run it{why}.", event.at)),
        "delivery_limit" => Some(format!("At {} the broker gave up delivering its message{why}.", event.at)),
        _ => None,
    }
}

fn told(failure: &Failure) -> String {
    let evidence = failure.evidence.as_ref().map_or_else(String::new, |line| format!(" The tool said: `{line}`."));
    format!("Cause {} ({}): {}.{evidence}", failure.cause.code(), failure.cause, failure.message.trim_end_matches('.'))
}

fn blamed(blame: Blame) -> &'static str {
    match blame {
        Blame::Input => "owner of the input",
        Blame::Request => "author of the job",
        Blame::Device => "owner of the device",
        Blame::Network => "operator of the network",
        Blame::Platform | Blame::Operator => "operator of the pool",
    }
}

fn because(job: &JobView) -> String {
    job.reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"))
}

fn worker_name(job: &JobView) -> String {
    job.worker.as_ref().map_or_else(|| "a worker".to_owned(), |worker| format!("worker {worker}"))
}

fn ended_at(job: &JobView) -> String {
    job.ended_at.map_or_else(|| "an unknown time".to_owned(), |at| at.to_string())
}

/// The time between, in the two largest units.
fn span(from: Timestamp, to: Timestamp) -> String {
    let secs = to.duration_since(from).as_secs().max(0);
    match secs {
        0..60 => format!("{secs} s"),
        60..3600 => format!("{} min {} s", secs / 60, secs % 60),
        3600..86_400 => format!("{} h {} min", secs / 3600, secs % 3600 / 60),
        _ => format!("{} d {} h", secs / 86_400, secs % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ffpool_schema::failure::Cause;
    use ffpool_schema::id::JobId;
    use ffpool_schema::message::{Ability, Capacity};
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn job(state: State) -> JobDetail {
        JobDetail {
            job: JobView {
                paused: false,
                frozen_since: None,
                deadline: None,
                depends_on: Vec::new(),
                id: JobId(Uuid::nil()),
                number: 7,
                state,
                queue: "default".into(),
                priority: "medium".into(),
                pool: "cpu".into(),
                scenario: "720p-h264".into(),
                tenant: None,
                labels: BTreeMap::new(),
                attempt: 0,
                failures: 0,
                max_retries: 3,
                worker: None,
                custody: None,
                created_at: at(0),
                due_at: None,
                started_at: None,
                ended_at: state.is_end().then(|| at(60)),
                progress: None,
                failure: None,
                reason: None,
                faults: Vec::new(),
            },
            spec: None,
            attempts: Vec::new(),
            events: Vec::new(),
            manifest: None,
        }
    }

    fn worker(slots: u32, used: u32) -> WorkerView {
        WorkerView {
            id: "w-1".parse().unwrap(),
            host: "host".into(),
            version: "0.1.0".into(),
            state: WorkerState::Ready,
            pools: vec!["cpu".into()],
            capacity: Capacity { slots, used, cpu_percent: 200, memory_mb: 4096, disk_mb: 9000 },
            ability: Ability {
                cpu_percent: 200,
                memory_mb: 4096,
                disk_mb: 9000,
                encoders: vec![],
                noop: false,
                cgroups: true,
            },
            running: Vec::new(),
            first_seen: at(0),
            last_seen: at(0),
        }
    }

    #[test]
    fn a_waiting_job_names_what_it_lacks() {
        let waiting = job(State::Queued);
        let with = |workers: &[WorkerView]| sentences(&waiting, workers, at(90)).join(" ");
        assert!(with(&[]).contains("No worker of pool `cpu` is ready"), "{}", with(&[]));
        assert!(with(&[worker(2, 2)]).contains("All 2 slots of 1 worker are in use"));
        assert!(with(&[worker(2, 1)]).contains("1 of 2 slots of 1 worker are free"));
        assert!(with(&[]).contains("recorded 1 min 30 s ago"));
    }

    #[test]
    fn a_failed_job_tells_every_attempt_the_reason_and_the_cure() {
        let failure = Failure { evidence: Some("out of memory".into()), ..Failure::new(Cause::Oom, "it was killed") };
        let mut failed = job(State::Failed);
        failed.job.failures = 2;
        failed.job.failure = Some(failure.clone());
        let attempt = |number: u32, outcome: &str, failure: Option<Failure>| AttemptView {
            attempt: number,
            worker: "w-1".parse().unwrap(),
            started_at: at(i64::from(number) * 10),
            ended_at: Some(at(i64::from(number) * 10 + 5)),
            outcome: Some(outcome.into()),
            failure,
            usage: None,
        };
        failed.attempts = vec![
            attempt(1, "failed", Some(failure.clone())),
            attempt(2, "lapsed", None),
            attempt(3, "failed", Some(failure)),
        ];
        failed.events = vec![EventView {
            at: at(18),
            kind: "redrive".into(),
            state: State::Queued,
            attempt: 1,
            detail: json!({"by": "anna", "reason": "more memory"}),
        }];
        let told = sentences(&failed, &[], at(100));
        assert!(told[0].contains("it happened a second time"), "{told:#?}");
        assert!(told[1].contains("Cause 4001 (oom)") && told[1].contains("out of memory"), "{told:#?}");
        assert!(told[2].contains("Raise resource_limits.max_memory_mb."), "{told:#?}");
        let order: Vec<&str> = ["Attempt 1", "sent round again by anna", "Attempt 2", "Attempt 3"].into();
        for (sentence, expected) in told[3..].iter().zip(order) {
            assert!(sentence.contains(expected), "{told:#?}");
        }
        assert!(told[5].contains("cost no failure"), "{told:#?}");
    }
}
