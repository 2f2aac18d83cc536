//! A job that the ledger may not have yet, from a message or from the API, ready to become a row. Pure.
//!
//! Invariant: whatever arrives becomes a row: what cannot be read is a rejected job that says why.

use std::collections::BTreeMap;

use ffpool_schema::chunk::Piece;
use ffpool_schema::id::JobId;
use ffpool_schema::job::JobSpec;
use ffpool_schema::lifecycle::{Custody, State};
use ffpool_schema::parse::{self, Fault, Parsed, Received, claimed_callback};
use ffpool_schema::topology::WorkQueue;
use jiff::Timestamp;

use super::Ledger;
use super::batch::json;
use super::record::PUBLISH_CLAIM_MS;

/// So much of a rejected body is kept, in bytes.
const REJECTED_BODY_BYTES: usize = 4096;

/// How a job came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The copy that the exchange sends to the ledger.
    Tap,
    /// A claim that overtook the tap.
    Claim,
    /// The HTTP API.
    Api,
    /// A message that no queue was bound for.
    Unroutable,
    /// A message that the broker gave up on.
    DeadLetter,
    /// The ledger itself, for one chunk of a job that was split.
    Split,
}

impl Origin {
    /// The name as it stands in events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Origin::Tap => "tap",
            Origin::Claim => "claim",
            Origin::Api => "api",
            Origin::Unroutable => "unroutable",
            Origin::DeadLetter => "dead_letter",
            Origin::Split => "split",
        }
    }
}

/// When a new job is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// At an instant of the client's.
    At(Timestamp),
    /// After so many milliseconds.
    In(i64),
}

/// A job on its way into the ledger.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// How it came.
    pub origin: Origin,
    /// Where it waits.
    pub work: WorkQueue,
    /// The job, or what is wrong with it.
    pub spec: Result<Box<JobSpec>, Vec<Fault>>,
    /// The scenario by the name that the client gave; the job has the built-in one that it stands for.
    pub scenario: String,
    /// Where its end is told.
    pub callback_url: Option<String>,
    /// The body as it came.
    pub body: Vec<u8>,
    /// Its content type.
    pub content_type: String,
    /// W3C trace context of its publisher.
    pub traceparent: Option<String>,
    /// What stands for it, when it came without an id.
    pub fingerprint: Option<String>,
    /// Whether it says that it makes a chunk, which the ledger alone may say.
    pub claims_to_be_part: bool,
    /// The tenant of the RabbitMQ user that published it: its own, also if the job cannot be taken.
    pub published_for: Option<String>,
}

impl NewJob {
    /// Reads a message into a job.
    #[must_use]
    pub fn read(
        ledger: &Ledger,
        origin: Origin,
        received: &Received<'_>,
        work: WorkQueue,
        traceparent: Option<String>,
    ) -> NewJob {
        let (spec, scenario, callback_url) = match ledger.read(received) {
            Ok(Parsed { spec, asked }) => {
                let callback_url = spec.callback_url.clone();
                (Ok(Box::new(spec)), asked.scenario, callback_url)
            }
            // Whoever published it over AMQP has no other answer.
            Err(faults) => {
                let callback_url = claimed_callback(received).filter(|_| ledger.takes_callbacks());
                (Err(faults), String::new(), callback_url)
            }
        };
        NewJob {
            origin,
            work,
            spec,
            scenario,
            callback_url,
            content_type: content_type(received),
            body: received.body.to_vec(),
            traceparent,
            fingerprint: None,
            claims_to_be_part: parse::piece(received).is_some(),
            published_for: None,
        }
    }

    /// The same with the tenant of who published it, or with what speaks against the one that it names. `user` is the publisher as
    /// the broker says.
    #[must_use]
    pub fn published_by(mut self, ledger: &Ledger, user: Option<&str>) -> NewJob {
        self.published_for = ledger.tenant_of_user(user);
        if let Ok(spec) = &mut self.spec
            && let Err(fault) = ledger.attribute(user, spec)
        {
            self.spec = Err(vec![fault]);
        }
        self
    }

    /// A job that the API has read already.
    #[must_use]
    pub(super) fn of_api(parsed: Parsed, received: &Received<'_>, traceparent: Option<String>) -> NewJob {
        NewJob {
            origin: Origin::Api,
            work: parsed.spec.work_queue(),
            callback_url: parsed.spec.callback_url.clone(),
            spec: Ok(Box::new(parsed.spec)),
            scenario: parsed.asked.scenario,
            body: received.body.to_vec(),
            content_type: content_type(received),
            traceparent,
            fingerprint: None,
            claims_to_be_part: false,
            published_for: None,
        }
    }

