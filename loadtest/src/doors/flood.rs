//! One address that asks as fast as it can: how much of it passes, and what others notice of it.
//!
//! Invariant: what should pass is counted from the times at which requests were under way, so a slow machine changes what is
//! expected and not the verdict.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::bail;
use futures_util::{StreamExt as _, stream};

use super::Others;

/// Where the flood comes from.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
/// Requests of it that are under way at the same time.
const AT_ONCE: usize = 4;
/// The limit of one address, `FFPOOL_RATE_ADDRESS`'s default: so many a second, so many at once.
const PER_SEC: f64 = 100.0;
const BURST: f64 = 200.0;
/// By so much of what should pass may what passed differ.
const TOLERANCE: f64 = 0.05;

/// What became of a flood.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Flood {
    /// Requests.
    pub sent: usize,
    /// In so many seconds.
    pub secs: f64,
    /// Those that were answered with 200; all others with 429.
    pub passed: usize,
    /// The least and the most that should have been, within 5 %.
    pub expected: (f64, f64),
    /// Questions of others meanwhile.
    pub others_asked: usize,
    /// Those of them that were not answered.
    pub others_failed: usize,
}

impl Flood {
    /// Whether the limit was kept within 5 % and nobody else noticed.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
        let passed = self.passed as f64;
        (self.expected.0..=self.expected.1).contains(&passed) && self.others_failed == 0
    }
}

impl fmt::Display for Flood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Flood { sent, secs, passed, expected: (least, most), others_asked, others_failed } = self;
        write!(
            f,
            "flood: {passed} of {sent} requests of one address passed in {secs:.2} s ({least:.0} to {most:.0} are right); \
             of {others_asked} questions of others {others_failed} failed"
        )
    }
}

/// Sends `count` requests from one address and asks from another one meanwhile.
pub(super) async fn run(others: &Others, flood: &reqwest::Client, key: &str, count: usize) -> anyhow::Result<Flood> {
    let began = Instant::now();
    let ask = async |turn: usize| {
        // One question of somebody else for twenty of the flood.
        let other = match turn.is_multiple_of(20) {
            true => Some(others.is_answered(&others.kept).await),
            false => None,
        };
        let sent = began.elapsed();
        let answer = flood.get(&others.url).bearer_auth(key).send().await?;
        let passed = match answer.status().as_u16() {
            200 => true,
            429 => false,
            status => bail!("request {turn} of the flood was answered with {status}: {}", answer.text().await?),
        };
        Ok((passed, sent, began.elapsed(), other))
    };
    let answers: Vec<anyhow::Result<_>> = stream::iter(0..count).map(ask).buffer_unordered(AT_ONCE).collect().await;
    let answers = answers.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let elapsed = began.elapsed();
    // Each was decided between these two times.
    let by_sent = passing(answers.iter().map(|(_, sent, ..)| *sent).collect());
    let by_answered = passing(answers.iter().map(|(_, _, answered, _)| *answered).collect());
    let most = by_sent.max(by_answered).min(BURST + PER_SEC * elapsed.as_secs_f64());
    let asked: Vec<bool> = answers.iter().filter_map(|(.., other)| *other).collect();
    Ok(Flood {
        sent: count,
        secs: elapsed.as_secs_f64(),
        passed: answers.iter().filter(|(passed, ..)| *passed).count(),
        expected: (by_sent.min(by_answered) * (1.0 - TOLERANCE), most * (1.0 + TOLERANCE)),
        others_asked: asked.len(),
        others_failed: asked.iter().filter(|is_answered| !**is_answered).count(),
    })
}

/// How many of those that come at these times the limit lets pass.
fn passing(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    let (mut tokens, mut last, mut passed) = (BURST, Duration::ZERO, 0.0);
    for time in times {
        tokens = (tokens + PER_SEC * (time - last).as_secs_f64()).min(BURST);
        last = time;
        if tokens >= 1.0 {
            tokens -= 1.0;
            passed += 1.0;
        }
    }
    passed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_should_pass_is_the_burst_and_then_the_rate() {
        let at = |millis: u64| vec![Duration::from_millis(millis); 150];
        assert_eq!(passing([at(0), at(0)].concat()) as u32, 200);
        assert_eq!(passing([at(0), at(0), at(1000)].concat()) as u32, 300);
        assert_eq!(passing((0..500).map(|turn| Duration::from_millis(20 * turn)).collect()) as u32, 500);
    }
}
