//! What a live pipeline of GStreamer says: how far its media are, whether its source still sends, and what failed.
//!
//! Invariant: media count once whatever comes behind them was handed on too: by then the sink has taken them.
//! Source: GStreamer 1.22 measured: `identity` says each buffer before it hands it on; the first error of the bus is the
//! only one that `gst-launch-1.0` waits for.

use std::time::Duration;

use ffpool_schema::gstreamer::{ARRIVAL, LIVE_SINK, LIVE_SOURCE, PROGRESS, SOUND};

/// Pictures that come for so long after the last was handed on fill the queues: once those are full, nothing comes either.
const HELD_UP_AFTER: Duration = Duration::from_secs(3);

/// Follows one run.
#[derive(Debug, Default)]
pub struct Flow {
    /// When the first buffer that was handed on is shown, in seconds.
    first: Option<f64>,
    /// The farthest of those that are handed on, and may not be taken yet.
    handed: f64,
    /// When something was last handed on.
    handed_at: Option<Duration>,
    /// When something last came from the source.
    arrived: Option<Duration>,
    has_sound: bool,
}

impl Flow {
    /// Takes a line of the tool's. Seconds of media that were taken by now, where it says so.
    pub fn line(&mut self, line: &str, now: Duration) -> Option<f64> {
        self.has_sound |= line.contains(&format!(":{SOUND}.GstPad:sink: caps"));
        let (element, said) = line.split_once(": last-message = ")?;
        if element.ends_with(&format!(":{ARRIVAL}")) {
            self.arrived = Some(now);
            return None;
        }
        if !element.ends_with(&format!(":{PROGRESS}")) {
            return None;
        }
        let at = shown_at(said)?;
        let first = *self.first.get_or_insert(at);
        let taken = self.handed;
        self.handed_at = Some(now);
        self.handed = self.handed.max(at - first);
        Some(taken)
    }

    /// What has come of the source.
    #[must_use]
    pub fn coming(&self) -> Coming {
        Coming { picture: self.arrived, handed: self.handed_at, has_sound: self.has_sound }
    }
}

/// What has come of a live source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Coming {
    /// When the last picture came.
    picture: Option<Duration>,
    /// When the pipeline last handed something on to its end.
    handed: Option<Duration>,
    has_sound: bool,
}

/// What the silence of a pipeline with a live source means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// Nothing comes.
    Source,
    /// Sound comes, and no picture that the pipeline reads.
    NoPicture,
    /// The other way round, where the pipeline waits for sound.
    NoSound,
    /// The source still sends, or did until the queues were full, and what comes behind it takes nothing.
    HeldUp,
}

impl Coming {
    /// What a silence for as long as `stall` means.
    #[must_use]
    pub fn silence(self, now: Duration, stall: Duration, wants_sound: bool, had_media: bool) -> Silence {
        let lacks_sound = wants_sound && !self.has_sound && !had_media;
        match self.picture {
            None if self.has_sound => Silence::NoPicture,
            None => Silence::Source,
            Some(last) if !lacks_sound && self.is_ahead(last) => Silence::HeldUp,
            // The last pictures may have come later than what was last handed on.
            Some(last) if now.saturating_sub(last) >= stall / 2 => Silence::Source,
            Some(_) if lacks_sound => Silence::NoSound,
            Some(_) => Silence::HeldUp,
        }
    }

    /// Whether pictures came until `last`, long after anything was handed on.
    fn is_ahead(self, last: Duration) -> bool {
        self.handed.is_some_and(|handed| last > handed + HELD_UP_AFTER)
    }
}

/// When a buffer is shown, in seconds, from `chain ... (1316 bytes, dts: none, pts: 0:00:01.040000000, duration: ...`.
fn shown_at(said: &str) -> Option<f64> {
    let time = said.split_once("pts: ")?.1.split_once(',')?.0;
    let mut parts = time.split(':');
    let (hours, minutes, secs) = (parts.next()?, parts.next()?, parts.next()?);
    let whole = |text: &str| text.parse::<u32>().ok().map(f64::from);
    let secs = secs.parse::<f64>().ok().filter(|secs| (0.0..60.0).contains(secs))?;
    Some(whole(hours)? * 3600.0 + whole(minutes)? * 60.0 + secs)
}

/// What of a pipeline failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fell {
    /// The source.
    Source,
    /// The sink.
    Sink,
    /// The source holds something else than the pipeline reads.
    Kind,
    /// Something else.
    Other,
}

