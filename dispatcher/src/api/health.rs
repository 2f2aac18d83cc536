//! Whether the dispatcher lives, and whether all it needs works.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use ffpool_schema::api::Readiness;

use crate::api::App;

const OK: &str = "ok";

/// `GET /health`: it answers, so it lives.
pub(crate) async fn alive() -> &'static str {
    OK
}

/// `GET /ready`: 200 when every part works, else 503 with the parts that do not.
pub(crate) async fn ready(State(app): State<App>) -> Response {
    let broker = if app.amqp.is_up() { OK.to_owned() } else { link_problem(&app) };
    let nats = if app.signals.is_up() { OK } else { "no connection to NATS" };
    let ledger = app.ledger.health().await;
    let leader = if ledger.has_leader { OK } else { "no dispatcher runs the timers at this moment" };
    let parts = BTreeMap::from([
        ("broker".to_owned(), broker),
        ("nats".to_owned(), nats.to_owned()),
        ("postgres".to_owned(), ledger.postgres.err().unwrap_or_else(|| OK.to_owned())),
        ("leader".to_owned(), leader.to_owned()),
    ]);
    let ready = parts.values().all(|says| says == OK);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, parts })).into_response()
}

fn link_problem(app: &App) -> String {
    match &app.amqp.watch().borrow().last_error {
        Some(error) => format!("no connection to RabbitMQ: {error}"),
        None => "no connection to RabbitMQ yet".to_owned(),
    }
}
