//! One cgroup for each attempt, on version 2 or on version 1: limits that hold, use that is counted, a freeze that stops
//! every process at once, and an end that leaves nothing behind.
//!
//! Invariant: every group lies in `ffpool/<worker>` below one parent, and only the worker of that name makes or removes
//! anything there. Written straight to the kernel's files: what is needed are a dozen of them, several (`cgroup.kill`,
//! `memory.events`, `memory.peak`) have no library, and tests can lay the files out themselves.
//! Source: the kernel's cgroup-v2.rst and cgroup-v1/{memory,cpuacct,pids,freezer-subsystem}.rst.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::hierarchy::{Hierarchy, Place};
use super::usage::Counters;

/// Processes and threads of one attempt at most: encoders start a few dozen threads.
pub const PIDS_MAX: u64 = 512;
/// Period over which processor time is dealt out, in microseconds: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;
/// The weight of a thread on version 1: the kernel's default.
const V1_SHARES: usize = 1024;
/// How long killed processes may take to be gone, and a group to become removable.
const END_WAIT: Duration = Duration::from_secs(5);
const END_POLL: Duration = Duration::from_millis(10);
/// The controllers that limits need.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// How often the list of processes is gone through when they move.
const MOVE_ROUNDS: u32 = 3;
/// Where the worker itself moves on version 2: a cgroup with processes cannot hand controllers to its children.
const SUPERVISOR: &str = "supervisor";

/// What a group may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupLimits {
    /// Processor time in percent of one core; absent: all there is.
    pub cpu_percent: Option<u32>,
    /// Memory in bytes, without swap.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// What a group has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GroupUsage {
    /// Processor time in microseconds.
    pub cpu_us: u64,
    /// Largest memory in bytes, where the kernel tells.
    pub peak_memory_bytes: Option<u64>,
    /// Processes that the kernel killed for memory.
    pub oom_kills: u64,
    /// Processes and threads that the kernel refused to start, because there were too many.
    pub refused_forks: u64,
}

/// The directories of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Dirs {
    V2(PathBuf),
    V1 {
        cpu: PathBuf,
        memory: PathBuf,
        pids: PathBuf,
        /// Counts processor time; often the same directory as `cpu`.
        cpuacct: Option<PathBuf>,
        /// Stops processes; without it signals do.
        freezer: Option<PathBuf>,
    },
}

impl Dirs {
    fn join(&self, name: &str) -> Dirs {
        match self {
            Dirs::V2(dir) => Dirs::V2(dir.join(name)),
            Dirs::V1 { cpu, memory, pids, cpuacct, freezer } => Dirs::V1 {
                cpu: cpu.join(name),
                memory: memory.join(name),
                pids: pids.join(name),
                cpuacct: cpuacct.as_ref().map(|dir| dir.join(name)),
                freezer: freezer.as_ref().map(|dir| dir.join(name)),
            },
        }
    }

    /// Each directory once.
    fn all(&self) -> Vec<&Path> {
        match self {
            Dirs::V2(dir) => vec![dir],
            Dirs::V1 { cpu, memory, pids, cpuacct, freezer } => {
                let mut dirs: Vec<&Path> = vec![cpu, memory, pids];
                dirs.extend(cpuacct.as_deref());
                dirs.extend(freezer.as_deref());
                dirs.sort_unstable();
                dirs.dedup();
                dirs
            }
        }
    }

    /// The directory whose list of processes stands for all: a process enters every one of them.
    fn roll(&self) -> &Path {
        match self {
            Dirs::V2(dir) => dir,
            Dirs::V1 { pids, .. } => pids,
        }
    }

    /// Everybody in any of the directories: whoever is in one only, because its worker died while it entered or left, is
    /// ours no less.
    fn members(&self) -> BTreeSet<Pid> {
        self.all().into_iter().flat_map(processes).collect()
    }

    /// Makes the directories; those that exist already are taken.
    fn create(&self) -> io::Result<()> {
        self.all().into_iter().try_for_each(fs::create_dir_all)
    }

