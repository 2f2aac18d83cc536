//! How the sinks of a live job fare, by what FFmpeg says of their queues, or by what a pipeline of GStreamer hands on.
//!
//! Invariant: a sink is up until the tool says otherwise; what is said is counted once for each time it goes away.
//! Source: FFmpeg 5.1 measured, 7.1 and 9.0 read: the queue of a sink says `Error opening ADDRESS: reason` with its own
//! pointer whenever a try fails, then `Recovery failed` or `Recovery successful`.

use std::collections::HashMap;
use std::time::Duration;

use ffpool_schema::message::LiveSink;

/// How one sink fares.
#[derive(Debug, Clone)]
struct Sink {
    shown: String,
    /// What FFmpeg was given.
    dialled: String,
    down_since: Option<Duration>,
    losses: u32,
    evidence: Option<String>,
}

/// All sinks of an attempt.
#[derive(Debug, Default)]
pub struct Sinks {
    sinks: Vec<Sink>,
    /// By the pointers that name queues in this run's log.
    queues: HashMap<String, usize>,
}

/// Something new about a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// It takes nothing any more, or did not from the start.
    Down(String),
    /// It takes again what is sent to it.
    Up(String),
    /// It is so slow that it loses packets.
    Slow(String),
}

impl Sinks {
    /// Sinks by how they are shown.
    #[must_use]
    pub fn new(shown: impl IntoIterator<Item = String>) -> Sinks {
        let sink = |shown| Sink { shown, dialled: String::new(), down_since: None, losses: 0, evidence: None };
        Sinks { sinks: shown.into_iter().map(sink).collect(), queues: HashMap::new() }
    }

    /// A new run of the tool begins, with these addresses in the order of the sinks; a sink without one is not dialled.
    pub fn begin(&mut self, dialled: &[Option<String>]) {
        self.queues.clear();
        for (sink, dialled) in self.sinks.iter_mut().zip(dialled) {
            if let Some(dialled) = dialled {
                sink.dialled.clone_from(dialled);
                sink.down_since = None;
            }
        }
    }

    /// A new run of a pipeline begins: whoever is down stays so until it has taken something, and has as long for it again.
    pub fn renew(&mut self, now: Duration) {
        for sink in &mut self.sinks {
            sink.down_since = sink.down_since.map(|_| now);
        }
    }

    /// The attempt stood still for so long, which is not held against a sink.
    pub fn stood_still(&mut self, still: Duration) {
        for sink in &mut self.sinks {
            sink.down_since = sink.down_since.map(|since| since + still);
        }
    }

    /// A sink cannot be dialled.
    pub fn unreachable(&mut self, index: usize, why: &str, now: Duration) -> Option<News> {
        self.down(index, why, now)
    }

    /// A sink has taken what was sent to it.
    pub fn taken(&mut self, index: usize) -> Option<News> {
        let sink = self.sinks.get_mut(index)?;
        sink.down_since.take().map(|_| News::Up(sink.shown.clone()))
    }

    /// Takes a line of the tool's log.
    pub fn line(&mut self, line: &str, now: Duration) -> Option<News> {
        let (pointer, said) = line.strip_prefix("[fifo @ ")?.split_once(']')?;
        if let Some((_, opening)) = said.split_once("Error opening ") {
            let longest = |(_, sink): &(usize, &Sink)| sink.dialled.len();
            let named = self.sinks.iter().enumerate();
            let named = named.filter(|(_, sink)| !sink.dialled.is_empty() && opening.starts_with(&sink.dialled));
            let index = named.max_by_key(longest)?.0;
            self.queues.insert(pointer.to_owned(), index);
            let reason = opening.rsplit_once(": ").map_or(opening, |(_, reason)| reason);
            return self.down(index, reason, now);
        }
        // One sink is meant even where its queue has not named itself.
        let only = || (self.sinks.len() == 1).then_some(0);
        let index = self.queues.get(pointer).copied().or_else(only)?;
        if said.contains("Recovery successful") {
            let sink = &mut self.sinks[index];
            return sink.down_since.take().map(|_| News::Up(sink.shown.clone()));
        }
        if said.contains("FIFO queue full") {
            let sink = &mut self.sinks[index];
            sink.evidence = Some("it takes less than is sent to it".to_owned());
            return Some(News::Slow(sink.shown.clone()));
        }
        if let Some((_, reason)) = said.split_once("Recovery failed: ") {
            return self.down(index, reason, now);
        }
        None
    }

