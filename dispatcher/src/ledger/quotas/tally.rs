//! What tenants have and may have, counted on as a batch decides. Pure: time comes in as what is left of it.
//!
//! Invariants:
//! * a start that the quota does not allow is refused, whatever else the batch decides;
//! * what is let go is never more than what would be allowed to start or to wait at this moment.

use std::collections::BTreeMap;

use ffpool_schema::lifecycle::State;

use super::super::fresh::Origin;
use crate::limits::Rate;

/// Numbers of cores are sums of hundredths.
const HAIR: f64 = 1e-6;

/// Why a job is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::ledger) enum Held {
    /// As much of its tenant's runs as may.
    Running,
    /// As many of its tenant's wait as may.
    Queued,
    /// Its tenant's came too fast.
    Rate,
    /// What its tenant's published takes as much as may be.
    Storage,
}

impl Held {
    const ALL: [Held; 4] = [Held::Running, Held::Queued, Held::Rate, Held::Storage];

    /// The name as it stands in columns and labels.
    pub(in crate::ledger) fn as_str(self) -> &'static str {
        match self {
            Held::Running => "running",
            Held::Queued => "queued",
            Held::Rate => "rate",
            Held::Storage => "storage",
        }
    }

    /// The one with this name.
    pub(in crate::ledger) fn named(name: &str) -> Option<Held> {
        Held::ALL.into_iter().find(|held| held.as_str() == name)
    }
}

/// Held back for longer than this, a job keeps room from those that came after it.
const KEEPS_AFTER_SECS: f64 = 60.0;
/// It does so for this long, then lets others pass for as long, in turn: what runs may take hours to end.
const KEEPS_SECS: f64 = 900.0;

/// A job that is to start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::ledger) struct Start {
    /// Its number, which grows as jobs come.
    pub(in crate::ledger) number: i64,
    /// The smaller, the more urgent.
    pub(in crate::ledger) urgency: i32,
    pub(in crate::ledger) cores: f64,
    /// Whether it was held back and has been let go: its room is kept already.
    pub(in crate::ledger) is_let_go: bool,
}

/// The first job that is held back and could run if less did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::ledger) struct Kept {
    pub(in crate::ledger) number: i64,
    pub(in crate::ledger) urgency: i32,
    pub(in crate::ledger) cores: f64,
    /// For how long.
    pub(in crate::ledger) held_secs: f64,
}

impl Kept {
    /// Whether it keeps its room from `start` now.
    fn goes_before(&self, start: &Start) -> bool {
        let keeps = self.held_secs - KEEPS_AFTER_SECS;
        let is_its_time = keeps >= 0.0 && (keeps / KEEPS_SECS).rem_euclid(2.0) < 1.0;
        is_its_time && self.number < start.number && self.urgency <= start.urgency
    }
}

/// What a tenant may have at a time. `None`: as much as there is.
#[derive(Debug, Clone, Default)]
pub(in crate::ledger) struct Quota {
    pub(in crate::ledger) max_running: Option<i64>,
    pub(in crate::ledger) max_cores: Option<f64>,
    pub(in crate::ledger) max_queued: Option<i64>,
    /// Bytes of published files.
    pub(in crate::ledger) max_stored: Option<i64>,
    /// Jobs by AMQP.
    pub(in crate::ledger) rate: Option<Rate>,
}

/// What a tenant has.
#[derive(Debug, Clone, Default)]
pub(in crate::ledger) struct Use {
    pub(in crate::ledger) running: i64,
    pub(in crate::ledger) cores: f64,
    /// Let go a moment ago and on their way to a worker.
    pub(in crate::ledger) let_go: i64,
    pub(in crate::ledger) let_go_cores: f64,
    /// The one of those held back for which room is kept.
    pub(in crate::ledger) kept: Option<Kept>,
    /// Waiting, but for those that are held back as too many or too fast.
    pub(in crate::ledger) waiting: i64,
    /// Bytes of published files that count.
    pub(in crate::ledger) stored: i64,
    /// Seconds until the jobs that came so far are paid for at the tenant's rate.
    pub(in crate::ledger) ahead_secs: f64,
    /// Whether some that came too fast wait for their turn: whoever comes now comes after them.
    pub(in crate::ledger) paces: bool,
}

