//! Backups of the ledger, and what is done with one that comes from them.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use ffpool_dispatcher::ledger::{Differing, Ledger, Rebuilt};
use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::message::DropReason;

use super::*;

/// Runs a script of `compose` on a database, as an operator does.
fn script(name: &str, database_url: &str, arguments: &[&str]) -> Output {
    let url = database_url.parse::<tokio_postgres::Config>().unwrap();
    let path = format!("{}/../compose/{name}", env!("CARGO_MANIFEST_DIR"));
    let tokio_postgres::config::Host::Tcp(host) = &url.get_hosts()[0] else { panic!("a host in {database_url}") };
    let mut command = Command::new(path);
    command.args(arguments).env("PGHOST", host).env("PGPORT", url.get_ports()[0].to_string());
    command.env("PGUSER", url.get_user().unwrap()).env("PGDATABASE", url.get_dbname().unwrap());
    if let Some(password) = url.get_password() {
        command.env("PGPASSWORD", String::from_utf8_lossy(password).as_ref());
    }
    command.output().unwrap()
}

fn succeeded(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}; pg_dump comes from Debian's package postgresql-client");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

async fn complete(scene: &Scene, worker: &Worker, grant: &Grant) {
    assert_eq!(worker.ask(subjects::COMMIT, grant).await, CommitReply::Granted);
    scene.report(worker, grant, Outcome::Finished { manifest: None }).await;
    scene.until_column(grant.job, "state", "completed").await;
}

