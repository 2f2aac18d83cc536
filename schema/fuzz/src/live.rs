//! Playlists, presentations, and transport streams.
//!
//! Invariant: a name that is read leads nowhere else, and what is kept is bounded.

use std::io::Cursor;

use ffpool_schema::playlist::{self, Playlist};
use jiff::Timestamp;

use super::text;

#[allow(dead_code)]
#[path = "../../../worker/src/live/mpd.rs"]
mod mpd;
#[allow(dead_code)]
#[path = "../../../worker/src/live/transport.rs"]
mod transport;

/// A playlist of HLS, or a presentation of DASH: ours that is finished, or one that grows.
pub fn playlist(data: &[u8]) {
    let text = text(data);
    if let Ok(playlist) = playlist::media(&text) {
        is_plain(&playlist);
    }
    for (_, playlist) in playlist::presentation(&text).unwrap_or_default() {
        is_plain(&playlist);
    }
    let Some(told) = mpd::read(&text) else { return };
    let begins = told.begins.unwrap_or(Timestamp::UNIX_EPOCH);
    let mut presentation = mpd::Presentation { begins, periods: Vec::new() };
    for period in told.periods {
        presentation.period(&period.stem, begins).tracks = period.tracks;
    }
    presentation.trim();
    for name in presentation.files() {
        assert!(!name.contains(['/', '"', '<', '&']), "{name}");
    }
    let whole = presentation.whole();
    assert!(mpd::read(&whole).is_some(), "what was written is read: {whole}");
    let _ = presentation.growing(begins);
}

fn is_plain(playlist: &Playlist) {
    assert!(playlist.secs().is_finite());
    for name in playlist.files() {
        assert!(!name.starts_with('/') && name.split('/').all(|part| part != ".." && !part.is_empty()), "{name}");
        assert!(!name.contains([':', '?', '#', '%', '\\']), "{name}");
    }
}

/// A transport stream: the first byte says to how many seconds it is cut.
pub fn transport(data: &[u8]) {
    let Some((secs, stream)) = data.split_first() else { return };
    // One packet may stand for many.
    let stream = stream.repeat(if stream.len() <= 188 { 3 } else { 1 });
    let length = stream.len() as u64;
    let mut stream = Cursor::new(stream);
    if let Ok(end) = transport::whole(&mut stream, 0, length) {
        assert!(end <= length && end % transport::PACKET == 0);
    }
    if let Ok(Some(end)) = transport::cut(&mut stream, length, f64::from(*secs)) {
        assert!(end <= length && end % transport::PACKET == 0);
    }
    if let Ok(Some(secs)) = transport::secs(&mut stream, length, f64::from(*secs)) {
        assert!(secs.is_finite() && secs >= 0.0);
    }
}
