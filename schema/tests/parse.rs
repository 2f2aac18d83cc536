//! What clients write: the original's sample jobs, both encodings, and every kind of mistake.

use ffpool_schema::encode::{CodecChoice, Container, Encoder, PixelFormat, RateControl, Source, VideoCodec};
use ffpool_schema::job::{JobSpec, Pool, Priority, Queue};
use ffpool_schema::message::Ability;
use ffpool_schema::parse::{Fault, Received, claimed_id, job_schema, parse};
use ffpool_schema::scenario::{Scenario, fits, path_of, resolve};
use ffpool_schema::topology::WorkQueue;
use serde_json::{Value, json};

fn read(job: &Value) -> Result<JobSpec, Vec<Fault>> {
    let body = job.to_string();
    parse(&Received { body: body.as_bytes(), ..Received::default() })
}

fn codes(job: &Value) -> Vec<(String, String)> {
    let faults = read(job).expect_err("the job is invalid");
    faults.into_iter().map(|fault| (fault.path, fault.code)).collect()
}

fn fault(path: &str, code: &str) -> (String, String) {
    (path.into(), code.into())
}

/// The seven samples of the original. Two ask for what this version does not do, and say so.
fn samples() -> Vec<(Value, Option<&'static str>)> {
    vec![
        (json!({"scenario":"1080p-h264","confidence":"auto","parameters":{"duration":300,"bitrate":"5M"}}), None),
        (
            json!({"scenario":"4K60-h264","confidence":"auto","engine":"auto","queue":"default","priority":"medium",
                   "parameters":{"duration":30,"bitrate":"10M","output_mode":"file"}}),
            None,
        ),
        (
            json!({"scenario":"4k-h265","queue":"batch","priority":"medium",
                   "parameters":{"bitrate":"20M","duration":600,"preset":"slow"},
                   "resource_limits":{"max_cpu_percent":800,"max_memory_mb":4096,"timeout_sec":7200}}),
            None,
        ),
        (
            json!({"scenario":"720p30-h264","queue":"live","priority":"high",
                   "parameters":{"bitrate":"2M","output_mode":"rtmp"},
                   "resource_limits":{"max_cpu_percent":200,"max_memory_mb":1024,"timeout_sec":3600}}),
            Some("parameters.output_mode"),
        ),
        (
            json!({"scenario":"custom-input",
                   "parameters":{"input":"/path/to/your/video.mp4","bitrate":"2000k","codec":"h264"}}),
            None,
        ),
        (
            json!({"scenario":"test-1080p","parameters":{"resolution_width":1920,"resolution_height":1080,
                   "frame_rate":60,"duration_seconds":10,"bitrate":"5000k","codec":"h264"}}),
            None,
        ),
        (
            json!({"scenario":"live-stream","parameters":{"encoder":"h264_nvenc","preset":"p4"},
                   "classification":"production"}),
            None,
        ),
    ]
}

#[test]
fn the_samples_of_the_original_are_read_or_refused_for_what_they_ask() {
    for (job, refused_for) in samples() {
        match (read(&job), refused_for) {
            (Ok(spec), None) => assert!(resolve(&spec).unwrap().is_some(), "{job}"),
            (Err(faults), Some(path)) => {
                assert_eq!(faults.len(), 1, "{faults:?}");
                assert_eq!((faults[0].path.as_str(), faults[0].code.as_str()), (path, "unsupported"));
            }
            (Ok(_), Some(path)) => panic!("{job} should be refused for {path}"),
            (Err(faults), None) => panic!("{job} should be read: {faults:?}"),
        }
    }
}

#[test]
fn both_spellings_mean_the_same() {
    let ours = json!({"scenario":"720p30-h264","input":"/m/a.mov","output":"/m/b.mp4",
        "parameters":{"codec":"libx265","duration":5,"resolution":"640x360","fps":25},
        "resource_limits":{"max_memory_mb":512}});
    let theirs = json!({"scenario":"720p30-h264",
        "parameters":{"input":"/m/a.mov","output":"/m/b.mp4","encoder":"libx265","duration_seconds":5,
            "resolution_width":640,"resolution_height":360,"frame_rate":"25","max_memory_mb":512}});
    assert_eq!(read(&ours).unwrap(), read(&theirs).unwrap());
}

