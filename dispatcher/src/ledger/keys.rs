//! API keys: minted, stored as hashes, found again by their prefix, rotated without a gap.
//!
//! Invariants: the text of a key is seen by whoever mints it and is nowhere stored or logged, except for the one key that
//! a fresh installation without any prints at its first start. Nobody makes a key that may more than their own, nor one
//! outside their realm.

use ffpool_schema::access::{Permit, Right};
use ffpool_schema::api::{KeyState, KeyView};
use jiff::{SignedDuration, Timestamp};
use rand::RngExt as _;
use serde_json::json;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::Ledger;
use super::actor::{Actor, Realm};
use super::audit::Entry;
use super::read::{ReadError, bounded, named};

pub use ffpool_schema::access::Role;

/// Shortest `FFPOOL_BOOTSTRAP_KEY` that is accepted. Keys are stored as plain sha256, so a guessable one would be found.
pub const BOOTSTRAP_KEY_MIN: usize = 16;
/// How long the keys before it open beside a new one, if nobody says.
pub const OVERLAP: SignedDuration = SignedDuration::from_hours(24);

/// Name of the key that comes from the settings.
const BOOTSTRAP: &str = "bootstrap";
/// Random bytes of a minted key's prefix.
const PREFIX_BYTES: usize = 5;
/// Prefix under which a key of foreign form is found. No minted prefix has this length.
const FOREIGN_PREFIX: &str = "foreign";
/// Serialises the first start of several dispatchers, so that one of them mints the first key. The number is arbitrary.
const FIRST_KEY_LOCK: i64 = 0x6666_706f_6f6c_6b31;
/// Keys that are listed at most, the newest.
const KEYS_MAX: i64 = 10_000;

/// Whose key a request carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The key's row; absent where something other than a key says who it is.
    pub key: Option<Uuid>,
    /// The key's name, its realm, and where the request came from.
    pub actor: Actor,
    /// What it may do.
    pub permit: Permit,
}

impl Caller {
    /// The tenant that the key is bound to.
    #[must_use]
    pub fn tenant(&self) -> Option<&str> {
        self.actor.realm.tenant()
    }

    /// Whose realm it is.
    #[must_use]
    pub fn realm(&self) -> &Realm {
        &self.actor.realm
    }
}

/// What a presented key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// A valid key.
    Valid(Caller),
    /// A key that opened something once.
    Void {
        /// Whose it is.
        caller: Caller,
        /// Why it opens nothing.
        state: KeyState,
    },
    /// Nobody's.
    Unknown,
}

/// What a new key shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// Whose key it is.
    pub name: String,
    /// What it may do.
    pub permit: Permit,
    /// The tenant that it is bound to.
    pub tenant: Option<String>,
    /// From when it opens nothing.
    pub expires_at: Option<Timestamp>,
}

impl NewKey {
    /// A key for the whole pool that does not expire.
    #[must_use]
    pub fn of(name: impl Into<String>, role: Role) -> NewKey {
        NewKey { name: name.into(), permit: Permit::of(role), tenant: None, expires_at: None }
    }

