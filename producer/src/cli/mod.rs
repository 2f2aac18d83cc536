//! Reads the settings and runs one command.
//!
//! Invariant: every way out of the program ends with a code of [`exit::Exit`].

mod access;
mod args;
mod audit;
mod batch;
mod bundle;
mod certs;
mod config;
mod cost;
mod dead;
mod doctor;
mod exit;
mod failures;
mod fleet;
mod folder;
mod format;
mod jobs;
mod man;
mod output;
mod plan;
mod progress;
mod scale;
mod scenarios;
mod schedule;
mod submit;
mod top;
mod wanted;
mod watch;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory;
use ffpool::{Client, ClientConfig};
use ffpool_runtime::settings::{self, SettingsError};
use ffpool_runtime::telemetry;

use args::{Cli, Command, Connection, Dead, Jobs, QueueChange, Workers};
use exit::{Exit, Trouble};
use output::Format;

/// What every command has at hand.
pub(crate) struct Context {
    pub(crate) connection: Connection,
    pub(crate) format: Format,
}

impl Context {
    pub(crate) fn client(&self) -> Result<Client, Trouble> {
        let config = ClientConfig {
            url: self.connection.api_url.clone(),
            key: self.connection.api_key.clone().filter(|key| !key.is_empty()),
            ca_file: self.connection.api_ca_file.clone(),
            client_cert_file: self.connection.api_client_cert.clone(),
        };
        Ok(Client::open(config)?)
    }
}

pub(crate) fn main() -> ExitCode {
    let arguments = with_own_file(std::env::args_os().collect());
    let cli = match settings::try_parse::<Cli>("client", arguments) {
        Ok(parsed) if parsed.args.file.print_config => {
            output::line(parsed.description.trim_end());
            return ExitCode::SUCCESS;
        }
        Ok(parsed) => parsed.args,
        // clap prints `--help` and mistakes itself, and ends with 0 or 2.
        Err(SettingsError::Clap(error)) => error.exit(),
        Err(SettingsError::File(error)) => return end(Err(error.into())),
    };
    let Some(command) = cli.command else {
        eprint!("{}", Cli::command().render_help());
        return ExitCode::from(Exit::Usage.code());
    };
    let telemetry = match cli.logs.telemetry().map(|args| telemetry::init("ffpool", &args)).transpose() {
        Ok(telemetry) => telemetry,
        Err(error) => return end(Err(Trouble::usage(settings::chain(&error)))),
    };
    ffpool_runtime::install_crypto();
    let context = Context { connection: cli.connection, format: cli.output };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return end(Err(Trouble::new(Exit::Trouble, format!("start the runtime: {error}")))),
    };
    let outcome = runtime.block_on(run(&context, command));
    if let Some(telemetry) = telemetry {
        telemetry.shut_down();
    }
    // A check that hangs in a blocking call must not keep the program.
    runtime.shutdown_background();
    end(outcome)
}

fn end(outcome: Result<Exit, Trouble>) -> ExitCode {
    let exit = match outcome {
        Ok(exit) => exit,
        Err(trouble) => {
            eprintln!("{trouble}");
            trouble.exit
        }
    };
    ExitCode::from(exit.code())
}

/// Adds the user's own settings file where no other is named.
fn with_own_file(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let is_named = |argument: &OsString| {
        let text = argument.to_string_lossy();
        text == "--config" || text.starts_with("--config=")
    };
    let from_environment = std::env::var_os("FFPOOL_CONFIG").is_some_and(|path| !path.is_empty());
    if !from_environment
        && !arguments.iter().any(is_named)
        && let Some(path) = own_file().filter(|path| path.exists())
    {
        let mut flag = OsString::from("--config=");
        flag.push(path);
        arguments.insert(1.min(arguments.len()), flag);
    }
    arguments
}

fn own_file() -> Option<PathBuf> {
    let folder = std::env::var_os("XDG_CONFIG_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let folder = folder.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")))?;
    Some(folder.join("ffpool/config.toml"))
}

