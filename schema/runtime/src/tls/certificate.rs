//! What stands in a certificate: whose it is, until when it is valid, which names it gives.
//!
//! Invariant: pure. Names are told as they stand in the certificate; whether it can be trusted is decided by the handshake.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::TlsError;

/// Longest name that is told on; a certificate may hold any.
const NAME_CHARS_MAX: usize = 256;

/// Where in a certificate a name stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NameKind {
    /// The subject's common name.
    Cn,
    /// A host name.
    Dns,
    /// An address.
    Ip,
    /// A mail address.
    Email,
    /// A URI, such as SPIFFE's.
    Uri,
}

impl NameKind {
    /// Every kind.
    pub const ALL: [NameKind; 5] = [NameKind::Cn, NameKind::Dns, NameKind::Ip, NameKind::Email, NameKind::Uri];

    /// As it stands in settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            NameKind::Cn => "cn",
            NameKind::Dns => "dns",
            NameKind::Ip => "ip",
            NameKind::Email => "email",
            NameKind::Uri => "uri",
        }
    }
}

/// A name in a certificate, `cn=ops`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    /// Where it stands.
    pub kind: NameKind,
    /// The name.
    pub value: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind.as_str(), self.value)
    }
}

/// What is known of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Whose it is, as X.500 writes it.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// Its names, the common name first.
    pub names: Vec<Name>,
    /// Its number with its authority, in pairs of hexadecimal digits.
    pub serial: String,
    /// From when it is valid, in seconds since 1970.
    pub not_before: i64,
    /// Until when it is valid, in seconds since 1970.
    pub not_after: i64,
    /// Whether it may sign others.
    pub is_authority: bool,
    /// SHA-256 of it, in pairs of hexadecimal digits.
    pub fingerprint: String,
}

impl Facts {
    /// Seconds from `now` (since 1970) until it ends; negative when it has.
    #[must_use]
    pub fn left_secs(&self, now: i64) -> i64 {
        self.not_after - now
    }

    /// Whether a client that calls its server `name` takes it for this one's.
    #[must_use]
    pub fn is_for(&self, name: &str) -> bool {
        let address: Option<IpAddr> = name.parse().ok();
        self.names.iter().any(|own| match own.kind {
            NameKind::Dns => own.value.eq_ignore_ascii_case(name),
            NameKind::Ip => address.is_some_and(|address| own.value.parse() == Ok(address)),
            NameKind::Cn | NameKind::Email | NameKind::Uri => false,
        })
    }
}

/// What stands in a certificate.
///
/// # Errors
/// What is wrong with it.
pub fn facts(certificate: &CertificateDer<'_>) -> Result<Facts, String> {
    let (_, read) = X509Certificate::from_der(certificate)
        .map_err(|error| format!("it holds no X.509 certificate ({error}): put a new one in its place"))?;
    Ok(Facts {
        subject: read.subject().to_string(),
        issuer: read.issuer().to_string(),
        names: names_in(&read),
        serial: serial_text(read.raw_serial()),
        not_before: read.validity().not_before.timestamp(),
        not_after: read.validity().not_after.timestamp(),
        is_authority: read.is_ca(),
        fingerprint: fingerprint(certificate),
    })
}

/// What stands in each certificate of a PEM file.
///
/// # Errors
/// When the file cannot be read or holds none.
pub fn facts_in(path: &Path) -> Result<Vec<Facts>, TlsError> {
    let read_one =
        |certificate: &CertificateDer<'_>| facts(certificate).map_err(|reason| TlsError::unusable(path, reason));
    chain(path, &super::files::read(path)?)?.iter().map(read_one).collect()
}

/// Whether a PEM file holds a private key and no certificate.
///
/// # Errors
/// When the file cannot be read.
pub fn is_key_alone(path: &Path) -> Result<bool, TlsError> {
    let pem = super::files::read(path)?;
    let is_without = CertificateDer::pem_slice_iter(pem.as_bytes()).next().is_none();
    Ok(is_without && private_key(path, &pem).is_ok())
}

/// The names in a certificate; none when it cannot be read.
#[must_use]
pub fn names(certificate: &CertificateDer<'_>) -> Vec<Name> {
    X509Certificate::from_der(certificate).map(|(_, read)| names_in(&read)).unwrap_or_default()
}

fn names_in(certificate: &X509Certificate<'_>) -> Vec<Name> {
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    let mut names: Vec<Name> = common.filter_map(|name| plain(NameKind::Cn, name)).collect();
    let alternative = certificate.subject_alternative_name().ok().flatten();
    for name in alternative.iter().flat_map(|extension| &extension.value.general_names) {
        names.extend(match name {
            GeneralName::DNSName(name) => plain(NameKind::Dns, name),
            GeneralName::RFC822Name(name) => plain(NameKind::Email, name),
            GeneralName::URI(name) => plain(NameKind::Uri, name),
            GeneralName::IPAddress(octets) => address(octets).and_then(|ip| plain(NameKind::Ip, &ip.to_string())),
            // Nobody is known by one of these.
            _ => None,
        });
    }
    names
}

/// A name, unless somebody could be deceived by what stands in it.
fn plain(kind: NameKind, value: &str) -> Option<Name> {
    let is_plain = !value.is_empty() && value.chars().count() <= NAME_CHARS_MAX && !value.chars().any(char::is_control);
    is_plain.then(|| Name { kind, value: value.to_owned() })
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
        _ => None,
    }
}

/// SHA-256 of a certificate, `AB:CD:…`, as browsers and `openssl x509 -fingerprint -sha256` show it.
fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    pairs(&Sha256::digest(certificate))
}

fn pairs(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

/// The number of a certificate without the zeros before it: one that is there keeps a number from being negative.
pub(super) fn serial_without_zeros(raw: &[u8]) -> &[u8] {
    let zeros = raw.iter().take_while(|byte| **byte == 0).count();
    &raw[zeros.min(raw.len().saturating_sub(1))..]
}

/// The number of a certificate as it is told.
pub(super) fn serial_text(raw: &[u8]) -> String {
    pairs(serial_without_zeros(raw))
}

/// Whether `authority` signed `certificate`.
pub(super) fn is_signed_by(certificate: &CertificateDer<'_>, authority: &CertificateDer<'_>) -> bool {
    let (Ok((_, leaf)), Ok((_, root))) = (X509Certificate::from_der(certificate), X509Certificate::from_der(authority))
    else {
        return false;
    };
    leaf.issuer() == root.subject() && leaf.verify_signature(Some(root.public_key())).is_ok()
}

/// Every certificate in a PEM text.
pub(super) fn chain(path: &Path, pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let chain = chain.map_err(|error| {
        TlsError::unusable(
            path,
            format!("it is no whole PEM file ({error}): BEGIN CERTIFICATE and END CERTIFICATE are expected"),
        )
    })?;
    if chain.is_empty() {
        return Err(TlsError::unusable(path, "it holds no certificate; a PEM file with BEGIN CERTIFICATE is expected"));
    }
    Ok(chain)
}

/// The private key in a PEM text.
pub(super) fn private_key(path: &Path, pem: &str) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| {
        let reason = format!(
            "it holds no private key that can be used ({error}); a PEM file with BEGIN PRIVATE KEY, without a passphrase, is expected"
        );
        TlsError::unusable(path, reason)
    })
}

/// The time, in seconds since 1970.
pub(super) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
