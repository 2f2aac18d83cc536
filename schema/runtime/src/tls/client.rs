//! The TLS side of our links to servers: whom we trust, what we show, and which links are not secured.
//!
//! Invariant: a link is verified in full or not secured at all; nothing in between is accepted, and a link that is not secured
//! is said at every start, unless it stays on this machine.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ffpool_schema::percent;
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
    let refuse = |error: rustls::Error| {
        TlsError::unusable(
            &place,
            format!("no server can be checked by it ({error}): give the authority's certificate as PEM"),
        )
    };
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
            let unfit = |error: rustls::Error| {
                TlsError::unusable(
                    certificate,
                    format!("it cannot be shown ({error}): give a certificate with its own key"),
                )
            };
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
/// A mode that is neither secure nor plain, files that cannot be used, and an address that two readers may split differently; they
/// name the `setting` that the address stands in.
pub fn database_way(setting: &str, url: &str) -> Result<DatabaseWay, TlsError> {
    let refuse = |reason: String| TlsError::Setting { setting: setting.to_owned(), reason };
    let address = DatabaseAddress::split(url).map_err(|reason| refuse(reason.to_owned()))?;
    let option = |name: &str| address.option(name);
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
    Ok(DatabaseWay { url: address.with_mode(mode), tls })
}

/// An address of Postgres, split where the database client (tokio-postgres 0.7.18) splits it: what one of the two took for part
/// of a password, the other must not take for an option.
struct DatabaseAddress<'a> {
    /// Of a URL what stands before its options; empty in libpq's other form, `host=h dbname=d`.
    base: &'a str,
    is_url: bool,
    /// As they are written.
    pairs: Vec<&'a str>,
    /// The same, decoded.
    options: Vec<(String, String)>,
}

impl<'a> DatabaseAddress<'a> {
    /// Splits an address, or says what is the matter with it.
    fn split(url: &'a str) -> Result<DatabaseAddress<'a>, &'static str> {
        let is_url = DATABASE_SCHEMES.iter().any(|scheme| url.starts_with(scheme));
        if !is_url {
            let pairs: Vec<&str> = url.split_whitespace().collect();
            let split = |pair: &str| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
            let options: Option<Vec<_>> = pairs.iter().map(|pair| split(pair)).collect();
            let is_simple = |(name, value): &(String, String)| !name.is_empty() && !value.is_empty();
            let options = options.filter(|options| !url.contains(['\'', '\\']) && options.iter().all(is_simple));
            let options = options.ok_or(
                "`name=value name=value` is expected, without quotes, backslashes and blanks around `=`, or a URL, \
                 postgres://user:password@host/database, which can say everything (%20 is a blank)",
            )?;
            return Ok(DatabaseAddress { base: "", is_url, pairs, options });
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        if query.contains('@') {
            return Err("there is an `@` after a `?`: write %3F for a `?` in a password, %40 for an `@` in an option");
        }
        let pairs: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty()).collect();
        let decoded = |pair: &&str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent::decoded(name), percent::decoded(value))
        };
        let options = pairs.iter().map(decoded).collect();
        Ok(DatabaseAddress { base, is_url, pairs, options })
    }

    /// What an option says; the last counts.
    fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The address without what concerns TLS, but for this mode.
    fn with_mode(&self, mode: &str) -> String {
        let is_ours = |name: &str| ["sslmode", "sslrootcert", "sslcert", "sslkey"].contains(&name);
        let others =
            self.pairs.iter().zip(&self.options).filter(|(_, (name, _))| !is_ours(name)).map(|(pair, _)| *pair);
        let mode = format!("sslmode={mode}");
        let pairs: Vec<&str> = others.chain([mode.as_str()]).collect();
        if self.is_url { format!("{}?{}", self.base, pairs.join("&")) } else { pairs.join(" ") }
    }

    /// Whether what goes over the link is protected, if the address is taken at all.
    fn is_secure(&self) -> bool {
        match self.option("sslmode") {
            Some(mode) => mode != "disable",
            None => self.option("sslrootcert").or(self.option("sslcert")).is_some(),
        }
    }

    /// Every place that is connected to: addresses (`hostaddr`) are, where there are some, and not names.
    fn hosts(&self) -> Vec<String> {
        let said = |name: &str| {
            let values = self.options.iter().filter(|(key, _)| key == name).map(|(_, value)| value);
            values.flat_map(|value| value.split(',')).map(str::to_owned).collect::<Vec<_>>()
        };
        let addresses = said("hostaddr");
        if !addresses.is_empty() {
            return addresses;
        }
        let rest = self.base.split_once("://").map_or("", |(_, rest)| rest);
        let rest = rest.split_once('@').map_or(rest, |(_, rest)| rest);
        let mut hosts = said("host");
        hosts.extend(rest.split('/').next().into_iter().flat_map(|hosts| hosts.split(',')).map(host_in));
        hosts
    }
}

