//! What this worker uses now: the tools of its attempts and itself.
//!
//! Attempts that live in cgroups are counted by the cgroup around theirs, in which the kernel keeps the time of those that are gone,
//! and the worker beside it by its own entry in `/proc`. Attempts without cgroups are counted by the cgroup that the worker was
//! started in, if nobody else lives there.
//!
//! Invariants:
//! * processor time counts from the start of this process and only grows, whatever an earlier life left in the counters;
//! * nobody else's use is told for this worker's: what cannot be read, or is shared, is absent.
//!
//! Source: the kernel's cgroup-v2.rst (`cpu.stat`, `memory.current`, `memory.stat`), cgroup-v1/{cpuacct,memory}.rst, proc(5).

use std::fs;
use std::path::{Path, PathBuf};

use super::group::{Groups, is_family, keyed, number, processes};
use super::hierarchy::Hierarchy;

/// What is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InUse {
    /// Processor time since this process began, in microseconds.
    pub cpu_us: Option<u64>,
    /// Memory in bytes, without the part of the page cache that the kernel would give away at once: a worker reads and writes
    /// large files, and with that part every one of them would look full.
    pub memory_bytes: Option<u64>,
}

/// The directories in which a cgroup's use is counted, where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) is_v2: bool,
    pub(super) cpu: Option<PathBuf>,
    pub(super) memory: Option<PathBuf>,
}

impl Counters {
    fn cpu_us(&self) -> Option<u64> {
        let dir = self.cpu.as_ref()?;
        if self.is_v2 {
            keyed(&dir.join("cpu.stat"), "usage_usec")
        } else {
            number(&dir.join("cpuacct.usage")).map(|nanos| nanos / 1000)
        }
    }

    fn memory_bytes(&self) -> Option<u64> {
        let dir = self.memory.as_ref()?;
        let (all, cold) = match self.is_v2 {
            true => ("memory.current", "inactive_file"),
            false => ("memory.usage_in_bytes", "total_inactive_file"),
        };
        let cold = keyed(&dir.join("memory.stat"), cold).unwrap_or(0);
        number(&dir.join(all)).map(|all| all.saturating_sub(cold))
    }
}

/// Reads what this worker uses.
#[derive(Debug)]
pub struct InUseMeter {
    root: PathBuf,
    /// `None`: there is no cgroup that can be read and is ours alone.
    counters: Option<Counters>,
    /// Whether the worker itself lives outside of what is counted there.
    is_outside: bool,
    /// What the cgroup had used before this process opened the meter, in microseconds.
    before_us: u64,
}

impl InUseMeter {
    /// Finds what counts this worker's use, and begins to count.
    #[must_use]
    pub fn open(root: &Path, groups: Option<&Groups>) -> InUseMeter {
        let counters = groups.map_or_else(|| around_us(root), |groups| Some(groups.counters()));
        let before_us = counters.as_ref().and_then(Counters::cpu_us).unwrap_or(0);
        InUseMeter { root: root.to_owned(), counters, is_outside: groups.is_some(), before_us }
    }

    /// What is in use now.
    #[must_use]
    pub fn read(&self) -> InUse {
        let Some(counters) = &self.counters else { return InUse { cpu_us: None, memory_bytes: None } };
        let cpu_us = counters.cpu_us().map(|us| us.saturating_sub(self.before_us));
        let memory_bytes = counters.memory_bytes();
        if !self.is_outside {
            return InUse { cpu_us, memory_bytes };
        }
        InUse {
            cpu_us: cpu_us.zip(self.own_cpu_us()).map(|(tools, own)| tools + own),
            memory_bytes: memory_bytes.zip(self.own_memory_bytes()).map(|(tools, own)| tools + own),
        }
    }

    /// Processor time of this process with all its threads.
    fn own_cpu_us(&self) -> Option<u64> {
        let text = fs::read_to_string(self.root.join("proc/self/stat")).ok()?;
        // The name stands in brackets and may hold any of them; `utime` and `stime` are fields 14 and 15 of all, and it is the second.
        let (_, after) = text.rsplit_once(')')?;
        let mut ticks = after.split_whitespace().skip(11).map(str::parse::<u64>);
        let (user, kernel) = (ticks.next()?.ok()?, ticks.next()?.ok()?);
        Some((user + kernel).saturating_mul(1_000_000) / super::ticks_per_sec()?)
    }

