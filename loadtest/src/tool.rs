//! Runs of FFmpeg and its prober by hand, beside those of the pool.
//!
//! Invariant: a run that does not end well is an error with what the tool said.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

/// What a tool writes to its standard output, run in a directory.
///
/// # Errors
/// When it cannot be run, or does not end well.
pub fn said<A: AsRef<OsStr>>(program: &Path, arguments: &[A], directory: &Path) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {}: it is in the Debian package ffmpeg", program.display()))?;
    ensure!(output.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
