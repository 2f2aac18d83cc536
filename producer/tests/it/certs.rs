//! `ffpool certs` as an operator uses it.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

#[test]
fn an_authority_and_the_certificates_of_all_parts_are_made_once_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().display().to_string();
    let ask = |code: i32, arguments: &[&str]| run(code, &mut ffpool(&[&["certs"], arguments].concat()));
    let file = |name: &str| format!("{folder}/{name}.pem");

    let told = ask(1, &["issue", &folder]);
    assert!(
        String::from_utf8_lossy(&told.stderr).contains("certs init"),
        "without an authority there is nothing to issue"
    );
    ask(0, &["init", &folder]);
    let key = std::fs::read(file("ca-key")).unwrap();
    ask(0, &["issue", &folder, "--host", "pool.example"]);
    for name in ["ca-key", "api", "rabbitmq", "nats", "postgres", "dispatcher", "worker", "client"] {
        assert_eq!(std::fs::metadata(file(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    let shown = json(&ask(0, &["show", &file("api"), &file("worker"), "--output", "json"]));
    let names = |at: usize| shown[at]["names"].to_string();
    assert!(names(0).contains("dns=pool.example") && names(0).contains("ip=127.0.0.1"), "{shown:#}");
    assert!(names(1).contains("cn=worker") && !names(1).contains("pool.example"), "{shown:#}");
    assert!((363..=365).contains(&shown[0]["days_left"].as_i64().unwrap()), "{shown:#}");

    // What `DIR/*.pem` names.
    let mut all: Vec<String> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path().display().to_string()).collect();
    all.retain(|path| path.ends_with(".pem"));
    let told = ask(
        0,
        &[&["show", "--output", "json"], all.iter().map(String::as_str).collect::<Vec<_>>().as_slice()].concat(),
    );
    assert_eq!(json(&told).as_array().unwrap().len(), 8, "the authority and seven parts");
    assert!(String::from_utf8_lossy(&told.stderr).contains("ca-key.pem holds a key"));
    ask(1, &["show", &file("ca-key")]);

    let first = std::fs::read(file("worker")).unwrap();
    ask(1, &["issue", &folder, "worker"]);
    assert_eq!(std::fs::read(file("worker")).unwrap(), first, "what is there stays");
    ask(0, &["issue", &folder, "worker", "--renew"]);
    assert_ne!(std::fs::read(file("worker")).unwrap(), first);

    let (first, second) = (std::fs::read(file("worker")).unwrap(), std::fs::read(file("rabbitmq")).unwrap());
    let timer = |more: &[&str]| ask(0, &[&["issue", &folder, "worker", "rabbitmq", "--renew-before"], more].concat());
    timer(&["100", "--host", "pool.example"]);
    assert_eq!(std::fs::read(file("worker")).unwrap(), first, "265 days more than were asked for");
    assert_eq!(std::fs::read(file("rabbitmq")).unwrap(), second);
    timer(&["100", "--host", "other.example"]);
    assert_eq!(std::fs::read(file("worker")).unwrap(), first, "hosts are of servers");
    assert_ne!(std::fs::read(file("rabbitmq")).unwrap(), second, "a name was missing");
    timer(&["366"]);
    assert_ne!(std::fs::read(file("worker")).unwrap(), first, "its end was near");

    ask(0, &["init", &folder]);
    assert_eq!(std::fs::read(file("ca-key")).unwrap(), key, "an authority is never written over");
    ask(2, &["issue", &folder, "../elsewhere"]);

    ask(0, &["issue", &folder, "objects", "--server", "--host", "objects.example"]);
    let shown = json(&ask(0, &["show", &file("objects"), "--output", "json"]));
    assert!(shown[0]["names"].to_string().contains("dns=objects.example"), "{shown:#}");
    ask(2, &["issue", &folder, "--server"]);
}

#[test]
fn what_is_revoked_stands_on_the_list_beside_it_and_is_shown_so() {
    let folder = tempfile::tempdir().unwrap();
    let (folder, elsewhere) = (folder.path().join("ours"), folder.path().join("theirs"));
    let [folder, elsewhere] = [&folder, &elsewhere].map(|path| path.display().to_string());
    let ask = |code: i32, arguments: &[&str]| run(code, &mut ffpool(&[&["certs"], arguments].concat()));
    let file = |name: &str| format!("{folder}/{name}.pem");

    assert!(stderr(&ask(1, &["revoke", &folder, "worker"])).contains("certs init"));
    for folder in [&folder, &elsewhere] {
        ask(0, &["init", folder]);
        ask(0, &["issue", folder, "worker", "client", "old"]);
    }
    for (named, reason) in [
        ("nobody", "by its file"),
        (&format!("{elsewhere}/worker.pem"), "only the one that made it"),
        ("ca", "not revoked by its own list"),
        ("ca-key", "holds no certificate"),
    ] {
        let said = stderr(&ask(1, &["revoke", &folder, "client", named]));
        assert!(said.contains(reason), "{named}: {said}");
    }
    assert!(!std::path::Path::new(&file("crl")).exists(), "nothing was written");

    let stolen = format!("{folder}/../stolen.pem");
    std::fs::rename(file("old"), &stolen).unwrap();
    ask(0, &["revoke", &folder, "worker"]);
    let shown = json(&ask(0, &["revoke", &folder, &stolen, "worker", "--days", "30", "--output", "json"]));
    let list = &shown[2];
    assert!((29..=30).contains(&list["days_left"].as_i64().unwrap()), "{shown:#}");
    assert_eq!(
        (&list["revoked"][0]["serial"], &list["revoked"][1]["serial"]),
        (&shown[1]["serial"], &shown[0]["serial"])
    );
    assert_eq!(std::fs::metadata(file("crl")).unwrap().permissions().mode() & 0o777, 0o644, "everybody may have it");
    let again = stderr(&ask(0, &["revoke", &folder, "worker"]));
    assert!(again.contains("worker.pem was revoked before"), "{again}");

    // A certificate is judged by the list beside it; the list names whoever is shown with it.
    let shown = json(&ask(0, &["show", &file("worker"), &file("client"), "--output", "json"]));
    assert!(shown[0]["revoked"].is_string() && shown[1]["revoked"].is_null(), "{shown:#}");
    let shown = stdout(&ask(0, &["show", &file("worker"), &file("client"), &file("crl")]));
    let row = |what: &str| shown.lines().filter(|line| line.contains(what)).collect::<Vec<_>>();
    assert!(row("client.pem")[0].contains(" days") && row("worker.pem")[0].contains("revoked"), "{shown}");
    assert_eq!(row("crl.pem").len(), 2, "{shown}");
    assert!(row("crl.pem")[0].contains("cn=worker"), "{shown}");
    let shown = stdout(&ask(0, &["show", &format!("{elsewhere}/worker.pem")]));
    assert!(!shown.contains("revoked"), "{shown}");

    // A timer replaces it, and not its neighbour; nothing replaces the list.
    let serial = |name: &str| json(&ask(0, &["show", &file(name), "--output", "json"]))[0]["serial"].clone();
    let (worker, client) = (serial("worker"), serial("client"));
    ask(0, &["issue", &folder, "worker", "client", "--renew-before", "1"]);
    assert_ne!(serial("worker"), worker);
    assert_eq!(serial("client"), client);
    let list = std::fs::read(file("crl")).unwrap();
    let refused = stderr(&ask(2, &["issue", &folder, "crl", "--renew"]));
    assert!(refused.contains("ca-key or crl"), "{refused}");
    assert_eq!(std::fs::read(file("crl")).unwrap(), list);
}
