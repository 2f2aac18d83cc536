//! From an encode and what its source is to FFmpeg's exact arguments and to what must come out.
//!
//! Invariant: pure; every argument is written here, a number, a name from a closed set, or a path behind `file:`. Nothing a
//! user wrote can become an option, a filter or a protocol.
//! Source: FFmpeg 5.1 and 9.0 measured: threads must be bounded before the first `-i` and for the output; without
//! `-xerror` a cut-off source ends in a short file and exit code 0.

use std::ffi::OsString;
use std::path::Path;

use ffpool_schema::encode::{
    AudioChoice, Bitrate, Container, Encode, Encoder, Fps, PixelFormat, RateControl, Resolution, Source, VideoCodec,
    VideoEncode,
};

use crate::probe::Probed;

/// Options before an input that keep its reader to plain files: no network, no playlists, no scripts that name other files.
pub const READ_ONLY_FILES: [&str; 4] = [
    "-protocol_whitelist",
    "file,crypto,data",
    "-format_whitelist",
    "mov,matroska,webm,mpegts,mpeg,mpegvideo,avi,flv,asf,ogg,mxf,gxf,nut,ivf,h264,hevc,av1,obu,m4v,dv,rm,wtv,yuv4mpegpipe,\
     gif,wav,w64,aiff,mp3,aac,ac3,eac3,flac,caf",
];

/// Options for every run: said lines carry their level, progress goes to standard output, the first error ends it.
const COMMON: [&str; 8] =
    ["-nostdin", "-hide_banner", "-loglevel", "level+warning", "-nostats", "-progress", "pipe:1", "-xerror"];

/// Rate of sources that do not tell theirs, for the distance of key frames.
const USUAL_FPS: f64 = 30.0;
/// Time between key frames where the job does not say.
const GOP_SECS: f64 = 2.0;
/// Packets that may wait for a stream that begins late.
const MUXING_QUEUE: &str = "4096";
/// VP8 has no unbounded constant quality: this is its bound.
const VP8_QUALITY_RATE: u64 = 50_000_000;

/// What to plan for.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The encode.
    pub encode: &'a Encode,
    /// The encoder, one that works here.
    pub encoder: Encoder,
    /// The source file and what is in it; absent where the source is generated.
    pub source: Option<(&'a Path, &'a Probed)>,
    /// The file to write.
    pub output: &'a Path,
    /// Threads that each part of the tool may start.
    pub threads: u32,
}

/// What to run and what must come out.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// FFmpeg's arguments.
    pub arguments: Vec<OsString>,
    /// What the output must be.
    pub expected: Expected,
}

/// What an output must be.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    /// The video codec.
    pub codec: VideoCodec,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Frames per second, where the job asks for a rate.
    pub fps: Option<f64>,
    /// FFmpeg's name of the pixel format.
    pub pixel_format: &'static str,
    /// Length in seconds, where it can be known.
    pub duration_secs: Option<f64>,
    /// The longest frame of source or output in seconds: how exact a length can be.
    pub frame_secs: f64,
    /// FFmpeg's name of the audio codec; absent: no audio.
    pub audio: Option<String>,
    /// Bits per second of the video, where the job asks for an average.
    pub bitrate: Option<u64>,
    /// The container.
    pub container: Container,
}

/// Why there is no plan: the source has nothing to encode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the input has no video stream")]
pub struct NoVideo;

/// A path as FFmpeg takes it literally: no option, no protocol, no pattern.
#[must_use]
pub fn file_argument(path: &Path) -> OsString {
    let mut argument = OsString::from("file:");
    argument.push(path);
    argument
}

/// The plan of an encode.
///
/// # Errors
/// When the source has no video.
pub fn plan(request: &Request<'_>) -> Result<Plan, NoVideo> {
    let shape = Shape::of(request)?;
    let expected = expected(request, &shape);
    let mut arguments = Arguments::default();
    arguments.all(COMMON);
    arguments.pair("-threads", request.threads);
    arguments.pair("-filter_threads", request.threads);
    arguments.pair("-filter_complex_threads", request.threads);
    if is_vaapi(request.encoder) {
        arguments.pair("-vaapi_device", "/dev/dri/renderD128");
    }
    inputs(request, &shape, &mut arguments);
    arguments.pair("-vf", filters(request, &shape));
    video(&request.encode.video, request.encoder, &shape, request.threads, &mut arguments);
    audio(request, &expected, &mut arguments);
    output(request, &mut arguments);
    Ok(Plan { arguments: arguments.list, expected })
}

