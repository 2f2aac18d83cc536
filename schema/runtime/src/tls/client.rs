//! The TLS side of our links to servers: whom we trust, what we show, and which links are not secured.
//!
//! Invariant: a link is verified in full or not secured at all; nothing in between is accepted, and a link that is not secured
//! is said at every start, unless it stays on this machine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};
use tracing::warn;

use super::TlsError;
use super::certificate::{chain, private_key};
use super::files::read;

/// What a client trusts and shows: without an `authority` what the system trusts, without an `identity` nothing.
///
/// # Errors
/// When a file cannot be read or used.
pub fn client_config(authority: Option<&Path>, identity: Option<(&Path, &Path)>) -> Result<ClientConfig, TlsError> {
    let place = authority.map_or_else(|| PathBuf::from("the system's certificates"), Path::to_owned);
    let refuse = |error: rustls::Error| TlsError::unusable(&place, error.to_string());
    let mut roots = RootCertStore::empty();
    match authority {
        Some(path) => {
            for certificate in chain(path, &read(path)?)? {
                roots.add(certificate).map_err(refuse)?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(TlsError::unusable(
                    &place,
                    "there are none: name the authority of the server (sslrootcert=)",
                ));
            }
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(refuse)?
        .with_root_certificates(roots);
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let shown = chain(certificate, &read(certificate)?)?;
            let key = private_key(key, &read(key)?)?;
            let unfit = |error: rustls::Error| TlsError::unusable(certificate, format!("it cannot be shown ({error})"));
            builder.with_client_auth_cert(shown, key).map_err(unfit)
        }
    }
}

/// The way to a Postgres server.
#[derive(Debug, Clone)]
pub struct DatabaseWay {
    /// Its address for the database client: without what concerns TLS, but for `sslmode=require` or `disable`.
    pub url: String,
    /// What to use where TLS is required.
    pub tls: Option<Arc<ClientConfig>>,
}

/// Reads what an address of Postgres says of TLS, by libpq's names: `sslmode`, `sslrootcert`, `sslcert`, `sslkey`. Stricter than
/// libpq: `require` and `verify-ca` verify as `verify-full` does, and `prefer` and `allow` are refused.
///
/// # Errors
/// A mode that is neither secure nor plain, and files that cannot be used.
pub fn database_way(url: &str) -> Result<DatabaseWay, TlsError> {
    let (rest, options, separator) = options_of(url);
    let option = |name: &str| options.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let refuse = |reason: String| TlsError::unusable("FFPOOL_DATABASE_URL", reason);
    let (root, certificate, key) = (option("sslrootcert"), option("sslcert"), option("sslkey"));
    let is_secure = match option("sslmode") {
        Some("require" | "verify-ca" | "verify-full") => true,
        Some("disable") => false,
        None => root.is_some() || certificate.is_some(),
        Some(mode) => {
            return Err(refuse(format!(
                "sslmode={mode} may mean either: say sslmode=verify-full (with sslrootcert=FILE for an authority of your own), or \
                 sslmode=disable"
            )));
        }
    };
    if !is_secure && (root.is_some() || certificate.is_some()) {
        return Err(refuse("sslmode=disable, but certificates are given: leave one of them out".to_owned()));
    }
    let identity = match (certificate, key) {
        (Some(certificate), key) => Some((Path::new(certificate), Path::new(key.unwrap_or(certificate)))),
        (None, None) => None,
        (None, Some(_)) => return Err(refuse("sslkey without sslcert: give both".to_owned())),
    };
    let authority = root.filter(|root| *root != "system").map(Path::new);
    let tls = is_secure.then(|| client_config(authority, identity)).transpose()?.map(Arc::new);
    let mode = if is_secure { "require" } else { "disable" };
    Ok(DatabaseWay { url: format!("{rest}{separator}sslmode={mode}"), tls })
}

/// An address without what concerns TLS, that, decoded, and what stands before a further option.
fn options_of(url: &str) -> (String, Vec<(String, String)>, &'static str) {
    let is_ours =
        |pair: &str| ["sslmode=", "sslrootcert=", "sslcert=", "sslkey="].iter().any(|name| pair.starts_with(name));
    let split = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name.to_owned(), value.to_owned())
    };
    if !url.contains("://") {
        // libpq's other form, `host=h dbname=d`.
        let (ours, others): (Vec<&str>, Vec<&str>) = url.split_whitespace().partition(|pair| is_ours(pair));
        return (others.join(" "), ours.into_iter().map(split).collect(), " ");
    }
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let (ours, others): (Vec<&str>, Vec<&str>) =
        query.split('&').filter(|pair| !pair.is_empty()).partition(|pair| is_ours(pair));
    let decoded = ours.into_iter().map(split).map(|(name, value)| (name, percent_decoded(&value))).collect();
    if others.is_empty() {
        (base.to_owned(), decoded, "?")
    } else {
        (format!("{base}?{}", others.join("&")), decoded, "&")
    }
}

