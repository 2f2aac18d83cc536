//! The energy that the processors of this machine took, as their own counters tell it, and the part of it that an attempt had.
//!
//! The packages are counted as wholes, with what they take while idle: who uses a part of the processor time pays that part of all of
//! it. Memory and devices have no counters that every machine has, and are not counted.
//!
//! Invariant: what cannot be read in full is not told at all; nothing is made up. A counter that wraps is followed, as long as it
//! is read more often than it wraps.
//! Source: the kernel's powercap interface: `energy_uj` counts microjoules up to `max_energy_range_uj` and begins again at 0.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Where the kernel shows the counters.
pub const POWERCAP: &str = "/sys/class/powercap";
/// Where the kernel tells how long its processors have worked.
pub const STAT: &str = "/proc/stat";
/// How the names of packages begin, whoever made the processor.
const PREFIX: &str = "intel-rapl:";

/// What had been used by some moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// Energy of all packages, counted from when the meter was opened, in microjoules.
    energy_uj: u64,
    /// Time that the machine's processors have worked, in ticks.
    busy_ticks: u64,
}

impl Reading {
    /// Joules that this much processor time cost since `before`. `None` where the machine has not worked.
    #[must_use]
    pub fn joules_since(&self, before: &Reading, cpu_secs: f64) -> Option<f64> {
        let energy = self.energy_uj.checked_sub(before.energy_uj)?;
        let busy = self.busy_ticks.checked_sub(before.busy_ticks).filter(|ticks| *ticks > 0)?;
        // Both clocks are coarse: nobody has more than all.
        let share = (cpu_secs * super::ticks_per_sec()? as f64 / busy as f64).clamp(0.0, 1.0);
        Some(energy as f64 / 1e6 * share)
    }
}

/// A processor package.
#[derive(Debug)]
struct Package {
    counter: PathBuf,
    range_uj: u64,
    last_uj: u64,
}

/// The counters of this machine.
#[derive(Debug)]
pub struct Meter {
    stat: PathBuf,
    /// The packages, and what they have counted together. Never held across an await.
    counted: Mutex<(Vec<Package>, u64)>,
}

impl Meter {
    /// Finds the packages below `powercap`.
    ///
    /// # Errors
    /// Why the energy of this machine cannot be told, in words.
    pub fn open(powercap: &Path, stat: &Path) -> Result<Meter, String> {
        let unreadable = |error: std::io::Error| format!("{} cannot be read: {error}", powercap.display());
        let mut packages = Vec::new();
        for entry in fs::read_dir(powercap).map_err(unreadable)?.flatten() {
            let zone = entry.path();
            // Parts of a package are called `intel-rapl:0:1`, the whole machine is `psys`, and what is also counted over another
            // way is `intel-rapl-mmio:0`.
            let is_whole = entry.file_name().to_str().and_then(|name| name.strip_prefix(PREFIX)).is_some_and(is_number);
            let name = fs::read_to_string(zone.join("name")).unwrap_or_default();
            if !is_whole || !name.trim().starts_with("package-") {
                continue;
            }
            let counter = zone.join("energy_uj");
            let last_uj = number(&counter)?;
            packages.push(Package { range_uj: number(&zone.join("max_energy_range_uj"))?, last_uj, counter });
        }
        if packages.is_empty() {
            return Err(format!("{} has no processor package", powercap.display()));
        }
        let meter = Meter { stat: stat.to_owned(), counted: Mutex::new((packages, 0)) };
        busy(&meter.stat)?;
        Ok(meter)
    }

    /// What has been used by now: a few numbers that the kernel shows at once.
    pub fn read(&self) -> Option<Reading> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let (packages, total) = &mut *counted;
        let now: Option<Vec<u64>> = packages.iter().map(|package| number(&package.counter).ok()).collect();
        for (package, now) in packages.iter_mut().zip(now?) {
            *total += now.checked_sub(package.last_uj).unwrap_or_else(|| {
                // It has begun again at 0 after its largest value.
                (package.range_uj.saturating_sub(package.last_uj)).saturating_add(now)
            });
            package.last_uj = now;
        }
        Some(Reading { energy_uj: *total, busy_ticks: busy(&self.stat).ok()? })
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn number(file: &Path) -> Result<u64, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    text.trim().parse().map_err(|_| format!("{} holds no number", file.display()))
}

