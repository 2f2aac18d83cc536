//! `GET /v1/failures`: what failed lately, by cause.
//!
//! Invariant: of few failures an answer is as of now; of many it is given again for a moment, and made once for all who ask.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::Uri;
use axum::{Extension, Json};
use ffpool_schema::api::FailureReport;
use jiff::{SignedDuration, Timestamp};

use crate::api::App;
use crate::api::problem::Answer;
use crate::api::query::{self, Query};
use crate::kept::{KeptByQuestion, Rules};
use crate::ledger::keys::Caller;

/// So long after that one of many failures is given while the next is made.
const STALE: Duration = Duration::from_secs(10);
/// Failures that are many.
const MANY: i64 = 10_000;
/// Hours of a report that does not say.
const HOURS: u32 = 24;

/// Whose, and how many hours.
type Asked = (Option<String>, u32);

/// The reports.
pub(crate) type Kept = KeptByQuestion<Asked, FailureReport>;

/// How long they are kept: not at all, but for those of many failures.
pub(crate) fn kept() -> Arc<Kept> {
    KeptByQuestion::new(|| Rules { fresh: Duration::ZERO, is_large, stale: STALE })
}

fn is_large(report: &FailureReport) -> bool {
    report.causes.iter().map(|cause| cause.attempts + cause.dead).sum::<i64>() > MANY
}

/// `GET /v1/failures`
pub(crate) async fn report(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Answer<Json<FailureReport>> {
    let hours = Query::read(&uri, query::FAILURES)?.integer("hours")?.unwrap_or(HOURS);
    let asked = (caller.tenant().map(str::to_owned), hours);
    let (ledger, realm) = (app.ledger.clone(), caller.realm().clone());
    let report = app.failures.of(asked).get(|| async move {
        let since = Timestamp::now() - SignedDuration::from_hours(i64::from(hours));
        Ok(FailureReport { hours, since, causes: ledger.failures_since(&realm, since).await? })
    });
    Ok(Json((*report.await?).clone()))
}
