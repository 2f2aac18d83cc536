//! Wishes that cannot be fulfilled are refused before anything runs, each at its field and with what would do.

use ffpool_schema::chunk::Piece;
use ffpool_schema::encode::{
    AudioChoice, Container, Encode, Encoder, Fit, Grid, Pace, PictureFormat, Pictures, PixelFormat, Treatment,
};
use ffpool_schema::message::Ability;
use ffpool_schema::parse::{self, Fault, Received, parse};
use ffpool_schema::scenario::{fits, resolve};
use serde_json::{Value, json};

fn read(job: &Value) -> Result<Encode, Vec<Fault>> {
    let body = serde_json::to_vec(job).unwrap();
    let spec = parse(&Received { body: &body, ..Received::default() })?;
    Ok(resolve(&spec)?.expect("no test here asks for noop"))
}

/// A job from a file with these parameters.
fn job(scenario: &str, output: &str, parameters: Value) -> Value {
    json!({"scenario": scenario, "input": "/m/in.mkv", "output": format!("/m/{output}"), "parameters": parameters})
}

#[test]
fn what_excludes_each_other_is_refused_at_its_field() {
    for (scenario, output, parameters, path, code) in [
        ("720p-h264", "a.mp4", json!({"passes": 2}), "passes", "contradiction"),
        ("720p-libsvtav1", "a.mp4", json!({"passes": 2, "bitrate": "1M"}), "passes", "unsupported"),
        ("720p-h264", "a.mp4", json!({"passes": 3, "bitrate": "1M"}), "passes", "out_of_range"),
        ("720p-h264", "a.mp4", json!({"bitrate": "2M", "maxrate": "1M"}), "maxrate", "contradiction"),
        ("720p-h264", "a.mp4", json!({"crf": 20, "bufsize": "1M"}), "bufsize", "contradiction"),
        ("720p-h264", "a.mp4", json!({"profile": "main10"}), "profile", "unsupported"),
        ("720p-vp9", "a.webm", json!({"profile": "main"}), "profile", "unsupported"),
        ("720p-h264", "a.mp4", json!({"profile": "high", "pixel_format": "yuv444p"}), "profile", "contradiction"),
        ("720p-h264", "a.mp4", json!({"profile": "high", "crf": 0}), "profile", "contradiction"),
        ("custom-input", "a.mp4", json!({"fit": "crop"}), "fit", "contradiction"),
        ("custom-input", "a.mp4", json!({"crop": "640x360"}), "crop", "bad_value"),
        ("custom-input", "a.mp4", json!({"crop": "640x360+1+0"}), "crop", "bad_value"),
        ("custom-input", "a.mp4", json!({"hdr": "keep"}), "hdr", "contradiction"),
        ("custom-input", "a.mp4", json!({"start": 5, "end": 4}), "end", "contradiction"),
        ("custom-input", "a.mp4", json!({"end": 4, "duration": 2}), "end", "contradiction"),
        ("custom-input", "a.mp4", json!({"start": -1}), "start", "out_of_range"),
        ("custom-input", "a.mp4", json!({"loudness": -3}), "loudness", "out_of_range"),
        ("custom-input", "a.mp4", json!({"true_peak": -1}), "true_peak", "contradiction"),
        ("custom-input", "a.mp4", json!({"loudness": -23, "audio_streams": "all"}), "loudness", "unsupported"),
        (
            "custom-input",
            "a.mp4",
            json!({"audio_codec": "copy", "audio_channels": "mono"}),
            "audio_channels",
            "contradiction",
        ),
        (
            "custom-input",
            "a.mp4",
            json!({"audio_codec": "mp3", "audio_channels": "5.1"}),
            "audio_channels",
            "unsupported",
        ),
        ("custom-input", "a.mp4", json!({"audio_codec": "opus", "sample_rate": 44100}), "sample_rate", "out_of_range"),
        ("custom-input", "a.mp4", json!({"audio_streams": "second"}), "audio_streams", "bad_value"),
        ("custom-input", "a.mp4", json!({"audio_bitrate": "1k"}), "audio_bitrate", "out_of_range"),
        ("custom-input", "a.ts", json!({"subtitles": "convert"}), "subtitles", "unsupported"),
        (
            "custom-input",
            "a.mp4",
            json!({"subtitles": "burn", "subtitle_streams": "all"}),
            "subtitle_streams",
            "contradiction",
        ),
        ("custom-input", "a.mp4", json!({"subtitle_streams": 1}), "subtitle_streams", "contradiction"),
        ("copy", "a.mp4", json!({"crf": 20}), "crf", "contradiction"),
        ("copy", "a.mp4", json!({"start": 3}), "start", "unsupported"),
        ("copy", "a.mp4", json!({"subtitles": "burn"}), "subtitles", "contradiction"),
        ("720p30-h264", "a.mp4", json!({"codec": "copy"}), "codec", "contradiction"),
        ("audio-aac", "a.m4a", json!({"resolution": "720p"}), "resolution", "contradiction"),
        ("audio-aac", "a.m4a", json!({"audio_codec": "none"}), "audio_codec", "contradiction"),
        ("thumbnail", "a.jpg", json!({"audio_codec": "aac"}), "audio_codec", "unsupported"),
        ("thumbnail", "a.png", json!({"hdr": "keep"}), "hdr", "unsupported"),
        ("custom-input", "a.mp4", json!({"container": "mkv"}), "container", "contradiction"),
        ("custom-input", "a.mp4", json!({"segment_seconds": 4}), "segment_seconds", "contradiction"),
        ("custom-input", "a.m3u8", json!({"segment_seconds": 0.5}), "segment_seconds", "out_of_range"),
        ("custom-input", "a.mpd", json!({"segment_type": "ts"}), "segment_type", "unsupported"),
        ("source-h265", "a.m3u8", json!({"segment_type": "ts"}), "segment_type", "unsupported"),
        ("custom-input", "a.m3u8", json!({"audio_codec": "copy"}), "audio_codec", "unsupported"),
        ("custom-input", "a.m3u8", json!({"audio_streams": "all"}), "audio_streams", "unsupported"),
        ("custom-input", "a.m3u8", json!({"subtitles": "copy"}), "subtitles", "unsupported"),
        ("custom-input", "a.m3u8", json!({"chapters": "keep"}), "chapters", "contradiction"),
        ("custom-input", "a.mp4", json!({"every_sec": 5}), "every_sec", "contradiction"),
        ("thumbnail", "a.jpg", json!({"picture_count": 5}), "picture_count", "contradiction"),
        ("thumbnails", "a.vtt", json!({"columns": 5}), "columns", "contradiction"),
        ("thumbnails", "a.vtt", json!({"codec": "h264"}), "codec", "contradiction"),
        ("thumbnails", "a.vtt", json!({"fps": 5}), "fps", "contradiction"),
        ("thumbnails", "a.vtt", json!({"every_sec": 0.05}), "every_sec", "out_of_range"),
        ("thumbnails", "a.vtt", json!({"picture_count": 0}), "picture_count", "out_of_range"),
        ("thumbnails", "a.vtt", json!({"picture_count": 9, "every_sec": 1}), "picture_count", "contradiction"),
        ("thumbnails", "a.vtt", json!({"quality": "ssim"}), "quality", "unsupported"),
        ("sprites", "a.vtt", json!({"rows": 101}), "rows", "out_of_range"),
        ("sprites", "a.vtt", json!({"rows": 0}), "rows", "out_of_range"),
        ("sprites", "a.vtt", json!({"columns": 13, "resolution": "720p"}), "columns", "out_of_range"),
        ("sprites", "a.vtt", json!({"picture_format": "gif"}), "picture_format", "bad_value"),
    ] {
        let faults = read(&job(scenario, output, parameters.clone())).expect_err(&format!("{scenario} {parameters}"));
        let path = format!("parameters.{path}");
        assert!(
            faults.iter().any(|fault| fault.path == path && fault.code == code),
            "{scenario} {output} {parameters}: {path} {code} is not in {faults:?}"
        );
    }
}

