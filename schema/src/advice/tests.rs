//! The advice held to its promises, on situations that look random and on one that is told in the documents.

use super::*;
use crate::job::{Pool, Priority};

/// Numbers that look random (xorshift64*), the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound.max(1)
    }

    fn secs(&mut self, most: u64) -> f64 {
        self.below(most * 10) as f64 / 10.0
    }

    fn line(&mut self) -> Line {
        Line { queue: Queue::ALL[self.below(3) as usize], priority: Priority::ALL[self.below(3) as usize] }
    }

    fn kind(&mut self) -> Kind {
        let scenario = ["480p30-h264", "1080p30-h264", "4K60-h265"][self.below(3) as usize];
        Kind { scenario: scenario.to_owned(), units: 1 + self.below(6) as u32 }
    }

    fn waiting(&mut self) -> Waiting {
        Waiting { line: self.line(), kind: self.kind(), jobs: self.below(200), oldest_secs: self.secs(5000) }
    }

    fn situation(&mut self) -> Situation {
        let mut situation = Situation::empty(Pool::cpu());
        for number in 0..self.below(6) {
            let (slots, draining) = (1 + self.below(8) as u32, self.below(5) == 0);
            situation.workers.push(Place { used: self.below(2) as u32, ..place(number, slots, draining) });
        }
        situation.waiting = (0..self.below(5)).map(|_| self.waiting()).collect();
        for _ in 0..self.below(8) {
            let worker = self.below(6);
            let eta_secs = (self.below(2) == 0).then(|| self.secs(1000));
            situation.running.push(Running {
                line: self.line(),
                kind: self.kind(),
                worker: situation.workers.get(worker as usize).map(|place| place.worker.clone()),
                elapsed_secs: self.secs(2000),
                eta_secs,
            });
        }
        for _ in 0..self.below(3) {
            situation.arriving.push(Arriving { line: self.line(), kind: self.kind(), per_sec: self.secs(2) });
        }
        for _ in 0..self.below(8) {
            situation.history.0.insert(self.kind(), known(self.secs(4000)));
        }
        situation.paused = Queue::ALL.into_iter().filter(|_| self.below(8) == 0).collect();
        situation
    }

    /// Wishes of a size of their own: more work may also be larger work, and then fewer workers, but larger ones.
    fn wishes(&mut self) -> Wishes {
        let min = self.below(4) as u32;
        Wishes {
            min,
            max: (self.below(2) == 0).then(|| min + self.below(20) as u32),
            slots: Some(1 + self.below(8) as u32),
            targets: WaitTargets::default(),
        }
    }
}

fn place(number: u64, slots: u32, draining: bool) -> Place {
    Place { worker: format!("w{number}").parse().unwrap(), draining, slots, used: 0 }
}

fn known(secs: f64) -> Expected {
    Expected { mean_secs: secs, median_secs: secs, p90_secs: secs * 1.5, samples: 20 }
}

fn line(queue: Queue, priority: Priority) -> Line {
    Line { queue, priority }
}

fn kind(units: u32) -> Kind {
    Kind { scenario: "1080p30-h264".to_owned(), units }
}

fn waits(line: Line, units: u32, jobs: u64) -> Waiting {
    Waiting { line, kind: kind(units), jobs, oldest_secs: 0.0 }
}

fn told(situation: &Situation, wishes: &Wishes) -> PoolAdvice {
    advise(situation, wishes, Timestamp::UNIX_EPOCH)
}

/// A pool with jobs of one kind, each of so many seconds and units.
fn backlog(queue: Queue, jobs: u64, units: u32, secs: f64) -> Situation {
    let mut situation = Situation::empty(Pool::cpu());
    situation.waiting.push(waits(line(queue, Priority::Medium), units, jobs));
    situation.history.0.insert(kind(units), known(secs));
    situation
}

