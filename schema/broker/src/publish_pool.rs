//! Publishing over a pool of connections, for programs that publish now and then from many tasks.
//!
//! ffpool's own services and tools keep one supervised link and publish in lanes on it (see `publisher.rs`), so that a
//! lost connection is rebuilt before the next message needs it. A program that embeds the producer library has other
//! needs: many short-lived tasks, long pauses, and nothing that runs in between. Here a connection is made when a
//! publish finds none, and a broken one is thrown away when it is next asked for.
//!
//! Invariant: a connection is lent to one publish at a time, and is lent again only if its last one was answered.

use std::time::Duration;

use deadpool_lapin::{Config, Connection, Pool, PoolConfig, PoolError, Runtime, TimeoutType, Timeouts};
use futures_util::future::join_all;
use lapin::options::ConfirmSelectOptions;
use lapin::{Channel, ConnectionProperties};
use tokio::time::Instant;
use tracing::debug;

use crate::deadline::{ANSWER, CLOSE, CONNECT, within};
use crate::envelope::Envelope;
use crate::error::{BrokerError, PublishError};
use crate::link::{AmqpConfig, place};
use crate::message::Outgoing;
use crate::publisher::{LOOK, PUBLISH};

/// Between two attempts to connect for the same publish.
const RETRY: Duration = Duration::from_millis(250);

/// Publishes messages, durably and confirmed, each over a connection lent for it. Share one by reference or `Arc`.
pub struct PublishPool {
    pool: Pool,
}

impl PublishPool {
    /// Opens a pool of at most `size` connections, of which each carries one publish at a time. None is made yet.
    ///
    /// # Errors
    /// [`BrokerError::Url`] when the URL cannot be used. The pool's connections take no certificate files: for `amqps`
    /// they trust what the system trusts.
    pub fn open(config: AmqpConfig, size: u16) -> Result<PublishPool, BrokerError> {
        let (uri, tls) = place(&config)?;
        if tls.identity.is_some() || tls.cert_chain.is_some() {
            let reason = "a pool takes no certificate files; trust the authority system-wide, or publish over a link";
            return Err(BrokerError::Url { reason: reason.into() });
        }
        let timeouts = Timeouts { wait: Some(PUBLISH), create: Some(CONNECT), recycle: Some(ANSWER) };
        let pool = PoolConfig { timeouts, ..PoolConfig::new(usize::from(size.max(1))) };
        let name = config.name;
        let properties = move || ConnectionProperties::default().with_connection_name(name.as_str().into());
        let pool = Config { url: Some(uri.to_string()), pool: Some(pool) }
            .create_pool(properties, Runtime::Tokio1)
            .map_err(|error| BrokerError::Url { reason: error.to_string() })?;
        Ok(PublishPool { pool })
    }

    /// Publishes one message and waits for its confirm, at most 30 s, the wait for a free connection included.
    ///
    /// # Errors
    /// See [`PublishError`]: some of them leave open whether the message is stored.
    pub async fn publish(&self, message: Outgoing) -> Result<(), PublishError> {
        self.publish_within(message, PUBLISH).await
    }

