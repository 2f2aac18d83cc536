//! An encode by GStreamer within one attempt: FFmpeg reads the source to its end, the pipeline encodes it, and the output
//! stands the same proof as FFmpeg's own. Live media: `live/pipeline.rs`.
//!
//! Invariant: the pipeline reads and writes fixed names in the attempt's scratch. No picture of a damaged source is passed on:
//! GStreamer's decoders hide damage and the pipeline ends well, so the source is decoded with every error fatal before it.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;

use ffpool_schema::encode::Encode;
use ffpool_schema::failure::Cause;
use ffpool_schema::gstreamer;
use ffpool_schema::job::Engine;
use ffpool_schema::message::{EngineChoice, Outcome, Phase, Progress};
use ffpool_schema::plan::ladder::Output;
use ffpool_schema::plan::{self, Refusal, Request};
use ffpool_schema::probe::Probed;
use ffpool_schema::scenario;
use tokio::time::Instant;

use super::encode::{Made, Proven, refused};
use super::report::{Part, Reporter};
use super::{Attempt, End, NEARLY};
use crate::classify::Exit;
use crate::gstreamer::{Gstreamer, REGISTRY, classify, progress_secs};
use crate::progress::{Block, Meter};
use crate::tool::{self, Listener, ToolUser};
use crate::verify::Run;

/// The part of the work that reading the source is.
const READING: Part = Part { before: 0.0, share: 0.15 };
/// The part that the pipeline is.
const ENCODING: Part = Part { before: 0.15, share: 0.85 };

impl<'a> Attempt<'a> {
    /// Which engine encodes. Where FFmpeg lacks something it says so itself, by a cause that tells more.
    pub(super) fn choose_engine(&self, encode: &Encode) -> Result<EngineChoice, End> {
        let spec = &self.grant.spec;
        match scenario::choose_engine(spec, encode, &self.shop.ability()) {
            Ok(choice) => Ok(choice),
            Err(faults) if spec.engine == Engine::Gstreamer => Err(End::Report(Box::new(Outcome::Rejected { faults }))),
            Err(_) => {
                let reason = scenario::why_engine(spec.engine).to_owned();
                Ok(EngineChoice { engine: Engine::Ffmpeg, reason })
            }
        }
    }

    /// Makes the only output of a job.
    pub(super) async fn make_by_gstreamer(
        &mut self,
        outputs: &[Output],
        source: Option<(&Path, &Probed)>,
        user: ToolUser,
    ) -> Result<Made, End> {
        let [Output { encode, name: told, .. }] = outputs else {
            return Err(End::faulty(gstreamer::unsupported("outputs", "more than one output")));
        };
        let name = outputs[0].file_name(0);
        let shop = self.shop.clone();
        let tools = shop.software.tools();
        let threads = shop.threads(&self.grant.spec);
        let request = Request {
            encode,
            encoder: gstreamer::twin(encode.video.codec),
            device: None,
            source,
            output: &name,
            number: 0,
            threads,
            features: &tools.features,
            loudness: None,
        };
        let planned = plan::plan(&request).map_err(refused)?;
        let pipeline = gstreamer::pipeline(&request, &planned).map_err(|refusal| self.refused_by_gstreamer(refusal))?;
        let there = self.gstreamer()?;
        // What reads a source is known only when the source is. Another worker may have what is missing here.
        if let Some(element) = pipeline.elements().iter().find(|element| there.installation.lacks(element)) {
            let message = format!("{}, or use `engine: ffmpeg`", gstreamer::missing(element));
            return Err(End::failure(Cause::Platform, message));
        }
        let (arguments, mut expected) = (pipeline.arguments(), planned.expected);
        let duration = expected.duration_secs;
        let mut steps = Vec::new();
        if let Some((path, _)) = source {
            let reading = plan::source_decode_arguments(path, expected.audio.len(), threads);
            let reading = shop.settings.bounds.applied(reading);
            let read = self.run_ffmpeg(&reading, user, Phase::Prepare, duration, READING).await?;
            // It was decoded to its end: that count is better than what its header says.
            if let (Some(frames), Some(block)) = (&mut expected.source_frames, read.last)
                && frames.is_all
            {
                (frames.said, frames.is_counted) = (block.frame.map(|frames| frames as f64), true);
            }
            steps.push(reading);
        }
        self.run_pipeline(&arguments, source.map(|(path, _)| path), duration, user).await?;
        self.reporter.phase(Phase::Verify, Some(NEARLY));
        let file = self.scratch_path().join(&name);
        // It repeats none and leaves none out.
        let run = Run { outputs: 1, ..Run::default() };
        let (probed, proof) = self.prove(request, &expected, Some(run), user).await?;
        let quality = self.measure(request, proof.frames, None, user).await?;
        let (names, renditions) = (Vec::new(), Vec::new());
        let proven = Proven { name: told.clone(), file, probed, proof, quality, names, renditions, pictures: None };
        let tool = Some(there.installation.version.clone());
        let made =
            Made { arguments, steps, outputs: vec![proven], device: None, fallback: None, chunks: Vec::new(), tool };
        Ok(made)
    }

