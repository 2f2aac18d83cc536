//! The TLS side of a server: what it shows, whom it lets in, and how both change while it serves.
//!
//! Invariant: what is in force is always complete and was checked as a whole; files that cannot be used, or may be written to
//! still, change nothing, and say so in the log and in a metric.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use ffpool_schema::metrics::CERTIFICATE_RELOADS;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ServerConfig;
use tracing::{error, info, warn};

use super::automatic::Automatic;
use super::current::{Clients, Current, digest, load};
use super::ends::Ends;
use super::{TlsError, now};

/// Where a server's certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Made here.
    Automatic(Automatic),
    /// The operator's own files (PEM); certificate and key may be one file.
    Files {
        /// The server's certificate, and after it those that lead to its authority.
        certificate: PathBuf,
        /// Its private key.
        key: PathBuf,
    },
}

struct Shared {
    source: Source,
    clients: Option<Clients>,
    /// Written by `look` only.
    current: RwLock<Current>,
    said: Mutex<Said>,
}

/// What was said, so that it is not said at every look.
#[derive(Default)]
struct Said {
    /// Of the last files that were not taken.
    refused: Option<[u8; 32]>,
    /// When certificates end.
    ends: Ends,
}

/// A server's certificate and rules. Clones share it.
#[derive(Clone)]
pub struct ServerTls {
    shared: Arc<Shared>,
}

impl ServerTls {
    /// Makes what has to be made and reads all. With `clients` only those are let in that show a certificate of one of
    /// their authorities.
    ///
    /// # Errors
    /// When a file cannot be made, read or used.
    pub fn open(source: Source, clients: Option<Clients>) -> Result<ServerTls, TlsError> {
        if let Source::Automatic(automatic) = &source {
            prepare(automatic)?;
        }
        let current = load(&source, clients.as_ref())?;
        say(&current);
        let shared = Shared { source, clients, current: RwLock::new(current), said: Mutex::default() };
        let tls = ServerTls { shared: Arc::new(shared) };
        tls.tell();
        Ok(tls)
    }

    /// What is in force now, for one handshake.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        self.shared.current.read().unwrap_or_else(PoisonError::into_inner).config.clone()
    }

    /// Whether clients must show a certificate.
    #[must_use]
    pub fn asks_for_certificates(&self) -> bool {
        self.shared.clients.is_some()
    }

    /// Why a client that was let in with these certificates would not be let in now, by the files in force and the clock;
    /// `None`: it would.
    #[must_use]
    pub fn refuses(&self, shown: &[CertificateDer<'_>]) -> Option<rustls::Error> {
        let verifier = self.shared.current.read().unwrap_or_else(PoisonError::into_inner).verifier.clone()?;
        let Some((own, between)) = shown.split_first() else { return Some(rustls::Error::NoCertificatesPresented) };
        verifier.verify_client_cert(own, between, UnixTime::now()).err()
    }

    /// The file with the authority that clients have to trust, where it was made here.
    #[must_use]
    pub fn authority(&self) -> Option<PathBuf> {
        match &self.shared.source {
            Source::Automatic(automatic) => Some(automatic.folder.join("ca.pem")),
            Source::Files { .. } => None,
        }
    }

    /// Looks after the certificates for as long as it is polled.
    pub async fn watch(self, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            let own = self.clone();
            // Fails only when the runtime ends, and this with it.
            let _ = tokio::task::spawn_blocking(move || own.look()).await;
        }
    }

    /// One look: renews what is due, takes what is new, tells what is left.
    pub fn look(&self) {
        let shared = &self.shared;
        if let Source::Automatic(automatic) = &shared.source
            && let Err(why) = prepare(automatic)
        {
            self.refuse([0; 32], &why);
        }
        match digest(&shared.source, shared.clients.as_ref()) {
            Ok(seen) if seen == self.current_digest() => self.locked_said().refused = None,
            Ok(seen) => match load(&shared.source, shared.clients.as_ref()).and_then(|new| self.checked(new)) {
                Ok(new) => self.take(new),
                Err(why) => self.refuse(seen, &why),
            },
            Err(why) => self.refuse([1; 32], &why),
        }
        self.tell();
    }

    fn locked_said(&self) -> MutexGuard<'_, Said> {
        self.shared.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current_digest(&self) -> [u8; 32] {
        self.shared.current.read().unwrap_or_else(PoisonError::into_inner).digest
    }

    /// What replaces no other: a certificate that has expired, and at the first look files with fewer certificates than
    /// those in force, which somebody may still be writing. A part that ends between two certificates looks whole.
    fn checked(&self, new: Current) -> Result<Current, TlsError> {
        let expired = new.expired(now());
        if let Some(why) = expired {
            return Err(why);
        }
        let in_force = self.shared.current.read().unwrap_or_else(PoisonError::into_inner).count;
        let is_seen_again = self.locked_said().refused == Some(new.digest);
        if new.count < in_force && !is_seen_again {
            let reason = format!(
                "there are fewer certificates than in force ({} instead of {in_force}), as in a file that is being written: \
                 taken at the next look if they are still the same",
                new.count
            );
            return Err(TlsError::unusable(&new.path, reason));
        }
        Ok(new)
    }

    fn take(&self, new: Current) {
        say(&new);
        *self.shared.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        self.locked_said().refused = None;
        metrics::counter!(CERTIFICATE_RELOADS, "outcome" => "taken").increment(1);
    }

    /// Says once for each content what is wrong with it: a writer may be half done, and then the next look is better.
    fn refuse(&self, seen: [u8; 32], why: &TlsError) {
        metrics::counter!(CERTIFICATE_RELOADS, "outcome" => "refused").increment(1);
        let mut said = self.locked_said();
        if said.refused.replace(seen) != Some(seen) {
            error!("new certificates cannot be used, the old ones stay in force: {}", crate::settings::chain(why));
        }
    }

    fn tell(&self) {
        let current = self.shared.current.read().unwrap_or_else(PoisonError::into_inner);
        self.locked_said().ends.tell(current.certificates.iter().map(|(name, facts)| (*name, facts)));
    }
}

