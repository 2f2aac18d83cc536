//! What the dispatcher consumes: batches of messages, acknowledged together.
//!
//! Invariant: a batch is settled on the channel it came by or not at all, and settling one batch never settles
//! another: `multiple` is used only for the oldest batch in hand.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ffpool_schema::topology::Topology;
use futures_util::{FutureExt, StreamExt};
use lapin::Acker;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::channels::AmqpChannel;
use crate::deadline::ANSWER;
use crate::delivery::Settled;
use crate::error::BrokerError;
use crate::link::AmqpLink;
use crate::message::Incoming;
use crate::topology::declare_topology;

/// Between attempts to subscribe.
const RETRY: Duration = Duration::from_millis(250);
/// After a batch was handed back: the database behind it is away, and the messages come again at once.
const RELEASED: Duration = Duration::from_millis(500);

/// How often an idle subscription is checked against the broker's counts.
const VERIFY: Duration = Duration::from_secs(5);
/// An idle subscription is renewed after so many checks. A consumer can be dead although the broker counts it: when a
/// quorum queue is deleted and declared again at once, RabbitMQ 3.10 may neither cancel its consumer nor feed it, and
/// assigns it what is published (measured). Only the end of its channel gives that back.
const CHECKS_PER_RENEWAL: u32 = 4;
/// So many checks in a row may find messages ready that the idle consumer was not given.
const VERIFY_FAILED_MAX: u32 = 2;

/// Consumes one queue in batches, for ever.
pub struct BatchConsumer {
    link: AmqpLink,
    queue: String,
    max_batch: usize,
    max_wait: Duration,
    subscription: Option<Subscription>,
    /// Taken from the stream, not yet in a batch. Kept here so that a dropped `next_batch` loses nothing.
    taken: Vec<lapin::message::Delivery>,
    /// Whether the last batch was full: then more is coming, and a short wait fills the next one.
    busy: bool,
    /// The failure said last, to say each one once.
    said: Option<String>,
    /// What is declared again when the queue is missing.
    topology: Option<Topology>,
}

struct Subscription {
    consumer: lapin::Consumer,
    /// Checks since the last message.
    idle_checks: u32,
    /// How often in a row messages lay ready although the consumer was idle.
    idle_while_ready: u32,
    channel: Arc<Shared>,
}

/// The channel of a subscription, shared with the batches that came by it.
struct Shared {
    channel: AmqpChannel,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    /// First delivery tags of the batches in hand.
    in_hand: BTreeSet<u64>,
    /// A batch was dropped unsettled: only closing the channel gives its messages back.
    abandoned: bool,
    /// When a batch was handed back last.
    released_at: Option<Instant>,
}

/// Messages in hand, unacknowledged. Dropping it hands them back.
pub struct Batch {
    /// The messages, oldest first; at least one.
    pub messages: Vec<Incoming>,
    hold: Hold,
}

struct Hold {
    /// Oldest first, one for each message.
    ackers: Vec<Acker>,
    first_tag: u64,
    channel: Arc<Shared>,
    settled: bool,
}

impl BatchConsumer {
    /// Starts with the first [`BatchConsumer::next_batch`]. While the queue is busy a batch waits up to `max_wait` to
    /// become full; otherwise it is whatever has arrived.
    #[must_use]
    pub fn open(link: AmqpLink, queue: &str, max_batch: usize, max_wait: Duration) -> BatchConsumer {
        BatchConsumer {
            link,
            queue: queue.to_owned(),
            max_batch: max_batch.max(1),
            max_wait,
            subscription: None,
            taken: Vec::new(),
            busy: false,
            said: None,
            topology: None,
        }
    }

    /// Declares `topology` again whenever the queue is found missing: somebody deleted it.
    #[must_use]
    pub fn declaring(mut self, topology: Topology) -> BatchConsumer {
        self.topology = Some(topology);
        self
    }

