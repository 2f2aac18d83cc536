//! Playlists of HLS and presentations of DASH: read to be checked, and the master playlist of HLS written.
//!
//! Only what FFmpeg writes of a finished presentation is read. Whatever else there is in it makes it wrong: this is a check of
//! an output of ours, not a player.
//!
//! Invariant: pure; a name that is read is a plain relative path, so that following it never leads out of the tree. What is
//! kept of a text is bounded, whatever its repetitions say.
//! Source: RFC 8216; ISO/IEC 23009-1, static presentations with `SegmentTemplate` and `SegmentTimeline`.

use std::fmt::Write as _;

/// Segments of one presentation, over all its renditions: a day of all rungs of a ladder in seconds.
const MOST_SEGMENTS: usize = 1_200_000;
/// Bytes of a name.
const MOST_NAME: usize = 255;
/// Seconds of a segment.
const MOST_SECS: f64 = 1e9;

/// A media playlist, or one representation of a presentation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Playlist {
    /// What must be read before any segment.
    pub init: Option<String>,
    /// Each segment's name with its length in seconds.
    pub segments: Vec<(String, f64)>,
    /// The longest that a segment may be, in whole seconds, where the playlist says so.
    pub target_secs: Option<u32>,
}

impl Playlist {
    /// Length of all segments in seconds.
    #[must_use]
    pub fn secs(&self) -> f64 {
        self.segments.iter().map(|(_, secs)| secs).sum()
    }

    /// Every file that it names.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.init.as_deref().into_iter().chain(self.segments.iter().map(|(name, _)| name.as_str()))
    }
}

/// Whether a name is a plain path below where it stands.
fn is_plain(name: &str) -> bool {
    (1..=MOST_NAME).contains(&name.len())
        && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.'))
}

pub(crate) fn plain(name: &str) -> Result<String, String> {
    if is_plain(name) { Ok(name.to_owned()) } else { Err(format!("`{}` is no name of ours", crate::id::excerpt(name))) }
}

/// Reads a finished media playlist of HLS.
///
/// # Errors
/// What is wrong with it.
pub fn media(text: &str) -> Result<Playlist, String> {
    let mut lines = text.lines().map(str::trim_end);
    if lines.next() != Some("#EXTM3U") {
        return Err("it does not begin with #EXTM3U".to_owned());
    }
    let mut playlist = Playlist::default();
    let (mut secs, mut is_ended, mut is_vod) = (None, false, false);
    for line in lines.filter(|line| !line.is_empty()) {
        if is_ended {
            return Err(format!("something follows its end: {}", crate::id::excerpt(line)));
        }
        let Some(tag) = line.strip_prefix("#EXT") else {
            if line.starts_with('#') {
                continue;
            }
            let secs = secs.take().ok_or_else(|| format!("{} has no #EXTINF", crate::id::excerpt(line)))?;
            if playlist.segments.len() == MOST_SEGMENTS {
                return Err(format!("it has more than {MOST_SEGMENTS} segments"));
            }
            playlist.segments.push((plain(line)?, secs));
            continue;
        };
        let number = |text: &str| text.parse::<f64>().ok().filter(|value| (0.0..=MOST_SECS).contains(value));
        match tag.split_once(':').unwrap_or((tag, "")) {
            ("INF", value) => {
                let length = value.split(',').next().and_then(number);
                secs = Some(length.ok_or_else(|| format!("`{}` is no length", crate::id::excerpt(value)))?);
            }
            ("-X-TARGETDURATION", value) => {
                playlist.target_secs = Some(value.parse().map_err(|_| "its target duration is no number".to_owned())?);
            }
            ("-X-MAP", value) => {
                let name = value.strip_prefix("URI=\"").and_then(|rest| rest.strip_suffix('"'));
                playlist.init = Some(plain(name.ok_or("its map names no file")?)?);
            }
            ("-X-PLAYLIST-TYPE", value) => is_vod = value == "VOD",
            ("-X-ENDLIST", _) => is_ended = true,
            ("-X-VERSION" | "-X-MEDIA-SEQUENCE" | "-X-INDEPENDENT-SEGMENTS", _) => {}
            (other, _) => {
                return Err(format!("#EXT{} has no place in a whole presentation", crate::id::excerpt(other)));
            }
        }
    }
    match (is_ended && is_vod, playlist.segments.is_empty()) {
        (false, _) => Err("it does not say that it is whole".to_owned()),
        (true, true) => Err("it has no segments".to_owned()),
        (true, false) => Ok(playlist),
    }
}

