//! `ffpool-stack`: starts the three servers, prints how to reach them, and keeps them until it is told to stop.
//!
//! The lines on standard output can be given to a shell's `eval`; they appear when all servers answer.

use std::{env, io, path::PathBuf, process::ExitCode, thread};

use anyhow::{Context, bail};
use ffpool_stack::Stack;
use nix::{
    sys::signal::{SigSet, Signal, kill},
    unistd::getpid,
};

const USAGE: &str = "\
usage: ffpool-stack [--root DIR] [--until-stdin-closes]

Starts a private RabbitMQ, NATS and Postgres on free loopback ports, prints
FFPOOL_AMQP_URL, FFPOOL_NATS_URL and FFPOOL_DATABASE_URL as shell exports when
all three answer, and stops them at Ctrl-C or SIGTERM. `rabbitmqctl` in the data's
directory finds this RabbitMQ.

  --root DIR             keep the data in DIR, also for the next start
                         (default: a temporary directory)
  --until-stdin-closes   also stop when standard input ends
";

struct Options {
    root: Option<PathBuf>,
    until_stdin_closes: bool,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ffpool-stack: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let Some(options) = options()? else {
        print!("{USAGE}");
        return Ok(());
    };
    let mut builder = Stack::builder();
    if let Some(root) = options.root {
        builder = builder.root(root);
    }
    let stack = builder.start()?;
    // Only now: the servers would inherit the block and never see a request to stop. Until here a signal ends us at once,
    // and the watchdog cleans up.
    let stop = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    stop.thread_block().context("hold back the stop signals")?;
    println!("export FFPOOL_AMQP_URL='{}'", stack.rabbit.url());
    println!("export FFPOOL_NATS_URL='{}'", stack.nats.url());
    println!("export FFPOOL_DATABASE_URL='{}'", stack.postgres.url());
    eprintln!(
        "ffpool-stack: RabbitMQ {}, NATS {}, Postgres {} are up",
        stack.rabbit.version(),
        stack.nats.version(),
        stack.postgres.version()
    );

    if options.until_stdin_closes {
        thread::spawn(|| {
            let ended = io::copy(&mut io::stdin(), &mut io::sink());
            if let Err(error) = ended {
                eprintln!("ffpool-stack: read standard input: {error}");
            }
            kill(getpid(), Signal::SIGTERM).expect("a process may signal itself");
        });
    }
    let signal = stop.wait().context("wait for a stop signal")?;
    eprintln!("ffpool-stack: {signal}: stopping");
    Ok(())
}

fn options() -> anyhow::Result<Option<Options>> {
    let mut options = Options { root: None, until_stdin_closes: false };
    let mut arguments = env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--root") => {
                let root = arguments.next().context("--root needs a directory")?;
                options.root = Some(PathBuf::from(root));
            }
            Some("--until-stdin-closes") => options.until_stdin_closes = true,
            Some("--help" | "-h") => return Ok(None),
            _ => bail!("unknown argument {}\n{USAGE}", argument.display()),
        }
    }
    Ok(Some(options))
}
