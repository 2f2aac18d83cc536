//! Who belongs to a tool and what it uses, as `/proc` tells it.
//!
//! Invariant: nothing here is believed of a process that was not just read; whoever vanishes meanwhile is left out. Source:
//! proc(5). What the kernel lists as children is there with `CONFIG_PROC_CHILDREN` alone, so without it every process is asked
//! for its parent.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

/// How long killed processes may take to be gone.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// Every process whose working directory is `directory` or lies below it. So the family of a tool is found without a
/// cgroup: it inherits the directory, whatever session it makes for itself.
pub(super) fn processes_inside(directory: &Path) -> Vec<Pid> {
    let works_there =
        |pid: &Pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(directory));
    everybody().filter(works_there).collect()
}

/// Kills every process that works inside `directory`.
pub async fn kill_inside(directory: &Path) {
    let until = Instant::now() + KILL_WAIT;
    loop {
        let found = processes_inside(directory);
        if found.is_empty() || Instant::now() >= until {
            return;
        }
        for pid in found {
            let _ = kill(pid, Signal::SIGKILL);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The tool behind the process that stands for it: the first child of its first child.
pub(super) fn stood_for_by(deputy: Pid) -> Option<Pid> {
    first_child(first_child(deputy)?)
}

fn first_child(of: Pid) -> Option<Pid> {
    match std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")) {
        Ok(listed) => listed.split_whitespace().next()?.parse().ok().map(Pid::from_raw),
        Err(_) => first_born(of, with_stat(everybody())),
    }
}

/// The oldest of these that has this parent. Numbers begin again, ages do not.
fn first_born(of: Pid, among: impl Iterator<Item = (Pid, Stat)>) -> Option<Pid> {
    let children = among.filter(|(_, stat)| stat.parent == of.as_raw());
    children.min_by_key(|(pid, stat)| (stat.began, *pid)).map(|(pid, _)| pid)
}

fn with_stat(processes: impl Iterator<Item = Pid>) -> impl Iterator<Item = (Pid, Stat)> {
    processes.filter_map(|pid| Some((pid, stat(pid)?)))
}

fn everybody() -> impl Iterator<Item = Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw))
}

/// What the kernel tells of a process in one line.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// The process that it is a child of.
    parent: i32,
    /// Processor time, in the kernel's ticks.
    ticks: u64,
    /// When it began, in ticks since the machine did.
    began: u64,
}

impl Stat {
    /// Fields 4, 14 with 15, and 22 of `/proc/<pid>/stat`. They are counted behind the name in brackets, which may hold
    /// anything, brackets among it.
    fn parse(line: &str) -> Option<Stat> {
        let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3);
        let count = |number| field(number)?.parse::<u64>().ok();
        Some(Stat { parent: field(4)?.parse().ok()?, ticks: count(14)? + count(15)?, began: count(22)? })
    }
}

fn stat(pid: Pid) -> Option<Stat> {
    Stat::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// What a process used as last seen, for workers without cgroups.
#[derive(Debug, Default)]
pub(super) struct Sample {
    /// Processor time in milliseconds.
    pub(super) cpu_ms: u64,
    /// Largest memory in bytes.
    pub(super) peak_memory_bytes: Option<u64>,
}

impl Sample {
    pub(super) fn take(&mut self, pid: Pid) {
        if let (Some(stat), Some(per_sec)) = (stat(pid), crate::machine::ticks_per_sec()) {
            self.cpu_ms = stat.ticks * 1000 / per_sec;
        }
        if let Some(bytes) = peak_memory(pid) {
            self.peak_memory_bytes = Some(bytes);
        }
    }
}

fn peak_memory(pid: Pid) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_s_is_read_whatever_the_process_calls_itself() {
        let line = "4242 (a) R 1 (b c) S 17 4242 4242 0 -1 4194560 90 1 2 3 700 42 5 6 20 0 4 0 99001 7 8\n";
        assert_eq!(Stat::parse(line), Some(Stat { parent: 17, ticks: 742, began: 99001 }));
        for broken in ["", "1 (a", "1 (a) S", "1 (a) S x 1 1 0 -1 0 0 0 0 0 1 1 0 0 20 0 1 0 5", "1 (a) S 17 1 1 0"] {
            assert_eq!(Stat::parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn the_first_child_is_the_oldest_even_where_numbers_began_again() {
        let process = |pid, parent, began| (Pid::from_raw(pid), Stat { parent, ticks: 0, began });
        let among = || [process(9, 1, 5), process(900, 7, 40), process(12, 7, 41), process(13, 8, 1)].into_iter();
        assert_eq!(first_born(Pid::from_raw(7), among()), Some(Pid::from_raw(900)));
        assert_eq!(first_born(Pid::from_raw(13), among()), None);
    }

    #[test]
    fn a_child_is_found_by_its_parent_as_it_is_in_the_kernel_s_list() {
        use std::io::Read as _;
        use std::os::unix::process::CommandExt as _;
        let mut parent = std::process::Command::new("sh");
        let parent = parent.args(["-c", "sleep 600 & echo ready; wait"]).process_group(0);
        let mut parent = parent.stdout(std::process::Stdio::piped()).spawn().unwrap();
        parent.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
        let pid = Pid::from_raw(parent.id().cast_signed());
        let (listed, asked) = (first_child(pid), first_born(pid, with_stat(everybody())));
        nix::sys::signal::killpg(pid, Signal::SIGKILL).unwrap();
        parent.wait().unwrap();
        assert!(asked.is_some());
        assert_eq!(asked, listed);
    }
}
