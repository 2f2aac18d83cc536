//! GStreamer's engine: it makes what FFmpeg's makes, tells the same causes, and leaves as little behind.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ffpool_schema::encode::{AudioChoice, Bitrate, CodecChoice, Fps, Metric, Metrics, Resolution};
use ffpool_schema::failure::Cause;
use ffpool_schema::job::{Engine, JobSpec};
use ffpool_schema::message::{Manifest, Outcome, Phase};
use ffpool_schema::scenario;
use ffpool_worker::workshop::Stop;

use super::bench::{Bench, Ledger, failure, fault, ffmpeg, manifest, until};

async fn open() -> Bench {
    let bench = Bench::with(|settings, _| settings.gstreamer = Some("gst-launch-1.0".into())).await;
    let ability = bench.workshop.ability();
    let there = ability.gstreamer.expect("these tests need the Debian package gstreamer1.0-tools and its plugins");
    assert_eq!(there.missing, Vec::<String>::new(), "packages of GStreamer's plugins are missing");
    bench
}

fn job(bench: &Bench, scenario: &str, input: &str, output: &str) -> JobSpec {
    let mut spec = bench.spec(scenario);
    spec.engine = Engine::Gstreamer;
    spec.input = Some(input.to_owned());
    spec.output = Some(bench.media(output).display().to_string());
    spec
}

/// A codec, a container, the sound, and how the prober calls them.
const SHARED: [[&str; 5]; 8] = [
    ["h264", "mp4", "aac", "h264", "aac"],
    ["h264", "mov", "aac", "h264", "aac"],
    ["h264", "ts", "aac", "h264", "aac"],
    ["h264", "mp4", "opus", "h264", "opus"],
    ["h265", "mp4", "mp3", "hevc", "mp3"],
    ["h265", "mkv", "opus", "hevc", "opus"],
    ["vp8", "webm", "opus", "vp8", "opus"],
    ["vp9", "webm", "opus", "vp9", "opus"],
];

#[tokio::test(flavor = "multi_thread")]
async fn both_engines_make_the_same_of_the_codecs_they_share() {
    let bench = open().await;
    let input = bench.clip("source.mp4", &["-preset", "medium", "-metadata", "title=A film"]);
    for [codec, container, sound, video_name, sound_name] in SHARED {
        for engine in [Engine::Ffmpeg, Engine::Gstreamer] {
            let what = format!("{codec} and {sound} in {container} by {}", engine.as_str());
            let mut spec =
                job(&bench, "240p30-h264", &input, &format!("{codec}-{sound}-{}.{container}", engine.as_str()));
            spec.engine = engine;
            let p = &mut spec.parameters;
            p.codec = Some(codec.parse::<CodecChoice>().unwrap());
            p.resolution = Some(Resolution::new(160, 120).unwrap());
            p.audio_codec = Some(sound.parse::<AudioChoice>().unwrap());
            p.gop = Some(15);
            p.bitrate = (codec == "vp9").then_some(Bitrate(300_000));
            let ended = bench.run_spec(&spec).await;
            let manifest = manifest(&ended);
            let artifact = &manifest.artifacts[0];
            let video = artifact.probe.video.as_ref().unwrap();
            assert_eq!((video.codec.as_str(), video.width, video.height), (video_name, 160, 120), "{what}");
            assert_eq!((video.fps, video.pixel_format.as_deref()), (Some(30.0), Some("yuv420p")), "{what}");
            assert!(matches!(video.frames, Some(59..=62)), "{what}: {video:?}");
            let audio = artifact.probe.audio.as_ref().unwrap();
            assert_eq!((audio.codec.as_str(), audio.channels), (sound_name, Some(1)), "{what}");
            assert!((artifact.probe.duration_secs.unwrap() - 2.0).abs() < 0.1, "{what}: {:?}", artifact.probe);
            assert!(keys(artifact.url.strip_prefix("file://").unwrap()) >= 4, "{what}");
            let choice = manifest.engine.as_ref().unwrap();
            assert_eq!((choice.engine, choice.reason.as_str()), (engine, "the job names it"), "{what}");
            proves_its_tools(manifest, engine, &what);
        }
    }
    bench.assert_clean();
}

/// Key frames of a file.
fn keys(path: &str) -> usize {
    let output = std::process::Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v", "-skip_frame", "nokey", "-show_entries", "frame=pict_type"])
        .args(["-of", "csv=p=0", path])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).lines().filter(|line| !line.trim().is_empty()).count()
}

