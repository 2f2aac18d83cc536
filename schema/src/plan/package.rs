//! From renditions to a presentation that is streamed: HLS or DASH, by copying packets.
//!
//! The renditions are encoded into files of their own, with a key frame at the beginning of every segment, and proven there.
//! Then one run cuts all of them into segments at the same times, so that picture and sound keep their distance.
//!
//! Invariant: the arguments name files of the attempt's scratch only. Source: FFmpeg 5.1 measured: one muxer for all streams moves
//! them by one offset; without `-copyts` each file would be moved by its own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::arguments::{Arguments, COMMON, READ_ONLY_FILES, file_argument};
use super::ladder::Output;
use crate::encode::{Container, SegmentType, Segments, VideoCodec};

/// The directory of the sound's segments, in HLS.
pub const SOUND: &str = "audio";
/// The name of every media playlist.
pub const MEDIA_PLAYLIST: &str = "index.m3u8";

/// How far a shape may be from another and be shown as it, as a part of it: rounding to whole pixels.
const NEAR_SHAPE: f64 = 0.01;

/// A file with a rendition, as it was proven.
#[derive(Debug, Clone, Copy)]
pub struct Rendition<'a> {
    /// Its file.
    pub file: &'a Path,
    /// What it is called: a directory in HLS.
    pub name: &'a str,
    /// Whether the sound of all renditions is in it.
    pub has_sound: bool,
    /// Width and height of its picture, whose pixels are square.
    pub size: (u32, u32),
}

/// Where a run puts what it makes: the file that is opened first, and the directory of everything else, beside it.
#[derive(Debug, Clone, Copy)]
pub struct Layout<'a> {
    /// The presentation or, in HLS, what FFmpeg makes of it.
    pub top: &'a Path,
    /// The directory.
    pub segments: &'a str,
}

/// Where a media playlist of HLS lies, seen from its master.
#[must_use]
pub fn media_playlist(segments: &str, rendition: &str) -> PathBuf {
    [segments, rendition, MEDIA_PLAYLIST].iter().collect()
}

