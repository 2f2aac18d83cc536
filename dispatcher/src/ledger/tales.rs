//! What a committed decision adds to the trace of its job: the spans of the job, its waits and its attempts, and of how the
//! ledger heard of it.
//!
//! Invariant: only what is committed is told, and from what the ledger has on record: an attempt whose worker died, and a job that
//! other dispatchers began, have their spans as well. A job that waits, or that is asked about in vain, makes none.

use std::time::{Duration, SystemTime};

use ffpool_runtime::metrics::exemplify;
use ffpool_runtime::traces::{self, Context, JobTrace, Kind, Span};
use ffpool_schema::failure::Cause;
use ffpool_schema::id::JobId;
use ffpool_schema::lifecycle::{End, Input, State, Step};
use ffpool_schema::metrics::{JOB_RUN_SECONDS, QUEUE_WAIT_SECONDS};
use ffpool_schema::topology::LEDGER_QUEUE;

use super::record::{Decided, Happening, Record, Verdict};

/// A delay that is shorter is none: the clocks of two transactions differ by as much.
const NO_DELAY: Duration = Duration::from_millis(2);

/// How the ledger heard of a happening.
#[derive(Debug, Clone, Copy, Default)]
pub enum Via {
    /// By its own timers, or from somebody whom no trace follows.
    #[default]
    Own,
    /// From a queue of the broker.
    Queue {
        /// Which.
        name: &'static str,
        /// When.
        received: SystemTime,
        /// The span that published the message, if it says so.
        from: Option<Context>,
    },
    /// From a worker that claims it, since then.
    Claim(SystemTime),
    /// From whoever runs the attempt.
    Owner,
    /// From a request of the API, in this span.
    Request(Context),
}

/// Something for the trace of a job.
#[derive(Debug)]
pub(super) struct Tale {
    pub(super) job: JobId,
    pub(super) traceparent: Option<String>,
    /// When it was decided, by Postgres' clock: so what ends where something else begins has the same instant.
    pub(super) now: SystemTime,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// An attempt began. `idle_secs`: since it could have, `queued_secs`: since nothing but a free worker was missing.
    Began { attempt: u32, queue: String, idle_secs: f64, queued_secs: f64 },
    /// It is over.
    AttemptEnded { attempt: u32, queue: String, end: End, run_secs: f64, cause: Option<Cause>, worker: Option<String> },
    /// The job is over.
    Ended { state: State, attempts: u32, queue: String, age_secs: f64, cause: Option<Cause> },
    /// A copy without an id was read from the tap.
    Tapped,
}

impl Tale {
    pub(super) fn of(record: &Record, what: What) -> Tale {
        let age = Duration::try_from_secs_f64(record.age_secs).unwrap_or_default();
        Tale { job: record.id, traceparent: record.traceparent.clone(), now: record.created_at + age, what }
    }

    /// A job that is over; it may have been recorded as such.
    pub(super) fn ended(record: &Record, cause: Option<Cause>) -> Tale {
        let (state, attempts) = (record.facts.state, record.facts.attempt);
        let what = What::Ended { state, attempts, queue: record.queue.clone(), age_secs: record.age_secs, cause };
        Tale::of(record, what)
    }

    /// So long before it was decided.
    fn before(&self, secs: f64) -> SystemTime {
        let age = Duration::try_from_secs_f64(secs).ok();
        age.and_then(|age| self.now.checked_sub(age)).unwrap_or(self.now)
    }

    fn tell(self, trace: &JobTrace, transaction: Transaction) {
        let (job, now) = (self.job, self.now);
        match &self.what {
            What::Began { attempt, queue, idle_secs, queued_secs } => {
                let span =
                    |name| Span::below(trace.root_of(*attempt), name).with("ffpool.job.attempt", i64::from(*attempt));
                if *attempt == 1 {
                    exemplify(QUEUE_WAIT_SECONDS, &[("queue", queue)], *idle_secs, trace.root());
                }
                let (idle, queued) = (self.before(*idle_secs), self.before(*queued_secs));
                let is_delayed = queued.duration_since(idle).is_ok_and(|delay| delay > NO_DELAY);
                if is_delayed {
                    span("delay").since(idle).end_at(queued);
                }
                let since = if is_delayed { queued } else { idle };
                span("wait").since(since).with("ffpool.queue", queue.clone()).end_at(now);
            }
            What::AttemptEnded { attempt, queue, end, run_secs, cause, worker } => {
                if *end == End::Finished {
                    exemplify(JOB_RUN_SECONDS, &[("queue", queue)], *run_secs, trace.attempt(*attempt));
                }
                let mut span = Span::at(trace.attempt(*attempt), Some(trace.root().span()), "attempt")
                    .since(self.before(*run_secs))
                    .with("ffpool.job.id", job.to_string())
                    .with("ffpool.job.attempt", i64::from(*attempt))
                    .with("ffpool.outcome", end.as_str());
                if let Some(worker) = worker {
                    span.set("ffpool.worker", worker.clone());
                }
                if *attempt > 1 {
                    span = span.linked(trace.attempt(attempt - 1));
                }
                if has_failed(*end) {
                    blame(&mut span, *cause, end.as_str());
                }
                span.end_at(now);
            }
            What::Ended { state, attempts, queue, age_secs, cause } => {
                let mut span = Span::at(trace.root_of(*attempts), trace.parent(), "job")
                    .since(self.before(*age_secs))
                    .with("ffpool.job.id", job.to_string())
                    .with("ffpool.job.state", state.as_str())
                    .with("ffpool.job.attempts", i64::from(*attempts))
                    .with("ffpool.queue", queue.clone());
                if matches!(state, State::Failed | State::Rejected) {
                    blame(&mut span, *cause, state.as_str());
                }
                span.end_at(now);
            }
            What::Tapped => {
                let input = Input::Arrive.name();
                consumed(trace.root(), job, LEDGER_QUEUE, transaction.began, input, transaction);
            }
        }
    }
}

