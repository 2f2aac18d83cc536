//! The protocol explored exhaustively: one job, two workers that may crash, freeze or lose their link, a broker that
//! redelivers and repeats, a lease that may lapse at any moment, and the real [`step`] as the ledger. In some runs the job
//! does not fit the first worker, and the ledger offers it to the second.
//!
//! Every world that two faults can lead to is visited. In each of them: what was completed is never replaced; the job is
//! never without somebody who will bring it forward; and without further faults it reaches an end. The mutations at the
//! bottom break one rule each and must be found, so the explorer is known to look.

use std::collections::{HashMap, HashSet, VecDeque};

use ffpool_schema::failure::Cause;
use ffpool_schema::id::Incarnation;
use ffpool_schema::lifecycle::{Facts, Input, Placing, State, Step, step};
use ffpool_schema::message::Sender;
use uuid::Uuid;

const WORKERS: usize = 2;
/// Copies of the message that may wait at once: more would only be claimed and dropped.
const COPIES: u8 = 3;
/// The same where the ledger publishes a job that fits nobody again and again.
const COPIES_OF_A_PLACED_JOB: u8 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Phase {
    /// Has a delivery and has not claimed yet.
    Claiming,
    Encoding,
    Consented,
    Published,
    Reported,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Worker {
    life: u8,
    /// What it does, and for which attempt.
    task: Option<(Phase, u32)>,
    /// Whether it holds an unacknowledged delivery.
    holds: bool,
    /// Whether the broker has delivered that message before.
    redelivered: bool,
    /// Whether it has accepted an offer of the job.
    keeps_room: bool,
}

impl Worker {
    fn idle(life: u8) -> Worker {
        Worker { life, task: None, holds: false, redelivered: false, keeps_room: false }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Report {
    Finished(u32),
    Failed(u32),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    state: State,
    attempt: u32,
    failures: u32,
    losses: u32,
    owner: Option<(usize, u8)>,
    consent: Option<u32>,
    last_cause: Option<Cause>,
    placing: Placing,
    /// The outbox mark.
    publish: bool,
    /// Copies that wait: never delivered, and delivered before.
    ready: (u8, u8),
    workers: [Worker; WORKERS],
    /// Reports that are stored and not yet applied.
    reports: Vec<Report>,
    /// The attempt whose output stands in its place.
    artifact: Option<u32>,
    /// The artifact at the moment of completion.
    completed_with: Option<Option<u32>>,
    faults: u8,
    wishes: u8,
    copies_max: u8,
}

/// The rules that a mutation may break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// None: the protocol as it is.
    Sound,
    /// A worker publishes without asking for consent.
    NoConsent,
    /// Publishing replaces whatever is there.
    ReplaceAlways,
    /// A worker publishes although consent was refused.
    IgnoreRefusal,
    /// A lapse does not publish the job again.
    SilentLapse,
    /// A retry is never published.
    SilentRetry,
    /// An offered job is published again by nobody.
    SilentOffer,
}

struct Model {
    rule: Rule,
    /// A worker that cannot run the job.
    unfit: Option<usize>,
    faults: u8,
    wishes: u8,
}

fn sender(worker: usize, life: u8) -> Sender {
    Sender {
        worker: format!("w{worker}").parse().unwrap(),
        incarnation: Incarnation(Uuid::from_u128(u128::from(life) + 1)),
    }
}

impl World {
    fn first(copies_max: u8) -> World {
        let worker = Worker::idle(0);
        World {
            state: State::Queued,
            attempt: 0,
            failures: 0,
            losses: 0,
            owner: None,
            consent: None,
            last_cause: None,
            placing: Placing::No,
            publish: false,
            ready: (1, 0),
            workers: [worker.clone(), worker],
            reports: Vec::new(),
            artifact: None,
            completed_with: None,
            faults: 0,
            wishes: 0,
            copies_max,
        }
    }

    fn facts(&self) -> Facts {
        Facts {
            state: self.state,
            attempt: self.attempt,
            failures: self.failures,
            max_retries: 1,
            losses: self.losses,
            loss_limit: 4,
            owner: self.owner.map(|(worker, life)| sender(worker, life)),
            consent: self.consent,
            last_cause: self.last_cause,
            paused: false,
            finishing: false,
            placing: self.placing.clone(),
        }
    }

    /// Applies an input as the ledger does. Gives the attempt that began, or was granted again.
    fn apply(&mut self, input: &Input, claimer: Option<usize>, rule: Rule) -> (Step, Option<u32>) {
        let outcome = step(&self.facts(), input);
        let Step::Move(change) = &outcome else { return (outcome, None) };
        let lapsed = matches!(input, Input::Lapse { .. });
        self.state = change.to;
        if change.end.is_some() {
            self.owner = None;
            if lapsed || matches!(input, Input::Claim { .. }) {
                self.losses += 1;
            }
        }
        if change.count_failure {
            self.failures += 1;
            self.last_cause = Some(Cause::NetTransient);
        }
        if change.begin {
            self.attempt += 1;
            self.owner = claimer.map(|worker| (worker, self.workers[worker].life));
            self.publish = false;
        }
        if self.state != State::Delayed {
            self.placing = Placing::No;
        } else if let Some(placing) = &change.placing {
            self.placing = placing.clone();
        }
        if change.consent {
            self.consent = Some(self.attempt);
        }
        if change.publish.is_some() {
            let forgotten = (rule == Rule::SilentLapse && lapsed)
                || (rule == Rule::SilentRetry && matches!(input, Input::Failed { .. }));
            self.publish |= !forgotten;
        }
        if rule == Rule::SilentOffer && matches!(input, Input::Offer { .. }) {
            self.publish = false;
        }
        if self.state.is_end() {
            self.publish = false;
        }
        if self.state == State::Completed && self.completed_with.is_none() {
            self.completed_with = Some(self.artifact);
        }
        let granted = (change.begin || change.grant_again).then_some(self.attempt);
        (outcome, granted)
    }

    fn give_back(&mut self, worker: usize) {
        if std::mem::take(&mut self.workers[worker].holds) {
            self.ready.1 = (self.ready.1 + 1).min(self.copies_max);
        }
    }

    fn report(&mut self, report: Report) {
        if !self.reports.contains(&report) {
            self.reports.push(report);
            self.reports.sort();
        }
    }

    /// Whether somebody will bring the job forward without a further fault.
    fn is_cared_for(&self) -> bool {
        self.state.is_end()
            || self.publish
            || self.ready != (0, 0)
            || !self.reports.is_empty()
            || self.workers.iter().any(|worker| worker.holds)
            // A lease ends, at the latest by silence.
            || self.owner.is_some()
    }
}

impl Model {
    /// Every world that one event leads to. The flag says whether the event is a fault or a wish.
    fn next(&self, world: &World) -> Vec<(String, World, bool)> {
        let mut all = Vec::new();
        let mut add = |name: String, world: World, fault: bool| all.push((name, world, fault));
        for number in 0..WORKERS {
            for (name, next) in self.worker_steps(world, number) {
                add(name, next, false);
            }
        }
        for (place, report) in world.reports.iter().enumerate() {
            let mut next = world.clone();
            next.reports.remove(place);
            let input = match *report {
                Report::Finished(attempt) => Input::Finished { attempt },
                Report::Failed(attempt) => Input::Failed { attempt, cause: Cause::NetTransient },
            };
            let _ = next.apply(&input, None, self.rule);
            add(format!("apply {report:?}"), next.clone(), false);
            if world.faults < self.faults {
                // Applied, and delivered once more because the acknowledgement was lost.
                next.report(*report);
                next.faults += 1;
                add(format!("apply {report:?}, repeated"), next, true);
            }
        }
        if world.publish {
            let mut next = world.clone();
            if next.state == State::Delayed {
                let _ = next.apply(&Input::Due, None, self.rule);
            }
            next.publish = false;
            next.ready.0 = (next.ready.0 + 1).min(next.copies_max);
            add("publish".into(), next, false);
        }
        // Silence that is no fault of the world any more: the owner's life is over, or it dropped the attempt.
        if let Some((worker, life)) = world.owner
            && (world.workers[worker].life != life
                || world.workers[worker].task.is_none_or(|(_, a)| a != world.attempt))
        {
            let mut next = world.clone();
            let _ = next.apply(&Input::Lapse { attempt: world.attempt }, None, self.rule);
            add("lapse of a dead owner".into(), next, false);
        }
        self.add_offers(world, &mut all);
        if world.faults < self.faults {
            self.add_faults(world, &mut all);
        }
        if world.wishes < self.wishes && !world.state.is_end() {
            let mut next = world.clone();
            next.wishes += 1;
            let _ = next.apply(&Input::Cancel, None, self.rule);
            all.push(("cancel".into(), next, true));
        }
        all
    }

    fn add_faults(&self, world: &World, all: &mut Vec<(String, World, bool)>) {
        for number in 0..WORKERS {
            let worker = &world.workers[number];
            if worker.task.is_some() || worker.holds || worker.keeps_room {
                let mut crashed = world.clone();
                crashed.faults += 1;
                crashed.give_back(number);
                crashed.workers[number] = Worker::idle(worker.life + 1);
                all.push((format!("worker {number} crashes"), crashed, true));
            }
            if worker.holds {
                let mut cut = world.clone();
                cut.faults += 1;
                cut.give_back(number);
                if matches!(worker.task, Some((Phase::Claiming, _))) {
                    cut.workers[number].task = None;
                }
                all.push((format!("worker {number} loses its link"), cut, true));
            }
            if let Some((Phase::Encoding, attempt)) = worker.task {
                let mut failed = world.clone();
                failed.faults += 1;
                failed.report(Report::Failed(attempt));
                failed.workers[number].task = Some((Phase::Reported, attempt));
                all.push((format!("the tool of worker {number} fails"), failed, true));
            }
        }
        // A frozen worker is one whose lease lapses while it still means to go on.
        if world.owner.is_some() {
            let mut lapsed = world.clone();
            lapsed.faults += 1;
            let _ = lapsed.apply(&Input::Lapse { attempt: world.attempt }, None, self.rule);
            all.push(("the lease of a frozen worker lapses".into(), lapsed, true));
        }
        let mut doubled = world.clone();
        doubled.faults += 1;
        doubled.ready.0 = (doubled.ready.0 + 1).min(doubled.copies_max);
        all.push(("a publish is repeated".into(), doubled, true));
    }

    /// What the leader does for a job that did not fit: it offers it to the worker that can run it.
    fn add_offers(&self, world: &World, all: &mut Vec<(String, World, bool)>) {
        let Some(chosen) = self.unfit.map(|unfit| 1 - unfit).filter(|_| world.placing == Placing::Wanted) else {
            return;
        };
        let worker = sender(chosen, world.workers[chosen].life);
        let mut offered = world.clone();
        let _ = offered.apply(&Input::Offer { to: worker.clone() }, None, self.rule);
        let mut declined = offered.clone();
        let _ = declined.apply(&Input::OfferDeclined { by: worker.clone() }, None, self.rule);
        all.push((format!("worker {chosen} declines an offer"), declined, false));
        if world.faults < self.faults {
            let mut unheard = offered.clone();
            unheard.faults += 1;
            all.push((format!("worker {chosen} does not hear an offer"), unheard.clone(), true));
            // It has accepted, and the leader dies before it hears that.
            unheard.workers[chosen].keeps_room = true;
            all.push((format!("worker {chosen} accepts an offer unheard"), unheard, true));
        }
        let _ = offered.apply(&Input::OfferAccepted { by: worker }, None, self.rule);
        offered.workers[chosen].keeps_room = true;
        all.push((format!("worker {chosen} accepts an offer"), offered, false));
    }

    /// What a worker does next of itself.
    fn worker_steps(&self, world: &World, number: usize) -> Vec<(String, World)> {
        let worker = &world.workers[number];
        let mut steps = Vec::new();
        if worker.keeps_room && worker.task.is_none() {
            steps.push((format!("worker {number} takes what it was offered"), self.take(world, number)));
            let mut given_up = world.clone();
            given_up.workers[number].keeps_room = false;
            steps.push((format!("worker {number} gives up the room it kept"), given_up));
        }
        match worker.task {
            None => {
                for redelivered in [false, true] {
                    let waiting = if redelivered { world.ready.1 } else { world.ready.0 };
                    if waiting == 0 || worker.holds {
                        continue;
                    }
                    let mut next = world.clone();
                    if redelivered {
                        next.ready.1 -= 1
                    } else {
                        next.ready.0 -= 1
                    }
                    let task = Some((Phase::Claiming, 0));
                    next.workers[number] = Worker { task, holds: true, redelivered, ..worker.clone() };
                    steps.push((format!("worker {number} takes a delivery"), next));
                }
            }
            Some((Phase::Claiming, _)) => steps.push((format!("worker {number} claims"), self.claim(world, number))),
            Some((Phase::Encoding, attempt)) => {
                let mut next = world.clone();
                let input = Input::Commit { from: sender(number, worker.life), attempt };
                let granted = match self.rule {
                    Rule::NoConsent => true,
                    Rule::IgnoreRefusal => {
                        let _ = next.apply(&input, None, self.rule);
                        true
                    }
                    Rule::Sound | Rule::ReplaceAlways | Rule::SilentLapse | Rule::SilentRetry | Rule::SilentOffer => {
                        matches!(next.apply(&input, None, self.rule).0, Step::Move(_))
                    }
                };
                next.workers[number].task = granted.then_some((Phase::Consented, attempt));
                if !granted {
                    // Refused: nothing is published, the delivery is dropped.
                    next.workers[number].holds = false;
                }
                steps.push((format!("worker {number} asks for consent: {granted}"), next));
            }
            Some((Phase::Consented, attempt)) => {
                let mut next = world.clone();
                if self.rule == Rule::ReplaceAlways || next.artifact.is_none_or(|there| there <= attempt) {
                    next.artifact = Some(attempt);
                    next.workers[number].task = Some((Phase::Published, attempt));
                } else {
                    next.workers[number].task = None;
                    next.workers[number].holds = false;
                }
                steps.push((format!("worker {number} publishes attempt {attempt}"), next));
            }
            Some((Phase::Published, attempt)) => {
                let mut next = world.clone();
                next.report(Report::Finished(attempt));
                next.workers[number].task = Some((Phase::Reported, attempt));
                steps.push((format!("worker {number} reports attempt {attempt}"), next));
            }
            Some((Phase::Reported, attempt)) => {
                let mut next = world.clone();
                next.workers[number].task = None;
                next.workers[number].holds = false;
                steps.push((format!("worker {number} acknowledges attempt {attempt}"), next));
            }
        }
        steps
    }

    fn claim(&self, world: &World, number: usize) -> World {
        let mut next = world.clone();
        let worker = &world.workers[number];
        // Only a redelivery makes the ledger ask whether the owner lives.
        let owner_dead =
            worker.redelivered && world.owner.is_some_and(|(owner, life)| world.workers[owner].life != life);
        let from = sender(number, worker.life);
        let input = match self.unfit {
            Some(unfit) if unfit == number => Input::Unfit,
            Some(_) | None => Input::Claim { from, owner_dead, running_unanswered: None },
        };
        match next.apply(&input, Some(number), self.rule).1 {
            Some(attempt) => next.workers[number].task = Some((Phase::Encoding, attempt)),
            None => {
                next.workers[number].task = None;
                next.workers[number].holds = false;
            }
        }
        next
    }

    fn take(&self, world: &World, number: usize) -> World {
        let mut next = world.clone();
        let from = sender(number, world.workers[number].life);
        next.workers[number].keeps_room = false;
        if let Some(attempt) = next.apply(&Input::Take { from }, Some(number), self.rule).1 {
            next.workers[number].task = Some((Phase::Encoding, attempt));
        }
        next
    }

    /// Visits every world. The error is the way to the first that is wrong.
    fn explore(&self) -> Result<usize, String> {
        let first = World::first(if self.unfit.is_some() { COPIES_OF_A_PLACED_JOB } else { COPIES });
        let mut came_from: HashMap<World, Option<(World, String)>> = HashMap::from([(first.clone(), None)]);
        let mut calm: HashMap<World, Vec<World>> = HashMap::new();
        let mut left = VecDeque::from([first]);
        while let Some(world) = left.pop_front() {
            if let Err(wrong) = check(&world) {
                return Err(story(&came_from, &world, &wrong));
            }
            let mut without_faults = Vec::new();
            for (name, next, fault) in self.next(&world) {
                if !came_from.contains_key(&next) {
                    came_from.insert(next.clone(), Some((world.clone(), name)));
                    left.push_back(next.clone());
                }
                if !fault {
                    without_faults.push(next);
                }
            }
            calm.insert(world, without_faults);
        }
        let ending = those_that_end(&calm);
        match came_from.keys().find(|world| !ending.contains(*world)) {
            Some(world) => Err(story(&came_from, world, "the job never ends from here, without any further fault")),
            None => Ok(came_from.len()),
        }
    }
}

fn check(world: &World) -> Result<(), String> {
    if let Some(completed_with) = world.completed_with {
        if completed_with.is_none() {
            return Err("completed without an artifact".into());
        }
        if completed_with != world.artifact {
            return Err(format!("completed with {completed_with:?}, then replaced by {:?}", world.artifact));
        }
    }
    if world.artifact.is_some() && world.consent.is_none() {
        return Err("published without consent".into());
    }
    if !world.is_cared_for() {
        return Err(format!("nobody will bring the job forward from {}", world.state));
    }
    Ok(())
}

/// The worlds from which an end can be reached by calm steps alone, found backwards from the ends.
fn those_that_end(calm: &HashMap<World, Vec<World>>) -> HashSet<&World> {
    let mut before: HashMap<&World, Vec<&World>> = HashMap::new();
    for (world, nexts) in calm {
        for next in nexts {
            before.entry(next).or_default().push(world);
        }
    }
    let mut ending: HashSet<&World> = calm.keys().filter(|world| world.state.is_end()).collect();
    let mut left: Vec<&World> = ending.iter().copied().collect();
    while let Some(world) = left.pop() {
        for &earlier in before.get(world).into_iter().flatten() {
            if ending.insert(earlier) {
                left.push(earlier);
            }
        }
    }
    ending
}

fn story(came_from: &HashMap<World, Option<(World, String)>>, world: &World, wrong: &str) -> String {
    let mut lines = vec![format!("{wrong}\n{world:#?}")];
    let mut at = world;
    while let Some(Some((earlier, name))) = came_from.get(at) {
        lines.push(name.clone());
        at = earlier;
    }
    lines.reverse();
    lines.join("\n")
}

#[test]
fn two_faults_never_lose_or_double_a_job() {
    let model = Model { rule: Rule::Sound, unfit: None, faults: 2, wishes: 0 };
    let worlds = model.explore().unwrap_or_else(|story| panic!("{story}"));
    assert!(worlds > 5_000, "only {worlds} worlds were visited: the explorer does not look far");
}

#[test]
fn a_cancel_among_faults_ends_the_job_and_nothing_else() {
    let model = Model { rule: Rule::Sound, unfit: None, faults: 1, wishes: 1 };
    let worlds = model.explore().unwrap_or_else(|story| panic!("{story}"));
    assert!(worlds > 1_000, "only {worlds} worlds were visited: the explorer does not look far");
}

#[test]
fn a_job_that_must_be_placed_survives_a_fault_and_a_cancel() {
    let model = Model { rule: Rule::Sound, unfit: Some(0), faults: 1, wishes: 1 };
    let worlds = model.explore().unwrap_or_else(|story| panic!("{story}"));
    assert!(worlds > 1_000, "only {worlds} worlds were visited: the explorer does not look far");
}

#[test]
fn every_broken_rule_is_found() {
    let rules = [Rule::NoConsent, Rule::IgnoreRefusal, Rule::ReplaceAlways, Rule::SilentLapse, Rule::SilentRetry];
    for rule in rules {
        let wishes = u8::from(rule == Rule::IgnoreRefusal);
        let found = Model { rule, unfit: None, faults: 2, wishes }.explore();
        assert!(found.is_err(), "{rule:?} is not found among {found:?} worlds");
    }
    let found = Model { rule: Rule::SilentOffer, unfit: Some(0), faults: 1, wishes: 0 }.explore();
    assert!(found.is_err(), "an offer without an end is not found among {found:?} worlds");
}
