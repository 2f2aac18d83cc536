//! The directory of a stack, the user its servers run under, and the watchdog that cleans up.
//!
//! Invariant: from before the first server starts, a watchdog runs that ends every server and removes the directory when
//! this process ends, however it ends. `PR_SET_PDEATHSIG` would not do: it fires when the starting *thread* ends, and it
//! reaches neither the Erlang machine under its launcher nor what that forks.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File, Permissions},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use nix::unistd::{Uid, User, geteuid};

use crate::StackError;

/// Keeps a temporary directory, with the servers' logs, for somebody to read.
const KEEP: &str = "FFPOOL_STACK_KEEP";
const SWEEP: &str = include_str!("sweep.sh");
const WATCHDOG: &str = include_str!("watchdog.sh");
/// A stack that was killed is swept within a few seconds; longer means that somebody uses the directory.
const BUSY_BOUND: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// The user under whom servers run when we are root: Postgres refuses root, and RabbitMQ needs no more.
const UNPRIVILEGED: &str = "nobody";

/// Where a stack keeps its data.
#[derive(Debug)]
pub(crate) struct Home {
    root: PathBuf,
    user: Option<User>,
    kept: bool,
    /// Owned by `drop` alone, which takes them to end the watchdog.
    watchdog: Mutex<Option<(Child, ChildStdin)>>,
    /// Shared with the watchdog; the lock ends when both are gone.
    _lock: File,
}

impl Home {
    /// Prepares the directory (a temporary one without `root`) and starts the watchdog over the processes that run in
    /// the `marked` directories below it.
    pub(crate) fn open(root: Option<PathBuf>, marked: &[&str]) -> Result<Home, StackError> {
        let user = unprivileged_user()?;
        let kept = root.is_some() || env::var_os(KEEP).is_some_and(|value| value == "1");
        let root = match root {
            Some(root) => named_directory(&root, user.as_ref())?,
            None => temporary_directory(user.as_ref())?,
        };
        own(&root, user.as_ref())?;
        let lock = lock(&root)?;
        let mut home = Home { root, user, kept, watchdog: Mutex::new(None), _lock: lock };
        home.start_watchdog(marked)?;
        if kept {
            eprintln!("ffpool-stack: data and logs stay in {}", home.root.display());
        }
        Ok(home)
    }

    /// Whether the data outlives the stack.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept
    }

    /// A path below the root, without making anything.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A directory below the root that belongs to the servers' user.
    pub(crate) fn directory(&self, name: &str) -> Result<PathBuf, StackError> {
        let path = self.path(name);
        fs::create_dir_all(&path).map_err(StackError::system(format!("make {}", path.display())))?;
        let mut below_root = path.as_path();
        while below_root != self.root {
            own(below_root, self.user.as_ref())?;
            below_root = below_root.parent().expect("the path is below the root");
        }
        Ok(path)
    }

    /// A file below the root that belongs to the servers' user.
    pub(crate) fn write(&self, name: &str, content: &str) -> Result<PathBuf, StackError> {
        let path = self.path(name);
        fs::write(&path, content).map_err(StackError::system(format!("write {}", path.display())))?;
        own_as_is(&path, self.user.as_ref())?;
        Ok(path)
    }

    /// A command that runs as the servers' user, in a process group of its own so that a Ctrl-C in the terminal does
    /// not reach it, with no input and with an environment that holds only `PATH`.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", crate::programs::Programs::search_path())
            .env("LANG", "C.UTF-8")
            .process_group(0)
            .stdin(Stdio::null());
        if let Some(user) = &self.user {
            // With a user id, the standard library also gives up root's supplementary groups.
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }

    /// Sends a signal once to every process that runs in one of the directories.
    pub(crate) fn signal(&self, signal: &str, directories: &[PathBuf]) {
        self.sweep(&format!("{SWEEP}\nsweep {signal} \"$@\""), directories);
    }

    /// Kills every process that runs in one of the directories, and returns when none is left.
    pub(crate) fn sweep_away(&self, directories: &[PathBuf]) {
        self.sweep(&format!("{SWEEP}\nsweep_away \"$@\""), directories);
    }

    fn sweep(&self, script: &str, directories: &[PathBuf]) {
        self.command("/bin/sh")
            .args(["-c", script, "sweep"])
            .args(directories)
            .current_dir("/")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("/bin/sh runs on every Unix");
    }

    fn start_watchdog(&mut self, marked: &[&str]) -> Result<(), StackError> {
        let lock = self._lock.try_clone().map_err(StackError::system("share the lock with the watchdog"))?;
        let mut child = self
            .command("/bin/sh")
            .args(["-c", &format!("{SWEEP}\n{WATCHDOG}"), "ffpool-stack-watchdog"])
            .arg(if self.kept { "keep" } else { "remove" })
            .arg(&self.root)
            .args(marked.iter().map(|name| self.root.join(name)))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(lock)
            .stderr(Stdio::null())
            .spawn()
            .map_err(StackError::system("start the watchdog"))?;
        let pipe = child.stdin.take().expect("its standard input is piped");
        self.watchdog = Mutex::new(Some((child, pipe)));
        Ok(())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let watchdog = self.watchdog.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some((mut child, pipe)) = watchdog {
            drop(pipe);
            if let Err(error) = child.wait() {
                eprintln!("ffpool-stack: wait for the watchdog of {}: {error}", self.root.display());
            }
        }
    }
}

