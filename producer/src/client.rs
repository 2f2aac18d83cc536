//! The HTTP API as typed calls.
//!
//! Invariant: every call has a deadline, and no error carries the key.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ffpool_schema::advice::ScaleAnswer;
use ffpool_schema::api::{
    Accepted, AuditView, CostReport, DeadLetterGroup, Explanation, FailureReport, JobDetail, JobView, KeyRequest,
    KeyView, NewKeyView, Page, PauseRequest, Problem, PurgeReport, PurgeRequest, QueueView, Readiness, RedriveReport,
    RedriveRequest, RotateRequest, ScenarioView, ScheduleRequest, ScheduleView, Submitted, TemplateView, TenantChange,
    TenantRequest, TenantView, WorkerView, WorkersAnswer,
};
use ffpool_schema::failure::Cause;
use ffpool_schema::id::{JobId, WorkerId};
use ffpool_schema::job::{JobSpec, Priority, Queue};
use ffpool_schema::lifecycle::State;
use ffpool_schema::message::{LogLine, WorkerState};
use ffpool_schema::topology::TRACEPARENT_HEADER;
use jiff::Timestamp;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::events::JobEvents;

/// For the TCP and TLS handshakes.
const CONNECT: Duration = Duration::from_secs(5);
/// A connection that was idle for so long is not used again. The API closes it soon after, perhaps just when it is asked.
const IDLE: Duration = Duration::from_secs(60);
/// For one answer, event streams excepted.
const ANSWER: Duration = Duration::from_secs(30);
/// Workers of one page: as many as there may be.
const WORKERS_PAGE: u32 = 500;
/// So much of an answer that is not ours is shown.
const EXCERPT_CHARS: usize = 200;

/// Where the API is and as whom to speak.
#[derive(Clone)]
pub struct ClientConfig {
    /// Its address, such as `https://pool.example:8080`.
    pub url: String,
    /// The API key.
    pub key: Option<String>,
    /// A PEM file with the only certificates to trust, for a server whose certificate the system does not know.
    pub ca_file: Option<PathBuf>,
    /// A PEM file with a certificate of the client's own and its private key, for a server that asks for one.
    pub client_cert_file: Option<PathBuf>,
}

impl ClientConfig {
    /// The API at `url`, without a key.
    #[must_use]
    pub fn new(url: impl Into<String>) -> ClientConfig {
        ClientConfig { url: url.into(), key: None, ca_file: None, client_cert_file: None }
    }

    /// With this API key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> ClientConfig {
        self.key = Some(key.into());
        self
    }

    /// Trusting only the certificates in this PEM file.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> ClientConfig {
        self.ca_file = Some(path.into());
        self
    }

    /// Showing the certificate in this PEM file, which holds its private key too.
    #[must_use]
    pub fn client_cert_file(mut self, path: impl Into<PathBuf>) -> ClientConfig {
        self.client_cert_file = Some(path.into());
        self
    }
}

impl fmt::Debug for ClientConfig {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig").field("url", &self.url).field("ca_file", &self.ca_file).finish_non_exhaustive()
    }
}

/// A call to the API that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The address or the key cannot be used at all.
    #[error("the API client cannot be set up: {reason}")]
    Setup {
        /// What is wrong.
        reason: String,
    },
    /// Nobody answered.
    #[error("no answer from the API at {base}: {reason}")]
    Unreachable {
        /// Where it was looked for.
        base: String,
        /// The root of the trouble, such as "Connection refused".
        reason: String,
        /// What the HTTP client says.
        #[source]
        source: reqwest::Error,
    },
    /// The API refused, and said why.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// Something answered that is not the API, or not of this version.
    #[error("{path} answered {status} with something else than expected: {excerpt}")]
    Strange {
        /// The path asked.
        path: String,
        /// The HTTP status.
        status: u16,
        /// The beginning of the answer, or why it cannot be read.
        excerpt: String,
    },
}

