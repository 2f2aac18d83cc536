//! The bars between a tool and the machine. Tools take strangers' files apart, so whatever is hidden in one may be running
//! inside of them: each run reads what its attempt reads, writes into its scratch, sees nobody, and reaches no network unless its
//! job is live. Layers, each of which holds without the others: [`Layer`].
//!
//! Invariant: everything is prepared before the fork; in the child only system calls follow. A layer that worked when the
//! worker started and cannot be put up later ends the run before its program is loaded: no attempt runs with less than its
//! record says.

#![expect(unsafe_code, reason = "the bars are put up by system calls between fork and exec")]

mod calls;
pub mod egress;
mod files;
mod spaces;
mod trial;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use caps::{CapSet, Capability, CapsHashSet};
use nix::libc;
use nix::sys::signal::{self, SigHandler, Signal};
use seccompiler::BpfProgram;

use calls::Calls;
use egress::{Asking, Reach};
use files::Files;
use spaces::{Maps, Spaces};
use trial::Trial;

use crate::tool::ToolUser;

/// Signals that ask a program to stop, or end one that writes more than it may or to nobody. Whoever started the worker may have had it
/// ignore them (`nohup`, a shell's `&`, a supervisor in Python), and a tool that inherits that goes on.
const HEEDED: [Signal; 6] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGXFSZ, Signal::SIGPIPE];

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
    /// A network without any interface, for jobs that are not live.
    Network,
    /// Processes of its own: it sees and signals no others, and all of them end with it.
    Processes,
    /// Mounts of its own, on which only the scratch can be written.
    Mounts,
    /// Its own view of `/proc`, with its own processes alone. Needs processes and mounts of its own.
    Proc,
    /// System V memory and POSIX queues of its own.
    Ipc,
    /// seccomp: to which addresses of the network, each asked of the worker, for jobs that are live.
    Egress,
}

impl Layer {
    /// All of them.
    pub const ALL: [Layer; 8] = [
        Layer::Files,
        Layer::Calls,
        Layer::Network,
        Layer::Processes,
        Layer::Mounts,
        Layer::Proc,
        Layer::Ipc,
        Layer::Egress,
    ];
    /// Those around a tool that reaches no network.
    const OF_FILE_JOBS: [Layer; 7] =
        [Layer::Files, Layer::Calls, Layer::Network, Layer::Processes, Layer::Mounts, Layer::Proc, Layer::Ipc];
    /// Those that are namespaces.
    const SPACES: [Layer; 5] = [Layer::Network, Layer::Processes, Layer::Mounts, Layer::Proc, Layer::Ipc];

    /// Its name in records and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Layer::Files => "landlock",
            Layer::Calls => "seccomp",
            Layer::Network => "network",
            Layer::Processes => "processes",
            Layer::Mounts => "mounts",
            Layer::Proc => "proc",
            Layer::Ipc => "ipc",
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
    #[error("no directory for a tool can be made in the scratch {}: {why}", path.display())]
    Scratch { path: PathBuf, why: io::Error },
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
    /// Whose tools they are, where an attempt does not choose.
    user: ToolUser,
    /// Whether the worker may make namespaces. Where it may not, the tool's user does, in a namespace of users.
    may_part: bool,
}

