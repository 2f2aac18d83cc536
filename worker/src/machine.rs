//! What the kernel gives this worker, and the cgroups in which its attempts live.
//!
//! Invariant: everything is read below a root directory that the caller names, so that tests read trees of their own.

pub mod energy;
pub mod group;
pub mod hierarchy;
#[cfg(test)]
mod kernel;
pub mod room;
