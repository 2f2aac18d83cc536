//! The object stores that a worker reaches: named profiles of a file, the environment, or the machine's own identity.
//!
//! Invariant: credentials come from the worker's side only and are never shown; an unknown key is an error, so that a typing
//! error never passes for a setting, and none turns the check of certificates off.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ffpool_schema::location::{ObjectAddress, Scheme};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{BackoffConfig, Certificate, ClientConfigKey, ClientOptions, RetryConfig};

use super::bucket::{Client, Guarantee, usual_guarantee};
use super::wire::Wired;

/// For a connection with its TLS.
const CONNECT: Duration = Duration::from_secs(10);
/// Silence of a store, the time in which it takes a part included.
const SILENCE: Duration = Duration::from_secs(180);
/// Tries of one request beyond the first.
const RETRIES: usize = 4;
/// For all tries of one request to begin in.
const RETRY_WITHIN: Duration = Duration::from_secs(60);

/// What a profile may not set: the job names the bucket, and how outputs are guarded is ours.
const REFUSED: [&str; 12] = [
    "allow_invalid_certificates",
    "bucket",
    "bucket_name",
    "checksum_algorithm",
    "conditional_put",
    "container_name",
    "copy_if_not_exists",
    // The end of an upload is a request of our own, which knows no proxy.
    "proxy_ca_certificate",
    "proxy_excludes",
    "proxy_url",
    "s3_express",
    "timeout",
];
/// Parts of keys that hold credentials. A profile without any takes the worker's environment, or the machine's identity.
const CREDENTIALS: [&str; 9] = [
    "access_key",
    "account_key",
    "master_key",
    "client_secret",
    "service_account",
    "application_credentials",
    "sas_",
    "token",
    "skip_signature",
];

/// Why the stores cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its message")]
pub enum StoresError {
    #[error("read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the certificates in {}: {message}", path.display())]
    Certificates { path: PathBuf, message: String },
    #[error("{} is no table of profiles: {message}", path.display())]
    Parse { path: PathBuf, message: String },
    #[error("profile `{profile}`: {message}")]
    Profile { profile: String, message: String },
}

/// What a profile serves: every bucket of a kind of store, or one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serves {
    /// The kind of store.
    pub scheme: Scheme,
    /// The bucket; `None`: every bucket.
    pub bucket: Option<String>,
}

impl FromStr for Serves {
    type Err = String;

    fn from_str(text: &str) -> Result<Serves, String> {
        let (scheme, bucket) = match text.split_once("://") {
            Some((scheme, bucket)) => (scheme, Some(bucket.trim_end_matches('/'))),
            None => (text, None),
        };
        let scheme = Scheme::ALL.into_iter().find(|known| known.is_object_store() && known.as_str() == scheme);
        match (scheme, bucket) {
            (Some(_), Some(bucket)) if bucket.is_empty() || bucket.contains('/') => {
                Err(format!("`{text}` names no bucket: one such as s3://media is expected"))
            }
            (Some(scheme), bucket) => Ok(Serves { scheme, bucket: bucket.map(str::to_owned) }),
            (None, _) => Err(format!("`{text}` is no store: s3, gs, az or one bucket such as s3://media is expected")),
        }
    }
}

impl fmt::Display for Serves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.bucket {
            Some(bucket) => write!(f, "{}://{bucket}", self.scheme),
            None => write!(f, "{}", self.scheme),
        }
    }
}

/// A way to a store, with what it takes to be let in.
#[derive(Clone)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub serves: Serves,
    /// How outputs are guarded.
    pub guarantee: Guarantee,
    /// Settings of the store's library.
    options: BTreeMap<String, String>,
    /// Certificates (PEM) of authorities that are trusted besides the system's.
    authorities: Vec<u8>,
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The options may hold secrets.
        f.debug_struct("Profile").field("name", &self.name).field("serves", &self.serves).finish_non_exhaustive()
    }
}