impl ApiError {
    /// The HTTP status, where there was an answer.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            ApiError::Setup { .. } | ApiError::Unreachable { .. } => None,
            ApiError::Problem(problem) => Some(problem.status),
            ApiError::Strange { status, .. } => Some(*status),
        }
    }

    /// Whether the same call may succeed later without anybody changing it.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            ApiError::Setup { .. } => false,
            ApiError::Unreachable { .. } => true,
            ApiError::Problem(_) | ApiError::Strange { .. } => {
                matches!(self.status(), Some(429 | 500 | 502 | 503 | 504))
            }
        }
    }

    /// When the same call may be made again, where the API said it.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            ApiError::Problem(problem) => problem.retry_after_ms.map(Duration::from_millis),
            ApiError::Setup { .. } | ApiError::Unreachable { .. } | ApiError::Strange { .. } => None,
        }
    }

    /// What to do about it, in one sentence.
    #[must_use]
    pub fn next_step(&self) -> &'static str {
        match self {
            ApiError::Setup { reason } => setup_step(reason),
            ApiError::Unreachable { reason, .. } => unreachable_step(reason),
            ApiError::Problem(problem) => match problem.status {
                401 => "Give a valid key with FFPOOL_API_KEY, or with `api_key` in the configuration file.",
                403 => "Ask the pool's operator for a key with this right.",
                404 => "Check the id: `ffpool jobs list` shows what there is.",
                409 => "Look at its state first: `ffpool jobs show ID`.",
                429 => "Wait a little, then repeat; or ask the operator for a higher limit.",
                400..=499 => "Correct what is named, then repeat.",
                _ => "Repeat in a moment; `ffpool doctor` says which part of the pool is down.",
            },
            ApiError::Strange { .. } => "Check that --api-url (FFPOOL_API_URL) is the address of ffpool's dispatcher.",
        }
    }
}

/// How a person names a job: by its id, or by its small number (`17` or `#17`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobName {
    /// The id.
    Id(JobId),
    /// The number.
    Number(i64),
}

impl fmt::Display for JobName {
    /// As it stands in the API's paths.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JobName::Id(id) => id.fmt(f),
            JobName::Number(number) => number.fmt(f),
        }
    }
}

impl From<JobId> for JobName {
    fn from(id: JobId) -> JobName {
        JobName::Id(id)
    }
}

impl FromStr for JobName {
    type Err = JobNameError;

    fn from_str(text: &str) -> Result<JobName, JobNameError> {
        let digits = text.strip_prefix('#').unwrap_or(text);
        let number = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<i64>().ok()).flatten();
        match (number, text.parse::<JobId>()) {
            (Some(number), _) => Ok(JobName::Number(number)),
            (None, Ok(id)) => Ok(JobName::Id(id)),
            (None, Err(_)) => Err(JobNameError(text.chars().take(80).collect())),
        }
    }
}

/// A text that names no job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no job: its number (17) or its id (a UUID) is expected")]
pub struct JobNameError(String);

/// Which jobs to list.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct JobFilter {
    /// In this state.
    pub status: Option<State>,
    /// In this queue.
    pub queue: Option<Queue>,
    /// Of this priority.
    pub priority: Option<Priority>,
    /// Last run by this worker.
    pub worker: Option<WorkerId>,
    /// With this label, `key:value`.
    pub label: Option<String>,
    /// Of this tenant.
    pub tenant: Option<String>,
    /// Recorded since.
    pub since: Option<Timestamp>,
    /// That failed by this cause, be it in one attempt only; of dead letters those that ended by it.
    pub cause: Option<Cause>,
    /// With this text in an address or a label, or at the beginning of their id: [`Page::searched`] says how far was looked.
    pub search: Option<String>,
    /// That make chunks of this job; none that makes a chunk is listed otherwise.
    pub part_of: Option<JobId>,
    /// Dead letters of this kind; only for [`Client::dead_letters`].
    pub fingerprint: Option<String>,
    /// Rows at most.
    pub limit: Option<u32>,
    /// From a page's `next`.
    pub cursor: Option<String>,
}

/// Which workers to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkerFilter {
    /// In one of these states; empty for all.
    pub status: Vec<WorkerState>,
    /// With this in their name, host or one of their pools.
    pub name: Option<String>,
    /// Rows at most.
    pub limit: Option<u32>,
    /// From a page's `next`.
    pub cursor: Option<String>,
}

impl WorkerFilter {
    /// Whether a worker is one of these, as the dispatcher finds them.
    fn fits(&self, worker: &WorkerView) -> bool {
        let is_named = |name: &String| {
            let name = name.to_lowercase();
            let texts = [worker.id.as_str(), worker.host.as_str()].into_iter();
            texts.chain(worker.pools.iter().map(String::as_str)).any(|text| text.to_lowercase().contains(&name))
        };
        let is_in_state = self.status.is_empty() || self.status.contains(&worker.state);
        is_in_state && self.name.as_ref().is_none_or(is_named)
    }
}