    /// The job that makes a chunk of `whole`: in its queue, with its limits, for its tenant. Its times and those it waits for
    /// are the whole's alone.
    #[must_use]
    pub(super) fn of_piece(id: JobId, whole: &JobSpec, piece: Piece, traceparent: Option<String>) -> NewJob {
        let spec = JobSpec {
            id: Some(id),
            piece: Some(Box::new(piece)),
            not_before: None,
            deadline: None,
            depends_on: Vec::new(),
            labels: BTreeMap::new(),
            callback_url: None,
            ..whole.clone()
        };
        NewJob {
            origin: Origin::Split,
            scenario: spec.scenario.clone(),
            callback_url: None,
            work: spec.work_queue(),
            body: json(&spec).into_bytes(),
            content_type: "application/json".to_owned(),
            traceparent,
            fingerprint: None,
            claims_to_be_part: false,
            published_for: None,
            spec: Ok(Box::new(spec)),
        }
    }

    /// The job whose chunk it makes.
    pub(super) fn part_of(&self) -> Option<JobId> {
        let spec = self.spec.as_ref().ok().filter(|_| self.origin == Origin::Split);
        spec.and_then(|spec| spec.piece.as_ref()).map(|piece| piece.of)
    }

    /// Whose quota it counts against: its tenant's, unless the ledger made it of another job.
    pub(super) fn tenant(&self) -> Option<&str> {
        let spec = self.spec.as_ref().ok().filter(|_| self.origin != Origin::Split)?;
        spec.tenant.as_deref()
    }

    /// Whose it is.
    pub(super) fn owner(&self) -> Option<&str> {
        match &self.spec {
            Ok(spec) => spec.tenant.as_deref(),
            Err(_) => self.published_for.as_deref(),
        }
    }

    /// Whether the state in which it is recorded depends on the time.
    pub(super) fn is_timed(&self) -> bool {
        self.spec.as_ref().is_ok_and(|spec| spec.not_before.is_some())
    }

    /// The state in which it is recorded, and when the ledger publishes it.
    pub(super) fn begin(&self, now: Timestamp) -> (State, Option<Due>) {
        let Ok(spec) = &self.spec else { return (State::Rejected, None) };
        if !spec.depends_on.is_empty() {
            return (State::Blocked, None);
        }
        match (spec.not_before.filter(|at| *at > now), self.origin) {
            (Some(at), _) => (State::Delayed, Some(Due::At(at))),
            (None, Origin::Api | Origin::Split) => (State::Queued, Some(Due::In(PUBLISH_CLAIM_MS))),
            (None, Origin::Tap | Origin::Claim | Origin::DeadLetter | Origin::Unroutable) => (State::Queued, None),
        }
    }

    /// Who answers for it: the broker, while its message waits there.
    pub(super) fn custody(&self, state: State) -> Option<Custody> {
        match (state.is_end(), self.origin, state) {
            (true, _, _) => None,
            (false, Origin::Api | Origin::Split, _) | (false, _, State::Delayed | State::Blocked) => {
                Some(Custody::Ledger)
            }
            (false, Origin::Tap | Origin::Claim | Origin::Unroutable | Origin::DeadLetter, _) => Some(Custody::Broker),
        }
    }

    /// Whether the tap has seen it, or never will.
    pub(super) fn tapped(&self) -> bool {
        match self.origin {
            Origin::Tap | Origin::Api | Origin::Unroutable | Origin::Split => true,
            Origin::Claim | Origin::DeadLetter => false,
        }
    }

    /// The part of the body that is kept.
    pub(super) fn kept_body(&self) -> &[u8] {
        match &self.spec {
            Ok(_) => &self.body,
            Err(_) => &self.body[..self.body.len().min(REJECTED_BODY_BYTES)],
        }
    }
}

/// The content type to publish the body with again: the client's own, or what the body looks like.
fn content_type(received: &Received<'_>) -> String {
    match received.content_type {
        Some(given) if !given.is_empty() => given.to_owned(),
        Some(_) | None => {
            let is_json = received.body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
            if is_json { "application/json" } else { "application/msgpack" }.to_owned()
        }
    }
}
