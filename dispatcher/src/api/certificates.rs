//! What a client's certificate may do: its names, looked up in the operator's list.
//!
//! Invariant: a certificate has the rights of the first entry that names it, and without one none. Only certificates that the
//! handshake verified get here.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ffpool_runtime::tls::{Name, NameKind, ServerTls, names};
use rustls::CertificateError;
use rustls::pki_types::CertificateDer;

use crate::ledger::keys::Role;

/// One entry of the list, `cn=ops:operator`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRole {
    name: Name,
    role: Role,
}

impl FromStr for ClientRole {
    type Err = String;

    fn from_str(text: &str) -> Result<ClientRole, String> {
        let error = || {
            format!(
                "`{text}` maps no certificate to a role: `<kind>=<name>:<role>` is expected, such as `cn=ops:operator` or \
                 `dns=ci.example:submitter`; kinds are cn, dns, ip, email and uri, roles viewer, submitter, operator and admin"
            )
        };
        // A URI has colons of its own.
        let (name, role) = text.trim().rsplit_once(':').ok_or_else(error)?;
        let (kind, value) = name.split_once('=').ok_or_else(error)?;
        let kind = NameKind::ALL.into_iter().find(|known| known.as_str() == kind).ok_or_else(error)?;
        let role = role.parse().map_err(|_| error())?;
        if value.is_empty() {
            Err(error())
        } else {
            Ok(ClientRole { name: Name { kind, value: value.to_owned() }, role })
        }
    }
}

impl fmt::Display for ClientRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.role)
    }
}

/// The operator's list. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct ClientRoles(Arc<[ClientRole]>);

impl From<Vec<ClientRole>> for ClientRoles {
    fn from(list: Vec<ClientRole>) -> ClientRoles {
        ClientRoles(list.into())
    }
}

/// A client's certificate, verified, as its requests carry it.
pub(crate) struct ClientCertificate {
    /// By which it is known: the name that the list has, else its first one.
    pub(crate) name: String,
    /// What it may do; `None`: nothing.
    pub(crate) role: Option<Role>,
    /// By whose rules it was let in.
    tls: ServerTls,
    /// The certificate, and after it those that lead to its authority.
    shown: Vec<CertificateDer<'static>>,
}

impl ClientCertificate {
    /// Why it would not be let in now: it has expired since, or its authority is no longer trusted; `None`: it would.
    pub(crate) fn refusal(&self) -> Option<String> {
        let error = self.tls.refuses(&self.shown)?;
        Some(refused_because(&error).unwrap_or_else(|| format!("the client certificate cannot be used ({error})")))
    }
}

/// Why a handshake was refused by us; `None`: it was not, the client gave up or made no sense.
pub(crate) fn refused_because(error: &rustls::Error) -> Option<String> {
    let told = |text: &str| Some(text.to_owned());
    match error {
        rustls::Error::NoCertificatesPresented => told("no client certificate was shown"),
        rustls::Error::InvalidCertificate(fault) => match fault {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                told("the client certificate has expired")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                told("the client certificate is not valid yet")
            }
            CertificateError::UnknownIssuer => told("the client certificate is of no authority that is trusted here"),
            CertificateError::BadSignature => {
                told("the client certificate is not signed by the authority that it names")
            }
            CertificateError::Revoked => told("the client certificate was revoked by its authority"),
            CertificateError::UnknownRevocationStatus => {
                told("no revocation list says whether the client certificate still counts")
            }
            CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. } => {
                told("the revocation list that the client certificate is judged by has expired")
            }
            other => Some(format!("the client certificate cannot be used ({other})")),
        },
        rustls::Error::PeerIncompatible(fault) => {
            Some(format!("the client offers no version or cipher of TLS that is allowed here ({fault:?})"))
        }
        _ => None,
    }
}

impl ClientRoles {
    /// What a certificate that the handshake verified may do; after it stand those that lead to its authority.
    pub(crate) fn certificate(&self, tls: &ServerTls, shown: &[CertificateDer<'static>]) -> ClientCertificate {
        let (name, role) = self.judge(&shown.first().map(names).unwrap_or_default());
        ClientCertificate { name, role, tls: tls.clone(), shown: shown.to_vec() }
    }

    /// By which name it is known, and its role.
    fn judge(&self, names: &[Name]) -> (String, Option<Role>) {
        let is_known = |entry: &&ClientRole| names.iter().any(|name| is_same(name, &entry.name));
        match (self.0.iter().find(is_known), names.first()) {
            (Some(entry), _) => (entry.name.to_string(), Some(entry.role)),
            (None, Some(name)) => (name.to_string(), None),
            (None, None) => ("without a name".to_owned(), None),
        }
    }
}

/// Host names are the same in upper and lower case, other names are not.
fn is_same(left: &Name, right: &Name) -> bool {
    left.kind == right.kind
        && match left.kind {
            NameKind::Dns => left.value.eq_ignore_ascii_case(&right.value),
            NameKind::Cn | NameKind::Ip | NameKind::Email | NameKind::Uri => left.value == right.value,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(kind: NameKind, value: &str) -> Name {
        Name { kind, value: value.to_owned() }
    }

    fn roles(text: &str) -> ClientRoles {
        text.split(',').map(|entry| entry.parse().unwrap()).collect::<Vec<ClientRole>>().into()
    }

    #[test]
    fn the_first_entry_that_names_a_certificate_decides_and_none_gives_nothing() {
        let roles = roles("uri=spiffe://pool/ci:submitter,cn=ops:operator,dns=CI.example:viewer");
        let judged = |names: &[Name]| roles.judge(names).1;
        assert_eq!(judged(&[name(NameKind::Cn, "ops"), name(NameKind::Dns, "ci.example")]), Some(Role::Operator));
        assert_eq!(judged(&[name(NameKind::Dns, "ci.Example")]), Some(Role::Viewer));
        assert_eq!(judged(&[name(NameKind::Uri, "spiffe://pool/ci")]), Some(Role::Submitter));
        for stranger in [name(NameKind::Cn, "OPS"), name(NameKind::Dns, "ops"), name(NameKind::Cn, "ops2")] {
            assert_eq!(judged(&[stranger]), None);
        }
        assert_eq!(judged(&[]), None);
    }

    #[test]
    fn an_entry_that_cannot_be_read_says_what_is_expected() {
        for bad in ["", "ops:operator", "cn=ops", "cn=ops:root", "cn=:viewer", "ou=ops:viewer"] {
            assert!(bad.parse::<ClientRole>().unwrap_err().contains("cn=ops:operator"), "{bad}");
        }
    }
}
