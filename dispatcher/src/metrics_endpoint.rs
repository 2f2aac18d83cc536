//! `/metrics`, `/health` and `/ready` on an address of their own, open to whoever can reach it.

use std::future::IntoFuture as _;

use axum::Router;
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;
use axum::routing::get;
use ffpool_runtime::metrics::Exposition;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api::{App, ready};

/// Serves until `stop`. A scrape under way then is cut.
pub(crate) async fn serve(listener: TcpListener, exposition: Exposition, app: App, stop: CancellationToken) {
    let metrics = move |headers: HeaderMap| async move {
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
        let (content_type, text) = exposition.answer(accept);
        ([(header::CONTENT_TYPE, content_type)], text).into_response()
    };
    let router = Router::new().route("/metrics", get(metrics)).route("/health", get(|| async { "ok" }));
    let router = router.route("/ready", get(ready)).with_state(app);
    tokio::select! {
        ended = axum::serve(listener, router).into_future() => {
            if let Err(error) = ended {
                tracing::error!(%error, "metrics are no longer served");
            }
        }
        () = stop.cancelled() => {}
    }
}
