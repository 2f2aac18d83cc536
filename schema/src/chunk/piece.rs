//! The job that makes one chunk of another, and how many of them a job may have.
//!
//! Invariant: the id of a piece follows from what it is, so that asking twice makes one job.

use serde::{Deserialize, Serialize};

use super::Cut;
use crate::id::JobId;
use crate::message::hex;

/// Bytes that the jobs of one split may have together: they are recorded in one transaction.
const SPLIT_BYTES_MAX: usize = 64 << 20;
/// Files of chunks that one job may have, of all its outputs: the manifest names each, in some 400 bytes, and goes to the ledger
/// in one message.
const PROOFS_MAX: usize = 10_000;
/// What a chunk adds to the text of its job, at most: its name, its cut and its id.
const PIECE_BYTES: usize = 1024;

/// A job that makes one chunk of another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Piece {
    /// The job whose chunk it makes.
    pub of: JobId,
    /// Which chunk, from 0.
    pub number: u32,
    /// Chunks of that job.
    pub total: u32,
    /// The chunk's name, see [`crate::plan::chunk_key`].
    pub key: String,
    /// Where the source is cut.
    pub cut: Cut,
    /// The same for each of the job's other outputs, which one decode makes too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Cut>,
    /// Whether it is all the sound of the source instead of a stretch of its picture. Only where the grant allows it, see
    /// [`crate::message::Grant::sound_apart`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_sound: bool,
}

impl Piece {
    /// The feature of a worker that makes chunks.
    pub const FEATURE: &'static str = "chunks-1";
    /// The feature of a worker that makes chunks of a part of a source.
    pub const PART_FEATURE: &'static str = "chunks-part-1";
    /// The feature of a worker that makes the sound apart from them.
    pub const SOUND_FEATURE: &'static str = "chunks-sound-1";
    /// The feature of a worker that makes chunks of several outputs at once.
    pub const OUTPUTS_FEATURE: &'static str = "chunks-outputs-1";
    /// The feature of a worker that makes chunks of presentations, which begin where segments do.
    pub const SEGMENTS_FEATURE: &'static str = "chunks-segments-1";
    /// The features that only some workers that make chunks have.
    pub const FEATURES: [&'static str; 3] = [Piece::PART_FEATURE, Piece::OUTPUTS_FEATURE, Piece::SEGMENTS_FEATURE];

    /// Where the source is cut for each output.
    #[must_use]
    pub fn cuts(&self) -> Vec<Cut> {
        std::iter::once(&self.cut).chain(&self.others).cloned().collect()
    }

    /// The id of the job that makes it, the same whenever it is asked for the same attempt of the job that was split.
    #[must_use]
    pub fn id(&self, attempt: u32) -> JobId {
        JobId::derived("piece", &[self.of.0.as_bytes(), &attempt.to_be_bytes(), &self.number.to_be_bytes()])
    }
}

/// Why a job whose canonical form has `body_bytes` is not made in `chunks` of so many outputs: each of their jobs carries all of
/// it.
#[must_use]
pub fn too_large(body_bytes: usize, chunks: usize, outputs: usize) -> Option<String> {
    let bytes = body_bytes.saturating_add(PIECE_BYTES.saturating_mul(outputs.max(1))).saturating_mul(chunks);
    (bytes > SPLIT_BYTES_MAX).then(|| {
        let most = SPLIT_BYTES_MAX >> 20;
        format!(
            "the job's {body_bytes} bytes, once for each of its {chunks} chunks, are more than {most} MiB: write it shorter, or have \
             longer chunks"
        )
    })
}

/// Why a job of so many outputs is not made in so many `chunks`: its manifest names the file of each.
#[must_use]
pub fn too_many(chunks: usize, outputs: usize) -> Option<String> {
    (chunks.saturating_mul(outputs) > PROOFS_MAX).then(|| {
        format!(
            "{chunks} chunks of {outputs} outputs are more than the {PROOFS_MAX} files that a manifest names: have fewer outputs, or \
             longer chunks"
        )
    })
}

/// The directory of a source's chunks, by what identifies the source.
#[must_use]
pub fn directory(source: &str) -> String {
    use sha2::{Digest, Sha256};
    hex(&Sha256::digest(format!("ffpool source 1\0{source}").as_bytes())[..16])
}
