//! Why a stack or one of its servers could not be had; every message says what to do or shows what the server said.

use std::{io, path::PathBuf, time::Duration};

/// Why a stack could not be started or asked.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// A program is not installed.
    #[error(
        "`{program}` was not found: install the Debian package `{package}` (apt-get install {package}, or compose/install)"
    )]
    Missing {
        /// The program that was looked for.
        program: &'static str,
        /// The Debian package that brings it.
        package: &'static str,
    },
    /// The servers' user cannot enter the directory.
    #[error("the user `{user}`, under whom the servers run, cannot enter {path}: choose a directory that it can reach")]
    Unreachable {
        /// The first directory on the way that is closed to the user.
        path: PathBuf,
        /// The name of the user.
        user: String,
    },
    /// Another stack uses the directory.
    #[error("another stack still uses {root} after {bound:?}")]
    Busy {
        /// The directory.
        root: PathBuf,
        /// How long we waited for it.
        bound: Duration,
    },
    /// The system refused something.
    #[error("{doing}")]
    System {
        /// What we were doing.
        doing: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A server ended while it was starting.
    #[error("{server} ended ({status}) before it answered; the end of its log:\n{log}")]
    Ended {
        /// The server's name.
        server: &'static str,
        /// How it ended.
        status: String,
        /// The last lines of its logs.
        log: String,
    },
    /// A server did not answer in time.
    #[error("{server} did not answer within {bound:?} (last: {last}); the end of its log:\n{log}")]
    NotReady {
        /// The server's name.
        server: &'static str,
        /// How long we waited.
        bound: Duration,
        /// What the last question gave.
        last: String,
        /// The last lines of its logs.
        log: String,
    },
    /// A command of the server's own tools failed.
    #[error("`{command}` failed ({status}):\n{output}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// What it printed.
        output: String,
    },
    /// Postgres refused a statement.
    #[error("{doing}")]
    Query {
        /// What we were doing.
        doing: String,
        /// Why it failed.
        #[source]
        source: postgres::Error,
    },
}

impl StackError {
    /// Names what we were doing when the system refused.
    pub(crate) fn system(doing: impl Into<String>) -> impl FnOnce(io::Error) -> StackError {
        let doing = doing.into();
        move |source| StackError::System { doing, source }
    }

    /// The error and its causes in one text, for a panic or a terminal.
    pub fn report(&self) -> String {
        let mut report = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            report.push_str(&format!(": {error}"));
            cause = error.source();
        }
        report
    }
}
