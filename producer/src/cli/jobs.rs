//! `jobs`: look at jobs and change them.

use std::time::Duration;

use ffpool::{Client, Heard, JobFilter, JobName};
use ffpool_broker::Signals;
use ffpool_runtime::settings::chain;
use ffpool_schema::api::{AttemptView, CallbackView, EventView, JobDetail, JobView, Page, StreamEvent};
use ffpool_schema::job::JobSpec;
use ffpool_schema::lifecycle::State;
use ffpool_schema::message::{CrfSearch, LogLine, Quality, VmafScores};
use ffpool_schema::subjects;
use jiff::Timestamp;
use serde::Serialize;

use super::args::{Filter, List, Log};
use super::exit::{Exit, Trouble};
use super::output::{Format, fields, line, table};
use super::progress::Progress;
use super::{Context, format, watch as watching};

/// Widest text of one column.
pub(crate) const COLUMN: usize = 40;
/// Why parsing an option's value cannot fail.
const KNOWN: &str = "clap accepts known names only";
/// After a job's end, for the last lines of its log to arrive.
const LOG_TAIL: Duration = Duration::from_millis(500);

pub(crate) async fn list(context: &Context, list: List) -> Result<Exit, Trouble> {
    let client = context.client()?;
    let all = list.filter.all;
    let mut filter = filter(list.filter);
    filter.part_of = list.part_of;
    filter.status = list.status.map(|text| text.parse().expect(KNOWN));
    let progress = Progress::busy("asking for jobs");
    let mut page = client.jobs(&filter).await?;
    while all && page.next.is_some() {
        filter.cursor = page.next.take();
        append(&mut page, client.jobs(&filter).await?);
        progress.say(&format!("asking for jobs, {} so far", page.items.len()));
    }
    drop(progress);
    context.format.print(&page, |page| listed(page, Timestamp::now()));
    Ok(Exit::Success)
}

/// What the options say.
pub(crate) fn filter(given: Filter) -> JobFilter {
    JobFilter {
        status: None,
        queue: given.queue.map(|text| text.parse().expect(KNOWN)),
        priority: given.priority.map(|text| text.parse().expect(KNOWN)),
        worker: given.worker,
        label: given.label.map(|(key, value)| format!("{key}:{value}")),
        tenant: given.tenant,
        since: given.since,
        cause: given.cause,
        search: given.search,
        part_of: None,
        fingerprint: None,
        limit: Some(given.limit),
        cursor: given.cursor,
    }
}

/// Adds the next page.
pub(crate) fn append(page: &mut Page<JobView>, more: Page<JobView>) {
    page.items.extend(more.items);
    page.next = more.next;
    page.searched = more.searched;
}

fn listed(page: &Page<JobView>, now: Timestamp) -> String {
    let rows = page.items.iter().map(|job| {
        let percent = job.progress.as_ref().filter(|_| job.state == State::Running);
        [
            format!("#{}", job.number),
            job.id.to_string(),
            state(job),
            format!("{}/{}", job.queue, job.priority),
            format::cut(&job.scenario, COLUMN),
            match (percent, job.chunks.filter(|_| job.state == State::Blocked)) {
                (Some(progress), _) => format::percent(progress).trim().to_owned(),
                (None, Some(chunks)) => format!("{:.1}%", chunks.percent),
                (None, None) => String::new(),
            },
            job.worker.as_ref().map(ToString::to_string).unwrap_or_default(),
            job.cost.as_ref().map(|cost| format!("{:.4} {}", cost.amount, cost.currency)).unwrap_or_default(),
            format::ago(job.created_at, now),
        ]
    });
    let text = table(["no", "id", "state", "queue", "scenario", "done", "worker", "cost", "recorded"], rows);
    with_rest(text, page, "No job fits.")
}

/// The state, and whether the job is paused or frozen in it.
fn state(job: &JobView) -> String {
    match (job.paused, job.frozen_since) {
        (true, _) => format!("{}, paused", job.state),
        (false, Some(_)) => format!("{}, frozen", job.state),
        (false, None) => job.state.to_string(),
    }
}

