//! Cuts, chunks and pieces together.

use super::*;
use crate::encode::{Container, Encode, Fps, SegmentType, Segments, VideoEncode};
use crate::id::JobId;

/// When the sources here begin.
const ZERO: Micros = Micros(1_400_000);
const ALL: Taken = Taken { zero: ZERO, start: None, length: None, ticks: 1, segment: None };

fn times(frames: usize, fps: f64, key: impl Fn(usize) -> bool) -> Times {
    let mut times = Times::default();
    for frame in 0..frames {
        let flags = if key(frame) { "K_" } else { "__" };
        times.line(&format!("pts_time={:.6}|flags={flags}", 1.4 + frame as f64 / fps));
    }
    times
}

fn total(chunks: &[Cut]) -> u64 {
    chunks.iter().filter_map(|cut| cut.frames).sum()
}

#[test]
fn every_frame_is_in_one_chunk_and_cuts_are_at_key_frames() {
    let cuts = times(1055, 30.0 / 1.001, |frame| frame % 60 == 0).cuts(1.4, 5.0, &ALL).unwrap();
    assert!((cuts.fps.unwrap() - 29.97).abs() < 0.001);
    let chunks = cuts.chunks(None, &ALL).unwrap();
    assert_eq!(total(&chunks), 1055);
    assert!(cuts.seams.iter().all(|seam| seam.frame % 60 == 0), "{cuts:?}");
    assert!((6..=8).contains(&chunks.len()), "{chunks:?}");
    let seam = cuts.seams[0];
    assert!(seam.at < seam.key && seam.key.0 - seam.at.0 < 20_000);
    let (first, second) = (&chunks[0], &chunks[1]);
    assert_eq!(first.seek, None);
    assert_eq!(second.seek, Some(Micros(seam.key.0 - 4_400_000)));
    assert_eq!(first.span, Span::Time { from: None, to: Some(seam.at) });
    assert!(matches!(second.span, Span::Time { from: Some(from), .. } if from == seam.at));
}

#[test]
fn cuts_that_nobody_can_have_made_are_not_sound() {
    let cuts = times(1055, 30.0, |frame| frame % 60 == 0).cuts(1.4, 5.0, &ALL).unwrap();
    assert!(cuts.are_sound());
    let changed = |change: &dyn Fn(&mut Cuts)| {
        let mut cuts = cuts.clone();
        change(&mut cuts);
        cuts.are_sound()
    };
    assert!(!changed(&|cuts| cuts.seams.reverse()));
    assert!(!changed(&|cuts| cuts.frames = cuts.seams[1].frame));
    assert!(!changed(&|cuts| cuts.seams[0].frame = 0));
    assert!(!changed(&|cuts| cuts.seams[0].key = Micros(i64::MIN)));
    assert!(!changed(&|cuts| cuts.start = Micros(i64::MAX)));
    let (first, last) = (cuts.seams[0], cuts.seams[cuts.seams.len() - 1].at);
    let begin = |at: Micros| Some(Seam { frame: 0, at, ..first });
    assert!(changed(&|cuts| (cuts.begin, cuts.end) = (begin(Micros(cuts.first.0 - 1)), Some(Micros(last.0 + 1)))));
    assert!(!changed(&|cuts| cuts.begin = begin(cuts.first)));
    assert!(!changed(&|cuts| (cuts.first, cuts.begin) = (Micros(first.at.0 + 1), begin(first.at))));
    assert!(!changed(&|cuts| cuts.end = Some(last)));
}

#[test]
fn the_beginning_of_a_scene_is_preferred() {
    let cuts = times(900, 30.0, |frame| frame % 60 == 0 || frame == 133).cuts(1.4, 5.0, &ALL).unwrap();
    assert_eq!(cuts.seams[0].frame, 133);
}

