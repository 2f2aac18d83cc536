//! Sessions of the dashboard: a key is exchanged for a cookie, which no script can read and no other site can use.
//!
//! Invariants:
//! * a session begins with a key and never with a session, so that none outlives its bound;
//! * a request by cookie that changes something carries a token that only this origin's pages were told, and comes from them;
//! * so does, without the token, one by a client certificate, which a browser shows by itself too.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use ffpool_schema::access::Right;
use ffpool_schema::api::{Accepted, SessionView};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::api::App;
use crate::api::access::carries_key;
use crate::api::problem::{Answer, ApiError, Kind};
use crate::ledger::keys::Caller;
use crate::ledger::sessions::{IDLE, LONGEST};

/// The browser takes a cookie of this name only with `Secure`, for this host alone and for all paths.
pub(crate) const COOKIE: &str = "__Host-ffpool";
/// Carries the token of a request that changes something.
const CSRF_HEADER: &str = "x-ffpool-csrf";
/// Marks a request that nobody asked for, such as a look for news: the session is not used by it.
const IDLE_HEADER: &str = "x-ffpool-idle";
/// The live stream stays open by itself: it is no use of the session either.
const STREAM: &str = "/v1/events";

/// `POST /v1/session`
pub(crate) async fn begin(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Answer<Response> {
    if !carries_key(&headers) {
        let detail = "a session begins with an API key: send it as `Authorization: Bearer <key>`";
        return Err(ApiError::new(Kind::BadRequest, detail));
    }
    let secret = app.ledger.begin_session(&caller).await?.ok_or_else(|| {
        ApiError::new(Kind::BadRequest, "the key has gone while it was exchanged; ask an administrator for another")
    })?;
    let cookie = cookie(&secret, LONGEST.as_secs());
    let view = SessionView { csrf: Some(token(&secret)), ..view(&caller) }.bounded();
    Ok((StatusCode::CREATED, [(header::SET_COOKIE, cookie)], Json(view)).into_response())
}

/// `GET /v1/session`
pub(crate) async fn show(Extension(caller): Extension<Caller>, headers: HeaderMap) -> Json<SessionView> {
    let view = view(&caller);
    match secret(&headers).filter(|_| !carries_key(&headers)) {
        Some(secret) => Json(SessionView { csrf: Some(token(secret)), ..view }.bounded()),
        None => Json(view),
    }
}

/// `POST /v1/session/end`
pub(crate) async fn end(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Answer<Response> {
    if let Some(secret) = secret(&headers) {
        app.ledger.end_session(secret, &caller.actor).await?;
    }
    let answer = Accepted { state: "ended".to_owned(), message: "The session opens nothing any more.".to_owned() };
    // Its tabs forget what they have in their caches, too.
    let clear = (header::HeaderName::from_static("clear-site-data"), HeaderValue::from_static("\"cache\""));
    Ok(([(header::SET_COOKIE, no_cookie()), clear], Json(answer)).into_response())
}

fn view(caller: &Caller) -> SessionView {
    SessionView {
        name: caller.actor.name.clone(),
        role: caller.permit.role,
        rights: Right::NAMED.into_iter().filter(|right| caller.permit.allows(*right)).collect(),
        tenant: caller.tenant().map(str::to_owned),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        csrf: None,
        idle_secs: None,
        longest_secs: None,
    }
}

trait Bounded {
    /// The same with when it ends.
    fn bounded(self) -> Self;
}

impl Bounded for SessionView {
    fn bounded(self) -> SessionView {
        SessionView { idle_secs: Some(IDLE.as_secs()), longest_secs: Some(LONGEST.as_secs()), ..self }
    }
}

fn cookie(secret: &str, secs: u64) -> HeaderValue {
    let text = format!("{COOKIE}={secret}; Path=/; Max-Age={secs}; Secure; HttpOnly; SameSite=Strict");
    HeaderValue::try_from(text).expect("hexadecimal is plain text")
}

/// Has the browser forget the cookie.
pub(crate) fn no_cookie() -> HeaderValue {
    cookie("", 0)
}

/// The secret of the session that a request carries. Of several cookies of the name none counts: only one is ours.
pub(crate) fn secret(headers: &HeaderMap) -> Option<&str> {
    let mut found = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(name, _)| *name == COOKIE)
        .map(|(_, secret)| secret);
    let secret = found.next().filter(|secret| !secret.is_empty())?;
    found.next().is_none().then_some(secret)
}

/// Whether a request is one that its user makes, and not their tab by itself.
pub(crate) fn counts_as_use(path: &str, headers: &HeaderMap) -> bool {
    path != STREAM && !headers.contains_key(IDLE_HEADER)
}

/// What proves that a page of ours makes a request: made of the secret, so that every dispatcher knows it.
fn token(secret: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key of any length is taken");
    mac.update(b"ffpool csrf");
    ffpool_schema::message::hex(&mac.finalize().into_bytes())
}

/// Refuses a request by cookie that another site may have had the browser make.
pub(crate) fn from_our_pages(method: &Method, headers: &HeaderMap, secret: &str) -> Answer<()> {
    if is_of_another_site(headers) {
        return refused("a session is for the dashboard's own pages; send an API key from elsewhere");
    }
    from_our_origin(method, headers)?;
    if only_reads(method) {
        return Ok(());
    }
    let shown = text(headers, CSRF_HEADER).unwrap_or_default();
    if bool::from(shown.as_bytes().ct_eq(token(secret).as_bytes())) {
        return Ok(());
    }
    refused("a change by session needs the header X-FFPool-CSRF with `csrf` of GET /v1/session; load the page again")
}

/// Refuses a change that a browser makes for another origin, with what it attaches by itself: a cookie or a client
/// certificate. Clients that are no browsers send none of these headers.
pub(crate) fn from_our_origin(method: &Method, headers: &HeaderMap) -> Answer<()> {
    if only_reads(method) {
        return Ok(());
    }
    if is_of_another_site(headers) {
        return refused(
            "a browser changes something from the dashboard's own pages alone; send an API key from elsewhere",
        );
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        if authority.is_none() || authority != text(headers, "host") {
            return refused(
                "the request comes from another origin than the dashboard; a proxy in front of it must hand on the header Host",
            );
        }
    }
    Ok(())
}

/// Browsers say where a request comes from, and no script can say it for them. `none`: the user wrote the address.
fn is_of_another_site(headers: &HeaderMap) -> bool {
    text(headers, "sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none"))
}

