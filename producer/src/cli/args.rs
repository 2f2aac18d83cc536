//! The command line: every command, option and example.
//!
//! Invariant: every command has examples; every setting has a flag, a variable and a key in the settings file.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand};
use ffpool::JobName;
use ffpool_runtime::logs::LogFormat;
use ffpool_runtime::settings::FileArgs;
use ffpool_runtime::telemetry::TelemetryArgs;
use ffpool_runtime::traces::TraceArgs;
use ffpool_schema::failure::Cause;
use ffpool_schema::id::{JobId, WorkerId};
use ffpool_schema::job::{Pool, Priority, Queue};
use ffpool_schema::lifecycle::State;
use jiff::Timestamp;

use super::access::{self, Keys, Tenants};
use super::exit::Exit;
use super::output::Format;

mod batch;
mod certs;
mod config;
mod folder;
mod man;
mod scale;
mod schedule;
pub(crate) mod time;
mod top;
mod wanted;

pub(crate) use batch::{Batch, ListFormat};
pub(crate) use certs::{Certs, Issue, Revoke};
pub(crate) use config::{CapacityArgs, Config, Environment, MachineArgs, Recommend, SettingsForm};
pub(crate) use folder::Folder;
pub(crate) use scale::ScaleAdvice;
pub(crate) use schedule::{AddSchedule, Schedule};
pub(crate) use top::{ThemeName, Top};
pub(crate) use wanted::Wanted;

/// Submit and follow media jobs, and look after the pool that runs them.
#[derive(Debug, Parser)]
#[command(name = "ffpool", version, max_term_width = 110, after_help = epilogue())]
pub(crate) struct Cli {
    #[command(flatten, next_help_heading = "Settings")]
    pub(crate) file: FileArgs,
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(flatten)]
    pub(crate) logs: Logs,
    /// How results are printed: `table` for people, `json` for programs (nothing but JSON on standard output).
    #[arg(long, env = "FFPOOL_OUTPUT", global = true, default_value = "table", value_parser = Format::parse, value_name = "FORMAT")]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

fn epilogue() -> String {
    format!(
        "Examples:\n  \
         ffpool submit --scenario 1080p30-h264 --input /media/in.mov --to /media/out.mp4 --watch\n  \
         ffpool jobs list --status failed\n  \
         ffpool doctor\n\n\
         Settings come from flags, then FFPOOL_* variables, then a TOML file (--config, FFPOOL_CONFIG,\n\
         ~/.config/ffpool/config.toml, /etc/ffpool/ffpool.toml); --print-config shows what is in force.\n\n{}",
        Exit::table()
    )
}

/// Where the parts of the pool are.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// Address of the dispatcher's API.
    #[arg(long, env = "FFPOOL_API_URL", global = true, default_value = "https://127.0.0.1:8080", value_name = "URL")]
    pub(crate) api_url: String,
    /// Key for the API. Give it as a variable or in the file: other users see a process's flags.
    #[arg(long, env = "FFPOOL_API_KEY", global = true, hide_env_values = true, value_name = "KEY")]
    pub(crate) api_key: Option<String>,
    /// PEM file with the only certificates to trust, when the API has one that the system does not know.
    #[arg(long, env = "FFPOOL_API_CA_FILE", global = true, value_name = "FILE")]
    pub(crate) api_ca_file: Option<PathBuf>,
    /// PEM file with a certificate of your own and its private key, when the API asks for one.
    #[arg(long, env = "FFPOOL_API_CLIENT_CERT", global = true, value_name = "FILE")]
    pub(crate) api_client_cert: Option<PathBuf>,
    /// RabbitMQ, such as `amqp://user:password@host:5672/vhost`. For `submit --amqp` and `doctor`.
    #[arg(long, env = "FFPOOL_AMQP_URL", global = true, hide_env_values = true, value_name = "URL")]
    pub(crate) amqp_url: Option<String>,
    /// The RabbitMQ user of --amqp-url where the URL does not say it, as with a certificate; told with each job (`user_id`), so
    /// that the pool knows whose it is. Empty: nothing is told.
    #[arg(long, env = "FFPOOL_PUBLISH_AS", global = true, value_name = "NAME")]
    pub(crate) publish_as: Option<String>,
    /// NATS, such as `nats://host:4222`. For `jobs log --follow` and `doctor`.
    #[arg(long, env = "FFPOOL_NATS_URL", global = true, hide_env_values = true, value_name = "URL")]
    pub(crate) nats_url: Option<String>,
    /// Postgres, such as `postgres://user:password@host/database`. For `doctor`.
    #[arg(long, env = "FFPOOL_DATABASE_URL", global = true, hide_env_values = true, value_name = "URL")]
    pub(crate) database_url: Option<String>,
    /// The operator's own scenarios and templates. Default: those that the dispatcher has.
    #[arg(long, env = "FFPOOL_SCENARIO_FILE", global = true, value_name = "FILE")]
    pub(crate) scenario_file: Option<PathBuf>,
}

