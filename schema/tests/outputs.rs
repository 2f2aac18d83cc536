//! Several outputs of one job: what is read, what each of them is, and what is refused at which field.

use ffpool_schema::encode::{Container, Encode, Source};
use ffpool_schema::message::Ability;
use ffpool_schema::parse::{Fault, Received, parse};
use ffpool_schema::scenario::{fits, resolve};
use serde_json::{Value, json};

fn read(job: &Value) -> Result<Encode, Vec<Fault>> {
    let body = job.to_string();
    let spec = parse(&Received { body: body.as_bytes(), ..Received::default() })?;
    Ok(resolve(&spec)?.expect("no test here asks for noop"))
}

#[test]
fn each_output_is_what_it_alone_asks_for() {
    let encode = read(&json!({
        "scenario": "1080p30-h264", "input": "/m/in.mov", "output": "/m/a.mp4",
        "parameters": {"bitrate": "5000k", "preset": "fast", "start": 5, "duration": 10},
        "outputs": [
            {"url": "s3://media/b.mp4", "scenario": "720p30-h264", "parameters": {"encoder": "libx265", "bitrate": "2500k"}},
            {"url": "/m/c.jpg", "scenario": "thumbnail", "parameters": {"start": 7}},
            {"url": "/m/d.jpg", "scenario": "thumbnail"},
        ],
    }))
    .unwrap();
    let [second, third, fourth] = &encode.others[..] else { panic!("{encode:?}") };
    assert_eq!((fourth.start_secs, fourth.duration_secs), (Some(5.0), None), "where the part begins");
    assert_eq!((second.output.as_deref(), third.container), (Some("s3://media/b.mp4"), Container::Jpg));
    assert_eq!(second.video.encoder.map(|encoder| encoder.to_string()).as_deref(), Some("libx265"));
    assert_eq!((&second.video.preset, second.video.size.unwrap().height), (&None, 720), "nothing of the job's own");
    assert_eq!((second.start_secs, second.duration_secs), (Some(5.0), Some(10.0)), "but the part of the source");
    assert_eq!((third.start_secs, third.duration_secs), (Some(7.0), None));
    assert_eq!(second.source, encode.source);
    assert_eq!(encode.needs(), ["encodes-2", "outputs"]);
}

#[test]
fn faults_name_the_output_and_its_field() {
    let job = |outputs: Value| {
        json!({"scenario": "720p30-h264", "input": "/m/in.mov", "output": "/m/a.mp4", "parameters": {"start": 5},
               "outputs": outputs})
    };
    let good = json!({"url": "/m/b.mp4", "scenario": "480p-h264"});
    for (outputs, path, code) in [
        (json!([good, {"url": "/m/x/../b.mp4", "scenario": "nonsense"}]), "outputs[1].scenario", "unknown_scenario"),
        (json!([good, {"scenario": "480p-h264"}]), "outputs[1].url", "missing"),
        (json!([{"url": "/m/b.mp4"}]), "outputs[0].scenario", "missing"),
        (
            json!([{"url": "/m/b.mp4", "scenario": "480p-h264", "parameter": {}}]),
            "outputs[0].parameter",
            "unknown_field",
        ),
        (
            json!([{"url": "/m/b.mp4", "scenario": "480p-h264", "parameters": {"bitrat": 1}}]),
            "outputs[0].parameters.bitrat",
            "unknown_field",
        ),
        (
            json!([{"url": "/m/b.mp4", "scenario": "480p-h264", "parameters": {"bitrate": "1M", "crf": 20}}]),
            "outputs[0].parameters.crf",
            "contradiction",
        ),
        (json!([{"url": "rtmp://h/live", "scenario": "480p-h264"}]), "outputs[0].url", "bad_value"),
        (json!([{"url": "/m/b.webm", "scenario": "480p-h264"}]), "outputs[0].url", "unsupported"),
        // The start is the job's own, and so is the fault.
        (json!([{"url": "/m/b.mkv", "scenario": "copy"}]), "parameters.start", "unsupported"),
        (json!([good, {"url": "file:///m//./b.mp4", "scenario": "copy"}]), "outputs[1].url", "same_as_output"),
        (json!([{"url": "/m/a.mp4", "scenario": "480p-h264"}]), "outputs[0].url", "same_as_output"),
        (
            json!([{"url": "/m/a.mp4.ffpool.json", "scenario": "480p-h264", "parameters": {"container": "mp4"}}]),
            "outputs[0].url",
            "same_as_output",
        ),
        (json!([{"url": "/m/{name}.mp4", "scenario": "ladder-h264"}]), "outputs[0].scenario", "unsupported"),
        (json!(vec![good.clone(); 17]), "outputs", "too_many"),
        (json!(["/m/b.mp4"]), "outputs[0]", "wrong_type"),
    ] {
        let faults = read(&job(outputs.clone())).expect_err(&outputs.to_string());
        assert!(faults.iter().any(|fault| fault.path == path && fault.code == code), "{path} {code}: {faults:?}");
    }
    let generated = json!({"scenario": "720p30-h264", "outputs": [
        {"url": "/m/b.mp4", "scenario": "480p-h264", "parameters": {"duration": 3}}]});
    assert_eq!(read(&generated).unwrap_err()[0].path, "outputs[0].parameters.duration");
}

