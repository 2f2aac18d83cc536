//! `GET /v1/jobs/{id}/events`: one job followed live, as server-sent events, until it has ended.
//!
//! Invariant: the state comes from the ledger, never from a signal, so that what a follower sees last is what is
//! recorded; a lost signal costs a percentage, not the end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use ffpool_broker::Subscription;
use ffpool_schema::api::{JobView, StreamEvent};
use ffpool_schema::message::Progress;
use ffpool_schema::subjects;
use futures_util::stream::{self, Stream};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::api::App;
use crate::api::certificates::ClientCertificate;
use crate::api::followers::Following;
use crate::api::problem::Answer;
use crate::api::reference::JobPath;
use crate::ledger::keys::Caller;
use crate::ledger::read::JobRef;

/// How often the ledger is asked for changes.
const LOOK: Duration = Duration::from_millis(500);
/// After so many looks the key is looked at too: one that opens nothing any more ends what it has opened.
const LOOKS_BETWEEN_KEY: u32 = 6;
/// A comment goes out after so much silence, so that no proxy takes the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// `GET /v1/jobs/{id}/events`
pub(crate) async fn follow(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    certificate: Option<Extension<Arc<ClientCertificate>>>,
    job: JobPath,
) -> Answer<Response> {
    let place = app.followers.follow(&caller)?;
    let first = app.ledger.job_summary(caller.realm(), job.0).await?.ok_or_else(|| job.not_found())?;
    // Without NATS the job is followed by its states alone.
    let progress = app.signals.subscribe::<Progress>(&subjects::progress(first.id)).await.ok();
    let follower = Follower {
        app,
        caller,
        certificate: certificate.map(|Extension(certificate)| certificate),
        _place: place,
        job: JobRef::Id(first.id),
        sent: None,
        found: Some(Box::new(first)),
        progress,
        look: looking(),
        looks: 0,
    };
    let events = Sse::new(follower.events()).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    // nginx would hold events back.
    let unbuffered = (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(([unbuffered], events).into_response())
}

fn looking() -> Interval {
    let mut look = interval_at(Instant::now() + LOOK, LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    look
}

/// One client that follows one job.
struct Follower {
    app: App,
    caller: Caller,
    /// What the client showed at the handshake.
    certificate: Option<Arc<ClientCertificate>>,
    _place: Following,
    job: JobRef,
    /// What the client knows of the job.
    sent: Option<Box<JobView>>,
    /// What was read and not sent yet.
    found: Option<Box<JobView>>,
    progress: Option<Subscription<Progress>>,
    look: Interval,
    looks: u32,
}

impl Follower {
    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut follower| async move {
            let event = follower.next().await?;
            Some((Ok(written(&event)), follower))
        })
    }

    /// The next event; `None` after the end state, when the key is void, and when the API stops.
    async fn next(&mut self) -> Option<StreamEvent> {
        loop {
            if let Some(found) = self.found.take()
                && self.sent.as_deref().is_none_or(|sent| has_changed(sent, &found))
            {
                self.sent = Some(found.clone());
                return Some(StreamEvent::Job(found));
            }
            if self.sent.as_ref().is_some_and(|sent| sent.state.is_end()) {
                return None;
            }
            tokio::select! {
                () = self.app.closing.cancelled() => return None,
                progress = next_progress(&mut self.progress) => return Some(StreamEvent::Progress(progress)),
                _ = self.look.tick() => {
                    self.looks += 1;
                    if self.looks.is_multiple_of(LOOKS_BETWEEN_KEY) && self.is_shut_out().await {
                        return None;
                    }
                    match self.app.ledger.job_summary(self.caller.realm(), self.job).await {
                    Ok(found) => self.found = Some(Box::new(found?)),
                    // The ledger is away: the follower stays and hears what has changed when it is back.
                    Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "a followed job was not read"),
                    }
                },
            }
        }
    }
}

impl Follower {
    /// Whether the key that opened the stream, or the certificate of its connection, is void by now; while the ledger is away
    /// nobody knows of a key, and the stream stays.
    async fn is_shut_out(&self) -> bool {
        if self.certificate.as_ref().is_some_and(|certificate| certificate.is_over_for(&self.caller)) {
            return true;
        }
        match self.caller.key {
            Some(key) => self.app.ledger.key_opens(key).await.is_ok_and(|opens| !opens),
            None => false,
        }
    }
}

/// The next progress signal; never, where none can come.
async fn next_progress(subscription: &mut Option<Subscription<Progress>>) -> Progress {
    if let Some(signals) = subscription {
        if let Some(progress) = signals.next().await {
            return progress;
        }
        *subscription = None;
    }
    std::future::pending().await
}

/// Whether a client should hear of it. How far the attempt is comes as an event of its own.
pub(crate) fn has_changed(sent: &JobView, found: &JobView) -> bool {
    let without_progress = |job: &JobView| JobView { progress: None, ..job.clone() };
    without_progress(sent) != without_progress(found)
}

fn written(event: &StreamEvent) -> Event {
    let name = match event {
        StreamEvent::Job(_) => "job",
        StreamEvent::Progress(_) => "progress",
    };
    let data = serde_json::to_string(event).expect("an event is plain data");
    Event::default().event(name).data(data)
}
