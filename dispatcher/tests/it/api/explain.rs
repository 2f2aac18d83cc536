//! Why a job waits, from rows of several tables.

use uuid::Uuid;

use super::Api;

#[tokio::test(flavor = "multi_thread")]
async fn a_job_names_its_missing_parents_and_what_its_failures_have_taught() {
    let api = Api::start().await;
    let child = api.insert_job("blocked").await;
    let (done, busy, unknown) = (api.insert_job("completed").await, api.insert_job("running").await, Uuid::now_v7());
    for parent in [done, busy, unknown] {
        api.sql.execute("INSERT INTO dependency (child, parent) VALUES ($1, $2)", &[&child, &parent]).await.unwrap();
    }
    let told = async |id: Uuid| api.show(&format!("/v1/jobs/{id}/explain")).await["sentences"].to_string();
    let said = told(child).await;
    assert!(said.contains(&format!("#3 ({busy}), which is running")), "{said}");
    assert!(said.contains(&format!("{unknown}, which nobody has handed in yet")), "{said}");
    assert!(!said.contains(&done.to_string()), "{said}");
    assert_eq!(api.show(&format!("/v1/jobs/{child}")).await["depends_on"].as_array().unwrap().len(), 3);

    let burnt = api.insert_job("queued").await;
    let assignments = "losses = 2, raised_memory_mb = 2048, fell_back = true, deadline = now() + interval '1 hour'";
    api.update_job(burnt, assignments).await;
    let said = told(burnt).await;
    for expected in ["its next attempt runs alone", "2048 MiB", "encodes in software", "Its deadline is"] {
        assert!(said.contains(expected), "{expected} is missing in {said}");
    }

    let frozen = api.insert_job("running").await;
    api.update_job(frozen, "attempt = 1, frozen_since = now() - interval '2 minutes'").await;
    let said = told(frozen).await;
    assert!(said.contains("It is frozen for 2 min") && said.contains("more urgent job"), "{said}");
    api.stop().await;
}
