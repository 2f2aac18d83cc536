//! What reads a source: its demuxer and its decoders.
//!
//! Invariant: what the probe found decides about each of them; a source of a kind that is not in these lists is refused.

use super::{Value, unsupported};
use crate::encode::{Encode, Keep};
use crate::plan::Refusal;
use crate::probe::Probed;

/// The property by which a decoder is told how many threads it may start.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Threads {
    Libav,
    Libvpx,
    Unbounded,
}

/// Elements that make frames of a stream's packets.
pub(super) struct Decoder {
    parser: Option<&'static str>,
    element: Option<&'static str>,
    threads: Threads,
}

impl Decoder {
    /// Its elements in their order, with their properties.
    pub(super) fn elements(&self, threads: u32) -> Vec<(&'static str, Vec<(&'static str, Value)>)> {
        let threads = Value::Number(u64::from(threads));
        let properties = match self.threads {
            Threads::Libav => vec![("max-threads", threads)],
            Threads::Libvpx => vec![("threads", threads)],
            Threads::Unbounded => Vec::new(),
        };
        let parser = self.parser.map(|parser| (parser, Vec::new()));
        parser.into_iter().chain(self.element.map(|element| (element, properties))).collect()
    }
}

fn refuse<T>(field: &str, what: &str) -> Result<T, Refusal> {
    Err(Refusal::Job(unsupported(field, what)))
}

/// What makes frames of a live source's video: parser and decoder.
pub(super) const LIVE_VIDEO: [&str; 2] = ["h264parse", "avdec_h264"];
/// The same of its sound.
pub(super) const LIVE_AUDIO: [&str; 2] = ["aacparse", "avdec_aac"];

/// Refuses what only the source tells, and the pipeline does not do.
pub(super) fn check(probed: &Probed) -> Result<(), Refusal> {
    let rotation = probed.probe.video.as_ref().and_then(|video| video.rotation);
    if rotation.is_some_and(|degrees| degrees.rem_euclid(360) != 0) {
        return refuse("input", "the source is rotated, and is to be turned upright");
    }
    if probed.is_interlaced {
        return refuse("input", "the source is interlaced");
    }
    if probed.colors.is_hdr() {
        return refuse("parameters.hdr", "the source is HDR");
    }
    Ok(())
}

/// Refuses a source whose chapters would be lost.
pub(super) fn check_chapters(encode: &Encode, probed: &Probed) -> Result<(), Refusal> {
    if probed.chapters > 0 && encode.chapters == Keep::Keep {
        return refuse("parameters.chapters", "the source has chapters, which are to be kept (`drop` is possible)");
    }
    Ok(())
}

pub(super) fn demuxer(probed: &Probed) -> Result<&'static str, Refusal> {
    let format = probed.probe.format.as_str();
    let is = |name: &str| format.split(',').any(|known| known == name);
    if is("mp4") {
        Ok("qtdemux")
    } else if is("matroska") {
        Ok("matroskademux")
    } else {
        refuse("input", &format!("the source is {format}, where mp4, mov, mkv and webm are read"))
    }
}

pub(super) fn video_decoder(codec: &str) -> Result<Decoder, Refusal> {
    let (parser, element, threads) = match codec {
        "h264" => (Some("h264parse"), "avdec_h264", Threads::Libav),
        "hevc" => (Some("h265parse"), "avdec_h265", Threads::Libav),
        "mpeg2video" => (Some("mpegvideoparse"), "avdec_mpeg2video", Threads::Libav),
        "mpeg4" => (Some("mpeg4videoparse"), "avdec_mpeg4", Threads::Libav),
        "vp8" => (None, "vp8dec", Threads::Libvpx),
        "vp9" => (None, "vp9dec", Threads::Libvpx),
        "av1" => (Some("av1parse"), "av1dec", Threads::Unbounded),
        other => return refuse("input", &format!("the source's video is {other}")),
    };
    Ok(Decoder { parser, element: Some(element), threads })
}

pub(super) fn audio_decoder(codec: &str) -> Result<Decoder, Refusal> {
    let (parser, element) = match codec {
        "aac" => (Some("aacparse"), Some("avdec_aac")),
        "ac3" => (Some("ac3parse"), Some("avdec_ac3")),
        "flac" => (Some("flacparse"), Some("flacdec")),
        "mp3" => (Some("mpegaudioparse"), Some("mpg123audiodec")),
        "opus" => (None, Some("opusdec")),
        "vorbis" => (None, Some("vorbisdec")),
        // The demuxers hand these over as they are.
        "pcm_s16le" | "pcm_s24le" | "pcm_s32le" | "pcm_f32le" | "pcm_s16be" | "pcm_s24be" => (None, None),
        other => return refuse("input", &format!("the source's audio is {other}")),
    };
    Ok(Decoder { parser, element, threads: Threads::Unbounded })
}
