//! Which streams are taken, copied, or made pictures of.

use super::*;

#[test]
fn streams_are_taken_by_choice_and_only_where_they_go() {
    let mut wish = encode(file(), Container::Mkv);
    wish.audio.streams = Streams::All;
    wish.subtitles = SubtitleMode::Copy;
    wish.subtitle_streams = Streams::All;
    wish.metadata = Keep::Drop;
    let (arguments, expected) = planned(&wish, Encoder::Libx264, Some(&probed()));
    has(&arguments, "-map 0:a:0 -map 0:a:1 -c:a aac");
    has(&arguments, "-map 0:s:0 -map 0:s:1 -c:s copy -dn -map_metadata -1 -map_chapters 0");
    assert_eq!(expected.audio.iter().map(|audio| audio.channels).collect::<Vec<_>>(), [Some(6), Some(1)]);
    assert_eq!((expected.subtitles.len(), expected.chapters), (2, Some(3)));

    wish.container = Container::Mp4;
    assert_eq!(refused(&wish, &probed()), "parameters.subtitles unsupported");
    wish.subtitles = SubtitleMode::Convert;
    assert_eq!(refused(&wish, &probed()), "parameters.subtitles unsupported");
    wish.subtitle_streams = Streams::First;
    let (arguments, expected) = planned(&wish, Encoder::Libx264, Some(&probed()));
    has(&arguments, "-map 0:s:0 -c:s mov_text");
    assert_eq!(expected.subtitles, ["mov_text"]);
    wish.audio.streams = Streams::Chosen(0b100);
    assert_eq!(refused(&wish, &probed()), "parameters.audio_streams out_of_range");
}

#[test]
fn burnt_subtitles_are_taken_out_first_and_keep_the_source_s_clock() {
    let mut wish = encode(file(), Container::Mp4);
    wish.subtitles = SubtitleMode::Burn;
    wish.start_secs = Some(3.0);
    let (features, source) = (features(), probed());
    let plan = plan(&request(&wish, Encoder::Libx264, Some(&source), &features)).unwrap();
    assert_eq!(plan.steps[0].purpose, Purpose::Subtitles);
    has(&text(&plan.steps[0].arguments), "-map 0:s:0 -c:s ass -f ass -y file:subtitles.ass");
    assert!(text(plan.arguments()).contains("fps=30,subtitles=f=subtitles.ass,format=yuv420p"));
    has(&text(plan.arguments()), "-sn");
    assert_eq!(plan.expected.subtitles, [] as [String; 0]);
}

#[test]
fn copies_go_only_where_they_fit() {
    let mut wish = encode(file(), Container::Mkv);
    wish.video.treatment = Treatment::Copy;
    wish.video.size = None;
    wish.video.fps = None;
    wish.audio.codec = AudioChoice::Copy;
    let mut source = probed();
    source.probe.video.as_mut().unwrap().codec = "vp8".to_owned();
    let (arguments, expected) = planned(&wish, Encoder::Libx264, Some(&source));
    has(&arguments, "-map 0:V:0 -c:v copy -map 0:a:0 -c:a copy");
    assert!(!arguments.contains("-vf"));
    assert_eq!(expected.video.unwrap().codec, "vp8");
    wish.container = Container::Mp4;
    assert_eq!(refused(&wish, &source), "parameters.codec unsupported");
}

#[test]
fn audio_alone_and_one_picture_are_outputs_too() {
    let mut wish = encode(file(), Container::M4a);
    wish.video.treatment = Treatment::Drop;
    wish.audio.channels = Some(Channels::Stereo);
    wish.audio.sample_rate = Some(48_000);
    let (arguments, expected) = planned(&wish, Encoder::Libx264, Some(&probed()));
    has(&arguments, "-map 0:a:0 -c:a aac -b:a 128000 -af aformat=channel_layouts=stereo -ar 48000");
    has(&arguments, "-f ipod");
    assert!(expected.video.is_none() && !arguments.contains("-vf"));
    let mut silent = probed();
    silent.audio.clear();
    silent.probe.audio = None;
    assert_eq!(refused(&wish, &silent), "the input has no audio stream");

    wish.container = Container::Jpg;
    wish.video.treatment = Treatment::Picture;
    wish.audio.codec = AudioChoice::None;
    wish.start_secs = Some(2.0);
    let (arguments, expected) = planned(&wish, Encoder::Libx264, Some(&probed()));
    has(&arguments, "-c:v mjpeg -q:v 2");
    has(&arguments, "-ss 2 -frames:v 1 -update 1");
    assert!(expected.video.unwrap().is_picture && expected.duration_secs.is_none());
}

