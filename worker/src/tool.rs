//! One run of a tool: started confined, listened to while it runs, frozen and thawed, ended politely or not, and wholly
//! gone afterwards.
//!
//! Invariant: the tool is inside its cgroup, its session, its limits and its cage before its program is loaded; when [`run`] returns,
//! everything that it started is dead. No shell is involved, and nothing of the worker's environment but the paths of programs.

#![expect(unsafe_code, reason = "what confines a tool is called between fork and exec")]

mod family;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use caps::{CapSet, Capability};
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Gid, Pid, Uid};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::cage::{Bars, Cage, Needs};
use crate::machine::group::Group;
use crate::workshop::{Freeze, Stop};
pub use family::kill_inside;
use family::{Sample, processes_inside};

/// What is kept of a tool's log.
const LOG_KEPT_BYTES: usize = 64 * 1024;
/// The longest line that is kept whole.
const LINE_BYTES: usize = 4096;
/// What is kept of a tool's answer on its standard output.
const ANSWER_BYTES: usize = 8 * 1024 * 1024;
/// How often stall, disk and use are looked at.
const TICK: Duration = Duration::from_millis(500);
/// How long the pipes of a dead tool may take to run dry.
const DRAIN_WAIT: Duration = Duration::from_secs(2);
/// How long a killed tool is waited for. Longer, it hangs in the kernel, on a dead mount say, and no signal reaches it.
const UNKILLABLE_AFTER: Duration = Duration::from_secs(60);

/// As whom a tool runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolUser {
    /// As the worker, which is not root.
    Own,
    /// As this user, in this group and no other.
    Switch {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
}

impl ToolUser {
    /// The user that the settings name; without one, `nobody` when the worker is root. `None`: there is no `nobody`.
    #[must_use]
    pub fn choose(setting: Option<(u32, u32)>) -> Option<ToolUser> {
        if !Uid::effective().is_root() {
            return Some(ToolUser::Own);
        }
        if let Some((uid, gid)) = setting {
            return Some(ToolUser::Switch { uid, gid });
        }
        let nobody = nix::unistd::User::from_name("nobody").ok().flatten()?;
        Some(ToolUser::Switch { uid: nobody.uid.as_raw(), gid: nobody.gid.as_raw() })
    }

    /// Makes a directory that user's, and nobody else's.
    ///
    /// # Errors
    /// When it cannot be given away.
    pub(crate) fn give(self, directory: &Path) -> io::Result<()> {
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))?;
        match self {
            ToolUser::Own => Ok(()),
            ToolUser::Switch { uid, gid } => std::os::unix::fs::chown(directory, Some(uid), Some(gid)),
        }
    }

    /// Makes this process that user's, in no group but that one. System calls only.
    fn take_over(self) -> io::Result<()> {
        if let ToolUser::Switch { uid, gid } = self {
            nix::unistd::setgroups(&[])?;
            nix::unistd::setgid(Gid::from_raw(gid))?;
            nix::unistd::setuid(Uid::from_raw(uid))?;
        }
        Ok(())
    }
}

/// Starts all tools of a worker from one thread that lives as long as it: the kernel kills a tool when the *thread*
/// that started it ends (prctl(2), PR_SET_PDEATHSIG), and threads of the async runtime come and go.
#[derive(Debug)]
pub struct Launcher {
    orders: std::sync::mpsc::Sender<Order>,
}

struct Order {
    command: Command,
    answer: oneshot::Sender<io::Result<Child>>,
}

impl Launcher {
    /// Starts the thread. Must be called inside the async runtime.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start() -> io::Result<Launcher> {
        let (orders, queue) = std::sync::mpsc::channel::<Order>();
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new().name("tools".into()).spawn(move || {
            let _inside = runtime.enter();
            for mut order in queue {
                // Nobody waits any more: the child is dropped, and killed by that.
                let _ = order.answer.send(order.command.spawn());
            }
        })?;
        Ok(Launcher { orders })
    }

    async fn spawn(&self, command: Command) -> io::Result<Child> {
        let gone = || io::Error::other("the thread that starts tools has ended");
        let (answer, child) = oneshot::channel();
        self.orders.send(Order { command, answer }).map_err(|_| gone())?;
        child.await.map_err(|_| gone())?
    }
}