    /// The same for a tenant alone.
    #[must_use]
    pub fn of_tenant(self, tenant: impl Into<String>) -> NewKey {
        NewKey { tenant: Some(tenant.into()), ..self }
    }
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
        let prefix: [u8; PREFIX_BYTES] = random.random();
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
    /// There is none of this name or prefix.
    #[error("no valid key is named `{0}` or has this prefix: `keys list` shows all")]
    Unknown(String),
    /// Several owners have keys of this name.
    #[error("`{0}` may mean the keys with the prefixes {1}: name one by its prefix")]
    Ambiguous(String, String),
    /// The name is empty or too long.
    #[error("a key's name has 1 to 64 characters")]
    BadName,
    /// It could be taken for another key's prefix.
    #[error("`{0}` looks like the prefix of a key, by which keys are named too: choose another name")]
    LikePrefix(String),
    /// A right that the role does not have.
    #[error("the role {0} has no right to {1}, so no scope can give it: choose another role, or leave the scope out")]
    BeyondRole(Role, Right),
    /// No right at all.
    #[error("a key without any right opens nothing: give at least one scope, or leave the scopes out")]
    NoScope,
    /// More than the key that would make it.
    #[error("the key would have rights that the key which makes it has not: ask somebody who has them")]
    BeyondMaker,
    /// It would be another tenant's.
    #[error("the key that makes it is bound to the tenant `{0}` and makes keys of this tenant alone")]
    OtherTenant(String),
    /// There is no such tenant.
    #[error("there is no tenant `{0}`: make it first, `tenants create` does it")]
    NoTenant(String),
    /// It would be void from the start.
    #[error("the key would expire at {0}, which is past")]
    Past(Timestamp),
    /// It comes from the settings.
    #[error("the key `{BOOTSTRAP}` comes from FFPOOL_BOOTSTRAP_KEY: change it there and start the dispatchers again")]
    OfSettings,
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

/// Whether a text may be a minted key's prefix, or is that of a foreign one.
fn is_like_prefix(text: &str) -> bool {
    text == FOREIGN_PREFIX || text.len() == 2 * PREFIX_BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn hash_of(key: &str) -> Vec<u8> {
    Sha256::digest(key.as_bytes()).to_vec()
}

impl Ledger {
    /// Whose key this is, and whether it opens anything. The caller's address is for the caller to fill in.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn admit(&self, key: &str) -> Result<Admission, ReadError> {
        bounded(async {
            let client = self.pool().get().await?;
            let row = client.query_opt(&client.prepare_cached(FIND).await?, &[&prefix_of(key)]).await?;
            let Some(row) = row else { return Ok(Admission::Unknown) };
            let stored: Vec<u8> = row.try_get("hash")?;
            if !bool::from(stored.ct_eq(&hash_of(key))) {
                return Ok(Admission::Unknown);
            }
            let (caller, state) = standing(&row)?;
            if state != KeyState::Valid {
                return Ok(Admission::Void { caller, state });
            }
            if row.try_get("use_is_stale")? {
                client.execute(&client.prepare_cached(TOUCH).await?, &[&caller.key]).await?;
            }
            Ok(Admission::Valid(caller))
        })
        .await
    }

    /// Whether a key that was good once still opens anything.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn key_opens(&self, key: Uuid) -> Result<bool, ReadError> {
        bounded(async {
            let client = self.pool().get().await?;
            let row = client.query_opt(&client.prepare_cached(STATE).await?, &[&key]).await?;
            Ok(row.as_ref().map(key_view).transpose()?.is_some_and(|view| view.state == KeyState::Valid))
        })
        .await
    }

