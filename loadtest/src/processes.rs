//! Processes of this machine as `/proc` tells of them.
//!
//! Invariant: a process that ends while it is looked at is as good as not there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ffpool_schema::id::JobId;
use nix::unistd::Pid;

/// A process that belongs to an attempt.
#[derive(Debug, Clone)]
pub(crate) struct ToolProcess {
    pub(crate) pid: Pid,
    /// The program's short name.
    pub(crate) program: String,
    /// The attempt's name, `<job>.<attempt>`.
    pub(crate) attempt: String,
}

/// The job and the number of an attempt, from the name that its scratch and its cgroup have.
pub(crate) fn attempt_name(name: &str) -> Option<(JobId, u32)> {
    let (job, attempt) = name.split_once('.')?;
    Some((job.parse().ok()?, attempt.parse().ok()?))
}

/// Every process that works inside an attempt's scratch below `scratch`, or names such a place in its command line.
pub(crate) fn tools_inside(scratch: &Path) -> Vec<ToolProcess> {
    // The kernel names working directories by their real paths.
    let scratch = std::fs::canonicalize(scratch).unwrap_or_else(|_| scratch.to_owned());
    let mut found = Vec::new();
    for pid in all() {
        let entry = PathBuf::from(format!("/proc/{pid}"));
        let directory = std::fs::read_link(entry.join("cwd")).ok();
        let line = std::fs::read(entry.join("cmdline")).unwrap_or_default();
        let words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        let places = directory.into_iter().chain(words.map(|word| PathBuf::from(word.trim_start_matches("file:"))));
        let attempt = places.filter_map(|place| attempt_below(&scratch, &place)).next();
        if let Some(attempt) = attempt {
            let program = std::fs::read_to_string(entry.join("comm")).unwrap_or_default().trim().to_owned();
            found.push(ToolProcess { pid, program, attempt });
        }
    }
    found
}

fn attempt_below(scratch: &Path, place: &Path) -> Option<String> {
    let mut below = place.strip_prefix(scratch).ok()?.components().filter_map(|part| part.as_os_str().to_str());
    below.find(|name| attempt_name(name).is_some()).map(ToOwned::to_owned)
}

/// A process and everything below it, parents before children.
pub(crate) fn family(root: Pid) -> Vec<Pid> {
    let mut children: BTreeMap<Pid, Vec<Pid>> = BTreeMap::new();
    for pid in all() {
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children.get(pid).into_iter().flatten().copied().collect::<Vec<_>>());
        next += 1;
    }
    found
}

fn all() -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw)).collect()
}

/// The fourth field of `stat`; the second is the name in brackets, in which anything may stand.
fn parent(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok().map(Pid::from_raw)
}