/// What to run, and as what.
#[derive(Debug, Clone, Copy)]
pub struct Invocation<'a> {
    /// The program's absolute path.
    pub program: &'a Path,
    /// Its arguments.
    pub arguments: &'a [OsString],
    /// Its working directory.
    pub directory: &'a Path,
    /// Its user.
    pub user: ToolUser,
    /// Its cgroup.
    pub group: Option<&'a Group>,
    /// Size that no file may exceed, in bytes.
    pub file_bytes: u64,
    /// Files that it may have open.
    pub open_files: u64,
    /// By how much it lets others go first, 0 to 19.
    pub nice: i32,
    /// The bars that work here.
    pub cage: &'a Cage,
    /// What it needs besides its directory.
    pub needs: Needs<'a>,
}

/// What ends a run from outside, or has it stand still.
#[derive(Debug)]
pub struct Watch {
    /// Our orders.
    pub stop: watch::Receiver<Option<Stop>>,
    /// Whether it is to stand still.
    pub freeze: watch::Receiver<Freeze>,
    /// When its time is up, if it never stands still.
    pub deadline: Instant,
    /// Silence after which it has stalled. Standing still is no silence.
    pub stall_after: Option<Duration>,
    /// Time between asking it to stop and killing it.
    pub grace: Duration,
    /// A directory and the bytes that may lie in it.
    pub disk: Option<(PathBuf, u64)>,
}

/// Listens to a tool.
pub trait Listener: Send {
    /// A line of its standard output. Answers whether the tool has got on.
    fn output(&mut self, line: &str) -> bool;
    /// A line of its log.
    fn log(&mut self, line: &str);
}

/// Why a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndedBy {
    /// The tool ended by itself, or by somebody unknown.
    Itself,
    /// Our orders.
    Stop(Stop),
    /// Its time was up.
    Timeout,
    /// It got on no more.
    Stall,
    /// So many bytes lay in its directory.
    Disk(u64),
}

/// A run that is over.
#[derive(Debug)]
pub struct Finished {
    /// How the tool's process ended.
    pub status: ExitStatus,
    /// Why.
    pub ended_by: EndedBy,
    /// The end of its log.
    pub log: Vec<String>,
    /// Processor time as last seen, in milliseconds. The cgroup knows better, where there is one.
    pub cpu_ms: u64,
    /// Largest memory as last seen, in bytes.
    pub peak_memory_bytes: Option<u64>,
    /// How long it stood still.
    pub frozen_for: Duration,
    /// How often it was refused one more process or thread.
    pub refused_forks: u64,
}

impl Finished {
    /// Whether the tool ended by itself and says that all went well.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.ended_by == EndedBy::Itself && self.status.success()
    }

    /// The signal that ended it.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }
}