#[test]
fn two_spellings_that_differ_are_a_contradiction() {
    let job = json!({"scenario":"720p30-h264","parameters":{"codec":"h264","encoder":"libx265","max_memory_mb":1000},
        "resource_limits":{"max_memory_mb":2000}});
    let found = codes(&job);
    assert_eq!(
        found,
        [fault("parameters.encoder", "contradiction"), fault("resource_limits.max_memory_mb", "contradiction")]
    );
}

#[test]
fn every_fault_is_told_at_once_with_its_path() {
    let job = json!({"scenario":"17p-h264","prioritty":"high","parameters":{"duration":-5,"bitrate":"invalid","crf":20,"presett":"x"},
        "resource_limits":{"max_cpu_percent":0},"max_retries":-1,"input":"ftp://host/a","output":"/m/a.xyz"});
    let found = codes(&job);
    for expected in [
        fault("prioritty", "unknown_field"),
        fault("max_retries", "bad_value"),
        fault("parameters.bitrate", "bad_value"),
        fault("parameters.presett", "unknown_field"),
        fault("parameters.duration", "out_of_range"),
        fault("resource_limits.max_cpu_percent", "out_of_range"),
        fault("input", "bad_value"),
        fault("scenario", "unknown_scenario"),
    ] {
        assert!(found.contains(&expected), "{expected:?} is missing from {found:?}");
    }
    let misspelt = read(&job).unwrap_err().into_iter().find(|fault| fault.path == "prioritty").unwrap();
    assert!(misspelt.message.contains("did you mean `priority`?"), "{misspelt}");
}

#[test]
fn what_is_no_job_at_all_is_told_apart() {
    let first = |body: &[u8], content_type| {
        let received = Received { body, content_type, ..Received::default() };
        parse(&received).unwrap_err().remove(0).code
    };
    assert_eq!(first(b"{\"scenario\":", Some("application/json")), "not_json");
    assert_eq!(first(b"", None), "not_json");
    assert_eq!(first(b"[1]", None), "wrong_type");
    assert_eq!(first(b"\xc1\x00broken", Some("application/msgpack")), "not_msgpack");
    assert_eq!(first(b"<job/>", Some("application/xml")), "unknown_encoding");
    assert_eq!(first(&vec![b' '; 10 * 1024 * 1024], None), "too_large");
    let mut followed = rmp_serde::to_vec_named(&json!({"scenario": "720p30-h264"})).unwrap();
    followed.push(0);
    assert_eq!(first(&followed, Some("application/msgpack")), "not_msgpack");
}

#[test]
fn a_deeply_nested_body_is_refused_and_not_followed() {
    // 10,000 lists of one element each: deeper than any stack would take.
    let mut body = vec![0x91_u8; 10_000];
    body.push(0xc0);
    let faults = parse(&Received { body: &body, content_type: Some("application/msgpack"), ..Received::default() });
    assert_eq!(faults.unwrap_err()[0].code, "not_msgpack");
    let json = "[".repeat(10_000);
    assert_eq!(parse(&Received { body: json.as_bytes(), ..Received::default() }).unwrap_err()[0].code, "not_json");
}

#[test]
fn a_job_is_the_same_in_both_encodings() {
    let mut spec = JobSpec::new("1080p60-h264");
    spec.id = Some("01920f3a-7c1e-7d2a-8a6e-3f0c5b1d9e42".parse().unwrap());
    spec.input = Some("file:///media/a%20b.mov".into());
    spec.parameters.bitrate = Some("6M".parse().unwrap());
    spec.parameters.fps = Some("29.97".parse().unwrap());
    spec.labels.insert("show".into(), "x".into());
    let json = serde_json::to_vec(&spec).unwrap();
    let message_pack = rmp_serde::to_vec_named(&spec).unwrap();
    let from_json = parse(&Received { body: &json, ..Received::default() }).unwrap();
    let from_message_pack = parse(&Received { body: &message_pack, ..Received::default() }).unwrap();
    assert_eq!(from_json, spec);
    assert_eq!(from_message_pack, spec);
}

