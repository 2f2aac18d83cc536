//! One chunk of an encode, and the whole that is put together from its chunks without another encode.
//!
//! Invariant: what does not depend on a chunk's place is the same in all of them, so that one decoder reads them in a row.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::arguments::{READ_ONLY_FILES, file_argument};
use super::shape::Shape;
use super::streams::{self, Chosen};
use super::{Arguments, Expected, Plan, Purpose, Refusal, Request, Step, Whole, audio, expected, filters, head, video};
use crate::chunk::{Cut, Micros};
use crate::encode::{AudioChoice, Container, Encode, Keep, SubtitleMode, Treatment};
use crate::message::hex;
use crate::probe::Probed;

/// Formats that the list of chunks may name.
const CHUNK_FORMATS: &str = "concat,mov";
/// Lets every packet last. FFmpeg 7 forgets how long frames are when it sets their times, and mp4 shows no last frame that
/// lasts no time. The times have to be named: left out, each would be set to the other.
const LASTING: &str = r"setts=pts=PTS:dts=DTS:duration=if(gt(DURATION\,0)\,DURATION\,if(N\,DTS-PREV_INDTS\,0))";
/// Units of a second in which the file of the sound says how late it begins.
const MOVIE_TIMESCALE: u32 = 1_000_000;

/// The plan of one chunk. `request` is made for the encode that [`crate::chunk::of`] gives.
///
/// # Errors
/// When the source does not have what is asked for, or what is asked for does not go with it.
pub fn chunk(request: &Request<'_>, cut: &Cut) -> Result<Plan, Refusal> {
    let chosen = Chosen::default();
    let no_video = || Refusal::Input("the input has no video stream");
    let shape = Shape::of(request)?.ok_or_else(no_video)?;
    let ((source, _), Some(encoder)) = (request.source.ok_or_else(no_video)?, request.encoder) else {
        return Err(no_video());
    };
    let mut expected = expected::expected(request, Some(&shape), &chosen)?;
    (expected.duration_secs, expected.video_secs) = (None, None);
    let mut arguments = head(request);
    arguments.all(READ_ONLY_FILES);
    if let Some(seek) = cut.seek {
        arguments.pair("-ss", seek);
    }
    arguments.all(["-copyts", "-i"]);
    arguments.list.push(file_argument(source));
    arguments.all(["-map", "0:V:0"]);
    arguments.pair("-vf", filters::of_chunk(request, &shape, &cut.span)?);
    video::video(&request.encode.video, encoder, &shape, request.threads, None, &mut arguments);
    arguments.all(["-fps_mode", "passthrough", "-bsf:v", LASTING, "-an"]);
    streams::rest(request, &chosen, &mut arguments);
    streams::output(request, &mut arguments);
    Ok(Plan { steps: vec![Step { purpose: Purpose::Encode, arguments: arguments.list }], expected })
}

/// The name of a chunk: sha256 over the source, the cut, the arguments and the tool. `request` is made for the encode that
/// [`crate::chunk::of`] gives; where its files lie and how many threads it has makes no difference.
///
/// # Errors
/// As [`chunk`].
pub fn chunk_key(request: &Request<'_>, cut: &Cut, source: &str, tool: &str) -> Result<String, Refusal> {
    let anywhere = request.source.map(|(_, probed)| (Path::new("source"), probed));
    let same = Request { source: anywhere, output: Path::new("chunk"), threads: 1, ..*request };
    Ok(named("ffpool chunk 1", source, tool, &chunk(&same, cut)?))
}

fn named(kind: &str, source: &str, tool: &str, plan: &Plan) -> String {
    let mut hash = Sha256::new();
    for part in [kind, source, tool] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    for argument in plan.steps.iter().flat_map(|step| &step.arguments) {
        hash.update(argument.as_encoded_bytes());
        hash.update([0]);
    }
    hex(&hash.finalize())
}

