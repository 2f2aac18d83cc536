//! A long encode as chunks: where its source is cut, what each chunk is called, and which encodes are cut at all.
//!
//! Invariant: pure; every frame of the source belongs to exactly one chunk. A cut lies halfway between two frames, or
//! between two numbers of frames, so that no rounding can give a frame to both sides or to none.
//! Source: measured with FFmpeg 5.1 and 9.0 on mp4, open-GOP mp4, mkv and ts: reading from a key frame 3 s before the cut
//! and dropping by time is exact in all of them, a seek alone in none but mp4.

use std::ffi::OsString;
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
/// What a chunk adds to the text of its job, at most: its name, its cut and its id.
const PIECE_BYTES: usize = 1024;
/// Frames that are looked at, at most: ten days at 24 frames per second. More are encoded whole.
const FRAMES_MAX: usize = 20_000_000;
/// How far a frame may be from where an even rate puts it, in frames: Matroska counts in milliseconds.
const UNEVEN_FRAMES: f64 = 0.3;
/// A key frame that comes this much earlier than usual is there because a scene begins.
const EARLY: f64 = 0.95;

/// A time by a source's clock, counted in microseconds, as FFmpeg tells times: a fraction may come out of JSON another than
/// it went in, and a chunk would have another name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Micros(pub i64);

impl Micros {
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

/// Times of a source's frames, read line by line from the prober.
#[derive(Debug, Default)]
pub struct Times {
    frames: Vec<f64>,
    keys: Vec<f64>,
    untimed: u64,
}

impl Times {
    /// ffprobe's arguments for one line for each packet of the video.
    #[must_use]
    pub fn arguments(file: &Path) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = ["-hide_banner", "-loglevel", "level+error"].map(Into::into).into();
        arguments.extend(READ_ONLY_FILES.map(OsString::from));
        arguments.extend(["-select_streams", "V:0", "-show_entries", "packet=pts_time,flags"].map(OsString::from));
        arguments.extend(["-of", "compact=p=0", "-i"].map(OsString::from));
        arguments.push(file_argument(file));
        arguments
    }

    /// Takes a line such as `pts_time=0.080000|flags=K_`.
    pub fn line(&mut self, line: &str) {
        let field = |name: &str| {
            let mut fields = line.split('|').filter_map(|part| part.split_once('='));
            fields.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
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

    /// Where the source is cut, about every `target_secs`. `start_secs`: the first time of any of its streams.
    ///
    /// # Errors
    /// Why it cannot be cut.
    pub fn cuts(mut self, start_secs: f64, target_secs: f64) -> Result<Cuts, &'static str> {
        if self.untimed > 0 {
            return Err("some of its frames carry no time");
        }
        if self.frames.len() > FRAMES_MAX {
            return Err("it has too many frames");
        }
        self.frames.sort_by(f64::total_cmp);
        self.keys.sort_by(f64::total_cmp);
        let (Some(first), Some(last)) = (self.frames.first().copied(), self.frames.last().copied()) else {
            return Err("it has no frames");
        };
        if self.frames.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err("two of its frames have the same time");
        }
        let mut target = target_secs.max((last - first) / CHUNKS_MAX as f64);
        let mut seams = self.seams(target);
        // Where many scenes begin early, chunks are shorter than they were to be.
        while seams.len() >= CHUNKS_MAX {
            target *= 2.0;
            seams = self.seams(target);
        }
        Ok(Cuts {
            start: Micros::of(start_secs),
            first: Micros::of(first),
            frames: self.frames.len() as u64,
            fps: even_rate(&self.frames),
            seams,
        })
    }

    /// A seam in each stretch of about `target` seconds, at the key frame where a scene begins, else at the nearest one.
    fn seams(&self, target: f64) -> Vec<Seam> {
        let usual = self.keys.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        let (Some(mut at), Some(last)) = (self.frames.first().copied(), self.frames.last().copied()) else {
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
            let begin = best.map_or(wish, |index| self.keys[index]);
            let frame = self.frames.partition_point(|time| *time < begin).clamp(1, self.frames.len() - 1);
            let time = self.frames[frame];
            let key = self.keys.partition_point(|key| *key <= time);
            seams.push(Seam {
                frame: frame as u64,
                // Rounded down, where it lies between two microseconds: no frame does.
                at: Micros((Micros::of(self.frames[frame - 1]).0 + Micros::of(time).0).div_euclid(2)),
                key: Micros::of(key.checked_sub(1).map_or(self.frames[0], |index| self.keys[index])),
            });
            at = time;
        }
        seams
    }
}

/// Frames per second, where all frames have the same distance.
fn even_rate(frames: &[f64]) -> Option<f64> {
    let (first, last) = (*frames.first()?, *frames.last()?);
    let gap = (last - first) / frames.len().checked_sub(1).filter(|gaps| *gaps > 0)? as f64;
    let is_even = |(index, time): (usize, &f64)| (time - first - index as f64 * gap).abs() <= gap * UNEVEN_FRAMES;
    frames.iter().enumerate().all(is_even).then_some(1.0 / gap)
}

