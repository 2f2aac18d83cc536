//! The accounts of `compose/rights/postgres.sql`: what the one that runs needs it has, and what it must not do is refused.

use std::process::Command;

use ffpool_dispatcher::ledger::read::JobFilter;
use ffpool_dispatcher::ledger::{CostBy, Keep, Ledger, LedgerSettings, Policy, Realm, Retention};
use ffpool_schema::migrations;
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

/// The migrations up to that version, by the program that the dispatcher applies them with.
async fn migrate_to(version: u32, owner: &str) {
    let all: Vec<refinery::Migration> = migrations::ALL
        .iter()
        .map(|(name, sql)| refinery::Migration::unapplied(name, sql).unwrap())
        .filter(|migration| u32::try_from(migration.version()).unwrap() <= version)
        .collect();
    refinery::Runner::new(&all).run_async(&mut connect(owner).await).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_are_booked_that_ended_before_the_upgrade_and_those_that_end_before_the_account_has_its_new_rights() {
    let superuser = tokio::task::block_in_place(|| Stack::shared().postgres.new_database());
    tokio::task::block_in_place(|| make_accounts(&superuser));
    let account = |name: &str| superuser.replace("ffpool@", &format!("{name}:rights-1@"));
    let (owner, runner) = (account("ffpool_owner"), account("ffpool_dispatcher"));
    // A ledger of the version before there were sums, in use.
    migrate_to(21, &owner).await;
    let rights = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO ffpool_dispatcher";
    connect(&owner).await.batch_execute(rights).await.unwrap();
    let run = connect(&runner).await;
    let jobs: Vec<Uuid> = (0..3).map(|_| Uuid::now_v7()).collect();
    let job = "INSERT INTO job (id, state, queue, priority, pool, scenario, body, content_type, tapped, max_retries) \
               SELECT id, 'running', 'default', 'medium', 'cpu', '720p30-h264', '{}', 'application/json', true, 3 \
               FROM unnest($1::uuid[]) AS made(id)";
    run.execute(job, &[&jobs]).await.unwrap();
    let begin = "INSERT INTO attempt (job, attempt, worker, incarnation) \
                 SELECT id, 1, 'w', gen_random_uuid() FROM unnest($1::uuid[]) AS made(id)";
    run.execute(begin, &[&jobs]).await.unwrap();
    let end = "UPDATE attempt SET ended_at = now(), outcome = 'finished', usage = '{\"wall_ms\": 10, \"cpu_ms\": 3600000}' \
               WHERE job = $1";
    run.execute(end, &[&jobs[0]]).await.unwrap();
    drop(run);

    // The tables are new, and the account has no rights on them.
    migrate_to(22, &owner).await;
    let run = connect(&runner).await;
    refuses(&run, &["SELECT FROM cost_sum", "SELECT FROM cost_change", "SELECT FROM cost_booking"]).await;
    run.execute(end, &[&jobs[1]]).await.unwrap();

    Ledger::migrate(&settings(&runner, Some(&owner))).await.unwrap();
    let ledger = Ledger::open(&settings(&runner, None)).await.unwrap();
    let told = async |by: CostBy| {
        let rows = ledger.costs(&Realm::Pool, &by, Timestamp::UNIX_EPOCH).await.unwrap().rows;
        rows.into_iter().map(|row| (row.key, row.jobs, row.attempts, row.used.core_hours)).collect::<Vec<_>>()
    };
    let both = |key: &str| vec![(Some(key.to_owned()), 2, 2, 2.0)];
    let unbooked = "SELECT count(*) FROM attempt WHERE ended_at IS NOT NULL AND booked_hour IS NULL";
    let count = async || run.query_one(unbooked, &[]).await.unwrap().get::<_, i64>(0);
    assert_eq!((count().await, told(CostBy::Queue).await), (1, both("default")));
    assert_eq!(told(CostBy::Worker).await, both("w"));
    while ledger.book_costs().await.unwrap() {}
    while ledger.sum_up_costs().await.unwrap() {}
    assert_eq!((count().await, told(CostBy::Queue).await), (0, both("default")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_before_the_upgrade_is_counted_after_it_and_jobs_of_before_are_found_by_no_secret() {
    let superuser = tokio::task::block_in_place(|| Stack::shared().postgres.new_database());
    tokio::task::block_in_place(|| make_accounts(&superuser));
    let account = |name: &str| superuser.replace("ffpool@", &format!("{name}:rights-1@"));
    let (owner, runner) = (account("ffpool_owner"), account("ffpool_dispatcher"));
    // A ledger of the version before, in use: one job failed twice, one was lost and completed then, one missed its deadline.
    migrate_to(22, &owner).await;
    let rights = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO ffpool_dispatcher";
    connect(&owner).await.batch_execute(rights).await.unwrap();
    let run = connect(&runner).await;
    let jobs: Vec<Uuid> = (0..3).map(|_| Uuid::now_v7()).collect();
    let job = "INSERT INTO job (id, state, queue, priority, pool, scenario, body, content_type, tapped, max_retries, attempt, last_cause, \
                                spec, labels) \
               VALUES ($1, $2, 'default', 'medium', 'cpu', '720p30-h264', '{}', 'application/json', true, 3, $3, $4, $5, '{\"show\": \"News\"}')";
    let spec = |name: &str| {
        serde_json::json!({
            "input": format!("https://joe:hush@cdn.example/In/{name}.mov?sig=hush"),
            "output": format!("https://cdn.example/put/{name}.mp4?sig=hush#hush"),
            "outputs": [{"url": format!("/out/{name}?.mp4")}, {"url": "RTMPS://joe:hush@live.example:1935/app/hush/hush?hush"},
                        {"url": "srt://live.example:9000?streamid=hush"}],
        })
    };
    let insert = async |at: usize, state: &str, attempt: i32, cause: Option<&str>, name: &str| {
        run.execute(job, &[&jobs[at], &state, &attempt, &cause, &spec(name)]).await.unwrap();
    };
    insert(0, "failed", 2, Some("crash"), "broken").await;
    insert(1, "completed", 2, None, "lost").await;
    insert(2, "failed", 0, Some("deadline"), "late").await;
    let attempt = "INSERT INTO attempt (job, attempt, worker, incarnation, ended_at, outcome, failure) \
                   VALUES ($1, $2, 'w', gen_random_uuid(), now(), $3, $4)";
    let crash = serde_json::json!({"cause": "crash", "message": "it crashed"});
    for (at, number, outcome, failure) in [
        (0, 1, "failed", Some(&crash)),
        (0, 2, "failed", Some(&crash)),
        (1, 1, "lapsed", None),
        (1, 2, "finished", None),
    ] {
        run.execute(attempt, &[&jobs[at], &number, &outcome, &failure]).await.unwrap();
    }

    Ledger::migrate(&settings(&runner, Some(&owner))).await.unwrap();
    let ledger = Ledger::open(&settings(&runner, None)).await.unwrap();
    let counted = ledger.failures_since(&Realm::Pool, Timestamp::UNIX_EPOCH).await.unwrap();
    let mut counted: Vec<_> =
        counted.iter().map(|one| (one.cause.as_str(), one.attempts, one.retried, one.dead)).collect();
    counted.sort_unstable();
    assert_eq!(counted, [("crash", 2, 1, 1), ("deadline", 0, 0, 1), ("worker_lost", 1, 1, 0)]);
    let shown = [
        ("cdn.example/in/", 3),
        ("put/late.mp4", 1),
        ("out/broken?.mp4", 1),
        ("rtmps://live.example:1935/app/", 3),
        ("srt://live.example:9000", 3),
        ("show:news", 3),
        ("hush", 0),
        ("joe", 0),
    ];
    for (text, expected) in shown {
        let filter = JobFilter { search: Some(text.to_owned()), limit: 50, ..JobFilter::default() };
        assert_eq!(ledger.jobs(&filter).await.unwrap().jobs.len(), expected, "{text}");
    }
}

async fn refuses(client: &Client, statements: &[&str]) {
    for statement in statements {
        match client.batch_execute(statement).await {
            Ok(()) => panic!("allowed: {statement}"),
            Err(error) => assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{statement}: {error}"),
        }
    }
}
