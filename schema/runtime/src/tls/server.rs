//! The TLS side of a server: what it shows, whom it lets in, and how both change while it serves.
//!
//! Invariant: what is in force is always complete and was checked as a whole; files that cannot be used change nothing, and
//! say so in the log and in a metric.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use ffpool_schema::metrics::{CERTIFICATE_EXPIRES_SECONDS, CERTIFICATE_RELOADS};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use sha2::{Digest as _, Sha256};
use tracing::{error, info, warn};

use super::automatic::Automatic;
use super::certificate::{self, Facts, facts};
use super::files::read;
use super::{TlsError, now};

/// A certificate that ends sooner than this is worth a warning every day.
const WARN_SECS: i64 = 14 * DAY_SECS;
const DAY_SECS: i64 = 24 * 3600;
/// What a server of ours speaks.
const ALPN: &[u8] = b"http/1.1";

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

/// What is in force.
struct Current {
    config: Arc<ServerConfig>,
    /// Of the files it was made of.
    digest: [u8; 32],
    /// Each certificate that matters, by the name under which its end is told.
    certificates: Vec<(&'static str, Facts)>,
}

impl Current {
    fn say(&self) {
        for (certificate, facts) in &self.certificates {
            info!(certificate, subject = %facts.subject, sha256 = %facts.fingerprint, "certificate in force");
        }
    }
}

struct Shared {
    source: Source,
    client_ca: Option<PathBuf>,
    /// Written by `look` only.
    current: RwLock<Current>,
    /// Of the last files that could not be used, so that it is said once; and the day of the last warning.
    said: Mutex<(Option<[u8; 32]>, i64)>,
}

/// A server's certificate and rules. Clones share it.
#[derive(Clone)]
pub struct ServerTls {
    shared: Arc<Shared>,
}

impl ServerTls {
    /// Makes what has to be made and reads all. With a `client_ca` only clients are let in that show a certificate of one of
    /// the authorities in that file.
    ///
    /// # Errors
    /// When a file cannot be made, read or used.
    pub fn open(source: Source, client_ca: Option<PathBuf>) -> Result<ServerTls, TlsError> {
        if let Source::Automatic(automatic) = &source {
            prepare(automatic)?;
        }
        let current = load(&source, client_ca.as_deref())?;
        current.say();
        let shared = Shared { source, client_ca, current: RwLock::new(current), said: Mutex::default() };
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
        self.shared.client_ca.is_some()
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
        match digest(&shared.source, shared.client_ca.as_deref()) {
            Ok(seen) if seen == self.current_digest() => {}
            Ok(seen) => match load(&shared.source, shared.client_ca.as_deref()).and_then(not_expired(&shared.source)) {
                Ok(new) => self.take(new),
                Err(why) => self.refuse(seen, &why),
            },
            Err(why) => self.refuse([1; 32], &why),
        }
        self.tell();
    }

    fn current_digest(&self) -> [u8; 32] {
        self.shared.current.read().unwrap_or_else(PoisonError::into_inner).digest
    }

    fn take(&self, new: Current) {
        new.say();
        *self.shared.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        self.shared.said.lock().unwrap_or_else(PoisonError::into_inner).0 = None;
        metrics::counter!(CERTIFICATE_RELOADS, "outcome" => "taken").increment(1);
    }

    /// Says once for each content what is wrong with it: a writer may be half done, and then the next look is better.
    fn refuse(&self, seen: [u8; 32], why: &TlsError) {
        metrics::counter!(CERTIFICATE_RELOADS, "outcome" => "refused").increment(1);
        let mut said = self.shared.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.0.replace(seen) != Some(seen) {
            error!("new certificates cannot be used, the old ones stay in force: {}", crate::settings::chain(why));
        }
    }

