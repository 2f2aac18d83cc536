//! Encodes in chunks: one chunk, the whole from its chunks, the sound apart.

use super::*;

/// The run that makes a chunk of one output, and what must come out.
fn chunk_of(request: &Request<'_>, cut: &Cut) -> (String, Expected) {
    let mut plan = chunk(&[*request], std::slice::from_ref(cut)).unwrap();
    (text(&plan.steps[0].step.arguments), plan.expected.remove(0))
}

fn key_of(request: &Request<'_>, cut: &Cut, source: &str, tool: &str) -> String {
    chunk_key(&[*request], std::slice::from_ref(cut), source, tool).unwrap()
}

/// What is asked for two outputs.
fn two<'a>(encodes: [&'a Encode; 2], source: &'a Probed, features: &'a [String]) -> [Request<'a>; 2] {
    let one = |number: usize| Request {
        number,
        output: Path::new(["a.mp4", "b.mp4"][number]),
        ..request(encodes[number], Encoder::Libx264, Some(source), features)
    };
    [one(0), one(1)]
}

/// The run that puts one output together.
fn stitched(request: &Request<'_>, offset_secs: f64, sound: Option<Sound<'_>>) -> String {
    let row = Row { list: Path::new("chunks.txt"), offset_secs };
    let plan = stitch(&[*request], &[row], sound).unwrap();
    text(&plan.steps.last().unwrap().step.arguments)
}

#[test]
fn a_chunk_is_read_from_before_its_cut_and_holds_the_video_alone() {
    let mut wish = encode(file(), Container::Mkv);
    wish.video.fps = None;
    wish.video.deinterlace = Deinterlace::On;
    let chunk_encode = crate::chunk::of(&wish);
    let (source, all) = (probed(), features());
    let request = request(&chunk_encode, Encoder::Libx264, Some(&source), &all);
    let span = Span::Time { from: Some(Micros(29_480_000)), to: Some(Micros(59_480_000)) };
    let cut = Cut { seek: Some(Micros(26_500_000)), span, frames: Some(750), late: None };
    let (arguments, expected) = chunk_of(&request, &cut);
    for part in [
        "-ss 26.500000 -copyts -i file:/media/-y.mp4 -map 0:V:0",
        "-vf bwdif=mode=send_frame:parity=auto:deint=all,trim=start=29.480000:end=59.480000,setpts=PTS-STARTPTS,scale=640:360:force_original_aspect_ratio=decrease:force_divisible_by=2,pad=640:360:(ow-iw)/2:(oh-ih)/2,setsar=1,format=yuv420p",
        "-fps_mode passthrough -bsf:v setts=pts=PTS:dts=DTS:duration=if(gt(DURATION\\,0)\\,DURATION\\,if(N\\,DTS-PREV_INDTS\\,0)) -an -sn -dn",
        "-f mp4",
    ] {
        has(&arguments, part);
    }
    assert!(expected.audio.is_empty() && expected.duration_secs.is_none());

    let key = |request: &Request<'_>, cut: &Cut| key_of(request, cut, "file, 5 bytes", "ffmpeg 5.1");
    let elsewhere = Request { threads: 8, output: Path::new("b.mp4"), ..request };
    assert_eq!(key(&request, &cut), key(&elsewhere, &cut));
    let later = Cut {
        frames: Some(749),
        span: Span::Time { from: Some(Micros(29_520_000)), to: Some(Micros(59_480_000)) },
        ..cut.clone()
    };
    assert_ne!(key(&request, &cut), key(&request, &later));
    assert_ne!(key_of(&request, &cut, "file, 6 bytes", "ffmpeg 5.1"), key(&request, &cut));
    assert_ne!(key_of(&request, &cut, "file, 5 bytes", "ffmpeg 7.1"), key(&request, &cut));
    let mut audio = wish.clone();
    audio.audio.bitrate = Bitrate(96_000);
    let audio = crate::chunk::of(&audio);
    assert_eq!(key(&Request { encode: &audio, ..request }, &cut), key(&request, &cut), "audio is not in a chunk");
}

