//! `GET /v1/events`: the pool followed live by many, as server-sent events.
//!
//! One look at the ledger serves everybody who follows ([`Hub`]); how far jobs are comes as signals. A stream tells what
//! has changed since it last told, so that nothing piles up for a slow reader.
//!
//! Invariants:
//! * a stream tells of jobs in its key's realm alone, and ends when the key, or the certificate of its connection, opens
//!   nothing any more;
//! * streams, and the jobs that one follows, have a bound; without anybody who follows nothing is looked at.

mod hub;

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, Uri};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use ffpool_broker::{Signals, Subscription};
use ffpool_schema::api::{FleetView, JobView, LiveEvent};
use ffpool_schema::id::JobId;
use ffpool_schema::message::{LogLine, Progress};
use ffpool_schema::subjects;
use futures_util::stream::{self, SelectAll, Stream, StreamExt as _};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use uuid::Uuid;

pub(crate) use hub::Hub;

use crate::api::App;
use crate::api::certificates::ClientCertificate;
use crate::api::followers::Following;
use crate::api::problem::{Answer, ApiError};
use crate::api::query::{self, Query};
use crate::api::reference::JobPath;
use crate::api::stream::has_changed;
use crate::ledger::keys::Caller;
use crate::ledger::read::JobRef;
use hub::{Guest, QueuesSeen};

/// Jobs that one stream may follow: what fits on a page.
const JOBS_MAX: usize = 100;
/// How often a stream tells what has changed.
const TELL: Duration = Duration::from_millis(250);
/// After so many times the certificate is judged again: a signature costs too much to do it each time.
const TELLS_BETWEEN_CERTIFICATE: u32 = 12;
/// A stream ends after so long, and its client asks again: so a session that has ended is found out.
const LONGEST: Duration = Duration::from_secs(10 * 60);
/// A comment goes out after so much silence, so that no proxy takes the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Log lines that wait to be told; of more the oldest are left out, and stand in the job's log all the same.
const LINES_MAX: usize = 500;

/// `GET /v1/events`
pub(crate) async fn follow(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    certificate: Option<Extension<Arc<ClientCertificate>>>,
    uri: Uri,
) -> Answer<Response> {
    let query = Query::read(&uri, query::EVENTS)?;
    let place = app.followers.follow(&caller)?;
    let asked = job_ids(query.text("jobs").unwrap_or_default())?;
    let log = match query.text("log") {
        Some(text) => Some(job_id("log", text)?),
        None => None,
    };
    let found = app.ledger.jobs_by_id(&asked).await?;
    let found = found.into_iter().filter(|job| caller.realm().holds(job.tenant.as_deref()));
    let jobs: BTreeMap<Uuid, Seen> = found.map(|job| (job.id.0, Seen::new(job))).collect();
    let lines = match log {
        Some(id) => {
            let known = app.ledger.job_summary(caller.realm(), JobRef::Id(id)).await?;
            known.ok_or_else(|| JobPath(JobRef::Id(id)).not_found())?;
            app.signals.subscribe::<LogLine>(&subjects::log(id)).await.ok()
        }
        None => None,
    };
    let guest = app.hub.admit(&caller, jobs.keys().copied().collect())?;
    let signals = signals(&app.signals, jobs.keys().copied()).await;
    let follower = Follower {
        app,
        caller,
        certificate: certificate.map(|Extension(certificate)| certificate),
        guest,
        _place: place,
        jobs,
        fleet: None,
        queues: None,
        signals,
        lines,
        told_lines: VecDeque::new(),
        ready: Vec::new(),
        tell: telling(),
        tells: 0,
        ends: Instant::now() + LONGEST,
    };
    let events = Sse::new(follower.events()).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    // nginx would hold events back.
    let unbuffered = (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(([unbuffered], events).into_response())
}

fn job_ids(text: &str) -> Answer<Vec<Uuid>> {
    let mut ids = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        ids.push(job_id("jobs", part)?.0);
    }
    ids.sort_unstable();
    ids.dedup();
    if ids.len() > JOBS_MAX {
        return Err(ApiError::bad_parameter("jobs", format!("{} ids are given; {JOBS_MAX} are allowed", ids.len())));
    }
    Ok(ids)
}

fn job_id(name: &str, text: &str) -> Answer<JobId> {
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(80).collect();
        ApiError::bad_parameter(
            name,
            format!("`{shown}` is no id of a job; ids of jobs are expected, not their numbers"),
        )
    })
}

type ProgressSignals = SelectAll<futures_util::stream::BoxStream<'static, Progress>>;

/// What is said of how far these jobs are. Without NATS nothing is, and the stream tells of their states alone.
async fn signals(signals: &Signals, jobs: impl Iterator<Item = Uuid>) -> ProgressSignals {
    let mut all = SelectAll::new();
    for job in jobs {
        if let Ok(subscription) = signals.subscribe::<Progress>(&subjects::progress(JobId(job))).await {
            all.push(as_stream(subscription).boxed());
        }
    }
    all
}

fn as_stream(subscription: Subscription<Progress>) -> impl Stream<Item = Progress> + Send {
    stream::unfold(subscription, |mut subscription| async move {
        let progress = subscription.next().await?;
        Some((progress, subscription))
    })
}