/// Arguments of a full decode of a finished file, every error fatal.
#[must_use]
pub fn decode_arguments(file: &Path, threads: u32) -> Vec<OsString> {
    let mut arguments = Arguments::default();
    arguments.all(COMMON);
    arguments.pair("-threads", threads);
    arguments.pair("-filter_threads", threads);
    arguments.all(READ_ONLY_FILES);
    arguments.list.extend(["-i".into(), file_argument(file)]);
    arguments.all(["-map", "0:V:0", "-map", "0:a:0?", "-fps_mode", "passthrough", "-f", "null", "-"]);
    arguments.list
}

/// Arguments that encode one frame with an encoder and keep nothing.
#[must_use]
pub fn trial_arguments(encoder: Encoder) -> Vec<OsString> {
    let rate = RateControl::Crf { crf: 30, maxrate: None, bufsize: None };
    let trial = VideoEncode {
        codec: encoder.codec(),
        encoder: Some(encoder),
        size: None,
        fps: None,
        pixel_format: PixelFormat::Yuv420p,
        rate,
        preset: Some("ultrafast".to_owned()),
        tune: None,
        gop: None,
    };
    let shape = Shape { width: 256, height: 256, fps: None, source_fps: Some(USUAL_FPS), sample_aspect: (1, 1) };
    let mut arguments = Arguments::default();
    arguments.all(["-nostdin", "-hide_banner", "-loglevel", "error"]);
    if is_vaapi(encoder) {
        arguments.pair("-vaapi_device", "/dev/dri/renderD128");
    }
    arguments.all(["-f", "lavfi", "-i", "testsrc2=size=256x256:rate=30", "-frames:v", "1"]);
    arguments.pair("-vf", pixel_filter(encoder, PixelFormat::Yuv420p));
    video(&trial, encoder, &shape, 1, &mut arguments);
    arguments.all(["-f", "null", "-"]);
    arguments.list
}

/// The picture as it comes out.
struct Shape {
    width: u32,
    height: u32,
    /// The rate asked for.
    fps: Option<Fps>,
    source_fps: Option<f64>,
    sample_aspect: (u32, u32),
}

impl Shape {
    fn of(request: &Request<'_>) -> Result<Shape, NoVideo> {
        let wish = &request.encode.video;
        let Some((_, probed)) = request.source else {
            let size = wish.size.unwrap_or(Resolution { width: 1280, height: 720 });
            let fps = Some(wish.fps.unwrap_or(Fps::whole(30)));
            return Ok(Shape { width: size.width, height: size.height, fps, source_fps: None, sample_aspect: (1, 1) });
        };
        let source = probed.probe.video.as_ref().ok_or(NoVideo)?;
        // FFmpeg turns a rotated picture upright before it filters it.
        let is_sideways = source.rotation.is_some_and(|degrees| degrees.rem_euclid(180) == 90);
        let (width, height) = if is_sideways { (source.height, source.width) } else { (source.width, source.height) };
        let (width, height) = match wish.size {
            Some(size) => (size.width, size.height),
            None => (width & !1, height & !1),
        };
        if width == 0 || height == 0 {
            return Err(NoVideo);
        }
        Ok(Shape { width, height, fps: wish.fps, source_fps: source.fps, sample_aspect: probed.sample_aspect })
    }

    fn rate(&self) -> f64 {
        self.fps.map(Fps::as_f64).or(self.source_fps).filter(|fps| (1.0..=Fps::MAX).contains(fps)).unwrap_or(USUAL_FPS)
    }
}

fn expected(request: &Request<'_>, shape: &Shape) -> Expected {
    let encode = request.encode;
    let audio = match (encode.audio.codec, request.source) {
        (AudioChoice::None, _) => None,
        (choice, None) => Some(audio_name(choice).unwrap_or("aac").to_owned()),
        (choice, Some((_, probed))) => probed
            .probe
            .audio
            .as_ref()
            .map(|audio| audio_name(choice).map_or_else(|| audio.codec.clone(), str::to_owned)),
    };
    let source_secs = match (&encode.source, request.source) {
        (Source::Generated { duration_secs }, _) => Some(*duration_secs),
        (Source::File { .. } | Source::Remote { .. }, Some((_, probed))) => source_secs(probed, audio.is_some()),
        (Source::File { .. } | Source::Remote { .. }, None) => None,
    };
    let slowest = [shape.fps.map(Fps::as_f64), shape.source_fps].into_iter().flatten().filter(|fps| *fps > 0.0);
    Expected {
        codec: request.encoder.codec(),
        width: shape.width,
        height: shape.height,
        fps: shape.fps.map(Fps::as_f64),
        pixel_format: planar(encode.video.pixel_format).as_str(),
        duration_secs: match (source_secs, encode.duration_secs) {
            (Some(source), Some(wish)) => Some(source.min(wish)),
            (Some(source), None) => Some(source),
            (None, _) => None,
        },
        frame_secs: slowest.map(|fps| 1.0 / fps).fold(0.0, f64::max),
        audio,
        bitrate: match encode.video.rate {
            RateControl::Bitrate { bitrate, .. } => Some(bitrate.0),
            RateControl::Crf { .. } => None,
        },
        container: encode.container,
    }
}

