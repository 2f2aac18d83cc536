//! The acceptance matrix: every kind of job of the original system, made for real or refused for a reason.
//!
//! Each job is read, resolved, planned and carried out as a worker does it, without a pool around it. What it asks for is
//! written down beside it in numbers of its own, and the output's probe is held against those, not against the plan.
//! Jobs that come to the same encode are carried out once.
//!
//! Invariant: a job is as asked, or was refused before anything ran; everything else is wrong, and the command says so.

mod cases;
mod table;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use ffpool_schema::encode::Encode;
use ffpool_schema::job::{Engine, JobSpec};
use ffpool_schema::message::{Probe, Proof};
use ffpool_schema::parse::{Fault, Received, parse};
use ffpool_schema::scenario;

use crate::tool::said;
use crate::workbench::Workbench;

pub use cases::{Case, Wish};
pub use table::Report;

/// Shorter outputs do not settle to their average bit rate.
const BITRATE_MIN_SECS: f64 = 5.0;

/// How the matrix is run.
#[derive(Debug, Clone, clap::Args)]
pub struct MatrixArgs {
    /// Length of every output in seconds. Bit rates are judged from 5 seconds on.
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// Only jobs whose group or name holds this text.
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Leave out jobs that make more megapixels than this.
    #[arg(long, value_name = "N", default_value_t = f64::INFINITY)]
    pub most_megapixels: f64,
    /// Write the table, as Markdown, into this file too.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// The ffmpeg program.
    #[arg(long, env = "FFPOOL_FFMPEG", default_value = "ffmpeg")]
    pub ffmpeg: PathBuf,
}

impl Default for MatrixArgs {
    fn default() -> MatrixArgs {
        MatrixArgs { seconds: 1.0, only: None, most_megapixels: f64::INFINITY, markdown: None, ffmpeg: "ffmpeg".into() }
    }
}

/// What became of a job.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// It made what it asks for.
    Made {
        /// What the prober found.
        found: String,
        /// How long it took; absent where another job made the same.
        secs: Option<f64>,
    },
    /// It was refused before anything ran.
    Refused {
        /// Why.
        faults: Vec<Fault>,
    },
    /// It was left out, as too large.
    LeftOut,
    /// It made something else, or nothing.
    Wrong {
        /// What.
        why: String,
    },
}