#[test]
fn a_change_of_rate_is_cut_by_the_frames_of_the_output() {
    let cuts = times(1000, 24.0, |frame| frame % 48 == 0).cuts(1.4, 10.0, &ALL).unwrap();
    let chunks = cuts.chunks(Some(Fps::whole(30)), &ALL).unwrap();
    let mut at = None;
    for cut in &chunks {
        let Span::Frame { from, to, zero } = cut.span else { panic!("{cut:?}") };
        assert_eq!((from, zero), (at, ZERO));
        at = to;
    }
    assert_eq!((at, chunks[0].frames, chunks.last().unwrap().frames), (None, None, None));
    // Frame 240 of the source is shown at 10 s, the one before it at 9.958 s.
    assert!(matches!(chunks[0].span, Span::Frame { to: Some(300), .. }), "{:?}", chunks[0]);
}

#[test]
fn what_has_no_usable_times_is_not_cut() {
    let mut untimed = times(100, 25.0, |_| true);
    untimed.line("pts_time=N/A|flags=__");
    assert_eq!(untimed.cuts(0.0, 1.0, &ALL).unwrap_err(), "some of its frames carry no time");
    let mut twice = times(100, 25.0, |_| true);
    twice.line("pts_time=1.400000|flags=__");
    assert_eq!(twice.cuts(0.0, 1.0, &ALL).unwrap_err(), "two of its frames have the same time");
    let mut gap = times(100, 25.0, |_| true);
    gap.line("pts_time=9.0|flags=__");
    let gap = gap.cuts(1.4, 1.0, &ALL).unwrap();
    assert!(gap.chunks(None, &ALL).is_err() && gap.chunks(Some(Fps::whole(25)), &ALL).is_ok());
    assert!(times(100, 25.0, |_| true).cuts(1.4, 3.0, &ALL).unwrap().chunks(None, &ALL).is_err(), "too short");
    let mut cut_out = times(10, 25.0, |_| true);
    cut_out.line("pts_time=-1.0|flags=KD");
    assert_eq!(cut_out.frames.len(), 10);
}

#[test]
fn a_source_with_one_key_frame_is_cut_all_the_same() {
    let cuts = times(500, 25.0, |frame| frame == 0).cuts(1.4, 5.0, &ALL).unwrap();
    assert_eq!(total(&cuts.chunks(None, &ALL).unwrap()), 500);
    assert!(cuts.seams.iter().all(|seam| seam.key == ZERO));
}

#[test]
fn the_id_of_a_piece_follows_from_what_it_is() {
    let piece = |number| Piece {
        of: JobId(uuid::Uuid::from_u128(7)),
        number,
        total: 9,
        key: "k".to_owned(),
        cut: Cut::NONE,
        others: Vec::new(),
        is_sound: false,
    };
    assert_eq!(piece(1).id(1), piece(1).id(1));
    assert_ne!(piece(1).id(1), piece(2).id(1));
    assert_ne!(piece(1).id(1), piece(1).id(2));
}

#[test]
fn a_source_never_has_more_chunks_than_a_job_may_have() {
    // A scene begins every 0.6 s, so that chunks of a second would be cut short.
    let long = times(55_000, 25.0, |frame| frame % 15 == 0 || frame % 500 == 499).cuts(1.4, 1.0, &ALL).unwrap();
    let chunks = long.chunks(None, &ALL).unwrap();
    assert!(chunks.len() <= CHUNKS_MAX && chunks.len() > CHUNKS_MAX / 4, "{}", chunks.len());
    assert_eq!(total(&chunks), 55_000);
}

#[test]
fn a_split_is_bounded_in_bytes() {
    assert_eq!(too_large(2000, CHUNKS_MAX, 1), None);
    let why = too_large(500_000, CHUNKS_MAX, 1).unwrap();
    assert!(why.contains("500000 bytes") && why.contains("1500 chunks") && why.contains("64 MiB"), "{why}");
    assert!(too_large(usize::MAX, 2, 1).is_some());
}

