//! Encodes in chunks: one chunk, the whole from its chunks, the sound apart.

use super::*;

#[test]
fn a_chunk_is_read_from_before_its_cut_and_holds_the_video_alone() {
    let mut wish = encode(file(), Container::Mkv);
    wish.video.fps = None;
    wish.video.deinterlace = Deinterlace::On;
    let chunk_encode = crate::chunk::of(&wish);
    let (source, all) = (probed(), features());
    let request = request(&chunk_encode, Encoder::Libx264, Some(&source), &all);
    let span = Span::Time { from: Some(Micros(29_480_000)), to: Some(Micros(59_480_000)) };
    let cut = Cut { seek: Some(Micros(26_500_000)), span, frames: Some(750) };
    let plan = chunk(&request, &cut).unwrap();
    let arguments = text(plan.arguments());
    for part in [
        "-ss 26.500000 -copyts -i file:/media/-y.mp4 -map 0:V:0",
        "-vf bwdif=mode=send_frame:parity=auto:deint=all,trim=start=29.480000:end=59.480000,setpts=PTS-STARTPTS,scale=640:360:force_original_aspect_ratio=decrease:force_divisible_by=2,pad=640:360:(ow-iw)/2:(oh-ih)/2,setsar=1,format=yuv420p",
        "-fps_mode passthrough -bsf:v setts=pts=PTS:dts=DTS:duration=if(gt(DURATION\\,0)\\,DURATION\\,if(N\\,DTS-PREV_INDTS\\,0)) -an -sn -dn",
        "-f mp4",
    ] {
        has(&arguments, part);
    }
    assert!(plan.expected.audio.is_empty() && plan.expected.duration_secs.is_none());

    let key = |request: &Request<'_>, cut: &Cut| chunk_key(request, cut, "file, 5 bytes", "ffmpeg 5.1").unwrap();
    let elsewhere = Request { threads: 8, output: Path::new("b.mp4"), ..request };
    assert_eq!(key(&request, &cut), key(&elsewhere, &cut));
    let later = Cut {
        frames: Some(749),
        span: Span::Time { from: Some(Micros(29_520_000)), to: Some(Micros(59_480_000)) },
        ..cut.clone()
    };
    assert_ne!(key(&request, &cut), key(&request, &later));
    assert_ne!(chunk_key(&request, &cut, "file, 6 bytes", "ffmpeg 5.1").unwrap(), key(&request, &cut));
    assert_ne!(chunk_key(&request, &cut, "file, 5 bytes", "ffmpeg 7.1").unwrap(), key(&request, &cut));
    let mut audio = wish.clone();
    audio.audio.bitrate = Bitrate(96_000);
    let audio = crate::chunk::of(&audio);
    assert_eq!(key(&Request { encode: &audio, ..request }, &cut), key(&request, &cut), "audio is not in a chunk");
}

#[test]
fn a_change_of_rate_is_made_before_the_chunk_is_taken_out() {
    let wish = crate::chunk::of(&encode(file(), Container::Mp4));
    let (source, all) = (probed(), features());
    let span = Span::Frame { zero: Micros(1_462_000), from: Some(150), to: None };
    let plan = chunk(&request(&wish, Encoder::Libx264, Some(&source), &all), &Cut { seek: None, span, frames: None });
    let filter = "-vf setpts=round(PTS-(1.462000)/TB),fps=30,trim=start_pts=150,setpts=PTS-STARTPTS,scale=640:360";
    let arguments = text(plan.unwrap().arguments());
    assert!(arguments.contains(filter), "{arguments}");
    assert_eq!(arguments.matches("fps=30").count(), 1);
}

#[test]
fn the_whole_is_put_together_from_its_chunks_and_the_source_s_sound() {
    let wish = encode(file(), Container::Mp4);
    let (source, all) = (probed(), features());
    let request = request(&wish, Encoder::Libx265, Some(&source), &all);
    let plan = stitch(&request, Path::new("chunks.txt"), 0.08, None).unwrap();
    let arguments = text(plan.arguments());
    for part in [
        "-i file:/media/-y.mp4 -itsoffset 0.080000 -protocol_whitelist file,crypto,data -format_whitelist concat,mov -f concat -i file:chunks.txt -map 1:v:0 -c:v copy",
        "-map 0:a:0 -c:a aac",
        "-map_metadata 0 -map_chapters 0",
        "-tag:v hvc1",
    ] {
        has(&arguments, part);
    }
    assert!(arguments.ends_with(" file:out.mp4 "), "{arguments}");
    assert_eq!(zero(&request), Ok(Micros(0)));

    // Where times may jump, the output begins with what is taken of the source, and so must the sound alone.
    let mut ts = source.clone();
    ts.probe.format = "mpegts".to_owned();
    ts.start_secs = Some(1.4);
    ts.streams = ["audio", "video", "data"].map(|kind| (kind.to_owned(), String::new())).into();
    ts.starts = vec![Some(1.5), Some(1.48), Some(1.4)];
    let request = Request { source: Some((Path::new("/media/-y.mp4"), &ts)), ..request };
    assert_eq!(zero(&request), Ok(Micros(1_480_000)));
    let plan = stitch(&request, Path::new("chunks.txt"), 0.0, None).unwrap();
    has(&text(plan.arguments()), "file:out.mp4 -map 0:V:0 -c copy -f null -");
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
    let arguments = text(stitch(&whole, Path::new("chunks.txt"), 0.0, Some(apart)).unwrap().arguments());
    has(&arguments, "-itsoffset 0.170000 -protocol_whitelist file,crypto,data -format_whitelist mov -i file:sound.mp4");
    has(&arguments, "-map 2:a:0 -map_metadata:s:a:0 0:s:a:0 -c:a copy");
    assert!(!arguments.contains("-c:a aac"), "{arguments}");
    let bare = Encode { metadata: Keep::Drop, ..wish.clone() };
    let whole = request(&bare, Encoder::Libx264, Some(&source), &all);
    let apart = Sound { file: Path::new("sound.mp4"), start_secs: 0.17 };
    let arguments = text(stitch(&whole, Path::new("chunks.txt"), 0.0, Some(apart)).unwrap().arguments());
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
fn every_chunk_in_the_list_begins_where_the_frames_before_it_end() {
    let list = chunk_list([("a.mp4", 1), ("b.mp4", 1), ("c.mp4", 298)], 30.0);
    assert_eq!(
        list,
        "ffconcat version 1.0\nfile a.mp4\nduration 0.033333\nfile b.mp4\nduration 0.033334\n\
         file c.mp4\nduration 9.933333\n"
    );
}
