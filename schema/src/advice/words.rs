//! Why the advice is what it is, in sentences.

use std::collections::BTreeSet;

use super::demand::{Demand, FILLED};
use super::fleet::Fleet;
use super::situation::{Line, Situation};
use super::{Wishes, round};

/// Scenarios without history that are named.
const NAMED_MAX: usize = 3;

/// The reasons, the most telling first.
pub(super) fn reasons(
    situation: &Situation,
    wishes: &Wishes,
    demand: &Demand,
    fleet: &Fleet,
    size: u32,
    desired: u32,
) -> Vec<String> {
    let mut said = Vec::new();
    match demand.decisive {
        Some(line) => said.push(waits(demand, line)),
        None if demand.slots > 0.0 => said.push("Nothing waits.".to_owned()),
        None => said.push("Nothing waits, runs or arrives.".to_owned()),
    }
    if demand.occupied > 0.0 {
        said.push(format!(
            "{} are taken by what runs, or by what arrives at {:.0} % use.",
            slots(demand.occupied),
            FILLED * 100.0
        ));
    }
    said.push(format!(
        "{} are needed; {} have {}.",
        slots(demand.slots),
        workers(fleet.ready, "that take work"),
        fleet.slots
    ));
    if fleet.busy > fleet.needed.max(wishes.min) {
        said.push(format!("{} stay: ending one would end what it runs.", workers(fleet.busy, "that are busy")));
    }
    let unbounded = fleet.wanted.max(fleet.busy);
    if desired != unbounded {
        said.push(format!("{unbounded} would be right; the bounds that were asked for make it {desired}."));
    }
    said.extend(about_size(situation, wishes, demand, fleet, size));
    said.extend(about_history(situation));
    let paused: u64 = situation
        .waiting
        .iter()
        .filter(|waiting| situation.paused.contains(&waiting.line.queue))
        .map(|waiting| waiting.jobs)
        .sum();
    if paused > 0 {
        said.push(format!("{paused} more wait in paused queues; no worker would start them."));
    }
    said
}

fn waits(demand: &Demand, line: Line) -> String {
    let better =
        |told: &&super::LineAdvice| told.queue == line.queue.as_str() && told.priority == line.priority.as_str();
    let Some(told) = demand.lines.iter().find(better) else { return String::new() };
    format!(
        "{} waiting in {}/{}, of {} s each, are to start within {} s, behind all that goes first: that takes {}.",
        if told.waiting == 1 { "1 job".to_owned() } else { format!("{} jobs", told.waiting) },
        line.queue,
        line.priority,
        told.expected_secs,
        told.target_secs,
        slots(demand.slots - demand.occupied)
    )
}

fn about_size(situation: &Situation, wishes: &Wishes, demand: &Demand, fleet: &Fleet, size: u32) -> Option<String> {
    let largest_there = fleet.first_to_go.iter().map(|candidate| candidate.slots).max();
    if let Some(there) = largest_there.filter(|there| demand.largest > *there) {
        return Some(format!("A job waits that takes {} slots; no worker here has more than {there}.", demand.largest));
    }
    if wishes.slots.is_some() || largest_there.is_some() {
        return None;
    }
    Some(match situation.last_slots {
        Some(slots) => format!("No worker is there; reckoned with {slots} slots, as the one seen last had."),
        None => format!(
            "No worker of this pool was ever seen; reckoned with workers of {size}. Say their size with `slots`."
        ),
    })
}

fn about_history(situation: &Situation) -> Option<String> {
    let kinds = situation.startable().map(|waiting| &waiting.kind);
    let unknown: BTreeSet<&str> =
        kinds.filter(|kind| situation.history.expect(kind).samples == 0).map(|kind| kind.scenario.as_str()).collect();
    if unknown.is_empty() {
        return None;
    }
    let named: Vec<&str> = unknown.iter().copied().take(NAMED_MAX).collect();
    let more = if unknown.len() > NAMED_MAX { " and others" } else { "" };
    let assumed = super::Expected::ASSUMED.mean_secs;
    Some(format!("Nothing of {}{more} has completed lately: {assumed} s a job is assumed.", named.join(", ")))
}

fn slots(count: f64) -> String {
    let count = round(count);
    if (count - 1.0).abs() < f64::EPSILON { "1 slot".to_owned() } else { format!("{count} slots") }
}

fn workers(count: u32, which: &str) -> String {
    if count == 1 { format!("1 worker {which}") } else { format!("{count} workers {which}") }
}
