//! What happens around every request: its span, its metrics, and the headers every answer carries.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use ffpool_runtime::telemetry;
use ffpool_schema::metrics::{HTTP_REQUESTS, HTTP_SECONDS};
use ffpool_schema::topology::TRACEPARENT_HEADER;
use tracing::{Instrument as _, Span, debug_span, field};

/// Label of requests that match no route, whatever their path, so that strangers cannot make new series.
const NO_ROUTE: &str = "none";

/// Runs a request in a span of its own, counts it by route pattern and status, and adds the headers of every answer.
pub(crate) async fn observe(request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or(NO_ROUTE, MatchedPath::as_str).to_owned();
    let span = debug_span!("request", method = %request.method(), route, trace_id = field::Empty);
    if let Some(received) = traceparent(request.headers()) {
        span.record("trace_id", trace_id(received));
        telemetry::continue_trace(&span, Some(received));
    }
    let mut response = next.run(request).instrument(span.clone()).await;

    let status = response.status();
    let elapsed = began.elapsed();
    span.in_scope(|| {
        tracing::debug!(status = status.as_u16(), ms = elapsed.as_secs_f64() * 1000.0, "request answered")
    });
    metrics::counter!(HTTP_REQUESTS, "route" => route.clone(), "status" => status.as_u16().to_string()).increment(1);
    metrics::histogram!(HTTP_SECONDS, "route" => route).record(elapsed.as_secs_f64());

    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// The trace context for what a request causes: the request's own span where traces are exported, else what it carried.
pub(crate) fn traceparent_to_hand_on(headers: &HeaderMap) -> Option<String> {
    telemetry::traceparent(&Span::current(), traceparent(headers))
}

/// The request's W3C trace context, if it is one.
fn traceparent(headers: &HeaderMap) -> Option<&str> {
    headers.get(TRACEPARENT_HEADER)?.to_str().ok().filter(|text| is_traceparent(text))
}

/// `<version>-<trace id>-<parent id>-<flags>` in lower-case hexadecimal, 2, 32, 16 and 2 digits, see
/// <https://www.w3.org/TR/trace-context/#traceparent-header>.
fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let hexadecimal = |part: &&str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let zero = |part: &str| part.bytes().all(|byte| byte == b'0');
    match parts.as_slice() {
        [version, trace, parent, flags] => {
            [version.len(), trace.len(), parent.len(), flags.len()] == [2, 32, 16, 2]
                && parts.iter().all(hexadecimal)
                && *version != "ff"
                && !zero(trace)
                && !zero(parent)
        }
        _ => false,
    }
}

fn trace_id(traceparent: &str) -> &str {
    traceparent.split('-').nth(1).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_well_formed_trace_context_is_handed_on() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_traceparent(good));
        assert_eq!(trace_id(good), "4bf92f3577b34da6a3ce929d0e0e4736");
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        ] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }
}
