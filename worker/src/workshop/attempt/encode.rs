//! From a probed source to proven outputs: the plan's runs, one after the other, then the proof of each output.
//!
//! Invariant: what is handed on has been probed, read packet by packet and decoded to its end, and is what was asked for.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ffpool_schema::chunk::Cut;
use ffpool_schema::encode::{Encoder, Fps, Treatment, VideoEncode};
use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::job::JobSpec;
use ffpool_schema::message::{ChunkProof, Outcome, Phase, PicturesProof, Proof, Quality, RenditionProof};
use ffpool_schema::plan::ladder::{self, Output};
use ffpool_schema::plan::together::{Refused, Shared, Together, together};
use ffpool_schema::plan::{self, Expected, Heard, Measured, Purpose, Refusal, Request};
use ffpool_schema::probe::{self, Probed};

use super::device::judge;
use super::quality::at_crf;
use super::report::Part;
use super::{Attempt, End, NEARLY};
use crate::bounds::Bounds;
use crate::devices::Session;
use crate::packets::Packets;
use crate::shown::Shown;
use crate::tool::{Answer, ToolUser};
use crate::verify::{self, Run};

/// How much less than its header says a whole source may hold, in seconds: a frame at the slowest usual rate.
pub(super) const SOURCE_TOLERANCE_SECS: f64 = 0.2;

/// What an encode made.
pub(super) struct Made {
    /// The last run.
    pub(super) arguments: Vec<OsString>,
    /// The runs before it.
    pub(super) steps: Vec<Vec<OsString>>,
    /// In the order of the job's outputs.
    pub(super) outputs: Vec<Proven>,
    /// The devices that encoded.
    pub(super) device: Option<String>,
    /// Why software encoded, where a device was preferred.
    pub(super) fallback: Option<String>,
    /// The chunks it was put together from.
    pub(super) chunks: Vec<ChunkProof>,
    /// What its tool says of its version, where it is not FFmpeg.
    pub(super) tool: Option<String>,
}

impl Made {
    /// Frames of every file that was encoded: of each output, of a presentation those of its renditions.
    pub(super) fn frames(&self) -> Vec<Option<u64>> {
        let of = |output: &Proven| match output.renditions.as_slice() {
            [] => vec![output.proof.frames],
            renditions => renditions.iter().map(|rendition| rendition.proof.frames).collect(),
        };
        self.outputs.iter().flat_map(of).collect()
    }
}

/// What is made of a source.
#[derive(Debug, Clone, Copy)]
pub(super) enum Recipe<'a> {
    /// Every output at once.
    Whole,
    /// One chunk of every output.
    Chunk {
        /// Where each is cut.
        cuts: &'a [Cut],
        /// Its length, where it is known before.
        secs: Option<f64>,
    },
    /// The sound of the only output.
    Sound {
        /// Its length, where it is known before.
        secs: Option<f64>,
    },
    /// Every output from its chunks.
    Stitch {
        /// The chunks of each.
        rows: &'a [plan::Row<'a>],
        /// The sound, where it was made apart.
        sound: Option<plan::Sound<'a>>,
    },
}