/// Reads a static presentation of DASH: one playlist for each representation, by its id.
///
/// # Errors
/// What is wrong with it.
pub fn presentation(text: &str) -> Result<Vec<(String, Playlist)>, String> {
    if !text.contains("<MPD") || !text.contains("type=\"static\"") {
        return Err("it is no static presentation".to_owned());
    }
    let (mut found, mut left) = (Vec::new(), MOST_SEGMENTS);
    for element in text.split("<Representation ").skip(1) {
        let body = element.split("</Representation>").next().unwrap_or_default();
        let id = attribute(body, "id").ok_or("a representation has no id")?;
        let playlist = representation(body, id, left)?;
        left -= playlist.segments.len();
        found.push((id.to_owned(), playlist));
    }
    if found.is_empty() { Err("it has no representations".to_owned()) } else { Ok(found) }
}

/// The value of an attribute of the first element of a text that has it.
#[must_use]
pub fn attribute<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let at = text.match_indices(name).map(|(at, _)| at).find(|at| {
        let is_begun = *at == 0 || text.as_bytes()[at - 1].is_ascii_whitespace();
        is_begun && text[at + name.len()..].starts_with("=\"")
    })?;
    text[at + name.len() + 2..].split('"').next()
}

fn representation(body: &str, id: &str, most: usize) -> Result<Playlist, String> {
    let id = plain(id)?;
    let template = body.split("<SegmentTemplate ").nth(1).ok_or_else(|| format!("{id} has no template"))?;
    let whole = |text: &str| text.parse::<u64>().ok();
    let needed = |name: &str| attribute(template, name).ok_or_else(|| format!("{id} has no {name}"));
    let timescale = whole(needed("timescale")?).filter(|scale| *scale > 0).ok_or("its time scale is no number")?;
    let (init, media) = (needed("initialization")?, needed("media")?);
    if init.len().max(media.len()) > MOST_NAME {
        return Err(format!("{id} has a name of more than {MOST_NAME} bytes"));
    }
    let (init, media) = (init.replace("$RepresentationID$", &id), media.replace("$RepresentationID$", &id));
    let mut number = attribute(template, "startNumber").and_then(whole).unwrap_or(1);
    let mut playlist = Playlist { init: Some(plain(&init)?), ..Playlist::default() };
    let timeline = template.split("<SegmentTimeline>").nth(1).ok_or_else(|| format!("{id} has no timeline"))?;
    for element in timeline.split("</SegmentTimeline>").next().unwrap_or_default().split("<S ").skip(1) {
        let ticks =
            attribute(element, "d").and_then(whole).ok_or_else(|| format!("{id} has a segment without length"))?;
        let again =
            attribute(element, "r").map_or(Some(0), whole).ok_or_else(|| format!("{id} repeats without end"))?;
        let secs = ticks as f64 / timescale as f64;
        if again >= (most - playlist.segments.len()) as u64 {
            return Err(format!("it has more than {MOST_SEGMENTS} segments"));
        }
        if secs > MOST_SECS {
            return Err(format!("{id} has a segment of {secs} seconds"));
        }
        for _ in 0..=again {
            let name = media.replace("$Number%05d$", &format!("{number:05}"));
            playlist.segments.push((plain(&name)?, secs));
            number = number.checked_add(1).ok_or_else(|| format!("{id} counts too far"))?;
        }
    }
    if playlist.segments.is_empty() { Err(format!("{id} has no segments")) } else { Ok(playlist) }
}

/// A rendition of a master playlist.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    /// Its media playlist.
    pub uri: String,
    /// The largest bit rate of a segment, with that of the sound, in bits per second.
    pub peak: u64,
    /// The average over all segments, with that of the sound.
    pub average: u64,
    /// Its frame.
    pub size: (u32, u32),
    /// Frames per second.
    pub fps: Option<f64>,
    /// RFC 6381 names of its codecs, that of the sound included.
    pub codecs: Vec<String>,
}

