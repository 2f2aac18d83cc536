//! `keys` and `tenants`: who may do what, through the API.
//!
//! Invariant: the text of a key reaches standard output and nothing else, once.

use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use ffpool_schema::access::{Right, Role};
use ffpool_schema::api::{KeyRequest, KeyView, NewKeyView, RotateRequest, TenantChange, TenantRequest, TenantView};
use ffpool_schema::expiry::Expiry;
use jiff::Timestamp;

use super::args::time;
use super::exit::{Exit, Trouble};
use super::output::{fields, table};
use super::{Context, format};

pub(crate) const KEYS: &str = "\
Examples:
  ffpool keys create encoder-app --role submitter --expires 90d
  ffpool keys create acme-admin --role admin --tenant acme
  ffpool keys rotate encoder-app --overlap 2h
  ffpool keys revoke encoder-app

A key is named by its owner's name or by its prefix; `keys list` shows both.";

pub(crate) const TENANTS: &str = "\
Examples:
  ffpool tenants create acme --max-queued 1000 --max-running 20
  ffpool tenants set acme --max-running 20 --max-queued none
  ffpool tenants disable acme";

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// List the keys; their texts are stored nowhere.
    #[command(visible_alias = "ls", after_help = "Examples:\n  ffpool keys list\n  ffpool keys list --output json")]
    List,
    /// Make a key and print it, once.
    #[command(
        after_help = "Examples:\n  ffpool keys create encoder-app --role submitter --scopes submit --expires 90d\n  ffpool keys create acme-admin --role admin --tenant acme"
    )]
    Create {
        /// Whose key it is; it stands in the history of what the key does.
        name: String,
        /// viewer, submitter, operator or admin; each has the rights of those before it.
        #[arg(long)]
        role: Role,
        /// Only these rights of the role, with commas: read, submit, control, administer. Default: all of them.
        #[arg(long, value_delimiter = ',', value_name = "RIGHTS")]
        scopes: Option<Vec<Right>>,
        /// Only this tenant's jobs. Default: those that the key which makes it sees.
        #[arg(long)]
        tenant: Option<String>,
        /// When it ends: after `90d` or `12h`, or at a date such as `2027-03-01`. Default: never.
        #[arg(long, value_name = "WHEN")]
        expires: Option<Expiry>,
    },
    /// Make a new key in place of an old one and print it, once. The old one opens beside it for a while.
    #[command(
        after_help = "Examples:\n  ffpool keys rotate encoder-app --overlap 2h\n  ffpool keys rotate 3f9a1c07be --expires 2027-03-01"
    )]
    Rotate {
        /// The key's name or its prefix.
        key: String,
        /// How long the old one opens beside it, such as `2h` or `3d`; `0s` ends it at once. Default: a day.
        #[arg(long, value_name = "TIME", value_parser = overlap)]
        overlap: Option<u32>,
        /// When the new one ends. Default: it lives as long as the old one was made for.
        #[arg(long, value_name = "WHEN")]
        expires: Option<Expiry>,
    },
    /// Make keys void at once: all of a name, or the one with a prefix.
    #[command(
        visible_alias = "rm",
        after_help = "Examples:\n  ffpool keys revoke encoder-app\n  ffpool keys revoke 3f9a1c07be"
    )]
    Revoke {
        /// Names or prefixes.
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Tenants {
    /// List the tenants with what they may have.
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  ffpool tenants list\n  ffpool tenants list --output json"
    )]
    List,
    /// Show one.
    #[command(after_help = "Examples:\n  ffpool tenants show acme")]
    Show {
        /// Its name.
        name: String,
    },
    /// Make one.
    #[command(after_help = "Examples:\n  ffpool tenants create acme --weight 2 --max-queued 1000 --amqp-user acme")]
    Create {
        /// 1 to 64 letters, digits, `-` or `_`.
        name: String,
        #[command(flatten)]
        limits: Limits,
    },
    /// Change what one may have; what is not given stays as it is.
    #[command(
        after_help = "Examples:\n  ffpool tenants set acme --max-running 20\n  ffpool tenants set acme --max-queued none"
    )]
    Set {
        /// Its name.
        name: String,
        #[command(flatten)]
        limits: Limits,
    },
    /// Disable one: its keys open nothing and its schedules make no jobs. Its jobs stay.
    #[command(after_help = "Examples:\n  ffpool tenants disable acme")]
    Disable {
        /// Its name.
        name: String,
    },
    /// Let a disabled one go on.
    #[command(after_help = "Examples:\n  ffpool tenants enable acme")]
    Enable {
        /// Its name.
        name: String,
    },
}

