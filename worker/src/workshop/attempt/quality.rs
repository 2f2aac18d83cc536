//! The quality of a picture within one attempt: the search for a CRF before the encode, the measurement after it, and the
//! judgement of what must be reached.
//!
//! Invariant: every measurement is a run of its own in the attempt's cgroup; an output under its target is not published.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ffpool_schema::encode::{Encode, Metric, QualityTarget, RateControl};
use ffpool_schema::failure::{Cause, Failure};
use ffpool_schema::message::{CrfSearch, CrfTrial, Phase, Quality};
use ffpool_schema::plan::quality::{self, Comparison, VMAF_FILE};
use ffpool_schema::plan::search::{self, Next, Search};
use ffpool_schema::plan::{self, Request};

use super::encode::refused;
use super::report::Part;
use super::{Attempt, End};
use crate::tool::ToolUser;

/// Frames below which every one is measured, so that a short output has a score that means something.
const FEW_FRAMES: u64 = 500;
/// What VMAF may write of its frames: a day at 60 frames a second.
const VMAF_BYTES: u64 = 1 << 30;
/// What a sample is encoded to.
const SAMPLE: &str = "sample.mkv";
/// The part of an attempt that its search is.
const BEFORE: Part = Part { before: 0.0, share: 0.0 };

/// The encode with the CRF that was found.
pub(super) fn at_crf<'e>(encode: &'e Encode, search: Option<&CrfSearch>) -> Cow<'e, Encode> {
    let Some(search) = search else { return Cow::Borrowed(encode) };
    let mut found = encode.clone();
    found.video.rate = search::with_crf(encode.video.rate, search.crf);
    Cow::Owned(found)
}

