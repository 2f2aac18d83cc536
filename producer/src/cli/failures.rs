//! `failures`: what failed lately, by cause.

use ffpool_schema::api::FailureReport;
use jiff::Timestamp;

use super::exit::{Exit, Trouble};
use super::output::table;
use super::{Context, format};

pub(crate) async fn failures(context: &Context, hours: u32) -> Result<Exit, Trouble> {
    let report = context.client()?.failures(Some(hours)).await?;
    context.format.print(&report, |report| counted(report, Timestamp::now()));
    Ok(Exit::Success)
}

fn counted(report: &FailureReport, now: Timestamp) -> String {
    if report.causes.is_empty() {
        return match report.hours {
            1 => "Nothing failed in the last hour.".to_owned(),
            hours => format!("Nothing failed in the last {hours} hours."),
        };
    }
    let rows = report.causes.iter().map(|cause| {
        [
            cause.cause.clone(),
            cause.attempts.to_string(),
            cause.retried.to_string(),
            cause.dead.to_string(),
            format::ago(cause.last, now),
            cause.cure.clone(),
        ]
    });
    let text = table(["cause", "attempts", "retried", "dead", "last", "what to do"], rows);
    format!("{text}\nThe jobs: `ffpool jobs list --cause CAUSE`; the dead letters: `ffpool dead list --cause CAUSE`.")
}

#[cfg(test)]
mod tests {
    use ffpool_schema::api::CauseCount;

    use super::*;

    #[test]
    fn each_cause_is_one_line_with_what_became_of_it_and_what_to_do() {
        let at = Timestamp::from_second(1000).unwrap();
        let oom = CauseCount {
            cause: "oom".into(),
            attempts: 12,
            retried: 9,
            dead: 3,
            last: at,
            cure: "Raise resource_limits.max_memory_mb.".into(),
        };
        let report = FailureReport { hours: 24, since: at, causes: vec![oom] };
        let text = counted(&report, Timestamp::from_second(1060).unwrap());
        let line = text.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(line, "oom 12 9 3 1m 00s ago Raise resource_limits.max_memory_mb.");
        assert!(text.ends_with("`ffpool dead list --cause CAUSE`."), "{text}");
        let none = FailureReport { hours: 1, causes: Vec::new(), ..report };
        assert_eq!(counted(&none, at), "Nothing failed in the last hour.");
    }
}
