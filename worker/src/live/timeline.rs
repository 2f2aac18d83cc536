//! Where the runs of a live job stand in time: when each one's media began, and what lies between them.
//!
//! Invariant: times only grow. A run's beginning is the earliest that its progress allows: what the tool has written
//! at a moment was there by then, so the least difference of clock and media time is the one with the least delay, and
//! the delay of the encoder, which is the same in every run, falls out of the differences between runs.
//! Source: FFmpeg 5.1 measured: the first progress of a run comes up to three seconds late, while it looks at the
//! source; then media catch up.

/// Less than this between two runs, in seconds, is no gap: some frames' length.
const GAP_LEAST: f64 = 0.1;

/// One run that carried media.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    /// Number of the run, from 1.
    pub run: u32,
    /// Seconds of the clock at its media's beginning. Below 0: before the attempt.
    pub offset: f64,
    /// Seconds of media.
    pub secs: f64,
    /// Seconds of the clock by which all that its file holds was there, where that is known.
    until: Option<f64>,
}

/// All runs of an attempt, after those of earlier attempts with which it goes on.
#[derive(Debug, Default)]
pub struct Timeline {
    spans: Vec<Span>,
}

impl Timeline {
    /// Takes the media time that run `run` has written `clock` seconds after the attempt's beginning.
    pub fn observe(&mut self, run: u32, clock: f64, media: f64) {
        match self.spans.last_mut().filter(|span| span.run == run) {
            Some(span) => {
                span.offset = span.offset.min(clock - media);
                span.secs = span.secs.max(media);
            }
            None => self.spans.push(Span { run, offset: clock - media, secs: media, until: None }),
        }
    }

    /// Whatever the file of run `run` holds was there at `clock`. Of a run that was broken off early its progress tells too
    /// little: its file may hold more than that told of.
    pub fn was_there(&mut self, run: u32, clock: f64) {
        if let Some(span) = self.spans.iter_mut().find(|span| span.run == run) {
            span.until = Some(clock);
        }
    }

    /// The length of a run's media, as its file says. A run whose file holds nothing is none.
    pub fn measured(&mut self, run: u32, secs: Option<f64>) {
        match secs {
            Some(secs) => {
                if let Some(span) = self.spans.iter_mut().find(|span| span.run == run) {
                    span.secs = secs;
                    span.offset = span.until.map_or(span.offset, |until| span.offset.min(until - secs));
                }
            }
            None => self.spans.retain(|span| span.run != run),
        }
    }

    /// The clock at the first media.
    #[must_use]
    pub fn began(&self) -> Option<f64> {
        self.spans.first().map(|span| span.offset)
    }

    /// Seconds from the first media to the last.
    #[must_use]
    pub fn secs(&self) -> f64 {
        self.placed().last().map_or(0.0, |(span, at)| at + span.secs)
    }

    /// Whether a run carried media, and how many seconds.
    #[must_use]
    pub fn of_run(&self, run: u32) -> Option<f64> {
        self.spans.iter().find(|span| span.run == run).map(|span| span.secs)
    }

    /// All runs in order, as they were heard.
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Every run with the second, from the first media on, at which its media begin.
    #[must_use]
    pub fn placed(&self) -> Vec<(Span, f64)> {
        let Some(first) = self.began() else { return Vec::new() };
        let mut end = 0.0_f64;
        let mut placed = Vec::with_capacity(self.spans.len());
        for span in &self.spans {
            // No run begins before the last one's end, whatever the clocks say.
            let at = (span.offset - first).max(end);
            end = at + span.secs;
            placed.push((*span, at));
        }
        placed
    }

    /// What lies between the runs: the run before, its end and the length in seconds. Runs that meet leave none.
    #[must_use]
    pub fn gaps(&self) -> Vec<(u32, f64, f64)> {
        let placed = self.placed();
        let pairs = placed.windows(2).filter_map(|pair| {
            let [(before, at), (_, next)] = pair else { return None };
            let end = at + before.secs;
            Some((before.run, end, next - end))
        });
        pairs.filter(|(_, _, secs)| *secs >= GAP_LEAST).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_what_the_clock_says_and_delays_fall_out() {
        let mut timeline = Timeline::default();
        // Three seconds of looking at the source, then it catches up; 0.4 s of delay in every run.
        for (clock, media) in [(13.0, 2.1), (13.1, 2.7), (14.4, 4.0), (15.45, 5.0)] {
            timeline.observe(1, clock, media);
        }
        for (clock, media) in [(20.9, 0.2), (21.4, 1.0), (23.41, 3.0)] {
            timeline.observe(4, clock, media);
        }
        let placed = timeline.placed();
        assert!((placed[1].1 - 10.0).abs() < 1e-9, "{placed:?}");
        let gaps = timeline.gaps();
        assert_eq!(gaps.len(), 1);
        assert_eq!((gaps[0].0, gaps[0].1), (1, 5.0));
        assert!((gaps[0].2 - 5.0).abs() < 1e-9, "{gaps:?}");
        assert!((timeline.secs() - 13.0).abs() < 1e-9);
    }

    #[test]
    fn a_run_of_which_little_was_told_ends_before_it_was_looked_at() {
        let mut timeline = Timeline::default();
        // Killed a second after its first progress, when it had written all that it had looked at before.
        timeline.observe(1, 4.0, 0.2);
        timeline.observe(2, 9.0, 1.0);
        timeline.was_there(1, 4.5);
        timeline.measured(1, Some(3.5));
        timeline.measured(2, Some(1.0));
        let gaps = timeline.gaps();
        assert_eq!(timeline.began(), Some(1.0));
        assert!((gaps[0].1 - 3.5).abs() < 1e-9 && (gaps[0].2 - 3.5).abs() < 1e-9, "{gaps:?}");
    }

    #[test]
    fn runs_never_overlap_and_empty_ones_are_none() {
        let mut timeline = Timeline::default();
        timeline.observe(1, 1.0, 1.0);
        timeline.observe(2, 2.0, 1.5);
        timeline.observe(3, 9.0, 1.0);
        assert_eq!(timeline.placed()[1].1, 1.0);
        timeline.measured(2, None);
        timeline.measured(1, Some(1.25));
        assert_eq!(timeline.gaps(), [(1, 1.25, 6.75)]);
        assert_eq!((timeline.of_run(2), timeline.of_run(1)), (None, Some(1.25)));
    }
}
