//! How the API is reached: its address, its certificate, and who may connect.
//!
//! Invariant: settings that contradict each other are refused; TLS is off only where somebody wrote so.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use ffpool_runtime::settings::WrongSetting;
use ffpool_runtime::tls::{Automatic, Clients, RevocationLists, ServerTls, Source, own_names, state_directory};
use tracing::{info, warn};

use crate::api::{ClientRole, ClientRoles, Door, Limits, TraceUrl};
use crate::limits::Limit;

/// Open files that are not connections to the API: links to the servers, pools, logs.
const OTHER_FILES: u64 = 256;

/// Settings of the API's listener.
#[derive(Debug, Clone, Args)]
pub struct ApiSettings {
    /// Address of the HTTP API.
    #[arg(long, env = "FFPOOL_API_ADDR", value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub api_addr: SocketAddr,
    /// TLS of the API: `auto` makes an authority and a certificate below the state directory and renews it, `files` takes
    /// yours, `off` is plain HTTP. Default: `files` where `--api-cert` is set, else `auto`.
    #[arg(long, env = "FFPOOL_API_TLS", value_name = "MODE", value_enum)]
    pub api_tls: Option<TlsMode>,
    /// Your certificate for the API, PEM, followed by those that lead to its authority. Read again when it changes.
    #[arg(long, env = "FFPOOL_API_CERT", value_name = "FILE")]
    pub api_cert: Option<PathBuf>,
    /// Its private key, PEM without a passphrase. Default: in the same file.
    #[arg(long, env = "FFPOOL_API_CERT_KEY", value_name = "FILE")]
    pub api_cert_key: Option<PathBuf>,
    /// More host names and addresses for the certificate that `auto` makes, besides this machine's; several with commas.
    #[arg(long, env = "FFPOOL_API_NAMES", value_name = "NAMES", value_delimiter = ',')]
    pub api_names: Vec<String>,
    /// Authorities (PEM) one of which must have signed a client's certificate. With it, nobody is answered without one.
    #[arg(long, env = "FFPOOL_API_CLIENT_CA", value_name = "FILE")]
    pub api_client_ca: Option<PathBuf>,
    /// What client certificates may do without an API key, as `<cn|dns|ip|email|uri>=<name>:<role>`; several with commas.
    /// A certificate that none names may do nothing.
    #[arg(long, env = "FFPOOL_API_CLIENT_ROLES", value_name = "ROLES", value_delimiter = ',')]
    pub api_client_roles: Vec<ClientRole>,
    /// A file with more of these, on lines or between commas. Read again when it changes.
    #[arg(long, env = "FFPOOL_API_CLIENT_ROLES_FILE", value_name = "FILE")]
    pub api_client_roles_file: Option<PathBuf>,
    /// Revocation lists (PEM), one of each authority that signs clients' certificates: what stands there does not count any
    /// more. Read again when it changes.
    #[arg(long, env = "FFPOOL_API_CLIENT_CRL", value_name = "FILE")]
    pub api_client_crl: Option<PathBuf>,
    /// What becomes of clients when their authority's list is older than it promised: `refuse` lets none in until there is a
    /// newer one, `accept` goes on by the old one.
    #[arg(long, env = "FFPOOL_API_CLIENT_CRL_EXPIRED", value_name = "POLICY", value_enum, default_value = "refuse")]
    pub api_client_crl_expired: ExpiredLists,
    /// Most connections to the API. When there are as many, the one that has waited longest makes room.
    #[arg(long, env = "FFPOOL_API_CONNECTIONS", value_name = "COUNT", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(16..=1_000_000))]
    pub api_connections: u32,
    /// Most connections to the API from one address (of IPv6: one network of 64 bits). Those of a trusted proxy do not count,
    /// but the requests under way of each of its clients do.
    #[arg(long, env = "FFPOOL_API_CONNECTIONS_PER_ADDRESS", value_name = "COUNT", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(4..=1_000_000))]
    pub api_connections_per_address: u32,
    /// Most TLS handshakes under way. When there are as many, the one that has taken longest ends.
    #[arg(long, env = "FFPOOL_API_HANDSHAKES", value_name = "COUNT", default_value_t = 256, value_parser = clap::value_parser!(u32).range(4..=1_000_000))]
    pub api_handshakes: u32,
    /// Most TLS handshakes under way from one address.
    #[arg(long, env = "FFPOOL_API_HANDSHAKES_PER_ADDRESS", value_name = "COUNT", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub api_handshakes_per_address: u32,
    /// TLS handshakes of one address, as `<a second>/<at once>`, or `off`.
    #[arg(long, env = "FFPOOL_RATE_HANDSHAKE", value_name = "RATE", default_value = "100/200")]
    pub rate_handshake: Limit,
    /// Where a trace can be looked at, with `{trace_id}` in place of its id: `https://jaeger.example/trace/{trace_id}`. The dashboard and
    /// `ffpool jobs show` lead there from a job.
    #[arg(long, env = "FFPOOL_TRACE_URL", value_name = "URL")]
    pub trace_url: Option<TraceUrl>,
    /// Where the dispatcher keeps what it makes itself. Default: what systemd gives it, `/var/lib/ffpool` for root, else
    /// `~/.local/state/ffpool`.
    #[arg(long, env = "FFPOOL_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

/// How the API is secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TlsMode {
    /// By a certificate that is made here.
    Auto,
    /// By a certificate of the operator's.
    Files,
    /// Not at all.
    Off,
}

