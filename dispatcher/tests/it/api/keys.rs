//! API keys.

use ffpool_dispatcher::api::KeyCommand;
use ffpool_dispatcher::ledger::keys::{KeyError, NewKey, Role};
use ffpool_schema::access::{Permit, Right};
use serde_json::json;

use super::{Api, answer, problem, stream_text};
use crate::by;

#[tokio::test(flavor = "multi_thread")]
async fn of_many_dispatchers_at_a_first_start_one_makes_the_first_key() {
    let api = Api::start().await;
    api.sql.execute("DELETE FROM api_key", &[]).await.unwrap();
    let starts = futures_util::future::join_all((0..4).map(|_| api.ledger.install_keys(None))).await;
    let minted: Vec<_> = starts.into_iter().filter_map(Result::unwrap).collect();
    assert_eq!(minted.len(), 1);
    answer(api.request("GET", "/v1/jobs").bearer_auth(minted[0].text()), 200).await;
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_bootstrap_key_replaces_the_one_before() {
    let api = Api::start().await;
    let (old, new) = ("k0123456789abcdef-old", "k0123456789abcdef-new");
    let get = |key: &str| api.request("GET", "/v1/jobs").header("X-API-Key", key);
    assert!(api.ledger.install_keys(Some(old)).await.unwrap().is_none());
    answer(get(old), 200).await;
    // Every dispatcher installs it at its start.
    api.ledger.install_keys(Some(old)).await.unwrap();
    answer(get(old), 200).await;

    // Revoked it stays so, whoever starts; another one is another key.
    answer(api.post("/v1/keys/bootstrap/revoke"), 200).await;
    api.ledger.install_keys(Some(old)).await.unwrap();
    problem(get(old), 401).await;
    api.ledger.install_keys(Some(new)).await.unwrap();
    answer(get(new), 200).await;
    problem(get(old), 401).await;
    problem(api.post("/v1/keys/bootstrap/rotate"), 409).await;
    // A minted key may be put into the settings, too.
    api.ledger.install_keys(Some(&api.admin)).await.unwrap();
    answer(get(&api.admin), 200).await;
    problem(get(new), 401).await;
    assert!(matches!(api.ledger.install_keys(Some("short")).await, Err(KeyError::TooShort(5))));
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_stored_as_its_hash_and_ends_when_it_is_revoked() {
    let api = Api::start().await;
    let watcher = NewKey::of("watcher", Role::Viewer);
    let key = api.mint(&watcher).await;
    let again = api.ledger.create_key(&watcher, &by("test"), &Permit::of(Role::Admin)).await;
    assert!(matches!(again.map(|_| ()), Err(KeyError::NameTaken(_))));
    let get = || api.request("GET", "/v1/jobs").bearer_auth(&key);
    answer(get(), 200).await;

    let secret = key.rsplit('_').next().unwrap();
    for table in ["api_key", "audit"] {
        let rows = api.sql.query(&format!("SELECT {table}::text FROM {table}"), &[]).await.unwrap();
        assert!(rows.iter().all(|row| !row.get::<_, &str>(0).contains(secret)), "{table}");
    }
    let used =
        api.sql.query_one("SELECT last_used_at IS NOT NULL FROM api_key WHERE name = 'watcher'", &[]).await.unwrap();
    assert!(used.get::<_, bool>(0));

    let with_another_secret = format!("{}0", &key[..key.len() - 1]);
    if with_another_secret != key {
        problem(api.request("GET", "/v1/jobs").bearer_auth(with_another_secret), 401).await;
    }
    assert!(KeyCommand::List.run(&api.ledger).await.unwrap().contains("watcher"));
    let revoke = KeyCommand::Revoke { name: "watcher".to_owned() };
    revoke.run(&api.ledger).await.unwrap();
    assert!(problem(get(), 401).await.contains("was revoked"));
    assert!(matches!(revoke.run(&api.ledger).await, Err(KeyError::Unknown(_))));
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_rotates_under_load_without_a_refused_request() {
    let api = Api::start().await;
    let made = answer(api.post("/v1/keys").json(&json!({"name": "app", "role": "submitter"})), 201).await;
    let old = made["key"].as_str().unwrap().to_owned();
    let submit = |key: &str| {
        let request = api.request("POST", "/v1/jobs").bearer_auth(key).json(&json!({"scenario": "720p-h264"}));
        async move { request.send().await.unwrap().status().as_u16() }
    };
    let (rotated, statuses) = tokio::join!(
        async { answer(api.post("/v1/keys/app/rotate").json(&json!({"overlap_secs": 3600})), 201).await },
        async { futures_util::future::join_all((0..20).map(|_| submit(&old))).await },
    );
    assert!(statuses.iter().all(|status| *status == 201), "{statuses:?}");
    let new = rotated["key"].as_str().unwrap();
    assert_eq!((submit(&old).await, submit(new).await), (201, 201), "both open while they overlap");
    let listed = api.show("/v1/keys").await.to_string();
    assert!(!listed.contains(new) && !listed.contains(&old), "no list shows a text: {listed}");

    // The next rotation ends what is before it at once.
    let last = answer(api.post("/v1/keys/app/rotate").json(&json!({"overlap_secs": 0})), 201).await;
    assert_eq!((submit(&old).await, submit(new).await), (401, 401));
    let last = last["key"].as_str().unwrap();
    assert_eq!(submit(last).await, 201);
    answer(api.post("/v1/keys/app/revoke"), 200).await;
    assert_eq!(submit(last).await, 401);
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_makes_a_key_that_may_more_than_their_own() {
    let api = Api::start().await;
    let permit = Permit { role: Role::Admin, scopes: Some(vec![Right::Read, Right::Administer]) };
    let clerk = api.mint(&NewKey { permit, ..NewKey::of("clerk", Role::Admin) }).await;
    let as_clerk = |method: &str, path: &str| api.request(method, path).bearer_auth(&clerk);
    problem(as_clerk("POST", "/v1/jobs").json(&json!({"scenario": "720p-h264"})), 403).await;
    answer(as_clerk("POST", "/v1/keys").json(&json!({"name": "reader", "role": "viewer"})), 201).await;
    let wide = json!({"name": "wide", "role": "operator"});
    assert!(problem(as_clerk("POST", "/v1/keys").json(&wide), 403).await.contains("has not"));
    // Not by a rotation either, which would show it the text of a stronger key.
    problem(as_clerk("POST", "/v1/keys/test-admin/rotate"), 403).await;

    for (bad, told) in [
        (json!({"name": "x", "role": "viewer", "scopes": ["submit"]}), "no right to submit"),
        (json!({"name": "x", "role": "viewer", "scopes": []}), "without any right"),
        (json!({"name": "", "role": "viewer"}), "1 to 64 characters"),
        (json!({"name": "x", "role": "viewer", "expires_at": "2020-01-01T00:00:00Z"}), "past"),
        (json!({"name": "x", "role": "viewer", "tenant": "nobody"}), "no tenant `nobody`"),
        (json!({"name": "x", "role": "root"}), "parameter `body`"),
    ] {
        let detail = problem(api.post("/v1/keys").json(&bad), 400).await;
        assert!(detail.contains(told), "{bad}: {detail}");
    }
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_opens_nothing_any_more_ends_what_it_follows() {
    let api = Api::start().await;
    answer(api.post("/v1/tenants").json(&json!({"name": "closed"})), 201).await;
    let job = api.insert_job("queued").await;
    api.update_job(job, "tenant = 'closed'").await;
    let follow = async |new: &NewKey| {
        let key = api.mint(new).await;
        let request = api.request("GET", &format!("/v1/jobs/{job}/events")).bearer_auth(key);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        response
    };
    let revoked = follow(&NewKey::of("revoked", Role::Viewer)).await;
    let expired = follow(&NewKey::of("expired", Role::Viewer)).await;
    let closed = follow(&NewKey::of("closed", Role::Viewer).of_tenant("closed")).await;
    answer(api.post("/v1/keys/revoked/revoke"), 200).await;
    api.sql.execute("UPDATE api_key SET expires_at = now() WHERE name = 'expired'", &[]).await.unwrap();
    answer(api.post("/v1/tenants/closed/disable"), 200).await;
    for ended in [revoked, expired, closed] {
        assert!(stream_text(ended).await.contains("queued"), "it ends by itself, although the job has not");
    }
    api.stop().await;
}