/// Where a source is cut. Follows from the source and the length of a chunk, not from the encode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cuts {
    /// The first time of any of its streams.
    pub start: Micros,
    /// Time of its first frame.
    pub first: Micros,
    /// Frames of its video.
    pub frames: u64,
    /// Frames per second; absent: they are uneven.
    pub fps: Option<f64>,
    /// Where one chunk ends and the next begins, first to last.
    pub seams: Vec<Seam>,
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
    pub const NONE: Cut = Cut { seek: None, span: Span::Time { from: None, to: None }, frames: None };
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
        is_time(self.start)
            && is_time(self.first)
            && self.seams.windows(2).all(rises)
            && self
                .seams
                .iter()
                .all(|seam| (1..self.frames).contains(&seam.frame) && is_time(seam.at) && is_time(seam.key))
    }

    /// The chunks of an output at `fps`, or at the source's own rate. `zero`: what is the output's start by the
    /// source's clock.
    ///
    /// # Errors
    /// Why there are none.
    pub fn chunks(&self, fps: Option<Fps>, zero: Micros) -> Result<Vec<Cut>, &'static str> {
        if fps.is_none() && self.fps.is_none() {
            return Err("its frames are uneven in time, and the job asks for no frame rate");
        }
        if self.seams.is_empty() {
            return Err("it is too short for two chunks");
        }
        let bounds = |index: usize| (index.checked_sub(1).map(|before| self.seams[before]), self.seams.get(index));
        let chunk = |index: usize| {
            let (from, to) = bounds(index);
            let seek = from.map(|seam| Micros(seam.key.0 - self.start.0 - PREROLL.0)).filter(|seek| seek.0 > 0);
            let (span, frames) = match fps {
                None => {
                    let frames = to.map_or(self.frames, |seam| seam.frame) - from.map_or(0, |seam| seam.frame);
                    (Span::Time { from: from.map(|seam| seam.at), to: to.map(|seam| seam.at) }, Some(frames))
                }
                Some(fps) => {
                    let number = |seam: Seam| ((seam.at.0 - zero.0) as f64 / 1e6 * fps.as_f64()).ceil().max(0.0) as u64;
                    let (from, to) = (from.map(number), to.copied().map(number));
                    let frames = from.zip(to).map(|(from, to)| to.saturating_sub(from));
                    (Span::Frame { zero, from, to }, frames)
                }
            };
            Cut { seek, span, frames }
        };
        let chunks: Vec<Cut> = (0..=self.seams.len()).map(chunk).collect();
        if chunks.iter().any(|cut| cut.frames == Some(0)) {
            return Err("its frames are further apart than chunks are long");
        }
        Ok(chunks)
    }

    /// How much later than the output's start its first frame is shown, in seconds.
    #[must_use]
    pub fn offset_secs(&self, fps: Option<Fps>, zero: Micros) -> f64 {
        let rate = fps.map(Fps::as_f64).or(self.fps);
        let offset = Micros(self.first.0 - zero.0).secs().max(0.0);
        rate.map_or(offset, |rate| (offset * rate).round() / rate)
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
    /// Whether it is all the sound of the source instead of a stretch of its picture. Only where the grant allows it, see
    /// [`crate::message::Grant::sound_apart`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_sound: bool,
}

impl Piece {
    /// The feature of a worker that makes chunks.
    pub const FEATURE: &'static str = "chunks-1";
    /// The feature of a worker that makes the sound apart from them.
    pub const SOUND_FEATURE: &'static str = "chunks-sound-1";

    /// The id of the job that makes it, the same whenever it is asked for the same attempt of the job that was split.
    #[must_use]
    pub fn id(&self, attempt: u32) -> JobId {
        JobId::derived("piece", &[self.of.0.as_bytes(), &attempt.to_be_bytes(), &self.number.to_be_bytes()])
    }
}

