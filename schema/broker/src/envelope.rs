//! One message on its way out: sealed before it is sent, and every answer of the broker to it put into words.
//!
//! Invariant: a message is persistent, mandatory and confirmed, and on its channel nothing else is in flight, so that a
//! return or the end of the channel is about this message.

use std::time::{SystemTime, UNIX_EPOCH};

use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation};

use crate::error::{BrokerError, PublishError, reply};
use crate::message::Outgoing;

/// AMQP delivery mode 2.
const PERSISTENT: u8 = 2;

/// A message in AMQP's terms.
pub(crate) struct Envelope {
    exchange: ShortString,
    routing_key: ShortString,
    properties: BasicProperties,
    body: Vec<u8>,
}

impl Envelope {
    /// Refuses what AMQP cannot carry.
    pub(crate) fn seal(message: Outgoing) -> Result<Envelope, PublishError> {
        let Outgoing { exchange, routing_key, body, content_type, message_id, headers, message_type, user_id } =
            message;
        let short = |what: &str, text: String| {
            ShortString::try_new(text).map_err(|_| PublishError::Rejected {
                exchange: exchange.chars().take(64).collect(),
                reply: format!("the {what} is longer than the 255 bytes AMQP allows"),
            })
        };
        let mut table = FieldTable::default();
        for (key, value) in headers {
            table.insert(short("header name", key)?, AMQPValue::LongString(value.into()));
        }
        let mut properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type(short("content type", content_type)?)
            .with_headers(table);
        if let Some(id) = message_id {
            properties = properties.with_message_id(short("message id", id)?);
        }
        if let Some(kind) = message_type {
            properties = properties.with_type(short("message type", kind)?);
        }
        if let Some(user) = user_id {
            properties = properties.with_user_id(short("user id", user)?);
        }
        if let Ok(since) = SystemTime::now().duration_since(UNIX_EPOCH) {
            properties = properties.with_timestamp(since.as_secs());
        }
        let routing_key = short("routing key", routing_key)?;
        Ok(Envelope { exchange: short("exchange name", exchange.clone())?, routing_key, properties, body })
    }

    /// Publishes on a confirm channel on which nothing else is in flight, and waits for the confirm.
    pub(crate) async fn send(&self, channel: &Channel) -> Result<(), PublishError> {
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let (exchange, key) = (self.exchange.clone(), self.routing_key.clone());
        let sending = channel.basic_publish(exchange, key, options, &self.body, self.properties.clone());
        let confirm = sending.await.map_err(|error| self.failed(&error))?;
        let (exchange, key) = (self.exchange.to_string(), self.routing_key.to_string());
        match confirm.await.map_err(|error| self.failed(&error))? {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => Err(PublishError::Unroutable { exchange, key }),
            Confirmation::Nack(None) => Err(PublishError::Refused { exchange, key }),
            Confirmation::NotRequested => Err(self.unconfirmed("the channel is not in confirm mode".into())),
        }
    }

    /// A channel closed over this message is a refusal; anything else leaves it open what happened.
    fn failed(&self, error: &lapin::Error) -> PublishError {
        match reply(error) {
            Some((_, reply)) if error.is_amqp_soft_error() => {
                PublishError::Rejected { exchange: self.exchange.to_string(), reply }
            }
            Some(_) | None => self.unconfirmed(error.to_string()),
        }
    }

    /// The message never left.
    pub(crate) fn not_sent(&self, source: BrokerError) -> PublishError {
        PublishError::NotSent { exchange: self.exchange.to_string(), source: Box::new(source) }
    }

    /// The broker takes no messages at present: an alarm blocks publishers.
    pub(crate) fn blocked(&self) -> PublishError {
        PublishError::Blocked { exchange: self.exchange.to_string() }
    }

    /// No answer came.
    pub(crate) fn unconfirmed(&self, reason: String) -> PublishError {
        PublishError::Unconfirmed { exchange: self.exchange.to_string(), reason }
    }
}