    /// The next messages, at least one; waits for ever, and subscribes anew after any loss. Cancel-safe.
    pub async fn next_batch(&mut self) -> Batch {
        loop {
            self.rest_after_release().await;
            if let Err(error) = self.subscribe().await {
                self.say(&error);
                if error.is_missing() {
                    self.declare_again().await;
                }
                tokio::time::sleep(RETRY).await;
                continue;
            }
            if self.take_first().await {
                self.take_more().await;
                if let Some(batch) = self.batch() {
                    return batch;
                }
            }
            self.unsubscribe();
        }
    }

    /// Makes sure that a subscription stands.
    async fn subscribe(&mut self) -> Result<(), BrokerError> {
        if self.subscription.as_ref().is_some_and(Subscription::is_sound) {
            return Ok(());
        }
        self.unsubscribe();
        let channel = self.link.channel().await?;
        // A queue that is missing or broken answers a passive declare; a consume might end the connection.
        channel.count(&self.queue).await?;
        channel.qos(u16::try_from(self.max_batch * 2).unwrap_or(u16::MAX)).await?;
        let consumer = channel.consume(&self.queue).await?;
        debug!(queue = %self.queue, generation = channel.generation(), "consuming");
        self.said = None;
        self.subscription = Some(Subscription {
            consumer,
            idle_checks: 0,
            idle_while_ready: 0,
            channel: Arc::new(Shared { channel, book: Mutex::default() }),
        });
        Ok(())
    }

    async fn declare_again(&mut self) {
        let Some(topology) = &self.topology else { return };
        if let Err(error) = declare_topology(&self.link, topology).await {
            self.say(&error);
        }
    }

    /// Drops the channel, never settling on it: after a server-side cancel a late ack would leave the message with a
    /// consumer that is gone (RabbitMQ 4.3).
    fn unsubscribe(&mut self) {
        self.taken.clear();
        self.busy = false;
        if let Some(subscription) = self.subscription.take() {
            subscription.channel.close_in_background();
        }
    }

    /// Waits for a first message. False when the subscription ended.
    async fn take_first(&mut self) -> bool {
        if !self.taken.is_empty() {
            return true;
        }
        let Some(subscription) = &mut self.subscription else { return false };
        loop {
            tokio::select! {
                next = subscription.consumer.next() => match next {
                    Some(Ok(delivery)) => {
                        (subscription.idle_checks, subscription.idle_while_ready) = (0, 0);
                        self.taken.push(delivery);
                        return true;
                    }
                    Some(Err(_)) | None => return false,
                },
                () = subscription.channel.channel.lost() => return false,
                () = tokio::time::sleep(VERIFY) => if !subscription.is_fed(&self.queue).await {
                    debug!(queue = %self.queue, "renewing an idle subscription");
                    return false;
                },
            }
        }
    }

    /// Takes what has arrived already, and if the queue is busy a little of what is coming.
    async fn take_more(&mut self) {
        let until = Instant::now() + if self.busy { self.max_wait } else { Duration::ZERO };
        let Some(subscription) = &mut self.subscription else { return };
        while self.taken.len() < self.max_batch {
            let next = match subscription.consumer.next().now_or_never() {
                Some(next) => next,
                None if Instant::now() < until => {
                    match tokio::time::timeout_at(until, subscription.consumer.next()).await {
                        Ok(next) => next,
                        Err(_) => break,
                    }
                }
                None => break,
            };
            match next {
                Some(Ok(delivery)) => self.taken.push(delivery),
                // What was taken may still be settled if only the consumer ended; a lost channel says so itself.
                Some(Err(_)) | None => break,
            }
        }
        self.busy = self.taken.len() >= self.max_batch;
    }

    fn batch(&mut self) -> Option<Batch> {
        let channel = self.subscription.as_ref()?.channel.clone();
        let mut deliveries = std::mem::take(&mut self.taken);
        let first_tag = deliveries.first()?.delivery_tag;
        channel.book().in_hand.insert(first_tag);
        let messages = deliveries.iter_mut().map(Incoming::from_lapin).collect();
        let ackers = deliveries.into_iter().map(|delivery| delivery.acker).collect();
        Some(Batch { messages, hold: Hold { ackers, first_tag, channel, settled: false } })
    }

