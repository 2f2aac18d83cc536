//! What the broker brings becomes rows, whatever it is.

use super::*;
use crate::by;

#[tokio::test(flavor = "multi_thread")]
async fn every_published_job_has_a_row() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&[]).await;

    let (plain, body) = job();
    scene.publish("jobs.default", "", Some(plain), &body).await;
    let (later, body) = job_with(|spec| {
        spec.queue = "batch".parse().unwrap();
        spec.priority = "low".parse().unwrap();
        spec.not_before = Some("2999-01-01T00:00:00Z".parse().unwrap());
    });
    scene.publish("jobs.batch", "low", Some(later), &body).await;
    let broken = JobId(Uuid::now_v7());
    scene.publish("jobs.live", "high", Some(broken), b"{\"scenario\": 7, \"colour\": \"red\"}").await;
    let (lost, body) = job();
    scene.publish("jobs.default", "urgent", Some(lost), &body).await;
    scene.publish("jobs.default", "medium", None, b"no json at all").await;

    scene.until_column(plain, "state", "queued").await;
    assert_eq!(
        scene.column(plain, "queue || priority || custody || tapped").await.as_deref(),
        Some("defaultmediumbrokertrue")
    );
    scene.until_column(later, "state", "delayed").await;
    assert_eq!(scene.column(later, "publish_due AT TIME ZONE 'UTC'").await.as_deref().map(|at| &at[..4]), Some("2999"));
    scene.until_column(broken, "state", "rejected").await;
    let faults = scene.column(broken, "faults").await.unwrap();
    assert!(faults.contains("colour") && faults.contains("scenario"), "{faults}");
    scene.until_column(lost, "state", "rejected").await;
    let faults = scene.column(lost, "faults").await.unwrap();
    assert!(faults.contains("routing_key") && faults.contains("urgent") && faults.contains("medium"), "{faults}");
    scene.until_count("SELECT count(*) FROM job WHERE state = 'rejected' AND fingerprint IS NOT NULL", 1).await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_that_are_deleted_under_a_dispatcher_are_there_again_and_read() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    let vhost = scene.amqp_url.rsplit('/').next().unwrap().to_owned();
    let delete = move || {
        for queue in ["jobs.ledger", "jobs.events"] {
            Stack::shared().rabbit.ctl(["delete_queue", "-p", &vhost, queue]).unwrap();
        }
    };
    tokio::task::spawn_blocking(delete).await.unwrap();

    // What comes between a queue and its binding is lost to the tap, as it would be to anybody.
    until("a job published after that has a row", async || {
        let (id, body) = job();
        scene.publish("jobs.default", "", Some(id), &body).await;
        if scene.count("SELECT count(*) FROM job").await > 0 { Ok(()) } else { Err("no row".to_owned()) }
    })
    .await;
    let worker = Worker::new(&scene, "w");
    let (id, body) = job();
    let grant = worker.run(&delivery(Some(id), &body)).await;
    assert_eq!(worker.ask(subjects::COMMIT, &grant).await, CommitReply::Granted);
    // The queue of reports may come back later than that of jobs, and until then a report has nowhere to go. This one says nothing.
    until("reports are taken again", async || {
        let taken = scene.publish_as(None, EVENTS_EXCHANGE, "attempt.finished", None, b"no event").await;
        taken.map_err(|error| error.to_string())
    })
    .await;
    until("an end reported after that is applied", async || {
        scene.report(&worker, &grant, Outcome::Finished { manifest: None }).await;
        let state = scene.column(id, "state").await;
        if state.as_deref() == Some("completed") { Ok(()) } else { Err(format!("{state:?}")) }
    })
    .await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_nobody_understands_holds_up_nothing() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&[]).await;
    let worker = Worker::new(&scene, "w");
    let (id, body) = job();
    let grant = worker.run(&delivery(Some(id), &body)).await;
    assert_eq!(worker.ask(subjects::COMMIT, &grant).await, CommitReply::Granted);

    scene.publish(EVENTS_EXCHANGE, "attempt.finished", None, b"\xff\x00 no event").await;
    let unknown = Grant { job: JobId(Uuid::now_v7()), ..grant.clone() };
    scene.report(&worker, &unknown, Outcome::Finished { manifest: None }).await;
    scene.report(&worker, &grant, Outcome::Finished { manifest: None }).await;

    scene.until_column(id, "state", "completed").await;
    scene.until_count("SELECT count(*) FROM stray WHERE source = 'jobs.events'", 2).await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_postgres_cannot_hold_fails_alone() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    let worker = Worker::new(&scene, "w");
    let mut grants = Vec::new();
    for _ in 0..20 {
        let (id, body) = job();
        grants.push(worker.run(&delivery(Some(id), &body)).await);
    }
    for (index, grant) in grants.iter().enumerate() {
        let message = if index == 7 { "a NUL \0 in the tool's words" } else { "plain" };
        let failure = ffpool_schema::failure::Failure::new(ffpool_schema::failure::Cause::InputBad, message);
        scene.report(&worker, grant, Outcome::Failed { failure }).await;
    }
    scene.until_count("SELECT count(*) FROM job WHERE state = 'failed'", 20).await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_parks_its_job() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&[]).await;
    let (id, body) = job();
    scene.publish("jobs.default", "medium", Some(id), &body).await;
    scene.until_column(id, "state", "queued").await;

    // What a broker does that gives up: here by an order, for the limit is a million deliveries away.
    let intake = ffpool_broker::Intake::new(scene.link.clone(), vec![medium()], 1);
    let taken = tokio::time::timeout(BOUND, intake.next()).await.expect("the job is in its queue");
    let _ = taken.dead_letter().await;

    scene.until_column(id, "state", "failed").await;
    assert_eq!(scene.column(id, "failure->>'cause'").await.as_deref(), Some("delivery_limit"));
    dispatcher.ledger().redrive(id, &by("test"), Some("try once more")).await.unwrap();
    let again = scene.take("jobs.default.medium").await;
    assert_eq!(again.message_id, Some(id.to_string()));
    assert_eq!(again.body, body);
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_the_operators_scenario_runs_as_what_that_stands_for_on_a_worker_that_does_not_know_it() {
    let scene = Scene::new().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("scenarios.toml");
    std::fs::write(&file, "[scenarios.house]\nextends = '480p30-h264'\nparameters = { crf = 31 }\n").unwrap();
    let dispatcher = scene.dispatcher(&["--scenario-file", file.to_str().unwrap()]).await;
    let body = br#"{"scenario": "house", "engine": "noop"}"#;
    let tapped = JobId(Uuid::now_v7());
    scene.publish("jobs.default", "", Some(tapped), body).await;
    scene.until_column(tapped, "state || scenario || (spec ->> 'scenario')", "queuedhouse480p30-h264").await;
    // The message that a worker gets is the client's; what it runs is the ledger's.
    let message = scene.take("jobs.default.medium").await;
    assert_eq!(message.body, body);
    let worker = Worker::new(&scene, "w");
    for (id, attempt) in [(tapped, 1), (JobId(Uuid::now_v7()), 1)] {
        let grant = worker.run(&delivery(Some(id), body)).await;
        assert_eq!(
            (grant.spec.scenario.as_str(), grant.spec.parameters.crf, grant.attempt),
            ("480p30-h264", Some(31), attempt)
        );
    }
    dispatcher.stop().await;

    std::fs::write(&file, "[scenarios.house]\nextends = 'house'\n").unwrap();
    let settings = Settings::parse_from([
        "ffpool-dispatcher",
        "--amqp-url",
        "amqp://x",
        "--nats-url",
        "nats://x",
        "--database-url",
        "postgres://x",
        "--scenario-file",
        file.to_str().unwrap(),
    ]);
    assert!(settings.ledger().unwrap_err().to_string().contains("house -> house"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_the_tenant_s_whose_user_published_it_and_names_no_other() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    let bind = "INSERT INTO tenant (name, amqp_user) VALUES ('acme', 'guest'), ('beta', 'beta-in'), ('free', NULL)";
    scene.sql.batch_execute(bind).await.unwrap();
    dispatcher.ledger().read_publishers().await.unwrap();
    let named = |tenant: Option<&str>| job_with(|spec| spec.tenant = tenant.map(str::to_owned));
    let publish = async |user: Option<&str>, tenant: Option<&str>| {
        let (id, body) = named(tenant);
        scene.publish_as(user, "jobs.default", "", Some(id), &body).await.unwrap();
        id
    };
    for (user, tenant, whose) in [
        (Some("guest"), None, Some("acme")),
        (Some("guest"), Some("acme"), Some("acme")),
        (None, None, None),
        (None, Some("free"), Some("free")),
    ] {
        let id = publish(user, tenant).await;
        scene.until_column(id, "state", "queued").await;
        assert_eq!(scene.column(id, "tenant").await.as_deref(), whose, "{user:?} {tenant:?}");
    }
    let others = publish(Some("guest"), Some("beta")).await;
    let unsaid = publish(None, Some("acme")).await;
    for (id, code, words, whose) in
        [(others, "other_tenant", "leave `tenant` out", Some("acme")), (unsaid, "unproven_tenant", "user_id", None)]
    {
        scene.until_column(id, "state", "rejected").await;
        let faults = scene.column(id, "faults").await.unwrap();
        assert!(faults.contains(code) && faults.contains(words), "{faults}");
        assert_eq!(scene.column(id, "tenant").await.as_deref(), whose, "the publisher sees what became of it");
    }
    let (id, body) = named(None);
    let forged = scene.publish_as(Some("beta-in"), "jobs.default", "", Some(id), &body).await;
    assert!(matches!(forged, Err(PublishError::Rejected { .. })), "the broker lets nobody pretend: {forged:?}");
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_overtakes_the_tap_is_judged_by_who_published_what_it_delivers() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    scene.sql.batch_execute("INSERT INTO tenant (name, amqp_user) VALUES ('acme', 'guest')").await.unwrap();
    dispatcher.ledger().read_publishers().await.unwrap();
    let worker = Worker::new(&scene, "w");
    let said = |user: &str, delivery: DeliveredJob| DeliveredJob { user_id: Some(user.to_owned()), ..delivery };

    let (id, body) = job();
    worker.run(&said("guest", delivery(Some(id), &body))).await;
    assert_eq!(scene.column(id, "tenant").await.as_deref(), Some("acme"));
    let (id, body) = job_with(|spec| spec.tenant = Some("acme".to_owned()));
    for user in ["", "somebody"] {
        let claimed = worker.claim(&said(user, delivery(Some(id), &body))).await;
        assert!(matches!(claimed, ClaimReply::Drop { .. }), "{claimed:?}");
    }
    assert!(scene.column(id, "faults").await.unwrap().contains("unproven_tenant"));

    // A worker of before does not say it: its delivery waits until the tap has told whose it is.
    for id in [Some(JobId(Uuid::now_v7())), None] {
        let (_, body) = job_with(|spec| spec.id = id);
        let old = DeliveredJob { user_id: None, ..delivery(id, &body) };
        let waits = worker.claim(&old).await;
        assert!(matches!(&waits, ClaimReply::Hold { reason, .. } if reason.contains("too old")), "{waits:?}");
        scene.publish_as(Some("guest"), "jobs.default", "", id, &body).await.unwrap();
        let grant = until("it is recorded and runs", async || match worker.claim(&old).await {
            ClaimReply::Run(grant) => Ok(grant),
            other => Err(format!("{other:?}")),
        })
        .await;
        assert_eq!(scene.column(grant.job, "tenant").await.as_deref(), Some("acme"));
    }
    dispatcher.stop().await;
}
