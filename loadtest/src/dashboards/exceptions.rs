//! What no machine like this one can show, each with the reason.
//!
//! Invariant: an exception names a metric of the table, or one of another exporter; it holds only while nothing here shows it.

use ffpool_schema::metrics as names;

/// A metric that may be absent.
#[derive(Debug)]
pub(super) struct Exception {
    pub(super) metric: &'static str,
    pub(super) why: &'static str,
}

const NO_DEVICE: &str = "a worker without a graphics card has no device";
const NO_COUNTER: &str = "a machine without RAPL counters tells no energy";
const OF_THE_MACHINE: &str = "node_exporter shows it, which runs on each machine and not here";

const EXCEPTIONS: &[Exception] = &[
    Exception { metric: names::WORKER_DEVICE_SESSIONS, why: NO_DEVICE },
    Exception { metric: names::WORKER_DEVICE_FAILURES, why: NO_DEVICE },
    Exception { metric: names::WORKER_DEVICE_SICK, why: NO_DEVICE },
    Exception { metric: names::ATTEMPT_ENERGY_JOULES, why: NO_COUNTER },
    Exception { metric: "node_rapl_package_joules_total", why: OF_THE_MACHINE },
    Exception { metric: "node_filesystem_avail_bytes", why: OF_THE_MACHINE },
    Exception { metric: "node_filesystem_size_bytes", why: OF_THE_MACHINE },
    Exception {
        metric: "DCGM_FI_DEV_POWER_USAGE",
        why: "the vendor's exporter shows it, where there is a graphics card",
    },
];

/// Series of a metric that is there, which appear only with what must not happen.
#[derive(Debug)]
pub(super) struct NeverHere {
    pub(super) selector: &'static str,
    pub(super) why: &'static str,
}

pub(super) const NEVER_HERE: &[NeverHere] =
    &[NeverHere { selector: r#"ffpool_http_requests_total{status=~"5.."}"#, why: "no request ended with a 5xx" }];

/// The exception that a query names.
pub(super) fn of(query: &str) -> Option<&'static Exception> {
    EXCEPTIONS.iter().find(|exception| query.contains(exception.metric))
}

/// Those that none of these queries names.
pub(super) fn needless(queries: &[&str]) -> Vec<&'static str> {
    let is_named = |exception: &&Exception| !queries.iter().any(|query| query.contains(exception.metric));
    EXCEPTIONS.iter().filter(is_named).map(|exception| exception.metric).collect()
}

/// Selectors of [`NEVER_HERE`] that are none of these, which are those of the alerts.
pub(super) fn needless_never(selectors: &[String]) -> Vec<&'static str> {
    let all = NEVER_HERE.iter().map(|never| never.selector);
    all.filter(|never| !selectors.iter().any(|selector| selector == never)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exception_names_a_metric_of_the_table_or_one_of_another_exporter() {
        for Exception { metric, .. } in EXCEPTIONS {
            let is_ours = names::ALL.iter().any(|known| known.name == *metric);
            assert!(is_ours == metric.starts_with("ffpool_"), "{metric}");
        }
    }

    #[test]
    fn an_exception_that_nothing_names_is_found_out() {
        let all: Vec<&str> = EXCEPTIONS.iter().map(|exception| exception.metric).collect();
        assert_eq!(needless(&all), [] as [&str; 0]);
        assert_eq!(needless(&all[1..]), [EXCEPTIONS[0].metric]);
        let all: Vec<String> = NEVER_HERE.iter().map(|never| never.selector.to_owned()).collect();
        assert_eq!(needless_never(&all), [] as [&str; 0]);
        assert_eq!(needless_never(&all[1..]), [NEVER_HERE[0].selector]);
        assert!(of("sum(ffpool_attempt_energy_joules_sum)").is_some() && of("sum(ffpool_jobs)").is_none());
    }
}
