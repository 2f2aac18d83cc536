//! Reads FFmpeg's `-progress` blocks and makes percent, speed and time left of them.
//!
//! Invariant: pure; the clock comes in as an argument. Percent never reaches 100: only a published output does.
//! Source: FFmpeg 5.1 and 9.0 measured: `N/A`, negative numbers and leading blanks occur, `out_time_us` is microseconds in all.

use std::time::Duration;

/// Percent of an encode that is not proven yet.
const PERCENT_CAP: f64 = 99.9;
/// Time over which the speed is smoothed.
const SMOOTHING: Duration = Duration::from_secs(15);
/// Before either of these an estimate of the time left would say how long the tool took to start.
const ETA_PERCENT: f64 = 2.0;
const ETA_AFTER: Duration = Duration::from_secs(3);

/// One block. Fields that the tool does not know are absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Block {
    /// Frames of the first video stream that were written.
    pub frame: Option<u64>,
    /// Frames per second.
    pub fps: Option<f64>,
    /// Bytes written.
    pub total_size: Option<u64>,
    /// Media time written, in microseconds.
    pub out_time_us: Option<i64>,
    /// Seconds of media per second, as the tool averages it.
    pub speed: Option<f64>,
    /// Frames that were left out, and written twice, to keep a rate.
    pub dropped: Option<u64>,
    /// See `dropped`.
    pub duplicated: Option<u64>,
    /// The tool's last block. It says so after a signal too, so this is no success.
    pub is_last: bool,
}

/// Puts lines together to blocks.
#[derive(Debug, Default)]
pub struct Blocks {
    current: Block,
}

impl Blocks {
    /// Takes a line; a block when it was its last. Lines that are not understood are passed over.
    pub fn line(&mut self, line: &str) -> Option<Block> {
        let (key, value) = line.split_once('=')?;
        let value = value.trim();
        match key.trim() {
            "frame" => self.current.frame = value.parse().ok(),
            "fps" => self.current.fps = number(value),
            "total_size" => self.current.total_size = value.parse().ok(),
            "out_time_us" => self.current.out_time_us = value.parse().ok(),
            "drop_frames" => self.current.dropped = value.parse().ok(),
            "dup_frames" => self.current.duplicated = value.parse().ok(),
            "speed" => self.current.speed = number(value.trim_end_matches('x').trim()),
            "progress" => {
                self.current.is_last = value == "end";
                return Some(std::mem::take(&mut self.current));
            }
            _ => {}
        }
        None
    }
}

/// A number that can be counted with: `inf` and `nan` are none.
fn number(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|value| value.is_finite())
}

/// What a block means for the whole encode.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Estimate {
    /// 0 to 99.9.
    pub percent: Option<f64>,
    /// Seconds of media per second, smoothed.
    pub speed: Option<f64>,
    /// Seconds left.
    pub eta_secs: Option<f64>,
    /// Whether media time or size grew since the last block.
    pub has_advanced: bool,
}

/// Follows one encode.
#[derive(Debug)]
pub struct Meter {
    duration_secs: Option<f64>,
    /// Wall time and media time in seconds at the last block that had any.
    last: Option<(f64, f64)>,
    speed: Option<f64>,
    /// The farthest media time and size.
    farthest: (i64, u64),
}

impl Meter {
    /// For an output of this length, where it is known.
    #[must_use]
    pub fn new(duration_secs: Option<f64>) -> Meter {
        let duration_secs = duration_secs.filter(|secs| *secs > 0.0);
        Meter { duration_secs, last: None, speed: None, farthest: (0, 0) }
    }

    /// Takes a block that came `elapsed` after the tool's start.
    pub fn observe(&mut self, block: &Block, elapsed: Duration) -> Estimate {
        let has_advanced = self.advance(block);
        let Some(media) = block.out_time_us.map(|us| (us.max(0)) as f64 / 1e6) else {
            return Estimate { percent: None, speed: self.speed, eta_secs: None, has_advanced };
        };
        self.smooth(elapsed.as_secs_f64(), media);
        let percent = self.duration_secs.map(|duration| (media / duration * 100.0).clamp(0.0, PERCENT_CAP));
        let is_settled = elapsed >= ETA_AFTER || percent.is_some_and(|percent| percent >= ETA_PERCENT);
        let left = self.duration_secs.map(|duration| (duration - media).max(0.0)).filter(|_| is_settled);
        Estimate {
            percent,
            speed: self.speed,
            eta_secs: left.zip(self.speed.filter(|speed| *speed > 0.0)).map(|(left, speed)| left / speed),
            has_advanced,
        }
    }

