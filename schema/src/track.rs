//! A track of pictures: WebVTT whose cues name a picture each, or a part of a sheet; and the size that a picture's file says.
//!
//! Only what is written here is read: this is a check of an output of ours, not a player.
//!
//! Invariant: pure; a name that is read is a plain relative path, so that following it never leads out of the tree.
//! Source: W3C WebVTT; Media Fragments URI 1.0, `xywh` in pixels.

use std::fmt::Write as _;

use crate::encode::{Grid, PictureFormat};
use crate::playlist::plain;

/// A part of a sheet, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// From the left.
    pub x: u32,
    /// From the top.
    pub y: u32,
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
}

impl Area {
    /// Where the picture of this number, from 0, lies among all sheets: the number of its sheet, from 0, and its place in it.
    #[must_use]
    pub fn of(picture: u64, grid: Grid, (width, height): (u32, u32)) -> (u64, Area) {
        let tiles = u64::from(grid.tiles().max(1));
        let place = u32::try_from(picture % tiles).unwrap_or(u32::MAX);
        let (column, row) = (place % grid.columns.max(1), place / grid.columns.max(1));
        (picture / tiles, Area { x: column * width, y: row * height, width, height })
    }
}

/// A picture, and when it is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Cue {
    /// From, in milliseconds.
    pub from_ms: u64,
    /// To, in milliseconds.
    pub to_ms: u64,
    /// Its file, as seen from the track.
    pub file: String,
    /// Its part of the file; absent: all of it.
    pub area: Option<Area>,
}

/// Writes a track.
#[must_use]
pub fn write(cues: &[Cue]) -> String {
    let mut text = String::from("WEBVTT\n");
    for Cue { from_ms, to_ms, file, area } in cues {
        let _ = write!(text, "\n{} --> {}\n{file}", clock(*from_ms), clock(*to_ms));
        if let Some(Area { x, y, width, height }) = area {
            let _ = write!(text, "#xywh={x},{y},{width},{height}");
        }
        text.push('\n');
    }
    text
}

fn clock(ms: u64) -> String {
    format!("{:02}:{:02}:{:02}.{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
}

/// Reads a track, whose cues follow each other without a gap.
///
/// # Errors
/// What is wrong with it.
pub fn read(text: &str) -> Result<Vec<Cue>, String> {
    let mut blocks = text.split("\n\n");
    if blocks.next() != Some("WEBVTT") {
        return Err("it does not begin with WEBVTT".to_owned());
    }
    let mut cues: Vec<Cue> = Vec::new();
    for block in blocks {
        let cue = cue(block.trim_end_matches('\n'))?;
        if cue.to_ms <= cue.from_ms {
            return Err(format!("a cue ends at {}, before it begins", clock(cue.to_ms)));
        }
        if let Some(last) = cues.last().filter(|last| last.to_ms != cue.from_ms) {
            return Err(format!("a cue ends at {}, and the next begins at {}", clock(last.to_ms), clock(cue.from_ms)));
        }
        cues.push(cue);
    }
    if cues.is_empty() { Err("it has no cues".to_owned()) } else { Ok(cues) }
}

fn cue(block: &str) -> Result<Cue, String> {
    let wrong = || format!("`{}` is no cue", crate::id::excerpt(block));
    let (times, name) = block.split_once('\n').ok_or_else(wrong)?;
    let (from, to) = times.split_once(" --> ").ok_or_else(wrong)?;
    let (from_ms, to_ms) = (millis(from).ok_or_else(wrong)?, millis(to).ok_or_else(wrong)?);
    let (file, area) = match name.split_once("#xywh=") {
        None => (name, None),
        Some((file, numbers)) => (file, Some(area(numbers).ok_or_else(wrong)?)),
    };
    Ok(Cue { from_ms, to_ms, file: plain(file)?, area })
}

fn millis(clock: &str) -> Option<u64> {
    let (rest, ms) = clock.split_once('.').filter(|(_, ms)| ms.len() == 3)?;
    let parts: Option<Vec<u64>> = rest.split(':').map(|part| part.parse().ok()).collect();
    match parts?.as_slice() {
        [hours, minutes @ 0..60, secs @ 0..60] => {
            Some((hours.checked_mul(3600)? + minutes * 60 + secs).checked_mul(1000)? + ms.parse::<u64>().ok()?)
        }
        _ => None,
    }
}

fn area(numbers: &str) -> Option<Area> {
    let parts: Option<Vec<u32>> = numbers.split(',').map(|part| part.parse().ok()).collect();
    match parts?.as_slice() {
        [x, y, width @ 1..=u32::MAX, height @ 1..=u32::MAX] => {
            Some(Area { x: *x, y: *y, width: *width, height: *height })
        }
        _ => None,
    }
}

/// Width and height that the beginning of a picture's file says.
#[must_use]
pub fn picture_size(format: PictureFormat, head: &[u8]) -> Option<(u32, u32)> {
    match format {
        PictureFormat::Png => {
            let header = head.strip_prefix(b"\x89PNG\r\n\x1a\n")?.get(4..16)?.strip_prefix(b"IHDR")?;
            let side = |at: usize| Some(u32::from_be_bytes(header.get(at..at + 4)?.try_into().ok()?));
            Some((side(0)?, side(4)?))
        }
        PictureFormat::Jpg => jpeg_size(head),
        PictureFormat::Webp => webp_size(head),
    }
}

/// The size in the first frame header of a JPEG, after as many segments as stand before it.
fn jpeg_size(head: &[u8]) -> Option<(u32, u32)> {
    let mut left = head.strip_prefix(b"\xff\xd8")?;
    loop {
        let [0xff, marker, high, low, ..] = *left else { return None };
        let length = usize::from(u16::from_be_bytes([high, low]));
        // Frame headers, but for the three of the same range that are tables.
        if matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc) {
            let side = |at: usize| Some(u32::from(u16::from_be_bytes(left.get(at..at + 2)?.try_into().ok()?)));
            return Some((side(7)?, side(5)?));
        }
        left = left.get(2 + length.max(2)..)?;
    }
}