/// The transaction that made it so.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transaction {
    pub(super) began: SystemTime,
    pub(super) ended: SystemTime,
    /// How many happenings it decided.
    pub(super) happenings: usize,
}

impl Transaction {
    /// One that began then and has just been committed.
    pub(super) fn since(began: SystemTime, happenings: usize) -> Transaction {
        Transaction { began, ended: SystemTime::now(), happenings }
    }

    /// The statements, as a span below `parent`.
    fn span(&self, parent: Context, input: &'static str) {
        let span = Span::below(parent, format!("ledger {input}"))
            .kind(Kind::Client)
            .since(self.began)
            .with("db.system.name", "postgresql")
            .with("db.operation.name", input)
            .with("db.collection.name", "job")
            .with("db.operation.batch.size", i64::try_from(self.happenings).unwrap_or(i64::MAX));
        span.end_at(self.ended);
    }
}

/// Tells what became of each happening of a transaction, and what followed.
pub(super) fn tell<'a>(
    tales: Vec<Tale>,
    decided: impl IntoIterator<Item = (&'a Happening, &'a Verdict)>,
    transaction: Transaction,
) {
    if !traces::are_on() {
        return;
    }
    // Failures first: what belongs to them is exported from then on.
    let told: Vec<_> =
        tales.into_iter().map(|tale| (traces::of_job(tale.job, tale.traceparent.as_deref()), tale)).collect();
    for (trace, _) in told.iter().filter(|(_, tale)| tale.what.is_failure()) {
        traces::keep(trace.root());
    }
    let is_well = |what: &What| matches!(what, What::Ended { .. }) && !what.is_failure();
    let over: Vec<JobTrace> = told.iter().filter(|(_, tale)| is_well(&tale.what)).map(|(trace, _)| *trace).collect();
    for (happening, verdict) in decided {
        if let Verdict::Decided(decided) = verdict {
            heard(happening, decided, transaction);
        }
    }
    for (trace, tale) in told {
        tale.tell(&trace, transaction);
    }
    for trace in over {
        traces::forget(trace.root());
    }
}

/// How the ledger heard of it, and its transaction.
fn heard(happening: &Happening, decided: &Decided, transaction: Transaction) {
    let trace = traces::of_job(decided.job, decided.traceparent.as_deref());
    let input = happening.input.name();
    match happening.via {
        Via::Own => {}
        Via::Queue { name, received, from } => {
            let known = if happening.input == Input::Arrive { trace.root() } else { trace.attempt(decided.attempt) };
            let parent = from.filter(|from| from.is_with(known)).unwrap_or(known);
            consumed(parent, decided.job, name, received, input, transaction);
        }
        Via::Claim(asked) => {
            let Step::Move(change) = &decided.step else { return };
            if change.begin || change.grant_again {
                let span = Span::below(trace.attempt(decided.attempt), "claim")
                    .kind(Kind::Server)
                    .since(asked)
                    .with("messaging.system", "nats")
                    .with("messaging.operation.type", "process")
                    .with("messaging.destination.name", ffpool_schema::subjects::CLAIM)
                    .with("ffpool.job.id", decided.job.to_string());
                transaction.span(span.context(), input);
                span.end();
            }
        }
        Via::Owner => transaction.span(trace.attempt(decided.attempt), input),
        Via::Request(context) => transaction.span(context, input),
    }
}

fn consumed(
    parent: Context,
    job: JobId,
    queue: &'static str,
    received: SystemTime,
    input: &'static str,
    transaction: Transaction,
) {
    let span = Span::below(parent, format!("process {queue}"))
        .kind(Kind::Consumer)
        .since(received)
        .with("messaging.system", "rabbitmq")
        .with("messaging.operation.type", "process")
        .with("messaging.operation.name", "process")
        .with("messaging.destination.name", queue)
        .with("ffpool.job.id", job.to_string());
    transaction.span(span.context(), input);
    span.end();
}

impl What {
    fn is_failure(&self) -> bool {
        match self {
            What::Began { .. } | What::Tapped => false,
            What::AttemptEnded { end, .. } => has_failed(*end),
            What::Ended { state, .. } => matches!(state, State::Failed | State::Rejected),
        }
    }
}

fn has_failed(end: End) -> bool {
    match end {
        End::Failed | End::Rejected | End::Lapsed => true,
        End::Finished | End::Released | End::Cancelled | End::Split => false,
    }
}

fn blame(span: &mut Span, cause: Option<Cause>, otherwise: &'static str) {
    let kind = cause.map_or(otherwise, Cause::as_str);
    span.set("error.type", kind);
    span.fail(kind);
}
