//! The worker's part of the trace of a job: the run of an attempt, its phases, and what it asks of the others.
//!
//! Invariant: a run has a bounded number of spans, however long it takes and however often it reports.

use std::sync::{Mutex, PoisonError};

use ffpool_broker::Delivery;
use ffpool_runtime::traces::{self, Context, Kind, Span};
use ffpool_schema::message::{Grant, Outcome, Phase};
use ffpool_schema::subjects;
use ffpool_schema::topology::EVENTS_QUEUE;

/// Phases of one run that have spans of their own; what comes after them is told by the last one.
const PHASES_MAX: u32 = 10;

/// Begins the run of a granted attempt, below the attempt's own span, and has the grant carry the run's context from then on.
/// `unanswered`: no dispatcher has granted it yet.
pub(crate) fn begin_run(grant: &mut Grant, delivery: Option<&Delivery>, unanswered: bool) -> Span {
    let received = grant.traceparent.as_deref();
    let granted = received.filter(|_| !unanswered).and_then(Context::parse);
    let parent = granted.unwrap_or_else(|| traces::of_job(grant.job, received).attempt(grant.attempt));
    let mut span = match delivery {
        Some(delivery) => {
            let queue = delivery.work.name();
            Span::below(parent, format!("process {queue}"))
                .kind(Kind::Consumer)
                .with("messaging.system", "rabbitmq")
                .with("messaging.operation.type", "process")
                .with("messaging.operation.name", "process")
                .with("messaging.destination.name", queue)
                .with("messaging.message.body.size", i64::try_from(delivery.body.len()).unwrap_or(i64::MAX))
                .with("messaging.rabbitmq.redelivered", delivery.redelivered)
        }
        None => Span::below(parent, "process offer").kind(Kind::Consumer).with("messaging.system", "nats"),
    };
    span.set("ffpool.job.id", grant.job.to_string());
    span.set("ffpool.job.attempt", i64::from(grant.attempt));
    span.set("ffpool.scenario", grant.spec.scenario.clone());
    if traces::are_on() {
        grant.traceparent = Some(span.context().to_string());
    }
    span
}

/// Ends the run of an attempt with this outcome; `None`: it was abandoned.
pub(crate) fn end_run(mut span: Span, outcome: Option<&Outcome>) {
    let context = span.context();
    span.set("ffpool.outcome", outcome.map_or("abandoned", Outcome::name));
    let failed = match outcome {
        Some(Outcome::Failed { failure }) => Some(failure.cause.as_str()),
        Some(Outcome::Rejected { .. }) => Some("rejected"),
        None => Some("abandoned"),
        Some(Outcome::Finished { .. } | Outcome::Released { .. } | Outcome::Cancelled | Outcome::Split { .. }) => None,
    };
    match failed {
        Some(cause) => {
            span.set("error.type", cause);
            span.fail(cause);
            traces::keep(context);
            span.end();
        }
        None => {
            span.end();
            traces::forget(context);
        }
    }
}

/// The publication of an attempt's end, below its run.
pub(crate) fn publish_event(run: Context, size: usize) -> Span {
    Span::below(run, format!("publish {EVENTS_QUEUE}"))
        .kind(Kind::Producer)
        .with("messaging.system", "rabbitmq")
        .with("messaging.operation.type", "send")
        .with("messaging.operation.name", "publish")
        .with("messaging.destination.name", EVENTS_QUEUE)
        .with("messaging.message.body.size", i64::try_from(size).unwrap_or(i64::MAX))
}

/// The question whether an attempt may publish its output, below its run.
pub(crate) fn ask_to_commit(run: Context) -> Span {
    Span::below(run, "commit")
        .kind(Kind::Client)
        .with("messaging.system", "nats")
        .with("messaging.operation.type", "send")
        .with("messaging.destination.name", subjects::COMMIT)
}

/// The phases of a run, each a span from its first report to the next phase's.
pub(crate) struct Phases {
    run: Option<Context>,
    /// The present one, its span, and how many there have been. Never held across an await.
    now: Mutex<Option<(Phase, Span, u32)>>,
}

impl Phases {
    /// Of the run that this grant carries the context of.
    pub(crate) fn of(grant: &Grant) -> Phases {
        let context = grant.traceparent.as_deref().and_then(Context::parse);
        Phases { run: context.filter(|_| traces::are_on()), now: Mutex::default() }
    }

    /// The attempt is in this phase now.
    pub(crate) fn enter(&self, phase: Phase) {
        let Some(run) = self.run else { return };
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let number = match &*now {
            Some((present, _, number)) if *present == phase || *number >= PHASES_MAX => return,
            Some((_, _, number)) => number + 1,
            None => 1,
        };
        // The one before ends first.
        drop(now.take());
        *now = Some((phase, Span::below(run, name(phase)), number));
    }

    /// A part of the present phase.
    pub(crate) fn part(&self, name: &'static str) -> Option<Span> {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let phase = now.as_ref().map(|(_, span, _)| span.context()).or(self.run)?;
        Some(Span::below(phase, name))
    }
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Prepare => "prepare",
        Phase::Encode => "encode",
        Phase::Verify => "verify",
        Phase::Commit => "publish",
    }
}
