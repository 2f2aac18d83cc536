//! Fetching from web servers: every way in which one can fail us has its own cause, and none passes for success.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ffpool_runtime::guard::Cidr;
use ffpool_schema::failure::Cause;
use ffpool_worker::store::fetch::{Bounds, FetchEnd, Fetched, Origin, fetch};
use ffpool_worker::store::stated::Stated;
use ffpool_worker::store::web::WebOrigin;
use ffpool_worker::workshop::{Freeze, Orders, Stop};
use tokio::sync::watch;
use tokio::time::Instant;

use super::web::{Answer, Asked, Web};

fn content(length: usize, seed: u32) -> Vec<u8> {
    (0..length as u32).map(|at| (at.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8).collect()
}

struct Client {
    dir: tempfile::TempDir,
    allowed: Arc<[Cidr]>,
    limit: u64,
    stop: watch::Sender<Option<Stop>>,
    freeze: watch::Sender<Freeze>,
}

impl Client {
    fn new(allowed: &[&str]) -> Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client {
            dir: tempfile::tempdir().unwrap(),
            allowed: allowed.iter().map(|range| range.parse().unwrap()).collect(),
            limit: 1 << 20,
            stop: watch::Sender::new(None),
            freeze: watch::Sender::new(Freeze::default()),
        }
    }

    async fn fetch(&self, url: &str) -> Result<(Fetched, Vec<u8>), FetchEnd> {
        self.fetch_stated(url, &Stated::default()).await
    }

    async fn fetch_stated(&self, url: &str, stated: &Stated) -> Result<(Fetched, Vec<u8>), FetchEnd> {
        let to = self.dir.path().join(uuid::Uuid::new_v4().to_string());
        let mut origin = Origin::Web(WebOrigin::new(url, self.allowed.clone())?);
        let bounds = Bounds { bytes: self.limit, until: Instant::now() + Duration::from_secs(60) };
        let orders =
            Orders { stop: self.stop.subscribe(), finish: watch::channel(false).1, freeze: self.freeze.subscribe() };
        let (fetched, _) = fetch(&mut origin, Path::new(&to), stated, bounds, &orders, &mut |_, _| {}).await;
        fetched.map(|fetched| (fetched, std::fs::read(&to).unwrap()))
    }

    async fn cause(&self, url: &str) -> Cause {
        match self.fetch(url).await {
            Err(FetchEnd::Failed(trouble)) => trouble.cause,
            other => panic!("{url}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_goes_on_after_every_cut_and_what_arrives_is_of_one_version() {
    let (old, new) = (content(400_000, 1), content(300_000, 2));
    let (served_old, served_new) = (old.clone(), new.clone());
    let web = Web::start(move |asked: &Asked| match asked.path.as_str() {
        "/cut" => Answer::ranged(asked, "\"1\"", &served_old).cut(90_000, asked.before.is_multiple_of(2)),
        // No version, so the rest cannot be asked for.
        "/nameless" => {
            Answer::new("200 OK", &[], &served_old).cut(if asked.before < 2 { 90_000 } else { 400_000 }, true)
        }
        "/changes" if asked.before == 0 => Answer::ranged(asked, "\"1\"", &served_old).cut(90_000, true),
        "/changes" => Answer::ranged(asked, "\"2\"", &served_new),
        // Its date is its version, and whoever has it is sent the rest without being told again.
        "/dated" => {
            let (date, range) = ("Sat, 28 Nov 2026 00:00:00 GMT", asked.range.filter(|_| asked.if_range.is_some()));
            let head = range.map(|from| format!("bytes {from}-{}/{}", served_old.len() - 1, served_old.len()));
            let answer = match (range, &head) {
                (Some(from), Some(range)) => {
                    assert_eq!(asked.if_range.as_deref(), Some(date));
                    Answer::new("206 Partial Content", &[("content-range", range)], &served_old[from..])
                }
                _ => Answer::new("200 OK", &[("last-modified", date)], &served_old),
            };
            answer.cut(150_000, true)
        }
        "/busy" if asked.before == 0 => Answer::new("503 Service Unavailable", &[("retry-after", "0")], b"later"),
        "/busy" => Answer::ranged(asked, "\"1\"", &served_old),
        "/moved" => Answer::new("302 Found", &[("location", "/cut")], b""),
        other => panic!("{other}"),
    })
    .await;
    let client = Client::new(&["127.0.0.0/8"]);
    for (path, expected) in
        [("/cut", &old), ("/nameless", &old), ("/changes", &new), ("/dated", &old), ("/busy", &old), ("/moved", &old)]
    {
        let (fetched, bytes) = client.fetch(&web.url(path)).await.unwrap_or_else(|end| panic!("{path}: {end:?}"));
        assert!(bytes == *expected, "{path}: {} bytes of {}", bytes.len(), expected.len());
        assert_eq!(fetched.size_bytes, expected.len() as u64);
        let sha256 = ffpool_schema::message::hex(&<sha2::Sha256 as sha2::Digest>::digest(expected));
        assert_eq!(fetched.sha256, sha256, "{path}");
        assert_eq!(fetched.modified.is_some(), path == "/dated", "{path}");
    }
    let asked = web.asked.lock().unwrap();
    let ranges: Vec<_> = asked.iter().filter(|asked| asked.path == "/cut").filter_map(|asked| asked.range).collect();
    assert_eq!(ranges[..4], [90_000, 180_000, 270_000, 360_000], "the rest was asked for, not the whole");
    assert_eq!(asked.iter().filter(|asked| asked.path == "/dated").count(), 3, "two cuts, and nothing anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_fail_has_its_cause() {
    let body = content(50_000, 3);
    let served = body.clone();
    let web = Web::start(move |asked: &Asked| match asked.path.as_str() {
        "/short" => Answer::new("200 OK", &[], &served).cut(20_000, false),
        "/reset" => Answer::new("200 OK", &[], &served).cut(20_000, true),
        "/unsteady" => {
            let etag = format!("\"{}\"", asked.before);
            Answer::ranged(asked, &etag, &served).cut(20_000 + asked.before, true)
        }
        "/lies" => Answer::new("206 Partial Content", &[("content-range", "bytes 0-49999/50000")], &served),
        "/gone" => Answer::new("404 Not Found", &[], b"gone"),
        "/forbidden" => Answer::new("403 Forbidden", &[], b"no"),
        "/broken" => Answer::new("500 Internal Server Error", &[("retry-after", "0")], b"no"),
        "/large" => Answer {
            headers: vec![("content-length", (1u64 << 40).to_string())],
            ..Answer::new("200 OK", &[], &served)
        },
        "/endless" => Answer { headers: vec![], ..Answer::new("200 OK", &[], &vec![0; 2 << 20]) },
        "/wrong" => {
            Answer::new("200 OK", &[("repr-digest", "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:")], &served)
        }
        "/squeezed" => Answer::new("200 OK", &[("content-encoding", "gzip")], &served),
        "/around" => Answer::new("302 Found", &[("location", "/around")], b""),
        "/inside" => Answer::new("302 Found", &[("location", "http://10.0.0.1/secret")], b""),
        "/metadata" => Answer::new("307 Temporary Redirect", &[("location", "http://[::ffff:169.254.169.254]/")], b""),
        "/file" => Answer::new("302 Found", &[("location", "file:///etc/passwd")], b""),
        other => panic!("{other}"),
    })
    .await;
    let client = Arc::new(Client::new(&["127.0.0.1"]));
    // Nobody listens there, and nobody else gets it.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let unused = taken.local_addr().unwrap();
    let mut checks = tokio::task::JoinSet::new();
    for (url, expected) in [
        (web.url("/short"), Cause::InputTruncated),
        (web.url("/reset"), Cause::NetTransient),
        (web.url("/unsteady"), Cause::InputChanged),
        (web.url("/lies"), Cause::InputBad),
        (web.url("/gone"), Cause::InputMissing),
        (web.url("/forbidden"), Cause::InputAuth),
        (web.url("/broken"), Cause::NetTransient),
        (web.url("/large"), Cause::InputTooLarge),
        (web.url("/endless"), Cause::InputTooLarge),
        (web.url("/wrong"), Cause::InputChecksum),
        (web.url("/squeezed"), Cause::InputBad),
        (web.url("/around"), Cause::Policy),
        (web.url("/inside"), Cause::Policy),
        (web.url("/metadata"), Cause::Policy),
        (web.url("/file"), Cause::Policy),
        (web.url("/gone").replace("http://", "https://"), Cause::Tls),
        (format!("http://{unused}/"), Cause::NetTransient),
        // Longer than a name may be: no name server is asked.
        (format!("http://{}.invalid/", "x".repeat(64)), Cause::Dns),
    ] {
        let client = client.clone();
        checks.spawn(async move { (client.fetch(&url).await, expected, url) });
    }
    for (found, expected, url) in checks.join_all().await {
        match found {
            Err(FetchEnd::Failed(trouble)) => assert_eq!(trouble.cause, expected, "{url}: {trouble:?}"),
            other => panic!("{url}: {other:?}"),
        }
    }
    let around = web.asked.lock().unwrap().iter().filter(|asked| asked.path == "/around").count();
    assert_eq!(around, 6, "five redirects are followed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_is_not_what_the_job_says_ends_the_fetch_as_soon_as_that_shows() {
    let body = content(50_000, 4);
    let served = body.clone();
    let web = Web::start(move |asked: &Asked| match asked.path.as_str() {
        "/cut" => Answer::ranged(asked, "\"1\"", &served).cut(20_000, true),
        // Whoever waits for the body of these sees it end too early.
        "/sized" => Answer::new("200 OK", &[], &served).cut(0, false),
        "/promised" => {
            let digest = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
            Answer::new("200 OK", &[("repr-digest", digest)], &served).cut(0, false)
        }
        "/unsized" => Answer { headers: vec![], ..Answer::new("200 OK", &[], &served) },
        other => panic!("{other}"),
    })
    .await;
    let client = Client::new(&["127.0.0.1"]);
    let sum = ffpool_schema::message::hex(&<sha2::Sha256 as sha2::Digest>::digest(&body));
    let size = |bytes: u64| Stated { sha256: None, size_bytes: Some(bytes) };
    let right = Stated { sha256: Some(sum.clone()), size_bytes: Some(50_000) };
    let wrong = Stated { sha256: Some("ab".repeat(32)), size_bytes: Some(50_000) };
    for path in ["/cut", "/unsized"] {
        let fetched = client.fetch_stated(&web.url(path), &right).await;
        assert!(fetched.is_ok_and(|(_, bytes)| bytes == body), "{path}");
    }
    for (path, stated, found) in [
        ("/sized", size(49_999), "found 50000 bytes"),
        ("/promised", wrong.clone(), "found e3b0c442"),
        ("/unsized", size(49_999), "found more"),
        ("/unsized", size(50_001), "found 50000 bytes"),
        ("/unsized", wrong.clone(), sum.as_str()),
        ("/cut", wrong, sum.as_str()),
    ] {
        let before = web.asked_for(path);
        match client.fetch_stated(&web.url(path), &stated).await {
            Err(FetchEnd::Failed(trouble)) => {
                assert_eq!(trouble.cause, Cause::InputMismatch, "{path} {stated:?}: {trouble:?}");
                assert!(trouble.evidence.as_ref().is_some_and(|said| said.contains(found)), "{path}: {trouble:?}");
            }
            other => panic!("{path} {stated:?}: {other:?}"),
        }
        // It is of no use to ask again, but for the rest after a cut.
        assert_eq!(web.asked_for(path) - before, if path == "/cut" { 3 } else { 1 }, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_address_that_is_not_public_is_ever_connected_to() {
    let web = Web::start(|_| Answer::new("200 OK", &[], b"a secret of the machine")).await;
    let client = Client::new(&[]);
    let port = web.address.port();
    for host in
        ["127.0.0.1", "127.1", "0x7f000001", "2130706433", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "localhost"]
    {
        assert_eq!(client.cause(&format!("http://{host}:{port}/")).await, Cause::Policy, "{host}");
    }
    assert_eq!(web.times(), 0);
    assert_eq!(Client::new(&["10.0.0.0/8"]).cause(&web.url("/")).await, Cause::Policy, "another range is allowed");
    assert!(Client::new(&["127.0.0.1"]).fetch(&format!("http://2130706433:{port}/")).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_ends_when_its_attempt_does() {
    let web = Web::start(|_| Answer::new("200 OK", &[], &[0; 4096]).cut(1024, false)).await;
    let client = Client::new(&["127.0.0.1"]);
    client.stop.send_replace(Some(Stop::Release("a test".to_owned())));
    assert!(matches!(client.fetch(&web.url("/")).await, Err(FetchEnd::Stopped(Stop::Release(_)))));
}