    fn own_memory_bytes(&self) -> Option<u64> {
        let text = fs::read_to_string(self.root.join("proc/self/status")).ok()?;
        let resident = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        resident.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    }
}

/// The cgroups that this process was started in, those of them that nobody else lives in.
fn around_us(root: &Path) -> Option<Counters> {
    let hierarchy = Hierarchy::read(root).ok()?;
    let is_v2 = hierarchy.is_v2();
    let place = |controller: &str| if is_v2 { hierarchy.v2.as_ref() } else { hierarchy.v1.get(controller) };
    let ours =
        |controller: &str| place(controller).map(|place| place.own.clone()).filter(|own| is_ours(root, own, is_v2));
    let (cpu, memory) = (ours("cpuacct"), ours("memory"));
    (cpu.is_some() || memory.is_some()).then_some(Counters { is_v2, cpu, memory })
}

/// Whether a cgroup is not the machine, and has no processes but this one, its ancestors and its descendants.
fn is_ours(root: &Path, dir: &Path, is_v2: bool) -> bool {
    // Version 2 gives every cgroup but the true root a type, version 1 the root alone an agent.
    let is_machine = if is_v2 { !dir.join("cgroup.type").exists() } else { dir.join("release_agent").exists() };
    !is_machine && lives_alone(root, dir)
}

