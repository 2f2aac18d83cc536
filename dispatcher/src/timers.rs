//! What the leader does without being asked: end leases, repeat commands, rescue jobs whose message is missing.
//!
//! Invariant: everything is decided again under the lock of the job's row, so two leaders at once do no harm.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ffpool_broker::{AmqpLink, QueueDepth, Signals, queue_depth};
use ffpool_schema::metrics as names;
use ffpool_schema::topology::WorkQueue;
use metrics::counter;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::control;
use crate::fleet::Fleet;
use crate::heartbeats::Hearing;
use crate::ledger::{Forgotten, Leadership, Ledger, Retention, Unavailable};

/// How often leases are looked at.
const LAPSES: Duration = Duration::from_millis(200);
/// Added to the length of a lease before its silence is believed.
const MARGIN: Duration = Duration::from_secs(1);
/// How often commands to owners are repeated.
const TELLS: Duration = Duration::from_secs(1);
/// How often deadlines are looked at.
const DEADLINES: Duration = Duration::from_secs(1);
/// How often room is looked for, for jobs that a tenant's quota holds back.
const LET_GO: Duration = Duration::from_millis(250);
/// How often it is summed up what the files of tenants take.
const STORED: Duration = Duration::from_secs(5);
/// How often what attempts cost is added to the sums.
const COSTS: Duration = Duration::from_secs(5);
/// While attempts from before there were sums are booked, each batch is followed by a rest of so many times its length.
const BOOKING_REST: u32 = 2;
/// How often turns are dealt to tenants that wait for the same workers.
const TURNS: Duration = Duration::from_millis(250);
/// How often missing messages are looked for; a queue must be empty at two looks.
const RESCUE: Duration = Duration::from_secs(10);
/// A job that waits longer than this in a queue that the broker calls empty has lost its message.
const MESSAGE_MISSING: Duration = Duration::from_secs(30);
/// How often swallowed messages are looked for while a worker is silent.
const UNSWALLOW: Duration = Duration::from_millis(200);
/// The same, for a message that a silent worker may have swallowed: longer than a claim takes. A needless copy is dropped.
const MESSAGE_SWALLOWED: Duration = Duration::from_millis(250);
/// After a look for swallowed messages so many times its length is rested.
const REST: u32 = 9;
/// How often the months to come are made.
const MONTHS: Duration = Duration::from_secs(3_600);
/// How often old jobs are forgotten. While there are many, each batch is followed by a rest of so many times its length.
const FORGET: Duration = Duration::from_secs(600);
/// See [`FORGET`].
const FORGET_REST: u32 = 4;

/// The timers of one dispatcher; they work while it is the leader.
pub(crate) struct Timers {
    pub(crate) ledger: Ledger,
    pub(crate) signals: Signals,
    pub(crate) amqp: AmqpLink,
    pub(crate) leadership: Leadership,
    pub(crate) hearing: Hearing,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) retention: Retention,
}

