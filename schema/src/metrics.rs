//! Every metric ffpool exports: name, kind, unit and meaning in one table, from which help texts and docs are made.
//!
//! Invariant: a label's values come from a closed set or from the operator's own small sets (pools, devices, currencies), never
//! from what a job or a client says, and never from ids of jobs. Which worker a series is of is the scraper's `instance`.

mod sets;

pub use sets::Set;

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

impl Kind {
    /// As Prometheus calls it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// From when on a process shows a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Within seconds of its start, for as long as it runs.
    Always,
    /// The same, on the leader; another dispatcher that has led shows zeros, so a sum over dispatchers is right.
    Leader,
    /// Once what it tells has happened for the first time.
    Once,
}

impl Shown {
    /// In words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Shown::Always => "always",
            Shown::Leader => "on the leader",
            Shown::Once => "once it has happened",
        }
    }
}

/// Which processes show a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// Dispatchers.
    Dispatcher,
    /// Workers.
    Worker,
    /// Both.
    Both,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name, with the unit last.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// From when on it is shown.
    pub shown: Shown,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// The values of each label, where all are known.
    pub values: &'static [Option<Set>],
    /// Its meaning.
    pub help: &'static str,
}

impl Metric {
    /// The processes that show it: its name says it.
    #[must_use]
    pub fn process(&self) -> Process {
        if self.name.starts_with("ffpool_worker_") {
            Process::Worker
        } else if self.name.starts_with("ffpool_link_")
            || [BUILD_INFO, START_SECONDS, TRACE_SPANS_EXPORTED, TRACE_SPANS_DROPPED, CERTIFICATE_EXPIRES_SECONDS]
                .contains(&self.name)
        {
            Process::Both
        } else {
            Process::Dispatcher
        }
    }

    /// Every set of labels that a series of it can have, where the values of all are known: one without labels for a metric that
    /// has none, none for one that has a label of which nobody knows the values.
    #[must_use]
    pub fn label_sets(&self) -> Vec<Vec<(&'static str, &'static str)>> {
        let mut all = vec![Vec::new()];
        for (label, values) in self.labels.iter().zip(self.values) {
            let values = values.map(|values| values()).unwrap_or_default();
            let longer = |set: &Vec<_>| {
                let with = |value: &&'static str| [set.clone(), vec![(*label, *value)]].concat();
                values.iter().map(with).collect::<Vec<_>>()
            };
            all = all.iter().flat_map(longer).collect();
        }
        all
    }

    /// Its unit, the last part of its name but for `total`; `None` for numbers of things.
    #[must_use]
    pub fn unit(&self) -> Option<&'static str> {
        let name = self.name.strip_suffix("_total").unwrap_or(self.name);
        UNITS.iter().copied().find(|unit| name.rsplit('_').next() == Some(unit))
    }

    /// The names of its series: a histogram has three.
    pub fn series(&self) -> impl Iterator<Item = String> {
        let suffixes: &[&str] = match self.kind {
            Kind::Counter | Kind::Gauge => &[""],
            Kind::Histogram => &["_bucket", "_sum", "_count"],
        };
        let name = self.name;
        suffixes.iter().map(move |suffix| format!("{name}{suffix}"))
    }
}

/// Units that end a name.
const UNITS: &[&str] = &["seconds", "bytes", "joules", "percent"];

/// The values of a label in the table: what names no set has values that nobody knows.
macro_rules! values {
    () => {
        None
    };
    ($set:ident) => {
        Some(sets::$set as Set)
    };
}

/// The words of [`Shown`] in the table: what says nothing is shown once it has happened.
macro_rules! shown {
    () => {
        Shown::Once
    };
    ($shown:ident) => {
        Shown::$shown
    };
}

