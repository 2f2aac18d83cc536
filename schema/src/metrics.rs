//! Every metric ffpool exports: name, kind, unit and meaning in one table, from which help texts and docs are made.
//!
//! Invariant: a label's values come from a closed set or from the pool's own small sets (workers, queues), never from job ids.

/// What kind of series a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations in buckets.
    Histogram,
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Its name, with the unit last.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// Its meaning.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident = $name:literal, $kind:ident, [$($label:literal),*], $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: &str = $name;)*

        /// Every metric.
        pub const ALL: &[Metric] = &[$(Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help }),*];
    };
}

metrics! {
    BUILD_INFO = "ffpool_build_info", Gauge, ["version"], "1, with the version of the process as a label.";
    JOBS = "ffpool_jobs", Gauge, ["state", "queue"], "Jobs in the ledger that have not ended, by state and queue.";
    JOBS_RECORDED = "ffpool_jobs_recorded_total", Counter, ["queue"], "Jobs recorded in the ledger.";
    JOBS_ENDED = "ffpool_jobs_ended_total", Counter, ["state", "queue"], "Jobs that ended, by end state and queue.";
    ATTEMPTS_ENDED = "ffpool_attempts_ended_total", Counter, ["outcome"], "Attempts that ended, by outcome.";
    FAILURES = "ffpool_failures_total", Counter, ["cause"], "Failed attempts, by cause.";
    STALE_INPUTS = "ffpool_stale_inputs_total", Counter, ["input"], "Late or repeated messages that changed nothing, by what they said.";
    LEASES_LAPSED = "ffpool_leases_lapsed_total", Counter, [], "Leases that ended by silence.";
    REDELIVERIES_ABSORBED = "ffpool_redeliveries_absorbed_total", Counter, [], "Deliveries of a running job that passed into the ledger's custody.";
    CLAIMS = "ffpool_claims_total", Counter, ["verdict"], "Claims answered, by verdict.";
    CLAIM_SECONDS = "ffpool_claim_seconds", Histogram, [], "Time from the arrival of a claim to its answer.";
    LEDGER_BATCH_SIZE = "ffpool_ledger_batch_inputs", Histogram, [], "Inputs decided in one ledger transaction.";
    LEDGER_BATCH_SECONDS = "ffpool_ledger_batch_seconds", Histogram, [], "Duration of one ledger transaction.";
    QUEUE_WAIT_SECONDS = "ffpool_queue_wait_seconds", Histogram, ["queue"], "Time from a job's recording to the start of its first attempt.";
    JOB_RUN_SECONDS = "ffpool_job_run_seconds", Histogram, ["queue"], "Duration of finished attempts.";
    PUBLISHED = "ffpool_published_total", Counter, ["outcome"], "Jobs the ledger published, by outcome.";
    CALLBACKS = "ffpool_callbacks_total", Counter, ["outcome"], "Tries to deliver a callback, by outcome: delivered, failed, given_up.";
    CALLBACK_SECONDS = "ffpool_callback_seconds", Histogram, [], "Duration of one try to deliver a callback.";
    CALLBACKS_WAITING = "ffpool_callbacks_waiting", Gauge, [], "Callbacks that are neither delivered nor given up; only the leader shows them.";
    LEADER = "ffpool_leader", Gauge, [], "1 on the dispatcher that runs the timers.";
    WORKERS = "ffpool_workers", Gauge, ["state"], "Workers known to the ledger, by state.";
    CERTIFICATE_EXPIRES_SECONDS = "ffpool_certificate_expires_seconds", Gauge, ["certificate"], "Seconds until a certificate of the API ends, negative when it has: api, api-ca, api-client-ca.";
    CERTIFICATE_RELOADS = "ffpool_certificate_reloads_total", Counter, ["outcome"], "Certificates that changed while the API served: taken, or refused because they cannot be used.";
    API_CONNECTIONS = "ffpool_api_connections", Gauge, [], "Connections to the API that are open.";
    API_CONNECTIONS_CUT = "ffpool_api_connections_cut_total", Counter, ["reason"], "Connections to the API that the server ended or did not take, by reason: full, share, handshake, plain, slow, idle.";
    HTTP_REQUESTS = "ffpool_http_requests_total", Counter, ["route", "status"], "API requests, by route pattern and status.";
    HTTP_SECONDS = "ffpool_http_request_seconds", Histogram, ["route"], "Duration of API requests, by route pattern.";
    HTTP_RATE_LIMITED = "ffpool_http_rate_limited_total", Counter, ["by"], "API requests answered with 429, by what was used up: address, probe (health and readiness of an address), key, failed_key (unknown keys of an address).";
    WORKER_SLOTS = "ffpool_worker_slots", Gauge, [], "Slots of this worker.";
    WORKER_SLOTS_USED = "ffpool_worker_slots_used", Gauge, [], "Slots in use on this worker.";
    WORKER_CPU_PERCENT = "ffpool_worker_cpu_limit_percent", Gauge, [], "Processor time this worker may use, in percent of one core.";
    WORKER_MEMORY_BYTES = "ffpool_worker_memory_limit_bytes", Gauge, [], "Memory this worker may use.";
    WORKER_ATTEMPTS = "ffpool_worker_attempts_total", Counter, ["outcome"], "Attempts this worker ended, by outcome.";
    WORKER_ATTEMPT_SECONDS = "ffpool_worker_attempt_seconds", Histogram, ["outcome"], "Wall time of attempts on this worker.";
    WORKER_CPU_SECONDS = "ffpool_worker_attempt_cpu_seconds_total", Counter, [], "Processor time of ended attempts on this worker.";
    WORKER_OUTPUT_BYTES = "ffpool_worker_output_bytes_total", Counter, [], "Bytes of published outputs.";
    WORKER_RELEASED = "ffpool_worker_released_total", Counter, ["reason"], "Attempts this worker handed back, by reason: drain, eviction, lease (a live one that could not be renewed).";
    WORKER_PREEMPTIONS = "ffpool_worker_preemptions_total", Counter, [], "Attempts that were frozen to make room for a live job.";
    WORKER_EVICTIONS = "ffpool_worker_eviction_notices_total", Counter, ["provider"], "Notices of a cloud that it takes the machine, or may soon, each counted once.";
    WORKER_LIVE_LOSSES = "ffpool_worker_live_losses_total", Counter, ["cause"], "Times that a live source went away, by cause.";
    WORKER_LIVE_SLOW = "ffpool_worker_live_slow_total", Counter, [], "Times that a live encode fell behind its source.";
    WORKER_SINK_LOSSES = "ffpool_worker_sink_losses_total", Counter, [], "Times that a live sink went away or refused.";
    WORKER_SANDBOX = "ffpool_worker_sandbox", Gauge, ["layer"], "1 for each layer of the sandbox that stands around the tools of this worker: landlock, seccomp, network, egress; 0 for those that do not work here.";
    WORKER_SCRATCH_BYTES = "ffpool_worker_scratch_free_bytes", Gauge, [], "Free scratch space of this worker.";
    WORKER_DEVICE_SESSIONS = "ffpool_worker_device_sessions_used", Gauge, ["device"], "Encodes that run on a device of this worker.";
    WORKER_DEVICE_FAILURES = "ffpool_worker_device_failures_total", Counter, ["device", "encoder"], "Encodes that failed for a device's sake.";
    WORKER_DEVICE_SICK = "ffpool_worker_device_resting", Gauge, ["device", "encoder"], "1 while an encoder rests because its device failed too often.";
    WORKER_HEARTBEATS = "ffpool_worker_heartbeats_total", Counter, ["outcome"], "Heartbeats sent, by outcome.";
    WORKER_STATE = "ffpool_worker_state", Gauge, ["state"], "1 for the state the worker is in.";
    LINK_CONNECTIONS = "ffpool_link_connections_total", Counter, ["server"], "Connections made to a server, the first one and every one after it: amqp, nats.";
    LINK_UP = "ffpool_link_up", Gauge, ["server"], "Whether the connection to a server works: amqp, nats, postgres.";
}
