//! The limit beside which the pool is set: the broker's client alone, publishing, consuming and acknowledging the same
//! number of durable messages on quorum queues of the same broker.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Confirmation, Connection, ConnectionProperties};

/// Messages that may wait for their confirm.
const WINDOW: usize = 256;
const QUEUE: &str = "ffpool.loadtest.raw";

/// Messages per second from the first publish to the last acknowledgement, with publishing and consuming at once.
///
/// # Errors
/// When the broker fails.
pub async fn messages_per_second(url: &str, count: usize, body: &[u8]) -> anyhow::Result<f64> {
    let connect = || Connection::connect(url, ConnectionProperties::default());
    let (publishing, consuming) = (connect().await.context("connect")?, connect().await.context("connect")?);
    let channel = publishing.create_channel().await.context("open a channel")?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(QUEUE.into(), durable, arguments).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;

    let begin = Instant::now();
    let consume = tokio::spawn(async move {
        let channel = consuming.create_channel().await?;
        channel.basic_qos(WINDOW as u16, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let mut consumer = channel.basic_consume(QUEUE.into(), "raw".into(), options, FieldTable::default()).await?;
        for _ in 0..count {
            let delivery = tokio::time::timeout(Duration::from_secs(60), consumer.next()).await?;
            let delivery = delivery.context("the consumer ended")?.context("consume")?;
            delivery.ack(BasicAckOptions::default()).await.context("acknowledge")?;
        }
        // Answered after the acknowledgements on the same channel, so it ends the measured time.
        channel.basic_qos(1, BasicQosOptions::default()).await.context("wait for the acknowledgements")?;
        anyhow::Ok(consuming)
    });
    let mut unconfirmed = FuturesUnordered::new();
    for _ in 0..count {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = BasicProperties::default().with_delivery_mode(2);
        unconfirmed
            .push(channel.basic_publish("".into(), QUEUE.into(), options, body, properties).await.context("publish")?);
        if unconfirmed.len() >= WINDOW {
            confirmed(unconfirmed.next().await)?;
        }
    }
    while let Some(confirmation) = unconfirmed.next().await {
        confirmed(Some(confirmation))?;
    }
    let consuming = consume.await??;
    let elapsed = begin.elapsed();
    // The measurement is over; a good-bye that fails changes nothing about it.
    let _ = channel.queue_delete(QUEUE.into(), QueueDeleteOptions::default()).await;
    let _ = consuming.close(200, "done".into()).await;
    let _ = publishing.close(200, "done".into()).await;
    Ok(count as f64 / elapsed.as_secs_f64())
}

fn confirmed(confirmation: Option<lapin::Result<Confirmation>>) -> anyhow::Result<()> {
    match confirmation.context("a publish has no confirm")?? {
        Confirmation::Ack(None) => Ok(()),
        other => anyhow::bail!("the broker did not take a message: {other:?}"),
    }
}
