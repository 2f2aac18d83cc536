//! A server's certificate that needs nobody: made at the first start by an authority of its own, renewed before it ends.
//!
//! Invariant: what is served is signed by the authority in the folder, valid, and names every name that is wanted; else it is
//! made anew. Certificate and key are one file, so that no reader finds two that do not belong together. Who shares the folder
//! adds its names to those of the others, or each would make anew what the other has just made.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::authority::{Authority, Wanted};
use super::certificate::{self, Facts, NameKind, facts, is_signed_by};
use super::files::{lock, read, write_over};
use super::{TlsError, now};

/// A certificate lives so long, and is renewed when a third of it is left.
const LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
const RENEWED_AT: i64 = 3;

/// Names of others are kept up to so many in all: a container has a new name each time that it is made.
const NAMES_MAX: usize = 100;

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
        let due = self.due(&file, &authority, now());
        if let Some(due) = &due {
            let issued = authority.issue(&Wanted {
                common_name: format!("ffpool {}", self.server),
                names: self.with_names_of(&due.others),
                is_server: true,
                is_client: false,
                life: LIFE,
            })?;
            write_over(&file, &format!("{}{}", issued.certificate, issued.key), true)?;
        }
        let (path, facts) = (authority.path().to_owned(), authority.facts().clone());
        Ok(Prepared { file, authority: path, authority_facts: facts, is_authority_new, made: due.map(|due| due.why) })
    }

    /// Why the certificate in `file` will not do at the time `now`.
    fn due(&self, file: &Path, authority: &Authority, now: i64) -> Option<Due> {
        let anew = |why| Some(Due { why, others: Vec::new() });
        let Ok(pem) = read(file) else { return anew("there was none") };
        let Ok(chain) = certificate::chain(file, &pem) else { return anew("the old one could not be read") };
        let Ok(facts) = facts(&chain[0]) else { return anew("the old one could not be read") };
        if certificate::private_key(file, &pem).is_err() {
            return anew("the old one had no key");
        }
        if !is_signed_by(&chain[0], authority.certificate()) {
            return anew("the old one is of another authority");
        }
        // The clock was ahead when it was made, and nobody trusts it until then.
        if facts.not_before > now {
            return anew("the old one was not valid yet");
        }
        // Under an authority near its end new ones are short, and would be due at once again. Names that nobody has any more
        // end here; others who share the folder look before they serve it, and add theirs again.
        let is_last = facts.not_after >= authority.facts().not_after;
        if facts.left_secs(now) <= (facts.not_after - facts.not_before) / RENEWED_AT && !is_last {
            return anew("the old one was near its end");
        }
        if !self.names.iter().all(|name| facts.is_for(name)) {
            let others = facts.names.into_iter().filter(|name| matches!(name.kind, NameKind::Dns | NameKind::Ip));
            return Some(Due { why: "the old one lacks a name", others: others.map(|name| name.value).collect() });
        }
        None
    }

    /// Our names and, as far as there is room, `others`.
    fn with_names_of(&self, others: &[String]) -> Vec<String> {
        let mut names = self.names.clone();
        for other in others {
            if names.len() < NAMES_MAX && !names.iter().any(|name| name.eq_ignore_ascii_case(other)) {
                names.push(other.clone());
            }
        }
        names
    }
}

/// A certificate has to be made.
struct Due {
    why: &'static str,
    /// Names in the old one that somebody else may need.
    others: Vec<String>,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn called(folder: &Path, name: &str) -> Automatic {
        Automatic { folder: folder.to_owned(), server: "api", names: vec!["localhost".to_owned(), name.to_owned()] }
    }

    #[test]
    fn dispatchers_that_share_a_folder_make_one_certificate_for_all() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (called(folder.path(), "one"), called(folder.path(), "192.0.2.7"));
        assert_eq!(one.prepare().unwrap().made, Some("there was none"));
        assert_eq!(other.prepare().unwrap().made, Some("the old one lacks a name"));
        assert_eq!((one.prepare().unwrap().made, other.prepare().unwrap().made), (None, None));
        let many: Vec<String> = (0..2 * NAMES_MAX).map(|number| format!("host-{number}")).collect();
        let names = one.with_names_of(&many);
        assert!(names.len() == NAMES_MAX && names[..2] == one.names[..]);
    }

    #[test]
    fn a_certificate_that_is_not_valid_yet_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let own = called(folder.path(), "one");
        let file = own.prepare().unwrap().file;
        let authority = Authority::open(folder.path()).unwrap();
        let why = |at: i64| own.due(&file, &authority, at).map(|due| due.why);
        assert_eq!(why(now()), None);
        assert_eq!(why(now() - 24 * 3600), Some("the old one was not valid yet"));
        let near_its_end = now() + i64::try_from(LIFE.as_secs()).unwrap() * 3 / 4;
        assert_eq!(why(near_its_end), Some("the old one was near its end"));
    }
}
