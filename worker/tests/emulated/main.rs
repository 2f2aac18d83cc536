//! Google Cloud Storage and Azure Blob Storage, as far as emulators go: what holds for S3 holds there.
//!
//! `compose/check-stores` starts the emulators, writes the folder that [`FOLDER`] names, and runs this; nothing else does.

#[expect(dead_code, reason = "the workshop of the other tests, of which these need a part")]
#[path = "../it/tool/bench.rs"]
mod bench;

use std::path::PathBuf;
use std::time::Duration;

use ffpool_schema::failure::Cause;
use ffpool_schema::id::JobId;
use ffpool_schema::location::{ObjectAddress, Scheme};
use ffpool_schema::message::{Manifest, hex};
use ffpool_worker::publish::Published;
use ffpool_worker::store::Stores;
use ffpool_worker::store::bucket::{Mark, Object};
use ffpool_worker::store::settings::StoreArgs;
use ffpool_worker::store::upload::{Upload, in_one_piece};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::signer::{Method, Signer};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::bench::{Bench, failure, manifest};

/// Where `stores.toml` is: for each scheme one profile for each bucket that is named here.
const FOLDER: &str = "FFPOOL_EMULATED_STORES";
/// Reached directly.
const MEDIA: &str = "media";
/// Reached through something that cuts every long answer.
const FAR: &str = "far";
/// Not there.
const NONE: &str = "none";
/// Reached with a key that is not the account's.
const DENIED: &str = "denied";

fn folder() -> PathBuf {
    std::env::var_os(FOLDER).unwrap_or_else(|| panic!("{FOLDER} is not set: run compose/check-stores")).into()
}

fn settings() -> StoreArgs {
    StoreArgs {
        stores: Some(folder().join("stores.toml")),
        fetch_allow: vec!["127.0.0.1".parse().unwrap()],
        ..StoreArgs::default()
    }
}

struct Place {
    scheme: Scheme,
    stores: Stores,
    job: JobId,
    dir: tempfile::TempDir,
}

impl Place {
    fn every() -> [Place; 2] {
        [Scheme::Gs, Scheme::Az].map(|scheme| Place {
            scheme,
            stores: Stores::open(&settings()).unwrap(),
            job: JobId(Uuid::new_v4()),
            dir: tempfile::tempdir().unwrap(),
        })
    }

    fn url(&self, bucket: &str, key: &str) -> String {
        format!("{}://{bucket}/{key}", self.scheme)
    }

    fn object(&self, bucket: &str, key: &str) -> Object {
        let address = ObjectAddress { scheme: self.scheme, bucket: bucket.to_owned(), key: key.to_owned() };
        self.stores.object(&address).unwrap()
    }

    /// An upload of an attempt, sent as far as it goes without being seen. Its content is the attempt's number.
    async fn sent(&self, object: Object, attempt: u32, length: u64) -> Upload {
        let content = vec![attempt as u8; length as usize];
        let file = self.dir.path().join("made.mp4");
        std::fs::write(&file, &content).unwrap();
        let mark = Mark { job: self.job, attempt, sha256: hex(&Sha256::digest(&content)) };
        let mut upload = Upload::begin(object, &file, length, mark).await.unwrap();
        upload.send(&file, length, &|_| {}).await.unwrap();
        upload
    }

    /// Something for a job to read, and what is in it.
    async fn put(&self, bucket: &str, key: &str, path: &str) -> String {
        let content = std::fs::read(path).unwrap();
        let sha256 = hex(&Sha256::digest(&content));
        let mark = Mark { job: self.job, attempt: 1, sha256: sha256.clone() };
        let upload = Upload::small(self.object(bucket, key), content.into(), "video/mp4", mark);
        assert_eq!(upload.commit().await.unwrap(), Published::Done);
        sha256
    }

    async fn assert_is(&self, key: &str, attempt: u32, length: u64) {
        let there = self.object(MEDIA, key).look().await.unwrap().unwrap();
        assert_eq!((there.mark.unwrap().attempt, there.size_bytes), (attempt, length), "{}: {key}", self.scheme);
        let content = self.object(MEDIA, key).read(length).await.unwrap().unwrap();
        assert!(content == vec![attempt as u8; length as usize], "{}: {key} has other content", self.scheme);
    }

