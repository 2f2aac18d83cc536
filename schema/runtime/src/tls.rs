//! Certificates and TLS: a certificate authority of our own, what it issues, and servers whose certificates are renewed and
//! read again while they serve.
//!
//! Invariants:
//! * ring is the only provider, TLS 1.2 the oldest version, and nothing here turns a check off;
//! * a private key is written with mode 0600 and whole, and an authority's key is never written over;
//! * a server that has a certificate keeps it until it has a better one.

mod authority;
mod automatic;
mod certificate;
mod client;
mod current;
mod ends;
mod files;
mod links;
mod revoked;
mod server;

use std::path::PathBuf;

pub use authority::{Authority, Issued, Wanted};
pub use automatic::{Automatic, own_names, state_directory};
use certificate::now;
pub use certificate::{Facts, Name, NameKind, facts, facts_in, is_key_alone, names};
pub use client::{DatabaseWay, Server, client_config, database_way, stays_here, warn_of_plain_links};
pub use current::{Clients, RevocationLists};
pub use files::{write_new, write_over};
pub use links::LinkCertificates;
pub use revoked::{REVOKED, Revocation, Revoked, RevokedList, lists_in};
pub use server::{ServerTls, Source};

/// What is in the way of TLS, with the file that it is about and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("read {}: it has to be there, as UTF-8 text, readable by this process's user", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("write {}: its folder has to be there, writable by this process's user, with space left", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what is needed.
    #[error("{}: {reason}", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A setting contradicts itself or may be read in two ways.
    #[error("{setting}: {reason}")]
    Setting {
        /// Which.
        setting: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// Another process holds a folder for too long.
    #[error(
        "{} is held by another process, which has not ended within {} s: end the one that hangs (`fuser -v {}`), then start again",
        path.display(), waited.as_secs(), path.display()
    )]
    Held {
        /// Its lock.
        path: PathBuf,
        /// How long was waited.
        waited: std::time::Duration,
    },
    /// A certificate cannot be made as it was asked for.
    #[error("make a certificate for {who}: {reason}")]
    Make {
        /// For whom.
        who: String,
        /// Why not.
        reason: String,
    },
}

impl TlsError {
    fn unusable(path: impl Into<PathBuf>, reason: impl Into<String>) -> TlsError {
        TlsError::Unusable { path: path.into(), reason: reason.into() }
    }
}
