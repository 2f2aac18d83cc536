//! Files of a live output on their way from the tool's scratch to where people look for them.
//!
//! Invariant: what stands at its place is whole, and is replaced at once or not at all; no link of the tool's is followed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::publish::{delete_if_there, open_if_made};

/// The largest playlist or presentation that is read.
const TEXT_BYTES: u64 = 1 << 20;

/// What a file says; `None` where there is none.
pub(super) fn read(path: &Path) -> io::Result<Option<String>> {
    let Some((file, _)) = open_if_made(path)? else { return Ok(None) };
    let mut text = String::new();
    file.take(TEXT_BYTES).read_to_string(&mut text)?;
    Ok(Some(text))
}

/// Puts a copy into place, whole.
pub(super) fn place(from: &Path, to: &Path) -> io::Result<()> {
    if place_if_there(from, to)? { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// The same of what may be gone already. Answers whether it was there.
pub(super) fn place_if_there(from: &Path, to: &Path) -> io::Result<bool> {
    let Some((mut from, _)) = open_if_made(from)? else { return Ok(false) };
    let new = beside(to)?;
    io::copy(&mut from, &mut create(&new)?)?;
    fs::rename(&new, to)?;
    Ok(true)
}

/// Puts a text into place, in the stead of what is there.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = beside(path)?;
    write_new(&new, text.as_bytes())?;
    fs::rename(&new, path)
}

/// Writes a file where none is.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    create(path)?.write_all(bytes)
}

/// Where what will stand at a path is written first; nothing lies there.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let mut new = path.to_owned().into_os_string();
    new.push(".ffpool-new");
    delete_if_there(new.as_ref())?;
    Ok(new.into())
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)
}
