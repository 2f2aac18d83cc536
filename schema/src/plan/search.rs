//! The search for the highest CRF that still reaches a score.
//!
//! Invariant: pure; it ends after [`MOST_TRIALS`] at the latest, and what it takes was tried and reached the score.

use crate::encode::{Aim, AudioChoice, Container, Encode, Encoder, RateControl, Source, SubtitleMode};
use crate::message::CrfTrial;

/// CRFs that are tried at most.
pub const MOST_TRIALS: usize = 8;

/// Length of one sample in seconds.
const SAMPLE_SECS: f64 = 2.0;
/// Samples of a source, at least and at most: one for each so many seconds.
const SAMPLES: (f64, f64, f64) = (3.0, 8.0, 60.0);

/// Encodes of short parts of what an encode takes, spread over its length: the picture alone, with this CRF.
#[must_use]
pub fn samples(encode: &Encode, secs: Option<f64>, crf: u8) -> Vec<Encode> {
    let (least, most, each) = SAMPLES;
    let count = secs.map_or(least, |secs| (secs / each).ceil().clamp(least, most));
    let (begin, rate) = (encode.start_secs.unwrap_or(0.0), with_crf(encode.video.rate, crf));
    let mut sample =
        Encode { container: Container::Mkv, quality: None, subtitles: SubtitleMode::Drop, ..encode.clone() };
    sample.video.rate = rate;
    sample.audio.codec = AudioChoice::None;
    sample.audio.loudness = None;
    let whole = SAMPLE_SECS * count;
    match (secs, &mut sample.source) {
        (_, Source::Generated { duration_secs }) => {
            *duration_secs = duration_secs.min(whole);
            sample.duration_secs = None;
            vec![sample]
        }
        (Some(secs), Source::File { .. } | Source::Remote { .. } | Source::Live { .. }) if secs > whole => {
            let gap = (secs - whole) / (count - 1.0);
            let starts = (0..count as u32).map(|number| begin + f64::from(number) * (SAMPLE_SECS + gap));
            let part = |start: f64| Encode {
                start_secs: (start > 0.0).then_some(start),
                duration_secs: Some(SAMPLE_SECS),
                ..sample.clone()
            };
            starts.map(part).collect()
        }
        (secs, Source::File { .. } | Source::Remote { .. } | Source::Live { .. }) => {
            sample.duration_secs = Some(secs.unwrap_or(whole));
            vec![sample]
        }
    }
}

