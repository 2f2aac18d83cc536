//! Spans of traces that are not sampled, kept until it is known whether they tell of a failure. Pure.
//!
//! Invariant: bounded by [`HELD_MAX`] spans and [`KEPT_MAX`] traces; what is oldest makes room, and a span that fell out of it was
//! of a trace that nobody has called a failure.

use std::collections::{BTreeSet, HashMap, VecDeque};

use opentelemetry::trace::TraceId;
use opentelemetry_sdk::trace::SpanData;

/// Spans held at most: about 10 MB.
pub(super) const HELD_MAX: usize = 10_000;
/// Failed traces that are remembered, so that what comes later of them is exported too.
pub(super) const KEPT_MAX: usize = 4_000;

/// What waits for a verdict.
#[derive(Debug, Default)]
pub(super) struct Tail {
    held: HashMap<TraceId, Vec<SpanData>>,
    /// Traces in the order in which they came; some are gone by now.
    order: VecDeque<TraceId>,
    spans: usize,
    kept: BTreeSet<[u8; 16]>,
    kept_order: VecDeque<[u8; 16]>,
}

impl Tail {
    /// Takes a span in. Gives it back if its trace has failed already.
    pub(super) fn hold(&mut self, span: SpanData) -> Option<SpanData> {
        let trace = span.span_context.trace_id();
        if self.kept.contains(&trace.to_bytes()) {
            return Some(span);
        }
        while self.spans >= HELD_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            self.forget(oldest);
        }
        self.spans += 1;
        let of_trace = self.held.entry(trace).or_insert_with(|| {
            self.order.push_back(trace);
            Vec::new()
        });
        of_trace.push(span);
        // Traces that were forgotten are still in the order.
        if self.order.len() > 2 * HELD_MAX {
            self.order.retain(|trace| self.held.contains_key(trace));
        }
        None
    }

    /// The trace has failed: its spans so far, to be exported; those that come later will not be held.
    pub(super) fn keep(&mut self, trace: TraceId) -> Vec<SpanData> {
        let key = trace.to_bytes();
        if self.kept.insert(key) {
            self.kept_order.push_back(key);
        }
        if self.kept_order.len() > KEPT_MAX
            && let Some(oldest) = self.kept_order.pop_front()
        {
            self.kept.remove(&oldest);
        }
        let spans = self.held.remove(&trace).unwrap_or_default();
        self.spans -= spans.len();
        spans
    }

    /// The trace ended well.
    pub(super) fn forget(&mut self, trace: TraceId) {
        if let Some(spans) = self.held.remove(&trace) {
            self.spans -= spans.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Context, Span};
    use super::*;

    fn span(trace: u64) -> SpanData {
        let mut bytes = [0; 16];
        bytes[8..].copy_from_slice(&(trace + 1).to_be_bytes());
        let parent = Context::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00").expect("well formed");
        Span::recorded("x", Context { trace: TraceId::from_bytes(bytes), ..parent }, None)
    }

    fn id(span: &SpanData) -> TraceId {
        span.span_context.trace_id()
    }

    #[test]
    fn what_failed_comes_out_with_all_that_follows_and_what_ended_well_does_not() {
        let mut tail = Tail::default();
        assert!(tail.hold(span(1)).is_none() && tail.hold(span(1)).is_none() && tail.hold(span(2)).is_none());
        assert_eq!(tail.keep(id(&span(1))).len(), 2);
        assert!(tail.hold(span(1)).is_some(), "later spans of it are not held");
        tail.forget(id(&span(2)));
        assert!(tail.keep(id(&span(2))).is_empty());
        assert_eq!((tail.spans, tail.held.len()), (0, 0));
    }

    #[test]
    fn the_oldest_makes_room_and_nothing_grows() {
        let mut tail = Tail::default();
        for number in 0..3 * HELD_MAX as u64 {
            assert!(tail.hold(span(number)).is_none());
            if number % 2 == 0 {
                tail.forget(id(&span(number)));
            }
        }
        assert!(tail.spans <= HELD_MAX && tail.held.len() <= HELD_MAX && tail.order.len() <= 2 * HELD_MAX + 1);
        assert_eq!(tail.keep(id(&span(3 * HELD_MAX as u64 - 1))).len(), 1, "the newest is there");
        assert!(tail.keep(id(&span(1))).is_empty(), "the oldest made room");
        for number in 0..2 * KEPT_MAX as u64 {
            tail.keep(id(&span(number)));
        }
        assert!(tail.kept.len() <= KEPT_MAX && tail.kept_order.len() <= KEPT_MAX);
    }
}
