//! `ffpool plan` shows what a worker would run and refuses what it would refuse, without any server.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use serde_json::{Value, json};

use crate::scripted::{Answer, Scripted};
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

/// A web server that has one thing, whatever it is asked for, and sends any part of it; until the test process ends.
fn web(body: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let body = Arc::new(body);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let body = Arc::clone(&body);
            thread::spawn(move || send(&stream, &body));
        }
    });
    url
}

fn send(mut stream: &TcpStream, body: &[u8]) {
    let head: Vec<String> =
        BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let range = head.iter().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        let from = value.strip_prefix("bytes=")?.split('-').next()?;
        name.eq_ignore_ascii_case("range").then(|| from.parse::<usize>().ok())?
    });
    let (from, all) = (range.unwrap_or(0).min(body.len()), body.len());
    let status = match range {
        Some(_) => format!("206 Partial Content\r\ncontent-range: bytes {from}-{}/{all}", all.max(1) - 1),
        None => "200 OK".to_owned(),
    };
    let rest = &body[from..];
    let head = format!(
        "HTTP/1.1 {status}\r\naccept-ranges: bytes\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        rest.len()
    );
    // Whoever asks goes away as soon as he has seen enough.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(rest));
}

/// What ffprobe says of a file, kept in another.
fn stored_probe(input: &Path) -> String {
    let path = input.with_extension("json");
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-of", "json", "-show_format", "-show_streams", "-show_chapters"])
        .arg(input)
        .output()
        .unwrap_or_else(|error| panic!("these tests need the Debian package ffmpeg: {error}"));
    std::fs::write(&path, output.stdout).unwrap();
    path.display().to_string()
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

#[test]
fn what_the_input_must_be_is_shown_and_a_wrong_size_told_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in.mkv");
    clip(&input);
    let job = |bytes: u64| {
        json!({"scenario": "240p30-h264", "input": input, "output": "/m/out.mp4", "input_sha256": "AB".repeat(32),
               "input_size_bytes": bytes})
    };
    let is = std::fs::metadata(&input).unwrap().len();
    let said = stdout(&run(0, &mut ffpool(&["plan", &write(dir.path(), &job(is))])));
    assert!(said.contains(&format!("must have {is} bytes and the sha256 {}", "ab".repeat(32))), "{said}");
    assert!(!said.contains("input_mismatch"), "{said}");
    let said = stdout(&run(0, &mut ffpool(&["plan", &write(dir.path(), &job(7))])));
    assert!(said.contains("the job says 7: an attempt fails with `input_mismatch`"), "{said}");
    let flags =
        ["--scenario", "240p30-h264", "--input", "/m/in.mkv", "--input-sha256", "abc", "--input-size-bytes", "0"];
    let refused = stderr(&run(4, ffpool(&["submit", "--dry-run"]).args(flags)));
    assert!(
        refused.contains("input_sha256: 3 hexadecimal digits") && refused.contains("input_size_bytes: 0"),
        "{refused}"
    );
}

