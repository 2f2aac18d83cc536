//! Several outputs in one run, and renditions of presentations.

use super::*;

#[test]
fn outputs_of_one_source_are_read_once_and_two_passes_go_by_themselves() {
    let features = features();
    let source = probed();
    let mut first = encode(file(), Container::Mp4);
    first.audio.loudness = Some(Loudness { lufs: -23.0, peak_dbtp: -1.0 });
    let mut twice = first.clone();
    twice.video.two_pass = true;
    twice.video.rate = RateControl::Bitrate { bitrate: Bitrate(1_000_000), maxrate: None, bufsize: None };
    let mut late = encode(file(), Container::Mkv);
    late.start_secs = Some(30.0);
    let encodes = [&first, &twice, &late];
    let names = ["a.mp4", "b.mp4", "c.mkv"];
    let request = |number: usize| Request {
        number,
        output: Path::new(names[number]),
        ..request(encodes[number], Encoder::Libx264, Some(&source), &features)
    };
    let mut long = source.clone();
    long.probe.video.as_mut().unwrap().duration_secs = Some(60.0);
    let requests = [0, 1, 2].map(|number| Request { source: Some((Path::new("/m/in.mkv"), &long)), ..request(number) });
    let plan = together::together(&requests).unwrap();
    let steps: Vec<(Purpose, &[usize])> =
        plan.steps.iter().map(|shared| (shared.step.purpose, shared.outputs.as_slice())).collect();
    assert_eq!(
        steps,
        [
            (Purpose::Loudness, &[0, 1][..]),
            (Purpose::FirstPass, &[1]),
            (Purpose::Encode, &[1]),
            (Purpose::Encode, &[0, 2])
        ]
    );
    has(&text(&plan.steps[1].step.arguments), "-pass 1 -passlogfile passes-1");
    let shared = text(&plan.steps[3].step.arguments);
    assert_eq!(shared.matches(" -i ").count(), 1, "{shared}");
    // The earliest start of all is where reading begins.
    assert!(!shared.split(" -i ").next().unwrap().contains("-ss"), "{shared}");
    has(&shared, "-ss 30");
    assert!(
        shared.contains("-f mp4 -y file:a.mp4 -map 0:V:0") && shared.trim_end().ends_with("-f matroska -y file:c.mkv")
    );
    assert_eq!(plan.expected.len(), 3);

    // The one output of a job is made as it always was.
    let alone = together::together(&requests[..1]).unwrap();
    let steps: Vec<Step> = alone.steps.into_iter().map(|shared| shared.step).collect();
    assert_eq!(steps, super::plan(&requests[0]).unwrap().steps);
}

#[test]
fn what_cannot_be_made_is_refused_by_its_place_among_the_outputs() {
    let features = features();
    let source = probed();
    let good = encode(file(), Container::Mp4);
    let mut bad = good.clone();
    bad.video.crop = Some(Crop { width: 10_000, height: 10_000, x: 0, y: 0 });
    let requests = [&good, &bad].map(|encode| request(encode, Encoder::Libx264, Some(&source), &features));
    assert_eq!(together::together(&requests).unwrap_err().output, 1);
}

#[test]
fn a_generated_picture_is_as_large_and_fast_as_any_output_needs_it() {
    let features = features();
    let generated = || Source::Generated { duration_secs: 2.0 };
    let small = encode(generated(), Container::Mp4);
    let mut large = small.clone();
    large.video.size = Some(Resolution { width: 1920, height: 1080 });
    large.video.fps = Some(Fps::whole(60));
    let requests = [&small, &large].map(|encode| request(encode, Encoder::Libx264, None, &features));
    let plan = together::together(&requests).unwrap();
    let arguments = text(&plan.steps[0].step.arguments);
    has(&arguments, "testsrc2=size=1920x1080:rate=60:duration=2");
    assert_eq!(plan.duration_secs(), Some(2.0), "what percent and time left are counted by");
    assert_eq!(arguments.matches("-map 1:a:0").count(), 2, "{arguments}");
}

#[test]
fn renditions_have_key_frames_where_segments_begin_and_one_run_cuts_them_all() {
    use crate::encode::{Ladder, SegmentType, Segments};
    let (features, source) = (features(), probed());
    let mut wish = encode(file(), Container::Hls);
    wish.video.size = None;
    wish.segments = Some(Segments { kind: SegmentType::Fmp4, secs: 4.0 });
    wish.ladder = Some("720p:2M,360p:800k".parse::<Ladder>().unwrap());
    let made = ladder::outputs(&wish, Some(&source)).unwrap().list;
    assert_eq!(made.len(), 1);
    let files = ladder::files(&made);
    let requests: Vec<Request<'_>> =
        files.iter().map(|made| request(&made.encode, Encoder::Libx264, Some(&source), &features)).collect();
    let plan = together::together(&requests).unwrap();
    let arguments = text(&plan.steps[0].step.arguments);
    assert_eq!(arguments.matches("-force_key_frames expr:if(n_forced,gte(t+0.000001,ld(0)+n_forced*4)").count(), 2);
    assert_eq!((arguments.matches("-c:a aac").count(), arguments.matches(" -an ").count()), (1, 1), "{arguments}");

    let names = ["encode.mp4", "encode-1.mp4"].map(Path::new);
    let renditions = [0, 1].map(|place| package::Rendition {
        file: names[place],
        name: &made[0].renditions[place].name,
        has_sound: place == 0,
        size: [(1280, 720), (854, 480)][place],
    });
    let layout = package::Layout { top: Path::new("p.m3u8"), segments: "segments" };
    let cut = text(&package::package_arguments(&made[0], &renditions, layout));
    has(&cut, "-map 0:V:0 -map 1:V:0 -map 0:a:0 -c copy");
    has(&cut, "v:0,agroup:sound,name:720p v:1,agroup:sound,name:360p a:0,agroup:sound,name:audio");
    has(&cut, "-hls_segment_type fmp4");
    let dash =
        ladder::Output { encode: Encode { container: Container::Dash, ..made[0].encode.clone() }, ..made[0].clone() };
    let cut = text(&package::package_arguments(&dash, &renditions, layout));
    has(&cut, "-init_seg_name segments/init-$RepresentationID$.mp4");
    has(&cut, "-aspect:v:1 1280:720 -adaptation_sets id=0,streams=0,1 id=1,streams=a");
    let upright = renditions
        .map(|made| package::Rendition { size: if made.has_sound { (720, 1280) } else { made.size }, ..made });
    let apart = text(&package::package_arguments(&dash, &upright, layout));
    has(&apart, "-adaptation_sets id=0,streams=0 id=1,streams=1 id=2,streams=a");
    assert!(cut.trim_end().ends_with("-y file:p.m3u8"), "{cut}");
}