/// Seconds, as many as the API takes.
fn overlap(text: &str) -> Result<u32, String> {
    const EXPECTED: &str = "a time of whole seconds such as 2h, 3d or 0s is expected";
    let time = time::within(text, Duration::ZERO..=Duration::from_secs(u32::MAX.into()), EXPECTED)?;
    // Cut off, what is less than a second would end the old key at once.
    let secs = u32::try_from(time.as_secs()).ok().filter(|_| time.subsec_nanos() == 0);
    secs.ok_or_else(|| EXPECTED.to_owned())
}

/// A value, or `none`.
#[derive(Debug, Clone)]
pub(crate) struct OrNone<T>(Option<T>);

impl<T: FromStr> FromStr for OrNone<T>
where
    T::Err: std::fmt::Display,
{
    type Err = String;

    fn from_str(text: &str) -> Result<OrNone<T>, String> {
        if text == "none" {
            return Ok(OrNone(None));
        }
        text.parse().map(|value| OrNone(Some(value))).map_err(|error| format!("{error}; a value or `none` is expected"))
    }
}

/// What a tenant may have.
#[derive(Debug, Args)]
pub(crate) struct Limits {
    /// Its share where tenants want the same slots: 1 to 1000.
    #[arg(long)]
    weight: Option<i32>,
    /// Jobs that wait, or `none`.
    #[arg(long, value_name = "COUNT")]
    max_queued: Option<OrNone<i64>>,
    /// Jobs that run, or `none`.
    #[arg(long, value_name = "COUNT")]
    max_running: Option<OrNone<i64>>,
    /// Processor cores of its running jobs together, or `none`.
    #[arg(long, value_name = "CORES")]
    max_cpu_cores: Option<OrNone<f64>>,
    /// Storage of what its jobs published in MiB, or `none`.
    #[arg(long, value_name = "MIB")]
    max_storage_mb: Option<OrNone<i64>>,
    /// Requests to the API in a second, or `none`.
    #[arg(long, value_name = "RATE")]
    requests_per_sec: Option<OrNone<f64>>,
    /// The RabbitMQ user whose messages are its, or `none`.
    #[arg(long, value_name = "USER")]
    amqp_user: Option<OrNone<String>>,
}

impl From<Limits> for TenantChange {
    fn from(limits: Limits) -> TenantChange {
        TenantChange {
            weight: limits.weight,
            max_queued: limits.max_queued.map(|limit| limit.0),
            max_running: limits.max_running.map(|limit| limit.0),
            max_cpu_cores: limits.max_cpu_cores.map(|limit| limit.0),
            max_storage_mb: limits.max_storage_mb.map(|limit| limit.0),
            requests_per_sec: limits.requests_per_sec.map(|limit| limit.0),
            amqp_user: limits.amqp_user.map(|user| user.0),
        }
    }
}

pub(crate) async fn keys(context: &Context, command: Keys) -> Result<Exit, Trouble> {
    let client = context.client()?;
    let at = |expires: Option<Expiry>| expires.map(|expiry| expiry.from(Timestamp::now()));
    match command {
        Keys::List => context.format.print(&client.keys().await?, |keys| key_table(keys)),
        Keys::Create { name, role, scopes, tenant, expires } => {
            let request = KeyRequest { name, role, scopes, tenant, expires_at: at(expires) };
            show_once(context, &client.create_key(&request).await?);
        }
        Keys::Rotate { key, overlap, expires } => {
            let request = RotateRequest { overlap_secs: overlap, expires_at: at(expires) };
            show_once(context, &client.rotate_key(&key, &request).await?);
        }
        Keys::Revoke { keys } => {
            for key in keys {
                let accepted = client.revoke_key(&key).await?;
                context
                    .format
                    .print(&accepted, |accepted| format!("key {key}: {}. {}", accepted.state, accepted.message));
            }
        }
    }
    Ok(Exit::Success)
}

