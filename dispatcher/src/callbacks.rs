//! Tells the outside that jobs have ended: the leader sends what stands in the ledger's `callback` table.
//!
//! Invariants: a callback is sent at least once, each try under the same delivery id, and is done with only after an answer
//! of 2xx or 410, after the time that the operator gives, or where its URL names an address that is not allowed; a
//! connection goes only to an address that the operator allows, which is the one that was judged, and nowhere else from there.

mod post;
mod secrets;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ffpool_runtime::guard::Cidr;
use ffpool_schema::callback::{CallbackArtifact, CallbackBody, event_of};
use ffpool_schema::metrics as names;
use ffpool_schema::retry::Backoff;
use jiff::Timestamp;
use metrics::{counter, histogram};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::ledger::read::JobRef;
use crate::ledger::{Leadership, Ledger, PendingCallback, Realm, TryOutcome, TryRecord};
use post::Failure;
pub use secrets::{CallbackSecret, Secrets};

/// How often what is due is looked for.
const SWEEP: Duration = Duration::from_millis(250);
/// Callbacks under way at once.
const IN_FLIGHT: usize = 64;
/// Of these, to one host: a receiver that hangs does not hold up the others.
const PER_HOST: usize = 8;
/// For tries that are under way when it stops: less than the dispatcher gives its parts.
const LAST_TRIES: Duration = Duration::from_secs(5);

/// How callbacks are sent.
#[derive(Debug, Clone)]
pub(crate) struct CallbackRules {
    /// Addresses that are not public and may be called all the same.
    pub(crate) allowed: Arc<[Cidr]>,
    /// What signs them.
    pub(crate) secrets: Arc<Secrets>,
    /// The wait between tries.
    pub(crate) backoff: Backoff,
    /// After so long a callback is given up.
    pub(crate) give_up: Duration,
}

/// Sends callbacks while this dispatcher leads.
pub(crate) struct Courier {
    pub(crate) ledger: Ledger,
    pub(crate) leadership: Leadership,
    pub(crate) rules: CallbackRules,
}

impl Courier {
    /// Works until `stop`, and then for [`LAST_TRIES`] at most, for tries that are under way. What is under way after that is
    /// sent again by the next leader.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let courier = Arc::new(self);
        let mut under_way: JoinSet<String> = JoinSet::new();
        // How many are under way to each host. Owned by this loop.
        let mut hosts: HashMap<String, usize> = HashMap::new();
        let mut tick = tokio::time::interval(SWEEP);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    if courier.leadership.is_held() && under_way.len() < IN_FLIGHT {
                        for pending in courier.due(IN_FLIGHT - under_way.len(), &hosts).await {
                            let host = pending.host();
                            *hosts.entry(host.clone()).or_default() += 1;
                            let courier = Arc::clone(&courier);
                            under_way.spawn(async move { courier.deliver(pending).await; host });
                        }
                    }
                }
                Some(ended) = under_way.join_next() => match ended {
                    Ok(host) => release(&mut hosts, &host),
                    // Which one is not known any more: the counts begin anew.
                    Err(error) => { warn!(%error, "a callback's task failed"); hosts.clear(); }
                },
                () = stop.cancelled() => break,
            }
        }
        let _ = tokio::time::timeout(LAST_TRIES, async { while under_way.join_next().await.is_some() {} }).await;
        under_way.shutdown().await;
    }

    async fn due(&self, room: usize, hosts: &HashMap<String, usize>) -> Vec<PendingCallback> {
        match self.ledger.claim_callbacks(room, PER_HOST, hosts).await {
            Ok(due) => due,
            Err(error) => {
                debug!(%error, "callbacks were not looked for");
                Vec::new()
            }
        }
    }

    async fn deliver(&self, pending: PendingCallback) {
        let began = Instant::now();
        let sent = self.send(&pending).await;
        let took = began.elapsed();
        histogram!(names::CALLBACK_SECONDS).record(took.as_secs_f64());
        let outcome = self.judge(&pending, &sent);
        let counted = match outcome {
            TryOutcome::Delivered => "delivered",
            TryOutcome::Again { .. } => "failed",
            TryOutcome::GivenUp => "given_up",
        };
        counter!(names::CALLBACKS, "outcome" => counted).increment(1);
        let (status, error) = match sent {
            Ok(status) => (Some(status), None),
            Err(failure) => (failure.status, Some(failure.reason)),
        };
        match (&outcome, &error) {
            (TryOutcome::Delivered, _) => {
                info!(job = %pending.job, delivery = %pending.id, tries = pending.tries, "a callback was delivered");
            }
            (TryOutcome::GivenUp, error) => {
                warn!(job = %pending.job, delivery = %pending.id, tries = pending.tries, ?error, "a callback was given up");
            }
            (TryOutcome::Again { .. }, error) => debug!(job = %pending.job, ?error, "a callback failed, trying again"),
        }
        let record = TryRecord { took, status, error, outcome };
        if let Err(error) = self.ledger.settle_callback(&pending, &record).await {
            debug!(%error, delivery = %pending.id, "a callback's outcome is not recorded; it is sent once more");
        }
    }

    fn judge(&self, pending: &PendingCallback, sent: &Result<u16, Failure>) -> TryOutcome {
        match sent {
            Ok(_) => TryOutcome::Delivered,
            Err(failure) if failure.is_final => TryOutcome::GivenUp,
            Err(_) => {
                let wait = self.rules.backoff.after(pending.tries, rand::random::<f64>());
                if pending.age + wait > self.rules.give_up { TryOutcome::GivenUp } else { TryOutcome::Again { wait } }
            }
        }
    }

    /// One try.
    async fn send(&self, pending: &PendingCallback) -> Result<u16, Failure> {
        let detail = match self.ledger.job(&Realm::Pool, JobRef::Id(pending.job)).await {
            Ok(Some(detail)) => detail,
            Ok(None) => return Err(Failure::lasting("the job is gone from the ledger")),
            Err(error) => return Err(Failure::passing(format!("read the job: {error}"))),
        };
        let artifacts = detail.manifest.into_iter().flat_map(|manifest| manifest.artifacts).map(|artifact| {
            CallbackArtifact { url: artifact.url, size_bytes: artifact.size_bytes, sha256: artifact.sha256 }
        });
        let body = CallbackBody {
            delivery: pending.id,
            event: event_of(pending.state),
            state: pending.state,
            ended_at: pending.ended_at,
            artifacts: artifacts.collect(),
            job: detail.job,
        };
        let body = serde_json::to_vec(&body).map_err(|error| Failure::lasting(format!("write the body: {error}")))?;
        let Some(secret) = self.rules.secrets.of(pending.tenant.as_deref()) else {
            return Err(Failure::passing("there is no secret to sign it with: FFPOOL_CALLBACK_SECRET"));
        };
        let signature = secret.sign(Timestamp::now().as_second(), &body);
        post::post(pending, body, &signature, &self.rules.allowed).await
    }
}

fn release(hosts: &mut HashMap<String, usize>, host: &str) {
    if let Some(count) = hosts.get_mut(host) {
        *count -= 1;
        if *count == 0 {
            hosts.remove(host);
        }
    }
}