#[test]
fn what_does_not_go_into_a_container_is_refused_with_the_cure() {
    for (scenario, output, cure) in [
        ("720p-h264", "a.webm", "it goes into mp4, mov, mkv, ts, hls, dash; webm takes vp8, vp9, av1"),
        ("720p-vp8", "a.mp4", "it goes into mkv, webm"),
        ("720p-av1", "a.ts", "ts takes h264, h265"),
        ("720p-h264", "a.mp3", "it goes into mp4"),
        ("audio-aac", "a.mp3", "mp3 takes mp3"),
        ("audio-opus", "a.m4a", "it goes into mp4, mkv, webm"),
        ("thumbnail", "a.mp4", "it goes into jpg, png"),
        ("copy", "a.jpg", "it goes into mp4"),
        ("copy", "a.m3u8", "it goes into mp4"),
        ("audio-aac", "a.m3u8", "it goes into m4a"),
        ("720p-av1", "a.m3u8", "hls takes h264, h265"),
        ("thumbnail", "a.vtt", "the scenarios `thumbnails` and `sprites`"),
        ("sprites", "a.jpg", "its address ends in .vtt"),
        ("720p-h264", "a.vtt", "it goes into mp4"),
        ("copy", "a.vtt", "it goes into mp4"),
        ("audio-aac", "a.webp", "it goes into m4a"),
    ] {
        let faults = read(&job(scenario, output, json!({}))).expect_err(output);
        assert!(faults.iter().any(|fault| fault.message.contains(cure)), "{scenario} {output}: {faults:?}");
    }
}

