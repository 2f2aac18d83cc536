//! Which streams are taken, from where, and into which container.
//!
//! Invariant: a stream that is chosen by number exists, and whatever is copied goes into the container; otherwise there is
//! no plan.

use std::ffi::OsString;

use super::arguments::{Arguments, READ_ONLY_FILES, file_argument};
use super::shape::Shape;
use super::{PREROLL_SECS, Refusal, Request, SUBTITLES_FILE, head, trim};
use crate::encode::{AudioChoice, Container, Fps, Keep, Source, Streams, SubtitleMode, Treatment, VideoCodec};
use crate::probe::Probed;
use crate::scenario::containers::{is_text, takes_audio, takes_subtitles, takes_video, text_subtitles};

/// Packets that may wait for a stream that begins late.
const MUXING_QUEUE: &str = "4096";

/// Numbers of the streams that are taken, each among its kind.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    pub(super) audio: Vec<usize>,
    pub(super) subtitles: Vec<usize>,
}

impl Chosen {
    pub(super) fn of(request: &Request<'_>) -> Result<Chosen, Refusal> {
        let encode = request.encode;
        let Some((_, probed)) = request.source else {
            let audio = if encode.audio.codec == AudioChoice::None { Vec::new() } else { vec![0] };
            return Ok(Chosen { audio, subtitles: Vec::new() });
        };
        let audio = match encode.audio.codec {
            AudioChoice::None => Vec::new(),
            AudioChoice::Aac | AudioChoice::Opus | AudioChoice::Mp3 | AudioChoice::Copy => {
                pick("audio_streams", encode.audio.streams, probed.audio.len())?
            }
        };
        if audio.is_empty() && encode.video.treatment == Treatment::Drop {
            return Err(Refusal::Input("the input has no audio stream"));
        }
        let subtitles = match encode.subtitles {
            SubtitleMode::Drop => Vec::new(),
            SubtitleMode::Copy | SubtitleMode::Convert | SubtitleMode::Burn => {
                pick("subtitle_streams", encode.subtitle_streams, probed.subtitles.len())?
            }
        };
        let chosen = Chosen { audio, subtitles };
        chosen.check(request, probed)?;
        Ok(chosen)
    }

    /// Whether what is taken as it is goes where it is put.
    fn check(&self, request: &Request<'_>, probed: &Probed) -> Result<(), Refusal> {
        let (encode, container) = (request.encode, request.encode.container);
        let refuse = |field: &str, message: String| Err(Refusal::job(field, "unsupported", message));
        if let (Treatment::Copy, Some(video)) = (encode.video.treatment, &probed.probe.video)
            && !takes_video(container, &video.codec)
        {
            return refuse(
                "codec",
                format!(
                    "the source's {} cannot be copied into {container}: mkv takes it, or name a codec",
                    video.codec
                ),
            );
        }
        if encode.audio.codec == AudioChoice::Copy {
            let odd = self.audio.iter().find(|number| !takes_audio(container, &probed.audio[**number].codec));
            if let Some(number) = odd {
                let codec = &probed.audio[*number].codec;
                return refuse(
                    "audio_codec",
                    format!("the source's {codec} cannot be copied into {container}: mkv takes it, or name a codec"),
                );
            }
        }
        for number in &self.subtitles {
            let codec = probed.subtitles[*number].as_str();
            match encode.subtitles {
                SubtitleMode::Drop => {}
                SubtitleMode::Copy if takes_subtitles(container, codec) => {}
                SubtitleMode::Copy => {
                    let cure = if is_text(codec) { "use `convert`" } else { "mkv takes them" };
                    return refuse("subtitles", format!("{codec} cannot be copied into {container}: {cure}"));
                }
                SubtitleMode::Convert | SubtitleMode::Burn if is_text(codec) => {}
                SubtitleMode::Convert | SubtitleMode::Burn => {
                    return refuse("subtitles", format!("{codec} is pictures, not text: `copy` it into mkv"));
                }
            }
        }
        Ok(())
    }
}

fn pick(field: &str, streams: Streams, count: usize) -> Result<Vec<usize>, Refusal> {
    streams.of(count).map_err(|number| {
        Refusal::job(field, "out_of_range", format!("the source has {count} such streams: there is no number {number}"))
    })
}

/// Where reading begins, and what is left to leave out after that.
fn seek(request: &Request<'_>) -> (f64, f64) {
    let start = request.encode.start_secs.unwrap_or(0.0);
    // Burnt subtitles go by the source's own clock.
    let read_from = if request.encode.subtitles == SubtitleMode::Burn { 0.0 } else { (start - PREROLL_SECS).max(0.0) };
    (read_from, start - read_from)
}

/// The source as an input, read from a while before its start. Answers what is left to leave out.
fn source(request: &Request<'_>, arguments: &mut Arguments) -> f64 {
    let Some((path, _)) = request.source else { return 0.0 };
    let (read_from, left) = seek(request);
    arguments.all(READ_ONLY_FILES);
    if read_from > 0.0 {
        arguments.pair("-ss", read_from);
    }
    arguments.list.extend(["-i".into(), file_argument(path)]);
    left
}

