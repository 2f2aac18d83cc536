//! The dispatcher's settings, as flags, `FFPOOL_*` variables or keys of the settings file.

mod api;
mod scale;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use ffpool_runtime::guard::Cidr;
use ffpool_runtime::scenarios;
use ffpool_runtime::settings::{FileArgs, WrongSetting};
use ffpool_runtime::telemetry::TelemetryArgs;
use ffpool_schema::catalog::Catalog;
use ffpool_schema::cost::Prices;
use ffpool_schema::job::Pool;
use ffpool_schema::retry::Backoff;

use crate::api::{KeyCommand, StreamLimits, ThrottleRules};
use crate::callbacks::{CallbackRules, CallbackSecret, Secrets};
use crate::ledger::{AmqpTenants, Keep, LedgerSettings, Policy, Retention};
use crate::limits::{Limit, ProxyHeader, RateLimits};

pub use api::{ApiSettings, ExpiredLists, TlsMode};
pub use scale::ScaleSettings;

/// Keeps the ledger of a media pool: records every job in Postgres, decides which worker may run and publish what, tries
/// again what failed or fell silent, and answers over HTTP.
///
/// Any number of dispatchers may run side by side. It stops on SIGTERM or SIGINT: it takes no more, finishes what it has
/// begun and exits with 0. A second signal exits on the spot.
/// Exit codes: 0 stopped as asked, 1 could not run, 2 wrong settings.
#[derive(Debug, Clone, Parser)]
#[command(name = "ffpool-dispatcher", version)]
pub struct Settings {
    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings file.
    #[command(flatten)]
    pub file: FileArgs,
    /// Logs and traces.
    #[command(flatten)]
    pub telemetry: TelemetryArgs,

    /// RabbitMQ, `amqp://user:password@host:port/vhost` or `amqps://…`.
    #[arg(long, env = "FFPOOL_AMQP_URL", value_name = "URL", hide_env_values = true)]
    pub amqp_url: String,
    /// NATS, `nats://host:port` or `tls://…`; several servers with commas.
    #[arg(long, env = "FFPOOL_NATS_URL", value_name = "URL", hide_env_values = true)]
    pub nats_url: String,
    /// Postgres 14 or newer, `postgres://user:password@host:port/database`; several servers with commas, the one that
    /// takes writes is used.
    #[arg(long, env = "FFPOOL_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: String,
    /// The API's listener.
    #[command(flatten)]
    pub api: ApiSettings,
    /// The same database with the account that owns the tables, where that is another: it migrates and gives the account
    /// of `FFPOOL_DATABASE_URL` its rights. For `migrate` alone, so that what runs does not have it.
    #[arg(long, env = "FFPOOL_MIGRATION_DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub migration_database_url: Option<String>,
    /// Address of `/metrics`.
    #[arg(long, env = "FFPOOL_METRICS_ADDR", value_name = "ADDR", default_value = "127.0.0.1:9090")]
    pub metrics_addr: SocketAddr,
    /// Key of an administrator at the API, 16 characters or more. Absent and no key in the ledger: one is made and shown.
    #[arg(long, env = "FFPOOL_BOOTSTRAP_KEY", value_name = "KEY", hide_env_values = true)]
    pub bootstrap_key: Option<String>,
    /// Pools whose queues are declared, besides `cpu`, separated by commas.
    #[arg(long, env = "FFPOOL_POOLS", value_name = "POOLS", value_delimiter = ',', default_value = "cpu")]
    pub pools: Vec<Pool>,
    /// The operator's own scenarios and templates: a TOML or JSON file, read at the start. Every dispatcher needs the same.
    #[arg(long, env = "FFPOOL_SCENARIO_FILE", value_name = "FILE")]
    pub scenario_file: Option<PathBuf>,

    /// Which jobs over AMQP are taken without a proof of whose they are. The proof is the property `user_id`, which RabbitMQ
    /// checks: the user that is bound to the tenant.
    #[arg(long, env = "FFPOOL_AMQP_TENANTS", value_enum, default_value = "bound")]
    pub amqp_tenants: AmqpTenants,

