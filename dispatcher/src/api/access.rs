//! Who may do what: roles, rights, and the check that stands before every route that needs one.
//!
//! Invariant: a handler behind a right runs only for a key whose role has it.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::api::App;
use crate::api::certificates::ClientCertificate;
use crate::api::problem::{Answer, ApiError, Kind};
use crate::api::throttle::ClientAddress;
use crate::ledger::keys::{Caller, Role};

/// What a route asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right {
    /// Nothing: open to everybody.
    Open,
    /// Reading jobs, workers and queues.
    Read,
    /// Handing in jobs.
    Submit,
    /// Changing what happens to jobs and workers.
    Control,
    /// Destroying records, and seeing who did what.
    Administer,
}

impl Right {
    /// The name as it stands in errors and documents.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Right::Open => "open",
            Right::Read => "read",
            Right::Submit => "submit",
            Right::Control => "control",
            Right::Administer => "administer",
        }
    }
}

/// Whether `role` has `right`.
pub(crate) fn allows(role: Role, right: Right) -> bool {
    match right {
        Right::Open => true,
        Right::Read => match role {
            Role::Viewer | Role::Submitter | Role::Operator | Role::Admin => true,
        },
        Right::Submit => match role {
            Role::Submitter | Role::Operator | Role::Admin => true,
            Role::Viewer => false,
        },
        Right::Control => match role {
            Role::Operator | Role::Admin => true,
            Role::Viewer | Role::Submitter => false,
        },
        Right::Administer => match role {
            Role::Admin => true,
            Role::Viewer | Role::Submitter | Role::Operator => false,
        },
    }
}

/// Stands before a route: lets a request pass that carries a key with `right`, and tells the handler whose it is.
pub(crate) async fn check(State((app, right)): State<(App, Right)>, mut request: Request, next: Next) -> Response {
    let certificate = request.extensions().get::<Arc<ClientCertificate>>().cloned();
    match authorise(&app, right, ClientAddress::of(&request), request.headers(), certificate.as_deref()).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(refused) => refused.into_response(),
    }
}

async fn authorise(
    app: &App,
    right: Right,
    from: ClientAddress,
    headers: &HeaderMap,
    certificate: Option<&ClientCertificate>,
) -> Answer<Caller> {
    // A key that is sent decides: the certificate then only opened the door.
    if let Some(certificate) = certificate.filter(|_| !carries_key(headers)) {
        let caller = by_certificate(certificate, right)?;
        app.throttle.known(&caller)?;
        return Ok(caller);
    }
    let key = presented_key(headers)?;
    let caller = app.throttle.caller(app, from, key).await?.ok_or_else(|| {
        ApiError::new(
            Kind::Unauthenticated,
            "this API key is not known here, or was revoked; ask an administrator for a new one",
        )
    })?;
    if !allows(caller.role, right) {
        return Err(ApiError::new(
            Kind::Forbidden,
            format!(
                "the key `{}` has the role {}, and this route needs the right to {}; use a key of the role {}",
                caller.name,
                caller.role,
                right.as_str(),
                least_role(right),
            ),
        ));
    }
    Ok(caller)
}

/// Whose request it is that carries no key, only a certificate.
fn by_certificate(certificate: &ClientCertificate, right: Right) -> Answer<Caller> {
    let name = &certificate.name;
    let forbidden = |detail: String| ApiError::new(Kind::Forbidden, detail);
    let role = certificate.role.ok_or_else(|| {
        forbidden(format!(
            "the certificate {name} is trusted, but nothing says what it may do: send an API key, or have the operator \
             name it in FFPOOL_API_CLIENT_ROLES"
        ))
    })?;
    if allows(role, right) {
        return Ok(Caller { name: format!("certificate {name}"), role });
    }
    Err(forbidden(format!(
        "the certificate {name} has the role {role}, and this route needs the right to {}; it takes one of the role {}",
        right.as_str(),
        least_role(right),
    )))
}

fn carries_key(headers: &HeaderMap) -> bool {
    headers.contains_key(header::AUTHORIZATION) || headers.contains_key("x-api-key")
}

/// The least role that has `right`.
pub(crate) fn least_role(right: Right) -> Role {
    Role::ALL.into_iter().find(|role| allows(*role, right)).expect("an admin may do everything")
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

    #[test]
    fn every_role_has_all_rights_of_the_roles_before_it() {
        let rights = [Right::Open, Right::Read, Right::Submit, Right::Control, Right::Administer];
        let counts = Role::ALL.map(|role| rights.iter().filter(|right| allows(role, **right)).count());
        assert_eq!(counts, [2, 3, 4, 5]);
        assert_eq!(least_role(Right::Submit), Role::Submitter);
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
