//! The API's door: TLS with certificates of our own, client certificates, renewal while it serves, and guests who only wait.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ffpool_dispatcher::api::{ClientRole, ClientRoles, Limits};
use ffpool_runtime::tls::{
    Authority, Automatic, Clients, RevocationLists, ServerTls, Source, Wanted, facts, write_over,
};
use ffpool_stack::{hello_of_tls_1_1, refuses_the_version};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

fn wanted(common_name: &str, life: Duration) -> Wanted {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    Wanted { common_name: common_name.to_owned(), names, is_server: true, is_client: true, life }
}

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Certificate and key of `authority` in one PEM text.
fn pem_of(authority: &Authority, common_name: &str, life: Duration) -> String {
    let issued = authority.issue(&wanted(common_name, life)).unwrap();
    format!("{}{}", issued.certificate, issued.key)
}

fn automatic(folder: &Path) -> Source {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    Source::Automatic(Automatic { folder: folder.to_owned(), server: "api", names })
}

fn door(tls: &ServerTls) -> Door {
    Door { tls: Some(tls.clone()), ..Door::plain() }
}

/// A client that trusts the authority in `ca`, shows `identity`, and makes a connection for each request.
fn client(ca: &Path, identity: Option<&str>) -> reqwest::Client {
    let ca = reqwest::Certificate::from_pem_bundle(&std::fs::read(ca).unwrap()).unwrap();
    let mut builder = reqwest::Client::builder().tls_certs_only(ca).pool_max_idle_per_host(0).timeout(BOUND);
    if let Some(pem) = identity {
        builder = builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap());
    }
    builder.build().unwrap()
}

/// What one question may take, where it is asked again within [`BOUND`].
const ANSWER: Duration = Duration::from_secs(10);

/// Status and text of an answer, read to its end so that its connection is used again.
async fn asked(client: &reqwest::Client, url: &str) -> Result<(u16, String), String> {
    let said = |error: reqwest::Error| ffpool_runtime::settings::chain(&error);
    let answer = client.get(url).send().await.map_err(said)?;
    Ok((answer.status().as_u16(), answer.text().await.map_err(said)?))
}

/// Why there was no answer.
fn refusal(answer: Result<Response, reqwest::Error>) -> String {
    match answer {
        Ok(response) => panic!("it was answered with {}", response.status()),
        Err(error) => ffpool_runtime::settings::chain(&error),
    }
}