async fn run(context: &Context, command: Command) -> Result<Exit, Trouble> {
    match command {
        Command::Submit(args) => submit::submit(context, *args).await,
        Command::Batch(args) => batch::batch(context, *args).await,
        Command::Watch(args) => folder::folder(context, *args).await,
        Command::Plan(args) => plan::plan(context, args).await,
        Command::Jobs(jobs) => match jobs {
            Jobs::List(list) => jobs::list(context, *list).await,
            Jobs::Show { job } => jobs::show(context, job).await,
            Jobs::Watch { job } => jobs::watch(context, job).await,
            Jobs::Log(log) => jobs::log(context, log).await,
            Jobs::Explain { job } => jobs::explain(context, job).await,
            Jobs::Cancel { jobs } => jobs::change(context, jobs::Change::Cancel, &jobs).await,
            Jobs::Finish { jobs } => jobs::change(context, jobs::Change::Finish, &jobs).await,
            Jobs::Forget { jobs } => jobs::change(context, jobs::Change::Forget, &jobs).await,
            Jobs::Pause { jobs } => jobs::change(context, jobs::Change::Pause, &jobs).await,
            Jobs::Resume { jobs } => jobs::change(context, jobs::Change::Resume, &jobs).await,
            Jobs::Retry { jobs } => jobs::change(context, jobs::Change::Retry, &jobs).await,
        },
        Command::Workers(workers) => match workers {
            Workers::List { all } => fleet::workers(context, all).await,
            Workers::Show { worker } => fleet::worker(context, &worker).await,
            Workers::Drain { workers } => fleet::drain(context, &workers).await,
        },
        Command::Queues(queues) => match queues.change {
            None => fleet::queues(context, queues.all).await,
            Some(QueueChange::Pause { queue, reason }) => fleet::pause_queue(context, &queue, reason).await,
            Some(QueueChange::Resume { queue }) => fleet::resume_queue(context, &queue).await,
        },
        Command::Top(args) => top::top(context, args).await,
        Command::ScaleAdvice(args) => scale::advise(context, args).await,
        Command::Cost { by, since } => cost::cost(context, &by, since).await,
        Command::Schedule(command) => schedule::schedule(context, command).await,
        Command::Failures { hours } => failures::failures(context, hours).await,
        Command::Dead(dead) => match dead {
            Dead::List(list) if list.groups => dead::groups(context).await,
            Dead::List(list) => dead::list(context, list).await,
            Dead::Show { job } => jobs::show(context, job).await,
            Dead::Redrive { jobs, group, all, reason } => dead::redrive(context, &jobs, group, all, reason).await,
            Dead::Purge(purge) => dead::purge(context, purge).await,
        },
        Command::Keys(command) => access::keys(context, command).await,
        Command::Tenants(command) => access::tenants(context, command).await,
        Command::Audit(args) => audit::audit(context, args).await,
        Command::Scenarios { check: None } => scenarios::list(context).await,
        Command::Scenarios { check: Some(file) } => scenarios::check(context, &file),
        Command::Templates => scenarios::templates(context).await,
        Command::Schema => {
            Format::Json.print(&ffpool_schema::parse::job_schema(), |_| String::new());
            Ok(Exit::Success)
        }
        Command::Topology { pools, broker_version, vhost } => {
            let topology = ffpool_schema::topology::Topology::for_pools(&pools);
            let file = ffpool_broker::definitions_in(&topology, &broker_version, &vhost);
            Format::Json.print(&file, |_| String::new());
            Ok(Exit::Success)
        }
        Command::Certs(command) => certs::certs(context, command),
        Command::Doctor(args) => doctor::doctor(context, &args).await,
        Command::SupportBundle(args) => bundle::bundle(context, &args).await,
        Command::Config(command) => config::config(context, &command),
        Command::Man { folder } => man::write(context, &folder),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "ffpool", &mut script);
            output::line(String::from_utf8_lossy(&script).trim_end());
            Ok(Exit::Success)
        }
    }
}