#[test]
fn what_stands_before_a_late_first_frame_is_left_to_the_tool() {
    let wish = crate::chunk::of(&Encode {
        video: VideoEncode { fps: None, ..encode(file(), Container::Mp4).video },
        ..encode(file(), Container::Mp4)
    });
    let (source, all) = (probed(), features());
    let span = Span::Time { from: Some(Micros(29_480_000)), to: None };
    let seek = Some(Micros(26_500_000));
    let cut = Cut { seek, span, frames: Some(750), late: Some(Micros(40_000)) };
    let (arguments, _) = chunk_of(&request(&wish, Encoder::Libx264, Some(&source), &all), &cut);
    has(&arguments, "-ss 26.500000 -i file:/media/-y.mp4");
    assert!(arguments.contains("-vf setpts=PTS+(26.500000)/TB,trim=start=29.480000,setpts=PTS-STARTPTS+0.040000/TB,"));
    assert!(!arguments.contains("-fps_mode") && !arguments.contains("-copyts"), "{arguments}");
    assert_eq!([749, 750, 751, 752].map(|frames| cut.allows(frames)), [false, true, true, false]);
    assert!(cut.is_filled(751) && !cut.is_filled(750));
}

#[test]
fn a_change_of_rate_is_made_before_the_chunk_is_taken_out() {
    let wish = crate::chunk::of(&encode(file(), Container::Mp4));
    let (source, all) = (probed(), features());
    let span = Span::Frame { zero: Micros(1_462_000), from: Some(150), to: None };
    let cut = Cut { seek: None, span, frames: None, late: None };
    let (arguments, _) = chunk_of(&request(&wish, Encoder::Libx264, Some(&source), &all), &cut);
    let filter = "-vf setpts=round(PTS-(1.462000)/TB),fps=30,trim=start_pts=150,setpts=PTS-STARTPTS,scale=640:360";
    assert!(arguments.contains(filter), "{arguments}");
    assert_eq!(arguments.matches("fps=30").count(), 1);
}

#[test]
fn the_whole_is_put_together_from_its_chunks_and_the_source_s_sound() {
    let wish = encode(file(), Container::Mp4);
    let (source, all) = (probed(), features());
    let request = request(&wish, Encoder::Libx265, Some(&source), &all);
    let plan = stitched(&request, 0.08, None);
    let arguments = plan;
    for part in [
        "-i file:/media/-y.mp4 -itsoffset 0.080000 -protocol_whitelist file,crypto,data -format_whitelist concat,mov -f concat -i file:chunks.txt -map 1:v:0 -c:v copy",
        "-map 0:a:0 -c:a aac",
        "-map_metadata 0 -map_chapters 0",
        "-tag:v hvc1",
    ] {
        has(&arguments, part);
    }
    assert!(arguments.ends_with(" file:out.mp4 "), "{arguments}");
    assert_eq!(taken(&request), Ok(Taken::all(Micros(0))));

    // Where times may jump, the output begins with what is taken of the source, and so must the sound alone.
    let mut ts = source.clone();
    ts.probe.format = "mpegts".to_owned();
    ts.start_secs = Some(1.4);
    ts.streams = ["audio", "video", "data"].map(|kind| (kind.to_owned(), String::new())).into();
    ts.starts = vec![Some(1.5), Some(1.48), Some(1.4)];
    let request = Request { source: Some((Path::new("/media/-y.mp4"), &ts)), ..request };
    assert_eq!(taken(&request), Ok(Taken::all(Micros(1_480_000))));
    let plan = stitched(&request, 0.0, None);
    has(&plan, "file:out.mp4 -map 0:V:0 -c copy -f null -");
}