/// A list with how to see more of it, or what to say when it is empty.
pub(crate) fn with_rest<T>(text: String, page: &Page<T>, none: &str) -> String {
    let back_to = page.searched.and_then(|searched| searched.back_to);
    match (&page.next, back_to) {
        (None, _) if page.items.is_empty() => none.to_owned(),
        (None, _) => text,
        (Some(cursor), None) => format!("{text}\nThere are more: --cursor {cursor}, or --all."),
        (Some(cursor), Some(at)) => {
            let found = if page.items.is_empty() { none.to_owned() } else { text };
            let at = format::clock(at);
            format!("{found}\nSearched back to {at}. To search further: --cursor {cursor}, or --all.")
        }
    }
}

pub(crate) async fn show(context: &Context, job: JobName) -> Result<Exit, Trouble> {
    let detail = context.client()?.job(job).await?;
    context.format.print(&detail, |detail| shown(detail, Timestamp::now()));
    Ok(Exit::Success)
}

/// Scores of an output, and how its CRF was found.
fn quality(found: &Quality) -> Vec<String> {
    let mut scores = Vec::new();
    if let Some(vmaf) = &found.vmaf {
        let VmafScores { mean, harmonic_mean, p1, p5, min, .. } = vmaf;
        scores.push(format!("vmaf {mean:.2} (harmonic {harmonic_mean:.2}, p1 {p1:.2}, p5 {p5:.2}, min {min:.2})"));
    }
    scores.extend(found.psnr.map(|psnr| format!("psnr {:.2} dB (min {:.2})", psnr.mean, psnr.min)));
    scores.extend(found.ssim.map(|ssim| format!("ssim {ssim:.4}")));
    let Quality { frames, every, width, height, .. } = found;
    let mut lines = vec![format!("{}; {frames} frames, 1 of {every}, at {width}x{height}", scores.join(", "))];
    if let Some(search) = &found.search {
        let trials: Vec<String> =
            search.trials.iter().map(|trial| format!("{} at {:.3}", trial.crf, trial.score)).collect();
        let CrfSearch { metric, aim, crf, .. } = search;
        lines.push(format!("crf {crf} for {metric} {aim}; tried {}", trials.join(", ")));
    }
    lines
}