/// Why a job whose canonical form has `body_bytes` is not made in `chunks`: each of their jobs carries all of it.
#[must_use]
pub fn too_large(body_bytes: usize, chunks: usize) -> Option<String> {
    let bytes = body_bytes.saturating_add(PIECE_BYTES).saturating_mul(chunks);
    (bytes > SPLIT_BYTES_MAX).then(|| {
        let most = SPLIT_BYTES_MAX >> 20;
        format!(
            "the job's {body_bytes} bytes, once for each of its {chunks} chunks, are more than {most} MiB: write it shorter, or have \
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
    if !encode.others.is_empty() || encode.ladder.is_some() || encode.segments.is_some() {
        return Some("it has several outputs or is cut into segments, which share one decode");
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
    if encode.start_secs.is_some() || encode.duration_secs.is_some() {
        return Some("it takes a part of its source");
    }
    if encode.quality.as_ref().is_some_and(|quality| quality.aim.is_some()) {
        return Some("its CRF is sought in the whole of the source");
    }
    if encode.subtitles == SubtitleMode::Burn {
        return Some("subtitles that are burnt in go by the clock of the whole");
    }
    None
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

/// The encode of one chunk: the video alone.
#[must_use]
pub fn of(encode: &Encode) -> Encode {
    let mut chunk = encode.clone();
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

    /// When the sources here begin.
    const ZERO: Micros = Micros(1_400_000);

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
        let cuts = times(1055, 30.0 / 1.001, |frame| frame % 60 == 0).cuts(1.4, 5.0).unwrap();
        assert!((cuts.fps.unwrap() - 29.97).abs() < 0.001);
        let chunks = cuts.chunks(None, ZERO).unwrap();
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
        let cuts = times(1055, 30.0, |frame| frame % 60 == 0).cuts(1.4, 5.0).unwrap();
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
    }

    #[test]
    fn the_beginning_of_a_scene_is_preferred() {
        let cuts = times(900, 30.0, |frame| frame % 60 == 0 || frame == 133).cuts(1.4, 5.0).unwrap();
        assert_eq!(cuts.seams[0].frame, 133);
    }

    #[test]
    fn a_change_of_rate_is_cut_by_the_frames_of_the_output() {
        let cuts = times(1000, 24.0, |frame| frame % 48 == 0).cuts(1.4, 10.0).unwrap();
        let chunks = cuts.chunks(Some(Fps::whole(30)), ZERO).unwrap();
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
        assert_eq!(untimed.cuts(0.0, 1.0).unwrap_err(), "some of its frames carry no time");
        let mut twice = times(100, 25.0, |_| true);
        twice.line("pts_time=1.400000|flags=__");
        assert_eq!(twice.cuts(0.0, 1.0).unwrap_err(), "two of its frames have the same time");
        let mut gap = times(100, 25.0, |_| true);
        gap.line("pts_time=9.0|flags=__");
        let gap = gap.cuts(1.4, 1.0).unwrap();
        assert!(gap.chunks(None, ZERO).is_err() && gap.chunks(Some(Fps::whole(25)), ZERO).is_ok());
        assert!(times(100, 25.0, |_| true).cuts(1.4, 3.0).unwrap().chunks(None, ZERO).is_err(), "too short");
        let mut cut_out = times(10, 25.0, |_| true);
        cut_out.line("pts_time=-1.0|flags=KD");
        assert_eq!(cut_out.frames.len(), 10);
    }

    #[test]
    fn a_source_with_one_key_frame_is_cut_all_the_same() {
        let cuts = times(500, 25.0, |frame| frame == 0).cuts(1.4, 5.0).unwrap();
        assert_eq!(total(&cuts.chunks(None, ZERO).unwrap()), 500);
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
            is_sound: false,
        };
        assert_eq!(piece(1).id(1), piece(1).id(1));
        assert_ne!(piece(1).id(1), piece(2).id(1));
        assert_ne!(piece(1).id(1), piece(1).id(2));
    }

    #[test]
    fn a_source_never_has_more_chunks_than_a_job_may_have() {
        // A scene begins every 0.6 s, so that chunks of a second would be cut short.
        let long = times(55_000, 25.0, |frame| frame % 15 == 0 || frame % 500 == 499).cuts(1.4, 1.0).unwrap();
        let chunks = long.chunks(None, ZERO).unwrap();
        assert!(chunks.len() <= CHUNKS_MAX && chunks.len() > CHUNKS_MAX / 4, "{}", chunks.len());
        assert_eq!(total(&chunks), 55_000);
    }

    #[test]
    fn a_split_is_bounded_in_bytes() {
        assert_eq!(too_large(2000, CHUNKS_MAX), None);
        let why = too_large(500_000, CHUNKS_MAX).unwrap();
        assert!(why.contains("500000 bytes") && why.contains("1500 chunks") && why.contains("64 MiB"), "{why}");
        assert!(too_large(usize::MAX, 2).is_some());
    }

    #[test]
    fn a_late_picture_stays_late() {
        let cuts = times(100, 25.0, |_| true).cuts(1.4, 1.0).unwrap();
        assert!((cuts.offset_secs(None, Micros::of(1.321)) - 0.08).abs() < 1e-9);
    }

    #[test]
    fn times_come_out_of_json_as_they_went_in_and_are_written_as_seconds() {
        let cuts = times(500, 24_000.0 / 1001.0, |frame| frame % 17 == 0).cuts(1.4, 3.0).unwrap();
        let again: Cuts = serde_json::from_str(&serde_json::to_string(&cuts).unwrap()).unwrap();
        assert_eq!(again.seams, cuts.seams);
        let written = [0, -20_500, 1_462_000, 61_000_001].map(|micros| Micros(micros).to_string());
        assert_eq!(written, ["0.000000", "-0.020500", "1.462000", "61.000001"]);
    }
}
