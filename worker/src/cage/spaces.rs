//! Namespaces of a run: processes, mounts, System V memory and a network of its own.
//!
//! Invariant: with processes of its own, three of ours become of the worker's child. The *deputy* stays outside, in the tool's
//! cgroup, and stands for the tool: it ends as the tool ended, and not before everybody inside is dead. The *keeper* is the first
//! inside: it gathers orphans, and the kernel kills everybody with it. The tool is the second, so that signals mean to it what
//! they mean to any program; to the first they would not (`pid_namespaces`(7)). Deputy and keeper hold no descriptor, nothing of
//! the worker's memory and no right but the keeper's to signal the tool, and cannot be looked into. The two are a session and a
//! group of processes, the tool is another: what a tool sends to its group reaches neither, and outside its namespace it can name
//! nobody. The worker asks the tool to stop by [`PASSED_ON`] to their group, which the keeper passes on to the tool's: that is its
//! child, so its number is nobody else's. Where the worker may not make namespaces, one of users comes first, in which the tool's
//! user has that right until its program is loaded.
//!
//! Everything after the fork is system calls on values that were made before it.

mod memory;

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use caps::{CapSet, CapsHashSet};
use nix::libc;
use nix::sys::signal::{SigSet, Signal};

/// The signal by which tools are asked to stop.
const PASSED_ON: libc::c_int = libc::SIGINT;

/// What is made of a run's own, and how.
#[derive(Debug)]
pub(super) struct Spaces {
    /// Which namespaces, as `clone`(2) takes them.
    pub(super) flags: libc::c_int,
    /// Its own view of `/proc`.
    pub(super) proc: bool,
    /// What is read in `/proc` may be written as well.
    pub(super) writes_proc: bool,
    /// What is written.
    pub(super) scratch: Option<CString>,
    /// Who the tool's user is, where a namespace of users is needed.
    pub(super) maps: Option<Maps>,
    /// What the keeper needs to signal the tool, whose user may be another than its own.
    pub(super) reaches: CapsHashSet,
}

/// A user and a group that are inside who they are outside.
#[derive(Debug)]
pub(super) struct Maps {
    user: String,
    group: String,
}

impl Maps {
    pub(super) fn of(uid: u32, gid: u32) -> Maps {
        Maps { user: format!("{uid} {uid} 1"), group: format!("{gid} {gid} 1") }
    }
}

/// A path as the kernel takes it.
pub(super) fn path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

impl Spaces {
    fn has(&self, flag: libc::c_int) -> bool {
        self.flags & flag != 0
    }

    /// Whether processes are of its own.
    pub(super) fn has_processes(&self) -> bool {
        self.has(libc::CLONE_NEWPID)
    }