pub(super) fn inputs(request: &Request<'_>, shape: Option<&Shape>, arguments: &mut Arguments) -> f64 {
    let Source::Generated { duration_secs: secs } = request.encode.source else { return source(request, arguments) };
    if let Some(shape) = shape {
        let (width, height, rate) = generated(request, shape);
        arguments.pair("-f", "lavfi");
        arguments.pair("-i", format!("testsrc2=size={width}x{height}:rate={rate}:duration={secs}"));
    }
    arguments.pair("-f", "lavfi");
    arguments.pair("-i", format!("sine=frequency=440:sample_rate=48000:duration={secs}"));
    0.0
}

/// Size and rate of the picture that is generated: with a crop, of what is cropped.
fn generated(request: &Request<'_>, shape: &Shape) -> (u32, u32, Fps) {
    let rate = shape.fps.unwrap_or(Fps::whole(30));
    match request.encode.video.crop {
        Some(crop) => (crop.x + crop.width, crop.y + crop.height, rate),
        None => (shape.width, shape.height, rate),
    }
}

/// Which input holds the audio.
pub(super) fn audio_input(request: &Request<'_>) -> u32 {
    u32::from(request.source.is_none() && request.encode.video.treatment != Treatment::Drop)
}

/// The run that takes the subtitles out which are burnt in.
pub(super) fn extraction(request: &Request<'_>, chosen: &Chosen) -> Vec<OsString> {
    let mut arguments = head(request);
    source(request, &mut arguments);
    for number in chosen.subtitles.iter().take(1) {
        arguments.pair("-map", format!("0:s:{number}"));
    }
    arguments.all(["-c:s", "ass", "-f", "ass", "-y"]);
    arguments.list.push(file_argument(SUBTITLES_FILE.as_ref()));
    arguments.list
}

/// Subtitles, chapters and tags.
pub(super) fn rest(request: &Request<'_>, chosen: &Chosen, arguments: &mut Arguments) {
    let encode = request.encode;
    match encode.subtitles {
        SubtitleMode::Copy | SubtitleMode::Convert if !chosen.subtitles.is_empty() => {
            for number in &chosen.subtitles {
                arguments.pair("-map", format!("0:s:{number}"));
            }
            let codec = match encode.subtitles {
                SubtitleMode::Convert => match text_subtitles(encode.container) {
                    // The encoder has another name than the codec.
                    Some("subrip") => "srt",
                    Some(codec) => codec,
                    None => "copy",
                },
                SubtitleMode::Drop | SubtitleMode::Copy | SubtitleMode::Burn => "copy",
            };
            arguments.pair("-c:s", codec);
        }
        SubtitleMode::Copy | SubtitleMode::Convert | SubtitleMode::Drop | SubtitleMode::Burn => arguments.all(["-sn"]),
    }
    arguments.all(["-dn"]);
    if request.source.is_some() {
        arguments.pair("-map_metadata", if encode.metadata == Keep::Keep { 0 } else { -1 });
        arguments.pair("-map_chapters", if encode.chapters == Keep::Keep { 0 } else { -1 });
    }
}

/// The container and the file.
pub(super) fn output(request: &Request<'_>, arguments: &mut Arguments) {
    let encode = request.encode;
    match encode.container {
        Container::Mp4 | Container::Mov => {
            arguments.pair("-movflags", "+faststart");
            let is_copied_hevc = encode.video.treatment == Treatment::Copy
                && request
                    .source
                    .and_then(|(_, probed)| probed.probe.video.as_ref())
                    .is_some_and(|v| v.codec == "hevc");
            if request.encoder.is_some_and(|encoder| encoder.codec() == VideoCodec::H265) || is_copied_hevc {
                arguments.pair("-tag:v", "hvc1");
            }
        }
        Container::M4a => arguments.pair("-movflags", "+faststart"),
        Container::Jpg | Container::Png => arguments.pair("-update", 1),
        Container::Mkv | Container::Webm | Container::Ts | Container::Mp3 => {}
    }
    arguments.pair("-max_muxing_queue_size", MUXING_QUEUE);
    arguments.pair("-f", encode.container.muxer());
    arguments.all(["-y"]);
    arguments.list.push(file_argument(request.output));
}

/// The source with nothing but these audio streams, for a measurement.
pub(super) fn audio_source(request: &Request<'_>, chosen: &Chosen, filter: &str) -> Vec<OsString> {
    let mut arguments = head(request);
    // What is measured is said as information.
    arguments.all(["-loglevel", "level+info"]);
    let left = match request.source {
        Some(_) => source(request, &mut arguments),
        None => inputs(request, None, &mut arguments),
    };
    for number in &chosen.audio {
        arguments.pair("-map", format!("0:a:{number}"));
    }
    let end = request.encode.duration_secs.map(|secs| left + secs);
    arguments.pair("-af", taken(left, end, filter));
    arguments.all(["-vn", "-sn", "-dn"]);
    trim(request, left, &mut arguments);
    arguments.all(["-f", "null", "-"]);
    arguments.list
}

/// A filter that hears only what is written, from `start` on: the cut of the output comes after the filters.
pub(super) fn taken(start: f64, end: Option<f64>, filter: &str) -> String {
    match end {
        Some(end) => format!("atrim=start={start}:end={end},{filter}"),
        None if start > 0.0 => format!("atrim=start={start},{filter}"),
        None => filter.to_owned(),
    }
}
