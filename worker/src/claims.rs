//! Decides with the ledger what becomes of a delivery, and without it only where that can do no harm.
//!
//! Invariant: what begins without the ledger's answer is a first delivery of a job whose id, attempt and content are
//! known, that nothing holds back, and that fits this worker; it publishes and reports nothing before the answer.

use std::time::Duration;

use ffpool_broker::Delivery;
use ffpool_schema::job::Checkpoint;
use ffpool_schema::message::{
    Ability, ClaimReply, ClaimRequest, DeliveredJob, DropReason, Grant, HoldScope, MAX_BODY_BYTES, Sender, TakeRequest,
    fingerprint,
};
use ffpool_schema::parse::{Received, parse};
use ffpool_schema::scenario;
use ffpool_schema::topology::{ATTEMPT_HEADER, TRACEPARENT_HEADER};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::ledger::Ledger;
use crate::offers::Offer;

/// A first delivery waits so long for a dispatcher before it starts without one.
pub const UNANSWERED: Duration = Duration::from_secs(2);

/// What becomes of a delivery.
#[derive(Debug)]
pub enum Claim {
    /// Run it under this lease.
    Granted(Box<Grant>),
    /// No dispatcher answers: run it, and repeat this request until one does.
    Provisional(Box<Grant>, Box<ClaimRequest>),
    /// Acknowledge and forget it.
    Drop(DropReason),
    /// Hand it back after a pause.
    Hold {
        /// How long.
        pause: Duration,
        /// What is not taken meanwhile.
        scope: HoldScope,
        /// Why, in words.
        reason: String,
    },
}

impl From<ClaimReply> for Claim {
    fn from(reply: ClaimReply) -> Claim {
        match reply {
            ClaimReply::Run(grant) => Claim::Granted(grant),
            ClaimReply::Drop { job: _, reason } => Claim::Drop(reason),
            ClaimReply::Hold { retry_after_ms, scope, reason } => {
                Claim::Hold { pause: Duration::from_millis(retry_after_ms), scope, reason }
            }
        }
    }
}

/// Claims deliveries for one worker.
pub struct Claims {
    ledger: Ledger,
    me: Sender,
    ability: watch::Receiver<Ability>,
}

impl Claims {
    /// Claims for `me`, which can run what `ability` says when it is asked.
    #[must_use]
    pub fn new(ledger: Ledger, me: Sender, ability: watch::Receiver<Ability>) -> Claims {
        Claims { ledger, me, ability }
    }

    /// Asks until there is an answer, or starts without one where that is allowed. `idle`: nothing else runs here.
    pub async fn claim(&self, delivery: &Delivery, idle: bool) -> Claim {
        let request = self.request(delivery, idle);
        tokio::select! {
            reply = self.ledger.claim(&request) => reply.into(),
            provisional = self.unanswered(&request, delivery) => provisional,
        }
    }

    /// Repeats the claim of an attempt that was started without an answer.
    pub async fn confirm(&self, request: &ClaimRequest) -> Claim {
        self.ledger.claim(request).await.into()
    }

    /// Asks for a job that was offered, until there is an answer.
    pub async fn take(&self, offer: &Offer, idle: bool) -> Claim {
        let (job, queue) = (offer.job, offer.spec.queue);
        let request = TakeRequest { from: self.me.clone(), job, queue, ability: self.ability.borrow().clone(), idle };
        self.ledger.take(&request).await.into()
    }

    /// Waits, then starts without an answer; never resolves where that is not allowed.
    async fn unanswered(&self, request: &ClaimRequest, delivery: &Delivery) -> Claim {
        tokio::time::sleep(UNANSWERED).await;
        let number = delivery.headers.get(ATTEMPT_HEADER).map(String::as_str);
        let ability = self.ability.borrow().clone();
        match provisional(&request.delivery, number, &ability, Timestamp::now()) {
            Some(grant) => {
                let request = ClaimRequest { running_unanswered: Some(grant.attempt), idle: false, ..request.clone() };
                Claim::Provisional(Box::new(grant), Box::new(request))
            }
            None => std::future::pending().await,
        }
    }

    fn request(&self, delivery: &Delivery, idle: bool) -> ClaimRequest {
        let body_len = delivery.body.len();
        ClaimRequest {
            from: self.me.clone(),
            delivery: DeliveredJob {
                work: delivery.work.clone(),
                message_id: delivery.message_id.clone(),
                content_type: delivery.content_type.clone(),
                body: if body_len > MAX_BODY_BYTES { Vec::new() } else { delivery.body.clone() },
                body_len,
                fingerprint: fingerprint(&delivery.work, &delivery.body),
                redelivered: delivery.redelivered,
                delivery_count: delivery.delivery_count,
                traceparent: delivery.headers.get(TRACEPARENT_HEADER).cloned(),
                // Said in any case: a claim without it is one of an older worker.
                user_id: Some(delivery.user_id.clone().unwrap_or_default()),
            },
            // Said each time: the dispatcher that answers need not be the one that heard the heartbeat.
            ability: Some(self.ability.borrow().clone()),
            idle,
            running_unanswered: None,
        }
    }
}

