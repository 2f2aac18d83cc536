//! When the frames of a source are shown and when its streams end, by all of its packets: for outputs that do not fit what the
//! source's header says.
//!
//! Invariant: pure; at most so many times are kept as the longest source has frames.

use ffpool_schema::encode::{AudioChoice, Encode};
use ffpool_schema::plan::Expected;
use ffpool_schema::probe::Probed;

use crate::packets::{field, number};
use crate::tool::Listener;

/// Times that are kept: four days at 120 frames per second.
const FRAMES: usize = 1 << 25;
/// Streams whose ends are kept.
const STREAMS: usize = 256;
/// By how much of itself a frame may be nearer to the next one than its rate says: clocks of files count in steps.
const NEAR: f64 = 0.02;

/// What the packets of a source say.
#[derive(Debug)]
pub struct Shown {
    /// The video's number among the streams.
    video: Option<usize>,
    /// When each frame of the video is shown, by the file's clock.
    times: Vec<f64>,
    /// When the first key frame is shown.
    key: Option<f64>,
    /// When each stream ends.
    ends: Vec<Option<f64>>,
    /// Kinds of the streams.
    kinds: Vec<String>,
}

impl Shown {
    /// For a source of these streams, before its packets are listed.
    #[must_use]
    pub fn of(probed: &Probed) -> Shown {
        let kinds: Vec<String> = probed.streams.iter().map(|(kind, _)| kind.clone()).collect();
        Shown {
            video: kinds.iter().position(|kind| kind == "video"),
            times: Vec::new(),
            key: None,
            ends: vec![None; kinds.len().min(STREAMS)],
            kinds,
        }
    }

    /// Takes a line of the prober: `stream_index=0|pts_time=0.08|dts_time=0.00|duration_time=0.04|flags=K_`.
    fn line(&mut self, line: &str) {
        let stream = field(line, "stream_index").and_then(|text| text.parse::<usize>().ok());
        let Some(stream) = stream.filter(|stream| *stream < self.ends.len()) else { return };
        let Some(time) = number(line, "pts_time").or_else(|| number(line, "dts_time")) else { return };
        let end = time + number(line, "duration_time").unwrap_or(0.0);
        self.ends[stream] = Some(self.ends[stream].map_or(end, |last| last.max(end)));
        // Outside of an edit list a frame is decoded and not shown.
        let is_shown = !field(line, "flags").is_some_and(|flags| flags.contains('D'));
        if self.video == Some(stream) && is_shown && self.times.len() < FRAMES {
            self.times.push(time);
            if self.key.is_none() && field(line, "flags").is_some_and(|flags| flags.contains('K')) {
                self.key = Some(time);
            }
        }
    }

    /// All packets have been listed.
    pub fn finish(&mut self) {
        // What comes before the first key frame stands on frames that are not there.
        let first = self.key.unwrap_or(f64::NEG_INFINITY);
        self.times.retain(|time| *time >= first);
        self.times.sort_by(f64::total_cmp);
    }

    /// When the last stream of a kind ends, by the file's clock.
    #[must_use]
    pub fn end_of(&self, kind: &str) -> Option<f64> {
        let ends = self.kinds.iter().zip(&self.ends).filter(|(there, _)| *there == kind);
        ends.filter_map(|(_, end)| *end).reduce(f64::max)
    }

    /// Frames that come sooner after the one before than a rate has them, and may be left out to keep it.
    #[must_use]
    pub fn crowded(&self, fps: f64) -> u64 {
        let step = (1.0 - NEAR) / fps;
        self.times.windows(2).filter(|pair| pair[1] - pair[0] < step).count() as u64
    }

    /// What an output must be by the packets of its source, where the header led to `expected`.
    #[must_use]
    pub fn expected(&self, expected: &Expected, encode: &Encode, probed: &Probed) -> Expected {
        let zero = probed.start_secs.unwrap_or(0.0) + encode.start_secs.unwrap_or(0.0);
        let length = encode.duration_secs.unwrap_or(f64::INFINITY);
        let mut closer = expected.clone();
        let picture = expected.video.as_ref().and_then(|_| self.picture(zero, length));
        if let Some(Picture { first, last, after }) = picture {
            let gap = after - last;
            // The last frame lasts as long as it does in the source, or as any other does.
            let least = last - first + gap.min(expected.frame_secs);
            closer.video_secs = expected.video_secs.map(|_| [least.max(0.0), after.min(length)]);
            closer.frame_secs = expected.frame_secs.max(gap);
        }
        let sounds = match encode.audio.codec {
            AudioChoice::None => Vec::new(),
            AudioChoice::Aac | AudioChoice::Opus | AudioChoice::Mp3 | AudioChoice::Copy => {
                encode.audio.streams.of(probed.audio.len()).unwrap_or_default()
            }
        };
        let audio = || self.kinds.iter().zip(&self.ends).filter(|(kind, _)| *kind == "audio");
        let ends = sounds.iter().filter_map(|sound| *audio().nth(*sound)?.1).map(|end| (end - zero).min(length));
        let whole = ends.chain(picture.map(|picture| picture.after.min(length))).reduce(f64::max);
        closer.duration_secs = expected.duration_secs.and(whole).filter(|secs| *secs > 0.0).or(expected.duration_secs);
        closer
    }

