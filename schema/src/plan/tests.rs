//! Plans of every kind, argument by argument.

mod chunks;
mod shared;
mod streams;

use super::*;
use crate::chunk::{Cut, Micros, Span, Taken};
use crate::encode::{
    AudioChoice, AudioEncode, Bitrate, Channels, Container, Crop, Deinterlace, Fit, Fps, Hdr, Keep, Loudness,
    PixelFormat, Profile, RateControl, Resolution, Source, Streams, VideoCodec,
};
use crate::message::{AudioProbe, Probe, VideoProbe};
use crate::probe::Colors;

fn encode(source: Source, container: Container) -> Encode {
    Encode {
        source,
        output: None,
        container,
        video: VideoEncode {
            codec: VideoCodec::H264,
            encoder: None,
            size: Some(Resolution { width: 640, height: 360 }),
            fps: Some(Fps::whole(30)),
            pixel_format: PixelFormat::Yuv420p,
            rate: RateControl::Crf { crf: 23, maxrate: None, bufsize: None },
            preset: Some("fast".to_owned()),
            tune: None,
            gop: None,
            treatment: Treatment::Encode,
            two_pass: false,
            profile: None,
            fit: Fit::Pad,
            crop: None,
            deinterlace: Deinterlace::Off,
            hdr: Hdr::Auto,
            hw: None,
        },
        audio: AudioEncode {
            codec: AudioChoice::Aac,
            bitrate: Bitrate(128_000),
            channels: None,
            sample_rate: None,
            loudness: None,
            streams: Streams::First,
        },
        duration_secs: None,
        start_secs: None,
        subtitles: SubtitleMode::Drop,
        subtitle_streams: Streams::First,
        metadata: Keep::Keep,
        chapters: Keep::Keep,
        quality: None,
        segments: None,
        pictures: None,
        ladder: None,
        others: Vec::new(),
        live: None,
    }
}

fn file() -> Source {
    Source::File { path: "/media/-y.mp4".to_owned() }
}

fn sound() -> AudioProbe {
    AudioProbe { codec: "ac3".to_owned(), channels: Some(6), sample_rate: Some(44_100), duration_secs: Some(10.5) }
}

fn features() -> Vec<String> {
    ["bwdif", "zscale", "tonemap", "loudnorm", "subtitles"].map(str::to_owned).into()
}

fn request<'a>(
    encode: &'a Encode,
    encoder: Encoder,
    probed: Option<&'a Probed>,
    features: &'a [String],
) -> Request<'a> {
    let is_encode = encode.video.treatment == Treatment::Encode;
    Request {
        encode,
        encoder: is_encode.then_some(encoder),
        device: None,
        source: probed.map(|probed| (Path::new("/media/-y.mp4"), probed)),
        output: Path::new("out.mp4"),
        number: 0,
        threads: 2,
        features,
        loudness: None,
    }
}

fn text(arguments: &[OsString]) -> String {
    let words: Vec<&str> = arguments.iter().map(|argument| argument.to_str().unwrap()).collect();
    format!(" {} ", words.join(" "))
}

fn refused(encode: &Encode, probed: &Probed) -> String {
    match plan(&request(encode, Encoder::Libx264, Some(probed), &features())).unwrap_err() {
        Refusal::Job(fault) => format!("{} {}", fault.path, fault.code),
        Refusal::Input(why) => why.to_owned(),
    }
}

fn probed() -> Probed {
    Probed {
        probe: Probe {
            duration_secs: Some(12.0),
            video: Some(VideoProbe {
                width: 1921,
                height: 1080,
                fps: Some(25.0),
                duration_secs: Some(10.0),
                ..VideoProbe::default()
            }),
            audio: Some(sound()),
            ..Probe::default()
        },
        audio: vec![sound(), AudioProbe { codec: "aac".to_owned(), channels: Some(1), ..AudioProbe::default() }],
        subtitles: vec!["subrip".to_owned(), "hdmv_pgs_subtitle".to_owned()],
        chapters: 3,
        video_end: Some(10.0),
        audio_ends: vec![Some(10.5), None],
        sample_aspect: (1, 1),
        ..Probed::default()
    }
}

