//! Which files of a folder are ready to be taken.
//!
//! Invariant: a file is ready when it was seen unchanged for the settle time by us, whatever its own clock says, and when
//! nobody has it open for writing as far as this machine can tell.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use globset::{Glob, GlobSet, GlobSetBuilder};

/// Folders below each other that are looked into.
const MAX_DEPTH: usize = 32;
/// Endings of files that are still being written, and of what we put beside outputs.
const PARTIAL: [&str; 9] =
    [".part", ".partial", ".tmp", ".temp", ".crdownload", ".download", ".filepart", "~", ".ffpool.json"];

/// What makes a file the one that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub(super) size: u64,
    /// When it was changed last, in nanoseconds since 1970.
    pub(super) mtime_ns: i128,
}

/// Which files are looked for.
pub(super) struct Search {
    pub(super) root: PathBuf,
    pub(super) recursive: bool,
    /// A folder in it that is not looked into.
    pub(super) except: Option<PathBuf>,
    pub(super) only: GlobSet,
    pub(super) ignore: GlobSet,
}

/// The patterns as one.
pub(super) fn globs(patterns: &[String]) -> Result<GlobSet, String> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(Glob::new(pattern).map_err(|error| error.to_string())?);
    }
    set.build().map_err(|error| error.to_string())
}

impl Search {
    /// Every file that may be taken, with what it is now.
    pub(super) fn files(&self) -> std::io::Result<Vec<(PathBuf, Identity)>> {
        let mut found = Vec::new();
        self.look_into(&self.root, 0, &mut found)?;
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    fn look_into(&self, dir: &Path, depth: usize, found: &mut Vec<(PathBuf, Identity)>) -> std::io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let Ok(entry) = entry else { continue };
            let (path, name) = (entry.path(), entry.file_name());
            let Some(name) = name.to_str() else { continue };
            // Does not follow links: one could lead out of the folder, or in a circle.
            let Ok(kind) = entry.file_type() else { continue };
            if name.starts_with('.') {
                continue;
            }
            if kind.is_dir() {
                if self.recursive && depth < MAX_DEPTH && self.except.as_deref() != Some(&path) {
                    // What vanishes or is not for us is no reason to stop.
                    let _ = self.look_into(&path, depth + 1, found);
                }
            } else if kind.is_file() && self.is_wanted(name) {
                let Ok(metadata) = entry.metadata() else { continue };
                if metadata.len() > 0 {
                    found.push((path, identity(&metadata)));
                }
            }
        }
        Ok(())
    }

    fn is_wanted(&self, name: &str) -> bool {
        let lower = name.to_ascii_lowercase();
        !PARTIAL.iter().any(|ending| lower.ends_with(ending))
            && (self.only.is_empty() || self.only.is_match(name))
            && !self.ignore.is_match(name)
    }
}

pub(super) fn identity(metadata: &fs::Metadata) -> Identity {
    let mtime_ns = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    Identity { size: metadata.len(), mtime_ns }
}

/// Since when each file has been as it is.
#[derive(Default)]
pub(super) struct Settling(HashMap<PathBuf, (Identity, Instant)>);

impl Settling {
    /// Notes what was seen; answers the files that have not changed for `settle`.
    pub(super) fn see(
        &mut self,
        seen: &[(PathBuf, Identity)],
        now: Instant,
        settle: Duration,
    ) -> Vec<(PathBuf, Identity)> {
        self.0.retain(|path, _| seen.iter().any(|(other, _)| other == path));
        let mut settled = Vec::new();
        for (path, identity) in seen {
            let entry = self.0.entry(path.clone()).or_insert((*identity, now));
            if entry.0 != *identity {
                *entry = (*identity, now);
            }
            if now.duration_since(entry.1) >= settle {
                settled.push((path.clone(), *identity));
            }
        }
        settled
    }
}

/// Whether some process of this machine has the file open for writing, as far as we may know.
pub(super) fn has_writer(path: &Path) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    let is_process =
        |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    processes.flatten().filter(|entry| is_process(&entry.file_name())).any(|entry| writes_to(&entry.path(), path))
}

fn writes_to(process: &Path, path: &Path) -> bool {
    // Another user's process does not show its files.
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else { return false };
    descriptors.flatten().any(|descriptor| {
        fs::read_link(descriptor.path()).is_ok_and(|target| target == path)
            && fs::read_to_string(process.join("fdinfo").join(descriptor.file_name()))
                .is_ok_and(|info| opened_for_writing(&info))
    })
}

/// From `/proc/<pid>/fdinfo/<fd>`: the flags of `open`, in octal; the last two bits are 1 or 2 where it may write (proc(5)).
fn opened_for_writing(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    flags.and_then(|flags| u64::from_str_radix(flags.trim(), 8).ok()).is_some_and(|flags| flags & 0o3 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(size: u64) -> Identity {
        Identity { size, mtime_ns: 7 }
    }

    #[test]
    fn a_file_settles_when_it_was_seen_unchanged_and_begins_anew_when_it_changes() {
        let (mut settling, start, settle) = (Settling::default(), Instant::now(), Duration::from_secs(5));
        let file = PathBuf::from("/in/a");
        let mut see = |secs: u64, size: u64| {
            let seen = [(file.clone(), identity(size))];
            settling.see(&seen, start + Duration::from_secs(secs), settle).len()
        };
        assert_eq!([see(0, 1), see(4, 1), see(5, 1)], [0, 0, 1]);
        assert_eq!([see(6, 2), see(10, 2), see(11, 2)], [0, 0, 1], "it has grown");
        // Gone and there again: nobody saw what happened between.
        assert!(settling.see(&[], start + Duration::from_secs(12), settle).is_empty());
        let seen = [(file.clone(), identity(2))];
        assert!(settling.see(&seen, start + Duration::from_secs(13), settle).is_empty());
    }

    #[test]
    fn hidden_partial_empty_and_unwanted_files_and_links_are_left() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        for name in ["a.mov", "b.MOV.part", ".c.mov", "d.mov~", "e.txt", "f.mov"] {
            put(name, "x");
        }
        put("empty.mov", "");
        fs::create_dir(dir.path().join("sub")).unwrap();
        put("sub/g.mov", "x");
        std::os::unix::fs::symlink(dir.path().join("a.mov"), dir.path().join("link.mov")).unwrap();
        let names = |recursive: bool, only: &[&str], ignore: &[&str]| {
            let globs = |list: &[&str]| globs(&list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).unwrap();
            let root = dir.path().to_owned();
            let search = Search { root, recursive, except: None, only: globs(only), ignore: globs(ignore) };
            let files = search.files().unwrap();
            files.iter().map(|(path, _)| path.file_name().unwrap().to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(false, &[], &[]), ["a.mov", "e.txt", "f.mov"]);
        assert_eq!(names(true, &["*.mov"], &["f*"]), ["a.mov", "g.mov"]);
        globs(&["[".to_owned()]).unwrap_err();
    }

    #[test]
    fn who_has_a_file_open_for_writing_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("a.mov");
        let writer = fs::File::create(&path).unwrap();
        assert!(has_writer(&path));
        drop(writer);
        let reader = fs::File::open(&path).unwrap();
        assert!(!has_writer(&path), "a reader is no writer");
        drop(reader);
    }
}