    /// Returns in the process that is to become the tool. It may be another than the one that called.
    pub(super) fn enter(&self) -> io::Result<()> {
        let flags = self.flags | if self.maps.is_some() { libc::CLONE_NEWUSER } else { 0 };
        if !self.has_processes() {
            // SAFETY: it takes a number.
            done(unsafe { libc::unshare(flags) }.into())?;
            return self.settle();
        }
        let mut ends = [0; 2];
        // SAFETY: there is room for two descriptors.
        done(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }.into())?;
        let [heard, told] = ends;
        // A signal to the group is for the tool. Whoever waits for it must not end before it.
        SigSet::all().thread_block()?;
        match fork(flags)? {
            0 => {}
            keeper => deputize(heard, keeper),
        }
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        close(heard);
        // It died before the line above, and sends no signal any more.
        if has_no_reader(told) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.settle()?;
        match fork(0)? {
            0 => {}
            tool => keep(told, tool, &self.reaches),
        }
        close(told);
        nix::unistd::setsid()?;
        SigSet::all().thread_unblock()?;
        Ok(())
    }

    /// Makes it what it is to be inside.
    fn settle(&self) -> io::Result<()> {
        if let Some(maps) = &self.maps {
            // The kernel's files of a process that cannot be looked into are root's.
            nix::sys::prctl::set_dumpable(true)?;
            let told = write(c"/proc/self/setgroups", b"deny")
                .and_then(|()| write(c"/proc/self/uid_map", maps.user.as_bytes()))
                .and_then(|()| write(c"/proc/self/gid_map", maps.group.as_bytes()));
            nix::sys::prctl::set_dumpable(false)?;
            told?;
        }
        if self.has(libc::CLONE_NEWNS) { self.mount() } else { Ok(()) }
    }

    /// Nothing can be written but the scratch, and nothing that is mounted here is seen outside. What the machine mounts or
    /// unmounts meanwhile is: a disk that is taken out does not wait for a job.
    fn mount(&self) -> io::Result<()> {
        mount(None, c"/", None, libc::MS_REC | libc::MS_SLAVE)?;
        if self.proc {
            mount(Some(c"proc"), c"/proc", Some(c"proc"), libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC)?;
        }
        if let Some(scratch) = &self.scratch {
            mount(Some(scratch), scratch, None, libc::MS_BIND)?;
        }
        let all = libc::AT_RECURSIVE.cast_unsigned();
        attributes(c"/", all, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID, 0)?;
        if self.writes_proc {
            attributes(c"/proc", 0, 0, libc::MOUNT_ATTR_RDONLY)?;
        }
        if let Some(scratch) = &self.scratch {
            attributes(scratch, 0, 0, libc::MOUNT_ATTR_RDONLY)?;
            // It still stands in the directory under the new mount.
            // SAFETY: the path ends with a zero.
            done(unsafe { libc::chdir(scratch.as_ptr()) }.into())?;
        }
        Ok(())
    }
}

/// Stands for the tool outside, and never returns.
fn deputize(heard: RawFd, keeper: libc::pid_t) -> ! {
    hold_only(heard, c"ffpool-deputy", None);
    let mut status: libc::c_int = 0;
    // SAFETY: there is room for a status.
    let read = unsafe { libc::read(0, (&raw mut status).cast(), size_of::<libc::c_int>()) };
    // Every signal but those that nobody outlives is blocked, so no wait is interrupted.
    // SAFETY: it is a child of this process, and its status is not wanted.
    unsafe { libc::waitpid(keeper, std::ptr::null_mut(), 0) };
    // It said nothing: it was killed, and the tool with it.
    let status = if read == size_of::<libc::c_int>().cast_signed() { status } else { libc::SIGKILL };
    if libc::WIFEXITED(status) {
        exit(libc::WEXITSTATUS(status));
    }
    let signal = libc::WTERMSIG(status);
    // SAFETY: no handler runs here any more, and nothing of this process is used afterwards.
    unsafe {
        let mut unblocked: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut unblocked);
        libc::sigaddset(&raw mut unblocked, signal);
        libc::signal(signal, libc::SIG_DFL);
        libc::kill(libc::getpid(), signal);
        libc::sigprocmask(libc::SIG_UNBLOCK, &raw const unblocked, std::ptr::null_mut());
    }
    exit(128 + signal)
}

/// Gathers whoever ends inside until the tool has, tells how that was, and never returns.
fn keep(told: RawFd, tool: libc::pid_t, reaches: &CapsHashSet) -> ! {
    hold_only(told, c"ffpool-keeper", Some(reaches));
    // SAFETY: all zeros is room for a set.
    let mut heard: libc::sigset_t = unsafe { std::mem::zeroed() };
    for signal in [libc::SIGCHLD, PASSED_ON] {
        // SAFETY: the set is ours.
        unsafe { libc::sigaddset(&raw mut heard, signal) };
    }
    loop {
        // Blocked since before the tool was born, so none is missed.
        // SAFETY: the set outlives the call, and who sent the signal is not asked for.
        if unsafe { libc::sigwaitinfo(&raw const heard, std::ptr::null_mut()) } == PASSED_ON {
            // SAFETY: it takes numbers, and the tool was not waited for, so its number is its own.
            unsafe { libc::kill(-tool, PASSED_ON) };
        }
        gather(tool);
    }
}

