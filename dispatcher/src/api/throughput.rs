//! `GET /v1/throughput`: how many jobs ended, step by step.
//!
//! Invariant: however many ask, also at once, the ledger is asked once in [`FRESH`] for each realm and span; where it does not
//! answer, once for all who wait.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::Uri;
use axum::{Extension, Json};
use ffpool_schema::api::Throughput;
use jiff::{SignedDuration, Timestamp};

use crate::api::App;
use crate::api::problem::Answer;
use crate::api::query::{self, Query};
use crate::ledger::keys::Caller;

/// So long an answer is given again.
const FRESH: Duration = Duration::from_secs(10);
/// Answers that are kept: for one more, that goes for which nobody has asked longest.
const KEPT_MAX: usize = 256;
/// Steps in an answer.
const STEPS: u32 = 60;

/// Whose, and how many hours.
type Asked = (Option<String>, u32);

/// What came of asking the ledger, and when.
type Outcome = (Instant, Answer<Arc<Throughput>>);

/// Where they wait who ask the same: whoever holds it asks the ledger, for all of them. One who gives up makes room for the next.
type Place = Arc<tokio::sync::Mutex<Option<Outcome>>>;

/// What is given again, by the question, and when each was asked last.
#[derive(Default)]
pub(crate) struct Kept(Mutex<HashMap<Asked, (Instant, Place)>>);

impl Kept {
    /// The answer that is fresh, else what comes of `ask`.
    async fn answer(&self, asked: Asked, ask: impl Future<Output = Answer<Throughput>>) -> Answer<Arc<Throughput>> {
        let came = Instant::now();
        let place = self.place(asked, came);
        let mut outcome = place.lock().await;
        if let Some((told, answer)) = &*outcome
            // A failure is for those who waited for it, and for nobody after them.
            && (*told >= came || answer.is_ok() && told.elapsed() < FRESH)
        {
            return answer.clone();
        }
        let answer = ask.await.map(Arc::new);
        *outcome = Some((Instant::now(), answer.clone()));
        answer
    }

    fn place(&self, asked: Asked, now: Instant) -> Place {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX && !kept.contains_key(&asked) {
            let oldest = kept.iter().min_by_key(|(_, (wanted, _))| *wanted).map(|(asked, _)| asked.clone());
            if let Some(oldest) = oldest {
                kept.remove(&oldest);
            }
        }
        let (wanted, place) = kept.entry(asked).or_insert_with(|| (now, Place::default()));
        *wanted = now;
        place.clone()
    }
}

/// `GET /v1/throughput`
pub(crate) async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Answer<Json<Throughput>> {
    let hours = Query::read(&uri, query::THROUGHPUT)?.integer("hours")?.unwrap_or(1);
    let asked = (caller.tenant().map(str::to_owned), hours);
    let ask = async {
        let step_secs = hours * 3600 / STEPS;
        let from = first_step(Timestamp::now(), step_secs);
        let points = app.ledger.ended_since(caller.realm(), from, step_secs).await?;
        Ok(Throughput { step_secs, points })
    };
    let answer = app.throughput.answer(asked, ask).await?;
    Ok(Json((*answer).clone()))
}

/// When the first of the steps began of which the last holds `now`. Steps begin at multiples of their length, so that a
/// step means the same jobs in every answer.
fn first_step(now: Timestamp, step_secs: u32) -> Timestamp {
    let step = i64::from(step_secs);
    let last = now.as_second() - now.as_second().rem_euclid(step);
    let before = SignedDuration::from_secs(step * i64::from(STEPS - 1));
    Timestamp::from_second(last).unwrap_or(now) - before
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::future::join_all;

    use super::*;
    use crate::api::problem::{ApiError, Kind};

    /// A ledger that counts how often it is asked, and takes its time.
    #[derive(Default)]
    struct Asking(AtomicU32);

    impl Asking {
        /// Gives how often it was asked as the length of a step.
        async fn ask(&self) -> Answer<Throughput> {
            let step_secs = self.0.fetch_add(1, Ordering::Relaxed) + 1;
            tokio::task::yield_now().await;
            Ok(Throughput { step_secs, points: Vec::new() })
        }

        async fn fail(&self) -> Answer<Throughput> {
            self.ask().await?;
            Err(ApiError::new(Kind::Unavailable, "it does not answer"))
        }
    }

    fn acme(hours: u32) -> Asked {
        (Some("acme".to_owned()), hours)
    }

    #[tokio::test]
    async fn all_who_ask_the_same_at_once_are_told_the_same_by_one_look_at_the_ledger() {
        let (kept, ledger) = (Kept::default(), Asking::default());
        let answers = join_all((0..50).map(|_| kept.answer(acme(1), ledger.ask()))).await;
        assert!(answers.into_iter().all(|answer| answer.unwrap().step_secs == 1));
        assert_eq!(kept.answer(acme(1), ledger.ask()).await.unwrap().step_secs, 1, "fresh still");
        assert_eq!(kept.answer(acme(2), ledger.ask()).await.unwrap().step_secs, 2, "another question");
        assert_eq!(kept.answer((None, 1), ledger.ask()).await.unwrap().step_secs, 3, "another realm");
    }

    #[tokio::test]
    async fn a_failure_is_for_all_who_waited_for_it_and_for_nobody_after_them() {
        let (kept, ledger) = (Kept::default(), Asking::default());
        let answers = join_all((0..50).map(|_| kept.answer(acme(1), ledger.fail()))).await;
        assert!(answers.into_iter().all(|answer| answer.is_err()));
        assert_eq!(kept.answer(acme(1), ledger.ask()).await.unwrap().step_secs, 2);
        // Whoever gives up while it is asked leaves the question to the next.
        let (asking, waiting) = (kept.answer(acme(2), std::future::pending()), kept.answer(acme(2), ledger.ask()));
        let mut asking = Box::pin(asking);
        assert!(futures_util::poll!(&mut asking).is_pending());
        let mut waiting = Box::pin(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(asking);
        assert_eq!(waiting.await.unwrap().step_secs, 3);
    }

    #[tokio::test]
    async fn one_answer_more_takes_the_place_of_the_one_that_nobody_has_asked_for_longest() {
        let (kept, ledger) = (Kept::default(), Asking::default());
        let questions = u32::try_from(KEPT_MAX).unwrap();
        for hours in 1..=questions {
            kept.answer(acme(hours), ledger.ask()).await.unwrap();
        }
        kept.answer(acme(1), ledger.ask()).await.unwrap();
        kept.answer(acme(questions + 1), ledger.ask()).await.unwrap();
        assert_eq!(
            kept.answer(acme(questions + 1), ledger.ask()).await.unwrap().step_secs,
            questions + 1,
            "it is kept"
        );
        assert_eq!(kept.answer(acme(1), ledger.ask()).await.unwrap().step_secs, 1, "asked for lately");
        assert_eq!(kept.0.lock().unwrap().len(), KEPT_MAX);
        assert_eq!(kept.answer(acme(2), ledger.ask()).await.unwrap().step_secs, questions + 2, "it had to go");
    }

    #[test]
    fn steps_begin_at_multiples_of_their_length() {
        let now: Timestamp = "2026-12-01T10:00:59Z".parse().unwrap();
        assert_eq!(first_step(now, 60), "2026-12-01T09:01:00Z".parse().unwrap());
        assert_eq!(first_step(now, 1440), "2026-11-30T10:24:00Z".parse().unwrap());
    }
}