#[test]
fn pictures_are_taken_with_their_times_and_laid_out_in_a_second_run() {
    use crate::encode::{Grid, Pace, PictureFormat, Pictures};
    let mut wish = encode(file(), Container::Vtt);
    wish.video.treatment = Treatment::Picture;
    wish.video.size = Some(Grid::TILE);
    wish.video.fit = Fit::Inside;
    wish.start_secs = Some(2.0);
    let grid = Some(Grid { columns: 4, rows: 3 });
    wish.pictures = Some(Pictures { pace: Pace::Every(0.5), format: PictureFormat::Jpg, grid });
    let laid_out = |wish: &Encode| {
        let made = ladder::outputs(wish, Some(&probed())).unwrap().list;
        let files = ladder::files(&made);
        let (arguments, expected) = planned(&files[0].encode, Encoder::Libx264, Some(&probed()));
        let schedule = expected.pictures.unwrap();
        let laid_out = pictures::lay_out_arguments(&schedule, Path::new("encode.mkv"), "d", 2);
        (arguments, schedule, text(&laid_out))
    };
    let (arguments, schedule, sheets) = laid_out(&wish);
    for part in [
        "-vf select='if(gte(t-2+0.001,ld(0)*0.5),st(0,floor((t-2+0.001)/0.5)+1),0)',scale=160:90,setsar=1,format=rgb24",
        "-c:v png -fps_mode passthrough -enc_time_base 1/1000",
        "-map_metadata -1 -map_chapters -1 -ss 2 -max_muxing_queue_size 4096 -f matroska -y",
        "-map 0:V:0 -c copy -f null -",
    ] {
        has(&arguments, part);
    }
    assert!(!arguments.contains("-frames:v"), "{arguments}");
    let mut unsaid = probed();
    unsaid.probe.duration_secs = None;
    unsaid.probe.video.as_mut().unwrap().duration_secs = None;
    let files = ladder::files(&ladder::outputs(&wish, Some(&unsaid)).unwrap().list);
    has(&planned(&files[0].encode, Encoder::Libx264, Some(&unsaid)).0, "-frames:v 10001");
    assert_eq!((schedule.secs, schedule.most, schedule.files(16)), (Some(8.0), Some(16), 2));
    has(&sheets, "-vf tile=4x3:color=black,format=yuvj420p -c:v mjpeg -q:v 2 -fps_mode passthrough");
    assert!(sheets.ends_with(" -f image2 -start_number 1 -y d/%05d.jpg "), "{sheets}");

    // Without sheets nothing is encoded twice, but for WebP, which no container in between takes.
    for (format, made, copied) in [
        (PictureFormat::Jpg, "format=yuvj420p -c:v mjpeg", "-map 0:V:0 -c copy"),
        (PictureFormat::Png, "format=rgb24 -c:v png", "-map 0:V:0 -c copy"),
        (PictureFormat::Webp, "format=rgb24 -c:v png", "-vf format=yuv420p -c:v libwebp -quality 80"),
    ] {
        wish.pictures = Some(Pictures { pace: Pace::Count(5), format, grid: None });
        let (arguments, schedule, files) = laid_out(&wish);
        assert!(arguments.contains(made), "{made} is not in {arguments}");
        has(&files, copied);
        assert_eq!((schedule.every_secs, schedule.least, schedule.most), (1.6, Some(5), Some(5)));
    }
    wish.pictures = Some(Pictures { pace: Pace::Count(81), format: PictureFormat::Jpg, grid: None });
    assert_eq!(refused(&wish, &probed()), "parameters.picture_count out_of_range");
}