impl Attempt<'_> {
    /// Seeks the highest CRF that reaches the score that the job names, on samples of its source.
    pub(super) async fn seek_crf(&mut self, request: Request<'_>, user: ToolUser) -> Result<Option<CrfSearch>, End> {
        let aim = request.encode.quality.as_ref().and_then(|wish| wish.aim);
        let (Some(aim), Some(encoder), RateControl::Crf { crf: usual, .. }) =
            (aim, request.encoder, request.encode.video.rate)
        else {
            return Ok(None);
        };
        let secs = plan::plan(&request).map_err(refused)?.expected.duration_secs;
        let mut search = Search::new(aim, encoder, usual);
        loop {
            match search.next() {
                Next::Try(crf) => {
                    let samples = search::samples(request.encode, secs, crf);
                    let score = self.sample_score(request, &samples, aim.metric, user).await?;
                    self.reporter.log(&format!("[ffpool] crf {crf}: {} {score:.3}, {} sought", aim.metric, aim.score));
                    search.trials.push(CrfTrial { crf, score });
                }
                Next::Take(crf) => {
                    self.reporter.log(&format!("[ffpool] crf {crf} is taken"));
                    let samples = search::samples(request.encode, secs, crf).len() as u32;
                    let found = CrfSearch { metric: aim.metric, aim: aim.score, crf, samples, trials: search.trials };
                    return Ok(Some(found));
                }
                Next::Hopeless(CrfTrial { crf, score }) => {
                    let message = format!("no CRF reaches a mean {} of {}", aim.metric, aim.score);
                    let mut failure = Failure::new(Cause::QualityMissed, message);
                    failure.evidence = Some(format!("crf {crf} reaches {score:.3} on samples of the source"));
                    return Err(End::failed(failure));
                }
            }
        }
    }

    /// The mean score of these encodes.
    async fn sample_score(
        &mut self,
        request: Request<'_>,
        samples: &[Encode],
        metric: Metric,
        user: ToolUser,
    ) -> Result<f64, End> {
        let mut sum = 0.0;
        for sample in samples {
            let request = Request { encode: sample, output: Path::new(SAMPLE), ..request };
            let plan = plan::plan(&request).map_err(refused)?;
            for step in &plan.steps {
                self.run_ffmpeg(&step.arguments, user, Phase::Prepare, None, BEFORE).await?;
            }
            // Matroska has no frame twice at its beginning.
            let scored = self.scores(&request, &[metric], 1, false, Phase::Prepare, user).await?;
            sum += mean(&scored, metric).ok_or_else(|| silent(metric))?;
        }
        Ok(sum / samples.len().max(1) as f64)
    }

    /// Measures a finished output, where the job asks for it, and holds it against what must be reached.
    pub(super) async fn measure(
        &mut self,
        request: Request<'_>,
        frames: Option<u64>,
        search: Option<CrfSearch>,
        user: ToolUser,
    ) -> Result<Option<Quality>, End> {
        let Some(wish) = &request.encode.quality else { return Ok(None) };
        let frames = frames.unwrap_or(0);
        let every = if frames < FEW_FRAMES { 1 } else { self.shop.settings.quality_every.max(1) };
        let comparison = Comparison::of(&request).map_err(refused)?;
        let beginning = quality::beginning_arguments(&request, &comparison).map_err(refused)?;
        let ran = self.run_ffmpeg(&beginning, user, Phase::Verify, None, Part::WHOLE).await?;
        let is_shifted = quality::is_shifted(ran.log.iter().map(String::as_str));
        let scored = self.scores(&request, &wish.metrics, every, is_shifted, Phase::Verify, user).await?;
        let counted = if scored.frames > 0 { scored.frames } else { frames.div_ceil(u64::from(every)) };
        let found = Quality { frames: counted, search, ..scored };
        judge(&wish.target, &found)?;
        Ok(Some(found))
    }

    /// What a measuring run finds. The number of frames is known with VMAF only, else 0.
    async fn scores(
        &mut self,
        request: &Request<'_>,
        metrics: &[Metric],
        every: u32,
        is_shifted: bool,
        phase: Phase,
        user: ToolUser,
    ) -> Result<Quality, End> {
        let comparison = Comparison::of(request).map_err(refused)?;
        let arguments =
            quality::quality_arguments(request, &comparison, metrics, every, is_shifted).map_err(refused)?;
        let ran = self.run_ffmpeg(&arguments, user, phase, None, BEFORE).await?;
        let log = || ran.log.iter().map(String::as_str);
        let (width, height) = comparison.size;
        let mut found = Quality { every, width, height, ..Quality::default() };
        for metric in metrics {
            match metric {
                Metric::Psnr => found.psnr = Some(quality::psnr(log()).ok_or_else(|| silent(*metric))?),
                Metric::Ssim => found.ssim = Some(quality::ssim(log()).ok_or_else(|| silent(*metric))?),
                Metric::Vmaf => {
                    let (scores, frames) =
                        read_vmaf(&self.scratch_path().join(VMAF_FILE)).ok_or_else(|| silent(*metric))?;
                    found.frames = frames;
                    found.vmaf = Some(scores);
                }
            }
        }
        Ok(found)
    }
}

/// What VMAF wrote: read as numbers only, and never through a link, because the tool's user could have put one there.
fn read_vmaf(path: &Path) -> Option<(ffpool_schema::message::VmafScores, u64)> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = File::options().read(true).custom_flags(flags).open(path).ok()?;
    quality::vmaf(BufReader::new(file.take(VMAF_BYTES)).lines().map_while(Result::ok))
}

fn mean(found: &Quality, metric: Metric) -> Option<f64> {
    match metric {
        Metric::Vmaf => found.vmaf.as_ref().map(|scores| scores.mean),
        Metric::Psnr => found.psnr.map(|scores| scores.mean),
        Metric::Ssim => found.ssim,
    }
}

fn silent(metric: Metric) -> End {
    End::failure(Cause::Unknown, format!("ffmpeg measured {metric} and said nothing of it"))
}

/// Ends the attempt where a score is missed.
fn judge(target: &QualityTarget, found: &Quality) -> Result<(), End> {
    let missed: Vec<String> = target
        .scores()
        .filter_map(|(metric, wish)| {
            let score = mean(found, metric)?;
            (score < wish).then(|| format!("{metric} is {score:.4} instead of {wish} or more"))
        })
        .collect();
    if missed.is_empty() {
        return Ok(());
    }
    let mut failure = Failure::new(Cause::QualityMissed, "the output does not reach the quality that the job demands");
    failure.evidence = Some(missed.join("; "));
    Err(End::failed(failure))
}
