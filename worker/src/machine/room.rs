//! How much this worker may use, read from its own cgroup and machine.
//!
//! Invariant: of nested limits the smallest holds.

use std::io;
use std::path::Path;

use ffpool_schema::capacity::Room;

use super::hierarchy::{Hierarchy, Place};

const MIB: u64 = 1024 * 1024;
/// Kernels write "no limit" of version 1 as the largest page-aligned number: anything near it is no limit.
const NO_LIMIT: u64 = 1 << 60;

/// Reads the limits in force on this process, and the free space where `scratch` lies.
///
/// # Errors
/// When the process's own entries or the scratch cannot be read.
pub fn read_room(root: &Path, scratch: &Path) -> io::Result<Room> {
    let affinity = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0))?;
    let cpus = (0..nix::sched::CpuSet::count()).filter(|cpu| affinity.is_set(*cpu).unwrap_or(false)).count();
    let space = nix::sys::statvfs::statvfs(scratch)?;
    let free = space.blocks_available().saturating_mul(space.fragment_size());
    from_limits(root, cpus, free)
}

fn from_limits(root: &Path, cpus: usize, free_bytes: u64) -> io::Result<Room> {
    let hierarchy = Hierarchy::read(root)?;
    let memory = std::fs::read_to_string(root.join("proc/meminfo"))?;
    let total = total_memory(&memory).ok_or_else(|| io::Error::other("no MemTotal in /proc/meminfo"))?;
    let cpus = cpus.min(cpuset(&hierarchy).unwrap_or(usize::MAX)).max(1);
    let whole = u32::try_from(cpus).unwrap_or(u32::MAX).saturating_mul(100);
    Ok(Room {
        cpu_percent: quota_percent(&hierarchy).map_or(whole, |quota| quota.min(whole)).max(1),
        memory_mb: memory_limit(&hierarchy).map_or(total, |limit| limit.min(total)) / MIB,
        disk_mb: free_bytes / MIB,
    })
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The smallest value over a cgroup and all above it.
fn smallest<T: Ord>(place: Option<&Place>, value: impl Fn(&Path) -> Option<T>) -> Option<T> {
    place?.lineage().filter_map(value).min()
}

fn quota_percent(hierarchy: &Hierarchy) -> Option<u32> {
    let percent = |quota: u64, period: u64| u32::try_from((quota * 100).checked_div(period)?).ok();
    if hierarchy.is_v2() {
        return smallest(hierarchy.v2.as_ref(), |dir| {
            let text = std::fs::read_to_string(dir.join("cpu.max")).ok()?;
            let (quota, period) = text.trim().split_once(' ')?;
            percent(quota.parse().ok()?, period.parse().ok()?)
        });
    }
    smallest(hierarchy.v1.get("cpu"), |dir| {
        percent(number(&dir.join("cpu.cfs_quota_us"))?, number(&dir.join("cpu.cfs_period_us"))?)
    })
}

fn memory_limit(hierarchy: &Hierarchy) -> Option<u64> {
    let limit = |path: &Path| number(path).filter(|bytes| *bytes < NO_LIMIT);
    if hierarchy.is_v2() {
        return smallest(hierarchy.v2.as_ref(), |dir| {
            [limit(&dir.join("memory.max")), limit(&dir.join("memory.high"))].into_iter().flatten().min()
        });
    }
    smallest(hierarchy.v1.get("memory"), |dir| limit(&dir.join("memory.limit_in_bytes")))
}

fn cpuset(hierarchy: &Hierarchy) -> Option<usize> {
    let (place, file) = if hierarchy.is_v2() {
        (hierarchy.v2.as_ref(), "cpuset.cpus.effective")
    } else {
        (hierarchy.v1.get("cpuset"), "cpuset.effective_cpus")
    };
    smallest(place, |dir| list_len(&std::fs::read_to_string(dir.join(file)).ok()?))
}

/// A file that holds one number. `max`, and the -1 of version 1, are no numbers.
fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Members of a list such as `0-3,8`. An empty list says nothing.
fn list_len(text: &str) -> Option<usize> {
    let mut count = 0;
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        count += (last + 1).checked_sub(first)?;
    }
    (count > 0).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::hierarchy::tests::tree;

    const V2: (&str, &str) = ("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    const MEMORY: (&str, &str) = ("proc/meminfo", "MemTotal:       16777216 kB\nMemFree: 1 kB\n");

    fn room(files: &[(&str, &str)], cpus: usize) -> Room {
        from_limits(tree(files).path(), cpus, 100_000 * MIB).unwrap()
    }

    #[test]
    fn the_smallest_of_nested_limits_holds() {
        let room = room(
            &[
                V2,
                MEMORY,
                ("proc/self/cgroup", "0::/pod/box\n"),
                ("sys/fs/cgroup/pod/cpu.max", "150000 100000\n"),
                ("sys/fs/cgroup/pod/memory.max", "4294967296\n"),
                ("sys/fs/cgroup/pod/box/cpu.max", "max 100000\n"),
                ("sys/fs/cgroup/pod/box/memory.max", "8589934592\n"),
                ("sys/fs/cgroup/pod/box/memory.high", "max\n"),
            ],
            8,
        );
        assert_eq!(room, Room { cpu_percent: 150, memory_mb: 4096, disk_mb: 100_000 });
    }

    #[test]
    fn without_limits_the_machine_is_the_limit() {
        let files = [V2, MEMORY, ("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/cgroup.procs", "")];
        assert_eq!(room(&files, 8), Room { cpu_percent: 800, memory_mb: 16384, disk_mb: 100_000 });
    }

    #[test]
    fn a_cpuset_bounds_the_processors() {
        let files = [V2, MEMORY, ("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/cpuset.cpus.effective", "0-1,6\n")];
        assert_eq!(room(&files, 8).cpu_percent, 300);
    }

    #[test]
    fn version_1_limits_are_read_through_their_own_controllers() {
        let room = room(
            &[
                MEMORY,
                ("proc/self/cgroup", "4:memory:/box\n2:cpu:/box\n3:cpuset:/\n"),
                (
                    "proc/self/mountinfo",
                    "1 0 0:1 / /cg/cpu rw - cgroup cgroup rw,cpu\n2 0 0:2 / /cg/memory rw - cgroup cgroup rw,memory\n\
                     3 0 0:3 / /cg/cpuset rw - cgroup cgroup rw,cpuset\n",
                ),
                ("cg/cpu/cpu.cfs_quota_us", "-1\n"),
                ("cg/cpu/cpu.cfs_period_us", "100000\n"),
                ("cg/cpu/box/cpu.cfs_quota_us", "50000\n"),
                ("cg/cpu/box/cpu.cfs_period_us", "100000\n"),
                ("cg/memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ("cg/memory/box/memory.limit_in_bytes", "536870912\n"),
                ("cg/cpuset/cpuset.effective_cpus", "0-3\n"),
            ],
            8,
        );
        assert_eq!(room, Room { cpu_percent: 50, memory_mb: 512, disk_mb: 100_000 });
    }

    #[test]
    fn this_machine_reads() {
        let room = read_room(Path::new("/"), &std::env::temp_dir()).unwrap();
        assert!(room.cpu_percent >= 1 && room.memory_mb > 64, "{room:?}");
    }
}