impl Cage {
    /// Tries every layer with a tool that does nothing, in a directory of this scratch. `reads` names what the tools read besides
    /// what every program does. Says in the log what is wrong with the scratch. Blocks.
    ///
    /// # Errors
    /// A layer that is required and does not work, or a scratch in which no directory can be made.
    pub fn open(
        mode: SandboxMode,
        tool: &Path,
        user: ToolUser,
        reads: &[PathBuf],
        scratch: &Path,
    ) -> Result<Cage, CageError> {
        let may_part = caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).unwrap_or(false);
        let calls = Programs::make().ok();
        let mut cage = Cage { layers: Vec::new(), reads: reads.to_vec(), calls, user, may_part };
        let trial =
            Trial::begin(&cage, tool, scratch).map_err(|why| CageError::Scratch { path: scratch.to_owned(), why })?;
        if mode == SandboxMode::Off {
            tracing::warn!("FFPOOL_SANDBOX=off: tools are kept from nothing that their user may do");
            return Ok(cage);
        }
        // One trial for all of them, or for the namespaces at least, where nothing is missing.
        let together = [&Layer::OF_FILE_JOBS[..], &Layer::SPACES];
        let work = together.into_iter().find(|layers| trial.of(&cage, layers).is_ok()).unwrap_or_default();
        let mut works = Vec::new();
        for layer in Layer::ALL {
            let tried = match layer {
                layer if work.contains(&layer) => Ok(()),
                Layer::Files | Layer::Calls | Layer::Network | Layer::Processes | Layer::Mounts | Layer::Ipc => {
                    trial.of(&cage, &[layer])
                }
                Layer::Proc => trial.of(&cage, &[Layer::Processes, Layer::Mounts, Layer::Proc]),
                Layer::Egress => trial.of_egress(&cage, &works),
            };
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

    /// Whether tools have processes of their own.
    pub(crate) fn hides_processes(&self) -> bool {
        self.layers.contains(&Layer::Processes)
    }

    /// The namespaces of one run of this user's; `None`: it has none.
    fn spaces(&self, user: ToolUser, scratch: Option<&Path>, needs: &Needs<'_>) -> io::Result<Option<Spaces>> {
        let flag = |layer| match layer {
            Layer::Network if needs.network.is_none() => libc::CLONE_NEWNET,
            Layer::Processes => libc::CLONE_NEWPID,
            Layer::Mounts => libc::CLONE_NEWNS,
            Layer::Ipc => libc::CLONE_NEWIPC,
            Layer::Network | Layer::Proc | Layer::Files | Layer::Calls | Layer::Egress => 0,
        };
        let flags = self.layers.iter().fold(0, |flags, layer| flags | flag(*layer));
        if flags == 0 {
            return Ok(None);
        }
        let (uid, gid) = match user {
            ToolUser::Own => (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()),
            ToolUser::Switch { uid, gid } => (uid, gid),
        };
        Ok(Some(Spaces {
            flags,
            proc: self.layers.contains(&Layer::Proc),
            writes_proc: needs.devices,
            scratch: scratch.map(spaces::path).transpose()?,
            maps: (!self.may_part).then(|| Maps::of(uid, gid)),
            reaches: self.signals_of(user),
        }))
    }

    /// What it takes of the worker's rights to signal a run of this user's. In a namespace of users everybody is that user.
    fn signals_of(&self, user: ToolUser) -> CapsHashSet {
        let needs = self.may_part && user != ToolUser::Own;
        let has = |right| caps::has_cap(None, CapSet::Permitted, right).unwrap_or(false);
        [Capability::CAP_KILL].into_iter().filter(|right| needs && has(*right)).collect()
    }

    /// The bars of one run of `program` as `user`, which may write into `scratch`.
    pub(crate) fn bars(
        &self,
        program: &Path,
        user: ToolUser,
        scratch: Option<&Path>,
        needs: &Needs<'_>,
    ) -> io::Result<Bars> {
        let has = |layer| self.layers.contains(&layer);
        let runs = self.reads.iter().map(PathBuf::as_path).chain([program]);
        Ok(Bars {
            files: has(Layer::Files).then(|| Files::prepare(runs, scratch, needs)).transpose()?,
            calls: if has(Layer::Calls) { Some(self.calls(needs)?) } else { None },
            spaces: self.spaces(user, scratch, needs)?,
            // Drivers of devices have sockets of the machine's own, for which the worker's rights must not count.
            asks: needs
                .network
                .filter(|_| has(Layer::Egress) && !needs.devices)
                .map(|reach| Asking::prepare(reach.clone()))
                .transpose()?,
        })
    }
}

/// The bars of one run, ready to be put up in its child.
#[derive(Debug)]
pub(crate) struct Bars {
    files: Option<Files>,
    calls: Option<Arc<BpfProgram>>,
    spaces: Option<Spaces>,
    asks: Option<Asking>,
}

impl Bars {
    /// Whether it is the tool's user, and not the worker's, who makes the namespaces.
    pub(crate) fn are_the_users(&self) -> bool {
        self.spaces.as_ref().is_some_and(|spaces| spaces.maps.is_some())
    }

    /// Whether the tool gets processes of its own, which end with it.
    pub(crate) fn hide_processes(&self) -> bool {
        self.spaces.as_ref().is_some_and(Spaces::has_processes)
    }

    /// Goes into the tool's own namespaces. Returns in the process that is to become the tool, which may be another than the
    /// one that called. System calls only.
    pub(crate) fn part(&self) -> io::Result<()> {
        for signal in HEEDED {
            // SAFETY: no handler is set.
            unsafe { signal::signal(signal, SigHandler::SigDfl) }?;
        }
        self.spaces.as_ref().map_or(Ok(()), Spaces::enter)
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
