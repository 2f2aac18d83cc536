//! Pipelines word by word, and what is refused.

mod live;

use std::path::Path;

use super::*;
use crate::encode::Encode;
use crate::job::JobSpec;
use crate::message::{Ability, AudioProbe, Probe, VideoProbe};
use crate::parse::{Received, parse};
use crate::plan::{Request, plan};
use crate::probe::Probed;
use crate::scenario;

fn job(more: serde_json::Value) -> Result<(JobSpec, Encode), Vec<String>> {
    let mut job = serde_json::json!({"scenario": "240p30-h264", "engine": "gstreamer", "output": "/m/out.mp4"});
    for (name, value) in more.as_object().unwrap() {
        job[name] = value.clone();
    }
    let body = job.to_string();
    let spec = parse(&Received { body: body.as_bytes(), ..Received::default() }).and_then(|spec| {
        let encode = scenario::resolve(&spec)?;
        Ok((spec, encode.unwrap()))
    });
    spec.map_err(|faults| {
        faults.into_iter().map(|fault| format!("{} {}: {}", fault.path, fault.code, fault.message)).collect()
    })
}

fn source() -> Probed {
    let video = VideoProbe {
        codec: "h264".to_owned(),
        profile: None,
        width: 320,
        height: 180,
        fps: Some(25.0),
        pixel_format: Some("yuv420p".to_owned()),
        duration_secs: Some(2.0),
        frames: None,
        rotation: None,
    };
    let audio =
        AudioProbe { codec: "aac".to_owned(), channels: Some(2), sample_rate: Some(44_100), duration_secs: Some(2.0) };
    Probed {
        probe: Probe { format: "mov,mp4,m4a".to_owned(), video: Some(video), ..Probe::default() },
        sample_aspect: (1, 1),
        audio: vec![audio],
        audio_ends: vec![Some(2.0)],
        video_end: Some(2.0),
        ..Probed::default()
    }
}

fn words(encode: &Encode, source: Option<&Probed>) -> Result<String, String> {
    let request = Request {
        encode,
        encoder: twin(encode.video.codec),
        device: None,
        source: source.map(|probed| (Path::new("/m/in.mp4"), probed)),
        output: Path::new("encode.mp4"),
        number: 0,
        threads: 2,
        features: &[],
        loudness: None,
    };
    let planned = plan(&request).map_err(|refusal| refusal.to_string())?;
    let pipeline = pipeline(&request, &planned).map_err(|refusal| refusal.to_string())?;
    let arguments = pipeline.arguments();
    for element in pipeline.elements() {
        assert!(
            ELEMENTS.iter().any(|(known, _)| known == element) || ["filesrc", "filesink", "queue"].contains(element),
            "{element} is in no package"
        );
    }
    Ok(arguments.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" "))
}