/// What failed, by the errors of the bus in their order.
#[must_use]
pub fn fell(log: &[String]) -> Fell {
    let is_unlinked = |line: &String| line.contains("reason not-linked") || line.contains("failed delayed linking");
    let Some(path) = log.iter().find_map(|line| line.strip_prefix("ERROR: from element ")) else { return Fell::Other };
    let element = path.split_once(": ").map_or(path, |(element, _)| element);
    if element.ends_with(&format!(":{LIVE_SINK}")) {
        Fell::Sink
    } else if log.iter().any(is_unlinked) {
        Fell::Kind
    } else if element.ends_with(&format!(":{LIVE_SOURCE}")) || element.ends_with(":demux") {
        Fell::Source
    } else {
        Fell::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(element: &str, pts: &str) -> String {
        format!(
            "/GstPipeline:pipeline0/GstIdentity:{element}: last-message = chain   ******* ({element}:sink) (1316 bytes, \
             dts: none, pts: {pts}, duration: none, offset: -1, offset_end: -1, flags: 00000000 , meta: none) 0x7f"
        )
    }

    #[test]
    fn media_count_from_the_first_on_and_once_the_next_was_handed_on() {
        let mut flow = Flow::default();
        let at = Duration::from_secs;
        assert_eq!(flow.line(&chain("progress", "none"), at(1)), None);
        assert_eq!(flow.line(&chain("progress", "0:01:02.500000000"), at(1)), Some(0.0));
        assert_eq!(flow.line(&chain("progress", "0:01:02.540000000"), at(1)), Some(0.0));
        let taken = flow.line(&chain("progress", "0:01:02.520000000"), at(1)).unwrap();
        assert!((taken - 0.04).abs() < 1e-9, "{taken}");
        assert_eq!(flow.coming(), Coming { handed: Some(at(1)), ..Coming::default() });
        assert_eq!(flow.line(&chain("arrival", "1:00:00.000000000"), at(7)), None);
        assert_eq!(flow.coming(), Coming { picture: Some(at(7)), handed: Some(at(1)), has_sound: false });
        assert_eq!(flow.line("/GstPipeline:pipeline0/GstAacParse:sound.GstPad:sink: caps = audio/mpeg", at(8)), None);
        assert!(flow.coming().has_sound);
        assert_eq!(flow.line("Setting pipeline to PLAYING ...", at(8)), None);
    }

    #[test]
    fn a_silence_is_the_source_s_unless_it_still_sends() {
        let at = Duration::from_secs;
        let stall = at(15);
        for (picture, has_sound, wants_sound, had_media, means) in [
            (None, false, true, false, Silence::Source),
            (None, true, true, false, Silence::NoPicture),
            (Some(99), false, true, false, Silence::NoSound),
            (Some(99), false, false, false, Silence::HeldUp),
            (Some(99), true, true, false, Silence::HeldUp),
            (Some(99), true, true, true, Silence::HeldUp),
            (Some(85), true, true, true, Silence::Source),
            (Some(86), false, true, false, Silence::Source),
        ] {
            let coming = Coming { picture: picture.map(at), handed: None, has_sound };
            assert_eq!(coming.silence(at(100), stall, wants_sound, had_media), means, "{coming:?}");
        }
    }

    #[test]
    fn a_source_that_sent_until_the_queues_were_full_is_held_up_and_not_silent() {
        let at = Duration::from_secs;
        for (picture, handed, has_sound, had_media, means) in [
            (40, 10, true, true, Silence::HeldUp),
            (14, 10, true, true, Silence::HeldUp),
            (12, 10, true, true, Silence::Source),
            (10, 11, true, true, Silence::Source),
            (40, 10, false, false, Silence::Source),
            (60, 10, false, false, Silence::NoSound),
        ] {
            let coming = Coming { picture: Some(at(picture)), handed: Some(at(handed)), has_sound };
            assert_eq!(coming.silence(at(70), at(60), true, had_media), means, "{coming:?}");
        }
    }

    #[test]
    fn the_element_that_speaks_first_is_what_failed() {
        let of = |lines: &[&str]| fell(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>());
        let source =
            "ERROR: from element /GstPipeline:pipeline0/GstRtmp2Src:source: Could not open resource for reading.";
        let sink = "ERROR: from element /GstPipeline:pipeline0/GstRtmp2Sink:sink: Could not write to resource.";
        let other = "ERROR: from element /GstPipeline:pipeline0/GstX264Enc:x264enc0: Could not encode stream.";
        assert_eq!(of(&[source]), Fell::Source);
        assert_eq!(of(&[sink, source]), Fell::Sink);
        assert_eq!(of(&[other]), Fell::Other);
        let unlinked = [source, "streaming stopped, reason not-linked (-1)"];
        assert_eq!(of(&unlinked), Fell::Kind);
        assert_eq!(of(&[]), Fell::Other);
    }
}
