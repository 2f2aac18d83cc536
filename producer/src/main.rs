//! The command line `ffpool`: reads the settings, runs one command, ends with a documented exit code.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
