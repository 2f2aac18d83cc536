//! The presentation of DASH that a live job makes: what the runs of the tool wrote, one period for each, as one MPD.
//!
//! Invariant: pure; a period's beginning and its segments' times never change once they are told, no period begins before
//! the last one's end, and every name is made here of the job's own: of what the tool writes only numbers and codecs are taken.
//! Source: ISO/IEC 23009-1, 5.3.2 (periods), 5.3.9.6 (timelines). FFmpeg 5.1 measured: the first file of AAC is named by a
//! time of -1024 where its timeline says 0, so files of the scratch are found by their numbers.

use std::fmt::Write as _;

use ffpool_schema::playlist::attribute;
use jiff::{SignedDuration, Timestamp, Unit};

/// Segments that a presentation names.
const SEGMENTS: usize = 10;
/// Seconds after which a player looks for what is new.
const UPDATE_SECS: u32 = 2;
/// Seconds that a player stays behind: three segments.
const DELAY_SECS: u32 = 12;
/// Streams of one run, segments of all streams and letters of a codec that are read at most.
const MOST_TRACKS: u32 = 16;
const MOST_SEGMENTS: u64 = 100_000;
const MOST_LETTERS: usize = 100;
/// The last number of a segment and the last second of a period that are taken for true.
const MOST_NUMBER: u64 = 1_000_000_000;
const MOST_SECS: u64 = 1_000_000_000;

/// What a stream is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A picture.
    Video {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
        /// Frames per second, as `25/1`.
        rate: Option<String>,
    },
    /// Sound.
    Audio {
        /// Samples per second.
        sample_rate: u32,
        /// Channels.
        channels: Option<u32>,
    },
}

/// A segment: when it begins within its period, and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// In ticks.
    pub time: u64,
    /// In ticks.
    pub ticks: u64,
}

/// A stream of a period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Track {
    /// Its number.
    pub id: u32,
    /// What it is.
    pub kind: Kind,
    /// Its codec, by RFC 6381.
    pub codecs: String,
    /// Bits per second.
    pub bandwidth: u64,
    /// Ticks per second.
    pub timescale: u64,
    /// The number of the first segment, where they are found by numbers.
    pub first: u64,
    /// Its segments, in order.
    pub segments: Vec<Segment>,
}

impl Track {
    fn secs(&self, ticks: u64) -> f64 {
        ticks as f64 / self.timescale as f64
    }

    fn end_secs(&self) -> f64 {
        self.segments.last().map_or(0.0, |last| self.secs(last.time + last.ticks))
    }
}

/// What one run made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Period {
    /// What the names of its files begin with, which is its own too.
    pub stem: String,
    /// Milliseconds from the beginning of the presentation.
    pub start_ms: u64,
    /// Its streams.
    pub tracks: Vec<Track>,
}

impl Period {
    fn end_secs(&self) -> f64 {
        self.tracks.iter().map(Track::end_secs).fold(0.0, f64::max)
    }

    /// Seconds at which its first segment begins.
    fn first_secs(&self) -> f64 {
        let firsts = self.tracks.iter().filter_map(|track| Some(track.secs(track.segments.first()?.time)));
        firsts.reduce(f64::min).unwrap_or(0.0)
    }

    /// The file that must be read before any other of a stream.
    #[must_use]
    pub fn init_name(&self, track: &Track) -> String {
        format!("{}-{}-init.m4s", self.stem, track.id)
    }

    /// The file of a segment.
    #[must_use]
    pub fn segment_name(&self, track: &Track, segment: Segment) -> String {
        format!("{}-{}-{}.m4s", self.stem, track.id, segment.time)
    }
}

/// A presentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presentation {
    /// Its beginning on the clock.
    pub begins: Timestamp,
    /// Its periods, in order.
    pub periods: Vec<Period>,
}

/// What an MPD says. Of its own the tool does not say how long it has been at it, once it has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// When its media began; absent where it is at its end.
    pub begins: Option<Timestamp>,
    /// Its periods. Their stems are those of their file names.
    pub periods: Vec<Period>,
}

