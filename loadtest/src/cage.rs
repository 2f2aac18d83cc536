//! What the cage costs: starts of a tool, caged and bare in turns, and the speed of an encode, caged and bare at the same
//! time on the same processor, so that whatever else the machine and its host do meets both: processors of a guest differ by some
//! percent from each other and from second to second, and the scheduler changes between the two every few milliseconds.
//!
//! Caged runs go through the worker's own code with every layer that works here, bare ones are started by hand. Wall time and
//! processor time are told. The second is the better witness: of two encodes at the same time the longer one has the processor for
//! itself at its end, so its wall time tells about half of what it takes more.

#![expect(unsafe_code, reason = "a bare run gets a session of its own between fork and exec, as a caged one does")]

use std::ffi::OsString;
use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ffpool_worker::cage::{Cage, Layer, Needs, SandboxMode};
use ffpool_worker::encoders;
use ffpool_worker::tool::{self, Answer, Invocation, Launcher, ToolUser, Watch};
use ffpool_worker::workshop::Freeze;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tokio::sync::watch;

use crate::overhead::make_source;

/// What a start may cost.
const START_MS: f64 = 20.0;
/// What an encode may cost, as a share of it.
const ENCODE: f64 = 0.01;
/// How long one run may take.
const WITHIN: Duration = Duration::from_secs(1800);
/// Chance that the truth lies outside an interval on either side: 2.5 %, of the normal distribution.
const Z: f64 = 1.959_964;

/// What is measured.
#[derive(Debug, Clone, clap::Args)]
pub struct CageArgs {
    /// Pairs of encodes.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(2..))]
    pub pairs: u32,
    /// Pairs of starts.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..))]
    pub starts: u32,
    /// Length of the source in seconds.
    #[arg(long, default_value_t = 6)]
    pub seconds: u32,
    /// The encoder's preset.
    #[arg(long, default_value = "medium")]
    pub preset: String,
    /// The ffmpeg program; ffprobe lies beside it or on the path.
    #[arg(long, env = "FFPOOL_FFMPEG", default_value = "ffmpeg")]
    pub ffmpeg: PathBuf,
}

/// The figures.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    /// The layers that stood.
    pub layers: Vec<&'static str>,
    /// What a start takes longer, in milliseconds of wall time.
    pub start_ms: Interval,
    /// The same in milliseconds of processor time, the fork of this process itself left out.
    pub start_cpu_ms: Interval,
    /// What an encode takes longer, as a share of its processor time.
    pub encode_cpu: Interval,
    /// The same of its wall time.
    pub encode_wall: Interval,
    /// Seconds of wall time that a bare encode took, beside a caged one on one processor.
    pub bare_secs: f64,
}

impl Report {
    /// Whether nothing says that the cage costs more than it may.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.start_ms.low <= START_MS && self.encode_cpu.low <= ENCODE
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |interval: &Interval| interval.times(100.0);
        writeln!(f, "layers                   {}", self.layers.join(" "))?;
        writeln!(f, "a start longer by        {} ms", self.start_ms)?;
        writeln!(f, "of processor time        {} ms", self.start_cpu_ms)?;
        writeln!(f, "an encode, bare          {:.2} s", self.bare_secs)?;
        writeln!(f, "longer, processor time   {} %", percent(&self.encode_cpu))?;
        writeln!(f, "longer, wall time        {} %", percent(&self.encode_wall))
    }
}

/// A mean, and where the truth lies in 95 of 100 cases.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Interval {
    /// Of how many pairs.
    pub pairs: usize,
    /// The mean.
    pub mean: f64,
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Interval {
    /// Of the differences of pairs, by Student's distribution.
    #[must_use]
    pub fn of(values: &[f64]) -> Interval {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
        let reach = quantile(count - 1.0) * (variance / count).sqrt();
        Interval { pairs: values.len(), mean, low: mean - reach, high: mean + reach }
    }

    fn times(self, factor: f64) -> Interval {
        Interval { mean: self.mean * factor, low: self.low * factor, high: self.high * factor, ..self }
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2} to {:.2}, {} pairs)", self.mean, self.low, self.high, self.pairs)
    }
}

