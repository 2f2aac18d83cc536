//! What follows from a committed batch: jobs to publish, owners to tell, metrics.
//!
//! Invariant: everything here may be lost: what must happen stands in a row, and a timer finds it there.

use std::time::Duration;

use ffpool_schema::cost::{Hours, Prices};
use ffpool_schema::id::JobId;
use ffpool_schema::message::Usage;
use ffpool_schema::metrics as names;
use metrics::{counter, histogram};
use tokio::sync::{broadcast, mpsc};

use super::families::Relative;
use super::record::{Count, Effects, TellOwner};

/// Jobs that wait for this process to publish them. What does not fit is published by the leader's sweep.
pub(super) const MAX_TO_PUBLISH: usize = 10_000;
/// Ends and beginnings after which children must be looked at. What does not fit is found by the leader's sweep.
pub(super) const MAX_RELATIVES: usize = 10_000;
/// Commands that wait to be sent. What does not fit is repeated.
pub(super) const MAX_TO_TELL: usize = 1_000;

/// Where the effects of a batch go.
#[derive(Clone)]
pub(super) struct Outlets {
    pub(super) publish: mpsc::Sender<JobId>,
    pub(super) families: mpsc::Sender<Relative>,
    pub(super) tell: broadcast::Sender<TellOwner>,
    /// For the metrics only: what is settled stands in rows.
    pub(super) prices: Prices,
}

impl Outlets {
    /// Lets the effects of a committed batch out. Those for traces are told with what was decided, by [`super::tales::tell`].
    pub(super) fn release(&self, effects: Effects) {
        for job in effects.publish {
            if self.publish.try_send(job).is_err() {
                tracing::debug!(%job, "left to the sweep");
            }
        }
        for relative in effects.families {
            if self.families.try_send(relative).is_err() {
                tracing::debug!(?relative, "left to the sweep");
            }
        }
        for tell in effects.tell {
            // Nobody listens while this process starts or stops; the leader repeats it.
            let _ = self.tell.send(tell);
        }
        effects.counts.into_iter().for_each(|count| add(count, &self.prices));
    }

    /// Counts a batch.
    #[expect(clippy::cast_precision_loss, reason = "a batch has a few hundred happenings")]
    pub(super) fn batch(&self, happenings: usize, took: Duration) {
        histogram!(names::LEDGER_BATCH_SIZE).record(happenings as f64);
        histogram!(names::LEDGER_BATCH_SECONDS).record(took.as_secs_f64());
    }
}

fn add(count: Count, prices: &Prices) {
    match count {
        Count::Recorded { queue } => counter!(names::JOBS_RECORDED, "queue" => queue).increment(1),
        Count::Ended { state, queue } => {
            counter!(names::JOBS_ENDED, "state" => state.as_str(), "queue" => queue).increment(1);
        }
        Count::AttemptEnded(end) => counter!(names::ATTEMPTS_ENDED, "outcome" => end.as_str()).increment(1),
        Count::Failed(cause) => counter!(names::FAILURES, "cause" => cause.as_str()).increment(1),
        Count::Retried(cause) => counter!(names::RETRIES, "cause" => cause.as_str()).increment(1),
        Count::Stale(input) => counter!(names::STALE_INPUTS, "input" => input).increment(1),
        Count::Lapsed => counter!(names::LEASES_LAPSED).increment(1),
        Count::Held(held) => counter!(names::JOBS_HELD_BACK, "by" => held.as_str()).increment(1),
        Count::Absorbed => counter!(names::REDELIVERIES_ABSORBED).increment(1),
        Count::Waited { queue, secs } => histogram!(names::QUEUE_WAIT_SECONDS, "queue" => queue).record(secs),
        Count::Ran { queue, secs } => histogram!(names::JOB_RUN_SECONDS, "queue" => queue).record(secs),
        Count::Used { end, usage } => add_usage(end.as_str(), &usage, prices),
    }
}

fn add_usage(outcome: &'static str, usage: &Usage, prices: &Prices) {
    histogram!(names::ATTEMPT_CPU_SECONDS, "outcome" => outcome).record(Duration::from_millis(usage.cpu_ms));
    if let Some(joules) = usage.energy_joules {
        histogram!(names::ATTEMPT_ENERGY_JOULES, "outcome" => outcome).record(joules);
    }
    if let Some(cost) = prices.of(&Hours::of(usage)) {
        let currency = prices.currency.clone();
        histogram!(names::ATTEMPT_COST, "outcome" => outcome, "currency" => currency).record(cost);
    }
}
