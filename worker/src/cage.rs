//! The bars between a tool and the machine. Tools take strangers' files apart, so whatever is hidden in one may be running
//! inside of them: each run reads what its attempt reads, writes into its scratch, and reaches no network unless its job is
//! live. Three layers, each of which holds without the others: [`Layer`].
//!
//! Invariant: everything is prepared before the fork; in the child only system calls follow. A layer that worked when the
//! worker started and cannot be put up later ends the run before its program is loaded: no attempt runs with less than its
//! record says.

#![expect(unsafe_code, reason = "the bars are put up by system calls between fork and exec")]

mod calls;
pub mod egress;
mod files;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sched::CloneFlags;
use seccompiler::BpfProgram;

use calls::Calls;
use egress::{Asking, Reach};
use files::Files;

use crate::tool::ToolUser;

/// How long a tool may take to say its version behind a layer that is tried.
const TRIAL: Duration = Duration::from_secs(20);
/// How often it is looked at whether it has.
const LOOK: Duration = Duration::from_millis(2);

/// Whether tools run behind bars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SandboxMode {
    /// Behind all that the kernel gives.
    #[default]
    Best,
    /// Behind files and calls at least, or the worker does not start.
    Require,
    /// As far as the user's rights reach.
    Off,
}

/// One kind of bars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layer {
    /// Landlock: which files may be opened, and how.
    Files,
    /// seccomp: which system calls may be made. No sockets for jobs that are not live.
    Calls,
    /// A network without any interface, and shared memory, of its own, for jobs that are not live.
    Network,
    /// seccomp: to which addresses of the network, each asked of the worker, for jobs that are live.
    Egress,
}

impl Layer {
    /// All of them.
    pub const ALL: [Layer; 4] = [Layer::Files, Layer::Calls, Layer::Network, Layer::Egress];

    /// Its name in records and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Layer::Files => "landlock",
            Layer::Calls => "seccomp",
            Layer::Network => "network",
            Layer::Egress => "egress",
        }
    }

    /// Whether [`SandboxMode::Require`] insists on it. The others take rights that a container rarely has, and the calls keep
    /// a tool without a live job from every socket without them.
    fn is_required(self) -> bool {
        matches!(self, Layer::Files | Layer::Calls)
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why tools cannot be put behind bars.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its message")]
pub enum CageError {
    #[error("{layer} is required and does not work here: {why}; set FFPOOL_SANDBOX=best to go without it")]
    Missing { layer: Layer, why: io::Error },
}

/// What a run needs besides its scratch.
#[derive(Debug, Clone, Copy)]
pub struct Needs<'a> {
    /// Files that it reads.
    pub reads: &'a [PathBuf],
    /// Where on the network it goes; `None`: nowhere.
    pub network: Option<&'a Reach>,
    /// Whether it encodes on a device.
    pub devices: bool,
}

/// The filters of calls, made once for all runs.
#[derive(Debug, Clone)]
struct Programs {
    usual: Arc<BpfProgram>,
    network: Arc<BpfProgram>,
    devices: Arc<BpfProgram>,
    both: Arc<BpfProgram>,
}

impl Programs {
    fn make() -> Result<Programs, seccompiler::BackendError> {
        let of = |network, devices| Calls { network, devices }.program().map(Arc::new);
        Ok(Programs {
            usual: of(false, false)?,
            network: of(true, false)?,
            devices: of(false, true)?,
            both: of(true, true)?,
        })
    }

    fn of(&self, needs: &Needs<'_>) -> Arc<BpfProgram> {
        let program = match (needs.network.is_some(), needs.devices) {
            (false, false) => &self.usual,
            (true, false) => &self.network,
            (false, true) => &self.devices,
            (true, true) => &self.both,
        };
        program.clone()
    }
}

/// The layers that work on this machine.
#[derive(Debug, Clone)]
pub struct Cage {
    layers: Vec<Layer>,
    /// What is read besides the system's own.
    reads: Vec<PathBuf>,
    /// `None`: the calls of this architecture are not known.
    calls: Option<Programs>,
}

impl Cage {
    /// Tries every layer with a tool that does nothing. `reads` names what the tools read besides what every program does.
    /// Blocks.
    ///
    /// # Errors
    /// A layer that is required and does not work.
    pub fn open(mode: SandboxMode, tool: &Path, user: ToolUser, reads: &[PathBuf]) -> Result<Cage, CageError> {
        let mut cage = Cage { layers: Vec::new(), reads: reads.to_vec(), calls: Programs::make().ok() };
        if mode == SandboxMode::Off {
            tracing::warn!("FFPOOL_SANDBOX=off: tools are kept from nothing that their user may do");
            return Ok(cage);
        }
        let mut works = Vec::new();
        for layer in Layer::ALL {
            cage.layers = vec![layer];
            let tried = if layer == Layer::Egress { cage.try_egress(tool, user) } else { cage.try_out(tool) };
            match tried {
                Ok(()) => works.push(layer),
                Err(why) if mode == SandboxMode::Require && layer.is_required() => {
                    return Err(CageError::Missing { layer, why });
                }
                Err(why) if layer.is_required() => {
                    tracing::warn!(%layer, %why, "tools run without this layer of the sandbox");
                }
                Err(why) => tracing::info!(%layer, %why, "tools run without this layer of the sandbox"),
            }
        }
        cage.layers = works;
        Ok(cage)
    }

