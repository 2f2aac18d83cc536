//! How many slots the work of a pool needs.

use std::collections::HashSet;

use super::situation::{Line, Situation, Waiting};
use super::{LineAdvice, WaitTargets, round};
use crate::id::WorkerId;

/// Of a slot's time, the share that arriving jobs may fill: where they filled all of it, waits would grow without end.
pub(super) const FILLED: f64 = 0.8;
/// Where the first job of a line has waited for long, what is left of its target; never less than this share, or a few late
/// jobs would ask for a worker each.
const LEFT_AT_LEAST: f64 = 0.25;

/// What the work needs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Demand {
    /// Slots, for the line that needs most.
    pub(super) slots: f64,
    /// That line, where something waits that decides.
    pub(super) decisive: Option<Line>,
    /// Of these slots, those that running or arriving jobs take.
    pub(super) occupied: f64,
    /// Slots that arriving jobs keep busy.
    pub(super) steady: f64,
    /// Slots that the largest waiting job takes.
    pub(super) largest: u32,
    /// Line by line, those without any job left out.
    pub(super) lines: Vec<LineAdvice>,
}

/// Slots of a worker with `size` of them that are gone for others while it runs a job of `units`: what is left beside as many
/// of these as fit is of no use to one more.
pub(super) fn taken(units: u32, size: u32) -> f64 {
    let (units, size) = (units.max(1), size.max(1));
    f64::from(size) / f64::from(size / units.min(size))
}

/// What the work of a pool needs, on workers of `size` slots.
pub(super) fn of(situation: &Situation, targets: &WaitTargets, size: u32) -> Demand {
    let order = Line::all();
    let steady = arriving(situation, &order, size);
    let stays = staying(situation, size);
    let mut demand = Demand {
        slots: 0.0,
        decisive: None,
        occupied: 0.0,
        steady,
        largest: situation.startable().map(|waiting| waiting.kind.units).max().unwrap_or(0),
        lines: Vec::new(),
    };
    for (rank, line) in order.iter().enumerate() {
        let target = targets.of(line.queue);
        let of_line: Vec<&Waiting> = situation.startable().filter(|waiting| waiting.line == *line).collect();
        let oldest = of_line.iter().map(|waiting| waiting.oldest_secs).fold(0.0, f64::max);
        let within = (target - oldest).max(target * LEFT_AT_LEAST);
        let served = &order[..=rank];
        let occupied = running(&stays, within).max(arriving(situation, served, size));
        let slots = occupied + waiting(situation, served, within, size);
        let decides = !of_line.is_empty() || situation.arriving.iter().any(|arriving| arriving.line == *line);
        if decides && slots > demand.slots {
            demand.slots = slots;
            demand.occupied = occupied;
            demand.decisive = Some(*line).filter(|_| !of_line.is_empty());
        }
        demand.lines.extend(told(situation, *line, target, if decides { slots } else { 0.0 }));
    }
    demand
}

/// What a job of so many seconds needs of a slot that is to start its last one within so many: the less, the more such jobs the
/// slot starts one after the other.
pub(super) fn share(secs: f64, within: f64) -> f64 {
    if secs <= 0.0 { 0.0 } else { 1.0 / ((within / secs).floor() + 1.0) }
}

/// Slots that start what waits in these lines within so many seconds.
fn waiting(situation: &Situation, served: &[Line], within: f64, size: u32) -> f64 {
    let lines = situation.startable().filter(|waiting| served.contains(&waiting.line));
    lines
        .map(|waiting| {
            let secs = situation.history.expect(&waiting.kind).mean_secs;
            waiting.jobs as f64 * taken(waiting.kind.units, size) * share(secs, within)
        })
        .sum()
}

/// Of each job that runs the slots that it takes and for how many seconds still. A draining worker's slots are nobody else's in
/// any case.
fn staying(situation: &Situation, size: u32) -> Vec<(f64, f64)> {
    let draining: HashSet<&WorkerId> =
        situation.workers.iter().filter(|place| place.draining).map(|place| &place.worker).collect();
    let stay =
        situation.running.iter().filter(|running| !running.worker.as_ref().is_some_and(|it| draining.contains(it)));
    stay.map(|running| (taken(running.kind.units, size), running.remaining_secs(&situation.history))).collect()
}

/// Slots that what runs takes of the next so many seconds.
fn running(stays: &[(f64, f64)], within: f64) -> f64 {
    stays.iter().map(|(slots, left)| slots * (left / within).min(1.0)).sum()
}

/// Slots that what arrives in these lines keeps busy.
fn arriving(situation: &Situation, served: &[Line], size: u32) -> f64 {
    let lines = situation.arriving.iter().filter(|arriving| served.contains(&arriving.line));
    let busy: f64 = lines
        .map(|arriving| {
            let secs = situation.history.expect(&arriving.kind).mean_secs.max(0.0);
            arriving.per_sec * taken(arriving.kind.units, size) * secs
        })
        .sum();
    busy / FILLED
}

/// A line as it is told; `None` where nothing is.
fn told(situation: &Situation, line: Line, target_secs: f64, slots: f64) -> Option<LineAdvice> {
    let waits: Vec<&Waiting> = situation.waiting.iter().filter(|waiting| waiting.line == line).collect();
    let waiting: u64 = waits.iter().map(|waiting| waiting.jobs).sum();
    // Also where the queue is paused: what waits there asks for no slot, and waits all the same.
    let oldest_secs =
        waits.iter().filter(|waiting| waiting.jobs > 0).map(|waiting| waiting.oldest_secs).fold(0.0, f64::max);
    let running = situation.running.iter().filter(|running| running.line == line).count() as u64;
    let arriving = situation.arriving.iter().filter(|arriving| arriving.line == line);
    let per_sec: f64 = arriving.clone().map(|arriving| arriving.per_sec).sum();
    if waiting == 0 && running == 0 && per_sec == 0.0 {
        return None;
    }
    // What waits says how long its jobs take; where nothing waits, what arrives.
    let weights: Vec<(f64, &super::Kind)> = if waiting > 0 {
        waits.iter().map(|waiting| (waiting.jobs as f64, &waiting.kind)).collect()
    } else {
        arriving.map(|arriving| (arriving.per_sec, &arriving.kind)).collect()
    };
    let total: f64 = weights.iter().map(|(weight, _)| weight).sum();
    let expected = |secs: fn(&super::Expected) -> f64| {
        let sum: f64 = weights.iter().map(|(weight, kind)| weight * secs(&situation.history.expect(kind))).sum();
        if total > 0.0 { round(sum / total) } else { 0.0 }
    };
    Some(LineAdvice {
        queue: line.queue.to_string(),
        priority: line.priority.to_string(),
        waiting,
        running,
        arriving_per_min: round(per_sec * 60.0),
        oldest_secs: round(oldest_secs),
        target_secs,
        expected_secs: expected(|known| known.mean_secs),
        p90_secs: expected(|known| known.p90_secs),
        needed_slots: round(slots),
        paused: situation.paused.contains(&line.queue),
    })
}
