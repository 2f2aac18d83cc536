//! A long encode as chunks: where its source is cut, what each chunk is called, and which encodes are cut at all.
//!
//! Invariant: pure; every frame of the source belongs to exactly one chunk. A cut lies halfway between two frames, or
//! between two numbers of frames, so that no rounding can give a frame to both sides or to none.
//! Source: measured with FFmpeg 5.1 and 9.0 on mp4, open-GOP mp4, mkv and ts: reading from a key frame 3 s before the cut
//! and dropping by time is exact in all of them, a seek alone in none but mp4.

mod cuts;
mod fit;
mod micros;
mod piece;
mod taken;
mod times;

pub use cuts::{Cut, Cuts, Seam, Span};
pub use fit::{needs, of, unfit, unfit_encoder};
pub use micros::Micros;
pub use piece::{Piece, directory, too_large, too_many};
pub use taken::{Taken, taken_by_all};
pub use times::Times;

/// Chunks of one job at most; a longer source gets longer chunks.
pub const CHUNKS_MAX: usize = 1500;

#[cfg(test)]
mod tests;
