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
    /// How long the segments are into which it is cut afterwards: a chunk begins where one of them does. Absent: it may begin
    /// anywhere.
    pub segment: Option<Micros>,
}

impl Taken {
    /// All of a source.
    #[must_use]
    pub fn all(zero: Micros) -> Taken {
        Taken { zero, start: None, length: None, ticks: 1, segment: None }
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

    /// The source's name, which part of it this is, and how long the segments are: each is cut by itself.
    #[must_use]
    pub fn name(&self, source: &str) -> String {
        let Taken { zero, start, length, ticks, segment } = self;
        let mut name = source.to_owned();
        if self.is_part() {
            let told = |time: &Option<Micros>| time.map_or("-".to_owned(), |time| time.0.to_string());
            name += &format!(" part {} {} {} {ticks}", zero.0, told(start), told(length));
        }
        if let Some(segment) = segment {
            name += &format!(" segments {}", segment.0);
        }
        name
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
    if others.iter().any(|(_, other)| other.ticks != taken.ticks) {
        return Err("only some of its outputs are deinterlaced");
    }
    let segment = outputs.iter().find_map(|(_, taken)| taken.segment);
    if outputs.iter().any(|(_, taken)| taken.segment.is_some() && taken.segment != segment) {
        return Err("the segments of its presentations have different lengths");
    }
    Ok(Taken { segment, ..*taken })
}
