//! `ffpool plan` shows what a worker would run and refuses what it would refuse, without any server.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::{ffpool, json, run, stderr, stdout};

fn clip(path: &Path) {
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25:duration=2"])
        .args(["-f", "lavfi", "-i", "sine=duration=2", "-pix_fmt", "yuv420p", "-y"])
        .arg(path)
        .output()
        .unwrap_or_else(|error| panic!("these tests need the Debian package ffmpeg: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn write(directory: &Path, job: &Value) -> String {
    let path = directory.join("job.json");
    std::fs::write(&path, job.to_string()).unwrap();
    path.display().to_string()
}

#[test]
fn a_plan_shows_runs_outcome_and_cost_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in.mkv");
    clip(&input);
    let output = dir.path().join("out.mp4");
    let file = write(
        dir.path(),
        &json!({"scenario": "240p30-h264", "input": input, "output": output,
                "parameters": {"bitrate": "500k", "passes": 2, "loudness": -23}}),
    );
    let view = json(&run(0, &mut ffpool(&["plan", &file, "--output", "json"])));
    let purposes: Vec<&str> =
        view["runs"].as_array().unwrap().iter().map(|run| run["purpose"].as_str().unwrap()).collect();
    assert_eq!(purposes, ["measure loudness", "first pass", "encode"]);
    assert_eq!(view["outputs"][0]["expected"]["video"]["width"], 426);
    assert_eq!(view["outputs"][0]["encoder"], "libx264");
    assert!(view["estimate"]["size_bytes"].as_u64().unwrap() > 100_000, "{view}");
    let people = stdout(&run(0, &mut ffpool(&["plan", &file, "--explain"])));
    for part in ["run 3: encode", "-pass 2", "h264 by libx264, 426x240, 30.000 frames a second", "- time:", "memory"] {
        assert!(people.contains(part), "{part} is not in {people}");
    }
    assert!(!output.exists());
}

#[test]
fn a_set_of_pictures_is_counted_before_it_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in.mkv");
    clip(&input);
    let job = |parameters: Value| json!({"scenario": "sprites", "input": input, "output": "/m/a.vtt", "parameters": parameters});
    let file = write(dir.path(), &job(json!({"picture_count": 7, "columns": 3, "rows": 2, "resolution": "64x36"})));
    let said = stdout(&run(0, &mut ffpool(&["plan", &file, "--explain"])));
    for part in
        ["run 2: lay out pictures", "tile=3x2", "7, 64x36, one every", "2 of 3 x 2 pictures, 192x72, jpg", "WebVTT, to"]
    {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    let file = write(dir.path(), &job(json!({"picture_count": 5000})));
    let refused = run(4, &mut ffpool(&["plan", &file]));
    assert!(stderr(&refused).contains("parameters.picture_count"), "{refused:?}");
}

#[test]
fn a_ladder_is_explained_rung_by_rung_and_made_in_one_run() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in.mkv");
    clip(&input);
    let job = |parameters: Value| {
        json!({"scenario": "ladder-h264", "input": input, "output": "/m/{name}.mp4", "parameters": parameters,
               "outputs": [{"url": "/m/poster.jpg", "scenario": "thumbnail"}]})
    };
    let file = write(dir.path(), &job(json!({})));
    let said = stdout(&run(0, &mut ffpool(&["plan", &file, "--explain"])));
    for part in [
        "240p: left out",
        "240p: the smallest, at the source's own size",
        "240p: /m/240p.mp4",
        "outputs[0]: /m/poster.jpg",
    ] {
        // 320x180 has less than the smallest usual rung.
        assert_eq!(said.contains(part), part != "240p: left out", "{part} in {said}");
    }
    assert!(said.contains("360p: left out, larger than the source, which is 320x180"), "{said}");
    let file = write(dir.path(), &job(json!({"ladder": "1080p:5000k,720p:2500k,854x480:1000k"})));
    let view = json(&run(0, &mut ffpool(&["plan", &file, "--output", "json"])));
    assert_eq!(view["runs"].as_array().unwrap().len(), 1, "{view}");
    let made: Vec<&str> =
        view["outputs"].as_array().unwrap().iter().map(|made| made["name"].as_str().unwrap()).collect();
    assert_eq!(made, ["1080p", "720p", "480p", "outputs[0]"]);
    let size = view["estimate"]["size_bytes"].as_u64().unwrap();
    assert!((2_000_000..3_000_000).contains(&size), "2 s of all rungs together: {size}");
}

#[test]
fn what_would_be_refused_is_refused_with_every_reason() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in.mkv");
    clip(&input);
    let of_the_job = write(
        dir.path(),
        &json!({"scenario": "240p30-h264", "input": input, "output": "/m/out.webm", "parameters": {"passes": 2}}),
    );
    let said = stderr(&run(4, &mut ffpool(&["plan", &of_the_job])));
    assert!(said.contains("h264 does not go into webm") && said.contains("parameters.passes"), "{said}");
    let of_the_source = write(
        dir.path(),
        &json!({"scenario": "custom-input", "input": input, "output": "/m/out.mp4", "parameters": {"crop": "640x360+0+0"}}),
    );
    let said = stderr(&run(4, &mut ffpool(&["plan", &of_the_source])));
    assert!(said.contains("does not lie in the source, which is 320x180"), "{said}");
}

