//! What an encode takes of its source: all of it or a part, by the clock by which it is read.
//!
//! Invariant: two parts of a source that differ have different names.

use super::Micros;
use crate::encode::Encode;

/// What an encode takes of its source, by the clock by which FFmpeg reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// What that clock's zero is by the source's own.
    pub zero: Micros,
    /// When it begins after that; absent: with the source.
    pub start: Option<Micros>,
    /// How long it is; absent: to the source's end.
    pub length: Option<Micros>,
    /// In how many parts filters count a tick of the source's clock.
    pub ticks: u8,
}

impl Taken {
    /// All of a source.
    #[must_use]
    pub fn all(zero: Micros) -> Taken {
        Taken { zero, start: None, length: None, ticks: 1 }
    }

    /// Whether it is less than the source, or may be.
    #[must_use]
    pub fn is_part(&self) -> bool {
        self.start.is_some() || self.length.is_some()
    }

    /// What is the output's start, by the source's clock.
    pub(super) fn begins(&self) -> Micros {
        Micros(self.zero.0 + self.start.map_or(0, |start| start.0))
    }

    /// The source's name, and which part of it this is: the parts of a source are cut each by itself.
    #[must_use]
    pub fn name(&self, source: &str) -> String {
        if !self.is_part() {
            return source.to_owned();
        }
        let Taken { zero, start, length, ticks } = self;
        let told = |time: &Option<Micros>| time.map_or("-".to_owned(), |time| time.0.to_string());
        format!("{source} part {} {} {} {ticks}", zero.0, told(start), told(length))
    }
}

/// What all outputs take of the source. `outputs`: each with what it takes by itself.
///
/// # Errors
/// Why it is not the same for all.
pub fn taken_by_all(outputs: &[(&Encode, Taken)]) -> Result<Taken, &'static str> {
    let Some(((encode, taken), others)) = outputs.split_first() else { return Err("it has no output") };
    let part = |encode: &Encode| (encode.start_secs, encode.duration_secs);
    if others.iter().any(|(other, _)| part(other) != part(encode)) {
        return Err("its outputs take different parts of the source");
    }
    if others.iter().any(|(_, other)| other.zero != taken.zero) {
        return Err("its outputs begin with different streams of the source");
    }
    // The filter has a clock of its own.
    if others.iter().any(|(_, other)| other != taken) {
        return Err("only some of its outputs are deinterlaced");
    }
    Ok(*taken)
}
