//! Which system calls a tool may make: those that read and write files, compute in threads and tell the time.
//!
//! Invariant: a list of what is allowed. Whatever is not on it, now or in a kernel to come, answers that there is no such
//! call, as an older kernel would.

use std::collections::BTreeMap;

use nix::libc;

use super::egress::HANDOVER;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Calls without conditions.
#[rustfmt::skip] // One on each line would fill four screens.
const ALWAYS: &[libc::c_long] = &[
    // Files.
    libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev, libc::SYS_pread64, libc::SYS_pwrite64,
    libc::SYS_preadv, libc::SYS_pwritev, libc::SYS_preadv2, libc::SYS_pwritev2, libc::SYS_openat, libc::SYS_openat2,
    libc::SYS_close, libc::SYS_close_range, libc::SYS_lseek, libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx,
    libc::SYS_statfs, libc::SYS_fstatfs, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_readlinkat,
    libc::SYS_getdents64, libc::SYS_getcwd, libc::SYS_chdir, libc::SYS_fchdir, libc::SYS_renameat2,
    libc::SYS_mkdirat, libc::SYS_unlinkat, libc::SYS_linkat, libc::SYS_symlinkat, libc::SYS_truncate, libc::SYS_ftruncate,
    libc::SYS_fallocate, libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_sync_file_range, libc::SYS_fadvise64,
    libc::SYS_readahead, libc::SYS_utimensat, libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_umask, libc::SYS_dup,
    libc::SYS_dup3, libc::SYS_fcntl, libc::SYS_flock, libc::SYS_ioctl, libc::SYS_pipe2, libc::SYS_sendfile,
    libc::SYS_splice, libc::SYS_tee, libc::SYS_copy_file_range, libc::SYS_memfd_create, libc::SYS_getxattr,
    libc::SYS_lgetxattr, libc::SYS_fgetxattr, libc::SYS_listxattr, libc::SYS_llistxattr, libc::SYS_flistxattr,
    libc::SYS_inotify_init1, libc::SYS_inotify_add_watch, libc::SYS_inotify_rm_watch,
    // Waiting.
    libc::SYS_ppoll, libc::SYS_pselect6, libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2, libc::SYS_eventfd2, libc::SYS_signalfd4, libc::SYS_timerfd_create, libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime, libc::SYS_futex, libc::SYS_futex_waitv, libc::SYS_restart_syscall,
    // Memory.
    libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_mprotect, libc::SYS_madvise, libc::SYS_brk,
    libc::SYS_msync, libc::SYS_mlock, libc::SYS_mlock2, libc::SYS_munlock, libc::SYS_mincore, libc::SYS_membarrier,
    libc::SYS_get_mempolicy, libc::SYS_set_mempolicy, libc::SYS_mbind, libc::SYS_pkey_alloc, libc::SYS_pkey_free,
    libc::SYS_pkey_mprotect,
    // Processes and threads. `clone` has a condition.
    libc::SYS_execve, libc::SYS_execveat, libc::SYS_exit, libc::SYS_exit_group, libc::SYS_wait4, libc::SYS_waitid,
    libc::SYS_kill, libc::SYS_tkill, libc::SYS_tgkill, libc::SYS_getpid, libc::SYS_getppid, libc::SYS_gettid,
    libc::SYS_getpgid, libc::SYS_setpgid, libc::SYS_getsid, libc::SYS_setsid, libc::SYS_getuid, libc::SYS_geteuid,
    libc::SYS_getgid, libc::SYS_getegid, libc::SYS_getresuid, libc::SYS_getresgid, libc::SYS_getgroups,
    libc::SYS_set_tid_address, libc::SYS_set_robust_list, libc::SYS_get_robust_list, libc::SYS_rseq,
    libc::SYS_sched_yield, libc::SYS_sched_getaffinity, libc::SYS_sched_setaffinity, libc::SYS_sched_getparam,
    libc::SYS_sched_setparam, libc::SYS_sched_getscheduler, libc::SYS_sched_setscheduler, libc::SYS_sched_getattr,
    libc::SYS_sched_setattr, libc::SYS_sched_get_priority_max, libc::SYS_sched_get_priority_min, libc::SYS_getpriority,
    libc::SYS_setpriority, libc::SYS_getrusage,
    libc::SYS_times, libc::SYS_sysinfo, libc::SYS_uname, libc::SYS_prctl, libc::SYS_getcpu, libc::SYS_capget,
    // Signals and time.
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_rt_sigpending,
    libc::SYS_rt_sigtimedwait, libc::SYS_rt_sigsuspend, libc::SYS_sigaltstack, libc::SYS_setitimer, libc::SYS_getitimer,
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep, libc::SYS_nanosleep,
    libc::SYS_gettimeofday, libc::SYS_timer_create, libc::SYS_timer_settime, libc::SYS_timer_gettime,
    libc::SYS_timer_delete, libc::SYS_timer_getoverrun, libc::SYS_getrandom,
    // What is inherited, and pairs of sockets that lead nowhere else.
    libc::SYS_recvmsg, libc::SYS_sendmsg, libc::SYS_recvfrom, libc::SYS_sendto, libc::SYS_shutdown,
    libc::SYS_getsockopt, libc::SYS_setsockopt, libc::SYS_getsockname, libc::SYS_getpeername,
];

