//! A long encode as chunks: where its source is cut, what each chunk is called, and which encodes are cut at all.
//!
//! Invariant: pure; every frame of the source belongs to exactly one chunk. A cut lies halfway between two frames, or
//! between two numbers of frames, so that no rounding can give a frame to both sides or to none.
//! Source: measured with FFmpeg 5.1 and 9.0 on mp4, open-GOP mp4, mkv and ts: reading from a key frame 3 s before the cut
//! and dropping by time is exact in all of them, a seek alone in none but mp4.

use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::encode::{AudioChoice, Container, Encode, Encoder, Fps, Keep, RateControl, Source, SubtitleMode, Treatment};
use crate::id::JobId;
use crate::message::hex;
use crate::plan::{READ_ONLY_FILES, file_argument};

/// Decoded and thrown away before a cut, from the last key frame before it on.
const PREROLL: Micros = Micros(3_000_000);
/// Chunks of one job at most; a longer source gets longer chunks.
pub const CHUNKS_MAX: usize = 1500;
/// Bytes that the jobs of one split may have together: they are recorded in one transaction.
const SPLIT_BYTES_MAX: usize = 64 << 20;
/// Files of chunks that one job may have, of all its outputs: the manifest names each, in some 400 bytes, and goes to the ledger
/// in one message.
const PROOFS_MAX: usize = 10_000;
/// What a chunk adds to the text of its job, at most: its name, its cut and its id.
const PIECE_BYTES: usize = 1024;
/// Frames that are looked at, at most: ten days at 24 frames per second. More are encoded whole.
const FRAMES_MAX: usize = 20_000_000;
/// How far a frame may be from where an even rate puts it, in frames: Matroska counts in milliseconds.
const UNEVEN_FRAMES: f64 = 0.3;
/// Ticks in a second at most, where a part is taken: the prober tells times in microseconds.
const TICKS_MAX: f64 = 400_000.0;
/// Frames before the source's end of which it is not sure how often a change of rate shows them.
const ENDING: u64 = 4;
/// What FFmpeg adds to a time that lies halfway between two frames, in frames.
const TIE: f64 = 1.0 / 131_072.0;
/// How far a rate that is told may be from what the frames' times say.
const NEAR: f64 = 0.01;
/// A key frame that comes this much earlier than usual is there because a scene begins.
const EARLY: f64 = 0.95;

/// A time by a source's clock, counted in microseconds, as FFmpeg tells times: a fraction may come out of JSON another than
/// it went in, and a chunk would have another name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Micros(pub i64);

impl Micros {
    /// As FFmpeg reads what it is told in seconds: what is less than a microsecond is left off.
    #[must_use]
    pub fn told(secs: f64) -> Micros {
        let text = secs.to_string();
        let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
        let digits: String = part.chars().chain("000000".chars()).take(6).collect();
        Micros(format!("{whole}{digits}").parse().unwrap_or_else(|_| Micros::of(secs).0))
    }

    /// The nearest to so many seconds.
    #[must_use]
    pub fn of(secs: f64) -> Micros {
        Micros((secs * 1e6).round() as i64)
    }

    /// In seconds.
    #[must_use]
    pub fn secs(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl std::fmt::Display for Micros {
    /// In seconds, as FFmpeg reads them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (sign, micros) = (if self.0 < 0 { "-" } else { "" }, self.0.unsigned_abs());
        write!(f, "{sign}{}.{:06}", micros / 1_000_000, micros % 1_000_000)
    }
}

/// What an encode takes of its source, by the clock by which FFmpeg reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// What that clock's zero is by the source's own.
    pub zero: Micros,
    /// When it begins after that; absent: with the source.
    pub start: Option<Micros>,
    /// How long it is; absent: to the source's end.
    pub length: Option<Micros>,
    /// In how many parts filters count a tick of the source's clock.
    pub ticks: u8,
}

impl Taken {
    /// All of a source.
    #[must_use]
    pub fn all(zero: Micros) -> Taken {
        Taken { zero, start: None, length: None, ticks: 1 }
    }

    /// Whether it is less than the source, or may be.
    #[must_use]
    pub fn is_part(&self) -> bool {
        self.start.is_some() || self.length.is_some()
    }

    /// What is the output's start, by the source's clock.
    fn begins(&self) -> Micros {
        Micros(self.zero.0 + self.start.map_or(0, |start| start.0))
    }

    /// The source's name, and which part of it this is: the parts of a source are cut each by itself.
    #[must_use]
    pub fn name(&self, source: &str) -> String {
        if !self.is_part() {
            return source.to_owned();
        }
        let Taken { zero, start, length, ticks } = self;
        let told = |time: &Option<Micros>| time.map_or("-".to_owned(), |time| time.0.to_string());
        format!("{source} part {} {} {} {ticks}", zero.0, told(start), told(length))
    }
}

/// What all outputs take of the source. `outputs`: each with what it takes by itself.
///
/// # Errors
/// Why it is not the same for all.
pub fn taken_by_all(outputs: &[(&Encode, Taken)]) -> Result<Taken, &'static str> {
    let Some(((encode, taken), others)) = outputs.split_first() else { return Err("it has no output") };
    let part = |encode: &Encode| (encode.start_secs, encode.duration_secs);
    if others.iter().any(|(other, _)| part(other) != part(encode)) {
        return Err("its outputs take different parts of the source");
    }
    if others.iter().any(|(_, other)| other.zero != taken.zero) {
        return Err("its outputs begin with different streams of the source");
    }
    // The filter has a clock of its own.
    if others.iter().any(|(_, other)| other != taken) {
        return Err("only some of its outputs are deinterlaced");
    }
    Ok(*taken)
}

