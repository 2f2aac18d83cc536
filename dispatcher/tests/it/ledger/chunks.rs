//! Jobs that are made in chunks: jobs of the ledger's own make these, and the whole waits for them.

use crate::by;
use ffpool_dispatcher::ledger::Realm;
use ffpool_dispatcher::ledger::Submitter;
use ffpool_dispatcher::ledger::read::{JobFilter, JobRef};
use ffpool_schema::api::PurgeRequest;
use ffpool_schema::chunk::{Cut, Micros, Piece, Span};
use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::lifecycle::State;
use ffpool_schema::message::DropReason;

use super::*;

fn pieces(of: JobId, numbers: &[u32], total: u32) -> Vec<Piece> {
    let piece = |number: &u32| {
        let span = Span::Time { from: None, to: Some(Micros(i64::from(*number) * 1_000_000)) };
        let cut = Cut { seek: None, span, frames: Some(100 + u64::from(*number)), late: None };
        Piece { of, number: *number, total, key: format!("key-{number}"), cut, others: Vec::new(), is_sound: false }
    };
    numbers.iter().map(piece).collect()
}

/// Runs the job once and has it split.
async fn split(scene: &Scene, worker: &Worker, id: JobId, body: &[u8], numbers: &[u32]) -> u32 {
    let grant = worker.run(&redelivery(Some(id), body)).await;
    scene.report(worker, &grant, Outcome::Split { pieces: pieces(id, numbers, 4) }).await;
    scene.until_column(id, "state", "blocked").await;
    grant.attempt
}

async fn body_of(scene: &Scene, piece: JobId) -> Vec<u8> {
    scene.sql.query_one("SELECT body FROM job WHERE id = $1", &[&piece.0]).await.unwrap().get(0)
}

