//! How fast a list is sent.
//!
//! Invariant: two jobs are never closer together than the rate says; what was held up is not made good by a burst.

use std::str::FromStr;
use std::time::Duration;

use tokio::time::Instant;

/// The longest pause between two jobs that makes sense.
const SLOWEST: Duration = Duration::from_secs(3600);

/// Jobs in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// From one job to the next.
    pub(crate) pause: Duration,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        let expected =
            || format!("`{text}` is no rate: a number with a unit is expected, such as 20/s, 600/m or 1000/h");
        let (count, unit) = text.split_once('/').ok_or_else(expected)?;
        let seconds = match unit {
            "s" | "sec" | "second" => 1.0,
            "m" | "min" | "minute" => 60.0,
            "h" | "hour" => 3600.0,
            _ => return Err(expected()),
        };
        let count: f64 = count.parse().map_err(|_| expected())?;
        if !(count.is_finite() && count > 0.0) {
            return Err(expected());
        }
        let pause = Duration::try_from_secs_f64(seconds / count).map_err(|_| expected())?;
        if pause > SLOWEST {
            return Err(format!("`{text}` is slower than one job an hour"));
        }
        Ok(Rate { pause })
    }
}

/// Holds a sender to a rate.
#[derive(Debug)]
pub(crate) struct Pace {
    rate: Option<Rate>,
    next: Option<Instant>,
}

impl Pace {
    pub(crate) fn new(rate: Option<Rate>) -> Pace {
        Pace { rate, next: None }
    }

    /// Waits until the next job may go.
    pub(crate) async fn turn(&mut self) {
        let Some(rate) = self.rate else { return };
        if let Some(next) = self.next {
            tokio::time::sleep_until(next).await;
        }
        self.next = Some(Instant::now() + rate.pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_and_a_unit() {
        let pause = |text: &str| text.parse::<Rate>().map(|rate| rate.pause);
        assert_eq!(pause("20/s"), Ok(Duration::from_millis(50)));
        assert_eq!(pause("600/m"), Ok(Duration::from_millis(100)));
        assert_eq!(pause("0.5/s"), Ok(Duration::from_secs(2)));
        for wrong in ["", "20", "20/d", "0/s", "-1/s", "x/s", "inf/s", "NaN/s", "0.001/h"] {
            pause(wrong).unwrap_err();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn jobs_are_no_closer_together_than_the_rate_says_and_nothing_is_made_good() {
        let begin = Instant::now();
        let mut pace = Pace::new("20/s".parse().ok());
        for _ in 0..6 {
            pace.turn().await;
        }
        assert_eq!(begin.elapsed(), Duration::from_millis(250), "six jobs have five pauses of 50 ms");
        tokio::time::advance(Duration::from_secs(1)).await;
        pace.turn().await;
        pace.turn().await;
        assert_eq!(
            begin.elapsed(),
            Duration::from_millis(1300),
            "what was held up is followed by a pause like any other"
        );
    }
}
