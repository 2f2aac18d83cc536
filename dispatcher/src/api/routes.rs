//! Every route of the API: path, right, what it takes and answers, and who handles it.
//!
//! Invariant: this table is the only place where a route exists; router, rights and `/openapi.json` are made from it.

use axum::http::{Method, StatusCode};
use axum::routing::{MethodRouter, get, post};
use ffpool_schema::access::Right;
use ffpool_schema::advice::ScaleAnswer;
use ffpool_schema::api::{
    Accepted, AuditView, Checked, CostReport, DeadLetterGroup, Explanation, FailureReport, JobDetail, JobView,
    KeyRequest, KeyView, LiveEvent, NewKeyView, Page, PauseRequest, ProgressCurve, PurgeReport, PurgeRequest,
    QueueView, Readiness, RedriveReport, RedriveRequest, RotateRequest, ScenarioView, ScheduleRequest, ScheduleView,
    SessionView, StreamEvent, Submitted, TemplateView, TenantChange, TenantRequest, TenantView, Throughput, WorkerView,
    WorkersAnswer,
};
use ffpool_schema::job::JobSpec;
use ffpool_schema::message::LogLine;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::api::access::Reach;
use crate::api::problem::Kind;
use crate::api::query::{self, Parameter};
use crate::api::{
    App, audit, catalog, cost, dead_letters, failures, health, jobs, keys, live, queues, scale, schedules, session,
    stream, submit, tenants, throughput, thumbnail, workers,
};
use crate::web;

/// One route.
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) right: Right,
    pub(crate) reach: Reach,
    /// Whether it has a limit apart from that of all others.
    pub(crate) is_probe: bool,
    /// The `operationId`.
    pub(crate) name: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) query: &'static [Parameter],
    pub(crate) takes: Option<Content>,
    /// Whether a request without a body is refused.
    pub(crate) needs_body: bool,
    pub(crate) answers: Vec<(StatusCode, &'static str, Content)>,
    /// Problems besides those that every route of its right has.
    pub(crate) problems: &'static [Kind],
    pub(crate) handler: MethodRouter<App>,
}

/// What a body is.
pub(crate) struct Content {
    pub(crate) media_types: &'static [&'static str],
    pub(crate) schema: fn(&mut SchemaGenerator) -> Schema,
}

/// A body in JSON.
fn json<T: JsonSchema>() -> Content {
    Content { media_types: &["application/json"], schema: |generator| generator.subschema_for::<T>() }
}

/// A job in either encoding.
fn job() -> Content {
    Content { media_types: &["application/json", "application/msgpack"], ..json::<JobSpec>() }
}

/// Server-sent events, the data of each of which is one `T` in JSON.
fn events<T: JsonSchema>() -> Content {
    Content { media_types: &["text/event-stream"], ..json::<T>() }
}

fn document(media_types: &'static [&'static str]) -> Content {
    Content { media_types, schema: |_| schemars::json_schema!({"type": "object"}) }
}

fn picture() -> Content {
    Content {
        media_types: &["image/jpeg"],
        schema: |_| schemars::json_schema!({"type": "string", "contentMediaType": "image/jpeg"}),
    }
}

/// No body.
fn nothing() -> Content {
    document(&[])
}

fn text() -> Content {
    Content { media_types: &["text/plain"], ..json::<String>() }
}

impl Route {
    fn get(path: &'static str, right: Right, name: &'static str, handler: MethodRouter<App>) -> Route {
        Route::new(Method::GET, path, right, name, handler)
    }

    fn post(path: &'static str, right: Right, name: &'static str, handler: MethodRouter<App>) -> Route {
        Route::new(Method::POST, path, right, name, handler)
    }

    fn new(method: Method, path: &'static str, right: Right, name: &'static str, handler: MethodRouter<App>) -> Route {
        Route {
            method,
            path,
            right,
            reach: Reach::Realm,
            is_probe: false,
            name,
            summary: "",
            query: &[],
            takes: None,
            needs_body: false,
            answers: Vec::new(),
            problems: &[],
            handler,
        }
    }

    fn summary(self, summary: &'static str) -> Route {
        Route { summary, ..self }
    }

