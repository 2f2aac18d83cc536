//! Quotas of tenants: what is one too many waits in the ledger, says why, and goes on by itself.

use ffpool_dispatcher::ledger::Actor;
use ffpool_dispatcher::ledger::keys::NewKey;
use ffpool_schema::access::{Permit, Role};
use ffpool_schema::message::DropReason;

use super::*;

/// What a worker is told whose delivery is held back.
fn held_back(id: JobId) -> ClaimReply {
    ClaimReply::Drop { job: Some(id), reason: DropReason::Superseded }
}

fn of_tenant(name: &str, cpu_percent: Option<u32>) -> (JobId, Vec<u8>) {
    job_with(|spec| {
        spec.tenant = Some(name.to_owned());
        spec.resource_limits.max_cpu_percent = cpu_percent;
    })
}

impl Scene {
    /// A tenant with these columns, such as `max_running = 2`.
    async fn tenant(&self, name: &str, limits: &str) {
        self.sql.execute("INSERT INTO tenant (name) VALUES ($1) ON CONFLICT DO NOTHING", &[&name]).await.unwrap();
        self.sql.execute(&format!("UPDATE tenant SET {limits} WHERE name = $1"), &[&name]).await.unwrap();
    }

    /// Jobs of a tenant by AMQP, recorded in their order.
    async fn tenant_jobs(&self, tenant: &str, cpu_percents: &[Option<u32>]) -> Vec<(JobId, Vec<u8>)> {
        let mut jobs = Vec::new();
        for cpu_percent in cpu_percents {
            let (id, body) = of_tenant(tenant, *cpu_percent);
            self.publish("jobs.default", "medium", Some(id), &body).await;
            self.until_column(id, "tapped", "true").await;
            jobs.push((id, body));
        }
        jobs
    }

    async fn held(&self, id: JobId) -> String {
        self.column(id, "state || ' ' || coalesce(held_by, '-') || ' ' || coalesce(reason, '-')").await.unwrap()
    }

    async fn finish(&self, worker: &Worker, grant: &Grant) {
        assert_eq!(worker.ask(subjects::COMMIT, grant).await, CommitReply::Granted);
        self.report(worker, grant, Outcome::Finished { manifest: None }).await;
        self.until_column(grant.job, "state", "completed").await;
    }
}

/// Asks the dispatcher's API as its administrator.
async fn api(dispatcher: &Dispatcher, method: &str, path: &str, body: Option<Vec<u8>>) -> (u16, String) {
    api_as(dispatcher, "a-key-for-tests-only", method, path, body).await
}