#[test]
fn a_ladder_needs_a_place_for_its_rungs_and_leaves_sizes_and_rates_to_them() {
    let job = |output: &str, parameters: Value| {
        json!({"scenario": "ladder-h264", "input": "/m/in.mov", "output": output, "parameters": parameters,
               "outputs": [{"url": "/m/720.mp4", "scenario": "480p-h264"}]})
    };
    for (output, parameters, path, code) in [
        ("/m/out.mp4", json!({}), "output", "no_place_for_rungs"),
        ("/m/x{name}.mp4", json!({"bitrate": "1M"}), "parameters.bitrate", "contradiction"),
        ("/m/x{name}.mp4", json!({"resolution": "720p"}), "parameters.resolution", "contradiction"),
        ("/m/x{name}.mp4", json!({"crf": 20, "passes": 2}), "parameters.passes", "contradiction"),
        ("/m/x{name}.mp4", json!({"codec": "copy"}), "parameters.ladder", "contradiction"),
        ("/m/x{name}.mp4", json!({"ladder": "720p,720p"}), "parameters.ladder", "bad_value"),
        ("/m/{height}.mp4", json!({}), "outputs[0].url", "same_as_output"),
        ("/m/{height}x.mp4", json!({"ladder": "640x480:1M,480p:1M"}), "output", "same_as_output"),
    ] {
        let faults = read(&job(output, parameters.clone())).expect_err(&parameters.to_string());
        assert!(faults.iter().any(|fault| fault.path == path && fault.code == code), "{path} {code}: {faults:?}");
    }
    assert!(read(&job("/m/x{height}.mp4", json!({"passes": 2, "preset": "fast"}))).is_ok());
    // A presentation holds all rungs in one place.
    let faults = read(&job("/m/{name}.m3u8", json!({}))).unwrap_err();
    assert_eq!((faults[0].path.as_str(), faults[0].code.as_str()), ("output", "contradiction"));
    let streamed = read(&job("/m/master.m3u8", json!({"segment_seconds": 4}))).unwrap();
    assert!(streamed.needs().contains(&"segments") && streamed.segments.unwrap().secs == 4.0);
}

#[test]
fn a_worker_must_serve_every_output_and_know_of_several() {
    let job = json!({"scenario": "240p-h264", "outputs": [{"url": "gs://media/b.mp4", "scenario": "240p-vp9",
                     "parameters": {"container": "mp4"}}]});
    let spec = parse(&Received { body: job.to_string().as_bytes(), ..Received::default() }).unwrap();
    let encode = resolve(&spec).unwrap().unwrap();
    assert!(matches!(encode.source, Source::Generated { .. }));
    let ability = Ability {
        cpu_percent: 100,
        memory_mb: 4096,
        disk_mb: 9000,
        encoders: vec!["libx264".into()],
        noop: false,
        cgroups: true,
        stores: Vec::new(),
        features: Vec::new(),
        devices: Vec::new(),
        sandbox: Vec::new(),
        gstreamer: None,
        lost: Vec::new(),
    };
    let lacks = fits(&spec, Some(&encode), &ability).unwrap_err();
    let paths: Vec<&str> = lacks.iter().map(|fault| fault.path.as_str()).collect();
    assert_eq!(paths, ["outputs", "outputs[0].url", "outputs[0].parameters.codec"], "{lacks:?}");
    let able = Ability {
        encoders: vec!["libx264".into(), "libvpx-vp9".into()],
        stores: vec!["gs".into()],
        features: vec!["outputs".into()],
        devices: Vec::new(),
        gstreamer: None,
        lost: Vec::new(),
        ..ability
    };
    assert_eq!(fits(&spec, Some(&encode), &able), Ok(()));
}
