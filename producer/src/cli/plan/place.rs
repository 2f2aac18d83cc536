//! Where a job is planned to run: on this machine, or on a worker of the pool by what it says of itself.
//!
//! Invariant: a worker that could not run the job is refused with everything that it lacks, as the dispatcher would pass it over.

use std::process::Stdio;
use std::time::Duration;

use ffpool_schema::api::WorkerView;
use ffpool_schema::encode::Treatment;
use ffpool_schema::encode::{Encode, Encoder, Metric, PictureFormat};
use ffpool_schema::gstreamer::twin;
use ffpool_schema::job::{Engine, JobSpec};
use ffpool_schema::message::{EngineChoice, WorkerState};
use ffpool_schema::plan;
use ffpool_schema::scenario;
use tokio::process::Command;

use super::{args, gstreamer};
use crate::cli::exit::{Exit, Trouble};
use crate::cli::{Context, fleet};

/// Looking at one file, or at a list of encoders.
pub(super) const TOOL: Duration = Duration::from_secs(60);

/// Where a job is planned to run.
pub(super) struct Place {
    /// As it is called in what is said of it.
    name: String,
    worker: Option<WorkerView>,
    pub(super) engine: EngineChoice,
    encoders: Vec<Encoder>,
    /// By the names in [`Ability::features`](ffpool_schema::message::Ability::features).
    pub(super) features: Vec<String>,
    /// In percent of one core.
    cpu_percent: u32,
}

impl Place {
    /// This machine, or the worker that is asked for.
    pub(super) async fn find(
        context: &Context,
        args: &args::Plan,
        (spec, encode): (&JobSpec, &Encode),
        (notes, warnings): (&mut Vec<String>, &mut Vec<String>),
    ) -> Result<Place, Trouble> {
        let place = match &args.worker {
            Some(id) => Place::worker(fleet::find(context, id).await?, spec, encode, notes, warnings)?,
            None => Place::here(args, spec, encode, notes).await,
        };
        notes.push(format!("{} encodes: {}", place.engine.engine.as_str(), place.engine.reason));
        if place.is_gstreamer() && place.worker.is_none() {
            notes.push(gstreamer::needs(encode));
        }
        Ok(place)
    }

    fn worker(
        view: WorkerView,
        spec: &JobSpec,
        encode: &Encode,
        notes: &mut Vec<String>,
        warnings: &mut Vec<String>,
    ) -> Result<Place, Trouble> {
        let id = &view.id;
        match view.state {
            WorkerState::Starting => {
                return Err(Trouble::new(
                    Exit::NotPossible,
                    format!("the worker {id} is starting: what it can run is not known yet"),
                )
                .next("Ask again in a moment."));
            }
            WorkerState::Ready => {}
            state @ (WorkerState::Draining | WorkerState::Stopped | WorkerState::Lost) => warnings.push(format!(
                "the worker {id} is {}: the plan is by what it said last, and it takes no job",
                state.as_str()
            )),
        }
        if !view.pools.iter().any(|pool| pool == spec.pool.as_str()) {
            let (pools, pool) = (view.pools.join(", "), &spec.pool);
            warnings.push(format!(
                "the worker {id} serves {pools}, and the job waits for the pool {pool}: it is never given it"
            ));
        }
        // What rests after failures is tried again.
        let ability = view.ability.rested();
        let lacking = |faults: Vec<ffpool_schema::parse::Fault>| {
            let lines: String = faults.iter().map(|fault| format!("\n  {fault}")).collect();
            Trouble::new(Exit::JobRejected, format!("the worker {id} cannot run the job:{lines}"))
                .next("Name another worker (`ffpool workers list`), or change the job.")
        };
        scenario::fits(spec, Some(encode), &ability).map_err(lacking)?;
        let engine = scenario::choose_engine(spec, encode, &ability).map_err(lacking)?;
        notes.push(format!(
            "planned for the worker {id} on {}, version {}, by its own list of encoders and features",
            view.host, view.version
        ));
        let has = |encoder: &Encoder| ability.encoders.iter().any(|name| name == encoder.as_str());
        Ok(Place {
            name: format!("the worker {id}"),
            engine,
            encoders: Encoder::ALL.iter().copied().filter(has).collect(),
            cpu_percent: ability.cpu_percent,
            features: ability.features,
            worker: Some(view),
        })
    }