/// The encode of the sound alone, beside the chunks. `None`: it is encoded where these are put together, because there is none,
/// it is copied, or a file of its own would not keep what the whole's container makes of an encoder's first samples.
/// Source: measured with FFmpeg 5.1, 7.1 and 9.0, packet by packet against the sound of a whole encode: AAC in mp4 is the same
/// in all of them; in Matroska and transport streams AAC is not, and Opus that begins late is not even in mp4.
#[must_use]
pub fn sound_alone(encode: &Encode, probed: &Probed) -> Option<Encode> {
    let is_mp4 = match encode.container {
        Container::Mp4 | Container::Mov => true,
        Container::Mkv
        | Container::Webm
        | Container::Ts
        | Container::Mp3
        | Container::M4a
        | Container::Jpg
        | Container::Png
        | Container::Webp
        | Container::Vtt
        | Container::Hls
        | Container::Dash => false,
    };
    // The whole begins with its subtitles there, if they are first.
    let begins_with_others = jumps(probed) && encode.subtitles != SubtitleMode::Drop && !probed.subtitles.is_empty();
    if !is_mp4 || encode.audio.codec != AudioChoice::Aac || probed.audio.is_empty() || begins_with_others {
        return None;
    }
    let mut alone = crate::chunk::of(encode);
    alone.video.treatment = Treatment::Drop;
    alone.audio = encode.audio;
    Some(alone)
}

/// The plan of the sound. `request` is made for the encode that [`sound_alone`] gives.
///
/// # Errors
/// When the source does not have what is asked for.
pub fn sound(request: &Request<'_>) -> Result<Plan, Refusal> {
    let whole = Whole::of(request)?;
    let mut steps = whole.before();
    let mut arguments = head(request);
    let input = streams::inputs(&[&whole], &mut arguments);
    audio::audio(request, &whole.chosen, &whole.expected, &input, &mut arguments)?;
    streams::rest(request, &whole.chosen, &mut arguments);
    // How late sound begins is counted in these: a thousandth of a second would be many samples.
    arguments.pair("-movie_timescale", MOVIE_TIMESCALE);
    streams::output(request, &mut arguments);
    leave_picture(request, &mut arguments);
    steps.push(Step { purpose: Purpose::Encode, arguments: arguments.list });
    // It ends with the whole, which is held against the source.
    let expected = Expected { duration_secs: None, audio_lag_secs: None, ..whole.expected };
    Ok(Plan { steps, expected })
}

/// The name of the sound, as that of a chunk.
///
/// # Errors
/// As [`sound`].
pub fn sound_key(request: &Request<'_>, source: &str, tool: &str) -> Result<String, Refusal> {
    let anywhere = request.source.map(|(_, probed)| (Path::new("source"), probed));
    let same = Request { source: anywhere, output: Path::new("sound"), threads: 1, ..*request };
    Ok(named("ffpool sound 1", source, tool, &sound(&same)?))
}

/// The sound of a whole, made apart from its chunks.
#[derive(Debug, Clone, Copy)]
pub struct Sound<'a> {
    /// The file.
    pub file: &'a Path,
    /// The first time in it, in seconds.
    pub start_secs: f64,
}

/// When the output of an encode begins, by the clock of its source: with the first stream of the file, or, where the
/// format's times may jump, with the first stream that is taken.
///
/// # Errors
/// When the source does not have what is asked for.
pub fn zero(request: &Request<'_>) -> Result<Micros, Refusal> {
    let Some((_, probed)) = request.source else { return Ok(Micros(0)) };
    let start = probed.start_secs.unwrap_or(0.0);
    if !jumps(probed) {
        return Ok(Micros::of(start));
    }
    let chosen = Chosen::of(request)?;
    let number = |kind: &str, index: usize| {
        let of_kind = |(_, (there, _)): &(usize, &(String, String))| there == kind;
        probed.streams.iter().enumerate().filter(of_kind).nth(index).map(|(number, _)| number)
    };
    let audio = chosen.audio.iter().map(|index| number("audio", *index));
    let subtitles = chosen.subtitles.iter().map(|index| number("subtitle", *index));
    let taken = std::iter::once(number("video", 0)).chain(audio).chain(subtitles).flatten();
    let first = taken.filter_map(|number| probed.starts.get(number).copied().flatten()).reduce(f64::min);
    Ok(Micros::of(first.map_or(start, |first| first.max(start))))
}

/// Whether FFmpeg lets such a file begin with the streams that are taken.
pub(super) fn jumps(probed: &Probed) -> bool {
    probed.probe.format.split(',').any(|format| matches!(format, "mpegts" | "mpeg"))
}

