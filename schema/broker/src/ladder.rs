//! The order of choice between work queues, given what is known of their depths. Pure: time comes in as an argument.
//!
//! Invariant: of the queues known to hold work, the one with the best score is taken first; a queue whose depth was not
//! looked at in the last scan counts as unknown, never as empty.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ffpool_schema::job::Queue;
use ffpool_schema::topology::WorkQueue;

/// How long the counts of a scan may steer further picks. Within it a better job may be passed over by a lower one.
pub(crate) const FRESH: Duration = Duration::from_millis(10);
/// How long a queue that does not exist is left out of scans: looking at it costs a channel.
const MISSING_FOR: Duration = Duration::from_secs(2);
/// How long a queue that could not be consumed is only looked at: trying may cost the whole connection.
const UNARMED_FOR: Duration = Duration::from_secs(600);
/// What one ageing interval adds to the score of a queue that is passed over: one unit of queue weight.
const AGEING_STEP: u32 = 10;

/// One work queue and what is known of it.
pub(crate) struct Rung {
    pub(crate) work: WorkQueue,
    pub(crate) name: String,
    /// Messages ready, less those being fetched; `None` if the last scan did not reach it.
    ready: Option<u32>,
    /// Since when it has held work of which none was taken by us.
    passed_over_since: Option<Instant>,
    missing_since: Option<Instant>,
    /// When it last could not be consumed, although it exists.
    broken_since: Option<Instant>,
}

/// All work queues of one intake.
pub(crate) struct Ladder {
    rungs: Vec<Rung>,
    scanned_at: Option<Instant>,
    ageing: Option<Duration>,
    /// Queues of which nothing is taken, and until when.
    holds: BTreeMap<Queue, Instant>,
}

impl Ladder {
    pub(crate) fn new(queues: Vec<WorkQueue>) -> Ladder {
        let rungs = queues
            .into_iter()
            .map(|work| Rung {
                name: work.name(),
                work,
                ready: None,
                passed_over_since: None,
                missing_since: None,
                broken_since: None,
            })
            .collect();
        Ladder { rungs, scanned_at: None, ageing: None, holds: BTreeMap::new() }
    }

    pub(crate) fn set_ageing(&mut self, ageing: Option<Duration>) {
        self.ageing = ageing;
    }

    /// Takes in which queues are held. Answers whether any hold began or ended with that.
    pub(crate) fn set_holds(&mut self, mut holds: BTreeMap<Queue, Instant>, now: Instant) -> bool {
        holds.retain(|_, until| *until > now);
        let changed = !holds.keys().eq(self.holds.keys());
        self.holds = holds;
        changed
    }

    pub(crate) fn is_held(&self, queue: Queue) -> bool {
        self.holds.contains_key(&queue)
    }

    /// When the next hold ends.
    pub(crate) fn next_hold_end(&self) -> Option<Instant> {
        self.holds.values().min().copied()
    }

    pub(crate) fn rung(&self, at: usize) -> &Rung {
        &self.rungs[at]
    }

    /// The rungs to look at, in groups of one queue class, best group first. With ageing all are one group, because
    /// any of them may have become the best.
    pub(crate) fn groups(&self, now: Instant) -> Vec<Vec<usize>> {
        let present = self.present(now);
        if self.ageing.is_some() {
            return vec![present];
        }
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for at in present {
            match groups.last_mut() {
                Some(group) if self.rungs[group[0]].work.queue == self.rungs[at].work.queue => group.push(at),
                Some(_) | None => groups.push(vec![at]),
            }
        }
        groups
    }

    /// The rungs that are neither held nor known to be missing, best first.
    pub(crate) fn present(&self, now: Instant) -> Vec<usize> {
        let mut present: Vec<usize> = (0..self.rungs.len())
            .filter(|&at| !self.is_held(self.rungs[at].work.queue))
            .filter(|&at| self.rungs[at].missing_since.is_none_or(|since| now.duration_since(since) >= MISSING_FOR))
            .collect();
        self.sort(&mut present, now);
        present
    }

