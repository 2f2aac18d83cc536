//! Which streams are taken, from where, and into which container.
//!
//! Invariant: a stream that is chosen by number exists, and whatever is copied goes into the container; otherwise there is
//! no plan.

use std::ffi::OsString;

use super::arguments::{Arguments, READ_ONLY_FILES, file_argument};
use super::shape::Shape;
use super::{PREROLL_SECS, Refusal, Request, Whole, head, trim};
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

/// What the outputs of one run read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inputs {
    /// Second of the source at which reading begins.
    read_from: f64,
    /// Number of the input that holds the audio.
    pub(super) audio: u32,
}

impl Inputs {
    /// Seconds that are read and not written to this output.
    pub(super) fn left(&self, request: &Request<'_>) -> f64 {
        request.encode.start_secs.unwrap_or(0.0) - self.read_from
    }
}

/// Where reading begins for one output.
fn seek(request: &Request<'_>) -> f64 {
    let start = request.encode.start_secs.unwrap_or(0.0);
    // Burnt subtitles go by the source's own clock.
    if request.encode.subtitles == SubtitleMode::Burn { 0.0 } else { (start - PREROLL_SECS).max(0.0) }
}

/// Where reading begins for one output that is made alone, and seconds that are read before what is taken.
pub(super) fn reads(request: &Request<'_>) -> (f64, f64) {
    let read_from = seek(request);
    (read_from, Inputs { read_from, audio: 0 }.left(request))
}

/// The source as an input, read from there.
fn source(request: &Request<'_>, read_from: f64, arguments: &mut Arguments) {
    let Some((path, _)) = request.source else { return };
    arguments.all(READ_ONLY_FILES);
    if read_from > 0.0 {
        arguments.pair("-ss", read_from);
    }
    arguments.list.extend(["-i".into(), file_argument(path)]);
}

/// The one source of all these outputs, read from the first start of them.
pub(super) fn inputs(made: &[&Whole<'_>], arguments: &mut Arguments) -> Inputs {
    let needs: Vec<Need<'_>> =
        made.iter().map(|whole| Need { request: whole.request, shape: whole.shape.as_ref() }).collect();
    shared(&needs, arguments)
}

/// The source of one output, which is looked at. Answers what is read before what is taken.
pub(super) fn inputs_of_one(request: &Request<'_>, shape: Option<&Shape>, arguments: &mut Arguments) -> f64 {
    shared(&[Need { request, shape }], arguments).left(request)
}

/// What an output needs of the source.
struct Need<'a> {
    request: &'a Request<'a>,
    shape: Option<&'a Shape>,
}

fn shared(needs: &[Need<'_>], arguments: &mut Arguments) -> Inputs {
    let Some(first) = needs.first() else { return Inputs { read_from: 0.0, audio: 0 } };
    let Source::Generated { duration_secs: secs } = first.request.encode.source else {
        let read_from = needs.iter().map(|need| seek(need.request)).fold(f64::INFINITY, f64::min);
        source(first.request, read_from, arguments);
        return Inputs { read_from, audio: 0 };
    };
    let picture = generated(needs);
    if let Some((width, height, rate)) = picture {
        arguments.pair("-f", "lavfi");
        arguments.pair("-i", format!("testsrc2=size={width}x{height}:rate={rate}:duration={secs}"));
    }
    tone(secs, arguments);
    Inputs { read_from: 0.0, audio: u32::from(picture.is_some()) }
}

fn tone(secs: f64, arguments: &mut Arguments) {
    arguments.pair("-f", "lavfi");
    arguments.pair("-i", format!("sine=frequency=440:sample_rate=48000:duration={secs}"));
}

/// Size and rate of the picture that is generated, where one is: as large and as fast as any output needs it; with a crop,
/// what is cropped.
fn generated(needs: &[Need<'_>]) -> Option<(u32, u32, Fps)> {
    let needs = needs.iter().filter_map(|need| {
        let shape = need.shape?;
        let crop = need.request.encode.video.crop;
        let (width, height) =
            crop.map_or((shape.width, shape.height), |crop| (crop.x + crop.width, crop.y + crop.height));
        Some((width, height, shape.fps.unwrap_or(Fps::whole(30))))
    });
    needs.reduce(|most, next| {
        let rate = if next.2.as_f64() > most.2.as_f64() { next.2 } else { most.2 };
        (most.0.max(next.0), most.1.max(next.1), rate)
    })
}

/// The run that takes the subtitles out which are burnt in.
pub(super) fn extraction(request: &Request<'_>, chosen: &Chosen) -> Vec<OsString> {
    let mut arguments = head(request);
    source(request, 0.0, &mut arguments);
    for number in chosen.subtitles.iter().take(1) {
        arguments.pair("-map", format!("0:s:{number}"));
    }
    arguments.all(["-c:s", "ass", "-f", "ass", "-y"]);
    arguments.list.push(file_argument(request.subtitles_file().as_ref()));
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
        Container::Jpg | Container::Png | Container::Webp => arguments.pair("-update", 1),
        Container::Mkv
        | Container::Webm
        | Container::Ts
        | Container::Mp3
        | Container::Vtt
        | Container::Hls
        | Container::Dash => {}
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
    let read_from = match &request.encode.source {
        Source::Generated { duration_secs } => {
            tone(*duration_secs, &mut arguments);
            0.0
        }
        Source::File { .. } | Source::Remote { .. } | Source::Live { .. } => {
            let read_from = seek(request);
            source(request, read_from, &mut arguments);
            read_from
        }
    };
    let left = Inputs { read_from, audio: 0 }.left(request);
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
