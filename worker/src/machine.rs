//! What the kernel gives this worker, and the cgroups in which its attempts live.
//!
//! Invariant: everything is read below a root directory that the caller names, so that tests read trees of their own.

pub mod energy;
pub mod group;
pub mod hierarchy;
#[cfg(test)]
mod kernel;
pub mod room;
pub mod usage;

/// Ticks of the kernel's clocks of processor time in a second.
pub(crate) fn ticks_per_sec() -> Option<u64> {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    u64::try_from(ticks).ok().filter(|ticks| *ticks > 0)
}
