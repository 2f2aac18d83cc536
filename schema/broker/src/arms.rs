//! Armed consumers: how an idle intake is woken.
//!
//! One consumer with prefetch 1 on each work queue, each on a channel of its own, so that whatever arrives can become
//! a delivery of its own. On the first arrival all are cancelled, and only then is the surplus handed back: a return
//! before the cancel would come straight back (measured).

use std::task::Poll;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::future::{join_all, poll_fn};
use lapin::message::Delivery;

use crate::channels::{AmqpChannel, ChannelPool};
use crate::deadline::ANSWER;
use crate::error::BrokerError;

/// One message at a time is what a consumer may bring.
const PREFETCH: u16 = 1;

/// Consumers on all work queues.
pub(crate) struct Arms {
    arms: Vec<Arm>,
    pub(crate) generation: u64,
    pub(crate) armed_at: Instant,
    /// When to check that the consumers work.
    pub(crate) verify_at: Instant,
    /// How often in a row messages lay ready although a consumer was there for them.
    pub(crate) idle_while_ready: u32,
}

struct Arm {
    rung: usize,
    channel: AmqpChannel,
    consumer: lapin::Consumer,
    /// What it brought; the broker sends no second one before the first is settled.
    brought: Vec<Delivery>,
}

/// What waiting for an arrival ended with.
pub(crate) enum Arrival {
    /// A message is in hand: disarm.
    Message,
    /// A consumer ended by itself: its queue, channel or connection is gone. Nothing may be settled on its channel.
    Ended,
}

/// One arm after disarming.
pub(crate) struct Disarmed {
    pub(crate) rung: usize,
    pub(crate) channel: AmqpChannel,
    pub(crate) brought: Vec<Delivery>,
}

impl Arms {
    /// Starts a consumer on each of the queues, at once or one after the other. Also answers which ones failed.
    pub(crate) async fn open(
        pool: &ChannelPool,
        queues: &[(usize, String)],
        one_by_one: bool,
    ) -> (Arms, Vec<(usize, BrokerError)>) {
        let mut opened = Vec::with_capacity(queues.len());
        if one_by_one {
            for (rung, queue) in queues {
                opened.push((*rung, Arm::open(pool, *rung, queue).await));
                if !pool.link().is_up() {
                    break;
                }
            }
        } else {
            let opening = queues.iter().map(async |(rung, queue)| (*rung, Arm::open(pool, *rung, queue).await));
            opened = join_all(opening).await;
        }
        let (mut arms, mut failed) = (Vec::new(), Vec::new());
        for (rung, outcome) in opened {
            match outcome {
                Ok(arm) => arms.push(arm),
                Err(error) => failed.push((rung, error)),
            }
        }
        let generation = arms.first().map_or(0, |arm| arm.channel.generation());
        let now = Instant::now();
        (Arms { arms, generation, armed_at: now, verify_at: now, idle_while_ready: 0 }, failed)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.arms.is_empty()
    }

    /// Waits for a first message, or for the end of a consumer. Cancel-safe: what arrived is kept.
    pub(crate) async fn arrival(&mut self) -> Arrival {
        poll_fn(|cx| {
            for arm in &mut self.arms {
                match arm.consumer.poll_next_unpin(cx) {
                    Poll::Ready(Some(Ok(delivery))) => {
                        arm.brought.push(delivery);
                        return Poll::Ready(Arrival::Message);
                    }
                    Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Arrival::Ended),
                    Poll::Pending => {}
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Cancels all consumers and gathers what they brought. An arm that cannot be cancelled is dropped with its
    /// channel, so that the broker takes its message back.
    pub(crate) async fn disarm(self, prefetch: u16) -> Vec<Disarmed> {
        join_all(self.arms.into_iter().map(|arm| arm.disarm(prefetch))).await.into_iter().flatten().collect()
    }
}

impl Arm {
    async fn open(pool: &ChannelPool, rung: usize, queue: &str) -> Result<Arm, BrokerError> {
        let channel = pool.take().await?;
        channel.qos(PREFETCH).await?;
        let consumer = channel.consume(queue).await?;
        Ok(Arm { rung, channel, consumer, brought: Vec::new() })
    }

    async fn disarm(mut self, prefetch: u16) -> Option<Disarmed> {
        self.channel.cancel(&self.consumer).await.ok()?;
        self.channel.qos(prefetch).await.ok()?;
        // After the cancel the stream holds what was under way, and then its end.
        let rest = async {
            while let Some(next) = self.consumer.next().await {
                self.brought.push(next.ok()?);
            }
            Some(())
        };
        tokio::time::timeout(ANSWER, rest).await.ok()??;
        Some(Disarmed { rung: self.rung, channel: self.channel, brought: self.brought })
    }
}