/// Times of a source's frames, read line by line from the prober.
#[derive(Debug, Default)]
pub struct Times {
    frames: Vec<f64>,
    keys: Vec<f64>,
    untimed: u64,
    /// Ticks of the source's clock in a second.
    ticks: Option<f64>,
    /// Frames per second, as the tool takes them to be.
    rate: Option<f64>,
}

impl Times {
    /// ffprobe's arguments for one line for each packet of the video.
    #[must_use]
    pub fn arguments(file: &Path) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = ["-hide_banner", "-loglevel", "level+error"].map(Into::into).into();
        arguments.extend(READ_ONLY_FILES.map(OsString::from));
        let entries = "packet=pts_time,flags:stream=time_base,r_frame_rate";
        arguments.extend(["-select_streams", "V:0", "-show_entries", entries].map(OsString::from));
        arguments.extend(["-of", "compact=p=0", "-i"].map(OsString::from));
        arguments.push(file_argument(file));
        arguments
    }

    /// Takes a line such as `pts_time=0.080000|flags=K_` or `r_frame_rate=25/1|time_base=1/12800`.
    pub fn line(&mut self, line: &str) {
        let field = |name: &str| {
            let mut fields = line.split('|').filter_map(|part| part.split_once('='));
            fields.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        let ratio = |name: &str| {
            let (num, den) = field(name)?.split_once('/')?;
            let ratio = num.parse::<f64>().ok()? / den.parse::<f64>().ok()?;
            (ratio > 0.0 && ratio.is_finite()).then_some(ratio)
        };
        self.ticks = ratio("time_base").map(f64::recip).or(self.ticks);
        self.rate = ratio("r_frame_rate").or(self.rate);
        let Some(flags) = field("flags") else { return };
        // An edit list leaves it out.
        if flags.contains('D') || self.frames.len() > FRAMES_MAX {
            return;
        }
        match field("pts_time").and_then(|text| text.parse::<f64>().ok()).filter(|secs| secs.is_finite()) {
            Some(secs) => {
                self.frames.push(secs);
                if flags.contains('K') {
                    self.keys.push(secs);
                }
            }
            None => self.untimed += 1,
        }
    }

    /// Where what is taken of the source is cut, about every `target_secs`. `start_secs`: the first time of any of its streams.
    ///
    /// # Errors
    /// Why it cannot be cut.
    pub fn cuts(mut self, start_secs: f64, target_secs: f64, taken: &Taken) -> Result<Cuts, &'static str> {
        if self.untimed > 0 {
            return Err("some of its frames carry no time");
        }
        if self.frames.len() > FRAMES_MAX {
            return Err("it has too many frames");
        }
        self.frames.sort_by(f64::total_cmp);
        self.keys.sort_by(f64::total_cmp);
        if self.frames.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err("two of its frames have the same time");
        }
        let numbers = if taken.is_part() { self.part(taken)? } else { 0..self.frames.len() };
        let (begin, end) = (numbers.start, numbers.end);
        let frames = &self.frames[numbers];
        let (Some(first), Some(last)) = (frames.first().copied(), frames.last().copied()) else {
            return Err("it has no frames");
        };
        let mut target = target_secs.max((last - first) / CHUNKS_MAX as f64);
        let mut seams = self.seams(begin, end, target);
        // Where many scenes begin early, chunks are shorter than they were to be.
        while seams.len() >= CHUNKS_MAX {
            target *= 2.0;
            seams = self.seams(begin, end, target);
        }
        Ok(Cuts {
            start: Micros::of(start_secs),
            first: Micros::of(first),
            frames: frames.len() as u64,
            fps: even_rate(frames),
            seams,
            begin: (begin > 0).then(|| self.seam(begin, begin)),
            end: (end < self.frames.len()).then(|| self.between(end)),
            left: self.frames.len().saturating_sub(end) as u64,
        })
    }

    /// Which frames FFmpeg takes for a part: it counts in ticks of the source's clock, to the nearest one, and the length from
    /// the first frame that it takes.
    fn part(&self, taken: &Taken) -> Result<Range<usize>, &'static str> {
        let ticks = self.ticks.ok_or("its clock is not known")?;
        if ticks > TICKS_MAX {
            return Err("its clock is too fine");
        }
        let zero = (taken.zero.secs() * ticks).round();
        let fine = f64::from(taken.ticks);
        let at = |secs: f64| ((secs * ticks).round() - zero) * fine;
        let wish = |time: Micros| (time.secs() * ticks * fine).round();
        let begin = taken.start.map_or(0, |start| self.frames.partition_point(|secs| at(*secs) < wish(start)));
        let first = *self.frames.get(begin).ok_or("it has no frames in the part that is taken")?;
        let end = taken.length.map_or(self.frames.len(), |length| {
            self.frames.partition_point(|secs| at(*secs) - at(first) < wish(length).max(1.0))
        });
        let known = even_rate(&self.frames[begin..end]);
        let rate = known.map(|even| self.rate.filter(|rate| (rate - even).abs() < even * NEAR).unwrap_or(even));
        let (Some(rate), Some(length)) = (rate, taken.length) else { return Ok(begin..end) };
        // A picture that begins with the output's second frame has no room for the last one.
        let late = ((first - taken.begins().secs()) * rate + TIE).round().max(0.0);
        let most = (length.secs() * rate - TIE).ceil() - late;
        Ok(begin..end.min(begin.saturating_add(most.max(0.0) as usize)))
    }

    /// A seam in each stretch of about `target` seconds from frame `begin` to before frame `end`, at the key frame where a scene
    /// begins, else at the nearest one.
    fn seams(&self, begin: usize, end: usize, target: f64) -> Vec<Seam> {
        let usual = self.keys.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        let frames = &self.frames[begin..end];
        let (Some(mut at), Some(last)) = (frames.first().copied(), frames.last().copied()) else {
            return Vec::new();
        };
        let mut seams = Vec::new();
        while last - at > target * 1.5 {
            let wish = at + target;
            let low = self.keys.partition_point(|key| *key < at + target * 0.5);
            let high = self.keys.partition_point(|key| *key <= at + target * 1.5);
            let begins_scene = |index: usize| index > 0 && self.keys[index] - self.keys[index - 1] < usual * EARLY;
            let best = (low..high).min_by(|a, b| {
                let rank = |index: usize| (!begins_scene(index), (self.keys[index] - wish).abs());
                let ((a_plain, a_off), (b_plain, b_off)) = (rank(*a), rank(*b));
                a_plain.cmp(&b_plain).then(a_off.total_cmp(&b_off))
            });
            // Without a key frame in reach any frame will do: what is before it is decoded anyway.
            let time = best.map_or(wish, |index| self.keys[index]);
            let frame = self.frames.partition_point(|frame| *frame < time).clamp(begin + 1, end - 1);
            seams.push(self.seam(frame, begin));
            at = self.frames[frame];
        }
        seams
    }

    /// The seam before a frame, of those that are counted from frame `begin`.
    fn seam(&self, frame: usize, begin: usize) -> Seam {
        let key = self.keys.partition_point(|key| *key <= self.frames[frame]);
        Seam {
            frame: (frame - begin) as u64,
            at: self.between(frame),
            key: Micros::of(key.checked_sub(1).map_or(self.frames[0], |index| self.keys[index])),
        }
    }

    /// Halfway between a frame and the one before it. Rounded down, where it lies between two microseconds: no frame does.
    fn between(&self, frame: usize) -> Micros {
        let [before, after] = [frame - 1, frame].map(|frame| Micros::of(self.frames[frame]).0);
        Micros((before + after).div_euclid(2))
    }
}

