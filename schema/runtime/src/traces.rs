//! Spans of jobs, exported to an OTLP collector where one is set.
//!
//! Invariants:
//! * nobody waits for a collector: what cannot be sent in time is dropped, counted, and told once;
//! * a span names what is known already: where it is made, its trace has been decided about or is held until it is;
//! * attributes hold names, numbers and ids; never statements, arguments, addresses with passwords, or keys.

mod context;
mod export;
mod settings;
mod tail;

use std::borrow::Cow;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use ffpool_schema::id::JobId;
use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator, SpanData, SpanEvents, SpanLinks};

pub use context::{Context, JobTrace};
use export::Exporter;
pub use settings::{Protocol, TraceArgs, TraceError};
use tail::Tail;

/// The one of this process. Absent: no traces are exported.
static TRACER: OnceLock<Tracer> = OnceLock::new();

struct Tracer {
    exporter: Exporter,
    ratio: f64,
    /// Where spans wait whose trace is not sampled. `None`: such spans are not made.
    tail: Option<Mutex<Tail>>,
}

impl Tracer {
    fn tail(&self) -> Option<MutexGuard<'_, Tail>> {
        self.tail.as_ref().map(|tail| tail.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn take(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            self.exporter.send(span);
        } else if let Some(span) = self.tail().and_then(|mut tail| tail.hold(span)) {
            self.exporter.send(span);
        }
    }
}

/// Begins to export what this process tells of itself, a `service`.
///
/// # Errors
/// When a setting cannot be used.
pub(crate) fn start(service: &'static str, args: &TraceArgs) -> Result<(), TraceError> {
    let Some(exporter) = args.exporter(service)? else { return Ok(()) };
    let tail = args.trace_errors.then(Mutex::default);
    // A second one in a process would get no spans.
    let _ = TRACER.set(Tracer { exporter, ratio: args.trace_ratio, tail });
    Ok(())
}

/// Sends what is left, for a moment.
pub(crate) fn shut_down() {
    if let Some(tracer) = TRACER.get() {
        tracer.exporter.shut_down();
    }
}

/// Whether this process exports traces.
#[must_use]
pub fn are_on() -> bool {
    TRACER.get().is_some()
}

/// The trace of a job whose stored context this is.
#[must_use]
pub fn of_job(job: JobId, stored: Option<&str>) -> JobTrace {
    let tracer = TRACER.get();
    let mut trace = JobTrace::new(job, stored, tracer.map_or(0.0, |tracer| tracer.ratio));
    trace.keeps_failures = tracer.is_some_and(|tracer| tracer.tail.is_some());
    trace
}

/// What is stored with a job that came with this context: the context, if it is one; else, where traces are exported, one of the
/// job's own, so that the decision whether it is sampled is made once.
#[must_use]
pub fn to_store(job: JobId, received: Option<&str>) -> Option<String> {
    match received {
        Some(text) if Context::parse(text).is_some() => Some(text.to_owned()),
        Some(_) | None => are_on().then(|| of_job(job, None).root().to_string()),
    }
}

/// What is stored with a job that makes a part of another, whose context is `stored`: below the other's span.
#[must_use]
pub fn for_part(of: JobId, stored: Option<&str>) -> Option<String> {
    if are_on() { Some(of_job(of, stored).root().to_string()) } else { stored.map(str::to_owned) }
}

/// The trace has failed: its spans that were held are exported, and all that follow.
pub fn keep(trace: Context) {
    let Some(tracer) = TRACER.get() else { return };
    let spans = tracer.tail().map(|mut tail| tail.keep(trace.trace)).unwrap_or_default();
    spans.into_iter().for_each(|span| tracer.exporter.send(span));
}

/// The trace ended well: what was held of it is not needed.
pub fn forget(trace: Context) {
    if let Some(mut tail) = TRACER.get().and_then(Tracer::tail) {
        tail.forget(trace.trace);
    }
}

/// What a request of the API carries of a trace.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    span: SpanId,
    received: Option<Context>,
}

impl Asked {
    /// A request with this `traceparent`, which is heeded if it is one.
    #[must_use]
    pub fn with(traceparent: Option<&str>) -> Asked {
        Asked { span: RandomIdGenerator::default().new_span_id(), received: traceparent.and_then(Context::parse) }
    }

    /// The context that came with it.
    #[must_use]
    pub fn received(&self) -> Option<Context> {
        self.received
    }

    /// Its span: in the caller's trace, else in that of the `job` that it hands in.
    #[must_use]
    pub fn context(&self, job: JobId) -> Context {
        Context { span: self.span, ..self.received.unwrap_or_else(|| of_job(job, None).root()) }
    }

    /// What is stored with the job that it hands in.
    #[must_use]
    pub fn to_store(&self, job: JobId) -> Option<String> {
        if are_on() { Some(self.context(job).to_string()) } else { self.received.map(|context| context.to_string()) }
    }