fn planned(encode: &Encode, encoder: Encoder, probed: Option<&Probed>) -> (String, Expected) {
    let plan = plan(&request(encode, encoder, probed, &features())).unwrap();
    (text(plan.arguments()), plan.expected)
}

fn has(arguments: &str, part: &str) {
    assert!(arguments.contains(&format!(" {part} ")), "{part} is not in {arguments}");
}

#[test]
fn a_file_is_read_with_its_hands_tied_and_written_as_asked() {
    let (arguments, expected) = planned(&encode(file(), Container::Mp4), Encoder::Libx264, Some(&probed()));
    for part in [
        "-threads 2 -filter_threads 2 -filter_complex_threads 2 -protocol_whitelist file,crypto,data",
        "-i file:/media/-y.mp4 -map 0:V:0",
        "-map 0:a:0 -c:a aac -b:a 128000",
        "-xerror",
        "-vf scale=640:360:force_original_aspect_ratio=decrease:force_divisible_by=2,pad=640:360:(ow-iw)/2:(oh-ih)/2,setsar=1,fps=30,format=yuv420p",
        "-c:v libx264 -preset fast -crf 23 -g 60 -threads 2",
        "-movflags +faststart",
        "-f mp4 -y file:out.mp4",
    ] {
        has(&arguments, part);
    }
    assert!(!arguments.contains("concat") && !arguments.contains(",hls"));
    let video = expected.video.as_ref().unwrap();
    assert_eq!((video.width, video.height, video.fps), (640, 360, Some(30.0)));
    assert_eq!((expected.duration_secs, expected.audio[0].codec.as_str()), (Some(10.5), "aac"));
    assert!((expected.audio_lag_secs.unwrap() - 0.5).abs() < 1e-9);
    assert!((expected.frame_secs - 0.04).abs() < 1e-9);
}

#[test]
fn the_source_s_own_size_is_kept_even_and_upright() {
    let mut wish = encode(file(), Container::Mkv);
    wish.video.size = None;
    wish.video.fps = None;
    wish.audio.codec = AudioChoice::None;
    let mut source = probed();
    source.probe.video.as_mut().unwrap().rotation = Some(-90);
    let (arguments, expected) = planned(&wish, Encoder::Libx264, Some(&source));
    let video = expected.video.as_ref().unwrap();
    assert_eq!((video.width, video.height, video.fps), (1080, 1920, None));
    assert_eq!((expected.duration_secs, expected.audio.len()), (Some(10.0), 0));
    has(&arguments, "-g 50");
    has(&arguments, "-an");
}

#[test]
fn a_generated_source_has_the_shape_asked_for() {
    let (arguments, expected) =
        planned(&encode(Source::Generated { duration_secs: 2.5 }, Container::Webm), Encoder::LibvpxVp9, None);
    has(&arguments, "-i testsrc2=size=640x360:rate=30:duration=2.5");
    has(&arguments, "-crf 23 -b:v 0");
    assert_eq!(expected.duration_secs, Some(2.5));
}

#[test]
fn each_encoder_is_spoken_to_in_its_own_words() {
    let mut wish = encode(file(), Container::Mp4);
    wish.video.rate = RateControl::Bitrate { bitrate: Bitrate(2_000_000), maxrate: None, bufsize: None };
    wish.duration_secs = Some(3.0);
    let (arguments, expected) = planned(&wish, Encoder::Libx265, Some(&probed()));
    has(&arguments, "-x265-params pools=2:log-level=warning:open-gop=0 -b:v 2000000 -maxrate 3000000 -bufsize 4000000");
    has(&arguments, "-tag:v hvc1");
    has(&arguments, "-t 3");
    assert_eq!((expected.video.unwrap().bitrate, expected.duration_secs), (Some(2_000_000), Some(3.0)));
    has(&planned(&wish, Encoder::Libsvtav1, Some(&probed())).0, "-preset 9 -svtav1-params lp=2 -b:v 2000000");
    let (aom, _) = planned(&wish, Encoder::LibaomAv1, Some(&probed()));
    has(&aom, "-cpu-used 5");
    has(&aom, "-b:v 2000000 -minrate 2000000 -maxrate 2000000 -bufsize 4000000");
    has(&planned(&wish, Encoder::Libvpx, Some(&probed())).0, "-deadline good -cpu-used 3");
    let mut capped = wish.clone();
    capped.video.rate = RateControl::Crf { crf: 31, maxrate: Some(Bitrate(2_000_000)), bufsize: None };
    for encoder in [Encoder::LibvpxVp9, Encoder::LibaomAv1] {
        // They take no peak without an average.
        has(&planned(&capped, encoder, Some(&probed())).0, "-crf 31 -b:v 2000000 -maxrate 2000000 -bufsize 4000000");
    }
}

