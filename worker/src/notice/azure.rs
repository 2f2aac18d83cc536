//! Microsoft Azure: Scheduled Events, and the word to go on with them once the worker has drained.
//!
//! Source: Azure documentation, "Scheduled Events for Linux VMs". An eviction is told at least 30 s ahead; events are
//! those of a whole set of machines, so each is checked against the name of this one; to start one early is the
//! machine's own decision.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::ask::{AskError, DATE, Metadata, ask};
use super::{Asked, Kind, Notice, Provider, Source};

const EVENTS: &str = "/metadata/scheduledevents?api-version=2020-07-01";
const NAME: &str = "/metadata/instance/compute/name?api-version=2021-02-01&format=text";
const HEADER: (&str, &str) = ("metadata", "true");
/// The first question of a machine's life switches the service on, which takes its time.
const ANSWER: Duration = Duration::from_secs(15);

/// The answer of [`EVENTS`].
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Events {
    events: Vec<Event>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Event {
    event_id: String,
    event_type: String,
    #[serde(default)]
    resources: Vec<String>,
    /// Empty once the event has begun.
    #[serde(default)]
    not_before: String,
}

impl Event {
    /// Whether it is about the machine called `name`. Without a name every event may be.
    fn concerns(&self, name: Option<&str>) -> bool {
        name.is_none_or(|name| self.resources.iter().any(|resource| resource.eq_ignore_ascii_case(name)))
    }

    /// Whether the machine does not outlive it with all that runs on it.
    fn takes_the_machine(&self) -> Option<bool> {
        match self.event_type.as_str() {
            "Preempt" | "Terminate" | "Reboot" | "Redeploy" => Some(true),
            // Stands still for some seconds.
            "Freeze" => Some(false),
            _ => None,
        }
    }

    /// The notice in an answer that came `now`, by a clock that is `clock_error` before the service's.
    fn notice(&self, now: Timestamp, clock_error: SignedDuration) -> Result<Notice, AskError> {
        let not_understood = || AskError::not_understood(EVENTS, &format!("NotBefore is {:?}", self.not_before));
        let deadline = match self.not_before.as_str() {
            "" => now,
            date => {
                let time = DATE.parse_timestamp(date).map_err(|_| not_understood())?;
                time.saturating_add(clock_error).unwrap_or(now)
            }
        };
        let when = if self.not_before.is_empty() { "has begun" } else { &self.not_before };
        let evidence = format!("scheduled event {} {}: {when}", self.event_type, self.event_id);
        Ok(Notice { provider: Provider::Azure, kind: Kind::Evict { deadline }, evidence })
    }
}

/// The metadata service of one machine.
pub(super) struct Azure {
    metadata: Metadata,
    pause: Duration,
    acknowledge: bool,
    /// The name of this machine, once it is known.
    name: Option<String>,
    /// Events that were announced for this machine and may start when it has drained.
    announced: BTreeSet<String>,
}

impl Azure {
    pub(super) fn new(metadata: Metadata, pause: Duration, acknowledge: bool) -> Azure {
        Azure { metadata, pause, acknowledge, name: None, announced: BTreeSet::new() }
    }

    /// Whether Azure's service answers. Does not touch the events, whose first use switches them on.
    pub(super) async fn answers(metadata: &Metadata) -> bool {
        name_of_this_machine(metadata).await.is_ok()
    }

    async fn look_once(&mut self) -> Result<Vec<Notice>, AskError> {
        let question = self.metadata.get(EVENTS).header(HEADER.0, HEADER.1).timeout(ANSWER);
        let answer = ask(question, EVENTS).await?.good(EVENTS)?;
        let now = Timestamp::now();
        let clock_error = answer.clock_error(now);
        let said: Events =
            serde_json::from_str(&answer.text).map_err(|_| AskError::not_understood(EVENTS, &answer.text))?;
        if !said.events.is_empty() && self.name.is_none() {
            match name_of_this_machine(&self.metadata).await {
                Ok(name) => self.name = Some(name),
                Err(error) => tracing::warn!(%error, "the name of this machine is not known: every event counts"),
            }
        }
        let mut notices = Vec::new();
        for event in said.events.iter().filter(|event| event.concerns(self.name.as_deref())) {
            match event.takes_the_machine() {
                Some(true) => match event.notice(now, clock_error) {
                    Ok(notice) => notices.push(notice),
                    // The others must not go unheard for it.
                    Err(error) => tracing::warn!(event = event.event_id, %error, "an event is passed over"),
                },
                Some(false) => tracing::debug!(event = event.event_id, "the machine will stand still; work goes on"),
                None => tracing::warn!(kind = event.event_type, "an event of a kind that is not known; work goes on"),
            }
        }
        let waits = |event: &&Event| {
            event.takes_the_machine() == Some(true)
                && event.concerns(self.name.as_deref())
                && !event.not_before.is_empty()
        };
        self.announced = said.events.iter().filter(waits).map(|event| event.event_id.clone()).collect();
        Ok(notices)
    }

    async fn start_announced(&mut self) -> Result<(), AskError> {
        if !self.acknowledge || self.announced.is_empty() {
            return Ok(());
        }
        let requests: Vec<_> = self.announced.iter().map(|id| serde_json::json!({ "EventId": id })).collect();
        let body = serde_json::json!({ "StartRequests": requests });
        let question = self.metadata.post(EVENTS).header(HEADER.0, HEADER.1).json(&body);
        ask(question, EVENTS).await?.good(EVENTS)?;
        tracing::info!(events = ?self.announced, "the worker has drained, the provider may go on");
        Ok(())
    }
}

impl Source for Azure {
    fn name(&self) -> &'static str {
        "azure scheduled events"
    }

    fn pause(&self) -> Duration {
        self.pause
    }

    fn look(&mut self) -> Asked<'_, Vec<Notice>> {
        Box::pin(self.look_once())
    }

    fn let_go(&mut self) -> Asked<'_, ()> {
        Box::pin(self.start_announced())
    }
}

