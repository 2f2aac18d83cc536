//! Channels: a wrapper that knows whether it is lost, and a pool for channels that come back empty-handed.
//!
//! Invariant: a channel enters the pool only when nothing is unsettled on it; a dropped channel is closed, and the
//! broker then hands its unsettled deliveries to somebody else.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};

use crate::deadline::{ANSWER, CLOSE, CONSUME, within};
use crate::error::BrokerError;
use crate::link::{AmqpLink, Live};

/// How often a waiter for a channel's end looks for itself, beside being told.
const LOOK: Duration = Duration::from_secs(1);

/// A channel on one connection of a link.
pub struct AmqpChannel {
    channel: lapin::Channel,
    live: Arc<Live>,
}

impl AmqpChannel {
    pub(crate) fn new(channel: lapin::Channel, live: Arc<Live>) -> AmqpChannel {
        AmqpChannel { channel, live }
    }

    /// Whether it can still be used.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.channel.status().connected() && self.live.is_up()
    }

    /// The connection it belongs to, counted as by [`AmqpLink::generation`].
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.live.generation
    }

    /// Resolves when the channel or its connection is gone.
    pub async fn lost(&self) {
        while self.is_open() {
            tokio::select! {
                () = self.live.dead.cancelled() => return,
                () = self.live.trouble.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Says good-bye and waits for the answer. To drop a channel closes it too, some time later.
    pub(crate) async fn close(&self) {
        if self.is_open() {
            let _ = tokio::time::timeout(CLOSE, self.channel.close(200, "closed".into())).await;
        }
    }

    pub(crate) fn raw(&self) -> &lapin::Channel {
        &self.channel
    }

    pub(crate) async fn qos(&self, prefetch: u16) -> Result<(), BrokerError> {
        let set = self.channel.basic_qos(prefetch, BasicQosOptions::default());
        within(ANSWER, || format!("set prefetch {prefetch}"), set).await
    }

    /// The ready and consumer counts of a queue, by passive declare.
    pub(crate) async fn count(&self, queue: &str) -> Result<(u32, u32), BrokerError> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declare = self.channel.queue_declare(short(queue)?, options, FieldTable::default());
        let found = within(ANSWER, || format!("look at queue {queue}"), declare).await?;
        Ok((found.message_count(), found.consumer_count()))
    }

    pub(crate) async fn get(&self, queue: &str) -> Result<Option<lapin::message::BasicGetMessage>, BrokerError> {
        let get = self.channel.basic_get(short(queue)?, BasicGetOptions { no_ack: false });
        within(ANSWER, || format!("get from queue {queue}"), get).await
    }

    pub(crate) async fn consume(&self, queue: &str) -> Result<lapin::Consumer, BrokerError> {
        let options = BasicConsumeOptions::default();
        let consume = self.channel.basic_consume(short(queue)?, ShortString::default(), options, FieldTable::default());
        within(CONSUME, || format!("consume queue {queue}"), consume).await
    }

    pub(crate) async fn cancel(&self, consumer: &lapin::Consumer) -> Result<(), BrokerError> {
        let cancel = self.channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
        within(ANSWER, || format!("cancel the consumer of queue {}", consumer.queue()), cancel).await
    }
}

/// A name as AMQP carries it: up to 255 bytes.
pub(crate) fn short(name: &str) -> Result<ShortString, BrokerError> {
    ShortString::try_new(name.to_owned()).map_err(|_| BrokerError::Missing {
        doing: format!("use the name {}…", name.chars().take(32).collect::<String>()),
        reply: "AMQP names have at most 255 bytes".into(),
    })
}

/// Channels of a link that are open and empty-handed. Short jobs would otherwise open a channel each.
pub(crate) struct ChannelPool {
    link: AmqpLink,
    prefetch: u16,
    /// Any number of tasks take and give; never held across an await.
    idle: Mutex<Vec<AmqpChannel>>,
}

impl ChannelPool {
    pub(crate) fn new(link: AmqpLink, prefetch: u16) -> ChannelPool {
        ChannelPool { link, prefetch, idle: Mutex::new(Vec::new()) }
    }

    pub(crate) fn link(&self) -> &AmqpLink {
        &self.link
    }

    /// The prefetch every pooled channel has.
    pub(crate) fn prefetch(&self) -> u16 {
        self.prefetch
    }

    /// An open channel, pooled or new.
    pub(crate) async fn take(&self) -> Result<AmqpChannel, BrokerError> {
        if let Some(channel) = self.take_idle() {
            return Ok(channel);
        }
        let channel = self.link.channel().await?;
        channel.qos(self.prefetch).await?;
        Ok(channel)
    }

    /// Gives back a channel on which nothing is unsettled. At most `keep` wait for use.
    pub(crate) fn give(&self, channel: AmqpChannel) {
        // Room for every slot, twice: deliveries in hand and gets on their way. And for a consumer on each queue.
        let keep = usize::from(self.prefetch) * 2 + 32;
        if channel.is_open() {
            let mut idle = self.idle.lock().expect("no holder panics");
            if idle.len() < keep {
                idle.push(channel);
            }
        }
    }

    fn take_idle(&self) -> Option<AmqpChannel> {
        let mut idle = self.idle.lock().expect("no holder panics");
        loop {
            let channel = idle.pop()?;
            if channel.is_open() {
                return Some(channel);
            }
        }
    }
}
