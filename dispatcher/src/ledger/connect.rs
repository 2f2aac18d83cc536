//! Connections to Postgres: how they are made.
//!
//! Invariants:
//! * no wait on Postgres is without a bound; a server that is away or frozen costs an error, never a hang;
//! * every connection is to a server that takes writes, whichever of those in the URL that is.

use std::time::Duration;

use anyhow::Context as _;
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime, Timeouts};
use ffpool_runtime::tls::database_way;
use tokio_postgres::config::{LoadBalanceHosts, TargetSessionAttrs};
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::warn;

/// For one connection to be made or handed out.
const CONNECT: Duration = Duration::from_secs(3);
/// For one statement of a reader.
const READ_STATEMENT_MS: u32 = 5_000;
/// For one statement of a writer: longer, because a failed batch is only done again.
const WRITE_STATEMENT_MS: u32 = 10_000;
/// A writer's statements are few, prepared, and find rows by their keys. Planning them anew each time took two thirds of
/// Postgres' time (measured: 4.8 s against 1.6 s for 6,000 jobs), and a plan made while the tables are empty must not be
/// a scan of the whole table. Without sequential scans their nominal cost would start the JIT compiler.
const WRITE_PLANNER: &str = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_hashjoin=off \
     -c enable_mergejoin=off -c jit=off";
/// What readers ask takes milliseconds; compiling the plan took 270 to 370 of them where more rows were expected than came.
/// A page that is not in memory comes from a disk that can jump: with the costs of one that must turn, 84,000 entries of an index were
/// read where 400 pages would do.
const READ_PLANNER: &str = "-c jit=off -c random_page_cost=1.1";
/// Between attempts to reach a server that is away at the start.
const RETRY: Duration = Duration::from_secs(1);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Queries of the API.
    Read,
    /// Transactions that change jobs.
    Write,
}

/// Where Postgres is, and how the way there is secured. Clones share what is trusted.
#[derive(Clone)]
pub(super) struct Place {
    config: Config,
    /// Used where the address asks for TLS, and then always.
    tls: MakeRustlsConnect,
}

impl Place {
    /// The account.
    pub(super) fn user(&self) -> Option<&str> {
        self.config.get_user()
    }
}

/// The way to Postgres for `purpose`, from the URL in `setting`.
pub(super) fn place(setting: &str, url: &str, purpose: Purpose) -> anyhow::Result<Place> {
    let way = database_way(setting, url)?;
    let tls = match way.tls {
        Some(tls) => rustls::ClientConfig::clone(&tls),
        None => nothing_trusted()?,
    };
    Ok(Place { config: config(setting, &way.url, purpose)?, tls: MakeRustlsConnect::new(tls) })
}

/// For connections without TLS: if one came to use it all the same, it would trust nobody.
fn nothing_trusted() -> anyhow::Result<rustls::ClientConfig> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth())
}

/// The settings of a connection for `purpose`, from the URL in `setting`.
fn config(setting: &str, url: &str, purpose: Purpose) -> anyhow::Result<Config> {
    let mut config: Config = url.parse().with_context(|| format!("{setting} cannot be read"))?;
    let (statement_ms, planner) = match purpose {
        Purpose::Read => (READ_STATEMENT_MS, READ_PLANNER),
        Purpose::Write => (WRITE_STATEMENT_MS, WRITE_PLANNER),
    };
    let options = format!(
        "{} {planner} -c statement_timeout={statement_ms} -c idle_in_transaction_session_timeout=15000 -c TimeZone=UTC",
        config.get_options().unwrap_or_default()
    );
    anyhow::ensure!(
        config.get_target_session_attrs() != TargetSessionAttrs::ReadOnly,
        "{setting} asks for a server that is read-only; the ledger needs one that takes writes"
    );
    let hosts = config.get_hosts().len();
    config
        .options(options.trim())
        .application_name("ffpool-dispatcher")
        // A standby answers questions with the past, and a ledger is no use without writes.
        .target_session_attrs(TargetSessionAttrs::ReadWrite)
        .connect_timeout(connect_to_one_of(hosts))
        .keepalives_idle(Duration::from_secs(5))
        .keepalives_interval(Duration::from_secs(2))
        .keepalives_retries(3)
        .tcp_user_timeout(Duration::from_secs(10));
    // A frozen server takes connections and says nothing. Always asked first, it would hide the others.
    if hosts > 1 {
        config.load_balance_hosts(LoadBalanceHosts::Random);
    }
    Ok(config)
}

