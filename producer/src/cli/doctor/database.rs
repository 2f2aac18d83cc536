//! Postgres: reachable, new enough, with every migration applied, its clock ours.

use std::time::Duration;

use ffpool_runtime::settings::chain;
use ffpool_runtime::tls::database_way;
use ffpool_schema::migrations;
use jiff::Timestamp;
use postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Check, compare_clocks};

const CONNECT: Duration = Duration::from_secs(5);
/// For all questions together.
const ANSWER: Duration = Duration::from_secs(15);
/// 14.0, as `server_version_num` counts.
const OLDEST: i32 = 140_000;

pub(super) async fn check(url: Option<String>) -> Vec<Check> {
    let Some(url) = url else { return vec![Check::skipped("postgres", "FFPOOL_DATABASE_URL")] };
    let asked = tokio::task::spawn_blocking(move || ask(&url));
    match tokio::time::timeout(ANSWER, asked).await {
        Ok(Ok(checks)) => checks,
        Ok(Err(error)) => vec![Check::fail("postgres", format!("the check itself failed: {error}"), "Report it.")],
        Err(_) => vec![Check::fail(
            "postgres",
            format!("no answer within {} s", ANSWER.as_secs()),
            "Look at Postgres' machine: it accepts connections but does not answer.",
        )],
    }
}

fn ask(url: &str) -> Vec<Check> {
    let mut client = match connect(url) {
        Ok(client) => client,
        Err(error) => {
            return vec![Check::fail(
                "postgres",
                chain(error.as_ref()),
                "Start Postgres (Debian's package: postgresql), or correct FFPOOL_DATABASE_URL: host, port, user, password and database.",
            )];
        }
    };
    match questions(&mut client) {
        Ok(checks) => checks,
        Err(error) => vec![Check::fail(
            "postgres",
            chain(&error),
            "Use the account ffpool_doctor (compose/rights): `ffpool-dispatcher migrate` lets it read the list of migrations, and nothing more is needed.",
        )],
    }
}

fn connect(url: &str) -> Result<Client, Box<dyn std::error::Error + Send + Sync>> {
    let way = database_way("FFPOOL_DATABASE_URL", url)?;
    let mut config: Config = way.url.parse()?;
    config.connect_timeout(CONNECT).application_name("ffpool doctor");
    Ok(match way.tls {
        Some(tls) => config.connect(MakeRustlsConnect::new(rustls::ClientConfig::clone(&tls)))?,
        None => config.connect(NoTls)?,
    })
}

fn questions(client: &mut Client) -> Result<Vec<Check>, postgres::Error> {
    let before = Timestamp::now();
    let row = client.query_one(
        "SELECT clock_timestamp(), current_setting('server_version'), current_setting('server_version_num')::int4, \
         to_regclass('refinery_schema_history') IS NOT NULL",
        &[],
    )?;
    let after = Timestamp::now();
    let applied: i64 =
        if row.get(3) { client.query_one("SELECT count(*) FROM refinery_schema_history", &[])?.get(0) } else { 0 };
    Ok(vec![
        version(row.get(1), row.get(2)),
        schema(usize::try_from(applied).unwrap_or(0)),
        compare_clocks("clock of postgres", row.get(0), before, after, 0.0),
    ])
}

fn version(name: &str, number: i32) -> Check {
    if number < OLDEST {
        Check::fail("postgres", format!("{name} is older than 14"), "Upgrade it to 14 or newer.")
    } else {
        Check::ok("postgres", format!("{name}, reachable"))
    }
}

fn schema(applied: usize) -> Check {
    let known = migrations::ALL.len();
    match applied.cmp(&known) {
        std::cmp::Ordering::Less => Check::fail(
            "ledger",
            format!("{applied} of {known} migrations are applied"),
            "Run `ffpool-dispatcher migrate` of this version with the tables' owner in FFPOOL_MIGRATION_DATABASE_URL; where one account owns everything, start a dispatcher: it applies them by itself.",
        ),
        std::cmp::Ordering::Equal => Check::ok("ledger", format!("all {known} migrations are applied")),
        std::cmp::Ordering::Greater => Check::warn(
            "ledger",
            format!("{applied} migrations are applied, this version knows {known}"),
            "Upgrade this program: the ledger is of a later version.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Status;

    #[test]
    fn the_version_and_the_migrations_are_judged() {
        assert_eq!(version("13.9", 130_009).status, Status::Fail);
        assert_eq!(version("15.3 (Debian 15.3-0)", 150_003).status, Status::Ok);
        let known = migrations::ALL.len();
        assert_eq!((schema(known - 1).status, schema(known).status), (Status::Fail, Status::Ok));
        assert_eq!(schema(known + 1).status, Status::Warn);
    }
}