fn only_reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn refused(detail: &str) -> Answer<()> {
    Err(ApiError::new(Kind::Forbidden, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_cookie_is_found_among_others_and_never_twice() {
        let found = |line: &str| secret(&headers(&[("cookie", line)])).map(str::to_owned);
        assert_eq!(found("a=b; __Host-ffpool=00ff; c=d").as_deref(), Some("00ff"));
        for none in ["__Host-ffpool=", "ffpool=00ff", "__host-ffpool=00ff", "__Host-ffpool=1; __Host-ffpool=2", ""] {
            assert_eq!(found(none), None, "{none}");
        }
        let set = cookie("00ff", 60);
        assert_eq!(set.to_str().unwrap(), "__Host-ffpool=00ff; Path=/; Max-Age=60; Secure; HttpOnly; SameSite=Strict");
    }

    #[test]
    fn only_our_own_pages_change_something_by_cookie() {
        let token = token("secret");
        let good = [("host", "pool:8080"), ("origin", "https://pool:8080"), ("sec-fetch-site", "same-origin")];
        let with = |changed: &[(&'static str, &str)]| {
            let mut all = headers(&good);
            all.insert(CSRF_HEADER, token.parse().unwrap());
            all.extend(headers(changed));
            all
        };
        let ask = |method: Method, headers: HeaderMap| from_our_pages(&method, &headers, "secret");
        assert!(ask(Method::POST, with(&[])).is_ok());
        assert!(ask(Method::GET, headers(&good)).is_ok(), "what only reads needs no token");
        assert!(ask(Method::POST, headers(&good)).is_err(), "no token");
        for bad in [
            ("x-ffpool-csrf", "00"),
            ("origin", "https://evil"),
            ("origin", "null"),
            ("origin", "https://pool"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert_eq!(ask(Method::POST, with(&[bad])).unwrap_err().status(), 403, "{bad:?}");
        }
        assert!(ask(Method::GET, with(&[("sec-fetch-site", "cross-site")])).is_err());
        assert!(from_our_pages(&Method::POST, &with(&[]), "another secret").is_err());
    }

    #[test]
    fn a_certificate_that_a_browser_shows_for_another_origin_changes_nothing() {
        let ask = |method: Method, pairs: &[(&'static str, &str)]| from_our_origin(&method, &headers(pairs));
        let host = ("host", "pool:8080");
        assert!(ask(Method::POST, &[host]).is_ok(), "no browser");
        assert!(ask(Method::POST, &[host, ("origin", "https://pool:8080"), ("sec-fetch-site", "same-origin")]).is_ok());
        for bad in [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("origin", "https://evil"),
            ("origin", "null"),
        ] {
            for method in [Method::POST, Method::PUT, Method::DELETE] {
                assert_eq!(ask(method, &[host, bad]).unwrap_err().status(), 403, "{bad:?}");
            }
            assert!(ask(Method::GET, &[host, bad]).is_ok(), "it reads, and the browser shows the answer to nobody");
        }
    }
}
