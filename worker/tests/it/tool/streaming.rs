//! Presentations for streaming: every rendition in segments of one length, everything named and nothing else there.

use std::path::{Path, PathBuf};

use ffpool_schema::job::JobSpec;
use ffpool_schema::message::Manifest;
use ffpool_schema::playlist;

use super::bench::{Bench, manifest};

/// A job of two renditions of a clip of two seconds, in segments of one.
fn two(bench: &Bench, output: &str) -> JobSpec {
    let mut spec = bench.spec("ladder-h264");
    spec.input = Some(bench.clip("source.mp4", &["-ac", "2"]));
    spec.output = Some(bench.media(output).display().to_string());
    spec.parameters.ladder = Some("320x180:400k,160x90:150k".parse().unwrap());
    spec.parameters.segment_seconds = Some(1.0);
    spec
}

/// Everything in a directory, by its path in it.
fn tree(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![PathBuf::new()];
    while let Some(inner) = left.pop() {
        for entry in std::fs::read_dir(directory.join(&inner)).unwrap().flatten() {
            let path = inner.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                left.push(path);
            } else {
                found.push(path.display().to_string());
            }
        }
    }
    found.sort();
    found
}

fn segments(manifest: &Manifest) -> String {
    format!("segments-{}.{}", manifest.job, manifest.attempt)
}

#[tokio::test(flavor = "multi_thread")]
async fn hls_has_a_master_over_even_segments_and_its_files_are_all_it_has() {
    let bench = Bench::open().await;
    let spec = two(&bench, "show/master.m3u8");
    let grant = bench.grant(&spec);
    let ended = bench.run(&grant).await;
    let made = manifest(&ended);
    let show = bench.media("show");
    let master = std::fs::read_to_string(show.join("master.m3u8")).unwrap();
    let directory = segments(made);
    for part in [
        ",CODECS=\"avc1.42c0".to_owned(),
        format!(",mp4a.40.2\",AUDIO=\"audio\"\n{directory}/320x180/index.m3u8"),
        "RESOLUTION=160x90,FRAME-RATE=25.000".to_owned(),
        format!("CHANNELS=\"2\",URI=\"{directory}/audio/index.m3u8\""),
    ] {
        assert!(master.contains(&part), "{part} is not in {master}");
    }
    let artifact = &made.artifacts[0];
    let named: Vec<&str> = artifact.files.iter().map(|file| file.path.as_str()).collect();
    let mut there = tree(&show);
    there.retain(|path| !path.starts_with("master.m3u8"));
    assert_eq!(there, named);
    // Two segments and a playlist each; sound that outlasts the picture makes a third.
    assert!(matches!(named.len(), 9 | 10), "{named:?}");
    assert_eq!(artifact.renditions.iter().map(|made| made.name.as_str()).collect::<Vec<_>>(), ["320x180", "160x90"]);
    for rendition in ["320x180", "160x90", "audio"] {
        let text = std::fs::read_to_string(show.join(&directory).join(rendition).join("index.m3u8")).unwrap();
        let playlist = playlist::media(&text).unwrap();
        assert!(playlist.segments.len() == 2 || rendition == "audio", "{text}");
        assert!((playlist.secs() - 2.0).abs() < 0.1, "{text}");
    }
    assert!(made.arguments.iter().any(|word| word == "-var_stream_map"), "{:?}", made.arguments);
    bench.assert_clean();

    let mut next = grant.clone();
    next.attempt = 2;
    let adopted = bench.run(&next).await;
    assert_eq!((manifest(&adopted).attempt, adopted.usage.cpu_ms), (1, 0));
    // A segment is not what was proven: all is made anew, and nothing of the old is left.
    std::fs::write(show.join(named[1]), "x").unwrap();
    next.attempt = 3;
    let again = bench.run(&next).await;
    let again = manifest(&again);
    assert_eq!(again.attempt, 3);
    let mut there = tree(&show);
    there.retain(|path| !path.starts_with("master.m3u8"));
    assert!(there.iter().all(|path| path.starts_with(&segments(again))) && there.len() == named.len(), "{there:?}");

    // Another job in its place: the same.
    let other = bench.run_spec(&JobSpec { id: None, ..spec }).await;
    let other = manifest(&other);
    let mut there = tree(&show);
    there.retain(|path| !path.starts_with("master.m3u8"));
    assert!(there.iter().all(|path| path.starts_with(&segments(other))), "{there:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dash_and_fragmented_hls_hold_every_packet_too() {
    let bench = Bench::open().await;
    let mut spec = two(&bench, "dash/show.mpd");
    // Its picture begins later than its sound: segments are counted from the first frame.
    spec.input = Some(bench.clip("late.mkv", &["-vf", "setpts=PTS+0.12/TB"]));
    let ended = bench.run_spec(&spec).await;
    let made = manifest(&ended);
    let text = std::fs::read_to_string(bench.media("dash/show.mpd")).unwrap();
    let found = playlist::presentation(&text).unwrap();
    let counts: Vec<usize> = found.iter().map(|(_, playlist)| playlist.segments.len()).collect();
    assert!(counts.len() == 3 && counts[0] == counts[1] && matches!(counts[0], 2 | 3), "{text}");
    assert_eq!(
        made.artifacts[0].files.len(),
        found.iter().map(|(_, playlist)| playlist.files().count()).sum::<usize>()
    );
    assert!(text.contains(&segments(made)) && made.artifacts[0].probe.format.contains("dash"));

    // H.265 without a ladder and without sound: one rendition, in fMP4.
    let mut spec = bench.spec("source-h265");
    spec.input = Some(bench.clip("silent.mp4", &["-an"]));
    spec.output = Some(bench.media("one.m3u8").display().to_string());
    spec.parameters.segment_seconds = Some(1.0);
    let ended = bench.run_spec(&spec).await;
    let made = manifest(&ended);
    let master = std::fs::read_to_string(bench.media("one.m3u8")).unwrap();
    assert!(master.contains("CODECS=\"hvc1.1.6.L") && !master.contains("AUDIO"), "{master}");
    assert_eq!(made.artifacts[0].files.len(), 4, "playlist, map and two segments: {:?}", made.artifacts[0].files);
    bench.assert_clean();
}
