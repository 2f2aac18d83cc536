//! Answers that take long to make, given again for a while.
//!
//! Invariants:
//! * one answer to a question is made at a time, however many ask, and whoever of them goes away meanwhile;
//! * who asks gets an answer that was begun after they asked, or one that is no older than [`Rules`] say: so small ledgers, whose
//!   answers are not kept at all, tell what is there now;
//! * what cannot be made is told to all who waited for it, and keeps nobody from trying who comes later.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::ledger::read::ReadError;

/// An answer that took long is good for so many times as long: asking often costs Postgres a tenth of a connection at most.
const REST: u32 = 10;
/// Whatever an answer says, making one for so long took looking at much.
const LONG: Duration = Duration::from_millis(500);
/// Questions whose answers are kept; for one more goes the answer that is oldest.
const QUESTIONS_MAX: usize = 256;

/// How old an answer may be.
pub(crate) struct Rules<T> {
    /// Every answer is good for so long.
    pub(crate) fresh: Duration,
    /// Whether an answer tells of much, so that it is good for longer: [`REST`].
    pub(crate) is_large: fn(&T) -> bool,
    /// A large one is given for so long after that while the next is made, so that nobody waits for it.
    pub(crate) stale: Duration,
}

struct Made<T> {
    answer: Arc<T>,
    began: Instant,
    ended: Instant,
    fresh: Duration,
    stale: Duration,
}

impl<T> Made<T> {
    fn is_good(&self) -> bool {
        self.ended.elapsed() < self.fresh + self.stale
    }
}

/// What came of asking the ledger.
struct Last<T> {
    made: Option<Made<T>>,
    /// The newest failure, and when that try began.
    failed: Option<(Instant, ReadError)>,
}

type Outcome<T> = Result<Arc<T>, ReadError>;

/// The last answer to one question.
pub(crate) struct Kept<T> {
    rules: Rules<T>,
    /// Written by whoever has the turn.
    last: Mutex<Last<T>>,
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Whatever is being made. Reads of the ledger are bounded, so each ends by itself; the next one joins it.
    making: Mutex<JoinSet<()>>,
}

impl<T: Send + Sync + 'static> Kept<T> {
    pub(crate) fn new(rules: Rules<T>) -> Arc<Kept<T>> {
        let last = Mutex::new(Last { made: None, failed: None });
        Arc::new(Kept { rules, last, turn: Arc::default(), making: Mutex::default() })
    }

    /// The last answer where it is good still, else the one that `make` makes.
    pub(crate) async fn get<F>(self: Arc<Self>, make: impl FnOnce() -> F) -> Outcome<T>
    where
        F: Future<Output = Result<T, ReadError>> + Send + 'static,
    {
        let asked = Instant::now();
        let good = self.last().made.as_ref().filter(|made| made.is_good()).map(|made| {
            let is_fresh = made.ended.elapsed() < made.fresh;
            (made.answer.clone(), is_fresh)
        });
        if let Some((answer, is_fresh)) = good {
            if !is_fresh && let Ok(turn) = self.turn.clone().try_lock_owned() {
                // Nobody waits for it.
                drop(self.start(turn, make()));
            }
            return Ok(answer);
        }
        let turn = self.turn.clone().lock_owned().await;
        match self.since(asked) {
            Some(outcome) => outcome,
            // Only a dispatcher that ends takes the sender away.
            None => self.start(turn, make()).await.unwrap_or(Err(ReadError::Silent)),
        }
    }

    /// Has an answer made, also when nobody waits for it any more: Postgres looks at the same rows all the same.
    fn start<F>(self: &Arc<Self>, turn: OwnedMutexGuard<()>, make: F) -> oneshot::Receiver<Outcome<T>>
    where
        F: Future<Output = Result<T, ReadError>> + Send + 'static,
    {
        let (told, outcome) = oneshot::channel();
        let kept = self.clone();
        let mut making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        while making.try_join_next().is_some() {}
        // Before anybody asks who finds that it is being made.
        let began = Instant::now();
        making.spawn(async move {
            let outcome = kept.note(began, make.await);
            drop(turn);
            let _ = told.send(outcome);
        });
        outcome
    }

    fn note(&self, began: Instant, made: Result<T, ReadError>) -> Outcome<T> {
        let mut last = self.last();
        let answer = match made {
            Ok(answer) => Arc::new(answer),
            Err(error) => {
                last.failed = Some((began, error.clone()));
                return Err(error);
            }
        };
        let took = began.elapsed();
        let (fresh, stale) = match (self.rules.is_large)(&answer) || took > LONG {
            true => (self.rules.fresh.max(took * REST), self.rules.stale),
            false => (self.rules.fresh, Duration::ZERO),
        };
        last.made = Some(Made { answer: answer.clone(), began, ended: Instant::now(), fresh, stale });
        Ok(answer)
    }

    /// What came of a try that began since then, or is fresh still.
    fn since(&self, asked: Instant) -> Option<Outcome<T>> {
        let last = self.last();
        let made = last.made.as_ref().filter(|made| made.began >= asked || made.ended.elapsed() < made.fresh);
        let failed = last.failed.as_ref().filter(|(began, _)| *began >= asked);
        made.map(|made| Ok(made.answer.clone())).or_else(|| failed.map(|(_, error)| Err(error.clone())))
    }

    fn last(&self) -> MutexGuard<'_, Last<T>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last answers to questions of one sort.
pub(crate) struct KeptByQuestion<K, T> {
    rules: fn() -> Rules<T>,
    kept: Mutex<HashMap<K, Arc<Kept<T>>>>,
}