/// Student's quantile for 97.5 % by Cornish and Fisher's series: within 1 % from five degrees of freedom on.
fn quantile(freedom: f64) -> f64 {
    let (third, fifth, seventh) = (Z.powi(3), Z.powi(5), Z.powi(7));
    Z + (third + Z) / (4.0 * freedom)
        + (5.0 * fifth + 16.0 * third + 3.0 * Z) / (96.0 * freedom.powi(2))
        + (3.0 * seventh + 19.0 * fifth + 17.0 * third - 15.0 * Z) / (384.0 * freedom.powi(3))
}

/// What a run took, in seconds.
#[derive(Debug, Clone, Copy)]
struct Took {
    wall: f64,
    cpu: f64,
}

impl fmt::Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} s (processor {:.2} s)", self.wall, self.cpu)
    }
}

/// Some of the processors, and who starts caged runs there.
struct Place {
    processors: CpuSet,
    launcher: Launcher,
}

impl Place {
    /// The launcher's thread, and so all that it starts, stays on these processors.
    fn on(processors: &[usize]) -> anyhow::Result<Place> {
        let here = Pid::from_raw(0);
        let mut set = CpuSet::new();
        processors.iter().try_for_each(|processor| set.set(*processor))?;
        // Threads begin where the one that started them may run.
        let everywhere = sched_getaffinity(here)?;
        sched_setaffinity(here, &set)?;
        let launcher = Launcher::start();
        sched_setaffinity(here, &everywhere)?;
        Ok(Place { processors: set, launcher: launcher? })
    }
}

/// The numbers of the processors where this process may run.
fn processors() -> anyhow::Result<Vec<usize>> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|processor| allowed.is_set(*processor).is_ok_and(|is_set| is_set)).collect())
}

/// Where runs are made.
struct Bench {
    everywhere: Place,
    one: Place,
    cage: Cage,
    user: ToolUser,
    scratch: tempfile::TempDir,
    beside: tempfile::TempDir,
    reads: Vec<PathBuf>,
}

impl Bench {
    async fn run(&self, is_caged: bool, program: &Path, arguments: &[OsString]) -> anyhow::Result<Took> {
        let (began, before) = (Instant::now(), cpu_secs()?);
        if is_caged {
            self.caged(&self.everywhere, program, arguments).await?;
        } else {
            let bare = self.start_bare(&self.everywhere, program, arguments)?;
            tokio::task::spawn_blocking(move || end(bare)).await??;
        }
        Ok(Took { wall: began.elapsed().as_secs_f64(), cpu: cpu_secs()? - before })
    }