/// The program's own log. Silent unless asked: what a command has to say it prints itself.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Log")]
pub(crate) struct Logs {
    /// What is logged to standard error: a level, or directives such as `warn,ffpool_broker=debug`.
    #[arg(long, env = "FFPOOL_LOG", global = true, value_name = "LEVEL")]
    log: Option<String>,
    /// How logs look.
    #[arg(long, env = "FFPOOL_LOG_FORMAT", value_enum, default_value = "text", global = true)]
    log_format: LogFormat,
    #[command(flatten)]
    traces: TraceArgs,
}

impl Connection {
    /// The settings that may hold secrets, with their names.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = (String, String)> {
        let named = [
            ("api_key", &self.api_key),
            ("amqp_url", &self.amqp_url),
            ("nats_url", &self.nats_url),
            ("database_url", &self.database_url),
        ];
        named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)))
    }
}

impl Logs {
    /// What to set up; `None` when neither logs nor traces are wanted.
    pub(crate) fn telemetry(&self) -> Option<TelemetryArgs> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let (log, otlp_endpoint) = (given(&self.log), given(&self.traces.otlp_endpoint));
        (log.is_some() || otlp_endpoint.is_some()).then(|| TelemetryArgs {
            log: log.unwrap_or_else(|| "off".to_owned()),
            log_format: self.log_format,
            traces: self.traces.clone(),
        })
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Submit jobs, from a file or from flags.
    #[command(after_help = SUBMIT)]
    Submit(Box<Submit>),
    /// Submit every job of a list: a JSON array, NDJSON or CSV.
    #[command(after_help = batch::EXAMPLES)]
    Batch(Box<Batch>),
    /// Make a job of every file that arrives in a folder.
    #[command(after_help = folder::EXAMPLES)]
    Watch(Box<Folder>),
    /// Print what a worker would run for a job, what must come out, and what it will cost. Runs and sends nothing.
    #[command(after_help = PLAN)]
    Plan(Plan),
    /// List, show, follow and change jobs.
    #[command(subcommand, visible_alias = "job", after_help = JOBS)]
    Jobs(Jobs),
    /// List, show and drain workers.
    #[command(subcommand, visible_alias = "worker", after_help = WORKERS)]
    Workers(Workers),
    /// Show what waits in the work queues, pause and resume queues.
    #[command(visible_alias = "queue", args_conflicts_with_subcommands = true, after_help = QUEUES)]
    Queues(Queues),
    /// Show the pool live: queues, workers and running jobs, with keys to act on them.
    #[command(after_help = top::EXAMPLES)]
    Top(Top),
    /// Say how many workers each pool needs, so that what waits starts in time, and which could go.
    #[command(after_help = scale::EXAMPLES)]
    ScaleAdvice(ScaleAdvice),
    /// Sum up what jobs used and cost, by the dispatcher's prices.
    #[command(
        after_help = "Examples:\n  ffpool cost --by label:show --since 7d\n  ffpool cost --by scenario --output json"
    )]
    Cost {
        /// By what: `tenant`, `queue`, `scenario`, `worker` or `label:<name>`.
        #[arg(long, default_value = "tenant", value_name = "WHAT")]
        by: String,
        /// Only jobs recorded since: an instant (RFC 3339), or a time span back from now such as `7d`. Default: 30 days.
        /// A span begins at a full hour, so that the same question is answered from what was summed up.
        #[arg(long, value_parser = since_hour, value_name = "TIME")]
        since: Option<Timestamp>,
    },
    /// Make jobs again and again, by cron expressions in time zones.
    #[command(subcommand, visible_alias = "schedules", after_help = schedule::EXAMPLES)]
    Schedule(Schedule),
    /// Count what failed lately by cause, how often another attempt followed, and what became a dead letter.
    #[command(
        after_help = "Examples:\n  ffpool failures\n  ffpool failures --hours 168\n  ffpool failures --hours 1 --output json"
    )]
    Failures {
        /// In the last so many hours.
        #[arg(long, value_name = "HOURS", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=720))]
        hours: u32,
    },
    /// List, show, redrive and purge dead letters: jobs parked after their last failure.
    #[command(subcommand, after_help = DEAD)]
    Dead(Dead),
    /// List, make, rotate and revoke keys of the API. Needs a key of the role admin.
    #[command(subcommand, visible_alias = "key", after_help = access::KEYS)]
    Keys(Keys),
    /// List, make, change and disable tenants. Needs a key of the role admin that is bound to none.
    #[command(subcommand, visible_alias = "tenant", after_help = access::TENANTS)]
    Tenants(Tenants),
    /// List who changed what through the API, newest first. Needs a key of the role admin.
    #[command(after_help = "Examples:\n  ffpool audit\n  ffpool audit --all --output json")]
    Audit(Audit),
    /// List the scenarios that a job may name, and where they come from; check a scenario file.
    #[command(visible_alias = "scenario", after_help = SCENARIOS)]
    Scenarios {
        /// Check this scenario file and show what it holds, without asking the pool.
        #[arg(long, value_name = "FILE")]
        check: Option<PathBuf>,
    },
    /// List the templates that a job may be made of, with their variables.
    #[command(
        visible_alias = "template",
        after_help = "Examples:\n  ffpool templates\n  ffpool templates --output json | jq '.[].job'"
    )]
    Templates,
    /// Print the JSON Schema of a job.
    #[command(after_help = "Examples:\n  ffpool schema > job.schema.json")]
    Schema,
    /// Print the broker's exchanges, queues, bindings and policies as a RabbitMQ definitions file.
    ///
    /// Dispatchers and workers declare them by themselves; the file is for brokers on which they may not.
    #[command(
        after_help = "Examples:\n  ffpool topology --broker-version 4.0.5 > definitions.json\n  rabbitmqctl import_definitions definitions.json"
    )]
    Topology {
        /// A pool of workers besides `cpu`. May be repeated.
        #[arg(long = "pool", value_name = "POOL")]
        pools: Vec<Pool>,
        /// The broker's version: older ones stop at policies they do not know.
        #[arg(long, default_value = "3.10.0")]
        broker_version: String,
        /// The vhost, which must exist.
        #[arg(long, default_value = "/")]
        vhost: String,
    },
    /// Make a certificate authority and the certificates of all parts, and show what stands in them.
    #[command(subcommand, visible_alias = "cert", after_help = certs::EXAMPLES)]
    Certs(Certs),
    /// Check every part of the pool and this machine, and say what to do.
    #[command(after_help = DOCTOR)]
    Doctor(Doctor),
    /// Write what somebody who helps needs to see into one file, without secrets: settings, what `doctor` finds, workers,
    /// queues, jobs that wait or failed. Changes nothing.
    #[command(after_help = BUNDLE)]
    SupportBundle(Box<Bundle>),
    /// Print settings for a machine, and how many jobs fit on it. Asks nobody.
    #[command(subcommand, after_help = config::EXAMPLES)]
    Config(Config),
    /// Write the manual pages of every command into a folder.
    #[command(after_help = man::EXAMPLES)]
    Man {
        /// The folder. It is made if need be; `man` looks for pages in those that are called `man1`.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Print completions for a shell.
    #[command(
        after_help = "Examples:\n  ffpool completions bash > /etc/bash_completion.d/ffpool\n  ffpool completions zsh > ~/.zfunc/_ffpool"
    )]
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