/// Every profile: those of the file first, then what the environment and the machine give.
///
/// # Errors
/// What is wrong with the file.
pub fn read(
    file: Option<&Path>,
    machine: &[Scheme],
    environment: &dyn Fn(&str) -> bool,
) -> Result<Vec<Profile>, StoresError> {
    let mut profiles = match file {
        Some(path) => of_file(path)?,
        None => Vec::new(),
    };
    for scheme in [Scheme::S3, Scheme::Gs, Scheme::Az] {
        let name = if environment_names(scheme).iter().any(|name| environment(name)) {
            "environment"
        } else if machine.contains(&scheme) {
            "machine"
        } else {
            continue;
        };
        profiles.push(Profile {
            name: name.to_owned(),
            serves: Serves { scheme, bucket: None },
            guarantee: usual_guarantee(scheme),
            options: BTreeMap::new(),
            authorities: Vec::new(),
        });
    }
    Ok(profiles)
}

/// Variables that say that the environment holds credentials, by each cloud's own names.
fn environment_names(scheme: Scheme) -> &'static [&'static str] {
    match scheme {
        Scheme::S3 => &[
            "AWS_ACCESS_KEY_ID",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        ],
        Scheme::Gs => &[
            "GOOGLE_SERVICE_ACCOUNT",
            "GOOGLE_SERVICE_ACCOUNT_PATH",
            "GOOGLE_SERVICE_ACCOUNT_KEY",
            "GOOGLE_APPLICATION_CREDENTIALS",
        ],
        Scheme::Az => &["AZURE_STORAGE_ACCOUNT_NAME"],
        Scheme::File | Scheme::Http | Scheme::Https => &[],
    }
}

fn of_file(path: &Path) -> Result<Vec<Profile>, StoresError> {
    let unreadable = |source| StoresError::Read { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    if std::fs::metadata(path).map_err(unreadable)?.mode() & 0o004 != 0 {
        tracing::warn!(path = %path.display(), "every user of this machine can read the credentials in it: chmod o-r");
    }
    // The parser shows the line that is wrong: it may hold a secret.
    let unparsed = |message: &str| StoresError::Parse { path: path.to_owned(), message: message.to_owned() };
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| unparsed(error.message()))?;
    let mut profiles = Vec::new();
    for (name, value) in table {
        let toml::Value::Table(keys) = value else {
            return Err(unparsed(&format!("`{name}` stands outside a [profile]")));
        };
        profiles.push(profile(&name, keys).map_err(|message| StoresError::Profile { profile: name.clone(), message })?);
    }
    // The more exact one first.
    profiles.sort_by_key(|profile| profile.serves.bucket.is_none());
    Ok(profiles)
}

fn profile(name: &str, mut keys: toml::Table) -> Result<Profile, String> {
    let serves: Serves = match keys.remove("serves") {
        Some(toml::Value::String(text)) => text.parse()?,
        Some(_) | None => return Err("`serves` is missing: s3, gs, az or one bucket such as s3://media".to_owned()),
    };
    let usual = usual_guarantee(serves.scheme);
    let guarantee = match keys.remove("conditional") {
        None | Some(toml::Value::Boolean(true)) => usual,
        Some(toml::Value::Boolean(false)) => Guarantee::BestEffort,
        Some(_) => return Err("`conditional` is true or false".to_owned()),
    };
    let authorities = match keys.remove("ca_file") {
        None => Vec::new(),
        Some(toml::Value::String(path)) => authorities(Path::new(&path))?,
        Some(_) => return Err("`ca_file` is the path of a PEM file".to_owned()),
    };
    let mut options = BTreeMap::new();
    for (key, value) in keys {
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Boolean(truth) => truth.to_string(),
            toml::Value::Integer(number) => number.to_string(),
            _ => return Err(format!("`{key}` is neither text, number nor truth value")),
        };
        let is_known = match serves.scheme {
            Scheme::S3 => key.parse::<AmazonS3ConfigKey>().is_ok(),
            Scheme::Gs => key.parse::<GoogleConfigKey>().is_ok(),
            Scheme::Az => key.parse::<AzureConfigKey>().is_ok(),
            Scheme::File | Scheme::Http | Scheme::Https => false,
        };
        let own_name = ["aws_", "google_", "azure_"].iter().find_map(|prefix| key.strip_prefix(prefix)).unwrap_or(&key);
        if !is_known || REFUSED.contains(&own_name) {
            return Err(format!("`{key}` is no setting of a profile for {}; see docs/storage.md", serves.scheme));
        }
        options.insert(key, text);
    }
    let is_plain = |key: &String| options.get(key).is_some_and(|value| value.starts_with("http://"));
    let is_allowed = options.iter().any(|(key, value)| key.ends_with("allow_http") && value == "true");
    // Google's library calls it the base address.
    let is_endpoint = |key: &String| key.contains("endpoint") || key.ends_with("base_url");
    if options.keys().any(|key| is_endpoint(key) && is_plain(key)) && !is_allowed {
        return Err("its endpoint has no TLS: use https://, or say `allow_http = true`".to_owned());
    }
    Ok(Profile { name: name.to_owned(), serves, guarantee, options, authorities })
}

