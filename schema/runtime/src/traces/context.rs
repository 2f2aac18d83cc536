//! Where a span stands: its trace, its id, and whether the trace is sampled, as W3C's `traceparent` says it; and the spans of a
//! job that every process knows without being told.
//!
//! Invariant: the spans of a job and of its attempts have ids that follow from the job's id, so that whoever comes later (another
//! dispatcher, the next attempt) names the same spans, whatever has died meanwhile.

use std::fmt;

use ffpool_schema::id::JobId;
use opentelemetry::trace::{SpanId, TraceFlags, TraceId};
use sha2::{Digest as _, Sha256};

/// A span's place, to hand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
    pub(super) sampled: bool,
}

impl Context {
    /// Reads `<version>-<trace id>-<parent id>-<flags>` in lower-case hexadecimal, 2, 32, 16 and 2 digits
    /// (<https://www.w3.org/TR/trace-context/#traceparent-header>). `None` for everything else.
    #[must_use]
    pub fn parse(traceparent: &str) -> Option<Context> {
        let parts: Vec<&str> = traceparent.split('-').collect();
        let [version, trace, span, flags] = parts.as_slice() else { return None };
        let is_hexadecimal = |part: &str, digits: usize| {
            part.len() == digits && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_well_formed = is_hexadecimal(version, 2)
            && is_hexadecimal(trace, 32)
            && is_hexadecimal(span, 16)
            && is_hexadecimal(flags, 2)
            && *version != "ff";
        let trace = TraceId::from_hex(trace).ok().filter(|trace| is_well_formed && *trace != TraceId::INVALID)?;
        let span = SpanId::from_hex(span).ok().filter(|span| *span != SpanId::INVALID)?;
        let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
        Some(Context { trace, span, sampled: flags.is_sampled() })
    }

    /// The first span of a trace, sampled as `ratio` says.
    pub(super) fn first(trace: TraceId, span: SpanId, ratio: f64) -> Context {
        Context { trace, span, sampled: is_chosen(trace, ratio) }
    }

    /// Whether its trace is one that is exported.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// Whether both are of one trace.
    #[must_use]
    pub fn is_with(&self, other: Context) -> bool {
        self.trace == other.trace
    }

    /// The span itself, as the parent of another.
    #[must_use]
    pub fn span(&self) -> SpanId {
        self.span
    }

    /// The id of the trace, as logs have it.
    #[must_use]
    pub fn trace_id(&self) -> String {
        self.trace.to_string()
    }

    /// The id of the span, as logs have it.
    #[must_use]
    pub fn span_id(&self) -> String {
        self.span.to_string()
    }
}

/// As a `traceparent`.
impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{}", self.trace, self.span, if self.sampled { "01" } else { "00" })
    }
}

/// The trace of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobTrace {
    job: JobId,
    root: Context,
    parent: Option<SpanId>,
    /// Whether what needs a second attempt is traced from then on.
    pub(super) keeps_failures: bool,
}

impl JobTrace {
    /// The trace that the job belongs to by its `stored` context; without one the job's own, whose id is the job's, sampled as
    /// `ratio` says.
    pub(super) fn new(job: JobId, stored: Option<&str>, ratio: f64) -> JobTrace {
        let span = derived(job, "job", 0);
        let (trace, parent, sampled) = match stored.and_then(Context::parse) {
            // Made by a dispatcher for a job that came without: it names the job's own span.
            Some(own) if own.span == span => (own.trace, None, own.sampled),
            Some(of_publisher) => (of_publisher.trace, Some(of_publisher.span), of_publisher.sampled),
            None => {
                let trace = own_trace(job);
                (trace, None, is_chosen(trace, ratio))
            }
        };
        JobTrace { job, root: Context { trace, span, sampled }, parent, keeps_failures: false }
    }

    /// The span of the whole job, from its recording to its end.
    #[must_use]
    pub fn root(&self) -> Context {
        self.root
    }

    /// The same, as what belongs to an attempt has it: sampled, if the attempt is.
    #[must_use]
    pub fn root_of(&self, attempt: u32) -> Context {
        Context { sampled: self.attempt(attempt).sampled, ..self.root }
    }

    /// The span of whoever published the job.
    #[must_use]
    pub fn parent(&self) -> Option<SpanId> {
        self.parent
    }