    fn advance(&mut self, block: &Block) -> bool {
        let (time, size) = (block.out_time_us.unwrap_or(0), block.total_size.unwrap_or(0));
        let has_advanced = time > self.farthest.0 || size > self.farthest.1;
        self.farthest = (self.farthest.0.max(time), self.farthest.1.max(size));
        has_advanced
    }

    fn smooth(&mut self, wall: f64, media: f64) {
        let (last_wall, last_media) = self.last.unwrap_or((0.0, 0.0));
        let step = wall - last_wall;
        if step <= 0.0 {
            return;
        }
        let now = ((media - last_media) / step).max(0.0);
        // Over what is known so far: a slow first block does not count for more than its share of the time.
        let share = |secs: f64| 1.0 - (-secs / SMOOTHING.as_secs_f64()).exp();
        let weight = share(step) / share(wall);
        self.speed = Some(self.speed.map_or(now, |speed| speed + weight * (now - speed)));
        self.last = Some((wall, media));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(text: &str) -> Vec<Block> {
        let mut blocks = Blocks::default();
        text.lines().filter_map(|line| blocks.line(line)).collect()
    }

    #[test]
    fn a_block_of_a_real_encode_is_read() {
        let found = blocks(
            "frame=30\nfps=29.97\nstream_0_0_q=-1.0\nbitrate= 370.4kbits/s\ntotal_size=46387\nout_time_us=1002000\n\
             out_time_ms=1002000\nout_time=00:00:01.002000\ndup_frames=0\ndrop_frames=0\nspeed= 35.9x\nprogress=end\n",
        );
        let expected = Block {
            frame: Some(30),
            fps: Some(29.97),
            total_size: Some(46387),
            out_time_us: Some(1_002_000),
            speed: Some(35.9),
            dropped: Some(0),
            duplicated: Some(0),
            is_last: true,
        };
        assert_eq!(found, [expected]);
    }

    #[test]
    fn what_the_tool_does_not_know_is_absent() {
        let found = blocks(
            "bitrate=N/A\ntotal_size=N/A\nout_time_us=-9223372036854775808\nspeed=N/A\nprogress=continue\nrubbish\n",
        );
        assert_eq!(found, [Block { out_time_us: Some(i64::MIN), ..Block::default() }]);
        let estimate = Meter::new(Some(10.0)).observe(&found[0], Duration::from_secs(1));
        assert_eq!(estimate.percent, Some(0.0));
        assert!(!estimate.has_advanced);
    }

    #[test]
    fn percent_stays_under_100_and_the_time_left_follows_the_speed() {
        let mut meter = Meter::new(Some(10.0));
        let at = |secs: i64| Block { out_time_us: Some(secs * 1_000_000), ..Block::default() };
        let early = meter.observe(&at(2), Duration::from_secs(1));
        assert_eq!((early.percent, early.speed, early.eta_secs), (Some(20.0), Some(2.0), Some(4.0)));
        let late = meter.observe(&at(12), Duration::from_secs(6));
        assert_eq!((late.percent, late.eta_secs), (Some(PERCENT_CAP), Some(0.0)));
    }

    #[test]
    fn a_slow_start_makes_no_absurd_time_left() {
        let mut meter = Meter::new(Some(600.0));
        let mut at = |wall_ms: u64, media_ms: i64| {
            let block = Block { out_time_us: Some(media_ms * 1000), ..Block::default() };
            meter.observe(&block, Duration::from_millis(wall_ms)).eta_secs
        };
        assert_eq!(at(500, 1), None);
        // Then twice as fast as it plays.
        for block in 1..5 {
            assert_eq!(at(500 + block * 500, block as i64 * 1000), None);
        }
        let left = at(3000, 5000).expect("after three seconds there is an estimate");
        assert!((300.0..400.0).contains(&left), "{left}");
    }

    #[test]
    fn a_repeated_block_is_no_advance() {
        let mut meter = Meter::new(None);
        let block = Block { out_time_us: Some(5), total_size: Some(10), ..Block::default() };
        assert!(meter.observe(&block, Duration::from_secs(1)).has_advanced);
        assert!(!meter.observe(&block, Duration::from_secs(2)).has_advanced);
        let grown = Block { total_size: Some(11), ..block };
        assert!(meter.observe(&grown, Duration::from_secs(3)).has_advanced);
    }

    #[test]
    fn an_unknown_length_gives_no_percent() {
        let estimate = Meter::new(None)
            .observe(&Block { out_time_us: Some(1_000_000), ..Block::default() }, Duration::from_secs(1));
        assert_eq!((estimate.percent, estimate.eta_secs), (None, None));
    }
}
