//! `ffpool-dispatcher keys`: making, listing and revoking API keys beside a running dispatcher.

use std::fmt::Write as _;

use serde_json::json;

use crate::ledger::Ledger;
use crate::ledger::keys::{KeyError, Role};

/// In whose name the audit has what is done here: whoever may run the program has no key yet.
const WHO: &str = "ffpool-dispatcher keys";

/// What to do with the keys.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum KeyCommand {
    /// Make a key and print it, once.
    #[command(after_help = "Example:\n  ffpool-dispatcher keys create --name encoder-app --role submitter")]
    Create {
        /// A name that tells whose key it is; it stands in the history of what the key does.
        #[arg(long)]
        name: String,
        /// viewer, submitter, operator or admin; each has the rights of those before it.
        #[arg(long)]
        role: Role,
    },
    /// List the keys; their texts are stored nowhere.
    List,
    /// Make a key void at once.
    Revoke {
        /// The key's name.
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
        match self {
            KeyCommand::Create { name, role } => {
                let key = ledger.create_key(name, *role).await?;
                ledger.audit(WHO, "create_key", name, json!({"role": role.as_str()})).await;
                Ok(format!("{}\n", key.text()))
            }
            KeyCommand::List => {
                let mut table =
                    format!("{:<24} {:<10} {:<10} {:<8} {}\n", "NAME", "ROLE", "PREFIX", "STATE", "LAST USED");
                for key in ledger.keys().await? {
                    let state = if key.is_valid { "valid" } else { "revoked" };
                    let used = key.last_used_at.map_or_else(|| "never".to_owned(), |at| format!("{at:.0}"));
                    writeln!(table, "{:<24} {:<10} {:<10} {state:<8} {used}", key.name, key.role.as_str(), key.prefix)
                        .expect("a text takes more text");
                }
                Ok(table)
            }
            KeyCommand::Revoke { name } => {
                ledger.revoke_key(name).await?;
                ledger.audit(WHO, "revoke_key", name, json!({})).await;
                Ok(format!("the key `{name}` is void\n"))
            }
        }
    }
}