/// Reads an MPD of the tool's or of ours. `None`: it is neither, or says what no MPD of ours does.
#[must_use]
pub fn read(text: &str) -> Option<Told> {
    let mut told = Told { begins: None, periods: Vec::new() };
    let (mut rate, mut is_mpd, mut repeated_from) = (None, false, None);
    let mut left = MOST_SEGMENTS;
    for part in text.split('<').skip(1) {
        let element = part.split('>').next()?.trim_end_matches('/');
        let (name, attributes) = element.split_once(char::is_whitespace).unwrap_or((element, ""));
        let whole = |key: &str| attribute(attributes, key).and_then(|value| value.parse::<u64>().ok());
        let small = |key: &str| whole(key).and_then(|value| u32::try_from(value).ok());
        match name {
            "MPD" => {
                is_mpd = true;
                let is_dynamic = attribute(attributes, "type") == Some("dynamic");
                let begins = attribute(attributes, "availabilityStartTime").filter(|_| is_dynamic);
                told.begins = begins.and_then(|begins| begins.parse().ok());
            }
            "Period" => {
                let start_ms = attribute(attributes, "start").and_then(milliseconds)?;
                told.periods.push(Period { stem: String::new(), start_ms, tracks: Vec::new() });
            }
            "AdaptationSet" => rate = attribute(attributes, "frameRate").and_then(|rate| letters(rate, "/")),
            "Representation" => {
                let id = small("id").filter(|id| *id < MOST_TRACKS)?;
                let kind = match attribute(attributes, "mimeType")? {
                    "video/mp4" => Kind::Video { width: small("width")?, height: small("height")?, rate: rate.clone() },
                    "audio/mp4" => Kind::Audio { sample_rate: small("audioSamplingRate")?, channels: None },
                    _ => return None,
                };
                let codecs = letters(attribute(attributes, "codecs")?, ".,-_")?;
                let bandwidth = whole("bandwidth").unwrap_or(0);
                let track = Track { id, kind, codecs, bandwidth, timescale: 1, first: 1, segments: Vec::new() };
                told.periods.last_mut()?.tracks.push(track);
            }
            "AudioChannelConfiguration" => {
                if let Kind::Audio { channels, .. } = &mut told.periods.last_mut()?.tracks.last_mut()?.kind {
                    *channels = small("value");
                }
            }
            "SegmentTemplate" => {
                let period = told.periods.last_mut()?;
                let stem = attribute(attributes, "initialization")?.strip_suffix("-$RepresentationID$-init.m4s")?;
                period.stem = letters(stem, "-")?;
                let track = period.tracks.last_mut()?;
                track.timescale = whole("timescale").filter(|scale| *scale > 0)?;
                track.first = whole("startNumber").unwrap_or(1);
                if track.first > MOST_NUMBER {
                    return None;
                }
                repeated_from = Some(0);
            }
            "S" => {
                let track = told.periods.last_mut()?.tracks.last_mut()?;
                let ticks = whole("d")?;
                let again = attribute(attributes, "r").map_or(Some(0), |value| value.parse::<u64>().ok())?;
                let mut time = whole("t").or(repeated_from)?;
                left = left.checked_sub(again.checked_add(1)?)?;
                for _ in 0..=again {
                    track.segments.push(Segment { time, ticks });
                    time = time.checked_add(ticks).filter(|end| end / track.timescale <= MOST_SECS)?;
                }
                repeated_from = Some(time);
            }
            _ => {}
        }
    }
    // Its files could not be named.
    let is_nameless =
        |period: &Period| period.stem.is_empty() && period.tracks.iter().any(|track| !track.segments.is_empty());
    (is_mpd && !told.periods.iter().any(is_nameless)).then_some(told)
}