/// For what the advice on the number of workers is asked. Absent: what the dispatcher takes by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ScaleWishes {
    /// Only for this pool.
    pub pool: Option<String>,
    /// Never fewer workers.
    pub min: Option<u32>,
    /// No more workers, but for busy ones.
    pub max: Option<u32>,
    /// Slots of a worker that would be added.
    pub slots: Option<u32>,
    /// How long jobs of queue `live` may wait, in seconds.
    pub wait_live: Option<u32>,
    /// The same of queue `default`.
    pub wait_default: Option<u32>,
    /// The same of queue `batch`.
    pub wait_batch: Option<u32>,
}

/// Speaks the HTTP API. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    /// Without a slash at its end.
    base: String,
}

impl Client {
    /// Prepares the client; nothing is sent yet.
    ///
    /// # Errors
    /// [`ApiError::Setup`] when the address, the key or the CA file cannot be used.
    pub fn open(config: ClientConfig) -> Result<Client, ApiError> {
        // A second installation is refused and does no harm: TLS needs one provider for the whole process.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let base = config.url.trim_end_matches('/').to_owned();
        let url = Url::parse(&base).map_err(|error| setup(format!("`{base}` is no address ({error})")))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(setup(format!("`{base}` is no http:// or https:// address")));
        }

        let mut headers = HeaderMap::new();
        if let Some(key) = &config.key {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", key.trim()))
                .map_err(|_| setup("the API key holds characters that no header can carry"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("ffpool/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE);
        if let Some(path) = &config.client_cert_file {
            let pem = std::fs::read(path)
                .map_err(|error| setup(format!("the certificate {} cannot be read ({error})", path.display())))?;
            let identity = reqwest::Identity::from_pem(&pem).map_err(|error| {
                let why = root(&error);
                setup(format!("{} must hold a certificate and its private key as PEM ({why})", path.display()))
            })?;
            builder = builder.identity(identity);
        }
        if let Some(path) = &config.ca_file {
            let pem = std::fs::read(path)
                .map_err(|error| setup(format!("the CA file {} cannot be read ({error})", path.display())))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|error| setup(format!("the CA file {} is no PEM file ({error})", path.display())))?;
            if certificates.is_empty() {
                // With none to trust every answer would look like a forged one.
                return Err(setup(format!("the CA file {} holds no certificate", path.display())));
            }
            builder = builder.tls_certs_only(certificates);
        } else if url.scheme() == "http" {
            // Otherwise the client refuses to exist on a machine without the system's certificates.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(|error| setup(format!("{error} ({})", root(&error))))?;
        Ok(Client { http, base })
    }

    /// The API's address.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// `POST /v1/jobs`: submits a job. It is recorded when this returns.
    ///
    /// # Errors
    /// [`ApiError::Problem`] with every fault when the job is not valid.
    pub async fn submit(&self, spec: &JobSpec) -> Result<Submitted, ApiError> {
        self.submit_once(spec).await.map(|(submitted, _)| submitted)
    }

    /// `POST /v1/jobs`, and whether the job is new: not when a job with this id was recorded before.
    ///
    /// # Errors
    /// [`ApiError::Problem`] with every fault when the job is not valid.
    pub async fn submit_once(&self, spec: &JobSpec) -> Result<(Submitted, bool), ApiError> {
        self.submit_within(spec, None).await
    }

    /// The same, in the trace of this W3C `traceparent`.
    ///
    /// # Errors
    /// [`ApiError::Problem`] with every fault when the job is not valid.
    pub async fn submit_within(
        &self,
        spec: &JobSpec,
        traceparent: Option<&str>,
    ) -> Result<(Submitted, bool), ApiError> {
        let path = "/v1/jobs";
        let mut request = self.request(Method::POST, path).json(spec);
        if let Some(traceparent) = traceparent {
            request = request.header(TRACEPARENT_HEADER, traceparent);
        }
        let answer = self.send(request, path).await?;
        let status = answer.status();
        Ok((self.read(path, status, answer).await?, status == StatusCode::CREATED))
    }

    /// `GET /v1/jobs`: one page of the jobs that fit, newest first.
    pub async fn jobs(&self, filter: &JobFilter) -> Result<Page<JobView>, ApiError> {
        self.get_query("/v1/jobs", filter).await
    }

    /// `GET /v1/jobs/{id}`: a job with its attempts, events and manifest.
    pub async fn job(&self, job: impl Into<JobName>) -> Result<JobDetail, ApiError> {
        self.get(&format!("/v1/jobs/{}", job.into())).await
    }

    /// `GET /v1/jobs/{id}/events`: follows a job; connects at the first [`JobEvents::next`].
    #[must_use]
    pub fn events(&self, job: impl Into<JobName>) -> JobEvents {
        JobEvents::new(self.clone(), job.into())
    }

    /// `GET /v1/jobs/{id}/log`: the last `lines` that the tool wrote, in one attempt or in all.
    pub async fn log(
        &self,
        job: impl Into<JobName>,
        attempt: Option<u32>,
        lines: Option<u16>,
    ) -> Result<Vec<LogLine>, ApiError> {
        #[derive(Serialize)]
        struct Query {
            attempt: Option<u32>,
            lines: Option<u16>,
        }
        self.get_query(&format!("/v1/jobs/{}/log", job.into()), &Query { attempt, lines }).await
    }

    /// `GET /v1/jobs/{id}/explain`: why the job is where it is.
    pub async fn explain(&self, job: impl Into<JobName>) -> Result<Explanation, ApiError> {
        self.get(&format!("/v1/jobs/{}/explain", job.into())).await
    }

    /// `POST /v1/jobs/{id}/cancel`.
    pub async fn cancel(&self, job: impl Into<JobName>) -> Result<Accepted, ApiError> {
        self.post_empty(&format!("/v1/jobs/{}/cancel", job.into())).await
    }

    /// `POST /v1/jobs/{id}/finish`: ends a live job that runs, and keeps what it has.
    pub async fn finish(&self, job: impl Into<JobName>) -> Result<Accepted, ApiError> {
        self.post_empty(&format!("/v1/jobs/{}/finish", job.into())).await
    }

    /// `POST /v1/jobs/{id}/forget`: its files are gone, and count no more against its tenant's storage.
    pub async fn forget_files(&self, job: impl Into<JobName>) -> Result<Accepted, ApiError> {
        self.post_empty(&format!("/v1/jobs/{}/forget", job.into())).await
    }

    /// `POST /v1/jobs/{id}/retry`: sends an ended job round again.
    pub async fn retry(&self, job: impl Into<JobName>) -> Result<Accepted, ApiError> {
        self.post_empty(&format!("/v1/jobs/{}/retry", job.into())).await
    }

    /// `POST /v1/jobs/{id}/pause`: a running job is frozen, one that waits is not started.
    pub async fn pause(&self, job: impl Into<JobName>) -> Result<Accepted, ApiError> {
        self.post_empty(&format!("/v1/jobs/{}/pause", job.into())).await
    }

    /// `POST /v1/jobs/{id}/resume`.
    pub async fn resume(&self, job: impl Into<JobName>) -> Result<Accepted, ApiError> {
        self.post_empty(&format!("/v1/jobs/{}/resume", job.into())).await
    }

    /// `GET /v1/workers`, page by page: every worker, by name.
    pub async fn workers(&self) -> Result<Vec<WorkerView>, ApiError> {
        let mut filter = WorkerFilter { limit: Some(WORKERS_PAGE), ..WorkerFilter::default() };
        let mut workers = Vec::new();
        loop {
            let page = self.workers_page(&filter).await?;
            workers.extend(page.items);
            match page.next {
                Some(next) => filter.cursor = Some(next),
                None => return Ok(workers),
            }
        }
    }

    /// `GET /v1/workers`: one page of the workers that fit, by name. A dispatcher of before that knows no pages is asked for all
    /// workers at once, of which those that fit are the page.
    pub async fn workers_page(&self, filter: &WorkerFilter) -> Result<Page<WorkerView>, ApiError> {
        let path = "/v1/workers";
        let mut query: Vec<(&str, String)> =
            filter.status.iter().map(|state| ("status", state.as_str().to_owned())).collect();
        query.extend(filter.name.clone().map(|name| ("name", name)));
        query.push(("limit", filter.limit.unwrap_or(WORKERS_PAGE).to_string()));
        query.extend(filter.cursor.clone().map(|cursor| ("cursor", cursor)));
        let answer = match self.get_query(path, &query).await {
            Err(error) if filter.cursor.is_none() && is_unknown_parameter(&error) => self.get(path).await,
            answer => answer,
        };
        Ok(match answer? {
            WorkersAnswer::Page(page) => page,
            WorkersAnswer::All(mut items) => {
                items.retain(|worker| filter.fits(worker));
                Page { items, next: None, searched: None }
            }
        })
    }

    /// `GET /v1/workers/{id}`.
    pub async fn worker(&self, worker: &WorkerId) -> Result<WorkerView, ApiError> {
        self.get(&format!("/v1/workers/{worker}")).await
    }

    /// `POST /v1/workers/{id}/drain`: the worker takes no more and stops when it has finished.
    pub async fn drain(&self, worker: &WorkerId) -> Result<Accepted, ApiError> {
        self.post_empty(&format!("/v1/workers/{worker}/drain")).await
    }

    /// `GET /v1/queues`.
    pub async fn queues(&self) -> Result<Vec<QueueView>, ApiError> {
        self.get("/v1/queues").await
    }

    /// `GET /v1/scale`: how many workers there should be.
    pub async fn scale(&self, wishes: &ScaleWishes) -> Result<ScaleAnswer, ApiError> {
        self.get_query("/v1/scale", wishes).await
    }

    /// `POST /v1/queues/{queue}/pause`: nothing of it is started; what runs goes on.
    pub async fn pause_queue(&self, queue: Queue, request: &PauseRequest) -> Result<Accepted, ApiError> {
        self.post(&format!("/v1/queues/{queue}/pause"), request).await
    }

    /// `POST /v1/queues/{queue}/resume`.
    pub async fn resume_queue(&self, queue: Queue) -> Result<Accepted, ApiError> {
        self.post_empty(&format!("/v1/queues/{queue}/resume")).await
    }

    /// `GET /v1/failures`: what failed in the last so many hours, by cause.
    pub async fn failures(&self, hours: Option<u32>) -> Result<FailureReport, ApiError> {
        #[derive(Serialize)]
        struct Query {
            hours: Option<u32>,
        }
        self.get_query("/v1/failures", &Query { hours }).await
    }

    /// `GET /v1/dead-letters`: one page of the jobs parked after their last failure. Leave `status` out.
    pub async fn dead_letters(&self, filter: &JobFilter) -> Result<Page<JobView>, ApiError> {
        self.get_query("/v1/dead-letters", filter).await
    }

    /// `POST /v1/dead-letters/redrive`.
    pub async fn redrive(&self, request: &RedriveRequest) -> Result<RedriveReport, ApiError> {
        self.post("/v1/dead-letters/redrive", request).await
    }

    /// `GET /v1/dead-letters/groups`: how many dead letters there are of each kind.
    pub async fn dead_letter_groups(&self) -> Result<Vec<DeadLetterGroup>, ApiError> {
        self.get("/v1/dead-letters/groups").await
    }

    /// `POST /v1/dead-letters/purge`: does away with dead letters and their history.
    pub async fn purge(&self, request: &PurgeRequest) -> Result<PurgeReport, ApiError> {
        self.post("/v1/dead-letters/purge", request).await
    }

    /// `GET /v1/audit`: one page of who changed what, newest first.
    pub async fn audit(&self, limit: Option<u32>, cursor: Option<String>) -> Result<Page<AuditView>, ApiError> {
        #[derive(Serialize)]
        struct Query {
            limit: Option<u32>,
            cursor: Option<String>,
        }
        self.get_query("/v1/audit", &Query { limit, cursor }).await
    }

    /// `GET /v1/keys`.
    pub async fn keys(&self) -> Result<Vec<KeyView>, ApiError> {
        self.get("/v1/keys").await
    }

    /// `POST /v1/keys`: makes a key; the answer alone has its text.
    pub async fn create_key(&self, request: &KeyRequest) -> Result<NewKeyView, ApiError> {
        self.post("/v1/keys", request).await
    }

    /// `POST /v1/keys/{key}/rotate`, by name or prefix.
    pub async fn rotate_key(&self, key: &str, request: &RotateRequest) -> Result<NewKeyView, ApiError> {
        self.post(&key_path(key, "/rotate")?, request).await
    }

    /// `POST /v1/keys/{key}/revoke`, by name or prefix.
    pub async fn revoke_key(&self, key: &str) -> Result<Accepted, ApiError> {
        self.post_empty(&key_path(key, "/revoke")?).await
    }

    /// `GET /v1/tenants`.
    pub async fn tenants(&self) -> Result<Vec<TenantView>, ApiError> {
        self.get("/v1/tenants").await
    }

    /// `POST /v1/tenants`.
    pub async fn create_tenant(&self, request: &TenantRequest) -> Result<TenantView, ApiError> {
        self.post("/v1/tenants", request).await
    }

    /// `GET /v1/tenants/{name}`.
    pub async fn tenant(&self, name: &str) -> Result<TenantView, ApiError> {
        self.get(&tenant_path(name, "")?).await
    }

    /// `POST /v1/tenants/{name}/set`.
    pub async fn set_tenant(&self, name: &str, change: &TenantChange) -> Result<TenantView, ApiError> {
        self.post(&tenant_path(name, "/set")?, change).await
    }

    /// `POST /v1/tenants/{name}/disable`, or `enable`.
    pub async fn disable_tenant(&self, name: &str, disabled: bool) -> Result<TenantView, ApiError> {
        self.post_empty(&tenant_path(name, if disabled { "/disable" } else { "/enable" })?).await
    }

    /// `GET /v1/scenarios`.
    pub async fn scenarios(&self) -> Result<Vec<ScenarioView>, ApiError> {
        self.get("/v1/scenarios").await
    }

    /// `GET /v1/templates`.
    pub async fn templates(&self) -> Result<Vec<TemplateView>, ApiError> {
        self.get("/v1/templates").await
    }

    /// `GET /v1/cost`: what jobs used and cost, summed up by `tenant`, `queue`, `scenario`, `worker` or `label:<name>`.
    pub async fn cost(&self, by: &str, since: Option<Timestamp>) -> Result<CostReport, ApiError> {
        #[derive(Serialize)]
        struct Query<'q> {
            by: &'q str,
            since: Option<Timestamp>,
        }
        self.get_query("/v1/cost", &Query { by, since }).await
    }

    /// `GET /v1/schedules`.
    pub async fn schedules(&self) -> Result<Vec<ScheduleView>, ApiError> {
        self.get("/v1/schedules").await
    }

    /// `POST /v1/schedules`: makes a job again and again.
    pub async fn add_schedule(&self, request: &ScheduleRequest) -> Result<ScheduleView, ApiError> {
        self.post("/v1/schedules", request).await
    }

    /// `GET /v1/schedules/{name}`: a schedule with what became of its last due times.
    pub async fn schedule(&self, name: &str) -> Result<ScheduleView, ApiError> {
        self.get(&schedule_path(name, "")?).await
    }

    /// `POST /v1/schedules/{name}/remove`.
    pub async fn remove_schedule(&self, name: &str) -> Result<Accepted, ApiError> {
        self.post_empty(&schedule_path(name, "/remove")?).await
    }

    /// `POST /v1/schedules/{name}/pause`, or `resume`.
    pub async fn pause_schedule(&self, name: &str, paused: bool) -> Result<ScheduleView, ApiError> {
        self.post_empty(&schedule_path(name, if paused { "/pause" } else { "/resume" })?).await
    }

    /// `POST /v1/schedules/{name}/run`: makes its job now.
    pub async fn run_schedule(&self, name: &str) -> Result<Submitted, ApiError> {
        self.post_empty(&schedule_path(name, "/run")?).await
    }

    /// `GET /v1/schema/job`: the JSON Schema of a job.
    pub async fn job_schema(&self) -> Result<serde_json::Value, ApiError> {
        self.get("/v1/schema/job").await
    }

    /// `GET /health`: whether the API is alive. Gives its clock, where it told it.
    pub async fn health(&self) -> Result<Option<Timestamp>, ApiError> {
        let answer = self.send(self.request(Method::GET, "/health"), "/health").await?;
        Ok(server_time(answer.headers()))
    }

    /// `GET /ready`: whether every part of the pool works; also when it answers that one does not.
    pub async fn ready(&self) -> Result<Readiness, ApiError> {
        let answer = self.request(Method::GET, "/ready").send().await.map_err(|error| self.unreachable(error))?;
        let status = answer.status();
        if status.is_success() || status == StatusCode::SERVICE_UNAVAILABLE {
            self.read("/ready", status, answer).await
        } else {
            Err(self.refusal("/ready", status, answer).await)
        }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).timeout(ANSWER)
    }

    /// Sends and answers only what succeeded.
    pub(crate) async fn send(
        &self,
        request: reqwest::RequestBuilder,
        path: &str,
    ) -> Result<reqwest::Response, ApiError> {
        let answer = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = answer.status();
        if status.is_success() { Ok(answer) } else { Err(self.refusal(path, status, answer).await) }
    }

    pub(crate) fn unreachable(&self, error: reqwest::Error) -> ApiError {
        let reason = if error.is_timeout() { "it took too long".to_owned() } else { root(&error) };
        ApiError::Unreachable { base: self.base.clone(), reason, source: error.without_url() }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.fetch(self.request(Method::GET, path), path).await
    }

    async fn get_query<Q: Serialize, T: DeserializeOwned>(&self, path: &str, query: &Q) -> Result<T, ApiError> {
        self.fetch(self.request(Method::GET, path).query(query), path).await
    }

    async fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, ApiError> {
        self.fetch(self.request(Method::POST, path).json(body), path).await
    }

    async fn post_empty<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.post(path, &BTreeMap::<String, String>::new()).await
    }

