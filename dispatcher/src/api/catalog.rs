//! What a client needs to know to write a job: the scenarios, the templates, the schema of a job, and this API's own description.

use std::sync::LazyLock;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use ffpool_schema::api::{ScenarioView, TemplateView};
use ffpool_schema::encode::{Resolution, VideoCodec};
use ffpool_schema::parse;
use ffpool_schema::scenario::NAMED;
use serde_json::Value;

use crate::api::{App, openapi};
use crate::ledger::keys::Caller;

/// `GET /v1/scenarios`
pub(crate) async fn scenarios(State(app): State<App>) -> Json<Vec<ScenarioView>> {
    let named = NAMED.iter().map(|named| ScenarioView::built_in(named.name, named.description));
    let sizes = Resolution::NAMED.map(|(name, width, height)| format!("{name} ({width}x{height})")).join(", ");
    let codecs = VideoCodec::ALL.map(VideoCodec::as_str).join(", ");
    let pattern = ScenarioView::built_in(
        "<size>[fps]-<codec>",
        format!("such as 1080p60-h264; size: {sizes}; codec: {codecs}; without fps the source's frame rate"),
    );
    Json(named.chain([pattern]).chain(app.ledger.catalog().views().0).collect())
}

/// `GET /v1/templates`
pub(crate) async fn templates(State(app): State<App>, Extension(caller): Extension<Caller>) -> Json<Vec<TemplateView>> {
    // A template of another tenant's makes jobs that this one may not hand in.
    let is_usable = |template: &TemplateView| match template.job.get("tenant").and_then(Value::as_str) {
        Some(tenant) if !tenant.contains('{') => caller.realm().holds(Some(tenant)),
        Some(_) | None => true,
    };
    Json(app.ledger.catalog().views().1.into_iter().filter(is_usable).collect())
}

/// `GET /v1/schema/job`
pub(crate) async fn job_schema() -> Response {
    static SCHEMA: LazyLock<String> =
        LazyLock::new(|| serde_json::to_string_pretty(&parse::job_schema()).expect("a schema is plain data"));
    let kind = HeaderValue::from_static("application/schema+json");
    ([(header::CONTENT_TYPE, kind)], SCHEMA.as_str()).into_response()
}

/// `GET /openapi.json`
pub(crate) async fn description() -> Response {
    static DESCRIPTION: LazyLock<String> = LazyLock::new(|| openapi::document().to_string());
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], DESCRIPTION.as_str()).into_response()
}
