//! Tenants take turns by weight, whoever came first, and nothing is held back for it.

use std::collections::BTreeMap;

use super::*;

const TWIN: &str = "jobs.default.medium.returned";

impl Scene {
    async fn hand_in(&self, tenant: &str, count: usize) {
        for _ in 0..count {
            let (id, body) = job_with(|spec| spec.tenant = Some(tenant.to_owned()));
            self.publish("jobs.default", "medium", Some(id), &body).await;
        }
        self.until_count(&format!("SELECT count(*) FROM job WHERE tenant = '{tenant}'"), count as i64).await;
    }

    /// Starts what has the next turn, and completes it. Answers whose it was.
    async fn next_turn(&self, worker: &Worker) -> String {
        let message = self.take(TWIN).await;
        let id = JobId(message.message_id.unwrap().parse().unwrap());
        let grant = worker.run(&delivery(Some(id), &message.body)).await;
        assert_eq!(worker.ask(subjects::COMMIT, &grant).await, CommitReply::Granted);
        self.report(worker, &grant, Outcome::Finished { manifest: None }).await;
        self.until_column(id, "state", "completed").await;
        self.column(id, "tenant").await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_start_jobs_by_weight_whoever_came_first_and_a_new_leader_goes_on() {
    const STARTS: usize = 24;
    let scene = Scene::new().await;
    let mut dispatcher = scene.dispatcher(&LONG_LEASE).await;
    scene.sql.batch_execute("INSERT INTO tenant (name, weight) VALUES ('a', 1), ('b', 3)").await.unwrap();
    let worker = Worker::new(&scene, "w");
    scene.hand_in("a", STARTS).await;
    assert_eq!(dispatcher.ledger().deal_turns().await.unwrap(), 0, "one tenant alone needs no turns");
    assert_eq!(scene.count("SELECT count(*) FROM tenant_turn").await, 0);

    scene.hand_in("b", STARTS).await;
    let mut starts: BTreeMap<String, usize> = BTreeMap::new();
    for start in 0..STARTS {
        if start == STARTS / 2 {
            let waits = scene.one_that_waits("a").await;
            let url = format!("http://{}/v1/jobs/{waits}/explain", dispatcher.api_addr());
            let asked = reqwest::Client::new().get(url).bearer_auth("a-key-for-tests-only").send().await.unwrap();
            let told = asked.text().await.unwrap();
            assert!(told.contains("It waits for its turn") && told.contains("with weight 3"), "{told}");
            dispatcher.stop().await;
            dispatcher = scene.dispatcher(&LONG_LEASE).await;
        }
        *starts.entry(scene.next_turn(&worker).await).or_default() += 1;
    }
    assert!((16..=20).contains(&starts["b"]), "three quarters of {STARTS} are due: {starts:?}");

    // Why one waits says how many of each tenant run, as the leader counted them.
    let message = scene.take(TWIN).await;
    let id = JobId(message.message_id.unwrap().parse().unwrap());
    worker.run(&delivery(Some(id), &message.body)).await;
    scene.until_count("SELECT sum(running)::bigint FROM tenant_turn", 1).await;
    let waits = scene.one_that_waits("a").await;
    let turns = dispatcher.ledger().circumstances(waits).await.unwrap().turns;
    let running: Vec<i64> = turns.iter().map(|turn| turn.running).collect();
    assert!(running == [0, 1] || running == [1, 0], "{turns:?}");
    scene.sql.execute("UPDATE job SET state = 'queued', turn_at = NULL WHERE id = $1", &[&id.0]).await.unwrap();

    // What has no turn is where it was: a worker that finds nothing in the twin takes it from there.
    let message = scene.take("jobs.default.medium").await;
    assert!(message.message_id.is_some());
    let (waiting, held) =
        ("SELECT count(*) FROM job WHERE state = 'queued'", "SELECT count(*) FROM job WHERE state = 'delayed'");
    assert_eq!((scene.count(waiting).await, scene.count(held).await), (STARTS as i64, 0));

    // The contest ends with the last job of all but one.
    scene
        .sql
        .batch_execute("UPDATE job SET state = 'cancelled' WHERE tenant = 'b' AND state = 'queued'")
        .await
        .unwrap();
    scene.until_count("SELECT count(*) FROM tenant_turn", 0).await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_of_which_all_that_waits_is_paused_has_no_part_in_the_turns() {
    let scene = Scene::new().await;
    let dispatcher = scene.dispatcher(&LONG_LEASE).await;
    scene.hand_in("a", 3).await;
    scene.sql.execute("UPDATE job SET paused = true WHERE tenant = 'a'", &[]).await.unwrap();
    scene.hand_in("b", 3).await;
    assert_eq!(dispatcher.ledger().deal_turns().await.unwrap(), 0);
    let dealt = "SELECT count(*) FROM job WHERE turn_at IS NOT NULL";
    assert_eq!(scene.count(dealt).await + scene.count("SELECT count(*) FROM tenant_turn").await, 0);

    scene.sql.execute("UPDATE job SET paused = false WHERE tenant = 'a'", &[]).await.unwrap();
    scene.until_count(dealt, 2).await;
    dispatcher.stop().await;
}

impl Scene {
    /// A job of a tenant's that is queued.
    async fn one_that_waits(&self, tenant: &str) -> JobId {
        let sql = "SELECT id FROM job WHERE tenant = $1 AND state = 'queued' AND turn_at IS NULL ORDER BY number DESC LIMIT 1";
        JobId(self.sql.query_one(sql, &[&tenant]).await.unwrap().get(0))
    }
}
