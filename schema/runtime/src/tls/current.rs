//! What a server's rules are made of: its certificate and key, and what its clients' certificates are judged by, read as a whole
//! from their files.
//!
//! Invariant: what is made here can be used as it is; where clients are judged, a file that is named and cannot be used is an
//! error, never a check less.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use sha2::{Digest as _, Sha256};

use super::TlsError;
use super::certificate::{self, Facts, facts};
use super::files::read;
use super::revoked::read_lists;
use super::server::Source;

/// What a server of ours speaks.
const ALPN: &[u8] = b"http/1.1";

/// By what clients' certificates are judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clients {
    /// Authorities (PEM) one of which must have signed a client's certificate.
    pub authorities: PathBuf,
    /// Certificates that do not count any more.
    pub revoked: Option<RevocationLists>,
}

/// Lists of certificates that their authorities have revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationLists {
    /// A file (PEM) with a list of every authority that signs clients' certificates.
    pub file: PathBuf,
    /// Whether a list is taken after the time at which its authority promised the next one.
    pub even_expired: bool,
}

/// What is in force.
pub(super) struct Current {
    pub(super) config: Arc<ServerConfig>,
    /// Judges clients' certificates, where they have to show some.
    pub(super) verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// The file with the server's certificate.
    pub(super) path: PathBuf,
    /// Of the files it was made of.
    pub(super) digest: [u8; 32],
    /// Certificates in all files.
    pub(super) count: usize,
    /// Each certificate that matters, by the name under which its end is told.
    pub(super) certificates: Vec<(&'static str, Facts)>,
}

impl Current {
    /// What is to be said where the server's own certificate has expired.
    pub(super) fn expired(&self, now: i64) -> Option<TlsError> {
        let is_expired = self.certificates.first().is_some_and(|(_, own)| own.left_secs(now) <= 0);
        is_expired.then(|| TlsError::unusable(&self.path, "the certificate has expired: put a new one in its place"))
    }
}

/// The files of a server's certificate and key.
fn files(source: &Source) -> (PathBuf, PathBuf) {
    match source {
        Source::Automatic(automatic) => {
            let file = automatic.folder.join(format!("{}.pem", automatic.server));
            (file.clone(), file)
        }
        Source::Files { certificate, key } => (certificate.clone(), key.clone()),
    }
}

/// Of all that is read, so that a change is seen.
pub(super) fn digest(source: &Source, clients: Option<&Clients>) -> Result<[u8; 32], TlsError> {
    let (certificate, key) = files(source);
    let revoked = clients.and_then(|clients| clients.revoked.as_ref()).map(|revoked| revoked.file.as_path());
    let authorities = clients.map(|clients| clients.authorities.as_path());
    let mut digest = Sha256::new();
    for path in [Some(certificate.as_path()), Some(key.as_path()), authorities, revoked].into_iter().flatten() {
        let text = read(path)?;
        digest.update(text.len().to_le_bytes());
        digest.update(text);
    }
    Ok(digest.finalize().into())
}

/// Reads all and checks it as a whole.
pub(super) fn load(source: &Source, clients: Option<&Clients>) -> Result<Current, TlsError> {
    // Before the files are read: what changes in between is seen at the next look.
    let digest = digest(source, clients)?;
    let (path, key_path) = files(source);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificate::chain(&path, &read(&path)?)?;
    let mut count = chain.len();
    let own = facts(&chain[0]).map_err(|reason| TlsError::unusable(&path, reason))?;
    let key = certificate::private_key(&key_path, &read(&key_path)?)?;
    let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|error| {
        let reason = format!(
            "certificate and key ({}) cannot be used together ({error}): give the key that the certificate was made for",
            key_path.display()
        );
        TlsError::unusable(&path, reason)
    })?;
    let mut certificates = vec![("api", own)];

    let versions = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| TlsError::unusable(&path, format!("TLS cannot be set up with it ({error})")))?;
    let resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    let mut verifier = None;
    let mut config = match clients {
        None => versions.with_no_client_auth().with_cert_resolver(resolver),
        Some(clients) => {
            let (roots, first_to_end) = authorities(&clients.authorities)?;
            count += roots.len();
            certificates.push(("api-client-ca", first_to_end));
            let judge = judge(clients, roots, provider)?;
            verifier = Some(judge.clone());
            let mut config = versions.with_client_cert_verifier(judge).with_cert_resolver(resolver);
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
    Ok(Current { config: Arc::new(config), verifier, path, digest, count, certificates })
}

/// The authorities in a file, and the facts of the one that ends first.
fn authorities(path: &Path) -> Result<(RootCertStore, Facts), TlsError> {
    let mut roots = RootCertStore::empty();
    let mut first: Option<Facts> = None;
    for certificate in certificate::chain(path, &read(path)?)? {
        let facts = facts(&certificate).map_err(|reason| TlsError::unusable(path, reason))?;
        roots.add(certificate).map_err(|error| {
            let reason = format!(
                "`{}` cannot be trusted as an authority ({error}): give authorities' certificates only",
                facts.subject
            );
            TlsError::unusable(path, reason)
        })?;
        if first.as_ref().is_none_or(|first| facts.not_after < first.not_after) {
            first = Some(facts);
        }
    }
    first
        .map(|facts| (roots, facts))
        .ok_or_else(|| TlsError::unusable(path, "it holds no certificate: give those of the authorities as PEM"))
}

/// Who judges clients: by their authorities, the clock, and where there are some, the lists of what was revoked.
fn judge(
    clients: &Clients,
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let mut path = &clients.authorities;
    if let Some(revoked) = &clients.revoked {
        path = &revoked.file;
        builder = builder.with_crls(revocation_lists(path)?);
        if !revoked.even_expired {
            builder = builder.enforce_revocation_expiration();
        }
    }
    builder.build().map_err(|error| {
        TlsError::unusable(
            path,
            format!("clients cannot be judged by it ({error}): give a file of its authority's making"),
        )
    })
}

fn revocation_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    const EXPECTED: &str =
        "a PEM file with BEGIN X509 CRL is expected, with a list of each authority that signs clients";
    let lists = read_lists(path)?;
    if lists.is_empty() {
        return Err(TlsError::unusable(path, format!("it holds no revocation list; {EXPECTED}")));
    }
    Ok(lists)
}
