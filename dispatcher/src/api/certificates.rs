//! A client's certificate as its requests carry it, and why one is refused.
//!
//! Invariant: only certificates that the handshake verified get here, and each is judged again whenever it is used: by the files
//! in force, the clock and the operator's list.

use ffpool_runtime::tls::{Name, ServerTls, names};
use rustls::CertificateError;
use rustls::pki_types::CertificateDer;

use super::client_roles::ClientRoles;
use crate::ledger::keys::{Caller, Role};

/// A client's certificate, verified, as its requests carry it.
pub(crate) struct ClientCertificate {
    names: Vec<Name>,
    /// What says what it may do.
    roles: ClientRoles,
    /// By whose rules it was let in.
    tls: ServerTls,
    /// The certificate, and after it those that lead to its authority.
    shown: Vec<CertificateDer<'static>>,
}

impl ClientCertificate {
    /// One that the handshake verified; after it stand those that lead to its authority.
    pub(crate) fn new(tls: &ServerTls, roles: &ClientRoles, shown: &[CertificateDer<'static>]) -> ClientCertificate {
        let names = shown.first().map(names).unwrap_or_default();
        ClientCertificate { names, roles: roles.clone(), tls: tls.clone(), shown: shown.to_vec() }
    }

    /// By which name it is known now, and what it may do; `None`: nothing.
    pub(crate) fn standing(&self) -> (String, Option<Role>) {
        self.roles.judge(&self.names)
    }

    /// Whether a stream that was opened over its connection is to end: it would not be let in now, or it was by it that the
    /// caller was let in, and it may something else by now.
    pub(crate) fn is_over_for(&self, caller: &Caller) -> bool {
        let opened_by_it = caller.key.is_none();
        self.refusal().is_some() || opened_by_it && self.standing().1 != Some(caller.permit.role)
    }

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