#[test]
fn devices_are_asked_in_their_encoders_own_words() {
    let mut wish = encode(file(), Container::Mkv);
    let crf = |crf| RateControl::Crf { crf, maxrate: None, bufsize: None };
    // Of CRF and preset: FFmpeg's options, and the pixels that go in.
    for (encoder, quality, preset, parts) in [
        (Encoder::H264Nvenc, 23, Some("fast"), "-preset p3 -rc vbr -cq 23 -b:v 0 -g 60 -forced-idr 1"),
        (Encoder::HevcNvenc, 0, None, "-preset p4 -rc vbr -cq 1 -b:v 0 -g 60 -forced-idr 1"),
        (Encoder::Av1Nvenc, 60, Some("p7"), "-preset p7 -rc vbr -cq 51 -b:v 0 -g 60 -forced-idr 1"),
        (Encoder::H264Qsv, 23, None, "-preset medium -global_quality 23 -g 60 -forced_idr 1"),
        (Encoder::HevcQsv, 0, Some("ultrafast"), "-preset veryfast -global_quality 1 -g 60 -forced_idr 1"),
        (Encoder::Vp9Qsv, 31, Some("placebo"), "-preset veryslow -global_quality 25 -g 60 -forced_idr 1"),
        (Encoder::Av1Qsv, 63, Some("slower"), "-preset slower -global_quality 51 -g 60 -forced_idr 1"),
        (Encoder::H264Vaapi, 23, None, "-c:v h264_vaapi -global_quality 23 -g 60 -threads 2"),
        (Encoder::HevcVaapi, 0, Some("slow"), "-c:v hevc_vaapi -global_quality 1 -g 60 -threads 2"),
        (Encoder::Vp8Vaapi, 10, None, "-c:v vp8_vaapi -rc_mode CQP -global_quality 20 -g 60 -threads 2"),
        (Encoder::Vp9Vaapi, 31, None, "-c:v vp9_vaapi -rc_mode CQP -global_quality 125 -g 60 -threads 2"),
        (Encoder::Av1Vaapi, 63, None, "-c:v av1_vaapi -rc_mode CQP -global_quality 255 -g 60 -threads 2"),
        (Encoder::H264Videotoolbox, 23, None, "-c:v h264_videotoolbox -q:v 54 -g 60 -threads 2"),
    ] {
        (wish.video.codec, wish.video.rate) = (encoder.codec(), crf(quality));
        wish.video.preset = preset.map(str::to_owned);
        let (arguments, _) = planned(&wish, encoder, Some(&probed()));
        has(&arguments, parts);
        let upload = if encoder.as_str().ends_with("_vaapi") { ",format=nv12,hwupload " } else { ",format=nv12 " };
        assert!(arguments.contains(upload), "{arguments}");
        // An average with its bounds is asked for in the same words of all.
        wish.video.rate = RateControl::Bitrate { bitrate: Bitrate(2_000_000), maxrate: None, bufsize: None };
        let (arguments, _) = planned(&wish, encoder, Some(&probed()));
        has(&arguments, "-b:v 2000000 -maxrate 3000000 -bufsize 4000000 -g 60");
        assert!(!arguments.contains("quality") && !arguments.contains("-rc"), "{arguments}");
    }
    // What a trial runs is made of the same.
    let trial = text(&trial_arguments(Encoder::Vp9Vaapi, "vaapi:129".parse().ok()));
    has(&trial, "-vaapi_device /dev/dri/renderD129");
    has(&trial, "-frames:v 1 -vf format=nv12,hwupload -c:v vp9_vaapi -rc_mode CQP -global_quality 121");
}