    /// Makes a key in the name of `maker`, who may do what `ceiling` says.
    ///
    /// # Errors
    /// A name that is taken or no name, more rights than the maker's, or a ledger that cannot be written.
    pub async fn create_key(
        &self,
        new: &NewKey,
        maker: &Actor,
        ceiling: &Permit,
    ) -> Result<(MintedKey, KeyView), KeyError> {
        let tenant = new.tenant.as_deref().or(maker.realm.tenant());
        check_new(new, maker, ceiling)?;
        let key = MintedKey::mint();
        let row = bounded(async {
            let client = self.pool().get().await?;
            let scopes = stored_scopes(&new.permit);
            let made = client
                .query_opt(
                    INSERT,
                    &[
                        &Uuid::now_v7(),
                        &new.name,
                        &prefix_of(key.text()),
                        &hash_of(key.text()),
                        &new.permit.role.as_str(),
                        &tenant,
                        &new.expires_at,
                        &scopes,
                        &maker.name,
                    ],
                )
                .await;
            match made {
                Ok(row) => Ok(Ok(row)),
                Err(error) if error.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION) => Ok(Err(())),
                Err(error) => Err(error.into()),
            }
        })
        .await?;
        let row = row.map_err(|()| KeyError::NoTenant(tenant.unwrap_or_default().to_owned()))?;
        let row = row.ok_or_else(|| KeyError::NameTaken(new.name.clone()))?;
        let view = key_view(&row)?;
        self.audit(maker, Entry::new("create_key", &view.name).of_tenant(tenant).after(json!(view))).await;
        Ok((key, view))
    }

    /// Every key of a realm, by name, the newest of each first.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn keys(&self, realm: &Realm) -> Result<Vec<KeyView>, ReadError> {
        bounded(async {
            let client = self.pool().get().await?;
            client.query(LIST, &[&realm.tenant(), &KEYS_MAX]).await?.iter().map(key_view).collect()
        })
        .await
    }

    /// Makes keys void: those of a name, or the one with a prefix. Their name stays taken, because it stands in the history.
    ///
    /// # Errors
    /// When there is no valid one in the actor's realm, or the ledger cannot be written.
    pub async fn revoke_key(&self, reference: &str, actor: &Actor) -> Result<(), KeyError> {
        let found = self.keys_meant(reference, &actor.realm).await?;
        let ids: Vec<Uuid> = found.iter().map(|(id, _)| *id).collect();
        let by_name = found.iter().any(|(_, view)| view.name == reference);
        bounded(async {
            let mut client = self.pool().get().await?;
            let transaction = client.transaction().await?;
            // Whoever rotates one of them meanwhile is waited for, so that its new key is seen, or waits and finds a void one.
            // All that are meant have one owner.
            transaction.query(LOCK_OWNER, &[&ids.first()]).await?;
            transaction.execute(if by_name { REVOKE_ALL } else { REVOKE }, &[&ids]).await?;
            Ok(transaction.commit().await?)
        })
        .await?;
        for (_, view) in &found {
            let entry = Entry::new("revoke_key", &view.name).of_tenant(view.tenant.as_deref());
            self.audit(actor, entry.before(json!(view))).await;
        }
        Ok(())
    }

    /// Makes a new key in place of the newest of a name, or of the one with a prefix: with the same name, role, scopes and
    /// tenant. The ones before open beside it for `overlap`.
    ///
    /// # Errors
    /// When there is no valid one in the actor's realm, or it may more than `ceiling`, or the ledger cannot be written.
    pub async fn rotate_key(
        &self,
        reference: &str,
        overlap: SignedDuration,
        expires_at: Option<Timestamp>,
        actor: &Actor,
        ceiling: &Permit,
    ) -> Result<(MintedKey, KeyView), KeyError> {
        let (id, old) = self.keys_meant(reference, &actor.realm).await?.swap_remove(0);
        if old.name == BOOTSTRAP && old.tenant.is_none() {
            return Err(KeyError::OfSettings);
        }
        if !ceiling.covers(&Permit { role: old.role, scopes: old.scopes.clone() }) {
            return Err(KeyError::BeyondMaker);
        }
        let now = Timestamp::now();
        let lifetime = old.expires_at.map(|end| end.duration_since(old.created_at));
        let expires_at = expires_at.or_else(|| lifetime.and_then(|lifetime| now.checked_add(lifetime).ok()));
        if let Some(past) = expires_at.filter(|end| *end <= now) {
            return Err(KeyError::Past(past));
        }
        let key = MintedKey::mint();
        let row = bounded(async {
            let mut client = self.pool().get().await?;
            let transaction = client.transaction().await?;
            // Whoever rotates at the same time waits here, and then sees this key.
            transaction.query(LOCK_OWNER, &[&id]).await?;
            let row = transaction
                .query_opt(
                    ROTATE,
                    &[
                        &Uuid::now_v7(),
                        &id,
                        &prefix_of(key.text()),
                        &hash_of(key.text()),
                        &expires_at,
                        &actor.name,
                        &overlap.as_secs_f64(),
                    ],
                )
                .await?;
            transaction.commit().await?;
            Ok(row)
        })
        .await?
        .ok_or_else(|| KeyError::Unknown(reference.to_owned()))?;
        let view = key_view(&row)?;
        let entry = Entry::new("rotate_key", &view.name).of_tenant(view.tenant.as_deref());
        let entry = entry.detail(json!({"overlap_secs": overlap.as_secs()}));
        self.audit(actor, entry.before(json!(old)).after(json!(view))).await;
        Ok((key, view))
    }

    /// The valid keys that a text means, the newest first; at least one. All are one owner's.
    async fn keys_meant(&self, reference: &str, realm: &Realm) -> Result<Vec<(Uuid, KeyView)>, KeyError> {
        let found = bounded(async {
            let client = self.pool().get().await?;
            let rows = client.query(MEANT, &[&reference, &realm.tenant()]).await?;
            rows.iter().map(|row| Ok((row.try_get("id")?, key_view(row)?))).collect::<Result<Vec<(Uuid, KeyView)>, _>>()
        })
        .await?;
        let Some((_, first)) = found.first() else { return Err(KeyError::Unknown(reference.to_owned())) };
        if found.iter().any(|(_, other)| (&other.name, &other.tenant) != (&first.name, &first.tenant)) {
            let prefixes: Vec<&str> = found.iter().map(|(_, view)| view.prefix.as_str()).collect();
            return Err(KeyError::Ambiguous(reference.to_owned(), prefixes.join(", ")));
        }
        Ok(found)
    }

    /// Prepares the keys at the start: stores the key of the settings as an administrator's, in place of the one of an
    /// earlier start; one that was revoked stays so. Without one, and without any other key, mints the first; the caller shows it.
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
                    let (id, prefix, hash) = (Uuid::now_v7(), prefix_of(key), hash_of(key));
                    let row =
                        transaction.query_one(REPLACE_BOOTSTRAP, &[&id, &BOOTSTRAP, &prefix, &hash]).await?;
                    if row.try_get(0)? {
                        tracing::warn!(
                            "the key of FFPOOL_BOOTSTRAP_KEY was revoked and stays so: set another one, or make a key with \
                             `ffpool-dispatcher keys create`"
                        );
                    }
                    None
                }
                None if transaction.query_opt("SELECT FROM api_key LIMIT 1", &[]).await?.is_some() => None,
                None => {
                    let key = MintedKey::mint();
                    let (id, prefix, hash) = (Uuid::now_v7(), prefix_of(key.text()), hash_of(key.text()));
                    transaction.execute(INSERT_FIRST, &[&id, &prefix, &hash]).await?;
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

/// A new key whose name, rights, tenant and time make sense, by whoever may make it.
fn check_new(new: &NewKey, maker: &Actor, ceiling: &Permit) -> Result<(), KeyError> {
    if !(1..=64).contains(&new.name.chars().count()) || new.name.contains('\0') {
        return Err(KeyError::BadName);
    }
    if is_like_prefix(&new.name) {
        return Err(KeyError::LikePrefix(new.name.clone()));
    }
    if let (Some(own), Some(wanted)) = (maker.realm.tenant(), &new.tenant)
        && own != wanted
    {
        return Err(KeyError::OtherTenant(own.to_owned()));
    }
    if let Some(right) = new.permit.beyond_role() {
        return Err(KeyError::BeyondRole(new.permit.role, right));
    }
    if new.permit.scopes.as_ref().is_some_and(Vec::is_empty) {
        return Err(KeyError::NoScope);
    }
    if !ceiling.covers(&new.permit) {
        return Err(KeyError::BeyondMaker);
    }
    match new.expires_at.filter(|end| *end <= Timestamp::now()) {
        Some(past) => Err(KeyError::Past(past)),
        None => Ok(()),
    }
}

fn stored_scopes(permit: &Permit) -> Option<Vec<&'static str>> {
    let scopes = permit.scopes.as_ref()?;
    let mut names: Vec<&str> = scopes.iter().map(|right| right.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    Some(names)
}

/// For whom a key stands, shown itself or by a session of its, and whether it opens anything. The address is for others to
/// fill in.
pub(super) fn standing(row: &Row) -> Result<(Caller, KeyState), ReadError> {
    let view = key_view(row)?;
    let caller = Caller {
        key: Some(row.try_get("id")?),
        actor: Actor { name: view.name, realm: Realm::of(view.tenant), address: None },
        permit: Permit { role: view.role, scopes: view.scopes },
    };
    Ok((caller, view.state))
}

fn key_view(row: &Row) -> Result<KeyView, ReadError> {
    let scopes: Option<Vec<String>> = row.try_get("scopes")?;
    // A right that this version does not know is one that it cannot give.
    let scopes = scopes.map(|names| names.iter().filter_map(|name| name.parse().ok()).collect());
    let (revoked_at, is_expired): (Option<Timestamp>, bool) = (row.try_get("revoked_at")?, row.try_get("is_expired")?);
    let state = if revoked_at.is_some() {
        KeyState::Revoked
    } else if is_expired {
        KeyState::Expired
    } else if row.try_get("tenant_is_disabled")? {
        KeyState::TenantDisabled
    } else {
        KeyState::Valid
    };
    Ok(KeyView {
        name: row.try_get("name")?,
        prefix: row.try_get("prefix")?,
        role: named(row, "role")?,
        scopes,
        tenant: row.try_get("tenant")?,
        state,
        created_at: row.try_get("created_at")?,
        created_by: row.try_get("created_by")?,
        expires_at: row.try_get("expires_at")?,
        revoked_at,
        last_used_at: row.try_get("last_used_at")?,
    })
}

/// What [`key_view`] reads, of `api_key AS k`.
macro_rules! key_columns {
    () => {
        "k.id, k.name, k.prefix, k.role, k.scopes, k.tenant, k.created_at, k.created_by, k.expires_at, k.revoked_at, \
         k.last_used_at, coalesce(k.expires_at <= now(), false) AS is_expired, \
         EXISTS (SELECT FROM tenant AS t WHERE t.name = k.tenant AND t.disabled_at IS NOT NULL) AS tenant_is_disabled"
    };
}

/// What [`standing`] reads, for whoever finds a key another way.
pub(super) const KEY_COLUMNS: &str = key_columns!();

const FIND: &str = concat!(
    "SELECT k.hash, k.last_used_at IS NULL OR k.last_used_at < now() - interval '10 minutes' AS use_is_stale, ",
    key_columns!(),
    " FROM api_key AS k WHERE k.prefix = $1"
);

const STATE: &str = concat!("SELECT ", key_columns!(), " FROM api_key AS k WHERE k.id = $1");

const LIST: &str = concat!(
    "SELECT ",
    key_columns!(),
    " FROM api_key AS k WHERE $1::text IS NULL OR k.tenant = $1 ORDER BY k.name, k.tenant, k.generation DESC LIMIT $2"
);

const MEANT: &str = concat!(
    "SELECT ",
    key_columns!(),
    " FROM api_key AS k WHERE (k.name = $1 OR k.prefix = $1) AND ($2::text IS NULL OR k.tenant = $2) \
      AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now()) ORDER BY k.generation DESC"
);

const REVOKE: &str = "UPDATE api_key SET revoked_at = now() WHERE id = ANY ($1::uuid[]) AND revoked_at IS NULL";

const REVOKE_ALL: &str = "UPDATE api_key SET revoked_at = now() WHERE revoked_at IS NULL \
     AND (name, coalesce(tenant, '')) IN (SELECT name, coalesce(tenant, '') FROM api_key WHERE id = ANY ($1::uuid[]))";

const TOUCH: &str = "UPDATE api_key SET last_used_at = now() WHERE id = $1";

const INSERT: &str = concat!(
    "WITH k AS (INSERT INTO api_key (id, name, prefix, hash, role, tenant, expires_at, scopes, created_by) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
        ON CONFLICT (coalesce(tenant, ''), name, generation) DO NOTHING RETURNING *) SELECT ",
    key_columns!(),
    " FROM k"
);

