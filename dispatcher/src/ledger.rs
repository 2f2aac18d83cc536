//! The ledger: the only place that knows Postgres, and the authority on who may run and who may commit.
//!
//! Everything that happens to a job goes through [`Ledger::apply`]: one of a few writers takes what is waiting, decides
//! it with [`ffpool_schema::lifecycle::step`] under the lock of the job's row, and commits. What follows (publish, tell
//! the owner) happens after the commit and may be lost; the leader finds what was left undone and does it.
//!
//! Invariant: nobody is answered before the answer is durable.

mod actor;
mod anonymous;
mod audit;
mod batch;
mod callbacks;
mod connect;
mod cost;
mod curves;
mod dead_letters;
mod effects;
mod failures;
mod families;
mod fresh;
pub mod keys;
mod kind;
mod leader;
mod leases;
mod load;
mod outbox;
mod placing;
mod publishers;
mod queues;
mod quotas;
pub mod read;
mod rebuild;
mod record;
mod removal;
mod retention;
pub(crate) mod scale;
mod schedules;
mod search;
pub mod sessions;
mod strays;
mod survey;
mod sweeps;
mod tables;
mod tales;
pub mod tenants;
mod thumbnails;
mod turns;
pub mod workers;
mod writer;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use deadpool_postgres::Pool;
use ffpool_runtime::tls::{Server, warn_of_plain_links};
use ffpool_runtime::traces::Asked;
use ffpool_schema::api::Submitted;
use ffpool_schema::catalog::Catalog;
use ffpool_schema::cost::Prices;
use ffpool_schema::id::{Incarnation, JobId, WorkerId};
use ffpool_schema::lifecycle::{Input, Refusal, State, Step};
use ffpool_schema::message::Sender;
use ffpool_schema::parse::{Fault, Parsed, Received, parse_asked};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use uuid::Uuid;

pub use actor::{Actor, Realm};
pub use anonymous::{AnonymousClaim, AnonymousVerdict, OwnedAttempt};
pub use audit::Entry;
pub use callbacks::{PendingCallback, TryOutcome, TryRecord};
pub use cost::{CostBy, Summed};
pub use families::Relative;
pub use fresh::{NewJob, Origin};
pub use leader::Leadership;
pub use leases::{Beats, Outdated};
pub use outbox::{Published, ToPublish};
pub use placing::Wanted;
pub use publishers::AmqpTenants;
pub use quotas::FullTenant;
pub use rebuild::{Adopted, Differing, Rebuilt};
pub use record::{Decided, Evidence, Happening, Lessons, OnlyIf, Policy, TellOwner, Verdict};
pub use retention::{FORGOTTEN_AT_ONCE, Forgotten, Keep, Retention};
pub use schedules::{Due, DueRun, RunOutcome, ScheduleError};
pub use strays::Stray;
pub use sweeps::OpenJobs;
pub use tales::Via;
pub use writer::ApplyError;

use crate::callbacks::Secrets;
use effects::Outlets;
use publishers::Publishers;
use queues::PausedQueues;
use quotas::TenantRates;
use turns::Contests;
use writer::{Ask, Writer};

/// Settings that have addresses of Postgres.
const DATABASE_URL: &str = "FFPOOL_DATABASE_URL";
const MIGRATION_DATABASE_URL: &str = "FFPOOL_MIGRATION_DATABASE_URL";

/// Writers of one dispatcher: while one waits for the disk, the other decides.
const WRITERS: usize = 2;
/// Connections of readers: the API and the timers.
const READERS: usize = 8;
/// Connections for transactions outside the writers: messages without an id, heartbeats, the outbox.
const SIDE_WRITERS: usize = 6;
/// Longest that somebody at the API waits for a change.
const CONTROL: Duration = Duration::from_secs(10);

/// For a conversation outside the writers.
const SIDE: Duration = Duration::from_secs(10);

