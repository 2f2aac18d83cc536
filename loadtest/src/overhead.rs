//! What the pool costs over the bare tool: the same encode by hand, by hand with the proof, and as a job, in turns.
//!
//! By hand runs the very argument list that stands in the job's manifest. The proof by hand is what the worker does to an
//! output: read every packet, decode it to its end with errors fatal, hash it.

use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ffpool_schema::job::JobSpec;
use ffpool_schema::lifecycle::State;
use ffpool_schema::message::Manifest;
use ffpool_stack::Stack;
use sha2::{Digest as _, Sha256};

use crate::pool::{Pool, PoolSettings};
use crate::tool::said;

/// How long one encode may take.
const WITHIN: Duration = Duration::from_secs(1800);
/// The ledger is asked seldom: questions take processor time from the encode that is measured. It tells when the job ended.
const ASK: Duration = Duration::from_secs(2);
/// Grain that keeps the encoder as busy as a camera's picture does.
const PICTURE: &str = "testsrc2=size=1280x720:rate=30,noise=alls=8:allf=t,format=yuv420p";

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
pub struct OverheadArgs {
    /// Lengths of the sources in seconds.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 60])]
    pub seconds: Vec<u32>,
    /// Turns for each length.
    #[arg(long, default_value_t = 5)]
    pub turns: usize,
    /// What is made of the source, at CRF 23.
    #[arg(long, default_value = "720p30-h264")]
    pub scenario: String,
    /// The encoder's preset.
    #[arg(long, default_value = "medium")]
    pub preset: String,
    /// The ffmpeg program; ffprobe lies beside it or on the path.
    #[arg(long, env = "FFPOOL_FFMPEG", default_value = "ffmpeg")]
    pub ffmpeg: PathBuf,
}

/// The figures of all lengths.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    /// One entry for each length.
    pub rows: Vec<Row>,
}

/// The figures of one length, each the median of all turns, in seconds.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Row {
    /// Length of the source.
    pub clip_secs: u32,
    /// The tool by hand.
    pub by_hand_secs: f64,
    /// The tool and the proof by hand.
    pub proven_by_hand_secs: f64,
    /// From publish to completed in the ledger.
    pub pool_secs: f64,
}

impl Row {
    /// What the pool costs over the bare tool, as a share of it.
    #[must_use]
    pub fn overhead(&self) -> f64 {
        self.pool_secs / self.by_hand_secs - 1.0
    }

    /// What the pool costs over the tool and the proof by hand.
    #[must_use]
    pub fn overhead_when_proven(&self) -> f64 {
        self.pool_secs / self.proven_by_hand_secs - 1.0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:>8} {:>10} {:>12} {:>10} {:>10} {:>14}",
            "clip", "by hand", "and proven", "pool", "over", "over proven"
        )?;
        for row in &self.rows {
            writeln!(
                f,
                "{:>6} s {:>8.2} s {:>10.2} s {:>8.2} s {:>8.1} % {:>12.1} %",
                row.clip_secs,
                row.by_hand_secs,
                row.proven_by_hand_secs,
                row.pool_secs,
                row.overhead() * 100.0,
                row.overhead_when_proven() * 100.0
            )?;
        }
        Ok(())
    }
}

/// Measures on a private pool of one worker.
///
/// # Errors
/// When the servers or the tools do not run, or a job does not complete.
pub async fn run(args: &OverheadArgs) -> anyhow::Result<Report> {
    let stack = tokio::task::spawn_blocking(Stack::start).await?.context("start the servers")?;
    // The pool wants its servers for the life of the process, and this process ends with the measurement.
    let stack: &'static Stack = Box::leak(Box::new(stack));
    let ffmpeg = args.ffmpeg.display().to_string();
    let pool = Pool::start(stack, PoolSettings::one_worker(&[("FFPOOL_FFMPEG", &ffmpeg)])).await?;
    let mut rows = Vec::new();
    for secs in &args.seconds {
        rows.push(length(&pool, args, *secs).await?);
    }
    Ok(Report { rows })
}

