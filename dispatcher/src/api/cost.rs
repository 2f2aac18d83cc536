//! What jobs used and cost.

use axum::extract::State;
use axum::http::Uri;
use axum::{Extension, Json};
use ffpool_schema::api::CostReport;
use jiff::{SignedDuration, Timestamp};

use crate::api::App;
use crate::api::problem::{Answer, ApiError};
use crate::api::query::{self, Query};
use crate::ledger::CostBy;
use crate::ledger::keys::Caller;

/// How far back a report goes that does not say.
const BACK: SignedDuration = SignedDuration::from_hours(30 * 24);

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
    let since = query.since()?.unwrap_or_else(|| Timestamp::now() - BACK);
    let rows = app.ledger.costs(caller.realm(), &by, since).await?;
    Ok(Json(CostReport { by: text.to_owned(), since, prices: app.ledger.prices().clone(), rows }))
}