/// How to reach the ledger and by which rules it decides.
#[derive(Debug, Clone)]
pub struct LedgerSettings {
    /// URL of the database.
    pub database_url: String,
    /// The same with the account that owns the tables, where that is another.
    pub migration_url: Option<String>,
    /// The rules.
    pub policy: Policy,
    /// The operator's scenarios and templates.
    pub catalog: Arc<Catalog>,
    /// What signs callbacks: a job whose callback nothing could sign is not taken.
    pub secrets: Arc<Secrets>,
    /// What work costs.
    pub prices: Prices,
    /// Which jobs over AMQP are taken without a proof of whose they are.
    pub amqp_tenants: AmqpTenants,
}

/// A handle on the ledger. Clones share it.
#[derive(Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
}

struct Inner {
    readers: Pool,
    writers: Pool,
    connection: connect::Place,
    /// One queue for each writer; a job's happenings always go to the same.
    asks: Vec<mpsc::Sender<Ask>>,
    /// What keeps each writer from committing.
    troubles: Vec<watch::Receiver<Option<String>>>,
    policy: Policy,
    catalog: Arc<Catalog>,
    secrets: Arc<Secrets>,
    prices: Prices,
    outlets: Outlets,
    paused_queues: PausedQueues,
    tenant_rates: TenantRates,
    amqp_tenants: AmqpTenants,
    publishers: Publishers,
    contests: Contests,
    /// Who looks at every attempt, and who waits for that.
    cost_walks: cost::Walks,
    /// Taken by the one task that publishes.
    to_publish: Mutex<Option<mpsc::Receiver<JobId>>>,
    /// Taken by the one task that follows families.
    relatives: Mutex<Option<mpsc::Receiver<Relative>>>,
}

/// Why a job was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// It is not valid; nothing was recorded.
    #[error("the job is not valid")]
    Invalid(Vec<Fault>),
    /// It is unknown whether it was recorded: submit it again under the same id.
    #[error("the ledger is unavailable: {0}")]
    Unavailable(String),
}

/// Why a job was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no such job.
    #[error("there is no such job")]
    NotFound,
    /// The job does not allow it now.
    #[error(transparent)]
    Refused(Refusal),
    /// It is unknown whether it happened.
    #[error("the ledger is unavailable: {0}")]
    Unavailable(String),
}

impl From<Unavailable> for SubmitError {
    fn from(error: Unavailable) -> SubmitError {
        SubmitError::Unavailable(error.0)
    }
}

impl From<Unavailable> for ControlError {
    fn from(error: Unavailable) -> ControlError {
        ControlError::Unavailable(error.0)
    }
}

/// Postgres did not do what was asked of it outside the writers; it may be asked again.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the ledger is unavailable: {0}")]
pub struct Unavailable(String);

impl Unavailable {
    /// For this reason.
    pub(crate) fn because(reason: impl Into<String>) -> Unavailable {
        Unavailable(reason.into())
    }
}

impl From<tokio_postgres::Error> for Unavailable {
    fn from(error: tokio_postgres::Error) -> Unavailable {
        Unavailable(ffpool_runtime::settings::chain(&error))
    }
}

impl From<deadpool_postgres::PoolError> for Unavailable {
    fn from(error: deadpool_postgres::PoolError) -> Unavailable {
        Unavailable(ffpool_runtime::settings::chain(&error))
    }
}

/// Who submits a job through the API.
#[derive(Debug, Clone, Default)]
pub struct Submitter {
    /// Whose jobs they may hand in; a job of a tenant's is this tenant's, also if it does not say so.
    pub realm: Realm,
    /// The request, where there is one.
    pub asked: Option<Asked>,
}

/// What works.
#[derive(Debug, Clone)]
pub struct Health {
    /// Postgres, or what is wrong with it.
    pub postgres: Result<(), String>,
    /// Whether some dispatcher runs the timers.
    pub has_leader: bool,
}

