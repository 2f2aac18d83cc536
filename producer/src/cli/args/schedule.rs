//! The flags of `schedule`.

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};

use super::Wanted;

pub(crate) const EXAMPLES: &str = "\
Examples:
  ffpool schedule add nightly --cron '30 2 * * *' --zone Europe/Berlin job.json
  ffpool schedule list
  ffpool schedule show nightly
  ffpool schedule pause nightly
  ffpool schedule run-now nightly";

const ADD: &str = "\
Examples:
  ffpool schedule add nightly --cron '30 2 * * *' --zone Europe/Berlin job.json
  ffpool schedule add hourly --cron '0 * * * *' -s 720p30-h264 -i /media/in/live.ts --to '/media/out/{date}-{hour}.mp4'
  ffpool schedule add news --cron '0 8 * * mon-fri' --template news --set 'title={date}' --missed one

CRON has five fields: minute, hour, day, month, day of the week. In the job's texts {date}, {yesterday}, {time}, {year},
{month}, {day}, {hour}, {minute}, {unix} and {schedule} stand for the due time in the zone; braces that stay are doubled.
Flags overrule the file.";

#[derive(Debug, Subcommand)]
pub(crate) enum Schedule {
    /// Make a job again and again.
    #[command(after_help = ADD)]
    Add(Box<AddSchedule>),
    /// List the schedules with their next due times.
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  ffpool schedule list\n  ffpool schedule list --output json"
    )]
    List,
    /// Show a schedule, its next due times, and what became of the last.
    #[command(after_help = "Examples:\n  ffpool schedule show nightly")]
    Show {
        /// Its name.
        name: String,
    },
    /// Do away with schedules; their jobs stay.
    #[command(visible_alias = "remove", after_help = "Examples:\n  ffpool schedule rm nightly")]
    Rm {
        /// Their names.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Make no jobs until it is resumed.
    #[command(after_help = "Examples:\n  ffpool schedule pause nightly")]
    Pause {
        /// Their names.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Make jobs again, from the next due time on.
    #[command(after_help = "Examples:\n  ffpool schedule resume nightly")]
    Resume {
        /// Their names.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Make the job of a schedule now, besides its due times.
    #[command(after_help = "Examples:\n  ffpool schedule run-now nightly")]
    RunNow {
        /// Its name.
        name: String,
    },
}

/// What to make, and when.
#[derive(Debug, Args)]
pub(crate) struct AddSchedule {
    /// Its name.
    pub(crate) name: String,
    /// A JSON file with the job; `-` reads standard input. Without one, the flags say everything.
    #[arg(value_name = "FILE")]
    pub(crate) source: Option<String>,
    /// When: minute, hour, day, month and day of the week.
    #[arg(long)]
    pub(crate) cron: String,
    /// The IANA time zone in which that is meant.
    #[arg(long, default_value = "UTC", value_name = "ZONE")]
    pub(crate) zone: String,
    /// What becomes of due times that pass while no dispatcher is there: nothing, or one job for all.
    #[arg(long, default_value = "skip", value_parser = PossibleValuesParser::new(["skip", "one"]))]
    pub(crate) missed: String,
    /// What happens while the last job has not ended: no job, or one all the same.
    #[arg(long, default_value = "skip", value_parser = PossibleValuesParser::new(["skip", "allow"]))]
    pub(crate) overlap: String,
    /// Wait to be resumed.
    #[arg(long)]
    pub(crate) paused: bool,
    #[command(flatten)]
    pub(crate) wanted: Wanted,
}
