//! Encodes in chunks: frame by frame what a whole encode makes, and whole where chunks cannot be had.

mod presentations;

use std::path::Path;
use std::process::Command;

use ffpool_schema::chunk::Piece;
use ffpool_schema::encode::{Bitrate, Fps, SubtitleMode};
use ffpool_schema::failure::Cause;
use ffpool_schema::job::{Checkpoint, ExtraOutput, JobSpec};
use ffpool_schema::message::{Artifact, Grant, Manifest, Outcome};
use serde_json::json;

use super::bench::{Bench, failure, fault, ffmpeg, manifest};

/// Chunks of a second.
async fn bench() -> Bench {
    Bench::with(|settings, _| {
        settings.chunks.chunk_above_secs = 3;
        settings.chunks.chunk_target_secs = 1;
    })
    .await
}

/// Picture and sound of 3.4 s at 25 frames per second, the sound a little ahead in ts; B-frames, key frames twice a second.
fn source(bench: &Bench, name: &str, options: &[&str]) -> String {
    source_of(bench, name, 3.4, options)
}

/// The same of another length.
fn source_of(bench: &Bench, name: &str, secs: f64, options: &[&str]) -> String {
    let path = bench.media(name).display().to_string();
    let target = format!("file:{path}");
    let (picture, sound) =
        (format!("testsrc2=size=160x90:rate=25:duration={secs}"), format!("sine=frequency=300:duration={secs}"));
    let mut arguments = vec!["-f", "lavfi", "-i", &picture];
    arguments.extend(["-f", "lavfi", "-i", &sound, "-c:v", "libx264", "-preset", "veryfast"]);
    arguments.extend(["-pix_fmt", "yuv420p", "-bf", "2", "-g", "13", "-c:a", "aac"]);
    arguments.extend(options);
    arguments.push(&target);
    ffmpeg(&arguments);
    path
}

/// A film whose picture begins so many seconds after its sound.
fn late(bench: &Bench, name: &str, secs: &str) -> String {
    let even = source_of(bench, &format!("even.{name}"), 6.0, &[]);
    let path = bench.media(name).display().to_string();
    ffmpeg(&["-itsoffset", secs, "-i", &even, "-i", &even, "-map", "0:v", "-map", "1:a", "-c", "copy", &path]);
    path
}

/// A lossless encode, so that frames can be compared.
fn lossless(bench: &Bench, input: &str, output: &str) -> JobSpec {
    let mut spec = bench.spec("custom-input");
    spec.input = Some(input.to_owned());
    spec.output = Some(bench.media(output).display().to_string());
    spec.parameters.crf = Some(0);
    spec
}

fn split_grant(bench: &Bench, spec: &JobSpec) -> Grant {
    let minds = Piece::FEATURES.map(str::to_owned).into();
    Grant { splits: Some(0), sound_apart: true, minds, ..bench.grant(spec) }
}

async fn pieces(bench: &Bench, grant: &Grant) -> Vec<Piece> {
    match bench.run(grant).await.outcome {
        Some(Outcome::Split { pieces }) => pieces,
        other => panic!("not split: {other:?}"),
    }
}

fn piece_grant(bench: &Bench, spec: &JobSpec, piece: &Piece) -> Grant {
    let spec = JobSpec { piece: Some(Box::new(piece.clone())), ..spec.clone() };
    split_grant(bench, &spec)
}

/// Has a job made in chunks to its end, and says in how many.
async fn in_chunks(bench: &Bench, spec: &JobSpec) -> (Manifest, usize) {
    let grant = split_grant(bench, spec);
    let pieces = pieces(bench, &grant).await;
    for piece in &pieces {
        let made = bench.run(&piece_grant(bench, spec, piece)).await;
        let frames = manifest(&made).artifacts[0].proof.as_ref().unwrap().frames;
        assert!(piece.is_sound || piece.cut.allows(frames.unwrap()), "{piece:?}: {frames:?}");
    }
    let whole = bench.run(&Grant { attempt: 2, splits: Some(1), ..grant }).await;
    (manifest(&whole).clone(), pieces.len())
}

