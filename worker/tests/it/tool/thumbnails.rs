//! The small picture of what an attempt made: of what can be seen, small, and nothing depends on it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ffpool_schema::encode::PictureFormat;
use ffpool_schema::job::JobSpec;
use ffpool_schema::thumbnail::{MAX_BYTES, Thumbnail};
use ffpool_schema::track::picture_size;
use ffpool_worker::workshop::CgroupMode;

use super::bench::{Bench, Ledger, Running, ffmpeg, manifest};

/// A clip of so many seconds, 320x180, of which each frame is as bright as ten times its second, with sound.
fn growing(bench: &Bench, name: &str, secs: u32) -> String {
    let path = bench.media(name).display().to_string();
    let video = format!("color=c=black:s=320x180:r=25:d={secs},format=gray,geq=lum='16+10*T'");
    let sound = format!("sine=frequency=300:duration={secs}");
    let mut arguments = vec!["-f", "lavfi", "-i", &video, "-f", "lavfi", "-i", &sound];
    arguments.extend(["-c:v", "libx264", "-preset", "ultrafast", "-crf", "10", "-g", "25"]);
    arguments.extend(["-vf", "scale=out_range=full,format=yuvj420p", "-c:a", "aac", &path]);
    ffmpeg(&arguments);
    path
}

fn encode(bench: &Bench, scenario: &str, input: &str, output: &str) -> JobSpec {
    let mut spec = if scenario.contains("h264") { bench.spec(scenario) } else { JobSpec::new(scenario) };
    spec.input = Some(input.to_owned());
    spec.output = Some(bench.media(output).display().to_string());
    spec
}

fn size(thumbnail: &Thumbnail) -> (u32, u32) {
    picture_size(PictureFormat::Jpg, thumbnail.jpeg()).unwrap()
}