/// Length of the streams that are taken. The file as a whole may be longer, by streams that are left out.
fn source_secs(probed: &Probed, with_audio: bool) -> Option<f64> {
    let video = probed.probe.video.as_ref().and_then(|video| video.duration_secs);
    let audio = probed.probe.audio.as_ref().filter(|_| with_audio).map(|audio| audio.duration_secs);
    match (video, audio) {
        (Some(video), None) => Some(video),
        (Some(video), Some(Some(audio))) => Some(video.max(audio)),
        (_, _) => probed.probe.duration_secs,
    }
}

fn audio_name(choice: AudioChoice) -> Option<&'static str> {
    match choice {
        AudioChoice::Aac => Some("aac"),
        AudioChoice::Opus => Some("opus"),
        AudioChoice::Mp3 => Some("mp3"),
        AudioChoice::Copy | AudioChoice::None => None,
    }
}

fn inputs(request: &Request<'_>, shape: &Shape, arguments: &mut Arguments) {
    match request.source {
        Some((path, _)) => {
            arguments.all(READ_ONLY_FILES);
            arguments.list.extend(["-i".into(), file_argument(path)]);
            arguments.all(["-map", "0:V:0", "-map", "0:a:0?", "-map_metadata", "0", "-sn", "-dn"]);
        }
        None => {
            let rate = shape.fps.unwrap_or(Fps::whole(30));
            let secs = match request.encode.source {
                Source::Generated { duration_secs } => duration_secs,
                Source::File { .. } | Source::Remote { .. } => 0.0,
            };
            arguments.pair("-f", "lavfi");
            arguments.pair("-i", format!("testsrc2=size={}x{}:rate={rate}:duration={secs}", shape.width, shape.height));
            arguments.pair("-f", "lavfi");
            arguments.pair("-i", format!("sine=frequency=440:sample_rate=48000:duration={secs}"));
            arguments.all(["-map", "0:V:0", "-map", "1:a:0"]);
        }
    }
}

fn filters(request: &Request<'_>, shape: &Shape) -> String {
    let (width, height) = (shape.width, shape.height);
    let mut filters = Vec::new();
    if request.encode.video.size.is_some() {
        if shape.sample_aspect != (1, 1) {
            // Square pixels first: the fit below looks at pixels only.
            filters.push("scale=trunc(iw*sar/2)*2:ih".to_owned());
        }
        filters.push(format!("scale={width}:{height}:force_original_aspect_ratio=decrease:force_divisible_by=2"));
        filters.push(format!("pad={width}:{height}:(ow-iw)/2:(oh-ih)/2"));
        filters.push("setsar=1".to_owned());
    } else {
        filters.push("scale=trunc(iw/2)*2:trunc(ih/2)*2".to_owned());
    }
    if let Some(fps) = shape.fps {
        filters.push(format!("fps={fps}"));
    }
    filters.push(pixel_filter(request.encoder, request.encode.video.pixel_format));
    filters.join(",")
}

fn pixel_filter(encoder: Encoder, format: PixelFormat) -> String {
    if !encoder.is_hardware() {
        return format!("format={}", planar(format));
    }
    let format = if format == PixelFormat::Yuv420p { "nv12" } else { "p010le" };
    if is_vaapi(encoder) { format!("format={format},hwupload") } else { format!("format={format}") }
}

/// What decoders give back: the interleaved formats exist only on the way into hardware.
fn planar(format: PixelFormat) -> PixelFormat {
    match format {
        PixelFormat::P010le => PixelFormat::Yuv420p10le,
        PixelFormat::Yuv420p
        | PixelFormat::Yuv422p
        | PixelFormat::Yuv444p
        | PixelFormat::Yuv420p10le
        | PixelFormat::Yuv422p10le
        | PixelFormat::Yuv444p10le => format,
    }
}

