//! The HTTP API over real servers: one dispatcher's API for each test, on a database of its own.

mod audit;
mod catalog;
mod cost;
mod dashboard;
mod dead_letters;
mod explain;
mod failures;
mod job_pages;
mod jobs;
mod keys;
mod limits;
mod outage;
mod pages;
mod pausing;
mod routes;
mod scale;
mod search;
mod sessions;
mod stream;
mod tenants;
mod thumbnails;
mod tls;
mod workers;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ffpool_broker::{AmqpConfig, AmqpLink, Signals};
use ffpool_dispatcher::api::{App, Door, ThrottleRules, serve, serve_through};
use ffpool_dispatcher::ledger::keys::{NewKey, Role};
use ffpool_dispatcher::ledger::{Ledger, LedgerSettings, Policy};
use ffpool_dispatcher::limits::RateLimits;
use ffpool_schema::access::Permit;
use ffpool_schema::catalog::Catalog;
use ffpool_schema::cost::Prices;
use ffpool_schema::retry::Backoff;
use ffpool_schema::topology::Topology;
use ffpool_stack::Stack;
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::by;

/// Longest wait for a fact; the machine may be busy.
const BOUND: Duration = Duration::from_secs(60);
/// Where these APIs say that traces can be looked at.
const TRACE_URL: &str = "https://jaeger.example/trace/{trace_id}";

/// A running API and the servers behind it.
struct Api {
    base: String,
    http: reqwest::Client,
    /// A key of the role admin.
    admin: String,
    ledger: Ledger,
    sql: tokio_postgres::Client,
    signals: Signals,
    amqp: AmqpLink,
    stop: CancellationToken,
    served: JoinHandle<std::io::Result<()>>,
}

impl Api {
    /// An API on the stack that all tests share.
    async fn start() -> Api {
        Api::start_with(Catalog::default()).await
    }

    /// The same, with scenarios and templates of the operator's.
    async fn start_with(catalog: Catalog) -> Api {
        // Tests ask as fast as they can.
        Api::start_by(catalog, ThrottleRules { limits: RateLimits::OFF, ..ThrottleRules::default() }).await
    }

    /// An API with limits on what it may be asked.
    async fn start_limited(rules: ThrottleRules) -> Api {
        Api::start_by(Catalog::default(), rules).await
    }

    async fn start_by(catalog: Catalog, rules: ThrottleRules) -> Api {
        let stack = Stack::shared();
        let (amqp, database) = (stack.rabbit.new_vhost(), stack.postgres.new_database());
        let api = Api::start_as(&amqp, &stack.nats.url(), &database, catalog, rules).await;
        api.amqp.connected(BOUND).await.unwrap();
        ffpool_broker::declare_topology(&api.amqp, &Topology::for_pools(&[])).await.unwrap();
        until("NATS is connected", async || api.signals.is_up().then_some(()).ok_or("not yet".to_owned())).await;
        api
    }

    /// An API on these servers, of which only Postgres must be there.
    async fn start_on(amqp: &str, nats: &str, database: &str) -> Api {
        Api::start_as(amqp, nats, database, Catalog::default(), ThrottleRules::default()).await
    }

    async fn start_as(amqp: &str, nats: &str, database: &str, catalog: Catalog, rules: ThrottleRules) -> Api {
        ffpool_runtime::install_crypto();
        let prices = Prices { core_hour: Some(0.5), currency: "EUR".to_owned(), ..Prices::default() };
        let policy = Policy { lease: Duration::from_secs(5), backoff: Backoff::default(), loss_limit: 3 };
        let ledger = Ledger::open(&LedgerSettings {
            database_url: database.to_owned(),
            migration_url: None,
            amqp_tenants: Default::default(),
            policy,
            catalog: Arc::new(catalog),
            secrets: Arc::default(),
            prices,
        })
        .await
        .unwrap();
        let (sql, connection) = tokio_postgres::connect(database, NoTls).await.unwrap();
        tokio::spawn(connection);
        let amqp = AmqpLink::open(AmqpConfig::new(amqp, "api-test"));
        let signals = Signals::open(nats, "api-test").await.unwrap();
        let admin = minted(&ledger, &NewKey::of("test-admin", Role::Admin)).await;

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let app = App::new(ledger.clone(), amqp.clone(), signals.clone())
            .with_limits(rules)
            .with_trace_url(Some(TRACE_URL.parse().unwrap()));
        let served = tokio::spawn(serve(listener, app, stop.clone().cancelled_owned()));
        Api { base, http: reqwest::Client::new(), admin, ledger, sql, signals, amqp, stop, served }
    }