fn telling() -> Interval {
    let mut tell = interval_at(Instant::now(), TELL);
    tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tell
}

/// One job as a client knows it.
struct Seen {
    job: Arc<JobView>,
    /// Whether the client was told of it.
    is_told: bool,
    /// How far it is, where that was not told yet.
    progress: Option<Progress>,
}

impl Seen {
    fn new(job: JobView) -> Seen {
        Seen { job: Arc::new(job), is_told: false, progress: None }
    }
}

/// One client that follows the pool.
struct Follower {
    app: App,
    caller: Caller,
    /// What the client showed at the handshake.
    certificate: Option<Arc<ClientCertificate>>,
    guest: Guest,
    _place: Following,
    jobs: BTreeMap<Uuid, Seen>,
    fleet: Option<FleetView>,
    queues: Option<Arc<QueuesSeen>>,
    signals: ProgressSignals,
    lines: Option<Subscription<LogLine>>,
    /// Lines that came and were not told yet.
    told_lines: VecDeque<LogLine>,
    /// Events that are to be sent, the next one last.
    ready: Vec<LiveEvent>,
    tell: Interval,
    tells: u32,
    ends: Instant,
}

impl Follower {
    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut follower| async move {
            let event = follower.next().await?;
            Some((Ok(written(&event)), follower))
        })
    }

    /// The next event; `None` when the key or the certificate is void, when the time is over and when the API stops.
    async fn next(&mut self) -> Option<LiveEvent> {
        loop {
            if let Some(event) = self.ready.pop() {
                return Some(event);
            }
            tokio::select! {
                () = self.app.closing.cancelled() => return None,
                () = tokio::time::sleep_until(self.ends) => return None,
                Some(progress) = self.signals.next() => self.note(progress),
                line = next_line(&mut self.lines) => {
                    if self.told_lines.len() == LINES_MAX {
                        self.told_lines.pop_front();
                    }
                    self.told_lines.push_back(line);
                }
                // Who has just come waits for no tick.
                () = self.guest.looked(), if self.queues.is_none() => self.collect(),
                _ = self.tell.tick() => {
                    self.tells = self.tells.wrapping_add(1);
                    if self.is_shut_out() {
                        return None;
                    }
                    self.collect();
                }
            }
        }
    }

    /// Whether the key that opened the stream, or the certificate of its connection, is void by now.
    fn is_shut_out(&self) -> bool {
        self.guest.is_shut_out()
            || self.tells.is_multiple_of(TELLS_BETWEEN_CERTIFICATE)
                && self.certificate.as_ref().is_some_and(|certificate| certificate.is_over_for(&self.caller))
    }

    fn note(&mut self, progress: Progress) {
        let Some(seen) = self.jobs.get_mut(&progress.job.0) else { return };
        let is_newer = |known: &Progress| (known.attempt, known.seq) < (progress.attempt, progress.seq);
        if seen.progress.as_ref().is_none_or(is_newer) {
            seen.progress = Some(progress);
        }
    }

    /// Puts together what has changed since the last time.
    fn collect(&mut self) {
        let mut events = Vec::new();
        if let Some(fleet) = self.guest.fleet()
            && self.fleet.as_ref() != Some(&fleet)
        {
            self.fleet = Some(fleet.clone());
            events.push(LiveEvent::Fleet(fleet));
        }
        if let Some(queues) = self.guest.queues()
            && self.queues.as_ref() != Some(&queues)
        {
            events.push(LiveEvent::Queues { queues: queues.queues.clone(), newest: queues.newest });
            self.queues = Some(queues);
        }
        for (id, seen) in &mut self.jobs {
            let found = self.guest.job(*id).filter(|job| self.caller.realm().holds(job.tenant.as_deref()));
            if let Some(found) = found
                && has_changed(&seen.job, &found)
            {
                seen.job = found;
                seen.is_told = false;
            }
            if !seen.is_told {
                seen.is_told = true;
                events.push(LiveEvent::Job(Box::new((*seen.job).clone())));
            }
            events.extend(seen.progress.take().map(LiveEvent::Progress));
        }
        events.extend(self.told_lines.drain(..).map(LiveEvent::Log));
        events.reverse();
        self.ready = events;
    }
}

/// The next line of the log; never, where none can come.
async fn next_line(subscription: &mut Option<Subscription<LogLine>>) -> LogLine {
    if let Some(lines) = subscription {
        if let Some(line) = lines.next().await {
            return line;
        }
        *subscription = None;
    }
    std::future::pending().await
}

fn written(event: &LiveEvent) -> Event {
    let data = serde_json::to_string(event).expect("an event is plain data");
    Event::default().event(event.name()).data(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_named_by_ids_and_are_not_too_many() {
        let id = Uuid::from_u128(7);
        assert!(job_ids("").unwrap().is_empty());
        assert_eq!(job_ids(&format!("{id},{id}")).unwrap(), [id]);
        assert!(job_ids("7").unwrap_err().detail().starts_with("parameter `jobs`"));
        let many: Vec<String> = (0..101).map(|number| Uuid::from_u128(number).to_string()).collect();
        assert!(job_ids(&many.join(",")).unwrap_err().detail().contains("100 are allowed"));
    }
}