/// The ledger alone, as the commands of the dispatcher open it.
async fn ledger(scene: &Scene) -> Ledger {
    let url = &scene.database_url;
    let flags = ["x", "--amqp-url", "amqp://h", "--nats-url", "nats://h", "--database-url", url];
    let settings = Settings::parse_from(flags);
    let ledger = Ledger::open(&settings.ledger().unwrap()).await.unwrap();
    until("the last leader is gone", async || ledger.rebuild(true).await.map(drop).map_err(|e| format!("{e:#}"))).await;
    ledger
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_goes_on_with_a_ledger_from_a_backup_and_what_the_lost_one_granted_can_commit_nothing() {
    let mut scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    let worker = Worker::new(&scene, "w");
    let [done, running, waiting, later] = std::array::from_fn(|_| job());
    let grant = worker.run(&delivery(Some(done.0), &done.1)).await;
    complete(&scene, &worker, &grant).await;
    let ran = worker.run(&delivery(Some(running.0), &running.1)).await;
    scene.publish("jobs.default", "medium", Some(waiting.0), &waiting.1).await;
    scene.until_column(waiting.0, "state", "queued").await;

    let kept = tempfile::tempdir().unwrap();
    let folder = kept.path().to_str().unwrap();
    let backup = |keep| script("backup", &scene.database_url, &["--keep", keep, folder]);
    let file = tokio::task::block_in_place(|| succeeded(&backup("2")));
    assert!(Path::new(&file).is_file(), "{file}");

    // What the backup does not know: one job ends, one begins and ends, one is handed in.
    complete(&scene, &worker, &ran).await;
    let began = worker.run(&delivery(Some(waiting.0), &waiting.1)).await;
    complete(&scene, &worker, &began).await;
    scene.publish("jobs.default", "medium", Some(later.0), &later.1).await;
    scene.until_column(later.0, "state", "queued").await;
    dispatcher.stop().await;

    let refused = tokio::task::block_in_place(|| script("restore", &scene.database_url, &[&file]));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("empty"), "nothing is overwritten: {said}");
    scene.database_url = tokio::task::block_in_place(|| Stack::shared().postgres.new_database());
    let restored = tokio::task::block_in_place(|| succeeded(&script("restore", &scene.database_url, &[&file])));
    assert!(restored.contains("restored 3 jobs"), "{restored}");
    scene.reconnect().await;
    let ledger = ledger(&scene).await;
    assert_eq!(ledger.rebuild(false).await.unwrap(), Rebuilt::default(), "rows and history agree");
    let adopted = ledger.adopt_restored().await.unwrap();
    assert_eq!((adopted.given_back, adopted.lifted), (1, 2));
    drop(ledger);

    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    assert_eq!(scene.column(done.0, "state || attempt").await.as_deref(), Some("completed1"));
    assert_eq!(scene.history(done.0).await.last().map(String::as_str), Some("finished"), "its history is there");
    // The lost ledger's attempts may neither commit nor report.
    for (job, late) in [(running.0, &ran), (waiting.0, &began)] {
        scene.until_column(job, "state", "queued").await;
        assert_ne!(worker.ask(subjects::COMMIT, late).await, CommitReply::Granted);
        scene.report(&worker, late, Outcome::Finished { manifest: None }).await;
    }
    for (id, body) in [&running, &waiting] {
        let grant = worker.run(&delivery(Some(*id), body)).await;
        assert!(grant.attempt > 1_000, "ahead of all that was granted: {}", grant.attempt);
        complete(&scene, &worker, &grant).await;
        assert_eq!(scene.column(*id, "failures + losses").await.as_deref(), Some("0"), "free of charge");
    }
    // Its message is still in its queue; the delivery brings it.
    let grant = worker.run(&delivery(Some(later.0), &later.1)).await;
    complete(&scene, &worker, &grant).await;
    let again = worker.claim(&delivery(Some(done.0), &done.1)).await;
    assert_eq!(again, ClaimReply::Drop { job: Some(done.0), reason: DropReason::Finished });
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_and_states_are_made_again_from_the_history() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&["--lease-secs", "600", "--backoff-base-secs", "0"]).await;
    let worker = Worker::new(&scene, "w");
    let [twice, dead, running] = std::array::from_fn(|_| job());
    let first = worker.run(&delivery(Some(twice.0), &twice.1)).await;
    let trouble = || Outcome::Failed { failure: Failure::new(Cause::NetTransient, "it fell over") };
    scene.report(&worker, &first, trouble()).await;
    scene.until_column(twice.0, "state", "queued").await;
    let second = worker.run(&delivery(Some(twice.0), &twice.1)).await;
    complete(&scene, &worker, &second).await;
    let grant = worker.run(&delivery(Some(dead.0), &dead.1)).await;
    let hopeless = Outcome::Failed { failure: Failure::new(Cause::InputBad, "the input is damaged") };
    scene.report(&worker, &grant, hopeless).await;
    scene.until_column(dead.0, "state", "failed").await;
    worker.run(&delivery(Some(running.0), &running.1)).await;
    let opened = Settings::parse_from([
        "x",
        "--amqp-url",
        "amqp://h",
        "--nats-url",
        "nats://h",
        "--database-url",
        &scene.database_url,
    ]);
    let beside = Ledger::open(&opened.ledger().unwrap()).await.unwrap();
    until("somebody leads", async || match beside.rebuild(true).await {
        Ok(_) => Err("nobody".to_owned()),
        Err(why) if why.to_string().contains("stop all dispatchers") => Ok(()),
        Err(why) => Err(format!("{why:#}")),
    })
    .await;
    dispatcher.stop().await;

    let ledger = ledger(&scene).await;
    let all = "SELECT string_agg(concat_ws(' ', job, attempt, worker, outcome, ended_at IS NULL), E'\\n' \
                                 ORDER BY job, attempt) FROM attempt";
    let states = "SELECT string_agg(concat_ws(' ', id, state, attempt, ended_at IS NULL), E'\\n' ORDER BY id) FROM job";
    let before: [String; 2] =
        [scene.sql.query_one(all, &[]).await.unwrap().get(0), scene.sql.query_one(states, &[]).await.unwrap().get(0)];
    assert_eq!(ledger.rebuild(false).await.unwrap(), Rebuilt::default());
    scene.sql.batch_execute("DELETE FROM attempt WHERE attempt = 1").await.unwrap();
    scene.sql.batch_execute("UPDATE attempt SET ended_at = NULL, outcome = NULL").await.unwrap();
    scene.sql.execute("UPDATE job SET state = 'queued', ended_at = NULL WHERE id = $1", &[&dead.0.0]).await.unwrap();
    let differing = Differing { job: dead.0, row: "queued".into(), history: "failed".into() };
    let found =
        Rebuilt { attempts_made: 3, attempts_ended: 1, jobs_set: 1, named: vec![differing], jobs_without_row: 0 };
    assert_eq!(ledger.rebuild(true).await.unwrap(), found, "a dry run tells the same");
    assert_eq!(ledger.rebuild(false).await.unwrap(), found, "and has changed nothing");
    let after: [String; 2] =
        [scene.sql.query_one(all, &[]).await.unwrap().get(0), scene.sql.query_one(states, &[]).await.unwrap().get(0)];
    assert_eq!(after, before);
    assert_eq!(ledger.rebuild(false).await.unwrap(), Rebuilt::default());

    // A copy of a message without an id would run as a job of its own.
    let waits = "UPDATE job SET state = 'queued', ended_at = NULL, publish_due = NULL, published_at = NULL, fingerprint = $2 \
                 WHERE id = $1";
    scene.sql.execute(waits, &[&twice.0.0, &None::<&str>]).await.unwrap();
    scene.sql.execute(waits, &[&dead.0.0, &Some("print")]).await.unwrap();
    ledger.adopt_restored().await.unwrap();
    for (job, is_due) in [(twice.0, "true"), (dead.0, "false")] {
        assert_eq!(scene.column(job, "publish_due IS NOT NULL").await.as_deref(), Some(is_due));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_a_migration_or_a_rebuild_is_told_how_far_it_is() {
    let url = tokio::task::block_in_place(|| Stack::shared().postgres.new_database());
    let command = |arguments: &[&str]| {
        // One that is silent ends all the same.
        let mut command = Command::new("timeout");
        command.args([&BOUND.as_secs().to_string(), env!("CARGO_BIN_EXE_ffpool-dispatcher")]);
        command.args(["--amqp-url", "amqp://h", "--nats-url", "nats://h", "--database-url", &url]);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    // Another's migration that takes its time, as far as anybody can tell.
    let (other, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    other.execute("SELECT pg_advisory_lock($1)", &[&0x6666_706f_6f6c_6d31_i64]).await.unwrap();
    other.batch_execute("CREATE TABLE refinery_schema_history (version integer)").await.unwrap();
    let mut migrates = command(&["migrate"]);
    let mut lines = BufReader::new(migrates.stderr.take().unwrap()).lines();
    let told = tokio::task::block_in_place(|| {
        lines.by_ref().map(Result::unwrap).find(|line| line.contains("migrations are applied after"))
    });
    let told = told.expect("it tells how far it is before it ends");
    assert!(told.contains(&format!(" 0 of {} migrations", ffpool_schema::migrations::ALL.len())), "{told}");
    other.batch_execute("DROP TABLE refinery_schema_history").await.unwrap();
    drop(other);
    connection.await.unwrap().unwrap();
    let rest = tokio::task::block_in_place(|| lines.map(Result::unwrap).collect::<Vec<_>>());
    let ended = tokio::task::block_in_place(|| migrates.wait()).unwrap();
    assert!(ended.success(), "{rest:#?}");

    let rebuilt = tokio::task::block_in_place(|| command(&["rebuild", "--restored"]).wait_with_output()).unwrap();
    let (said, told) = (succeeded(&rebuilt), String::from_utf8_lossy(&rebuilt.stderr));
    assert!(said.contains("jobs with events and no row:          0"), "{said}");
    let steps: Vec<usize> =
        (1..=5).map(|step| told.find(&format!("step {step} of 5: ")).expect("every step")).collect();
    assert!(steps.is_sorted() && told.contains("numbering the attempts"), "{told}");
}
