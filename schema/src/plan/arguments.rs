//! The list of arguments, and what stands in every one.
//!
//! Invariant: values are written by [`std::fmt::Display`] of numbers and closed sets; a path stands behind `file:`.

use std::ffi::OsString;
use std::path::Path;

/// Options before an input that keep its reader to plain files: no network, no playlists, no scripts that name other files.
pub const READ_ONLY_FILES: [&str; 4] = [
    "-protocol_whitelist",
    "file,crypto,data",
    "-format_whitelist",
    "mov,matroska,webm,mpegts,mpeg,mpegvideo,avi,flv,asf,ogg,mxf,gxf,nut,ivf,h264,hevc,av1,obu,m4v,dv,rm,wtv,yuv4mpegpipe,\
     gif,wav,w64,aiff,mp3,aac,ac3,eac3,flac,caf",
];

/// The same for a presentation of ours: it names other files, which are of the kinds that we make.
pub const READ_PRESENTATIONS: [&str; 4] =
    ["-protocol_whitelist", "file,crypto,data", "-format_whitelist", "hls,dash,mov,mpegts"];

/// Options for every run: said lines carry their level, progress goes to standard output, the first error ends it.
pub(super) const COMMON: [&str; 8] =
    ["-nostdin", "-hide_banner", "-loglevel", "level+warning", "-nostats", "-progress", "pipe:1", "-xerror"];

/// A path as FFmpeg takes it literally: no option, no protocol, no pattern.
#[must_use]
pub fn file_argument(path: &Path) -> OsString {
    let mut argument = OsString::from("file:");
    argument.push(path);
    argument
}

#[derive(Default)]
pub(super) struct Arguments {
    pub(super) list: Vec<OsString>,
}

impl Arguments {
    pub(super) fn all<const N: usize>(&mut self, arguments: [&str; N]) {
        self.list.extend(arguments.map(OsString::from));
    }

    pub(super) fn pair(&mut self, option: &str, value: impl std::fmt::Display) {
        self.list.extend([option.into(), value.to_string().into()]);
    }
}
