//! Who did what: the audit of every change that was asked for by a person.

use axum::extract::State;
use axum::http::Uri;
use axum::{Extension, Json};
use ffpool_schema::api::{AuditView, Page};

use crate::api::App;
use crate::api::problem::Answer;
use crate::api::query::{self, Query};
use crate::ledger::keys::Caller;

/// `GET /v1/audit`
pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Answer<Json<Page<AuditView>>> {
    let query = Query::read(&uri, query::AUDIT)?;
    let (entries, more) = app.ledger.audit_entries(caller.realm(), query.before()?, query.limit()?).await?;
    let next = entries.last().filter(|_| more).map(|(number, _)| query::cursor(*number));
    Ok(Json(Page { items: entries.into_iter().map(|(_, entry)| entry).collect(), next, searched: None }))
}
