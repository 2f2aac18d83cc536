//! GStreamer within a live attempt: its pipeline instead of FFmpeg, and what the end of one means.
//!
//! Invariant: everything else of a live attempt is the same for both engines. A pipeline has one sink, which ends the run
//! when it fails: what was lost is told apart by the element that says so, and the sink is up again only when it has
//! taken media.

use std::ffi::OsString;
use std::time::Duration;

use ffpool_schema::encode::{AudioChoice, Source};
use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::gstreamer;
use ffpool_schema::job::Engine;
use ffpool_schema::plan::live::{LiveRequest, live_arguments};
use tokio::time::Instant;

use super::super::{Attempt, End};
use super::handover::Succession;
use super::run::is_ours;
use super::{Broadcast, Media, RunEnd};
use crate::classify::Exit;
use crate::gstreamer::{Gstreamer, classify};
use crate::live::flow::{Coming, Fell, Flow, Silence, fell};
use crate::progress::{Block, Blocks};
use crate::tool::Finished;

/// How often it is told outside how far a pipeline is.
const TELL: Duration = Duration::from_millis(100);

/// What reads, encodes and sends.
#[derive(Clone, Copy)]
pub(super) enum Tool<'a> {
    Ffmpeg,
    Gstreamer(&'a Gstreamer),
}

impl Tool<'_> {
    pub(super) fn name(self) -> &'static str {
        match self {
            Tool::Ffmpeg => "ffmpeg",
            Tool::Gstreamer(_) => "gst-launch-1.0",
        }
    }

    pub(super) fn is_gstreamer(self) -> bool {
        match self {
            Tool::Ffmpeg => false,
            Tool::Gstreamer(_) => true,
        }
    }

    /// Its version, where it is not FFmpeg.
    pub(super) fn version(self) -> Option<String> {
        match self {
            Tool::Ffmpeg => None,
            Tool::Gstreamer(there) => Some(there.installation.version.clone()),
        }
    }

    pub(super) fn reading(self) -> Reading {
        match self {
            Tool::Ffmpeg => Reading::Ffmpeg(Blocks::default()),
            Tool::Gstreamer(_) => Reading::Gstreamer { flow: Flow::default(), told: None },
        }
    }
}

/// How a tool's progress is read.
pub(super) enum Reading {
    Ffmpeg(Blocks),
    Gstreamer {
        flow: Flow,
        /// When it was last told outside.
        told: Option<Instant>,
    },
}

impl Reading {
    /// A step of progress, where a line is or completes one.
    pub(super) fn line(&mut self, line: &str, now: Duration) -> Option<Block> {
        match self {
            Reading::Ffmpeg(blocks) => blocks.line(line),
            Reading::Gstreamer { flow, .. } => {
                let secs = flow.line(line, now)?;
                Some(Block { out_time_us: Some((secs * 1e6) as i64), ..Block::default() })
            }
        }
    }

    /// Whether a step is to be told outside: pipelines say every packet.
    pub(super) fn is_due(&mut self, has_advanced: bool) -> bool {
        match self {
            Reading::Ffmpeg(_) => true,
            Reading::Gstreamer { told, .. } => {
                let is_due = has_advanced && told.is_none_or(|told| told.elapsed() >= TELL);
                if is_due {
                    *told = Some(Instant::now());
                }
                is_due
            }
        }
    }

    /// Whether media are taken, which says that the only sink is up. FFmpeg says so itself.
    pub(super) fn proves_sink(&self) -> bool {
        match self {
            Reading::Ffmpeg(_) => false,
            Reading::Gstreamer { .. } => true,
        }
    }

    /// What came of the source, as far as is known.
    pub(super) fn coming(&self) -> Coming {
        match self {
            Reading::Ffmpeg(_) => Coming::default(),
            Reading::Gstreamer { flow, .. } => flow.coming(),
        }
    }
}

