//! One object of a store: read from, looked at, and recognised by the mark that an attempt left on it.
//!
//! Invariant: what an attempt puts carries job, attempt and sha256 in the object's own metadata, so whoever looks learns in
//! one answer, with the entity tag, whose it is and what it holds.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use ffpool_schema::failure::Cause;
use ffpool_schema::id::JobId;
use ffpool_schema::location::{ObjectAddress, Scheme, Use};
use futures_util::StreamExt;
use jiff::Timestamp;
use object_store::aws::AmazonS3;
use object_store::azure::MicrosoftAzure;
use object_store::gcp::GoogleCloudStorage;
use object_store::multipart::MultipartStore;
use object_store::path::Path as Key;
use object_store::{Attribute, Attributes, GetOptions, GetRange, ObjectStore, ObjectStoreExt};

use super::fetch::Opened;
use super::trouble::Trouble;

const JOB: &str = "ffpooljob";
const ATTEMPT: &str = "ffpoolattempt";
const SHA256: &str = "ffpoolsha256";

/// Who speaks with a store.
#[derive(Clone)]
pub(super) enum Client {
    S3(Arc<AmazonS3>),
    Gs(Arc<GoogleCloudStorage>),
    Az(Arc<MicrosoftAzure>),
}

impl Client {
    pub(super) fn store(&self) -> &dyn ObjectStore {
        match self {
            Client::S3(store) => store.as_ref(),
            Client::Gs(store) => store.as_ref(),
            Client::Az(store) => store.as_ref(),
        }
    }

    /// The same for what goes in parts.
    pub(super) fn parts(&self) -> &dyn MultipartStore {
        match self {
            Client::S3(store) => store.as_ref(),
            Client::Gs(store) => store.as_ref(),
            Client::Az(store) => store.as_ref(),
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The libraries' own would show the keys.
        write!(f, "Client({})", self.store())
    }
}

/// How a store keeps a late attempt from replacing a newer one's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarantee {
    /// It compares and writes in one step, whatever the size.
    Conditional,
    /// It cannot: every output is looked at, then written.
    BestEffort,
}

impl Guarantee {
    /// In words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Guarantee::Conditional => "conditional writes",
            Guarantee::BestEffort => "best effort: the store does not write conditionally",
        }
    }
}

/// An object, with the way to it.
#[derive(Clone)]
pub struct Object {
    pub(super) address: ObjectAddress,
    pub(super) key: Key,
    pub(super) client: Client,
    pub(super) guarantee: Guarantee,
    /// For requests that the store's library does not know. It speaks with the store only.
    pub(super) http: reqwest::Client,
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Object({})", self.address)
    }
}

/// What an attempt writes on its objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: u32,
    /// Hex sha256 of the content.
    pub sha256: String,
}

impl Mark {
    pub(super) fn attributes(&self, content_type: &'static str) -> Attributes {
        let own = |name: &'static str| Attribute::Metadata(name.into());
        Attributes::from_iter([
            (Attribute::ContentType, content_type.to_owned()),
            (own(JOB), self.job.to_string()),
            (own(ATTEMPT), self.attempt.to_string()),
            (own(SHA256), self.sha256.clone()),
        ])
    }

    fn read(attributes: &Attributes) -> Option<Mark> {
        let text = |name: &'static str| attributes.get(&Attribute::Metadata(name.into())).map(|value| value.as_ref());
        Some(Mark {
            job: text(JOB)?.parse().ok()?,
            attempt: text(ATTEMPT)?.parse().ok()?,
            sha256: text(SHA256)?.to_owned(),
        })
    }
}

/// What stands at an address.
#[derive(Debug, Clone)]
pub struct There {
    /// Its version.
    pub etag: Option<String>,
    /// The store's own number of it, where it counts versions.
    pub version: Option<String>,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Whose it is, where an attempt put it.
    pub mark: Option<Mark>,
}

impl Object {
    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &ObjectAddress {
        &self.address
    }

    /// How outputs are guarded here.
    #[must_use]
    pub fn guarantee(&self) -> Guarantee {
        self.guarantee
    }

    /// The object that holds this one's manifest.
    ///
    /// # Panics
    /// Never: a good key with a plain end is a good key.
    #[must_use]
    pub fn manifest(&self) -> Object {
        let key = format!("{}.ffpool.json", self.address.key);
        Object {
            key: Key::parse(&key).expect("the key was good without its end"),
            address: ObjectAddress { key, ..self.address.clone() },
            ..self.clone()
        }
    }

