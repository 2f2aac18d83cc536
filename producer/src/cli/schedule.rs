//! `schedule`: recurring jobs.
//!
//! Invariant: whether a schedule is valid is for the dispatcher to say, which fills in its placeholders and knows its zones.

use ffpool_schema::api::{Missed, Overlap, ScheduleRequest, ScheduleView};
use serde_json::{Value, json};

use super::args::{AddSchedule, Schedule};
use super::exit::{Exit, Trouble};
use super::output::{fields, table};
use super::{Context, submit};

pub(crate) async fn schedule(context: &Context, command: Schedule) -> Result<Exit, Trouble> {
    match command {
        Schedule::Add(args) => add(context, *args).await,
        Schedule::List => {
            let schedules = context.client()?.schedules().await?;
            context.format.print(&schedules, |schedules| listed(schedules));
            Ok(Exit::Success)
        }
        Schedule::Show { name } => {
            let found = context.client()?.schedule(&name).await?;
            context.format.print(&found, shown);
            Ok(Exit::Success)
        }
        Schedule::Rm { names } => {
            let client = context.client()?;
            each(&names, async |name| {
                let accepted = client.remove_schedule(name).await?;
                context
                    .format
                    .print(&accepted, |accepted| format!("schedule {name}: {}. {}", accepted.state, accepted.message));
                Ok(())
            })
            .await
        }
        Schedule::Pause { names } => pause(context, &names, true).await,
        Schedule::Resume { names } => pause(context, &names, false).await,
        Schedule::RunNow { name } => {
            let job = context.client()?.run_schedule(&name).await?;
            context.format.print(&job, submit::line);
            Ok(Exit::Success)
        }
    }
}

async fn add(context: &Context, args: AddSchedule) -> Result<Exit, Trouble> {
    let body = match &args.source {
        None => json!({}),
        Some(source) => {
            let mut bodies = submit::jobs_in(source, &submit::read(source)?)?;
            if bodies.len() != 1 {
                return Err(Trouble::usage(format!("one job is expected, and {source} holds {}", bodies.len())));
            }
            bodies.remove(0)
        }
    };
    let Value::Object(job) = args.wanted.overlay(body) else {
        return Err(Trouble::usage("a job is a JSON object"));
    };
    const KNOWN: &str = "clap accepts known names only";
    let request = ScheduleRequest {
        name: args.name,
        cron: args.cron,
        zone: args.zone,
        job,
        missed: Missed::of(&args.missed).expect(KNOWN),
        overlap: Overlap::of(&args.overlap).expect(KNOWN),
        paused: args.paused,
    };
    let made = context.client()?.add_schedule(&request).await?;
    context.format.print(&made, shown);
    Ok(Exit::Success)
}

async fn pause(context: &Context, names: &[String], paused: bool) -> Result<Exit, Trouble> {
    let client = context.client()?;
    each(names, async |name| {
        let found = client.pause_schedule(name, paused).await?;
        context.format.print(&found, |found| listed(std::slice::from_ref(found)));
        Ok(())
    })
    .await
}

/// Tries every schedule; ends with the code of the last that did not let itself be changed.
async fn each(names: &[String], change: impl AsyncFn(&str) -> Result<(), Trouble>) -> Result<Exit, Trouble> {
    let mut exit = Exit::Success;
    for name in names {
        match change(name).await {
            Ok(()) => {}
            // With one schedule the error is the result.
            Err(trouble) if names.len() == 1 => return Err(trouble),
            Err(trouble) => {
                eprintln!("schedule {name}: {}", trouble.what);
                exit = trouble.exit;
            }
        }
    }
    Ok(exit)
}

fn listed(schedules: &[ScheduleView]) -> String {
    let rows = schedules.iter().map(|one| {
        let next = if one.paused {
            "paused".to_owned()
        } else {
            one.next.first().map_or("never".to_owned(), |at| local(*at, &one.zone))
        };
        [
            one.name.clone(),
            one.cron.clone(),
            one.zone.clone(),
            next,
            one.last_job.map(|job| job.to_string()).unwrap_or_default(),
        ]
    });
    table(["schedule", "cron", "zone", "next", "last job"], rows)
}

fn shown(one: &ScheduleView) -> String {
    let next: Vec<String> = one.next.iter().map(|at| local(*at, &one.zone)).collect();
    let mut text = fields(&[
        ("schedule", one.name.clone()),
        ("cron", format!("{} ({})", one.cron, one.zone)),
        ("next", if one.paused { "paused".to_owned() } else { next.join(", ") }),
        ("missed", one.missed.as_str().to_owned()),
        ("overlap", one.overlap.as_str().to_owned()),
        ("made by", one.created_by.clone()),
        ("job", Value::Object(one.job.clone()).to_string()),
    ]);
    if !one.runs.is_empty() {
        let rows = one.runs.iter().map(|run| {
            let job = run.job.map(|job| job.to_string()).unwrap_or_default();
            [local(run.due, &one.zone), run.outcome.clone(), job, run.detail.clone().unwrap_or_default()]
        });
        text.push('\n');
        text.push_str(&table(["due", "outcome", "job", "more"], rows));
    }
    text
}

/// An instant on the schedule's own clock; in UTC where this machine does not know its zone.
fn local(at: jiff::Timestamp, zone: &str) -> String {
    match at.in_tz(zone) {
        Ok(local) => local.strftime("%Y-%m-%d %H:%M %Z").to_string(),
        Err(_) => at.strftime("%Y-%m-%d %H:%M UTC").to_string(),
    }
}
