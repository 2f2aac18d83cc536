//! What is known of a live job while it runs: where its media stand in time, how its sinks fare, whether its encoder
//! keeps up, and how long to wait before it is tried again.
//!
//! Invariant: pure; time and chance come in as arguments.

pub(crate) mod flow;
pub mod mpd;
pub mod pace;
pub mod sinks;
pub mod timeline;
pub(crate) mod transport;

use std::time::Duration;

/// The first pause before the tool is started again.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
/// The longest.
const PAUSE_MOST: Duration = Duration::from_secs(10);
/// A run that carried media for so long was a good one: the pauses begin anew.
pub const HEALTHY: Duration = Duration::from_secs(60);

/// The pause after `last`, decorrelated: between the first pause and three times the last one, by `chance` from 0 to 1.
#[must_use]
pub fn pause_after(last: Option<Duration>, chance: f64) -> Duration {
    let Some(last) = last else { return PAUSE_FIRST };
    let room = (last * 3).saturating_sub(PAUSE_FIRST);
    (PAUSE_FIRST + room.mul_f64(chance.clamp(0.0, 1.0))).min(PAUSE_MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_by_chance_and_within_bounds() {
        assert_eq!(pause_after(None, 0.7), PAUSE_FIRST);
        let mut pause = pause_after(None, 1.0);
        for _ in 0..10 {
            let next = pause_after(Some(pause), 1.0);
            assert!(next > pause || next == PAUSE_MOST, "{pause:?} {next:?}");
            pause = next;
        }
        assert_eq!(pause, PAUSE_MOST);
        assert_eq!(pause_after(Some(PAUSE_MOST), 0.0), PAUSE_FIRST);
    }
}