/// A rate control with this CRF, and its bounds where it has any.
#[must_use]
pub fn with_crf(rate: RateControl, crf: u8) -> RateControl {
    match rate {
        RateControl::Crf { maxrate, bufsize, .. } | RateControl::Bitrate { maxrate, bufsize, .. } => {
            RateControl::Crf { crf, maxrate, bufsize }
        }
    }
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Next {
    /// Try this CRF.
    Try(u8),
    /// Take this one.
    Take(u8),
    /// Not even the best that was tried reaches the score.
    Hopeless(CrfTrial),
}

/// What was tried so far. A higher CRF has a lower score.
#[derive(Debug, Clone, PartialEq)]
pub struct Search {
    aim: Aim,
    lowest: u8,
    highest: u8,
    first: u8,
    /// What was tried, in order.
    pub trials: Vec<CrfTrial>,
}

impl Search {
    /// A search that begins at an encoder's usual CRF.
    #[must_use]
    pub fn new(aim: Aim, encoder: Encoder, usual: u8) -> Search {
        let (lowest, highest) = match encoder {
            Encoder::Libvpx => (4, 63),
            Encoder::Vp8Vaapi => (4, 63),
            Encoder::LibvpxVp9 | Encoder::Libsvtav1 | Encoder::LibaomAv1 | Encoder::Vp9Qsv | Encoder::Vp9Vaapi => {
                (6, 63)
            }
            Encoder::Libx264
            | Encoder::Libx265
            | Encoder::H264Nvenc
            | Encoder::HevcNvenc
            | Encoder::Av1Nvenc
            | Encoder::H264Qsv
            | Encoder::HevcQsv
            | Encoder::Av1Qsv
            | Encoder::H264Vaapi
            | Encoder::HevcVaapi
            | Encoder::Av1Vaapi
            | Encoder::H264Videotoolbox
            | Encoder::HevcVideotoolbox => (6, 51),
        };
        Search { aim, lowest, highest, first: usual.clamp(lowest, highest), trials: Vec::new() }
    }

    /// What to do next.
    #[must_use]
    pub fn next(&self) -> Next {
        let reaches = |trial: &&CrfTrial| trial.score >= self.aim.score;
        let good = self.trials.iter().filter(reaches).max_by_key(|trial| trial.crf);
        let bad = self.trials.iter().filter(|trial| !reaches(trial)).min_by_key(|trial| trial.crf);
        match (good, bad) {
            (None, None) => Next::Try(self.first),
            (Some(good), _) if self.trials.len() >= MOST_TRIALS || self.is_close(*good) => Next::Take(good.crf),
            (Some(good), None) if good.crf >= self.highest => Next::Take(good.crf),
            (Some(good), None) => Next::Try(good.crf + (self.highest - good.crf).div_ceil(2)),
            (None, Some(bad)) if bad.crf <= self.lowest || self.trials.len() >= MOST_TRIALS => Next::Hopeless(*bad),
            // The last one that is left decides whether there is any.
            (None, Some(_)) if self.trials.len() + 1 == MOST_TRIALS => Next::Try(self.lowest),
            (None, Some(bad)) => Next::Try(bad.crf - (bad.crf - self.lowest).div_ceil(2)),
            (Some(good), Some(bad)) if bad.crf <= good.crf + 1 => Next::Take(good.crf),
            (Some(good), Some(bad)) => Next::Try(self.between(*good, *bad)),
        }
    }

    fn is_close(&self, trial: CrfTrial) -> bool {
        trial.score < self.aim.score + self.aim.metric.slack()
    }

    /// Where a straight line between two scores crosses the aim, strictly between their CRFs.
    fn between(&self, good: CrfTrial, bad: CrfTrial) -> u8 {
        let share = (good.score - self.aim.score) / (good.score - bad.score).max(f64::EPSILON);
        let guess = f64::from(good.crf) + share * f64::from(bad.crf - good.crf);
        (guess.round() as u8).clamp(good.crf + 1, bad.crf - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::Metric;

    /// Searches on an encoder whose score falls with its CRF as `score` says.
    fn run(aim: f64, encoder: Encoder, usual: u8, score: impl Fn(u8) -> f64) -> (Next, Vec<u8>) {
        let mut search = Search::new(Aim { metric: Metric::Vmaf, score: aim }, encoder, usual);
        loop {
            match search.next() {
                Next::Try(crf) => search.trials.push(CrfTrial { crf, score: score(crf) }),
                end @ (Next::Take(_) | Next::Hopeless(_)) => {
                    assert!(search.trials.len() <= MOST_TRIALS, "{:?}", search.trials);
                    return (end, search.trials.iter().map(|trial| trial.crf).collect());
                }
            }
        }
    }

    #[test]
    fn the_highest_crf_that_reaches_every_score_is_found_in_few_trials() {
        let curve = |crf: u8| 100.0 - (f64::from(crf) / 51.0).powi(2) * 60.0;
        for aim in 41..100 {
            let (end, tried) = run(f64::from(aim), Encoder::Libx264, 23, curve);
            let best = (6..=51).rev().find(|crf| curve(*crf) >= f64::from(aim));
            match (end, best) {
                (Next::Take(crf), Some(best)) => {
                    assert!(best - crf <= 1 && curve(crf) >= f64::from(aim), "{aim}: {crf} for {best} after {tried:?}");
                }
                (Next::Hopeless(trial), None) => assert_eq!(trial.crf, 6),
                (end, best) => panic!("{aim}: {end:?} where {best:?} is the best, after {tried:?}"),
            }
        }
    }

    #[test]
    fn a_score_that_everything_reaches_takes_the_highest_and_one_that_nothing_reaches_is_hopeless() {
        assert_eq!(run(20.0, Encoder::Libsvtav1, 35, |_| 90.0).0, Next::Take(63));
        let (end, _) = run(99.5, Encoder::LibvpxVp9, 31, |crf| 95.0 - f64::from(crf));
        assert_eq!(end, Next::Hopeless(CrfTrial { crf: 6, score: 89.0 }));
    }
}