/// The grant under which a delivery may start without the ledger, `number` being the message's attempt header.
fn provisional(delivery: &DeliveredJob, number: Option<&str>, ability: &Ability, now: Timestamp) -> Option<Grant> {
    if delivery.redelivered || delivery.body_len > MAX_BODY_BYTES {
        return None;
    }
    let attempt = number.map_or(Some(1), |number| number.parse().ok())?;
    let received = Received {
        body: &delivery.body,
        content_type: delivery.content_type.as_deref(),
        message_id: delivery.message_id.as_deref(),
        work: Some(&delivery.work),
        // What names a scenario of the operator's is for the ledger to read.
        catalog: None,
    };
    let spec = parse(&received).ok()?;
    let encode = scenario::resolve(&spec).ok()?;
    scenario::fits(&spec, encode.as_ref(), ability).ok()?;
    // Only the ledger can split a job that insists on it.
    let held_back = !spec.depends_on.is_empty()
        || spec.checkpoint == Checkpoint::Require
        || spec.not_before.is_some_and(|time| time > now)
        || spec.deadline.is_some_and(|time| time <= now);
    if held_back {
        return None;
    }
    // No lease yet, so it lasts for nothing.
    Some(Grant {
        job: spec.id?,
        attempt,
        lease_ms: 0,
        spec,
        encode,
        alone: false,
        traceparent: delivery.traceparent.clone(),
        // Only a ledger that answers can split a job.
        splits: None,
        sound_apart: false,
        minds: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use ffpool_schema::job::{Pool, Priority, Queue};
    use ffpool_schema::topology::WorkQueue;

    use super::*;

    const ID: &str = "01920f3a-7c1e-7d2a-8a6e-3f0c5b1d9e42";

    fn ability() -> Ability {
        Ability {
            cpu_percent: 200,
            memory_mb: 4096,
            disk_mb: 50_000,
            encoders: Vec::new(),
            noop: true,
            cgroups: true,
            stores: Vec::new(),
            features: Vec::new(),
            devices: Vec::new(),
            sandbox: Vec::new(),
            gstreamer: None,
            lost: Vec::new(),
        }
    }

    fn delivered(body: &str) -> DeliveredJob {
        let work = WorkQueue { queue: Queue::Default, priority: Priority::Medium, pool: Pool::cpu() };
        DeliveredJob {
            fingerprint: fingerprint(&work, body.as_bytes()),
            work,
            message_id: Some(ID.into()),
            content_type: None,
            body: body.as_bytes().to_vec(),
            body_len: body.len(),
            redelivered: false,
            delivery_count: 0,
            traceparent: None,
            user_id: None,
        }
    }

    fn begins(delivery: &DeliveredJob, number: Option<&str>) -> Option<u32> {
        provisional(delivery, number, &ability(), Timestamp::UNIX_EPOCH).map(|grant| grant.attempt)
    }

    const NOOP: &str = r#"{"scenario": "720p30-h264", "engine": "noop"}"#;

    #[test]
    fn a_first_delivery_with_an_id_begins_as_its_header_says() {
        assert_eq!(begins(&delivered(NOOP), None), Some(1));
        assert_eq!(begins(&delivered(NOOP), Some("4")), Some(4));
        assert_eq!(begins(&delivered(NOOP), Some("four")), None);
    }

    #[test]
    fn a_redelivery_and_a_job_without_an_id_wait_for_the_ledger() {
        assert_eq!(begins(&DeliveredJob { redelivered: true, ..delivered(NOOP) }, None), None);
        assert_eq!(begins(&DeliveredJob { message_id: None, ..delivered(NOOP) }, None), None);
    }

    #[test]
    fn what_the_ledger_may_hold_back_waits_for_it() {
        let later = r#"{"scenario": "720p30-h264", "engine": "noop", "not_before": "2026-12-01T00:00:00Z"}"#;
        assert_eq!(begins(&delivered(later), None), None);
        let behind =
            format!(r#"{{"scenario": "720p30-h264", "engine": "noop", "depends_on": ["{}"]}}"#, ID.replace('0', "1"));
        assert_eq!(begins(&delivered(&behind), None), None);
    }

    #[test]
    fn what_is_invalid_or_does_not_fit_waits_for_the_ledger() {
        assert_eq!(begins(&delivered("{"), None), None);
        assert_eq!(begins(&delivered(&NOOP.replace("720p30-h264", "house")), None), None, "a scenario of the ledger's");
        let real = r#"{"scenario": "720p30-h264"}"#;
        assert_eq!(begins(&delivered(real), None), None, "there is no encoder here");
    }
}