/// One tenant.
#[derive(Debug, Clone, Default)]
pub(in crate::ledger) struct Tally {
    pub(in crate::ledger) quota: Quota,
    pub(in crate::ledger) used: Use,
    /// Whether `ahead_secs` is to be written.
    pub(in crate::ledger) is_paced_anew: bool,
}

impl Tally {
    /// A tenant with what it has. What was charged at a slower rate than its present one is no longer owed.
    pub(in crate::ledger) fn new(quota: Quota, mut used: Use) -> Tally {
        let most = quota.rate.map_or(f64::INFINITY, |rate| rate.span().as_secs_f64());
        let is_paced_anew = used.ahead_secs > most + HAIR;
        used.ahead_secs = used.ahead_secs.min(most);
        Tally { quota, used, is_paced_anew }
    }

    fn refuses_start(&self, tenant: &str, start: &Start) -> Option<String> {
        let Tally { quota, used, .. } = self;
        let cores = start.cores;
        // One that was let go has its room among those that are about to run.
        let (coming, coming_cores) = if start.is_let_go { (0, 0.0) } else { (used.let_go, used.let_go_cores) };
        if let Some(max) = quota.max_running
            && used.running + coming >= max
        {
            let about = if coming > 0 { format!(" and {coming} about to") } else { String::new() };
            return Some(format!(
                "tenant {tenant} has {} jobs running{about} and may have {max} (max_running)",
                used.running
            ));
        }
        if let Some(max) = quota.max_cores.filter(|max| used.cores + coming_cores + cores > max + HAIR) {
            return Some(if cores > max + HAIR {
                format!(
                    "it takes {cores} cores (max_cpu_percent), and tenant {tenant} may use {max} in all: it cannot run before one of the two is changed"
                )
            } else {
                let used = used.cores + coming_cores;
                format!("it takes {cores} cores, and tenant {tenant} uses {used:.2} of the {max} that it may")
            });
        }
        let kept = used.kept.filter(|kept| !start.is_let_go && kept.goes_before(start))?;
        let runs = quota.max_running.is_none_or(|max| used.running + coming + 1 < max);
        let fits = quota.max_cores.is_none_or(|max| used.cores + coming_cores + cores + kept.cores <= max + HAIR);
        (!runs || !fits).then(|| {
            format!(
                "tenant {tenant} has room for it, which is kept for job #{}: that takes {} cores and has been held back for {:.0} s",
                kept.number, kept.cores, kept.held_secs
            )
        })
    }

    fn take_in(&mut self, tenant: &str, by_amqp: bool) -> Option<(Held, String)> {
        if let Some(max) = self.quota.max_stored
            && self.used.stored >= max
        {
            let (stored, max) = (self.used.stored >> 20, max >> 20);
            let why = format!(
                "what jobs of tenant {tenant} published takes {stored} MiB and may take {max} (max_storage_mb)"
            );
            return Some((Held::Storage, why));
        }
        if let Some(max) = self.quota.max_queued
            && self.used.waiting >= max
        {
            let why = format!("tenant {tenant} has {} jobs waiting and may have {max} (max_queued)", self.used.waiting);
            return Some((Held::Queued, why));
        }
        if by_amqp
            && let Some(rate) = self.quota.rate
            && (self.used.paces || !self.pay(rate))
        {
            self.used.paces = true;
            return Some((Held::Rate, format!("jobs of tenant {tenant} come faster than they may ({rate})")));
        }
        self.used.waiting += 1;
        None
    }

    /// Takes the token of one job, if there is one.
    fn pay(&mut self, rate: Rate) -> bool {
        let paid = self.used.ahead_secs.max(0.0) + rate.interval().as_secs_f64();
        if paid > rate.span().as_secs_f64() + HAIR {
            return false;
        }
        (self.used.ahead_secs, self.is_paced_anew) = (paid, true);
        true
    }

