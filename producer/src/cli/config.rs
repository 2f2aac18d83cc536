//! `config`: settings for a machine with their reasons, and how many jobs fit on it.
//!
//! Invariant: it counts by the rule of the workers, `ffpool_schema::capacity`. What it counts is the machine: a worker in a cgroup
//! with less has less, which is told to it by `--cores` and `--memory`.

use std::fmt::Write as _;
use std::path::Path;

use ffpool_schema::capacity::{self, Room, Workload};
use ffpool_schema::job::ResourceLimits;
use nix::sys::statvfs::statvfs;
use serde::Serialize;

use super::Context;
use super::args::{CapacityArgs, Config, Environment, MachineArgs, Recommend, SettingsForm};
use super::exit::{Exit, Trouble};
use super::output::{self, Format, fields, table};

const MIB: u64 = 1024 * 1024;
/// Of what a job writes: its output, and as much again for what it works with.
const SCRATCH_FACTOR: f64 = 2.0;
/// Spot machines are told two minutes ahead by AWS and 30 seconds by the others: shorter than a drain by default.
const SPOT_DRAIN_SECS: u32 = 25;

pub(crate) fn config(context: &Context, command: &Config) -> Result<Exit, Trouble> {
    match command {
        Config::Recommend(args) => recommend(context, args),
        Config::Capacity(args) => capacity(context, args),
    }
}

/// One setting with its reason.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Setting {
    variable: &'static str,
    value: String,
    reason: String,
}

#[derive(Debug, Serialize)]
struct Recommendation {
    cores: f64,
    memory_mb: u64,
    disk_mb: u64,
    /// Slots that a worker with these settings has.
    slots: u32,
    settings: Vec<Setting>,
}

fn recommend(context: &Context, args: &Recommend) -> Result<Exit, Trouble> {
    let room = room(&args.machine)?;
    let made = recommendation(&room, args.machine.workload, args.environment, args.spot);
    match (context.format, args.form) {
        (Format::Json, _) => Format::Json.print(&made, |_| String::new()),
        (Format::Table, SettingsForm::Text) => output::line(as_text(&made).trim_end()),
        (Format::Table, SettingsForm::Toml) => output::line(as_toml(&made).trim_end()),
        (Format::Table, SettingsForm::Env) => {
            output::line(pairs(&made, |setting| format!("{}={}", setting.variable, setting.value)).trim_end());
        }
        (Format::Table, SettingsForm::Yaml) => {
            output::line(pairs(&made, |setting| format!("{}: {:?}", setting.variable, setting.value)).trim_end());
        }
    }
    Ok(Exit::Success)
}

/// What a worker is to be told on a machine with this room. Pure.
fn recommendation(room: &Room, workload: Workload, environment: Environment, spot: bool) -> Recommendation {
    let (oversubscription, share) = match environment {
        Environment::Development => (0.5, "half of the machine is left to whoever works on it"),
        Environment::Staging | Environment::Production => (1.0, "the machine is the worker's alone"),
    };
    let slots = capacity::slots(room, workload, oversubscription);
    let mut settings = Vec::new();
    let mut set = |variable, value: String, reason: String| settings.push(Setting { variable, value, reason });
    let left = (100.0 - workload.factor() * 100.0).round();
    set("FFPOOL_WORKLOAD", workload.to_string(), format!("{left} % of the room is left for the worker and the system"));
    set("FFPOOL_OVERSUBSCRIPTION", format!("{oversubscription}"), share.to_owned());
    // A worker takes no job below this; all slots full may want more, and those jobs say `disk_full` and go elsewhere.
    set(
        "FFPOOL_MIN_DISK_MB",
        ResourceLimits::DISK_MB.to_string(),
        format!(
            "an ordinary job may use so much; {slots} at a time want {} MiB",
            u64::from(slots) * ResourceLimits::DISK_MB
        ),
    );
    match environment {
        Environment::Development => {
            set("FFPOOL_CGROUPS", "auto".into(), "without the right to make cgroups it runs one job at a time".into());
            set(
                "FFPOOL_SANDBOX",
                "best".into(),
                "whatever layers this machine allows; the worker's page says which".into(),
            );
        }
        Environment::Staging | Environment::Production => {
            set("FFPOOL_CGROUPS", "require".into(), "limits must hold: without cgroups it does not start".into());
            set(
                "FFPOOL_SANDBOX",
                "require".into(),
                "strangers' media: without Landlock and seccomp it does not start".into(),
            );
        }
    }
    if spot {
        set("FFPOOL_DRAIN_SECS", SPOT_DRAIN_SECS.to_string(), "two of three clouds give 30 s notice".into());
    }
    let (level, form) = match environment {
        Environment::Development => ("debug", "text"),
        Environment::Staging => ("info,ffpool_worker=debug", "json"),
        Environment::Production => ("info", "json"),
    };
    set("FFPOOL_LOG", level.into(), "how much is said".into());
    set("FFPOOL_LOG_FORMAT", form.into(), "`json` for programs, `text` for people".into());
    Recommendation {
        cores: f64::from(room.cpu_percent) / 100.0,
        memory_mb: room.memory_mb,
        disk_mb: room.disk_mb,
        slots,
        settings,
    }
}