const SUBMIT: &str = "\
Examples:
  ffpool submit --scenario 1080p30-h264 --input /media/in.mov --to /media/out.mp4 --watch
  ffpool submit --scenario 720p30-h264 --param duration=5 --param preset=fast   # a generated test source
  ffpool submit job.json --queue live --label show=news
  ffpool submit --template news --set title=morning --set parameters.crf=20
  jq -n '{scenario: \"480p30-h264\"}' | ffpool submit - --amqp --msgpack

FILE holds one job, or a list of jobs; flags overrule it. `ffpool schema` prints every field.
With --watch the exit code is the outcome: 0 completed, 3 failed, 4 rejected, 5 cancelled.";

const PLAN: &str = "\
Examples:
  ffpool plan job.json --explain
  ffpool plan job.json --output json | jq '.outputs[].expected'
  ffpool plan job.json --worker encode-3
  ffprobe -of json -show_format -show_streams -show_chapters in.mov > in.json; ffpool plan job.json --probe in.json

The input is looked at where it is on this machine or on a web server. Exit code 4 when the job would be refused.";

const JOBS: &str = "\
Examples:
  ffpool jobs list --status running
  ffpool jobs watch 17
  ffpool jobs explain 17
  ffpool jobs pause 17

A job is named by its number (17 or '#17') or by its id.";

