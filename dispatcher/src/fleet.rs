//! The workers that are there, as this dispatcher hears them: for the question whether a job fits anywhere.
//!
//! Invariant: only a help for decisions; what it does not know yet makes a job wait, never fail.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ffpool_schema::encode::Encode;
use ffpool_schema::id::WorkerId;
use ffpool_schema::job::{JobSpec, Pool};
use ffpool_schema::message::{Ability, Heartbeat, Sender, WorkerState, revision};
use ffpool_schema::scenario;

/// A worker is there so long after its last heartbeat.
const PRESENT: Duration = Duration::from_secs(5);
/// Silent for longer than this, a worker has missed a heartbeat, and maybe stands still.
const LATE: Duration = Duration::from_millis(1_800);
/// A worker that has been silent for longer holds no delivery: the broker has closed its connection.
const GONE: Duration = Duration::from_secs(60);
/// So long after the start every worker that is there has been heard.
const SETTLED: Duration = Duration::from_secs(4);

/// What was heard of the workers.
pub(crate) struct Fleet {
    began: Instant,
    heard: Mutex<HashMap<WorkerId, (Heartbeat, Instant)>>,
}

impl Fleet {
    pub(crate) fn new() -> Fleet {
        Fleet { began: Instant::now(), heard: Mutex::new(HashMap::new()) }
    }

    /// Takes a heartbeat.
    pub(crate) fn hear(&self, beat: &Heartbeat) {
        let mut heard = self.heard.lock().expect("no holder panics");
        heard.insert(beat.from.worker.clone(), (beat.clone(), Instant::now()));
        if heard.len() > 1_000 {
            heard.retain(|_, (_, at)| at.elapsed() < GONE);
        }
    }

    /// For how long that one has been silent, of the workers that are there and have not said that they stop, which has been
    /// silent for longest.
    pub(crate) fn longest_silence(&self) -> Duration {
        let heard = self.heard.lock().expect("no holder panics");
        let lives = heard.values().filter(|(beat, _)| beat.state != WorkerState::Stopped);
        lives.map(|(_, at)| at.elapsed()).filter(|silence| *silence < GONE).max().unwrap_or_default()
    }

    /// The pools of the workers that took work and have fallen silent: they may still hold deliveries that they will never
    /// claim.
    pub(crate) fn silent_pools(&self) -> BTreeSet<Pool> {
        let heard = self.heard.lock().expect("no holder panics");
        let is_silent = |(beat, at): &&(Heartbeat, Instant)| {
            beat.state == WorkerState::Ready && (LATE..GONE).contains(&at.elapsed())
        };
        heard.values().filter(is_silent).flat_map(|(beat, _)| beat.pools.iter().cloned()).collect()
    }

    /// What a worker said last that it can run, in this life.
    pub(crate) fn ability(&self, worker: &Sender) -> Option<Ability> {
        let heard = self.heard.lock().expect("no holder panics");
        heard.get(&worker.worker).filter(|(beat, _)| beat.from == *worker).map(|(beat, _)| beat.ability.clone())
    }

    /// Whether no worker of `pool` is there that passes over the twins of work queues.
    pub(crate) fn all_serve_twins(&self, pool: &Pool) -> bool {
        let heard = self.heard.lock().expect("no holder panics");
        heard.values().all(|(beat, at)| {
            at.elapsed() >= PRESENT
                || beat.state != WorkerState::Ready
                || !beat.pools.contains(pool)
                || beat.revision >= revision::SERVES_TWINS
        })
    }

    /// The workers that could run the job and keep room for no other, and when they were heard. First those with the most
    /// room now; for a job that runs alone, those with the least to finish.
    pub(crate) fn able(&self, spec: &JobSpec, encode: Option<&Encode>, alone: bool) -> Vec<(Sender, Instant)> {
        let heard = self.heard.lock().expect("no holder panics");
        let mut able: Vec<&(Heartbeat, Instant)> = heard
            .values()
            .filter(|(beat, at)| {
                at.elapsed() < PRESENT
                    && beat.state == WorkerState::Ready
                    && beat.revision >= revision::TAKES_OFFERS
                    && beat.reserved.is_none()
                    && beat.pools.contains(&spec.pool)
                    && scenario::fits(spec, encode, &beat.ability).is_ok()
            })
            .collect();
        let free = |beat: &Heartbeat| beat.capacity.slots.saturating_sub(beat.capacity.used);
        able.sort_by_key(|(beat, _)| if alone { beat.capacity.used } else { u32::MAX - free(beat) });
        able.into_iter().map(|(beat, at)| (beat.from.clone(), *at)).collect()
    }

    /// Whether some worker other than `except` is there that takes work of the job's pool and could run it. `None` when
    /// not everybody has been heard yet.
    pub(crate) fn fits_another(&self, except: &WorkerId, spec: &JobSpec, encode: Option<&Encode>) -> Option<bool> {
        let heard = self.heard.lock().expect("no holder panics");
        let fits = heard.values().any(|(beat, at)| {
            at.elapsed() < PRESENT
                && beat.from.worker != *except
                && beat.state == WorkerState::Ready
                && beat.pools.contains(&spec.pool)
                && scenario::fits(spec, encode, &beat.ability).is_ok()
        });
        if fits || self.began.elapsed() > SETTLED { Some(fits) } else { None }
    }

    /// Whether some worker that is there could run it, if it were not for encoders that rest or are lost now.
    pub(crate) fn fits_rested(&self, spec: &JobSpec, encode: Option<&Encode>) -> bool {
        let heard = self.heard.lock().expect("no holder panics");
        heard.values().any(|(beat, at)| {
            at.elapsed() < PRESENT
                && beat.state == WorkerState::Ready
                && beat.pools.contains(&spec.pool)
                && scenario::fits(spec, encode, &beat.ability.rested()).is_ok()
        })
    }
}
