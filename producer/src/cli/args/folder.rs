//! The flags of `watch`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{Wanted, time};

pub(crate) const EXAMPLES: &str = "\
Examples:
  ffpool watch /media/in --scenario 720p30-h264 --to '/media/out/{path}.mp4' --recursive
  ffpool watch /media/in --template clip --set 'title={stem}' --only '*.mov' --only '*.mxf' --done-dir /media/done
  ffpool watch /mnt/nfs/in --as s3://bucket/in -s 1080p30-h264 --to 's3://bucket/out/{stem}.mp4'
  ffpool watch /media/in -s 720p30-h264 --to '/media/out/{stem}.mp4' --once

In the job's texts {name} is the file's name, {stem} the name without its extension, {ext} the extension, {path} the path
below DIR without the extension; braces that stay are doubled.
A file becomes a job when it has not changed for the settle time and nobody has it open for writing. Its id is derived from
path, size and time of change, so starting again makes no job twice. Hidden and partial files (.part, .tmp, ...) are left.
Ctrl-C ends the watching, not the jobs.";

/// Which folder, and what to make of its files.
#[derive(Debug, Args)]
pub(crate) struct Folder {
    /// The folder.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// So long, in seconds, a file must not change before it is taken.
    #[arg(long, default_value = "5", value_name = "SECS", value_parser = seconds)]
    pub(crate) settle: Duration,
    /// The folders in it too.
    #[arg(long, short = 'r')]
    pub(crate) recursive: bool,
    /// Only files of these names, such as `*.mov`; may repeat.
    #[arg(long, value_name = "GLOB")]
    pub(crate) only: Vec<String>,
    /// No files of these names; may repeat.
    #[arg(long, value_name = "GLOB")]
    pub(crate) ignore: Vec<String>,
    /// Look at the whole folder so often, in seconds, also when the system tells of no change, as network file systems do.
    #[arg(long, default_value = "10", value_name = "SECS", value_parser = seconds)]
    pub(crate) rescan: Duration,
    /// How workers reach the folder, where that is otherwise than here: a path or an address such as `s3://bucket/in`.
    #[arg(long = "as", value_name = "PATH|URL")]
    pub(crate) reached_as: Option<String>,
    /// Move a file here when its job has completed. Default: leave it.
    #[arg(long, value_name = "DIR")]
    pub(crate) done_dir: Option<PathBuf>,
    /// A name for this watching: the same files under another name are made anew.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    pub(crate) run: String,
    /// Take what is there, and end when all of it is submitted (with --done-dir: has ended).
    #[arg(long)]
    pub(crate) once: bool,
    #[command(flatten)]
    pub(crate) wanted: Wanted,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let bounds = Duration::from_millis(100)..=Duration::from_secs(86_400);
    // A number alone is one of seconds.
    let text = if text.parse::<f64>().is_ok() { &format!("{text}s") } else { text };
    time::within(text, bounds, "0.1 to 86400 seconds are expected")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_settle_time_is_a_number_of_seconds_or_a_time() {
        for (text, secs) in [("5", 5.0), ("0.2", 0.2), ("5s", 5.0), ("1m 30s", 90.0), ("86400", 86_400.0)] {
            assert_eq!(seconds(text), Ok(Duration::from_secs_f64(secs)), "{text}");
        }
        for wrong in ["", "0", "0.05", "-5", "86401", "NaN", "inf", "soon"] {
            assert!(seconds(wrong).unwrap_err().contains("86400 seconds"), "{wrong}");
        }
    }
}