    async fn fetch<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder, path: &str) -> Result<T, ApiError> {
        let answer = self.send(request, path).await?;
        self.read(path, answer.status(), answer).await
    }

    async fn read<T: DeserializeOwned>(
        &self,
        path: &str,
        status: StatusCode,
        answer: reqwest::Response,
    ) -> Result<T, ApiError> {
        let body = answer.bytes().await.map_err(|error| self.unreachable(error))?;
        serde_json::from_slice(&body).map_err(|error| ApiError::Strange {
            path: path.to_owned(),
            status: status.as_u16(),
            excerpt: format!("{error} in {}", excerpt(&body)),
        })
    }

    async fn refusal(&self, path: &str, status: StatusCode, answer: reqwest::Response) -> ApiError {
        let is_problem = answer
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|kind| kind.starts_with("application/problem+json"));
        let body = match answer.bytes().await {
            Ok(body) => body,
            Err(error) => return self.unreachable(error),
        };
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) if is_problem => ApiError::Problem(Box::new(problem)),
            Ok(_) | Err(_) => {
                ApiError::Strange { path: path.to_owned(), status: status.as_u16(), excerpt: excerpt(&body) }
            }
        }
    }
}

/// Whether the API does not know a parameter that it was given, as one of before does not know a newer one. A value that it cannot
/// read is something else.
fn is_unknown_parameter(error: &ApiError) -> bool {
    match error {
        ApiError::Problem(problem) => {
            let detail = problem.detail.strip_prefix("parameter `").and_then(|rest| rest.split_once("`: "));
            problem.status == 400 && detail.is_some_and(|(_, said)| said.starts_with("unknown here"))
        }
        ApiError::Setup { .. } | ApiError::Unreachable { .. } | ApiError::Strange { .. } => false,
    }
}