impl<K: Hash + Eq + Clone, T: Send + Sync + 'static> KeptByQuestion<K, T> {
    pub(crate) fn new(rules: fn() -> Rules<T>) -> Arc<KeptByQuestion<K, T>> {
        Arc::new(KeptByQuestion { rules, kept: Mutex::default() })
    }

    /// Of one question.
    pub(crate) fn of(&self, question: K) -> Arc<Kept<T>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= QUESTIONS_MAX && !kept.contains_key(&question) {
            // One that is being made is in somebody's hands, and only others will not share it.
            let ended = |kept: &Arc<Kept<T>>| kept.last().made.as_ref().map(|made| made.ended);
            let oldest = kept.iter().min_by_key(|(_, kept)| ended(kept)).map(|(question, _)| question.clone());
            if let Some(oldest) = oldest {
                kept.remove(&oldest);
            }
        }
        kept.entry(question).or_insert_with(|| Kept::new((self.rules)())).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::future::join_all;
    use futures_util::poll;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn kept(fresh: Duration, stale: Duration) -> Arc<Kept<u32>> {
        Kept::new(Rules { fresh, is_large: |number| *number >= 100, stale })
    }

    async fn ask(kept: &Arc<Kept<u32>>, answer: u32) -> u32 {
        *kept.clone().get(|| async move { Ok(answer) }).await.unwrap()
    }

    #[tokio::test]
    async fn a_small_answer_is_made_anew_each_time_and_a_large_one_is_given_again() {
        let small = kept(Duration::ZERO, LONG);
        assert_eq!((ask(&small, 1).await, ask(&small, 2).await), (1, 2));
        let large = kept(LONG, Duration::ZERO);
        assert_eq!((ask(&large, 100).await, ask(&large, 101).await), (100, 100));
    }

    // Where no time passes, no answer takes long to make.
    #[tokio::test(start_paused = true)]
    async fn one_that_has_grown_old_is_given_once_more_while_the_next_is_made() {
        let kept = kept(Duration::ZERO, LONG);
        assert_eq!(ask(&kept, 100).await, 100);
        let (go, gone) = oneshot::channel::<()>();
        let next = async move {
            gone.await.unwrap();
            Ok(200)
        };
        assert_eq!(*kept.clone().get(|| next).await.unwrap(), 100);
        // Somebody makes it already.
        assert_eq!(ask(&kept, 300).await, 100);
        go.send(()).unwrap();
        drop(kept.turn.lock().await);
        assert_eq!(*kept.last().made.as_ref().unwrap().answer, 200);
    }

    /// Fifty who ask while somebody else has the turn, each with the number of its own try; and how many tried.
    async fn fifty(kept: &Arc<Kept<u32>>, number: fn(u32) -> Result<u32, ReadError>) -> (Vec<Outcome<u32>>, u32) {
        let tried = Arc::new(AtomicU32::new(0));
        let turn = kept.turn.clone().lock_owned().await;
        let ask = || {
            let tried = tried.clone();
            kept.clone().get(move || async move { number(tried.fetch_add(1, Ordering::Relaxed)) })
        };
        let mut asking = Box::pin(join_all((0..50).map(|_| ask())));
        assert!(poll!(&mut asking).is_pending());
        drop(turn);
        (asking.await, tried.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn all_who_wait_are_told_one_answer_and_who_comes_later_gets_a_new_one() {
        let kept = kept(Duration::ZERO, Duration::ZERO);
        let (told, tried) = fifty(&kept, Ok).await;
        assert!(told.into_iter().all(|answer| *answer.unwrap() == 0));
        assert_eq!((tried, ask(&kept, 7).await), (1, 7));
    }

    #[tokio::test]
    async fn what_cannot_be_made_is_told_to_all_who_wait_and_keeps_nobody_from_trying() {
        let kept = kept(LONG, LONG);
        let (told, tried) = fifty(&kept, |_| Err(ReadError::TooSlow)).await;
        assert!(told.into_iter().all(|answer| matches!(answer, Err(ReadError::TooSlow))));
        assert_eq!((tried, ask(&kept, 7).await), (1, 7));
    }

    #[tokio::test]
    async fn who_goes_away_leaves_what_is_being_made_and_no_second_one_begins_beside_it() {
        let kept = kept(Duration::ZERO, Duration::ZERO);
        let (go, gone) = oneshot::channel::<()>();
        let first = async move {
            gone.await.unwrap();
            Ok(1)
        };
        let mut goes = Box::pin(kept.clone().get(|| first));
        assert!(poll!(&mut goes).is_pending());
        drop(goes);
        let mut stays = Box::pin(ask(&kept, 2));
        assert!(poll!(&mut stays).is_pending());
        go.send(()).unwrap();
        assert_eq!(stays.await, 2);
    }

    #[tokio::test]
    async fn for_one_question_more_the_oldest_answer_goes() {
        let all = KeptByQuestion::<usize, u32>::new(|| Rules { fresh: LONG, is_large: |_| false, stale: LONG });
        for question in 0..=QUESTIONS_MAX {
            assert_eq!(ask(&all.of(question), 1).await, 1);
        }
        assert_eq!(all.kept.lock().unwrap().len(), QUESTIONS_MAX);
        assert_eq!(ask(&all.of(QUESTIONS_MAX), 2).await, 1, "the newest is kept");
        assert_eq!(ask(&all.of(0), 2).await, 2, "the oldest had to go");
    }
}
