//! From where a source is cut to the chunks of each output: which frames every chunk takes.
//!
//! Invariant: every frame that is taken is in exactly one chunk.

use serde::{Deserialize, Serialize};

use super::{Micros, Taken};
use crate::encode::{Container, Encode, Fps};

/// Decoded and thrown away before a cut, from the last key frame before it on.
const PREROLL: Micros = Micros(3_000_000);
/// Frames before the source's end of which it is not sure how often a change of rate shows them.
const ENDING: u64 = 4;
/// What FFmpeg adds to a time that lies halfway between two frames, in frames.
pub(super) const TIE: f64 = 1.0 / 131_072.0;

/// How far the source's rate may be from the one by which its segments were counted, as a part of it: half of what tells 30
/// frames per second from 30000/1001.
const OFF_RATE: f64 = 5e-4;

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
    /// Segments before it, where it is the beginning of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<u32>,
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
        let are_segments = |pair: &[Seam]| match (pair[0].segment, pair[1].segment) {
            (None, None) => true,
            (Some(before), Some(after)) => before < after,
            (Some(_), None) | (None, Some(_)) => false,
        };
        let rises = |pair: &[Seam]| pair[0].frame < pair[1].frame && pair[0].at < pair[1].at && are_segments(pair);
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
        let segment = taken.segment.map(|segment| self.frames_of(segment, fps, taken)).transpose()?;
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
                    let number = |seam: &Seam| match segment.zip(seam.segment) {
                        Some((frames, segments)) => {
                            before.unwrap_or_else(|| self.frames_late(fps, taken) as u64) + frames * u64::from(segments)
                        }
                        None => ((seam.at.0 - zero.0) as f64 / 1e6 * rate).ceil().max(0.0) as u64,
                    };
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

    /// Frames in a segment of an output. Where its frames are the source's, all seams lie where segments begin.
    fn frames_of(&self, segment: Micros, fps: Option<Fps>, taken: &Taken) -> Result<u64, &'static str> {
        // The tool's version decides whether the first is shown once more, and so with which frame a segment begins.
        if taken.is_part() && self.frames_late(fps, taken) >= 1.0 {
            return Err("its picture begins later than the part that is taken");
        }
        let exact = segment.secs() * fps.map(Fps::as_f64).or(self.fps).unwrap_or(0.0);
        let frames = exact.round();
        let is_there = |seam: &Seam| {
            seam.segment.is_some_and(|segments| fps.is_some() || seam.frame == frames as u64 * u64::from(segments))
        };
        if frames < 1.0 || (exact - frames).abs() > frames * OFF_RATE || !self.seams.iter().all(is_there) {
            return Err("its segments do not begin with frames of the source");
        }
        Ok(frames as u64)
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
        // Beside a presentation a file is cut at the same times, wherever its own frames fall.
        let taken = &Taken { segment: taken.segment.filter(|_| encode.segments.is_some()), ..*taken };
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
