//! What happens around every request: its span, its metrics, and the headers every answer carries.

use std::time::{Instant, SystemTime};

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use ffpool_runtime::metrics::exemplify;
use ffpool_runtime::traces::{Asked, Context};
use ffpool_schema::metrics::{HTTP_REQUESTS, HTTP_SECONDS};
use ffpool_schema::topology::TRACEPARENT_HEADER;
use tracing::{Instrument as _, debug_span, field};

/// Label of requests that match no route, whatever their path, so that strangers cannot make new series.
const NO_ROUTE: &str = "none";

/// Runs a request in a span of its own, counts it by route pattern and status, and adds the headers of every answer.
pub(crate) async fn observe(mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or(NO_ROUTE, MatchedPath::as_str).to_owned();
    let at = SystemTime::now();
    let asked = Asked::with(request.headers().get(TRACEPARENT_HEADER).and_then(|value| value.to_str().ok()));
    let method = request.method().clone();
    let span = debug_span!("request", %method, route, trace_id = field::Empty);
    if let Some(received) = asked.received() {
        span.record("trace_id", received.trace_id());
    }
    request.extensions_mut().insert(asked);
    let mut response = next.run(request).instrument(span.clone()).await;

    let status = response.status();
    let elapsed = began.elapsed();
    // What only looks is in no trace, unless its caller's.
    if let Some(context) = response.extensions_mut().remove::<Context>().or(asked.received()) {
        exemplify(HTTP_SECONDS, &[("route", &route)], elapsed.as_secs_f64(), context);
        let mut told = asked.span(context, &method, &route).since(at);
        told.set("http.response.status_code", i64::from(status.as_u16()));
        if status.is_server_error() {
            told.set("error.type", status.as_u16().to_string());
            told.fail(status.to_string());
        }
        told.end();
    }
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