impl Timers {
    /// Works until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        tokio::join!(
            self.end_leases_for_ever(&stop),
            self.repeat_tells_for_ever(&stop),
            self.end_overdue_for_ever(&stop),
            self.let_go_for_ever(&stop),
            self.deal_turns_for_ever(&stop),
            self.sum_up_stored_for_ever(&stop),
            self.sum_up_costs_for_ever(&stop),
            self.rescue_for_ever(&stop),
            self.unswallow_for_ever(&stop),
            self.make_months_for_ever(&stop),
            self.forget_for_ever(&stop),
        );
    }

    async fn end_leases_for_ever(&self, stop: &CancellationToken) {
        let mut turns = Turns::every(LAPSES);
        while turns.next(&self.leadership, stop).await {
            turns.done(self.end_leases().await);
        }
    }

    async fn repeat_tells_for_ever(&self, stop: &CancellationToken) {
        let mut turns = Turns::every(TELLS);
        while turns.next(&self.leadership, stop).await {
            turns.done(self.repeat_tells().await);
        }
    }

    async fn end_overdue_for_ever(&self, stop: &CancellationToken) {
        let mut turns = Turns::every(DEADLINES);
        while turns.next(&self.leadership, stop).await {
            turns.done(self.end_overdue().await);
        }
    }

    async fn let_go_for_ever(&self, stop: &CancellationToken) {
        let mut turns = Turns::every(LET_GO);
        while turns.next(&self.leadership, stop).await {
            turns.done(self.ledger.let_go().await.map(drop));
        }
    }

    async fn sum_up_stored_for_ever(&self, stop: &CancellationToken) {
        let mut turns = Turns::every(STORED);
        while turns.next(&self.leadership, stop).await {
            turns.done(self.ledger.sum_up_stored().await);
        }
    }

    async fn sum_up_costs_for_ever(&self, stop: &CancellationToken) {
        let mut turns = Turns::every(COSTS);
        while turns.next(&self.leadership, stop).await {
            turns.done(self.sum_up_costs(stop).await);
        }
    }

    async fn deal_turns_for_ever(&self, stop: &CancellationToken) {
        let mut turns = Turns::every(TURNS);
        while turns.next(&self.leadership, stop).await {
            turns.done(self.ledger.deal_turns().await.map(drop));
        }
    }

    async fn make_months_for_ever(&self, stop: &CancellationToken) {
        let mut turns = Turns::every(MONTHS);
        while turns.next(&self.leadership, stop).await {
            turns.done(self.make_months().await);
        }
    }

    async fn forget_for_ever(&self, stop: &CancellationToken) {
        let mut turns = Turns::every(FORGET);
        while turns.next(&self.leadership, stop).await {
            turns.done(self.forget(stop).await);
        }
    }

    async fn sum_up_costs(&self, stop: &CancellationToken) -> Result<(), Unavailable> {
        while self.ledger.sum_up_costs().await? && self.leadership.is_held() {}
        loop {
            let began = Instant::now();
            let has_more = self.ledger.book_costs().await?;
            let rested = stop.run_until_cancelled(tokio::time::sleep(began.elapsed() * BOOKING_REST)).await;
            if !has_more || rested.is_none() || !self.leadership.is_held() {
                return Ok(());
            }
            self.ledger.sum_up_costs().await?;
        }
    }

    async fn end_leases(&self) -> Result<(), Unavailable> {
        // While we were deaf or could not write, silence says nothing about the workers.
        if !self.hearing.is_unbroken_for(self.ledger.policy().lease + MARGIN) {
            return Ok(());
        }
        self.ledger.lapse_overdue().await?;
        for worker in self.ledger.mark_lost_workers().await? {
            warn!(worker, "a worker fell silent");
            counter!(names::WORKERS_LOST).increment(1);
        }
        Ok(())
    }

    async fn repeat_tells(&self) -> Result<(), Unavailable> {
        for tell in self.ledger.unheeded().await? {
            control::send(&self.signals, &tell).await;
        }
        Ok(())
    }

    async fn end_overdue(&self) -> Result<(), Unavailable> {
        let ended = self.ledger.end_overdue().await?;
        if ended > 0 {
            info!(jobs = ended, "deadlines have passed");
            counter!(names::DEADLINES_PASSED).increment(ended as u64);
        }
        Ok(())
    }

    async fn make_months(&self) -> Result<(), Unavailable> {
        let made = self.ledger.make_months().await?;
        if made > 0 {
            info!(months = made, "made partitions for events");
        }
        self.ledger.forget_purged().await?;
        Ok(())
    }

    async fn forget(&self, stop: &CancellationToken) -> Result<(), Unavailable> {
        let ended = self.forget_ended(stop).await;
        // Whatever became of the jobs: what is left of others does not pile up behind one that cannot go.
        let remains = self.ledger.forget_remains(self.retention).await;
        ended.and(remains)
    }

    /// Forgets jobs that ended longer ago than they are kept: in batches with rests between them, so that jobs in flight go first.
    async fn forget_ended(&self, stop: &CancellationToken) -> Result<(), Unavailable> {
        let mut forgotten = 0;
        let outcome = loop {
            let began = Instant::now();
            let Forgotten { jobs, has_more } = match self.ledger.forget_ended(self.retention).await {
                Ok(round) => round,
                Err(error) => break Err(error),
            };
            forgotten += jobs;
            counter!(names::JOBS_FORGOTTEN).increment(jobs.unsigned_abs());
            let rested = stop.run_until_cancelled(tokio::time::sleep(began.elapsed() * FORGET_REST)).await;
            if !has_more || rested.is_none() || !self.leadership.is_held() {
                break Ok(());
            }
        };
        if forgotten > 0 {
            info!(jobs = forgotten, "forgot jobs that ended longer ago than they are kept");
        }
        outcome
    }

    /// Publishes jobs again that wait in a queue which the broker calls empty at two looks in a row.
    async fn rescue_for_ever(&self, stop: &CancellationToken) {
        let mut empty_before = BTreeSet::new();
        let mut tick = ticker(RESCUE);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return,
            }
            if !self.leadership.is_held() {
                empty_before.clear();
                continue;
            }
            match self.empty_queues_with_old_jobs().await {
                Ok(empty) => {
                    let both: Vec<WorkQueue> = empty.intersection(&empty_before).cloned().collect();
                    self.rescue(&both, MESSAGE_MISSING).await;
                    empty_before = empty;
                }
                Err(error) => {
                    debug!(%error, "missing messages were not looked for");
                    empty_before.clear();
                }
            }
        }
    }

    /// An idle worker's consumers are still served while the worker stands still, until the broker misses its heartbeats
    /// (20 s and more). What they are given is published again, round after round, until it reaches a worker that lives.
    async fn unswallow_for_ever(&self, stop: &CancellationToken) {
        let mut turns = Turns::every(UNSWALLOW);
        while turns.next(&self.leadership, stop).await {
            let works: Vec<WorkQueue> = self.fleet.silent_pools().iter().flat_map(WorkQueue::of_pool).collect();
            // While we are deaf, everybody seems to be silent.
            if works.is_empty() || !self.hearing.is_unbroken_for(MARGIN) {
                continue;
            }
            let began = Instant::now();
            match self.empty(works).await {
                Ok(empty) => self.rescue(&empty, MESSAGE_SWALLOWED).await,
                Err(error) => debug!(%error, "swallowed messages were not looked for"),
            }
            // The ledger looks through all that waits: however much that is, it takes a small part of its time.
            stop.run_until_cancelled(tokio::time::sleep(began.elapsed() * REST)).await;
        }
    }

    async fn empty_queues_with_old_jobs(&self) -> anyhow::Result<BTreeSet<WorkQueue>> {
        let queues = self.ledger.queues_with_old_jobs(MESSAGE_MISSING).await?;
        Ok(self.empty(queues).await?.into_iter().collect())
    }

    /// Those of the queues in which nothing is ready for the workers that are there.
    async fn empty(&self, works: Vec<WorkQueue>) -> anyhow::Result<Vec<WorkQueue>> {
        if works.is_empty() {
            return Ok(works);
        }
        let queue_names: Vec<String> = works.iter().flat_map(|work| [work.name(), work.returned_name()]).collect();
        let depths = queue_depth(&self.amqp, &queue_names).await?;
        let is_empty = |work: &WorkQueue, both: &[Option<QueueDepth>]| match both {
            // A twin that is not there, or that nobody serves, holds nothing for anybody.
            [Some(queue), twin] => {
                let twin = twin.as_ref().filter(|_| self.fleet.all_serve_twins(&work.pool));
                queue.ready == 0 && twin.is_none_or(|twin| twin.ready == 0)
            }
            _ => false,
        };
        Ok(works
            .into_iter()
            .zip(depths.chunks(2))
            .filter(|(work, both)| is_empty(work, both))
            .map(|(work, _)| work)
            .collect())
    }

    async fn rescue(&self, works: &[WorkQueue], age: Duration) {
        if works.is_empty() {
            return;
        }
        match self.ledger.rescue(works, age).await {
            Ok(0) => {}
            Ok(jobs) => {
                warn!(jobs, "jobs wait but their messages are missing, publishing them again");
                counter!(names::JOBS_RESCUED).increment(jobs);
            }
            Err(error) => debug!(%error, "jobs were not rescued"),
        }
    }
}

/// The turns of one timer while this dispatcher leads.
struct Turns {
    tick: Interval,
    /// Whether the present row of failures has been said.
    said: bool,
}

impl Turns {
    fn every(period: Duration) -> Turns {
        Turns { tick: ticker(period), said: false }
    }

    /// Waits for the next turn. False at `stop`.
    async fn next(&mut self, leadership: &Leadership, stop: &CancellationToken) -> bool {
        loop {
            tokio::select! {
                _ = self.tick.tick() => {}
                () = stop.cancelled() => return false,
            }
            if leadership.is_held() {
                return true;
            }
        }
    }

    fn done(&mut self, outcome: Result<(), Unavailable>) {
        match outcome {
            Ok(()) => self.said = false,
            Err(error) if !self.said => {
                warn!(%error, "a timer could not do its work, it goes on trying");
                self.said = true;
            }
            Err(_) => {}
        }
    }
}

fn ticker(period: Duration) -> Interval {
    let mut tick = tokio::time::interval_at(Instant::now() + period.min(Duration::from_secs(1)), period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}
