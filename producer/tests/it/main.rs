//! The program as people run it: against real servers, against an API made of scripted answers, against nothing.

mod batch;
mod bundle;
mod certs;
mod doctor;
mod folder;
mod manual;
mod mistakes;
mod operator;
mod plan;
mod publish;
mod scale;
mod scripted;
mod terminal;
mod top;

use std::process::{Command, Output};

/// The program, with nothing of this machine's settings.
fn ffpool(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ffpool"));
    let foreign =
        std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_string_lossy().starts_with("FFPOOL_"));
    for name in foreign {
        command.env_remove(name);
    }
    command.env("HOME", "/nonexistent").env_remove("XDG_CONFIG_HOME").env_remove("TRACEPARENT").args(arguments);
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("the program writes UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("the program writes UTF-8")
}

/// Standard output as the one JSON document that it is.
fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error} in {:?}, beside {}", stdout(output), stderr(output)))
}

/// Runs the program and holds it to its exit code.
fn run(code: i32, command: &mut Command) -> Output {
    let output = command.output().expect("the program starts");
    assert_eq!(output.status.code(), Some(code), "{}\n{}", stdout(&output), stderr(&output));
    output
}

fn in_async<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().expect("a runtime starts").block_on(future)
}