    /// The span of an attempt, from its claim to its end on record.
    #[must_use]
    pub fn attempt(&self, number: u32) -> Context {
        let sampled = self.root.sampled || (number > 1 && self.keeps_failures);
        Context { span: derived(self.job, "attempt", number), sampled, ..self.root }
    }
}

/// Whether a trace belongs to the share that is sampled, by the 56 bits of its id that are random (W3C trace context, level 2).
#[expect(clippy::cast_precision_loss, reason = "53 bits are exact, and more than a share needs")]
fn is_chosen(trace: TraceId, ratio: f64) -> bool {
    let [.., a, b, c, d, e, f, g] = trace.to_bytes();
    let random = u64::from_be_bytes([0, a, b, c, d, e, f, g]);
    ((random >> 3) as f64) < ratio * (1_u64 << 53) as f64
}

/// The trace of a job that came without one: its id, so that who knows the job finds the trace.
fn own_trace(job: JobId) -> TraceId {
    match TraceId::from_bytes(job.0.into_bytes()) {
        TraceId::INVALID => {
            let [first, second] = [derived(job, "trace", 0), derived(job, "trace", 1)].map(SpanId::to_bytes);
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&first);
            bytes[8..].copy_from_slice(&second);
            TraceId::from_bytes(bytes)
        }
        trace => trace,
    }
}

fn derived(job: JobId, what: &str, number: u32) -> SpanId {
    let hash =
        Sha256::new().chain_update(what).chain_update(job.0.as_bytes()).chain_update(number.to_be_bytes()).finalize();
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash[..8]);
    SpanId::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECEIVED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn job(text: &str) -> JobId {
        text.parse().expect("an id")
    }

    fn nobody() -> JobId {
        job("00000000-0000-0000-0000-000000000000")
    }

    #[test]
    fn only_a_well_formed_trace_context_is_read() {
        let context = Context::parse(RECEIVED).expect("well formed");
        assert_eq!(context.to_string(), RECEIVED);
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(Context::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_job_stays_in_its_publishers_trace_and_one_without_has_its_id_as_trace() {
        let id = job("01920f3a-7c1e-7d2a-8a6e-3f0c5b1d9e42");
        let of_publisher = JobTrace::new(id, Some(RECEIVED), 0.0);
        assert_eq!(of_publisher.parent().map(|span| span.to_string()).as_deref(), Some("00f067aa0ba902b7"));
        assert_eq!(of_publisher.root().trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(of_publisher.root().sampled, "the publisher decides, not our share");

        let own = JobTrace::new(id, None, 1.0);
        assert_eq!(own.root().trace_id(), "01920f3a7c1e7d2a8a6e3f0c5b1d9e42");
        assert_eq!(own.parent(), None);
        let stored = own.root().to_string();
        assert_eq!(JobTrace::new(id, Some(&stored), 0.0), own, "what was stored is read as what it is");
        let attempts = [own.attempt(1).span, own.attempt(2).span, own.root().span];
        assert!(attempts[0] != attempts[1] && attempts[1] != attempts[2], "{attempts:?}");
        assert_eq!(own.attempt(2), of_publisher.attempt(2).within(own.root().trace), "whoever asks");
    }

    #[test]
    fn the_share_is_kept_and_a_second_attempt_is_traced_whatever_it_is() {
        let chosen = (0..1_000_u32).filter(|number| {
            let random = derived(nobody(), "x", *number).to_bytes();
            let mut bytes = [1; 16];
            bytes[8..].copy_from_slice(&random);
            is_chosen(TraceId::from_bytes(bytes), 0.25)
        });
        assert!((180..320).contains(&chosen.count()), "about a quarter");
        let trace = TraceId::from_bytes([0xff; 16]);
        assert!(is_chosen(trace, 1.0) && !is_chosen(TraceId::from_bytes([1; 16]), 0.0));

        let mut one = JobTrace::new(nobody(), None, 0.0);
        assert!(!one.attempt(2).sampled);
        one.keeps_failures = true;
        assert!(!one.attempt(1).sampled && one.attempt(2).sampled);
    }

    impl Context {
        fn within(self, trace: TraceId) -> Context {
            Context { trace, ..self }
        }
    }
}