    async fn rest_after_release(&mut self) {
        let Some(subscription) = &self.subscription else { return };
        let until = subscription.channel.book().released_at.map(|at| at + RELEASED);
        if let Some(until) = until {
            tokio::time::sleep_until(until).await;
            subscription.channel.book().released_at = None;
        }
    }

    fn say(&mut self, error: &BrokerError) {
        let text = error.to_string();
        if self.said.as_ref() != Some(&text) {
            warn!(queue = %self.queue, error = %text, "cannot consume, trying again");
            self.said = Some(text);
        }
    }
}

impl Subscription {
    /// Whether the idle consumer may be trusted on: the broker knows it, leaves nothing lying for it, and it is not old.
    async fn is_fed(&mut self, queue: &str) -> bool {
        let Ok((ready, consumers)) = self.channel.channel.count(queue).await else { return false };
        if !self.channel.book().in_hand.is_empty() {
            // The end of the channel would take back what somebody is working on.
            return true;
        }
        self.idle_checks += 1;
        self.idle_while_ready = if ready > 0 { self.idle_while_ready + 1 } else { 0 };
        consumers > 0 && self.idle_while_ready < VERIFY_FAILED_MAX && self.idle_checks < CHECKS_PER_RENEWAL
    }

    fn is_sound(&self) -> bool {
        self.channel.channel.is_open() && !self.channel.book().abandoned
    }
}

impl Shared {
    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().expect("no holder panics")
    }

    /// Asks for the channel's end now: batches in hand may keep it alive for long.
    fn close_in_background(&self) {
        if self.channel.is_open() {
            let channel = self.channel.raw().clone();
            // Bounded by its deadline; nobody waits for it, because the messages come back by it or by the link's end.
            tokio::spawn(async move { tokio::time::timeout(ANSWER, channel.close(200, "unsubscribed".into())).await });
        }
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("messages", &self.messages).finish_non_exhaustive()
    }
}

impl Batch {
    /// Tells the broker that all messages of the batch are dealt with.
    pub async fn ack(self) -> Settled {
        let send = async |acker: &Acker, multiple| acker.ack(BasicAckOptions { multiple }).await;
        self.hold.settle(send).await
    }

    /// Gives all messages of the batch back. They come again after half a second.
    pub async fn release(self) -> Settled {
        self.hold.channel.book().released_at = Some(Instant::now());
        let send = async |acker: &Acker, multiple| acker.nack(BasicNackOptions { multiple, requeue: true }).await;
        self.hold.settle(send).await
    }

    /// Splits the batch's settling from its messages, to move the messages out.
    #[must_use]
    pub fn take_messages(&mut self) -> Vec<Incoming> {
        std::mem::take(&mut self.messages)
    }
}

impl Hold {
    async fn settle(mut self, send: impl AsyncFn(&Acker, bool) -> lapin::Result<bool>) -> Settled {
        let oldest = self.channel.book().in_hand.first() == Some(&self.first_tag);
        // `multiple` settles everything up to its tag, so another batch in hand before this one forbids it.
        let from = if oldest { self.ackers.len() - 1 } else { 0 };
        let all = async {
            for acker in &self.ackers[from..] {
                if !matches!(send(acker, oldest).await, Ok(true)) {
                    return Settled::Lost;
                }
            }
            Settled::Done
        };
        let settled = tokio::time::timeout(ANSWER, all).await.unwrap_or(Settled::Lost);
        if settled == Settled::Done && self.channel.channel.is_open() {
            self.settled = true;
            Settled::Done
        } else {
            Settled::Lost
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut book = self.channel.book();
        book.in_hand.remove(&self.first_tag);
        if !self.settled {
            book.abandoned = true;
        }
    }
}