    /// What GStreamer does not make of this source. A job that leaves the choice fails here and not for good: on a worker
    /// whose FFmpeg has what this one's lacks it would run.
    pub(super) fn refused_by_gstreamer(&self, refusal: Refusal) -> End {
        match refusal {
            Refusal::Job(fault) if self.grant.spec.engine == Engine::Auto => {
                End::failure(Cause::Platform, format!("FFmpeg lacks an encoder on this worker, and {}", fault.message))
            }
            refusal @ (Refusal::Input(_) | Refusal::Job(_)) => refused(refusal),
        }
    }

    /// What runs pipelines here.
    pub(super) fn gstreamer(&self) -> Result<&'a Gstreamer, End> {
        let none = "this worker has no GStreamer that works: install gstreamer1.0-tools there, or use `engine: ffmpeg`";
        self.shop.gstreamer.as_ref().ok_or_else(|| End::failure(Cause::Platform, none))
    }

    /// Puts what a pipeline needs into the scratch: the list of plugins, and the source by its fixed name. A copy of the list:
    /// where tools run as the worker's own user, one could write a link's for all jobs.
    pub(super) fn furnish(&self, there: &Gstreamer, source: Option<&Path>) -> Result<(), End> {
        let fail = |error: std::io::Error| End::failure(Cause::Platform, format!("scratch cannot be filled: {error}"));
        File::open(&there.registry)
            .and_then(|mut list| std::io::copy(&mut list, &mut self.create_in_scratch(REGISTRY.as_ref())?))
            .map_err(fail)?;
        source.map_or(Ok(()), |source| {
            std::os::unix::fs::symlink(source, self.scratch_path().join(gstreamer::SOURCE)).map_err(fail)
        })
    }

    async fn run_pipeline(
        &mut self,
        arguments: &[OsString],
        source: Option<&Path>,
        duration_secs: Option<f64>,
        user: ToolUser,
    ) -> Result<(), End> {
        let (shop, there) = (self.shop.clone(), self.gstreamer()?);
        self.furnish(there, source)?;
        self.stand_still().await;
        let meter = Meter::new(duration_secs);
        let mut follower = Follower { reporter: &self.reporter, started: Instant::now(), meter };
        let invocation = self.invocation(&there.program, arguments, user);
        let watch = self.watch(Some(self.silence_bound()));
        let finished = tool::run(&shop.quarters.launcher, invocation, watch, &mut follower).await;
        let finished = self.account(finished, "gst-launch-1.0")?;
        let oom_kills = self.group.as_ref().map_or(0, |group| group.usage().oom_kills);
        if finished.is_success() && oom_kills == 0 {
            return Ok(());
        }
        let exit = Exit { code: finished.status.code(), signal: finished.signal(), oom_kills };
        Err(End::failed(self.of_bounds(classify(exit, &finished.log), finished.refused_forks)))
    }
}

/// Follows a pipeline.
struct Follower<'a, 'r> {
    reporter: &'r Reporter<'a>,
    started: Instant,
    meter: Meter,
}

impl Listener for Follower<'_, '_> {
    fn output(&mut self, line: &str) -> bool {
        let Some(secs) = progress_secs(line) else {
            if line.starts_with("WARNING") {
                self.reporter.log(line);
            }
            return false;
        };
        let block = Block { out_time_us: Some(secs.saturating_mul(1_000_000)), ..Block::default() };
        let estimate = self.meter.observe(&block, self.started.elapsed());
        let blank = self.reporter.blank(Phase::Encode);
        self.reporter.send(Progress {
            percent: estimate.percent.map(|percent| ENCODING.of_whole(percent)),
            speed: estimate.speed,
            out_time_us: block.out_time_us,
            eta_secs: estimate.eta_secs,
            ..blank
        });
        // It says so only as a frame goes by; whole seconds may take long.
        true
    }

    fn log(&mut self, line: &str) {
        self.reporter.log(line);
    }
}