#[test]
fn a_plan_names_the_engine_and_why_and_shows_its_pipeline() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in.mkv");
    clip(&input);
    let job = |engine: &str, parameters: Value| {
        json!({"scenario": "240p30-h264", "input": input, "output": "/m/out.mp4", "engine": engine,
               "parameters": parameters})
    };
    let file = write(dir.path(), &job("auto", json!({})));
    let said = stdout(&run(0, &mut ffpool(&["plan", &file, "--explain"])));
    assert!(said.contains("- ffmpeg encodes: `auto` takes ffmpeg wherever"), "{said}");
    let file = write(dir.path(), &job("gstreamer", json!({})));
    let said = stdout(&run(0, &mut ffpool(&["plan", &file, "--explain"])));
    for part in [
        "run 1: read the source to its end\n  ffmpeg -nostdin",
        "run 2: encode\n  gst-launch-1.0 --no-fault filesrc location=source ! matroskademux name=demux",
        "h264 by x264enc, 426x240",
        "- gstreamer encodes: the job names it",
        "- a worker must have GStreamer with x264enc (gstreamer1.0-plugins-ugly)",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    let view = json(&run(0, &mut ffpool(&["plan", &file, "--output", "json"])));
    assert_eq!((&view["engine"]["engine"], &view["runs"][1]["tool"]), (&json!("gstreamer"), &json!("gst-launch-1.0")));
    let file = write(dir.path(), &job("gstreamer", json!({"crop": "160x90+0+0"})));
    let said = stderr(&run(4, &mut ffpool(&["plan", &file])));
    assert!(said.contains("parameters.crop") && said.contains("use `engine: ffmpeg`"), "{said}");
}

#[test]
fn a_source_that_is_elsewhere_leaves_the_plan_open_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let file =
        write(dir.path(), &json!({"scenario": "240p30-h264", "input": "/nowhere/in.mkv", "output": "/m/out.mp4"}));
    let said = stdout(&run(0, &mut ffpool(&["plan", &file])));
    assert!(said.contains("/nowhere/in.mkv is not on this machine"), "{said}");
    let generated = write(dir.path(), &json!({"scenario": "240p30-h264"}));
    let said = stdout(&run(0, &mut ffpool(&["plan", &generated, "--ffmpeg", "/nowhere/ffmpeg", "--explain"])));
    assert!(said.contains("testsrc2=size=426x240") && said.contains("is assumed"), "{said}");
}

#[test]
fn a_live_plan_shows_its_run_and_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(
        dir.path(),
        &json!({"scenario": "720p30-h264", "input": "rtmp://in.example/live/s3cret?t=t0ken",
                "output": "srt://out.example:9000?streamid=s3cret2&passphrase=hunter2hunter2",
                "outputs": [{"url": "/m/live.m3u8", "scenario": "720p30-h264"}],
                "resource_limits": {"stall_sec": 7}}),
    );
    for options in [&["--output", "json"][..], &["--explain"][..]] {
        let said = stdout(&run(0, ffpool(&["plan", &file]).args(options)));
        for part in [
            "-f tee",
            "rtmp://in.example:1935/live/***",
            "srt://out.example:9000?***",
            "f=hls",
            "away for 60 s",
            "14000000",
        ] {
            let part = if options.contains(&"json") { part.replace("-f tee", "tee") } else { part.to_owned() };
            assert!(said.contains(&part), "{part} is not in {said}");
        }
        for secret in ["s3cret", "t0ken", "hunter2"] {
            assert!(!said.contains(secret), "{said}");
        }
    }
}

#[test]
fn a_live_plan_of_gstreamer_shows_its_pipeline_and_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(
        dir.path(),
        &json!({"scenario": "720p30-h264", "engine": "gstreamer", "input": "rtmp://in.example/live/s3cret",
                "output": "srt://out.example:9000?streamid=s3cret2&passphrase=hunter2hunter2"}),
    );
    let said = stdout(&run(0, ffpool(&["plan", &file, "--explain"]).args(["--ffmpeg", "/nowhere/ffmpeg"])));
    for part in [
        "gst-launch-1.0 --no-fault --eos-on-shutdown --verbose rtmp2src name=source",
        "rtmp://in.example:1935/live/***",
        "srtsink name=sink",
        "- gstreamer encodes: the job names it",
        "rtmp2src (gstreamer1.0-plugins-bad)",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    for secret in ["s3cret", "hunter2"] {
        assert!(!said.contains(secret), "{said}");
    }
}