#[test]
fn a_pipeline_is_made_of_named_elements_and_bounded_rates() {
    let (_, encode) = job(serde_json::json!({"input": "/m/in.mp4"})).unwrap();
    let said = words(&encode, Some(&source())).unwrap();
    for part in [
        "--no-fault filesrc location=source ! qtdemux name=demux demux.video_0 !",
        "! h264parse ! avdec_h264 max-threads=2 ! progressreport name=progress",
        "width=426,height=240,pixel-aspect-ratio=1/1,framerate=30/1 ! x264enc speed-preset=medium key-int-max=60",
        // Without a buffer its quality is not under a bound that nobody asked for.
        "pass=qual quantizer=23 vbv-buf-capacity=0 !",
        "! mp4mux name=mux faststart=true faststart-file=mux.data ! filesink location=encode.mp4 demux.audio_0 !",
        "! aacparse ! avdec_aac ! audioconvert ! audioresample ! audio/x-raw ! avenc_aac bitrate=128000 ! aacparse !",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert!(!said.contains("/m/"), "a path became part of it: {said}");

    for (parameters, part) in [
        (serde_json::json!({"bitrate": "600k"}), "pass=cbr bitrate=600 vbv-buf-capacity=500"),
        (
            serde_json::json!({"crf": 20, "maxrate": "2M", "bufsize": "3M"}),
            "quantizer=20 bitrate=2000 vbv-buf-capacity=1500",
        ),
        (serde_json::json!({"tune": "film", "profile": "main"}), "psy-tune=film ! video/x-h264,profile=main !"),
        (
            serde_json::json!({"codec": "h265", "crf": 30, "maxrate": "2M", "bufsize": "3M"}),
            "tune=0 option-string=pools=2:open-gop=0:vbv-maxrate=2000:vbv-bufsize=3000:crf=30 ! h265parse",
        ),
    ] {
        let (_, encode) = job(serde_json::json!({"input": "/m/in.mp4", "parameters": parameters})).unwrap();
        let said = words(&encode, Some(&source())).unwrap();
        assert!(said.contains(part), "{part} is not in {said}");
    }
    let vp9 =
        serde_json::json!({"output": "/m/out.webm", "parameters": {"codec": "vp9", "bitrate": "600k", "duration": 2}});
    let (_, encode) = job(vp9).unwrap();
    let said = words(&encode, None).unwrap();
    // Frames that it holds back are lost at the end.
    for part in [
        "videotestsrc num-buffers=60",
        "lag-in-frames=0",
        "end-usage=cbr target-bitrate=600000",
        "rate=48000 ! opusenc",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
}

#[test]
fn what_it_does_not_do_is_refused_at_its_field_with_the_cure() {
    let input = "/m/in.mp4";
    for (more, path) in [
        (serde_json::json!({"input": input, "parameters": {"passes": 2, "bitrate": "1M"}}), "parameters.passes"),
        (serde_json::json!({"input": input, "parameters": {"crop": "160x90+0+0"}}), "parameters.crop"),
        (serde_json::json!({"input": input, "parameters": {"start": 1}}), "parameters.start"),
        (serde_json::json!({"input": input, "parameters": {"duration": 1}}), "parameters.duration"),
        (serde_json::json!({"input": input, "parameters": {"pixel_format": "yuv420p10le"}}), "parameters.pixel_format"),
        (serde_json::json!({"input": input, "parameters": {"loudness": -23}}), "parameters.loudness"),
        (serde_json::json!({"input": input, "parameters": {"audio_codec": "copy"}}), "parameters.audio_codec"),
        (serde_json::json!({"input": input, "parameters": {"codec": "av1"}}), "parameters.codec"),
        (serde_json::json!({"input": input, "parameters": {"codec": "h264_nvenc"}}), "parameters.codec"),
        (serde_json::json!({"input": input, "parameters": {"codec": "vp9"}}), "parameters.crf"),
        (serde_json::json!({"input": input, "parameters": {"bitrate": "1M", "maxrate": "2M"}}), "parameters.maxrate"),
        (serde_json::json!({"input": input, "parameters": {"target_vmaf": 90}}), "parameters.target_vmaf"),
        (serde_json::json!({"input": input, "parameters": {"subtitles": "burn"}}), "parameters.subtitles"),
        (serde_json::json!({"input": input, "parameters": {"hw": "prefer"}}), "parameters.hw"),
        (serde_json::json!({"input": input, "scenario": "audio-aac", "output": "/m/out.m4a"}), "parameters.codec"),
        (serde_json::json!({"input": input, "output": "/m/out.m3u8"}), "parameters.container"),
        (serde_json::json!({"input": input, "outputs": [{"url": "/m/2.mp4", "scenario": "240p30-h264"}]}), "outputs"),
        (serde_json::json!({"input": input, "output": "rtmps://out.example/live/key"}), "output"),
        (serde_json::json!({"input": "https://in.example/live.m3u8"}), "input"),
        (serde_json::json!({"input": "rtmps://in.example/live/key"}), "input"),
        (serde_json::json!({"input": "rtmp://in.example/live/key", "output": "/m/live.m3u8"}), "output"),
        (
            serde_json::json!({"input": "rtmp://in.example/live/key", "output": null,
                               "outputs": [{"url": "/m/live.mpd", "scenario": "240p30-h264"}]}),
            "outputs[0].url",
        ),
        (
            serde_json::json!({"input": "rtmp://in.example/live/key",
                               "outputs": [{"url": "srt://out.example:9000", "scenario": "240p30-h264"}]}),
            "outputs",
        ),
        (
            serde_json::json!({"input": "rtmp://in.example/live/key", "parameters": {"codec": "h265"}}),
            "parameters.codec",
        ),
        (
            serde_json::json!({"input": "rtmp://in.example/live/key", "parameters": {"audio_codec": "copy"}}),
            "parameters.audio_codec",
        ),
        (
            serde_json::json!({"input": input, "output": "srt://out.example:9000", "parameters": {"duration": 3}}),
            "parameters.duration",
        ),
        (serde_json::json!({"input": input, "checkpoint": "require"}), "checkpoint"),
    ] {
        let faults = job(more.clone()).unwrap_err();
        let fault = faults.iter().find(|fault| fault.starts_with(&format!("{path} unsupported"))).cloned();
        let fault = fault.unwrap_or_else(|| panic!("{more}: {faults:?}"));
        assert!(fault.contains("`engine: ffmpeg`") || path == "checkpoint", "{fault}");
        // FFmpeg does all of it.
        let mut by_ffmpeg = more.clone();
        by_ffmpeg["engine"] = "ffmpeg".into();
        assert!(path == "checkpoint" || job(by_ffmpeg).is_ok(), "{more}");
    }
}

#[test]
fn what_only_the_source_tells_is_refused_too() {
    let (_, encode) = job(serde_json::json!({"input": "/m/in.mp4"})).unwrap();
    let changed = |change: fn(&mut Probed)| {
        let mut probed = source();
        change(&mut probed);
        words(&encode, Some(&probed)).unwrap_err()
    };
    for (said, part) in [
        (changed(|probed| probed.probe.format = "mpegts".to_owned()), "the source is mpegts"),
        (changed(|probed| probed.is_interlaced = true), "interlaced"),
        (changed(|probed| probed.chapters = 2), "chapters"),
        (changed(|probed| probed.audio[0].codec = "alac".to_owned()), "audio is alac"),
        (changed(|probed| probed.probe.video.as_mut().unwrap().codec = "prores".to_owned()), "video is prores"),
        (changed(|probed| probed.probe.video.as_mut().unwrap().rotation = Some(90)), "rotated"),
    ] {
        assert!(said.contains(part) && said.contains("use `engine: ffmpeg`"), "{said}");
    }
}

/// A worker that has nothing of GStreamer.
fn bare() -> Ability {
    Ability {
        cpu_percent: 200,
        memory_mb: 4096,
        disk_mb: 20_000,
        encoders: vec!["libx265".into()],
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
fn a_worker_without_what_it_needs_is_passed_over_with_the_package_named() {
    let (spec, encode) = job(serde_json::json!({"parameters": {"codec": "h265"}})).unwrap();
    let none = bare();
    let said = |ability: &Ability| {
        let faults = scenario::fits(&spec, Some(&encode), ability).unwrap_err();
        assert!(faults.iter().all(|fault| fault.path == "engine" && fault.code == "no_worker_fits"), "{faults:?}");
        faults.iter().map(|fault| fault.message.clone()).collect::<Vec<_>>().join("; ")
    };
    assert!(said(&none).contains("install gstreamer1.0-tools"));
    let there = |missing: &[&str]| {
        Some(Installation { version: "1".into(), missing: missing.iter().map(ToString::to_string).collect() })
    };
    let features = vec!["gstreamer-aac".into()];
    let poor = Ability { gstreamer: there(&["x265enc", "mp4mux"]), features, ..none.clone() };
    let lacking = said(&poor);
    assert!(lacking.contains("`x265enc`: install gstreamer1.0-plugins-bad"), "{lacking}");
    assert!(lacking.contains("`mp4mux`: install gstreamer1.0-plugins-good"), "{lacking}");
    let features = vec!["gstreamer-aac".into(), "gstreamer-h265".into()];
    let rich = Ability { gstreamer: there(&[]), features, ..none };
    scenario::fits(&spec, Some(&encode), &rich).unwrap();
}