#[test]
fn pixels_that_are_not_square_are_made_so_before_the_fit() {
    let source = Probed { sample_aspect: (4, 3), ..probed() };
    let (arguments, _) = planned(&encode(file(), Container::Mp4), Encoder::Libx264, Some(&source));
    assert!(arguments.contains("-vf scale=trunc(iw*sar/2)*2:ih,scale=640:360:"), "{arguments}");
}

#[test]
fn a_source_without_video_has_no_plan() {
    let mut source = probed();
    source.probe.video = None;
    assert_eq!(refused(&encode(file(), Container::Mp4), &source), "the input has no video stream");
}

#[test]
fn a_start_in_the_middle_is_read_from_before_and_cut_exactly() {
    let mut wish = encode(file(), Container::Mp4);
    wish.start_secs = Some(4.0);
    has(
        &planned(&wish, Encoder::Libx264, Some(&probed())).0,
        "-ss 4 -max_muxing_queue_size 4096".replace("-max", "-movflags +faststart -max").as_str(),
    );
    let mut long = probed();
    long.probe.video.as_mut().unwrap().duration_secs = Some(100.0);
    wish.start_secs = Some(32.5);
    wish.duration_secs = Some(80.0);
    let (arguments, expected) = planned(&wish, Encoder::Libx264, Some(&long));
    has(&arguments, "-ss 22.5 -i file:/media/-y.mp4");
    has(&arguments, "-ss 10 -t 80");
    assert_eq!(expected.duration_secs, Some(67.5));
    wish.start_secs = Some(100.0);
    assert_eq!(refused(&wish, &long), "parameters.start out_of_range");
}

#[test]
fn two_passes_are_two_runs_with_the_same_picture() {
    let mut wish = encode(file(), Container::Mp4);
    wish.video.two_pass = true;
    wish.video.rate = RateControl::Bitrate { bitrate: Bitrate(1_000_000), maxrate: None, bufsize: None };
    let features = features();
    let source = probed();
    for (encoder, first, second) in [
        (Encoder::Libx264, "-pass 1 -passlogfile passes", "-pass 2 -passlogfile passes"),
        (
            Encoder::Libx265,
            "-x265-params pools=2:log-level=warning:open-gop=0:pass=1:stats=passes",
            "-x265-params pools=2:log-level=warning:open-gop=0:pass=2:stats=passes",
        ),
    ] {
        let plan = plan(&request(&wish, encoder, Some(&source), &features)).unwrap();
        assert_eq!(
            plan.steps.iter().map(|step| step.purpose).collect::<Vec<_>>(),
            [Purpose::FirstPass, Purpose::Encode]
        );
        let (one, two) = (text(&plan.steps[0].arguments), text(&plan.steps[1].arguments));
        has(&one, first);
        has(&one, "-an -sn -dn -f null -");
        has(&two, second);
    }
}

#[test]
fn loudness_is_measured_first_and_corrected_by_its_numbers() {
    let mut wish = encode(file(), Container::Mp4);
    wish.audio.loudness = Some(Loudness { lufs: -23.0, peak_dbtp: -1.0 });
    let (features, source) = (features(), probed());
    let mut request = request(&wish, Encoder::Libx264, Some(&source), &features);
    let first = plan(&request).unwrap();
    assert_eq!(first.steps[0].purpose, Purpose::Loudness);
    has(&text(&first.steps[0].arguments), "-map 0:a:0 -af loudnorm=I=-23:TP=-1:LRA=11:print_format=json -vn -sn -dn");
    let log = "[Parsed_loudnorm_0 @ 0x1] [info] \n{\n\t\"input_i\" : \"-30.50\",\n\t\"input_tp\" : \"-12.00\",\n\
               \t\"input_lra\" : \"12.30\",\n\t\"input_thresh\" : \"-40.9\",\n\t\"output_i\" : \"-23.0\",\n\
               \t\"target_offset\" : \"0.40\"\n}\n[info] bye";
    request.loudness = Measured::parse(log.lines());
    let second = plan(&request).unwrap();
    has(
        &text(second.arguments()),
        "-af loudnorm=I=-23:TP=-1:LRA=13:measured_I=-30.5:measured_TP=-12:measured_LRA=12.3:measured_thresh=-40.9:\
         offset=0.4:linear=true -ar 44100",
    );
    assert_eq!(Measured::parse("{\n\"input_i\" : \"-inf\"\n}".lines()), None);
}

