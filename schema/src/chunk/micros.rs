//! Times by a source's clock, in whole microseconds.
//!
//! Invariant: what is written is read again as the same time, by FFmpeg and from JSON.

use serde::{Deserialize, Serialize};

/// A time by a source's clock, counted in microseconds, as FFmpeg tells times: a fraction may come out of JSON another than
/// it went in, and a chunk would have another name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Micros(pub i64);

impl Micros {
    /// As FFmpeg reads what it is told in seconds: what is less than a microsecond is left off.
    #[must_use]
    pub fn told(secs: f64) -> Micros {
        let text = secs.to_string();
        let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
        let digits: String = part.chars().chain("000000".chars()).take(6).collect();
        Micros(format!("{whole}{digits}").parse().unwrap_or_else(|_| Micros::of(secs).0))
    }

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
