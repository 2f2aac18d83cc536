//! `ffpool-dispatcher health`: whether the dispatcher that runs with these settings on this machine is ready, for a container's
//! health check.
//!
//! It asks where the metrics are, by the address that is in force, because there neither the API's certificate nor one of a client
//! matters; and that the API listens it sees by a connection.
//!
//! Invariant: it answers within a bound, and changes nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use ffpool_schema::api::Readiness;
use tokio::net::TcpStream;

use crate::settings::Settings;

/// Sooner than health checks give up.
const WITHIN: Duration = Duration::from_secs(4);

/// Asks, and gives what a person wants to read.
///
/// # Errors
/// When it does not answer or is not ready, with the parts that are not.
pub async fn ask(settings: &Settings) -> anyhow::Result<String> {
    let asked = async {
        let (api, metrics) = (reached(settings.api.api_addr), reached(settings.metrics_addr));
        TcpStream::connect(api).await.with_context(|| format!("the API does not listen on {api}"))?;
        ready(metrics).await
    };
    let readiness = tokio::time::timeout(WITHIN, asked).await;
    let readiness = readiness.with_context(|| format!("no answer within {WITHIN:?}"))??;
    let lines: String = readiness.parts.iter().map(|(part, says)| format!("{part}: {says}\n")).collect();
    if readiness.ready { Ok(lines) } else { bail!("not ready\n{}", lines.trim_end()) }
}

async fn ready(metrics: SocketAddr) -> anyhow::Result<Readiness> {
    let url = format!("http://{metrics}/ready");
    // Without TLS there is nothing to trust; a proxy of the environment is not asked for this machine.
    let client = reqwest::Client::builder().tls_certs_only([]).no_proxy().build()?;
    let answer = client.get(&url).send().await.with_context(|| format!("ask {url} (FFPOOL_METRICS_ADDR)"))?;
    answer.json().await.with_context(|| format!("{url} is not answered by a dispatcher of this version"))
}

/// Where a listener is reached from its own machine.
fn reached(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_everywhere_is_reached_on_loopback() {
        for (listening, expected) in
            [("0.0.0.0:8080", "127.0.0.1:8080"), ("[::]:8080", "[::1]:8080"), ("10.0.0.5:1", "10.0.0.5:1")]
        {
            assert_eq!(reached(listening.parse().unwrap()), expected.parse().unwrap());
        }
    }
}
