//! Live media over TLS: servers are held against the certificates that are trusted, and against no others.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use ffpool_schema::failure::Cause;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::sources::Publisher;
use super::{server, sink, spec, until_media};
use crate::tool::bench::{Bench, Ledger, failure, manifest};

/// A server of TLS, named `localhost`, in front of a port of this machine.
struct Front {
    port: u16,
    /// Its certificate, as PEM.
    certificate: String,
    serving: JoinHandle<()>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Front {
    async fn of(port: u16) -> Front {
        ffpool_runtime::install_crypto();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // Who does not trust us goes away.
                    let Ok(mut client) = acceptor.accept(client).await else { return };
                    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Front { port: own, certificate: made.cert.pem(), serving }
    }
}

/// A worker that trusts these certificates, and may go to this machine.
async fn bench(certificates: &str) -> Bench {
    Bench::with(|settings, directory| {
        settings.stores.fetch_allow = vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        let file: PathBuf = directory.join("ca.pem");
        std::fs::write(&file, certificates).unwrap();
        settings.stores.live_ca_file = Some(file);
    })
    .await
}

fn port(address: &str) -> u16 {
    address.split(':').nth(2).unwrap().split('/').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn rtmps_and_hls_over_tls_are_taken_from_whom_is_trusted_and_refused_from_others_with_a_cause() {
    let server = server();
    let (rtmp, web) = (Front::of(port(&server.url("in"))).await, Front::of(port(&server.playlist("in"))).await);
    let trusted = bench(&format!("{}{}", rtmp.certificate, web.certificate)).await;
    let publisher = Publisher::to(&server.url("in"));
    let rtmps = |key: &str| format!("rtmps://localhost:{}/live/{key}", rtmp.port);
    let mut relay = spec(&trusted);
    (relay.input, relay.output) = (Some(rtmps("in")), Some(rtmps("out")));
    relay.parameters.gop = Some(13);
    let relaying = trusted.start(&trusted.grant(&relay), Ledger::Grants);
    until_media(&relaying, 1, 0.5).await;

    let pull = |bench: &Bench, input: String, name: &str| {
        let mut spec = spec(bench);
        spec.scenario = "copy".to_owned();
        spec.parameters.preset = None;
        spec.input = Some(input);
        spec.output = Some(bench.media(name).display().to_string());
        spec.parameters.duration = Some(1.0);
        spec.parameters.reconnect_sec = Some(30);
        spec
    };
    let playlist = format!("https://localhost:{}/out.m3u8", web.port);
    let pulled = trusted.run_spec(&pull(&trusted, playlist.clone(), "pulled.mkv")).await;
    assert!(manifest(&pulled).artifacts[0].probe.duration_secs.unwrap() > 0.5);
    relaying.finish.send_replace(true);
    let ended = relaying.ended.await.unwrap();
    let sinks = &manifest(&ended).live.as_ref().unwrap().sinks;
    assert!(sinks[0].is_up, "{sinks:?}");

    // The other server's certificate is not this one's.
    let untrusting = bench(&web.certificate).await;
    let mut refused = pull(&untrusting, rtmps("in"), "refused.mkv");
    refused.parameters.reconnect_sec = Some(1);
    let refused = untrusting.run_spec(&refused).await;
    assert_eq!(failure(&refused).cause, Cause::Tls, "{refused:?}");
    let untrusting = bench(&rtmp.certificate).await;
    let mut refused = pull(&untrusting, playlist, "refused.mkv");
    refused.parameters.reconnect_sec = Some(1);
    let refused = untrusting.run_spec(&refused).await;
    assert_eq!(failure(&refused).cause, Cause::Tls, "{refused:?}");
    let mut out = spec(&untrusting);
    out.scenario = "240p25-h264".to_owned();
    (out.output, out.outputs) = (Some(format!("rtmps://localhost:{}/live/x", web.port)), Vec::new());
    out.outputs.push(sink(untrusting.media("x.mkv").display().to_string()));
    out.outputs[0].scenario = out.scenario.clone();
    out.parameters.duration = Some(1.0);
    let ended = untrusting.run_spec(&out).await;
    let sinks = &manifest(&ended).live.as_ref().unwrap().sinks;
    assert!(!sinks[0].is_up && sinks[0].losses > 0, "{sinks:?}");
    drop(publisher);
    trusted.assert_clean();
}
