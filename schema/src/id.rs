//! Identities: what names a job, a worker and one life of a worker.
//!
//! A job id is written as hyphenated lower-case text in JSON and in MessagePack alike, so that a body can be carried
//! from one encoding to the other.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// One job, for life. A UUID of any version; the ledger mints version 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub Uuid);

impl JobId {
    /// The id of the one job that `parts` stand for: the same parts give the same id, on every machine and in every
    /// version. `purpose` keeps the ids of different makers apart.
    ///
    /// A UUID of version 8: the beginning of a SHA-256 over all parts, each with its length before it, so that no two
    /// lists of parts are written alike.
    #[must_use]
    pub fn derived(purpose: &str, parts: &[&[u8]]) -> JobId {
        let mut hash = Sha256::new();
        for part in std::iter::once(&purpose.as_bytes()).chain(parts) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let digest = hash.finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        JobId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl FromStr for JobId {
    type Err = IdError;

    /// Takes the whole text or nothing: `7abc` never reads as job 7.
    fn from_str(text: &str) -> Result<Self, IdError> {
        Uuid::try_parse(text).map(JobId).map_err(|_| IdError { text: excerpt(text) })
    }
}

impl Serialize for JobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for JobId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "JobId".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "format": "uuid"})
    }
}

/// A text that is no job id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a job id: a UUID is expected, such as 01920f3a-7c1e-7d2a-8a6e-3f0c5b1d9e42")]
pub struct IdError {
    text: String,
}

/// A worker's name: stable over its restarts, unique in the pool. Letters, digits, `-` and `_`, at most 64.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct WorkerId(String);

impl WorkerId {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<WorkerId> for String {
    fn from(id: WorkerId) -> String {
        id.0
    }
}

impl TryFrom<String> for WorkerId {
    type Error = WorkerIdError;

    // A worker id becomes part of a NATS subject: a dot would change the subject, `*` and `>` would be wildcards.
    fn try_from(text: String) -> Result<Self, WorkerIdError> {
        let fits =
            (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if fits { Ok(WorkerId(text)) } else { Err(WorkerIdError { text: excerpt(&text) }) }
    }
}

impl FromStr for WorkerId {
    type Err = WorkerIdError;

    fn from_str(text: &str) -> Result<Self, WorkerIdError> {
        WorkerId::try_from(text.to_owned())
    }
}

/// A text that is no worker id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a worker id: 1 to 64 letters, digits, `-` or `_` are expected")]
pub struct WorkerIdError {
    text: String,
}

/// One life of a worker process: minted at each start, so that a quick restart never passes for the old life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Incarnation(pub Uuid);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

pub(crate) fn excerpt(text: &str) -> String {
    const SHOWN: usize = 80;
    shortened(text, SHOWN)
}

/// A text of so many characters at most, and a sign that there were more.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_id_depends_on_every_part_and_on_nothing_else() {
        let id = |purpose: &str, parts: &[&str]| {
            JobId::derived(purpose, &parts.iter().map(|part| part.as_bytes()).collect::<Vec<_>>())
        };
        // Ids that were given out stay what they are: whoever changes this doubles jobs.
        assert_eq!(id("batch", &["a", "b"]).to_string(), "173350bc-bbb2-8c28-aef4-0e245dda1b09");
        assert_eq!(id("batch", &["a", "b"]).0.get_version_num(), 8);
        let others =
            [id("watch", &["a", "b"]), id("batch", &["ab"]), id("batch", &["a", "b", ""]), id("batch", &["b", "a"])];
        assert!(others.iter().all(|other| *other != id("batch", &["a", "b"])));
    }
}
