//! A certificate authority in a folder: `ca.pem`, which everybody may have, and `ca-key.pem`, which stays there.
//!
//! Invariant: an authority's key is written once and never over; of two that make one at the same time, one makes it and both
//! use it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData as _, SanType,
};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::certificate::{self, Facts, facts};
use super::files::{lock, make_folder, read, write_new};
use super::{TlsError, now};

const CERTIFICATE: &str = "ca.pem";
const KEY: &str = "ca-key.pem";
/// An authority lives so long: to replace one, every client has to be told.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
/// Clocks that are behind by this much take a new certificate all the same.
pub(super) const BACKDATED: Duration = Duration::from_secs(3600);
/// What to do about one that cannot be used.
const ANOTHER: &str =
    "put ca.pem and ca-key.pem of one authority there, from a backup, or take an empty folder for a new one";
/// Longest common name that X.509 allows.
const COMMON_NAME_CHARS_MAX: usize = 64;

/// What a certificate is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its common name.
    pub common_name: String,
    /// Host names and addresses of a server.
    pub names: Vec<String>,
    /// Whether a server may show it.
    pub is_server: bool,
    /// Whether a client may show it.
    pub is_client: bool,
    /// How long it is valid.
    pub life: Duration,
}

/// A certificate that was made. Its key is nowhere else.
pub struct Issued {
    /// The certificate as PEM.
    pub certificate: String,
    /// Its private key as PEM (PKCS #8).
    pub key: String,
}

/// A certificate authority that can issue.
pub struct Authority {
    path: PathBuf,
    certificate: CertificateDer<'static>,
    facts: Facts,
    pub(super) issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// The authority in `folder`; made if there is none, under `name`. Tells whether it was made.
    ///
    /// # Errors
    /// When the folder cannot be used, or holds half an authority or one that cannot issue.
    pub fn open_or_create(folder: &Path, name: &str) -> Result<(Authority, bool), TlsError> {
        make_folder(folder)?;
        let _lock = lock(folder)?;
        let is_new = !folder.join(CERTIFICATE).exists();
        if is_new {
            create(folder, name)?;
        }
        Ok((Authority::open(folder)?, is_new))
    }

    /// The authority in `folder`.
    ///
    /// # Errors
    /// When there is none, or one that cannot issue.
    pub fn open(folder: &Path) -> Result<Authority, TlsError> {
        let (path, key_path) = (folder.join(CERTIFICATE), folder.join(KEY));
        let certificate = certificate::chain(&path, &read(&path)?)?.swap_remove(0);
        let facts = facts(&certificate).map_err(|reason| TlsError::unusable(&path, reason))?;
        let key = read_key(&key_path)?;
        check(&path, &certificate, &facts, &key)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|error| TlsError::unusable(&path, format!("it cannot issue certificates ({error}): {ANOTHER}")))?;
        Ok(Authority { path, certificate, facts, issuer })
    }

    /// The file with its certificate, for clients to trust.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// What stands in its certificate.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Makes a certificate with a key of its own (P-256). It never outlives the authority.
    ///
    /// # Errors
    /// A name that no certificate can hold.
    pub fn issue(&self, wanted: &Wanted) -> Result<Issued, TlsError> {
        let who = &wanted.common_name;
        let make = |reason: String| TlsError::Make { who: who.clone(), reason };
        if !(1..=COMMON_NAME_CHARS_MAX).contains(&who.chars().count()) || who.chars().any(char::is_control) {
            return Err(make(format!("a common name has 1 to {COMMON_NAME_CHARS_MAX} characters")));
        }
        let mut params = CertificateParams::new(wanted.names.clone())
            .map_err(|error| make(format!("a host name or an address is expected of each name ({error})")))?;
        // A client is found by its name in either place.
        if wanted.names.is_empty()
            && let Ok(name) = who.clone().try_into()
            && !who.contains(|c: char| c.is_whitespace() || c == '@')
        {
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        named(&mut params, who);
        let end = (now() + secs(wanted.life)).min(self.facts.not_after);
        valid(&mut params, now() - secs(BACKDATED), end);
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if wanted.is_server {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if wanted.is_client {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        let key = KeyPair::generate().map_err(|error| make(error.to_string()))?;
        let made = params.signed_by(&key, &self.issuer).map_err(|error| make(error.to_string()))?;
        Ok(Issued { certificate: made.pem(), key: key.serialize_pem() })
    }
}

/// Writes the key first: without a certificate it is of no use to anybody, and the next start goes on with it.
fn create(folder: &Path, name: &str) -> Result<(), TlsError> {
    let make = |error: rcgen::Error| TlsError::Make { who: name.to_owned(), reason: error.to_string() };
    let key_path = folder.join(KEY);
    let key = if key_path.exists() {
        read_key(&key_path)?
    } else {
        let key = KeyPair::generate().map_err(make)?;
        write_new(&key_path, &key.serialize_pem(), true)?;
        key
    };
    let mut params = CertificateParams::default();
    named(&mut params, name);
    valid(&mut params, now() - secs(BACKDATED), now() + secs(AUTHORITY_LIFE));
    // It signs ends, never another authority.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let made = params.self_signed(&key).map_err(make)?;
    write_new(&folder.join(CERTIFICATE), &made.pem(), false)
}

fn named(params: &mut CertificateParams, name: &str) {
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
}

fn valid(params: &mut CertificateParams, from: i64, until: i64) {
    let begin = rcgen::date_time_ymd(1970, 1, 1);
    (params.not_before, params.not_after) = (begin + since_begin(from), begin + since_begin(until));
}

/// Seconds since 1970 as a time to add to its begin.
pub(super) fn since_begin(time: i64) -> Duration {
    Duration::from_secs(u64::try_from(time).unwrap_or(0))
}

pub(super) fn secs(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX / 4)
}

fn read_key(path: &Path) -> Result<KeyPair, TlsError> {
    let pem = read(path)?;
    let mode = fs::metadata(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?.permissions();
    if mode.mode() & 0o007 != 0 {
        let reason = "everybody on this machine can read the authority's key: `chmod 600` it, and if somebody may have, make \
                      a new authority";
        return Err(TlsError::unusable(path, reason));
    }
    KeyPair::from_pem(&pem)
        .map_err(|error| TlsError::unusable(path, format!("it holds no key that can sign ({error}): {ANOTHER}")))
}

fn check(path: &Path, der: &CertificateDer<'_>, facts: &Facts, key: &KeyPair) -> Result<(), TlsError> {
    let (_, read) = X509Certificate::from_der(der)
        .map_err(|error| TlsError::unusable(path, format!("it is no certificate ({error}): {ANOTHER}")))?;
    if !facts.is_authority {
        return Err(TlsError::unusable(path, format!("the certificate is not an authority's (no CA:TRUE): {ANOTHER}")));
    }
    if read.public_key().raw != key.subject_public_key_info().as_slice() {
        return Err(TlsError::unusable(
            path,
            format!("the certificate and {KEY} beside it do not belong together: {ANOTHER}"),
        ));
    }
    if facts.left_secs(now()) <= 0 {
        return Err(TlsError::unusable(
            path,
            "the authority has expired: make a new one in another folder, tell clients to \
                                             trust both, then move the parts over",
        ));
    }
    Ok(())
}