    /// Whether a job that is held back may go; if so, it is counted as gone.
    pub(in crate::ledger) fn let_go(&mut self, held: Held, cores: f64) -> bool {
        let Quota { max_running, max_cores, max_queued, max_stored, rate } = self.quota;
        match held {
            Held::Running => {
                let runs = self.used.running + self.used.let_go;
                let busy = self.used.cores + self.used.let_go_cores;
                let goes =
                    max_running.is_none_or(|max| runs < max) && max_cores.is_none_or(|max| busy + cores <= max + HAIR);
                if goes {
                    self.used.let_go += 1;
                    self.used.let_go_cores += cores;
                }
                goes
            }
            Held::Queued | Held::Rate | Held::Storage => {
                let goes = max_stored.is_none_or(|max| self.used.stored < max)
                    && max_queued.is_none_or(|max| self.used.waiting < max)
                    && (held != Held::Rate || rate.is_none_or(|rate| self.pay(rate)));
                self.used.waiting += i64::from(goes);
                goes
            }
        }
    }
}

/// The tenants of a batch that are limited, locked. Those that are not here are not limited.
#[derive(Debug, Default)]
pub(in crate::ledger) struct Tallies(pub(in crate::ledger) BTreeMap<String, Tally>);

impl Tallies {
    /// Why a job may not start, if so.
    pub(in crate::ledger) fn refuses_start(&self, tenant: Option<&str>, start: &Start) -> Option<String> {
        let tenant = tenant?;
        self.0.get(tenant)?.refuses_start(tenant, start)
    }

    /// A job has started.
    pub(in crate::ledger) fn started(&mut self, tenant: Option<&str>, start: &Start) {
        if let Some(tally) = tenant.and_then(|tenant| self.0.get_mut(tenant)) {
            tally.used.running += 1;
            tally.used.cores += start.cores;
            if start.is_let_go && tally.used.let_go > 0 {
                tally.used.let_go -= 1;
                tally.used.let_go_cores = (tally.used.let_go_cores - start.cores).max(0.0);
            }
        }
    }

    /// A job has ended or was handed back.
    pub(in crate::ledger) fn ended(&mut self, tenant: Option<&str>, cores: f64) {
        if let Some(tally) = tenant.and_then(|tenant| self.0.get_mut(tenant)) {
            tally.used.running -= 1;
            tally.used.cores -= cores;
        }
    }

