//! The dashboards as lists of panels: what is asked, and how it is called.

/// One dashboard.
pub struct Board {
    /// Last part of its file's name and of its address.
    pub name: &'static str,
    /// What it is called.
    pub title: &'static str,
    /// What question it answers.
    pub about: &'static str,
    /// How far it looks back at first.
    pub span: &'static str,
    /// Its panels, in order.
    pub panels: &'static [Panel],
}

/// One panel.
pub struct Panel {
    /// What it shows.
    pub title: &'static str,
    /// By Grafana's name.
    pub unit: &'static str,
    /// How.
    pub shape: Shape,
    /// Queries, and how their series are called.
    pub queries: &'static [(&'static str, &'static str)],
}

/// How a panel shows its queries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The value now.
    Number,
    /// Values over time, two in a row.
    Graph,
    /// Values over time, over the whole width.
    Wide,
}

impl Shape {
    /// Columns and rows.
    pub fn size(self) -> (usize, usize) {
        match self {
            Shape::Number => (4, 4),
            Shape::Graph => (12, 8),
            Shape::Wide => (24, 9),
        }
    }
}

const fn number(title: &'static str, unit: &'static str, queries: &'static [(&'static str, &'static str)]) -> Panel {
    Panel { title, unit, shape: Shape::Number, queries }
}

const fn graph(title: &'static str, unit: &'static str, queries: &'static [(&'static str, &'static str)]) -> Panel {
    Panel { title, unit, shape: Shape::Graph, queries }
}

const fn wide(title: &'static str, unit: &'static str, queries: &'static [(&'static str, &'static str)]) -> Panel {
    Panel { title, unit, shape: Shape::Wide, queries }
}

/// Every dashboard.
pub const BOARDS: &[Board] = &[OVERVIEW, WORKERS, JOBS, QUEUES, CAPACITY, COST, HEALTH];