#[test]
fn more_work_never_asks_for_fewer_workers() {
    let mut numbers = Numbers(7);
    for round in 0..3000 {
        let (before, wishes) = (numbers.situation(), numbers.wishes());
        let mut after = before.clone();
        match numbers.below(3) {
            0 => after.waiting.push(numbers.waiting()),
            1 => after.arriving.push(Arriving { line: numbers.line(), kind: numbers.kind(), per_sec: numbers.secs(2) }),
            _ => after.waiting.iter_mut().for_each(|waiting| waiting.jobs = waiting.jobs * 2 + 1),
        }
        let (fewer, more) = (told(&before, &wishes), told(&after, &wishes));
        assert!(
            fewer.desired_workers <= more.desired_workers,
            "{round}: {before:#?}\n{after:#?}\n{fewer:#?}\n{more:#?}"
        );
        assert!(fewer.needed_slots <= more.needed_slots, "{round}: {fewer:#?}\n{more:#?}");
    }
}

#[test]
fn no_busy_worker_may_go_and_the_bounds_hold_for_all_others() {
    let mut numbers = Numbers(11);
    for round in 0..3000 {
        let (situation, wishes) = (numbers.situation(), numbers.wishes());
        let told = told(&situation, &wishes);
        let context = || format!("{round}: {situation:#?}\n{told:#?}");
        assert!(told.desired_workers >= told.busy_workers.max(wishes.min), "{}", context());
        assert!(told.desired_workers <= wishes.max.unwrap_or(u32::MAX).max(told.busy_workers), "{}", context());
        let idle = told.first_to_go.iter().take_while(|candidate| candidate.idle).count();
        assert!(told.surplus_workers as usize <= idle, "{}", context());
        let runs =
            |candidate: &Candidate| situation.running.iter().any(|job| job.worker.as_ref() == Some(&candidate.worker));
        assert!(!told.first_to_go.iter().any(|candidate| candidate.idle && runs(candidate)), "{}", context());
        assert!(told.first_to_go[idle..].is_sorted_by(|a, b| a.lost_secs <= b.lost_secs), "{}", context());
        assert_eq!(told.missing_workers.min(told.surplus_workers), 0, "{}", context());
        assert_eq!(
            told.ready_workers + told.missing_workers - told.surplus_workers,
            told.desired_workers,
            "{}",
            context()
        );
    }
}

#[test]
fn where_nothing_waits_runs_or_arrives_the_minimum_is_enough() {
    let mut numbers = Numbers(13);
    for _ in 0..500 {
        let mut situation = numbers.situation();
        let wishes = numbers.wishes();
        (situation.waiting, situation.running, situation.arriving) = Default::default();
        situation.workers.iter_mut().for_each(|place| place.used = 0);
        let told = told(&situation, &wishes);
        assert_eq!((told.desired_workers, told.needed_workers, told.steady_workers), (wishes.min, 0, 0), "{told:#?}");
    }
}

#[test]
fn with_what_is_advised_every_job_starts_in_time() {
    let mut numbers = Numbers(17);
    for _ in 0..500 {
        let (jobs, units, secs) = (1 + numbers.below(400), 1 + numbers.below(5) as u32, 0.1 + numbers.secs(2000));
        let (queue, size) = (Queue::ALL[numbers.below(3) as usize], 1 + numbers.below(9) as u32);
        let wishes = Wishes { slots: Some(size), ..Wishes::default() };
        let workers = u64::from(told(&backlog(queue, jobs, units, secs), &wishes).desired_workers);
        // As a pool does it: each worker takes as many at once as fit, and the next ones when these are done.
        let last_start = |workers: u64| ((jobs - 1) / (workers * u64::from(size / units.min(size)))) as f64 * secs;
        let target = wishes.targets.of(queue);
        let said = format!("{jobs} of {units} x {secs} s in {queue}, workers of {size}: {workers}");
        assert!(last_start(workers) <= target, "{said}; the last starts after {} s", last_start(workers));
        assert!(workers == 1 || last_start(workers - 1) > target, "{said}; one fewer would do");
    }
}