#[test]
fn what_goes_together_resolves_to_what_it_says() {
    let encode = read(&job("source-h265", "a.mkv", json!({"profile": "main10", "audio_codec": "copy"}))).unwrap();
    assert_eq!((encode.video.pixel_format, encode.audio.codec), (PixelFormat::Yuv420p10le, AudioChoice::Copy));
    let encode = read(&job("720p-av1", "a.mkv", json!({"passes": 2, "bitrate": "1M"}))).unwrap();
    assert_eq!(encode.video.encoder, Some(Encoder::LibaomAv1));
    let encode = read(&job("custom-input", "a.mp4", json!({"start": 3, "end": 10.5}))).unwrap();
    assert_eq!((encode.start_secs, encode.duration_secs), (Some(3.0), Some(7.5)));
    for (scenario, container, treatment) in [
        ("copy", Container::Mkv, Treatment::Copy),
        ("audio-mp3", Container::Mp3, Treatment::Drop),
        ("audio-aac", Container::M4a, Treatment::Drop),
        ("audio-opus", Container::Webm, Treatment::Drop),
        ("thumbnail", Container::Jpg, Treatment::Picture),
        ("thumbnails", Container::Vtt, Treatment::Picture),
        ("sprites", Container::Vtt, Treatment::Picture),
    ] {
        let encode = read(&json!({"scenario": scenario, "input": "/m/in.mkv"})).unwrap();
        assert_eq!((encode.container, encode.video.treatment), (container, treatment), "{scenario}");
    }
    let encode = read(&job("custom-input", "a.xyz", json!({"container": "mkv"}))).unwrap();
    assert_eq!(encode.container, Container::Mkv);
}

#[test]
fn an_encode_survives_the_wire_and_an_old_worker_is_not_given_what_it_would_leave_out() {
    let old = Ability {
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
    };
    let new = Ability { features: vec![Encode::FEATURE.into(), "loudnorm".into()], ..old.clone() };
    for (parameters, old_fits, new_fits) in [
        (json!({"crf": 20}), true, true),
        (json!({"crop": "640x360+0+20"}), false, true),
        (json!({"loudness": -23, "audio_streams": "1"}), false, true),
        (json!({"subtitles": "burn"}), false, false),
        (json!({"hdr": "tonemap"}), false, false),
    ] {
        let body = serde_json::to_vec(&job("custom-input", "a.mkv", parameters.clone())).unwrap();
        let spec = parse(&Received { body: &body, ..Received::default() }).unwrap();
        let encode = resolve(&spec).unwrap();
        assert_eq!(fits(&spec, encode.as_ref(), &old).is_ok(), old_fits, "{parameters}");
        assert_eq!(fits(&spec, encode.as_ref(), &new).is_ok(), new_fits, "{parameters}");
        let packed = rmp_serde::to_vec_named(&encode).unwrap();
        assert_eq!(rmp_serde::from_slice::<Option<Encode>>(&packed).unwrap(), encode);
    }
}