/// Frames per second, where all frames have the same distance.
fn even_rate(frames: &[f64]) -> Option<f64> {
    let (first, last) = (*frames.first()?, *frames.last()?);
    let gap = (last - first) / frames.len().checked_sub(1).filter(|gaps| *gaps > 0)? as f64;
    let is_even = |(index, time): (usize, &f64)| (time - first - index as f64 * gap).abs() <= gap * UNEVEN_FRAMES;
    frames.iter().enumerate().all(is_even).then_some(1.0 / gap)
}

/// Where a source, or the part that is taken of it, is cut. Follows from these and the length of a chunk, not from the encode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cuts {
    /// The first time of any of the source's streams.
    pub start: Micros,
    /// Time of the first frame that is taken.
    pub first: Micros,
    /// Frames that are taken.
    pub frames: u64,
    /// Frames per second; absent: they are uneven.
    pub fps: Option<f64>,
    /// Where one chunk ends and the next begins, first to last.
    pub seams: Vec<Seam>,
    /// Where the first chunk begins, if the source begins earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begin: Option<Seam>,
    /// Where the last chunk ends, if the source ends later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Micros>,
    /// Frames of the source after that.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "it is what serde hands over")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Where one chunk ends and the next begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seam {
    /// Number of the first frame after it, from 0, in the order in which frames are shown.
    pub frame: u64,
    /// When, between two frames.
    pub at: Micros,
    /// The last key frame that is shown no later than the frame after it.
    pub key: Micros,
}

/// One chunk of a source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cut {
    /// Where reading begins, counted from the source's start; absent: at its beginning.
    pub seek: Option<Micros>,
    /// Which frames are taken.
    pub span: Span,
    /// Frames that must come out; absent: a change of rate decides about the first and the last.
    pub frames: Option<u64>,
    /// How late the first frame of the output is, where the tool's version decides whether it is shown twice instead: a frame
    /// more may come out then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<Micros>,
}

/// Which frames a chunk takes. An absent bound is the source's own end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Span {
    /// By the source's clock.
    Time {
        /// From then on.
        from: Option<Micros>,
        /// To before then.
        to: Option<Micros>,
    },
    /// By the output's frames, counted from its start.
    Frame {
        /// The output's start by the source's clock.
        zero: Micros,
        /// From this frame on.
        from: Option<u64>,
        /// To before this frame.
        to: Option<u64>,
    },
}

impl Cut {
    /// All of a source.
    pub const NONE: Cut = Cut { seek: None, span: Span::Time { from: None, to: None }, frames: None, late: None };

    /// Whether a chunk may have so many frames.
    #[must_use]
    pub fn allows(&self, frames: u64) -> bool {
        self.frames.is_none_or(|wish| frames == wish || self.is_filled(frames))
    }

    /// Whether a chunk of so many frames shows its late first frame twice.
    #[must_use]
    pub fn is_filled(&self, frames: u64) -> bool {
        self.late.is_some() && self.frames.is_some_and(|wish| frames == wish + 1)
    }
}

