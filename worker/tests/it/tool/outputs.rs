//! Several outputs of one job: one decode makes them, each is proven, and all are published together.

use std::path::Path;

use ffpool_schema::job::{ExtraOutput, JobSpec, Parameters};
use ffpool_schema::message::{Artifact, Manifest};
use serde_json::{Value, json};

use super::bench::{Bench, fault, manifest};

/// An output among the media, its parameters written as a client writes them.
fn output(bench: &Bench, name: &str, scenario: &str, parameters: Value) -> ExtraOutput {
    let parameters: Parameters = serde_json::from_value(parameters).unwrap();
    ExtraOutput { url: bench.media(name).display().to_string(), scenario: scenario.to_owned(), parameters }
}

fn size(artifact: &Artifact) -> (u32, u32) {
    let video = artifact.probe.video.as_ref().unwrap();
    (video.width, video.height)
}

fn inputs(arguments: &[String]) -> usize {
    arguments.iter().filter(|argument| *argument == "-i").count()
}

/// Four outputs of a clip of two seconds, of which three go into one run.
fn four(bench: &Bench) -> JobSpec {
    let mut spec = bench.spec("240p25-h264");
    spec.input = Some(bench.clip("source.mp4", &[]));
    spec.output = Some(bench.media("a.mp4").display().to_string());
    spec.outputs = vec![
        output(bench, "b.mkv", "copy", json!({})),
        output(bench, "c.jpg", "thumbnail", json!({"start": 1})),
        output(bench, "d.mp4", "240p25-h264", json!({"preset": "ultrafast", "bitrate": "300k", "passes": 2})),
    ];
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn one_decode_makes_every_output_and_each_has_the_proof() {
    let bench = Bench::open().await;
    let spec = four(&bench);
    let grant = bench.grant(&spec);
    let ended = bench.run(&grant).await;
    let made = manifest(&ended);
    let names: Vec<&str> = made.artifacts.iter().map(|artifact| artifact.name.as_deref().unwrap()).collect();
    assert_eq!(names, ["output", "outputs[0]", "outputs[1]", "outputs[2]"]);
    let codecs: Vec<&str> =
        made.artifacts.iter().map(|artifact| artifact.probe.video.as_ref().unwrap().codec.as_str()).collect();
    assert_eq!(codecs, ["h264", "h264", "mjpeg", "h264"]);
    assert_eq!(made.artifacts.iter().map(size).collect::<Vec<_>>(), [(426, 240), (320, 180), (320, 180), (426, 240)]);
    assert_eq!(made.steps.len(), 2, "the two passes: {:?}", made.steps);
    assert_eq!(inputs(&made.arguments), 1, "{:?}", made.arguments);
    for artifact in &made.artifacts {
        let path = ffpool_schema::scenario::path_of(&artifact.url).unwrap();
        let beside = std::fs::read(format!("{path}.ffpool.json")).unwrap();
        assert_eq!(&serde_json::from_slice::<Manifest>(&beside).unwrap(), made);
        assert_eq!(std::fs::metadata(path).unwrap().len(), artifact.size_bytes);
        assert!(artifact.proof.as_ref().unwrap().frames.is_some_and(|frames| frames > 0));
    }
    let total: u64 = made.artifacts.iter().map(|artifact| artifact.size_bytes).sum();
    assert_eq!(ended.usage.output_bytes, Some(total));
    assert_eq!(bench.media_names().len(), 9, "{:?}", bench.media_names());
    bench.assert_clean();

    // All there: the next attempt adopts it. One without its manifest, as after a crash on the way: it makes all anew.
    let mut next = grant.clone();
    next.attempt = 2;
    let adopted = bench.run(&next).await;
    assert_eq!((manifest(&adopted).attempt, adopted.usage.cpu_ms), (1, 0));
    std::fs::remove_file(bench.media("c.jpg.ffpool.json")).unwrap();
    next.attempt = 3;
    assert_eq!(manifest(&bench.run(&next).await).attempt, 3);
    // One of this attempt and the others of an earlier one are no whole set either.
    let mut odd = manifest(&adopted).clone();
    odd.artifacts = serde_json::from_slice::<Manifest>(&std::fs::read(bench.media("a.mp4.ffpool.json")).unwrap())
        .unwrap()
        .artifacts;
    odd.attempt = 4;
    std::fs::write(bench.media("a.mp4.ffpool.json"), serde_json::to_vec(&odd).unwrap()).unwrap();
    next.attempt = 5;
    assert_eq!(manifest(&bench.run(&next).await).attempt, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ladder_is_made_of_what_the_source_is() {
    let bench = Bench::open().await;
    let mut spec = bench.spec("ladder-h264");
    let clip = bench.clip("small.mp4", &["-s", "640x360", "-t", "1"]);
    spec.input = Some(clip);
    spec.output = Some(bench.media("{name}/of-{height}.mp4").display().to_string());
    let grant = bench.grant(&spec);
    let ended = bench.run(&grant).await;
    let made = manifest(&ended);
    let rungs: Vec<(&str, (u32, u32))> =
        made.artifacts.iter().map(|artifact| (artifact.name.as_deref().unwrap(), size(artifact))).collect();
    assert_eq!(rungs, [("360p", (640, 360)), ("240p", (426, 240))]);
    assert!(bench.media("360p/of-360.mp4").is_file() && bench.media("240p/of-240.mp4.ffpool.json").is_file());
    assert_eq!((made.steps.len(), inputs(&made.arguments)), (0, 1));
    let mut next = grant.clone();
    next.attempt = 2;
    let adopted = bench.run(&next).await;
    assert_eq!((manifest(&adopted).attempt, adopted.usage.cpu_ms), (1, 0), "found without the source being looked at");

    // Written down, and named by the worker.
    let mut spec = bench.spec("custom-input");
    spec.parameters.ladder = Some("320x180:400k,160x90:100k".parse().unwrap());
    spec.parameters.duration = Some(1.0);
    let grant = bench.grant(&spec);
    let ended = bench.run(&grant).await;
    assert_eq!(manifest(&ended).artifacts.iter().map(size).collect::<Vec<_>>(), [(320, 180), (160, 90)]);
    assert!(bench.media(&format!("ffpool/{}.160x90.mp4", grant.job)).is_file());
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_that_are_one_place_or_the_input_are_refused_by_their_field() {
    let bench = Bench::open().await;
    let mut spec = bench.spec("240p25-h264");
    spec.input = Some(bench.clip("source.mp4", &[]));
    spec.output = Some(bench.media("a.mp4").display().to_string());
    std::os::unix::fs::symlink(bench.media(""), bench.media("alias")).unwrap();
    let refused = async |name: &str| {
        let mut spec = spec.clone();
        spec.outputs =
            vec![output(&bench, "b.mp4", "240p25-h264", json!({})), output(&bench, name, "240p25-h264", json!({}))];
        fault(&bench.run_spec(&spec).await)
    };
    assert_eq!(refused("alias/a.mp4").await, "outputs[1].url same_as_output");
    assert_eq!(refused("alias/source.mp4").await, "outputs[1].url same_as_input");
    assert_eq!(refused("alias/../../a.mp4").await, "outputs[1].url outside_roots");
    assert!(!Path::new(&bench.media("a.mp4")).exists());

    // What the source does not have is refused where it is asked for.
    spec.outputs = vec![output(&bench, "b.mp4", "240p25-h264", json!({"crop": "640x360+0+0"}))];
    assert_eq!(fault(&bench.run_spec(&spec).await), "outputs[0].parameters.crop out_of_range");
    bench.assert_clean();
}
