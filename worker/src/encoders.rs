//! Which of FFmpeg's encoders really work here.
//!
//! Invariant: an encoder that is named has encoded a frame. That FFmpeg was built with one proves nothing about devices
//! and drivers.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ffpool_schema::chunk::Piece;
use ffpool_schema::device::Device;
use ffpool_schema::encode::{Encode, Encoder, PictureFormat};
use ffpool_schema::job::JobSpec;
use ffpool_schema::live::{Live, Protocol};
use ffpool_schema::plan;
use futures_util::{StreamExt, stream};
use tokio::process::Command;

use crate::classify;
use crate::quarters::Quarters;
use crate::tool::{EndedBy, Finished};

/// How long a trial may take: well under a second on an idle machine, and a busy one must not lose its encoders.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(30);
/// Trials at the same time.
const TRIALS: usize = 4;
/// Filters without which some jobs cannot be run.
const FILTERS: [&str; 8] = ["bwdif", "libvmaf", "loudnorm", "psnr", "ssim", "subtitles", "tonemap", "zscale"];
/// How long a tool may take to say what it is.
const ASK_TIMEOUT: Duration = Duration::from_secs(20);

/// Why the encoders are not known.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is its message")]
pub enum EncodersError {
    #[error("ask {}: {source}", program.display())]
    Ask { program: PathBuf, source: std::io::Error },
    #[error("{} has no working video encoder: install the Debian package ffmpeg", program.display())]
    None { program: PathBuf },
}

/// The absolute path of a program that is named by path, or by name on `PATH`.
#[must_use]
pub fn find_program(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return std::fs::canonicalize(program).ok().filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|candidate| candidate.is_file())
}

/// The first line that a tool says of its version.
///
/// # Errors
/// When it does not run or says nothing.
pub async fn version(program: &Path) -> std::io::Result<String> {
    let text = ask(program, &["-version"]).await?;
    text.lines().next().map(str::to_owned).ok_or_else(|| std::io::Error::other("it says nothing of its version"))
}

/// The encoders that FFmpeg was built with, in the schema's order.
///
/// # Errors
/// When FFmpeg cannot be asked.
pub async fn listed(ffmpeg: &Path) -> Result<Listed, EncodersError> {
    let text = list(ffmpeg, "-encoders").await?;
    let webp = PictureFormat::Webp.encoder();
    let has_webp = text.lines().any(|line| line.split_whitespace().nth(1) == Some(webp));
    Ok(Listed { video: built_in(&text), has_webp })
}

/// One of FFmpeg's lists of itself.
async fn list(ffmpeg: &Path, what: &str) -> Result<String, EncodersError> {
    let text = ask(ffmpeg, &["-hide_banner", what]).await;
    text.map_err(|source| EncodersError::Ask { program: ffmpeg.to_owned(), source })
}

/// The encoders that FFmpeg was built with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Those of video.
    pub video: Vec<Encoder>,
    /// Whether it makes WebP.
    pub has_webp: bool,
}

/// The software encoders of these that work.
///
/// # Errors
/// When none does.
pub async fn working(ffmpeg: &Path, quarters: &Quarters, built_in: &[Encoder]) -> Result<Vec<Encoder>, EncodersError> {
    let tried = software(ffmpeg, quarters, built_in).await;
    let works = tried.into_iter().filter(|(_, verdict)| *verdict == Verdict::Works);
    let working: Vec<Encoder> = works.map(|(encoder, _)| encoder).collect();
    if working.is_empty() { Err(EncodersError::None { program: ffmpeg.to_owned() }) } else { Ok(working) }
}

/// Tries the software encoders of these, and answers in the same order.
pub async fn software(ffmpeg: &Path, quarters: &Quarters, built_in: &[Encoder]) -> Vec<(Encoder, Verdict)> {
    let software: Vec<Encoder> = built_in.iter().copied().filter(|encoder| !encoder.is_hardware()).collect();
    // One run for all of them, where nothing is amiss: most of a run is its start.
    if !software.is_empty() && work_together(ffmpeg, quarters, &software).await {
        return software.into_iter().map(|encoder| (encoder, Verdict::Works)).collect();
    }
    let trials = software.into_iter().map(|encoder| Trial { encoder, device: None }).collect();
    let tried = try_all(ffmpeg, quarters, trials).await;
    tried.into_iter().map(|(trial, verdict)| (trial.encoder, verdict)).collect()
}

/// Whether each of these software encoders encodes a frame in one run.
async fn work_together(ffmpeg: &Path, quarters: &Quarters, encoders: &[Encoder]) -> bool {
    match try_run(ffmpeg, quarters, &plan::common_trial_arguments(encoders), false).await {
        Ok(finished) => finished.is_success(),
        Err(_) => false,
    }
}

async fn try_run(
    ffmpeg: &Path,
    quarters: &Quarters,
    arguments: &[OsString],
    on_device: bool,
) -> std::io::Result<Finished> {
    quarters.place()?.run(ffmpeg, arguments, on_device, TRIAL_TIMEOUT).await
}

/// An encoder to try, on a device where it needs one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trial {
    /// The encoder.
    pub encoder: Encoder,
    /// The device.
    pub device: Option<Device>,
}

/// What came of a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It encoded a frame.
    Works,
    /// It did not, for this reason.
    Fails(String),
    /// It did not get so far in time, or could not be started.
    Undecided(String),
}