#[test]
fn an_input_on_a_web_server_is_looked_at_and_its_signature_shown_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let clip_path = dir.path().join("in.mkv");
    clip(&clip_path);
    let bytes = std::fs::read(&clip_path).unwrap();
    let server = web(bytes.clone());
    let job = |server: &str| {
        json!({"scenario": "240p30-h264", "input": format!("{server}/in.mkv?sig=s3cret"), "output": "/m/out.mp4",
               "input_size_bytes": bytes.len() + 1, "resource_limits": {"max_disk_mb": 1}})
    };
    let file = write(dir.path(), &job(&server));
    let view = json(&run(0, &mut ffpool(&["plan", &file, "--output", "json"])));
    let arguments = view["runs"][0]["arguments"].as_array().unwrap();
    assert!(arguments.contains(&json!("file:input")), "as a worker names what it has fetched: {view}");
    let (size, disk) =
        (view["estimate"]["size_bytes"].as_u64().unwrap(), view["estimate"]["disk_mb"].as_u64().unwrap());
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    assert_eq!(disk, mib(2 * size) + mib(bytes.len() as u64), "the input lies in the scratch too");
    let said = stdout(&run(0, &mut ffpool(&["plan", &file, "--explain"])));
    for part in
        ["was looked at from this machine", "input_mismatch", "raise resource_limits.max_disk_mb", "is fetched into it"]
    {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert!(!said.contains("s3cret") && !view.to_string().contains("s3cret"), "{said}");

    // Nobody listens there.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nowhere = write(dir.path(), &job(&format!("http://{gone}")));
    let said = stdout(&run(0, &mut ffpool(&["plan", &nowhere])));
    for part in ["/in.mkv?*** cannot be looked at", "time and size too", "--probe"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert!(!said.contains("s3cret") && !said.contains("run 1"), "{said}");
}

#[test]
fn an_input_in_a_store_is_planned_by_what_somebody_else_saw_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in.mkv");
    clip(&input);
    let probe = stored_probe(&input);
    let file = write(
        dir.path(),
        &json!({"scenario": "240p30-h264", "input": "s3://media/in.mkv", "output": "s3://media/out.mp4"}),
    );
    let said = stdout(&run(0, &mut ffpool(&["plan", &file])));
    assert!(
        said.contains("s3://media/in.mkv is read with the worker's credentials") && !said.contains("run 1"),
        "{said}"
    );
    let view = json(&run(0, &mut ffpool(&["plan", &file, "--probe", &probe, "--output", "json"])));
    assert_eq!(view["outputs"][0]["expected"]["video"]["width"], 426);
    assert!(view["estimate"]["size_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{view}");

    let other = dir.path().join("other.json");
    for (text, wrong) in [("{}", "is not what ffprobe prints"), (r#"{"format": {"format_name": "flv"}}"#, "no stream")]
    {
        std::fs::write(&other, text).unwrap();
        let said = stderr(&run(2, ffpool(&["plan", &file, "--probe"]).arg(&other)));
        assert!(said.contains(wrong) && said.contains("ffprobe -of json"), "{said}");
    }
    let generated = write(dir.path(), &json!({"scenario": "240p30-h264"}));
    let said = stderr(&run(2, &mut ffpool(&["plan", &generated, "--probe", &probe])));
    assert!(said.contains("its source is generated"), "{said}");
}

#[test]
fn a_live_job_has_its_share_of_the_processor_and_its_hour_told() {
    let dir = tempfile::tempdir().unwrap();
    let job = |scenario: &str, more: Value| {
        let mut job = json!({"scenario": scenario, "input": "rtmp://in.example/live/key",
            "output": "srt://out.example:9000", "outputs": [{"url": "/m/rec.mp4", "scenario": scenario}],
            "parameters": {"bitrate": "4M", "audio_bitrate": "100k"}});
        job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        job
    };
    let file = write(dir.path(), &job("720p30-h264", json!({"resource_limits": {"max_cpu_percent": 20}})));
    let view = json(&run(0, &mut ffpool(&["plan", &file, "--output", "json"])));
    let live = &view["live"];
    assert_eq!((live["size_bytes_per_hour"].as_u64(), &live["secs"]), (Some(1_845_000_000), &Value::Null), "{view}");
    assert_eq!(live["sent_bytes_per_hour"], live["size_bytes_per_hour"]);
    assert!(live["cpu_percent"].as_u64().is_some_and(|percent| percent > 20), "{view}");
    assert!(live["memory_mb"].as_u64().is_some_and(|mib| mib > 60), "{view}");
    let said = stdout(&run(0, &mut ffpool(&["plan", &file, "--explain"])));
    for part in [
        "% of a core\n",
        "about 4.1 Mbit/s",
        "an hour",
        "fall behind its source",
        "which names no end, ends after about",
        "- processor:",
        "until its source ends",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }

    let hour = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let file =
        write(dir.path(), &job("720p30-h264", json!({"deadline": hour, "resource_limits": {"max_disk_mb": 9000}})));
    let view = json(&run(0, &mut ffpool(&["plan", &file, "--output", "json"])));
    let secs = view["live"]["secs"].as_f64().unwrap();
    assert!((3500.0..=3600.0).contains(&secs), "{secs}");
    let (all, hourly) = (view["live"]["size_bytes"].as_f64().unwrap(), 1_845_000_000.0);
    assert!((all - hourly * secs / 3600.0).abs() < 10.0, "{view}");
    assert!(!view["warnings"].to_string().contains("ends after"), "{view}");

    // What is copied is known by a probe alone.
    let input = dir.path().join("in.mkv");
    clip(&input);
    let probe = stored_probe(&input);
    let copied = write(
        dir.path(),
        &json!({"scenario": "copy", "input": "rtmp://in.example/live/key", "output": "srt://out.example:9000"}),
    );
    let view = json(&run(0, &mut ffpool(&["plan", &copied, "--output", "json"])));
    assert_eq!(view["live"]["bitrate"], Value::Null);
    let view = json(&run(0, &mut ffpool(&["plan", &copied, "--probe", &probe, "--output", "json"])));
    assert!(view["live"]["bitrate"].as_u64().is_some_and(|bits| bits > 10_000), "{view}");
}

#[test]
fn a_plan_for_a_worker_is_by_what_that_worker_can_run() {
    let worker = |state: &str| {
        let room = json!({"slots": 4, "used": 0, "cpu_percent": 300, "memory_mb": 4096, "disk_mb": 9000});
        let ability = json!({"cpu_percent": 300, "memory_mb": 4096, "disk_mb": 9000, "encoders": ["libx264"], "noop": false,
                             "cgroups": true, "features": ["encodes-2"], "stores": ["https"]});
        json!({"id": "encode-3", "host": "h3", "version": "0.9.0", "state": state, "pools": ["cpu"], "capacity": room,
               "ability": ability, "running": [], "first_seen": "2026-11-25T18:00:00Z", "last_seen": "2026-11-25T18:00:00Z"})
    };
    let api = Scripted::start(move |asked, _| {
        Some(match asked.line.as_str() {
            "GET /v1/workers/encode-3" => Answer::json(&worker("ready")),
            "GET /v1/workers/gone" => Answer::json(&worker("lost")),
            "GET /v1/workers/young" => Answer::json(&worker("starting")),
            line if line.starts_with("GET /v1/workers?") => Answer::json(&json!({"items": [], "next": null})),
            other => Answer::problem(404, "/problems/not-found", other),
        })
    });
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in.mkv");
    clip(&input);
    let ask = |code: i32, job: Value, worker: &str, more: &[&str]| {
        let mut wish = json!({"scenario": "240p30-h264", "input": input, "output": "/m/out.mp4"});
        wish.as_object_mut().unwrap().extend(job.as_object().unwrap().clone());
        let file = write(dir.path(), &wish);
        let mut command = ffpool(&["plan", &file, "--worker", worker, "--ffmpeg", "/nowhere/ffmpeg"]);
        run(code, command.args(more).env("FFPOOL_API_URL", &api.url))
    };
    let view = json(&ask(0, json!({}), "encode-3", &["--output", "json"]));
    assert_eq!((&view["worker"], &view["engine"]["engine"]), (&json!("encode-3"), &json!("ffmpeg")));
    let arguments = view["runs"][0]["arguments"].as_array().unwrap();
    let threads = arguments.iter().position(|word| word == "-threads").unwrap();
    assert_eq!(arguments[threads + 1], "3", "{view}");
    assert_eq!(view["warnings"], json!([]));

    let lacking = json!({"scenario": "240p30-vp9", "output": "s3://media/out.webm"});
    let said = stderr(&ask(4, lacking, "encode-3", &[]));
    for part in
        ["the worker encode-3 cannot run the job", "parameters.codec:", "output: no worker here serves s3://media"]
    {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    let said = stdout(&ask(0, json!({"pool": "gpu"}), "gone", &[]));
    assert!(said.contains("encode-3 is lost") && said.contains("waits for the pool gpu"), "{said}");
    assert!(stderr(&ask(8, json!({}), "young", &[])).contains("is starting"));
    let said = stderr(&ask(8, json!({}), "nobody", &[]));
    assert!(said.contains("there is no worker nobody") && said.contains("workers list --all"), "{said}");
}