fn unprivileged_user() -> Result<Option<User>, StackError> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let user = User::from_name(UNPRIVILEGED)
        .map_err(|error| StackError::system("look up the user `nobody`")(error.into()))?
        .ok_or_else(|| StackError::system("look up the user `nobody`")(std::io::ErrorKind::NotFound.into()))?;
    Ok(Some(user))
}

fn named_directory(root: &Path, user: Option<&User>) -> Result<PathBuf, StackError> {
    fs::create_dir_all(root).map_err(StackError::system(format!("make {}", root.display())))?;
    let root = root.canonicalize().map_err(StackError::system(format!("resolve {}", root.display())))?;
    match user.and_then(|user| closed_ancestor(&root, user).map(|path| (path, user))) {
        None => Ok(root),
        Some((path, user)) => Err(StackError::Unreachable { path, user: user.name.clone() }),
    }
}

/// A temporary directory that the servers' user can reach, and that the watchdog under that user can remove.
fn temporary_directory(user: Option<&User>) -> Result<PathBuf, StackError> {
    let preferred = env::temp_dir();
    let base = [preferred.clone(), PathBuf::from("/tmp"), PathBuf::from("/var/tmp")]
        .into_iter()
        .filter_map(|base| base.canonicalize().ok())
        .find(|base| {
            user.is_none_or(|user| closed_ancestor(&base.join("stack"), user).is_none() && anybody_writes(base))
        })
        .unwrap_or(preferred);
    tempfile::Builder::new()
        .prefix("ffpool-stack-")
        .tempdir_in(&base)
        .map(tempfile::TempDir::keep)
        .map_err(StackError::system(format!("make a directory in {}", base.display())))
}

/// The first directory above `path` that the user may not enter.
fn closed_ancestor(path: &Path, user: &User) -> Option<PathBuf> {
    let open = |directory: &Path| {
        let Ok(metadata) = fs::metadata(directory) else {
            return false;
        };
        let bit = if metadata.uid() == user.uid.as_raw() {
            0o100
        } else if metadata.gid() == user.gid.as_raw() {
            0o010
        } else {
            0o001
        };
        metadata.mode() & bit != 0
    };
    let mut ancestors: Vec<&Path> = path.ancestors().skip(1).collect();
    ancestors.reverse();
    ancestors.into_iter().find(|directory| !open(directory)).map(Path::to_path_buf)
}

fn anybody_writes(directory: &Path) -> bool {
    fs::metadata(directory).is_ok_and(|metadata| metadata.mode() & 0o002 != 0)
}

fn own(directory: &Path, user: Option<&User>) -> Result<(), StackError> {
    fs::set_permissions(directory, Permissions::from_mode(0o700))
        .map_err(StackError::system(format!("set the mode of {}", directory.display())))?;
    own_as_is(directory, user)
}

fn own_as_is(path: &Path, user: Option<&User>) -> Result<(), StackError> {
    let Some(user) = user else { return Ok(()) };
    chown(path, Some(Uid::as_raw(user.uid)), Some(user.gid.as_raw())).map_err(StackError::system(format!(
        "give {} to {}",
        path.display(),
        user.name
    )))
}

/// Locks the directory against a second stack, and against the watchdog of the one before, which still sweeps.
fn lock(root: &Path) -> Result<File, StackError> {
    let path = root.join("lock");
    let file = File::create(&path).map_err(StackError::system(format!("make {}", path.display())))?;
    let deadline = Instant::now() + BUSY_BOUND;
    while file.try_lock().is_err() {
        if Instant::now() > deadline {
            return Err(StackError::Busy { root: root.to_path_buf(), bound: BUSY_BOUND });
        }
        thread::sleep(POLL);
    }
    Ok(file)
}
