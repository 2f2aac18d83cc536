//! `audit`: who changed what through the API.

use ffpool_schema::api::{AuditView, Page};

use super::args::Audit;
use super::exit::{Exit, Trouble};
use super::jobs::{COLUMN, with_rest};
use super::output::table;
use super::progress::Progress;
use super::{Context, format};

pub(crate) async fn audit(context: &Context, args: Audit) -> Result<Exit, Trouble> {
    let client = context.client()?;
    let mut page = client.audit(Some(args.limit), args.cursor).await?;
    let progress = Progress::busy("asking for the audit");
    while args.all && page.next.is_some() {
        let more = client.audit(Some(args.limit), page.next.take()).await?;
        page.items.extend(more.items);
        page.next = more.next;
        progress.say(&format!("asking for the audit, {} entries so far", page.items.len()));
    }
    drop(progress);
    context.format.print(&page, |page| with_rest(audit_table(page), page, "Nobody has changed anything yet."));
    Ok(Exit::Success)
}

fn audit_table(page: &Page<AuditView>) -> String {
    let rows = page.items.iter().map(|entry| {
        [
            format::clock(entry.at),
            entry.who.clone(),
            entry.address.clone().unwrap_or_else(|| "-".to_owned()),
            entry.action.clone(),
            entry.target.clone(),
            format::cut(&format::facts(&entry.detail), 2 * COLUMN),
        ]
    });
    table(["at", "who", "from", "what", "on", "more"], rows)
}
