//! Hostile inputs, made here: each is refused or contained with its cause, and beside it stands what FFmpeg alone does with it.
//!
//! What FFmpeg alone does is printed and not judged, but for one piece: it differs from version to version. `docs/sandbox.md` shows
//! one run. Jobs over the network, tools that were turned against us and names like options have tests of their own, beside this.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ffpool_schema::failure::Cause;
use ffpool_schema::job::Queue;
use ffpool_schema::parse::{Received, parse};
use ffpool_schema::scenario;
use ffpool_worker::bounds::Bounds;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::os::unix::process::CommandExt as _;

use super::bench::{Bench, failure, ffmpeg, manifest, stand_in};
use crate::store::web::{Answer, Asked, Web};

/// For FFmpeg alone on one piece. Some it would never end.
const BARE: Duration = Duration::from_secs(3);
/// For one that it does end.
const BARE_WHOLE: Duration = Duration::from_secs(60);

/// A file of the corpus, and how a job with it ends.
struct Piece {
    name: &'static str,
    cause: Cause,
}

const fn piece(name: &'static str, cause: Cause) -> Piece {
    Piece { name, cause }
}

/// Files that name other files, addresses or scripts.
const NAMING: [Piece; 10] = [
    piece("passwd.m3u8", Cause::InputBad),
    piece("neighbour.m3u8", Cause::InputBad),
    piece("loopback.m3u8", Cause::InputBad),
    piece("metadata.m3u8", Cause::InputBad),
    piece("concat.mp4", Cause::InputBad),
    piece("absolute-concat.mp4", Cause::InputBad),
    piece("presentation.mpd", Cause::InputBad),
    piece("picture.svg", Cause::InputBad),
    piece("picture-%d.png", Cause::InputBad),
    piece("drawtext=textfile=,movie=neighbour.mp4.txt", Cause::InputBad),
];

fn playlist(target: &str) -> String {
    format!("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n")
}

/// Writes the files that name others; `canary` listens on this machine.
fn write_naming(bench: &Bench, canary: u16) {
    bench.clip("neighbour.mp4", &[]);
    let neighbour = bench.clip("neighbour.ts", &["-f", "mpegts"]);
    let mpd = format!(
        r#"<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT2S"><Period><AdaptationSet
        mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>http://127.0.0.1:{canary}/dash.mp4</BaseURL>
        <SegmentBase/></Representation></AdaptationSet></Period></MPD>"#
    );
    let svg = r#"<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="64" height="64">
        <image xlink:href="file:///etc/passwd" width="64" height="64"/></svg>"#;
    for (name, text) in [
        ("passwd.m3u8", playlist("file:///etc/passwd")),
        ("neighbour.m3u8", playlist(&format!("file://{neighbour}"))),
        ("loopback.m3u8", playlist(&format!("http://127.0.0.1:{canary}/segment.ts"))),
        ("metadata.m3u8", playlist("http://169.254.169.254/latest/meta-data.ts")),
        ("concat.mp4", "ffconcat version 1.0\nfile neighbour.mp4\n".to_owned()),
        ("absolute-concat.mp4", format!("ffconcat version 1.0\nfile '{neighbour}'\n")),
        ("presentation.mpd", mpd),
        ("picture.svg", svg.to_owned()),
        ("picture-%d.png", "no picture: the pattern means those beside it".to_owned()),
        ("drawtext=textfile=,movie=neighbour.mp4.txt", "words\n".repeat(100)),
    ] {
        std::fs::write(bench.media(name), text).unwrap();
    }
    ffmpeg(&[
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=64x64",
        "-frames:v",
        "1",
        &bench.media("picture-1.png").display().to_string(),
    ]);
}

/// A file of MP4 with so many tracks, which have nothing but a header each.
fn tracks(path: &Path, count: u32) {
    let atom = |kind: &[u8; 4], body: &[u8]| {
        let size = u32::try_from(body.len() + 8).unwrap();
        [&size.to_be_bytes()[..], kind, body].concat()
    };
    let track = atom(b"trak", &atom(b"tkhd", &[0; 84]));
    let movie = [atom(b"mvhd", &[0; 100]), track.repeat(count as usize)].concat();
    std::fs::write(path, [atom(b"ftyp", b"isom\0\0\0\0isom"), atom(b"moov", &movie)].concat()).unwrap();
}

/// A file of YUV4MPEG with one frame of so many pixels in each direction, all of which a file system keeps for nothing.
fn huge_frame(path: &Path, side: u64) {
    let mut file = std::fs::File::create(path).unwrap();
    let head = format!("YUV4MPEG2 W{side} H{side} F25:1 Ip A1:1 C420jpeg\nFRAME\n");
    file.write_all(head.as_bytes()).unwrap();
    file.set_len(head.len() as u64 + side * side * 3 / 2).unwrap();
}

