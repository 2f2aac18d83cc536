//! As whom and behind what tools run on this worker, and the trials by which it learns what works there.
//!
//! Invariant: a trial runs as an attempt's tool does, with the same user, environment, namespaces and bars, in a directory of the
//! worker's scratch; only a cgroup it has none. So what is offered is what works in an attempt.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cage::{Cage, Needs};
use crate::tool::{self, Answer, Finished, Invocation, Launcher, ToolUser, Watch};
use crate::workshop::Freeze;

/// As whom tools run on a worker, and behind what. Clones share it.
#[derive(Debug, Clone)]
pub struct Quarters {
    /// Their user.
    pub user: ToolUser,
    /// Their bars.
    pub cage: Cage,
    /// Who starts them.
    pub launcher: Arc<Launcher>,
    /// The worker's own directory.
    pub scratch: PathBuf,
    /// Files that one may have open.
    pub open_files: u64,
    /// How much trials give way to others, as `nice` counts.
    pub trial_nice: i32,
}

/// A third of an equal's share: enough for a trial to be over in time on a machine that is busy.
const GIVES_WAY: i32 = 5;

impl Quarters {
    /// The same where trials give way to whatever else runs.
    #[must_use]
    pub fn in_the_background(&self) -> Quarters {
        Quarters { trial_nice: GIVES_WAY, ..self.clone() }
    }

    /// A place for one trial.
    ///
    /// # Errors
    /// When no directory can be made.
    pub(crate) fn place(&self) -> io::Result<Place<'_>> {
        let directory = tempfile::Builder::new().prefix("trial-").tempdir_in(&self.scratch)?;
        self.user.give(directory.path())?;
        Ok(Place { quarters: self, directory })
    }
}

/// A directory in which something is tried once. Dropping it deletes it.
pub(crate) struct Place<'q> {
    quarters: &'q Quarters,
    directory: TempDir,
}

impl Place<'_> {
    /// Puts a copy of a file there under this name, for the tool to read.
    pub(crate) fn furnish(&self, name: &str, with: &Path) -> io::Result<()> {
        let path = self.directory.path().join(name);
        let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
        io::copy(&mut File::open(with)?, &mut copy).map(drop)
    }

    /// Runs a tool to its end, or for so long.
    pub(crate) async fn run(
        &self,
        program: &Path,
        arguments: &[OsString],
        on_devices: bool,
        within: Duration,
    ) -> io::Result<Finished> {
        let invocation = Invocation {
            program,
            arguments,
            directory: self.directory.path(),
            user: self.quarters.user,
            group: None,
            file_bytes: u64::MAX,
            open_files: self.quarters.open_files,
            nice: self.quarters.trial_nice,
            cage: &self.quarters.cage,
            needs: Needs { reads: &[], network: None, devices: on_devices },
        };
        // Nobody orders anything of a trial.
        let ((_stop, stop), (_freeze, freeze)) = (watch::channel(None), watch::channel(Freeze::default()));
        let deadline = Instant::now() + within;
        let watch = Watch { stop, freeze, deadline, stall_after: None, grace: Duration::ZERO, disk: None };
        tool::run(&self.quarters.launcher, invocation, watch, &mut Answer::default()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cage::{Layer, SandboxMode};

    #[tokio::test(flavor = "multi_thread")]
    async fn a_trial_finds_what_an_attempt_finds() {
        let scratch = tempfile::tempdir().unwrap();
        let (user, tool) = (ToolUser::Own, Path::new("/usr/bin/ffprobe"));
        let cage = Cage::open(SandboxMode::Require, tool, user, &[], scratch.path()).unwrap();
        let has = |layer| cage.layers().contains(&layer);
        // Alone with itself, in a directory of its own, without the machine's memory, disks and addresses.
        let mut script = "test \"$TMPDIR\" = \"$PWD\" && echo x > made && cat listed && test -z \"$CARGO_PKG_NAME\" && test $(ulimit -n) -eq 64".to_owned();
        script += if has(Layer::Proc) { " && set -- /proc/[0-9]* && test $# -lt 5" } else { "" };
        script +=
            if has(Layer::Network) { " && mapfile -t net < /proc/self/net/dev && test ${#net[@]} -eq 3" } else { "" };
        let launcher = Arc::new(Launcher::start().unwrap());
        let quarters =
            Quarters { user, cage, launcher, scratch: scratch.path().to_owned(), open_files: 64, trial_nice: 0 };
        let place = quarters.place().unwrap();
        place.furnish("listed", Path::new("/etc/passwd")).unwrap();
        let run = async |script: &str| {
            let arguments = ["-c".into(), script.into()];
            place.run(Path::new("/bin/bash"), &arguments, false, Duration::from_secs(60)).await.unwrap()
        };
        let finished = run(&script).await;
        assert!(finished.is_success(), "{script}: {:?} {:?}", finished.status, finished.log);
        let outside = format!("echo x > {}/made", scratch.path().display());
        assert!(!run(&outside).await.is_success());
        let place = quarters.place().unwrap();
        let hangs =
            place.run(Path::new("/bin/sleep"), &["600".into()], false, Duration::from_millis(10)).await.unwrap();
        assert_eq!(hangs.ended_by, tool::EndedBy::Timeout);
        drop(place);
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1, "the first place alone");
    }
}
