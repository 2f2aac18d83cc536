//! The dashboard's files, which are part of this program: one page for every path of the dashboard, and what it loads.
//!
//! Invariants:
//! * nothing is loaded from elsewhere, and nothing on a page runs that is not one of these files: [`POLICY`];
//! * a file is sent only to who does not have it yet.

use std::io::Write as _;
use std::sync::LazyLock;

use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use ffpool_schema::message::hex;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

use crate::api::problem::{Answer, ApiError, Kind};

/// Every path of the dashboard, with its name in the description of the API. All are one page, which shows what its path says.
pub(crate) const PAGES: [(&str, &str); 13] = [
    ("/", "pageOverview"),
    ("/login", "pageLogin"),
    ("/jobs", "pageJobs"),
    ("/jobs/{id}", "pageJob"),
    ("/workers", "pageWorkers"),
    ("/workers/{id}", "pageWorker"),
    ("/dead-letters", "pageDeadLetters"),
    ("/scenarios", "pageScenarios"),
    ("/submit", "pageSubmit"),
    ("/cost", "pageCost"),
    ("/keys", "pageKeys"),
    ("/tenants", "pageTenants"),
    ("/audit", "pageAudit"),
];

/// What a page may load and do: its own scripts and styles, requests to its own origin, and nothing that is made of text.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// What goes with every file. `nosniff` goes with every answer of the API.
const HEADERS: [(&str, &str); 7] = [
    ("content-security-policy", POLICY),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    // Asked for each time, answered with 304 while nothing has changed: a new version is seen at once.
    ("cache-control", "no-cache"),
    ("vary", "accept-encoding"),
];

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// A file as it is in this program.
struct Source {
    name: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

macro_rules! sources {
    ($($name:literal: $kind:expr),* $(,)?) => {
        [$(Source { name: $name, kind: $kind, bytes: include_bytes!(concat!("../web/", $name)) }),*]
    };
}

const SOURCES: &[Source] = &sources![
    "index.html": HTML,
    "icon.svg": "image/svg+xml",
    "app.css": "text/css; charset=utf-8",
    "theme.js": SCRIPT,
    "app.js": SCRIPT,
    "api.js": SCRIPT,
    "charts.js": SCRIPT,
    "dom.js": SCRIPT,
    "format.js": SCRIPT,
    "live.js": SCRIPT,
    "parts.js": SCRIPT,
    "admin.js": SCRIPT,
    "cost.js": SCRIPT,
    "dead-letters.js": SCRIPT,
    "job.js": SCRIPT,
    "jobs.js": SCRIPT,
    "login.js": SCRIPT,
    "overview.js": SCRIPT,
    "scenarios.js": SCRIPT,
    "submit.js": SCRIPT,
    "workers.js": SCRIPT,
];

/// A file as it is sent.
struct File {
    name: &'static str,
    kind: &'static str,
    plain: Form,
    packed: Form,
}

/// One of the two forms of a file.
struct Form {
    bytes: &'static [u8],
    /// See [`etag`].
    etag: HeaderValue,
}

impl Form {
    fn new(bytes: &'static [u8]) -> Form {
        Form { bytes, etag: etag(bytes) }
    }
}

static FILES: LazyLock<Vec<File>> = LazyLock::new(|| {
    let file = |source: &Source| File {
        name: source.name,
        kind: source.kind,
        plain: Form::new(source.bytes),
        packed: Form::new(packed(source.bytes)),
    };
    SOURCES.iter().map(file).collect()
});

/// Packed once, for as long as the program runs.
fn packed(bytes: &[u8]) -> &'static [u8] {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let packed = encoder.write_all(bytes).and_then(|()| encoder.finish());
    packed.expect("memory takes everything").leak()
}

/// Every path of [`PAGES`].
pub(crate) async fn page(headers: HeaderMap) -> Response {
    sent(&FILES[0], &headers)
}

/// `GET /assets/{file}`
pub(crate) async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Answer<Response> {
    let found = FILES.iter().find(|file| file.name == name);
    let detail = "the dashboard has no such file; load the page again, this dispatcher may be of another version";
    found.map(|file| sent(file, &headers)).ok_or_else(|| ApiError::new(Kind::NotFound, detail))
}