/// Runs a tool to its end.
///
/// # Errors
/// When it cannot be started, or its end cannot be learned.
pub async fn run(
    launcher: &Launcher,
    invocation: Invocation<'_>,
    mut watch: Watch,
    listener: &mut dyn Listener,
) -> io::Result<Finished> {
    // The kernel counts for the whole life of a cgroup.
    let refused_before = refused_forks(&invocation);
    let mut child = launcher.spawn(confined(&invocation)?).await?;
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
    let mut stdout = Pipe::new(child.stdout.take());
    let mut stderr = Pipe::new(child.stderr.take());
    let mut log = Tail::default();
    let mut sample = Sample::default();
    let mut ended_by = EndedBy::Itself;
    let mut kill_at: Option<Instant> = None;
    let mut give_up_at: Option<Instant> = None;
    let mut advanced = Instant::now();
    let mut frozen_since: Option<Instant> = None;
    let mut frozen_for = Duration::ZERO;
    let mut tick = tokio::time::interval(TICK);
    let mut orders_end = false;
    // Found once: the process stays the same.
    let mut tool = None;

    let status = loop {
        let mut ending = None;
        let frozen = frozen_since.is_some();
        tokio::select! {
            status = child.wait() => break status?,
            order = next_order(&mut watch.stop), if kill_at.is_none() && !orders_end => match order {
                Some(order) => ending = Some(EndedBy::Stop(order)),
                None => orders_end = true,
            },
            () = tokio::time::sleep_until(kill_at.unwrap_or(advanced)), if kill_at.is_some() => {
                kill_all(invocation.group, pid);
                let now = Instant::now();
                if now >= *give_up_at.get_or_insert(now + UNKILLABLE_AFTER) {
                    return Err(io::Error::other("it was killed and does not die: the kernel holds it, on a dead mount say"));
                }
                kill_at = Some(now + TICK);
            },
            () = turned(&mut watch.freeze, frozen), if kill_at.is_none() => {
                set_frozen(&invocation, [pid, tool], !frozen);
                match frozen_since.take() {
                    None => frozen_since = Some(Instant::now()),
                    // Its clocks stood still with it.
                    Some(since) => {
                        frozen_for += since.elapsed();
                        watch.deadline += since.elapsed();
                        advanced += since.elapsed();
                    }
                }
            },
            () = tokio::time::sleep_until(watch.deadline), if kill_at.is_none() && !frozen => ending = Some(EndedBy::Timeout),
            more = stdout.read(), if stdout.is_open() => if more {
                stdout.lines(|line| if listener.output(line) { advanced = Instant::now(); });
            },
            more = stderr.read(), if stderr.is_open() => if more {
                stderr.lines(|line| { log.push(line); listener.log(line); });
            },
            _ = tick.tick() => {
                tool = tool.or_else(|| the_tool(pid?, &invocation));
                if let Some(tool) = tool {
                    sample.take(tool);
                }
                if kill_at.is_none() && frozen {
                    // Whoever was born or in the kernel's hands meanwhile is frozen now.
                    set_frozen(&invocation, [pid, tool], true);
                } else if kill_at.is_none() {
                    ending = overdue(&watch, advanced);
                }
            },
        }
        if let Some(reason) = ending {
            // A lost lease or a full disk does not wait for manners, and who stands still has none.
            let grace = if frozen {
                Duration::ZERO
            } else {
                match reason {
                    EndedBy::Stop(Stop::Abandon) | EndedBy::Disk(_) => Duration::ZERO,
                    EndedBy::Itself | EndedBy::Stop(_) | EndedBy::Timeout | EndedBy::Stall => watch.grace,
                }
            };
            if let Some(pid) = pid {
                let _ = killpg(pid, Signal::SIGINT);
            }
            kill_at = Some(Instant::now() + grace);
            ended_by = reason;
        }
    };

    // Whoever the tool started holds its pipes open.
    kill_all(invocation.group, pid);
    if invocation.group.is_none() {
        kill_inside(invocation.directory).await;
    }
    let rest = async {
        while stdout.read().await {
            stdout.lines(|line| {
                listener.output(line);
            });
        }
        while stderr.read().await {
            stderr.lines(|line| {
                log.push(line);
                listener.log(line);
            });
        }
    };
    // What is not read within the bound is lost: the end of the attempt must not hang on a pipe.
    let _ = tokio::time::timeout(DRAIN_WAIT, rest).await;
    stdout.last_line(|line| {
        listener.output(line);
    });
    stderr.last_line(|line| {
        log.push(line);
        listener.log(line);
    });
    Ok(Finished {
        status,
        ended_by,
        log: log.lines.into(),
        cpu_ms: sample.cpu_ms,
        peak_memory_bytes: sample.peak_memory_bytes,
        frozen_for: frozen_for + frozen_since.map_or(Duration::ZERO, |since| since.elapsed()),
        refused_forks: refused_forks(&invocation).saturating_sub(refused_before),
    })
}

fn refused_forks(invocation: &Invocation<'_>) -> u64 {
    invocation.group.map_or(0, |group| group.usage().refused_forks)
}

/// The next order; `None`: there will be none.
async fn next_order(stop: &mut watch::Receiver<Option<Stop>>) -> Option<Stop> {
    stop.wait_for(Option::is_some).await.ok().and_then(|order| order.clone())
}

/// Resolves when the tool is to stand still and does not, or the other way round.
async fn turned(freeze: &mut watch::Receiver<Freeze>, frozen: bool) {
    if freeze.wait_for(|freeze| freeze.holds() != frozen).await.is_err() {
        std::future::pending().await
    }
}

/// Without a cgroup: the groups of processes of who was started and of the tool, and whoever works in its directory.
fn set_frozen(invocation: &Invocation<'_>, groups: [Option<Pid>; 2], frozen: bool) {
    if let Some(group) = invocation.group {
        if let Err(error) = group.set_frozen(frozen) {
            tracing::error!(%error, frozen, "the attempt's cgroup cannot be frozen or thawed");
        }
        return;
    }
    let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
    for group in groups.into_iter().flatten() {
        let _ = killpg(group, signal);
    }
    for pid in processes_inside(invocation.directory) {
        let _ = kill(pid, signal);
    }
}