impl Ledger {
    /// Waits for Postgres, brings its tables up to date, and ends.
    ///
    /// # Errors
    /// When a URL or the tables cannot be used.
    pub async fn migrate(settings: &LedgerSettings) -> anyhow::Result<()> {
        warn_of_plain_links(&[(DATABASE_URL, Server::Postgres, &settings.database_url)]);
        let runner = connect::place(DATABASE_URL, &settings.database_url, connect::Purpose::Write)?;
        let owner = settings.migration_url.as_deref().map(|url| {
            warn_of_plain_links(&[(MIGRATION_DATABASE_URL, Server::Postgres, url)]);
            connect::place(MIGRATION_DATABASE_URL, url, connect::Purpose::Write)
        });
        let owner = owner.transpose()?;
        tables::prepare(&runner, owner.as_ref()).await
    }

    /// Waits for Postgres, brings its tables up to date and starts the writers.
    ///
    /// # Errors
    /// When the URL or the tables cannot be used.
    pub async fn open(settings: &LedgerSettings) -> anyhow::Result<Ledger> {
        let for_reads = connect::place(DATABASE_URL, &settings.database_url, connect::Purpose::Read)?;
        let for_writes = connect::place(DATABASE_URL, &settings.database_url, connect::Purpose::Write)?;
        Ledger::migrate(settings).await?;
        let (publish, to_publish) = mpsc::channel(effects::MAX_TO_PUBLISH);
        let (families, relatives) = mpsc::channel(effects::MAX_RELATIVES);
        let outlets = Outlets {
            publish,
            families,
            tell: broadcast::channel(effects::MAX_TO_TELL).0,
            prices: settings.prices.clone(),
        };
        let writers = connect::pool(&for_writes, WRITERS + SIDE_WRITERS)?;
        let (asks, troubles) = (0..WRITERS)
            .map(|_| {
                let (ask, asked) = mpsc::channel(writer::MAX_WAITING);
                let (trouble, troubled) = watch::channel(None);
                let writer = Writer {
                    pool: writers.clone(),
                    policy: settings.policy.clone(),
                    prices: settings.prices.clone(),
                    outlets: outlets.clone(),
                    connection: None,
                    trouble,
                };
                // Ends when the last handle on the ledger is dropped.
                tokio::spawn(writer.run(asked));
                (ask, troubled)
            })
            .unzip();
        Ok(Ledger {
            inner: Arc::new(Inner {
                readers: connect::pool(&for_reads, READERS)?,
                writers,
                connection: for_writes,
                asks,
                troubles,
                policy: settings.policy.clone(),
                catalog: settings.catalog.clone(),
                secrets: settings.secrets.clone(),
                prices: settings.prices.clone(),
                outlets,
                paused_queues: PausedQueues::default(),
                tenant_rates: TenantRates::default(),
                amqp_tenants: settings.amqp_tenants,
                publishers: Publishers::default(),
                contests: Contests::default(),
                cost_walks: cost::Walks::default(),
                to_publish: Mutex::new(Some(to_publish)),
                relatives: Mutex::new(Some(relatives)),
            }),
        })
    }

    /// The connections of readers.
    pub(crate) fn pool(&self) -> &Pool {
        &self.inner.readers
    }

