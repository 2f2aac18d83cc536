//! API keys: minted, stored as hashes, found again by their prefix.
//!
//! Invariant: the text of a key is seen by whoever mints it and is nowhere stored or logged, except for the one key that
//! a fresh installation without any prints at its first start.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use rand::RngExt as _;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use super::Ledger;
use super::read::{ReadError, bounded, named};

/// Shortest `FFPOOL_BOOTSTRAP_KEY` that is accepted. Keys are stored as plain sha256, so a guessable one would be found.
pub const BOOTSTRAP_KEY_MIN: usize = 16;

/// Name of the key that comes from the settings.
const BOOTSTRAP: &str = "bootstrap";
/// Prefix under which a key of foreign form is found. No minted prefix has this length.
const FOREIGN_PREFIX: &str = "foreign";
/// Serialises the first start of several dispatchers, so that one of them mints the first key. The number is arbitrary.
const FIRST_KEY_LOCK: i64 = 0x6666_706f_6f6c_6b31;

/// What the owner of a key may do; each role has all rights of those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads.
    Viewer,
    /// Hands in jobs.
    Submitter,
    /// Controls jobs and workers.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    /// Every role, least first.
    pub const ALL: [Role; 4] = [Role::Viewer, Role::Submitter, Role::Operator, Role::Admin];

    /// The name as it stands in columns and on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Submitter => "submitter",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Role, UnknownRole> {
        Role::ALL.into_iter().find(|role| role.as_str() == text).ok_or(UnknownRole)
    }
}

/// A text that names no role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("one of viewer, submitter, operator, admin is expected")]
pub struct UnknownRole;

/// Whose key a request carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The key's name; it stands in the history of jobs.
    pub name: String,
    /// What it may do.
    pub role: Role,
}

/// A key as it stands in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// Its name.
    pub name: String,
    /// The part of its text by which it is found.
    pub prefix: String,
    /// What it may do.
    pub role: Role,
    /// Whether it opens anything: it is neither revoked nor expired.
    pub is_valid: bool,
    /// When it was last used, to ten minutes.
    pub last_used_at: Option<Timestamp>,
}

/// A new key. Its text is shown once.
pub struct MintedKey {
    text: String,
}

impl MintedKey {
    /// 256 random bits behind a random prefix: `ffp_<prefix>_<secret>`.
    #[must_use]
    pub fn mint() -> MintedKey {
        let mut random = rand::rng();
        let prefix: [u8; 5] = random.random();
        let secret: [u8; 32] = random.random();
        MintedKey {
            text: format!("ffp_{}_{}", ffpool_schema::message::hex(&prefix), ffpool_schema::message::hex(&secret)),
        }
    }

    /// The text to give to its owner.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Why a key could not be made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is one of this name.
    #[error("there is a key named `{0}`: choose another name")]
    NameTaken(String),
    /// There is none of this name.
    #[error("no valid key is named `{0}`: `keys list` shows all")]
    Unknown(String),
    /// The name is empty or too long.
    #[error("a key's name has 1 to 64 characters")]
    BadName,
    /// The bootstrap key can be guessed.
    #[error(
        "FFPOOL_BOOTSTRAP_KEY has {0} characters; at least {BOOTSTRAP_KEY_MIN} are needed, such as `openssl rand -hex 32` makes"
    )]
    TooShort(usize),
    /// The ledger does not answer.
    #[error(transparent)]
    Ledger(#[from] ReadError),
}

/// The part of a key by which its row is found; not secret.
fn prefix_of(key: &str) -> &str {
    key.strip_prefix("ffp_")
        .and_then(|rest| rest.split_once('_'))
        .map(|(prefix, _)| prefix)
        .filter(|prefix| (8..=32).contains(&prefix.len()))
        .unwrap_or(FOREIGN_PREFIX)
}

fn hash_of(key: &str) -> Vec<u8> {
    Sha256::digest(key.as_bytes()).to_vec()
}

