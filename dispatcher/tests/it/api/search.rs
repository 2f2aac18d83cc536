//! Jobs found by a part of an address or label, or by the beginning of their id.

use ffpool_dispatcher::ledger::keys::{NewKey, Role};
use serde_json::{Value, json};

use super::{Api, answer, problem};

/// Jobs that a search looks through for one page.
const LOOKED: i64 = 25_000;

fn numbers(page: &Value) -> Vec<i64> {
    page["items"].as_array().unwrap().iter().map(|job| job["number"].as_i64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_found_by_what_is_shown_of_their_addresses_and_labels_and_by_their_id() {
    let api = Api::start().await;
    answer(api.post("/v1/tenants").json(&json!({"name": "acme"})), 201).await;
    let id = "01920f3a-7c1e-7d2a-8a6e-3f0c5b1d9e42";
    let jobs = [
        json!({"scenario": "720p30-h264", "input": "/media/in/News_Clip 100%.mov", "output": "/media/out/one.mp4"}),
        json!({"scenario": "720p30-h264", "input": "https://cdn.example/a/two.mov?signature=Hush1", "output": "/media/out/two.mp4",
               "labels": {"show": "Evening"}, "tenant": "acme"}),
        json!({"scenario": "720p30-h264", "input": "/media/in/three.mov", "output": "/media/out/three.mp4", "id": id}),
    ];
    for job in &jobs {
        answer(api.post("/v1/jobs").json(job), 201).await;
    }
    let find = async |text: &str| {
        let request = api.get("/v1/jobs").query(&[("search", text)]);
        answer(request, 200).await
    };
    for (text, expected) in [
        ("media/OUT", vec![3, 2, 1]),
        ("news_clip", vec![1]),
        ("100%.mov", vec![1]),
        // Nothing has a meaning of its own.
        ("100_.mov", vec![]),
        ("new%mov", vec![]),
        ("cdn.example/a", vec![2]),
        ("evening", vec![2]),
        ("show:Eve", vec![2]),
        // What is not shown does not find.
        ("hush1", vec![]),
        ("signature=", vec![]),
        ("01920f3a-7c1e", vec![3]),
        ("01920F3A7C1E", vec![3]),
        (id, vec![3]),
        ("01920f3", vec![]),
    ] {
        let page = find(text).await;
        assert_eq!(numbers(&page), expected, "{text}: {page}");
        assert_eq!(page["searched"], json!({"back_to": null, "is_all": true}), "{text}");
    }
    let page = api.show("/v1/jobs?search=media&limit=2").await;
    assert_eq!((numbers(&page), &page["searched"]["is_all"]), (vec![3, 2], &json!(false)), "{page}");
    let page = api.show(&format!("/v1/jobs?search=media&limit=2&cursor={}", page["next"].as_str().unwrap())).await;
    assert_eq!((numbers(&page), &page["next"]), (vec![1], &json!(null)), "{page}");
    assert_eq!(numbers(&api.show("/v1/jobs?search=media&tenant=acme&queue=default").await), [2]);
    assert_eq!(api.show("/v1/jobs").await.get("searched"), None);
    let viewer = api.mint(&NewKey::of("acme-viewer", Role::Viewer).of_tenant("acme")).await;
    for (text, expected) in [("media", vec![2]), (id, vec![])] {
        let request = api.request("GET", "/v1/jobs").query(&[("search", text)]).bearer_auth(&viewer);
        assert_eq!(numbers(&answer(request, 200).await), expected, "{text}");
    }
    let long = "x".repeat(201);
    for (query, said) in [
        ("search=%20", "1 to 200"),
        (&format!("search={long}"), "1 to 200"),
        (&format!("search=a&part_of={id}"), "part_of"),
    ] {
        assert!(problem(api.get(&format!("/v1/jobs?{query}")), 400).await.contains(said), "{query}");
    }
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_says_how_far_it_looked_and_goes_on_from_there() {
    let api = Api::start().await;
    for name in ["old", "border"] {
        let job = json!({"scenario": "720p30-h264", "input": format!("/media/{name}.mov"), "output": format!("/out/{name}.mp4")});
        answer(api.post("/v1/jobs").json(&job), 201).await;
    }
    // As many that are newer as one page looks through, but for one: the last that is looked at is job 2.
    let filler =
        "INSERT INTO job_text (number, text) SELECT n, '/media/other' FROM generate_series(3, $1::bigint) AS n";
    api.sql.execute(filler, &[&(LOOKED + 1)]).await.unwrap();
    let page = api.show("/v1/jobs?search=old.mov").await;
    let border = api.show("/v1/jobs/2").await["created_at"].clone();
    assert_eq!((numbers(&page), &page["searched"]), (vec![], &json!({"back_to": border, "is_all": false})), "{page}");
    let next = page["next"].as_str().unwrap();
    let page = api.show(&format!("/v1/jobs?search=old.mov&cursor={next}")).await;
    assert_eq!(
        (numbers(&page), &page["searched"]["is_all"], &page["next"]),
        (vec![1], &json!(true), &json!(null)),
        "{page}"
    );
    // Who asks for what is newer does not look behind it.
    let page = api.show("/v1/jobs?search=old.mov&since=2999-01-01T00:00:00Z").await;
    assert_eq!((&page["searched"]["is_all"], &page["next"]), (&json!(true), &json!(null)), "{page}");
    api.stop().await;
}