const OVERVIEW: Board = Board {
    name: "overview",
    title: "overview",
    about: "Does the pool do its work?",
    span: "now-6h",
    panels: &[
        number("Running", "short", &[(r#"sum(ffpool_jobs{state="running"})"#, "")]),
        number("Queued", "short", &[(r#"sum(ffpool_jobs{state="queued"})"#, "")]),
        number("Waits longest", "s", &[("max(ffpool_oldest_waiting_seconds)", "")]),
        number("Workers ready", "short", &[(r#"sum(ffpool_workers{state="ready"})"#, "")]),
        number("Slots in use", "percentunit", &[("sum(ffpool_worker_slots_used) / sum(ffpool_worker_slots)", "")]),
        number("Alerts", "short", &[(r#"count(ALERTS{alertstate="firing", alertname=~"Ffpool.*"}) or vector(0)"#, "")]),
        graph(
            "Jobs that ended",
            "ops",
            &[("sum by (state) (rate(ffpool_jobs_ended_total[$__rate_interval]))", "{{state}}")],
        ),
        graph(
            "Failures by cause",
            "ops",
            &[("sum by (cause) (rate(ffpool_failures_total[$__rate_interval]))", "{{cause}}")],
        ),
        graph("Jobs by state", "short", &[("sum by (state) (ffpool_jobs)", "{{state}}")]),
        graph(
            "Wait before the first attempt",
            "s",
            &[
                (
                    "histogram_quantile(0.5, sum by (le) (rate(ffpool_queue_wait_seconds_bucket[$__rate_interval])))",
                    "half",
                ),
                (
                    "histogram_quantile(0.95, sum by (le) (rate(ffpool_queue_wait_seconds_bucket[$__rate_interval])))",
                    "95 %",
                ),
            ],
        ),
    ],
};

const WORKERS: Board = Board {
    name: "workers",
    title: "workers",
    about: "What does each worker do, and is one of them in trouble?",
    span: "now-6h",
    panels: &[
        graph("Workers by state", "short", &[("sum by (state) (ffpool_workers)", "{{state}}")]),
        graph(
            "Fell silent, and leases that lapsed",
            "short",
            &[
                ("sum(increase(ffpool_workers_lost_total[$__rate_interval]))", "workers"),
                ("sum(increase(ffpool_leases_lapsed_total[$__rate_interval]))", "leases"),
            ],
        ),
        graph("Slots in use", "short", &[("ffpool_worker_slots_used", "{{instance}}")]),
        graph(
            "Processors in use",
            "short",
            &[
                ("rate(ffpool_worker_cpu_seconds_total[$__rate_interval])", "{{instance}}"),
                ("ffpool_worker_cpu_limit_percent / 100", "{{instance}} may use"),
            ],
        ),
        graph(
            "Memory in use",
            "bytes",
            &[
                ("ffpool_worker_memory_bytes", "{{instance}}"),
                ("ffpool_worker_memory_limit_bytes", "{{instance}} may use"),
            ],
        ),
        graph(
            "Attempts that ended",
            "ops",
            &[("sum by (outcome) (rate(ffpool_worker_attempts_total[$__rate_interval]))", "{{outcome}}")],
        ),
        graph(
            "Time since the last heartbeat",
            "s",
            &[
                ("ffpool_worker_heartbeat_age_seconds", "{{instance}}"),
                ("max(ffpool_heartbeat_age_seconds)", "longest heard"),
            ],
        ),
        graph(
            "Free scratch",
            "bytes",
            &[
                ("ffpool_worker_scratch_free_bytes", "{{instance}}"),
                ("max(ffpool_worker_scratch_floor_bytes)", "takes no work below"),
            ],
        ),
        graph("Sessions on devices", "short", &[("ffpool_worker_device_sessions_used", "{{instance}} {{device}}")]),
        graph(
            "Encoders that rest, failures of devices",
            "short",
            &[
                ("ffpool_worker_device_resting", "{{instance}} {{device}} {{encoder}} rests"),
                (
                    "sum by (device, encoder) (increase(ffpool_worker_device_failures_total[$__rate_interval]))",
                    "{{device}} {{encoder}} failed",
                ),
            ],
        ),
        graph(
            "Handed back, preempted, evicted",
            "short",
            &[
                (
                    "sum by (reason) (increase(ffpool_worker_released_total[$__rate_interval]))",
                    "handed back: {{reason}}",
                ),
                ("sum(increase(ffpool_worker_preemptions_total[$__rate_interval]))", "preempted"),
                (
                    "sum by (provider) (increase(ffpool_worker_eviction_notices_total[$__rate_interval]))",
                    "notice: {{provider}}",
                ),
            ],
        ),
        graph(
            "Live: sources and sinks lost, encodes behind",
            "short",
            &[
                ("sum by (cause) (increase(ffpool_worker_live_losses_total[$__rate_interval]))", "source: {{cause}}"),
                ("sum(increase(ffpool_worker_sink_losses_total[$__rate_interval]))", "sinks"),
                ("sum(increase(ffpool_worker_live_slow_total[$__rate_interval]))", "behind"),
            ],
        ),
        graph(
            "Workers that offer an encoder",
            "short",
            &[("sum by (encoder) (ffpool_worker_encoder) > 0", "{{encoder}}")],
        ),
        graph(
            "Workers without a layer of the sandbox",
            "short",
            &[("sum by (layer) (1 - ffpool_worker_sandbox)", "{{layer}}")],
        ),
    ],
};

const JOBS: Board = Board {
    name: "jobs",
    title: "job performance",
    about: "How long do jobs take, and why do they fail?",
    span: "now-24h",
    panels: &[
        graph(
            "Duration of completed jobs",
            "s",
            &[
                (
                    "histogram_quantile(0.5, sum by (le, queue) (rate(ffpool_job_run_seconds_bucket[$__rate_interval])))",
                    "{{queue}} half",
                ),
                (
                    "histogram_quantile(0.95, sum by (le, queue) (rate(ffpool_job_run_seconds_bucket[$__rate_interval])))",
                    "{{queue}} 95 %",
                ),
            ],
        ),
        graph(
            "Wait before the first attempt",
            "s",
            &[
                (
                    "histogram_quantile(0.5, sum by (le, queue) (rate(ffpool_queue_wait_seconds_bucket[$__rate_interval])))",
                    "{{queue}} half",
                ),
                (
                    "histogram_quantile(0.95, sum by (le, queue) (rate(ffpool_queue_wait_seconds_bucket[$__rate_interval])))",
                    "{{queue}} 95 %",
                ),
            ],
        ),
        graph(
            "Attempts on workers",
            "s",
            &[(
                "histogram_quantile(0.95, sum by (le, outcome) (rate(ffpool_worker_attempt_seconds_bucket[$__rate_interval])))",
                "{{outcome}} 95 %",
            )],
        ),
        graph(
            "Share of jobs that fail",
            "percentunit",
            &[(
                r#"sum(rate(ffpool_jobs_ended_total{state="failed"}[$__rate_interval])) / sum(rate(ffpool_jobs_ended_total{state=~"completed|failed"}[$__rate_interval]))"#,
                "failed",
            )],
        ),
        graph(
            "Failed attempts by cause",
            "short",
            &[("sum by (cause) (increase(ffpool_failures_total[$__rate_interval]))", "{{cause}}")],
        ),
        graph(
            "Tried again, by cause",
            "short",
            &[("sum by (cause) (increase(ffpool_retries_total[$__rate_interval]))", "{{cause}}")],
        ),
        graph(
            "Attempts by outcome",
            "ops",
            &[("sum by (outcome) (rate(ffpool_attempts_ended_total[$__rate_interval]))", "{{outcome}}")],
        ),
        graph(
            "Bytes in and out",
            "Bps",
            &[
                ("sum(rate(ffpool_worker_input_bytes_total[$__rate_interval]))", "in"),
                ("sum(rate(ffpool_worker_output_bytes_total[$__rate_interval]))", "out"),
            ],
        ),
        graph(
            "Callbacks",
            "short",
            &[
                ("sum by (outcome) (increase(ffpool_callbacks_total[$__rate_interval]))", "{{outcome}}"),
                ("max(ffpool_callbacks_waiting)", "waiting"),
            ],
        ),
        graph(
            "Callbacks: duration of a try",
            "s",
            &[(
                "histogram_quantile(0.95, sum by (le) (rate(ffpool_callback_seconds_bucket[$__rate_interval])))",
                "95 %",
            )],
        ),
        graph(
            "Deadlines passed",
            "short",
            &[("sum(increase(ffpool_deadlines_passed_total[$__rate_interval]))", "jobs")],
        ),
    ],
};

const QUEUES: Board = Board {
    name: "queues",
    title: "queues",
    about: "What waits, for how long, and does it flow?",
    span: "now-6h",
    panels: &[
        graph("Queued by queue", "short", &[(r#"sum by (queue) (ffpool_jobs{state="queued"})"#, "{{queue}}")]),
        graph("Queued by priority", "short", &[(r#"sum by (priority) (ffpool_jobs{state="queued"})"#, "{{priority}}")]),
        graph("Queued by pool", "short", &[(r#"sum by (pool) (ffpool_jobs{state="queued"})"#, "{{pool}}")]),
        graph("Waits longest", "s", &[("max by (queue) (ffpool_oldest_waiting_seconds)", "{{queue}}")]),
        graph(
            "Recorded and ended",
            "ops",
            &[
                ("sum by (queue) (rate(ffpool_jobs_recorded_total[$__rate_interval]))", "{{queue}} recorded"),
                ("sum by (queue) (rate(ffpool_jobs_ended_total[$__rate_interval]))", "{{queue}} ended"),
            ],
        ),
        graph(
            "Delayed and blocked",
            "short",
            &[(r#"sum by (state) (ffpool_jobs{state=~"delayed|blocked"})"#, "{{state}}")],
        ),
        wide("Messages in RabbitMQ", "short", &[("max by (queue) (ffpool_broker_messages) > 0", "{{queue}}")]),
        graph(
            "Claims by verdict",
            "ops",
            &[("sum by (verdict) (rate(ffpool_claims_total[$__rate_interval]))", "{{verdict}}")],
        ),
        graph(
            "Published by the ledger",
            "ops",
            &[
                ("sum by (outcome) (rate(ffpool_published_total[$__rate_interval]))", "{{outcome}}"),
                ("sum(rate(ffpool_jobs_rescued_total[$__rate_interval]))", "message was missing"),
                ("sum(rate(ffpool_redeliveries_absorbed_total[$__rate_interval]))", "redelivery absorbed"),
            ],
        ),
        graph("Paused queues", "short", &[("max by (queue) (ffpool_queue_paused)", "{{queue}}")]),
        graph(
            "Late and repeated messages",
            "ops",
            &[("sum by (input) (rate(ffpool_stale_inputs_total[$__rate_interval]))", "{{input}}")],
        ),
    ],
};

const CAPACITY: Board = Board {
    name: "capacity",
    title: "capacity planning",
    about: "How much can the pool do, how much of it is used, and is it enough?",
    span: "now-7d",
    panels: &[
        number("Slots", "short", &[("sum(ffpool_worker_slots)", "")]),
        number("Processors", "short", &[("sum(ffpool_worker_cpu_limit_percent) / 100", "")]),
        number("Memory", "bytes", &[("sum(ffpool_worker_memory_limit_bytes)", "")]),
        number("Free scratch", "bytes", &[("sum(ffpool_worker_scratch_free_bytes)", "")]),
        number(
            "Busiest hour",
            "percentunit",
            // Until the first hour is full: what there is of it.
            &[(
                "max_over_time((sum(avg_over_time(ffpool_worker_slots_used[1h])) / sum(avg_over_time(ffpool_worker_slots[1h])))[$__range:1h]) or sum(avg_over_time(ffpool_worker_slots_used[1h])) / sum(avg_over_time(ffpool_worker_slots[1h]))",
                "",
            )],
        ),
        number(
            "Mean use",
            "percentunit",
            &[(
                "avg_over_time((sum(avg_over_time(ffpool_worker_slots_used[1h])) / sum(avg_over_time(ffpool_worker_slots[1h])))[$__range:1h]) or sum(avg_over_time(ffpool_worker_slots_used[1h])) / sum(avg_over_time(ffpool_worker_slots[1h]))",
                "",
            )],
        ),
        wide("Slots", "short", &[("sum(ffpool_worker_slots)", "there"), ("sum(ffpool_worker_slots_used)", "in use")]),
        graph(
            "Workers, and those that would let every job start in time",
            "short",
            &[
                ("max by (pool) (ffpool_scale_desired_workers)", "{{pool}}: there should be"),
                ("max by (pool) (ffpool_scale_ready_workers)", "{{pool}}: there are"),
            ],
        ),
        graph(
            "Slots that the work needs",
            "short",
            &[("sum(rate(ffpool_worker_attempt_seconds_sum[1h]))", "attempts at once, mean of an hour")],
        ),
        graph(
            "Work that comes and slots that wait",
            "short",
            &[
                (r#"sum(ffpool_jobs{state="queued"})"#, "queued"),
                ("sum(ffpool_worker_slots) - sum(ffpool_worker_slots_used)", "free slots"),
            ],
        ),
        graph(
            "Processors that encodes take",
            "short",
            &[
                ("sum(rate(ffpool_attempt_cpu_seconds_sum[1h]))", "used"),
                ("sum(ffpool_worker_cpu_limit_percent) / 100", "there"),
            ],
        ),
        graph(
            "Processors and memory in use, of what there is",
            "percentunit",
            &[
                (
                    "sum(rate(ffpool_worker_cpu_seconds_total[$__rate_interval])) / (sum(ffpool_worker_cpu_limit_percent) / 100)",
                    "processors",
                ),
                ("sum(ffpool_worker_memory_bytes) / sum(ffpool_worker_memory_limit_bytes)", "memory"),
            ],
        ),
        graph(
            "Waits, against a week before",
            "s",
            &[
                ("histogram_quantile(0.95, sum by (le) (rate(ffpool_queue_wait_seconds_bucket[1h])))", "95 % now"),
                (
                    "histogram_quantile(0.95, sum by (le) (rate(ffpool_queue_wait_seconds_bucket[1h] offset 1w)))",
                    "95 % a week ago",
                ),
            ],
        ),
        graph("Size of the ledger", "bytes", &[("max(ffpool_database_bytes)", "database")]),
        graph("Jobs per hour", "short", &[("sum by (queue) (increase(ffpool_jobs_recorded_total[1h]))", "{{queue}}")]),
    ],
};

const COST: Board = Board {
    name: "cost",
    title: "cost and energy",
    about: "What does the work cost, and how much of it is wasted?",
    span: "now-7d",
    panels: &[
        number("Cost", "short", &[("sum by (currency) (increase(ffpool_attempt_cost_sum[$__range]))", "{{currency}}")]),
        number(
            "Wasted",
            "short",
            &[(
                r#"sum by (currency) (increase(ffpool_attempt_cost_sum{outcome!="finished"}[$__range]))"#,
                "{{currency}}",
            )],
        ),
        number("Energy", "joule", &[("sum(increase(ffpool_attempt_energy_joules_sum[$__range]))", "")]),
        number("Core hours", "short", &[("sum(increase(ffpool_attempt_cpu_seconds_sum[$__range])) / 3600", "")]),
        number(
            "Cost of an output",
            "short",
            &[(
                r#"sum by (currency) (increase(ffpool_attempt_cost_sum[$__range])) / on() group_left sum(increase(ffpool_jobs_ended_total{state="completed"}[$__range]))"#,
                "{{currency}}",
            )],
        ),
        number(
            "Energy of an output",
            "joule",
            &[(
                r#"sum(increase(ffpool_attempt_energy_joules_sum[$__range])) / sum(increase(ffpool_jobs_ended_total{state="completed"}[$__range]))"#,
                "",
            )],
        ),
        graph(
            "Cost per hour",
            "short",
            &[("sum by (outcome, currency) (increase(ffpool_attempt_cost_sum[1h]))", "{{outcome}} {{currency}}")],
        ),
        graph(
            "Power of encodes",
            "watt",
            &[("sum by (outcome) (rate(ffpool_attempt_energy_joules_sum[1h]))", "{{outcome}}")],
        ),
        graph(
            "Processors in use",
            "short",
            &[("sum by (outcome) (rate(ffpool_attempt_cpu_seconds_sum[1h]))", "{{outcome}}")],
        ),
        graph(
            "Share that tells its energy",
            "percentunit",
            &[(
                "sum(rate(ffpool_attempt_energy_joules_count[1h])) / sum(rate(ffpool_attempt_cpu_seconds_count[1h]))",
                "of attempts",
            )],
        ),
        graph(
            "Power of processor packages",
            "watt",
            &[(
                "sum by (instance, index) (rate(node_rapl_package_joules_total[$__rate_interval]))",
                "{{instance}} {{index}}",
            )],
        ),
        graph("Power of graphics cards", "watt", &[("DCGM_FI_DEV_POWER_USAGE", "{{instance}} {{gpu}}")]),
    ],
};

const HEALTH: Board = Board {
    name: "health",
    title: "system health",
    about: "Do dispatchers, servers and connections work?",
    span: "now-6h",
    panels: &[
        number("Dispatchers", "short", &[(r#"sum(up{job="ffpool-dispatcher"})"#, "")]),
        number("Leaders", "short", &[("sum(ffpool_leader)", "")]),
        number("The leader hears", "short", &[("max(ffpool_hearing)", "")]),
        number("Links down", "short", &[("count(ffpool_link_up == 0) or vector(0)", "")]),
        number("Database", "bytes", &[("max(ffpool_database_bytes)", "")]),
        number("Versions", "short", &[("count(count by (version) (ffpool_build_info))", "")]),
        graph("Links down", "short", &[("sum by (server) (1 - ffpool_link_up)", "{{server}}")]),
        graph(
            "Connections made anew",
            "short",
            &[("sum by (server) (increase(ffpool_link_connections_total[$__rate_interval]))", "{{server}}")],
        ),
        graph(
            "Duration of a claim",
            "s",
            &[
                ("histogram_quantile(0.5, sum by (le) (rate(ffpool_claim_seconds_bucket[$__rate_interval])))", "half"),
                ("histogram_quantile(0.99, sum by (le) (rate(ffpool_claim_seconds_bucket[$__rate_interval])))", "99 %"),
            ],
        ),
        graph(
            "Duration of a transaction",
            "s",
            &[
                (
                    "histogram_quantile(0.5, sum by (le) (rate(ffpool_ledger_batch_seconds_bucket[$__rate_interval])))",
                    "half",
                ),
                (
                    "histogram_quantile(0.99, sum by (le) (rate(ffpool_ledger_batch_seconds_bucket[$__rate_interval])))",
                    "99 %",
                ),
            ],
        ),
        graph(
            "Inputs per transaction",
            "short",
            &[(
                "sum(rate(ffpool_ledger_batch_inputs_sum[$__rate_interval])) / sum(rate(ffpool_ledger_batch_inputs_count[$__rate_interval]))",
                "mean",
            )],
        ),
        graph(
            "What the ledger lags behind",
            "short",
            &[
                (r#"max by (queue) (ffpool_broker_messages{queue=~"jobs.ledger|jobs.events"})"#, "{{queue}}"),
                ("sum(ffpool_ledger_waiting)", "inputs that wait for a writer"),
            ],
        ),
        graph(
            "Batches done again, writers stuck, inputs refused",
            "short",
            &[
                ("sum(increase(ffpool_ledger_retries_total[$__rate_interval]))", "done again"),
                ("sum(ffpool_ledger_stuck)", "stuck"),
                ("sum(increase(ffpool_ledger_refused_total[$__rate_interval]))", "refused"),
            ],
        ),
        graph(
            "Connections to Postgres",
            "short",
            &[
                (r#"sum by (use) (ffpool_postgres_connections{state="used"})"#, "{{use}} used"),
                ("sum by (use) (ffpool_postgres_connections_max)", "{{use}} at most"),
                ("sum by (use) (ffpool_postgres_waiting)", "{{use}} waited for"),
            ],
        ),
        graph(
            "Requests to the API",
            "reqps",
            &[("sum by (status) (rate(ffpool_http_requests_total[$__rate_interval]))", "{{status}}")],
        ),
        graph(
            "Duration of a request",
            "s",
            &[(
                "histogram_quantile(0.95, sum by (le, route) (rate(ffpool_http_request_seconds_bucket[$__rate_interval])))",
                "{{route}} 95 %",
            )],
        ),
        graph(
            "Requests turned away",
            "reqps",
            &[("sum by (by) (rate(ffpool_http_rate_limited_total[$__rate_interval]))", "{{by}}")],
        ),
        graph(
            "Heartbeats",
            "ops",
            &[
                ("max(rate(ffpool_heartbeats_heard_total[$__rate_interval]))", "heard"),
                ("sum by (outcome) (rate(ffpool_worker_heartbeats_total[$__rate_interval]))", "{{outcome}}"),
            ],
        ),
        graph(
            "Connections to the API",
            "short",
            &[
                ("sum(ffpool_api_connections)", "open"),
                ("sum by (reason) (increase(ffpool_api_connections_cut_total[$__rate_interval]))", "ended: {{reason}}"),
            ],
        ),
        graph(
            "Certificates end in",
            "s",
            &[("min by (job, certificate) (ffpool_certificate_expires_seconds)", "{{certificate}} of a {{job}}")],
        ),
        graph("Up since", "s", &[("time() - ffpool_start_seconds", "{{instance}}")]),
        graph("State of workers", "short", &[("sum by (state) (ffpool_worker_state)", "{{state}}")]),
    ],
};