fn shown(detail: &JobDetail, now: Timestamp) -> String {
    let job = &detail.job;
    let at = |at: Option<Timestamp>| {
        at.map(|at| format!("{} ({})", format::clock(at), format::ago(at, now))).unwrap_or_default()
    };
    let labels: Vec<String> = job.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let spec = detail.spec.as_ref();
    let address = |text: Option<&String>| text.cloned().unwrap_or_default();
    let stated = |of: fn(&JobSpec) -> Option<String>| spec.and_then(of).unwrap_or_default();
    let mut list = vec![
        ("job", format!("#{}", job.number)),
        ("id", job.id.to_string()),
        ("state", state(job)),
        ("reason", job.reason.clone().unwrap_or_default()),
        ("scenario", job.scenario.clone()),
        ("input", address(spec.and_then(|spec| spec.input.as_ref()))),
        ("input sha256", stated(|spec| spec.input_sha256.as_ref().map(ToString::to_string))),
        ("input size", stated(|spec| spec.input_size_bytes.map(|bytes| format!("{bytes} bytes")))),
        ("output", address(spec.and_then(|spec| spec.output.as_ref()))),
        ("queue", format!("{}/{}, pool {}", job.queue, job.priority, job.pool)),
        ("tenant", job.tenant.clone().unwrap_or_default()),
        ("labels", labels.join(" ")),
        ("worker", job.worker.as_ref().map(ToString::to_string).unwrap_or_default()),
        (
            "attempts",
            format!("{}, {} of {} retries used", job.attempt, job.failures.min(job.max_retries), job.max_retries),
        ),
        ("recorded", at(Some(job.created_at))),
        ("due", job.due_at.filter(|_| job.state == State::Delayed).map(format::clock).unwrap_or_default()),
        ("deadline", job.deadline.map(format::clock).unwrap_or_default()),
        ("waits for", job.depends_on.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")),
        ("chunk of", job.part_of.map(|whole| whole.to_string()).unwrap_or_default()),
        ("chunks", job.chunks.as_ref().map(format::chunks).unwrap_or_default()),
        ("frozen", at(job.frozen_since)),
        ("started", at(job.started_at)),
        ("ended", at(job.ended_at)),
    ];
    if let Some(progress) = job.progress.as_ref().filter(|_| job.state == State::Running) {
        list.push(("progress", format!("{}  {}", format::percent(progress).trim(), format::progress(progress))));
    }
    // What an earlier attempt of a completed job died of needs no cure; it stands with the attempt.
    if let Some(failure) = job.failure.as_ref().filter(|_| job.state != State::Completed) {
        list.push(("cause", format!("{} ({})", failure.cause, failure.cause.code())));
        list.push(("message", failure.message.clone()));
        list.push(("evidence", failure.evidence.clone().unwrap_or_default()));
        list.push(("cure", failure.cause.cure().to_owned()));
    }
    list.extend(job.faults.iter().map(|fault| ("fault", fault.to_string())));
    for artifact in detail.manifest.iter().flat_map(|manifest| &manifest.artifacts) {
        list.push(("artifact", artifact.url.clone()));
        list.push(("", watching::describe(artifact)));
        list.push(("sha256", artifact.sha256.clone()));
        list.extend(artifact.quality.iter().flat_map(quality).map(|text| ("quality", text)));
    }
    if let Some(cost) = &job.cost {
        let lacking = [(cost.unmeasured, "not measured"), (cost.unpriced, "without these prices")];
        let lacking = lacking.into_iter().filter(|(count, _)| *count > 0);
        let lacking: String = lacking.map(|(count, why)| format!(", {count} attempts were {why}")).collect();
        list.push(("cost", format!("{:.4} {}{lacking}", cost.amount, cost.currency)));
    }
    if let Some(joules) = job.energy_joules {
        list.push(("energy", format::energy(joules)));
    }
    list.push(("trace", job.trace_id.clone().unwrap_or_default()));
    list.push(("", detail.trace_url.clone().unwrap_or_default()));
    let mut text = fields(&list);
    if !detail.attempts.is_empty() {
        text.push('\n');
        text.push_str(&attempts(&detail.attempts, now));
        text.push('\n');
    }
    if !detail.callbacks.is_empty() {
        text.push('\n');
        text.push_str(&callbacks(&detail.callbacks));
        text.push('\n');
    }
    if !detail.events.is_empty() {
        text.push('\n');
        text.push_str(&history(&detail.events));
    }
    text
}

fn attempts(attempts: &[AttemptView], now: Timestamp) -> String {
    let rows = attempts.iter().map(|attempt| {
        let end = attempt.ended_at.unwrap_or(now);
        let usage = attempt.usage.as_ref();
        let why = attempt.failure.as_ref().map(|failure| format!("{}: {}", failure.cause, failure.message));
        [
            attempt.attempt.to_string(),
            attempt.worker.to_string(),
            format::clock(attempt.started_at),
            format::duration(format::seconds_between(attempt.started_at, end)),
            usage.map(|usage| format::duration(usage.cpu_ms as f64 / 1000.0)).unwrap_or_default(),
            usage.and_then(|usage| usage.peak_memory_bytes).map(format::bytes).unwrap_or_default(),
            usage.and_then(|usage| usage.energy_joules).map(format::energy).unwrap_or_default(),
            attempt.cost.as_ref().map(|cost| format!("{:.4} {}", cost.amount, cost.currency)).unwrap_or_default(),
            attempt.outcome.clone().unwrap_or_else(|| "running".to_owned()),
            why.unwrap_or_default(),
        ]
    });
    table(["attempt", "worker", "began", "took", "cpu", "memory", "energy", "cost", "outcome", "why"], rows)
}

/// Each callback with its last try.
fn callbacks(callbacks: &[CallbackView]) -> String {
    let rows = callbacks.iter().map(|callback| {
        let last = callback.tries.last();
        let answer = last.and_then(|last| last.status).map(|status| status.to_string()).unwrap_or_default();
        let why = last.and_then(|last| last.error.clone()).unwrap_or_default();
        [
            format::clock(callback.ended_at),
            callback.state.to_string(),
            callback.url.clone(),
            callback.outcome.clone().unwrap_or_else(|| "waiting".to_owned()),
            last.map(|last| last.number.to_string()).unwrap_or_default(),
            [answer, why].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": "),
        ]
    });
    table(["callback of", "state", "to", "outcome", "tries", "last answer"], rows)
}

