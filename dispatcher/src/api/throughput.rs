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

/// So long an answer is given again.
const FRESH: Duration = Duration::from_secs(10);
/// So long after that one that counted many jobs, while the next is made.
const STALE: Duration = Duration::from_secs(60);
/// Jobs that are many.
const MANY: i64 = 10_000;
/// Steps so long look the same a minute later, and whoever of few asks for them has to look through the jobs of many.
const LONG_STEP_SECS: u32 = 600;
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
    answer.step_secs >= LONG_STEP_SECS || ended.sum::<i64>() > MANY
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
        Ok(Throughput { step_secs, points })
    });
    Ok(Json((*answer.await?).clone()))
}

/// When the first of the steps began of which the last holds `now`. Steps begin at multiples of their length, so that a
/// step means the same jobs in every answer.
fn first_step(now: Timestamp, step_secs: u32) -> Timestamp {
    step_begin(now, step_secs) - SignedDuration::from_secs(i64::from(step_secs) * i64::from(STEPS - 1))
}

/// When the step began that holds `now`. Steps of the same length are the same for everybody who asks.
pub(super) fn step_begin(now: Timestamp, step_secs: u32) -> Timestamp {
    let into = now.as_second().rem_euclid(i64::from(step_secs));
    Timestamp::from_second(now.as_second() - into).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_begin_at_multiples_of_their_length() {
        let now: Timestamp = "2026-12-01T10:00:59Z".parse().unwrap();
        assert_eq!(first_step(now, 60), "2026-12-01T09:01:00Z".parse().unwrap());
        assert_eq!(first_step(now, 1440), "2026-11-30T10:24:00Z".parse().unwrap());
    }
}