fn say(current: &Current) {
    for (certificate, facts) in &current.certificates {
        info!(certificate, subject = %facts.subject, sha256 = %facts.fingerprint, "certificate in force");
    }
}

/// Makes what is due, and says what was made.
fn prepare(automatic: &Automatic) -> Result<(), TlsError> {
    let prepared = automatic.prepare()?;
    let (authority, sha256) = (prepared.authority.display(), &prepared.authority_facts.fingerprint);
    if prepared.is_authority_new {
        warn!(%authority, %sha256, "made a certificate authority; clients have to be told to trust it");
    }
    if let Some(why) = prepared.made {
        info!(file = %prepared.file.display(), names = automatic.names.join(","), why, "made a certificate");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Authority, Wanted};
    use super::*;

    fn served(folder: &Path) -> Source {
        Source::Files { certificate: folder.join("api.pem"), key: folder.join("key.pem") }
    }

    #[test]
    fn a_file_that_is_being_written_is_not_taken_before_it_is_whole_or_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let (authority, _) = Authority::open_or_create(&folder.path().join("ca"), "ours").unwrap();
        let ca = std::fs::read_to_string(authority.path()).unwrap();
        let wanted = Wanted {
            common_name: "api".to_owned(),
            names: vec!["localhost".to_owned()],
            is_server: true,
            is_client: false,
            life: Duration::from_secs(3600),
        };
        let issued = authority.issue(&wanted).unwrap();
        let file = folder.path().join("api.pem");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        std::fs::write(folder.path().join("key.pem"), &issued.key).unwrap();
        let whole = format!("{}{ca}", issued.certificate);
        write(&whole);
        let tls = ServerTls::open(served(folder.path()), None).unwrap();
        let count = || tls.shared.current.read().unwrap().count;

        // Cut within a certificate it never is taken, however often it is seen.
        for cut in [10, issued.certificate.len() / 2, whole.len() - 30] {
            write(&whole[..cut]);
            for _ in 0..3 {
                tls.look();
                assert_eq!(count(), 2, "cut at {cut}");
            }
        }
        // Cut between two it looks whole.
        write(&issued.certificate);
        tls.look();
        assert_eq!(count(), 2, "at the first look somebody may be writing");
        write(&whole);
        tls.look();
        write(&issued.certificate);
        tls.look();
        assert_eq!(count(), 2, "and again, after it was whole");
        tls.look();
        assert_eq!(count(), 1, "what stays is what is wanted");
        write(&whole);
        tls.look();
        assert_eq!(count(), 2);
    }
}