/// The run that makes a presentation of an output from its renditions.
#[must_use]
pub fn package_arguments(output: &Output, renditions: &[Rendition<'_>], layout: Layout<'_>) -> Vec<OsString> {
    let mut arguments = Arguments::default();
    arguments.all(COMMON);
    arguments.all(["-copyts"]);
    for rendition in renditions {
        arguments.all(READ_ONLY_FILES);
        arguments.list.extend(["-i".into(), file_argument(rendition.file)]);
    }
    for number in 0..renditions.len() {
        arguments.pair("-map", format!("{number}:V:0"));
    }
    let sound = renditions.iter().position(|rendition| rendition.has_sound);
    if let Some(number) = sound {
        arguments.pair("-map", format!("{number}:a:0"));
    }
    arguments.all(["-c", "copy", "-map_metadata", "-1", "-map_chapters", "-1"]);
    if output.encode.video.codec == VideoCodec::H265 {
        arguments.pair("-tag:v", "hvc1");
    }
    match output.encode.container {
        Container::Dash => dash(output, renditions, sound.is_some(), layout, &mut arguments),
        Container::Hls
        | Container::Mp4
        | Container::Mov
        | Container::Mkv
        | Container::Webm
        | Container::Ts
        | Container::M4a
        | Container::Mp3
        | Container::Jpg
        | Container::Png
        | Container::Webp
        | Container::Vtt => hls(output, renditions, sound.is_some(), layout.segments, &mut arguments),
    }
    arguments.list
}

fn hls(output: &Output, renditions: &[Rendition<'_>], has_sound: bool, segments: &str, arguments: &mut Arguments) {
    let cut = cut(output);
    let (kind, end) = match cut.kind {
        SegmentType::Ts => ("mpegts", "ts"),
        SegmentType::Fmp4 => ("fmp4", "m4s"),
    };
    let group = if has_sound { ",agroup:sound" } else { "" };
    let mut streams: Vec<String> =
        renditions.iter().enumerate().map(|(number, made)| format!("v:{number}{group},name:{}", made.name)).collect();
    if has_sound {
        streams.push(format!("a:0,agroup:sound,name:{SOUND}"));
    }
    arguments.all(["-f", "hls"]);
    arguments.pair("-hls_time", cut.secs);
    arguments.all(["-hls_playlist_type", "vod", "-hls_list_size", "0", "-hls_flags", "independent_segments"]);
    arguments.pair("-hls_segment_type", kind);
    arguments.all(["-hls_fmp4_init_filename", "init.mp4"]);
    arguments.pair("-hls_segment_filename", format!("{segments}/%v/%05d.{end}"));
    arguments.pair("-var_stream_map", streams.join(" "));
    arguments.all(["-y"]);
    arguments.list.push(format!("{segments}/%v/{MEDIA_PLAYLIST}").into());
}

fn dash(output: &Output, renditions: &[Rendition<'_>], has_sound: bool, layout: Layout<'_>, arguments: &mut Arguments) {
    let Layout { top, segments } = layout;
    arguments.all(["-f", "dash"]);
    arguments.pair("-seg_duration", cut(output).secs);
    arguments.all(["-use_template", "1", "-use_timeline", "1", "-dash_segment_type", "mp4"]);
    let sets = sets(renditions, has_sound, arguments);
    arguments.pair("-adaptation_sets", sets);
    arguments.pair("-init_seg_name", format!("{segments}/init-$RepresentationID$.mp4"));
    arguments.pair("-media_seg_name", format!("{segments}/$RepresentationID$-$Number%05d$.m4s"));
    arguments.all(["-y"]);
    arguments.list.push(file_argument(top));
}

/// The renditions between which a player may change, set by set in their order, then the sound. Those of a set have one shape: a size in whole pixels is
/// only near it, as 854x480 is near 16:9, and FFmpeg takes none into a set that is not told to be shown as the first of it.
fn sets(renditions: &[Rendition<'_>], has_sound: bool, arguments: &mut Arguments) -> String {
    let shape = |(width, height): (u32, u32)| f64::from(width) / f64::from(height.max(1));
    let mut sets: Vec<((u32, u32), Vec<String>)> = Vec::new();
    for (number, Rendition { size, .. }) in renditions.iter().enumerate() {
        let is_near = |first: (u32, u32)| (shape(*size) / shape(first) - 1.0).abs() <= NEAR_SHAPE;
        match sets.last_mut().filter(|(first, _)| is_near(*first)) {
            Some((first, streams)) => {
                arguments.pair(&format!("-aspect:v:{number}"), format!("{}:{}", first.0, first.1));
                streams.push(number.to_string());
            }
            None => sets.push((*size, vec![number.to_string()])),
        }
    }
    let pictures = sets.into_iter().map(|(_, streams)| streams.join(","));
    let all = pictures.chain(has_sound.then(|| "a".to_owned())).enumerate();
    all.map(|(id, streams)| format!("id={id},streams={streams}")).collect::<Vec<_>>().join(" ")
}

fn cut(output: &Output) -> Segments {
    output.encode.segments.unwrap_or(Segments { kind: SegmentType::Fmp4, secs: Segments::SECS })
}

/// The RFC 6381 name of the video codec of an mp4 file, from its beginning.
#[must_use]
pub fn codec_name(head: &[u8]) -> Option<String> {
    let after = |name: &[u8; 4]| {
        let at = head.windows(4).position(|window| window == name)?;
        head.get(at + 4..at + 20)
    };
    if let Some(record) = after(b"avcC") {
        return Some(format!("avc1.{:02x}{:02x}{:02x}", record[1], record[2], record[3]));
    }
    let record = after(b"hvcC")?;
    let space = ["", "A", "B", "C"][usize::from(record[1] >> 6)];
    let tier = if record[1] & 0x20 == 0 { 'L' } else { 'H' };
    let compatible = u32::from_be_bytes([record[2], record[3], record[4], record[5]]).reverse_bits();
    let constraints = &record[6..12];
    let used = constraints.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let constraints: String = constraints[..used].iter().map(|byte| format!(".{byte:X}")).collect();
    Some(format!("hvc1.{space}{}.{compatible:X}.{tier}{}{constraints}", record[1] & 0x1f, record[12]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codecs_are_named_from_their_records() {
        let avc = [&b"....avcC"[..], &[1, 0x64, 0x00, 0x1f], &[0; 16]].concat();
        assert_eq!(codec_name(&avc).as_deref(), Some("avc1.64001f"));
        let hevc = [&b"....hvcC"[..], &[1, 1, 0x60, 0, 0, 0, 0x90, 0, 0, 0, 0, 0, 93], &[0; 8]].concat();
        assert_eq!(codec_name(&hevc).as_deref(), Some("hvc1.1.6.L93.90"));
        assert_eq!(codec_name(b"nothing of it"), None);
        assert_eq!(codec_name(b"avcC\x01"), None, "cut off");
    }
}
