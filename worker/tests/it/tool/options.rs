//! Every parameter of an encode reaches the output, or the job is rejected before the tool runs.

use ffpool_schema::encode::{
    AudioChoice, Bitrate, Channels, Deinterlace, Fit, Fps, Hdr, Keep, PixelFormat, Profile, Resolution, Streams,
    SubtitleMode,
};
use ffpool_schema::failure::Cause;
use ffpool_schema::job::JobSpec;
use ffpool_schema::message::{Artifact, Manifest};
use ffpool_schema::probe::{self, Mastering};
use ffpool_worker::workshop::Freeze;

use super::bench::{Bench, Ledger, failure, fault, ffmpeg, manifest};
use super::endings::until_it_encodes;

/// A job from `input` to a new file.
fn job(bench: &Bench, scenario: &str, input: &str, output: &str) -> JobSpec {
    let mut spec = JobSpec::new(scenario);
    spec.input = Some(input.to_owned());
    spec.output = Some(bench.media(output).display().to_string());
    if !matches!(scenario, "copy" | "thumbnail") && !scenario.starts_with("audio-") {
        spec.parameters.preset = Some("ultrafast".to_owned());
    }
    spec
}

async fn made(bench: &Bench, spec: &JobSpec) -> Manifest {
    let ended = bench.run_spec(spec).await;
    manifest(&ended).clone()
}

fn size(artifact: &Artifact) -> (u32, u32) {
    artifact.probe.video.as_ref().map(|video| (video.width, video.height)).unwrap()
}

