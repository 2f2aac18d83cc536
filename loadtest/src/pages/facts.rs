//! What there is in a seeded ledger to ask for, looked up past the dispatcher.

use std::collections::BTreeMap;

use anyhow::Context as _;
use postgres::types::ToSql;
use postgres::{Client, NoTls, Row};
use tokio::task::spawn_blocking;

/// Things that are there, most of them one tenant's, so that its key may ask for them too.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    pub(super) jobs: i64,
    pub(super) workers: i64,
    pub(super) tenant: String,
    /// A job of the tenant in each state in which it has one.
    pub(super) job_in: BTreeMap<String, String>,
    /// Some of its jobs that run.
    pub(super) running: Vec<String>,
    /// A job of the tenant of which there is a picture.
    pub(super) pictured: String,
    /// A job of the tenant that is made in chunks.
    pub(super) whole: String,
    pub(super) busy_worker: String,
    pub(super) fingerprint: String,
    pub(super) schedule: String,
    /// Of each list that has pages, by the route's path: where a page in its middle begins, and where its last page does.
    pub(super) cursors: BTreeMap<&'static str, [String; 2]>,
}

impl Facts {
    /// Looks them up.
    pub(super) async fn read(database: &str) -> anyhow::Result<Facts> {
        let database = database.to_owned();
        spawn_blocking(move || look_up(&mut Client::connect(&database, NoTls)?))
            .await?
            .context("look up what is in the ledger")
    }
}

/// The first row, without which a ledger was not filled.
fn first(client: &mut Client, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> anyhow::Result<Row> {
    let row = client.query_opt(sql, parameters)?;
    row.context("this ledger has none of what `ffpool-loadtest seed` writes: fill it first")
}

fn look_up(client: &mut Client) -> anyhow::Result<Facts> {
    let tenant: String =
        first(client, "SELECT tenant FROM job WHERE chunks IS NOT NULL AND tenant IS NOT NULL LIMIT 1", &[])?.get(0);
    let whole = "SELECT id::text FROM job WHERE chunks IS NOT NULL AND tenant = $1 LIMIT 1";
    let whole: String = first(client, whole, &[&tenant])?.get(0);
    let pictured = "SELECT id::text FROM job JOIN thumbnail ON thumbnail.job = id WHERE tenant = $1 LIMIT 1";
    let pictured: String = first(client, pictured, &[&tenant])?.get(0);
    let mut text = |sql: &str| anyhow::Ok::<String>(first(client, sql, &[])?.get(0));
    let mut facts = Facts {
        pictured,
        whole,
        busy_worker: text("SELECT id FROM worker ORDER BY cardinality(running) DESC LIMIT 1")?,
        fingerprint: text(
            "SELECT dead_fingerprint FROM job WHERE state = 'failed' GROUP BY 1 ORDER BY count(*) DESC LIMIT 1",
        )?,
        schedule: text("SELECT name FROM schedule ORDER BY name LIMIT 1")?,
        jobs: client.query_one("SELECT count(*) FROM job", &[])?.get(0),
        workers: client.query_one("SELECT count(*) FROM worker", &[])?.get(0),
        ..Facts::default()
    };
    for row in client.query(
        "SELECT DISTINCT ON (state) state, id::text FROM job WHERE tenant = $1 ORDER BY state, number",
        &[&tenant],
    )? {
        facts.job_in.insert(row.get(0), row.get(1));
    }
    let running =
        client.query("SELECT id::text FROM job WHERE tenant = $1 AND state = 'running' LIMIT 50", &[&tenant])?;
    facts.running = running.iter().map(|row| row.get(0)).collect();
    for (route, ids) in [
        ("/v1/jobs", "SELECT 'n' || number FROM job WHERE part_of IS NULL ORDER BY number"),
        ("/v1/dead-letters", "SELECT 'n' || number FROM job WHERE state = 'failed' ORDER BY number"),
        ("/v1/audit", "SELECT 'n' || id FROM audit ORDER BY id"),
        ("/v1/workers", "SELECT 'w' || id FROM worker ORDER BY id DESC"),
    ] {
        let far_in = |at: i64| format!("{ids} OFFSET {at} LIMIT 1");
        let count: i64 = client.query_one(&format!("SELECT count(*) FROM ({ids}) AS all_of_it"), &[])?.get(0);
        let mut cursor = |at: i64| anyhow::Ok(as_cursor(first(client, &far_in(at), &[])?.get(0)));
        facts.cursors.insert(route, [cursor(count / 2)?, cursor(20.min(count - 1).max(0))?]);
    }
    Ok(Facts { tenant, ..facts })
}

/// A cursor as the API writes it: walking there page by page would take longer than all that is measured.
fn as_cursor(key: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(key)
}
