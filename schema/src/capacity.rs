//! How many attempts a worker has room for, and how much of it a job takes. Pure: what there is comes in as numbers.
//!
//! Invariant: a worker has at least one slot, and no job takes more slots than there are.

use std::fmt;
use std::str::FromStr;

use crate::job::ResourceLimits;

/// What the jobs of a worker are bound by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Workload {
    /// Processor time: a quarter is left for the worker and the system.
    #[default]
    Cpu,
    /// Both.
    Mixed,
    /// Reading and writing.
    Io,
}

impl Workload {
    /// All of them.
    pub const ALL: [Workload; 3] = [Workload::Cpu, Workload::Mixed, Workload::Io];

    /// The share of the room that attempts fill.
    #[must_use]
    pub fn factor(self) -> f64 {
        match self {
            Workload::Cpu => 0.75,
            Workload::Mixed => 0.85,
            Workload::Io => 1.0,
        }
    }

    /// The name in settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Workload::Cpu => "cpu",
            Workload::Mixed => "mixed",
            Workload::Io => "io",
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(self.as_str())
    }
}

impl FromStr for Workload {
    type Err = UnknownWorkload;

    fn from_str(text: &str) -> Result<Workload, UnknownWorkload> {
        let found = Workload::ALL.into_iter().find(|known| known.as_str() == text);
        found.ok_or_else(|| UnknownWorkload(text.to_owned()))
    }
}

/// A text that names no workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no workload: cpu, mixed or io is expected")]
pub struct UnknownWorkload(String);

/// What a worker may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// Processor time in percent of one core.
    pub cpu_percent: u32,
    /// Memory in MiB.
    pub memory_mb: u64,
    /// Free scratch space in MiB.
    pub disk_mb: u64,
}

/// What there is least of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scarce {
    /// Processor time.
    Processor,
    /// Memory.
    Memory,
    /// Scratch space.
    Scratch,
}

impl fmt::Display for Scarce {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Scarce::Processor => "processor time",
            Scarce::Memory => "memory",
            Scarce::Scratch => "scratch space",
        })
    }
}

impl Room {
    /// For how many unit jobs each resource is enough: 100 % of a core, 2048 MiB of memory, 5000 MiB of scratch.
    fn units(&self) -> [(Scarce, f64); 3] {
        [
            (Scarce::Processor, f64::from(self.cpu_percent) / f64::from(ResourceLimits::UNIT_CPU_PERCENT)),
            (Scarce::Memory, self.memory_mb as f64 / ResourceLimits::MEMORY_MB as f64),
            (Scarce::Scratch, self.disk_mb as f64 / ResourceLimits::DISK_MB as f64),
        ]
    }

    /// What decides how many slots there are.
    #[must_use]
    pub fn scarcest(&self) -> Scarce {
        let [processor, memory, scratch] = self.units();
        [memory, scratch].into_iter().fold(processor, |least, other| if other.1 < least.1 { other } else { least }).0
    }
}

/// Slots of a worker: what of processor, memory and disk gives least, times the workload's factor.
#[must_use]
pub fn slots(room: &Room, workload: Workload, oversubscription: f64) -> u32 {
    let least = room.units().into_iter().map(|(_, units)| units).fold(f64::INFINITY, f64::min);
    ((least * workload.factor() * oversubscription).floor() as u32).max(1)
}

/// Slots that a job takes of `slots`: as many units as its largest wish.
#[must_use]
pub fn units(limits: &ResourceLimits, slots: u32) -> u32 {
    limits.units().min(slots.max(1))
}

/// Jobs with these limits that a worker of so many slots runs at a time. 0: one is larger than the worker.
#[must_use]
pub fn at_a_time(limits: &ResourceLimits, slots: u32) -> u32 {
    slots / limits.units()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(cpu_percent: u32, memory_mb: u64, disk_mb: u64) -> Room {
        Room { cpu_percent, memory_mb, disk_mb }
    }

    fn limits(cpu: Option<u32>, memory: Option<u64>) -> ResourceLimits {
        ResourceLimits { max_cpu_percent: cpu, max_memory_mb: memory, ..ResourceLimits::default() }
    }

    #[test]
    fn the_scarcest_resource_decides_the_slots() {
        for (room, workload, oversubscription, expected, scarce) in [
            (room(800, 65_536, 100_000), Workload::Cpu, 1.0, 6, Scarce::Processor),
            (room(800, 65_536, 100_000), Workload::Io, 1.0, 8, Scarce::Processor),
            (room(800, 8_192, 100_000), Workload::Cpu, 1.0, 3, Scarce::Memory),
            (room(800, 65_536, 10_000), Workload::Io, 1.0, 2, Scarce::Scratch),
            (room(800, 65_536, 100_000), Workload::Cpu, 2.0, 12, Scarce::Processor),
            (room(50, 512, 100), Workload::Cpu, 1.0, 1, Scarce::Scratch),
        ] {
            assert_eq!(slots(&room, workload, oversubscription), expected, "{room:?}");
            assert_eq!(room.scarcest(), scarce, "{room:?}");
        }
    }

    #[test]
    fn a_job_takes_as_many_slots_as_its_largest_wish_and_no_more_than_there_are() {
        assert_eq!(units(&limits(None, None), 8), 1);
        assert_eq!(units(&limits(Some(50), None), 8), 1);
        assert_eq!(units(&limits(Some(250), None), 8), 3);
        assert_eq!(units(&limits(None, Some(8192)), 8), 4);
        assert_eq!(units(&limits(Some(1600), None), 8), 8);
    }

    /// 16 cores and 32 GB, 200 % and 2 GB a job: eight jobs, with nothing left for the system.
    #[test]
    fn the_originals_example_comes_out_as_it_says() {
        let machine = room(1600, 32 * 1024, 500_000);
        let job = limits(Some(200), Some(2048));
        assert_eq!(at_a_time(&job, slots(&machine, Workload::Io, 1.0)), 8);
        assert_eq!(at_a_time(&job, slots(&machine, Workload::Cpu, 1.0)), 6);
        assert_eq!(at_a_time(&limits(Some(1800), None), slots(&machine, Workload::Io, 1.0)), 0);
    }
}