/// As the database client knows them.
const DATABASE_SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// What an address leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// RabbitMQ.
    Amqp,
    /// One or several NATS servers.
    Nats,
    /// Postgres.
    Postgres,
}

/// The files with certificates that an address names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct CertificateFiles {
    /// What the server is shown.
    pub(super) shown: Option<PathBuf>,
    /// By what it is judged.
    pub(super) trusted: Option<PathBuf>,
}

/// The files that the link to an address reads.
pub(super) fn certificate_files(server: Server, url: &str) -> CertificateFiles {
    let in_query = |name: &str| {
        // Of several NATS servers one names the files for all.
        let pairs = url.split(',').filter_map(|server| server.split_once('?')).flat_map(|(_, query)| query.split('&'));
        let mut named = pairs.filter_map(|pair| pair.split_once('=')).filter(|(key, _)| *key == name);
        named.next().map(|(_, path)| PathBuf::from(percent::decoded(path)))
    };
    match server {
        Server::Amqp if !url.trim().to_ascii_lowercase().starts_with("amqps://") => CertificateFiles::default(),
        Server::Amqp | Server::Nats => {
            CertificateFiles { shown: in_query("certfile"), trusted: in_query("cacertfile") }
        }
        Server::Postgres => {
            // What cannot be split is refused elsewhere.
            let Ok(address) = DatabaseAddress::split(url) else { return CertificateFiles::default() };
            let file = |name| address.option(name).map(PathBuf::from);
            CertificateFiles {
                shown: file("sslcert"),
                trusted: file("sslrootcert").filter(|root| root.as_os_str() != "system"),
            }
        }
    }
}

/// Says at the start which of a process's links to servers are not secured and leave this machine. Each has the setting that its
/// address stands in.
pub fn warn_of_plain_links(links: &[(&str, Server, &str)]) {
    for (setting, server, url) in links {
        if let Some(cure) = cure_of_plain_link(*server, url) {
            warn!(setting, "INSECURE: what goes over this link can be read and changed on the network: {cure}");
        }
    }
}

/// What to do about an address whose link is not secured; `None` where it is, or stays on this machine.
fn cure_of_plain_link(server: Server, url: &str) -> Option<&'static str> {
    let says = |scheme: &str, address: &str| address.trim().to_ascii_lowercase().starts_with(scheme);
    match server {
        Server::Amqp => {
            (!says("amqps://", url) && !stays_here(url)).then_some("say amqps:// with the port of its TLS listener")
        }
        Server::Nats => {
            let options = url.split(',').filter_map(|server| server.split_once('?')).flat_map(|(_, it)| it.split('&'));
            let mut names = options.map(|option| option.split('=').next().unwrap_or(option));
            let is_secured = names.any(|name| ["cacertfile", "certfile"].contains(&name));
            let leaves = url.split(',').any(|server| !says("tls://", server) && !stays_here(server));
            (leaves && !is_secured).then_some("say tls:// for every server")
        }
        // What cannot be split is refused elsewhere.
        Server::Postgres => {
            let address = DatabaseAddress::split(url).ok()?;
            let leaves = !address.is_secure() && !address.hosts().iter().all(|host| is_local(host));
            leaves.then_some("say sslmode=verify-full")
        }
    }
}

/// Whether what goes to the URL of one server stays on this machine.
#[must_use]
pub fn stays_here(url: &str) -> bool {
    is_local(&host_of(url))
}

/// The host that the URL of one server names.
fn host_of(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    host_in(authority.rsplit_once('@').map_or(authority, |(_, host)| host))
}

/// The host of `host:port`, decoded.
fn host_in(place: &str) -> String {
    let place = place.trim();
    let host = match place.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => place.split(':').next(),
    };
    percent::decoded(host.unwrap_or_default())
}

