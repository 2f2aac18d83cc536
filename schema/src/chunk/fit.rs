//! Which encodes are made in chunks, what a worker must know for it, and what is encoded of each output.
//!
//! Invariant: what is refused here cannot be made in chunks whatever the source is.

use super::Piece;
use crate::encode::{AudioChoice, Container, Encode, Encoder, Keep, RateControl, Source, SubtitleMode, Treatment};

/// Why an encode is not made in chunks, whatever its source is.
#[must_use]
pub fn unfit(encode: &Encode) -> Option<&'static str> {
    let video = &encode.video;
    if encode.live.is_some() || matches!(encode.source, Source::Live { .. }) {
        return Some("its source is live");
    }
    if matches!(encode.source, Source::Generated { .. }) {
        return Some("its source is generated");
    }
    if video.treatment != Treatment::Encode {
        return Some("its video is not encoded");
    }
    if video.two_pass || matches!(video.rate, RateControl::Bitrate { .. }) {
        return Some(
            "a bit rate is spent over the whole video: chunks take `crf`, with `maxrate` where it must be bounded",
        );
    }
    if encode.quality.as_ref().is_some_and(|quality| quality.aim.is_some()) {
        return Some("its CRF is sought in the whole of the source");
    }
    if encode.subtitles == SubtitleMode::Burn {
        return Some("subtitles that are burnt in go by the clock of the whole");
    }
    encode.others.iter().find_map(unfit)
}

/// The features of [`Piece::FEATURES`] that a worker must have to make chunks of such an encode.
pub fn needs(encode: &Encode) -> impl Iterator<Item = &'static str> {
    let is_part = |encode: &Encode| encode.start_secs.is_some() || encode.duration_secs.is_some();
    let has_part = is_part(encode) || encode.others.iter().any(is_part);
    let has_several = encode.ladder.is_some() || !encode.others.is_empty();
    let has_segments = encode.segments.is_some() || encode.others.iter().any(|other| other.segments.is_some());
    let part = has_part.then_some(Piece::PART_FEATURE);
    let several = has_several.then_some(Piece::OUTPUTS_FEATURE);
    part.into_iter().chain(several).chain(has_segments.then_some(Piece::SEGMENTS_FEATURE))
}

/// Why an encoder makes no chunks.
#[must_use]
pub fn unfit_encoder(encoder: Option<Encoder>) -> Option<&'static str> {
    let Some(encoder) = encoder else { return Some("its video is not encoded") };
    if encoder.is_hardware() {
        return Some("chunks are made by software encoders only");
    }
    (encoder == Encoder::Libvpx).then_some("VP8 does not go into the container of chunks")
}

/// The encode of one chunk: the video of this output alone.
#[must_use]
pub fn of(encode: &Encode) -> Encode {
    let mut chunk = Encode { others: Vec::new(), ladder: None, ..encode.clone() };
    chunk.container = Container::Mp4;
    chunk.output = None;
    chunk.audio.codec = AudioChoice::None;
    chunk.subtitles = SubtitleMode::Drop;
    chunk.metadata = Keep::Drop;
    chunk.chapters = Keep::Drop;
    chunk.quality = None;
    chunk
}
