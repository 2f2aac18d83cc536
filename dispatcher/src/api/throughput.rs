//! `GET /v1/throughput`: how many jobs ended, step by step.
//!
//! Invariant: however many ask, also at once, the ledger is asked once in [`FRESH`] for each realm and span; where it does not
//! answer, once for all who wait.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::Uri;
use axum::{Extension, Json};
use ffpool_schema::api::Throughput;
use jiff::{SignedDuration, Timestamp};

use crate::api::App;
use crate::api::problem::Answer;
use crate::api::query::{self, Query};
use crate::kept::{KeptByQuestion, Rules};
use crate::ledger::keys::Caller;
use crate::ledger::read::ReadError;

/// So long an answer is given again.
const FRESH: Duration = Duration::from_secs(10);
/// So long after that one that counted many jobs, while the next is made.
const STALE: Duration = Duration::from_secs(60);
/// Jobs that are many.
const MANY: i64 = 10_000;
/// Steps in an answer.
const STEPS: u32 = 60;

/// Whose, and how many hours.
type Asked = (Option<String>, u32);

/// The answers.
pub(crate) type Kept = KeptByQuestion<Asked, Throughput>;

/// How long they are kept.
pub(crate) fn kept() -> Arc<Kept> {
    KeptByQuestion::new(|| Rules { fresh: FRESH, is_large, stale: STALE })
}

fn is_large(answer: &Throughput) -> bool {
    let ended = answer.points.iter().map(|point| point.completed + point.failed + point.cancelled + point.rejected);
    ended.sum::<i64>() > MANY
}

/// `GET /v1/throughput`
pub(crate) async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Answer<Json<Throughput>> {
    let hours = Query::read(&uri, query::THROUGHPUT)?.integer("hours")?.unwrap_or(1);
    let asked = (caller.tenant().map(str::to_owned), hours);
    let (ledger, realm) = (app.ledger.clone(), caller.realm().clone());
    let answer = app.throughput.of(asked).get(|| async move {
        let step_secs = hours * 3600 / STEPS;
        let from = first_step(Timestamp::now(), step_secs);
        let points = ledger.ended_since(&realm, from, step_secs).await?;
        Ok::<_, ReadError>(Throughput { step_secs, points })
    });
    Ok(Json((*answer.await?).clone()))
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