impl Cuts {
    /// Whether these can be cuts: seams in order, inside the source, at times that can be counted with. They are read from
    /// where others may write.
    #[must_use]
    pub fn are_sound(&self) -> bool {
        /// Thirty years.
        const MOST: i64 = 1_000_000_000_000_000;
        let is_time = |time: Micros| (-MOST..=MOST).contains(&time.0);
        let rises = |pair: &[Seam]| pair[0].frame < pair[1].frame && pair[0].at < pair[1].at;
        let begin = self.begin.map(|seam| seam.at);
        let starts = |begin: Micros| begin < self.first && self.seams.first().is_none_or(|seam| begin < seam.at);
        let ends = |end: Micros| self.seams.last().is_none_or(|seam| seam.at < end);
        is_time(self.start)
            && is_time(self.first)
            && begin.is_none_or(starts)
            && self.end.is_none_or(ends)
            && self.end.is_none_or(is_time)
            && self.begin.is_none_or(|seam| seam.frame == 0 && is_time(seam.at) && is_time(seam.key))
            && self.seams.windows(2).all(rises)
            && self
                .seams
                .iter()
                .all(|seam| (1..self.frames).contains(&seam.frame) && is_time(seam.at) && is_time(seam.key))
    }

    /// The chunks of an output at `fps`, or at the source's own rate, of what is taken.
    ///
    /// # Errors
    /// Why there are none.
    pub fn chunks(&self, fps: Option<Fps>, taken: &Taken) -> Result<Vec<Cut>, &'static str> {
        if fps.is_none() && self.fps.is_none() {
            return Err("its frames are uneven in time, and the job asks for no frame rate");
        }
        if self.seams.is_empty() {
            return Err("it is too short for two chunks");
        }
        if self.is_too_late(fps, taken) {
            return Err("its picture begins later than the part that is taken");
        }
        let rate = fps.map(Fps::as_f64);
        let (before, after) = (self.first_number(rate, taken), self.last_number(rate, taken));
        let chunk = |index: usize| {
            let from = index.checked_sub(1).map_or(self.begin.as_ref(), |before| self.seams.get(before));
            let to = self.seams.get(index);
            let seek = from.map(|seam| Micros(seam.key.0 - self.start.0 - PREROLL.0)).filter(|seek| seek.0 > 0);
            let (span, frames) = match rate {
                None => {
                    let frames = to.map_or(self.frames, |seam| seam.frame) - from.map_or(0, |seam| seam.frame);
                    let (from, to) = (from.map(|seam| seam.at), to.map(|seam| seam.at).or(self.end));
                    (Span::Time { from, to }, Some(frames))
                }
                Some(rate) => {
                    let zero = taken.zero;
                    let number = |seam: &Seam| ((seam.at.0 - zero.0) as f64 / 1e6 * rate).ceil().max(0.0) as u64;
                    let from = if index == 0 { before } else { from.map(number) };
                    let (to, is_known) = to.map_or((after, self.left > ENDING), |seam| (Some(number(seam)), true));
                    let frames = from.zip(to).filter(|_| is_known).map(|(from, to)| to.saturating_sub(from));
                    (Span::Frame { zero, from, to }, frames)
                }
            };
            Cut { seek, span, frames, late: None }
        };
        let chunks: Vec<Cut> = (0..=self.seams.len()).map(chunk).collect();
        if chunks.iter().any(|cut| cut.frames == Some(0)) {
            return Err("its frames are further apart than chunks are long");
        }
        Ok(chunks)
    }

    /// Whether the picture begins so late in a part that the tool's versions make different frames of it.
    fn is_too_late(&self, fps: Option<Fps>, taken: &Taken) -> bool {
        let late = self.frames_late(fps, taken);
        // They count the length from other times then.
        let is_cut_elsewhere = taken.length.is_some() && late > 1.0;
        // How many frames show the first one follows from the tool's version then, and nothing here counts them.
        let is_uncounted = taken.is_part() && fps.is_some() && self.begin.is_none() && late >= 1.0;
        is_cut_elsewhere || is_uncounted
    }

    /// The chunks of an output, as [`chunks`](Cuts::chunks).
    ///
    /// # Errors
    /// Why there are none.
    pub fn chunks_of(&self, encode: &Encode, taken: &Taken) -> Result<Vec<Cut>, &'static str> {
        let fps = encode.video.fps;
        let mut chunks = self.chunks(fps, taken)?;
        let is_filled_up = matches!(encode.container, Container::Mp4 | Container::Mov);
        let is_late = taken.is_part() && self.frames_late(fps, taken) == 1.0;
        if let Some(first) = chunks.first_mut().filter(|_| is_late && is_filled_up) {
            first.late = Some(Micros::of(self.offset_secs(fps, taken)));
        }
        Ok(chunks)
    }

    /// The first frame that is taken of those at an even rate, where it is not the first there is.
    fn first_number(&self, rate: Option<f64>, taken: &Taken) -> Option<u64> {
        Some((taken.start?.secs() * rate?).round() as u64)
    }

    /// The first that is not taken any more.
    fn last_number(&self, rate: Option<f64>, taken: &Taken) -> Option<u64> {
        let (first, frames) = (self.first_number(rate, taken).unwrap_or(0), taken.length?.secs() * rate?);
        let late = first as f64 - taken.start.map_or(0.0, Micros::secs) * rate?;
        let most = (frames - TIE).ceil() - (late + TIE).round().max(0.0);
        Some(first + frames.round().min(most).max(1.0) as u64)
    }

    /// How much later than the output's start its first frame is shown, in seconds.
    #[must_use]
    pub fn offset_secs(&self, fps: Option<Fps>, taken: &Taken) -> f64 {
        match fps.map(Fps::as_f64).or(self.fps) {
            Some(rate) => self.frames_late(fps, taken) / rate,
            None => self.late_secs(fps, taken),
        }
    }

    /// The same in whole frames of the output; 0 where its rate is not known.
    fn frames_late(&self, fps: Option<Fps>, taken: &Taken) -> f64 {
        let rate = fps.map(Fps::as_f64).or(self.fps).unwrap_or(0.0);
        (self.late_secs(fps, taken) * rate + TIE).round()
    }

    fn late_secs(&self, fps: Option<Fps>, taken: &Taken) -> f64 {
        let fps = fps.map(Fps::as_f64);
        let late = match (self.begin, self.first_number(fps, taken), fps) {
            (Some(_), Some(number), Some(fps)) => number as f64 / fps - taken.start.map_or(0.0, Micros::secs),
            _ => Micros(self.first.0 - taken.begins().0).secs(),
        };
        late.max(0.0)
    }
}