    fn remove(&self) -> io::Result<()> {
        for dir in self.all() {
            match fs::remove_dir(dir) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn limit(&self, limits: &GroupLimits) -> io::Result<()> {
        let quota = limits.cpu_percent.map(|percent| u64::from(percent.max(1)) * CPU_PERIOD_US / 100);
        let memory = limits.memory_bytes.to_string();
        match self {
            Dirs::V2(dir) => {
                let quota = quota.map_or("max".to_owned(), |quota| quota.to_string());
                fs::write(dir.join("cpu.max"), format!("{quota} {CPU_PERIOD_US}"))?;
                fs::write(dir.join("memory.max"), memory)?;
                write_if_there(&dir.join("memory.swap.max"), "0")?;
                // One process of an attempt alone is of no use: they die together, and are counted.
                write_if_there(&dir.join("memory.oom.group"), "1")?;
                fs::write(dir.join("pids.max"), limits.pids.to_string())
            }
            Dirs::V1 { cpu, memory: memory_dir, pids, cpuacct: _, freezer: _ } => {
                if let Some(quota) = quota {
                    fs::write(cpu.join("cpu.cfs_period_us"), CPU_PERIOD_US.to_string())?;
                    match fs::write(cpu.join("cpu.cfs_quota_us"), quota.to_string()) {
                        // More than a cgroup above may use: that one's quota holds, as it does on version 2 unasked.
                        Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => {}
                        written => written?,
                    }
                }
                fs::write(memory_dir.join("memory.limit_in_bytes"), &memory)?;
                // Memory and swap together, so that there is no swap. It may not be under the limit above: written after.
                write_if_there(&memory_dir.join("memory.memsw.limit_in_bytes"), &memory)?;
                fs::write(pids.join("pids.max"), limits.pids.to_string())
            }
        }
    }

    fn usage(&self) -> GroupUsage {
        match self {
            Dirs::V2(dir) => GroupUsage {
                cpu_us: keyed(&dir.join("cpu.stat"), "usage_usec").unwrap_or(0),
                peak_memory_bytes: number(&dir.join("memory.peak")),
                oom_kills: keyed(&dir.join("memory.events"), "oom_kill").unwrap_or(0),
                refused_forks: keyed(&dir.join("pids.events"), "max").unwrap_or(0),
            },
            Dirs::V1 { memory, cpuacct, pids, .. } => GroupUsage {
                cpu_us: cpuacct.as_ref().and_then(|dir| number(&dir.join("cpuacct.usage"))).unwrap_or(0) / 1000,
                peak_memory_bytes: number(&memory.join("memory.max_usage_in_bytes")),
                oom_kills: keyed(&memory.join("memory.oom_control"), "oom_kill").unwrap_or(0),
                refused_forks: keyed(&pids.join("pids.events"), "max").unwrap_or(0),
            },
        }
    }

    /// Where its use is counted.
    fn counters(&self) -> Counters {
        match self {
            Dirs::V2(dir) => Counters { is_v2: true, cpu: Some(dir.clone()), memory: Some(dir.clone()) },
            Dirs::V1 { memory, cpuacct, .. } => {
                Counters { is_v2: false, cpu: cpuacct.clone(), memory: Some(memory.clone()) }
            }
        }
    }

    /// Stops every process where it is, or lets them go on. May be repeated: on version 1 a freeze that met a process in
    /// the kernel's hands is completed by the next one.
    fn set_frozen(&self, frozen: bool) -> io::Result<()> {
        let by_kernel = match self {
            Dirs::V2(dir) => write_if_there(&dir.join("cgroup.freeze"), if frozen { "1" } else { "0" })?,
            Dirs::V1 { freezer: Some(dir), .. } => {
                write_if_there(&dir.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" })?
            }
            Dirs::V1 { freezer: None, .. } => false,
        };
        if !by_kernel {
            let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
            for pid in self.members() {
                let _ = kill(pid, signal);
            }
        }
        Ok(())
    }

    /// Sends every process to its end, the frozen ones too.
    fn kill(&self) {
        self.kill_members();
        // On version 1 a frozen process dies only when it may run again. On both the next tool must find the group thawed.
        let _ = self.set_frozen(false);
    }

    /// Version 2 has one file for it from Linux 5.14 on; elsewhere nobody may be born while we go down the list.
    fn kill_members(&self) {
        if let Dirs::V2(dir) = self
            && write_if_there(&dir.join("cgroup.kill"), "1").is_ok_and(|there| there)
        {
            return;
        }
        let limit = self.roll().join("pids.max");
        let before = fs::read_to_string(&limit);
        let _ = write_if_there(&limit, "0");
        for pid in self.members() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        // The next tool of the attempt lives in the same group.
        if let Ok(before) = before {
            let _ = fs::write(&limit, before.trim());
        }
    }

    /// Kills everybody, waits until they are gone, removes the directories.
    async fn end(&self) -> io::Result<()> {
        let until = Instant::now() + END_WAIT;
        loop {
            let gone = if !self.members().is_empty() {
                self.kill();
                Err(io::Error::other(format!("processes stay in {}", self.roll().display())))
            } else {
                self.remove()
            };
            match gone {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= until => return Err(error),
                Err(_) => tokio::time::sleep(END_POLL).await,
            }
        }
    }
}

/// Where a worker's groups are made.
#[derive(Debug)]
pub struct Groups {
    base: Dirs,
    /// Held for life: whoever sweeps the base must be the only one of its name.
    _lock: File,
}

impl Groups {
    /// Finds or prepares the parent of this worker's groups and tries one out. `parent` is a cgroup's path within its
    /// hierarchy; absent, it is this process's own cgroup.
    ///
    /// # Errors
    /// Why no groups can be made, in words.
    pub fn open(root: &Path, worker: &str, parent: Option<&Path>) -> Result<Groups, String> {
        let hierarchy = Hierarchy::read(root).map_err(|error| format!("/proc/self/cgroup cannot be read: {error}"))?;
        let base = if hierarchy.is_v2() {
            let place = hierarchy.v2.ok_or("no cgroup hierarchy is mounted")?;
            Dirs::V2(prepare_v2(root, &place, parent, worker)?)
        } else {
            v1_dirs(&hierarchy, parent, worker)?
        };
        let refused = |error: io::Error| {
            format!(
                "cgroups cannot be made in {} ({error}): run the worker as root, or under systemd with Delegate=yes",
                base.roll().display()
            )
        };
        base.create().map_err(refused)?;
        let lock = File::open(base.roll()).map_err(refused)?;
        if lock.try_lock().is_err() {
            return Err(format!("another worker named {worker} runs on this machine: give each a name of its own"));
        }
        try_out(&base).map_err(refused)?;
        weigh(&base);
        Ok(Groups { base, _lock: lock })
    }

    /// Ends what an earlier life of this worker left.
    pub async fn sweep(&self) {
        // Of a group that was being removed when its worker died, only some controllers' directories may be left.
        let entries = self.base.all().into_iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
        let names: BTreeSet<String> = entries
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        for name in names {
            tracing::info!(group = name, "ending a cgroup that an earlier life left");
            if let Err(error) = self.base.join(&name).end().await {
                tracing::warn!(group = name, %error, "cannot end a cgroup that an earlier life left");
            }
        }
    }

    /// Where the use of all its groups together is counted, those that are gone included.
    pub(super) fn counters(&self) -> Counters {
        self.base.counters()
    }

    /// A group for one attempt.
    ///
    /// # Errors
    /// When the kernel does not take it or its limits.
    pub fn create(&self, name: &str, limits: &GroupLimits) -> io::Result<Group> {
        let group = Group { dirs: self.base.join(name), removed: false };
        group.dirs.create()?;
        group.dirs.limit(limits)?;
        Ok(group)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        // Goes only where it is empty: of `ffpool`, when no other worker is left in it.
        for dir in self.base.all() {
            let _ = fs::remove_dir(dir);
            let _ = dir.parent().map(fs::remove_dir);
        }
    }
}

/// One attempt's cgroup. Dropping it kills what is in it.
#[derive(Debug)]
pub struct Group {
    dirs: Dirs,
    removed: bool,
}

impl Group {
    /// The files into which a process writes `0` to enter, opened.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub fn entrances(&self) -> io::Result<Vec<File>> {
        self.dirs.all().into_iter().map(|dir| File::options().write(true).open(dir.join("cgroup.procs"))).collect()
    }

    /// What the group has used so far.
    #[must_use]
    pub fn usage(&self) -> GroupUsage {
        self.dirs.usage()
    }

    /// Stops everybody in it where they are, or lets them go on. May be repeated.
    ///
    /// # Errors
    /// When the kernel does not do it.
    pub fn set_frozen(&self, frozen: bool) -> io::Result<()> {
        self.dirs.set_frozen(frozen)
    }

    /// Kills everybody in it, and asks that all be gone soon.
    pub fn kill(&self) {
        self.dirs.kill();
    }

    /// The processes in it.
    #[must_use]
    pub fn members(&self) -> Vec<Pid> {
        self.dirs.members().into_iter().collect()
    }

    /// Kills everybody in it and removes it.
    ///
    /// # Errors
    /// When processes or the group itself stay.
    pub async fn end(mut self) -> io::Result<()> {
        let ended = self.dirs.end().await;
        self.removed = ended.is_ok();
        ended
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What cannot be removed at once is removed when the worker starts next.
        if !self.removed {
            self.dirs.kill();
            let _ = self.dirs.remove();
        }
    }
}

/// On version 1 all attempts together would weigh no more than any single thread beside them: they weigh as one for each
/// processor. On version 2 nothing but the worker itself is beside them, and it must not starve.
fn weigh(base: &Dirs) {
    if let Dirs::V1 { cpu, .. } = base {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        for dir in cpu.ancestors().take(2) {
            let _ = write_if_there(&dir.join("cpu.shares"), &(V1_SHARES * processors).to_string());
        }
    }
}

/// Makes a group with limits and removes it.
fn try_out(base: &Dirs) -> io::Result<()> {
    let trial = base.join("trial");
    let limits = GroupLimits { cpu_percent: Some(100), memory_bytes: 1 << 30, pids: PIDS_MAX };
    let made = trial.create().and_then(|()| trial.limit(&limits));
    let _ = trial.remove();
    made
}

fn v1_dirs(hierarchy: &Hierarchy, parent: Option<&Path>, worker: &str) -> Result<Dirs, String> {
    let dir = |controller: &str| {
        hierarchy.v1.get(controller).map(|place| parent_dir(place, parent).join("ffpool").join(worker))
    };
    let need = |controller: &str| dir(controller).ok_or_else(|| format!("the {controller} controller is not mounted"));
    Ok(Dirs::V1 {
        cpu: need("cpu")?,
        memory: need("memory")?,
        pids: need("pids")?,
        cpuacct: dir("cpuacct"),
        freezer: dir("freezer"),
    })
}

fn parent_dir(place: &Place, parent: Option<&Path>) -> PathBuf {
    match parent {
        None => place.own.clone(),
        Some(parent) => {
            let below = parent.strip_prefix(&place.top).or_else(|_| parent.strip_prefix("/")).unwrap_or(parent);
            place.top.join(below)
        }
    }
}

/// Makes a directory on version 2 whose children have the controllers.
fn prepare_v2(root: &Path, place: &Place, parent: Option<&Path>, worker: &str) -> Result<PathBuf, String> {
    let holder = match parent {
        Some(_) => parent_dir(place, parent),
        None => own_v2(root, place)?,
    };
    let base = holder.join("ffpool").join(worker);
    fs::create_dir_all(&base).map_err(|error| format!("{} cannot be made: {error}", base.display()))?;
    for dir in [holder.as_path(), &holder.join("ffpool"), &base] {
        hand_down(dir)?;
    }
    Ok(base)
}

/// This process's own cgroup, emptied of processes so that it may have children with controllers.
fn own_v2(root: &Path, place: &Place) -> Result<PathBuf, String> {
    let own = &place.own;
    // Only the true root may have processes beside children; it has no type.
    if !own.join("cgroup.type").exists() {
        return Ok(own.clone());
    }
    if own.file_name().is_some_and(|name| name == SUPERVISOR) && own != &place.top {
        return Ok(own.parent().unwrap_or(own).to_owned());
    }
    if processes(own).into_iter().any(|pid| !is_family(root, pid)) {
        // A login session, say: others live here too, and it is not ours to rearrange. Without a limit of its own nothing is
        // escaped by going under the top instead.
        let unlimited = |file: &str| fs::read_to_string(own.join(file)).is_ok_and(|text| text.starts_with("max"));
        if own != &place.top && unlimited("cpu.max") && unlimited("memory.max") {
            return Ok(place.top.clone());
        }
        return Err(format!(
            "{} has processes of others: set cgroup_parent, or run under systemd with Delegate=yes",
            own.display()
        ));
    }
    move_to_leaf(own)?;
    Ok(own.clone())
}

/// Moves every process of a cgroup to a leaf below it. Those born meanwhile are found in a second round.
fn move_to_leaf(own: &Path) -> Result<(), String> {
    let leaf = own.join(SUPERVISOR);
    fs::create_dir_all(&leaf).map_err(|error| {
        format!("{} cannot be made ({error}): run the worker under systemd with Delegate=yes", leaf.display())
    })?;
    for _ in 0..MOVE_ROUNDS {
        for pid in processes(own) {
            match fs::write(leaf.join("cgroup.procs"), pid.to_string()) {
                Ok(()) => {}
                // It ended meanwhile.
                Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => {}
                Err(error) => return Err(format!("process {pid} cannot be moved to {}: {error}", leaf.display())),
            }
        }
    }
    Ok(())
}

fn hand_down(dir: &Path) -> Result<(), String> {
    let have = fs::read_to_string(dir.join("cgroup.controllers"))
        .map_err(|error| format!("the controllers of {} cannot be read: {error}", dir.display()))?;
    let missing: Vec<&str> =
        CONTROLLERS.into_iter().filter(|name| !have.split_whitespace().any(|known| known == *name)).collect();
    if !missing.is_empty() {
        return Err(format!(
            "{} lacks the controllers {}: run the worker under systemd with Delegate=yes",
            dir.display(),
            missing.join(", ")
        ));
    }
    fs::write(dir.join("cgroup.subtree_control"), "+cpu +memory +pids").map_err(|error| {
        format!(
            "{} cannot hand its controllers down ({error}): run the worker under systemd with Delegate=yes",
            dir.display()
        )
    })
}

/// Whether a process is this one, one of its ancestors, or one of its descendants.
pub(super) fn is_family(root: &Path, pid: Pid) -> bool {
    let own = nix::unistd::getpid();
    let line = |from: Pid| std::iter::successors(Some(from), |pid| parent_of(root, *pid));
    line(own).any(|ancestor| ancestor == pid) || line(pid).any(|ancestor| ancestor == own)
}

fn parent_of(root: &Path, pid: Pid) -> Option<Pid> {
    let status = fs::read_to_string(root.join(format!("proc/{pid}/status"))).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()?;
    (parent > 0).then(|| Pid::from_raw(parent))
}

pub(super) fn processes(dir: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    // 0 stands for a process outside our pid namespace: not ours to touch, and as a target of kill it would be ourselves.
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).map(Pid::from_raw).collect()
}

/// Whether the file is there, after writing to it if it is.
fn write_if_there(path: &Path, text: &str) -> io::Result<bool> {
    if !path.exists() {
        return Ok(false);
    }
    fs::write(path, text).map(|()| true)
}

/// A file that holds one number.
pub(super) fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The number behind `key` in a file of `key value` lines.
pub(super) fn keyed(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::hierarchy::tests::tree;

    const LIMITS: GroupLimits = GroupLimits { cpu_percent: Some(50), memory_bytes: 64 << 20, pids: 512 };

    fn read(path: PathBuf) -> String {
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// A unified hierarchy with a unit of its own, laid out in files.
    fn delegated() -> tempfile::TempDir {
        let own = nix::unistd::getpid().to_string();
        tree(&[
            ("proc/self/cgroup", "0::/unit\n"),
            ("proc/self/mountinfo", "30 23 0:26 / /cg rw - cgroup2 cgroup2 rw\n"),
            ("cg/unit/cgroup.type", "domain\n"),
            ("cg/unit/cgroup.procs", &own),
            ("cg/unit/cgroup.controllers", "cpuset cpu io memory pids\n"),
            ("cg/unit/ffpool/cgroup.controllers", "cpu memory pids\n"),
            ("cg/unit/ffpool/w1/cgroup.controllers", "cpu memory pids\n"),
            ("cg/unit/ffpool/w1/a.1/memory.swap.max", "max\n"),
            ("cg/unit/ffpool/w1/a.1/memory.events", "oom 3\noom_kill 2\noom_group_kill 1\n"),
            ("cg/unit/ffpool/w1/a.1/pids.events", "max 3\n"),
            ("cg/unit/ffpool/w1/a.1/cpu.stat", "usage_usec 1500000\nuser_usec 1\n"),
            ("cg/unit/ffpool/w1/a.1/memory.peak", "4096\n"),
        ])
    }

    #[test]
    fn a_delegated_unit_gets_a_supervisor_and_groups_with_limits() {
        let root = delegated();
        let groups = Groups::open(root.path(), "w1", None).unwrap();
        let unit = root.path().join("cg/unit");
        assert_eq!(read(unit.join("supervisor/cgroup.procs")), nix::unistd::getpid().to_string());
        for dir in [unit.clone(), unit.join("ffpool"), unit.join("ffpool/w1")] {
            assert_eq!(read(dir.join("cgroup.subtree_control")), "+cpu +memory +pids");
        }
        let group = groups.create("a.1", &LIMITS).unwrap();
        let dir = unit.join("ffpool/w1/a.1");
        assert_eq!(read(dir.join("cpu.max")), "50000 100000");
        assert_eq!(read(dir.join("memory.max")), "67108864");
        assert_eq!(read(dir.join("memory.swap.max")), "0");
        assert_eq!(read(dir.join("pids.max")), "512");
        assert_eq!(
            group.usage(),
            GroupUsage { cpu_us: 1_500_000, peak_memory_bytes: Some(4096), oom_kills: 2, refused_forks: 3 }
        );
    }

    #[test]
    fn a_unit_without_delegated_controllers_says_so() {
        let root = delegated();
        fs::write(root.path().join("cg/unit/cgroup.controllers"), "pids\n").unwrap();
        let why = Groups::open(root.path(), "w1", None).unwrap_err();
        assert!(why.contains("lacks the controllers cpu, memory") && why.contains("Delegate=yes"), "{why}");
    }

    #[test]
    fn a_session_shared_with_strangers_is_left_as_it_is() {
        let root = delegated();
        let unit = root.path().join("cg/unit");
        fs::write(unit.join("cgroup.procs"), "999999999\n").unwrap();
        fs::write(unit.join("cpu.max"), "200000 100000\n").unwrap();
        let why = Groups::open(root.path(), "w1", None).unwrap_err();
        assert!(why.contains("processes of others"), "{why}");

        fs::write(unit.join("cpu.max"), "max 100000\n").unwrap();
        fs::write(unit.join("memory.max"), "max\n").unwrap();
        for dir in ["cg", "cg/ffpool", "cg/ffpool/w1"] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
            fs::write(root.path().join(dir).join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        }
        let groups = Groups::open(root.path(), "w1", None).unwrap();
        assert_eq!(groups.base, Dirs::V2(root.path().join("cg/ffpool/w1")));
        assert!(!unit.join("supervisor").exists());
    }

    #[tokio::test]
    async fn a_real_group_limits_counts_and_is_gone_afterwards() {
        let name = format!("unit-test-groups-{}", std::process::id());
        let groups = Groups::open(Path::new("/"), &name, None)
            .unwrap_or_else(|why| panic!("this test needs root or a delegated cgroup: {why}"));
        let second = Groups::open(Path::new("/"), &name, None).unwrap_err();
        assert!(second.contains(&format!("another worker named {name}")), "{second}");
        let group = groups.create("job.1", &LIMITS).unwrap();
        let dirs = group.dirs.clone();
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        for mut entrance in group.entrances().unwrap() {
            io::Write::write_all(&mut entrance, child.id().to_string().as_bytes()).unwrap();
        }
        assert_eq!(group.members(), [Pid::from_raw(child.id().cast_signed())]);
        group.set_frozen(true).unwrap();
        group.kill();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(9));
        group.end().await.unwrap();
        assert!(dirs.all().iter().all(|dir| !dir.exists()), "{dirs:?}");
    }
}