/// A name that would change the path is none.
fn schedule_path(name: &str, rest: &str) -> Result<String, ApiError> {
    if ffpool_schema::catalog::is_name(name) {
        return Ok(format!("/v1/schedules/{name}{rest}"));
    }
    Err(setup(format!("`{name}` is no name of a schedule: letters, digits, `-` and `_` are expected")))
}

/// Names of keys are free text; one that would change the path can be said by the key's prefix.
fn key_path(key: &str, rest: &str) -> Result<String, ApiError> {
    if is_segment(key) {
        return Ok(format!("/v1/keys/{key}{rest}"));
    }
    Err(setup(format!("`{key}` cannot be part of a path: name the key by its prefix, which `keys list` shows")))
}

fn tenant_path(name: &str, rest: &str) -> Result<String, ApiError> {
    if is_segment(name) {
        return Ok(format!("/v1/tenants/{name}{rest}"));
    }
    Err(setup(format!("`{name}` is no name of a tenant: letters, digits, `-` and `_` are expected")))
}

/// Whether a text is one segment of a path, as it stands.
fn is_segment(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    !text.is_empty() && text.bytes().all(is_plain) && !text.bytes().all(|byte| byte == b'.')
}

fn setup(reason: impl Into<String>) -> ApiError {
    ApiError::Setup { reason: reason.into() }
}

