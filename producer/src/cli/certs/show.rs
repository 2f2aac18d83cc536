//! What stands in files with certificates and with lists of revoked ones, for people and programs.
//!
//! Invariant: a certificate is told to be revoked by the lists that are shown and by the one beside it, whoever asks.

use std::path::{Path, PathBuf};

use ffpool_runtime::tls::{Facts, REVOKED, RevokedList, TlsError, facts_in, lists_in};
use jiff::Timestamp;
use serde::Serialize;

use crate::cli::output::table;

const DAY_SECS: i64 = 24 * 3600;

/// One certificate, or one list.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Shown {
    Certificate(Certificate),
    List(List),
}

/// A certificate in a file.
#[derive(Debug, Serialize)]
pub(super) struct Certificate {
    file: PathBuf,
    subject: String,
    issuer: String,
    names: Vec<String>,
    serial: String,
    expires: String,
    days_left: i64,
    is_authority: bool,
    /// Since when it counts no more.
    revoked: Option<String>,
    sha256: String,
}

/// A list of revoked certificates in a file.
#[derive(Debug, Serialize)]
pub(super) struct List {
    file: PathBuf,
    issuer: String,
    revoked: Vec<Entry>,
    /// When the next one is promised.
    expires: Option<String>,
    days_left: Option<i64>,
}

#[derive(Debug, Serialize)]
struct Entry {
    serial: String,
    since: String,
}

impl Shown {
    /// Whether it counts no more, by the clock.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Shown::Certificate(one) => one.days_left < 0,
            Shown::List(list) => list.days_left.is_some_and(|days| days < 0),
        }
    }
}

/// All that stands in these files.
pub(super) fn all(files: &[PathBuf], now: Timestamp) -> Result<Vec<Shown>, TlsError> {
    let read = files.iter().map(|file| Ok((file, lists_in(file)?))).collect::<Result<Vec<_>, TlsError>>()?;
    let mut shown = Vec::new();
    for (file, lists) in &read {
        if !lists.is_empty() {
            shown.extend(lists.iter().map(|list| Shown::List(of_list(file, list, now))));
            continue;
        }
        let beside = lists_beside(file)?;
        let known: Vec<&RevokedList> = read.iter().flat_map(|(_, lists)| lists).chain(&beside).collect();
        let facts = facts_in(file)?;
        shown.extend(facts.into_iter().map(|facts| Shown::Certificate(of_certificate(file, facts, &known, now))));
    }
    Ok(shown)
}

/// The lists that stand beside a certificate.
pub(super) fn lists_beside(file: &Path) -> Result<Vec<RevokedList>, TlsError> {
    let beside = file.with_file_name(REVOKED);
    if beside.exists() { lists_in(&beside) } else { Ok(Vec::new()) }
}

/// Since when one of these lists takes a certificate back, in seconds since 1970.
pub(super) fn revoked_since<'l>(facts: &Facts, known: impl IntoIterator<Item = &'l RevokedList>) -> Option<i64> {
    let mut entries = known.into_iter().filter(|list| list.issuer == facts.issuer).flat_map(|list| &list.revoked);
    entries.find(|entry| entry.serial == facts.serial).map(|entry| entry.since)
}

fn of_certificate(file: &Path, facts: Facts, known: &[&RevokedList], now: Timestamp) -> Certificate {
    Certificate {
        file: file.to_owned(),
        names: facts.names.iter().map(ToString::to_string).collect(),
        revoked: revoked_since(&facts, known.iter().copied()).map(instant),
        expires: instant(facts.not_after),
        days_left: days(facts.left_secs(now.as_second())),
        subject: facts.subject,
        issuer: facts.issuer,
        serial: facts.serial,
        is_authority: facts.is_authority,
        sha256: facts.fingerprint,
    }
}

fn of_list(file: &Path, list: &RevokedList, now: Timestamp) -> List {
    let entries = list.revoked.iter();
    List {
        file: file.to_owned(),
        issuer: list.issuer.clone(),
        revoked: entries.map(|entry| Entry { serial: entry.serial.clone(), since: instant(entry.since) }).collect(),
        expires: list.next_update.map(instant),
        days_left: list.next_update.map(|end| days(end - now.as_second())),
    }
}

fn instant(secs: i64) -> String {
    Timestamp::from_second(secs).map_or_else(|_| secs.to_string(), |at| at.to_string())
}

fn days(secs: i64) -> i64 {
    secs.div_euclid(DAY_SECS)
}

/// The certificates in one table, the lists in another.
pub(super) fn listing(shown: &[Shown]) -> String {
    let (mut certificates, mut lists) = (Vec::new(), Vec::new());
    for one in shown {
        match one {
            Shown::Certificate(one) => certificates.push(one),
            Shown::List(list) => lists.push(list),
        }
    }
    let rows = certificates.iter().map(|one| {
        let left = if one.revoked.is_some() { "revoked".to_owned() } else { left(one.days_left) };
        [one.file.display().to_string(), one.names.join(" "), left, one.expires.clone(), one.sha256.clone()]
    });
    let mut text = String::new();
    if !certificates.is_empty() {
        text = table(["file", "names", "left", "until", "sha256"], rows);
    }
    if !lists.is_empty() {
        let gap = if text.is_empty() { "" } else { "\n\n" };
        let rows = lists.iter().flat_map(|list| list_rows(list, &certificates));
        let lists = table(["list", "revoked", "since", "serial", "left"], rows);
        text = format!("{}{gap}{lists}", text.trim_end());
    }
    text
}

/// Each certificate on a list, by its names where it is shown too.
fn list_rows(list: &List, certificates: &[&Certificate]) -> Vec<[String; 5]> {
    let file = list.file.display().to_string();
    let left = list.days_left.map_or_else(|| "-".to_owned(), left);
    if list.revoked.is_empty() {
        return vec![[file, "none".to_owned(), "-".to_owned(), "-".to_owned(), left]];
    }
    let row = |entry: &Entry| {
        let meant = |one: &&&Certificate| one.serial == entry.serial && one.issuer == list.issuer;
        let names = certificates.iter().find(meant).map_or_else(|| "-".to_owned(), |one| one.names.join(" "));
        [file.clone(), names, entry.since.clone(), entry.serial.clone(), left.clone()]
    };
    list.revoked.iter().map(row).collect()
}

fn left(days: i64) -> String {
    if days < 0 { "expired".to_owned() } else { format!("{days} days") }
}