async fn name_of_this_machine(metadata: &Metadata) -> Result<String, AskError> {
    let answer = ask(metadata.get(NAME).header(HEADER.0, HEADER.1), NAME).await?.good(NAME)?;
    let name = answer.text.trim();
    let is_name = !name.is_empty() && name.len() <= 256 && name.bytes().all(|byte| byte.is_ascii_graphic());
    if is_name { Ok(name.to_owned()) } else { Err(AskError::not_understood(NAME, &answer.text)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(not_before: &str) -> Event {
        Event {
            event_id: "E1".into(),
            event_type: "Preempt".into(),
            resources: vec!["set_1".into(), "set_2".into()],
            not_before: not_before.into(),
        }
    }

    #[test]
    fn the_date_is_read_and_an_event_that_has_begun_leaves_no_time() {
        let now: Timestamp = "2026-03-01T08:20:30Z".parse().unwrap();
        let deadline_by =
            |text: &str, error: SignedDuration| event(text).notice(now, error).ok().map(|notice| notice.kind);
        let deadline = |text: &str| deadline_by(text, SignedDuration::ZERO);
        let dated = "2022-09-19T18:29:47Z".parse().unwrap();
        assert_eq!(deadline("Mon, 19 Sep 2022 18:29:47 GMT"), Some(Kind::Evict { deadline: dated }));
        let by_ours = "2022-09-19T19:29:47Z".parse().unwrap();
        let an_hour_fast = deadline_by("Mon, 19 Sep 2022 18:29:47 GMT", SignedDuration::from_hours(1));
        assert_eq!(an_hour_fast, Some(Kind::Evict { deadline: by_ours }));
        assert_eq!(deadline(""), Some(Kind::Evict { deadline: now }));
        assert_eq!(deadline("soon"), None);
    }

    #[test]
    fn events_of_other_machines_are_not_ours() {
        assert!(event("").concerns(Some("SET_2")) && event("").concerns(None));
        assert!(!event("").concerns(Some("set_3")));
    }
}