/// Ticks that the processors have worked: for programs, the kernel and interrupts; not while idle, waiting or stolen.
fn busy(stat: &Path) -> Result<u64, String> {
    let text = fs::read_to_string(stat).map_err(|error| format!("{} cannot be read: {error}", stat.display()))?;
    let first = text.lines().next().and_then(|line| line.strip_prefix("cpu "));
    let columns: Vec<u64> = first.unwrap_or_default().split_whitespace().map_while(|text| text.parse().ok()).collect();
    match columns.as_slice() {
        [user, nice, system, _idle, _waiting, interrupts, soft, ..] => Ok(user + nice + system + interrupts + soft),
        _ => Err(format!("{} does not tell processor time", stat.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree like the kernel's, with two packages, a part of one and the whole machine.
    struct Tree {
        dir: tempfile::TempDir,
    }

    impl Tree {
        fn new() -> Tree {
            let tree = Tree { dir: tempfile::tempdir().unwrap() };
            for (zone, name) in [
                ("intel-rapl:0", "package-0"),
                ("intel-rapl:0:0", "core"),
                ("intel-rapl:1", "package-1"),
                ("intel-rapl:2", "psys"),
                ("intel-rapl-mmio:0", "package-0"),
                ("intel-rapl", ""),
            ] {
                fs::create_dir(tree.dir.path().join(zone)).unwrap();
                tree.write(zone, "name", name);
                tree.write(zone, "max_energy_range_uj", "1000000000\n");
                tree.write(zone, "energy_uj", "5\n");
            }
            tree.work(0);
            tree
        }

        fn write(&self, zone: &str, file: &str, text: &str) {
            fs::write(self.dir.path().join(zone).join(file), text).unwrap();
        }

        fn count(&self, package: u32, uj: u64) {
            self.write(&format!("intel-rapl:{package}"), "energy_uj", &format!("{uj}\n"));
        }

        /// Ticks that the machine has worked; it idled and waited much longer.
        fn work(&self, ticks: u64) {
            let text = format!("cpu  {ticks} 10 20 999999 88888 5 5 777 0 0\ncpu0 1 2 3 4\n");
            fs::write(self.dir.path().join("stat"), text).unwrap();
        }

        fn open(&self) -> Result<Meter, String> {
            Meter::open(self.dir.path(), &self.dir.path().join("stat"))
        }
    }

    #[test]
    fn an_attempt_has_the_part_of_the_packages_energy_that_it_has_of_the_processor_time() {
        let tree = Tree::new();
        tree.count(0, 900_000_000);
        let meter = tree.open().unwrap();
        let before = meter.read().unwrap();
        tree.count(0, 960_000_000);
        tree.count(1, 40_000_005);
        tree.work(400);
        let now = meter.read().unwrap();
        let joules = |secs: f64| now.joules_since(&before, secs).unwrap();
        assert!((joules(1.0) - 25.0).abs() < 1e-9, "a quarter of 100 J: {}", joules(1.0));
        assert!((joules(9.0) - 100.0).abs() < 1e-9, "never more than all");
        assert_eq!(before.joules_since(&before, 1.0), None, "nobody has worked");
    }

    #[test]
    fn a_counter_that_begins_again_is_followed() {
        let tree = Tree::new();
        tree.count(0, 999_000_000);
        let meter = tree.open().unwrap();
        let before = meter.read().unwrap();
        for (uj, ticks) in [(500_000_000, 50), (20_000_000, 80), (30_000_000, 100)] {
            tree.count(0, uj);
            tree.work(ticks);
            meter.read().unwrap();
        }
        // 501 J over the first end, 520 J over the second, 10 J more.
        let joules = meter.read().unwrap().joules_since(&before, 1.0).unwrap();
        assert!((joules - 1031.0).abs() < 1e-6, "{joules}");
    }

    #[test]
    fn what_cannot_be_read_is_not_told() {
        let tree = Tree::new();
        let meter = tree.open().unwrap();
        fs::remove_file(tree.dir.path().join("intel-rapl:1/energy_uj")).unwrap();
        assert_eq!(meter.read(), None, "one package is not the machine");
        let why = tree.open().unwrap_err();
        assert!(why.contains("intel-rapl:1/energy_uj cannot be read"), "{why}");
        let empty = tempfile::tempdir().unwrap();
        let why = Meter::open(empty.path(), &tree.dir.path().join("stat")).unwrap_err();
        assert!(why.contains("no processor package"), "{why}");
        assert!(Meter::open(&empty.path().join("absent"), Path::new(STAT)).is_err());
    }
}