    /// What signs callbacks, as `<key id>:<secret>`; before it `<tenant>/` for a tenant's own; several with commas. Without
    /// one, jobs with a `callback_url` are refused.
    #[arg(long, env = "FFPOOL_CALLBACK_SECRET", value_name = "SECRETS", value_delimiter = ',', hide_env_values = true)]
    pub callback_secret: Vec<String>,
    /// Addresses that are not public and may be called all the same, such as `10.1.0.0/16`; several with commas.
    #[arg(long, env = "FFPOOL_CALLBACK_ALLOW", value_name = "RANGES", value_delimiter = ',')]
    pub callback_allow: Vec<Cidr>,
    /// Wait after a callback's first failed try, in seconds, before jitter. It doubles up to an hour.
    #[arg(long, env = "FFPOOL_CALLBACK_BASE_SECS", value_name = "SECS", default_value_t = 5.0, value_parser = seconds)]
    pub callback_base_secs: f64,
    /// After so many seconds a callback is given up.
    #[arg(long, env = "FFPOOL_CALLBACK_GIVE_UP_SECS", value_name = "SECS", default_value_t = 86_400.0, value_parser = seconds)]
    pub callback_give_up_secs: f64,

    /// Requests of one address to the API, as `<a second>/<at once>`, or `off`. IPv6 addresses are counted by /64.
    #[arg(long, env = "FFPOOL_RATE_ADDRESS", value_name = "RATE", default_value = "100/200")]
    pub rate_address: Limit,
    /// Requests with one key to the API.
    #[arg(long, env = "FFPOOL_RATE_KEY", value_name = "RATE", default_value = "100/200")]
    pub rate_key: Limit,
    /// Requests with all keys of one tenant that has no rate of its own.
    #[arg(long, env = "FFPOOL_RATE_TENANT", value_name = "RATE", default_value = "100/200")]
    pub rate_tenant: Limit,
    /// Keys of one address that are not known: as many are looked up.
    #[arg(long, env = "FFPOOL_RATE_FAILED", value_name = "RATE", default_value = "5/50")]
    pub rate_failed: Limit,
    /// Event streams (`/v1/jobs/{id}/events`) that may be open with one key.
    #[arg(long, env = "FFPOOL_STREAMS_PER_KEY", value_name = "COUNT", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub streams_per_key: u32,
    /// Event streams that may be open with all keys of one tenant.
    #[arg(long, env = "FFPOOL_STREAMS_PER_TENANT", value_name = "COUNT", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub streams_per_tenant: u32,
    /// Proxies before the API whose word for the client's address is taken, as `10.0.0.5` or `10.0.0.0/24`; several with
    /// commas. Without one, the address of the connection counts.
    #[arg(long, env = "FFPOOL_TRUSTED_PROXIES", value_name = "RANGES", value_delimiter = ',')]
    pub trusted_proxies: Vec<Cidr>,
    /// In which header these proxies say it. They must write it on every request.
    #[arg(long, env = "FFPOOL_PROXY_HEADER", value_enum, default_value = "x-forwarded-for")]
    pub proxy_header: ProxyHeader,

    /// How long jobs may wait.
    #[command(flatten)]
    pub scale: ScaleSettings,

    /// Price of one core for an hour of processor time.
    #[arg(long, env = "FFPOOL_PRICE_CORE_HOUR", value_name = "AMOUNT", value_parser = price)]
    pub price_core_hour: Option<f64>,
    /// Price of a gigabyte of memory for an hour.
    #[arg(long, env = "FFPOOL_PRICE_GB_HOUR", value_name = "AMOUNT", value_parser = price)]
    pub price_gb_hour: Option<f64>,
    /// Price of an hour of an attempt's wall time.
    #[arg(long, env = "FFPOOL_PRICE_WORKER_HOUR", value_name = "AMOUNT", value_parser = price)]
    pub price_worker_hour: Option<f64>,
    /// Price of a kilowatt hour, of the energy that workers could read.
    #[arg(long, env = "FFPOOL_PRICE_KWH", value_name = "AMOUNT", value_parser = price)]
    pub price_kwh: Option<f64>,
    /// In which currency prices are.
    #[arg(long, env = "FFPOOL_CURRENCY", value_name = "NAME", default_value = "EUR")]
    pub currency: String,