    /// Best first; equal scores keep the order in which the queues were given.
    pub(crate) fn sort(&self, rungs: &mut [usize], now: Instant) {
        rungs.sort_by_key(|&at| std::cmp::Reverse(self.score(at, now)));
    }

    fn score(&self, at: usize, now: Instant) -> u32 {
        let rung = &self.rungs[at];
        let aged = match (self.ageing, rung.passed_over_since) {
            (Some(ageing), Some(since)) if !ageing.is_zero() => {
                let steps = now.duration_since(since).as_nanos() / ageing.as_nanos();
                u32::try_from(steps).unwrap_or(u32::MAX).saturating_mul(AGEING_STEP)
            }
            (Some(_) | None, Some(_) | None) => 0,
        };
        rung.work.score().saturating_add(aged)
    }

    /// Forgets all depths at the start of a scan.
    pub(crate) fn begin_scan(&mut self, now: Instant) {
        self.scanned_at = Some(now);
        for rung in &mut self.rungs {
            rung.ready = None;
        }
    }

    /// Takes in the depth of one queue.
    pub(crate) fn observe(&mut self, at: usize, ready: u32, now: Instant) {
        let rung = &mut self.rungs[at];
        rung.missing_since = None;
        rung.ready = Some(ready);
        rung.passed_over_since = if ready == 0 { None } else { rung.passed_over_since.or(Some(now)) };
    }

    /// Takes in that a queue does not exist. Answers whether that is news.
    pub(crate) fn observe_missing(&mut self, at: usize, now: Instant) -> bool {
        let rung = &mut self.rungs[at];
        rung.ready = Some(0);
        rung.passed_over_since = None;
        rung.missing_since.replace(now).is_none()
    }

    /// The present rungs that can be consumed, as far as is known.
    pub(crate) fn armable(&self, now: Instant) -> Vec<usize> {
        let mut rungs = self.present(now);
        rungs.retain(|&at| self.rungs[at].broken_since.is_none_or(|since| now.duration_since(since) >= UNARMED_FOR));
        rungs
    }

    /// Takes in that a queue could not be consumed although it exists.
    pub(crate) fn observe_broken(&mut self, at: usize, now: Instant) {
        self.rungs[at].broken_since = Some(now);
    }

    /// Takes in what a fetch left behind in its queue.
    pub(crate) fn lower(&mut self, at: usize, remaining: u32) {
        let rung = &mut self.rungs[at];
        rung.ready = rung.ready.map(|ready| ready.min(remaining));
        if remaining == 0 {
            rung.passed_over_since = None;
        }
    }

    /// Whether the depths are young enough to steer a pick.
    pub(crate) fn is_fresh(&self, now: Instant) -> bool {
        self.scanned_at.is_some_and(|at| now.duration_since(at) < FRESH)
    }

    /// Makes the next pick scan first.
    pub(crate) fn forget(&mut self) {
        self.scanned_at = None;
    }

    /// How many messages are known to be ready.
    pub(crate) fn known_ready(&self) -> u32 {
        self.rungs.iter().filter_map(|rung| rung.ready).fold(0, u32::saturating_add)
    }

    /// Whether the last scan saw every present queue, and nothing is left in any.
    pub(crate) fn is_empty(&self, now: Instant) -> bool {
        self.present(now).iter().all(|&at| self.rungs[at].ready == Some(0))
    }

    /// Picks the best queue that is known to hold work, and counts one message of it as being fetched.
    pub(crate) fn pick(&mut self, now: Instant) -> Option<usize> {
        let best = self.present(now).into_iter().find(|&at| self.rungs[at].ready.is_some_and(|ready| ready > 0))?;
        let rung = &mut self.rungs[best];
        rung.ready = rung.ready.map(|ready| ready - 1);
        rung.passed_over_since = Some(now);
        Some(best)
    }
}