/// The older names of the same calls, which this architecture still has.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const OLD: &[libc::c_long] = &[
    libc::SYS_open, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_readlink, libc::SYS_getdents,
    libc::SYS_rename, libc::SYS_mkdir, libc::SYS_rmdir, libc::SYS_unlink, libc::SYS_link, libc::SYS_symlink,
    libc::SYS_creat, libc::SYS_chmod, libc::SYS_utime, libc::SYS_utimes, libc::SYS_futimesat, libc::SYS_dup2,
    libc::SYS_pipe, libc::SYS_poll, libc::SYS_select, libc::SYS_epoll_create, libc::SYS_epoll_wait, libc::SYS_eventfd,
    libc::SYS_inotify_init, libc::SYS_fork, libc::SYS_vfork, libc::SYS_getpgrp, libc::SYS_arch_prctl, libc::SYS_pause,
    libc::SYS_alarm, libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[libc::c_long] = &[];

/// The same of more than one architecture.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const OLDER: &[libc::c_long] = &[libc::SYS_renameat, libc::SYS_getrlimit, libc::SYS_setrlimit];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const OLDER: &[libc::c_long] = &[];

/// What those need besides that go to the network. They call and are not called. Many messages at once name many addresses:
/// the library asks for names one by one where it is told to.
#[rustfmt::skip]
const NETWORK: &[libc::c_long] = &[
    libc::SYS_connect, libc::SYS_bind, libc::SYS_recvmmsg,
];

/// What a socket of the network speaks: what its kind usually does, TCP, UDP. No other protocol of the kernel is needed.
const PROTOCOLS: [libc::c_int; 3] = [0, libc::IPPROTO_TCP, libc::IPPROTO_UDP];

/// The kind of a socket, without the flags that stand beside it.
const KIND: SeccompCmpOp = SeccompCmpOp::MaskedEq(0xf);

/// What drivers of devices need besides: sockets between their own processes, memory that they share, and whether two
/// descriptors are one.
#[rustfmt::skip]
const DEVICES: &[libc::c_long] = &[
    libc::SYS_connect, libc::SYS_bind, libc::SYS_listen, libc::SYS_accept4, libc::SYS_kcmp, libc::SYS_shmget,
    libc::SYS_shmat, libc::SYS_shmdt, libc::SYS_shmctl, libc::SYS_semget, libc::SYS_semop, libc::SYS_semctl,
];

/// New namespaces, in which a process gets rights that it does not have.
const NAMESPACES: libc::c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// What a tool may call besides what all may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Calls {
    /// Sockets of the network.
    pub(super) network: bool,
    /// What drivers of devices need.
    pub(super) devices: bool,
}

impl Calls {
    /// The filter, as the kernel takes it.
    ///
    /// # Errors
    /// On an architecture whose calls are not known.
    pub(super) fn program(self) -> Result<BpfProgram, BackendError> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
            ALWAYS.iter().chain(OLD).chain(OLDER).map(|call| (*call, Vec::new())).collect();
        // `clone3` hides its flags in memory, so there is none, and the library takes `clone`.
        rules.insert(libc::SYS_clone, vec![when(0, SeccompCmpOp::MaskedEq(word(NAMESPACES)), 0)]);
        // One of a pair for datagrams could send to any path; these two lead to each other alone.
        let pair = |kind| all(&[(0, SeccompCmpOp::Eq, word(libc::AF_UNIX)), (1, KIND, word(kind))]);
        rules.insert(libc::SYS_socketpair, [libc::SOCK_STREAM, libc::SOCK_SEQPACKET].map(pair).into());
        // Its own limits, and no other process's.
        rules.insert(libc::SYS_prlimit64, vec![when(0, SeccompCmpOp::Eq, 0)]);
        let mut sockets = Vec::new();
        if self.network {
            rules.extend(NETWORK.iter().map(|call| (*call, Vec::new())));
            rules.insert(libc::SYS_sendmsg, vec![when(2, SeccompCmpOp::Ne, word(HANDOVER))]);
            for family in [libc::AF_INET, libc::AF_INET6] {
                sockets.extend(PROTOCOLS.map(|protocol| equal([(0, word(family)), (2, word(protocol))])));
            }
            // What the library asks for this machine's own addresses when it looks a name up.
            sockets.push(equal([(0, word(libc::AF_NETLINK)), (2, word(libc::NETLINK_ROUTE))]));
        }
        if self.devices {
            rules.extend(DEVICES.iter().map(|call| (*call, Vec::new())));
            sockets.push(when(0, SeccompCmpOp::Eq, word(libc::AF_UNIX)));
        }
        if !sockets.is_empty() {
            rules.insert(libc::SYS_socket, sockets);
        }
        let no_such_call = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
        let arch = TargetArch::try_from(std::env::consts::ARCH)?;
        SeccompFilter::new(rules, no_such_call, SeccompAction::Allow, arch)?.try_into()
    }
}