    /// What is taken of the video, in seconds from where the output begins.
    fn picture(&self, zero: f64, length: f64) -> Option<Picture> {
        let begin = self.times.partition_point(|time| *time < zero);
        let end = self.times.partition_point(|time| *time < zero + length);
        let taken = self.times.get(begin..end)?;
        let (first, last) = (taken.first()?, taken.last()?);
        let after = self.times.get(end).copied().or_else(|| *self.ends.get(self.video?)?)?;
        Some(Picture { first: first - zero, last: last - zero, after: after.max(*last) - zero })
    }
}

/// The part of a video that is taken: when its first and its last frame are shown, and when the one after the last would be.
#[derive(Debug, Clone, Copy)]
struct Picture {
    first: f64,
    last: f64,
    after: f64,
}

impl Listener for Shown {
    fn output(&mut self, line: &str) -> bool {
        self.line(line);
        true
    }

    fn log(&mut self, _: &str) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use ffpool_schema::job::JobSpec;
    use ffpool_schema::message::AudioProbe;
    use ffpool_schema::plan::{ExpectedVideo, SourceFrames};

    fn shown(lines: &[&str]) -> (Shown, Probed) {
        let streams = [("video", "h264"), ("audio", "aac")].map(|(kind, codec)| (kind.to_owned(), codec.to_owned()));
        let probed = Probed {
            streams: streams.into(),
            audio: vec![AudioProbe::default()],
            start_secs: Some(1.4),
            ..Probed::default()
        };
        let mut shown = Shown::of(&probed);
        for line in lines {
            shown.line(line);
        }
        shown.finish();
        (shown, probed)
    }

    /// Frames at 0, 0.04, 0.06 and 1.0 that last to 4.0, one that is not shown, one that does not decode, and sound that
    /// ends at 2.5.
    const LINES: [&str; 8] = [
        "stream_index=0|pts_time=1.350000|dts_time=1.300000|duration_time=0.04|flags=__",
        "stream_index=0|pts_time=2.400000|dts_time=1.400000|duration_time=3.0|flags=__",
        "stream_index=0|pts_time=1.400000|dts_time=1.400000|duration_time=0.04|flags=K_",
        "stream_index=0|pts_time=1.300000|dts_time=1.300000|duration_time=0.04|flags=KD",
        "stream_index=0|pts_time=1.460000|dts_time=1.400000|duration_time=0.04|flags=__",
        "stream_index=0|pts_time=1.440000|dts_time=1.400000|duration_time=0.04|flags=__",
        "stream_index=1|pts_time=1.400000|dts_time=1.400000|duration_time=2.5|flags=K_",
        "side data",
    ];

    fn expected() -> Expected {
        let video = ExpectedVideo {
            codec: "h264".to_owned(),
            width: 320,
            height: 180,
            fps: None,
            pixel_format: Some("yuv420p"),
            profile: None,
            bitrate: None,
            colors: None,
            is_picture: false,
        };
        Expected {
            container: ffpool_schema::encode::Container::Mkv,
            video: Some(video),
            audio: Vec::new(),
            subtitles: Vec::new(),
            chapters: None,
            duration_secs: Some(9.0),
            video_secs: Some([9.0, 9.0]),
            audio_lag_secs: None,
            pictures: None,
            source_frames: Some(SourceFrames { said: None, is_counted: false, is_all: true }),
            frame_secs: 0.04,
            sound_slack_secs: 0.0,
        }
    }

    #[test]
    fn frames_that_crowd_may_be_left_out_and_the_last_one_may_be_long() {
        let (shown, probed) = shown(&LINES);
        assert_eq!((shown.crowded(25.0), shown.crowded(50.0)), (1, 0));
        assert_eq!(
            (shown.end_of("video"), shown.end_of("audio"), shown.end_of("subtitle")),
            (Some(5.4), Some(3.9), None)
        );
        let encode = ffpool_schema::scenario::resolve(&JobSpec::new("720p-h264")).unwrap().unwrap();
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        let whole = shown.expected(&expected(), &encode, &probed);
        assert!(near(whole.duration_secs.unwrap(), 4.0) && near(whole.frame_secs, 3.0), "{whole:?}");
        assert!(whole.video_secs.is_some_and(|[least, most]| near(least, 1.04) && near(most, 4.0)), "{whole:?}");
        let part = Encode { start_secs: Some(0.05), duration_secs: Some(0.5), ..encode };
        let part = shown.expected(&expected(), &part, &probed);
        assert!(near(part.duration_secs.unwrap(), 0.5), "{part:?}");
        assert!(part.video_secs.is_some_and(|[least, most]| near(least, 0.04) && near(most, 0.5)), "{part:?}");
    }
}