#[test]
fn the_sound_is_made_apart_where_that_changes_no_sample() {
    let (mut wish, source, all) = (encode(file(), Container::Mp4), probed(), features());
    let alone = sound_alone(&wish, &source).unwrap();
    let of_sound = Request { encoder: None, ..request(&alone, Encoder::Libx264, Some(&source), &all) };
    let plan = crate::plan::sound(&of_sound).unwrap();
    let arguments = text(plan.arguments());
    has(&arguments, "-map 0:a:0 -c:a aac");
    has(&arguments, "-movie_timescale 1000000");
    assert!(!arguments.contains("libx264") && plan.expected.video.is_none(), "{arguments}");
    let key = |wish: &Encode| {
        let alone = sound_alone(wish, &source).unwrap();
        sound_key(&Request { encode: &alone, ..of_sound }, "file, 5 bytes", "ffmpeg 5.1").unwrap()
    };
    let before = key(&wish);
    wish.video.rate = RateControl::Crf { crf: 40, maxrate: None, bufsize: None };
    assert_eq!(key(&wish), before, "the picture is not in it");
    wish.audio.bitrate = Bitrate(96_000);
    assert_ne!(key(&wish), before);

    let whole = request(&wish, Encoder::Libx264, Some(&source), &all);
    let apart = Sound { file: Path::new("sound.mp4"), start_secs: 0.17 };
    let arguments = stitched(&whole, 0.0, Some(apart));
    has(&arguments, "-itsoffset 0.170000 -protocol_whitelist file,crypto,data -format_whitelist mov -i file:sound.mp4");
    has(&arguments, "-map 2:a:0 -map_metadata:s:a:0 0:s:a:0 -c:a copy");
    assert!(!arguments.contains("-c:a aac"), "{arguments}");
    let bare = Encode { metadata: Keep::Drop, ..wish.clone() };
    let whole = request(&bare, Encoder::Libx264, Some(&source), &all);
    let apart = Sound { file: Path::new("sound.mp4"), start_secs: 0.17 };
    let arguments = stitched(&whole, 0.0, Some(apart));
    has(&arguments, "-map 2:a:0 -c:a copy");
    assert!(!arguments.contains("-map_metadata:s"), "no tag of a stream is taken: {arguments}");

    for container in [Container::Mkv, Container::Ts] {
        wish.container = container;
        assert_eq!(sound_alone(&wish, &source), None);
    }
    wish.container = Container::Mp4;
    wish.audio.codec = AudioChoice::Opus;
    assert_eq!(sound_alone(&wish, &source), None);
}

#[test]
fn a_part_is_put_together_from_its_chunks_and_cut_out_of_the_source_as_in_a_whole_encode() {
    let mut wish = encode(file(), Container::Mkv);
    (wish.start_secs, wish.duration_secs) = (Some(12.5), Some(20.0));
    let (mut source, all) = (probed(), features());
    source.chapters = 2;
    source.probe.video.as_mut().unwrap().duration_secs = Some(60.0);
    source.audio[0].duration_secs = Some(60.0);
    let whole = request(&wish, Encoder::Libx264, Some(&source), &all);
    let parted = Taken { zero: Micros(2_500_000), start: Some(Micros(10_000_000)), ..taken(&whole).unwrap() };
    assert_eq!((taken(&whole), parted.length), (Ok(parted), Some(Micros(20_000_000))));
    let arguments = stitched(&whole, 0.04, None);
    has(&arguments, "-ss 2.5 -i file:/media/-y.mp4 -itsoffset 10.040000 -protocol_whitelist");
    has(&arguments, "-map 1:v:0 -c:v copy -map 0:a:0 -c:a aac");
    has(&arguments, "-map_chapters 0 -ss 10 -t 20 -max_muxing_queue_size");

    // Its sound is cut when it is made apart, and that is only where nothing else needs the source's clock.
    wish.container = Container::Mp4;
    assert_eq!(sound_alone(&wish, &source), None);
    source.chapters = 0;
    let alone = sound_alone(&wish, &source).unwrap();
    let of_sound = Request { encoder: None, ..request(&alone, Encoder::Libx264, Some(&source), &all) };
    let arguments = text(crate::plan::sound(&of_sound).unwrap().arguments());
    has(&arguments, "-ss 2.5 -i file:/media/-y.mp4 -map 0:a:0 -c:a aac");
    has(&arguments, "-ss 10 -t 20 -movie_timescale");
    let whole = request(&wish, Encoder::Libx264, Some(&source), &all);
    let apart = Sound { file: Path::new("sound.mp4"), start_secs: 0.0 };
    let arguments = stitched(&whole, 0.04, Some(apart));
    has(&arguments, "-itsoffset 0.040000 -protocol_whitelist");
    assert!(!arguments.contains(" -t "), "{arguments}");
}

