//! Whether a live encode keeps up with its source.
//!
//! Invariant: only media that come in steadily are judged: a source that pauses does not make a slow encoder.

use std::collections::VecDeque;
use std::time::Duration;

/// Media per time under which an encode falls behind.
const SLOW: f64 = 0.95;
/// Time over which that is judged.
const WINDOW: Duration = Duration::from_secs(15);
/// A pause in the media after which it is judged anew.
const PAUSE: Duration = Duration::from_secs(2);

/// Follows one run.
#[derive(Debug, Default)]
pub struct Pace {
    /// Time and media time in seconds, oldest first; of one window.
    seen: VecDeque<(Duration, f64)>,
    is_slow: bool,
}

impl Pace {
    /// Takes media time at a moment at which it grew. Answers whether the encode is slow since now.
    pub fn observe(&mut self, at: Duration, media_secs: f64) -> bool {
        if self.seen.back().is_some_and(|(last, _)| at.saturating_sub(*last) > PAUSE) {
            self.seen.clear();
        }
        self.seen.push_back((at, media_secs));
        while self.seen.get(1).is_some_and(|(second, _)| at.saturating_sub(*second) >= WINDOW) {
            self.seen.pop_front();
        }
        let Some((first, media)) = self.seen.front().copied() else { return false };
        let window = at.saturating_sub(first);
        if window < WINDOW {
            return false;
        }
        let was_slow = std::mem::replace(&mut self.is_slow, (media_secs - media) / window.as_secs_f64() < SLOW);
        self.is_slow && !was_slow
    }

    /// Whether it was slow when it was last judged.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        self.is_slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(speed: f64, pauses: bool) -> usize {
        let mut pace = Pace::default();
        let mut count = 0;
        for tick in 0..400_u32 {
            let pause = if pauses { Duration::from_secs(u64::from(tick / 50) * 3) } else { Duration::ZERO };
            let at = Duration::from_millis(u64::from(tick) * 100) + pause;
            count += usize::from(pace.observe(at, f64::from(tick) * 0.1 * speed));
        }
        count
    }

    #[test]
    fn a_slow_encode_is_told_once_and_a_pausing_source_is_none() {
        assert_eq!(news(1.0, false), 0);
        assert_eq!(news(0.8, false), 1);
        assert_eq!(news(1.0, true), 0);
    }
}
