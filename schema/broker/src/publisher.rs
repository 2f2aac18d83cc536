//! Publishing with confirms, on a connection of its own: a broker alarm blocks a publishing connection, the
//! acknowledgements on it included.
//!
//! Each publish in flight has a lane, a confirm channel to itself. So a returned message or a channel that the broker
//! closes belongs to exactly one publish: on a shared channel lapin hands a return to whichever confirm of the same
//! `multiple` ack comes first, and one publish to a missing exchange takes its neighbours' confirms with it.
//!
//! Invariant: `Ok` means that every queue the message was routed to has stored it, and there was at least one.

use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Confirmation};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::channels::AmqpChannel;
use crate::deadline::{ANSWER, within};
use crate::error::{BrokerError, PublishError, reply};
use crate::link::{AmqpConfig, AmqpLink};
use crate::message::Outgoing;

/// Publishes in flight at a time. The broker syncs concurrent ones together, so this is what makes the throughput.
const LANES: usize = 64;
/// From the call to the confirm. Long enough for a broker restart.
const PUBLISH: Duration = Duration::from_secs(30);
/// How often a waiting publish looks whether the broker still holds it back.
const LOOK: Duration = Duration::from_millis(50);
/// AMQP delivery mode 2.
const PERSISTENT: u8 = 2;

/// Publishes messages, durably and confirmed. Share one by reference or `Arc`; any number of tasks may publish.
pub struct Publisher {
    link: AmqpLink,
    lanes: Semaphore,
    /// Confirm channels on which nothing is in flight.
    idle: Mutex<Vec<AmqpChannel>>,
}

impl Publisher {
    /// Starts to connect and returns at once. Must be called inside a Tokio runtime.
    #[must_use]
    pub fn open(config: AmqpConfig) -> Publisher {
        Publisher { link: AmqpLink::open(config), lanes: Semaphore::new(LANES), idle: Mutex::new(Vec::new()) }
    }

    /// The connection, for its state.
    #[must_use]
    pub fn link(&self) -> &AmqpLink {
        &self.link
    }

    /// Publishes one message and waits for its confirm, at most 30 s.
    ///
    /// # Errors
    /// See [`PublishError`]: some of them leave open whether the message is stored.
    pub async fn publish(&self, message: Outgoing) -> Result<(), PublishError> {
        self.publish_within(message, PUBLISH).await
    }

    /// Like [`Publisher::publish`], with a deadline of the caller's.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub async fn publish_within(&self, message: Outgoing, bound: Duration) -> Result<(), PublishError> {
        let envelope = Envelope::seal(message)?;
        let deadline = Instant::now() + bound;
        let not_sent =
            |source| PublishError::NotSent { exchange: envelope.exchange.to_string(), source: Box::new(source) };

        let late = || BrokerError::Deadline { doing: "wait for a free lane to publish".into(), within: bound };
        let _lane = match tokio::time::timeout_at(deadline, self.lanes.acquire()).await {
            Ok(permit) => permit.expect("the semaphore is never closed"),
            Err(_) => return Err(not_sent(late())),
        };
        self.until_unblocked(&envelope, deadline).await?;
        let channel = self.channel(deadline).await.map_err(not_sent)?;
        match tokio::time::timeout_at(deadline, envelope.send(&channel)).await {
            Ok(Ok(())) => {
                self.idle.lock().expect("no holder panics").push(channel);
                Ok(())
            }
            // The channel is dropped, so that a late confirm is never taken for that of another message.
            Ok(Err(error)) => Err(error),
            Err(_) if self.link.is_blocked() => Err(PublishError::Blocked { exchange: envelope.exchange.to_string() }),
            Err(_) => Err(envelope.unconfirmed(format!("no answer within {bound:?}"))),
        }
    }

    /// Closes the connection.
    pub async fn close(&self) {
        self.idle.lock().expect("no holder panics").clear();
        self.link.close().await;
    }

    /// Waits for the end of an alarm before anything is written, so that nothing is left in doubt.
    async fn until_unblocked(&self, envelope: &Envelope, deadline: Instant) -> Result<(), PublishError> {
        while self.link.is_blocked() {
            if Instant::now() >= deadline {
                return Err(PublishError::Blocked { exchange: envelope.exchange.to_string() });
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// A confirm channel, idle or new, waiting for the link if need be.
    async fn channel(&self, deadline: Instant) -> Result<AmqpChannel, BrokerError> {
        loop {
            let idle = self.idle.lock().expect("no holder panics").pop();
            match idle {
                Some(channel) if channel.is_open() => return Ok(channel),
                Some(_) => continue,
                None => {}
            }
            self.link.connected(deadline.saturating_duration_since(Instant::now())).await?;
            match self.open_channel().await {
                Ok(channel) => return Ok(channel),
                Err(error) if Instant::now() >= deadline => return Err(error),
                // The link broke between the two; its supervisor is at it.
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    async fn open_channel(&self) -> Result<AmqpChannel, BrokerError> {
        let channel = self.link.channel().await?;
        let select = channel.raw().confirm_select(ConfirmSelectOptions::default());
        within(ANSWER, || "ask for publisher confirms".into(), select).await?;
        Ok(channel)
    }
}

/// A message in AMQP's terms.
struct Envelope {
    exchange: ShortString,
    routing_key: ShortString,
    properties: BasicProperties,
    body: Vec<u8>,
}

impl Envelope {
    fn seal(message: Outgoing) -> Result<Envelope, PublishError> {
        let Outgoing { exchange, routing_key, body, content_type, message_id, headers, message_type } = message;
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
        if let Ok(since) = SystemTime::now().duration_since(UNIX_EPOCH) {
            properties = properties.with_timestamp(since.as_secs());
        }
        let routing_key = short("routing key", routing_key)?;
        Ok(Envelope { exchange: short("exchange name", exchange.clone())?, routing_key, properties, body })
    }

    async fn send(&self, channel: &AmqpChannel) -> Result<(), PublishError> {
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let (exchange, key) = (self.exchange.clone(), self.routing_key.clone());
        let sending = channel.raw().basic_publish(exchange, key, options, &self.body, self.properties.clone());
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

    fn unconfirmed(&self, reason: String) -> PublishError {
        PublishError::Unconfirmed { exchange: self.exchange.to_string(), reason }
    }
}