/// Prints a key's text alone, so that a script can take it.
fn show_once(context: &Context, made: &NewKeyView) {
    eprintln!("Keep the key of {}: nobody can show it again.", made.view.name);
    context.format.print(made, |made| made.key.clone());
}

pub(crate) async fn tenants(context: &Context, command: Tenants) -> Result<Exit, Trouble> {
    let client = context.client()?;
    let found = match command {
        Tenants::List => {
            context.format.print(&client.tenants().await?, |tenants| tenant_table(tenants));
            return Ok(Exit::Success);
        }
        Tenants::Show { name } => client.tenant(&name).await?,
        Tenants::Create { name, limits } => client.create_tenant(&TenantRequest { name, set: limits.into() }).await?,
        Tenants::Set { name, limits } => client.set_tenant(&name, &limits.into()).await?,
        Tenants::Disable { name } => client.disable_tenant(&name, true).await?,
        Tenants::Enable { name } => client.disable_tenant(&name, false).await?,
    };
    context.format.print(&found, shown);
    Ok(Exit::Success)
}

fn key_table(keys: &[KeyView]) -> String {
    let rows = keys.iter().map(|key| {
        [
            key.name.clone(),
            key.prefix.clone(),
            key.rights(),
            or_dash(key.tenant.clone()),
            key.state.as_str().to_owned(),
            key.expires_at.map_or("never".to_owned(), format::clock),
            key.last_used_at.map_or("never".to_owned(), format::clock),
        ]
    });
    table(["name", "prefix", "role", "tenant", "state", "expires", "last used"], rows)
}

fn tenant_table(tenants: &[TenantView]) -> String {
    let rows = tenants.iter().map(|tenant| {
        let limits = &tenant.limits;
        [
            tenant.name.clone(),
            if tenant.disabled_at.is_some() { "disabled" } else { "open" }.to_owned(),
            limits.weight.to_string(),
            limit(limits.max_queued),
            limit(limits.max_running),
            limit(limits.max_cpu_cores),
            limit(limits.max_storage_mb),
            limit(limits.requests_per_sec),
            or_dash(tenant.amqp_user.clone()),
        ]
    });
    table(["tenant", "state", "weight", "queued", "running", "cores", "storage MiB", "requests/s", "amqp user"], rows)
}

fn shown(tenant: &TenantView) -> String {
    let limits = &tenant.limits;
    fields(&[
        ("tenant", tenant.name.clone()),
        ("state", tenant.disabled_at.map_or("open".to_owned(), |at| format!("disabled since {}", format::clock(at)))),
        ("weight", limits.weight.to_string()),
        ("queued jobs", limit(limits.max_queued)),
        ("running jobs", limit(limits.max_running)),
        ("cores", limit(limits.max_cpu_cores)),
        ("storage MiB", limit(limits.max_storage_mb)),
        ("stored", format::bytes(u64::try_from(tenant.stored_bytes).unwrap_or(0))),
        ("requests/s", limit(limits.requests_per_sec)),
        ("amqp user", tenant.amqp_user.clone().unwrap_or_default()),
        ("made", format::clock(tenant.created_at)),
    ])
}

fn limit<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "no limit".to_owned(), |value| value.to_string())
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlap_is_a_time_in_days_or_less_and_no_date() {
        assert_eq!(overlap("3d"), Ok(3 * 86_400));
        assert_eq!(overlap("1h 30m"), Ok(90 * 60));
        assert_eq!(overlap("0s"), Ok(0));
        for bad in ["2027-03-01", "soon", "", "3", "-1h", "99999d", "500ms", "1.5s"] {
            assert!(overlap(bad).unwrap_err().contains("3d"), "{bad}");
        }
    }
}
