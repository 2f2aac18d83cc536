//! Stands before every request: by address, by key and by tenant no more than the limits allow.
//!
//! Requests by address have a bucket, probes of health another, so that neither starves the other. Keys that are not known have
//! a stricter one, by address: when it is empty, only keys that were good lately are looked up.
//!
//! Invariant: what is refused by address, or for keys that are not known, costs no question to the ledger, and what is remembered
//! has a bound. Whose a key is has to be looked up before its own limit and its tenant's are.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use ffpool_runtime::guard::Cidr;
use ffpool_schema::metrics::HTTP_RATE_LIMITED;

use crate::api::App;
use crate::api::followers::StreamLimits;
use crate::api::problem::{Answer, ApiError};
use crate::ledger::Ledger;
use crate::ledger::keys::{Admission, Caller};
use crate::ledger::read::ReadError;
use crate::limits::{Buckets, Limit, Origin, ProxyHeader, Rate, RateLimits, Until, client_address};

/// Clients, keys or tenants that are remembered in one table: a few megabytes.
const ROOM: usize = 50_000;
/// So long after its last use a key counts as good without a look into the ledger.
const GOOD_FOR: Duration = Duration::from_secs(3600);

/// After this it is worth another try for whom too much is under way.
const AT_ONCE_AGAIN: Duration = Duration::from_secs(1);

/// Who is limited, and by what.
#[derive(Debug, Clone, Default)]
pub struct ThrottleRules {
    /// How much.
    pub limits: RateLimits,
    /// How many event streams.
    pub streams: StreamLimits,
    /// Proxies whose word for the client's address is taken.
    pub trusted_proxies: Arc<[Cidr]>,
    /// Where they say it.
    pub proxy_header: ProxyHeader,
}

/// The address that a request comes from, as far as it is known; every request has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientAddress(pub(crate) IpAddr);

impl ClientAddress {
    /// Of a request that has passed [`by_address`].
    pub(crate) fn of(request: &Request) -> ClientAddress {
        request.extensions().get().copied().unwrap_or(ClientAddress(Ipv4Addr::UNSPECIFIED.into()))
    }
}

/// What is counted by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Address,
    Probe,
    Key,
    Tenant,
    FailedKey,
}

impl By {
    /// The label of the metric.
    fn as_str(self) -> &'static str {
        match self {
            By::Address => "address",
            By::Probe => "probe",
            By::Key => "key",
            By::Tenant => "tenant",
            By::FailedKey => "failed_key",
        }
    }
}

/// The buckets of one dispatcher's API.
pub(crate) struct Throttle {
    rules: ThrottleRules,
    began: Instant,
    addresses: Mutex<Buckets<Origin>>,
    probes: Mutex<Buckets<Origin>>,
    /// By tenant and name: keys that overlap while they are rotated share one.
    keys: Mutex<Buckets<(Option<String>, String)>>,
    tenants: Mutex<Buckets<String>>,
    failed: Mutex<Buckets<Origin>>,
    /// Hashes of keys that were good lately.
    good: Mutex<Until<u64>>,
    /// Nobody outside can find two keys of the same hash; and if: the ledger is asked then.
    hasher: RandomState,
}