async fn finish(scene: &Scene, worker: &Worker, piece: JobId) {
    let grant = worker.run(&delivery(Some(piece), &body_of(scene, piece).await)).await;
    assert_eq!(worker.ask(subjects::COMMIT, &grant).await, CommitReply::Granted);
    scene.report(worker, &grant, Outcome::Finished { manifest: None }).await;
    scene.until_column(piece, "state", "completed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_split_waits_for_its_chunks_and_goes_first_when_they_are_made() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    let worker = Worker::new(&scene, "w");
    let (id, body) = job_with(|spec| {
        spec.tenant = Some("acme".into());
        spec.max_retries = 1;
        spec.resource_limits.max_memory_mb = Some(900);
    });
    scene.publish("jobs.default", "medium", Some(id), &body).await;
    scene.until_column(id, "state", "queued").await;
    let grant = worker.run(&delivery(Some(id), &body)).await;
    assert_eq!(grant.splits, Some(0));
    // Chunk 0 exists already.
    let made = pieces(id, &[1, 2, 3], 4);
    scene.report(&worker, &grant, Outcome::Split { pieces: made.clone() }).await;
    scene.report(&worker, &grant, Outcome::Split { pieces: made.clone() }).await;
    scene.until_column(id, "state", "blocked").await;
    assert_eq!(scene.column(id, "reason").await.as_deref(), Some("waits for 3 of its 4 chunks"));

    let ledger = dispatcher.ledger();
    let hidden = ledger.jobs(&JobFilter { limit: 50, ..JobFilter::default() }).await.unwrap().jobs;
    assert_eq!(hidden.iter().map(|job| job.id).collect::<Vec<_>>(), [id]);
    let parts = ledger.jobs(&JobFilter { part_of: Some(id), limit: 50, ..JobFilter::default() }).await.unwrap().jobs;
    let mut ids: Vec<JobId> = parts.iter().map(|job| job.id).collect();
    ids.sort();
    let mut expected: Vec<JobId> = made.iter().map(|piece| piece.id(1)).collect();
    expected.sort();
    assert_eq!(ids, expected, "once each, although the report came twice");
    let view = ledger.job_summary(&Realm::Pool, JobRef::Id(id)).await.unwrap().unwrap();
    let chunks = view.chunks.unwrap();
    assert_eq!((chunks.done, chunks.total, view.depends_on.len()), (1, 4, 0));

    for piece in &made {
        let piece = piece.id(1);
        scene.until_column(piece, "state = 'queued' AND published_at IS NOT NULL", "true").await;
        let granted = worker.run(&delivery(Some(piece), &body_of(&scene, piece).await)).await;
        assert_eq!(granted.spec.piece.as_ref().unwrap().of, id);
        assert_eq!((granted.spec.tenant.as_deref(), granted.spec.max_retries), (Some("acme"), 1));
        assert_eq!(granted.spec.resource_limits.max_memory_mb, Some(900));
        scene.report(&worker, &granted, Outcome::Released { reason: "evicted".into() }).await;
        scene.until_column(piece, "state", "queued").await;
        assert_eq!(scene.column(id, "state").await.as_deref(), Some("blocked"));
        finish(&scene, &worker, piece).await;
    }
    scene.until_column(id, "state = 'queued' AND returned AND published_at IS NOT NULL", "true").await;
    // What is put together from chunks loses little with a worker: it is not suspected as soon as others.
    scene.sql.execute("UPDATE job SET losses = 2 WHERE id = $1", &[&id.0]).await.unwrap();
    let last = worker.run(&delivery(Some(id), &body)).await;
    assert_eq!((last.attempt, last.splits, last.alone), (2, Some(1), false));
    assert_eq!(worker.ask(subjects::COMMIT, &last).await, CommitReply::Granted);
    scene.report(&worker, &last, Outcome::Finished { manifest: None }).await;
    scene.until_column(id, "state", "completed").await;
    assert_eq!(scene.column(id, "failures").await.as_deref(), Some("0"));
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_fails_fails_the_job_with_its_cause_and_a_redrive_waits_for_new_ones_alone() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&[&LONG_LEASE[..], &["--parent-failure", "skip"]].concat()).await;
    let worker = Worker::new(&scene, "w");
    let (id, body) = job_with(|spec| spec.max_retries = 0);
    scene.publish("jobs.default", "medium", Some(id), &body).await;
    scene.until_column(id, "state", "queued").await;
    let attempt = split(&scene, &worker, id, &body, &[0, 1, 2]).await;
    let [bad, running, waiting] = [0, 1, 2].map(|number| pieces(id, &[number], 4)[0].id(attempt));
    let held = worker.run(&delivery(Some(running), &body_of(&scene, running).await)).await;
    let grant = worker.run(&delivery(Some(bad), &body_of(&scene, bad).await)).await;
    let failure = Failure::new(Cause::InputBad, "the input is damaged");
    scene.report(&worker, &grant, Outcome::Failed { failure }).await;
    scene.until_column(id, "state", "failed").await;
    assert_eq!(scene.column(id, "last_cause").await.as_deref(), Some("input_bad"));
    assert_eq!(scene.column(id, "failure ->> 'message'").await.as_deref(), Some("the input is damaged"));
    scene.until_column(waiting, "state", "cancelled").await;
    scene.until_column(running, "state", "cancelling").await;
    scene.report(&worker, &held, Outcome::Cancelled).await;
    scene.until_column(running, "state", "cancelled").await;
    let dead = dispatcher.ledger().dead_letters(&JobFilter { limit: 9, ..JobFilter::default() }).await.unwrap().jobs;
    assert_eq!(dead.iter().map(|job| job.id).collect::<Vec<_>>(), [id], "its chunk is no dead letter of its own");
    assert_eq!(dispatcher.ledger().dead_letter_groups(&Realm::Pool).await.unwrap()[0].count, 1);

    dispatcher.ledger().redrive(id, &by("ann"), None).await.unwrap();
    let grant = worker.run(&delivery(Some(id), &body)).await;
    assert_eq!(grant.splits, Some(0), "counted anew");
    scene.report(&worker, &grant, Outcome::Split { pieces: pieces(id, &[0], 4) }).await;
    scene.until_column(id, "state", "blocked").await;
    finish(&scene, &worker, pieces(id, &[0], 4)[0].id(grant.attempt)).await;
    scene.until_column(id, "state", "queued").await;

    // A report that names no chunks of the job would have it wait for ever.
    let grant = worker.run(&delivery(Some(id), &body)).await;
    scene.report(&worker, &grant, Outcome::Split { pieces: Vec::new() }).await;
    scene.until_column(id, "state", "failed").await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_does_to_a_job_reaches_its_chunks() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    let worker = Worker::new(&scene, "w");
    let (id, body) = job();
    let submitted = dispatcher.ledger().submit(&body, None, &Submitter::default()).await.unwrap();
    assert_eq!(submitted.state, State::Queued);
    let attempt = split(&scene, &worker, id, &body, &[0, 1]).await;
    let [first, second] = [0, 1].map(|number| pieces(id, &[number], 4)[0].id(attempt));
    dispatcher.ledger().pause(id, &by("ann")).await.unwrap();
    for piece in [first, second] {
        scene.until_column(piece, "paused", "true").await;
    }
    dispatcher.ledger().resume(id, &by("ann")).await.unwrap();
    scene.until_column(first, "paused", "false").await;
    finish(&scene, &worker, first).await;
    dispatcher.ledger().cancel(id, &by("ann")).await.unwrap();
    scene.until_column(second, "state", "cancelled").await;
    assert_eq!(scene.column(first, "state").await.as_deref(), Some("completed"));
    assert_eq!(scene.column(id, "state").await.as_deref(), Some("cancelled"));

    // Nobody but the ledger makes chunks.
    let (forged, body) = job_with(|spec| spec.piece = Some(Box::new(pieces(id, &[1], 4).remove(0))));
    scene.publish("jobs.default", "medium", Some(forged), &body).await;
    scene.until_column(forged, "state", "rejected").await;
    let (forged, body) = job_with(|spec| spec.piece = Some(Box::new(pieces(id, &[1], 4).remove(0))));
    let _ = worker.claim(&delivery(Some(forged), &body)).await;
    scene.until_column(forged, "state", "rejected").await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_purged_with_its_chunks_once_all_have_ended_and_their_messages_record_nothing() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    let worker = Worker::new(&scene, "w");
    let (id, body) = job_with(|spec| spec.max_retries = 0);
    scene.publish("jobs.default", "medium", Some(id), &body).await;
    scene.until_column(id, "state", "queued").await;
    let attempt = split(&scene, &worker, id, &body, &[0, 1, 2]).await;
    let [bad, running, waiting] = [0, 1, 2].map(|number| pieces(id, &[number], 4)[0].id(attempt));
    let left_in_queue = body_of(&scene, waiting).await;
    let held = worker.run(&delivery(Some(running), &body_of(&scene, running).await)).await;
    let grant = worker.run(&delivery(Some(bad), &body_of(&scene, bad).await)).await;
    scene.report(&worker, &grant, Outcome::Failed { failure: Failure::new(Cause::InputBad, "damaged") }).await;
    scene.until_column(id, "state", "failed").await;

    let request = PurgeRequest { ids: vec![id], fingerprint: None, reason: "test".into() };
    let report = dispatcher.ledger().purge(&request, &by("ann")).await.unwrap();
    assert_eq!((report.purged, report.left), (0, 1), "a worker still has a chunk in its hands");
    assert_eq!(scene.column(running, "state").await.as_deref(), Some("cancelling"));
    assert_eq!(scene.column(waiting, "state").await.as_deref(), Some("cancelled"));
    scene.report(&worker, &held, Outcome::Cancelled).await;
    scene.until_column(running, "state", "cancelled").await;
    let report = dispatcher.ledger().purge(&request, &by("ann")).await.unwrap();
    assert_eq!((report.purged, report.left), (1, 0));
    for gone in [id, bad, running, waiting] {
        assert_eq!(scene.column(gone, "state").await, None);
        assert!(scene.history(gone).await.is_empty() && scene.outcomes(gone).await.is_empty());
    }

    // The message of a chunk that was cancelled while it waited.
    let reply = worker.claim(&redelivery(Some(waiting), &left_in_queue)).await;
    assert!(matches!(reply, ClaimReply::Drop { .. }), "{reply:?}");
    assert_eq!(scene.column(waiting, "state").await, None, "no rejected job comes of it");
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_are_too_much_for_one_transaction_end_the_job_with_the_reason() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    let worker = Worker::new(&scene, "w");
    let (id, body) = job();
    scene.publish("jobs.default", "medium", Some(id), &body).await;
    scene.until_column(id, "state", "queued").await;
    let grant = worker.run(&delivery(Some(id), &body)).await;
    // Longer than a client may write it: what counts is what the chunks' jobs would carry.
    let longer = "UPDATE job SET spec = spec || jsonb_build_object('tenant', repeat('x', 64000)) WHERE id = $1";
    scene.sql.execute(longer, &[&id.0]).await.unwrap();
    let many: Vec<u32> = (0..1400).collect();
    scene.report(&worker, &grant, Outcome::Split { pieces: pieces(id, &many, 1400) }).await;
    scene.until_column(id, "state", "failed").await;
    let message = scene.column(id, "failure ->> 'message'").await.unwrap();
    assert!(message.contains("1400 chunks") && message.contains("checkpoint: off"), "{message}");
    assert_eq!(scene.column(id, "last_cause").await.as_deref(), Some("config_bad"));
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_only_a_later_version_can_read_waits_for_it() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    let worker = Worker::new(&scene, "w");
    let (id, body) = job();
    scene.publish("jobs.default", "medium", Some(id), &body).await;
    scene.until_column(id, "state", "queued").await;
    let edit = async |sql: &str| {
        scene.sql.execute(&format!("UPDATE job SET spec = {sql} WHERE id = $1"), &[&id.0]).await.unwrap();
    };
    edit(r#"spec::jsonb || '{"novel": 1}'"#).await;
    let reply = worker.claim(&delivery(Some(id), &body)).await;
    assert!(matches!(reply, ClaimReply::Drop { reason: DropReason::Unfit, .. }), "{reply:?}");
    let reason = scene.column(id, "reason").await.unwrap();
    assert!(reason.contains("waits for one that can read it") && reason.contains("novel"), "{reason}");
    edit("spec::jsonb - 'novel'").await;
    scene.until_column(id, "state", "queued").await;
    // What is no more valid by this version's rules is no matter of another version.
    edit(r#"spec::jsonb || '{"parameters": {"crf": 99}}'"#).await;
    let reply = worker.claim(&delivery(Some(id), &body)).await;
    assert!(matches!(reply, ClaimReply::Drop { reason: DropReason::Rejected, .. }), "{reply:?}");
    scene.until_column(id, "state || ' ' || (faults -> 0 ->> 'path')", "rejected parameters.crf").await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_piece_that_no_worker_knows_waits_for_one_and_does_not_end_the_job() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&[&LONG_LEASE[..], &["--unfit", "reject"]].concat()).await;
    let worker = Worker::new(&scene, "w");
    let (id, body) = job();
    scene.publish("jobs.default", "medium", Some(id), &body).await;
    scene.until_column(id, "state", "queued").await;
    let grant = worker.run(&delivery(Some(id), &body)).await;
    assert!(grant.sound_apart && Piece::FEATURES.iter().all(|feature| grant.minds(feature)));
    let mut sound = pieces(id, &[4], 5);
    sound[0].is_sound = true;
    let piece = sound[0].id(grant.attempt);
    scene.report(&worker, &grant, Outcome::Split { pieces: sound }).await;
    scene.until_column(id, "state", "blocked").await;
    // At first the dispatcher has not heard of all workers, and thinks that another may fit.
    let end = Instant::now() + BOUND;
    loop {
        scene.until_column(piece, "state", "queued").await;
        let reply = worker.claim(&delivery(Some(piece), &body_of(&scene, piece).await)).await;
        assert!(matches!(reply, ClaimReply::Drop { reason: DropReason::Unfit, .. }), "{reply:?}");
        let reason = scene.column(piece, "reason").await.unwrap();
        assert!(reason.contains("sound apart"), "{reason}");
        if reason.starts_with("waits for a worker that fits") {
            break;
        }
        assert!(Instant::now() < end, "{reason}");
    }
    assert_eq!(scene.column(id, "state").await.as_deref(), Some("blocked"));
    dispatcher.stop().await;
}