fn overdue(watch: &Watch, advanced: Instant) -> Option<EndedBy> {
    if watch.stall_after.is_some_and(|bound| advanced.elapsed() >= bound) {
        return Some(EndedBy::Stall);
    }
    let (directory, allowed) = watch.disk.as_ref()?;
    let used = bytes_in(directory);
    (used > *allowed).then_some(EndedBy::Disk(used))
}

/// Bytes of the files in a directory and below it. What vanishes meanwhile does not count.
#[must_use]
pub fn bytes_in(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .map(|(path, metadata)| if metadata.is_dir() { bytes_in(&path) } else { metadata.len() })
        .sum()
}

fn kill_all(group: Option<&Group>, pid: Option<Pid>) {
    if let Some(group) = group {
        group.kill();
    }
    // A group of processes may be gone already.
    if let Some(pid) = pid {
        let _ = killpg(pid, Signal::SIGKILL);
    }
}

/// Everything that the child does to itself between fork and exec. Built before the fork, because after it only system
/// calls are safe.
struct Confinement {
    entrances: Vec<std::fs::File>,
    limits: Vec<(Resource, rlim_t)>,
    /// Capabilities to take out of the bounding set; empty where we may not.
    bounding: Vec<Capability>,
    user: ToolUser,
    bars: Bars,
    parent: Pid,
    nice: i32,
}

impl Confinement {
    fn of(invocation: &Invocation<'_>) -> io::Result<Confinement> {
        let capped = |resource: Resource, wish: rlim_t| -> io::Result<(Resource, rlim_t)> {
            let (_, hard) = getrlimit(resource)?;
            Ok((resource, wish.min(hard)))
        };
        let bars =
            invocation.cage.bars(invocation.program, invocation.user, Some(invocation.directory), &invocation.needs)?;
        // In a namespace of users there are all capabilities, to take away among them.
        let may_bound =
            bars.are_the_users() || caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).unwrap_or(false);
        let bounding = if bars.are_the_users() {
            caps::runtime::thread_all_supported()
        } else {
            caps::read(None, CapSet::Bounding).unwrap_or_default()
        };
        Ok(Confinement {
            entrances: invocation.group.map(Group::entrances).transpose()?.unwrap_or_default(),
            limits: vec![
                capped(Resource::RLIMIT_CORE, 0)?,
                capped(Resource::RLIMIT_NOFILE, invocation.open_files)?,
                capped(Resource::RLIMIT_FSIZE, invocation.file_bytes)?,
            ],
            bounding: if may_bound { bounding.into_iter().collect() } else { Vec::new() },
            user: invocation.user,
            bars,
            parent: nix::unistd::getpid(),
            nice: invocation.nice,
        })
    }

    /// Runs in the child. The order matters: cgroups, namespaces and capabilities need the rights that the change of user takes
    /// away, unless the namespaces are made by that user; the change of user clears the death signal; the bars keep the child from
    /// most of this, and are made ready with descriptors, of which the limits may leave none.
    fn apply(&mut self) -> io::Result<()> {
        for entrance in &self.entrances {
            nix::unistd::write(entrance, b"0")?;
        }
        nix::unistd::setsid()?;
        if self.nice > 0 {
            // SAFETY: a plain system call without pointers, about this process alone. Whoever may not be nicer is not: no reason to fail.
            let _ = unsafe { nix::libc::setpriority(nix::libc::PRIO_PROCESS, 0, self.nice) };
        }
        let is_the_users = self.bars.are_the_users();
        if is_the_users {
            self.user.take_over()?;
        }
        // Whoever stands for the tool dies with the worker as the tool does.
        self.die_with_the_worker()?;
        self.bars.part()?;
        for capability in &self.bounding {
            caps::drop(None, CapSet::Bounding, *capability).map_err(|_| io::ErrorKind::PermissionDenied)?;
        }
        if !is_the_users {
            self.user.take_over()?;
        }
        for set in [CapSet::Inheritable, CapSet::Permitted] {
            caps::clear(None, set).map_err(|_| io::ErrorKind::PermissionDenied)?;
        }
        nix::sys::prctl::set_no_new_privs()?;
        // Processes of its own die with the first of them.
        if !self.bars.hide_processes() {
            self.die_with_the_worker()?;
        }
        self.bars.close()?;
        for (resource, limit) in &self.limits {
            setrlimit(*resource, *limit, *limit)?;
        }
        Ok(())
    }

    fn die_with_the_worker(&self) -> io::Result<()> {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // A worker that died before the line above sends no signal any more.
        if nix::unistd::getppid() == self.parent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }
}