#[cfg(test)]
mod tests {
    use ffpool_schema::job::Pool;

    use super::*;

    fn ladder() -> Ladder {
        Ladder::new(WorkQueue::of_pool(&Pool::cpu()))
    }

    fn picks(ladder: &mut Ladder, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| ladder.pick(now).map(|at| ladder.rung(at).name.clone())).collect()
    }

    #[test]
    fn the_best_score_is_picked_first_and_each_message_once() {
        let now = Instant::now();
        let mut ladder = ladder();
        ladder.begin_scan(now);
        for at in 0..9 {
            ladder.observe(at, u32::from(at == 8) * 2 + u32::from(at == 1), now);
        }
        assert_eq!(picks(&mut ladder, now), ["jobs.live.medium", "jobs.batch.low", "jobs.batch.low"]);
        assert!(ladder.is_empty(now));
    }

    #[test]
    fn a_queue_not_looked_at_is_not_empty() {
        let now = Instant::now();
        let mut ladder = ladder();
        ladder.begin_scan(now);
        for at in 0..3 {
            ladder.observe(at, 0, now);
        }
        assert!(!ladder.is_empty(now));
        assert_eq!(ladder.groups(now).len(), 3);
    }

    #[test]
    fn a_missing_queue_is_left_out_and_tried_again_later() {
        let now = Instant::now();
        let mut ladder = ladder();
        assert!(ladder.observe_missing(0, now));
        assert_eq!(ladder.present(now).len(), 8);
        assert_eq!(ladder.present(now + MISSING_FOR).len(), 9);
        assert!(!ladder.observe_missing(0, now), "the second time is no news");
    }

    #[test]
    fn ageing_lifts_a_queue_that_is_passed_over() {
        let start = Instant::now();
        let mut ladder = ladder();
        ladder.set_ageing(Some(Duration::from_secs(60)));
        ladder.begin_scan(start);
        ladder.observe(0, 100, start);
        ladder.observe(8, 1, start);
        let before = ladder.pick(start + Duration::from_secs(8 * 60)).unwrap();
        assert_eq!(ladder.rung(before).name, "jobs.live.high", "score 103 against 11 + 80");
        let after = ladder.pick(start + Duration::from_secs(18 * 60)).unwrap();
        // live.high was served at minute 8, so it aged 10 steps, batch.low 18: 203 against 191, then 19: still lower.
        assert_eq!(ladder.rung(after).name, "jobs.live.high");
        let last = ladder.pick(start + Duration::from_secs(19 * 60)).unwrap();
        assert_eq!(ladder.rung(last).name, "jobs.batch.low", "live.high 103 + 10 against 11 + 190");
    }

    #[test]
    fn a_held_queue_is_passed_over_until_its_hold_ends() {
        let now = Instant::now();
        let until = now + Duration::from_secs(5);
        let mut ladder = ladder();
        assert!(ladder.set_holds(BTreeMap::from([(Queue::Live, until)]), now));
        assert!(!ladder.set_holds(BTreeMap::from([(Queue::Live, until)]), now), "the second time is no news");
        assert_eq!(ladder.next_hold_end(), Some(until));
        ladder.begin_scan(now);
        for at in 0..9 {
            ladder.observe(at, u32::from(at % 4 == 0), now);
        }
        assert_eq!(picks(&mut ladder, now), ["jobs.default.medium", "jobs.batch.low"]);
        assert!(ladder.is_empty(now), "what is held is nobody's work");
        assert!(ladder.set_holds(BTreeMap::from([(Queue::Live, until)]), until));
        assert_eq!(picks(&mut ladder, until), ["jobs.live.high"]);
    }

    #[test]
    fn counts_go_stale() {
        let now = Instant::now();
        let mut ladder = ladder();
        assert!(!ladder.is_fresh(now));
        ladder.begin_scan(now);
        assert!(ladder.is_fresh(now));
        assert!(!ladder.is_fresh(now + FRESH));
    }
}