#[test]
fn a_chunk_of_several_outputs_is_decoded_once_and_each_is_put_together_from_its_own() {
    let [large, mut small] = [(); 2].map(|()| encode(file(), Container::Mp4));
    small.video.size = Some(Resolution { width: 320, height: 180 });
    small.video.fps = Some(Fps::whole(25));
    let (source, all) = (probed(), features());
    let alone = [&large, &small].map(crate::chunk::of);
    let chunks = two([&alone[0], &alone[1]], &source, &all);
    let frame = |from| Span::Frame { zero: Micros(0), from: Some(from), to: None };
    let cuts =
        [900, 750].map(|from| Cut { seek: Some(Micros(26_500_000)), span: frame(from), frames: None, late: None });
    let plan = chunk(&chunks, &cuts).unwrap();
    let arguments = text(&plan.steps[0].step.arguments);
    assert_eq!((plan.steps.len(), arguments.matches(" -i ").count(), plan.expected.len()), (1, 1, 2), "{arguments}");
    for part in ["fps=30,trim=start_pts=900,", "fps=25,trim=start_pts=750,"] {
        assert!(arguments.contains(part), "{part} is not in {arguments}");
    }
    assert!(
        arguments.contains("-f mp4 -y file:a.mp4 -map 0:V:0 -vf") && arguments.ends_with(" file:b.mp4 "),
        "{arguments}"
    );
    let key = |cuts: &[Cut]| chunk_key(&chunks, cuts, "file, 5 bytes", "ffmpeg 5.1").unwrap();
    assert_ne!(key(&cuts), key_of(&chunks[0], &cuts[0], "file, 5 bytes", "ffmpeg 5.1"));
    assert_ne!(key(&cuts), key(&[cuts[0].clone(), cuts[0].clone()]));

    let wholes = two([&large, &small], &source, &all);
    let rows = ["chunks.txt", "chunks-1.txt"].map(|list| Row { list: Path::new(list), offset_secs: 0.0 });
    let plan = stitch(&wholes, &rows, None).unwrap();
    let arguments = text(&plan.steps[0].step.arguments);
    for part in [
        "-i file:/media/-y.mp4 -protocol_whitelist",
        "-f concat -i file:chunks-1.txt -map 1:v:0 -c:v copy -map 0:a:0 -c:a aac",
        "-y file:a.mp4 -map 2:v:0 -c:v copy -map 0:a:0 -c:a aac",
    ] {
        has(&arguments, part);
    }
    assert_eq!((plan.steps[0].outputs.as_slice(), plan.expected.len()), (&[0, 1][..], 2));
}

#[test]
fn every_chunk_in_the_list_begins_where_the_frames_before_it_end() {
    let list = chunk_list([("a.mp4", 1), ("b.mp4", 1), ("c.mp4", 298)], 30.0);
    assert_eq!(
        list,
        "ffconcat version 1.0\nfile a.mp4\nduration 0.033333\nfile b.mp4\nduration 0.033334\n\
         file c.mp4\nduration 9.933333\n"
    );
}
