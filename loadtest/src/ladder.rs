//! What it saves to make a ladder's outputs in one job: the ladder of B10 from a file, together and one by one.
//!
//! Every job is carried out as a worker does it: probe, encode, packets, full decode, hash, publication. So both ways do the
//! whole proof of every output, and only reading and running are shared.

use std::fmt;
use std::path::PathBuf;

use std::time::Instant;

use anyhow::{Context as _, bail};
use ffpool_schema::job::JobSpec;
use ffpool_schema::parse::{Received, parse};
use ffpool_schema::scenario;
use serde_json::{Value, json};

use crate::tool::said;
use crate::workbench::Workbench;

/// The rungs, with their rates in kbit/s.
const RUNGS: [(&str, u32); 3] = [("1080p30-h264", 5000), ("720p30-h264", 2500), ("480p30-h264", 1000)];

/// How the ladder is measured.
#[derive(Debug, Clone, clap::Args)]
pub struct LadderArgs {
    /// Length of the source in seconds.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Runs of each way, in turn. The least of each counts.
    #[arg(long, default_value_t = 3)]
    pub runs: u32,
    /// The preset of every output.
    #[arg(long, default_value = "medium")]
    pub preset: String,
    /// The ffmpeg program.
    #[arg(long, env = "FFPOOL_FFMPEG", default_value = "ffmpeg")]
    pub ffmpeg: PathBuf,
}

/// What was measured.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Figures {
    /// The tool's first version line.
    pub tool: String,
    /// Seconds of every run of the ladder in one job.
    pub together_secs: Vec<f64>,
    /// Seconds of every run of its outputs in a job each, one after the other.
    pub apart_secs: Vec<f64>,
    /// How much less the best of the first takes than the best of the second, as a share of it.
    pub saved: f64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |secs: &[f64]| secs.iter().map(|secs| format!("{secs:.1}")).collect::<Vec<_>>().join(", ");
        writeln!(f, "{}", self.tool)?;
        writeln!(f, "one job of three outputs   {} s", list(&self.together_secs))?;
        writeln!(f, "three jobs of one output   {} s", list(&self.apart_secs))?;
        writeln!(f, "saved                      {:.0} %", self.saved * 100.0)
    }
}

/// Measures both ways in turn.
///
/// # Errors
/// When no workshop opens here, or a job does not complete.
pub async fn run(args: &LadderArgs) -> anyhow::Result<Figures> {
    let bench = Workbench::open("ladder", &args.ffmpeg).await?;
    let clip = bench.media().join("source.mp4");
    make_source(args, &clip)?;
    let url = |name: &str| bench.media().join(format!("{name}.mp4"));
    let parameters = |rate: u32| json!({"bitrate": format!("{rate}k"), "preset": args.preset});
    let job = |(name, rate): (&str, u32)| json!({"scenario": name, "input": clip, "output": url(name), "parameters": parameters(rate)});
    let mut together = job(RUNGS[0]);
    let others = RUNGS[1..]
        .iter()
        .map(|(name, rate)| json!({"url": url(name), "scenario": name, "parameters": parameters(*rate)}));
    together["outputs"] = others.collect();
    let (mut together_secs, mut apart_secs) = (Vec::new(), Vec::new());
    for _ in 0..args.runs.max(1) {
        together_secs.push(carry_out(&bench, std::slice::from_ref(&together)).await?);
        apart_secs.push(carry_out(&bench, &RUNGS.map(job)).await?);
    }
    let least = |secs: &[f64]| secs.iter().copied().fold(f64::INFINITY, f64::min);
    let saved = 1.0 - least(&together_secs) / least(&apart_secs);
    Ok(Figures { tool: bench.tool.clone(), together_secs, apart_secs, saved })
}

/// Carries jobs out one after the other, and says how many seconds they took.
async fn carry_out(bench: &Workbench, jobs: &[Value]) -> anyhow::Result<f64> {
    let began = Instant::now();
    for job in jobs {
        let body = job.to_string();
        let faulty = |faults| anyhow::anyhow!("{faults:?}");
        let spec: JobSpec = parse(&Received { body: body.as_bytes(), ..Received::default() }).map_err(faulty)?;
        let encode = scenario::resolve(&spec).map_err(faulty)?.context("it runs something")?;
        if let Err(why) = bench.carry_out(&spec, encode).await {
            bail!("{body}: {why}");
        }
    }
    Ok(began.elapsed().as_secs_f64())
}

/// A moving picture with detail, as a camera's file would be: 1080p30 in H.264 with sound.
fn make_source(args: &LadderArgs, path: &std::path::Path) -> anyhow::Result<()> {
    let secs = args.seconds;
    let picture = format!("testsrc2=size=1920x1080:rate=30:duration={secs},noise=alls=8:allf=t");
    let (sound, shown) = (format!("sine=duration={secs}"), path.display().to_string());
    let inputs = ["-nostdin", "-v", "error", "-f", "lavfi", "-i", &picture, "-f", "lavfi", "-i", &sound];
    let output = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-pix_fmt", "yuv420p", "-y", &shown];
    said(&args.ffmpeg, &[&inputs[..], &output].concat(), std::path::Path::new(".")).map(drop)
}
