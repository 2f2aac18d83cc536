//! `certs`: an authority and the certificates of all parts, made and looked at on this machine.
//!
//! Invariant: nothing that is there is written over unless it is asked for, and never an authority; a list of revoked certificates
//! only grows.

mod show;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ffpool_runtime::settings::chain;
use ffpool_runtime::tls::{Authority, REVOKED, TlsError, Wanted, facts_in, is_key_alone, write_new, write_over};
use jiff::Timestamp;

use self::show::Shown;
use super::Context;
use super::args::{Certs, Issue, Revoke};
use super::exit::{Exit, Trouble};

/// Parts whom others connect to.
const SERVERS: [&str; 4] = ["api", "rabbitmq", "nats", "postgres"];
/// Parts that connect to others.
const CLIENTS: [&str; 3] = ["dispatcher", "worker", "client"];
const DAY: Duration = Duration::from_secs(24 * 3600);

pub(crate) fn certs(context: &Context, command: Certs) -> Result<Exit, Trouble> {
    // Of files that somebody has; what was just revoked may have ended before.
    let is_judged = matches!(command, Certs::Show { .. });
    let files = match command {
        Certs::Init { folder, name } => vec![init(&folder, &name)?],
        Certs::Issue(wanted) => issue(&wanted)?,
        Certs::Revoke(wanted) => revoke(&wanted)?,
        Certs::Show { files } => with_certificates(files)?,
    };
    let shown = show::all(&files, Timestamp::now()).map_err(|error| {
        advised(&error, ErrorKind::NotFound, "Check the path: `ffpool certs issue` tells where it put certificates.")
    })?;
    context.format.print(&shown, |shown| show::listing(shown));
    Ok(if is_judged && shown.iter().any(Shown::is_over) { Exit::Trouble } else { Exit::Success })
}

/// Of several files those that are not keys alone: `*.pem` names the authority's key too.
fn with_certificates(files: Vec<PathBuf>) -> Result<Vec<PathBuf>, Trouble> {
    if files.len() == 1 {
        return Ok(files);
    }
    let mut kept = Vec::new();
    for file in files {
        if is_key_alone(&file).map_err(|error| trouble(&error))? {
            eprintln!("{} holds a key and no certificate", file.display());
        } else {
            kept.push(file);
        }
    }
    if kept.is_empty() {
        return Err(Trouble::new(Exit::Trouble, "there is no certificate in these files"));
    }
    Ok(kept)
}

fn init(folder: &Path, name: &str) -> Result<PathBuf, Trouble> {
    let (authority, is_new) = Authority::open_or_create(folder, name).map_err(|error| trouble(&error))?;
    if !is_new {
        eprintln!("{} is there already and stays as it is", authority.path().display());
    }
    Ok(authority.path().to_owned())
}

/// What went wrong, and what helps where it was a file of this kind of trouble.
fn advised(error: &TlsError, kind: ErrorKind, next: &'static str) -> Trouble {
    let is_meant = match error {
        TlsError::Read { source, .. } | TlsError::Write { source, .. } => source.kind() == kind,
        TlsError::Unusable { .. } | TlsError::Setting { .. } | TlsError::Held { .. } | TlsError::Make { .. } => false,
    };
    if is_meant { trouble(error).next(next) } else { trouble(error) }
}

fn issue(wanted: &Issue) -> Result<Vec<PathBuf>, Trouble> {
    let authority = Authority::open(&wanted.folder)
        .map_err(|error| advised(&error, ErrorKind::NotFound, "`ffpool certs init` makes an authority."))?;
    let every = || SERVERS.into_iter().chain(CLIENTS).map(str::to_owned).collect();
    let parts: Vec<String> = if wanted.parts.is_empty() { every() } else { wanted.parts.clone() };
    let mut files = Vec::new();
    for part in &parts {
        let name = format!("{part}.pem");
        if part.starts_with('.') || part.contains('/') || part == "ca" || part == "ca-key" || name == REVOKED {
            return Err(Trouble::usage(format!(
                "`{part}` cannot be the name of a certificate's file: take one without `/`, that begins with no dot and is not ca, \
                 ca-key or crl"
            )));
        }
        let file = wanted.folder.join(name);
        let request = for_part(part, wanted);
        let is_kept = match wanted.renew_before {
            Some(days) => is_good_for(&file, &request, DAY * days)?,
            None => false,
        };
        if !is_kept {
            let issued = authority.issue(&request).map_err(|error| trouble(&error))?;
            let content = format!("{}{}", issued.certificate, issued.key);
            let is_replaced = wanted.renew || wanted.renew_before.is_some();
            let written =
                if is_replaced { write_over(&file, &content, true) } else { write_new(&file, &content, true) };
            written.map_err(|error| {
                advised(&error, ErrorKind::AlreadyExists, "A certificate that is there is replaced by --renew.")
            })?;
        }
        files.push(file);
    }
    Ok(files)
}

/// Puts certificates on the authority's list. Gives them and the list.
fn revoke(wanted: &Revoke) -> Result<Vec<PathBuf>, Trouble> {
    let authority = Authority::open(&wanted.folder)
        .map_err(|error| advised(&error, ErrorKind::NotFound, "`ffpool certs init` makes an authority."))?;
    let mut files: Vec<PathBuf> = wanted.certificates.iter().map(|meant| meant_by(meant, &wanted.folder)).collect();
    let revoked = authority.revoke(&files, DAY * wanted.days).map_err(|error| {
        let next = "Name a certificate in this folder as `certs issue` did (`worker`), or any other by its file: one that was \
                    written over can be revoked by a copy of it, as its machine has one.";
        advised(&error, ErrorKind::NotFound, next)
    })?;
    for file in &revoked.already {
        eprintln!("{} was revoked before", file.display());
    }
    files.push(revoked.list);
    Ok(files)
}

/// The file of a certificate that is named by its part, or by itself.
fn meant_by(meant: &str, folder: &Path) -> PathBuf {
    if meant.contains('/') || meant.ends_with(".pem") {
        PathBuf::from(meant)
    } else {
        folder.join(format!("{meant}.pem"))
    }
}

/// Whether a certificate that is there lasts for so long, has all the names and is not revoked by the list beside it. One that
/// cannot be read is for a person.
fn is_good_for(file: &Path, wanted: &Wanted, left: Duration) -> Result<bool, Trouble> {
    if !file.exists() {
        return Ok(false);
    }
    let facts = facts_in(file).map_err(|error| trouble(&error))?;
    let Some(facts) = facts.first() else { return Ok(false) };
    let lists = show::lists_beside(file).map_err(|error| trouble(&error))?;
    if show::revoked_since(facts, &lists).is_some() {
        return Ok(false);
    }
    let named: Vec<String> = facts.names.iter().map(ToString::to_string).collect();
    let is_named = |name: &String| named.iter().any(|one| one.split_once('=').is_some_and(|(_, value)| value == name));
    Ok(facts.left_secs(Timestamp::now().as_second()) >= left.as_secs().cast_signed()
        && wanted.names.iter().all(is_named))
}

fn for_part(part: &str, wanted: &Issue) -> Wanted {
    let is_server = wanted.server || SERVERS.contains(&part);
    let mut names = Vec::new();
    if is_server {
        names.extend([part, "localhost", "127.0.0.1", "::1"].map(str::to_owned));
        names.extend(wanted.hosts.iter().cloned());
    }
    Wanted { common_name: part.to_owned(), names, is_server, is_client: !is_server, life: DAY * wanted.days }
}

fn trouble(error: &TlsError) -> Trouble {
    Trouble::new(Exit::Trouble, chain(error))
}