#[test]
fn the_picture_is_cut_and_fitted_as_the_job_says() {
    let mut wish = encode(file(), Container::Mp4);
    wish.video.crop = Some(Crop { width: 1280, height: 536, x: 0, y: 92 });
    for (fit, filters, size) in [
        (
            Fit::Pad,
            "crop=1280:536:0:92,scale=640:360:force_original_aspect_ratio=decrease:force_divisible_by=2,pad=640:360",
            (640, 360),
        ),
        (Fit::Inside, "crop=1280:536:0:92,scale=640:268,setsar=1", (640, 268)),
        (
            Fit::Crop,
            "crop=1280:536:0:92,scale=640:360:force_original_aspect_ratio=increase:force_divisible_by=2,crop=640:360",
            (640, 360),
        ),
        (Fit::Stretch, "crop=1280:536:0:92,scale=640:360,setsar=1", (640, 360)),
    ] {
        wish.video.fit = fit;
        let (arguments, expected) = planned(&wish, Encoder::Libx264, Some(&probed()));
        assert!(arguments.contains(&format!("-vf {filters}")), "{fit}: {arguments}");
        let video = expected.video.unwrap();
        assert_eq!((video.width, video.height), size, "{fit}");
    }
    wish.video.crop = Some(Crop { width: 1280, height: 536, x: 700, y: 0 });
    assert_eq!(refused(&wish, &probed()), "parameters.crop out_of_range");
}

#[test]
fn fields_become_frames_where_the_source_has_them() {
    let mut wish = encode(file(), Container::Mp4);
    wish.video.deinterlace = Deinterlace::Auto;
    assert!(!planned(&wish, Encoder::Libx264, Some(&probed())).0.contains("bwdif"));
    let fields = Probed { is_interlaced: true, ..probed() };
    assert!(planned(&wish, Encoder::Libx264, Some(&fields)).0.contains("-vf bwdif=mode=send_frame:"));
}

#[test]
fn a_high_dynamic_range_is_kept_mapped_or_refused_and_never_lost() {
    let colors = Colors {
        primaries: Some("bt2020"),
        transfer: Some("smpte2084"),
        matrix: Some("bt2020nc"),
        mastering: Some(crate::probe::Mastering {
            points: [(0.68, 0.32), (0.265, 0.69), (0.15, 0.06), (0.3127, 0.329)],
            luminance: (0.0001, 1000.0),
        }),
        light: Some((1000, 400)),
    };
    let source = Probed { colors, ..probed() };
    let mut wish = encode(file(), Container::Mkv);
    assert!(planned(&wish, Encoder::Libx264, Some(&source)).0.contains("tonemap=tonemap=hable"));
    wish.video.pixel_format = PixelFormat::Yuv420p10le;
    let (arguments, expected) = planned(&wish, Encoder::Libx265, Some(&source));
    has(&arguments, "-color_primaries bt2020 -color_trc smpte2084 -colorspace bt2020nc");
    assert!(
        arguments.contains(
            ":hdr10=1:repeat-headers=1:master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)\
             L(10000000,1):max-cll=1000,400 "
        ),
        "{arguments}"
    );
    assert_eq!(expected.video.unwrap().colors.as_ref(), Some(&source.colors));
    let (arguments, _) = planned(&wish, Encoder::Libsvtav1, Some(&source));
    assert!(
        arguments.contains(
            "lp=2:mastering-display=G(0.26500,0.69000)B(0.15000,0.06000)R(0.68000,0.32000)WP(0.31270,0.32900)\
             L(1000.0000,0.0001):content-light=1000,400 "
        ),
        "{arguments}"
    );
    // HLG has no fixed light.
    let hlg = Probed { colors: Colors { transfer: Some("arib-std-b67"), ..source.colors.clone() }, ..source.clone() };
    assert!(!planned(&wish, Encoder::Libx265, Some(&hlg)).0.contains("hdr10"));
    // The colours alone, unless all of it is asked for.
    let (_, expected) = planned(&wish, Encoder::LibvpxVp9, Some(&source));
    let bare = Colors { mastering: None, light: None, ..source.colors.clone() };
    assert_eq!(expected.video.unwrap().colors, Some(bare.clone()));
    wish.video.hdr = Hdr::Keep;
    let all = request(&wish, Encoder::LibvpxVp9, Some(&source), &[]);
    assert!(matches!(plan(&all), Err(Refusal::Job(fault)) if fault.path == "parameters.hdr"));
    planned(&wish, Encoder::LibvpxVp9, Some(&Probed { colors: bare, ..source.clone() }));
    wish.video.hdr = Hdr::Auto;
    wish.video.pixel_format = PixelFormat::Yuv420p;
    let bare = request(&wish, Encoder::Libx264, Some(&source), &[]);
    assert!(matches!(plan(&bare), Err(Refusal::Job(fault)) if fault.path == "parameters.hdr"));
    wish.video.hdr = Hdr::Keep;
    assert_eq!(refused(&wish, &probed()), "parameters.hdr contradiction");
}