    /// It acts on the whole pool.
    fn of_pool(self) -> Route {
        Route { reach: Reach::Pool, ..self }
    }

    /// It tells probes how the dispatcher does.
    fn for_probes(self) -> Route {
        Route { is_probe: true, ..self }
    }

    fn query(self, query: &'static [Parameter]) -> Route {
        Route { query, ..self }
    }

    fn takes(self, content: Content) -> Route {
        Route { takes: Some(content), needs_body: true, ..self }
    }

    fn takes_if_any(self, content: Content) -> Route {
        Route { takes: Some(content), ..self }
    }

    fn answers(mut self, status: StatusCode, meaning: &'static str, content: Content) -> Route {
        self.answers.push((status, meaning, content));
        self
    }

    fn problems(self, problems: &'static [Kind]) -> Route {
        Route { problems, ..self }
    }
}

const OK: StatusCode = StatusCode::OK;

/// The table.
pub(crate) fn all() -> Vec<Route> {
    api().into_iter().chain(dashboard()).collect()
}

/// The dashboard: open to everybody, as there is nothing on its pages but what the API tells their user.
fn dashboard() -> impl Iterator<Item = Route> {
    const PAGE: &[&str] = &["text/html"];
    const FILE: &[&str] = &["text/css", "text/javascript", "image/svg+xml"];
    let file = Route::get("/assets/{file}", Right::Open, "showAsset", get(web::asset))
        .summary("A file of the dashboard.")
        .answers(OK, "The file.", Content { media_types: FILE, ..text() })
        .problems(&[Kind::NotFound]);
    let pages = web::PAGES.iter().map(|(path, name)| {
        Route::get(path, Right::Open, name, get(web::page)).summary("A page of the dashboard.").answers(
            OK,
            "The page.",
            Content { media_types: PAGE, ..text() },
        )
    });
    pages.chain([file])
}