impl Recipe<'_> {
    fn plan(&self, requests: &[Request<'_>]) -> Result<Together, Refused> {
        let plan = match (self, requests) {
            (Recipe::Chunk { cuts, .. }, _) => return plan::chunk(requests, cuts),
            (Recipe::Stitch { rows, sound }, _) => return plan::stitch(requests, rows, *sound),
            (Recipe::Sound { .. }, [request]) => plan::sound(request),
            (Recipe::Whole | Recipe::Sound { .. }, _) => return together(requests),
        };
        let plan = plan.map_err(|refusal| Refused { output: 0, refusal })?;
        let steps = plan.steps.into_iter().map(|step| Shared { step, outputs: vec![0] });
        Ok(Together { steps: steps.collect(), expected: vec![plan.expected] })
    }

    /// The plan, which holds to the worker's bounds on what it reads of somebody else's.
    fn bounded_plan(&self, requests: &[Request<'_>], bounds: &Bounds) -> Result<Together, Refused> {
        let mut plan = self.plan(requests)?;
        for shared in &mut plan.steps {
            shared.step.arguments = bounds.applied(std::mem::take(&mut shared.step.arguments));
        }
        Ok(plan)
    }

    /// Its part of the job: most of the work on a whole from chunks is done before.
    fn part(&self) -> Part {
        match self {
            Recipe::Whole | Recipe::Chunk { .. } | Recipe::Sound { .. } => Part::WHOLE,
            Recipe::Stitch { .. } => Part { before: 0.95, share: 0.05 },
        }
    }
}

/// An output that is what was asked for.
pub(super) struct Proven {
    /// Which output of its job it is, where there are several.
    pub(super) name: Option<String>,
    pub(super) file: PathBuf,
    pub(super) probed: Probed,
    pub(super) proof: Proof,
    pub(super) quality: Option<Quality>,
    /// The other files of a presentation, by their paths in the scratch.
    pub(super) names: Vec<PathBuf>,
    /// The renditions of a presentation.
    pub(super) renditions: Vec<RenditionProof>,
    /// The pictures of a set.
    pub(super) pictures: Option<PicturesProof>,
}

impl Attempt<'_> {
    /// Makes every file that the outputs need, as the recipe says, and presentations of those that are renditions.
    pub(super) async fn make(
        &mut self,
        outputs: &[Output],
        source: Option<(&Path, &Probed)>,
        user: ToolUser,
        recipe: Recipe<'_>,
    ) -> Result<Made, End> {
        let mut made = self.encode_files(&ladder::files(outputs), source, user, recipe).await?;
        let threads = self.shop.threads(&self.grant.spec);
        let mut files = std::mem::take(&mut made.outputs).into_iter();
        for (place, output) in outputs.iter().enumerate() {
            if output.renditions.is_empty() {
                made.outputs.extend(files.next());
                continue;
            }
            let renditions: Vec<Proven> = files.by_ref().take(output.renditions.len()).collect();
            if output.encode.pictures.is_some() {
                let laid_out = self.picture_set(output, place, renditions, source, user).await;
                let (set, arguments) = match laid_out {
                    Ok(set) => set,
                    Err(end) => return Err(self.blame(end.said_of(output.name.as_deref()), source, user).await),
                };
                made.steps.push(std::mem::replace(&mut made.arguments, arguments));
                made.outputs.push(set);
                continue;
            }
            let packaged = self.package(output, place, &renditions, user, threads).await;
            let presentation = packaged.map_err(|end| end.said_of(output.name.as_deref()))?;
            made.steps.push(std::mem::replace(&mut made.arguments, presentation.arguments.clone()));
            made.outputs.extend(presentation.of(output, self.scratch_path(), renditions));
        }
        Ok(made)
    }

    async fn encode_files(
        &mut self,
        outputs: &[Output],
        source: Option<(&Path, &Probed)>,
        user: ToolUser,
        recipe: Recipe<'_>,
    ) -> Result<Made, End> {
        let videos: Vec<&VideoEncode> = outputs.iter().map(|output| &output.encode.video).collect();
        let (encoders, session) = self.encoders(&videos).await?;
        let fallback = self.fallback(outputs, &encoders);
        if let Some(why) = &fallback {
            self.reporter.log(&format!("[ffpool] {why}"));
        }
        let made = self.encode_with(outputs, (&encoders, &session), source, (user, recipe)).await;
        judge(&session, &made);
        Ok(Made { device: session.names(), fallback, ..made? })
    }

    /// Encodes with these encoders, on the devices of this session where they need any.
    async fn encode_with(
        &mut self,
        outputs: &[Output],
        (encoders, session): (&[Option<Encoder>], &Session),
        source: Option<(&Path, &Probed)>,
        (user, recipe): (ToolUser, Recipe<'_>),
    ) -> Result<Made, End> {
        let threads = self.shop.threads(&self.grant.spec);
        // By name: the working directory is the scratch, whose parents the tool's user need not be able to enter.
        let names: Vec<PathBuf> = outputs.iter().enumerate().map(|(place, output)| output.file_name(place)).collect();
        let tools = self.shop.software.tools();
        let features = &tools.features;
        let mut sought = Vec::new();
        for (place, Output { encode, number, name, .. }) in outputs.iter().enumerate() {
            let (encoder, output) = (encoders[place], names[place].as_path());
            let device = encoder.and_then(|encoder| session.device(encoder));
            let request =
                Request { encode, encoder, device, source, output, number: place, threads, features, loudness: None };
            let search = self.seek_crf(request, user).await;
            let search = search.map_err(|end| self.at_output(end, *number).said_of(name.as_deref()))?;
            sought.push((at_crf(encode, search.as_ref()), request, search));
        }
        let requests: Vec<Request<'_>> =
            sought.iter().map(|(encode, request, _)| Request { encode, ..*request }).collect();
        let (plan, runs) = self.carry_out_plan(outputs, requests.clone(), user, recipe).await?;
        self.reporter.phase(Phase::Verify, Some(NEARLY));
        let mut proven = Vec::new();
        for (place, (Output { number, name, .. }, expected)) in outputs.iter().zip(&plan.expected).enumerate() {
            let file = self.scratch_path().join(&names[place]);
            let proved = self.prove(requests[place], expected, runs[place], user).await;
            let (probed, proof) = proved.map_err(|end| end.said_of(name.as_deref()))?;
            let measured = self.measure(requests[place], proof.frames, sought[place].2.clone(), user).await;
            let quality = measured.map_err(|end| self.at_output(end, *number).said_of(name.as_deref()))?;
            let (names, renditions) = (Vec::new(), Vec::new());
            let (name, pictures) = (name.clone(), None);
            proven.push(Proven { name, file, probed, proof, quality, names, renditions, pictures });
        }
        let mut steps: Vec<Vec<OsString>> = plan.steps.into_iter().map(|shared| shared.step.arguments).collect();
        let arguments = steps.pop().unwrap_or_default();
        Ok(Made { arguments, steps, outputs: proven, device: None, fallback: None, chunks: Vec::new(), tool: None })
    }

    /// Runs every step of the plan that requests make together.
    async fn carry_out_plan(
        &mut self,
        outputs: &[Output],
        mut requests: Vec<Request<'_>>,
        user: ToolUser,
        recipe: Recipe<'_>,
    ) -> Result<(Together, Vec<Option<Run>>), End> {
        let spec = &self.grant.spec;
        let mut runs = vec![None; requests.len()];
        let refused = |refused: Refused| refused_for(spec, outputs[refused.output].number, refused.refusal);
        let bounds = &self.shop.settings.bounds;
        let mut plan = recipe.bounded_plan(&requests, bounds).map_err(refused)?;
        // What was measured before its run changes the arguments of those that follow, but neither their number nor weight.
        let weights: Vec<f64> = plan.steps.iter().map(|shared| shared.step.purpose.weight()).collect();
        let total: f64 = weights.iter().sum();
        let duration = match recipe {
            Recipe::Chunk { secs, .. } | Recipe::Sound { secs } => secs,
            Recipe::Whole | Recipe::Stitch { .. } => plan.duration_secs(),
        };
        let whole = recipe.part();
        let mut before = 0.0;
        for (number, weight) in weights.into_iter().enumerate() {
            let Shared { step, outputs: concerned } = plan.steps[number].clone();
            let (before_it, share) = (before / total * whole.share, weight / total * whole.share);
            let part = Part { before: whole.before + before_it, share };
            let ran = self.run_ffmpeg(&step.arguments, user, Phase::Encode, duration, part).await?;
            before += weight;
            // Chunks are counted by the times of their source, and a whole by its chunks.
            if let (Purpose::Encode, Recipe::Whole, Some(last)) = (step.purpose, recipe, &ran.last) {
                for (place, output) in concerned.iter().enumerate() {
                    runs[*output] = Some(Run {
                        // It tells of its first video.
                        written: last.frame.filter(|_| place == 0),
                        repeated: last.duplicated.unwrap_or(0),
                        left_out: last.dropped.unwrap_or(0),
                        outputs: concerned.len() as u64,
                    });
                }
            }
            if step.purpose == Purpose::Loudness {
                let found = Measured::parse(ran.log.iter().map(String::as_str)).ok_or_else(|| {
                    End::failure(Cause::ConfigBad, "the audio is silent: it cannot be brought to a loudness")
                })?;
                for output in concerned {
                    requests[output].loudness = Some(found);
                }
                plan = recipe.bounded_plan(&requests, bounds).map_err(refused)?;
            }
        }
        Ok((plan, runs))
    }

    /// Whose fault it is that an output is too short: a source that holds less than its header says gives one without
    /// any error of the tool's.
    pub(super) async fn blame(&mut self, end: End, source: Option<(&Path, &Probed)>, user: ToolUser) -> End {
        let Some((path, probed)) = source.filter(|_| end.is_unproven()) else { return end };
        match self.shown(path, probed, user).await {
            Ok(shown) => cut_off(probed, &shown).unwrap_or(end),
            Err(other) => other,
        }
    }

    /// What the packets of a source say.
    async fn shown(&mut self, path: &Path, probed: &Probed, user: ToolUser) -> Result<Shown, End> {
        let mut shown = Shown::of(probed);
        let arguments = self.shop.settings.bounds.applied(plan::source_packet_arguments(path));
        self.run_ffprobe(&arguments, user, &mut shown).await?;
        shown.finish();
        Ok(shown)
    }

    /// Proves an output, by the source's header, which is read already, where that does; where the two do not agree, by the
    /// packets and frames that the source has.
    pub(super) async fn prove(
        &mut self,
        request: Request<'_>,
        expected: &Expected,
        run: Option<Run>,
        user: ToolUser,
    ) -> Result<(Probed, Proof), End> {
        let (name, threads) = (request.output, request.threads);
        let file = self.scratch_path().join(name);
        let first = self.verify(&file, name, expected, user, threads).await;
        let (probed, mut proof) = match (first, request.source) {
            (Err(end), Some((path, source))) if end.is_unproven() => {
                let shown = self.shown(path, source, user).await?;
                if let Some(end) = cut_off(source, &shown) {
                    return Err(end);
                }
                let closer = shown.expected(expected, request.encode, source);
                if closer == *expected {
                    return Err(end);
                }
                self.reporter
                    .log("[ffpool] the source's header is not exact: its packets say how long the output must be");
                self.verify(&file, name, &closer, user, threads).await?
            }
            (first, _) => first?,
        };
        if let Some(run) = run {
            self.hold_against_source(request, expected, (&probed, &mut proof), run, user).await?;
        }
        Ok((probed, proof))
    }

    /// Holds the frames of an output against those that its source has, and writes both down.
    async fn hold_against_source(
        &mut self,
        request: Request<'_>,
        expected: &Expected,
        (probed, proof): (&Probed, &mut Proof),
        run: Run,
        user: ToolUser,
    ) -> Result<(), End> {
        let is_encoded = request.encode.video.treatment == Treatment::Encode;
        let wish = expected.video.as_ref().filter(|_| is_encoded);
        let (Some(wish), Some(frames)) = (wish, proof.frames) else { return Ok(()) };
        run.note(proof, expected.source_frames.is_some());
        if let Some(difference) = run.difference(wish, frames) {
            return Err(unproven(difference));
        }
        let (Some(of_source), Some((path, source))) = (&expected.source_frames, request.source) else { return Ok(()) };
        if !run.fits(of_source, frames) {
            let counting = plan::taken_decode_arguments(&request).map_err(refused)?;
            let counting = self.shop.settings.bounds.applied(counting);
            let ran = self.run_ffmpeg(&counting, user, Phase::Verify, expected.duration_secs, Part::WHOLE).await?;
            let counted = ran.last.and_then(|block| block.frame).unwrap_or(0);
            self.reporter
                .log(&format!("[ffpool] a decode of the source counted {counted} frames, the output has {frames}"));
            if let Some(loss) = run.loss(of_source, frames, counted) {
                return Err(unproven(loss));
            }
        }
        if run.left_out == 0 {
            return Ok(());
        }
        let Some(slowest) = slower(source.rate, probed.rate) else { return Ok(()) };
        let crowded = self.shown(path, source, user).await?.crowded(slowest);
        run.excess(crowded).map_or(Ok(()), |excess| Err(unproven(excess)))
    }

    /// Probes the output against the plan, reads all its packets, then decodes it to its end.
    pub(super) async fn verify(
        &mut self,
        file: &Path,
        name: &Path,
        expected: &Expected,
        user: ToolUser,
        threads: u32,
    ) -> Result<(Probed, Proof), End> {
        if !file.is_file() {
            return Err(unproven("the tool reported success and wrote no file".to_owned()));
        }
        // Whatever the tools say against the file, the one that made it said that all went well.
        let mut answer = Answer::default();
        let arguments = probe::output_arguments(name, expected.container);
        self.run_ffprobe(&arguments, user, &mut answer).await.map_err(as_verify)?;
        let mut probed = read_probe(&answer)?;
        if expected.video.as_ref().is_some_and(|video| video.colors.is_some()) {
            self.look_for_mastering(&mut probed, name, user).await.map_err(as_verify)?;
        }
        let differences = verify::differences(expected, &probed);
        if !differences.is_empty() {
            return Err(unproven(differences.join("; ")));
        }
        let is_picture = expected.video.as_ref().is_some_and(|video| video.is_picture);
        let mut packets = Packets::default();
        if !is_picture {
            let arguments = plan::packet_arguments(name);
            self.run_ffprobe(&arguments, user, &mut packets).await.map_err(as_verify)?;
        }
        let (streams, faults) = packets.finish(&probed.streams);
        if !faults.is_empty() {
            return Err(unproven(faults.join("; ")));
        }
        let decode = plan::decode_arguments(name, expected, threads);
        let duration = expected.duration_secs;
        let ran = self.run_ffmpeg(&decode, user, Phase::Verify, duration, Part::WHOLE).await.map_err(as_verify)?;
        let heard = Heard::parse(ran.log.iter().map(String::as_str));
        let (lufs, peak_dbtp) = (heard.map(|heard| heard.lufs), heard.map(|heard| heard.peak_dbtp));
        let frames = ran.last.and_then(|block| block.frame);
        let streams = if is_picture { Vec::new() } else { streams };
        let proof = Proof { streams, frames, lufs, peak_dbtp, ..Proof::default() };
        let differences = verify::proof_differences(expected, &proof);
        if !differences.is_empty() {
            return Err(unproven(differences.join("; ")));
        }
        if is_picture && frames != Some(1) {
            return Err(unproven(format!("it has {} frames instead of 1", frames.unwrap_or(0))));
        }
        let wish = expected.video.as_ref().and_then(|video| video.bitrate);
        if let (Some(wish), Some(rate)) = (wish, verify::settled_bitrate(&proof))
            && rate < wish as f64 * 0.9
        {
            self.reporter.log(&format!("[ffpool] the video needed {rate:.0} of {wish} bits per second"));
        }
        if let Some(video) = &mut probed.probe.video {
            video.frames = frames;
        }
        Ok((probed, proof))
    }
}

/// The slower of two rates, in frames per second.
fn slower(one: Option<Fps>, other: Option<Fps>) -> Option<f64> {
    let rates = [one, other].into_iter().flatten().map(Fps::as_f64);
    rates.filter(|fps| *fps > 0.0).reduce(f64::min)
}

/// The end of an attempt whose source holds less than its header says.
fn cut_off(probed: &Probed, shown: &Shown) -> Option<End> {
    let claimed = probed.video_end.or_else(|| probed.audio_ends.iter().flatten().copied().reduce(f64::max))?;
    let there = shown.end_of(if probed.video_end.is_some() { "video" } else { "audio" })?;
    (claimed - there > SOURCE_TOLERANCE_SECS).then(|| {
        let message = format!("the input is cut off: it says {claimed:.3} s and holds {there:.3} s");
        End::failure(Cause::InputBad, message)
    })
}

pub(super) fn read_probe(answer: &Answer) -> Result<Probed, End> {
    probe::parse(&answer.text).map_err(unreadable)
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err hands over")]
pub(super) fn unreadable(error: serde_json::Error) -> End {
    End::failure(Cause::Unknown, format!("ffprobe's answer cannot be read: {error}"))
}

/// A job that cannot be made of this source is rejected; a source that is not what it should be is a bad input.
pub(super) fn refused(refusal: Refusal) -> End {
    match refusal {
        Refusal::Input(why) => End::failure(Cause::InputBad, why),
        Refusal::Job(fault) => End::faulty(fault),
    }
}

/// The same of the job's output of this number.
pub(super) fn refused_for(spec: &JobSpec, number: usize, refusal: Refusal) -> End {
    match refusal {
        Refusal::Input(why) => End::failure(Cause::InputBad, why),
        Refusal::Job(fault) => End::faulty(spec.fault_of_output(number, fault)),
    }
}

pub(super) fn unproven(evidence: String) -> End {
    let mut failure = Failure::new(Cause::VerifyFailed, "the output is not what was asked for");
    failure.evidence = Some(evidence);
    End::failed(failure)
}

/// A failure of the tools that look at a finished output is the output's, unless they were stopped or died of the machine.
pub(super) fn as_verify(end: End) -> End {
    let End::Report(outcome) = end else { return end };
    match *outcome {
        Outcome::Failed { mut failure }
            if matches!(failure.cause, Cause::InputBad | Cause::InputMissing | Cause::ConfigBad | Cause::Unknown) =>
        {
            failure.message = format!("the output does not stand the test: {}", failure.message);
            failure.cause = Cause::VerifyFailed;
            End::failed(failure)
        }
        other @ (Outcome::Finished { .. }
        | Outcome::Failed { .. }
        | Outcome::Rejected { .. }
        | Outcome::Released { .. }
        | Outcome::Split { .. }
        | Outcome::Cancelled) => End::Report(Box::new(other)),
    }
}
