//! `GET /v1/throughput`: how many jobs ended, step by step.
//!
//! Invariant: however many ask, the ledger is asked once in [`FRESH`] for each realm and span.

use std::collections::HashMap;
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
/// Answers that are kept: of more, the old ones go.
const KEPT_MAX: usize = 256;
/// Steps in an answer.
const STEPS: u32 = 60;

/// Whose, and how many hours.
type Asked = (Option<String>, u32);

/// Answers that are fresh. Written by whoever asked last.
#[derive(Default)]
pub(crate) struct Kept(Mutex<HashMap<Asked, (Instant, Arc<Throughput>)>>);

impl Kept {
    fn get(&self, asked: &Asked) -> Option<Arc<Throughput>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(asked).filter(|(since, _)| since.elapsed() < FRESH).map(|(_, answer)| answer.clone())
    }

    fn put(&self, asked: Asked, answer: Arc<Throughput>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX {
            kept.retain(|_, (since, _)| since.elapsed() < FRESH);
        }
        if kept.len() < KEPT_MAX {
            kept.insert(asked, (Instant::now(), answer));
        }
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
    if let Some(fresh) = app.throughput.get(&asked) {
        return Ok(Json((*fresh).clone()));
    }
    let step_secs = hours * 3600 / STEPS;
    let from = first_step(Timestamp::now(), step_secs);
    let points = app.ledger.ended_since(caller.realm(), from, step_secs).await?;
    let answer = Arc::new(Throughput { step_secs, points });
    app.throughput.put(asked, answer.clone());
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
    use super::*;

    #[test]
    fn steps_begin_at_multiples_of_their_length() {
        let now: Timestamp = "2026-12-01T10:00:59Z".parse().unwrap();
        assert_eq!(first_step(now, 60), "2026-12-01T09:01:00Z".parse().unwrap());
        assert_eq!(first_step(now, 1440), "2026-11-30T10:24:00Z".parse().unwrap());
    }
}