impl Throttle {
    pub(crate) fn new(rules: ThrottleRules) -> Throttle {
        Throttle {
            rules,
            began: Instant::now(),
            addresses: Mutex::new(Buckets::new(ROOM)),
            probes: Mutex::new(Buckets::new(ROOM)),
            keys: Mutex::new(Buckets::new(ROOM)),
            tenants: Mutex::new(Buckets::new(ROOM)),
            failed: Mutex::new(Buckets::new(ROOM)),
            good: Mutex::new(Until::new(ROOM)),
            hasher: RandomState::new(),
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Proxies whose word for their clients' addresses is taken.
    pub(crate) fn trusted_proxies(&self) -> Arc<[Cidr]> {
        self.rules.trusted_proxies.clone()
    }

    /// Whom a request comes from.
    pub(crate) fn address_of(&self, request: &Request) -> IpAddr {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
        // Without a peer all would share one bucket: too little is allowed then, never too much.
        let peer = peer.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        client_address(peer, request.headers(), self.rules.proxy_header, &self.rules.trusted_proxies)
    }

    fn take<K: Eq + Hash>(&self, by: By, buckets: &Mutex<Buckets<K>>, key: K, rate: Option<Rate>) -> Answer<()> {
        let Some(rate) = rate else { return Ok(()) };
        locked(buckets).take(key, rate, self.now()).map_err(|wait| refused(by, rate, wait))
    }

    /// What a key is, within the limits of keys that are not known, of the key, and of its tenant.
    pub(crate) async fn admit(&self, app: &App, address: ClientAddress, key: &str) -> Answer<Admission> {
        self.admitted(app, address, self.hasher.hash_one(key), app.ledger.admit(key)).await
    }

    /// Whose session it is, within the same limits.
    pub(crate) async fn admit_session(
        &self,
        app: &App,
        address: ClientAddress,
        secret: &str,
        counts: bool,
    ) -> Answer<Admission> {
        let hash = self.hasher.hash_one(("session", secret));
        self.admitted(app, address, hash, app.ledger.admit_session(secret, counts)).await
    }

    async fn admitted(
        &self,
        app: &App,
        address: ClientAddress,
        hash: u64,
        look: impl Future<Output = Result<Admission, ReadError>>,
    ) -> Answer<Admission> {
        let origin = Origin::of(address.0);
        self.may_try(origin, hash)?;
        let mut caller = match look.await? {
            Admission::Valid(caller) => caller,
            void @ (Admission::Void { .. } | Admission::Unknown) => {
                self.note_failed(origin, hash);
                return Ok(void);
            }
        };
        caller.actor.address = Some(address.0);
        locked(&self.good).set(hash, self.now() + GOOD_FOR, self.now());
        self.known(&app.ledger, &caller)?;
        Ok(Admission::Valid(caller))
    }

    /// Somebody who is known asks.
    pub(crate) fn known(&self, ledger: &Ledger, caller: &Caller) -> Answer<()> {
        let owner = (caller.tenant().map(str::to_owned), caller.actor.name.clone());
        self.take(By::Key, &self.keys, owner, self.rules.limits.key.0)?;
        let Some(tenant) = caller.tenant() else { return Ok(()) };
        self.take(
            By::Tenant,
            &self.tenants,
            tenant.to_owned(),
            ledger.tenant_rate(tenant).or(self.rules.limits.tenant.0),
        )
    }

    fn may_try(&self, origin: Origin, hash: u64) -> Answer<()> {
        let Limit(Some(rate)) = self.rules.limits.failed else { return Ok(()) };
        let Some(wait) = locked(&self.failed).wait(&origin, rate, self.now()) else { return Ok(()) };
        let is_good = locked(&self.good).get(&hash).is_some_and(|until| until > self.now());
        if is_good { Ok(()) } else { Err(refused(By::FailedKey, rate, wait)) }
    }

    fn note_failed(&self, origin: Origin, hash: u64) {
        locked(&self.good).remove(&hash);
        if let Limit(Some(rate)) = self.rules.limits.failed {
            // Several at once may find the last token; what is empty stays so.
            let _ = locked(&self.failed).take(origin, rate, self.now());
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refused(by: By, rate: Rate, wait: Duration) -> ApiError {
    metrics::counter!(HTTP_RATE_LIMITED, "by" => by.as_str()).increment(1);
    let what = match by {
        By::Address => format!("more requests come from this address than it may send ({rate})"),
        By::Probe => format!("more questions about health come from this address than it may ask ({rate})"),
        By::Key => format!("more requests carry this key than it may send ({rate})"),
        By::Tenant => format!("more requests come from this tenant's keys than it may send ({rate})"),
        By::FailedKey => {
            format!("too many keys that are not known here came from this address ({rate} are looked up)")
        }
    };
    ApiError::too_many(format!("{what}; repeat the request after the time in Retry-After"), wait)
}

/// As many requests of one client are under way as may be.
pub(crate) fn too_many_at_once(most: usize) -> ApiError {
    metrics::counter!(HTTP_RATE_LIMITED, "by" => By::Address.as_str()).increment(1);
    let detail = format!(
        "{most} requests of this address are under way, and no more may be; repeat the request when some have ended"
    );
    ApiError::too_many(detail, AT_ONCE_AGAIN)
}

/// The routes that are limited apart from all others.
#[derive(Clone)]
pub(crate) struct Probes(pub(crate) Arc<[&'static str]>);

/// Finds out whom a request comes from and lets it pass while the address is within its limit.
pub(crate) async fn by_address(
    State((app, probes)): State<(App, Probes)>,
    mut request: Request,
    next: Next,
) -> Response {
    let throttle = &app.throttle;
    let address = throttle.address_of(&request);
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let (by, buckets) = match path {
        Some(path) if probes.0.contains(&path) => (By::Probe, &throttle.probes),
        Some(_) | None => (By::Address, &throttle.addresses),
    };
    if let Err(refused) = throttle.take(by, buckets, Origin::of(address), throttle.rules.limits.address.0) {
        return refused.into_response();
    }
    request.extensions_mut().insert(ClientAddress(address));
    next.run(request).await
}