#[test]
fn a_manifest_is_bounded_in_chunks() {
    assert_eq!((too_many(CHUNKS_MAX + 1, 1), too_many(500, 20)), (None, None));
    let why = too_many(CHUNKS_MAX, 20).unwrap();
    assert!(why.contains("1500 chunks of 20 outputs") && why.contains("10000"), "{why}");
}

#[test]
fn it_is_told_in_what_outputs_differ() {
    let one = crate::scenario::resolve(&crate::job::JobSpec::new("720p-h264")).unwrap().unwrap();
    let part = Encode { start_secs: Some(2.0), ..one.clone() };
    let (later, halves) = (Taken { zero: Micros(1_400_001), ..ALL }, Taken { ticks: 2, ..ALL });
    let told = |other: &Encode, taken: Taken| taken_by_all(&[(&one, ALL), (other, taken)]);
    assert_eq!(told(&one, ALL), Ok(ALL));
    assert!(told(&part, later).unwrap_err().contains("different parts"));
    assert!(told(&one, later).unwrap_err().contains("different streams"));
    assert!(told(&one, halves).unwrap_err().contains("deinterlaced"));
}

#[test]
fn a_late_picture_stays_late() {
    let cuts = times(100, 25.0, |_| true).cuts(1.4, 1.0, &ALL).unwrap();
    assert!((cuts.offset_secs(None, &Taken::all(Micros::of(1.321))) - 0.08).abs() < 1e-9);
}

#[test]
fn a_part_has_the_frames_that_ffmpeg_takes_for_it_and_is_cut_within() {
    let source = || {
        let mut times = times(500, 25.0, |frame| frame % 25 == 0);
        times.line("time_base=1/12800");
        times
    };
    let part = |start: f64, length: f64| Taken {
        zero: ZERO,
        start: Some(Micros::told(start)),
        length: Some(Micros::told(length)),
        ticks: 1,
        segment: None,
    };
    let mp4 = crate::scenario::resolve(&crate::job::JobSpec::new("720p-h264")).unwrap().unwrap();
    let mp4 = Encode { container: Container::Mp4, video: VideoEncode { fps: None, ..mp4.video.clone() }, ..mp4 };
    // From frame 50 at 2 s to before frame 150 at 6 s; a little later, from the frame after it to 4 s after that one, unless it
    // comes so late that there is no room for the last.
    for (start, first, frames) in [(2.0, 50, 100), (2.000_01, 50, 100), (2.01, 51, 99), (2.039, 51, 100)] {
        let taken = part(start, 4.0);
        let cuts = source().cuts(1.4, 1.0, &taken).unwrap();
        assert_eq!((cuts.frames, cuts.first), (frames, Micros(1_400_000 + first * 40_000)), "{start}");
        let chunks = cuts.chunks(None, &taken).unwrap();
        assert_eq!((chunks.len(), total(&chunks)), (4, frames), "{start}");
        let [from, to] = [first, first + frames as i64].map(|frame| Some(Micros(1_380_000 + frame * 40_000)));
        assert!(matches!(chunks[0].span, Span::Time { from: begin, .. } if begin == from), "{chunks:?}");
        assert!(matches!(chunks[3].span, Span::Time { to: end, .. } if end == to), "{chunks:?}");
        let late = cuts.offset_secs(None, &taken);
        assert_eq!(cuts.chunks_of(&mp4, &taken).unwrap()[0].late, (late > 0.0).then_some(Micros(40_000)));
        let wish = if start == 2.01 { 0.04 } else { 0.0 };
        assert!((late - wish).abs() < 1e-9, "{start}: {late}");
    }
    // At another rate: from frame 60 of 30 a second, 120 frames.
    let taken = part(2.0, 4.0);
    let cuts = source().cuts(1.4, 1.0, &taken).unwrap();
    let chunks = cuts.chunks(Some(Fps::whole(30)), &taken).unwrap();
    assert_eq!(total(&chunks), 120, "{chunks:?}");
    assert!(matches!(chunks[0].span, Span::Frame { from: Some(60), .. }), "{chunks:?}");
    assert!(matches!(chunks[3].span, Span::Frame { to: Some(180), .. }), "{chunks:?}");
    // Past the end, without a clock, and where there is nothing.
    let to_end = Taken { length: None, ..part(16.0, 0.0) };
    assert_eq!(source().cuts(1.4, 1.0, &to_end).unwrap().frames, 100);
    assert!(times(500, 25.0, |_| true).cuts(1.4, 1.0, &taken).is_err());
    assert!(source().cuts(1.4, 1.0, &part(30.0, 4.0)).is_err());
    assert!(taken.name("a") != part(2.0, 5.0).name("a") && ALL.name("a") == "a");
    assert_eq!(
        [2.34, 0.29, 9.999_999_999_8, 7.0].map(|secs| Micros::told(secs).0),
        [2_340_000, 290_000, 9_999_999, 7_000_000]
    );
}

