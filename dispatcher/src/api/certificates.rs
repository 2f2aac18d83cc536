//! What a client's certificate may do: its names, looked up in the operator's list.
//!
//! Invariant: a certificate has the rights of the first entry that names it, and without one none. Only certificates that the
//! handshake verified get here.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ffpool_runtime::tls::{Name, NameKind, names};
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientCertificate {
    /// By which it is known: the name that the list has, else its first one.
    pub(crate) name: String,
    /// What it may do; `None`: nothing.
    pub(crate) role: Option<Role>,
}

impl ClientRoles {
    /// What a certificate that the handshake verified may do.
    pub(crate) fn certificate(&self, shown: Option<&CertificateDer<'_>>) -> ClientCertificate {
        self.judge(&shown.map(names).unwrap_or_default())
    }

    fn judge(&self, names: &[Name]) -> ClientCertificate {
        let is_known = |entry: &&ClientRole| names.iter().any(|name| is_same(name, &entry.name));
        match (self.0.iter().find(is_known), names.first()) {
            (Some(entry), _) => ClientCertificate { name: entry.name.to_string(), role: Some(entry.role) },
            (None, Some(name)) => ClientCertificate { name: name.to_string(), role: None },
            (None, None) => ClientCertificate { name: "without a name".to_owned(), role: None },
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
        let judged = |names: &[Name]| roles.judge(names).role;
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
