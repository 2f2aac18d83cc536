//! Follows a job on the terminal: a bar where somebody looks, a line every few seconds where not, then the outcome.
//!
//! Invariant: everything on the way goes to standard error, only the outcome to standard output.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use ffpool::{ApiError, Heard};
use ffpool_schema::api::{ChunksView, JobDetail, JobView, StreamEvent};
use ffpool_schema::id::JobId;
use ffpool_schema::lifecycle::State;
use ffpool_schema::message::{Artifact, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit::{Exit, Trouble};
use super::{Context, format, output};

/// Between two lines where nobody looks at a bar.
const LINE_EVERY: Duration = Duration::from_secs(3);
/// For a job published to RabbitMQ to appear in the ledger.
const APPEARS: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The bar counts tenths of a percent.
const BAR_LENGTH: u64 = 1000;

/// Ctrl-C from now on, none lost between two waits.
pub(crate) fn interrupts() -> Result<Signal, Trouble> {
    signal(SignalKind::interrupt()).map_err(|error| Trouble::new(Exit::Trouble, format!("listen for Ctrl-C: {error}")))
}

/// Waits until the ledger knows a job.
pub(crate) async fn until_known(context: &Context, job: JobId) -> Result<(), Trouble> {
    let client = context.client()?;
    let mut interrupts = interrupts()?;
    let since = Instant::now();
    loop {
        match client.job(job).await {
            Ok(_) => return Ok(()),
            Err(error) if error.status() == Some(404) && since.elapsed() < APPEARS => {
                tokio::select! {
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                    _ = interrupts.recv() => return Err(interrupted(job)),
                }
            }
            Err(error) if error.status() == Some(404) => {
                return Err(Trouble::new(
                    Exit::Unreachable,
                    format!("job {job} is published, but no dispatcher has recorded it within {} s", APPEARS.as_secs()),
                )
                .next("Start a dispatcher on the same RabbitMQ; the job waits in its queue."));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Follows a job to its end and prints the outcome.
pub(crate) async fn watch(context: &Context, job: JobId) -> Result<Exit, Trouble> {
    let client = context.client()?;
    let mut interrupts = interrupts()?;
    let mut events = client.events(job);
    let mut display = Display::open();
    let end = loop {
        let heard = tokio::select! {
            heard = events.next() => heard.map_err(|error| gone(error, job))?,
            _ = interrupts.recv() => {
                display.close();
                return Err(interrupted(job));
            }
        };
        match heard {
            Heard::Event(StreamEvent::Job(view)) if view.state.is_end() => break view.state,
            Heard::Event(StreamEvent::Job(view)) => display.job(&view),
            Heard::Event(StreamEvent::Progress(progress)) => display.progress(&progress),
            Heard::Interrupted(reason) => display.interrupted(&reason),
        }
    };
    display.close();
    let detail = client.job(job).await?;
    context.format.print(&detail, outcome);
    // The end that was seen: somebody may have sent the job round again since.
    Ok(Exit::of(end))
}

fn interrupted(job: JobId) -> Trouble {
    Trouble::new(Exit::Interrupted, "watching was interrupted; the job goes on")
        .next(format!("Follow it with `ffpool jobs watch {job}`, end it with `ffpool jobs cancel {job}`."))
}

fn gone(error: ApiError, job: JobId) -> Trouble {
    let unreachable = matches!(error, ApiError::Unreachable { .. });
    let trouble = Trouble::from(error);
    if unreachable {
        trouble.next(format!("The job goes on without it; later: `ffpool jobs show {job}`."))
    } else {
        trouble
    }
}

/// What is shown on the way.
enum Display {
    /// Somebody looks: one line that changes, laid out for 80 columns.
    Bar { bar: ProgressBar, number: i64 },
    /// Nobody looks: lines, not too many.
    Lines { last_state: Option<(State, u32)>, last_line: Option<Instant> },
}

impl Display {
    fn open() -> Display {
        if !std::io::stderr().is_terminal() {
            return Display::Lines { last_state: None, last_line: None };
        }
        let bar = ProgressBar::with_draw_target(Some(BAR_LENGTH), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{spinner} #{prefix} [{bar:16}] {wide_msg}")
            .expect("the template is a constant")
            .progress_chars("=> ");
        bar.set_style(style);
        bar.enable_steady_tick(Duration::from_millis(120));
        Display::Bar { bar, number: 0 }
    }

    fn job(&mut self, job: &JobView) {
        match self {
            Display::Bar { bar, number } => {
                *number = job.number;
                match job.progress.as_ref().filter(|_| job.state == State::Running) {
                    Some(progress) => show(bar, *number, progress),
                    None => {
                        let percent = made_in_chunks(job).map_or(0.0, |chunks| chunks.percent);
                        bar.set_prefix(format!("{number} {}", job.state));
                        bar.set_position((percent.clamp(0.0, 100.0) * 10.0) as u64);
                        bar.set_message(waiting(job));
                    }
                }
            }
            Display::Lines { last_state, last_line } => {
                let is_due = made_in_chunks(job).is_some() && last_line.is_none_or(|at| at.elapsed() >= LINE_EVERY);
                if last_state.replace((job.state, job.attempt)) != Some((job.state, job.attempt)) || is_due {
                    eprintln!("#{} {}{}", job.number, job.state, lead(" ", &waiting(job)));
                    *last_line = Some(Instant::now());
                }
            }
        }
    }

    fn progress(&mut self, progress: &Progress) {
        match self {
            Display::Bar { bar, number } => show(bar, *number, progress),
            Display::Lines { last_line, .. } => {
                if last_line.is_none_or(|at| at.elapsed() >= LINE_EVERY) {
                    eprintln!("{}  {}", format::percent(progress).trim_start(), format::progress(progress));
                    *last_line = Some(Instant::now());
                }
            }
        }
    }

    fn interrupted(&mut self, reason: &str) {
        match self {
            Display::Bar { bar, .. } => bar.set_message(format!("connecting again: {reason}")),
            Display::Lines { .. } => eprintln!("connecting again: {reason}"),
        }
    }

    fn close(&mut self) {
        if let Display::Bar { bar, .. } = self {
            bar.finish_and_clear();
        }
    }
}

fn show(bar: &ProgressBar, number: i64, progress: &Progress) {
    bar.set_prefix(format!("{number} {}", format::phase(progress.phase)));
    bar.set_position(progress.percent.map_or(0, |percent| (percent.clamp(0.0, 100.0) * 10.0) as u64));
    bar.set_message(format!("{}  {}", format::percent(progress), format::rates(progress)));
}

fn lead(separator: &str, text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{separator}{text}") }
}

/// How far the chunks are of a job that waits for them.
fn made_in_chunks(job: &JobView) -> Option<ChunksView> {
    job.chunks.filter(|_| job.state == State::Blocked)
}

/// What a job that makes no progress waits for.
fn waiting(job: &JobView) -> String {
    let reason = job.reason.clone().unwrap_or_default();
    match job.state {
        State::Queued => format!("in {}/{}{}", job.queue, job.priority, lead(": ", &reason)),
        State::Running => {
            let worker = job.worker.as_ref().map(|worker| format!(" on {worker}")).unwrap_or_default();
            format!("attempt {}{worker}", job.attempt)
        }
        State::Delayed => {
            let due = job.due_at.map(|at| format!("until {}", format::clock(at))).unwrap_or_default();
            let why = job.failure.as_ref().map_or(reason, |failure| failure.message.clone());
            format!("{due}{}", lead(": ", &why))
        }
        State::Blocked => made_in_chunks(job).map_or(reason, |chunks| format::chunks(&chunks)),
        State::Cancelling => reason,
        State::Completed | State::Failed | State::Cancelled | State::Rejected => String::new(),
    }
}

/// How a job ended, for people.
pub(crate) fn outcome(detail: &JobDetail) -> String {
    let job = &detail.job;
    let took = job
        .ended_at
        .map(|end| format!(" after {}", format::duration(format::seconds_between(job.created_at, end))))
        .unwrap_or_default();
    let attempts = match job.attempt {
        0 => String::new(),
        1 => ", 1 attempt".to_owned(),
        many => format!(", {many} attempts"),
    };
    let mut text = format!("job #{} {}{took}{attempts}\n", job.number, job.state);
    let mut fields: Vec<(&str, String)> = Vec::new();
    if job.state == State::Completed {
        for artifact in detail.manifest.iter().flat_map(|manifest| &manifest.artifacts) {
            fields.push(("output", artifact.url.clone()));
            fields.push(("", describe(artifact)));
        }
    } else if let Some(failure) = &job.failure {
        fields.push(("cause", format!("{} ({})", failure.cause, failure.cause.code())));
        fields.push(("message", failure.message.clone()));
        fields.push(("evidence", failure.evidence.clone().unwrap_or_default()));
        fields.push(("cure", failure.cause.cure().to_owned()));
    }
    if job.state != State::Completed {
        fields.push(("reason", job.reason.clone().unwrap_or_default()));
        fields.extend(job.faults.iter().map(|fault| ("fault", fault.to_string())));
    }
    text.push_str(&output::fields(&fields));
    text
}

/// Size, codec, frame and length of a file.
pub(crate) fn describe(artifact: &Artifact) -> String {
    let mut parts: Vec<String> = artifact.name.iter().cloned().collect();
    parts.push(format::bytes(artifact.size_bytes));
    if let Some(video) = &artifact.probe.video {
        let rate = video.fps.map(|fps| format!(" {} fps", (fps * 1000.0).round() / 1000.0)).unwrap_or_default();
        parts.push(format!("{} {}x{}{rate}", video.codec, video.width, video.height));
    }
    if let Some(audio) = &artifact.probe.audio {
        parts.push(audio.codec.clone());
    }
    if let Some(pictures) = &artifact.pictures {
        parts.push(format!("{} pictures in {} files", pictures.count, pictures.files));
    }
    if let Some(secs) = artifact.probe.duration_secs {
        parts.push(format!("{secs:.2} s long"));
    }
    parts.join(", ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use ffpool_schema::failure::{Cause, Failure};
    use ffpool_schema::message::{Manifest, Probe, Usage, VideoProbe};
    use jiff::Timestamp;

    pub(crate) fn job(state: State) -> JobDetail {
        JobDetail {
            job: JobView {
                paused: false,
                frozen_since: None,
                deadline: None,
                depends_on: Vec::new(),
                id: JobId(uuid::Uuid::from_u128(1)),
                number: 17,
                state,
                queue: "default".into(),
                priority: "medium".into(),
                pool: "cpu".into(),
                scenario: "720p30-h264".into(),
                tenant: None,
                labels: Default::default(),
                attempt: 1,
                failures: 0,
                max_retries: 3,
                worker: Some("w1".parse().unwrap()),
                custody: None,
                created_at: Timestamp::from_second(1000).unwrap(),
                due_at: None,
                started_at: Some(Timestamp::from_second(1001).unwrap()),
                ended_at: state.is_end().then(|| Timestamp::from_second(1065).unwrap()),
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
    fn a_completed_job_says_where_its_output_is() {
        let mut detail = job(State::Completed);
        let video =
            VideoProbe { codec: "h264".into(), width: 1280, height: 720, fps: Some(30.0), ..VideoProbe::default() };
        let probe = Probe { video: Some(video), duration_secs: Some(10.0), ..Probe::default() };
        detail.manifest = Some(Manifest {
            job: detail.job.id,
            attempt: 1,
            worker: "w1".parse().unwrap(),
            at: detail.job.created_at,
            version: "0".into(),
            tool: "ffmpeg".into(),
            arguments: Vec::new(),
            steps: Vec::new(),
            prober: None,
            sandbox: Vec::new(),
            device: None,
            fallback: None,
            engine: None,
            checker: None,
            source_probe: None,
            chunks: Vec::new(),
            artifacts: vec![Artifact {
                name: None,
                files: Vec::new(),
                renditions: Vec::new(),
                pictures: None,
                proof: None,
                quality: None,
                url: "file:///media/out.mp4".into(),
                size_bytes: 2048,
                sha256: "00".into(),
                probe,
            }],
            source: None,
            usage: Usage::default(),
            live: None,
        });
        assert_eq!(
            outcome(&detail),
            "job #17 completed after 1m 05s, 1 attempt\n\
             output  file:///media/out.mp4\n        2.0 KiB, h264 1280x720 30 fps, 10.00 s long\n"
        );
    }

    #[test]
    fn a_failed_job_says_why_and_what_to_do() {
        let mut detail = job(State::Failed);
        detail.job.failure = Some(Failure::new(Cause::Oom, "ffmpeg used more than 64 MiB"));
        let text = outcome(&detail);
        for word in ["failed", "oom (4001)", "more than 64 MiB", "max_memory_mb"] {
            assert!(text.contains(word), "{word} is missing in:\n{text}");
        }
    }

    #[test]
    fn a_waiting_job_says_what_for() {
        let mut view = job(State::Queued).job;
        assert_eq!(waiting(&view), "in default/medium");
        view.state = State::Running;
        assert_eq!(waiting(&view), "attempt 1 on w1");
    }
}
