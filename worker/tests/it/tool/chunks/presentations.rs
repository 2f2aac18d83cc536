//! Presentations in chunks: cut where a whole one is, with the same frames.

use std::path::{Path, PathBuf};

use ffpool_schema::playlist::{self, Playlist};

use super::*;

/// The playlists of every stream of a presentation, pictures first.
fn playlists(top: &Path, proof: &Manifest) -> Vec<Playlist> {
    if top.extension().is_some_and(|end| end == "mpd") {
        let text = std::fs::read_to_string(top).unwrap();
        return playlist::presentation(&text).unwrap().into_iter().map(|(_, playlist)| playlist).collect();
    }
    let mut found: Vec<PathBuf> = proof.artifacts[0].files.iter().map(|file| PathBuf::from(&file.path)).collect();
    found.retain(|path| path.ends_with("index.m3u8"));
    let read = |path: &PathBuf| std::fs::read_to_string(top.with_file_name("").join(path)).unwrap();
    found.iter().map(|path| playlist::media(&read(path)).unwrap()).collect()
}

/// What a master playlist says, but for rates and the directory of segments, which are its attempt's.
fn master(top: &Path, proof: &Manifest) -> String {
    let text = std::fs::read_to_string(top).unwrap();
    let text = text.replace(&format!("segments-{}.{}", proof.job, proof.attempt), "segments");
    let without_rates = |line: &str| {
        let fields = line.split(',').filter(|field| !field.contains("BANDWIDTH="));
        fields.collect::<Vec<_>>().join(",")
    };
    text.lines().map(without_rates).collect::<Vec<_>>().join("\n")
}

fn counted(proof: &Manifest) -> Vec<(String, Option<u64>)> {
    proof.artifacts[0].renditions.iter().map(|made| (made.name.clone(), made.proof.frames)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_presentation_in_chunks_is_cut_as_a_whole_one_and_has_its_frames() {
    let bench = Bench::with(|settings, _| {
        settings.chunks.chunk_above_secs = 3;
        settings.chunks.chunk_target_secs = 2;
    })
    .await;
    // Frames that do not fall on whole segments, at the source's rate and at another; times in milliseconds; key frames of the source that lie elsewhere.
    let open = ["-x264-params", "open-gop=1:bframes=3"];
    let ntsc = source_of(&bench, "ntsc.mkv", 4.6, &[&open[..], &["-vf", "fps=30000/1001", "-c:a", "flac"]].concat());
    let even = source_of(&bench, "even.mp4", 4.6, &[]);
    let ts = source_of(&bench, "open.ts", 4.6, &open);
    for (input, output, secs, fps, ladder, frames_of_segment) in [
        (&ntsc, "dash.mpd", 1.0, None, Some("160x90:400k,86x48:100k"), 30),
        (&ts, "rate.m3u8", 1.45, Some(Fps::whole(30)), Some("160x90:400k,80x46:100k"), 44),
        (&even, "one.m3u8", 1.5, None, None, 38),
    ] {
        let job = |how: &str| {
            let mut spec = lossless(&bench, input, &format!("{how}/{output}"));
            spec.scenario = if ladder.is_some() { "ladder-h264" } else { "custom-input" }.to_owned();
            spec.parameters.crf = Some(if ladder.is_some() { 30 } else { 0 });
            spec.parameters.ladder = ladder.map(|rungs| rungs.parse().unwrap());
            spec.parameters.fps = fps;
            spec.parameters.segment_seconds = Some(secs);
            spec.checkpoint = Checkpoint::Require;
            spec
        };
        let spec = job("chunks");
        let (proof, count) = in_chunks(&bench, &spec).await;
        assert!((2..=5).contains(&count), "{output}: {count} chunks");
        let whole = JobSpec { checkpoint: Checkpoint::Off, ..job("whole") };
        let whole = bench.run(&split_grant(&bench, &whole)).await;
        let whole = manifest(&whole);
        let [made, wish] = ["chunks", "whole"].map(|how| bench.media(&format!("{how}/{output}")));

        // FFmpeg 5.1 shows the first picture twice where it begins after the sound.
        let twice = u64::from(*input == ts);
        for ((name, frames), (_, most)) in counted(&proof).iter().zip(counted(whole)) {
            let more = most.zip(*frames).map(|(most, frames)| most - frames);
            assert!(
                more.is_some_and(|more| more <= twice),
                "{output}: {name} has {frames:?} frames instead of {most:?}"
            );
        }
        let lengths = |playlists: Vec<Playlist>| -> Vec<Vec<f64>> {
            let of = |playlist: Playlist| playlist.segments.into_iter().map(|(_, secs)| secs).collect();
            playlists.into_iter().map(of).collect()
        };
        let [found, wished] = [(&made, &proof), (&wish, whole)].map(|(top, proof)| lengths(playlists(top, proof)));
        let is_same = |one: &Vec<f64>, other: &Vec<f64>| {
            let off = |place: usize| if place + 1 == one.len() { 0.002 + 0.07 * twice as f64 } else { 0.002 };
            let pairs = one.iter().zip(other).enumerate();
            one.len() == other.len() && pairs.into_iter().all(|(place, (one, other))| (one - other).abs() <= off(place))
        };
        assert!(
            found.len() == wished.len() && found.iter().zip(&wished).all(|(one, other)| is_same(one, other)),
            "{output}: segments of {found:?} s instead of {wished:?} s"
        );
        // Every chunk but the last is a whole number of segments, in every rendition.
        for (name, frames) in counted(&proof) {
            let of_it = proof.chunks.iter().filter(|chunk| chunk.output.as_deref() == Some(&name) && chunk.frames > 0);
            let chunks: Vec<u64> = of_it.map(|chunk| chunk.frames).collect();
            let (last, before) = chunks.split_last().expect("it was made in chunks");
            assert!(
                before.iter().all(|frames| frames % frames_of_segment == 0),
                "{output}: chunks of {chunks:?} frames"
            );
            assert_eq!(Some(last + before.iter().sum::<u64>()), frames, "{output}: {name}");
        }
        if output.ends_with("m3u8") {
            assert_eq!(master(&made, &proof), master(&wish, whole), "{output}");
        }
        if ladder.is_none() {
            let sounds = proof.chunks.iter().filter(|chunk| chunk.frames == 0).count();
            assert_eq!(sounds, 1, "the sound of the one rendition is made beside its picture");
            assert_eq!(frames(&made, "null"), frames(&wish, "null"), "{output}: each frame at its time");
        }
    }
    // A ledger that would give its chunks to workers that do not know of segments is told of none.
    let mut spec = lossless(&bench, &even, "old.m3u8");
    spec.checkpoint = Checkpoint::Require;
    let minds = Piece::FEATURES.into_iter().filter(|feature| *feature != Piece::SEGMENTS_FEATURE);
    let old = Grant { minds: minds.map(str::to_owned).collect(), ..split_grant(&bench, &spec) };
    assert_eq!(fault(&bench.run(&old).await), "checkpoint unsupported");
    bench.assert_clean();
}
