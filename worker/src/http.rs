//! Metrics and health over HTTP: `/metrics`, `/health` (the process goes round), `/ready` (it can take work); and
//! the same in the words of the service manager.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use ffpool_runtime::metrics::Exposition;
use ffpool_runtime::notify::{self, Notifier};
use ffpool_schema::api::Readiness;
use tokio::time::Instant;
use tracing::error;

use crate::attempts::Attempts;
use crate::drain::{Drain, Stage};
use crate::fitness::Fitness;
use crate::liveness::Liveness;
use crate::service::Links;
use crate::slots::Slots;

/// A free slot has proved within this time that it can get work.
const PROOF: Duration = Duration::from_secs(30);

/// What the answers are made of.
#[derive(Clone)]
pub(crate) struct Health {
    pub(crate) links: Arc<Links>,
    pub(crate) slots: Slots,
    pub(crate) drain: Drain,
    pub(crate) fitness: Fitness,
    pub(crate) liveness: Liveness,
    pub(crate) attempts: Attempts,
    pub(crate) exposition: Exposition,
}

/// Answers on `listener`, for ever.
pub(crate) async fn serve(listener: tokio::net::TcpListener, health: Health) {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/health", get(alive))
        .route("/ready", get(ready))
        .with_state(health);
    if let Err(error) = axum::serve(listener, routes).await {
        error!(%error, "metrics and health are no longer served");
    }
}

async fn metrics(State(health): State<Health>, headers: HeaderMap) -> impl IntoResponse {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let (content_type, text) = health.exposition.answer(accept);
    ([(header::CONTENT_TYPE, content_type)], text)
}

async fn alive(State(health): State<Health>) -> (StatusCode, String) {
    match health.stuck() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(trouble) => (StatusCode::SERVICE_UNAVAILABLE, format!("{trouble}\n")),
    }
}

/// Tells the service manager how the worker does, for ever.
pub(crate) async fn keep_told(health: Health) {
    let mut notifier = Notifier::from_env();
    while notifier.is_wanted() {
        let told = health.told();
        notifier.tell(&told);
        tokio::select! {
            () = tokio::time::sleep(notifier.pause()) => {}
            // A drain may be over before the pause is.
            () = health.drain.reached(Stage::Finishing), if !told.is_stopping => {}
        }
    }
}

async fn ready(State(health): State<Health>) -> (StatusCode, Json<Readiness>) {
    let readiness = health.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness))
}

impl Health {
    fn readiness(&self) -> Readiness {
        let state = self.links.amqp.watch().borrow().clone();
        let amqp = if state.up {
            None
        } else {
            Some(state.last_error.map_or_else(|| "no connection".into(), |why| format!("no connection: {why}")))
        };
        let nats = (!self.links.nats.is_up()).then(|| "no connection".to_owned());
        let draining = (self.drain.stage() != Stage::Serving).then(|| "the worker drains".to_owned());
        let (scratch, tools) = (self.fitness.space.trouble(), self.fitness.software.trouble());
        let intake = if self.fitness.trouble().is_some() { None } else { self.intake_trouble() };
        let found = [
            ("amqp", amqp),
            ("nats", nats),
            ("intake", intake),
            ("scratch", scratch),
            ("tools", tools),
            ("state", draining),
        ];
        let ready = found.iter().all(|(_, trouble)| trouble.is_none());
        let say = |(part, trouble): (&str, Option<String>)| (part.to_owned(), trouble.unwrap_or_else(|| "ok".into()));
        Readiness { ready, parts: found.into_iter().map(say).collect::<BTreeMap<_, _>>() }
    }

    fn intake_trouble(&self) -> Option<String> {
        let Some(intake) = self.links.intake.get() else { return Some("waits for the servers".into()) };
        // With every slot in use nobody looks for work, and nothing is proved.
        let proved = self.slots.full() || intake.last_proof().is_some_and(|at| at.elapsed() < PROOF);
        (!proved).then(|| "the work queues have not been seen for 30 s".into())
    }

    /// What is wrong that only a new start would cure.
    fn stuck(&self) -> Option<String> {
        let looks = self.drain.stage() == Stage::Serving
            && !self.slots.full()
            && self.fitness.trouble().is_none()
            && self.links.amqp.is_up();
        let intake = self.links.intake.get().filter(|_| looks);
        let seen = intake.map(|intake| intake.last_proof().map(Into::into));
        self.liveness.trouble(Instant::now(), seen)
    }

    fn told(&self) -> notify::State {
        let readiness = self.readiness();
        let stuck = self.stuck();
        let is_stopping = self.drain.stage() != Stage::Serving;
        let status = match &stuck {
            Some(stuck) => stuck.clone(),
            None if is_stopping => format!("drains, {} attempts run", self.attempts.count()),
            None if readiness.ready => format!("works, {} of {} slots in use", self.slots.used(), self.slots.total()),
            None => {
                let not_ok = readiness.parts.iter().filter(|(_, says)| *says != "ok");
                let says: Vec<String> = not_ok.map(|(part, says)| format!("{part}: {says}")).collect();
                format!("not ready: {}", says.join("; "))
            }
        };
        notify::State { is_ready: readiness.ready, is_alive: stuck.is_none(), is_stopping, status }
    }
}
