//! Whole attempts with remote ends.

use ffpool_schema::failure::Cause;
use ffpool_schema::job::{ExtraOutput, Parameters};
use ffpool_schema::message::{Manifest, Outcome};
use sha2::{Digest, Sha256};

use super::s3::S3;
use super::web::{Answer, Web};
use crate::tool::bench::{Bench, Ledger, failure, manifest};

fn sha256(bytes: &[u8]) -> String {
    ffpool_schema::message::hex(&Sha256::digest(bytes))
}

async fn bench(s3: &S3) -> Bench {
    let profile = s3.profile("store", "s3://media", "");
    let _ = rustls::crypto::ring::default_provider().install_default();
    Bench::with(|settings, dir| {
        let file = dir.join("stores.toml");
        std::fs::write(&file, profile).unwrap();
        settings.stores.stores = Some(file);
        settings.stores.fetch_allow = vec!["127.0.0.1".parse().unwrap()];
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_becomes_an_object_with_its_proof_beside_it() {
    let s3 = S3::start().await;
    let bench = bench(&s3).await;
    assert_eq!(bench.workshop.ability().stores, ["http", "https", "s3://media"]);
    let clip = bench.clip("in put.mp4", &[]);
    std::fs::copy(&clip, s3.path("in put.mp4")).unwrap();
    let mut spec = bench.spec("240p25-h264");
    spec.input = Some("s3://media/in put.mp4".to_owned());
    spec.output = Some("s3://media/made/out.mkv".to_owned());
    let grant = bench.grant(&spec);
    let ended = bench.run(&grant).await;
    let made = manifest(&ended);
    let object = std::fs::read(s3.path("made/out.mkv")).unwrap();
    assert_eq!(made.artifacts[0].url, "s3://media/made/out.mkv");
    assert_eq!((made.artifacts[0].size_bytes, &made.artifacts[0].sha256), (object.len() as u64, &sha256(&object)));
    let source = made.source.as_ref().unwrap();
    assert_eq!(
        (source.url.as_str(), source.sha256.clone()),
        ("s3://media/in put.mp4", Some(sha256(&std::fs::read(&clip).unwrap())))
    );
    assert!(source.etag.is_some());
    let beside: Manifest =
        serde_json::from_slice(&std::fs::read(s3.path("made/out.mkv.ffpool.json")).unwrap()).unwrap();
    assert_eq!(&beside, made);
    bench.assert_clean();

    // The worker died before it could report: the next attempt finds the proof and encodes nothing.
    let mut next = grant.clone();
    next.attempt = 2;
    let ended = bench.run(&next).await;
    assert_eq!(manifest(&ended), made);
    assert_eq!(ended.usage.cpu_ms, 0);
    // An object that is not what its proof says is replaced.
    std::fs::write(s3.path("made/out.mkv"), "something else").unwrap();
    next.attempt = 3;
    assert_eq!(manifest(&bench.run(&next).await).attempt, 3);
    assert_ne!(std::fs::read(s3.path("made/out.mkv")).unwrap(), b"something else");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_address_is_fetched_and_its_signature_shows_nowhere() {
    let s3 = S3::start().await;
    let bench = bench(&s3).await;
    let clip = std::fs::read(bench.clip("in.mp4", &[])).unwrap();
    let web = Web::start(move |asked| Answer::ranged(asked, "\"1\"", &clip).cut(20_000, true)).await;
    let mut spec = bench.spec("240p25-h264");
    spec.input = Some(web.url("/in.mp4?X-Signature=hunter2"));
    spec.output = Some(bench.media("out.mp4").display().to_string());
    let mut running = bench.start(&bench.grant(&spec), Ledger::Grants);
    let ended = running.ended.await.unwrap();
    let made = manifest(&ended);
    assert_eq!(made.source.as_ref().unwrap().url, web.url("/in.mp4?***"));
    assert!(web.times() > 1, "it was cut");
    assert!(web.asked.lock().unwrap().iter().all(|asked| asked.path == "/in.mp4?X-Signature=hunter2"));
    let mut said = serde_json::to_string(made).unwrap();
    while let Ok(line) = running.log.try_recv() {
        said.push_str(&line.line);
    }
    assert!(said.contains("fetched") && !said.contains("hunter2"), "{said}");
    assert!(made.arguments.contains(&"file:input".to_owned()), "the tool is given a file: {:?}", made.arguments);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_is_what_the_job_says_or_nothing_is_made_of_it() {
    let s3 = S3::start().await;
    let bench = bench(&s3).await;
    let path = bench.clip("in.mp4", &[]);
    let clip = std::fs::read(&path).unwrap();
    std::fs::write(s3.path("in.mp4"), &clip).unwrap();
    let served = clip.clone();
    let web = Web::start(move |asked| Answer::ranged(asked, "\"1\"", &served).cut(20_000, true)).await;
    let (sum, size) = (sha256(&clip), clip.len() as u64);
    let mut spec = bench.spec("240p25-h264");
    for (name, input) in [("file", path), ("s3", "s3://media/in.mp4".to_owned()), ("http", web.url("/in.mp4"))] {
        spec.input = Some(input);
        spec.output = Some(bench.media(&format!("{name}.never.mp4")).display().to_string());
        for (sha256, bytes, found) in
            [("ab".repeat(32), size, sum.clone()), (sum.clone(), size + 1, format!("found {size} bytes"))]
        {
            spec.input_sha256 = Some(sha256.parse().unwrap());
            spec.input_size_bytes = Some(bytes);
            let ended = bench.run_spec(&spec).await;
            let failure = failure(&ended);
            assert_eq!(failure.cause, Cause::InputMismatch, "{name}: {failure:?}");
            assert!(failure.evidence.as_ref().is_some_and(|said| said.contains(&found)), "{name}: {failure:?}");
            assert_eq!(ended.usage.cpu_ms, 0, "{name}: no tool has run");
        }
        spec.output = Some(bench.media(&format!("{name}.mp4")).display().to_string());
        spec.input_sha256 = Some(sum.to_uppercase().parse().unwrap());
        spec.input_size_bytes = Some(size);
        let ended = bench.run_spec(&spec).await;
        let source = manifest(&ended).source.as_ref().unwrap();
        assert_eq!((source.size_bytes, source.sha256.as_ref()), (size, Some(&sum)), "{name}");
    }
    assert!(bench.media_names().iter().all(|name| !name.contains("never")), "{:?}", bench.media_names());
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_does_not_get_its_input_or_consent_leaves_nothing_in_the_store() {
    let s3 = S3::start().await;
    let bench = bench(&s3).await;
    let mut spec = bench.spec("240p25-h264");
    spec.output = Some("s3://media/out.mp4".to_owned());
    spec.parameters.duration = Some(1.0);
    let refused = bench.start(&bench.grant(&spec), Ledger::Refuses).ended.await.unwrap();
    assert_eq!(refused.outcome, None);

    for (input, cause) in [
        ("s3://media/none.mp4", Cause::InputMissing),
        ("s3://elsewhere/in.mp4", Cause::Policy),
        ("http://10.0.0.1/in.mp4", Cause::Policy),
    ] {
        spec.input = Some(input.to_owned());
        let ended = bench.run_spec(&spec).await;
        assert_eq!(failure(&ended).cause, cause, "{input}");
        assert!(failure(&ended).message.contains(input) || cause == Cause::Policy, "{:?}", failure(&ended));
    }
    spec.input = Some("s3://media/no-media.mp4".to_owned());
    std::fs::write(s3.path("no-media.mp4"), vec![7; 100_000]).unwrap();
    let ended = bench.run_spec(&spec).await;
    assert!(matches!(ended.outcome, Some(Outcome::Failed { .. })), "{:?}", ended.outcome);
    assert_eq!(s3.keys(), ["no-media.mp4"]);
    assert_eq!(s3.unfinished(), Vec::<String>::new());
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_objects_of_one_job_are_published_together() {
    let s3 = S3::start().await;
    let bench = bench(&s3).await;
    let mut spec = bench.spec("240p25-h264");
    spec.output = Some(bench.media("out.mp4").display().to_string());
    spec.parameters.duration = Some(1.0);
    let object = |url: &str| ExtraOutput {
        url: url.to_owned(),
        scenario: "240p25-h264".to_owned(),
        parameters: Parameters { preset: Some("ultrafast".to_owned()), ..Parameters::default() },
    };
    spec.outputs = vec![object("s3://media/out.mp4")];
    let refused = bench.start(&bench.grant(&spec), Ledger::Refuses).ended.await.unwrap();
    assert_eq!((refused.outcome, bench.media_names(), s3.keys()), (None, Vec::new(), Vec::<String>::new()));

    let grant = bench.grant(&spec);
    let ended = bench.run(&grant).await;
    let made = manifest(&ended);
    let urls: Vec<&str> = made.artifacts.iter().map(|artifact| artifact.url.as_str()).collect();
    assert_eq!(urls[1], "s3://media/out.mp4");
    assert!(urls[0].ends_with("/out.mp4") && urls[0].starts_with("file://"));
    assert_eq!((bench.media_names().len(), s3.keys().len()), (2, 2));
    let mut next = grant.clone();
    next.attempt = 2;
    assert_eq!(manifest(&bench.run(&next).await).attempt, 1);
    // A crash before the last manifest: all is made anew.
    std::fs::remove_file(s3.path("out.mp4.ffpool.json")).unwrap();
    next.attempt = 3;
    assert_eq!(manifest(&bench.run(&next).await).attempt, 3);

    // The object cannot be put: no file is replaced.
    spec.outputs = vec![object("s3://elsewhere/out.mp4")];
    let before = std::fs::read(bench.media("out.mp4.ffpool.json")).unwrap();
    let ended = bench.run_spec(&spec).await;
    assert!(matches!(ended.outcome, Some(Outcome::Failed { .. })), "{:?}", ended.outcome);
    assert_eq!(std::fs::read(bench.media("out.mp4.ffpool.json")).unwrap(), before);
}

/// Every object, by its key.
fn objects(s3: &S3) -> Vec<String> {
    let (mut found, mut left) = (Vec::new(), vec![String::new()]);
    while let Some(inner) = left.pop() {
        for entry in std::fs::read_dir(s3.path(&inner)).unwrap().flatten() {
            let key = format!("{inner}{}", entry.file_name().into_string().unwrap());
            if entry.file_type().unwrap().is_dir() { left.push(key + "/") } else { found.push(key) }
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_presentation_becomes_objects_of_which_the_master_is_the_last() {
    let s3 = S3::start().await;
    let bench = bench(&s3).await;
    let mut spec = bench.spec("240p25-h264");
    spec.output = Some("s3://media/show/master.m3u8".to_owned());
    spec.parameters.duration = Some(2.0);
    spec.parameters.segment_seconds = Some(1.0);
    let refused = bench.start(&bench.grant(&spec), Ledger::Refuses).ended.await.unwrap();
    assert_eq!((refused.outcome, objects(&s3)), (None, Vec::<String>::new()), "what was sent is taken back");

    let grant = bench.grant(&spec);
    let ended = bench.run(&grant).await;
    let made = manifest(&ended);
    let artifact = &made.artifacts[0];
    // The master and the manifest are the others.
    assert_eq!(objects(&s3).len(), artifact.files.len() + 2, "{:?}", objects(&s3));
    let master = std::fs::read_to_string(s3.path("show/master.m3u8")).unwrap();
    for file in &artifact.files {
        assert_eq!(sha256(&std::fs::read(s3.path(&format!("show/{}", file.path))).unwrap()), file.sha256);
    }
    assert!(master.contains(artifact.files.last().unwrap().path.split('/').next().unwrap()), "{master}");
    let mut next = grant.clone();
    next.attempt = 2;
    assert_eq!(manifest(&bench.run(&next).await).attempt, 1);
    // One object is gone: all is made anew, and what the old master named is gone with it.
    std::fs::remove_file(s3.path(&format!("show/{}", artifact.files[0].path))).unwrap();
    next.attempt = 3;
    assert_eq!(manifest(&bench.run(&next).await).attempt, 3);
    assert!(objects(&s3).iter().all(|key| !key.contains(&format!("{}.1/", grant.job))), "{:?}", objects(&s3));
    assert_eq!(objects(&s3).len(), artifact.files.len() + 2);
}