    /// The object at a path that is seen from this one.
    ///
    /// # Errors
    /// When that is no key.
    pub fn beside(&self, path: &str) -> Result<Object, Trouble> {
        let key = match self.address.key.rsplit_once('/') {
            Some((parent, _)) => format!("{parent}/{path}"),
            None => path.to_owned(),
        };
        let parsed = Key::parse(&key).map_err(|error| {
            Trouble::lasting(Cause::ConfigBad, format!("{path} beside {} is no usable key", self.address))
                .because(&error)
        })?;
        Ok(Object { key: parsed, address: ObjectAddress { key, ..self.address.clone() }, ..self.clone() })
    }

    /// Deletes it. What is not there is deleted.
    ///
    /// # Errors
    /// When the store does not do it.
    pub async fn delete(&self) -> Result<(), Trouble> {
        match self.client.store().delete(&self.key).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.trouble("delete", Use::Output, &error)),
        }
    }

    /// What stands there, if anything.
    ///
    /// # Errors
    /// When the store does not say.
    pub async fn look(&self) -> Result<Option<There>, Trouble> {
        let options = GetOptions { head: true, ..GetOptions::default() };
        match self.client.store().get_opts(&self.key, options).await {
            Ok(found) => Ok(Some(There {
                mark: Mark::read(&found.attributes),
                etag: found.meta.e_tag,
                version: found.meta.version,
                size_bytes: found.meta.size,
            })),
            Err(object_store::Error::NotFound { source, .. }) if !is_bucket(source.as_ref()) => Ok(None),
            Err(error) => Err(self.trouble("look at", Use::Output, &error)),
        }
    }

    /// The whole object, if it is there and has at most `most` bytes.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn read(&self, most: u64) -> Result<Option<Bytes>, Trouble> {
        let trouble = |error| self.trouble("read", Use::Output, &error);
        match self.client.store().get_opts(&self.key, GetOptions::default()).await {
            Ok(found) if found.meta.size > most => Ok(None),
            Ok(found) => found.bytes().await.map(Some).map_err(trouble),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(trouble(error)),
        }
    }

    pub(super) fn trouble(&self, what: &str, purpose: Use, error: &object_store::Error) -> Trouble {
        let mut trouble = Trouble::of_store(&format!("{what} {}", self.address), purpose, error);
        // A cut is the input's only where one is read.
        if purpose == Use::Output && matches!(trouble.cause, Cause::InputTruncated | Cause::InputChanged) {
            trouble.cause = Cause::NetTransient;
        }
        trouble
    }
}

/// Whether it is the bucket that does not exist.
pub(super) fn is_bucket(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if ["NoSuchBucket", "ContainerNotFound"].iter().any(|code| error.to_string().contains(code)) {
            return true;
        }
        next = error.source();
    }
    false
}

/// An object as an input.
#[derive(Debug)]
pub struct ObjectOrigin {
    object: Object,
}

impl ObjectOrigin {
    /// Reads this object.
    #[must_use]
    pub fn new(object: Object) -> ObjectOrigin {
        ObjectOrigin { object }
    }

    /// Asks for everything from a byte on, of one version.
    pub(super) async fn open(&self, from: u64, version: Option<&str>) -> Result<Opened, Trouble> {
        let options = GetOptions {
            range: (from > 0).then_some(GetRange::Offset(from)),
            if_match: version.map(str::to_owned),
            ..GetOptions::default()
        };
        let object = self.object.clone();
        let found = object
            .client
            .store()
            .get_opts(&object.key, options)
            .await
            .map_err(|error| object.trouble("fetch", Use::Input, &error))?;
        let sha256 = Mark::read(&found.attributes).map(|mark| mark.sha256);
        let (meta, first) = (found.meta.clone(), found.range.start);
        let body = found.into_stream();
        Ok(Opened {
            from: first,
            total: Some(meta.size),
            version: meta.e_tag.clone(),
            etag: meta.e_tag,
            modified: Timestamp::from_second(meta.last_modified.timestamp()).ok(),
            sha256,
            body: body.map(move |chunk| chunk.map_err(|error| object.trouble("fetch", Use::Input, &error))).boxed(),
        })
    }
}

/// The guarantee of a store of a kind, where its settings do not say otherwise.
pub(super) fn usual_guarantee(scheme: Scheme) -> Guarantee {
    match scheme {
        Scheme::S3 | Scheme::Gs | Scheme::Az => Guarantee::Conditional,
        Scheme::File | Scheme::Http | Scheme::Https => Guarantee::BestEffort,
    }
}