/// What becomes of clients whose authority's revocation list has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExpiredLists {
    /// None is let in.
    Refuse,
    /// The old list counts.
    Accept,
}

impl ApiSettings {
    /// Prepares the way into the API that listens on `listening`, and says how it is secured.
    ///
    /// # Errors
    /// Settings that contradict each other, and files that cannot be made or used.
    pub(crate) fn door(&self, listening: SocketAddr) -> anyhow::Result<Door> {
        let tls = match self.source(listening)? {
            Some(source) => Some(ServerTls::open(source, self.clients())?),
            None => None,
        };
        match &tls {
            None => warn!(
                address = %listening,
                "INSECURE: the API speaks plain HTTP (FFPOOL_API_TLS=off): whoever sees the network sees jobs and API keys"
            ),
            Some(tls) => {
                let authority = tls.authority().map(|path| path.display().to_string());
                info!(address = %listening, authority, client_certificates = tls.asks_for_certificates(), "the API speaks TLS");
            }
        }
        let roles = ClientRoles::open(self.api_client_roles.clone(), self.api_client_roles_file.clone())?;
        Ok(Door { tls, roles, limits: self.limits() })
    }

    /// Where the API's certificate comes from; `None` where there is none.
    fn source(&self, listening: SocketAddr) -> Result<Option<Source>, WrongSetting> {
        let files = self.api_cert.as_ref().map(|certificate| Source::Files {
            certificate: certificate.clone(),
            key: self.api_cert_key.clone().unwrap_or_else(|| certificate.clone()),
        });
        let wrong = |reason: &str| Err(WrongSetting::new(reason));
        if self.api_cert_key.is_some() && files.is_none() {
            return wrong("FFPOOL_API_CERT_KEY is set and FFPOOL_API_CERT is not: give both");
        }
        if self.api_client_ca.is_none() {
            const WHICH: &str = "say which authority signs the clients' certificates";
            if !self.api_client_roles.is_empty() {
                return wrong(&format!("FFPOOL_API_CLIENT_ROLES is set and FFPOOL_API_CLIENT_CA is not: {WHICH}"));
            }
            if self.api_client_roles_file.is_some() {
                return wrong(&format!("FFPOOL_API_CLIENT_ROLES_FILE is set and FFPOOL_API_CLIENT_CA is not: {WHICH}"));
            }
            if self.api_client_crl.is_some() {
                return wrong(&format!("FFPOOL_API_CLIENT_CRL is set and FFPOOL_API_CLIENT_CA is not: {WHICH}"));
            }
        }
        match (self.api_tls, files) {
            (Some(TlsMode::Files) | None, Some(files)) => Ok(Some(files)),
            (Some(TlsMode::Files), None) => wrong("FFPOOL_API_TLS=files needs FFPOOL_API_CERT, a PEM file"),
            (Some(TlsMode::Auto), Some(_)) => {
                wrong("FFPOOL_API_TLS=auto makes a certificate and FFPOOL_API_CERT gives one: leave one of them out")
            }
            (Some(TlsMode::Auto) | None, None) => Ok(Some(Source::Automatic(self.automatic(listening)))),
            (Some(TlsMode::Off), files) if files.is_some() || self.api_client_ca.is_some() => wrong(
                "FFPOOL_API_TLS=off, but a certificate (FFPOOL_API_CERT) or an authority of clients (FFPOOL_API_CLIENT_CA) is \
                 given: without TLS neither is looked at",
            ),
            (Some(TlsMode::Off), _) => Ok(None),
        }
    }

