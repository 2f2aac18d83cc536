//! The HTTP API: what people and clients ask of the pool, over JSON.
//!
//! One table (`api/routes.rs`) makes the router, the rights and `/openapi.json`. Handlers translate: what a job becomes is
//! decided by the ledger, and a handler never writes a job's row.
//!
//! Invariant: every request is answered within a bound, if need be with a problem that says what does not answer.

mod access;
mod audit;
mod body;
mod catalog;
mod certificates;
mod client_roles;
mod cost;
mod dead_letters;
mod door;
mod explain;
mod failures;
mod followers;
mod guests;
mod handshake;
mod health;
mod jobs;
mod key_command;
mod keys;
mod live;
mod observe;
mod openapi;
pub(crate) mod problem;
mod query;
mod queues;
mod reference;
mod refusals;
mod routes;
mod scale;
mod schedules;
mod session;
mod stream;
mod submit;
mod tenants;
mod throttle;
mod throughput;
mod thumbnail;
mod trace_url;
mod wire;
mod workers;

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::http::Uri;
use axum::middleware::{from_fn, from_fn_with_state};
use ffpool_broker::{AmqpLink, Signals};
use ffpool_schema::access::Right;
use ffpool_schema::advice::WaitTargets;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::api::access::Needs;
use crate::api::followers::Followers;
use crate::api::live::Hub;
use crate::api::problem::{ApiError, Kind};
use crate::api::refusals::Refusals;
use crate::api::throttle::{Probes, Throttle};
use crate::ledger::Ledger;
use crate::scaling::Scaling;
use crate::vitals::Vitals;

pub use client_roles::{ClientRole, ClientRoles};
pub use door::Door;
pub use followers::StreamLimits;
pub use guests::Limits;
pub(crate) use health::ready;
pub use key_command::KeyCommand;
pub(crate) use refusals::keep_told as keep_refusals_told;
pub use throttle::ThrottleRules;
pub use trace_url::TraceUrl;

/// What the handlers work with. Clones share it.
#[derive(Clone)]
pub struct App {
    ledger: Ledger,
    amqp: AmqpLink,
    signals: Signals,
    /// `None` where the API stands alone.
    vitals: Option<Vitals>,
    throttle: Arc<Throttle>,
    scaling: Arc<Scaling>,
    refusals: Arc<Refusals>,
    followers: Arc<Followers>,
    /// What those who follow are told.
    hub: Arc<Hub>,
    throughput: Arc<throughput::Kept>,
    costs: Arc<cost::Kept>,
    cost_sums: Arc<cost::Kept>,
    failures: Arc<failures::Kept>,
    queues: Arc<queues::Kept>,
    /// Where a trace can be looked at.
    trace_url: Option<Arc<TraceUrl>>,
    /// Cancelled when the API stops: event streams, which never end by themselves, end then.
    closing: CancellationToken,
}

impl App {
    /// An API over these.
    #[must_use]
    pub fn new(ledger: Ledger, amqp: AmqpLink, signals: Signals) -> App {
        let throttle = Arc::new(Throttle::new(ThrottleRules::default()));
        let followers = Arc::new(Followers::new(StreamLimits::default()));
        let scaling = Scaling::new(ledger.clone(), WaitTargets::default());
        App {
            ledger,
            amqp,
            signals,
            vitals: None,
            throttle,
            scaling,
            refusals: Arc::default(),
            followers,
            hub: Arc::default(),
            throughput: throughput::kept(),
            costs: cost::kept(),
            cost_sums: cost::sums_kept(),
            failures: failures::kept(),
            queues: queues::kept(),
            trace_url: None,
            closing: CancellationToken::new(),
        }
    }

    /// The same with these limits.
    #[must_use]
    pub fn with_limits(self, rules: ThrottleRules) -> App {
        let followers = Arc::new(Followers::new(rules.streams));
        App { throttle: Arc::new(Throttle::new(rules)), followers, ..self }
    }

    /// The same, telling where a job's trace can be looked at.
    #[must_use]
    pub fn with_trace_url(self, url: Option<TraceUrl>) -> App {
        App { trace_url: url.map(Arc::new), ..self }
    }

    /// The same with advice on the number of workers from here.
    pub(crate) fn with_scaling(self, scaling: Arc<Scaling>) -> App {
        App { scaling, ..self }
    }

    /// The same as part of a dispatcher, of which it tells how it does.
    pub(crate) fn with_vitals(self, vitals: Vitals) -> App {
        App { vitals: Some(vitals), ..self }
    }
}

/// Serves the API on `listener` over plain HTTP, as behind a proxy that speaks TLS, until `stop` is over and the requests
/// under way have been answered.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(
    listener: TcpListener,
    app: App,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    serve_through(Door::plain(), listener, app, stop).await
}

/// Serves the API on `listener` behind `door`, until `stop` is over and the requests under way have been answered.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve_through(
    door: Door,
    listener: TcpListener,
    app: App,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let closing = app.closing.clone();
    let look = tokio::spawn(app.hub.clone().look(app.clone(), closing.clone()));
    let served = door::receive(door, listener, app.clone(), router(app), stop).await;
    closing.cancel();
    if let Err(error) = look.await {
        tracing::error!(%error, "those who followed were told nothing new");
    }
    served
}

/// Every route of the table behind its right, with problems for everything else.
fn router(app: App) -> Router {
    let mut router = Router::new();
    let routes = routes::all();
    let probes = Probes(routes.iter().filter(|route| route.is_probe).map(|route| route.path).collect());
    for route in routes {
        let needs = Needs { right: route.right, reach: route.reach };
        let handler = match route.right {
            Right::Open => route.handler,
            Right::Read | Right::Submit | Right::Control | Right::Administer => {
                route.handler.route_layer(from_fn_with_state((app.clone(), needs), access::check))
            }
        };
        router = router.route(route.path, handler);
    }
    router
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state((app.clone(), probes), throttle::by_address))
        .layer(from_fn(observe::observe))
        .with_state(app)
}

async fn unknown_route(uri: Uri) -> ApiError {
    ApiError::new(Kind::NotFound, format!("there is no route {}; GET /openapi.json lists all", uri.path()))
}

async fn wrong_method(uri: Uri) -> ApiError {
    ApiError::new(Kind::MethodNotAllowed, format!("{} takes the methods named in the header Allow", uri.path()))
}

#[cfg(test)]
mod tests {
    use ffpool_schema::access::Role;

    use super::*;
    use crate::api::access::Reach;

    #[test]
    fn the_guide_names_every_route_with_its_role_and_every_kind_of_problem() {
        let guide = include_str!("../../docs/api.md");
        for route in routes::all() {
            let role = match route.right {
                Right::Open => "no key",
                right => Role::least(right).as_str(),
            };
            let role = match route.reach {
                Reach::Realm => role.to_owned(),
                Reach::Pool => format!("{role}, pool"),
            };
            let row = format!("| `{} {}` | {role} |", route.method, route.path);
            assert!(guide.contains(&row), "docs/api.md lacks the row: {row}");
        }
        for (name, status, _) in Kind::ALL.map(Kind::entry) {
            assert!(guide.contains(&format!("| `{name}` | {} |", status.as_u16())), "docs/api.md lacks {name}");
        }
    }
}