    /// Like [`PublishPool::publish`], with a deadline of the caller's. Cancel-safe as far as the pool goes: whether the
    /// message is stored is then unknown.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub async fn publish_within(&self, message: Outgoing, bound: Duration) -> Result<(), PublishError> {
        let envelope = Envelope::seal(message)?;
        let deadline = Instant::now() + bound;
        let (connection, channel) = self.lane(&envelope, deadline).await?;
        let Ok(outcome) = tokio::time::timeout_at(deadline, envelope.send(&channel)).await else {
            let blocked = connection.status().blocked();
            discard(connection);
            let late = || envelope.unconfirmed(format!("no answer within {bound:?}"));
            return Err(if blocked { envelope.blocked() } else { late() });
        };
        // A channel that the broker closed over the message is gone already.
        if channel.status().connected() {
            let close = channel.close(200, "published".into());
            if within(CLOSE, || "close a channel".into(), close).await.is_err() {
                discard(connection);
            }
        }
        outcome
    }

    /// Makes sure that a connection can be had.
    ///
    /// # Errors
    /// Why the last attempt within `bound` failed.
    pub async fn connected(&self, bound: Duration) -> Result<(), BrokerError> {
        self.connection(Instant::now() + bound).await.map(drop)
    }

    /// Closes the connections that nobody uses now, and each other one after its publish. No new publish is taken.
    pub async fn close(&self) {
        let idle = self.pool.retain(|_, _| false).removed;
        self.pool.close();
        let closing = idle.iter().map(|connection| connection.close(200, "closed".into()));
        let _ = tokio::time::timeout(CLOSE, join_all(closing)).await;
    }

    /// A connection to oneself with a new confirm channel, waiting for the broker if need be.
    async fn lane(&self, envelope: &Envelope, deadline: Instant) -> Result<(Connection, Channel), PublishError> {
        loop {
            let connection = self.connection(deadline).await.map_err(|source| envelope.not_sent(source))?;
            // A blocked connection writes nothing at all, so that nothing is left in doubt.
            while connection.status().blocked() {
                if Instant::now() >= deadline {
                    return Err(envelope.blocked());
                }
                tokio::time::sleep(LOOK).await;
            }
            match confirm_channel(&connection, deadline).await {
                Ok(channel) => return Ok((connection, channel)),
                Err(error) => {
                    discard(connection);
                    if Instant::now() >= deadline {
                        return Err(envelope.not_sent(error));
                    }
                    debug!(%error, "a pooled connection is of no use, taking another one");
                }
            }
        }
    }

    /// A connection of the pool, trying again until one can be made.
    async fn connection(&self, deadline: Instant) -> Result<Connection, BrokerError> {
        let mut reason = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeouts =
                Timeouts { wait: Some(left), create: Some(left.min(CONNECT)), recycle: Some(left.min(ANSWER)) };
            let error = match self.pool.timeout_get(&timeouts).await {
                Ok(connection) => return Ok(connection),
                Err(PoolError::Closed) => {
                    return Err(BrokerError::Down { last_error: Some("the pool was closed".into()) });
                }
                Err(PoolError::Timeout(TimeoutType::Wait)) => {
                    let late = || BrokerError::Deadline { doing: "wait for a pooled connection".into(), within: left };
                    return Err(reason.unwrap_or_else(late));
                }
                Err(PoolError::Backend(source)) => BrokerError::amqp("connect to the AMQP broker", source),
                Err(PoolError::Timeout(TimeoutType::Create | TimeoutType::Recycle)) => {
                    BrokerError::Deadline { doing: "connect to the AMQP broker".into(), within: left.min(CONNECT) }
                }
                Err(error @ (PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_))) => {
                    BrokerError::Down { last_error: Some(error.to_string()) }
                }
            };
            if deadline <= Instant::now() + RETRY {
                return Err(error);
            }
            debug!(%error, "no connection for the pool, trying again");
            reason = Some(error);
            tokio::time::sleep(RETRY).await;
        }
    }
}

async fn confirm_channel(connection: &Connection, deadline: Instant) -> Result<Channel, BrokerError> {
    let bound = deadline.saturating_duration_since(Instant::now()).min(ANSWER);
    let channel = within(bound, || "open a channel".into(), connection.create_channel()).await?;
    let select = channel.confirm_select(ConfirmSelectOptions::default());
    within(bound, || "ask for publisher confirms".into(), select).await?;
    Ok(channel)
}

/// Takes a connection that did not answer out of the pool. One that the broker holds back is not broken, and a new one
/// in its stead would be held back as well: it stays.
fn discard(connection: Connection) {
    if !connection.status().blocked() {
        drop(Connection::take(connection));
    }
}
