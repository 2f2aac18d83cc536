//! `batch`: a list of jobs goes to the pool.
//!
//! Invariant: nothing is sent before the whole list is checked, and a job of the list has the same id however often the
//! list is run: a repeat, after whatever interruption, makes no job twice.

mod checked;
mod list;
mod rate;
mod rows;
mod send;

use std::io::IsTerminal;
use std::time::Duration;

use ffpool_schema::parse::Fault;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};

use super::args::Batch;
use super::exit::{Exit, Trouble};
use super::output::Format;
use super::{Context, submit, wanted};
use checked::{Checked, Entry};
pub(crate) use rate::Rate;
use send::Sender;

/// So many faults are printed for people; `--output json` has all.
const SHOWN_FAULTS: usize = 50;
/// Between two lines where nobody looks at a bar.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// What is wrong with one job of the list.
#[derive(Debug, Serialize)]
pub(crate) struct Invalid {
    /// The line of the list on which it begins.
    pub(crate) line: u64,
    pub(crate) faults: Vec<Fault>,
}

/// One job that is in the pool.
#[derive(Debug, Serialize)]
pub(crate) struct Sent {
    pub(crate) line: u64,
    #[serde(flatten)]
    pub(crate) job: ffpool_schema::api::Submitted,
    /// It was there before this run; absent where RabbitMQ took it, which cannot know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) already: Option<bool>,
}

/// What became of the list.
#[derive(Debug, Serialize)]
struct Report {
    /// Jobs in the list.
    total: usize,
    submitted: Vec<Sent>,
    /// Not valid, and left out.
    invalid: Vec<Invalid>,
    /// Valid, and not sent for certain.
    unsent: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped: Option<String>,
}

pub(crate) async fn batch(context: &Context, args: Batch) -> Result<Exit, Trouble> {
    let bytes = submit::read(&args.source)?;
    let mut rows = list::rows(&args, &bytes)?;
    for row in &mut rows {
        row.body = std::mem::replace(&mut row.body, Ok(Value::Null)).map(|body| args.wanted.overlay(body));
    }
    let bodies: Vec<Value> = rows.iter().filter_map(|row| row.body.clone().ok()).collect();
    let catalog = wanted::catalog_for(context, &bodies).await?;
    let Checked { entries, mut invalid } = checked::check(rows, &args.run, &catalog);
    let total = entries.len() + invalid.len();
    if total == 0 {
        return Err(Trouble::usage(format!("{} holds no job", args.source)));
    }
    if !invalid.is_empty() && (!args.skip_invalid || entries.is_empty()) {
        if context.format == Format::Json {
            Format::Json
                .print(&json!({"total": total, "submitted": [], "invalid": invalid, "unsent": 0}), |_| String::new());
        }
        return Err(refused(&args.source, total, &invalid));
    }
    if !invalid.is_empty() {
        eprintln!("{}", told(&invalid));
    }
    if args.dry_run {
        let specs: Vec<_> = entries.iter().map(|entry| &entry.asked).collect();
        context.format.print(&specs, |specs| format!("{} of {total} jobs would be submitted", specs.len()));
        return Ok(ended(&invalid));
    }
    let sender = Sender::open(context, args.amqp, args.msgpack).await?;
    let (submitted, stop) = send_all(&sender, &entries, &args, &mut invalid).await?;
    sender.close().await;
    let unsent = total - invalid.len() - submitted.len();
    let stopped = stop.as_ref().map(|trouble| trouble.what.clone());
    let report = Report { total, submitted, invalid, unsent, stopped };
    context.format.print(&report, summary);
    match stop {
        None => Ok(ended(&report.invalid)),
        Some(trouble) => Err(trouble),
    }
}

