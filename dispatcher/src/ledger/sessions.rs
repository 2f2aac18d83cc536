//! Sessions of the dashboard: a key that was shown once in a browser, and what stands for it afterwards.
//!
//! Invariants: a session may what its key may, at every request, and ends with it; its secret is stored as a hash; it ends
//! by itself, sooner when nobody uses it.

use std::time::Duration;

use ffpool_schema::api::KeyState;
use rand::RngExt as _;
use sha2::{Digest as _, Sha256};

use super::Ledger;
use super::actor::Actor;
use super::audit::Entry;
use super::keys::{Admission, Caller, KEY_COLUMNS, standing};
use super::read::{ReadError, bounded};

/// A session that is not used for so long ends.
pub const IDLE: Duration = Duration::from_secs(2 * 3600);
/// A session ends after so long in any case.
pub const LONGEST: Duration = Duration::from_secs(12 * 3600);
/// Sessions of one key: with one more, the oldest ends.
const PER_KEY_MAX: i64 = 50;

impl Ledger {
    /// Begins a session of a key and gives its secret; `None` when the key has gone meanwhile.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub async fn begin_session(&self, caller: &Caller) -> Result<Option<String>, ReadError> {
        let Some(key) = caller.key else { return Ok(None) };
        let random: [u8; 32] = rand::rng().random();
        let secret = ffpool_schema::message::hex(&random);
        let begun = bounded(async {
            let client = self.pool().get().await?;
            client.execute(&client.prepare_cached(SWEEP).await?, &[&IDLE.as_secs_f64()]).await?;
            let statement = client.prepare_cached(BEGIN).await?;
            let begun = client.execute(&statement, &[&hash_of(&secret), &key, &LONGEST.as_secs_f64()]).await?;
            client.execute(&client.prepare_cached(BOUND).await?, &[&key, &PER_KEY_MAX]).await?;
            Ok(begun)
        })
        .await?;
        if begun == 0 {
            return Ok(None);
        }
        self.audit(&caller.actor, Entry::new("log_in", "the dashboard")).await;
        Ok(Some(secret))
    }

    /// Whose session it is, and whether its key still opens anything. With `counts` it is used now.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn admit_session(&self, secret: &str, counts: bool) -> Result<Admission, ReadError> {
        bounded(async {
            let client = self.pool().get().await?;
            let find = format!("{FIND_BEGIN}{KEY_COLUMNS}{FIND_END}");
            let statement = client.prepare_cached(&find).await?;
            let hash = hash_of(secret);
            let Some(row) = client.query_opt(&statement, &[&hash, &IDLE.as_secs_f64()]).await? else {
                return Ok(Admission::Unknown);
            };
            let (caller, state) = standing(&row)?;
            if state != KeyState::Valid {
                return Ok(Admission::Void { caller, state });
            }
            if counts && row.try_get("use_is_stale")? {
                client.execute(&client.prepare_cached(TOUCH).await?, &[&hash]).await?;
            }
            Ok(Admission::Valid(caller))
        })
        .await
    }

    /// Ends a session, if there is one of this secret.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub async fn end_session(&self, secret: &str, actor: &Actor) -> Result<(), ReadError> {
        let ended = bounded(async {
            let client = self.pool().get().await?;
            let statement = client.prepare_cached("DELETE FROM web_session WHERE hash = $1").await?;
            Ok(client.execute(&statement, &[&hash_of(secret)]).await?)
        })
        .await?;
        if ended > 0 {
            self.audit(actor, Entry::new("log_out", "the dashboard")).await;
        }
        Ok(())
    }
}

fn hash_of(secret: &str) -> Vec<u8> {
    Sha256::digest(secret.as_bytes()).to_vec()
}

const SWEEP: &str = "DELETE FROM web_session \
     WHERE expires_at <= now() OR used_at <= now() - $1::float8 * interval '1 second'";

const BEGIN: &str = "INSERT INTO web_session (hash, key, key_hash, expires_at) \
     SELECT $1, k.id, k.hash, now() + $3::float8 * interval '1 second' FROM api_key AS k WHERE k.id = $2";

const BOUND: &str = "DELETE FROM web_session WHERE hash IN \
     (SELECT hash FROM web_session WHERE key = $1 ORDER BY created_at DESC OFFSET $2)";

const FIND_BEGIN: &str = "SELECT s.used_at < now() - interval '1 minute' AS use_is_stale, ";

const FIND_END: &str = " FROM web_session AS s JOIN api_key AS k ON k.id = s.key AND k.hash = s.key_hash \
     WHERE s.hash = $1 AND s.expires_at > now() AND s.used_at > now() - $2::float8 * interval '1 second'";

const TOUCH: &str = "UPDATE web_session SET used_at = now() WHERE hash = $1";
