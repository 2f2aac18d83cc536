//! The sums of what attempts used agree with the attempts, whatever becomes of them.

use std::collections::BTreeMap;

use ffpool_dispatcher::ledger::{CostBy, Keep, Ledger, Realm, Retention};
use ffpool_schema::chunk::{Cut, Micros, Piece, Span};
use ffpool_schema::failure::{Cause, Failure};

use super::*;

/// With prices, and with failures that are tried again at once.
const PRICED: [&str; 6] = ["--lease-secs", "600", "--backoff-base-secs", "0", "--price-core-hour", "0.07"];

const COMMON: &str = "720p30-h264";
const RARE: &str = "1080p30-h264";

/// A job whose labels say what it is summed up by: reports by label look at the attempts themselves.
fn labelled(tenant: Option<&str>, scenario: &str) -> (JobId, Vec<u8>) {
    job_with(|spec| {
        spec.tenant = tenant.map(str::to_owned);
        spec.scenario = scenario.into();
        spec.labels.insert("queue".into(), "default".into());
        spec.labels.insert("scenario".into(), scenario.into());
        if let Some(tenant) = tenant {
            spec.labels.insert("tenant".into(), tenant.to_owned());
        }
    })
}

fn used(part: u64, energy_joules: Option<f64>) -> Option<Usage> {
    Some(Usage {
        wall_ms: 1_001 * part,
        cpu_ms: 3_337 * part,
        peak_memory_bytes: Some(123_456_789 * part),
        input_bytes: None,
        output_bytes: None,
        energy_joules,
    })
}

/// What a report says of each key: how many, and how much in thousand-millionths.
async fn report(ledger: &Ledger, realm: &Realm, by: CostBy, since: Timestamp) -> BTreeMap<Option<String>, String> {
    let rows = ledger.costs(realm, &by, since).await.unwrap().rows;
    let told = rows.into_iter().map(|row| {
        let hours = row.used;
        let counts = [row.jobs, row.attempts, row.unmeasured, row.unmetered, row.unpriced];
        let amounts = [Some(hours.core_hours), Some(hours.gb_hours), Some(hours.worker_hours), hours.kwh, row.cost];
        (row.key, format!("{counts:?} {:?}", amounts.map(|amount| amount.map(|amount| (amount * 1e9).round()))))
    });
    told.collect()
}

/// Every report agrees with the one by the label that says the same, from each of these instants on.
async fn agree(ledger: &Ledger, instants: &[&str]) {
    let tenant = Realm::of(Some("acme".to_owned()));
    for since in instants {
        let since: Timestamp = since.parse().unwrap();
        for realm in [&Realm::Pool, &tenant] {
            for (by, name) in [(CostBy::Tenant, "tenant"), (CostBy::Queue, "queue"), (CostBy::Scenario, "scenario")] {
                let kept = report(ledger, realm, by, since).await;
                let walked = report(ledger, realm, CostBy::Label(name.to_owned()), since).await;
                assert_eq!(kept, walked, "by {name} since {since} for {realm:?}");
            }
        }
    }
}

/// Of a job, so that a report begins before it, after it and between it and others of its hour.
async fn record_at(scene: &Scene, job: JobId, at: &str) {
    let sql = "UPDATE job SET created_at = ($2::text)::timestamptz WHERE id = $1";
    scene.sql.execute(sql, &[&job.0, &at]).await.unwrap();
}

const OLD: Timestamp = Timestamp::UNIX_EPOCH;
const INSTANTS: [&str; 7] = [
    "2020-01-01T00:00:00Z",
    "2026-01-05T10:30:00Z",
    "2026-01-05T10:40:00Z",
    "2026-01-05T10:40:00.000001Z",
    "2026-01-05T11:00:00Z",
    "2026-01-06T00:00:00Z",
    "2999-01-01T00:00:00Z",
];