fn authorities(path: &Path) -> Result<Vec<u8>, String> {
    let pem = std::fs::read(path).map_err(|error| format!("`ca_file` {} cannot be read: {error}", path.display()))?;
    match reqwest::Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(pem),
        Ok(_) | Err(_) => Err(format!("`ca_file` {} holds no certificate (PEM)", path.display())),
    }
}

impl Profile {
    /// Whether it is for an object.
    #[must_use]
    pub fn is_for(&self, address: &ObjectAddress) -> bool {
        self.serves.scheme == address.scheme
            && self.serves.bucket.as_ref().is_none_or(|bucket| *bucket == address.bucket)
    }

    /// A client for one of its buckets.
    ///
    /// # Errors
    /// When its settings do not make one.
    pub(super) fn client(&self, bucket: &str) -> Result<Client, object_store::Error> {
        let is_own = self.options.keys().any(|key| CREDENTIALS.iter().any(|part| key.contains(part)));
        match self.serves.scheme {
            Scheme::S3 => {
                let mut builder = if is_own { AmazonS3Builder::new() } else { AmazonS3Builder::from_env() };
                builder = builder.with_client_options(self.client_options()?).with_retry(retry());
                for (key, value) in &self.options {
                    builder = builder.with_config(key.parse()?, value);
                }
                let conditional = match self.guarantee {
                    Guarantee::BestEffort => S3ConditionalPut::Disabled,
                    Guarantee::Conditional => S3ConditionalPut::ETagMatch,
                };
                Ok(Client::S3(Arc::new(builder.with_conditional_put(conditional).with_bucket_name(bucket).build()?)))
            }
            Scheme::Gs => {
                let mut builder =
                    if is_own { GoogleCloudStorageBuilder::new() } else { GoogleCloudStorageBuilder::from_env() };
                builder = builder.with_client_options(self.client_options()?).with_retry(retry());
                for (key, value) in &self.options {
                    builder = builder.with_config(key.parse()?, value);
                }
                Ok(Client::Gs(Arc::new(builder.with_http_connector(Wired).with_bucket_name(bucket).build()?)))
            }
            Scheme::Az => {
                let mut builder = if is_own { MicrosoftAzureBuilder::new() } else { MicrosoftAzureBuilder::from_env() };
                builder = builder.with_client_options(self.client_options()?).with_retry(retry());
                for (key, value) in &self.options {
                    builder = builder.with_config(key.parse()?, value);
                }
                Ok(Client::Az(Arc::new(builder.with_http_connector(Wired).with_container_name(bucket).build()?)))
            }
            scheme @ (Scheme::File | Scheme::Http | Scheme::Https) => {
                Err(object_store::Error::NotSupported { source: format!("{scheme} is no object store").into() })
            }
        }
    }

    fn client_options(&self) -> Result<ClientOptions, object_store::Error> {
        // One time for a whole request would cut every large body.
        let mut options = ClientOptions::new()
            .with_timeout_disabled()
            .with_connect_timeout(CONNECT)
            .with_config(ClientConfigKey::ReadTimeout, format!("{}s", SILENCE.as_secs()));
        if !self.authorities.is_empty() {
            for authority in Certificate::from_pem_bundle(&self.authorities)? {
                options = options.with_root_certificate(authority);
            }
        }
        Ok(options)
    }

    /// A client for requests to its store that the store's library does not know; `None`: any will do.
    ///
    /// # Errors
    /// When its authorities cannot be used.
    pub(super) fn own_http(&self) -> reqwest::Result<Option<reqwest::Client>> {
        if self.authorities.is_empty() {
            return Ok(None);
        }
        let mut builder = super::plain_http();
        for authority in reqwest::Certificate::from_pem_bundle(&self.authorities)? {
            builder = builder.add_root_certificate(authority);
        }
        builder.build().map(Some)
    }
}