impl<'a> Attempt<'a> {
    /// What carries out the job, with what it needs in the scratch.
    pub(super) fn live_tool(&self, media: &Media) -> Result<Tool<'a>, End> {
        if self.engine.as_ref().is_none_or(|choice| choice.engine != Engine::Gstreamer) {
            return Ok(Tool::Ffmpeg);
        }
        let there = self.gstreamer()?;
        let file = match media {
            Media::File(path, _) => Some(path.as_path()),
            Media::Live(_) | Media::Generated => None,
        };
        self.furnish(there, file)?;
        Ok(Tool::Gstreamer(there))
    }

    /// The arguments of a run, of whichever tool.
    pub(super) fn tool_arguments(
        &self,
        broadcast: &Broadcast<'_>,
        request: &LiveRequest<'_>,
    ) -> Result<Vec<OsString>, End> {
        let Tool::Gstreamer(there) = broadcast.tool else { return Ok(live_arguments(request)) };
        let probed = match &broadcast.media {
            Media::File(_, probed) => Some(&**probed),
            Media::Live(_) | Media::Generated => None,
        };
        let made = gstreamer::live_pipeline(request, probed);
        let pipeline = made.map_err(|refusal| self.refused_by_gstreamer(refusal))?;
        match pipeline.elements().iter().find(|element| there.installation.lacks(element)) {
            None => Ok(pipeline.arguments()),
            Some(element) => {
                let message = format!("{}, or use `engine: ffmpeg`", gstreamer::missing(element));
                Err(End::failure(Cause::Platform, message))
            }
        }
    }

    /// Seconds that are left of a generated source, of which each pipeline makes its own.
    pub(super) fn generated_left(&self, broadcast: &Broadcast<'_>) -> Option<f64> {
        let wish = match (&broadcast.encode.source, broadcast.tool) {
            (Source::Generated { duration_secs }, Tool::Gstreamer(_)) => *duration_secs,
            (Source::Generated { .. }, Tool::Ffmpeg)
            | (Source::File { .. } | Source::Remote { .. } | Source::Live { .. }, _) => return None,
        };
        let gone = broadcast.timeline.began().map_or(0.0, |began| (self.clock() - began).max(0.0));
        Some((wish - gone).max(0.0))
    }

    /// A pipeline needs its sink from the start: the attempt before this one is asked for it first, once source and sink were
    /// found. To record, both can run.
    pub(super) async fn take_sinks_first(&self, broadcast: &mut Broadcast<'_>) -> Result<(), End> {
        let needs_sink = broadcast.tool.is_gstreamer() && !broadcast.sinks.is_empty();
        if !needs_sink || broadcast.succession != Succession::Waits {
            return Ok(());
        }
        self.wait_to_take_over(broadcast).await
    }

    /// What the silence of a pipeline means where it is not the source's. `None`: it is, or the tool is FFmpeg.
    pub(super) fn held_up(&self, broadcast: &mut Broadcast<'_>, coming: Coming) -> Option<Result<RunEnd, End>> {
        if !broadcast.tool.is_gstreamer() {
            return None;
        }
        let is_live = matches!(broadcast.media, Media::Live(_));
        let had_media = broadcast.timeline.of_run(broadcast.run).is_some();
        let wants_sound = broadcast.encode.audio.codec != AudioChoice::None;
        let stall = self.stall_after(is_live);
        let silence = if is_live {
            coming.silence(self.started.elapsed(), stall, wants_sound, had_media)
        } else {
            Silence::HeldUp
        };
        match silence {
            Silence::Source => None,
            Silence::NoPicture => {
                let message = "the source sends sound and no picture in H.264";
                Some(Ok(RunEnd::Lost(Failure::new(Cause::SourceGone, message))))
            }
            Silence::NoSound => {
                let message = "the source has no AAC sound, which the pipeline waits for: ask for `audio_codec: none`, or \
                               use `engine: ffmpeg`";
                Some(Err(self.of_another_kind(Failure::new(Cause::InputBad, message))))
            }
            Silence::HeldUp => {
                let why = "it takes nothing more and stays connected".to_owned();
                (!broadcast.sinks.is_empty()).then(|| self.sink_is_gone(broadcast, had_media, Some(why)))
            }
        }
    }

    /// The end of an attempt whose source is not what pipelines read. Where the job leaves the choice, another worker may do it.
    fn of_another_kind(&self, failure: Failure) -> End {
        let is_chosen = self.grant.spec.engine == Engine::Auto;
        End::failed(Failure { cause: if is_chosen { Cause::Platform } else { Cause::InputBad }, ..failure })
    }

    /// The only sink of a pipeline is gone, and with it the run.
    pub(super) fn sink_is_gone(
        &self,
        broadcast: &mut Broadcast<'_>,
        had_media: bool,
        evidence: Option<String>,
    ) -> Result<RunEnd, End> {
        let mut failure = Failure::new(Cause::SinkRefused, "the sink takes nothing that is sent to it");
        let why = evidence.as_deref().unwrap_or("it takes nothing");
        // What still seems to belong to the attempt before refuses this one for a moment.
        if broadcast.succession == Succession::Owns
            && let Some(news) = broadcast.fare.unreachable(0, why, self.started.elapsed())
        {
            self.say(&news);
        }
        failure.evidence = evidence;
        // A pipeline cannot begin in the middle of a file.
        let is_played = had_media && matches!(broadcast.media, Media::File(..));
        if is_played { Err(End::failed(failure)) } else { Ok(RunEnd::Lost(failure)) }
    }

    /// What the failure of a pipeline means.
    pub(super) fn pipeline_fell(
        &self,
        broadcast: &mut Broadcast<'_>,
        finished: &Finished,
        exit: Exit,
        was_slow: bool,
    ) -> Result<RunEnd, End> {
        let mut failure = self.of_bounds(classify(exit, &finished.log), finished.refused_forks);
        failure.evidence = failure.evidence.map(|line| self.reporter.clean(&line));
        if exit.signal.is_some() || exit.oom_kills > 0 {
            return Err(End::failed(failure));
        }
        let had_media = broadcast.timeline.of_run(broadcast.run).is_some();
        let is_live = matches!(broadcast.media, Media::Live(_));
        let what = fell(&finished.log);
        match what {
            Fell::Sink => return self.sink_is_gone(broadcast, had_media, failure.evidence),
            Fell::Kind if is_live => {
                let message = "the source is not H.264 with AAC, which is what GStreamer's engine reads of live media: use \
                               `engine: ffmpeg`";
                return Err(self.of_another_kind(Failure { message: message.to_owned(), ..failure }));
            }
            Fell::Source | Fell::Kind | Fell::Other => {}
        }
        if !is_live || (what == Fell::Other && is_ours(failure.cause)) {
            return Err(End::failed(failure));
        }
        let (cause, message) = match (failure.cause, was_slow, had_media) {
            (Cause::InputAuth, ..) => (Cause::InputAuth, "the source's server refuses the worker"),
            (_, true, _) => (Cause::EncoderSlow, "the encoder fell behind the source, which did not wait"),
            (_, false, true) => (Cause::SourceGone, "the source went away"),
            (_, false, false) => (Cause::SourceGone, "the source is not there"),
        };
        Ok(RunEnd::Lost(Failure { cause, message: message.to_owned(), ..failure }))
    }
}