async fn length(pool: &Pool, args: &OverheadArgs, secs: u32) -> anyhow::Result<Row> {
    let source = pool.media.join(format!("source-{secs}.mp4"));
    make_source(&args.ffmpeg, &source, secs)?;
    let by_hand = tempfile::tempdir()?;
    let mut times: [Vec<f64>; 3] = Default::default();
    // The first job warms the caches and names the arguments.
    let (_, manifest) = through_pool(pool, args, &source, 0).await?;
    for turn in 1..=args.turns {
        let (pooled, manifest) = through_pool(pool, args, &source, turn).await?;
        let (bare, proven) = {
            let (ffmpeg, directory) = (args.ffmpeg.clone(), by_hand.path().to_owned());
            tokio::task::spawn_blocking(move || run_by_hand(&ffmpeg, &manifest, &directory)).await??
        };
        for (list, secs) in times.iter_mut().zip([bare, proven, pooled]) {
            list.push(secs);
        }
        eprintln!("{secs} s, turn {turn}: by hand {bare:.2} s, proven {proven:.2} s, pool {pooled:.2} s");
    }
    eprintln!("arguments: {}", manifest.arguments.join(" "));
    let [by_hand_secs, proven_by_hand_secs, pool_secs] = times.map(median);
    Ok(Row { clip_secs: secs, by_hand_secs, proven_by_hand_secs, pool_secs })
}

/// One job, from publish to completed by the ledger's clock; all run on one machine, so there is one clock.
async fn through_pool(pool: &Pool, args: &OverheadArgs, source: &Path, turn: usize) -> anyhow::Result<(f64, Manifest)> {
    let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let spec: JobSpec = serde_json::from_value(serde_json::json!({
        "scenario": args.scenario,
        "input": format!("file://{}", source.display()),
        "output": format!("file://{}/{name}-{turn}.mp4", pool.media.display()),
        "parameters": {"preset": args.preset, "crf": 23},
    }))?;
    let begin = jiff::Timestamp::now();
    let job = pool.client.submit(&spec).await?.id;
    let detail = pool.until_every(ASK, job, WITHIN, |view| view.state.is_end()).await?;
    ensure!(detail.job.state == State::Completed, "the job has not completed: {:?}", detail.job.failure);
    let ended = detail.job.ended_at.context("a job that has ended has an end")?;
    let manifest = detail.manifest.context("a completed encode has a manifest")?;
    Ok((ended.duration_since(begin).as_secs_f64(), manifest))
}

/// The tool with the manifest's arguments, then the proof: seconds of the first, and of both.
fn run_by_hand(ffmpeg: &Path, manifest: &Manifest, directory: &Path) -> anyhow::Result<(f64, f64)> {
    let begin = Instant::now();
    said(ffmpeg, &manifest.arguments, directory)?;
    let bare = begin.elapsed().as_secs_f64();
    let output = directory.join("encode.mp4");
    let shown = output.display().to_string();
    let ffprobe = ffmpeg.with_file_name("ffprobe");
    let packets = ["-v", "error", "-show_entries", "packet=stream_index,pts_time,dts_time,duration_time,size"];
    said(&ffprobe, &[&packets[..], &["-of", "compact=p=0", &shown]].concat(), directory)?;
    said(ffmpeg, &["-v", "error", "-xerror", "-i", &shown, "-f", "null", "-"], directory)?;
    let hash = Sha256::digest(std::fs::read(&output)?);
    let proven = begin.elapsed().as_secs_f64();
    let wanted = &manifest.artifacts.first().context("the manifest names no file")?.sha256;
    let is_same = hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>() == *wanted;
    if !is_same {
        eprintln!("the file made by hand differs from the pool's: the encoder is not deterministic here");
    }
    std::fs::remove_file(&output)?;
    Ok((bare, proven))
}

/// A film with grain and a tone.
pub(crate) fn make_source(ffmpeg: &Path, path: &Path, secs: u32) -> anyhow::Result<()> {
    let (picture, sound) = (format!("{PICTURE},trim=duration={secs}"), format!("sine=duration={secs}"));
    let shown = path.display().to_string();
    let inputs = ["-y", "-f", "lavfi", "-i", &picture, "-f", "lavfi", "-i", &sound];
    let output = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "20", "-c:a", "aac", &shown];
    said(ffmpeg, &[&inputs[..], &output[..]].concat(), Path::new("."))?;
    // The tools' user reads it.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))?;
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        even if even % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}