    fn start_bare(&self, place: &Place, program: &Path, arguments: &[OsString]) -> anyhow::Result<Child> {
        let mut command = Command::new(program);
        // Whoever is in the directory of a caged run is ended with it.
        command.args(arguments).current_dir(self.beside.path());
        let processors = place.processors;
        // The scheduler shares processors out among sessions, and a caged run has one of its own.
        // SAFETY: both are system calls, and nothing else is called between fork and exec.
        unsafe {
            command.pre_exec(move || {
                sched_setaffinity(Pid::from_raw(0), &processors)?;
                Ok(nix::unistd::setsid().map(drop)?)
            });
        }
        Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?)
    }

    async fn caged(&self, place: &Place, program: &Path, arguments: &[OsString]) -> anyhow::Result<()> {
        let invocation = Invocation {
            program,
            arguments,
            directory: self.scratch.path(),
            user: self.user,
            group: None,
            file_bytes: u64::MAX,
            open_files: 1024,
            nice: 0,
            cage: &self.cage,
            needs: Needs { reads: &self.reads, network: None, devices: false },
        };
        let (_stop, stop) = watch::channel(None);
        let (_freeze, freeze) = watch::channel(Freeze::default());
        let deadline = tokio::time::Instant::now() + WITHIN;
        let watch = Watch { stop, freeze, deadline, stall_after: None, grace: Duration::ZERO, disk: None };
        let finished = tool::run(&place.launcher, invocation, watch, &mut Answer::default()).await?;
        ensure!(finished.is_success(), "caged: {}", finished.log.join("\n"));
        Ok(())
    }

    /// Runs caged and bare in turns; who is first changes with each pair.
    async fn in_turns(&self, count: u32, program: &Path, arguments: &[OsString]) -> anyhow::Result<Vec<[Took; 2]>> {
        let mut pairs = Vec::new();
        for pair in 0..count {
            let is_caged_first = pair % 2 == 0;
            let first = self.run(is_caged_first, program, arguments).await?;
            let second = self.run(!is_caged_first, program, arguments).await?;
            pairs.push(if is_caged_first { [first, second] } else { [second, first] });
        }
        Ok(pairs)
    }

    /// Runs caged and bare at the same time on one processor.
    async fn at_once(&self, program: &Path, arguments: &[OsString]) -> anyhow::Result<[Took; 2]> {
        let (began, before) = (Instant::now(), cpu_secs()?);
        let bare = self.start_bare(&self.one, program, arguments)?;
        let pid = Pid::from_raw(i32::try_from(bare.id())?);
        // A child's time counts when its end is taken: the bare one's is left until the caged one's is known.
        let bare_ended = tokio::task::spawn_blocking(move || {
            waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).map(|_| began.elapsed())
        });
        let caged = async { self.caged(&self.one, program, arguments).await.map(|()| began.elapsed()) };
        let (caged, bare_wall) = tokio::join!(caged, bare_ended);
        let (after_caged, caged_wall) = (cpu_secs()?, caged?.as_secs_f64());
        tokio::task::spawn_blocking(move || end(bare)).await??;
        let caged = Took { wall: caged_wall, cpu: after_caged - before };
        let bare = Took { wall: bare_wall??.as_secs_f64(), cpu: cpu_secs()? - after_caged };
        eprintln!("caged {caged}, bare {bare}");
        Ok([caged, bare])
    }
}

