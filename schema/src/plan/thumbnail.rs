//! The run that makes a thumbnail of a finished output.
//!
//! It decodes one frame, or a second of frames at most: it seeks to a key frame and takes what it finds, and so shows one that may be
//! earlier than it should.
//!
//! Invariant: what it costs does not depend on how long the output is.
//! Source: FFmpeg 5.1 measured: a square of noise, which packs worst, has 78 KiB at a quality of 6 and 31 KiB at 31.

use std::ffi::OsString;
use std::path::Path;

use super::arguments::{Arguments, READ_ONLY_FILES, READ_PRESENTATIONS, file_argument};
use super::filters;
use crate::encode::PictureFormat;
use crate::probe::Colors;
use crate::thumbnail::LONG_SIDE;

/// Where in the output the frame is taken: the beginning is often black.
const POSITION: f64 = 0.1;
/// As much is decoded to take the very frame, in seconds.
const EXACT_SECS: f64 = 1.0;
/// The files that are made, the better one first: the first that is small enough is taken. With their qualities, 2 to 31.
const FILES: [(&str, u32); 2] = [("thumbnail.jpg", 6), ("thumbnail-coarse.jpg", 31)];

/// What a thumbnail is made of.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The file, by its name in the scratch.
    pub file: &'a Path,
    /// What picture the file is, where it is one.
    pub picture: Option<PictureFormat>,
    /// Whether the file names others, of which it is a presentation.
    pub is_presentation: bool,
    /// How long it lasts in seconds, where that is known.
    pub secs: Option<f64>,
    /// Its colours, where their range is to be mapped to a usual one.
    pub mapped: Option<&'a Colors>,
}

/// The arguments of the run, and the files that it makes, the best first.
#[must_use]
pub fn thumbnail_arguments(frame: &Frame<'_>) -> (Vec<OsString>, [&'static Path; 2]) {
    let Frame { file, picture, is_presentation, secs, mapped } = *frame;
    let mut arguments = Arguments::default();
    // A frame with a fault is better than none: what is wrong with an output was found before.
    arguments.all(["-nostdin", "-hide_banner", "-loglevel", "level+error", "-nostats"]);
    arguments.all(["-threads", "1", "-filter_threads", "1"]);
    match picture {
        Some(format) => arguments.pair("-f", format.demuxer()),
        None => {
            let at = secs.filter(|secs| secs.is_finite() && *secs > 0.0).map(|secs| secs * POSITION);
            if let Some(at) = at {
                arguments.pair("-ss", format!("{at:.3}"));
            }
            if at.is_some_and(|at| at > EXACT_SECS) {
                arguments.all(["-noaccurate_seek"]);
            }
            arguments.all(if is_presentation { READ_PRESENTATIONS } else { READ_ONLY_FILES });
        }
    }
    arguments.list.extend(["-i".into(), file_argument(file)]);
    let filters = filters(mapped);
    for (name, quality) in FILES {
        arguments.all(["-map", "0:V:0", "-frames:v", "1", "-fps_mode", "passthrough"]);
        arguments.pair("-vf", &filters);
        arguments.pair("-c:v", PictureFormat::Jpg.encoder());
        arguments.pair("-q:v", quality);
        // Nothing of what made it, of whose it is and of where it was taken goes into it.
        arguments.all(["-threads", "1", "-map_metadata", "-1", "-bitexact", "-f", "image2", "-update", "1", "-y"]);
        arguments.list.push(file_argument(Path::new(name)));
    }
    (arguments.list, FILES.map(|(name, _)| Path::new(name)))
}

/// Square pixels within a square, even sides, never larger than it was; then the range, of few pixels.
fn filters(mapped: Option<&Colors>) -> String {
    let long = format!("min({LONG_SIDE},max(iw*sar,ih))");
    let side = |share: &str| format!("2*max(1,round({long}*min(1,{share})/2))");
    let mut filters = vec![format!("scale=w='{}':h='{}'", side("dar"), side("1/dar")), "setsar=1".to_owned()];
    filters.extend(mapped.map(|colors| filters::mapped(Some(colors))));
    filters.push(format!("format={}", PictureFormat::Jpg.pixels()));
    filters.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(frame: &Frame<'_>) -> String {
        let words: Vec<String> =
            thumbnail_arguments(frame).0.iter().map(|word| word.to_str().unwrap().to_owned()).collect();
        words.join(" ")
    }

    fn file() -> Frame<'static> {
        let file = Path::new("encode.mp4");
        Frame { file, picture: None, is_presentation: false, secs: Some(600.0), mapped: None }
    }

    #[test]
    fn a_long_output_is_sought_by_key_frame_and_a_short_one_exactly() {
        let long = words(&file());
        assert!(long.contains("-ss 60.000 -noaccurate_seek -protocol_whitelist file"), "{long}");
        let short = words(&Frame { secs: Some(5.0), ..file() });
        assert!(short.contains("-ss 0.500 -protocol_whitelist"), "{short}");
        for unknown in [None, Some(0.0), Some(f64::NAN)] {
            assert!(!words(&Frame { secs: unknown, ..file() }).contains("-ss"), "{unknown:?}");
        }
    }

    #[test]
    fn a_picture_is_read_as_what_it_is_and_a_presentation_with_what_it_names() {
        let picture = words(&Frame { picture: Some(PictureFormat::Png), secs: None, ..file() });
        assert!(picture.contains("-f png_pipe -i file:encode.mp4"), "{picture}");
        let presentation = words(&Frame { is_presentation: true, ..file() });
        assert!(presentation.contains("-format_whitelist hls,dash,mov,mpegts -i"), "{presentation}");
    }

    #[test]
    fn a_high_range_is_mapped_once_the_picture_is_small() {
        let colors = Colors { transfer: Some("arib-std-b67"), ..Colors::default() };
        let mapped = words(&Frame { mapped: Some(&colors), ..file() });
        let (size, range) = (mapped.find("scale=w="), mapped.find("zscale=tin=arib-std-b67"));
        assert!(size.is_some() && size < range, "{mapped}");
        assert!(!words(&file()).contains("zscale"));
    }
}