fn is_vaapi(encoder: Encoder) -> bool {
    matches!(encoder, Encoder::H264Vaapi | Encoder::HevcVaapi | Encoder::Av1Vaapi)
}

fn video(video: &VideoEncode, encoder: Encoder, shape: &Shape, threads: u32, arguments: &mut Arguments) {
    arguments.pair("-c:v", encoder);
    speed(video, encoder, threads, arguments);
    rate(video.rate, encoder, arguments);
    let gop = video.gop.unwrap_or_else(|| (shape.rate() * GOP_SECS).round().max(1.0) as u32);
    arguments.pair("-g", gop);
    arguments.pair("-threads", threads);
}

fn speed(video: &VideoEncode, encoder: Encoder, threads: u32, arguments: &mut Arguments) {
    let preset = video.preset.as_deref();
    match encoder {
        Encoder::Libx264 | Encoder::Libx265 => {
            arguments.pair("-preset", preset.unwrap_or("medium"));
            if let Some(tune) = &video.tune {
                arguments.pair("-tune", tune);
            }
            if encoder == Encoder::Libx265 {
                // Its own pool of threads knows nothing of ours.
                arguments.pair("-x265-params", format!("pools={threads}:log-level=warning"));
            }
        }
        Encoder::Libvpx | Encoder::LibvpxVp9 => {
            arguments.pair("-deadline", if preset == Some("ultrafast") { "realtime" } else { "good" });
            arguments.pair("-cpu-used", vpx_speed(preset));
            if encoder == Encoder::LibvpxVp9 {
                arguments.pair("-row-mt", 1);
            }
        }
        Encoder::Libsvtav1 => {
            arguments.pair("-preset", svt_preset(preset));
            arguments.pair("-svtav1-params", format!("lp={threads}"));
        }
        Encoder::LibaomAv1 => {
            arguments.pair("-cpu-used", aom_speed(preset));
            arguments.pair("-row-mt", 1);
        }
        Encoder::H264Nvenc | Encoder::HevcNvenc | Encoder::Av1Nvenc => {
            arguments.pair("-preset", nvenc_preset(preset));
        }
        Encoder::H264Qsv | Encoder::HevcQsv | Encoder::Av1Qsv => {
            let named = preset.filter(|name| *name != "ultrafast" && *name != "superfast" && *name != "placebo");
            arguments.pair("-preset", named.unwrap_or(if preset == Some("placebo") { "veryslow" } else { "veryfast" }));
        }
        Encoder::H264Vaapi
        | Encoder::HevcVaapi
        | Encoder::Av1Vaapi
        | Encoder::H264Videotoolbox
        | Encoder::HevcVideotoolbox => {}
    }
}

fn vpx_speed(preset: Option<&str>) -> u8 {
    match preset {
        Some("placebo" | "veryslow") => 0,
        Some("slower" | "slow") => 1,
        Some("fast") => 3,
        Some("faster") => 4,
        Some("veryfast" | "superfast") => 5,
        Some("ultrafast") => 8,
        Some(_) | None => 2,
    }
}

fn svt_preset(preset: Option<&str>) -> u8 {
    match preset {
        Some("placebo") => 1,
        Some("veryslow") => 3,
        Some("slower") => 4,
        Some("slow") => 6,
        Some("fast") => 9,
        Some("faster") => 10,
        Some("veryfast") => 11,
        Some("superfast" | "ultrafast") => 12,
        Some(_) | None => 8,
    }
}

fn aom_speed(preset: Option<&str>) -> u8 {
    match preset {
        Some("placebo") => 0,
        Some("veryslow") => 1,
        Some("slower") => 2,
        Some("slow") => 3,
        Some("fast") => 5,
        Some("faster" | "veryfast") => 6,
        Some("superfast" | "ultrafast") => 8,
        Some(_) | None => 4,
    }
}

fn nvenc_preset(preset: Option<&str>) -> &str {
    match preset {
        Some("ultrafast" | "superfast") => "p1",
        Some("veryfast") => "p2",
        Some("faster" | "fast") => "p3",
        Some("slow") => "p5",
        Some("slower") => "p6",
        Some("veryslow" | "placebo") => "p7",
        Some(own @ ("p1" | "p2" | "p3" | "p4" | "p5" | "p6" | "p7")) => own,
        Some(_) | None => "p4",
    }
}