async fn api_as(dispatcher: &Dispatcher, key: &str, method: &str, path: &str, body: Option<Vec<u8>>) -> (u16, String) {
    let url = format!("http://{}{path}", dispatcher.api_addr());
    let request = reqwest::Client::new().request(method.parse().unwrap(), url).bearer_auth(key);
    let request = match body {
        Some(body) => request.header("content-type", "application/json").body(body),
        None => request,
    };
    let answer = request.timeout(BOUND).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_no_more_running_than_it_may_and_the_next_goes_on_by_itself() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    scene.tenant("a", "max_running = 2").await;
    let worker = Worker::new(&scene, "w");
    let jobs = scene.tenant_jobs("a", &[None; 4]).await;
    let mut grants = Vec::new();
    for (id, body) in &jobs[..2] {
        grants.push(worker.run(&delivery(Some(*id), body)).await);
    }
    for (id, body) in &jobs[2..] {
        assert_eq!(worker.claim(&delivery(Some(*id), body)).await, held_back(*id));
        assert_eq!(scene.held(*id).await, "delayed running tenant a has 2 jobs running and may have 2 (max_running)");
        assert_eq!(worker.claim(&delivery(Some(*id), body)).await, held_back(*id), "a copy that was on its way");
    }
    let (_, told) = api(&dispatcher, "GET", &format!("/v1/jobs/{}/explain", jobs[2].0), None).await;
    assert!(told.contains("It is held back: tenant a has 2 jobs running and may have 2"), "{told}");
    let others = scene.tenant_jobs("b", &[None]).await;
    worker.run(&delivery(Some(others[0].0), &others[0].1)).await;

    scene.finish(&worker, &grants[0]).await;
    let (third, body) = &jobs[2];
    scene.until_column(*third, "state || coalesce(held_by, '')", "queued").await;
    worker.run(&delivery(Some(*third), body)).await;
    assert_eq!(scene.column(*third, "held_at").await, None);
    let (fourth, body) = &jobs[3];
    assert!(scene.held(*fourth).await.starts_with("delayed running"), "there is no room for it");
    scene.tenant("a", "max_running = NULL").await;
    scene.until_column(*fourth, "state", "queued").await;
    worker.run(&delivery(Some(*fourth), body)).await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dispatchers_that_are_asked_at_once_never_give_the_same_room_twice() {
    let scene = Scene::new().await;
    let dispatchers = [scene.dispatcher(&LONG_LEASE).await, scene.dispatcher(&LONG_LEASE).await];
    scene.tenant("a", "max_running = 3").await;
    let worker = Worker::new(&scene, "w");
    let jobs: Vec<_> = (0..24).map(|_| of_tenant("a", None)).collect();
    // Half of them are recorded by their claims.
    for (id, body) in &jobs[..12] {
        scene.publish("jobs.default", "medium", Some(*id), body).await;
    }
    let claims = jobs.iter().map(|(id, body)| {
        let (worker, delivery) = (worker.clone(), delivery(Some(*id), body));
        async move { worker.claim(&delivery).await }
    });
    let replies = futures_util::future::join_all(claims).await;
    let run = replies.iter().filter(|reply| matches!(reply, ClaimReply::Run(_))).count();
    assert_eq!(run, 3, "{replies:?}");
    assert_eq!(scene.count("SELECT count(*) FROM job WHERE state = 'running'").await, 3);
    // One by one all of them run, and never more than three.
    let mut done = 0;
    let mut grants: Vec<Grant> = replies
        .into_iter()
        .filter_map(|reply| if let ClaimReply::Run(grant) = reply { Some(*grant) } else { None })
        .collect();
    while let Some(grant) = grants.pop() {
        scene.finish(&worker, &grant).await;
        done += 1;
        if done + grants.len() == jobs.len() {
            continue;
        }
        let next = until("the next is let go", async || {
            let sql = "SELECT id FROM job WHERE state = 'queued' ORDER BY number LIMIT 1";
            scene
                .sql
                .query_opt(sql, &[])
                .await
                .unwrap()
                .map(|row| JobId(row.get(0)))
                .ok_or_else(|| format!("{done} done"))
        })
        .await;
        let body = &jobs.iter().find(|(id, _)| *id == next).unwrap().1;
        grants.push(worker.run(&delivery(Some(next), body)).await);
        assert!(scene.count("SELECT count(*) FROM job WHERE state = 'running'").await <= 3);
    }
    assert_eq!(scene.count("SELECT count(*) FROM job WHERE state = 'completed' AND attempt = 1").await, 24);
    for dispatcher in dispatchers {
        dispatcher.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_uses_no_more_cores_than_it_may() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    scene.tenant("a", "max_cpu_cores = 2").await;
    let worker = Worker::new(&scene, "w");
    let jobs = scene.tenant_jobs("a", &[Some(150), Some(100), Some(50), Some(400), None]).await;
    let claim = async |place: usize| worker.claim(&delivery(Some(jobs[place].0), &jobs[place].1)).await;
    let ClaimReply::Run(first) = claim(0).await else { panic!("there is room") };
    assert_eq!(claim(1).await, held_back(jobs[1].0));
    assert!(scene.held(jobs[1].0).await.ends_with("it takes 1 cores, and tenant a uses 1.50 of the 2 that it may"));
    assert!(matches!(claim(2).await, ClaimReply::Run(_)), "half a core was left");
    assert_eq!(claim(3).await, held_back(jobs[3].0));
    assert!(scene.held(jobs[3].0).await.contains("it cannot run before"), "{}", scene.held(jobs[3].0).await);
    assert_eq!(claim(4).await, held_back(jobs[4].0));
    scene.finish(&worker, &first).await;
    // 1.5 cores are free for one of the two; the one that never fits is in nobody's way.
    scene.until_column(jobs[1].0, "state", "queued").await;
    assert!(matches!(claim(1).await, ClaimReply::Run(_)));
    assert!(scene.held(jobs[3].0).await.starts_with("delayed running"));
    assert!(scene.held(jobs[4].0).await.starts_with("delayed running"));
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_too_many_to_wait_is_refused_over_http_and_held_back_over_amqp() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    scene.tenant("a", "max_queued = 2").await;
    let worker = Worker::new(&scene, "w");
    let jobs = scene.tenant_jobs("a", &[None; 3]).await;
    assert_eq!(scene.held(jobs[1].0).await, "queued - -");
    assert_eq!(scene.held(jobs[2].0).await, "delayed queued tenant a has 2 jobs waiting and may have 2 (max_queued)");
    assert_eq!(worker.claim(&delivery(Some(jobs[2].0), &jobs[2].1)).await, held_back(jobs[2].0));

    let (id, body) = of_tenant("a", None);
    let (status, told) = api(&dispatcher, "POST", "/v1/jobs", Some(body)).await;
    assert_eq!(status, 429, "{told}");
    assert!(told.contains("/problems/over-quota") && told.contains("has 2 jobs waiting and may have 2"), "{told}");
    assert_eq!(scene.column(id, "id").await, None, "nothing is recorded");
    let (status, told) = api(&dispatcher, "POST", "/v1/jobs", Some(jobs[0].1.clone())).await;
    assert_eq!(status, 200, "one that is recorded is no other: {told}");

    // Without an id its message finds it by what waits: it is held back when that comes.
    let (_, body) = job_with(|spec| (spec.id, spec.tenant) = (None, Some("a".to_owned())));
    scene.publish("jobs.default", "medium", None, &body).await;
    let anonymous = "SELECT count(*) FROM job WHERE fingerprint IS NOT NULL AND state = ";
    scene.until_count(&format!("{anonymous} 'queued' AND held_by = 'queued'"), 1).await;
    let reply = worker.claim(&delivery(None, &body)).await;
    assert!(matches!(reply, ClaimReply::Drop { reason: DropReason::Superseded, .. }), "{reply:?}");
    assert_eq!(scene.count(&format!("{anonymous} 'delayed' AND held_by = 'queued'")).await, 1);

    // Each that starts makes room for one, the first that came.
    worker.run(&delivery(Some(jobs[0].0), &jobs[0].1)).await;
    scene.until_column(jobs[2].0, "state", "queued").await;
    worker.run(&delivery(Some(jobs[1].0), &jobs[1].1)).await;
    scene.until_count(&format!("{anonymous} 'queued' AND held_by IS NULL"), 1).await;
    assert_eq!(scene.count("SELECT count(*) FROM job").await, 4);
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_come_too_fast_over_amqp_are_delayed_and_not_lost() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    // One at once, and the next in a quarter of an hour.
    scene.tenant("a", "requests_per_sec = 0.001").await;
    let jobs = scene.tenant_jobs("a", &[None; 3]).await;
    assert_eq!(scene.held(jobs[0].0).await, "queued - -");
    for (id, _) in &jobs[1..] {
        assert!(scene.held(*id).await.starts_with("delayed rate jobs of tenant a come faster than they may"));
    }
    // One whose claim comes before its copy is no way round it.
    let (early, body) = of_tenant("a", None);
    let worker = Worker::new(&scene, "w");
    assert_eq!(worker.claim(&delivery(Some(early), &body)).await, held_back(early));
    // One that a worker began while no dispatcher answered runs already, and goes on.
    let begun = scene.tenant_jobs("a", &[None]).await.swap_remove(0);
    assert!(scene.held(begun.0).await.starts_with("delayed rate"));
    let claim = delivery(Some(begun.0), &begun.1);
    let reply = worker.claim_as(&claim, |request| request.running_unanswered = Some(1)).await;
    assert!(matches!(&reply, ClaimReply::Run(grant) if grant.attempt == 1), "{reply:?}");
    assert_eq!(scene.held(begun.0).await, "running - -");
    scene.tenant("a", "requests_per_sec = 1000").await;
    for id in [jobs[1].0, jobs[2].0, early] {
        scene.until_column(id, "state", "queued").await;
        scene.until_column(id, "published_at IS NOT NULL", "true").await;
    }
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_keys_of_a_tenant_share_its_rate_and_those_of_others_are_unharmed() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    scene.tenant("a", "requests_per_sec = 0.001").await;
    scene.tenant("b", "requests_per_sec = 1000").await;
    let mut keys = Vec::new();
    for (name, tenant) in [("one", "a"), ("two", "a"), ("three", "b")] {
        let new = NewKey::of(name, Role::Viewer).of_tenant(tenant);
        let made = dispatcher.ledger().create_key(&new, &Actor::of_pool("test"), &Permit::of(Role::Admin)).await;
        keys.push(made.unwrap().0.text().to_owned());
    }
    let ask = async |key: &str| api_as(&dispatcher, key, "GET", "/v1/scenarios", None).await;
    // The rates are read every second; until then the tenants have what all have.
    let told = until("the rate counts", async || {
        let (status, told) = ask(&keys[0]).await;
        if status == 429 { Ok(told) } else { Err(format!("{status} {told}")) }
    })
    .await;
    assert!(told.contains("this tenant's keys") && told.contains("0.001 a second"), "{told}");
    assert_eq!(ask(&keys[1]).await.0, 429, "another key of the tenant");
    assert_eq!(ask(&keys[2]).await.0, 200, "another tenant");
    assert_eq!(ask("a-key-for-tests-only").await.0, 200);
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn small_jobs_that_keep_coming_do_not_starve_a_large_one_that_is_held_back() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    scene.tenant("a", "max_cpu_cores = 4").await;
    let worker = Worker::new(&scene, "w");
    let jobs = scene.tenant_jobs("a", &[Some(100), Some(100), Some(300), Some(100), Some(100)]).await;
    let claim = async |place: usize| worker.claim(&delivery(Some(jobs[place].0), &jobs[place].1)).await;
    let ClaimReply::Run(first) = claim(0).await else { panic!("there is room") };
    let ClaimReply::Run(second) = claim(1).await else { panic!("there is room") };
    assert_eq!(claim(2).await, held_back(jobs[2].0));
    let ClaimReply::Run(third) = claim(3).await else { panic!("it waits for a moment only") };
    scene
        .sql
        .execute("UPDATE job SET held_at = now() - interval '2 minutes' WHERE id = $1", &[&jobs[2].0.0])
        .await
        .unwrap();
    assert_eq!(claim(4).await, held_back(jobs[4].0), "there is room for it, which is kept");
    assert!(scene.held(jobs[4].0).await.contains("which is kept for job #3"), "{}", scene.held(jobs[4].0).await);
    for grant in [&first, &second] {
        scene.finish(&worker, grant).await;
    }
    scene.until_column(jobs[2].0, "state", "queued").await;
    assert!(matches!(claim(2).await, ClaimReply::Run(_)));
    scene.finish(&worker, &third).await;
    scene.until_column(jobs[4].0, "state", "queued").await;
    assert!(matches!(claim(4).await, ClaimReply::Run(_)));
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_for_its_time_gets_past_no_quota_and_is_not_early_for_it() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    scene.tenant("a", "max_queued = 1").await;
    let first = scene.tenant_jobs("a", &[None]).await.swap_remove(0).0;
    let timed = async |at: Timestamp| {
        let (id, body) = job_with(|spec| (spec.tenant, spec.not_before) = (Some("a".to_owned()), Some(at)));
        scene.publish("jobs.default", "medium", Some(id), &body).await;
        scene.until_column(id, "tapped", "true").await;
        id
    };
    let far = timed("2999-01-01T00:00:00Z".parse().unwrap()).await;
    let near = timed(Timestamp::now() + jiff::SignedDuration::from_millis(200)).await;
    assert!(
        scene.held(far).await.starts_with("delayed queued tenant a has 1 jobs waiting"),
        "{}",
        scene.held(far).await
    );
    scene.sql.execute("UPDATE job SET state = 'cancelled' WHERE id = $1", &[&first.0]).await.unwrap();
    scene.until_column(near, "state", "queued").await;
    scene.sql.execute("UPDATE job SET state = 'cancelled' WHERE id = $1", &[&near.0]).await.unwrap();
    let after = scene.tenant_jobs("a", &[None]).await.swap_remove(0).0;
    scene.until_column(after, "state", "queued").await;
    assert!(scene.held(far).await.starts_with("delayed queued"), "its time has not come");
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_files_take_as_much_as_they_may_hands_in_no_more_until_some_are_forgotten() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    scene.tenant("a", "max_storage_mb = 1").await;
    let worker = Worker::new(&scene, "w");
    let publish = async || {
        let (id, body) = scene.tenant_jobs("a", &[None]).await.swap_remove(0);
        let grant = worker.run(&delivery(Some(id), &body)).await;
        assert_eq!(worker.ask(subjects::COMMIT, &grant).await, CommitReply::Granted);
        let manifest = serde_json::json!({
            "job": id, "attempt": 1, "worker": "w", "at": "2026-12-01T00:00:00Z", "version": "0", "tool": "x", "arguments": [],
            "artifacts": [{
                "url": "file:///o.m3u8", "size_bytes": 9, "sha256": "00",
                "probe": {"format": "", "duration_secs": null, "bitrate": null, "video": null, "audio": null, "streams": 0},
                "files": [{"path": "s.ts", "size_bytes": 1 << 20, "sha256": "00"}],
            }],
            "source": null, "usage": {"wall_ms": 1, "cpu_ms": 1},
        });
        scene.report(&worker, &grant, Outcome::Finished { manifest: serde_json::from_value(manifest).unwrap() }).await;
        scene.until_column(id, "state", "completed").await;
        id
    };
    let stored = async || {
        let (_, tenant) = api(&dispatcher, "GET", "/v1/tenants/a", None).await;
        serde_json::from_str::<serde_json::Value>(&tenant).unwrap()["stored_bytes"].as_i64().unwrap()
    };
    let full = (1 << 20) + 9;
    let first = publish().await;
    assert_eq!(stored().await, full, "also before anybody sums it up");
    dispatcher.ledger().sum_up_stored().await.unwrap();
    assert_eq!((stored().await, scene.count("SELECT stored_bytes FROM tenant").await), (full, full));

    let (_, body) = of_tenant("a", None);
    let (status, told) = api(&dispatcher, "POST", "/v1/jobs", Some(body)).await;
    assert!(status == 429 && told.contains("takes 1 MiB and may take 1") && told.contains("forget"), "{status} {told}");
    let held = scene.tenant_jobs("a", &[None]).await.swap_remove(0).0;
    assert!(
        scene.held(held).await.starts_with("delayed storage what jobs of tenant a published"),
        "{}",
        scene.held(held).await
    );

    let (status, told) = api(&dispatcher, "POST", &format!("/v1/jobs/{first}/forget"), None).await;
    assert!(status == 200 && told.contains("1048585 bytes"), "{status} {told}");
    scene.until_column(held, "state", "queued").await;
    assert_eq!(stored().await, 0);
    // What is purged from the ledger counts no more either.
    let second = publish().await;
    assert_eq!(stored().await, full);
    scene.sql.execute("DELETE FROM job WHERE id = $1", &[&second.0]).await.unwrap();
    assert_eq!(stored().await, 0);
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tenant_published_before_it_has_a_row_counts_once_it_has_one() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    scene.sql.batch_execute("INSERT INTO stored_change (tenant, bytes) VALUES ('a', 5), ('a', 7)").await.unwrap();
    dispatcher.ledger().sum_up_stored().await.unwrap();
    assert_eq!(scene.count("SELECT count(*) FROM stored_change WHERE bytes = 12").await, 1, "kept, as one");
    scene.tenant("a", "max_storage_mb = 1").await;
    dispatcher.ledger().sum_up_stored().await.unwrap();
    assert_eq!(scene.count("SELECT stored_bytes FROM tenant").await, 12);
    assert_eq!(scene.count("SELECT count(*) FROM stored_change").await, 0);
    dispatcher.stop().await;
}