/// A text of letters, digits and these.
fn letters(text: &str, besides: &str) -> Option<String> {
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || besides.contains(c));
    (is_plain && !text.is_empty() && text.len() <= MOST_LETTERS).then(|| text.to_owned())
}

/// Milliseconds of `PT12.5S`.
fn milliseconds(text: &str) -> Option<u64> {
    let secs: f64 = text.strip_prefix("PT")?.strip_suffix('S')?.parse().ok()?;
    (secs.is_finite() && (0.0..=1e9).contains(&secs)).then(|| (secs * 1e3).round() as u64)
}

impl Presentation {
    /// The period of a run whose media began at a moment, made if it is new. It begins no earlier than the last one ends.
    pub fn period(&mut self, stem: &str, begins: Timestamp) -> &mut Period {
        let place = match self.periods.iter().position(|period| period.stem == stem) {
            Some(place) => place,
            None => {
                let since = begins.duration_since(self.begins).as_millis();
                let end = self.periods.last().map_or(0, |last| last.start_ms + (last.end_secs() * 1e3).ceil() as u64);
                let start_ms = u64::try_from(since).unwrap_or(0).max(end);
                self.periods.push(Period { stem: stem.to_owned(), start_ms, tracks: Vec::new() });
                self.periods.len() - 1
            }
        };
        &mut self.periods[place]
    }

    /// Takes out what is older than the last segments of the picture. Answers the files that are no longer named.
    pub fn trim(&mut self) -> Vec<String> {
        let mut dropped = Vec::new();
        loop {
            let count: usize =
                self.periods.iter().filter_map(|period| Some(period.tracks.first()?.segments.len())).sum();
            let Some(oldest) = self.periods.first_mut().filter(|_| count > SEGMENTS) else { return dropped };
            if let Some(track) = oldest.tracks.first_mut().filter(|track| !track.segments.is_empty()) {
                let segment = track.segments.remove(0);
                let track = &oldest.tracks[0];
                dropped.push(oldest.segment_name(track, segment));
                let from = track.segments.first().map_or(f64::INFINITY, |next| track.secs(next.time));
                for index in 1..oldest.tracks.len() {
                    let track = &oldest.tracks[index];
                    // Half a frame of sound may reach over.
                    let is_over = |segment: &&Segment| track.secs(segment.time + segment.ticks) <= from + 0.02;
                    let over: Vec<Segment> = track.segments.iter().take_while(is_over).copied().collect();
                    dropped.extend(over.iter().map(|segment| oldest.segment_name(track, *segment)));
                    oldest.tracks[index].segments.drain(..over.len());
                }
            }
            if oldest.tracks.first().is_none_or(|track| track.segments.is_empty()) {
                dropped.extend(oldest.tracks.iter().map(|track| oldest.init_name(track)));
                self.periods.remove(0);
            }
        }
    }

