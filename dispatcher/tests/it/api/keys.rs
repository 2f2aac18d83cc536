//! API keys.

use ffpool_dispatcher::api::KeyCommand;
use ffpool_dispatcher::ledger::keys::{KeyError, Role};

use super::{Api, answer, problem};

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

    api.ledger.install_keys(Some(new)).await.unwrap();
    answer(get(new), 200).await;
    problem(get(old), 401).await;
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
    let key = api.ledger.create_key("watcher", Role::Viewer).await.unwrap();
    assert!(matches!(api.ledger.create_key("watcher", Role::Viewer).await, Err(KeyError::NameTaken(_))));
    let get = || api.request("GET", "/v1/jobs").bearer_auth(key.text());
    answer(get(), 200).await;

    let secret = key.text().rsplit('_').next().unwrap();
    let rows = api.sql.query("SELECT api_key::text FROM api_key", &[]).await.unwrap();
    assert!(rows.iter().all(|row| !row.get::<_, &str>(0).contains(secret)));
    let used =
        api.sql.query_one("SELECT last_used_at IS NOT NULL FROM api_key WHERE name = 'watcher'", &[]).await.unwrap();
    assert!(used.get::<_, bool>(0));

    let with_another_secret = format!("{}0", &key.text()[..key.text().len() - 1]);
    if with_another_secret != key.text() {
        problem(api.request("GET", "/v1/jobs").bearer_auth(with_another_secret), 401).await;
    }
    assert!(KeyCommand::List.run(&api.ledger).await.unwrap().contains("watcher"));
    let revoke = KeyCommand::Revoke { name: "watcher".to_owned() };
    revoke.run(&api.ledger).await.unwrap();
    problem(get(), 401).await;
    assert!(matches!(revoke.run(&api.ledger).await, Err(KeyError::Unknown(_))));
    api.stop().await;
}
