//! Sets of pictures: as many as asked for, in their order, at their own times, as files and in sheets.

use std::path::Path;
use std::process::Command;

use ffpool_schema::encode::PictureFormat;
use ffpool_schema::failure::Cause;
use ffpool_schema::job::{ExtraOutput, JobSpec, Parameters};
use ffpool_schema::track::{self, Area, Cue};
use serde_json::{Value, json};

use super::bench::{Bench, failure, fault, ffmpeg, manifest};

/// How bright the test picture is after so many seconds, of 255.
fn brightness(secs: f64) -> f64 {
    20.0 + 50.0 * secs
}

/// Four seconds that grow brighter, with sound; `options` come before the output.
fn clip(bench: &Bench, name: &str, options: &[&str]) -> String {
    let path = bench.media(name).display().to_string();
    let filter = "color=c=black:s=160x90:r=25:d=4,format=gray,geq=lum='20+50*T'";
    let mut arguments = vec!["-f", "lavfi", "-i", filter, "-f", "lavfi", "-i", "sine=frequency=300:duration=4"];
    arguments.extend(["-c:v", "libx264", "-preset", "ultrafast", "-crf", "10", "-g", "25"]);
    arguments.extend(["-vf", "scale=out_range=full,format=yuvj420p", "-c:a", "aac"]);
    arguments.extend(options);
    arguments.push(&path);
    ffmpeg(&arguments);
    path
}

fn output(bench: &Bench, name: &str, scenario: &str, parameters: Value) -> ExtraOutput {
    let parameters: Parameters = serde_json::from_value(parameters).unwrap();
    ExtraOutput { url: bench.media(name).display().to_string(), scenario: scenario.to_owned(), parameters }
}

