//! Which layers work on this machine: each is tried with a tool that does next to nothing, confined as a run of a job is, in a
//! directory of the worker's own scratch.
//!
//! Invariant: a layer takes no more than it says. What the tools' user may do in the scratch without any layer, it may behind
//! each; where it may not even then, the start says what is wrong and the cure.

use std::ffi::{CString, OsString};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::libc;
use tempfile::TempDir;

use super::egress::Reach;
use super::{Cage, Layer, Needs, spaces};
use crate::bounds::Bounds;
use crate::roots;
use crate::tool::{self, Invocation, ToolUser};

/// How long a tool may take to say its version behind a layer that is tried.
const TRIAL: Duration = Duration::from_secs(20);
/// How long a tool waits for its call to be taken, in turn: a machine that has just started, or is full, is slow.
const PATIENCE: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(15)];
/// How often it is looked at whether it has.
pub(super) const LOOK: Duration = Duration::from_millis(2);
/// What is written by a trial.
const MADE: &str = "made";

/// Where layers are tried, and with what.
pub(super) struct Trial<'t> {
    tool: &'t Path,
    directory: TempDir,
    /// Whether the tools' user reaches the scratch by its path, as far as no layer keeps it from that.
    pub(super) reaches: bool,
}

impl<'t> Trial<'t> {
    /// Tries the scratch without any layer, and says what is wrong with it.
    pub(super) fn begin(bare: &Cage, tool: &'t Path, scratch: &Path) -> io::Result<Trial<'t>> {
        let directory = tempfile::Builder::new().prefix("trial-").tempdir_in(scratch)?;
        bare.user.give(directory.path())?;
        let mut trial = Trial { tool, directory, reaches: true };
        if let Err(why) = trial.of(bare, &[]) {
            trial.reaches = false;
            tracing::error!(%why, "{}", closed(scratch, bare.user));
        }
        Ok(trial)
    }

    /// Runs the tool once for its version behind these, after it has written into its directory.
    pub(super) fn of(&self, cage: &Cage, layers: &[Layer]) -> io::Result<()> {
        let cage = Cage { layers: layers.to_vec(), ..cage.clone() };
        let made = if self.reaches { self.directory.path().join(MADE) } else { MADE.into() };
        let made = spaces::path(&made)?;
        let nowhere = Needs { reads: &[], network: None, devices: false };
        let mut command = self.command(&cage, &["-version".into()], nowhere)?;
        // SAFETY: it makes system calls on values that were made before the fork.
        unsafe {
            command.pre_exec(move || write(&made));
        }
        let status = within(TRIAL, command.spawn()?)?;
        if status.success() { Ok(()) } else { Err(ended(self.tool, status)) }
    }

    /// Has the tool call this machine, as the user that it runs as: whether the worker may look into it depends on that, and on the
    /// namespaces that it is in. Landlock's ports would hide what this layer does by itself, so it is tried alone first.
    pub(super) fn of_egress(&self, cage: &Cage, others: &[Layer]) -> io::Result<()> {
        let [heard, not_heard] = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let (heard, not_heard) = (heard?, not_heard?);
        let reach = Reach::to([heard.local_addr()?]).tried();
        let alone = Cage { layers: vec![Layer::Egress], ..cage.clone() };
        let among = Cage { layers: [others, &[Layer::Egress]].concat(), ..cage.clone() };
        for patience in PATIENCE {
            let calls = |cage, listener| self.calls(cage, &reach, listener, patience);
            if calls(&alone, &heard)? && calls(&among, &heard)? {
                return if calls(&alone, &not_heard)? {
                    Err(io::Error::other("behind it a tool goes where it may not"))
                } else {
                    Ok(())
                };
            }
        }
        Err(io::Error::other("the worker may not look into a tool: the same user or CAP_SYS_PTRACE is needed"))
    }

    /// Whether a tool that calls is heard.
    fn calls(&self, cage: &Cage, reach: &Reach, listener: &TcpListener, patience: Duration) -> io::Result<bool> {
        let address = format!("tcp://{}", listener.local_addr()?);
        let patience = patience.as_micros().to_string();
        let arguments = ["-v", "quiet", "-protocol_whitelist", "tcp", "-rw_timeout", &patience, &address];
        let needs = Needs { reads: &[], network: Some(reach), devices: false };
        listener.set_nonblocking(true)?;
        let mut child = self.command(cage, &arguments.map(OsString::from), needs)?.spawn()?;
        let mut is_heard = false;
        let until = Instant::now() + TRIAL;
        // Whoever is called hangs up, so that the tool ends.
        while child.try_wait()?.is_none() && Instant::now() < until {
            is_heard |= listener.accept().is_ok();
            std::thread::sleep(LOOK);
        }
        within(Duration::ZERO, child).map(|_| is_heard || listener.accept().is_ok())
    }

    /// The tool, confined as runs of jobs are but for a cgroup.
    fn command(&self, cage: &Cage, arguments: &[OsString], needs: Needs<'_>) -> io::Result<Command> {
        let invocation = Invocation {
            program: self.tool,
            arguments,
            directory: self.directory.path(),
            user: cage.user,
            group: None,
            file_bytes: u64::MAX,
            open_files: Bounds::OPEN_FILES,
            nice: 0,
            cage,
            needs,
        };
        let mut command = tool::confined(&invocation)?.into_std();
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command)
    }
}

/// What is wrong with a scratch that the tools' user does not reach, and what helps.
pub(super) fn closed(scratch: &Path, user: ToolUser) -> String {
    let shown = scratch.display();
    let ToolUser::Switch { uid, gid } = user else {
        return format!(
            "tools cannot be run in the scratch {shown}: see the reason, or set FFPOOL_SCRATCH to another directory"
        );
    };
    match roots::first_closed(scratch, uid, gid) {
        Some(closed) => format!(
            "tools run as user {uid}, who may not enter {0}, so they do not reach the scratch {shown} by its path: jobs whose \
             inputs are fetched fail, and where the tools' user makes the namespaces there is no `mounts`. \
             Run `chmod o+x {0}`, or set FFPOOL_SCRATCH to a directory below none that is closed",
            closed.display()
        ),
        None => format!(
            "tools run as user {uid}, who cannot be given a directory in the scratch {shown} or cannot run there: see the reason, \
             or set FFPOOL_SCRATCH to another directory"
        ),
    }
}

/// Makes a file, or finds one, and closes it. System calls only.
fn write(path: &CString) -> io::Result<()> {
    // SAFETY: the path ends with a zero.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CREAT | libc::O_CLOEXEC, 0o600) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was opened above and is used by nobody else.
    unsafe { libc::close(fd) };
    Ok(())
}

fn ended(tool: &Path, status: ExitStatus) -> io::Error {
    io::Error::other(format!("behind it {} ends with {status}", tool.display()))
}

/// How a child ends within this time; then it is killed.
fn within(bound: Duration, mut child: Child) -> io::Result<ExitStatus> {
    let until = Instant::now() + bound;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= until {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("behind it a tool did not end within {bound:?}"),
            ));
        }
        std::thread::sleep(LOOK);
    }
}
