//! Remote inputs and outputs: which stores this worker reaches, and the way to each thing that a job names.
//!
//! An input is brought into the attempt's scratch by [`fetch`](fetch::fetch) before any tool runs, from a web server
//! ([`web`], which goes only where [`ffpool_runtime::guard`] allows) or from an object store ([`bucket`], opened by [`profiles`]). An output
//! is sent by [`upload`]; [`find_published`] finds what an earlier attempt had put before it died.
//!
//! Invariant: the tools are given files; addresses only of live sources and sinks, and those are judged here first. No
//! credential leaves this module.

pub mod bucket;
pub mod fetch;
pub mod profiles;
pub mod settings;
pub mod stated;
pub mod tree;
pub mod trouble;
pub mod upload;
pub mod web;
mod wire;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ffpool_schema::failure::Cause;
use ffpool_schema::id::JobId;
use ffpool_schema::location::{Location, ObjectAddress, Scheme};
use ffpool_schema::message::Manifest;
use futures_util::future::join_all;
use object_store::path::Path as Key;

use bucket::{Object, ObjectOrigin};
use fetch::Origin;
use ffpool_runtime::guard::Cidr;
use profiles::{Profile, StoresError};
use settings::StoreArgs;
use trouble::Trouble;
use web::WebOrigin;

/// For a first word with each store, at start.
const FIRST_WORD: Duration = Duration::from_secs(5);
/// For a connection to a store.
const CONNECT: Duration = Duration::from_secs(10);
/// Silence of a web server of a live source after which a request is given up.
const LIVE_SILENCE: Duration = Duration::from_secs(30);
/// The largest manifest that is read, in bytes.
const MANIFEST_BYTES: u64 = 16 << 20;

/// The stores that a worker reaches.
#[derive(Debug)]
pub struct Stores {
    profiles: Vec<Profile>,
    allowed: Arc<[Cidr]>,
    /// Absent where none can be made, as on a machine without CA certificates: then only files are served.
    http: Option<reqwest::Client>,
    live_ca: Option<LiveCa>,
}

/// Certificates that live servers over TLS are held against, instead of those that the system trusts.
#[derive(Debug)]
struct LiveCa {
    pem: Vec<u8>,
    certificates: Vec<reqwest::Certificate>,
}

impl LiveCa {
    fn read(file: &Path) -> Result<LiveCa, StoresError> {
        let fail = |message: &str| StoresError::Certificates { path: file.to_owned(), message: message.to_owned() };
        let pem = std::fs::read(file).map_err(|source| StoresError::Read { path: file.to_owned(), source })?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem)
            .map_err(|error| fail(&format!("no PEM certificates: {error}")))?;
        if certificates.is_empty() {
            return Err(fail("there is no PEM certificate in it"));
        }
        Ok(LiveCa { pem, certificates })
    }
}