/// The pixels of a picture in grey, row by row, and its width.
fn pixels(file: &Path) -> (Vec<u8>, usize) {
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-loglevel", "error", "-i"])
        .arg(file)
        .args(["-vf", "scale=out_range=full,format=gray", "-f", "image2pipe", "-c:v", "pgm", "-"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // P5, width, height, the largest value, then the pixels.
    let mut rest = output.stdout.as_slice();
    let mut header = Vec::new();
    while header.len() < 4 {
        let end = rest.iter().position(u8::is_ascii_whitespace).unwrap();
        header.push(String::from_utf8(rest[..end].to_vec()).unwrap());
        rest = &rest[end + 1..];
    }
    (rest.to_vec(), header[1].parse().unwrap())
}

/// How bright a part of a picture is on average, its edges left out.
fn mean((pixels, row): &(Vec<u8>, usize), area: Area) -> f64 {
    let (mut sum, mut count) = (0u64, 0u64);
    for y in area.y + 4..area.y + area.height - 4 {
        for x in area.x + 4..area.x + area.width - 4 {
            sum += u64::from(pixels[y as usize * row + x as usize]);
            count += 1;
        }
    }
    sum as f64 / count as f64
}

fn cues(bench: &Bench, name: &str) -> Vec<Cue> {
    track::read(&std::fs::read_to_string(bench.media(name)).unwrap()).unwrap()
}

/// Whether every cue names a picture as bright as the clip is at its time, `from` seconds later.
fn assert_order(bench: &Bench, cues: &[Cue], whole: (u32, u32), from: f64) {
    for cue in cues {
        let area = cue.area.unwrap_or(Area { x: 0, y: 0, width: whole.0, height: whole.1 });
        let found = mean(&pixels(&bench.media(&cue.file)), area);
        let wish = brightness(from + cue.from_ms as f64 / 1000.0);
        assert!((found - wish).abs() < 6.0, "{cue:?} is {found} bright instead of {wish}");
    }
}

/// A job of an encode, sheets of eight pictures and three pictures by themselves.
fn three(bench: &Bench) -> JobSpec {
    let mut spec = bench.spec("240p25-h264");
    spec.input = Some(clip(bench, "source.mp4", &[]));
    spec.output = Some(bench.media("a.mp4").display().to_string());
    let sheets = json!({"every_sec": 0.5, "columns": 3, "rows": 2, "resolution": "64x36"});
    spec.outputs = vec![
        output(bench, "sheets.vtt", "sprites", sheets),
        output(bench, "files.vtt", "thumbnails", json!({"picture_count": 3, "picture_format": "png"})),
    ];
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn sheets_and_pictures_are_in_order_and_at_their_times_and_come_from_the_one_decode() {
    let bench = Bench::open().await;
    let spec = three(&bench);
    let grant = bench.grant(&spec);
    let ended = bench.run(&grant).await;
    let made = manifest(&ended);
    let reads_source = |words: &Vec<String>| words.iter().any(|word| word.ends_with("source.mp4"));
    assert_eq!(made.steps.iter().filter(|words| reads_source(words)).count(), 1, "{:?}", made.steps);
    let [_, sheets, files] = &made.artifacts[..] else { panic!("{:?}", made.artifacts) };
    let proof = sheets.pictures.as_ref().unwrap();
    assert_eq!((proof.count, proof.files, proof.format), (8, 2, PictureFormat::Jpg));
    assert_eq!((proof.width, proof.height, proof.columns, proof.rows), (64, 36, Some(3), Some(2)));
    assert_eq!((proof.first_secs, proof.last_secs), (0.0, 3.52));
    let video = sheets.probe.video.as_ref().unwrap();
    assert_eq!((video.width, video.height, sheets.files.len()), (192, 72, 2));
    let track = cues(&bench, "sheets.vtt");
    let starts: Vec<u64> = track.iter().map(|cue| cue.from_ms).collect();
    // The first frames of 25 a second at or after every half second.
    assert_eq!(starts, [0, 520, 1000, 1520, 2000, 2520, 3000, 3520]);
    assert_eq!(track[7].to_ms, 4000);
    assert_eq!(track[4].area, Some(Area { x: 64, y: 36, width: 64, height: 36 }));
    assert!(track[5].file.ends_with("/00001.jpg") && track[6].file.ends_with("/00002.jpg"), "{track:?}");
    assert_order(&bench, &track, (64, 36), 0.0);
    // What is left of the last sheet is black.
    let rest = Area { x: 128, y: 0, width: 64, height: 36 };
    assert!(mean(&pixels(&bench.media(&track[7].file)), rest) < 4.0);

    let proof = files.pictures.as_ref().unwrap();
    assert_eq!((proof.count, proof.files, proof.format, proof.columns), (3, 3, PictureFormat::Png, None));
    let track = cues(&bench, "files.vtt");
    // The same of every third of the length.
    assert_eq!(track.iter().map(|cue| cue.from_ms).collect::<Vec<_>>(), [0, 1360, 2680]);
    assert_order(&bench, &track, (160, 90), 0.0);
    bench.assert_clean();

    // One picture is not what was proven: all is made anew, and nothing of the old is left.
    let mut next = grant.clone();
    next.attempt = 2;
    assert_eq!(manifest(&bench.run(&next).await).attempt, 1);
    std::fs::write(bench.media(&track[1].file), "x").unwrap();
    next.attempt = 3;
    assert_eq!(manifest(&bench.run(&next).await).attempt, 3);
    let directories: Vec<String> =
        bench.media_names().into_iter().filter(|name| name.starts_with("pictures-")).collect();
    assert_eq!(directories, [1, 2].map(|number| format!("pictures-{}.3.{number}", grant.job)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_a_gap_and_a_source_that_is_cut_off() {
    let bench = Bench::open().await;
    let mut spec = JobSpec::new("thumbnails");
    spec.parameters =
        serde_json::from_value(json!({"every_sec": 0.5, "start": 1, "duration": 1.3, "picture_format": "webp"}))
            .unwrap();
    spec.input = Some(clip(&bench, "source.mkv", &["-an"]));
    spec.output = Some(bench.media("part.vtt").display().to_string());
    let ended = bench.run_spec(&spec).await;
    let artifact = &manifest(&ended).artifacts[0];
    assert_eq!(artifact.name, None);
    let track = cues(&bench, "part.vtt");
    assert_eq!(track.iter().map(|cue| cue.from_ms).collect::<Vec<_>>(), [0, 520, 1000]);
    assert_eq!((track[2].to_ms, artifact.files.len()), (1300, 3));
    assert_order(&bench, &track, (160, 90), 1.0);

    // From 0.8 s to 2.2 s one frame is shown: the shares that begin meanwhile have no picture of their own.
    let gap = bench.media("gap.mkv").display().to_string();
    ffmpeg(&[
        "-i",
        spec.input.as_ref().unwrap(),
        "-vf",
        "select=not(between(t\\,0.82\\,2.18))",
        "-fps_mode",
        "vfr",
        &gap,
    ]);
    spec.input = Some(gap);
    spec.parameters = serde_json::from_value(json!({"every_sec": 0.5})).unwrap();
    let ended = bench.run_spec(&spec).await;
    let starts: Vec<u64> = cues(&bench, "part.vtt").iter().map(|cue| cue.from_ms).collect();
    assert_eq!(starts, [0, 520, 2200, 2520, 3000, 3520]);
    assert_eq!(manifest(&ended).artifacts[0].pictures.as_ref().unwrap().count, 6);

    // The last frame stays for three seconds: no share after it has a picture.
    let (still, stays) =
        (bench.media("still.mp4").display().to_string(), bench.media("stays.mp4").display().to_string());
    ffmpeg(&["-f", "lavfi", "-i", "testsrc2=size=160x90:rate=25:duration=1", "-c:v", "libx264", "-bf", "0", &still]);
    let lasts = "setts=pts=PTS:dts=DTS:duration=if(eq(N\\,24)\\,3/TB\\,DURATION)";
    ffmpeg(&["-i", &still, "-c", "copy", "-bsf:v", lasts, &stays]);
    spec.input = Some(stays);
    let ended = bench.run_spec(&spec).await;
    assert_eq!(manifest(&ended).artifacts[0].pictures.as_ref().unwrap().count, 2);
    let shown: Vec<(u64, u64)> = cues(&bench, "part.vtt").iter().map(|cue| (cue.from_ms, cue.to_ms)).collect();
    assert_eq!(shown, [(0, 520), (520, 3960)]);

    // Its head says four seconds, and it holds less.
    let whole = std::fs::read(bench.media("source.mkv")).unwrap();
    let cut = bench.media("cut.mkv");
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    spec.input = Some(cut.display().to_string());
    assert_eq!(failure(&bench.run_spec(&spec).await).cause, Cause::InputBad);
    spec.input = Some(bench.media("source.mkv").display().to_string());
    spec.parameters = serde_json::from_value(json!({"picture_count": 50})).unwrap();
    assert_eq!(fault(&bench.run_spec(&spec).await), "parameters.picture_count out_of_range");
    bench.assert_clean();
}