fn rate(rate: RateControl, encoder: Encoder, arguments: &mut Arguments) {
    match rate {
        RateControl::Bitrate { bitrate, maxrate, bufsize } => {
            arguments.pair("-b:v", bitrate);
            // It keeps to the average by itself, and its older versions know no peak.
            if encoder == Encoder::Libsvtav1 {
                return;
            }
            // Measured: these two stay up to 30 % under an average with room above it, and meet a constant rate.
            let is_lazy = matches!(encoder, Encoder::LibvpxVp9 | Encoder::LibaomAv1);
            let peak = match maxrate {
                Some(maxrate) => maxrate.0.max(bitrate.0),
                None if is_lazy => bitrate.0,
                None => bitrate.0 * 3 / 2,
            };
            if is_lazy && peak == bitrate.0 {
                arguments.pair("-minrate", bitrate);
            }
            arguments.pair("-maxrate", peak);
            arguments.pair("-bufsize", bufsize.unwrap_or(Bitrate(bitrate.0 * 2)));
        }
        RateControl::Crf { crf, maxrate, bufsize } => {
            quality(crf, maxrate, encoder, arguments);
            if let Some(maxrate) = maxrate {
                arguments.pair("-maxrate", maxrate);
                arguments.pair("-bufsize", bufsize.unwrap_or(Bitrate(maxrate.0 * 2)));
            }
        }
    }
}

fn quality(crf: u8, maxrate: Option<Bitrate>, encoder: Encoder, arguments: &mut Arguments) {
    match encoder {
        Encoder::Libx264 | Encoder::Libx265 | Encoder::Libsvtav1 => arguments.pair("-crf", crf),
        Encoder::LibvpxVp9 | Encoder::LibaomAv1 => {
            arguments.pair("-crf", crf);
            arguments.pair("-b:v", 0);
        }
        Encoder::Libvpx => {
            // 4 is its best.
            arguments.pair("-crf", crf.max(4));
            arguments.pair("-b:v", maxrate.map_or(VP8_QUALITY_RATE, |maxrate| maxrate.0));
        }
        Encoder::H264Nvenc | Encoder::HevcNvenc | Encoder::Av1Nvenc => {
            arguments.pair("-rc", "vbr");
            arguments.pair("-cq", crf);
            arguments.pair("-b:v", 0);
        }
        Encoder::H264Qsv
        | Encoder::HevcQsv
        | Encoder::Av1Qsv
        | Encoder::H264Vaapi
        | Encoder::HevcVaapi
        | Encoder::Av1Vaapi => {
            arguments.pair("-global_quality", crf.max(1));
        }
        Encoder::H264Videotoolbox | Encoder::HevcVideotoolbox => {
            // Its scale runs the other way, from 1 to 100.
            arguments.pair("-q:v", (100 - u32::from(crf.min(51)) * 2).max(1));
        }
    }
}

fn audio(request: &Request<'_>, expected: &Expected, arguments: &mut Arguments) {
    if expected.audio.is_none() {
        arguments.all(["-an"]);
        return;
    }
    let encoder = match request.encode.audio.codec {
        AudioChoice::Aac => "aac",
        AudioChoice::Opus => "libopus",
        AudioChoice::Mp3 => "libmp3lame",
        // A generated tone is raw sound: a copy of it is an encode.
        AudioChoice::Copy if request.source.is_none() => "aac",
        AudioChoice::Copy | AudioChoice::None => {
            arguments.pair("-c:a", "copy");
            return;
        }
    };
    arguments.pair("-c:a", encoder);
    arguments.pair("-b:a", request.encode.audio.bitrate);
    match encoder {
        // It takes few channel layouts and one rate.
        "libopus" => {
            arguments.pair("-af", "aformat=channel_layouts=7.1|5.1|stereo|mono");
            arguments.pair("-ar", 48_000);
        }
        "libmp3lame" => arguments.pair("-ac", 2),
        _ => {}
    }
}

fn output(request: &Request<'_>, arguments: &mut Arguments) {
    let encode = request.encode;
    if let (Some(secs), Source::File { .. } | Source::Remote { .. }) = (encode.duration_secs, &encode.source) {
        arguments.pair("-t", secs);
    }
    match encode.container {
        Container::Mp4 | Container::Mov => {
            arguments.pair("-movflags", "+faststart");
            if request.encoder.codec() == VideoCodec::H265 {
                arguments.pair("-tag:v", "hvc1");
            }
        }
        Container::Mkv | Container::Webm | Container::Ts => {}
    }
    arguments.pair("-max_muxing_queue_size", MUXING_QUEUE);
    arguments.pair("-f", encode.container.muxer());
    arguments.all(["-y"]);
    arguments.list.push(file_argument(request.output));
}

