//! How long jobs may wait: what the advice on the number of workers is held to.

use clap::Args;
use ffpool_schema::advice::WaitTargets;

/// Wait targets.
#[derive(Debug, Clone, Args)]
pub struct ScaleSettings {
    /// Seconds after which a job of queue `live` should have started, for the advice on the number of workers.
    #[arg(long, env = "FFPOOL_SCALE_WAIT_LIVE_SECS", value_name = "SECS", default_value_t = WaitTargets::default().live, value_parser = clap::value_parser!(u32).range(1..=604_800))]
    pub scale_wait_live_secs: u32,
    /// The same of queue `default`.
    #[arg(long, env = "FFPOOL_SCALE_WAIT_DEFAULT_SECS", value_name = "SECS", default_value_t = WaitTargets::default().default, value_parser = clap::value_parser!(u32).range(1..=604_800))]
    pub scale_wait_default_secs: u32,
    /// The same of queue `batch`.
    #[arg(long, env = "FFPOOL_SCALE_WAIT_BATCH_SECS", value_name = "SECS", default_value_t = WaitTargets::default().batch, value_parser = clap::value_parser!(u32).range(1..=604_800))]
    pub scale_wait_batch_secs: u32,
}

impl ScaleSettings {
    /// The targets.
    #[must_use]
    pub fn targets(&self) -> WaitTargets {
        WaitTargets {
            live: self.scale_wait_live_secs,
            default: self.scale_wait_default_secs,
            batch: self.scale_wait_batch_secs,
        }
    }
}
