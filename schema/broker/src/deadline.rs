//! Deadlines: lapin's futures may stay pending for ever when a connection breaks, so none is awaited bare.

use std::future::Future;
use std::time::Duration;

use crate::error::BrokerError;

/// For one answer of the broker. A quorum queue that elects a leader takes seconds.
pub(crate) const ANSWER: Duration = Duration::from_secs(10);
/// For starting a consumer while others wait for it. A quorum queue without a leader never answers (RabbitMQ 3.10).
pub(crate) const CONSUME: Duration = Duration::from_secs(3);
/// For TCP, TLS and the AMQP handshake together.
pub(crate) const CONNECT: Duration = Duration::from_secs(10);
/// For a polite good-bye.
pub(crate) const CLOSE: Duration = Duration::from_secs(3);
/// For declaring one object: the first declaration of a quorum queue starts a Raft cluster.
pub(crate) const DECLARE: Duration = Duration::from_secs(30);

/// Awaits an answer of the broker, but not longer than `bound`.
pub(crate) async fn within<T>(
    bound: Duration,
    doing: impl FnOnce() -> String,
    answer: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    match tokio::time::timeout(bound, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(BrokerError::amqp(doing(), error)),
        Err(_) => Err(BrokerError::Deadline { doing: doing(), within: bound }),
    }
}