    /// The same API once more, behind a door of its own. Gives where it listens; it ends with this one.
    async fn open_door(&self, door: Door) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let rules = ThrottleRules { limits: RateLimits::OFF, ..ThrottleRules::default() };
        let app = App::new(self.ledger.clone(), self.amqp.clone(), self.signals.clone())
            .with_limits(rules)
            .with_trace_url(Some(TRACE_URL.parse().unwrap()));
        tokio::spawn(serve_through(door, listener, app, self.stop.clone().cancelled_owned()));
        address
    }

    /// The text of a new key.
    async fn mint(&self, new: &NewKey) -> String {
        minted(&self.ledger, new).await
    }

    fn request(&self, method: &str, path: &str) -> RequestBuilder {
        self.http.request(method.parse().unwrap(), format!("{}{path}", self.base)).timeout(BOUND)
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.request("GET", path).bearer_auth(&self.admin)
    }

    fn post(&self, path: &str) -> RequestBuilder {
        self.request("POST", path).bearer_auth(&self.admin)
    }

    /// Asks for `path` and expects a good answer in JSON.
    async fn show(&self, path: &str) -> Value {
        answer(self.get(path), 200).await
    }

    /// A job in `state`, written past the ledger.
    async fn insert_job(&self, state: &str) -> Uuid {
        let id = Uuid::now_v7();
        let sql = "INSERT INTO job (id, state, queue, priority, pool, scenario, body, content_type, tapped, max_retries) \
                   VALUES ($1, $2, 'default', 'medium', 'cpu', '720p-h264', '{}', 'application/json', true, 3)";
        self.sql.execute(sql, &[&id, &state]).await.unwrap();
        id
    }

    /// Changes a job's row past the ledger.
    async fn update_job(&self, id: Uuid, assignments: &str) {
        let sql = format!("UPDATE job SET {assignments} WHERE id = $1");
        assert_eq!(self.sql.execute(&sql, &[&id]).await.unwrap(), 1);
    }

    /// A worker's row, written past the ledger.
    async fn insert_worker(&self, id: &str) {
        let capacity = json!({"slots": 2, "used": 1, "cpu_percent": 200, "memory_mb": 4096, "disk_mb": 9000});
        let ability = json!({"cpu_percent": 200, "memory_mb": 4096, "disk_mb": 9000, "encoders": [], "noop": true, "cgroups": true});
        let sql = "INSERT INTO worker (id, incarnation, seq, host, version, state, pools, capacity, ability, running) \
                   VALUES ($1, $2, 1, 'host', '0.1.0', 'ready', '{cpu}', $3, $4, '{}')";
        self.sql.execute(sql, &[&id, &Uuid::now_v7(), &capacity, &ability]).await.unwrap();
    }

    /// Stops the API and waits until it has.
    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(BOUND, self.served).await.expect("the API stops").unwrap().unwrap();
    }
}

async fn minted(ledger: &Ledger, new: &NewKey) -> String {
    let (key, _) = ledger.create_key(new, &by("setup"), &Permit::of(Role::Admin)).await.unwrap();
    key.text().to_owned()
}

/// Sends `request`, expects `status` and reads the JSON of the answer.
async fn answer(request: RequestBuilder, status: u16) -> Value {
    let response = request.send().await.unwrap();
    let url = response.url().clone();
    let got = response.status().as_u16();
    let text = response.text().await.unwrap();
    assert_eq!(got, status, "{url}: {text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{url}: {error}: {text}"))
}

/// Sends `request` and expects a problem of `status`, with the headers that every answer has; gives its detail.
async fn problem(request: RequestBuilder, status: u16) -> String {
    let response = request.send().await.unwrap();
    let url = response.url().clone();
    let got = response.status().as_u16();
    let headers = response.headers().clone();
    let text = response.text().await.unwrap();
    assert_eq!(got, status, "{url}: {text}");
    assert_eq!(headers["content-type"], "application/problem+json", "{url}");
    assert_eq!(headers["x-content-type-options"], "nosniff", "{url}");
    let problem: ffpool_schema::api::Problem = serde_json::from_str(&text).unwrap();
    assert_eq!(problem.status, status);
    assert_eq!(headers.contains_key("www-authenticate"), status == 401, "{url}");
    assert_eq!(headers.contains_key("retry-after"), matches!(status, 429 | 503), "{url}");
    problem.detail
}

/// Waits until `check` is fulfilled; fails with what it said last.
async fn until<T>(fact: &str, check: impl AsyncFn() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        match check().await {
            Ok(value) => return value,
            Err(last) if began.elapsed() > BOUND => panic!("not within {BOUND:?}: {fact}; last seen: {last}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Fails when `work` takes longer than anything may.
async fn within_bound<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, work).await.unwrap_or_else(|_| panic!("not within {BOUND:?}: {what}"))
}

/// The text of an answer; of a stream that does not end by itself as much as it tells at its start.
async fn text_of(mut response: Response) -> String {
    let is_stream = response.headers()["content-type"] == "text/event-stream" && response.url().path() == "/v1/events";
    if !is_stream {
        return response.text().await.unwrap();
    }
    let mut text = String::new();
    let reading = async {
        while !text.contains("event: queues") {
            let chunk = response.chunk().await.unwrap().unwrap_or_else(|| panic!("the stream ended: {text}"));
            text.push_str(&String::from_utf8_lossy(&chunk));
        }
    };
    within_bound("the stream tells of the queues", reading).await;
    text
}

/// The whole text of a server-sent event stream that ends by itself.
async fn stream_text(response: Response) -> String {
    within_bound("the event stream ends", response.text()).await.unwrap()
}
