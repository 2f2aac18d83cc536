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