#[test]
fn the_message_id_and_the_body_must_agree() {
    let body = br#"{"id":"01920f3a-7c1e-7d2a-8a6e-3f0c5b1d9e42","scenario":"720p30-h264"}"#;
    let with = |message_id| Received { body, message_id: Some(message_id), ..Received::default() };
    let id = "01920f3a-7c1e-7d2a-8a6e-3f0c5b1d9e42".parse().unwrap();
    assert_eq!(parse(&with("01920f3a-7c1e-7d2a-8a6e-3f0c5b1d9e42")).unwrap().id, Some(id));
    assert_eq!(parse(&with("01920f3a-7c1e-7d2a-8a6e-3f0c5b1d9e43")).unwrap_err()[0].code, "contradiction");
    assert_eq!(parse(&with("7")).unwrap_err()[0].path, "message_id");
    assert_eq!(claimed_id(&Received { body, ..Received::default() }), Some(id));
}

#[test]
fn the_route_decides_where_a_job_waits() {
    let work = WorkQueue { queue: Queue::Batch, priority: Priority::Low, pool: Pool::cpu() };
    let silent = br#"{"scenario":"720p30-h264"}"#;
    let spec = parse(&Received { body: silent, work: Some(&work), ..Received::default() }).unwrap();
    assert_eq!(spec.work_queue(), work);
    let other = br#"{"scenario":"720p30-h264","queue":"live","priority":"low"}"#;
    let faults = parse(&Received { body: other, work: Some(&work), ..Received::default() }).unwrap_err();
    assert_eq!(faults.len(), 1);
    assert_eq!((faults[0].path.as_str(), faults[0].code.as_str()), ("queue", "contradiction"));
}

#[test]
fn scenarios_read_as_they_are_written() {
    let size = |name| Scenario::find(name).and_then(|scenario| scenario.size).map(|size| (size.width, size.height));
    assert_eq!(size("1080p60-h264"), Some((1920, 1080)));
    assert_eq!(size("4K60-h265"), Some((3840, 2160)));
    assert_eq!(size("480p30-av1"), Some((854, 480)));
    assert_eq!(Scenario::find("1080p60-h264").unwrap().fps.unwrap().num, 60);
    assert_eq!(Scenario::find("720p-libx265").unwrap().codec, CodecChoice::Encoder(Encoder::Libx265));
    for unknown in
        ["", "1080p", "1080p60", "1080p60-", "1080p0-h264", "1080p1001-h264", "1080q-h264", "1080p60-h266", "p-h264"]
    {
        assert_eq!(Scenario::find(unknown), None, "{unknown}");
    }
}

#[test]
fn a_job_resolves_to_a_typed_encode() {
    let job = json!({"scenario":"1080p30-vp9","input":"file:///m/in%20put.mov","output":"/m/out.mkv",
        "parameters":{"bitrate":"2.5M","pixel_format":"yuv420p10le"}});
    let encode = resolve(&read(&job).unwrap()).unwrap().unwrap();
    assert_eq!(encode.source, Source::File { path: "/m/in put.mov".into() });
    assert_eq!(encode.container, Container::Mkv);
    assert_eq!((encode.video.codec, encode.video.pixel_format), (VideoCodec::Vp9, PixelFormat::Yuv420p10le));
    assert!(matches!(encode.video.rate, RateControl::Bitrate { bitrate, .. } if bitrate.0 == 2_500_000));
    let generated = resolve(&read(&json!({"scenario":"360p-h264"})).unwrap()).unwrap().unwrap();
    assert_eq!(generated.source, Source::Generated { duration_secs: 10.0 });
    assert_eq!(generated.video.fps.unwrap().num, 30);
}

