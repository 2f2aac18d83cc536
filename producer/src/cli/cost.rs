//! `cost`: what jobs used and cost.

use ffpool_schema::api::{CostReport, CostRow};
use jiff::{SignedDuration, Timestamp};

use super::Context;
use super::exit::{Exit, Trouble};
use super::output::table;
use super::progress::Progress;

/// Older than that, a report says as of when it is.
const NEW: SignedDuration = SignedDuration::from_secs(30);

pub(crate) async fn cost(context: &Context, by: &str, since: Option<Timestamp>) -> Result<Exit, Trouble> {
    let client = context.client()?;
    let busy = Progress::busy("adding up what jobs used");
    let report = client.cost(by, since).await?;
    drop(busy);
    context.format.print(&report, |report| summed(report, Timestamp::now()));
    Ok(Exit::Success)
}

fn summed(report: &CostReport, now: Timestamp) -> String {
    let rows = report.rows.iter().map(|row| {
        [
            row.key.clone().unwrap_or_else(|| "-".to_owned()),
            row.jobs.to_string(),
            row.attempts.to_string(),
            row.unmeasured.to_string(),
            row.unpriced.to_string(),
            format!("{:.3}", row.used.core_hours),
            format!("{:.3}", row.used.gb_hours),
            format!("{:.3}", row.used.worker_hours),
            energy(row),
            row.cost.map_or_else(|| "-".to_owned(), |cost| format!("{cost:.4}")),
        ]
    });
    let what = report.by.strip_prefix("label:").unwrap_or(&report.by).to_owned();
    let cost = format!("cost in {}", report.prices.currency);
    let text =
        table([&what, "jobs", "attempts", "unmeasured", "unpriced", "core h", "GB h", "worker h", "kWh", &cost], rows);
    match report.as_of.filter(|as_of| now.duration_since(*as_of) > NEW) {
        Some(as_of) => format!("{text}\nAs of {as_of}: so many attempts are summed up from time to time."),
        None => text,
    }
}

/// Kilowatt hours; with a `+` where some workers could not read what their attempts took.
fn energy(row: &CostRow) -> String {
    let more = if row.unmetered + row.unmeasured > 0 { "+" } else { "" };
    row.used.kwh.map_or_else(|| "-".to_owned(), |kwh| format!("{kwh:.4}{more}"))
}
