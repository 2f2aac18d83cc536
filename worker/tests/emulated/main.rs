//! Google Cloud Storage and Azure Blob Storage, as far as emulators go: what holds for S3 holds there.
//!
//! `compose/check-stores` starts the emulators, writes the folder that [`FOLDER`] names, and runs this; nothing else does.

#[expect(dead_code, reason = "the workshop of the other tests, of which these need a part")]
#[path = "../it/tool/bench.rs"]
mod bench;
mod between;

use std::path::PathBuf;
use std::sync::Arc;
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
use futures_util::TryStreamExt as _;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path as Key;
use object_store::signer::{Method, Signer};
use object_store::{ObjectStore, ObjectStoreExt as _};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::bench::{Bench, failure, manifest};
use crate::between::{Between, Mishap};

/// Where `stores.toml` is: for each scheme one profile for each bucket that is named here.
const FOLDER: &str = "FFPOOL_EMULATED_STORES";
/// Reached directly.
const MEDIA: &str = "media";
/// Reached through something that cuts every long answer.
const FAR: &str = "far";
/// Azure's: reached by a signature instead of the account's key.
const SHARED: &str = "shared";
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
        [Scheme::Gs, Scheme::Az].map(|scheme| Place::of(scheme, &settings()))
    }

    fn of(scheme: Scheme, settings: &StoreArgs) -> Place {
        let (job, dir) = (JobId(Uuid::new_v4()), tempfile::tempdir().unwrap());
        Place { scheme, stores: Stores::open(settings).unwrap(), job, dir }
    }

    /// The same place for the same job, reached through something in which mishaps happen.
    async fn behind(&self, is_conditional: bool) -> (Place, Between) {
        let mut profile = self.profile();
        profile.insert("conditional".to_owned(), is_conditional.into());
        let name = if self.scheme == Scheme::Gs { "base_url" } else { "endpoint" };
        let direct = profile[name].as_str().unwrap().to_owned();
        let server = direct.strip_prefix("http://").unwrap().split('/').next().unwrap();
        let marker = if self.scheme == Scheme::Gs { "x-goog-copy-source" } else { "comp=blocklist" };
        let between = Between::start(server, marker).await;
        profile.insert(name.to_owned(), direct.replace(server, &between.address).into());
        profile.insert("serves".to_owned(), format!("{}://{MEDIA}", self.scheme).into());
        let file = self.dir.path().join("stores.toml");
        std::fs::write(&file, toml::to_string(&toml::Table::from_iter([("p".to_owned(), profile.into())])).unwrap())
            .unwrap();
        let settings = StoreArgs { stores: Some(file), ..StoreArgs::default() };
        (Place { job: self.job, ..Place::of(self.scheme, &settings) }, between)
    }

    /// One byte more than goes in one piece would do; so there are several parts.
    fn large(&self) -> u64 {
        in_one_piece(self.scheme) + (1 << 20)
    }

    /// What is not for workers: a way to the store that passes none of their code.
    fn profile(&self) -> toml::Table {
        let text = std::fs::read_to_string(folder().join("stores.toml")).unwrap();
        let profile = text.parse::<toml::Table>().unwrap()[&format!("{}-signed", self.scheme)].clone();
        let mut profile = profile.as_table().unwrap().clone();
        profile.remove("serves");
        profile
    }

    /// The same as a client.
    fn store(&self) -> (Arc<dyn ObjectStore>, Arc<dyn Signer>) {
        let profile = self.profile();
        let settings = profile.iter().map(|(key, value)| match value {
            toml::Value::String(text) => (key, text.clone()),
            other => (key, other.to_string()),
        });
        if self.scheme == Scheme::Gs {
            let start = GoogleCloudStorageBuilder::new().with_bucket_name(MEDIA);
            let made = settings.fold(start, |made, (key, value)| made.with_config(key.parse().unwrap(), value));
            let store = Arc::new(made.build().unwrap());
            (store.clone(), store)
        } else {
            let start = MicrosoftAzureBuilder::new().with_container_name(MEDIA);
            let made = settings.fold(start, |made, (key, value)| made.with_config(key.parse().unwrap(), value));
            let store = Arc::new(made.build().unwrap());
            (store.clone(), store)
        }
    }

    /// What lies under the staged names of an output.
    async fn staged(&self, key: &str) -> Vec<String> {
        let prefix = Key::parse(format!("{key}.ffpool")).unwrap();
        let found = self.store().0.list(Some(&prefix)).map_ok(|found| found.location.to_string());
        found.try_collect().await.unwrap()
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
        let file = self.dir.path().join(format!("made-{attempt}.mp4"));
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
        let signed = self.store().1.signed_url(Method::GET, &Key::from(key), Duration::from_secs(60)).await;
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
        for (key, length) in [("small.mp4", 1000), ("large 50%.mp4", place.large())] {
            let object = || place.object(MEDIA, key);
            let late = place.sent(object(), 1, length).await;
            assert!(object().look().await.unwrap().is_none(), "{key} is seen before it is committed");
            assert_eq!(place.sent(object(), 2, length).await.commit().await.unwrap(), Published::Done);
            assert_eq!(late.commit().await.unwrap(), Published::Lost, "{}: {key}", place.scheme);
            place.assert_is(key, 2, length).await;
            assert_eq!(place.sent(object(), 3, length).await.commit().await.unwrap(), Published::Done);
            place.assert_is(key, 3, length).await;
            // Repeated after its answer was lost, a commit is no conflict with itself.
            assert_eq!(place.sent(object(), 3, length).await.commit().await.unwrap(), Published::Done);
            place.assert_is(key, 3, length).await;
            assert_eq!(place.staged(key).await, Vec::<String>::new(), "{}", place.scheme);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_output_replaces_only_what_it_has_looked_at_and_knows_itself_again() {
    for place in Place::every() {
        let (behind, between) = place.behind(true).await;
        let (key, large) = ("mishaps.mp4", place.large());
        let sent = async |attempt| behind.sent(behind.object(MEDIA, key), attempt, large).await;

        // Somebody writes there between the look and the write: the store refuses, and the commit looks again. Azure has
        // thrown away what was sent by then.
        let (store, at) = (place.store().0, Key::from(key));
        between.next(Mishap::Before(Box::pin(async move {
            store.put(&at, "of somebody else".into()).await.unwrap();
        })));
        assert_eq!(sent(1).await.commit().await.unwrap(), Published::Done, "{}", place.scheme);
        assert!(between.has_happened());
        place.assert_is(key, 1, large).await;

        // The next attempt's output takes the place in that moment.
        let (late, newer) = (sent(2).await, place.sent(place.object(MEDIA, key), 3, large).await);
        between
            .next(Mishap::Before(Box::pin(async move { assert_eq!(newer.commit().await.unwrap(), Published::Done) })));
        assert_eq!(late.commit().await.unwrap(), Published::Lost, "{}", place.scheme);
        assert!(between.has_happened());
        place.assert_is(key, 3, large).await;

        let upload = sent(4).await;
        between.next(Mishap::AnswerLost);
        assert_eq!(upload.commit().await.unwrap(), Published::Done, "{}", place.scheme);
        assert!(between.has_happened());
        place.assert_is(key, 4, large).await;
        assert_eq!(place.staged(key).await, Vec::<String>::new(), "{}", place.scheme);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_output_finds_its_place_without_conditions_and_by_a_signature() {
    for place in Place::every() {
        let (large, (free, _between)) = (place.large(), place.behind(false).await);
        let object = || free.object(MEDIA, "free.mp4");
        let late = free.sent(object(), 1, large).await;
        assert_eq!(free.sent(object(), 2, large).await.commit().await.unwrap(), Published::Done, "{}", place.scheme);
        assert_eq!(late.commit().await.unwrap(), Published::Lost, "{}", place.scheme);
        place.assert_is("free.mp4", 2, large).await;
    }
    let [_, azure] = Place::every();
    for attempt in [1, 2] {
        let upload = azure.sent(azure.object(SHARED, "o.mp4"), attempt, azure.large()).await;
        assert_eq!(upload.commit().await.unwrap(), Published::Done);
        let there = azure.object(SHARED, "o.mp4").look().await.unwrap().unwrap();
        assert_eq!((there.mark.unwrap().attempt, there.size_bytes), (attempt, azure.large()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_leaves_nothing_and_what_a_dead_attempt_left_is_swept_by_the_next() {
    for place in Place::every() {
        let (key, large) = ("given-up.mp4", place.large());
        let mut upload = place.sent(place.object(MEDIA, key), 1, large).await;
        upload.abort().await;
        assert!(place.object(MEDIA, key).look().await.unwrap().is_none());
        assert_eq!(place.staged(key).await, Vec::<String>::new(), "{}", place.scheme);
    }
    // Only Google's has something to leave: an output that was put together and not yet copied into place.
    let [place, _] = Place::every();
    let (key, large) = ("swept.mp4", place.large());
    let name = |job: JobId, attempt| format!("{key}.ffpool/{job}.{attempt}.ffpool-part");
    let young = name(JobId(Uuid::new_v4()), 1);
    for left in [&name(place.job, 1), &young] {
        place.store().0.put(&Key::parse(left).unwrap(), "left".into()).await.unwrap();
    }
    let upload = place.sent(place.object(MEDIA, key), 2, large).await;
    assert_eq!(place.staged(key).await, [young.as_str()], "another job's may be on its way");
    assert_eq!(upload.commit().await.unwrap(), Published::Done);
    place.assert_is(key, 2, large).await;
    assert_eq!(place.staged(key).await, [young.as_str()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_that_commit_at_the_same_time_leave_the_newest() {
    for place in Place::every() {
        for round in 0..21 {
            // The last with what goes in parts.
            let (key, length) = (format!("race-{round}.mp4"), if round < 20 { 1000 } else { place.large() });
            let object = || place.object(MEDIA, &key);
            let (one, two) = (place.sent(object(), 1, length).await, place.sent(object(), 2, length).await);
            let three = place.sent(object(), 3, length).await;
            let ends = tokio::join!(one.commit(), two.commit(), three.commit());
            assert_eq!(ends.2.unwrap(), Published::Done, "{}", place.scheme);
            assert!(ends.0.is_ok() && ends.1.is_ok());
            place.assert_is(&key, 3, length).await;
            assert_eq!(place.staged(&key).await, Vec::<String>::new(), "{}", place.scheme);
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