    /// The rules.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.inner.policy
    }

    /// The operator's scenarios and templates: what is read with them is recorded without them.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.inner.catalog
    }

    /// What work costs.
    #[must_use]
    pub fn prices(&self) -> &Prices {
        &self.inner.prices
    }

    /// Reads a job by the rules of this dispatcher: with its scenarios and templates, and only what it can do.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(&self, received: &Received<'_>) -> Result<Parsed, Vec<Fault>> {
        self.read_in(&Realm::Pool, received)
    }

    /// The same for somebody whose jobs are those of `realm`.
    ///
    /// # Errors
    /// Everything that is wrong with it, such as that it is to be another tenant's.
    pub fn read_in(&self, realm: &Realm, received: &Received<'_>) -> Result<Parsed, Vec<Fault>> {
        let received = Received { catalog: Some(self.catalog()), ..received.clone() };
        let mut parsed = parse_asked(&received)?;
        if let Realm::Tenant(own) = realm {
            let tenant = parsed.spec.tenant.get_or_insert_with(|| own.clone());
            if tenant != own {
                let message = format!("this key hands in jobs of the tenant `{own}` alone: leave `tenant` out");
                return Err(vec![Fault::new("tenant", "forbidden", message)]);
            }
        }
        let spec = &parsed.spec;
        if spec.callback_url.is_some() && self.inner.secrets.of(spec.tenant.as_deref()).is_none() {
            let message =
                "callbacks are not set up: the operator gives the secret that signs them with FFPOOL_CALLBACK_SECRET";
            return Err(vec![Fault::new("callback_url", "unsupported", message)]);
        }
        Ok(parsed)
    }

    /// Whether callbacks of jobs without a tenant of their own can be signed.
    pub(crate) fn takes_callbacks(&self) -> bool {
        self.inner.secrets.of(None).is_some()
    }

    /// Commands to owners that follow from what this process decides.
    #[must_use]
    pub fn tells(&self) -> broadcast::Receiver<TellOwner> {
        self.inner.outlets.tell.subscribe()
    }

    /// Decides one happening. Answers when it is durable; waits through an outage of Postgres unless it expires.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub async fn apply(&self, happening: Happening) -> Result<Verdict, ApplyError> {
        let (answer, answered) = oneshot::channel();
        let writer = self.writer_of(happening.job);
        writer.send(Ask { happening, answer }).await.map_err(|_| ApplyError::Closed)?;
        answered.await.unwrap_or(Err(ApplyError::Closed))
    }

    /// Decides many happenings; the answers are in their order.
    pub async fn apply_all(&self, happenings: Vec<Happening>) -> Vec<Result<Verdict, ApplyError>> {
        let mut answers = Vec::with_capacity(happenings.len());
        for happening in happenings {
            let (answer, answered) = oneshot::channel();
            let sent = self.writer_of(happening.job).send(Ask { happening, answer }).await;
            answers.push(sent.map(|()| answered).map_err(|_| ApplyError::Closed));
        }
        let mut verdicts = Vec::with_capacity(answers.len());
        for answer in answers {
            verdicts.push(match answer {
                Ok(answered) => answered.await.unwrap_or(Err(ApplyError::Closed)),
                Err(closed) => Err(closed),
            });
        }
        verdicts
    }

    fn writer_of(&self, job: JobId) -> &mpsc::Sender<Ask> {
        let mut hasher = DefaultHasher::new();
        job.hash(&mut hasher);
        let writers = self.inner.asks.len() as u64;
        let index = usize::try_from(hasher.finish() % writers).expect("there are few writers");
        &self.inner.asks[index]
    }

    /// Records a job from the API; the ledger publishes it. A job whose id is there already is answered with its row.
    ///
    /// # Errors
    /// When it is not valid, or Postgres does not answer in time.
    pub async fn submit(
        &self,
        body: &[u8],
        content_type: Option<&str>,
        submitter: &Submitter,
    ) -> Result<Submitted, SubmitError> {
        let received = Received { body, content_type, ..Received::default() };
        let parsed = self.read_in(&submitter.realm, &received).map_err(SubmitError::Invalid)?;
        let spec = &parsed.spec;
        let id = spec.id.unwrap_or_else(|| JobId(Uuid::now_v7()));
        match self.tenant_fault(&submitter.realm, spec).await {
            Ok(None) => {}
            Ok(Some(fault)) => return Err(SubmitError::Invalid(vec![fault])),
            Err(Unavailable(reason)) => return Err(SubmitError::Unavailable(reason)),
        }
        if !spec.depends_on.is_empty() {
            match self.circle_of(id, spec.tenant.as_deref(), &spec.depends_on).await {
                Ok(None) => {}
                Ok(Some(fault)) => return Err(SubmitError::Invalid(vec![fault])),
                Err(Unavailable(reason)) => return Err(SubmitError::Unavailable(reason)),
            }
        }
        let traceparent = submitter.asked.and_then(|asked| asked.to_store(id));
        let new = NewJob::of_api(parsed, &received, traceparent);
        let happening = Happening {
            record: Some(Box::new(new)),
            via: submitter.asked.map_or(Via::Own, |asked| Via::Request(asked.context(id))),
            expires: Some(Instant::now() + CONTROL),
            ..Happening::new(id, Input::Arrive)
        };
        match tokio::time::timeout(CONTROL, self.apply(happening)).await {
            Err(_) => Err(SubmitError::Unavailable(format!("no answer within {CONTROL:?}"))),
            Ok(Err(error)) => Err(SubmitError::Unavailable(error.to_string())),
            Ok(Ok(Verdict::Unknown | Verdict::Skipped)) => {
                Err(SubmitError::Unavailable("the job was not recorded".to_owned()))
            }
            Ok(Ok(Verdict::Decided(decided))) => {
                Ok(Submitted { id: decided.job, number: decided.number, state: decided.state })
            }
        }
    }

    /// Cancels a job. A running one is `cancelling` until its worker has ended it.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn cancel(&self, job: JobId, by: &Actor) -> Result<State, ControlError> {
        self.control_for(job, Input::Cancel, by, None).await
    }

    /// Ends a live job that runs as if its time were over: what it has is kept, and it is completed.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn finish(&self, job: JobId, by: &Actor) -> Result<State, ControlError> {
        self.must_hold(&by.realm, job).await?;
        if !self.is_live(job).await? {
            return Err(ControlError::Refused(Refusal::NothingToFinish));
        }
        self.control_for(job, Input::Finish, by, None).await
    }

    /// Whether a job is live; one that cannot be read is not.
    async fn is_live(&self, job: JobId) -> Result<bool, ControlError> {
        let found = self.bounded(async {
            let client = self.pool().get().await?;
            let statement = client.prepare_cached(SPEC).await?;
            let row = client.query_opt(&statement, &[&job.0]).await?;
            Ok(row.map(|row| row.try_get::<_, Option<String>>(0)).transpose()?)
        });
        let spec = found.await?.ok_or(ControlError::NotFound)?;
        let spec = spec.and_then(|spec| serde_json::from_str(&spec).ok());
        Ok(spec.is_some_and(|spec| ffpool_schema::scenario::is_live(&spec)))
    }

    /// Pauses a job: one that waits is not granted, one that runs is frozen where it is.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn pause(&self, job: JobId, by: &Actor) -> Result<State, ControlError> {
        self.control_for(job, Input::Pause, by, None).await
    }

    /// Lets a paused job go on.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn resume(&self, job: JobId, by: &Actor) -> Result<State, ControlError> {
        self.control_for(job, Input::Resume, by, None).await
    }

    /// Sends a failed or cancelled job round again.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn redrive(&self, job: JobId, by: &Actor, reason: Option<&str>) -> Result<State, ControlError> {
        self.control_for(job, Input::Redrive, by, reason).await
    }

    /// Does what somebody wants of a job, and writes into the audit that they did.
    async fn control_for(
        &self,
        job: JobId,
        input: Input,
        by: &Actor,
        reason: Option<&str>,
    ) -> Result<State, ControlError> {
        self.must_hold(&by.realm, job).await?;
        let action = input.name();
        let evidence = Evidence { by: Some(by.name.clone()), reason: reason.map(str::to_owned), ..Evidence::default() };
        let (before, state) = self.control(Happening { evidence, ..Happening::new(job, input) }).await?;
        let entry = Entry::of_job(action, job).detail(serde_json::json!({ "reason": reason, "state": state }));
        let entry = entry.before(serde_json::json!({ "state": before })).after(serde_json::json!({ "state": state }));
        self.audit(by, entry).await;
        Ok(state)
    }

    /// Refuses a job outside a realm as one that is not there.
    async fn must_hold(&self, realm: &Realm, job: JobId) -> Result<(), ControlError> {
        let Realm::Tenant(tenant) = realm else { return Ok(()) };
        let found = self.bounded(async {
            let client = self.pool().get().await?;
            let statement = client.prepare_cached("SELECT FROM job WHERE id = $1 AND tenant = $2").await?;
            Ok(client.query_opt(&statement, &[&job.0, tenant]).await?)
        });
        found.await?.map(|_| ()).ok_or(ControlError::NotFound)
    }

    /// Applies what somebody waits for; the states before and after it.
    async fn control(&self, happening: Happening) -> Result<(State, State), ControlError> {
        let happening = Happening { expires: Some(Instant::now() + CONTROL), ..happening };
        match tokio::time::timeout(CONTROL, self.apply(happening)).await {
            Err(_) => Err(ControlError::Unavailable(format!("no answer within {CONTROL:?}"))),
            Ok(Err(error)) => Err(ControlError::Unavailable(error.to_string())),
            Ok(Ok(Verdict::Unknown | Verdict::Skipped)) => Err(ControlError::NotFound),
            Ok(Ok(Verdict::Decided(decided))) => match decided.step {
                Step::Move(_) | Step::Stale(_) => Ok((decided.before, decided.state)),
                Step::Refuse(refusal) => Err(ControlError::Refused(refusal)),
            },
        }
    }

    /// Who holds the lease of a job, for whoever wants to ask them. `None` when nobody does, or there is no such job.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn owner_of(&self, job: JobId) -> Result<Option<OwnedAttempt>, Unavailable> {
        self.bounded(async {
            let client = self.pool().get().await?;
            let statement = client.prepare_cached(OWNER).await?;
            let Some(row) = client.query_opt(&statement, &[&job.0]).await? else { return Ok(None) };
            let worker: String = row.try_get(0)?;
            let Ok(worker) = WorkerId::try_from(worker) else { return Ok(None) };
            let owner = Sender { worker, incarnation: Incarnation(row.try_get(1)?) };
            Ok(Some(OwnedAttempt { job, attempt: batch::natural(row.try_get(2)?), owner, is_dead: false }))
        })
        .await
    }

    /// Ends a conversation with Postgres outside the writers after [`SIDE`].
    async fn bounded<T>(&self, work: impl Future<Output = Result<T, Unavailable>>) -> Result<T, Unavailable> {
        let late = || Err(Unavailable(format!("Postgres did not answer within {SIDE:?}")));
        tokio::time::timeout(SIDE, work).await.unwrap_or_else(|_| late())
    }

    /// Whether the writers commit. A Postgres whose disk is full still answers questions.
    fn takes_writes(&self) -> Result<(), String> {
        let trouble = self.inner.troubles.iter().find_map(|trouble| trouble.borrow().clone());
        trouble.map_or(Ok(()), |reason| Err(format!("it does not take what is written: {reason}")))
    }

    /// What works, asked now.
    pub async fn health(&self) -> Health {
        match tokio::time::timeout(Duration::from_secs(3), self.leader_exists()).await {
            Ok(Ok(has_leader)) => Health { postgres: self.takes_writes(), has_leader },
            Ok(Err(error)) => Health { postgres: Err(error), has_leader: false },
            Err(_) => Health { postgres: Err("no answer within 3 s".to_owned()), has_leader: false },
        }
    }
}

const SPEC: &str = "SELECT spec::text FROM job WHERE id = $1";

const OWNER: &str = "SELECT owner_worker, owner_incarnation, attempt FROM job \
     WHERE id = $1 AND state IN ('running', 'cancelling') AND owner_worker IS NOT NULL AND owner_incarnation IS NOT NULL";