/// What FFmpeg alone makes of an address: a frame of it, so much memory, or neither within the bound.
fn bare(address: &str, limit: Duration) -> String {
    let began = Instant::now();
    let mut command = Command::new("ffmpeg");
    command.args([
        "-nostdin",
        "-hide_banner",
        "-loglevel",
        "error",
        "-rw_timeout",
        "1000000",
        "-progress",
        "pipe:1",
        "-i",
    ]);
    command.arg(address).args(["-map", "0:v:0", "-frames:v", "1", "-f", "null", "-"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    let child = command.spawn().unwrap();
    let pid = Pid::from_raw(child.id().cast_signed());
    let mut peak_kib = 0;
    let is_over = loop {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let peak =
            status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        peak_kib = peak_kib.max(peak.unwrap_or(0_u64));
        // One that has ended has no memory any more.
        if status.contains("\nState:\tZ") {
            break true;
        }
        if began.elapsed() > limit {
            let _ = killpg(pid, Signal::SIGKILL);
            break false;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let frames = told.lines().filter_map(|line| line.strip_prefix("frame=")?.trim().parse::<u32>().ok()).max();
    let mut said = match (is_over, frames.unwrap_or(0)) {
        (false, _) => "does not end".to_owned(),
        (true, 0) => "refuses".to_owned(),
        (true, _) => "reads it".to_owned(),
    };
    if peak_kib > 200 * 1024 {
        write!(said, ", takes {} MiB", peak_kib / 1024).unwrap();
    }
    said
}

async fn cause(bench: &Bench, name: &str) -> (Cause, String) {
    let mut spec = bench.spec("240p25-h264");
    spec.input = Some(bench.media(name).display().to_string());
    spec.output = Some(bench.media("never.mp4").display().to_string());
    let ended = bench.run_spec(&spec).await;
    let failure = failure(&ended).clone();
    (failure.cause, format!("{failure:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_names_others_is_a_bad_input_and_ffmpeg_alone_follows_it() {
    let canary = Web::start(|_| Answer::new("200 OK", &[], b"a secret of this machine")).await;
    let bench = Bench::open().await;
    write_naming(&bench, canary.address.port());
    for Piece { name, cause: expected } in NAMING {
        let (found, told) = cause(&bench, name).await;
        assert_eq!(found, expected, "{name}: {told}");
    }
    assert_eq!(canary.times(), 0, "the tool reached this machine");
    assert!(!bench.media("never.mp4").exists());
    bench.assert_clean();

    let mut table = String::new();
    // Not at the address of a real machine's metadata.
    for Piece { name, .. } in NAMING.iter().filter(|piece| piece.name != "metadata.m3u8") {
        let before = canary.times();
        let limit = if *name == "concat.mp4" { BARE_WHOLE } else { BARE };
        let mut alone = bare(&bench.media(name).display().to_string(), limit);
        if canary.times() > before {
            alone += ", asks a server of this machine";
        }
        writeln!(table, "{name}: {alone}").unwrap();
    }
    println!("FFmpeg alone:\n{table}");
    assert!(table.lines().any(|line| line.starts_with("concat.mp4: reads it")), "the corpus has no teeth:\n{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_meets_the_bound_it_was_made_for() {
    let bench = Bench::with(|settings, _| {
        let bounds = Bounds { max_duration_secs: 60, max_output_mb: Some(1), max_open_files: 64, ..Bounds::default() };
        settings.bounds = bounds;
    })
    .await;
    tracks(&bench.media("streams.mp4"), 100_000);
    tracks(&bench.media("201-streams.mp4"), 201);
    huge_frame(&bench.media("16384.y4m"), 16_384);
    // The largest that FFmpeg itself takes.
    huge_frame(&bench.media("16000.y4m"), 16_000);
    let long = ["-t", "0.2", "-f", "matroska"];
    bench.clip("long.mkv", &long);
    // What its header claims is believed before anything is decoded.
    let path = bench.media("long.mkv");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(3).position(|window| window == [0x44, 0x89, 0x88]).expect("a segment has a duration");
    bytes[at + 3..at + 11].copy_from_slice(&1e12_f64.to_be_bytes());
    std::fs::write(&path, bytes).unwrap();
    for (name, expected) in [
        ("streams.mp4", Cause::InputStreams),
        ("201-streams.mp4", Cause::InputStreams),
        ("16384.y4m", Cause::InputPixels),
        ("16000.y4m", Cause::InputPixels),
        ("long.mkv", Cause::InputTooLong),
    ] {
        let (found, told) = cause(&bench, name).await;
        assert_eq!(found, expected, "{name}: {told}");
        println!("{name}: alone {}", bare(&bench.media(name).display().to_string(), BARE));
    }

    let mut spec = bench.spec("720p30-h264");
    spec.parameters.crf = Some(0);
    spec.parameters.duration = Some(600.0);
    let ended = bench.run_spec(&spec).await;
    assert_eq!(failure(&ended).cause, Cause::OutputTooLarge, "{:?}", failure(&ended));
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_that_grows_while_it_is_read_and_files_without_end_meet_their_bounds() {
    let bench = Bench::with(|settings, dir| {
        settings.bounds = Bounds { max_pixels: 400 * 300, max_open_files: 64, ..Bounds::default() };
        let open = "exec bash -c 'while exec {file}<.; do :; done; exit 1'";
        let greedy = format!("case \"$*\" in *greedy*) {open} ;; *) exec ffmpeg \"$@\" ;; esac");
        settings.ffmpeg = stand_in(dir, &greedy);
    })
    .await;
    let small = bench.clip("small.h264", &["-an", "-f", "h264"]);
    let large = bench.clip("large.h264", &["-an", "-vf", "scale=1280:720", "-f", "h264"]);
    let both = [std::fs::read(small).unwrap(), std::fs::read(large).unwrap()].concat();
    std::fs::write(bench.media("grows.h264"), both).unwrap();
    let (found, told) = cause(&bench, "grows.h264").await;
    assert_eq!(found, Cause::InputPixels, "{told}");
    bench.clip("greedy.mp4", &[]);
    let (found, told) = cause(&bench, "greedy.mp4").await;
    assert_eq!(found, Cause::OpenFiles, "{told}");
    bench.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn playlists_without_end_meet_their_bound() {
    // Each is a master that leads to the next one, but for one that never ends.
    let web = Web::start(|asked: &Asked| {
        let deeper = |name: u32| format!("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n/{name}.m3u8?t=1\n");
        let body = match asked.path.trim_matches('/').split_once('.').and_then(|(name, _)| name.parse::<u32>().ok()) {
            Some(number) => deeper(number + 1).into_bytes(),
            None => [b"#EXTM3U\n".to_vec(), vec![b'#'; 5 << 20]].concat(),
        };
        Answer::new("200 OK", &[("content-type", "application/vnd.apple.mpegurl")], &body)
    })
    .await;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let bench = Bench::with(|settings, _| {
        settings.stores.fetch_allow = vec!["127.0.0.1".parse().unwrap()];
        settings.bounds = Bounds { max_playlists: 20, ..Bounds::default() };
    })
    .await;
    let mut spec = bench.spec("custom-input");
    spec.queue = Queue::Live;
    spec.output = Some(bench.media("never.mp4").display().to_string());
    spec.parameters.reconnect_sec = Some(1);
    for (path, most) in [("/0.m3u8", 22), ("/endless.m3u8", 8)] {
        let before = web.times();
        spec.input = Some(web.url(path));
        let ended = bench.run_spec(&spec).await;
        assert_eq!(failure(&ended).cause, Cause::InputPlaylists, "{path}: {:?}", failure(&ended));
        assert!(web.times() - before <= most, "{path}: {} requests", web.times() - before);
        let before = web.times();
        println!("{path}: alone {}, {} requests", bare(&web.url(path), BARE), web.times() - before);
    }
    bench.assert_clean();
}

#[test]
fn words_of_a_filter_or_an_option_are_no_values_of_a_job() {
    for (field, value) in [
        ("codec", "libx264 -vf movie=/etc/passwd"),
        ("preset", "fast,drawtext=textfile=/etc/passwd"),
        ("resolution", "1280x720,movie=/etc/passwd"),
        ("pixel_format", "yuv420p -f tee"),
        ("bitrate", "1M -i /etc/passwd"),
        ("filters", "movie=/etc/passwd"),
        ("vf", "drawtext=textfile=/etc/passwd"),
        ("extra_args", "-y /etc/passwd"),
        ("audio_codec", "aac -attach /etc/passwd"),
        ("profile", "-/filter_complex /etc/passwd"),
    ] {
        let body = serde_json::json!({"scenario": "720p30-h264", "parameters": {field: value}}).to_string();
        let job = parse(&Received { body: body.as_bytes(), ..Received::default() });
        let resolved = job.and_then(|spec| scenario::resolve(&spec));
        assert!(resolved.is_err(), "{field}: {value}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_made_of_words_of_filters_and_options_is_only_a_name() {
    let bench = Bench::open().await;
    let hostile = bench.media("-i [v]';movie=neighbour.mp4,drawtext=textfile=passwd:x=%{e}.mkv");
    let clip = bench.clip("plain.mp4", &[]);
    std::fs::write(bench.media("words.srt"), "1\n00:00:00,000 --> 00:00:01,000\nwords\n").unwrap();
    let words = bench.media("words.srt").display().to_string();
    let target = format!("file:{}", hostile.display());
    ffmpeg(&[
        "-i", &clip, "-i", &words, "-map", "0", "-map", "1", "-c:v", "copy", "-c:a", "copy", "-f", "matroska", &target,
    ]);
    symlink("/etc/passwd", bench.media("neighbour.mp4")).unwrap();
    let mut spec = bench.spec("240p25-h264");
    spec.input = Some(hostile.display().to_string());
    spec.output = Some(bench.media("out.mp4").display().to_string());
    // The filter that burns subtitles in is the only one that is given a file.
    spec.parameters.subtitles = Some(serde_json::from_str("\"burn\"").unwrap());
    manifest(&bench.run_spec(&spec).await);
    bench.assert_clean();
}