/// The plan of the whole from its chunks: their video as it is, everything else from the source. `chunks`: the list that
/// [`chunk_list`] writes; `offset_secs`: when the first frame is shown; `sound`: where it is not to be encoded here.
///
/// # Errors
/// As [`super::plan`].
pub fn stitch(
    request: &Request<'_>,
    chunks: &Path,
    offset_secs: f64,
    sound: Option<Sound<'_>>,
) -> Result<Plan, Refusal> {
    let whole = Whole::of(request)?;
    let mut steps = if sound.is_some() { Vec::new() } else { whole.before() };
    let mut arguments: Arguments = head(request);
    // The source first: what is taken of it has the same numbers as in a whole encode.
    let input = streams::inputs(&[&whole], &mut arguments);
    if offset_secs > 0.0 {
        arguments.pair("-itsoffset", format!("{offset_secs:.6}"));
    }
    arguments.all(["-protocol_whitelist", "file,crypto,data", "-format_whitelist", CHUNK_FORMATS]);
    arguments.all(["-f", "concat", "-i"]);
    arguments.list.push(file_argument(chunks));
    if let Some(sound) = sound {
        // FFmpeg has every file begin at 0, and this one is to stay where it is.
        arguments.pair("-itsoffset", format!("{:.6}", sound.start_secs));
        arguments.all(["-protocol_whitelist", "file,crypto,data", "-format_whitelist", "mov", "-i"]);
        arguments.list.push(file_argument(sound.file));
    }
    arguments.all(["-map", "1:v:0", "-c:v", "copy"]);
    if sound.is_some() {
        take_sound(&whole.chosen, request.encode.metadata, &mut arguments);
    } else {
        audio::audio(request, &whole.chosen, &whole.expected, &input, &mut arguments)?;
    }
    streams::rest(request, &whole.chosen, &mut arguments);
    streams::output(request, &mut arguments);
    leave_picture(request, &mut arguments);
    steps.push(Step { purpose: Purpose::Encode, arguments: arguments.list });
    Ok(Plan { steps, expected: whole.expected })
}

/// Takes the sound as it is, with the languages and titles that the source has for it where they are kept. Who names those
/// of one stream names them of all.
fn take_sound(chosen: &Chosen, metadata: Keep, arguments: &mut Arguments) {
    let is_kept = metadata == Keep::Keep;
    for (to, from) in chosen.audio.iter().enumerate() {
        arguments.pair("-map", format!("2:a:{to}"));
        if is_kept {
            arguments.pair(&format!("-map_metadata:s:a:{to}"), format!("0:s:a:{from}"));
        }
    }
    arguments.all(["-c:a", "copy"]);
    if is_kept {
        arguments.all(["-map_metadata:s:v:0", "1:s:v:0"]);
        for (to, from) in chosen.subtitles.iter().enumerate() {
            arguments.pair(&format!("-map_metadata:s:s:{to}"), format!("0:s:s:{from}"));
        }
    }
}

/// The picture is read and left where times may jump, so that sound begins as late after it as in a whole encode.
fn leave_picture(request: &Request<'_>, arguments: &mut Arguments) {
    if request.source.is_some_and(|(_, probed)| jumps(probed)) {
        arguments.all(["-map", "0:V:0", "-c", "copy", "-f", "null", "-"]);
    }
}

/// The list of chunks as FFmpeg's concat demuxer reads it: each file's name, made of letters, digits and dots, with its
/// frames. Every file begins where the frames before it end, so that no rounding adds up.
#[must_use]
pub fn chunk_list<'a>(chunks: impl IntoIterator<Item = (&'a str, u64)>, fps: f64) -> String {
    use std::fmt::Write as _;
    let at = |frames: u64| (frames as f64 / fps * 1e6).round() as u64;
    let mut list = String::from("ffconcat version 1.0\n");
    let mut before = 0;
    for (name, frames) in chunks {
        let micros = at(before + frames) - at(before);
        before += frames;
        let _ = write!(list, "file {name}\nduration {}.{:06}\n", micros / 1_000_000, micros % 1_000_000);
    }
    list
}
