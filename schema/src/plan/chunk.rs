//! One chunk of an encode, and the whole that is put together from its chunks without another encode.
//!
//! Invariant: what does not depend on a chunk's place is the same in all of them, so that one decoder reads them in a row.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::arguments::{READ_ONLY_FILES, file_argument};
use super::shape::Shape;
use super::streams::{self, Chosen};
use super::{Arguments, Plan, Purpose, Refusal, Request, Step, Whole, audio, expected, filters, head, video};
use crate::chunk::{Cut, Micros};
use crate::message::hex;
use crate::probe::Probed;

/// Formats that the list of chunks may name.
const CHUNK_FORMATS: &str = "concat,mov";
/// Lets every packet last. FFmpeg 7 forgets how long frames are when it sets their times, and mp4 shows no last frame that
/// lasts no time. The times have to be named: left out, each would be set to the other.
const LASTING: &str = r"setts=pts=PTS:dts=DTS:duration=if(gt(DURATION\,0)\,DURATION\,if(N\,DTS-PREV_INDTS\,0))";

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
    let plan = chunk(&same, cut)?;
    let mut hash = Sha256::new();
    for part in ["ffpool chunk 1", source, tool] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    for argument in plan.arguments() {
        hash.update(argument.as_encoded_bytes());
        hash.update([0]);
    }
    Ok(hex(&hash.finalize()))
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
/// [`chunk_list`] writes; `offset_secs`: when the first frame is shown.
///
/// # Errors
/// As [`super::plan`].
pub fn stitch(request: &Request<'_>, chunks: &Path, offset_secs: f64) -> Result<Plan, Refusal> {
    let whole = Whole::of(request)?;
    let mut steps = whole.before();
    let mut arguments: Arguments = head(request);
    // The source first: what is taken of it has the same numbers as in a whole encode.
    let input = streams::inputs(&[&whole], &mut arguments);
    if offset_secs > 0.0 {
        arguments.pair("-itsoffset", format!("{offset_secs:.6}"));
    }
    arguments.all(["-protocol_whitelist", "file,crypto,data", "-format_whitelist", CHUNK_FORMATS]);
    arguments.all(["-f", "concat", "-i"]);
    arguments.list.push(file_argument(chunks));
    arguments.all(["-map", "1:v:0", "-c:v", "copy"]);
    audio::audio(request, &whole.chosen, &whole.expected, &input, &mut arguments)?;
    streams::rest(request, &whole.chosen, &mut arguments);
    streams::output(request, &mut arguments);
    if request.source.is_some_and(|(_, probed)| jumps(probed)) {
        // The picture is read and left, so that sound begins as late after it as in a whole encode.
        arguments.all(["-map", "0:V:0", "-c", "copy", "-f", "null", "-"]);
    }
    steps.push(Step { purpose: Purpose::Encode, arguments: arguments.list });
    Ok(Plan { steps, expected: whole.expected })
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