/// `/a b` of `%2Fa%20b`. What is no escape stays as it is.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut left = text.as_bytes();
    while let [first, tail @ ..] = left {
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.filter(|_| *first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(escaped.unwrap_or(*first));
        left = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Says at the start which of a process's links to servers are not secured and leave this machine.
pub fn warn_of_plain_links(links: &[(&str, &str)]) {
    for (setting, url) in links {
        if let Some(cure) = cure_of_plain_link(url) {
            warn!(setting, "INSECURE: what goes over this link can be read and changed on the network: {cure}");
        }
    }
}

/// What to do about an address whose link is not secured; `None` where it is, or stays on this machine.
fn cure_of_plain_link(url: &str) -> Option<&'static str> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("postgres", url));
    let cure = match scheme {
        "amqp" => "say amqps:// with the port of its TLS listener",
        "nats" if !rest.contains("cacertfile=") => "say tls://",
        "postgres" | "postgresql" => match database_mode(url) {
            Some("disable") | None => "say sslmode=verify-full",
            Some(_) => return None,
        },
        _ => return None,
    };
    (!is_local(rest)).then_some(cure)
}

fn database_mode(url: &str) -> Option<&'static str> {
    let (_, options, _) = options_of(url);
    let is_plain = options.iter().rev().find(|(name, _)| name == "sslmode").map(|(_, mode)| mode == "disable");
    match is_plain {
        Some(true) => Some("disable"),
        Some(false) => Some("verify-full"),
        None => options.iter().any(|(name, _)| name == "sslrootcert" || name == "sslcert").then_some("verify-full"),
    }
}

/// Whether every host in what follows a scheme is this machine.
fn is_local(rest: &str) -> bool {
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    hosts.split(',').all(|host| {
        let host = host.trim();
        let is_socket = host.is_empty() || host.starts_with("%2F") || host.starts_with("%2f");
        is_socket || ["127.", "localhost", "[::1]"].iter().any(|local| host.starts_with(local))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_address_says_of_tls_is_taken_out_of_it() {
        let plain = database_way("postgres://u:p@h/d?connect_timeout=3&sslmode=disable").unwrap();
        assert_eq!(
            (plain.url.as_str(), plain.tls.is_none()),
            ("postgres://u:p@h/d?connect_timeout=3&sslmode=disable", true)
        );
        assert_eq!(database_way("postgres://u@127.0.0.1/d").unwrap().url, "postgres://u@127.0.0.1/d?sslmode=disable");
        assert_eq!(database_way("host=h dbname=d").unwrap().url, "host=h dbname=d sslmode=disable");
        let said = database_way("postgres://u@h/d?sslrootcert=%2Fno%20such.pem").unwrap_err().to_string();
        assert!(said.contains("/no such.pem"), "an authority that is named has to be there: {said}");
    }

    #[test]
    fn a_mode_that_may_be_plain_is_refused() {
        for (url, named) in [
            ("postgres://u@h/d?sslmode=prefer", "verify-full"),
            ("host=h sslmode=allow", "verify-full"),
            ("postgres://u@h/d?sslmode=disable&sslrootcert=/ca.pem", "sslmode=disable"),
            ("postgres://u@h/d?sslmode=verify-full&sslkey=/k.pem", "sslcert"),
        ] {
            let said = database_way(url).unwrap_err().to_string();
            assert!(said.contains(named), "{url}: {said}");
        }
    }

    #[test]
    fn links_that_leave_this_machine_without_tls_are_named() {
        for plain in [
            "amqp://u:p@mq.example:5672/%2f",
            "nats://s.example",
            "postgres://u@db.example/d",
            "postgres://a,b/d?sslmode=disable",
        ] {
            assert!(cure_of_plain_link(plain).is_some(), "{plain}");
        }
        for fine in [
            "amqp://u:p@127.0.0.1:5672/%2f",
            "amqps://mq.example/%2f",
            "nats://localhost:4222",
            "tls://s.example",
            "nats://s.example?cacertfile=/ca.pem",
            "postgres://u@localhost/d",
            "postgres://u@db.example/d?sslmode=verify-full",
            "postgres:///d?host=/run/postgresql",
        ] {
            assert!(cure_of_plain_link(fine).is_none(), "{fine}");
        }
    }
}