    /// What FFmpeg here has; without one, what an ordinary worker has.
    async fn here(args: &args::Plan, spec: &JobSpec, encode: &Encode, notes: &mut Vec<String>) -> Place {
        let lists = async |what: &str| {
            let mut command = Command::new(&args.ffmpeg);
            command.args(["-hide_banner", what]);
            let text = ask(command, &args.ffmpeg).await?;
            Ok::<Vec<String>, String>(
                text.lines().filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned).collect(),
            )
        };
        let (encoders, mut features): (Vec<Encoder>, Vec<String>) =
            match (lists("-encoders").await, lists("-filters").await) {
                (Ok(encoders), Ok(filters)) => {
                    notes.push(format!(
                        "encoders and filters as {} lists them; a worker tries each encoder first",
                        args.ffmpeg
                    ));
                    let has = |encoder: &Encoder| encoders.iter().any(|name| name == encoder.as_str());
                    let webp = PictureFormat::Webp.encoder();
                    let webp = encoders.iter().any(|name| name == webp).then(|| webp.to_owned());
                    (Encoder::ALL.iter().copied().filter(has).collect(), filters.into_iter().chain(webp).collect())
                }
                (Err(error), _) | (_, Err(error)) => {
                    notes.push(format!("{error}: a worker with every software encoder and filter is assumed"));
                    let is_software = |encoder: &Encoder| !encoder.is_hardware();
                    let filters = ["bwdif", "libwebp", "loudnorm", "psnr", "ssim", "subtitles", "tonemap", "zscale"];
                    (Encoder::ALL.iter().copied().filter(is_software).collect(), filters.map(str::to_owned).into())
                }
            };
        let own = [Encode::FEATURE, Encode::OUTPUTS_FEATURE, Encode::SEGMENTS_FEATURE, Encode::PICTURES_FEATURE];
        features.extend(own.map(str::to_owned));
        let mut lacking: Vec<&str> = std::iter::once(encode).chain(&encode.others).flat_map(Encode::needs).collect();
        lacking.retain(|need| !features.iter().any(|has| has == need));
        for need in lacking {
            notes.push(format!("a worker must have the feature `{need}`, which FFmpeg here lacks"));
            // What measures changes nothing about how the output is made.
            if Metric::ALL.iter().any(|metric| metric.filter() == need) {
                features.push(need.to_owned());
            }
        }
        let engine = match spec.engine {
            Engine::Gstreamer => Engine::Gstreamer,
            Engine::Auto | Engine::Ffmpeg | Engine::Noop => Engine::Ffmpeg,
        };
        let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
        Place {
            name: args.ffmpeg.clone(),
            worker: None,
            engine: EngineChoice { engine, reason: scenario::why_engine(spec.engine).to_owned() },
            encoders,
            features,
            cpu_percent: cores.saturating_mul(100),
        }
    }

    /// The worker's id, where it is planned for one.
    pub(super) fn worker_id(&self) -> Option<String> {
        self.worker.as_ref().map(|worker| worker.id.to_string())
    }

    pub(super) fn is_gstreamer(&self) -> bool {
        self.engine.engine == Engine::Gstreamer
    }

    /// Processor time that the job gets at most, in percent of one core.
    pub(super) fn cpu_percent(&self, spec: &JobSpec) -> u32 {
        spec.resource_limits.max_cpu_percent.unwrap_or(self.cpu_percent).min(self.cpu_percent)
    }

    /// Threads that the job would be given.
    pub(super) fn threads(&self, spec: &JobSpec) -> u32 {
        self.cpu_percent(spec).div_ceil(100).clamp(1, 64)
    }

    /// Memory that the job gets at most, in MiB.
    pub(super) fn memory_mb(&self, spec: &JobSpec) -> u64 {
        let wish = spec.resource_limits.memory_mb();
        self.worker.as_ref().map_or(wish, |worker| wish.min(worker.ability.memory_mb))
    }

    /// Scratch that the job gets at most, in MiB.
    pub(super) fn disk_mb(&self, spec: &JobSpec) -> u64 {
        let wish = spec.resource_limits.disk_mb();
        self.worker.as_ref().map_or(wish, |worker| wish.min(worker.ability.disk_mb))
    }

    /// The encoder that would be taken.
    pub(super) fn chosen(&self, encode: &Encode) -> Result<Option<Encoder>, Trouble> {
        if self.is_gstreamer() {
            return Ok(twin(encode.video.codec));
        }
        let video = &encode.video;
        let encoder = plan::choose_encoder(video, |encoder| self.encoders.contains(&encoder));
        if video.treatment != Treatment::Encode || encoder.is_some() {
            return Ok(encoder);
        }
        let wish = video.encoder.map_or(video.codec.as_str(), |encoder| encoder.as_str());
        Err(Trouble::new(Exit::JobRejected, format!("{} has no encoder for {wish}", self.name))
            .next("A worker with such an encoder may have one: `ffpool workers show NAME` lists what it has."))
    }
}

pub(super) async fn ask(mut command: Command, program: &str) -> Result<String, String> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(TOOL, command.output()).await {
        Ok(Ok(output)) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("`{program}` says {}", said.lines().last().unwrap_or("nothing")))
        }
        Ok(Err(error)) => Err(format!("`{program}` cannot be started: {error}")),
        Err(_) => Err(format!("`{program}` did not end within {} s", TOOL.as_secs())),
    }
}
