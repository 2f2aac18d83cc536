//! How many workers have so many slots, and which of them could go.

use std::collections::HashMap;

use super::demand::Demand;
use super::situation::{Place, Situation};
use super::{Candidate, Wishes};
use crate::id::WorkerId;

/// Below this, a need for slots is a matter of rounding.
const NOTHING: f64 = 1e-6;

/// The workers of a pool, held against what is needed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fleet {
    pub(super) ready: u32,
    pub(super) busy: u32,
    pub(super) draining: u32,
    /// Slots of those that are ready.
    pub(super) slots: u32,
    /// Workers that the work needs, were all of one size.
    pub(super) needed: u32,
    /// Workers that there should be, by those that are there.
    pub(super) wanted: u32,
    /// In which order they would go.
    pub(super) first_to_go: Vec<Candidate>,
}

/// Slots of a worker that would be added: as asked for; as the middle one of those that are there; as the one seen last; else
/// enough for the largest job that waits.
pub(super) fn size(situation: &Situation, wishes: &Wishes) -> u32 {
    let mut there: Vec<u32> =
        situation.workers.iter().filter(|place| !place.draining).map(|place| place.slots).collect();
    there.sort_unstable();
    let middle = there.get(there.len() / 2).copied();
    let largest = || situation.startable().map(|waiting| waiting.kind.units).max();
    wishes.slots.or(middle).or(situation.last_slots).or_else(largest).unwrap_or(1).max(1)
}

/// How many workers of one size have so many slots.
pub(super) fn workers_of(slots: f64, size: u32) -> u32 {
    if slots <= NOTHING {
        return 0;
    }
    ((slots - NOTHING) / f64::from(size)).ceil().max(1.0) as u32
}

/// The workers, held against the demand.
pub(super) fn of(situation: &Situation, demand: &Demand, size: u32) -> Fleet {
    let held = held(situation);
    let ready = situation.workers.iter().filter(|place| !place.draining);
    let mut first_to_go: Vec<Candidate> =
        ready.map(|place| candidate(place, held.get(&place.worker).copied().unwrap_or_default())).collect();
    first_to_go.sort_by(|a, b| {
        b.idle
            .cmp(&a.idle)
            .then(a.lost_secs.total_cmp(&b.lost_secs))
            .then(a.slots.cmp(&b.slots))
            .then(a.worker.cmp(&b.worker))
    });
    let ready = count(&first_to_go);
    let busy = count(first_to_go.iter().filter(|candidate| !candidate.idle));
    let slots: u32 = first_to_go.iter().map(|candidate| candidate.slots).sum();
    // A job that takes no time at all still needs somebody to take it.
    let one = u32::from(situation.startable().next().is_some());
    let wanted = if demand.slots > f64::from(slots) {
        ready + workers_of(demand.slots - f64::from(slots), size)
    } else {
        let mut left = f64::from(slots) - demand.slots + NOTHING;
        let spare = first_to_go.iter().filter(|candidate| candidate.idle).take_while(|candidate| {
            left -= f64::from(candidate.slots);
            left >= 0.0
        });
        ready - count(spare)
    };
    Fleet {
        ready,
        busy,
        draining: count(situation.workers.iter().filter(|place| place.draining)),
        slots,
        needed: workers_of(demand.slots, size).max(one),
        wanted: wanted.max(one),
        first_to_go,
    }
}

fn count<T>(things: impl IntoIterator<Item = T>) -> u32 {
    u32::try_from(things.into_iter().count()).unwrap_or(u32::MAX)
}

/// What a worker runs: how many jobs, and the work in them in seconds of slots.
type Held = (u32, f64);

fn held(situation: &Situation) -> HashMap<&WorkerId, Held> {
    let mut held: HashMap<&WorkerId, Held> = HashMap::new();
    for running in &situation.running {
        if let Some(worker) = &running.worker {
            let (jobs, lost) = held.entry(worker).or_default();
            *jobs += 1;
            *lost += running.elapsed_secs.max(0.0) * f64::from(running.kind.units);
        }
    }
    held
}

/// A worker with what its jobs would have to do again. One is idle only if neither it nor the ledger knows of work on it.
fn candidate(place: &Place, (jobs, lost): Held) -> Candidate {
    Candidate {
        worker: place.worker.clone(),
        slots: place.slots,
        idle: jobs == 0 && place.used == 0,
        lost_secs: super::round(lost),
    }
}
