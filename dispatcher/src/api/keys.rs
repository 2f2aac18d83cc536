//! Keys through the API: an admin's, and within a tenant that tenant's admin's.

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use ffpool_schema::access::Permit;
use ffpool_schema::api::{Accepted, KeyRequest, KeyView, NewKeyView, RotateRequest};
use jiff::SignedDuration;

use crate::api::problem::{Answer, ApiError, Kind};
use crate::api::reference::NamePath;
use crate::api::{App, body};
use crate::ledger::keys::{Caller, KeyError, MintedKey, NewKey, OVERLAP};

impl From<KeyError> for ApiError {
    fn from(error: KeyError) -> ApiError {
        match error {
            KeyError::NameTaken(_) | KeyError::Ambiguous(..) | KeyError::OfSettings => {
                ApiError::new(Kind::Conflict, error.to_string())
            }
            KeyError::Unknown(_) => ApiError::new(Kind::NotFound, error.to_string()),
            KeyError::BeyondMaker | KeyError::OtherTenant(_) => ApiError::new(Kind::Forbidden, error.to_string()),
            KeyError::BadName
            | KeyError::LikePrefix(_)
            | KeyError::TooShort(_)
            | KeyError::BeyondRole(..)
            | KeyError::NoScope
            | KeyError::NoTenant(_)
            | KeyError::Past(_) => ApiError::new(Kind::BadRequest, error.to_string()),
            KeyError::Ledger(error) => error.into(),
        }
    }
}

/// `GET /v1/keys`
pub(crate) async fn list(State(app): State<App>, Extension(caller): Extension<Caller>) -> Answer<Json<Vec<KeyView>>> {
    Ok(Json(app.ledger.keys(caller.realm()).await?))
}

/// `POST /v1/keys`
pub(crate) async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Body,
) -> Answer<(StatusCode, Json<NewKeyView>)> {
    let KeyRequest { name, role, scopes, tenant, expires_at } = body::read_json(request).await?;
    let new = NewKey { name, permit: Permit { role, scopes }, tenant, expires_at };
    let made = app.ledger.create_key(&new, &caller.actor, &caller.permit).await?;
    Ok((StatusCode::CREATED, Json(shown(made))))
}

/// `POST /v1/keys/{key}/revoke`
pub(crate) async fn revoke(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    NamePath(key): NamePath,
) -> Answer<Json<Accepted>> {
    app.ledger.revoke_key(&key, &caller.actor).await?;
    Ok(Json(Accepted { state: "revoked".to_owned(), message: "It opens nothing any more.".to_owned() }))
}

/// `POST /v1/keys/{key}/rotate`
pub(crate) async fn rotate(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    NamePath(key): NamePath,
    request: Body,
) -> Answer<(StatusCode, Json<NewKeyView>)> {
    let RotateRequest { overlap_secs, expires_at } = body::read_json_or_default(request).await?;
    let overlap = overlap_secs.map_or(OVERLAP, |secs| SignedDuration::from_secs(secs.into()));
    let made = app.ledger.rotate_key(&key, overlap, expires_at, &caller.actor, &caller.permit).await?;
    Ok((StatusCode::CREATED, Json(shown(made))))
}

fn shown((minted, view): (MintedKey, KeyView)) -> NewKeyView {
    NewKeyView { key: minted.text().to_owned(), view }
}