#[test]
fn quality_is_refused_where_it_cannot_be_measured_and_scores_imply_their_measure() {
    for (scenario, output, parameters, path, code) in [
        ("copy", "a.mkv", json!({"quality": ["psnr"]}), "quality", "unsupported"),
        ("audio-aac", "a.m4a", json!({"quality_target": {"ssim": 0.9}}), "quality_target", "unsupported"),
        ("thumbnail", "a.png", json!({"quality": "ssim"}), "quality", "unsupported"),
        ("720p-h264", "a.mp4", json!({"quality": ["ssim"], "subtitles": "burn"}), "quality", "unsupported"),
        ("720p-h264", "a.mp4", json!({"quality": []}), "quality", "out_of_range"),
        ("720p-h264", "a.mp4", json!({"quality": "sharpness"}), "quality", "bad_value"),
        ("720p-h264", "a.mp4", json!({"quality_target": {}}), "quality_target", "out_of_range"),
        ("720p-h264", "a.mp4", json!({"quality_target": {"vmaf": 101}}), "quality_target.vmaf", "out_of_range"),
        ("720p-h264", "a.mp4", json!({"quality_target": {"sharpness": 1}}), "quality_target", "bad_value"),
        ("720p-h264", "a.mp4", json!({"target_ssim": 2}), "target_ssim", "out_of_range"),
        ("720p-h264", "a.mp4", json!({"target_vmaf": 93, "crf": 20}), "target_vmaf", "contradiction"),
        ("720p-h264", "a.mp4", json!({"target_vmaf": 93, "bitrate": "1M"}), "target_vmaf", "contradiction"),
        ("720p-h264", "a.mp4", json!({"target_vmaf": 93, "target_psnr": 40}), "target_psnr", "contradiction"),
        ("720p-h264_nvenc", "a.mp4", json!({"target_vmaf": 93}), "target_vmaf", "unsupported"),
    ] {
        let faults = read(&job(scenario, output, parameters.clone())).expect_err(&parameters.to_string());
        let found: Vec<String> = faults.iter().map(|fault| format!("{} {}", fault.path, fault.code)).collect();
        assert_eq!(found, [format!("parameters.{path} {code}")], "{parameters}: {faults:?}");
    }
    let parameters = json!({"quality": "ssim", "quality_target": {"psnr": 40}, "target_vmaf": 93, "maxrate": "4M"});
    let encode = read(&job("720p-h264", "a.mp4", parameters)).unwrap();
    assert_eq!(encode.needs(), ["libvmaf", "psnr", "ssim"]);
}

