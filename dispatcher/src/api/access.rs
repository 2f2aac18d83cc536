//! Who may do what: the check that stands before every route that needs a right. The table of rights is
//! `ffpool_schema::access`.
//!
//! Invariant: a handler behind a right runs only for a valid key that has it, and a route that acts on the whole pool only
//! for a key that no tenant bounds. What a browser attaches by itself, a cookie or a certificate, changes nothing for another
//! origin. Whoever is refused is in the audit.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ffpool_schema::access::{Permit, Right, Role};
use ffpool_schema::api::KeyState;

use crate::api::App;
use crate::api::certificates::ClientCertificate;
use crate::api::problem::{Answer, ApiError, Kind};
use crate::api::refusals::Refused;
use crate::api::session;
use crate::api::throttle::ClientAddress;
use crate::ledger::keys::{Admission, Caller};
use crate::ledger::{Actor, Realm};

/// On what a route acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// On what is in the realm of the key.
    Realm,
    /// On the whole pool: no matter for a tenant's key.
    Pool,
}

/// What a route asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Needs {
    pub(crate) right: Right,
    pub(crate) reach: Reach,
}

/// Stands before a route: lets a request pass that carries a key with the right, and tells the handler whose it is.
pub(crate) async fn check(State((app, needs)): State<(App, Needs)>, mut request: Request, next: Next) -> Response {
    let from = ClientAddress::of(&request);
    let route = format!("{} {}", request.method(), request.uri().path());
    let certificate = request.extensions().get::<Arc<ClientCertificate>>().cloned();
    let shown = Shown {
        from,
        method: request.method(),
        path: request.uri().path(),
        headers: request.headers(),
        certificate: certificate.as_deref(),
    };
    let mut whose = Whose::Nobody;
    match authorise(&app, needs, &shown, &mut whose).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(refused) => {
            if refused.is_refusal() {
                let note =
                    Refused { whose, address: from.0, route, status: Some(refused.status()), reason: refused.detail() };
                app.refusals.note(&app.ledger, note).await;
            }
            let is_over = refused.status() == StatusCode::UNAUTHORIZED && session_of(request.headers()).is_some();
            let mut response = refused.into_response();
            if is_over {
                // The cookie of a session that is over would go before the certificate for as long as the browser keeps it.
                response.headers_mut().insert(header::SET_COOKIE, session::no_cookie());
            }
            response
        }
    }
}

/// Whose request it is, as far as that is known when it is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Whose {
    /// It carries no key.
    Nobody,
    /// It did not come as far as to send a request.
    Handshake,
    /// It carries a key that nobody has.
    Unknown,
    /// It carries the cookie of a session that is over, or never was.
    Session,
    /// A key that is or was good.
    Known(Caller),
    /// It carries a certificate and no key.
    Certificate(String),
}

/// What a request shows of whose it is.
struct Shown<'a> {
    from: ClientAddress,
    method: &'a Method,
    path: &'a str,
    headers: &'a HeaderMap,
    certificate: Option<&'a ClientCertificate>,
}

async fn authorise(app: &App, needs: Needs, shown: &Shown<'_>, whose: &mut Whose) -> Answer<Caller> {
    // A key that is sent decides, then a session: the certificate then only opened the door.
    if let Some(secret) = session_of(shown.headers) {
        return by_session(app, needs, shown, secret, whose).await;
    }
    if let Some(certificate) = shown.certificate.filter(|_| !carries_key(shown.headers)) {
        let (name, role) = certificate.standing();
        *whose = Whose::Certificate(name.clone());
        let caller = by_certificate(&name, role, shown.from)?;
        app.throttle.known(&app.ledger, &caller)?;
        session::from_our_origin(shown.method, shown.headers)?;
        permit(&caller, needs)?;
        return Ok(caller);
    }
    let key = presented_key(shown.headers)?;
    *whose = Whose::Unknown;
    let caller = match app.throttle.admit(app, shown.from, key).await? {
        Admission::Valid(caller) => caller,
        Admission::Void { caller, state } => {
            let error = void(&caller, state);
            *whose = Whose::Known(caller);
            return Err(error);
        }
        Admission::Unknown => {
            return Err(ApiError::new(
                Kind::Unauthenticated,
                "this API key is not known here; ask an administrator for one",
            ));
        }
    };
    *whose = Whose::Known(caller.clone());
    permit(&caller, needs)?;
    Ok(caller)
}

/// Whose request it is that carries the cookie of a session.
async fn by_session(app: &App, needs: Needs, shown: &Shown<'_>, secret: &str, whose: &mut Whose) -> Answer<Caller> {
    *whose = Whose::Session;
    let counts = session::counts_as_use(shown.path, shown.headers);
    let caller = match app.throttle.admit_session(app, shown.from, secret, counts).await? {
        Admission::Valid(caller) => caller,
        Admission::Void { caller, state } => {
            let error = void(&caller, state);
            *whose = Whose::Known(caller);
            return Err(error);
        }
        Admission::Unknown => {
            return Err(ApiError::new(Kind::Unauthenticated, "the session has ended; log in again with your API key"));
        }
    };
    *whose = Whose::Known(caller.clone());
    session::from_our_pages(shown.method, shown.headers, secret)?;
    permit(&caller, needs)?;
    Ok(caller)
}

