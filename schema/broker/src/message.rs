//! Messages as callers see them: plain text and bytes, no types of the client library.

use std::collections::BTreeMap;

use lapin::types::{AMQPValue, FieldTable};

/// A message to publish. It is always persistent, mandatory and confirmed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// Exchange to publish to; the empty name is the default exchange (routing key = queue name).
    pub exchange: String,
    /// Routing key.
    pub routing_key: String,
    /// Body.
    pub body: Vec<u8>,
    /// `application/json` or `application/msgpack`.
    pub content_type: String,
    /// Identity under which a repeat is recognised.
    pub message_id: Option<String>,
    /// Headers, sent as strings. When a message is republished, leave out the broker's own `x-*`.
    pub headers: BTreeMap<String, String>,
    /// The `type` property.
    pub message_type: Option<String>,
    /// The `user_id` property: the user that publishes it. The broker refuses any other than the connection's.
    pub user_id: Option<String>,
}

/// A message received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Incoming {
    /// Exchange it was published to.
    pub exchange: String,
    /// Routing key it was published with.
    pub routing_key: String,
    /// Whether the broker handed it over before.
    pub redelivered: bool,
    /// How often it came back (`x-delivery-count`). Up to RabbitMQ 4.2 every return counts, from 4.3 on only losses.
    pub delivery_count: u64,
    /// The `message_id` property.
    pub message_id: Option<String>,
    /// The `content_type` property.
    pub content_type: Option<String>,
    /// The `type` property.
    pub message_type: Option<String>,
    /// The login of the publisher, checked by the broker, if the publisher sent it.
    pub user_id: Option<String>,
    /// The `timestamp` property, seconds since 1970.
    pub timestamp: Option<u64>,
    /// Headers that are strings, numbers or booleans, as text; `x-*` included.
    pub headers: BTreeMap<String, String>,
    /// The dead-letterings behind it, newest first (`x-death`).
    pub deaths: Vec<Death>,
    /// Body.
    pub body: Vec<u8>,
}

/// One entry of `x-death`: a queue and a reason, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Death {
    /// The queue that dead-lettered it.
    pub queue: String,
    /// `rejected`, `expired`, `maxlen` or `delivery_limit`.
    pub reason: String,
    /// How often.
    pub count: u64,
    /// The exchange it was published to before.
    pub exchange: String,
    /// The routing keys it was published with before.
    pub routing_keys: Vec<String>,
}

impl Incoming {
    /// The queue that first dead-lettered this message, from which its class and priority can be told.
    #[must_use]
    pub fn first_death_queue(&self) -> Option<&str> {
        let header = self.headers.get("x-first-death-queue").map(String::as_str);
        header.or_else(|| self.deaths.last().map(|death| death.queue.as_str()))
    }

    /// Why this message was first dead-lettered.
    #[must_use]
    pub fn first_death_reason(&self) -> Option<&str> {
        let header = self.headers.get("x-first-death-reason").map(String::as_str);
        header.or_else(|| self.deaths.last().map(|death| death.reason.as_str()))
    }

    pub(crate) fn from_lapin(delivery: &mut lapin::message::Delivery) -> Incoming {
        let properties = &delivery.properties;
        let table = properties.headers().as_ref();
        let headers = table.map(plain_headers).unwrap_or_default();
        Incoming {
            exchange: delivery.exchange.to_string(),
            routing_key: delivery.routing_key.to_string(),
            redelivered: delivery.redelivered,
            delivery_count: headers.get("x-delivery-count").and_then(|count| count.parse().ok()).unwrap_or(0),
            message_id: text(properties.message_id()),
            content_type: text(properties.content_type()),
            message_type: text(properties.kind()),
            user_id: text(properties.user_id()),
            timestamp: *properties.timestamp(),
            deaths: table.map(deaths).unwrap_or_default(),
            headers,
            body: std::mem::take(&mut delivery.data),
        }
    }
}

fn text(value: &Option<lapin::types::ShortString>) -> Option<String> {
    value.as_ref().map(ToString::to_string)
}

fn plain_headers(table: &FieldTable) -> BTreeMap<String, String> {
    table.inner().iter().filter_map(|(key, value)| Some((key.to_string(), plain(value)?))).collect()
}

/// A header value as text; `None` for tables, lists and bytes.
fn plain(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(v) => Some(v.to_string()),
        AMQPValue::ShortString(v) => Some(v.to_string()),
        AMQPValue::Boolean(v) => Some(v.to_string()),
        AMQPValue::ShortShortInt(v) => Some(v.to_string()),
        AMQPValue::ShortShortUInt(v) => Some(v.to_string()),
        AMQPValue::ShortInt(v) => Some(v.to_string()),
        AMQPValue::ShortUInt(v) => Some(v.to_string()),
        AMQPValue::LongInt(v) => Some(v.to_string()),
        AMQPValue::LongUInt(v) => Some(v.to_string()),
        AMQPValue::LongLongInt(v) => Some(v.to_string()),
        AMQPValue::Float(v) => Some(v.to_string()),
        AMQPValue::Double(v) => Some(v.to_string()),
        AMQPValue::Timestamp(v) => Some(v.to_string()),
        AMQPValue::DecimalValue(_)
        | AMQPValue::FieldArray(_)
        | AMQPValue::FieldTable(_)
        | AMQPValue::ByteArray(_)
        | AMQPValue::Void => None,
    }
}

fn deaths(table: &FieldTable) -> Vec<Death> {
    let Some(AMQPValue::FieldArray(entries)) = table.inner().get("x-death") else { return Vec::new() };
    entries
        .as_slice()
        .iter()
        .filter_map(|entry| match entry {
            AMQPValue::FieldTable(entry) => Some(death(entry)),
            _ => None,
        })
        .collect()
}

fn death(entry: &FieldTable) -> Death {
    let field = |name: &str| entry.inner().get(name).and_then(plain).unwrap_or_default();
    let routing_keys = match entry.inner().get("routing-keys") {
        Some(AMQPValue::FieldArray(keys)) => keys.as_slice().iter().filter_map(plain).collect(),
        _ => Vec::new(),
    };
    Death {
        queue: field("queue"),
        reason: field("reason"),
        count: field("count").parse().unwrap_or(0),
        exchange: field("exchange"),
        routing_keys,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_is_read_from_the_brokers_table() {
        let mut entry = FieldTable::default();
        entry.insert("queue".into(), AMQPValue::LongString("jobs.live.high".into()));
        entry.insert("reason".into(), AMQPValue::LongString("delivery_limit".into()));
        entry.insert("count".into(), AMQPValue::LongLongInt(2));
        entry.insert("routing-keys".into(), AMQPValue::FieldArray(vec![AMQPValue::LongString("high".into())].into()));
        let mut table = FieldTable::default();
        table.insert("x-death".into(), AMQPValue::FieldArray(vec![AMQPValue::FieldTable(entry)].into()));
        table.insert("x-ffpool-attempt".into(), AMQPValue::LongInt(3));

        let found = deaths(&table);
        assert_eq!(found[0].queue, "jobs.live.high");
        assert_eq!((found[0].count, found[0].reason.as_str()), (2, "delivery_limit"));
        assert_eq!(found[0].routing_keys, ["high"]);
        assert_eq!(plain_headers(&table).get("x-ffpool-attempt").map(String::as_str), Some("3"));
    }
}
