//! The ledger's tables: brought up to date by whoever owns them, and what the account that runs the dispatcher may do there.
//!
//! Invariant: with an owner of its own the account that runs can change rows and no table; it can add to the audit log and
//! to a job's events, and never rewrite them.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ffpool_schema::migrations;
use tokio_postgres::Client;
use tracing::info;

use super::connect::{self, Place};

/// Serialises the migrations of several dispatchers. The number is arbitrary.
const MIGRATION_LOCK: i64 = 0x6666_706f_6f6c_6d31;
/// Who waits for migrations is told so often how far they are.
const TELL_EVERY: Duration = Duration::from_secs(3);
/// May read which migrations are applied, where the cluster has such a role: for `ffpool doctor`.
const DOCTOR: &str = "ffpool_doctor";

/// Brings the tables up to date as their `owner`, or as the `runner` itself if it may; otherwise makes sure that they are.
/// With an owner it gives the runner its rights. Waits for Postgres.
///
/// # Errors
/// When the tables are of a version that this one cannot work with, or Postgres says that waiting is useless.
pub(super) async fn prepare(runner: &Place, owner: Option<&Place>) -> anyhow::Result<()> {
    let mut client = connect::await_connection(owner.unwrap_or(runner)).await?;
    if owner.is_none() && !may_make_tables(&client).await? {
        return ensure_current(&client).await;
    }
    // Another dispatcher may be at it, and a migration may take longer than any other statement.
    client.batch_execute("SET statement_timeout = 0").await.context("prepare for the migrations")?;
    let migrations = migrations::ALL
        .iter()
        .map(|(name, sql)| refinery::Migration::unapplied(name, sql))
        .collect::<Result<Vec<_>, _>>()
        .context("read the migrations")?;
    let migrating = async {
        let lock = client.execute("SELECT pg_advisory_lock($1)", &[&MIGRATION_LOCK]);
        lock.await.context("wait for another's migrations")?;
        let report = refinery::Runner::new(&migrations).run_async(&mut client).await;
        report.context("bring the ledger's tables up to date; they may be of a later version than this program")
    };
    let report = tokio::select! {
        report = migrating => report?,
        never = tell_meanwhile(owner.unwrap_or(runner)) => match never {},
    };
    for applied in report.applied_migrations() {
        info!(migration = %applied, "applied a migration");
    }
    client.execute("SELECT make_event_months(2)", &[]).await.context("make the event table's months")?;
    if let (Some(owner), Some(account)) = (owner, runner.user())
        && owner.user() != Some(account)
    {
        grant(&mut client, account)
            .await
            .with_context(|| format!("give {account} its rights on the ledger's tables"))?;
        info!(account, "gave the dispatcher's account its rights on the ledger's tables");
    }
    Ok(())
}

/// Tells from time to time how many migrations are applied, for as long as somebody waits for the others: each is committed by itself.
async fn tell_meanwhile(place: &Place) -> Infallible {
    let of = migrations::ALL.len();
    let began = Instant::now();
    loop {
        tokio::time::sleep(TELL_EVERY).await;
        let secs = began.elapsed().as_secs();
        match applied(place).await {
            Ok(applied) => info!("{applied} of {of} migrations are applied after {secs} s"),
            Err(why) => info!("migrations have been running for {secs} s, how many are applied is not known: {why:#}"),
        }
    }
}

async fn applied(place: &Place) -> anyhow::Result<i64> {
    let client = connect::connect(place).await?;
    Ok(client.query_one("SELECT count(*) FROM refinery_schema_history", &[]).await?.try_get(0)?)
}

async fn may_make_tables(client: &Client) -> anyhow::Result<bool> {
    let asked = client.query_one("SELECT coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)", &[]);
    Ok(asked.await.context("ask what the account of FFPOOL_DATABASE_URL may do")?.try_get(0)?)
}

/// For an account that may not change tables: whether they are as this version needs them.
async fn ensure_current(client: &Client) -> anyhow::Result<()> {
    const CURE: &str =
        "run `ffpool-dispatcher migrate` of this version with the tables' owner in FFPOOL_MIGRATION_DATABASE_URL";
    let known = i64::try_from(migrations::ALL.len()).unwrap_or(i64::MAX);
    let exists: bool = client
        .query_one("SELECT to_regclass('refinery_schema_history') IS NOT NULL", &[])
        .await
        .context("look for the ledger's tables")?
        .try_get(0)?;
    anyhow::ensure!(exists, "the ledger has no tables yet, and this account may not make them: {CURE}");
    let counted = client.query_one("SELECT count(*) FROM refinery_schema_history", &[]).await;
    let applied: i64 =
        counted.with_context(|| format!("this account may not read the ledger's tables: {CURE}"))?.try_get(0)?;
    anyhow::ensure!(
        applied >= known,
        "{applied} of {known} migrations are applied, and this account may not change tables: {CURE}"
    );
    anyhow::ensure!(
        applied == known,
        "{applied} migrations are applied, this version knows {known}: run a dispatcher of the later version"
    );
    Ok(())
}

/// Gives `account` exactly what a dispatcher needs, on the tables that there are now.
async fn grant(client: &mut Client, account: &str) -> anyhow::Result<()> {
    let transaction = client.transaction().await?;
    for row in transaction.query(GRANTS, &[&account, &DOCTOR]).await? {
        transaction.batch_execute(row.try_get(0)?).await?;
    }
    Ok(transaction.commit().await?)
}

// Partitions are reached over their table. In the order in which they are to run: what is given anew is taken before.
const GRANTS: &str = "WITH ours AS ( \
        SELECT oid::regclass AS name, relname FROM pg_class \
        WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition \
              AND pg_has_role(relowner, 'USAGE')), \
     statements AS ( \
        SELECT 1 AS step, format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), $1::text) AS sql \
        UNION ALL \
        SELECT 2, format('REVOKE ALL ON %s FROM %I', name, $1) FROM ours \
        UNION ALL \
        SELECT 3, format('GRANT %s ON %s TO %I', \
            CASE relname WHEN 'refinery_schema_history' THEN 'SELECT' \
                         WHEN 'audit' THEN 'SELECT, INSERT' \
                         WHEN 'event' THEN 'SELECT, INSERT, DELETE' \
                         ELSE 'SELECT, INSERT, UPDATE, DELETE' END, name, $1) FROM ours \
        UNION ALL \
        SELECT 3, format('GRANT EXECUTE ON FUNCTION make_event_months(integer), drop_event_months(interval) TO %I', $1) \
        UNION ALL \
        SELECT 3, format('GRANT SELECT ON refinery_schema_history TO %I', rolname) FROM pg_roles WHERE rolname = $2::text) \
     SELECT sql FROM statements ORDER BY step";