fn proves_its_tools(manifest: &Manifest, engine: Engine, what: &str) {
    match engine {
        Engine::Gstreamer => {
            assert!(manifest.tool.starts_with("gst-launch-1.0 version"), "{what}: {}", manifest.tool);
            assert!(manifest.checker.as_ref().unwrap().starts_with("ffmpeg version"), "{what}");
            assert!(manifest.arguments.iter().any(|word| word == "filesrc"), "{what}: {:?}", manifest.arguments);
            assert!(manifest.arguments.iter().all(|word| !word.contains("media")), "{what}: {:?}", manifest.arguments);
        }
        Engine::Ffmpeg | Engine::Auto | Engine::Noop => {
            assert!(manifest.tool.starts_with("ffmpeg version"), "{what}: {}", manifest.tool);
            assert_eq!(manifest.checker, None, "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_of_many_kinds_are_read_and_keep_their_times() {
    let bench = open().await;
    let sources = [
        // Frames out of order behind an edit list, sound that begins late.
        ("late.mp4", vec!["-preset", "medium", "-af", "adelay=400", "-af", "asetpts=PTS+0.4/TB"]),
        ("hevc.mkv", vec!["-c:v", "libx265", "-x265-params", "log-level=none", "-c:a", "ac3"]),
        ("vp8.webm", vec!["-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libvorbis"]),
        ("vp9.webm", vec!["-c:v", "libvpx-vp9", "-deadline", "realtime", "-c:a", "libopus"]),
        ("av1.mp4", vec!["-c:v", "libsvtav1", "-preset", "12", "-c:a", "libmp3lame"]),
        ("mpeg2.mkv", vec!["-c:v", "mpeg2video", "-c:a", "flac"]),
        ("mpeg4.mov", vec!["-c:v", "mpeg4", "-c:a", "pcm_s16le"]),
        ("silent.mp4", vec!["-an"]),
        // Not square, odd, five channels.
        ("odd.mkv", vec!["-vf", "setsar=4/3,scale=322:178", "-ac", "6", "-t", "1.3"]),
    ];
    for (name, options) in sources {
        // The encoder of the clip would take a preset that it does not know.
        let is_x26x = options.iter().all(|option| !option.starts_with("lib") && !option.starts_with("mpeg"));
        let input = if is_x26x { bench.clip(name, &options) } else { other_clip(&bench, name, &options) };
        let spec = job(&bench, "custom-input", &input, &format!("{name}.mkv"));
        let ended = bench.run_spec(&spec).await;
        let probe = &manifest(&ended).artifacts[0].probe;
        assert_eq!(probe.video.as_ref().unwrap().codec, "h264", "{name}");
        assert_eq!(
            probe.audio.as_ref().map(|audio| audio.codec.as_str()),
            (name != "silent.mp4").then_some("aac"),
            "{name}"
        );
    }
}

fn other_clip(bench: &Bench, name: &str, options: &[&str]) -> String {
    let path = bench.media(name).display().to_string();
    let mut arguments = vec!["-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25:duration=2"];
    arguments.extend(["-f", "lavfi", "-i", "sine=frequency=300:duration=2", "-pix_fmt", "yuv420p", "-strict", "-2"]);
    arguments.extend(options);
    arguments.push(&path);
    ffmpeg(&arguments);
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_source_and_a_measured_quality_and_rate_are_what_was_asked_for() {
    let bench = open().await;
    let mut spec = bench.spec("240p25-h264");
    spec.engine = Engine::Gstreamer;
    spec.parameters.duration = Some(6.0);
    spec.parameters.fps = Some(Fps { num: 30_000, den: 1001 });
    spec.parameters.bitrate = Some(Bitrate(300_000));
    let ended = bench.run_spec(&spec).await;
    let artifact = &manifest(&ended).artifacts[0];
    assert_eq!(artifact.probe.video.as_ref().unwrap().frames, Some(180));
    let bytes = artifact.proof.as_ref().unwrap().streams.iter().find(|stream| stream.kind == "video").unwrap().bytes;
    assert!((bytes as f64 * 8.0 / 6.0) < 330_000.0, "{bytes} bytes in 6 s");

    // A quality is one only if no bound that nobody asked for holds it down, and if every frame is compared with its own.
    let input = bench.clip("noise.mkv", &["-vf", "noise=alls=40:allf=t", "-crf", "12"]);
    let mut spec = job(&bench, "custom-input", &input, "noise.mp4");
    spec.parameters.crf = Some(12);
    spec.parameters.quality = Some(Metrics(vec![Metric::Psnr]));
    let ended = bench.run_spec(&spec).await;
    let artifact = &manifest(&ended).artifacts[0];
    let quality = artifact.quality.as_ref().unwrap().psnr.as_ref().unwrap();
    assert!(quality.mean > 38.0, "{quality:?}");
    assert!(
        artifact.size_bytes * 8 / 2 > 3_000_000,
        "{} bytes: a constant quality is under a bound",
        artifact.size_bytes
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_inputs_are_bad_ones_and_kinds_that_are_not_read_are_refused() {
    let bench = open().await;
    let cut = bench.clip("cut.mp4", &[]);
    let middle = bench.clip("middle.mp4", &["-movflags", "+faststart"]);
    let short = bench.clip("short.mkv", &[]);
    let broken = bench.clip("broken.mp4", &["-movflags", "+faststart", "-crf", "10"]);
    for path in [&cut, &middle, &short] {
        let len = std::fs::metadata(path).unwrap().len();
        std::fs::File::options().write(true).open(path).unwrap().set_len(len / 2).unwrap();
    }
    // GStreamer's decoder shows what is left of such pictures, and ends well.
    let mut bytes = std::fs::read(&broken).unwrap();
    let from = bytes.len() / 2;
    bytes[from..].iter_mut().step_by(97).for_each(|byte| *byte ^= 0x5a);
    std::fs::write(&broken, bytes).unwrap();
    let text = bench.media("text.mp4").display().to_string();
    std::fs::write(&text, "this is no film\n".repeat(100)).unwrap();
    for input in [cut, middle, short, broken, text] {
        let ended = bench.run_spec(&job(&bench, "240p25-h264", &input, "never.mp4")).await;
        let failure = failure(&ended);
        assert_eq!(failure.cause, Cause::InputBad, "{input}: {failure:?}");
    }
    let missing = bench.media("none.mp4").display().to_string();
    let ended = bench.run_spec(&job(&bench, "240p25-h264", &missing, "never.mp4")).await;
    assert_eq!(failure(&ended).cause, Cause::InputMissing);

    let upright = bench.clip("upright.mp4", &[]);
    let turned = bench.media("turned.mp4").display().to_string();
    // From version 6 on it is an option of the input; before, a tag of the stream.
    let turn = ["-nostdin", "-v", "error", "-display_rotation", "90", "-i", &upright, "-c", "copy", &turned];
    let is_new = std::process::Command::new("ffmpeg").args(turn).output().is_ok_and(|output| output.status.success());
    if !is_new {
        ffmpeg(&["-i", &upright, "-c", "copy", "-metadata:s:v", "rotate=90", &turned]);
    }
    let ended = bench.run_spec(&job(&bench, "240p25-h264", &turned, "never.mp4")).await;
    assert_eq!(fault(&ended), "input unsupported");
    for (name, options) in [
        ("source.ts", vec![]),
        ("fields.mkv", vec!["-flags", "+ildct+ilme", "-x264opts", "tff=1", "-vf", "interlace"]),
        ("alac.mov", vec!["-c:a", "alac"]),
    ] {
        let input = bench.clip(name, &options);
        let ended = bench.run_spec(&job(&bench, "240p25-h264", &input, "never.mp4")).await;
        assert_eq!(fault(&ended), "input unsupported", "{name}");
        let Some(Outcome::Rejected { faults }) = &ended.outcome else { unreachable!() };
        assert!(faults[0].message.ends_with("use `engine: ffmpeg`"), "{faults:?}");
    }
    assert!(!bench.media("never.mp4").exists());
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_told_and_a_cancel_or_a_limit_ends_the_pipeline() {
    let bench = open().await;
    let mut spec = bench.spec("720p30-h264");
    spec.engine = Engine::Gstreamer;
    spec.parameters.duration = Some(80_000.0);
    let running = bench.start(&bench.grant(&spec), Ledger::Grants);
    until("the pipeline to get on", || match &*running.progress.borrow() {
        Some(progress)
            if progress.phase == Phase::Encode
                && progress.out_time_us.is_some_and(|us| us > 0)
                && progress.percent.is_some_and(|percent| percent > 0.0) =>
        {
            Ok(())
        }
        other => Err(format!("{other:?}; ended: {}", running.ended.is_finished())),
    })
    .await;
    assert!(bench.processes().iter().any(|line| line.contains("gst-launch-1.0")), "{:?}", bench.processes());
    // What a tool could write is no other job's.
    let lists = bench.leftovers().into_iter().map(|attempt| attempt.join("gstreamer.registry"));
    let lists: Vec<u64> = lists.filter_map(|list| Some(list.metadata().ok()?.nlink())).collect();
    assert_eq!(lists, [1], "the list of plugins is shared");
    running.stop.send_replace(Some(Stop::Cancel));
    let ended = running.ended.await.unwrap();
    assert_eq!(ended.outcome, Some(Outcome::Cancelled));
    assert!(ended.usage.cpu_ms > 0, "{:?}", ended.usage);
    bench.assert_clean();

    spec.resource_limits.max_disk_mb = Some(1);
    spec.parameters.crf = Some(0);
    let full = bench.run_spec(&spec).await;
    assert_eq!(failure(&full).cause, Cause::ScratchLimit, "{:?}", failure(&full));
    bench.assert_clean();
}

/// GStreamer without an encoder.
fn without(dir: &Path, element: &str) -> PathBuf {
    let real = |name: &str| {
        let found = ffpool_worker::encoders::find_program(Path::new(name));
        found.expect("these tests need the Debian package gstreamer1.0-tools").display().to_string()
    };
    let launch = format!(
        "#!/bin/sh\ncase \"$*\" in *{element}*) echo 'WARNING: erroneous pipeline: no element \"{element}\"' >&2; exit 1 ;; esac\n\
         exec {} \"$@\"\n",
        real("gst-launch-1.0")
    );
    let inspect = format!("#!/bin/sh\n{} \"$@\" | grep -v {element}\n", real("gst-inspect-1.0"));
    for (name, text) in [("gst-launch-1.0", launch), ("gst-inspect-1.0", inspect)] {
        std::fs::write(dir.join(name), text).unwrap();
        std::fs::set_permissions(dir.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    dir.join("gst-launch-1.0")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_names_what_it_lacks_and_a_job_that_needs_it_is_not_for_it() {
    let bench = Bench::with(|settings, dir| settings.gstreamer = Some(without(dir, "x265enc"))).await;
    let ability = bench.workshop.ability();
    let there = ability.gstreamer.clone().unwrap();
    assert!(there.version.starts_with("gst-launch-1.0 version"), "{there:?}");
    assert_eq!(there.missing, ["x265enc"]);
    assert!(ability.has("gstreamer-h264") && !ability.has("gstreamer-h265"), "{:?}", ability.features);

    let mut spec = bench.spec("240p25-h265");
    spec.engine = Engine::Gstreamer;
    spec.parameters.duration = Some(1.0);
    let encode = scenario::resolve(&spec).unwrap();
    let faults = scenario::fits(&spec, encode.as_ref(), &ability).unwrap_err();
    assert_eq!((faults[0].path.as_str(), faults[0].code.as_str()), ("engine", "no_worker_fits"));
    assert!(faults[0].message.contains("`x265enc`: install gstreamer1.0-plugins-bad"), "{faults:?}");
    assert_eq!(fault(&bench.run_spec(&spec).await), "engine no_worker_fits");

    // Left the choice, FFmpeg makes it; an engine that is named is never replaced.
    spec.engine = Engine::Auto;
    let ended = bench.run_spec(&spec).await;
    let choice = manifest(&ended).engine.clone().unwrap();
    assert!(choice.engine == Engine::Ffmpeg && choice.reason.contains("all that a job can ask for"), "{choice:?}");

    // A worker whose FFmpeg lacks the encoder takes GStreamer's, and says so.
    let mut poor = ability.clone();
    poor.encoders.retain(|encoder| encoder != "libx264");
    spec.scenario = "240p25-h264".to_owned();
    let encode = scenario::resolve(&spec).unwrap().unwrap();
    let choice = scenario::choose_engine(&spec, &encode, &poor).unwrap();
    assert!(choice.engine == Engine::Gstreamer && choice.reason.contains("lacks"), "{choice:?}");
    let without = Bench::open().await;
    spec.engine = Engine::Gstreamer;
    assert_eq!(without.workshop.ability().gstreamer, None);
    assert_eq!(fault(&without.run_spec(&spec).await), "engine no_worker_fits");
}
