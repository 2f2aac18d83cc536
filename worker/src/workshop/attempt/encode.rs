//! From a probed source to a proven output: the plan's runs, one after the other, then the proof.
//!
//! Invariant: what is handed on has been probed, read packet by packet and decoded to its end, and is what was asked for.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ffpool_schema::encode::Encode;
use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::message::{Outcome, Phase, Proof, Quality};
use ffpool_schema::plan::{self, Expected, Measured, Plan, Purpose, Refusal, Request};
use ffpool_schema::probe::{self, Probed};

use super::quality::at_crf;
use super::report::Part;
use super::{Attempt, End, NEARLY};
use crate::packets::Packets;
use crate::tool::{Answer, ToolUser};
use crate::verify;

/// How much less than its header says a whole source may hold, in seconds: a frame at the slowest usual rate.
const SOURCE_TOLERANCE_SECS: f64 = 0.2;

/// What an encode made, proven.
pub(super) struct Made {
    pub(super) file: PathBuf,
    pub(super) arguments: Vec<OsString>,
    /// The runs before it.
    pub(super) steps: Vec<Vec<OsString>>,
    pub(super) probed: Probed,
    pub(super) proof: Proof,
    pub(super) quality: Option<Quality>,
}

impl Attempt<'_> {
    pub(super) async fn encode_source(
        &mut self,
        encode: &Encode,
        source: Option<(&Path, &Probed)>,
        user: ToolUser,
    ) -> Result<Made, End> {
        let encoder = self.shop.encoder(&encode.video).map_err(|(wish, is_hardware)| {
            let cause = if is_hardware { Cause::Device } else { Cause::Platform };
            End::failure(cause, format!("this worker has no working encoder for {wish}"))
        })?;
        // By name: the working directory is the scratch, whose parents the tool's user need not be able to enter.
        let name = PathBuf::from(format!("encode.{}", encode.container));
        let features = &self.shop.clone().features;
        let sought = Request {
            encode,
            encoder,
            source,
            output: &name,
            threads: self.shop.threads(&self.grant.spec),
            features,
            loudness: None,
        };
        let search = self.seek_crf(sought, user).await?;
        let encode = &at_crf(encode, search.as_ref());
        let request = Request { encode, ..sought };
        let plan = self.carry_out_plan(request, user).await?;
        self.reporter.phase(Phase::Verify, Some(NEARLY));
        let file = self.scratch_path().join(&name);
        let verified = self.verify(&file, &name, &plan.expected, user, request.threads).await;
        let (probed, proof) = match verified {
            Err(end) => return Err(self.blame(end, source, user).await),
            Ok(verified) => verified,
        };
        let quality = self.measure(request, proof.frames, search, user).await?;
        let mut steps: Vec<Vec<OsString>> = plan.steps.into_iter().map(|step| step.arguments).collect();
        let arguments = steps.pop().unwrap_or_default();
        Ok(Made { file, arguments, steps, probed, proof, quality })
    }

    /// Runs every step of the plan that a request makes.
    async fn carry_out_plan(&mut self, mut request: Request<'_>, user: ToolUser) -> Result<Plan, End> {
        let mut plan = plan::plan(&request).map_err(refused)?;
        let total: f64 = plan.steps.iter().map(|step| step.purpose.weight()).sum();
        let duration = plan.expected.duration_secs;
        let mut before = 0.0;
        for number in 0..plan.steps.len() {
            let step = plan.steps[number].clone();
            let part = Part { before: before / total, share: step.purpose.weight() / total };
            let ran = self.run_ffmpeg(&step.arguments, user, Phase::Encode, duration, part).await?;
            before += step.purpose.weight();
            if step.purpose == Purpose::Loudness {
                let found = Measured::parse(ran.log.iter().map(String::as_str)).ok_or_else(|| {
                    End::failure(Cause::ConfigBad, "the audio is silent: it cannot be brought to a loudness")
                })?;
                request.loudness = Some(found);
                plan = plan::plan(&request).map_err(refused)?;
            }
        }
        Ok(plan)
    }

    /// Whose fault it is that an output is too short: a source that holds less than its header says gives one without
    /// any error of the tool's.
    async fn blame(&mut self, end: End, source: Option<(&Path, &Probed)>, user: ToolUser) -> End {
        let is_unproven = matches!(&end, End::Report(outcome)
            if matches!(&**outcome, Outcome::Failed { failure } if failure.cause == Cause::VerifyFailed));
        let Some((path, probed)) = source.filter(|_| is_unproven) else { return end };
        let claimed = probed.video_end.or_else(|| probed.audio_ends.iter().flatten().copied().reduce(f64::max));
        let Some(claimed) = claimed else { return end };
        let mut packets = Packets::default();
        if let Err(other) = self.run_ffprobe(&plan::packet_arguments(path), user, &mut packets).await {
            return other;
        }
        let (streams, _) = packets.finish(&probed.streams);
        let kind = if probed.video_end.is_some() { "video" } else { "audio" };
        let there = streams.iter().filter(|stream| stream.kind == kind).filter_map(|stream| stream.end_secs);
        match there.reduce(f64::max) {
            Some(there) if claimed - there > SOURCE_TOLERANCE_SECS => {
                let message = format!("the input is cut off: it says {claimed:.3} s and holds {there:.3} s");
                End::failure(Cause::InputBad, message)
            }
            Some(_) | None => end,
        }
    }

    /// Probes the output against the plan, reads all its packets, then decodes it to its end.
    async fn verify(
        &mut self,
        file: &Path,
        name: &Path,
        expected: &Expected,
        user: ToolUser,
        threads: u32,
    ) -> Result<(Probed, Proof), End> {
        if !file.is_file() {
            return Err(unproven("ffmpeg reported success and wrote no file".to_owned()));
        }
        // Whatever the tools say against the file, the one that made it said that all went well.
        let mut answer = Answer::default();
        let arguments = probe::output_arguments(name, expected.container);
        self.run_ffprobe(&arguments, user, &mut answer).await.map_err(as_verify)?;
        let mut probed = read_probe(&answer)?;
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
        let lufs = Measured::parse(ran.log.iter().map(String::as_str)).map(|found| found.lufs);
        let frames = ran.last.and_then(|block| block.frame);
        let proof = Proof { streams: if is_picture { Vec::new() } else { streams }, frames, lufs };
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
        Refusal::Job(fault) => End::Report(Box::new(Outcome::Rejected { faults: vec![fault] })),
    }
}

fn unproven(evidence: String) -> End {
    let mut failure = Failure::new(Cause::VerifyFailed, "the output is not what was asked for");
    failure.evidence = Some(evidence);
    End::failed(failure)
}

/// A failure of the tools that look at a finished output is the output's, unless they were stopped or died of the machine.
fn as_verify(end: End) -> End {
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
        | Outcome::Cancelled) => End::Report(Box::new(other)),
    }
}