#[test]
fn a_device_is_chosen_as_the_policy_says_and_not_asked_for_what_none_can() {
    for (scenario, parameters, path, code) in [
        ("720p-vp9", json!({"hw": "require", "crf": 30, "maxrate": "4M"}), "maxrate", "unsupported"),
        ("720p-h264", json!({"hw": "require", "pixel_format": "yuv420p10le"}), "pixel_format", "unsupported"),
        ("720p-vp8_vaapi", json!({"pixel_format": "p010le"}), "pixel_format", "unsupported"),
        ("720p-h264", json!({"hw": "require", "tune": "film"}), "tune", "unsupported"),
        ("720p-h264", json!({"hw": "require", "pixel_format": "yuv444p"}), "pixel_format", "unsupported"),
        ("720p-h264", json!({"hw": "require", "target_ssim": 0.9}), "target_ssim", "unsupported"),
        ("720p-libx264", json!({"hw": "require"}), "hw", "contradiction"),
        ("720p-h264_nvenc", json!({"hw": "forbid"}), "hw", "contradiction"),
        ("720p-libsvtav1", json!({"bitrate": "2M", "maxrate": "4M"}), "maxrate", "unsupported"),
        ("720p-libsvtav1", json!({"bitrate": "2M", "bufsize": "4M"}), "bufsize", "unsupported"),
        ("720p-h264_vaapi", json!({"crf": 20, "maxrate": "4M"}), "maxrate", "unsupported"),
    ] {
        let faults = read(&job(scenario, "a.mkv", parameters.clone())).expect_err(&parameters.to_string());
        let found: Vec<String> = faults.iter().map(|fault| format!("{} {}", fault.path, fault.code)).collect();
        assert_eq!(found, [format!("parameters.{path} {code}")], "{parameters}: {faults:?}");
    }
    let candidates = |scenario: &str, parameters: Value| -> Vec<&'static str> {
        let encode = read(&job(scenario, "a.mkv", parameters)).unwrap();
        encode.video.candidates().iter().map(|encoder| encoder.as_str()).collect()
    };
    let hardware = ["h264_nvenc", "h264_qsv", "h264_vaapi", "h264_videotoolbox"];
    assert_eq!(candidates("720p-h264", json!({"hw": "require"})), hardware);
    assert_eq!(candidates("720p-h264", json!({"hw": "prefer"})), [&hardware[..], &["libx264"]].concat());
    assert_eq!(candidates("720p-h264", json!({"hw": "prefer", "tune": "film"})), ["libx264"]);
    assert_eq!(candidates("720p-h264", json!({"hw": "forbid"})), ["libx264"]);
    assert_eq!(candidates("720p-vp9", json!({"hw": "prefer"})), ["vp9_qsv", "vp9_vaapi", "libvpx-vp9"]);
    assert_eq!(candidates("720p-vp8", json!({"hw": "require"})), ["vp8_vaapi"]);
    assert_eq!(candidates("720p-vp9", json!({"hw": "prefer", "crf": 30, "maxrate": "4M"})), ["libvpx-vp9"]);
    assert_eq!(candidates("720p-h264", json!({"hw": "prefer", "pixel_format": "yuv420p10le"})), ["libx264"]);
    assert_eq!(candidates("720p-h264_qsv", json!({"hw": "prefer"})), ["h264_qsv"]);
    // Bounds that an encoder would not keep to.
    let capped = |policy: &str| candidates("720p-h264", json!({"hw": policy, "crf": 20, "maxrate": "4M"}));
    assert_eq!((capped("require"), capped("prefer")), (vec!["h264_nvenc"], vec!["h264_nvenc", "libx264"]));
    for bound in ["maxrate", "bufsize"] {
        assert_eq!(candidates("720p-av1", json!({"bitrate": "2M", bound: "4M"})), ["libaom-av1"]);
    }
    assert_eq!(candidates("720p-av1", json!({"bitrate": "2M"})), ["libsvtav1", "libaom-av1"]);
    assert_eq!(candidates("720p-av1", json!({"crf": 30, "maxrate": "2M"})), ["libsvtav1", "libaom-av1"]);
    let required = read(&job("720p-h264", "a.mkv", json!({"hw": "require"}))).unwrap();
    assert_eq!(required.needs(), [Encode::CHOOSES_DEVICE]);
}

