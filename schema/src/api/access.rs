//! Keys and tenants as the HTTP API shows and takes them.
//!
//! Invariant: only the answer to the making of a key holds the key's text.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::access::{Right, Role};

/// Whether a key opens anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// It does.
    Valid,
    /// Its time is over.
    Expired,
    /// Somebody has made it void.
    Revoked,
    /// Its tenant is disabled.
    TenantDisabled,
}

impl KeyState {
    /// In words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            KeyState::Valid => "valid",
            KeyState::Expired => "expired",
            KeyState::Revoked => "revoked",
            KeyState::TenantDisabled => "tenant disabled",
        }
    }
}

/// A key of the API, without its text, which is stored nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyView {
    /// Its owner's name; keys of one owner that overlap while they are rotated share it.
    pub name: String,
    /// The part of its text by which it is found; not secret.
    pub prefix: String,
    /// Its role.
    pub role: Role,
    /// The rights that it has of those of its role; absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<Right>>,
    /// Whose jobs alone it sees and changes; absent: everybody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Whether it opens anything.
    pub state: KeyState,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it; absent for keys of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// From when it opens nothing; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it was made void.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, to ten minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
}

impl KeyView {
    /// What it may do: its role, and in brackets the rights of it that it has where these are fewer.
    #[must_use]
    pub fn rights(&self) -> String {
        let Some(scopes) = &self.scopes else { return self.role.to_string() };
        let names: Vec<&str> = scopes.iter().map(|right| right.as_str()).collect();
        format!("{} ({})", self.role, names.join(", "))
    }
}

/// Body of `POST /v1/keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyRequest {
    /// Whose key it is; it stands in the history of what the key does.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// The rights that it shall have of those of its role. Default: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<Right>>,
    /// Whose jobs alone it shall see and change. Default: the tenant of the key that makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// From when it opens nothing. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// Body of `POST /v1/keys/{key}/rotate`; may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateRequest {
    /// For so many seconds the keys before it open too. Default: a day; 0 makes them void at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap_secs: Option<u32>,
    /// From when the new one opens nothing. Default: it lives as long as the one before was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// A new key: answer to `POST /v1/keys` and `POST /v1/keys/{key}/rotate`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NewKeyView {
    /// Its text. Nobody can show it again.
    pub key: String,
    /// What it is.
    #[serde(flatten)]
    pub view: KeyView,
}

impl std::fmt::Debug for NewKeyView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewKeyView").field("view", &self.view).finish_non_exhaustive()
    }
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TenantView {
    /// Its name, as in jobs.
    pub name: String,
    /// Its limits.
    #[serde(flatten)]
    pub limits: TenantLimits,
    /// Bytes of the files that its jobs published, as far as they count.
    #[serde(default)]
    pub stored_bytes: i64,
    /// The RabbitMQ user whose messages are its.
    pub amqp_user: Option<String>,
    /// Since when its keys open nothing; absent: they do.
    pub disabled_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What a tenant may have. Absent means without a limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TenantLimits {
    /// Its share where tenants want the same slots: 1 to 1000.
    pub weight: i32,
    /// Jobs that wait.
    pub max_queued: Option<i64>,
    /// Jobs that run.
    pub max_running: Option<i64>,
    /// Processor cores of its running jobs together.
    pub max_cpu_cores: Option<f64>,
    /// Storage of what its jobs published, in MiB.
    pub max_storage_mb: Option<i64>,
    /// Requests to the API, in a second.
    pub requests_per_sec: Option<f64>,
}

/// Body of `POST /v1/tenants`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantRequest {
    /// Its name: 1 to 64 letters, digits, `-` or `_`, the first no sign.
    pub name: String,
    /// What it may have.
    #[serde(default)]
    pub set: TenantChange,
}

/// Body of `POST /v1/tenants/{tenant}/set`: what is absent stays as it is, and `null` takes a limit away.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantChange {
    /// Its share where tenants want the same slots: 1 to 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<i32>,
    /// Jobs that wait.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub max_queued: Option<Option<i64>>,
    /// Jobs that run.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub max_running: Option<Option<i64>>,
    /// Processor cores of its running jobs together.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub max_cpu_cores: Option<Option<f64>>,
    /// Storage of what its jobs published, in MiB.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub max_storage_mb: Option<Option<i64>>,
    /// Requests to the API, in a second.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub requests_per_sec: Option<Option<f64>>,
    /// The RabbitMQ user whose messages are its.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub amqp_user: Option<Option<String>>,
}

/// Tells `null` from absent, which serde's default takes for the same.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_tells_a_limit_taken_away_from_one_left_alone() {
        let change: TenantChange = serde_json::from_str(r#"{"max_queued": null, "max_running": 3}"#).unwrap();
        assert_eq!((change.max_queued, change.max_running, change.max_cpu_cores), (Some(None), Some(Some(3)), None));
        let written = serde_json::to_string(&change).unwrap();
        assert_eq!(written, r#"{"max_queued":null,"max_running":3}"#);
        assert!(serde_json::from_str::<TenantChange>(r#"{"max_quued": 1}"#).is_err());
    }

    #[test]
    fn the_text_of_a_key_is_not_in_what_is_logged() {
        let view = KeyView {
            name: "app".into(),
            prefix: "0123456789".into(),
            role: Role::Submitter,
            scopes: None,
            tenant: None,
            state: KeyState::Valid,
            created_at: Timestamp::UNIX_EPOCH,
            created_by: None,
            expires_at: None,
            revoked_at: None,
            last_used_at: None,
        };
        let new = NewKeyView { key: "ffp_0123456789_secret".into(), view };
        assert!(!format!("{new:?}").contains("secret"));
    }
}