/// Time in seconds and hash of every frame of the picture, none left out or doubled, and of every frame of sound; both read
/// together, as in an encode.
fn frames(path: &Path, filter: &str) -> [Vec<(f64, String)>; 2] {
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-i"])
        .arg(path)
        .args(["-map", "0:v", "-map", "0:a", "-vf", filter, "-fps_mode", "passthrough", "-f", "framemd5", "-"])
        .output()
        .unwrap_or_else(|error| panic!("these tests need the Debian package ffmpeg: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ["0", "1"].map(|stream| {
        let unit = text.lines().find_map(|line| line.strip_prefix(&format!("#tb {stream}: "))).unwrap();
        let (num, den) = unit.split_once('/').unwrap();
        let unit = den.parse::<f64>().unwrap() / num.parse::<f64>().unwrap();
        let fields = text.lines().map(|line| line.split(',').map(str::trim).collect::<Vec<_>>());
        let own = fields.filter(|fields| fields[0] == stream);
        own.map(|fields| (fields[2].parse::<f64>().unwrap() / unit, fields[5].to_owned())).collect()
    })
}

/// What the sound is in.
fn language(path: &Path) -> String {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "a:0", "-show_entries", "stream_tags=language", "-of", "csv=p=0"])
        .arg(path)
        .output()
        .unwrap_or_else(|error| panic!("these tests need the Debian package ffmpeg: {error}"));
    // Containers without a language of their own say that it is not known.
    String::from_utf8_lossy(&output.stdout).trim().replace("und", "")
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_have_every_frame_of_the_source_at_its_time_and_the_sound_of_a_whole_encode() {
    let bench = bench().await;
    let open = ["-x264-params", "open-gop=1:bframes=3"];
    for (name, options, fps, output) in [
        ("closed.mp4", &["-metadata:s:a:0", "language=deu"] as &[&str], None, "mp4"),
        ("open.mp4", &open, None, "mkv"),
        ("open.mkv", &open, Some(Fps::whole(30)), "mkv"),
        ("open.ts", &open, None, "mp4"),
        ("rate.ts", &open, Some(Fps::whole(30)), "ts"),
    ] {
        let input = source(&bench, name, options);
        let mut spec = lossless(&bench, &input, &format!("{name}.chunks.{output}"));
        spec.parameters.fps = fps;
        let (proof, count) = in_chunks(&bench, &spec).await;
        let apart = proof.chunks.iter().filter(|chunk| chunk.frames == 0).count();
        // Only there it is sure to be what a whole encode makes.
        assert_eq!(apart, usize::from(output == "mp4"), "{name}: the sound is made apart");
        assert!((3..=4).contains(&(count - apart)) && proof.chunks.len() == count, "{name}: {count} chunks");
        let filter = fps.map_or("null".to_owned(), |fps| format!("fps={fps}"));
        let [picture, sound] = frames(Path::new(&input), &filter);
        let made = frames(&bench.media(&format!("{name}.chunks.{output}")), "null");
        let hashes = |frames: &[(f64, String)]| frames.iter().map(|(_, hash)| hash.clone()).collect::<Vec<_>>();
        assert_eq!(hashes(&made[0]), hashes(&picture), "{name}: the frames of the picture");
        for ((time, _), (was, _)) in made[0].iter().zip(&picture) {
            let (late, was_late) = (time - made[0][0].0, was - picture[0].0);
            assert!(
                (late - was_late).abs() < 0.0015,
                "{name}: a frame {late} s after the first, which was {was_late} s"
            );
        }
        let (lag, was) = (made[0][0].0 - made[1][0].0, picture[0].0 - sound[0].0);
        assert!((lag - was).abs() <= 0.045, "{name}: the picture begins {lag} s after the sound, it was {was} s");
        let total: u64 = proof.chunks.iter().map(|chunk| chunk.frames).sum();
        assert_eq!((proof.artifacts[0].proof.as_ref().unwrap().frames, total), (Some(total), picture.len() as u64));

        spec.checkpoint = Checkpoint::Off;
        spec.output = Some(bench.media(&format!("{name}.whole.{output}")).display().to_string());
        manifest(&bench.run(&split_grant(&bench, &spec)).await);
        let whole = frames(&bench.media(&format!("{name}.whole.{output}")), "null");
        assert_eq!(made[1], whole[1], "{name}: the sound, sample for sample at its time");
        assert_eq!(language(&bench.media(&format!("{name}.chunks.{output}"))), language(Path::new(&input)), "{name}");
        // FFmpeg 5.1 doubles a first picture that is late, in mp4.
        if output == "mkv" {
            assert_eq!(made[0], whole[0], "{name}: the picture");
        }
    }
    assert!(!bench.media(".ffpool-chunks").exists(), "{:?}", bench.media_names());
    bench.assert_clean();
}

