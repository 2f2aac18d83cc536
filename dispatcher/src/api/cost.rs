//! What jobs used and cost.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::Uri;
use axum::{Extension, Json};
use ffpool_schema::api::CostReport;
use jiff::{SignedDuration, Timestamp};

use crate::api::App;
use crate::api::problem::{Answer, ApiError, Kind};
use crate::api::query::{self, Query};
use crate::api::throughput::step_begin;
use crate::kept::{KeptByQuestion, Rules};
use crate::ledger::keys::Caller;
use crate::ledger::read::ReadError;
use crate::ledger::{CostBy, Summed};

/// A report for which many attempts were looked at is given for so long at least while the next is made.
const STALE: Duration = Duration::from_secs(300);
/// The same for one that is made of the sums that are kept.
const SUMS_STALE: Duration = Duration::from_secs(10);
/// How long an answer waits for attempts to be looked at: less than clients wait for one.
const PATIENCE: Duration = Duration::from_secs(25);
const NOT_YET: &str = "every attempt is looked at for this report, which goes on. Ask the same again: with the same `by` and `since`, word for \
                       word, it is answered at once when that is done.";
const TOO_MANY: &str = "reports for which every attempt is looked at take too long, or too many of them wait. Ask again in a minute, by a later \
                        `since`, or by `tenant`, `queue` or `scenario`.";
/// Attempts that are many.
const MANY: i64 = 10_000;
/// How far back a report goes that does not say, from the last full hour: so that one who asks again asks the same.
const BACK: SignedDuration = SignedDuration::from_hours(30 * 24);
const HOUR_SECS: u32 = 3600;

/// Whose, by what, and since when.
type Asked = (Option<String>, String, Timestamp);

/// The reports.
pub(crate) type Kept = KeptByQuestion<Asked, Summed>;

fn is_large(summed: &Summed) -> bool {
    summed.rows.iter().map(|row| row.attempts).sum::<i64>() > MANY
}

/// How long those are kept for which every attempt is looked at: not at all, but for those of many attempts.
pub(crate) fn kept() -> Arc<Kept> {
    KeptByQuestion::new(|| Rules { fresh: Duration::ZERO, is_large, stale: STALE })
}

/// How long the others are: whoever opens the dashboard asks for the same within an hour.
pub(crate) fn sums_kept() -> Arc<Kept> {
    KeptByQuestion::new(|| Rules { fresh: Duration::ZERO, is_large, stale: SUMS_STALE })
}

/// `GET /v1/cost`
pub(crate) async fn report(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Answer<Json<CostReport>> {
    let query = Query::read(&uri, query::COST)?;
    let text = query.text("by").unwrap_or("tenant");
    let by = CostBy::of(text).ok_or_else(|| {
        ApiError::bad_parameter("by", "tenant, queue, scenario, worker or label:<name> is expected, such as label:show")
    })?;
    let since = query.since()?.unwrap_or_else(|| step_begin(Timestamp::now(), HOUR_SECS) - BACK);
    let (ledger, realm) = (app.ledger.clone(), caller.realm().clone());
    let kept = if by.is_walked() { &app.costs } else { &app.cost_sums };
    let asked = (caller.tenant().map(str::to_owned), text.to_owned(), since);
    let summed = kept.of(asked).get(|| async move { ledger.costs(&realm, &by, since).await });
    // It is summed up all the same.
    let summed = tokio::time::timeout(PATIENCE, summed).await;
    let summed = summed.map_err(|_| ApiError::new(Kind::Unavailable, NOT_YET))?.map_err(refusal)?;
    let Summed { rows, as_of } = Summed::clone(&summed);
    let (by, prices) = (text.to_owned(), app.ledger.prices().clone());
    Ok(Json(CostReport { by, since, as_of: Some(as_of), prices, rows }))
}

/// What costs can be narrowed by is not what lists can.
fn refusal(error: ReadError) -> ApiError {
    match error {
        ReadError::TooSlow => ApiError::new(Kind::Unavailable, TOO_MANY),
        error => error.into(),
    }
}
