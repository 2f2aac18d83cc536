//! Whether the dispatcher lives, and whether all it needs works.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use ffpool_schema::api::Readiness;

use crate::api::App;
use crate::vitals::Vitals;

const OK: &str = "ok";

/// `GET /health`: it answers and its work goes round, so it lives.
pub(crate) async fn alive(State(app): State<App>) -> (StatusCode, String) {
    match app.vitals.as_ref().and_then(Vitals::stuck) {
        None => (StatusCode::OK, OK.to_owned()),
        Some(trouble) => (StatusCode::SERVICE_UNAVAILABLE, trouble),
    }
}

/// `GET /ready`: 200 when every part works, else 503 with the parts that do not.
pub(crate) async fn ready(State(app): State<App>) -> Response {
    let readiness = app.readiness().await;
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

impl App {
    /// Every part, with what is wrong with it.
    pub(crate) async fn readiness(&self) -> Readiness {
        let broker = if self.amqp.is_up() { OK.to_owned() } else { link_problem(self) };
        let nats = if self.signals.is_up() { OK } else { "no connection to NATS" };
        let ledger = self.ledger.health().await;
        let leader = if ledger.has_leader { OK } else { "no dispatcher runs the timers at this moment" };
        let mut parts = BTreeMap::from([
            ("broker".to_owned(), broker),
            ("nats".to_owned(), nats.to_owned()),
            ("postgres".to_owned(), ledger.postgres.err().unwrap_or_else(|| OK.to_owned())),
            ("leader".to_owned(), leader.to_owned()),
        ]);
        if let Some(vitals) = &self.vitals {
            let claims = if vitals.hears_claims() { OK } else { "NATS does not bring claims here yet" };
            parts.insert("claims".to_owned(), claims.to_owned());
        }
        Readiness { ready: parts.values().all(|says| says == OK), parts }
    }
}

fn link_problem(app: &App) -> String {
    match &app.amqp.watch().borrow().last_error {
        Some(error) => format!("no connection to RabbitMQ: {error}"),
        None => "no connection to RabbitMQ yet".to_owned(),
    }
}
