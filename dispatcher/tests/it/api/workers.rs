//! Workers and queues.

use ffpool_schema::id::{Incarnation, WorkerId};
use ffpool_schema::message::{Sender, WorkerAnswer, WorkerCommand};
use ffpool_schema::subjects;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Api, answer, problem};

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_reaches_the_worker_and_says_what_came_of_it() {
    let api = Api::start().await;
    let name = format!("drained-{}", Uuid::now_v7().simple());
    let drain = format!("/v1/workers/{name}/drain");
    problem(api.post(&drain), 404).await;
    api.insert_worker(&name).await;
    assert!(problem(api.post(&drain), 409).await.contains("not connected"));

    let worker: WorkerId = name.parse().unwrap();
    let mut commands = api.signals.serve::<WorkerCommand>(&subjects::control_worker(&worker), "workers").await.unwrap();
    let from = Sender { worker: worker.clone(), incarnation: Incarnation(Uuid::now_v7()) };
    let answering = tokio::spawn(async move {
        let command = commands.next_request().await.unwrap();
        assert_eq!(command.value, WorkerCommand::Drain);
        command.answer(&WorkerAnswer::new(from, true)).await.unwrap();
    });
    // Until the subscription has reached the server, nobody answers.
    let accepted = super::until("the worker is asked", async || {
        let response = api.post(&drain).send().await.unwrap();
        if response.status() == 200 {
            Ok(response.json::<Value>().await.unwrap())
        } else {
            Err(response.text().await.unwrap())
        }
    })
    .await;
    assert_eq!(accepted["state"], "draining");
    answering.await.unwrap();

    let entry = &api.show("/v1/audit").await["items"][0];
    assert_eq!((&entry["action"], &entry["target"]), (&json!("drain"), &json!(name)), "{entry}");

    let workers = api.show("/v1/workers").await;
    assert_eq!(workers[0]["id"], json!(name));
    assert_eq!(workers[0]["capacity"]["slots"], 2);
    assert_eq!(api.show(&format!("/v1/workers/{name}")).await, workers[0]);
    problem(api.get("/v1/workers/nobody"), 404).await;
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_come_in_pages_by_name_and_are_found_by_state_and_by_a_part_of_a_name() {
    let api = Api::start().await;
    for number in 1..=5 {
        api.insert_worker(&format!("w-{number}")).await;
    }
    api.sql.batch_execute("UPDATE worker SET state = 'lost', pools = '{cpu,gpu}' WHERE id = 'w-4'").await.unwrap();
    let names = |page: &Value| -> Vec<String> {
        page["items"].as_array().unwrap().iter().map(|worker| worker["id"].as_str().unwrap().to_owned()).collect()
    };
    let (mut seen, mut path) = (Vec::new(), "/v1/workers?limit=2".to_owned());
    loop {
        let page = api.show(&path).await;
        seen.push(names(&page));
        // One that comes later and before the cursor moves nothing.
        api.sql.batch_execute("INSERT INTO worker SELECT 'a-1', incarnation, seq, host, version, state, pools, capacity, ability, running \
                               FROM worker WHERE id = 'w-1' ON CONFLICT DO NOTHING").await.unwrap();
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/workers?limit=2&cursor={next}");
    }
    assert_eq!(seen, [vec!["w-1", "w-2"], vec!["w-3", "w-4"], vec!["w-5"]]);
    for (query, found) in [
        ("status=lost", vec!["w-4"]),
        ("status=lost&status=ready&name=GPU", vec!["w-4"]),
        ("name=-3", vec!["w-3"]),
        ("status=draining", vec![]),
    ] {
        assert_eq!(names(&api.show(&format!("/v1/workers?limit=9&{query}")).await), found, "{query}");
    }
    let all = api.show("/v1/workers?status=ready").await;
    assert_eq!(all.as_array().unwrap().len(), 5, "a list without pages, for who knows none: {all}");
    problem(api.get("/v1/workers?status=here"), 400).await;
    problem(api.get("/v1/workers?cursor=bjQy"), 400).await;
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_show_the_ledgers_counts_beside_the_brokers() {
    let api = Api::start().await;
    for state in ["queued", "queued", "running", "cancelling", "delayed", "completed"] {
        api.insert_job(state).await;
    }
    let other_pool = api.insert_job("queued").await;
    api.update_job(other_pool, "pool = 'gpu'").await;

    let queues = answer(api.get("/v1/queues"), 200).await;
    let queue = |name: &str| queues.as_array().unwrap().iter().find(|queue| queue["name"] == name).unwrap();
    let busy = queue("jobs.default.medium");
    assert_eq!(
        (&busy["queued"], &busy["running"], &busy["delayed"], &busy["ready"]),
        (&json!(2), &json!(2), &json!(1), &json!(0)),
        "{busy}"
    );
    assert!(busy["oldest"].is_string());
    // No worker serves this pool, so the broker has no queue for it.
    assert_eq!(
        (&queue("jobs.default.medium.gpu")["queued"], &queue("jobs.default.medium.gpu")["ready"]),
        (&json!(1), &Value::Null)
    );
    assert_eq!(queues.as_array().unwrap().len(), 18);
    api.stop().await;
}
