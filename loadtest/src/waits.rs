//! How long answers of the API took, and in how long they are to come.

use std::time::Duration;

use hdrhistogram::Histogram;

/// No answer is worth waiting longer for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// In less than this a question is to be answered, nineteen times of twenty.
pub const WANTED: Duration = Duration::from_millis(100);

/// How long answers took, in milliseconds.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Waits {
    /// Questions.
    pub asked: u64,
    /// Those that were not answered with 200.
    pub failed: u64,
    /// Half of the answers took no longer.
    pub p50_ms: f64,
    /// Nineteen of twenty took no longer.
    pub p95_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Waits {
    /// Whether all were answered, and nineteen of twenty in less than [`WANTED`].
    #[must_use]
    pub fn are_fine(&self) -> bool {
        self.failed == 0 && self.p95_ms < WANTED.as_secs_f64() * 1e3
    }
}

/// Waits as they are collected, in microseconds.
pub(crate) struct Measured {
    times: Histogram<u64>,
    failed: u64,
}

impl Measured {
    pub(crate) fn new() -> anyhow::Result<Measured> {
        // It saturates at its bound: nothing is waited for longer than this.
        let longest = u64::try_from(2 * PATIENCE.as_micros())?;
        Ok(Measured { times: Histogram::new_with_bounds(1, longest, 3)?, failed: 0 })
    }

    /// An answer that did not come counts with the time after which that was clear.
    pub(crate) fn note(&mut self, time: Duration, is_answered: bool) {
        self.times.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        self.failed += u64::from(!is_answered);
    }

    pub(crate) fn waits(&self) -> Waits {
        #[expect(clippy::cast_precision_loss, reason = "microseconds of a minute fit")]
        let millis = |micros: u64| micros as f64 / 1e3;
        Waits {
            asked: self.times.len(),
            failed: self.failed,
            p50_ms: millis(self.times.value_at_quantile(0.5)),
            p95_ms: millis(self.times.value_at_quantile(0.95)),
            max_ms: millis(self.times.max()),
        }
    }
}