fn as_text(made: &Recommendation) -> String {
    let mut text = format!(
        "{} cores, {} MiB of memory, {} MiB of scratch: {} slots\n\n",
        made.cores, made.memory_mb, made.disk_mb, made.slots
    );
    let row = |setting: &Setting| [setting.variable.to_owned(), setting.value.clone(), setting.reason.clone()];
    text.push_str(&table(["setting", "value", "why"], made.settings.iter().map(row)));
    text
}

fn as_toml(made: &Recommendation) -> String {
    let mut text = String::from("[worker]\n");
    for Setting { variable, value, reason } in &made.settings {
        let key = variable.trim_start_matches("FFPOOL_").to_lowercase();
        let value = if value.parse::<f64>().is_ok() { value.clone() } else { format!("{value:?}") };
        let _ = writeln!(text, "{key} = {value}  # {reason}");
    }
    text
}

/// The settings line by line, each below its reason. All values are words and numbers: no quoting is needed.
fn pairs(made: &Recommendation, line: impl Fn(&Setting) -> String) -> String {
    made.settings.iter().map(|setting| format!("# {}\n{}\n", setting.reason, line(setting))).collect()
}

#[derive(Debug, Serialize)]
struct CapacityReport {
    slots: u32,
    /// What decides the slots.
    scarcest: String,
    /// Slots that one job takes.
    slots_per_job: u32,
    /// Jobs at a time; 0 when one is larger than the machine.
    jobs: u32,
    job_disk_mb: u64,
    /// Scratch that all of them may take at a time.
    disk_mb: u64,
}

fn capacity(context: &Context, args: &CapacityArgs) -> Result<Exit, Trouble> {
    let report = capacity_report(&room(&args.machine)?, args);
    context.format.print(&report, |report| {
        let mut text = fields(&[
            ("jobs at a time", report.jobs.to_string()),
            ("slots", format!("{}, decided by {}", report.slots, report.scarcest)),
            ("a job takes", format!("{} of them", report.slots_per_job)),
            ("scratch", format!("{} MiB a job, {} MiB for all", report.job_disk_mb, report.disk_mb)),
        ]);
        if report.jobs == 0 {
            text.push_str(
                "\nOne such job is larger than this worker: it is handed to one that it fits, or rejected.\n",
            );
        }
        text
    });
    Ok(Exit::Success)
}

/// How many such jobs fit into this room. Pure.
fn capacity_report(room: &Room, args: &CapacityArgs) -> CapacityReport {
    let rate = args.bitrate.zip(args.duration);
    let job_disk = rate.map(|(rate, secs)| scratch_of(rate, secs)).or(args.job_disk);
    let limits = ResourceLimits {
        max_cpu_percent: args.job_cpu,
        max_memory_mb: args.job_memory,
        max_disk_mb: job_disk,
        ..ResourceLimits::default()
    };
    let slots = capacity::slots(room, args.machine.workload, args.oversubscription);
    let jobs = capacity::at_a_time(&limits, slots);
    CapacityReport {
        slots,
        scarcest: room.scarcest().to_string(),
        slots_per_job: limits.units(),
        jobs,
        job_disk_mb: limits.disk_mb(),
        disk_mb: u64::from(jobs) * limits.disk_mb(),
    }
}

/// MiB of scratch for an output of this rate in Mbit/s and length.
fn scratch_of(megabits: f64, secs: u32) -> u64 {
    let bytes = megabits * 1e6 / 8.0 * f64::from(secs) * SCRATCH_FACTOR;
    (bytes / MIB as f64).ceil() as u64
}