/// What to do about what cannot be used at all: the reason names it.
fn setup_step(reason: &str) -> &'static str {
    if reason.contains("CA file") {
        "Correct --api-ca-file (FFPOOL_API_CA_FILE): the dispatcher's log names the file that it made, copy that one here."
    } else if reason.contains("certificate and its private key") || reason.contains("the certificate ") {
        "Correct --api-client-cert (FFPOOL_API_CLIENT_CERT): one PEM file with both; `ffpool certs issue` makes one."
    } else if reason.contains("API key") {
        "Correct --api-key (FFPOOL_API_KEY): one line without blanks, as `ffpool keys create` printed it."
    } else if reason.contains("address") {
        "Correct --api-url (FFPOOL_API_URL), such as https://pool.example:8080."
    } else {
        "Correct what is named, then repeat."
    }
}

/// What to do where nobody answered; TLS says in a word of its own what it did not like.
fn unreachable_step(reason: &str) -> &'static str {
    let says = |word: &str| reason.contains(word);
    if says("UnknownIssuer") || says("BadSignature") {
        "Give the API's certificate authority with --api-ca-file (FFPOOL_API_CA_FILE): the dispatcher's log names the file."
    } else if says("NotValidForName") {
        "Ask the API by a name that its certificate has, or have the operator add this one with FFPOOL_API_NAMES."
    } else if says("Expired") || says("NotValidYet") {
        "Have the operator renew the API's certificate, and compare the clocks of both machines."
    } else if says("CertificateRequired") || says("certificate required") {
        "The API asks for a client certificate: give one with --api-client-cert (FFPOOL_API_CLIENT_CERT)."
    } else if says("lookup address") || says("Name or service not known") || says("dns error") {
        "No machine has that name: correct --api-url (FFPOOL_API_URL), or see to it that this machine can resolve names."
    } else if says("InvalidContentType") || says("wrong version number") {
        "What answers there does not speak TLS: check the port, or ask it with http:// if the operator turned TLS off."
    } else {
        "Start the dispatcher, or say where it is with --api-url (FFPOOL_API_URL); `ffpool doctor` looks closer."
    }
}