/// How bright a picture is on average.
fn brightness(bench: &Bench, thumbnail: &Thumbnail) -> f64 {
    let file = bench.dir.path().join("seen.jpg");
    std::fs::write(&file, thumbnail.jpeg()).unwrap();
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-loglevel", "error", "-xerror", "-i"])
        .arg(&file)
        .args(["-vf", "scale=out_range=full,format=gray", "-f", "rawvideo", "-"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout.iter().map(|pixel| f64::from(*pixel)).sum::<f64>() / output.stdout.len() as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encode_has_a_small_picture_of_a_tenth_of_its_length_and_one_of_sound_alone_has_none() {
    let bench = Bench::open().await;
    let (short, long) = (growing(&bench, "short.mp4", 4), growing(&bench, "long.mp4", 20));
    // Sought exactly where it is short, and by a key frame where it is long: there is one every two seconds.
    for (input, least, most) in [(&short, 17.0, 24.0), (&long, 12.0, 40.0)] {
        let ended = bench.run_spec(&encode(&bench, "360p25-h264", input, "out.mp4")).await;
        let made = manifest(&ended);
        let thumbnail = ended.thumbnail.as_ref().expect("an encode has a thumbnail");
        assert_eq!(size(thumbnail), (320, 180));
        assert!(thumbnail.jpeg().len() < MAX_BYTES / 2, "{} bytes", thumbnail.jpeg().len());
        let found = brightness(&bench, thumbnail);
        assert!((least..most).contains(&found), "{input}: {found} bright, not {least} to {most}");
        // It is no output of the job's.
        assert_eq!((made.artifacts.len(), made.steps.len()), (1, 0), "{made:?}");
    }
    assert_eq!(bench.media_names(), ["long.mp4", "out.mp4", "out.mp4.ffpool.json", "short.mp4"]);

    let ended = bench.run_spec(&encode(&bench, "audio-aac", &short, "out.m4a")).await;
    manifest(&ended);
    assert_eq!(ended.thumbnail, None);
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_can_be_seen_has_one() {
    let bench = Bench::open().await;
    let clip = growing(&bench, "in.mp4", 4);
    let upright = bench.media("upright.mkv").display().to_string();
    // Twice as wide as its pixels are many.
    let tall = ["-vf", "scale=200:800,setsar=2", "-c:v", "libx264", "-preset", "ultrafast", "-an", &upright];
    ffmpeg(&[&["-i", clip.as_str()][..], &tall].concat());
    for (scenario, input, output, wish) in [
        ("copy", &clip, "copy.mkv", (320, 180)),
        ("copy", &upright, "upright-copy.mkv", (160, 320)),
        ("thumbnail", &clip, "poster.png", (320, 180)),
        ("thumbnails", &clip, "pictures.vtt", (320, 180)),
        // Sheets of ten by ten, of which one is begun.
        ("sprites", &clip, "sheets.vtt", (320, 180)),
        ("240p25-h264", &clip, "show/master.m3u8", (320, 180)),
        ("240p25-h264", &clip, "show/show.mpd", (320, 180)),
        ("240p25-vp9", &clip, "out.webm", (320, 180)),
        ("240p25-h264", &clip, "out.ts", (320, 180)),
    ] {
        let ended = bench.run_spec(&encode(&bench, scenario, input, output)).await;
        manifest(&ended);
        let thumbnail = ended.thumbnail.as_ref().unwrap_or_else(|| panic!("{scenario} to {output} has no thumbnail"));
        assert_eq!(size(thumbnail), wish, "{scenario} to {output}");
    }
    bench.assert_clean();
}

/// FFmpeg, but for thumbnails: instead of these `instead` is run.
fn without_thumbnails(dir: &Path, instead: &str) -> PathBuf {
    let real = ffpool_worker::encoders::find_program(Path::new("ffmpeg")).expect("the Debian package ffmpeg");
    let path = dir.join("no-thumbnails");
    let text =
        format!("#!/bin/sh\ncase \"$*\" in *thumbnail.jpg*) {instead} ;; esac\nexec {} \"$@\"\n", real.display());
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The lines of an attempt's log that nobody has read yet.
fn said(running: &mut Running) -> Vec<String> {
    std::iter::from_fn(|| running.log.try_recv().ok()).map(|line| line.line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_be_made_is_told_in_the_log_and_costs_the_job_nothing() {
    for (instead, told) in [
        ("echo \"it is $(nice)\" >&2; exit 1", "ffmpeg ended with exit status: 1: it is 19"),
        ("exit 0", "it cannot be read"),
        ("echo '<script>' > thumbnail.jpg; exit 0", "it is no JPEG"),
        ("yes | head -c 40000 | tee thumbnail-coarse.jpg > thumbnail.jpg; exit 0", "more than 32768 bytes"),
    ] {
        let bench = Bench::with(|settings, dir| settings.ffmpeg = without_thumbnails(dir, instead)).await;
        let spec = encode(&bench, "240p25-h264", &bench.clip("in.mp4", &[]), "out.mp4");
        let mut running = bench.start(&bench.grant(&spec), Ledger::Grants);
        let ended = (&mut running.ended).await.unwrap();
        manifest(&ended);
        assert_eq!(ended.thumbnail, None, "{instead}");
        let lines = said(&mut running);
        let found = lines.iter().find(|line| line.contains("no thumbnail of the output"));
        assert!(found.is_some_and(|line| line.contains(told)), "{instead}: {lines:#?}");
        bench.assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_takes_too_long_ends_and_the_job_goes_on_also_without_cgroups() {
    let bench = Bench::with(|settings, dir| {
        settings.cgroups = CgroupMode::Off;
        settings.ffmpeg = without_thumbnails(dir, "sleep 600");
    })
    .await;
    let spec = encode(&bench, "240p25-h264", &bench.clip("in.mp4", &[]), "out.mp4");
    let began = std::time::Instant::now();
    let ended = bench.run_spec(&spec).await;
    manifest(&ended);
    assert_eq!(ended.thumbnail, None);
    assert!(began.elapsed() > Duration::from_secs(9), "{:?}", began.elapsed());
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn none_is_made_where_they_are_off_and_none_is_told_of_what_was_not_published() {
    let bench = Bench::with(|settings, dir| {
        settings.thumbnails = false;
        settings.ffmpeg = without_thumbnails(dir, "exit 7");
    })
    .await;
    let clip = bench.clip("in.mp4", &[]);
    let mut running = bench.start(&bench.grant(&encode(&bench, "240p25-h264", &clip, "out.mp4")), Ledger::Grants);
    let ended = (&mut running.ended).await.unwrap();
    manifest(&ended);
    assert_eq!(ended.thumbnail, None);
    let lines = said(&mut running);
    assert!(!lines.iter().any(|line| line.contains("thumbnail")), "none was tried: {lines:#?}");
    drop(bench);

    let bench = Bench::open().await;
    let clip = bench.clip("in.mp4", &[]);
    let grant = bench.grant(&encode(&bench, "240p25-h264", &clip, "out.mp4"));
    let refused = bench.start(&grant, Ledger::Refuses).ended.await.unwrap();
    assert_eq!((refused.outcome, refused.thumbnail), (None, None));
    bench.assert_clean();
}