/// What bounds a rung is set when its source is known, after the encoder was chosen.
#[test]
fn a_device_that_bounds_no_constant_quality_makes_no_rungs_at_constant_quality() {
    let ladder = |scenario: &str, parameters: Value| read(&job(scenario, "{name}.mkv", parameters));
    let faults = |scenario: &str, parameters: Value| -> Vec<String> {
        let faults = ladder(scenario, parameters).expect_err(scenario);
        faults.iter().map(|fault| format!("{}: {}", fault.path, fault.message)).collect()
    };
    for encoder in ["h264_vaapi", "h264_qsv", "h264_videotoolbox"] {
        let found = faults("ladder-h264", json!({"crf": 20, "codec": encoder}));
        let cure = "leave `crf` out for rungs with an average rate, or name another encoder";
        assert!(found.len() == 1 && found[0].starts_with("parameters.crf: ") && found[0].contains(cure), "{found:?}");
        ladder("ladder-h264", json!({"codec": encoder})).expect("rungs with an average rate");
    }
    ladder("ladder-h264", json!({"crf": 20, "codec": "h264_nvenc"})).expect("NVENC bounds it");
    let found = faults("ladder-vp9", json!({"crf": 30, "hw": "require"}));
    assert!(found.len() == 1 && found[0].starts_with("parameters.crf: no device bounds"), "{found:?}");

    let candidates = |parameters: Value| -> Vec<&'static str> {
        let encode = ladder("ladder-h264", parameters).unwrap();
        encode.candidates().iter().map(|encoder| encoder.as_str()).collect()
    };
    assert_eq!(candidates(json!({"crf": 20, "hw": "prefer"})), ["h264_nvenc", "libx264"]);
    assert_eq!(candidates(json!({"crf": 20, "hw": "require"})), ["h264_nvenc"]);
    assert_eq!(candidates(json!({"crf": 20})), ["libx264"]);
    assert_eq!(candidates(json!({"hw": "require"})).len(), 4, "an average is kept by all");

    // A worker whose devices do not bound it is not given the job, and the fault says what would do.
    let body = serde_json::to_vec(&job("ladder-h264", "{name}.mkv", json!({"crf": 20, "hw": "require"}))).unwrap();
    let spec = parse(&Received { body: &body, ..Received::default() }).unwrap();
    let encode = resolve(&spec).unwrap();
    let with = |encoders: &[&str]| Ability {
        cpu_percent: 100,
        memory_mb: 4096,
        disk_mb: 9000,
        encoders: encoders.iter().map(|name| (*name).to_owned()).collect(),
        features: encode.as_ref().unwrap().needs().iter().map(|name| (*name).to_owned()).collect(),
        ..Ability::default()
    };
    let lacks = fits(&spec, encode.as_ref(), &with(&["libx264", "h264_vaapi"])).unwrap_err();
    assert!(lacks[0].message.contains("bounds the constant quality of h264: leave `crf` out"), "{lacks:?}");
    let lacks = fits(&spec, encode.as_ref(), &with(&["libx264"])).unwrap_err();
    assert!(lacks[0].message.contains("has a device that encodes h264"), "{lacks:?}");
    assert!(fits(&spec, encode.as_ref(), &with(&["h264_nvenc"])).is_ok());
}

#[test]
fn a_job_that_insists_on_chunks_says_so_where_it_cannot_have_them() {
    let refused = |mut wish: Value| {
        wish["checkpoint"] = json!("require");
        match read(&wish) {
            Ok(_) => None,
            Err(faults) => Some((faults[0].path.clone(), faults[0].message.clone())),
        }
    };
    assert_eq!(refused(job("720p-h264", "a.mp4", json!({"crf": 20, "maxrate": "4M", "duration": 5}))), None);
    let ladder = |parameters: Value| job("ladder-h264", "{name}.mp4", parameters);
    assert_eq!(refused(ladder(json!({"crf": 20}))), None);
    assert_eq!(refused(job("ladder-h264", "a.m3u8", json!({"crf": 20, "segment_seconds": 4}))), None);
    let mut poster = job("720p-h264", "a.mp4", json!({}));
    poster["outputs"] = json!([{"url": "/m/b.jpg", "scenario": "thumbnail"}]);
    for (wish, why) in [
        (job("720p-h264", "a.mp4", json!({"bitrate": "2M", "passes": 2})), "a bit rate is spent over the whole"),
        (job("720p-h264", "a.mp4", json!({"bitrate": "2M"})), "a bit rate is spent over the whole"),
        (ladder(json!({})), "a bit rate is spent over the whole"),
        (poster, "is not encoded"),
        (job("ladder-h264", "a.mpd", json!({})), "a bit rate is spent over the whole"),
        (job("copy", "a.mkv", json!({})), "is not encoded"),
        (json!({"scenario": "720p30-h264"}), "its source is generated"),
    ] {
        let (path, message) = refused(wish.clone()).unwrap_or_else(|| panic!("{wish} is taken"));
        assert_eq!(path, "checkpoint", "{wish}");
        assert!(message.contains(why), "{message}");
    }
}