const LOCK_OWNER: &str = "SELECT k.id FROM api_key AS k JOIN api_key AS old \
        ON (k.name, coalesce(k.tenant, '')) = (old.name, coalesce(old.tenant, '')) \
     WHERE old.id = $1 ORDER BY k.id FOR UPDATE OF k";

// The end of an overlap is never later than the end that a key had anyway.
const ROTATE: &str = concat!(
    "WITH owned AS ( \
        SELECT k.id, k.generation FROM api_key AS k JOIN api_key AS old \
            ON (k.name, coalesce(k.tenant, '')) = (old.name, coalesce(old.tenant, '')) WHERE old.id = $2), \
     ending AS ( \
        UPDATE api_key SET expires_at = least(expires_at, now() + $7::float8 * interval '1 second') \
        WHERE id IN (SELECT id FROM owned) AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())), \
     k AS (INSERT INTO api_key (id, name, prefix, hash, role, tenant, expires_at, scopes, created_by, generation) \
        SELECT $1, name, $3, $4, role, tenant, $5, scopes, $6, (SELECT max(generation) + 1 FROM owned) \
        FROM api_key WHERE id = $2 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) \
        RETURNING *) SELECT ",
    key_columns!(),
    " FROM k"
);

const INSERT_FIRST: &str = "INSERT INTO api_key (id, name, prefix, hash, role, created_by) VALUES ($1, 'first', $2, $3, 'admin', 'first start')";

