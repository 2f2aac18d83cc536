//! Why a job is what it is, in sentences made from its record. Pure: the time comes in.
//!
//! Invariant: nothing is guessed; each sentence says what a row of the ledger says.

use ffpool_schema::api::{AttemptView, ChunksView, EventView, JobDetail, JobView};
use ffpool_schema::failure::{Blame, Failure, RetryPolicy};
use ffpool_schema::lifecycle::State;
use ffpool_schema::message::{Phase, Progress};
use jiff::Timestamp;

use crate::ledger::read::{Circumstances, Parent, TenantTurn};
use crate::ledger::workers::Room;

/// What stands around a job and is not in its own record.
#[derive(Debug, Default)]
pub(crate) struct Surroundings {
    /// What the ready workers of its pool have to offer.
    pub(crate) room: Room,
    /// Since when its queue is paused, and by whom and why in words.
    pub(crate) queue_pause: Option<(Timestamp, String)>,
    /// What its next attempt depends on.
    pub(crate) circumstances: Circumstances,
    /// Whether other tenants are told of.
    pub(crate) sees_all: bool,
}

/// The present first, then each attempt's end and each control from outside, first to last.
pub(crate) fn sentences(detail: &JobDetail, around: &Surroundings, now: Timestamp) -> Vec<String> {
    let mut sentences = present(detail, around, now);
    let attempts =
        detail.attempts.iter().filter_map(|attempt| Some((attempt.ended_at?, attempt_ended(attempt, &detail.events)?)));
    let controls = detail.events.iter().filter_map(|event| Some((event.at, control(event)?)));
    let mut past: Vec<(Timestamp, String)> = attempts.chain(controls).collect();
    past.sort_by_key(|(at, _)| *at);
    sentences.extend(past.into_iter().map(|(_, sentence)| sentence));
    sentences
}

fn present(detail: &JobDetail, around: &Surroundings, now: Timestamp) -> Vec<String> {
    let job = &detail.job;
    match job.state {
        State::Blocked => {
            let missing = &around.circumstances.missing;
            let mut told = vec![match &job.chunks {
                Some(chunks) if missing.is_empty() => in_chunks(chunks),
                Some(_) | None => blocked(missing),
            }];
            told.extend(pauses(job, around, now));
            told.extend(deadline(job, now));
            told
        }
        State::Delayed | State::Queued => {
            let mut told = vec![match job.state {
                State::Delayed if around.circumstances.is_offered => offered(job),
                State::Delayed if around.circumstances.is_held => held_back(job),
                State::Delayed => delayed(job, now),
                _ => queued(job, now),
            }];
            let pauses = pauses(job, around, now);
            if job.state == State::Queued && pauses.is_empty() {
                told.push(room(job, around.room));
                told.extend(turn(job, around));
            }
            told.extend(pauses);
            told.extend(lessons(&around.circumstances));
            told.extend(deadline(job, now));
            told
        }
        State::Running => {
            let mut told = vec![running(job, now)];
            told.extend(frozen(job, now));
            told.extend(deadline(job, now));
            told
        }
        State::Cancelling => vec![format!(
            "It is being cancelled: {} was told to end attempt {}, and has not reported it yet{}.",
            worker_name(job),
            job.attempt,
            because(job)
        )],
        State::Completed => vec![completed(detail)],
        State::Failed => failed(job),
        State::Cancelled => vec![format!("It was cancelled at {} and will not run{}.", ended_at(job), because(job))],
        State::Rejected => rejected(job),
    }
}

fn blocked(missing: &[Parent]) -> String {
    if missing.is_empty() {
        return "Every job it depends on has completed: it should go on within a moment.".to_owned();
    }
    let named: Vec<String> = missing
        .iter()
        .map(|parent| match parent.known {
            Some((number, state)) => format!("#{number} ({}), which is {state}", parent.id),
            None => format!("{}, which nobody has handed in yet", parent.id),
        })
        .collect();
    format!("It waits until the jobs it depends on have completed: {}.", named.join("; "))
}

