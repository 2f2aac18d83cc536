//! A job by flags: what `submit`, and every command that submits, takes.
//!
//! Invariant: each flag names one field of a job, and overrules what a file says of it.

use clap::Args;
use clap::builder::PossibleValuesParser;
use ffpool_schema::id::JobId;
use ffpool_schema::job::{Engine, Pool, Priority, Queue};
use jiff::Timestamp;

use super::pair;

/// A job by flags. Every one of them overrules the file.
#[derive(Debug, Default, Clone, Args)]
#[command(next_help_heading = "Job")]
pub(crate) struct Wanted {
    /// The encode: `<size>[fps]-<codec>` such as `1080p60-h264`, or a name from `ffpool scenarios`.
    #[arg(long, short = 's')]
    pub(crate) scenario: Option<String>,
    /// The template that the job is made of: `ffpool templates` lists them.
    #[arg(long, value_name = "NAME")]
    pub(crate) template: Option<String>,
    /// A value of the template: of one of its variables, or of a field by its path, such as `parameters.crf`; may repeat.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) set: Vec<(String, String)>,
    /// The source; without one a test source is generated.
    #[arg(long, short = 'i', value_name = "PATH|URL")]
    pub(crate) input: Option<String>,
    /// The SHA-256 that the source must have, as `sha256sum` prints it; with any other the job fails.
    #[arg(long, value_name = "HEX")]
    pub(crate) input_sha256: Option<String>,
    /// The size that the source must have.
    #[arg(long, value_name = "BYTES")]
    pub(crate) input_size_bytes: Option<u64>,
    /// The destination. (`--output` is how results are printed.)
    #[arg(long, short = 'o', visible_alias = "dest", value_name = "PATH|URL")]
    pub(crate) to: Option<String>,
    /// Which queue.
    #[arg(long, short = 'q', value_parser = PossibleValuesParser::new(Queue::ALL.map(Queue::as_str)))]
    pub(crate) queue: Option<String>,
    /// How urgent inside the queue.
    #[arg(long, short = 'p', value_parser = PossibleValuesParser::new(Priority::ALL.map(Priority::as_str)))]
    pub(crate) priority: Option<String>,
    /// Which kind of worker: `cpu`, or a name of the operator's.
    #[arg(long)]
    pub(crate) pool: Option<Pool>,
    /// Which engine.
    #[arg(long, value_parser = PossibleValuesParser::new([Engine::Auto, Engine::Ffmpeg, Engine::Gstreamer, Engine::Noop].map(Engine::as_str)))]
    pub(crate) engine: Option<String>,
    /// A parameter that differs from the scenario, such as `bitrate=6M`; may repeat.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) param: Vec<(String, String)>,
    /// A label for searching; may repeat.
    #[arg(long, short = 'l', value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) label: Vec<(String, String)>,
    /// Processor time in percent of one core.
    #[arg(long, value_name = "PERCENT")]
    pub(crate) max_cpu_percent: Option<u32>,
    /// Memory in MiB.
    #[arg(long, value_name = "MIB")]
    pub(crate) max_memory_mb: Option<u64>,
    /// Scratch space in MiB.
    #[arg(long, value_name = "MIB")]
    pub(crate) max_disk_mb: Option<u64>,
    /// Wall time of one attempt in seconds.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout_sec: Option<u64>,
    /// Failed attempts that are tried again.
    #[arg(long, value_name = "N")]
    pub(crate) max_retries: Option<u32>,
    /// Not before this instant (RFC 3339).
    #[arg(long, value_name = "TIME")]
    pub(crate) not_before: Option<Timestamp>,
    /// Useless after this instant (RFC 3339).
    #[arg(long, value_name = "TIME")]
    pub(crate) deadline: Option<Timestamp>,
    /// A job that must complete first; may repeat.
    #[arg(long, value_name = "JOB")]
    pub(crate) depends_on: Vec<JobId>,
    /// Whose job it is.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Called when the job ends.
    #[arg(long, value_name = "URL")]
    pub(crate) callback_url: Option<String>,
}
