//! Decides which attempts can end before the machine is gone.
//!
//! Invariant: pure; an attempt is kept only while there is time to stop it should it slip.

use std::time::Duration;

use ffpool_schema::message::{Phase, Progress};
use jiff::{SignedDuration, Timestamp};

/// Verification decodes the whole output. Measured with libx264 at 720p: 0.24 of the encode with the preset ultrafast,
/// 0.11 with medium.
const VERIFY_SHARE: f64 = 0.25;
/// For the start of the tools that verify, and for staging, consent and publication.
const VERIFY_LEAST: Duration = Duration::from_secs(2);

/// What an attempt still needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It has not said, or cannot know.
    Unknown,
    /// About so much, verification and publication included.
    About(Duration),
    /// The encode is done; the rest does not say how long it takes, and is short.
    Little,
}

/// What is to become of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// It goes on.
    Keep,
    /// It is handed back.
    Release,
}

/// What an attempt that has come as far as `progress` still needs.
#[must_use]
pub fn need(progress: Option<&Progress>) -> Need {
    let Some(progress) = progress else { return Need::Unknown };
    match progress.phase {
        Phase::Prepare => Need::Unknown,
        // Media that come as they come, and end when they end.
        Phase::Encode if progress.live.is_some() && progress.eta_secs.is_none() => Need::About(Duration::MAX),
        Phase::Encode => {
            progress.eta_secs.and_then(|eta| with_the_rest(eta, progress.percent)).map_or(Need::Unknown, Need::About)
        }
        Phase::Verify | Phase::Commit => Need::Little,
    }
}

/// The time left for an encode that ends in `eta_secs`, with what comes after it.
fn with_the_rest(eta_secs: f64, percent: Option<f64>) -> Option<Duration> {
    let left = 1.0 - percent.unwrap_or(0.0) / 100.0;
    let whole = if left > 0.0 { eta_secs / left } else { eta_secs };
    let total = eta_secs + whole * VERIFY_SHARE;
    Duration::try_from_secs_f64(total).ok()?.checked_add(VERIFY_LEAST)
}

/// Whether an attempt with this `need` ends before `deadline`, less the `reserve` in which the worker hands back what
/// has slipped, reports and leaves.
pub fn fits(need: Need, deadline: Timestamp, now: Timestamp, reserve: Duration) -> Verdict {
    let left = time_left(deadline, now, reserve);
    match need {
        _ if left.is_zero() => Verdict::Release,
        Need::Little => Verdict::Keep,
        Need::About(needed) if needed <= left => Verdict::Keep,
        Need::About(_) | Need::Unknown => Verdict::Release,
    }
}

/// Time in which attempts may still run; zero when all must be handed back.
#[must_use]
pub fn time_left(deadline: Timestamp, now: Timestamp, reserve: Duration) -> Duration {
    let reserve = SignedDuration::try_from(reserve).unwrap_or(SignedDuration::MAX);
    deadline.duration_since(now).saturating_sub(reserve).try_into().unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use ffpool_schema::message::LiveProgress;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_table_of_verdicts() {
        use Need::{About, Little, Unknown};
        use Verdict::{Keep, Release};
        let now: Timestamp = "2026-03-01T08:00:00Z".parse().unwrap();
        let reserve = 5 * SECOND;
        // Seconds to the deadline, the need, the verdict.
        let table = [
            (120, Unknown, Release),
            (120, About(30 * SECOND), Keep),
            (120, About(115 * SECOND), Keep),
            (120, About(116 * SECOND), Release),
            (30, About(24 * SECOND), Keep),
            (30, About(26 * SECOND), Release),
            (30, Little, Keep),
            (6, Little, Keep),
            (6, About(SECOND), Keep),
            (5, Little, Release),
            (5, About(Duration::ZERO), Release),
            (0, Little, Release),
            (-60, About(Duration::ZERO), Release),
            (-60, Unknown, Release),
        ];
        for (secs, need, verdict) in table {
            let deadline = now + SignedDuration::from_secs(secs);
            assert_eq!(fits(need, deadline, now, reserve), verdict, "{secs} s left, {need:?}");
        }
        assert_eq!(fits(Little, Timestamp::MAX, Timestamp::MIN, Duration::MAX), Release);
        assert_eq!(fits(About(SECOND), Timestamp::MIN, Timestamp::MAX, Duration::ZERO), Release);
    }

    #[test]
    fn an_attempt_that_slips_is_released_while_there_is_time_to_stop_it() {
        let noticed: Timestamp = "2026-03-01T08:00:00Z".parse().unwrap();
        let deadline = noticed + SignedDuration::from_secs(120);
        let (reserve, mut released) = (15 * SECOND, None);
        for second in 0..120 {
            // Its estimate stays 40 s away for ever.
            let now = noticed + SignedDuration::from_secs(second);
            if fits(Need::About(40 * SECOND), deadline, now, reserve) == Verdict::Release {
                released = Some(second);
                break;
            }
        }
        assert_eq!(released, Some(66));
    }

    #[test]
    fn an_estimate_has_room_for_verification_and_a_missing_one_is_unknown() {
        let progress = |phase, percent, eta_secs| Progress {
            job: ffpool_schema::id::JobId(uuid::Uuid::nil()),
            attempt: 1,
            worker: "w".parse().unwrap(),
            seq: 1,
            phase,
            percent,
            frame: None,
            fps: None,
            speed: None,
            out_time_us: None,
            size_bytes: None,
            eta_secs,
            live: None,
        };
        // Half of 20 s is left: 10 s, a quarter of 20 s, and 2 s.
        assert_eq!(need(Some(&progress(Phase::Encode, Some(50.0), Some(10.0)))), Need::About(17 * SECOND));
        assert_eq!(need(Some(&progress(Phase::Encode, None, None))), Need::Unknown);
        let live = Progress { live: Some(LiveProgress::default()), ..progress(Phase::Encode, None, None) };
        assert_eq!(need(Some(&live)), Need::About(Duration::MAX));
        for odd in [f64::NAN, f64::INFINITY, -1000.0, 1e300] {
            assert_eq!(need(Some(&progress(Phase::Encode, Some(0.0), Some(odd)))), Need::Unknown, "{odd}");
        }
        assert_eq!(need(Some(&progress(Phase::Prepare, None, None))), Need::Unknown);
        assert_eq!(need(Some(&progress(Phase::Verify, Some(99.9), None))), Need::Little);
        assert_eq!(need(None), Need::Unknown);
    }
}