#[test]
fn a_job_with_remote_ends_is_for_workers_that_serve_them() {
    let job = json!({"scenario":"360p-h264","input":"https://host/a.mov?sig=1","output":"s3://media/b c.mkv"});
    let spec = read(&job).unwrap();
    let encode = resolve(&spec).unwrap().unwrap();
    assert_eq!(encode.source, Source::Remote { url: "https://host/a.mov?sig=1".into() });
    assert_eq!(encode.output.as_deref(), Some("s3://media/b c.mkv"));
    assert_eq!(encode.container, Container::Mkv);
    let mut ability = ability();
    let lacks = |ability: &Ability| fits(&spec, Some(&encode), ability).err().unwrap_or_default();
    let messages: Vec<String> = lacks(&ability).iter().map(ToString::to_string).collect();
    let expected =
        ["input: no worker here serves https://host/a.mov?***", "output: no worker here serves s3://media/b c.mkv"];
    assert_eq!(messages, expected);
    ability.stores = vec!["https".into(), "s3://media".into()];
    assert_eq!(lacks(&ability), []);
}

fn ability() -> Ability {
    Ability {
        cpu_percent: 200,
        memory_mb: 4096,
        disk_mb: 10_000,
        encoders: vec!["libx264".into()],
        noop: false,
        cgroups: true,
        stores: Vec::new(),
        features: Vec::new(),
        devices: Vec::new(),
        sandbox: Vec::new(),
        gstreamer: None,
        lost: Vec::new(),
    }
}

#[test]
fn what_does_not_go_together_is_refused_before_it_runs() {
    let refuse = |job: Value| codes(&job);
    assert_eq!(refuse(json!({"scenario":"720p-vp9","output":"/m/a.mov"})), [fault("output", "unsupported")]);
    assert_eq!(
        refuse(json!({"scenario":"720p-h264","parameters":{"crf":20,"bitrate":"1M"}})),
        [fault("parameters.crf", "contradiction")]
    );
    assert_eq!(
        refuse(json!({"scenario":"720p-vp8","parameters":{"pixel_format":"yuv444p"}})),
        [fault("parameters.pixel_format", "unsupported")]
    );
    assert_eq!(
        refuse(json!({"scenario":"720p-h264","parameters":{"preset":"p4"}})),
        [fault("parameters.preset", "unknown_preset")]
    );
    for (input, code) in [
        ("rtmp://in/a", "bad_value"),
        ("s3://media/", "no_file"),
        ("https://joe:secret@host/a.mov", "credentials_in_address"),
    ] {
        assert_eq!(refuse(json!({"scenario":"720p-h264","input":input})), [fault("input", code)], "{input}");
    }
    let both = json!({"scenario":"720p-h264","input":"s3://media/a.mp4","output":"s3://media/a.mp4"});
    assert_eq!(refuse(both), [fault("output", "same_as_input")]);
    let web = json!({"scenario":"720p-h264","output":"https://host/a.mp4"});
    assert_eq!(refuse(web), [fault("output", "unsupported")]);
}