fn sent(file: &File, asked: &HeaderMap) -> Response {
    let is_packed = takes_gzip(asked);
    let form = if is_packed { &file.packed } else { &file.plain };
    let mut response = if has(asked, &form.etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut response = Body::from(form.bytes).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(file.kind));
        if is_packed {
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    };
    let headers = response.headers_mut();
    headers.insert(header::ETAG, form.etag.clone());
    headers.extend(HEADERS.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))));
    response
}

/// The tag of these bytes. Strong: other bytes, another tag.
pub(crate) fn etag(bytes: &[u8]) -> HeaderValue {
    let etag = format!("\"{}\"", &hex(&Sha256::digest(bytes))[..32]);
    HeaderValue::try_from(etag).expect("hexadecimal is plain text")
}

fn takes_gzip(asked: &HeaderMap) -> bool {
    listed(asked, &header::ACCEPT_ENCODING).any(|encoding| {
        let mut parts = encoding.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        is_gzip && !parts.any(|weight| matches!(weight, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

/// Whether whoever asks has what has this tag.
pub(crate) fn has(asked: &HeaderMap, etag: &HeaderValue) -> bool {
    listed(asked, &header::IF_NONE_MATCH)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known).as_bytes() == etag.as_bytes())
}

/// The members of a header that is a list.
fn listed<'a>(headers: &'a HeaderMap, name: &'a HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::try_from(value).unwrap())])
    }

    #[test]
    fn a_file_is_packed_for_who_takes_it_and_not_sent_to_who_has_it() {
        let file = FILES.iter().find(|file| file.name == "app.css").unwrap();
        let packed = sent(file, &headers(header::ACCEPT_ENCODING, "br, gzip;q=0.8"));
        assert_eq!(packed.headers()["content-encoding"], "gzip");
        assert!(file.packed.bytes.len() * 2 < file.plain.bytes.len());
        assert_ne!(file.packed.etag, file.plain.etag, "other bytes, another tag");
        for none in ["", "br", "gzip;q=0"] {
            assert!(sent(file, &headers(header::ACCEPT_ENCODING, none)).headers().get("content-encoding").is_none());
        }
        let etag = file.plain.etag.to_str().unwrap();
        for (asked, status) in [(etag.to_owned(), 304), (format!("\"x\", W/{etag}"), 304), ("\"x\"".to_owned(), 200)] {
            let answer = sent(file, &headers(header::IF_NONE_MATCH, &asked));
            assert_eq!(answer.status(), status, "{asked}");
            assert_eq!(answer.headers()["content-security-policy"], POLICY);
        }
    }

    #[test]
    fn every_file_is_served_that_another_names_and_nothing_is_loaded_from_elsewhere() {
        let text = |source: &Source| String::from_utf8(source.bytes.to_vec()).unwrap();
        for source in SOURCES {
            for part in text(source).split(['"', '\'', '(', ')']) {
                let named =
                    part.strip_prefix("/assets/").or_else(|| part.strip_prefix("./").filter(|_| source.kind == SCRIPT));
                if let Some(name) = named {
                    assert!(SOURCES.iter().any(|known| known.name == name), "{} names {name}", source.name);
                }
                let is_elsewhere = part.starts_with("http") && !part.starts_with("http://www.w3.org/");
                assert!(!is_elsewhere, "{} names {part}", source.name);
            }
        }
        for way in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"] {
            for source in SOURCES {
                assert!(!text(source).contains(way), "{}: {way} makes a page of text", source.name);
            }
        }
    }

    #[test]
    fn every_page_of_the_menu_is_a_path_that_is_served() {
        let page = String::from_utf8(SOURCES[0].bytes.to_vec()).unwrap();
        for link in page.split("href=\"/").skip(1).filter_map(|rest| rest.split('"').next()) {
            let path = format!("/{link}");
            let is_page = PAGES.iter().any(|(known, _)| *known == path);
            assert!(is_page || path.starts_with("/assets/"), "{path}");
        }
    }
}