/// Whether a host is this machine: its name for itself, a loopback address, or the folder of a socket.
fn is_local(host: &str) -> bool {
    let is_loopback = || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    host.is_empty() || host.starts_with('/') || host.eq_ignore_ascii_case("localhost") || is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_address_says_of_tls_is_taken_out_of_it() {
        let plain =
            database_way("FFPOOL_DATABASE_URL", "postgres://u:p@h/d?connect_timeout=3&sslmode=disable").unwrap();
        assert_eq!(
            (plain.url.as_str(), plain.tls.is_none()),
            ("postgres://u:p@h/d?connect_timeout=3&sslmode=disable", true)
        );
        assert_eq!(
            database_way("FFPOOL_DATABASE_URL", "postgres://u@127.0.0.1/d").unwrap().url,
            "postgres://u@127.0.0.1/d?sslmode=disable"
        );
        assert_eq!(
            database_way("FFPOOL_DATABASE_URL", "host=h dbname=d").unwrap().url,
            "host=h dbname=d sslmode=disable"
        );
        let said = database_way("FFPOOL_DATABASE_URL", "postgres://u@h/d?sslrootcert=%2Fno%20such.pem")
            .unwrap_err()
            .to_string();
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
            let said = database_way("FFPOOL_DATABASE_URL", url).unwrap_err().to_string();
            assert!(said.contains(named), "{url}: {said}");
        }
    }

    #[test]
    fn an_address_that_two_readers_may_split_differently_is_refused() {
        for (url, named) in [
            ("host=h sslmode = verify-full", "blanks"),
            ("host=h sslmode= verify-full", "blanks"),
            ("host=h sslmode='verify-full'", "quotes"),
            ("host=h password='a sslmode=disable'", "quotes"),
            ("host=h password=a\\ sslmode=disable", "backslashes"),
            ("POSTGRES://u@h/d", "postgres://"),
            ("postgres://u:p?w@h/d?sslmode=verify-full", "%3F"),
            ("postgres://u@h/d?sslmode=verify-full&application_name=a@b", "%40"),
        ] {
            let said = database_way("FFPOOL_DATABASE_URL", url).unwrap_err().to_string();
            assert!(said.contains(named), "{url}: {said}");
        }
        let said =
            database_way("FFPOOL_DATABASE_URL", "postgres://u@h/d?ssl%72ootcert=/none.pem").unwrap_err().to_string();
        assert!(said.contains("/none.pem"), "a name is decoded as well: {said}");
        let encoded = database_way("FFPOOL_DATABASE_URL", "postgres://u:p%3Fw%40@h/d").unwrap();
        assert_eq!(encoded.url, "postgres://u:p%3Fw%40@h/d?sslmode=disable");
    }

    #[test]
    fn links_that_leave_this_machine_without_tls_are_named() {
        let (amqp, nats, postgres) = (Server::Amqp, Server::Nats, Server::Postgres);
        for (server, plain) in [
            (amqp, "amqp://u:p@mq.example:5672/%2f"),
            (nats, "nats://s.example"),
            (nats, "nats://localhost,nats://s.example"),
            (nats, "s.example:4222"),
            (nats, "u:c2VjcmV0cGFzcw=@s.example:4222"),
            (nats, "nats://u:certfile=@s.example:4222"),
            (nats, "localhost,nats://s.example"),
            (nats, "nats://127.0.0.1.example"),
            (postgres, "postgres://u@db.example/d"),
            (postgres, "postgres://a,b/d?sslmode=disable"),
            (postgres, "postgres:///d?host=db.example"),
            (postgres, "postgres://localhost,db.example/d"),
            (postgres, "postgres://localhost/d?hostaddr=192.0.2.1"),
            (postgres, "postgres://localhost.example/d"),
            (postgres, "postgres://127.example/d"),
            (postgres, "host=db.example dbname=d"),
        ] {
            assert!(cure_of_plain_link(server, plain).is_some(), "{plain}");
        }
        for (server, fine) in [
            (amqp, "amqp://u:p@127.0.0.1:5672/%2f"),
            (amqp, "amqps://mq.example/%2f"),
            (nats, "nats://localhost:4222"),
            (nats, "tls://s.example"),
            (nats, "nats://s.example?cacertfile=/ca.pem"),
            (nats, "nats://a:b@localhost:4222,127.0.0.1"),
            (nats, "tls://s.example,tls://t.example"),
            (nats, "nats://s.example?certfile=/c.pem&keyfile=/c.pem"),
            (postgres, "postgres://u@localhost/d"),
            (postgres, "postgres://u@db.example/d?sslmode=verify-full"),
            (postgres, "postgres:///d?host=/run/postgresql"),
            (postgres, "postgres://%2Frun%2Fpostgresql/d"),
            (postgres, "postgres://[::1]:5432,127.0.0.2/d"),
            (postgres, "host=localhost dbname=d"),
        ] {
            assert!(cure_of_plain_link(server, fine).is_none(), "{fine}");
        }
    }
}