    /// Silence of a worker, in seconds, after which its jobs go to others.
    #[arg(long, env = "FFPOOL_LEASE_SECS", value_name = "SECS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..=3600))]
    pub lease_secs: u32,
    /// Lost workers after which a job is parked, because it may be what kills them.
    #[arg(long, env = "FFPOOL_LOSS_LIMIT", value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub loss_limit: u32,
    /// Wait after a job's first failure, in seconds, before jitter.
    #[arg(long, env = "FFPOOL_BACKOFF_BASE_SECS", value_name = "SECS", default_value_t = 5.0, value_parser = seconds)]
    pub backoff_base_secs: f64,
    /// Growth of the wait with each failure.
    #[arg(long, env = "FFPOOL_BACKOFF_FACTOR", value_name = "FACTOR", default_value_t = 2.0, value_parser = factor)]
    pub backoff_factor: f64,
    /// Longest wait after a failure, in seconds, before jitter.
    #[arg(long, env = "FFPOOL_BACKOFF_CAP_SECS", value_name = "SECS", default_value_t = 300.0, value_parser = seconds)]
    pub backoff_cap_secs: f64,
    /// Days after their end for which jobs are kept that completed, were cancelled or were rejected, or `forever`. A job goes
    /// with its attempts, history, log, manifest and cost; its files stay.
    #[arg(long, env = "FFPOOL_KEEP_ENDED_DAYS", value_name = "DAYS", default_value_t = Keep::Days(90))]
    pub keep_ended_days: Keep,
    /// The same for dead letters, and for messages that nobody understood.
    #[arg(long, env = "FFPOOL_KEEP_DEAD_DAYS", value_name = "DAYS", default_value_t = Keep::Forever)]
    pub keep_dead_days: Keep,
    /// What becomes of a job that fits no worker there is.
    #[arg(long, env = "FFPOOL_UNFIT", value_enum, default_value = "reject")]
    pub unfit: Unfit,
    /// What becomes of jobs that wait for a job which ends without completing.
    #[arg(long, env = "FFPOOL_PARENT_FAILURE", value_enum, default_value = "fail")]
    pub parent_failure: ParentFailure,
}

/// What to do instead of running the dispatcher.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Make, list or revoke keys of the API, and end. Takes the settings of the running dispatcher.
    #[command(subcommand)]
    Keys(KeyCommand),
    /// Ask whether the dispatcher that runs with these settings on this machine is ready, and end: with 0 if it is, else with 1.
    /// For the health check of a container, whatever the API's certificate is.
    Health,
    /// Bring the ledger's tables up to date, give the dispatcher's account its rights there, and end. Takes the settings
    /// of the dispatcher.
    Migrate,
    /// Make attempts and the states of jobs agree with the history of events, tell what differed, and end. All dispatchers
    /// must be stopped. Takes the settings of the dispatcher.
    Rebuild {
        /// Only tell what differs.
        #[arg(long, conflicts_with = "restored")]
        dry_run: bool,
        /// The ledger comes from a backup: gives back what ran then, publishes what waits, and numbers the next attempts so
        /// that none that was granted after the backup can commit in their place. Once after each restore.
        #[arg(long)]
        restored: bool,
    },
}

/// What becomes of a job that fits no worker there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Unfit {
    /// It is rejected and says what is missing.
    Reject,
    /// It waits for a worker that fits.
    Wait,
}

/// What becomes of jobs that wait for a job which ends without completing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ParentFailure {
    /// They fail too: dead letters, each with its parent's name.
    Fail,
    /// They are cancelled.
    Skip,
}