/// Takes a bare run's end.
fn end(bare: Child) -> anyhow::Result<()> {
    let output = bare.wait_with_output()?;
    ensure!(output.status.success(), "bare: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Processor time of all children that have ended, theirs among it.
fn cpu_secs() -> anyhow::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    Ok((usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6)
}

/// Measures.
///
/// # Errors
/// When a tool is missing or does not end well, or no layer of the sandbox works here.
pub async fn run(args: &CageArgs) -> anyhow::Result<Report> {
    let find = |program: &Path| {
        let missing = || format!("{} is not there: it is in the Debian package ffmpeg", program.display());
        encoders::find_program(program).with_context(missing)
    };
    let (ffmpeg, ffprobe) = (find(&args.ffmpeg)?, find(&args.ffmpeg.with_file_name("ffprobe"))?);
    let user = ToolUser::choose(None).context("there is no user nobody as whom tools could run")?;
    let (tool, mode) = (ffprobe.clone(), SandboxMode::Best);
    let beside = tempfile::tempdir()?;
    let scratch = tempfile::tempdir()?;
    for directory in [beside.path(), scratch.path()] {
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o777))?;
    }
    let within = scratch.path().to_owned();
    let cage = tokio::task::spawn_blocking(move || Cage::open(mode, &tool, user, &[], &within)).await??;
    ensure!(!cage.layers().is_empty(), "no layer of the sandbox works here");
    let source = beside.path().join("source.mp4");
    make_source(&ffmpeg, &source, args.seconds)?;
    let layers = cage.around(false).map(Layer::as_str).collect();
    let processors = processors()?;
    // The first of them often has most of the interrupts.
    let one = Place::on(processors.last().map_or(&[], std::slice::from_ref))?;
    let bench =
        Bench { everywhere: Place::on(&processors)?, one, cage, user, scratch, beside, reads: vec![source.clone()] };
    let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
    let starts = bench.in_turns(args.starts, &ffprobe, &words(&["-version"])).await?;
    let shown = source.display().to_string();
    // Nothing is written: what the disk does is neither's.
    let encode = words(&["-nostdin", "-v", "error", "-i", &shown, "-c:v", "libx264", "-preset", &args.preset]);
    // As many threads as on the whole machine: they cost system calls, of which the sandbox looks at each.
    let threads = processors.len().to_string();
    let encode = [encode, words(&["-crf", "23", "-threads", &threads, "-c:a", "aac", "-f", "null", "-"])].concat();
    // The first of each warms the caches.
    bench.at_once(&ffmpeg, &encode).await?;
    let mut encodes = Vec::new();
    for _ in 0..args.pairs {
        encodes.push(bench.at_once(&ffmpeg, &encode).await?);
    }
    let of = |each: &dyn Fn(&[Took; 2]) -> f64, pairs: &[[Took; 2]]| {
        Interval::of(&pairs.iter().map(each).collect::<Vec<_>>())
    };
    Ok(Report {
        layers,
        start_ms: of(&|[caged, bare]| (caged.wall - bare.wall) * 1e3, &starts),
        start_cpu_ms: of(&|[caged, bare]| (caged.cpu - bare.cpu) * 1e3, &starts),
        encode_cpu: of(&|[caged, bare]| caged.cpu / bare.cpu - 1.0, &encodes),
        encode_wall: of(&|[caged, bare]| caged.wall / bare.wall - 1.0, &encodes),
        bare_secs: encodes.iter().map(|[_, bare]| bare.wall).sum::<f64>() / encodes.len() as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_lies_within_what_is_known_of_it() {
        // Student's table: 2.201 for 11 degrees of freedom, 2.571 for 5.
        assert!((quantile(11.0) - 2.201).abs() < 0.005 && (quantile(5.0) - 2.571).abs() < 0.03);
        let interval = Interval::of(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert!((interval.mean - 3.5).abs() < 1e-9);
        assert!((interval.high - interval.mean - 1.963).abs() < 0.03, "{interval:?}");
        assert_eq!(Interval::of(&[2.0; 9]), Interval { pairs: 9, mean: 2.0, low: 2.0, high: 2.0 });
    }

    #[test]
    fn what_may_be_chance_is_no_fault() {
        let at = |low: f64, high: f64| Interval { pairs: 12, mean: f64::midpoint(low, high), low, high };
        let report = |start_ms, encode_cpu| Report {
            layers: Vec::new(),
            start_ms,
            start_cpu_ms: start_ms,
            encode_cpu,
            encode_wall: at(0.5, 0.6),
            bare_secs: 6.0,
        };
        assert!(report(at(1.0, 40.0), at(-0.01, 0.03)).is_clean());
        assert!(!report(at(21.0, 40.0), at(-0.01, 0.03)).is_clean());
        assert!(!report(at(1.0, 2.0), at(0.011, 0.03)).is_clean());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_same_is_run_caged_and_bare() {
        let args =
            CageArgs { pairs: 2, starts: 2, seconds: 1, preset: "ultrafast".into(), ffmpeg: PathBuf::from("ffmpeg") };
        let report = run(&args).await.unwrap();
        assert!(report.layers.starts_with(&["landlock", "seccomp"]), "{report}");
        assert_eq!((report.start_ms.pairs, report.encode_cpu.pairs), (2, 2));
        assert!(report.bare_secs > 0.0 && report.encode_cpu.mean > -1.0, "{report:?}");
    }
}