/// Sends all entries; what has been submitted, and why it stopped before the end. What the API refuses although it
/// was found valid here (a dispatcher of another version) is invalid like the rest.
async fn send_all(
    sender: &Sender,
    entries: &[Entry],
    args: &Batch,
    invalid: &mut Vec<Invalid>,
) -> Result<(Vec<Sent>, Option<Trouble>), Trouble> {
    let mut interrupts = super::watch::interrupts()?;
    let mut display = Display::open(entries.len());
    let mut submitted = Vec::with_capacity(entries.len());
    let mut answers = std::pin::pin!(send::answers(sender, entries, args.rate));
    let stop = loop {
        let answer = tokio::select! {
            answer = futures_util::StreamExt::next(&mut answers) => answer,
            _ = interrupts.recv() => {
                break Some(Trouble::new(Exit::Interrupted, format!("interrupted after {} jobs", submitted.len()))
                    .next("Run the same command again to go on: no job is made twice."));
            }
        };
        match answer {
            None => break None,
            Some(Ok(sent)) => submitted.push(sent),
            Some(Err(failed)) if args.skip_invalid && !failed.faults.is_empty() => {
                let refused = Invalid { line: failed.line, faults: failed.faults };
                eprintln!("{}", told(std::slice::from_ref(&refused)));
                invalid.push(refused);
            }
            Some(Err(failed)) => break Some(failed.trouble),
        }
        display.at(submitted.len());
    };
    display.close();
    Ok((submitted, stop))
}

fn ended(invalid: &[Invalid]) -> Exit {
    if invalid.is_empty() { Exit::Success } else { Exit::JobRejected }
}

fn refused(source: &str, total: usize, invalid: &[Invalid]) -> Trouble {
    let what = format!(
        "{} of {total} jobs in {source} are not valid, and none was submitted:\n{}",
        invalid.len(),
        told(invalid)
    );
    Trouble::new(Exit::JobRejected, what)
        .next("Correct them; or submit the others with --skip-invalid. `ffpool schema` prints every field.")
}

/// Every fault on a line of its own, up to a bound.
fn told(invalid: &[Invalid]) -> String {
    let all = || invalid.iter().flat_map(|job| job.faults.iter().map(move |fault| (job.line, fault)));
    let mut lines: Vec<String> =
        all().take(SHOWN_FAULTS).map(|(line, fault)| format!("  line {line}: {fault}")).collect();
    let more = all().count().saturating_sub(SHOWN_FAULTS);
    if more > 0 {
        lines.push(format!("  and {more} more; --output json has all"));
    }
    lines.join("\n")
}

fn summary(report: &Report) -> String {
    let again = report.submitted.iter().filter(|sent| sent.already == Some(true)).count();
    let mut text = format!("{} of {} jobs submitted", report.submitted.len(), report.total);
    if again > 0 {
        text.push_str(&format!(", {again} of them were there already"));
    }
    if !report.invalid.is_empty() {
        text.push_str(&format!(", {} left out as not valid", report.invalid.len()));
    }
    if report.unsent > 0 {
        text.push_str(&format!(", {} not sent", report.unsent));
    }
    text
}

/// How far it is: a bar where somebody looks, now and then a line where not.
enum Display {
    Bar(ProgressBar),
    Lines { total: usize, last: std::time::Instant },
}

impl Display {
    fn open(total: usize) -> Display {
        if !std::io::stderr().is_terminal() {
            return Display::Lines { total, last: std::time::Instant::now() };
        }
        let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{spinner} [{bar:30}] {pos}/{len} jobs, {per_sec}, {eta} left")
            .expect("the template is a constant")
            .progress_chars("=> ");
        bar.set_style(style);
        Display::Bar(bar)
    }

    fn at(&mut self, done: usize) {
        match self {
            Display::Bar(bar) => bar.set_position(done as u64),
            Display::Lines { total, last } if last.elapsed() >= LINE_EVERY => {
                *last = std::time::Instant::now();
                eprintln!("{done} of {total} jobs submitted");
            }
            Display::Lines { .. } => {}
        }
    }

    fn close(&self) {
        match self {
            Display::Bar(bar) => bar.finish_and_clear(),
            Display::Lines { .. } => {}
        }
    }
}