/// A job that makes one chunk of another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Piece {
    /// The job whose chunk it makes.
    pub of: JobId,
    /// Which chunk, from 0.
    pub number: u32,
    /// Chunks of that job.
    pub total: u32,
    /// The chunk's name, see [`crate::plan::chunk_key`].
    pub key: String,
    /// Where the source is cut.
    pub cut: Cut,
    /// The same for each of the job's other outputs, which one decode makes too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Cut>,
    /// Whether it is all the sound of the source instead of a stretch of its picture. Only where the grant allows it, see
    /// [`crate::message::Grant::sound_apart`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_sound: bool,
}

impl Piece {
    /// The feature of a worker that makes chunks.
    pub const FEATURE: &'static str = "chunks-1";
    /// The feature of a worker that makes chunks of a part of a source.
    pub const PART_FEATURE: &'static str = "chunks-part-1";
    /// The feature of a worker that makes the sound apart from them.
    pub const SOUND_FEATURE: &'static str = "chunks-sound-1";
    /// The feature of a worker that makes chunks of several outputs at once.
    pub const OUTPUTS_FEATURE: &'static str = "chunks-outputs-1";
    /// The features that only some workers that make chunks have.
    pub const FEATURES: [&'static str; 2] = [Piece::PART_FEATURE, Piece::OUTPUTS_FEATURE];

    /// Where the source is cut for each output.
    #[must_use]
    pub fn cuts(&self) -> Vec<Cut> {
        std::iter::once(&self.cut).chain(&self.others).cloned().collect()
    }

    /// The id of the job that makes it, the same whenever it is asked for the same attempt of the job that was split.
    #[must_use]
    pub fn id(&self, attempt: u32) -> JobId {
        JobId::derived("piece", &[self.of.0.as_bytes(), &attempt.to_be_bytes(), &self.number.to_be_bytes()])
    }
}

/// Why a job whose canonical form has `body_bytes` is not made in `chunks` of so many outputs: each of their jobs carries all of
/// it.
#[must_use]
pub fn too_large(body_bytes: usize, chunks: usize, outputs: usize) -> Option<String> {
    let bytes = body_bytes.saturating_add(PIECE_BYTES.saturating_mul(outputs.max(1))).saturating_mul(chunks);
    (bytes > SPLIT_BYTES_MAX).then(|| {
        let most = SPLIT_BYTES_MAX >> 20;
        format!(
            "the job's {body_bytes} bytes, once for each of its {chunks} chunks, are more than {most} MiB: write it shorter, or have \
             longer chunks"
        )
    })
}

/// Why a job of so many outputs is not made in so many `chunks`: its manifest names the file of each.
#[must_use]
pub fn too_many(chunks: usize, outputs: usize) -> Option<String> {
    (chunks.saturating_mul(outputs) > PROOFS_MAX).then(|| {
        format!(
            "{chunks} chunks of {outputs} outputs are more than the {PROOFS_MAX} files that a manifest names: have fewer outputs, or \
             longer chunks"
        )
    })
}

/// The directory of a source's chunks, by what identifies the source.
#[must_use]
pub fn directory(source: &str) -> String {
    use sha2::{Digest, Sha256};
    hex(&Sha256::digest(format!("ffpool source 1\0{source}").as_bytes())[..16])
}

/// Why an encode is not made in chunks, whatever its source is.
#[must_use]
pub fn unfit(encode: &Encode) -> Option<&'static str> {
    let video = &encode.video;
    if encode.segments.is_some() {
        return Some("it is cut into segments of one length");
    }
    if encode.live.is_some() || matches!(encode.source, Source::Live { .. }) {
        return Some("its source is live");
    }
    if matches!(encode.source, Source::Generated { .. }) {
        return Some("its source is generated");
    }
    if video.treatment != Treatment::Encode {
        return Some("its video is not encoded");
    }
    if video.two_pass || matches!(video.rate, RateControl::Bitrate { .. }) {
        return Some(
            "a bit rate is spent over the whole video: chunks take `crf`, with `maxrate` where it must be bounded",
        );
    }
    if encode.quality.as_ref().is_some_and(|quality| quality.aim.is_some()) {
        return Some("its CRF is sought in the whole of the source");
    }
    if encode.subtitles == SubtitleMode::Burn {
        return Some("subtitles that are burnt in go by the clock of the whole");
    }
    encode.others.iter().find_map(unfit)
}

