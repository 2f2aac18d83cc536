//! Reports the ends of attempts to the ledger, durably.
//!
//! Invariant: a report returns only when the broker has confirmed it; until then it is repeated under the same id.

use std::time::Duration;

use ffpool_broker::{Outgoing, Publisher};
use ffpool_runtime::settings::chain;
use ffpool_runtime::traces::{self, Context};
use ffpool_schema::message::Event;
use ffpool_schema::topology::{EVENTS_EXCHANGE, TRACEPARENT_HEADER};
use tracing::warn;

use crate::ledger::jittered;
use crate::spans;

/// First pause after a report that was not confirmed; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The way to the ledger for what must not be lost.
pub struct Events {
    publisher: Publisher,
}

impl Events {
    /// Reports through `publisher`.
    #[must_use]
    pub fn new(publisher: Publisher) -> Events {
        Events { publisher }
    }

    /// Publishes an event of the `run` until it is stored.
    pub async fn report(&self, event: &Event, run: Context) {
        let mut message = outgoing(event);
        // Ends when the broker has confirmed.
        let span = spans::publish_event(run, message.body.len());
        if traces::are_on() {
            message.headers.insert(TRACEPARENT_HEADER.to_owned(), span.context().to_string());
        }
        let mut pause = PAUSE_MIN;
        while let Err(error) = self.publisher.publish(message.clone()).await {
            let (job, attempt, error) = (event.job, event.attempt, chain(&error));
            warn!(%job, attempt, %error, "the end of the attempt is not on record yet, trying again");
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Closes the connection.
    pub async fn close(&self) {
        self.publisher.close().await;
    }
}

fn outgoing(event: &Event) -> Outgoing {
    Outgoing {
        exchange: EVENTS_EXCHANGE.into(),
        routing_key: event.routing_key(),
        body: serde_json::to_vec(event).expect("an event is plain data with text keys"),
        content_type: "application/json".into(),
        message_id: Some(event.id.to_string()),
        ..Outgoing::default()
    }
}
