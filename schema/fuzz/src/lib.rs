//! What every fuzz target does with its bytes: one function for each parser of foreign bytes, or for a family of them.
//!
//! A function panics where a parser breaks its word: it panics itself, says something without a bound, or reads what it has
//! written differently. Parsers that their crates keep to themselves are in files without a dependency on the rest of the
//! crate, and compiled here a second time.
//!
//! The schema's tests compile this file too, and run every function on the seeds and on what little changes make of them.
//!
//! Invariant: no I/O, no clock, no randomness: the same bytes do the same each time.

pub mod job;
pub mod lists;
pub mod live;
pub mod messages;
pub mod places;
pub mod tools;

/// What the reader of packets needs of the worker's `tool`.
pub(crate) mod tool {
    pub trait Listener: Send {
        fn output(&mut self, line: &str) -> bool;
        #[allow(dead_code)]
        fn log(&mut self, line: &str);
    }
}

/// The text of some bytes, as a tool's output is read: what is no text is replaced.
fn text(data: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(data)
}

/// The two parts of some bytes, which a zero parts.
fn parts(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|byte| *byte == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[]),
    }
}