    /// Every file that it names.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        for period in &self.periods {
            for track in &period.tracks {
                files.push(period.init_name(track));
                files.extend(track.segments.iter().map(|segment| period.segment_name(track, *segment)));
            }
        }
        files
    }

    /// The MPD while more is to come.
    #[must_use]
    pub fn growing(&self, now: Timestamp) -> String {
        let begins = self.begins.round(Unit::Millisecond).unwrap_or(self.begins);
        let now = now.round(Unit::Millisecond).unwrap_or(now);
        let shift = SEGMENTS as f64 * self.longest_secs();
        let head = format!(
            "type=\"dynamic\" availabilityStartTime=\"{begins}\" publishTime=\"{now}\" minimumUpdatePeriod=\"PT{UPDATE_SECS}S\" \
             timeShiftBufferDepth=\"PT{shift:.3}S\" suggestedPresentationDelay=\"PT{DELAY_SECS}S\""
        );
        self.written(&head, 0, false)
    }

    /// The MPD when nothing more comes: what it still names, from its first segment on.
    #[must_use]
    pub fn whole(&self) -> String {
        let base_ms = self.periods.first().map_or(0, |first| first.start_ms + (first.first_secs() * 1e3) as u64);
        let end = self.periods.last().map_or(0.0, |last| last.start_ms as f64 / 1e3 + last.end_secs());
        let secs = end - base_ms as f64 / 1e3;
        self.written(&format!("type=\"static\" mediaPresentationDuration=\"PT{secs:.3}S\""), base_ms, true)
    }

    fn longest_secs(&self) -> f64 {
        let tracks = self.periods.iter().flat_map(|period| &period.tracks);
        tracks.flat_map(|track| track.segments.iter().map(|segment| track.secs(segment.ticks))).fold(0.0, f64::max)
    }

    fn written(&self, head: &str, base_ms: u64, is_whole: bool) -> String {
        let longest = self.longest_secs();
        let mut text = format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" \
             profiles=\"urn:mpeg:dash:profile:isoff-live:2011\" {head} maxSegmentDuration=\"PT{longest:.3}S\" \
             minBufferTime=\"PT{longest:.3}S\">\n"
        );
        for (number, period) in self.periods.iter().enumerate() {
            // The first period begins with what is left of it.
            let skipped = if is_whole && number == 0 { period.first_secs() } else { 0.0 };
            let start = period.start_ms as f64 / 1e3 + skipped - base_ms as f64 / 1e3;
            // One that is followed by another ends where its media do: what lies between is a gap.
            let is_over = is_whole || number + 1 < self.periods.len();
            let length = period.end_secs() - skipped;
            let length = if is_over { format!(" duration=\"PT{length:.3}S\"") } else { String::new() };
            let _ = writeln!(text, "  <Period id=\"{}\" start=\"PT{:.3}S\"{length}>", period.stem, start.max(0.0));
            for track in period.tracks.iter().filter(|track| !track.segments.is_empty()) {
                write_track(&mut text, period, track, skipped);
            }
            text.push_str("  </Period>\n");
        }
        text.push_str("</MPD>\n");
        text
    }
}

fn write_track(text: &mut String, period: &Period, track: &Track, skipped_secs: f64) {
    let Track { id, codecs, bandwidth, timescale, .. } = track;
    let (set, mime, is, inner) = match &track.kind {
        Kind::Video { width, height, rate } => {
            let rate = rate.as_ref().map(|rate| format!(" frameRate=\"{rate}\"")).unwrap_or_default();
            (format!("contentType=\"video\"{rate}"), "video", format!("width=\"{width}\" height=\"{height}\""), None)
        }
        Kind::Audio { sample_rate, channels } => {
            let scheme = "urn:mpeg:dash:23003:3:audio_channel_configuration:2011";
            let inner = channels.map(|count| {
                format!("        <AudioChannelConfiguration schemeIdUri=\"{scheme}\" value=\"{count}\"/>\n")
            });
            ("contentType=\"audio\"".to_owned(), "audio", format!("audioSamplingRate=\"{sample_rate}\""), inner)
        }
    };
    let offset = (skipped_secs * *timescale as f64).round() as u64;
    let offset = if offset > 0 { format!(" presentationTimeOffset=\"{offset}\"") } else { String::new() };
    let _ = write!(
        text,
        "    <AdaptationSet id=\"{id}\" {set} segmentAlignment=\"true\" startWithSAP=\"1\">\n      \
         <Representation id=\"{id}\" mimeType=\"{mime}/mp4\" codecs=\"{codecs}\" bandwidth=\"{bandwidth}\" {is}>\n{}        \
         <SegmentTemplate timescale=\"{timescale}\"{offset} initialization=\"{stem}-$RepresentationID$-init.m4s\" \
         media=\"{stem}-$RepresentationID$-$Time$.m4s\">\n          <SegmentTimeline>\n",
        inner.unwrap_or_default(),
        stem = period.stem,
    );
    let mut expected = None;
    for Segment { time, ticks } in &track.segments {
        let at = if expected == Some(*time) { String::new() } else { format!(" t=\"{time}\"") };
        let _ = writeln!(text, "            <S{at} d=\"{ticks}\"/>");
        expected = Some(time + ticks);
    }
    text.push_str(
        "          </SegmentTimeline>\n        </SegmentTemplate>\n      </Representation>\n    </AdaptationSet>\n",
    );
}