/// The master playlist of these renditions; `sound`: the media playlist of their audio group, and its channels.
#[must_use]
pub fn master(variants: &[Variant], sound: Option<(&str, Option<u32>)>) -> String {
    let mut text = String::from("#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n");
    if let Some((uri, channels)) = sound {
        let channels = channels.map(|count| format!(",CHANNELS=\"{count}\"")).unwrap_or_default();
        let _ = writeln!(
            text,
            "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"audio\",NAME=\"main\",DEFAULT=YES,AUTOSELECT=YES{channels},URI=\"{uri}\""
        );
    }
    for Variant { uri, peak, average, size: (width, height), fps, codecs } in variants {
        let _ =
            write!(text, "#EXT-X-STREAM-INF:BANDWIDTH={peak},AVERAGE-BANDWIDTH={average},RESOLUTION={width}x{height}");
        if let Some(fps) = fps {
            let _ = write!(text, ",FRAME-RATE={fps:.3}");
        }
        let _ = write!(text, ",CODECS=\"{}\"", codecs.join(","));
        if sound.is_some() {
            text.push_str(",AUDIO=\"audio\"");
        }
        let _ = writeln!(text, "\n{uri}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEDIA: &str = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-PLAYLIST-TYPE:VOD\n\
                         #EXT-X-MAP:URI=\"init.mp4\"\n#EXTINF:2.000000,\n00000.m4s\n#EXTINF:1.500000,\n00001.m4s\n#EXT-X-ENDLIST\n";

    #[test]
    fn a_whole_media_playlist_is_read() {
        let playlist = media(MEDIA).unwrap();
        assert_eq!(playlist.files().collect::<Vec<_>>(), ["init.mp4", "00000.m4s", "00001.m4s"]);
        assert_eq!((playlist.secs(), playlist.target_secs), (3.5, Some(2)));
    }

    #[test]
    fn what_is_cut_off_or_leads_elsewhere_is_no_playlist() {
        for wrong in [
            String::new(),
            MEDIA.replace("#EXT-X-ENDLIST\n", ""),
            MEDIA.replace("VOD", "EVENT"),
            MEDIA.replace("00001.m4s", "../00001.m4s"),
            MEDIA.replace("00001.m4s", "http://h/1.m4s"),
            MEDIA.replace("00001.m4s", "/etc/passwd"),
            MEDIA.replace("#EXTINF:1.500000,\n", ""),
            MEDIA.replace("#EXTINF:1.500000,", "#EXTINF:nan,"),
            MEDIA.replace("#EXT-X-MAP", "#EXT-X-DISCONTINUITY\n#EXT-X-MAP"),
            format!("{MEDIA}more.m4s\n"),
        ] {
            assert!(media(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_presentation_is_read_by_its_timelines() {
        let text = r#"<MPD type="static"><AdaptationSet id="0">
            <Representation id="0" bandwidth="1" width="640">
              <SegmentTemplate timescale="12800" initialization="s/i-$RepresentationID$.mp4" media="s/$RepresentationID$-$Number%05d$.m4s" startNumber="1">
                <SegmentTimeline><S t="0" d="25600" r="1" /><S d="12800" /></SegmentTimeline>
              </SegmentTemplate></Representation></AdaptationSet></MPD>"#;
        let found = presentation(text).unwrap();
        let (id, playlist) = &found[0];
        assert_eq!((id.as_str(), playlist.init.as_deref(), playlist.secs()), ("0", Some("s/i-0.mp4"), 5.0));
        assert_eq!(playlist.segments[2], ("s/0-00003.m4s".to_owned(), 1.0));
        for wrong in [
            text.replace("static", "dynamic"),
            text.replace("s/i-", "../i-"),
            text.replace("d=\"12800\"", ""),
            text.replace("r=\"1\"", "r=\"-1\""),
            // Each of these would fill the memory, or the processor's registers.
            text.replace("r=\"1\"", "r=\"18446744073709551615\""),
            text.replace("r=\"1\"", "r=\"1200000\""),
            text.replace("startNumber=\"1\"", "startNumber=\"18446744073709551615\""),
            text.replace("d=\"12800\"", "d=\"18446744073709551615\"").replace("12800\" init", "1\" init"),
            text.replace("s/i-", &"a".repeat(300)),
        ] {
            assert!(presentation(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_master_says_everything_of_its_renditions() {
        let variant = Variant {
            uri: "s/720p/index.m3u8".to_owned(),
            peak: 3_000_000,
            average: 2_500_000,
            size: (1280, 720),
            fps: Some(30_000.0 / 1001.0),
            codecs: vec!["avc1.64001f".to_owned(), "mp4a.40.2".to_owned()],
        };
        let text = master(&[variant], Some(("s/audio/index.m3u8", Some(2))));
        assert!(text.contains(
            "#EXT-X-STREAM-INF:BANDWIDTH=3000000,AVERAGE-BANDWIDTH=2500000,RESOLUTION=1280x720,FRAME-RATE=29.970,\
             CODECS=\"avc1.64001f,mp4a.40.2\",AUDIO=\"audio\"\ns/720p/index.m3u8\n"
        ));
        assert!(text.contains(
            "TYPE=AUDIO,GROUP-ID=\"audio\",NAME=\"main\",DEFAULT=YES,AUTOSELECT=YES,CHANNELS=\"2\",URI=\"s/audio"
        ));
    }
}
