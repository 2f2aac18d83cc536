//! The pages of jobs where a job was made in chunks, or could not be read.

use ffpool_dispatcher::ledger::keys::{NewKey, Role};
use ffpool_stack::Browser;
use serde_json::json;
use uuid::Uuid;

use super::{Api, answer, text_of};

/// A job of the tenant acme, and two jobs that make chunks of it: a completed one, and the newest of all, which runs.
async fn in_chunks(api: &Api) -> Uuid {
    let whole = api.insert_job("blocked").await;
    api.update_job(whole, "tenant = 'acme', spec = '{\"scenario\": \"720p-h264\", \"input\": \"/media/in.mov\"}'")
        .await;
    for state in ["completed", "running"] {
        let part = api.insert_job(state).await;
        api.update_job(part, &format!("tenant = 'acme', part_of = '{whole}'")).await;
    }
    whole
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_is_no_newer_job_to_whoever_follows_the_list() {
    let api = Api::start().await;
    answer(api.post("/v1/tenants").json(&json!({"name": "acme"})), 201).await;
    in_chunks(&api).await;
    let tenants = api.mint(&NewKey::of("acme-viewer", Role::Viewer).of_tenant("acme")).await;
    for key in [&api.admin, &tenants] {
        let list = answer(api.request("GET", "/v1/jobs").bearer_auth(key), 200).await;
        assert_eq!(list["items"][0]["number"], 1, "{list}");
        let told = text_of(api.request("GET", "/v1/events").bearer_auth(key).send().await.unwrap()).await;
        assert!(told.contains("\"newest\":1}"), "{told}");
    }
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_filters_the_chunks_of_a_job_and_copies_no_job_that_could_not_be_read() {
    let api = Api::start().await;
    let whole = in_chunks(&api).await;
    api.insert_job("rejected").await;
    let base = api.base.replace("127.0.0.1", "localhost");
    let browser = Browser::start().await;
    browser.open(&format!("{base}/jobs?part_of={whole}")).await;
    browser.until("the key can be written", "document.querySelector('#key')").await;
    browser.value(&format!("document.querySelector('#key').value = {}", json!(api.admin))).await;
    browser.press("Log in").await;

    let shows = |numbers: &str| {
        format!("[...document.querySelectorAll('tbody th')].map(cell => cell.textContent).join() === '{numbers}'")
    };
    browser.until("its chunks are listed", &shows("#3,#2")).await;
    let choose = "(field => { field.value = 'running'; field.dispatchEvent(new Event('change', {bubbles: true})); })\
                  (document.querySelector('#f-status'))";
    browser.value(choose).await;
    browser.until("those that run are listed, of this job alone", &shows("#3")).await;
    let search = browser.value("location.search").await;
    assert_eq!(search, format!("?status=running&part_of={whole}"));
    browser.value("document.querySelector('#whole a.button').click()").await;
    browser.until("the filter is gone, and no other", "location.search === '?status=running'").await;
    browser.until_shown("No job is like this.").await;
    assert_eq!(browser.value("document.querySelector('#whole')").await, json!(null));

    let buttons = "[...document.querySelectorAll('#page button, main button')].map(button => button.textContent)";
    for (number, can) in [(1, true), (4, false)] {
        browser.open(&format!("{base}/jobs/{number}")).await;
        browser.until("its buttons are there", &format!("{buttons}.includes('Copy id')")).await;
        assert_eq!(browser.value(&format!("{buttons}.includes('Copy as command')")).await, can, "job {number}");
    }
    browser.close().await;
    api.stop().await;
}