const WORKERS: &str = "\
Examples:
  ffpool workers list
  ffpool workers drain encode-3";

const SCENARIOS: &str = "\
Examples:
  ffpool scenarios
  ffpool scenarios --check /etc/ffpool/scenarios.toml";

const QUEUES: &str = "\
Examples:
  ffpool queues
  ffpool queues --all --output json
  ffpool queues pause batch --reason 'the archive is full'
  ffpool queues resume batch";

const DEAD: &str = "\
Examples:
  ffpool dead list --groups
  ffpool dead redrive 17 --reason 'input was restored'
  ffpool dead redrive --group 5d1c0b7e --reason 'disk was replaced'
  ffpool dead purge --group 5d1c0b7e --reason 'test jobs'";

const DOCTOR: &str = "\
Examples:
  ffpool doctor
  ffpool doctor --worker --scratch /var/lib/ffpool/scratch
  ffpool doctor --output json

What has no address (FFPOOL_AMQP_URL, FFPOOL_NATS_URL, FFPOOL_DATABASE_URL) is not checked, and said so.
Exit code 1 when a check failed, 0 otherwise.";

const BUNDLE: &str = "\
Examples:
  ffpool support-bundle --job 17
  ffpool support-bundle --log-file /var/log/ffpool-worker.log --metrics http://127.0.0.1:9091/metrics --to trouble.tar.gz

Passwords, keys, signatures in addresses and stream keys are taken out. Names of files, labels and hosts are not: look
through it before you send it.";

/// What goes into a support bundle.
#[derive(Debug, Args)]
pub(crate) struct Bundle {
    /// A job, by number or id, with its history and log. May repeat.
    #[arg(long = "job", value_name = "JOB")]
    pub(crate) jobs: Vec<JobName>,
    /// A log file; its last 4 MiB. May repeat.
    #[arg(long = "log-file", value_name = "FILE")]
    pub(crate) logs: Vec<PathBuf>,
    /// A `/metrics` of a dispatcher or worker. May repeat.
    #[arg(long, value_name = "URL")]
    pub(crate) metrics: Vec<String>,
    /// The file. Default: ffpool-support-<time>.tar.gz here.
    #[arg(long, value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) doctor: Doctor,
}