/// What programs use.
fn api() -> Vec<Route> {
    vec![
        Route::post("/v1/jobs", Right::Submit, "submitJob", post(submit::submit))
            .summary("Records a job and queues it. The same body with the same id again changes nothing.")
            .takes(job())
            .answers(StatusCode::CREATED, "It is recorded; Location names it.", json::<Submitted>())
            .answers(OK, "It was recorded before; this is its present state.", json::<Submitted>())
            .problems(&[Kind::RequestTimeout, Kind::Conflict, Kind::TooLarge, Kind::InvalidJob, Kind::OverQuota]),
        Route::post("/v1/jobs/check", Right::Submit, "checkJob", post(submit::check))
            .summary("Says whether a job would be taken, and every fault of one that would not. Nothing is recorded.")
            .takes(job())
            .answers(OK, "It is valid.", json::<Checked>())
            .problems(&[Kind::RequestTimeout, Kind::TooLarge, Kind::InvalidJob]),
        Route::get("/v1/jobs", Right::Read, "listJobs", get(jobs::list))
            .summary("Lists jobs, newest first.")
            .query(query::JOBS)
            .answers(OK, "One page.", json::<Page<JobView>>())
            .problems(&[Kind::BadRequest]),
        Route::get("/v1/jobs/{id}", Right::Read, "showJob", get(jobs::show))
            .summary("Shows a job with its attempts, its history and its manifest.")
            .answers(OK, "The job.", json::<JobDetail>())
            .problems(&[Kind::BadRequest, Kind::NotFound]),
        Route::get("/v1/jobs/{id}/log", Right::Read, "showLog", get(jobs::log))
            .summary("Shows the last lines of the job's tool, first to last.")
            .query(query::LOG)
            .answers(OK, "The lines.", json::<Vec<LogLine>>())
            .problems(&[Kind::BadRequest, Kind::NotFound]),
        Route::get("/v1/jobs/{id}/progress", Right::Read, "showProgress", get(jobs::progress))
            .summary(
                "Shows how far the job's newest attempts were while they ran, a curve of 120 points at most for each.",
            )
            .answers(OK, "The curves, first attempt to last.", json::<Vec<ProgressCurve>>())
            .problems(&[Kind::BadRequest, Kind::NotFound]),
        Route::get("/v1/jobs/{id}/thumbnail", Right::Read, "showThumbnail", get(thumbnail::show))
            .summary(
                "Shows a small picture of what a job made: a JPEG of 320 pixels on its longer side and 32 KiB at most.",
            )
            .answers(OK, "The picture.", picture())
            .answers(StatusCode::NOT_MODIFIED, "It is the one whose tag stands in If-None-Match.", nothing())
            .problems(&[Kind::BadRequest, Kind::NotFound]),
        Route::get("/v1/jobs/{id}/events", Right::Read, "followJob", get(stream::follow))
            .summary("Follows a job: at once and whenever it changes, and its progress, until it has ended.")
            .answers(OK, "Server-sent events, named like their `type`.", events::<StreamEvent>())
            .problems(&[Kind::BadRequest, Kind::NotFound]),
        Route::get("/v1/jobs/{id}/explain", Right::Read, "explainJob", get(jobs::explain))
            .summary("Says in sentences why a job waits, was tried again, failed or was refused.")
            .answers(OK, "The sentences.", json::<Explanation>())
            .problems(&[Kind::BadRequest, Kind::NotFound]),
        Route::post("/v1/jobs/{id}/cancel", Right::Control, "cancelJob", post(jobs::cancel))
            .summary("Cancels a job. A running one is told to end.")
            .answers(OK, "The state after it.", json::<Accepted>())
            .problems(&[Kind::BadRequest, Kind::NotFound, Kind::Conflict]),
        Route::post("/v1/jobs/{id}/finish", Right::Control, "finishJob", post(jobs::finish))
            .summary("Ends a live job that runs and keeps what it has recorded.")
            .answers(OK, "The state after it.", json::<Accepted>())
            .problems(&[Kind::BadRequest, Kind::NotFound, Kind::Conflict]),
        Route::post("/v1/jobs/{id}/pause", Right::Control, "pauseJob", post(jobs::pause))
            .summary("Pauses a job: a running one is frozen where it is, one that waits does not start.")
            .answers(OK, "The state after it.", json::<Accepted>())
            .problems(&[Kind::BadRequest, Kind::NotFound, Kind::Conflict]),
        Route::post("/v1/jobs/{id}/resume", Right::Control, "resumeJob", post(jobs::resume))
            .summary("Lets a paused job go on.")
            .answers(OK, "The state after it.", json::<Accepted>())
            .problems(&[Kind::BadRequest, Kind::NotFound, Kind::Conflict]),
        Route::post("/v1/jobs/{id}/retry", Right::Control, "retryJob", post(jobs::retry))
            .summary("Sends a failed or cancelled job round again, with a fresh budget.")
            .answers(OK, "The state after it.", json::<Accepted>())
            .problems(&[Kind::BadRequest, Kind::NotFound, Kind::Conflict]),
        Route::post("/v1/jobs/{id}/forget", Right::Control, "forgetFiles", post(jobs::forget))
            .summary("Lets the files that a job published count no more against its tenant's storage: they are gone.")
            .of_pool()
            .answers(OK, "They count no more.", json::<Accepted>())
            .problems(&[Kind::BadRequest, Kind::NotFound]),
        Route::get("/v1/events", Right::Read, "followPool", get(live::follow))
            .summary("Follows the pool: queues, workers, the jobs that are named, and the log of one of them.")
            .query(query::EVENTS)
            .answers(OK, "Events until the client goes, for ten minutes at most.", events::<LiveEvent>())
            .problems(&[Kind::BadRequest, Kind::NotFound]),
        Route::get("/v1/throughput", Right::Read, "showThroughput", get(throughput::show))
            .summary("Counts the jobs that ended, step by step.")
            .query(query::THROUGHPUT)
            .answers(OK, "60 steps.", json::<Throughput>())
            .problems(&[Kind::BadRequest]),
        Route::post("/v1/session", Right::Read, "beginSession", post(session::begin))
            .summary("Exchanges a key for the cookie of a session of the dashboard.")
            .answers(StatusCode::CREATED, "The session has begun.", json::<SessionView>())
            .problems(&[Kind::BadRequest]),
        Route::get("/v1/session", Right::Read, "showSession", get(session::show))
            .summary("Says whose the key or the session is, and what it may do.")
            .answers(OK, "Whose it is.", json::<SessionView>()),
        Route::post("/v1/session/end", Right::Read, "endSession", post(session::end))
            .summary("Ends the session of the cookie.")
            .answers(OK, "It has ended.", json::<Accepted>()),
        Route::get("/v1/workers", Right::Read, "listWorkers", get(workers::list))
            .summary("Lists the workers by name: a page with `limit` or `cursor`, all at once without.")
            .query(query::WORKERS)
            .answers(
                OK,
                "One page; or all workers, by name, of more than 1000 those that were seen last.",
                json::<WorkersAnswer>(),
            )
            .problems(&[Kind::BadRequest]),
        Route::get("/v1/workers/{id}", Right::Read, "showWorker", get(workers::show))
            .summary("Shows a worker.")
            .answers(OK, "The worker.", json::<WorkerView>())
            .problems(&[Kind::BadRequest, Kind::NotFound]),
        Route::post("/v1/workers/{id}/drain", Right::Control, "drainWorker", post(workers::drain))
            .summary("Tells a worker to take no more work, finish what it has and stop.")
            .of_pool()
            .answers(OK, "It drains.", json::<Accepted>())
            .problems(&[Kind::BadRequest, Kind::NotFound, Kind::Conflict]),
        Route::get("/v1/queues", Right::Read, "listQueues", get(queues::list))
            .summary("Counts what waits and runs in each work queue, by the ledger and by the broker.")
            .answers(OK, "All work queues of the pools in use.", json::<Vec<QueueView>>()),
        Route::post("/v1/queues/{queue}/pause", Right::Control, "pauseQueue", post(queues::pause))
            .summary("Starts nothing more of a queue, of any priority and pool. The body may be left out.")
            .of_pool()
            .takes_if_any(json::<PauseRequest>())
            .answers(OK, "It is paused.", json::<Accepted>())
            .problems(&[Kind::BadRequest, Kind::NotFound, Kind::RequestTimeout, Kind::TooLarge]),
        Route::post("/v1/queues/{queue}/resume", Right::Control, "resumeQueue", post(queues::resume))
            .summary("Lets a paused queue go on.")
            .of_pool()
            .answers(OK, "It is not paused.", json::<Accepted>())
            .problems(&[Kind::NotFound]),
        Route::get("/v1/scale", Right::Read, "adviseScale", get(scale::advise))
            .summary("Says how many workers a pool needs, so that what waits starts in time, and which could go.")
            .of_pool()
            .query(query::SCALE)
            .answers(OK, "The advice for the pool that was named, or for all pools.", json::<ScaleAnswer>())
            .problems(&[Kind::BadRequest]),
        Route::get("/v1/failures", Right::Read, "countFailures", get(failures::report))
            .summary("Counts what failed lately by cause: attempts, how many of them were followed by another, and dead letters.")
            .query(query::FAILURES)
            .answers(OK, "The causes, the most frequent first.", json::<FailureReport>())
            .problems(&[Kind::BadRequest]),
        Route::get("/v1/dead-letters", Right::Read, "listDeadLetters", get(dead_letters::list))
            .summary("Lists the jobs parked after their last failure, newest first.")
            .query(query::DEAD_LETTERS)
            .answers(OK, "One page.", json::<Page<JobView>>())
            .problems(&[Kind::BadRequest]),
        Route::get("/v1/dead-letters/groups", Right::Read, "groupDeadLetters", get(dead_letters::groups))
            .summary("Counts the dead letters by kind: the same cause with the same evidence.")
            .answers(OK, "The kinds, the most frequent first.", json::<Vec<DeadLetterGroup>>()),
        Route::post("/v1/dead-letters/redrive", Right::Control, "redriveDeadLetters", post(dead_letters::redrive))
            .summary("Sends jobs, or every dead letter of a kind, round again; says for each that it cannot why.")
            .takes(json::<RedriveRequest>())
            .answers(OK, "What was sent round again and what was not.", json::<RedriveReport>())
            .problems(&[Kind::BadRequest, Kind::RequestTimeout, Kind::TooLarge]),
        Route::post("/v1/dead-letters/purge", Right::Administer, "purgeDeadLetters", post(dead_letters::purge))
            .summary("Does away with dead letters, named or of a kind, and with their history, for ever.")
            .takes(json::<PurgeRequest>())
            .answers(OK, "How many are gone.", json::<PurgeReport>())
            .problems(&[Kind::BadRequest, Kind::RequestTimeout, Kind::TooLarge]),
        Route::get("/v1/cost", Right::Read, "showCost", get(cost::report))
            .summary("Sums up what jobs used and cost, by tenant, queue, scenario, worker or a label.")
            .query(query::COST)
            .answers(OK, "The sums.", json::<CostReport>())
            .problems(&[Kind::BadRequest]),
        Route::get("/v1/schedules", Right::Read, "listSchedules", get(schedules::list))
            .summary("Lists the schedules with their next due times.")
            .answers(OK, "All schedules, by name.", json::<Vec<ScheduleView>>()),
        Route::post("/v1/schedules", Right::Control, "addSchedule", post(schedules::add))
            .summary("Makes a job again and again, at the times of a cron expression in a time zone.")
            .takes(json::<ScheduleRequest>())
            .answers(StatusCode::CREATED, "The schedule.", json::<ScheduleView>())
            .problems(&[Kind::BadRequest, Kind::RequestTimeout, Kind::Conflict, Kind::TooLarge, Kind::InvalidJob]),
        Route::get("/v1/schedules/{name}", Right::Read, "showSchedule", get(schedules::show))
            .summary("Shows a schedule, its next due times and what became of the last.")
            .query(query::SCHEDULE)
            .answers(OK, "The schedule.", json::<ScheduleView>())
            .problems(&[Kind::BadRequest, Kind::NotFound]),
        Route::post("/v1/schedules/{name}/remove", Right::Control, "removeSchedule", post(schedules::remove))
            .summary("Does away with a schedule. Its jobs stay.")
            .query(query::SCHEDULE)
            .answers(OK, "It is gone.", json::<Accepted>())
            .problems(&[Kind::BadRequest, Kind::NotFound]),
        Route::post("/v1/schedules/{name}/pause", Right::Control, "pauseSchedule", post(schedules::pause))
            .summary("Pauses a schedule: it makes no jobs until it is resumed.")
            .query(query::SCHEDULE)
            .answers(OK, "The schedule.", json::<ScheduleView>())
            .problems(&[Kind::BadRequest, Kind::NotFound]),
        Route::post("/v1/schedules/{name}/resume", Right::Control, "resumeSchedule", post(schedules::resume))
            .summary("Makes jobs of a schedule again, from its next due time on.")
            .query(query::SCHEDULE)
            .answers(OK, "The schedule.", json::<ScheduleView>())
            .problems(&[Kind::BadRequest, Kind::NotFound]),
        Route::post("/v1/schedules/{name}/run", Right::Control, "runSchedule", post(schedules::run))
            .summary("Makes the job of a schedule now, besides its due times.")
            .query(query::SCHEDULE)
            .answers(StatusCode::CREATED, "The job.", json::<Submitted>())
            .problems(&[Kind::BadRequest, Kind::NotFound, Kind::InvalidJob]),
        Route::get("/v1/audit", Right::Administer, "listAudit", get(audit::list))
            .summary("Lists who changed what through the API, newest first.")
            .query(query::AUDIT)
            .answers(OK, "One page.", json::<Page<AuditView>>())
            .problems(&[Kind::BadRequest]),
        Route::get("/v1/keys", Right::Administer, "listKeys", get(keys::list))
            .summary("Lists the keys, without their texts.")
            .answers(OK, "The keys, by name.", json::<Vec<KeyView>>()),
        Route::post("/v1/keys", Right::Administer, "createKey", post(keys::create))
            .summary("Makes a key and shows its text, once.")
            .takes(json::<KeyRequest>())
            .answers(StatusCode::CREATED, "The key.", json::<NewKeyView>())
            .problems(&[Kind::BadRequest, Kind::RequestTimeout, Kind::Conflict, Kind::TooLarge]),
        Route::post("/v1/keys/{key}/revoke", Right::Administer, "revokeKey", post(keys::revoke))
            .summary("Makes the keys of a name, or the one with a prefix, void at once.")
            .answers(OK, "They are void.", json::<Accepted>())
            .problems(&[Kind::BadRequest, Kind::NotFound, Kind::Conflict]),
        Route::post("/v1/keys/{key}/rotate", Right::Administer, "rotateKey", post(keys::rotate))
            .summary(
                "Makes a new key in place of an old one, which opens beside it for a while. The body may be left out.",
            )
            .takes_if_any(json::<RotateRequest>())
            .answers(StatusCode::CREATED, "The new key.", json::<NewKeyView>())
            .problems(&[Kind::BadRequest, Kind::NotFound, Kind::RequestTimeout, Kind::Conflict, Kind::TooLarge]),
        Route::get("/v1/tenants", Right::Administer, "listTenants", get(tenants::list))
            .summary("Lists the tenants with what they may have; to a tenant's key its own.")
            .answers(OK, "The tenants, by name.", json::<Vec<TenantView>>()),
        Route::post("/v1/tenants", Right::Administer, "createTenant", post(tenants::create))
            .summary("Makes a tenant.")
            .of_pool()
            .takes(json::<TenantRequest>())
            .answers(StatusCode::CREATED, "The tenant.", json::<TenantView>())
            .problems(&[Kind::BadRequest, Kind::RequestTimeout, Kind::Conflict, Kind::TooLarge]),
        Route::get("/v1/tenants/{name}", Right::Administer, "showTenant", get(tenants::show))
            .summary("Shows a tenant with what it may have.")
            .answers(OK, "The tenant.", json::<TenantView>())
            .problems(&[Kind::NotFound]),
        Route::post("/v1/tenants/{name}/set", Right::Administer, "setTenant", post(tenants::set))
            .summary("Changes what a tenant may have.")
            .of_pool()
            .takes(json::<TenantChange>())
            .answers(OK, "The tenant.", json::<TenantView>())
            .problems(&[Kind::BadRequest, Kind::NotFound, Kind::RequestTimeout, Kind::Conflict, Kind::TooLarge]),
        Route::post("/v1/tenants/{name}/disable", Right::Administer, "disableTenant", post(tenants::disable))
            .summary("Disables a tenant: its keys open nothing and its schedules make no jobs. Its jobs stay.")
            .of_pool()
            .answers(OK, "The tenant.", json::<TenantView>())
            .problems(&[Kind::NotFound]),
        Route::post("/v1/tenants/{name}/enable", Right::Administer, "enableTenant", post(tenants::enable))
            .summary("Lets a disabled tenant go on.")
            .of_pool()
            .answers(OK, "The tenant.", json::<TenantView>())
            .problems(&[Kind::NotFound]),
        Route::get("/v1/scenarios", Right::Read, "listScenarios", get(catalog::scenarios))
            .summary("Lists the scenarios a job may name.")
            .answers(OK, "The scenarios.", json::<Vec<ScenarioView>>()),
        Route::get("/v1/templates", Right::Read, "listTemplates", get(catalog::templates))
            .summary("Lists the templates that a job may be made of.")
            .answers(OK, "The templates.", json::<Vec<TemplateView>>()),
        Route::get("/v1/schema/job", Right::Read, "showJobSchema", get(catalog::job_schema))
            .summary("Shows the JSON Schema of a job.")
            .answers(OK, "The schema.", document(&["application/schema+json"])),
        Route::get("/openapi.json", Right::Read, "showDescription", get(catalog::description))
            .summary("Shows this description.")
            .answers(OK, "OpenAPI 3.1.", document(&["application/json"])),
        Route::get("/health", Right::Open, "isAlive", get(health::alive))
            .summary("Answers while the dispatcher lives.")
            .for_probes()
            .answers(OK, "It lives.", text()),
        Route::get("/ready", Right::Open, "isReady", get(health::ready))
            .summary("Says whether broker, NATS and Postgres work and a leader is known.")
            .for_probes()
            .answers(OK, "All work.", json::<Readiness>())
            .answers(StatusCode::SERVICE_UNAVAILABLE, "Some do not.", json::<Readiness>()),
    ]
}
