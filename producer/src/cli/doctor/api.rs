//! The dispatcher's API: reachable, key accepted, every part ready, somebody there to do the work.

use ffpool::{ApiError, Client, JobFilter};
use ffpool_runtime::tls::stays_here;
use ffpool_schema::api::WorkerView;
use ffpool_schema::message::WorkerState;
use jiff::Timestamp;

use super::{Check, compare_clocks};
use crate::cli::Context;

/// An HTTP `Date` counts whole seconds.
const DATE_RESOLUTION_SECS: f64 = 1.0;

pub(super) async fn check(context: &Context) -> Vec<Check> {
    let client = match context.client() {
        Ok(client) => client,
        Err(trouble) => return vec![Check::fail("api", trouble.what, trouble.next.unwrap_or_default())],
    };
    let before = Timestamp::now();
    let clock = match client.health().await {
        Ok(clock) => clock,
        Err(error) => return vec![failed("api", &error)],
    };
    let after = Timestamp::now();
    let mut checks = vec![Check::ok("api", format!("{} is alive", client.base())), tls(client.base())];
    if let Some(theirs) = clock {
        checks.push(compare_clocks("clock of the api", theirs, before, after, DATE_RESOLUTION_SECS));
    }
    checks.push(ready(&client).await);
    let (key, is_accepted) = key(&client).await;
    checks.push(key);
    if is_accepted {
        checks.push(match client.workers().await {
            Ok(list) => workers(&list),
            Err(error) => failed("workers", &error),
        });
    }
    checks
}

fn failed(name: &'static str, error: &ApiError) -> Check {
    Check::fail(name, error.to_string(), error.next_step())
}

/// Plain HTTP is seen by whoever sees the network; on loopback that is nobody.
fn tls(base: &str) -> Check {
    let scheme = base.split_once("://").map_or("", |(scheme, _)| scheme);
    match (scheme, stays_here(base)) {
        ("https", _) => Check::ok("api tls", "its certificate is valid and trusted"),
        (_, true) => Check::ok("api tls", "plain HTTP, on this machine only"),
        (_, false) => Check::warn(
            "api tls",
            "plain HTTP: whoever sees the network sees jobs and your API key",
            "Leave FFPOOL_API_TLS=off out of the dispatcher's settings, and ask with https://.",
        ),
    }
}

async fn ready(client: &Client) -> Check {
    let readiness = match client.ready().await {
        Ok(readiness) => readiness,
        Err(error) => return failed("dispatcher", &error),
    };
    let parts: Vec<String> = readiness.parts.iter().map(|(part, said)| format!("{part}: {said}")).collect();
    if readiness.ready {
        Check::ok("dispatcher", format!("ready ({})", parts.join(", ")))
    } else {
        Check::fail(
            "dispatcher",
            format!("not ready ({})", parts.join(", ")),
            "Repair the part that is not ok; the dispatcher finds it again by itself.",
        )
    }
}

async fn key(client: &Client) -> (Check, bool) {
    let filter = JobFilter { limit: Some(1), ..JobFilter::default() };
    match client.jobs(&filter).await {
        Ok(_) => (Check::ok("api key", "accepted"), true),
        // A key for one program that only hands jobs in is a good one.
        Err(error) if error.status() == Some(403) => {
            (Check::ok("api key", format!("accepted, and may not read, so workers are not looked at ({error})")), false)
        }
        Err(error) => (failed("api key", &error), false),
    }
}

fn workers(workers: &[WorkerView]) -> Check {
    let count = |state| workers.iter().filter(|worker| worker.state == state).count();
    let (ready, lost) = (count(WorkerState::Ready), count(WorkerState::Lost));
    let unlimited: Vec<&str> = workers
        .iter()
        .filter(|worker| worker.state == WorkerState::Ready && !worker.ability.cgroups)
        .map(|worker| worker.id.as_str())
        .collect();
    if ready == 0 {
        return Check::warn("workers", "none is ready", "Start one: `ffpool-worker`.");
    }
    if lost > 0 {
        return Check::warn(
            "workers",
            format!("{ready} ready, {lost} fell silent"),
            "`ffpool workers list` names them; their jobs run elsewhere by now.",
        );
    }
    if !unlimited.is_empty() {
        return Check::warn(
            "workers",
            format!("{ready} ready, but limits do not hold on {}", unlimited.join(", ")),
            "Let the worker make cgroups: `Delegate=yes` in its systemd unit, or a writable cgroup in its container.",
        );
    }
    Check::ok("workers", format!("{ready} ready"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Status;
    use crate::cli::fleet::tests::worker;

    #[test]
    fn plain_http_over_a_network_is_worth_a_warning() {
        let status = |base| tls(base).status;
        assert_eq!((status("https://pool:8080"), status("http://127.0.0.1:8080")), (Status::Ok, Status::Ok));
        assert_eq!(status("http://pool.example:8080"), Status::Warn);
    }

    #[test]
    fn a_pool_without_a_worker_is_worth_a_warning() {
        assert_eq!(workers(&[]).status, Status::Warn);
        assert_eq!(workers(&[worker("w1", WorkerState::Ready, 0)]).status, Status::Ok);
        let check = workers(&[worker("w1", WorkerState::Ready, 0), worker("w2", WorkerState::Lost, 0)]);
        assert_eq!(check.status, Status::Warn);
        let mut unlimited = worker("w3", WorkerState::Ready, 0);
        unlimited.ability.cgroups = false;
        assert!(workers(&[unlimited]).found.contains("w3"));
    }
}