/// What to submit, and how.
#[derive(Debug, Default, Args)]
pub(crate) struct Submit {
    /// A JSON file with one job or a list of jobs; `-` reads standard input.
    #[arg(value_name = "FILE")]
    pub(crate) source: Option<String>,
    #[command(flatten)]
    pub(crate) wanted: Wanted,
    /// The job's id. Submitting it again makes no second job. Default: a new one.
    #[arg(long)]
    pub(crate) id: Option<JobId>,
    /// Publish straight to RabbitMQ (--amqp-url), without the API.
    #[arg(long)]
    pub(crate) amqp: bool,
    /// Write the body as MessagePack.
    #[arg(long, requires = "amqp")]
    pub(crate) msgpack: bool,
    /// Follow the job to its end; the exit code is its outcome.
    #[arg(long, short = 'w')]
    pub(crate) watch: bool,
    /// Print the job in its canonical form and submit nothing.
    #[arg(long, conflicts_with_all = ["watch", "amqp"])]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Jobs {
    /// List jobs, newest first.
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  ffpool jobs list --status running --queue live\n  ffpool jobs list --since 2h --label show=news\n  ffpool jobs list --search clip-17.mov\n  ffpool jobs list --all --output json | jq '.items[].id'"
    )]
    List(Box<List>),
    /// Show a job with its attempts, history and result.
    #[command(after_help = "Examples:\n  ffpool jobs show 17\n  ffpool jobs show 17 --output json | jq .manifest")]
    Show {
        /// Number or id.
        job: JobName,
    },
    /// Follow a job to its end; the exit code is its outcome.
    #[command(after_help = "Examples:\n  ffpool jobs watch 17\n\nCtrl-C ends the watching, not the job.")]
    Watch {
        /// Number or id.
        job: JobName,
    },
    /// Print what the tool wrote.
    #[command(
        visible_alias = "logs",
        after_help = "Examples:\n  ffpool jobs log 17\n  ffpool jobs log 17 --follow   # new lines, over NATS"
    )]
    Log(Log),
    /// Say why a job is where it is, and what would move it.
    #[command(after_help = "Examples:\n  ffpool jobs explain 17")]
    Explain {
        /// Number or id.
        job: JobName,
    },
    /// End jobs.
    #[command(after_help = "Examples:\n  ffpool jobs cancel 17 18")]
    Cancel {
        /// Numbers or ids.
        #[arg(required = true)]
        jobs: Vec<JobName>,
    },
    /// End live jobs that run and keep what they have recorded.
    #[command(
        after_help = "Examples:\n  ffpool jobs finish 17\n\nThe job is completed as if its time were over; `jobs cancel` would keep nothing."
    )]
    Finish {
        /// Numbers or ids.
        #[arg(required = true)]
        jobs: Vec<JobName>,
    },
    /// Let files that were removed count no more against their tenant's storage.
    #[command(
        after_help = "Examples:\n  ffpool jobs forget 17\n\nNothing is removed: do that first. For the pool's operators; a tenant's key may not."
    )]
    Forget {
        /// Numbers or ids.
        #[arg(required = true)]
        jobs: Vec<JobName>,
    },
    /// Freeze running jobs where they are; those that wait are not started.
    #[command(
        after_help = "Examples:\n  ffpool jobs pause 17\n\nA frozen job keeps its slot and its memory; `jobs resume` lets it go on."
    )]
    Pause {
        /// Numbers or ids.
        #[arg(required = true)]
        jobs: Vec<JobName>,
    },
    /// Let paused jobs go on.
    #[command(after_help = "Examples:\n  ffpool jobs resume 17")]
    Resume {
        /// Numbers or ids.
        #[arg(required = true)]
        jobs: Vec<JobName>,
    },
    /// Send ended jobs round again.
    #[command(after_help = "Examples:\n  ffpool jobs retry 17")]
    Retry {
        /// Numbers or ids.
        #[arg(required = true)]
        jobs: Vec<JobName>,
    },
}