fn lives_alone(root: &Path, dir: &Path) -> bool {
    let Ok(below) = fs::read_dir(dir) else { return false };
    let mut below = below.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    processes(dir).into_iter().all(|pid| is_family(root, pid)) && below.all(|entry| lives_alone(root, &entry.path()))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::machine::group::{GroupLimits, PIDS_MAX};
    use crate::machine::hierarchy::tests::tree;

    const MIB: u64 = 1 << 20;

    fn write(root: &Path, path: &str, text: &str) {
        fs::write(root.join(path), text).unwrap();
    }

    /// A container whose cgroup can be read and not written, as version 2 shows it.
    fn container(processes: &str) -> tempfile::TempDir {
        tree(&[
            ("proc/self/cgroup", "0::/box\n"),
            ("proc/self/mountinfo", "30 23 0:26 / /cg rw - cgroup2 cgroup2 rw\n"),
            ("cg/box/cgroup.type", "domain\n"),
            ("cg/box/cgroup.procs", processes),
            ("cg/box/cpu.stat", "usage_usec 5000000\nuser_usec 1\n"),
            ("cg/box/memory.current", "104857600\n"),
            ("cg/box/memory.stat", "anon 1\nfile 2\ninactive_file 73400320\n"),
        ])
    }

    #[test]
    fn without_groups_the_cgroup_around_the_worker_tells_what_is_in_use_since_its_start() {
        let root = container(&format!("{}\n", nix::unistd::getpid()));
        let meter = InUseMeter::open(root.path(), None);
        assert_eq!(meter.read(), InUse { cpu_us: Some(0), memory_bytes: Some(30 * MIB) });
        write(root.path(), "cg/box/cpu.stat", "usage_usec 7500000\n");
        write(root.path(), "cg/box/memory.current", "83886080\n");
        assert_eq!(meter.read(), InUse { cpu_us: Some(2_500_000), memory_bytes: Some(10 * MIB) });
        fs::remove_file(root.path().join("cg/box/memory.current")).unwrap();
        assert_eq!(meter.read().memory_bytes, None, "what cannot be read is absent");
    }

    #[test]
    fn what_others_or_the_whole_machine_use_is_not_told() {
        const NOTHING: InUse = InUse { cpu_us: None, memory_bytes: None };
        let shared = container("999999999\n");
        assert_eq!(InUseMeter::open(shared.path(), None).read(), NOTHING);
        let own = format!("{}\n", nix::unistd::getpid());
        let below = container(&own);
        assert_ne!(InUseMeter::open(below.path(), None).read(), NOTHING);
        fs::create_dir(below.path().join("cg/box/other")).unwrap();
        write(below.path(), "cg/box/other/cgroup.procs", "999999999\n");
        assert_eq!(InUseMeter::open(below.path(), None).read(), NOTHING, "somebody lives below");
        let machine = container(&own);
        fs::remove_file(machine.path().join("cg/box/cgroup.type")).unwrap();
        assert_eq!(InUseMeter::open(machine.path(), None).read(), NOTHING, "the true root is the machine");
        let nowhere = tree(&[("proc/self/cgroup", ""), ("proc/self/mountinfo", "")]);
        assert_eq!(InUseMeter::open(nowhere.path(), None).read(), NOTHING);
    }

    #[test]
    fn version_1_is_read_through_its_own_controllers() {
        let own = format!("{}\n", nix::unistd::getpid());
        let root = tree(&[
            ("proc/self/cgroup", "4:memory:/box\n2:cpu,cpuacct:/\n"),
            (
                "proc/self/mountinfo",
                "1 0 0:1 / /cg/cpu rw - cgroup cgroup rw,cpu,cpuacct\n2 0 0:2 / /cg/memory rw - cgroup cgroup rw,memory\n",
            ),
            ("cg/cpu/cgroup.procs", &own),
            ("cg/cpu/cpuacct.usage", "3000000000\n"),
            ("cg/cpu/release_agent", "\n"),
            ("cg/memory/box/cgroup.procs", &own),
            ("cg/memory/box/memory.usage_in_bytes", "31457280\n"),
            ("cg/memory/box/memory.stat", "inactive_file 1\ntotal_inactive_file 10485760\n"),
        ]);
        let in_use = InUseMeter::open(root.path(), None).read();
        assert_eq!(in_use, InUse { cpu_us: None, memory_bytes: Some(20 * MIB) }, "its processors' root is the machine");
        fs::remove_file(root.path().join("cg/cpu/release_agent")).unwrap();
        let meter = InUseMeter::open(root.path(), None);
        write(root.path(), "cg/cpu/cpuacct.usage", "3500000000\n");
        assert_eq!(meter.read().cpu_us, Some(500_000));
    }

    #[test]
    fn a_name_with_brackets_does_not_move_the_fields_of_this_process() {
        let root = tree(&[
            ("proc/self/stat", "7 (a) (b c) S 1 7 7 0 -1 4194304 9 8 7 6 150 50 90 90 20 0 1 0 5\n"),
            ("proc/self/status", "Name:\tw\nVmHWM:\t 9 kB\nVmRSS:\t    2048 kB\n"),
        ]);
        let meter = InUseMeter::open(root.path(), None);
        let ticks = super::super::ticks_per_sec().unwrap();
        assert_eq!(meter.own_cpu_us(), Some(200 * 1_000_000 / ticks));
        assert_eq!(meter.own_memory_bytes(), Some(2 * MIB));
    }

    #[tokio::test]
    async fn a_real_group_is_counted_with_the_worker_while_it_runs_and_after_it_is_gone() {
        let name = format!("unit-test-in-use-{}", std::process::id());
        let groups = Groups::open(Path::new("/"), &name, None)
            .unwrap_or_else(|why| panic!("this test needs root or a delegated cgroup: {why}"));
        let meter = InUseMeter::open(Path::new("/"), Some(&groups));
        let limits = GroupLimits { cpu_percent: Some(100), memory_bytes: 512 * MIB, pids: PIDS_MAX };
        let group = groups.create("job.1", &limits).unwrap();
        let idle = meter.read();
        assert!(idle.cpu_us.is_some() && idle.memory_bytes.is_some_and(|bytes| bytes > MIB), "{idle:?}");

        // Waits until it is let in, then holds 32 MiB and works for ever.
        let holds = "read -r go; held=$(head -c 33554432 /dev/zero | tr '\\0' x); while :; do :; done";
        let mut child = std::process::Command::new("sh")
            .args(["-c", holds])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("a shell can be run");
        for mut entrance in group.entrances().unwrap() {
            std::io::Write::write_all(&mut entrance, child.id().to_string().as_bytes()).unwrap();
        }
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"go\n").unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        let busy = loop {
            let now = meter.read();
            let (cpu_us, memory) = (now.cpu_us.unwrap() - idle.cpu_us.unwrap(), now.memory_bytes.unwrap());
            if cpu_us > 500_000 && memory > idle.memory_bytes.unwrap() + 30 * MIB {
                break now;
            }
            assert!(Instant::now() < until, "{now:?} after {idle:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        group.end().await.unwrap();
        let _ = child.wait();
        let after = meter.read();
        assert!(after.cpu_us >= busy.cpu_us, "the time of those that are gone stays counted: {after:?} after {busy:?}");
        let second = InUseMeter::open(Path::new("/"), Some(&groups)).read();
        assert!(second.cpu_us.unwrap() < after.cpu_us.unwrap(), "what was before the start does not count: {second:?}");
    }
}
