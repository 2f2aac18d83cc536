//! The topology as a RabbitMQ definitions file, for brokers on which ffpool itself may not declare. Pure.

use ffpool_schema::topology::{CONSUMER_TIMEOUT_MS, ExchangeKind, Topology};
use serde_json::{Map, Value, json};

use crate::topology::{Argument, queue_arguments};

/// The first version that knows the policy key `consumer-timeout`. Before it, an import stops at the unknown key.
const CONSUMER_TIMEOUT_POLICY_SINCE: (u32, u32) = (3, 12);

/// The definitions of `topology` for a broker of `broker_version` (such as `3.10.8`), in the vhost `/`.
#[must_use]
pub fn definitions(topology: &Topology, broker_version: &str) -> Value {
    definitions_in(topology, broker_version, "/")
}

/// Like [`definitions`], for another vhost, which must exist.
#[must_use]
pub fn definitions_in(topology: &Topology, broker_version: &str, vhost: &str) -> Value {
    let exchanges: Vec<Value> = topology
        .exchanges
        .iter()
        .map(|exchange| {
            let kind = match exchange.kind {
                ExchangeKind::Direct => "direct",
                ExchangeKind::Fanout => "fanout",
                ExchangeKind::Topic => "topic",
            };
            let arguments = exchange.alternate.map_or_else(|| json!({}), |name| json!({"alternate-exchange": name}));
            json!({
                "name": exchange.name, "vhost": vhost, "type": kind, "durable": true,
                "auto_delete": false, "internal": false, "arguments": arguments,
            })
        })
        .collect();
    let queues: Vec<Value> = topology
        .queues
        .iter()
        .map(|queue| {
            let arguments: Map<String, Value> = queue_arguments(queue)
                .into_iter()
                .map(|(name, value)| match value {
                    Argument::Text(text) => (name.to_owned(), json!(text)),
                    Argument::Number(number) => (name.to_owned(), json!(number)),
                })
                .collect();
            json!({
                "name": queue.name, "vhost": vhost, "durable": true, "auto_delete": false, "arguments": arguments,
            })
        })
        .collect();
    let bindings: Vec<Value> = topology
        .bindings
        .iter()
        .map(|binding| {
            json!({
                "source": binding.exchange, "vhost": vhost, "destination": binding.queue,
                "destination_type": "queue", "routing_key": binding.key, "arguments": {},
            })
        })
        .collect();
    json!({
        "exchanges": exchanges,
        "queues": queues,
        "bindings": bindings,
        "policies": policies(broker_version, vhost),
    })
}

/// Tunables that not every version knows. An older broker gets its consumer timeout from `rabbitmq.conf`.
fn policies(broker_version: &str, vhost: &str) -> Vec<Value> {
    if major_minor(broker_version) < CONSUMER_TIMEOUT_POLICY_SINCE {
        return Vec::new();
    }
    vec![json!({
        "name": "ffpool-consumer-timeout", "vhost": vhost, "pattern": "^jobs\\.", "apply-to": "queues", "priority": 0,
        "definition": {"consumer-timeout": CONSUMER_TIMEOUT_MS},
    })]
}

/// `(4, 0)` of `4.0.5`. A version that cannot be read counts as the oldest, which every broker accepts.
fn major_minor(version: &str) -> (u32, u32) {
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_key_is_written_only_for_brokers_that_know_it() {
        let topology = Topology::for_pools(&[]);
        assert_eq!(definitions(&topology, "3.10.8")["policies"], json!([]));
        assert_eq!(definitions(&topology, "nonsense")["policies"], json!([]));
        for version in ["3.12.1", "4.0.5", "4.3.6", "10.0"] {
            let policy = &definitions(&topology, version)["policies"][0]["definition"];
            assert_eq!(policy["consumer-timeout"], json!(604_800_000), "{version}");
        }
    }

    #[test]
    fn every_queue_has_a_positive_delivery_limit() {
        let definitions = definitions(&Topology::for_pools(&[]), "4.0.5");
        for queue in definitions["queues"].as_array().unwrap() {
            assert!(queue["arguments"]["x-delivery-limit"].as_u64().unwrap() > 0, "{queue}");
        }
    }
}