/// Whose request it is that carries no key, only a certificate.
fn by_certificate(name: &str, role: Option<Role>, from: ClientAddress) -> Answer<Caller> {
    let role = role.ok_or_else(|| {
        let detail = format!(
            "the certificate {name} is trusted, but nothing says what it may do: send an API key, or have the operator \
             name it in FFPOOL_API_CLIENT_ROLES or in the file of FFPOOL_API_CLIENT_ROLES_FILE"
        );
        ApiError::new(Kind::Forbidden, detail)
    })?;
    let actor = Actor { name: format!("certificate {name}"), realm: Realm::Pool, address: Some(from.0) };
    Ok(Caller { key: None, actor, permit: Permit::of(role) })
}

/// The secret of the session that decides whose request it is.
fn session_of(headers: &HeaderMap) -> Option<&str> {
    session::secret(headers).filter(|_| !carries_key(headers))
}

/// Whether a request carries an API key.
pub(crate) fn carries_key(headers: &HeaderMap) -> bool {
    headers.contains_key(header::AUTHORIZATION) || headers.contains_key("x-api-key")
}

/// Why a key that was good once opens nothing.
fn void(caller: &Caller, state: KeyState) -> ApiError {
    let name = &caller.actor.name;
    let detail = match state {
        KeyState::Expired => format!("the key `{name}` has expired; ask an administrator to rotate it"),
        KeyState::Revoked => format!("the key `{name}` was revoked; ask an administrator for a new one"),
        KeyState::TenantDisabled | KeyState::Valid => {
            format!("the tenant of the key `{name}` is disabled; ask the operator of the pool")
        }
    };
    ApiError::new(Kind::Unauthenticated, detail)
}

/// Whether a caller has what a route needs.
fn permit(caller: &Caller, Needs { right, reach }: Needs) -> Answer<()> {
    let name = match caller.key {
        Some(_) => format!("key `{}`", caller.actor.name),
        None => caller.actor.name.clone(),
    };
    let forbidden = |detail: String| Err(ApiError::new(Kind::Forbidden, detail));
    if !caller.permit.role.allows(right) {
        return forbidden(format!(
            "the {name} has the role {}, and this route needs the right to {right}; use a key of the role {}",
            caller.permit.role,
            Role::least(right),
        ));
    }
    if !caller.permit.allows(right) {
        return forbidden(format!(
            "the scopes of the {name} leave out the right to {right}, which this route needs; use a key that has it",
        ));
    }
    match (reach, caller.tenant()) {
        (Reach::Realm, _) | (Reach::Pool, None) => Ok(()),
        (Reach::Pool, Some(tenant)) => forbidden(format!(
            "the {name} is bound to the tenant `{tenant}`, and this route acts on the whole pool; its operators do it",
        )),
    }
}

fn presented_key(headers: &HeaderMap) -> Answer<&str> {
    const HOW: &str = "send it as `Authorization: Bearer <key>` or as `X-API-Key: <key>`";
    let missing = || ApiError::new(Kind::Unauthenticated, format!("the request carries no API key; {HOW}"));
    let unreadable = || ApiError::new(Kind::Unauthenticated, format!("the API key is not plain text; {HOW}"));

    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, key) = value.to_str().map_err(|_| unreadable())?.split_once(' ').ok_or_else(missing)?;
        return if scheme.eq_ignore_ascii_case("bearer") { Ok(key.trim()) } else { Err(missing()) };
    }
    headers.get("x-api-key").ok_or_else(missing)?.to_str().map_err(|_| unreadable())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(permit: Permit, tenant: Option<&str>) -> Caller {
        let realm = Realm::of(tenant.map(str::to_owned));
        Caller { key: None, actor: Actor { name: "app".to_owned(), realm, address: None }, permit }
    }

    #[test]
    fn every_refusal_says_what_is_missing() {
        let needs = |right, reach| Needs { right, reach };
        let told = |caller: &Caller, needs| permit(caller, needs).map_err(|error| error.detail().to_owned());
        let viewer = caller(Permit::of(Role::Viewer), None);
        assert_eq!(told(&viewer, needs(Right::Read, Reach::Pool)), Ok(()));
        assert!(
            told(&viewer, needs(Right::Control, Reach::Realm)).unwrap_err().contains("use a key of the role operator")
        );
        let narrow = caller(Permit { role: Role::Admin, scopes: Some(vec![Right::Read]) }, None);
        assert!(told(&narrow, needs(Right::Submit, Reach::Realm)).unwrap_err().contains("scopes"));
        let bound = caller(Permit::of(Role::Admin), Some("acme"));
        assert_eq!(told(&bound, needs(Right::Administer, Reach::Realm)), Ok(()));
        assert!(told(&bound, needs(Right::Control, Reach::Pool)).unwrap_err().contains("tenant `acme`"));
    }

    #[test]
    fn both_headers_carry_a_key_and_nothing_else_does() {
        let headers = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(header::HeaderName::from_static(name), header::HeaderValue::from_static(value))])
        };
        assert_eq!(presented_key(&headers("authorization", "Bearer abc")).unwrap(), "abc");
        assert_eq!(presented_key(&headers("authorization", "bearer abc")).unwrap(), "abc");
        assert_eq!(presented_key(&headers("x-api-key", "abc")).unwrap(), "abc");
        for bad in [headers("authorization", "Basic abc"), headers("authorization", "abc"), HeaderMap::new()] {
            assert_eq!(presented_key(&bad).unwrap_err().status(), 401);
        }
    }
}