    /// Counts a new job that is to be recorded in `state`; why it is held back, if it is one too many: one that waits for its time too,
    /// which comes to nothing if others have it first. One that waits for others is not counted: they may be the ones that would be
    /// held back for its sake.
    pub(in crate::ledger) fn take_in(&mut self, tenant: &str, state: State, origin: Origin) -> Option<(Held, String)> {
        let tally = self.0.get_mut(tenant)?;
        let by_amqp = match origin {
            Origin::Tap | Origin::Claim => true,
            Origin::Api | Origin::Unroutable | Origin::DeadLetter | Origin::Split => false,
        };
        match state {
            State::Queued | State::Delayed => tally.take_in(tenant, by_amqp),
            State::Blocked
            | State::Running
            | State::Cancelling
            | State::Completed
            | State::Failed
            | State::Cancelled
            | State::Rejected => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(cores: f64) -> Start {
        Start { number: 100, urgency: 5, cores, is_let_go: false }
    }

    fn tallies(quota: Quota) -> Tallies {
        Tallies(BTreeMap::from([("a".to_owned(), Tally { quota, ..Tally::default() })]))
    }

    #[test]
    fn as_many_start_as_may_and_one_more_for_each_that_ends() {
        let mut tallies = tallies(Quota { max_running: Some(2), ..Quota::default() });
        for _ in 0..2 {
            assert_eq!(tallies.refuses_start(Some("a"), &start(1.0)), None);
            tallies.started(Some("a"), &start(1.0));
        }
        let why = tallies.refuses_start(Some("a"), &start(1.0)).expect("one too many");
        assert_eq!(why, "tenant a has 2 jobs running and may have 2 (max_running)");
        assert_eq!(tallies.refuses_start(Some("b"), &start(1.0)), None, "another tenant");
        assert_eq!(tallies.refuses_start(None, &start(1.0)), None, "no tenant");
        tallies.ended(Some("a"), 1.0);
        assert_eq!(tallies.refuses_start(Some("a"), &start(1.0)), None);
    }

    #[test]
    fn cores_are_summed_up_and_a_job_that_never_fits_says_so() {
        let mut tallies = tallies(Quota { max_cores: Some(1.0), ..Quota::default() });
        for _ in 0..10 {
            assert_eq!(tallies.refuses_start(Some("a"), &start(0.1)), None);
            tallies.started(Some("a"), &start(0.1));
        }
        assert!(tallies.refuses_start(Some("a"), &start(0.1)).expect("one too many").contains("uses 1.00 of the 1"));
        assert!(tallies.refuses_start(Some("a"), &start(2.0)).expect("too large").contains("cannot run before"));
    }

    #[test]
    fn small_jobs_that_keep_coming_leave_room_for_a_large_one_that_waits_for_a_while() {
        let quota = Quota { max_cores: Some(4.0), ..Quota::default() };
        let kept = |held_secs| Kept { number: 50, urgency: 5, cores: 3.0, held_secs };
        let refused = |used: f64, held_secs, start: Start| {
            let used = Use { cores: used, kept: Some(kept(held_secs)), ..Use::default() };
            Tally { quota: quota.clone(), used, ..Tally::default() }.refuses_start("a", &start)
        };
        assert_eq!(refused(3.0, 1.0, start(1.0)), None, "it waits for a moment only");
        let why = refused(3.0, 70.0, start(1.0)).expect("2 cores must become free, and not be taken again");
        assert!(why.contains("kept for job #50"), "{why}");
        assert_eq!(refused(0.0, 70.0, start(1.0)), None, "there is room for both");
        assert_eq!(refused(3.0, 70.0, Start { number: 7, ..start(1.0) }), None, "it came before");
        assert_eq!(refused(3.0, 70.0, Start { urgency: 1, ..start(1.0) }), None, "it is more urgent");
        assert_eq!(refused(3.0, 70.0, Start { is_let_go: true, ..start(1.0) }), None, "it has its own room");
        assert_eq!(refused(3.0, 1000.0, start(1.0)), None, "what runs takes long: others pass for a while");
        assert!(refused(3.0, 2000.0, start(1.0)).is_some(), "and then it is its time again");

        let quota = Quota { max_running: Some(2), ..Quota::default() };
        let used = Use { running: 1, kept: Some(kept(70.0)), ..Use::default() };
        let tally = Tally { quota, used, ..Tally::default() };
        assert!(tally.refuses_start("a", &start(1.0)).is_some(), "whoever came first goes first");
    }

    #[test]
    fn room_that_was_promised_is_given_to_nobody_else() {
        let mut tallies = tallies(Quota { max_running: Some(2), max_cores: Some(4.0), ..Quota::default() });
        let let_go = Start { is_let_go: true, ..start(1.0) };
        tallies.started(Some("a"), &start(1.0));
        assert!(tallies.0.get_mut("a").unwrap().let_go(Held::Running, 1.0));
        let why = tallies.refuses_start(Some("a"), &start(1.0)).expect("one runs and one is about to");
        assert_eq!(why, "tenant a has 1 jobs running and 1 about to and may have 2 (max_running)");
        assert_eq!(tallies.refuses_start(Some("a"), &let_go), None);
        tallies.started(Some("a"), &let_go);
        assert!(tallies.refuses_start(Some("a"), &let_go).is_some());
        tallies.ended(Some("a"), 1.0);
        assert_eq!(tallies.refuses_start(Some("a"), &start(1.0)), None, "nobody is about to any more");
    }

    #[test]
    fn of_those_held_back_as_many_go_as_have_room() {
        let quota = Quota { max_running: Some(3), max_cores: Some(4.0), ..Quota::default() };
        let mut tally = Tally { quota, used: Use { running: 1, cores: 1.0, ..Use::default() }, ..Tally::default() };
        assert!(tally.let_go(Held::Running, 2.0));
        assert!(!tally.let_go(Held::Running, 2.0), "1 core is left");
        assert!(tally.let_go(Held::Running, 1.0));
        assert!(!tally.let_go(Held::Running, 0.0), "three run or are about to");
        tally.quota = Quota::default();
        assert!(tally.let_go(Held::Running, 100.0), "the quota was taken away");
    }

    #[test]
    fn more_than_may_wait_are_held_back_and_go_when_others_have_gone() {
        let mut tallies = tallies(Quota { max_queued: Some(2), ..Quota::default() });
        let mut take = |state, origin| tallies.take_in("a", state, origin).map(|(held, _)| held);
        assert_eq!(take(State::Queued, Origin::Tap), None);
        assert_eq!(take(State::Delayed, Origin::Tap), None, "it counts");
        assert_eq!(take(State::Queued, Origin::Tap), Some(Held::Queued));
        assert_eq!(
            take(State::Delayed, Origin::Tap),
            Some(Held::Queued),
            "nor does one get past that waits for its time"
        );
        assert_eq!(take(State::Blocked, Origin::Api), None, "it is in nobody's way");
        let tally = tallies.0.get_mut("a").unwrap();
        assert!(!tally.let_go(Held::Queued, 1.0));
        tally.used.waiting = 1;
        assert!(tally.let_go(Held::Queued, 1.0));
        assert!(!tally.let_go(Held::Queued, 1.0));
    }

    #[test]
    fn whose_files_take_as_much_as_may_be_hands_in_no_more_until_some_are_gone() {
        let mut tallies = tallies(Quota { max_stored: Some(1 << 20), ..Quota::default() });
        assert_eq!(tallies.take_in("a", State::Queued, Origin::Api), None);
        tallies.0.get_mut("a").unwrap().used.stored = 1 << 20;
        let (held, why) = tallies.take_in("a", State::Queued, Origin::Tap).expect("it is full");
        assert_eq!(held, Held::Storage);
        assert_eq!(why, "what jobs of tenant a published takes 1 MiB and may take 1 (max_storage_mb)");
        let tally = tallies.0.get_mut("a").unwrap();
        assert!(!tally.let_go(Held::Storage, 1.0));
        tally.used.stored -= 1;
        assert!(tally.let_go(Held::Storage, 1.0));
    }

    #[test]
    fn who_comes_too_fast_comes_after_those_that_came_before_and_all_come() {
        let rate = Rate::per_sec(10.0);
        let mut tallies = tallies(Quota { rate: Some(rate), ..Quota::default() });
        let mut take = |origin| tallies.take_in("a", State::Queued, origin).map(|(held, _)| held);
        let held = (0..50).filter(|_| take(Origin::Tap) == Some(Held::Rate)).count();
        assert_eq!(held, 30, "two seconds' worth go at once");
        assert_eq!(take(Origin::Api), None, "requests have a limit of their own");
        let tally = tallies.0.get_mut("a").unwrap();
        let mut gone = 0;
        for _ in 0..100 {
            tally.used.ahead_secs -= 0.1;
            gone += usize::from(tally.let_go(Held::Rate, 1.0));
            assert!(gone >= 30 || tally.take_in("a", true).is_some(), "nobody overtakes");
        }
        assert!(gone >= 30, "{gone}");
        let charged = Use { ahead_secs: 1000.0, ..Use::default() };
        let mut tally = Tally::new(Quota { rate: Some(rate), ..Quota::default() }, charged);
        assert!(tally.is_paced_anew, "a slower rate was charged");
        assert!(!tally.let_go(Held::Rate, 1.0));
        tally.used.ahead_secs -= 0.1;
        assert!(tally.let_go(Held::Rate, 1.0));
    }
}
