//! The process's metrics in Prometheus' text format, with the help texts of the schema's table; in OpenMetrics, with exemplars, for
//! who asks for that.

mod open;

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ffpool_schema::metrics::{ALL, ATTEMPT_COST, BUILD_INFO, Kind, Metric, Process, START_SECONDS, Shown};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use open::Exemplars;

use crate::traces::{self, Context};

/// Those of this process.
static EXEMPLARS: LazyLock<Exemplars> = LazyLock::new(Exemplars::default);

/// Buckets of every histogram that counts seconds: from a broker's round trip to a long encode.
const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0,
    43200.0,
];
/// Buckets of histograms that count inputs of a batch.
const COUNTS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0];

/// Buckets of joules: from a picture to a night of encoding.
const JOULES: &[f64] = &[1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7];
/// Buckets of money, in whatever currency.
const MONEY: &[f64] = &[0.0001, 0.001, 0.01, 0.1, 1.0, 10.0, 100.0];

/// Renders the process's metrics.
#[derive(Clone)]
pub struct Exposition {
    handle: PrometheusHandle,
}

impl Exposition {
    /// The metrics now for whoever sends this `Accept`: the content type and the text.
    #[must_use]
    pub fn answer(&self, accept: Option<&str>) -> (&'static str, String) {
        let text = self.handle.render();
        if open::is_accepted(accept) { (open::OPEN, open::open(&text, &EXEMPLARS)) } else { (open::TEXT, text) }
    }
}

/// Has the bucket of a histogram into which `value` falls name this trace, if it is one that is exported.
pub fn exemplify(name: &'static str, labels: &[(&'static str, &str)], value: f64, trace: Context) {
    if !traces::are_on() || !trace.is_sampled() {
        return;
    }
    if let Some(metric) = ALL.iter().find(|metric| metric.name == name) {
        EXEMPLARS.note(open::series(name, labels), buckets_of(metric), value, trace);
    }
}

fn buckets_of(metric: &Metric) -> &'static [f64] {
    match metric.unit() {
        Some("seconds") => SECONDS,
        Some("joules") => JOULES,
        _ if metric.name == ATTEMPT_COST => MONEY,
        _ => COUNTS,
    }
}

/// Whether a process shows every series of a counter from its start: one that appears with its first happening hides that one
/// from a rate.
fn begins_at_zero(metric: &Metric, process: Process) -> bool {
    let is_shown = metric.process() == process || metric.process() == Process::Both;
    metric.kind == Kind::Counter && metric.shown == Shown::Always && is_shown
}

/// Installs the recorder of this process and describes every metric of the schema's table.
///
/// # Errors
/// When a recorder is installed already.
pub fn install(process: Process, version: &'static str) -> Result<Exposition, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for metric in ALL.iter().filter(|metric| metric.kind == Kind::Histogram) {
        let buckets = buckets_of(metric);
        builder = builder
            .set_buckets_for_metric(metrics_exporter_prometheus::Matcher::Full(metric.name.to_owned()), buckets)?;
    }
    let handle = builder.install_recorder()?;
    for metric in ALL {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            Kind::Histogram => metrics::describe_histogram!(metric.name, metric.help),
        }
    }
    metrics::gauge!(BUILD_INFO, "version" => version).set(1.0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    metrics::gauge!(START_SECONDS).set(now.as_secs_f64());
    for metric in ALL.iter().filter(|metric| begins_at_zero(metric, process)) {
        for labels in metric.label_sets() {
            metrics::counter!(metric.name, &labels).increment(0);
        }
    }
    let upkeep = handle.clone();
    // Histograms keep raw samples until upkeep folds them into buckets; without it they would grow for ever.
    std::thread::Builder::new()
        .name("metrics-upkeep".into())
        .spawn(move || {
            loop {
                std::thread::sleep(Duration::from_secs(5));
                upkeep.run_upkeep();
            }
        })
        .expect("a thread can be started at process start");
    Ok(Exposition { handle })
}