/// Two tones, one line of text, two chapters and a title beside the picture.
fn rich(bench: &Bench) -> String {
    std::fs::write(bench.media("text.srt"), "1\n00:00:00,200 --> 00:00:01,800\nHELLO THERE\n").unwrap();
    std::fs::write(
        bench.media("tags.txt"),
        ";FFMETADATA1\ntitle=A title\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=1000\ntitle=one\n\
         [CHAPTER]\nTIMEBASE=1/1000\nSTART=1000\nEND=2000\ntitle=two\n",
    )
    .unwrap();
    let path = |name: &str| bench.media(name).display().to_string();
    ffmpeg(&[
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=320x180:rate=25:duration=2",
        "-f",
        "lavfi",
        "-i",
        "sine=frequency=300:duration=2",
        "-f",
        "lavfi",
        "-i",
        "sine=frequency=500:duration=2,aformat=channel_layouts=5.1",
        "-i",
        &path("text.srt"),
        "-i",
        &path("tags.txt"),
        "-map",
        "0",
        "-map",
        "1",
        "-map",
        "2",
        "-map",
        "3",
        "-map_metadata",
        "4",
        "-map_chapters",
        "4",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-pix_fmt",
        "yuv420p",
        "-c:a",
        "aac",
        "-c:s",
        "srt",
        &path("rich.mkv"),
    ]);
    path("rich.mkv")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_source_is_cut_to_the_frame_and_fitted_as_asked() {
    let bench = Bench::open().await;
    let long = bench.media("long.ts").display().to_string();
    ffmpeg(&[
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=160x120:rate=10:duration=14",
        "-f",
        "lavfi",
        "-i",
        "sine=duration=14",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-g",
        "50",
        "-pix_fmt",
        "yuv420p",
        "-c:a",
        "aac",
        &long,
    ]);
    for (fit, expected) in
        [(Fit::Pad, (128, 72)), (Fit::Inside, (96, 72)), (Fit::Crop, (128, 72)), (Fit::Stretch, (128, 72))]
    {
        let mut spec = job(&bench, "custom-input", &long, &format!("{fit}.mp4"));
        spec.parameters.start = Some(12.3);
        spec.parameters.end = Some(13.1);
        spec.parameters.resolution = Some(Resolution::new(128, 72).unwrap());
        spec.parameters.fit = Some(fit);
        let manifest = made(&bench, &spec).await;
        assert_eq!(size(&manifest.artifacts[0]), expected, "{fit}");
        assert_eq!(manifest.artifacts[0].probe.video.as_ref().unwrap().frames, Some(8), "{fit}");
    }
    let mut late = job(&bench, "custom-input", &long, "late.mp4");
    late.parameters.start = Some(20.0);
    assert_eq!(fault(&bench.run_spec(&late).await), "parameters.start out_of_range");
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_passes_leave_both_runs_in_the_manifest_and_meet_the_rate() {
    let bench = Bench::open().await;
    for codec in ["libx264", "libx265", "libvpx", "libvpx-vp9", "libaom-av1"] {
        let mut spec = JobSpec::new("custom-input");
        spec.parameters.codec = Some(codec.parse().unwrap());
        spec.parameters.preset = Some("ultrafast".to_owned());
        spec.parameters.resolution = Some(Resolution::new(160, 90).unwrap());
        spec.parameters.fps = Some(Fps::whole(15));
        spec.parameters.duration = Some(6.0);
        spec.parameters.bitrate = Some(Bitrate(200_000));
        spec.parameters.passes = Some(2);
        let manifest = made(&bench, &spec).await;
        assert_eq!(manifest.steps.len(), 1, "{codec}");
        assert!(manifest.steps[0].iter().any(|word| word.contains("pass=1") || word == "-pass"), "{codec}");
        let proof = manifest.artifacts[0].proof.as_ref().unwrap();
        let rate = proof.streams[0].bytes as f64 * 8.0 / 6.0;
        // A synthetic picture this small may need less than it is given, the less the newer the encoder, and never more.
        assert!((60_000.0..=220_000.0).contains(&rate), "{codec}: {rate}");
    }
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn loudness_is_measured_corrected_and_measured_again() {
    let bench = Bench::open().await;
    let quiet = bench.media("quiet.mkv").display().to_string();
    let noise = "anoisesrc=duration=5:amplitude=0.02:sample_rate=44100:seed=1,aformat=channel_layouts=stereo";
    ffmpeg(&["-f", "lavfi", "-i", noise, "-c:a", "flac", &quiet]);
    let mut spec = job(&bench, "audio-aac", &quiet, "loud.m4a");
    spec.parameters.loudness = Some(-23.0);
    spec.parameters.sample_rate = Some(48_000);
    spec.parameters.audio_channels = Some(Channels::Mono);
    let manifest = made(&bench, &spec).await;
    let artifact = &manifest.artifacts[0];
    let audio = artifact.probe.audio.as_ref().unwrap();
    assert_eq!((audio.channels, audio.sample_rate, artifact.probe.video.as_ref()), (Some(1), Some(48_000), None));
    let lufs = artifact.proof.as_ref().unwrap().lufs.unwrap();
    assert!((lufs + 23.0).abs() <= 1.0, "{lufs}");
    let peak = artifact.proof.as_ref().unwrap().peak_dbtp.unwrap();
    assert!((-23.0..=1.0).contains(&peak), "{peak} dBTP");
    assert!(manifest.arguments.iter().any(|word| word.contains("measured_I=")), "{:?}", manifest.arguments);

    // Loud up to where the output begins: what is read and thrown away is not measured.
    let late = bench.media("late.mkv").display().to_string();
    let loud = "anoisesrc=duration=9:amplitude=0.5:sample_rate=44100:seed=1,aformat=channel_layouts=stereo";
    ffmpeg(&["-f", "lavfi", "-i", &format!("{loud}[a];{noise}[b];[a][b]concat=v=0:a=1"), "-c:a", "flac", &late]);
    let mut middle = spec.clone();
    (middle.input, middle.output) = (Some(late), Some(bench.media("middle.m4a").display().to_string()));
    middle.parameters.start = Some(9.5);
    middle.parameters.duration = Some(4.0);
    let lufs = made(&bench, &middle).await.artifacts[0].proof.as_ref().unwrap().lufs.unwrap();
    assert!((lufs + 23.0).abs() <= 1.0, "{lufs}");

    let silent = bench.media("silent.mkv").display().to_string();
    ffmpeg(&["-f", "lavfi", "-i", "anullsrc=duration=1", "-t", "1", "-c:a", "flac", &silent]);
    spec.input = Some(silent);
    assert_eq!(failure(&bench.run_spec(&spec).await).cause, Cause::ConfigBad);
    bench.assert_clean();
}

/// What ffprobe says of a file, as bare values.
fn told(bench: &Bench, name: &str, entries: &str) -> String {
    let file = bench.media(name).display().to_string();
    let arguments = ["-v", "error", "-of", "default=noprint_wrappers=1:nokey=1", "-show_entries", entries, &file];
    let said = std::process::Command::new("ffprobe").args(arguments).output().unwrap();
    assert!(said.status.success(), "{name}: {}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8_lossy(&said.stdout).trim().to_owned()
}

fn title(bench: &Bench, name: &str) -> String {
    told(bench, name, "format_tags=title")
}

/// The text of a file's subtitles.
fn lines(bench: &Bench, name: &str) -> String {
    let (file, text) = (bench.media(name).display().to_string(), bench.media("lines.srt").display().to_string());
    ffmpeg(&["-i", &file, "-map", "0:s:0", &text]);
    let text = std::fs::read_to_string(&text).unwrap();
    text.lines().nth(2).unwrap_or_default().to_owned()
}

/// The colour of the pixel in the middle of a file's first frame, in red, green and blue.
fn middle(bench: &Bench, name: &str) -> [u8; 3] {
    let (file, pixel) = (bench.media(name).display().to_string(), bench.media("pixel.rgb").display().to_string());
    let filter = "crop=2:2:iw/2:ih/2,format=rgb24,crop=1:1:0:0:exact=1";
    ffmpeg(&["-i", &file, "-vf", filter, "-frames:v", "1", "-f", "rawvideo", &pixel]);
    std::fs::read(&pixel).unwrap()[..3].try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_part_of_the_picture_that_is_asked_for_is_taken_and_its_index_stands_in_front() {
    let bench = Bench::open().await;
    let halves = bench.media("halves.mkv").display().to_string();
    let picture =
        "color=red:size=160x90:rate=10:duration=1[l];color=blue:size=160x90:rate=10:duration=1[r];[l][r]hstack";
    ffmpeg(&["-f", "lavfi", "-i", picture, "-c:v", "libx264", "-pix_fmt", "yuv420p", &halves]);
    for (crop, name, color) in [("100x60+20+10", "left.mp4", 0), ("100x60+200+10", "right.mp4", 2)] {
        let mut spec = job(&bench, "custom-input", &halves, name);
        spec.parameters.crop = Some(crop.parse().unwrap());
        let manifest = made(&bench, &spec).await;
        assert_eq!(size(&manifest.artifacts[0]), (100, 60));
        let pixel = middle(&bench, name);
        let strongest = (0..3).max_by_key(|part| pixel[*part]);
        assert_eq!(strongest, Some(color), "{crop}: {pixel:?}");
        let bytes = std::fs::read(bench.media(name)).unwrap();
        let at = |atom: &[u8]| bytes.windows(4).position(|window| window == atom).unwrap();
        assert!(at(b"moov") < at(b"mdat"), "{name} can only be played when all of it is there");
    }
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pixel_format_and_tuning_is_made() {
    use PixelFormat::{Yuv420p10le, Yuv422p, Yuv422p10le, Yuv444p, Yuv444p10le};
    let bench = Bench::open().await;
    let input = bench.clip("source.mkv", &["-t", "1"]);
    let formats = [Yuv422p, Yuv444p, Yuv420p10le, Yuv422p10le, Yuv444p10le];
    let both = ["libx264", "libx265", "libvpx-vp9"].into_iter().flat_map(|codec| formats.map(|format| (codec, format)));
    for (codec, format) in both.chain([("libsvtav1", Yuv420p10le), ("libaom-av1", Yuv420p10le)]) {
        let mut spec = job(&bench, "custom-input", &input, &format!("{codec}-{format}.mkv"));
        spec.parameters.codec = Some(codec.parse().unwrap());
        spec.parameters.pixel_format = Some(format);
        spec.parameters.resolution = Some(Resolution::new(160, 90).unwrap());
        let manifest = made(&bench, &spec).await;
        let video = manifest.artifacts[0].probe.video.as_ref().unwrap();
        assert_eq!(video.pixel_format.as_deref(), Some(format.as_str()), "{codec}");
    }
    let tunes = [
        ("libx264", &["film", "animation", "grain", "stillimage", "fastdecode", "zerolatency", "psnr", "ssim"][..]),
        ("libx265", &["animation", "grain", "fastdecode", "zerolatency", "psnr", "ssim"]),
    ];
    for (codec, tune) in tunes.into_iter().flat_map(|(codec, tunes)| tunes.iter().map(move |tune| (codec, *tune))) {
        let mut spec = job(&bench, "custom-input", &input, &format!("{codec}-{tune}.mp4"));
        spec.parameters.codec = Some(codec.parse().unwrap());
        spec.parameters.tune = Some(tune.to_owned());
        spec.parameters.resolution = Some(Resolution::new(160, 90).unwrap());
        let manifest = made(&bench, &spec).await;
        assert!(manifest.arguments.windows(2).any(|pair| pair == ["-tune", tune]), "{:?}", manifest.arguments);
    }
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_tags_and_chapters_are_kept_or_left_as_asked() {
    let bench = Bench::open().await;
    let input = rich(&bench);
    let mut spec = job(&bench, "custom-input", &input, "all.mp4");
    spec.parameters.audio_streams = Some(Streams::All);
    spec.parameters.subtitles = Some(SubtitleMode::Convert);
    let manifest = made(&bench, &spec).await;
    let streams = &manifest.artifacts[0].proof.as_ref().unwrap().streams;
    let kinds: Vec<&str> = streams.iter().map(|stream| stream.codec.as_str()).collect();
    assert!(kinds.starts_with(&["h264", "aac", "aac", "mov_text"]), "{kinds:?}");
    assert_eq!((title(&bench, "all.mp4").as_str(), title(&bench, "rich.mkv").as_str()), ("A title", "A title"));
    assert_eq!(lines(&bench, "all.mp4"), "HELLO THERE");

    let mut spec = job(&bench, "custom-input", &input, "second.mkv");
    spec.parameters.audio_streams = Some(Streams::Chosen(0b10));
    spec.parameters.audio_channels = Some(Channels::Stereo);
    spec.parameters.chapters = Some(Keep::Drop);
    spec.parameters.metadata = Some(Keep::Drop);
    let manifest = made(&bench, &spec).await;
    assert_eq!(manifest.artifacts[0].probe.audio.as_ref().unwrap().channels, Some(2));
    assert_eq!(manifest.artifacts[0].probe.streams, 2);
    assert_eq!(title(&bench, "second.mkv"), "");

    let mut spec = job(&bench, "custom-input", &input, "copied.mkv");
    spec.parameters.subtitles = Some(SubtitleMode::Copy);
    made(&bench, &spec).await;
    assert_eq!(lines(&bench, "copied.mkv"), "HELLO THERE");

    let plain = made(&bench, &job(&bench, "custom-input", &input, "plain.mp4")).await;
    let mut spec = job(&bench, "custom-input", &input, "burnt.mp4");
    spec.parameters.subtitles = Some(SubtitleMode::Burn);
    let burnt = made(&bench, &spec).await;
    assert_eq!(burnt.steps.len(), 1);
    let bytes = |manifest: &Manifest| manifest.artifacts[0].proof.as_ref().unwrap().streams[0].bytes;
    assert_ne!(bytes(&plain), bytes(&burnt), "the text is not in the picture");

    for (field, change) in [
        ("parameters.audio_streams out_of_range", Streams::Chosen(0b1000)),
        ("parameters.audio_streams out_of_range", Streams::Chosen(0b100)),
    ] {
        let mut spec = job(&bench, "custom-input", &input, "never.mp4");
        spec.parameters.audio_streams = Some(change);
        assert_eq!(fault(&bench.run_spec(&spec).await), field);
    }
    let mut spec = job(&bench, "custom-input", &input, "never.mp4");
    spec.parameters.subtitles = Some(SubtitleMode::Copy);
    assert_eq!(fault(&bench.run_spec(&spec).await), "parameters.subtitles unsupported");
    assert!(!bench.media("never.mp4").exists());
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_audio_alone_and_pictures_are_made() {
    let bench = Bench::open().await;
    let input = rich(&bench);
    let copied = made(&bench, &job(&bench, "copy", &input, "copy.mp4")).await;
    assert!(copied.arguments.iter().all(|word| word != "-vf"));
    assert_eq!(copied.artifacts[0].probe.video.as_ref().unwrap().frames, Some(50));
    for (scenario, output, codec) in
        [("audio-mp3", "a.mp3", "mp3"), ("audio-opus", "a.webm", "opus"), ("audio-aac", "a.m4a", "aac")]
    {
        let manifest = made(&bench, &job(&bench, scenario, &input, output)).await;
        let probe = &manifest.artifacts[0].probe;
        assert_eq!((probe.audio.as_ref().unwrap().codec.as_str(), probe.video.is_none()), (codec, true), "{output}");
    }
    for (output, codec) in [("one.jpg", "mjpeg"), ("one.png", "png"), ("one.webp", "webp")] {
        let mut spec = job(&bench, "thumbnail", &input, output);
        spec.parameters.start = Some(1.2);
        spec.parameters.resolution = Some(Resolution::new(160, 160).unwrap());
        spec.parameters.fit = Some(Fit::Inside);
        let manifest = made(&bench, &spec).await;
        let artifact = &manifest.artifacts[0];
        assert_eq!((artifact.probe.video.as_ref().unwrap().codec.as_str(), size(artifact)), (codec, (160, 90)));
    }
    let vp8 = bench.media("vp8.webm").display().to_string();
    ffmpeg(&["-f", "lavfi", "-i", "testsrc2=size=64x64:rate=10:duration=1", "-c:v", "libvpx", &vp8]);
    assert_eq!(fault(&bench.run_spec(&job(&bench, "copy", &vp8, "no.mp4")).await), "parameters.codec unsupported");
    bench.assert_clean();
}

/// The display that the source of the next test names.
const MASTERED: Mastering =
    Mastering { points: [(0.68, 0.32), (0.265, 0.69), (0.15, 0.06), (0.3127, 0.329)], luminance: (0.0001, 1000.0) };

#[tokio::test(flavor = "multi_thread")]
async fn a_high_dynamic_range_is_kept_or_mapped() {
    let bench = Bench::open().await;
    let hdr = bench.media("hdr.mp4").display().to_string();
    ffmpeg(&[
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=160x90:rate=10:duration=1",
        "-c:v",
        "libx265",
        "-preset",
        "ultrafast",
        "-pix_fmt",
        "yuv420p10le",
        "-color_primaries",
        "bt2020",
        "-color_trc",
        "smpte2084",
        "-colorspace",
        "bt2020nc",
        "-x265-params",
        "log-level=error:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:hdr10=1:max-cll=1000,400:\
         master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)",
        "-tag:v",
        "hvc1",
        &hdr,
    ]);
    for (codec, format, profile) in [
        ("h265", PixelFormat::Yuv420p10le, Some(Profile::Main10)),
        ("vp9", PixelFormat::Yuv420p10le, None),
        ("av1", PixelFormat::Yuv420p10le, None),
    ] {
        let mut spec = job(&bench, "custom-input", &hdr, &format!("{codec}.mkv"));
        spec.parameters.codec = Some(codec.parse().unwrap());
        spec.parameters.pixel_format = Some(format);
        spec.parameters.profile = profile;
        // That the colours are those of the source is part of the proof.
        made(&bench, &spec).await;
        spec.output = Some(bench.media(&format!("{codec}.mp4")).display().to_string());
        spec.parameters.hdr = Some(Hdr::Keep);
        if codec == "vp9" {
            assert_eq!(fault(&bench.run_spec(&spec).await), "parameters.hdr unsupported");
            continue;
        }
        // Only the stream of the source says on which display it was mastered; these encoders are told, and say it again.
        made(&bench, &spec).await;
        let words = probe::frame_arguments(&bench.media(&format!("{codec}.mp4")));
        let said = std::process::Command::new("ffprobe").args(words).output().unwrap();
        let mut again = probe::Probed::default();
        probe::add_frame(&mut again, &String::from_utf8_lossy(&said.stdout)).unwrap();
        assert_eq!(again.colors.light, Some((1000, 400)), "{codec}");
        let display = again.colors.mastering.unwrap_or_else(|| panic!("{codec}: no mastering display"));
        assert!(display.is_same(&MASTERED), "{codec}: {display}");
    }

    let mut spec = job(&bench, "custom-input", &hdr, "sdr.mp4");
    spec.parameters.profile = Some(Profile::Main);
    let manifest = made(&bench, &spec).await;
    assert!(manifest.arguments.iter().any(|word| word.contains("tonemap=")), "{:?}", manifest.arguments);
    assert_eq!(manifest.artifacts[0].probe.video.as_ref().unwrap().pixel_format.as_deref(), Some("yuv420p"));
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_and_rotation_of_a_source_are_seen() {
    let bench = Bench::open().await;
    let fields =
        bench.clip("fields.mkv", &["-vf", "interlace", "-flags", "+ildct+ilme", "-x264opts", "tff=1", "-t", "1"]);
    let mut spec = job(&bench, "custom-input", &fields, "frames.mp4");
    spec.parameters.deinterlace = Some(Deinterlace::Auto);
    let manifest = made(&bench, &spec).await;
    assert!(manifest.arguments.iter().any(|word| word.contains("bwdif")), "{:?}", manifest.arguments);

    let upright = bench.clip("upright.mp4", &["-t", "1"]);
    let turned = bench.media("turned.mp4").display().to_string();
    // From version 6 on it is an option of the input; before, a tag of the stream.
    let turn = ["-nostdin", "-v", "error", "-display_rotation", "90", "-i", &upright, "-c", "copy", &turned];
    let is_new = std::process::Command::new("ffmpeg").args(turn).output().is_ok_and(|output| output.status.success());
    if !is_new {
        ffmpeg(&["-i", &upright, "-c", "copy", "-metadata:s:v", "rotate=90", &turned]);
    }
    let manifest = made(&bench, &job(&bench, "custom-input", &turned, "up.mp4")).await;
    assert_eq!(size(&manifest.artifacts[0]), (180, 320));
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_cut_off_never_completes() {
    let bench = Bench::open().await;
    let whole = bench.clip("whole.mkv", &[]);
    let front = bench.clip("front.mp4", &["-movflags", "+faststart"]);
    let back = bench.clip("back.mp4", &[]);
    for input in [&whole, &front, &back] {
        let len = std::fs::metadata(input).unwrap().len();
        std::fs::File::options().write(true).open(input).unwrap().set_len(len * 6 / 10).unwrap();
    }
    let mut jobs: Vec<JobSpec> = [&whole, &front, &back]
        .map(|input| {
            let mut spec = job(&bench, "240p25-h264", input, "never.mp4");
            spec.parameters.audio_codec = Some(AudioChoice::None);
            spec
        })
        .into();
    jobs.push(job(&bench, "copy", &whole, "never.mkv"));
    jobs.push(job(&bench, "audio-aac", &whole, "never.m4a"));
    for spec in jobs {
        let ended = bench.run_spec(&spec).await;
        let failure = failure(&ended);
        assert_eq!(failure.cause, Cause::InputBad, "{:?}: {failure:?}", spec.input);
    }
    for name in ["never.mp4", "never.mkv", "never.m4a"] {
        assert!(!bench.media(name).exists(), "{name}");
    }
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_changed_while_it_is_read_is_no_success() {
    use std::io::Write as _;

    let bench = Bench::open().await;
    let input = bench.clip("growing.mkv", &["-vf", "tpad=stop_mode=clone:stop_duration=5", "-c:a", "copy"]);
    let mut spec = job(&bench, "720p30-h264", &input, "never.mp4");
    spec.parameters.preset = Some("medium".to_owned());
    // That it was the right one before does not help.
    let sum = ffpool_schema::message::hex(&<sha2::Sha256 as sha2::Digest>::digest(std::fs::read(&input).unwrap()));
    spec.input_sha256 = Some(sum.parse().unwrap());
    let running = bench.start(&bench.grant(&spec), Ledger::Grants);
    until_it_encodes(&running).await;
    // It stands still, so that it cannot be done before the change.
    running.freeze.send_replace(Freeze { paused: true, preempted: false });
    std::fs::File::options().append(true).open(&input).unwrap().write_all(b"more").unwrap();
    running.freeze.send_replace(Freeze::default());
    let ended = running.ended.await.unwrap();
    assert_eq!(failure(&ended).cause, Cause::InputChanged, "{ended:?}");
    assert!(!bench.media("never.mp4").exists());
    bench.assert_clean();
}