#[test]
fn a_worse_line_waits_for_better_ones_and_does_not_make_them_wait() {
    let (live, batch) = (line(Queue::Live, Priority::High), line(Queue::Batch, Priority::Low));
    let mut situation = Situation::empty(Pool::cpu());
    situation.history.0.insert(kind(1), known(3600.0));
    situation.waiting = vec![waits(batch, 1, 8)];
    let wishes = Wishes { slots: Some(1), ..Wishes::default() };
    let alone = told(&situation, &wishes);
    // An hour each, to start within an hour: one now, one after it.
    assert_eq!(alone.desired_workers, 4, "{alone:#?}");
    situation.waiting.push(waits(live, 1, 2));
    let both = told(&situation, &wishes);
    assert_eq!(both.desired_workers, 5, "within the batch's hour the live ones are as good as two more: {both:#?}");
    assert_eq!(both.lines[0].needed_slots, 2.0, "live does not wait for batch: {both:#?}");
    // What has waited for long has less time left.
    situation.waiting[0].oldest_secs = 3000.0;
    assert_eq!(told(&situation, &wishes).desired_workers, 10);
}

#[test]
fn draining_workers_are_apart_and_paused_queues_ask_for_nobody() {
    let mut situation = backlog(Queue::Default, 4, 1, 600.0);
    situation.workers = vec![place(1, 4, true), place(2, 2, false)];
    let told_now = told(&situation, &Wishes::default());
    assert_eq!(
        (told_now.ready_workers, told_now.draining_workers, told_now.missing_workers),
        (1, 1, 1),
        "{told_now:#?}"
    );
    assert!(told_now.first_to_go.iter().all(|candidate| candidate.worker.to_string() == "w2"));
    situation.paused = vec![Queue::Default];
    situation.waiting[0].oldest_secs = 90.0;
    let paused = told(&situation, &Wishes::default());
    assert_eq!((paused.desired_workers, paused.surplus_workers), (0, 1), "{paused:#?}");
    assert!(paused.reasons.iter().any(|reason| reason.contains("4 more wait in paused queues")), "{paused:#?}");
    let told = &paused.lines[0];
    assert_eq!(
        (told.paused, told.oldest_secs, told.needed_slots),
        (true, 90.0, 0.0),
        "its jobs wait all the same: {told:#?}"
    );
}

#[test]
fn what_nobody_knows_is_said() {
    let mut situation = Situation::empty(Pool::cpu());
    situation.waiting.push(waits(line(Queue::Default, Priority::Medium), 8, 1));
    let unknown = told(&situation, &Wishes::default());
    assert_eq!((unknown.desired_workers, unknown.slots_per_worker), (1, 8), "{unknown:#?}");
    let said = unknown.reasons.join("\n");
    assert!(said.contains("ever seen") && said.contains("Nothing of 1080p30-h264 has completed lately"), "{said}");
    situation.workers.push(place(1, 4, false));
    let small = told(&situation, &Wishes::default()).reasons.join("\n");
    assert!(small.contains("takes 8 slots; no worker here has more than 4"), "{small}");
}

/// The example of `docs/scaling.md`, whose numbers stand there.
#[test]
fn the_example_of_the_page_is_what_the_code_says() {
    let page = include_str!("../../../docs/scaling.md");
    // A machine of 16 cores and 32 GB, workload `io`: 16 slots. A job of 200 % and 2 GB takes two, so eight run at a time.
    let mut situation = backlog(Queue::Default, 100, 2, 240.0);
    situation.workers = vec![place(1, 16, false), place(2, 16, false)];
    for job in 0..8 {
        situation.running.push(Running {
            line: line(Queue::Default, Priority::Medium),
            kind: kind(2),
            worker: Some("w1".parse().unwrap()),
            elapsed_secs: 90.0 + f64::from(job),
            eta_secs: Some(150.0),
        });
    }
    let example = told(&situation, &Wishes::default());
    assert_eq!((example.desired_workers, example.missing_workers), (7, 5), "{example:#?}");
    for reason in &example.reasons {
        assert!(page.contains(reason), "docs/scaling.md lacks: {reason}\n{example:#?}");
    }
}