impl Settings {
    /// How the ledger is reached, reads and decides.
    ///
    /// # Errors
    /// When the scenario file or the callbacks' secrets cannot be used.
    pub fn ledger(&self) -> anyhow::Result<LedgerSettings> {
        let catalog = self.scenario_file.as_deref().map_or_else(|| Ok(Catalog::default()), scenarios::load)?;
        Ok(LedgerSettings {
            catalog: Arc::new(catalog),
            secrets: Arc::new(self.secrets()?),
            prices: Prices {
                core_hour: self.price_core_hour,
                gb_hour: self.price_gb_hour,
                worker_hour: self.price_worker_hour,
                kwh: self.price_kwh,
                currency: self.currency.clone(),
            },
            database_url: self.database_url.clone(),
            migration_url: self.migration_database_url.clone(),
            amqp_tenants: self.amqp_tenants,
            policy: Policy {
                lease: Duration::from_secs(self.lease_secs.into()),
                backoff: Backoff {
                    base: Duration::from_secs_f64(self.backoff_base_secs),
                    factor: self.backoff_factor,
                    cap: Duration::from_secs_f64(self.backoff_cap_secs),
                },
                loss_limit: self.loss_limit,
            },
        })
    }
}

impl Settings {
    /// How long what has ended is kept.
    #[must_use]
    pub fn retention(&self) -> Retention {
        Retention { ended: self.keep_ended_days, dead: self.keep_dead_days }
    }

    /// How requests to the API are limited.
    #[must_use]
    pub fn throttle(&self) -> ThrottleRules {
        ThrottleRules {
            limits: RateLimits {
                address: self.rate_address,
                key: self.rate_key,
                tenant: self.rate_tenant,
                failed: self.rate_failed,
            },
            streams: StreamLimits {
                per_key: usize::try_from(self.streams_per_key).unwrap_or(usize::MAX),
                per_tenant: usize::try_from(self.streams_per_tenant).unwrap_or(usize::MAX),
            },
            trusted_proxies: self.trusted_proxies.clone().into(),
            proxy_header: self.proxy_header,
        }
    }

    fn secrets(&self) -> anyhow::Result<Secrets> {
        // Not by clap, which would print what it cannot read.
        let read = self.callback_secret.iter().map(|text| text.parse::<CallbackSecret>());
        let secrets = read.collect::<Result<Vec<_>, _>>().and_then(Secrets::new);
        secrets.map_err(|why| WrongSetting::new(format!("FFPOOL_CALLBACK_SECRET cannot be used: {why}")).into())
    }

    /// How callbacks are sent.
    pub(crate) fn callbacks(&self) -> anyhow::Result<CallbackRules> {
        /// Longest wait between two tries, before jitter.
        const CAP: Duration = Duration::from_secs(3600);
        Ok(CallbackRules {
            allowed: self.callback_allow.clone().into(),
            secrets: Arc::new(self.secrets()?),
            backoff: Backoff { base: Duration::from_secs_f64(self.callback_base_secs), factor: 2.0, cap: CAP },
            give_up: Duration::from_secs_f64(self.callback_give_up_secs),
        })
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let secs: f64 = text.parse().map_err(|_| "a number of seconds is expected".to_owned())?;
    if (0.0..=31_536_000.0).contains(&secs) { Ok(secs) } else { Err("0 to 31536000 seconds are expected".to_owned()) }
}

fn price(text: &str) -> Result<f64, String> {
    let price: f64 = text.parse().map_err(|_| "an amount such as 0.04 is expected".to_owned())?;
    if (0.0..=1e9).contains(&price) { Ok(price) } else { Err("an amount from 0 to 1000000000 is expected".to_owned()) }
}

fn factor(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|_| "a number is expected".to_owned())?;
    if (1.0..=100.0).contains(&factor) { Ok(factor) } else { Err("1 to 100 is expected".to_owned()) }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn a_secret_that_cannot_be_used_is_not_printed() {
        #[derive(Debug, clap::Parser)]
        struct Line {
            #[command(flatten)]
            settings: Settings,
        }
        let flags = ["x", "--amqp-url=amqp://h", "--nats-url=nats://h", "--database-url=postgres://h"];
        let with = |secret: &str| {
            let secret = format!("--callback-secret={secret}");
            let line = Line::try_parse_from(flags.into_iter().chain([secret.as_str()])).unwrap();
            line.settings.secrets().map(drop).map_err(|error| error.to_string())
        };
        with("k1:0123456789abcdef0123").unwrap();
        // A comma in a secret parts it in two.
        let said = with("k1:0123456789abcdef0123,hunter2hunter2hunter2").unwrap_err();
        assert!(said.contains("FFPOOL_CALLBACK_SECRET") && !said.contains("hunter2"), "{said}");
    }
}
