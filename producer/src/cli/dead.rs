//! `dead`: look at the jobs that were parked after their last failure, send them round again, or do away with them.

use std::io::{BufRead, IsTerminal, Write};

use ffpool::{Client, JobFilter, JobName};
use ffpool_schema::api::{DeadLetterGroup, JobView, Page, PurgeRequest, RedriveReport, RedriveRequest};
use ffpool_schema::id::JobId;
use jiff::Timestamp;

use super::args::{DeadList, Purge};
use super::exit::{Exit, Trouble};
use super::jobs::{COLUMN, append, filter, with_rest};
use super::output::table;
use super::progress::Progress;
use super::{Context, format};

/// Dead letters sent round in one request; the API takes ten times as many.
const REDRIVE_BATCH: usize = 100;
/// The largest page that the API gives.
const PAGE_MAX: u32 = 500;

pub(crate) async fn list(context: &Context, list: DeadList) -> Result<Exit, Trouble> {
    let client = context.client()?;
    let all = list.filter.all;
    let filter = JobFilter { fingerprint: list.fingerprint, ..filter(list.filter) };
    let page = if all { every_dead(&client, filter).await? } else { client.dead_letters(&filter).await? };
    context.format.print(&page, |page| {
        let rows = page.items.iter().map(|job| {
            let (cause, message) = job.failure.as_ref().map_or_else(
                || ("-".to_owned(), job.reason.clone().unwrap_or_default()),
                |failure| (failure.cause.to_string(), failure.message.clone()),
            );
            [
                format!("#{}", job.number),
                job.id.to_string(),
                format!("{}/{}", job.queue, job.priority),
                job.scenario.clone(),
                job.attempt.to_string(),
                cause,
                format::cut(&message, COLUMN),
            ]
        });
        let text = table(["no", "id", "queue", "scenario", "attempts", "cause", "what happened"], rows);
        with_rest(text, page, "There are no dead letters.")
    });
    Ok(Exit::Success)
}

async fn every_dead(client: &Client, mut filter: JobFilter) -> Result<Page<JobView>, Trouble> {
    let progress = Progress::busy("asking for dead letters");
    let mut page = client.dead_letters(&filter).await?;
    while page.next.is_some() {
        filter.cursor = page.next.take();
        append(&mut page, client.dead_letters(&filter).await?);
        progress.say(&format!("asking for dead letters, {} so far", page.items.len()));
    }
    Ok(page)
}

pub(crate) async fn groups(context: &Context) -> Result<Exit, Trouble> {
    let groups = context.client()?.dead_letter_groups().await?;
    context.format.print(&groups, |groups| match groups.as_slice() {
        [] => "There are no dead letters.".to_owned(),
        groups => group_table(groups, Timestamp::now()),
    });
    Ok(Exit::Success)
}

fn group_table(groups: &[DeadLetterGroup], now: Timestamp) -> String {
    let rows = groups.iter().map(|group| {
        [
            group.fingerprint.clone(),
            group.count.to_string(),
            group.cause.clone(),
            format::ago(group.first, now),
            format::ago(group.last, now),
            group.example_job.to_string(),
            format::cut(&group.example, COLUMN),
        ]
    });
    table(["kind", "jobs", "cause", "first", "last", "one of them", "what happened"], rows)
}

pub(crate) async fn redrive(
    context: &Context,
    jobs: &[JobName],
    group: Option<String>,
    all: bool,
    reason: Option<String>,
) -> Result<Exit, Trouble> {
    let client = context.client()?;
    let mut report = RedriveReport { redriven: Vec::new(), refused: Default::default() };
    let mut add = |part: RedriveReport| {
        report.redriven.extend(part.redriven);
        report.refused.extend(part.refused);
    };
    if group.is_some() {
        let _busy = Progress::busy("sending all of this kind round again");
        let request = RedriveRequest { ids: Vec::new(), fingerprint: group, reason: reason.clone() };
        add(client.redrive(&request).await?);
    }
    let ids = if all {
        let every = JobFilter { limit: Some(PAGE_MAX), ..JobFilter::default() };
        every_dead(&client, every).await?.items.into_iter().map(|job| job.id).collect()
    } else {
        ids(&client, jobs).await?
    };
    let progress = Progress::of(ids.len(), "jobs sent round again");
    for ids in ids.chunks(REDRIVE_BATCH) {
        let request = RedriveRequest { ids: ids.to_vec(), fingerprint: None, reason: reason.clone() };
        add(client.redrive(&request).await?);
        progress.done(ids.len());
    }
    drop(progress);
    context.format.print(&report, |report| {
        let mut text = format!("{} sent round again\n", report.redriven.len());
        for (job, why) in &report.refused {
            text.push_str(&format!("not {job}: {why}\n"));
        }
        text
    });
    Ok(if report.refused.is_empty() { Exit::Success } else { Exit::NotPossible })
}

/// Does away with dead letters after somebody has said that they mean it.
pub(crate) async fn purge(context: &Context, purge: Purge) -> Result<Exit, Trouble> {
    let client = context.client()?;
    let ids = ids(&client, &purge.jobs).await?;
    if !purge.yes {
        confirm(&what(ids.len(), purge.group.as_deref()))?;
    }
    let request = PurgeRequest { ids, fingerprint: purge.group, reason: purge.reason };
    let busy = Progress::busy("purging");
    let report = client.purge(&request).await?;
    drop(busy);
    context.format.print(&report, |report| match report.left {
        0 => format!("{} purged", report.purged),
        left => format!("{} purged; {left} left, whose chunks are still being ended: ask again", report.purged),
    });
    // Asked for and not there: no dead letter, or gone already.
    Ok(if report.purged == 0 { Exit::NotPossible } else { Exit::Success })
}

fn what(ids: usize, group: Option<&str>) -> String {
    let jobs = match ids {
        0 => None,
        1 => Some("1 dead letter".to_owned()),
        many => Some(format!("{many} dead letters")),
    };
    let kind = group.map(|group| format!("every dead letter of the kind {group}"));
    let parts: Vec<String> = jobs.into_iter().chain(kind).collect();
    parts.join(" and ")
}

fn confirm(what: &str) -> Result<(), Trouble> {
    if !std::io::stdin().is_terminal() {
        return Err(Trouble::usage(format!("{what} would be gone for ever, and nobody is there to confirm it"))
            .next("Give --yes if that is meant."));
    }
    eprint!("Purge {what} with its history, for ever? [y/N] ");
    let mut said = String::new();
    let read = std::io::stderr().flush().and_then(|()| std::io::stdin().lock().read_line(&mut said));
    match read {
        Ok(_) if matches!(said.trim(), "y" | "Y" | "yes") => Ok(()),
        Ok(_) | Err(_) => Err(Trouble::new(Exit::Trouble, "nothing was purged")),
    }
}

async fn ids(client: &Client, jobs: &[JobName]) -> Result<Vec<JobId>, Trouble> {
    let mut ids = Vec::with_capacity(jobs.len());
    for &job in jobs {
        ids.push(match job {
            JobName::Id(id) => id,
            JobName::Number(_) => client.job(job).await?.job.id,
        });
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_says_how_much_would_be_gone() {
        assert_eq!(what(1, None), "1 dead letter");
        assert_eq!(what(2, Some("ab")), "2 dead letters and every dead letter of the kind ab");
        assert_eq!(what(0, Some("ab")), "every dead letter of the kind ab");
    }
}
