//! What all others wait at the API's door over TLS while thousands only hold a place there, and what a flood gets.
//!
//! Invariant: the crowd comes from other addresses than those whose waits are measured, and whoever of it is shown out comes
//! again, so that it stands at its full size while it is measured.

mod crowd;
mod flood;

use std::fmt;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use ffpool_schema::access::Role;
use ffpool_schema::api::KeyRequest;
use ffpool_stack::Stack;

use crate::pool::{Pool, PoolSettings};
use crate::waits::{Measured, PATIENCE, Waits};
use crowd::Crowd;
pub use flood::Flood;

/// Open files that are no connections of the crowd, of this process or of the dispatcher.
const OTHER_FILES: u64 = 1024;
/// Places of the API beyond those of the crowd.
const SPARE_PLACES: usize = 500;
/// Between two questions whose wait is measured: below the limit of one key, 100 a second.
const PACE: Duration = Duration::from_millis(20);
/// Those whose waits are measured.
const OTHERS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Route that is asked: behind a key, answered from memory.
const ROUTE: &str = "/v1/scenarios";

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
pub struct DoorsArgs {
    /// Connections that wait and ask once a minute.
    #[arg(long, default_value_t = 10_000)]
    pub idle: usize,
    /// Connections that send one byte of a request each second.
    #[arg(long, default_value_t = 1000)]
    pub slow: usize,
    /// Places that the API has (`FFPOOL_API_CONNECTIONS`). Default: enough for all.
    #[arg(long)]
    pub places: Option<usize>,
    /// Questions of others that are measured, half of them on connections of their own.
    #[arg(long, default_value_t = 1000)]
    pub asks: usize,
    /// Requests that one address sends as fast as it can; 0 leaves the flood out.
    #[arg(long, default_value_t = 500)]
    pub flood: usize,
}

/// What was measured.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    /// Connections that waited, as many as stood at the end.
    pub idle: usize,
    /// Connections that were slow, as many as stood at the end.
    pub slow: usize,
    /// How often one of the crowd was shown out and came again.
    pub came_again: usize,
    /// Others with nobody else there, on a connection that is kept.
    pub alone_kept: Waits,
    /// Others with nobody else there, each with a connection and a handshake of its own.
    pub alone_new: Waits,
    /// Others in the crowd, on a connection that is kept.
    pub kept: Waits,
    /// Others in the crowd, each with a connection and a handshake of its own.
    pub new: Waits,
    /// The flood.
    pub flood: Option<Flood>,
}

impl Report {
    /// Whether others were answered in time, and the flood got what the limit says.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.kept.are_fine() && self.new.are_fine() && self.flood.as_ref().is_none_or(Flood::is_clean)
    }

    /// Whether everybody else was answered, however long it took.
    #[must_use]
    pub fn is_everybody_answered(&self) -> bool {
        [&self.alone_kept, &self.alone_new, &self.kept, &self.new].iter().all(|waits| waits.failed == 0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "crowd: {} idle and {} slow connections; {} came again", self.idle, self.slow, self.came_again)?;
        writeln!(f, "{:<34} {:>6} {:>7} {:>10} {:>10} {:>10}", "others", "asked", "failed", "p50", "p95", "max")?;
        for (who, waits) in [
            ("alone, kept connection", &self.alone_kept),
            ("alone, a connection for each", &self.alone_new),
            ("in the crowd, kept connection", &self.kept),
            ("in the crowd, a connection for each", &self.new),
        ] {
            let Waits { asked, failed, p50_ms, p95_ms, max_ms } = waits;
            writeln!(f, "{who:<34} {asked:>6} {failed:>7} {p50_ms:>7.1} ms {p95_ms:>7.1} ms {max_ms:>7.1} ms")?;
        }
        if let Some(flood) = &self.flood {
            writeln!(f, "{flood}")?;
        }
        Ok(())
    }
}

/// Measures on a private pool without workers.
///
/// # Errors
/// When the servers do not run, or this process may not open enough files.
pub async fn run(args: &DoorsArgs) -> anyhow::Result<Report> {
    raise_file_limit(args.idle + args.slow)?;
    let stack = tokio::task::spawn_blocking(Stack::start).await?.context("start the servers")?;
    // The pool wants its servers for the life of the process, and this process ends with the measurement.
    run_on(Box::leak(Box::new(stack)), args).await
}

