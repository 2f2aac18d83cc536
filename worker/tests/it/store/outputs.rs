//! Putting outputs: nothing shows before its time, nothing newer is replaced, nothing is left of what was given up.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ffpool_schema::failure::Cause;
use ffpool_schema::id::JobId;
use ffpool_schema::location::{ObjectAddress, Scheme};
use ffpool_schema::message::hex;
use ffpool_worker::publish::Published;
use ffpool_worker::store::Stores;
use ffpool_worker::store::bucket::{Mark, Object};
use ffpool_worker::store::settings::StoreArgs;
use ffpool_worker::store::upload::Upload;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::s3::{Mishap, S3};
use crate::pool::until;

/// Larger than what goes in one piece.
const LARGE: usize = 17 << 20;

struct Bench {
    s3: S3,
    stores: Stores,
    job: JobId,
}

impl Bench {
    async fn open(more: &str) -> Bench {
        let s3 = S3::start().await;
        let profile = s3.profile("store", "s3", more);
        Bench::of(s3, &profile)
    }

    fn of(s3: S3, profile: &str) -> Bench {
        let file = s3.root.path().join("stores.toml");
        std::fs::write(&file, profile).unwrap();
        let stores = Stores::open(&StoreArgs { stores: Some(file), ..StoreArgs::default() }).unwrap();
        Bench { s3, stores, job: JobId(Uuid::new_v4()) }
    }

    fn object(&self, bucket: &str, key: &str) -> Object {
        let address = ObjectAddress { scheme: Scheme::S3, bucket: bucket.to_owned(), key: key.to_owned() };
        self.stores.object(&address).unwrap()
    }

    /// What an attempt's file of this length is marked with.
    fn mark(&self, attempt: u32, length: usize) -> Mark {
        let sha256 = hex(&Sha256::digest(vec![attempt as u8; length]));
        Mark { job: self.job, attempt, sha256 }
    }

    fn file(&self, attempt: u32, length: usize) -> PathBuf {
        let path = self.s3.root.path().join(format!("made-{attempt}.mp4"));
        std::fs::write(&path, vec![attempt as u8; length]).unwrap();
        path
    }

    /// An attempt's file, sent as far as it goes without being seen.
    async fn sent(&self, key: &str, attempt: u32, length: usize) -> Upload {
        let file = self.file(attempt, length);
        let object = self.object("media", key);
        let mut upload = Upload::begin(object, &file, length as u64, self.mark(attempt, length)).await.unwrap();
        upload.send(&file, length as u64, &|_| {}).await.unwrap();
        upload
    }

