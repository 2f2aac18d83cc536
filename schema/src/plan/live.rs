//! FFmpeg's arguments for live media: one encode, and a `tee` of it to recording, playlist and sinks.
//!
//! Invariant: a sink has a queue of its own and is tried again for ever, so that one which fails neither ends nor holds up
//! the others; recording and playlist are written in step with the encoder. Addresses come from
//! [`LiveAddress`] alone, and nothing in one can be a separator of `tee`.
//! Source: FFmpeg 5.1 measured: the first two levels of escapes of a `tee` are taken off by its list and by its options;
//! without `-fps_mode vfr` a source that begins with sound gets frames that it never had.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::Path;

use super::arguments::{Arguments, READ_ONLY_FILES, file_argument};
use super::shape::Shape;
use super::streams::Chosen;
use super::{Request, filters, video};
use crate::device::Device;
use crate::encode::{
    AudioChoice, Container, Deinterlace, Encode, Encoder, Fit, Fps, Resolution, Source, Treatment, VideoCodec,
};
use crate::live::{LiveAddress, Protocol};

/// Seconds between key frames of a job that does not say.
const GOP_SECS: u32 = 2;
/// Seconds of one segment of a live playlist.
pub(super) const SEGMENT_SECS: u32 = 4;
/// Segments that a live playlist names.
pub(super) const SEGMENTS: u32 = 10;
/// How much of a source may be looked at before it is taken, in microseconds.
const ANALYZE_US: u32 = 3_000_000;
/// Packets that wait for a sink that is slow; then it loses some.
const SINK_QUEUE: u32 = 600;
/// Seconds between two tries of a sink.
const SINK_PAUSE: &str = "1";
/// The same where it is to be taken from another attempt: for so long nobody feeds it.
const HEIR_PAUSE: &str = "0.25";

/// The pieces of a recording, as the join names them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Piece<'a> {
    /// Its file, beside the list.
    pub name: &'a str,
    /// Seconds from its beginning to that of the next one.
    pub secs: f64,
}

/// One run of a live encode.
#[derive(Debug, Clone, Copy)]
pub struct LiveRequest<'a> {
    /// The encode.
    pub encode: &'a Encode,
    /// The encoder; absent where the video is copied.
    pub encoder: Option<Encoder>,
    /// The device that encodes; absent: the first of the encoder's family, or none.
    pub device: Option<Device>,
    /// Threads that each part of the tool may start.
    pub threads: u32,
    /// Where its media come from.
    pub source: LiveSource<'a>,
    /// Each sink, at the address of its host that was checked.
    pub sinks: &'a [(LiveAddress, Option<IpAddr>)],
    /// The file that this run records to.
    pub recording: Option<&'a Path>,
    /// The playlist and what its segments are called, with a `%06d`.
    pub playlist: Option<(&'a Path, &'a str)>,
    /// The presentation of DASH and what the names of its segments begin with.
    pub presentation: Option<(&'a Path, &'a str)>,
    /// Whether the playlist goes on from an earlier run.
    pub is_continued: bool,
    /// Whether there was a run before it.
    pub is_later: bool,
    /// Whether an earlier attempt may still feed the sinks, which then refuse this one for a moment.
    pub is_heir: bool,
    /// Certificates that servers over TLS are held against, instead of the system's: a file of the run's own directory.
    /// Its name is ours and becomes part of an option: letters, digits, points and dashes.
    pub ca_file: Option<&'a Path>,
    /// Seconds of silence after which the network gives up.
    pub silence_secs: u64,
    /// Seconds of output at most.
    pub secs: Option<f64>,
}