    /// The request as a span.
    #[must_use]
    pub fn span(&self, context: Context, method: &impl ToString, route: &str) -> Span {
        let method = method.to_string();
        Span::at(context, self.received.map(|received| received.span), format!("{method} {route}"))
            .kind(Kind::Server)
            .with("http.request.method", method)
            .with("http.route", route.to_owned())
    }
}

/// What a span stands for, as OpenTelemetry knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Work within a process.
    Internal,
    /// It asks somebody and waits for the answer.
    Client,
    /// It answers.
    Server,
    /// It gives a message to a broker.
    Producer,
    /// It takes a message from a broker.
    Consumer,
}

/// A span under way. It ends when it is dropped, at the latest.
#[derive(Debug)]
pub struct Span {
    context: Context,
    /// `None`: nobody wants it.
    data: Option<Box<SpanData>>,
}

impl Span {
    /// A span below `parent`, which began now.
    #[must_use]
    pub fn below(parent: Context, name: impl Into<Cow<'static, str>>) -> Span {
        let context = Context { span: RandomIdGenerator::default().new_span_id(), ..parent };
        Span::at(context, Some(parent.span), name)
    }

    /// The first span of a trace of its own, sampled as this process's share says. Its trace is that of `job`, if it is about one.
    #[must_use]
    pub fn first(job: Option<JobId>, name: impl Into<Cow<'static, str>>) -> Span {
        let ids = RandomIdGenerator::default();
        let context = match job {
            Some(job) => Context { span: ids.new_span_id(), ..of_job(job, None).root() },
            None => {
                let ratio = TRACER.get().map_or(0.0, |tracer| tracer.ratio);
                Context::first(ids.new_trace_id(), ids.new_span_id(), ratio)
            }
        };
        Span::at(context, None, name)
    }

    /// The span that stands at `context`, below `parent`.
    #[must_use]
    pub fn at(context: Context, parent: Option<SpanId>, name: impl Into<Cow<'static, str>>) -> Span {
        let is_wanted = TRACER.get().is_some_and(|tracer| context.sampled || tracer.tail.is_some());
        Span { context, data: is_wanted.then(|| Box::new(Span::recorded(name, context, parent))) }
    }

    fn recorded(name: impl Into<Cow<'static, str>>, context: Context, parent: Option<SpanId>) -> SpanData {
        let now = SystemTime::now();
        SpanData {
            span_context: context.into(),
            parent_span_id: parent.unwrap_or(SpanId::INVALID),
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: name.into(),
            start_time: now,
            end_time: now,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::builder("ffpool")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
        }
    }

    /// Where it stands, for those below it.
    #[must_use]
    pub fn context(&self) -> Context {
        self.context
    }

    /// Says what it stands for.
    #[must_use]
    pub fn kind(mut self, kind: Kind) -> Span {
        if let Some(data) = &mut self.data {
            data.span_kind = match kind {
                Kind::Internal => SpanKind::Internal,
                Kind::Client => SpanKind::Client,
                Kind::Server => SpanKind::Server,
                Kind::Producer => SpanKind::Producer,
                Kind::Consumer => SpanKind::Consumer,
            };
        }
        self
    }

    /// Says that it began earlier.
    #[must_use]
    pub fn since(mut self, start: SystemTime) -> Span {
        if let Some(data) = &mut self.data {
            data.start_time = start;
        }
        self
    }

    /// With an attribute.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Span {
        self.set(key, value);
        self
    }

    /// Sets an attribute.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(data) = &mut self.data {
            data.attributes.push(KeyValue::new(key, value));
        }
    }

    /// Linked with another span.
    #[must_use]
    pub fn linked(mut self, other: Context) -> Span {
        if let Some(data) = &mut self.data {
            data.links.links.push(Link::new(other.into(), Vec::new(), 0));
        }
        self
    }

    /// Says that it went wrong, and why.
    pub fn fail(&mut self, why: impl Into<Cow<'static, str>>) {
        if let Some(data) = &mut self.data {
            data.status = Status::error(why);
        }
    }

    /// Ends it now.
    pub fn end(self) {
        drop(self);
    }

    /// Ends it at `end`.
    pub fn end_at(mut self, end: SystemTime) {
        self.finish(end);
    }

    fn finish(&mut self, end: SystemTime) {
        let (Some(mut data), Some(tracer)) = (self.data.take(), TRACER.get()) else { return };
        data.end_time = end.max(data.start_time);
        tracer.take(*data);
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        self.finish(SystemTime::now());
    }
}

impl From<Context> for SpanContext {
    fn from(context: Context) -> SpanContext {
        let flags = if context.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
        SpanContext::new(context.trace, context.span, flags, false, TraceState::default())
    }
}