    fn maker(&self, key: &str) -> (u8, usize) {
        let bytes = std::fs::read(self.s3.path(key)).unwrap();
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "the object is of one attempt");
        (bytes[0], bytes.len())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_attempt_never_replaces_a_newer_one_s_object() {
    let bench = Bench::open("").await;
    for (key, length) in [("small.mp4", 1000), ("large.mp4", LARGE)] {
        // The first attempt has sent everything, and is held up before the last step.
        let late = bench.sent(key, 1, length).await;
        assert!(!bench.s3.path(key).exists(), "{key} is seen before it is committed");
        let newer = bench.sent(key, 2, length).await;
        assert_eq!(newer.commit().await.unwrap(), Published::Done);
        assert_eq!(late.commit().await.unwrap(), Published::Lost, "{key}");
        assert_eq!(bench.maker(key), (2, length));
        // A later one still replaces it.
        assert_eq!(bench.sent(key, 3, length).await.commit().await.unwrap(), Published::Done);
        assert_eq!(bench.maker(key), (3, length));
        let there = bench.object("media", key).look().await.unwrap().unwrap();
        assert_eq!(there.mark, Some(bench.mark(3, length)));
        // Repeated after its answer was lost, a commit is no conflict with itself, and what was sent for it is taken back.
        assert_eq!(bench.sent(key, 3, length).await.commit().await.unwrap(), Published::Done);
    }
    assert_eq!(bench.s3.unfinished(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_an_authority_of_its_own_is_reached_by_the_profile_that_trusts_it() {
    let s3 = S3::start_with_tls().await;
    let profile = s3.profile("store", "s3", "");
    let bench = Bench::of(s3, &profile);
    // Both ways: by the store's library, and by the request that ends an upload in parts.
    for (key, length) in [("small.mp4", 1000), ("large.mp4", LARGE)] {
        assert_eq!(bench.sent(key, 1, length).await.commit().await.unwrap(), Published::Done, "{key}");
        assert_eq!(bench.maker(key), (1, length));
    }
    let without: String =
        profile.lines().filter(|line| !line.starts_with("ca_file")).flat_map(|line| [line, "\n"]).collect();
    let bench = Bench::of(bench.s3, &without);
    let refused = bench.object("media", "small.mp4").look().await.unwrap_err();
    assert!(format!("{refused:?}").contains("certificate"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_that_commit_at_the_same_time_leave_the_newest() {
    let bench = Bench::open("").await;
    std::fs::write(bench.s3.path("o.mp4"), "of somebody else").unwrap();
    let (one, two, three) =
        (bench.sent("o.mp4", 1, 1000).await, bench.sent("o.mp4", 2, 1000).await, bench.sent("o.mp4", 3, 1000).await);
    assert_eq!(three.commit().await.unwrap(), Published::Done);
    let (one, two) = tokio::join!(one.commit(), two.commit());
    assert_eq!((one.unwrap(), two.unwrap()), (Published::Lost, Published::Lost));
    assert_eq!(bench.maker("o.mp4"), (3, 1000));
    // Repeated after its answer was lost, a commit is no conflict with itself.
    assert_eq!(bench.sent("o.mp4", 3, 1000).await.commit().await.unwrap(), Published::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_replaces_only_what_it_has_looked_at_and_knows_its_own_object_again() {
    let bench = Bench::open("").await;
    for (key, length) in [("small.mp4", 1000), ("large.mp4", LARGE)] {
        // Somebody writes there between the look and the write: the store refuses, and the commit looks again.
        let path = bench.s3.path(key);
        let act = move || std::fs::write(path, "of somebody else").unwrap();
        let upload = bench.sent(key, 1, length).await;
        bench.s3.mishap.lock().unwrap().replace(Mishap::Before(Box::new(act)));
        assert_eq!(upload.commit().await.unwrap(), Published::Done, "{key}");
        assert_eq!(bench.maker(key), (1, length));

        let newer = bench.sent(key, 2, length).await;
        let aside = format!("aside-{key}");
        let even_newer = bench.sent(&aside, 3, length).await;
        assert_eq!(even_newer.commit().await.unwrap(), Published::Done);
        // The next attempt's object takes the place in that moment, its mark with it.
        let (root, aside, place) = (bench.s3.root.path().to_owned(), aside.clone(), key.to_owned());
        let act = move || take_place(&root, &aside, &place);
        bench.s3.mishap.lock().unwrap().replace(Mishap::Before(Box::new(act)));
        assert_eq!(newer.commit().await.unwrap(), Published::Lost, "{key}");
        assert_eq!(bench.maker(key), (3, length));

        let upload = bench.sent(key, 4, length).await;
        bench.s3.mishap.lock().unwrap().replace(Mishap::AnswerLost);
        assert_eq!(upload.commit().await.unwrap(), Published::Done, "{key}");
        assert_eq!(bench.maker(key), (4, length));
        assert!(bench.s3.mishap.lock().unwrap().is_none(), "the mishap happened");
    }
}

/// Puts one object in the place of another, with all that the server keeps of it.
fn take_place(root: &Path, from: &str, to: &str) {
    std::fs::copy(root.join("media").join(from), root.join("media").join(to)).unwrap();
    let part = |key: &str| format!(".object-{}.", URL_SAFE_NO_PAD.encode(key));
    for entry in std::fs::read_dir(root).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if name.contains(&part(from)) {
            std::fs::copy(entry.path(), root.join(name.replace(&part(from), &part(to)))).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_leaves_nothing() {
    let bench = Bench::open("").await;
    let mut upload = bench.sent("o.mp4", 1, LARGE).await;
    assert_ne!(bench.s3.unfinished(), Vec::<String>::new(), "its parts are in the store");
    upload.abort().await;
    assert_eq!(bench.s3.unfinished(), Vec::<String>::new());
    // As a stop does that comes while it is sent.
    drop(bench.sent("o.mp4", 2, LARGE).await);
    until("the parts of a dropped upload are gone", async || {
        let unfinished = bench.s3.unfinished();
        if unfinished.is_empty() { Ok(()) } else { Err(unfinished) }
    })
    .await;
    assert_eq!(bench.s3.keys(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_conditional_writes_is_looked_at_first() {
    let bench = Bench::open("conditional = false").await;
    for (key, length) in [("small.mp4", 1000), ("large.mp4", LARGE)] {
        let late = bench.sent(key, 1, length).await;
        assert_eq!(bench.sent(key, 2, length).await.commit().await.unwrap(), Published::Done);
        assert_eq!(late.commit().await.unwrap(), Published::Lost);
        assert_eq!(bench.maker(key), (2, length));
    }
}

/// A tool that was turned against us may still write, or put a link in the place of its file.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_what_was_verified_is_not_sent() {
    let bench = Bench::open("").await;
    let begin = async |file: &Path| {
        let begun = Upload::begin(bench.object("media", "a.mp4"), file, 1000, bench.mark(1, 1000)).await;
        begun.map(|_| ()).unwrap_err()
    };
    let file = bench.file(1, 1000);
    std::fs::write(&file, [7; 1000]).unwrap();
    assert_eq!(begin(&file).await.cause, Cause::VerifyFailed);
    let secret = bench.file(1, 1000).with_file_name("secret");
    std::fs::rename(&file, &secret).unwrap();
    std::os::unix::fs::symlink(&secret, &file).unwrap();
    assert!(begin(&file).await.message.contains("cannot be read"), "not followed");

    // What goes in parts is found out on its way.
    let file = bench.file(2, LARGE);
    let mut content = std::fs::read(&file).unwrap();
    *content.last_mut().unwrap() = b'x';
    std::fs::write(&file, content).unwrap();
    let object = bench.object("media", "a.mp4");
    let mut upload = Upload::begin(object, &file, LARGE as u64, bench.mark(2, LARGE)).await.unwrap();
    assert_eq!(upload.send(&file, LARGE as u64, &|_| {}).await.unwrap_err().cause, Cause::VerifyFailed);
    upload.abort().await;
    assert_eq!(bench.s3.unfinished(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_store_has_its_cause() {
    let bench = Bench::open("").await;
    let file = bench.file(1, 1000);
    let cause = async |object: Object, file: &Path| {
        let upload = Upload::begin(object, file, 1000, bench.mark(1, 1000)).await.unwrap();
        upload.commit().await.unwrap_err().cause
    };
    let wrong = bench.s3.root.path().join("wrong.toml");
    std::fs::write(&wrong, bench.s3.profile_with("store", "s3", "not-the-secret", "")).unwrap();
    let stores = Stores::open(&StoreArgs { stores: Some(wrong), ..StoreArgs::default() }).unwrap();
    let address = bench.object("media", "o.mp4").address().clone();
    assert_eq!(cause(stores.object(&address).unwrap(), &file).await, Cause::OutputAuth);
    let other = ObjectAddress { scheme: Scheme::Gs, ..address };
    assert_eq!(stores.object(&other).unwrap_err().cause, Cause::Policy);
}