    /// Runs the tool once for its version, behind the bars that stand now.
    fn try_out(&self, tool: &Path) -> io::Result<()> {
        let mut bars = self.bars(tool, None, &Needs { reads: &[], network: None, devices: false })?;
        let mut command = Command::new(tool);
        command.arg("-version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: as in `tool::confined`.
        unsafe {
            command.pre_exec(move || {
                bars.leave_network()?;
                bars.close()
            });
        }
        let status = within(TRIAL, command.spawn()?)?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("behind it {} ends with {status}", tool.display())))
        }
    }

    /// Has the tool call this machine, as the user that it runs as: whether the worker may look into it depends on that.
    fn try_egress(&self, tool: &Path, user: ToolUser) -> io::Result<()> {
        let [heard, not_heard] = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let (heard, not_heard) = (heard?, not_heard?);
        let reach = Reach::to([heard.local_addr()?]);
        let calls = |listener: &TcpListener| -> io::Result<bool> {
            let mut bars = self.bars(tool, None, &Needs { reads: &[], network: Some(&reach), devices: false })?;
            let mut command = Command::new(tool);
            command.args(["-v", "quiet", "-protocol_whitelist", "tcp", "-rw_timeout", "1000000"]);
            command.arg(format!("tcp://{}", listener.local_addr()?));
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            if let ToolUser::Switch { uid, gid } = user {
                command.gid(gid).uid(uid);
            }
            // SAFETY: as in `tool::confined`.
            unsafe {
                command.pre_exec(move || bars.close());
            }
            listener.set_nonblocking(true)?;
            let mut child = command.spawn()?;
            let mut is_called = false;
            let until = Instant::now() + TRIAL;
            // Whoever is called hangs up, so that the tool ends.
            while child.try_wait()?.is_none() && Instant::now() < until {
                is_called |= listener.accept().is_ok();
                std::thread::sleep(LOOK);
            }
            within(Duration::ZERO, child).map(|_| is_called || listener.accept().is_ok())
        };
        match (calls(&heard)?, calls(&not_heard)?) {
            (true, false) => Ok(()),
            (true, true) => Err(io::Error::other("behind it a tool goes where it may not")),
            (false, _) => {
                Err(io::Error::other("the worker may not look into a tool: the same user or CAP_SYS_PTRACE is needed"))
            }
        }
    }

    /// The layers that work here.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The layers around a job.
    pub fn around(&self, is_live: bool) -> impl Iterator<Item = Layer> {
        let other = if is_live { Layer::Network } else { Layer::Egress };
        self.layers.iter().copied().filter(move |layer| *layer != other)
    }

    fn calls(&self, needs: &Needs<'_>) -> io::Result<Arc<BpfProgram>> {
        let unknown = || io::Error::new(io::ErrorKind::Unsupported, "the calls of this architecture are not known");
        let programs = self.calls.as_ref().ok_or_else(unknown)?;
        Ok(programs.of(needs))
    }

    /// The bars of one run of `program`, which may write into `scratch`.
    pub(crate) fn bars(&self, program: &Path, scratch: Option<&Path>, needs: &Needs<'_>) -> io::Result<Bars> {
        let has = |layer| self.layers.contains(&layer);
        let runs = self.reads.iter().map(PathBuf::as_path).chain([program]);
        Ok(Bars {
            files: has(Layer::Files).then(|| Files::prepare(runs, scratch, needs)).transpose()?,
            calls: if has(Layer::Calls) { Some(self.calls(needs)?) } else { None },
            leaves_network: has(Layer::Network) && needs.network.is_none(),
            // Drivers of devices have sockets of the machine's own, for which the worker's rights must not count.
            asks: needs
                .network
                .filter(|_| has(Layer::Egress) && !needs.devices)
                .map(|reach| Asking::prepare(reach.clone()))
                .transpose()?,
        })
    }
}

/// As whom tools run on a worker, and behind what.
#[derive(Debug, Clone)]
pub struct Quarters {
    /// Their user.
    pub user: ToolUser,
    /// Their bars.
    pub cage: Cage,
}

impl Quarters {
    /// Has a trial run as a job would, but for its network, which only root can take away, and its cgroup: what is offered
    /// is what works there.
    ///
    /// # Errors
    /// When the bars cannot be made ready.
    pub(crate) fn shut_in(
        &self,
        command: &mut tokio::process::Command,
        program: &Path,
        needs: &Needs<'_>,
    ) -> io::Result<()> {
        let mut bars = self.cage.bars(program, None, needs)?;
        if let ToolUser::Switch { uid, gid } = self.user {
            command.gid(gid).uid(uid);
        }
        // SAFETY: as in `tool::confined`.
        unsafe {
            command.pre_exec(move || bars.close());
        }
        Ok(())
    }
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

/// The bars of one run, ready to be put up in its child.
#[derive(Debug)]
pub(crate) struct Bars {
    files: Option<Files>,
    calls: Option<Arc<BpfProgram>>,
    leaves_network: bool,
    asks: Option<Asking>,
}

impl Bars {
    /// Takes the network away, for which the worker's rights are needed. System calls only.
    pub(crate) fn leave_network(&self) -> io::Result<()> {
        if self.leaves_network {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC)?;
        }
        Ok(())
    }

    /// Puts up the rest, last of all. System calls only.
    pub(crate) fn close(&mut self) -> io::Result<()> {
        nix::sys::prctl::set_no_new_privs()?;
        if let Some(files) = &mut self.files {
            files.close()?;
        }
        if let Some(asking) = &self.asks {
            asking.begin()?;
        }
        match &self.calls {
            Some(program) => seccompiler::apply_filter(program).map_err(|_| io::ErrorKind::PermissionDenied.into()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
