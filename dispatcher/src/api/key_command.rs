//! `ffpool-dispatcher keys`: making, listing, rotating and revoking API keys beside a running dispatcher, also when the API
//! takes no key any more.

use std::fmt::Write as _;

use ffpool_schema::access::{Permit, Right};
use ffpool_schema::expiry::Expiry;
use jiff::{SignedDuration, Timestamp};

use crate::ledger::keys::{KeyError, NewKey, OVERLAP, Role};
use crate::ledger::{Actor, Ledger, Realm};

/// In whose name the audit has what is done here: whoever may run the program has no key yet.
const WHO: &str = "ffpool-dispatcher keys";

/// What to do with the keys.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum KeyCommand {
    /// Make a key and print it, once.
    #[command(
        after_help = "Example:\n  ffpool-dispatcher keys create --name encoder-app --role submitter --expires 90d"
    )]
    Create {
        /// A name that tells whose key it is; it stands in the history of what the key does.
        #[arg(long)]
        name: String,
        /// viewer, submitter, operator or admin; each has the rights of those before it.
        #[arg(long)]
        role: Role,
        /// Only these rights of the role, with commas: read, submit, control, administer. Default: all of them.
        #[arg(long, value_delimiter = ',', value_name = "RIGHTS")]
        scopes: Option<Vec<Right>>,
        /// Only this tenant's jobs. Default: everybody's.
        #[arg(long)]
        tenant: Option<String>,
        /// When it ends: after `90d` or `12h`, or at a date such as `2027-03-01`. Default: never.
        #[arg(long, value_name = "WHEN")]
        expires: Option<Expiry>,
    },
    /// List the keys; their texts are stored nowhere.
    List,
    /// Make a new key in place of an old one and print it, once. The old one opens beside it for a while.
    #[command(after_help = "Example:\n  ffpool-dispatcher keys rotate --name encoder-app --overlap 2h")]
    Rotate {
        /// The key's name or its prefix.
        #[arg(long)]
        name: String,
        /// How long the old one opens beside it, such as `2h`; `0s` ends it at once. Default: a day.
        #[arg(long, value_name = "TIME")]
        overlap: Option<SignedDuration>,
        /// When the new one ends. Default: it lives as long as the old one was made for.
        #[arg(long, value_name = "WHEN")]
        expires: Option<Expiry>,
    },
    /// Make a key void at once.
    Revoke {
        /// The key's name, or its prefix.
        #[arg(long)]
        name: String,
    },
}

impl KeyCommand {
    /// Does it; gives what is to be printed.
    ///
    /// # Errors
    /// When the name cannot be used, or the ledger does not answer.
    pub async fn run(&self, ledger: &Ledger) -> Result<String, KeyError> {
        let (console, everything) = (Actor::of_pool(WHO), Permit::of(Role::Admin));
        let at = |expires: &Option<Expiry>| expires.map(|expiry| expiry.from(Timestamp::now()));
        match self {
            KeyCommand::Create { name, role, scopes, tenant, expires } => {
                let new = NewKey {
                    name: name.clone(),
                    permit: Permit { role: *role, scopes: scopes.clone() },
                    tenant: tenant.clone(),
                    expires_at: at(expires),
                };
                let (key, _) = ledger.create_key(&new, &console, &everything).await?;
                Ok(format!("{}\n", key.text()))
            }
            KeyCommand::List => list(ledger).await,
            KeyCommand::Rotate { name, overlap, expires } => {
                let overlap = overlap.map_or(OVERLAP, |overlap| overlap.max(SignedDuration::ZERO));
                let (key, _) = ledger.rotate_key(name, overlap, at(expires), &console, &everything).await?;
                Ok(format!("{}\n", key.text()))
            }
            KeyCommand::Revoke { name } => {
                ledger.revoke_key(name, &console).await?;
                Ok(format!("the key `{name}` is void\n"))
            }
        }
    }
}

async fn list(ledger: &Ledger) -> Result<String, KeyError> {
    let mut table = format!(
        "{:<24} {:<28} {:<10} {:<16} {:<16} {:<20} {}\n",
        "NAME", "ROLE", "PREFIX", "TENANT", "STATE", "EXPIRES", "LAST USED"
    );
    let told = |at: Option<Timestamp>| at.map_or_else(|| "never".to_owned(), |at| format!("{at:.0}"));
    for key in ledger.keys(&Realm::Pool).await? {
        let tenant = key.tenant.as_deref().unwrap_or("-");
        let (role, state) = (key.rights(), key.state.as_str());
        let (expires, used) = (told(key.expires_at), told(key.last_used_at));
        writeln!(table, "{:<24} {role:<28} {:<10} {tenant:<16} {state:<16} {expires:<20} {used}", key.name, key.prefix)
            .expect("a text takes more text");
    }
    Ok(table)
}