    fn down(&mut self, index: usize, reason: &str, now: Duration) -> Option<News> {
        let sink = self.sinks.get_mut(index)?;
        sink.evidence = Some(reason.trim().to_owned());
        if sink.down_since.is_some() {
            return None;
        }
        sink.down_since = Some(now);
        sink.losses += 1;
        Some(News::Down(sink.shown.clone()))
    }

    /// How many are down.
    #[must_use]
    pub fn down_count(&self) -> usize {
        self.sinks.iter().filter(|sink| sink.down_since.is_some()).count()
    }

    /// Since when all are down, where there are any.
    #[must_use]
    pub fn all_down_since(&self) -> Option<Duration> {
        let since: Option<Vec<Duration>> = self.sinks.iter().map(|sink| sink.down_since).collect();
        since?.into_iter().max()
    }

    /// What was said last of one that is down.
    #[must_use]
    pub fn evidence(&self) -> Option<String> {
        let down = self.sinks.iter().find(|sink| sink.down_since.is_some())?;
        down.evidence.as_ref().map(|evidence| format!("{}: {evidence}", down.shown))
    }

    /// How they fared.
    #[must_use]
    pub fn report(&self) -> Vec<LiveSink> {
        let report = |sink: &Sink| LiveSink {
            url: sink.shown.clone(),
            is_up: sink.down_since.is_none(),
            losses: sink.losses,
            evidence: sink.evidence.clone(),
        };
        self.sinks.iter().map(report).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sink_is_followed_by_its_queue() {
        let mut sinks = Sinks::new(["rtmp://a:1935/live/***".to_owned(), "rtmp://b:1935/live/***".to_owned()]);
        let dialled = ["rtmp://127.0.0.1:1935/live/key", "rtmp://127.0.0.2:1935/live/key2"];
        sinks.begin(&dialled.map(|url| Some(url.to_owned())));
        let at = Duration::from_secs;
        let opening = "[fifo @ 0x1] [error] Error opening rtmp://127.0.0.2:1935/live/key2: Connection refused";
        assert_eq!(sinks.line(opening, at(1)), Some(News::Down("rtmp://b:1935/live/***".to_owned())));
        assert_eq!(sinks.line(opening, at(2)), None);
        assert_eq!((sinks.down_count(), sinks.all_down_since()), (1, None));
        assert_eq!(sinks.line("[fifo @ 0x2] [info] Recovery successful", at(3)), None);
        let other = "[fifo @ 0x2] [error] Error opening rtmp://127.0.0.1:1935/live/key: Operation not permitted";
        assert!(sinks.line(other, at(4)).is_some());
        assert_eq!(sinks.all_down_since(), Some(at(4)));
        assert_eq!((sinks.taken(5), sinks.taken(0).is_some(), sinks.taken(0)), (None, true, None));
        assert!(sinks.unreachable(0, "Operation not permitted", at(4)).is_some());
        let back = sinks.line("[fifo @ 0x1] [info] Recovery successful", at(5));
        assert_eq!(back, Some(News::Up("rtmp://b:1935/live/***".to_owned())));
        assert_eq!(sinks.evidence().as_deref(), Some("rtmp://a:1935/live/***: Operation not permitted"));
        let report = sinks.report();
        assert_eq!((report[0].is_up, report[1].is_up, report[0].losses), (false, true, 2));
        assert_eq!(sinks.line("[flv @ 0x9] [warning] Failed to update header", at(6)), None);
    }

    #[test]
    fn a_sink_is_not_away_while_the_attempt_stands_still_and_has_as_long_again_in_the_next_run() {
        let mut sinks = Sinks::new(["rtmp://a:1935/live/***".to_owned()]);
        let at = Duration::from_secs;
        sinks.stood_still(at(5));
        sinks.renew(at(5));
        assert_eq!(sinks.all_down_since(), None);
        assert!(sinks.unreachable(0, "it takes nothing", at(10)).is_some());
        sinks.stood_still(at(100));
        assert_eq!(sinks.all_down_since(), Some(at(110)));
        sinks.renew(at(120));
        assert_eq!((sinks.all_down_since(), sinks.report()[0].losses), (Some(at(120)), 1));
        assert!(sinks.unreachable(0, "it takes nothing", at(121)).is_none());
        assert!(sinks.taken(0).is_some());
        sinks.renew(at(130));
        assert_eq!(sinks.all_down_since(), None);
    }

    #[test]
    fn without_sinks_none_is_down() {
        let sinks = Sinks::new([]);
        assert_eq!(sinks.down_count(), 0);
        assert_eq!(sinks.report(), []);
    }
}
