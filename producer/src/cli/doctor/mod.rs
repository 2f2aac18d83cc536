//! `doctor`: looks at every part of the pool and at this machine, and says what to do.
//!
//! Invariant: every check is bounded in time, changes nothing that it does not put back, and each warning or failure
//! names its remedy.

mod api;
mod broker;
mod database;
mod machine;
mod signals;

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

use super::Context;
use super::args::Doctor;
use super::exit::{Exit, Trouble};
use super::progress::Progress;

/// Clocks further apart than this are worth a warning.
const CLOCK_WARN_SECS: f64 = 2.0;
/// Clocks further apart than this make nonsense of deadlines and certificates.
const CLOCK_FAIL_SECS: f64 = 60.0;

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// As it should be.
    Ok,
    /// The pool works, but not as well as it could; or it was not looked at.
    Warn,
    /// Something does not work.
    Fail,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "fail",
        })
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    name: &'static str,
    status: Status,
    found: String,
    remedy: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Check {
        Check { name, status: Status::Ok, found: found.into(), remedy: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Check {
        Check { name, status: Status::Warn, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn fail(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Check {
        Check { name, status: Status::Fail, found: found.into(), remedy: Some(remedy.into()) }
    }

    /// What is not looked at, because its address is not known.
    fn skipped(name: &'static str, variable: &str) -> Check {
        Check::warn(name, "not checked: its address is not set", format!("Set {variable} to have it checked."))
    }

    /// A failure where a worker is to run, a warning elsewhere.
    fn lacking(is_worker: bool, name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Check {
        if is_worker { Check::fail(name, found, remedy) } else { Check::warn(name, found, remedy) }
    }
}

/// Everything that was looked at.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The worst of all.
    status: Status,
    checks: Vec<Check>,
}

impl Report {
    fn new(checks: Vec<Check>) -> Report {
        Report { status: checks.iter().map(|check| check.status).max().unwrap_or(Status::Ok), checks }
    }

    fn text(&self) -> String {
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for check in &self.checks {
            text.push_str(&format!("{:<4}  {:<width$}  {}\n", check.status, check.name, check.found));
            if let Some(remedy) = &check.remedy {
                text.push_str(&format!("{:<4}  {:<width$}  -> {remedy}\n", "", ""));
            }
        }
        let count = |status| self.checks.iter().filter(|check| check.status == status).count();
        let (ok, warn, fail) = (count(Status::Ok), count(Status::Warn), count(Status::Fail));
        text.push_str(&format!("\n{ok} ok, {warn} to look at, {fail} failed\n"));
        text
    }
}

pub(crate) async fn doctor(context: &Context, args: &Doctor) -> Result<Exit, Trouble> {
    let report = report(context, args).await;
    context.format.print(&report, Report::text);
    Ok(if report.status == Status::Fail { Exit::Trouble } else { Exit::Success })
}

/// Looks at everything.
pub(crate) async fn report(context: &Context, args: &Doctor) -> Report {
    let address = |url: &Option<String>| url.clone().filter(|url| !url.is_empty());
    let connection = &context.connection;
    let progress = Progress::of(5, "parts looked at");
    let (broker, signals, database, api, machine) = tokio::join!(
        progress.step(broker::check(address(&connection.amqp_url), &args.pool)),
        progress.step(signals::check(address(&connection.nats_url))),
        progress.step(database::check(address(&connection.database_url))),
        progress.step(api::check(context)),
        progress.step(machine::check(args)),
    );
    Report::new([broker, signals, database, api, machine].concat())
}

/// Compares another clock with ours, which read `before` and `after` around the question. `resolution_secs` is how
/// finely the other one tells the time.
fn compare_clocks(
    name: &'static str,
    theirs: Timestamp,
    before: Timestamp,
    after: Timestamp,
    resolution_secs: f64,
) -> Check {
    let secs = |from: Timestamp, to: Timestamp| to.duration_since(from).as_secs_f64();
    // Theirs was read at some time between our two readings: only what lies outside is certain.
    let ahead = secs(after, theirs).max(0.0);
    let behind = (secs(theirs, before) - resolution_secs).max(0.0);
    let (apart, word) = if ahead > 0.0 { (ahead, "ahead of") } else { (behind, "behind") };
    let found = format!("{apart:.1} s {word} this machine's clock");
    let remedy = "Run a time service (chrony or systemd-timesyncd) on every machine. Leases are safe, they use the \
                  ledger's clock alone; `not_before`, deadlines and certificates are not.";
    if apart > CLOCK_FAIL_SECS {
        Check::fail(name, found, remedy)
    } else if apart > CLOCK_WARN_SECS {
        Check::warn(name, found, remedy)
    } else {
        Check::ok(name, "agrees with this machine's clock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
    }

    #[test]
    fn the_worst_check_decides_and_every_finding_has_its_remedy() {
        let checks = vec![Check::ok("a", "fine"), Check::warn("bb", "slow", "Hurry."), Check::ok("c", "fine")];
        let report = Report::new(checks);
        assert_eq!(report.status, Status::Warn);
        assert_eq!(
            report.text(),
            "ok    a   fine\nwarn  bb  slow\n          -> Hurry.\nok    c   fine\n\n2 ok, 1 to look at, 0 failed\n"
        );
    }

    #[test]
    fn a_slow_answer_is_no_wrong_clock() {
        let status = |theirs| compare_clocks("clock", at(theirs), at(100_000), at(110_000), 1.0).status;
        assert_eq!((status(100_000), status(110_000), status(99_100)), (Status::Ok, Status::Ok, Status::Ok));
        assert_eq!((status(115_000), status(94_000)), (Status::Warn, Status::Warn));
        assert_eq!((status(200_000), status(10_000)), (Status::Fail, Status::Fail));
    }
}