    /// By what clients' certificates are judged, where they have to show some.
    fn clients(&self) -> Option<Clients> {
        let even_expired = self.api_client_crl_expired == ExpiredLists::Accept;
        let revoked = self.api_client_crl.clone().map(|file| RevocationLists { file, even_expired });
        self.api_client_ca.clone().map(|authorities| Clients { authorities, revoked })
    }

    fn automatic(&self, listening: SocketAddr) -> Automatic {
        let mut names = own_names(listening);
        names.extend(self.api_names.iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()));
        let folder = self.state_dir.clone().unwrap_or_else(state_directory).join("tls");
        Automatic { folder, server: "api", names }
    }

    /// As many connections as were asked for, or as there are files for.
    fn limits(&self) -> Limits {
        let asked = usize::try_from(self.api_connections).unwrap_or(usize::MAX);
        let room = usize::try_from(raise_file_limit().saturating_sub(OTHER_FILES)).unwrap_or(usize::MAX).max(16);
        if room < asked {
            warn!(
                asked,
                room,
                "fewer connections to the API than asked for: the limit of open files (LimitNOFILE) is in the way"
            );
        }
        let number = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        Limits {
            connections: asked.min(room),
            per_address: number(self.api_connections_per_address),
            handshakes: number(self.api_handshakes),
            handshakes_per_address: number(self.api_handshakes_per_address),
            handshake_rate: self.rate_handshake,
            ..Limits::default()
        }
    }
}

/// Lets this process open as many files as it may, and tells how many that are.
fn raise_file_limit() -> u64 {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        api: ApiSettings,
    }

    fn source(flags: &[&str]) -> Result<Option<Source>, String> {
        let line = Line::try_parse_from(std::iter::once(&"x").chain(flags)).map_err(|error| error.to_string())?;
        line.api.source("10.0.0.5:8080".parse().unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn tls_is_off_only_where_somebody_wrote_so() {
        let Ok(Some(Source::Automatic(own))) = source(&["--state-dir=/s", "--api-names=pool.example, 10.9.9.9"]) else {
            panic!("without settings a certificate is made");
        };
        assert_eq!(own.folder, PathBuf::from("/s/tls"));
        for name in ["localhost", "127.0.0.1", "::1", "10.0.0.5", "pool.example", "10.9.9.9"] {
            assert!(own.names.iter().any(|own| own == name), "{name} of {:?}", own.names);
        }
        assert!(matches!(source(&["--api-cert=/c.pem"]), Ok(Some(Source::Files { key, .. })) if key == *"/c.pem"));
        assert_eq!(source(&["--api-tls=off"]), Ok(None));
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        for (flags, named) in [
            (vec!["--api-tls=files"], "FFPOOL_API_CERT"),
            (vec!["--api-tls=auto", "--api-cert=/c.pem"], "FFPOOL_API_TLS=auto"),
            (vec!["--api-tls=off", "--api-cert=/c.pem"], "FFPOOL_API_TLS=off"),
            (vec!["--api-tls=off", "--api-client-ca=/ca.pem"], "FFPOOL_API_CLIENT_CA"),
            (vec!["--api-cert-key=/k.pem"], "FFPOOL_API_CERT_KEY"),
            (vec!["--api-client-roles=cn=ops:operator"], "FFPOOL_API_CLIENT_CA"),
            (vec!["--api-client-roles-file=/roles"], "FFPOOL_API_CLIENT_CA"),
            (vec!["--api-client-crl=/crl.pem"], "FFPOOL_API_CLIENT_CA"),
            (vec!["--api-client-ca=/ca.pem", "--api-client-roles=ops:operator"], "cn=ops:operator"),
        ] {
            let said = source(&flags).unwrap_err();
            assert!(said.contains(named), "{flags:?}: {said}");
        }
    }
}
