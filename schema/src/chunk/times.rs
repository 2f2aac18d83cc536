//! The times of a source's frames, and where it is cut by them.
//!
//! Invariant: frames that are taken are those that FFmpeg takes; a seam lies halfway between two frames.

use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;

use super::cuts::TIE;
use super::{CHUNKS_MAX, Cuts, Micros, Seam, Taken};
use crate::plan::{READ_ONLY_FILES, file_argument};

/// Frames that are looked at, at most: ten days at 24 frames per second. More are encoded whole.
const FRAMES_MAX: usize = 20_000_000;
/// How far a frame may be from where an even rate puts it, in frames: Matroska counts in milliseconds.
const UNEVEN_FRAMES: f64 = 0.3;
/// Ticks in a second at most, where a part is taken: the prober tells times in microseconds.
const TICKS_MAX: f64 = 400_000.0;
/// How far a rate that is told may be from what the frames' times say.
const NEAR: f64 = 0.01;
/// A key frame that comes this much earlier than usual is there because a scene begins.
const EARLY: f64 = 0.95;

/// Times of a source's frames, read line by line from the prober.
#[derive(Debug, Default)]
pub struct Times {
    pub(super) frames: Vec<f64>,
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
        let seams = |target: f64| match taken.segment {
            Some(segment) => self.at_segments(begin, end, target, segment.secs()),
            None => self.seams(begin, end, target),
        };
        let mut found = seams(target);
        // Where many scenes begin early, chunks are shorter than they were to be.
        while found.len() >= CHUNKS_MAX {
            target *= 2.0;
            found = seams(target);
        }
        Ok(Cuts {
            start: Micros::of(start_secs),
            first: Micros::of(first),
            frames: frames.len() as u64,
            fps: even_rate(frames),
            seams: found,
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

    /// A seam about every `target` seconds from frame `begin` to before frame `end`, each at a frame with which a segment of this
    /// length begins, counted from the first: there is a key frame in every output, whether the source has one or not.
    fn at_segments(&self, begin: usize, end: usize, target: f64, length: f64) -> Vec<Seam> {
        let frames = &self.frames[begin..end];
        let (Some(first), Some(last)) = (frames.first().copied(), frames.last().copied()) else {
            return Vec::new();
        };
        let half_a_frame = (last - first) / frames.len() as f64 / 2.0;
        let most = (last - first) / length;
        let each = (target / length).round().clamp(1.0, most.max(1.0)) as u32;
        let mut seams: Vec<Seam> = Vec::new();
        let mut segment = each;
        while f64::from(segment) + f64::from(each) * 0.5 <= most {
            let wish = first + f64::from(segment) * length - half_a_frame;
            let frame = self.frames.partition_point(|frame| *frame < wish).clamp(begin + 1, end - 1);
            // Between two frames that are far apart more than one may begin.
            if seams.last().is_none_or(|last| last.frame < (frame - begin) as u64) {
                seams.push(Seam { segment: Some(segment), ..self.seam(frame, begin) });
            }
            segment = segment.saturating_add(each);
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
            segment: None,
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
