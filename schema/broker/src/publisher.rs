//! Publishing with confirms, on a connection of its own: a broker alarm blocks a publishing connection, the
//! acknowledgements on it included.
//!
//! Each publish in flight has a lane, a confirm channel to itself. So a returned message or a channel that the broker
//! closes belongs to exactly one publish: on a shared channel lapin hands a return to whichever confirm of the same
//! `multiple` ack comes first, and one publish to a missing exchange takes its neighbours' confirms with it.
//!
//! Invariant: `Ok` means that every queue the message was routed to has stored it, and there was at least one.

use std::sync::Mutex;
use std::time::Duration;

use futures_util::future::join_all;
use lapin::options::ConfirmSelectOptions;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::channels::AmqpChannel;
use crate::deadline::{ANSWER, within};
use crate::envelope::Envelope;
use crate::error::{BrokerError, PublishError};
use crate::link::{AmqpConfig, AmqpLink};
use crate::message::Outgoing;

/// Publishes in flight at a time. The broker syncs concurrent ones together, so this is what makes the throughput.
const LANES: usize = 64;
/// From the call to the confirm. Long enough for a broker restart.
pub(crate) const PUBLISH: Duration = Duration::from_secs(30);
/// How often a waiting publish looks whether the broker still holds it back.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

/// Publishes messages, durably and confirmed. Share one by reference or `Arc`; any number of tasks may publish.
///
/// What a service or a tool publishes with. For a program that only now and then publishes there is
/// [`PublishPool`](crate::PublishPool), which keeps nothing running between two publishes.
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
        let late = || BrokerError::Deadline { doing: "wait for a free lane to publish".into(), within: bound };
        let _lane = match tokio::time::timeout_at(deadline, self.lanes.acquire()).await {
            Ok(permit) => permit.expect("the semaphore is never closed"),
            Err(_) => return Err(envelope.not_sent(late())),
        };
        self.until_unblocked(&envelope, deadline).await?;
        let channel = self.channel(deadline).await.map_err(|source| envelope.not_sent(source))?;
        match tokio::time::timeout_at(deadline, envelope.send(channel.raw())).await {
            Ok(Ok(())) => {
                self.idle.lock().expect("no holder panics").push(channel);
                Ok(())
            }
            // The channel is dropped, so that a late confirm is never taken for that of another message.
            Ok(Err(error)) => Err(error),
            Err(_) if self.link.is_blocked() => Err(envelope.blocked()),
            Err(_) => Err(envelope.unconfirmed(format!("no answer within {bound:?}"))),
        }
    }

    /// Closes the connection.
    pub async fn close(&self) {
        let idle = std::mem::take(&mut *self.idle.lock().expect("no holder panics"));
        join_all(idle.iter().map(AmqpChannel::close)).await;
        self.link.close().await;
    }

    /// Waits for the end of an alarm before anything is written, so that nothing is left in doubt.
    async fn until_unblocked(&self, envelope: &Envelope, deadline: Instant) -> Result<(), PublishError> {
        while self.link.is_blocked() {
            if Instant::now() >= deadline {
                return Err(envelope.blocked());
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