#[test]
fn what_the_input_must_be_is_read_alike_in_both_encodings() {
    let sum = "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855";
    let job =
        json!({"scenario":"720p-h264","input":"/m/a.mov","input_sha256":sum,"input_size_bytes":7_000_000_000_u64});
    let spec = read(&job).unwrap();
    assert_eq!(spec.input_sha256.as_ref().map(|sum| sum.as_str().to_owned()), Some(sum.to_ascii_lowercase()));
    assert_eq!(spec.input_size_bytes, Some(7_000_000_000), "a file in place takes no room");
    let message_pack = rmp_serde::to_vec_named(&spec).unwrap();
    assert_eq!(parse(&Received { body: &message_pack, ..Received::default() }).unwrap(), spec);

    let schema = job_schema();
    assert_eq!(schema["$defs"]["Sha256Sum"]["pattern"], "^[0-9A-Fa-f]{64}$", "{schema}");
    assert_eq!(schema["properties"]["input_size_bytes"]["type"], json!(["integer", "null"]));
    // A worker of before would take any input.
    let encode = resolve(&spec).unwrap();
    let lacks = |ability: &Ability| {
        let faults = fits(&spec, encode.as_ref(), ability).err().unwrap_or_default();
        faults.into_iter().map(|fault| (fault.path, fault.code)).collect::<Vec<_>>()
    };
    let expected = [fault("input_sha256", "no_worker_fits"), fault("input_size_bytes", "no_worker_fits")];
    assert_eq!(lacks(&ability()), expected);
    assert_eq!(lacks(&Ability { features: vec![JobSpec::CHECKS_INPUT.into()], ..ability() }), []);
}

#[test]
fn every_fault_of_what_the_input_must_be_is_told() {
    let with = |input: Value, sum: Value, bytes: Value| json!({"scenario":"720p-h264","input":input,"input_sha256":sum,"input_size_bytes":bytes});
    let (sum, none) = (json!("ab".repeat(32)), Value::Null);
    let (of_sum, of_size) = (|code| fault("input_sha256", code), |code| fault("input_size_bytes", code));
    for (job, expected) in [
        (with(json!("/m/a.mov"), json!("ab".repeat(31)), none.clone()), vec![of_sum("bad_value")]),
        (with(json!("/m/a.mov"), json!("xy".repeat(32)), none.clone()), vec![of_sum("bad_value")]),
        (with(json!("/m/a.mov"), json!(7), json!("7")), vec![of_sum("bad_value"), of_size("bad_value")]),
        (with(json!("/m/a.mov"), sum.clone(), json!(-1)), vec![of_size("bad_value")]),
        (with(json!("/m/a.mov"), sum.clone(), json!(0)), vec![of_size("out_of_range")]),
        (with(json!("/m/a.mov"), sum.clone(), json!((1_u64 << 50) + 1)), vec![of_size("out_of_range")]),
        // What is fetched goes into the scratch.
        (with(json!("s3://media/a.mov"), sum.clone(), json!(5001_u64 << 20)), vec![of_size("out_of_range")]),
        (with(none.clone(), sum.clone(), json!(7)), vec![of_sum("contradiction"), of_size("contradiction")]),
        (
            with(json!("srt://in.example:9000"), sum.clone(), json!(7)),
            vec![of_sum("contradiction"), of_size("contradiction")],
        ),
        (with(json!("ftp://host/a"), sum.clone(), none), vec![fault("input", "bad_value")]),
    ] {
        assert_eq!(codes(&job), expected, "{job}");
    }
    assert!(read(&with(json!("https://host/a.mov"), sum.clone(), json!(5000_u64 << 20))).is_ok());
    let said = |job: Value| read(&job).unwrap_err().remove(0).message;
    assert!(said(with(json!("/m/a.mov"), json!("abc"), json!(7))).contains("3 hexadecimal digits are no SHA-256"));
    assert!(said(with(json!("/m/a.mov"), json!("sha256:ab"), json!(7))).contains("'s' is no hexadecimal digit"));
    assert_eq!(
        codes(&json!({"scenario":"720p-h264","input":"/m/a","input_sha25":sum})),
        [fault("input_sha25", "unknown_field")]
    );
}

#[test]
fn addresses_are_absolute_paths_or_file_urls_of_this_host() {
    assert_eq!(path_of("/a/b.mp4").as_deref(), Some("/a/b.mp4"));
    assert_eq!(path_of("file:///a/%E2%82%AC%20b.mp4").as_deref(), Some("/a/€ b.mp4"));
    assert_eq!(path_of("file://localhost/a").as_deref(), Some("/a"));
    for bad in ["a/b.mp4", "-y.mp4", "file://host/a", "file:///a%2", "file:///a%zz", "file:///%ff", "http://h/a", ""] {
        assert_eq!(path_of(bad), None, "{bad}");
    }
}

