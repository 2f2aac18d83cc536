//! What comes out is what was asked for.

use ffpool_schema::encode::{AudioChoice, Bitrate, CodecChoice, Encoder, Fps, Resolution};
use ffpool_schema::failure::Cause;
use ffpool_schema::job::JobSpec;
use ffpool_schema::message::{Phase, hex};
use ffpool_schema::scenario::path_of;
use sha2::{Digest, Sha256};

use super::bench::{Bench, Ledger, failure, ffmpeg, manifest};

#[tokio::test(flavor = "multi_thread")]
async fn a_file_becomes_what_its_scenario_says_with_a_proof_beside_it() {
    let bench = Bench::open().await;
    let mut spec = bench.spec("240p30-h264");
    spec.input = Some(bench.clip("source.mp4", &[]));
    spec.output = Some(format!("file://{}", bench.media("new/out%20put.mp4").display()));
    let grant = bench.grant(&spec);
    let running = bench.start(&grant, Ledger::Grants);
    let ended = running.ended.await.unwrap();
    let manifest = manifest(&ended);

    let output = bench.media("new/out put.mp4");
    let artifact = &manifest.artifacts[0];
    let bytes = std::fs::read(&output).unwrap();
    assert_eq!(path_of(&artifact.url).unwrap(), output.canonicalize().unwrap().to_str().unwrap());
    assert_eq!(artifact.sha256, hex(&Sha256::digest(&bytes)));
    assert_eq!(artifact.size_bytes, bytes.len() as u64);
    let video = artifact.probe.video.as_ref().unwrap();
    assert_eq!((video.codec.as_str(), video.width, video.height), ("h264", 426, 240));
    assert_eq!((video.fps, video.pixel_format.as_deref(), video.frames), (Some(30.0), Some("yuv420p"), Some(60)));
    assert_eq!(artifact.probe.audio.as_ref().unwrap().codec, "aac");
    let beside = std::fs::read(bench.media("new/out put.mp4.ffpool.json")).unwrap();
    assert_eq!(&serde_json::from_slice::<ffpool_schema::message::Manifest>(&beside).unwrap(), manifest);
    assert!(manifest.tool.starts_with("ffmpeg version"), "{}", manifest.tool);
    assert_eq!(
        manifest.source.as_ref().unwrap().size_bytes,
        std::fs::metadata(bench.media("source.mp4")).unwrap().len()
    );

    let progress = running.progress.borrow().clone().unwrap();
    assert_eq!((progress.phase, progress.job, progress.attempt), (Phase::Commit, grant.job, 1));
    assert!(progress.percent.is_some_and(|percent| percent < 100.0) && progress.seq > 3, "{progress:?}");
    assert!(ended.usage.cpu_ms > 0 && ended.usage.wall_ms > 0, "{:?}", ended.usage);
    assert_eq!(ended.usage.output_bytes, Some(artifact.size_bytes));
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_encoder_and_container_makes_what_it_should() {
    let bench = Bench::open().await;
    let input = bench.clip("source.mkv", &[]);
    let works = bench.workshop.ability().encoders;
    for (codec, container) in [
        ("libx264", "mov"),
        ("libx264", "ts"),
        ("libx265", "mp4"),
        ("libvpx", "webm"),
        ("libvpx-vp9", "webm"),
        ("libsvtav1", "mp4"),
        ("libaom-av1", "mkv"),
    ] {
        assert!(works.iter().any(|name| name == codec), "{codec} does not work here: {works:?}");
        let mut spec = bench.spec("240p25-h264");
        spec.input = Some(input.clone());
        spec.output = Some(bench.media(&format!("{codec}.{container}")).display().to_string());
        spec.parameters.codec = Some(CodecChoice::Encoder(codec.parse::<Encoder>().unwrap()));
        spec.parameters.resolution = Some(Resolution::new(192, 108).unwrap());
        let ended = bench.run_spec(&spec).await;
        let probe = &manifest(&ended).artifacts[0].probe;
        let video = probe.video.as_ref().unwrap();
        assert_eq!((video.width, video.height), (192, 108), "{codec} in {container}");
        // The source begins with a little sound: a frame may come before the first.
        assert!(matches!(video.frames, Some(50 | 51)), "{codec} in {container}: {video:?}");
        assert!(probe.audio.is_some(), "{codec} in {container}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_source_needs_no_input_and_its_output_gets_a_name() {
    let bench = Bench::open().await;
    let mut spec = bench.spec("source-h265");
    spec.parameters.duration = Some(1.0);
    spec.parameters.resolution = Some(Resolution::new(320, 180).unwrap());
    spec.parameters.fps = Some(Fps { num: 30_000, den: 1001 });
    let grant = bench.grant(&spec);
    let ended = bench.run(&grant).await;
    let probe = &manifest(&ended).artifacts[0].probe;
    assert!((probe.video.as_ref().unwrap().fps.unwrap() - 29.97).abs() < 0.01);
    assert!((probe.duration_secs.unwrap() - 1.0).abs() < 0.1);
    assert!(bench.media(&format!("ffpool/{}.mp4", grant.job)).is_file());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_average_bit_rate_is_met_within_ten_percent() {
    let bench = Bench::open().await;
    for scenario in ["240p25-h264", "240p25-vp9"] {
        let mut spec = bench.spec(scenario);
        spec.parameters.preset = Some("superfast".to_owned());
        spec.parameters.duration = Some(8.0);
        spec.parameters.bitrate = Some(Bitrate(600_000));
        spec.parameters.audio_codec = Some(AudioChoice::None);
        let ended = bench.run_spec(&spec).await;
        let artifact = &manifest(&ended).artifacts[0];
        let rate = artifact.size_bytes as f64 * 8.0 / artifact.probe.duration_secs.unwrap();
        assert!((540_000.0..=660_000.0).contains(&rate), "{scenario}: {rate} bits per second");
    }
}

/// Over six seconds, with the usual buffer of two: what any bucket of that size lets through.
const CAPPED: std::ops::RangeInclusive<f64> = 120_000.0..=270_000.0;

#[tokio::test(flavor = "multi_thread")]
async fn a_constant_quality_is_capped_by_every_software_encoder() {
    let bench = Bench::open().await;
    let grain = bench.media("grain.mkv").display().to_string();
    let picture = "testsrc2=size=192x108:rate=15:duration=6,noise=alls=20:allf=t";
    ffmpeg(&["-f", "lavfi", "-i", picture, "-c:v", "libx264", "-preset", "ultrafast", "-crf", "5", &grain]);
    for codec in ["libx264", "libx265", "libvpx", "libvpx-vp9", "libsvtav1", "libaom-av1"] {
        let mut spec = bench.spec("custom-input");
        spec.input = Some(grain.clone());
        spec.output = Some(bench.media(&format!("{codec}.mkv")).display().to_string());
        spec.parameters.codec = Some(CodecChoice::Encoder(codec.parse::<Encoder>().unwrap()));
        spec.parameters.preset = Some("superfast".to_owned());
        spec.parameters.crf = Some(10);
        let rate = async |spec: &JobSpec| {
            let ended = bench.run_spec(spec).await;
            manifest(&ended).artifacts[0].proof.as_ref().unwrap().streams[0].bytes as f64 * 8.0 / 6.0
        };
        let free = rate(&spec).await;
        spec.parameters.maxrate = Some(Bitrate(200_000));
        let capped = rate(&spec).await;
        assert!(
            free > 800_000.0 && CAPPED.contains(&capped),
            "{codec}: {free} without and {capped} with a cap of 200 kbit/s"
        );
    }
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoder_that_heeds_no_peak_is_not_taken_where_one_is_asked_for() {
    let bench = Bench::open().await;
    let mut spec = bench.spec("240p25-av1");
    spec.parameters.duration = Some(1.0);
    spec.parameters.preset = Some("ultrafast".to_owned());
    spec.parameters.bitrate = Some(Bitrate(200_000));
    let encoder = async |spec: &JobSpec| {
        let ended = bench.run_spec(spec).await;
        let arguments = &manifest(&ended).arguments;
        let at = arguments.iter().position(|word| word == "-c:v").unwrap();
        arguments[at + 1].clone()
    };
    assert_eq!(encoder(&spec).await, "libsvtav1");
    spec.parameters.maxrate = Some(Bitrate(300_000));
    assert_eq!(encoder(&spec).await, "libaom-av1");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_shapes_and_sounds_of_sources_are_taken() {
    let bench = Bench::open().await;
    // Not square, an odd length, and sound in five channels.
    let odd = bench.clip("odd.mkv", &["-vf", "setsar=4/3,scale=322:178", "-ac", "6", "-t", "1.3"]);
    let silent = bench.clip("silent.mp4", &["-an"]);
    let rotated = bench.clip("rotated.mp4", &["-metadata:s:v", "rotate=90"]);
    for (input, output, sound) in
        [(odd, "odd.webm", Some("opus")), (silent, "silent2.mp4", None), (rotated, "rotated.mkv", Some("aac"))]
    {
        let mut spec = bench.spec(if output.ends_with("webm") { "source-vp9" } else { "custom-input" });
        spec.input = Some(input);
        spec.output = Some(bench.media(output).display().to_string());
        let ended = bench.run_spec(&spec).await;
        let probe = &manifest(&ended).artifacts[0].probe;
        assert_eq!(probe.audio.as_ref().map(|audio| audio.codec.as_str()), sound, "{output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_and_disguised_inputs_are_bad_inputs() {
    let bench = Bench::open().await;
    let cut = bench.clip("cut.mp4", &[]);
    let cut_in_the_middle = bench.clip("middle.mp4", &["-movflags", "+faststart"]);
    let text = bench.media("text.mp4").display().to_string();
    let script = bench.media("script.mp4").display().to_string();
    let list = bench.media("list.mp4").display().to_string();
    for path in [&cut, &cut_in_the_middle] {
        let len = std::fs::metadata(path).unwrap().len();
        std::fs::File::options().write(true).open(path).unwrap().set_len(len / 2).unwrap();
    }
    std::fs::write(&text, "this is no film\n".repeat(100)).unwrap();
    std::fs::write(&script, "ffconcat version 1.0\nfile neighbour.mp4\n").unwrap();
    std::fs::write(&list, "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n")
        .unwrap();
    bench.clip("neighbour.mp4", &[]);
    for input in [cut, cut_in_the_middle, text, script, list] {
        let mut spec = bench.spec("240p25-h264");
        spec.input = Some(input.clone());
        spec.output = Some(bench.media("never.mp4").display().to_string());
        let ended = bench.run_spec(&spec).await;
        let failure = failure(&ended);
        assert_eq!(failure.cause, Cause::InputBad, "{input}: {failure:?}");
        let evidence = failure.evidence.as_deref().unwrap_or_else(|| panic!("{input}: {failure:?}"));
        // The index of this one was at its end: the tool says so, and then that the file is bad.
        let has_no_index = input.ends_with("cut.mp4");
        assert!(!has_no_index || evidence.ends_with("moov atom not found"), "{input}: {failure:?}");
    }
    assert!(!bench.media("never.mp4").exists());
    bench.assert_clean();
}