fn in_chunks(chunks: &ChunksView) -> String {
    let ChunksView { done, running, total, percent } = chunks;
    format!(
        "It is made in chunks: {done} of {total} are done, {running} are being made ({percent:.0} % of the whole). When all are \
         done, an attempt puts them together."
    )
}

/// Pauses of a job that waits, its own and its queue's.
fn pauses(job: &JobView, around: &Surroundings, now: Timestamp) -> Vec<String> {
    let own = job.paused.then(|| "It is paused: it does not start before somebody resumes it.".to_owned());
    let queue = around.queue_pause.as_ref().map(|(since, words)| {
        format!(
            "The queue `{}` is {words}, for {} now: nothing of it starts before somebody resumes it.",
            job.queue,
            span(*since, now)
        )
    });
    own.into_iter().chain(queue).collect()
}

fn frozen(job: &JobView, now: Timestamp) -> Option<String> {
    let thaws = "its tool uses no processor time and goes on where it was";
    match (job.paused, job.frozen_since) {
        (true, Some(since)) => Some(format!(
            "It is frozen for {}, because somebody paused it{}: {thaws} once somebody resumes it.",
            span(since, now),
            because(job)
        )),
        (true, None) => Some(format!(
            "It is paused{}: its worker is told to freeze it and has not reported that yet.",
            because(job)
        )),
        (false, Some(since)) => Some(format!(
            "It is frozen for {}, to make room for a more urgent job on the same worker: {thaws} once that has ended.",
            span(since, now)
        )),
        (false, None) => None,
    }
}

fn deadline(job: &JobView, now: Timestamp) -> Option<String> {
    let deadline = job.deadline?;
    Some(if deadline > now {
        format!("Its deadline is {deadline}, in {}: if it has not ended by then, it fails.", span(now, deadline))
    } else {
        format!("Its deadline passed at {deadline}: it is ended unless its output is being published already.")
    })
}

/// What earlier attempts have changed about the next one.
fn lessons(circumstances: &Circumstances) -> Vec<String> {
    let Circumstances {
        losses,
        is_alone,
        raised_memory_mb,
        fell_back,
        missing: _,
        is_offered: _,
        is_held: _,
        turns: _,
    } = circumstances;
    let alone = is_alone.then(|| {
        format!(
            "{losses} workers were lost while they ran it, so its next attempt runs alone: it waits for a worker that runs \
             nothing else."
        )
    });
    let memory = raised_memory_mb.map(|mib| {
        format!("An attempt ran out of memory, so the next may use {mib} MiB, as far as its worker has them.")
    });
    let software = fell_back.then(|| {
        "The device failed and the job lets it be replaced, so the next attempt encodes in software.".to_owned()
    });
    alone.into_iter().chain(memory).chain(software).collect()
}

/// The ledger's reason names the worker and what it waits for.
fn offered(job: &JobView) -> String {
    format!("It is {}.", job.reason.as_deref().unwrap_or("offered to a worker"))
}

