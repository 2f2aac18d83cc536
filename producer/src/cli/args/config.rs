//! The arguments of `ffpool config`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use ffpool_schema::capacity::Workload;

pub(crate) const EXAMPLES: &str = "\
Examples:
  ffpool config recommend
  ffpool config recommend --environment production --cores 16 --memory 32G --disk 500G --as env > worker.env
  ffpool config capacity --cores 16 --memory 32G --job-cpu 200 --job-memory 2G
  ffpool config capacity --job-cpu 300 --bitrate 8M --duration 1800";

/// Settings for a machine, and what fits on it.
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Print settings of a worker for this machine or another, each with its reason.
    #[command(after_help = EXAMPLES)]
    Recommend(Recommend),
    /// Print how many jobs of a kind a worker runs at a time, and what decides it.
    #[command(after_help = EXAMPLES)]
    Capacity(CapacityArgs),
}

/// What a worker may use. Default: what this machine has.
#[derive(Debug, Args)]
pub(crate) struct MachineArgs {
    /// Cores.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) cores: Option<u32>,
    /// Memory, such as `32G` or `8192M`.
    #[arg(long, value_name = "SIZE", value_parser = mebibytes)]
    pub(crate) memory: Option<u64>,
    /// Free scratch space, such as `500G`.
    #[arg(long, value_name = "SIZE", value_parser = mebibytes)]
    pub(crate) disk: Option<u64>,
    /// Where scratch is, for the space that is free there.
    #[arg(long, env = "FFPOOL_SCRATCH", value_name = "DIR", default_value = "/var/tmp/ffpool")]
    pub(crate) scratch: PathBuf,
    /// What its jobs are bound by: `cpu` leaves a quarter of the machine to the system, `mixed` 15 %, `io` nothing.
    #[arg(long, default_value_t = Workload::Cpu, value_name = "WORKLOAD")]
    pub(crate) workload: Workload,
}

/// For which use a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Environment {
    /// A machine on which somebody works besides.
    Development,
    /// As in production, and loud.
    Staging,
    /// A machine for the worker alone.
    Production,
}

/// How settings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SettingsForm {
    /// A table with the reasons.
    Text,
    /// A settings file.
    Toml,
    /// Variables, for an environment file or a shell.
    Env,
    /// A map, for templates.
    Yaml,
}

#[derive(Debug, Args)]
pub(crate) struct Recommend {
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// For which use.
    #[arg(long, short = 'e', value_enum, default_value = "production")]
    pub(crate) environment: Environment,
    /// Whether the machine may be taken away at short notice.
    #[arg(long)]
    pub(crate) spot: bool,
    /// In which form. `--output json` goes before it.
    #[arg(long = "as", value_enum, default_value = "text")]
    pub(crate) form: SettingsForm,
}

#[derive(Debug, Args)]
pub(crate) struct CapacityArgs {
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// Times the slots, as FFPOOL_OVERSUBSCRIPTION.
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR", value_parser = factor)]
    pub(crate) oversubscription: f64,
    /// A job's `max_cpu_percent`. Default: one slot's worth.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=409_600))]
    pub(crate) job_cpu: Option<u32>,
    /// A job's `max_memory_mb`, such as `2G`. Default: 2048M.
    #[arg(long, value_name = "SIZE", value_parser = mebibytes)]
    pub(crate) job_memory: Option<u64>,
    /// A job's `max_disk_mb`. Default: 5000M, or what bitrate and duration take.
    #[arg(long, value_name = "SIZE", value_parser = mebibytes, conflicts_with_all = ["bitrate", "duration"])]
    pub(crate) job_disk: Option<u64>,
    /// Bit rate of what a job makes, such as `4M`; with the duration it gives the scratch that the job takes.
    #[arg(long, value_name = "RATE", value_parser = megabits, requires = "duration")]
    pub(crate) bitrate: Option<f64>,
    /// Length of what a job makes, in seconds.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=604_800), requires = "bitrate")]
    pub(crate) duration: Option<u32>,
}

/// MiB from `32G`, `8192M`, `1T`; a bare number is MiB, as everywhere.
fn mebibytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size: a whole number and M, G or T are expected, such as 32G");
    let (number, factor) = match text.trim_end_matches(['B', 'i']).chars().last() {
        Some('T' | 't') => (text.trim_end_matches(['B', 'i', 'T', 't']), 1024 * 1024),
        Some('G' | 'g') => (text.trim_end_matches(['B', 'i', 'G', 'g']), 1024),
        Some('M' | 'm') => (text.trim_end_matches(['B', 'i', 'M', 'm']), 1),
        Some(_) | None => (text, 1),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(factor).filter(|mib| (1..=1 << 40).contains(mib)).ok_or_else(wrong)
}

/// Megabits a second from `4M`, `2500k`, `800000`.
fn megabits(text: &str) -> Result<f64, String> {
    let (number, divisor) = match text.chars().last() {
        Some('M') => (&text[..text.len() - 1], 1.0),
        Some('k') => (&text[..text.len() - 1], 1e3),
        Some(_) | None => (text, 1e6),
    };
    let rate =
        number.parse::<f64>().ok().map(|number| number / divisor).filter(|rate| (0.001..=10_000.0).contains(rate));
    rate.ok_or_else(|| format!("`{text}` is no bit rate: a number and k or M are expected, such as 4M"))
}

fn factor(text: &str) -> Result<f64, String> {
    let factor = text.parse::<f64>().ok().filter(|factor| (0.1..=10.0).contains(factor));
    factor.ok_or_else(|| "0.1 to 10 is expected".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_rates_are_read_as_people_write_them() {
        assert_eq!(mebibytes("32G"), Ok(32 * 1024));
        assert_eq!(mebibytes("8192M"), Ok(8192));
        assert_eq!(mebibytes("2TiB"), Ok(2 * 1024 * 1024));
        assert_eq!(mebibytes("512"), Ok(512));
        for bad in ["", "G", "0", "-1G", "1.5G", "99999999999T"] {
            assert!(mebibytes(bad).unwrap_err().contains("32G"), "{bad}");
        }
        assert_eq!(megabits("4M"), Ok(4.0));
        assert_eq!(megabits("2500k"), Ok(2.5));
        assert_eq!(megabits("800000"), Ok(0.8));
        for bad in ["", "M", "fast", "-4M", "NaN", "0"] {
            assert!(megabits(bad).is_err(), "{bad}");
        }
    }
}