/// Which log.
#[derive(Debug, Args)]
pub(crate) struct Log {
    /// Number or id.
    pub(crate) job: JobName,
    /// Only of this attempt.
    #[arg(long, value_name = "N")]
    pub(crate) attempt: Option<u32>,
    /// So many lines at most, the last ones.
    #[arg(long, short = 'n', default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=5000))]
    pub(crate) lines: u16,
    /// Then print new lines as the tool writes them, until the job ends. Needs --nats-url.
    #[arg(long, short = 'f')]
    pub(crate) follow: bool,
}

/// Which jobs to list.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// In this state.
    #[arg(long, visible_alias = "state", value_parser = PossibleValuesParser::new(State::ALL.map(State::as_str)))]
    pub(crate) status: Option<String>,
    /// The jobs that make the chunks of this one, by its id. Without it none of these is listed.
    #[arg(long, value_name = "ID")]
    pub(crate) part_of: Option<JobId>,
    #[command(flatten)]
    pub(crate) filter: Filter,
}

/// Which jobs, in whatever state.
#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// In this queue.
    #[arg(long, short = 'q', value_parser = PossibleValuesParser::new(Queue::ALL.map(Queue::as_str)))]
    pub(crate) queue: Option<String>,
    /// Of this priority.
    #[arg(long, short = 'p', value_parser = PossibleValuesParser::new(Priority::ALL.map(Priority::as_str)))]
    pub(crate) priority: Option<String>,
    /// Last run by this worker.
    #[arg(long)]
    pub(crate) worker: Option<WorkerId>,
    /// With this label.
    #[arg(long, short = 'l', value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) label: Option<(String, String)>,
    /// Of this tenant.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Recorded since: an instant (RFC 3339), or so long ago (`2h`, `30m`, `1d`).
    #[arg(long, value_parser = since)]
    pub(crate) since: Option<Timestamp>,
    /// With this text in an address of their input or outputs or in a label, in small or large letters, or with an id that begins with it
    /// (8 digits and more). A page looks through 25,000 jobs at most; --all goes on to the oldest.
    #[arg(long, short = 's', value_name = "TEXT")]
    pub(crate) search: Option<String>,
    /// That failed by this cause, be it in one attempt only; of dead letters those that ended by it. `ffpool failures` counts them.
    #[arg(long, value_parser = cause)]
    pub(crate) cause: Option<Cause>,
    /// Rows on a page.
    #[arg(long, short = 'n', default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(crate) limit: u32,
    /// Go on behind this place; a list that was cut names it.
    #[arg(long)]
    pub(crate) cursor: Option<String>,
    /// Every page.
    #[arg(long, short = 'a', conflicts_with = "cursor")]
    pub(crate) all: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Workers {
    /// List the workers.
    #[command(visible_alias = "ls", after_help = "Examples:\n  ffpool workers list\n  ffpool workers list --all")]
    List {
        /// Also those that have stopped.
        #[arg(long, short = 'a')]
        all: bool,
    },
    /// Show one worker.
    #[command(after_help = "Examples:\n  ffpool workers show encode-3")]
    Show {
        /// Its name.
        worker: WorkerId,
    },
    /// Let workers finish what they run, take no more, and stop.
    #[command(after_help = "Examples:\n  ffpool workers drain encode-3 encode-4")]
    Drain {
        /// Their names.
        #[arg(required = true)]
        workers: Vec<WorkerId>,
    },
}