fn webp_size(head: &[u8]) -> Option<(u32, u32)> {
    let chunk = head.strip_prefix(b"RIFF")?.get(4..)?.strip_prefix(b"WEBP")?;
    let body = chunk.get(8..)?;
    let two = |at: usize| Some(u32::from(u16::from_le_bytes(body.get(at..at + 2)?.try_into().ok()?)));
    let three = |at: usize| Some(two(at)? | u32::from(*body.get(at + 2)?) << 16);
    match chunk.get(..4)? {
        b"VP8 " => Some((two(6)? & 0x3fff, two(8)? & 0x3fff)),
        b"VP8L" => {
            let bits = two(1)? | two(3)? << 16;
            Some(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
        }
        b"VP8X" => Some((three(4)? + 1, three(7)? + 1)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_track_is_read_as_it_was_written() {
        let grid = Grid { columns: 3, rows: 2 };
        let cue = |picture: u64, from_ms, to_ms| {
            let (sheet, area) = Area::of(picture, grid, (160, 90));
            Cue { from_ms, to_ms, file: format!("pictures-1/{:05}.jpg", sheet + 1), area: Some(area) }
        };
        let cues = [cue(0, 40, 1000), cue(4, 1000, 3_599_999), cue(6, 3_599_999, 3_600_500)];
        let text = write(&cues);
        assert_eq!(
            text,
            "WEBVTT\n\n00:00:00.040 --> 00:00:01.000\npictures-1/00001.jpg#xywh=0,0,160,90\n\n\
             00:00:01.000 --> 00:59:59.999\npictures-1/00001.jpg#xywh=160,90,160,90\n\n\
             00:59:59.999 --> 01:00:00.500\npictures-1/00002.jpg#xywh=0,0,160,90\n"
        );
        assert_eq!(read(&text).unwrap(), cues);
        let whole = [Cue { area: None, ..cues[0].clone() }];
        assert_eq!(read(&write(&whole)).unwrap(), whole);
    }

    #[test]
    fn whatever_is_not_ours_is_wrong() {
        let good = "00:00:00.000 --> 00:00:01.000\na/1.jpg";
        for (text, what) in [
            ("", "begin with WEBVTT"),
            ("WEBVTT", "no cues"),
            ("WEBVTT\n\n00:00:00.000 --> 00:00:01.000", "is no cue"),
            ("WEBVTT\n\n00:00:00.000 --> 00:00:61.000\na.jpg", "is no cue"),
            ("WEBVTT\n\n00:00:01.000 --> 00:00:01.000\na.jpg", "before it begins"),
            ("WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n../a.jpg", "no name of ours"),
            ("WEBVTT\n\n00:00:00.000 --> 00:00:01.000\na.jpg#xywh=0,0,0,9", "is no cue"),
            (&format!("WEBVTT\n\n{good}\n\n00:00:01.001 --> 00:00:02.000\na.jpg"), "the next begins at 00:00:01.001"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(what), "{text}: {error}");
        }
    }

    #[test]
    fn pictures_say_how_large_they_are() {
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x01\x40\0\0\0\xb4\x08\x02";
        assert_eq!(picture_size(PictureFormat::Png, png), Some((320, 180)));
        let jpg = b"\xff\xd8\xff\xe0\0\x04JF\xff\xc4\0\x03x\xff\xc0\0\x11\x08\0\xb4\x01\x40\x03";
        assert_eq!(picture_size(PictureFormat::Jpg, jpg), Some((320, 180)));
        let lossy = b"RIFF\x10\0\0\0WEBPVP8 \x20\0\0\0\x30\x01\0\x9d\x01\x2a\x40\x01\xb4\0";
        assert_eq!(picture_size(PictureFormat::Webp, lossy), Some((320, 180)));
        let lossless = b"RIFF\x10\0\0\0WEBPVP8L\x20\0\0\0\x2f\x3f\xc1\x2c\0";
        assert_eq!(picture_size(PictureFormat::Webp, lossless), Some((320, 180)));
        let extended = b"RIFF\x10\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\x3f\x01\0\xb3\0\0";
        assert_eq!(picture_size(PictureFormat::Webp, extended), Some((320, 180)));
        for format in PictureFormat::ALL {
            assert_eq!(picture_size(*format, b"not a picture at all"), None);
            assert_eq!(picture_size(*format, b""), None);
        }
        assert_eq!(picture_size(PictureFormat::Jpg, b"\xff\xd8\xff\xe0\0\0\xff\xd9"), None, "it ends");
    }
}