fn history(events: &[EventView]) -> String {
    let rows = events.iter().map(|event| {
        [
            format::clock(event.at),
            event.kind.clone(),
            event.state.to_string(),
            event.attempt.to_string(),
            format::cut(&format::facts(&event.detail), 2 * COLUMN),
        ]
    });
    table(["at", "what", "state", "attempt", "more"], rows)
}

pub(crate) async fn watch(context: &Context, job: JobName) -> Result<Exit, Trouble> {
    // Asked first, so that a wrong name or a server that is away is told at once.
    let detail = context.client()?.job(job).await?;
    watching::watch(context, detail.job.id).await
}

pub(crate) async fn log(context: &Context, args: Log) -> Result<Exit, Trouble> {
    let client = context.client()?;
    if args.follow {
        return follow_log(context, &client, &args).await;
    }
    let lines = client.log(args.job, args.attempt, Some(args.lines)).await?;
    context.format.print(&lines, |lines| {
        if lines.is_empty() {
            return "Its tool has written nothing that was kept.".to_owned();
        }
        lines.iter().map(|said| format!("{}\n", said.line)).collect()
    });
    Ok(Exit::Success)
}

/// Prints lines as the tool writes them, until the job ends.
async fn follow_log(context: &Context, client: &Client, args: &Log) -> Result<Exit, Trouble> {
    let url = context.connection.nats_url.as_deref().filter(|url| !url.is_empty()).ok_or_else(|| {
        Trouble::usage("--follow needs NATS' address").next("Give it with --nats-url or FFPOOL_NATS_URL.")
    })?;
    let job = client.job(args.job).await?.job.id;
    let unreachable = |what: String| Trouble::new(Exit::Unreachable, what).next("`ffpool doctor` looks closer.");
    let signals = Signals::open(url, "ffpool log").await.map_err(|error| unreachable(chain(&error)))?;
    let subject = subjects::log(job);
    let mut lines = signals.subscribe::<LogLine>(&subject).await.map_err(|error| unreachable(chain(&error)))?;
    // Asked after the subscription began, so that no line falls between the two; one may come twice.
    let mut printed = (0, 0);
    for said in client.log(job, args.attempt, Some(args.lines)).await? {
        print_log_line(context, &said);
        printed = (said.attempt, said.seq);
    }
    let mut interrupts = watching::interrupts()?;
    let mut events = client.events(job);
    let mut has_ended = false;
    loop {
        // After the end, what is still on its way gets a moment.
        let tail = async {
            if has_ended {
                tokio::time::sleep(LOG_TAIL).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            heard = lines.next() => match heard {
                Some(said) if (said.attempt, said.seq) <= printed => {}
                Some(said) if args.attempt.is_none_or(|wanted| wanted == said.attempt) => print_log_line(context, &said),
                Some(_) => {}
                None => return Err(unreachable("the subscription to the log ended".to_owned())),
            },
            heard = events.next(), if !has_ended => {
                if let Heard::Event(StreamEvent::Job(view)) = heard? && view.state.is_end() {
                    has_ended = true;
                }
            }
            () = tail => break,
            _ = interrupts.recv() => return Ok(Exit::Interrupted),
        }
    }
    Ok(Exit::Success)
}

/// With JSON one object a line, because nobody knows how many will come.
fn print_log_line(context: &Context, said: &LogLine) {
    match context.format {
        Format::Table => line(&said.line),
        Format::Json => line(&serde_json::to_string(said).expect("a log line is plain text")),
    }
}

pub(crate) async fn explain(context: &Context, job: JobName) -> Result<Exit, Trouble> {
    let explanation = context.client()?.explain(job).await?;
    context.format.print(&explanation, |explanation| explanation.sentences.join("\n"));
    Ok(Exit::Success)
}

/// What is done to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Cancel,
    Finish,
    Forget,
    Pause,
    Resume,
    Retry,
}