/// What waits, or a queue to pause or resume.
#[derive(Debug, Args)]
pub(crate) struct Queues {
    /// Also those in which nothing waits or runs.
    #[arg(long)]
    pub(crate) all: bool,
    #[command(subcommand)]
    pub(crate) change: Option<QueueChange>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum QueueChange {
    /// Start nothing more of a queue, of any priority and pool. What runs goes on.
    #[command(after_help = "Examples:\n  ffpool queues pause batch --reason 'the archive is full'")]
    Pause {
        /// Which.
        #[arg(value_parser = PossibleValuesParser::new(Queue::ALL.map(Queue::as_str)))]
        queue: String,
        /// Why; it is shown to whoever asks why a job waits.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let a paused queue go on.
    #[command(after_help = "Examples:\n  ffpool queues resume batch")]
    Resume {
        /// Which.
        #[arg(value_parser = PossibleValuesParser::new(Queue::ALL.map(Queue::as_str)))]
        queue: String,
    },
}

/// Which entries of the audit.
#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// Rows on a page.
    #[arg(long, short = 'n', default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub(crate) limit: u32,
    /// Go on behind this place; a list that was cut names it.
    #[arg(long)]
    pub(crate) cursor: Option<String>,
    /// Every page.
    #[arg(long, short = 'a', conflicts_with = "cursor")]
    pub(crate) all: bool,
}

/// Which dead letters to list.
#[derive(Debug, Args)]
pub(crate) struct DeadList {
    /// Count them by kind instead: the same cause with the same evidence, numbers and paths left out.
    #[arg(long, short = 'g')]
    pub(crate) groups: bool,
    /// Of this kind, see --groups.
    #[arg(long, value_name = "KIND", conflicts_with = "groups")]
    pub(crate) fingerprint: Option<String>,
    #[command(flatten)]
    pub(crate) filter: Filter,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Dead {
    /// List the dead letters.
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  ffpool dead list --groups\n  ffpool dead list --since 1d\n  ffpool dead list --all --output json"
    )]
    List(DeadList),
    /// Show one with its attempts and history.
    #[command(after_help = "Examples:\n  ffpool dead show 17")]
    Show {
        /// Number or id.
        job: JobName,
    },
    /// Send dead letters round again.
    #[command(
        after_help = "Examples:\n  ffpool dead redrive 17 18 --reason 'disk was full'\n  ffpool dead redrive --group 5d1c0b7e\n  ffpool dead redrive --all"
    )]
    Redrive {
        /// Numbers or ids.
        #[arg(required_unless_present_any = ["all", "group"], conflicts_with = "all")]
        jobs: Vec<JobName>,
        /// Every dead letter of this kind, see `dead list --groups`.
        #[arg(long, value_name = "KIND", conflicts_with = "all")]
        group: Option<String>,
        /// Every dead letter there is.
        #[arg(long)]
        all: bool,
        /// Why; it goes into the history.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Do away with dead letters and their history, for ever. Needs a key of the role admin.
    #[command(
        after_help = "Examples:\n  ffpool dead purge 17 --reason 'a test job'\n  ffpool dead purge --group 5d1c0b7e --reason 'test jobs' --yes"
    )]
    Purge(Purge),
}

/// Which dead letters to do away with.
#[derive(Debug, Args)]
pub(crate) struct Purge {
    /// Numbers or ids.
    #[arg(required_unless_present = "group")]
    pub(crate) jobs: Vec<JobName>,
    /// Every dead letter of this kind, see `dead list --groups`.
    #[arg(long, value_name = "KIND")]
    pub(crate) group: Option<String>,
    /// Why; it goes into the audit.
    #[arg(long)]
    pub(crate) reason: String,
    /// Do not ask.
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
}

/// What `doctor` looks at.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// This machine is to run a worker: what it lacks for that is a failure, not a warning.
    #[arg(long)]
    pub(crate) worker: bool,
    /// The worker's scratch directory.
    #[arg(long, env = "FFPOOL_SCRATCH", value_name = "DIR", default_value = "/var/tmp/ffpool")]
    pub(crate) scratch: PathBuf,
    /// The worker's media roots.
    #[arg(long, env = "FFPOOL_MEDIA_ROOTS", value_name = "DIRS", value_delimiter = ':')]
    pub(crate) media_roots: Vec<PathBuf>,
    /// The FFmpeg that the worker runs.
    #[arg(long, env = "FFPOOL_FFMPEG", value_name = "PROGRAM", default_value = "ffmpeg")]
    pub(crate) ffmpeg: String,
    /// The prober that the worker runs.
    #[arg(long, env = "FFPOOL_FFPROBE", value_name = "PROGRAM", default_value = "ffprobe")]
    pub(crate) ffprobe: String,
    /// A pool whose queues should exist besides those of `cpu`; may repeat.
    #[arg(long, value_name = "POOL")]
    pub(crate) pool: Vec<Pool>,
}