/// What ffprobe says of chapters and of each packet of subtitles.
fn marks(path: &Path) -> String {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "s", "-show_entries"])
        .args(["chapter=start_time,end_time:chapter_tags=title:packet=pts_time,duration_time,size", "-of", "compact"])
        .arg(path)
        .output()
        .unwrap_or_else(|error| panic!("these tests need the Debian package ffmpeg: {error}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Chapters and subtitles on both sides of every cut.
fn marked(bench: &Bench, name: &str) -> String {
    let (subtitles, chapters) = (bench.media("marks.srt"), bench.media("marks.txt"));
    let cue = |second: u32| format!("{second}\n00:00:{second:02},100 --> 00:00:{second:02},900\nline {second}\n\n");
    std::fs::write(&subtitles, (0..15).map(cue).collect::<String>()).unwrap();
    let chapter = |number: u32| {
        format!("[CHAPTER]\nTIMEBASE=1/10\nSTART={}\nEND={}\ntitle=c{number}\n", number * 31, number * 31 + 31)
    };
    std::fs::write(&chapters, format!(";FFMETADATA1\n{}", (0..4).map(chapter).collect::<String>())).unwrap();
    let plain = source_of(bench, "plain.mkv", 15.0, &[]);
    let (path, files) =
        (bench.media(name).display().to_string(), [subtitles, chapters].map(|path| path.display().to_string()));
    let maps = ["-map", "0", "-map", "1", "-map_chapters", "2", "-c", "copy"];
    ffmpeg(&[&["-i", &plain, "-i", &files[0], "-i", &files[1]], &maps[..], &[&path]].concat());
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_in_chunks_is_the_part_that_a_whole_encode_makes() {
    let bench = bench().await;
    let open = ["-x264-params", "open-gop=1:bframes=3"];
    let marked = marked(&bench, "marked.mkv");
    let film = source_of(&bench, "film.mkv", 15.0, &["-vf", "fps=30000/1001"]);
    let ts = source_of(&bench, "long.ts", 15.0, &open);
    let late = late(&bench, "late.mp4", "0.04");
    // Parts that begin with a frame and between two, nearer to either, at rates that are whole and that are not; one that is
    // read from its source's beginning, and one to its end; one whose picture begins a frame late; where the sound is made
    // apart, and where it is not.
    for (number, input, [start, secs], fps, output, sounds) in [
        (0, &film, [11.111, 3.5], None, "mp4", 1),
        (1, &marked, [10.508, 3.3], None, "mkv", 0),
        (2, &marked, [1.0, 3.5], None, "mp4", 0),
        (3, &ts, [10.532, 0.0], None, "mkv", 0),
        (4, &ts, [10.3, 3.4], Some(Fps::whole(30)), "mp4", 1),
        (5, &late, [0.0, 4.0], None, "mp4", 1),
    ] {
        let mut spec = lossless(&bench, input, &format!("{number}.chunks.{output}"));
        spec.parameters.fps = fps;
        spec.parameters.start = Some(start);
        spec.parameters.duration = Some(secs).filter(|secs| *secs > 0.0);
        if *input == marked {
            spec.parameters.subtitles = Some(SubtitleMode::Convert);
        }
        let (proof, count) = in_chunks(&bench, &spec).await;
        let apart = proof.chunks.iter().filter(|chunk| chunk.frames == 0).count();
        assert!(apart == sounds && (3..=5).contains(&(count - apart)), "{number}: {count} chunks, {apart} of sound");
        let frames_in: u64 = proof.chunks.iter().map(|chunk| chunk.frames).sum();

        spec.checkpoint = Checkpoint::Off;
        spec.output = Some(bench.media(&format!("{number}.whole.{output}")).display().to_string());
        let whole = bench.run(&split_grant(&bench, &spec)).await;
        assert_eq!(manifest(&whole).artifacts[0].proof.as_ref().unwrap().frames, Some(frames_in), "{number}");
        let [made, wish] = ["chunks", "whole"].map(|how| bench.media(&format!("{number}.{how}.{output}")));
        assert_eq!(marks(&made), marks(&wish), "{number}: subtitles and chapters");
        let [made, wish] = [made, wish].map(|path| frames(&path, "null"));
        let hashes = |frames: &[(f64, String)]| frames.iter().map(|(_, hash)| hash.clone()).collect::<Vec<_>>();
        assert_eq!(hashes(&made[0]), hashes(&wish[0]), "{number}: the picture, frame for frame");
        for ((time, _), (was, _)) in made[0].iter().zip(&wish[0]) {
            // A part may begin between two ticks of its source's clock.
            assert!((time - was).abs() < 0.0015, "{number}: a frame is at {time} s instead of {was} s");
        }
        assert_eq!(made[1], wish[1], "{number}: the sound, sample for sample at its time");
    }
    // A ledger that would give its chunks to workers that do not know of parts is told of none.
    let spec = JobSpec { checkpoint: Checkpoint::Require, ..lossless(&bench, &film, "old.mp4") };
    let mut part = spec.clone();
    part.parameters.duration = Some(4.0);
    let old = |spec: &JobSpec| Grant { minds: Vec::new(), ..split_grant(&bench, spec) };
    assert_eq!(fault(&bench.run(&old(&part)).await), "checkpoint unsupported");
    assert!(matches!(bench.run(&old(&spec)).await.outcome, Some(Outcome::Split { .. })));
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_at_another_rate_that_begins_before_the_picture_is_encoded_whole() {
    let bench = bench().await;
    let (one, two) = (late(&bench, "one.mp4", "0.04"), late(&bench, "two.mp4", "0.08"));
    let length = Some(4.0);
    for (number, input, start, duration) in
        [(0, &one, None, length), (1, &two, Some(0.04), length), (2, &two, Some(0.04), None)]
    {
        let mut spec = lossless(&bench, input, &format!("{number}.mp4"));
        (spec.parameters.start, spec.parameters.duration) = (start, duration);
        assert!(!pieces(&bench, &split_grant(&bench, &spec)).await.is_empty(), "{number}: the frames are counted");
        spec.parameters.fps = Some(Fps::whole(25));
        let whole = bench.run(&split_grant(&bench, &spec)).await;
        assert!(manifest(&whole).chunks.is_empty(), "{number}");
    }
    bench.assert_clean();
}

/// As if a chunk had been made for a job that calls its outputs otherwise.
fn call_otherwise(bench: &Bench, piece: &Piece) {
    let store = std::fs::read_dir(bench.media(".ffpool-chunks")).unwrap().next().unwrap().unwrap().path();
    let path = store.join(format!("{}.mp4.ffpool.json", piece.key));
    let mut told: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for artifact in told["artifacts"].as_array_mut().unwrap() {
        artifact["name"] = json!("other");
    }
    std::fs::write(&path, told.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn several_outputs_are_made_in_chunks_by_one_decode_each_and_are_what_a_whole_encode_makes() {
    let bench = bench().await;
    let input = source(&bench, "source.ts", &[]);
    let names = |how: &str| ["a.mp4", "b.mkv"].map(|name| bench.media(&format!("{how}.{name}")).display().to_string());
    // Another size at another rate, of a part.
    let parameters = json!({"crf": 0, "preset": "ultrafast", "resolution": "80x46", "fps": 30});
    // Who splits the job and who puts it together read the source for its sum; who makes a chunk goes by its date.
    let sum = ffpool_schema::message::hex(&<sha2::Sha256 as sha2::Digest>::digest(std::fs::read(&input).unwrap()));
    let job = |how: &str| {
        let mut spec = lossless(&bench, &input, "a.mp4");
        let [first, second] = names(how);
        spec.output = Some(first);
        let parameters = serde_json::from_value(parameters.clone()).unwrap();
        spec.outputs = vec![ExtraOutput { url: second, scenario: "custom-input".to_owned(), parameters }];
        spec.parameters.start = Some(0.2);
        spec.input_sha256 = Some(sum.parse().unwrap());
        spec
    };
    let spec = job("chunks");
    let all = pieces(&bench, &split_grant(&bench, &spec)).await;
    assert!(all.iter().all(|piece| piece.cuts().len() == 2 && !piece.is_sound), "{all:?}");
    let first = bench.run(&piece_grant(&bench, &spec, &all[0])).await;
    assert_eq!(manifest(&first).source.as_ref().unwrap().sha256, None, "it is read once less");
    let inputs = manifest(&first).arguments.iter().filter(|argument| *argument == "-i").count();
    assert_eq!((inputs, manifest(&first).artifacts.len()), (1, 2), "one decode for both");
    // One file of it is damaged: it is not there any more, and is made again.
    let store = std::fs::read_dir(bench.media(".ffpool-chunks")).unwrap().next().unwrap().unwrap().path();
    std::fs::write(store.join(format!("{}.1.mp4", all[0].key)), "short").unwrap();
    let (proof, count) = in_chunks(&bench, &spec).await;
    assert_eq!((count, proof.chunks.len()), (all.len(), 2 * count));
    let whole = JobSpec { checkpoint: Checkpoint::Off, ..job("whole") };
    let whole = bench.run(&split_grant(&bench, &whole)).await;
    let [made, wish] = [&proof, manifest(&whole)].map(|proof| {
        let frames = |artifact: &Artifact| (artifact.name.clone(), artifact.proof.as_ref().unwrap().frames);
        proof.artifacts.iter().map(frames).collect::<Vec<_>>()
    });
    assert_eq!(made, wish);
    for (output, (made, wish)) in names("chunks").iter().zip(names("whole")).enumerate() {
        let own = proof.chunks.iter().filter(|chunk| chunk.output == proof.artifacts[output].name);
        let counted: u64 = own.map(|chunk| chunk.frames).sum();
        let [made, wish] = [Path::new(made), Path::new(&wish)].map(|path| frames(path, "null"));
        assert_eq!((counted, &made), (made[0].len() as u64, &wish), "output {output}, frame for frame at its time");
    }

    // The rungs of a ladder with one quality; with averages it is encoded whole.
    let ladder = |crf: Option<u8>| {
        let mut spec = bench.spec("ladder-h264");
        (spec.input, spec.output) = (Some(input.clone()), Some(bench.media("{name}.mp4").display().to_string()));
        spec.parameters.ladder = Some("160x90:400k,80x46:100k".parse().unwrap());
        spec.parameters.crf = crf;
        spec
    };
    let grant = split_grant(&bench, &ladder(Some(30)));
    let all = pieces(&bench, &grant).await;
    for piece in &all {
        manifest(&bench.run(&piece_grant(&bench, &ladder(Some(30)), piece)).await);
        call_otherwise(&bench, piece);
    }
    let made = bench.run(&Grant { attempt: 2, splits: Some(1), ..grant }).await;
    let (proof, count) = (manifest(&made), all.len());
    let called: Vec<_> = proof.chunks.iter().map(|chunk| chunk.output.as_deref()).collect();
    assert_eq!(
        called,
        [Some("160x90"), Some("80x46")].repeat(count),
        "whatever the job that made them calls its outputs"
    );
    let rungs: Vec<_> =
        proof.artifacts.iter().map(|made| (made.name.as_deref(), made.proof.as_ref().unwrap().frames)).collect();
    assert_eq!((rungs, proof.chunks.len()), (vec![(Some("160x90"), Some(85)), (Some("80x46"), Some(85))], 2 * count));
    assert!(manifest(&bench.run(&split_grant(&bench, &ladder(None))).await).chunks.is_empty());
    assert!(!bench.media(".ffpool-chunks").exists(), "{:?}", bench.media_names());
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_is_used_again_and_what_is_damaged_is_made_again() {
    let bench = bench().await;
    let input = source(&bench, "source.mkv", &[]);
    let mut spec = lossless(&bench, &input, "out.mp4");
    let grant = split_grant(&bench, &spec);
    let first = pieces(&bench, &grant).await;
    manifest(&bench.run(&piece_grant(&bench, &spec, &first[1])).await);
    // Another worker's attempt at the same piece, after the first has published, and the job with its sound put right.
    manifest(&bench.run(&piece_grant(&bench, &spec, &first[1])).await);
    spec.parameters.audio_bitrate = Some(Bitrate(96_000));
    let again = pieces(&bench, &split_grant(&bench, &spec)).await;
    let keys = |pieces: &[Piece]| pieces.iter().map(|piece| piece.key.clone()).collect::<Vec<_>>();
    let (sound, picture) = (first.last().unwrap(), &first[..first.len() - 1]);
    let without: Vec<String> = keys(picture).into_iter().filter(|key| *key != first[1].key).collect();
    let (new_sound, missing) = again.split_last().unwrap();
    assert_eq!(keys(missing), without);
    assert!(sound.is_sound && new_sound.is_sound && sound.key != new_sound.key, "other sound is made again");
    // Another picture is another encode.
    let mut other = spec.clone();
    other.parameters.crf = Some(30);
    assert_eq!(pieces(&bench, &split_grant(&bench, &other)).await.len(), first.len());

    for piece in &again {
        manifest(&bench.run(&piece_grant(&bench, &spec, piece)).await);
    }
    // Which has the same sound.
    let all_but_sound = pieces(&bench, &split_grant(&bench, &other)).await;
    assert!(all_but_sound.len() == picture.len() && all_but_sound.iter().all(|piece| !piece.is_sound));
    // A ledger that knows of no such piece is told of none, and the sound is encoded where the chunks are put together.
    let old = pieces(&bench, &Grant { sound_apart: false, ..split_grant(&bench, &other) }).await;
    assert_eq!((keys(&old), old[0].total), (keys(&all_but_sound), picture.len() as u32));
    let store = std::fs::read_dir(bench.media(".ffpool-chunks")).unwrap().next().unwrap().unwrap().path();
    let chunk = store.join(format!("{}.mp4", first[2].key));
    let mut bytes = std::fs::read(&chunk).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&chunk, bytes).unwrap();
    let grant = split_grant(&bench, &spec);
    assert_eq!(keys(&pieces(&bench, &grant).await), [first[2].key.clone()]);
    manifest(&bench.run(&piece_grant(&bench, &spec, &first[2])).await);
    let made = bench.run(&grant).await;
    assert_eq!(manifest(&made).chunks.len(), first.len());

    // Without the source as it was, nothing of it is of use: neither to a piece nor to the whole.
    let late = piece_grant(&bench, &spec, &first[0]);
    source(&bench, "source.mkv", &["-metadata", "title=other"]);
    assert_eq!(bench.run(&late).await.outcome, Some(Outcome::Finished { manifest: None }));
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_cut_is_encoded_whole_unless_the_job_insists() {
    let bench = bench().await;
    let even = source(&bench, "even.mp4", &[]);
    let uneven = source(&bench, "uneven.mkv", &["-vf", "select=not(between(n\\,40\\,47))", "-fps_mode", "vfr"]);
    let short = bench.clip("short.mp4", &[]);
    let (whole, many) = (Some(0), Some(8));
    for (number, input, codec, splits) in
        [(0, &uneven, "h264", whole), (1, &even, "vp8", whole), (2, &even, "h264", many), (3, &short, "h264", whole)]
    {
        let mut spec = lossless(&bench, input, &format!("{number}.mkv"));
        spec.parameters.crf = Some(40);
        spec.parameters.codec = Some(codec.parse().unwrap());
        let auto = bench.run(&Grant { splits, ..bench.grant(&spec) }).await;
        assert!(manifest(&auto).chunks.is_empty(), "case {number}");
        spec.checkpoint = Checkpoint::Require;
        let insists = bench.run(&Grant { splits, ..bench.grant(&spec) }).await;
        if number == 3 {
            assert!(matches!(insists.outcome, Some(Outcome::Split { .. })), "whatever its length: {insists:?}");
        } else {
            assert_eq!(fault(&insists), "checkpoint unsupported", "case {number}");
        }
    }
    // A ledger that does not split jobs.
    assert!(manifest(&bench.run_spec(&lossless(&bench, &even, "old.mp4")).await).chunks.is_empty());

    // Frames that do not decode show only when the chunk is made: the job is encoded whole then.
    let spec = lossless(&bench, &even, "fewer.mp4");
    let all = pieces(&bench, &split_grant(&bench, &spec)).await;
    let mut fewer = all[1].clone();
    fewer.cut.frames = fewer.cut.frames.map(|frames| frames + 1);
    let ended = bench.run(&piece_grant(&bench, &spec, &fewer)).await;
    assert_eq!(ended.outcome, Some(Outcome::Finished { manifest: None }));
    assert_eq!(
        bench.run(&piece_grant(&bench, &spec, &all[0])).await.outcome,
        Some(Outcome::Finished { manifest: None })
    );
    let whole = bench.run(&split_grant(&bench, &spec)).await;
    assert!(manifest(&whole).chunks.is_empty());
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_of_a_damaged_source_fails_as_the_whole_would() {
    let bench = bench().await;
    let input = source(&bench, "cut.ts", &[]);
    let spec = lossless(&bench, &input, "out.mp4");
    let all = pieces(&bench, &split_grant(&bench, &spec)).await;
    // Its size and time stay, so that it is still the source for which the job was split.
    let modified = std::fs::metadata(&input).unwrap().modified().unwrap();
    let mut bytes = std::fs::read(&input).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 20_000].fill(0xff);
    std::fs::write(&input, bytes).unwrap();
    std::fs::File::options().append(true).open(&input).unwrap().set_modified(modified).unwrap();
    let mut causes = Vec::new();
    for piece in &all {
        let ended = bench.run(&piece_grant(&bench, &spec, piece)).await;
        if matches!(ended.outcome, Some(Outcome::Failed { .. })) {
            causes.push(failure(&ended).cause);
        }
    }
    assert!(causes.contains(&Cause::InputBad), "{causes:?}");
    bench.assert_clean();
}
