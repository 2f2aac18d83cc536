//! RabbitMQ: reachable, of a known version, with everything of the topology.

use std::time::Duration;

use ffpool_broker::{AmqpConfig, AmqpLink, Presence, presence};
use ffpool_schema::job::Pool;
use ffpool_schema::topology::{Topology, WorkQueue};

use super::Check;

const CONNECT: Duration = Duration::from_secs(10);
/// The oldest version whose behaviour was measured.
const OLDEST: (u32, u32) = (3, 10);
/// The newest one.
const NEWEST: (u32, u32) = (4, 3);

pub(super) async fn check(url: Option<String>, pools: &[Pool]) -> Vec<Check> {
    let Some(url) = url else { return vec![Check::skipped("rabbitmq", "FFPOOL_AMQP_URL")] };
    let link = AmqpLink::open(AmqpConfig::new(url, "ffpool doctor"));
    if let Err(error) = link.connected(CONNECT).await {
        return vec![Check::fail(
            "rabbitmq",
            error.to_string(),
            "Start RabbitMQ (Debian's package: rabbitmq-server), or correct FFPOOL_AMQP_URL: host, port, user, password and vhost.",
        )];
    }
    let version = link.server_version();
    let mut checks = vec![reachable(version.as_deref(), link.is_blocked())];
    checks.extend(topology(&link, pools).await);
    checks.push(acknowledgement_timeout());
    link.close().await;
    checks
}

fn reachable(version: Option<&str>, is_blocked: bool) -> Check {
    let Some(version) = version else {
        return Check::warn(
            "rabbitmq",
            "reachable, but it does not tell its version",
            "Check that it is RabbitMQ 3.10 or newer.",
        );
    };
    if is_blocked {
        return Check::fail(
            "rabbitmq",
            format!("{version}, holds publishers back: a memory or disk alarm is on"),
            "Free memory or disk on its machine; `rabbitmq-diagnostics alarms` says which is short.",
        );
    }
    match major_minor(version) {
        Some(found) if found < OLDEST => Check::fail(
            "rabbitmq",
            format!("{version} is older than 3.10"),
            "Upgrade it: quorum queues before 3.10 dead-letter without a guarantee.",
        ),
        Some(found) if found > NEWEST => Check::warn(
            "rabbitmq",
            format!("{version} is newer than 4.3, the newest that was tried"),
            "Nothing, as long as the tests pass on it.",
        ),
        Some(_) => Check::ok("rabbitmq", format!("{version}, reachable")),
        None => Check::warn(
            "rabbitmq",
            format!("calls its version `{version}`"),
            "Check that it is RabbitMQ 3.10 or newer.",
        ),
    }
}

pub(super) fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(['.', '-', '+', ' ']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

async fn topology(link: &AmqpLink, pools: &[Pool]) -> Vec<Check> {
    let topology = Topology::for_pools(pools);
    let found = match presence(link, &topology).await {
        Ok(found) => found,
        Err(error) => {
            return vec![Check::fail(
                "topology",
                format!("cannot be looked at: {error}"),
                "Repeat; if it stays, look at RabbitMQ's log.",
            )];
        }
    };
    let both = |queue: WorkQueue| [queue.name(), queue.returned_name()];
    let served = pools.iter().flat_map(WorkQueue::of_pool).chain(WorkQueue::of_pool(&Pool::cpu()));
    let work: Vec<String> = served.flat_map(both).collect();
    let (queues, service): (Vec<_>, Vec<_>) = found.into_iter().partition(|(object, _)| {
        object.strip_prefix("queue ").is_some_and(|name| work.iter().any(|queue| queue == name))
    });
    vec![summary("topology", "exchanges and service queues", &service), summary("work queues", "work queues", &queues)]
}

fn summary(name: &'static str, what: &str, objects: &[(String, Presence)]) -> Check {
    let with = |wanted: Presence| -> Vec<&str> {
        objects.iter().filter(|(_, presence)| *presence == wanted).map(|(object, _)| object.as_str()).collect()
    };
    let (missing, forbidden) = (with(Presence::Missing), with(Presence::Forbidden));
    if !missing.is_empty() {
        return Check::fail(
            name,
            format!("{} of {} {what} are missing: {}", missing.len(), objects.len(), missing.join(", ")),
            "Start a dispatcher on this vhost whose FFPOOL_POOLS names every pool: it declares what is missing.",
        );
    }
    if !forbidden.is_empty() {
        return Check::warn(
            name,
            format!("this account may not look at {} of {} {what}", forbidden.len(), objects.len()),
            "Run the check with the dispatcher's account.",
        );
    }
    Check::ok(name, format!("all {} {what} are there", objects.len()))
}

fn acknowledgement_timeout() -> Check {
    Check::ok(
        "ack timeout",
        "harmless: a worker hands each delivery that it holds for 5 minutes over to the ledger. RabbitMQ's default is 30 \
         minutes; no client can read what is set. `rabbitmqctl eval 'application:get_env(rabbit, consumer_timeout).'` \
         tells it, in milliseconds; under 300000 would cost redeliveries",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Status;

    #[test]
    fn versions_are_judged_by_number_and_not_by_text() {
        let status = |version| reachable(Some(version), false).status;
        assert_eq!((status("3.9.29"), status("3.10.8"), status("4.0.5")), (Status::Fail, Status::Ok, Status::Ok));
        assert_eq!((status("4.3.6"), status("4.10.0"), status("unknown")), (Status::Ok, Status::Warn, Status::Warn));
        assert_eq!(reachable(Some("4.0.5"), true).status, Status::Fail);
    }

    #[test]
    fn what_is_missing_is_named() {
        let check = summary(
            "topology",
            "queues",
            &[("queue a".into(), Presence::There), ("queue b".into(), Presence::Missing)],
        );
        assert_eq!(check.status, Status::Fail);
        assert!(check.found.contains("1 of 2") && check.found.contains("queue b"), "{}", check.found);
    }
}
