//! The accounts of `compose/rights/postgres.sql`: what the one that runs needs it has, and what it must not do is refused.

use std::process::Command;

use ffpool_dispatcher::ledger::{Keep, Ledger, LedgerSettings, Policy, Retention};
use ffpool_schema::retry::Backoff;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::*;

fn settings(database_url: &str, migration_url: Option<&str>) -> LedgerSettings {
    LedgerSettings {
        database_url: database_url.to_owned(),
        migration_url: migration_url.map(str::to_owned),
        amqp_tenants: Default::default(),
        policy: Policy { lease: Duration::from_secs(5), backoff: Backoff::default(), loss_limit: 3 },
        catalog: Arc::default(),
        secrets: Arc::default(),
        prices: Default::default(),
    }
}

/// Makes the accounts, as an operator does it.
fn make_accounts(database_url: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../compose/rights/apply");
    let passwords = ["OWNER", "DISPATCHER", "DOCTOR"].map(|name| (format!("POSTGRES_{name}_PASSWORD"), "rights-1"));
    let applied = Command::new("sh").args([script, "postgres", database_url]).envs(passwords).output().unwrap();
    let said = String::from_utf8_lossy(&applied.stderr);
    assert!(applied.status.success(), "psql comes from Debian's package postgresql-client: {said}");
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn the_account_that_runs_changes_rows_and_neither_tables_nor_what_is_written_for_ever() {
    let superuser = tokio::task::block_in_place(|| Stack::shared().postgres.new_database());
    let account = |name: &str| superuser.replace("ffpool@", &format!("{name}:rights-1@"));
    let (owner, runner, doctor) = (account("ffpool_owner"), account("ffpool_dispatcher"), account("ffpool_doctor"));

    // A ledger that one account made and used before.
    Ledger::migrate(&settings(&superuser, None)).await.unwrap();
    tokio::task::block_in_place(|| make_accounts(&superuser));
    // Not before the owner has given the account its rights.
    let refused = Ledger::open(&settings(&runner, None)).await.map(drop).unwrap_err();
    assert!(format!("{refused:#}").contains("ffpool-dispatcher migrate"), "{refused:#}");
    Ledger::migrate(&settings(&runner, Some(&owner))).await.unwrap();
    // Again, as every upgrade does it, and as a new installation does it.
    tokio::task::block_in_place(|| make_accounts(&superuser));
    Ledger::migrate(&settings(&runner, Some(&owner))).await.unwrap();

    let ledger = Ledger::open(&settings(&runner, None)).await.unwrap();
    assert_eq!(ledger.make_months().await.unwrap(), 0, "the owner has made them");
    let sql = connect(&superuser).await;
    let partition: String = sql
        .query_one("SELECT 'event_' || to_char(now() AT TIME ZONE 'UTC' + interval '1 month', 'YYYY_MM')", &[])
        .await
        .unwrap()
        .get(0);
    sql.batch_execute(&format!("DROP TABLE {partition}")).await.unwrap();
    assert_eq!(ledger.make_months().await.unwrap(), 1, "partitions are made for the account that may make no table");
    let belongs: String = sql
        .query_one("SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = $1", &[&partition])
        .await
        .unwrap()
        .get(0);
    assert_eq!(belongs, "ffpool_owner");

    let all = Retention { ended: Keep::Days(1), dead: Keep::Days(1) };
    ledger.forget_remains(all).await.expect("months are dropped for the account that owns none");

    let may = "INSERT INTO audit (actor, action, subject) VALUES ('a', 'b', 'c'); \
               INSERT INTO event (job, kind, state, attempt) VALUES (gen_random_uuid(), 'recorded', 'queued', 0); \
               INSERT INTO purged (id) VALUES (gen_random_uuid()); UPDATE purged SET at = now(); DELETE FROM purged; \
               SELECT count(*) FROM audit, event, job, api_key";
    let run = connect(&runner).await;
    run.batch_execute(may).await.unwrap();
    let own_event =
        format!("INSERT INTO {partition} (job, kind, state, attempt) VALUES (gen_random_uuid(), 'x', 'x', 0)");
    let may_not = [
        "UPDATE audit SET actor = 'somebody else'",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "UPDATE event SET kind = 'other'",
        "TRUNCATE event",
        "UPDATE event_other SET kind = 'other'",
        &own_event,
        "DELETE FROM refinery_schema_history",
        "DROP TABLE job",
        "ALTER TABLE job DISABLE TRIGGER ALL",
        "ALTER TABLE audit OWNER TO ffpool_dispatcher",
        "CREATE TABLE mine (a integer)",
        "CREATE TEMPORARY TABLE mine (a integer)",
        "CREATE FUNCTION mine() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "CREATE ROLE mine",
        "SET ROLE ffpool_owner",
        "COPY job TO PROGRAM 'cat'",
        "SELECT pg_read_file('postgresql.conf')",
    ];
    refuses(&run, &may_not).await;

    let look = connect(&doctor).await;
    look.batch_execute("SELECT count(*) FROM refinery_schema_history").await.unwrap();
    let may_not = [
        "SELECT FROM job",
        "SELECT FROM api_key",
        "SELECT FROM audit",
        "INSERT INTO stray VALUES (DEFAULT)",
        "SELECT make_event_months(2)",
    ];
    refuses(&look, &may_not).await;
}

async fn refuses(client: &Client, statements: &[&str]) {
    for statement in statements {
        match client.batch_execute(statement).await {
            Ok(()) => panic!("allowed: {statement}"),
            Err(error) => assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{statement}: {error}"),
        }
    }
}
