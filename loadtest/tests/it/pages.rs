//! A seeded ledger, and every list and page that a dispatcher shows of it.

use std::collections::BTreeSet;

use ffpool_loadtest::pages::{self, PagesArgs};
use ffpool_loadtest::seed::{self, SeedArgs, Size};
use ffpool_stack::Stack;
use tokio::task::spawn_blocking;

use crate::support::run;

#[test]
fn every_route_and_page_answers_on_a_seeded_ledger_and_lists_show_every_row_once() {
    run(async {
        let size = Size { jobs: 2000, workers: 150, days: 30, hold: 12 };
        let (stack, database, seeded) = spawn_blocking({
            let size = size.clone();
            move || {
                let stack = Stack::shared();
                let database = stack.postgres.new_database();
                seed::migrate(&database)?;
                let seeded = seed::fill(&database, &size, |_| ())?;
                anyhow::Ok((stack, database, seeded))
            }
        })
        .await??;
        assert_eq!(seeded.jobs.len(), 9, "jobs of every state: {seeded}");
        assert_eq!((seeded.jobs.iter().map(|(_, count)| count).sum::<i64>(), seeded.workers), (2000, 150), "{seeded}");

        let pool = pages::start(stack, &database).await?;
        let args = PagesArgs { size, root: None, ledger: None, asks: 1, connections: 1, only: None };
        let report = pages::ask(&pool, &args).await?;
        let failed: Vec<&str> =
            report.rows.iter().filter(|row| row.waits.failed > 0).map(|row| row.path.as_str()).collect();
        assert!(failed.is_empty(), "{failed:#?}\n{}", pool.logs());
        assert!(report.rows.len() > 150, "{report}");

        let walked = pages::walk(&pool).await?;
        let lists = ["/v1/audit", "/v1/dead-letters", "/v1/jobs", "/v1/workers"];
        assert_eq!(walked.keys().map(String::as_str).collect::<Vec<_>>(), lists);
        for (path, list) in &walked {
            let different: BTreeSet<&String> = list.rows.iter().collect();
            assert_eq!(different.len(), list.rows.len(), "{path} shows a row twice");
            let sql = match path.as_str() {
                "/v1/jobs" => "SELECT count(*) FROM job WHERE part_of IS NULL",
                "/v1/dead-letters" => "SELECT count(*) FROM job WHERE part_of IS NULL AND state = 'failed'",
                "/v1/workers" => "SELECT count(*) FROM worker",
                _ => "SELECT count(*) FROM audit",
            };
            assert_eq!(list.rows.len() as i64, count(&database, sql).await?, "{path} in {} pages", list.pages);
            // There are fewer dead letters in so small a ledger than a page holds.
            assert!(list.pages > 1 || path == "/v1/dead-letters", "{path} has one page only");
        }
        Ok(())
    });
}

#[test]
fn a_ledger_with_work_of_its_own_is_left_alone_and_too_few_workers_are_told_before_anything_is_written() {
    run(async {
        spawn_blocking(|| {
            let database = Stack::shared().postgres.new_database();
            let size = Size { jobs: 2000, workers: 9, days: 30, hold: 12 };
            let args = SeedArgs { size, root: None, into: Some(database.clone()) };
            let said = format!("{:#}", seed::run(&args).unwrap_err());
            assert!(said.contains("2000 jobs need at least 10 workers"), "{said}");

            let mut client = postgres::Client::connect(&database, postgres::NoTls)?;
            client.batch_execute(
                "INSERT INTO worker (id, incarnation, seq, host, version, state, pools, capacity, ability, running) \
                     VALUES ('encode-1', gen_random_uuid(), 1, 'h', '0.1.0', 'ready', '{cpu}', '{}', '{}', '{}')",
            )?;
            let said = format!("{:#}", seed::run(&args).unwrap_err());
            assert!(said.contains("work of its own"), "{said}");
            let jobs: i64 = client.query_one("SELECT count(*) FROM job", &[])?.get(0);
            assert_eq!(jobs, 0);
            anyhow::Ok(())
        })
        .await?
    });
}

async fn count(database: &str, sql: &'static str) -> anyhow::Result<i64> {
    let database = database.to_owned();
    spawn_blocking(move || {
        let mut client = postgres::Client::connect(&database, postgres::NoTls)?;
        Ok(client.query_one(sql, &[])?.get(0))
    })
    .await?
}
