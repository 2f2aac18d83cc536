//! Google Compute Engine: preemption and host maintenance, as two long polls on the metadata server.
//!
//! Source: Compute Engine documentation, "Query the metadata server", "Spot VMs" and "maintenance event notices". A
//! preempted machine has 30 s; host maintenance is told 60 s ahead, and only to who asks for it again after each time.

use std::time::Duration;

use jiff::Timestamp;

use super::ask::{AskError, Metadata, ask};
use super::{Asked, Kind, Notice, Provider, Source};

const PREEMPTED: &str = "/computeMetadata/v1/instance/preempted";
const MAINTENANCE: &str = "/computeMetadata/v1/instance/maintenance-event";
/// Said by whoever asks, and by the server, which nothing else on that address does.
const FLAVOR: (&str, &str) = ("metadata-flavor", "Google");
/// An etag that no value has: answered at once.
const NO_ETAG: &str = "NONE";
/// A question without news is answered after so many seconds, so that a dead server is found out.
const POLL_SECS: u64 = 60;
/// Beside that, time for the answer.
const ANSWER: Duration = Duration::from_secs(10);
/// From preemption to the end of the machine.
const PREEMPTION: Duration = Duration::from_secs(30);
/// From the announcement of maintenance to the end of a machine that is not moved.
const MAINTENANCE_NOTICE: Duration = Duration::from_secs(60);

/// One value of the metadata server.
pub(super) struct Gcp {
    metadata: Metadata,
    pause: Duration,
    name: &'static str,
    path: &'static str,
    read: fn(&str, Timestamp) -> Option<Vec<Notice>>,
    etag: String,
}

impl Gcp {
    pub(super) fn preempted(metadata: Metadata, pause: Duration) -> Gcp {
        Gcp { metadata, pause, name: "gcp preemption", path: PREEMPTED, read: preemption, etag: NO_ETAG.to_owned() }
    }

    pub(super) fn maintenance(metadata: Metadata, pause: Duration) -> Gcp {
        Gcp { metadata, pause, name: "gcp maintenance", path: MAINTENANCE, read: maintenance, etag: NO_ETAG.to_owned() }
    }

    /// Whether Google's server answers.
    pub(super) async fn answers(metadata: &Metadata) -> bool {
        let question = metadata.get(PREEMPTED).header(FLAVOR.0, FLAVOR.1);
        ask(question, PREEMPTED).await.is_ok_and(|answer| {
            answer.status.is_success() && answer.header(FLAVOR.0).is_some_and(|flavor| flavor == FLAVOR.1)
        })
    }

    async fn wait_for_news(&mut self) -> Result<Vec<Notice>, AskError> {
        let question = self
            .metadata
            .get(self.path)
            .header(FLAVOR.0, FLAVOR.1)
            .query(&[("wait_for_change", "true"), ("last_etag", &self.etag), ("timeout_sec", &POLL_SECS.to_string())])
            .timeout(Duration::from_secs(POLL_SECS) + ANSWER);
        let answer = ask(question, self.path).await?.good(self.path)?;
        if answer.header(FLAVOR.0) != Some(FLAVOR.1) {
            return Err(AskError::not_understood(self.path, "not from Google: the header Metadata-Flavor is missing"));
        }
        let notices = (self.read)(answer.text.trim(), Timestamp::now())
            .ok_or_else(|| AskError::not_understood(self.path, &answer.text))?;
        // Only of a value that was understood: one that was not is asked for again.
        self.etag = answer.header("etag").unwrap_or(NO_ETAG).to_owned();
        Ok(notices)
    }
}

impl Source for Gcp {
    fn name(&self) -> &'static str {
        self.name
    }

    fn pause(&self) -> Duration {
        self.pause
    }

    fn look(&mut self) -> Asked<'_, Vec<Notice>> {
        Box::pin(self.wait_for_news())
    }
}

fn evict_in(notice: Duration, now: Timestamp, evidence: String) -> Vec<Notice> {
    let deadline = now.saturating_add(notice).unwrap_or(now);
    vec![Notice { provider: Provider::Gcp, kind: Kind::Evict { deadline }, evidence }]
}

fn preemption(value: &str, now: Timestamp) -> Option<Vec<Notice>> {
    match value {
        "TRUE" => Some(evict_in(PREEMPTION, now, "instance/preempted is TRUE".to_owned())),
        "FALSE" => Some(Vec::new()),
        _ => None,
    }
}

fn maintenance(value: &str, now: Timestamp) -> Option<Vec<Notice>> {
    match value {
        "NONE" => Some(Vec::new()),
        // Moved while it runs: it stands still for less than a lease lasts.
        "MIGRATE_ON_HOST_MAINTENANCE" => {
            tracing::info!(value, "the machine is about to be moved; work goes on");
            Some(Vec::new())
        }
        "TERMINATE_ON_HOST_MAINTENANCE" => {
            Some(evict_in(MAINTENANCE_NOTICE, now, format!("instance/maintenance-event is {value}")))
        }
        _ => None,
    }
}