const MAKE_ROOM: &str =
    "DELETE FROM api_key WHERE prefix = $1 AND (name <> $2 OR tenant IS NOT NULL OR generation <> 1)";

const REPLACE_BOOTSTRAP: &str = "INSERT INTO api_key (id, name, prefix, hash, role, created_by) \
     VALUES ($1, $2, $3, $4, 'admin', 'FFPOOL_BOOTSTRAP_KEY') \
     ON CONFLICT (coalesce(tenant, ''), name, generation) DO UPDATE SET prefix = excluded.prefix, hash = excluded.hash, \
         role = 'admin', scopes = NULL, expires_at = NULL, \
         revoked_at = CASE WHEN api_key.hash = excluded.hash THEN api_key.revoked_at END \
     RETURNING revoked_at IS NOT NULL";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_named_like_the_prefix_of_another() {
        let key = MintedKey::mint();
        for (name, refused) in
            [(prefix_of(key.text()), true), (FOREIGN_PREFIX, true), ("encoder-app", false), ("deadbeef", false)]
        {
            let actor = Actor { name: "test".to_owned(), realm: Realm::Pool, address: None };
            let made = check_new(&NewKey::of(name, Role::Viewer), &actor, &Permit::of(Role::Admin));
            assert_eq!(matches!(made, Err(KeyError::LikePrefix(_))), refused, "{name}");
        }
    }

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
