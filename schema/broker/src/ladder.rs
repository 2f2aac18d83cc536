//! The order of choice between work queues, given what is known of their depths. Pure: time comes in as an argument.
//!
//! Each work queue is two rungs: first its twin, which holds what was handed back, then itself. They share a score and
//! an age.
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

/// How often every queue is looked at, however much work the best have, so that it is known which others wait. A part
/// of any sensible ageing interval.
const SURVEY: Duration = Duration::from_secs(1);

/// One work queue or its twin, and what is known of it.
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
    /// In pairs: a twin, then its queue.
    rungs: Vec<Rung>,
    scanned_at: Option<Instant>,
    /// When all present queues were last looked at in one scan.
    surveyed_at: Option<Instant>,
    ageing: Option<Duration>,
    /// Queues of which nothing is taken, and until when.
    holds: BTreeMap<Queue, Instant>,
}

impl Ladder {
    pub(crate) fn new(queues: Vec<WorkQueue>) -> Ladder {
        let rung = |work: &WorkQueue, name: String| Rung {
            work: work.clone(),
            name,
            ready: None,
            passed_over_since: None,
            missing_since: None,
            broken_since: None,
        };
        let rungs =
            queues.iter().flat_map(|work| [rung(work, work.returned_name()), rung(work, work.name())]).collect();
        Ladder { rungs, scanned_at: None, surveyed_at: None, ageing: None, holds: BTreeMap::new() }
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

    /// The rungs to look at, in groups of one queue class, best group first. With ageing they are one group now and then:
    /// a queue that nobody looks at does not age.
    pub(crate) fn groups(&mut self, now: Instant) -> Vec<Vec<usize>> {
        let present = self.present(now);
        if self.ageing.is_some() && self.surveyed_at.is_none_or(|at| now.duration_since(at) >= SURVEY) {
            self.surveyed_at = Some(now);
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
        let since = rung.passed_over_since.into_iter().chain(self.rungs[at ^ 1].passed_over_since).min();
        let aged = match (self.ageing, since) {
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
        // Its other half was served with it.
        let other = &mut self.rungs[best ^ 1];
        other.passed_over_since = other.passed_over_since.map(|_| now);
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

    /// The depths of the queues that are named, `(name, ready)`; all others are empty.
    fn see(ladder: &mut Ladder, depths: &[(&str, u32)], now: Instant) {
        ladder.begin_scan(now);
        for at in 0..ladder.rungs.len() {
            let found = depths.iter().find(|(name, _)| ladder.rungs[at].name == *name);
            ladder.observe(at, found.map_or(0, |(_, ready)| *ready), now);
        }
    }

    fn pick(ladder: &mut Ladder, now: Instant) -> Option<String> {
        ladder.pick(now).map(|at| ladder.rung(at).name.clone())
    }

    fn picks(ladder: &mut Ladder, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| pick(ladder, now)).collect()
    }

    #[test]
    fn the_best_score_is_picked_first_and_each_message_once() {
        let now = Instant::now();
        let mut ladder = ladder();
        see(&mut ladder, &[("jobs.batch.low", 2), ("jobs.live.medium", 1)], now);
        assert_eq!(picks(&mut ladder, now), ["jobs.live.medium", "jobs.batch.low", "jobs.batch.low"]);
        assert!(ladder.is_empty(now));
    }

    #[test]
    fn what_was_handed_back_goes_before_its_queue_and_after_every_better_one() {
        let now = Instant::now();
        let mut ladder = ladder();
        let depths = [
            ("jobs.batch.low", 1),
            ("jobs.batch.low.returned", 1),
            ("jobs.batch.medium", 1),
            ("jobs.live.low", 1),
            ("jobs.live.low.returned", 1),
        ];
        see(&mut ladder, &depths, now);
        let order = [
            "jobs.live.low.returned",
            "jobs.live.low",
            "jobs.batch.medium",
            "jobs.batch.low.returned",
            "jobs.batch.low",
        ];
        assert_eq!(picks(&mut ladder, now), order);
    }

    #[test]
    fn a_queue_not_looked_at_is_not_empty() {
        let now = Instant::now();
        let mut ladder = ladder();
        ladder.begin_scan(now);
        for at in 0..6 {
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
        assert_eq!(ladder.present(now).len(), 17);
        assert_eq!(ladder.present(now + MISSING_FOR).len(), 18);
        assert!(!ladder.observe_missing(0, now), "the second time is no news");
    }

    #[test]
    fn ageing_lifts_a_queue_that_is_passed_over() {
        let start = Instant::now();
        let at = |minutes: u64| start + Duration::from_secs(minutes * 60);
        let mut ladder = ladder();
        ladder.set_ageing(Some(Duration::from_secs(60)));
        let depths = [("jobs.live.high", 100), ("jobs.batch.low", 1), ("jobs.batch.low.returned", 1)];
        see(&mut ladder, &depths, start);
        assert_eq!(pick(&mut ladder, at(8)).unwrap(), "jobs.live.high", "score 103 against 11 + 80");
        // live.high was served at minute 8, so it aged 10 steps, batch.low 18: 203 against 191, then 19: still lower.
        assert_eq!(pick(&mut ladder, at(18)).unwrap(), "jobs.live.high");
        // live.high 103 + 10 against 11 + 190; then batch.low was served, with its twin.
        assert_eq!(pick(&mut ladder, at(19)).unwrap(), "jobs.batch.low.returned");
        assert_eq!(pick(&mut ladder, at(19)).unwrap(), "jobs.live.high");
        assert_eq!(pick(&mut ladder, at(26)).unwrap(), "jobs.live.high");
    }

    #[test]
    fn without_ageing_no_wait_is_long_enough() {
        let start = Instant::now();
        let mut ladder = ladder();
        let depths = [("jobs.live.low", 1_000), ("jobs.batch.high", 1)];
        see(&mut ladder, &depths, start);
        for day in 0..1_000 {
            let now = start + Duration::from_secs(day * 86_400);
            assert_eq!(pick(&mut ladder, now).unwrap(), "jobs.live.low");
        }
    }

    #[test]
    fn with_ageing_the_lower_queues_are_looked_at_now_and_then_only() {
        let now = Instant::now();
        let mut ladder = ladder();
        assert_eq!(ladder.groups(now).len(), 3, "strict order needs no look at the lower ones");
        ladder.set_ageing(Some(Duration::from_secs(600)));
        assert_eq!(ladder.groups(now).len(), 1);
        assert_eq!(ladder.groups(now).len(), 3);
        assert_eq!(ladder.groups(now + SURVEY).len(), 1);
    }

    #[test]
    fn a_held_queue_is_passed_over_until_its_hold_ends() {
        let now = Instant::now();
        let until = now + Duration::from_secs(5);
        let mut ladder = ladder();
        assert!(ladder.set_holds(BTreeMap::from([(Queue::Live, until)]), now));
        assert!(!ladder.set_holds(BTreeMap::from([(Queue::Live, until)]), now), "the second time is no news");
        assert_eq!(ladder.next_hold_end(), Some(until));
        let depths =
            [("jobs.live.high.returned", 1), ("jobs.live.high", 1), ("jobs.default.medium", 1), ("jobs.batch.low", 1)];
        see(&mut ladder, &depths, now);
        assert_eq!(picks(&mut ladder, now), ["jobs.default.medium", "jobs.batch.low"]);
        assert!(ladder.is_empty(now), "what is held is nobody's work");
        assert!(ladder.set_holds(BTreeMap::from([(Queue::Live, until)]), until));
        assert_eq!(picks(&mut ladder, until), ["jobs.live.high.returned", "jobs.live.high"]);
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
