//! Which files a tool may open: programs, libraries and fonts of the system, what its attempt reads, and its scratch.
//!
//! Invariant: nothing outside the scratch can be written, and no file of another job, of the worker or of a user read.

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
const SYSTEM: [&str; 16] = [
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
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
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
/// What encodes on devices reads.
const DEVICE_SYSTEM: [&str; 7] =
    ["/etc/OpenCL", "/etc/glvnd", "/etc/vulkan", "/proc/driver/nvidia", "/proc/devices", "/proc/modules", "/sys"];
/// Devices that encode.
const DEVICES: [&str; 2] = ["/dev/dri", "/dev/kfd"];

/// Rules that wait for their process.
#[derive(Debug)]
pub(super) struct Files {
    /// `None`: they have been put up.
    rules: Option<OwnedFd>,
    /// What it may do with what the kernel tells of itself.
    own: BitFlags<AccessFs>,
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
            Some(rules) => Ok(Files {
                rules: Some(rules),
                // NVIDIA's library gives its threads names there.
                own: if needs.devices { read | AccessFs::WriteFile } else { read },
            }),
            None => {
                Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel has no Landlock, or it is not switched on"))
            }
        }
    }

    /// Puts the rules up, with one more for what the kernel tells a process of itself.
    pub(super) fn close(&mut self) -> io::Result<()> {
        let Some(rules) = self.rules.take() else { return Ok(()) };
        // Not before the fork: it is another directory for every process.
        // SAFETY: the path is a constant that ends with a zero.
        let own = unsafe { libc::open(c"/proc/self".as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
        if own >= 0 {
            let rule = PathBeneath { allowed_access: self.own.bits(), parent_fd: own };
            // SAFETY: the kernel reads the rule, which outlives the call, and keeps no pointer to it.
            let added = unsafe {
                libc::syscall(
                    libc::SYS_landlock_add_rule,
                    rules.as_raw_fd(),
                    PATH_BENEATH,
                    std::ptr::from_ref(&rule),
                    0,
                )
            };
            // SAFETY: it was opened above and is used by nobody else.
            unsafe { libc::close(own) };
            if added != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: it takes a descriptor and flags, and touches no memory of ours.
        let closed = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0) };
        if closed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

fn nvidia_devices() -> Vec<PathBuf> {
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
    let is_nvidia = |entry: &DirEntry| entry.file_name().to_string_lossy().starts_with("nvidia");
    entries.filter(is_nvidia).map(|entry| entry.path()).collect()
}