fn retry() -> RetryConfig {
    RetryConfig { backoff: BackoffConfig::default(), max_retries: RETRIES, retry_timeout: RETRY_WITHIN }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vec<Profile>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stores.toml");
        std::fs::write(&path, text).unwrap();
        read(Some(&path), &[], &|_| false).map_err(|error| error.to_string())
    }

    fn address(scheme: Scheme, bucket: &str) -> ObjectAddress {
        ObjectAddress { scheme, bucket: bucket.to_owned(), key: "k".to_owned() }
    }

    #[test]
    fn the_most_exact_profile_serves_a_bucket() {
        let profiles = of("[all]\nserves = \"s3\"\nregion = \"eu-west-1\"\n\
             [media]\nserves = \"s3://media\"\nendpoint = \"https://store.example\"\naccess_key_id = \"a\"\nsecret_access_key = \"hunter2\"\n")
        .unwrap();
        let of = |bucket| profiles.iter().find(|p| p.is_for(&address(Scheme::S3, bucket))).map(|p| p.name.as_str());
        assert_eq!((of("media"), of("other")), (Some("media"), Some("all")));
        assert!(!profiles.iter().any(|profile| profile.is_for(&address(Scheme::Gs, "media"))));
        assert!(!format!("{profiles:?}").contains("hunter2"));
        assert!(profiles.iter().all(|profile| profile.guarantee == Guarantee::Conditional));
    }

    #[test]
    fn what_is_wrong_with_a_profile_is_said_without_its_secrets() {
        for (text, expected) in [
            ("serves = \"s3\"", "stands outside"),
            ("[p]\nregion = \"x\"", "`serves` is missing"),
            ("[p]\nserves = \"ftp\"", "is no store"),
            ("[p]\nserves = \"s3://a/b\"", "names no bucket"),
            ("[p]\nserves = \"s3\"\nsecret_acess_key = \"hunter2\"", "`secret_acess_key` is no setting"),
            ("[p]\nserves = \"s3\"\nallow_invalid_certificates = true", "is no setting"),
            ("[p]\nserves = \"s3\"\naws_bucket = \"other\"", "is no setting"),
            ("[p]\nserves = \"s3\"\nendpoint = \"http://h\"", "has no TLS"),
            ("[p]\nserves = \"s3\"\nca_file = \"/no/ca.pem\"", "`ca_file` /no/ca.pem cannot be read"),
            ("[p]\nserves = \"s3\"\nca_file = \"/dev/null\"", "`ca_file` /dev/null holds no certificate"),
            ("[p]\nserves = \"s3\"\nca_file = true", "is the path of a PEM file"),
            ("[p]\nserves = \"gs\"\nregion = \"x\"", "is no setting"),
            ("[p]\nserves = \"gs\"\nbase_url = \"http://h\"", "has no TLS"),
            ("[p]\nserves = \"s3\"\nsecret_access_key = \"hunter2", "is no table of profiles"),
        ] {
            let error = of(text).unwrap_err();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{text}: {error}");
        }
    }

    #[test]
    fn the_environment_or_the_machine_gives_what_no_profile_does() {
        let names = |machine: &[Scheme], set: &str| {
            let found = read(None, machine, &|name| name == set).unwrap();
            found.into_iter().map(|profile| format!("{} {}", profile.name, profile.serves)).collect::<Vec<_>>()
        };
        assert_eq!(names(&[], ""), Vec::<String>::new());
        assert_eq!(names(&[], "AWS_ACCESS_KEY_ID"), ["environment s3"]);
        assert_eq!(
            names(&[Scheme::Gs, Scheme::Az], "AWS_WEB_IDENTITY_TOKEN_FILE"),
            ["environment s3", "machine gs", "machine az"]
        );
    }

    #[test]
    fn a_profile_makes_a_client_for_its_kind() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let profiles = of("[a]\nserves = \"s3\"\nregion = \"r\"\naccess_key_id = \"a\"\nsecret_access_key = \"s\"\n\
             [b]\nserves = \"gs\"\nskip_signature = true\n\
             [c]\nserves = \"az\"\naccount_name = \"n\"\naccount_key = \"c2VjcmV0\"\nconditional = false\n")
        .unwrap();
        for profile in &profiles {
            let client = profile.client("media").unwrap_or_else(|error| panic!("{}: {error}", profile.name));
            assert!(client.store().to_string().contains("media"), "{}", client.store());
        }
        assert_eq!(profiles.last().unwrap().guarantee, Guarantee::BestEffort);
    }
}