impl Stores {
    /// Reads the profiles.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn open(settings: &StoreArgs) -> Result<Stores, StoresError> {
        // Before the first client: there is no other place that every way to a store goes through.
        ffpool_runtime::install_crypto();
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let profiles = profiles::read(settings.stores.as_deref(), &settings.machine_stores, &is_set)?;
        let http = plain_http().build();
        if let Err(error) = &http {
            let error: &dyn std::error::Error = error;
            tracing::warn!(
                error,
                "no HTTP client can be made, so only files are served: install the CA certificates (ca-certificates)"
            );
        }
        let live_ca = settings.live_ca_file.as_deref().map(LiveCa::read).transpose()?;
        Ok(Stores { profiles, allowed: settings.fetch_allow.clone().into(), http: http.ok(), live_ca })
    }

    /// What this worker serves besides files, as [`Location::is_served_by`] understands it.
    #[must_use]
    pub fn served(&self) -> Vec<String> {
        if self.http.is_none() {
            return Vec::new();
        }
        let mut served: Vec<String> = [Scheme::Http, Scheme::Https].map(|scheme| scheme.to_string()).to_vec();
        served.extend(self.profiles.iter().map(|profile| profile.serves.to_string()));
        served.sort();
        served.dedup();
        served
    }

    /// Says of every store whether it answers and how outputs are guarded there.
    pub async fn say_which(&self) {
        join_all(self.profiles.iter().map(|profile| self.say(profile))).await;
    }

    async fn say(&self, profile: &Profile) {
        let (name, store, guarantee) = (&profile.name, profile.serves.to_string(), profile.guarantee.as_str());
        let Some(bucket) = &profile.serves.bucket else {
            tracing::info!(profile = name, store, guarantee, "serving an object store");
            return;
        };
        let address =
            ObjectAddress { scheme: profile.serves.scheme, bucket: bucket.clone(), key: ".ffpool".to_owned() };
        let word = match self.object(&address) {
            Ok(object) => tokio::time::timeout(FIRST_WORD, object.look()).await,
            Err(trouble) => Ok(Err(trouble)),
        };
        match word {
            Ok(Ok(_)) => {
                tracing::info!(profile = name, store, guarantee, "serving an object store: it lets this worker in")
            }
            Ok(Err(trouble)) => tracing::warn!(
                profile = name, store, guarantee, cause = %trouble.cause, evidence = trouble.evidence,
                "an object store does not let this worker in: {}", trouble.message
            ),
            Err(_) => tracing::warn!(profile = name, store, guarantee, "an object store does not answer"),
        }
    }

    /// The way to an input. `None`: it is a file.
    ///
    /// # Errors
    /// When no profile serves it.
    pub fn origin(&self, location: &Location) -> Result<Option<Origin>, Trouble> {
        match location {
            Location::File(_) => Ok(None),
            Location::Live(_) => Err(Trouble::lasting(Cause::Policy, "a live source is not fetched")),
            Location::Web(url) => WebOrigin::new(url, self.allowed.clone()).map(|origin| Some(Origin::Web(origin))),
            Location::Object(address) => {
                self.object(address).map(|object| Some(Origin::Object(ObjectOrigin::new(object))))
            }
        }
    }

    /// The addresses of a host that a live job names. The first is as good as the others.
    ///
    /// # Errors
    /// When it has none, or one that may not be gone to.
    pub async fn reach(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Trouble> {
        web::judged(host, port, &self.allowed).await
    }

    /// A client for a web server that a live source leads to, at addresses that were judged.
    ///
    /// # Errors
    /// When none can be made.
    pub fn live_client(
        &self,
        host: &str,
        is_secure: bool,
        addresses: &[SocketAddr],
    ) -> Result<reqwest::Client, Trouble> {
        let mut builder = web::client(host, addresses).read_timeout(LIVE_SILENCE);
        if !is_secure {
            // Otherwise the client refuses to exist on a machine without the system's certificates.
            builder = builder.tls_certs_only([]);
        } else if let Some(ca) = &self.live_ca {
            builder = builder.tls_certs_only(ca.certificates.iter().cloned());
        }
        let made = builder.build();
        made.map_err(|error| Trouble::lasting(Cause::Platform, "an HTTP client cannot be made").because(&error))
    }

    /// The certificates (PEM) that live servers are held against, where they are not the system's.
    #[must_use]
    pub fn live_ca(&self) -> Option<&[u8]> {
        self.live_ca.as_ref().map(|ca| ca.pem.as_slice())
    }

    /// The address ranges that may be gone to besides public ones.
    #[must_use]
    pub fn allowed(&self) -> Arc<[Cidr]> {
        self.allowed.clone()
    }

    /// The way to an object.
    ///
    /// # Errors
    /// When no profile serves it.
    pub fn object(&self, address: &ObjectAddress) -> Result<Object, Trouble> {
        let Some(profile) = self.profiles.iter().find(|profile| profile.is_for(address)) else {
            return Err(Trouble::lasting(Cause::Policy, format!("this worker has no credentials for {address}")));
        };
        let Some(http) = self.http.clone() else {
            return Err(Trouble::lasting(
                Cause::Platform,
                "no HTTP client can be made here: are there CA certificates?",
            ));
        };
        let key = Key::parse(&address.key).map_err(|error| {
            Trouble::lasting(Cause::ConfigBad, format!("{address} has no usable key")).because(&error)
        })?;
        let unusable = || Trouble::lasting(Cause::Platform, format!("profile `{}` cannot be used", profile.name));
        let client = profile.client(&address.bucket).map_err(|error| unusable().because(&error))?;
        let http = profile.own_http().map_err(|error| unusable().because(&error))?.unwrap_or(http);
        Ok(Object { address: address.clone(), key, client, guarantee: profile.guarantee, http })
    }
}

/// Goes where it is told, and nowhere else.
fn plain_http() -> reqwest::ClientBuilder {
    reqwest::Client::builder().connect_timeout(CONNECT).no_proxy().redirect(reqwest::redirect::Policy::none())
}

/// The manifest of an output that an earlier attempt of the same job put before it could report: the output is one of its
/// artifacts by this name, and the object bears its mark.
pub async fn find_published(object: &Object, name: Option<&str>, job: JobId) -> Option<Manifest> {
    let text = object.manifest().read(MANIFEST_BYTES).await.ok()??;
    let manifest: Manifest = serde_json::from_slice(&text).ok()?;
    let artifact = manifest.artifacts.iter().find(|artifact| artifact.name.as_deref() == name)?;
    let there = object.look().await.ok()??;
    let mark = there.mark?;
    let is_proven = manifest.job == job
        && mark.job == job
        && mark.attempt == manifest.attempt
        && mark.sha256 == artifact.sha256
        && there.size_bytes == artifact.size_bytes;
    (is_proven && tree::is_whole(object, &artifact.files).await).then_some(manifest)
}

/// The files that a presentation which stands at an object names beside it, as far as they are ours.
pub async fn named_beside(object: &Object) -> Vec<String> {
    let Ok(Some(text)) = object.manifest().read(MANIFEST_BYTES).await else { return Vec::new() };
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&text) else { return Vec::new() };
    let url = object.address().to_string();
    let here = manifest.artifacts.into_iter().filter(|artifact| artifact.url == url);
    here.flat_map(|artifact| artifact.files)
        .map(|file| file.path)
        .filter(|path| path.starts_with("segments-"))
        .collect()
}