/// TLS 1.1 is the best that this client offers.
async fn refuses_old_tls(place: SocketAddr) {
    let mut socket = TcpStream::connect(place).await.unwrap();
    socket.write_all(&hello_of_tls_1_1()).await.unwrap();
    let mut alert = Vec::new();
    socket.read_to_end(&mut alert).await.unwrap();
    assert!(!alert.is_empty() && refuses_the_version(&alert), "a fatal alert: {alert:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_makes_its_own_certificate_and_is_heard_over_tls_alone() {
    let api = Api::start().await;
    let folder = tempfile::tempdir().unwrap();
    let tls = ServerTls::open(automatic(folder.path()), None).unwrap();
    let ca = tls.authority().unwrap();
    for (name, mode) in [("ca.pem", 0o644), ("ca-key.pem", 0o600), ("api.pem", 0o600)] {
        let found = std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{name}");
    }
    let place = api.open_door(door(&tls)).await;
    let url = format!("https://localhost:{}/health", place.port());

    assert_eq!(client(&ca, None).get(&url).send().await.unwrap().status(), 200);
    let old = reqwest::Certificate::from_pem(&std::fs::read(&ca).unwrap()).unwrap();
    let old = reqwest::Client::builder().tls_certs_only([old]).tls_version_max(reqwest::tls::Version::TLS_1_2);
    assert_eq!(old.build().unwrap().get(&url).send().await.unwrap().status(), 200, "TLS 1.2");

    let elsewhere = tempfile::tempdir().unwrap();
    let (stranger, _) = Authority::open_or_create(elsewhere.path(), "another").unwrap();
    let said = refusal(client(stranger.path(), None).get(&url).send().await);
    assert!(said.contains("UnknownIssuer"), "{said}");

    refuses_old_tls(place).await;

    let plain = reqwest::get(format!("http://{place}/health")).await.unwrap();
    assert_eq!(plain.status(), 400);
    let told: ffpool_schema::api::Problem = plain.json().await.unwrap();
    assert!(told.kind == "/problems/bad-request" && told.detail.contains("https://"), "{told:?}");

    // The next start goes on with the same authority, and never writes over one that it cannot use.
    let again = ServerTls::open(automatic(folder.path()), None).unwrap();
    assert_eq!(client(&ca, None).get(&url).send().await.unwrap().status(), 200);
    std::fs::write(folder.path().join("ca-key.pem"), std::fs::read(elsewhere.path().join("ca-key.pem")).unwrap())
        .unwrap();
    let said = ServerTls::open(automatic(folder.path()), None).err().unwrap().to_string();
    assert!(said.contains("belong together") && again.authority() == Some(ca), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_verified_certificate_nothing_is_answered_and_its_name_decides_what_it_may_do() {
    let api = Api::start().await;
    let (folder, clients, strangers) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (clients, _) = Authority::open_or_create(clients.path(), "clients").unwrap();
    let (namesakes, _) = Authority::open_or_create(&strangers.path().join("same"), "clients").unwrap();
    let (strangers, _) = Authority::open_or_create(&strangers.path().join("other"), "strangers").unwrap();
    let client_ca = folder.path().join("clients.pem");
    std::fs::copy(clients.path(), &client_ca).unwrap();
    let judged = Clients { authorities: client_ca, revoked: None };
    let tls = ServerTls::open(automatic(folder.path()), Some(judged)).unwrap();
    let roles: Vec<ClientRole> = vec!["cn=ops:operator".parse().unwrap(), "cn=eyes:viewer".parse().unwrap()];
    let place = api.open_door(Door { roles: ClientRoles::from(roles), ..door(&tls) }).await;
    let ca = tls.authority().unwrap();
    let ask = async |identity: Option<&str>, method: &str, path: &str, key: Option<&str>| {
        let request =
            client(&ca, identity).request(method.parse().unwrap(), format!("https://localhost:{}{path}", place.port()));
        match key {
            Some(key) => request.bearer_auth(key).send().await,
            None => request.send().await,
        }
    };

    let stranger = pem_of(&strangers, "ops", YEAR);
    let late = pem_of(&clients, "ops", Duration::ZERO);
    // It is over at the next full second.
    until("a certificate that has expired is refused", async || match ask(Some(&late), "GET", "/health", None).await {
        Ok(response) => Err(response.status().to_string()),
        Err(_) => Ok(()),
    })
    .await;
    let mut routes = super::routes::described_routes(&api.show("/openapi.json").await);
    routes.push(("GET".to_owned(), "/nowhere".to_owned(), false, String::new()));
    let refused = [(None, "CertificateRequired"), (Some(&stranger), "UnknownCA"), (Some(&late), "CertificateExpired")]
        .map(|(shown, alert)| (client(&ca, shown.map(String::as_str)), alert));
    for (method, path, ..) in &routes {
        let url = format!("https://localhost:{}{path}", place.port());
        for (client, alert) in &refused {
            // The client may lose its connection before it has read why, or not hear of its end.
            until(&format!("{method} {path} is refused with {alert}"), async || {
                let request = client.request(method.parse().unwrap(), &url).timeout(ANSWER).bearer_auth(&api.admin);
                let said = refusal(request.send().await);
                if said.contains(alert) { Ok(()) } else { Err(said) }
            })
            .await;
        }
    }
    let namesake = pem_of(&namesakes, "ops", YEAR);
    until("what another authority of the same name signed is refused", async || {
        let said = refusal(ask(Some(&namesake), "GET", "/health", Some(&api.admin)).await);
        if said.contains("DecryptError") { Ok(()) } else { Err(said) }
    })
    .await;
    refuses_old_tls(place).await;
    for reason in ["no client certificate", "of no authority", "has expired", "that it names", "no version or cipher"] {
        let written = async || {
            let sql = "SELECT count(*) FROM audit WHERE action = 'refused' AND actor = 'a TLS client' \
                       AND subject = 'TLS handshake' AND detail->>'reason' LIKE $1";
            match api.sql.query_one(sql, &[&format!("%{reason}%")]).await.unwrap().get::<_, i64>(0) {
                0 => Err(format!("nothing of `{reason}`")),
                _ => Ok(()),
            }
        };
        until("a refused handshake is in the audit", written).await;
    }

    let (ops, eyes, nobody) =
        (pem_of(&clients, "ops", YEAR), pem_of(&clients, "eyes", YEAR), pem_of(&clients, "nobody", YEAR));
    // A browser shows its certificate to whatever page sends it here.
    let pause = format!("https://localhost:{}/v1/queues/batch/pause", place.port());
    for (header, value) in [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")] {
        let forged = client(&ca, Some(&ops)).post(&pause).header(header, value).send().await.unwrap();
        assert_eq!(forged.status(), 403, "{header}: {value}");
    }
    let queues = api.show("/v1/queues").await;
    assert!(queues.as_array().unwrap().iter().all(|queue| queue["paused"] == false), "{queues}");
    for (identity, method, path, key, expected) in [
        (&ops, "GET", "/v1/jobs", None, 200),
        (&ops, "POST", "/v1/queues/batch/pause", None, 200),
        (&ops, "GET", "/v1/audit", None, 403),
        (&eyes, "GET", "/v1/jobs", None, 200),
        (&eyes, "POST", "/v1/queues/batch/resume", None, 403),
        (&nobody, "GET", "/v1/jobs", None, 403),
        (&nobody, "GET", "/v1/audit", Some(api.admin.as_str()), 200),
        (&ops, "GET", "/v1/jobs", Some("no-such-key"), 401),
    ] {
        let response = ask(Some(identity), method, path, key).await.unwrap();
        let (status, text) = (response.status().as_u16(), response.text().await.unwrap());
        let is_expected = status == expected || (expected == 200 && (200..300).contains(&status));
        assert!(is_expected, "{method} {path}: {status} {text}");
    }
    let audit = api.show("/v1/audit").await.to_string();
    assert!(audit.contains("certificate cn=ops"), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_judged_at_each_request_of_a_connection_that_stands() {
    let api = Api::start().await;
    let (folder, clients, others) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (authority, _) = Authority::open_or_create(clients.path(), "clients").unwrap();
    let (other, _) = Authority::open_or_create(others.path(), "others").unwrap();
    let client_ca = folder.path().join("clients.pem");
    std::fs::copy(authority.path(), &client_ca).unwrap();
    let lists = authority.revoke(&[], YEAR).unwrap().list;
    let judged = |even_expired| Clients {
        authorities: client_ca.clone(),
        revoked: Some(RevocationLists { file: lists.clone(), even_expired }),
    };
    let tls = ServerTls::open(automatic(folder.path()), Some(judged(false))).unwrap();
    let roles_file = folder.path().join("roles");
    std::fs::write(&roles_file, "cn=ops:operator\ncn=eyes:viewer\n").unwrap();
    let roles = ClientRoles::open(Vec::new(), Some(roles_file.clone())).unwrap();
    let place = api.open_door(Door { roles: roles.clone(), ..door(&tls) }).await;
    let url = |path: &str| format!("https://localhost:{}{path}", place.port());
    let ca = tls.authority().unwrap();
    let kept = |pem: &str| {
        let ca = reqwest::Certificate::from_pem_bundle(&std::fs::read(&ca).unwrap()).unwrap();
        let identity = reqwest::Identity::from_pem(pem.as_bytes()).unwrap();
        reqwest::Client::builder().tls_certs_only(ca).identity(identity).timeout(BOUND).build().unwrap()
    };
    let status = async |client: &reqwest::Client| asked(client, &url("/v1/jobs")).await.unwrap().0;

    // Revoked: the next request is refused, an open stream ends, and there is no way back in.
    let ops = pem_of(&authority, "ops", YEAR);
    let (revoked, stays) = (kept(&ops), kept(&pem_of(&authority, "eyes", YEAR)));
    let job = api.insert_job("queued").await;
    let follower = kept(&ops).get(url(&format!("/v1/jobs/{job}/events"))).send().await.unwrap();
    let watcher = kept(&ops).get(url("/v1/events")).send().await.unwrap();
    assert_eq!((status(&revoked).await, status(&stays).await), (200, 200));
    assert_eq!((follower.status().as_u16(), watcher.status().as_u16()), (200, 200));
    let shown = folder.path().join("ops.pem");
    std::fs::write(&shown, &ops).unwrap();
    authority.revoke(&[shown], YEAR).unwrap();
    tls.look();
    let (refused, text) = asked(&revoked, &url("/health")).await.unwrap();
    assert!(refused == 403 && text.contains("was revoked"), "{refused} {text}");
    stream_text(follower).await;
    stream_text(watcher).await;
    // The client may have taken its handshake for done, and only hears that it was not when it asks.
    until("who comes back is told why not", async || {
        let said = refusal(revoked.get(url("/health")).send().await);
        if said.contains("CertificateRevoked") { Ok(()) } else { Err(said) }
    })
    .await;
    assert_eq!(status(&stays).await, 200);

    // What it may do is looked up at each request: another role ends what it follows.
    // Over a connection of its own, so that the one below is the only one that stands.
    let watcher = kept(&pem_of(&authority, "eyes", YEAR)).get(url("/v1/events")).send().await.unwrap();
    assert_eq!(watcher.status(), 200);
    std::fs::write(&roles_file, "cn=ops:operator\ncn=eyes:submitter\n").unwrap();
    roles.look();
    stream_text(watcher).await;
    assert_eq!(stays.post(url(&format!("/v1/jobs/{job}/cancel"))).send().await.unwrap().status(), 403);
    std::fs::write(&roles_file, "cn=eyes:operator\ncn=ops:operator\n").unwrap();
    roles.look();
    assert_eq!(stays.post(url(&format!("/v1/jobs/{job}/cancel"))).send().await.unwrap().status(), 200);

    // A file that holds no list changes nothing; an old list lets nobody in, unless it is to count.
    std::fs::write(&lists, "no list").unwrap();
    tls.look();
    assert_eq!(status(&stays).await, 200);
    let said = ServerTls::open(automatic(folder.path()), Some(judged(false))).err().unwrap().to_string();
    assert!(said.contains("BEGIN X509 CRL"), "{said}");
    std::fs::remove_file(&lists).unwrap();
    authority.revoke(&[], Duration::ZERO).unwrap();
    tls.look();
    let expired = until("a list that has expired counts no more", async || match status(&stays).await {
        200 => Err("it counts".to_owned()),
        refused => Ok(refused),
    });
    assert_eq!(expired.await, 403);
    // Handshakes take a list for good to the end of its last second.
    until("nobody gets in by a list that has expired", async || match stays.get(url("/health")).send().await {
        Ok(answered) => Err(answered.status().to_string()),
        Err(_) => Ok(()),
    })
    .await;
    let old = ServerTls::open(automatic(folder.path()), Some(judged(true))).unwrap();
    let elsewhere = api.open_door(door(&old)).await;
    let by_old_list = client(&ca, Some(&pem_of(&authority, "eyes", YEAR)));
    let answer = by_old_list.get(format!("https://localhost:{}/health", elsewhere.port())).send().await;
    assert_eq!(answer.unwrap().status(), 200);

    // Another authority: those of the one before are out at their next request.
    let by_authority = Clients { authorities: client_ca.clone(), revoked: None };
    let tls = ServerTls::open(automatic(folder.path()), Some(by_authority)).unwrap();
    let third = api.open_door(door(&tls)).await;
    let health = format!("https://localhost:{}/health", third.port());
    let (before, brief) = (kept(&ops), Duration::from_secs(3));
    assert_eq!(asked(&before, &health).await.unwrap().0, 200);
    // One that ends while its connection stands.
    let ends = until("a connection is made within the life of its certificate", async || {
        let ends = kept(&pem_of(&authority, "ops", brief));
        asked(&ends, &health).await.map(|_| ends)
    })
    .await;
    let over = until("it ends with its certificate", async || match asked(&ends, &health).await.unwrap() {
        (200, _) => Err("it is good still".to_owned()),
        (_, text) => Ok(text),
    })
    .await;
    assert!(over.contains("has expired"), "{over}");
    std::fs::copy(other.path(), &client_ca).unwrap();
    tls.look();
    let (refused, text) = asked(&before, &health).await.unwrap();
    assert!(refused == 403 && text.contains("of no authority"), "{refused} {text}");
    let audit = api.show("/v1/audit").await.to_string();
    assert!(audit.contains("certificate cn=ops") && audit.contains("was revoked"), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_under_load_and_no_request_fails() {
    let api = Api::start().await;
    let folder = tempfile::tempdir().unwrap();
    let tls = ServerTls::open(automatic(folder.path()), None).unwrap();
    let place = api.open_door(door(&tls)).await;
    let ca = tls.authority().unwrap();
    let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..2)
        .map(|_| {
            let (over, asked, client) = (over.clone(), asked.clone(), client(&ca, None));
            let url = format!("https://127.0.0.1:{}/health", place.port());
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let more = async |count: usize| {
        let from = asked.load(Ordering::Relaxed);
        let enough = async || match asked.load(Ordering::Relaxed) {
            now if now >= from + count => Ok(()),
            now => Err(format!("{} of {count} requests", now - from)),
        };
        until("requests are answered", enough).await;
    };
    let file = folder.path().join("api.pem");
    let days_left = async || served(place, &ca).await.left_secs(jiff::Timestamp::now().as_second()) / 86_400;

    more(20).await;
    assert!(days_left().await >= 89);
    // Near its end: made anew.
    let (authority, _) = Authority::open_or_create(folder.path(), "x").unwrap();
    // Before the file is written: the door's own look may come at any time after.
    let old = served(place, &ca).await;
    write_over(&file, &pem_of(&authority, "old", Duration::from_secs(1200)), true).unwrap();
    tls.look();
    more(20).await;
    let renewed = served(place, &ca).await;
    assert!(renewed != old && days_left().await >= 89);
    over.store(true, Ordering::Relaxed);
    for task in load {
        task.await.unwrap();
    }

    // The operator's own: a file that cannot be used changes nothing, a good one does.
    let own = folder.path().join("own.pem");
    write_over(&own, &pem_of(&authority, "first", YEAR), true).unwrap();
    let files = Source::Files { certificate: own.clone(), key: own.clone() };
    let tls = ServerTls::open(files, None).unwrap();
    let place = api.open_door(door(&tls)).await;
    let first = served(place, &ca).await;
    let foreign_key = authority.issue(&wanted("x", YEAR)).unwrap().key;
    let issued = authority.issue(&wanted("second", YEAR)).unwrap();
    for bad in ["", "nonsense", &issued.certificate, &format!("{}{foreign_key}", issued.certificate)] {
        std::fs::write(&own, bad).unwrap();
        tls.look();
        assert_eq!(served(place, &ca).await, first, "{bad}");
    }
    std::fs::write(&own, format!("{}{}", issued.certificate, issued.key)).unwrap();
    tls.look();
    assert!(served(place, &ca).await.subject.contains("second"));
}

/// The certificate that a new connection is shown.
async fn served(place: SocketAddr, ca: &Path) -> ffpool_runtime::tls::Facts {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let socket = TcpStream::connect(place).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap();
    facts(&stream.get_ref().1.peer_certificates().unwrap()[0]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_who_only_wait_keep_nobody_from_being_answered() {
    let api = Api::start().await;
    let limits = Limits { connections: 200, per_address: 200, header: Duration::from_secs(5), ..Limits::default() };
    let place = api.open_door(Door { limits, ..Door::plain() }).await;
    let ask = async || {
        let answer = client_of_its_own().get(format!("http://{place}/health")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    };
    let mut idle = Vec::new();
    for number in 0..300 {
        let mut guest = TcpStream::connect(place).await.unwrap();
        guest.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        // Those who were here longest have to go.
        assert!(guest.read(&mut [0; 16]).await.unwrap() > 0, "guest {number}");
        idle.push(guest);
        if number % 50 == 0 {
            ask().await;
        }
    }
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut guest = TcpStream::connect(place).await.unwrap();
        guest.write_all(b"GET /health HTTP/1.1\r\nHost:").await.unwrap();
        slow.push(guest);
    }
    ask().await;
    for guest in &mut slow {
        let told = tokio::time::timeout(BOUND, guest.read(&mut [0; 16])).await.expect("a slow guest is shown out");
        assert!(!matches!(told, Ok(1..)), "nothing to answer");
    }
    ask().await;
    drop(idle);
}

/// A client without connections from before.
fn client_of_its_own() -> reqwest::Client {
    reqwest::Client::builder().tls_certs_only([]).timeout(BOUND).build().unwrap()
}
