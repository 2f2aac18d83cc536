//! What client certificates may do: the operator's list of names and roles, of which a file may hold a part.
//!
//! Invariants: a certificate has the rights of the first entry that names it, and without one none; what is in force was read as a
//! whole, and a file that cannot be used, or may be written to still, changes nothing.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use ffpool_runtime::tls::{Name, NameKind, TlsError};
use tracing::{info, warn};

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
pub struct ClientRoles(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Of the setting, before those of the file.
    fixed: Vec<ClientRole>,
    file: Option<PathBuf>,
    /// Of the file. Written by `look` only.
    of_file: RwLock<OfFile>,
    /// What stood in the file that was not taken, so that it is said once.
    left: Mutex<Option<String>>,
}

/// What is in force of a file.
#[derive(Debug, Default)]
struct OfFile {
    text: String,
    entries: Vec<ClientRole>,
}

impl From<Vec<ClientRole>> for ClientRoles {
    fn from(fixed: Vec<ClientRole>) -> ClientRoles {
        ClientRoles(Arc::new(Shared { fixed, ..Shared::default() }))
    }
}

impl ClientRoles {
    /// The entries of the setting, then those of a file, if there is one: on lines and between commas; a line that begins with
    /// `#` is none.
    ///
    /// # Errors
    /// When the file cannot be read, or a line of it is no entry.
    pub fn open(fixed: Vec<ClientRole>, file: Option<PathBuf>) -> Result<ClientRoles, TlsError> {
        let of_file = match &file {
            Some(path) => read(path)?,
            None => OfFile::default(),
        };
        Ok(ClientRoles(Arc::new(Shared { fixed, file, of_file: RwLock::new(of_file), left: Mutex::default() })))
    }

    /// Looks after the file for as long as it is polled.
    pub(super) async fn watch(self, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            let own = self.clone();
            // Fails only when the runtime ends, and this with it.
            let _ = tokio::task::spawn_blocking(move || own.look()).await;
        }
    }

    /// One look at the file: takes what is new and can be used.
    pub fn look(&self) {
        let Some(path) = &self.0.file else { return };
        let found = match read(path) {
            Ok(found) => found,
            Err(why) => {
                let why = ffpool_runtime::settings::chain(&why);
                // The text of the error stands for that of the file: it names the line.
                if self.leave(&why) {
                    warn!("new roles of client certificates cannot be used, the old ones stay in force: {why}");
                }
                return;
            }
        };
        let (is_same, in_force) = {
            let of_file = self.0.of_file.read().unwrap_or_else(PoisonError::into_inner);
            (of_file.text == found.text, of_file.entries.len())
        };
        if is_same {
            self.take_up();
        } else if found.entries.len() < in_force && self.leave(&found.text) {
            // A part that ends between two lines looks whole: somebody may be writing.
            info!(entries = found.entries.len(), in_force, "fewer roles of client certificates: taken if they stay");
        } else {
            info!(file = %path.display(), entries = found.entries.len(), "roles of client certificates in force");
            *self.0.of_file.write().unwrap_or_else(PoisonError::into_inner) = found;
            self.take_up();
        }
    }

    /// Notes what is not taken. Whether it is new.
    fn leave(&self, what: &str) -> bool {
        let mut left = self.0.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.replace(what.to_owned()).is_none_or(|before| before != what)
    }

    /// Nothing is left over.
    fn take_up(&self) {
        *self.0.left.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// By which name of these a certificate is known, the one that the list has, else its first, and its role.
    pub(super) fn judge(&self, names: &[Name]) -> (String, Option<Role>) {
        let is_known = |entry: &&ClientRole| names.iter().any(|name| is_same(name, &entry.name));
        let of_file = self.0.of_file.read().unwrap_or_else(PoisonError::into_inner);
        match (self.0.fixed.iter().chain(&of_file.entries).find(is_known), names.first()) {
            (Some(entry), _) => (entry.name.to_string(), Some(entry.role)),
            (None, Some(name)) => (name.to_string(), None),
            (None, None) => ("without a name".to_owned(), None),
        }
    }
}

fn read(path: &Path) -> Result<OfFile, TlsError> {
    let text = std::fs::read_to_string(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#'));
    let parts = lines.flat_map(|(at, line)| line.split(',').map(move |part| (at + 1, part.trim())));
    let parts = parts.filter(|(_, part)| !part.is_empty());
    let entries = parts.map(|(at, part)| part.parse().map_err(|why| format!("line {at}: {why}"))).collect();
    match entries {
        Ok(entries) => Ok(OfFile { text, entries }),
        Err(reason) => Err(TlsError::Unusable { path: path.to_owned(), reason }),
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

    fn entries(text: &str) -> Vec<ClientRole> {
        text.split(',').map(|entry| entry.parse().unwrap()).collect()
    }

    #[test]
    fn the_first_entry_that_names_a_certificate_decides_and_none_gives_nothing() {
        let roles = ClientRoles::from(entries("uri=spiffe://pool/ci:submitter,cn=ops:operator,dns=CI.example:viewer"));
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

    #[test]
    fn a_file_is_read_again_when_it_changes_and_one_that_cannot_be_used_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("roles");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        write("# who may what\n\n cn=eyes:viewer \ncn=ops:admin\ncn=ci:submitter\n");
        let roles = ClientRoles::open(entries("cn=ops:operator"), Some(file.clone())).unwrap();
        let of = |common_name: &str| roles.judge(&[name(NameKind::Cn, common_name)]).1;
        assert_eq!((of("eyes"), of("ops")), (Some(Role::Viewer), Some(Role::Operator)), "the setting goes first");

        write("cn=eyes:operator,cn=ci:submitter\ncn=new:viewer\n");
        roles.look();
        assert_eq!((of("eyes"), of("new")), (Some(Role::Operator), Some(Role::Viewer)));
        for bad in ["cn=eyes:viewer\ncn=ci:sub", "nonsense", "cn=eyes:viewer\0"] {
            write(bad);
            for _ in 0..3 {
                roles.look();
                assert_eq!(of("eyes"), Some(Role::Operator), "{bad}");
            }
            let said = ClientRoles::open(Vec::new(), Some(file.clone())).unwrap_err().to_string();
            assert!(said.contains("roles: line ") && said.contains("cn=ops:operator"), "{said}");
        }
        std::fs::remove_file(&file).unwrap();
        roles.look();
        assert_eq!(of("ci"), Some(Role::Submitter), "one that is gone");

        // Fewer may be a part: they are taken when they stay.
        for (text, looks, expected) in
            [("", 1, Some(Role::Submitter)), ("cn=eyes:viewer", 1, Some(Role::Submitter)), ("", 2, None)]
        {
            write(text);
            (0..looks).for_each(|_| roles.look());
            assert_eq!(of("ci"), expected, "{text:?}");
        }
    }
}
