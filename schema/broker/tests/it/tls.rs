//! The links over TLS: the right certificates work, everything less is refused, and says why.

use std::path::{Path, PathBuf};

use ffpool_broker::Signals;
use ffpool_runtime::tls::{Authority, Wanted, write_over};
use ffpool_stack::{StackBuilder, Tls, hello_of_tls_1_1, refuses_the_version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// An authority with the certificates of one test, in files.
struct Certificates {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Certificates {
    fn new(name: &str) -> Certificates {
        ffpool_runtime::install_crypto();
        let folder = tempfile::tempdir().unwrap();
        let (authority, _) = Authority::open_or_create(folder.path(), name).unwrap();
        Certificates { folder, authority }
    }

    fn ca(&self) -> &Path {
        self.authority.path()
    }

    /// For the servers, valid for `life`.
    fn tls(&self, life: Duration) -> Tls {
        let issued = self.authority.issue(&wanted("server", life)).unwrap();
        let authority = std::fs::read_to_string(self.ca()).unwrap();
        Tls { authority, certificate: issued.certificate, key: issued.key }
    }

    /// For the client of this name: certificate and key in one file.
    fn client(&self, name: &str, life: Duration) -> PathBuf {
        let issued = self.authority.issue(&wanted(name, life)).unwrap();
        let path = self.folder.path().join(format!("{name}-{}.pem", life.as_secs()));
        write_over(&path, &format!("{}{}", issued.certificate, issued.key), true).unwrap();
        path
    }
}

fn wanted(common_name: &str, life: Duration) -> Wanted {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    Wanted { common_name: common_name.to_owned(), names, is_server: true, is_client: true, life }
}

/// The query of an address: whom to trust and what to show.
fn query(ca: &Path, client: Option<&Path>) -> String {
    let client = client.map(|path| format!("&certfile={0}&keyfile={0}", path.display())).unwrap_or_default();
    format!("cacertfile={}{client}", ca.display())
}

/// Whether a connection comes about, or why not.
async fn amqp(url: String) -> Result<(), String> {
    let link = AmqpLink::open(AmqpConfig::new(url, "tls"));
    let answer = until("the link stands or says why not", async || {
        let state = link.watch().borrow().clone();
        match (state.up, state.last_error.clone()) {
            (true, _) => Ok(Ok(())),
            (false, Some(why)) => Ok(Err(why)),
            (false, None) => Err(state),
        }
    })
    .await;
    link.close().await;
    answer
}

async fn nats(url: String) -> Result<(), String> {
    let signals = Signals::open(&url, "tls").await.map_err(|error| error.to_string())?;
    until("NATS is connected or says why not", async || match (signals.is_up(), signals.last_error()) {
        (true, _) => Ok(Ok(())),
        (false, Some(why)) => Ok(Err(why)),
        (false, None) => Err("nothing yet"),
    })
    .await
}

/// Fails unless an attempt is refused and the server writes one of these reasons; each of its versions has words of its own. What
/// the client hears of a handshake is less: an alert, or an end.
async fn refused_for(log: impl Fn() -> String, attempt: impl Future<Output = Result<(), String>>, reasons: &[&str]) {
    let before = log().len();
    let told = attempt.await.expect_err("it is refused");
    until("the server says why it refused", async || {
        let said = log().split_off(before);
        match reasons.iter().any(|reason| said.contains(reason)) {
            true => Ok(()),
            false => Err(format!("{told}; its log: {said}")),
        }
    })
    .await;
}

/// What servers say of a client without a certificate, with one of a stranger's, and with one that has expired.
const MISSING: &[&str] = &[
    "client didn't provide a certificate",
    "certificate_required",
    "certificate required",
    "Certificate Required",
    "no_peer_cert",
];
const STRANGERS: &[&str] =
    &["signed by unknown authority", "unknown_ca", "Unknown CA", "Unknown Certificate Authority"];
const EXPIRED: &[&str] = &["certificate has expired", "cert_expired", "certificate_expired", "Certificate Expired"];

/// A certificate that ends now is refused as soon as it has ended.
async fn refused_when_over<F: Future<Output = Result<(), String>>>(attempt: impl Fn() -> F) {
    until("a certificate that has expired is refused", async || match attempt().await {
        Ok(()) => Err("it was taken"),
        Err(_) => Ok(()),
    })
    .await;
}

/// A client that asks for an answer without TLS.
async fn speaks_plain_nats(place: &str) -> Result<(), String> {
    let mut socket = TcpStream::connect(place).await.unwrap();
    while socket.read_u8().await.unwrap() != b'\n' {}
    socket.write_all(b"CONNECT {\"verbose\":false}\r\nPING\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = soon("the server ends a plain client", socket.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    if answer.contains("PONG") { Ok(()) } else { Err(answer) }
}

/// Offers TLS 1.1 at best, and expects no handshake to come of it.
async fn refuses_old_tls(mut socket: TcpStream) {
    socket.write_all(&hello_of_tls_1_1()).await.unwrap();
    let mut answer = Vec::new();
    // A server may also close at once.
    let _ = soon("the server answers an old client", socket.read_to_end(&mut answer)).await;
    assert!(refuses_the_version(&answer), "{answer:?}");
}

fn start(builder: StackBuilder) -> Stack {
    tokio::task::block_in_place(|| builder.start()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_is_reached_over_tls_with_the_right_certificates_only() {
    let (certificates, strangers) = (Certificates::new("ours"), Certificates::new("strangers"));
    let stack = start(Stack::builder().nats(false).postgres(false).tls(certificates.tls(YEAR)));
    let place = stack.rabbit.tls_address();
    let (ca, guest) = (certificates.ca(), certificates.client("guest", YEAR));

    amqp(format!("amqps://guest:guest@{place}/%2f?{}", query(ca, Some(&guest)))).await.unwrap();
    let by_certificate =
        |ca: &Path, client: Option<&Path>| format!("amqps://{place}/%2f?auth_mechanism=external&{}", query(ca, client));
    amqp(by_certificate(ca, Some(&guest))).await.unwrap();

    let said = amqp(by_certificate(strangers.ca(), Some(&guest))).await.unwrap_err();
    assert!(said.contains("UnknownIssuer"), "{said}");
    let log = || stack.rabbit.log();
    refused_for(log, amqp(by_certificate(ca, None)), MISSING).await;
    refused_for(log, amqp(by_certificate(ca, Some(&strangers.client("guest", YEAR)))), STRANGERS).await;
    // Trusted, but nobody's login.
    let nobody = certificates.client("nobody", YEAR);
    refused_for(log, amqp(by_certificate(ca, Some(&nobody))), &["user 'nobody' - invalid credentials", "nobody"]).await;
    let plain = amqp(format!("amqp://guest:guest@{place}/%2f"));
    refused_for(
        log,
        plain,
        &["unsupported_record_type", "unexpected_message", "Unexpected Message", "protocol_version"],
    )
    .await;
    let late = certificates.client("guest", Duration::ZERO);
    refused_when_over(|| amqp(by_certificate(ca, Some(&late)))).await;
    refused_for(log, amqp(by_certificate(ca, Some(&late))), EXPIRED).await;
    refuses_old_tls(TcpStream::connect(&place).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_is_reached_over_tls_with_the_right_certificates_only() {
    let (certificates, strangers) = (Certificates::new("ours"), Certificates::new("strangers"));
    let stack = start(Stack::builder().rabbit(false).postgres(false).tls(certificates.tls(YEAR)));
    let url = stack.nats.url();
    let (ca, client) = (certificates.ca(), certificates.client("worker", YEAR));

    nats(format!("{url}?{}", query(ca, Some(&client)))).await.unwrap();
    let plain = url.replace("tls://", "nats://");
    nats(format!("{plain}?{}", query(ca, Some(&client)))).await.unwrap();

    let said = nats(format!("{url}?{}", query(strangers.ca(), Some(&client)))).await.unwrap_err();
    assert!(said.contains("trust"), "{said}");
    let log = || stack.nats.log();
    refused_for(log, nats(format!("{url}?{}", query(ca, None))), MISSING).await;
    let stranger = strangers.client("worker", YEAR);
    refused_for(log, nats(format!("{url}?{}", query(ca, Some(&stranger)))), STRANGERS).await;
    // Plain text, where the server wants TLS. What the client makes of `nats://` alone is TLS too, and trusts nobody here: it
    // says no more than that.
    let place = url.trim_start_matches("tls://");
    refused_for(log, speaks_plain_nats(place), &["first record does not look like a TLS handshake"]).await;
    let said = nats(plain).await.unwrap_err();
    assert!(said.contains("IO error"), "{said}");
    let late = certificates.client("worker", Duration::ZERO);
    refused_when_over(|| nats(format!("{url}?{}", query(ca, Some(&late))))).await;
    refused_for(log, nats(format!("{url}?{}", query(ca, Some(&late)))), EXPIRED).await;
    let mut socket = TcpStream::connect(place).await.unwrap();
    while socket.read_u8().await.unwrap() != b'\n' {}
    refuses_old_tls(socket).await;

    // A server whose own certificate has expired, and one that has no TLS.
    let late = start(Stack::builder().rabbit(false).postgres(false).tls(certificates.tls(Duration::ZERO)));
    refused_when_over(|| nats(format!("{}?{}", late.nats.url(), query(ca, Some(&client))))).await;
    let without = start(Stack::builder().rabbit(false).postgres(false));
    nats(format!("{}?{}", without.nats.url(), query(ca, Some(&client)))).await.unwrap_err();
}
