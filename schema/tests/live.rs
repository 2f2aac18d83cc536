//! Live jobs as they are published: what they resolve to, where they go, and what is refused before it runs.

use ffpool_schema::encode::{Encode, Source};
use ffpool_schema::live::{Live, SourceEnd};
use ffpool_schema::parse::{Fault, Received, parse};
use ffpool_schema::scenario::resolve;
use serde_json::{Value, json};

const SOURCE: &str = "rtmp://in.example/live/s3cret";

fn read(job: &Value) -> Result<Encode, Vec<Fault>> {
    let body = serde_json::to_vec(job).unwrap();
    let spec = parse(&Received { body: &body, ..Received::default() })?;
    Ok(resolve(&spec)?.expect("no test here asks for noop"))
}

fn live(job: &Value) -> (Encode, Live) {
    let encode = read(job).unwrap_or_else(|faults| panic!("{job}: {faults:?}"));
    let live = encode.live.clone().unwrap_or_else(|| panic!("{job} is not live"));
    (encode, live)
}

#[test]
fn a_live_source_without_outputs_is_recorded_until_it_ends() {
    let (encode, live) = live(&json!({"scenario": "720p-h264", "queue": "live", "input": SOURCE}));
    assert_eq!(encode.source, Source::Live { url: "rtmp://in.example:1935/live/s3cret".to_owned() });
    assert!(live.record && live.sinks.is_empty() && live.playlist.is_none());
    assert_eq!((live.reconnect_secs, live.restarts, live.source_end), (60, 1000, SourceEnd::Finish));
    assert_eq!(encode.video.preset.as_deref(), Some("veryfast"));
    assert_eq!(encode.needs(), ["live", "live-rtmp"]);
    assert!(!format!("{live:?}").contains("s3cret"));
}

#[test]
fn each_output_goes_where_its_address_says_and_one_encode_serves_all() {
    let output = |url: &str| json!({"url": url, "scenario": "720p30-h264"});
    let (encode, live) = live(&json!({
        "scenario": "720p30-h264",
        "input": "https://cdn.example/live.m3u8?sig=1",
        "output": "rtmps://a.example/app/key",
        "outputs": [output("srt://b.example:9000?streamid=x"), output("/m/out/live.m3u8"), output("/m/out/live.mpd"),
                    output("s3://bucket/rec.mkv")],
        "parameters": {"duration": 60, "reconnect_sec": 5, "restarts": 3, "output_mode": "stream"}
    }));
    assert_eq!(live.sinks, ["rtmps://a.example:443/app/key", "srt://b.example:9000?streamid=x"]);
    assert_eq!(live.playlist.as_deref(), Some("/m/out/live.m3u8"));
    assert_eq!(live.presentation.as_deref(), Some("/m/out/live.mpd"));
    assert!(live.record);
    assert_eq!(encode.output.as_deref(), Some("s3://bucket/rec.mkv"));
    assert_eq!((live.reconnect_secs, live.restarts, live.source_end), (5, 3, SourceEnd::Fail));
    assert_eq!(encode.needs(), ["live", "live-dash", "live-hls", "live-rtmps", "live-srt"]);
}

#[test]
fn a_file_and_a_generated_picture_can_be_published() {
    let (encode, live) = live(&json!({"scenario": "copy", "input": "/m/a.mp4", "output": SOURCE}));
    assert_eq!(encode.source, Source::File { path: "/m/a.mp4".to_owned() });
    assert!(!live.record);
    let (encode, _) = self::live(&json!({
        "scenario": "720p30-h264", "queue": "live", "output": SOURCE,
        "parameters": {"bitrate": "2M", "output_mode": "rtmp", "duration": 30}
    }));
    assert_eq!(encode.source, Source::Generated { duration_secs: 30.0 });
}

#[test]
fn what_cannot_go_live_is_refused_at_its_field() {
    let from = |parameters: Value| json!({"scenario": "720p-h264", "input": SOURCE, "parameters": parameters});
    let to = |scenario: &str, output: &str| json!({"scenario": scenario, "input": SOURCE, "output": output});
    let two = |scenario: &str, url: &str| {
        json!({"scenario": "720p-h264", "input": SOURCE, "output": "rtmp://a.example/app/key",
               "outputs": [{"url": url, "scenario": scenario}]})
    };
    for (job, path, code) in [
        (from(json!({"start": 3})), "parameters.start", "unsupported"),
        (from(json!({"passes": 2, "bitrate": "1M"})), "parameters.passes", "unsupported"),
        (from(json!({"loudness": -23})), "parameters.loudness", "unsupported"),
        (from(json!({"deinterlace": "auto"})), "parameters.deinterlace", "unsupported"),
        (from(json!({"subtitles": "burn"})), "parameters.subtitles", "unsupported"),
        (from(json!({"audio_codec": "mp3"})), "parameters.audio_codec", "unsupported"),
        (from(json!({"output_mode": "rtmp"})), "parameters.output_mode", "contradiction"),
        (from(json!({"reconnect_sec": 100_000})), "parameters.reconnect_sec", "out_of_range"),
        (from(json!({"restarts": 10_001})), "parameters.restarts", "out_of_range"),
        (from(json!({"source_end": "stop"})), "parameters.source_end", "bad_value"),
        (to("720p-av1", "/m/a.mp4"), "parameters.codec", "unsupported"),
        (to("ladder-h264", "rtmp://a.example/app/key"), "scenario", "unsupported"),
        (to("audio-aac", "/m/a.m4a"), "scenario", "unsupported"),
        (to("720p-h265", "rtmp://a.example/app/key"), "output", "unsupported"),
        (to("720p-h264", "rtmp://a.example/key"), "output", "bad_value"),
        (to("720p-h264", "s3://bucket/a.mpd"), "output", "unsupported"),
        (to("720p-h264", "s3://bucket/a.m3u8"), "output", "unsupported"),
        (two("720p-h264", "https://h/a.mpd"), "outputs[0].url", "unsupported"),
        (two("720p-h264", "rtmp://a.example:1935/app/key"), "outputs[0].url", "contradiction"),
        (two("480p-h264", "rtmp://b.example/app/key"), "outputs[0].scenario", "unsupported"),
        (
            json!({"scenario": "720p-h264", "input": "/m/a.mp4", "output": SOURCE, "parameters": {"source_end": "fail"}}),
            "parameters.source_end",
            "contradiction",
        ),
        (
            json!({"scenario": "720p-h264", "input": "/m/a.mp4", "parameters": {"restarts": 1}}),
            "parameters.restarts",
            "contradiction",
        ),
        (
            json!({"scenario": "720p-h264", "input": "/m/a.mp4", "parameters": {"output_mode": "stream"}}),
            "parameters.output_mode",
            "unsupported",
        ),
    ] {
        let faults = read(&job).expect_err(&job.to_string());
        let found = faults.iter().any(|fault| fault.path == path && fault.code == code);
        assert!(found, "{job}: {path} {code} is not among {faults:?}");
        assert!(faults.iter().all(|fault| !fault.message.contains("s3cret")), "{faults:?}");
    }
}
