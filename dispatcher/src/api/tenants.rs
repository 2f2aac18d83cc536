//! Tenants through the API: the pool's admins make and change them, a tenant's admin sees its own.

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use ffpool_schema::api::{TenantChange, TenantRequest, TenantView};

use crate::api::problem::{Answer, ApiError, Kind};
use crate::api::reference::NamePath;
use crate::api::{App, body};
use crate::ledger::keys::Caller;
use crate::ledger::tenants::TenantError;

impl From<TenantError> for ApiError {
    fn from(error: TenantError) -> ApiError {
        match error {
            TenantError::Exists(_) | TenantError::UserTaken(_) => ApiError::new(Kind::Conflict, error.to_string()),
            TenantError::NotFound(_) => ApiError::new(Kind::NotFound, error.to_string()),
            TenantError::BadValue { field, expected } => ApiError::bad_parameter(field, expected),
            TenantError::Ledger(error) => error.into(),
        }
    }
}

/// `GET /v1/tenants`
pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Answer<Json<Vec<TenantView>>> {
    Ok(Json(app.ledger.tenants(caller.realm()).await?))
}

/// `POST /v1/tenants`
pub(crate) async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Body,
) -> Answer<(StatusCode, Json<TenantView>)> {
    let request: TenantRequest = body::read_json(request).await?;
    Ok((StatusCode::CREATED, Json(app.ledger.create_tenant(&request, &caller.actor).await?)))
}

/// `GET /v1/tenants/{name}`
pub(crate) async fn show(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    NamePath(name): NamePath,
) -> Answer<Json<TenantView>> {
    Ok(Json(app.ledger.tenant(caller.realm(), &name).await?))
}

/// `POST /v1/tenants/{name}/set`
pub(crate) async fn set(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    NamePath(name): NamePath,
    request: Body,
) -> Answer<Json<TenantView>> {
    let change: TenantChange = body::read_json(request).await?;
    Ok(Json(app.ledger.set_tenant(&name, &change, &caller.actor).await?))
}

/// `POST /v1/tenants/{name}/disable`
pub(crate) async fn disable(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    NamePath(name): NamePath,
) -> Answer<Json<TenantView>> {
    Ok(Json(app.ledger.disable_tenant(&name, true, &caller.actor).await?))
}

/// `POST /v1/tenants/{name}/enable`
pub(crate) async fn enable(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    NamePath(name): NamePath,
) -> Answer<Json<TenantView>> {
    Ok(Json(app.ledger.disable_tenant(&name, false, &caller.actor).await?))
}