#[derive(Default)]
struct Arguments {
    list: Vec<OsString>,
}

impl Arguments {
    fn all<const N: usize>(&mut self, arguments: [&str; N]) {
        self.list.extend(arguments.map(OsString::from));
    }

    fn pair(&mut self, option: &str, value: impl std::fmt::Display) {
        self.list.extend([option.into(), value.to_string().into()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ffpool_schema::encode::AudioEncode;
    use ffpool_schema::message::{AudioProbe, Probe, VideoProbe};

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
            },
            audio: AudioEncode { codec: AudioChoice::Aac, bitrate: Bitrate(128_000) },
            duration_secs: None,
        }
    }

    fn file() -> Source {
        Source::File { path: "/media/-y.mp4".to_owned() }
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
                audio: Some(AudioProbe { codec: "ac3".to_owned(), duration_secs: Some(10.5), ..AudioProbe::default() }),
                ..Probe::default()
            },
            sample_aspect: (1, 1),
            ..Probed::default()
        }
    }

    fn planned(encode: &Encode, encoder: Encoder, probed: Option<&Probed>) -> (String, Expected) {
        let request = Request {
            encode,
            encoder,
            source: probed.map(|probed| (Path::new("/media/-y.mp4"), probed)),
            output: Path::new("out.mp4"),
            threads: 2,
        };
        let plan = plan(&request).unwrap();
        let text: Vec<String> = plan.arguments.iter().map(|argument| argument.to_str().unwrap().to_owned()).collect();
        (format!(" {} ", text.join(" ")), plan.expected)
    }

    fn has(arguments: &str, part: &str) {
        assert!(arguments.contains(&format!(" {part} ")), "{part} is not in {arguments}");
    }

    #[test]
    fn a_file_is_read_with_its_hands_tied_and_written_as_asked() {
        let (arguments, expected) = planned(&encode(file(), Container::Mp4), Encoder::Libx264, Some(&probed()));
        for part in [
            "-threads 2 -filter_threads 2 -filter_complex_threads 2 -protocol_whitelist file,crypto,data",
            "-i file:/media/-y.mp4 -map 0:V:0 -map 0:a:0?",
            "-xerror",
            "-vf scale=640:360:force_original_aspect_ratio=decrease:force_divisible_by=2,pad=640:360:(ow-iw)/2:(oh-ih)/2,setsar=1,fps=30,format=yuv420p",
            "-c:v libx264 -preset fast -crf 23 -g 60 -threads 2",
            "-c:a aac -b:a 128000",
            "-movflags +faststart",
            "-f mp4 -y file:out.mp4",
        ] {
            has(&arguments, part);
        }
        assert!(!arguments.contains("concat") && !arguments.contains(",hls"));
        assert_eq!((expected.width, expected.height, expected.fps), (640, 360, Some(30.0)));
        assert_eq!((expected.duration_secs, expected.audio.as_deref()), (Some(10.5), Some("aac")));
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
        assert_eq!((expected.width, expected.height, expected.fps), (1080, 1920, None));
        assert_eq!((expected.duration_secs, expected.audio), (Some(10.0), None));
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
        has(&arguments, "-x265-params pools=2:log-level=warning -b:v 2000000 -maxrate 3000000 -bufsize 4000000");
        has(&arguments, "-tag:v hvc1");
        has(&arguments, "-t 3");
        assert_eq!((expected.bitrate, expected.duration_secs), (Some(2_000_000), Some(3.0)));
        has(&planned(&wish, Encoder::Libsvtav1, Some(&probed())).0, "-preset 9 -svtav1-params lp=2 -b:v 2000000");
        let (aom, _) = planned(&wish, Encoder::LibaomAv1, Some(&probed()));
        has(&aom, "-cpu-used 5");
        has(&aom, "-b:v 2000000 -minrate 2000000 -maxrate 2000000 -bufsize 4000000");
        has(&planned(&wish, Encoder::Libvpx, Some(&probed())).0, "-deadline good -cpu-used 3");
        has(&planned(&wish, Encoder::H264Nvenc, Some(&probed())).0, "-preset p3");
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
        let encode = encode(file(), Container::Mp4);
        let request = Request {
            encode: &encode,
            encoder: Encoder::Libx264,
            source: Some((Path::new("/a"), &source)),
            output: Path::new("o"),
            threads: 1,
        };
        assert_eq!(plan(&request), Err(NoVideo));
    }
}