#[test]
fn a_job_too_large_for_a_worker_says_what_is_too_large() {
    let ability = ability();
    let lacks = |job: Value| {
        let spec = read(&job).unwrap();
        let encode = resolve(&spec).unwrap();
        let faults = fits(&spec, encode.as_ref(), &ability).err().unwrap_or_default();
        faults.into_iter().map(|fault| fault.path).collect::<Vec<_>>()
    };
    assert_eq!(lacks(json!({"scenario":"720p-h264"})), [] as [&str; 0]);
    assert_eq!(
        lacks(json!({"scenario":"4k-h265","resource_limits":{"max_cpu_percent":800,"max_memory_mb":8192}})),
        ["resource_limits.max_cpu_percent", "resource_limits.max_memory_mb", "parameters.codec"]
    );
    assert_eq!(
        lacks(json!({"scenario":"live-stream","parameters":{"encoder":"h264_nvenc","preset":"p4"}})),
        ["parameters.codec"]
    );
    assert_eq!(lacks(json!({"scenario":"720p-h264","engine":"noop"})), ["engine"]);
}

#[test]
fn the_schema_names_every_spelling_that_is_read() {
    let schema = job_schema();
    assert_eq!(schema["additionalProperties"], false);
    let parameters = schema["$defs"]["Parameters"]["properties"].as_object().unwrap();
    for name in ["codec", "encoder", "duration_seconds", "frame_rate", "resolution_width", "input", "max_cpu_percent"] {
        assert!(parameters.contains_key(name), "{name} is missing");
    }
    for (job, _) in samples() {
        for (place, known) in
            [(&job, &schema["properties"]), (&job["parameters"], &schema["$defs"]["Parameters"]["properties"])]
        {
            for name in place.as_object().unwrap().keys() {
                assert!(known.get(name).is_some(), "{name} is not in the schema");
            }
        }
    }
}

#[test]
fn what_is_said_of_a_job_is_bounded_however_much_is_wrong_with_it() {
    use ffpool_schema::parse::MAX_FAULTS;
    let unknown: String = (0..20_000).map(|number| format!("\"f{number:05}\":0,")).collect();
    let outputs = "{},".repeat(80_000);
    let long = "x".repeat(250_000);
    let labels: String = (0..15_000).map(|number| format!("\"l {number:05}\":0,")).collect();
    for body in [
        format!("{{{unknown}\"scenario\":\"720p30-h264\"}}"),
        format!("{{\"outputs\":[{outputs}0]}}"),
        format!("{{\"{long}\":0}}"),
        format!("{{\"engine\":\"{long}\"}}"),
        format!("{{\"labels\":{{{labels}\"a\":0}}}}"),
        "{\"\":0}".to_owned(),
    ] {
        let faults = parse(&Received { body: body.as_bytes(), ..Received::default() }).unwrap_err();
        assert!((1..=MAX_FAULTS).contains(&faults.len()), "{} faults", faults.len());
        for fault in &faults {
            assert!(!fault.path.is_empty(), "{fault:?}");
            assert!(fault.path.len() + fault.message.len() < 10_000, "{} bytes", fault.message.len());
        }
    }
}

#[test]
fn an_empty_name_or_address_is_a_missing_one() {
    let output = |url: &str, scenario: &str| json!({"scenario": "720p30-h264", "output": "/o.mp4", "outputs": [{"url": url, "scenario": scenario}]});
    assert!(codes(&json!({"scenario": "", "output": "/o.mp4"})).contains(&fault("scenario", "missing")));
    assert!(codes(&output("", "480p30-h264")).contains(&fault("outputs[0].url", "missing")));
    assert!(codes(&output("/p.mp4", "")).contains(&fault("outputs[0].scenario", "missing")));
    assert_eq!(read(&json!({"scenario": "", "engine": "noop"})).map(|spec| spec.scenario), Ok(String::new()));
}