/// Where the media of a run come from.
#[derive(Debug, Clone, Copy)]
pub enum LiveSource<'a> {
    /// A live source, at the address of its host that was checked, or through a proxy at this port of the loopback.
    Live(&'a LiveAddress, Option<IpAddr>, Option<u16>),
    /// A file, read at its own speed.
    File(&'a Path),
    /// The generated picture and tone of the encode.
    Generated,
}

/// Seconds of silence after which the network gives up: after the stall, which tells more.
#[must_use]
pub fn silence_secs(stall_secs: u64) -> u64 {
    stall_secs.saturating_mul(2).max(2)
}

/// Arguments of one run.
#[must_use]
pub fn live_arguments(request: &LiveRequest<'_>) -> Vec<OsString> {
    let encode = request.encode;
    let mut arguments = Arguments::default();
    // How sinks fare is said as information.
    arguments.all(["-nostdin", "-hide_banner", "-loglevel", "level+info", "-nostats"]);
    arguments.all(["-progress", "pipe:1", "-stats_period", "0.1"]);
    for option in ["-threads", "-filter_threads", "-filter_complex_threads"] {
        arguments.pair(option, request.threads);
    }
    if let Some(encoder) = request.encoder {
        video::open_device(encoder, request.device, &mut arguments);
    }
    let audio_input = input(request, &mut arguments);
    arguments.all(["-map", "0:V:0"]);
    video_arguments(request, &mut arguments);
    sound(encode, audio_input, &mut arguments);
    arguments.all(["-sn", "-dn", "-map_metadata", "-1", "-map_chapters", "-1"]);
    if let Some(secs) = request.secs {
        arguments.pair("-t", secs);
    }
    // A tee does not ask for it, and not every container does without.
    arguments.all(["-flags", "+global_header", "-max_muxing_queue_size", "4096"]);
    arguments.pair("-fifo_options", sink_options(request.is_heir));
    arguments.all(["-f", "tee", "-y"]);
    arguments.list.push(tee(request).into());
    arguments.list
}

fn sink_options(is_heir: bool) -> String {
    let pause = if is_heir { HEIR_PAUSE } else { SINK_PAUSE };
    format!(
        "queue_size={SINK_QUEUE}:drop_pkts_on_overflow=1:attempt_recovery=1:max_recovery_attempts=0:\
         recovery_wait_time={pause}:recover_any_error=1:restart_with_keyframe=1"
    )
}

/// The source as an input. Answers which input holds the audio.
fn input(request: &LiveRequest<'_>, arguments: &mut Arguments) -> u32 {
    match request.source {
        LiveSource::Live(address, ip, proxy) => {
            live_input(request, address, ip, proxy, arguments);
            0
        }
        LiveSource::File(path) => {
            arguments.all(READ_ONLY_FILES);
            arguments.all(["-re"]);
            arguments.list.extend(["-i".into(), file_argument(path)]);
            0
        }
        LiveSource::Generated => {
            let size = request.encode.video.size.unwrap_or(Resolution { width: 1280, height: 720 });
            let rate = request.encode.video.fps.unwrap_or(Fps::whole(30));
            let secs = match request.encode.source {
                Source::Generated { duration_secs } => duration_secs,
                Source::File { .. } | Source::Remote { .. } | Source::Live { .. } => crate::scenario::GENERATED_SECS,
            };
            let picture = format!("testsrc2=size={size}:rate={rate}:duration={secs}");
            let tone = format!("sine=frequency=440:sample_rate=48000:duration={secs}");
            for generated in [picture, tone] {
                arguments.all(["-re", "-f", "lavfi"]);
                arguments.pair("-i", generated);
            }
            1
        }
    }
}

fn live_input(
    request: &LiveRequest<'_>,
    address: &LiveAddress,
    ip: Option<IpAddr>,
    proxy: Option<u16>,
    arguments: &mut Arguments,
) {
    let microseconds = request.silence_secs.saturating_mul(1_000_000);
    arguments.pair("-analyzeduration", ANALYZE_US);
    let (protocols, formats) = match address.protocol {
        Protocol::Rtmp => ("rtmp,tcp", "flv,live_flv"),
        Protocol::Rtmps => ("rtmps,rtmp,tls,tcp", "flv,live_flv"),
        Protocol::Srt => ("srt", "mpegts"),
        // The worker's proxy speaks TLS: FFmpeg would go to any host that a playlist names by its own `httpproxy`.
        Protocol::Hls | Protocol::HlsTls => ("http,tcp,crypto,data", "hls,mpegts,mov,aac"),
    };
    arguments.pair("-protocol_whitelist", protocols);
    arguments.pair("-format_whitelist", formats);
    if address.protocol == Protocol::Rtmps {
        // By itself FFmpeg takes any certificate.
        arguments.pair("-tls_verify", 1);
        if let Some(file) = request.ca_file {
            arguments.pair("-ca_file", file.display());
        }
    }
    match address.protocol {
        Protocol::Rtmp | Protocol::Rtmps => {
            // `-timeout` would have it listen.
            arguments.pair("-rw_timeout", microseconds);
            arguments.all(["-rtmp_live", "live", "-rtmp_buffer", "100"]);
            if let Some(server) = address.rtmp_server() {
                arguments.pair("-rtmp_tcurl", server);
            }
        }
        Protocol::Srt => {
            arguments.pair("-timeout", microseconds);
            arguments.all(["-f", "mpegts"]);
        }
        Protocol::Hls | Protocol::HlsTls => {
            arguments.pair("-rw_timeout", microseconds);
            if let Some(port) = proxy {
                // Wherever the playlist leads, the proxy decides whether it may be gone to.
                arguments.pair("-http_proxy", format!("http://127.0.0.1:{port}"));
            }
            if request.is_later {
                // Most of what is three segments back, where FFmpeg would begin, an earlier run has.
                arguments.pair("-live_start_index", -1);
            }
            arguments.all(["-http_persistent", "0", "-f", "hls"]);
        }
    }
    arguments.pair("-i", if address.protocol.is_web() { address.in_clear() } else { address.dialled(ip) });
}

fn video_arguments(request: &LiveRequest<'_>, arguments: &mut Arguments) {
    let wish = &request.encode.video;
    let Some(encoder) = request.encoder.filter(|_| wish.treatment == Treatment::Encode) else {
        return arguments.pair("-c:v", "copy");
    };
    let size = wish.size.unwrap_or(Resolution { width: 0, height: 0 });
    let shape = Shape {
        // Nobody has looked at the source: its pixels may be of any shape.
        sample_aspect: if wish.fit == Fit::Stretch { (1, 1) } else { (0, 1) },
        is_deinterlaced: wish.deinterlace == Deinterlace::On,
        ..Shape::plain(size.width, size.height, wish.fps)
    };
    let plain = Request {
        encode: request.encode,
        encoder: Some(encoder),
        device: request.device,
        source: None,
        output: Path::new(""),
        number: 0,
        threads: request.threads,
        features: &[],
        loudness: None,
    };
    // What could be refused here was refused with the job: subtitles to burn in.
    if let Ok(filters) = filters::filters(&plain, &shape, &Chosen::default()) {
        arguments.pair("-vf", filters);
    }
    video::video(wish, encoder, &shape, request.threads, None, arguments);
    video::choose_device(encoder, request.device, arguments);
    if wish.gop.is_none() {
        arguments.pair("-force_key_frames", format!("expr:gte(t,n_forced*{GOP_SECS})"));
    }
    arguments.all(["-fps_mode", "vfr"]);
}

fn sound(encode: &Encode, input: u32, arguments: &mut Arguments) {
    let wish = &encode.audio;
    match wish.codec {
        AudioChoice::None => return arguments.all(["-an"]),
        AudioChoice::Copy if !matches!(encode.source, Source::Generated { .. }) => {
            arguments.pair("-map", format!("{input}:a:0?"));
            return arguments.pair("-c:a", "copy");
        }
        AudioChoice::Aac | AudioChoice::Copy | AudioChoice::Opus | AudioChoice::Mp3 => {}
    }
    arguments.pair("-map", format!("{input}:a:0?"));
    arguments.all(["-c:a", "aac"]);
    arguments.pair("-b:a", wish.bitrate);
    if let Some(channels) = wish.channels {
        arguments.pair("-af", format!("aformat=channel_layouts={channels}"));
    }
    if let Some(rate) = wish.sample_rate {
        arguments.pair("-ar", rate);
    }
}

/// Everything that the encode goes to. Recording and playlist come first: they are in step.
fn tee(request: &LiveRequest<'_>) -> String {
    let mut outputs = Vec::new();
    if let Some(recording) = request.recording {
        outputs.push(format!("[f=mpegts:flush_packets=1]{}", within(recording)));
    }
    if let Some((playlist, segments)) = request.playlist {
        let flags = format!(
            "omit_endlist+temp_file+program_date_time+independent_segments+delete_segments{}",
            // It names a discontinuity too, so only where something comes before.
            if request.is_continued { "+append_list" } else { "" }
        );
        outputs.push(format!(
            "[f=hls:hls_time={SEGMENT_SECS}:hls_list_size={SEGMENTS}:hls_flags={flags}:hls_segment_filename={segments}]{}",
            within(playlist)
        ));
    }
    if let Some((presentation, stem)) = request.presentation {
        // Its window is what may be missed between two looks, not what a player is told.
        outputs.push(format!(
            "[f=dash:seg_duration={SEGMENT_SECS}:window_size={SEGMENTS}:extra_window_size={SEGMENTS}:use_template=1:\
             use_timeline=1:init_seg_name={stem}-$RepresentationID$-init.m4s:\
             media_seg_name={stem}-$RepresentationID$-$Number%06d$.m4s]{}",
            within(presentation)
        ));
    }
    for (sink, ip) in request.sinks {
        let silence = request.silence_secs.saturating_mul(1_000_000);
        let options = match sink.protocol {
            Protocol::Rtmp | Protocol::Rtmps => {
                let server = sink.rtmp_server().map(|server| format!(":rtmp_tcurl={}", escaped(&server)));
                // The header of a file that ends would be written again: a stream has none.
                let verify = match (sink.protocol, request.ca_file) {
                    (Protocol::Rtmps, Some(file)) => format!(":tls_verify=1:ca_file={}", file.display()),
                    (Protocol::Rtmps, None) => ":tls_verify=1".to_owned(),
                    (Protocol::Rtmp | Protocol::Srt | Protocol::Hls | Protocol::HlsTls, _) => String::new(),
                };
                format!(
                    "f=flv:flvflags=no_duration_filesize:rw_timeout={silence}{verify}{}",
                    server.unwrap_or_default()
                )
            }
            Protocol::Srt | Protocol::Hls | Protocol::HlsTls => format!("f=mpegts:timeout={silence}"),
        };
        outputs.push(format!("[{options}:onfail=ignore:use_fifo=1]{}", sink.dialled(*ip)));
    }
    outputs.join("|")
}

/// A file of the run's own directory. Its name is ours: letters, digits, points and dashes.
fn within(path: &Path) -> String {
    format!("file:{}", path.display())
}

/// A value among the options of one output of a `tee`: one escape for its list of outputs, one for the list of options.
fn escaped(value: &str) -> String {
    value.replace(':', "\\\\:").replace(']', "\\\\]")
}

/// The list of pieces that [`join_arguments`] reads.
#[must_use]
pub fn join_list(pieces: &[Piece<'_>]) -> String {
    let mut list = String::from("ffconcat version 1.0\n");
    for piece in pieces {
        list += &format!("file {}\nduration {:.6}\n", piece.name, piece.secs);
    }
    list
}

/// Arguments of the run that makes one recording of its pieces, each at its time.
#[must_use]
pub fn join_arguments(encode: &Encode, list: &Path, output: &Path, secs: Option<f64>) -> Vec<OsString> {
    let mut arguments = Arguments::default();
    arguments.all(["-nostdin", "-hide_banner", "-loglevel", "level+warning", "-nostats", "-progress", "pipe:1"]);
    arguments.all(["-protocol_whitelist", "file", "-format_whitelist", "concat,mpegts", "-f", "concat", "-safe", "1"]);
    arguments.list.extend(["-i".into(), file_argument(list)]);
    arguments.all(["-map", "0:V:0", "-map", "0:a:0?", "-c", "copy", "-sn", "-dn"]);
    if let Some(secs) = secs {
        arguments.pair("-t", secs);
    }
    match encode.container {
        Container::Mp4 | Container::Mov | Container::M4a => {
            arguments.pair("-movflags", "+faststart");
            if encode.video.treatment == Treatment::Encode && encode.video.codec == VideoCodec::H265 {
                arguments.pair("-tag:v", "hvc1");
            }
        }
        Container::Mkv
        | Container::Webm
        | Container::Ts
        | Container::Mp3
        | Container::Jpg
        | Container::Png
        | Container::Webp
        | Container::Vtt
        | Container::Hls
        | Container::Dash => {}
    }
    arguments.pair("-f", encode.container.muxer());
    arguments.all(["-y"]);
    arguments.list.push(file_argument(output));
    arguments.list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobSpec;
    use crate::scenario;

    fn arguments(adjust: impl FnOnce(&mut JobSpec)) -> String {
        let mut spec = JobSpec::new("720p-h264");
        spec.input = Some("rtmp://in.example/live/key".to_owned());
        adjust(&mut spec);
        let encode = scenario::resolve(&spec).unwrap_or_else(|faults| panic!("{faults:?}")).unwrap();
        let live = encode.live.clone().unwrap();
        let ip: Option<IpAddr> = "203.0.113.7".parse().ok();
        let sinks: Vec<_> = live.sinks.iter().map(|sink| (LiveAddress::parse(sink).unwrap(), ip)).collect();
        let source = spec.input.as_deref().map(|input| LiveAddress::parse(input).unwrap());
        let source = source.as_ref().map_or(LiveSource::Generated, |source| {
            LiveSource::Live(source, ip, source.protocol.is_web().then_some(4000))
        });
        let run = LiveRequest {
            encode: &encode,
            encoder: Some(Encoder::Libx264),
            device: None,
            threads: 2,
            source,
            sinks: &sinks,
            recording: live.record.then_some(Path::new("record-1.ts")),
            playlist: live.playlist.as_ref().map(|_| (Path::new("live.m3u8"), "1-1-%06d.ts")),
            presentation: live.presentation.as_ref().map(|_| (Path::new("live-1.mpd"), "job-1-1")),
            is_continued: true,
            is_later: false,
            is_heir: false,
            ca_file: None,
            silence_secs: 20,
            secs: None,
        };
        let words: Vec<String> = live_arguments(&run).iter().map(|word| word.to_string_lossy().into_owned()).collect();
        words.join(" ")
    }

    #[test]
    fn a_source_is_read_at_the_address_that_was_checked_and_by_its_own_protocol_only() {
        let rtmp = arguments(|_| {});
        assert!(
            rtmp.contains("-protocol_whitelist rtmp,tcp -format_whitelist flv,live_flv -rw_timeout 20000000"),
            "{rtmp}"
        );
        assert!(rtmp.contains("-rtmp_tcurl rtmp://in.example:1935/live -i rtmp://203.0.113.7:1935/live/key"), "{rtmp}");
        assert!(!rtmp.contains(" -timeout ") && !rtmp.contains("-xerror"), "{rtmp}");
        assert!(rtmp.ends_with("-f tee -y [f=mpegts:flush_packets=1]file:record-1.ts"), "{rtmp}");
        let hls = arguments(|spec| spec.input = Some("https://h/live.m3u8?sig=1".to_owned()));
        assert!(hls.contains("-http_proxy http://127.0.0.1:4000"), "{hls}");
        // The proxy speaks TLS for it, and the tool only HTTP: `httpproxy` would go past the proxy.
        assert!(hls.contains("-i http://h:443/live.m3u8?sig=1"), "{hls}");
        assert!(hls.contains("-protocol_whitelist http,tcp,crypto,data "), "{hls}");
    }

    #[test]
    fn each_sink_has_a_queue_and_the_others_go_on_without_it() {
        let text = arguments(|spec| {
            spec.input = None;
            spec.output = Some("rtmp://a.example/live/key1".to_owned());
            let (scenario, parameters) = (spec.scenario.clone(), crate::job::Parameters::default());
            let output = |url: &str| crate::job::ExtraOutput {
                url: url.to_owned(),
                scenario: scenario.clone(),
                parameters: parameters.clone(),
            };
            spec.outputs = vec![
                output("srt://b.example:9000?streamid=x"),
                output("/m/live.m3u8"),
                output("rtmp://[2001:db8::1]/live/key2"),
                output("rtmps://c.example/live/key3"),
            ];
        });
        let (_, tee) = text.split_once("-f tee -y ").unwrap();
        let outputs: Vec<&str> = tee.split('|').collect();
        assert_eq!(outputs.len(), 5, "{tee}");
        assert!(outputs[0].starts_with("[f=hls:") && outputs[0].contains("+append_list:"), "{tee}");
        assert_eq!(
            outputs[1],
            "[f=flv:flvflags=no_duration_filesize:rw_timeout=20000000:rtmp_tcurl=rtmp\\\\://a.example\\\\:1935/live:\
             onfail=ignore:use_fifo=1]rtmp://203.0.113.7:1935/live/key1"
        );
        assert!(
            outputs[2]
                .ends_with("use_fifo=1]srt://203.0.113.7:9000?mode=caller&transtype=live&pkt_size=1316&streamid=x")
        );
        // Only the bracket that ends the options stands bare.
        let server = "rtmp\\\\://[2001\\\\:db8\\\\:\\\\:1\\\\]\\\\:1935/live";
        assert!(outputs[3].contains(&format!(":rtmp_tcurl={server}:onfail=ignore:use_fifo=1]")), "{tee}");
        assert!(outputs[4].contains(":tls_verify=1:onfail=ignore:use_fifo=1]rtmps://c.example"), "{tee}");
        assert!(text.contains("-re -f lavfi"), "{text}");
    }

    #[test]
    fn pieces_are_joined_each_at_its_time() {
        let pieces = [Piece { name: "record-1.ts", secs: 12.5 }, Piece { name: "record-2.ts", secs: 3.25 }];
        assert_eq!(
            join_list(&pieces),
            "ffconcat version 1.0\nfile record-1.ts\nduration 12.500000\nfile record-2.ts\nduration 3.250000\n"
        );
    }
}