/// For a connection to one of several hosts: so short that all can be tried before [`CONNECT`] is over.
fn connect_to_one_of(hosts: usize) -> Duration {
    match hosts {
        0 | 1 => CONNECT,
        several => CONNECT / u32::try_from(several + 1).unwrap_or(u32::MAX),
    }
}

/// A pool of at most `size` connections.
pub(super) fn pool(place: &Place, size: usize) -> anyhow::Result<Pool> {
    let fast = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = Manager::from_config(place.config.clone(), place.tls.clone(), fast);
    Pool::builder(manager)
        .max_size(size)
        .runtime(Runtime::Tokio1)
        .timeouts(Timeouts { wait: Some(CONNECT), create: Some(CONNECT), recycle: Some(CONNECT) })
        .build()
        .context("set up the pool of Postgres connections")
}

/// One connection outside the pools. Dropping the client ends it.
pub(super) async fn connect(place: &Place) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = place.config.connect(place.tls.clone()).await?;
    // Ends with the client, or with the socket; then every use of the client says so.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to Postgres ended");
        }
    });
    Ok(client)
}

/// Connects, waiting for Postgres as long as that can help.
///
/// # Errors
/// When Postgres says that waiting is useless.
pub(super) async fn await_connection(place: &Place) -> anyhow::Result<Client> {
    let mut said = None;
    loop {
        match connect(place).await {
            Ok(client) => return Ok(client),
            Err(error) if is_hopeless(&error) => return Err(error).context("connect to Postgres"),
            Err(error) => {
                let text = ffpool_runtime::settings::chain(&error);
                if said.as_ref() != Some(&text) {
                    warn!(error = %text, "waiting for Postgres");
                    said = Some(text);
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Whether trying again cannot help: a wrong password or name.
fn is_hopeless(error: &tokio_postgres::Error) -> bool {
    use tokio_postgres::error::SqlState;
    error.code().is_some_and(|code| {
        [&SqlState::INVALID_PASSWORD, &SqlState::INVALID_AUTHORIZATION_SPECIFICATION, &SqlState::INVALID_CATALOG_NAME]
            .contains(&code)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_servers_each_is_tried_in_time_and_only_one_that_takes_writes_will_do() {
        let one = config(super::super::DATABASE_URL, "postgres://ffpool@a/ffpool", Purpose::Write).unwrap();
        assert_eq!(one.get_connect_timeout(), Some(&CONNECT));
        assert_eq!(one.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
        assert_eq!(one.get_load_balance_hosts(), LoadBalanceHosts::Disable);

        let several = config(
            super::super::DATABASE_URL,
            "postgres://ffpool@a:1,b:2,c:3/ffpool?target_session_attrs=any",
            Purpose::Read,
        )
        .unwrap();
        assert!(*several.get_connect_timeout().unwrap() * 3 < CONNECT);
        assert_eq!(several.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
        assert_eq!(several.get_load_balance_hosts(), LoadBalanceHosts::Random);
    }

    #[test]
    fn a_url_that_wants_a_standby_is_refused() {
        let error = config(
            super::super::DATABASE_URL,
            "postgres://ffpool@a/ffpool?target_session_attrs=read-only",
            Purpose::Write,
        )
        .unwrap_err();
        assert!(error.to_string().contains("takes writes"), "{error}");
    }
}