impl Ledger {
    /// Whose key this is. `None`: nobody's, revoked, or expired.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn caller(&self, key: &str) -> Result<Option<Caller>, ReadError> {
        bounded(async {
            let client = self.pool().get().await?;
            let row = client.query_opt(&client.prepare_cached(FIND).await?, &[&prefix_of(key)]).await?;
            let Some(row) = row else { return Ok(None) };
            let stored: Vec<u8> = row.try_get("hash")?;
            if !bool::from(stored.ct_eq(&hash_of(key))) {
                return Ok(None);
            }
            if row.try_get("use_is_stale")? {
                client.execute(&client.prepare_cached(TOUCH).await?, &[&prefix_of(key)]).await?;
            }
            Ok(Some(Caller { name: row.try_get("name")?, role: named(&row, "role")? }))
        })
        .await
    }

    /// Makes a key.
    ///
    /// # Errors
    /// A name that is taken or no name, or a ledger that cannot be written.
    pub async fn create_key(&self, name: &str, role: Role) -> Result<MintedKey, KeyError> {
        if !(1..=64).contains(&name.chars().count()) {
            return Err(KeyError::BadName);
        }
        let key = MintedKey::mint();
        let stored = bounded(async {
            let client = self.pool().get().await?;
            Ok(client
                .execute(
                    INSERT,
                    &[&Uuid::now_v7(), &name, &prefix_of(key.text()), &hash_of(key.text()), &role.as_str()],
                )
                .await?)
        })
        .await?;
        if stored == 0 { Err(KeyError::NameTaken(name.to_owned())) } else { Ok(key) }
    }

    /// Every key, by name.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn keys(&self) -> Result<Vec<StoredKey>, ReadError> {
        bounded(async {
            let client = self.pool().get().await?;
            let rows = client.query(LIST, &[]).await?;
            rows.iter()
                .map(|row| {
                    Ok(StoredKey {
                        name: row.try_get("name")?,
                        prefix: row.try_get("prefix")?,
                        role: named(row, "role")?,
                        is_valid: row.try_get("is_valid")?,
                        last_used_at: row.try_get("last_used_at")?,
                    })
                })
                .collect()
        })
        .await
    }

    /// Makes a key void. Its name stays taken, because it stands in the history.
    ///
    /// # Errors
    /// When there is no valid key of this name, or the ledger cannot be written.
    pub async fn revoke_key(&self, name: &str) -> Result<(), KeyError> {
        let revoked = bounded(async { Ok(self.pool().get().await?.execute(REVOKE, &[&name]).await?) }).await?;
        if revoked == 0 { Err(KeyError::Unknown(name.to_owned())) } else { Ok(()) }
    }

    /// Prepares the keys at the start: stores the key of the settings as an administrator's, in place of the one of an
    /// earlier start. Without one, and without any other key, mints the first; the caller shows it.
    ///
    /// # Errors
    /// A bootstrap key that is too short, or a ledger that cannot be written.
    pub async fn install_keys(&self, bootstrap: Option<&str>) -> Result<Option<MintedKey>, KeyError> {
        if let Some(key) = bootstrap {
            let length = key.chars().count();
            if length < BOOTSTRAP_KEY_MIN {
                return Err(KeyError::TooShort(length));
            }
        }
        let minted = bounded(async {
            let mut client = self.pool().get().await?;
            let transaction = client.transaction().await?;
            transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&FIRST_KEY_LOCK]).await?;
            let minted = match bootstrap {
                Some(key) => {
                    // Somebody may have put a minted key into the settings: one prefix, one row.
                    transaction.execute(MAKE_ROOM, &[&prefix_of(key), &BOOTSTRAP]).await?;
                    transaction
                        .execute(REPLACE_BOOTSTRAP, &[&Uuid::now_v7(), &BOOTSTRAP, &prefix_of(key), &hash_of(key)])
                        .await?;
                    None
                }
                None if transaction.query_opt("SELECT FROM api_key LIMIT 1", &[]).await?.is_some() => None,
                None => {
                    let key = MintedKey::mint();
                    let role = Role::Admin.as_str();
                    transaction
                        .execute(
                            INSERT,
                            &[&Uuid::now_v7(), &"first", &prefix_of(key.text()), &hash_of(key.text()), &role],
                        )
                        .await?;
                    Some(key)
                }
            };
            transaction.commit().await?;
            Ok(minted)
        })
        .await?;
        Ok(minted)
    }
}

// A key that is bound to a tenant opens nothing: which jobs it may see is not decided anywhere yet.
const FIND: &str = "SELECT name, hash, role, \
            last_used_at IS NULL OR last_used_at < now() - interval '10 minutes' AS use_is_stale \
     FROM api_key \
     WHERE prefix = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) AND tenant IS NULL";

const LIST: &str = "SELECT name, prefix, role, last_used_at, \
            revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) AS is_valid \
     FROM api_key ORDER BY name";

const REVOKE: &str = "UPDATE api_key SET revoked_at = now() WHERE name = $1 AND revoked_at IS NULL";

const TOUCH: &str = "UPDATE api_key SET last_used_at = now() WHERE prefix = $1";

const INSERT: &str =
    "INSERT INTO api_key (id, name, prefix, hash, role) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (name) DO NOTHING";

const MAKE_ROOM: &str = "DELETE FROM api_key WHERE prefix = $1 AND name <> $2";

const REPLACE_BOOTSTRAP: &str = "INSERT INTO api_key (id, name, prefix, hash, role) VALUES ($1, $2, $3, $4, 'admin') \
     ON CONFLICT (name) DO UPDATE SET prefix = excluded.prefix, hash = excluded.hash, revoked_at = NULL";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minted_key_is_found_by_its_prefix_and_any_other_text_by_one_place() {
        let key = MintedKey::mint();
        assert_eq!(key.text().len(), "ffp_".len() + 10 + "_".len() + 64);
        assert_eq!(prefix_of(key.text()), &key.text()[4..14]);
        for foreign in ["", "ffp_", "ffp__x", "ffp_short_x", "k0123456789abcdef", "ффп_ключ_ключ"] {
            assert_eq!(prefix_of(foreign), FOREIGN_PREFIX, "{foreign}");
        }
    }
}