/// The tool as a command that confines itself before its program is loaded.
pub(crate) fn confined(invocation: &Invocation<'_>) -> io::Result<Command> {
    let mut confinement = Confinement::of(invocation)?;
    let mut command = Command::new(invocation.program);
    command
        .args(invocation.arguments)
        .current_dir(invocation.directory)
        .env_clear()
        .env("HOME", invocation.directory)
        .env("TMPDIR", invocation.directory)
        .env("LC_ALL", "C.UTF-8")
        .env("AV_LOG_FORCE_NOCOLOR", "1")
        // One encoder talks past FFmpeg's log: errors only.
        .env("SVT_LOG", "1")
        // GStreamer takes the list of plugins that the worker has made, and looks for no others.
        .env("GST_REGISTRY", crate::gstreamer::REGISTRY)
        .env("GST_REGISTRY_UPDATE", "no")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for name in ["PATH", "LD_LIBRARY_PATH"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    if invocation.needs.network.is_some() {
        // Both kinds of addresses at once would be asked for by a call that is not allowed.
        command.env("RES_OPTIONS", "single-request");
    }
    // SAFETY: the closure makes system calls on values that were built before the fork; it takes no lock and, unless a call
    // fails, allocates nothing.
    unsafe {
        command.pre_exec(move || confinement.apply());
    }
    Ok(command)
}

/// The tool's own process, which is not the one that was started where it has processes of its own.
fn the_tool(pid: Pid, invocation: &Invocation<'_>) -> Option<Pid> {
    if invocation.cage.hides_processes() { family::stood_for_by(pid) } else { Some(pid) }
}

/// The last lines of a log, within a bound.
#[derive(Debug, Default)]
struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Tail {
    fn push(&mut self, line: &str) {
        self.bytes += line.len();
        self.lines.push_back(line.to_owned());
        while self.bytes > LOG_KEPT_BYTES {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= oldest.len();
        }
    }
}

/// A pipe from the tool, cut into lines.
struct Pipe<R> {
    reader: Option<R>,
    chunk: Box<[u8; 8192]>,
    filled: usize,
    line: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Pipe<R> {
    fn new(reader: Option<R>) -> Pipe<R> {
        Pipe { reader, chunk: Box::new([0; 8192]), filled: 0, line: Vec::new() }
    }

    fn is_open(&self) -> bool {
        self.reader.is_some()
    }

    /// Whether something was read. Not at the pipe's end.
    async fn read(&mut self) -> bool {
        let Some(reader) = self.reader.as_mut() else { return false };
        match reader.read(&mut self.chunk[..]).await {
            Ok(0) | Err(_) => {
                self.reader = None;
                self.filled = 0;
                false
            }
            Ok(filled) => {
                self.filled = filled;
                true
            }
        }
    }

    /// The lines that the last reading completed. Longer ones than the bound are cut.
    fn lines(&mut self, mut each: impl FnMut(&str)) {
        for index in 0..self.filled {
            match self.chunk[index] {
                b'\n' | b'\r' => self.last_line(&mut each),
                byte if self.line.len() < LINE_BYTES => self.line.push(byte),
                _ => {}
            }
        }
        self.filled = 0;
    }

    /// What came after the last line's end.
    fn last_line(&mut self, mut each: impl FnMut(&str)) {
        if !self.line.is_empty() {
            each(&String::from_utf8_lossy(&self.line));
            self.line.clear();
        }
    }
}

/// A listener that keeps what the tool answers on its standard output.
#[derive(Debug, Default)]
pub struct Answer {
    /// The lines.
    pub text: String,
}

impl Listener for Answer {
    fn output(&mut self, line: &str) -> bool {
        if self.text.len() + line.len() < ANSWER_BYTES {
            self.text.push_str(line);
            self.text.push('\n');
        }
        true
    }

    fn log(&mut self, _: &str) {}
}
