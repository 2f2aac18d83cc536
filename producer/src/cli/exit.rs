//! What the exit code says, and the one type of error that ends a command.
//!
//! Invariant: [`Exit::ALL`] is the only list of codes: `--help` prints it, and a test holds `docs/cli.md` to it.

use std::fmt;
use std::io;

use ffpool::{ApiError, ProduceError};
use ffpool_runtime::settings::{FileError, chain};
use ffpool_schema::lifecycle::State;
use ffpool_schema::parse::Fault;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Success,
    Trouble,
    Usage,
    JobFailed,
    JobRejected,
    JobCancelled,
    Unreachable,
    Refused,
    NotPossible,
    Interrupted,
}

impl Exit {
    pub(crate) const ALL: [Exit; 10] = [
        Exit::Success,
        Exit::Trouble,
        Exit::Usage,
        Exit::JobFailed,
        Exit::JobRejected,
        Exit::JobCancelled,
        Exit::Unreachable,
        Exit::Refused,
        Exit::NotPossible,
        Exit::Interrupted,
    ];

    pub(crate) fn code(self) -> u8 {
        match self {
            Exit::Success => 0,
            Exit::Trouble => 1,
            Exit::Usage => 2,
            Exit::JobFailed => 3,
            Exit::JobRejected => 4,
            Exit::JobCancelled => 5,
            Exit::Unreachable => 6,
            Exit::Refused => 7,
            Exit::NotPossible => 8,
            Exit::Interrupted => 130,
        }
    }

    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Exit::Success => "done; a watched job completed",
            Exit::Trouble => "something else went wrong; `doctor` found a failure",
            Exit::Usage => "the command line, a file or a setting cannot be used",
            Exit::JobFailed => "a watched job failed",
            Exit::JobRejected => "a job is not valid",
            Exit::JobCancelled => "a watched job was cancelled",
            Exit::Unreachable => "a server could not be reached, or could not answer",
            Exit::Refused => "the API key or account is not accepted, lacks the right, or asks too often",
            Exit::NotPossible => "there is no such job, worker or schedule, or its state does not allow it",
            Exit::Interrupted => "interrupted with Ctrl-C; the job goes on",
        }
    }

    /// The outcome of a job that has ended.
    pub(crate) fn of(state: State) -> Exit {
        match state {
            State::Completed => Exit::Success,
            State::Failed => Exit::JobFailed,
            State::Rejected => Exit::JobRejected,
            State::Cancelled => Exit::JobCancelled,
            State::Blocked | State::Delayed | State::Queued | State::Running | State::Cancelling => Exit::Trouble,
        }
    }

    /// The table of all codes, for `--help`.
    pub(crate) fn table() -> String {
        let lines = Exit::ALL.iter().map(|exit| format!("  {:>3}  {}", exit.code(), exit.meaning()));
        format!("Exit codes:\n{}", lines.collect::<Vec<_>>().join("\n"))
    }
}

/// Why a command ended without success: what happened, and what to do next.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) exit: Exit,
    pub(crate) what: String,
    pub(crate) next: Option<String>,
}

impl Trouble {
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Trouble {
        Trouble { exit, what: what.into(), next: None }
    }

    pub(crate) fn next(mut self, next: impl Into<String>) -> Trouble {
        self.next = Some(next.into());
        self
    }

    pub(crate) fn usage(what: impl Into<String>) -> Trouble {
        Trouble::new(Exit::Usage, what)
    }

    /// A file that cannot be read.
    pub(crate) fn unreadable(file: &str, error: &io::Error) -> Trouble {
        let next = match error.kind() {
            io::ErrorKind::NotFound => "Check the path: it counts from the folder in which the command runs.",
            io::ErrorKind::PermissionDenied => "Get the right to read it, or run the command as its owner.",
            io::ErrorKind::IsADirectory => "Name a file: this is a folder.",
            _ => "Look after the disk that it is on.",
        };
        Trouble::usage(format!("read {file}: {error}")).next(next)
    }

    /// A job that is not valid, with everything that is wrong with it.
    pub(crate) fn rejected(name: &str, faults: &[Fault]) -> Trouble {
        let lines = faults.iter().map(|fault| format!("\n  {fault}")).collect::<String>();
        Trouble::new(Exit::JobRejected, format!("{name} is not valid:{lines}"))
            .next("Correct it, then submit it again; `ffpool schema` prints every field.")
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        match &self.next {
            Some(next) => write!(f, "\n  -> {next}"),
            None => Ok(()),
        }
    }
}

impl From<FileError> for Trouble {
    fn from(error: FileError) -> Trouble {
        let next = match &error {
            FileError::Read { .. } => "Name another file with --config (FFPOOL_CONFIG), or make this one readable.",
            FileError::Parse { .. } => "Correct it: a line is a name, `=` and a value, and texts are in quotes.",
            FileError::UnknownKey { .. } => "Correct the key, or move it into the section of the part that it is for.",
            FileError::BadValue { .. } => "Correct the value.",
        };
        Trouble::usage(chain(&error).trim_end()).next(next)
    }
}

impl From<ApiError> for Trouble {
    fn from(error: ApiError) -> Trouble {
        let exit = match &error {
            ApiError::Setup { .. } => Exit::Usage,
            ApiError::Unreachable { .. } => Exit::Unreachable,
            ApiError::Problem(problem) if !problem.faults.is_empty() => {
                return Trouble::rejected("the job", &problem.faults);
            }
            ApiError::Problem(_) | ApiError::Strange { .. } => match error.status() {
                Some(401 | 403 | 429) => Exit::Refused,
                Some(404 | 409 | 410) => Exit::NotPossible,
                Some(400 | 413 | 415 | 422) => Exit::Usage,
                Some(500..) => Exit::Unreachable,
                Some(_) | None => Exit::Trouble,
            },
        };
        Trouble::new(exit, error.to_string()).next(error.next_step())
    }
}

impl From<ProduceError> for Trouble {
    fn from(error: ProduceError) -> Trouble {
        let exit = match &error {
            ProduceError::Encode { .. } | ProduceError::TooLarge { .. } => Exit::JobRejected,
            ProduceError::Connect { .. } => Exit::Unreachable,
            ProduceError::Publish { source, .. } if source.is_transient() => Exit::Unreachable,
            ProduceError::Publish { .. } => Exit::Trouble,
        };
        Trouble::new(exit, error.to_string()).next(error.next_step())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_used_once_and_stands_in_the_manual() {
        let manual = include_str!("../../../docs/cli.md");
        let mut codes: Vec<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Exit::ALL.len());
        for exit in Exit::ALL {
            let row = format!("| {} | {} |", exit.code(), exit.meaning());
            assert!(manual.contains(&row), "docs/cli.md lacks the row {row}");
        }
    }

    #[test]
    fn the_end_of_a_job_decides_the_code() {
        let ends: Vec<u8> = State::ALL.into_iter().filter(|s| s.is_end()).map(|s| Exit::of(s).code()).collect();
        assert_eq!(ends, [0, 3, 5, 4], "completed, failed, cancelled, rejected");
    }
}
