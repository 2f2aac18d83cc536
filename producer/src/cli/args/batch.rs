//! The flags of `batch`.

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};

use super::Wanted;
use crate::cli::batch::Rate;

pub(crate) const EXAMPLES: &str = "\
Examples:
  ffpool batch jobs.csv --rate 20/s
  ffpool batch jobs.ndjson --queue batch --label import=2026-11 --skip-invalid
  ffpool batch jobs.json --dry-run --output json
  find /media/in -name '*.mov' | jq -R '{scenario: \"720p30-h264\", input: .}' | ffpool batch - --format ndjson

A CSV file begins with a line of field names: `scenario`, `input`, `output`, `parameters.crf`, `labels.show`;
an empty cell leaves the field out. Flags overrule the list.
All jobs are checked before the first is sent. Running the same list again makes no job twice, so that is also how to
go on after an interruption; --run NAME makes them anew.
Exit code 4 when a job was not valid, also with --skip-invalid.";

/// How a list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    /// An array of jobs.
    Json,
    /// One job a line.
    #[value(alias = "jsonl")]
    Ndjson,
    /// A line of field names, then one job a line.
    Csv,
}

/// Which list, and how fast.
#[derive(Debug, Args)]
pub(crate) struct Batch {
    /// The list: a JSON array, one JSON object a line, or CSV; `-` reads standard input.
    #[arg(value_name = "FILE")]
    pub(crate) source: String,
    /// How the list is written. Default: by the file's extension, else by its first character.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) format: Option<ListFormat>,
    /// What stands between the cells of a CSV file, such as `;`.
    #[arg(long, default_value = ",", value_parser = PossibleValuesParser::new([",", ";", "\t", "|"]), hide_possible_values = true, value_name = "CHARACTER")]
    pub(crate) delimiter: String,
    /// Jobs a second, minute or hour at most, such as `20/s` or `600/m`. Default: as fast as they are taken.
    #[arg(long, value_name = "N/s|m|h", value_parser = str::parse::<Rate>)]
    pub(crate) rate: Option<Rate>,
    /// Leave out jobs that are not valid, instead of submitting nothing at all.
    #[arg(long)]
    pub(crate) skip_invalid: bool,
    /// A name for this run of the list: the same jobs under another name are made anew.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    pub(crate) run: String,
    /// Publish straight to RabbitMQ (--amqp-url), without the API.
    #[arg(long)]
    pub(crate) amqp: bool,
    /// Write the bodies as MessagePack.
    #[arg(long, requires = "amqp")]
    pub(crate) msgpack: bool,
    /// Check the list and print what would be submitted.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) wanted: Wanted,
}