#[test]
fn a_part_at_another_rate_that_begins_before_the_picture_is_encoded_whole() {
    let cuts = |taken: &Taken| {
        let mut times = times(500, 25.0, |frame| frame % 25 == 0);
        times.line("time_base=1/12800");
        times.cuts(1.36, 1.0, taken).unwrap()
    };
    let mp4 = crate::scenario::resolve(&crate::job::JobSpec::new("720p-h264")).unwrap().unwrap();
    let at = |fps: Option<u32>| Encode {
        container: Container::Mp4,
        video: VideoEncode { fps: fps.map(Fps::whole), ..mp4.video.clone() },
        ..mp4.clone()
    };
    // One frame late: in a part from the beginning, in one that begins in the gap, and in one to the end.
    let length = Some(Micros::told(4.0));
    for (zero, start, length) in [(1.36, None, length), (1.32, Some(0.04), length), (1.32, Some(0.04), None)] {
        let taken = Taken { zero: Micros::of(zero), start: start.map(Micros::told), length, ticks: 1, segment: None };
        let cuts = cuts(&taken);
        assert!(cuts.chunks_of(&at(Some(25)), &taken).is_err(), "{taken:?}");
        let first = cuts.chunks_of(&at(None), &taken).unwrap().remove(0);
        assert!(first.late.is_some() && first.frames.is_some(), "{taken:?}: {first:?}");
    }
    // A part from the beginning of a picture that is not late, and one that begins within the picture between two frames.
    for (zero, start, fps) in [(1.4, None, 25), (1.4, Some(2.01), 30), (1.36, Some(2.01), 30)] {
        let taken = Taken { zero: Micros::of(zero), start: start.map(Micros::told), length, ticks: 1, segment: None };
        let first = cuts(&taken).chunks_of(&at(Some(fps)), &taken).unwrap().remove(0);
        assert!(first.late.is_none() || first.frames.is_some(), "{taken:?}: {first:?}");
    }
    // All of such a source is not a part of it.
    let all = Taken::all(Micros::of(1.36));
    assert!(cuts(&all).chunks_of(&at(Some(25)), &all).is_ok());
}

#[test]
fn times_come_out_of_json_as_they_went_in_and_are_written_as_seconds() {
    let cuts = times(500, 24_000.0 / 1001.0, |frame| frame % 17 == 0).cuts(1.4, 3.0, &ALL).unwrap();
    let again: Cuts = serde_json::from_str(&serde_json::to_string(&cuts).unwrap()).unwrap();
    assert_eq!(again.seams, cuts.seams);
    let written = [0, -20_500, 1_462_000, 61_000_001].map(|micros| Micros(micros).to_string());
    assert_eq!(written, ["0.000000", "-0.020500", "1.462000", "61.000001"]);
}

