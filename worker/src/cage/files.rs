//! Which files a tool may open: programs, libraries and fonts of the system, what its attempt reads, and its scratch.
//!
//! Invariant: nothing outside the scratch can be written, and no file of another job, of the worker or of a user read.

use std::ffi::CStr;
use std::fs::{self, DirEntry};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, NetPort, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, Scope, path_beneath_rules,
};
use nix::libc;

use super::Needs;

/// The newest rights that are asked for; an older kernel gives those that it knows.
const NEWEST: ABI = ABI::V6;

/// Programs and libraries.
const PROGRAMS: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];
/// What programs read besides.
const SYSTEM: [&str; 13] = [
    "/etc/alternatives",
    "/etc/fonts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
    "/etc/localtime",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/zero",
    "/sys/devices/system",
    "/var/cache/fontconfig",
];
/// What those read that go to the network: names and certificates.
const NETWORK: [&str; 13] = [
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/etc/gai.conf",
    "/etc/gnutls",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/pki",
    "/etc/resolv.conf",
    "/run/systemd/resolve",
    "/etc/services",
    "/etc/ssl",
    "/var/lib/ca-certificates",
];
/// What the kernel tells of the machine. A run that has its own view of `/proc` has its own files there.
const TOLD: [&CStr; 3] = [c"/proc/cpuinfo", c"/proc/meminfo", c"/proc/stat"];
/// What encodes on devices reads.
const DEVICE_SYSTEM: [&str; 4] = ["/etc/OpenCL", "/etc/glvnd", "/etc/vulkan", "/sys"];
/// What the kernel tells those besides: of its drivers, and files.
const DEVICE_DRIVERS: &CStr = c"/proc/driver/nvidia";
const DEVICE_TOLD: [&CStr; 2] = [c"/proc/devices", c"/proc/modules"];
/// Devices that encode.
const DEVICES: [&str; 2] = ["/dev/dri", "/dev/kfd"];

/// Rules that wait for their process.
#[derive(Debug)]
pub(super) struct Files {
    /// `None`: they have been put up.
    rules: Option<OwnedFd>,
    /// What it may do with what the kernel tells it.
    told: Vec<(&'static CStr, BitFlags<AccessFs>)>,
}

/// The kernel's `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

const _: () = assert!(size_of::<PathBeneath>() == 12, "as the kernel has it");

/// The kernel's `LANDLOCK_RULE_PATH_BENEATH`.
const PATH_BENEATH: libc::c_int = 1;

impl Files {
    pub(super) fn prepare<'a>(
        runs: impl Iterator<Item = &'a Path>,
        scratch: Option<&Path>,
        needs: &Needs<'_>,
    ) -> io::Result<Files> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let run = read | AccessFs::Execute;
        let all = AccessFs::from_all(NEWEST);
        // What it wrote, or was given, it does not run.
        let never =
            AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::MakeSock | AccessFs::IoctlDev | AccessFs::Execute;
        let write = all & !never;
        let of = |paths: &[&'static str], access: BitFlags<AccessFs>| path_beneath_rules(paths.to_vec(), access);
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(all)
            .and_then(|rules| rules.scope(Scope::from_all(NEWEST)))
            .and_then(|rules| rules.handle_access(AccessNet::from_all(NEWEST)))
            .and_then(Ruleset::create)
            .and_then(|rules| rules.add_rules(of(&PROGRAMS, run)))
            .and_then(|rules| rules.add_rules(of(&SYSTEM, read)))
            .and_then(|rules| rules.add_rules(of(&["/dev/null"], read | AccessFs::WriteFile)))
            .and_then(|rules| rules.add_rules(path_beneath_rules(runs, run)))
            .and_then(|rules| rules.add_rules(path_beneath_rules(needs.reads, read)))
            .and_then(|rules| rules.add_rules(path_beneath_rules(scratch, write)))
            .map_err(io::Error::other)?;
        if let Some(reach) = needs.network {
            let ports = reach.ports().map(|port| Ok::<_, RulesetError>(NetPort::new(port, AccessNet::ConnectTcp)));
            rules = rules
                .add_rules(of(&NETWORK, read))
                .and_then(|rules| rules.add_rules(ports))
                .map_err(io::Error::other)?;
        }
        if needs.devices {
            let nvidia = nvidia_devices();
            let device = read | AccessFs::WriteFile | AccessFs::IoctlDev;
            rules = rules
                .add_rules(of(&DEVICE_SYSTEM, read))
                .and_then(|rules| rules.add_rules(of(&DEVICES, device)))
                .and_then(|rules| rules.add_rules(path_beneath_rules(nvidia, device)))
                .map_err(io::Error::other)?;
        }
        match Option::<OwnedFd>::from(rules) {
            Some(rules) => Ok(Files { rules: Some(rules), told: told(needs.devices) }),
            None => {
                Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel has no Landlock, or it is not switched on"))
            }
        }
    }

    /// Puts the rules up, with more for what the kernel tells. System calls only.
    pub(super) fn close(&mut self) -> io::Result<()> {
        let Some(rules) = self.rules.take() else { return Ok(()) };
        for (path, access) in &self.told {
            add(&rules, path, *access)?;
        }
        // SAFETY: it takes a descriptor and flags, and touches no memory of ours.
        let closed = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0) };
        if closed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// What is opened in the child: it is another directory for every process, and other files in a `/proc` of its own.
fn told(devices: bool) -> Vec<(&'static CStr, BitFlags<AccessFs>)> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    // NVIDIA's library gives its threads names there.
    let own = if devices { read | AccessFs::WriteFile } else { read };
    let files =
        |paths: &[&'static CStr]| paths.iter().map(|path| (*path, AccessFs::ReadFile.into())).collect::<Vec<_>>();
    let mut told = files(&TOLD);
    told.push((c"/proc/self", own));
    if devices {
        told.push((DEVICE_DRIVERS, read));
        told.extend(files(&DEVICE_TOLD));
    }
    told
}

/// Adds a rule for what is there, if it is. System calls only.
fn add(rules: &OwnedFd, path: &CStr, access: BitFlags<AccessFs>) -> io::Result<()> {
    // SAFETY: the path ends with a zero.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
    if fd < 0 {
        return Ok(());
    }
    let rule = PathBeneath { allowed_access: access.bits(), parent_fd: fd };
    // SAFETY: the kernel reads the rule, which outlives the call, and keeps no pointer to it.
    let added = unsafe {
        libc::syscall(libc::SYS_landlock_add_rule, rules.as_raw_fd(), PATH_BENEATH, std::ptr::from_ref(&rule), 0)
    };
    let added = if added == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: it was opened above and is used by nobody else.
    unsafe { libc::close(fd) };
    added
}

fn nvidia_devices() -> Vec<PathBuf> {
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
    let is_nvidia = |entry: &DirEntry| entry.file_name().to_string_lossy().starts_with("nvidia");
    entries.filter(is_nvidia).map(|entry| entry.path()).collect()
}
