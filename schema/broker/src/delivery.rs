//! A delivery in a worker's hand, on a channel of its own.
//!
//! Invariant: a delivery is settled at most once and only on the channel it came by; dropped unsettled, its channel is
//! closed and the broker hands it to somebody else.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use ffpool_schema::topology::WorkQueue;
use lapin::Acker;
use lapin::options::{BasicAckOptions, BasicNackOptions, BasicRejectOptions};
use tokio::sync::OwnedSemaphorePermit;

use crate::channels::{AmqpChannel, ChannelPool};
use crate::deadline::ANSWER;
use crate::message::Incoming;

/// How the settling of a delivery or a batch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a lost delivery comes again"]
pub enum Settled {
    /// It was sent to the broker on a channel that stood.
    Done,
    /// The channel was gone: the broker redelivers, or has done so already.
    Lost,
}

/// A message held unacknowledged. Its fields are those of [`Incoming`].
pub struct Delivery {
    /// The work queue it was taken from.
    pub work: WorkQueue,
    message: Incoming,
    hold: Hold,
}

/// What keeps a delivery in hand; dropping it gives the message back.
struct Hold {
    acker: Acker,
    channel: AmqpChannel,
    pool: Arc<ChannelPool>,
    /// The slot it takes; free again when the hold is dropped.
    slot: Option<OwnedSemaphorePermit>,
}

impl Deref for Delivery {
    type Target = Incoming;

    fn deref(&self) -> &Incoming {
        &self.message
    }
}

impl DerefMut for Delivery {
    fn deref_mut(&mut self) -> &mut Incoming {
        &mut self.message
    }
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery")
            .field("work", &self.work.name())
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}

impl Delivery {
    pub(crate) fn new(
        work: WorkQueue,
        mut delivery: lapin::message::Delivery,
        channel: AmqpChannel,
        pool: Arc<ChannelPool>,
    ) -> Delivery {
        let message = Incoming::from_lapin(&mut delivery);
        Delivery { work, message, hold: Hold { acker: delivery.acker, channel, pool, slot: None } }
    }

    pub(crate) fn occupy(&mut self, slot: OwnedSemaphorePermit) {
        self.hold.slot = Some(slot);
    }

    pub(crate) fn vacate(&mut self) -> Option<OwnedSemaphorePermit> {
        self.hold.slot.take()
    }

    /// Tells the broker that the message is dealt with. Do it last.
    pub async fn ack(self) -> Settled {
        self.hold.settle(async |acker| acker.ack(BasicAckOptions::default()).await).await
    }

    /// Gives the message back; it goes to the front of its queue.
    pub async fn release(self) -> Settled {
        self.hold.settle(async |acker| acker.nack(BasicNackOptions { multiple: false, requeue: true }).await).await
    }

    /// Sends the message to the dead-letter exchange of its queue.
    pub async fn dead_letter(self) -> Settled {
        self.hold.settle(async |acker| acker.reject(BasicRejectOptions { requeue: false }).await).await
    }

    /// Whether its channel or connection is gone: the broker will hand the message to somebody else.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        !self.hold.channel.is_open() || self.hold.acker.poisoned()
    }

    /// Resolves when the delivery is lost.
    pub async fn lost(&self) {
        self.hold.channel.lost().await;
    }
}

impl Hold {
    async fn settle(self, send: impl AsyncFnOnce(&Acker) -> lapin::Result<bool>) -> Settled {
        if !self.channel.is_open() {
            return Settled::Lost;
        }
        match tokio::time::timeout(ANSWER, send(&self.acker)).await {
            // A frame written to a socket that is already dead comes back as Ok(true): look once more.
            Ok(Ok(true)) if self.channel.is_open() => {
                self.pool.give(self.channel);
                Settled::Done
            }
            // Ok(false) is lapin's word for a channel that is gone. The channel is dropped here, never used again.
            Ok(Ok(_)) | Ok(Err(_)) | Err(_) => Settled::Lost,
        }
    }
}