/// Carries out the matrix.
///
/// # Errors
/// When no workshop opens here, or the table cannot be written.
pub async fn run(args: &MatrixArgs) -> anyhow::Result<Report> {
    let place = Place::open(args).await?;
    let mut made = HashMap::new();
    let mut rows = Vec::new();
    for case in cases::all(args.seconds, &place.clip()) {
        let is_wanted = |text: &str| case.group.contains(text) || case.name.contains(text);
        if !args.only.as_deref().is_none_or(is_wanted) {
            continue;
        }
        let verdict = place.judge(&case, args, &mut made).await;
        eprintln!("{} / {}: {}", case.group, case.name, table::short(&verdict));
        rows.push((case, verdict));
    }
    let report = Report { seconds: args.seconds, tool: place.workbench.tool.clone(), rows };
    if let Some(path) = &args.markdown {
        std::fs::write(path, report.markdown()).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(report)
}

/// What an encode came to: each output's probe and proof, or why there is none.
type Came = Result<Vec<(Probe, Proof)>, String>;

struct Place {
    workbench: Workbench,
}

impl Place {
    async fn open(args: &MatrixArgs) -> anyhow::Result<Place> {
        let place = Place { workbench: Workbench::open("matrix", &args.ffmpeg).await? };
        make_clip(&args.ffmpeg, &place.clip(), args.seconds)?;
        Ok(place)
    }

    /// The source of jobs that read a file.
    fn clip(&self) -> PathBuf {
        self.workbench.media().join("video.mp4")
    }

    async fn judge(&self, case: &Case, args: &MatrixArgs, made: &mut HashMap<String, Came>) -> Verdict {
        let body = case.body.to_string();
        let read = parse(&Received { body: body.as_bytes(), ..Received::default() })
            .and_then(|spec| Ok((scenario::resolve(&spec)?, spec)));
        let (encode, spec) = match read {
            Err(faults) => return Verdict::Refused { faults },
            Ok((None, _)) => return Verdict::Wrong { why: "it runs nothing".to_owned() },
            Ok((Some(encode), spec)) => (encode, spec),
        };
        if let Err(faults) = scenario::fits(&self.workbench.unlimited(&spec), Some(&encode), &self.workbench.ability())
        {
            return Verdict::Refused { faults };
        }
        if case.megapixels(args.seconds) > args.most_megapixels {
            return Verdict::LeftOut;
        }
        let key = match spec.engine {
            Engine::Gstreamer => format!("gstreamer {}", serde_json::to_string(&encode).unwrap_or_default()),
            Engine::Auto | Engine::Ffmpeg | Engine::Noop => serde_json::to_string(&encode).unwrap_or_default(),
        };
        if let Some(came) = made.get(&key) {
            return verdict(&case.wishes, came, None);
        }
        let began = Instant::now();
        let came = self.carry_out(&spec, encode).await;
        let verdict = verdict(&case.wishes, &came, Some(began.elapsed().as_secs_f64()));
        made.insert(key, came);
        verdict
    }

    async fn carry_out(&self, spec: &JobSpec, encode: Encode) -> Came {
        let manifest = self.workbench.carry_out(spec, encode).await?;
        let mut came = Vec::new();
        for artifact in manifest.artifacts {
            if let Some(path) = scenario::path_of(&artifact.url) {
                let _ = std::fs::remove_file(path);
            }
            came.push((artifact.probe, artifact.proof.unwrap_or_default()));
        }
        Ok(came)
    }
}

fn make_clip(ffmpeg: &Path, path: &Path, secs: f64) -> anyhow::Result<()> {
    let picture = format!("testsrc2=size=640x360:rate=25:duration={secs}");
    let (sound, shown) = (format!("sine=duration={secs}"), path.display().to_string());
    let inputs = ["-nostdin", "-v", "error", "-f", "lavfi", "-i", &picture, "-f", "lavfi", "-i", &sound];
    said(ffmpeg, &[&inputs[..], &["-pix_fmt", "yuv420p", "-y", &shown]].concat(), Path::new(".")).map(drop)
}

/// Holds probes against what the job asks for.
fn verdict(wishes: &[Wish], came: &Came, secs: Option<f64>) -> Verdict {
    let outputs = match came {
        Ok(outputs) if outputs.len() == wishes.len() => outputs,
        Ok(outputs) => return Verdict::Wrong { why: format!("{} outputs instead of {}", outputs.len(), wishes.len()) },
        Err(why) => return Verdict::Wrong { why: why.clone() },
    };
    let held: Result<Vec<String>, String> =
        wishes.iter().zip(outputs).map(|(wish, (probe, proof))| held(wish, probe, proof)).collect();
    match held {
        Ok(found) => Verdict::Made { found: found.join("; "), secs },
        Err(why) => Verdict::Wrong { why },
    }
}

/// What an output is, or what is wrong with it.
fn held(wish: &Wish, probe: &Probe, proof: &Proof) -> Result<String, String> {
    let video = probe.video.as_ref().ok_or("it has no video")?;
    let length = probe.duration_secs.unwrap_or(0.0);
    let stream = proof.streams.iter().find(|stream| stream.kind == "video");
    let rate = stream.filter(|_| length > 0.0).map_or(0.0, |stream| stream.bytes as f64 * 8.0 / length);
    let fps = video.fps.unwrap_or(0.0);
    let pixels = video.pixel_format.clone().unwrap_or_default();
    let found = format!(
        "{} {}x{} {fps:.2} {pixels} {:.0}k {} frames",
        video.codec,
        video.width,
        video.height,
        rate / 1000.0,
        video.frames.unwrap_or(0)
    );
    let wrong = [
        (video.codec != wish.codec, "codec"),
        ((video.width, video.height) != (wish.width, wish.height), "size"),
        ((fps - wish.fps).abs() > wish.fps * 0.01, "frame rate"),
        (pixels != wish.pixel_format, "pixel format"),
        // Under it is no fault: a simple picture needs no more.
        (length >= BITRATE_MIN_SECS && wish.bitrate.is_some_and(|most| rate > most as f64 * 1.1), "bit rate"),
    ];
    let wrong: Vec<&str> = wrong.into_iter().filter(|(is_wrong, _)| *is_wrong).map(|(_, what)| what).collect();
    if wrong.is_empty() { Ok(found) } else { Err(format!("{} of {found}", wrong.join(", "))) }
}
