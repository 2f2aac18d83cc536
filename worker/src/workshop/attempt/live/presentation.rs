//! A live presentation of DASH where people look for it: each run of the tool writes one into its scratch, and this carries
//! their segments out under one MPD of its own.
//!
//! Invariant: a segment is whole and in place before the MPD names it, and stays while a player that has read an earlier one
//! may ask for it; the MPD is replaced at once or not at all. Nothing is carried after the attempt has lost its lease: the carrier
//! is the attempt's own. It names, replaces and deletes only files that bear the job's name.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::files::{place_if_there, read, replace};
use crate::live::mpd::{self, Period, Presentation, Told, Track};
use crate::publish::delete_if_there;

/// The extension of its segments.
const SEGMENT: &str = ".m4s";
/// So many MPDs after the last one that named it a file is deleted: sixteen seconds.
const KEPT: u64 = 4;

/// What the tool calls the presentation of a run.
pub(super) fn name(run: u32) -> String {
    format!("live-{run}.mpd")
}

/// A presentation on its way out.
#[derive(Debug)]
pub(super) struct Carried {
    scratch: PathBuf,
    output: PathBuf,
    /// What the names of the job's files begin with.
    prefix: String,
    attempt: u32,
    /// The run that the tool writes now.
    run: u32,
    /// What it said last.
    last: String,
    /// When the media of that run began, once it is known.
    begins: Option<Timestamp>,
    /// Absent before the first segment.
    presentation: Option<Presentation>,
    /// MPDs written.
    written: u64,
    /// Files that are named no more, each with the MPD that named it last.
    dropped: VecDeque<(u64, String)>,
}

impl Carried {
    /// Goes on with what an earlier attempt at this job left at `output`, if any. Another job's is replaced, as is one that
    /// has ended. The names of the job's files begin with `prefix`.
    pub(super) fn open(scratch: &Path, output: PathBuf, prefix: String, attempt: u32) -> io::Result<Carried> {
        let before = read(&output)?.and_then(|text| mpd::read(&text)).and_then(|told| {
            let is_ours = |period: &Period| period.stem.starts_with(&prefix);
            let Told { begins, periods } = told;
            let begins = begins.filter(|_| !periods.is_empty() && periods.iter().all(is_ours))?;
            Some(Presentation { begins, periods })
        });
        let mut dropped = VecDeque::new();
        if let Some(before) = &before {
            let named: BTreeSet<String> = before.files().into_iter().collect();
            // What the earlier attempt would have deleted.
            for entry in std::fs::read_dir(output.parent().unwrap_or(Path::new("/")))? {
                let Ok(name) = entry?.file_name().into_string() else { continue };
                if name.starts_with(&prefix) && name.ends_with(SEGMENT) && !named.contains(&name) {
                    dropped.push_back((0, name));
                }
            }
        }
        let (scratch, last) = (scratch.to_owned(), String::new());
        let presentation = before;
        Ok(Carried { scratch, output, prefix, attempt, run: 0, last, begins: None, presentation, written: 0, dropped })
    }

    /// What the names of a run's files begin with.
    pub(super) fn stem(&self, run: u32) -> String {
        format!("{}{}-{run}", self.prefix, self.attempt)
    }

    /// A run of the tool begins: what the one before has left is carried out.
    pub(super) fn begin(&mut self, run: u32) -> io::Result<()> {
        self.carry()?;
        (self.run, self.last, self.begins) = (run, String::new(), None);
        Ok(())
    }

    /// Carries out what is new.
    pub(super) fn carry(&mut self) -> io::Result<()> {
        let Some(text) = read(&self.scratch.join(name(self.run)))? else { return Ok(()) };
        if text == self.last {
            return Ok(());
        }
        let Some(told) = mpd::read(&text) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "what the tool wrote is no MPD of its kind"));
        };
        self.last = text;
        let Some(made) = told.periods.into_iter().next() else { return Ok(()) };
        let begins = self.begins.or(told.begins).unwrap_or_else(|| mpd::began_before(Timestamp::now(), &made));
        self.begins = Some(begins);
        if !self.take(begins, &made)? {
            return Ok(());
        }
        self.put()
    }

    /// Carries out the segments of a run that are not there yet. Answers whether there were any.
    fn take(&mut self, begins: Timestamp, made: &Period) -> io::Result<bool> {
        let directory = self.output.parent().unwrap_or(Path::new("/")).to_owned();
        let stem = self.stem(self.run);
        let mut found = self.presentation.clone().unwrap_or(Presentation { begins, periods: Vec::new() });
        let period = found.period(&stem, begins);
        let mut is_new = false;
        for track in &made.tracks {
            let at = period.tracks.iter().position(|known| known.id == track.id);
            let at = if let Some(at) = at {
                at
            } else {
                let init = period.init_name(track);
                if !place_if_there(&self.scratch.join(&init), &directory.join(&init))? {
                    continue;
                }
                period.tracks.push(Track { segments: Vec::new(), ..track.clone() });
                period.tracks.len() - 1
            };
            let known = period.tracks[at].segments.last().map(|last| last.time);
            for (number, segment) in (track.first..).zip(&track.segments) {
                if known.is_some_and(|known| segment.time <= known) {
                    continue;
                }
                let made = self.scratch.join(format!("{stem}-{}-{number:06}{SEGMENT}", track.id));
                let to = directory.join(period.segment_name(track, *segment));
                // The tool deletes what is old: one that was missed is a gap.
                if place_if_there(&made, &to)? {
                    period.tracks[at].segments.push(*segment);
                    is_new = true;
                }
            }
            period.tracks[at].bandwidth = track.bandwidth;
        }
        if is_new {
            self.dropped.extend(found.trim().into_iter().map(|name| (self.written, name)));
            self.presentation = Some(found);
        }
        Ok(is_new)
    }

    fn put(&mut self) -> io::Result<()> {
        let Some(presentation) = &self.presentation else { return Ok(()) };
        replace(&self.output, &presentation.growing(Timestamp::now()))?;
        self.written += 1;
        let is_over = |(last, _): &(u64, String)| last + KEPT <= self.written;
        while let Some((_, name)) = self.dropped.front().filter(|dropped| is_over(dropped)) {
            delete_if_there(&self.output.with_file_name(name))?;
            self.dropped.pop_front();
        }
        Ok(())
    }

    /// Carries out the rest and says that nothing more comes.
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.carry()?;
        let Some(presentation) = &self.presentation else { return Ok(()) };
        replace(&self.output, &presentation.whole())?;
        for (_, name) in self.dropped.drain(..) {
            delete_if_there(&self.output.with_file_name(name))?;
        }
        Ok(())
    }
}