#[tokio::test(flavor = "multi_thread")]
async fn sums_of_costs_agree_with_the_attempts_through_failures_chunks_and_removal() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&PRICED).await;
    let ledger = dispatcher.ledger();
    let worker = Worker::new(&scene, "w");
    let jobs = [
        (labelled(Some("acme"), COMMON), "2026-01-05T10:20:00Z"),
        (labelled(None, COMMON), "2026-01-05T10:40:00Z"),
        (labelled(Some("acme"), RARE), "2026-01-05T23:59:59Z"),
        (labelled(Some("other"), COMMON), "2026-01-06T00:00:00Z"),
    ];
    for ((id, body), at) in &jobs {
        scene.publish("jobs.default", "medium", Some(*id), body).await;
        scene.until_column(*id, "state", "queued").await;
        record_at(&scene, *id, at).await;
    }
    agree(ledger, &INSTANTS).await;
    assert!(report(ledger, &Realm::Pool, CostBy::Queue, OLD).await.is_empty(), "nothing has ended");

    // It fails, and is tried again; the report of a failure comes twice.
    let [again, whole, removed, running] = &jobs;
    let grant = worker.run(&delivery(Some(again.0.0), &again.0.1)).await;
    let failed = || Outcome::Failed { failure: Failure::new(Cause::NetTransient, "it fell over") };
    scene.report_used(&worker, &grant, failed(), used(3, None)).await;
    scene.report_used(&worker, &grant, failed(), used(3, None)).await;
    scene.until_column(again.0.0, "state", "queued").await;
    agree(ledger, &INSTANTS).await;
    let grant = worker.run(&delivery(Some(again.0.0), &again.0.1)).await;
    assert_eq!(worker.ask(subjects::COMMIT, &grant).await, CommitReply::Granted);
    scene.report_used(&worker, &grant, Outcome::Finished { manifest: None }, used(7, Some(0.1))).await;
    scene.until_column(again.0.0, "state", "completed").await;
    agree(ledger, &INSTANTS).await;

    // What makes its chunks later is booked to the whole.
    let grant = worker.run(&delivery(Some(whole.0.0), &whole.0.1)).await;
    let cut =
        Cut { seek: None, span: Span::Time { from: None, to: Some(Micros(1_000_000)) }, frames: Some(100), late: None };
    let piece = Piece { of: whole.0.0, number: 0, total: 1, key: "k".into(), cut, others: Vec::new(), is_sound: false };
    scene.report_used(&worker, &grant, Outcome::Split { pieces: vec![piece.clone()] }, used(1, Some(0.2))).await;
    scene.until_column(whole.0.0, "state", "blocked").await;
    let part = piece.id(1);
    scene.until_column(part, "state", "queued").await;
    let body: Vec<u8> = scene.sql.query_one("SELECT body FROM job WHERE id = $1", &[&part.0]).await.unwrap().get(0);
    let grant = worker.run(&delivery(Some(part), &body)).await;
    assert_eq!(worker.ask(subjects::COMMIT, &grant).await, CommitReply::Granted);
    scene.report_used(&worker, &grant, Outcome::Finished { manifest: None }, used(11, None)).await;
    scene.until_column(part, "state", "completed").await;
    agree(ledger, &INSTANTS).await;

    // Nobody tells what this one used, and it is forgotten.
    let grant = worker.run(&delivery(Some(removed.0.0), &removed.0.1)).await;
    assert_eq!(worker.ask(subjects::COMMIT, &grant).await, CommitReply::Granted);
    scene.report(&worker, &grant, Outcome::Finished { manifest: None }).await;
    scene.until_column(removed.0.0, "state", "completed").await;
    worker.run(&delivery(Some(running.0.0), &running.0.1)).await;
    agree(ledger, &INSTANTS).await;
    let told = report(ledger, &Realm::Pool, CostBy::Scenario, OLD).await;
    assert_eq!(told.keys().flatten().collect::<Vec<_>>(), [RARE, COMMON]);
    let sql = "UPDATE job SET ended_at = now() - interval '2 days' WHERE id = $1";
    scene.sql.execute(sql, &[&removed.0.0.0]).await.unwrap();
    let retention = Retention { ended: Keep::Days(1), dead: Keep::Forever };
    assert_eq!(ledger.forget_ended(retention).await.unwrap().jobs, 1);
    agree(ledger, &INSTANTS).await;

    // Added up or not, a report says the same; sums of nothing go.
    let before = report(ledger, &Realm::Pool, CostBy::Queue, OLD).await;
    while ledger.sum_up_costs().await.unwrap() {}
    assert_eq!(scene.count("SELECT count(*) FROM cost_change").await, 0);
    assert_eq!(report(ledger, &Realm::Pool, CostBy::Queue, OLD).await, before);
    agree(ledger, &INSTANTS).await;
    ledger.forget_remains(retention).await.unwrap();
    assert_eq!(scene.count("SELECT count(*) FROM cost_sum WHERE scenario = '1080p30-h264'").await, 0);
    assert!(scene.count("SELECT count(*) FROM cost_sum").await > 0);
    agree(ledger, &INSTANTS).await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_from_before_there_were_sums_count_before_they_are_booked_while_they_are_and_after() {
    let mut scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&PRICED).await;
    let worker = Worker::new(&scene, "w");
    let jobs: Vec<(JobId, Vec<u8>)> = (0..4).map(|_| labelled(Some("acme"), COMMON)).collect();
    for (id, body) in &jobs {
        scene.publish("jobs.default", "medium", Some(*id), body).await;
        scene.until_column(*id, "state", "queued").await;
        record_at(&scene, *id, "2026-01-05T10:40:00Z").await;
        let grant = worker.run(&delivery(Some(*id), body)).await;
        assert_eq!(worker.ask(subjects::COMMIT, &grant).await, CommitReply::Granted);
        scene.report_used(&worker, &grant, Outcome::Finished { manifest: None }, used(5, Some(1.5))).await;
        scene.until_column(*id, "state", "completed").await;
    }
    dispatcher.stop().await;
    // The ledger as an earlier version left it, but for one job, of which an attempt has ended since then.
    scene
        .sql
        .batch_execute(
            "ALTER TABLE attempt DISABLE TRIGGER USER; \
             UPDATE attempt SET booked_hour = NULL, booked_tenant = NULL, booked_queue = NULL, booked_scenario = NULL, booked_job = false; \
             ALTER TABLE attempt ENABLE TRIGGER USER; \
             DELETE FROM cost_sum; DELETE FROM cost_change; \
             UPDATE cost_booking SET after = '00000000-0000-0000-0000-000000000000'",
        )
        .await
        .unwrap();
    let later = "INSERT INTO attempt (job, attempt, worker, incarnation, ended_at, outcome) \
                 VALUES ($1, 2, 'w', gen_random_uuid(), now(), 'lapsed')";
    scene.sql.execute(later, &[&jobs[3].0.0]).await.unwrap();
    // Of an attempt without a job nobody says anything.
    scene.sql.execute(later, &[&Uuid::now_v7()]).await.unwrap();
    scene.reconnect().await;

    let url = &scene.database_url;
    let flags = ["x", "--amqp-url", "amqp://h", "--nats-url", "nats://h", "--database-url", url];
    let ledger = Ledger::open(&Settings::parse_from(flags).ledger().unwrap()).await.unwrap();
    let told = report(&ledger, &Realm::Pool, CostBy::Tenant, OLD).await;
    assert!(told[&Some("acme".to_owned())].starts_with("[4, 5, 1, "), "{told:?}");
    agree(&ledger, &INSTANTS).await;
    // Half of them are booked.
    let half = "UPDATE attempt SET ended_at = ended_at WHERE job = ANY ($1)";
    let first: Vec<Uuid> = jobs[..2].iter().map(|(id, _)| id.0).collect();
    scene.sql.execute(half, &[&first]).await.unwrap();
    scene.sql.execute("UPDATE cost_booking SET after = $1", &[&first.iter().max()]).await.unwrap();
    agree(&ledger, &INSTANTS).await;
    assert_eq!(report(&ledger, &Realm::Pool, CostBy::Tenant, OLD).await, told);

    assert!(ledger.book_costs().await.unwrap());
    agree(&ledger, &INSTANTS).await;
    while ledger.book_costs().await.unwrap() {}
    assert_eq!(scene.count("SELECT count(*) FROM cost_booking WHERE after IS NULL").await, 1);
    assert_eq!(scene.count("SELECT count(*) FROM attempt WHERE booked_hour IS NULL").await, 0);
    agree(&ledger, &INSTANTS).await;
    while ledger.sum_up_costs().await.unwrap() {}
    assert_eq!(report(&ledger, &Realm::Pool, CostBy::Tenant, OLD).await, told);
}