    /// An address that whoever has it may read.
    async fn signed(&self, key: &str) -> String {
        let text = std::fs::read_to_string(folder().join("stores.toml")).unwrap();
        let mut profile = text.parse::<toml::Table>().unwrap()[&format!("{}-signed", self.scheme)].clone();
        let profile = profile.as_table_mut().unwrap();
        profile.retain(|key, _| key != "serves");
        let settings = profile.iter().map(|(key, value)| match value {
            toml::Value::String(text) => (key, text.clone()),
            other => (key, other.to_string()),
        });
        let (key, life) = (object_store::path::Path::from(key), Duration::from_secs(60));
        let signed = if self.scheme == Scheme::Gs {
            let start = GoogleCloudStorageBuilder::new().with_bucket_name(MEDIA);
            let made = settings.fold(start, |made, (key, value)| made.with_config(key.parse().unwrap(), value));
            made.build().unwrap().signed_url(Method::GET, &key, life).await
        } else {
            let start = MicrosoftAzureBuilder::new().with_container_name(MEDIA);
            let made = settings.fold(start, |made, (key, value)| made.with_config(key.parse().unwrap(), value));
            made.build().unwrap().signed_url(Method::GET, &key, life).await
        };
        signed.unwrap().to_string()
    }
}

/// A workshop that reaches the same stores.
async fn bench() -> Bench {
    Bench::with(|with, _| with.stores = settings()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_cut_again_and_again_becomes_an_object_with_its_proof_beside_it() {
    let bench = bench().await;
    // More than the relay lets through at once.
    let clip = bench.clip("in put.mp4", &["-b:v", "8M", "-minrate", "8M", "-maxrate", "8M", "-bufsize", "8M"]);
    for place in Place::every() {
        let sha256 = place.put(FAR, "in put.mp4", &clip).await;
        let mut spec = bench.spec("240p25-h264");
        spec.input = Some(place.url(FAR, "in put.mp4"));
        spec.output = Some(place.url(MEDIA, "made/out.mkv"));
        let grant = bench.grant(&spec);
        let ended = bench.run(&grant).await;
        let made = manifest(&ended);
        assert_eq!(made.source.as_ref().unwrap().sha256, Some(sha256), "{}", place.scheme);
        let object = place.object(MEDIA, "made/out.mkv");
        let content = object.read(64 << 20).await.unwrap().unwrap();
        assert_eq!(made.artifacts[0].sha256, hex(&Sha256::digest(&content)));
        let beside = place.object(MEDIA, "made/out.mkv.ffpool.json").read(1 << 20).await.unwrap().unwrap();
        assert_eq!(&serde_json::from_slice::<Manifest>(&beside).unwrap(), made);

        // The worker died before it could report: the next attempt finds the proof and encodes nothing.
        let next = ffpool_schema::message::Grant { attempt: 2, ..grant };
        let ended = bench.run(&next).await;
        assert_eq!((manifest(&ended), ended.usage.cpu_ms), (made, 0), "{}", place.scheme);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_attempt_never_replaces_a_newer_one_s_object() {
    for place in Place::every() {
        let large = in_one_piece(place.object(MEDIA, "o").guarantee()) + (1 << 20);
        for (key, length) in [("small.mp4", 1000), ("large.mp4", large)] {
            let object = || place.object(MEDIA, key);
            let late = place.sent(object(), 1, length).await;
            assert!(object().look().await.unwrap().is_none(), "{key} is seen before it is committed");
            assert_eq!(place.sent(object(), 2, length).await.commit().await.unwrap(), Published::Done);
            assert_eq!(late.commit().await.unwrap(), Published::Lost, "{}: {key}", place.scheme);
            place.assert_is(key, 2, length).await;
            assert_eq!(place.sent(object(), 3, length).await.commit().await.unwrap(), Published::Done);
            place.assert_is(key, 3, length).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_that_commit_at_the_same_time_leave_the_newest() {
    for place in Place::every() {
        for round in 0..20 {
            let key = format!("race-{round}.mp4");
            let object = || place.object(MEDIA, &key);
            let (one, two) = (place.sent(object(), 1, 1000).await, place.sent(object(), 2, 1000).await);
            let three = place.sent(object(), 3, 1000).await;
            let ends = tokio::join!(one.commit(), two.commit(), three.commit());
            assert_eq!(ends.2.unwrap(), Published::Done, "{}", place.scheme);
            assert!(ends.0.is_ok() && ends.1.is_ok());
            place.assert_is(&key, 3, 1000).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_store_refuses_has_its_cause_and_shows_no_secret() {
    let bench = bench().await;
    let clip = bench.clip("in.mp4", &[]);
    let secrets = std::fs::read_to_string(folder().join("secrets")).unwrap();
    for place in Place::every() {
        place.put(MEDIA, "in.mp4", &clip).await;
        let absent: &[&str] = &["not found", "does not exist"];
        let refused: &[&str] = &["refuses the worker's credentials"];
        for (input, output, cause, words) in [
            ((MEDIA, "gone.mp4"), (MEDIA, "x.mp4"), Cause::InputMissing, absent),
            ((NONE, "in.mp4"), (MEDIA, "x.mp4"), Cause::InputMissing, absent),
            ((DENIED, "in.mp4"), (MEDIA, "x.mp4"), Cause::InputAuth, refused),
            ((MEDIA, "in.mp4"), (NONE, "x.mp4"), Cause::OutputMissing, absent),
            ((MEDIA, "in.mp4"), (DENIED, "x.mp4"), Cause::OutputAuth, refused),
        ] {
            let mut spec = bench.spec("240p25-h264");
            spec.input = Some(place.url(input.0, input.1));
            spec.output = Some(place.url(output.0, output.1));
            let ended = bench.run_spec(&spec).await;
            let said = failure(&ended);
            assert_eq!(said.cause, cause, "{}: {input:?} to {output:?}: {said:?}", place.scheme);
            let shown = format!("{said:?}");
            assert!(secrets.lines().all(|secret| !shown.contains(secret)), "{shown}");
            // A person reads which end of the job it is, and what is wrong with it.
            let is_input = matches!(cause, Cause::InputMissing | Cause::InputAuth);
            let end = if is_input { &spec.input } else { &spec.output };
            assert!(said.message.contains(end.as_deref().unwrap()), "{said:?}");
            assert!(words.iter().any(|word| said.message.contains(word)), "{said:?}");
        }
        assert!(place.object(MEDIA, "x.mp4").look().await.unwrap().is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_address_is_fetched_and_its_signature_shows_nowhere() {
    let bench = bench().await;
    let clip = bench.clip("in.mp4", &[]);
    for place in Place::every() {
        let sha256 = place.put(MEDIA, "in.mp4", &clip).await;
        let signed = place.signed("in.mp4").await;
        let query = signed.split_once('?').unwrap().1;
        let signature = query.split('&').find(|part| part.to_lowercase().contains("sig")).unwrap();
        let mut spec = bench.spec("240p25-h264");
        spec.input = Some(signed.clone());
        spec.output = Some(bench.media("out.mp4").display().to_string());
        let ended = bench.run_spec(&spec).await;
        let made = manifest(&ended);
        assert_eq!(made.source.as_ref().unwrap().sha256, Some(sha256), "{}", place.scheme);
        assert!(!serde_json::to_string(made).unwrap().contains(signature), "{made:?}");

        // One of another object is refused, and not shown either.
        spec.input = Some(signed.replace("in.mp4", "gone.mp4"));
        let ended = bench.run_spec(&spec).await;
        let said = failure(&ended);
        assert_eq!(said.cause, Cause::InputAuth, "{}: {said:?}", place.scheme);
        assert!(!format!("{said:?}").contains(signature), "{said:?}");
    }
}
