//! The ledger behind TLS: the right certificates open it, everything less is refused, and says why.

use std::path::Path;

use ffpool_dispatcher::ledger::{Ledger, LedgerSettings, Policy};
use ffpool_runtime::tls::{Authority, Wanted, database_way, write_over};
use ffpool_schema::retry::Backoff;
use ffpool_stack::{Tls, hello_of_tls_1_1, refuses_the_version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::*;

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

fn wanted(common_name: &str, life: Duration) -> Wanted {
    let names = vec!["127.0.0.1".to_owned()];
    Wanted { common_name: common_name.to_owned(), names, is_server: true, is_client: true, life }
}

fn tls(authority: &Authority, life: Duration) -> Tls {
    let issued = authority.issue(&wanted("server", life)).unwrap();
    let ca = std::fs::read_to_string(authority.path()).unwrap();
    Tls { authority: ca, certificate: issued.certificate, key: issued.key }
}

/// A client's certificate and key, in one file.
fn client(authority: &Authority, folder: &Path, life: Duration) -> String {
    let issued = authority.issue(&wanted("dispatcher", life)).unwrap();
    let path = folder.join(format!("client-{}.pem", life.as_secs()));
    write_over(&path, &format!("{}{}", issued.certificate, issued.key), true).unwrap();
    path.display().to_string()
}

/// Connects as the ledger does.
async fn attempt(url: &str) -> Result<(), String> {
    let way = database_way("FFPOOL_DATABASE_URL", url).map_err(|error| error.to_string())?;
    let config: tokio_postgres::Config = way.url.parse().unwrap();
    let said = |error: tokio_postgres::Error| ffpool_runtime::settings::chain(&error);
    let Some(tls) = way.tls else { return config.connect(NoTls).await.map(drop).map_err(said) };
    config.connect(MakeRustlsConnect::new(rustls::ClientConfig::clone(&tls))).await.map(drop).map_err(said)
}

/// Fails unless the server writes one of these reasons for refusing this address.
async fn refused_for(stack: &Stack, url: &str, reasons: &[&str]) {
    let before = stack.postgres.log().len();
    let told = attempt(url).await.expect_err(url);
    let began = Instant::now();
    loop {
        let said = stack.postgres.log().split_off(before);
        if reasons.iter().any(|reason| said.contains(reason)) {
            return;
        }
        assert!(began.elapsed() < BOUND, "{url}: {told}; its log: {said}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn refused_when_over(url: &str) {
    let began = Instant::now();
    while attempt(url).await.is_ok() {
        assert!(began.elapsed() < BOUND, "a certificate that has expired is taken");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_behind_tls_opens_with_the_right_certificates_only() {
    ffpool_runtime::install_crypto();
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (authority, _) = Authority::open_or_create(ours.path(), "ours").unwrap();
    let (strangers, _) = Authority::open_or_create(theirs.path(), "strangers").unwrap();
    let start = |life| {
        let builder = Stack::builder().rabbit(false).nats(false).tls(tls(&authority, life));
        tokio::task::block_in_place(|| builder.start()).unwrap()
    };
    let stack = start(YEAR);
    let (base, ca) = (stack.postgres.url(), authority.path().display());
    let shown = client(&authority, ours.path(), YEAR);
    let good = format!("{base}?sslmode=verify-full&sslrootcert={ca}&sslcert={shown}");

    let settings = LedgerSettings {
        database_url: good.clone(),
        migration_url: None,
        amqp_tenants: Default::default(),
        policy: Policy { lease: Duration::from_secs(5), backoff: Backoff::default(), loss_limit: 3 },
        catalog: Arc::default(),
        secrets: Arc::default(),
        prices: ffpool_schema::cost::Prices::default(),
    };
    let opened = tokio::time::timeout(BOUND, Ledger::open(&settings)).await.expect("the ledger opens");
    assert!(opened.unwrap().keys(&ffpool_dispatcher::ledger::Realm::Pool).await.unwrap().is_empty());

    let foreign = strangers.path().display();
    let stranger = client(&strangers, theirs.path(), YEAR);
    for (url, expected) in [
        (format!("{base}?sslrootcert={foreign}&sslcert={shown}"), "UnknownIssuer"),
        (format!("{base}?sslmode=require&sslrootcert={foreign}&sslcert={shown}"), "UnknownIssuer"),
        (base.clone(), "no encryption"),
        (format!("{base}?sslmode=prefer"), "sslmode=verify-full"),
    ] {
        let said = attempt(&url).await.expect_err(&url);
        assert!(said.contains(expected), "{url}: {said}");
    }
    let missing = ["connection requires a valid client certificate", "peer did not return a certificate"];
    refused_for(&stack, &format!("{base}?sslrootcert={ca}"), &missing).await;
    // Words of OpenSSL and, of newer servers, what they say of the certificate beside it.
    let of_strangers = ["certificate verify failed", "unable to get local issuer certificate", "unknown ca"];
    refused_for(&stack, &format!("{base}?sslrootcert={ca}&sslcert={stranger}"), &of_strangers).await;
    let late = client(&authority, ours.path(), Duration::ZERO);
    let late = format!("{base}?sslrootcert={ca}&sslcert={late}");
    refused_when_over(&late).await;
    refused_for(&stack, &late, &["certificate verify failed", "certificate has expired"]).await;

    // TLS 1.1 is the best that this client offers, after Postgres' request for TLS.
    let mut socket = TcpStream::connect(stack.postgres.address()).await.unwrap();
    socket.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await.unwrap();
    assert_eq!(socket.read_u8().await.unwrap(), b'S');
    socket.write_all(&hello_of_tls_1_1()).await.unwrap();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer).await;
    assert!(refuses_the_version(&answer), "{answer:?}");
    drop(stack);

    let late = start(Duration::ZERO);
    refused_when_over(&format!("{}?sslrootcert={ca}&sslcert={shown}", late.postgres.url())).await;
    let plain = tokio::task::block_in_place(|| Stack::builder().rabbit(false).nats(false).start()).unwrap();
    let said = attempt(&format!("{}?sslrootcert={ca}", plain.postgres.url())).await.unwrap_err();
    assert!(said.contains("does not support TLS"), "{said}");
}