/// What to plan, and with which tools.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// A JSON file with one job; `-` reads standard input.
    #[arg(value_name = "FILE")]
    pub(crate) source: String,
    /// Say on what each figure stands, and what was assumed.
    #[arg(long)]
    pub(crate) explain: bool,
    /// Plan for this worker of the pool, by what it can run, instead of for this machine.
    #[arg(long, value_name = "NAME")]
    pub(crate) worker: Option<WorkerId>,
    /// A file with what `ffprobe -of json -show_format -show_streams -show_chapters` printed of the input, which is then not
    /// looked at: for inputs that only the worker reaches.
    #[arg(long, value_name = "FILE")]
    pub(crate) probe: Option<String>,
    /// The FFmpeg whose encoders and filters are asked for.
    #[arg(long, env = "FFPOOL_FFMPEG", value_name = "PROGRAM", default_value = "ffmpeg")]
    pub(crate) ffmpeg: String,
    /// The prober that looks at the input.
    #[arg(long, env = "FFPOOL_FFPROBE", value_name = "PROGRAM", default_value = "ffprobe")]
    pub(crate) ffprobe: String,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("KEY=VALUE is expected, such as bitrate=6M".to_owned()),
    }
}

fn cause(text: &str) -> Result<Cause, String> {
    Cause::ALL.into_iter().find(|cause| cause.as_str() == text).ok_or_else(|| {
        let names: Vec<&str> = Cause::ALL.map(Cause::as_str).to_vec();
        format!("one of {} is expected", names.join(", "))
    })
}

fn since(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let expected =
        || "an instant such as 2026-11-25T18:00:00Z, or a time span such as 2h or 1d, is expected".to_owned();
    let back = time::signed(text).ok_or_else(expected)?;
    Timestamp::now().checked_sub(back.abs()).map_err(|_| expected())
}

/// As [`since`], but that a span is lengthened to the full hour.
fn since_hour(text: &str) -> Result<Timestamp, String> {
    let at = since(text)?;
    if text.parse::<Timestamp>().is_ok() {
        return Ok(at);
    }
    let hour = at.as_second().div_euclid(3_600) * 3_600;
    Ok(Timestamp::from_second(hour).unwrap_or(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn a_span_of_costs_begins_at_a_full_hour_and_an_instant_where_it_is() {
        let at = "2026-11-25T18:20:00Z";
        assert_eq!(since_hour(at), since(at));
        assert_eq!(since_hour("7d").unwrap().as_second() % 3_600, 0);
        assert!(since_hour("7d").unwrap() <= since("7d").unwrap());
        assert!(since_hour("soon").is_err());
    }

    #[test]
    fn every_setting_stands_on_the_page_of_settings_as_the_help_tells_it() {
        use ffpool_runtime::settings_page::{hold, rows};
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/settings.md");
        hold(&page, "ffpool", &rows(Cli::command())).unwrap();
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples() {
        fn look(command: &clap::Command, path: &str) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "`{path}` has no examples");
            for inner in command.get_subcommands() {
                look(inner, &format!("{path} {}", inner.get_name()));
            }
        }
        look(&Cli::command(), "ffpool");
    }

    #[test]
    fn a_destination_given_as_output_format_is_explained() {
        let error = Cli::try_parse_from(["ffpool", "submit", "--output", "/media/out.mp4"]).unwrap_err().to_string();
        assert!(error.contains("--to"), "{error}");
    }

    #[test]
    fn a_time_span_counts_back_from_now() {
        let hour_ago = Timestamp::now().as_second() - 3600;
        assert!((since("1h").unwrap().as_second() - hour_ago).abs() < 60);
        assert!((since("1d").unwrap().as_second() - hour_ago + 23 * 3600).abs() < 60);
        assert_eq!(since("2026-11-25T18:00:00Z").unwrap().to_string(), "2026-11-25T18:00:00Z");
        since("yesterday").unwrap_err();
    }
}