fn when(argument: u8, compare: SeccompCmpOp, value: u64) -> SeccompRule {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, value)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .expect("a call has six arguments, and this is one of them")
}

/// Where both arguments have their value.
fn equal(wishes: [(u8, u64); 2]) -> SeccompRule {
    all(&wishes.map(|(argument, value)| (argument, SeccompCmpOp::Eq, value)))
}

/// Where every argument of these is as wished.
fn all(wishes: &[(u8, SeccompCmpOp, u64); 2]) -> SeccompRule {
    let condition = |(argument, compare, value): &(u8, SeccompCmpOp, u64)| {
        SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, compare.clone(), *value)
    };
    let conditions: Result<Vec<_>, _> = wishes.iter().map(condition).collect();
    conditions.and_then(SeccompRule::new).expect("a call has six arguments, and these are two of them")
}

fn word(bits: libc::c_int) -> u64 {
    u64::from(bits.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cage::egress;

    /// What encodes call again and again.
    const OFTEN: [libc::c_long; 22] = [
        libc::SYS_brk,
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_close,
        libc::SYS_fstat,
        libc::SYS_futex,
        libc::SYS_getrusage,
        libc::SYS_lseek,
        libc::SYS_madvise,
        libc::SYS_mmap,
        libc::SYS_mprotect,
        libc::SYS_munmap,
        libc::SYS_nanosleep,
        libc::SYS_openat,
        libc::SYS_ppoll,
        libc::SYS_pread64,
        libc::SYS_read,
        libc::SYS_rt_sigprocmask,
        libc::SYS_sched_getaffinity,
        libc::SYS_sched_yield,
        libc::SYS_write,
        libc::SYS_writev,
    ];

    /// One step of a filter: code, jumps, value.
    type Step = (u16, u8, u8, u32);

    /// Whether the kernel, from Linux 5.11 on, allows a call without running the filter, because nothing but the call's number
    /// and the architecture decides. Its own rule: `seccomp_is_const_allow` in kernel/seccomp.c.
    fn is_allowed_unasked(program: &[Step], call: libc::c_long) -> bool {
        let arch = match std::env::consts::ARCH {
            "x86_64" => 0xc000_003e,
            "aarch64" => 0xc000_00b7,
            "riscv64" => 0xc000_00f3,
            other => panic!("the number of {other} is not known here"),
        };
        let (mut at, mut value) = (0, 0_u32);
        loop {
            let (code, yes, no, operand) = program[at];
            at += 1;
            let mut jump = |is: bool| at += usize::from(if is { yes } else { no });
            match code {
                0x20 if operand == 0 => value = u32::try_from(call).unwrap(),
                0x20 if operand == 4 => value = arch,
                0x05 => at += operand as usize,
                0x15 => jump(value == operand),
                0x25 => jump(value > operand),
                0x35 => jump(value >= operand),
                0x45 => jump(value & operand != 0),
                0x54 => value &= operand,
                0x06 => return operand == libc::SECCOMP_RET_ALLOW,
                _ => return false,
            }
        }
    }

    #[test]
    fn what_is_called_often_the_kernel_allows_without_running_a_filter() {
        let mut programs = vec![egress::program().iter().map(|step| (step.code, step.jt, step.jf, step.k)).collect()];
        for (network, devices) in [(false, false), (true, false), (false, true), (true, true)] {
            let program = Calls { network, devices }.program().unwrap();
            let program: Vec<Step> = program.iter().map(|step| (step.code, step.jt, step.jf, step.k)).collect();
            for asked in [libc::SYS_clone, libc::SYS_socketpair, libc::SYS_prlimit64, libc::SYS_ptrace] {
                assert!(!is_allowed_unasked(&program, asked), "{asked}");
            }
            programs.push(program);
        }
        for program in &programs {
            let slow: Vec<_> = OFTEN.into_iter().filter(|call| !is_allowed_unasked(program, *call)).collect();
            assert!(slow.is_empty(), "{slow:?}");
        }
    }
}
