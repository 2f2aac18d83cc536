//! Whether the kernel this runs on keeps what groups promise, on version 2 of cgroups and on version 1.
//!
//! Invariant: nothing here asks which version it is, except where the versions themselves promise different things. These
//! tests need the right to make cgroups: root, or a delegated one.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::group::{Group, GroupLimits, Groups};
use super::hierarchy::Hierarchy;
use super::room::read_room;

/// How long anything is waited for.
const BOUND: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
const LIMITS: GroupLimits = GroupLimits { cpu_percent: None, memory_bytes: 64 * MIB, pids: 64 };

fn open(worker: &str, parent: Option<&Path>) -> Groups {
    Groups::open(Path::new("/"), worker, parent).unwrap_or_else(|why| panic!("no cgroups: {why}"))
}

/// A name that no other run of these tests has, beside this one on the same machine.
fn own(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

/// A shell that begins its script inside the group.
fn shell(group: &Group, script: &str) -> Child {
    let mut shell = Command::new("sh")
        .args(["-c", &format!("read -r go; {script}")])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    for mut entrance in group.entrances().unwrap() {
        entrance.write_all(shell.id().to_string().as_bytes()).unwrap();
    }
    shell.stdin.take().unwrap().write_all(b"go\n").unwrap();
    shell
}

/// Polls until `check` says yes.
fn until(what: &str, mut check: impl FnMut() -> Result<(), String>) {
    let end = Instant::now() + BOUND;
    while let Err(state) = check() {
        assert!(Instant::now() < end, "waited {BOUND:?} for {what}; last seen: {state}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn until_members(group: &Group, count: usize) {
    until(&format!("{count} processes"), || {
        let members = group.members();
        if members.len() == count { Ok(()) } else { Err(format!("{members:?}")) }
    });
}

fn until_it_works(group: &Group) {
    let before = group.usage().cpu_us;
    until("processor time to be used", || match group.usage().cpu_us {
        now if now > before => Ok(()),
        now => Err(format!("{now} us, {before} us before")),
    });
}

fn is_v2() -> bool {
    Hierarchy::read(Path::new("/")).unwrap().is_v2()
}

/// A root in which `/proc/self` is the process of that number.
fn eyes_of(pid: u32) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("proc")).unwrap();
    std::os::unix::fs::symlink(format!("/proc/{pid}"), root.path().join("proc/self")).unwrap();
    std::os::unix::fs::symlink("/proc/meminfo", root.path().join("proc/meminfo")).unwrap();
    std::os::unix::fs::symlink("/sys", root.path().join("sys")).unwrap();
    root
}

/// The path of the cgroup in which a process is, within its hierarchy.
fn cgroup_of(pid: u32) -> PathBuf {
    let eyes = eyes_of(pid);
    let hierarchy = Hierarchy::read(eyes.path()).unwrap();
    let place = if hierarchy.is_v2() { hierarchy.v2.unwrap() } else { hierarchy.v1["pids"].clone() };
    Path::new("/").join(place.own.strip_prefix(&place.top).unwrap())
}

#[tokio::test]
async fn a_fifth_of_a_core_takes_five_times_as_long() {
    let groups = open(&own("kernel-cpu"), None);
    let group = groups.create("a.1", &GroupLimits { cpu_percent: Some(20), ..LIMITS }).unwrap();
    let start = Instant::now();
    let mut busy = shell(&group, "while :; do :; done & while :; do :; done");
    until("a second of processor time", || match group.usage().cpu_us {
        used if used >= 1_000_000 => Ok(()),
        used => Err(format!("{used} us")),
    });
    // 5 s. A processor that is itself taken away for a while, as in an emulated machine, notices late that the quota is used.
    assert!(start.elapsed() >= Duration::from_secs(3), "{:?} for {:?}", start.elapsed(), group.usage());
    group.end().await.unwrap();
    busy.wait().unwrap();
}

#[tokio::test]
async fn more_memory_than_the_limit_kills_and_is_counted() {
    let groups = open(&own("kernel-memory"), None);
    let group = groups.create("a.1", &LIMITS).unwrap();
    let mut glutton = shell(&group, "sleep 600 & exec tail /dev/zero");
    assert_eq!(glutton.wait().unwrap().signal(), Some(9));
    until("the kill to be counted", || match group.usage() {
        usage if usage.oom_kills >= 1 => Ok(()),
        usage => Err(format!("{usage:?}")),
    });
    let peak = group.usage().peak_memory_bytes;
    assert!(peak.is_none_or(|peak| peak > 32 * MIB && peak <= 64 * MIB), "{peak:?}");
    // Version 2 kills the whole family, version 1 the greediest.
    until_members(&group, if is_v2() { 0 } else { 1 });
    group.end().await.unwrap();
}

#[tokio::test]
async fn no_more_processes_than_the_limit() {
    let groups = open(&own("kernel-pids"), None);
    let group = groups.create("a.1", &GroupLimits { pids: 8, ..LIMITS }).unwrap();
    let mut bomb = shell(&group, "i=0; while [ $i -lt 50 ]; do sleep 600 & i=$((i+1)); done; wait");
    assert!(!bomb.wait().unwrap().success());
    until_members(&group, 7);
    group.end().await.unwrap();
}

#[tokio::test]
async fn nobody_survives_the_end_of_a_group() {
    let groups = open(&own("kernel-end"), None);
    let group = groups.create("a.1", &LIMITS).unwrap();
    let mut family = shell(&group, "trap '' INT TERM; setsid sleep 600 & (trap '' HUP; sleep 600; :) & wait");
    until_members(&group, 4);
    let members = group.members();
    group.end().await.unwrap();
    assert_eq!(family.wait().unwrap().signal(), Some(9));
    let alive = |pid: &Pid| {
        // Who was adopted by somebody that reaps nobody stays as a zombie: dead all the same.
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:") && !line.contains("zombie"))
    };
    until("all to be dead", || match members.iter().filter(|pid| alive(pid)).collect::<Vec<_>>() {
        alive if alive.is_empty() => Ok(()),
        alive => Err(format!("{alive:?}")),
    });
    // The same name serves again, and has forgotten everything.
    let again = groups.create("a.1", &LIMITS).unwrap();
    assert_eq!((again.members(), again.usage().oom_kills), (Vec::new(), 0));
    again.end().await.unwrap();
}

#[tokio::test]
async fn a_frozen_group_uses_no_time_and_goes_on_when_thawed_and_dies_when_killed() {
    let groups = open(&own("kernel-freeze"), None);
    let group = groups.create("a.1", &LIMITS).unwrap();
    let mut busy = shell(&group, "while :; do :; done");
    until_it_works(&group);
    until("the time to stand still", || {
        group.set_frozen(true).unwrap();
        let before = group.usage().cpu_us;
        std::thread::sleep(Duration::from_millis(200));
        match group.usage().cpu_us {
            now if now == before => Ok(()),
            now => Err(format!("{now} us, {before} us before")),
        }
    });
    group.set_frozen(false).unwrap();
    until_it_works(&group);
    group.set_frozen(true).unwrap();
    group.end().await.unwrap();
    assert_eq!(busy.wait().unwrap().signal(), Some(9));
}

#[tokio::test]
async fn the_smallest_of_nested_limits_is_the_room() {
    let groups = open(&own("kernel-outer"), None);
    let narrow = GroupLimits { cpu_percent: Some(70), memory_bytes: 256 * MIB, pids: 64 };
    let outer = groups.create("outer", &narrow).unwrap();
    // On version 2 a cgroup has either processes or children: this one leaves again.
    let mut guide = shell(&outer, "exec sleep 600");
    let path = cgroup_of(guide.id());
    outer.kill();
    guide.wait().unwrap();
    until_members(&outer, 0);

    let inner_groups = open(&own("kernel-inner"), Some(&path));
    // A quota above the outer one's is taken, and changes nothing.
    let wide = GroupLimits { cpu_percent: Some(150), memory_bytes: 128 * MIB, pids: 64 };
    let inner = inner_groups.create("inner", &wide).unwrap();
    let mut inside = shell(&inner, "exec sleep 600");
    let room = read_room(eyes_of(inside.id()).path(), &std::env::temp_dir()).unwrap();
    assert_eq!((room.cpu_percent, room.memory_mb), (70, 128));
    inner.end().await.unwrap();
    inside.wait().unwrap();
    drop(inner_groups);
    outer.end().await.unwrap();
}

#[tokio::test]
async fn what_an_earlier_life_left_is_swept() {
    let groups = open(&own("kernel-sweep"), None);
    let group = groups.create("left.1", &LIMITS).unwrap();
    let mut orphan = shell(&group, "sleep 600; :");
    until_members(&group, 2);
    group.set_frozen(true).unwrap();
    // As if the worker had been killed: nobody ends the group.
    std::mem::forget(group);
    drop(groups);

    // A child that another test has just forked holds the lock until it runs its own program.
    let mut next = None;
    until("the name to be free", || {
        Groups::open(Path::new("/"), &own("kernel-sweep"), None).map(|groups| next = Some(groups))
    });
    let groups = next.unwrap();
    groups.sweep().await;
    assert_eq!(orphan.wait().unwrap().signal(), Some(9));
    let again = groups.create("left.1", &LIMITS).unwrap();
    assert_eq!(again.members(), []);
    again.end().await.unwrap();
}
