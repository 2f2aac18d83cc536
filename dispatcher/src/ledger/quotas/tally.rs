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
}

impl Held {
    const ALL: [Held; 3] = [Held::Running, Held::Queued, Held::Rate];

    /// The name as it stands in columns and labels.
    pub(in crate::ledger) fn as_str(self) -> &'static str {
        match self {
            Held::Running => "running",
            Held::Queued => "queued",
            Held::Rate => "rate",
        }
    }

    /// The one with this name.
    pub(in crate::ledger) fn named(name: &str) -> Option<Held> {
        Held::ALL.into_iter().find(|held| held.as_str() == name)
    }
}

/// What a tenant may have at a time. `None`: as much as there is.
#[derive(Debug, Clone, Default)]
pub(in crate::ledger) struct Quota {
    pub(in crate::ledger) max_running: Option<i64>,
    pub(in crate::ledger) max_cores: Option<f64>,
    pub(in crate::ledger) max_queued: Option<i64>,
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
    /// Waiting, but for those that are held back as too many or too fast.
    pub(in crate::ledger) waiting: i64,
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

    fn refuses_start(&self, tenant: &str, cores: f64) -> Option<String> {
        let Tally { quota, used, .. } = self;
        if let Some(max) = quota.max_running
            && used.running >= max
        {
            return Some(format!("tenant {tenant} has {} jobs running and may have {max} (max_running)", used.running));
        }
        let max = quota.max_cores.filter(|max| used.cores + cores > max + HAIR)?;
        Some(if cores > max + HAIR {
            format!(
                "it takes {cores} cores (max_cpu_percent), and tenant {tenant} may use {max} in all: it cannot run before one of the two is changed"
            )
        } else {
            format!("it takes {cores} cores, and tenant {tenant} uses {:.2} of the {max} that it may", used.cores)
        })
    }

    fn take_in(&mut self, tenant: &str, by_amqp: bool) -> Option<(Held, String)> {
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
        let Quota { max_running, max_cores, max_queued, rate } = self.quota;
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
            Held::Queued | Held::Rate => {
                let goes = max_queued.is_none_or(|max| self.used.waiting < max)
                    && (held == Held::Queued || rate.is_none_or(|rate| self.pay(rate)));
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
    /// Why another job may not start, if so.
    pub(in crate::ledger) fn refuses_start(&self, tenant: Option<&str>, cores: f64) -> Option<String> {
        let tenant = tenant?;
        self.0.get(tenant)?.refuses_start(tenant, cores)
    }

    /// A job has started.
    pub(in crate::ledger) fn started(&mut self, tenant: Option<&str>, cores: f64) {
        if let Some(tally) = tenant.and_then(|tenant| self.0.get_mut(tenant)) {
            tally.used.running += 1;
            tally.used.cores += cores;
        }
    }

    /// A job has ended or was handed back.
    pub(in crate::ledger) fn ended(&mut self, tenant: Option<&str>, cores: f64) {
        if let Some(tally) = tenant.and_then(|tenant| self.0.get_mut(tenant)) {
            tally.used.running -= 1;
            tally.used.cores -= cores;
        }
    }

    /// Counts a new job that is to be recorded in `state`; why it is held back, if it is one too many. One that waits for its time
    /// is only counted. One that waits for others is not: they may be the ones that would be held back for its sake.
    pub(in crate::ledger) fn take_in(&mut self, tenant: &str, state: State, origin: Origin) -> Option<(Held, String)> {
        let tally = self.0.get_mut(tenant)?;
        let by_amqp = match origin {
            Origin::Tap | Origin::Claim => true,
            Origin::Api | Origin::Unroutable | Origin::DeadLetter | Origin::Split => false,
        };
        match state {
            State::Queued => tally.take_in(tenant, by_amqp),
            State::Delayed => {
                tally.used.waiting += 1;
                None
            }
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

    fn tallies(quota: Quota) -> Tallies {
        Tallies(BTreeMap::from([("a".to_owned(), Tally { quota, ..Tally::default() })]))
    }

    #[test]
    fn as_many_start_as_may_and_one_more_for_each_that_ends() {
        let mut tallies = tallies(Quota { max_running: Some(2), ..Quota::default() });
        for _ in 0..2 {
            assert_eq!(tallies.refuses_start(Some("a"), 1.0), None);
            tallies.started(Some("a"), 1.0);
        }
        let why = tallies.refuses_start(Some("a"), 1.0).expect("one too many");
        assert_eq!(why, "tenant a has 2 jobs running and may have 2 (max_running)");
        assert_eq!(tallies.refuses_start(Some("b"), 1.0), None, "another tenant");
        assert_eq!(tallies.refuses_start(None, 1.0), None, "no tenant");
        tallies.ended(Some("a"), 1.0);
        assert_eq!(tallies.refuses_start(Some("a"), 1.0), None);
    }

    #[test]
    fn cores_are_summed_up_and_a_job_that_never_fits_says_so() {
        let mut tallies = tallies(Quota { max_cores: Some(1.0), ..Quota::default() });
        for _ in 0..10 {
            assert_eq!(tallies.refuses_start(Some("a"), 0.1), None);
            tallies.started(Some("a"), 0.1);
        }
        assert!(tallies.refuses_start(Some("a"), 0.1).expect("one too many").contains("uses 1.00 of the 1"));
        assert!(tallies.refuses_start(Some("a"), 2.0).expect("too large").contains("cannot run before"));
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
        assert_eq!(take(State::Blocked, Origin::Api), None, "it is in nobody's way");
        let tally = tallies.0.get_mut("a").unwrap();
        assert!(!tally.let_go(Held::Queued, 1.0));
        tally.used.waiting = 1;
        assert!(tally.let_go(Held::Queued, 1.0));
        assert!(!tally.let_go(Held::Queued, 1.0));
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
