//! A server's certificate that needs nobody: made at the first start by an authority of its own, renewed before it ends.
//!
//! Invariant: what is served is signed by the authority in the folder, valid, and names every name that is wanted; else it is
//! made anew. Certificate and key are one file, so that no reader finds two that do not belong together.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::authority::{Authority, Wanted};
use super::certificate::{self, Facts, facts, is_signed_by};
use super::files::{lock, read, write_over};
use super::{TlsError, now};

/// A certificate lives so long, and is renewed when a third of it is left.
const LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
const RENEWED_AT: i64 = 3;

/// The certificate of a server, in a folder with its authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Automatic {
    /// Where the authority is (`ca.pem`, `ca-key.pem`) and the certificate (`<server>.pem`).
    pub folder: PathBuf,
    /// What the certificate is for, such as `api`.
    pub server: &'static str,
    /// Host names and addresses by which clients call the server.
    pub names: Vec<String>,
}

/// What stands in the folder.
pub(super) struct Prepared {
    /// The file with certificate and key.
    pub(super) file: PathBuf,
    /// The file for clients to trust.
    pub(super) authority: PathBuf,
    pub(super) authority_facts: Facts,
    pub(super) is_authority_new: bool,
    /// Why a certificate was made, if one was.
    pub(super) made: Option<&'static str>,
}

impl Automatic {
    /// Makes what is missing or due.
    pub(super) fn prepare(&self) -> Result<Prepared, TlsError> {
        let (authority, is_authority_new) = Authority::open_or_create(&self.folder, &authority_name())?;
        let file = self.folder.join(format!("{}.pem", self.server));
        let _lock = lock(&self.folder)?;
        let made = self.due(&file, &authority);
        if made.is_some() {
            let issued = authority.issue(&Wanted {
                common_name: format!("ffpool {}", self.server),
                names: self.names.clone(),
                is_server: true,
                is_client: false,
                life: LIFE,
            })?;
            write_over(&file, &format!("{}{}", issued.certificate, issued.key), true)?;
        }
        let (path, facts) = (authority.path().to_owned(), authority.facts().clone());
        Ok(Prepared { file, authority: path, authority_facts: facts, is_authority_new, made })
    }

    /// Why the certificate in `file` will not do.
    fn due(&self, file: &Path, authority: &Authority) -> Option<&'static str> {
        let Ok(pem) = read(file) else { return Some("there was none") };
        let Ok(chain) = certificate::chain(file, &pem) else { return Some("the old one could not be read") };
        let Ok(facts) = facts(&chain[0]) else { return Some("the old one could not be read") };
        if certificate::private_key(file, &pem).is_err() {
            return Some("the old one had no key");
        }
        if !is_signed_by(&chain[0], authority.certificate()) {
            return Some("the old one is of another authority");
        }
        if !self.names.iter().all(|name| facts.is_for(name)) {
            return Some("the old one lacks a name");
        }
        // Under an authority near its end new ones are short, and would be due at once again.
        let left = facts.left_secs(now());
        let is_last = facts.not_after >= authority.facts().not_after;
        (left <= (facts.not_after - facts.not_before) / RENEWED_AT && !is_last)
            .then_some("the old one was near its end")
    }
}

fn authority_name() -> String {
    // Two authorities that have one name are taken for each other by some clients: the number tells them apart.
    format!("ffpool CA {} {}", host_name().unwrap_or_else(|| "here".to_owned()), now()).chars().take(64).collect()
}

/// Where a process may keep what it makes itself: what systemd gives it (`StateDirectory=`), for root `/var/lib/ffpool`,
/// for anybody else a folder at home.
#[must_use]
pub fn state_directory() -> PathBuf {
    let given = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // Several are separated by colons; the first is the unit's own.
    let by_systemd = std::env::var("STATE_DIRECTORY")
        .ok()
        .and_then(|all| all.split(':').next().filter(|first| !first.is_empty()).map(PathBuf::from));
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    by_systemd
        .or_else(|| is_root.then(|| PathBuf::from("/var/lib/ffpool")))
        .or_else(|| given("XDG_STATE_HOME").map(|home| home.join("ffpool")))
        .or_else(|| given("HOME").map(|home| home.join(".local/state/ffpool")))
        .unwrap_or_else(|| PathBuf::from("/var/lib/ffpool"))
}

/// By which names a server that listens on `addr` is called: this machine's, its loopback addresses, and the address itself,
/// or where it listens on all, those by which the machine reaches others.
#[must_use]
pub fn own_names(addr: SocketAddr) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    names.extend(host_name());
    if addr.ip().is_unspecified() {
        names.extend(
            [outgoing("0.0.0.0:0", "192.0.2.1:9"), outgoing("[::]:0", "[2001:db8::1]:9")].into_iter().flatten(),
        );
    } else {
        names.push(addr.ip().to_string());
    }
    let mut known = std::collections::BTreeSet::new();
    names.retain(|name| known.insert(name.to_ascii_lowercase()));
    names
}

/// The address that the kernel would send from. Nothing is sent.
fn outgoing(from: &str, to: &str) -> Option<String> {
    let socket = UdpSocket::bind(from).ok()?;
    socket.connect(to).ok()?;
    let address = socket.local_addr().ok()?.ip();
    let is_link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    (!address.is_unspecified() && !is_link_local).then(|| address.to_string())
}

/// This machine's name, where it can stand in a certificate.
fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim();
    let is_plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
    is_plain.then(|| name.to_owned())
}