/// The innermost reason: what the HTTP client says outside is "error sending request".
fn root(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(EXCERPT_CHARS) {
        Some((cut, _)) => format!("{}…", &line[..cut]),
        None if line.is_empty() => "an empty body".to_owned(),
        None => line,
    }
}

fn server_time(headers: &HeaderMap) -> Option<Timestamp> {
    let text = headers.get(DATE)?.to_str().ok()?;
    jiff::fmt::rfc2822::parse(text).ok().map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_named_by_number_or_by_id_and_never_by_a_piece_of_one() {
        let id: JobId = "01920f3a-7c1e-7d2a-8a6e-3f0c5b1d9e42".parse().unwrap();
        assert_eq!("17".parse(), Ok(JobName::Number(17)));
        assert_eq!("#17".parse(), Ok(JobName::Number(17)));
        assert_eq!("01920f3a-7c1e-7d2a-8a6e-3f0c5b1d9e42".parse(), Ok(JobName::Id(id)));
        for wrong in ["", "#", "7abc", "-1", "01920f3a", "99999999999999999999"] {
            wrong.parse::<JobName>().unwrap_err();
        }
    }

    #[test]
    fn the_servers_clock_is_read_from_its_date_header() {
        let mut headers = HeaderMap::new();
        headers.insert(DATE, HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT"));
        assert_eq!(server_time(&headers).unwrap().as_second(), 784_111_777);
    }

    #[test]
    fn an_unusable_address_is_told_before_anything_is_sent() {
        for wrong in ["", "pool.example", "ftp://pool.example", "http://"] {
            let error = Client::open(ClientConfig::new(wrong)).unwrap_err();
            assert!(matches!(error, ApiError::Setup { .. }), "{wrong}: {error}");
        }
    }

    #[test]
    fn only_a_parameter_that_is_unknown_tells_a_dispatcher_of_before() {
        let refused = |status: u16, detail: &str| {
            is_unknown_parameter(&ApiError::Problem(Box::new(Problem {
                kind: "/problems/bad-request".into(),
                title: "The request cannot be used".into(),
                status,
                detail: detail.into(),
                faults: Vec::new(),
                retry_after_ms: None,
            })))
        };
        assert!(refused(400, "parameter `limit`: unknown here; none is allowed"));
        for (status, detail) in [
            (400, "parameter `limit`: a whole number from 1 to 500 is expected"),
            (
                400,
                "parameter `cursor`: `unknown here` cannot be read; the value of `next` of the page before is expected",
            ),
            (400, "parameter `name`: given twice; once is allowed"),
            (404, "parameter `limit`: unknown here; none is allowed"),
        ] {
            assert!(!refused(status, detail), "{status} {detail}");
        }
    }

    #[test]
    fn the_key_is_in_no_debug_output() {
        let config = ClientConfig::new("http://127.0.0.1:1").key("hidden-key");
        let client = Client::open(config.clone()).unwrap();
        assert!(!format!("{config:?} {client:?}").contains("hidden-key"));
    }
}