    fn tell(&self) {
        let now = now();
        let mut said = self.shared.said.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new_day = now - said.1 >= DAY_SECS;
        for (certificate, facts) in &self.shared.current.read().unwrap_or_else(PoisonError::into_inner).certificates {
            let left = facts.left_secs(now);
            #[expect(clippy::cast_precision_loss, reason = "seconds of centuries fit")]
            metrics::gauge!(CERTIFICATE_EXPIRES_SECONDS, "certificate" => *certificate).set(left as f64);
            if is_new_day && left <= 0 {
                error!(certificate, subject = %facts.subject, "the certificate has expired: nobody should trust it any more");
            } else if is_new_day && left < WARN_SECS {
                warn!(certificate, subject = %facts.subject, days_left = left / DAY_SECS, "the certificate ends soon");
            }
        }
        if is_new_day {
            said.1 = now;
        }
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

/// The files that a server's rules are made of.
fn files(source: &Source) -> (PathBuf, PathBuf) {
    match source {
        Source::Automatic(automatic) => {
            let file = automatic.folder.join(format!("{}.pem", automatic.server));
            (file.clone(), file)
        }
        Source::Files { certificate, key } => (certificate.clone(), key.clone()),
    }
}

fn digest(source: &Source, client_ca: Option<&Path>) -> Result<[u8; 32], TlsError> {
    let (certificate, key) = files(source);
    let mut digest = Sha256::new();
    for path in [Some(certificate.as_path()), Some(key.as_path()), client_ca].into_iter().flatten() {
        let text = read(path)?;
        digest.update(text.len().to_le_bytes());
        digest.update(text);
    }
    Ok(digest.finalize().into())
}

fn load(source: &Source, client_ca: Option<&Path>) -> Result<Current, TlsError> {
    // Before the files are read: what changes in between is seen at the next look.
    let digest = digest(source, client_ca)?;
    let (path, key_path) = files(source);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificate::chain(&path, &read(&path)?)?;
    let own = facts(&chain[0]).map_err(|reason| TlsError::unusable(&path, reason))?;
    let key = certificate::private_key(&key_path, &read(&key_path)?)?;
    let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|error| {
        TlsError::unusable(
            &path,
            format!("certificate and key ({}) cannot be used together ({error})", key_path.display()),
        )
    })?;
    let mut certificates = vec![("api", own)];

    let versions = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| TlsError::unusable(&path, error.to_string()))?;
    let resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    let mut config = match client_ca {
        None => versions.with_no_client_auth().with_cert_resolver(resolver),
        Some(ca) => {
            let (roots, first_to_end) = authorities(ca)?;
            certificates.push(("api-client-ca", first_to_end));
            let verifier = verifier(ca, roots, provider)?;
            let mut config = versions.with_client_cert_verifier(verifier).with_cert_resolver(resolver);
            // A resumed session would not look at the certificate again.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            config
        }
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    if let Source::Automatic(automatic) = source {
        let ca = automatic.folder.join("ca.pem");
        let (_, facts) = authorities(&ca)?;
        certificates.push(("api-ca", facts));
    }
    Ok(Current { config: Arc::new(config), digest, certificates })
}

/// The authorities in a file, and the facts of the one that ends first.
fn authorities(path: &Path) -> Result<(RootCertStore, Facts), TlsError> {
    let mut roots = RootCertStore::empty();
    let mut first: Option<Facts> = None;
    for certificate in certificate::chain(path, &read(path)?)? {
        let facts = facts(&certificate).map_err(|reason| TlsError::unusable(path, reason))?;
        roots.add(certificate).map_err(|error| {
            TlsError::unusable(path, format!("`{}` cannot be trusted as an authority ({error})", facts.subject))
        })?;
        if first.as_ref().is_none_or(|first| facts.not_after < first.not_after) {
            first = Some(facts);
        }
    }
    first.map(|facts| (roots, facts)).ok_or_else(|| TlsError::unusable(path, "it holds no certificate"))
}

fn verifier(
    path: &Path,
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| TlsError::unusable(path, format!("clients cannot be checked against it ({error})")))
}

/// A certificate that has expired replaces no other.
fn not_expired(source: &Source) -> impl FnOnce(Current) -> Result<Current, TlsError> {
    let (path, _) = files(source);
    move |new| match new.certificates.first() {
        Some((_, own)) if own.left_secs(now()) <= 0 => Err(TlsError::unusable(path, "the certificate has expired")),
        _ => Ok(new),
    }
}