/// The same on servers that are there.
///
/// # Errors
/// As [`run`].
pub async fn run_on(stack: &'static Stack, args: &DoorsArgs) -> anyhow::Result<Report> {
    ensure!(args.asks >= 2, "--asks {}: 2 or more are needed, one on each kind of connection", args.asks);
    raise_file_limit(args.idle + args.slow)?;
    let places = args.places.unwrap_or(args.idle + args.slow + SPARE_PLACES);
    let settings = PoolSettings::default().with_tls().dispatcher("FFPOOL_API_CONNECTIONS", &places.to_string());
    let pool = Pool::start(stack, settings).await?;
    let ca = pool.api_ca.clone().context("the API speaks TLS")?;
    let key = viewer(&pool, "others").await?;
    let url = format!("{}{ROUTE}", pool.api_url);
    let others = Others { kept: client(&ca, OTHERS, true)?, new: client(&ca, OTHERS, false)?, url: url.clone(), key };

    let (alone_kept, alone_new) = others.ask(args.asks).await?;
    let flood = match args.flood {
        0 => None,
        count => {
            Some(flood::run(&others, &client(&ca, flood::ADDRESS, true)?, &viewer(&pool, "flood").await?, count).await?)
        }
    };
    let crowd = Crowd::gather(pool.api_url.trim_start_matches("https://").parse()?, &ca, args.idle, args.slow).await?;
    let (kept, new) = others.ask(args.asks).await?;
    let (idle, slow, came_again) = crowd.size();
    drop(crowd);
    Ok(Report { idle, slow, came_again, alone_kept, alone_new, kept, new, flood })
}

/// A key of its own, so that nobody uses up the limit of another's.
pub(crate) async fn viewer(pool: &Pool, name: &str) -> anyhow::Result<String> {
    let request =
        KeyRequest { name: name.to_owned(), role: Role::Viewer, scopes: None, tenant: None, expires_at: None };
    Ok(pool.client.create_key(&request).await?.key)
}

/// A client at `address`, whose connections are kept or made for each request.
pub(crate) fn client(ca: &Path, address: Ipv4Addr, is_kept: bool) -> anyhow::Result<reqwest::Client> {
    let trusted = reqwest::Certificate::from_pem_bundle(&std::fs::read(ca)?)?;
    let builder = reqwest::Client::builder().tls_certs_only(trusted).local_address(std::net::IpAddr::V4(address));
    let builder = if is_kept { builder } else { builder.pool_max_idle_per_host(0) };
    Ok(builder.timeout(PATIENCE).build()?)
}

/// Those whose waits are measured.
struct Others {
    kept: reqwest::Client,
    new: reqwest::Client,
    url: String,
    key: String,
}

impl Others {
    /// Asks so often, in turns on a connection that is kept and on one of its own.
    async fn ask(&self, count: usize) -> anyhow::Result<(Waits, Waits)> {
        // The first question makes the connection that is kept.
        ensure!(self.is_answered(&self.kept).await, "the API did not answer the first question");
        let (mut kept, mut new) = (Measured::new()?, Measured::new()?);
        for _ in 0..count / 2 {
            for (measured, client) in [(&mut kept, &self.kept), (&mut new, &self.new)] {
                let begin = Instant::now();
                let is_answered = self.is_answered(client).await;
                measured.note(begin.elapsed(), is_answered);
                tokio::time::sleep(PACE).await;
            }
        }
        Ok((kept.waits(), new.waits()))
    }

    async fn is_answered(&self, client: &reqwest::Client) -> bool {
        let answer = client.get(&self.url).bearer_auth(&self.key).send().await;
        match answer {
            Ok(answer) => answer.status().is_success() && answer.bytes().await.is_ok(),
            Err(_) => false,
        }
    }
}

/// Lets this process, and the dispatcher that inherits it, open enough files for so many connections.
fn raise_file_limit(connections: usize) -> anyhow::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let needed = u64::try_from(connections).unwrap_or(u64::MAX).saturating_add(OTHER_FILES);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("read the limit of open files")?;
    if soft >= needed {
        return Ok(());
    }
    if hard < needed && setrlimit(Resource::RLIMIT_NOFILE, needed, needed).is_err() {
        bail!(
            "{connections} connections need {needed} open files, and this process may have {hard}: run it as root or with \
             `ulimit -Hn {needed}` (in a unit LimitNOFILE={needed}), or ask for fewer with --idle and --slow"
        );
    }
    setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed)).context("raise the limit of open files")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_connections_than_files_can_be_had_for_are_refused_with_what_to_do() {
        // More than any kernel allows one process (fs.nr_open).
        let said = raise_file_limit(usize::MAX / 2).unwrap_err().to_string();
        assert!(said.contains("ulimit -Hn") && said.contains("--idle"), "{said}");
    }
}