/// Changes every job that lets itself be changed; ends with the code of the last that did not.
pub(crate) async fn change(context: &Context, change: Change, jobs: &[JobName]) -> Result<Exit, Trouble> {
    #[derive(Serialize)]
    struct Changed {
        job: String,
        state: Option<String>,
        message: String,
    }
    let client = context.client()?;
    let mut exit = Exit::Success;
    let mut results = Vec::with_capacity(jobs.len());
    let progress = Progress::of(jobs.len(), "jobs");
    for &job in jobs {
        let answer = match change {
            Change::Cancel => client.cancel(job).await,
            Change::Finish => client.finish(job).await,
            Change::Forget => client.forget_files(job).await,
            Change::Pause => client.pause(job).await,
            Change::Resume => client.resume(job).await,
            Change::Retry => client.retry(job).await,
        };
        match answer {
            Ok(accepted) => {
                results.push(Changed { job: job.to_string(), state: Some(accepted.state), message: accepted.message });
            }
            // With one job the error is the result.
            Err(error) if jobs.len() == 1 => return Err(error.into()),
            Err(error) => {
                let trouble = Trouble::from(error);
                exit = trouble.exit;
                results.push(Changed { job: job.to_string(), state: None, message: trouble.what });
            }
        }
        progress.done(1);
    }
    drop(progress);
    context.format.print(&results, |results| {
        results
            .iter()
            .map(|changed| match &changed.state {
                Some(state) => format!("job {}: {state}. {}\n", changed.job, changed.message),
                None => format!("job {}: {}\n", changed.job, changed.message),
            })
            .collect()
    });
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use ffpool_schema::api::Searched;
    use ffpool_schema::failure::{Cause, Failure};

    use super::*;
    use crate::cli::watch::tests::job;

    #[test]
    fn a_list_shows_one_line_a_job_and_how_to_see_more() {
        let page = Page { items: vec![job(State::Running).job], next: Some("abc".into()), searched: None };
        let text = listed(&page, Timestamp::from_second(1060).unwrap());
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("NO "), "{text}");
        assert!(lines[1].contains("running") && lines[1].ends_with("1m 00s ago"), "{text}");
        assert!(lines[2].contains("--cursor abc"), "{text}");
        let none = Page { items: Vec::new(), next: None, searched: None };
        assert_eq!(listed(&none, Timestamp::now()), "No job fits.");
        let searched = Some(Searched { back_to: Some(Timestamp::from_second(1000).unwrap()), is_all: false });
        let text = listed(&Page { next: Some("abc".into()), searched, ..none }, Timestamp::now());
        assert!(text.starts_with("No job fits.\nSearched back to ") && text.contains("--cursor abc"), "{text}");
    }

    #[test]
    fn a_job_that_completed_in_the_end_has_no_cure() {
        let failed = |state| {
            let mut detail = job(state);
            detail.job.failure = Some(Failure::new(Cause::InputMissing, "no such file"));
            shown(&detail, Timestamp::from_second(1060).unwrap())
        };
        assert!(failed(State::Failed).contains("\ncure "), "{}", failed(State::Failed));
        assert!(!failed(State::Completed).contains("\ncure "), "{}", failed(State::Completed));
    }

    #[test]
    fn the_history_reads_in_plain_words() {
        let event = EventView {
            at: Timestamp::from_second(1000).unwrap(),
            kind: "claim".into(),
            state: State::Running,
            attempt: 1,
            detail: serde_json::json!({"worker": "w1", "why": null, "n": 2}),
        };
        let text = history(&[event]);
        assert!(text.contains("claim") && text.contains("n=2 worker=w1") || text.contains("worker=w1 n=2"), "{text}");
    }
}