/// Waits for those that have ended. With the tool among them it tells how that was, and ends.
fn gather(tool: libc::pid_t) {
    loop {
        let mut status: libc::c_int = 0;
        // SAFETY: there is room for a status.
        match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
            0 => return,
            ended if ended == tool => {
                // SAFETY: the bytes are a status.
                unsafe { libc::write(0, (&raw const status).cast(), size_of::<libc::c_int>()) };
                exit(0);
            }
            ended if ended < 0 => exit(1),
            _ => {}
        }
    }
}

/// Gives up all descriptors but this one, which becomes the first, all rights but these and the worker's memory, and cannot be
/// looked into from before that on. Who lists processes sees the name.
fn hold_only(one: RawFd, name: &CStr, rights: Option<&CapsHashSet>) {
    let _ = nix::sys::prctl::set_name(name);
    // SAFETY: it takes numbers, and nothing here uses a descriptor but the first.
    let closed = unsafe {
        libc::dup2(one, 0);
        libc::syscall(libc::SYS_close_range, 1, libc::c_uint::MAX, 0)
    };
    let is_closed_in = nix::sys::prctl::set_dumpable(false).is_ok() && nix::sys::prctl::set_no_new_privs().is_ok();
    let has_no_more = match rights {
        Some(rights) => [CapSet::Effective, CapSet::Permitted].iter().all(|set| caps::set(None, *set, rights).is_ok()),
        None => caps::clear(None, CapSet::Permitted).is_ok(),
    };
    let has_no_more = has_no_more && caps::clear(None, CapSet::Inheritable).is_ok();
    if closed != 0 || !is_closed_in || !has_no_more || memory::forget().is_err() {
        exit(1);
    }
}

fn exit(code: libc::c_int) -> ! {
    // SAFETY: it ends the process, and nothing of it is run any more.
    unsafe { libc::_exit(code) }
}

/// The child's number; 0 in the child. The library's own `fork` takes locks that other threads of the worker may have held.
fn fork(flags: libc::c_int) -> io::Result<libc::pid_t> {
    // SAFETY: the child has a copy of all memory, and makes system calls only.
    let forked = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(libc::SIGCHLD | flags), 0, 0, 0, 0) };
    done(forked)?;
    libc::pid_t::try_from(forked).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn done(answer: libc::c_long) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn close(fd: RawFd) {
    // SAFETY: it was opened above and is used by nobody else.
    unsafe { libc::close(fd) };
}

fn has_no_reader(fd: RawFd) -> bool {
    let mut asked = libc::pollfd { fd, events: 0, revents: 0 };
    // SAFETY: it is one descriptor, and outlives the call, which does not wait.
    unsafe { libc::poll(&raw mut asked, 1, 0) > 0 }
}

fn write(to: &CStr, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: the path ends with a zero, the bytes have this length, and nobody else has the descriptor.
    unsafe {
        let fd = libc::open(to.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        done(fd.into())?;
        let written = libc::write(fd, bytes.as_ptr().cast(), bytes.len());
        let written = done(written as libc::c_long);
        close(fd);
        written
    }
}

fn mount(what: Option<&CStr>, at: &CStr, kind: Option<&CStr>, flags: libc::c_ulong) -> io::Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: the texts end with a zero or are none, and outlive the call.
    done(unsafe { libc::mount(pointer(what), at.as_ptr(), pointer(kind), flags, std::ptr::null()) }.into())
}

/// Changes what may be done with what is mounted there.
fn attributes(at: &CStr, flags: libc::c_uint, set: u64, clear: u64) -> io::Result<()> {
    let wish = libc::mount_attr { attr_set: set, attr_clr: clear, propagation: 0, userns_fd: 0 };
    // SAFETY: path and wish outlive the call, and the wish's size is told.
    done(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            at.as_ptr(),
            flags,
            std::ptr::from_ref(&wish),
            size_of::<libc::mount_attr>(),
        )
    })
}
