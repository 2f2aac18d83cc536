//! Jobs that wait for other jobs.

use crate::by;
use ffpool_dispatcher::ledger::{SubmitError, Submitter};
use ffpool_schema::api::PurgeRequest;
use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::lifecycle::State;
use ffpool_schema::message::DropReason;

use super::*;

/// A job that waits for `parents`.
fn child_of(parents: &[JobId]) -> (JobId, Vec<u8>) {
    job_with(|spec| spec.depends_on = parents.to_vec())
}

async fn complete(scene: &Scene, worker: &Worker, id: JobId, body: &[u8]) {
    let grant = worker.run(&delivery(Some(id), body)).await;
    assert_eq!(worker.ask(subjects::COMMIT, &grant).await, CommitReply::Granted);
    scene.report(worker, &grant, Outcome::Finished { manifest: None }).await;
    scene.until_column(id, "state", "completed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_after_all_that_it_waits_for_whichever_is_recorded_first() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&[]).await;
    let worker = Worker::new(&scene, "w");
    let (done, done_body) = job();
    complete(&scene, &worker, done, &done_body).await;
    let (first, first_body) = job();
    let (second, second_body) = job();
    // One parent has ended, one waits, one is not there yet.
    let (child, child_body) = child_of(&[done, first, second]);
    scene.publish("jobs.default", "medium", Some(first), &first_body).await;
    scene.until_column(first, "state", "queued").await;
    let dropped = worker.claim(&delivery(Some(child), &child_body)).await;
    assert_eq!(dropped, ClaimReply::Drop { job: Some(child), reason: DropReason::Superseded });
    assert_eq!(scene.column(child, "state || custody").await.as_deref(), Some("blockedledger"));
    let not_before = Timestamp::now() + Duration::from_secs(3_600);
    let (later, later_body) = job_with(|spec| {
        spec.depends_on = vec![first];
        spec.not_before = Some(not_before);
    });
    let submitter = Submitter::default();
    let submitted = dispatcher.ledger().submit(&later_body, Some("application/json"), &submitter).await.unwrap();
    assert_eq!(submitted.state, State::Blocked);

    complete(&scene, &worker, first, &first_body).await;
    scene.until_column(later, "state", "delayed").await;
    let due = scene.column(later, "publish_due > now() + interval '50 minutes'").await;
    assert_eq!(due.as_deref(), Some("true"), "it has a time to wait for besides");
    assert_eq!(scene.column(child, "state").await.as_deref(), Some("blocked"));
    complete(&scene, &worker, second, &second_body).await;
    scene.until_column(child, "state = 'queued' AND published_at IS NOT NULL", "true").await;
    assert_eq!(worker.run(&delivery(Some(child), &child_body)).await.attempt, 1);

    // Its parents have ended long ago, and nobody told: as after a crash between the two.
    let (left, left_body) = child_of(&[done, first]);
    scene.publish("jobs.default", "medium", Some(left), &left_body).await;
    scene.until_column(left, "state", "queued").await;
    scene.sql.execute("UPDATE job SET state = 'blocked', publish_due = NULL WHERE id = $1", &[&left.0]).await.unwrap();
    scene.until_column(left, "state", "queued").await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_does_not_complete_ends_its_children_and_theirs() {
    for (flags, state, cause) in [
        (["--parent-failure", "fail"], "failed", Some("parent_failed")),
        (["--parent-failure", "skip"], "cancelled", None),
    ] {
        let scene = Scene::new().await;
        let dispatcher = scene.dispatcher(&flags).await;
        let worker = Worker::new(&scene, "w");
        let (parent, parent_body) = job();
        let (child, child_body) = child_of(&[parent]);
        let (grandchild, grandchild_body) = child_of(&[child]);
        for (id, body) in [(grandchild, &grandchild_body), (child, &child_body)] {
            scene.publish("jobs.default", "medium", Some(id), body).await;
            scene.until_column(id, "state", "blocked").await;
        }
        let grant = worker.run(&delivery(Some(parent), &parent_body)).await;
        let failure = Failure::new(Cause::InputBad, "the input is damaged");
        scene.report(&worker, &grant, Outcome::Failed { failure }).await;
        for (id, above) in [(child, parent), (grandchild, child)] {
            scene.until_column(id, "state", state).await;
            assert_eq!(scene.column(id, "last_cause").await.as_deref(), cause);
            let reason = scene.column(id, "reason").await.unwrap();
            assert!(reason.contains(&above.to_string()), "{reason}");
        }
        // The parent goes round again; its children are dead letters of their own.
        assert_eq!(dispatcher.ledger().redrive(parent, &by("test"), None).await.unwrap(), State::Queued);
        assert_eq!(scene.column(child, "state").await.as_deref(), Some(state));
        // A child of an end that was there before it.
        let (late, late_body) = child_of(&[child]);
        scene.publish("jobs.default", "medium", Some(late), &late_body).await;
        scene.until_column(late, "state", state).await;
        dispatcher.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn children_of_a_purged_job_end_with_it_whether_they_wait_already_or_come_later() {
    for (flags, state) in [(["--parent-failure", "fail"], "failed"), (["--parent-failure", "skip"], "cancelled")] {
        let scene = Scene::new().await;
        let dispatcher = scene.dispatcher(&flags).await;
        let worker = Worker::new(&scene, "w");
        let (parent, parent_body) = job();
        let (other, other_body) = job();
        let (waiting, waiting_body) = child_of(&[other, parent]);
        let grant = worker.run(&delivery(Some(parent), &parent_body)).await;
        let failure = Failure::new(Cause::InputBad, "the input is damaged");
        scene.report(&worker, &grant, Outcome::Failed { failure }).await;
        scene.until_column(parent, "state", "failed").await;
        scene.publish("jobs.default", "medium", Some(waiting), &waiting_body).await;
        scene.until_column(waiting, "state", state).await;

        let request = PurgeRequest { ids: vec![parent], fingerprint: None, reason: "test".into() };
        assert_eq!(dispatcher.ledger().purge(&request, &by("test")).await.unwrap().purged, 1);
        // As if the purge had come before anybody told it that its parent had failed.
        let sql = "UPDATE job SET state = 'blocked', ended_at = NULL, reason = NULL WHERE id = $1";
        scene.sql.execute(sql, &[&waiting.0]).await.unwrap();
        let (later, later_body) = child_of(&[parent]);
        scene.publish("jobs.default", "medium", Some(later), &later_body).await;
        for child in [waiting, later] {
            scene.until_column(child, "state", state).await;
            let reason = scene.column(child, "reason").await.unwrap();
            assert_eq!(reason, format!("job {parent}, which it waits for, was purged"));
        }
        // Its id is used again: then that job is the parent.
        scene.publish("jobs.default", "medium", Some(parent), &parent_body).await;
        scene.until_column(parent, "state", "queued").await;
        let (last, last_body) = child_of(&[parent]);
        scene.publish("jobs.default", "medium", Some(last), &last_body).await;
        scene.until_column(last, "state", "blocked").await;
        complete(&scene, &worker, parent, &parent_body).await;
        scene.until_column(last, "state", "queued").await;
        complete(&scene, &worker, other, &other_body).await;
        dispatcher.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circle_is_refused_with_the_names_of_all_in_it() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&[]).await;
    let closing = JobId(Uuid::now_v7());
    let (first, first_body) = child_of(&[closing]);
    let (second, second_body) = child_of(&[first]);
    for (id, body) in [(first, &first_body), (second, &second_body)] {
        scene.publish("jobs.default", "medium", Some(id), body).await;
        scene.until_column(id, "state", "blocked").await;
    }
    let mut spec: JobSpec = serde_json::from_slice(&second_body).unwrap();
    spec.id = Some(closing);
    spec.depends_on = vec![second];
    let body = serde_json::to_vec(&spec).unwrap();

    let submitter = Submitter::default();
    let refused = dispatcher.ledger().submit(&body, Some("application/json"), &submitter).await;
    let Err(SubmitError::Invalid(faults)) = refused else { panic!("{refused:?}") };
    assert_eq!((faults[0].path.as_str(), faults[0].code.as_str()), ("depends_on", "cycle"));
    assert!([first, second, closing].iter().all(|id| faults[0].message.contains(&id.to_string())), "{faults:?}");

    scene.publish("jobs.default", "medium", Some(closing), &body).await;
    scene.until_column(closing, "state", "rejected").await;
    assert_eq!(scene.column(closing, "faults->0->>'code'").await.as_deref(), Some("cycle"));
    // Those that wait for it end with it.
    scene.until_column(second, "state", "failed").await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_job_never_hears_of_a_parent_that_is_another_tenants() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&[]).await;
    let ledger = dispatcher.ledger();
    let (parent, body) = job_with(|spec| spec.tenant = Some("acme".to_owned()));
    scene.publish("jobs.default", "medium", Some(parent), &body).await;
    scene.until_column(parent, "state", "queued").await;
    let (theirs, theirs_body) = job_with(|spec| {
        spec.tenant = Some("other".to_owned());
        spec.depends_on = vec![parent];
    });
    let (pools, pools_body) = child_of(&[parent]);
    for (id, body) in [(theirs, &theirs_body), (pools, &pools_body)] {
        scene.publish("jobs.default", "medium", Some(id), body).await;
        scene.until_column(id, "state", "blocked").await;
    }
    let known = async |job| ledger.circumstances(job).await.unwrap().missing[0].known;
    assert_eq!((known(theirs).await, known(pools).await.map(|(_, state)| state)), (None, Some(State::Queued)));

    ledger.cancel(parent, &by("test")).await.unwrap();
    // A job of the pool's sees everybody's, so that the end of the parent has gone round when it is told.
    scene.until_column(pools, "state", "failed").await;
    ledger.settle_waiting(false).await.unwrap();
    scene.until_column(theirs, "state", "blocked").await;
    assert_eq!(known(theirs).await, None);

    // A circle through somebody else's jobs is none, and names none of them.
    let mut spec: JobSpec = serde_json::from_slice(&body).unwrap();
    (spec.id, spec.depends_on) = (Some(JobId(Uuid::now_v7())), vec![theirs]);
    scene.publish("jobs.default", "medium", spec.id, &serde_json::to_vec(&spec).unwrap()).await;
    scene.until_column(spec.id.unwrap(), "state", "blocked").await;
    dispatcher.stop().await;
}
