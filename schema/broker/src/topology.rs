//! Declares the topology and reads queue depths.
//!
//! Arguments are structure and the same on every supported broker; they can never be changed on an existing queue.

use std::time::Duration;

use ffpool_schema::topology::{DELIVERY_LIMIT, Exchange, ExchangeKind, QueueDeclaration, Topology};
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use tracing::info;

use crate::channels::{AmqpChannel, short};
use crate::deadline::{DECLARE, within};
use crate::error::{BrokerError, PRECONDITION_FAILED, reply};
use crate::link::AmqpLink;

/// A quorum queue younger than half a second is lost in a crash, its confirmed messages with it (measured on RabbitMQ
/// 3.10, 4.0 and 4.3: the Raft name registry is saved every 500 ms). Twice that time makes it safe to use.
const SETTLE: Duration = Duration::from_secs(1);

/// Declares everything in `topology`. May be repeated at any time; waits a second after it created a queue.
///
/// # Errors
/// [`BrokerError::Inequivalent`] names the queue or exchange that exists with other properties.
pub async fn declare_topology(link: &AmqpLink, topology: &Topology) -> Result<(), BrokerError> {
    let channel = link.channel().await?;
    for exchange in &topology.exchanges {
        declare_exchange(&channel, exchange).await?;
    }
    let mut created = 0;
    for queue in &topology.queues {
        created += u32::from(!exists(link, &queue.name).await?);
        declare_queue(&channel, queue).await?;
    }
    for binding in &topology.bindings {
        let (exchange, key) = (short(&binding.exchange)?, short(&binding.key)?);
        let bind = channel.raw().queue_bind(
            short(&binding.queue)?,
            exchange,
            key,
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        within(DECLARE, || format!("bind queue {} to exchange {}", binding.queue, binding.exchange), bind).await?;
    }
    if created > 0 {
        tokio::time::sleep(SETTLE).await;
        info!(created, "declared the queues of ffpool");
    }
    Ok(())
}

async fn declare_exchange(channel: &AmqpChannel, exchange: &Exchange) -> Result<(), BrokerError> {
    let kind = match exchange.kind {
        ExchangeKind::Direct => lapin::ExchangeKind::Direct,
        ExchangeKind::Fanout => lapin::ExchangeKind::Fanout,
        ExchangeKind::Topic => lapin::ExchangeKind::Topic,
    };
    let mut arguments = FieldTable::default();
    if let Some(alternate) = exchange.alternate {
        arguments.insert("alternate-exchange".into(), AMQPValue::LongString(alternate.into()));
    }
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let declare = channel.raw().exchange_declare(short(&exchange.name)?, kind, options, arguments);
    let object = format!("exchange {}", exchange.name);
    let declared = within(DECLARE, || format!("declare {object}"), declare).await;
    declared.map_err(|error| inequivalent(object, error))
}

async fn declare_queue(channel: &AmqpChannel, queue: &QueueDeclaration) -> Result<(), BrokerError> {
    let mut arguments = FieldTable::default();
    for (name, value) in queue_arguments(queue) {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString(text.into()),
            Argument::Number(number) => AMQPValue::LongLongInt(i64::from(number)),
        };
        arguments.insert(name.into(), value);
    }
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let declare = channel.raw().queue_declare(short(&queue.name)?, options, arguments);
    let object = format!("queue {}", queue.name);
    let declared = within(DECLARE, || format!("declare {object}"), declare).await;
    declared.map(drop).map_err(|error| inequivalent(object, error))
}

/// The value of a queue argument.
pub(crate) enum Argument {
    Text(&'static str),
    Number(u32),
}

/// The arguments a queue is declared with, here and in the definitions file alike.
pub(crate) fn queue_arguments(queue: &QueueDeclaration) -> Vec<(&'static str, Argument)> {
    let mut arguments = vec![
        ("x-queue-type", Argument::Text("quorum")),
        // RabbitMQ 3.10 without a limit requeues to the back and 4.x limits to 20: always say it.
        ("x-delivery-limit", Argument::Number(DELIVERY_LIMIT)),
    ];
    if let Some(exchange) = queue.dead_letter {
        arguments.push(("x-dead-letter-exchange", Argument::Text(exchange)));
        // Needs reject-publish, else the broker silently falls back to at-most-once.
        arguments.push(("x-dead-letter-strategy", Argument::Text("at-least-once")));
        arguments.push(("x-overflow", Argument::Text("reject-publish")));
    }
    arguments
}

fn inequivalent(object: String, error: BrokerError) -> BrokerError {
    match error {
        BrokerError::Amqp { doing, source } => match reply(&source) {
            Some((PRECONDITION_FAILED, reply)) => BrokerError::Inequivalent { object, reply },
            Some(_) | None => BrokerError::Amqp { doing, source },
        },
        other => other,
    }
}

/// Whether a queue exists. Asked on a channel of its own, because a no closes it.
async fn exists(link: &AmqpLink, queue: &str) -> Result<bool, BrokerError> {
    let channel = link.channel().await?;
    match channel.count(queue).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_missing() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The depth of one queue.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct QueueDepth {
    /// The queue's name.
    pub name: String,
    /// Messages ready for delivery. Those in a worker's hand are not counted.
    pub ready: u32,
    /// Consumers; each unsettled `basic.get` of a quorum queue counts as one.
    pub consumers: u32,
}

/// Reads the depths of queues, in the order of `names`; `None` for a queue that does not exist.
///
/// # Errors
/// When the broker cannot be asked.
pub async fn queue_depth(link: &AmqpLink, names: &[String]) -> Result<Vec<Option<QueueDepth>>, BrokerError> {
    let mut channel = link.channel().await?;
    let mut depths = Vec::with_capacity(names.len());
    for name in names {
        match channel.count(name).await {
            Ok((ready, consumers)) => depths.push(Some(QueueDepth { name: name.clone(), ready, consumers })),
            Err(error) if error.is_missing() => {
                depths.push(None);
                // The broker closed the channel over it.
                channel = link.channel().await?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(depths)
}