#[test]
fn a_profile_is_told_to_the_encoder_and_expected() {
    let mut wish = encode(file(), Container::Mp4);
    wish.video.profile = Some(Profile::Main);
    let (arguments, expected) = planned(&wish, Encoder::Libx264, Some(&probed()));
    has(&arguments, "-profile:v main");
    assert_eq!(expected.video.unwrap().profile, Some(Profile::Main));
}

#[test]
fn an_estimate_says_on_what_it_stands() {
    let mut wish = encode(file(), Container::Mp4);
    wish.video.rate = RateControl::Bitrate { bitrate: Bitrate(2_000_000), maxrate: None, bufsize: None };
    let (features, source) = (features(), probed());
    let request = request(&wish, Encoder::Libx264, Some(&source), &features);
    let cost = estimate::estimate(&request, &plan(&request).unwrap(), 2);
    // 10.5 s of 2 Mbit/s and 128 kbit/s.
    assert!((2_700_000..3_000_000).contains(&cost.size_bytes.unwrap()), "{cost:?}");
    assert!(cost.wall_secs.unwrap() > 0.5 && cost.memory_mb > 60 && cost.disk_mb.unwrap() >= 5, "{cost:?}");
    for what in ["time:", "size:", "memory:"] {
        assert!(cost.basis.iter().any(|line| line.starts_with(what)), "{what}");
    }
}

#[test]
fn loudness_hears_nothing_of_what_is_read_before_the_start() {
    let mut wish = encode(file(), Container::Mp4);
    wish.audio.loudness = Some(Loudness { lufs: -23.0, peak_dbtp: -1.0 });
    wish.start_secs = Some(8.0);
    wish.duration_secs = Some(1.5);
    let (features, source) = (features(), probed());
    let steps = plan(&request(&wish, Encoder::Libx264, Some(&source), &features)).unwrap().steps;
    has(&text(&steps[0].arguments), "-af atrim=start=8:end=9.5,loudnorm=I=-23:TP=-1:LRA=11:print_format=json");
    has(&text(&steps[1].arguments), "-af atrim=start=8,loudnorm=I=-23:TP=-1:LRA=11");
}

#[test]
fn the_length_is_that_of_the_streams_that_are_taken() {
    let mut source = probed();
    source.audio[0].duration_secs = Some(90.0);
    source.audio[1].duration_secs = Some(9.0);
    let secs = |streams: Streams| {
        let mut wish = encode(file(), Container::Mp4);
        wish.audio.streams = streams;
        let features = features();
        plan(&request(&wish, Encoder::Libx264, Some(&source), &features)).unwrap().expected.duration_secs
    };
    assert_eq!(secs(Streams::First), Some(90.0));
    assert_eq!(secs("1".parse().unwrap()), Some(10.0), "that of the video");
}

