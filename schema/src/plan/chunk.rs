//! One chunk of an encode, and the whole that is put together from its chunks without another encode.
//!
//! Invariant: what does not depend on a chunk's place is the same in all of them, so that one decoder reads them in a row.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::arguments::{READ_ONLY_FILES, file_argument};
use super::shape::Shape;
use super::streams::{self, Chosen};
use super::together::{self, Refused, Shared, Together};
use super::{
    Arguments, Expected, Plan, Purpose, Refusal, Request, Step, Whole, audio, expected, filters, head, trim, video,
};
use crate::chunk::{Cut, Micros, Taken};
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

/// The plan of one chunk of each output, by one decode. `requests` are made for the encodes that [`crate::chunk::of`] gives,
/// `cuts` are theirs.
///
/// # Errors
/// When the source does not have what is asked for, or what is asked for does not go with it.
pub fn chunk(requests: &[Request<'_>], cuts: &[Cut]) -> Result<Together, Refused> {
    let no_video = || Refused { output: 0, refusal: Refusal::Input("the input has no video stream") };
    let first = requests.first().ok_or_else(no_video)?;
    let (source, _) = first.source.ok_or_else(no_video)?;
    let mut arguments = head(first);
    arguments.all(READ_ONLY_FILES);
    // One without it is read from the beginning.
    let seek = cuts.iter().map(|cut| cut.seek).min().flatten();
    if let Some(seek) = seek {
        arguments.pair("-ss", seek);
    }
    // Where the source's clock is kept, a late first frame is never shown twice.
    let zero = if cuts.iter().any(|cut| cut.late.is_some()) {
        let zero = zero(first, seek.unwrap_or(Micros(0)));
        Some(zero.map_err(|refusal| Refused { output: 0, refusal })?)
    } else {
        arguments.all(["-copyts"]);
        None
    };
    arguments.all(["-i"]);
    arguments.list.push(file_argument(source));
    let mut expected = Vec::new();
    for (output, (request, cut)) in requests.iter().zip(cuts).enumerate() {
        let made = one(request, cut, zero, &mut arguments);
        expected.push(made.map_err(|refusal| Refused { output, refusal })?);
    }
    let step = Step { purpose: Purpose::Encode, arguments: arguments.list };
    Ok(Together { steps: vec![Shared { step, outputs: (0..expected.len()).collect() }], expected })
}

/// One output of a chunk, and what it must be.
fn one(request: &Request<'_>, cut: &Cut, zero: Option<Micros>, arguments: &mut Arguments) -> Result<Expected, Refusal> {
    let chosen = Chosen::default();
    let no_video = || Refusal::Input("the input has no video stream");
    let shape = Shape::of(request)?.ok_or_else(no_video)?;
    let encoder = request.encoder.ok_or_else(no_video)?;
    let mut expected = expected::expected(request, Some(&shape), &chosen)?;
    // How many frames a chunk has is known from the times of its source.
    (expected.duration_secs, expected.video_secs, expected.source_frames) = (None, None, None);
    arguments.all(["-map", "0:V:0"]);
    arguments.pair("-vf", filters::of_chunk(request, &shape, cut, zero)?);
    video::video(&request.encode.video, encoder, &shape, request.threads, None, arguments);
    // A chunk begins where a segment does, so they are counted in it as in the whole.
    video::segments(request.encode.segments, arguments);
    if cut.late.is_none() {
        arguments.all(["-fps_mode", "passthrough"]);
    }
    arguments.all(["-bsf:v", LASTING, "-an"]);
    streams::rest(request, &chosen, arguments);
    streams::output(request, arguments);
    Ok(expected)
}

/// The name of a chunk: sha256 over the source, the cut, the arguments and the tool. `requests` are made for the encodes that
/// [`crate::chunk::of`] gives; where their files lie and how many threads they have makes no difference.
///
/// # Errors
/// As [`chunk`].
pub fn chunk_key(requests: &[Request<'_>], cuts: &[Cut], source: &str, tool: &str) -> Result<String, Refused> {
    let names: Vec<String> = (0..requests.len())
        .map(|output| if output == 0 { "chunk".to_owned() } else { format!("chunk-{output}") })
        .collect();
    let same = requests.iter().zip(&names).map(|(request, name)| {
        let anywhere = request.source.map(|(_, probed)| (Path::new("source"), probed));
        Request { source: anywhere, output: Path::new(name), threads: 1, ..*request }
    });
    let plan = chunk(&same.collect::<Vec<_>>(), cuts)?;
    Ok(named("ffpool chunk 1", source, tool, plan.steps.iter().map(|shared| &shared.step)))
}

fn named<'a>(kind: &str, source: &str, tool: &str, steps: impl IntoIterator<Item = &'a Step>) -> String {
    let mut hash = Sha256::new();
    for part in [kind, source, tool] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    for argument in steps.into_iter().flat_map(|step| &step.arguments) {
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
    // Of a part the source is cut where all is put together, and the sound, which is cut already, would be cut again.
    let is_cut_again = is_part(encode) && takes_marks(encode, probed);
    if is_cut_again
        || !is_mp4
        || encode.audio.codec != AudioChoice::Aac
        || probed.audio.is_empty()
        || begins_with_others
    {
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
    trim(request, input.left(request), &mut arguments);
    // How late sound begins is counted in these: a thousandth of a second would be many samples.
    arguments.pair("-movie_timescale", MOVIE_TIMESCALE);
    streams::output(request, &mut arguments);
    leave_picture(request, input.left(request), &mut arguments);
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
    Ok(named("ffpool sound 1", source, tool, &sound(&same)?.steps))
}

/// The sound of a whole, made apart from its chunks.
#[derive(Debug, Clone, Copy)]
pub struct Sound<'a> {
    /// The file.
    pub file: &'a Path,
    /// The first time in it, in seconds.
    pub start_secs: f64,
}

/// What an encode takes of its source. Its clock's zero is where reading begins: with the first stream of the file, or, where
/// the format's times may jump and it is read from its beginning, with the first stream that is taken.
///
/// # Errors
/// When the source does not have what is asked for.
pub fn taken(request: &Request<'_>) -> Result<Taken, Refusal> {
    let (read_from, left) = streams::reads(request);
    let zero = zero(request, Micros::told(read_from))?;
    if request.source.is_none() {
        return Ok(Taken::all(zero));
    }
    let start = (left > 0.0).then(|| Micros::told(left));
    let segment = request.encode.segments.map(|segments| Micros::of(segments.secs));
    let length = request.encode.duration_secs.map(Micros::told);
    let taken = Taken { start, length, segment, ..Taken::all(zero) };
    let is_deinterlaced = Shape::of(request)?.is_some_and(|shape| shape.is_deinterlaced);
    // The filter counts in halves, whether it makes two frames of one or not.
    Ok(if taken.is_part() && is_deinterlaced { Taken { ticks: 2, ..taken } } else { taken })
}

/// What the tool's clock counts from, by the source's, when it reads from there.
fn zero(request: &Request<'_>, read_from: Micros) -> Result<Micros, Refusal> {
    let Some((_, probed)) = request.source else { return Ok(Micros(0)) };
    let start = Micros::of(probed.start_secs.unwrap_or(0.0));
    Ok(if read_from.0 > 0 {
        Micros(start.0 + read_from.0)
    } else if jumps(probed) {
        first_taken(request, probed)?.map_or(start, |first| first.max(start))
    } else {
        start
    })
}

/// When the first stream that is taken begins.
fn first_taken(request: &Request<'_>, probed: &Probed) -> Result<Option<Micros>, Refusal> {
    let chosen = Chosen::of(request)?;
    let number = |kind: &str, index: usize| {
        let of_kind = |(_, (there, _)): &(usize, &(String, String))| there == kind;
        probed.streams.iter().enumerate().filter(of_kind).nth(index).map(|(number, _)| number)
    };
    let audio = chosen.audio.iter().map(|index| number("audio", *index));
    let subtitles = chosen.subtitles.iter().map(|index| number("subtitle", *index));
    let taken = std::iter::once(number("video", 0)).chain(audio).chain(subtitles).flatten();
    let first = taken.filter_map(|number| probed.starts.get(number).copied().flatten()).reduce(f64::min);
    Ok(first.map(Micros::of))
}

/// Whether subtitles or chapters are taken of the source, each at its time.
fn takes_marks(encode: &Encode, probed: &Probed) -> bool {
    (encode.subtitles != SubtitleMode::Drop && !probed.subtitles.is_empty())
        || (encode.chapters == Keep::Keep && probed.chapters > 0)
}

fn is_part(encode: &Encode) -> bool {
    encode.start_secs.is_some() || encode.duration_secs.is_some()
}

/// Whether FFmpeg lets such a file begin with the streams that are taken.
pub(super) fn jumps(probed: &Probed) -> bool {
    probed.probe.format.split(',').any(|format| matches!(format, "mpegts" | "mpeg"))
}

/// The chunks of one output, to be put together.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// The list that [`chunk_list`] writes.
    pub list: &'a Path,
    /// When the first frame is shown, in seconds.
    pub offset_secs: f64,
}

/// The plan of the whole from its chunks, a row of them for each output: their video as it is, everything else from the
/// source. `sound`: where the one output's is not to be encoded here.
///
/// # Errors
/// As [`together`](together::together).
pub fn stitch(requests: &[Request<'_>], rows: &[Row<'_>], sound: Option<Sound<'_>>) -> Result<Together, Refused> {
    let wholes = together::wholes(requests)?;
    let no_output = || Refused { output: 0, refusal: Refusal::Input("there is no output to put together") };
    let first = requests.first().ok_or_else(no_output)?;
    let mut steps = if sound.is_some() { Vec::new() } else { together::before(&wholes) };
    let mut arguments: Arguments = head(first);
    // A part is cut by the source's clock, as in a whole encode, unless nothing that has a time is taken of the source.
    let is_cut = wholes.iter().any(|whole| whole.is_cut(sound.is_some()));
    // The source first: what is taken of it has the same numbers as in a whole encode.
    let input = streams::inputs(&wholes.iter().collect::<Vec<_>>(), &mut arguments);
    let left = if is_cut { input.left(first) } else { 0.0 };
    for row in rows {
        let begins = left + row.offset_secs;
        if begins > 0.0 {
            arguments.pair("-itsoffset", format!("{begins:.6}"));
        }
        arguments.all(["-protocol_whitelist", "file,crypto,data", "-format_whitelist", CHUNK_FORMATS]);
        arguments.all(["-f", "concat", "-i"]);
        arguments.list.push(file_argument(row.list));
    }
    if let Some(sound) = sound {
        // FFmpeg has every file begin at 0, and this one is to stay where it is.
        arguments.pair("-itsoffset", format!("{:.6}", sound.start_secs));
        arguments.all(["-protocol_whitelist", "file,crypto,data", "-format_whitelist", "mov", "-i"]);
        arguments.list.push(file_argument(sound.file));
    }
    for (output, whole) in wholes.iter().enumerate() {
        arguments.pair("-map", format!("{}:v:0", output + 1));
        arguments.all(["-c:v", "copy"]);
        let request = whole.request;
        if sound.is_some() {
            take_sound(&whole.chosen, request.encode.metadata, &mut arguments);
        } else {
            let made = audio::audio(request, &whole.chosen, &whole.expected, &input, &mut arguments);
            made.map_err(|refusal| Refused { output, refusal })?;
        }
        streams::rest(request, &whole.chosen, &mut arguments);
        if is_cut {
            trim(request, left, &mut arguments);
        }
        streams::output(request, &mut arguments);
    }
    leave_picture(first, input.left(first), &mut arguments);
    let step = Step { purpose: Purpose::Encode, arguments: arguments.list };
    steps.push(Shared { step, outputs: (0..wholes.len()).collect() });
    Ok(Together { steps, expected: wholes.into_iter().map(|whole| whole.expected).collect() })
}

impl Whole<'_> {
    /// Whether a part is to be cut out of the source where it is put together.
    fn is_cut(&self, is_sound_apart: bool) -> bool {
        let Whole { request, chosen, .. } = self;
        let has_marks = request.source.is_some_and(|(_, probed)| takes_marks(request.encode, probed));
        is_part(request.encode) && (has_marks || (!chosen.audio.is_empty() && !is_sound_apart))
    }
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

/// The picture is read and left where times may jump, so that sound begins as late after it as in a whole encode. `left`:
/// seconds that are read before what is taken.
fn leave_picture(request: &Request<'_>, left: f64, arguments: &mut Arguments) {
    if request.source.is_some_and(|(_, probed)| jumps(probed)) {
        arguments.all(["-map", "0:V:0", "-c", "copy"]);
        if let Some(secs) = request.encode.duration_secs {
            arguments.pair("-t", left + secs);
        }
        arguments.all(["-f", "null", "-"]);
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