/// Has each encode a frame. Answers in the same order.
pub async fn try_all(ffmpeg: &Path, quarters: &Quarters, trials: Vec<Trial>) -> Vec<(Trial, Verdict)> {
    let each = trials.into_iter().map(|trial| async move { (trial, attempted(ffmpeg, quarters, trial).await) });
    stream::iter(each).buffered(TRIALS).collect().await
}

/// What this worker can do besides its encoders: [`Encode::FEATURE`], [`Piece::FEATURE`], [`JobSpec::CHECKS_INPUT`], the
/// filters that FFmpeg has, and whether it makes WebP.
///
/// # Errors
/// When FFmpeg cannot be asked.
pub async fn features(ffmpeg: &Path, listed: &Listed) -> Result<Vec<String>, EncodersError> {
    let text = list(ffmpeg, "-filters").await?;
    let there: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    let filters = FILTERS.into_iter().filter(|filter| there.contains(filter));
    let webp = listed.has_webp.then(|| PictureFormat::Webp.encoder());
    let live = live_features(ffmpeg).await?;
    let segments = Encode::SEGMENTS_FEATURE;
    let pictures = Encode::PICTURES_FEATURE;
    let chunks = [Piece::FEATURE, Piece::SOUND_FEATURE].into_iter().chain(Piece::FEATURES);
    Ok([Encode::FEATURE, Encode::OUTPUTS_FEATURE, segments, pictures, Encode::CHOOSES_DEVICE, JobSpec::CHECKS_INPUT]
        .into_iter()
        .chain(chunks)
        .chain(filters)
        .chain(webp)
        .map(str::to_owned)
        .chain(live)
        .collect())
}

/// What this FFmpeg can do with live media: nothing without the muxers that keep one sink from ending the others.
async fn live_features(ffmpeg: &Path) -> Result<Vec<String>, EncodersError> {
    let (protocols, formats) = (list(ffmpeg, "-protocols").await?, list(ffmpeg, "-formats").await?);
    let speaks = |name: &str| protocols.lines().any(|line| line.trim() == name);
    let knows = |name: &str| {
        let names = formats.lines().filter_map(|line| line.split_whitespace().nth(1));
        names.flat_map(|names| names.split(',')).any(|known| known == name)
    };
    if !["tee", "fifo", "mpegts", "hls", "concat"].iter().all(|name| knows(name)) {
        return Ok(Vec::new());
    }
    let spoken = Protocol::ALL.into_iter().filter(|protocol| speaks(protocol.scheme()));
    let mut features: Vec<String> = spoken.map(|protocol| protocol.feature().to_owned()).collect();
    features.push(Live::FEATURE.to_owned());
    features.extend(knows("dash").then(|| Live::DASH_FEATURE.to_owned()));
    features.sort();
    features.dedup();
    Ok(features)
}

/// The known encoders in FFmpeg's list: ` V....D libx264   libx264 H.264 ...`.
fn built_in(text: &str) -> Vec<Encoder> {
    let names: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    Encoder::ALL.iter().copied().filter(|encoder| names.contains(&encoder.as_str())).collect()
}

async fn attempted(ffmpeg: &Path, quarters: &Quarters, trial: Trial) -> Verdict {
    let Trial { encoder, device } = trial;
    let arguments = plan::trial_arguments(encoder, device);
    let tried = try_run(ffmpeg, quarters, &arguments, device.is_some()).await;
    let device = device.map(|device| device.to_string());
    match tried {
        Ok(finished) if finished.is_success() => Verdict::Works,
        Ok(finished) if finished.ended_by == EndedBy::Timeout => {
            tracing::warn!(%encoder, device, timeout = ?TRIAL_TIMEOUT, "encoder hangs");
            Verdict::Undecided(format!("it encodes no frame within {TRIAL_TIMEOUT:?}"))
        }
        Ok(finished) => {
            let reason = classify::clean(finished.log.first().map_or("it failed", String::as_str));
            tracing::info!(%encoder, device, reason, "encoder does not work here");
            Verdict::Fails(reason)
        }
        Err(error) => {
            tracing::warn!(%encoder, device, %error, "encoder could not be tried");
            Verdict::Undecided(format!("it could not be tried: {error}"))
        }
    }
}

async fn ask(program: &Path, arguments: &[&str]) -> std::io::Result<String> {
    let answer = Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(ASK_TIMEOUT, answer).await.map_err(|_| std::io::ErrorKind::TimedOut)??;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rfind(|line| !line.trim().is_empty()).map(|line| format!(": {}", classify::clean(line)));
    Err(std::io::Error::other(format!("it ended with {}{}", output.status, last.unwrap_or_default())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_encoders_are_found_in_the_list() {
        let list = " ------\n V....D libx264              libx264 H.264\n V....D libx264rgb           x\n A....D aac  AAC\n \
                    V....D h264_nvenc           NVIDIA\n";
        assert_eq!(built_in(list), [Encoder::Libx264, Encoder::H264Nvenc]);
    }

    #[test]
    fn programs_are_found_by_name_and_by_path() {
        let shell = find_program(Path::new("sh")).unwrap();
        assert!(shell.is_absolute());
        assert!(find_program(&shell).is_some());
        assert_eq!(find_program(Path::new("no-such-program-here")), None);
    }
}