#[test]
fn a_client_cannot_pose_as_the_ledger_that_makes_chunks() {
    let cut = json!({"seek": null, "span": {"by": "time", "from": null, "to": 5_000_000}, "frames": 125});
    let of = "01920f3a-7c1e-7d2a-8a6e-3f0c5b1d9e42";
    let mut wish = job("720p-h264", "a.mp4", json!({}));
    wish["piece"] = json!({"of": of, "number": 0, "total": 2, "key": "k", "cut": cut});
    let faults = read(&wish).unwrap_err();
    assert_eq!((faults[0].path.as_str(), faults[0].code.as_str()), ("piece", "unknown_field"));
    // For the ledger's own eyes it can be read, to see which worker could run it.
    let body = serde_json::to_vec(&wish).unwrap();
    let spec = parse::piece(&Received { body: &body, ..Received::default() }).unwrap();
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
    assert!(fits(&spec, resolve(&spec).unwrap().as_ref(), &ability).is_err());
    let ability = Ability { features: vec![Piece::FEATURE.to_owned()], ..ability };
    assert!(fits(&spec, resolve(&spec).unwrap().as_ref(), &ability).is_ok());
    // The sound apart is for workers that know of it.
    wish["piece"]["is_sound"] = json!(true);
    let body = serde_json::to_vec(&wish).unwrap();
    let spec = parse::piece(&Received { body: &body, ..Received::default() }).unwrap();
    assert!(fits(&spec, resolve(&spec).unwrap().as_ref(), &ability).is_err());
    let ability = Ability { features: [Piece::FEATURE, Piece::SOUND_FEATURE].map(str::to_owned).into(), ..ability };
    assert!(fits(&spec, resolve(&spec).unwrap().as_ref(), &ability).is_ok());
    // So is a chunk of a part, and a job that insists on chunks of one.
    let sound = ability;
    let part = json!({"start": 10, "duration": 30});
    let mut wish = job("720p-h264", "a.mp4", part.clone());
    wish["piece"] = json!({"of": of, "number": 0, "total": 2, "key": "k", "cut": cut});
    let mut insists = job("720p-h264", "a.mp4", part);
    insists["checkpoint"] = json!("require");
    let mut knows = sound.clone();
    knows.features.extend(Piece::FEATURES.map(str::to_owned));
    knows.features.extend([Encode::FEATURE, Encode::OUTPUTS_FEATURE].map(str::to_owned));
    // And one of several outputs.
    let mut several = wish.clone();
    several["parameters"] = json!({});
    several["outputs"] = json!([{"url": "/m/b.mp4", "scenario": "480p-h264"}]);
    // And one of a presentation.
    let mut streamed = job("720p-h264", "a.m3u8", json!({}));
    streamed["checkpoint"] = json!("require");
    knows.features.push(Encode::SEGMENTS_FEATURE.to_owned());
    for (wish, feature) in [
        (wish, "chunks-part-1"),
        (insists, "chunks-part-1"),
        (several, "chunks-outputs-1"),
        (streamed, "chunks-segments-1"),
    ] {
        let body = serde_json::to_vec(&wish).unwrap();
        let received = Received { body: &body, ..Received::default() };
        let spec = parse::piece(&received).unwrap_or_else(|| parse(&received).unwrap());
        let encode = resolve(&spec).unwrap();
        assert!(fits(&spec, encode.as_ref(), &sound).unwrap_err().iter().any(|fault| fault.message.contains(feature)));
        assert_eq!(fits(&spec, encode.as_ref(), &knows), Ok(()));
    }
}

#[test]
fn sets_of_pictures_have_a_pace_a_format_and_a_grid() {
    let read = |scenario: &str, parameters: Value| read(&job(scenario, "a.vtt", parameters)).unwrap();
    let plain = read("thumbnails", json!({"start": 2, "end": 9.5}));
    assert_eq!(plain.pictures, Some(Pictures { pace: Pace::Every(10.0), format: PictureFormat::Jpg, grid: None }));
    assert_eq!((plain.start_secs, plain.duration_secs, plain.video.size), (Some(2.0), Some(7.5), None));
    assert_eq!(plain.needs(), ["encodes-2", "pictures"]);
    let sheets = read("sprites", json!({"picture_count": 40, "rows": 4, "picture_format": "webp"}));
    let set = sheets.pictures.unwrap();
    assert_eq!((set.pace, set.grid), (Pace::Count(40), Some(Grid { columns: 10, rows: 4 })));
    assert_eq!((sheets.video.size.unwrap().to_string().as_str(), sheets.video.fit), ("160x90", Fit::Inside));
    assert_eq!(sheets.needs(), ["encodes-2", "pictures", "libwebp"]);
    let sized = read("sprites", json!({"resolution": "320x180"}));
    assert_eq!((sized.video.size.unwrap().width, sized.video.fit), (320, Fit::Pad));
}