/// When the media of a run began that says so no more: its length ago.
#[must_use]
pub fn began_before(now: Timestamp, period: &Period) -> Timestamp {
    now.checked_sub(SignedDuration::from_millis((period.end_secs() * 1e3) as i64)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As FFmpeg 5.1 writes it.
    fn made(stem: &str, begins: &str, first: u64, segments: &str) -> Told {
        let text = format!(
            r#"<?xml version="1.0" encoding="utf-8"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"
	type="dynamic"
	availabilityStartTime="{begins}"
	publishTime="2026-11-26T04:46:32.820Z">
	<ServiceDescription id="0">
	</ServiceDescription>
	<Period id="0" start="PT0.0S">
		<AdaptationSet id="0" contentType="video" frameRate="25/1" maxWidth="320" maxHeight="180" par="16:9">
			<Representation id="0" mimeType="video/mp4" codecs="avc1.42c00c" bandwidth="618236" width="320" height="180" sar="1:1">
				<SegmentTemplate timescale="1000" initialization="{stem}-$RepresentationID$-init.m4s" media="x-$Number%06d$.m4s" startNumber="{first}">
					<SegmentTimeline>
						{segments}
					</SegmentTimeline>
				</SegmentTemplate>
			</Representation>
		</AdaptationSet>
		<AdaptationSet id="1" contentType="audio">
			<Representation id="1" mimeType="audio/mp4" codecs="mp4a.40.2" bandwidth="69000" audioSamplingRate="44100">
				<AudioChannelConfiguration schemeIdUri="urn:x" value="1" />
				<SegmentTemplate timescale="1000" initialization="{stem}-$RepresentationID$-init.m4s" media="x" startNumber="{first}">
					<SegmentTimeline>
						{segments}
					</SegmentTimeline>
				</SegmentTemplate>
			</Representation>
		</AdaptationSet>
	</Period>
</MPD>"#
        );
        read(&text).unwrap_or_else(|| panic!("{text}"))
    }

    fn add(presentation: &mut Presentation, told: Told) {
        let begins = told.begins.unwrap();
        let run = told.periods.into_iter().next().unwrap();
        presentation.period(&run.stem, begins).tracks = run.tracks;
    }

    #[test]
    fn runs_become_periods_at_their_times_and_never_overlap() {
        let first = made("job-1-1", "2026-11-26T04:00:00.500Z", 3, r#"<S t="8000" d="4000" r="1" /><S d="1500" />"#);
        let track = &first.periods[0].tracks[0];
        assert_eq!((track.first, track.segments.len(), track.segments[2].time), (3, 3, 16_000));
        let mut presentation = Presentation { begins: first.begins.unwrap(), periods: Vec::new() };
        add(&mut presentation, first);
        add(&mut presentation, made("job-1-2", "2026-11-26T04:00:25.500Z", 1, r#"<S t="0" d="4000" />"#));
        // By its clock it would begin before the second one's end.
        add(&mut presentation, made("job-2-1", "2026-11-26T04:00:26Z", 1, r#"<S t="0" d="4000" />"#));
        let starts: Vec<u64> = presentation.periods.iter().map(|period| period.start_ms).collect();
        assert_eq!(starts, [0, 25_000, 29_000]);
        let text = presentation.growing("2026-11-26T04:01:00Z".parse().unwrap());
        for part in [
            r#"type="dynamic" availabilityStartTime="2026-11-26T04:00:00.5Z" publishTime="2026-11-26T04:01:00Z""#,
            r#"<Period id="job-1-1" start="PT0.000S" duration="PT17.500S">"#,
            r#"<Period id="job-2-1" start="PT29.000S">"#,
            r#"media="job-1-2-$RepresentationID$-$Time$.m4s""#,
            r#"frameRate="25/1""#,
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        // What we wrote is gone on with by the next attempt.
        let again = read(&text).unwrap();
        assert_eq!((again.begins, again.periods.len()), (Some(presentation.begins), 3));
        for (read, written) in again.periods.iter().zip(&presentation.periods) {
            assert_eq!((&read.stem, read.start_ms), (&written.stem, written.start_ms));
            let times = |period: &Period| period.tracks.iter().map(|track| track.segments.clone()).collect::<Vec<_>>();
            assert_eq!(times(read), times(written));
        }
        let whole = presentation.whole();
        for part in [
            r#"type="static" mediaPresentationDuration="PT25.000S""#,
            r#"<Period id="job-1-1" start="PT0.000S" duration="PT9.500S">"#,
            r#"presentationTimeOffset="8000""#,
            r#"<Period id="job-1-2" start="PT17.000S" duration="PT4.000S">"#,
        ] {
            assert!(whole.contains(part), "{part} is not in {whole}");
        }
        assert!(!whole.contains("availability") && !whole.contains("minimumUpdatePeriod"), "{whole}");
    }

    #[test]
    fn the_oldest_segments_go_with_their_sound_and_empty_periods_with_their_heads() {
        let first = made("job-1-1", "2026-11-26T04:00:00Z", 1, r#"<S t="0" d="4000" r="1" />"#);
        let mut presentation = Presentation { begins: first.begins.unwrap(), periods: Vec::new() };
        add(&mut presentation, first);
        add(&mut presentation, made("job-1-2", "2026-11-26T04:01:00Z", 1, r#"<S t="0" d="4000" r="8" />"#));
        assert_eq!(presentation.trim(), ["job-1-1-0-0.m4s", "job-1-1-1-0.m4s"]);
        assert_eq!(presentation.trim(), Vec::<String>::new());
        add(&mut presentation, made("job-1-2", "2026-11-26T04:01:00Z", 1, r#"<S t="0" d="4000" r="9" />"#));
        let dropped = presentation.trim();
        let expected = ["job-1-1-0-4000.m4s", "job-1-1-1-4000.m4s", "job-1-1-0-init.m4s", "job-1-1-1-init.m4s"];
        assert_eq!(dropped, expected);
        assert_eq!((presentation.periods.len(), presentation.files().len()), (1, 22));
    }

    #[test]
    fn what_the_tool_could_not_have_written_is_not_read() {
        let text = Presentation { begins: Timestamp::UNIX_EPOCH, periods: Vec::new() }.growing(Timestamp::UNIX_EPOCH);
        assert_eq!(read(&text).map(|told| told.periods.len()), Some(0));
        let set = r#"<MPD type="static"><Period start="PT0S"><AdaptationSet><Representation id="0" mimeType="audio/mp4" codecs="a" audioSamplingRate="1"><SegmentTemplate timescale="1" initialization="j-$RepresentationID$-init.m4s"><S t="0" d="1"/>"#;
        assert!(read(set).is_some());
        for (from, to) in [
            (r#"codecs="a""#, r#"codecs="a&quot;""#),
            (r#"id="0""#, r#"id="99""#),
            ("j-$Rep", "../j-$Rep"),
            (r#"timescale="1""#, r#"timescale="0""#),
            (r#"d="1""#, r#"d="1" r="99999999""#),
            (r#"<S t="0" d="1"/>"#, r#"<S d="1" r="9999"/>"#.repeat(11).as_str()),
            ("<SegmentTemplate", "<Template"),
            (r#"d="1""#, r#"d="-1""#),
            (r#"start="PT0S""#, r#"start="PTinfS""#),
            ("audio/mp4", "text/html"),
        ] {
            assert_ne!(set.replace(from, to), set);
            assert_eq!(read(&set.replace(from, to)), None, "{to}");
        }
        assert_eq!(read("<html>"), None);
    }
}