/// The ledger's reason has the numbers.
fn held_back(job: &JobView) -> String {
    let why = job.reason.as_deref().unwrap_or("its tenant has as much as it may");
    format!("It is held back: {why}. It goes on by itself as soon as there is room.")
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
fn room(job: &JobView, Room { workers, slots, used }: Room) -> String {
    if workers == 0 {
        return format!("No worker of pool `{}` is ready: start one, or submit the job to another pool.", job.pool);
    }
    let workers = if workers == 1 { "1 worker".to_owned() } else { format!("{workers} workers") };
    if used >= slots {
        format!(
            "All {slots} slots of {workers} are in use: it is taken when one becomes free and nothing more urgent waits."
        )
    } else {
        format!("{} of {slots} slots of {workers} are free: it should be taken within a moment.", slots - used)
    }
}

/// Whose turn it is, where several tenants wait for the same workers. One tenant is told nothing of another.
fn turn(job: &JobView, around: &Surroundings) -> Option<String> {
    /// Tenants that are named at most.
    const NAMED_MAX: usize = 5;
    let turns = &around.circumstances.turns;
    let own = turns.iter().position(|turn| Some(&turn.tenant) == job.tenant.as_ref()).filter(|_| turns.len() > 1)?;
    let told =
        |turn: &TenantTurn| format!("tenant {} has {} running with weight {}", turn.tenant, turn.running, turn.weight);
    if !around.sees_all {
        let next = if own == 0 { "the next turn is its own" } else { "others come before it" };
        return Some(format!(
            "It waits for its turn: jobs of other tenants wait there too; {}, {next}.",
            told(&turns[own])
        ));
    }
    let first = turns.iter().enumerate().filter(|(at, _)| *at < NAMED_MAX || *at == own).map(|(_, turn)| told(turn));
    let first: Vec<String> = first.collect();
    let more = turns.len() - first.len();
    let more = if more > 0 { format!(", and {more} more tenants wait") } else { String::new() };
    Some(format!(
        "It waits for its turn: {}{more}. The next turn is that of tenant {}.",
        first.join(", "),
        turns[0].tenant
    ))
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

fn attempt_ended(attempt: &AttemptView, events: &[EventView]) -> Option<String> {
    let ran = span(attempt.started_at, attempt.ended_at?);
    let AttemptView { attempt: number, worker, failure, .. } = attempt;
    let head = format!("Attempt {number} on worker {worker} ended after {ran}");
    let decided = decided(*number, events);
    Some(match (attempt.outcome.as_deref()?, failure) {
        ("failed", Some(failure)) => {
            let is_free = failure.cause.policy() == RetryPolicy::Free;
            let cost = if is_free { "It cost nothing" } else { "It counts as a failure" };
            format!(
                "{head}. {} The {} has to act. {cost}{decided}. {}",
                told(failure),
                blamed(failure.cause.blame()),
                failure.cause.cure()
            )
        }
        ("lapsed", _) => format!("{head}, because the worker fell silent; it cost no failure{decided}."),
        ("released", _) => format!("{head}: it was handed back unfinished; it cost no failure{decided}."),
        (outcome, _) => format!("{head}: {outcome}."),
    })
}

/// What the ledger made of the end of an attempt.
fn decided(attempt: u32, events: &[EventView]) -> &'static str {
    let ends = ["failed", "lapse", "released", "cancel_done"];
    let Some(end) = events.iter().find(|event| event.attempt == attempt && ends.contains(&event.kind.as_str())) else {
        return "";
    };
    match end.state {
        State::Delayed => ", and the job was to be tried again after a pause",
        State::Queued => ", and the job was to be tried again at once",
        State::Failed => ", and the job was parked",
        State::Cancelled => ", and the job was cancelled",
        State::Blocked | State::Running | State::Cancelling | State::Completed | State::Rejected => "",
    }
}

/// What people did, and what the placing of the job came to.
fn control(event: &EventView) -> Option<String> {
    let text = |key: &str| event.detail.get(key).and_then(serde_json::Value::as_str);
    let by = text("by").map_or_else(String::new, |by| format!(" by {by}"));
    let why = text("reason").map_or_else(String::new, |reason| format!(": {reason}"));
    match event.kind.as_str() {
        "split" => {
            let number = |key: &str| event.detail.get(key).and_then(serde_json::Value::as_u64).unwrap_or(0);
            let (missing, chunks) = (number("missing"), number("chunks"));
            Some(format!("At {} it was split into {chunks} chunks, of which {missing} had to be made.", event.at))
        }
        "pause" => Some(format!("It was paused{by} at {}{why}.", event.at)),
        "resume" => Some(format!("It was resumed{by} at {}{why}.", event.at)),
        "parents_done" => Some(format!("At {} every job it depends on had completed.", event.at)),
        "parent_failed" => Some(format!("At {} a job it depends on had ended without completing{why}.", event.at)),
        "deadline_passed" => Some(format!("Its deadline passed at {}{why}.", event.at)),
        "cancel" => Some(format!("A cancel was asked for{by} at {}{why}.", event.at)),
        "finish" => Some(format!("It was asked{by} at {} to end with what it has.", event.at)),
        "redrive" => Some(format!("It was sent round again{by} at {}{why}.", event.at)),
        "unfit" => Some(format!("At {} it did not fit the worker that received it{why}.", event.at)),
        "offer" => Some(format!("At {} it was offered to worker {}.", event.at, text("worker").unwrap_or("?"))),
        "offer_declined" => Some(format!("At {} the offer came to nothing{why}.", event.at)),
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
                part_of: None,
                chunks: None,
                failure: None,
                reason: None,
                faults: Vec::new(),
                cost: None,
                energy_joules: None,
                trace_id: None,
            },
            spec: None,
            attempts: Vec::new(),
            events: Vec::new(),
            manifest: None,
            callbacks: Vec::new(),
            trace_url: None,
            has_thumbnail: false,
        }
    }

    #[test]
    fn a_waiting_job_names_what_it_lacks() {
        let waiting = job(State::Queued);
        let with = |workers, slots, used| {
            let around = Surroundings { room: Room { workers, slots, used }, ..Surroundings::default() };
            sentences(&waiting, &around, at(90)).join(" ")
        };
        assert!(with(0, 0, 0).contains("No worker of pool `cpu` is ready"), "{}", with(0, 0, 0));
        assert!(with(1, 2, 2).contains("All 2 slots of 1 worker are in use"));
        assert!(with(3, 6, 1).contains("5 of 6 slots of 3 workers are free"));
        assert!(with(0, 0, 0).contains("recorded 1 min 30 s ago"));
    }

    #[test]
    fn where_tenants_take_turns_a_job_says_whose_the_next_is_and_to_a_tenant_nothing_of_others() {
        let mut waiting = job(State::Queued);
        waiting.job.tenant = Some("a".into());
        let turn = |tenant: &str, weight, running| TenantTurn { tenant: tenant.into(), weight, running };
        let told = |turns: &[TenantTurn], sees_all| {
            let circumstances = Circumstances { turns: turns.to_vec(), ..Circumstances::default() };
            sentences(&waiting, &Surroundings { circumstances, sees_all, ..Surroundings::default() }, at(90)).join(" ")
        };
        let both = [turn("b", 3, 7), turn("a", 1, 3)];
        let said = told(&both, true);
        let expected = "It waits for its turn: tenant b has 7 running with weight 3, tenant a has 3 running with weight 1. The next turn is that of tenant b.";
        assert!(said.contains(expected), "{said}");
        let own = told(&both, false);
        assert!(own.contains("tenant a has 3 running with weight 1, others come before it"), "{own}");
        assert!(!own.contains("tenant b") && !own.contains('7'), "{own}");
        assert!(!told(&both[1..], true).contains("turn"), "nobody else waits");
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
            cost: None,
            span_id: None,
        };
        failed.attempts = vec![
            attempt(1, "failed", Some(failure.clone())),
            attempt(2, "lapsed", None),
            attempt(3, "failed", Some(failure)),
        ];
        let event = |secs: i64, kind: &str, state: State, attempt: u32, detail: serde_json::Value| EventView {
            at: at(secs),
            kind: kind.into(),
            state,
            attempt,
            detail,
        };
        failed.events = vec![
            event(15, "failed", State::Delayed, 1, json!({})),
            event(18, "redrive", State::Queued, 1, json!({"by": "anna", "reason": "more memory"})),
            event(25, "lapse", State::Queued, 2, json!({})),
            event(35, "failed", State::Failed, 3, json!({})),
        ];
        let told = sentences(&failed, &Surroundings::default(), at(100));
        assert!(told[0].contains("it happened a second time"), "{told:#?}");
        assert!(told[1].contains("Cause 4001 (oom)") && told[1].contains("out of memory"), "{told:#?}");
        assert!(told[2].contains("Raise resource_limits.max_memory_mb."), "{told:#?}");
        let order: Vec<&str> = ["Attempt 1", "sent round again by anna", "Attempt 2", "Attempt 3"].into();
        for (sentence, expected) in told[3..].iter().zip(order) {
            assert!(sentence.contains(expected), "{told:#?}");
        }
        assert!(told[3].contains("The author of the job has to act."), "{told:#?}");
        assert!(told[3].contains("to be tried again after a pause. Raise resource_limits.max_memory_mb."), "{told:#?}");
        assert!(told[5].contains("cost no failure, and the job was to be tried again at once"), "{told:#?}");
        assert!(told[6].contains("and the job was parked"), "{told:#?}");
    }

    #[test]
    fn what_holds_a_waiting_job_back_is_told_one_by_one() {
        let mut waiting = job(State::Queued);
        waiting.job.paused = true;
        waiting.job.deadline = Some(at(150));
        let around = Surroundings {
            queue_pause: Some((at(60), "paused by ben: the archive is full".into())),
            circumstances: Circumstances {
                losses: 2,
                is_alone: true,
                raised_memory_mb: Some(2048),
                fell_back: true,
                ..Circumstances::default()
            },
            ..Surroundings::default()
        };
        let told = sentences(&waiting, &around, at(90)).join(" ");
        for expected in [
            "It is paused: it does not start before somebody resumes it",
            "The queue `default` is paused by ben: the archive is full, for 30 s now",
            "2 workers were lost while they ran it, so its next attempt runs alone",
            "the next may use 2048 MiB",
            "the next attempt encodes in software",
            "in 1 min 0 s: if it has not ended by then, it fails",
        ] {
            assert!(told.contains(expected), "{expected} is missing in: {told}");
        }
        assert!(!told.contains("No worker of pool"), "{told}");
    }

    #[test]
    fn a_blocked_job_names_the_parents_that_are_missing() {
        let mut blocked = job(State::Blocked);
        let known = Parent { id: JobId(Uuid::from_u128(1)), known: Some((12, State::Running)) };
        let unknown = Parent { id: JobId(Uuid::from_u128(2)), known: None };
        blocked.job.depends_on = vec![known.id, unknown.id];
        let with = |missing: &[Parent]| {
            let circumstances = Circumstances { missing: missing.to_vec(), ..Circumstances::default() };
            sentences(&blocked, &Surroundings { circumstances, ..Surroundings::default() }, at(90)).join(" ")
        };
        let told = with(&[known, unknown]);
        assert!(told.contains("#12 (00000000-0000-0000-0000-000000000001), which is running"), "{told}");
        assert!(told.contains("00000000-0000-0000-0000-000000000002, which nobody has handed in yet"), "{told}");
        assert!(with(&[]).contains("should go on within a moment"));
    }

    #[test]
    fn a_job_in_chunks_says_how_far_they_are() {
        let mut split = job(State::Blocked);
        split.job.chunks = Some(ChunksView { done: 3, running: 2, total: 12, percent: 33.3 });
        let told = sentences(&split, &Surroundings::default(), at(90)).join(" ");
        assert!(told.contains("3 of 12 are done, 2 are being made (33 % of the whole)"), "{told}");
    }

    #[test]
    fn an_offered_job_says_who_keeps_room_for_it() {
        let mut offered = job(State::Delayed);
        offered.job.reason = Some("offered to worker big, which waits until 4 slots are free".into());
        let circumstances = Circumstances { is_offered: true, ..Circumstances::default() };
        let around = Surroundings { circumstances, ..Surroundings::default() };
        let told = sentences(&offered, &around, at(90));
        assert_eq!(told, ["It is offered to worker big, which waits until 4 slots are free."]);
    }

    #[test]
    fn a_frozen_job_says_for_whom() {
        let mut running = job(State::Running);
        let told = |running: &JobDetail| sentences(running, &Surroundings::default(), at(90)).join(" ");
        assert!(!told(&running).contains("frozen"));
        running.job.frozen_since = Some(at(80));
        assert!(told(&running).contains("It is frozen for 10 s, to make room for a more urgent job"));
        running.job.paused = true;
        running.job.reason = Some("paused by anna".into());
        assert!(told(&running).contains("because somebody paused it (paused by anna)"));
        running.job.frozen_since = None;
        assert!(told(&running).contains("has not reported that yet"));
    }
}
