//! Wishes about quality: what is measured, what must be reached, what a CRF is sought for.
//!
//! Invariant: whatever cannot be measured, or not held against its source, is refused here, before anything runs.

use super::Scenario;
use super::wishes::Wishes;
use crate::encode::{Aim, CodecChoice, Metric, QualityWish, SubtitleMode};
use crate::job::Parameters;

/// What is measured of the output of a job.
pub(super) fn wish(p: &Parameters) -> Option<QualityWish> {
    let metrics = p.quality.as_ref().map_or(&[][..], |metrics| &metrics.0);
    QualityWish::of(metrics, p.quality_target.unwrap_or_default(), aims(p).next())
}

/// The scores that a CRF is sought for: one at most in a job that passed [`check`].
fn aims(p: &Parameters) -> impl Iterator<Item = Aim> {
    let aims = [(Metric::Vmaf, p.target_vmaf), (Metric::Psnr, p.target_psnr), (Metric::Ssim, p.target_ssim)];
    aims.into_iter().filter_map(|(metric, score)| Some(Aim { metric, score: score? }))
}

pub(super) fn check(wishes: &mut Wishes<'_>, scenario: &Scenario) {
    let p = wishes.p;
    let given = [
        ("quality", p.quality.is_some()),
        ("quality_target", p.quality_target.is_some()),
        ("target_vmaf", p.target_vmaf.is_some()),
        ("target_psnr", p.target_psnr.is_some()),
        ("target_ssim", p.target_ssim.is_some()),
    ];
    if !given.iter().any(|(_, is_given)| *is_given) {
        return;
    }
    let because = match p.codec.unwrap_or(scenario.codec) {
        CodecChoice::Codec(_) | CodecChoice::Encoder(_) => None,
        CodecChoice::Copy => Some("copied video is its source: name a codec, or leave it out"),
        CodecChoice::None => Some("there is no video in the output"),
        CodecChoice::Picture => Some("one picture is not measured"),
    };
    if let Some(because) = because {
        for (field, _) in given.iter().filter(|(_, is_given)| *is_given) {
            wishes.fault(field, "unsupported", format!("there is no quality to measure: {because}"));
        }
        return;
    }
    if p.subtitles == Some(SubtitleMode::Burn) {
        for (field, _) in given.iter().filter(|(_, is_given)| *is_given) {
            wishes.fault(
                field,
                "unsupported",
                "subtitles that are burnt in are not in the source, against which quality is measured: use `copy` or \
                 `convert`, or leave it out",
            );
        }
    }
    if p.quality.as_ref().is_some_and(|metrics| metrics.0.is_empty()) {
        wishes.fault("quality", "out_of_range", "the list is empty: name `vmaf`, `psnr` or `ssim`, or leave it out");
    }
    if let Some(target) = p.quality_target {
        if target.scores().next().is_none() {
            wishes.fault("quality_target", "out_of_range", "it is empty: give `vmaf`, `psnr` or `ssim`");
        }
        for (metric, score) in target.scores() {
            range(wishes, &format!("quality_target.{metric}"), metric, score);
        }
    }
    search(wishes, scenario);
}

fn range(wishes: &mut Wishes<'_>, field: &str, metric: Metric, score: f64) {
    let (worst, best, unit) = metric.range();
    if !(score > worst && score <= best) {
        wishes.fault(field, "out_of_range", format!("{score} is not over {worst} up to {best} {unit}"));
    }
}

/// What a CRF is sought for, and what would contradict it.
fn search(wishes: &mut Wishes<'_>, scenario: &Scenario) {
    let p = wishes.p;
    let mut first = None;
    for aim in aims(p) {
        let field = format!("target_{}", aim.metric);
        range(wishes, &field, aim.metric, aim.score);
        match &first {
            None => first = Some(field),
            Some(first) => {
                let message = format!("`{first}` is given too: one score decides about the CRF");
                wishes.fault(&field, "contradiction", message);
            }
        }
    }
    let Some(field) = first else { return };
    for (other, is_given) in
        [("crf", p.crf.is_some()), ("bitrate", p.bitrate.is_some()), ("passes", p.passes == Some(2))]
    {
        if is_given {
            let message =
                format!("`{other}` is given too: `{field}` chooses the CRF by itself, `maxrate` may bound it");
            wishes.fault(&field, "contradiction", message);
        }
    }
    if let CodecChoice::Encoder(encoder) = p.codec.unwrap_or(scenario.codec)
        && encoder.is_hardware()
    {
        let message = format!("{encoder} has no CRF to seek: use a software encoder, or `quality_target`");
        wishes.fault(&field, "unsupported", message);
    }
}