#[test]
fn a_source_is_measured_with_every_filter_but_the_change_of_size_and_in_pairs() {
    let mut encode = encode(file(), Container::Mp4);
    encode.start_secs = Some(12.0);
    encode.duration_secs = Some(3.0);
    encode.video.crop = Some(Crop { width: 1280, height: 400, x: 0, y: 160 });
    let probed = probed();
    let request = request(&encode, Encoder::Libx264, Some(&probed), &[]);
    let comparison = quality::Comparison::of(&request).unwrap();
    assert_eq!(comparison.size, (1280, 400));
    let metrics = [crate::encode::Metric::Vmaf, crate::encode::Metric::Psnr];
    let arguments = quality::quality_arguments(&request, &comparison, &metrics, 5, true).unwrap();
    let words: Vec<String> = arguments.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let graph = &words[words.iter().position(|word| word == "-filter_complex").unwrap() + 1];
    for part in [
        "[0:V:0]crop=640:200:(iw-640)/2:(ih-200)/2,scale=1280:400:flags=bicubic,format=yuv420p,",
        "[1:V:0]crop=1280:400:0:160,fps=30,trim=start=10:end=13,format=yuv420p,",
        "setpts=PTS-STARTPTS+0.033333/TB,split=2[r0][r1];",
        "[d0][r0]libvmaf=model=version=vmaf_v0.6.1:n_subsample=5:",
        "[d1]select=not(mod(n\\,5))[s1];[s1][r1]psnr@whole=shortest=1[o1]",
    ] {
        assert!(graph.contains(part), "{part} is not in {graph}");
    }
    assert!(words.windows(2).any(|pair| pair == ["-ss", "2"]), "{words:?}");
}

#[test]
fn scores_are_read_from_what_ffmpeg_says() {
    let log = [
        "[psnr@even @ 0x5] [info] PSNR y:24.1 u:30.0 v:30.0 average:25.1 min:23.5 max:29.0",
        "[psnr@shifted @ 0x6] [info] PSNR y:inf u:inf v:inf average:inf min:inf max:inf",
        "[psnr@whole @ 0x7] [info] PSNR y:40.1 u:41.0 v:42.0 average:40.4 min:38.5 max:45.0",
        "[ssim@whole @ 0x8] [info] SSIM Y:0.987541 (19.0) U:0.99 (20.0) V:0.99 (20.0) All:0.988000 (19.2)",
    ];
    assert!(quality::is_shifted(log.into_iter()) && !quality::is_shifted(log[..1].iter().copied()));
    let psnr = quality::psnr(log.into_iter()).unwrap();
    assert_eq!((psnr.mean, psnr.min, quality::ssim(log.into_iter())), (40.4, 38.5, Some(0.988)));
    let scores = (0..100).map(|number| format!("{number},0.5,{}.0,", 99 - number));
    let lines = ["Frame,integer_motion,vmaf,".to_owned()].into_iter().chain(scores);
    let (vmaf, frames) = quality::vmaf(lines).unwrap();
    assert_eq!((frames, vmaf.min, vmaf.p1, vmaf.p5, vmaf.mean), (100, 0.0, 1.0, 5.0, 49.5));
    assert!(vmaf.harmonic_mean < vmaf.mean);
    assert_eq!(quality::vmaf(["Frame,vmaf,".to_owned()].into_iter()), None);
}

#[test]
fn a_picture_that_begins_late_may_be_filled_up_by_the_tool() {
    let mut late = probed();
    late.start_secs = Some(1.0);
    late.streams = vec![("audio".to_owned(), "aac".to_owned()), ("video".to_owned(), "h264".to_owned())];
    late.starts = vec![Some(1.0), Some(1.5)];
    let mut wish = encode(file(), Container::Mp4);
    let mut secs = |video_end, start_secs, duration_secs| {
        (late.video_end, wish.start_secs, wish.duration_secs) = (Some(video_end), start_secs, duration_secs);
        planned(&wish, Encoder::Libx264, Some(&late)).1.video_secs.unwrap()
    };
    // Ten seconds that begin half a second after the file.
    assert_eq!(secs(11.5, None, None), [10.0, 10.5]);
    assert_eq!(secs(11.5, Some(0.25), None), [10.0, 10.25]);
    assert_eq!(secs(11.5, Some(2.0), Some(3.0)), [3.0, 3.0]);
    // The file says when the stream ends and not how long it is, or the reverse.
    assert_eq!(secs(11.0, None, None), [9.5, 10.5]);
}