fn room(args: &MachineArgs) -> Result<Room, Trouble> {
    let cores = match args.cores {
        Some(cores) => cores,
        // Heeds affinity and the quota of a cgroup.
        None => std::thread::available_parallelism()
            .map_err(|error| Trouble::usage(format!("the processors cannot be counted ({error}): give --cores")))
            .map(|count| u32::try_from(count.get()).unwrap_or(u32::MAX))?,
    };
    let memory_mb = args.memory.map_or_else(total_memory, Ok)?;
    let disk_mb = args.disk.map_or_else(|| free_scratch(&args.scratch), Ok)?;
    Ok(Room { cpu_percent: cores.saturating_mul(100), memory_mb, disk_mb })
}

fn total_memory() -> Result<u64, Trouble> {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib / 1024)
        .ok_or_else(|| Trouble::usage("/proc/meminfo does not say how much memory there is: give --memory"))
}

fn free_scratch(scratch: &Path) -> Result<u64, Trouble> {
    let place = scratch.ancestors().find(|place| place.exists()).unwrap_or(Path::new("/"));
    let found = statvfs(place).map_err(|error| {
        Trouble::usage(format!("the space in {} is not known ({}): give --disk", place.display(), error.desc()))
    })?;
    Ok(found.blocks_available().saturating_mul(found.fragment_size()) / MIB)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::args::{Cli, Command};
    use super::*;

    fn machine() -> Room {
        Room { cpu_percent: 1600, memory_mb: 32 * 1024, disk_mb: 500_000 }
    }

    fn value<'a>(made: &'a Recommendation, variable: &str) -> Option<&'a str> {
        made.settings.iter().find(|setting| setting.variable == variable).map(|setting| setting.value.as_str())
    }

    #[test]
    fn production_takes_the_machine_and_insists_and_development_takes_half_and_does_not() {
        let made = recommendation(&machine(), Workload::Cpu, Environment::Production, false);
        assert_eq!((made.slots, value(&made, "FFPOOL_SANDBOX")), (12, Some("require")));
        assert_eq!(value(&made, "FFPOOL_DRAIN_SECS"), None);
        let made = recommendation(&machine(), Workload::Cpu, Environment::Development, true);
        assert_eq!((made.slots, value(&made, "FFPOOL_SANDBOX")), (6, Some("best")));
        assert_eq!(value(&made, "FFPOOL_DRAIN_SECS"), Some("25"));
    }

    /// What `ffpool config capacity` says with these options.
    fn capacity_of(options: &str) -> CapacityReport {
        let line = format!("ffpool config capacity {options}");
        match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
            Some(Command::Config(Config::Capacity(args))) => capacity_report(&room(&args.machine).unwrap(), &args),
            other => panic!("{line} is {other:?}"),
        }
    }

    const MANUAL: &str = include_str!("../../../docs/operations.md");

    /// Each row of the manual's table: what the original says, the options, what comes out.
    #[test]
    fn the_originals_examples_come_out_as_the_manual_shows_them() {
        let rows: Vec<&str> = MANUAL.lines().filter(|line| line.contains("| `--cores ")).collect();
        assert_eq!(rows.len(), 9, "{rows:#?}");
        for row in rows {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            let [_, original, options, shown] = cells[..] else { panic!("not four cells: {row}") };
            let jobs = capacity_of(&format!("--disk 500G {}", options.trim_matches('`'))).jobs;
            assert_eq!(jobs.to_string(), shown, "{row}");
            if !original.is_empty() {
                let (least, most) = original.split_once(" to ").unwrap_or((original, original));
                let bounds: [u32; 2] = [least, most].map(|bound| bound.parse().unwrap());
                assert!((bounds[0]..=bounds[1]).contains(&jobs), "{row}");
            }
        }
    }

    /// 4 Mbit/s for 300 s, twice: the original says 2400 MB, because it takes a bit for a byte.
    #[test]
    fn scratch_is_counted_in_bytes() {
        assert_eq!(scratch_of(4.0, 300), 287);
        let machine = "--cores 16 --memory 32G --disk 500G --job-cpu 200 --workload io";
        let eight = capacity_of(&format!("{machine} --bitrate 4M --duration 300"));
        assert_eq!((eight.jobs, eight.job_disk_mb, eight.disk_mb), (8, 287, 2296));
        assert!(MANUAL.contains("287 MiB") && MANUAL.contains("2296 MiB"), "the manual says otherwise");
    }

    #[test]
    fn the_settings_file_has_the_keys_of_the_worker() {
        let made = recommendation(&machine(), Workload::Io, Environment::Staging, true);
        let text = as_toml(&made);
        assert!(text.starts_with("[worker]\nworkload = \"io\"  # 0 % of"), "{text}");
        assert!(text.contains("\ndrain_secs = 25  # "), "{text}");
    }
}
