//! Answers that take long to make, given again for a while.
//!
//! Invariants:
//! * one answer to a question is made at a time, however many ask;
//! * who asks gets an answer that was begun after they asked, or one that is no older than [`Rules`] say: so small ledgers, whose
//!   answers are not kept at all, tell what is there now.

use std::collections::HashMap;
use std::fmt::Display;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

/// An answer that took long is good for so many times as long: asking often costs Postgres a tenth of a connection at most.
const REST: u32 = 10;
/// Questions whose answers are kept; of more the old ones go.
const QUESTIONS_MAX: usize = 256;

/// How old an answer may be.
pub(crate) struct Rules<T> {
    /// Every answer is good for so long.
    pub(crate) fresh: Duration,
    /// Whether making one took looking at much, so that it is good for longer: [`REST`].
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

/// The last answer to one question.
pub(crate) struct Kept<T> {
    rules: Rules<T>,
    /// Written by whoever has the turn.
    last: Mutex<Option<Arc<Made<T>>>>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl<T: Send + Sync + 'static> Kept<T> {
    pub(crate) fn new(rules: Rules<T>) -> Arc<Kept<T>> {
        Arc::new(Kept { rules, last: Mutex::new(None), turn: Arc::default() })
    }

    /// The last answer where it is good still, else the one that `make` makes.
    pub(crate) async fn get<E, F>(self: Arc<Self>, make: impl FnOnce() -> F) -> Result<Arc<T>, E>
    where
        E: Display + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let asked = Instant::now();
        if let Some(made) = self.last() {
            let age = made.ended.elapsed();
            if age < made.fresh {
                return Ok(made.answer.clone());
            }
            if age < made.fresh + made.stale {
                if let Ok(turn) = self.turn.clone().try_lock_owned() {
                    tokio::spawn(self.clone().renew(turn, make()));
                }
                return Ok(made.answer.clone());
            }
        }
        let turn = self.turn.clone().lock_owned().await;
        match self.last() {
            Some(made) if made.began >= asked || made.ended.elapsed() < made.fresh => Ok(made.answer.clone()),
            _ => self.make(turn, make()).await,
        }
    }

    async fn renew<E: Display + Send>(
        self: Arc<Self>,
        turn: OwnedMutexGuard<()>,
        making: impl Future<Output = Result<T, E>>,
    ) {
        if let Err(error) = self.make(turn, making).await {
            tracing::debug!(%error, "an answer that had grown old was not made anew");
        }
    }

    async fn make<E>(
        &self,
        turn: OwnedMutexGuard<()>,
        making: impl Future<Output = Result<T, E>>,
    ) -> Result<Arc<T>, E> {
        let began = Instant::now();
        let answer = Arc::new(making.await?);
        let (fresh, stale) = match (self.rules.is_large)(&answer) {
            true => (self.rules.fresh.max(began.elapsed() * REST), self.rules.stale),
            false => (self.rules.fresh, Duration::ZERO),
        };
        let made = Made { answer: answer.clone(), began, ended: Instant::now(), fresh, stale };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(made));
        drop(turn);
        Ok(answer)
    }

    fn last(&self) -> Option<Arc<Made<T>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_good(&self) -> bool {
        self.last().is_some_and(|made| made.ended.elapsed() < made.fresh + made.stale)
    }
}

/// The last answers to questions of one sort.
pub(crate) struct KeptByQuestion<K, T> {
    rules: fn() -> Rules<T>,
    kept: Mutex<HashMap<K, Arc<Kept<T>>>>,
}

impl<K: Hash + Eq, T: Send + Sync + 'static> KeptByQuestion<K, T> {
    pub(crate) fn new(rules: fn() -> Rules<T>) -> Arc<KeptByQuestion<K, T>> {
        Arc::new(KeptByQuestion { rules, kept: Mutex::default() })
    }

    /// Of one question.
    pub(crate) fn of(&self, question: K) -> Arc<Kept<T>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.get(&question) {
            return known.clone();
        }
        if kept.len() >= QUESTIONS_MAX {
            // One that is being made is in somebody's hands, and only others will not share it.
            kept.retain(|_, kept| kept.is_good());
        }
        let new = Kept::new((self.rules)());
        if kept.len() < QUESTIONS_MAX {
            kept.insert(question, new.clone());
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::future::join_all;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn kept(fresh: Duration, stale: Duration) -> Arc<Kept<u32>> {
        Kept::new(Rules { fresh, is_large: |number| *number >= 100, stale })
    }

    async fn ask(kept: &Arc<Kept<u32>>, answer: u32) -> u32 {
        *kept.clone().get(|| async move { Ok::<_, Infallible>(answer) }).await.unwrap()
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
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let next = async move {
            gone.await.unwrap();
            Ok::<_, Infallible>(200)
        };
        assert_eq!(*kept.clone().get(|| next).await.unwrap(), 100);
        // Somebody makes it already.
        assert_eq!(ask(&kept, 300).await, 100);
        go.send(()).unwrap();
        drop(kept.turn.lock().await);
        assert_eq!(*kept.last().unwrap().answer, 200);
    }

    #[tokio::test]
    async fn all_who_ask_at_once_are_told_one_answer() {
        let (kept, made) = (kept(LONG, Duration::ZERO), AtomicU32::new(0));
        let ask = || async {
            let number = made.fetch_add(1, Ordering::Relaxed);
            // Whoever comes meanwhile waits.
            let making = async move {
                tokio::task::yield_now().await;
                Ok::<_, Infallible>(number)
            };
            *kept.clone().get(|| making).await.unwrap()
        };
        let answers = join_all((0..50).map(|_| ask())).await;
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    }

    #[tokio::test]
    async fn what_cannot_be_made_is_told_and_keeps_nobody_from_trying() {
        let kept = kept(LONG, LONG);
        assert_eq!(kept.clone().get(|| async { Err::<u32, _>("no") }).await.unwrap_err(), "no");
        assert_eq!(ask(&kept, 7).await, 7);
    }

    #[test]
    fn no_more_questions_are_kept_than_there_may_be() {
        let all = KeptByQuestion::<usize, u32>::new(|| Rules { fresh: LONG, is_large: |_| false, stale: LONG });
        for question in 0..2 * QUESTIONS_MAX {
            all.of(question);
        }
        assert!(all.kept.lock().unwrap().len() <= QUESTIONS_MAX);
    }
}
