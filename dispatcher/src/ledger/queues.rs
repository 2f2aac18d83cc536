//! Queues that somebody has paused: nothing is granted from them, and nothing is lost.
//!
//! Invariant: Postgres is right; each dispatcher keeps a copy for its claims and reads it again every second.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ffpool_schema::job::Queue;
use jiff::Timestamp;
use serde_json::json;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::audit::Entry;
use super::batch::clean;
use super::{Actor, ControlError, Ledger, Unavailable};

/// How often the copy is read again.
const REFRESH: Duration = Duration::from_secs(1);

/// A queue, since when it is paused, and by whom and why in words.
type Paused = (Queue, Timestamp, String);

/// This dispatcher's copy. Written by whoever read or changed the table last.
#[derive(Default)]
pub(super) struct PausedQueues(Mutex<Vec<Paused>>);

impl PausedQueues {
    fn replace(&self, paused: Vec<Paused>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = paused;
    }

    fn words(&self, queue: Queue) -> Option<String> {
        let paused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        paused.iter().find(|(name, _, _)| *name == queue).map(|(_, _, words)| words.clone())
    }
}

impl Ledger {
    /// Grants nothing more from a queue. What runs goes on.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn pause_queue(&self, queue: Queue, who: &Actor, reason: Option<&str>) -> Result<(), ControlError> {
        self.bounded(async {
            let client = self.inner.writers.get().await?;
            let statement = client.prepare_cached(PAUSE).await?;
            client.execute(&statement, &[&queue.as_str(), &clean(&who.name), &reason.map(clean)]).await?;
            Ok(())
        })
        .await?;
        self.read_paused_queues().await?;
        self.audit(who, Entry::new("pause_queue", queue.as_str()).detail(json!({ "reason": reason }))).await;
        Ok(())
    }

    /// Grants from a queue again.
    ///
    /// # Errors
    /// See [`ControlError`].
    pub async fn resume_queue(&self, queue: Queue, who: &Actor) -> Result<(), ControlError> {
        let before = self.read_paused_queues().await?.into_iter().find(|(paused, _, _)| *paused == queue);
        self.bounded(async {
            let client = self.inner.writers.get().await?;
            Ok(client.execute("DELETE FROM queue_pause WHERE queue = $1", &[&queue.as_str()]).await?)
        })
        .await?;
        self.read_paused_queues().await?;
        let before = before.map(|(_, since, words)| json!({ "paused_since": since, "paused": words }));
        let entry = Entry::new("resume_queue", queue.as_str());
        self.audit(who, before.into_iter().fold(entry, Entry::before)).await;
        Ok(())
    }

    /// The paused queues, since when, and by whom and why in words.
    ///
    /// # Errors
    /// When Postgres cannot be asked.
    pub async fn queues_paused(&self) -> Result<Vec<(Queue, Timestamp, String)>, Unavailable> {
        self.read_paused_queues().await
    }

    /// By whom and why a queue is paused, if it is, as this dispatcher knows it.
    #[must_use]
    pub fn queue_is_paused(&self, queue: Queue) -> Option<String> {
        self.inner.paused_queues.words(queue)
    }

    /// Keeps this dispatcher's copies fresh, of the paused queues, of the rates of tenants and of
    /// their RabbitMQ users, until `stop`.
    pub async fn watch_queues(self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(REFRESH);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return,
            }
            if let Err(error) = self.read_paused_queues().await {
                tracing::debug!(%error, "the paused queues were not read, the last ones stay paused");
            }
            if let Err(error) = self.read_tenant_rates().await {
                tracing::debug!(%error, "the rates of tenants were not read, the last ones count");
            }
            if let Err(error) = self.read_publishers().await {
                tracing::debug!(%error, "who publishes for which tenant was not read, what was read last counts");
            }
        }
    }

    async fn read_paused_queues(&self) -> Result<Vec<Paused>, Unavailable> {
        let paused: Vec<Paused> = self
            .bounded(async {
                let client = self.inner.writers.get().await?;
                let statement = client.prepare_cached(READ).await?;
                let mut paused = Vec::new();
                for row in client.query(&statement, &[]).await? {
                    let (who, reason): (String, Option<String>) = (row.try_get(2)?, row.try_get(3)?);
                    let words = match reason {
                        Some(reason) => format!("paused by {who}: {reason}"),
                        None => format!("paused by {who}"),
                    };
                    if let Ok(queue) = row.try_get::<_, &str>(0)?.parse() {
                        paused.push((queue, row.try_get(1)?, words));
                    }
                }
                Ok(paused)
            })
            .await?;
        self.inner.paused_queues.replace(paused.clone());
        Ok(paused)
    }
}

const PAUSE: &str = "INSERT INTO queue_pause (queue, by, reason) VALUES ($1, $2, $3) \
     ON CONFLICT (queue) DO UPDATE SET by = excluded.by, reason = excluded.reason";

const READ: &str = "SELECT queue, since, by, reason FROM queue_pause ORDER BY queue";