/// The features of [`Piece::FEATURES`] that a worker must have to make chunks of such an encode.
pub fn needs(encode: &Encode) -> impl Iterator<Item = &'static str> {
    let is_part = |encode: &Encode| encode.start_secs.is_some() || encode.duration_secs.is_some();
    let has_part = is_part(encode) || encode.others.iter().any(is_part);
    let has_several = encode.ladder.is_some() || !encode.others.is_empty();
    let part = has_part.then_some(Piece::PART_FEATURE);
    part.into_iter().chain(has_several.then_some(Piece::OUTPUTS_FEATURE))
}

/// Why an encoder makes no chunks.
#[must_use]
pub fn unfit_encoder(encoder: Option<Encoder>) -> Option<&'static str> {
    let Some(encoder) = encoder else { return Some("its video is not encoded") };
    if encoder.is_hardware() {
        return Some("chunks are made by software encoders only");
    }
    (encoder == Encoder::Libvpx).then_some("VP8 does not go into the container of chunks")
}

/// The encode of one chunk: the video of this output alone.
#[must_use]
pub fn of(encode: &Encode) -> Encode {
    let mut chunk = Encode { others: Vec::new(), ladder: None, ..encode.clone() };
    chunk.container = Container::Mp4;
    chunk.output = None;
    chunk.audio.codec = AudioChoice::None;
    chunk.subtitles = SubtitleMode::Drop;
    chunk.metadata = Keep::Drop;
    chunk.chapters = Keep::Drop;
    chunk.quality = None;
    chunk
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::VideoEncode;

    /// When the sources here begin.
    const ZERO: Micros = Micros(1_400_000);
    const ALL: Taken = Taken { zero: ZERO, start: None, length: None, ticks: 1 };

    fn times(frames: usize, fps: f64, key: impl Fn(usize) -> bool) -> Times {
        let mut times = Times::default();
        for frame in 0..frames {
            let flags = if key(frame) { "K_" } else { "__" };
            times.line(&format!("pts_time={:.6}|flags={flags}", 1.4 + frame as f64 / fps));
        }
        times
    }

    fn total(chunks: &[Cut]) -> u64 {
        chunks.iter().filter_map(|cut| cut.frames).sum()
    }

    #[test]
    fn every_frame_is_in_one_chunk_and_cuts_are_at_key_frames() {
        let cuts = times(1055, 30.0 / 1.001, |frame| frame % 60 == 0).cuts(1.4, 5.0, &ALL).unwrap();
        assert!((cuts.fps.unwrap() - 29.97).abs() < 0.001);
        let chunks = cuts.chunks(None, &ALL).unwrap();
        assert_eq!(total(&chunks), 1055);
        assert!(cuts.seams.iter().all(|seam| seam.frame % 60 == 0), "{cuts:?}");
        assert!((6..=8).contains(&chunks.len()), "{chunks:?}");
        let seam = cuts.seams[0];
        assert!(seam.at < seam.key && seam.key.0 - seam.at.0 < 20_000);
        let (first, second) = (&chunks[0], &chunks[1]);
        assert_eq!(first.seek, None);
        assert_eq!(second.seek, Some(Micros(seam.key.0 - 4_400_000)));
        assert_eq!(first.span, Span::Time { from: None, to: Some(seam.at) });
        assert!(matches!(second.span, Span::Time { from: Some(from), .. } if from == seam.at));
    }

    #[test]
    fn cuts_that_nobody_can_have_made_are_not_sound() {
        let cuts = times(1055, 30.0, |frame| frame % 60 == 0).cuts(1.4, 5.0, &ALL).unwrap();
        assert!(cuts.are_sound());
        let changed = |change: &dyn Fn(&mut Cuts)| {
            let mut cuts = cuts.clone();
            change(&mut cuts);
            cuts.are_sound()
        };
        assert!(!changed(&|cuts| cuts.seams.reverse()));
        assert!(!changed(&|cuts| cuts.frames = cuts.seams[1].frame));
        assert!(!changed(&|cuts| cuts.seams[0].frame = 0));
        assert!(!changed(&|cuts| cuts.seams[0].key = Micros(i64::MIN)));
        assert!(!changed(&|cuts| cuts.start = Micros(i64::MAX)));
        let (first, last) = (cuts.seams[0], cuts.seams[cuts.seams.len() - 1].at);
        let begin = |at: Micros| Some(Seam { frame: 0, at, ..first });
        assert!(changed(&|cuts| (cuts.begin, cuts.end) = (begin(Micros(cuts.first.0 - 1)), Some(Micros(last.0 + 1)))));
        assert!(!changed(&|cuts| cuts.begin = begin(cuts.first)));
        assert!(!changed(&|cuts| (cuts.first, cuts.begin) = (Micros(first.at.0 + 1), begin(first.at))));
        assert!(!changed(&|cuts| cuts.end = Some(last)));
    }

    #[test]
    fn the_beginning_of_a_scene_is_preferred() {
        let cuts = times(900, 30.0, |frame| frame % 60 == 0 || frame == 133).cuts(1.4, 5.0, &ALL).unwrap();
        assert_eq!(cuts.seams[0].frame, 133);
    }

    #[test]
    fn a_change_of_rate_is_cut_by_the_frames_of_the_output() {
        let cuts = times(1000, 24.0, |frame| frame % 48 == 0).cuts(1.4, 10.0, &ALL).unwrap();
        let chunks = cuts.chunks(Some(Fps::whole(30)), &ALL).unwrap();
        let mut at = None;
        for cut in &chunks {
            let Span::Frame { from, to, zero } = cut.span else { panic!("{cut:?}") };
            assert_eq!((from, zero), (at, ZERO));
            at = to;
        }
        assert_eq!((at, chunks[0].frames, chunks.last().unwrap().frames), (None, None, None));
        // Frame 240 of the source is shown at 10 s, the one before it at 9.958 s.
        assert!(matches!(chunks[0].span, Span::Frame { to: Some(300), .. }), "{:?}", chunks[0]);
    }

    #[test]
    fn what_has_no_usable_times_is_not_cut() {
        let mut untimed = times(100, 25.0, |_| true);
        untimed.line("pts_time=N/A|flags=__");
        assert_eq!(untimed.cuts(0.0, 1.0, &ALL).unwrap_err(), "some of its frames carry no time");
        let mut twice = times(100, 25.0, |_| true);
        twice.line("pts_time=1.400000|flags=__");
        assert_eq!(twice.cuts(0.0, 1.0, &ALL).unwrap_err(), "two of its frames have the same time");
        let mut gap = times(100, 25.0, |_| true);
        gap.line("pts_time=9.0|flags=__");
        let gap = gap.cuts(1.4, 1.0, &ALL).unwrap();
        assert!(gap.chunks(None, &ALL).is_err() && gap.chunks(Some(Fps::whole(25)), &ALL).is_ok());
        assert!(times(100, 25.0, |_| true).cuts(1.4, 3.0, &ALL).unwrap().chunks(None, &ALL).is_err(), "too short");
        let mut cut_out = times(10, 25.0, |_| true);
        cut_out.line("pts_time=-1.0|flags=KD");
        assert_eq!(cut_out.frames.len(), 10);
    }

    #[test]
    fn a_source_with_one_key_frame_is_cut_all_the_same() {
        let cuts = times(500, 25.0, |frame| frame == 0).cuts(1.4, 5.0, &ALL).unwrap();
        assert_eq!(total(&cuts.chunks(None, &ALL).unwrap()), 500);
        assert!(cuts.seams.iter().all(|seam| seam.key == ZERO));
    }

    #[test]
    fn the_id_of_a_piece_follows_from_what_it_is() {
        let piece = |number| Piece {
            of: JobId(uuid::Uuid::from_u128(7)),
            number,
            total: 9,
            key: "k".to_owned(),
            cut: Cut::NONE,
            others: Vec::new(),
            is_sound: false,
        };
        assert_eq!(piece(1).id(1), piece(1).id(1));
        assert_ne!(piece(1).id(1), piece(2).id(1));
        assert_ne!(piece(1).id(1), piece(1).id(2));
    }

    #[test]
    fn a_source_never_has_more_chunks_than_a_job_may_have() {
        // A scene begins every 0.6 s, so that chunks of a second would be cut short.
        let long = times(55_000, 25.0, |frame| frame % 15 == 0 || frame % 500 == 499).cuts(1.4, 1.0, &ALL).unwrap();
        let chunks = long.chunks(None, &ALL).unwrap();
        assert!(chunks.len() <= CHUNKS_MAX && chunks.len() > CHUNKS_MAX / 4, "{}", chunks.len());
        assert_eq!(total(&chunks), 55_000);
    }

    #[test]
    fn a_split_is_bounded_in_bytes() {
        assert_eq!(too_large(2000, CHUNKS_MAX, 1), None);
        let why = too_large(500_000, CHUNKS_MAX, 1).unwrap();
        assert!(why.contains("500000 bytes") && why.contains("1500 chunks") && why.contains("64 MiB"), "{why}");
        assert!(too_large(usize::MAX, 2, 1).is_some());
    }

    #[test]
    fn a_manifest_is_bounded_in_chunks() {
        assert_eq!((too_many(CHUNKS_MAX + 1, 1), too_many(500, 20)), (None, None));
        let why = too_many(CHUNKS_MAX, 20).unwrap();
        assert!(why.contains("1500 chunks of 20 outputs") && why.contains("10000"), "{why}");
    }

    #[test]
    fn it_is_told_in_what_outputs_differ() {
        let one = crate::scenario::resolve(&crate::job::JobSpec::new("720p-h264")).unwrap().unwrap();
        let part = Encode { start_secs: Some(2.0), ..one.clone() };
        let (later, halves) = (Taken { zero: Micros(1_400_001), ..ALL }, Taken { ticks: 2, ..ALL });
        let told = |other: &Encode, taken: Taken| taken_by_all(&[(&one, ALL), (other, taken)]);
        assert_eq!(told(&one, ALL), Ok(ALL));
        assert!(told(&part, later).unwrap_err().contains("different parts"));
        assert!(told(&one, later).unwrap_err().contains("different streams"));
        assert!(told(&one, halves).unwrap_err().contains("deinterlaced"));
    }

    #[test]
    fn a_late_picture_stays_late() {
        let cuts = times(100, 25.0, |_| true).cuts(1.4, 1.0, &ALL).unwrap();
        assert!((cuts.offset_secs(None, &Taken::all(Micros::of(1.321))) - 0.08).abs() < 1e-9);
    }

    #[test]
    fn a_part_has_the_frames_that_ffmpeg_takes_for_it_and_is_cut_within() {
        let source = || {
            let mut times = times(500, 25.0, |frame| frame % 25 == 0);
            times.line("time_base=1/12800");
            times
        };
        let part = |start: f64, length: f64| Taken {
            zero: ZERO,
            start: Some(Micros::told(start)),
            length: Some(Micros::told(length)),
            ticks: 1,
        };
        let mp4 = crate::scenario::resolve(&crate::job::JobSpec::new("720p-h264")).unwrap().unwrap();
        let mp4 = Encode { container: Container::Mp4, video: VideoEncode { fps: None, ..mp4.video.clone() }, ..mp4 };
        // From frame 50 at 2 s to before frame 150 at 6 s; a little later, from the frame after it to 4 s after that one, unless it
        // comes so late that there is no room for the last.
        for (start, first, frames) in [(2.0, 50, 100), (2.000_01, 50, 100), (2.01, 51, 99), (2.039, 51, 100)] {
            let taken = part(start, 4.0);
            let cuts = source().cuts(1.4, 1.0, &taken).unwrap();
            assert_eq!((cuts.frames, cuts.first), (frames, Micros(1_400_000 + first * 40_000)), "{start}");
            let chunks = cuts.chunks(None, &taken).unwrap();
            assert_eq!((chunks.len(), total(&chunks)), (4, frames), "{start}");
            let [from, to] = [first, first + frames as i64].map(|frame| Some(Micros(1_380_000 + frame * 40_000)));
            assert!(matches!(chunks[0].span, Span::Time { from: begin, .. } if begin == from), "{chunks:?}");
            assert!(matches!(chunks[3].span, Span::Time { to: end, .. } if end == to), "{chunks:?}");
            let late = cuts.offset_secs(None, &taken);
            assert_eq!(cuts.chunks_of(&mp4, &taken).unwrap()[0].late, (late > 0.0).then_some(Micros(40_000)));
            let wish = if start == 2.01 { 0.04 } else { 0.0 };
            assert!((late - wish).abs() < 1e-9, "{start}: {late}");
        }
        // At another rate: from frame 60 of 30 a second, 120 frames.
        let taken = part(2.0, 4.0);
        let cuts = source().cuts(1.4, 1.0, &taken).unwrap();
        let chunks = cuts.chunks(Some(Fps::whole(30)), &taken).unwrap();
        assert_eq!(total(&chunks), 120, "{chunks:?}");
        assert!(matches!(chunks[0].span, Span::Frame { from: Some(60), .. }), "{chunks:?}");
        assert!(matches!(chunks[3].span, Span::Frame { to: Some(180), .. }), "{chunks:?}");
        // Past the end, without a clock, and where there is nothing.
        let to_end = Taken { length: None, ..part(16.0, 0.0) };
        assert_eq!(source().cuts(1.4, 1.0, &to_end).unwrap().frames, 100);
        assert!(times(500, 25.0, |_| true).cuts(1.4, 1.0, &taken).is_err());
        assert!(source().cuts(1.4, 1.0, &part(30.0, 4.0)).is_err());
        assert!(taken.name("a") != part(2.0, 5.0).name("a") && ALL.name("a") == "a");
        assert_eq!(
            [2.34, 0.29, 9.999_999_999_8, 7.0].map(|secs| Micros::told(secs).0),
            [2_340_000, 290_000, 9_999_999, 7_000_000]
        );
    }

    #[test]
    fn a_part_at_another_rate_that_begins_before_the_picture_is_encoded_whole() {
        let cuts = |taken: &Taken| {
            let mut times = times(500, 25.0, |frame| frame % 25 == 0);
            times.line("time_base=1/12800");
            times.cuts(1.36, 1.0, taken).unwrap()
        };
        let mp4 = crate::scenario::resolve(&crate::job::JobSpec::new("720p-h264")).unwrap().unwrap();
        let at = |fps: Option<u32>| Encode {
            container: Container::Mp4,
            video: VideoEncode { fps: fps.map(Fps::whole), ..mp4.video.clone() },
            ..mp4.clone()
        };
        // One frame late: in a part from the beginning, in one that begins in the gap, and in one to the end.
        let length = Some(Micros::told(4.0));
        for (zero, start, length) in [(1.36, None, length), (1.32, Some(0.04), length), (1.32, Some(0.04), None)] {
            let taken = Taken { zero: Micros::of(zero), start: start.map(Micros::told), length, ticks: 1 };
            let cuts = cuts(&taken);
            assert!(cuts.chunks_of(&at(Some(25)), &taken).is_err(), "{taken:?}");
            let first = cuts.chunks_of(&at(None), &taken).unwrap().remove(0);
            assert!(first.late.is_some() && first.frames.is_some(), "{taken:?}: {first:?}");
        }
        // A part from the beginning of a picture that is not late, and one that begins within the picture between two frames.
        for (zero, start, fps) in [(1.4, None, 25), (1.4, Some(2.01), 30), (1.36, Some(2.01), 30)] {
            let taken = Taken { zero: Micros::of(zero), start: start.map(Micros::told), length, ticks: 1 };
            let first = cuts(&taken).chunks_of(&at(Some(fps)), &taken).unwrap().remove(0);
            assert!(first.late.is_none() || first.frames.is_some(), "{taken:?}: {first:?}");
        }
        // All of such a source is not a part of it.
        let all = Taken::all(Micros::of(1.36));
        assert!(cuts(&all).chunks_of(&at(Some(25)), &all).is_ok());
    }

    #[test]
    fn times_come_out_of_json_as_they_went_in_and_are_written_as_seconds() {
        let cuts = times(500, 24_000.0 / 1001.0, |frame| frame % 17 == 0).cuts(1.4, 3.0, &ALL).unwrap();
        let again: Cuts = serde_json::from_str(&serde_json::to_string(&cuts).unwrap()).unwrap();
        assert_eq!(again.seams, cuts.seams);
        let written = [0, -20_500, 1_462_000, 61_000_001].map(|micros| Micros(micros).to_string());
        assert_eq!(written, ["0.000000", "-0.020500", "1.462000", "61.000001"]);
    }
}
