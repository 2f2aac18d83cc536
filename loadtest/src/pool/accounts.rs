//! How each part of a pool logs in: all of them as one that may do everything, or each with the least rights, as
//! `compose/rights` makes them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use ffpool_schema::rights::Account;
use ffpool_stack::{Rabbit, Stack};

/// The same for all: what is tried here are rights, and that it is seen nowhere.
pub const PASSWORD: &str = "planted-password-9c41";

/// Where a part finds its servers, its login in each address.
#[derive(Debug, Clone)]
pub(super) struct Links {
    pub(super) amqp: String,
    pub(super) nats: String,
    /// A worker has none.
    pub(super) database: Option<String>,
}

/// The logins of a pool.
#[derive(Debug, Clone)]
pub(super) struct Accounts {
    pub(super) dispatcher: Links,
    pub(super) worker: Links,
    /// Who submits and looks on.
    pub(super) client: Links,
    /// Owns the ledger's tables, where that is an account of its own.
    pub(super) owner: Option<String>,
}

impl Accounts {
    /// All parts as the servers' administrator.
    pub(super) fn one(amqp: &str, nats: &str, database: &str) -> Accounts {
        let links = Links { amqp: amqp.into(), nats: nats.into(), database: Some(database.into()) };
        Accounts { dispatcher: links.clone(), worker: links.clone(), client: links, owner: None }
    }

    /// Makes an account for each part. `nats` was started with [`nats_settings`].
    pub(super) fn least(stack: &Stack, nats: &Stack, amqp: &str, database: &str) -> anyhow::Result<Accounts> {
        import(&stack.rabbit, amqp)?;
        let names = ["OWNER", "DISPATCHER", "DOCTOR"].map(|name| format!("POSTGRES_{name}_PASSWORD"));
        apply(&["postgres", database], &names, &[])?;
        let of = |account: Account, at_amqp: Account, at_postgres: Option<&str>| Links {
            amqp: amqp.replace("guest:guest", &format!("{}:{PASSWORD}", at_amqp.login())),
            nats: nats.nats.url_of(account.login(), PASSWORD),
            database: at_postgres.map(|role| database.replace("ffpool@", &format!("{role}:{PASSWORD}@"))),
        };
        Ok(Accounts {
            dispatcher: of(Account::Dispatcher, Account::Dispatcher, Some("ffpool_dispatcher")),
            worker: of(Account::Worker, Account::Worker, None),
            client: of(Account::Client, Account::Producer, Some("ffpool_doctor")),
            owner: of(Account::Dispatcher, Account::Dispatcher, Some("ffpool_owner")).database,
        })
    }
}

/// What NATS is told of the accounts.
pub(super) fn nats_settings() -> String {
    let text = include_str!("../../../compose/rights/nats.conf");
    let words = text.split_inclusive(char::is_whitespace).map(|word| {
        let end = word.trim_end().len();
        if word.starts_with('$') { format!("{PASSWORD}{}", &word[end..]) } else { word.to_owned() }
    });
    words.collect()
}

fn import(rabbit: &Rabbit, amqp: &str) -> anyhow::Result<()> {
    let vhost = amqp.rsplit_once('/').context("the URL names a vhost")?.1;
    let names = ["PRODUCER", "WORKER", "DISPATCHER"].map(|name| format!("RABBITMQ_{name}_PASSWORD"));
    let definitions = apply(&["definitions"], &names, &[("RABBITMQ_VHOST", vhost)])?;
    Ok(rabbit.import(&definitions)?)
}

/// Runs `compose/rights/apply` with passwords under these names.
fn apply(arguments: &[&str], passwords: &[String], variables: &[(&str, &str)]) -> anyhow::Result<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../compose/rights/apply");
    let mut command = Command::new("sh");
    command.arg(script).args(arguments).envs(variables.iter().copied());
    command.envs(passwords.iter().map(|name| (name, PASSWORD)));
    let done = command.output().context("run compose/rights/apply")?;
    ensure!(done.status.success(), "compose/rights/apply: {}", String::from_utf8_lossy(&done.stderr));
    Ok(String::from_utf8(done.stdout)?)
}