macro_rules! metrics {
    ($($constant:ident = $name:literal, $kind:ident, [$($label:literal $(of $set:ident)?),*], $help:literal $(, $shown:ident)?;)*) => {
        $(#[doc = $help] pub const $constant: &str = $name;)*

        /// Every metric.
        pub const ALL: &[Metric] = &[$(Metric {
            name: $name,
            kind: Kind::$kind,
            shown: shown!($($shown)?),
            labels: &[$($label),*],
            values: &[$(values!($($set)?)),*],
            help: $help,
        }),*];
    };
}

metrics! {
    BUILD_INFO = "ffpool_build_info", Gauge, ["version"], "1, with the version of the process as a label.", Always;
    START_SECONDS = "ffpool_start_seconds", Gauge, [], "When the process started, in seconds since 1970.", Always;
    TRACE_SPANS_EXPORTED = "ffpool_trace_spans_exported_total", Counter, [], "Spans of traces that the collector took.";
    TRACE_SPANS_DROPPED = "ffpool_trace_spans_dropped_total", Counter, ["reason"], "Spans of traces that were lost, by reason: full (the collector does not keep up), refused (it is away or does not take them).";
    JOBS = "ffpool_jobs", Gauge, ["state", "queue", "priority", "pool"], "Jobs in the ledger that have not ended, by state, queue, priority and pool.", Leader;
    OLDEST_WAITING_SECONDS = "ffpool_oldest_waiting_seconds", Gauge, ["queue"], "How long the job has waited that is queued for longest, by queue; jobs that somebody has paused do not count. 0 where none waits.", Leader;
    QUEUE_PAUSED = "ffpool_queue_paused", Gauge, ["queue"], "1 while somebody has paused the queue.", Always;
    JOBS_RECORDED = "ffpool_jobs_recorded_total", Counter, ["queue" of queues], "Jobs recorded in the ledger.", Always;
    JOBS_ENDED = "ffpool_jobs_ended_total", Counter, ["state" of ends, "queue" of queues], "Jobs that ended, by end state and queue.", Always;
    ATTEMPTS_ENDED = "ffpool_attempts_ended_total", Counter, ["outcome" of attempt_ends], "Attempts that ended, by outcome.", Always;
    FAILURES = "ffpool_failures_total", Counter, ["cause" of causes], "Failed attempts, by cause.", Always;
    RETRIES = "ffpool_retries_total", Counter, ["cause" of causes], "Attempts that failed or whose lease lapsed (worker_lost) and after which the job is tried again, by cause.", Always;
    STALE_INPUTS = "ffpool_stale_inputs_total", Counter, ["input" of stale_inputs], "Late or repeated messages that changed nothing, by what they said.", Always;
    LEASES_LAPSED = "ffpool_leases_lapsed_total", Counter, [], "Leases that ended by silence.", Always;
    JOBS_HELD_BACK = "ffpool_jobs_held_back_total", Counter, ["by" of held], "Jobs held back by the quota of their tenant, by what was used up: running (or cores), queued, rate, storage.", Always;
    WORKERS_LOST = "ffpool_workers_lost_total", Counter, [], "Workers that fell silent.", Always;
    JOBS_RESCUED = "ffpool_jobs_rescued_total", Counter, [], "Jobs that were published again because their message was missing.", Always;
    JOBS_FORGOTTEN = "ffpool_jobs_forgotten_total", Counter, [], "Jobs that were forgotten because they had ended longer ago than they are kept.", Always;
    DEADLINES_PASSED = "ffpool_deadlines_passed_total", Counter, [], "Jobs that ended because their deadline had passed.", Always;
    HEARTBEATS_HEARD = "ffpool_heartbeats_heard_total", Counter, [], "Heartbeats of workers that this dispatcher heard.", Always;
    HEARTBEAT_AGE_SECONDS = "ffpool_heartbeat_age_seconds", Gauge, [], "Longest silence among the workers that were heard within a minute and have not said that they stop.", Always;
    HEARING = "ffpool_hearing", Gauge, [], "1 while this dispatcher leads, hears its own echo over NATS and writes heartbeats down; no lease ends while it is 0.", Leader;
    REDELIVERIES_ABSORBED = "ffpool_redeliveries_absorbed_total", Counter, [], "Deliveries of a running job that passed into the ledger's custody.", Always;
    CLAIMS = "ffpool_claims_total", Counter, ["verdict" of verdicts], "Claims answered, by verdict.", Always;
    CLAIM_SECONDS = "ffpool_claim_seconds", Histogram, [], "Time from the arrival of a claim to its answer.";
    LEDGER_BATCH_SIZE = "ffpool_ledger_batch_inputs", Histogram, [], "Inputs decided in one ledger transaction.";
    LEDGER_BATCH_SECONDS = "ffpool_ledger_batch_seconds", Histogram, [], "Duration of one ledger transaction.";
    LEDGER_WAITING = "ffpool_ledger_waiting", Gauge, [], "Inputs that wait for a writer of this dispatcher.", Always;
    LEDGER_STUCK = "ffpool_ledger_stuck", Gauge, [], "Writers of this dispatcher whose batch Postgres has not taken at two tries.", Always;
    LEDGER_RETRIES = "ffpool_ledger_retries_total", Counter, [], "Batches that Postgres did not take and that were done again.", Always;
    LEDGER_REFUSED = "ffpool_ledger_refused_total", Counter, [], "Inputs that Postgres does not take at all; each is an error in the log.", Always;
    DATABASE_BYTES = "ffpool_database_bytes", Gauge, [], "Size of the ledger's database.", Leader;
    POSTGRES_CONNECTIONS = "ffpool_postgres_connections", Gauge, ["use", "state"], "Connections of this dispatcher to Postgres, by use (read, write) and state (used, idle).", Always;
    POSTGRES_CONNECTIONS_MAX = "ffpool_postgres_connections_max", Gauge, ["use"], "Connections to Postgres that this dispatcher makes at most, by use.", Always;
    POSTGRES_WAITING = "ffpool_postgres_waiting", Gauge, ["use"], "Tasks of this dispatcher that wait for a connection to Postgres, by use.", Always;
    BROKER_MESSAGES = "ffpool_broker_messages", Gauge, ["queue"], "Messages that are ready in a queue of RabbitMQ; a work queue with its twin. Those in jobs.ledger and jobs.events are what the ledger lags behind.", Leader;
    QUEUE_WAIT_SECONDS = "ffpool_queue_wait_seconds", Histogram, ["queue"], "Time from a job's recording to the start of its first attempt.";
    JOB_RUN_SECONDS = "ffpool_job_run_seconds", Histogram, ["queue"], "Duration of finished attempts.";
    ATTEMPT_CPU_SECONDS = "ffpool_attempt_cpu_seconds", Histogram, ["outcome"], "Processor time of ended attempts that told it, by outcome; what is not `finished` is wasted.";
    ATTEMPT_ENERGY_JOULES = "ffpool_attempt_energy_joules", Histogram, ["outcome"], "Energy of ended attempts whose machine tells it, by outcome.";
    ATTEMPT_COST = "ffpool_attempt_cost", Histogram, ["outcome", "currency"], "Cost of ended attempts by the prices in force, by outcome and currency; absent without prices.";
    PUBLISHED = "ffpool_published_total", Counter, ["outcome" of publishings], "Jobs the ledger published, by outcome.", Always;
    CALLBACKS = "ffpool_callbacks_total", Counter, ["outcome" of callbacks], "Tries to deliver a callback, by outcome: delivered, failed, given_up.", Always;
    CALLBACK_SECONDS = "ffpool_callback_seconds", Histogram, [], "Duration of one try to deliver a callback.";
    CALLBACKS_WAITING = "ffpool_callbacks_waiting", Gauge, [], "Callbacks that are neither delivered nor given up; only the leader shows them.", Leader;
    LEADER = "ffpool_leader", Gauge, [], "1 on the dispatcher that runs the timers.", Always;
    WORKERS = "ffpool_workers", Gauge, ["state"], "Workers known to the ledger, by state.", Leader;
    SCALE_DESIRED_WORKERS = "ffpool_scale_desired_workers", Gauge, ["pool"], "Workers that a pool of the operator's should have, so that what waits starts in time: docs/scaling.md.", Leader;
    SCALE_READY_WORKERS = "ffpool_scale_ready_workers", Gauge, ["pool"], "Workers that take work of a pool of the operator's, counted by the same reading as those that it should have.", Leader;
    CERTIFICATE_EXPIRES_SECONDS = "ffpool_certificate_expires_seconds", Gauge, ["certificate"], "Seconds until a certificate ends, negative when it has: of the API api, api-ca, api-client-ca; of the links to servers those that are shown there (amqp, nats, postgres) and those by which the servers are judged (amqp-ca, nats-ca, postgres-ca), where files of them are named.";
    CERTIFICATE_RELOADS = "ffpool_certificate_reloads_total", Counter, ["outcome" of reloads], "Certificates that changed while the API served: taken, or refused because they cannot be used.", Always;
    API_CONNECTIONS = "ffpool_api_connections", Gauge, [], "Connections to the API that are open.";
    API_CONNECTIONS_CUT = "ffpool_api_connections_cut_total", Counter, ["reason" of cuts], "Connections to the API that the server ended or did not take, by reason: full, share, handshake, handshake_rate, handshakes (too many under way), plain, slow, idle.", Always;
    API_HANDSHAKES = "ffpool_api_handshakes_total", Counter, ["outcome" of handshakes], "TLS handshakes of the API, by outcome: done, failed, refused (the rate or the number of one address).", Always;
    HTTP_REQUESTS = "ffpool_http_requests_total", Counter, ["route", "status"], "API requests, by route pattern and status.";
    HTTP_SECONDS = "ffpool_http_request_seconds", Histogram, ["route"], "Duration of API requests, by route pattern.";
    HTTP_RATE_LIMITED = "ffpool_http_rate_limited_total", Counter, ["by" of limits], "API requests answered with 429, by what was used up: address, probe (health and readiness of an address), key, tenant, failed_key (unknown keys of an address), key_streams, tenant_streams and all_streams (event streams that are open: of a key, a tenant, a dispatcher).", Always;
    WORKER_SLOTS = "ffpool_worker_slots", Gauge, [], "Slots of this worker.", Always;
    WORKER_SLOTS_USED = "ffpool_worker_slots_used", Gauge, [], "Slots in use on this worker.", Always;
    WORKER_CPU_PERCENT = "ffpool_worker_cpu_limit_percent", Gauge, [], "Processor time this worker may use, in percent of one core.", Always;
    WORKER_MEMORY_BYTES = "ffpool_worker_memory_limit_bytes", Gauge, [], "Memory this worker may use.", Always;
    WORKER_IN_USE_CPU_SECONDS = "ffpool_worker_cpu_seconds_total", Counter, [], "Processor time that this worker and the tools of its attempts have taken since its start; absent where no cgroup tells.";
    WORKER_IN_USE_MEMORY_BYTES = "ffpool_worker_memory_bytes", Gauge, [], "Memory that this worker and the tools of its attempts use, without page cache that the kernel would give away at once; absent where no cgroup tells.";
    WORKER_ATTEMPTS = "ffpool_worker_attempts_total", Counter, ["outcome" of worker_ends], "Attempts this worker ended, by outcome.", Always;
    WORKER_ATTEMPT_SECONDS = "ffpool_worker_attempt_seconds", Histogram, ["outcome"], "Wall time of attempts on this worker.";
    WORKER_CPU_SECONDS = "ffpool_worker_attempt_cpu_seconds_total", Counter, [], "Processor time of ended attempts on this worker.", Always;
    WORKER_OUTPUT_BYTES = "ffpool_worker_output_bytes_total", Counter, [], "Bytes of published outputs.", Always;
    WORKER_INPUT_BYTES = "ffpool_worker_input_bytes_total", Counter, [], "Bytes of inputs of finished attempts.", Always;
    WORKER_RELEASED = "ffpool_worker_released_total", Counter, ["reason" of releases], "Attempts this worker handed back, by reason: drain, eviction, lease (a live one that could not be renewed).", Always;
    WORKER_PREEMPTIONS = "ffpool_worker_preemptions_total", Counter, [], "Attempts that were frozen to make room for a live job.", Always;
    WORKER_EVICTIONS = "ffpool_worker_eviction_notices_total", Counter, ["provider" of clouds], "Notices of a cloud that it takes the machine, or may soon, each counted once.", Always;
    WORKER_LIVE_LOSSES = "ffpool_worker_live_losses_total", Counter, ["cause" of causes], "Times that a live source went away, by cause.", Always;
    WORKER_LIVE_SLOW = "ffpool_worker_live_slow_total", Counter, [], "Times that a live encode fell behind its source.", Always;
    WORKER_SINK_LOSSES = "ffpool_worker_sink_losses_total", Counter, [], "Times that a live sink went away or refused.", Always;
    WORKER_SANDBOX = "ffpool_worker_sandbox", Gauge, ["layer"], "1 for each layer of the sandbox that stands around the tools of this worker: landlock, seccomp, network, processes, mounts, proc, ipc, egress; 0 for those that do not work here.", Always;
    WORKER_SCRATCH_BYTES = "ffpool_worker_scratch_free_bytes", Gauge, [], "Free scratch space of this worker.", Always;
    WORKER_SCRATCH_FLOOR_BYTES = "ffpool_worker_scratch_floor_bytes", Gauge, [], "Free scratch space below which this worker takes no work.", Always;
    WORKER_DEVICE_SESSIONS = "ffpool_worker_device_sessions_used", Gauge, ["device"], "Encodes that run on a device of this worker.";
    WORKER_DEVICE_FAILURES = "ffpool_worker_device_failures_total", Counter, ["device", "encoder"], "Encodes that failed for a device's sake.";
    WORKER_DEVICE_SICK = "ffpool_worker_device_resting", Gauge, ["device", "encoder"], "1 while an encoder rests because its device failed too often.";
    WORKER_HEARTBEATS = "ffpool_worker_heartbeats_total", Counter, ["outcome" of heartbeats], "Heartbeats sent, by outcome.", Always;
    WORKER_HEARTBEAT_AGE_SECONDS = "ffpool_worker_heartbeat_age_seconds", Gauge, [], "Time since this worker last sent a heartbeat.", Always;
    WORKER_ENCODER = "ffpool_worker_encoder", Gauge, ["encoder"], "1 for each encoder that this worker has tried and offers now, 0 for the others.", Always;
    WORKER_STATE = "ffpool_worker_state", Gauge, ["state"], "1 for the state the worker is in.", Always;
    LINK_CONNECTIONS = "ffpool_link_connections_total", Counter, ["server"], "Connections made to a server, the first one and every one after it: amqp, nats.", Always;
    LINK_UP = "ffpool_link_up", Gauge, ["server"], "Whether the connection to a server works: amqp, nats, postgres.", Always;
}
