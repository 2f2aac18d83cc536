//! How large a seeded ledger is.

/// Its size, and over which time it was filled.
#[derive(Debug, Clone, clap::Args)]
pub struct Size {
    /// Jobs: a fifth of them waits, two of a hundred run, the others have ended.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1000..=100_000_000))]
    pub jobs: u64,
    /// Workers.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(10..=99_999))]
    pub workers: u32,
    /// Over so many days the jobs were handed in.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=366))]
    pub days: u32,
    /// For so many hours nobody is taken for lost: leases and last heartbeats are dated ahead, as nobody sends heartbeats.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=8760))]
    pub hold: u32,
}

impl Size {
    /// As the SQL reads it.
    pub(super) fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("jobs", self.jobs.to_string()),
            ("workers", self.workers.to_string()),
            ("days", self.days.to_string()),
            ("hold", self.hold.to_string()),
            // Two fillings of one ledger make different jobs.
            ("salt", uuid::Uuid::new_v4().to_string()),
        ]
    }
}