#[test]
fn chunks_of_a_presentation_begin_where_segments_do() {
    let streamed = |fps: Option<Fps>| {
        let one = crate::scenario::resolve(&crate::job::JobSpec::new("720p-h264")).unwrap().unwrap();
        let segments = Some(Segments { kind: SegmentType::Ts, secs: 4.0 });
        Encode { container: Container::Mp4, segments, video: VideoEncode { fps, ..one.video.clone() }, ..one }
    };
    let ntsc = || times(1055, 30.0 / 1.001, |frame| frame % 97 == 0);
    // 120 frames of the source, whatever key frames it has; the segments are 4.004 s long then.
    let taken = Taken { segment: Some(Micros(4_004_000)), ..ALL };
    let cuts = ntsc().cuts(1.4, 9.0, &taken).unwrap();
    assert_eq!(
        cuts.seams.iter().map(|seam| (seam.frame, seam.segment)).collect::<Vec<_>>(),
        [(240, Some(2)), (480, Some(4)), (720, Some(6))]
    );
    assert!(cuts.are_sound() && taken.name("a") != ALL.name("a"));
    let frames = |cuts: &[Cut]| cuts.iter().map(|cut| cut.frames).collect::<Vec<_>>();
    let own = cuts.chunks_of(&streamed(None), &taken).unwrap();
    assert_eq!(frames(&own), [Some(240), Some(240), Some(240), Some(335)]);
    assert!(matches!(own[1].span, Span::Time { from: Some(from), .. } if from == cuts.seams[0].at));
    // At another rate by its own frames: 101 of them are no shorter than 4.004 s.
    let other = Taken { segment: Some(Micros(4_040_000)), ..ALL };
    let rate = ntsc().cuts(1.4, 9.0, &other).unwrap().chunks_of(&streamed(Some(Fps::whole(25))), &other).unwrap();
    let numbers = rate.iter().map(|cut| match cut.span {
        Span::Frame { to, .. } => to,
        Span::Time { .. } => panic!("{cut:?}"),
    });
    assert_eq!(numbers.collect::<Vec<_>>(), [Some(202), Some(404), Some(606), None]);
    // A picture that begins three frames late is counted from its first.
    let late = Taken { zero: Micros(1_280_000), ..other };
    let rate = ntsc().cuts(1.28, 9.0, &late).unwrap().chunks_of(&streamed(Some(Fps::whole(25))), &late).unwrap();
    assert!(matches!(rate[0].span, Span::Frame { to: Some(205), .. }), "{:?}", rate[0]);
    // A file beside it has its frames cut at the same times.
    let beside = Encode { segments: None, ..streamed(Some(Fps::whole(25))) };
    let file = cuts.chunks_of(&beside, &taken).unwrap();
    assert!(matches!(file[0].span, Span::Frame { to: Some(200), .. }), "{:?}", file[0]);

    // Cut elsewhere, at a length that is none of frames, or where the first is late in a part, there are none.
    let elsewhere = ntsc().cuts(1.4, 9.0, &ALL).unwrap();
    let off = Taken { segment: Some(Micros(4_000_000)), ..ALL };
    let part = Taken { zero: Micros(1_366_000), length: Some(Micros(30_000_000)), ..taken };
    assert!(elsewhere.chunks_of(&streamed(None), &taken).is_err());
    assert!(ntsc().cuts(1.4, 9.0, &off).unwrap().chunks_of(&streamed(None), &off).is_err());
    let mut clocked = ntsc();
    clocked.line("time_base=1/12800");
    assert!(clocked.cuts(1.366, 9.0, &part).unwrap().chunks_of(&streamed(None), &part).is_err());
    // Outputs without segments go along; other segments do not.
    let (hls, plain) = (streamed(None), Encode { segments: None, ..streamed(None) });
    assert_eq!(taken_by_all(&[(&plain, ALL), (&hls, taken)]), Ok(taken));
    assert!(taken_by_all(&[(&hls, taken), (&hls, other)]).unwrap_err().contains("different lengths"));
}
